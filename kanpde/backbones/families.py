"""The networks by name: a basis is a family of two, with free and with generated weights."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import nn

from kanpde.backbones.builders import kan, metakan, mlp, specialise
from kanpde.ground.construct import construct
from kanpde.ground.errors import ConfigError, suggest
from kanpde.kan.basis import BSpline, Chebyshev, Fourier, GaussianRBF, Gram, Legendre, Wavelet
from kanpde.kan.basis.base import Basis

BACKBONES: dict[str, Callable[..., nn.Module]] = {"mlp": mlp}
FAMILIES: dict[str, tuple[type[Basis], dict]] = {}  # a basis by the name of its network, and its changed defaults


def family(name: str, basis: type[Basis], **changed: Any) -> tuple[Callable, Callable]:
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
    name: str, dim_in: int, dim_out: int = 1, *, generator: torch.Generator | None = None, **options: Any
) -> nn.Module:
    """Build a backbone, (N, dim_in) -> (N, dim_out), in the default dtype on the CPU (move it with .to).

    Args:
        name: mlp, or kan, fastkan, wavkan, chebykan, legendrekan, gramkan, fourierkan, each also with meta before it.
        dim_in, dim_out: numbers of inputs and outputs.
        generator: of the initial weights; default one with seed 0. The global generator is never used.
        options: of `KANOptions`, `MetaKANOptions` and the basis, such as widths or grid_size.
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
