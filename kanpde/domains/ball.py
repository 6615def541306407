"""The ball."""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_law, dimension, length, set_fields
from kanpde.ground.samplers import directions, uniforms
from kanpde.jets.ansatz import Field

GRID_DEVIATIONS = 4.0  # of a coordinate, in the first grid


@dataclass(frozen=True)
class Ball(Domain):
    """The ball |x| < radius in R^dim.

    Laws: `radial` has a uniform direction and |x| uniform in [0, radius] (Hu et al. 2024, the MetaKAN paper);
    `volume` is uniform in the volume, where |x| concentrates at the boundary like radius U^(1/dim).
    """

    dim: int
    radius: float = 1.0
    laws = ("radial", "volume")  # the first is the default

    def __post_init__(self):
        set_fields(self, dim=dimension(self), radius=length("Ball", "radius", self.radius))

    def interior(
        self, n: int, generator: torch.Generator, law: str = "radial", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points (n, dim); `kind` may hold dtype."""
        check_law(law)
        if sequence == "random":
            u = torch.rand(n, 1, generator=generator, device=generator.device, **kind)
            direction = directions(n, self.dim, generator, **kind)
        else:
            u = uniforms(n, self.dim + 1, generator, sequence, **kind)
            direction, u = directions(n, self.dim, generator, uniform=u[:, :-1]), u[:, -1:]
        return self.radius * (u if law == "radial" else u ** (1 / self.dim)) * direction

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the sphere."""
        uniform = None if sequence == "random" else uniforms(n, self.dim, generator, sequence, **kind)
        return self.radius * directions(n, self.dim, generator, uniform=uniform, **kind)

    def contains(self, x: Tensor) -> Tensor:
        return x.square().sum(-1) <= self.radius**2

    def factor(self, x: Tensor) -> Field:
        """m = 1 - |x|^2 / radius^2."""
        scale = self.radius**-2
        return Field(1 - scale * x.square().sum(-1), -2 * scale * x, x.new_full((1, 1), -2 * scale))

    def input_range(self, law: str) -> list[tuple[float, float]]:
        """An interval per coordinate that holds almost all points; their deviation is about radius / sqrt(dim)."""
        reach = min(self.radius, GRID_DEVIATIONS * self.radius / sqrt(self.dim))
        return [(-reach, reach)] * self.dim

    def frame(self) -> tuple[list[float], float]:
        """Centre and half-width of the pictures."""
        return [0.0] * self.dim, self.radius
