r"""A start in closed form: the polynomial p that u = h + m (p + f) has before the network f learns anything.

Rung by rung more coefficients: a constant, an affine function, squares of each coordinate, and products x_i x_j. Those
of a rung make the loss least over a few points, with its weights and the gradient of the residual in any case; without
a factor m, p itself has to meet the conditions that are terms of it. That is a linear least squares problem in each
step of Gauss-Newton, solved by conjugate gradients whose every step is one pass forward and one backward through the
equation, so O(N d) for the first rungs. Nothing is known of the equation but its residual, and nothing of the solution.

Of d (d - 1) / 2 products all are there where they are few; else those pairs for which the gradient of the residual is
correlated with x, found at points of their own: with x_i x_j missing, the i-th component of grad r follows x_j. An
equation that is linear in second derivatives alone does not see them where they are not multiplied by m: the values on
the boundary do.

Where the inputs are sliced, so are a, b, and the gradients of the residuals: inner products are sums over processes,
and there are no x_i x_j, of which any two processes would share some.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.jets.ansatz import Ansatz
from kanpde.jets.nested import gradient_of
from kanpde.jets.quadratic import Quadratic
from kanpde.jets.slices import WHOLE, Slice
from kanpde.operators import Forward
from kanpde.problems.conditions import draws
from kanpde.problems.reading import ALONE
from kanpde.training import memory
from kanpde.training.losses import Points
from kanpde.training.start import Constant

if TYPE_CHECKING:
    from kanpde.training.plan import Plan

Rows = dict[str, list[Tensor]]  # what is to be small, by the name of the term, in blocks of points
RUNGS = ("affine", "additive", "quadratic")
STARTS = (*RUNGS, "ladder")  # what a run may ask for: up to a rung, or the best of all
SLICED = "ab"  # of these the coefficients of inputs
PARTS = {"constant": "c", "affine": "ca", "additive": "cab", "quadratic": "cabv"}  # what is solved for
POINTS = range(4, 2001)  # of a rung, and as many as hold at most
NUMBERS = 2**21  # coordinates
HELD = 60  # float64 numbers that are alive at once for each of them
FEWEST = 16  # points of the first rungs if there are so many, or else an eighth of them
BLOCK = 2**15  # coordinates of a block of points, whose temporaries stay in the cache
SCREENED_UP_TO = 200_000  # inputs: all pairs are looked at, which takes d^2
SCREENED = range(32, 513)  # points at which they are, and as many as hold at most
SCREENED_NUMBERS = 2**24
ALL_UP_TO = 500  # inputs with which all pairs may be taken, at points of which there are so many for each input:
PER_INPUT = 4
PER_PAIR = 2  # points of conditions for each pair, if there are so many
EXPLAINED = 0.1  # of what squares leave; where the pairs found leave more, all are tried
ROUNDS = 3  # of looking for pairs: those found first make the others stand out
FEW = 0.02  # of the pairs that are there, as many more are not worth another round
FALSE_PAIRS = 1.0  # expected among those that are found if the correlations of all others were normal
TILE = 512, 4096  # rows and columns of a matrix of correlations at a time, which stay in the cache
NEWTON = 12  # steps at most
HALVINGS = 6
FALL = 0.99  # of the residual in a step after which another one is worth it
NOTHING = 1e-10  # of the residual: the polynomial is the solution
CG = 60  # steps at most
CG_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Rung:
    """One rung: its name, what it assumed, its coefficients, and the root of the loss that it left."""

    name: str
    says: str
    state: dict[str, Tensor]
    count: int
    residual: float


def climb(plan: "Plan", generator: torch.Generator, last: str = RUNGS[-1]) -> Iterator[Rung]:
    """The rungs up to the last one, each from the one below it; of a plan the equation, its units, and the law.

    Networks of earlier stages are there from the first on.

    The last one comes again with every round of pairs.
    """
    problem, of = plan.problem, draws(plan.problem, plan.config.points.law)
    p, d = plan.start().double(), problem.domain.dim
    below = Constant(torch.zeros(1, 1)) if plan.former is None else copy.deepcopy(plan.former)
    equation = Equation(plan, Ansatz(problem, below.double(), plan.hard, p))

    def draw(n: int, of_conditions: int) -> Points:
        numbers = {name: n if name == "interior" else of_conditions for name in plan.counts}
        return {name: of[name](m, generator, dtype=torch.float64).double() for name, m in numbers.items()}

    points = points_of(plan)
    at = draw(points, points)

    def rung(name: str, says: str, left: float) -> Rung:
        return Rung(name, says, {key: t.clone() for key, t in p.state_dict().items()}, p.count, left)

    left, first, few = 0.0, None, {name: x[: max(FEWEST, points // 8)] for name, x in at.items()}
    for name, says in (("constant", ""), ("affine", ""), ("additive", "squares")):
        left = solve(p, PARTS[name], equation, few)
        first = left if first is None else first
        yield rung(name, says, left)
        if name == last or left <= NOTHING * first:
            return
    if not 1 < d <= SCREENED_UP_TO or plan.sliced:
        return
    squares, every = left, d * (d - 1) // 2
    screened = _number(SCREENED, SCREENED_NUMBERS, d)
    for _ in range(ROUNDS):
        found = correlated(p, equation, draw(screened, 1)["interior"])
        if len(found) <= FEW * len(p.v):
            break
        p.add(found)
        left = solve(p, PARTS["quadratic"], equation, at)
        yield rung("quadratic", f"{len(p.v):,} of {every:,} pairs, by the correlation of grad r with x", left)
    if d > ALL_UP_TO or left <= EXPLAINED * squares:
        return
    known = set(map(tuple, p.pairs.tolist()))
    p.add(torch.tensor([pair for pair in combinations(range(d), 2) if pair not in known]).reshape(-1, 2))
    at = draw(max(points, PER_INPUT * d), max(points, min(PER_PAIR * every, NUMBERS // d)))
    yield rung("quadratic", f"all {every:,} pairs", solve(p, PARTS["quadratic"], equation, at))


def points_of(plan: "Plan") -> int:
    """Points of a rung and of each condition: as many as fit, `max_memory` included."""
    limit = memory.left(plan)
    numbers = NUMBERS if limit is None else min(NUMBERS, limit // bytes_of(1, plan))
    return _number(POINTS, numbers, plan.problem.domain.dim)


def bytes_of(coordinates: int, plan: "Plan") -> int:
    """What is alive at once of a rung whose points, and those of each condition, have so many coordinates."""
    return 8 * HELD * coordinates * len(plan.counts)


def _number(allowed: range, numbers: int, dim: int) -> int:
    return max(allowed.start, min(allowed.stop - 1, numbers // dim))


@dataclass(frozen=True)
class Equation:
    """The equation of a plan as the ladder sees it: residuals in its scale and in the units of the domain."""

    plan: "Plan"
    u: Ansatz

    def at(self, points: Points) -> Callable[[], Rows]:
        """What gives its residuals (N,) and their gradients (N, d), and the misfits of conditions at their points.

        All in blocks of points, by the names of the terms. What does not depend on u is computed here, once.
        """
        at_once = max(1, BLOCK // self.plan.problem.domain.dim)
        blocks = {name: x.split(at_once) for name, x in points.items()}
        inside = [self._inside(x) for x in blocks.pop("interior")]
        at_points = lambda name, x: self.plan.loss.residuals(self.u, Forward(), {name: x}, generator=None)[name]

        def rows() -> Rows:
            found = [block() for block in inside]
            of_equations = {name: [rows[name] for rows in found] for name in found[0]}
            return of_equations | {name: [at_points(name, x) for x in parts] for name, parts in blocks.items()}

        return rows

    @torch.enable_grad()
    def _inside(self, points: Tensor) -> Callable[[], dict[str, Tensor]]:
        """Of a block of points the residuals and, as gradient, the gradients of all."""
        problem, loss, c = self.u.problem, self.plan.loss, self.plan.loss.factor(self.u.problem)
        x = problem.inputs_of(points)
        weight = problem.importance_weights(x).sqrt() if loss.weighs else x.new_ones(len(x))
        lengths = x.new_ones(1) if loss.frame is None else loss.frame.lengths.to(x)
        at = x.detach().requires_grad_()
        source = torch.as_tensor(problem.source(at) if problem.has_source else 0.0).to(at).expand(len(x))  # or a number
        g, slope_of_g = source.detach(), gradient_of(source, at).detach()

        @torch.enable_grad()
        def rows() -> dict[str, Tensor]:
            jet = Forward()(self.u, at)
            sides = {ALONE: problem.left_side(jet, at)} if problem.has_source else problem.equations(jet, at)
            slopes = [c * weight.unsqueeze(1) * lengths * (gradient_of(t, at) - slope_of_g) for t in sides.values()]
            values = {name: c * weight * (side - g) for name, side in sides.items()}
            return values | {"gradient": torch.cat(slopes, 1)}

        return rows

    def weighed(self, rows: Rows) -> list[Tensor]:
        """What the loss is the sum of squares of."""
        dim = {"gradient": self.plan.problem.domain.dim / self.plan.problem.n_inputs}  # of all processes
        number = lambda name, parts: sum(map(torch.numel, parts)) * dim.get(name, 1)
        weight = lambda name, parts: (self.plan.loss.weight(name) / number(name, parts)) ** 0.5
        return [weight(name, parts) * t for name, parts in rows.items() for t in parts]


# ---------------------------------------------------------------------------------------------------------------
# Least squares


def solve(p: Quadratic, parts: str, equation: Equation, points: Points) -> float:
    """Gauss-Newton steps in some of the coefficients of p; returns the root of the loss at the points.

    A step that makes it larger is halved.
    """
    unknowns = [getattr(p, name).requires_grad_() for name in parts]
    products = Products(equation.plan.problem.input_slice, [name in SLICED for name in parts])
    x = equation.u.problem.inputs_of(points["interior"])
    precondition = _preconditioner(p, parts, p.units(x))
    try:
        rows = equation.at(points)
        y = equation.weighed(rows())
        size = first = products.norm(y)
        for _ in range(NEWTON):
            step = least_squares(y, unknowns, precondition, products)
            before = [t.detach().clone() for t in unknowns]
            for halving in range(HALVINGS):
                with torch.no_grad():
                    for t, at, by in zip(unknowns, before, step, strict=True):
                        t.copy_(at + 0.5**halving * by)
                y = equation.weighed(rows())
                if (new := products.norm(y)) < size:
                    break
            else:
                with torch.no_grad():
                    for t, at in zip(unknowns, before, strict=True):
                        t.copy_(at)
                break
            size, fallen = new, new / size
            if fallen > FALL or size <= NOTHING * first:
                break
        return size
    finally:
        for t in unknowns:
            t.requires_grad_(False)


@dataclass(frozen=True)
class Products:
    """Inner products of lists of tensors, of which some are sliced.

    Attributes:
        sliced: of the unknowns, which; of rows those of gradients are.
    """

    inputs: Slice = WHOLE
    sliced: Sequence[bool] = ()

    def of_unknowns(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        return self._of(a, b, self.sliced)

    def of_rows(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
        return self._of(a, b, [t.ndim == 2 for t in a])

    def norm(self, y: Sequence[Tensor]) -> float:
        """The root of the sum of squares of rows."""
        found = [t.detach() for t in y]
        size = self.of_rows(found, found) ** 0.5
        return size if size == size else float("inf")

    def _of(self, a: Sequence[Tensor], b: Sequence[Tensor], sliced: Sequence[bool]) -> float:
        each = [torch.dot(s.flatten(), t.flatten()) for s, t in zip(a, b, strict=True)]
        if self.inputs is WHOLE or not any(sliced):
            return sum(each).item()
        (own,) = self.inputs.sum(sum(t for t, part in zip(each, sliced, strict=True) if part))
        return (own + sum(t for t, part in zip(each, sliced, strict=True) if not part)).item()


ALL = Products()


def least_squares(
    y: Sequence[Tensor], unknowns: Sequence[Tensor], precondition: Callable, products: Products = ALL
) -> list[Tensor]:
    """The step s in the unknowns that makes |y + J s| least, J = dy/dunknowns, by preconditioned conjugate gradients.

    J^T w is a backward pass, and J v one through the linear map w -> J^T w. Rows and columns of zeros have no graph.
    """
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    step = [torch.zeros_like(t) for t in unknowns]
    y = [t for t in y if t.requires_grad]
    if not y:
        return step
    w = [torch.zeros_like(t).requires_grad_() for t in y]
    linear = torch.autograd.grad(y, unknowns, w, create_graph=True, **options)
    seen = [k for k, t in enumerate(linear) if t.requires_grad]
    back = lambda w: torch.autograd.grad(y, unknowns, w, **options)
    forth = lambda v: torch.autograd.grad([linear[k] for k in seen], w, [v[k] for k in seen], **options)
    left = [-t.detach() for t in y]
    downhill = back(left)
    direction = conditioned = precondition(downhill)
    first = slope = products.of_unknowns(downhill, conditioned)
    for _ in range(CG):
        if slope <= CG_TOLERANCE**2 * first:
            break
        moved = forth(direction)
        length = slope / products.of_rows(moved, moved)
        step = [s + length * v for s, v in zip(step, direction, strict=True)]
        left = [r - length * v for r, v in zip(left, moved, strict=True)]
        downhill = back(left)
        conditioned = precondition(downhill)
        slope, before = products.of_unknowns(downhill, conditioned), slope
        direction = [c + slope / before * v for c, v in zip(conditioned, direction, strict=True)]
    return step


def _preconditioner(p: Quadratic, parts: str, y: Tensor) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    """About the inverse of J^T J, as if grad r were the gradient of p: of a Hessian B it is that of B -> B Y + Y B.

    Y = sum y y^T over the points, of which the diagonal alone is taken where not all pairs are there.
    """
    n, squares = len(y), y.square().sum(0).clamp_min(torch.finfo(y.dtype).tiny)
    i, j = p.pairs.T
    whole = "v" in parts and 2 * len(p.v) == y.shape[1] * (y.shape[1] - 1)
    values, vectors = torch.linalg.eigh(y.mT @ y) if whole else (None, None)

    def of_all_pairs(b: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        inside = vectors.mT @ p.hessian(b, v / 2) @ vectors
        matrix = vectors @ (2 * inside / (values + values.unsqueeze(1)).clamp_min(1e-8 * values[-1])) @ vectors.mT
        return matrix.diagonal(), 2 * matrix[i, j]

    def precondition(gradients: Sequence[Tensor]) -> list[Tensor]:
        of = dict(zip(parts, gradients, strict=True))
        found = {name: of[name] / n for name in "ca" if name in of}
        if whole:
            found["b"], found["v"] = of_all_pairs(of["b"], of["v"])
        elif "b" in of:
            found["b"] = of["b"] / squares
        if "v" in of and not whole:
            found["v"] = of["v"] / (squares[i] + squares[j])
        return [found[name] for name in parts]

    return precondition


# ---------------------------------------------------------------------------------------------------------------
# Pairs


def correlated(p: Quadratic, equation: Equation, x: Tensor) -> Tensor:
    r"""Pairs i < j (K, 2), not yet in p, whose product would make the residual smaller beyond doubt.

    .. math:: z_{ij} = \frac{\sum_n (g_{ni} e_{nj} + g_{nj} e_{ni})}
              {\sqrt{(|g_i|^2 |e_j|^2 + |g_j|^2 |e_i|^2) / N}}, \qquad
              g_n = \frac{\nabla r}{|\nabla r|}(x_n), \; e_n = y_n / |y_n|

    has deviation 1 where they have nothing to do with each other; of all pairs `FALSE_PAIRS` would then be above. Of
    directions, so that points far out, where both are large, count no more than others.
    """
    d = x.shape[1]
    block = max(1, NUMBERS // d // 4)
    slopes = (equation.at({"interior": part})()["gradient"] for part in x.split(block))
    slope = torch.cat([t.detach() for parts in slopes for t in parts]).float()
    slope, y = (torch.nn.functional.normalize(t, dim=1) for t in (slope, p.units(x).float()))
    least = _quantile(FALSE_PAIRS / (d * d))
    a, b = slope.square().sum(0), y.square().sum(0)
    left, right = torch.cat([slope, y]), torch.cat([y, slope])
    found = [p.pairs[:0]]
    for i in range(0, d, TILE[0]):
        rows = slice(i, i + TILE[0])
        for j in range(i, d, TILE[1]):
            columns = slice(j, j + TILE[1])
            z = left[:, rows].mT @ right[:, columns]
            bound = torch.addmm(a[rows, None] * b[columns], b[rows, None], a[None, columns]) * (least**2 / len(x))
            pairs = (z.square_() > bound).nonzero() + torch.tensor([i, j])
            if len(pairs := pairs[pairs[:, 0] < pairs[:, 1]]):  # even empty, it would pin the memory of a tile
                found.append(pairs)
    pairs = torch.cat(found)
    number = lambda pairs: pairs[:, 0] * d + pairs[:, 1]
    return pairs[~torch.isin(number(pairs), number(p.pairs))]


def _quantile(share: float) -> float:
    """z above which, or below -z, a normal number is with a probability of `share`."""
    return (2**0.5) * torch.erfinv(torch.tensor(1 - share, dtype=torch.float64)).item()
