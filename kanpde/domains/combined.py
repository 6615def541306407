"""Unions, intersections and differences of domains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_law, conjunction, time_of
from kanpde.domains.shapes import accepted
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Field

MEASURE = 2**18  # points by which measures are estimated


@dataclass(frozen=True)
class Combined(Domain):
    """`first | second`, `first & second` or `first - second`.

    Points are those of the two, uniform in volume and on the boundary, that the combination keeps. The factor is an
    R-function of the levels of both: smooth but where both vanish. Measures are estimates, to about three digits.

    Raises:
        ConfigError: two dimensions, or a domain with time.

    Example:
        >>> from kanpde.domains import Ball, Box
        >>> plate = Box(2) - Ball(2, 0.5)
        >>> bool(plate.contains(torch.zeros(1, 2))), round(plate.volume, 1)
        (False, 3.2)
    """

    how: Literal["union", "intersection", "difference"]
    first: Domain
    second: Domain
    laws = ("volume",)

    def __post_init__(self):
        for part in (self.first, self.second):
            if time_of(part) is not None or "volume" not in part.laws:
                timed = time_of(part) is not None
                hint = "combine domains of space, then add time" if timed else "needed is one with points by volume"
                raise ConfigError(f"{self.how}: given a {type(part).__name__}; {hint}")
        if self.first.dim != self.second.dim:
            raise ConfigError(f"{self.how}: given domains of {self.first.dim} and {self.second.dim} dimensions")

    @property
    def dim(self) -> int:
        """Of both."""
        return self.first.dim

    @property
    def sides(self) -> list[tuple[float, float]] | None:
        """Those of a box that is left when something is taken away; None: it has none."""
        return getattr(self.first, "sides", None) if self.how == "difference" else None

    @property
    def _outer(self) -> tuple[Domain, ...]:
        """The domains that points of the interior are drawn in."""
        return (self.first, self.second) if self.how == "union" else (self.first,)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points uniform in the volume."""
        check_law(law, self.laws)
        return accepted(lambda m: self._trial(m, generator, sequence, **kind), n)

    def _trial(self, m: int, generator: torch.Generator, sequence: str, **kind: Any) -> Tensor:
        if self.how != "union":
            x = self.first.interior(m, generator, "volume", sequence, **kind)
            return x[self.contains(x)]
        draws = [
            partial(part.interior, generator=generator, law="volume", sequence=sequence, **kind) for part in self._outer
        ]
        x = _of_either(draws, [part.volume for part in self._outer], m, generator)
        twice = self.first.contains(x) & self.second.contains(x)  # drawn twice as often
        coin = torch.rand(len(x), generator=generator, device=x.device) < 0.5
        return x[~twice | coin]

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the boundary."""
        return accepted(lambda m: self._edge(m, generator, sequence, **kind), n)

    def _edge(self, m: int, generator: torch.Generator, sequence: str, **kind: Any) -> Tensor:
        parts = self.first, self.second
        draws = [partial(part.boundary, generator=generator, sequence=sequence, **kind) for part in parts]
        x = _of_either(draws, [part.area for part in parts], m, generator)
        on_first = self._is_of_first(x)
        in_other = torch.where(on_first, self.second.contains(x), self.first.contains(x))
        if self.how == "union":
            return x[~in_other]
        return x[in_other if self.how == "intersection" else in_other ^ on_first]

    def _is_of_first(self, x: Tensor) -> Tensor:
        """Of points on the boundary, which lie on that of the first."""
        return self.first.level(x).abs() <= self.second.level(x).abs()

    def contains(self, x: Tensor) -> Tensor:
        a, b = self.first.contains(x), self.second.contains(x)
        return {"union": a | b, "intersection": a & b, "difference": a & ~b}[self.how]

    def distance(self, x: Tensor) -> Tensor:
        """The smaller or the larger of both distances, a bound of the distance to the boundary."""
        a, b = self.first.distance(x), self.second.distance(x)
        return a.maximum(b) if self.how == "union" else a.minimum(b if self.how == "intersection" else -b)

    def level(self, x: Tensor) -> Tensor:
        """f + g - sqrt(f^2 + g^2) of both levels, of what is left out its negative."""
        a, b = self.first.level(x), self.second.level(x)
        if self.how == "union":
            return -conjunction([-a, -b])
        return conjunction([a, b if self.how == "intersection" else -b])

    def factor(self, x: Tensor) -> Field | None:
        """The level, in half the width of the domain; None where one of the two has no factor."""
        if any(part.factor(x[:1]) is None for part in (self.first, self.second)):
            return None
        half = max(high - low for low, high in self.input_range("volume")) / 2
        return Field.of(lambda x: self.level(x) / half, x)

    def normal(self, x: Tensor) -> Tensor:
        """That of the domain on whose boundary a point is, of one that is left out the other way."""
        sign = -1 if self.how == "difference" else 1
        return torch.where(self._is_of_first(x).unsqueeze(1), self.first.normal(x), sign * self.second.normal(x))

    @cached_property
    def volume(self) -> float:
        """Estimated."""
        total = sum(part.volume for part in self._outer)
        return total * len(self._trial(MEASURE, stream(0, "volume"), "random", dtype=torch.float64)) / MEASURE

    @cached_property
    def area(self) -> float:
        """Estimated."""
        total = self.first.area + self.second.area
        return total * len(self._edge(MEASURE, stream(0, "area"), "random", dtype=torch.float64)) / MEASURE

    def input_range(self, law: str) -> list[tuple[float, float]]:
        ranges = [part.input_range("volume") for part in (self.first, self.second)]
        if self.how == "difference":
            return list(ranges[0])
        low, high = (max, min) if self.how == "intersection" else (min, max)
        return [(low(a[0], b[0]), high(a[1], b[1])) for a, b in zip(*ranges, strict=True)]

    def frame(self) -> tuple[list[float], list[float]]:
        """Centre and half-widths of the box around it."""
        sides = self.input_range("volume")
        return [(low + high) / 2 for low, high in sides], [(high - low) / 2 for low, high in sides]


Domain._combine = Combined


def _of_either(
    draws: Sequence[Callable[[int], Tensor]], sizes: list[float], m: int, generator: torch.Generator
) -> Tensor:
    """m points by two ways to draw them, of each as many as its size says, shuffled."""
    first = int(torch.rand(m, generator=generator, device=generator.device).lt(sizes[0] / sum(sizes)).sum())
    x = torch.cat([draw(n) for draw, n in zip(draws, (first, m - first), strict=True)])
    return x[torch.randperm(m, generator=generator, device=generator.device)]
