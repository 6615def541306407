"""Formulas found from rows: closed forms come back exactly, symmetries reduce data exactly, noise is no formula."""

from fractions import Fraction
from math import pi

import pytest
import sympy
import torch
from conftest import F64, call, close, generator, one_line

from kanpde.config import load
from kanpde.ground.errors import ConfigError
from kanpde.interpret.expression import values_at
from kanpde.problems import Feynman
from kanpde.problems.formulas import Formula
from kanpde.recover import search
from kanpde.recover.recover import recover
from kanpde.recover.separable import OUTER, Reading, Splines, edge_readings, product_of, readings, sum_of
from kanpde.recover.symmetry import DIFFERENCE, fitted, monomials, one_sign, paired, peeled, scalings, shifts
from kanpde.recover.trials import RESULT, Task, Trials


def rows(n: int, low: float, high: float, d: int, seed: int = 0) -> torch.Tensor:
    return low + (high - low) * torch.rand(n, d, generator=generator(seed), dtype=F64)


FORMULAS = {  # name: (function, inputs, low, high)
    "monomial": (lambda x: 0.25 / pi * x[:, 0] ** 2 / (x[:, 1] * x[:, 2].sqrt()), 3, 1, 5),
    "sum": (lambda x: x[:, 0] ** 2 - 3 * x[:, 1].log(), 2, 1, 5),
    "product that changes its sign": (lambda x: x[:, 0] * (2 * x[:, 1]).sin(), 2, 1, 5),
    "outer root": (lambda x: (x[:, 0] ** 2 + x[:, 1] ** 2).sqrt(), 2, 1, 5),
    "outer inverse": (lambda x: 1 / (1 / x[:, 0] + 2 * x[:, 1] ** 2), 2, 1, 5),
    "varying": (lambda x: (1 + x[:, 0] * x[:, 1]) / (1 + x[:, 1]), 2, 1, 5),
    "arcsin": (lambda x: (0.19 * x[:, 0] * x[:, 1].cos()).arcsin(), 2, 1, 5),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_closed_form_comes_back_without_a_network(name):
    f, d, low, high = FORMULAS[name]
    names = ["a", "b", "c"][:d]
    x = rows(600, low, high, d)
    found = recover(x, f(x), names, seconds=40)
    fresh = rows(200, low, high, d, seed=1)
    assert found.exact and found.formula.free_symbols <= set(sympy.symbols(names))
    assert not found.formula.has(sympy.Float)  # every number is recognised
    close(values_at(found.formula, names, fresh), f(fresh), 1e-9)
    close(found.model(fresh), f(fresh), 1e-9)
    assert not any("KAN" in step for step in found.steps)


def test_scalings_of_a_network_lead_to_the_formula():
    f = lambda x: x[:, 0] / (1 - x[:, 1] ** 2 / x[:, 2] ** 2).sqrt()
    x = rows(800, 1, 2, 3) * torch.tensor([1.0, 1.0, 3.0], dtype=F64)
    found = recover(x, f(x), ["m", "v", "c"], seconds=60)
    assert found.exact and any("KAN" in step for step in found.steps)
    fresh = rows(200, 1, 2, 3, seed=1) * torch.tensor([1.0, 1.0, 3.0], dtype=F64)
    close(values_at(found.formula, ["m", "v", "c"], fresh), f(fresh), 1e-9)


def test_noise_is_no_formula_and_time_is_kept():
    x = rows(300, 1, 5, 2)
    y = torch.randn(300, generator=generator(3), dtype=F64)
    state = torch.get_rng_state()
    found = recover(x, y, ["a", "b"], seconds=3)
    assert not found.exact and found.model_error > 0.5
    assert found.seconds < 15
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("x", "y", "names", "seconds"),
    [
        (torch.ones(100, 2), torch.ones(99), ["a", "b"], 1),
        (torch.ones(100, 2), torch.ones(100), ["a"], 1),
        (torch.ones(10, 2), torch.ones(10), ["a", "b"], 1),
        (torch.full((100, 2), torch.nan), torch.ones(100), ["a", "b"], 1),
        (torch.ones(100, 2), torch.ones(100), ["a", "b"], 0),
    ],
)
def test_bad_input_is_named_in_one_line(x, y, names, seconds):
    with pytest.raises(ConfigError, match="recover takes") as info:
        recover(x, y, names, seconds)
    one_line(info)


# ---------------------------------------------------------------------------------------------------------------
# Symmetries


class Exact:
    """What `Fitted` says, of a function known exactly, with its slopes by automatic differentiation."""

    sign = 0.0

    def __init__(self, f):
        self.f = f

    def slopes(self, x):
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.f(z).sum(), z)
        return slope * x, self.f(x)


def test_scalings_reduce_the_data_to_invariants():
    f = lambda x: x[:, 0] ** 2 / x[:, 3] * (x[:, 1] / x[:, 2]).sin()
    x, symbols = rows(300, 1, 3, 4), sympy.symbols("a b c d")
    reduction = next(iter(scalings(x, f(x), Exact(f), symbols)))
    assert reduction.x.shape[1] == 1  # three scalings of four inputs
    t = reduction.x[:, 0]
    ratio = x[:, 1] / x[:, 2]
    assert min((t - ratio).abs().max(), (t - 1 / ratio).abs().max()) < 1e-12
    names = ["a", "b", "c", "d"]
    close(values_at(reduction.inputs[0], names, x), t, 1e-12)
    close(values_at(reduction.factor, names, x) * reduction.y, f(x), 1e-12)
    close(reduction.y, ratio.sin(), 1e-12)


def test_shifts_find_differences_and_no_others():
    f = lambda x: (x[:, 0] - x[:, 1]) ** 2 + (x[:, 2] + x[:, 3]).exp()
    x, symbols = rows(300, 0, 1, 4), sympy.symbols("a b c d")
    reduction = next(iter(shifts(x, f(x), Exact(f), symbols)))
    a, b, c, d = symbols
    assert set(reduction.inputs) == {a - b, c + d}
    other = lambda x: (x[:, 0] - 2 * x[:, 1]) ** 2
    assert not list(shifts(x[:, :2], other(x), Exact(other), symbols[:2]))


def test_powers_are_peeled_off():
    x, symbols = rows(400, 1, 5, 3), sympy.symbols("a b c")
    edges = torch.stack([x[:, 0] ** 2, x[:, 1] * (1 + 0.5 * (4 * x[:, 1]).sin()), x[:, 2] ** -1], 1)
    reduction = next(iter(peeled(x, edges.prod(1), edges, symbols)))
    assert reduction.inputs == (symbols[1],)
    assert sympy.simplify(reduction.factor - symbols[0] ** 2 / symbols[2]) == 0
    close(reduction.y, edges[:, 1], 1e-12)


def test_monomials_and_pairs_have_the_values_they_name():
    x, symbols, names = rows(50, 1, 5, 3), sympy.symbols("a b c"), ["a", "b", "c"]
    found = list(monomials(x, x[:, 0], symbols))
    assert len(found) == 10  # 3 pairs with 2 signs, and 4 products of three
    for r in [*found, paired(x, x[:, 0], symbols, [(0, 2, DIFFERENCE)], keep=True)]:
        for expr, column in zip(r.inputs, r.x.unbind(1), strict=True):
            close(values_at(expr, names, x), column, 1e-13)


def test_one_sign_needs_comparable_sizes():
    assert one_sign(torch.tensor([1.0, 2.0])) == 1 and one_sign(torch.tensor([-1.0, -2.0])) == -1
    assert one_sign(torch.tensor([1.0, -2.0])) == 0 and one_sign(torch.tensor([1e-9, 1.0])) == 0


def test_slopes_of_a_network_are_those_of_the_function():
    x = rows(500, 1, 3, 2)
    y = -(x[:, 0] ** 2) * x[:, 1]
    model = fitted(x, y, torch.arange(500) % 5 == 0, generator())
    scaled, one = model.slopes(x)
    assert model.sign == -1 and model.error < 1e-2
    close(one, torch.ones(500, dtype=F64), 1e-12)
    assert (scaled - torch.tensor([2.0, 1.0], dtype=F64)).abs().mean() < 0.02


# ---------------------------------------------------------------------------------------------------------------
# Splines


@pytest.fixture
def splines():
    x = rows(800, 1, 5, 2)
    return x, Splines(x, torch.arange(800) % 5 == 0)


def test_sums_products_and_varying_coefficients_are_fitted(splines):
    x, model = splines
    a, b = x.unbind(1)
    ((edges, error),) = model.additive([a.sin() + b.log()])
    assert error < 1e-4
    close(edges[:, 0] - edges[:, 0].mean(), a.sin() - a.sin().mean(), 1e-2)
    assert model.additive([a * b])[0][1] > 0.1
    edges, error = model.product(a.sin() * b**2)
    assert error < 1e-4 and abs(torch.corrcoef(torch.stack([edges[:, 0], a.sin()]))[0, 1]) > 0.9999
    assert model.product(a + b**2 * a.sin())[1] > 1e-2
    ((edges, error),) = model.varying([torch.ones_like(b), b], 0, [a.sin() + b / a])
    assert error < 1e-4
    close(edges[:, 1], 1 / a, 2e-2)


def test_edges_are_read_also_as_functions_of_functions():
    t = torch.linspace(1.2, 4, 300, dtype=F64)
    best = edge_readings(t, -1 / (1 - 1 / t**2).sqrt())[0]
    u = sympy.Symbol("u")
    close(values_at(best.expr(u), ["u"], t[:, None]), -1 / (1 - 1 / t**2).sqrt(), 1e-6)
    assert edge_readings(t, t.log())[0].candidate.name == "log"


def test_sums_and_products_of_readings_have_the_values_of_their_edges():
    x = rows(300, 1, 5, 2)
    edges = torch.stack([-2 * x[:, 0].log() + 1, 3 / (x[:, 1] + 1)], 1)
    u = sympy.symbols("u v")
    found = next(readings(x, edges))
    assert all(isinstance(r, Reading) and r.outer is OUTER[0] for r in found)
    close(values_at(sum_of(found, u), ["u", "v"], x), edges.sum(1), 1e-8)
    close(values_at(product_of(found, u), ["u", "v"], x), edges.prod(1), 1e-8)


@pytest.mark.parametrize("h", OUTER, ids=lambda h: h.name)
def test_outer_functions_are_undone(h):
    y = torch.tensor([0.3, 0.9, 1.4], dtype=F64)
    t = sympy.Symbol("t")
    close(values_at(h.back(sympy, t), ["t"], h.torch(y)[:, None]), y, 1e-12)


def test_exponents_are_round():
    from kanpde.recover.symmetry import _rounded

    assert _rounded(0.98) == 1 and _rounded(-0.51) == Fraction(-1, 2)


def test_the_command_prints_the_formula_of_a_fit(capsys, tmp_path):
    a, b = rows(300, 1, 2, 2).unbind(1)
    table = torch.stack([a, b, 3 * a**2 / b], 1).tolist()
    (tmp_path / "rows.csv").write_text("a,b,E\n" + "".join(f"{','.join(map(repr, row))}\n" for row in table))
    code, out, err = call(capsys, "recover", "data", "--set", f"problem.file={tmp_path / 'rows.csv'}")
    assert (code, err) == (0, "")
    found = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert sympy.simplify(sympy.sympify(found["formula"]) - sympy.sympify("3*a**2/b")) == 0
    assert r"\frac{3 a^{2}}{b}" in found["LaTeX"]
    assert float(out.split("relative l2")[1].split()[0]) < 1e-12


@pytest.mark.parametrize(
    "given, says",
    [
        (["poisson"], "recover: given poisson, needed is a problem that fits rows: feynman"),
        (["feynman", "--seconds", "0"], "recover takes seconds above 0, given 0"),
        (["feynman", "--set", "points.interior=20"], "given 20 training rows, needed are at least 50"),
    ],
)
def test_the_command_refuses_in_one_line(capsys, given, says):
    code, _, err = call(capsys, "recover", *given)
    assert code == 2 and says in err and len(err.splitlines()) == 1


def test_the_command_says_where_nothing_was_found(capsys):
    code, out, _ = call(capsys, "recover", "feynman", "--seconds", "1e-6")
    assert (code, out) == (0, "no formula in 0 s\n")


@pytest.mark.parametrize("formula, right", [("1/x1", "1/x1"), ("3 + 0*x1", "3")])
def test_one_input_of_any_kind(formula, right):
    x = rows(400, -1, 1, 1)
    found = recover(x, Formula.parse(formula, ["x1"])(x), ["x1"], 20)
    assert sympy.simplify(found.formula - sympy.sympify(right)) == 0


@pytest.mark.parametrize("error, kept", [(1.5, False), (0.5, True)])
def test_a_formula_worse_than_zero_is_none(monkeypatch, error, kept):
    x, said, u = rows(100, 1, 2, 1), [], sympy.Symbol("u0")
    trial = Trials(x, x[:, 0], ["a"], 20, generator(0), lambda expr, error: said.append(error))
    monkeypatch.setattr(trial, "error_of_formula", lambda expr: error)
    trial.offer(Task(x, x[:, 0], (sympy.Symbol("a"),), sympy.Symbol(RESULT)), u, OUTER[0])
    assert said == [error] * kept and (trial.found.formula is not None) == kept


def test_numbers_that_cannot_be_squared_are_refused():
    with pytest.raises(ConfigError, match="recover takes numbers up to 1e"):
        recover(rows(60, 0, 1, 1), torch.full((60,), 1e200, dtype=torch.float64), ["a"])


@pytest.mark.parametrize("formula, says", [("x1*x2", "formula     x1*x2\n"), (None, "s\ninterrupted\n")])
def test_ctrl_c_leaves_the_best_so_far(capsys, monkeypatch, formula, says):
    def recover(x, y, names, seconds, generator, say):
        if formula:
            say(sympy.sympify("x1"), 0.5)
            say(sympy.sympify(formula), 0.1)
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "recover", recover)
    given = ["problem.formula=x1*x2 + 0.1*x1", "problem.ranges={x1: [1, 2], x2: [1, 2]}"]
    code, out, err = call(capsys, "recover", "function", "--set", given[0], "--set", given[1])
    assert (code, err) == (130, "") and says in out and "interrupted" in out
    assert not formula or 0.01 < float(out.split("relative l2")[1].split()[0]) < 1


def test_a_search_sees_the_rows_that_the_configuration_draws(monkeypatch):
    seen = []
    monkeypatch.setattr(search, "recover", lambda x, y, *_: seen.append((x, y)) or search.Recovery())
    drawn = {"interior": 32, "law": "arcsine", "sequence": "sobol"}
    config = load("feynman", "fit", {"problem": {"equation": "I.12.5"}, "points": drawn})
    search.search(config, 1.0, lambda *_: None)
    ((x, y),) = seen
    rows = Feynman(equation="I.12.5").domain.interior(32, generator(), "arcsine", "sobol", dtype=F64)
    assert torch.equal(x, rows[:, :2]) and torch.equal(y, rows[:, 2])
