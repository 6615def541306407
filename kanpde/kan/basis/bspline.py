"""B-splines on a uniform grid."""

from collections.abc import Sequence
from functools import partial
from math import comb, factorial

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from kanpde.jets.tracing import compiling, plainly
from kanpde.kan.basis.base import LinearBasis

LOCAL_FROM = 20  # intervals from which the k + 1 splines that live at a point are computed instead of all


class BSpline(LinearBasis):
    r"""The G + k B-splines of order k on G intervals, and a base: phi(x) = sum_j theta_j B_j(x) + theta_b b(x).

    On a uniform grid every B-spline is the cardinal one, shifted: with tau = (x - centre_j) / h and m_i = (k+1)/2 - i,

    .. math:: B_j^{(r)}(x) = \frac{(-\mathrm{sgn}\,\tau)^r}{h^r (k-r)!} \sum_{i=0}^{\lfloor k/2 \rfloor}
              (-1)^i \binom{k+1}{i} (m_i - |\tau|)_+^{k-r}

    so value and derivatives need neither recursion nor differentiation.

    The derivative of order k jumps at the knots. There it is its limit from the right, at b that from the left.

    Off the grid: within k intervals of [a, b] the splines fade smoothly, beyond them they are 0 and the base function
    alone is left. Nothing is clamped or extrapolated; `kanpde.kan.grids.off_grid` says how many inputs are there.

    Args:
        in_features: inputs of the layer.
        grid_size: G, intervals of the grid.
        spline_order: k, the polynomial degree.
        grid_range: (a, b), or one such pair per input.
        base: silu, gelu, identity or none.
    Source: Schoenberg's cardinal splines; the KAN layer is Liu et al. 2024 (arXiv 2404.19756), eq. 2.10.

    Example:
        >>> basis = BSpline(2, grid_size=5, spline_order=3, base="none")
        >>> (b,) = basis.functions(torch.tensor([[0.1, -0.7]]), 0)
        >>> b.shape, torch.allclose(b.sum(-1), torch.ones(1, 2))
        (torch.Size([1, 2, 8]), True)
    """

    resolution = "grid_size"

    def __init__(
        self, in_features: int, grid_size: int = 5, spline_order: int = 3, grid_range=(-1.0, 1.0), base: str = "silu"
    ):
        if grid_size < 1 or spline_order < 1:
            raise ValueError(
                f"a spline needs grid_size >= 1 and spline_order >= 1, given {grid_size} and {spline_order}"
            )
        super().__init__(in_features, grid_size + spline_order, grid_range, base)
        self.grid_size, self.spline_order, self.smoothness = grid_size, spline_order, spline_order - 1

    def finer(self, resolution: int) -> "BSpline":
        return BSpline(len(self.low), resolution, self.spline_order, base=self.base)

    def formula(self):
        return partial(bspline_derivatives, self.grid_size, self.spline_order)

    def live(self, x: Tensor) -> slice:
        """The splines of the cells in which there are points."""
        if x.numel() == 0:
            return super().live(x)
        cells, spare = ((x - self.low) * (self.scale() * (self.grid_size / 2))).detach(), _spare(self.count, x.dtype)
        ends = (cells.amin() - spare).floor(), (cells.amax() + spare).floor()  # a knot belongs to the cells beside it
        first, last = (int(c) if c.isfinite() else 0 for c in ends)
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
    highest = last + compiling()  # the compiler differentiates once more
    unit = 1.0 if local or max(highest, 2) >= k else factorial(k) ** (-1 / k)
    per_step = scale * (grid_size / 2 * unit)
    tau = (x - low) * per_step
    tau = (tau if highest < k else _beside_knots(tau, grid_size, k)).unsqueeze(axis)
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


def _spare(count: int, dtype: torch.dtype) -> float:
    """How near to a knot, in steps of the grid, rounding cannot tell on which side of it a point lies."""
    return 4 * count * torch.finfo(dtype).eps


def _beside_knots(tau: Tensor, grid_size: int, k: int) -> Tensor:
    """tau with points at a knot moved into the cell to the right, at the right end of the grid to the left.

    So all splines are on one side of it; the shift is of the size of rounding, and a constant to differentiation.
    """
    spare = _spare(grid_size + k, tau.dtype)
    knot = tau.detach().round()
    off = tau.detach() - knot
    shift = torch.where(knot == grid_size, -spare, spare).to(tau.dtype) - off
    return tau + torch.where(off.abs() < spare, shift, 0)


def _cardinal(
    tau: Tensor, k: int, first: int, last: int, per_step: Tensor, unit: float, out: Sequence[Tensor | None]
) -> list[Tensor]:
    """Derivatives of the cardinal B-spline of order k with respect to x at tau, which is overwritten.

    dtau/dx = per_step, and a step of the grid is `unit` in tau: 1, or k!^(-1/k), which makes the factor of B_j 1. Each
    operation is a pass over all functions and points: few of them, on few arrays, is what makes this fast.
    """
    top = min(last, k)
    sign = tau.sign() if first < top or top % 2 else None  # odd derivatives need it
    if plainly():
        plus = [((k + 1) / 2 * unit - tau.abs()).clamp_min(0)]
    else:
        plus = [((k + 1) / 2 * unit - tau.abs_()).clamp_min_(0)]
    plus += [softshrink(plus[0], i * unit) for i in range(1, k // 2 + 1)]
    factors = [(-1) ** i * comb(k + 1, i) for i in range(k // 2 + 1)]
    height = 1 if unit == 1 else factorial(k)  # unit^-k
    power, found = plus, [torch.zeros_like(tau) for _ in range(max(first, k + 1), last + 1)]
    for r in range(top, first - 1, -1):  # powers grow as the order of the derivative falls
        if r == top:
            power = [_power(p, k - r, first == top) for p in plus]
        else:
            power = [q * p if q is p else _times(q, p) for q, p in zip(power, plus, strict=True)]
        total = _weighted(power, factors, out[r - first])
        if r % 2:
            total = _times(total, sign)
        if r or height != factorial(k):
            factor = (-1) ** r * height / factorial(k - r)
            total = _times(total, (per_step if r == 1 else per_step**r) * factor if r else factor)
        found.insert(0, total)
    return found


def _power(p: Tensor, n: int, is_last: bool) -> Tensor:
    """p^n of p = (...)_+, in place where nobody reads p any more."""
    if n < 2:
        return p if n else (p > 0).to(p.dtype)
    q = p.pow_(n) if is_last and n <= 3 and not plainly() else p.pow(min(n, 3))
    for _ in range(3, n):
        q = _times(q, p)
    return q


def _times(t: Tensor, factor: Tensor | float) -> Tensor:
    """t factor, in place where nobody differentiates t itself."""
    return t * factor if plainly() else t.mul_(factor)


def _weighted(terms: list[Tensor], factors: list[int], out: Tensor | None) -> Tensor:
    """The sum of the terms times the factors, of which the first is 1: a new tensor, or `out`."""
    if len(terms) == 1:
        return torch.mul(terms[0], 1, out=out)
    total = torch.add(terms[0], terms[1], alpha=factors[1], out=out)
    for factor, term in zip(factors[2:], terms[2:], strict=True):
        total = torch.add(total, term, alpha=factor) if plainly() else total.add_(term, alpha=factor)
    return total
