r"""Conditions that u = h + m f meets whatever f is: m and h from what they ask for.

m is a product over what is given: of a side of a box (x - a)/(b - a), of both 4 (x - a)(b - x)/(b - a)^2, of any other
boundary the factor of its domain, of initial values t, with du/dt t^2, of terminal ones T - t. With G, which has the
values of the boundary (interpolated from the sides of a box), x_0 = (x, 0) and x_T = (x, T),

.. math:: h = G + (1 - w)(u_0 - G(x_0)) + w (u_T - G(x_T)) + t (v_0 - G_t(x_0))

with w = 0 without terminal values, 1 without initial ones, else t / T. Of a problem with a part k that is known before,
these are the values less those of k, and h = k + the same.

Where a u + b n . grad u = g is asked for on a side of a box, b not zero, G has g, m has a m + b n . grad m = 0
(`kanpde.problems.sides`), and the network has inputs that make f flat there (`kanpde.jets.harmonics`):

.. math:: a u + b\, \partial_n u = (a h + b\, \partial_n h) + f (a m + b\, \partial_n m) + b m\, \partial_n f = g

Conditions that this does not meet at points of their parts, as values that do not agree where parts meet, are left to
the loss, fluxes before values.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from kanpde.domains import Box
from kanpde.domains.base import kinds_of, laws_of, number, space_of, time_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Field
from kanpde.jets.nested import slopes
from kanpde.problems.conditions import Condition, Initial, Periodic, Terminal, Value, at
from kanpde.problems.lifts import AXES, INPUTS, Curved, extension, is_smooth
from kanpde.problems.parts import ends_of, face_of
from kanpde.problems.sides import Across, Along, Numbers, OnSide, Side, profile, transfinite

POINTS, NUMBERS = 64, 2**18  # of each part, at which it is checked; in high dimension fewer
VANISHING, AGREEING = 1e-9, 1e-7  # of m on a part, of h and the values there, relative to their sizes
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Exactly:
    """m and h, each None where there is none, and the conditions that they meet, by name.

    Attributes:
        periodic: of the axes along which the network is to be periodic, the harmonics that it sees.
        fluxes: of the conditions on slopes that are met, the sides at which the network is to be flat for it.
    """

    factor: Callable[[Tensor], Field] | None = None
    lift: Callable[[Tensor], Field] | None = None
    met: frozenset[str] = frozenset()
    periodic: Mapping[int, int] | None = None
    fluxes: Mapping[str, frozenset[Side]] = field(default_factory=dict)

    @property
    def flat(self) -> dict[int, frozenset[int]]:
        """Of axes the ends, 0 and 1, at which the network is to be flat."""
        sides = frozenset().union(*self.fluxes.values())
        return {axis: frozenset(end for other, end in sides if other == axis) for axis, _ in sorted(sides)}

    @staticmethod
    def built_in(problem: Any, hard: bool) -> "Exactly":
        """What the ansatz of a problem meets: of no conditions, and without a hard constraint, nothing."""
        return problem.exactly if problem.conditions and hard else Exactly()

    @staticmethod
    def of_all(each: Sequence["Exactly"], shared: Collection[str]) -> "Exactly":
        """What several fields meet, of the `shared` conditions what all of them do; factors and lifts are theirs alone.

        One network is periodic along the axes along which all fields are to be, and flat where all are to be.
        """
        some, every = (of(*(part.met for part in each)) for of in (frozenset().union, frozenset.intersection))
        axes = frozenset.intersection(*(frozenset(part.periodic or {}) for part in each))
        sides = frozenset.intersection(*(frozenset().union(*part.fluxes.values()) for part in each))
        fluxes = {name: at for part in each for name, at in part.fluxes.items()}
        return Exactly(
            met=some.difference(shared, (name for name, at in fluxes.items() if not at <= sides))
            | every.intersection(shared),
            periodic={axis: harmonics for axis, harmonics in (each[0].periodic or {}).items() if axis in axes},
            fluxes={name: at for name, at in fluxes.items() if at <= sides},
        )


def exactly(problem: Any, conditions: Mapping[str, Condition], flat: frozenset[Side] | None = None) -> Exactly:
    """What can be met exactly of a problem's conditions; a factor or lift of the problem's own is taken as it is.

    flat: the sides at which the network may be flat, those where every field that it has as an output has a flux.
    """
    candidates = {name: c for name, c in conditions.items() if _is_candidate(problem, c)}
    if flat is not None:
        candidates = {name: c for name, c in candidates.items() if not _is_flux(c) or sides_of(problem, c) <= flat}
    own = [getattr(problem, name) if problem.states(name) else None for name in ("factor", "lift")]
    if any(own):
        return _with(problem, own, {name: c for name, c in candidates.items() if _met(problem, c, *own)})
    fluxes = [name for name, c in candidates.items() if _is_flux(c)]
    ranked = [name for name in candidates if name not in fluxes]
    ranked.sort(key=lambda name: _PRIORITY.index(_rank(candidates[name])), reverse=True)
    for left in _fewest(ranked):  # values that are left to the loss: of as few the first in the order
        for loose in _fewest(fluxes):
            kept = {name: c for name, c in candidates.items() if name not in (*left, *loose)}
            if (built := _meeting(problem, kept)) is not None:
                return _with(problem, built, kept)
    return Exactly()


def _is_candidate(problem: Any, condition: Condition) -> bool:
    """Whether there may be an ansatz for it."""
    if not condition.built_in or callable(condition.part):
        return False
    if _is_flux(condition):
        known = all(number(each) is not None for each in condition.functional[:2])
        return problem.builds_fluxes and known and sides_of(problem, condition) is not None
    return condition.functional is not None or isinstance(condition, Initial | Terminal | Periodic)


def _is_flux(condition: Condition) -> bool:
    return condition.functional is not None and condition.functional[1] != 0


def sides_of(problem: Any, condition: Condition) -> frozenset[Side] | None:
    """The sides of a box that a condition is on; None: it is on another boundary, or on too many sides."""
    space = space_of(problem.domain)
    if condition.part != "boundary":
        axis, value = face_of(problem, condition.part)
        return frozenset({(axis, int(value == space.sides[axis][1]))})
    whole = isinstance(space, Box) and space.dim <= AXES
    return frozenset((axis, end) for axis in range(space.dim) for end in (0, 1)) if whole else None


def flux_sides(problem: Any, conditions: Iterable[Condition]) -> frozenset[Side]:
    """The sides with a flux that may be built in."""
    fluxes = (c for c in conditions if _is_flux(c) and _is_candidate(problem, c))
    return frozenset().union(*(sides_of(problem, c) for c in fluxes))


def _fewest(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Subsets, the smallest first."""
    return (some for n in range(len(names) + 1) for some in combinations(names, n))


def _meeting(problem: Any, kept: Mapping[str, Condition]) -> tuple[Callable | None, Callable | None] | None:
    """m and h that meet all of these conditions; None: there are none."""
    ranks = {_rank(condition) for condition in kept.values()}
    if "derivative" in ranks and Initial not in ranks:  # m = t^2 would hold u at t = 0 as well
        return None
    try:
        built = _built(problem, kept)
    except (ConfigError, RuntimeError):  # there is no such lift; a value that is wrong is told by the loss
        return None
    meets = all(_met(problem, condition, *built) for condition in kept.values()) and _is_smooth(problem, built[1])
    return built if meets else None


def _is_smooth(problem: Any, h: Callable | None) -> bool:
    """Whether h is twice differentiable: of a kink, the payoff of an option, the residual would see nothing."""
    h = h.rest if isinstance(h, Known) else h
    value = h.function if isinstance(h, Curved) else lambda x: h(x).value
    return h is None or is_smooth(value, problem.domain)


_PRIORITY = ("side", Periodic, Terminal, Initial, "derivative")  # the last is left to the loss first


def _rank(condition: Condition) -> Any:
    if condition.functional is not None:
        return "side"
    return "derivative" if getattr(condition, "derivative", None) else type(condition)


def _with(problem: Any, parts: Sequence[Callable | None], met: Mapping[str, Condition]) -> Exactly:
    axes = {ends_of(problem, c.axis)[0]: c.harmonics for c in met.values() if isinstance(c, Periodic)}
    values = [sides_of(problem, c) or () for c in met.values() if c.functional is not None and not _is_flux(c)]
    held = frozenset().union(*values)  # m and its slope are zero where there is a value beside a flux
    fluxes = {name: sides_of(problem, c) - held for name, c in met.items() if _is_flux(c)}
    return Exactly(*parts, frozenset(met), axes, fluxes)


# ---------------------------------------------------------------------------------------------------------------
# m and h


def _built(problem: Any, conditions: Mapping[str, Condition]) -> tuple[Callable | None, Callable | None]:
    """The factor and the lift of conditions."""
    if problem.states("known_part"):
        of_rest = {name: _less(problem.known_part, condition) for name, condition in conditions.items()}
        m, h = _of_conditions(problem, of_rest)
        return m, Known(problem.known_part, h)
    return _of_conditions(problem, conditions)


@dataclass(frozen=True, eq=False)
class Known:
    """k + h: what is known of u, and the lift of what its conditions then still ask for."""

    function: Function
    rest: Callable[[Tensor], Field] | None

    def __call__(self, x: Tensor) -> Field:
        known = Field.of(self.function, x)
        return known if self.rest is None else known + self.rest(x)


def _less(known: Function, condition: Condition) -> Condition:
    """The condition for u - k, where it asks for values; the others are seen not to be met if they are not."""
    of_values = isinstance(condition, Initial | Terminal) and not getattr(condition, "derivative", None)
    if not of_values and (condition.functional is None or condition.kind != "dirichlet"):
        return condition
    return replace(condition, value=lambda x: at(condition.value, x) - known(x))


def _of_conditions(problem: Any, conditions: Mapping[str, Condition]) -> tuple[Callable | None, Callable | None]:
    sides, whole = _on_boundary(problem, conditions)
    initial = {c.derivative is not None: c.value for c in conditions.values() if isinstance(c, Initial)}
    terminal = next((c.value for c in conditions.values() if isinstance(c, Terminal)), None)
    time, axes = time_of(problem.domain), _profiles(problem, sides)
    power = 2 if True in initial else 1 if initial else 0
    if power or terminal is not None:
        axes[problem.n_inputs - 1] = InTime(power, time if terminal is not None else None)
    space = space_of(problem.domain) if whole is not None else None
    m = Vanishing(space, tuple(sorted(axes.items()))) if axes or space else None
    values = [*(side.value for side in sides), *initial.values()] + [v for v in (whole, terminal) if v is not None]
    if all(not callable(value) and not value for value in values):
        return m, None
    of_boundary = _of_boundary(problem, sides, whole)
    h = partial(_lift, of_boundary, initial.get(False), initial.get(True), terminal, time)
    if problem.n_inputs > INPUTS:
        return None, None  # its second derivatives are too dear
    return m, Curved(h)


def _on_boundary(problem: Any, conditions: Mapping[str, Condition]) -> tuple[list[OnSide], Value | None]:
    """What is asked for on sides of a box, or the value on all of a boundary."""
    sides = []
    for condition in conditions.values():
        if condition.functional is None:
            continue
        a, b, value = condition.functional
        if (given := sides_of(problem, condition)) is None:
            return [], value
        sides += [OnSide(axis, end, float(a), float(b), value) for axis, end in sorted(given)]
    return sides, None


def _profiles(problem: Any, sides: Sequence[OnSide]) -> dict[int, "Across | Along | InTime"]:
    """Of each axis with a condition at an end, the function of this coordinate that m has of it; none where it is 1."""
    ranges = getattr(space_of(problem.domain), "sides", None)
    each = {axis: [side for side in sides if side.axis == axis] for axis in dict.fromkeys(s.axis for s in sides)}
    found = {axis: profile(of, ranges[axis]) for axis, of in each.items()}
    return {axis: of for axis, of in found.items() if of is not None}


@dataclass(frozen=True)
class InTime:
    """Value, first and second derivative of t^power, times T - t where there is an end."""

    power: int
    end: float | None

    def __call__(self, t: Tensor) -> Numbers:
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
    axes: tuple[tuple[int, Across | Along | InTime], ...]

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


def _of_boundary(problem: Any, sides: Sequence[OnSide], whole: Value | None) -> Function | None:
    """G: a function with the values of the boundary; None: zero."""
    if whole is None:
        ranges = getattr(space_of(problem.domain), "sides", None)
        return None if all(side.is_zero for side in sides) else transfinite(sides, ranges)
    if not callable(whole):
        return partial(at, whole) if whole else None
    return extension(partial(at, whole), problem.domain)


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
    """Whether h + m f meets a condition at points of its part, for any f, periodic and flat where it is to be."""
    domain, kind = problem.domain, {"dtype": torch.float64}
    n, drawn = max(4, min(POINTS, NUMBERS // domain.dim)), stream(0, "exactly")
    law = laws_of(domain)[0]
    if isinstance(condition, Initial | Terminal) and "initial" not in kinds_of(domain):
        return False
    try:
        inside = domain.interior(n, drawn, law, **kind)
        x = condition.points(problem, n, drawn, law, **kind)
        if _is_flux(condition):
            return all(_has_flux(problem, condition, side, m, h, inside, x) for side in sides_of(problem, condition))
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


def _has_flux(
    problem: Any, condition: Condition, side: Side, m: Callable | None, h: Callable | None, inside: Tensor, x: Tensor
) -> bool:
    """Whether a h + b n . grad h is what is asked for on a side, and a m + b n . grad m zero; x: points of the part."""
    (axis, end), (a, b, value) = side, condition.functional
    low, high = space_of(problem.domain).sides[axis]
    here = x[x[:, axis] == (high if end else low)]
    outward, width = b if end else -b, high - low
    functional = lambda f: a * f.value + outward * f.grad[:, axis]
    size = lambda f: ((abs(a) + abs(b) / width) * f.value.abs() + abs(b) * f.grad[:, axis].abs()).max()
    given = at(value, here)
    if m is None and a:
        return False
    vanishes = m is None or bool(functional(m(here)).abs().max() <= VANISHING * size(m(inside)))
    if h is None:
        return vanishes and not given.any()
    gap = (functional(h(here)) - given).abs().max()
    return vanishes and bool(gap <= AGREEING * max(size(h(inside)), given.abs().max(), 1e-300))


def _is_periodic(problem: Any, condition: Periodic, of: Callable, x: Tensor, size: float) -> bool:
    """Whether a function and its slope across are the same at both ends of an axis."""
    axis, (low, high) = ends_of(problem, condition.axis)
    there = x.clone()
    there[:, axis] += high - low
    a, b = of(x), of(there)
    gaps = (a.value - b.value), (a.grad - b.grad)[:, axis] * (high - low)
    return all(gap.abs().max() <= AGREEING * size for gap in gaps)
