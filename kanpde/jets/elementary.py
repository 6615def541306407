"""Elementary functions with their derivatives of any order in closed form: of activations, and of edges of a KAN."""

from collections.abc import Sequence
from math import pi, sqrt

import torch
from torch import Tensor

Out = Sequence[Tensor] | None  # where results are written, one tensor each; a function may leave that to its caller


def _sigmoid_polynomials(n: int) -> tuple[float, ...]:
    """Coefficients of P_n, highest first, with sigmoid^(n) = P_n(sigmoid): P_0 = s, P_n+1 = s (1 - s) P_n'."""
    p = [0, 1]
    for _ in range(n):
        slope = [i * c for i, c in enumerate(p)]  # coefficients of s P_n'
        p = [a - b for a, b in zip([*slope, 0], [0, *slope], strict=True)]
    return tuple(p[::-1])


def sigmoid_derivatives(last: int, s: Tensor) -> list[Tensor]:
    """[s, s', ..., s^(last)] of s = sigmoid(x)."""
    found = [s]
    if last > 0:
        found.append(torch.addcmul(s, s, s, value=-1))
    if last > 1:
        found.append(torch.addcmul(found[1], found[1], s, value=-2))
    return found + [s * _horner(_sigmoid_polynomials(n)[:-1], s) for n in range(3, last + 1)]


def silu_derivatives(first: int, last: int, x: Tensor, out: Out = None) -> list[Tensor]:
    """[silu^(first), ..., silu^(last)] with silu^(n) = x sigmoid^(n) + n sigmoid^(n-1)."""
    out = out or [None] * (last + 1 - first)
    s = sigmoid_derivatives(last, torch.sigmoid(x))
    one = lambda n, out: torch.mul(x, s[0], out=out) if n == 0 else torch.add(x * s[n], s[n - 1], alpha=n, out=out)
    return [one(n, out[n - first]) for n in range(first, last + 1)]


def _horner(coefficients: tuple[float, ...], x: Tensor) -> Tensor | float:
    total: Tensor | float = coefficients[0]
    for c in coefficients[1:]:
        total = total * x + c
    return total


def gaussian_derivatives(first: int, last: int, x: Tensor, factor: float = 1.0) -> list[Tensor]:
    """[f^(first), ..., f^(last)] of factor exp(-x^2 / 2): (-1)^n He_n f, He_n+1 = x He_n - n He_n-1."""
    square = x * x
    f = (-0.5 * square).exp_()
    hermite = [x, x, square - 1]  # He_0 is not used
    for n in range(2, last):
        hermite.append(torch.sub(x * hermite[n], hermite[n - 1], alpha=n))
    signed = [(hermite[n] * f).mul_(factor * (-1) ** n) for n in range(max(first, 1), last + 1)]
    return [f * factor, *signed] if first == 0 else signed


def gelu_derivatives(first: int, last: int, x: Tensor, out: Out = None) -> list[Tensor]:
    """[gelu^(first), ..., gelu^(last)] of x Phi(x): x Phi^(n) + n Phi^(n-1), with Phi' the normal density."""
    density = gaussian_derivatives(0, last, x)
    cumulative = [0.5 * (1 + torch.erf(x / sqrt(2))), *(d / sqrt(2 * pi) for d in density)]
    return [x * cumulative[n] + (n * cumulative[n - 1] if n else 0) for n in range(first, last + 1)]


def identity_derivatives(first: int, last: int, x: Tensor, out: Out = None) -> list[Tensor]:
    return [x, torch.ones_like(x), *[torch.zeros_like(x)] * last][first : last + 1]


def tanh_derivatives(last: int, z: Tensor) -> list[Tensor]:
    """[tanh, tanh', ..., tanh^(last)] at z: tanh^(n) = T_n(tanh), T_0 = t, T_n+1 = (1 - t^2) T_n'."""
    t = torch.tanh(z)
    out, coefficients = [t], [0, 1]  # of T_n, lowest first
    for _ in range(last):
        slope = [k * c for k, c in enumerate(coefficients)][1:]
        coefficients = [a - b for a, b in zip([*slope, 0, 0], [0, 0, *slope], strict=True)]
        *lower, top = coefficients
        total: Tensor | float = top
        for c in reversed(lower):
            total = total * t + c
        out.append(total)
    return out


def softplus_derivatives(last: int, x: Tensor, beta: float = 1.0) -> list[Tensor]:
    """[f, f', ..., f^(last)] of log(1 + exp(beta x)) / beta."""
    value = torch.nn.functional.softplus(x, beta, float("inf"))
    s = sigmoid_derivatives(max(last - 1, 0), torch.sigmoid(beta * x))
    return [value, *(beta**r * s[r] for r in range(last))]


def sine_derivatives(last: int, x: Tensor, frequency: float = 1.0) -> list[Tensor]:
    """[f, f', ..., f^(last)] of sin(frequency x)."""
    s, c = torch.sin(frequency * x), torch.cos(frequency * x)
    turns = (lambda: s, lambda: c, lambda: -s, lambda: -c)
    return [frequency**r * turns[r % 4]() for r in range(last + 1)]
