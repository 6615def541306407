"""A formula made readable: its constants fitted until only rounding is left, then rounded, and its terms combined."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.ground.metrics import errors
from kanpde.interpret.expression import evaluate, values_at
from kanpde.interpret.fitting import Tolerance, least_squares

if TYPE_CHECKING:
    import sympy

TOLERANCE = Tolerance(relative=1.02, absolute=1e-12)
CLOSE = 0.005  # distance, as a share of 1 + |value|, from which a round number is tried
DENOMINATORS = (1, 2, 3, 4, 5, 6, 8, 10)
PI_DENOMINATORS = (1, 2, 3, 4, 6)
ROUNDS = 6  # of fitting, rounding and combining
SAME = 1e-9  # relative difference of two forms of one formula
ROUNDING = 1e-12  # and of a number and what it is recognised as
MOST_ABOVE, MOST_BELOW = 1000, 120  # in the fractions that are recognised


# ---------------------------------------------------------------------------------------------------------------
# Constants


class _Template:
    """A formula whose floats are parameters, at points x with values y."""

    def __init__(self, expr: sympy.Expr, names: Sequence[str], x: Tensor, y: Tensor):
        import sympy

        self.numbers: dict[sympy.Dummy, float] = {}
        self.expr = self._lifted(expr)
        self.inputs = {sympy.Symbol(name): column for name, column in zip(names, x.unbind(1), strict=True)}
        self.y = y

    def _lifted(self, expr: sympy.Expr) -> sympy.Expr:
        """Every float of the tree by a symbol of its own."""
        import sympy

        if expr.is_Float:
            symbol = sympy.Dummy("c", real=True)
            self.numbers[symbol] = float(expr)
            return symbol
        return expr.func(*map(self._lifted, expr.args)) if expr.args else expr

    def fitted(self, replaced: dict, steps: int) -> tuple[sympy.Expr, dict, float]:
        """The template with some symbols replaced by numbers, the others fitted, and its relative l2 error."""
        expr = self.expr.xreplace(replaced)
        left = [symbol for symbol in self.numbers if expr.has(symbol)]
        model = lambda theta: self._values(expr, dict(zip(left, theta.unbind(-1), strict=True))).unsqueeze(1)
        start = torch.tensor([self.numbers[symbol] for symbol in left], dtype=torch.float64)
        theta = least_squares(model, start, self.y.unsqueeze(1), steps, damping=1e-6)
        numbers = dict(zip(left, theta.tolist(), strict=True))
        error = errors(model(theta).squeeze(1), self.y)["rel_l2"]
        return expr, numbers, error if error == error else float("inf")

    def _values(self, expr: sympy.Expr, numbers: dict) -> Tensor:
        return evaluate(expr, self.inputs | numbers).expand(len(self.y))

    def formula(self) -> sympy.Expr:
        import sympy

        return self.expr.xreplace({symbol: sympy.Float(value) for symbol, value in self.numbers.items()})


def fit_constants(
    expr: sympy.Expr, names: Sequence[str], x: Tensor, y: Tensor, steps: int = 40
) -> tuple[sympy.Expr, float]:
    """The formula with all its floats fitted to y (N,) at x (N, d), and its relative l2 error there."""
    template = _Template(expr, names, x.double(), y.double().reshape(len(x)))
    template.expr, template.numbers, error = template.fitted({}, steps)
    return template.formula(), error


def refine(
    expr: sympy.Expr,
    names: Sequence[str],
    x: Tensor,
    y: Tensor,
    tolerance: Tolerance = TOLERANCE,
    steps: int = 60,
) -> sympy.Expr:
    """The formula with all its floats fitted to y (N,) at x (N, d), round where round numbers do as well, and simpler.

    Whole numbers, fractions with small denominators and multiples of pi are tried where a float is close to one; the
    others are fitted again, and the number stays where the tolerance allows the error. What is a closed form to
    twelve digits at last becomes it.

    Args:
        names: of the columns of x.
        steps: of each fit.
    """
    x, y = x.double(), y.double().reshape(len(x))
    expr = simplify(expr, names, x)
    for _ in range(ROUNDS):
        template = _Template(expr, names, x, y)
        template.expr, template.numbers, smallest = template.fitted({}, steps)
        _round(template, smallest, tolerance, steps)
        before, expr = expr, simplify(template.formula(), names, x)
        if _cost(expr) == _cost(before):
            break
    return recognised(expr, names, x)


def _round(template: _Template, smallest: float, tolerance: Tolerance, steps: int) -> None:
    """Replace numbers of the template by round ones, those that are closest to one first."""
    tried: set = set()
    while True:
        open_ = {s: nice for s, v in template.numbers.items() if s not in tried and (nice := round_numbers(v))}
        if not open_:
            return
        distance = lambda s, of=open_: abs(float(of[s][0]) - template.numbers[s])
        symbol = min(open_, key=distance)
        tried.add(symbol)
        for number in open_[symbol]:
            expr, numbers, error = template.fitted({symbol: number}, steps)
            if tolerance.allows(error, smallest):
                template.expr, template.numbers, smallest = expr, numbers, min(smallest, error)
                break


def round_numbers(value: float) -> list[sympy.Expr]:
    """Whole numbers, simple fractions and multiples of pi close to a value, the closest first."""
    import sympy

    units = [sympy.Rational(1, q) for q in DENOMINATORS] + [sympy.pi / q for q in PI_DENOMINATORS]
    numbers = {round(value / float(unit)) * unit: None for unit in units}
    gap = lambda number: abs(float(number) - value)
    close = [number for number in numbers if gap(number) <= CLOSE * (1 + abs(value))]
    return sorted(close, key=lambda number: (round(gap(number), 12), sympy.count_ops(number), float(abs(number))))[:4]


def recognised(expr: sympy.Expr, names: Sequence[str], x: Tensor) -> sympy.Expr:
    """Numbers that meet in a product or a sum as one closed form: 0.577... sqrt(3) is 1, and 0.0795... is 1 / (4 pi).

    Only where that makes the formula shorter and its values at x (N, d) stay the same but for rounding.
    """
    import sympy

    def one(e: sympy.Expr) -> sympy.Expr:
        number, rest = e.as_independent(*e.free_symbols, as_Add=e.is_Add)
        closed = closed_form(float(number)) if number.has(sympy.Float) and number.is_real else None
        return e if closed is None else e.func(closed, rest)

    found = expr.replace(lambda e: (e.is_Mul or e.is_Add) and e.free_symbols, one)
    return found if _is_better(found, expr, values_at(expr, names, x), names, x, ROUNDING) else expr


def closed_form(value: float, rounding: float = ROUNDING) -> sympy.Expr | None:
    """The simple fraction a float is, perhaps with pi, pi^2, sqrt(pi), sqrt(2 pi), sqrt(2) or sqrt(3); else None.

    Args:
        rounding: the distance, relative to the value, that is none.
    """
    import sympy

    if not abs(value) < MOST_ABOVE**2:  # larger than all of them; quotients may overflow
        return None
    pi, root = sympy.pi, sympy.sqrt
    roots = (root(2), root(3), root(pi), root(2 * pi), 1 / root(pi), 1 / root(2 * pi))
    for unit in (sympy.S.One, pi, 1 / pi, pi**2, 1 / pi**2, *roots):
        ratio = Fraction(value / float(unit)).limit_denominator(MOST_BELOW)
        if 0 < abs(ratio.numerator) <= MOST_ABOVE and abs(float(ratio) * float(unit) / value - 1) <= rounding:
            return sympy.Rational(ratio) * unit
    return None


# ---------------------------------------------------------------------------------------------------------------
# Terms


def simplify(expr: sympy.Expr, names: Sequence[str], x: Tensor, seconds: float = 5.0) -> sympy.Expr:
    """The same function with fewer constants and operations.

    Rules are tried one after another; a result is taken if it has the same values at x (N, d) and costs less. A rule
    that takes longer than `seconds` is passed over. Inputs that are positive at x are taken to be positive, so that
    logarithms and powers can be combined.
    """
    import sympy

    plain = [sympy.Symbol(name) for name in names]
    signs = ["positive" if low > 0 else "real" for low in x.amin(0).tolist()]
    known = [sympy.Symbol(name, **{sign: True}) for name, sign in zip(names, signs, strict=True)]
    values = values_at(expr, names, x)
    there, back = dict(zip(plain, known, strict=True)), dict(zip(known, plain, strict=True))
    for rule in _rules():
        with time_limit(seconds):
            found = rule(expr.xreplace(there)).xreplace(back)
            expr = found if _is_better(found, expr, values, names, x, SAME) else expr
    return expr


def _is_better(
    found: sympy.Expr, expr: sympy.Expr, values: Tensor, names: Sequence[str], x: Tensor, same: float
) -> bool:
    """Whether a form costs less than another and has these values."""
    return _cost(found) < _cost(expr) and errors(values_at(found, names, x), values)["rel_l2"] <= same


def _rules() -> list[Callable]:
    import sympy

    logs = lambda e: sympy.expand_log(e, force=True)
    rules = [sympy.expand, logs, lambda e: sympy.expand(logs(e)), sympy.powsimp, sympy.factor_terms]
    # sympy's own can take any time, so it runs only where it can be stopped
    return [*rules, sympy.simplify] if can_be_stopped() else rules


def _cost(expr: sympy.Expr) -> tuple[int, int]:
    """Floats, then operations."""
    import sympy

    floats = sum(node.is_Float for node in sympy.preorder_traversal(expr))
    return floats, sympy.count_ops(expr)


def can_be_stopped() -> bool:
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


class TimeUp(BaseException):
    """The time is over; no Exception, for much code catches those."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Leaves the block after so many seconds, by an alarm of the main thread; elsewhere there is no limit.

    It rings again every second: a bare `except`, or Python where an exception has no place (callbacks of gc), eats one.
    """
    if not can_be_stopped():
        yield
        return
    inside = True

    def ring(*_):
        if inside:
            raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 1.0)
    try:
        with suppress(TimeUp):
            try:
                yield
            finally:
                inside = False  # a bell from now on finds nobody
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
