r"""Levenberg-Marquardt steps with geodesic acceleration, to the precision of the residuals.

Of |r(theta)|^2, M residuals and P parameters, J = dr/dtheta, a step is

.. math:: \theta \leftarrow \theta + v + a / 2, \qquad
          v = -(J^T J + \mu S)^{-1} J^T r, \qquad a = -(J^T J + \mu S)^{-1} J^T r_{vv}.

v alone is the step of a flat valley; r_vv, the second derivative of r along v, says how the valley bends, and a follows
it. It takes three more evaluations of r, and a reverse pass of one of them. S is diag(J^T J)^s as in
`kanpde.optim.gauss_newton`.

J^T J is not formed: its condition is that of J squared, for a network that fits well beyond double precision. R of
J = Q R is that of its blocks one after another, of several processes that of their R, and v solves the least squares of
[R; mu^(1/2) S^(1/2)], by an orthogonal factor again: 2 M P^2 + 10/3 P^3 products, in some 5 P^2 numbers. Of fewer
residuals than parameters v is a sum of the rows of J S^(-1/2), so that it has M unknowns: some 6 M^2 P products.

A step is taken if it makes |r|^2 smaller, at the points of r: choose M several times P. Then mu falls to a third, if
the loss fell by a tenth of what the linear model says; a refused one is tried again with mu times 2, 4, 8 and so on.
A step without one that is taken leaves mu where it has come to. Where the model then says a fall within the rounding of
|r|^2 it has converged: as long as r stays the same its steps do nothing.

Sources: Marquardt 1963; Moré 1978, Lecture Notes in Mathematics 630, 105-116; the acceleration: Transtrum, Sethna 2012
(arXiv 1201.5885).
"""

from collections.abc import Iterable, Sequence
from math import sqrt

import torch
from torch import Tensor

from kanpde.ground.world import ALONE, World
from kanpde.optim.second_order import SecondOrder, System, assign, roots

LEAST, MOST = 1e-30, 1e15  # of the damping, whose root is beside J itself
FALL = 1 / 3  # of the damping after a step that was as good as said
GAIN = 0.1  # of the fall that the linear model says: from there on a step is as good as said
ALONG = 0.1  # of v, between the three points of a second derivative


class LevenbergMarquardt(SecondOrder):
    """Levenberg-Marquardt steps with geodesic acceleration; see the module for the formula.

    Args:
        params: tensors, one group.
        damping: mu of the first step, of residuals whose squares add up to the loss; then as it has become.
        acceleration: the largest 2 |a| / |v| of which a is taken, in the norm of S; a larger one says that the series
            in which it is the second term does not hold. 0: v alone.
        scaling: s.
        tries: trials of a step at most; after them the parameters stay.
    Raises:
        ValueError: an option out of its range.

    Example:
        >>> theta = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> class Rosenbrock:
        ...     def residual(self):
        ...         return torch.stack([1 - theta[0], 10 * (theta[1] - theta[0] ** 2)])
        ...     def blocks(self):
        ...         j = torch.tensor([[-1, 0], [-20 * theta[0].item(), 10]], dtype=torch.float64)
        ...         return [(self.residual().detach(), j)]
        >>> optimizer = LevenbergMarquardt([theta])
        >>> losses = [optimizer.step(Rosenbrock()) for _ in range(20)]
        >>> losses[-1] < 1e-25
        True
    """

    called = "Levenberg-Marquardt"

    def __init__(
        self,
        params,
        damping: float = 1e-3,
        acceleration: float = 1.0,
        scaling: float = 0.5,
        tries: int = 6,
    ):
        if not damping > 0 or not acceleration >= 0 or not 0 <= scaling <= 1 or tries < 1:
            raise ValueError("needed are damping > 0, acceleration >= 0, 0 <= scaling <= 1 and tries >= 1")
        super().__init__(params, damping)
        self.param_groups[0].update(least=None)  # the loss that no step makes smaller
        self.acceleration, self.scaling, self.tries = acceleration, scaling, tries

    def step(self, system: System, probe=None) -> float:
        """One step; returns |r|^2 after it, which is never larger than before.

        Args:
            system: residuals whose squares add up to the loss.
            probe: not read.
        Raises:
            FloatingPointError: the residuals or their Jacobian are not finite.
        """
        group = self.param_groups[0]
        if self.converged and squares(system.residual(), getattr(system, "world", ALONE)) == group["least"]:
            self.count(False)
            return group["least"]
        at, group["least"] = _Here(system, group["params"], self.scaling), None
        found, mu, up = at.loss, group["damping"], 2.0
        for _ in range(self.tries):
            v, says = at.solution(mu)
            if says <= 4 * torch.finfo(at.start.dtype).eps * at.loss:
                group["least"], mu = at.loss, group["damping"]
                break
            loss = at.loss_of(v + self._bend(at, v))
            if loss < at.loss:
                found, mu = loss, mu * FALL if at.loss - loss > GAIN * says else mu
                break
            mu, up = mu * up, 2 * up
        if not found < at.loss:
            at.move(torch.zeros_like(at.start))
        group["damping"] = min(max(mu, LEAST), MOST)
        self.count(found < at.loss)
        return found

    @property
    def converged(self) -> bool:
        return self.param_groups[0].get("least") is not None  # a checkpoint of before has none

    def _bend(self, at: "_Here", v: Tensor) -> Tensor:
        """a / 2, or nothing where it is too long for the second term of a series."""
        if not self.acceleration:
            return torch.zeros_like(v)
        a = at.acceleration(v)
        short = 2 * torch.linalg.vector_norm(a) <= self.acceleration * torch.linalg.vector_norm(v)
        return a / 2 if short else torch.zeros_like(v)


class _Here:
    """r and R at the parameters as they are; steps are in the coordinates S^(1/2) theta."""

    def __init__(self, system: System, parameters: Sequence[Tensor], scaling: float):
        self.system, self.parameters = system, parameters
        self.world = getattr(system, "world", ALONE)
        self.start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
        self.loss = squares(system.residual(), self.world)
        triangle = _triangle(system.blocks(), self.world)
        if not triangle.isfinite().all():
            raise FloatingPointError("the Jacobian of the residuals is not finite")
        self.upper, self.q = triangle[:, :-1], triangle[:, -1:]
        self.roots = roots(torch.linalg.vector_norm(self.upper, dim=0), scaling)
        self.upper = self.upper / self.roots
        self.basis = None  # of the space of v, the rows of J, where that is smaller
        if len(self.upper) < len(self.start):
            self.basis, lower = torch.linalg.qr(self.upper.mT)
            self.upper = lower.mT
        self.factor = self.upper

    def solution(self, mu: float) -> tuple[Tensor, float]:
        """v, and by how much the loss of the linear model falls; what follows is with this mu."""
        size = self.upper.shape[1]
        below = torch.eye(size, size + 1, dtype=self.upper.dtype, device=self.upper.device) * sqrt(mu)
        both = _r(torch.cat([torch.cat([self.upper, self.q], 1), below]))
        self.factor = both[:size, :size]
        v = -torch.linalg.solve_triangular(self.factor, both[:size, size:], upper=True)
        after = self.upper @ v + self.q
        return self._whole(v), float(self.q.square().sum() - after.square().sum())

    def acceleration(self, v: Tensor) -> Tensor:
        """a of v."""
        ahead, behind = (self._residual(sign * ALONG * v) for sign in (1, -1))
        self.move(torch.zeros_like(v))
        here = self.system.residual()
        bend = (ahead - 2 * here.detach() + behind) / ALONG**2
        pulled = torch.autograd.grad(here, self.parameters, bend, allow_unused=True, materialize_grads=True)
        (right,) = self.world.sum([torch.cat([g.reshape(-1) for g in pulled]).double() / self.roots])
        right = right.unsqueeze(1) if self.basis is None else self.basis.mT @ right.unsqueeze(1)
        return self._whole(-torch.cholesky_solve(right, self.factor, upper=True))

    def _whole(self, v: Tensor) -> Tensor:
        """The coordinates (P,) of what has those of the basis."""
        return (v if self.basis is None else self.basis @ v).squeeze(1)

    def loss_of(self, step: Tensor) -> float:
        """|r|^2 after the step, which is made."""
        return squares(self._residual(step), self.world)

    def move(self, step: Tensor) -> None:
        assign(self.parameters, (self.start + step / self.roots).to(self.start.dtype))

    def _residual(self, step: Tensor) -> Tensor:
        self.move(step)
        return self.system.residual().detach()


def squares(r: Tensor, world: World) -> float:
    """|r|^2 of the rows of all processes."""
    return float(world.sum([r.detach().double().square().sum()])[0])


def _triangle(blocks: Iterable[tuple[Tensor, Tensor]], world: World) -> Tensor:
    """R (at most P + 1, P + 1) of [J r], as if of all rows of all processes at once."""
    held: list[Tensor] = []
    rows = 0
    for r, j in blocks:
        held.append(torch.cat([j.double(), r.double().unsqueeze(1)], 1))
        rows += len(r)
        if rows > 4 * held[0].shape[1]:  # four rows for each column: the triangle of before costs a fourth
            held, rows = [_r(torch.cat(held))], 0
    return _r(world.gather(_r(torch.cat(held)))) if not world.alone else _r(torch.cat(held))


def _r(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix, mode="r")[1]
