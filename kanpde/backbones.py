"""The networks by name."""

from collections.abc import Sequence
from math import sqrt

import torch
from torch import nn

from kanpde import jet
from kanpde.kan import network
from kanpde.kan.basis.bspline import BSpline

ACTIVATIONS = {"tanh": nn.Tanh, "silu": nn.SiLU, "softplus": nn.Softplus, "sigmoid": nn.Sigmoid, "sine": jet.Sine}


def mlp(
    dim_in: int,
    dim_out: int = 1,
    *,
    generator: torch.Generator,
    widths: Sequence[int] = (128, 128, 128),
    activation: str = "tanh",
) -> nn.Sequential:
    """Multilayer perceptron: linear layers (Xavier-normal, biases 0) with a smooth activation between them."""
    dims = (dim_in, *widths, dim_out)
    layers: list[nn.Module] = []
    for n_in, n_out in zip(dims, dims[1:], strict=False):
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
    widths: Sequence[int] = (32, 32, 32),
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range=(-1.0, 1.0),
    hidden_range: tuple[float, float] = (-1.0, 1.0),
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
    widths: Sequence[int] = (32, 32, 32),
    grid_size: int = 5,
    spline_order: int = 3,
    grid_range=(-1.0, 1.0),
    hidden_range: tuple[float, float] = (-1.0, 1.0),
    bias: bool = False,
    prompt_dim: int = 1,
    meta_hidden: int = 128,
    meta_bias: bool = True,
    meta_share="network",
    meta_init: str = "centred",
) -> nn.Sequential:
    """MetaKAN: the same network, its weights generated from one prompt per edge by meta-learners."""
    basis_for = _bsplines(grid_size, spline_order, grid_range, hidden_range)
    return network.meta_kan(
        (dim_in, *widths, dim_out), basis_for, generator, bias, prompt_dim, meta_hidden, meta_bias, meta_share, meta_init
    )


def _bsplines(grid_size, spline_order, grid_range, hidden_range) -> network.BasisFor:
    """The grid of the inputs may fit the data; the one of the hidden layers is fixed."""
    return lambda number, n_in: BSpline(n_in, grid_size, spline_order, hidden_range if number else grid_range)


BACKBONES = {"mlp": mlp, "kan": kan, "metakan": metakan}


def build(name: str, dim_in: int, dim_out: int = 1, *, generator: torch.Generator | None = None, **options) -> nn.Module:
    """Build a backbone, (N, dim_in) -> (N, dim_out), float32 on the CPU (move it with .to)."""
    generator = generator or torch.Generator().manual_seed(0)
    return BACKBONES[name](dim_in, dim_out, generator=generator, **options)
