"""Closed-form fields v = (1 - |x|^2) f(x) on the unit ball, with all derivatives analytic and streamed.

f is a sum of local terms c_i phi(x_i, x_i+1, ...) with c_i ~ N(0, 1). One pass over blocks of coordinates accumulates
f, x . grad f, |grad f|^2 and Lap f in O(N d) time and O(N block) memory, usable at d = 1 000 000.
"""

from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from kanpde.jets.slices import WHOLE, Slice

BLOCK = 4096  # coordinates per block of the stream
DRAWN = 2**20  # coefficients that are drawn at a time where most of them are other processes'


class Body(NamedTuple):
    """f at N points and what the product rule needs of it: each (N,)."""

    value: Tensor
    radial: Tensor  # x . grad f
    grad_sq: Tensor  # |grad f|^2
    lap: Tensor  # Lap f


class Local(NamedTuple):
    """Terms (N, terms), and per coordinate (N, coordinates) the gradient and Hessian diagonal of their sum."""

    terms: Tensor
    grad: Tensor
    second: Tensor


class Solution(Protocol):
    """A family of bodies f: how many neighbours a term couples, and the terms, alone and with their derivatives."""

    reach: int  # a term couples x_i ... x_i+reach

    def terms(self, x: Tensor, c: Tensor) -> Tensor: ...
    def local(self, x: Tensor, c: Tensor) -> Local: ...
    def taylor(self, c: np.ndarray, dim: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]: ...


@cache
def coefficients(seed: int, n: int) -> np.ndarray:
    """c_1 ... c_n ~ N(0, 1) as the published codes draw them: numpy.random.RandomState(seed).randn(n)."""
    return np.random.RandomState(seed).randn(n)


def coefficients_of(seed: int, start: int, stop: int) -> np.ndarray:
    """c_start ... of the same numbers, without the others being there at once."""
    random, found = np.random.RandomState(seed), []
    for i in range(0, stop, DRAWN):
        block = random.randn(min(DRAWN, stop - i))
        found += [block[max(start - i, 0) :]]
    return np.concatenate([np.zeros(0), *found])


@dataclass(frozen=True)
class TwoBody:
    r"""f = sum_i c_i [sin(a + cos b + b cos a) - shift], a = k x_i, b = k x_i+1, for i = 1 ... d - 1.

    Source: Hu et al. 2024 (SDGD, arXiv 2307.12306); MetaKAN, ICML 2025, C.3. There k = 1 and shift = 0.
    """

    scale: float = 1.0
    shift: float = 0.0
    reach: int = 1

    def terms(self, x: Tensor, c: Tensor) -> Tensor:
        a, b = self.scale * x[:, :-1], self.scale * x[:, 1:]
        return c * (a + b.cos() + b * a.cos()).sin() - self.shift * c

    def local(self, x: Tensor, c: Tensor) -> Local:
        k = self.scale
        a, b = k * x[:, :-1], k * x[:, 1:]
        sin_a, cos_a, sin_b, cos_b = a.sin(), a.cos(), b.sin(), b.cos()
        s = a + cos_b + b * cos_a
        sine, cosine = c * s.sin(), c * s.cos()
        p, q = 1 - b * sin_a, cos_a - sin_b  # ds/da, ds/db
        grad, second = torch.zeros_like(x), torch.zeros_like(x)
        grad[:, :-1] += k * cosine * p
        grad[:, 1:] += k * cosine * q
        second[:, :-1] -= k * k * (sine * p * p + cosine * b * cos_a)
        second[:, 1:] -= k * k * (sine * q * q + cosine * cos_b)
        return Local(sine - self.shift * c, grad, second)

    def taylor(self, c: np.ndarray, dim: int):
        """f(0), gradient, Hessian diagonal and first off-diagonal at 0: s = 1, p = 1, q = 1, s_bb = -1, s_ab = 0."""
        k, sine, cosine = self.scale, np.sin(1.0), np.cos(1.0)
        grad, second = np.zeros(dim), np.zeros(dim)
        grad[:-1] += k * cosine * c
        grad[1:] += k * cosine * c
        second[:-1] -= k * k * sine * c
        second[1:] -= k * k * (sine + cosine) * c
        return (sine - self.shift) * c.sum(), grad, second, -k * k * sine * c


@dataclass(frozen=True)
class ThreeBody:
    """f = sum_i c_i exp(x_i x_i+1 x_i+2), i = 1 ... d - 2.

    Source: Hu et al. 2024 (HTE, arXiv 2312.14499). The published codes drop the factors x_j x_k of the chain rule in
    the Laplacian, so their source term belongs to another solution; here it is the Laplacian of u.
    """

    reach: int = 2

    def terms(self, x: Tensor, c: Tensor) -> Tensor:
        return c * (x[:, :-2] * x[:, 1:-1] * x[:, 2:]).exp()

    def local(self, x: Tensor, c: Tensor) -> Local:
        factors = [x[:, :-2], x[:, 1:-1], x[:, 2:]]
        e = c * (factors[0] * factors[1] * factors[2]).exp()
        grad, second = torch.zeros_like(x), torch.zeros_like(x)
        n = e.shape[1]
        for j in range(3):
            others = factors[(j + 1) % 3] * factors[(j + 2) % 3]
            grad[:, j : j + n] += e * others
            second[:, j : j + n] += e * others.square()
        return Local(e, grad, second)

    def taylor(self, c: np.ndarray, dim: int):
        return c.sum(), np.zeros(dim), np.zeros(dim), np.zeros(dim - 1)


@dataclass(frozen=True)
class Coupled:
    """f = sum_i c_i sin(q x_i x_i+1), i = 1 ... d - 1; with q = 2 d the arguments are 2 a b for a, b ~ N(0, |x|^2).

    Each term is odd in both coordinates: where points are symmetric it is orthogonal to every additive function, its
    best quadratic is q' c_i x_i x_i+1, and both leave most of it. A product of sines would do this too, but be an
    eigenfunction of the Laplacian, so that as d -> infinity u = -m g / (2 d (1 + k^2 m)) could be read off its source.
    """

    q: float
    reach: int = 1

    def terms(self, x: Tensor, c: Tensor) -> Tensor:
        return c * (self.q * x[:, :-1] * x[:, 1:]).sin()

    def local(self, x: Tensor, c: Tensor) -> Local:
        q, a, b = self.q, x[:, :-1], x[:, 1:]
        s = q * a * b
        sine, cosine = c * s.sin(), c * s.cos()
        grad, second = torch.zeros_like(x), torch.zeros_like(x)
        grad[:, :-1] += q * cosine * b
        grad[:, 1:] += q * cosine * a
        second[:, :-1] -= q * q * sine * b.square()
        second[:, 1:] -= q * q * sine * a.square()
        return Local(sine, grad, second)

    def taylor(self, c: np.ndarray, dim: int):
        return 0.0, np.zeros(dim), np.zeros(dim), self.q * c


@cache
def _scaled_shift() -> float:
    """Mean of sin(a + cos b + b cos a) weighted by m^2 under the radial law, as d -> infinity: a, b ~ N(0, r^2)."""
    r, w_r = np.polynomial.legendre.leggauss(40)
    z, w_z = np.polynomial.hermite_e.hermegauss(60)
    r, w_r = (r + 1) / 2, w_r * (1 - ((r + 1) / 2) ** 2) ** 2
    a, b = np.meshgrid(z, z, indexing="ij")
    w = np.outer(w_z, w_z)
    means = [(w * np.sin(q * a + np.cos(q * b) + q * b * np.cos(q * a))).sum() / w.sum() for q in r]
    return float(w_r @ means / w_r.sum())


def make(name: str, dim: int) -> Solution:
    """The family by name; `scaled` is the two-body with arguments sqrt(d) x and each term centred."""
    if name == "scaled":
        return TwoBody(scale=sqrt(dim), shift=_scaled_shift())
    return Coupled(q=2 * dim) if name == "coupled" else {"two_body": TwoBody, "three_body": ThreeBody}[name]()


REACH = {"two_body": 1, "three_body": 2, "scaled": 1, "coupled": 1}
SOLUTIONS = tuple(REACH)


@dataclass(frozen=True)
class BallSolution:
    """v(x) = (1 - |x|^2) f(x) for a body f by name, the `family`, with c drawn from `seed`.

    Both are there from the start: torch does not compile the drawing of numbers.

    Args:
        inputs: those that x has in this process; the columns next to them, which the terms at its ends couple, come
            from the neighbours. `WHOLE`: all.
    """

    name: str
    dim: int
    seed: int = 0
    inputs: Slice = WHOLE

    def __post_init__(self):
        object.__setattr__(self, "family", make(self.name, self.dim))
        object.__setattr__(self, "c", torch.from_numpy(self._coefficients()))

    def _coefficients(self) -> np.ndarray:
        """Those of the terms that begin in x, or before it and reach into it."""
        last, reach = self.dim - REACH[self.name], REACH[self.name]
        if self.inputs is WHOLE:
            return coefficients(self.seed, last)
        return coefficients_of(self.seed, max(self.inputs.start - reach, 0), min(self.inputs.stop, last))

    def _around(self, x: Tensor):
        """Yield (columns, those with their halo, the c of the terms there, where the former are), block by block."""
        c, reach, columns = self.c.to(x.device, x.dtype), self.family.reach, x.split(BLOCK, 1)
        before, after = self.inputs.beyond(x, reach)
        first, last = -before.shape[1], x.shape[1] + after.shape[1]
        for i, own in enumerate(columns):
            start, stop = i * BLOCK, i * BLOCK + own.shape[1]
            low, high = max(start - reach, first), min(stop + reach, last)
            near = range(max(low, 0) // BLOCK, -(-min(high, x.shape[1]) // BLOCK))
            # of blocks, not of x: the gradient of a slice is as large as what it is of
            parts = [columns[k][:, max(low - k * BLOCK, 0) : high - k * BLOCK] for k in near]
            if low < 0:
                parts.insert(0, before[:, low - first :])
            if high > x.shape[1]:
                parts.append(after[:, : high - x.shape[1]])
            yield own, torch.cat(parts, 1), c[low - first : high - first - reach], slice(start - low, stop - low)

    def _blocks(self, x: Tensor):
        """Yield (columns, `Local` of the columns and of the terms that start in them), block by block."""
        for columns, around, c, mine in self._around(x):
            yield columns, Local(*(t[:, mine] for t in self.family.local(around, c)))

    def _body(self, x: Tensor) -> tuple[Body, Tensor]:
        """The body at x (N, d), and |x|^2 there."""
        total = [x.new_zeros(len(x)) for _ in Body._fields]
        for columns, local in self._blocks(x):
            parts = local.terms, columns * local.grad, local.grad.square(), local.second
            total = [t + p.sum(-1) for t, p in zip(total, parts, strict=True)]
        *total, r_sq = self.inputs.sum(*total, x.square().sum(-1))
        return Body(*total), r_sq

    def body(self, x: Tensor) -> Body:
        """f, x . grad f, |grad f|^2, Lap f at x (N, d)."""
        return self._body(x)[0]

    def value(self, x: Tensor) -> Tensor:
        """v (N,), without the derivatives of f."""
        f = sum(self.family.terms(around, c)[:, mine].sum(-1) for _, around, c, mine in self._around(x))
        f, r_sq = self.inputs.sum(f, x.square().sum(-1))
        return (1 - r_sq) * f

    def value_and_laplacian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v and Lap v = m Lap f - 4 x . grad f - 2 d f, m = 1 - |x|^2."""
        f, r_sq = self._body(x)
        m = 1 - r_sq
        return m * f.value, m * f.lap - 4 * f.radial - 2 * self.dim * f.value

    def gradient_square(self, x: Tensor) -> Tensor:
        """|grad v|^2 = m^2 |grad f|^2 - 4 m f x . grad f + 4 f^2 |x|^2."""
        f, r_sq = self._body(x)
        m = 1 - r_sq
        return m.square() * f.grad_sq - 4 * m * f.value * f.radial + 4 * f.value.square() * r_sq

    def derivatives(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """v (N,), grad v (N, d), diagonal of the Hessian of v (N, d)."""
        blocks = list(self._blocks(x))
        f = sum(local.terms.sum(-1) for _, local in blocks).unsqueeze(1)
        grad = torch.cat([local.grad for _, local in blocks], 1)
        second = torch.cat([local.second for _, local in blocks], 1)
        m = 1 - x.square().sum(-1, keepdim=True)
        return (m * f).squeeze(1), m * grad - 2 * f * x, m * second - 4 * x * grad - 2 * f

    def taylor(self):
        """Taylor coefficients of f at 0: f(0), gradient (d,), Hessian diagonal (d,), first off-diagonal (d - 1,)."""
        return self.family.taylor(self.c.numpy(), self.dim)

    def taylor_polynomials(self, x: Tensor) -> dict[str, Tensor]:
        """Those of f at 0, (N,) each, of sliced inputs: affine, with squares (additive), with neighbours (taylor2)."""
        before, after = self.inputs.beyond(x, self.family.reach)
        first, c, width = before.shape[1], self.c.numpy(), x.shape[1]
        _, *others = self.family.taylor(c, len(c) + self.family.reach)
        grad, second, off = (torch.as_tensor(t[first : first + width]).to(x) for t in others)
        mine = c[first:]
        value, *_ = self.family.taylor(mine, len(mine) + self.family.reach)
        pairs = x[:, : len(off)] * torch.cat([x, after[:, :1]], 1)[:, 1 : 1 + len(off)]
        affine, squares, neighbours = self.inputs.sum(value + x @ grad, 0.5 * x.square() @ second, pairs @ off)
        return {"affine": affine, "additive": affine + squares, "taylor2": affine + squares + neighbours}
