r"""Levenberg-Marquardt steps with geodesic acceleration, to the precision of the residuals.

Of |r(theta)|^2, M residuals and P parameters, J = dr/dtheta, a step is

.. math:: \theta \leftarrow \theta + v + a / 2, \qquad
          v = -(J^T J + \mu S)^{-1} J^T r, \qquad a = -(J^T J + \mu S)^{-1} J^T r_{vv}.

v alone is the step of a flat valley; r_vv, the second derivative of r along v, says how the valley bends, and a follows
it. It takes two evaluations of r. S is diag(J^T J)^s as in `kanpde.optim.gauss_newton`.

As long as mu has digits beside J^T J, v comes from a Cholesky factor of J^T J + mu S, M P^2 + P^3 / 3 products, and its
rounding is taken out by refinement: what is left of the normal equations is seen by products with J alone. Of a network
that fits well that ends, as the condition of J^T J is that of J squared. From there on R of J = Q R takes the place of
J, and v solves the least squares of [R; mu^(1/2) S^(1/2)], by an orthogonal factor again: 2 M P^2 + 10/3 P^3 products.
Of too many rows to be held, or of several processes, R is that of blocks of them one after another, and of the
processes that of their R. Of fewer residuals than parameters v is a sum of the rows of J S^(-1/2), so that it has M
unknowns: some 6 M^2 P products.

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
from kanpde.optim.linear import add_gram
from kanpde.optim.second_order import SecondOrder, System, assign, roots

LEAST, MOST = 1e-30, 1e15  # of the damping, whose root is beside J itself
FALL = 1 / 3  # of the damping after a step that was as good as said
GAIN = 0.1  # of the fall that the linear model says: from there on a step is as good as said
ALONG = 0.1  # of v, between the three points of a second derivative
NORMAL = 1e-12  # of the largest of the diagonal of J^T J: a smaller mu has no digits beside it
REFINED = 4  # times at most, until a solution changes by no more than
SETTLED = 1e-5  # of itself: the next time it would be the square of that, or nearly
HELD = 2**26  # numbers of J that are held at once, half a GiB, or twice as many rows as columns


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
    """r and J at the parameters as they are; steps are in the coordinates S^(1/2) theta.

    Attributes:
        a, c: whose least squares |a x + c| those of |J x + r| are: J and r, or R and Q^T r with what is left of r.
        j: J of this process, or None where it is not held.
    """

    def __init__(self, system: System, parameters: Sequence[Tensor], scaling: float):
        self.system, self.parameters = system, parameters
        self.world = getattr(system, "world", ALONE)
        self.start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
        self.r = system.residual().detach()
        self.loss = squares(self.r, self.world)
        self.j, self.a, self.c = _read(system.blocks(), self.world)
        if not self.a.isfinite().all():
            raise FloatingPointError("the Jacobian of the residuals is not finite")
        self.roots = roots(torch.linalg.vector_norm(self.a, dim=0), scaling)
        for held in {self.a, self.j} - {None}:
            held /= self.roots
        self.basis = None  # of the space of v, the rows of J, where that is smaller
        if len(self.a) < len(self.start):
            self.basis, lower = torch.linalg.qr(self.a.mT)
            self.a = lower.mT
        self.gram = torch.zeros(self.a.shape[1], self.a.shape[1], dtype=self.a.dtype, device=self.a.device)
        add_gram(self.gram, self.a)
        self.least = NORMAL * float(self.gram.diagonal().max())  # mu of which the normal equations are solved

    def solution(self, mu: float) -> tuple[Tensor, float]:
        """v, and by how much the loss of the linear model falls; what follows is with this mu."""
        self.mu = mu
        v = self._by_normal_equations() if mu > self.least else None
        if v is None:  # as will be of every smaller mu
            self.least = max(self.least, mu)
            v = self._by_orthogonal_factors()
        after = self.a @ v + self.c
        return self._whole(v), float(self.c.square().sum() - after.square().sum())

    def _by_normal_equations(self) -> Tensor | None:
        """v, or None where its rounding cannot be taken out."""
        damped = self.gram.clone()
        damped.diagonal().add_(self.mu)
        self.factor, info = torch.linalg.cholesky_ex(damped, upper=True)
        return None if info else self._solved(-(self.a.mT @ self.c))

    def _by_orthogonal_factors(self) -> Tensor:
        size = self.a.shape[1]
        if len(self.a) > size + 1:
            self.a, self.c = _reduced(self.a, self.c)
        below = torch.eye(size, size + 1, dtype=self.a.dtype, device=self.a.device) * sqrt(self.mu)
        both = _r(torch.cat([torch.cat([self.a, self.c], 1), below]))
        self.factor = both[:size, :size]
        return -torch.linalg.solve_triangular(self.factor, both[:size, size:], upper=True)

    def _solved(self, right: Tensor) -> Tensor | None:
        """(J^T J + mu I)^-1 of a column, in the coordinates of v; None: refinement does not settle."""
        x = torch.cholesky_solve(right, self.factor, upper=True)
        for _ in range(REFINED):
            left = right - self.a.mT @ (self.a @ x) - self.mu * x
            more = torch.cholesky_solve(left, self.factor, upper=True)
            x = x + more
            if torch.linalg.vector_norm(more) <= SETTLED * torch.linalg.vector_norm(x):
                return x
        return None

    def acceleration(self, v: Tensor) -> Tensor:
        """a of v."""
        ahead, behind = (self._residual(sign * ALONG * v) for sign in (1, -1))
        right = -self._pulled((ahead - 2 * self.r + behind) / ALONG**2).unsqueeze(1)
        right = right if self.basis is None else self.basis.mT @ right
        a = self._solved(right)
        return self._whole(torch.cholesky_solve(right, self.factor, upper=True) if a is None else a)

    def _pulled(self, w: Tensor) -> Tensor:
        """S^(-1/2) J^T w, of the rows of all processes."""
        if self.j is not None:
            own = self.j.mT @ w.double()
        else:
            self.move(torch.zeros_like(self.start))
            options = {"allow_unused": True, "materialize_grads": True}
            parts = torch.autograd.grad(self.system.residual(), self.parameters, w, **options)
            own = torch.cat([part.reshape(-1) for part in parts]).double() / self.roots
        return self.world.sum([own])[0]

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


def _read(blocks: Iterable[tuple[Tensor, Tensor]], world: World) -> tuple[Tensor | None, Tensor, Tensor]:
    """J (M, P) of this process where it is held; and a (m, P) and c (m, 1), of all rows of all processes."""
    held: list[tuple[Tensor, Tensor]] = []
    rows, whole = 0, True
    for r, j in blocks:
        held.append((j.double(), r.double().unsqueeze(1)))
        rows += len(r)
        if rows > max(HELD // j.shape[1], 2 * j.shape[1]):
            held, rows, whole = [_reduced(*_stacked(held))], 0, False
    a, c = _stacked(held)
    j = a if whole else None
    if world.alone and whole and len(a) > a.shape[1]:
        return j, a, c
    a, c = _reduced(a, c)
    if not world.alone:
        a, c = _reduced(world.gather(a), world.gather(c))
    return j, a, c


def _stacked(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    a, c = zip(*parts, strict=True)
    return torch.cat(a), torch.cat(c)


def _reduced(a: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """R and Q^T c of a = Q R, and what is left of c in a row below."""
    triangle = _r(torch.cat([a, c], 1))
    return triangle[:, :-1], triangle[:, -1:]


def _r(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix, mode="r")[1]
