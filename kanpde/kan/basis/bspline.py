"""B-splines on a uniform grid."""

from collections.abc import Sequence
from functools import partial
from math import comb, factorial

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from kanpde.kan.basis.base import LinearBasis

LOCAL_FROM = 20  # intervals from which the k + 1 splines that live at a point are computed instead of all


class BSpline(LinearBasis):
    r"""The G + k B-splines of order k on G intervals, and a base: phi(x) = sum_j theta_j B_j(x) + theta_b b(x).

    On a uniform grid every B-spline is the cardinal one, shifted: with tau = (x - centre_j) / h and m_i = (k+1)/2 - i,

    .. math:: B_j^{(r)}(x) = \frac{(-\mathrm{sgn}\,\tau)^r}{h^r (k-r)!} \sum_{i=0}^{\lfloor k/2 \rfloor}
              (-1)^i \binom{k+1}{i} (m_i - |\tau|)_+^{k-r}

    so value and derivatives need neither recursion nor differentiation.

    Off the grid: within k intervals of [a, b] the splines fade smoothly, beyond them they are 0 and the base function
    alone is left. Nothing is clamped or extrapolated; `kanpde.kan.grids.off_grid` says how many inputs are there.

    Args:
        in_features: inputs of the layer.
        grid_size: G, intervals of the grid.
        spline_order: k, the polynomial degree.
        grid_range: (a, b), or one such pair per input.
        base: silu, gelu, identity or none.
    Source: Schoenberg's cardinal splines; the KAN layer is Liu et al. 2024 (arXiv 2404.19756), eq. 2.10.
    """

    def __init__(
        self, in_features: int, grid_size: int = 5, spline_order: int = 3, grid_range=(-1.0, 1.0), base: str = "silu"
    ):
        if grid_size < 1 or spline_order < 1:
            raise ValueError(
                f"a spline needs grid_size >= 1 and spline_order >= 1, given {grid_size} and {spline_order}"
            )
        super().__init__(in_features, grid_size + spline_order, grid_range, base)
        self.grid_size, self.spline_order, self.smoothness = grid_size, spline_order, spline_order - 1

    def formula(self):
        return partial(bspline_derivatives, self.grid_size, self.spline_order)

    def live(self, x: Tensor) -> slice:
        """The splines of the cells in which there are points."""
        if x.numel() == 0:
            return super().live(x)
        cells = ((x - self.low) * (self.scale() * (self.grid_size / 2))).detach()
        first, last = (int(c) if c.isfinite() else 0 for c in (cells.amin().floor(), cells.amax().floor()))
        return slice(min(max(first, 0), self.count - 1), max(min(last + self.spline_order + 1, self.count), 1))

    def init_activation(self) -> Tensor:
        """t + base(x) with t in [-1, 1] across the grid: splines weighted by their centres reproduce straight lines."""
        g, k = self.grid_size, self.spline_order
        centres = (2 * torch.arange(g + k, dtype=self.low.dtype) + 1 - k) / g - 1
        return torch.cat([centres, centres.new_ones(self.size - self.count)])

    def extra_repr(self) -> str:
        return f"grid_size={self.grid_size}, spline_order={self.spline_order}, base={self.base}"


def bspline_derivatives(
    grid_size: int,
    k: int,
    first: int,
    last: int,
    x: Tensor,
    low: Tensor,
    scale: Tensor,
    axis: int = -1,
    live: slice | None = None,
    out: Sequence[Tensor | None] | None = None,
) -> list[Tensor]:
    """[B^(first), ..., B^(last)] of the grid_size + k splines at x, which are a new axis, or of the `live` ones."""
    count, local = grid_size + k, grid_size >= LOCAL_FROM
    out = out or [None] * (last + 1 - first)
    unit = 1.0 if local or max(last, 2) >= k else factorial(k) ** (-1 / k)
    per_step = scale * (grid_size / 2 * unit)
    tau = ((x - low) * per_step).unsqueeze(axis)
    along = (-1,) + (1,) * (-1 - axis)
    start, stop = (0, count) if live is None else (live.start, live.stop)
    if not local:
        of = lambda j: (j + (1 - k) / 2) * unit
        centres = torch.linspace(of(start), of(stop - 1), stop - start, dtype=x.dtype, device=x.device).view(along)
        return _cardinal(tau - centres, k, first, last, per_step.unsqueeze(axis), unit, out)
    cell = tau.floor().clamp(-k - 1, grid_size + k).nan_to_num()  # cell ... cell + k live there; k + 1 spare places
    index = cell + torch.arange(k + 1, dtype=x.dtype, device=x.device).view(along)
    fresh = [None] * len(out)
    near = _cardinal(tau - (index + (1 - k) / 2), k, first, last, per_step.unsqueeze(axis), unit, fresh)
    places = (index + (k + 1)).long()
    sizes = list(tau.shape)
    sizes[axis] = count + 2 * (k + 1)
    spread = lambda b: b.new_zeros(sizes).scatter(axis, places, b).narrow(axis, k + 1, count)
    return [spread(b).narrow(axis, start, stop - start) for b in near]


def _cardinal(
    tau: Tensor, k: int, first: int, last: int, per_step: Tensor, unit: float, out: Sequence[Tensor | None]
) -> list[Tensor]:
    """Derivatives of the cardinal B-spline of order k with respect to x at tau, which is overwritten.

    dtau/dx = per_step, and a step of the grid is `unit` in tau: 1, or k!^(-1/k), which makes the factor of B_j 1. Each
    operation is a pass over all functions and points: few of them, on few arrays, is what makes this fast.
    """
    top = min(last, k)
    sign = tau.sign() if first < top or top % 2 else None  # odd derivatives need it
    plus = [((k + 1) / 2 * unit - tau.abs_()).clamp_min_(0)]
    plus += [softshrink(plus[0], i * unit) for i in range(1, k // 2 + 1)]
    factors = [(-1) ** i * comb(k + 1, i) for i in range(k // 2 + 1)]
    height = 1 if unit == 1 else factorial(k)  # unit^-k
    power, found = plus, [torch.zeros_like(tau) for _ in range(max(first, k + 1), last + 1)]
    for r in range(top, first - 1, -1):  # powers grow as the order of the derivative falls
        if r == top:
            power = [_power(p, k - r, first == top) for p in plus]
        else:
            power = [q * p if q is p else q.mul_(p) for q, p in zip(power, plus, strict=True)]
        total = _weighted(power, factors, out[r - first])
        if r % 2:
            total.mul_(sign)
        if r or height != factorial(k):
            factor = (-1) ** r * height / factorial(k - r)
            total.mul_((per_step if r == 1 else per_step**r) * factor if r else factor)
        found.insert(0, total)
    return found


def _power(p: Tensor, n: int, is_last: bool) -> Tensor:
    """p^n of p = (...)_+, in place where nobody reads p any more."""
    if n < 2:
        return p if n else (p > 0).to(p.dtype)
    q = p.pow_(n) if is_last and n <= 3 else p.pow(min(n, 3))
    for _ in range(3, n):
        q = q.mul_(p)
    return q


def _weighted(terms: list[Tensor], factors: list[int], out: Tensor | None) -> Tensor:
    """The sum of the terms times the factors, of which the first is 1: a new tensor, or `out`."""
    if len(terms) == 1:
        return torch.mul(terms[0], 1, out=out)
    total = torch.add(terms[0], terms[1], alpha=factors[1], out=out)
    for factor, term in zip(factors[2:], terms[2:], strict=True):
        total.add_(term, alpha=factor)
    return total
