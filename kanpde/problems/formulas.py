"""Formulas of named variables, read from text by walking a syntax tree: numbers, variables, + - * / **, functions.

    f = Formula.parse("exp(-(theta/sigma)**2/2)/(sqrt(2*pi)*sigma)", ["sigma", "theta"])
    f(x)        # x (N, 2) -> (N,), in the dtype and on the device of x, differentiable
    f.sympy()   # the same formula with exact numbers, in symbols(f.names)

Nothing is ever evaluated as Python, so C, I, gamma, beta, E, S, N and Q are ordinary names of variables.
"""

import ast
import keyword
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError, suggest

# the name in a formula: the name in math, torch and sympy
FUNCTIONS = {
    name: name for name in ("exp", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh")
}
FUNCTIONS |= {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log", "log": "log", "abs": "abs"}
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
SIGNS = {ast.USub: operator.neg, ast.UAdd: operator.pos}
ALLOWED = "numbers, variables, + - * / ** ^, parentheses and functions"
FORBIDDEN = re.compile(r"[^\w\s.,+\-*/^()]")
MAX_LENGTH = 4000  # characters
MAX_DEPTH = 200  # levels of the tree; a sum of n terms has n
MAX_POWER = 1000  # constant exponents, multiplied where powers are nested: exact arithmetic stays small


@dataclass(frozen=True)
class Formula:
    """A formula of named variables; made by `Formula.parse`."""

    text: str
    names: tuple[str, ...]
    tree: ast.expr = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, names: Sequence[str]) -> "Formula":
        """Read a formula such as "m*c^2/sqrt(1 - v**2/c**2)".

        Args:
            text: numbers, variables, + - * / ** (also ^, a power), parentheses, the FUNCTIONS of one argument, and pi
                where no variable has that name.
            names: the variables, in the order of the columns of x; all that is written must be among them.
        Raises:
            ConfigError: a syntax error, an unknown name, anything but the above, a constant that is not a finite real
                number, or a formula that is too long, too deeply nested, or takes too high a power.
        """
        if not isinstance(text, str):
            raise ConfigError(f"a formula is text, given is {text!r}")
        text = " ".join(text.split())
        tree = _syntax_tree(text)
        _Check(text, _columns(names)).constant(tree)
        return cls(text, tuple(names), tree)

    def __call__(self, x: Tensor) -> Tensor:
        """The values at the points x (N, d): (N,). Constants are folded in float64, whatever the dtype of x.

        Outside the domain of a function the value is nan or inf, as torch has it.

        Raises:
            ConfigError: x is not a floating point tensor (N, d) with one column per variable.
        """
        if x.ndim != 2 or x.shape[1] != len(self.names) or not x.is_floating_point():
            raise ConfigError(
                f"formula {_short(self.text)}: given x {tuple(x.shape)} of {x.dtype}, "
                f"needed is a floating point (N, {len(self.names)}): {', '.join(self.names)}"
            )
        columns = _columns(self.names)

        def leaf(node):
            if isinstance(node, ast.Constant):
                return float(node.value)
            return x[:, columns[node.id]] if node.id in columns else math.pi

        value = _fold(self.tree, leaf, _apply)
        return value if isinstance(value, Tensor) else x.new_full((len(x),), value)

    def sympy(self):
        """The formula as a sympy expression in symbols(self.names), all numbers exact (0.5 is 1/2, pi is pi).

        Exact numbers and real symbols make comparing easiest: f.sympy().equals(g), simplify(f.sympy() - g) == 0.
        """
        import sympy

        columns, variables = _columns(self.names), symbols(self.names)

        def leaf(node):
            if isinstance(node, ast.Constant):
                return sympy.Rational(str(node.value))
            return variables[columns[node.id]] if node.id in columns else sympy.pi

        return _fold(self.tree, leaf, lambda name, z: sympy.Abs(z) if name == "abs" else getattr(sympy, name)(z))


def symbols(names: Sequence[str]) -> tuple:
    """The sympy symbols of variables: real, one per name. Real, so that sqrt(x**2) is |x| and log(exp(x)) is x.

    sympy keeps symbols of one name but other assumptions apart: what is compared with a Formula uses these.
    """
    import sympy

    return tuple(sympy.Symbol(name, real=True) for name in names)


# ---------------------------------------------------------------------------------------------------------------
# The tree: one walk, whatever the values are


def _fold(node: ast.expr, leaf: Callable, function: Callable):
    """The value of a checked tree, from leaf(node) at numbers and names and function(name, value) at calls."""
    match node:
        case ast.BinOp(left, op, right):
            return OPERATORS[type(op)](_fold(left, leaf, function), _fold(right, leaf, function))
        case ast.UnaryOp(op, operand):
            return SIGNS[type(op)](_fold(operand, leaf, function))
        case ast.Call(ast.Name(name), [argument]):
            return function(FUNCTIONS[name], _fold(argument, leaf, function))
    return leaf(node)


def _apply(name: str, z: Tensor | float) -> Tensor | float:
    """A function of FUNCTIONS at a tensor or a number."""
    if isinstance(z, Tensor):
        return getattr(torch, name)(z)
    return abs(z) if name == "abs" else getattr(math, name)(z)


# ---------------------------------------------------------------------------------------------------------------
# Checks


def _columns(names: Sequence[str]) -> dict[str, int]:
    """The column of each variable, by the name as Python's parser spells it (NFKC)."""
    columns = {}
    for i, name in enumerate(names):
        if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
            raise ConfigError(
                f"a variable has a name of letters, digits and _ (no keyword of Python), given is {name!r}"
            )
        columns[unicodedata.normalize("NFKC", name)] = i
    if len(columns) < len(names):
        raise ConfigError(f"the variables of a formula have different names, given are {', '.join(names)}")
    return columns


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _syntax_tree(text: str) -> ast.expr:
    """The tree of one expression, in characters that an expression of this language can have."""
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"formula {_short(text)}: {len(text)} characters, allowed are {MAX_LENGTH}")
    if not text:
        raise ConfigError(f"a formula is empty; it has {ALLOWED}")
    if forbidden := FORBIDDEN.search(text):
        raise ConfigError(f"formula {_short(text)}: {forbidden.group()!r} is not allowed, only {ALLOWED}")
    source = _python(text)
    try:
        return ast.parse(source, mode="eval").body
    except SyntaxError as error:
        what = error.msg.split(". ")[0]  # the second sentence is advice on Python
        where = f"character {error.offset}" if error.offset else "the end"
        raise ConfigError(f"formula {_short(source)}: {what} at {where}") from None
    except (RecursionError, MemoryError):
        raise ConfigError(f"formula {_short(text)}: nested deeper than {MAX_DEPTH} levels") from None


def _python(text: str) -> str:
    """The text as Python writes it, where ^ is weaker than + and no power."""
    return text.replace("^", "**")


@dataclass(frozen=True)
class _Check:
    """Refuses every tree that is not a formula of the variables in `columns`."""

    text: str
    columns: dict[str, int]

    def constant(self, node: ast.expr, depth: int = 1, power: float = 1.0) -> float | None:
        """The value of a tree without variables, None for one with them; `power` is that of all powers around it."""
        if depth > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH} levels")
        match node:
            case ast.BinOp(left, op, right) if type(op) in OPERATORS:
                b = self.constant(right, depth + 1)
                if isinstance(op, ast.Div) and b == 0:
                    raise self.error(f"{self.source(node)} divides by zero")
                if isinstance(op, ast.Pow) and b is not None:
                    power *= max(1.0, abs(b))
                if power > MAX_POWER:
                    raise self.error(f"a power of {power:g}, allowed are powers up to {MAX_POWER}")
                return self.fold(node, OPERATORS[type(op)], self.constant(left, depth + 1, power), b)
            case ast.UnaryOp(op, operand) if type(op) in SIGNS:
                return self.fold(node, SIGNS[type(op)], self.constant(operand, depth + 1, power))
            case ast.Call(ast.Name(name), arguments, keywords):
                self.call(name, arguments, keywords)
                return self.fold(node, partial(_apply, FUNCTIONS[name]), self.constant(arguments[0], depth + 1, power))
            case ast.Call(function):
                raise self.error(f"{self.source(function)} is no function; a product is written with *")
            case ast.Name(name):
                return self.name(name)
            case ast.Constant(value) if type(value) in (int, float):
                return self.fold(node, float, value)
        raise self.error(f"{self.source(node)} is not allowed, only {ALLOWED}")

    def call(self, name: str, arguments: list[ast.expr], keywords: list) -> None:
        """Refuse all but one of FUNCTIONS at one argument."""
        if name not in FUNCTIONS:
            if name in self.columns:
                raise self.error(f"{name} is a variable, no function; a product is written with *")
            raise self.error(suggest("function", name, list(FUNCTIONS)))
        if len(arguments) != 1 or keywords:
            raise self.error(f"{name} takes one argument, given are {len(arguments) + len(keywords)}")

    def name(self, name: str) -> float | None:
        """Refuse all but variables and pi."""
        if name in self.columns:
            return None
        if name == "pi":
            return math.pi
        if name in FUNCTIONS:
            raise self.error(f"{name} is a function: {name}(...)")
        raise self.error(suggest("variable", name, list(self.columns)))

    def fold(self, node: ast.expr, function: Callable, *operands: float | None) -> float | None:
        """function(operands), which must be finite and real; None where an operand has variables."""
        if None in operands:
            return None
        try:
            value = function(*operands)
        except (ArithmeticError, ValueError):  # log(-1), 0**-1, exp(1000)
            value = math.nan
        if isinstance(value, complex) or not math.isfinite(value):  # (-8)**0.5, 1e400
            raise self.error(f"{self.source(node)} is not a finite real number")
        return value

    def source(self, node: ast.expr) -> str:
        """The part of the text that is this node."""
        return _short(ast.get_source_segment(_python(self.text), node))

    def error(self, what: str) -> ConfigError:
        """The one line of an error in this formula."""
        return ConfigError(f"formula {_short(self.text)}: {what}")
