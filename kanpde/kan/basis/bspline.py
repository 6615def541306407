"""B-splines on a uniform grid."""

from functools import partial
from math import comb, factorial

import torch
from torch import Tensor

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
    grid_size: int, k: int, first: int, last: int, x: Tensor, low: Tensor, scale: Tensor, axis=-1, live=slice(None)
) -> list[Tensor]:
    """[B^(first), ..., B^(last)] of the grid_size + k splines at x, which are a new axis; `live`: of these alone."""
    per_step = scale * (grid_size / 2)
    tau = ((x - low) * per_step).unsqueeze(axis)
    count = grid_size + k
    along = (-1,) + (1,) * (-1 - axis)
    centres = lambda index: index + (1 - k) / 2
    if grid_size < LOCAL_FROM:
        index = torch.arange(*live.indices(count), dtype=x.dtype, device=x.device).view(along)
        return _cardinal(tau - centres(index), k, first, last, per_step.unsqueeze(axis))
    cell = tau.floor().clamp(-k - 1, grid_size + k).nan_to_num()  # cell ... cell + k live there; k + 1 spare places
    index = cell + torch.arange(k + 1, dtype=x.dtype, device=x.device).view(along)
    near = _cardinal(tau - centres(index), k, first, last, per_step.unsqueeze(axis))
    places = (index + (k + 1)).long()
    sizes = list(tau.shape)
    sizes[axis] = count + 2 * (k + 1)
    spread = lambda b: b.new_zeros(sizes).scatter(axis, places, b).narrow(axis, k + 1, count)
    start, stop, _ = live.indices(count)
    return [spread(b).narrow(axis, start, stop - start) for b in near]


def _cardinal(tau: Tensor, k: int, first: int, last: int, per_step: Tensor) -> list[Tensor]:
    """Derivatives of the cardinal B-spline of order k at tau, with respect to x where dtau/dx = per_step."""
    sign = tau.sign() if last > first or first % 2 else None  # odd derivatives need it
    distance = tau.abs_()
    plus = [((k + 1) / 2 - i - distance).clamp_min_(0) for i in range(k // 2 + 1)]
    factors = [(-1) ** i * comb(k + 1, i) for i in range(k // 2 + 1)]
    if last >= k:
        power = [(p > 0).to(p.dtype) for p in plus]  # (m - |tau|)_+^0
    else:
        power = list(plus)
        for _ in range(k - last - 1):
            power = [q * p for q, p in zip(power, plus, strict=True)]
    out = [torch.zeros_like(tau)] * max(0, last - max(first - 1, k))
    for r in range(min(last, k), first - 1, -1):  # powers grow as the order of the derivative falls
        total = power[0] if len(power) == 1 else torch.add(power[0], power[1], alpha=factors[1])
        for factor, q in zip(factors[2:], power[2:], strict=True):
            total = total.add_(q, alpha=factor)
        total = total * ((-per_step) ** r / factorial(k - r))
        out.append(total.mul_(sign) if r % 2 else total)
        if r > first:
            power = [q * p for q, p in zip(power, plus, strict=True)]
    return out[::-1]
