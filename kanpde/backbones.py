"""The networks by name."""

import itertools
from inspect import signature
from math import sqrt
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import nn

from kanpde import jet
from kanpde.construct import construct
from kanpde.kan import network
from kanpde.kan.basis.bspline import BSpline

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
    dim_in: int,
    dim_out: int = 1,
    *,
    generator: torch.Generator,
    widths: Widths = (32, 32, 32),
    grid_size: PositiveInt = 5,
    spline_order: PositiveInt = 3,
    grid_range: Interval | list[Interval] = (-1.0, 1.0),
    hidden_range: Interval = (-1.0, 1.0),
    bias: bool = False,
) -> nn.Sequential:
    """Kolmogorov-Arnold network of B-splines with SiLU base: G + k + 1 free weights per edge."""
    basis_for = _bsplines(grid_size, spline_order, grid_range, hidden_range)
    return network.kan((dim_in, *widths, dim_out), basis_for, generator, bias)


def metakan(
    dim_in: int,
    dim_out: int = 1,
    *,
    generator: torch.Generator,
    widths: Widths = (32, 32, 32),
    grid_size: PositiveInt = 5,
    spline_order: PositiveInt = 3,
    grid_range: Interval | list[Interval] = (-1.0, 1.0),
    hidden_range: Interval = (-1.0, 1.0),
    bias: bool = False,
    prompt_dim: PositiveInt = 1,
    meta_hidden: PositiveInt = 128,
    meta_bias: bool = True,
    meta_share: Literal["network", "layer"] | PositiveInt | tuple[int, ...] = "network",
    meta_init: Literal["linear", "official"] = "linear",
) -> nn.Sequential:
    """MetaKAN: the same network, its weights generated from one prompt per edge by meta-learners."""
    basis_for = _bsplines(grid_size, spline_order, grid_range, hidden_range)
    return network.meta_kan(
        (dim_in, *widths, dim_out),
        basis_for,
        generator,
        bias,
        prompt_dim,
        meta_hidden,
        meta_bias,
        meta_share,
        meta_init,
    )


def _bsplines(grid_size, spline_order, grid_range, hidden_range) -> network.BasisFor:
    """The grid of the inputs may fit the data; the one of the hidden layers is fixed."""
    return lambda number, n_in: BSpline(n_in, grid_size, spline_order, hidden_range if number else grid_range)


BACKBONES = {"mlp": mlp, "kan": kan, "metakan": metakan}


def build(
    name: str, dim_in: int, dim_out: int = 1, *, generator: torch.Generator | None = None, **options
) -> nn.Module:
    """Build a backbone, (N, dim_in) -> (N, dim_out), in the default dtype on the CPU (move it with .to).

    Args:
        name: mlp, kan or metakan.
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
