"""Gaussian radial basis functions (FastKAN)."""

import torch
from torch import Tensor, nn

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
    """

    def __init__(self, in_features: int, centers: int = 8, grid_range=(-2.0, 2.0), base: str = "silu"):
        if centers < 2:
            raise ValueError(f"radial basis functions need centers >= 2, given {centers}")
        super().__init__(in_features, centers, grid_range, base)
        self.centers = nn.Parameter(torch.linspace(-1, 1, centers), requires_grad=False)  # on [-1, 1], the range

    def formula(self):
        return gaussian_rbf_derivatives

    def constants(self, inputs, axis=-1) -> tuple[Tensor, ...]:
        return *super().constants(inputs, axis), self.centers

    def init_activation(self) -> Tensor:
        """Gaussians weighted by their centres rise across the range; and the base function."""
        return torch.cat([self.centers.detach(), self.low.new_ones(self.size - self.count)])

    def extra_repr(self) -> str:
        return f"centers={self.count}, base={self.base}"


def gaussian_rbf_derivatives(
    first: int, last: int, x: Tensor, low: Tensor, scale: Tensor, centers: Tensor, axis: int = -1
) -> list[Tensor]:
    """[b^(first), ..., b^(last)] of the Gaussians at x, which are a new axis."""
    steps = (len(centers) - 1) / 2  # between the centres, in units of z
    u = (((x - low) * scale - 1) * steps).unsqueeze(axis) - (centers * steps).view((-1,) + (1,) * (-1 - axis))
    value = torch.exp(-u * u)
    twice = 2 * u
    hermite = [torch.ones_like(u), twice]
    for r in range(1, last):
        hermite.append(twice * hermite[r] - 2 * r * hermite[r - 1])
    per_width = (scale * steps).unsqueeze(axis)  # 1 / delta of each input
    return [value if r == 0 else (-per_width) ** r * hermite[r] * value for r in range(first, last + 1)]
