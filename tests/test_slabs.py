"""Slabs of time: jets of the assembled network, problems in the time of a slab, runs of them, and what there is not."""

import json
import signal
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import call, close, generator, network, one_line, refused
from torch import nn

import kanpde
from kanpde import ConfigError, Problem
from kanpde.domains import Box, Cylinder
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.nested import nested
from kanpde.jets.system import Slabs
from kanpde.operators import Autograd, Forward
from kanpde.problems import Heat, HJBControl, KdV, Schroedinger
from kanpde.problems.conditions import Condition, Dirichlet, Initial, Point, Robin
from kanpde.problems.slabs import continued, ends_of, in_slab
from kanpde.records.run import RunFile
from kanpde.runs.models import Run
from kanpde.training.loop import ResidualTraining
from kanpde.training.plan import Plan, configured

F64, PI = torch.float64, torch.pi
CUTS = (0.3, 0.5, 2.0)
BOUND = 1e-3
SHORT = {
    "backbone": {"name": "chebykan", "widths": [6], "degree": 6},
    "solver": "low_dim",
    "points": {"interior": 80, "test": 200, "validation": 60},
    "slices": {"points": 5, "volume": 0},
    "evaluation": {"every": 4},
}


@dataclass(frozen=True)
class Warming(Problem):
    """u_t = a(x, t) u_xx + g with u = exp(-t / 2) sin(2 x + t) on (0, 1) x (0, 2): t is everywhere."""

    dim: int = 1
    coordinates = ("x", "t")

    @property
    def domain(self):
        return Cylinder(Box(1, 0, 1), 2.0)

    @property
    def conditions(self):
        flux = lambda x: 2 * self.exact(x, 1)
        robin = lambda x: (1 + x[:, 1]) * self.exact(x) + x[:, 1] * flux(x)
        return (
            Dirichlet("x = 0", self.exact),
            Robin("x = 1", a=lambda x: 1 + x[:, 1], b=lambda x: x[:, 1], value=robin),
            Initial(self.exact),
        )

    def coefficients(self, x):
        return torch.stack([1 + x[:, 1] ** 2, 0 * x[:, 1]], 1)

    def directions(self, x):
        return torch.stack([x[:, 1], 1 + 0 * x[:, 1]], 1).unsqueeze(1)

    def residual(self, u, x):
        t = x[:, 1]
        exact = [self.exact(x, k) for k in range(3)]
        u_t = exact[1] - exact[0] / 2
        return u.along[:, 0] - u.lap - (u_t + 2 * t * exact[1] + 4 * (1 + t**2) * exact[0])

    def exact(self, x, k=0):
        """Its k-th derivative by the phase."""
        return (-x[:, 1] / 2).exp() * (2 * x[:, 0] + x[:, 1] + k * PI / 2).sin()


@dataclass(frozen=True)
class String(Problem):
    """u_tt = u_xx on (0, 1) x (0, 1) with u = sin(pi x) cos(pi t)."""

    dim: int = 1
    coordinates = ("x", "t")
    conditions = (Dirichlet(), Initial(lambda x: (PI * x[:, 0]).sin()), Initial(0.0, derivative="t"))

    @property
    def domain(self):
        return Cylinder(Box(1, 0, 1))

    def residual(self, u, x):
        return u.tt - u.xx

    def exact(self, x):
        return (PI * x[:, 0]).sin() * (PI * x[:, 1]).cos()


@dataclass(frozen=True)
class Cooling(Problem):
    """u_t = u_xx / 5 on (0, 1) x (0, 1) with u = sin(pi x) exp(-pi^2 t / 5)."""

    dim: int = 1
    coordinates = ("x", "t")
    conditions = (Dirichlet(), Initial(lambda x: (PI * x[:, 0]).sin()))

    @property
    def domain(self):
        return Cylinder(Box(1, 0, 1))

    def residual(self, u, x):
        return u.t - u.xx / 5

    def exact(self, x):
        return (PI * x[:, 0]).sin() * (-(PI**2) * x[:, 1] / 5).exp()


class Exact(nn.Module):
    """The exact solution of a problem, from a time on, in the place of a network."""

    def __init__(self, problem, start=0.0):
        super().__init__()
        self.problem, self.start = problem, start
        self.like = nn.Parameter(torch.zeros(1, dtype=F64))

    def forward(self, x):
        return self.problem.exact(torch.cat([x[:, :1], x[:, 1:] + self.start], 1))[:, None]


@pytest.fixture
def net():
    return Slabs([network("chebykan", 2, 2, seed=k) for k in range(3)], CUTS)


def at_all_times(n=60):
    """Points in all slabs, of which some lie where one ends."""
    x = torch.rand(n, 2, generator=generator(), dtype=F64) * torch.tensor([1.0, 2.0])
    x[:3, 1] = torch.tensor(CUTS)
    return x


# ---------------------------------------------------------------------------------------------------------------
# The network


def test_each_point_has_the_network_of_its_slab_and_the_time_since_that_began(net):
    x, number = at_all_times(), lambda t: sum(t > end for end in CUTS[:-1])
    for point, value in zip(x, net(x), strict=True):
        k = number(point[1])
        close(value, net.nets[k]((point - point.new_tensor([0, (0.0, *CUTS)[k]]))[None])[0])
    assert [number(t) for t in CUTS] == [0, 1, 2]  # an end is the earlier slab's
    assert net(x[:0]).shape == (0, 2)


def test_its_jets_are_those_of_nested_differentiation(net):
    x, g = at_all_times(), generator(3)
    s, v = torch.rand(len(x), 2, generator=g, dtype=F64), torch.randn(len(x), 3, 2, generator=g, dtype=F64)
    one = Slabs([nn.Sequential(part, nn.Linear(2, 1, dtype=F64)) for part in net.nets], CUTS)
    for ours, theirs in zip(Forward()(one, x, s, v).parts, Autograd()(one, x, s, v).parts, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("problem", [KdV(), Schroedinger()], ids=["a field", "a system"])
def test_its_taylor_jets_are_those_of_nested_differentiation(problem):
    problem, fields = continued(problem), len(problem.fields)
    u = Ansatz(problem, Slabs([network("chebykan", 2, fields, seed=k) for k in range(3)], (0.3, 0.5, 1.5)))
    x, indices = at_all_times(), ((0,), (1,), (0, 0, 0), (0, 1))
    value, found = u.derivatives(x, indices)
    close(value, u(x))
    for k, field in enumerate(problem.fields):
        column = (lambda t: t) if fields == 1 else (lambda t, k=k: t[:, k])
        for index, oracle in nested(lambda x, f=field: u.of(f)._at(x), x, indices).items():
            close(column(found[index]), oracle, name=str(index))


def test_torch_func_sees_it_and_a_graph_has_it(net):
    x = at_all_times()
    close(torch.vmap(lambda point: net(point[None])[0])(x), net(x))
    at = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(at)[:, 0].sum(), at)
    close(torch.func.vmap(torch.func.grad(lambda point: net(point[None])[0, 0]))(x), gradient)


# ---------------------------------------------------------------------------------------------------------------
# The problem in a slab


@pytest.mark.parametrize("start, end", [(0.0, 0.7), (0.7, 2.0)])
def test_the_exact_solution_solves_the_problem_in_the_time_of_a_slab(start, end):
    whole = continued(Warming())
    former = Ansatz(in_slab(whole, 0.0, start), Exact(Warming()), hard=False) if start else None
    problem = in_slab(whole, start, end, former)
    assert problem.domain.time == end - start and type(problem).__name__ == "Warming"
    u = Ansatz(problem, Exact(Warming(), start), hard=False)
    x = problem.domain.interior(50, generator(), dtype=F64)
    close(problem.exact(x), u(x).detach())
    assert problem.residual(Autograd()(u, x), x).abs().max() < 1e-12
    for name, condition in problem.asked.items():
        at = condition.points(problem, 50, generator(), "volume", dtype=F64)
        assert condition.misfit(u, at).abs().max() < 1e-12, name


def test_a_problem_of_left_side_and_source_moves_as_well():
    heat = Heat(3)
    problem = in_slab(continued(heat), 0.25, 1.0)
    x = problem.domain.interior(20, generator(), dtype=F64)
    later = x + x.new_tensor([0, 0, 0, 0.25])
    close(problem.source(x), heat.source(later))
    close(problem.exact(x), heat.exact(later))
    assert problem.has_source and list(problem.asked) == ["dirichlet", "initial"]


def test_conditions_in_space_stay_built_in_and_initial_values_are_left_to_the_loss():
    whole = continued(String())
    assert whole.exactly.met == {"dirichlet"} and String().exactly.met == set(String().asked)
    later = in_slab(whole, 0.5, 1.0)
    assert later.exactly.met == {"dirichlet"}
    x = at_all_times()
    close(later.factor(x).value, whole.factor(x).value)


def test_a_slab_begins_with_value_and_slope_of_the_one_before():
    whole = continued(String())
    former = Ansatz(in_slab(whole, 0.0, 0.4), network("chebykan", 2))
    asked = in_slab(whole, 0.4, 1.0, former).asked
    x = torch.cat([torch.rand(20, 1, generator=generator(), dtype=F64), torch.zeros(20, 1, dtype=F64)], 1)
    end = x + x.new_tensor([0, 0.4])
    value, slope = (asked[name].wanted(x) for name in ("initial", "initial_2"))
    close(value, former(end).detach())
    close(slope, nested(former._at, end, ((1,),))[(1,)].detach())
    assert not value.requires_grad and not slope.requires_grad


def test_a_slab_of_a_system_begins_with_each_field_of_the_one_before():
    whole = continued(Schroedinger())
    former = Ansatz(in_slab(whole, 0.0, 0.4), network("chebykan", 2, 2))
    asked = in_slab(whole, 0.4, 1.0, former).asked
    x = torch.cat([torch.rand(20, 1, generator=generator(), dtype=F64), torch.zeros(20, 1, dtype=F64)], 1)
    for k, field in enumerate(("re", "im")):
        close(asked[f"initial_{field}"].wanted(x), former(x + x.new_tensor([0, 0.4]))[:, k].detach())


def test_ends():
    assert ends_of(4, 2.0) == (0.5, 1.0, 1.5, 2.0) and ends_of([0.5, 0.7], 2.0) == (0.5, 0.7, 2.0)
    for wrong in ([0.7, 0.5], [0.5, 0.5], [2.0], [0.5, 3.0]):
        with pytest.raises(ConfigError, match="times that rise, above 0 and below 2"):
            ends_of(wrong, 2.0)


# ---------------------------------------------------------------------------------------------------------------
# Runs


@pytest.fixture(scope="module")
def cooled(tmp_path_factory):
    """A run of three slabs."""
    given = {**SHORT, "steps": 36, "loss": {"weights": {"initial": 100}}}
    return kanpde.train(Cooling(), slabs=[0.3, 0.6], out=tmp_path_factory.mktemp("cooled") / "run.h5", **given)


def test_a_run_meets_the_exact_solution_at_all_times_and_is_continuous_to_the_misfit(cooled):
    assert cooled.attrs["status"] == "finished" and cooled.rel_l2 < BOUND
    u, x = cooled.load_model(problem=Cooling()), at_all_times(400) * torch.tensor([1.0, 0.5])
    with torch.no_grad():
        assert (u(x) - Cooling().exact(x)).norm() < BOUND * Cooling().exact(x).norm()
        x[:, 1] = 0.3
        gap = (u(x) - u(x + torch.tensor([0, 1e-9]))).square().mean().sqrt()
    misfits = {s: m**0.5 for s, m in zip(*(cooled.history[name] for name in ("slab", "held_out/initial")), strict=True)}
    assert 0 < gap < 3 * misfits[1] < BOUND


def test_its_history_goes_on_and_its_errors_are_of_all_times(cooled):
    run, exact = RunFile.open(cooled.path), Cooling().exact
    history, net = run.history, cooled.load_model(problem=Cooling()).net
    assert list(history["step"]) == [0, 4, 8, 12, 12, 16, 20, 24, 24, 28, 32, 36]
    assert list(history["slab"]) == [0] * 4 + [1] * 4 + [2] * 4 and (np.diff(history["wall_s"]) >= 0).all()
    assert net.ends == (0.3, 0.6, 1.0) and run.attrs["parameters"] == sum(p.numel() for p in net.parameters())
    t = run.table("times")["t"]
    assert t.min() < 0.1 and t.max() > 0.9
    x, error = torch.from_numpy(run.field["x"]), run.field["error"]
    assert np.linalg.norm(error) / exact(x).norm().item() == pytest.approx(cooled.rel_l2, rel=1e-3)
    each = json.loads(run.attrs["slabs"])
    assert [part["end"] for part in each] == pytest.approx(net.ends) and [part["steps"] for part in each] == [12] * 3


def test_it_is_not_verified_and_says_why(cooled):
    with pytest.raises(ConfigError, match="what it jumps by between them is in no residual"):
        kanpde.verify(cooled, problem=Cooling(), seconds=1.0)
    with pytest.raises(ConfigError, match="a run in slabs of time; corrections are of one network"):
        kanpde.correct(cooled, problem=Cooling())


RESUMED = {
    "steps of Levenberg-Marquardt": {"phases": [{"optimizer": "levenberg_marquardt", "steps": 18}]},
    "an average, a balance, a pool of points": {
        "average": 0.9,
        "loss": {"balance": "gradnorm"},
        "points": {**SHORT["points"], "refresh": 3},
    },
    "a finer grid": {
        "backbone": {"name": "kan", "widths": [4], "grid_size": 3, "spline_order": 4},
        "phases": [{"optimizer": "adam", "steps": 9}, {"optimizer": "adam", "steps": 9, "grid_size": 6}],
    },
}


@pytest.mark.parametrize("case", RESUMED)
def test_resuming_gives_bit_for_bit_the_uninterrupted_run(tmp_path, monkeypatch, case):
    given = {**SHORT, "slabs": 3, "phases": [{"optimizer": "adam", "steps": 18}], **RESUMED[case]}
    whole = kanpde.train(Cooling(), out=tmp_path / "whole.h5", **given)
    step, seen = ResidualTraining._step, []

    def stopped(self, *args):
        step(self, *args)
        seen.append(self.plan.begins)
        if len(seen) == 10:  # in the second slab
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ResidualTraining, "_step", stopped)
    part = kanpde.train(Cooling(), out=tmp_path / "part.h5", **given)
    monkeypatch.undo()
    assert part.attrs["status"] == "interrupted" and part.attrs["steps"] == 10 and seen[-1] == pytest.approx(1 / 3)
    Run.open(part.path).load_model(problem=Cooling())
    done = kanpde.resume(part.path, problem=Cooling())
    ours, theirs = (torch.load(run.checkpoint, weights_only=True) for run in (done, whole))
    assert str(ours["weights"]) == str(theirs["weights"]) and str(ours["best"]) == str(theirs["best"])
    a, b = (RunFile.open(run.path) for run in (done, whole))
    for name in b.history.keys() - {"wall_s", "steps_per_s", "peak_memory_bytes"}:
        assert np.array_equal(a.history[name], b.history[name], equal_nan=True), name
    assert np.array_equal(a.field["u"], b.field["u"]) and done.rel_l2 == whole.rel_l2
    with pytest.raises(ConfigError, match="the run has done its 18 steps"):
        kanpde.resume(done.path, problem=Cooling())
    with pytest.raises(ConfigError, match="a run in slabs of time has its 18, shared out among them"):
        kanpde.resume(done.path, problem=Cooling(), steps=30)


def test_the_command_line_solves_a_reference_in_slabs(tmp_path, capsys, no_pictures):
    given = ("--set", "points.interior=60", "--set", "backbone.widths=[5]", "--steps", "5", "--out", tmp_path / "r.h5")
    code, out, _ = call(capsys, "solve", "kdv", "--set", "slabs=2", *given)
    assert code == 0 and "slabs     2 of time, to 0.5, 1" in out and "exactly: periodic; by the loss: initial" in out
    run = Run.open(tmp_path / "r.h5")
    assert run.rel_l2 < 2 and list(run.history["step"]) == [0, 2, 2, 5]
    u = run.load_model()
    x = torch.tensor([[-1.0, 0.7], [1.0, 0.7]], dtype=F64)
    values = u(x)
    close(values[0], values[1])


def test_a_criterion_ends_the_slab_it_is_met_in_and_another_one_goes_on_in_the_last(tmp_path):
    given = {**SHORT, "phases": [{"optimizer": "adam", "steps": 16}], "slabs": 2, "out": tmp_path / "run.h5"}
    run = kanpde.train(Cooling(), stop={"loss": 1e9}, **given)
    assert run.attrs["steps"] == 0 and list(run.history["slab"]) == [0, 1] and list(run.history["step"]) == [0, 0]
    with pytest.raises(ConfigError, match="the run has ended by stop.loss"):
        kanpde.resume(run.path, problem=Cooling())
    run = kanpde.resume(run.path, problem=Cooling(), stop={"loss": None})
    assert run.attrs["steps"] == 8 and list(run.history["slab"]) == [0, 1, 1, 1]
    stopped = kanpde.train(Cooling(), on_step=lambda state: state.step in (3, 7), **given | {"out": tmp_path / "b.h5"})
    assert [each["steps"] for each in json.loads(stopped.attrs["slabs"])] == [3, 4]


def test_a_network_sees_the_time_of_its_slab_in_units_of_its_length():
    plan = Plan.of(configured(KdV(), {**SHORT, "slabs": [0.25], "steps": 10}), KdV())
    assert [net[0].scale.tolist() for net in plan.net.nets] == [[1, 4], pytest.approx([1, 4 / 3])]
    assert plan.frame is None and plan.slab(0).frame.lengths.tolist() == [1, 0.25]


def test_seconds_are_shared_out_too():
    plan = Plan.of(configured(String(), {**SHORT, "slabs": 4, "steps": 10, "stop": {"seconds": 8.0}}), String())
    each = [plan.slab(k).config for k in range(4)]
    assert [config.stop.seconds for config in each] == [2.0, 4.0, 6.0, 8.0]
    assert [config.steps for config in each] == [2, 3, 2, 3] and [config.seed for config in each] == [0, 1, 2, 3]


# ---------------------------------------------------------------------------------------------------------------
# What there is not


@dataclass(frozen=True)
class Told(Condition):
    """A condition of one's own."""

    def misfit(self, u, x):
        return u(x) - x[:, -1]


def changed(**members):
    return type("Changed", (String,), {"coordinates": ("x", "t"), **members})()


@pytest.mark.parametrize(
    "problem, given, message",
    [
        (kanpde.problems.Poisson(2), {}, "Poisson has no time"),
        (HJBControl(2), {}, "a Paths is not cut in time"),
        (changed(conditions=(Dirichlet(),)), {}, "has no Initial"),
        (changed(conditions=(*String.conditions, Point([0.5, 0.5], 0.0))), {}, "Point is not asked for slab by slab"),
        (changed(conditions=(*String.conditions, Told())), {}, "Told is not asked for slab by slab"),
        (changed(c=kanpde.Unknown(1.0)), {}, "has unknowns, which are the same at all times"),
        (changed(factor=lambda self, x: None), {}, "states factor of its own"),
        (String(), {"steps": 3}, "4 of them with 3 steps in all leave a phase of one without a step"),
        (String(), {"stop": {"to": 1e-3}}, "given beside stop.to"),
        (String(), {"start_from": "run.h5"}, "given beside start_from"),
        (String(), {"start": "ladder"}, "start: ladder is that of all times"),
        (String(), {"slabs": [0.5, 0.4]}, "times that rise"),
        (String(), {"slabs": 1}, "greater than or equal to 2"),
    ],
)
def test_what_there_is_not_is_one_line(problem, given, message):
    with pytest.raises(ConfigError, match=message) as info:
        Plan.of(configured(problem, {**SHORT, "slabs": 4, **given}), problem)
    one_line(info)


def test_a_network_of_ones_own_and_separate_ones_are_refused():
    with pytest.raises(ConfigError, match="given beside a network made in Python"):
        kanpde.train(String(), nn.Linear(2, 1), slabs=2)
    with pytest.raises(ConfigError, match="given beside networks: separate"):
        Plan.of(configured(Schroedinger(), {**SHORT, "slabs": 2, "networks": "separate"}), Schroedinger())
    refused("kanpde.solve", "cavity", "--set", "slabs=2")
