"""Levenberg-Marquardt steps against their formula, and where products J^T J have no digits left."""

import pytest
import torch
from conftest import close
from torch import Tensor, nn

import kanpde
from kanpde.config.schema import PhaseConfig
from kanpde.jets.ansatz import Ansatz
from kanpde.optim import GaussNewton, LevenbergMarquardt, levenberg_marquardt
from kanpde.optim.optimisers import make_optimizer
from kanpde.problems import PoissonPairs

F64 = torch.float64


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, dtype=F64, generator=torch.Generator().manual_seed(seed))


class Quadratic:
    """r = A theta + theta^T B theta / 2 - b, whose second derivative along v is v^T B v everywhere."""

    def __init__(self, m: int, n: int, bent: float = 0.0):
        self.a, self.b, self.theta = normal(m, n), normal(m, seed=1), nn.Parameter(normal(n, seed=2))
        self.bends = bent * normal(m, n, n, seed=3)
        self.bends = self.bends + self.bends.mT

    def residual(self) -> Tensor:
        return self.a @ self.theta + (self.bends @ self.theta @ self.theta) / 2 - self.b

    def jacobian(self) -> Tensor:
        return self.a + self.bends @ self.theta.detach()

    def blocks(self):
        yield from zip(self.residual().detach().split(7), self.jacobian().split(7), strict=True)

    def loss(self) -> float:
        return self.residual().square().sum().item()


def solved(j: Tensor, r: Tensor, mu: float, scaling: float) -> Tensor:
    """-(J^T J + mu S)^-1 J^T r."""
    lengths = j.norm(dim=0)
    s = (lengths / lengths.max()) ** (2 * scaling)
    return -torch.linalg.solve(j.mT @ j + mu * torch.diag(s), j.mT @ r)


@pytest.mark.parametrize("scaling", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("m", "n"), [(400, 12), (40, 12), (12, 12), (12, 40)])
@pytest.mark.parametrize("bent", [0.0, 1e-3])
@pytest.mark.parametrize("held", [2**26, 20])  # of the latter blocks become triangles on the way
@pytest.mark.parametrize("normal", [1e-12, 1e12])  # from here on of mu by the normal equations: always, or never
def test_a_step_is_the_formula(m, n, bent, scaling, held, normal, monkeypatch):
    monkeypatch.setattr(levenberg_marquardt, "HELD", held)
    monkeypatch.setattr(levenberg_marquardt, "NORMAL", normal)
    system, mu = Quadratic(m, n, bent), 0.3
    start, j, r = system.theta.detach().clone(), system.jacobian(), system.residual().detach()
    v = solved(j, r, mu, scaling)
    a = solved(j, system.bends @ v @ v, mu, scaling)
    assert not bent or a.norm() > 1e-5 * v.norm()
    optimizer = LevenbergMarquardt([system.theta], damping=mu, scaling=scaling)
    assert optimizer.step(system) == system.loss()
    close(system.theta.detach() - start, v + a / 2, 1e-9)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(mu / 3) and optimizer.report()["accepted"] == 1


def test_rounding_of_the_normal_equations_is_taken_out(monkeypatch):
    """Of a condition of 1e10 and mu a little above its rounding their Cholesky factor alone has few digits."""
    u, _, v = torch.linalg.svd(normal(60, 12), full_matrices=False)
    j, r = u @ torch.diag(torch.logspace(0, -5.4, 12, dtype=F64)) @ v, normal(60, seed=1)
    steps = {}
    for refined, least in ((4, 1e-12), (4, 1e12), (0, 1e-12)):
        monkeypatch.setattr(levenberg_marquardt, "REFINED", refined)
        monkeypatch.setattr(levenberg_marquardt, "NORMAL", least)
        system = Quadratic(60, 12)
        system.a, system.b = j, j @ system.theta.detach() - r
        at = levenberg_marquardt._Here(system, [system.theta], 0.0)
        calls = []
        orthogonal = at._by_orthogonal_factors
        at._by_orthogonal_factors = lambda calls=calls, of=orthogonal: calls.append(1) or of()
        steps[refined, least], _ = at.solution(1e-11)
        assert bool(calls) == (least > 1 or not refined)  # what is not refined does not settle
    close(steps[4, 1e-12], steps[4, 1e12], 1e-9)
    plain = torch.linalg.solve(j.mT @ j + 1e-11 * torch.eye(12, dtype=F64), -(j.mT @ r))
    assert (plain - steps[4, 1e12]).norm() > 1e-8 * plain.norm()


def test_without_acceleration_or_where_it_is_too_long_a_step_is_straight():
    for acceleration in (0.0, 1e-12):
        system = Quadratic(40, 12, 1e-3)
        v = solved(system.jacobian(), system.residual().detach(), 0.3, 0.5)
        start = system.theta.detach().clone()
        LevenbergMarquardt([system.theta], damping=0.3, acceleration=acceleration).step(system)
        close(system.theta.detach() - start, v, 1e-9)


class Valley:
    """A narrow valley along y = x^2."""

    def __init__(self):
        self.theta = nn.Parameter(torch.tensor([-3.0, 9.0], dtype=F64))

    def residual(self) -> Tensor:
        x, y = self.theta
        return torch.stack([1 - x, 1000 * (y - x**2)])

    def blocks(self):
        j = torch.tensor([[-1, 0], [-2000 * self.theta[0].item(), 1000]], dtype=F64)
        yield self.residual().detach(), j


def test_acceleration_follows_a_bent_valley():
    def steps(acceleration: float) -> int:
        valley = Valley()
        optimizer = LevenbergMarquardt([valley.theta], damping=1.0, acceleration=acceleration)
        return next(k for k in range(1, 1000) if optimizer.step(valley) < 1e-20)

    assert 3 * steps(1.0) < steps(0.0)


def test_directions_that_products_have_no_digits_for():
    """Of a condition of 1e10 the normal equations with their rounding leave 1e-8 in theta, orthogonal factors 1e-5."""

    class Hard(Quadratic):
        def __init__(self):
            super().__init__(60, 12)
            u, _, v = torch.linalg.svd(self.a, full_matrices=False)
            self.a = u @ torch.diag(torch.logspace(0, -10, 12, dtype=F64)) @ v
            self.b = self.a @ torch.ones(12, dtype=F64)

    errors = {}
    for kind in (LevenbergMarquardt, GaussNewton):
        system = Hard()
        optimizer = kind([system.theta], scaling=0.0)
        for _ in range(80):
            optimizer.step(system, system.loss)
        errors[kind] = (system.theta - 1).norm().item()
    assert errors[LevenbergMarquardt] < 1e-4 and errors[GaussNewton] > 1e-1


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_at_the_rounding_it_has_converged_until_the_residuals_are_others(dtype):
    """Of a sum of squares that does not come to zero."""
    system = Quadratic(40, 5, bent=0.1)
    for name in ("a", "b", "bends"):
        setattr(system, name, getattr(system, name).to(dtype))
    system.theta = nn.Parameter(system.theta.detach().to(dtype))
    optimizer = LevenbergMarquardt([system.theta])
    losses = [optimizer.step(system) for _ in range(60)]
    assert optimizer.converged and losses[-1] > 1 and losses[-1] == losses[-2]
    slope = (system.jacobian().mT @ system.residual()).norm() / system.residual().norm()
    assert slope < (1e-2 if dtype == torch.float32 else 1e-6)
    at, system.blocks = system.theta.detach().clone(), None  # which nobody asks for
    assert optimizer.step(system) == losses[-1] and torch.equal(system.theta.detach(), at)
    del system.blocks
    system.b = system.b + 1
    before = system.loss()
    assert optimizer.step(system) < before and not optimizer.converged


def test_what_cannot_get_smaller_stays():
    system = Quadratic(5, 5)
    optimizer = LevenbergMarquardt([system.theta])
    for _ in range(40):
        optimizer.step(system)
    least, theta = system.loss(), system.theta.detach().clone()
    assert least < 1e-25 and optimizer.step(system) <= least
    system.residual = lambda: (system.b + 0 * system.theta) * (torch.nan if (system.theta != theta).any() else 1)
    system.theta.data.copy_(theta)
    system.blocks = lambda: [(system.b, system.a)]
    optimizer = LevenbergMarquardt([system.theta], damping=0.5)
    optimizer.step(system)
    assert torch.equal(system.theta.detach(), theta)
    assert optimizer.param_groups[0]["damping"] == 0.5 * 2**21  # where the next step goes on, after its six trials
    system.blocks = lambda: [(system.b, system.a * torch.inf)]
    with pytest.raises(FloatingPointError, match="not finite"):
        optimizer.step(system)


@pytest.mark.parametrize("options", [{"damping": 0}, {"acceleration": -1}, {"scaling": 2}, {"tries": 0}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="needed are"):
        LevenbergMarquardt([nn.Parameter(torch.zeros(2))], **options)


@pytest.mark.parametrize("kind", [LevenbergMarquardt, GaussNewton])
def test_there_is_one_group(kind):
    groups = [{"params": [nn.Parameter(torch.zeros(2))]} for _ in range(2)]
    with pytest.raises(ValueError, match=f"{kind.called} takes one group"):
        kind(groups)


@pytest.mark.parametrize(
    "second, found",
    [
        ({"optimizer": "levenberg_marquardt"}, 1e-7),
        ({"optimizer": "levenberg_marquardt", "options": {"damping": 0.5}}, 0.5),
        ({"optimizer": "gauss_newton", "options": {"damping": 0.25}}, 0.25),
        ({"optimizer": "gauss_newton"}, 1e-3),
    ],
)
def test_a_phase_goes_on_with_the_damping_of_one_of_its_kind(second, found):
    u = Ansatz(None, nn.Linear(2, 1))
    former = make_optimizer(PhaseConfig(optimizer="levenberg_marquardt", steps=1), u)
    former.param_groups[0]["damping"] = 1e-7
    assert make_optimizer(PhaseConfig(steps=1, **second), u, former).param_groups[0]["damping"] == found


def test_a_solution_that_the_network_holds_is_found_to_the_last_digits(tmp_path):
    run = kanpde.train(
        PoissonPairs(4),
        solver="low_dim",
        constraint="soft",
        backbone={"name": "chebykan", "widths": [5], "degree": 2, "squash": "none"},
        points={"interior": 200, "boundary": 200, "test": 500, "validation": 50},
        phases=[{"optimizer": "levenberg_marquardt", "steps": 40}],
        out=tmp_path / "run.h5",
    )
    assert run.rel_l2 < 1e-13
