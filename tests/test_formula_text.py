"""A formula written as text or as LaTeX keeps the names of its columns, whatever these mean to sympy or to TeX."""

import re

import pytest
import sympy

from kanpde.explain import shown
from kanpde.interpret import latex, text

NASTY = ["E", "I", "pi", "S", "N", "O", "Q", "C", "zoo", "oo", "nan", "beta", "gamma", "lambda", "sin", "Abs", "Max"]
NASTY += ["Symbol", "Integer", "Float", "Function", "True", "None", "if", "print", "e", "j", "1e5", "1j", "0x1"]
NASTY += ["x-1", "x 1", "1x", "x!", "x^2", "x.y", "a,b", "(y)", "{x}", "a:1", "50%", "&", "~", "$x$", "#c", "x_1", "x1"]
NASTY += ["_x", "__x", "a'b", 'a"b', "'''", "a\\b", "a\\", "a\nb", "\t", "θ", "µ", "ﬁ", "x²", "__import__('os')"]


@pytest.mark.parametrize("number", range(len(NASTY)))
def test_sympy_reads_the_same_expression_back(number):
    """Of two symbols by these names, with numbers that the printed digits hold."""
    first, second = sympy.symbols("a b")
    names = NASTY[number], NASTY[(number + 1) % len(NASTY)]
    x, y = map(sympy.Symbol, names)
    expr = sympy.pi * first**2 / second + 1.5 * sympy.sin(first) * sympy.exp(-second) - sympy.sqrt(first + 2) / 3
    expr = expr.xreplace({first: x, second: y})
    found = sympy.sympify(text(expr).strip())
    assert {symbol.name for symbol in found.free_symbols} == set(names)
    assert abs((found - expr).subs({x: 0.3, y: 0.7}).evalf()) < 1e-12


def test_names_that_sympy_takes_for_symbols_stay_as_they_are():
    expr = sympy.Symbol("speed") ** 2 / sympy.Symbol("x1") + sympy.Symbol("θ_0")
    assert text(expr) == str(expr)


def test_nothing_in_a_name_is_executed(capsys):
    assert text(sympy.Symbol("print('here')")) == """Symbol("print('here')")"""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "name", [name for name in NASTY if not re.fullmatch(r"[A-Za-z]|pi|beta|gamma|lambda|x_?1", name)]
)
def test_names_in_latex_are_text_without_commands(name):
    tex = latex(sympy.Symbol(name) + 1)
    (inner,) = re.fullmatch(r"\\text\{(.*)\} \+ 1", tex).groups()
    left = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater)\{\}|\\[#$%&_{}]", "", inner)
    assert not re.search(r"[\\~^#$%&_{}<>\n\t]", left)


def test_two_names_that_would_look_the_same_are_text():
    x1, x_1 = sympy.symbols("x1 x_1")
    assert latex(x1) == latex(x_1) == "x_{1}"
    assert shown.tex(x1, ["x1", "x_1"], "y") == r"y = \text{x1}"
    assert shown.tex(x_1, ["x1", "x_1"], "y") == r"y = \text{x\_1}"
