r"""Inputs that make a network periodic along some of its axes, or flat at ends of them, whatever its weights are.

Of a periodic axis the network sees cosines and sines, of one at whose ends its slope is to be zero two polynomials with
this slope: with s in (0, 1), flat at 0, of s^2 and s^3; with t in (-1, 1), flat at both ends, the integrals of 1 - t^2
and of t (1 - t^2):

.. math:: 1 - 2 s^2, \ \tfrac{27}{4} (s^2 - s^3) - \tfrac12; \qquad \tfrac12 (3 t - t^3), \ 2 t^2 - t^4 - \tfrac12

Nothing is lost: a smooth function of x_i that is flat there is a smooth function of both, by Whitney and Malgrange, as
s^2 g(s) = s^2 g_1(s^2) + s^3 g_2(s^2). In the first alone it is smooth where its even extension is: s^3 is a power 3/2
of s^2, and polynomials in that converge like a power of their degree where those in both converge exponentially.

Source: Whitney 1943, Duke Math. J. 10, 159-160, on even functions; Malgrange 1966, Ideals of differentiable functions.
"""

from collections.abc import Collection, Mapping, Sequence
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


class Polynomials(nn.Module):
    """y_k = sum_j c_kj x_k^j, a polynomial of each feature.

    Args:
        coefficients: (n, powers).
    """

    def __init__(self, coefficients: Tensor):
        super().__init__()
        self.register_buffer("coefficients", coefficients)

    def forward(self, x: Tensor) -> Tensor:
        return _values(self.coefficients, x)


def _values(c: Tensor, x: Tensor) -> Tensor:
    """sum_j c_kj x_k^j by Horner's rule; of no powers zero."""
    found = torch.zeros_like(x)
    for column in reversed(c.unbind(1)):
        found = torch.addcmul(column, found, x)
    return found


@smooth(Polynomials)
def _polynomials(module: Polynomials, y: Tensor, last: int) -> list[Tensor]:
    found, c = [], module.coefficients
    for _ in range(last + 1):
        found.append(_values(c, y))
        c = c[:, 1:] * torch.arange(1, c.shape[1], dtype=c.dtype, device=c.device)
    return found


ITSELF = (0.0, 1.0, 0.0, 0.0, 0.0)
AT_ONE_END = (1.0, 0.0, -2.0, 0.0, 0.0), (-0.5, 0.0, 6.75, -6.75, 0.0)
AT_BOTH_ENDS = (0.0, 1.5, 0.0, -0.5, 0.0), (-0.5, 0.0, 2.0, 0.0, -1.0)


def harmonics(
    ranges: Sequence[tuple[float, float]],
    periodic: Mapping[int, int],
    grids: Sequence,
    flat: Mapping[int, Collection[int]] | None = None,
) -> tuple[nn.Sequential, list[tuple[float, float]]]:
    r"""The inputs of a network of period b_i - a_i along the axes `periodic`, {axis: K}; and the ranges of their grids.

    .. math:: x_i \mapsto \cos \tfrac{2 \pi k (x_i - a_i)}{b_i - a_i}, \ \sin \tfrac{2 \pi k (x_i - a_i)}{b_i - a_i}
              \quad (k = 1 \ldots K)

    Args:
        ranges: (a, b) of each axis.
        grids: the range of the grid of each axis, or one for all.
        flat: of axes the ends, 0 and 1, at which the network is to be flat; see the module.
    """
    columns, shifts, chosen, curves, limits = [], [], [], [], []
    each = grids if isinstance(grids[0], Sequence) else [grids] * len(ranges)
    for axis, (low, high) in enumerate(ranges):
        rates = [2 * pi * k / (high - low) for k in range(1, periodic.get(axis, 0) + 1)]
        maps = [(rate, shift - rate * low) for rate in rates for shift in (pi / 2, 0.0)]
        polynomials = [ITSELF] * len(maps)
        if ends := (flat or {}).get(axis):
            maps, polynomials = _flat_at(ends, low, high)
        unit = torch.eye(len(ranges), dtype=torch.float64)[axis]
        columns += [rate * unit for rate, _ in maps or [(1.0, 0.0)]]
        shifts += [shift for _, shift in maps or [(1.0, 0.0)]]
        chosen += [bool(rates)] * max(1, len(maps))
        curves += polynomials or [ITSELF]
        limits += [(-1.0, 1.0)] * len(maps) if maps else [tuple(each[axis])]
    layers: list[nn.Module] = [Expand(torch.stack(columns, 1), torch.tensor(shifts, dtype=torch.float64))]
    layers += [SineOfSome(torch.tensor(chosen))] if any(chosen) else []
    layers += [Polynomials(torch.tensor(curves, dtype=torch.float64))] if flat else []
    return nn.Sequential(*layers), limits  # a run casts it like the rest


def _flat_at(ends: Collection[int], low: float, high: float) -> tuple[list[tuple[float, float]], list]:
    """Rate and shift of the map to s or t, and the polynomials, twice each."""
    width = high - low
    if len(ends) == 2:
        return [(2 / width, -(low + high) / width)] * 2, list(AT_BOTH_ENDS)
    (end,) = ends
    return [(-1 / width, high / width) if end else (1 / width, -low / width)] * 2, list(AT_ONE_END)
