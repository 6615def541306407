"""B-splines on a uniform grid, with the SiLU branch of a KAN as one more basis function."""

from functools import cache
from math import comb, factorial

import numpy as np
import torch
from torch import Tensor

from kanpde.kan.basis.base import LinearBasis


class BSpline(LinearBasis):
    r"""The G + k B-splines of order k on G intervals, and SiLU: phi(x) = sum_j theta_j B_j(x) + theta_b silu(x).

    On a uniform grid every B-spline is the cardinal one, shifted: with tau = (x - centre_j) / h and m_i = (k+1)/2 - i,

    .. math:: B_j^{(r)}(x) = \frac{(-\mathrm{sgn}\,\tau)^r}{h^r (k-r)!} \sum_{i=0}^{\lfloor k/2 \rfloor}
              (-1)^i \binom{k+1}{i} (m_i - |\tau|)_+^{k-r}

    so value and derivatives need neither recursion nor differentiation. The functions vanish outside the extended
    grid [a - k h, b + k h]; the SiLU branch does not.

    Args:
        in_features: inputs of the layer.
        grid_size: G, intervals of the grid.
        spline_order: k, the polynomial degree.
        grid_range: (a, b), or one such pair per input.
    Source: Schoenberg's cardinal splines; the KAN layer is Liu et al. 2024 (arXiv 2404.19756), eq. 2.10.
    """

    def __init__(self, in_features: int, grid_size: int = 5, spline_order: int = 3, grid_range=(-1.0, 1.0)):
        super().__init__()
        if grid_size < 1 or spline_order < 1:
            raise ValueError(
                f"a spline needs grid_size >= 1 and spline_order >= 1, given {grid_size} and {spline_order}"
            )
        limits = torch.as_tensor(grid_range, dtype=torch.get_default_dtype())
        if limits.shape not in ((2,), (in_features, 2)):
            raise ValueError(f"grid_range takes a pair, or {in_features} of them; its shape is {tuple(limits.shape)}")
        if not (limits[..., 0] < limits[..., 1]).all():
            raise ValueError(f"grid_range must increase, given {grid_range}")
        self.grid_size, self.spline_order = grid_size, spline_order
        self.size, self.smoothness = grid_size + spline_order + 1, spline_order - 1
        low, high = limits.expand(in_features, 2).unbind(-1)
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())

    def features(self, x: Tensor, order: int, inputs: slice = slice(None)) -> tuple[Tensor, ...]:
        low, high = self.low[inputs], self.high[inputs]
        step = (high - low) / self.grid_size
        return _Features.apply(x, low, step, self.grid_size, self.spline_order, 0, order)

    def start(self) -> Tensor:
        """t + silu(x) with t in [-1, 1] across the grid: splines weighted by their centres reproduce straight lines."""
        g, k = self.grid_size, self.spline_order
        centres = (2 * torch.arange(g + k, dtype=self.low.dtype) + 1 - k) / g - 1
        return torch.cat([centres, centres.new_ones(1)])

    def extra_repr(self) -> str:
        return f"grid_size={self.grid_size}, spline_order={self.spline_order}"


class _Features(torch.autograd.Function):
    """Derivatives first ... last of all basis functions. Saves x alone: the backward is the next derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, low, step, grid_size, k, first, last):
        splines = bspline_derivatives(x, low, step, grid_size, k, first, last)
        base = silu_derivatives(x, first, last)
        return tuple(torch.cat([b, s.unsqueeze(-1)], -1) for b, s in zip(splines, base, strict=True))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, low, step, *ctx.rest = inputs
        ctx.save_for_backward(x, low, step)

    @staticmethod
    def backward(ctx, *grads):
        x, low, step = ctx.saved_tensors
        grid_size, k, first, last = ctx.rest
        higher = _Features.apply(x, low, step, grid_size, k, first + 1, last + 1)
        grad_x = sum((g * b).sum(-1) for g, b in zip(grads, higher, strict=True))
        return grad_x, None, None, None, None, None, None


def bspline_derivatives(x: Tensor, low: Tensor, step: Tensor, grid_size: int, k: int, first: int, last: int) -> list:
    """[B^(first), ..., B^(last)] of the grid_size + k splines at x (N, in): each (N, in, grid_size + k)."""
    index = torch.arange(grid_size + k, dtype=x.dtype, device=x.device)
    tau = ((x - low) / step).unsqueeze(-1) - (index + (1 - k) / 2)
    sign = tau.sign()
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
        total = total * ((-1 / step).unsqueeze(-1) ** r / factorial(k - r))
        out.append(total.mul_(sign) if r % 2 else total)
        if r > first:
            power = [q * p for q, p in zip(power, plus, strict=True)]
    return out[::-1]


@cache
def _sigmoid_polynomials(n: int) -> tuple[float, ...]:
    """Coefficients of P_n, highest first, with sigmoid^(n) = P_n(sigmoid): P_0 = s, P_n+1 = s (1 - s) P_n'."""
    p = np.polynomial.Polynomial([0, 1])
    for _ in range(n):
        p = p.deriv() * np.polynomial.Polynomial([0, 1, -1])
    return tuple(p.coef[::-1])


def silu_derivatives(x: Tensor, first: int, last: int) -> list[Tensor]:
    """[silu^(first), ..., silu^(last)] with silu^(n) = x sigmoid^(n) + n sigmoid^(n-1)."""
    s = torch.sigmoid(x)

    def sigmoid_derivative(n: int) -> Tensor:
        total, *rest = _sigmoid_polynomials(n)
        for c in rest:
            total = total * s + c if c else total * s
        return total

    sigmoids = {n: sigmoid_derivative(n) for n in range(max(first - 1, 0), last + 1)}
    return [x * sigmoids[n] + (n * sigmoids[n - 1] if n else 0) for n in range(first, last + 1)]
