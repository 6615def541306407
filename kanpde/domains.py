"""Domains: where a problem lives, points in it and on its boundary, and the factor that vanishes there."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from kanpde.ansatz import Field
from kanpde.samplers import directions, uniforms

LAWS = ("radial", "volume")


@dataclass(frozen=True)
class Ball:
    """The ball |x| < radius in R^dim.

    Laws: `radial` has a uniform direction and |x| uniform in [0, radius] (Hu et al. 2024, the MetaKAN paper);
    `volume` is uniform in the volume, where |x| concentrates at the boundary like radius U^(1/dim).
    """

    dim: int
    radius: float = 1.0
    laws = ("radial", "volume")  # the first is the default

    def interior(
        self, n: int, generator: torch.Generator, law: str = "radial", sequence: str = "random", **kind
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

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind) -> Tensor:
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


GRID_DEVIATIONS = 4.0


@dataclass(frozen=True)
class Box:
    """The box low < x_i < high in R^dim; the one law is uniform."""

    dim: int
    low: float = -1.0
    high: float = 1.0
    laws = ("volume",)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind
    ) -> Tensor:
        check_law(law)
        return self.low + (self.high - self.low) * uniforms(n, self.dim, generator, sequence, **kind)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind) -> Tensor:
        """n points uniform on the 2 dim faces."""
        x = self.interior(n, generator, sequence=sequence, **kind)
        face = torch.randint(2 * self.dim, (n, 1), generator=generator, device=x.device)
        side = self.low + (self.high - self.low) * (face % 2).to(x.dtype)
        return x.scatter(1, face // 2, side)

    def contains(self, x: Tensor) -> Tensor:
        return ((x >= self.low) & (x <= self.high)).all(-1)

    def factor(self, x: Tensor) -> Field:
        """m = prod_i 4 (x_i - low)(high - x_i) / (high - low)^2, one at the centre."""
        scale = 4 / (self.high - self.low) ** 2
        each = scale * (x - self.low) * (self.high - x)
        others = _products_of_others(each)
        slope = scale * (self.low + self.high - 2 * x)
        return Field(each.prod(-1), slope * others, -2 * scale * others)

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return [(self.low, self.high)] * self.dim

    def frame(self) -> tuple[list[float], float]:
        """Centre and half-width of the pictures."""
        return [(self.low + self.high) / 2] * self.dim, (self.high - self.low) / 2


def _products_of_others(each: Tensor) -> Tensor:
    """prod_{j != i} each_j, without division."""
    ones = torch.ones_like(each[:, :1])
    before = torch.cat([ones, each[:, :-1]], 1).cumprod(1)
    after = torch.cat([ones, each[:, 1:].flip(1)], 1).cumprod(1).flip(1)
    return before * after


@dataclass(frozen=True)
class Cylinder:
    """Space-time: a spatial domain times [0, time]; the last coordinate is t."""

    space: Ball | Box
    time: float = 1.0

    @property
    def dim(self) -> int:
        return self.space.dim + 1

    @property
    def laws(self) -> tuple[str, ...]:
        return self.space.laws

    def interior(
        self, n: int, generator: torch.Generator, law: str = "radial", sequence: str = "random", **kind
    ) -> Tensor:
        """n points (n, dim): space by its law and sequence, time uniform and always plain."""
        return self._in_time(self.space.interior(n, generator, law, sequence, **kind), generator)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind) -> Tensor:
        """n points on the lateral boundary."""
        return self._in_time(self.space.boundary(n, generator, sequence, **kind), generator)

    def initial(
        self, n: int, generator: torch.Generator, law: str = "radial", sequence: str = "random", **kind
    ) -> Tensor:
        """n points at t = 0."""
        x = self.space.interior(n, generator, law, sequence, **kind)
        return torch.cat([x, x.new_zeros(n, 1)], 1)

    def _in_time(self, x: Tensor, generator: torch.Generator) -> Tensor:
        t = torch.rand(len(x), 1, generator=generator, device=x.device, dtype=x.dtype)
        return torch.cat([x, self.time * t], 1)

    def contains(self, x: Tensor) -> Tensor:
        return self.space.contains(x[:, :-1]) & (x[:, -1] >= 0) & (x[:, -1] <= self.time)

    def factor(self, x: Tensor) -> Field:
        """m = t m_space: zero at t = 0 and on the lateral boundary."""
        t = x[:, -1:]
        m = self.space.factor(x[:, :-1])
        second = (t * m.hessian_diagonal).expand(len(x), self.space.dim)
        return Field(
            t[:, 0] * m.value,
            torch.cat([t * m.grad, m.value[:, None]], 1),
            torch.cat([second, torch.zeros_like(t)], 1),
        )

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return [*self.space.input_range(law), (0.0, self.time)]

    def frame(self) -> tuple[list[float], float]:
        """Centre (in the middle of time) and half-width in space of the pictures."""
        centre, reach = self.space.frame()
        return [*centre, self.time / 2], reach


def check_law(law: str, laws: Sequence[str] = LAWS) -> None:
    """Raises ValueError for a law that is not one of these."""
    if law not in laws:
        raise ValueError(f"sampling law {law!r} is not one of {', '.join(laws)}")
