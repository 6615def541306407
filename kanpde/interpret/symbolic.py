r"""Which function an edge is: for every f of the library the best a f(b x + c) + d, and what it costs.

.. math:: 1 - R^2 = \min_{a, b, c, d} \frac{\sum_n (y_n - a f(b x_n + c) - d)^2}{\sum_n (y_n - \bar y)^2}

For given b and c, a and d follow by linear least squares; b and c are searched on a grid, then polished by Gauss-Newton
steps on the residual from which a and d have been eliminated.

Source: variable projection, Golub and Pereyra 1973, with the Jacobian of Kaufman 1975.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2

import torch
from torch import Tensor

from kanpde.interpret.functions import SEARCHED, Function, function

POINTS = 150  # of the data, evenly spread over its ranks, that a search looks at
STARTS = 5  # places of the grid that are polished
POLISH = 40  # Gauss-Newton steps at most
CONVERGED = 1e-3  # share of the loss that a step must gain, else this place is as good as it gets
EXACT = 1e-27  # share of the variance that is rounding alone
FLOOR = 1e-12  # of 1 - R^2, below which fits are equally good
WHOLE = 1e-15  # of 1 - R^2, from which on a function is the edge
FLAT = 1e-12  # deviation of a constant, as a share of its size


@dataclass(frozen=True)
class Candidate:
    """a f(b x + c) + d for an edge, where f has this name; the smallest `score` is the best, see `score`.

    Example:
        >>> x = torch.linspace(-1, 1, 50)
        >>> best = fit_edge(x, torch.sin(2 * x) + 1)[0]
        >>> best.name, round(abs(best.b), 3), round(best.d, 3)
        ('sin', 2.0, 1.0)
    """

    name: str
    a: float
    b: float
    c: float
    d: float
    r2: float
    complexity: int
    score: float


def score(complexity: int, unexplained: float, simplicity: float = 0.8, floor: float = FLOOR) -> float:
    """simplicity x complexity + (1 - simplicity) x log2(unexplained + floor), with unexplained = 1 - R^2.

    At 0.8 a function that costs 1 more has to leave a sixteenth of the variance.
    Source: the trade-off of pykan's suggest_symbolic.
    """
    return simplicity * complexity + (1 - simplicity) * log2(max(unexplained, 0.0) + floor)


@torch.no_grad()
def fit_edge(x: Tensor, y: Tensor, functions: Sequence[str] = SEARCHED, simplicity: float = 0.8) -> list[Candidate]:
    """The best fit of each function to the edge y(x), sorted by score.

    Arguments b x + c stay where f is smooth: no pole, and no logarithm of a negative number, between any two points.
    After a function that is the edge but for rounding, those that cost more are not tried.

    Args:
        x, y: inputs and values of the edge, (N,).
        functions: names in the library.
        simplicity: how much complexity counts beside R^2, from 0 to 1.
    Raises:
        ConfigError: an unknown function.
    """
    x, y = x.double(), y.double()
    found: list[Candidate] = []
    for f in sorted(map(function, functions), key=lambda f: f.complexity):
        found.append(_fitted(f, x, y, simplicity))
        if 1 - found[-1].r2 <= WHOLE:
            break
    return sorted(found, key=lambda c: (c.score, c.complexity))


def _fitted(f: Function, x: Tensor, y: Tensor, simplicity: float) -> Candidate:
    """The best fit of f with arguments for which it is smooth all over the data."""
    middle, half = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2
    flat = half <= FLAT * middle.abs() or y.std() <= FLAT * y.abs().max()
    if flat or f.name == "0":
        b, c, shape = torch.ones(()), torch.zeros(()), torch.zeros_like(x)
    else:
        ranks = torch.linspace(0, len(x) - 1, min(POINTS, len(x))).round().long()
        chosen = x.argsort()[ranks]
        best = _searched(f, (x[chosen] - middle) / half, y[chosen] - y[chosen].mean())
        b, c = best[0] / half, best[1] - best[0] * middle / half
        shape = f.torch(b * x + c)
    centred, rest = shape - shape.mean(), y - y.mean()
    a = (centred @ rest) / (centred @ centred).clamp_min(1e-300)
    left, total = (rest - a * centred).square().sum(), rest.square().sum()
    unexplained = (left / total).item() if total > 0 else 0.0
    if flat and f.name == "0":
        unexplained = 0.0
    numbers = (t.item() for t in (a, b, c, y.mean() - a * shape.mean()))
    return Candidate(f.name, *numbers, 1 - unexplained, f.complexity, score(f.complexity, unexplained, simplicity))


def _searched(f: Function, t: Tensor, y: Tensor) -> Tensor:
    """(beta, gamma) with the best fit of f(beta t + gamma) to the centred y, for t in [-1, 1]."""
    grid = f.search()
    values = f.torch(grid[:, :1] * t + grid[:, 1:])
    values = values - values.mean(1, keepdim=True)
    explained = (values @ y).square() / values.square().sum(1).clamp_min(1e-300)
    starts = grid[explained.topk(min(STARTS, len(grid))).indices]
    return _polished(f, starts, t, y) if f.free else starts[0]


def _defined(f: Function, at: Tensor) -> Tensor:
    beta, gamma = at.unbind(1)
    return f.defined(gamma - beta.abs(), gamma + beta.abs())


def _polished(f: Function, at: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The best of the places `at` (K, 2) after damped Gauss-Newton steps in the parameters that f has free."""
    free = torch.tensor([float(name in f.free) for name in "bc"], dtype=at.dtype)
    mu = torch.full((len(at), 1, 1), 1e-3, dtype=at.dtype)
    loss, gram, right = _normal_equations(f, at, free, t, y)
    for _ in range(POLISH):
        trial = at + _solved(gram + torch.diag_embed(mu.squeeze(-1) * gram.diagonal(dim1=1, dim2=2) + 1 - free), right)
        after = _normal_equations(f, trial, free, t, y)
        better = _defined(f, trial) & (after[0] < loss)
        idle = torch.where(better, after[0] > (1 - CONVERGED) * loss, mu.flatten() > 1e3)
        pick = lambda new, old, better=better: torch.where(better.view(-1, *[1] * (old.ndim - 1)), new, old)
        at, loss, gram, right = (pick(*pair) for pair in zip((trial, *after), (at, loss, gram, right), strict=True))
        mu = pick(mu / 10, mu * 10)
        if idle.all() or loss.min() <= EXACT * (y @ y):
            break
    return at[loss.argmin()]


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """Of (K, 2, 2) and (K, 2), by Cramer's rule; not finite where the matrix is singular."""
    (p, q), (r, s) = (row.unbind(-1) for row in matrix.unbind(1))
    first, second = right.unbind(1)
    return torch.stack([s * first - q * second, p * second - r * first], 1) / (p * s - q * r).unsqueeze(1)


def _normal_equations(f: Function, at: Tensor, free: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|r|^2 (K,), J^T J (K, 2, 2) and J^T r (K, 2) of r = y - a f(beta t + gamma), a and the mean eliminated."""
    u = at[:, :1] * t + at[:, 1:]
    with torch.enable_grad():
        u.requires_grad_()
        values = f.torch(u)
        (slope,) = torch.autograd.grad(values.sum(), u)
    values = values.detach() - values.detach().mean(1, keepdim=True)
    square = values.square().sum(1, keepdim=True).clamp_min(1e-300)
    a = (values @ y).unsqueeze(1) / square
    j = torch.stack([slope * t, slope], 1) * (a * free).unsqueeze(-1)  # (K, 2, M)
    j = j - j.mean(-1, keepdim=True)
    j = j - (j @ values.unsqueeze(-1)) / square.unsqueeze(-1) * values.unsqueeze(1)
    r = y - a * values
    return r.square().sum(1), j @ j.mT, (j @ r.unsqueeze(-1)).squeeze(-1)
