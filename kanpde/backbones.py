"""The networks by name."""

import itertools
from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from math import sqrt
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import nn

from kanpde.ground.construct import construct
from kanpde.jets import jet
from kanpde.kan import network
from kanpde.kan.basis import BSpline, Chebyshev, Fourier, GaussianRBF, Gram, Legendre, Wavelet
from kanpde.kan.basis.base import Basis

Widths = tuple[PositiveInt, ...]
Interval = tuple[float, float]
ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "softplus": nn.Softplus, "sigmoid": nn.Sigmoid, "sine": jet.Sine}


def mlp(
    dim_in: int,
    dim_out: int = 1,
    *,
    generator: torch.Generator,
    widths: Widths = (128, 128, 128),
    activation: Literal["tanh", "silu", "softplus", "sigmoid", "sine"] = "tanh",
) -> nn.Sequential:
    """Multilayer perceptron: linear layers (Xavier-normal, biases 0) with a smooth activation between them."""
    dims = (dim_in, *widths, dim_out)
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(dims):
        linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
        with torch.no_grad():
            linear.weight.normal_(std=sqrt(2 / (n_in + n_out)), generator=generator)
            linear.bias.zero_()
        layers += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def kan(
    basis: type[Basis],
    dim_in: int,
    dim_out: int = 1,
    *,
    generator: torch.Generator,
    widths: Widths = (32, 32, 32),
    grid_range: Interval | list[Interval] = (-1.0, 1.0),
    hidden_range: Interval = (-1.0, 1.0),
    bias: bool = False,
    norm: Literal["none", "hidden", "all"] = "none",
    centred: bool = False,
    **of_basis,
) -> nn.Sequential:
    """Kolmogorov-Arnold network with free weights on every edge.

    centred: the first layer is zero at the origin, for thousands of inputs that all lie near it.
    """
    return network.stack(
        (dim_in, *widths, dim_out),
        _basis_for(basis, grid_range, hidden_range, of_basis),
        lambda edges, bases: network.free_weights(edges, bases, generator),
        bias,
        norm,
        centred,
    )


def metakan(
    basis: type[Basis],
    dim_in: int,
    dim_out: int = 1,
    *,
    generator: torch.Generator,
    widths: Widths = (32, 32, 32),
    grid_range: Interval | list[Interval] = (-1.0, 1.0),
    hidden_range: Interval = (-1.0, 1.0),
    bias: bool = False,
    norm: Literal["none", "hidden", "all"] = "none",
    centred: bool = False,
    prompt_dim: PositiveInt = 1,
    meta_hidden: PositiveInt = 128,
    meta_bias: bool = True,
    meta_share: Literal["network", "layer"] | PositiveInt | tuple[int, ...] = "network",
    meta_init: Literal["linear", "sine", "official"] = "linear",
    unused_clusters: bool = False,
    **of_basis,
) -> nn.Sequential:
    """The same network, its weights generated from one prompt per edge by meta-learners.

    unused_clusters: more clusters than distinct widths are no error; the meta-learners too many are kept and counted.
    """
    options = network.MetaOptions(prompt_dim, meta_hidden, meta_bias, meta_share, unused_clusters, meta_init)
    return network.stack(
        (dim_in, *widths, dim_out),
        _basis_for(basis, grid_range, hidden_range, of_basis),
        lambda edges, bases: network.generated_weights(edges, bases, generator, options),
        bias,
        norm,
        centred,
    )


def _basis_for(basis: type[Basis], grid_range, hidden_range, of_basis: dict) -> network.BasisFor:
    """The range of the inputs may fit the data; the one of the hidden layers is fixed."""
    return lambda number, n_in: basis(n_in, grid_range=hidden_range if number else grid_range, **of_basis)


def specialise(template: Callable, basis: type[Basis], **changed) -> Callable:
    """The builder `template` for a basis: its options are the template's and the basis' own, defaults as `changed`."""
    own = signature(basis).parameters
    options = {name: p for name, p in signature(template).parameters.items() if name not in ("basis", "of_basis")}
    options |= {name: p for name, p in own.items() if name not in ("in_features", "grid_range")}
    options = {name: p.replace(default=changed.get(name, p.default)) for name, p in options.items()}
    keyword = {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in options.items() if name not in ("dim_in", "dim_out")}

    @wraps(template)
    def builder(dim_in, dim_out=1, **given):
        return template(basis, dim_in, dim_out, **{**changed, **given})

    builder.__signature__ = Signature((options | keyword).values())
    builder.__annotations__ = {name: p.annotation for name, p in (options | keyword).items()}
    builder.__doc__ = f"{template.__doc__}\n\n{basis.__doc__}"
    return builder


FAMILIES = {  # a basis by the name of its network, and what differs from the common defaults
    "kan": (BSpline, {}),
    "fastkan": (GaussianRBF, {"hidden_range": (-2.0, 2.0), "norm": "hidden"}),
    "wavkan": (Wavelet, {}),
    "chebykan": (Chebyshev, {}),
    "legendrekan": (Legendre, {}),
    "gramkan": (Gram, {}),
    "fourierkan": (Fourier, {}),
}
BACKBONES = {"mlp": mlp}
for _name, (_basis, _changed) in FAMILIES.items():
    BACKBONES[_name] = specialise(kan, _basis, **_changed)
    BACKBONES[f"meta{_name}"] = specialise(metakan, _basis, **_changed)


def build(
    name: str, dim_in: int, dim_out: int = 1, *, generator: torch.Generator | None = None, **options
) -> nn.Module:
    """Build a backbone, (N, dim_in) -> (N, dim_out), in the default dtype on the CPU (move it with .to).

    Args:
        name: mlp, or kan, fastkan, wavkan, chebykan, legendrekan, gramkan, fourierkan, each also with meta before it.
        dim_in, dim_out: numbers of inputs and outputs.
        generator: of the initial weights; default one with seed 0. The global generator is never used.
        options: of the backbone's function in this file: widths, grid_size, spline_order, grid_range, prompt_dim, ...
    Raises:
        ConfigError: unknown name or option, or a value that does not fit.

    Example:
        >>> build("metakan", 100)(torch.zeros(7, 100)).shape
        torch.Size([7, 1])
    """
    generator = generator or torch.Generator().manual_seed(0)
    return construct("backbone", BACKBONES, {"name": name, **options}, dim_in, dim_out, generator=generator)


def defaults(name: str) -> dict:
    """The options of a backbone with their defaults; a first grid that fits the data is "auto" in configurations."""
    parameters = signature(BACKBONES[name]).parameters.values() if name in BACKBONES else ()
    options = {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "dim_out"}
    return options | ({"grid_range": "auto"} if "grid_range" in options else {})
