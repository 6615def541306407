"""The formula that a network of formulas is, in sympy; its values in torch, and whether it agrees with a function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from operator import add, mul
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import errors
from kanpde.interpret.network import EdgeNetwork, Symbolic
from kanpde.interpret.snap import check_snappable

if TYPE_CHECKING:
    import sympy


GREEK = "alpha beta gamma delta epsilon zeta eta theta kappa lambda mu nu xi pi rho sigma tau phi chi psi omega".split()
TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
TEX |= {"<": r"\textless{}", ">": r"\textgreater{}"} | {sign: f"\\{sign}" for sign in "#$%&_{}"}


def expression(network: EdgeNetwork, names: Sequence[str], output: int = 0) -> sympy.Expr:
    """Output number `output` of a network whose edges are all formulas, in its inputs by these names.

    The maps between the units of the data and the network's are part of it; its constants are floats.

    Raises:
        ConfigError: numeric edges that are left, or another number of names.
    """
    import sympy

    check_snappable(network)
    numeric = [edge for edge, kind in network.edges() if not isinstance(kind, Symbolic)]
    if numeric:
        raise ConfigError(f"an expression needs edges that are all formulas; numeric (layer, input, output): {numeric}")
    if len(names) != network.widths[0]:
        raise ConfigError(f"a network {list(network.widths)} takes {network.widths[0]} names, given {list(names)}")
    z = _mapped(network.before, [sympy.Symbol(name) for name in names])
    for layer in network.layers:
        nodes = [sympy.Float(b) for b in layer.bias.tolist()]
        for i, o, edge in layer.present():
            a, b, c = (sympy.Float(getattr(edge, name).item()) for name in "abc")
            nodes[o] += a * edge.function.sympy(sympy, sympy.expand_mul(b * z[i] + c))
        z = nodes
    return _mapped(network.after, z)[output]


def _mapped(affine, z: list) -> list:
    """scale z + shift; factors of 1 and summands of 0 leave no trace."""
    import sympy

    number = lambda value: sympy.Integer(int(value)) if value in (0.0, 1.0) else sympy.Float(value)
    pairs = zip(affine.scale.expand(len(z)).tolist(), affine.shift.expand(len(z)).tolist(), strict=True)
    return [sympy.expand_mul(number(scale) * t + number(shift)) for t, (scale, shift) in zip(z, pairs, strict=True)]


TORCH = {  # names of functions in sympy that torch does not know, or by another name
    "Abs": torch.abs,
    "asin": torch.arcsin,
    "acos": torch.arccos,
    "atan": torch.arctan,
    "asinh": torch.arcsinh,
    "acosh": torch.arccosh,
    "atanh": torch.arctanh,
    "cot": lambda u: 1 / torch.tan(u),
    "sec": lambda u: 1 / torch.cos(u),
    "csc": lambda u: 1 / torch.sin(u),
    "coth": lambda u: 1 / torch.tanh(u),
    **{name: getattr(torch, name) for name in ("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sign")},
}


def evaluate(expr: sympy.Expr, values: Mapping[sympy.Symbol, Tensor]) -> Tensor:
    """The value of an expression where its symbols have these values; shapes are broadcast.

    Raises:
        ConfigError: a symbol without a value, or a function that torch does not have.
    """
    if expr in values:
        return values[expr]
    if expr.is_number:
        return torch.tensor(float(expr) if expr.is_real else float("nan"), dtype=torch.float64)
    if expr.is_Symbol:
        raise ConfigError(f"no value for {expr} (known: {', '.join(map(str, values))})")
    if expr.is_Pow and expr.exp.is_number:
        return evaluate(expr.base, values) ** (int(expr.exp) if expr.exp.is_Integer else float(expr.exp))
    args = [evaluate(arg, values) for arg in expr.args]
    if expr.is_Add or expr.is_Mul:
        return reduce(add if expr.is_Add else mul, args)
    if expr.is_Pow:
        return args[0] ** args[1]
    name = type(expr).__name__
    if name not in TORCH:
        raise ConfigError(f"no value of the function {name} (known: {', '.join(sorted(TORCH))})")
    return TORCH[name](*args)


def values_at(expr: sympy.Expr, names: Sequence[str], x: Tensor) -> Tensor:
    """The expression at x (N, d) in float64, (N,)."""
    import sympy

    symbols = {sympy.Symbol(name): column for name, column in zip(names, x.double().unbind(1), strict=True)}
    return evaluate(expr, symbols).expand(len(x))


def agrees(
    expr: sympy.Expr,
    function: Callable[[Tensor], Tensor],
    names: Sequence[str],
    ranges: Sequence[tuple[float, float]],
    n: int,
    generator: torch.Generator,
    tolerance: float = 1e-9,
) -> bool:
    """Whether |expr - function| <= tolerance |function| (l2) on n fresh points, uniform in the ranges.

    Args:
        function: (N, d) -> (N,) or (N, 1).
        names, ranges: of the d inputs.
    """
    low, high = torch.tensor(ranges, dtype=torch.float64).unbind(1)
    x = low + (high - low) * torch.rand(n, len(low), generator=generator, dtype=torch.float64)
    return errors(values_at(expr, names, x), function(x).reshape(n))["rel_l2"] <= tolerance


def text(expr: sympy.Expr) -> str:
    """The expression as sympy prints it, such that `sympy.sympify` reads the same one back.

    A name that sympy reads as something else (E, pi, beta, lambda, x-1) is written as Symbol('x-1').
    """
    from sympy.printing.str import StrPrinter

    class Printer(StrPrinter):
        def _print_Symbol(self, symbol):
            return symbol.name if _is_plain(symbol.name) else f"Symbol({symbol.name!r})"

    return Printer().doprint(expr)


def _is_plain(name: str) -> bool:
    """Whether sympy reads a name as the symbol of that name; nothing but a name is tried, for reading evaluates."""
    import sympy

    if not name.isidentifier():
        return False
    try:
        return sympy.sympify(name) == sympy.Symbol(name)
    except Exception:  # keywords of Python, names that sympy uses: what is raised depends on its version
        return False


def latex(expr: sympy.Expr, digits: int = 4, names: Sequence[str] = ()) -> str:
    """LaTeX with so many digits of the floats; names that are no symbols, such as those of columns, are text.

    Args:
        names: of other symbols that it stands beside; where x1 and x_1 would look the same, both are text.
    """
    import sympy

    rounded = {f: sympy.Float(f, digits) for f in expr.atoms(sympy.Float)}
    shown = _tex_names({*names, *(symbol.name for symbol in expr.free_symbols)})
    symbols = {symbol: sympy.Symbol(shown[symbol.name]) for symbol in expr.free_symbols}
    return sympy.latex(expr.xreplace(rounded | symbols))


def _tex_names(names: Iterable[str]) -> dict[str, str]:
    r"""Letters, Latin or Greek, with or without an index stay what they are to sympy, others become \text{...}."""
    import sympy

    stem = "|".join(["[A-Za-z]", *GREEK])
    drawn = {n: sympy.latex(sympy.Symbol(n)) for n in names if re.fullmatch(rf"({stem})(_[A-Za-z0-9]+|[0-9]+)?", n)}
    alone = {name for name, tex in drawn.items() if list(drawn.values()).count(tex) == 1}
    return {name: name if name in alone else _tex_text(name) for name in names}


def _tex_text(name: str) -> str:
    r"""\text{...} with the signs escaped that TeX reads as commands."""
    escaped = re.sub(r"[\\~^#$%&_{}<>]", lambda sign: TEX[sign.group()], " ".join(name.split()))
    return f"\\text{{{escaped}}}"
