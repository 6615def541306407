"""Self-scaled Broyden steps against their formula, on what they are for, and where a loss has no digits left."""

from itertools import pairwise

import pytest
import torch
from conftest import close
from torch import nn

import kanpde
from kanpde.ground.errors import ConfigError
from kanpde.optim import RestartingLBFGS, SelfScaledBroyden
from kanpde.optim.broyden import _updated
from kanpde.problems import Poisson

F64 = torch.float64


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, dtype=F64, generator=torch.Generator().manual_seed(seed))


def positive(n: int, seed: int = 0) -> torch.Tensor:
    a = drawn(n, n, seed=seed)
    return a @ a.mT / n + 0.1 * torch.eye(n, dtype=F64)


def as_published(h, s, y, update):
    """The update of the Hessian B = H^-1 itself, inverted: Al-Baali's equation for B with the same numbers."""
    b_matrix = torch.linalg.inv(h)
    ys, sbs, yhy = y @ s, s @ b_matrix @ s, y @ h @ y
    b, ratio = sbs / ys, yhy / ys
    a = b * ratio - 1
    theta = torch.zeros((), dtype=F64)
    tau = torch.minimum(torch.ones((), dtype=F64), 1 / b)
    if update == "broyden":
        rho = torch.minimum(torch.ones((), dtype=F64), ratio * (1 - (a / (1 + a)).sqrt()))
        theta = torch.maximum((rho - 1) / a, torch.minimum(1 / rho, (1 - b) / b))
        sigma = 1 + theta * a
        root = sigma ** (-1 / (len(s) - 1))
        tau = tau * torch.minimum(root, 1 / theta) if theta > 0 else torch.minimum(tau * root, sigma)
    w = sbs.sqrt() * (y / ys - b_matrix @ s / sbs)
    grown = b_matrix - torch.outer(b_matrix @ s, b_matrix @ s) / sbs + theta * torch.outer(w, w)
    return torch.linalg.inv(tau * grown + torch.outer(y, y) / ys)


@pytest.mark.parametrize("update", ["broyden", "bfgs"])
@pytest.mark.parametrize("seed", range(6))
def test_the_update_is_the_inverse_of_that_of_the_hessian(update, seed):
    n = 7
    h, s = positive(n, seed), drawn(n, seed=seed + 50)
    y = (0.1 if seed % 2 else 3) * positive(n, seed + 100) @ s  # curvatures below those of H, and above
    found = _updated(h, s, y, update, float(s @ torch.linalg.inv(h) @ s), float(y @ s))
    close(found, as_published(h, s, y, update), 1e-9)
    close(found @ y, s, 1e-10)
    assert torch.linalg.eigvalsh(found).min() > 0


class Loss:
    """Rosenbrock's function of n numbers, from where minimisers begin; it counts how often it is asked for."""

    def __init__(self, n: int):
        self.theta, self.asked = nn.Parameter(torch.tensor([-1.2, 1.0] * (n // 2), dtype=F64)), 0

    def closure(self) -> torch.Tensor:
        self.asked += 1
        self.theta.grad = None
        a, b = self.theta[:-1], self.theta[1:]
        loss = (100 * (b - a.square()).square() + (1 - a).square()).sum()
        loss.backward()
        return loss.detach()


@pytest.mark.parametrize("update", ["broyden", "bfgs"])
def test_a_bent_valley_is_followed_to_its_end_and_no_step_goes_up(update):
    loss = Loss(10)
    optimizer = SelfScaledBroyden([loss.theta], update=update)
    losses = [optimizer.step(loss.closure).item() for _ in range(150)]
    assert losses[-1] < 1e-24 and all(b <= a * (1 + 1e-11) for a, b in pairwise(losses))


def test_at_the_minimum_it_ends_and_holds_the_parameters():
    theta = nn.Parameter(drawn(4))

    def closure():
        theta.grad = None
        loss = 1 + theta.square().sum()
        loss.backward()
        closure.asked += 1
        return loss.detach()

    optimizer, closure.asked = SelfScaledBroyden([theta]), 0
    for _ in range(60):
        optimizer.step(closure)
    at, asked = theta.detach().clone(), closure.asked
    assert optimizer.param_groups[0]["ended"] and at.norm() < 1e-6
    assert optimizer.step(closure) == 1 and closure.asked == asked + 1 and torch.equal(theta.detach(), at)


def test_a_loss_that_is_infinite_ahead_is_gone_around():
    theta = nn.Parameter(torch.tensor([1e-3], dtype=F64))

    def closure():
        theta.grad = None
        loss = (theta - theta.log()).sum()  # nothing at 0 and below; least at 1
        loss.backward()
        return loss.detach()

    optimizer = SelfScaledBroyden([theta])
    for _ in range(40):
        optimizer.step(closure)
    assert abs(theta.item() - 1) < 1e-7


def test_a_state_that_is_loaded_goes_on_bit_for_bit():
    whole, first, second = (Loss(6) for _ in range(3))
    make = lambda loss: SelfScaledBroyden([loss.theta])
    optimizer, before = make(whole), make(first)
    for _ in range(20):
        optimizer.step(whole.closure)
    for _ in range(10):
        before.step(first.closure)
    second.theta.data.copy_(first.theta.data)
    after = make(second)
    after.load_state_dict(before.state_dict())
    for _ in range(10):
        after.step(second.closure)
    assert torch.equal(second.theta, whole.theta)


def test_fewer_gradients_than_lbfgs_where_the_hessian_is_near_singular():
    """Of sum_i i^-6 theta_i^2 / 2, whose curvatures are a million apart."""
    sizes = torch.arange(1, 31, dtype=F64) ** -6

    def ends(make) -> float:
        theta = nn.Parameter(torch.ones(30, dtype=F64))

        def closure():
            theta.grad = None
            loss = (sizes * (theta**2 / 2 + theta**4 / 4)).sum()
            loss.backward()
            closure.asked += 1
            return loss.detach()

        optimizer, closure.asked = make([theta]), 0
        while closure.asked < 250:
            loss = optimizer.step(closure)
        return float(loss)

    assert ends(SelfScaledBroyden) < 1e-2 * ends(lambda p: RestartingLBFGS(p, history_size=10))


@pytest.mark.parametrize("options", [{"update": "dfp"}, {"tries": 1}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match="needed are"):
        SelfScaledBroyden([nn.Parameter(torch.ones(2))], **options)


def test_a_phase_of_it(tmp_path):
    run = kanpde.train(
        Poisson(2),
        solver="low_dim",
        out=tmp_path / "run.h5",
        points={"interior": 60, "test": 100, "validation": 50},
        phases=[{"optimizer": "ssbroyden", "steps": 60}],
        verify=False,
    )
    assert run.history["loss"][-1] < 1e-3 * run.history["validation"][0] and run.attrs["status"] == "finished"


def test_a_network_too_large_for_a_dense_matrix_is_refused():
    """36,000 parameters asked for 10 GB, and 17,000 took a minute a step."""
    given = {"backbone": {"name": "mlp", "widths": [100, 100]}, "phases": [{"optimizer": "ssbroyden", "steps": 1}]}
    with pytest.raises(ConfigError, match="ssbroyden: parameters of the network: given 10,501, it takes at most 10,00"):
        kanpde.train(Poisson(2), solver="low_dim", **given)
