"""The ball."""

from dataclasses import dataclass, field
from math import exp, lgamma, log, pi, sqrt
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_law, dimension, length, numbers, rounding, set_fields
from kanpde.ground.samplers import directions, uniforms
from kanpde.jets.ansatz import Field, SlicedField
from kanpde.jets.slices import Slice, total

GRID_DEVIATIONS = 4.0  # of a coordinate, in the first grid


@dataclass(frozen=True)
class Ball(Domain):
    """The ball |x - center| < radius in R^dim.

    Laws: `radial` has a uniform direction and |x - center| uniform in [0, radius] (Hu et al. 2024, the MetaKAN paper);
    `volume` is uniform in the volume, where the distance concentrates at the boundary like radius U^(1/dim).

    Args:
        dim: d.
        radius: above 0.
        center: d numbers; None: the origin.
    Raises:
        ConfigError: not finite, a radius that is not above 0, or another number of coordinates.

    Example:
        >>> Ball(2, 0.5, (1.0, 0.0)).input_range("volume")
        [(0.5, 1.5), (-0.5, 0.5)]
    """

    dim: int
    radius: float = 1.0
    center: tuple[float, ...] | None = None
    laws = ("radial", "volume")  # the first is the default

    def __post_init__(self):
        set_fields(self, dim=dimension(self), radius=length("Ball", "radius", self.radius))
        if self.center is not None:
            set_fields(self, center=numbers("Ball", "center", self.center, self.dim))

    def _from_center(self, x: Tensor) -> Tensor:
        return x if self.center is None else x - x.new_tensor(self.center)

    def _placed(self, x: Tensor) -> Tensor:
        return x if self.center is None else x + x.new_tensor(self.center)

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
        return self._placed(direction.mul_(self.radius * (u if law == "radial" else u ** (1 / self.dim))))

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the sphere."""
        uniform = None if sequence == "random" else uniforms(n, self.dim, generator, sequence, **kind)
        return self._placed(self.radius * directions(n, self.dim, generator, uniform=uniform, **kind))

    def contains(self, x: Tensor) -> Tensor:
        return self._from_center(x).square().sum(-1) <= self.radius**2 * (1 + rounding(x))

    def factor(self, x: Tensor) -> Field:
        """m = 1 - |x - center|^2 / radius^2."""
        scale, x = self.radius**-2, self._from_center(x)
        return Field(1 - scale * x.square().sum(-1), -2 * scale * x, x.new_full((1, 1), -2 * scale))

    def distance(self, x: Tensor) -> Tensor:
        """radius - |x - center|."""
        return self.radius - self._from_center(x).norm(dim=-1)

    def level(self, x: Tensor) -> Tensor:
        """(radius^2 - |x - center|^2) / (2 radius), of slope 1 at the boundary."""
        return (self.radius**2 - self._from_center(x).square().sum(-1)) / (2 * self.radius)

    @property
    def volume(self) -> float:
        """pi^(d/2) radius^d / Gamma(d/2 + 1)."""
        return exp(self.dim / 2 * log(pi) + self.dim * log(self.radius) - lgamma(self.dim / 2 + 1))

    @property
    def area(self) -> float:
        """d volume / radius."""
        return self.dim * self.volume / self.radius

    def input_range(self, law: str) -> list[tuple[float, float]]:
        """An interval per coordinate that holds almost all points; their deviation is about radius / sqrt(dim)."""
        reach = min(self.radius, GRID_DEVIATIONS * self.radius / sqrt(self.dim))
        return [(c - reach, c + reach) for c in self.center or [0.0] * self.dim]

    def frame(self) -> tuple[list[float], float]:
        """Centre and half-width of the pictures."""
        return list(self.center or [0.0] * self.dim), self.radius


@dataclass(frozen=True)
class SlicedBall(Ball):
    """The unit ball of which each process has some coordinates of every point; `dim` are all of them.

    Radii come from the generator, which is the same in all processes, and directions from streams made with it, one for
    each block of inputs: points do not depend on the number of processes. |g|^2 of the Gaussians g is summed over them.

    Args:
        inputs: the coordinates that this process has.
    """

    inputs: Slice = field(kw_only=True)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "radial", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """The coordinates (n, width) of n points; the sequence is random."""
        check_law(law)
        u = torch.rand(n, 1, generator=generator, device=generator.device, **kind)
        return self._directions(n, generator, **kind).mul_(u if law == "radial" else u ** (1 / self.dim))

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """Those of n points uniform on the sphere."""
        return self._directions(n, generator, **kind)

    def _directions(self, n: int, generator: torch.Generator, **kind: Any) -> Tensor:
        seed = torch.randint(2**62, (1,), generator=generator, device=generator.device).item()
        normal = lambda width, own: torch.randn(n, width, generator=own, device=own.device, **kind)
        g = self.inputs.drawn("directions", seed, normal, 1, generator.device)
        (square,) = self.inputs.sum(g.square().sum(1, dtype=torch.float64))  # in float32 the same bits by any number
        return g.div_(square.sqrt().to(g.dtype).clamp_min(torch.finfo(g.dtype).tiny).unsqueeze(1))

    def _square(self, x: Tensor) -> Tensor:
        """|x|^2 (N,)."""
        (square,) = total([x.square()], self.inputs)
        return square

    def contains(self, x: Tensor) -> Tensor:
        return self._square(x) <= 1 + torch.finfo(x.dtype).eps * self.dim**0.5

    def factor(self, x: Tensor) -> Field:
        """m = 1 - |x|^2."""
        return SlicedField(1 - self._square(x), -2 * x, x.new_full((1, 1), -2.0), self.inputs)

    def distance(self, x: Tensor) -> Tensor:
        return 1 - self._square(x).sqrt()

    def level(self, x: Tensor) -> Tensor:
        return (1 - self._square(x)) / 2

    def input_range(self, law: str) -> list[tuple[float, float]]:
        """That of each coordinate of this process."""
        reach = min(1.0, GRID_DEVIATIONS / sqrt(self.dim))
        return [(-reach, reach)] * self.inputs.width

    def frame(self) -> tuple[list[float], float]:
        return [0.0] * self.inputs.width, 1.0
