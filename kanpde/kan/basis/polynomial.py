"""Polynomials by a three-term recurrence on t = tanh(z): Chebyshev, Legendre and Gram bases are made of it."""

from functools import partial
from math import comb

import torch
from torch import Tensor

from kanpde.jets.elementary import Out, tanh_derivatives
from kanpde.kan.basis.base import LinearBasis


class Polynomial(LinearBasis):
    r"""p_0 ... p_D of t with p_0 = 1, p_1 = t and the recurrence of the member, and a base function.

    .. math:: p_{n+1} = a_n\, t\, p_n - c_n\, p_{n-1}, \qquad
              p_{n+1}^{(r)} = a_n \sum_j \binom{r}{j} t^{(j)} p_n^{(r-j)} - c_n\, p_{n-1}^{(r)}

    where (r) is a derivative in x. t = tanh(z) keeps hidden values, which are not bounded, where the polynomials are
    of order one; with squash = none it is z itself, which is [-1, 1] on the range.

    Args:
        in_features: inputs of the layer.
        degree: D.
        grid_range: (a, b), the range of z, or one such pair per input.
        base: silu, gelu, identity or none.
        squash: tanh or none.
    """

    recursive = True
    resolution = "degree"

    def __init__(self, in_features: int, degree: int, grid_range, base: str, squash: str):
        if degree < 1:
            raise ValueError(f"polynomials need degree >= 1, given {degree}")
        if squash not in ("tanh", "none"):
            raise ValueError(f"squash is tanh or none, given {squash!r}")
        super().__init__(in_features, degree + 1, grid_range, base)
        self.degree, self.squash = degree, squash

    def recurrence(self) -> tuple:
        """The pairs (a_n, c_n) for n = 1 ... D - 1."""
        raise NotImplementedError

    def finer(self, resolution: int) -> "Polynomial":
        return type(self)(len(self.low), resolution, base=self.base, squash=self.squash)

    def among(self, finer: LinearBasis) -> list[int]:
        return list(range(self.count))

    def formula(self):
        return partial(polynomial_derivatives, self.recurrence(), self.squash)

    def init_activation(self) -> Tensor:
        """p_1 = t; and the base function."""
        first = self.low.new_zeros(self.count)
        first[1] = 1
        return torch.cat([first, self.low.new_ones(self.size - self.count)])

    def init_scale(self) -> Tensor:
        """1 / n^2: second derivatives of moderate size."""
        n = torch.arange(self.count, dtype=self.low.dtype).clamp_min(1)
        return torch.cat([n**-2, self.low.new_ones(self.size - self.count)])

    def extra_repr(self) -> str:
        return f"degree={self.degree}, base={self.base}, squash={self.squash}"


def polynomial_derivatives(
    recurrence: tuple,
    squash: str,
    first: int,
    last: int,
    x: Tensor,
    low: Tensor,
    scale: Tensor,
    axis: int = -1,
    out: Out = None,
) -> list[Tensor]:
    """[p^(first), ..., p^(last)] of p_0 ... p_D at x, which are a new axis."""
    z = (x - low) * scale - 1
    powers = [scale**r for r in range(last + 1)]
    if squash == "tanh":
        t = [d * s for d, s in zip(tanh_derivatives(last, z), powers, strict=True)]
    else:
        t = [z, scale.expand_as(z), *[torch.zeros_like(z)] * last][: last + 1]
    p = [[torch.ones_like(z), *[torch.zeros_like(z)] * last], t]
    for a, c in recurrence:
        before, now = p[-2:]
        p.append([_leibniz(r, a, t, now, before[r] * -c) for r in range(last + 1)])
    return [torch.stack([q[r] for q in p], axis) for r in range(first, last + 1)]


def _leibniz(r: int, a: float, t: list[Tensor], p: list[Tensor], total: Tensor) -> Tensor:
    """total + a (t p)^(r)."""
    for j in range(r + 1):
        total = torch.addcmul(total, t[j], p[r - j], value=a * comb(r, j))
    return total
