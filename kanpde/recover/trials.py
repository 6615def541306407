"""Formulas on trial: spline models of rows are read, constants are fitted to the data, and the best formula is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.ground.metrics import errors
from kanpde.interpret.expression import values_at
from kanpde.interpret.refine import fit_constants, recognised, refine, simplify
from kanpde.interpret.symbolic import fit_edge
from kanpde.recover.separable import (
    KNOWN,
    OUTER,
    Outer,
    Splines,
    known_sets,
    outer_functions,
    product_of,
    readings,
    sum_of,
    term,
    wide_inputs,
)
from kanpde.recover.symmetry import Reduction

if TYPE_CHECKING:
    import sympy

EXACT = 1e-9  # relative error of a formula that is taken for the truth
HELD_OUT = 5  # every fifth row tells how good a fit is
PROMISING = 5e-3  # error of a spline model that is read
CERTAIN = 1e-12  # error of a formula whose constants need no rounding to be right
LIKELY = 1e-6  # error of a formula whose constants are worth rounding
READABLE = 1e-2  # error of a formula that is reported
OF_ZERO = 1.0  # error of the formula 0
FEW = 3  # inputs of what takes long
MANY = 6  # inputs from which products and second scales are not tried
OSCILLATING = 0.4  # error of splines of one input that is worth a look
CHOICES, PENALTY = 4, 3.0  # of known functions that are read; of the error, for one function more
CERTAIN_EDGE = 1 - 1e-8  # R^2 of a function of the last input
COMMON = ("x", "x^2", "x^3", "1/x", "1/x^2", "sqrt", "exp", "log", "sin", "tanh", "gaussian", "arcsin", "cosh")
POWERS = (0, 1, -1, 2, -2, 3, -3, 0.5, -0.5)  # of the last input that y may have been divided by
RESULT = "y\0"  # the symbol of a task's y: no column of a file has this name


@dataclass
class Recovery:
    """What a search has found: the best formula and the best model, each with its relative l2 error on unseen rows.

    Attributes:
        formula: sympy expression in the names of the inputs; None: none was found.
        formula_error, model_error: infinite where there is none.
        model: x (N, d) -> y (N,), the formula or network with the least error.
        seconds: that the search took.
        steps: what was tried, and how well it did.
    """

    formula: sympy.Expr | None = None
    formula_error: float = float("inf")
    model: Callable[[Tensor], Tensor] | None = None
    model_error: float = float("inf")
    seconds: float = 0.0
    steps: list[str] = field(default_factory=list)

    @property
    def exact(self) -> bool:
        return self.formula_error <= EXACT


@dataclass(frozen=True)
class Task:
    """Rows (x, y) in other inputs and another observation than the data.

    Attributes:
        x, y: (N, d) and (N,).
        inputs: expressions in the names of the data.
        whole: the observation, in these names and y, which is `Y`.
    """

    x: Tensor
    y: Tensor
    inputs: tuple[sympy.Expr, ...]
    whole: sympy.Expr

    @property
    def names(self) -> list[str]:
        return [f"u{i}" for i in range(len(self.inputs))]

    @property
    def symbols(self) -> list[sympy.Symbol]:
        import sympy

        return [sympy.Symbol(name) for name in self.names]

    def formula(self, expr: sympy.Expr) -> sympy.Expr:
        """Of the data, from one of y in the symbols."""
        import sympy

        inner = expr.xreplace(dict(zip(self.symbols, self.inputs, strict=True)))
        return self.whole.xreplace({sympy.Symbol(RESULT): inner})

    def reduced(self, r: Reduction) -> Task:
        import sympy

        there = dict(zip(self.symbols, self.inputs, strict=True))
        inputs = tuple(e.xreplace(there) for e in r.inputs)
        return Task(r.x, r.y, inputs, self.formula(r.factor * sympy.Symbol(RESULT)))

    def outer(self, h: Outer) -> Task:
        """With h(y) in place of y."""
        import sympy

        y = sympy.Symbol(RESULT)
        return Task(self.x, h.torch(self.y), self.inputs, self.whole.xreplace({y: h.back(sympy, y)}))

    def values(self, names: Sequence[str], x: Tensor, y: Tensor) -> Tensor:
        """The observation from y (N,) at x (N, d) of the data."""
        return values_at(self.whole, [*names, RESULT], torch.cat([x, y.unsqueeze(1)], 1))


class TimeIsOver(Exception):
    """Ends a search."""


class Found(Exception):
    """Ends a search: a formula is exact."""


Say = Callable[["sympy.Expr", float], None]
Accept = Callable[["sympy.Expr"], bool]


class Trials:
    """Rows (x, y) of the data, and the best formula and model so far; a search raises `TimeIsOver` or `Found`."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        names: Sequence[str],
        seconds: float,
        generator: torch.Generator,
        say: Say,
        accept: Accept | None = None,
    ):
        self.say, self.accept = say, accept
        self.x, self.y, self.names, self.generator = x, y, list(names), generator
        self.held = torch.arange(len(x)) % HELD_OUT == 0
        self.start, self.seconds, self.found = time.perf_counter(), seconds, Recovery()
        self.seen: set = set()

    def check(self) -> None:
        if time.perf_counter() - self.start > self.seconds:
            raise TimeIsOver

    def note(self, what: str, task: Task, error: float) -> None:
        self.check()
        self.found.steps.append(f"{what} of {', '.join(map(str, task.inputs))}: {error:.1e}")

    def error_of(self, task: Task, y: Tensor) -> float:
        """Relative error, in the units of the data, on the rows held out."""
        found = errors(task.values(self.names, self.x, y)[self.held], self.y[self.held])["rel_l2"]
        return found if found == found else float("inf")

    def additive_error(self, task: Task) -> float:
        """The least error of a sum of edges, or of a product where there are few."""
        self.check()
        splines, outer = Splines(task.x, self.held, logs=False), outer_functions(task.y)
        errors = [error for _, error in splines.additive([h.torch(task.y) for h in outer])]
        return min([*errors, splines.product(task.y)[1]] if 1 < len(task.inputs) <= FEW else errors)

    # ---------------------------------------------------------------------------------------------------------
    # What is solved by splines

    def separable(self, task: Task, thorough: bool = True) -> float:
        """Monomials; sums and products of univariate functions; sums of such products, where there are two inputs.

        Returns the least error of the spline models.
        """
        if not (task.x.isfinite().all() and task.y.isfinite().all()):
            return float("inf")
        self.monomial(task)
        if len(task.inputs) == 1:
            if self.additive_error(task) < OSCILLATING:
                self.univariate(task, POWERS[:1])
            return float("inf")
        wide = thorough and wide_inputs(task.x).any() and len(task.inputs) <= MANY
        return min(self.by_splines(task, logs, thorough) for logs in ((False, True) if wide else (False,)))

    def by_splines(self, task: Task, logs: bool, thorough: bool) -> float:
        splines, outer = Splines(task.x, self.held, logs), outer_functions(task.y)
        found = []
        for h, (edges, error) in zip(outer, splines.additive([h.torch(task.y) for h in outer]), strict=True):
            found.append((error, "sum", h, edges))
            if h.name == "log":
                found.append((error, "product", OUTER[0], edges.exp()))
        for h in [h for h in outer if h.name in ("y", "sin") and len(task.inputs) <= MANY]:
            edges, error = splines.product(h.torch(task.y))
            found.append((error, "product", h, edges))
        found.sort(key=lambda each: each[0])
        self.note("splines", task, found[0][0])
        for error, kind, h, edges in found:
            if error < PROMISING:
                self.read(task, h, task.x, edges, {"sum": sum_of, "product": product_of}[kind])
        if len(task.inputs) == 2 and thorough:
            self.varying(task, splines)
        return found[0][0]

    def monomial(self, task: Task) -> None:
        """c prod x_i^p_i by a linear fit of logarithms."""
        import sympy

        if not ((task.x > 0).all() and ((task.y > 0).all() or (task.y < 0).all())):
            return
        columns = torch.cat([task.x.log(), torch.ones_like(task.x[:, :1])], 1)
        y = task.y.abs().log()
        solution = torch.linalg.lstsq(columns, y.unsqueeze(1)).solution.squeeze(1)
        if (columns @ solution - y).abs().max() > LIKELY:
            return
        *powers, constant = solution.tolist()
        monomial = sympy.Mul(*(u ** sympy.Float(p) for u, p in zip(task.symbols, powers, strict=True)))
        size = sympy.exp(sympy.Float(constant))
        self.offer(task, monomial * size * int(task.y[0].sign().item()), OUTER[0])

    def read(self, task: Task, h: Outer, x: Tensor, edges: Tensor, build: Callable) -> None:
        """The best of all combinations of readings."""
        import sympy

        best, smallest = None, float("inf")
        for found in readings(x, edges):
            self.check()
            expr, error = self.with_constants(task, build(found, task.symbols), h)
            if error < PROMISING:
                self.ask(task.formula(h.back(sympy, expr)))
            if error < smallest:
                best, smallest = expr, error
            if error < CERTAIN:
                break
        if best is not None:
            self.offer(task, best, h)

    def with_constants(self, task: Task, expr: sympy.Expr, h: Outer) -> tuple[sympy.Expr, float]:
        train = ~self.held
        return fit_constants(expr, task.names, task.x[train], h.torch(task.y)[train])

    def varying(self, task: Task, splines: Splines) -> None:
        """sum_k f_k(x_j) g_k(x_i) with known f_k, the best few of all choices."""
        import sympy

        found = []
        outer = outer_functions(task.y)
        ys = [h.torch(task.y) for h in outer]
        for i, j in ((0, 1), (1, 0)):
            for names in known_sets(task.x[:, j]):
                self.check()
                known = [KNOWN[n][0](task.x[:, j]) for n in names]
                for h, (edges, error) in zip(outer, splines.varying(known, i, ys), strict=True):
                    found.append((error * PENALTY ** len(names), len(found), h, i, j, names, edges))
        for error, _, h, i, j, names, edges in sorted(found)[:CHOICES]:
            if error < PROMISING:
                self.note(f"{h.name} = sum of {names} x edges", task, error)
                known = [KNOWN[n][1](sympy, task.symbols[j]) for n in names]
                pairs = lambda found, u, known=known, i=i: zip(known, found, [u[i]] * len(known), strict=True)
                build = lambda found, u, pairs=pairs: sympy.Add(*(f * r.expr(t) for f, r, t in pairs(found, u)))
                self.read(task, h, task.x[:, [i] * len(names)], edges, build)

    def univariate(self, task: Task, powers: Sequence[float] = POWERS) -> None:
        """h(y t^-q) = a f(b t + c) + d, or of 1/t."""
        import sympy

        u = task.symbols[0]
        for q in powers:
            y = task.y / task.x[:, 0] ** q
            if not y.isfinite().all():
                continue
            for p in (1, -1):
                t = task.x**p
                other = task.reduced(Reduction(t, y, (u**p,), u ** sympy.Rational(q)))
                for h in outer_functions(y) if t.isfinite().all() else ():
                    self.check()
                    candidate = fit_edge(t[:, 0], h.torch(y), COMMON)[0]
                    if candidate.r2 > CERTAIN_EDGE:
                        self.offer(other, term(candidate, u), h)

    # ---------------------------------------------------------------------------------------------------------
    # Formulas

    def offer(self, task: Task, expr: sympy.Expr, h: Outer) -> None:
        """A formula for h(y): its constants are fitted and, if it looks right, rounded; the best is kept."""
        import sympy

        self.check()
        train = ~self.held
        expr, error = self.with_constants(task, expr, h)
        expr = h.back(sympy, expr)
        if error <= LIKELY:
            expr = refine(expr, task.names, task.x[train], task.y[train])
        elif error > min(READABLE, self.found.formula_error):
            return
        whole = task.formula(expr)
        self.ask(whole)
        held = self.error_of_formula(whole)
        if held < min(self.found.formula_error, OF_ZERO):
            whole, held = self.shortened(whole, held) if held <= EXACT else (whole, held)
            self.found.formula, self.found.formula_error = whole, held
            self.say(self.found.formula, held)
            if held < self.found.model_error:
                self.found.model, self.found.model_error = lambda x: values_at(whole, self.names, x), held
            if held <= EXACT:
                raise Found

    def ask(self, whole: sympy.Expr) -> None:
        """End the search with a formula that is accepted, whatever its error."""
        if self.accept is not None and self.accept(whole):
            self.found.formula, self.found.formula_error = whole, self.error_of_formula(whole)
            raise Found

    def shortened(self, expr: sympy.Expr, error: float) -> tuple[sympy.Expr, float]:
        """A shorter form of an exact formula and its error, if that is exact too."""
        short = recognised(simplify(expr, self.names, self.x), self.names, self.x)
        now = self.error_of_formula(short)
        return (short, now) if now <= EXACT else (expr, error)

    def error_of_formula(self, expr: sympy.Expr) -> float:
        found = errors(values_at(expr, self.names, self.x[self.held]), self.y[self.held])["rel_l2"]
        return found if found == found else float("inf")
