"""Ellipsoids, simplices and polygons."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import exp, lgamma, log, pi, prod, sqrt
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.base import (
    Domain,
    check_law,
    conjunction,
    dimension,
    length,
    numbers,
    product,
    rounding,
    set_fields,
)
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import directions, stream, uniforms
from kanpde.jets.ansatz import Field

BATCHES = 200  # of trials, after which no point was accepted
QUADRATURE = 2**16  # directions over which the area of an ellipsoid is a mean


@dataclass(frozen=True)
class Ellipsoid(Domain):
    """sum_i ((x_i - center_i) / axes_i)^2 < 1.

    Args:
        axes: the half-axes, one for each coordinate.
        center: None: the origin.
    Raises:
        ConfigError: a half-axis that is not above 0, or another number of coordinates.

    Example:
        >>> round(Ellipsoid((1.0, 2.0, 3.0)).volume / pi, 6)  # 4/3 pi a b c
        8.0
    """

    axes: tuple[float, ...]
    center: tuple[float, ...] | None = None
    laws = ("volume",)

    def __post_init__(self):
        given = numbers("Ellipsoid", "axes", self.axes, len(self.axes) if hasattr(self.axes, "__len__") else 1)
        set_fields(self, axes=tuple(length("Ellipsoid", "axes", a) for a in given))
        center = (0.0,) * self.dim if self.center is None else self.center
        set_fields(self, center=numbers("Ellipsoid", "center", center, self.dim))

    @property
    def dim(self) -> int:
        """As many as there are half-axes."""
        return len(self.axes)

    def _scaled(self, x: Tensor) -> Tensor:
        return (x - x.new_tensor(self.center)) / x.new_tensor(self.axes)

    def _placed(self, y: Tensor) -> Tensor:
        return y * y.new_tensor(self.axes) + y.new_tensor(self.center)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points uniform in the volume: those of the ball, stretched."""
        check_law(law, self.laws)
        u = uniforms(n, self.dim + 1, generator, sequence, **kind)
        direction = directions(n, self.dim, generator, uniform=u[:, :-1])
        return self._placed(u[:, -1:] ** (1 / self.dim) * direction)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the surface: directions, accepted as often as their element of area is large."""

        def trial(m: int) -> Tensor:
            y = directions(m, self.dim, generator, **kind)
            share = self._stretch(y) * min(self.axes)
            return self._placed(y[torch.rand(m, generator=generator, device=y.device, dtype=y.dtype) < share])

        return accepted(trial, n)

    def _stretch(self, y: Tensor) -> Tensor:
        return (y / y.new_tensor(self.axes)).norm(dim=1)

    def contains(self, x: Tensor) -> Tensor:
        return self._scaled(x).square().sum(-1) <= 1 + rounding(x)

    def factor(self, x: Tensor) -> Field:
        """m = 1 - sum_i ((x_i - center_i) / axes_i)^2."""
        y, axes = self._scaled(x), x.new_tensor(self.axes)
        return Field(1 - y.square().sum(-1), -2 * y / axes, -2 / axes.square().unsqueeze(0))

    def distance(self, x: Tensor) -> Tensor:
        """min(axes) (1 - |y|), y the point of the unit ball: a bound, as the map from it shrinks nothing by more."""
        return min(self.axes) * (1 - self._scaled(x).norm(dim=-1))

    def level(self, x: Tensor) -> Tensor:
        """The factor over its slope, which makes that 1 at the boundary."""
        y = self._scaled(x)
        slope = (y / x.new_tensor(self.axes)).square().sum(-1) + 1e-12 / min(self.axes) ** 2
        return (1 - y.square().sum(-1)) / (2 * slope.sqrt())

    @property
    def volume(self) -> float:
        """That of the unit ball times the half-axes."""
        return exp(self.dim / 2 * log(pi) - lgamma(self.dim / 2 + 1)) * prod(self.axes)

    @cached_property
    def area(self) -> float:
        """The mean element of area over directions of a Sobol sequence, to about four digits."""
        u = uniforms(QUADRATURE, self.dim, stream(0, "area"), "sobol", dtype=torch.float64)
        mean = self._stretch(directions(QUADRATURE, self.dim, stream(0, "area"), uniform=u)).mean().item()
        return self.dim * self.volume * mean

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return [(c - a, c + a) for c, a in zip(self.center, self.axes, strict=True)]

    def frame(self) -> tuple[list[float], list[float]]:
        """Centre and half-axes."""
        return list(self.center), list(self.axes)


@dataclass(frozen=True)
class Simplex(Domain):
    """x_i > 0 with sum_i x_i < size, in R^dim.

    Example:
        >>> round(Simplex(3).volume, 6)
        0.166667
    """

    dim: int
    size: float = 1.0
    laws = ("volume",)

    def __post_init__(self):
        set_fields(self, dim=dimension(self), size=length("Simplex", "size", self.size))

    def _weights(self, x: Tensor) -> Tensor:
        """The d + 1 barycentric coordinates (N, d + 1), which add up to 1."""
        y = x / self.size
        return torch.cat([y, 1 - y.sum(-1, keepdim=True)], -1)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points uniform in the volume: exponential numbers over their sum."""
        check_law(law, self.laws)
        return self.size * _spacings(uniforms(n, self.dim + 1, generator, sequence, **kind))[:, :-1]

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the d + 1 faces; the slanted one is sqrt(d) times as large as each of the others."""
        weights = torch.ones(self.dim + 1, dtype=torch.float64, device=generator.device)
        weights[-1] = sqrt(self.dim)
        face = torch.multinomial(weights, n, replacement=True, generator=generator)
        inside = _spacings(uniforms(n, self.dim, generator, sequence, **kind))  # of the d corners of a face
        order = torch.arange(self.dim + 1, device=face.device)
        kept = order.expand(n, -1)[order != face.unsqueeze(1)].view(n, self.dim)
        return (
            self.size
            * torch.zeros(n, self.dim + 1, dtype=inside.dtype, device=face.device).scatter(1, kept, inside)[:, :-1]
        )

    def contains(self, x: Tensor) -> Tensor:
        return (self._weights(x) >= 0).all(-1)

    def factor(self, x: Tensor) -> Field:
        """m = (d + 1)^(d + 1) times the product of the barycentric coordinates: 1 at the centre."""
        return Field.of(lambda x: product((self.dim + 1) * self._weights(x)), x)

    def distance(self, x: Tensor) -> Tensor:
        """The smallest distance to a face, which outside is a bound."""
        w = self.size * self._weights(x)
        return torch.minimum(w[:, :-1].amin(-1), w[:, -1] / sqrt(self.dim))

    def level(self, x: Tensor) -> Tensor:
        """The smallest distance to a face, smoothed as an R-conjunction."""
        w = self.size * self._weights(x)
        return conjunction([*w[:, :-1].unbind(-1), w[:, -1] / sqrt(self.dim)])

    def normal(self, x: Tensor) -> Tensor:
        """Of the face to which a point is nearest."""
        w = self._weights(x)
        face = w.abs().argmin(-1)
        faces = torch.cat(
            [-torch.eye(self.dim, dtype=x.dtype, device=x.device), x.new_full((1, self.dim), self.dim**-0.5)]
        )
        return faces[face]

    @property
    def volume(self) -> float:
        """size^d / d!."""
        return exp(self.dim * log(self.size) - lgamma(self.dim + 1))

    @property
    def area(self) -> float:
        """(d + sqrt(d)) size^(d - 1) / (d - 1)!."""
        return (self.dim + sqrt(self.dim)) * exp((self.dim - 1) * log(self.size) - lgamma(self.dim))

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return [(0.0, self.size)] * self.dim

    def frame(self) -> tuple[list[float], float]:
        """Centre and half-width of the cube around it."""
        return [self.size / 2] * self.dim, self.size / 2


@dataclass(frozen=True)
class Polygon(Domain):
    """A polygon in the plane, convex or not, that does not cross itself.

    Args:
        vertices: three or more corners (x, y), in either sense.
    Raises:
        ConfigError: fewer corners, two that are the same, or sides that cross.

    Example:
        >>> Polygon(((0, 0), (1, 0), (0, 1))).volume
        0.5
    """

    vertices: tuple[tuple[float, float], ...]
    laws = ("volume",)
    dim = 2

    def __post_init__(self):
        corners = tuple(numbers("Polygon", "vertices", v, 2) for v in self.vertices)
        if len(corners) < 3 or len(set(corners)) < len(corners):
            raise ConfigError(f"Polygon: vertices: given {len(corners)}, needed are three or more different ones")
        signed = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise([*corners, corners[0]])) / 2
        set_fields(self, vertices=corners if signed > 0 else corners[::-1])
        sides = list(pairwise([*self.vertices, self.vertices[0]]))
        for i, first in enumerate(sides):
            for j in range(i + 1, len(sides)):
                if j - i not in (1, len(sides) - 1) and _cross(first, sides[j]):
                    raise ConfigError(f"Polygon: vertices: sides {i} and {j} cross")

    def _sides(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Begin and vector of the sides, (k, 2) each."""
        begin = x.new_tensor(self.vertices)
        return begin, begin.roll(-1, 0) - begin

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points uniform in the area, those of the rectangle around it that are inside."""
        check_law(law, self.laws)

        def trial(m: int) -> Tensor:
            u = uniforms(m, 2, generator, sequence, **kind)
            low, high = (u.new_tensor(t) for t in zip(*self.input_range(law), strict=True))
            x = low + (high - low) * u
            return x[self.contains(x)]

        return accepted(trial, n)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the sides."""
        u = uniforms(n, 1, generator, sequence, **kind)
        begin, along = self._sides(u)
        side = torch.multinomial(along.norm(dim=1), n, replacement=True, generator=generator)
        return begin[side] + u * along[side]

    def contains(self, x: Tensor) -> Tensor:
        """Whether a ray crosses an odd number of sides, or the point is on one."""
        (begin, along), y = self._sides(x), x.unsqueeze(1)
        end = begin + along
        spans = (begin[:, 1] > y[..., 1]) != (end[:, 1] > y[..., 1])
        crossing = begin[:, 0] + (y[..., 1] - begin[:, 1]) * along[:, 0] / torch.where(along[:, 1] == 0, 1, along[:, 1])
        inside = (spans & (y[..., 0] < crossing)).sum(1) % 2 == 1
        on = self._distances(x).amin(1) <= 4 * torch.finfo(x.dtype).eps * x.new_tensor(self.vertices).abs().max()
        return inside | on

    def _distances(self, x: Tensor) -> Tensor:
        """To each side, (N, k)."""
        begin, along = self._sides(x)
        to = x.unsqueeze(1) - begin
        share = ((to * along).sum(-1) / along.square().sum(-1)).clamp(0, 1)
        return (to - share.unsqueeze(-1) * along).norm(dim=-1)

    def factor(self, x: Tensor) -> Field:
        """1 over the sum of 1 / phi_i for smooth distances phi_i to the sides, in units of the size of the polygon.

        Source: Biswas and Shapiro 2004; Sukumar and Srivastava 2022 (arXiv 2104.08426), eq. 9 and 12.
        """
        return Field.of(lambda x: 4 * self._smooth(x) / self.volume**0.5, x)

    def _smooth(self, x: Tensor) -> Tensor:
        begin, along = self._sides(x)
        size = along.norm(dim=1)
        to = x.unsqueeze(1) - (begin + along / 2)
        f = (to[..., 0] * along[:, 1] - to[..., 1] * along[:, 0]) / size  # distance to the line of the side
        t = ((size / 2) ** 2 - to.square().sum(-1)) / size  # above zero beside the side
        phi = torch.sqrt(f**2 + ((torch.sqrt(t**2 + f**4) - t) / 2) ** 2 + torch.finfo(x.dtype).tiny)
        nearest = phi.amin(1)
        return nearest / (nearest.unsqueeze(1) / phi).sum(1)

    def distance(self, x: Tensor) -> Tensor:
        """To the nearest side, below zero outside."""
        return torch.where(self.contains(x), 1, -1) * self._distances(x).amin(1)

    def level(self, x: Tensor) -> Tensor:
        """The smooth distance, below zero outside."""
        return torch.where(self.contains(x), 1, -1) * self._smooth(x)

    def normal(self, x: Tensor) -> Tensor:
        """Of the side to which a point is nearest."""
        _, along = self._sides(x)
        outward = torch.stack([along[:, 1], -along[:, 0]], 1) / along.norm(dim=1, keepdim=True)
        return outward[self._distances(x).argmin(1)]

    @property
    def volume(self) -> float:
        """Its area, by the shoelace formula."""
        return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise([*self.vertices, self.vertices[0]])) / 2

    @property
    def area(self) -> float:
        """Its perimeter."""
        return self._sides(torch.zeros(0, dtype=torch.float64))[1].norm(dim=1).sum().item()

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return [(min(column), max(column)) for column in zip(*self.vertices, strict=True)]

    def frame(self) -> tuple[list[float], list[float]]:
        """Centre and half-widths of the rectangle around it."""
        sides = self.input_range("volume")
        return [(low + high) / 2 for low, high in sides], [(high - low) / 2 for low, high in sides]


def _cross(first: tuple, second: tuple) -> bool:
    """Whether two sides, which share no corner, meet."""
    turn = lambda a, b, c: (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
    (a, b), (c, d) = first, second
    return turn(a, b, c) * turn(a, b, d) <= 0 and turn(c, d, a) * turn(c, d, b) <= 0


def _spacings(u: Tensor) -> Tensor:
    """Uniform in the simplex of the weights that add up to 1."""
    e = -torch.log(u.clamp_min(torch.finfo(u.dtype).tiny))
    return e / e.sum(-1, keepdim=True)


def accepted(trial: Callable[[int], Tensor], n: int, what: str = "the domain") -> Tensor:
    """n of the points that trial(m) leaves of m.

    Raises:
        ConfigError: it leaves none, or hardly any.
    """
    each = 2 * n + 16
    found = [trial(each)]
    for _ in range(BATCHES):
        if sum(map(len, found)) >= n:
            return torch.cat(found)[:n]
        found.append(trial(each))
    raise ConfigError(f"{sum(map(len, found))} of {len(found) * each:,} points are in {what}: is it empty?")
