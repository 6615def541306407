r"""What is asked for on sides of a box, a u + b n . grad u = value, and the polynomials that carry it along an axis.

With t in [0, 1] along an axis and the functionals l_k of the conditions at its ends, l_k u = a_k u + b_k n . grad u:

.. math:: l_j p_k = \delta_{jk}, \qquad l_k m = 0, \quad m > 0 \text{ within}

p_k of the least degree carry the values into the box, m is what a free function is multiplied by. For values alone p_k
are linear and m is t, 1 - t or their product; for fluxes alone m is 1. A flux is then met by m f where f is flat there,
its slope zero, which the inputs of the network make it (`kanpde.jets.harmonics`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.jets.nested import slopes
from kanpde.jets.tracing import in_torch_func
from kanpde.problems.conditions import Value, at

Side = tuple[int, int]  # axis, 0 or 1: where it begins, where it ends
Range = tuple[float, float]
Function = Callable[[Tensor], Tensor]
Numbers = tuple[Tensor, Tensor, Tensor]  # value, first and second derivative
WITHIN = np.linspace(0, 1, 1001)[1:-1]


@dataclass(frozen=True, eq=False)
class OnSide:
    """a u + b n . grad u = value on the side of an axis, for numbers a and b."""

    axis: int
    end: int
    a: float
    b: float
    value: Value

    @property
    def is_zero(self) -> bool:
        return not callable(self.value) and not self.value

    def of(self, function: Function, ranges: Sequence[Range], x: Tensor) -> Tensor:
        """What a function has there: a f + b n . grad f at x, moved to this side; (N,)."""
        there = torch.full_like(x[:, self.axis], ranges[self.axis][self.end])
        moved = lambda t: torch.cat([x[:, : self.axis], t.unsqueeze(1), x[:, self.axis + 1 :]], 1)
        value = function(moved(there))
        if not self.b:
            return self.a * value
        (slope,) = slopes(lambda t: function(moved(t)), there, 1)
        slope = slope if value.requires_grad or in_torch_func() else slope.detach()  # from t, which is no input
        return self.a * value + (self.b if self.end else -self.b) * slope

    def given(self, ranges: Sequence[Range], x: Tensor) -> Tensor:
        """The value at x, moved to this side; (N,)."""
        columns = list(x.unbind(1))
        columns[self.axis] = torch.full_like(columns[self.axis], ranges[self.axis][self.end])
        return at(self.value, torch.stack(columns, 1))


@dataclass(frozen=True)
class Across:
    """Value, first and second derivative of a function that vanishes at one end of an interval, or at both."""

    low: float
    high: float
    ends: frozenset[int]

    def __call__(self, x: Tensor) -> Numbers:
        low, high, width = self.low, self.high, self.high - self.low
        if self.ends == {0, 1}:
            scale = 4 / width**2
            return scale * (x - low) * (high - x), scale * (low + high - 2 * x), torch.full_like(x, -2 * scale)
        sign = 1 if self.ends == {0} else -1
        return (x - low if sign > 0 else high - x) / width, torch.full_like(x, sign / width), torch.zeros_like(x)


@dataclass(frozen=True)
class Along:
    """The same of sum_k c_k t^k with t = (x - low) / (high - low)."""

    low: float
    high: float
    coefficients: tuple[float, ...]

    def __call__(self, x: Tensor) -> Numbers:
        width = self.high - self.low
        t, c = (x - self.low) / width, self.coefficients
        slope = [k * c[k] / width for k in range(1, len(c))]
        bend = [k * slope[k] / width for k in range(1, len(slope))]
        return polynomial(c, t), polynomial(slope, t), polynomial(bend, t)


def polynomial(coefficients: Sequence[float], t: Tensor) -> Tensor:
    """sum_k c_k t^k by Horner's rule; of no coefficients zero."""
    *lower, highest = coefficients or (0.0,)
    return reduce(lambda found, c: found * t + c, reversed(lower), torch.full_like(t, highest))


def profile(given: Sequence[OnSide], ends: Range) -> Across | Along | None:
    """m along the axis of these conditions, at most 1; None: 1.

    Raises:
        ConfigError: the polynomial of the least degree is not above zero within, as of a u - n . grad u = 0.
    """
    if not any(each.b for each in given):
        return Across(*ends, frozenset(each.end for each in given))
    if not any(each.a for each in given):
        return None
    n = len(given)
    functionals = _functionals(given, ends, n + 1)
    c = np.append(_solved(functionals[:, :n], -functionals[:, n:])[:, 0], 1.0)
    values = np.polynomial.polynomial.polyval(WITHIN, c)
    c = c / values[np.abs(values).argmax()]
    if not (np.polynomial.polynomial.polyval(WITHIN, c) > 0).all():
        raise ConfigError("there is no factor of this degree for these conditions")
    return Along(*ends, tuple(c.tolist()))


def carriers(given: Sequence[OnSide], ends: Range) -> list[list[float]]:
    """p_k of the conditions of one axis, as the coefficients of powers of t.

    Raises:
        ConfigError: there are no such polynomials.
    """
    n, first = len(given), 0 if any(each.a for each in given) else 1  # of a constant fluxes see nothing
    functionals = _functionals(given, ends, n + first)[:, first:]
    return np.pad(_solved(functionals, np.eye(n)), ((first, 0), (0, 0))).T.tolist()


def _functionals(given: Sequence[OnSide], ends: Range, powers: int) -> np.ndarray:
    """l_j t^k, (conditions, powers)."""
    k, width = np.arange(powers, dtype=float), ends[1] - ends[0]
    values, outward = (0.0**k, np.ones(powers)), (-(k == 1).astype(float) / width, k / width)
    return np.stack([each.a * values[each.end] + each.b * outward[each.end] for each in given])


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        raise ConfigError("these conditions of one axis determine no polynomial") from None


def transfinite(sides: Sequence[OnSide], ranges: Sequence[Range]) -> Function:
    r"""G = u - prod_i (1 - P_i) u with P_i u = sum_k p_k l_k u: it has all that is asked for, where that agrees.

    Along one axis P_i interpolates what is asked for at its ends (Gordon & Hall 1973). Where sides meet, l_j of the
    value of another side stands for l_j l_k u.
    """
    axes = dict.fromkeys(each.axis for each in sides)
    each_of = {axis: sorted((each for each in sides if each.axis == axis), key=lambda each: each.end) for axis in axes}
    of_axis = {axis: list(zip(of, carriers(of, ranges[axis]), strict=True)) for axis, of in each_of.items()}
    terms = []
    for choice in product(*((None, *of) for of in of_axis.values())):
        chosen = [each for each in choice if each is not None]
        value = _where_they_meet([side for side, _ in chosen], ranges) if chosen else None
        if value is not None:
            terms.append((value, [(side.axis, p) for side, p in chosen]))
    return partial(_interpolated, {axis: ranges[axis] for axis in axes}, terms)


def _interpolated(ranges: Mapping[int, Range], terms: Sequence[tuple[Function, list]], x: Tensor) -> Tensor:
    found = x.new_zeros(len(x))
    share = {axis: (x[:, axis] - low) / (high - low) for axis, (low, high) in ranges.items()}
    for value, along in terms:
        weight = x.new_full((len(x),), -1.0)
        for axis, p in along:
            weight = -weight * polynomial(p, share[axis])
        found = found + weight * value(x)
    return found


def _where_they_meet(sides: list[OnSide], ranges: Sequence[Range]) -> Function | None:
    """l_j ... l_k u for sides of several axes, from the value of one of them, a flux if there is one; None: zero."""
    first = max(sides, key=lambda side: (side.b != 0, side.b != 0 and side.is_zero))
    if first.is_zero:
        return None
    others = [side for side in sides if side is not first]
    start: Any = partial(first.given, ranges)
    return reduce(lambda function, side: partial(side.of, function, ranges), others, start)
