"""Conditions: what each asks for against closed forms, which are met exactly, and what is refused."""

from dataclasses import dataclass, replace

import pytest
import torch
from conftest import generator, one_line, planned
from torch import nn

import kanpde
from kanpde import ConfigError, Problem
from kanpde.domains import Ball, Box, Cylinder
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.nested import nested
from kanpde.problems.base import own
from kanpde.problems.conditions import (
    Condition,
    Dirichlet,
    Initial,
    Neumann,
    Observations,
    Periodic,
    Point,
    Robin,
    Terminal,
)
from kanpde.testing import check_problem

F64 = torch.float64
PI = torch.pi
NET = {"name": "chebykan", "widths": [6]}
FAST = {"backbone": NET, "dtype": "float64", "loss": {"gradient": "none"}}


@dataclass(frozen=True)
class Stated(Problem):
    """Any conditions on any domain; u* = sin(x_1) exp(the last coordinate)."""

    dim: int = 1
    where: object = None
    conditions: object = ()
    coordinates: object = None

    @property
    def domain(self):
        return self.where

    def exact(self, x):
        return torch.sin(x[:, 0]) * torch.exp(x[:, -1])

    def residual(self, u, x):
        first, last = self.axes.name(0), self.axes.name(self.axes.count - 1)
        return u.d(first, 2) + u.d(last) - self.exact(x) * 0 - (-torch.sin(x[:, 0]) + torch.sin(x[:, 0])) * x[:, -1]


def exact_u(problem):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.precision = nn.Parameter(torch.empty(0, dtype=F64))

        def forward(self, x):
            return problem.exact(x).unsqueeze(1)

    return Ansatz(problem, Net(), hard=False)


SQUARE = {"where": Box(2, (0, -1), (2, 1)), "coordinates": ("x", "y"), "dim": 2}
HOLED = {"where": Box(2) - Ball(2, 0.5), "dim": 2}
TUBE = {"where": Cylinder(Box(1, -1, 2), 0.5), "coordinates": ("x", "t")}
u = lambda x: torch.sin(x[:, 0]) * torch.exp(x[:, -1])
u_x = lambda x: torch.cos(x[:, 0]) * torch.exp(x[:, -1])
SEEN = [[0.5, 0.1], [1.0, 0.2]]
WALL = lambda x: 1 - x[:, :2].square().sum(1)
KINK = lambda x: torch.minimum(x[:, 0] + 1, 2 - x[:, 0])
CASES = {
    "all": (SQUARE, Dirichlet("boundary", u)),
    "face": (SQUARE, Dirichlet("y = 1", u)),
    "predicate": (SQUARE, Dirichlet(lambda x: (x[:, 0] == 2) | (x[:, 1] > 0.5), u)),
    "flux right": (SQUARE, Neumann("x = 2", u_x)),
    "flux left": (SQUARE, Neumann("x = 0", lambda x: -u_x(x))),
    "flux all": (SQUARE, Neumann("boundary", lambda x: torch.where(
        x[:, 0] == 2, u_x(x), torch.where(x[:, 0] == 0, -u_x(x), x[:, 1] * u(x))))),
    "robin": (SQUARE, Robin("y = -1", 2.0, 3.0, lambda x: 2 * u(x) - 3 * u(x))),
    "side of a plate": (
        {"where": Box(2, (0, -1), (2, 1)) - Ball(2, 0.5, (2.0, 0.0)), "dim": 2, "coordinates": ("x", "y")},
        Neumann("x = 2", u_x),
    ),
    "hole of a plate": (
        {"where": Cylinder(Box(1, 0, 1) - Ball(1, 0.1, (0.5,))), "coordinates": ("x", "t")},
        Neumann(lambda x: (x[:, 0] > 0.3) & (x[:, 0] < 0.5), u_x),
    ),
    "flux of a tube": (TUBE, Neumann("x = high", u_x)),
    "flux of a ball": (
        {"where": Ball(2, 1.5), "dim": 2},
        Neumann("boundary", lambda x: (x[:, 0] * u_x(x) + x[:, 1] * u(x)) / 1.5),
    ),
    "initial": (TUBE, Initial(lambda x: torch.sin(x[:, 0]))),
    "initial slope": (TUBE, Initial(lambda x: torch.sin(x[:, 0]), derivative="t")),
    "terminal": (TUBE, Terminal(u)),
    "observed": (TUBE, Observations(SEEN, u(torch.tensor(SEEN, dtype=F64)), noise=0.1)),
    "point": (TUBE, Point([0.0, 0.3], 0.0)),
    "periodic": ({**SQUARE, "where": Box(2, (0, -1), (2 * PI, 1))}, Periodic("x", derivatives=3)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_exact_solution_meets_a_condition_and_another_function_does_not(case):
    options, condition = CASES[case]
    problem = Stated(**options, conditions=(condition,))
    x = condition.points(problem, 40, generator(1), "volume", dtype=F64)
    assert problem.asked == {condition.kind: condition}
    assert problem.domain.contains(x[:, : problem.n_inputs] * (1 - 1e-12)).all()
    misfit = condition.misfit(exact_u(problem), x)
    assert len(misfit) == len(x) and misfit.abs().max() < 1e-10
    other = replace(problem)
    object.__setattr__(other, "exact", lambda x: torch.cos(x[:, 0] / 2) * x.square().sum(1))
    assert condition.misfit(exact_u(other), x).abs().max() > 1e-2


def test_observations_are_weighed_by_their_noise():
    problem = Stated(**TUBE, conditions=(Observations([[0.0, 0.0]], [2.0], noise=0.5),))
    x = problem.asked["observations"].points(problem, 9, generator(0), "volume", dtype=F64)
    assert problem.asked["observations"].misfit(exact_u(problem), x).tolist() == [-4.0]


# ---------------------------------------------------------------------------------------------------------------
# Met exactly


MET = {
    "wave": (TUBE, (Dirichlet(), Initial(lambda x: (x[:, 0] + 1) * (2 - x[:, 0])), Initial(1.0, "t")), {0, 1}),
    "values in time": (TUBE, (Dirichlet("boundary", u), Initial(u), Initial(u, "t")), {0, 1, 2}),
    "one side": (SQUARE, (Dirichlet("x = 0", 0.0), Neumann("x = 2", 1.0)), {0, 1}),
    "two sides": (SQUARE, (Dirichlet("x = 0", u), Dirichlet("y = 1", u)), {0, 1}),
    "three sides": (SQUARE, (Dirichlet("x = 0", u), Dirichlet("y = 1", u), Dirichlet("y = -1", u)), {0, 1, 2}),
    "both ends of time": (TUBE, (Initial(u), Terminal(u), Dirichlet("x = 2", u)), {0, 1, 2}),
    "terminal": (TUBE, (Terminal(lambda x: x[:, 0] ** 2),), {0}),
    "ball": ({"where": Ball(3), "dim": 3}, (Dirichlet("boundary", 2.0),), {0}),
    "ball in time": ({"where": Cylinder(Ball(2)), "dim": 2}, (Dirichlet(), Initial(WALL)), {0, 1}),
    "periodic": (TUBE, (Periodic("x", 3, harmonics=2), Initial(lambda x: torch.cos(2 * PI * x[:, 0] / 3))), {0, 1}),
    "periodic and walls": ({**SQUARE, "where": Box(2, 0, 1)}, (Periodic("x", 2), Dirichlet("y = 0", 1.0)), {0, 1}),
    "sides of a plate": (HOLED, (Dirichlet("x1 = low"), Neumann("x2 = 1")), {0, 1}),
    "a kink": (TUBE, (Dirichlet(), Initial(KINK)), {0}),
    "a kink and a slope": (TUBE, (Dirichlet(), Initial(KINK), Initial(0.0, "t")), {0}),
    "a slope alone": (TUBE, (Initial(1.0, "t"), Point([0.0, 0.0], 1.0)), set()),
    "no values": (TUBE, (Neumann("x = 2", 0.0), Point([0.0, 0.0], 1.0)), {0}),
    "initial of no period": (TUBE, (Periodic("x"), Initial(lambda x: x[:, 0])), {0}),
}  # fmt: skip


@pytest.mark.parametrize("case", MET)
def test_what_is_met_exactly_is_met_by_any_network(case):
    """To rounding by an untrained one, also with derivatives; with constraint: soft nothing is."""
    options, conditions, met = MET[case]
    given = own(Stated(**options, conditions=conditions))
    plan = planned(given, FAST)
    names = list(given.asked)
    assert plan.met == {names[k] for k in met}
    assert plan.counts.keys() - {"interior"} == set(names) - plan.met
    ansatz = plan.ansatz()
    for name, condition in plan.problem.asked.items():
        x = condition.points(plan.problem, 30, generator(4), "volume", dtype=F64)
        misfit = condition.misfit(ansatz, x).abs().max()
        assert (misfit < 1e-11) == (name in plan.met), (name, misfit)
    soft = planned(own(given), {**FAST, "constraint": "soft"})
    assert soft.met == frozenset() and len(soft.counts) == 1 + len(names)


@pytest.mark.parametrize("case", MET)
def test_the_factor_has_its_own_derivatives(case):
    """m in closed form, and h, against nested differentiation; neither is zero inside where u is free."""
    options, conditions, _ = MET[case]
    problem = Stated(**options, conditions=conditions)
    x = problem.domain.interior(5, generator(5), dtype=F64)
    for of in (problem.factor, problem.lift):
        if (found := of(x)) is None:
            continue
        axes = range(x.shape[1])
        indices = tuple((i,) for i in axes) + tuple((i, i) for i in axes)
        expected = nested(lambda x, of=of: of(x).value, x, indices)
        grad, second = (torch.stack([expected[(i,) * k] for i in axes], 1) for k in (1, 2))
        assert torch.allclose(found.grad, grad, atol=1e-12)
        assert torch.allclose(found.hessian_diagonal.expand_as(grad), second, atol=1e-11)
    assert problem.factor(x) is None or (problem.factor(x).value > 0).all()


def test_a_linear_network_is_periodic_up_to_its_slope():
    problem = own(Stated(**TUBE, conditions=(Periodic("x", derivatives=3), Initial(0.0))))
    u = planned(problem, {**FAST, "constraint": "soft", "backbone": {"name": "mlp", "widths": []}}).ansatz()
    x = problem.asked["periodic"].points(problem, 4, generator(), "volume", dtype=torch.float64)
    misfit = problem.asked["periodic"].misfit(u, x)
    low, high = problem.domain.space.sides[0]
    across = u(x) - u(x + torch.tensor([high - low, 0.0], dtype=x.dtype))
    assert across.abs().min() > 1e-3
    assert torch.allclose(misfit, torch.stack([across, *3 * [0 * across]], 1), atol=1e-12)


def test_a_network_of_ones_own_is_not_made_periodic():
    problem = Stated(**TUBE, conditions=(Periodic("x"), Initial(0.0)))
    assert planned(own(problem), FAST).met == {"periodic", "initial"}
    net = kanpde.backbones.build("mlp", 2, widths=(4,))
    given = {**FAST, "backbone": {"name": "python.MLP"}}
    assert planned(own(problem), given, net=net).met == {"initial"}


def test_periodic_inputs_have_the_jets_of_what_they_compute():
    """Gram, directions, Taylor: all against nested differentiation."""
    from kanpde.jets.harmonics import harmonics
    from kanpde.operators import Autograd, Forward

    waves, limits = harmonics([(0.0, 2.0), (-1.0, 1.0)], {0: 2}, (-1.0, 1.0))
    net = nn.Sequential(*waves, *kanpde.backbones.build("chebykan", 5, widths=(4,))).double()
    assert limits == [(-1.0, 1.0)] * 5
    x, v = 2 * torch.rand(4, 2, generator=generator(1), dtype=F64) - 1, torch.tensor([[1.0, 2.0]], dtype=F64)
    a, b = Forward()(net, x, directions=v), Autograd()(net, x, directions=v)
    for p, q in zip(a.parts, b.parts, strict=True):
        assert torch.allclose(p, q, atol=1e-12)
    first, last = PI * x[:, 0], x[:, 1]
    seen = torch.stack([first.cos(), first.sin(), (2 * first).cos(), (2 * first).sin(), last], 1)
    assert torch.allclose(net[1](net[0](x)), seen, atol=1e-14)
    shifted = x + torch.tensor([2.0, 0.0], dtype=F64)
    assert torch.allclose(net(x), net(shifted), atol=1e-14)


# ---------------------------------------------------------------------------------------------------------------
# Runs


@dataclass(frozen=True)
class Heated(Problem):
    """u_xx = -1 on (0, 1), u(0) = 0, u'(1) + u(1) = 1: u = c x - x^2 / 2 with c - 1 + c - 1/2 = 1."""

    dim: int = 1
    coordinates = ("x",)
    conditions = (Dirichlet("x = 0"), Robin("x = 1", 1.0, 1.0, 1.0))

    @property
    def domain(self):
        return Box(1, 0, 1)

    def residual(self, u, x):
        return u.xx + 1

    def exact(self, x):
        return 1.25 * x[:, 0] - x[:, 0] ** 2 / 2


@pytest.mark.parametrize("constraint", ["hard", "soft"])
def test_a_run_meets_what_is_not_built_in(tmp_path, constraint):
    assert "exact solution, robin" in str(check_problem(Heated()))
    phases, points = [{"optimizer": "gauss_newton", "steps": 12}], {"interior": 30, "test": 50, "validation": 40}
    fluxes = {"fluxes": "loss"} if constraint == "hard" else {}
    options = {**FAST, "phases": phases, "points": points, "constraint": constraint, "solver": "adam", **fluxes}
    run = kanpde.train(Heated(), out=tmp_path / "a.h5", **options)
    assert run.rel_l2 < 1e-4
    terms = {name.removeprefix("held_out/") for name in run.history if name.startswith("held_out/")}
    assert terms == {"interior", "robin"} | ({"dirichlet"} if constraint == "soft" else set())


def test_terms_of_conditions_are_balanced_unless_said_otherwise():
    """By gradnorm where a phase sees it: not a Gauss-Newton one, and not where all is built in."""
    problem = Stated(where=Box(1, 0, 1), coordinates=("x",), conditions=(Dirichlet("x = 0"), Neumann("x = 1")))
    made = lambda **given: planned(own(problem), {**FAST, "fluxes": "loss", **given})
    assert made().config.loss.balance == {"name": "gradnorm"} and made().balance is not None
    assert made().conditions == "exactly: dirichlet; by the loss: neumann, balanced by gradnorm"
    assert made(loss={"gradient": "none", "balance": None}).balance is None
    assert made(loss={"gradient": "none", "balance": "ntk"}).config.loss.balance == {"name": "ntk"}
    assert made(phases=[{"optimizer": "gauss_newton", "steps": 2}]).balance is None
    whole = replace(problem, conditions=(Dirichlet(),))
    assert planned(own(whole), FAST).balance is None
    assert planned(own(whole), FAST).conditions == "exactly: dirichlet"


def test_names_and_weights(tmp_path):
    conditions = {"left": Dirichlet("x = 0"), "right": Neumann("x = 1")}
    problem = Stated(where=Box(1, 0, 1), coordinates=("x",), conditions=conditions)
    assert planned(own(problem), {**FAST, "loss": {"weights": {"right": 10.0}}}).loss.weights["right"] == 10
    with pytest.raises(ConfigError, match="unknown key loss.weights 'rigth'; did you mean right"):
        planned(own(problem), {**FAST, "loss": {"weights": {"rigth": 10.0}}})
    twice = Stated(**SQUARE, conditions=(Neumann("x = 0"), Neumann("y = 1")))
    assert list(twice.asked) == ["neumann", "neumann_2"]


@pytest.mark.parametrize(
    ("options", "conditions", "says"),
    [
        (SQUARE, (Dirichlet("x = 3"),), "Dirichlet: unknown side x = '3' (known: 0, 2, low, high)"),
        (SQUARE, (Dirichlet("z = 0"),), "unknown coordinate 'z'"),
        (SQUARE, (Dirichlet("edge"),), "on: given 'edge', the domain, Box, has 'boundary', a function of x, or a face"),
        ({"where": Ball(2), "dim": 2}, (Neumann("x1 = 1"),), "the domain, Ball, has 'boundary', a function of x"),
        (
            {"where": Ball(2), "dim": 2},
            (Periodic("x1"),),
            "the ends of 'x1', which has them in a Box alone, the domain is",
        ),
        (SQUARE, (Dirichlet("x = 0"), Neumann("x = 0")), "Dirichlet and Neumann are on the same part, x = low"),
        (SQUARE, (Dirichlet(), Periodic("x")), "Dirichlet and Periodic are on the same part, x = low"),
        (TUBE, (Initial(0.0), Initial(1.0)), "Initial and Initial are on the same part, t = 0"),
        (SQUARE, (Initial(0.0),), "Initial: the domain Box has no time; Cylinder(space, time) has"),
        (TUBE, (Initial(0.0, derivative="x"),), "derivative: given 'x', needed is the name of time"),
        (TUBE, (Observations([[0.0]], [1.0]),), "Observations: needed are points (n, 2) and as many values"),
        (TUBE, (Observations([[0.0, 0.0]], [1.0], noise=0.0),), "noise: given 0.0, needed is a number above 0"),
        (TUBE, ("u = 0",), "conditions: given a str, needed is such as Dirichlet('boundary', 0.0)"),
        (TUBE, 3, "conditions: given a int, needed is a tuple of them, or a dictionary"),
        (
            SQUARE,
            (Dirichlet(lambda x: x[:, 0] > 5),),
            "dirichlet: 0 of 4,824 points are in the part of the boundary that is meant",
        ),
        (SQUARE, (Dirichlet(0.0, "x = 0"),), "Dirichlet: on: given 0.0, needed is 'boundary', a side such as"),
        (SQUARE, (Dirichlet("x = 0", "one"),), "Dirichlet: value: given 'one', needed is a number, or a function"),
        (SQUARE, (Dirichlet(lambda x: x[:, :1] > 0),), "on: given (24, 1) of torch.bool at 24 points, needed is (24,)"),
        (SQUARE, Dirichlet(), "given a Dirichlet, needed is a tuple of them, or a dictionary; write conditions = ("),
        (TUBE, (Dirichlet("t = 0"),), "Dirichlet: it names the ends of 't', which is time: write Initial or Terminal"),
        (TUBE, (Dirichlet(),), "u.t is read, so 1 in time are needed: Initial(value), or Terminal(value)"),
        (SQUARE, {"interior": Dirichlet()}, "interior is the name of another term"),
        (SQUARE, (Dirichlet("x = 0", lambda x: x[:, :1] * torch.ones(7)),), "has shape (4, 7) at 4 points, not (4,)"),
    ],
)
def test_bad_conditions_are_one_line(options, conditions, says):
    for constraint in ("soft", "hard"):
        with pytest.raises(ConfigError) as info:
            planned(own(Stated(**options, conditions=conditions)), {**FAST, "constraint": constraint})
        assert says in one_line(info)


def test_an_equation_of_fourth_order_has_two_conditions_on_a_side():
    """A clamped beam: u and its slope; of second order they are one too many."""

    @dataclass(frozen=True)
    class Beam(Problem):
        dim: int = 1
        coordinates = ("x",)
        conditions = (Dirichlet(), Neumann())

        @property
        def domain(self):
            return Box(1, 0, 1)

        def residual(self, u, x):
            return u.xxxx - 1

    assert planned(own(Beam()), FAST).met == {"dirichlet", "neumann"}
    with pytest.raises(ConfigError, match="Dirichlet and Neumann are on the same part"):
        planned(own(Stated(where=Box(1, 0, 1), coordinates=("x",), conditions=(Dirichlet(), Neumann()))), FAST)


def test_values_beside_conditions_are_refused():
    class Both(Heated):
        def boundary_value(self, x):
            return x.new_zeros(len(x))

    with pytest.raises(ConfigError, match="boundary_value: conditions are stated too; make a condition of it"):
        planned(own(Both()), FAST)


def test_a_condition_of_ones_own(tmp_path):
    @dataclass(frozen=True)
    class Mean(Condition):
        """The mean of u over pairs of points is c: (u(x) + u(1 - x)) / 2 = c at points of the domain."""

        c: float = 0.5
        kind = "mean"

        def points(self, problem, n, generator, law, **kind):
            return problem.domain.interior(n, generator, law, **kind)

        def misfit(self, u, x):
            return (u(x) + u(1 - x)) / 2 - self.c

    problem = Stated(where=Box(1, 0, 1), coordinates=("x",), conditions=(Mean(),))
    plan = planned(own(problem), FAST)
    assert plan.met == frozenset() and plan.counts["mean"] >= 16
