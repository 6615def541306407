"""The image classifiers of the paper: fully connected and convolutional KANs of every basis, a plain MLP and a CNN."""

import itertools
from collections.abc import Callable
from inspect import Signature, signature
from math import sqrt
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from kanpde import backbones
from kanpde.backbones.builders import Interval, Widths, specialise
from kanpde.kan import network
from kanpde.kan.basis import BSpline, Chebyshev, Fourier, GaussianRBF, Gram, Legendre, Wavelet
from kanpde.kan.basis.base import Basis
from kanpde.kan.conv import KANConv2d

CHANNELS = {4: (32, 64, 128, 256), 8: (16, 32, 64, 128, 256, 256, 512, 512)}
STRIDES = {4: (1, 2, 2, 1), 8: (1, 2, 2, 1, 1, 2, 1, 1)}

# Fully connected ---------------------------------------------------------------------------------------------------


def mlp(dim_in: int, classes: int, *, generator: torch.Generator, hidden: Widths = (32,)) -> nn.Sequential:
    """A multilayer perceptron with ReLU."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise((dim_in, *hidden, classes)):
        layers += [linear(n_in, n_out, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def linear(n_in: int, n_out: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer with weights of deviation sqrt(2 / in) and biases 0."""
    layer = nn.utils.skip_init(nn.Linear, n_in, n_out)
    with torch.no_grad():
        layer.weight.normal_(std=sqrt(2 / n_in), generator=generator)
        layer.bias.zero_()
    return layer


def extends(template: Callable, without: str) -> Callable[[Callable], Callable]:
    """Of a builder that hands all but its own options to `template`: the signature of both, but `without`."""

    def extended(builder: Callable) -> Callable:
        options = {name: p for name, p in signature(template).parameters.items() if name != without}
        of_basis = options.pop("of_basis")
        options |= {name: p for name, p in signature(builder).parameters.items() if p.kind is p.KEYWORD_ONLY}
        builder.__signature__ = Signature([*options.values(), of_basis])
        return builder

    return extended


def classifier(template: Callable) -> Callable:
    """A template of `kanpde.backbones` for classifiers: `hidden` for `widths`; batch_norm: one after every layer."""

    @extends(template, without="widths")
    def builder(*sizes, hidden: Widths = (32,), batch_norm: bool = False, **options) -> nn.Sequential:
        net = template(*sizes, widths=hidden, **options)
        normed = (m for layer in net for m in (layer, nn.BatchNorm1d(layer.out_features)))
        return nn.Sequential(*normed) if batch_norm else net

    builder.__doc__ = template.__doc__
    return builder


WIDE = {"hidden_range": (-6.0, 6.0)}  # sums over 784 pixels are not normalised and leave [-1, 1], the paper's grid

FULLY_CONNECTED = {  # basis, and the paper's choices for the direct and the meta network
    "kan": (BSpline, {"bias": True, **WIDE}, {"meta_hidden": 256, "meta_bias": False, **WIDE}),
    "fastkan": (GaussianRBF, {"bias": True, "norm": "all"}, {"norm": "all"}),
    "wavkan": (Wavelet, {"batch_norm": True}, {"batch_norm": True}),
    "chebykan": (Chebyshev, {"degree": 3}, {"degree": 3}),
    "legendrekan": (Legendre, {"degree": 3}, {"degree": 3}),
    "gramkan": (Gram, {"degree": 3}, {"degree": 3}),
    "fourierkan": (Fourier, {}, {}),
}
CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp}
for _name, (_basis, _direct, _meta) in FULLY_CONNECTED.items():
    _range = {"grid_range": (-2.0, 2.0), "hidden_range": (-2.0, 2.0)} if _name == "fastkan" else {}
    CLASSIFIERS[_name] = specialise(classifier(backbones.kan), _basis, **_range, **_direct)
    CLASSIFIERS[f"meta{_name}"] = specialise(classifier(backbones.metakan), _basis, **_range, **_meta)


# Convolutional -----------------------------------------------------------------------------------------------------


def cnn(
    channels_in: int,
    classes: int,
    *,
    generator: torch.Generator,
    layers: Literal[4, 8] = 4,
    dropout: float = 0.2,
    head_dropout: float = 0.5,
) -> nn.Sequential:
    """Plain convolutions of the same shape, each with batch norm and ReLU."""
    blocks = []
    for (c_in, c_out), stride in zip(_channels(channels_in, layers), STRIDES[layers], strict=True):
        conv = nn.utils.skip_init(nn.Conv2d, c_in, c_out, 3, stride=stride, padding=1, bias=False)
        with torch.no_grad():
            conv.weight.normal_(std=sqrt(2 / (9 * c_in)), generator=generator)
        blocks.append(nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU()))
    return _with_head(blocks, CHANNELS[layers][-1], classes, dropout, head_dropout, generator)


NORMS = {"batch": nn.BatchNorm2d, "instance": lambda c: nn.InstanceNorm2d(c, affine=True)}
ACTIVATIONS = {"none": nn.Identity, "prelu": nn.PReLU, "silu": nn.SiLU}


def conv_net(
    basis: type[Basis],
    channels_in: int,
    classes: int,
    *,
    generator: torch.Generator,
    weights_for: network.WeightsFor,
    layers: Literal[4, 8] = 4,
    norm: Literal["batch", "instance"] = "batch",
    norm_before: bool = False,
    activation: Literal["none", "prelu", "silu"] = "none",
    dropout: float = 0.2,
    head_dropout: float = 0.5,
    grid_range: Interval = (-2.0, 2.0),
    **of_basis,
) -> nn.Sequential:
    """A convolutional KAN of 4 or 8 layers; norm_before: the norm stands before the basis."""
    channels = _channels(channels_in, layers)
    bases = [basis(c_in, grid_range=grid_range, **of_basis) for c_in, _ in channels]
    weights = weights_for([(9 * c_in, c_out) for c_in, c_out in channels], bases)
    blocks = []
    for own, w, (c_in, c_out), stride in zip(bases, weights, channels, STRIDES[layers], strict=True):
        before = NORMS[norm](c_in) if norm_before else None
        conv = KANConv2d(own, w, c_in, c_out, 3, stride=stride, padding=1, norm=before)
        after = [] if norm_before else [NORMS[norm](c_out), ACTIVATIONS[activation]()]
        blocks.append(nn.Sequential(conv, *after))
    return _with_head(blocks, CHANNELS[layers][-1], classes, dropout, head_dropout, generator)


@extends(conv_net, without="weights_for")
def free_conv_net(*sizes, generator: torch.Generator, **options) -> nn.Sequential:
    """A convolutional KAN with free weights."""
    weights_for = lambda edges, bases: network.free_weights(edges, bases, generator)
    return conv_net(*sizes, generator=generator, weights_for=weights_for, **options)


@extends(conv_net, without="weights_for")
def meta_conv_net(
    *sizes,
    generator: torch.Generator,
    layers: Literal[4, 8] = 4,
    clusters: PositiveInt | Literal["layer"] | tuple[int, ...] = 1,
    prompt_dim: PositiveInt = 1,
    prompt_rank: PositiveInt | None = None,
    meta_hidden: PositiveInt = 64,
    meta_init: Literal["linear", "sine", "official"] = "linear",
    released_layout: bool = False,
    **options,
) -> nn.Sequential:
    """A convolutional KAN generated by the meta-learners of C clusters of layers; as many as layers: one each.

    clusters: C, "layer", or a label for each layer. More clusters than distinct widths leave meta-learners unused, as
    the paper's C = 7 for 8 layers does; they are counted.
    """
    if isinstance(clusters, int) and clusters > layers:
        raise ValueError(f"clusters: given {clusters}, the network has {layers} layers")
    if released_layout and sizes[0] not in (BSpline, GaussianRBF):
        raise ValueError("released_layout is that of metakanconv and metafastkanconv only")
    share = "layer" if clusters in ("layer", layers) else clusters
    meta = network.MetaOptions(prompt_dim, meta_hidden, True, share, True, meta_init, released_layout, prompt_rank)
    weights_for = lambda edges, bases: network.generated_weights(edges, bases, generator, meta, taps=9)
    return conv_net(*sizes, generator=generator, weights_for=weights_for, layers=layers, **options)


def _channels(channels_in: int, layers: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise((channels_in, *CHANNELS[layers])))


def _with_head(blocks, width: int, classes: int, dropout: float, head_dropout: float, generator) -> nn.Sequential:
    """Dropout of channels between the blocks, then the mean over the image and a linear layer."""
    between = [m for block in blocks for m in (nn.Dropout2d(dropout), block)][1:]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(head_dropout)]
    return nn.Sequential(*between, *pool, linear(width, classes, generator))


CONVOLUTIONAL = {  # basis, the paper's choices, and what the released meta version has differently
    "kanconv": (BSpline, {"base": "gelu", "activation": "prelu"}, {}),
    "fastkanconv": (GaussianRBF, {"norm": "instance", "norm_before": True}, {}),
    "kalnconv": (Legendre, {"degree": 3, "base": "identity", "activation": "silu"}, {"base": "silu"}),
    "kagnconv": (Gram, {"degree": 3, "outer": "silu", "activation": "silu"}, {}),
    "kacnconv": (Chebyshev, {"degree": 3}, {}),
}
CONV_NETS: dict[str, Callable[..., nn.Module]] = {"cnn": cnn}
for _name, (_basis, _common, _meta) in CONVOLUTIONAL.items():
    CONV_NETS[_name] = specialise(free_conv_net, _basis, **_common)
    CONV_NETS[f"meta{_name}"] = specialise(meta_conv_net, _basis, **(_common | _meta))


@torch.no_grad()
def features(net: nn.Sequential, x: Tensor) -> Tensor:
    """What the last layer of a classifier sees, (N, n): the representation that Figure 7 shows."""
    last = next(i for i in reversed(range(len(net))) if not isinstance(net[i], nn.BatchNorm1d))
    return net[:last].eval()(x)
