"""The start in closed form: its polynomial, the least squares under it, the pairs it finds, and runs that begin so."""

import copy
import json
import signal
from dataclasses import dataclass
from itertools import combinations

import pytest
import torch
from conftest import F64, close, generator, planned, points

from kanpde import Run, domains
from kanpde.backbones import build
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.quadratic import Quadratic
from kanpde.operators import Autograd, Forward
from kanpde.problems import HJB, AllenCahn, Function, Heat, Poisson, Problem, SineGordon
from kanpde.problems.conditions import Dirichlet, Integral, Robin
from kanpde.runs.api import resume, train
from kanpde.training import ladder
from kanpde.training.objective import Objective
from kanpde.training.start import Constant

D = 6
SMALL = {"points": {"interior": 8, "test": 100, "validation": 50}, "slices": {"points": 2, "volume": 0}}


def polynomial(dim: int, pairs, seed: int = 0, units: bool = False) -> Quadratic:
    """One with coefficients of order one."""
    drawn = generator(seed)
    given = (0.3 * torch.ones(dim, dtype=F64), torch.linspace(0.5, 2, dim, dtype=F64)) if units else ()
    p = Quadratic(dim, *given).double()
    p.add(torch.tensor(list(pairs), dtype=torch.long).reshape(-1, 2))
    for name in p.PARTS:
        getattr(p, name).normal_(generator=drawn)
    return p


@dataclass(frozen=True)
class Known(Problem):
    """L u + q(u) = g with u* = m p for a polynomial p of second degree in the units of the domain; no exact solution
    that a run could see."""

    dim: int = D
    kind: str = "ball"
    nonlinear: float = 0.0
    coupled: str = "all"

    @property
    def domain(self):
        if self.kind == "box":
            return domains.Box(self.dim, 1.0, 4.0)
        return domains.Ball(self.dim)

    @property
    def polynomial(self) -> Quadratic:
        pairs = {
            "all": list(combinations(range(self.dim), 2)),
            "chain": [(i, i + 1) for i in range(self.dim - 1)],
            "none": [],
        }
        p = polynomial(self.dim, pairs[self.coupled], seed=3)
        if self.kind == "box":
            q = Quadratic(self.dim, torch.full((self.dim,), 2.5), torch.full((self.dim,), 1.5)).double()
            q.load_state_dict({**p.state_dict(), "centre": q.centre, "lengths": q.lengths})
            return q
        return p

    def solution(self, x) -> Field:
        return self.domain.factor(x) * self.polynomial(x)

    def left_side(self, u, x):
        return u.lap + self.nonlinear * u.value**3

    def source(self, x):
        u = self.solution(x)
        return u.lap(torch.ones_like(x)) + self.nonlinear * u.value**3


def rungs(problem: Problem, last: str = "quadratic", seed: int = 0, **given) -> list[ladder.Rung]:
    return list(ladder.climb(planned(problem, {"start": "ladder", **given}), generator(seed), last))


# ---------------------------------------------------------------------------------------------------------------
# The polynomial


@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("pairs", [[], [(0, 5)], list(combinations(range(D), 2))], ids=["none", "one", "all"])
def test_the_polynomial_is_what_automatic_differentiation_says(pairs, units):
    p, x = polynomial(D, pairs, units=units), points(9, D).to(F64)
    found, expected = p(x), Field.of(lambda x: p(x).value, x)
    for name in ("value", "grad", "hessian_diagonal"):
        close(getattr(found, name).expand_as(getattr(expected, name)), getattr(expected, name), 1e-12, name)
    y = (x - 0.3) / torch.linspace(0.5, 2, D, dtype=F64) if units else x
    by_hand = (
        p.c
        + y @ p.a
        + 0.5 * y.square() @ p.b
        + sum(v * y[:, i] * y[:, j] for v, (i, j) in zip(p.v, pairs, strict=True))
    )
    close(found.value, by_hand, 1e-12)


def test_few_pairs_and_a_matrix_of_them_are_the_same_function(monkeypatch):
    p, x = polynomial(D, [(0, 1), (2, 5)]), points(9, D).to(F64)
    monkeypatch.setattr("kanpde.jets.quadratic.DENSE", 0)
    few = p(x)
    monkeypatch.setattr("kanpde.jets.quadratic.DENSE", 10**6)
    close(p(x).grad, few.grad, 1e-13)


def test_products_and_sums_of_fields_are_those_of_functions():
    m, p, x = domains.Ball(D).factor, polynomial(D, [(1, 2)]), points(5, D).to(F64)
    expected = Field.of(lambda x: m(x).value * p(x).value + p(x).value, x)
    found = m(x) * p(x) + p(x)
    for name in ("value", "grad", "hessian_diagonal"):
        close(getattr(found, name), getattr(expected, name), 1e-12, name)


@pytest.mark.parametrize("problem", [AllenCahn(D), HJB(D - 1), Heat(D - 1)], ids=lambda p: type(p).__name__)
def test_u_with_a_start_is_h_and_m_times_start_and_network(problem):
    net = build("kan", D, generator=generator(), widths=(3,)).double()
    p, x = polynomial(D, [(0, 3), (1, 2)]), problem.domain.interior(5, generator(1), dtype=F64)
    u = Ansatz(problem, net, start=p)
    m, h = problem.factor(x), problem.lift(x)
    close(u(x), (0 if h is None else h.value) + m.value * (p(x).value + net(x).squeeze(1)), 1e-12)
    close(problem.residual(Forward()(u, x), x), problem.residual(Autograd()(u, x), x), 1e-9)
    assert u.derivatives(x, ((0,), (0, 1)))[1].keys() == {(0,), (0, 1)}
    second = torch.stack([torch.func.hessian(lambda at: u._at(at[None])[0])(at)[0, 1] for at in x])
    close(u.derivatives(x, ((0, 1),))[1][0, 1], second, 1e-8)


# ---------------------------------------------------------------------------------------------------------------
# Least squares


def test_conjugate_gradients_are_a_dense_solution():
    problem, p = AllenCahn(D), polynomial(D, list(combinations(range(D), 2)))
    u = Ansatz(problem, Constant(torch.zeros(1, 1, dtype=F64)), start=p)
    equation = ladder.Equation(planned(problem, {"start": "ladder"}), u)
    x, unknowns = problem.domain.interior(60, generator(2), dtype=F64), p.coefficients
    for t in unknowns:
        t.requires_grad_()
    y = equation.weighed(equation.at({"interior": x})())
    flat = torch.cat([t.flatten() for t in y])
    rows = [
        torch.autograd.grad(r, unknowns, retain_graph=True, materialize_grads=True, allow_unused=True) for r in flat
    ]
    j = torch.stack([torch.cat([t.flatten() for t in row]) for row in rows])
    expected = torch.linalg.lstsq(j, -flat.detach().unsqueeze(1)).solution.squeeze(1)
    found = ladder.least_squares(y, unknowns, ladder._preconditioner(p, "cabv", x))
    close(torch.cat(found), expected, 1e-3)


@pytest.mark.parametrize(
    "problem",
    [Known(), Known(nonlinear=0.3), Known(kind="box"), Known(kind="box", nonlinear=0.1), Known(coupled="chain")],
    ids=lambda p: f"{p.kind}-{p.nonlinear}-{p.coupled}",
)
def test_a_solution_that_is_such_a_polynomial_is_found(problem):
    """Off the origin too, where the start is in the units of the domain."""
    found = rungs(problem)
    assert [rung.residual for rung in found] == sorted((rung.residual for rung in found), reverse=True)
    p = planned(problem, {"start": "ladder"}).start().double()
    p.load_state_dict(found[-1].state)
    x = problem.domain.interior(50, generator(5), dtype=F64)
    close((problem.domain.factor(x) * p(x)).value, problem.solution(x).value, 1e-6)
    assert found[-1].residual < 1e-5 * found[0].residual


def test_each_rung_has_what_it_says():
    constant, affine, additive = rungs(Known(coupled="none"))  # which leave nothing to pairs
    p = Known(coupled="none").polynomial
    assert constant.state["c"] != 0 and not constant.state["a"].any() and constant.count == 1
    assert affine.count == 1 + D and not affine.state["b"].any()
    assert additive.count == 1 + 2 * D
    close(additive.state["b"], p.b, 1e-6)
    assert [rung.name for rung in rungs(Known(), "additive")] == ["constant", "affine", "additive"]


@pytest.mark.parametrize("dim", [40, 70])
def test_the_pairs_of_a_chain_are_found_and_no_others(monkeypatch, dim):
    monkeypatch.setattr(ladder, "ALL_UP_TO", 0)
    monkeypatch.setattr(ladder, "TILE", (32, 48))  # several tiles, the last ones cut
    last = rungs(Known(dim=dim, coupled="chain"))[-1]
    found = {tuple(pair) for pair in last.state["pairs"].tolist()}
    chain = {(i, i + 1) for i in range(dim - 1)}
    assert len(found) == len(last.state["pairs"]) and all(i < j for i, j in found)
    assert len(found & chain) > 0.9 * len(chain)
    assert len(found - chain) <= 2 * ladder.ROUNDS * ladder.FALSE_PAIRS  # so many are expected, or half of them


def test_the_rest_of_a_solution_does_not_hide_the_pairs():
    """The two-body solution couples neighbours; what else there is counts as noise."""
    *_, found = (rung for rung in rungs(Poisson(60)) if "correlation" in rung.says)
    pairs = found.state["pairs"]
    assert (pairs[:, 1] - pairs[:, 0] == 1).double().mean() > 0.8 and len(pairs) > 40


def test_one_input_has_no_pairs():
    assert [rung.name for rung in rungs(Known(dim=1, coupled="none"))] == ["constant", "affine", "additive"]


def test_a_step_that_is_too_long_is_halved():
    """Allen-Cahn of size sqrt(d): the first step from zero makes the residual larger."""
    found = rungs(AllenCahn(1000), "affine")
    assert found[-1].residual < 0.05 * found[0].residual


# ---------------------------------------------------------------------------------------------------------------
# Runs


def started(tmp_path, problem, **given) -> Run:
    return train(
        problem, out=tmp_path / "run.h5", **{"backbone": "kan", "start": "ladder", "steps": 3, **SMALL, **given}
    )


def test_a_run_begins_with_its_start_alone_and_keeps_it_unless_training_is_better(tmp_path):
    run = started(tmp_path, AllenCahn(20), phases=[{"optimizer": "adam", "steps": 3, "lr": 10.0}])
    assert run.attrs["best_step"] == 0 and run.attrs["status"] == "finished"
    assert run.attrs["message"] == "training has not improved on the start, which is what is kept"
    assert run.rel_l2 == pytest.approx(run.floors["start"], rel=0.2)
    assert run.rel_l2 < 0.01 < run.attrs["rel_l2_last"]
    rows = json.loads(run.attrs["start_rungs"])
    names = [row["rung"] for row in rows]
    assert names[:4] == ["constant", "affine", "additive", "quadratic"] and {*names[3:]} == {"quadratic"}
    best = min(rows, key=lambda row: row["validation"])
    assert run.history["validation"][0] == best["validation"] and run.attrs["start_numbers"] == best["numbers"]
    u, x = run.load_model(), points(5, 20)
    m, p = u.problem.factor(x).value, u.start(x).value
    assert torch.equal(u(x), m * p)


def test_training_goes_on_below_the_start(tmp_path):
    run = started(
        tmp_path, AllenCahn(10), steps=40, **{**SMALL, "points": {"interior": 64, "test": 500, "validation": 200}}
    )
    assert run.attrs["best_step"] > 0
    assert run.attrs["validation_best"] < 0.95 * run.history["validation"][0]


def test_optimisers_see_the_loss_in_units_of_what_the_start_leaves(tmp_path):
    seen = []
    run = started(tmp_path, Poisson(20), steps=1, on_step=lambda s: seen.append(s.u.net[-1].scale.item()))
    first = run.history["held_out/interior"][0]
    assert seen[0] == pytest.approx(first**0.5, rel=1e-5)
    assert torch.load(run.checkpoint, weights_only=True)["objective"]["unit"] == pytest.approx(first**0.5)


def test_the_gradient_is_that_of_the_loss_in_its_unit():
    plan = planned(Poisson(4), {"backbone": "kan", "start": "ladder", **SMALL})
    u, x = plan.ansatz(), {"interior": plan.problem.domain.interior(8, generator())}
    objective, found = Objective(plan, u), []
    for unit in (1.0, 0.1):
        objective.unit = unit
        u.zero_grad()
        value = objective.backward(x, generator()).item()
        found.append([value, *(p.grad.clone() for p in u.parameters())])
    assert found[1][0] == pytest.approx(100 * found[0][0]) and objective.value == pytest.approx(found[0][0])
    for of_one, of_tenth in zip(found[0][1:], found[1][1:], strict=True):
        close(of_tenth, 100 * of_one, 1e-5)


@pytest.mark.parametrize("given", [{"average": 0.5}, {"start": "additive"}])
def test_it_goes_on_bit_for_bit(tmp_path, given):
    whole = train(
        SineGordon(12), out=tmp_path / "a.h5", backbone="kan", steps=4, **SMALL, **{"start": "ladder", **given}
    )
    stopped = tmp_path / "b.h5"
    train(
        SineGordon(12), out=stopped, backbone="kan", steps=4, on_step=lambda s: s.step == 2, **SMALL,
        **{"start": "ladder", **given},
    )  # fmt: skip
    gone_on = resume(stopped)
    if gone_on.attrs["steps"] != 4:
        gone_on = resume(stopped, steps=4)
    a, b = (run.load_model(best=False).state_dict() for run in (whole, gone_on))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_ctrl_c_while_it_is_made_leaves_a_run_that_begins_again(tmp_path, monkeypatch):
    config = {"backbone": "kan", "start": "ladder", "steps": 2, **SMALL}
    whole = train(SineGordon(12), out=tmp_path / "a.h5", **config)
    climb = ladder.climb

    def interrupted(*args):
        for rung in climb(*args):
            signal.raise_signal(signal.SIGINT)
            yield rung

    with monkeypatch.context() as patch:
        patch.setattr(ladder, "climb", interrupted)
        stopped = train(SineGordon(12), out=tmp_path / "b.h5", **config)
    assert stopped.attrs["status"] == "interrupted" and stopped.attrs["steps"] == 0 and not stopped.history
    a, b = (run.load_model(best=False).state_dict() for run in (whole, resume(stopped.path)))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_rung_that_is_asked_for_is_the_one(tmp_path):
    run = started(tmp_path, Poisson(8), start="affine", steps=1)
    assert run.attrs["start"] == "affine" and run.attrs["start_numbers"] == 9
    assert run.floors["affine"] < run.floors["start"] < 3 * run.floors["affine"]


def test_a_network_made_in_python_is_told_from_its_start(tmp_path):
    new = lambda: torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    net, config = new(), {"start": "ladder", "steps": 2, **SMALL}
    kept = copy.deepcopy(net.state_dict())
    run = train(Poisson(8), net, out=tmp_path / "run.h5", **config)
    assert all(torch.equal(weight, kept[name]) for name, weight in net.state_dict().items())
    assert run.load_model(net=new())(points(3, 8)).shape == (3,)


@dataclass(frozen=True)
class Whole(Problem):
    """A residual that does not tell its source: u* = 1 - |x|^2."""

    dim: int = 4

    @property
    def domain(self):
        return domains.Ball(self.dim)

    def residual(self, u, x):
        return u.lap + u.value.square() - (1 - x.square().sum(1)).square() + 2 * self.dim


@dataclass(frozen=True)
class Detached(Whole):
    """A source that automatic differentiation does not see."""

    def residual(self, u, x):
        return u.lap - x.detach().exp().sum(1)


def test_an_equation_need_not_tell_its_source(tmp_path):
    run = started(tmp_path, Whole(), start="affine", steps=1)
    assert run.load_model(problem=Whole()).start.c.item() == pytest.approx(1, abs=1e-5)


@dataclass(frozen=True)
class Free(Problem):
    """Lap u + u^3 = g in a box or a ball, with values or a flux on its boundary that no factor meets; u* = p."""

    dim: int = 5
    kind: str = "box"
    condition: str = "values"
    nonlinear: float = 0.0

    @property
    def domain(self):
        return domains.Box(self.dim, 0.0, 2.0) if self.kind == "box" else domains.Ball(self.dim)

    @property
    def conditions(self):
        if self.condition == "flux":  # n = x on the sphere
            return (Robin("boundary", 2.0, 1.0, lambda x: 2 * self.exact(x) + (x * self.polynomial(x).grad).sum(1)),)
        return (Dirichlet("boundary", self.exact),) if self.condition == "values" else ()

    @property
    def polynomial(self) -> Quadratic:
        return polynomial(self.dim, list(combinations(range(self.dim), 2)), seed=4)

    def exact(self, x):
        return self.polynomial.to(x)(x).value

    def left_side(self, u, x):
        return u.lap + self.nonlinear * u.value**3

    def source(self, x):
        u = self.polynomial.to(x)(x)
        return u.lap(torch.ones_like(x)) + self.nonlinear * u.value**3


class Plain(Free):
    """The same with the values of the boundary in the place of a condition."""

    conditions = ()

    def boundary_value(self, x):
        return self.exact(x)


@pytest.mark.parametrize(
    "problem",
    [Free(), Free(nonlinear=0.1), Free(kind="ball", condition="flux"), Plain(kind="ball"), Plain(dim=2)],
    ids=lambda p: f"{type(p).__name__}-{p.kind}-{p.condition}-{p.nonlinear}-{p.dim}",
)
def test_conditions_that_are_terms_of_the_loss_are_met(problem):
    """Harmonic products and affine functions are seen by them alone."""
    given = {"constraint": "soft", "points": {"boundary": 8}}
    found = rungs(problem, **given)
    p = planned(problem, {"start": "ladder", **given}).start().double()
    p.load_state_dict(found[-1].state)
    x = problem.domain.interior(50, generator(5), dtype=F64)
    close(p(x).value, problem.exact(x), 1e-5)


def test_without_a_factor_the_start_is_beside_the_network(tmp_path):
    problem = Free(3)
    run = started(tmp_path, problem, constraint="soft", points={**SMALL["points"], "boundary": 8}, steps=1)
    u, x = run.load_model(problem=problem), problem.domain.interior(6, generator(1))
    assert run.attrs["best_step"] == 0 and run.floors["start"] < 1e-5
    assert torch.equal(u(x), u.start(x).value)
    close(u(x), problem.exact(x), 1e-5)


@pytest.mark.parametrize("problem", [AllenCahn(D), HJB(D - 1), Heat(D - 1)], ids=lambda p: type(p).__name__)
def test_the_jet_of_a_start_beside_the_network(problem):
    """|grad (p + f)|^2 has 2 grad p . grad f in it."""
    net = build("kan", D, generator=generator(), widths=(3,)).double()
    p, x = polynomial(D, [(0, 3), (1, 2)]), problem.domain.interior(5, generator(1), dtype=F64)
    u = Ansatz(problem, net, hard=False, start=p)
    close(u(x), p(x).value + net(x).squeeze(1), 1e-12)
    close(problem.residual(Forward()(u, x), x), problem.residual(Autograd()(u, x), x), 1e-9)


def test_nothing_is_asked_of_pairs_where_squares_are_the_solution():
    class Squares(Free):
        @property
        def polynomial(self):
            return polynomial(self.dim, [], seed=4)

    found = rungs(Squares(), constraint="soft", points={"boundary": 8})
    assert [rung.name for rung in found] == ["constant", "affine", "additive"]


@dataclass(frozen=True)
class Mean(Known):
    """A condition without points."""

    conditions = (Integral(),)


@dataclass(frozen=True)
class Unknown(Known):
    """An unknown of the equation."""

    parameters = torch.nn.ParameterDict({"k": torch.tensor(1.0)})


@dataclass(frozen=True)
class Stated(Known):
    """Values that are built in."""

    conditions = (Dirichlet(),)


@pytest.mark.parametrize(
    "problem, given, match",
    [
        (Function(formula="sin(x)", ranges={"x": [0, 1]}), {"solver": "fit"}, "start: ladder is for PDEs"),
        (Mean(), {}, "start: ladder needs conditions at points, and integral has none"),
        (Detached(), {"solver": "adam"}, "start: ladder: the residual cannot be differentiated by x"),
        (Unknown(), {}, "start: ladder is for equations without unknowns"),
        (Poisson(3), {"start_from": "a.h5"}, "start: ladder has a start of its own, and start_from another"),
    ],
)
def test_what_has_no_such_start_is_refused_in_one_line(problem, given, match, tmp_path):
    with pytest.raises(ConfigError, match=match) as error:
        train(problem, steps=1, out=tmp_path / "run.h5", **{"start": "ladder", **given})
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_where_there_is_no_ladder_a_solver_starts_from_a_constant_or_the_network():
    assert planned(Poisson(1000), {"backbone": "kan"}).config.start == "ladder"
    assert planned(Unknown(1000), {"backbone": "kan"}).config.start == "constant"
    assert planned(Unknown(), {"backbone": "kan"}).config.start == "network"
    assert planned(Poisson(4), {"backbone": "kan"}).config.start == "ladder"
    assert planned(Stated(), {"backbone": "kan", "solver": "high_dim"}).config.start == "ladder"


def test_a_source_is_asked_for_inside_the_domain_only():
    class Inside(Problem):
        domain = domains.Box(2)

        def residual(self, u, x):
            if (x.detach().abs() > 1).any():
                raise ValueError("out of bounds")
            return u.lap - x[:, 0]

    planned(Inside(2))
