"""Convolutions taken apart and pruned: the same function, scores over all places, what is left says what it did."""

import pytest
import torch
from conftest import F64, close, generator, one_line
from test_conv import BASES, images, made
from torch import nn

from kanpde import backbones
from kanpde.ground.errors import ConfigError
from kanpde.interpret import EdgeNetwork, Symbolic, error, expression, prune, snap
from kanpde.interpret.functions import function
from kanpde.interpret.prune import cut
from kanpde.kan.weights import Direct


def linear(n_in, n_out):
    layer = nn.Linear(n_in, n_out, dtype=F64)
    with torch.no_grad():
        layer.weight.normal_(generator=generator(5))
        layer.bias.normal_(generator=generator(6))
    return layer


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1, "bias": True}, {"kernel": (1, 3), "stride": 2, "padding": (0, 2), "dilation": (1, 2)}],
    ids=["plain", "padded", "strided"],
)
def test_taken_apart_it_is_the_same_function(name, options):
    conv, x = made(name, **options), images(3, 2, 6, 7)
    network = EdgeNetwork.of(nn.Sequential(conv))
    close(network(x), conv(x), 1e-12)
    assert len(list(network.edges())) == conv.edges * 3 and network.widths == (2, 3)


def test_generated_weights_norms_pools_and_heads_are_part_of_it():
    batch = nn.BatchNorm2d(3).double()
    batch(images(20, 3, 5, 5))  # statistics that are not those of the start
    first = made("rbf", weights="meta", padding=1, norm=nn.InstanceNorm2d(2, affine=True).double())
    second = made("chebyshev", c_in=3, c_out=2, norm=nn.BatchNorm2d(3).double())
    kan = backbones.build("kan", 4, 3, widths=(2,), generator=generator(1)).double()
    net = nn.Sequential(
        nn.Sequential(first, nn.AvgPool2d(2), batch),
        nn.Dropout2d(0.5),
        nn.Sequential(second, nn.PReLU(2).double()),
        nn.Flatten(),
        linear(8, 4),
        *kan,
    ).eval()
    x = images(4, 2, 8, 8)
    network = EdgeNetwork.of(net.train())
    close(network(x), net.eval()(x), 1e-12)
    assert network.widths == (2, 3, 2, 4, 2, 3)
    assert [layer.name(5) for layer in network.layers[:3]] == ["0 at (1, 2)", "0 at (1, 2)", "1 at 1"]


def test_scores_are_over_all_places_and_sum_over_taps_and_pixels():
    net = nn.Sequential(made("legendre", padding=1), nn.Flatten(), linear(3 * 16, 2))
    x = images(5, 2, 4, 4)
    network = EdgeNetwork.of(net)
    found = network.importance(x)
    pixels = net[0](x).flatten(1)
    values = pixels.unsqueeze(2) * net[2].weight.mT  # (N, pixels, out)
    head = values.std(0) / values.sum(1).std(0)
    close(found.edges[1], head)
    close(found.nodes[1], head.sum(1).view(3, 16).sum(1))
    alone = []  # the part of every tap, as the convolution makes it of the others' zeros
    for i in range(net[0].edges):
        theta = torch.zeros_like(net[0].weights.theta)
        theta[i] = net[0].weights.theta[i]
        one = made("legendre", padding=1)
        one.weights = Direct(theta)
        alone.append(one(x).transpose(0, 1).flatten(1).std(1))
    share = torch.stack(alone) / net[0](x).transpose(0, 1).flatten(1).std(1)
    close(found.edges[0], share * found.nodes[1])
    close(found.nodes[0], found.edges[0].sum(1).view(2, 9).sum(1))
    assert found.nodes[2].tolist() == [1.0, 1.0]


def sparse(channels=3):
    """A network in which one channel and three taps matter, images, and what it makes of them."""
    own = channels // 2
    first, second = made("chebyshev", c_in=1, c_out=channels, padding=1), made("chebyshev", c_in=channels, c_out=2)
    for conv, kept in ((first, [(0, own), (4, own)]), (second, [(9 * own + 4, 0)])):
        theta = 1e-6 * conv.weights.theta.detach()
        for i, o in kept:
            theta[i, :, o] *= 1e6
        conv.weights = Direct(theta)
    net = nn.Sequential(first, nn.AvgPool2d(2), second, nn.Flatten(), linear(2 * 4, 1))
    x = images(40, 1, 8, 8)
    return net, EdgeNetwork.of(net), x, net(x).detach()


def test_pruning_keeps_the_function_and_says_what_it_did():
    net, network, x, y = sparse()
    edges = len(list(network.edges()))
    pruned, steps = prune(network, x, y, steps=4)
    left = {key for key, _ in pruned.edges()}
    assert {edge for edge in left if edge[0] < 2} == {(0, 0, 1), (0, 4, 1), (1, 13, 0)}
    assert {pruned.layers[2].node(i) for _, i, _ in {edge for edge in left if edge[0] == 2}} == {0}
    assert len(list(network.edges())) == edges == 9 * 3 + 27 * 2 + 8
    assert steps[0].error_before == error(network, x, y) < 1e-12
    assert steps[-1].error_after == error(pruned, x, y) < 1e-5
    assert all(f"node {i} of layer 1" in steps[0].what for i in (0, 2))
    new = images(10, 1, 8, 8, seed=9)
    assert error(pruned, new, net(new)) < 1e-4


def test_edges_of_a_convolution_are_named_by_channel_and_tap():
    _, network, x, y = sparse(1)
    _, steps = prune(network, x, y, node_threshold=0, steps=1)
    assert any("edge 0 at (2, 1) -> 0 of layer 1" in step.what for step in steps)


def test_pruning_undoes_what_the_function_needs():
    _, network, x, y = sparse(1)
    pruned, steps = prune(network, x, y, node_threshold=1e9, edge_threshold=1e9, steps=2)
    assert any(not step.kept for step in steps) and any(step.kept for step in steps)
    assert error(pruned, x, y) < 1e-5


@pytest.mark.parametrize("padding", [0, 1])
def test_edges_from_a_constant_channel_stay_where_they_see_a_border(padding):
    first, second = made("legendre", padding=1), made("legendre", c_in=3, c_out=2, padding=padding)
    network, x = EdgeNetwork.of(nn.Sequential(first, second)), images(4, 2, 6, 6)
    seen = network.activations(x)[0].edges[..., 1]
    cut(network, [(0, i, 1) for i in range(18)], x)
    assert [i for i in range(18) if network.layers[0].edge(i, 1)] == []
    close(network.layers[0].bias[1], seen.sum(1).mean())
    edges = [network.layers[1].edge(i, 0) for i in range(9, 18)]
    assert all(edge is None for edge in edges) if padding == 0 else None not in edges
    apart = network.copy()
    cut(apart, [], x)
    close(apart(x), network(x), 0)


def test_a_fit_of_every_image_by_itself_is_that_of_all():
    """Parameters of each image, as the Jacobian of a fit takes them, are those of all where they are equal."""
    _, network, x, _ = sparse(1)
    network.put((0, 3, 0), function("sin"), 0.5, 2.0, 0.1, 0.0)
    assert any(isinstance(edge, Symbolic) for _, edge in network.edges())
    own = {k: p.detach().expand(len(x), *p.shape) for k, p in network.named_parameters() if p.requires_grad}
    close(torch.func.functional_call(network, own, (x,)), network(x), 1e-13)


def test_what_cannot_be_taken_apart_is_one_line():
    conv, x = made("legendre"), images(2, 2, 5, 5)
    for net, given in (
        (nn.Sequential(made("legendre", c_out=4, groups=2)), "given 2 groups"),
        (nn.Sequential(conv, nn.Conv2d(3, 2, 3)), "given Conv2d"),
    ):
        with pytest.raises(ConfigError, match=f"KANConv2d layers of one group, .* {given}") as info:
            EdgeNetwork.of(net)
        one_line(info)
    network = EdgeNetwork.of(nn.Sequential(conv, nn.Flatten(), linear(27, 1)))
    with pytest.raises(ConfigError, match=r"takes x \(N, 2, H, W\) and y \(N, 1\)") as info:
        prune(network, x.flatten(1), torch.zeros(2, 1))
    one_line(info)
    for refused in (lambda: snap(network, x, network(x)), lambda: expression(network, ["a", "b"])):
        with pytest.raises(ConfigError, match="a KAN of images has no formula"):
            refused()
