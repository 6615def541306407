"""Exact derivatives for plain torch code, with and without transforms, against nested differentiation."""

import subprocess
import sys

import pytest
import torch
from conftest import F64, close, hessian, network, one_line, points
from torch import nn
from torch.func import jacrev, vmap

from kanpde import backbones
from kanpde.adapters import Derivatives, derivatives
from kanpde.adapters.packages import Held, derivatives_of
from kanpde.ground.errors import ConfigError
from kanpde.jets.jet import MissingJetRule

N, D = 6, 3
WEIGHT = torch.tensor(0.7, dtype=F64)


def features(x):
    return torch.cat([torch.sin(x), x[:, :1] * x[:, 1:2] * WEIGHT], 1)


def constrained(x, f):
    """Two outputs, each with a lift and a factor of its own."""
    first = x[:, :1].exp() + (1 - x.square().sum(1, keepdim=True)) * f[:, :1]
    return torch.cat([first, 2 + x[:, 1:2] * f[:, 1:2]], 1)


class Nested(nn.Module):
    """The same function with nothing but torch."""

    def __init__(self, net, g, t):
        super().__init__()
        self.net, self.g, self.t = net, g or (lambda x: x), t or (lambda x, f: f)

    def forward(self, x):
        return self.t(x, self.net(self.g(x)))

    def at(self, x):
        """Gradients (N, n, d) and Hessians (N, n, d, d)."""
        row = lambda p: self(p.unsqueeze(0))[0]
        return vmap(jacrev(row))(x), vmap(jacrev(jacrev(row)))(x)


@pytest.fixture(params=[None, features], ids=["points", "features"])
def g(request):
    return request.param


@pytest.fixture(params=[None, constrained], ids=["free", "constrained"])
def t(request):
    return request.param


@pytest.fixture(params=["kan", "metakan", "fourierkan", "mlp"])
def pair(request, g, t):
    net = network(request.param, D if g is None else D + 1, 2)
    x = points(N, D, reach=0.7)
    return Derivatives(net, x, g, t), Nested(net, g, t)


def test_value_gradient_laplacian_and_hessian_are_those_of_nested_differentiation(pair):
    u, oracle = pair
    gradient, second = oracle.at(u.x)
    close(u.value(), oracle(u.x), 1e-14)
    close(u.gradient(), gradient, 1e-11)
    close(u.gradient([2, 0]), gradient[..., [2, 0]], 1e-11)
    close(u.laplacian(), second.diagonal(dim1=2, dim2=3).sum(-1), 1e-10)
    close(u.laplacian([2, 0]), second[..., 0, 0] + second[..., 2, 2], 1e-10)
    for i in range(D):
        for j in range(D):
            assert (u.hessian(i, j) - second[..., i, j]).abs().max() <= 1e-10 * second.abs().max()
    close(u.hessian(-1, 0), second[..., 2, 0], 1e-9)


def test_derivatives_by_the_weights_are_those_of_nested_differentiation(pair):
    u, oracle = pair
    x = u.x.clone().requires_grad_()
    y = oracle(x)
    slope = [torch.autograd.grad(y[:, k].sum(), x, create_graph=True)[0] for k in range(2)]
    second = [[torch.autograd.grad(s[:, i].sum(), x, create_graph=True)[0] for i in range(D)] for s in slope]
    lap = torch.stack([sum(second[k][i][:, i] for i in range(D)) for k in range(2)], 1)
    pairs = ((u.laplacian(), lap), (u.hessian(0, 1), torch.stack([second[k][0][:, 1] for k in range(2)], 1)))
    for found, expected in (*pairs, (u.gradient(), torch.stack(slope, 1))):
        weights = list(u.net.parameters())
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}  # biases
        grads = [torch.autograd.grad((t**3).sum(), weights, **options) for t in (found, expected)]
        for a, b in zip(*grads, strict=True):
            assert (a - b).abs().max() <= 1e-9 * b.abs().max()


def test_third_derivatives_go_through_points_that_require_a_gradient(pair):
    u, oracle = pair
    x = u.x.clone().requires_grad_()
    again = Derivatives(u.net, x, u.input_transform, u.output_transform)
    (found,) = torch.autograd.grad(again.laplacian()[:, 1].sum(), x)
    lap = lambda p: hessian(lambda p: oracle(p.unsqueeze(0))[0, 1])(p).trace()
    close(found, vmap(jacrev(lap))(u.x), 1e-8)


def test_without_gradients_there_is_no_graph(pair):
    u, _ = pair
    with torch.no_grad():
        found = [u.laplacian(), u.gradient(), u.hessian(0, 1), u.value()]
    assert not any(t.requires_grad for t in found)
    u.net.requires_grad_(False)
    assert not any(t.requires_grad for t in (u.laplacian(), u.gradient(), u.hessian(0, 1)))


def test_numbers_in_transforms_are_trained():
    net, x = network("mlp", D, 1), points(N, D)
    c = torch.tensor(1.5, dtype=F64, requires_grad=True)
    u = Derivatives(net, x, lambda x: x * c, lambda x, f: x[:, :1] * c * f)
    for found in (u.laplacian(), u.gradient(), u.hessian(0, 1)):
        (slope,) = torch.autograd.grad(found.square().sum(), c)
        assert slope != 0


def test_many_axes_are_differentiated_in_blocks(monkeypatch):
    net, x = network("mlp", 7, 1), points(N, 7, reach=0.5)
    whole = Derivatives(net, x, None, lambda x, f: (x**3).prod(1, keepdim=True) * f).laplacian()
    monkeypatch.setattr(derivatives, "AT_ONCE", 2 * x.numel())
    close(Derivatives(net, x, None, lambda x, f: (x**3).prod(1, keepdim=True) * f).laplacian(), whole, 1e-13)


def test_each_call_is_at_the_weights_of_its_time():
    u = Derivatives(network("kan", D, 2), points(N, D))
    before = [of().detach() for of in (u.laplacian, u.gradient, lambda: u.hessian(0, 1))]
    with torch.no_grad():
        for p in u.net[-1].parameters():
            p.mul_(2)
    for old, new in zip(before, (u.laplacian(), u.gradient(), u.hessian(0, 1)), strict=True):
        close(new, 2 * old, 1e-12)


def test_an_output_keeps_what_was_computed_of_it():
    u = derivatives_of(Held(network("kan", D, 2), points(N, D)).output(), "test")
    assert u.laplacian() is u.laplacian([0, 1, 2]) and u.hessian(0, 2) is u.hessian(2, 0)
    assert u.gradient([1]) is u.gradient([-2]) and u.gradient([1]) is not u.gradient([2])


def test_an_affine_network_has_second_derivatives_of_zero():
    u = Derivatives(nn.Sequential(nn.Linear(D, 2).double()), points(N, D))
    assert not u.laplacian().any() and not u.hessian(0, 1).any() and u.laplacian().shape == (N, 2)


@pytest.mark.parametrize(
    "transform", [lambda x, f: f**2, lambda x, f: f.flip(1), lambda x, f: x[:, :1] * f.sum(1, keepdim=True)]
)
def test_a_transform_that_is_not_affine_output_by_output_is_refused(transform):
    for ask in (lambda u: u.laplacian(), lambda u: u.gradient(), lambda u: u.hessian(0, 1)):
        with pytest.raises(ConfigError, match="output transform") as info:
            ask(Derivatives(network("kan", D, 2), points(N, D), None, transform))
        one_line(info)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_large_lift_is_no_reason_to_refuse(dtype):
    net, x = backbones.build("kan", D).to(dtype), points(N, D).to(dtype)
    Derivatives(net, x, None, lambda x, f: 1e6 * x[:, :1].exp() + 1e-3 * x[:, 1:2] * f).laplacian()


def test_bad_calls_are_one_line():
    net = network("kan", D)
    for call, says in (
        (lambda: Derivatives(net, torch.zeros(D)), "shape"),
        (lambda: Derivatives(net, points(N, D)).laplacian([3]), "axis 3, the points have 0 to 2"),
    ):
        with pytest.raises(ConfigError, match=says) as info:
            call()
        one_line(info)
    with pytest.raises(MissingJetRule):
        Derivatives(nn.Sequential(nn.Linear(D, 2).double(), nn.Hardtanh()), points(N, D)).laplacian()


def test_importing_the_adapters_imports_neither_package():
    code = "import sys, kanpde.adapters.deepxde, kanpde.adapters.pina; print({'deepxde', 'pina'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
