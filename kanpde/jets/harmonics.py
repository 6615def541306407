r"""Inputs that make a network periodic along some of its axes, flat at ends of them, or show it waves beside them.

Of a periodic axis the network sees cosines and sines, of one at whose ends its slope is to be zero two polynomials with
this slope: with s in (0, 1), flat at 0, of s^2 and s^3; with t in (-1, 1), flat at both ends, the integrals of 1 - t^2
and of t (1 - t^2):

.. math:: 1 - 2 s^2, \ \tfrac{27}{4} (s^2 - s^3) - \tfrac12; \qquad \tfrac12 (3 t - t^3), \ 2 t^2 - t^4 - \tfrac12

Nothing is lost: a smooth function of x_i that is flat there is a smooth function of both, by Whitney and Malgrange, as
s^2 g(s) = s^2 g_1(s^2) + s^3 g_2(s^2). In the first alone it is smooth where its even extension is: s^3 is a power 3/2
of s^2, and polynomials in that converge like a power of their degree where those in both converge exponentially.

Source: Whitney 1943, Duke Math. J. 10, 159-160, on even functions; Malgrange 1966, Ideals of differentiable functions.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import pi
from typing import NamedTuple

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


class Input(NamedTuple):
    """One input of a network: p(y) or p(sin y) with y = rate x_i + shift.

    Attributes:
        sine: whether it is of a sine.
        polynomial: the coefficients of p.
        limits: the range of its grid; None: that of x_i.
    """

    rate: float = 1.0
    shift: float = 0.0
    sine: bool = False
    polynomial: tuple[float, ...] = ITSELF
    limits: tuple[float, float] | None = None


def harmonics(
    ranges: Sequence[tuple[float, float]],
    periodic: Mapping[int, int],
    grids: Sequence,
    flat: Mapping[int, Collection[int]] | None = None,
    beside: Mapping[int, Sequence[tuple[float, float]]] | None = None,
) -> tuple[nn.Sequential, list[tuple[float, float]]]:
    r"""The inputs of a network of period b_i - a_i along the axes `periodic`, {axis: K}; and the ranges of their grids.

    .. math:: x_i \mapsto \cos \tfrac{2 \pi k (x_i - a_i)}{b_i - a_i}, \ \sin \tfrac{2 \pi k (x_i - a_i)}{b_i - a_i}
              \quad (k = 1 \ldots K)

    Args:
        ranges: (a, b) of each axis.
        grids: the range of the grid of each axis, or one for all.
        flat: of axes the ends, 0 and 1, at which the network is to be flat; see the module.
        beside: of axes the pairs (rate, shift) of which it sees cos(rate x_i + shift) and the sine beside x_i.
    """
    flat, beside, inputs, columns = flat or {}, beside or {}, [], []
    each = grids if isinstance(grids[0], Sequence) else [grids] * len(ranges)
    for axis, (low, high) in enumerate(ranges):
        if count := periodic.get(axis):
            rates = [2 * pi * k / (high - low) for k in range(1, count + 1)]
            found = _waves((rate, -rate * low) for rate in rates)
        elif axis in flat:
            found = _flat_at(flat[axis], low, high)
        else:
            found = [Input(), *_waves(beside.get(axis, ()))]
        inputs += [one if one.limits else one._replace(limits=tuple(each[axis])) for one in found]
        columns += [one.rate * torch.eye(len(ranges), dtype=torch.float64)[axis] for one in found]
    of = lambda name, dtype=torch.float64: torch.tensor([getattr(one, name) for one in inputs], dtype=dtype)
    layers: list[nn.Module] = [Expand(torch.stack(columns, 1), of("shift"))]
    layers += [SineOfSome(of("sine", torch.bool))] if any(one.sine for one in inputs) else []
    layers += [Polynomials(of("polynomial"))] if flat else []
    return nn.Sequential(*layers), [one.limits for one in inputs]  # a run casts it like the rest


def _waves(pairs: Iterable[tuple[float, float]]) -> list[Input]:
    """cos(rate x_i + shift), and the sine, of each pair."""
    return [
        Input(rate, shift + quarter, True, limits=(-1.0, 1.0)) for rate, shift in pairs for quarter in (pi / 2, 0.0)
    ]


def _flat_at(ends: Collection[int], low: float, high: float) -> list[Input]:
    """Two polynomials of s or t."""
    width = high - low
    if len(ends) == 2:
        rate, shift, polynomials = 2 / width, -(low + high) / width, AT_BOTH_ENDS
    else:
        rate, shift = (-1 / width, high / width) if 1 in ends else (1 / width, -low / width)
        polynomials = AT_ONE_END
    return [Input(rate, shift, polynomial=p, limits=(-1.0, 1.0)) for p in polynomials]
