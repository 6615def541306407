r"""Conditions that u = h + m f meets whatever f is: m and h from what they ask for.

m is a product over what is given: of a side of a box (x - a)/(b - a), of both 4 (x - a)(b - x)/(b - a)^2, of any other
boundary the factor of its domain, of initial values t, with du/dt t^2, of terminal ones T - t. With G, which has the
values of the boundary (interpolated from the sides of a box), x_0 = (x, 0) and x_T = (x, T),

.. math:: h = G + (1 - w)(u_0 - G(x_0)) + w (u_T - G(x_T)) + t (v_0 - G_t(x_0))

with w = 0 without terminal values, 1 without initial ones, else t / T. Conditions that this does not meet at points of
their parts, as values that do not agree where parts meet, are left to the loss.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor

from kanpde.domains import Box
from kanpde.domains.base import kinds_of, laws_of, space_of, time_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Field
from kanpde.jets.nested import slopes
from kanpde.problems.conditions import Condition, Dirichlet, Initial, Periodic, Terminal, Value, at
from kanpde.problems.lifts import AXES, INPUTS, Curved, extension, is_smooth
from kanpde.problems.parts import ends_of, face_of

POINTS, NUMBERS = 64, 2**18  # of each part, at which it is checked; in high dimension fewer
VANISHING, AGREEING = 1e-9, 1e-7  # of m on a part, of h and the values there, relative to their sizes
Side = tuple[int, int]  # axis, 0 or 1: where it begins, where it ends
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Exactly:
    """m and h, each None where there is none, and the conditions that they meet, by name.

    Attributes:
        periodic: of the axes along which the network is to be periodic, the harmonics that it sees.
    """

    factor: Callable[[Tensor], Field] | None = None
    lift: Callable[[Tensor], Field] | None = None
    met: frozenset[str] = frozenset()
    periodic: Mapping[int, int] | None = None

    @staticmethod
    def of_all(each: Sequence["Exactly"], shared: Collection[str]) -> "Exactly":
        """What several fields meet, of the `shared` conditions what all of them do; factors and lifts are theirs alone.

        One network is periodic along the axes along which all fields are to be.
        """
        some, every = (of(*(part.met for part in each)) for of in (frozenset().union, frozenset.intersection))
        axes = frozenset.intersection(*(frozenset(part.periodic or {}) for part in each))
        return Exactly(
            met=some.difference(shared) | every.intersection(shared),
            periodic={axis: harmonics for axis, harmonics in (each[0].periodic or {}).items() if axis in axes},
        )


def exactly(problem: Any, conditions: Mapping[str, Condition]) -> Exactly:
    """What can be met exactly of a problem's conditions; a factor or lift of the problem's own is taken as it is."""
    candidates = {name: c for name, c in conditions.items() if isinstance(c, Dirichlet | Initial | Terminal | Periodic)}
    candidates = {name: c for name, c in candidates.items() if c.built_in and not callable(c.part)}
    own = [getattr(problem, name) if problem.states(name) else None for name in ("factor", "lift")]
    if any(own):
        return _with(problem, own, {name: c for name, c in candidates.items() if _met(problem, c, *own)})
    ranked = sorted(candidates, key=lambda name: _PRIORITY.index(_rank(candidates[name])), reverse=True)
    for some in range(len(ranked) + 1):  # left to the loss: as few as possible, of these the first in the order
        for left in combinations(ranked, some):
            kept = {name: c for name, c in candidates.items() if name not in left}
            ranks = {_rank(condition) for condition in kept.values()}
            if "derivative" in ranks and Initial not in ranks:  # m = t^2 would hold u at t = 0 as well
                continue
            try:
                built = _built(problem, kept)
            except (ConfigError, RuntimeError):  # there is no such lift; a value that is wrong is told by the loss
                continue
            if all(_met(problem, condition, *built) for condition in kept.values()) and _is_smooth(problem, built[1]):
                return _with(problem, built, kept)
    return Exactly()


def _is_smooth(problem: Any, h: Callable | None) -> bool:
    """Whether h is twice differentiable: of a kink, the payoff of an option, the residual would see nothing."""
    value = h.function if isinstance(h, Curved) else lambda x: h(x).value
    return h is None or is_smooth(value, problem.domain)


_PRIORITY = (Dirichlet, Periodic, Terminal, Initial, "derivative")  # the last is left to the loss first


def _rank(condition: Condition) -> Any:
    return "derivative" if getattr(condition, "derivative", None) else type(condition)


def _with(problem: Any, parts: Sequence[Callable | None], met: Mapping[str, Condition]) -> Exactly:
    axes = {ends_of(problem, c.axis)[0]: c.harmonics for c in met.values() if isinstance(c, Periodic)}
    return Exactly(*parts, frozenset(met), axes)


# ---------------------------------------------------------------------------------------------------------------
# m and h


def _built(problem: Any, conditions: Mapping[str, Condition]) -> tuple[Callable | None, Callable | None]:
    """The factor and the lift of conditions."""
    sides, whole = _on_boundary(problem, conditions)
    initial = {c.derivative is not None: c.value for c in conditions.values() if isinstance(c, Initial)}
    terminal = next((c.value for c in conditions.values() if isinstance(c, Terminal)), None)
    time, axes = time_of(problem.domain), _profiles(problem, sides)
    power = 2 if True in initial else 1 if initial else 0
    if power or terminal is not None:
        axes[problem.n_inputs - 1] = InTime(power, time if terminal is not None else None)
    space = space_of(problem.domain) if whole is not None else None
    m = Vanishing(space, tuple(sorted(axes.items()))) if axes or space else None
    values = [*sides.values(), *initial.values()] + [v for v in (whole, terminal) if v is not None]
    if all(not callable(value) and not value for value in values):
        return m, None
    of_boundary = _of_boundary(problem, sides, whole)
    h = partial(_lift, of_boundary, initial.get(False), initial.get(True), terminal, time)
    if problem.n_inputs > INPUTS:
        return None, None  # its second derivatives are too dear
    return m, Curved(h)


def _on_boundary(problem: Any, conditions: Mapping[str, Condition]) -> tuple[dict[Side, Value], Value | None]:
    """The values of sides of a box, or that of all of a boundary."""
    space, sides = space_of(problem.domain), {}
    for condition in conditions.values():
        if not isinstance(condition, Dirichlet):
            continue
        if condition.part != "boundary":
            axis, value = face_of(problem, condition.part)
            sides[axis, int(value == space.sides[axis][1])] = condition.value
        elif isinstance(space, Box) and space.dim <= AXES:
            sides |= {(axis, end): condition.value for axis in range(space.dim) for end in (0, 1)}
        else:
            return {}, condition.value
    return sides, None


def _profiles(problem: Any, sides: Mapping[Side, Value]) -> dict[int, "Across | InTime"]:
    """Of each axis with a value given at an end, the function of this coordinate that vanishes there."""
    ranges = getattr(space_of(problem.domain), "sides", None)
    ends = {axis: {end for other, end in sides if other == axis} for axis, _ in sides}
    return {axis: Across(*ranges[axis], frozenset(of)) for axis, of in ends.items()}


@dataclass(frozen=True)
class Across:
    """Value, first and second derivative of a function that vanishes at one end of an interval, or at both."""

    low: float
    high: float
    ends: frozenset[int]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high, width = self.low, self.high, self.high - self.low
        if self.ends == {0, 1}:
            scale = 4 / width**2
            return scale * (x - low) * (high - x), scale * (low + high - 2 * x), torch.full_like(x, -2 * scale)
        sign = 1 if self.ends == {0} else -1
        return (x - low if sign > 0 else high - x) / width, torch.full_like(x, sign / width), torch.zeros_like(x)


@dataclass(frozen=True)
class InTime:
    """The same of t^power, times T - t where there is an end."""

    power: int
    end: float | None

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        power = self.power
        value, slope, bend = t**power, power * t ** max(power - 1, 0), torch.full_like(t, 2.0 if power == 2 else 0.0)
        if self.end is None:
            return value, slope, bend
        left = self.end - t
        return value * left, slope * left - value, bend * left - 2 * slope


@dataclass(frozen=True)
class Vanishing:
    """m: the product of functions of one coordinate each, and of the factor of a domain in space.

    Equal ones are the same function, which several fields compute once.
    """

    space: Any = field(hash=False)
    axes: tuple[tuple[int, Across | InTime], ...]

    def __call__(self, x: Tensor) -> Field:
        numbers = {axis: profile(x[:, axis]) for axis, profile in self.axes}
        value, grad, second = x.new_ones(len(x)), torch.zeros_like(x), torch.zeros_like(x)
        if self.space is not None:
            m, n = self.space.factor(x[:, : self.space.dim]), self.space.dim
            if m is None:
                raise ConfigError(f"a {type(self.space).__name__} has no factor")
            value, rest = m.value, torch.zeros_like(x[:, n:])
            grad = torch.cat([m.grad, rest], 1)
            second = torch.cat([m.hessian_diagonal.expand(len(x), n), rest], 1)
        for axis, (a, slope, bend) in numbers.items():
            grad, second = grad * a[:, None], second * a[:, None]
            columns = torch.arange(x.shape[1], device=x.device) == axis
            grad = torch.where(columns, (value * slope)[:, None], grad)
            second = torch.where(columns, (value * bend)[:, None], second)
            value = value * a
        return Field(value, grad, second)


def _of_boundary(problem: Any, sides: Mapping[Side, Value], whole: Value | None) -> Function | None:
    """G: a function with the values of the boundary; None: zero."""
    given = [*sides.values()] if whole is None else [whole]
    if all(not callable(value) and not value for value in given):
        return None
    if whole is None:
        return partial(_transfinite, sides, space_of(problem.domain).sides)
    if not callable(whole):
        return partial(at, whole)
    return extension(partial(at, whole), problem.domain)


def _transfinite(sides: Mapping[Side, Value], ranges: list, x: Tensor) -> Tensor:
    """The interpolation between sides that are given (Gordon & Hall 1973), constant from one that is alone."""
    ends = {axis: sorted(end for other, end in sides if other == axis) for axis, _ in sides}
    found = x.new_zeros(len(x))
    for choice in product(*((None, *of) for of in ends.values())):
        weight, columns, value = x.new_full((len(x),), -1.0), list(x.unbind(1)), None
        for (axis, of), end in zip(ends.items(), choice, strict=True):
            if end is None:
                continue
            low, high = ranges[axis]
            share = (x[:, axis] - low) / (high - low)
            weight = -weight * (1.0 if len(of) == 1 else share if end else 1 - share)
            columns[axis] = torch.full_like(columns[axis], ranges[axis][end])
            value = sides[axis, end] if value is None else value
        if value is not None:
            found = found + weight * at(value, torch.stack(columns, 1))
    return found


def _lift(
    g: Function | None, u_0: Value | None, v_0: Value | None, u_end: Value | None, end: float | None, x: Tensor
) -> Tensor:
    """h of this module's formula; what is None is not asked for."""
    zero = x.new_zeros(len(x))
    of_g = (lambda x: zero) if g is None else g
    h = of_g(x)
    if u_0 is None and u_end is None:
        return h
    t = x[:, -1]
    moved = lambda t: torch.cat([x[:, :-1], t.unsqueeze(1)], 1)
    start, last = (moved(torch.full_like(t, time or 0.0)) for time in (0.0, end))
    w = zero if u_end is None else zero + 1 if u_0 is None else t / end
    if u_0 is not None:
        h = h + (1 - w) * (at(u_0, start) - of_g(start))
    if u_end is not None:
        h = h + w * (at(u_end, last) - of_g(last))
    if v_0 is not None:
        slope = zero if g is None else slopes(lambda t: g(moved(t)), torch.zeros_like(t), 1)[0]
        h = h + t * (at(v_0, start) - slope)
    return h


# ---------------------------------------------------------------------------------------------------------------
# Whether they are met


def _met(problem: Any, condition: Condition, m: Callable | None, h: Callable | None) -> bool:
    """Whether h + m f meets a condition at points of its part, for any f; along a periodic axis for any periodic f."""
    domain, kind = problem.domain, {"dtype": torch.float64}
    n, drawn = max(4, min(POINTS, NUMBERS // domain.dim)), stream(0, "exactly")
    law = laws_of(domain)[0]
    if isinstance(condition, Initial | Terminal) and "initial" not in kinds_of(domain):
        return False
    try:
        inside = domain.interior(n, drawn, law, **kind)
        x = condition.points(problem, n, drawn, law, **kind)
        sizes = [1.0 if of is None else of(inside).value.abs().max().item() for of in (m, h)]
        if isinstance(condition, Periodic):
            parts = [(of, size) for of, size in zip((m, h), sizes, strict=True) if of is not None]
            return all(_is_periodic(problem, condition, of, x, size) for of, size in parts)
        if m is None:
            return False
        given = at(condition.value, x)
        factor, lift = m(x), None if h is None else h(x)
    except (ConfigError, RuntimeError):
        return False
    size = max(sizes[1] if h is not None else 0.0, given.abs().max().item(), 1e-300)
    vanishes = factor.value.abs().max() <= VANISHING * sizes[0]
    if getattr(condition, "derivative", None):
        vanishes &= factor.grad[:, -1].abs().max() <= VANISHING * sizes[0]
        found = torch.zeros_like(given) if lift is None else lift.grad[:, -1]
    else:
        found = torch.zeros_like(given) if lift is None else lift.value
    return bool(vanishes) and bool((found - given).abs().max() <= AGREEING * size)


def _is_periodic(problem: Any, condition: Periodic, of: Callable, x: Tensor, size: float) -> bool:
    """Whether a function and its slope across are the same at both ends of an axis."""
    axis, (low, high) = ends_of(problem, condition.axis)
    there = x.clone()
    there[:, axis] += high - low
    a, b = of(x), of(there)
    gaps = (a.value - b.value), (a.grad - b.grad)[:, axis] * (high - low)
    return all(gap.abs().max() <= AGREEING * size for gap in gaps)
