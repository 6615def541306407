"""Where something is to hold, as boxes of parameters: the inside of a domain, its boundary, a moment.

A domain that is registered here with `inside` and `around` can be covered by boxes; of others there are points alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import singledispatch
from math import inf, nextafter, pi
from typing import TYPE_CHECKING, Any

from kanpde.domains import Ball, Box, Cylinder
from kanpde.proof.symbolic import read

if TYPE_CHECKING:
    import sympy

    Symbols = list[sympy.Symbol]


@dataclass(frozen=True)
class Region:
    """A set of points: coordinates are free in their ranges, or functions of what is.

    Attributes:
        ranges: of the free coordinates, and of parameters such as angles.
        at: what the other coordinates are.
        within: an expression that is not below zero at its points; None: all are meant.
    """

    ranges: dict[sympy.Symbol, tuple[float, float]] = field(default_factory=dict)
    at: dict[sympy.Symbol, sympy.Expr] = field(default_factory=dict)
    within: sympy.Expr | None = None

    def fixed(self, symbol: sympy.Symbol, value: float) -> Region:
        """Those of its points where a coordinate has this value."""
        ranges = {name: ends for name, ends in self.ranges.items() if name != symbol}
        return replace(self, ranges=ranges, at=self.at | {symbol: read(value)})

    def during(self, t: sympy.Symbol, time: float) -> Region:
        """The same at all times."""
        return replace(self, ranges=self.ranges | {t: _ends(0.0, time)})


def _ends(low: float, high: float) -> tuple[float, float]:
    """Ends of an interval, which are read as what they are rounded from: 3.14... as pi."""
    whole = float(low).is_integer() and float(high).is_integer()
    return (low, high) if whole else (nextafter(low, -inf), nextafter(high, inf))


@singledispatch
def inside(domain: Any, x: Symbols) -> list[Region] | None:
    """Regions whose union is the closed domain, in these coordinates; None: no boxes cover it."""
    return None


@singledispatch
def around(domain: Any, x: Symbols) -> list[Region] | None:
    """Regions whose union is its boundary in space; None: no boxes cover it."""
    return None


@inside.register
def _(domain: Box, x: list) -> list[Region]:
    return [Region({name: _ends(*side) for name, side in zip(x, domain.sides, strict=True)})]


@around.register
def _(domain: Box, x: list) -> list[Region]:
    (whole,) = inside(domain, x)
    return [whole.fixed(name, end) for name, side in zip(x, domain.sides, strict=True) for end in side]


@inside.register
def _(domain: Ball, x: list) -> list[Region]:
    radius, centre = read(domain.radius), _centre(domain)
    within = radius**2 - sum((name - c) ** 2 for name, c in zip(x, centre, strict=True))
    reach = [(float(c) - domain.radius, float(c) + domain.radius) for c in centre]
    return [Region({name: _ends(*ends) for name, ends in zip(x, reach, strict=True)}, within=within)]


@around.register
def _(domain: Ball, x: list) -> list[Region]:
    """By angles: x_1 = r cos a_1, x_2 = r sin a_1 cos a_2, ..., x_d = r sin a_1 ... sin a_(d-1)."""
    import sympy

    radius, centre = read(domain.radius), _centre(domain)
    if domain.dim == 1:
        return [Region(at={x[0]: centre[0] + sign * radius}) for sign in (-1, 1)]
    angles = [sympy.Dummy(f"a{k}", real=True) for k in range(1, domain.dim)]
    at, rest = {}, radius
    for name, angle, c in zip(x, angles, centre, strict=False):
        at[name], rest = c + rest * sympy.cos(angle), rest * sympy.sin(angle)
    at[x[-1]] = centre[-1] + rest
    ranges = {angle: _ends(0.0, pi if angle is not angles[-1] else 2 * pi) for angle in angles}
    return [Region(ranges, at)]


@inside.register
def _(domain: Cylinder, x: list) -> list[Region] | None:
    return _at_all_times(domain, inside(domain.space, x[:-1]), x[-1])


@around.register
def _(domain: Cylinder, x: list) -> list[Region] | None:
    return _at_all_times(domain, around(domain.space, x[:-1]), x[-1])


def _at_all_times(domain: Cylinder, regions: list[Region] | None, t: sympy.Symbol) -> list[Region] | None:
    return None if regions is None else [region.during(t, domain.time) for region in regions]


def _centre(domain: Ball) -> list[sympy.Expr]:
    return [read(c) for c in domain.center or (0.0,) * domain.dim]
