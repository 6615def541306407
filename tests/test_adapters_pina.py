"""Networks, operators and domains of kanpde in PINA: columns by name, and the numbers of PINA's own operators."""

import copy
import importlib
import sys
import warnings

import pytest
import torch
from conftest import F64, close, generator, network, one_line, points
from scipy import stats

from kanpde.adapters import pina as ours
from kanpde.domains import Box, Combined, Ellipsoid, Polygon
from kanpde.ground.errors import ConfigError

TWELVE = [f"x{i}" for i in range(1, 13)]  # which PINA sorts x1, x10, x11, x12, x2, ...
N = 6


@pytest.fixture(scope="module")
def pina():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("pina", reason="pina-mathlab is not installed")
        for part in ("operator", "domain", "equation", "solver", "problem.zoo"):  # no attributes before that
            importlib.import_module(f"pina.{part}")
        return module


@pytest.fixture
def solved(pina):
    """The output of a solver with a model: columns of the problem in PINA's order in, names of the outputs on."""

    def forward(model, x, outputs=("u",)):
        names = {"input_variables": sorted(model.variables), "output_variables": list(outputs), "conditions": {}}
        problem = type("Nothing", (pina.problem.BaseProblem,), names)()
        return pina.solver.PhysicsInformedSingleModelSolver(problem, model)(x)

    return forward


def sampled(pina, variables, seed=0):
    """Points of PINA's domain of these variables in double precision, their columns in its order."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = pina.domain.CartesianDomain({name: [-0.8, 0.8] for name in variables}).sample(N)
    return pina.LabelTensor(x.tensor.double(), x.labels).requires_grad_()


@pytest.fixture
def twelve(pina):
    """Points of twelve variables, and the plain ones with columns in the order of TWELVE."""
    x = sampled(pina, TWELVE)
    return x, torch.stack([x[name].tensor[:, 0] for name in TWELVE], 1).detach()


# Columns -----------------------------------------------------------------------------------------------------------


def test_pina_sorts_names_as_text(twelve):
    x, plain = twelve
    assert x.labels == sorted(TWELVE) != TWELVE and not torch.equal(x.tensor, plain)


def test_columns_are_taken_by_name(twelve, solved):
    x, plain = twelve
    net = network("kan", 12, 1)
    model = ours.Network(net, TWELVE)
    for u in (model(x), solved(model, x)):
        close(u.tensor, net(plain), 1e-14)
    assert (net(x.tensor) - net(plain)).abs().max() > 1e-2  # by position it would be another function


def test_derivatives_are_by_name_at_twelve_variables(twelve, solved, pina):
    """u = sum_i i x_i^3: d^2 u / dx_i^2 = 6 i x_i, which a wrong column cannot give."""
    x, plain = twelve
    weights = torch.arange(1.0, 13.0, dtype=F64)
    cubes = lambda x, f: (weights * x**3).sum(1, keepdim=True) + 0 * f
    u = solved(ours.Network(network("kan", 12, 1), TWELVE, None, cubes), x)
    for i, name in enumerate(TWELVE):
        close(ours.laplacian(u, x, d=[name]).tensor[:, 0], 6 * (i + 1) * plain[:, i], 1e-12)
        close(ours.grad(u, x, d=name).tensor[:, 0], 3 * (i + 1) * plain[:, i] ** 2, 1e-12)
    everything = ours.grad(u, x)
    assert everything.labels == [f"dud{name}" for name in TWELVE]
    close(everything["dudx10"].tensor[:, 0], 30 * plain[:, 9] ** 2, 1e-12)
    theirs = pina.operator.laplacian(u, x, components=["u"], d=["x10", "x2"])
    close(ours.laplacian(u, x, d=["x10", "x2"]).tensor, theirs.tensor, 1e-12)


def test_columns_by_position_fail_these_tests(twelve, solved, pina, monkeypatch):
    monkeypatch.setattr(ours, "columns", lambda x, variables: x.as_subclass(torch.Tensor))
    with pytest.raises(AssertionError):
        test_columns_are_taken_by_name(twelve, solved)
    with pytest.raises(AssertionError):
        test_derivatives_are_by_name_at_twelve_variables(twelve, solved, pina)


def test_points_without_names_are_refused(pina):
    model = ours.Network(network("kan", 2), ["x", "y"])
    labelled = lambda *names: pina.LabelTensor(points(N, len(names)), list(names))
    for x, says in ((points(N, 2), "without labels"), (labelled("x", "t"), "unknown variable 'y'")):
        with pytest.raises(ConfigError, match=says) as info:
            model(x)
        one_line(info)


# Operators ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transformed", [False, True])
def test_operators_are_those_of_pina(pina, solved, transformed):
    g = (lambda x: torch.cat([x, x[:, :1] * x[:, 1:2]], 1)) if transformed else None
    t = (lambda x, f: x[:, :1].exp() + (1 - x[:, 1:2] ** 2) * f) if transformed else None
    model = ours.Network(network("kan", 3 + transformed, 2), ["z", "x", "y"], g, t)
    x = sampled(pina, ["x", "y", "z"])
    u = solved(model, x, ["u", "v"])
    for components in (None, ["v", "u"], "v"):
        for d in (None, ["y", "z"], "x"):
            theirs = pina.operator.laplacian(u, x, components=components, d=d)
            found = ours.laplacian(u, x, components=components, d=d)
            close(found.tensor, theirs.tensor, 1e-10)
            assert found.labels == theirs.labels
            theirs, found = (of(u, x, components=components, d=d) for of in (pina.operator.grad, ours.grad))
            for name in theirs.labels if d else ():
                close(found[name].tensor, theirs[name].tensor, 1e-11)
    assert set(ours.grad(u, x).labels) == set(pina.operator.grad(u, x).labels)


def test_bad_calls_are_one_line(pina, solved):
    model, x = ours.Network(network("kan", 2, 1), ["x", "y"]), sampled(pina, ["x", "y"])
    u = solved(model, x)
    for call, says in (
        (lambda: ours.laplacian(2 * u, x), "laplacian: given no output"),
        (lambda: ours.laplacian(model(x), x), "laplacian: given an output without names"),
        (lambda: ours.grad(u, sampled(pina, ["x", "y"], seed=1)), "grad: given other points"),
        (lambda: ours.laplacian(u, x, components="v"), "unknown component of laplacian 'v'"),
        (lambda: ours.laplacian(u, x, d=["t"]), "unknown variable of laplacian 't'"),
        (lambda: ours.Network(network("kan", 2), ["x", "x"]), "each name once"),
    ):
        with pytest.raises(ConfigError, match=says) as info:
            call()
        one_line(info)


def test_without_pina_there_is_one_line(monkeypatch):
    ours._kind.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "pina"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pina", None)
    with pytest.raises(ConfigError, match=r"pip install 'kanpde\[pina\]'") as info:
        ours.Network(network("kan", 2), ["x", "y"])
    one_line(info)
    ours._kind.cache_clear()


# A solver ----------------------------------------------------------------------------------------------------------


def solver(pina, operator, module):
    """PINA's own Poisson problem on the square, its equation with an operator, in its solver and trainer."""
    Square = pina.problem.zoo.Poisson2DSquareProblem
    source = lambda x: torch.sin(x["x"] * torch.pi) * torch.sin(x["y"] * torch.pi) * 2 * torch.pi**2
    equation = pina.Condition(domain="D", equation=pina.equation.Equation(lambda x, u: operator(u, x) - source(x)))
    conditions = {"boundary": Square.conditions["boundary"], "D": equation}
    problem = type("Poisson", (Square,), {"conditions": conditions})()
    problem.discretise_domain(8, "grid")  # a multiple of 4: sides get the rest by Python's own random
    return pina.solver.PhysicsInformedSingleModelSolver(problem, ours.Network(module, ["x", "y"]))


def trainer(pina, of, epochs):
    quiet = {"enable_model_summary": False, "enable_progress_bar": False, "logger": False}
    return pina.Trainer(of, max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, shuffle=False, **quiet)


@pytest.mark.filterwarnings("ignore")
def test_a_solver_trains_as_it_does_with_its_own_operator(pina):
    module = network("metakan", 2, 1)  # in double precision, which the points in single are taken in
    losses = []
    for operator in (ours.laplacian, pina.operator.laplacian):
        training = trainer(pina, solver(pina, operator, copy.deepcopy(module)), 3)
        training.train()
        losses.append(training.callback_metrics["train_loss"])
    close(*losses, 1e-6)  # the trainer keeps them in single precision
    x = training.solver.problem.domains["D"].sample(4)
    assert training.solver(x).labels == ["u"]


# Domains -----------------------------------------------------------------------------------------------------------


def shapes(pina):
    d = pina.domain
    square = d.CartesianDomain({"x": [0, 1], "y": [0, 2]})
    round_ = d.EllipsoidDomain({"x": [0.5, 1.5], "y": [-1, 1]})
    corners = [pina.LabelTensor(torch.tensor([p]), ["x", "y"]) for p in ([0.0, 0.0], [2.0, 0.0], [0.0, 1.0])]
    return {
        "cartesian": (square, Box),
        "ellipsoid": (round_, Ellipsoid),
        "simplex": (d.SimplexDomain(corners), Polygon),
        "union": (d.Union([square, round_]), Combined),
        "difference": (d.Difference([square, round_]), Combined),
        "intersection": (d.Intersection([square, round_]), Combined),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["cartesian", "ellipsoid", "simplex", "union", "difference", "intersection"])
def test_a_domain_is_the_same_with_its_coordinates_in_the_order_asked_for(pina, name):
    theirs, kind = shapes(pina)[name]
    domain = ours.domain(theirs, ["y", "x"])
    assert isinstance(domain, kind) and domain.dim == 2
    around = 3 * torch.rand(200, 2, generator=generator()) - 1
    inside = [bool(theirs.is_inside(pina.LabelTensor(row.unsqueeze(0), ["y", "x"]))) for row in around]
    assert domain.contains(around).tolist() == inside and any(inside)


def test_the_sides_of_a_box_get_points_by_their_length(pina):
    domain = ours.domain(pina.domain.CartesianDomain({"x": [0, 9], "y": [0, 1]}), ["x", "y"])
    x = domain.boundary(400, generator())
    short = int(((x[:, 0] == 0) | (x[:, 0] == 9)).sum())
    assert stats.binomtest(short, 400, 0.1).pvalue > 1e-3


def test_domains_that_are_none_here_are_one_line(pina):
    d = pina.domain
    face, cube = d.CartesianDomain({"x": [0, 1], "y": 0}), d.CartesianDomain({name: [0, 1] for name in "xyz"})
    corners = [pina.LabelTensor(torch.eye(4)[k : k + 1, :3], ["x", "y", "z"]) for k in range(4)]
    for shape, variables, says in (
        (face, ["x", "y"], "y is fixed"),
        (cube, ["x", "y"], "given the variables x, y, it has x, y, z"),
        (d.SimplexDomain(corners), ["x", "y", "z"], "a simplex of 3 variables"),
        (d.Exclusion([cube, cube]), ["x", "y", "z"], "given a Exclusion, known of PINA"),
    ):
        with pytest.raises(ConfigError, match=says) as info:
            ours.domain(shape, variables)
        one_line(info)
