"""Cosines and sines (FourierKAN)."""

from functools import partial
from math import pi

import torch
from torch import Tensor

from kanpde.jets.elementary import Out
from kanpde.kan.basis.base import LinearBasis


class Fourier(LinearBasis):
    r"""cos(k pi z / 2) and sin(k pi z / 2) for k = 1 ... K, and a base function.

    .. math:: \partial_x^r (\cos, \sin)(\omega z) = (\omega s)^r (\cos, \sin)(\omega z + r \pi / 2), \qquad s = dz/dx

    The period of the lowest pair is twice the range [a, b], so that no function is forced to be periodic on it.

    Args:
        in_features: inputs of the layer.
        harmonics: K.
        grid_range: (a, b), the range of z, or one such pair per input.
        base: silu, gelu, identity or none.
    Source: Xu et al. 2024, FourierKAN-GCF (arXiv 2406.01034), whose period is 2 pi.

    Example:
        >>> Fourier(3, harmonics=4).size  # cosines, sines, and the base function
        9
    """

    resolution = "harmonics"

    def __init__(self, in_features: int, harmonics: int = 4, grid_range=(-1.0, 1.0), base: str = "silu"):
        if harmonics < 1:
            raise ValueError(f"a Fourier basis needs harmonics >= 1, given {harmonics}")
        super().__init__(in_features, 2 * harmonics, grid_range, base)
        self.harmonics = harmonics

    def finer(self, resolution: int) -> "Fourier":
        return Fourier(len(self.low), resolution, base=self.base)

    def among(self, finer: LinearBasis) -> list[int]:
        return [*range(self.harmonics), *range(finer.harmonics, finer.harmonics + self.harmonics)]

    def formula(self):
        return partial(fourier_derivatives, self.harmonics)

    def init_activation(self) -> Tensor:
        """sin(pi z / 2), which rises from -1 to 1 across the range; and the base function."""
        first = self.low.new_zeros(self.count)
        first[self.harmonics] = 1
        return torch.cat([first, self.low.new_ones(self.size - self.count)])

    def init_scale(self) -> Tensor:
        """1 / k^2: second derivatives of one size."""
        k = torch.arange(1, self.harmonics + 1, dtype=self.low.dtype)
        return torch.cat([k**-2, k**-2, self.low.new_ones(self.size - self.count)])

    def extra_repr(self) -> str:
        return f"harmonics={self.harmonics}, base={self.base}"


def fourier_derivatives(
    harmonics: int, first: int, last: int, x: Tensor, low: Tensor, scale: Tensor, axis: int = -1, out: Out = None
) -> list[Tensor]:
    """Derivatives first ... last of the K cosines, then the K sines, at x, which are a new axis."""
    omega = torch.arange(1, harmonics + 1, dtype=x.dtype, device=x.device) * (pi / 2)
    omega = omega.view((-1,) + (1,) * (-1 - axis))
    angle = ((x - low) * scale - 1).unsqueeze(axis) * omega
    c, s = torch.cos(angle), torch.sin(angle)
    turns = ((c, s), (-s, c), (-c, -s), (s, -c))  # derivatives by angle
    rate = scale.unsqueeze(axis) * omega
    return [torch.cat([f * rate**r if r else f for f in turns[r % 4]], axis) for r in range(first, last + 1)]
