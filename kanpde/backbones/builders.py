"""Networks of linear layers, of edges with free weights, and of edges whose weights are generated."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Signature, signature
from math import sqrt
from typing import Any, Literal, get_type_hints

import torch
from pydantic import PositiveInt
from torch import nn

from kanpde.ground.errors import suggest
from kanpde.jets import jet
from kanpde.kan import network
from kanpde.kan.basis.base import Basis

Widths = tuple[PositiveInt, ...]
PAPER = (32, 32, 32)  # hidden layers in Table 8 of MetaKAN
WIDEST = 96  # of a first hidden layer that grows with the inputs
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


@dataclass(frozen=True)
class KANOptions:
    """What every KAN may be told; further options are those of its basis.

    Attributes:
        widths: outputs of the hidden layers, or their name: see `widths_of`.
        grid_range: of the functions of the first layer: a pair, or one for each input.
        hidden_range: the same of the other layers.
        bias: whether layers have one.
        norm: a LayerNorm before the functions of no layer, the hidden ones or all.
        centred: the first layer is zero at the origin.

    Example:
        >>> KANOptions(widths=(8,), bias=True).grid_range
        (-1.0, 1.0)
    """

    widths: Widths | str = PAPER
    grid_range: Interval | list[Interval] = (-1.0, 1.0)
    hidden_range: Interval = (-1.0, 1.0)
    bias: bool = False
    norm: Literal["none", "hidden", "all"] = "none"
    centred: bool = False


def widths_of(given: Widths | str, dim_in: int) -> Widths:
    """The widths of hidden layers: `paper` are those of Table 8 of MetaKAN, `wide` have a first one that grows with d.

    Off the diagonal the Hessian of a network has at most the rank of its first hidden layer: 32 units hold the
    interactions of d inputs in 32 directions (`benchmarks.capacity`). `wide` has d of them, from 32 up to 96.

    Raises:
        ValueError: another name.

    Example:
        >>> widths_of("paper", 1000), widths_of("wide", 50), widths_of("wide", 1000), widths_of((8,), 1000)
        ((32, 32, 32), (50, 32, 32), (96, 32, 32), (8,))
    """
    if not isinstance(given, str):
        return given
    first, *others = PAPER
    names = {"paper": PAPER, "wide": (max(first, min(dim_in, WIDEST)), *others)}
    if given not in names:
        raise ValueError(suggest("widths", given, list(names)))
    return names[given]


@dataclass(frozen=True)
class MetaKANOptions(KANOptions):
    """And how meta-learners generate the weights.

    Attributes:
        prompt_rank: r; None: a prompt of its own for every edge. `kanpde.kan.network.MetaOptions.rank`.

    Example:
        >>> MetaKANOptions(meta_hidden=32).meta_share
        'network'
    """

    prompt_dim: PositiveInt = 1
    prompt_rank: PositiveInt | None = None
    meta_hidden: PositiveInt = 128
    meta_bias: bool = True
    meta_share: Literal["network", "layer"] | PositiveInt | tuple[int, ...] = "network"
    meta_init: Literal["linear", "sine", "official"] = "linear"
    unused_clusters: bool = False

    @property
    def meta(self) -> network.MetaOptions:
        """The same as `kanpde.kan.network` calls them."""
        return network.MetaOptions(
            prompt_dim=self.prompt_dim,
            hidden=self.meta_hidden,
            bias=self.meta_bias,
            share=self.meta_share,
            unused=self.unused_clusters,
            init=self.meta_init,
            rank=self.prompt_rank,
        )


def takes(kind: type[KANOptions]) -> Callable[[Callable], Callable]:
    """A decorator of a network (sizes, basis_for, generator, options): a template, which takes the fields of `kind`.

    The template is (basis, dim_in, dim_out, generator=, **fields, **of_basis) -> network.
    """
    fields = signature(kind).parameters

    def decorate(network_of: Callable) -> Callable:
        @wraps(network_of, assigned=("__module__", "__name__", "__qualname__", "__doc__"))  # not its annotations
        def template(basis: type[Basis], dim_in: int, dim_out: int = 1, *, generator: torch.Generator, **of_basis: Any):
            options = kind(**{name: of_basis.pop(name) for name in fields if name in of_basis})
            ranges = lambda number: options.hidden_range if number else options.grid_range  # the first fits the data
            basis_for = lambda number, n_in: basis(n_in, grid_range=ranges(number), **of_basis)
            sizes = (dim_in, *widths_of(options.widths, dim_in), dim_out)
            return network_of(sizes, basis_for, generator, options)

        *given, of_basis = signature(template, follow_wrapped=False).parameters.values()
        named = [p.replace(kind=p.KEYWORD_ONLY) for p in fields.values()]
        template.__signature__ = Signature([*given, *named, of_basis], return_annotation=nn.Sequential)
        return template

    return decorate


@takes(KANOptions)
def kan(
    sizes: tuple[int, ...], basis_for: network.BasisFor, generator: torch.Generator, options: KANOptions
) -> nn.Sequential:
    """Kolmogorov-Arnold network with free weights on every edge.

    centred: the first layer is zero at the origin, for thousands of inputs that all lie near it.
    """
    weights_for = lambda edges, bases: network.free_weights(edges, bases, generator)
    return network.stack(sizes, basis_for, weights_for, options.bias, options.norm, options.centred)


@takes(MetaKANOptions)
def metakan(
    sizes: tuple[int, ...], basis_for: network.BasisFor, generator: torch.Generator, options: MetaKANOptions
) -> nn.Sequential:
    """The same network, its weights generated from one prompt per edge by meta-learners.

    prompt_rank: r numbers for each input and output of a layer instead of one for each edge, where that is fewer.
    unused_clusters: more clusters than distinct widths are no error; the meta-learners too many are kept and counted.
    """
    weights_for = lambda edges, bases: network.generated_weights(edges, bases, generator, options.meta)
    return network.stack(sizes, basis_for, weights_for, options.bias, options.norm, options.centred)


def specialise(template: Callable[..., nn.Module], basis: type[Basis], **changed: Any) -> Callable[..., nn.Module]:
    """The builder `template` for a basis: its options are the template's and the basis' own, defaults as `changed`."""
    hints = get_type_hints(basis.__init__, include_extras=True)
    of_basis = {name: p for name, p in signature(basis).parameters.items() if name not in ("in_features", "grid_range")}
    options = {name: p for name, p in signature(template).parameters.items() if name not in ("basis", "of_basis")}
    options |= {name: p.replace(annotation=hints.get(name, p.annotation)) for name, p in of_basis.items()}
    options = {name: p.replace(default=changed.get(name, p.default)) for name, p in options.items()}
    keyword = {name: p.replace(kind=p.KEYWORD_ONLY) for name, p in options.items() if name not in ("dim_in", "dim_out")}

    @wraps(template)
    def builder(dim_in, dim_out=1, **given):
        return template(basis, dim_in, dim_out, **{**changed, **given})

    builder.__signature__ = Signature((options | keyword).values())  # which `construct` checks options against
    builder.__annotations__ = {name: p.annotation for name, p in (options | keyword).items()}
    builder.basis = basis
    builder.__doc__ = f"{template.__doc__}\n\n{basis.__doc__}"
    return builder
