"""References: values of a solution in a file, of a program or an experiment, where no formula is known."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kanpde.domains.base import number, time_of
from kanpde.ground.errors import ConfigError, suggest
from kanpde.records import arrays
from kanpde.records.arrays import Array, Contents, Held

TRIED = 4096  # ways to lay coordinates along axes


@dataclass(frozen=True)
class Reference:
    """The solution as a file holds it; errors are reported against it, and nothing else reads it.

    Args:
        file: .mat, .npz, .csv, .dat or .txt of COMSOL, .h5, or a mesh: `kanpde.records.arrays.read`.
        fields: names in the file by those of the fields; by default the same, of one field the only array that is left.
            A part of an array is `uu.real`, `uu.imag`, `uu.abs`, or `velocity[0]`.
        coordinates: names in the file by those of the coordinates; by default the same, or such as tt, x-coordinate. A
            number stands for a coordinate that the file has not: t: 0.5 for a snapshot.
        axes: the coordinates in the order of the axes of the arrays, where their lengths do not tell; those that lie
            along one axis together as a list.
        sample: of arrays of several solutions, along the first axis, the number of the one that is meant.
        units: factors by the names of coordinates and fields: what is in the file is multiplied by them.
        shift: numbers that are added after that.
    Raises:
        ConfigError: they are not of these kinds.

    Example:
        >>> Reference("rod.npz", fields={"u": "usol"}, units={"x": 0.001}).file
        'rod.npz'
    """

    file: str
    fields: Mapping[str, str] | None = None
    coordinates: Mapping[str, str | float] | None = None
    axes: Sequence[str | Sequence[str]] | None = None
    sample: int | None = None
    units: Mapping[str, float] = field(default_factory=dict)
    shift: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if not isinstance(self.file, str | Path):
            raise ConfigError(f"reference: file: given {self.file!r:.60}, needed is the name of a file")
        object.__setattr__(self, "file", str(self.file))
        named = lambda value: isinstance(value, str)
        for name, needed, fits in (
            ("fields", "names in the file", named),
            ("coordinates", "names in the file, or numbers,", lambda value: named(value) or number(value) is not None),
        ):
            given = getattr(self, name)
            if given is not None and not _is_mapping(given, fits):
                raise ConfigError(f"reference: {name}: given {given!r:.80}, needed are {needed} by their own")
        for name in ("units", "shift"):
            if not _is_mapping(getattr(self, name), lambda value: number(value) is not None):
                raise ConfigError(f"reference: {name}: given {getattr(self, name)!r:.80}, needed are numbers by name")
        if zero := [name for name, factor in self.units.items() if not factor]:
            raise ConfigError(f"reference: units: {zero[0]} is multiplied by 0")

    def check(self, problem: Any) -> None:
        """Raises ConfigError where it names what the problem has not."""
        if problem.fits_rows:
            raise ConfigError("reference: a fit has test rows of its own; leave it out")
        coordinates, fields = names_of(problem), problem.fields
        along = [name for entry in self.axes or () for name in _entry(entry)]
        for key, given, allowed in (
            ("fields", self.fields or (), fields),
            ("coordinates", self.coordinates or (), coordinates),
            ("units", self.units, (*coordinates, *fields)),
            ("shift", self.shift, (*coordinates, *fields)),
            ("axes", along, coordinates),
        ):
            if unknown := [name for name in given if name not in allowed]:
                raise ConfigError(suggest(f"key reference.{key}", unknown[0], allowed))

    def open(self, problem: Any) -> "Rows":
        """What it says of a problem, found but not yet read where it is large.

        Raises:
            ConfigError: it is not there, or it does not fit the problem; the line says what is.
        """
        self.check(problem)
        contents = arrays.read(self.file)
        return Finding(self, problem, contents).rows()


def _is_mapping(given: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(given, Mapping) and all(isinstance(name, str) and fits(v) for name, v in given.items())


def _entry(entry: str | Sequence[str]) -> Sequence[str]:
    return (entry,) if isinstance(entry, str) else tuple(entry)


def names_of(problem: Any) -> list[str]:
    """The names of the coordinates of a problem."""
    return [problem.axes.name(axis) for axis in range(problem.n_inputs)]


# ---------------------------------------------------------------------------------------------------------------
# Points by number


@dataclass(frozen=True, eq=False)
class Place:
    """Where the numbers of a coordinate or of a field are.

    Attributes:
        axis: that of the values along which they lie; None: there is a number for every value.
        factor, shift: what they are multiplied by, and what is added then.
    """

    array: Array
    axis: int | None
    factor: float
    shift: float

    def at(self, places: tuple[np.ndarray, ...]) -> np.ndarray:
        """Those at places (m,) of each axis of the values; one number stands for all."""
        if self.array.shape == (1,):
            places = (np.zeros_like(places[0]),)
        elif self.axis is not None:
            places = (places[self.axis],)
        return self.factor * self.array.at(places).astype(np.float64) + self.shift


@dataclass(frozen=True, eq=False)
class Rows:
    """The points of a reference, by number, and the values there.

    Attributes:
        shape: the lengths of the axes; points are counted along the last one first.
        coordinates, values: where they are; None: the field is not known.
        said: what has been assumed.
        stream: of a text that is not in memory its rows, block after block.
    """

    shape: tuple[int, ...]
    coordinates: list[Place]
    values: list[Place | None]
    said: list[str]
    stream: Callable[[], Iterator["Rows"]] | None = None

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def large(self) -> bool:
        """Whether not all of it is in memory."""
        read = [*self.coordinates, *filter(None, self.values)]
        return self.stream is not None or not all(isinstance(place.array, Held) for place in read)

    def at(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (m, d) and values (m, K), NaN of fields that are not known, of points by number (m,)."""
        places = np.unravel_index(numbers, self.shape)
        x = np.stack([place.at(places) for place in self.coordinates], 1)
        unknown = np.full(len(numbers), np.nan)
        return x, np.stack([unknown if place is None else place.at(places) for place in self.values], 1)


# ---------------------------------------------------------------------------------------------------------------
# Which array is what, and along which axis it lies


@dataclass(frozen=True, eq=False)
class Finding:
    """The arrays of a file as the coordinates and fields of a problem."""

    reference: Reference
    problem: Any
    contents: Contents

    def rows(self) -> Rows:
        """The rows of the file; of one that is streamed also each block of it."""
        coordinates, assumed = self.coordinates()
        fields, more = self.fields({there for there in coordinates.values() if isinstance(there, str)})
        order, said = self.reference.axes, [*assumed, *more]
        if order is None and self.contents.order and all(c in ("t", "x", "y", "z") for c in coordinates):
            order = [name for name in self.contents.order if name in coordinates]
        made = self._made(self.contents, coordinates, fields, order)
        if (blocks := self.contents.blocks) is None:
            return Rows(*made, said)
        each = lambda: (Contents(self.contents.path, block) for block in blocks())
        stream = lambda: (Rows(*self._made(block, coordinates, fields, order), []) for block in each())
        return Rows(*made, said, stream)

    def _made(self, contents: Contents, coordinates: dict, fields: dict, order) -> tuple:
        """Shape, coordinates and values."""
        read = {name: _found(contents, there) for name, there in (coordinates | fields).items()}
        read = {name: array for name, array in read.items() if array is not None}
        for name in fields:
            read[name] = self._real(name, fields[name], self._sampled(fields[name], read[name]).squeezed())
        for name in coordinates:
            read[name] = self._real(name, coordinates[name], read[name].squeezed())
        read = _held(read)
        values, lengths = {name: read[name] for name in fields}, {name: read[name] for name in coordinates}
        shape = next(iter(values.values())).shape
        if differ := [name for name, array in values.items() if array.shape != shape]:
            one = next(iter(values))
            raise self.error(f"{fields[differ[0]]} has shape {values[differ[0]].shape}, {fields[one]} {shape}")
        axes = self._axes(lengths, values, order, fields)
        x = [self._place(name, *axes[name]) for name in coordinates]
        unknown = [name for name in self.problem.fields if name not in values]
        u = {name: self._place(name, array, None) for name, array in values.items()} | dict.fromkeys(unknown)
        return shape, x, [u[name] for name in self.problem.fields]

    def _place(self, name: str, array: Array, axis: int | None) -> Place:
        units, shift = self.reference.units, self.reference.shift
        return Place(array, axis, float(units.get(name, 1.0)), float(shift.get(name, 0.0)))

    def error(self, line: str) -> ConfigError:
        """What is wrong with the file."""
        return ConfigError(f"reference {self.contents.path}: {line}")

    # -----------------------------------------------------------------------------------------------------------
    # Names

    def coordinates(self) -> tuple[dict[str, str | float], list[str]]:
        """Their names in the file, or the number they have in all of it, and what has been assumed."""
        stated, there = self.reference.coordinates or {}, self.contents.arrays
        found, assumed, names = {}, [], names_of(self.problem)
        for axis, name in enumerate(names):
            if name in stated:
                found[name] = self._there(stated[name])
                continue
            tries = _aliases(name, axis, len(names), time_of(self.problem.domain) is not None)
            known = [alias for alias in tries if self._fits(alias, len(names))]
            folded = {other.lower(): other for other in there}
            known += [folded[alias.lower()] for alias in tries if alias.lower() in folded]
            if not (known := [other for other in known if other not in found.values()]):
                hint = f"; say coordinates: {{{name}: NAME}}"
                raise self.error(f"nothing in it is called {name}{hint} (arrays: {_listed(there)})")
            found[name] = known[0]
            assumed += [f"{name} is {known[0]}"] if known[0] != name else []
        return found, assumed

    def _fits(self, alias: str, count: int) -> bool:
        """Whether there is such an array; x[0] where x has a component for each coordinate, x where it has not."""
        stem, component, _ = alias.partition("[")
        whole = self.contents.arrays.get(stem)
        if whole is not None and len(whole.shape) == 2 and count > 1 and whole.shape[0] > 1:
            return bool(component) and whole.shape[1] == count
        return not component and whole is not None

    def fields(self, taken: set[str]) -> tuple[dict[str, str], list[str]]:
        """The same of the fields; those that are not in the file are left out."""
        there, fields = self.contents.arrays, self.problem.fields
        if (stated := self.reference.fields) is not None:
            if not stated:
                raise ConfigError("reference: fields: none is named")
            return {name: self._there(stated[name]) for name in fields if name in stated}, []
        free = [name for name in there if name not in {other.split("[")[0] for other in taken}]
        if same := {name: name for name in fields if name in free}:
            lacking = [name for name in fields if name not in same]
            return same, [f"{', '.join(lacking)} not in it"] if lacking else []
        longest = max(there[name].size if name in there else 0 for name in taken)
        free = [name for name in free if there[name].size >= longest]
        if len(fields) == 1 and len(free) == 1:
            return {fields[0]: free[0]}, [f"{fields[0]} is {free[0]}"]
        some = " or ".join(fields)
        raise self.error(
            f"nothing in it is called {some}; say fields: {{{fields[0]}: NAME}} (arrays: {_listed(there)})"
        )

    def _there(self, name: str | float) -> str | float:
        if _found(self.contents, name) is None:
            raise self.error(suggest("array", name, list(self.contents.arrays)))
        return name

    def _real(self, name: str, there: str, array: Array) -> Array:
        if array.is_complex:
            raise self.error(f"{there} is complex; say {name}: {there}.real, {there}.imag or {there}.abs")
        return array

    # -----------------------------------------------------------------------------------------------------------
    # Axes

    def _sampled(self, there: str, array: Array) -> Array:
        sample = self.reference.sample
        if sample is None:
            return array
        if array.along is not None or len(array.shape) < 2:
            raise self.error(f"sample: {there} has shape {array.shape}, which is of one solution; leave sample out")
        if not 0 <= sample < array.shape[0]:
            raise self.error(f"sample: given {sample}, {there} has 0 to {array.shape[0] - 1}")
        return array.fixed(0, sample)

    def _axes(self, x: dict[str, Array], u: dict[str, Array], order, called: dict) -> dict[str, tuple]:
        """Each coordinate with the axis of the values that it lies along; None: it has a number for every value."""
        (name, first), *_ = u.items()
        shape, there = first.shape, called[name]
        if "parts" in (first.along or ()):
            raise self.error(f"{there} has {shape[-1]} components; say {name}: {there}[0] for the first")
        fixed = {c: (array, None) for c, array in x.items() if array.shape == (1,) and shape != (1,)}
        every = {c: (array, None) for c, array in x.items() if array.shape == shape and len(shape) > 1}
        left = {c: array for c, array in x.items() if c not in fixed | every}
        if first.along is not None:
            if off := [c for c, array in left.items() if array.along is None or array.along[0] not in first.along]:
                raise self.error(f"{there} is not there at several {off[0]}, which has {left[off[0]].size} numbers")
            return fixed | every | {c: (a, first.along.index(a.along[0])) for c, a in left.items()}
        if order is not None and (laid := self._in_order(order, left, shape)) is not None:
            return fixed | every | laid
        ways = list(_ways(left, shape, bool(every), self._last()))
        if len(ways) == 1:
            return fixed | every | _cut(left, ways[0], shape)
        lengths = ", ".join(f"{c} {'x'.join(map(str, array.shape))}" for c, array in x.items())
        given = f"{there} has shape {shape}, the coordinates {lengths}"
        if ways:
            names = ", ".join(left)
            raise self.error(f"{given}: say which axis is which in their order, such as axes: [{names}]")
        raise self.error(f"{given}: these do not fit" + self._hint(left, shape, there, name))

    def _last(self) -> str | None:
        """The name of time."""
        return names_of(self.problem)[-1] if time_of(self.problem.domain) is not None else None

    def _in_order(self, order: Sequence, x: dict[str, Array], shape: tuple) -> dict[str, tuple] | None:
        """As it is stated, which has to fit; what is an order of such files only may not."""
        axes = [[c for c in _entry(entry) if c in x] for entry in order]
        axes = [entry for entry in axes if entry]
        way = {c: axis for axis, entry in enumerate(axes) for c in entry}
        longer = lambda c: x[c].shape[0] - 1 if c == self._last() else -1
        fits = len(axes) == len(shape) and way.keys() == x.keys()
        fits = fits and all(shape[axis] in (x[c].shape[0], longer(c)) for c, axis in way.items())
        if fits:
            return _cut(x, way, shape)
        if self.reference.axes is None:
            return None
        lengths = ", ".join(f"{c} {array.shape[0]}" for c, array in x.items())
        raise self.error(f"axes: given {list(order)}, but the axes have lengths {shape}, the coordinates {lengths}")

    def _hint(self, x: dict[str, Array], shape: tuple, there: str, name: str) -> str:
        if len(shape) > 1 and self.reference.sample is None and any(_ways(x, shape[1:], False, self._last())):
            return f"; of {shape[0]} samples along the first axis say which: sample: 0"
        if len(shape) > 1 and any(_ways(x, shape[:-1], False, self._last())):
            return f"; of {shape[-1]} components along the last axis say which: {name}: {there}[0]"
        return ""


def _found(contents: Contents, there: str | float) -> Array | None:
    """The array of a name, or a number as one."""
    return arrays.named(contents, there) if isinstance(there, str) else Held(np.array([float(there)]))


def _held(read: dict[str, Array]) -> dict[str, Array]:
    """All in memory, unless they are so large."""
    size = sum(array.size * array.dtype.itemsize for array in read.values())
    return read if size > arrays.LARGE else {c: Held(array.whole(), array.along) for c, array in read.items()}


def _ways(x: dict[str, Array], shape: tuple, covered: bool, time: str | None) -> Iterator[dict[str, int]]:
    """The ways to lay coordinates along axes of their lengths, so that there is one along each.

    covered: whether there need not be, as another has a number for every value. Time may be longer by one.
    """
    if any(len(array.shape) != 1 for array in x.values()):
        return
    fits = {c: [axis for axis, n in enumerate(shape) if n == array.shape[0]] for c, array in x.items()}
    if time in fits and not fits[time]:
        fits[time] = [axis for axis, n in enumerate(shape) if n == x[time].shape[0] - 1]
    for way in itertools.islice(itertools.product(*fits.values()), TRIED):
        if covered or set(way) == set(range(len(shape))):
            yield dict(zip(fits, way, strict=True))


def _cut(x: dict[str, Array], way: dict[str, int], shape: tuple) -> dict[str, tuple]:
    """The coordinates with their axes; a last time beyond the values is left out."""
    return {
        c: (x[c] if x[c].shape[0] == shape[axis] else Held(x[c].whole()[: shape[axis]]), axis)
        for c, axis in way.items()
    }


def _aliases(name: str, axis: int, count: int, timed: bool) -> list[str]:
    """What a coordinate may be called in a file."""
    found = [name, f"{name}-coordinate", name * 2]
    if timed and axis == count - 1:
        return [*found, "t", "time", "tt", "t-coordinate"]
    if name == f"x{axis + 1}":
        found += [alias for one in "xyz"[axis : axis + 1] for alias in (one, f"{one}-coordinate")]
        found += [f"x[{axis}]"]
        found += ["x", "xx"] if count - timed == 1 else []
    return found


def _listed(names: Mapping[str, Any]) -> str:
    first = [f"{name} {'x'.join(map(str, names[name].shape))}" for name in itertools.islice(names, 12)]
    return ", ".join(first) + ", ..." * (len(names) > 12)
