"""All of space."""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.ball import GRID_DEVIATIONS
from kanpde.domains.base import Domain, check_law, dimension, length, numbers, set_fields
from kanpde.ground.samplers import gaussians

FRAME_DEVIATIONS = 3.0


@dataclass(frozen=True)
class Gaussian(Domain):
    """All of R^dim, with points drawn from the normal distribution N(center, sigma^2 I).

    There is no boundary, and u is the network itself. Centre and half-width, of pictures and units, are those of the
    cube of three standard deviations; the first grid has four.

    Args:
        dim: d.
        sigma: the standard deviation of each coordinate.
        center: d numbers; None: the origin.
    Raises:
        ConfigError: not finite, a sigma that is not above 0, or another number of coordinates.

    Example:
        >>> Gaussian(2, 0.5, (1.0, 0.0)).frame()
        ([1.0, 0.0], 1.5)
    """

    dim: int
    sigma: float = 1.0
    center: tuple[float, ...] | None = None
    laws = ("normal",)
    boundary = None

    def __post_init__(self):
        set_fields(self, dim=dimension(self), sigma=length("Gaussian", "sigma", self.sigma))
        if self.center is not None:
            set_fields(self, center=numbers("Gaussian", "center", self.center, self.dim))

    def interior(
        self, n: int, generator: torch.Generator, law: str = "normal", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points (n, dim) of the normal distribution."""
        check_law(law, self.laws)
        x = self.sigma * gaussians(n, self.dim, generator, sequence, **kind)
        return x if self.center is None else x + x.new_tensor(self.center)

    def contains(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def factor(self, x: Tensor) -> None:
        """None: u is zero nowhere."""

    @property
    def volume(self) -> float:
        """Infinite."""
        return inf

    @property
    def area(self) -> float:
        """There is no boundary: 0."""
        return 0.0

    def input_range(self, law: str) -> list[tuple[float, float]]:
        reach = GRID_DEVIATIONS * self.sigma
        return [(c - reach, c + reach) for c in self.center or [0.0] * self.dim]

    def frame(self) -> tuple[list[float], float]:
        """Centre, and three standard deviations."""
        return list(self.center or [0.0] * self.dim), FRAME_DEVIATIONS * self.sigma
