r"""Fewer inputs: scalings and shifts under which a fitted KAN keeps its function, and the data in what they leave free.

.. math:: \sum_i a_i x_i \frac{\partial f}{\partial x_i} = p f \iff f(\lambda^{a} x) = \lambda^p f(x), \qquad
          \frac{\partial f}{\partial x_i} = \pm \frac{\partial f}{\partial x_j} \iff f = F(x_i \pm x_j, \ldots)

The vectors (a, p) are the null space of a matrix of derivatives: what physicists know from units, found from data.
Exponents are rounded, so that the data in the new inputs is as exact as the old.

Source: the symmetries of AI Feynman (Udrescu & Tegmark, Science Advances 6(16), 2020); the Pi theorem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from itertools import product as exponents
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.interpret.fitting import fit
from kanpde.interpret.network import EdgeNetwork
from kanpde.recover.structures import between_units

if TYPE_CHECKING:
    import sympy

NULL = 0.2  # singular value, beside columns of mean square 1, up to which a vector may be a symmetry
SAME = 0.1  # relative difference of two slopes that may be equal
ROUND = 0.12  # distance of an exponent from a round one
ORDERS = 8.0  # natural logarithm of max |y| / min |y| up to which log |y| is fitted
STRAIGHT = 0.1  # deviation from a power, as a share of that of the logarithm of a factor
DENOMINATORS = (1, 2)
HIDDEN = (5,)
LARGEST = 4  # exponent of a symmetry


# ---------------------------------------------------------------------------------------------------------------
# A fitted KAN and its derivatives


@dataclass(frozen=True)
class Fitted:
    """A KAN that takes logarithms of some inputs, and gives y or log |y|.

    Attributes:
        network: of the mapped inputs.
        logarithms: (d,) of which inputs.
        sign: of y, where the network gives log |y|; 0 where it gives y.
        error: of y on the rows held out, as a share of its deviation.
    """

    network: EdgeNetwork
    logarithms: Tensor
    sign: float
    error: float = float("inf")

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """y (N,) at x (N, d)."""
        found = self.network(mapped(x, self.logarithms)).squeeze(1)
        return self.sign * found.exp() if self.sign else found

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x_i df/dx_i (N, d) and f (N,); of f = log |y| they stand beside 1."""
        z = mapped(x, self.logarithms).detach().requires_grad_()
        f = self.network(z).squeeze(1)
        (slope,) = torch.autograd.grad(f.sum(), z)
        scaled = torch.where(self.logarithms, slope, slope * x)
        return scaled.detach(), torch.ones_like(f) if self.sign else f.detach()


def mapped(x: Tensor, logarithms: Tensor) -> Tensor:
    """Logarithms of some columns."""
    return torch.where(logarithms, torch.where(logarithms, x, 1.0).log(), x)


def one_sign(y: Tensor) -> float:
    """1 or -1 where all y have this sign and are of comparable size, else 0."""
    same = (y > 0).all() or (y < 0).all()
    near = same and (y.abs().max() / y.abs().min()).log() < ORDERS
    return y[0].sign().item() if near else 0.0


def fitted(
    x: Tensor,
    y: Tensor,
    held: Tensor,
    generator: torch.Generator,
    *,
    logs: bool = True,
    sign: float | None = None,
    hidden: Sequence[int] = HIDDEN,
    steps: int = 30,
) -> Fitted:
    """A KAN fitted to y (N,) of x (N, d) on the rows not held out.

    Args:
        logs: whether inputs that are positive enter by their logarithm.
        sign: of y, to fit log |y|; 0: fit y; None: log |y| where that is possible.
    """
    sign = one_sign(y) if sign is None else sign
    logarithms = (x > 0).all(0) if logs else torch.zeros(x.shape[1], dtype=torch.bool)
    target = (y.abs().log() if sign else y).unsqueeze(1)
    z = mapped(x, logarithms)
    network = between_units(z, target, hidden, generator)
    fit(network, z[~held], target[~held], steps, damping=0.1)
    model = Fitted(network, logarithms, sign)
    left = (model(x) - y)[held].square().mean().sqrt() / y.std().clamp_min(1e-300)
    return Fitted(network, logarithms, sign, left.item() if left.isfinite() else float("inf"))


# ---------------------------------------------------------------------------------------------------------------
# Reductions


@dataclass(frozen=True)
class Reduction:
    """Data in fewer inputs.

    Attributes:
        x, y: (N, d') and (N,).
        inputs: what the new inputs are, expressions in the old ones.
        factor: what the new y is to be multiplied by, an expression in the old inputs.
    """

    x: Tensor
    y: Tensor
    inputs: tuple[sympy.Expr, ...]
    factor: sympy.Expr


def scalings(x: Tensor, y: Tensor, model: Fitted, symbols: Sequence[sympy.Symbol]) -> Iterator[Reduction]:
    """The data by the scalings of the model: as many of them as there may be at first, then fewer."""
    scaled, f = model.slopes(x)
    columns = torch.cat([scaled, -f.unsqueeze(1)], 1)
    size = columns.square().mean(0).sqrt()
    irrelevant = size[:-1] < 1e-3 * size[:-1].max()
    size = torch.where(torch.cat([irrelevant, irrelevant.new_zeros(1)]), size[:-1].max(), size)
    _, values, vectors = torch.linalg.svd(columns / size, full_matrices=False)
    null = int((values / len(x) ** 0.5 < NULL).sum())
    for k in range(min(null, x.shape[1] - 1), 0, -1):
        found = _round_basis(vectors[-k:] / size, (x > 0).all(0))
        if found is not None:
            yield _scaled(x, y, symbols, *found)


Exponents = list[list[Fraction]]


def _round_basis(vectors: Tensor, positive: Tensor) -> tuple[tuple[int, ...], Exponents] | None:
    """Pivots and the basis (k, d + 1) with a unit matrix there, all of it round: the simplest of all choices."""
    k, d = len(vectors), vectors.shape[1] - 1
    best, found = float("inf"), None
    for pivots in combinations([i for i in range(d) if positive[i]], k):
        square = vectors[:, pivots]
        if torch.linalg.cond(square) > 1e3:
            continue
        basis = torch.linalg.solve(square, vectors)
        nearest = [[_rounded(v) for v in row] for row in basis.tolist()]
        gap = max(
            abs(float(n) - v) / (1 + abs(v))
            for row, near in zip(basis.tolist(), nearest, strict=True)
            for v, n in zip(row, near, strict=True)
        )
        cost = sum(abs(n.numerator) + 3 * (n.denominator - 1) for row in nearest for n in row) + gap
        small = max(abs(n) for row in nearest for n in row) <= LARGEST
        if small and gap <= ROUND and cost < best:
            best, found = cost, (pivots, nearest)
    return found


def _rounded(value: float) -> Fraction:
    """Whole numbers before halves before thirds, unless those are much closer."""
    choices = [Fraction(round(value * q), q) for q in DENOMINATORS]
    return min(choices, key=lambda c: abs(float(c) - value) + 0.06 * (c.denominator - 1))


def _scaled(
    x: Tensor, y: Tensor, symbols: Sequence[sympy.Symbol], pivots: tuple[int, ...], basis: Exponents
) -> Reduction:
    """t_j = x_j prod_P x_P^(-a_Pj) of the inputs that are no pivots, and y prod_P x_P^(-p_P)."""
    import sympy

    def power(of: int, sign: int) -> tuple[Tensor, sympy.Expr]:
        value, expr = torch.ones_like(y), sympy.Integer(1)
        for row, pivot in zip(basis, pivots, strict=True):
            value = value * x[:, pivot] ** (sign * float(row[of]))
            expr = expr * symbols[pivot] ** (sign * sympy.Rational(row[of].numerator, row[of].denominator))
        return value, expr

    new = [(j, *power(j, -1)) for j in range(x.shape[1]) if j not in pivots]
    factor, expr = power(x.shape[1], 1)
    columns = torch.stack([x[:, j] * value for j, value, _ in new], 1)
    return Reduction(columns, y / factor, tuple(symbols[j] * e for j, _, e in new), expr)


def peeled(x: Tensor, y: Tensor, edges: Tensor, symbols: Sequence[sympy.Symbol]) -> Iterator[Reduction]:
    """The data without the powers of inputs that stand out as factors of a product of edges (N, d)."""
    count = x.shape[1]
    powers: dict[int, Fraction] = {}
    for i in [i for i in range(count) if (x[:, i] > 0).all() and (edges[:, i] != 0).all()]:
        z, g = x[:, i].log(), edges[:, i].abs().log()
        z, g = z - z.mean(), g - g.mean()
        slope = ((z @ g) / (z @ z)).item()
        straight = (g - slope * z).std() < STRAIGHT * g.std()
        if straight and abs(_rounded(slope)) > 0 and abs(float(_rounded(slope)) - slope) < ROUND:
            powers[i] = _rounded(slope)
    if 0 < len(powers) < count:
        basis = [[Fraction(int(i == j)) for j in range(count)] + [p] for i, p in powers.items()]
        yield _scaled(x, y, symbols, tuple(powers), basis)


def monomials(x: Tensor, y: Tensor, symbols: Sequence[sympy.Symbol]) -> Iterator[Reduction]:
    """The data with one product of inputs, with exponents 1 and -1, in place of two or more of them."""
    import sympy

    count = x.shape[1]
    for signs in exponents((0, 1, -1), repeat=count):
        taken = [i for i in range(count) if signs[i]]
        if len(taken) < 2 or signs[taken[0]] < 0 or (x[:, taken] == 0).any():
            continue
        left = [i for i in range(count) if not signs[i]]
        product = torch.stack([x[:, i] ** signs[i] for i in taken], 1).prod(1)
        expr = sympy.Mul(*(symbols[i] ** signs[i] for i in taken))
        columns = torch.stack([product, *(x[:, i] for i in left)], 1)
        yield Reduction(columns, y, (expr, *(symbols[i] for i in left)), sympy.Integer(1))


def shifts(x: Tensor, y: Tensor, model: Fitted, symbols: Sequence[sympy.Symbol]) -> Iterator[Reduction]:
    """The data with sums and differences in place of pairs of inputs with the same slope: all such pairs at once."""
    slopes = model.slopes(x)[0] / x
    norms = slopes.square().mean(0).sqrt()
    found = []
    for i, j in combinations(range(x.shape[1]), 2):
        for sign in (1, -1):
            gap = (slopes[:, i] - sign * slopes[:, j]).square().mean().sqrt() / (norms[i] + norms[j]).clamp_min(1e-300)
            found.append((gap.item(), i, j, sign))
    pairs, used = [], set()
    for gap, i, j, sign in sorted(found):
        if gap < SAME and not used & {i, j}:
            pairs.append((i, j, sign))
            used |= {i, j}
    for count in sorted({len(pairs), min(1, len(pairs))} - {0}, reverse=True):
        yield paired(x, y, symbols, [(i, j, SUM if sign > 0 else DIFFERENCE) for i, j, sign in pairs[:count]])


@dataclass(frozen=True)
class Pairing:
    """One input made of two."""

    torch: Callable[[Tensor, Tensor], Tensor]
    sympy: Callable


SUM = Pairing(torch.add, lambda a, b: a + b)
DIFFERENCE = Pairing(torch.sub, lambda a, b: a - b)
PRODUCT = Pairing(torch.mul, lambda a, b: a * b)
QUOTIENT = Pairing(torch.div, lambda a, b: a / b)


def paired(
    x: Tensor, y: Tensor, symbols: Sequence[sympy.Symbol], pairs: Sequence[tuple[int, int, Pairing]], keep: bool = False
) -> Reduction:
    """The data with one input in place of each of the pairs (i, j); `keep`: in place of i alone."""
    import sympy

    gone = {j for _, j, _ in pairs if not keep}
    column = {i: pairing.torch(x[:, i], x[:, j]) for i, j, pairing in pairs}
    expr = {i: pairing.sympy(symbols[i], symbols[j]) for i, j, pairing in pairs}
    left = [i for i in range(x.shape[1]) if i not in gone]
    columns = torch.stack([column.get(i, x[:, i]) for i in left], 1)
    inputs = tuple(expr.get(i, symbols[i]) for i in left)
    return Reduction(columns, y, inputs, sympy.Integer(1))
