"""Domains: where a problem lives, points in it and on its boundary, and the factor that vanishes there."""

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt
from operator import index

import torch
from torch import Tensor

from kanpde.ansatz import Field
from kanpde.config import ConfigError
from kanpde.samplers import directions, uniforms

LAWS = ("radial", "volume")
MEMBERS = ("dim", "laws", "interior", "boundary", "contains", "factor", "input_range", "frame")


class IncompleteDomain(ConfigError, TypeError):
    """A domain that lacks members; the message is one line that names them."""

    def __init__(self, name: str, members: Sequence[str]):
        super().__init__(f"the domain {name} lacks {', '.join(members)}: kanpde.domains.Domain says what they are")


class _Complete(ABCMeta):
    """Objects that lack a member are refused when they are made."""

    def __call__(cls, *args, **options):
        set_by_init = getattr(cls, "__dataclass_fields__", None)
        if set_by_init is None and cls.__init__ is not object.__init__:
            set_by_init = ("dim", "laws")
        given = lambda name: hasattr(cls, name) or name in (set_by_init or ())
        if cls.__abstractmethods__:
            raise IncompleteDomain(cls.__name__, [m for m in MEMBERS if m in cls.__abstractmethods__ or not given(m)])
        made = super().__call__(*args, **options)
        check_members(made, MEMBERS)
        return made


def check_members(domain, members: Sequence[str]) -> None:
    """Raises IncompleteDomain, a ConfigError and a TypeError, where a domain has not all of these members."""
    if lacking := [name for name in members if not hasattr(domain, name)]:
        raise IncompleteDomain(type(domain).__name__, lacking)


class Domain(metaclass=_Complete):
    """What a domain of one's own derives from; an object that lacks a member is refused when it is made.

    Attributes:
        dim: d, the number of coordinates of a point.
        laws: names of the laws by which points can be drawn; the first is the default.

    A domain with time, t in [0, time] being the last coordinate, has the attribute `time` and the method
    `initial(n, generator, law, sequence, **kind)`, points at t = 0. Points (n, dim) come in the dtype `kind["dtype"]`
    on the generator's device, and all their randomness from the generator.

    Raises:
        IncompleteDomain: a member is missing.
    """

    dim: int
    laws: tuple[str, ...]

    @abstractmethod
    def interior(self, n: int, generator: torch.Generator, law: str, sequence: str = "random", **kind) -> Tensor:
        """n points of the domain by a law, of a sequence random or sobol (`kanpde.samplers.uniforms`)."""

    @abstractmethod
    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind) -> Tensor:
        """n points on the boundary, in space; read where the constraint is soft."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Which of the points x (N, dim) lie in the closed domain: (N,) of bool."""

    @abstractmethod
    def factor(self, x: Tensor) -> Field:
        """m of the hard constraint u = h + m f at x (N, dim): zero on the boundary and at t = 0, else above zero."""

    @abstractmethod
    def input_range(self, law: str) -> Sequence[tuple[float, float]]:
        """An interval per coordinate that holds almost all points of a law: the grid of the first layer."""

    @abstractmethod
    def frame(self) -> tuple[Sequence[float], float | Sequence[float]]:
        """Centre (dim,) and half-width, one or one per coordinate: of the pictures, and the unit of length of a run."""


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
        _set(self, dim=_dimension(self), radius=_length("Ball", "radius", self.radius))

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
class Box(Domain):
    """The box low_i < x_i < high_i in R^dim; the one law is uniform.

    Args:
        dim: d.
        low, high: a number for all coordinates, or one for each.
    Raises:
        ConfigError: not finite, low is not below high, or another number of them than dim.
    """

    dim: int
    low: float | tuple[float, ...] = -1.0
    high: float | tuple[float, ...] = 1.0
    laws = ("volume",)

    def __post_init__(self):
        _set(self, dim=_dimension(self))
        _set(self, low=_per_axis(self, "low"), high=_per_axis(self, "high"))
        for i, (low, high) in enumerate(self._sides()):
            if not low < high:
                where = "" if isinstance(self.low, float) and isinstance(self.high, float) else f" of coordinate {i}"
                raise ConfigError(f"Box: low and high{where}: given {low:g} and {high:g}, needed is low < high")

    def _sides(self) -> list[tuple[float, float]]:
        each = lambda value: [value] * self.dim if isinstance(value, float) else value
        return list(zip(each(self.low), each(self.high), strict=True))

    def _limits(self) -> tuple[Tensor, Tensor]:
        """low and high in float64, (d,) each."""
        each = lambda value: torch.tensor(value, dtype=torch.float64).expand(self.dim)
        return each(self.low), each(self.high)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind
    ) -> Tensor:
        """n points (n, dim); `kind` may hold dtype."""
        check_law(law)
        t = uniforms(n, self.dim, generator, sequence, **kind)
        low, high = self._limits()
        return low.to(t) + (high - low).to(t) * t

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind) -> Tensor:
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
        return Field(each.prod(-1), slope * others, -2 * scale * others)

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return self._sides()

    def frame(self) -> tuple[list[float], float | list[float]]:
        """Centre and half-width, of unequal sides one for each."""
        half = [(high - low) / 2 for low, high in self._sides()]
        return [(low + high) / 2 for low, high in self._sides()], half[0] if len(set(half)) == 1 else half


def _products_of_others(each: Tensor) -> Tensor:
    """prod_{j != i} each_j, without division."""
    ones = torch.ones_like(each[:, :1])
    before = torch.cat([ones, each[:, :-1]], 1).cumprod(1)
    after = torch.cat([ones, each[:, 1:].flip(1)], 1).cumprod(1).flip(1)
    return before * after


@dataclass(frozen=True)
class Cylinder(Domain):
    """Space-time: a spatial domain times [0, time]; the last coordinate is t."""

    space: Domain
    time: float = 1.0

    def __post_init__(self):
        check_members(self.space, ("dim", "laws", "interior"))
        _set(self, time=_length("Cylinder", "time", self.time))

    @property
    def dim(self) -> int:
        return self.space.dim + 1

    @property
    def laws(self) -> tuple[str, ...]:
        return self.space.laws

    def interior(
        self, n: int, generator: torch.Generator, law: str | None = None, sequence: str = "random", **kind
    ) -> Tensor:
        """n points (n, dim): space by its law and sequence, time uniform and always plain."""
        return self._in_time(self.space.interior(n, generator, law or self.laws[0], sequence, **kind), generator)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind) -> Tensor:
        """n points on the lateral boundary."""
        return self._in_time(self.space.boundary(n, generator, sequence, **kind), generator)

    def initial(
        self, n: int, generator: torch.Generator, law: str | None = None, sequence: str = "random", **kind
    ) -> Tensor:
        """n points at t = 0."""
        x = self.space.interior(n, generator, law or self.laws[0], sequence, **kind)
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
        """Centre, in the middle of time, and half-width: one of space, or one for each coordinate where it has many."""
        centre, reach = self.space.frame()
        reach = reach if isinstance(reach, float | int) else [*reach, self.time / 2]
        return [*centre, self.time / 2], reach


FEW = 1e3  # numbers across a domain that are too few


def numbers_across(domain, dtype: torch.dtype) -> float:
    """How many numbers of a dtype there are across half the width of a domain, where they are fewest; inf: unknown."""
    if not hasattr(domain, "frame"):
        return float("inf")
    origin, reach = (torch.as_tensor(t, dtype=torch.float64) for t in domain.frame())
    space = len(origin) - hasattr(domain, "time")  # time begins at 0
    return resolution(origin[:space], reach.expand(space) if reach.ndim == 0 else reach[:space], dtype)


def resolution(centre: Tensor, reach: Tensor, dtype: torch.dtype) -> float:
    """How many numbers of a dtype there are in the intervals centre to centre + reach, the fewest."""
    return (reach / (torch.finfo(dtype).eps * (centre.abs() + reach))).min().item()


def drawn_in(domain) -> torch.dtype:
    """The dtype of points to test on, the same for runs in any dtype: float32 where it tells enough of them apart."""
    return torch.float32 if numbers_across(domain, torch.float32) >= FEW else torch.float64


def _set(domain, **fields) -> None:
    """Fields of a frozen dataclass, from __post_init__."""
    for name, value in fields.items():
        object.__setattr__(domain, name, value)


def _dimension(domain) -> int:
    try:
        dim = index(domain.dim)
    except TypeError:
        dim = 0
    if dim < 1:
        raise ConfigError(f"{type(domain).__name__}: dim: given {domain.dim!r}, needed is an integer of at least 1")
    return dim


def _length(kind: str, name: str, value) -> float:
    number = _number(value)
    if number is None or not 0 < number:
        raise ConfigError(f"{kind}: {name}: given {value!r}, needed is a finite number above 0")
    return number


def _number(value) -> float | None:
    """A finite number as a float; None for anything else."""
    try:
        number = None if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return number if number is not None and isfinite(number) else None


def _per_axis(box: Box, name: str) -> float | tuple[float, ...]:
    """low or high as a float, or a tuple of one for each coordinate."""
    value = getattr(box, name)
    if getattr(value, "ndim", None) == 0 or not hasattr(value, "__len__"):
        numbers = [_number(value)]
    else:
        numbers = [_number(part) for part in value]
        if len(numbers) != box.dim:
            raise ConfigError(f"Box: {name}: given {len(numbers)} numbers, needed is one, or {box.dim}: one an axis")
        numbers = tuple(numbers)
    if None in numbers:
        raise ConfigError(f"Box: {name}: given {value!r}, needed are finite numbers")
    return numbers if isinstance(numbers, tuple) else numbers[0]


def check_law(law: str, laws: Sequence[str] = LAWS) -> None:
    """Raises ConfigError, a ValueError, for a law that is not one of these."""
    if law not in laws:
        raise ConfigError(f"sampling law {law!r} is not one of {', '.join(laws)}")
