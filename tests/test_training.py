"""The loop: resuming is exact, phases and stops do what they say, a failure leaves a good file."""

import copy
import itertools
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np
import pytest
import torch
from conftest import interrupt_after, planned

import kanpde
from kanpde import Run
from kanpde.config import PhaseConfig, validate
from kanpde.domains import Box
from kanpde.ground.errors import ConfigError
from kanpde.optim.optimisers import schedule
from kanpde.problems import Poisson, Schroedinger
from kanpde.runs.stored import config_of
from kanpde.training import loop as training
from kanpde.training.objective import Objective

SMALL = {
    "points": {"interior": 20, "test": 300, "validation": 200},
    "evaluation": {"every": 5},
    "slices": {"points": 9, "volume": 5},
}
SOFT = {"constraint": "soft", "points": {**SMALL["points"], "boundary": 10}}
ADAM = {"optimizer": "adam", "steps": 8, "lr": 5e-3, "schedule": "linear"}
SPRING = {"optimizer": "gauss_newton", "options": {"momentum": 0.9, "rows": 9}}
LM = {"optimizer": "levenberg_marquardt"}
LBFGS = {"optimizer": "lbfgs", "steps": 6, "lr": 1.0}


def small(tmp_path, name="run", problem=None, **options):
    options = {"backbone": {"name": "metakan", "widths": [4, 4], "meta_hidden": 8}, **SMALL, **options}
    return kanpde.train(problem or Poisson(4), out=tmp_path / f"{name}.h5", **options)


def same_history(a, b):
    clock = {"wall_s", "steps_per_s", "peak_memory_bytes"}
    assert a.keys() == b.keys()
    for name in a.keys() - clock:
        assert np.array_equal(a[name], b[name], equal_nan=True), name


RESUMED = {
    "adam": {"phases": [{**ADAM, "steps": 14}]},
    "into the second phase": {"phases": [ADAM, LBFGS]},
    "within L-BFGS": {"phases": [{**ADAM, "steps": 3}, {**LBFGS, "steps": 11}]},
    "a pool of points": {"phases": [{**ADAM, "steps": 14}], "points": {**SMALL["points"], "refresh": 4}},
    "fixed points": {"phases": [{**ADAM, "steps": 14}], "points": {**SMALL["points"], "refresh": "fixed"}},
    "probes": {"phases": [{**ADAM, "steps": 14}], "operator": {"name": "hutchinson", "probes": 2}, "solver": "adam"},
    "frozen probes": {
        "phases": [{**ADAM, "steps": 3}, {**LBFGS, "steps": 11}],
        "operator": {"name": "sdgd", "dims": 2},
        "solver": "adam",
    },
    "SOAP, gradient, directions, average": {
        "phases": [
            {"optimizer": "soap", "steps": 14, "lr": 3e-3, "warmup": 0.2, "options": {"precondition_frequency": 3}}
        ],
        "loss": {"gradient": "almost_everywhere", "directions": 2},
        "average": 0.9,
    },
    "prompts of low rank": {
        "phases": [{**ADAM, "steps": 14, "lr": {"prompts": 1e-2, "rest": 1e-3}}],
        "backbone": {"name": "metakan", "widths": [4, 4], "meta_hidden": 8, "prompt_rank": 1},
        "average": 0.9,
    },
    "Muon, RAD, balance": {
        "phases": [{"optimizer": "muon", "steps": 14, "schedule": "one_cycle"}],
        "constraint": "soft",
        "points": {**SOFT["points"], "adapt": {"candidates": 3}},
        "loss": {"balance": {"name": "gradnorm", "every": 3}},
    },
    "RBA, relobralo": {
        "phases": [{**ADAM, "steps": 14}],
        "points": {**SMALL["points"], "refresh": 5},
        "loss": {"balance": {"name": "relobralo", "lookback": 0.5}, "emphasis": "rba"},
    },
    "SPRING": {
        "phases": [
            {**ADAM, "steps": 5},
            {"optimizer": "gauss_newton", "steps": 9, "options": {"momentum": 0.9, "rows": 9}},
        ],
        "solver": "adam",
        "dtype": "float64",  # in float32 these steps are so long that rounding decides whether the run diverges
    },
    "soft constraint, AdamW": {"phases": [{**ADAM, "optimizer": "adamw", "steps": 14}], **SOFT},
    "points that grow": {
        "phases": [{**LM, "steps": 6, "points": 15}, {**LM, "steps": 4, "degree": 6}, {**LM, "steps": 4, "points": 30}],
        "backbone": {"name": "chebykan", "widths": [3], "degree": 4},
        "solver": "low_dim",
    },
    "Sobol": {"phases": [{**ADAM, "steps": 14}], "points": {**SMALL["points"], "sequence": "sobol"}},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The whole run of a case, once for all its stops."""
    return cache(lambda case: small(tmp_path_factory.mktemp("whole"), **RESUMED[case]))


STOPS = {
    "into the second phase": [7, 8, 10],
    "points that grow": [7, 10],
    "a pool of points": [7, 8],
    "RBA, relobralo": [7, 10],
    "adam": [7, 10],
}
"""Within all that goes on, and where a phase ends, points are drawn anew or a row is written."""


@pytest.mark.parametrize(
    "case, stop_at",
    [
        pytest.param(case, stop, marks=[] if stop in STOPS.get(case, [7]) else [pytest.mark.slow])
        for case in RESUMED
        for stop in (7, 8, 10)
    ],
)
def test_resuming_gives_bit_for_bit_the_uninterrupted_run(tmp_path, case, stop_at, monkeypatch, uninterrupted):
    whole = uninterrupted(case)
    interrupt_after(monkeypatch, stop_at)
    part = small(tmp_path, "part", **RESUMED[case])
    assert part.attrs["status"] == "interrupted" and Run.open(part.path).attrs["status"] == "interrupted"
    monkeypatch.undo()
    done = kanpde.resume(part.path)
    assert done.attrs["status"] == "finished"
    ours, theirs = (torch.load(run.checkpoint, weights_only=True) for run in (done, whole))
    for name, weight in theirs["weights"].items():
        assert torch.equal(weight, ours["weights"][name]), name
    for name in ("weights", "best"):
        assert str(ours[name]) == str(theirs[name])
    same_history(Run.open(done.path).history, Run.open(whole.path).history)
    assert np.array_equal(Run.open(done.path).field["u"], Run.open(whole.path).field["u"])


def test_points_grow_from_phase_to_phase(tmp_path):
    """Those of a phase that does not say stay; the loss is that of the points of its phase."""
    drawn, phases = [], RESUMED["points that grow"]["phases"]
    made = training.ResidualTraining(
        planned(Poisson(2), {**SMALL, **RESUMED["points that grow"]}), Run(tmp_path / "run.h5")
    )
    for _ in made._phases():
        drawn.append(made.supply.points()["interior"])
        made.state.step += phases[len(drawn) - 1]["steps"]
    assert [len(x) for x in drawn] == [15, 15, 30]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2][:15])


def test_points_that_have_to_stay_cannot_grow(tmp_path):
    phases = [{**ADAM, "points": 9}]
    with pytest.raises(ConfigError, match="beside loss.emphasis: rba, which knows each point"):
        small(tmp_path, phases=phases, loss={"emphasis": "rba"}, points={**SMALL["points"], "refresh": "fixed"})
    with pytest.raises(ConfigError, match="rows that they have"):
        small(tmp_path, problem=kanpde.problems.Feynman(), phases=phases)


def test_training_reduces_the_error(tmp_path):
    given = {"backbone": {"name": "kan", "widths": [8]}, "evaluation": {"every": 20}, "start": "network"}
    run = small(tmp_path, phases=[{**ADAM, "steps": 100, "lr": 1e-2}], **given)
    assert run.history["rel_l2"][-1] < 0.3 * run.history["rel_l2"][0]
    assert run.rel_l2 == pytest.approx(min(run.history["rel_l2"]), rel=0.2)


def test_variance_of_a_stochastic_operator_is_logged(tmp_path):
    run = small(tmp_path, steps=10, operator={"name": "sdgd", "dims": 1}, solver="adam")
    assert all(value > 0 for value in run.history["estimator_variance"][1:])
    assert "estimator_variance" not in small(tmp_path, "exact", steps=5).history


def test_lbfgs_lowers_the_loss_on_frozen_points(tmp_path):
    given = {"backbone": {"name": "kan", "widths": [4]}, "dtype": "float64", "start": "network"}
    run = small(tmp_path, phases=[{**LBFGS, "steps": 30}], **given)
    losses = run.history["loss"][1:]
    assert all(b <= a for a, b in itertools.pairwise(losses)) and losses[-1] < 0.1 * losses[0]


def test_global_generators_and_dtype_are_untouched(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_default_dtype()
    small(tmp_path, steps=6)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1]) and before[2] == torch.get_default_dtype()


def test_seed_decides_everything(tmp_path):
    runs = [small(tmp_path, name, steps=6, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    same_history(runs[0].history, runs[1].history)
    assert runs[0].history["loss"][-1] != runs[2].history["loss"][-1]


def test_test_points_do_not_depend_on_their_number_or_the_batch(tmp_path):
    few, many = (small(tmp_path, f"n{n}", steps=5, points={**SMALL["points"], "test": n}) for n in (200, 600))
    assert np.array_equal(few.field["x"], many.field["x"][:200])


def test_groups_have_their_own_rates(tmp_path):
    rates = {"prompts": 0.0, "meta": 1e-2, "rest": 1e-2}
    start = (
        small(tmp_path, "start", phases=[{**ADAM, "steps": 1, "lr": {k: 0.0 for k in rates}}]).load_model().state_dict()
    )
    end = small(tmp_path, "end", phases=[{**ADAM, "lr": rates}]).load_model(best=False).state_dict()
    for name in start:
        if name.endswith(("prompts", "w1", "w2")):
            assert torch.equal(start[name], end[name]) == name.endswith("prompts"), name


@pytest.mark.parametrize(
    "name, values",
    {
        "constant": [1, 1, 1],
        "linear": [1, 0.55, 0.19],
        "cosine": [1, 0.55, 0.122],
        "exponential": [1, 0.1**0.5, 0.1**0.9],
    }.items(),
)
def test_schedules(name, values):
    phase = PhaseConfig(steps=10, schedule=name, final=0.1)
    assert [schedule(phase, s) for s in (0, 5, 9)] == pytest.approx(values, abs=1e-3)


def test_stop_on_error_and_patience_and_seconds(tmp_path):
    assert small(tmp_path, "error", steps=50, stop={"loss": 1e9}).attrs["steps"] == 0
    assert (
        small(tmp_path, "patience", phases=[{**ADAM, "steps": 50, "lr": 0.0}], stop={"patience": 2}).attrs["steps"]
        == 10
    )
    assert small(tmp_path, "seconds", steps=100_000, stop={"seconds": 0.5}).attrs["steps"] < 100_000


def test_callbacks_see_every_step_and_can_end_the_run(tmp_path):
    steps, rows = [], []
    run = small(
        tmp_path,
        steps=20,
        on_step=lambda s: steps.append(s.step) or s.step == 12,
        on_evaluation=lambda s: rows.append(s.row),
    )
    assert steps == list(range(1, 13)) and [row["step"] for row in rows] == [0, 5, 10]
    assert run.attrs["steps"] == 12 and run.attrs["status"] == "finished"


@pytest.mark.parametrize("optimizer", ["adam", "soap", "lbfgs", "gauss_newton", "levenberg_marquardt"])
def test_callbacks_are_called_whatever_the_optimiser(tmp_path, optimizer):
    steps, points = [], {"interior": 60, "refresh": "fixed"}
    phases = [{"optimizer": optimizer, "steps": 4}]
    run = small(
        tmp_path,
        phases=phases,
        points={**SMALL["points"], **points},
        on_step=lambda s: steps.append(s.step) or s.step == 3,
    )
    assert steps == [1, 2, 3] and run.attrs["steps"] == 3


@dataclass(frozen=True)
class Explodes(Poisson):
    """The residual is infinite where u is large."""

    largest: float = 10.0

    def residual(self, u, x):
        return super().residual(u, x) / (u.value.abs() < self.largest)


def test_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(tmp_path):
    with pytest.raises(kanpde.RunFailed, match=r"interior is (inf|nan)"):
        small(tmp_path, problem=Explodes(4), phases=[{**ADAM, "steps": 200, "lr": 1e3}], evaluation={"every": 50})
    run = Run.open(tmp_path / "run.h5")
    assert run.attrs["status"] == "failed" and "interior" in run.attrs["message"]
    saved = torch.load(run.checkpoint, weights_only=True)
    assert all(w.isfinite().all() for w in saved["weights"].values())


def test_a_loss_that_is_not_finite_at_the_start_leaves_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"^the residual is not finite at x = \("):
        small(tmp_path, problem=Explodes(4, largest=0.0), solver="adam")
    assert not any(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    """A gradient can be NaN where the loss is not: the next evaluation must not replace the good checkpoint."""

    def spoil(state):
        if state.step >= 9:
            with torch.no_grad():
                next(state.u.net.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Objective, "_note", lambda self, terms, *_: vars(self).update(terms=terms, value=0.0))
    with pytest.raises(kanpde.RunFailed, match="weights are not finite"):
        small(tmp_path, steps=80, on_step=spoil)
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    assert saved["step"] == 55, "after ten returns to the best state"
    assert all(w.isfinite().all() for w in saved["weights"].values())


def test_run_killed_before_its_last_pictures_is_finished_by_resuming(tmp_path, monkeypatch):
    monkeypatch.setattr(training.ResidualTraining, "finish", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert small(tmp_path, steps=5).attrs["status"] == "interrupted"
    monkeypatch.undo()
    assert "u" not in Run.open(tmp_path / "run.h5").field
    assert "u" in kanpde.resume(tmp_path / "run.h5").field


def test_full_disk_ends_the_run_with_one_line_and_the_last_good_file(tmp_path, monkeypatch):
    import h5py

    original, calls = h5py.File.__init__, []

    def full(self, name, mode="r", *args, **kwargs):
        if mode == "w":
            calls.append(name)
            if len(calls) == 3:
                raise OSError(28, "No space left on device")
        original(self, name, mode, *args, **kwargs)

    monkeypatch.setattr(h5py.File, "__init__", full)
    with pytest.raises(kanpde.RunFailed, match="No space left") as info:
        small(tmp_path, steps=20)
    assert "\n" not in str(info.value)
    assert Run.open(tmp_path / "run.h5").history["step"].tolist() == [0, 5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.h5", "run.pt"]


def test_weights_of_another_run_are_a_start(tmp_path):
    first = small(tmp_path, "first", steps=6)
    second = small(tmp_path, "second", phases=[{**ADAM, "steps": 1, "lr": 0.0}], start_from=str(first.path))
    assert second.history["rel_l2"][0] == pytest.approx(first.rel_l2, rel=1e-6)


def test_more_steps_extend_the_last_phase(tmp_path):
    first = small(tmp_path, steps=10)
    with pytest.raises(ConfigError, match="has done its 10 steps"):
        kanpde.resume(first.path)
    done = kanpde.resume(first.path, steps=20)
    assert done.attrs["steps"] == 20 and done.history["step"][-1] == 20
    assert config_of(Run.open(first.path)).steps == 20


def test_load_model_gives_the_best_weights(tmp_path):
    run = small(tmp_path, steps=20)
    u = Run.open(run.path).load_model()
    x = torch.from_numpy(run.field["x"])
    with torch.no_grad():
        assert np.allclose(u(x).numpy(), run.field["u"], rtol=1e-5, atol=1e-6)


class Coefficient(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.5))


@dataclass(frozen=True, eq=False)
class Inverse(Poisson):
    """a Lap u = g with a = 2 unknown, and u observed at some points."""

    terms = ("observed",)

    def __post_init__(self):
        object.__setattr__(self, "parameters", Coefficient())

    def residual(self, u, x):
        return self.parameters.a * u.lap - 2 * self.source(x)

    def extra_terms(self, u):
        x = self.domain.interior(200, torch.Generator().manual_seed(0))
        return {"observed": (u(x) - self.exact(x)).square().mean()}


def test_inverse_problem_finds_its_coefficient(tmp_path):
    phases = [{**ADAM, "steps": 150, "lr": {"rest": 3e-2, "problem": 6e-2}}]
    options = {"backbone": {"name": "kan", "widths": [8]}, "loss": {"weights": {"observed": 10.0}}, "phases": phases}
    options |= {"solver": "adam", "evaluation": {"every": 50}}
    run = small(tmp_path, problem=Inverse(2), **options)
    assert run.history["parameters/a"][0] == 0.5
    assert run.history["parameters/a"][-1] == pytest.approx(2, abs=0.1)
    assert run.history["terms/observed"][-1] < run.history["terms/observed"][1]
    assert run.history["weights/observed"][-1] == 10
    with pytest.raises(ConfigError, match="observed"):
        small(tmp_path, "typo", problem=Inverse(2), loss={"weights": {"observd": 1.0}})


class OfNumpy(Poisson):
    """What torch does not compile."""

    def residual(self, u, x):
        return np.polynomial.legendre.leggauss(3)[1].sum() / 2 * super().residual(u, x)


def test_what_does_not_compile_runs_without(tmp_path):
    """And says so once; the steps are those of a run that was not to be compiled."""
    options = {"problem": OfNumpy(4), "steps": 3, "solver": "default", "backbone": {"name": "kan", "widths": [3]}}
    plain = small(tmp_path, "plain", **options, compile=False)
    with pytest.warns(UserWarning, match="torch.compile has failed, the steps run without it: ") as said:
        run = small(tmp_path, "tried", **options, compile=True)
    assert sum("torch.compile" in str(w.message) for w in said) == 1
    assert run.history["loss"][-1] == plain.history["loss"][-1] and config_of(run).compile


@dataclass(frozen=True)
class Unknown(kanpde.Problem):
    """Lap u = -1 in a box; no exact solution is given."""

    @property
    def domain(self):
        return Box(self.dim)

    def residual(self, u, x):
        return u.lap + 1


def test_problem_without_exact_solution_trains_on_the_loss(tmp_path):
    run = small(tmp_path, problem=Unknown(2), steps=20, backbone={"name": "kan", "widths": [4]}, start="network")
    assert np.isnan(run.history["rel_l2"]).all() and np.isnan(run.rel_l2)
    assert run.history["validation"][-1] < run.history["validation"][0]
    assert (
        0 < run.floors["taylor2"] <= run.floors["affine"] < run.floors["constant"] and "u" in run.field
    )  # of u itself


def test_runs_made_in_python_are_loaded_with_their_problem_and_network(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    run = kanpde.train(Unknown(2), net, out=tmp_path / "own.h5", steps=5, **SMALL)
    opened = Run.open(run.path)
    with pytest.raises(ConfigError, match="pass problem="):
        opened.load_model()
    with pytest.raises(ConfigError, match="pass net="):
        opened.load_model(problem=Unknown(2))
    x = torch.from_numpy(run.field["x"])
    fresh = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    u = opened.load_model(problem=Unknown(2), net=fresh)
    assert np.allclose(u(x).detach().numpy(), run.field["u"], atol=1e-6)
    with pytest.raises(ConfigError, match="does not fit"):
        opened.load_model(problem=Unknown(2), net=torch.nn.Linear(2, 1))
    assert kanpde.resume(run.path, problem=Unknown(2), net=fresh, steps=8).attrs["steps"] == 8


class Opaque(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.inner(x).sin()


def test_network_without_rules_is_told_to_use_autograd(tmp_path):
    with pytest.raises(ConfigError, match="autograd"):
        kanpde.train(Poisson(4), Opaque(), out=tmp_path / "o.h5", steps=2, **SMALL)
    assert list(tmp_path.iterdir()) == []
    assert (
        kanpde.train(Poisson(4), Opaque(), out=tmp_path / "o.h5", steps=2, operator="autograd", **SMALL).attrs["steps"]
        == 2
    )


@dataclass(frozen=True)
class Nothing(Poisson):
    def exact(self, x):
        return 0 * x[:, 0]


@pytest.mark.parametrize("problem, says", [(Nothing(3), "zero at all"), (Unknown(200), "use soft")])
def test_problems_that_cannot_be_measured_or_trained_are_refused(tmp_path, problem, says):
    with pytest.raises(ConfigError, match=says):
        small(tmp_path, problem=problem, steps=2)
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Broadcasts(Poisson):
    def residual(self, u, x):
        return u.lap - x.sum(1, keepdim=True)


@dataclass(frozen=True)
class Column(Poisson):
    def exact(self, x):
        return super().exact(x).unsqueeze(1)


@pytest.mark.parametrize(
    "problem, net, says",
    [
        (
            Broadcasts(4),
            None,
            r"the residual: given is a tensor of shape \(3, 3\).* at 3 points of 4 coordinates, needed is .* \(3,\)",
        ),
        (Column(4), None, r"the exact solution: given is a tensor of shape \(3, 1\)"),
        (Poisson(4), torch.nn.Linear(4, 2), r"the network: given is a tensor of shape \(3, 2\).*needed is .* \(3, 1\)"),
        (Poisson(4), torch.nn.Linear(5, 1), r"the network does not take inputs \(N, 4\)"),
    ],
)
def test_what_is_no_number_per_point_is_refused(tmp_path, problem, net, says):
    with pytest.raises(ConfigError, match=says) as info:
        kanpde.train(problem, net, out=tmp_path / "r.h5", steps=2, **SMALL)
    assert "\n" not in str(info.value) and list(tmp_path.iterdir()) == []


def test_the_checks_leave_a_network_as_it_is(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    with pytest.raises(ConfigError, match="autograd"):
        kanpde.train(Poisson(4), net, out=tmp_path / "r.h5", steps=2, **SMALL)
    assert net[1].num_batches_tracked == 0 and net.training and net[0].weight.dtype == torch.float32


def test_configuration_read_from_a_file_is_completed(tmp_path):
    config = validate({"problem": {"name": "poisson", "dim": 3}, "backbone": "kan", "phases": [{"steps": 1}]})
    config = config.model_copy(update={"points": config.points.model_copy(update={"test": 300, "validation": 50})})
    run = kanpde.train(Poisson(3), config=config, out=tmp_path / "r.h5")
    assert run.attrs["law"] == "radial" and run.config["backbone"]["spline_order"] == 3
    with pytest.raises(ConfigError, match="beside config"):
        kanpde.train(Poisson(3), config=config, steps=3)


def test_law_that_the_domain_does_not_have_is_refused(tmp_path):
    assert small(tmp_path, problem=Unknown(2), steps=1).attrs["law"] == "volume"
    with pytest.raises(ConfigError, match="volume"):
        small(tmp_path, "radial", problem=Unknown(2), points={**SMALL["points"], "law": "radial"})


def test_callback_that_raises_leaves_a_failed_run_and_its_checkpoint(tmp_path):
    def explode(state):
        if state.step == 7:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        small(tmp_path, steps=20, on_step=explode)
    run = Run.open(tmp_path / "run.h5")
    assert run.attrs["status"] == "failed" and "mine" in run.attrs["message"]
    assert torch.load(run.checkpoint, weights_only=True)["step"] == 5


def test_extended_run_does_not_keep_the_error_of_the_old_weights(tmp_path):
    first = small(tmp_path, steps=5)
    seen = []
    kanpde.resume(first.path, steps=15, on_evaluation=lambda state: seen.append(Run.open(first.path).attrs))
    assert "rel_l2_best" in first.attrs and "rel_l2_best" not in seen[-1]


def test_configuration_in_the_file_is_whole(tmp_path):
    stored = small(tmp_path, steps=1, constraint="soft", points={**SMALL["points"], "boundary": "10d"}).config
    assert stored["points"]["boundary"] == 40 and stored["points"]["law"] == "radial"
    assert stored["backbone"]["grid_size"] == 5 and stored["backbone"]["grid_range"] == "auto"


def test_users_own_network_trains(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    run = kanpde.train(Poisson(4), net, out=tmp_path / "net.h5", steps=10, **SMALL)
    assert run.attrs["parameters"] == 49 and run.attrs["backbone"] == "Sequential"


# ---------------------------------------------------------------------------------------------------------------
# Optimisers, averages and weights in a run


def test_gauss_newton_goes_far_below_adam(tmp_path):
    options = {"solver": "adam", "backbone": {"name": "mlp", "widths": [12]}, "dtype": "float64", "compile": False}
    options["points"] = {"interior": 150, "test": 300, "validation": 200}
    phases = [{**ADAM, "steps": 100}, {"optimizer": "gauss_newton", "steps": 15}]
    run = small(tmp_path, problem=Poisson(2), phases=phases, **options)
    errors = dict(zip(run.history["step"], run.history["rel_l2"], strict=True))
    assert errors[115] < 0.1 * errors[100] and run.history["optimizer/accepted"][-1] > 0.5


@pytest.mark.parametrize("optimizer, widths", [("soap", [16]), ("muon", [32, 32])])
def test_gradient_enhanced_runs_learn(tmp_path, optimizer, widths):
    """From as many points, less error than without the gradient; both of few points."""
    points = {**SMALL["points"], "interior": 4, "refresh": "fixed"}
    given = {"backbone": {"name": "kan", "widths": widths}, "seed": 1, "points": points, "evaluation": {"every": 50}}
    given |= {"phases": [{**ADAM, "optimizer": optimizer, "steps": 60, "lr": 1e-2}], "start": "network"}
    errors = {
        gradient: small(tmp_path, gradient, loss={"gradient": gradient}, **given).history["rel_l2"][-1]
        for gradient in ("none", "almost_everywhere")
    }
    assert errors["almost_everywhere"] < 0.9 * errors["none"]


def test_average_is_that_of_the_weights_of_all_steps(tmp_path):
    seen = []
    note = lambda state: seen.append([p.detach().clone() for p in state.u.parameters()]) and None
    run = small(tmp_path, phases=[ADAM], average=0.75, on_step=note, start="network")
    wanted = seen[0]
    for weights in seen[1:]:
        wanted = [0.75 * a + 0.25 * b for a, b in zip(wanted, weights, strict=True)]
    saved = torch.load(run.checkpoint, weights_only=True)
    assert saved["best"]["step"] == 8
    for got, expected in zip(run.load_model().parameters(), wanted, strict=True):
        torch.testing.assert_close(got, expected)


def test_points_that_adapt_have_larger_residuals(tmp_path):
    given = {"backbone": "kan", "points": {"interior": 200, "adapt": {"candidates": 8, "power": 8, "offset": 0}}}
    made = training.ResidualTraining(planned(Poisson(4), given), Run(tmp_path / "run.h5"))
    size = lambda x: made.objective.residual(x, made.supply.probes).abs().mean()
    drawn = Poisson(4).domain.interior(200, made.supply.streams["interior"])
    assert size(made.supply.points()["interior"]) > 1.2 * size(drawn)


def test_emphasis_weighs_the_points_and_balance_the_terms(tmp_path):
    phases = [{**ADAM, "steps": 10}]
    kept = {**SOFT["points"], "refresh": "fixed"}
    loss = {"gradient": "none", "emphasis": {"name": "rba", "rate": 0.5, "decay": 0.5}, "balance": "gradnorm"}
    run = small(tmp_path, phases=phases, points=kept, constraint="soft", loss=loss)
    saved = torch.load(run.checkpoint, weights_only=True)["objective"]
    attention = saved["emphasis"]["attention"]
    assert attention.shape == (20,) and attention.max() > 2 * attention.min() > 0
    assert run.history["weights/boundary"][-1] == saved["balance"]["weights"]["boundary"] != 1
    plain = small(tmp_path, "plain", phases=phases, points=kept, constraint="soft", loss={"gradient": "none"})
    assert run.history["terms/interior"][1] < plain.history["terms/interior"][1]


def test_gauss_newton_sees_the_emphasis_of_points(tmp_path):
    """|r|^2 is the weighted loss, of a system too, and J its derivative; a step keeps the weights, then they follow."""
    given = {"solver": "low_dim", "backbone": {"name": "mlp", "widths": [5]}, **SMALL}
    given |= {"loss": {"emphasis": {"name": "causal", "bins": 4, "epsilon": 2.0}, "weights": {"initial_re": 9.0}}}
    made = training.ResidualTraining(planned(Schroedinger(), given), Run(tmp_path / "run.h5"))
    o, probes, points = made.objective, made.supply.probes, made.supply.points()
    parameters = list(made.u.parameters())
    system = o.system(points, probes, parameters)
    r, j = map(torch.cat, zip(*system.blocks(), strict=True))
    weighed = o.at(points, probes, o.weighing(points, probes))
    torch.testing.assert_close(r.square().sum().item(), weighed)
    assert weighed < 0.9 * o.at(points, probes)
    torch.testing.assert_close(system.residual().detach(), r)  # in the order of the blocks
    squares = system.residual().square().sum()
    torch.testing.assert_close(squares.item(), weighed)
    slope = torch.cat([g.flatten() for g in torch.autograd.grad(squares, parameters)])
    torch.testing.assert_close(2 * r @ j, slope)
    before = o.emphasis.losses.clone()
    optimizer = training.make_optimizer(made.config.phases[0], made.u)
    for _ in range(10):
        made._update(optimizer, made.config.phases[0], 1.0)
    assert o.emphasis.losses[0] < 0.7 * before[0]  # the first bin is solved first


def test_points_that_stay_choose_the_steps_themselves(tmp_path):
    """Of Gauss-Newton: others are drawn for it only where the next step has others anyway."""
    drawn = {}
    for refresh in (1, 3, "fixed"):
        given = {"solver": "low_dim", "backbone": {"name": "mlp", "widths": [5]}}
        given["points"] = {**SMALL["points"], "refresh": refresh}
        made = training.ResidualTraining(planned(Poisson(2), given), Run(tmp_path / "run.h5"))
        pool, counts = made.supply.pools["interior"], []
        draw = pool.draw
        pool.draw = lambda counts=counts, draw=draw: counts.append(1) or draw()
        optimizer = training.make_optimizer(made.config.phases[0], made.u)
        for _ in range(4):
            made._update(optimizer, made.config.phases[0], 1.0)
        drawn[refresh] = len(counts)
    assert drawn == {1: 8, 3: 2, "fixed": 1}


def test_an_average_starts_from_the_weights_that_a_run_starts_from(tmp_path):
    first = small(tmp_path, "first", phases=[{**ADAM, "steps": 15, "lr": 1e-2}])
    second = small(tmp_path, "second", phases=[ADAM], average=0.99, start_from=str(first.path))
    assert second.history["rel_l2"][0] == pytest.approx(first.rel_l2, rel=1e-3)


def test_last_weights_of_a_run_with_an_average(tmp_path):
    run = small(tmp_path, phases=[{**ADAM, "steps": 20, "lr": 2e-2}], average=0.9)
    x = torch.as_tensor(run.field["x"])
    u, exact = run.load_model(best=False)(x), Poisson(4).exact(x)
    assert ((u - exact).norm() / exact.norm()).item() == pytest.approx(run.attrs["rel_l2_last"], rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------
# A run works on its own copy


class Rate(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.5))


@dataclass(frozen=True, eq=False)
class Decay(kanpde.Problem):
    """a Lap u = -1 with a unknown: an attribute of the class."""

    parameters = Rate()

    @property
    def domain(self):
        return Box(self.dim)

    def residual(self, u, x):
        return self.parameters.a * u.lap + 1


@dataclass(frozen=True, eq=False)
class OfField(Decay):
    parameters: torch.nn.Module = field(default_factory=Rate)


class Cached(Decay):
    @cached_property
    def parameters(self):
        return Rate()


@dataclass(frozen=True, eq=False)
class Property(Decay):
    a: torch.nn.Parameter = field(default_factory=lambda: torch.nn.Parameter(torch.tensor(0.5)))

    @property
    def parameters(self):
        return torch.nn.ParameterList([self.a])

    def residual(self, u, x):
        return self.a * u.lap + 1


@dataclass(frozen=True, eq=False)
class Drawing(Decay):
    """Observations at points that it draws itself."""

    terms = ("observed",)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(3))

    def extra_terms(self, u):
        return {"observed": u(self.domain.interior(5, self.generator)).square().mean()}


def values_of(problem):
    return [p.detach().clone() for p in problem.parameters.parameters()]


@pytest.mark.parametrize("kind", [Decay, OfField, Cached, Property, Drawing])
def test_the_same_call_twice_is_the_same_run_and_leaves_what_it_was_given(tmp_path, kind):
    problem, net = kind(2), torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    before, weights = values_of(problem), copy.deepcopy(net.state_dict())
    options = {"solver": "adam", "phases": [{**ADAM, "lr": 1e-2}], **SMALL}
    runs = [kanpde.train(problem, net, out=tmp_path / f"{i}.h5", **options) for i in range(2)]
    same_history(*(Run.open(run.path).history for run in runs))
    ours, theirs = (torch.load(run.checkpoint, weights_only=True)["weights"] for run in runs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    moved = [name for name in ours if name.startswith("problem_parameters")]
    assert moved and not torch.equal(ours[moved[0]], before[0])
    first, second = (runs[0].load_model(problem=problem, net=net, best=False) for _ in range(2))
    with torch.no_grad():
        for p in first.parameters():
            p.zero_()
    assert all(torch.equal(ours[name], now) for name, now in second.state_dict().items())
    on = [kanpde.resume(run.path, problem=problem, net=net, steps=12) for run in runs]
    same_history(*(Run.open(run.path).history for run in on))
    assert all(torch.equal(a, b) for a, b in zip(before, values_of(problem), strict=True))
    assert all(torch.equal(weights[name], now) for name, now in net.state_dict().items())


def test_unknowns_that_a_run_cannot_copy_are_refused(tmp_path):
    """Made anew at each access they were never trained; from elsewhere the residual would read others than its own."""

    class Anew(Decay):
        @property
        def parameters(self):
            return Rate()

    elsewhere = Rate()

    class Elsewhere(Decay):
        parameters = property(lambda self: elsewhere)

    class Closed(Decay):
        parameters = elsewhere

        def residual(self, u, x):
            return elsewhere.a * u.lap + 1

    for kind, says in ((Anew, "cached_property"), (Elsewhere, "from elsewhere"), (Closed, "read self.parameters")):
        with pytest.raises(ConfigError, match=says):
            small(tmp_path, problem=kind(2), steps=2)
