"""Verification: the defect against closed forms, its intervals, what is refused, and runs that have it."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conftest import call, one_line, refused
from torch import nn

import kanpde
from kanpde import Ansatz, NotVerifiable, Problem
from kanpde.domains import Ball, Box, Cylinder, Ellipsoid, Gaussian, Polygon, Simplex
from kanpde.problems import HJB, PDES, Heat, Poisson, SineGordon
from kanpde.problems.conditions import Dirichlet, Initial, Neumann, Periodic, Robin, Terminal
from kanpde.runs.api import go_on
from kanpde.runs.stored import agreeing
from kanpde.training import verifying
from kanpde.verification import DefectEquation, method_of
from kanpde.verification.draws import exits_of_ball
from kanpde.verification.estimate import Samples, quantile, relative_l2
from kanpde.verification.methods import BallGreen, Grid, HeatBalls, HeatKernel, Paths, Spheres
from kanpde.verification.verify import nonlinear


@dataclass(frozen=True)
class Linear(Problem):
    """s u_t = Lap u + q u - g, s = 0, 1 or -1, with u* = sin(sum x) cos(t) + x_1: in any domain, with any q(x)."""

    on: Any = None
    q: float = 0.0
    s: float = 0.0

    @property
    def domain(self):
        return self.on

    def _q(self, x):
        return self.q * (1 + 0.5 * torch.sin(3 * x[:, 0]))

    def exact(self, x):
        t = x[:, -1] if self.s else torch.zeros_like(x[:, 0])
        return x[:, : self.dim].sum(1).sin() * t.cos() + x[:, 0]

    def source(self, x):
        t = x[:, -1] if self.s else torch.zeros_like(x[:, 0])
        wave = x[:, : self.dim].sum(1).sin()
        return -self.dim * wave * t.cos() + self._q(x) * self.exact(x) + self.s * wave * t.sin()

    def left_side(self, u, x):
        found = u.lap + self._q(x) * u.value
        return found - self.s * u.t if self.s else found

    def boundary_value(self, x):
        return self.exact(x)

    def initial_value(self, x):
        return self.exact(x)


def net(d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / 2)
    return made


def check(problem, kind, n=400, points=48, tolerance=1e-3):
    """Samples of the defect of a random network have the mean that they should, at points of the domain."""
    u = Ansatz(problem, net(problem.n_inputs), hard=False)
    equation = DefectEquation(u)
    method = kind(equation)
    generator = torch.Generator().manual_seed(1)
    x = problem.domain.interior(points, generator, dtype=torch.float64)
    e = (equation.u(x.to(equation.u.like.dtype)) - problem.exact(x)).detach().double()
    samples = method.draw(x.repeat(n, 1), generator).reshape(n, points)
    error, mean = samples.std(0) / n**0.5, samples.mean(0)
    z = (mean - e) / (error + tolerance * e.abs().max())
    assert z.square().mean() < 1.8 and z.mean().abs() * points**0.5 < 3.5
    assert error.mean() < 0.3 * e.abs().mean()  # else nothing was seen
    return method


@pytest.mark.parametrize("q", [0.0, -1.0, -40.0, 0.25])
@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_the_green_function_of_a_ball(d, q):
    on = Ball(d, 1.5, tuple(0.1 * i for i in range(d)))
    assert check(Linear(d, on, q), BallGreen).says.startswith("heat balls" if 2.7 * abs(q) / d > 0.9 else "Green")


SPACES = [
    Box(2, (0.0, -1.0), (1.0, 2.0)),
    Box(1),
    Ball(3, 1.0) | Ball(3, 1.0, (0.8, 0.0, 0.0)),
    Box(2) - Ball(2, 0.4),
    Box(2) & Ball(2, 1.2),
    Ellipsoid((1.0, 0.5, 0.7)),
    Simplex(3),
    Polygon(((0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (1.0, 1.0), (1.0, 2.0), (0.0, 2.0))),
]


@pytest.mark.parametrize("on", SPACES, ids=lambda on: f"{type(on).__name__}-{on.dim}")
def test_walks_on_spheres(on):
    check(Linear(on.dim, on), Spheres)


@pytest.mark.parametrize("q", [-1.0, -20.0, 0.25])
@pytest.mark.parametrize("on", SPACES[:4], ids=lambda on: f"{type(on).__name__}-{on.dim}")
def test_walks_on_heat_balls_without_time(on, q):
    check(Linear(on.dim, on, q), HeatBalls)


@pytest.mark.parametrize("s", [1.0, -1.0, 3.0])
@pytest.mark.parametrize("q", [0.0, -3.0, 0.5])
@pytest.mark.parametrize(
    "space", [Ball(1), Ball(2, 0.7), Ball(6), Box(2)], ids=lambda on: f"{type(on).__name__}-{on.dim}"
)
def test_walks_on_heat_balls(space, q, s):
    problem = Linear(space.dim, Cylinder(space, 0.5), q, s)
    if s < 0:
        problem = Backward(space.dim, Cylinder(space, 0.5), q, s)
    check(problem, HeatBalls)


@pytest.mark.parametrize("d", [1, 2, 5, 30])
def test_a_step_of_a_heat_ball_is_an_identity(d):
    """f = E f(X) - w E (Lap f - f_s)(Y) for f = s^2 |x|^2 + s^3, whatever the walk does afterwards."""
    n, g = 100_000, torch.Generator().manual_seed(0)
    problem = Linear(d, Cylinder(Ball(d)), 0.0, 1.0)
    walk = HeatBalls(DefectEquation(Ansatz(problem, net(d + 1), hard=False)))
    x = torch.full((1, d + 1), 0.4 / d**0.5, dtype=torch.float64)
    x[:, -1] = 0.5
    f = lambda x: x[:, -1] ** 2 * x[:, :d].square().sum(1) + x[:, -1] ** 3
    rho = lambda x: (2 * d - 3) * x[:, -1] ** 2 - 2 * x[:, -1] * x[:, :d].square().sum(1)
    step = walk.step(x.repeat(n, 1), g)
    found = f(step.exit) - step.w * rho(step.inside(torch.ones(n, dtype=torch.bool)))
    assert (found.mean() - f(x)).abs() < 4 * found.std() / n**0.5
    assert found.std() / n**0.5 < 2e-3 * f(x)
    assert (step.tau_x.mean() / step.w[0] - 1).abs() < 0.02


@dataclass(frozen=True)
class Backward(Linear):
    """Values at the end of time."""

    conditions = (Dirichlet(value=lambda x: wave(x)), Terminal(lambda x: wave(x)))


def wave(x):
    return x[:, :-1].sum(1).sin() * x[:, -1].cos() + x[:, 0]


@pytest.mark.parametrize("q", [0.0, -1.5, 0.5])
def test_the_heat_kernel(q):
    check(Linear(4, Cylinder(Gaussian(4, 0.5), 0.7), q, 1.0), HeatKernel)


@dataclass(frozen=True)
class Drifting(Linear):
    """The same with a drift v . grad u and second derivatives of different sizes."""

    def coefficients(self, x):
        s = 1 + 0.3 * torch.arange(x.shape[1], dtype=x.dtype)
        if self.s:
            s[-1] = 0
        return s

    def directions(self, x):
        v = torch.zeros(1, x.shape[1], dtype=x.dtype)
        v[0, 0] = 1.5
        return v

    def left_side(self, u, x):
        return super().left_side(u, x) + u.along[:, 0]

    def source(self, x):
        t = x[:, -1] if self.s else torch.zeros_like(x[:, 0])
        space = x[:, : self.dim].sum(1)
        more = self.coefficients(x)[: self.dim].sum() - self.dim
        return super().source(x) - more * space.sin() * t.cos() + 1.5 * (space.cos() * t.cos() + 1)


@pytest.mark.parametrize("q", [0.0, -2.0, 0.5])
@pytest.mark.parametrize("space", [Ball(2), Box(3), Gaussian(3, 0.6)], ids=lambda on: f"{type(on).__name__}-{on.dim}")
def test_paths_in_small_steps(space, q):
    check(Drifting(space.dim, Cylinder(space, 0.4), q, 1.0), Paths, tolerance=1e-2)


def test_paths_without_time():
    check(Drifting(2, Ball(2), -1.0), Paths, n=200, tolerance=2e-2)


@pytest.mark.parametrize("q", [30.0, -1000.0])
@pytest.mark.parametrize("on", [Box(1), Box(2, (0.0, -1.0), (1.0, 1.5)), Box(3)], ids=lambda on: f"{on.dim}")
def test_a_grid_where_paths_would_grow(on, q):
    """No noise, so against the truth itself."""
    problem = Drifting(on.dim, on, q)
    u = Ansatz(problem, net(on.dim), hard=False)
    method = Grid(DefectEquation(u)) if q < 0 else method_of(DefectEquation(u))
    assert isinstance(method, Grid)
    x = on.interior(200, torch.Generator().manual_seed(0), dtype=torch.float64)
    e = (u.double()(x) - problem.exact(x)).detach()
    assert (method.draw(x, torch.Generator()) - e).norm() < (0.05 if on.dim == 3 else 5e-3) * e.norm()


# ---------------------------------------------------------------------------------------------------------------
# Statistics


def test_exits_of_a_ball_have_the_values_of_harmonic_functions():
    ball, g = Ball(3, 2.0, (1.0, 0.0, 0.0)), torch.Generator().manual_seed(0)
    x = torch.tensor([[1.0, 0.0, 0.0], [2.5, 0.5, -0.5], [1.0, 1.9, 0.0]], dtype=torch.float64)
    n = 20_000
    z = exits_of_ball(ball, x.repeat_interleave(n, 0), g).reshape(3, n, 3)
    assert torch.allclose((z - x.new_tensor(ball.center)).norm(dim=2), x.new_tensor(2.0))
    for harmonic in (lambda y: y[..., 0], lambda y: y[..., 0] * y[..., 1], lambda y: y[..., 1] ** 2 - y[..., 2] ** 2):
        found = harmonic(z)
        assert ((found.mean(1) - harmonic(x)).abs() < 4 * found.std(1) / n**0.5 + 1e-3).all()


def of_noise(m: int, n: int, noise: float, g: torch.Generator) -> tuple[Samples, float]:
    """Samples of a defect e = c u at m points with noise, and the relative error that is to be found."""
    u = torch.randn(m, generator=g, dtype=torch.float64)
    e = 1e-3 * torch.randn(m, generator=g, dtype=torch.float64)
    samples = e.unsqueeze(1) + noise * torch.randn(m, n, generator=g, dtype=torch.float64)
    return Samples.none(torch.zeros(m, 1), u + e).plus(samples), 1e-3


def test_intervals_hold_the_truth_as_often_as_they_say():
    g, held, values = torch.Generator().manual_seed(0), 0, []
    for _ in range(400):
        samples, truth = of_noise(100, 16, 3e-3, g)
        found = relative_l2(samples, 0.95)
        held += found.low <= truth <= found.high
        values.append(found.value**2)
    assert 0.92 <= held / 400 <= 0.98
    mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / 20
    assert (mean - 1e-6).abs() < 3.5 * error  # of e_i^2 itself it would be 1.56e-6


def test_samples_come_in_any_portions():
    parts = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    none = Samples.none(torch.zeros(3, 2), torch.ones(3, dtype=torch.float64))
    once, bits = none.plus(parts), none.plus(parts[:, :7]).plus(parts[:, 7:8]).plus(parts[:, 8:])
    assert torch.allclose(once.mean, parts.mean(1)) and torch.allclose(once.variance, parts.var(1))
    assert torch.allclose(once.mean, bits.mean) and torch.allclose(once.variance, bits.variance)


def test_quantiles_of_student():
    for m, expected in ((None, 1.9600), (11, 2.2281), (31, 2.0423), (101, 1.9840)):
        assert abs(quantile(0.95, m) / expected - 1) < 2e-3


@pytest.mark.parametrize("size", [1e-3, 0.05, 0.2])
def test_what_a_linear_equation_leaves_out_is_bounded(size):
    """Lap e - 3 e + e^2 = rho at a constant e: l = e - e^2 / 3 of the linear equation, C = 1 / 3."""
    for e in (size, -size):
        linear = abs(e - e**2 / 3)
        shrunk, grown = nonlinear(linear / 3)
        assert shrunk * linear <= abs(e) * (1 + 1e-12) and abs(e) <= grown * linear * (1 + 1e-12)
    assert nonlinear(10.0)[1] == float("inf") and nonlinear(0.0) == (1.0, 1.0)


# ---------------------------------------------------------------------------------------------------------------
# What is refused


@dataclass(frozen=True)
class Other(Linear):
    """An equation of another kind."""

    kind: str = ""

    def residual(self, u, x):
        x1 = x[:, 0]
        return {
            "third": lambda: u.d("x1", 3) + u.lap,
            "wave": lambda: u.d("t", 2) - u.lap,
            "mixed": lambda: u.d("x1", 1, "x2", 1) + u.lap,
            "type": lambda: x1 * u.lap,
            "first": lambda: u.t + u.x1,
            "grows": lambda: u.lap + 50 * u.value,
        }[self.kind]()


@pytest.mark.parametrize(
    "kind, words",
    [
        ("third", "order 3"),
        ("wave", "hyperbolic"),
        ("mixed", "mixed"),
        ("type", "not elliptic"),
        ("first", "not elliptic"),
        ("grows", "grow without bound"),
    ],
)
def test_what_no_method_is_for_is_refused(kind, words):
    on = Ball(2) if kind in ("third", "mixed", "type", "grows") else Cylinder(Ball(1))
    problem = Other(on.dim - (kind in ("wave", "first")), on, 0.0, 1.0 if kind in ("wave", "first") else 0.0, kind)
    u = Ansatz(problem, net(problem.n_inputs), hard=False)
    with pytest.raises(NotVerifiable, match=words) as info:
        method_of(DefectEquation(u))
    assert one_line(info)


def slope(x, n):
    """n . grad u* of `Linear` without time."""
    return (x.sum(1).cos().unsqueeze(1) * n).sum(1) + n[:, 0]


@dataclass(frozen=True)
class Flux(Linear):
    """Values on a side of a box, or where x_1 is small, and fluxes elsewhere."""

    @property
    def conditions(self):
        if isinstance(self.on, Box):
            right = Neumann("x2 = high", lambda x: slope(x, torch.eye(2).double()[1:].expand_as(x)))
            left = Robin(
                "x2 = low", 2.0, 1.0, lambda x: 2 * self.exact(x) - slope(x, torch.eye(2).double()[1:].expand_as(x))
            )
            return (Dirichlet("x1 = low", self.exact), Dirichlet("x1 = high", self.exact), right, left)
        few = lambda x: x[:, 0] < -0.3
        normal = lambda x: x / x.norm(dim=1, keepdim=True)
        return (Dirichlet(few, self.exact), Neumann(lambda x: ~few(x), lambda x: slope(x, normal(x))))


@pytest.mark.parametrize("q", [0.0, -2.0])
@pytest.mark.parametrize("on", [Box(2), Ball(2)], ids=lambda on: type(on).__name__)
def test_paths_with_fluxes_on_the_boundary(on, q):
    check(Flux(2, on, q), Paths, n=200, tolerance=3e-2)


@dataclass(frozen=True)
class Stated(Linear):
    """Other conditions."""

    asked_for: tuple = ()

    @property
    def conditions(self):
        return self.asked_for


@pytest.mark.parametrize(
    "s, on, asked, words",
    [
        (-1.0, Cylinder(Ball(2)), (Dirichlet(), Initial()), "at the end of time"),
        (1.0, Cylinder(Ball(2)), (Dirichlet(), Terminal()), "at the begin of time"),
        (1.0, Cylinder(Box(2)), (Initial(),), "nothing is asked for"),
        (0.0, Box(2), (Dirichlet("x1 = low"), Dirichlet("x1 = high")), "nothing is asked for"),
    ],
)
@pytest.mark.parametrize("hard", [True, False])
def test_what_is_not_asked_for_is_not_taken_for_met(s, on, asked, words, hard):
    problem = Stated(2, on, 0.0, s, asked)
    with pytest.raises(NotVerifiable, match=words):
        DefectEquation(Ansatz(problem, net(problem.n_inputs), hard=hard))
    without = Stated(2, Cylinder(Ball(2)), 0.0, -1.0)
    with pytest.raises(NotVerifiable, match="at the end of time"):
        DefectEquation(Ansatz(without, net(3), hard=False))


@pytest.mark.parametrize("size", [1e-3, 300.0])
@pytest.mark.parametrize("space", [Box(2, (0.0, 0.0), (8.0, 0.5)), Ball(2)], ids=lambda on: type(on).__name__)
@pytest.mark.parametrize("s", [0.0, 1.0])
def test_paths_know_how_long_they_take(space, size, s):
    """The same equation in other units of u and of time, in domains that are narrow in one direction."""

    @dataclass(frozen=True)
    class Sized(Drifting):
        def coefficients(self, x):
            return size * super().coefficients(x)

        def directions(self, x):
            return size * super().directions(x)

        def source(self, x):
            t, sum_x = x[:, -1] if self.s else torch.zeros_like(x[:, 0]), x[:, : self.dim].sum(1)
            second = -self.coefficients(x)[: self.dim].sum() * sum_x.sin() * t.cos()
            return second + 1.5 * size * (sum_x.cos() * t.cos() + 1) + self.s * sum_x.sin() * t.sin()

    on = Cylinder(space, min(1.0, 0.2 / size)) if s else space
    check(Sized(2, on, 0.0, s), Paths, n=200, tolerance=3e-2)


def test_points_of_a_box_nearest_to_others():
    x = torch.tensor([[5.0, 0.3], [0.1, 0.5], [12.0, 0.5], [11.0, -3.0]])
    assert Box(2, (0.0, 0.0), (10.0, 1.0)).nearest(x).tolist() == [[5.0, 0.0], [0.0, 0.5], [10.0, 0.5], [10.0, 0.0]]


def test_a_grid_is_not_for_fluxes():
    u = Ansatz(Flux(2, Box(2), 60.0), net(2), hard=False)
    with pytest.raises(NotVerifiable, match="grow without bound"):
        method_of(DefectEquation(u))


def test_conditions_that_determine_nothing_are_refused():
    @dataclass(frozen=True)
    class Alone(Linear):
        conditions = (Neumann(flux=0.0),)

    with pytest.raises(NotVerifiable, match="undetermined"):
        DefectEquation(Ansatz(Alone(2, Box(2)), net(2), hard=False))

    @dataclass(frozen=True)
    class Again(Linear):
        conditions = (Periodic("x1"),)

    with pytest.raises(NotVerifiable, match="periodic"):
        DefectEquation(Ansatz(Again(2, Box(2), -1.0), net(2), hard=False))


@pytest.mark.parametrize(
    "given, words",
    [
        ({"points": 1}, "at least 2"),
        ({"seconds": 0}, "above 0"),
        ({"rel": -1.0}, "above 0"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"points": torch.ones(2, 3)}, "not in the domain"),
        ({"points": torch.ones(2, 4)}, "(M, 3)"),
        ({"points": ["a"]}, "needed is a number, or points"),
        ({"seconds": "5"}, "needed is a number"),
    ],
)
def test_calls_that_do_not_fit_are_refused(given, words):
    with pytest.raises(kanpde.ConfigError) as info:
        kanpde.verify(Ansatz(Poisson(3), net(3)), **given)
    assert words in one_line(info)


# ---------------------------------------------------------------------------------------------------------------
# Runs


QUICK = {"backbone": {"name": "mlp", "widths": [16]}, "slices": {"points": 2, "volume": 0}, "points": {"test": 8192}}


def quick(tmp_path, problem, name="run", **given):
    return kanpde.train(problem, out=tmp_path / f"{name}.h5", **{**QUICK, "steps": 60, **given})


PROBLEMS = [Poisson(4), SineGordon(4), Heat(2), HJB(2)]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: type(p).__name__)
def test_the_error_of_a_run_is_found_without_its_solution(problem, tmp_path, monkeypatch):
    run = quick(tmp_path, problem, verify=False, steps=20, start="ladder")
    monkeypatch.setattr(type(problem), "exact", lambda self, x: pytest.fail("the solution was read"))
    found = kanpde.verify(run, seconds=20)
    assert found.low < run.rel_l2 < found.high and abs(found.rel_l2 / run.rel_l2 - 1) < 0.2
    assert found.high < 2 * found.low


def test_a_run_says_how_wrong_it_is_in_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "FEWEST", 0.0)
    run = kanpde.Run.open(quick(tmp_path, Poisson(4)).path)
    held = run.verification
    assert held["low"] < held["rel_l2"] < held["high"] and held["law"] == "radial" and held["confidence"] == 0.95
    assert held["x"].shape == (len(held["u"]), 4) and held["defect"].shape == held["standard_error"].shape
    more = kanpde.verify(run, rel=held["rel_l2"] and 0.5 * (held["high"] - held["low"]) / 2 / held["rel_l2"])
    again = kanpde.Run.open(run.path).verification
    assert more.count.sum() > held["count"].sum() and again["rel_l2"] == more.rel_l2
    assert (again["x"][: len(held["x"])] == held["x"]).all()


def test_a_resumed_run_is_verified_anew_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "FEWEST", 0.0)
    path = quick(tmp_path, Poisson(4), steps=4, start="network").path
    before = kanpde.Run.open(path).verification
    plan = agreeing(kanpde.Run.open(path), None, None, {}, [], 8)
    again = go_on(kanpde.Run.open(path), plan)
    assert again.verification["step"] != before["step"] and again.verification["rel_l2"] != before["rel_l2"]
    plan = agreeing(kanpde.Run.open(path), None, None, {"verify": False}, [], 12)
    assert not plan.config.verify
    last = go_on(kanpde.Run.open(path), plan)
    assert last.attrs["steps"] == 12 and not last.verification


def test_short_runs_and_those_without_a_method_say_why_not(tmp_path, monkeypatch):
    assert "short" in quick(tmp_path, Poisson(4)).attrs["not_verified"]
    monkeypatch.setattr(verifying, "FEWEST", 0.0)
    wave = Other(1, Cylinder(Ball(1)), 0.0, 1.0, "wave")
    run = quick(tmp_path, wave, "wave", constraint="soft", points={"boundary": 8, "initial": 8, "test": 64}, steps=4)
    assert "hyperbolic" in run.attrs["not_verified"] and not run.verification
    assert "not_verified" not in quick(tmp_path, Poisson(4), "off", verify=False).attrs


def test_no_run_is_lost_by_its_verification(tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "FEWEST", 0.0)
    monkeypatch.setattr(verifying, "estimated", lambda *_, **__: 1 / 0)
    run = quick(tmp_path, Poisson(4), steps=4)
    assert run.attrs["status"] == "finished" and run.attrs["not_verified"] == "ZeroDivisionError: division by zero"


def test_all_of_space_without_time_has_no_method():
    equation = DefectEquation(Ansatz(Linear(2, Gaussian(2), -1.0), net(2), hard=False))
    with pytest.raises(NotVerifiable, match="no boundary, and there is no time"):
        Paths(equation)
    with pytest.raises(NotVerifiable):
        method_of(equation)


def test_training_ends_by_the_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "FEWEST", 0.0)
    monkeypatch.setattr(verifying, "SHARE", 2.0)
    run = quick(tmp_path, Poisson(4), steps=2000, stop={"to": 0.05}, evaluation={"every": 20})
    assert 20 <= run.attrs["steps"] < 2000 and run.rel_l2 < 0.05
    assert run.history["estimated/high"][-1] <= 0.05


def test_what_cannot_be_estimated_cannot_end_a_run(tmp_path):
    wave = Other(1, Cylinder(Ball(1)), 0.0, 1.0, "wave")
    with pytest.raises(kanpde.ConfigError, match="hyperbolic"):
        quick(tmp_path, wave, constraint="soft", points={"boundary": 8, "initial": 8}, stop={"to": 0.1})


def test_what_is_no_run_is_refused():
    for function in (kanpde.verify, kanpde.correct):
        with pytest.raises(kanpde.ConfigError, match="needed is a run"):
            function(Poisson(3))


def test_a_goal_that_is_not_reached_is_said(tmp_path):
    run = quick(tmp_path, Poisson(4), steps=20, stop={"to": 1e-9})
    assert "asked for, 1e-09, is not reached" in run.attrs["message"] and run.verification
    with pytest.raises(kanpde.ConfigError, match="stop.to"):
        quick(tmp_path, Poisson(4), "other", stop={"error": 1e-3})


def test_points_of_ones_own_are_corrected(tmp_path):
    run = quick(tmp_path, Poisson(3), verify=False)
    x = Ball(3).interior(20, torch.Generator().manual_seed(3), dtype=torch.float64)
    found, exact = kanpde.verify(run, x, rel=0.05), Poisson(3).exact(x).numpy()
    assert abs(found.corrected - exact).mean() < 0.2 * abs(found.u - exact).mean()
    assert "array" not in repr(found)  # which a notebook shows
    assert not kanpde.Run.open(run.path).verification


def test_a_second_network_corrects_a_run(tmp_path):
    run = quick(tmp_path, Poisson(3), start="network")
    second = kanpde.correct(run, steps=40)
    assert second.path.name == "run-corrected.h5" and second.rel_l2 < 0.5 * run.rel_l2
    assert second.config["stages"][0]["backbone"]["name"] == "mlp"
    assert abs(second.attrs["former_rel_l2"] / run.rel_l2 - 1) < 0.3
    assert second.attrs["former_validation"] == run.attrs["validation_best"] > second.attrs["validation_best"]
    third = kanpde.correct(second, steps=4)
    assert len(third.config["stages"]) == 2 and third.rel_l2 < 0.5 * run.rel_l2
    u, first = kanpde.Run.open(third.path).load_model(), run.load_model()
    x = torch.zeros(1, 3)
    assert torch.equal(u.net.nets[0](x), first.net(x))  # what was learned stays


def test_what_has_no_polynomial_is_corrected_by_a_network_alone(tmp_path):
    @dataclass(frozen=True)
    class Round(Problem):
        conditions = (Periodic("x1"), Dirichlet("x2 = low"), Dirichlet("x2 = high"))
        domain = Box(2)

        def residual(self, u, x):
            return u.lap - u.value - (torch.pi * x[:, 0]).cos()

    problem = Round(2)
    run = quick(tmp_path, problem, steps=40)
    second = kanpde.correct(run, steps=20, problem=problem)
    assert second.config["start"] == "network" and second.attrs["validation_best"] < run.attrs["validation_best"]


def test_what_has_no_sum_of_networks_is_refused(tmp_path):
    with pytest.raises(kanpde.ConfigError, match="grad u"):
        kanpde.correct(quick(tmp_path, HJB(2), steps=4))


def test_the_commands(tmp_path, capsys):
    run = quick(tmp_path, Poisson(3), steps=20)
    code, said, _ = call(capsys, "verify", run.path, "--rel", "0.3")
    assert code == 0 and "Green function of the ball" in said and "by the exact solution" in said
    table = tmp_path / "points.csv"
    table.write_text("x1,x2,x3\n0.1,0.2,0.3\n0,0,0\n")
    code, said, _ = call(capsys, "correct", run.path, "--at", table, "--rel", "0.3")
    assert code == 0 and "2 rows written" in said
    assert (tmp_path / "points-corrected.csv").read_text().startswith("x1,x2,x3,u,corrected,standard_error\n")
    table.write_text("x1,x2,x3\n3,0,0\n")
    refused("kanpde", "correct", str(run.path), "--at", str(table), "--out", str(tmp_path / "new.csv"))


def test_nothing_but_the_report_reads_the_solution(tmp_path, monkeypatch):
    """Training, the choice of weights, stopping and verification are the same whatever the solution is said to be."""
    for name, kind in PDES.items():
        problem = kind(3)

        def one(called):
            run = quick(tmp_path, problem, f"{name}-{called}", steps=6, start="ladder", verify=False)  # noqa: B023
            found = kanpde.verify(run, points=16, seconds=None, rel=1e9)
            return run.attrs["best_step"], run.field["u"], found.rel_l2, found.defect

        right = one("right")
        with monkeypatch.context() as patch:
            patch.setattr(kind, "exact", lambda self, x: 7 + x[:, 0].cos())
            wrong = one("wrong")
        assert right[0] == wrong[0] and right[2] == wrong[2], name
        assert (right[1] == wrong[1]).all() and (right[3] == wrong[3]).all(), name
