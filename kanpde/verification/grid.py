"""No paths: a linear system on a grid, where paths would grow."""

from itertools import product

import torch
from torch import Tensor

from kanpde.domains import Box
from kanpde.verification.equation import DefectEquation, NotVerifiable
from kanpde.verification.method import Method, Unfit

INTERVALS = {1: 500, 2: 100, 3: 10}  # of the coarser grid along an axis, by dimension
COARSE = 0.05  # by how much the solutions on both grids may differ, relative to them


class Grid(Method):
    r"""Central differences on a box of up to three dimensions, for any q and drift, where paths would grow.

    The linear equation is solved on grids of n and 2 n intervals an axis; their extrapolation, (4 e_h - e_{2h}) / 3 at
    the coarser one's points, is interpolated. It has no noise, and is refused where the two grids differ by more than
    `COARSE` of their size: then it is not known what e is. Needs scipy.
    """

    says = "differences on a grid"

    def __init__(self, equation: DefectEquation):
        super().__init__(equation)
        if equation.time is not None or not isinstance(equation.domain, Box) or equation.space.dim not in INTERVALS:
            raise Unfit("the domain is no box of up to three dimensions without time")
        if equation.fluxes:
            raise Unfit("a part of the boundary has a condition on the normal derivative")
        n = INTERVALS[equation.space.dim]
        coarse, fine = self._solved(n), self._solved(2 * n)
        every = (slice(None, None, 2),) * equation.space.dim
        if (fine[every] - coarse).norm() > COARSE * fine[every].norm():
            raise NotVerifiable("the defect is not resolved on a grid")
        self.values = (4 * fine[every] - coarse) / 3

    def _solved(self, n: int) -> Tensor:
        """e at the points of a grid of n intervals an axis."""
        try:
            from scipy.sparse import coo_matrix
            from scipy.sparse.linalg import spsolve
        except ImportError:
            raise NotVerifiable("a grid needs scipy (pip install scipy)") from None
        d, box = self.equation.space.dim, self.equation.domain
        axes = [torch.linspace(low, high, n + 1, dtype=torch.float64) for low, high in box.sides]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
        number = torch.arange(len(x)).reshape((n + 1,) * d)
        inner = number[(slice(1, -1),) * d].flatten()
        edge = torch.ones(len(x), dtype=torch.bool)
        edge[inner] = False
        a, b, q, rho = self.equation.rates(x[inner])
        entries = [(inner, inner, q)]
        for axis, (low, high) in enumerate(box.sides):
            h, step = (high - low) / n, (n + 1) ** (d - 1 - axis)
            second, first = a[:, axis] / h**2, b[:, axis] / (2 * h)
            entries += [(inner, inner + step, second + first), (inner, inner - step, second - first)]
            entries.append((inner, inner, -2 * second))
        known = edge.nonzero().squeeze(1)
        entries.append((known, known, torch.ones(len(known), dtype=torch.float64)))
        right = torch.zeros(len(x), dtype=torch.float64)
        right[inner] = rho
        right[known] = self.equation.misfit(x[known], torch.ones(len(known), dtype=torch.bool))
        rows, columns, values = (torch.cat(parts).numpy() for parts in zip(*entries, strict=True))
        matrix = coo_matrix((values, (rows, columns)), shape=(len(x), len(x))).tocsc()
        return torch.from_numpy(spsolve(matrix, right.numpy())).reshape((n + 1,) * d)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """e itself, by linear interpolation."""
        found = torch.zeros(len(x), dtype=torch.float64)
        n = torch.tensor([size - 1 for size in self.values.shape])
        low, high = (torch.tensor(side, dtype=torch.float64) for side in zip(*self.equation.domain.sides, strict=True))
        place = (x - low) / (high - low) * n
        cell = place.floor().clamp_min(0).minimum((n - 1).double())
        share = place - cell
        for corner in product((0, 1), repeat=x.shape[1]):
            at = torch.tensor(corner)
            weight = torch.where(at == 1, share, 1 - share).prod(1)
            found += weight * self.values[tuple((cell.long() + at).T)]
        return found
