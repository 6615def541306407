"""Unknowns of an equation: what they are in a problem, how they are found, how well observations determine them."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from conftest import call, generator, planned

import kanpde
from kanpde import ConfigError, Unknown
from kanpde.domains import Box, Cylinder
from kanpde.optim.optimisers import make_optimizer
from kanpde.problems.base import own
from kanpde.problems.conditions import Dirichlet, Observations
from kanpde.problems.unknowns import reported
from kanpde.runs import summary
from kanpde.training import ending
from kanpde.training.objective import Objective

F64 = torch.float64
TIMES = torch.linspace(0.05, 1, 20, dtype=F64).unsqueeze(1)
NET = {"name": "chebykan", "widths": [6]}
NEWTON = {
    "backbone": NET,
    "dtype": "float64",
    "points": {"interior": 40, "test": 64, "validation": 40},
    "slices": {"points": 5, "volume": 0},
    "verify": False,
}


def newton(steps):
    return {**NEWTON, "phases": [{"optimizer": "gauss_newton", "steps": steps}]}


@dataclass(frozen=True)
class Decay(kanpde.Problem):
    """u_t = -k u, u(0) = 1"""

    dim: int = 1
    coordinates = ("t",)
    k = Unknown(1.0, positive=True)
    conditions = (Dirichlet("t = 0", 1.0), Observations(TIMES, torch.exp(-2 * TIMES), noise=0.05))

    @property
    def domain(self):
        return Box(1, 0, 1)

    def residual(self, u, x):
        return u.t + self.k * u.value


class Oscillator(Decay):
    """u_tt + b_1 u_t + b_0 u = 0 of a spring that is damped: b = (17, 2), u = e^{-t} (cos 4t + sin(4t) / 4)"""

    k = None
    b = Unknown([10.0, 0.0], scale=5.0)
    conditions = (
        Dirichlet("t = 0", 1.0),
        Observations(TIMES, (-TIMES).exp() * ((4 * TIMES).cos() + (4 * TIMES).sin() / 4), noise=1e-3),
    )

    def residual(self, u, x):
        return u.tt + self.b[1] * u.t + self.b[0] * u.value


class Source(Decay):
    """u_t = c(t) with u = t + sin(3 t) / 3: c = 1 + cos(3 t)"""

    k = None
    c = Unknown(0.5, of="t", degree=8)
    conditions = (Dirichlet("t = 0", 0.0), Observations(TIMES, TIMES + (3 * TIMES).sin() / 3, noise=1e-4))

    def residual(self, u, x):
        return u.t - self.c(x)


class Sum(Decay):
    """u_t = -(k + m) u: the two cannot be told apart"""

    m = Unknown(0.5)

    def residual(self, u, x):
        return u.t + (self.k + self.m) * u.value


class Unread(Decay):
    """u_t = -k u with a number that is in no equation"""

    m = Unknown(3.0)

    def residual(self, u, x):
        return u.t + self.k * u.value + 0 * self.m


def test_values_are_what_is_read():
    problem = own(Decay())
    assert problem.k.item() == 1.0 and own(Oscillator()).b.tolist() == [10.0, 0.0]
    with torch.no_grad():
        problem.unknowns["k"].trained.fill_(math.log(2))
    assert problem.k.item() == pytest.approx(2.0, rel=1e-12) and Decay.k.value.item() == 1.0
    (slope,) = torch.autograd.grad(problem.k, problem.unknowns["k"].trained)
    assert slope.item() == pytest.approx(2.0)  # d initial e^p / dp
    vector = own(Oscillator())
    with torch.no_grad():
        vector.unknowns["b"].trained.copy_(torch.tensor([1.0, -2.0]))
    assert vector.b.tolist() == [15.0, -10.0]  # initial + scale p


def test_a_function_is_a_polynomial_in_its_coordinates():
    @dataclass(frozen=True)
    class Waves(kanpde.Problem):
        dim: int = 2
        coordinates = ("x", "y", "t")
        c = Unknown(2.0, of=("y", "t"), degree=2, scale=1.0)
        a = Unknown(2.0, of="x", degree=1, positive=True)

        @property
        def domain(self):
            return Cylinder(Box(2, (-1, 2), (1, 6)), 4.0)

        def residual(self, u, x):
            return u.tt - self.c(x) * u.lap - self.a(x)

    problem = own(Waves())
    c, a = problem.unknowns["c"], problem.unknowns["a"]
    assert c.powers == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0))
    x = torch.tensor([[0.5, 5.0, 1.0]], dtype=F64)  # y and t are 0.5 and -0.5 of [-1, 1]
    with torch.no_grad():
        c.trained.copy_(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
        a.trained.copy_(torch.tensor([0.5, 2.0]))
    t2 = 2 * 0.25 - 1
    assert problem.c(x).item() == pytest.approx(2 + 1 + 2 * -0.5 + 4 * t2 + 8 * 0.5 + 16 * -0.25 + 32 * t2)
    assert problem.a(x).item() == pytest.approx(2 * math.exp(0.5 + 2 * 0.5))
    shown = reported(problem, problem.parameters)
    assert [*shown] == ["c(y = 4, t = 2)", *(f"a(x = {at:g})" for at in (-1, -0.5, 0, 0.5, 1))]
    assert shown["a(x = 0.5)"].item() == pytest.approx(problem.a(x).item())


@pytest.mark.parametrize(
    "problem, steps, known",
    [
        (Decay(), 12, {"k": (2.0, 1e-3)}),
        (Oscillator(), 25, {"b.0": (17.0, 1e-3), "b.1": (2.0, 1e-2)}),
        (Source(), 20, {f"c(t = {t})": (1 + math.cos(3 * t), 5e-3) for t in (0.25, 0.5, 0.75)}),
    ],
)
def test_it_is_found(problem, steps, known, tmp_path):
    run = kanpde.train(problem, out=tmp_path / "run.h5", **newton(steps), loss={"weights": {"interior": 100}})
    for name, (value, within) in known.items():
        assert run.history[f"parameters/{name}"][-1] == pytest.approx(value, rel=within)
    assert "undetermined" not in run.attrs or "c" in problem.unknowns
    model = run.load_model(problem=problem)
    numbers = reported(model.problem, model.problem_parameters)
    assert all(numbers[name].item() == run.history[f"parameters/{name}"][-1] for name in known)


def test_a_run_trains_a_copy(tmp_path):
    problem = Decay()
    first, second = (kanpde.train(problem, out=tmp_path / f"{i}.h5", **newton(2)) for i in (1, 2))
    assert problem.k.item() == 1.0 and first.history["parameters/k"][0] == 1.0
    assert second.history["parameters/k"] == first.history["parameters/k"]
    assert first.history["parameters/k"][-1] != 1.0


def test_standard_errors_are_those_of_the_closed_form(tmp_path):
    """du/dk = -t e^{-kt}, so the variance of k is s^2 / sum t^2 e^{-2kt}."""
    run = kanpde.train(Decay(), out=tmp_path / "run.h5", **newton(12))
    expected = 0.05 / (TIMES.square() * torch.exp(-4 * TIMES)).sum().sqrt().item()
    assert json.loads(run.attrs["standard_errors"])["k"] == pytest.approx(expected, rel=1e-3)
    assert "undetermined" not in run.attrs and "no_standard_errors" not in run.attrs


def test_and_of_a_network_with_more_weights_than_residuals(tmp_path):
    given = {**NEWTON, "backbone": "kan", "dtype": "float32", "steps": 400}
    run = kanpde.train(_Known(), out=tmp_path / "run.h5", **given)
    k = run.history["parameters/k"][-1]
    expected = 0.05 / (TIMES.square() * torch.exp(-2 * k * TIMES)).sum().sqrt().item()
    assert json.loads(run.attrs["standard_errors"])["k"] == pytest.approx(expected, rel=0.02)


class _Known(Decay):
    """Begun at the truth."""

    k = Unknown(2.0)


def test_noise_that_is_not_stated_is_that_of_the_misfit(tmp_path):
    seen = torch.exp(-2 * TIMES) + 0.03 * torch.randn(TIMES.shape, generator=generator(), dtype=F64)

    class Noisy(Decay):
        conditions = (Dirichlet("t = 0", 1.0), Observations(TIMES, seen))

    run = kanpde.train(Noisy(), out=tmp_path / "run.h5", **newton(15), loss={"weights": {"interior": 1e4}})
    k = run.history["parameters/k"][-1]
    r = (torch.exp(-k * TIMES) - seen).square().sum().item()
    size = (r / 19) ** 0.5
    expected = size / (TIMES.square() * torch.exp(-2 * k * TIMES)).sum().sqrt().item()
    error = json.loads(run.attrs["standard_errors"])["k"]
    assert error == pytest.approx(expected, rel=1e-2) and abs(k - 2) < 3 * error
    assert "misfit_over_noise" not in run.attrs


def test_what_the_data_cannot_determine_is_said(tmp_path):
    both = kanpde.train(Sum(), out=tmp_path / "sum.h5", **newton(12))
    assert "k" in both.attrs["undetermined"] and "m" in both.attrs["undetermined"]
    assert min(json.loads(both.attrs["standard_errors"]).values()) > 1
    unread = kanpde.train(Unread(), out=tmp_path / "unread.h5", **newton(12))
    assert unread.attrs["undetermined"] == "m"
    errors = json.loads(unread.attrs["standard_errors"])
    assert errors["m"] == float("inf") and errors["k"] < 0.2


def test_numbers_of_a_vector_are_told_apart(tmp_path):
    class Vector(Decay):
        k = None
        b = Unknown([1.0] * 11)

        def residual(self, u, x):
            return u.t + (self.b[0] + self.b[10]) * u.value

    run = kanpde.train(Vector(), out=tmp_path / "run.h5", **newton(8))
    assert "b.0 - b.10" in run.attrs["undetermined"] or "- b.0 + b.10" in run.attrs["undetermined"]
    names = [f"b.{i}" for i in range(11)]
    assert list(summary.unknowns(run)) == list(summary.unknowns(kanpde.Run.open(run.path))) == names


def test_unknowns_are_listed_in_one_order():
    names = ["parameters/c(x = -0.5)", "parameters/c(x = 1)", "parameters/c(x = -1)", "parameters/b"]
    listed = summary.few_unknowns(dict.fromkeys(names[:3], 0.0)).split("0  ")
    assert [name.strip() for name in listed if name] == ["c(x = -1)", "c(x = -0.5)", "c(x = 1)"]


@pytest.mark.parametrize(
    "conditions, told",
    [
        (lambda self: (Dirichlet("t = 0", self.k),), "Dirichlet: value: given an unknown"),
        (lambda self: (Dirichlet("t = 0", Unknown(1.0)),), "Dirichlet: value: given an unknown"),
        (lambda self: (Observations(TIMES, TIMES + self.k),), "Observations: given an unknown"),
        (lambda self: (Observations(TIMES, TIMES, noise=self.k),), "Observations: given an unknown"),
    ],
)
def test_an_unknown_that_would_stay_as_it_is_is_refused(conditions, told):
    class Frozen(Decay):
        pass

    Frozen.conditions = property(conditions)
    with pytest.raises(ConfigError, match=told):
        planned(Frozen(), newton(1))


def test_a_domain_of_an_unknown_is_refused():
    with pytest.raises(ConfigError, match="Box: high: given tensor"):
        Box(1, 0, Unknown(1.0).value)


def test_an_unknown_where_it_is_not_found_is_refused():
    class Listed(Decay):
        both = (Unknown(1.0), Unknown(2.0))

    class Late(Decay):
        def __init__(self):
            object.__setattr__(self, "dim", 1)
            self.late = Unknown(2.0)

    for problem, name in ((Listed, "both"), (Late, "late")):
        with pytest.raises(ConfigError, match=f"{problem.__name__}.{name}: unknowns are attributes of their own"):
            planned(problem(), newton(1))


def test_a_misfit_that_is_not_noise_is_said(tmp_path):
    run = kanpde.train(Oscillator(), out=tmp_path / "run.h5", **newton(1))
    assert run.attrs["misfit_disagrees"] and run.attrs["misfit_over_noise"] > 2


def test_without_observations_there_are_no_errors(tmp_path):
    class Told(Decay):
        conditions = (Dirichlet("t = 0", 1.0), Dirichlet("t = 1", math.exp(-2)))

    run = kanpde.train(Told(), out=tmp_path / "run.h5", **newton(12))
    assert run.history["parameters/k"][-1] == pytest.approx(2, rel=1e-4)
    assert run.attrs["no_standard_errors"] == "there are no Observations" and "standard_errors" not in run.attrs


def test_what_fails_at_the_end_loses_nothing(tmp_path, monkeypatch):
    def failing(*_):
        raise RuntimeError("no rule\nfor this")

    monkeypatch.setattr(ending, "determined", failing)
    run = kanpde.train(Decay(), out=tmp_path / "run.h5", **newton(2))
    assert run.attrs["no_standard_errors"] == "RuntimeError: no rule" and run.attrs["status"] == "finished"


def test_a_rate_of_its_own():
    class Slow(Decay):
        k = Unknown(1.0, lr=1e-4)
        m = Unknown(1.0)

        def residual(self, u, x):
            return u.t + self.k * self.m * u.value

    plan = planned(Slow(), {"backbone": NET, "steps": 4})
    groups = {g["name"]: g for g in make_optimizer(plan.config.phases[0], plan.ansatz()).param_groups}
    assert groups["problem.k"]["base_lr"] == 1e-4 and groups["problem"]["base_lr"] == 1.5e-2
    assert [p.shape for p in groups["problem"]["params"]] == [torch.Size([])]


def test_observations_of_several_sizes_count_alike():
    """The loss of two sets is that of one set, up to a factor, whatever their numbers and noise are."""
    few, many, values = TIMES[:3], TIMES[3:], torch.exp(-2 * TIMES)

    class Two(Decay):
        conditions = (
            Dirichlet("t = 0", 1.0),
            Observations(few, values[:3], noise=0.1),
            Observations(many, values[3:], noise=0.01),
        )

    plan = planned(Two(), {**NEWTON, "steps": 2})
    objective = Objective(plan, plan.ansatz())
    weights = objective.weights(["observations", "observations_2", "interior"])
    assert weights == {"observations": 2 * 3 / 20, "observations_2": 2 * 17 / 20, "interior": 1.0}
    asked = plan.problem.asked
    x = {name: asked[name].points(plan.problem, 99, generator(), "", dtype=F64) for name in [*weights][:2]}
    x["interior"] = torch.rand(8, 1, generator=generator(), dtype=F64)
    seen = []
    plan.balance.update = lambda terms, residuals, *_: seen.append((terms, residuals))
    objective.balance = plan.balance
    objective.backward(x, generator())
    ((terms, residuals),) = seen
    assert {*terms} == {*residuals} == {"interior", "gradient", "observations/"}
    r = residuals["observations/"]
    assert len(r) == 20 and terms["observations/"].item() == pytest.approx(2 * r.square().mean().item())


@pytest.mark.parametrize(
    "given, line",
    [
        ({"initial": "two"}, "needed is a number, or a list"),
        ({"initial": float("nan")}, "needed is a finite number"),
        ({"initial": -1.0, "positive": True}, "needed is above 0"),
        ({"initial": 1.0, "lr": -1}, "lr: given -1, needed is a number above 0"),
        ({"initial": 1.0, "positive": True, "scale": 1.0}, "scale: a positive one has none"),
        ({"initial": 1.0, "degree": 3}, "degree: it is of a function"),
        ({"initial": [1.0, 2.0], "of": "x"}, "begins at one number"),
    ],
)
def test_what_is_no_unknown_is_refused(given, line):
    with pytest.raises(ConfigError, match=line):
        Unknown(**given)


def test_what_is_not_read_is_refused():
    class Elsewhere(Decay):
        k = Unknown(1.0, of="x")

        def residual(self, u, x):
            return u.t + self.k(x) * u.value

    class Beside(Decay):
        parameters = torch.nn.ParameterDict({"m": torch.tensor(1.0)})

    with pytest.raises(ConfigError, match="coordinate"):
        planned(Elsewhere(), {"backbone": NET, "steps": 2})
    with pytest.raises(ConfigError, match="leave parameters out"):
        planned(Beside(), {"backbone": NET, "steps": 2})


FILE = '''
from dataclasses import dataclass
import torch, kanpde
from kanpde import Unknown
from kanpde.domains import Box
from kanpde.problems.conditions import Dirichlet, Observations

T = torch.linspace(0.05, 1, 20, dtype=torch.float64).unsqueeze(1)

@dataclass(frozen=True)
class Decay(kanpde.Problem):
    """u_t = -k u"""
    dim: int = 1
    coordinates = ("t",)
    k = Unknown(1.0, positive=True)
    conditions = (Dirichlet("t = 0", 1.0), Observations(T, torch.exp(-2 * T), noise=0.05))

    @property
    def domain(self):
        return Box(1, 0, 1)

    def residual(self, u, x):
        return u.t + self.k * u.value
'''


def test_the_command_prints_them_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decay.py").write_text(FILE)
    (tmp_path / "decay.yaml").write_text(
        "problem: {name: 'decay.py:Decay'}\nbackbone: {name: chebykan, widths: [6]}\ndtype: float64\nverify: false\n"
        "phases: [{optimizer: gauss_newton, steps: 12}]\npoints: {interior: 40, test: 64, validation: 40}\n"
    )
    code, out, _ = call(capsys, "solve", "decay.yaml", "--out", "run.h5")
    assert not code and "unknown k" in out and "±" in out and "  k 1 " in out
    code, again, _ = call(capsys, "solve", "--resume", "run.h5", "--steps", "14")
    assert not code and "unknown k" in again
