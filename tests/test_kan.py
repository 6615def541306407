"""KAN layers: B-splines, what generates the weights, parameter counts, sharing, and building without side effects."""

import copy
from dataclasses import fields
from fractions import Fraction
from itertools import combinations
from math import pi

import numpy as np
import pytest
import torch
from conftest import F64, close, generator, network, one_line, points
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

from kanpde import backbones
from kanpde.backbones import BACKBONES, FAMILIES, build
from kanpde.ground.errors import ConfigError
from kanpde.jets.elementary import silu_derivatives
from kanpde.kan import weights
from kanpde.kan.basis import BSpline, Fourier
from kanpde.kan.clusters import cluster_widths
from kanpde.kan.network import META_SPREAD, MetaOptions, count_parameters, generated_weights, parameter_groups
from kanpde.kan.weights import Direct, Meta, MetaLearner, MetaLowRank, materialize

ORDERS = [1, 2, 3, 4, 5]
RANGES = [(-1.0, 1.0), (0.0, 2.5), (-0.25, 0.125)]  # exact in float32, in which the limits are built


def basis_of(in_features: int, grid_size: int = 5, order: int = 3, grid_range=(-1.0, 1.0)) -> BSpline:
    return BSpline(in_features, grid_size, order, grid_range).double()


def line(low: float, high: float, n: int = 101) -> torch.Tensor:
    """Points (n, 1) from low to high, none of them a knot of a grid of few intervals."""
    return torch.linspace(low + 1e-3, high - 2e-3, n, dtype=F64)[:, None]


def cox_de_boor(x: np.ndarray, t: np.ndarray, k: int, r: int = 0) -> np.ndarray:
    """Derivative r of the B-splines of order k on the knots t at x, (N, len(t) - k - 1), by the textbook recursion."""
    x = x.reshape(-1, 1)
    if r > k:
        return np.zeros((len(x), len(t) - k - 1))
    if k == 0:
        return ((t[:-1] <= x) & (x < t[1:])).astype(float)
    lower = cox_de_boor(x, t, k - 1, max(r - 1, 0))
    left, right = t[k:-1] - t[: -k - 1], t[k + 1 :] - t[1:-k]
    if r:
        return k * (lower[:, :-1] / left - lower[:, 1:] / right)
    return (x - t[: -k - 1]) / left * lower[:, :-1] + (t[k + 1 :] - x) / right * lower[:, 1:]


# B-splines ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid_size", [1, 5, 12])
@pytest.mark.parametrize("order", ORDERS)
def test_splines_sum_to_one_on_the_grid(order, grid_size):
    x = torch.linspace(-1, 1, 77, dtype=F64)[:, None]  # the ends too
    splines = basis_of(1, grid_size, order).features(x, 0)[0][..., :-1]
    assert splines.shape == (77, 1, grid_size + order)
    close(splines.sum(-1), torch.ones_like(x), 1e-13)
    assert splines.min() > -1e-13


@pytest.mark.parametrize("grid_range", RANGES, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_features_equal_the_recursion_of_cox_and_de_boor(order, grid_range):
    (low, high), grid_size = grid_range, 5
    step = (high - low) / grid_size
    knots = low + step * np.arange(-order, grid_size + order + 1)
    x = line(low - (order + 1) * step, high + (order + 1) * step).requires_grad_()
    features = [f[:, 0, :-1] for f in basis_of(1, grid_size, order, grid_range).features(x, 2)]
    third = [torch.autograd.grad(f.sum(), x, retain_graph=True)[0][:, 0] for f in features[2].unbind(1)]
    for r, got in enumerate([*features, torch.stack(third, 1)]):
        expected = torch.from_numpy(cox_de_boor(x.detach().numpy(), knots, order, r))
        scale = step**-r  # the size of the derivative; of order 0 where r > k
        assert (got - expected).abs().max() <= 1e-12 * scale, f"derivative {r}"
        assert r > order or expected.abs().max() > 0.1 * scale


@pytest.mark.parametrize("order", ORDERS)
def test_derivatives_equal_autograd_of_the_features(order):
    basis = basis_of(2, 4, order, RANGES[:2])
    x = torch.cat([line(-2, 2), line(-1, 3)], 1).requires_grad_()
    derivative = lambda f: torch.autograd.grad(f.sum(), x, create_graph=True)[0]
    value, slope, bend = basis.features(x, 2)
    for j, column in enumerate(basis.features(x, 0)[0].unbind(-1)):
        close(derivative(column), slope[..., j], 1e-13)
        if order > 1 or j == basis.size - 1:
            close(derivative(derivative(column)), bend[..., j], 1e-13)
    for low, high in zip(basis.features(x, 1), (value, slope), strict=True):
        assert torch.equal(low, high)


def test_base_function_is_silu_with_its_derivatives():
    x = line(-6, 6).requires_grad_()
    expected = torch.nn.functional.silu(x)
    assert torch.equal(basis_of(1).features(x, 2)[2][..., -1], silu_derivatives(2, 2, x)[0])
    for got in silu_derivatives(0, 4, x):
        close(got, expected, 1e-12)
        (expected,) = torch.autograd.grad(expected.sum(), x, create_graph=True)


@pytest.mark.parametrize("order", ORDERS)
def test_splines_vanish_outside_the_extended_grid_and_only_there(order):
    (low, high), grid_size = RANGES[1], 5
    basis, step = basis_of(1, grid_size, order, RANGES[1]), (high - low) / grid_size
    reach = order * step
    far = torch.tensor([low - reach - 1e-9, high + reach + 1e-9, low - 10, high + 1e3], dtype=F64)[:, None]
    assert all(not f[..., :-1].any() for f in basis.features(far, 2))
    near = torch.tensor([low - reach + 0.1 * step, high + reach - 0.1 * step], dtype=F64)[:, None]
    first = basis.features(near, 0)[0][:, 0, :-1]
    assert first[0, 0] > 0 and first[1, -1] > 0 and not first[0, 1:].any() and not first[1, :-1].any()


@pytest.mark.parametrize("order", ORDERS)
def test_least_squares_error_falls_with_order_k_plus_1(order):
    x = torch.linspace(-1, 1, 800, dtype=F64)[:, None]
    target = (torch.sin(3 * x) + torch.exp(x) * torch.cos(2 * x))[:, 0].numpy()

    def error(grid_size: int) -> float:
        columns = basis_of(1, grid_size, order).features(x, 0)[0][:, 0, :-1].numpy()
        return np.sqrt(np.mean((columns @ np.linalg.lstsq(columns, target)[0] - target) ** 2))

    slope = np.log2(error(12) / error(24))
    assert abs(slope - (order + 1)) < 0.25, f"error falls with order {slope:.2f}"


def test_each_input_may_have_a_grid_range_of_its_own():
    basis, x = basis_of(3, 4, 3, RANGES), points(11, 3)
    for i, pair in enumerate(RANGES):
        for whole, alone in zip(
            basis.features(x, 2), basis_of(1, 4, 3, pair).features(x[:, i : i + 1], 2), strict=True
        ):
            assert torch.equal(whole[:, i : i + 1], alone)
    for whole, part in zip(basis.features(x, 2), basis.features(x[:, 1:], 2, slice(1, 3)), strict=True):
        assert torch.equal(whole[:, 1:], part)
    net = build("kan", 3, widths=(4,), grid_range=RANGES, hidden_range=(-2.0, 3.0))
    assert net[0].basis.low.tolist() == [r[0] for r in RANGES] and net[0].basis.high.tolist() == [r[1] for r in RANGES]
    assert net[1].basis.low.tolist() == [-2.0] * 4 and net[1].basis.high.tolist() == [3.0] * 4


BAD = {
    "no interval": {"grid_size": 0},
    "order zero": {"spline_order": 0},
    "falling range": {"grid_range": (1.0, -1.0)},
    "empty range": {"grid_range": (0.5, 0.5)},
    "not a number": {"grid_range": (float("nan"), 1.0)},
    "one of the ranges falls": {"grid_range": [(-1.0, 1.0), (1.0, -1.0), (0.0, 1.0)]},
    "too few ranges": {"grid_range": [(-1.0, 1.0), (-1.0, 1.0)]},
    "three limits": {"grid_range": (-1.0, 0.0, 1.0)},
    "a number": {"grid_range": 1.0},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_splines_are_refused_in_one_line(case):
    with pytest.raises(ValueError, match="grid_size|grid_range") as info:
        BSpline(3, **BAD[case])
    one_line(info)
    with pytest.raises(ValueError) as info:
        build("kan", 3, **BAD[case])
    one_line(info)


WRONG = {
    "backbone": ("kam", {}),
    "option": ("kan", {"prompt_dim": 2}),
    "activation": ("mlp", {"activation": "relu"}),
    "initialisation": ("metakan", {"meta_init": "zeros"}),
    "width": ("kan", {"widths": (8, 0)}),
    "prompt": ("metakan", {"prompt_dim": 0}),
    "rank": ("metakan", {"prompt_rank": 0}),
    "rank of free weights": ("kan", {"prompt_rank": 2}),
}


@pytest.mark.parametrize("case", WRONG)
def test_unknown_names_and_impossible_sizes_are_refused_in_one_line(case):
    name, options = WRONG[case]
    with pytest.raises(ValueError) as info:
        build(name, 3, **options)
    one_line(info)


# Layers and weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kan", "metakan"])
def test_layer_is_the_sum_of_its_edge_functions(name):
    """Edge by edge, with the meta-learner of eq. 12 written out."""
    layer, x = network(name, 3, bias=True)[0], points(5, 3)
    features, out = layer.basis.features(x, 0)[0], layer(x)
    for o in range(layer.out_features):
        total = layer.bias[o].expand(5)
        for i in range(3):
            if name == "kan":
                theta = layer.weights.theta[i, :, o]
            else:
                m, z = layer.weights.learner, layer.weights.prompts[i, :, o]
                theta = m.w2 @ torch.relu(m.w1 @ z + m.b1) + m.b2
            total = total + features[:, i] @ theta
        close(out[:, o], total, 1e-13)


@pytest.mark.parametrize("dim, kan, metakan", [(20, 24480, 4137), (50, 33120, 5097), (100, 47520, 6697)])
def test_parameter_counts_are_those_of_table_8(dim, kan, metakan):
    """MetaKAN, ICML 2025: widths 32-32-32, G = 5, k = 3, prompts of length 1, meta-learner 1-128-9 shared by all."""
    assert count_parameters(build("kan", dim)) == kan
    assert count_parameters(build("metakan", dim)) == metakan


def test_parameter_counts_follow_the_sharing():
    edges, learner = 20 * 32 + 2 * 32 * 32 + 32, 2 * 128 + 129 * 9
    for share, learners in (("network", 1), ("layer", 4), (2, 2), ((0, 1, 1, 2), 3)):
        assert count_parameters(build("metakan", 20, meta_share=share)) == edges + learners * learner
    assert count_parameters(build("metakan", 20, meta_bias=False)) == edges + 10 * 128
    assert count_parameters(build("metakan", 20, prompt_dim=3)) == 3 * edges + learner + 2 * 128
    frozen = build("kan", 20)
    frozen[0].requires_grad_(False)
    assert count_parameters(frozen, include_frozen=False) == 24480 - 20 * 32 * 9


@pytest.mark.parametrize("share, labels", [("network", "000"), ("layer", "012"), (2, "110"), ((0, 1, 0), "010")])
def test_layers_share_meta_learners_as_asked(share, labels):
    learners = [layer.weights.learner for layer in build("metakan", 3, widths=(8, 7), meta_share=share)]
    assert [[a is b for b in learners] for a in learners] == [[a == b for b in labels] for a in labels]


@pytest.mark.parametrize("share", ["layers", (0, 1), 0, 4], ids=str)
def test_bad_sharing_is_refused_in_one_line(share):
    with pytest.raises(ValueError) as info:
        build("metakan", 3, widths=(8, 7), meta_share=share)
    one_line(info)


VARIANTS = {
    "mlp": ("mlp", {}),
    "kan": ("kan", {"bias": True}),
    "metakan-network": ("metakan", {"bias": True}),
    "metakan-layer": ("metakan", {"meta_share": "layer", "prompt_dim": 2}),
    "metakan-official": ("metakan", {"meta_init": "official"}),
    "metakan-rank": ("metakan", {"prompt_rank": 1, "prompt_dim": 2, "bias": True}),
}


def built(case: str, seed: int = 0, dim: int = 3, **more) -> torch.nn.Module:
    name, options = VARIANTS[case]
    return build(name, dim, widths=(6, 5), generator=generator(seed), **options, **more)


@pytest.mark.parametrize("case", VARIANTS)
def test_every_parameter_has_a_gradient(case):
    """As built, biases of zero included; in the first layer every weight of a KAN and every prompt has one."""
    net = built(case).double()
    net(points(200, 3)).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name
    if case != "mlp":
        first = net[0].weights
        trained = (first.theta,) if isinstance(first, Direct) else first.prompt_parameters
        assert all(p.grad.ne(0).all() for p in trained)


OPTIONS = {name: {} for name in BACKBONES}
OPTIONS |= {"wavkan/morlet": {"wavelet": "morlet"}, "metawavkan/dog": {"wavelet": "dog"}}
OPTIONS |= {"gramkan/count": {"official_count": True}, "metagramkan/outer": {"outer": "silu", "norm": "all"}}
OPTIONS |= {"metachebykan/layer": {"meta_share": "layer", "prompt_dim": 2, "bias": True}}


@pytest.mark.parametrize("case", OPTIONS)
def test_every_trained_parameter_of_every_backbone_has_a_gradient(case):
    net = build(case.split("/")[0], 3, widths=(6, 5), **OPTIONS[case]).double()
    net(points(200, 3)).sin().sum().backward()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert all(name.endswith(("basis.centers", "basis.unused_beta")) for name in frozen)
    for name, p in net.named_parameters():
        if name not in frozen:
            assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_backbones_and_their_norms():
    """Every basis by name, direct and meta; a LayerNorm as asked, of fastkan before the hidden layers."""
    assert set(BACKBONES) == {"mlp", *FAMILIES, *(f"meta{name}" for name in FAMILIES)}
    normed = lambda name, **options: [layer.norm is not None for layer in build(name, 3, widths=(6, 5), **options)]
    for name, (basis, _) in FAMILIES.items():
        for each in (name, f"meta{name}"):
            assert normed(each) == [False, name == "fastkan", name == "fastkan"]
            assert all(type(layer.basis) is basis for layer in build(each, 3, widths=(6,)))
        if name != "wavkan":
            assert normed(name, norm="all") == [True] * 3 and normed(name, norm="none") == [False] * 3
    assert [len(layer.norm.weight) for layer in build("kan", 3, widths=(6, 5), norm="all")] == [3, 6, 5]
    assert build("fastkan", 3, widths=(6,))[1].basis.high.tolist() == [2] * 6
    for name in ("wavkan", "metawavkan"):
        with pytest.raises(ValueError, match="norm") as info:
            build(name, 3, norm="hidden")
        one_line(info)


class Waves(Fourier):
    """A basis of one's own, whose annotations are texts, as `from __future__ import annotations` leaves them."""

    def __init__(self, in_features: "int", waves: "int" = 2, grid_range=(-1.0, 1.0)):
        super().__init__(in_features, waves, grid_range)


@pytest.fixture
def tables():
    """The tables of networks as they were, afterwards."""
    tables = backbones.BACKBONES, backbones.FAMILIES
    before = [dict(table) for table in tables]
    yield
    for table, was in zip(tables, before, strict=True):
        table.clear()
        table.update(was)


def test_a_basis_becomes_a_backbone(tables):
    free, meta = backbones.family("waves", Waves, norm="hidden", hidden_range=(-3.0, 3.0), waves=4)
    assert backbones.BACKBONES["waves"] is free and backbones.BACKBONES["metawaves"] is meta
    assert backbones.FAMILIES["waves"] == (Waves, {"norm": "hidden", "hidden_range": (-3.0, 3.0), "waves": 4})
    assert backbones.defaults("waves")["waves"] == 4 and backbones.defaults("metawaves")["norm"] == "hidden"
    for name in ("waves", "metawaves"):
        net = build(name, 3, widths=(5,), waves=3)
        assert [layer.basis.harmonics for layer in net] == [3, 3] and [layer.norm is None for layer in net] == [
            True,
            False,
        ]
        assert net[1].basis.high.tolist() == [3.0] * 5 and net(torch.zeros(2, 3)).shape == (2, 1)
    with pytest.raises(ConfigError, match="unknown option of backbone waves 'wavs'; did you mean waves") as info:
        build("waves", 3, wavs=3)
    one_line(info)
    with pytest.raises(ConfigError, match="backbone waves: waves: given 'a', .*integer") as info:
        build("waves", 3, waves="a")
    one_line(info)


def test_names_and_defaults_of_a_family_are_checked(tables):
    for name in ("mlp", "kan", "metakan", "metawaves"):
        with pytest.raises(ConfigError, match=f"{name}: the name is taken") as info:
            backbones.family(name, Waves)
        one_line(info)
    with pytest.raises(ConfigError, match="unknown option of backbone waves 'wavs'; did you mean waves") as info:
        backbones.family("waves", Waves, wavs=3)
    one_line(info)
    assert backbones.BACKBONES == BACKBONES
    first = backbones.family("waves", Waves)
    assert backbones.family("waves", Waves) != first  # its file was read again
    with pytest.raises(ConfigError, match="taken"):
        backbones.family("waves", BSpline)


def test_options_are_those_of_the_dataclasses():
    common = [field.name for field in fields(backbones.KANOptions)]
    meta = [field.name for field in fields(backbones.MetaKANOptions)]
    assert meta[: len(common)] == common
    assert list(backbones.defaults("kan")) == [*common, "grid_size", "spline_order", "base"]
    assert list(backbones.defaults("metakan")) == [*meta, "grid_size", "spline_order", "base"]


SIZES = {  # weights of an edge, its base included
    "kan": 9, "fastkan": 9, "wavkan": 3, "chebykan": 9, "legendrekan": 9, "gramkan": 9, "fourierkan": 9,
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_parameter_counts_of_every_basis(name):
    edges, size = 20 * 32 + 2 * 32 * 32 + 32, SIZES[name]
    extra = {"fastkan": 4 * 8 + 2 * 3 * 32, "gramkan": 4 * 6}.get(name, 0)  # centres and LayerNorms; beta
    assert count_parameters(build(name, 20)) == size * edges + extra
    assert count_parameters(build(f"meta{name}", 20)) == edges + 2 * 128 + 129 * size + extra
    if name == "gramkan":
        assert count_parameters(build(name, 20, official_count=True)) == size * edges + extra + 2 * 4
        trained = count_parameters(build(name, 20, official_count=True), include_frozen=False)
        assert trained == size * edges + extra


@pytest.mark.parametrize("case", VARIANTS)
def test_parameter_groups_part_the_parameters(case):
    net = built(case)
    groups = parameter_groups(net)
    together = [p for group in groups.values() for p in group]
    assert len(together) == len({id(p) for p in together}) == len(list(net.parameters()))
    if "metakan" in case:
        layers = 3 if "layer" in case else 1
        assert len(groups["prompts"]) == (5 if "rank" in case else 3) and len(groups["meta"]) == 4 * layers
        assert len(groups.get("rest", [])) == 3 * VARIANTS[case][1].get("bias", 0)
    else:
        assert set(groups) == {"rest"}


@pytest.mark.parametrize("case", VARIANTS)
def test_state_dict_round_trip(case, tmp_path):
    net, other, x = built(case), built(case, seed=1), points(7, 3).float()
    assert not torch.equal(net(x), other(x))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("case", VARIANTS)
def test_deepcopy_is_independent_and_keeps_what_is_shared(case):
    net, x = built(case), points(7, 3).float()
    before, twin = net(x), copy.deepcopy(net)
    assert torch.equal(twin(x), before) and count_parameters(twin) == count_parameters(net)
    if "metakan" in case:
        learner = lambda net, i: net[i].weights.learner
        assert (learner(twin, 0) is learner(twin, 1)) == (learner(net, 0) is learner(net, 1)) == ("layer" not in case)
        assert learner(twin, 0) is not learner(net, 0)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(1)
    assert torch.equal(net(x), before)


@pytest.mark.parametrize("case", VARIANTS)
def test_double_is_the_same_function_in_float64(case):
    net, x = built(case), points(7, 3)
    single, double = net(x.float()), net.double()(x)
    assert single.dtype == torch.float32 and double.dtype == F64
    assert {t.dtype for t in (*net.parameters(), *net.buffers())} == {F64}
    close(single.double(), double, 1e-4)
    assert not torch.equal(single.double(), double)


@pytest.mark.parametrize("case", VARIANTS)
def test_value_exports(case):
    net, x = built(case).double(), points(7, 3)
    exported = torch.export.export(net, (x,)).module()
    close(exported(points(7, 3, seed=9)), net(points(7, 3, seed=9)), 1e-14)


@pytest.mark.parametrize("name", ["mlp", "kan", "metakan", "fastkan", "wavkan", "chebykan"])
def test_exported_value_takes_any_number_of_points(name):
    """Also where the layer itself would stream its inputs in pieces."""
    net = build(name, 20, widths=(8,))
    exported = torch.export.export(net, (torch.zeros(7, 20),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    for n in (12, 40_000):
        x = points(n, 20).float()
        close(exported(x), net(x), 1e-4)


@pytest.mark.parametrize("share", ["network", "layer"])
def test_one_prompt_moves_the_weights_of_its_edge_alone(share):
    net, x = network("metakan", 4, prompt_dim=2, meta_share=share), points(6, 4)
    theta = lambda: [layer.weights.generate(layer.weights.prompts) for layer in net]
    before, out = theta(), net[0](x)
    with torch.no_grad():
        net[0].weights.prompts[2, :, 1] += 0.5
    after = theta()
    moved = (after[0] != before[0]).nonzero()[:, [0, 2]].unique(dim=0).tolist()
    assert moved == [[2, 1]]
    assert all(torch.equal(a, b) for a, b in zip(after[1:], before[1:], strict=True))
    assert (net[0](x) != out).any(0).tolist() == [False, True, False, False]


def test_pieces_of_the_weights_are_the_weights():
    cases = ("kan", {}), ("metakan", {"prompt_dim": 2}), ("metakan", {"prompt_dim": 2, "prompt_rank": 2})
    for of_layer in (network(name, 5, **options)[0].weights for name, options in cases):
        whole = of_layer.theta if isinstance(of_layer, Direct) else of_layer.learner(of_layer.prompts)
        close(torch.cat([of_layer.generate(piece) for piece in of_layer.split(2)]), whole, 1e-14)
        index = torch.tensor([3, 0])
        close(of_layer.generate(of_layer.pick(index)), whole[index], 1e-14)


def test_prompts_of_low_rank_are_sums_of_products_and_layers_know_where_they_are_fewer():
    net = build("metakan", 6, widths=(4, 3), prompt_rank=2, prompt_dim=3).double()
    first, second, last = (layer.weights for layer in net)
    assert (type(first), type(second), type(last)) == (MetaLowRank, Meta, Meta)  # 2 (6 + 4) < 24, but 2 (4 + 3) > 12
    a, b = first.prompt_parameters
    for i, j, o in [(0, 0, 0), (5, 2, 3), (3, 1, 2)]:
        close(first.prompts[i, j, o], sum(a[i, j, k] * b[j, k, o] for k in range(2)), 1e-14)
    learner = count_parameters(first.learner)
    assert count_parameters(net) == 3 * (2 * (6 + 4) + 4 * 3 + 3) + learner
    of = lambda rank: [type(layer.weights) for layer in build("metakan", 4, widths=(4,), prompt_rank=rank)]
    assert of(1) == [MetaLowRank, Meta] and of(2) == [Meta, Meta]  # as many numbers: free


def test_a_width_of_low_rank_prompts_costs_the_rank():
    count = lambda width: count_parameters(build("metakan", 100, widths=(width, 1), prompt_rank=3)[0])
    assert count(97) - count(96) == 3


def test_free_prompts_do_not_change_with_the_option():
    x = points(5, 4).float()
    net, same = build("metakan", 4), build("metakan", 4, prompt_rank=40)
    assert torch.equal(net(x), same(x)) and net.state_dict().keys() == same.state_dict().keys()


@pytest.mark.parametrize("init", ["linear", "sine", "official"])
@pytest.mark.parametrize("rank", [1, 3])
def test_prompts_of_low_rank_start_with_the_variance_of_free_ones(init, rank):
    free = build("metakan", 400, widths=(300,), meta_init=init)[0].weights.prompts
    z = build("metakan", 400, widths=(300,), meta_init=init, prompt_rank=rank)[0].weights.prompts
    assert torch.linalg.matrix_rank(z.squeeze(1)) == rank
    assert (z.var() / free.var() - 1).abs() < 0.2 and abs(z.mean()) < 0.1 * free.std()


def test_prompts_of_low_rank_bend_beyond_their_rank():
    """The Hessian of a network has the rank of its first layer, not that of its prompts."""
    net, x = network("metakan", 12, widths=(9,), prompt_rank=1, meta_hidden=30), points(2, 12)[:1]
    of_first = torch.autograd.functional.jacobian(net[0], x)[0, :, 0]
    assert torch.linalg.matrix_rank(net[0].weights.prompts.squeeze(1)) == 1
    assert torch.linalg.matrix_rank(of_first, rtol=1e-8) == 9


def test_prompts_of_the_released_layout_have_no_rank():
    options = MetaOptions(rank=1, released_layout=True)
    with pytest.raises(ValueError, match="no rank"):
        generated_weights([(9, 4)], [BSpline(9)], generator(), options)


def learner_of(prompt_dim: int, hidden: int = 7, size: int = 4, bias: bool = True) -> MetaLearner:
    learner = MetaLearner(prompt_dim, hidden, size, bias).double()
    with torch.no_grad():
        for seed, p in enumerate(learner.parameters()):
            p.normal_(generator=generator(seed))
    return learner


def written_out(learner: MetaLearner, prompts: torch.Tensor) -> torch.Tensor:
    """Eq. 12 for prompts (in, p, out), in plain operations."""
    hidden = torch.einsum("hp,ipo->iho", learner.w1, prompts)
    hidden = torch.relu(hidden if learner.b1 is None else hidden + learner.b1[:, None])
    theta = torch.einsum("dh,iho->ido", learner.w2, hidden)
    return theta if learner.b2 is None else theta + learner.b2[:, None]


def check_generation(learner: MetaLearner, prompts: torch.Tensor) -> None:
    """The learner generates what eq. 12 says, with all gradients."""
    of = [prompts, *learner.parameters()]
    results = []
    for theta in (learner(prompts), written_out(learner, prompts)):
        results.append([theta, *torch.autograd.grad((theta / 100).sin().sum(), of)])
    for got, expected in zip(*results, strict=True):
        close(got, expected)


WAYS = {  # numbers of hidden units to a tile, edges from which a table is used
    "one tile": (2**15, 10**9),
    "tiles": (1, 10**9),
    "tiles of 3": (21, 10**9),
    "table": (2**15, 1),
}


@pytest.mark.parametrize("bias", [True, False], ids=["biased", "unbiased"])
@pytest.mark.parametrize("prompt_dim", [1, 2])
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_generate_is_equation_12(monkeypatch, way, prompt_dim, bias):
    """Values, gradients, and gradients of gradients."""
    learner, prompts = learner_of(prompt_dim, bias=bias), points(5 * prompt_dim, 3).unflatten(0, (5, prompt_dim))
    tile, table = WAYS[way]
    monkeypatch.setattr(weights, "TILE", tile)
    monkeypatch.setattr(weights, "TABLE_FROM", table)
    edges = torch.empty(15, prompt_dim)
    expected = {"tiles": 1, "tiles of 3": 3}
    # no smaller than an eighth of what all edges generate
    assert weights._tile(edges, learner.w1, learner.w2) == (expected[way] if way in expected else 2**15 // 7)
    of = [prompts.requires_grad_(), *learner.parameters()]
    results = []
    for theta in (learner(prompts), written_out(learner, prompts)):
        first = torch.autograd.grad(theta.sin().sum(), of, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), of)
        results.append([theta, *first, *second])
    for got, expected in zip(*results, strict=True):
        close(got, expected)


@pytest.mark.parametrize("tile", [2**15, 1])
def test_tiles_of_many_edges_stay_small_beside_what_they_generate(monkeypatch, tile):
    monkeypatch.setattr(weights, "TILE", tile)
    learner = learner_of(2, hidden=64, size=9)
    edges = torch.empty(10**5, 2)
    assert weights._tile(edges, learner.w1, learner.w2) == max(tile, 10**5 * 9 // 8) // 64


def test_scalar_prompts_of_many_edges_generate_by_a_table(monkeypatch):
    """On the CPU, from TABLE_FROM edges on."""
    used = []
    table = weights._table
    monkeypatch.setattr(weights, "_table", lambda *a: used.append(n_in) or table(*a))
    for n_in, prompt_dim in ((weights.TABLE_FROM, 1), (weights.TABLE_FROM - 1, 1), (weights.TABLE_FROM, 2)):
        learner = learner_of(prompt_dim)
        prompts = points(n_in * prompt_dim, 1).unflatten(0, (n_in, prompt_dim))
        close(learner(prompts), written_out(learner, prompts))
    assert used == [weights.TABLE_FROM]


def test_table_takes_units_without_slope_and_knots_that_coincide(monkeypatch):
    """Units on or off everywhere, pairs of opposite sign with their knots at 0, prompts far outside all knots."""
    monkeypatch.setattr(weights, "TABLE_FROM", 1)
    learner = learner_of(1, hidden=9)
    with torch.no_grad():
        learner.w1[:6, 0] = torch.tensor([1.5, -1.5, 0, 0, 0, 1.5])
        learner.b1[:6] = torch.tensor([0.0, 0, 2, -2, 0, 0])
    prompts = torch.cat([points(5, 2), torch.tensor([[-1e3, 1e3]], dtype=F64)]).unsqueeze(1).requires_grad_()
    check_generation(learner, prompts)


@pytest.mark.parametrize("bias", [True, False], ids=["biased", "unbiased"])
def test_table_reaches_beyond_all_knots(monkeypatch, bias):
    """Edges in the first and in the last segment, every knot finite: they count in all gradients."""
    monkeypatch.setattr(weights, "TABLE_FROM", 1)
    learner, prompts = learner_of(1, bias=bias), 50 * points(6, 2).unsqueeze(1).requires_grad_()
    knots = torch.zeros(7) if not bias else -learner.b1 / learner.w1[:, 0]
    assert prompts.min() < knots.min() and prompts.max() > knots.max() and knots.isfinite().all()
    check_generation(learner, prompts)


def test_table_is_continuous_at_its_knots(monkeypatch):
    """And what is not a number stays so."""
    monkeypatch.setattr(weights, "TABLE_FROM", 1)
    learner = learner_of(1)
    knots = (-learner.b1 / learner.w1[:, 0]).detach().reshape(-1, 1, 1)
    close(learner(knots), written_out(learner, knots), 1e-12)
    assert learner(torch.full((1, 1, 1), torch.nan, dtype=F64)).isnan().all()


@pytest.mark.parametrize("way", WAYS)
def test_generation_is_batched_by_vmap(monkeypatch, way):
    """Gradients per point, and an ensemble of prompts or of meta-learners."""
    tile, table = WAYS[way]
    monkeypatch.setattr(weights, "TILE", tile)
    monkeypatch.setattr(weights, "TABLE_FROM", table)
    net = network("metakan", 3, widths=(4,))
    named, x = dict(net.named_parameters()), points(4, 3)
    at = lambda p, x: functional_call(net, p, (x[None],)).sin().sum()
    batched = vmap(grad(at), (None, 0))(named, x)
    for i in range(4):
        row = torch.autograd.grad(at(named, x[i]), list(named.values()))
        for name, expected in zip(named, row, strict=True):
            close(batched[name][i], expected, name=name)
    many = {name: torch.stack([p, p + 0.25, 2 * p]).detach() for name, p in named.items()}
    for name in named:
        got = vmap(lambda p, name=name: functional_call(net, {**named, name: p}, (x,)))(many[name])
        for p, one in zip(many[name], got, strict=True):
            close(one, functional_call(net, {**named, name: p}, (x,)), name=name)


# Materialised networks ---------------------------------------------------------------------------------------------

META = {name: {} for name in BACKBONES if name.startswith("meta")}
META |= {"metakan/layer": {"meta_share": "layer", "prompt_dim": 2, "bias": True}}
META |= {"metakan/norm": {"norm": "all"}, "metagramkan/outer": {"outer": "silu", "official_count": True}}
META |= {"metakan/rank": {"prompt_rank": 1}}
META |= {"metakan/unused": {"meta_share": 5, "unused_clusters": True}}
OF_META_ALONE = {"meta_share", "prompt_dim", "prompt_rank", "unused_clusters"}


@pytest.mark.parametrize("case", META)
def test_materialized_network_is_the_same_without_prompts(case):
    name, options = case.split("/")[0], META[case]
    net, x = network(name, 3, **options), points(9, 3)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    free = materialize(net)
    close(free(x), net(x), 1e-14)
    assert not any(isinstance(m, Meta | MetaLearner) for m in free.modules())
    assert all(type(layer.weights) is Direct and layer.weights.theta.is_leaf for layer in free)
    assert all(layer.weights.theta.requires_grad for layer in free)
    plain = {key: value for key, value in options.items() if key not in OF_META_ALONE}
    direct = network(name.removeprefix("meta"), 3, **plain)
    assert count_parameters(free) == count_parameters(direct) and free.state_dict().keys() == direct.state_dict().keys()
    direct.load_state_dict(free.state_dict())
    assert torch.equal(direct(x), free(x))
    with torch.no_grad():  # nothing is shared with the network, which is as it was
        for p in free.parameters():
            p.add_(1)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())


def test_materialized_layer_and_plain_network():
    layer, x = network("metakan", 3)[0], points(5, 3)
    close(materialize(layer)(x), layer(x), 1e-14)
    assert isinstance(layer.weights, Meta) and isinstance(materialize(layer).weights, Direct)
    plain = network("kan", 3)
    twin = materialize(plain)
    assert torch.equal(twin(x), plain(x)) and twin[0].weights.theta is not plain[0].weights.theta


EXPORTED = {"metakan", "metawavkan", "metakan/norm", "metakan/layer", "metagramkan/outer"}  # others as without prompts


@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in EXPORTED else [pytest.mark.slow]) for c in META])
def test_materialized_network_exports(case):
    net = materialize(network(case.split("/")[0], 3, **META[case]))
    exported = torch.export.export(net, (points(5, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    close(exported(points(8, 3, seed=9)), net(points(8, 3, seed=9)), 1e-13)


@pytest.mark.parametrize("name", ["metakan", "metawavkan"])
def test_materialized_network_exports_to_onnx(name, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    net = materialize(build(name, 3, widths=(4,))).eval()
    torch.onnx.export(net, (points(5, 3).float(),), tmp_path / "net.onnx", dynamo=True)
    assert (tmp_path / "net.onnx").stat().st_size > 0


def test_network_of_many_edges_exports_with_its_table():
    net = build("metakan", 130, widths=(32,)).double()
    assert 130 * 32 >= weights.TABLE_FROM
    x = points(4, 130)
    close(torch.export.export(net, (x,)).module()(x), net(x), 1e-13)


# Initialisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", ["network", "layer", 2])
@pytest.mark.parametrize("prompt_dim", [1, 3])
def test_meta_learner_starts_linear_with_the_spread_of_a_kan(share, prompt_dim):
    """M(z) = V z; the base functions have the deviation 1 / sqrt(in) of a KAN's, the splines more than there."""
    meta = build("metakan", 100, meta_share=share, prompt_dim=prompt_dim).double()
    for generated, free in zip(meta, build("kan", 100).double(), strict=True):
        w = generated.weights
        theta = w.generate(w.prompts)
        for factor in (-1, 2):
            close(w.generate(factor * w.prompts), factor * theta, 1e-5)
        splines, base = (
            theta[:, :-1].std() / free.weights.theta[:, :-1].std(),
            theta[:, -1].std() * free.in_features**0.5,
        )
        assert 1 < splines < 15 and 0.6 < base < 1.5  # 32 numbers in the last layer
        assert theta.mean((0, 2)).abs().max() < 4 * theta.std((0, 2)).max() / theta[:, 0].numel() ** 0.5


@pytest.mark.parametrize("name", ["metakan", "metachebykan", "metagramkan", "metafourierkan"])
def test_meta_learner_starts_with_the_scale_of_its_basis(name):
    """M(z) = V z with V = (activation + 0.3 scale random) / sqrt(p): deviations over columns, the last row none."""
    prompt_dim = 400
    net = build(name, 3, widths=(4,), prompt_dim=prompt_dim, meta_hidden=1000)
    learner, basis = net[0].weights.learner.double(), net[0].basis
    v = learner.w2[:, :500] @ learner.w1[:500] * prompt_dim**0.5
    expected = META_SPREAD * basis.init_scale().double()
    expected[-1] = 0
    spread, mean = v.std(1), v.mean(1)
    assert (spread - expected).abs().le(0.15 * expected + 1e-4).all()
    assert (mean - basis.init_activation()).abs().le(0.25 * expected + 1e-4).all()


def test_splines_weighted_by_their_centres_are_a_straight_line():
    for grid_size, k in ((5, 3), (3, 4), (8, 5)):
        basis = BSpline(1, grid_size, k, (-2.0, 4.0)).double()
        x = torch.linspace(-2, 4, 50, dtype=F64).unsqueeze(1)
        (features,) = basis.features(x, 0)
        close(features[:, 0, :-1] @ basis.init_activation()[:-1].double(), (x[:, 0] - 1) / 3, 1e-6)
        assert basis.init_activation()[-1] == 1


SINES = ["metakan", "metafastkan", "metachebykan", "metalegendrekan", "metagramkan", "metafourierkan"]


@pytest.mark.parametrize("name", SINES)
def test_sine_start_is_an_mlp_of_sines(name, monkeypatch):
    monkeypatch.setattr("kanpde.kan.network.META_SPREAD", 0.0)
    ranges = [(-2.0, 4.0), (0.0, 1.0), (-3.0, 3.0)]
    nets = [build(name, 3, widths=(4,), meta_init="sine", grid_range=ranges) for _ in range(20)]
    states = [torch.cat([p.flatten() for p in net.parameters()]) for net in nets]
    assert all(torch.equal(states[0], other) for other in states)
    low, high = torch.tensor(ranges, dtype=F64).T
    t = 2 * torch.rand(200, 3, generator=generator(0), dtype=F64) - 1
    net = nets[0].double()
    expected = (pi / 2 * t).sin() @ net[0].weights.prompts.squeeze(1)
    found = net[0](low + (t + 1) / 2 * (high - low))
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_sine_start_of_wavelets_is_refused():
    with pytest.raises(ConfigError, match="meta_init: sine .* of a wavelet: linear, official") as info:
        build("metawavkan", 3, meta_init="sine")
    one_line(info)


@pytest.mark.parametrize("meta_hidden", [1, 2, 5])
@pytest.mark.parametrize("init", ["linear", "sine", "official"])
def test_every_hidden_unit_of_a_small_meta_learner_learns(init, meta_hidden):
    """Prompts of either sign reach every unit; one without any gradient at first would stay dead."""
    net = build("metakan", 3, widths=(6, 5), meta_hidden=meta_hidden, meta_init=init).double()
    (net(points(200, 3)) - 1).square().sum().backward()
    learner = net[0].weights.learner
    assert 0 not in (learner.w1.grad.abs().sum(1) + learner.w2.grad.abs().sum(0)).tolist()


def test_official_weights_start_near_zero():
    net = build("metakan", 20, meta_init="official")
    assert all(0 < layer.weights.generate(layer.weights.prompts).abs().max() < 0.2 for layer in net)


@pytest.mark.parametrize(
    "given, dim, expected",
    [("paper", 100, (32, 32, 32)), ("wide", 5, (32, 32, 32)), ("wide", 50, (50, 32, 32)), ("wide", 200, (96, 32, 32))],
)
def test_widths_by_name(given, dim, expected):
    sizes = lambda net: [layer.out_features for layer in net]
    assert sizes(build("chebykan", dim, widths=given)) == sizes(build("metakan", dim, widths=given)) == [*expected, 1]
    assert sizes(build("kan", dim)) == [32, 32, 32, 1]


def test_names_of_widths_are_told_with_the_nearest():
    with pytest.raises(ConfigError) as info:
        build("kan", 3, widths="wides")
    assert "did you mean wide?" in one_line(info) and "(known: paper, wide)" in one_line(info)


@pytest.mark.parametrize("name", BACKBONES)
def test_seed_determines_the_weights_and_nothing_global_changes(name):
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    a, b, c = (build(name, 4, generator=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before) and torch.get_default_dtype() == dtype == torch.float32
    same = [torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)]
    assert all(same)
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))
    assert {p.dtype for p in a.parameters()} == {torch.float32}
    assert all(torch.equal(p, q) for p, q in zip(build(name, 4).parameters(), build(name, 4).parameters(), strict=True))


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_has_the_sizes_asked_for(name):
    net = build(name, 4, 2, widths=(5, 3))
    assert net(torch.zeros(6, 4)).shape == (6, 2)
    assert [m.out_features for m in net if hasattr(m, "out_features")] == [5, 3, 2]
    assert set(backbones.ACTIVATIONS) == {"tanh", "silu", "softplus", "sigmoid", "sine"}


# Clusters ----------------------------------------------------------------------------------------------------------


def cost(groups: list[list[int]]) -> Fraction:
    """Sum of squared distances to the mean of each group, exactly."""
    return sum(((w - Fraction(sum(g), len(g))) ** 2 for g in groups for w in g), Fraction(0))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data())
def test_clusters_are_optimal_among_all_contiguous_partitions(data):
    some = st.one_of(st.integers(1, 600), st.integers(1, 5).map(lambda n: n * n))  # the latter repeat
    widths = tuple(data.draw(st.lists(some, min_size=1, max_size=8)))
    distinct = sorted(set(widths))
    clusters = data.draw(st.integers(1, len(distinct)))
    labels = cluster_widths(widths, clusters)
    of = dict(zip(widths, labels, strict=True))
    assert all(of[w] == label for w, label in zip(widths, labels, strict=True))  # equal widths, equal labels
    increasing = [of[w] for w in distinct]
    assert increasing == sorted(increasing) and set(increasing) == set(range(clusters))
    got = cost([[w for w, label in zip(widths, labels, strict=True) if label == c] for c in range(clusters)])
    ordered = sorted(widths)
    best = min(
        cost([ordered[i:j] for i, j in zip((0, *cuts), (*cuts, len(ordered)), strict=True)])
        for cuts in combinations(range(1, len(ordered)), clusters - 1)
    )
    assert float(got - best) <= 1e-9 * float(best)


@pytest.mark.parametrize("clusters, labels", [(1, "00000000"), (3, "00001122"), (5, "00123344")])
def test_clusters_are_those_of_the_paper(clusters, labels):
    assert cluster_widths((16, 32, 64, 128, 256, 256, 512, 512), clusters) == tuple(map(int, labels))


def test_clusters_do_not_depend_on_the_order_of_the_layers():
    assert cluster_widths((512, 16, 256, 32, 512), 2) == (1, 0, 0, 0, 1)


@pytest.mark.parametrize("widths, clusters", [((32, 32, 32, 1), 3), ((8,), 2), ((8, 4), 0), ((8, 4), -1)])
def test_impossible_numbers_of_clusters_are_refused_in_one_line(widths, clusters):
    with pytest.raises(ValueError, match="clusters") as info:
        cluster_widths(widths, clusters)
    one_line(info)


WIDE = (16, 32, 64, 128, 256, 256, 512)  # and one output: 7 distinct widths


def test_more_clusters_than_widths_only_if_asked_for():
    """The spare meta-learners are counted, listed by name and frozen, as in the released code."""
    with pytest.raises(ValueError, match="9 clusters.*1 to 7") as info:
        build("metakan", 3, widths=WIDE, meta_share=9)
    one_line(info)
    net, needed = (
        build("metakan", 3, widths=WIDE, meta_share=n, unused_clusters=True, meta_hidden=8, prompt_dim=2)
        for n in (9, 7)
    )
    learner = 2 * 8 + 8 + 8 * 9 + 9
    assert count_parameters(net) == count_parameters(needed) + 2 * learner
    assert count_parameters(net, include_frozen=False) == count_parameters(needed)
    spare = {name: p for name, p in net.named_parameters() if "unused" in name}
    assert {name.rpartition(".")[0] for name in spare} == {f"0.weights.unused_learners.{i}" for i in range(2)}
    assert len(spare) == 8 and not any(p.requires_grad for p in spare.values())
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == spare.keys()
    assert not any("unused" in name for name, _ in needed.named_parameters())
    trained = [p for group in parameter_groups(net).values() for p in group]
    assert len(trained) == len(list(needed.parameters())) and all(p.requires_grad for p in trained)
    x = torch.ones(2, 3)
    assert torch.equal(net(x), needed(x))


@pytest.mark.parametrize("share", ["network", "layer", 2, (0, 1, 0)], ids=str)
def test_nothing_is_unused_where_every_meta_learner_serves(share):
    plain, asked = (build("metakan", 3, widths=(8, 7), meta_share=share, unused_clusters=u) for u in (False, True))
    assert plain.state_dict().keys() == asked.state_dict().keys()
    assert count_parameters(plain) == count_parameters(asked) == count_parameters(asked, include_frozen=False)


@pytest.mark.parametrize("share", [0, -1, "layers", (0, 1)], ids=str)
def test_bad_sharing_is_refused_with_unused_clusters_too(share):
    with pytest.raises(ValueError) as info:
        build("metakan", 3, widths=(8, 7), meta_share=share, unused_clusters=True)
    one_line(info)


@pytest.mark.parametrize("labels", [(0, 0, 0), (5, 5, 7), (2, 1, 0), [0, 1, 0]], ids=str)
def test_labels_of_any_numbers_say_who_shares(labels):
    learners = [layer.weights.learner for layer in build("metakan", 3, widths=(8, 7), meta_share=labels)]
    assert [[a is b for b in learners] for a in learners] == [[a == b for b in labels] for a in labels]
