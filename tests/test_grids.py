"""Grids: the monitor of what lies off them, moving them to the data, and refining them with the optimiser's state."""

import pytest
import torch
from conftest import F64, close, generator, network, one_line, points
from torch import nn

from kanpde.kan import grids
from kanpde.kan.basis import BSpline, Wavelet
from kanpde.kan.conv import KANConv2d
from kanpde.kan.layers import KANLinear
from kanpde.kan.network import count_parameters
from kanpde.kan.weights import Direct


def smooth(n_in: int, n_out: int, grid_size: int = 12, grid_range=(-1.0, 1.0)) -> KANLinear:
    """A layer whose splines draw parabolas, which every grid of order 2 or more contains."""
    basis = BSpline(n_in, grid_size, 3, grid_range)
    layer = KANLinear(basis, Direct(torch.zeros(n_in, basis.size, n_out)), n_in, n_out).double()
    x = torch.linspace(*grid_range, 200, dtype=F64)[:, None].expand(-1, n_in)
    b = layer.basis.functions(x, 0)[0].transpose(0, 1)
    a = torch.randn(n_in, 2, n_out, generator=generator(3), dtype=F64)
    target = a[:, :1] * x.T.unsqueeze(-1) + a[:, 1:] * x.T.square().unsqueeze(-1)
    with torch.no_grad():
        layer.weights.theta[:, :-1] = torch.linalg.lstsq(b, target).solution
        layer.weights.theta[:, -1] = 0.3
    return layer


def test_fractions_off_the_grid_are_counted_layer_by_layer():
    net = nn.Sequential(smooth(2, 3), smooth(3, 1, grid_range=(-100.0, 100.0)))
    x = torch.tensor([[-2.0, 0.0], [0.5, 1.5], [0.1, 0.2], [-0.9, 0.9]], dtype=F64)
    assert grids.off_grid(net, x) == [2 / 8, 0.0]
    conv = KANConv2d(BSpline(2), Direct(torch.zeros(2, 9, 1)), 2, 1, 1)
    images = torch.zeros(3, 2, 4, 5)
    images[0, 1] = 2.0
    assert grids.off_grid(conv, images) == [pytest.approx(1 / 6)]


def test_a_norm_stands_before_the_grid():
    net = network("fastkan", 3, norm="all")
    x = 100 * points(50, 3)
    assert grids.off_grid(net, x)[0] < 0.5 and not net[0]._forward_pre_hooks


@pytest.mark.parametrize("share", ["network", "layer"])
@pytest.mark.parametrize(
    "name, options", [("kan", {}), ("metakan", {"meta_bias": True}), ("metakan", {"meta_bias": False})]
)
def test_a_grid_that_divides_the_old_one_changes_nothing(name, options, share):
    if name == "metakan":
        options = {**options, "meta_share": share}
    net, x = network(name, 3, hidden_range=(-6.0, 6.0), **options), points(40, 3)
    before = net(x)
    assert max(grids.off_grid(net, x)) == 0
    grids.refine(net, 15)
    close(net(x), before, 1e-12)
    assert all(layer.basis.grid_size == 15 and layer.basis.size == 19 for layer in net)
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize("to", [9, 40])
@pytest.mark.parametrize(
    "name, options",
    [
        ("chebykan", {"squash": "none"}),
        ("chebykan", {}),
        ("legendrekan", {"base": "silu"}),
        ("fourierkan", {}),
        ("metachebykan", {}),
    ],
)
def test_a_basis_with_more_functions_keeps_the_old_ones_to_the_last_digit(name, options, to):
    """Not by a fit, which has no digits left of high degrees on a part of their range."""
    net, x = network(name, 3, **options), points(40, 3)
    before, size = net(x), net[0].basis.size
    grids.refine(net, to)
    close(net(x), before, 1e-14)
    assert net[0].basis.size - size == (to - 4) * 2 if name == "fourierkan" else net[0].basis.size > size
    net(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())


def test_another_grid_is_the_closest_function():
    """A parabola lies in both spaces; of a wilder function a finer grid keeps more."""
    layer, x = smooth(2, 2, grid_size=5), points(60, 2)
    before = layer(x)
    grids.refine(layer, 7)
    close(layer(x), before, 1e-10)
    errors = []
    for size in (7, 31, 127):
        net = network("kan", 2, widths=(), grid_size=6)
        before = net(x)
        grids.refine(net, size)
        errors.append((net(x) - before).abs().max().item())
    assert errors[0] > 4 * errors[1] > 16 * errors[2]


def test_extension_of_a_convolution():
    basis = BSpline(2)
    theta = torch.randn(2 * 9, basis.size, 3, generator=generator())
    conv = KANConv2d(basis, Direct(theta), 2, 3, 3, padding=1).double()
    x = points(2 * 2, 5 * 4).reshape(2, 2, 5, 4)
    before = conv(x)
    grids.refine(conv, 10)
    close(conv(x), before, 1e-12)
    grids.update_grid(conv, x)
    assert grids.off_grid(conv, x) == [0.0] and conv.weights.theta.shape == (18, 14, 3)


def test_updated_grids_hold_the_data_and_the_function():
    layer = smooth(3, 2, grid_range=(-5.0, 5.0))
    x = points(80, 3) * torch.tensor([1.0, 0.3, 4.0], dtype=F64) + torch.tensor([0.0, 2.0, 0.0], dtype=F64)
    before = layer(x)
    grids.update_grid(layer, x, margin=0.1)
    close(layer(x), before, 1e-10)
    width = x.amax(0) - x.amin(0)
    close(layer.basis.low, x.amin(0) - 0.1 * width, 1e-12)
    close(layer.basis.high, x.amax(0) + 0.1 * width, 1e-12)


def test_an_update_goes_through_the_layers_in_order():
    net = nn.Sequential(smooth(2, 3), smooth(3, 1, grid_range=(-8.0, 8.0)))
    x = points(60, 2)
    before = net(x)
    grids.update_grid(net, x)
    close(net(x), before, 1e-9)
    assert grids.off_grid(net, x) == [0.0, 0.0]


def test_an_input_that_does_not_vary_keeps_its_range():
    layer, x = smooth(2, 1), points(30, 2)
    x[:, 1] = 0.25
    grids.update_grid(layer, x)
    assert layer.basis.low[1] == -1 and layer.basis.high[1] == 1 and layer(x).isfinite().all()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("name", ["kan", "metakan"])
def test_the_optimiser_goes_on_with_its_averages(name, kind):
    net, x = network(name, 2), points(50, 2)
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind([{"params": list(net.parameters()), "lr": 1e-3}], **settings)
    loss = lambda: (net(x) - 1).square().mean()
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    first = optimizer.param_groups[0]["params"][0] if name == "kan" else net[0].weights.learner.w2
    average = {k: v.clone() for k, v in optimizer.state[first].items() if torch.is_tensor(v)}
    step = grids.refit(net[0].basis, grids.refined(net[0].basis, 10))[:1]
    grids.refine(net, 10, optimizer)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in net.parameters()}
    assert set(optimizer.state) == set(net.parameters())
    now = net[0].weights.theta if name == "kan" else net[0].weights.learner.w2
    matrix = step if name == "kan" else step[0]
    for key, value in optimizer.state[now].items():
        if key == "step":
            assert value == 3
        elif value is not None:
            close(value, (matrix.abs() if "sq" in key else matrix) @ average[key], 1e-12)
    before = loss().item()
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    assert loss().item() < before


def test_lbfgs_goes_on_without_its_history():
    net, x = network("kan", 2), points(50, 2)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (net(x) - 1).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    grids.refine(net, 10, optimizer)
    before = closure().item()
    optimizer.step(closure)
    assert closure().item() < before


def test_count_follows_the_grid():
    net = network("kan", 3)
    grids.refine(net, 11)
    assert count_parameters(net) == (3 * 4 + 4 * 3 + 3) * 15


def test_what_cannot_be_refitted_is_refused_in_one_line():
    x = points(5, 2)
    groups = KANConv2d(BSpline(2), Direct(torch.zeros(9, 9, 2)), 2, 2, 3, groups=2)
    wavelets = KANLinear(Wavelet(2), Direct(torch.zeros(2, 3, 1)), 2, 1)
    for call, match in [
        (lambda: grids.update_grid(network("metakan", 2), x), "materialize"),
        (lambda: grids.update_grid(wavelets, x), "linear basis"),
        (lambda: grids.update_grid(groups, torch.zeros(1, 2, 4, 4)), "groups"),
        (lambda: grids.refine(network("fastkan", 2), 9), "refine needs B-splines, polynomials or harmonics"),
        (lambda: grids.refine(network("gramkan", 2), 9), "given Gram"),
    ]:
        with pytest.raises(ValueError, match=match) as info:
            call()
        one_line(info)


def test_what_the_basis_trains_stays_with_the_optimiser():
    net, x = network("gramkan", 2), points(50, 2)
    optimizer = torch.optim.Adam(net.parameters())
    grids.update_grid(net, x, optimizer=optimizer)
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in net.parameters()}


def test_looking_at_the_inputs_changes_nothing():
    norm = nn.BatchNorm1d(3).double()
    net = nn.Sequential(smooth(2, 3), norm, nn.Dropout(0.5), smooth(3, 1)).train()
    net[1].eval()
    before, state = norm.running_mean.clone(), torch.get_rng_state()
    grids.off_grid(net, points(50, 2))
    assert torch.equal(norm.running_mean, before) and torch.equal(torch.get_rng_state(), state)
    assert net.training and net[2].training and not norm.training
