"""A formula for data: symmetries of a KAN leave fewer inputs, spline edges fit what is left, formulas replace these.

    recover(x, y, names)
      1. monomials, sums and products of univariate functions, of y and of simple functions of y  (`separable`)
      2. a KAN is fitted; scalings and shifts that keep it reduce the inputs; the rest by 1. again  (`symmetry`)
      3. pairs of inputs by their product, quotient, sum or difference, and 1. again
      4. small KANs, pruned, their edges made formulas all at once  (`structures`)

Every formula is fitted to the data itself, its constants are rounded, and rows held out say how good it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, permutations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import LARGEST
from kanpde.interpret.expression import values_at
from kanpde.recover.separable import OUTER, Splines, outer_functions
from kanpde.recover.structures import WIDTHS, small_networks
from kanpde.recover.symmetry import (
    DIFFERENCE,
    PRODUCT,
    QUOTIENT,
    SUM,
    Fitted,
    Reduction,
    fitted,
    monomials,
    one_sign,
    paired,
    peeled,
    scalings,
    shifts,
)
from kanpde.recover.trials import (
    FEW,
    OSCILLATING,
    POWERS,
    RESULT,
    Accept,
    Found,
    Recovery,
    Say,
    Task,
    TimeIsOver,
    Trials,
)

if TYPE_CHECKING:
    import sympy

ROWS = 50  # at least
BEST, BEST_AGAIN, GAIN = 4, 2, 0.8  # combinations looked at, at length; share of the error that they may leave
SMOOTH = 0.02  # error of splines of one input that is worth all efforts
POOR = 0.15  # error of a KAN whose slopes say nothing
AS_GOOD, GOOD = 1.2, 6e-3  # times the error of a KAN, error: another that fits as well
NETWORKS = ({"sign": 0.0}, {"logs": False}, {"hidden": (8,), "steps": 60})


def recover(
    x: Tensor,
    y: Tensor,
    names: Sequence[str],
    seconds: float = 60.0,
    generator: torch.Generator | None = None,
    say: Say = lambda formula, error: None,
    accept: Accept | None = None,
) -> Recovery:
    """Search a formula for y (N,) of x (N, d) for so many seconds; see the module.

    Args:
        names: of the columns of x.
        generator: of the initial weights.
        say: is told every formula better than those before, and its relative l2 error on the rows held out.
        accept: is asked of every formula that is near the rows; the first one that it accepts ends the search, as of
            rows that are not exact the truth need not be the nearest.
    Raises:
        ConfigError: shapes that do not fit, too few rows, values that are not finite, or no time.
    """
    import sympy

    _checked(x, y, names, seconds)
    search = _Search(x.double(), y.double(), names, seconds, generator or torch.Generator().manual_seed(0), say, accept)
    symbols = tuple(sympy.Symbol(name) for name in names)
    return search.run(Task(search.x, search.y, symbols, sympy.Symbol(RESULT)))


def _checked(x: Tensor, y: Tensor, names: Sequence[str], seconds: float) -> None:
    if x.ndim != 2 or y.shape != (len(x),) or len(names) != x.shape[1]:
        raise ConfigError(
            f"recover takes x (N, d), y (N,) and d names; "
            f"given {tuple(x.shape)}, {tuple(y.shape)} and {len(names)} names"
        )
    if len(x) < ROWS:
        raise ConfigError(f"recover takes rows: given {len(x)} training rows, needed are at least {ROWS}")
    if not (x.isfinite().all() and y.isfinite().all()):
        raise ConfigError("recover takes rows of finite numbers, given some that are not")
    if (largest := y.abs().max().item()) > LARGEST:
        raise ConfigError(f"recover takes numbers up to {LARGEST:.0e}, given are some of {largest:.0e}")
    if not seconds > 0:
        raise ConfigError(f"recover takes seconds above 0, given {seconds}")


class _Search(Trials):
    def run(self, task: Task) -> Recovery:
        import sympy

        try:
            if (task.y == task.y[0]).all():
                self.offer(task, sympy.Float(task.y[0].item()), OUTER[0])
            else:
                self.solve(task)
        except (Found, TimeIsOver):
            pass
        self.found.seconds = time.perf_counter() - self.start
        return self.found

    # ---------------------------------------------------------------------------------------------------------
    # The search

    def solve(self, task: Task, model: Fitted | None = None) -> None:
        """Everything for these rows, the cheap first."""
        if (task.inputs, task.whole) in self.seen:
            return
        self.seen.add((task.inputs, task.whole))
        if len(task.inputs) == 1:
            error = 0.0 if len(self.names) == 1 else self.additive_error(task)  # of a single input: all that there is
            if error < OSCILLATING:
                self.univariate(task, POWERS if error < SMOOTH else POWERS[:1])
            if error < SMOOTH:
                self.by_structures(task)
            return
        self.separable(task)
        model = model or self.model(task)
        self.by_symmetry(task, model)
        if len(task.inputs) == 2:
            self.beside(task)
            self.by_structures(task, widths=WIDTHS[:1])
        moves = (self.by_networks, self.combined)
        for move in moves if self.error_of(task, model(task.x)) < POOR else reversed(moves):
            move(task)
        if len(task.inputs) == 3:
            self.beside(task)
        self.by_structures(task)

    def by_networks(self, task: Task) -> None:
        """Other KANs of these rows, of the observation as it is and of functions of it."""
        for options in NETWORKS:
            if options.get("sign") != 0.0 or one_sign(task.y):
                self.by_symmetry(task, self.model(task, **options))
        for h in outer_functions(task.y):
            if h.name not in ("y", "log"):
                other = task.outer(h)
                self.by_symmetry(other, self.model(other, sign=0.0, logs=False))

    def by_structures(self, task: Task, widths: Sequence[tuple[int, ...]] = WIDTHS) -> None:
        """Small KANs of a few inputs, all of whose edges become formulas."""
        for h in outer_functions(task.y) if len(task.inputs) <= FEW else ():
            y = h.torch(task.y)
            for expr in small_networks(task.x, y, self.held, task.names, widths, self.generator, self.check):
                self.offer(task, expr, h)

    def by_symmetry(self, task: Task, model: Fitted) -> None:
        for reduced, fit in self.reductions(task, model):
            self.solve(reduced, fit)

    def model(self, task: Task, **options) -> Fitted:
        model = fitted(task.x, task.y, self.held, self.generator, **options)
        error = self.error_of(task, model(task.x))
        self.note(f"KAN {options or ''}", task, error)
        if error < self.found.model_error:
            self.found.model, self.found.model_error = self.predictor(task, model), error
        return model

    def predictor(self, task: Task, model: Fitted) -> Callable[[Tensor], Tensor]:
        def predict(x: Tensor) -> Tensor:
            columns = torch.stack([values_at(e, self.names, x) for e in task.inputs], 1)
            return task.values(self.names, x, model(columns))

        return predict

    def reductions(self, task: Task, model: Fitted) -> Iterator[tuple[Task, Fitted]]:
        """Fewer inputs that a KAN does as well with."""
        before = self.error_of(task, model(task.x))
        for find in (scalings, shifts, self.peeled) if before < POOR else (self.peeled,):
            for reduction in find(task.x, task.y, model, task.symbols):
                reduced = task.reduced(reduction)
                if (reduced.inputs, reduced.whole) in self.seen:
                    continue
                fit = self.model(reduced)
                if self.error_of(reduced, fit(reduced.x)) <= max(AS_GOOD * before, GOOD):
                    yield reduced, fit
                    break

    def peeled(self, x: Tensor, y: Tensor, model: Fitted, symbols: Sequence[sympy.Symbol]) -> Iterator[Reduction]:
        """Without powers of inputs that are factors of the best product, of log |y| or of y itself."""
        splines = Splines(x, self.held, logs=False)
        if model.sign:
            yield from peeled(x, y, splines.additive([y.abs().log()])[0][0].exp(), symbols)
        yield from peeled(x, y, splines.product(y)[0], symbols)

    def combined(self, task: Task) -> None:
        """Products of inputs, sums and differences of two, in their place; the best ones at length."""
        whole, found = self.additive_error(task), []
        for reduction in self.combinations(task):
            other = task.reduced(reduction)
            if other.x.isfinite().all():
                found.append((self.additive_error(other), len(found), other))
        found.sort(key=lambda each: each[0])
        for _, _, other in found[:BEST]:
            self.separable(other)
        for error, _, other in found[:BEST_AGAIN]:
            if error < GAIN * whole:
                self.solve(other)

    def beside(self, task: Task) -> None:
        """A product, quotient, sum or difference of two inputs in place of the first, beside the second."""
        for pairing in (PRODUCT, QUOTIENT, SUM, DIFFERENCE):
            for i, j in permutations(range(len(task.inputs)), 2):
                self.separable(task.reduced(paired(task.x, task.y, task.symbols, [(i, j, pairing)], keep=True)), False)

    def combinations(self, task: Task) -> Iterator[Reduction]:
        count, pairings = len(task.inputs), (SUM, DIFFERENCE)
        if count <= 5:
            yield from monomials(task.x, task.y, task.symbols)
        else:
            pairings = (PRODUCT, QUOTIENT, SUM, DIFFERENCE)
        for pairing in pairings:
            for i, j in combinations(range(count), 2):
                yield paired(task.x, task.y, task.symbols, [(i, j, pairing)])
