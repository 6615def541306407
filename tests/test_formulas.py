"""Formulas against direct evaluation, autograd and sympy; random trees printed and read back; bad input."""

import math
import operator
import pickle
import time

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kanpde.ground.errors import ConfigError
from kanpde.problems.formulas import FUNCTIONS, MAX_DEPTH, Formula, symbols


def value(text: str, **at: float) -> float:
    x = torch.tensor([list(at.values())], dtype=torch.float64)
    return Formula.parse(text, list(at))(x).item()


# ---------------------------------------------------------------------------------------------------------------
# The language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-x**2", -9.0),
        ("2*x^2 + 1", 19.0),  # ^ binds like a power, not like Python's exclusive or
        ("2^x^2", 512.0),
        ("x - 2 - 1", 0.0),
        ("x/2/3", 0.5),
        ("2**-x", 0.125),
        (" x\n + 1 ", 4.0),
        ("+x - -x", 6.0),
        ("1.5e1*x", 45.0),
        ("pi", math.pi),
        ("sin(pi/x)", math.sin(math.pi / 3)),
        ("abs(-x) + abs(-2)", 5.0),
        ("(x - 5)**2", 4.0),
        ("(x - 5)**(x - 3)", 1.0),
    ],
)
def test_precedence_signs_and_constants(text, expected):
    assert value(text, x=3.0) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_the_one_of_its_name_for_tensors_constants_and_sympy(name):
    spelled = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log", "abs": "fabs"}
    expected = getattr(math, spelled.get(name, name))(0.4)
    assert value(f"{name}(x)", x=0.4) == pytest.approx(expected, rel=1e-15)
    assert value(f"{name}(0.4)", x=7.0) == pytest.approx(expected, rel=1e-15)
    exact = Formula.parse(f"{name}(x)", ["x"]).sympy().subs(symbols(["x"])[0], sympy.Rational(2, 5))
    assert float(exact) == pytest.approx(expected, rel=1e-14)


def test_names_that_mean_something_elsewhere_are_variables():
    names = ["C", "I", "gamma", "beta", "E", "S", "N", "Q", "pi", "lambd", "exp"]
    x = torch.arange(1.0, 12.0, dtype=torch.float64)[None]
    f = Formula.parse("C + 2*I + 3*gamma + 4*beta + 5*E + 6*S + 7*N + 8*Q + 9*pi + 10*lambd + 11*exp", names)
    assert f(x).item() == sum(k * k for k in range(1, 12))
    assert f.sympy().free_symbols == set(symbols(names)) and {s.name for s in symbols(names)} == set(names)
    assert value("exp(exp)", exp=2.0) == pytest.approx(math.exp(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_device_shape_and_constants_in_float64(dtype):
    f = Formula.parse("x*(1/3 - 0.3333) + 0*y", ["x", "y"])
    y = f(torch.ones(4, 2, dtype=dtype))
    assert y.dtype == dtype and y.shape == (4,)
    # the difference of two float32 numbers would be wrong by 1e-4 of it
    assert y.double() == pytest.approx(torch.full((4,), 1 / 3 - 0.3333, dtype=torch.float64), rel=1e-6)
    on_meta = f(torch.ones(4, 2, dtype=dtype, device="meta"))
    assert on_meta.device.type == "meta" and on_meta.shape == (4,)
    constant = Formula.parse("2*pi", ["x"])(torch.zeros(3, 1, dtype=dtype))
    assert constant.dtype == dtype and constant.shape == (3,) and constant[0].item() == pytest.approx(2 * math.pi)


def test_gradients_are_those_of_sympy():
    f = Formula.parse("a**2*sin(b)/sqrt(c) - exp(-a*b)*ln(c)", ["a", "b", "c"])
    x = (torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(f(x).sum(), x)
    variables = symbols(f.names)
    for i, v in enumerate(variables):
        expected = sympy.lambdify(variables, sympy.diff(f.sympy(), v), "numpy")(*x.detach().numpy().T)
        torch.testing.assert_close(gradient[:, i], torch.from_numpy(expected), rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(f, x[:3].detach().requires_grad_())


def test_sympy_is_exact_and_compares():
    x, y = symbols(["x", "y"])
    assert Formula.parse("0.5*x + 1/3", ["x"]).sympy() == x / 2 + sympy.Rational(1, 3)
    assert Formula.parse("pi*x^2", ["x"]).sympy() == sympy.pi * x**2
    assert Formula.parse("sqrt(x**2)", ["x"]).sympy() == sympy.Abs(x)
    assert Formula.parse("(x + y)**2", ["x", "y"]).sympy().equals(x**2 + 2 * x * y + y**2)
    assert not Formula.parse("(x + y)**2", ["x", "y"]).sympy().equals(x**2 + 3 * x * y + y**2)


def test_a_formula_is_a_value():
    f = Formula.parse("x  *  y", ["x", "y"])
    assert f == Formula.parse("x * y", ("x", "y")) and hash(f) == hash(Formula.parse("x * y", ("x", "y")))
    assert f != Formula.parse("x * y", ("y", "x")) and (f.text, f.names) == ("x * y", ("x", "y"))
    x = torch.tensor([[2.0, 3.0]])
    assert pickle.loads(pickle.dumps(f))(x).item() == 6.0


def test_the_deepest_and_longest_formulas_work():
    sum_of_x = Formula.parse("+".join(["x"] * MAX_DEPTH), ["x"])
    assert sum_of_x(torch.tensor([[0.5]])).item() == MAX_DEPTH / 2
    assert sum_of_x.sympy() == MAX_DEPTH * symbols(["x"])[0]
    assert Formula.parse("(2*x)**1000", ["x"]).sympy() == 2**1000 * symbols(["x"])[0] ** 1000


# ---------------------------------------------------------------------------------------------------------------
# Random trees, printed with no more parentheses than needed, are read back as the same tree

BINARY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow}
BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "**": 4}
UNARY = ["neg", "sin", "cos", "exp", "sqrt", "log", "tanh", "abs", "atan"]
NUMBERS = ["1", "2", "0.5", "3", "1e-3", "0", "pi"]


def grow(trees):
    return st.one_of(
        st.tuples(st.sampled_from(["+", "-", "*", "/"]), trees, trees),
        st.tuples(st.just("**"), trees, st.sampled_from(["2", "3", "0.5", "x", ("neg", "1"), ("**", "2", "y")])),
        st.tuples(st.sampled_from(UNARY), trees),
    )


TREES = st.recursive(st.sampled_from(["x", "y", *NUMBERS]), grow, max_leaves=8)


def printed(tree, least: int, draw) -> str:
    """The text, in parentheses if the tree binds less than `least` or at random."""
    if isinstance(tree, str):
        text, binds = tree, 5
    elif tree[0] == "neg":
        text, binds = "-" + printed(tree[1], 3, draw), 3
    elif tree[0] in BINARY:
        op, binds = tree[0], BINDS[tree[0]]
        left, right = (5, 3) if op == "**" else (binds, binds + 1)
        sign = draw(st.sampled_from(["**", "^"])) if op == "**" else op
        blank = draw(st.sampled_from(["", " "]))
        text = blank.join([printed(tree[1], left, draw), sign, printed(tree[2], right, draw)])
    else:
        return f"{tree[0]}({printed(tree[1], 0, draw)})"
    return f"({text})" if binds < least or draw(st.integers(0, 9)) == 0 else text


class Refused(Exception):
    """A constant that is no finite real number."""


def direct(tree, x, y):
    """The value by torch's functions of tensors and math's of floats."""
    if isinstance(tree, str):
        return {"x": x, "y": y, "pi": math.pi}[tree] if tree in ("x", "y", "pi") else float(tree)
    operands = [direct(t, x, y) for t in tree[1:]]
    if tree[0] == "/" and isinstance(operands[1], float) and operands[1] == 0:
        raise Refused
    if any(isinstance(z, torch.Tensor) for z in operands):
        return (BINARY[tree[0]] if tree[0] in BINARY else getattr(torch, tree[0]))(*operands)
    try:
        named = {"neg": operator.neg, "abs": abs} | BINARY
        result = (named[tree[0]] if tree[0] in named else getattr(math, tree[0]))(*operands)
    except (ArithmeticError, ValueError):
        raise Refused from None
    if isinstance(result, complex) or not math.isfinite(result):
        raise Refused
    return result


@settings(max_examples=300, deadline=None)
@given(tree=TREES, data=st.data())
def test_random_trees(tree, data):
    text = printed(tree, 0, data.draw)
    xy = torch.tensor([[0.3, 1.7], [-1.2, 0.6], [2.5, -0.4], [0.0, 1.0]], dtype=torch.float64)
    try:
        expected = direct(tree, *xy.unbind(1))
    except Refused:
        with pytest.raises(ConfigError, match="not a finite real number|divides by zero"):
            Formula.parse(text, ["x", "y"])
        return
    expected = expected if isinstance(expected, torch.Tensor) else torch.full((4,), expected, dtype=torch.float64)
    torch.testing.assert_close(Formula.parse(text, ["x", "y"])(xy), expected, rtol=0, atol=0, equal_nan=True)


# ---------------------------------------------------------------------------------------------------------------
# Bad input

BAD = [
    ("", "empty"),
    (3, "is text, given is 3"),
    ("x +", "invalid syntax at the end"),
    ("x y", "invalid syntax at character 3"),
    ("2x", "invalid decimal literal"),
    ("sin(x", "was never closed"),
    ("x)", "unmatched"),
    ("x***2", "invalid syntax"),
    ("z*x", "unknown variable 'z'"),
    ("thetta", "did you mean theta?"),
    ("sine(x)", "unknown function 'sine'; did you mean sin?"),
    ("x(theta)", "x is a variable, no function"),
    ("2(x)", "'2' is no function"),
    ("sin + x", "sin is a function"),
    ("sin()", "takes one argument, given are 0"),
    ("sin(x, x)", "takes one argument, given are 2"),
    ("log(**x)", "takes one argument"),
    ("log(x, **x)", "takes one argument, given are 2"),
    ("exp(*x)", "'*x' is not allowed"),
    ("x.real", "'x.real' is not allowed"),
    ("x[0]", "'[' is not allowed"),
    ("x if x else x", "is not allowed"),
    ("x or x", "is not allowed"),
    ("not x", "is not allowed"),
    ("x, x", "is not allowed"),
    ("()", "is not allowed"),
    ("x // 2", "is not allowed"),
    ("x % 2", "'%' is not allowed"),
    ("x < 2", "'<' is not allowed"),
    ("x # 2", "'#' is not allowed"),
    ("lambda x: x", "':' is not allowed"),
    ("__import__('os')", "is not allowed"),
    ("sin(x for x in x)", "is not allowed"),
    ("await x", "is not allowed"),
    ("2j*x", "'2j' is not allowed"),
    ("True", "is not allowed"),
    ("...", "is not allowed"),
    ("x\0", "is not allowed"),
    ("1/0", "divides by zero"),
    ("x/(2 - 2)", "divides by zero"),
    ("log(-1)*x", "'log(-1)' is not a finite real number"),
    ("(-8)^(1/3)", "'(-8)**(1/3)' is not a finite real number"),
    ("exp(1000)", "not a finite real number"),
    ("1e400*x", "'1e400' is not a finite real number"),
    ("1" * 3000, "not a finite real number"),
    ("arcsin(2)", "not a finite real number"),
    ("9**9**9", "a power of 3.8742e+08"),
    ("x**2000", "a power of 2000"),
    ("((2*x)**100)**100", "a power of 10000"),
    ("sqrt((2*x)**900)**900", "a power of 810000"),
    ("-" * 3000 + "x", "nested deeper than 200"),
    ("+".join(["x"] * 201), "nested deeper than 200"),
    ("2^-" * 1200 + "x", "nested deeper than 200"),
    ("(" * 300 + "x" + ")" * 300, "too many nested parentheses"),
    ("+".join(["x"] * 3000), "5999 characters"),
    ("log(" + "-".join(["1"] * 190) + ")", "not a finite real number"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[str(text)[:20] for text, _ in BAD])
def test_bad_formulas_are_refused_in_one_line(text, message):
    start = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        Formula.parse(text, ["x", "theta"])
    line = str(caught.value)
    assert message in line and "\n" not in line and len(line) < 400
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("names", [["x", "x"], ["a b"], ["lambda"], ["1x"], [""], [3]])
def test_bad_names_of_variables(names):
    with pytest.raises(ConfigError, match="name"):
        Formula.parse("1", names)


@pytest.mark.parametrize("x", [torch.zeros(3), torch.zeros(3, 1), torch.zeros(3, 2, dtype=torch.int64)])
def test_bad_points(x):
    with pytest.raises(ConfigError, match=r"needed is a floating point \(N, 2\): x, y"):
        Formula.parse("x + y", ["x", "y"])(x)
