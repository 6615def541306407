"""Heat and Hamilton-Jacobi-Bellman equations on the space-time cylinder, with u* = exp(-t) v(x)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kanpde.domains import Ball, Cylinder
from kanpde.jets.ansatz import Field
from kanpde.jets.jet import Jet
from kanpde.problems.base import Problem, unit
from kanpde.problems.elliptic import SolutionName, check_solution
from kanpde.problems.solutions import BallSolution


@dataclass(frozen=True)
class Heat(Problem):
    """u_t - Lap u = g on the unit ball times [0, 1], u = 0 on the boundary, u = v at t = 0.

    Points are (x, t); dim counts the space coordinates. The exact solution exp(-t) v(x) needs
    g = -exp(-t) (v + Lap v).

    Args:
        dim: d, coordinates of space.
        seed, solution: of v, see `kanpde.problems.solutions`.

    Example:
        >>> problem = Heat(3)
        >>> x = torch.tensor([[0.1, 0.2, 0.3, 0.0]])  # at t = 0
        >>> torch.allclose(problem.exact(x), problem.initial_value(x))
        True
    """

    seed: int = 0
    solution: SolutionName = "two_body"

    def __post_init__(self):
        check_solution(self.solution, self.dim, self.seed)

    @cached_property
    def closed_form(self) -> BallSolution:
        return BallSolution(self.solution, self.dim, self.seed)

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Ball(self.dim))

    def coefficients(self, x: Tensor) -> Tensor:
        s = x.new_ones(self.dim + 1)
        s[-1] = 0  # no second derivative in time
        return s

    def directions(self, x: Tensor) -> Tensor:
        return unit(self.dim + 1, -1, x)

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        return u.along[:, 0] - u.lap

    def exact(self, x: Tensor) -> Tensor:
        return (-x[:, -1]).exp() * self.closed_form.value(x[:, :-1])

    def source(self, x: Tensor) -> Tensor:
        """g = u*_t - Lap u*."""
        value, laplacian = self.closed_form.value_and_laplacian(x[:, :-1])
        return -(-x[:, -1]).exp() * (value + laplacian)

    def boundary_value(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))

    def initial_value(self, x: Tensor) -> Tensor:
        return self.closed_form.value(x[:, :-1])

    def lift(self, x: Tensor) -> Field:
        """h(x, t) = v(x), constant in time."""
        value, grad, second = self.closed_form.derivatives(x[:, :-1])
        still = x.new_zeros(len(x), 1)
        return Field(value, torch.cat([grad, still], 1), torch.cat([second, still], 1))


@dataclass(frozen=True)
class HJB(Heat):
    """u_t - Lap u + |grad u|^2 = g, the Hamilton-Jacobi-Bellman equation of a linear-quadratic control problem.

    |grad u|^2 is over space; otherwise as `Heat`.
    Source: Han, Jentzen, E 2018 (arXiv 1707.02568), eq. 10, forward in time, with a source.

    Example:
        >>> HJB(10).n_inputs, HJB(10).axes.name(10)
        (11, 't')
    """

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        return u.along[:, 0] - u.lap + u.grad_sq

    def source(self, x: Tensor) -> Tensor:
        """g = u*_t - Lap u* + |grad u*|^2."""
        gradient_square = self.closed_form.gradient_square(x[:, :-1])
        return super().source(x) + (-2 * x[:, -1]).exp() * gradient_square
