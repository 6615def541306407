"""The numbers of a formula by its equation: fitted until the misfits vanish, then read as what they are rounded from.

Nothing but the misfits of equations and conditions is looked at, never a solution that is known.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.interpret.expression import evaluate
from kanpde.interpret.fitting import least_squares
from kanpde.interpret.refine import closed_form, round_numbers
from kanpde.proof.claims import Statement

if TYPE_CHECKING:
    import sympy

Numbers = dict["sympy.Symbol", float]
Readings = dict["sympy.Symbol", "sympy.Expr"]

POINTS = 100  # of each statement, at which numbers are fitted
STEPS = 60
MEANT = 1e-6  # misfit, relative to the size of the terms, from which on a formula may be one that is met exactly
VANISHING = 1e-10  # one that is rounding
CLOSE = 1e-7  # of a number and what it is read as, where all are read at once


class Fit:
    """Misfits as functions of the numbers in u, each relative to the size of its terms."""

    def __init__(self, statements: Sequence[Statement], sizes: Sequence[float]):
        self.parts = [(s, max(size, 1e-300)) for s, size in zip(statements, sizes, strict=True)]

    def fitted(self, fixed: Readings, start: Numbers) -> tuple[Numbers, float]:
        """The other numbers, fitted from where they are, and the largest misfit then."""
        left = [symbol for symbol in start if symbol not in fixed]
        constant = {symbol: torch.tensor(float(value), dtype=torch.float64) for symbol, value in fixed.items()}
        model = lambda theta: 1 + self._misfits(dict(zip(left, theta.unbind(-1), strict=True)) | constant)
        first = torch.tensor([start[symbol] for symbol in left], dtype=torch.float64)
        with torch.no_grad():
            theta = least_squares(model, first, torch.ones_like(model(first)), STEPS, damping=1e-6)
            worst = (model(theta) - 1).abs().max().item()
        return dict(zip(left, theta.tolist(), strict=True)), worst if worst == worst else float("inf")

    def _misfits(self, numbers: dict[sympy.Symbol, Tensor]) -> Tensor:
        """(POINTS, statements); of fewer points some are there again."""
        columns = []
        for statement, size in self.parts:
            points = statement.claim.points
            points = points[torch.arange(POINTS) % len(points)]
            values = dict(zip(statement.x, points.unbind(1), strict=True)) | numbers
            columns += [evaluate(expr, values).expand(POINTS) / size for expr in statement.exprs]
        return torch.stack(columns, 1)


def found_numbers(fit: Fit, start: Numbers, seconds: float) -> tuple[Readings, Numbers]:
    """What numbers are read as where the misfits then vanish, and those that are left, both fitted to the equation."""
    end = time.perf_counter() + seconds
    numbers, worst = fit.fitted({}, start)
    if worst > MEANT:
        return {}, numbers
    likely = {symbol: reading for symbol, value in numbers.items() if (reading := _nearest(value)) is not None}
    left, error = fit.fitted(likely, numbers)
    readings: Readings = {}
    if error <= VANISHING:
        readings, numbers, worst = likely, left, error
    tried: set = set()
    while time.perf_counter() < end:
        options = {s: near for s, value in numbers.items() if s not in tried and (near := round_numbers(value))}
        if not options:
            break
        symbol = min(options, key=lambda s, of=options, at=numbers: abs(float(of[s][0]) - at[s]))
        tried.add(symbol)
        for number in options[symbol]:
            left, error = fit.fitted(readings | {symbol: number}, numbers)
            if error <= max(VANISHING, worst):
                readings, numbers, worst = readings | {symbol: number}, left, max(VANISHING, error)
                break
    return readings | {s: near for s, value in numbers.items() if (near := closed_form(value)) is not None}, numbers


def _nearest(value: float) -> sympy.Expr | None:
    """The number that a fitted one is close to."""
    near = [number for number in round_numbers(value) if abs(float(number) - value) <= CLOSE * max(1.0, abs(value))]
    return near[0] if near else closed_form(value, CLOSE / 10)
