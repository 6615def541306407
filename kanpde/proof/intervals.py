r"""The range of a formula on boxes, from above: interval arithmetic rounded outwards, on boxes that are split.

Of an expression R on a box X with centre c both hold, and the tighter one is taken:

.. math:: R(X) \subseteq R([X]), \qquad
          R(X) \subseteq \sum_{|\alpha| < k} \frac{\partial^\alpha R(c)}{\alpha!} (X - c)^\alpha
                       + \sum_{|\alpha| = k} \frac{\partial^\alpha R([X])}{\alpha!} (X - c)^\alpha

The second one is too wide by the k-th power of the width of X where terms of R cancel, the first by the width itself.

A sum, product or quotient of floats is the nearest float, so the next one beyond is outside of it; of the functions of
numpy `ULPS` floats beyond are.

Source: Moore 1966, Interval Analysis; Neumaier 1990, Interval Methods for Systems of Equations (Taylor forms).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement
from operator import mul
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import sympy

ULPS = 8  # units in the last place that a function of numpy may be off by; its makers say 4
CLOSE = 1.05  # a bound by so much above the largest value that is known is not split further
SPLIT = 2048  # boxes that are split at a time, the worst
TURN = 1e-9  # distance to an extremum of a sine, in turns, that counts as none
ORDER, TERMS, OPERATIONS = 6, 60, 3000  # of the derivatives of a Taylor form, at most
EPS, TINY = 2.0**-53, 1e-320  # half a unit in the last place of 1, and one of the smallest floats, about
EXACT = 2**53  # whole numbers up to which floats are these


Derivatives = dict[tuple[int, ...], "sympy.Expr"]  # by how often they are by each symbol


class Unbounded(Exception):
    """A formula has a function that has no intervals here; the message names it."""


class Interval(NamedTuple):
    """Lower and upper ends (N,), infinite where nothing is known."""

    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def around(low: np.ndarray, high: np.ndarray) -> Interval:
        """The next floats outside; all numbers where one end is none."""
        return Interval._known(np.nextafter(low, -np.inf), np.nextafter(high, np.inf))

    @staticmethod
    def about(low: np.ndarray, high: np.ndarray) -> Interval:
        """The same, further out: of what functions of numpy give."""
        margin = lambda end: 2 * ULPS * EPS * np.abs(end) + TINY
        return Interval._known(low - margin(low), high + margin(high))

    @staticmethod
    def _known(low: np.ndarray, high: np.ndarray) -> Interval:
        if not (unknown := np.isnan(low) | np.isnan(high)).any():
            return Interval(low, high)
        return Interval(np.where(unknown, -np.inf, low), np.where(unknown, np.inf, high))

    def __add__(self, other: Interval) -> Interval:
        return Interval.around(self.low + other.low, self.high + other.high)

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __sub__(self, other: Interval) -> Interval:
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        products = np.stack(np.broadcast_arrays(*(a * b for a in self for b in other)))
        products[np.isnan(products)] = 0.0  # 0 by infinity: the other products are its bounds
        return Interval.around(products.min(0), products.max(0))

    def inverse(self) -> Interval:
        """1 / this, all numbers where it has a zero."""
        across = (self.low <= 0) & (self.high >= 0)
        low, high = np.where(across, np.nan, self.high), np.where(across, np.nan, self.low)
        return Interval.around(1 / low, 1 / high)

    def power(self, n: int) -> Interval:
        """This to a whole power, as one factor: an even one is not below zero."""
        if n < 0:
            return self.power(-n).inverse()
        size = abs(self) if n % 2 == 0 else self
        return Interval.about(size.low**n, size.high**n).clipped(0.0 if n % 2 == 0 else -np.inf)

    def __abs__(self) -> Interval:
        low, high = np.abs(self.low), np.abs(self.high)
        inside = (self.low <= 0) & (self.high >= 0)
        return Interval(np.where(inside, 0.0, np.minimum(low, high)), np.maximum(low, high))

    def increasing(self, function: Callable, low: float = -np.inf, high: float = np.inf) -> Interval:
        """A function that increases where it is defined, with values in [low, high]."""
        return Interval.about(function(self.low), function(self.high)).clipped(low, high)

    def clipped(self, low: float = -np.inf, high: float = np.inf) -> Interval:
        return Interval(np.maximum(self.low, low), np.minimum(self.high, high))

    def within(self, other: Interval) -> Interval:
        """What is in both, of two that hold the same numbers."""
        return Interval(np.maximum(self.low, other.low), np.minimum(self.high, other.high))

    def wave(self, function: Callable, shift: float) -> Interval:
        """sin or cos, whose value is 1 at `shift` turns."""
        ends = np.stack([function(self.low), function(self.high)])
        found = Interval.about(ends.min(0), ends.max(0)).clipped(-1.0, 1.0)
        least, largest = self._holds(shift + 0.5), self._holds(shift)
        return Interval(np.where(least, -1.0, found.low), np.where(largest, 1.0, found.high))

    def _holds(self, turns: float) -> np.ndarray:
        """Whether a whole number of turns after `turns` is in it, or perhaps is."""
        low, high = self.low / (2 * np.pi) - turns, self.high / (2 * np.pi) - turns
        margin = TURN * (1 + np.maximum(np.abs(low), np.abs(high)))
        whole = np.ceil(low - margin) <= high + margin
        return whole | ~np.isfinite(low) | ~np.isfinite(high)


def enclosure(expr: sympy.Expr, values: Mapping[sympy.Symbol, Interval], known: dict | None = None) -> Interval:
    """An interval of numbers that holds all values of an expression on boxes.

    Args:
        values: of each symbol.
        known: those of parts of it, which are computed once.
    Raises:
        Unbounded: a function without intervals, or a symbol without values.
    """
    known = dict(values) if known is None else known
    if expr not in known:
        known[expr] = _number(expr) if expr.is_number else _of_parts(expr, values, known)
    return known[expr]


def _number(expr: sympy.Expr) -> Interval:
    if not expr.is_real:
        raise Unbounded(f"the number {expr}")
    value = float(expr.evalf(30))
    whole = expr.is_Integer and abs(value) <= EXACT
    return (
        Interval(np.float64(value), np.float64(value))
        if whole
        else Interval.about(np.float64(value), np.float64(value))
    )


def _of_parts(expr: sympy.Expr, values: Mapping, known: dict) -> Interval:
    of = lambda part: enclosure(part, values, known)
    if expr.is_Symbol:
        raise Unbounded(f"no range of {expr}")
    if expr.is_Pow:
        return _power(of, *expr.args)
    parts = [of(part) for part in expr.args]
    if expr.is_Add or expr.is_Mul:
        found = parts[0]
        for part in parts[1:]:
            found = found + part if expr.is_Add else found * part
        return found
    name = type(expr).__name__
    if name not in FUNCTIONS:
        raise Unbounded(f"no intervals of {name}")
    return FUNCTIONS[name](*parts)


def _power(of: Callable, base: sympy.Expr, exponent: sympy.Expr) -> Interval:
    if exponent.is_Integer:
        return of(base).power(int(exponent))
    if exponent.is_Rational and exponent.q == 2:
        return of(base).increasing(np.sqrt, 0.0).power(int(exponent.p))
    return (of(exponent) * of(base).increasing(np.log)).increasing(np.exp, 0.0)


FUNCTIONS: dict[str, Callable[[Interval], Interval]] = {
    "exp": lambda x: x.increasing(np.exp, 0.0),
    "log": lambda x: x.increasing(np.log),
    "sin": lambda x: x.wave(np.sin, 0.25),
    "cos": lambda x: x.wave(np.cos, 0.0),
    "tan": lambda x: x.wave(np.sin, 0.25) * x.wave(np.cos, 0.0).inverse(),
    "sinh": lambda x: x.increasing(np.sinh),
    "cosh": lambda x: abs(x).increasing(np.cosh, 1.0),
    "tanh": lambda x: x.increasing(np.tanh, -1.0, 1.0),
    "asin": lambda x: x.increasing(np.arcsin),
    "acos": lambda x: -x.increasing(lambda t: -np.arccos(t)),
    "atan": lambda x: x.increasing(np.arctan),
    "atanh": lambda x: x.increasing(np.arctanh),
    "asinh": lambda x: x.increasing(np.arcsinh),
    "Abs": abs,
}


# ---------------------------------------------------------------------------------------------------------------
# Boxes


@dataclass(frozen=True)
class Bound:
    """What is known of the largest |R| on a region.

    Attributes:
        above: an upper bound.
        below: a lower bound: |R| is as large at one point.
        at: that point.
        boxes: of the grid on which the upper one holds.

    Example:
        >>> import sympy
        >>> x = sympy.Symbol("x")
        >>> found = bound(x * (1 - x), {x: (0, 1)})
        >>> found.below <= 0.25 <= found.above < 0.26
        True
    """

    above: float
    below: float
    at: dict[sympy.Symbol, float]
    boxes: int


class _Boxes(NamedTuple):
    """Boxes with an upper bound of |R| on each, and the axis along which it is to be split."""

    low: np.ndarray  # (N, d)
    high: np.ndarray  # (N, d)
    above: np.ndarray  # (N,)
    axis: np.ndarray  # (N,)

    def some(self, which: np.ndarray) -> _Boxes:
        return _Boxes(*(part[which] for part in self))

    def beside(self, other: _Boxes) -> _Boxes:
        return _Boxes(*(np.concatenate(parts) for parts in zip(self, other, strict=True)))

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of twice as many."""
        rows, middle = np.arange(len(self.axis)), ((self.low + self.high) / 2)[np.arange(len(self.axis)), self.axis]
        low, high = self.low.copy(), self.high.copy()
        low[rows, self.axis] = high[rows, self.axis] = middle
        return np.concatenate([self.low, low]), np.concatenate([high, self.high])


class _Range:
    """|R| on boxes, and the largest |R| at their centres so far."""

    def __init__(self, expr: sympy.Expr, names: Sequence[sympy.Symbol], within: sympy.Expr | None):
        self.expr, self.names, self.within = expr, names, within
        self.lower, self.highest = _derivatives(expr, names)
        self.below, self.at = 0.0, None

    def __call__(self, low: np.ndarray, high: np.ndarray) -> _Boxes:
        """Those of the boxes that reach into the region."""
        if self.within is not None:
            inside = np.broadcast_to(self._of(self.within, Interval(low, high)).high, len(low)) >= 0
            low, high = low[inside], high[inside]
        centre = (low + high) / 2
        self._note(centre, abs(self._of(self.expr, Interval(centre, centre))).low)
        points, known = self._values(Interval(centre, centre)), self._values(Interval(low, high))
        off = Interval(low, high) - Interval(centre, centre)
        found, plain = Interval(np.zeros(len(low)), np.zeros(len(low))), enclosure(self.expr, {}, known)
        powers = _Powers(off)
        for index, derivative in self.lower.items():
            found = found + enclosure(derivative, {}, points) * powers[index]
        widths = 1e-300 * (high - low)  # of the terms by axis, which say where it is to be split
        for index, derivative in self.highest.items():
            term = enclosure(derivative, {}, known) * powers[index]
            size = np.minimum(abs(term).high, 1e300 / (1 + len(self.highest)))
            widths = widths + np.outer(size, index) / max(sum(index), 1)
            found = found + term
        above = np.broadcast_to(abs(found.within(plain)).high, len(low))
        return _Boxes(low, high, above, widths.argmax(1) if len(self.names) else np.zeros(len(low), int))

    def _values(self, x: Interval) -> dict:
        return {name: Interval(x.low[:, k], x.high[:, k]) for k, name in enumerate(self.names)}

    def _of(self, expr: sympy.Expr, x: Interval) -> Interval:
        return enclosure(expr, {}, self._values(x))

    def _note(self, centre: np.ndarray, below: np.ndarray) -> None:
        """Keep the largest value at a point of the region."""
        below = np.broadcast_to(below, len(centre))
        if self.within is not None:
            below = np.where(self._of(self.within, Interval(centre, centre)).low >= 0, below, -1.0)
        if len(below) and below.max() >= self.below:
            self.below, self.at = float(below.max()), centre[below.argmax()]


def _derivatives(expr: sympy.Expr, names: Sequence[sympy.Symbol]) -> tuple[Derivatives, Derivatives]:
    """Derivatives over factorials of an expression below an order, and of that order: as high as it is cheap."""
    lower: Derivatives = {}
    highest: Derivatives = {(0,) * len(names): expr}
    for order in range(1, ORDER + 1):
        found = {}
        for index in combinations_with_replacement(range(len(names)), order):
            powers = tuple(index.count(k) for k in range(len(names)))
            before = tuple(power - (k == index[0]) for k, power in enumerate(powers))
            found[powers] = highest[before].diff(names[index[0]]) / powers[index[0]]
        operations = sum(derivative.count_ops() for derivative in found.values())
        if not names or len(found) > TERMS or (order > 1 and operations > OPERATIONS):
            break
        lower, highest = lower | highest, found
    return lower, highest


class _Powers(dict[tuple[int, ...], Interval]):
    """(X - c)^index on boxes, (N,), by index."""

    def __init__(self, off: Interval):
        super().__init__()
        self.off, self.one = off, Interval(np.ones(len(off.low)), np.ones(len(off.low)))

    def __missing__(self, index: tuple[int, ...]) -> Interval:
        axes = [k for k, power in enumerate(index) if power]
        if len(axes) == 1:
            (k,) = axes
            self[index] = Interval(self.off.low[:, k], self.off.high[:, k]).power(index[k])
        else:
            alone = [tuple(power * (j == k) for j, power in enumerate(index)) for k in axes]
            self[index] = reduce(mul, (self[each] for each in alone), self.one)
        return self[index]


def bound(
    expr: sympy.Expr,
    ranges: Mapping[sympy.Symbol, tuple[float, float]],
    within: sympy.Expr | None = None,
    boxes: int = 40_000,
    enough: float = 0.0,
    over: Callable[[], bool] = lambda: False,
) -> Bound:
    """The largest |R| of an expression on the product of these ranges, from above and from below.

    Boxes with the largest bound are split, until it is close to a value that R has or there are so many boxes.

    Args:
        within: the part of it where this is not below zero; None: all.
        enough: a bound that need not be smaller.
        over: asked before each round whether the time is up.
    Raises:
        Unbounded: see `enclosure`.
    """
    with np.errstate(all="ignore"):
        return _bound(_Range(expr, list(ranges), within), ranges, boxes, enough, over)


def _bound(look: _Range, ranges: Mapping, boxes: int, enough: float, over: Callable[[], bool]) -> Bound:
    low, high = (np.array([[r[k] for r in ranges.values()]], dtype=float) for k in (0, 1))
    found = look(low, high)
    while True:
        worst = np.flatnonzero(found.above > max(CLOSE * look.below, enough))
        worst = worst[np.argsort(-found.above[worst])][:SPLIT]
        if not len(worst) or not ranges or len(found.above) + len(worst) > boxes or over():
            break
        rest = np.setdiff1d(np.arange(len(found.above)), worst)
        found = found.some(rest).beside(look(*found.some(worst).halves()))
    at = {} if look.at is None else dict(zip(ranges, look.at.tolist(), strict=True))
    return Bound(float(found.above.max(initial=0.0)), look.below, at, len(found.above))
