"""Gaussian radial basis functions (FastKAN)."""

import torch
from torch import Tensor, nn

from kanpde.jets.elementary import Out
from kanpde.kan.basis.base import LinearBasis


class GaussianRBF(LinearBasis):
    r"""c Gaussians on equally spaced centres, and a base function: phi(x) = sum_j theta_j exp(-u_j^2) + theta_b b(x).

    .. math:: u_j = (x - c_j) / \delta, \quad \delta = (b - a) / (c - 1), \qquad
              \partial_x^r e^{-u^2} = (-1/\delta)^r H_r(u) e^{-u^2}, \quad H_{r+1} = 2 u H_r - 2 r H_{r-1}

    `centers` are their places in [-1, 1], the range of every input; a parameter that is not trained, as in FastKAN, so
    that parameter counts agree.

    Args:
        in_features: inputs of the layer.
        centers: c, number of Gaussians.
        grid_range: (a, b), or one such pair per input.
        base: silu, gelu, identity or none.
    Source: Li 2024, FastKAN (arXiv 2405.06721).

    Example:
        >>> basis = GaussianRBF(1, centers=5)
        >>> [tuple(b.shape) for b in basis.features(torch.zeros(7, 1), 2)]
        [(7, 1, 6), (7, 1, 6), (7, 1, 6)]
    """

    def __init__(self, in_features: int, centers: int = 8, grid_range=(-2.0, 2.0), base: str = "silu"):
        if centers < 2:
            raise ValueError(f"radial basis functions need centers >= 2, given {centers}")
        super().__init__(in_features, centers, grid_range, base)
        self.centers = nn.Parameter(torch.linspace(-1, 1, centers), requires_grad=False)  # on [-1, 1], the range

    def formula(self):
        return gaussian_rbf_derivatives

    def constants(self, inputs: slice | Tensor, axis: int = -1) -> tuple[Tensor, ...]:
        """low, 1 / delta, and (c_j - low) / delta."""
        low, scale = super().constants(inputs, axis)
        steps = (self.count - 1) / 2  # delta in units of z
        return low, scale * steps, (self.centers + 1) * steps

    def init_activation(self) -> Tensor:
        """Gaussians weighted by their centres rise across the range; and the base function."""
        return torch.cat([self.centers.detach(), self.low.new_ones(self.size - self.count)])

    def extra_repr(self) -> str:
        return f"centers={self.count}, base={self.base}"


def gaussian_rbf_derivatives(
    first: int, last: int, x: Tensor, low: Tensor, per_width: Tensor, places: Tensor, axis: int = -1, out: Out = None
) -> list[Tensor]:
    """[b^(first), ..., b^(last)] of the Gaussians at x, which are a new axis."""
    u = ((x - low) * per_width).unsqueeze(axis) - places.view((-1,) + (1,) * (-1 - axis))
    out = out or [None] * (last + 1 - first)
    value = torch.addcmul(x.new_zeros(()), u, u, value=-1)  # -u^2 in one pass
    value = torch.exp(value, out=out[0]) if first == 0 else value.exp_()
    found = [value]
    if last > 0:
        per_width = per_width.unsqueeze(axis)
        rate = u * (-2 * per_width)
        found.append(torch.mul(rate, value, out=out[1 - first] if first < 2 else None))
    for r in range(1, last):  # b^(r+1) = -2 u / delta b^(r) - 2 r / delta^2 b^(r-1)
        place = out[r + 1 - first] if first <= r + 1 else None
        found.append(torch.addcmul(rate * found[r], found[r - 1], per_width**2, value=-2 * r, out=place))
    return found[first:]
