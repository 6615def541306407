"""Weights are chosen, and runs stopped and judged, by the whole loss at held-out points, whatever else is known."""

import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import one_line
from torch import nn

import kanpde
from kanpde import Run
from kanpde.config import PhaseConfig
from kanpde.domains import Box
from kanpde.ground.errors import ConfigError
from kanpde.optim import RestartingLBFGS
from kanpde.optim.optimisers import make_optimizer
from kanpde.problems import Poisson, PoissonCos
from kanpde.runs.stored import config_of, extended
from kanpde.solve import _result_table
from kanpde.training.ending import Ending
from kanpde.training.loop import ResidualTraining
from kanpde.training.plan import Plan

SMALL = {
    "backbone": {"name": "kan", "widths": [6]},
    "solver": "adam",
    "points": {"interior": 60, "test": 300, "validation": 200},
    "evaluation": {"every": 10},
    "slices": {"points": 5, "volume": 0},
}
SOFT = {"constraint": "soft", "points": {**SMALL["points"], "boundary": 40}}


def run_of(problem, path, **options) -> Run:
    return kanpde.train(problem, out=path, **{**SMALL, **options})


@dataclass(frozen=True)
class Plate(kanpde.Problem):
    """Laplace on a square, 300 + 100 exp(x_1) cos(x_2) K on its boundary: zero solves the equation alone."""

    @property
    def domain(self):
        return Box(self.dim)

    def residual(self, u, x):
        return u.lap

    def boundary_value(self, x):
        return 300 + 100 * x[:, 0].exp() * x[:, 1].cos()


@dataclass(frozen=True)
class SolvedPlate(Plate):
    """The same with its solution stated."""

    def exact(self, x):
        return self.boundary_value(x)


@dataclass(frozen=True)
class Unknown(kanpde.Problem):
    """u'' = -k on (-1, 1), u(0) = 1 observed: k = 2."""

    parameters: nn.Module = field(default_factory=lambda: nn.ParameterDict({"k": nn.Parameter(torch.zeros(()))}))
    terms = ("observed",)

    @property
    def domain(self):
        return Box(self.dim)

    def residual(self, u, x):
        return u.lap + self.parameters["k"]

    def extra_terms(self, u):
        return {"observed": (u(torch.zeros(1, 1)) - 1).square().mean()}


def test_a_network_that_solves_the_equation_alone_is_not_kept(tmp_path):
    run = run_of(Plate(2), tmp_path / "run.h5", **SOFT, phases=[{"steps": 150, "lr": 5e-2}])
    x = Plate(2).domain.interior(500, torch.Generator().manual_seed(1))
    u, exact = run.load_model(problem=Plate(2))(x), Plate(2).boundary_value(x)
    assert run.attrs["best_step"] > 100 and (u - exact).norm() < 0.5 * exact.norm()
    assert run.history["held_out/interior"][0] < 0.1 * run.history["held_out/boundary"][0]


def test_patience_waits_while_the_whole_loss_falls(tmp_path):
    given = {**SOFT, "phases": [{"steps": 80, "lr": 5e-2}], "stop": {"patience": 2}}
    run = run_of(Plate(2), tmp_path / "run.h5", **given)
    assert run.attrs["steps"] == 80 and run.history["held_out/interior"][-1] > run.history["held_out/interior"][0]


def test_an_unknown_is_not_the_initial_guess(tmp_path):
    phases = [{"steps": 150, "lr": {"rest": 1e-2, "problem": 5e-2}}]
    run = run_of(Unknown(1), tmp_path / "run.h5", phases=phases)
    assert abs(run.load_model(problem=Unknown(1)).problem_parameters["k"].item() - 2) < 0.3


def test_the_solution_is_reported_and_nothing_else(tmp_path):
    """Bit for bit the same weights, kept at the same step, stopped at the same loss, with the solution and without."""
    given = {**SOFT, "phases": [{"steps": 60, "lr": 5e-2}], "stop": {"loss": 500, "patience": 3}}
    runs = [run_of(p(2), tmp_path / f"{p.__name__}.h5", **given) for p in (Plate, SolvedPlate)]
    saved = [torch.load(run.checkpoint, weights_only=True)["best"] for run in runs]
    assert saved[0]["step"] == saved[1]["step"] and saved[0]["terms"] == saved[1]["terms"]
    assert all(torch.equal(w, saved[1]["weights"][name]) for name, w in saved[0]["weights"].items())
    assert np.array_equal(runs[0].history["validation"], runs[1].history["validation"])
    assert np.isnan(runs[0].rel_l2) and runs[1].rel_l2 > 0


def test_the_score_is_the_weighted_loss_at_points_that_training_does_not_see(tmp_path):
    """Every term, the gradient of the residual too, by hand from the model at the held-out points, in float64."""
    loss = {"gradient": "exact", "weights": {"gradient": 0.5, "boundary": 7.0}}
    backbone = {"name": "kan", "widths": [4], "spline_order": 5}
    given = {**SOFT, "dtype": "float64", "steps": 1, "loss": loss, "backbone": backbone}
    run = run_of(Plate(2), tmp_path / "run.h5", **given)
    problem = Plate(2)
    training = ResidualTraining(Plan.of(config_of(run), problem, stored=True), run)
    training.load_state_dict(torch.load(run.checkpoint, weights_only=True))
    x = training.evaluator.held_out["interior"].requires_grad_()
    u, edge = training.u, training.evaluator.held_out["boundary"]
    (du,) = torch.autograd.grad(u(x).sum(), x, create_graph=True)
    second = [torch.autograd.grad(du[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)]
    r = problem.residual_scale * sum(second)
    (dr,) = torch.autograd.grad(r.sum(), x)
    edges = (u(edge) - problem.boundary_value(edge)).square().mean()
    by_hand = r.square().mean() + 0.5 * dr.square().mean() + 7 * edges
    assert run.history["validation"][-1] == pytest.approx(by_hand.item(), rel=1e-10)
    assert not torch.isin(x, training.supply.pools["interior"]()).any()


def test_losses_are_compared_with_one_set_of_weights(tmp_path):
    """A balance that has moved makes the score of all weights larger, not that of the later ones alone."""
    weights = {"a": 1.0, "b": 1.0}
    total = lambda terms: sum(weights[name] * value for name, value in terms.items())
    net, step = nn.Linear(1, 1), iter(range(9))
    state, config = SimpleNamespace(step=0), SimpleNamespace(evaluation=SimpleNamespace(best_from=0))
    objective, best = SimpleNamespace(total=total), {"terms": None, "step": 0, "weights": None, "stale": 0}
    of = {"config": config, "objective": objective, "tested": net, "state": state, "best": best}
    training = SimpleNamespace(**of, _adapted_now=dict)

    def evaluated(terms):
        state.step = next(step)
        ResidualTraining._keep_best(training, terms)
        return training.best["step"]

    assert evaluated({"a": 1.0, "b": 1.0}) == 0
    weights["b"] = 100.0
    assert evaluated({"a": 1.1, "b": 0.9}) == 1, "its score, 91.1, is to be compared with 101 and not with 2"
    weights["b"] = 0.0
    assert evaluated({"a": 1.2, "b": 0.1}) == 1, "its score, 1.2, is to be compared with 1.1 and not with 91.1"


def test_best_may_start_after_a_warm_up(tmp_path):
    given = {"phases": [{"steps": 30, "lr": 1.0}]}  # so large that the first weights are the best
    at_once = run_of(Poisson(3), tmp_path / "a.h5", **given)
    later = run_of(Poisson(3), tmp_path / "b.h5", **given, evaluation={"every": 10, "best_from": 20})
    none = run_of(Poisson(3), tmp_path / "c.h5", **given, evaluation={"every": 10, "best_from": 99})
    assert (at_once.attrs["best_step"], none.attrs["best_step"]) == (0, 30) and later.attrs["best_step"] in (20, 30)


def test_a_run_that_ends_worse_than_it_began_says_so(tmp_path):
    with pytest.warns(UserWarning, match=r"ended worse than it began: validation loss .* at first .*"):
        run = run_of(Poisson(3), tmp_path / "run.h5", phases=[{"steps": 20, "lr": 1.0}])
    assert run.attrs["status"] == "diverged" and run.attrs["best_step"] == 0
    assert run.attrs["validation_last"] > 2 * run.attrs["validation_best"] and "worse" in run.attrs["message"]
    assert run.rel_l2 == run.history["rel_l2"][0] != run.history["rel_l2"][-1]
    with pytest.raises(ConfigError, match="has done its 20 steps"):
        kanpde.resume(run.path)


def test_kept_and_last_weights_far_apart_are_a_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = run_of(Poisson(3), tmp_path / "run.h5", phases=[{"steps": 60, "lr": 1e-2}])
    ending = Ending(
        u=SimpleNamespace(start=None),
        objective=SimpleNamespace(total=lambda terms: sum(terms.values())),
        best={"terms": {"interior": 1.0, "boundary": 1e-3}, "step": 10},
        plan=SimpleNamespace(dtype=torch.float32),
        evaluator=None,
        step=20,
        loss=1.0,
        retreats=[],
        run=run,
    )
    with pytest.warns(UserWarning, match=r"^kept \(step 10\) and last weights differ in boundary 0.001 and 0.0021$"):
        assert ending.verdict({"interior": 1.9, "boundary": 2.1e-3}) == "finished"


def test_of_a_failed_run_the_best_weights_are_shown(tmp_path):
    def explode(state):
        if state.step >= 25:  # after a return to the best state, too
            with torch.no_grad():
                next(state.u.net.parameters()).fill_(float("inf"))

    with pytest.raises(kanpde.RunFailed):
        run_of(Poisson(3), tmp_path / "run.h5", phases=[{"steps": 60, "lr": 1.0}], on_step=explode)
    run = Run.open(tmp_path / "run.h5")
    at = list(run.history["step"]).index(run.attrs["best_step"])
    assert run.attrs["status"] == "failed" and run.rel_l2 == run.history["rel_l2"][at] != run.history["rel_l2"][-1]


def test_the_table_says_which_weights_were_kept_and_why(tmp_path):
    run = run_of(Poisson(3), tmp_path / "run.h5", steps=20)
    cells = [list(column.cells) for column in _result_table(run).columns]
    assert cells[0][:2] == ["kept step 20: least validation loss", "last step 20"]
    at, loss = cells[0].index("validation loss, and of the last"), f"{run.history['validation'][-1]:.3e}"
    assert cells[1][at] == cells[2][at] == loss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_whose_loss_no_step_makes_smaller_ends_and_says_where(tmp_path, dtype):
    run = kanpde.train(
        PoissonCos(2),
        solver="low_dim",
        out=tmp_path / "run.h5",
        constraint="soft",
        points={"interior": 100, "boundary": 80, "test": 100, "validation": 50},
        backbone={"name": "chebykan", "widths": [], "degree": 16, "squash": "none"},
        phases=[{"optimizer": "levenberg_marquardt", "steps": 400}],
        dtype=dtype,
        verify=False,
    )
    assert run.history["step"][-1] < 400 and run.attrs["status"] == "finished"
    said = run.attrs["converged"]
    assert f"in the digits of {dtype}" in said and ("float64 may go further" in said) == (dtype == "float32")
    with pytest.raises(ConfigError, match="ended by convergence") as info:
        kanpde.resume(run.path, steps=500)
    assert "start_from" in one_line(info)


def test_a_run_that_its_clock_has_ended_goes_on_with_another(tmp_path):
    run = run_of(Poisson(3), tmp_path / "run.h5", steps=40, stop={"seconds": 1e-6})
    done = run.attrs["steps"]
    assert done < 40
    with pytest.raises(ConfigError) as info:
        kanpde.resume(run.path)
    assert "stop.seconds=1e-06" in one_line(info) and Run.open(run.path).attrs["steps"] == done
    longer = kanpde.resume(run.path, stop={"seconds": 600})
    assert longer.attrs["steps"] == 40 and longer.config["stop"]["seconds"] == 600


def test_a_run_that_patience_has_ended_goes_on_without(tmp_path):
    run = run_of(Poisson(3), tmp_path / "run.h5", phases=[{"steps": 60, "lr": 1.0}], stop={"patience": 1})
    assert run.attrs["steps"] < 60
    with pytest.raises(ConfigError, match="stop.patience=1"):
        kanpde.resume(run.path)
    assert kanpde.resume(run.path, stop={"patience": None}).attrs["steps"] == 60


def test_checkpoints_of_older_runs_go_on(tmp_path):
    """Their best weights were chosen by another score, which is measured again."""
    run = run_of(Poisson(3), tmp_path / "run.h5", steps=20)
    saved = torch.load(run.checkpoint, weights_only=True)
    terms = saved["best"].pop("terms")
    saved["best"]["score"] = 1e-9
    torch.save(saved, run.checkpoint)
    training = ResidualTraining(Plan.of(extended(config_of(run), 30), stored=True), run)
    training.load_state_dict(torch.load(run.checkpoint, weights_only=True))
    assert training.best["terms"] == pytest.approx(terms, rel=1e-6)


def test_lbfgs_that_has_converged_holds():
    """At the minimum no step is shorter than the last: neither an error nor another weight, however long it goes on."""
    p = nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = RestartingLBFGS([p])
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = (p - torch.tensor([0.1, 0.3])).square().sum() + 1
        loss.backward()
        return loss

    for _ in range(50):
        optimizer.step(closure)
    held, calls = p.detach().clone(), 0
    for _ in range(400):
        optimizer.step(closure)
    assert torch.equal(p, held) and torch.allclose(held, torch.tensor([0.1, 0.3])) and calls == 400


def test_the_first_step_of_soap_is_one(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = make_optimizer(PhaseConfig(optimizer="soap", steps=1), kanpde.Ansatz(Poisson(2), net))
    before = [p.detach().clone() for p in net.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    x = torch.ones(4, 2)

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        return loss

    first = optimizer.step(closure)
    for p, former in zip(net.parameters(), before, strict=True):
        assert torch.allclose(former - p, 1e-3 * p.grad.sign(), rtol=1e-3), "of Adam, down the first gradient"
    assert closure() < first
