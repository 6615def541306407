"""Terminal value problems: their solutions, their points, and what a start in closed form makes of them."""

import math

import pytest
import torch
from conftest import F64, close, generator, planned
from scipy import stats
from scipy.integrate import quad

from kanpde import train
from kanpde.domains import Ball, Gaussian, IncompleteDomain, LogNormal, Paths
from kanpde.ground.errors import ConfigError
from kanpde.problems import AllenCahnPaths, BlackScholesBarenblatt, HJBControl
from kanpde.problems.parts import in_space

SMALL = {"points": {"test": 100, "validation": 50}, "slices": {"points": 2, "volume": 0}}


def terms_of(problem, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """u, u_t, gradient (N, d) and Hessian diagonal (N, d) in space of the exact solution, by nested differentiation."""
    each = lambda x: problem.exact(x[None])[0]
    gradient = torch.stack([torch.func.jacrev(each)(at) for at in x])
    hessian = torch.stack([torch.func.hessian(each)(at).diagonal() for at in x])
    return problem.exact(x), gradient[:, -1], gradient[:, :-1], hessian[:, :-1]


@pytest.mark.parametrize("dim, strength", [(1, 1.0), (3, 0.5), (3, 2.0), (100, 1.0)])
def test_the_cost_of_control_is_a_quadrature_of_its_own(dim, strength):
    problem = HJBControl(dim, strength=strength)
    x = problem.domain.interior(3, generator(), dtype=F64)

    def density(v: float, tau: float, r_sq: float) -> float:  # s = v^2
        spread = 1 + 4 * tau * v * v
        return 2 * v ** (2 * strength - 1) * spread ** (-dim / 2) * math.exp(-v * v - r_sq * v * v / spread)

    for at, found in zip(x, problem.exact(x), strict=True):
        given = problem.time - at[-1].item(), at[:-1].square().sum().item()
        integral = quad(density, 0, 8, given, epsabs=0, epsrel=1e-11, limit=200)[0]
        expected = -math.log(2**strength / math.gamma(strength) * integral) / strength
        assert found.item() == pytest.approx(expected, rel=1e-8)


def test_the_published_values():
    assert HJBControl(100).exact(torch.zeros(1, 101, dtype=F64)).item() == pytest.approx(4.5901, abs=1e-4)
    problem = BlackScholesBarenblatt(100)
    assert problem.exact(problem.domain.initial(1, generator(), dtype=F64)).item() == pytest.approx(77.1049, abs=2e-4)


@pytest.mark.parametrize("problem", [HJBControl(3, strength=1.5), HJBControl(2, time=0.5)], ids=str)
def test_the_cost_of_control_solves_its_equation(problem):
    x = problem.domain.interior(5, generator(), dtype=F64)
    _, u_t, gradient, second = terms_of(problem, x)
    close(u_t + second.sum(1), problem.strength * gradient.square().sum(1), 1e-7)


def test_the_price_of_an_option_solves_its_equation():
    problem = BlackScholesBarenblatt(4, rate=0.1, volatility=0.3)
    x = problem.domain.interior(5, generator(), dtype=F64)
    u, u_t, gradient, second = terms_of(problem, x)
    y = x[:, :-1]
    close(u_t + 0.3**2 / 2 * (y.square() * second).sum(1), 0.1 * (u - (y * gradient).sum(1)), 1e-10)


@pytest.mark.parametrize("problem", [HJBControl(3), BlackScholesBarenblatt(3)], ids=lambda p: type(p).__name__)
def test_the_solution_has_its_terminal_values(problem):
    x = problem.domain.at_time(problem.time, 20, generator(), dtype=F64)
    (terminal,) = problem.conditions
    close(problem.exact(x), terminal.value(x), 1e-10)


@pytest.mark.parametrize(
    "space, transformed",
    [
        (Gaussian(2, 3.0, (1.0, -2.0)), lambda x, t: (x - torch.tensor([1.0, -2.0])) / (3 * (t / 2).sqrt())),
        (
            LogNormal(2, 0.6, (1.0, 0.5)),
            lambda x, t: ((x / torch.tensor([1.0, 0.5])).log() + 0.18 * t / 2) / (0.6 * (t / 2).sqrt()),
        ),
    ],
    ids=["brownian", "geometric"],
)
def test_points_have_the_law_of_the_paths_at_their_time(space, transformed):
    x = Paths(space, 2.0).interior(4000, generator(3), dtype=F64)
    z, t = transformed(x[:, :-1], x[:, -1:]), x[:, -1]
    assert stats.kstest(t.numpy(), stats.uniform(0, 2).cdf).pvalue > 1e-3
    for early in (t < 0.5, t > 1.5):
        for column in z[early].unbind(1):
            assert stats.kstest(column.numpy(), stats.norm.cdf).pvalue > 1e-3


def test_paths_begin_in_one_point_and_end_by_the_law_of_space():
    paths = Paths(LogNormal(2, 0.5, (1.0, 3.0)), 0.7)
    assert torch.equal(paths.initial(3, generator()), torch.tensor([[1.0, 3.0, 0.0]] * 3))
    ends = paths.at_time(0.7, 5, generator(1), dtype=F64)
    close(ends[:, :-1], paths.space.interior(5, generator(1), dtype=F64), 1e-12)
    problem = BlackScholesBarenblatt(2)
    close(
        in_space(problem, 5, generator(1), "lognormal", 1.0)[:, :-1],
        problem.domain.space.interior(5, generator(1)),
        1e-6,
    )


def test_what_is_no_law_of_paths_is_refused():
    with pytest.raises(IncompleteDomain, match="earlier"):
        Paths(Ball(2))
    with pytest.raises(ConfigError, match=r"LogNormal: center: given 0.0, needed is a finite number above 0"):
        LogNormal(2, 0.5, 0.0)
    with pytest.raises(ConfigError, match=r"LogNormal: center: given \(1.0,\), needed are 2 finite numbers"):
        LogNormal(2, 0.5, (1.0,))
    with pytest.raises(ValueError, match=r"strength: given -1, needed is a finite number above 0"):
        HJBControl(2, strength=-1)


@pytest.mark.parametrize(
    "problem, most", [(HJBControl(30), 0.02), (BlackScholesBarenblatt(10), 0.02)], ids=["control", "option"]
)
def test_a_run_starts_on_its_paths(problem, most, tmp_path):
    run = train(problem, backbone="kan", steps=1, out=tmp_path / "run.h5", **SMALL)
    assert run.config["constraint"] == "soft" and run.config["start"] == "ladder"
    assert run.floors["start"] < most
    x_0 = problem.domain.initial(1, generator())
    u = run.load_model(problem=problem)
    assert u(x_0).item() == pytest.approx(problem.exact(x_0).item(), rel=most)


def test_a_problem_without_a_solution_has_a_start_too(tmp_path):
    problem = AllenCahnPaths(100)
    run = train(problem, backbone="kan", steps=1, out=tmp_path / "run.h5", **SMALL)
    assert run.load_model(problem=problem)(torch.zeros(1, 101)).item() == pytest.approx(0.0528, abs=5e-4)


def test_floors_of_what_is_not_built_in_are_those_of_the_functions_themselves(tmp_path):
    """Of h + (T - t) c, with h constant in time, the constant is far away; c alone is not."""
    problem = HJBControl(30)
    run = train(problem, backbone="kan", steps=1, start="network", out=tmp_path / "run.h5", **SMALL)
    u = torch.as_tensor(run.field["u_exact"])
    deviation = ((u - u.mean()).norm() / u.norm()).item()
    assert run.floors["constant"] == pytest.approx(deviation, rel=1e-6) and deviation < 0.1


def test_a_solver_may_weigh_values_that_are_conditions_here_and_a_user_may_not():
    small = {"points": {"interior": 8, "boundary": 8, "test": 20, "validation": 10}}
    planned(HJBControl(3), {"solver": "paper", **small})
    with pytest.raises(ConfigError, match="unknown key loss.weights 'boundary'"):
        planned(HJBControl(3), {"solver": "paper", "loss": {"weights": {"boundary": 3.0}}, **small})
