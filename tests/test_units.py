"""Lengths other than 1: the units of a domain, and sources that automatic differentiation does not see."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from conftest import F64, close, configuration, generator, in_pairs, one_line, planned

import kanpde
from kanpde import Run
from kanpde.domains import Ball, Box, Cylinder
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.jet import Affine, Jet
from kanpde.operators import OPERATORS, Autograd, Forward
from kanpde.problems import ON_BALL, Poisson, Problem
from kanpde.problems.frames import Frame
from kanpde.runs.stored import config_of
from kanpde.testing import check_problem
from kanpde.training import checks
from kanpde.training.ladder import climb
from kanpde.training.plan import Plan

LENGTHS = (1e-6, 1e-3, 1e2, 1e6)
SMALL = {"points": {"interior": 12, "test": 64, "validation": 32}, "compile": False}
KAN = {"name": "kan", "widths": [4]}


@dataclass(frozen=True)
class Sine(Problem):
    """-Lap u = k u* with u* = prod_i sin(pi x_i / L_i), L_i = L and 3 L, ..."""

    length: float = 1.0

    @property
    def sides(self) -> tuple[float, ...]:
        return tuple(self.length * (1 + 2 * i) for i in range(self.dim))

    @property
    def domain(self):
        return Box(self.dim, 0.0, self.sides)

    def exact(self, x):
        return (math.pi * x / torch.tensor(self.sides, dtype=x.dtype)).sin().prod(-1)

    def left_side(self, u, x):
        return u.lap

    def source(self, x):
        return -sum((math.pi / side) ** 2 for side in self.sides) * self.exact(x)


@dataclass(frozen=True)
class Heat(Problem):
    """u_t = u_xx on (0, L) x (0, L^2 / 10)."""

    length: float = 1.0

    @property
    def domain(self):
        return Cylinder(Box(self.dim, 0.0, self.length), 0.1 * self.length**2)

    def coefficients(self, x):
        return x.new_tensor([1.0] * self.dim + [0.0])

    def directions(self, x):
        return x.new_tensor([[0.0] * self.dim + [1.0]])

    def residual(self, u, x):
        return u.along[:, 0] - u.lap

    def initial_value(self, x):
        return (math.pi * x[:, :-1] / self.length).sin().prod(-1)

    def lift(self, x):
        return Field.of(self.initial_value, x)


@dataclass(frozen=True)
class Decay(Problem):
    """L u' = -u, u(0) = 1: no second derivatives, and a factor of one's own that is of size L."""

    length: float = 1.0

    @property
    def domain(self):
        return Box(1, 0.0, self.length)

    def coefficients(self, x):
        return None

    def directions(self, x):
        return x.new_ones(1, 1)

    def factor(self, x):
        return Field(x[:, 0], torch.ones_like(x), torch.zeros_like(x))

    def lift(self, x):
        return Field(torch.ones_like(x[:, 0]), torch.zeros_like(x), torch.zeros_like(x))

    def residual(self, u, x):
        return u.along[:, 0] + u.value / self.length


@dataclass(frozen=True)
class Bump(Problem):
    """Lap u = -2 d (1 + |x|^2 / R^2) / R^2 on |x| < R."""

    length: float = 2.0

    @property
    def domain(self):
        return Ball(self.dim, self.length)

    def residual(self, u, x):
        return u.lap + 2 * self.dim / self.length**2 * (1 + x.square().sum(-1) / self.length**2)


FAMILIES = {
    "box": partial(Sine, 1),
    "unequal": partial(Sine, 2),
    "heat": partial(Heat, 1),
    "decay": partial(Decay, 1),
    "ball": partial(Bump, 3),
}


def terms_of(problem, **changes) -> dict[str, float]:
    """The terms of the loss of the untrained network, at points of the same places in units of the domain."""
    given = {**SMALL, "backbone": KAN, "dtype": "float64", "loss": {"gradient": "almost_everywhere"}, **changes}
    soft = changes.get("constraint") == "soft"  # whose other terms are not looked at: as of a run that was checked
    plan = Plan.of(configuration(problem, given), problem, stored=soft)
    x = problem.domain.interior(40, generator(), plan.config.points.law, dtype=F64)
    found = plan.loss.terms(plan.ansatz().to(F64), plan.operator, {"interior": x}, generator())
    return {name: term.item() for name, term in found.items()}


@pytest.mark.parametrize("length, name, constraint", in_pairs(LENGTHS, FAMILIES, ["hard", "soft"]))
def test_the_loss_does_not_depend_on_the_unit_of_length(name, length, constraint):
    """Residual and gradient, of equations of first and of second order: what is trained is the same problem."""
    here, there = (terms_of(FAMILIES[name](length=scale), constraint=constraint) for scale in (0.5, length))
    assert 1e-3 < here["interior"] < 1e3
    for term, value in here.items():
        assert there[term] == pytest.approx(value, rel=1e-5), term


@pytest.mark.parametrize("name", ["box", "heat", "decay"])
def test_the_run_does_not_depend_on_the_unit_of_length(name, tmp_path):
    """With Adam, which does not magnify round-off: the same function after training, in float32."""
    given = {**SMALL, "backbone": KAN, "solver": "adam", "steps": 20}
    one, *others = (FAMILIES[name](length=length) for length in (1.0, 1e-6, 1e6))
    places = torch.rand(50, one.domain.dim, generator=generator())
    values = {}
    for problem in (one, *others):
        run = kanpde.train(problem, out=tmp_path / f"{problem.length}.h5", **given)
        corner = torch.tensor([high for _, high in problem.domain.input_range("volume")])
        values[problem] = run.load_model(problem=problem)(places * corner).detach()
    for problem in others:
        assert (values[problem] - values[one]).abs().max() < 1e-2 * values[one].abs().max()


@pytest.mark.parametrize("domain", [Ball(3), Box(3), Cylinder(Ball(2)), Cylinder(Box(2), 1.0)])
def test_home_is_as_it_was(domain):
    """On the unit ball, on [-1, 1]^d and in times [0, 1] there is no map: the same network, residual scale and keys."""

    @dataclass(frozen=True)
    class Home(Poisson):
        @property
        def domain(self):
            return domain

    problem = Home(3)
    plan = planned(problem, {**SMALL, "backbone": KAN})
    assert plan.config.units is None and plan.frame is None and Frame.of(problem) is None
    forced = planned(problem, {**SMALL, "backbone": KAN, "units": "frame"})
    assert list(forced.net.state_dict()) == list(plan.net.state_dict())
    assert forced.loss.factor(problem) == 1 / 6


@pytest.mark.parametrize("name", ON_BALL)
def test_the_shipped_problems_are_at_home(name):
    assert configuration(ON_BALL[name](4), {}).units is None


def test_the_network_sees_numbers_of_size_one_and_the_grid_those():
    problem = Sine(2, 1e3)
    plan = planned(problem, {**SMALL, "backbone": KAN})
    net = plan.net
    assert plan.config.units == "frame" and isinstance(net[0], Affine) and isinstance(net[-1], Affine)
    ends = torch.tensor([[0.0, 0.0], [1e3, 3e3], [500.0, 0.0]])
    close(net[0](ends), torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, -1.0]]), 1e-6)
    assert net[1].basis.low.tolist() == [-1, -1] and net[1].basis.high.tolist() == [1, 1]
    stated = planned(problem, {**SMALL, "backbone": {**KAN, "grid_range": [[0, 2e3], [0, 3e3]]}})
    assert stated.net[1].basis.high.tolist() == [3, 1]  # a range is given in x


@pytest.mark.parametrize("start", ["network", "constant"])
def test_high_dim_on_a_large_ball_is_that_on_the_unit_ball(start):
    """The default solver from d = 1000 on: wide grid, centred layer, c + s net."""
    given = {**SMALL, "solver": "high_dim", "start": start, "backbone": KAN, "dtype": "float64"}
    networks = []
    for problem in (Bump(1000, 1.0), Bump(1000, 1e3)):
        net = planned(problem, given).net.to(F64)
        x = problem.length * Ball(1000).interior(5, generator(), dtype=F64)
        networks.append(net(x).detach())
    close(networks[1], networks[0], 1e-5)


def test_the_start_in_closed_form_is_the_same_function_on_a_large_ball():
    values = []
    for problem in (Bump(12, 1.0), Bump(12, 1e3)):
        plan = planned(problem, {**SMALL, "start": "ladder", "backbone": KAN})
        *_, last = climb(plan, generator())
        p = plan.start().double()
        p.load_state_dict(last.state)
        x = problem.length * Ball(12).interior(9, generator(), dtype=F64)
        values.append(problem.domain.factor(x).value * p(x).value)
    close(values[1], values[0], 1e-4)


def test_units_as_given_are_those_of_x(tmp_path):
    problem = Sine(1, 1e3)
    plan = planned(problem, {**SMALL, "backbone": KAN, "units": "given", "start": "network"})
    assert len(plan.net) == 2 and plan.loss.factor(problem) == 0.5


def test_a_run_of_before_units_opens_and_goes_on_as_it_was(tmp_path):
    """A result file whose configuration has no such key: the network has no maps, and the loss its old scale."""
    problem, out = Sine(1, 2.0), tmp_path / "old.h5"
    run = kanpde.train(problem, out=out, steps=2, backbone=KAN, units="given", start="network", **SMALL)
    run.attrs["config"] = run.attrs["config"].replace("units: given\n", "")
    run.save()
    u, losses = Run.open(out).load_model(problem=problem), list(Run.open(out).history["loss"])
    assert not any(isinstance(module, Affine) for module in u.modules())
    longer = kanpde.resume(out, problem=problem, steps=4)
    assert longer.history["loss"][: len(losses)][1:] == losses[1:]
    assert not any(isinstance(module, Affine) for module in longer.load_model(problem=problem).modules())


def test_a_network_of_ones_own_is_left_as_it_is_but_not_its_residual(tmp_path):
    problem, net = Sine(1, 100.0), torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    run = kanpde.train(problem, net, out=tmp_path / "own.h5", steps=1, **SMALL)
    assert list(map(type, run.load_model(problem=problem, net=net).net)) == list(map(type, net))
    assert Plan.of(config_of(run), problem, net, stored=True).loss.factor(problem) == pytest.approx(50.0**2 / 2)


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name != "autograd"])
def test_every_operator_goes_through_the_map(operator):
    """s stays one row for all points, whatever its form."""
    problem = Sine(2, 7.0)
    net = planned(problem, {**SMALL, "backbone": KAN}).net.double()
    u, x = Ansatz(problem, net), problem.domain.interior(5, generator(), dtype=F64)
    options = {"sdgd": {"dims": 2}, "hutchinson": {"probes": 4000}}.get(operator, {})
    found = OPERATORS[operator](**options)(u, x, generator=generator())
    close(found.lap, Autograd()(u, x).lap, 1e-9 if operator in ("forward", "sdgd") else 0.2)


def test_a_frame_that_is_none_is_refused_in_one_line():
    class Odd(Box):
        def frame(self):
            return [0.0, 0.0], -1.0

    @dataclass(frozen=True)
    class OnOdd(Sine):
        @property
        def domain(self):
            return Odd(2)

    with pytest.raises(kanpde.ConfigError, match="Odd.*half-width above 0") as info:
        configuration(OnOdd(2), SMALL)
    one_line(info)


# Sources that cannot be differentiated -------------------------------------------------------------------------------


@dataclass(frozen=True)
class WithSource(Problem):
    """u'' + f = 0 on (0, L)."""

    kind: str = "plain"
    length: float = 1.0

    @property
    def domain(self):
        return Box(1, 0.0, self.length)

    def residual(self, u, x):
        return u.lap + SOURCES[self.kind](u, math.pi * x[:, 0] / self.length) / self.length**2


def in_numpy(t):
    return torch.from_numpy(np.sin(t.detach().numpy()))


SEEN = {
    "plain": lambda u, t: t.sin(),
    "constant": lambda u, t: torch.ones_like(t),
    "none": lambda u, t: torch.zeros_like(t),
    "steep": lambda u, t: (1e5 * t).sin(),
    "steps": lambda u, t: torch.where(t > 1.234, 1.0, -1.0) * torch.ones_like(t),
    "pieces": lambda u, t: (t - 1.234).abs() + (t - 2).clamp_min(0),
    "single precision": lambda u, t: t.float().sin().to(t.dtype),
    "large offset": lambda u, t: 1e4 + t.sin(),
    "reciprocal": lambda u, t: 0.3 / (1 - u.value) ** 2,
    "logarithm": lambda u, t: (u.value**2).log() + t.sin(),
    "drawn": lambda u, t: t.sin() + torch.randn(len(t), generator=torch.Generator()) * 0 + next(DRAWS),
}
NOT_SEEN = {
    "numpy": lambda u, t: in_numpy(t),
    "a raise": lambda u, t: torch.from_numpy(np.ones_like(t.numpy())),
    "detached": lambda u, t: t.detach().sin(),
    "in part": lambda u, t: t.cos() + in_numpy(2 * t),
    "a small part": lambda u, t: t.cos() + 0.05 * in_numpy(2 * t),
    "in one place": lambda u, t: t.sin() + (-((t.detach() - 1.5) ** 2) / 0.02).exp(),
}
DRAWS = iter(range(10**9))
SOURCES = SEEN | NOT_SEEN


def gradient_check(problem, **changes):
    planned(problem, {**SMALL, "backbone": KAN, "loss": {"gradient": "almost_everywhere"}, **changes})


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("kind", SEEN)
def test_sources_of_plain_torch_are_accepted(kind, length):
    gradient_check(WithSource(1, kind, length))


@pytest.mark.parametrize("length", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("kind", NOT_SEEN)
def test_sources_that_autograd_does_not_see_are_refused(kind, length):
    with pytest.raises(kanpde.ConfigError, match=r"loss\.gradient: the residual.*none") as info:
        gradient_check(WithSource(1, kind, length))
    one_line(info)
    gradient_check(WithSource(1, kind, length), loss={"gradient": "none"})


@dataclass(frozen=True)
class Blind(Sine):
    """Something else than the source is detached."""

    what: str = "coefficients"

    def coefficients(self, x):
        y = x.detach() if self.what == "coefficients" else x
        return 1 + y.sin().square()

    def lift(self, x):
        if self.what != "lift":
            return None
        return Field(x.detach()[:, 0].sin(), x.cos(), -x.sin())


@pytest.mark.parametrize("what", ["coefficients", "lift"])
def test_all_that_depends_on_x_is_differentiated(what):
    gradient_check(Blind(1, what="nothing"))
    with pytest.raises(kanpde.ConfigError, match=rf"loss\.gradient: {what}\(x\) of the problem cannot") as info:
        gradient_check(Blind(1, what=what))
    one_line(info)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_call_without_gradients_is_as_any_other(context, tmp_path):
    given = {**SMALL, "backbone": KAN, "steps": 2}
    usual = kanpde.train(Sine(1), out=tmp_path / "usual.h5", **given)
    with context():
        run = kanpde.train(Sine(1), out=tmp_path / "run.h5", **given)
        kanpde.resume(tmp_path / "run.h5", problem=Sine(1), steps=3)
        check_problem(Sine(1))
        assert not torch.is_grad_enabled()
    assert run.history["loss"][1] == usual.history["loss"][1]


def test_a_network_made_in_inference_mode_is_trained_as_its_copy(tmp_path):
    with torch.inference_mode():
        net = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    run = kanpde.train(Sine(1), net, out=tmp_path / "run.h5", steps=1, **SMALL)
    assert run.attrs["steps"] == 1


def test_a_residual_that_is_not_finite_at_one_is_no_fault():
    """0.3 / (1 - u)^2 is infinite, and log u NaN, at numbers that a check may try."""
    check_problem(WithSource(1, "reciprocal"))
    check_problem(WithSource(1, "logarithm"))
    with pytest.raises(AssertionError, match="not finite"):
        SOURCES["nowhere"] = lambda u, t: t / 0 - t / 0
        check_problem(WithSource(1, "nowhere"))


def test_the_jet_that_is_held_is_that_of_the_network():
    problem = Sine(2, 3.0)
    plan, x = planned(problem, {**SMALL, "backbone": KAN}), problem.domain.interior(4, stream(0, "x"), dtype=F64)
    held, whole = checks.held_jet(plan, x), Forward()(Ansatz(problem, plan.net.double()), x)
    assert isinstance(held, Jet) and not held.lap.requires_grad
    close(held.lap, whole.lap.detach(), 1e-12)
