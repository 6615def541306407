"""Nested automatic differentiation says where it is wrong: torch does not."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import F64, close, generator, network, one_line, points
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kanpde import train
from kanpde.backbones import BACKBONES, build
from kanpde.ground.errors import ConfigError
from kanpde.jets import differentiable
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.differentiable import NotDifferentiable, check_differentiable
from kanpde.operators import SDGD, Autograd, Hutchinson
from kanpde.problems import Poisson
from kanpde.testing import check_problem


class Once(torch.autograd.Function):
    """x^4, whose backward is a constant to torch."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**4

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 4 * x**3 * grad


class Numpy(Once):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.from_numpy(4 * x.detach().numpy() ** 3)


class Constants(Once):
    @staticmethod
    def forward(ctx, x):
        ctx.slope = 4 * x.detach() ** 3
        return x**4

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope


class Slope(Once):
    """A first derivative that is wrong."""

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 3 * x**3 * grad


class Weighted(torch.autograd.Function):
    """w x^2, right in x to all orders; by w of the values alone."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return w * x**2

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * 2 * x * w.detach(), (grad * x**2).sum(0)


class Fourth(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return Weighted.apply(x, self.w)


def linear(n_in: int, n_out: int) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    for p in layer.parameters():
        nn.init.normal_(p, generator=generator())
    return layer


def with_module(module: nn.Module) -> nn.Module:
    return nn.Sequential(linear(2, 3), nn.Tanh(), module, linear(3, 1)).double()


WRONG = {name: Fourth(f) for name, f in (("Once", Once), ("Numpy", Numpy), ("Constants", Constants), ("Slope", Slope))}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("function", WRONG)
def test_a_backward_that_is_not_differentiable_is_refused(function, dtype):
    net, x = with_module(WRONG[function]).to(dtype), points(5, 2).to(dtype)
    for operator in (Autograd(), Autograd(chunk=2), Hutchinson(), SDGD(2)):
        for u in (net, Ansatz(Poisson(2), net)):
            with pytest.raises(NotDifferentiable) as info:
                operator(u, x, generator=generator())
            assert "2 (Fourth)" in one_line(info) and isinstance(info.value, ValueError)
    if function != "Slope" or dtype == F64:  # by a quarter: differences in single precision do not tell
        with pytest.raises(NotDifferentiable, match="<lambda>"):
            Autograd()(lambda x: net(x), x)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_lengths_do_not_matter(scale):
    x = scale * points(5, 2)
    with pytest.raises(NotDifferentiable):
        Autograd()(lambda x: Once.apply(x / scale).sum(1), x)
    close(Autograd()(lambda x: ((x / scale) ** 4).sum(1), x).lap, 12 * (x / scale).square().sum(1) / scale**2)


def test_derivatives_by_the_parameters_are_compared_too():
    """The second derivative 2 w is right, and its derivative by w zero to torch."""
    net, x = with_module(Scale()), points(5, 2)
    with pytest.raises(NotDifferentiable, match=r"2 \(Scale\).* by the parameters"):
        Autograd()(net, x)


@dataclass(frozen=True)
class Detached(Poisson):
    """A lift in numpy."""

    def lift(self, x: Tensor) -> Field:
        value = torch.from_numpy(np.sin(x.detach().numpy()[:, 0]))
        return Field(value.to(x), torch.zeros_like(x), torch.zeros_like(x))


@dataclass(frozen=True)
class ByField(Poisson):
    """The same by automatic differentiation."""

    def lift(self, x: Tensor) -> Field:
        return Field.of(lambda y: Constants.apply(y).sum(1), x)


def test_a_lift_that_cannot_be_differentiated_is_named():
    net, x = network("kan", 2), points(5, 2)
    with pytest.raises(NotDifferentiable, match="the lift of the problem"):
        Autograd()(Ansatz(Detached(2), net), x)
    with pytest.raises(NotDifferentiable, match="lift"):
        ByField(2).lift(x)
    with pytest.raises(AssertionError, match="automatic differentiation"):
        check_problem(ByField(2))


def test_a_run_is_refused_before_it_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"2 \(Fourth\)"):
        train(Poisson(2), with_module(WRONG["Once"]), operator="autograd", steps=1, out=tmp_path / "run.h5")
    assert not list(tmp_path.iterdir())


class Single(nn.Module):
    """Takes single precision alone."""

    def __init__(self):
        super().__init__()
        self.net = [nn.Linear(2, 1)]

    def forward(self, x):
        return torch.nn.functional.linear(x.float(), torch.ones(1, 2)).sin()


RIGHT = {
    "relu": lambda x: torch.relu(x).sum(1),
    "relu squared": lambda x: torch.relu(x).square().sum(1),
    "abs": lambda x: (x.abs() * x).sum(1),
    "high frequency": lambda x: torch.sin(1e4 * x).sum(1),
    "affine": lambda x: 3 * x.sum(1) + 1,
    "constant": lambda x: x.new_ones(len(x)),
    "large and small": lambda x: 1e8 * x[:, 0] + 1e-3 * x[:, 1] ** 2,
    "single": Single(),
    "single, a function": lambda x: torch.sin(x.float()).sum(1),
    "rounded": lambda x: (x + (x.round() - x).detach()).sum(1),
    "layer norm": nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1), nn.Softplus()),
    "noise": lambda x: torch.nn.functional.dropout(x**2, 0.5).sum(1),
}


@pytest.mark.parametrize("at", ["anywhere", "zero"])
@pytest.mark.parametrize("case", RIGHT)
def test_kinks_noise_and_single_precision_are_no_fault(case, at):
    x = points(6, 2) if at == "anywhere" else torch.zeros(6, 2, dtype=F64)
    u = RIGHT[case]
    check_differentiable(u, x.float() if isinstance(u, nn.Sequential) else x)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_passes(name):
    for net, dtype in ((network(name, 3), F64), (build(name, 3, widths=(8, 8)), torch.float32)):
        check_differentiable(Ansatz(Poisson(3), net), points(6, 3).to(dtype))
        check_differentiable(net, torch.zeros(3, 3, dtype=dtype))


def test_nothing_is_changed():
    """Batch norms, gradients, generators, modes, hooks and weights are what they were."""
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Tanh(), nn.Linear(4, 1)).double().train()
    before, state = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad():
        check_differentiable(net, points(6, 2))
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state) and net.training and not net[1]._forward_hooks
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_each_function_is_tried_once(monkeypatch):
    calls = []
    original = differentiable._wrong
    monkeypatch.setattr(differentiable, "_wrong", lambda *given: calls.append(given) or original(*given))
    net, x = network("mlp", 2), points(5, 2)
    for _ in range(3):
        Autograd()(net, x)
    assert len(calls) == 1
    made = lambda power: lambda x: (x**power).sum(1)
    for power in (2, 2, 3, 2, 3):
        check_differentiable(made(power), x)
    assert len(calls) == 3
    summed = lambda f: lambda x: f(x).sum(1)
    check_differentiable(summed(torch.exp), x)
    with pytest.raises(NotDifferentiable):
        check_differentiable(summed(Once.apply), x)


def test_many_inputs_cost_a_few_passes():
    """Along directions: not a pass for each of 100 000 second derivatives."""
    calls = []
    u = lambda x: calls.append(len(x)) or x.square().sum(1).sin()
    check_differentiable(u, points(4, 10**5))
    assert len(calls) < 50 and max(calls) == 1
