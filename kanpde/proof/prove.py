"""Whether a formula solves a problem: it is put into the equations and conditions, and what is left is 0 or bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.domains.base import frame_of, is_framed, laws_of
from kanpde.ground.errors import ConfigError, suggest
from kanpde.ground.samplers import stream
from kanpde.interpret.refine import can_be_stopped, time_limit
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.names import Reads
from kanpde.problems.base import Problem
from kanpde.problems.formulas import FUNCTIONS, Formula
from kanpde.proof.claims import Claim, Statement, claims_of, evaluated, statement
from kanpde.proof.constants import Fit, found_numbers
from kanpde.proof.intervals import Bound, Unbounded, bound
from kanpde.proof.regions import Region
from kanpde.proof.solution import Solution
from kanpde.proof.symbolic import Untraceable, read, traced

if TYPE_CHECKING:
    import sympy

Numbers = dict["sympy.Symbol", "sympy.Expr"]

WRONG = 0.01  # misfit at a point, as a share of the size of the terms, that no solution has
ZERO = 1e-10  # the same from which on it is worth while to look whether it is zero
RULE_SECONDS = 10.0  # of one rule of sympy
LARGE = 1e100  # a bound of u that is one
BOXES = 40_000  # of one equation or condition, about
BETTER = 0.1  # share of the misfit at which numbers by the equation are taken where none is exact


@dataclass(frozen=True)
class Finding:
    """What is known of one equation or condition.

    Attributes:
        name: residual, or that of the equation or condition.
        kind: exact, bounded, wrong, or points where nothing is proved.
        largest: an upper bound of |misfit|; where wrong, its value at one point; where points, the largest at points.
        size: the largest sum of the |terms| of the misfit, or what u would give by its size and that of the domain.
        boxes: of the grid on which the bound holds.
        at: the point with the largest value that is known.
        why: there is no proof.

    Example:
        >>> print(Finding("residual", "bounded", largest=4e-5, size=4.0, boxes=40))
        residual <= 4.0e-05 (proved on a grid of 40 boxes), terms 4.0e+00
    """

    name: str
    kind: str
    largest: float = 0.0
    size: float = 0.0
    boxes: int = 0
    at: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        if self.kind == "exact":
            return f"{self.name}: 0, exact"
        if self.kind == "bounded":
            return (
                f"{self.name} <= {self.largest:.1e} (proved on a grid of {self.boxes:,} boxes), terms {self.size:.1e}"
            )
        if self.kind == "wrong":
            where = ", ".join(f"{name} = {value:.4g}" for name, value in list(self.at.items())[:4])
            where += ", ..." * (len(self.at) > 4)
            return f"{self.name} is {self.largest:.1e} at {where}, of terms {self.size:.1e}"
        return f"{self.name} <= {self.largest:.1e} at points, terms {self.size:.1e} (not proved: {self.why})"


@dataclass(frozen=True)
class Proof:
    """What is known of a formula as a solution.

    Attributes:
        formula: u; its numbers as the equation has them, where it then holds exactly.
        findings: of each equation and condition.

    Example:
        >>> from kanpde.problems import Helmholtz
        >>> proof = prove(Helmholtz(), "sin(pi*x)*sin(4*pi*y)")
        >>> proof.exact, proof.findings[0].kind
        (True, 'exact')
    """

    formula: sympy.Expr
    findings: Sequence[Finding]

    @property
    def exact(self) -> bool:
        """Whether u is the solution, as a formula."""
        return all(finding.kind == "exact" for finding in self.findings)

    @property
    def verdict(self) -> str:
        """exact, not a solution, or how much of the equations and conditions is left at most."""
        wrong = [finding for finding in self.findings if finding.kind == "wrong"]
        if self.exact:
            return "exact"
        if wrong:
            return f"not a solution: {wrong[0]}"
        return "; ".join(str(finding) for finding in self.findings if finding.kind != "exact")


def prove(
    problem: Problem, formula: str | sympy.Expr, *, refit: bool = False, seconds: float = 30.0, seed: int = 0
) -> Proof:
    r"""Put a formula for u into the equations and conditions of a problem of one field.

    Their torch code is traced to formulas of sympy, in which floats are read as the numbers that they are to 16 digits.
    A misfit is `exact` where it simplifies to zero; `wrong` where at one point it is more than a hundredth of
    the size of its terms; else it is bounded on boxes that cover its part of the domain, by interval arithmetic that is
    rounded outwards. Where there is no such formula, or no boxes, it is looked at at points, which proves nothing.

    Args:
        formula: u in the names of the coordinates.
        refit: its floats are numbers that were fitted: where it is not exact they are fitted once more, to the equation
            and the conditions alone, and read as simple fractions, multiples of pi, roots, where all misfits are zero.
        seconds: for the search for numbers, and for the boxes of each misfit; about.
        seed: of points.
    Raises:
        ConfigError: it is no formula in the coordinates, or the problem has several fields.

    Example:
        >>> from kanpde.problems import Helmholtz
        >>> prove(Helmholtz(), "sin(pi*x)*sin(4*pi*y)").verdict
        'exact'
    """
    if len(problem.fields) > 1 or problem.fits_rows:
        raise ConfigError("prove: needed is an equation of one field")
    if not seconds > 0:
        raise ConfigError(f"seconds: given {seconds:g}, needed is a number above 0")
    if refit:
        work, numbers = _refitted(problem, formula, seconds, seed)
        return work.judged(numbers)
    work = _Work(problem, formula, seconds, seed)
    return work.judged(work.given)


def _refitted(problem: Problem, formula: str | sympy.Expr, seconds: float, seed: int) -> tuple[_Work, Numbers]:
    """A formula with its numbers by the equation, multiplied out where that leaves fewer of them to be found."""
    work, left = _Work(problem, formula, seconds, seed, expand=True), inf
    while True:
        numbers = work.refitted() if work.statements else work.given
        floats = sum(value.is_Float for value in numbers.values())
        if not 0 < floats < left or work.is_exact(numbers):
            return work, numbers
        left, work = floats, _Work(problem, work.formula(numbers), seconds, seed, expand=True)


def solved_by(problem: Problem, formula: sympy.Expr, seconds: float = 5.0) -> sympy.Expr | None:
    """A formula with its floats as the equation and the conditions have them, where it then is exact; else None."""
    work, numbers = _refitted(problem, formula, seconds, seed=0)
    return work.formula(numbers) if work.is_exact(numbers) else None


def solution_of(u: Ansatz, formula: sympy.Expr) -> sympy.Expr:
    """u = h + m f as a formula in the names of the coordinates, for the formula of its network f.

    Raises:
        Untraceable: what is built in is no formula.
    """
    import sympy

    if all(part is None for part in u.built_in(u.problem.inputs_of(_some_points(u.problem, 1)))):
        return formula
    x = [sympy.Symbol(u.problem.axes.name(axis)) for axis in range(u.problem.n_inputs)]

    def built_in(points: Tensor) -> list[Tensor]:
        m, h = u.built_in(points)
        return [points.new_ones(1) if m is None else m.value, points.new_zeros(1) if h is None else h.value]

    m, h = (array.item() for array in traced(built_in, [_some_points(u.problem, 1)], [[x]]))
    return evaluated(h, {}) + evaluated(m, {}) * formula


def _some_points(problem: Problem, n: int) -> Tensor:
    law = laws_of(problem.domain)[0]
    return problem.domain.interior(n, stream(0, "proof"), law, dtype=torch.float64)


class _Work:
    """A problem and a formula: its numbers by names, the claims, and those that are traced, as expressions in these."""

    def __init__(self, problem: Problem, formula: str | sympy.Expr, seconds: float, seed: int, expand: bool = False):
        import sympy

        self.problem, self.seconds = problem, seconds
        self.names = [problem.axes.name(axis) for axis in range(problem.n_inputs)]
        size = torch.ones(problem.n_inputs, dtype=torch.float64)
        centre, self.reach = frame_of(problem.domain) if is_framed(problem.domain) else (0 * size, size)
        sign = ["positive" if low >= 0 else "real" for low in (centre - self.reach).tolist()]
        self.x = [sympy.Symbol(name, **{kind: True}) for name, kind in zip(self.names, sign, strict=True)]
        expr = self._parsed(formula)
        self.template, self.given = _lifted(_with_few_numbers(expr) if expand else expr)
        self.claims: list[Claim] = []
        self.statements: dict[str, Statement] = {}
        self.reasons: dict[str, str] = {}
        for claim in claims_of(problem, self.x, seed):
            self._trace(claim)
        self.inner = self.claims[0].points

    def _trace(self, claim: Claim) -> None:
        """The claim, or those of its sides, as formulas as far as they are any."""
        try:
            self.statements[claim.name] = statement(self.problem, claim, self.template, self.x, _floats(self.given))
        except Untraceable as error:
            if claim.sides:
                for side in claim.sides:
                    self._trace(side)
                return
            self.reasons[claim.name] = str(error)
        self.claims.append(claim)

    def _parsed(self, formula: str | sympy.Expr) -> sympy.Expr:
        """The formula in the symbols of the coordinates."""
        import sympy

        expr = formula
        if isinstance(formula, str):
            text = Formula.parse(formula, self.names).text.replace("^", "**")  # nothing but a formula is executed
            known = {name: getattr(sympy, "Abs" if name == "abs" else of) for name, of in FUNCTIONS.items()}
            expr = sympy.sympify(text, locals=known | {name: sympy.Symbol(name) for name in self.names})
        if not isinstance(expr, sympy.Expr):
            raise ConfigError(f"formula: given {formula!r:.80}, needed is an expression in {', '.join(self.names)}")
        for symbol in sorted(expr.free_symbols, key=str):
            if symbol.name not in self.names:
                raise ConfigError(f"formula: {suggest('coordinate', symbol.name, self.names)}")
        return expr.xreplace({symbol: self.x[self.names.index(symbol.name)] for symbol in expr.free_symbols})

    # -----------------------------------------------------------------------------------------------------------
    # Numbers

    def refitted(self) -> Numbers:
        """The numbers by the equation, of those that are fitted or else of all of them; as given where these are best.

        Such that are met exactly are best, then those that leave much less.
        """
        best = self.given
        fitted = [symbol for symbol, value in self.given.items() if value.is_Float]
        for symbols in (fitted, list(self.given)):
            if self.is_exact(best):
                break
            found = self._by_equation(symbols)
            if self.is_exact(found) or self.worst(found) <= BETTER * self.worst(best):
                best = found
        return best

    def _by_equation(self, fitted: list[sympy.Symbol]) -> Numbers:
        """The given numbers, these of them fitted to the misfits, and read where the misfits then vanish."""
        known = {symbol: value for symbol, value in self.given.items() if symbol not in fitted}
        values, kept, sizes = _floats(self.given), [], []
        for each in self.statements.values():
            kept.append(replace(each, exprs=[evaluated(expr, known) for expr in each.exprs], numbers=fitted))
            sizes.append(self._size(each, values))
        start = {symbol: values[symbol] for symbol in fitted}
        readings, left = found_numbers(Fit(kept, sizes), start, self.seconds)
        return self.given | {symbol: _float(value) for symbol, value in left.items()} | readings

    def is_exact(self, numbers: Numbers) -> bool:
        """Whether all misfits are zero with these numbers."""
        return all(claim.name in self.statements and self._is_met(claim, numbers) for claim in self.claims)

    def worst(self, numbers: Numbers) -> float:
        """The largest misfit at points, relative to the size of its terms."""
        values = _floats(numbers)
        shares = [s.largest(list(values.values())) / self._size(s, values) for s in self.statements.values()]
        return max(shares)

    def _is_met(self, claim: Claim, numbers: Numbers) -> bool:
        of, values = self.statements[claim.name], _floats(numbers)
        if of.largest(list(values.values())) > ZERO * self._size(of, values):
            return False
        return all(_is_zero(expr) for expr, _ in self._parts(claim, numbers))

    def _parts(self, claim: Claim, numbers: Numbers) -> list[tuple[sympy.Expr, Region]]:
        """The misfits as exact expressions on each region; where there are none, everywhere."""
        exact = _exact(numbers)
        exprs = [evaluated(expr, exact) for expr in self.statements[claim.name].exprs]
        return [(evaluated(expr, region.at), region) for expr in exprs for region in claim.regions or [Region()]]

    # -----------------------------------------------------------------------------------------------------------
    # Findings

    def judged(self, numbers: Numbers) -> Proof:
        """What is known of the formula with these numbers."""
        findings = [self._finding(claim, numbers) for claim in self.claims]
        return Proof(self.formula(numbers), [*self._poles(numbers), *findings])

    def _poles(self, numbers: Numbers) -> list[Finding]:
        """That u may be infinite somewhere, where it satisfies nothing, unless boxes show that it is not."""
        u, why = evaluated(self.template, _exact(numbers)), "it has no bound on boxes, as where it divides by zero"
        try:
            bounds = [_bound(u, region, BOXES, LARGE, self._over()) for region in self.claims[0].regions or []]
        except Unbounded as error:
            bounds, why = [Bound(inf, 0.0, {}, 0)], str(error)
        if all(each.above < inf for each in bounds):
            return []
        size = self._solution(_floats(numbers))(self.inner).abs().max().item()
        return [Finding("u", "points", size, size, why=why)]

    def _over(self) -> Callable[[], bool]:
        """Whether the time of one finding is over."""
        end = time.perf_counter() + self.seconds
        return lambda: time.perf_counter() > end

    def formula(self, numbers: Numbers) -> sympy.Expr:
        """The formula with these numbers, in the names of the coordinates."""
        import sympy

        plain = {symbol: sympy.Symbol(symbol.name) for symbol in self.x}
        return evaluated(self.template, numbers).xreplace(plain)

    def _finding(self, claim: Claim, numbers: Numbers) -> Finding:
        values = _floats(numbers)
        if claim.name not in self.statements:
            return self._at_points(claim, values)
        if self._is_met(claim, numbers):
            return Finding(claim.name, "exact")
        of = self.statements[claim.name]
        size, largest = self._size(of, values), of.largest(list(values.values()))
        if claim.regions is None:
            return _of_points(claim, largest, size, f"no boxes cover a {type(self.problem.domain).__name__}")
        parts, over = self._parts(claim, numbers), self._over()
        boxes = BOXES // len(parts)
        try:
            bounds = [_bound(expr, region, boxes, ZERO * size, over) for expr, region in parts]
        except Unbounded as error:
            return _of_points(claim, largest, size, str(error))
        return self._of_bounds(claim, bounds, [region for _, region in parts], size, largest)

    def _of_bounds(
        self, claim: Claim, bounds: list[Bound], regions: list[Region], size: float, largest: float
    ) -> Finding:
        found, region = max(zip(bounds, regions, strict=True), key=lambda pair: pair[0].below)
        at = {}
        for name, symbol in zip(self.names, self.x, strict=True):
            at[name] = float(region.at.get(symbol, symbol).subs(found.at)) if found.at or not region.ranges else 0.0
        if found.below > WRONG * size:
            return Finding(claim.name, "wrong", found.below, size, at=at)
        above = max(each.above for each in bounds)
        if not above < inf:
            return _of_points(claim, largest, size, "the formula has no bound on boxes, as where it divides by zero")
        return Finding(claim.name, "bounded", above, size, sum(each.boxes for each in bounds), at)

    def _size(self, of: Statement, values: dict[sympy.Symbol, float]) -> float:
        """The size of the terms; not below that which a u of this size has in a domain of this size."""
        return max(of.size(list(values.values()), self.inner), self._typical(of.claim, values))

    def _typical(self, claim: Claim, values: dict[sympy.Symbol, float]) -> float:
        """|u|, of an equation by the half-widths of the domain as often as it reads derivatives."""
        u = self._solution(values)(self.inner).abs().nan_to_num(posinf=0.0).max().item()
        reads = self.problem.reads if claim.equation else Reads(False, False)
        shares = [self.reach[list(index)].prod().item() for index in reads.every]
        shares += [self.reach.min().item() ** 2] * (reads.lap or reads.diffusion)
        return max(u, *(u / share for share in shares), 0.0)

    def _solution(self, values: dict[sympy.Symbol, float]) -> Solution:
        numbers = {symbol: torch.tensor(value, dtype=torch.float64) for symbol, value in values.items()}
        return Solution(self.problem, self.template, self.x, numbers)

    def _at_points(self, claim: Claim, values: dict) -> Finding:
        """The largest misfit at points, by its code."""
        u = self._solution(values)
        try:
            with torch.enable_grad():
                misfits = [r.detach().abs().max().item() for r in claim.misfit(u, claim.points)]
                size = u(self.inner).detach().abs().max().item()
        except Exception as error:  # of a user's code
            raise ConfigError(f"{claim.name}: {' '.join(str(error).split())[:200]}") from None
        return _of_points(claim, max(misfits), size, self.reasons[claim.name])


def _of_points(claim: Claim, largest: float, size: float, why: str) -> Finding:
    return Finding(claim.name, "points", largest, size, why=why)


def _bound(expr: sympy.Expr, region: Region, boxes: int, enough: float, over: Callable[[], bool]) -> Bound:
    """That of the shorter form of an expression."""
    with time_limit(RULE_SECONDS):
        expr = min(expr, expr.expand(), key=lambda e: e.count_ops())
    return bound(expr, region.ranges, region.within, boxes, enough, over)


def _is_zero(expr: sympy.Expr) -> bool:
    """Whether rules of sympy make it zero."""
    import sympy

    rules = [lambda e: e, sympy.expand, lambda e: sympy.expand(e.rewrite(sympy.exp))]
    if can_be_stopped():
        rules += [sympy.trigsimp, sympy.simplify, lambda e: sympy.simplify(e.rewrite(sympy.exp))]
    for rule in rules:
        with time_limit(RULE_SECONDS):
            if rule(expr) == 0:
                return True
    return False


def _with_few_numbers(expr: sympy.Expr) -> sympy.Expr:
    """The expression multiplied out where it then has fewer floats: of factors only the product can be told."""
    import sympy

    floats = lambda e: len(e.atoms(sympy.Float))
    with time_limit(RULE_SECONDS):
        return min(sympy.expand(expr), expr, key=floats)
    return expr


def _lifted(expr: sympy.Expr) -> tuple[sympy.Expr, dict[sympy.Symbol, sympy.Expr]]:
    """The expression with a name for each of its numbers but whole ones and exponents, and these numbers.

    Floats that are equal are one number, which stands in several places.
    """
    import sympy

    numbers: dict[sympy.Symbol, sympy.Expr] = {}
    floats: dict[sympy.Expr, sympy.Symbol] = {}

    def of(part: sympy.Expr) -> sympy.Expr:
        if part.is_Integer:
            return part
        if part.is_number:
            symbol = floats.get(part) or sympy.Dummy(f"c{len(numbers)}", real=True)
            numbers[symbol] = part
            if part.is_Float:
                floats[part] = symbol
            return symbol
        if part.is_Pow and part.exp.is_Rational:
            return part.func(of(part.base), part.exp)
        return part.func(*map(of, part.args)) if part.args else part

    return of(expr), numbers


def _floats(numbers: Numbers) -> dict[sympy.Symbol, float]:
    return {symbol: float(value) for symbol, value in numbers.items()}


def _exact(numbers: Numbers) -> Numbers:
    """Floats as the numbers that they are read as."""
    return {symbol: read(float(value)) if value.is_Float else value for symbol, value in numbers.items()}


def _float(value: float) -> sympy.Expr:
    import sympy

    return sympy.Float(value)
