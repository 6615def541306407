"""The box."""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_law, conjunction, dimension, number, product, set_fields
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import uniforms
from kanpde.jets.ansatz import Field


@dataclass(frozen=True)
class Box(Domain):
    """The box low_i < x_i < high_i in R^dim; the one law is uniform.

    Args:
        dim: d.
        low, high: a number for all coordinates, or one for each.
    Raises:
        ConfigError: not finite, low is not below high, or another number of them than dim.

    Example:
        >>> Box(2, 0, (1, 2)).volume, Box(2).contains(torch.tensor([[0.5, 0.5], [2.0, 0.0]]))
        (2.0, tensor([ True, False]))
    """

    dim: int
    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0
    laws = ("volume",)

    def __post_init__(self):
        set_fields(self, dim=dimension(self))
        set_fields(self, low=_per_axis(self, "low"), high=_per_axis(self, "high"))
        for i, (low, high) in enumerate(self.sides):
            if not low < high:
                where = "" if isinstance(self.low, float) and isinstance(self.high, float) else f" of coordinate {i}"
                raise ConfigError(f"Box: low and high{where}: given {low:g} and {high:g}, needed is low < high")

    @property
    def sides(self) -> list[tuple[float, float]]:
        """(low, high) of each axis."""
        each = lambda value: [value] * self.dim if isinstance(value, float) else value
        return list(zip(each(self.low), each(self.high), strict=True))

    def _limits(self) -> tuple[Tensor, Tensor]:
        """low and high in float64, (d,) each."""
        each = lambda value: torch.tensor(value, dtype=torch.float64).expand(self.dim)
        return each(self.low), each(self.high)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points (n, dim); `kind` may hold dtype."""
        check_law(law)
        t = uniforms(n, self.dim, generator, sequence, **kind)
        low, high = self._limits()
        return low.to(t) + (high - low).to(t) * t

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the 2 dim faces: a face as often as it is large, prod_{j != i} width_j."""
        x = self.interior(n, generator, sequence=sequence, **kind)
        low, high = (side.to(x.device) for side in self._limits())
        width = high - low
        if (width == width[0]).all():
            face = torch.randint(2 * self.dim, (n, 1), generator=generator, device=x.device)
        else:  # the area of a face is the volume by the width across it
            area = (width.min() / width).repeat_interleave(2)
            face = torch.multinomial(area, n, replacement=True, generator=generator).unsqueeze(1)
        axis = face // 2
        return x.scatter(1, axis, torch.where(face % 2 == 1, high[axis], low[axis]).to(x.dtype))

    def contains(self, x: Tensor) -> Tensor:
        low, high = (side.to(x) for side in self._limits())
        return ((x >= low) & (x <= high)).all(-1)

    def factor(self, x: Tensor) -> Field:
        """m = prod_i 4 (x_i - low_i)(high_i - x_i) / (high_i - low_i)^2, one at the centre."""
        low, high = self._limits()
        scale = (4 / (high - low).square()).to(x)
        low, high, middle = low.to(x), high.to(x), (low + high).to(x)
        each = scale * (x - low) * (high - x)
        others = _products_of_others(each)
        slope = scale * (middle - 2 * x)
        return Field(product(each), slope * others, -2 * scale * others)

    def distance(self, x: Tensor) -> Tensor:
        """To the nearest side; of a point outside that to the box, below zero."""
        low, high = (side.to(x) for side in self._limits())
        inside = torch.minimum(x - low, high - x)
        return torch.where((inside >= 0).all(-1), inside.amin(-1), -inside.clamp_max(0).norm(dim=-1))

    def nearest(self, x: Tensor) -> Tensor:
        """On the nearest side; of a point outside that of the box."""
        low, high = (side.to(x) for side in self._limits())
        to_low, to_high = x - low, high - x
        axis = torch.minimum(to_low, to_high).argmin(-1, keepdim=True)
        side = torch.where(to_low < to_high, low.expand_as(x), high.expand_as(x)).gather(-1, axis)
        inside = (self.distance(x) > 0).unsqueeze(-1)
        return torch.where(inside, x.scatter(-1, axis, side), x.clamp(low, high))

    def level(self, x: Tensor) -> Tensor:
        """The R-conjunction of (x_i - low_i)(high_i - x_i) / (high_i - low_i) over the axes."""
        low, high = (side.to(x) for side in self._limits())
        return conjunction(list(((x - low) * (high - x) / (high - low)).unbind(-1)))

    def normal(self, x: Tensor) -> Tensor:
        """The unit vector across the side to which a point is nearest."""
        low, high = (side.to(x) for side in self._limits())
        to_low, to_high = (x - low).abs() / (high - low), (high - x).abs() / (high - low)
        axis = torch.minimum(to_low, to_high).argmin(-1, keepdim=True)
        sign = torch.where(to_high.gather(1, axis) < to_low.gather(1, axis), 1.0, -1.0).to(x)
        return torch.zeros_like(x).scatter(1, axis, sign)

    @property
    def volume(self) -> float:
        """The product of the sides."""
        return prod(high - low for low, high in self.sides)

    @property
    def area(self) -> float:
        """Twice the sum over the axes of the volume by the side across."""
        return 2 * sum(self.volume / (high - low) for low, high in self.sides)

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return self.sides

    def frame(self) -> tuple[list[float], float | list[float]]:
        """Centre and half-width, of unequal sides one for each."""
        half = [(high - low) / 2 for low, high in self.sides]
        return [(low + high) / 2 for low, high in self.sides], half[0] if len(set(half)) == 1 else half


def _products_of_others(each: Tensor) -> Tensor:
    """prod_{j != i} each_j, without division."""
    ones = torch.ones_like(each[:, :1])
    before = torch.cat([ones, each[:, :-1]], 1).cumprod(1)
    after = torch.cat([ones, each[:, 1:].flip(1)], 1).cumprod(1).flip(1)
    return before * after


def _per_axis(box: Box, name: str) -> float | tuple[float, ...]:
    """low or high as a float, or a tuple of one for each coordinate."""
    value = getattr(box, name)
    if getattr(value, "ndim", None) == 0 or not hasattr(value, "__len__"):
        numbers = [number(value)]
    else:
        numbers = [number(part) for part in value]
        if len(numbers) != box.dim:
            raise ConfigError(f"Box: {name}: given {len(numbers)} numbers, needed is one, or {box.dim}: one an axis")
        numbers = tuple(numbers)
    if None in numbers:
        raise ConfigError(f"Box: {name}: given {value!r}, needed are finite numbers")
    return numbers if isinstance(numbers, tuple) else numbers[0]
