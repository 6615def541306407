"""The KAN convolution: the linear layer on patches, padding that contributes nothing, groups, the released layout."""

import copy
from functools import partial

import pytest
import torch
from conftest import close, generator, in_pairs, one_line, points
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import pad, unfold

from benchmarks.images.nets import CONV_NETS
from benchmarks.speed.memory import peak_bytes
from kanpde.ground.metrics import saved_memory
from kanpde.kan import network
from kanpde.kan.basis import BSpline, Chebyshev, Fourier, GaussianRBF, Gram, Legendre, Wavelet
from kanpde.kan.basis.base import Basis, LinearBasis
from kanpde.kan.conv import KANConv2d
from kanpde.kan.layers import KANLinear
from kanpde.kan.network import count_parameters
from kanpde.kan.weights import Direct, Meta, MetaLearner, MetaLowRank, MetaReleased, materialize

BASES = {
    "bspline": partial(BSpline, grid_size=4, base="gelu"),
    "bspline-local": partial(BSpline, grid_size=30),
    "rbf": partial(GaussianRBF, centers=4),
    "chebyshev": partial(Chebyshev, degree=3),
    "legendre": partial(Legendre, degree=3, base="identity"),
    "gram": partial(Gram, degree=3, outer="silu"),
    "fourier": partial(Fourier, harmonics=2),
    "wavelet-dog": partial(Wavelet, wavelet="dog"),
    "wavelet-mexican_hat": partial(Wavelet, wavelet="mexican_hat"),
    "wavelet-morlet": partial(Wavelet, wavelet="morlet"),
}
LINEAR = [name for name in BASES if "wavelet" not in name]
RANGES = [(-1.0, 1.0), (0.0, 2.5), (-0.25, 0.125), (-1.5, 0.5)]  # another one for each channel


def pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def made(name: str, c_in: int = 2, c_out: int = 3, kernel=3, weights: str = "direct", groups: int = 1, **options):
    """A convolution in float64 with weights of order one, direct or generated from prompts of length 2."""
    basis = BASES[name](c_in, grid_range=RANGES[:c_in]).double()
    height, width = pair(kernel)
    edges = c_in // groups * height * width
    if weights == "direct":
        w = Direct(points(edges * basis.size, c_out, seed=2).reshape(edges, basis.size, c_out))
    else:
        w = Meta(points(edges * 2, c_out, seed=2).reshape(edges, 2, c_out), learner(2, 5, basis.size))
    conv = KANConv2d(basis, w, c_in, c_out, kernel, groups=groups, **options)
    with torch.no_grad():
        if conv.bias is not None:
            conv.bias.copy_(points(1, c_out, seed=3)[0])
    return conv.double()


@torch.no_grad()
def learner(prompt_dim: int, hidden: int, size: int) -> MetaLearner:
    m = MetaLearner(prompt_dim, hidden, size).double()
    for seed, p in enumerate(m.parameters()):
        p.normal_(generator=generator(seed))
    return m


def images(n: int, channels: int, height: int, width: int, seed: int = 4) -> Tensor:
    return points(n * channels * height, width, seed).reshape(n, channels, height, width)


def theta_of(conv: KANConv2d) -> Tensor:
    (raw,) = conv.weights.split(conv.edges)
    return conv.weights.generate(raw)


def phi(basis: Basis, x: Tensor, theta: Tensor, channel: int) -> Tensor:
    """The edge functions (size, out) = theta of one channel at its values x (M,): (M, out)."""
    return basis.contract(x[:, None], theta[None], slice(channel, channel + 1)).value


def by_hand(conv: KANConv2d, x: Tensor, outside: str = "nothing") -> Tensor:
    """The sum over channels and taps, place by place; a tap outside the image adds nothing, or phi(0)."""
    theta, (a_end, b_end) = theta_of(conv), conv.kernel_size
    out_shape = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    )(x.float()).shape
    y = torch.zeros(out_shape, dtype=x.dtype)
    c_in, c_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    for row in range(out_shape[2]):
        for column in range(out_shape[3]):
            for a in range(a_end):
                for b in range(b_end):
                    i = row * conv.stride[0] - conv.padding[0] + a * conv.dilation[0]
                    j = column * conv.stride[1] - conv.padding[1] + b * conv.dilation[1]
                    inside = 0 <= i < x.shape[2] and 0 <= j < x.shape[3]
                    if not inside and outside == "nothing":
                        continue
                    for g in range(conv.groups):
                        to = slice(g * c_out, (g + 1) * c_out)
                        for c in range(c_in):
                            edge = (c * a_end + a) * b_end + b  # channel, row, column
                            seen = x[:, g * c_in + c, i, j] if inside else x.new_zeros(len(x))
                            y[:, to, row, column] += phi(conv.basis, seen, theta[edge, :, to], g * c_in + c)
    return y if conv.bias is None else y + conv.bias[:, None, None]


GEOMETRIES = {
    "1": {"kernel": 1},
    "3": {"kernel": 3},
    "2x3": {"kernel": (2, 3)},
    "stride": {"kernel": 3, "stride": 2},
    "strides": {"kernel": (2, 3), "stride": (1, 3)},
    "dilation": {"kernel": 2, "dilation": (2, 3)},
    "all": {"kernel": (3, 2), "stride": (2, 1), "dilation": (1, 2)},
}


# Patches -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, weights, geometry", in_pairs(BASES, ["direct", "meta"], GEOMETRIES))
def test_convolution_is_the_linear_layer_on_every_patch(name, weights, geometry):
    """A layer on the entries of a patch in the order channel, row, column, each with the range of its channel."""
    options = GEOMETRIES[geometry]
    conv, x = made(name, weights=weights, bias=True, **options), images(2, 2, 6, 7)
    taps = conv.kernel_size[0] * conv.kernel_size[1]
    of_patch = BASES[name](2 * taps, grid_range=[r for r in RANGES[:2] for _ in range(taps)]).double()
    if isinstance(of_patch, Gram):
        of_patch.load_state_dict({"beta": conv.basis.beta}, strict=False)
    layer = KANLinear(of_patch, conv.weights, 2 * taps, 3, bias=True)
    layer.load_state_dict({"bias": conv.bias}, strict=False)
    patches = unfold(x, conv.kernel_size, conv.dilation, 0, conv.stride)  # (N, channel row column, places)
    expected = layer(patches.mT.flatten(0, 1)).unflatten(0, (2, -1)).mT
    got = conv(x)
    close(got, expected.reshape(got.shape))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("name", ["rbf", "chebyshev", "wavelet-mexican_hat"])
def test_padding_leaves_the_terms_outside_out(name, geometry):
    """Also where padding exceeds the reach of the kernel."""
    for padding in (1, (2, 0), (0, 3)):
        conv, x = made(name, padding=padding, bias=True, **GEOMETRIES[geometry]), images(2, 2, 4, 5)
        close(conv(x), by_hand(conv, x))


@pytest.mark.parametrize("name", BASES)
def test_padding_is_not_that_of_the_image(name):
    """phi(0) is not 0: zeros around the image would add it, at the rim and only there."""
    conv, x = made(name, padding=1), images(2, 2, 3, 4)
    got, of_zeros = conv(x), by_hand(conv, x, outside="zeros")
    close(got, by_hand(conv, x))
    unpadded = copy.deepcopy(conv)
    unpadded.padding = (0, 0)
    close(unpadded(pad(x, (1, 1, 1, 1))), of_zeros)
    difference = (got - of_zeros).abs().amax((0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-12
    rim = torch.ones_like(difference, dtype=torch.bool)
    rim[1:-1, 1:-1] = False
    assert difference[rim].min() > 1e-3


@pytest.mark.parametrize("name, geometry, padding", in_pairs(LINEAR, GEOMETRIES, [0, 1, (2, 1)]))
def test_taps_equal_features(name, geometry, padding):
    for groups in (1, 2):
        conv = made(name, 4, 6, padding=padding, groups=groups, **GEOMETRIES[geometry])
        x, theta = images(2, 4, 6, 5), theta_of(conv)
        close(conv._by_taps(x, theta), conv._by_features(x, theta))


@pytest.mark.parametrize("weights", ["direct", "meta"])
@pytest.mark.parametrize("name", BASES)
def test_groups_are_separate_convolutions(name, weights):
    conv = made(name, 4, 6, (2, 3), weights, groups=2, padding=1, stride=(1, 2), bias=True)
    x, theta = images(2, 4, 5, 6), theta_of(conv)
    assert theta.shape[0] == conv.edges == 2 * 6
    parts = []
    for g in range(2):
        inputs, outputs = slice(2 * g, 2 * g + 2), slice(3 * g, 3 * g + 3)
        basis = BASES[name](2, grid_range=RANGES[inputs]).double()
        alone = KANConv2d(basis, Direct(theta[..., outputs].detach()), 2, 3, (2, 3), padding=1, stride=(1, 2))
        parts.append(alone(x[:, inputs]) + conv.bias[outputs, None, None])
    close(conv(x), torch.cat(parts, 1))
    close(conv(x), by_hand(conv, x))


@pytest.mark.parametrize("name", ["bspline", "wavelet-dog"])
def test_one_number_serves_both_directions(name):
    x = images(1, 2, 7, 6)
    numbers = made(name, kernel=2, stride=2, padding=1, dilation=3)
    pairs = made(name, kernel=(2, 2), stride=(2, 2), padding=(1, 1), dilation=(3, 3))
    assert torch.equal(numbers(x), pairs(x))
    assert (numbers.kernel_size, numbers.stride, numbers.padding, numbers.dilation) == ((2, 2), (2, 2), (1, 1), (3, 3))


SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
SMALL = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(SIDES, SMALL, SMALL, st.tuples(st.integers(0, 3), st.integers(0, 3)), SMALL, st.sampled_from([1, 2]))
def test_shape_is_that_of_torch(sides, kernel, stride, padding, dilation, groups):
    """And both ways agree, wherever an image is large enough and a tap sees it."""
    x = images(2, 2, *sides)
    try:
        shape = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups).double()(x).shape
    except RuntimeError:  # the image is too small
        assume(False)
    conv = made("rbf", 2, 4, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    y = conv(x)
    assert y.shape == shape
    taps = [[conv._seen(t, axis, sides[axis], shape[2 + axis]) for t in range(kernel[axis])] for axis in (0, 1)]
    assume(all(map(any, taps)))
    assert (conv._by_taps(x, theta_of(conv)) - y).abs().max() <= 1e-12
    wavelets = made("wavelet-dog", 2, 4, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    assert wavelets(x).shape == shape


@pytest.mark.parametrize("name", ["rbf", "wavelet-dog"])
def test_image_that_no_tap_sees_gives_zeros(name):
    """Stride 2 with padding 1 steps over an image of one pixel."""
    y = made(name, kernel=1, stride=2, padding=1)(images(2, 2, 1, 1))
    assert torch.equal(y, torch.zeros(2, 3, 2, 2, dtype=y.dtype))


@pytest.mark.parametrize("name", ["rbf", "wavelet-dog"])
def test_image_smaller_than_the_kernel_is_refused(name):
    with pytest.raises((RuntimeError, ValueError)):
        made(name, kernel=3)(images(2, 2, 5, 2))


def test_no_image_is_no_output():
    for name in ("rbf", "wavelet-dog"):
        assert made(name, padding=1)(images(2, 2, 4, 5)[:0]).shape == (0, 3, 4, 5)


# Norms and gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(2, affine=True), nn.BatchNorm2d(2)], ids=["instance", "batch"])
def test_norm_stands_before_the_functions_alone(name, norm):
    """The base sees x itself: two convolutions, one without functions and one without a base."""
    norm = copy.deepcopy(norm).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.5]))
        norm.bias.copy_(torch.tensor([0.1, 0.7]))
    conv, x = made(name, padding=1, stride=2, bias=True, norm=norm), images(2, 2, 4, 5)
    count, plain = conv.basis.count, made(name, padding=1, stride=2)
    theta = theta_of(conv)
    of_functions, of_base = theta.clone(), theta.clone()
    of_functions[:, count:], of_base[:, :count] = 0, 0
    expected = plain._by_features(norm(x), of_functions) + plain._by_features(x, of_base)
    close(conv(x), expected + conv.bias[:, None, None])
    assert (conv(x) - made(name, padding=1, stride=2, bias=True)(x)).abs().max() > 0.1
    if conv.basis.base != "none":
        assert (conv(x) - plain(norm(x)) - conv.bias[:, None, None]).abs().max() > 1e-3


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("weights", ["direct", "meta"])
def test_gradients_reach_every_trained_parameter(name, weights):
    norm = nn.InstanceNorm2d(2, affine=True) if name == "rbf" else None
    conv, x = made(name, weights=weights, padding=1, bias=True, norm=norm), images(2, 2, 5, 6).requires_grad_()
    conv(x).sin().sum().backward()
    for key, p in [("x", x), *((key, p) for key, p in conv.named_parameters() if p.requires_grad)]:
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.ne(0).any(), key
    assert x.grad.ne(0).all()


@pytest.mark.parametrize("name", ["bspline", "rbf", "gram", "wavelet-dog", "wavelet-morlet"])
def test_gradients_are_those_of_the_sum_by_hand(name):
    conv, x = made(name, 2, 2, 2, weights="meta", padding=1, stride=2, bias=True), images(1, 2, 3, 4).requires_grad_()
    given = [x, *(p for p in conv.parameters() if p.requires_grad)]
    gradients = [torch.autograd.grad(y.sin().sum(), given) for y in (conv(x), by_hand(conv, x))]
    for a, b in zip(*gradients, strict=True):
        close(a, b, 1e-11)


def test_bias_is_zero_at_first_and_added():
    basis = BSpline(2)
    assert KANConv2d(basis, Direct(torch.zeros(18, basis.size, 3)), 2, 3, 3).bias is None
    conv = KANConv2d(basis, Direct(torch.zeros(18, basis.size, 3)), 2, 3, 3, bias=True)
    assert conv.bias.tolist() == [0, 0, 0] and count_parameters(conv) == 18 * basis.size * 3 + 3
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([1.0, 2, 3]))
    assert torch.equal(conv(torch.zeros(1, 2, 4, 4))[0, :, 1, 1], conv.bias)


@pytest.mark.parametrize("name", BASES)
def test_convolution_exports(name):
    conv, x = made(name, kernel=2, weights="meta", padding=1, stride=2, bias=True).eval(), images(2, 2, 5, 6)
    for net in (conv, materialize(conv)):
        close(
            torch.export.export(net, (x,)).module()(images(2, 2, 5, 6, seed=9)), net(images(2, 2, 5, 6, seed=9)), 1e-13
        )


@pytest.mark.parametrize("name", BASES)
def test_materialized_convolution_is_the_same(name):
    conv, x = made(name, 4, 6, weights="meta", groups=2, padding=1, bias=True), images(2, 4, 5, 6)
    free = materialize(conv)
    close(free(x), conv(x), 1e-14)
    assert isinstance(free.weights, Direct) and isinstance(conv.weights, Meta)
    assert count_parameters(free) == count_parameters(made(name, 4, 6, groups=2, padding=1, bias=True))


def test_what_does_not_fit_is_refused_in_one_line():
    basis = BSpline(4)
    for c_in, c_out, groups in ((4, 6, 4), (4, 6, 3), (3, 6, 2)):
        with pytest.raises(ValueError, match="groups") as info:
            KANConv2d(basis, Direct(torch.zeros(1)), c_in, c_out, 3, groups=groups)
        one_line(info)
    for layer in (
        lambda: KANConv2d(Wavelet(4), Direct(torch.zeros(1)), 4, 4, 3, norm=nn.InstanceNorm2d(4)),
        lambda: KANLinear(Wavelet(4), Direct(torch.zeros(1)), 4, 4, norm=nn.LayerNorm(4)),
    ):
        with pytest.raises(ValueError, match="norm.*linear.*Wavelet") as info:
            layer()
        one_line(info)


def test_description_names_the_options():
    text = repr(made("rbf", 4, 6, (2, 3), groups=2, stride=2, padding=(1, 0), dilation=3, bias=True)).splitlines()[1]
    assert text.strip() == (
        "4, 6, kernel_size=(2, 3), stride=(2, 2), padding=(1, 0), dilation=(3, 3), groups=2, bias=True"
    )


# Images taken some at a time --------------------------------------------------------------------------------------

OPTIONS = {
    "padding": {"padding": 1},
    "stride": {"kernel": (2, 3), "stride": 2, "dilation": (2, 1), "padding": (1, 0)},
    "groups": {"groups": 2, "padding": 1},
    "norm": {"norm": nn.InstanceNorm2d(4, affine=True)},
    "batch norm": {"norm": nn.BatchNorm2d(4), "stride": 2, "padding": 1},
}


@pytest.fixture
def taken(monkeypatch) -> list[int]:
    """The numbers of images taken at a time, which is 1 unless a kernel has more numbers than features of an image."""
    counts, piece = [], KANConv2d._piece

    def noted(self, x, *rest):
        counts.append(len(x))
        return piece(self, x, *rest)

    monkeypatch.setattr(KANConv2d, "_piece", noted)
    monkeypatch.setattr("kanpde.kan.conv.PIECE_BYTES", 1)
    return counts


def whole(conv: KANConv2d, x: Tensor) -> Tensor:
    """The convolution of all features together, by automatic differentiation alone."""
    rows = lambda t: t.permute(0, 2, 3, 1).flatten(0, 2)
    normed = x if conv.norm is None else conv.norm(x)
    b = torch.cat([conv.basis.functions(rows(normed), 0)[0], conv.basis.base_function(rows(x), 0)[0]], -1)
    b = b.flatten(1).unflatten(0, (len(x), *x.shape[2:])).permute(0, 3, 1, 2)
    kernel = theta_of(conv).unflatten(0, (-1, *conv.kernel_size)).permute(4, 0, 3, 1, 2).flatten(1, 2)
    settings = conv.stride, conv.padding, conv.dilation, conv.groups
    return nn.functional.conv2d(b, kernel, conv.bias, *settings)


@pytest.mark.parametrize("name, weights, options", in_pairs(LINEAR, ["direct", "meta"], OPTIONS))
def test_pieces_equal_the_whole(name, weights, options, taken):
    """Values, gradients, and gradients of these."""
    conv = copy.deepcopy(made(name, 4, 6, weights=weights, bias=True, **{"kernel": 3, **OPTIONS[options]}))
    x = images(3, 4, 9, 8).requires_grad_()
    given = [x, *(p for p in conv.parameters() if p.requires_grad)]
    results = []
    for y in (conv(x), whole(conv, x)):
        first = torch.autograd.grad(y.sin().sum(), given, create_graph=True)
        results.append((y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), given)))
    assert set(taken) == {1} and len(taken) >= 6  # of the forward pass, and again of the backward pass
    for a, b in zip(*results, strict=True):
        close(a, b)


@pytest.mark.parametrize("options", ["padding", "groups", "norm"])
@pytest.mark.parametrize("name", ["bspline", "rbf", "gram"])
def test_gradients_per_sample_equal_those_one_by_one(name, options, taken):
    """A sample is two images, taken one after the other."""
    conv = copy.deepcopy(made(name, 4, 6, weights="meta", bias=True, **OPTIONS[options]))
    x = images(6, 4, 9, 8).unflatten(0, (3, 2))
    trained = {key: p.detach() for key, p in conv.named_parameters() if p.requires_grad}
    loss = lambda given, x: functional_call(conv, given, (x,)).sin().sum()
    gradients = vmap(grad(loss), (None, 0))(trained, x)
    assert set(taken) == {1}
    for i in range(3):
        expected = torch.autograd.grad(whole(conv, x[i]).sin().sum(), [conv.get_parameter(key) for key in trained])
        for key, e in zip(trained, expected, strict=True):
            close(gradients[key][i], e, name=key)


@pytest.mark.parametrize("norm", [None, nn.InstanceNorm2d(4, affine=True)], ids=["none", "norm"])
def test_no_features_are_kept(norm, taken):
    """Kept are the images, the kernel and what a norm keeps; nothing of the size of the features is ever alive."""
    conv, x = made("bspline", 4, 1, padding=1, norm=copy.deepcopy(norm)), images(64, 4, 12, 12).requires_grad_()
    features = conv.basis.size * x.nbytes
    with saved_memory(conv) as saved:
        conv(x)
    of_norm = 0 if norm is None else 1.1 * x.nbytes  # its result, and a few numbers of each channel
    assert saved() <= x.nbytes + theta_of(conv).nbytes + of_norm
    step = lambda: conv(x).square().sum().backward()
    step()
    x.grad, conv.weights.theta.grad = None, None
    assert peak_bytes(step, 0, torch.device("cpu")) < 0.75 * features
    assert peak_bytes(lambda: whole(conv, x).square().sum().backward(), 0, torch.device("cpu")) > features


def test_a_piece_is_no_smaller_than_the_kernel(taken):
    """Else reading the kernel for every piece would take longer than its convolution."""
    conv, x = made("rbf", 2, 64), images(50, 2, 5, 5)
    conv(x)
    assert theta_of(conv).numel() // (2 * 25 * conv.basis.size) == 23
    assert taken == [23, 23, 4]


# The layout of the released code -----------------------------------------------------------------------------------


def released(basis: LinearBasis, c_in: int, c_out: int, groups: int = 1, prompt_dim: int = 2) -> KANConv2d:
    edges = c_in // groups * 9
    prompts = points(edges * prompt_dim, c_out, seed=5).reshape(edges, prompt_dim, c_out)
    weights = MetaReleased(prompts, learner(prompt_dim, 5, basis.size), taps=9)
    return KANConv2d(basis, weights, c_in, c_out, 3, padding=1, groups=groups)


@pytest.mark.parametrize("name", ["bspline", "rbf", "legendre", "fourier"])
@pytest.mark.parametrize("groups", [1, 2])
def test_released_layout_is_that_of_the_released_code(name, groups):
    """There the table of weights, a row of D per prompt (out in tap), is read as kernels of splines, then of bases."""
    basis = BASES[name](4, grid_range=RANGES).double()
    conv, x, size = released(basis, 4, 6, groups), images(2, 4, 5, 6), basis.size
    m, z = conv.weights.learner, conv.weights.prompts.permute(2, 0, 1).reshape(-1, 2)  # row (o in/groups + i) 9 + tap
    table = torch.relu(z @ m.w1.T + m.b1) @ m.w2.T + m.b2  # (out in taps, D)
    c = 4 // groups
    kernels = table.reshape(6, c * size, 3, 3)
    features = basis.features(x.permute(0, 2, 3, 1).reshape(-1, 4), 0)[0].reshape(2, 5, 6, 4, size)
    expected = []
    for g in range(groups):
        of_group, inputs = kernels[6 // groups * g :][: 6 // groups], features[..., c * g : c * (g + 1), :]
        splines = inputs[..., :-1].flatten(-2).permute(0, 3, 1, 2)  # channel i (D - 1) + j
        base = inputs[..., -1].permute(0, 3, 1, 2)
        spline_kernels, base_kernels = of_group[:, : c * (size - 1)], of_group[:, c * (size - 1) :]
        conv2d = partial(nn.functional.conv2d, padding=1)
        expected.append(conv2d(splines, spline_kernels) + conv2d(base, base_kernels))
    close(conv(x), torch.cat(expected, 1))
    by_edge = KANConv2d(basis, Meta(conv.weights.prompts.detach(), m), 4, 6, 3, padding=1, groups=groups)
    assert (by_edge(x) - conv(x)).abs().max() > 0.1
    assert count_parameters(by_edge) == count_parameters(conv)
    free = materialize(conv)
    assert isinstance(free.weights, Direct)
    close(free(x), conv(x), 1e-14)


def moved_by_one_prompt(weights: Meta, edge: int, out: int) -> list[list[int]]:
    """[edge, function, out] of the weights that change with the prompt of an edge."""
    theta = lambda: weights.generate(weights.prompts)
    before = theta()
    with torch.no_grad():
        weights.prompts[edge, :, out] += 0.5
    return (theta() != before).nonzero().tolist()


def test_one_prompt_of_the_released_layout_fills_a_kernel_where_the_sizes_agree():
    """D = 9 = 3 x 3: all taps of one channel's kernel. Of Eq. 21: all weights of one tap."""
    basis = BSpline(2).double()
    assert basis.size == 9
    conv = released(basis, 2, 3)
    eq21 = Meta(conv.weights.prompts.detach().clone(), conv.weights.learner)
    for edge, out in ((0, 0), (4, 2), (13, 1), (17, 1)):
        assert moved_by_one_prompt(eq21, edge, out) == [[edge, j, out] for j in range(9)]
        channel, function = divmod(edge, 8) if edge < 16 else (edge - 16, 8)  # 16 splines, then 2 bases
        assert moved_by_one_prompt(conv.weights, edge, out) == [[9 * channel + tap, function, out] for tap in range(9)]


def test_one_prompt_of_the_released_layout_straddles_kernels_else():
    """D = 5: prompt e fills the numbers 5 e ... 5 e + 4 of kernels of 9 numbers each."""
    conv = released(Legendre(2, degree=3).double(), 2, 3)
    moved = moved_by_one_prompt(conv.weights, 3, 1)
    channels = {divmod(n, 9) for n in range(15, 20)}  # kernel 1 from tap 6 on, kernel 2 up to tap 1
    assert sorted(moved) == sorted([9 * (c // 4) + tap, c % 4, 1] for c, tap in channels)


def test_prompts_of_low_rank_make_kernels():
    """By their rank over the edges into a kernel and the outputs, in layers where they are fewer."""
    options, sizes = network.MetaOptions(hidden=6, rank=2), [(3 * 9, 5), (9, 2)]
    low, free = network.generated_weights(sizes, [BSpline(3), BSpline(1)], generator(), options)
    assert (type(low), type(free)) == (MetaLowRank, Meta) and torch.linalg.matrix_rank(low.prompts[:, 0]) == 2
    x = points(2, 3 * 25).view(2, 3, 5, 5).float()
    convs = [KANConv2d(BSpline(3), w, 3, 5, 3) for w in (low, Meta(low.prompts.detach(), low.learner))]
    close(convs[0](x), convs[1](x), 1e-6)
    net = CONV_NETS["metakanconv"](1, 10, generator=generator(), prompt_rank=2)
    assert any(isinstance(m, MetaLowRank) for m in net.modules())


def test_options_build_the_released_layout():
    bases = [BSpline(2), BSpline(4)]
    edges = [(18, 4), (36, 5)]
    options = network.MetaOptions(prompt_dim=2, hidden=6, released_layout=True)
    weights = network.generated_weights(edges, bases, generator(), options, taps=9)
    assert all(type(w) is MetaReleased and w.taps == 9 for w in weights)
    assert weights[0].learner is weights[1].learner
    assert [w.generate(w.split(36)[0]).shape for w in weights] == [(18, 9, 4), (36, 9, 5)]
    plain = network.generated_weights(edges, bases, generator(), network.MetaOptions(prompt_dim=2, hidden=6))
    assert [type(w) for w in plain] == [Meta, Meta]
    assert [count_parameters(w) for w in weights] == [count_parameters(w) for w in plain]
