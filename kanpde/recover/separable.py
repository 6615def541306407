r"""Functions of several inputs as sums and products of B-spline edges, solved by least squares, and read as formulas.

.. math:: y = \sum_i \phi_i(x_i), \qquad y = \prod_i g_i(x_i), \qquad y = \sum_k f_k(x_j)\, g_k(x_i)

Each is one layer of KAN edges: the first by one linear solve, the second by one for each edge in turn, the third by one
for each choice of known functions f_k. Edges are then read: the best formulas of the library for their values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, product
from math import pi
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.interpret.functions import SEARCHED, function
from kanpde.interpret.symbolic import Candidate, fit_edge
from kanpde.kan.basis.bspline import BSpline

if TYPE_CHECKING:
    import sympy

INTERVALS, LOG_INTERVALS = 40, 24  # of the grid of an edge at most; of a logarithmic one, whose ends see few rows
WIDE = 8  # max / min of an input from which its edges are functions of its logarithm
RIDGE = 1e-13  # share of the mean square of the features
SWEEPS = 12  # over the edges of a product
READINGS = 3  # candidates of each edge that are combined
PROGRESS = 0.9  # share of the error that a sweep must leave at most to be followed by another
COMPOSED = ("1/y", "y^2", "1/y^2", "sqrt")  # functions of an edge that may be simpler than it
CERTAIN = 1 - 1e-8  # R^2 of a reading that needs no other
COMBINATIONS = 12  # of them that are tried


# ---------------------------------------------------------------------------------------------------------------
# Functions of the observation


@dataclass(frozen=True)
class Outer:
    """A function h of the observation that may be simpler than it; `back` is its inverse on sympy expressions.

    `allowed` says where h is defined and can be undone, from the least and largest observation.
    """

    name: str
    torch: Callable[[Tensor], Tensor]
    back: Callable
    allowed: Callable[[float, float], bool]


OUTER = (
    Outer("y", lambda y: y, lambda sp, e: e, lambda low, high: True),
    Outer("log", torch.log, lambda sp, e: sp.exp(e), lambda low, high: low > 0),
    Outer("1/y", lambda y: 1 / y, lambda sp, e: 1 / e, lambda low, high: low > 0 or high < 0),
    Outer("y^2", lambda y: y * y, lambda sp, e: sp.sqrt(e), lambda low, high: low >= 0),
    Outer("1/y^2", lambda y: y**-2, lambda sp, e: 1 / sp.sqrt(e), lambda low, high: low > 0),
    Outer("sqrt", torch.sqrt, lambda sp, e: e**2, lambda low, high: low > 0),
    Outer("1/sqrt", torch.rsqrt, lambda sp, e: e**-2, lambda low, high: low > 0),
    Outer("sin", torch.sin, lambda sp, e: sp.asin(e), lambda low, high: -pi / 2 <= low and high <= pi / 2),
)


def outer_functions(y: Tensor) -> list[Outer]:
    """Those that are defined on all of y."""
    low, high = y.min().item(), y.max().item()
    return [h for h in OUTER if h.allowed(low, high)]


# ---------------------------------------------------------------------------------------------------------------
# Spline models


class Splines:
    """The features (N, d, size) of spline edges on x (N, d); grids are logarithmic where x is wide, if `logs`."""

    def __init__(self, x: Tensor, held: Tensor, logs: bool = True):
        wide = wide_inputs(x) & logs
        x = torch.where(wide, torch.where(wide, x, 1.0).log(), x)
        low, high = x.amin(0), x.amax(0)
        scale = 2 / torch.where(high > low, high - low, 1.0)
        basis = BSpline(x.shape[1], min(LOG_INTERVALS if logs else INTERVALS, 6 + 100 // x.shape[1]), base="none").to(
            x.dtype
        )
        self.features, self.held = basis.features((x - low) * scale - 1, 0)[0].detach(), held

    def solve(self, columns: Tensor, y: Tensor) -> Tensor:
        """Coefficients (P, K) of columns (N, P) for y (N, K) or (N,), by least squares on the rows not held out."""
        a, b = columns[~self.held], y[~self.held].reshape(-1, y[0].numel())
        gram = a.mT @ a
        gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp_min(1e-300))
        return torch.linalg.lstsq(gram, a.mT @ b).solution

    def error(self, found: Tensor, y: Tensor) -> float:
        """|found - y| on the rows held out as a share of the deviation of y."""
        left = (found - y)[self.held].square().mean().sqrt() / y.std().clamp_min(1e-300)
        return left.item() if left.isfinite() else float("inf")

    def additive(self, ys: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        """For each y (N,) the values (N, d) of edges whose sum is closest to it, and the error of the sum."""
        theta = self.solve(self.features.flatten(1), torch.stack(list(ys), 1))
        edges = torch.einsum("ndc,dck->knd", self.features, theta.unflatten(0, self.features.shape[1:]))
        return [(e, self.error(e.sum(1), y)) for e, y in zip(edges, ys, strict=True)]

    def product(self, y: Tensor) -> tuple[Tensor, float]:
        """Values (N, d) of edges whose product is closest to y, by solving for each edge in turn."""
        edges, before = torch.ones_like(self.features[..., 0]), float("inf")
        for _ in range(SWEEPS):
            for i, features in enumerate(self.features.unbind(1)):
                others = torch.cat([edges[:, :i], edges[:, i + 1 :]], 1).prod(1)
                edge = (features @ self.solve(features * others.unsqueeze(1), y)).squeeze(1)
                last = i == edges.shape[1] - 1
                edges[:, i] = edge if last else edge / edge.square().mean().sqrt().clamp_min(1e-300)
            error = self.error(edges.prod(1), y)
            if not error < PROGRESS * before:
                break
            before = error
        return edges, error

    def varying(self, known: Sequence[Tensor], i: int, ys: Sequence[Tensor]) -> list[tuple[Tensor, float]]:
        """For each y (N,) the values (N, K) of edges g_k(x_i) with sum_k known_k g_k closest to it, and the error."""
        features, weights = self.features[:, i], torch.stack(list(known), 1)
        theta = self.solve((features.unsqueeze(1) * weights.unsqueeze(2)).flatten(1), torch.stack(list(ys), 1))
        edges = torch.einsum("nc,kch->hnk", features, theta.unflatten(0, (len(known), -1)))
        return [(e, self.error((e * weights).sum(1), y)) for e, y in zip(edges, ys, strict=True)]


def wide_inputs(x: Tensor) -> Tensor:
    """(d,) of which inputs (N, d) the logarithm may be the better scale."""
    return (x > 0).all(0) & (x.amax(0) > WIDE * x.amin(0))


# ---------------------------------------------------------------------------------------------------------------
# Reading


@dataclass(frozen=True)
class Reading:
    """What an edge may be: sign x h^-1(a f(b u + c) + d)."""

    candidate: Candidate
    outer: Outer
    sign: int = 1

    def expr(self, u: sympy.Expr) -> sympy.Expr:
        import sympy

        return self.sign * self.outer.back(sympy, term(self.candidate, u))


def edge_readings(t: Tensor, values: Tensor) -> list[Reading]:
    """The best few of an edge's values (N,) at t (N,); functions of a library function only where none is good."""
    plain = [Reading(c, OUTER[0]) for c in fit_edge(t, values, SEARCHED)[:READINGS]]
    if plain[0].candidate.r2 > CERTAIN:
        return plain
    sign = -1 if (values < 0).all() else 1
    found = [
        Reading(fit_edge(t, h.torch(sign * values), SEARCHED)[0], h, sign)
        for h in outer_functions(sign * values)
        if h.name in COMPOSED
    ]
    return sorted([*plain, *found], key=lambda r: r.candidate.score)[:READINGS]


def readings(x: Tensor, edges: Tensor) -> Iterator[tuple[Reading, ...]]:
    """Combinations of readings of the edges (N, n) at inputs (N, n), those with the best ranks first."""
    found = [edge_readings(*pair) for pair in zip(x.unbind(1), edges.unbind(1), strict=True)]
    ranks = sorted(product(*(range(len(r)) for r in found)), key=sum) if len(found) <= 6 else [(0,) * len(found)]
    for rank in islice(ranks, COMBINATIONS):
        yield tuple(r[number] for r, number in zip(found, rank, strict=True))


def term(c: Candidate, u: sympy.Expr) -> sympy.Expr:
    """a f(b u + c) + d with floats for what f has free, and b = 1 or -1 where a rescaled f is an f."""
    import sympy

    f = function(c.name)
    if f.name == "0":
        return sympy.Float(c.d)
    b, shift, a, d = sympy.Float(c.b), sympy.Float(c.c), c.a, c.d
    if "b" not in f.free:  # f(|b| v) = k f(v) + m, so b may be 1 or -1
        size = abs(c.b)
        at = lambda v: f.torch(torch.tensor(v, dtype=torch.float64)).item()
        k = (at(2 * size) - at(size)) / (at(2.0) - at(1.0))
        a, d = a * k, d + a * (at(size) - k * at(1.0))
        b, shift = sympy.Integer(1 if c.b > 0 else -1), sympy.Float(c.c / size)
    if "c" not in f.free:
        shift = sympy.Integer(0)
    return sympy.Float(a) * f.sympy(sympy, b * u + shift) + sympy.Float(d)


def sum_of(found: Sequence[Reading], inputs: Sequence[sympy.Expr]) -> sympy.Expr:
    """The sum of the edges."""
    import sympy

    return sympy.Add(*(r.expr(u) for r, u in zip(found, inputs, strict=True)))


def product_of(found: Sequence[Reading], inputs: Sequence[sympy.Expr]) -> sympy.Expr:
    """The product of the edges, with one constant in front of all that are plain: these are f(b u + c) + d / a."""
    import sympy

    size, factors = 1.0, []
    for r, u in zip(found, inputs, strict=True):
        c = r.candidate
        if r.outer is not OUTER[0] or c.name == "0":
            factors.append(r.expr(u))
        else:
            size *= c.a * r.sign
            factors.append(term(replace(c, a=1.0, d=c.d / c.a), u))
    return sympy.Float(size) * sympy.Mul(*factors)


# ---------------------------------------------------------------------------------------------------------------
# Known functions of one input

KNOWN = {
    "1": (torch.ones_like, lambda sp, u: sp.Integer(1)),
    "x": (lambda x: x, lambda sp, u: u),
    "x^2": (lambda x: x * x, lambda sp, u: u**2),
    "1/x": (lambda x: 1 / x, lambda sp, u: 1 / u),
    "1/x^2": (lambda x: x**-2, lambda sp, u: u**-2),
    "sqrt": (torch.sqrt, lambda sp, u: sp.sqrt(u)),
    "log": (torch.log, lambda sp, u: sp.log(u)),
    "exp": (torch.exp, lambda sp, u: sp.exp(u)),
    "sin": (torch.sin, lambda sp, u: sp.sin(u)),
    "cos": (torch.cos, lambda sp, u: sp.cos(u)),
}


def known_sets(x: Tensor) -> Iterator[tuple[str, ...]]:
    """Pairs of known functions that are finite on x (N,), then threes with the constant 1."""
    finite = [name for name, (f, _) in KNOWN.items() if f(x).isfinite().all()]
    yield from combinations(finite, 2)
    yield from (("1", *pair) for pair in combinations(finite[1:], 2))
