"""Inputs that make a network periodic along some of its axes: cosines and sines of these coordinates."""

from collections.abc import Mapping, Sequence
from math import pi

import torch
from torch import Tensor, nn

from kanpde.jets import taylor
from kanpde.jets.elementary import sine_derivatives
from kanpde.jets.gram import Part
from kanpde.jets.jet import Jet, rule, smooth
from kanpde.jets.taylor import Taylor


class Expand(nn.Module):
    """x W + b with fixed numbers: (N, d) -> (N, n)."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@rule(Expand, reads=lambda module, wanted: Part.FULL if wanted else Part.NONE, told=True)
def _expand(module: Expand, jet: Jet, wanted: Part) -> Jet:
    w = module.weight
    return Jet(
        value=module(jet.value),
        along=None if jet.along is None else jet.along @ w,
        gram=None if jet.gram is None or not wanted else jet.gram.linear(w, wanted),
        lap=None if jet.lap is None else jet.lap @ w,
    )


@taylor.rule(Expand)
def _expand_taylor(module: Expand, y: Taylor) -> Taylor:
    return y.through(lambda t: t @ module.weight, module(y.value))


class SineOfSome(nn.Module):
    """sin x of the features that are `chosen` (n,) of bool, the others as they are."""

    def __init__(self, chosen: Tensor):
        super().__init__()
        self.register_buffer("chosen", chosen)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(self.chosen, torch.sin(x), x)


@smooth(SineOfSome)
def _sine_of_some(module: SineOfSome, y: Tensor, last: int) -> list[Tensor]:
    plain = [y, torch.ones_like(y), *[torch.zeros_like(y)] * last]
    pairs = zip(sine_derivatives(last, y), plain, strict=False)
    return [torch.where(module.chosen, sine, itself) for sine, itself in pairs]


def harmonics(
    ranges: Sequence[tuple[float, float]], periodic: Mapping[int, int], grids: Sequence
) -> tuple[nn.Sequential, list[tuple[float, float]]]:
    r"""The inputs of a network of period b_i - a_i along the axes `periodic`, {axis: K}; and the ranges of their grids.

    .. math:: x_i \mapsto \cos \tfrac{2 \pi k (x_i - a_i)}{b_i - a_i}, \ \sin \tfrac{2 \pi k (x_i - a_i)}{b_i - a_i}
              \quad (k = 1 \ldots K)

    Args:
        ranges: (a, b) of each axis.
        grids: the range of the grid of each axis, or one for all.
    """
    columns, shifts, chosen, limits = [], [], [], []
    each = grids if isinstance(grids[0], Sequence) else [grids] * len(ranges)
    for axis, (low, high) in enumerate(ranges):
        unit = torch.eye(len(ranges), dtype=torch.float64)[axis]
        waves = [2 * pi * k / (high - low) for k in range(1, periodic.get(axis, 0) + 1)]
        for rate in waves:
            columns += [rate * unit, rate * unit]
            shifts += [pi / 2 - rate * low, -rate * low]
        columns += [] if waves else [unit]
        shifts += [] if waves else [0.0]
        chosen += [True] * 2 * len(waves) if waves else [False]
        limits += [(-1.0, 1.0)] * 2 * len(waves) if waves else [tuple(each[axis])]
    weight, bias = torch.stack(columns, 1), torch.tensor(shifts, dtype=torch.float64)
    return nn.Sequential(Expand(weight, bias), SineOfSome(torch.tensor(chosen))), limits  # a run casts it like the rest
