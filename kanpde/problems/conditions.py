r"""Conditions on u: what each asks for, at which points, and how far a function is from it.

A condition is met exactly by the ansatz where one exists (`kanpde.problems.exactly`), else its misfit is a term of the
loss, the mean of its square over points of the part of the boundary that it is `on`:

"boundary"            all of the boundary in space
"x = 1"               the face of a box where a coordinate has this value
a function of x       the points of the boundary where it is True: x (N, d) -> (N,) of bool
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from kanpde.domains import Box, Cylinder
from kanpde.domains.base import kinds_of, number, space_of, time_of
from kanpde.domains.shapes import accepted
from kanpde.ground.errors import ConfigError, suggest
from kanpde.jets.ansatz import Ansatz

Value = float | Callable[[Tensor], Tensor]  # a number, or a function of points x (N, d) -> (N,)
On = str | Callable[[Tensor], Tensor]
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
    """What conditions derive from; one of a user's own states `misfit`, and `points` if not those of the boundary."""

    kind: ClassVar[str] = "condition"

    @property
    def part(self) -> On:
        """The part of the boundary."""
        return getattr(self, "on", "boundary")

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        """n points at which it is asked for, or all that there are where these are fewer."""
        return points_on(problem, self.part, n, generator, **kind)

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        """What is zero where u meets it: (N,) or (N, k) at its points."""
        raise NotImplementedError(f"{type(self).__name__} states no misfit")

    def check(self, problem: Any) -> None:
        """Raises ConfigError where it does not fit the problem."""
        if not isinstance(self.part, str) and not callable(self.part):
            needed = "'boundary', a side such as 'x = 1', or a function of x that says which points are meant"
            raise ConfigError(f"on: given {self.part!r:.60}, needed is {needed}; the value comes after it")
        for name in ("value", "flux", "a", "b"):
            stated = getattr(self, name, 0.0)
            if not callable(stated) and number(stated) is None:
                raise ConfigError(f"{name}: given {stated!r:.60}, needed is a number, or a function of x")
        if isinstance(self.part, str) and self.part != "boundary":
            face_of(problem, self.part)
        elif type(self).points is Condition.points and "boundary" not in kinds_of(problem.domain):
            raise ConfigError(f"a {type(space_of(problem.domain)).__name__} has no boundary")


@dataclass(frozen=True)
class Dirichlet(Condition):
    """u = value."""

    on: On = "boundary"
    value: Value = 0.0
    kind = "dirichlet"

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return u(x) - at(self.value, x)


@dataclass(frozen=True)
class Neumann(Condition):
    """n . grad u = flux, for the outward unit normal n."""

    on: On = "boundary"
    flux: Value = 0.0
    kind = "neumann"

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return slope(u, x, normals(u.problem, x, self.part)) - at(self.flux, x)


@dataclass(frozen=True)
class Robin(Condition):
    """a u + b n . grad u = value."""

    on: On = "boundary"
    a: Value = 1.0
    b: Value = 1.0
    value: Value = 0.0
    kind = "robin"

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
    """

    axis: str
    derivatives: int = 1
    harmonics: int = 1
    kind = "periodic"

    @property
    def part(self) -> str:
        return f"{self.axis} = low"

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        axis, (low, high) = ends_of(u.problem, self.axis)
        v = torch.zeros_like(x[:1])
        v[:, axis] = 1
        here, there = (self._derivatives(u, y, v) for y in (x, x + (high - low) * v))
        return here - there

    def _derivatives(self, u: Ansatz, x: Tensor, v: Tensor) -> Tensor:
        if not self.derivatives:
            return u(x).unsqueeze(1)
        found = u.taylor(x, v.unsqueeze(1), (1,) * self.derivatives)
        return torch.cat([found.value, *(term[:, :, 0] for term in found.terms)], 1)

    def check(self, problem: Any) -> None:
        ends_of(problem, self.axis)


@dataclass(frozen=True)
class Initial(Condition):
    """u = value at t = 0, or with `derivative`, the name of time, du/dt = value there."""

    value: Value = 0.0
    derivative: str | None = None
    kind = "initial"

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        return in_space(problem, n, generator, law, 0.0, **kind)

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        if self.derivative is None:
            return u(x) - at(self.value, x)
        v = torch.zeros_like(x)
        v[:, -1] = 1
        return slope(u, x, v) - at(self.value, x)

    def check(self, problem: Any) -> None:
        _needs_time(problem, self)
        if self.derivative is not None and problem.axes.axis(self.derivative) != problem.axes.count - 1:
            raise ConfigError(f"Initial: derivative: given {self.derivative!r}, needed is the name of time")


@dataclass(frozen=True)
class Terminal(Condition):
    """u = value at the end of time."""

    value: Value = 0.0
    kind = "terminal"

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        return in_space(problem, n, generator, law, time_of(problem.domain), **kind)

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return u(x) - at(self.value, x)

    def check(self, problem: Any) -> None:
        _needs_time(problem, self)


@dataclass(frozen=True, eq=False)
class Observations(Condition):
    """u = values at points (n, d), known up to `noise`, by which the misfit is divided."""

    at: Any
    values: Any
    noise: float = 1.0
    kind = "observations"

    def rows(self, **kind: Any) -> Tensor:
        """Points and values, (n, d + 1)."""
        x, y = (torch.as_tensor(t, dtype=torch.float64) for t in (self.at, self.values))
        return torch.cat([x.reshape(y.numel(), -1), y.reshape(-1, 1)], 1).to(**kind)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.rows())

    def points(self, problem: Any, n: int, generator: torch.Generator, law: str, **kind: Any) -> Tensor:
        kind.pop("sequence", None)
        rows = self.rows(device=generator.device, **kind)
        if n >= len(rows):
            return rows
        return rows[torch.randperm(len(rows), generator=generator, device=generator.device)[:n]]

    def misfit(self, u: Ansatz, x: Tensor) -> Tensor:
        return (u(x[:, :-1]) - x[:, -1]) / self.noise

    def check(self, problem: Any) -> None:
        try:
            shape = tuple(self.rows().shape)
        except (TypeError, ValueError, RuntimeError):
            shape = ()
        d = problem.n_inputs
        if len(shape) != 2 or shape[1] != d + 1 or not shape[0]:
            raise ConfigError(f"{type(self).__name__}: needed are points (n, {d}) and as many values, n at least 1")
        if not self.noise > 0:
            raise ConfigError(f"{type(self).__name__}: noise: given {self.noise!r}, needed is a number above 0")


@dataclass(frozen=True, eq=False)
class Point(Observations):
    """u = value at one point (d,)."""

    kind = "point"


# ---------------------------------------------------------------------------------------------------------------
# Parts of a boundary


def points_on(problem: Any, on: On, n: int, generator: torch.Generator, **kind: Any) -> Tensor:
    """n points of a part of the boundary.

    Raises:
        ConfigError: it has none.
    """
    domain = problem.domain
    if isinstance(on, str) and on != "boundary":
        return _on_side(problem, *face_of(problem, on), n, generator, **kind)
    if not callable(on):
        return domain.boundary(n, generator, **kind)

    def trial(m: int) -> Tensor:
        x = domain.boundary(m, generator, **kind)
        meant = on(x)
        if not isinstance(meant, Tensor) or meant.shape != (len(x),) or meant.dtype != torch.bool:
            given = f"{tuple(meant.shape)} of {meant.dtype}" if isinstance(meant, Tensor) else type(meant).__name__
            raise ConfigError(f"on: given {given} at {len(x)} points, needed is ({len(x)},) of bool")
        return x[meant]

    return accepted(trial, n, "the part of the boundary that is meant")


def _on_side(problem: Any, axis: int, value: float, n: int, generator: torch.Generator, **kind: Any) -> Tensor:
    """n points uniform on a side of a box, as far as it belongs to the domain."""
    domain = problem.domain
    space = space_of(domain)
    box = space if isinstance(space, Box) else Box(space.dim, *zip(*space.sides, strict=True))
    whole = domain if box is space else box if domain is space else Cylinder(box, domain.time)

    def trial(m: int) -> Tensor:
        x = whole.interior(m, generator, "volume", **kind)
        x[:, axis] = value
        return x if box is space else x[space.contains(x[:, : space.dim])]

    return trial(n) if box is space else accepted(trial, n)


def face_of(problem: Any, on: str) -> tuple[int, float]:
    """The axis and the value of a face of a box, "x = 1".

    Raises:
        ConfigError: there is no such face.
    """
    found = re.fullmatch(r"\s*(\w+)\s*=\s*(\S+)\s*", on)
    space = space_of(problem.domain)
    sides = getattr(space, "sides", None)
    if found is None or not sides:
        needed = "'boundary', a function of x" + (", or a face such as 'x = 1'" if sides else "")
        raise ConfigError(f"on: given {on!r}, a {type(space).__name__} has {needed}")
    axis, (low, high) = ends_of(problem, found[1])
    if found[2] in ("low", "high"):
        return axis, {"low": low, "high": high}[found[2]]
    faces = {f"{value:g}": value for value in (low, high)}
    try:
        given = float(found[2])
    except ValueError:
        given = float("nan")
    for value in (low, high):
        if abs(given - value) <= 1e-9 * (abs(value) + high - low):
            return axis, value
    raise ConfigError(suggest(f"side {found[1]} =", found[2], [*faces, "low", "high"]))


def ends_of(problem: Any, name: str) -> tuple[int, tuple[float, float]]:
    """The axis of a coordinate of a box, and where it begins and ends.

    Raises:
        ConfigError: it is none.
    """
    axis, space = problem.axes.axis(name), space_of(problem.domain)
    if not getattr(space, "sides", None) or axis >= space.dim:
        what = "no side of a Box" if axis < space.dim else "time: write Initial or Terminal"
        raise ConfigError(f"it names the ends of {name!r}, which is {what}")
    return axis, space.sides[axis]


def normals(problem: Any, x: Tensor, on: On) -> Tensor:
    """Outward unit normals (N, d) at points of a part of the boundary, without a component in time."""
    if isinstance(on, str) and on != "boundary":
        axis, value = face_of(problem, on)
        n = torch.zeros_like(x)
        n[:, axis] = 1.0 if value == ends_of(problem, problem.axes.name(axis))[1][1] else -1.0
        return n
    space = space_of(problem.domain)
    return torch.cat([space.normal(x[:, : space.dim]), x.new_zeros(len(x), x.shape[1] - space.dim)], 1)


def slope(u: Ansatz, x: Tensor, v: Tensor) -> Tensor:
    """v . grad u (N,) for a direction (N, d) at each point."""
    return u.taylor(x, v.unsqueeze(1), (1,)).terms[0][:, 0, 0]


def in_space(problem: Any, n: int, generator: torch.Generator, law: str, t: float, **kind: Any) -> Tensor:
    """n points of space at a time."""
    x = problem.domain.initial(n, generator, law, **kind)
    x[:, -1] = t
    return x


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
            condition.check(problem)
        except ConfigError as error:
            own = str(error).startswith(type(condition).__name__)
            raise ConfigError(str(error) if own else f"{type(condition).__name__}: {error}") from None
    _check_places(problem, each)
    if isinstance(stated, Mapping):
        return dict(stated)
    names: dict[str, Condition] = {}
    for condition in each:
        same = sum(other.kind == condition.kind for other in names.values())
        names[condition.kind if not same else f"{condition.kind}_{same + 1}"] = condition
    return names


def draws(problem: Any, law: str) -> dict[str, Callable[..., Tensor]]:
    """By the name of a term (n, generator, dtype, ...) -> the points that it reads."""
    domain, asked = problem.domain, problem.asked
    return {
        "interior": partial(domain.interior, law=law),
        **({} if asked or not hasattr(domain, "boundary") else {"boundary": domain.boundary}),
        **({} if asked or not hasattr(domain, "initial") else {"initial": partial(domain.initial, law=law)}),
        **{name: partial(condition.points, problem, law=law) for name, condition in asked.items()},
    }


def _check_places(problem: Any, conditions: Sequence[Condition]) -> None:
    """Raises ConfigError for two conditions of one kind of place: values, or an axis that is periodic as well."""
    taken: dict[object, Condition] = {}
    for condition in conditions:
        for place in _places(problem, condition):
            if (other := taken.setdefault(place, condition)) is not condition:
                both = sorted((type(condition).__name__, type(other).__name__))
                raise ConfigError(f"conditions: {both[0]} and {both[1]} are on the same part, {place}")


def check_time(problem: Any) -> None:
    """Raises ConfigError where an equation has fewer conditions in time than its order, and no others instead."""
    last, conditions = problem.n_inputs - 1, list(problem.asked.values())
    order = max((index.count(last) for index in problem.reads.derivatives), default=0)
    if time_of(problem.domain) is None or not conditions or not order:
        return
    known = Dirichlet | Neumann | Robin | Periodic
    others = [c for c in conditions if not isinstance(c, known)]  # observations, or of a user's own, may stand for them
    if sum(isinstance(c, Initial | Terminal) for c in others) == len(others) < order:
        t = problem.axes.name(last)
        needed = "Initial(value)" if order == 1 else f"Initial(value) and Initial(value, derivative={t!r})"
        needed = f"{needed}, or Terminal(value)"
        raise ConfigError(f"conditions: u.{t * order} is read, so {order} in time are needed: {needed}")


def _places(problem: Any, condition: Condition) -> list[object]:
    """The parts on which nothing else may be asked for."""
    space = space_of(problem.domain)
    if isinstance(condition, Initial):
        return [f"t = 0{', d/dt' if condition.derivative else ''}"]
    if isinstance(condition, Terminal):
        return ["the end of time"]
    if isinstance(condition, Observations) or callable(condition.part):
        return []
    if space.dim > NAMED:
        return ["boundary"]
    names = [problem.axes.name(axis) for axis in range(space.dim)]
    sides = [f"{name} = {end}" for name in names for end in ("low", "high")]
    sides = sides if getattr(space, "sides", None) else ["boundary"]
    if isinstance(condition, Periodic):
        return [side for side in sides if side.split(" = ")[0] == condition.axis]
    pair = problem.reads.order >= 4  # value and slope, say
    asked = f", {condition.kind}" if pair else ""
    if condition.part == "boundary":
        return [f"{side}{asked}" for side in sides]
    axis, value = face_of(problem, condition.part)
    return [f"{names[axis]} = {'high' if value == space.sides[axis][1] else 'low'}{asked}"]
