r"""Conditions on u: what each asks for, at which points, and how far a function is from it.

A condition is met exactly by the ansatz where one exists (`kanpde.problems.exactly`), else its misfit is a term of the
loss, the mean of its square over points of the part of the boundary that it is `on` (`kanpde.problems.parts`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kanpde.domains.base import kinds_of, laws_of, number, space_of, time_of
from kanpde.ground.errors import ConfigError, suggest
from kanpde.ground.samplers import SOBOL_MAX_DIM, stream
from kanpde.jets.ansatz import Ansatz
from kanpde.problems.parts import On, ends_of, face_of, in_space, normals, points_on
from kanpde.problems.unknowns import Unknown
from kanpde.records import columns

Value = float | Callable[[Tensor], Tensor]  # a number, or a function of points x (N, d) -> (N,)
AVERAGED, TIMES = 4096, 16  # points of an integral, with time so many blocks of them
NAMED = 100  # dimensions up to which the sides of a box are told apart


def at(value: Value, x: Tensor) -> Tensor:
    """A value at points, (N,).

    Raises:
        ConfigError: it is no number per point.
    """
    found = torch.as_tensor(value(x) if callable(value) else value, dtype=x.dtype, device=x.device)
    if found.shape not in ((), (1,), (len(x),)):
        raise ConfigError(f"a value of a condition has shape {tuple(found.shape)} at {len(x)} points, not ({len(x)},)")
    return found.expand(len(x))


@dataclass(frozen=True)
class Condition:
    """What conditions derive from; one of a user's own states `misfit`, and `points` if not those of the boundary.

    Args:
        field: the field that it is on, where there are several; what may be on all of them at once has None.

    Example:
        >>> @dataclass(frozen=True)
        ... class Symmetric(Condition):
        ...     kind = "symmetric"
        ...     def misfit(self, u, x):
        ...         return u(x) - u(-x)
        >>> Symmetric().part
        'boundary'
    """

    kind: ClassVar[str] = "condition"
    asks: ClassVar[str | None] = None  # the attribute that is the values asked for
    of_all: ClassVar[bool] = False  # whether it is on all fields where none is named
    by_points: ClassVar[bool] = True  # whether it is asked for at each of its points; else of all that u is at them
    built_in: ClassVar[bool] = True  # whether it may be built into the ansatz; else it is left to the loss in any case
    functions: ClassVar[tuple[str, ...] | None] = (
        None  # attributes by which alone it depends on x; None: it does so too
    )
    field: str | None = dataclasses.field(default=None, kw_only=True)

    @property
    def part(self) -> On:
        """The part of the boundary."""
        return getattr(self, "on", "boundary")

    @property
    def functional(self) -> "tuple[Value, Value, Value] | None":
        """(a, b, value) of a condition a u + b n . grad u = value on a part of the boundary; None: it is none."""
        return None

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        """n points at which it is asked for, or all that there are where these are fewer."""
        return points_on(problem, self.part, n, generator, **kind)

    def moment(self, problem: Any) -> float | None:
        """The time at which it is asked for, all over space; None: on its part of the boundary, at all times."""
        return None

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        """What is zero where u meets it: (N,) or (N, k) at its points; u is that of its field."""
        raise NotImplementedError(f"{type(self).__name__} states no misfit")

    def wanted(self, x: Tensor) -> Tensor | None:
        """The values (N,) that it asks for at its points, of whatever it is asked of; None: there are none."""
        return None if self.asks is None else at(getattr(self, self.asks), x)

    def moved(self, to: Callable[[Tensor], Tensor]) -> "Condition":
        """The same condition in other coordinates: asked for at x is what it asks for at `to(x)`.

        Raises:
            ConfigError: it depends on x by more than its `functions`.
        """
        if self.functions is None:
            raise ConfigError(f"{type(self).__name__}: what it asks for is not known in other coordinates")
        stated = {name: getattr(self, name) for name in self.functions}
        of = lambda function: lambda x: function(to(x))
        return dataclasses.replace(self, **{name: of(value) for name, value in stated.items() if callable(value)})

    def check(self, problem: Any) -> None:
        """Raises ConfigError where it does not fit the problem."""
        if not isinstance(self.part, str) and not callable(self.part):
            needed = "'boundary', a side such as 'x = 1', or a function of x that says which points are meant"
            raise ConfigError(f"on: given {self.part!r:.60}, needed is {needed}; the value comes after it")
        _check_values(self)
        if isinstance(self.part, str) and self.part != "boundary":
            face_of(problem, self.part)
        elif type(self).points is Condition.points and "boundary" not in kinds_of(problem.domain):
            raise ConfigError(f"a {type(space_of(problem.domain)).__name__} has no boundary")

    def check_field(self, problem: Any) -> None:
        """Raises ConfigError where it names no field of the problem."""
        fields = problem.fields
        if self.field is not None and self.field not in fields:
            raise ConfigError(suggest("field", self.field, fields))
        known = type(self).__module__ == __name__  # one of a user's own takes them all
        if self.field is None and len(fields) > 1 and known and not self.of_all:
            raise ConfigError(f"field: none given, needed is one of {', '.join(fields)}, as field={fields[0]!r}")


@dataclass(frozen=True)
class Dirichlet(Condition):
    """u = value.

    Example:
        >>> Dirichlet("x = 1", lambda x: x[:, 1]).wanted(torch.tensor([[1.0, 0.5]]))
        tensor([0.5000])
    """

    on: On = "boundary"
    value: Value = 0.0
    kind, asks, functions = "dirichlet", "value", ("on", "value")

    @property
    def functional(self) -> tuple[Value, Value, Value]:
        return 1.0, 0.0, self.value

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return u(x) - at(self.value, x)


@dataclass(frozen=True)
class Neumann(Condition):
    r"""n . grad u = flux, for the outward unit normal n.

    On a side of a box met exactly by u = h + m f, where h has the flux, m is flat there, and f has inputs that are flat
    there (`kanpde.jets.harmonics`): n . grad u = n . grad h + f n . grad m + m n . grad f = flux + 0 + 0.

    Example:
        >>> Neumann(lambda x: x[:, 0] > 0.9, 0.0).kind
        'neumann'
    """

    on: On = "boundary"
    flux: Value = 0.0
    kind, asks, functions = "neumann", "flux", ("on", "flux")

    @property
    def functional(self) -> tuple[Value, Value, Value]:
        return 0.0, 1.0, self.flux

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return slope(u, x, normals(u.problem, x, self.part)) - at(self.flux, x)


@dataclass(frozen=True)
class Robin(Condition):
    """a u + b n . grad u = value.

    On a side of a box, for numbers a and b of one sign, met exactly as a flux is: h has the value, m > 0 has
    a m + b n . grad m = 0, and f is flat there.

    Example:
        >>> Robin("boundary", a=1.0, b=2.0, value=3.0).wanted(torch.zeros(2, 3))
        tensor([3., 3.])
    """

    on: On = "boundary"
    a: Value = 1.0
    b: Value = 1.0
    value: Value = 0.0
    kind, asks, functions = "robin", "value", ("on", "a", "b", "value")

    @property
    def functional(self) -> tuple[Value, Value, Value]:
        return self.a, self.b, self.value

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        along = slope(u, x, normals(u.problem, x, self.part))
        return at(self.a, x) * u(x) + at(self.b, x) * along - at(self.value, x)


@dataclass(frozen=True)
class Periodic(Condition):
    """u and its derivatives along an axis, up to `derivatives`, are the same at both ends of it.

    Exactly, of all orders, where the network sees cosines and sines of this coordinate.

    Args:
        axis: the name of a coordinate of a box.
        harmonics: how many cosines and sines the network sees.

    Example:
        >>> Periodic("x", harmonics=3).part
        'x = low'
    """

    axis: str
    derivatives: int = 1
    harmonics: int = 1
    kind, functions = "periodic", ()
    of_all = True

    @property
    def part(self) -> str:
        return f"{self.axis} = low"

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        axis, (low, high) = ends_of(u.problem, self.axis)
        there = x.clone()
        there[:, axis] += high - low
        return self._derivatives(u, x, axis) - self._derivatives(u, there, axis)

    def _derivatives(self, u: Ansatz, x: Tensor, axis: int) -> Tensor:
        """u and its derivatives along the axis, side by side, (N, k)."""
        if not self.derivatives:
            return u(x).reshape(len(x), -1)
        value, found = u.derivatives(x, tuple((axis,) * order for order in range(1, self.derivatives + 1)))
        return torch.cat([each.reshape(len(x), -1) for each in (value, *found.values())], 1)

    def check(self, problem: Any) -> None:
        ends_of(problem, self.axis)


@dataclass(frozen=True)
class Initial(Condition):
    """u = value at t = 0, or with `derivative`, the name of time, du/dt = value there.

    Example:
        >>> Initial(0.0, derivative="t")
        Initial(field=None, value=0.0, derivative='t')
    """

    value: Value = 0.0
    derivative: str | None = None
    kind, asks, functions = "initial", "value", ("value",)

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        return in_space(problem, n, generator, law, 0.0, **kind)

    def moment(self, problem: Any) -> float:
        return 0.0

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        if self.derivative is None:
            return u(x) - at(self.value, x)
        v = torch.zeros_like(x)
        v[:, -1] = 1
        return slope(u, x, v) - at(self.value, x)

    def check(self, problem: Any) -> None:
        _needs_time(problem, self)
        _check_values(self)
        if self.derivative is not None and problem.axes.axis(self.derivative) != problem.axes.count - 1:
            raise ConfigError(f"Initial: derivative: given {self.derivative!r}, needed is the name of time")


@dataclass(frozen=True)
class Continued(Initial):
    """`Initial` values that are left to the loss, as those are that one slab of time hands on to the next.

    Example:
        >>> Continued(1.0).built_in, Initial(1.0).built_in
        (False, True)
    """

    built_in = False


@dataclass(frozen=True)
class Terminal(Condition):
    """u = value at the end of time.

    Example:
        >>> Terminal(lambda x: x[:, :-1].square().sum(1)).wanted(torch.ones(1, 4))
        tensor([3.])
    """

    value: Value = 0.0
    kind, asks = "terminal", "value"

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        return in_space(problem, n, generator, law, self.moment(problem), **kind)

    def moment(self, problem: Any) -> float:
        return time_of(problem.domain)

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return u(x) - at(self.value, x)

    def check(self, problem: Any) -> None:
        _needs_time(problem, self)
        _check_values(self)


@dataclass(frozen=True, eq=False)
class Observations(Condition):
    """u = values at points (n, d), known up to `noise`, the standard deviation, by which the misfit is divided.

    Args:
        at: the points; or a table, CSV or NPZ, with a column for each coordinate and one of the values.
        values: (n,); of a table the name of the column, by default that of the field.
        noise: None: it is not known; the misfit is that of u.

    Example:
        >>> from kanpde.problems import Poisson
        >>> seen = Observations(torch.zeros(4, 3), torch.ones(4), noise=0.1)
        >>> seen.count(Poisson(3)), seen.rows(Poisson(3)).shape
        (4, torch.Size([4, 4]))
    """

    at: Any
    values: Any = None
    noise: float | None = None
    kind = "observations"

    def rows(self, problem: Any, **kind: Any) -> Tensor:
        """Points and values, (n, d + 1).

        Raises:
            ConfigError: a table lacks a column, or a number in it.
        """
        if isinstance(self.at, str | Path):
            names = tuple(problem.axes.name(axis) for axis in range(problem.n_inputs))
            return _table(self._file, (*names, self.values or self.field or problem.fields[0])).to(**kind)
        x, y = (torch.as_tensor(t, dtype=torch.float64) for t in (self.at, self.values))
        return torch.cat([x.reshape(y.numel(), -1), y.reshape(-1, 1)], 1).to(**kind)

    @property
    def _file(self) -> Path:
        return Path(self.at).expanduser()

    def count(self, problem: Any) -> int:
        """How many there are; of a table that is gone, whose run is opened again, one."""
        gone = isinstance(self.at, str | Path) and not self._file.is_file()
        return 1 if gone else len(self.rows(problem))

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        kind.pop("sequence", None)
        rows = self.rows(problem, device=generator.device, **kind)
        if n >= len(rows):
            return rows
        return rows[torch.randperm(len(rows), generator=generator, device=generator.device)[:n]]

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return (u(x[:, :-1]) - x[:, -1]) / (self.noise or 1.0)

    def wanted(self, x: Tensor) -> Tensor:
        return x[:, -1]

    def check(self, problem: Any) -> None:
        if any(map(_is_trained, (self.at, self.values, self.noise))):
            raise ConfigError("given an unknown; points, values and noise are numbers that are known")
        if self.noise is not None and not (number(self.noise) or 0.0) > 0:
            raise ConfigError(f"noise: given {self.noise!r:.60}, needed is a number above 0")
        if isinstance(self.at, str | Path):  # which is read where a run begins
            if self.values is not None and not isinstance(self.values, str):
                raise ConfigError(f"values: given {self.values!r:.60}, of a table needed is the name of a column")
            return
        try:
            shape = tuple(self.rows(problem).shape)
        except (TypeError, ValueError, RuntimeError):
            shape = ()
        d = problem.n_inputs
        if len(shape) != 2 or shape[1] != d + 1 or not shape[0]:
            raise ConfigError(f"{type(self).__name__}: needed are points (n, {d}) and as many values, n at least 1")


@lru_cache(maxsize=16)
def _table(path: Path, names: tuple[str, ...]) -> Tensor:
    """Columns of a table side by side, (n, columns)."""
    found = torch.from_numpy(np.stack(list(columns.read(path, names).values()), 1))
    if not found.isfinite().all() or not len(found):
        lacking = int((~found.isfinite().all(1)).sum())
        raise ConfigError(f"{path}: {lacking:,} of {len(found):,} rows lack a number in {', '.join(names)}")
    return found


@dataclass(frozen=True, eq=False)
class Point(Observations):
    """u = value at one point (d,).

    Example:
        >>> Point((0.5, 0.5), 1.0).at
        (0.5, 0.5)
    """

    kind = "point"


@dataclass(frozen=True)
class Integral(Condition):
    """The integral of u over the domain is `value`; with time that over space, at all times. 0: its mean is zero.

    By the mean over points of a Sobol sequence, the same in every step.

    Example:
        >>> Integral(1.0).by_points
        False
    """

    value: float = 0.0
    kind, functions = "integral", ()
    by_points = False

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        """Points (m, d), with time `TIMES` blocks of them, each at one time."""
        domain, time, drawn = problem.domain, time_of(problem.domain), stream(0, "integral", generator.device)
        kind["sequence"] = "sobol" if domain.dim < SOBOL_MAX_DIM else "random"
        even = laws_of(domain)[0] if "volume" not in laws_of(domain) else "volume"
        x = domain.interior(AVERAGED, drawn, even, **kind)
        if time is not None:
            at = torch.linspace(0, time, TIMES, dtype=x.dtype, device=x.device)
            x[:, -1] = at.repeat_interleave(AVERAGED // TIMES)
        return x

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        """(1,), or (TIMES,) with time: how far the mean is from value / volume."""
        domain = u.problem.domain
        means = u(x).reshape(1 if time_of(domain) is None else TIMES, -1).mean(1)
        return means - (self.value / space_of(domain).volume if self.value else 0.0)

    def check(self, problem: Any) -> None:
        if number(self.value) is None:
            raise ConfigError(f"value: given {self.value!r:.60}, needed is a number")
        if self.value:
            try:
                volume = space_of(problem.domain).volume
            except NotImplementedError as error:
                raise ConfigError(f"value: {error}; a value of 0 needs none") from None
            if not isfinite(volume):
                raise ConfigError(f"value: given {self.value:g}, but the volume is {volume}; a value of 0 needs none")


def slope(u: Ansatz, x: Tensor, v: Tensor) -> Tensor:
    """v . grad u (N,) for a direction (N, d) at each point."""
    return u.taylor(x, v.unsqueeze(1), (1,)).terms[0][:, 0, 0]


def _check_values(condition: Condition) -> None:
    """Raises ConfigError where a value is neither a number nor a function, or would keep an unknown as it is."""
    for name in ("value", "flux", "a", "b"):
        stated = getattr(condition, name, 0.0)
        if _is_trained(stated):
            why = "which changes as it is trained: read it in a function of x"
            raise ConfigError(f"{name}: given an unknown, {why}, {name}=lambda x: self.a")
        if not callable(stated) and number(stated) is None:
            raise ConfigError(f"{name}: given {stated!r:.60}, needed is a number, or a function of x")


def _is_trained(value: Any) -> bool:
    return isinstance(value, Unknown) or getattr(value, "requires_grad", False)


def _needs_time(problem: Any, condition: Condition) -> None:
    if time_of(problem.domain) is None:
        kind = type(problem.domain).__name__
        raise ConfigError(f"{type(condition).__name__}: the domain {kind} has no time; Cylinder(space, time) has")


# ---------------------------------------------------------------------------------------------------------------
# Those of a problem


def by_name(problem: Any) -> dict[str, Condition]:
    """The conditions of a problem; those that have no name are called by their kind, and numbered.

    Raises:
        ConfigError: something stated is no condition, does not fit, or two ask for values in one place.
    """
    stated = problem.conditions
    if not isinstance(stated, Mapping | Sequence) or isinstance(stated, str):
        hint = f"; write conditions = ({type(stated).__name__}(...),)" if isinstance(stated, Condition) else ""
        hint = "; write @property above it" if callable(stated) else hint
        given = type(stated).__name__
        raise ConfigError(f"conditions: given a {given}, needed is a tuple of them, or a dictionary{hint}")
    each = list(stated.values() if isinstance(stated, Mapping) else stated)
    for condition in each:
        if not isinstance(condition, Condition):
            given = type(condition).__name__
            raise ConfigError(f"conditions: given a {given}, needed is such as Dirichlet('boundary', 0.0)")
        try:
            condition.check_field(problem)
            condition.check(problem)
        except ConfigError as error:
            own = str(error).startswith(type(condition).__name__)
            raise ConfigError(str(error) if own else f"{type(condition).__name__}: {error}") from None
    _check_places(problem, each)
    if isinstance(stated, Mapping):
        return dict(stated)
    several = len(problem.fields) > 1
    kinds = [f"{c.kind}_{c.field}" if several and c.field is not None else c.kind for c in each]
    numbers = [kinds[: k + 1].count(kind) for k, kind in enumerate(kinds)]
    return {kind if n == 1 else f"{kind}_{n}": c for kind, n, c in zip(kinds, numbers, each, strict=True)}


def draws(problem: Any, law: str) -> dict[str, Callable[..., Tensor]]:
    """By the name of a term (n, generator, dtype, ...) -> the points that it reads."""
    domain, asked = problem.domain, problem.asked
    return {
        "interior": partial(domain.interior, law=law),
        **({} if asked or not hasattr(domain, "boundary") else {"boundary": domain.boundary}),
        **({} if asked or not hasattr(domain, "initial") else {"initial": partial(domain.initial, law=law)}),
        **{name: partial(c.points, problem, law=law) for name, c in asked.items() if c.by_points},
    }


def _check_places(problem: Any, conditions: Sequence[Condition]) -> None:
    """Raises ConfigError for two conditions of one kind of place: values, or an axis that is periodic as well."""
    taken: dict[object, Condition] = {}
    for condition in conditions:
        for place in _places(problem, condition):
            for field in problem.fields if condition.field is None else (condition.field,):
                if (other := taken.setdefault((field, place), condition)) is not condition:
                    both = sorted((type(condition).__name__, type(other).__name__))
                    of = f" of {field}" if len(problem.fields) > 1 else ""
                    raise ConfigError(f"conditions: {both[0]} and {both[1]}{of} are on the same part, {place}")


def check_time(problem: Any) -> None:
    """Raises ConfigError where an equation has fewer conditions in time than its order, and no others instead."""
    if time_of(problem.domain) is not None and problem.asked:
        for name in problem.fields:
            _check_time_of(problem.of(name), name)


def _check_time_of(problem: Any, field: str) -> None:
    last, conditions = problem.n_inputs - 1, list(problem.asked.values())
    order = problem.reads.times(last)
    if not order:
        return
    known = Dirichlet | Neumann | Robin | Periodic
    others = [c for c in conditions if not isinstance(c, known)]  # observations, or of a user's own, may stand for them
    if sum(isinstance(c, Initial | Terminal) for c in others) == len(others) < order:
        t = problem.axes.name(last)
        needed = "Initial(value)" if order == 1 else f"Initial(value) and Initial(value, derivative={t!r})"
        needed = f"{needed}, or Terminal(value)"
        raise ConfigError(f"conditions: {field}.{t * order} is read, so {order} in time are needed: {needed}")


def _places(problem: Any, condition: Condition) -> list[object]:
    """The parts on which nothing else may be asked for."""
    space = space_of(problem.domain)
    if isinstance(condition, Initial):
        return [f"t = 0{', d/dt' if condition.derivative else ''}"]
    if isinstance(condition, Terminal):
        return ["the end of time"]
    if isinstance(condition, Integral):
        return ["its integral"]
    if not isinstance(condition, Dirichlet | Neumann | Robin | Periodic) or callable(condition.part):
        return []
    asked = f", {condition.kind}" if problem.reads.order >= 4 else ""  # a pair, value and slope, say
    if space.dim > NAMED:
        return [f"boundary{asked}"]
    names = [problem.axes.name(axis) for axis in range(space.dim)]
    sides = [f"{name} = {end}" for name in names for end in ("low", "high")]
    sides = sides if getattr(space, "sides", None) else ["boundary"]
    if isinstance(condition, Periodic):
        return [side for side in sides if side.split(" = ")[0] == condition.axis]
    if condition.part == "boundary":
        return [f"{side}{asked}" for side in sides]
    axis, value = face_of(problem, condition.part)
    return [f"{names[axis]} = {'high' if value == space.sides[axis][1] else 'low'}{asked}"]
