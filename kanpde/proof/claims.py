"""What u is to satisfy, as formulas: the equations and conditions of a problem, their torch code traced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kanpde.domains import Box
from kanpde.domains.base import kinds_of, laws_of, space_of
from kanpde.ground.samplers import stream
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Condition
from kanpde.problems.parts import face_of
from kanpde.problems.reading import ALONE
from kanpde.proof.regions import Region, around, inside
from kanpde.proof.solution import Solution
from kanpde.proof.symbolic import Untraceable, traced

if TYPE_CHECKING:
    import sympy

POINTS = 500  # at which a claim is looked at
AGREEING = 1e-8  # of a formula with the code it is traced from, relative to the size of its terms

Misfit = Callable[[Solution, Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Claim:
    """An equation or a condition: what is zero, (N,) or (N, k) each, where, and points of it (N, d).

    Attributes:
        traceable: whether its misfit is one of single points, and so a formula of x.
        equation: whether it is an equation.
        sides: the same on each side of a box, where that may be a formula if it is none of all the boundary.
    """

    name: str
    misfit: Misfit
    points: Tensor
    regions: list[Region] | None
    traceable: bool = True
    equation: bool = False
    sides: tuple[Claim, ...] = ()


def claims_of(problem: Problem, x: list[sympy.Symbol], seed: int = 0) -> list[Claim]:
    """The equations of a problem, and its conditions; boundary and initial values where it states none by name."""
    domain, law, kind = problem.domain, laws_of(problem.domain)[0], {"dtype": torch.float64}
    draw = lambda of, name: of(POINTS, stream(seed, f"proof/{name}"), **kind)
    interior = draw(lambda n, drawn, **kind: domain.interior(n, drawn, law, **kind), ALONE)
    found = [
        Claim("residual" if name == ALONE else name, _equation(name), interior, inside(domain, x), equation=True)
        for name in problem.reading.equations
    ]
    found += [_condition(problem, name, condition, x, draw) for name, condition in problem.asked.items()]
    if not problem.conditions:
        found += _plain(problem, x, draw)
    return found


def _condition(problem: Problem, name: str, condition: Condition, x: list, draw: Callable) -> Claim:
    law, regions, sides = laws_of(problem.domain)[0], _regions(problem, condition, x), ()
    points = draw(lambda n, drawn, **kind: condition.points(problem, n, drawn, law, **kind), name)
    if regions is not None and condition.part == "boundary" and isinstance(space_of(problem.domain), Box):
        each = [f"{axis} = {end}" for axis in map(str, x[: problem.dim]) for end in ("low", "high")]
        on = {side: replace(condition, on=side) for side in each if hasattr(condition, "on")}
        sides = tuple(_condition(problem, f"{name}, {side}", part, x, draw) for side, part in on.items())
    traceable = regions is not None or _is_of_points(condition)
    return Claim(name, lambda u, x: [condition.misfit(u, x)], points, regions, traceable, sides=sides)


def _plain(problem: Problem, x: list, draw: Callable) -> list[Claim]:
    """Values on the boundary and at the start, of a problem that states no conditions."""
    domain, found = problem.domain, []
    values = {"boundary": problem.boundary_value, "initial": problem.initial_value}
    regions = {"boundary": lambda: around(domain, x), "initial": lambda: _then(inside(domain, x), x, 0.0)}
    for kind in kinds_of(domain)[1:]:
        if kind == "boundary" or problem.states("initial_value") or problem.states("lift"):
            misfit = lambda u, x, value=values[kind]: [u(x) - value(x)]
            found.append(Claim(kind, misfit, draw(getattr(domain, kind), kind), regions[kind]()))
    return found


def _equation(name: str) -> Misfit:
    return lambda u, x: [u.problem.equations(u.full_jet(x), x)[name]]


def _is_of_points(condition: Condition) -> bool:
    return condition.by_points and type(condition).points is Condition.points


def _regions(problem: Problem, condition: Condition, x: list) -> list[Region] | None:
    """Where a condition is asked for; None: no boxes cover it."""
    if (moment := condition.moment(problem)) is not None:
        return _then(inside(problem.domain, x), x, moment)
    if not _is_of_points(condition) or callable(condition.part):
        return None
    if condition.part == "boundary":
        return around(problem.domain, x)
    axis, value = face_of(problem, condition.part)
    regions = inside(problem.domain, x)
    return None if regions is None else [region.fixed(x[axis], value) for region in regions]


def _then(regions: list[Region] | None, x: list, time: float) -> list[Region] | None:
    return None if regions is None else [region.fixed(x[-1], time) for region in regions]


# ---------------------------------------------------------------------------------------------------------------
# Traced


@dataclass(frozen=True)
class Statement:
    """A claim on u, as expressions in x and in the numbers of u.

    Attributes:
        exprs: as they are written, terms that cancel in them.
        x, numbers: the symbols.
    """

    claim: Claim
    exprs: list[sympy.Expr]
    x: list[sympy.Symbol]
    numbers: list[sympy.Symbol]

    @cached_property
    def _terms(self) -> list[Callable]:
        import sympy

        given = [*self.x, *self.numbers]
        return [sympy.lambdify(given, list(terms_of(expr)), "numpy", cse=True) for expr in self.exprs]

    def terms(self, numbers: Sequence[float], x: Tensor) -> list[np.ndarray]:
        """The terms of each expression at points, (terms, N)."""
        given = [*x.numpy().T, *numbers]
        with np.errstate(all="ignore"):
            return [np.stack([np.broadcast_to(t, len(x)) for t in of(*given)]).astype(float) for of in self._terms]

    def size(self, numbers: Sequence[float], inner: Tensor) -> float:
        """The largest sum of |terms| at its own points and at points inside the domain."""
        each = [t for x in (self.claim.points, inner) for t in self.terms(numbers, x)]
        return max(float(np.nan_to_num(np.abs(t).sum(0), posinf=0.0).max(initial=0.0)) for t in each)

    def largest(self, numbers: Sequence[float]) -> float:
        """The largest |misfit| at its points; infinite where it is no number."""
        return float(np.nan_to_num(self._misfits(numbers), nan=np.inf).max(initial=0.0))

    def _misfits(self, numbers: Sequence[float]) -> np.ndarray:
        return np.abs(np.stack([t.sum(0) for t in self.terms(numbers, self.claim.points)]))


def terms_of(expr: sympy.Expr, factor: Any = 1):
    """The summands of sums as they are written, within others and behind a number too."""
    number, rest = expr.as_coeff_Mul()
    if rest.is_Add:
        for part in rest.args:
            yield from terms_of(part, factor * number)
    else:
        yield factor * expr


def statement(
    problem: Problem, claim: Claim, template: sympy.Expr, x: list[sympy.Symbol], values: dict[sympy.Symbol, float]
) -> Statement:
    """A claim as formulas, which are compared with its code at points.

    Args:
        template: u in x and in numbers that have names.
        values: of these numbers.
    Raises:
        Untraceable: there are none, or they are not what the code gives.
    """
    if not claim.traceable:
        raise Untraceable("it is asked for at points of its own")
    tensors = [torch.tensor(value, dtype=torch.float64) for value in values.values()]

    def function(points: Tensor, *numbers: Tensor) -> list[Tensor]:
        u = Solution(problem, template, x, dict(zip(values, numbers, strict=True)))
        return [r.reshape(len(points), -1) for r in claim.misfit(u, points)]

    arrays = traced(function, [claim.points[:1], *tensors], [[x], *values])
    found = Statement(claim, [expr for array in arrays for expr in array.flat], x, list(values))
    _compare(found, torch.cat(function(claim.points, *tensors), 1), list(values.values()))
    return found


def _compare(found: Statement, code: Tensor, numbers: list[float]) -> None:
    """Raises Untraceable where the formulas are not what the code gives: it treats points or numbers differently."""
    for terms, values in zip(found.terms(numbers, found.claim.points), code.detach().T.numpy(), strict=True):
        gap, size = np.abs(terms.sum(0) - values), np.abs(terms).sum(0)
        if (gap > AGREEING * (size + size.max(initial=0.0))).any():
            raise Untraceable(
                "what it gives depends on more than a formula, on which numbers it is given, or on which points"
            )


def evaluated(expr: sympy.Expr, given: dict) -> sympy.Expr:
    """An expression with symbols replaced, and its sums, which were left as written, added up."""
    known = dict(given)

    def of(part: sympy.Expr) -> sympy.Expr:
        if part not in known:
            known[part] = part.func(*map(of, part.args)) if part.args else part
        return known[part]

    return of(expr)
