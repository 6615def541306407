"""Derivatives by name: what `u.xx` and `u.xt` mean, sums of many of them, and which of them a residual reads."""

import keyword
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import product

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError, suggest

Index = tuple[int, ...]  # of a derivative, its axes in order: d^3 / dx_0^2 dx_1 is (0, 0, 1); of u itself ()

# by a jet
TAKEN = ("value", "along", "gram", "lap", "grad_sq", "diffusion", "bilap", "sum_of", "div", "d", "derivatives", "sums")


@dataclass(frozen=True)
class Coordinates:
    """The names of the inputs of u.

    Args:
        count: how many there are.
        has_time: whether the last one is time.
        given: their names; None: x1 ... xd, and t for time.
    Raises:
        ConfigError: another number of names, one that is no identifier, is taken by a jet or made of the others.

    Example:
        >>> heat = Coordinates(3, has_time=True)
        >>> heat.name(2), heat.index("x1x1"), heat.index("t")
        ('t', (0, 0), (2,))
        >>> Coordinates(2, given=("x", "t")).index("xxt")
        (0, 0, 1)
    """

    count: int
    has_time: bool = False
    given: tuple[str, ...] | None = None

    def __post_init__(self):
        names = self.given
        if names is None:
            return
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"coordinates: given {names!r}, needed is a tuple of {self.count} names")
        if len(names) != self.count:
            raise ConfigError(
                f"coordinates: given {len(names)} names ({', '.join(names)}), the domain has {self.count} coordinates"
            )
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                raise ConfigError(f"coordinates: {name!r} is no name")
            if name in TAKEN:
                raise ConfigError(f"coordinates: {name!r} is what a jet calls something else ({', '.join(TAKEN)})")
        for name in names:
            if names.count(name) > 1 or len(self._readings(name)) > 1:
                raise ConfigError(f"coordinates: {name!r} in {', '.join(names)} has two meanings")

    @property
    def space(self) -> range:
        """The axes that are not time."""
        return range(self.count - self.has_time)

    def name(self, axis: int) -> str:
        if self.given is not None:
            return self.given[axis]
        return "t" if self.has_time and axis == self.count - 1 else f"x{axis + 1}"

    def __str__(self) -> str:
        last = self.count - 1
        shown = range(self.count) if self.count <= 6 else (0, 1, last)
        names = [self.name(axis) for axis in shown]
        return ", ".join(names if self.count <= 6 else [*names[:2], "...", names[2]])

    def names(self, index: Index) -> str:
        """The name of a derivative."""
        return "".join(map(self.name, index))

    def axis(self, name: str) -> int:
        """Raises ConfigError for a name that is none of these."""
        found = self._axis(name)
        if found is None:
            raise ConfigError(suggest("coordinate", name, [self.name(axis) for axis in range(min(self.count, 20))]))
        return found

    def _axis(self, name: str) -> int | None:
        if self.given is not None:
            return self.given.index(name) if name in self.given else None
        if name == "t" and self.has_time:
            return self.count - 1
        number = int(name[1:]) if re.fullmatch(r"x[1-9]\d*", name) else 0
        return number - 1 if 1 <= number <= len(self.space) else None

    def index(self, name: str) -> Index | None:
        """The derivative that names one after the other mean; None: none, or more than one."""
        found = {tuple(sorted(reading)) for reading in self._readings(name)}
        return found.pop() if len(found) == 1 else None

    def odd(self, name: str) -> str | None:
        """What is left of a name that begins like a derivative and does not go on as one: z of xz."""
        starts = [name[:k] for k in range(len(name), 0, -1) if self._readings(name[:k])]
        rest = name[len(starts[0]) :] if starts else ""
        return rest if rest and len(rest) <= 2 else None

    def _readings(self, name: str) -> list[Index]:
        """All ways to take it apart into names."""
        if self.given is None:
            parts = re.findall(r"x[1-9]\d*|t", name)
            axes = [self._axis(part) for part in parts] if "".join(parts) == name and parts else [None]
            return [] if None in axes else [tuple(axes)]
        whole = [(self.given.index(name),)] if name in self.given else []
        starts = [part for part in self.given if part != name and name.startswith(part)]
        return whole + [(self.given.index(p), *rest) for p in starts for rest in self._readings(name[len(p) :])]

    def of(self, *steps: str | int) -> Index:
        """("x", 3) or ("x", 2, "t"): each name, and after it how often, by default once.

        Raises:
            ConfigError: another order of names and numbers, or a name that is none of these.
        """
        axes: list[int] = []
        if not steps:
            raise ConfigError("u.d(): needed are names, each followed by how often where it is not once")
        for step, after in zip(steps, [*steps[1:], None], strict=True):
            if isinstance(step, str):
                axes += [self.axis(step)] * (after if isinstance(after, int) else 1)
            elif not isinstance(step, int) or step < 1 or not axes:
                raise ConfigError(f"u.d{steps}: needed are names, each followed by how often where it is not once")
        return tuple(sorted(axes))


@dataclass(frozen=True)
class Sum:
    r"""A sum of derivatives of one order, with constant coefficients:

    .. math:: \sum_{(i_1, \ldots, i_r)} c_{i_1 \ldots i_r} \, \partial_{i_1}^{m_1} \cdots \partial_{i_r}^{m_r} u

    Args:
        powers: m_1 ... m_r.
        count: without `axes` each of the i is any of the first `count` coordinates, and c is 1.
        axes: the (i_1 ... i_r), T of them.
        weights: c of each; None: 1.
    Raises:
        ConfigError: powers, axes or weights that do not fit each other.

    Example:
        >>> Sum((2, 2), count=2).terms  # the bilaplacian in two dimensions
        {(0, 0, 0, 0): 1, (0, 0, 1, 1): 2, (1, 1, 1, 1): 1}
        >>> Sum((2, 1), count=3, axes=((0, 1), (1, 2)), weights=(1.0, -1.0)).terms
        {(0, 0, 1): 1.0, (1, 1, 2): -1.0}
    """

    powers: tuple[int, ...]
    count: int
    axes: tuple[tuple[int, ...], ...] | None = None
    weights: tuple[float, ...] | None = None

    def __post_init__(self):
        if not self.powers or not all(isinstance(m, int) and m >= 1 for m in self.powers):
            raise ConfigError(f"u.sum_of{self.powers}: needed are how often by each coordinate, from 1 on")
        if self.axes is None and self.weights is not None:
            raise ConfigError("u.sum_of: weights are of the axes that are stated; none are")
        r = len(self.powers)
        for place in self.axes or ():
            if len(place) != r or not all(isinstance(i, int) and 0 <= i < self.count for i in place):
                needed = f"{r} number{'s' * (r > 1)} from 0 to {self.count - 1}"
                raise ConfigError(f"u.sum_of: axes has {place}, needed for each of the {r} powers: {needed}")
        if self.weights is not None and len(self.weights) != len(self.axes):
            raise ConfigError(f"u.sum_of: given {len(self.weights)} weights for {len(self.axes)} axes")

    @property
    def order(self) -> int:
        """That of the derivatives."""
        return sum(self.powers)

    @property
    def size(self) -> int:
        """How many terms there are, equal ones counted as often as they come."""
        return self.count ** len(self.powers) if self.axes is None else len(self.axes)

    @property
    def terms(self) -> dict[Index, float]:
        """Each derivative once, with its coefficient."""
        return _terms(self)

    def times(self, axis: int) -> int:
        """How often a term is differentiated by this coordinate, at most."""
        if self.axes is None:
            return self.order if axis < self.count else 0
        return max(sum(m for m, i in zip(self.powers, place, strict=True) if i == axis) for place in self.axes)

    def at(self, xi: Tensor) -> float:
        """The sum of |c| xi_i1^m1 ... xi_ir^mr, for positive numbers xi (d,)."""
        if self.axes is None:
            return math.prod(xi[: self.count].pow(m).sum().item() for m in self.powers)
        each = xi[torch.tensor(self.axes)].pow(torch.tensor(self.powers)).prod(1)
        return (each if self.weights is None else each * torch.tensor(self.weights).abs()).sum().item()

    def __str__(self) -> str:
        if self.powers == (2, 2) and self.axes is None:
            return "bilap"
        return f"sum_of({', '.join(map(str, self.powers))}{'' if self.axes is None else ', axes'})"


@cache
def _terms(of: Sum) -> dict[Index, float]:
    found: dict[Index, float] = {}
    places = product(range(of.count), repeat=len(of.powers)) if of.axes is None else of.axes
    for k, place in enumerate(places):
        index = tuple(sorted(i for m, i in zip(of.powers, place, strict=True) for _ in range(m)))
        found[index] = found.get(index, 0) + (1 if of.weights is None else of.weights[k])
    return found


@dataclass(frozen=True)
class Reads:
    """What a residual reads of a jet; the rest is not computed.

    Attributes:
        along, lap, grad_sq, diffusion: whether it reads these.
        derivatives: those that it reads by name.
        sums: those of derivatives that it reads, such as u.bilap.
        value: whether it reads u itself, which is computed in any case.
    """

    along: bool = True
    lap: bool = True
    grad_sq: bool = False
    diffusion: bool = False
    derivatives: tuple[Index, ...] = ()
    sums: tuple[Sum, ...] = ()
    value: bool = field(default=True, compare=False)

    @classmethod
    def all_of(cls, each: Iterable["Reads"]) -> "Reads":
        """What is read of any of several fields."""
        each = list(each)
        names = {index for reads in each for index in reads.derivatives}
        sums = dict.fromkeys(of for reads in each for of in reads.sums)
        some = lambda name: any(getattr(reads, name) for reads in each)
        parts = (some(name) for name in ("along", "lap", "grad_sq", "diffusion"))
        return cls(*parts, in_order(names), tuple(sums), some("value"))

    @property
    def every(self) -> tuple[Index, ...]:
        """The derivatives by name, and those of which the sums are."""
        return self._listed if self.sums else self.derivatives

    @cached_property
    def _listed(self) -> tuple[Index, ...]:
        return in_order({*self.derivatives, *(index for of in self.sums for index in of.terms)})

    @property
    def anything(self) -> bool:
        """Whether anything is read at all."""
        return self.value or self.order > 0

    @property
    def named(self) -> bool:
        """Whether anything is read that Taylor jets give: of second or higher order by name, sums, or a full matrix."""
        return self.diffusion or bool(self.sums) or any(len(index) > 1 for index in self.derivatives)

    @property
    def second(self) -> bool:
        """Whether the sum of second derivatives or of squares of first ones is read."""
        return self.lap or self.grad_sq

    @cached_property
    def order(self) -> int:
        """The highest derivative."""
        first = int(self.along or self.grad_sq)
        named = (*map(len, self.derivatives), *(of.order for of in self.sums))
        return max([first, 2 * (self.lap or self.diffusion), *named])

    def times(self, axis: int) -> int:
        """How often it differentiates by this coordinate by name or in a sum, at most."""
        return max([0, *(index.count(axis) for index in self.derivatives), *(of.times(axis) for of in self.sums)])

    def names(self, coordinates: Coordinates, field: str = "u") -> list[str]:
        """How a residual writes them."""
        found = [f"{field}.{coordinates.names(index)}" for index in self.derivatives]
        found += [f"{field}.{of}" for of in self.sums]
        return found + [f"{field}.{name}" for name in ("along", "lap", "grad_sq", "diffusion") if getattr(self, name)]


def in_order(derivatives: Iterable[Index]) -> tuple[Index, ...]:
    """Those of low order first."""
    return tuple(sorted(derivatives, key=lambda index: (len(index), index)))
