"""What a problem is: a domain, the coefficients of its operator, a residual that reads a jet, boundary values."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kanpde.ansatz import Field
from kanpde.jet import Jet


@dataclass(frozen=True)
class Problem:
    """A second-order PDE for a scalar u: residual(jet of u, x) = 0 in a domain.

    A problem of one's own is a frozen dataclass with at least `domain` and `residual`, or instead of the latter
    `left_side` and `source`; the rest has defaults: the operator is the Laplacian, u vanishes on the boundary, there
    is no exact solution.
    """

    dim: int

    reads_grad_sq = False  # whether residual reads u.grad_sq; what is not read is not computed
    terms = ()  # names of the terms that extra_terms gives
    parameters = None  # an nn.Module of unknowns of the PDE itself (inverse problems), trained with the network

    @property
    def domain(self):
        """The domain; its `dim` is the number of inputs of u."""
        raise NotImplementedError(f"{type(self).__name__} states no domain")

    @property
    def title(self) -> str:
        """A line that says what the problem is."""
        return next(iter((type(self).__doc__ or "").strip().splitlines()), "")

    def coordinates(self, points: Tensor) -> Tensor:
        """The inputs (N, d) of u at points, which may carry more: observations, say."""
        return points

    def importance_weights(self, points: Tensor) -> Tensor:
        """The weights (N,) of the squares at points that are not drawn by the law of the mean they stand for."""
        return points.new_ones(len(points))

    def settings(self) -> dict:
        """Options that were left to the problem, for the result file."""
        return {}

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        """The PDE, zero at the solution: (N,) from the jet of u at x (N, dim)."""
        return self.left_side(u, x) - self.source(x)

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        """F(u) of an equation F(u) = g, (N,)."""
        raise NotImplementedError(f"{type(self).__name__} states no residual")

    def source(self, x: Tensor) -> Tensor:
        """g of an equation F(u) = g, (N,)."""
        raise NotImplementedError(f"{type(self).__name__} states no source")

    @property
    def has_source(self) -> bool:
        """Whether the residual is left_side - source."""
        return type(self).residual is Problem.residual

    def coefficients(self, x: Tensor) -> Tensor | None:
        """s in u.lap = sum_i s_i d^2u/dx_i^2: (d,) or (N, d); None: the equation has no second derivatives."""
        return x.new_ones(x.shape[-1])

    def s_grad(self, x: Tensor) -> Tensor | None:
        """The weights of u.grad_sq = sum_i s_i (du/dx_i)^2 where they differ from `coefficients`; None: they do not."""
        return None

    def directions(self, x: Tensor) -> Tensor | None:
        """v_k in u.along[:, k] = v_k . grad u: (m, d) or (N, m, d)."""
        return None

    @property
    def residual_scale(self) -> float:
        """1 / (2 d): Lap u = -2 d f + O(sqrt d) where u = (1 - |x|^2) f, so the scaled residual is of order one."""
        return 1 / (2 * self.dim)

    def exact(self, x: Tensor) -> Tensor:
        """The solution (N,), where it is known."""
        raise NotImplementedError(f"{type(self).__name__} has no exact solution")

    @property
    def has_exact(self) -> bool:
        return type(self).exact is not Problem.exact

    def taylor(self) -> tuple | None:
        """Value, gradient, Hessian diagonal, first off-diagonal at 0 of (u* - h) / m, for the floors; None: unknown."""
        return None

    def untrained(self, x: Tensor) -> Tensor | None:
        """A guess (N,) that needs no training, for the floors; None: there is none."""
        return None

    def boundary_value(self, x: Tensor) -> Tensor:
        """u on the boundary (soft constraint): zero."""
        return x.new_zeros(len(x))

    def initial_value(self, x: Tensor) -> Tensor:
        """u at t = 0 (soft constraint), for domains with time."""
        raise NotImplementedError(f"{type(self).__name__} states no initial value")

    def extra_terms(self, u: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Terms of the loss beside the residual, by the names in `terms`: for instance the misfit to observations."""
        return {}

    def factor(self, x: Tensor) -> Field | None:
        """m of the hard constraint u = h + m f; None: u = f."""
        return self.domain.factor(x)

    def lift(self, x: Tensor) -> Field | None:
        """h of the hard constraint; None: zero."""
        return None


def unit(dim: int, axis: int, x: Tensor) -> Tensor:
    """The unit vector of an axis as a direction field (1, dim)."""
    return torch.eye(1, dim, dtype=x.dtype, device=x.device).roll(axis, 1)
