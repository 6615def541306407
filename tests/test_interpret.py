"""A KAN taken apart is the same function; formulas that are in it are found again, and nothing is lost silently."""

import signal
import sys
import time
from itertools import pairwise
from math import pi

import pytest
import torch
from conftest import F64, close, generator, one_line, points
from torch import Tensor, nn
from torch.func import jacrev

from kanpde import backbones
from kanpde.ground.errors import ConfigError
from kanpde.interpret import (
    FUNCTIONS,
    EdgeNetwork,
    Symbolic,
    Tolerance,
    agrees,
    error,
    evaluate,
    expression,
    fit,
    fit_edge,
    latex,
    prune,
    refine,
    simplify,
    snap,
    suggest_edge,
)
from kanpde.interpret.fitting import least_squares
from kanpde.interpret.prune import cut
from kanpde.interpret.refine import TimeUp, closed_form, recognised, round_numbers, time_limit
from kanpde.interpret.symbolic import score
from kanpde.jets.jet import Affine

sympy = pytest.importorskip("sympy")
FEW = ("x", "x^2", "exp", "log", "sin")


def built(name: str, *dims: int, seed: int = 0, **options) -> nn.Sequential:
    net = backbones.build(name, dims[0], dims[-1], widths=dims[1:-1], generator=generator(seed), **options).double()
    with torch.no_grad():
        for p in net.parameters():  # biases start at 0
            p += 0.1 * torch.randn(p.shape, generator=generator(seed), dtype=F64)
    return net


def of_formulas(*layers: dict, widths: tuple[int, ...], bias: float = 0.0) -> EdgeNetwork:
    """A network of formulas: layers {(i, o): (name, a, b, c)}."""
    network = EdgeNetwork.of(built("kan", *widths, grid_size=3))
    for (number, i, o), _ in list(network.edges()):
        name, *constants = layers[number].get((i, o), ("0", 0, 0, 0))
        network.put((number, i, o), FUNCTIONS[name], *constants, 0.0)
    with torch.no_grad():
        for layer in network.layers:
            layer.bias.fill_(bias)
    return network


def of_splines(*layers: dict, widths: tuple[int, ...], grid_size: int = 8) -> EdgeNetwork:
    """A network of splines fitted to functions on [-1, 1]: layers {(i, o): function}; no other edges."""
    net = built("kan", *widths, grid_size=grid_size)
    t = torch.linspace(-1, 1, 300, dtype=F64)
    for layer, functions in zip(net, layers, strict=True):
        features = layer.basis.features(t.unsqueeze(1).repeat(1, layer.in_features), 0)[0]
        for (i, o), f in functions.items():
            layer.weights.theta.data[i, :, o] = torch.linalg.lstsq(features[:, i], f(t)).solution
    network = EdgeNetwork.of(net)
    for (number, i, o), _ in list(network.edges()):
        if (i, o) not in layers[number]:
            network.remove((number, i, o))
    return network


# ---------------------------------------------------------------------------------------------------------------
# The network


@pytest.mark.parametrize(
    "name", ["kan", "metakan", "fastkan", "wavkan", "metawavkan", "chebykan", "gramkan", "fourierkan"]
)
@pytest.mark.parametrize("bias", [False, True])
def test_taken_apart_it_is_the_same_function(name, bias):
    net, x = built(name, 3, 4, 2, bias=bias), points(50, 3)
    scaled = nn.Sequential(
        Affine(torch.tensor([0.5, 1.0, 2.0], dtype=F64), torch.tensor([0.1, 0.0, -0.2], dtype=F64)),
        *net,
        Affine(torch.tensor([3.0, -1.0], dtype=F64), torch.tensor([0.0, 7.0], dtype=F64)),
    )
    close(EdgeNetwork.of(net)(x), net(x), 1e-13)
    close(EdgeNetwork.of(scaled)(x), scaled(x), 1e-13)


def test_activations_are_what_the_layers_compute():
    net, x = built("kan", 3, 4, 2), points(50, 3)
    first, second = EdgeNetwork.of(net).activations(x)
    close(second.inputs, net[0](x), 1e-13)
    close(second.edges.sum(1), net(x), 1e-13)
    layer, (features,) = net[0], net[0].basis.features(x, 0)
    close(first.edges, torch.einsum("nic,ico->nio", features, layer.weights.theta), 1e-13)


def test_a_removed_edge_is_missing_and_stays_so():
    network, x = EdgeNetwork.of(built("kan", 2, 3, 1)), points(60, 2)
    whole, edges = network(x), network.activations(x)[1].edges
    network.remove((1, 2, 0), mean=0.25)
    close(network(x), whole - edges[:, 2] + 0.25, 1e-13)
    fit(network, x, x[:, :1] * x[:, 1:], 5)
    assert network.activations(x)[1].edges[:, 2].abs().max() == 0


def test_importance_is_the_share_of_the_deviation():
    line = lambda a: ("x", a, 1.0, 0.0)
    network = of_formulas(
        {(0, 0): line(3.0), (1, 0): line(4.0), (1, 1): line(5.0)}, {(0, 0): line(2.0)}, widths=(2, 2, 1)
    )
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64)  # independent, of one deviation
    found = network.importance(x)
    close(found.edges[0], torch.tensor([[0.6, 0.0], [0.8, 0.0]], dtype=F64), 1e-12)
    close(found.nodes[0], torch.tensor([0.6, 0.8], dtype=F64), 1e-12)
    close(found.nodes[1], torch.tensor([1.0, 0.0], dtype=F64), 1e-12)  # node 1 leads nowhere


def test_importance_goes_back_through_the_layers():
    network, x = EdgeNetwork.of(built("kan", 2, 3, 2)), points(80, 2)
    first, second = network.activations(x)
    found = network.importance(x)
    share = lambda seen: seen.edges.std(0) / seen.edges.sum(1).std(0)
    close(found.nodes[1], share(second).sum(1), 1e-12)
    close(found.edges[0], share(first) * share(second).sum(1), 1e-12)


def test_only_a_kan_can_be_taken_apart():
    with pytest.raises(ConfigError, match="Tanh") as info:
        EdgeNetwork.of(backbones.build("mlp", 2, 1, widths=(4,))[1:])
    one_line(info)


# ---------------------------------------------------------------------------------------------------------------
# Least squares


def test_least_squares_solves_a_linear_problem():
    a, b = points(30, 5), points(30, 1, seed=2)
    model = lambda theta: (a * theta).sum(-1, keepdim=True)
    best = torch.linalg.lstsq(a, b).solution.squeeze(1)
    close(least_squares(model, torch.zeros(5, dtype=F64), b), best, 1e-7)


def test_the_jacobian_is_that_of_automatic_differentiation():
    from kanpde.interpret.fitting import _System

    x, y, start = points(7, 2), points(7, 2, seed=3), points(1, 3, seed=4)[0]
    two = lambda theta: torch.stack(
        [torch.sin(theta[..., 0] * x[:, 0]) + theta[..., 1], theta[..., 2] ** 2 * x[:, 1]], 1
    )
    system = _System(two, start, y)
    ((r, j),) = system.blocks()
    close(r, (two(start) - y).flatten() / y.norm(), 1e-12)
    close(j, jacrev(two)(start).flatten(0, 1) * system.scale / y.norm(), 1e-12)


def test_a_fit_finds_the_constants_of_formulas_and_never_leaves_their_domain():
    x = torch.linspace(0.1, 3, 100, dtype=F64).unsqueeze(1)
    network = of_formulas({(0, 0): ("log", 1.0, 1.0, 0.5)}, widths=(1, 1))
    assert fit(network, x, 2 * torch.log(x) + 1, 100) < 1e-13
    edge = network.layers[0].edge(0, 0)
    assert abs(edge.c) < 1e-10 and abs(edge.a - 2) < 1e-10 and edge.b == 1


def test_a_fit_never_makes_it_worse():
    x = points(40, 2)
    network = EdgeNetwork.of(built("kan", 2, 2, 1, grid_size=3))
    y = torch.randn(40, 1, generator=generator(), dtype=F64)
    errors = [error(network, x, y), *(fit(network, x, y, 12) for _ in range(3))]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.9 * errors[0]


# ---------------------------------------------------------------------------------------------------------------
# One edge

EXACT = {  # arguments b x + c for x in [-1, 1] on which a function is itself and no other
    "x^2": (2.0, 0.5),
    "x^3": (1.5, 0.4),
    "x^4": (1.5, -0.6),
    "1/x": (1.0, 1.5),
    "1/x^2": (-1.0, 1.5),
    "1/x^3": (1.0, -1.4),
    "1/x^4": (1.0, 1.3),
    "sqrt": (2.0, 2.1),
    "1/sqrt": (-2.0, 2.2),
    "exp": (-1.7, 0.3),
    "log": (3.0, 3.1),
    "abs": (1.0, 0.3),
    "sin": (5.0, 1.0),
    "tan": (1.2, 0.2),
    "tanh": (3.0, -1.0),
    "arctan": (5.0, 1.0),
    "arcsin": (0.7, 0.29),
    "arctanh": (0.6, 0.39),
    "gaussian": (2.0, 0.4),
    "1/(1+x^2)": (3.0, 0.5),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_edge_that_is_a_function_is_recognised(name):
    (b, c), f = EXACT[name], FUNCTIONS[name].torch
    x = points(400, 1, reach=1.0)[:, 0] * 0.5 + 3  # the search must not lean on the range
    y = -1.7 * f(b * 2 * (x - 3) + c) + 0.3
    best = fit_edge(x, y)[0]
    assert best.name == name and 1 - best.r2 < 1e-12
    close(best.a * f(best.b * x + best.c) + best.d, y, 1e-7)


def test_a_straight_line_and_a_constant():
    x = points(100, 1)[:, 0]
    assert fit_edge(x, 2 - 3 * x)[0].name == "x"
    assert fit_edge(x, torch.full_like(x, 0.7))[0].name == "0"
    assert fit_edge(torch.full_like(x, 0.7), torch.full_like(x, 3.0))[0].name == "0"


@pytest.mark.parametrize("f", [lambda x: x.sin() + x**2, lambda x: 1 / (x + 0.9), lambda x: torch.tan(2 * x)])
def test_no_fit_has_a_pole_or_leaves_its_domain_on_the_data(f):
    x = torch.linspace(-1, 1, 100, dtype=F64)
    for candidate in fit_edge(x, f(x)):
        assert all(torch.tensor([candidate.a, candidate.b, candidate.c, candidate.d, candidate.r2]).isfinite())
        f = FUNCTIONS[candidate.name]
        ends = torch.tensor([candidate.b * -1 + candidate.c, candidate.b + candidate.c])
        assert f.defined(ends.min(), ends.max()), candidate


def test_the_score_weighs_complexity_against_r2():
    x = torch.linspace(-1, 1, 200, dtype=F64)
    found = fit_edge(x, x + 1e-3 * torch.randn(200, generator=generator(), dtype=F64))
    assert found[0].name == "x" and max(found, key=lambda c: c.r2).name != "x"
    assert [c.score for c in found] == sorted(c.score for c in found)
    assert score(3, 2.0**-8) - score(2, 2.0**-4) == pytest.approx(0, abs=1e-6)  # 1 of complexity is a sixteenth


def test_an_unknown_function_meets_the_nearest():
    with pytest.raises(ConfigError, match="did you mean arctan") as info:
        fit_edge(torch.rand(9), torch.rand(9), ["arctam"])
    one_line(info)


# ---------------------------------------------------------------------------------------------------------------
# Snapping


def parabola() -> tuple[EdgeNetwork, Tensor, Tensor]:
    """sin(3 x0 + x1^2) by splines."""
    network = of_splines(
        {(0, 0): lambda t: 0.6 * t, (1, 0): lambda t: 0.2 * t**2},
        {(0, 0): lambda t: torch.sin(5 * t)},
        widths=(2, 1, 1),
    )
    x = points(200, 2)
    return network, x, torch.sin(3 * x[:, 0] + x[:, 1] ** 2)


def test_every_step_says_the_error_before_and_after():
    network, x, y = parabola()
    start = error(network, x, y.unsqueeze(1))
    snapped, steps = snap(network, x, y, functions=FEW)
    assert steps[0].error_before == start and not any(isinstance(e, Symbolic) for _, e in network.edges())
    for one, two in pairwise(steps):
        assert two.error_before == (one.error_after if one.kept else one.error_before)
    assert snapped.is_symbolic() and error(snapped, x, y.unsqueeze(1)) == steps[-1].error_after < 1e-13
    names = {key: edge.function.name for key, edge in snapped.edges()}
    assert names == {(0, 0, 0): "x", (0, 1, 0): "x^2", (1, 0, 0): "sin"}


def test_a_choice_is_taken_if_it_fits_and_undone_if_not():
    network, x, y = parabola()
    good, (step,) = snap(network, x, y, edges=[], choose={(1, 0, 0): "cos"})
    assert step.kept and good.layers[1].edge(0, 0).function.name == "cos"
    same, (step,) = snap(network, x, y, edges=[], choose={(0, 1, 0): "x"})
    assert not step.kept and step.error_after > 10 * step.error_before and "undone" in str(step)
    close(same(x), network(x), 0)
    same, (step,) = snap(network, x, y, edges=[], choose={(0, 0, 0): "0"})
    assert not step.kept


def test_an_edge_that_is_not_needed_is_taken_out():
    x = points(200, 2)
    wobble = of_splines({(0, 0): lambda t: t, (1, 0): lambda t: 1e-9 * torch.sin(40 * t)}, widths=(2, 1))
    snapped, _ = snap(wobble, x, x[:, 0], functions=FEW)
    assert [key for key, _ in snapped.edges()] == [(0, 0, 0)]


def test_a_wrong_choice_is_revised_when_the_others_are_known():
    """sin near its top is almost x^2: alone, among functions of its layer, it would stay."""
    network = of_formulas(
        {(0, 0): ("sin", 90.0, 0.15, pi / 2), (1, 0): ("x", 2.0, 1.0, 0.0)},
        {(0, 0): ("sin", 1.0, 1.0, -90.0)},
        widths=(2, 1, 1),
    )
    from kanpde.interpret.snap import _Search

    x = points(200, 2)
    y = torch.sin(x[:, :1] ** 2 + 2 * x[:, 1:])
    network.layers[0].edge(0, 0).a.data.neg_()
    network.layers[1].edge(0, 0).c.data.neg_()
    search = _Search(x, y, FEW, 0.95, 0.8, 3, Tolerance(1.5, 1e-6), 30)
    revised, step = search.revised(network, (0, 0, 0))
    assert step.kept and revised.layers[0].edge(0, 0).function.name == "x^2" and step.error_after < 1e-13


def test_what_cannot_be_snapped_is_named():
    network, x, y = parabola()
    for options, message in [
        ({"choose": {(0, 0, 0): "sine"}}, "did you mean sin"),
        ({"edges": [(0, 2, 0)]}, "no edge"),
        ({"functions": ["logg"]}, "did you mean log"),
    ]:
        with pytest.raises(ConfigError, match=message) as info:
            snap(network, x, y, **options)
        one_line(info)
    with pytest.raises(ConfigError, match="takes x") as info:
        snap(network, x[:, :1], y)
    one_line(info)
    normed = EdgeNetwork.of(built("fastkan", 2, 3, 1))
    normed.importance(x)
    with pytest.raises(ConfigError, match="LayerNorm") as info:
        snap(normed, x, y)
    one_line(info)
    assert suggest_edge(network, x, (0, 1, 0), FEW)[0].name == "x^2"


# ---------------------------------------------------------------------------------------------------------------
# Formulas


def test_the_expression_has_the_values_of_the_network():
    network = of_formulas(
        {(0, 0): ("exp", 0.3, 0.7, 0.0), (1, 0): ("1/x^2", 0.2, 1.0, 2.5), (1, 1): ("gaussian", 0.6, 0.7, 0.2)},
        {(0, 0): ("tanh", 0.8, 0.9, -0.2), (1, 0): ("abs", 0.8, 1.0, -0.5), (0, 1): ("arctan", 0.8, 0.9, -0.2)},
        widths=(2, 2, 2),
        bias=0.25,
    )
    network.before = Affine(torch.tensor([0.5, 2.0], dtype=F64), torch.tensor([0.1, 0.0], dtype=F64))
    network.after = Affine(torch.tensor([3.0, 1.0], dtype=F64), torch.tensor([-1.0, 0.5], dtype=F64))
    x = points(50, 2)
    symbols = dict(zip(sympy.symbols("a b"), x.unbind(1), strict=True))
    for output in (0, 1):
        close(evaluate(expression(network, ["a", "b"], output), symbols), network(x)[:, output], 1e-13)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "0"])
def test_torch_and_sympy_mean_the_same_function(name):
    u, t = torch.tensor([0.3, 0.6], dtype=F64), sympy.Symbol("t")
    f = FUNCTIONS[name]
    expr = f.sympy(sympy, t)
    close(f.torch(u), torch.tensor([float(expr.subs(t, value)) for value in u.tolist()], dtype=F64), 1e-12)
    close(evaluate(expr, {t: u}), f.torch(u), 1e-12)


def test_what_has_no_expression_is_named():
    network, _, _ = parabola()
    with pytest.raises(ConfigError, match=r"numeric .*\(0, 0, 0\)") as info:
        expression(network, ["a", "b"])
    one_line(info)
    with pytest.raises(ConfigError, match="2 names"):
        expression(of_formulas({(0, 0): ("x", 1.0, 1.0, 0.0)}, widths=(2, 1)), ["a"])
    with pytest.raises(ConfigError, match="erf"):
        evaluate(sympy.erf(sympy.Symbol("t")), {sympy.Symbol("t"): torch.ones(1)})
    with pytest.raises(ConfigError, match="no value for s"):
        evaluate(sympy.Symbol("s"), {})


def test_agreement_is_on_fresh_points():
    a, b = sympy.symbols("a b")
    agree = lambda expr: agrees(expr, lambda x: x[:, 0] * x[:, 1], ["a", "b"], [(1, 5), (-1, 2)], 100, generator())
    assert agree(a * b) and not agree(a * b * (1 + 1e-8)) and not agree(a * sympy.sqrt(b**2))


def test_round_numbers():
    assert round_numbers(0.50001)[0] == sympy.Rational(1, 2)
    assert round_numbers(-1.5708)[0] == -sympy.pi / 2
    assert round_numbers(1e-9)[0] == 0 and round_numbers(2.0)[0] == 2
    assert round_numbers(3.07) == []


def test_constants_are_refined_and_rounded_unless_that_is_wrong():
    t, x = sympy.Symbol("t"), torch.linspace(0.5, 2, 200, dtype=F64).unsqueeze(1)
    rough = 1.999 * sympy.sin(3.14 * t + 0.002) + 0.3334
    y = 2 * torch.sin(pi * x[:, 0]) + 1 / 3
    assert refine(rough, ["t"], x, y) == 2 * sympy.sin(sympy.pi * t) + sympy.Rational(1, 3)
    near = refine(rough, ["t"], x, y + 1e-4)  # 0.33343... is not a third
    (constant,) = near.atoms(sympy.Float)
    assert abs(float(constant) - 1 / 3 - 1e-4) < 1e-12
    assert latex(near, 5).count("0.33343") == 1


@pytest.mark.parametrize("closed", ["1", "-7/3", "pi/6", "1/(4*pi)", "sqrt(3)/2", "1/sqrt(2*pi)", "3*sqrt(pi)"])
def test_numbers_are_recognised_to_twelve_digits(closed):
    a, b = sympy.symbols("a b")
    there, number = (["a", "b"], points(50, 2)), sympy.sympify(closed)
    value = number.evalf() / sympy.sqrt(3).evalf() * sympy.sqrt(3)  # two numbers that meet in a product
    assert recognised(value * a * sympy.sin(b) + number.evalf(), *there) == number * a * sympy.sin(b) + number
    beside = number.evalf() * (1 + 1e-10) * a
    assert recognised(beside, *there) == beside and closed_form(float(number) * (1 + 1e-10)) is None


def test_numbers_stay_where_values_would_change():
    a, third = sympy.Symbol("a"), sympy.Float(1 / 3) * (1 + 5e-13)
    near = sympy.sin(1e6 * third * a)
    x = points(50, 1)
    assert closed_form(float(third)) == sympy.Rational(1, 3)
    assert recognised(third * a, ["a"], x) == a / 3 and recognised(near, ["a"], x) == near
    assert closed_form(1e308) is None and closed_form(float("inf")) is None


def test_logarithms_and_powers_are_combined():
    a, b = sympy.symbols("a b")
    x = 0.5 + points(50, 2, reach=0.4)
    assert simplify(sympy.exp(sympy.log(2.0 * a) + 3 * sympy.log(b)), ["a", "b"], x) == 2.0 * a * b**3
    squares = sympy.Rational(1, 4) * ((a + b) ** 2 - (a - b) ** 2)
    assert simplify(squares, ["a", "b"], points(50, 2)) == a * b
    signed = sympy.sqrt(a**2)  # not a where a is negative
    assert simplify(signed, ["a", "b"], points(50, 2)) == sympy.Abs(a)


def test_a_rule_that_changes_the_values_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules[simplify.__module__], "_rules", lambda: [lambda expr: sympy.Integer(0)])
    expr = sympy.Symbol("a") + 1
    assert simplify(expr, ["a"], points(50, 1)) == expr


def test_a_rule_that_hangs_is_left_even_where_a_bare_except_eats_the_bell():
    before, start = signal.getsignal(signal.SIGALRM), time.monotonic()
    with time_limit(0.05):
        try:
            while True:
                sympy.expand(sympy.Symbol("t") + 1)
        except BaseException as bell:
            assert isinstance(bell, TimeUp)
        time.sleep(60)
    assert time.monotonic() - start < 30
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


# ---------------------------------------------------------------------------------------------------------------
# From networks to formulas


def recovered(network: EdgeNetwork, x: Tensor, y: Tensor, names: list[str], functions=FEW):
    snapped, steps = snap(network, x, y, functions=functions)
    assert all(step.kept for step in steps), [str(step) for step in steps]
    return refine(expression(snapped, names), names, x, y)


def test_a_product_by_logarithms_trained_from_scratch():
    x = 3 + points(300, 2, reach=2.0)
    y = x[:, 0] * x[:, 1]
    half, three = torch.full((2,), 0.5, dtype=F64), torch.full((2,), -1.5, dtype=F64)
    net = backbones.build("kan", 2, 1, widths=(1,), grid_size=5, generator=generator()).double()
    out = Affine(torch.tensor([12.0], dtype=F64), torch.tensor([9.0], dtype=F64))
    network = EdgeNetwork.of(nn.Sequential(Affine(half, three), *net, out))
    assert fit(network, x, y.unsqueeze(1), 60) < 1e-2
    found = recovered(network, x, y, ["a", "b"])
    assert sympy.simplify(found - sympy.Symbol("a") * sympy.Symbol("b")) == 0


def test_a_product_by_squares():
    half = lambda s: lambda t: s * t / 2
    network = of_splines(
        {(0, 0): half(1), (1, 0): half(1), (0, 1): half(1), (1, 1): half(-1)},
        {(0, 0): lambda t: t**2, (1, 0): lambda t: -(t**2)},
        widths=(2, 2, 1),
        grid_size=3,
    )
    x = points(200, 2, reach=1.0)
    found = recovered(network, x, x[:, 0] * x[:, 1], ["a", "b"])
    product = lambda x: x[:, 0] * x[:, 1]
    assert agrees(found, product, ["a", "b"], [(-1, 1)] * 2, 500, generator()) and found == sympy.prod(
        sympy.symbols("a b")
    )


def test_a_composition_of_three_layers():
    """exp((sin(pi (x0^2 + x1^2)) + sin(pi (x2^2 + x3^2))) / 2), with edges that do not matter pruned before."""
    square, wave = lambda t: t**2 - 0.5, lambda t: torch.sin(pi * (t + 1)) / 2
    small = lambda t: 1e-3 * torch.sin(7 * t)
    network = of_splines(
        {(0, 0): square, (1, 0): square, (2, 1): square, (3, 1): square, (0, 1): small, (3, 0): small},
        {(0, 0): wave, (1, 0): wave},
        {(0, 0): torch.exp},
        widths=(4, 2, 1, 1),
    )
    sines = lambda x: torch.sin(pi * (x[:, 0] ** 2 + x[:, 1] ** 2)) + torch.sin(pi * (x[:, 2] ** 2 + x[:, 3] ** 2))
    x, names = points(250, 4, reach=1.0), ["a", "b", "c", "d"]
    y = torch.exp(sines(x) / 2)
    network, _ = prune(network, x, y)
    assert len(list(network.edges())) == 7
    found = recovered(network, x, y, names, ("x^2", "exp", "sin"))
    assert agrees(found, lambda x: torch.exp(sines(x) / 2), names, [(-1, 1)] * 4, 500, generator(3))


# ---------------------------------------------------------------------------------------------------------------
# Pruning


def wide() -> tuple[EdgeNetwork, Tensor, Tensor]:
    """x0^2 + x1 of three inputs by a network that has more nodes and edges than it needs."""
    little = lambda t: 1e-3 * torch.cos(3 * t)
    network = of_splines(
        {(0, 0): lambda t: t**2, (1, 0): lambda t: 0.5 * t, (2, 0): little, (0, 1): torch.sin, (1, 2): torch.sin},
        {(0, 0): lambda t: t, (1, 0): lambda t: 1e-4 * t**2, (2, 0): lambda t: 1e-3 * torch.cos(t)},
        widths=(3, 3, 1),
    )
    x = points(200, 3)
    return network, x, x[:, 0] ** 2 + 0.5 * x[:, 1]


def test_pruning_keeps_the_function_and_says_what_it_did():
    network, x, y = wide()
    pruned, steps = prune(network, x, y)
    assert {key for key, _ in pruned.edges()} == {(0, 0, 0), (0, 1, 0), (1, 0, 0)}
    assert steps[0].error_before == error(network, x, y.unsqueeze(1)) and len(list(network.edges())) == 8
    assert steps[-1].error_after == error(pruned, x, y.unsqueeze(1)) < 1e-3
    assert all(f"node {i} of layer 1" in steps[0].what for i in (1, 2))


def test_pruning_undoes_what_the_function_needs():
    network, x, y = wide()
    pruned, steps = prune(network, x, y, node_threshold=1e9, edge_threshold=1e9, steps=8)
    kept, undone = [s for s in steps if s.kept], [s for s in steps if not s.kept]
    assert kept and undone
    smallest = min(step.error_before for step in steps)
    assert all(step.error_after > 1.5 * smallest for step in undone)
    assert error(pruned, x, y.unsqueeze(1)) < 1e-3
    assert {(0, 0, 0), (0, 1, 0), (1, 0, 0)} <= {key for key, _ in pruned.edges()}


def test_pruning_stops_when_told():
    network, x, y = wide()
    asked = []
    pruned, steps = prune(network, x, y, edge_threshold=1e9, steps=8, stop=lambda: asked.append(0) or len(asked) > 1)
    assert len(steps) == 1 and len(asked) > 1
    assert steps[0].error_after == error(pruned, x, y.unsqueeze(1))


def test_thresholds_of_0_keep_all():
    network, x, y = wide()
    pruned, steps = prune(network, x, y, node_threshold=0, edge_threshold=0)
    assert steps == [] and len(list(pruned.edges())) == 8


def test_what_is_cut_leaves_its_mean_and_nothing_in_the_air():
    network, x, _ = wide()
    seen, before = network.activations(x), network(x)
    cut(network, [(1, 1, 0)], x)
    edge = seen[1].edges[:, 1]
    close(network(x), before - edge + edge.mean(), 1e-13)
    assert (0, 0, 1) not in dict(network.edges())  # it led to the node that is left
    before = network(x)
    cut(network, [], x)
    close(network(x), before, 0)
    second = network.activations(x)[1].edges[:, 2]
    seen = network.activations(x)[0].edges[:, 1, 2]
    cut(network, [(0, 1, 2)], x)
    assert (1, 2, 0) not in dict(network.edges())  # nothing leads to its node: it was a constant
    shift = network(x) - (before - second)
    assert shift.std() < 1e-13 and seen.std() > 0.1


def test_tolerances_are_not_spent_twice():
    tolerance = Tolerance(relative=1.1, absolute=1e-6)
    assert tolerance.allows(1.09e-3, 1e-3) and not tolerance.allows(1.2e-3, 1e-3) and tolerance.allows(9e-7, 1e-12)
    with pytest.raises(ConfigError, match="relative >= 1") as info:
        Tolerance(relative=0.5)
    one_line(info)
