"""The networks by name."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Signature, signature
from math import sqrt
from typing import Literal, get_type_hints

import torch
from pydantic import PositiveInt
from torch import nn

from kanpde.ground.construct import construct
from kanpde.ground.errors import ConfigError, suggest
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


@dataclass(frozen=True)
class KANOptions:
    """What every KAN may be told; further options are those of its basis.

    Attributes:
        widths: outputs of the hidden layers.
        grid_range: of the functions of the first layer: a pair, or one for each input.
        hidden_range: the same of the other layers.
        bias: whether layers have one.
        norm: a LayerNorm before the functions of no layer, the hidden ones or all.
        centred: the first layer is zero at the origin.
    """

    widths: Widths = (32, 32, 32)
    grid_range: Interval | list[Interval] = (-1.0, 1.0)
    hidden_range: Interval = (-1.0, 1.0)
    bias: bool = False
    norm: Literal["none", "hidden", "all"] = "none"
    centred: bool = False


@dataclass(frozen=True)
class MetaKANOptions(KANOptions):
    """And how meta-learners generate the weights."""

    prompt_dim: PositiveInt = 1
    meta_hidden: PositiveInt = 128
    meta_bias: bool = True
    meta_share: Literal["network", "layer"] | PositiveInt | tuple[int, ...] = "network"
    meta_init: Literal["linear", "sine", "official"] = "linear"
    unused_clusters: bool = False

    @property
    def meta(self) -> network.MetaOptions:
        """The same as `kanpde.kan.network` calls them."""
        return network.MetaOptions(
            self.prompt_dim, self.meta_hidden, self.meta_bias, self.meta_share, self.unused_clusters, self.meta_init
        )


def takes(kind: type[KANOptions]) -> Callable[[Callable], Callable]:
    """A decorator of a network (sizes, basis_for, generator, options): a template, which takes the fields of `kind`.

    The template is (basis, dim_in, dim_out, generator=, **fields, **of_basis) -> network.
    """
    fields = signature(kind).parameters

    def decorate(network_of: Callable) -> Callable:
        @wraps(network_of, assigned=("__module__", "__name__", "__qualname__", "__doc__"))  # not its annotations
        def template(basis: type[Basis], dim_in: int, dim_out: int = 1, *, generator: torch.Generator, **of_basis):
            options = kind(**{name: of_basis.pop(name) for name in fields if name in of_basis})
            ranges = lambda number: options.hidden_range if number else options.grid_range  # the first fits the data
            basis_for = lambda number, n_in: basis(n_in, grid_range=ranges(number), **of_basis)
            return network_of((dim_in, *options.widths, dim_out), basis_for, generator, options)

        *given, of_basis = signature(template, follow_wrapped=False).parameters.values()
        named = [p.replace(kind=p.KEYWORD_ONLY) for p in fields.values()]
        template.__signature__ = Signature([*given, *named, of_basis])
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

    unused_clusters: more clusters than distinct widths are no error; the meta-learners too many are kept and counted.
    """
    weights_for = lambda edges, bases: network.generated_weights(edges, bases, generator, options.meta)
    return network.stack(sizes, basis_for, weights_for, options.bias, options.norm, options.centred)


def specialise(template: Callable, basis: type[Basis], **changed) -> Callable:
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
    builder.__doc__ = f"{template.__doc__}\n\n{basis.__doc__}"
    return builder


BACKBONES: dict[str, Callable[..., nn.Module]] = {"mlp": mlp}
FAMILIES: dict[str, tuple[type[Basis], dict]] = {}  # a basis by the name of its network, and its changed defaults


def family(name: str, basis: type[Basis], **changed) -> tuple[Callable, Callable]:
    """Make a basis a backbone by name, and with `meta` before it the same with generated weights.

    Args:
        name: for `build`, configurations and the command line.
        basis: as those of `kanpde.kan.basis`: basis(in_features, grid_range=..., options of its own).
        changed: defaults other than those of `KANOptions` and of the basis.
    Returns:
        Both builders.
    Raises:
        ConfigError: the name is that of another basis or begins with meta, or a changed default is of no option.

    Example:
        >>> from kanpde.kan.basis import Fourier
        >>> _ = family("wide_fourierkan", Fourier, hidden_range=(-4.0, 4.0))
        >>> build("metawide_fourierkan", 3, harmonics=2)[1].basis.high[0]
        tensor(4.)
        >>> del BACKBONES["wide_fourierkan"], BACKBONES["metawide_fourierkan"], FAMILIES["wide_fourierkan"]
    """
    if not _is_free(name, basis):
        raise ConfigError(f"backbone {name}: the name is taken; give the basis {basis.__name__} another")
    builders = specialise(kan, basis, **changed), specialise(metakan, basis, **changed)
    options = [name for name in signature(builders[0]).parameters if name not in ("dim_in", "dim_out", "generator")]
    for key in changed:
        if key not in options:
            raise ConfigError(suggest(f"option of backbone {name}", key, options))
    FAMILIES[name] = basis, changed
    BACKBONES[name], BACKBONES[f"meta{name}"] = builders
    return builders


def _is_free(name: str, basis: type[Basis]) -> bool:
    """Whether the name is that of no other basis; the same class may have it, read again from its file."""
    if name not in FAMILIES:
        return name not in BACKBONES and not name.startswith("meta")
    known, _ = FAMILIES[name]
    return (known.__module__, known.__qualname__) == (basis.__module__, basis.__qualname__)


family("kan", BSpline)
family("fastkan", GaussianRBF, hidden_range=(-2.0, 2.0), norm="hidden")
family("wavkan", Wavelet)
family("chebykan", Chebyshev)
family("legendrekan", Legendre)
family("gramkan", Gram)
family("fourierkan", Fourier)


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
