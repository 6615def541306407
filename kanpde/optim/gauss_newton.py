r"""Gauss-Newton for sums of squares |r(theta)|^2, M residuals and P parameters, J = dr/dtheta.

.. math:: p_\mu = \beta q - (J^T J + \mu S)^{-1} J^T (r + \beta J q)
                = \beta q - S^{-1} J^T (J S^{-1} J^T + \mu I)^{-1} (r + \beta J q)

with the last step q; of the two forms the smaller system is solved. beta = 0 is Levenberg-Marquardt, 0 < beta < 1 is
SPRING, which averages over batches and so does not overfit one. S is diag(J^T J)^s with 1 for its largest entry: with
s = 0 all parameters are damped alike (Levenberg), with s = 1 each by its own curvature (Marquardt), s = 1/2 lies
between. Damping mu and length eta of the step are those of a few candidates around the last for which a loss of the
caller's is smallest: at points that r does not hold, as a rule.

Of several processes each holds rows of r and J. Where all are more than parameters, J^T J and J^T r are summed over the
processes, else each gets the rows of all; with the solver cg each has J^T w and J v of all. They make the same step.

Sources: Levenberg 1944, Marquardt 1963; energy natural gradient in residual space and SPRING: Goldshlager, Abrahamsen,
Lin 2024 (arXiv 2401.10190), Guzman-Cordero et al. 2025 (arXiv 2505.12149).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from kanpde.ground.samplers import stream
from kanpde.ground.world import ALONE, World
from kanpde.optim.linear import CountSketch, add_gram, nystrom, nystrom_cg
from kanpde.optim.second_order import SecondOrder, System, assign, roots

SPREAD = 4.0  # between neighbouring candidates of the damping
LEAST, MOST = 1e-15, 1e15  # of the damping


class Dense:
    """mu -> p_mu from r and J, block by block, J of fewer columns where it is sketched; q holds beta.

    J is held as long as it has no more rows than columns; from then on J^T J and J^T r take its place.
    """

    def __init__(self, blocks: Iterable[tuple[Tensor, Tensor]], q: Tensor | None, scaling: float, world: World = ALONE):
        self.q, held, count = q, [], 0
        for r, j in blocks:
            self.dtype, r, j = j.dtype, r.double(), j.double()
            held.append((r if q is None else r + j @ q.double(), j))
            count += len(r)
            if count > j.shape[1]:
                self._add(held)
        self.wide = int(world.sum([torch.tensor(count)])[0]) <= j.shape[1]
        if self.wide:
            self.right, self.j = (world.gather(torch.cat(parts)) for parts in zip(*held, strict=True))
            self.roots = roots(torch.linalg.vector_norm(self.j, dim=0), scaling)
            self.j /= self.roots
            self.gram = self.j @ self.j.mT
        else:
            self._add(held)
            self.upper, self.right = world.sum([self.upper, self.right])
            self.gram = self.upper.triu() + self.upper.triu(1).mT
            self.roots = roots(self.gram.diagonal().sqrt(), scaling)
            self.gram /= self.roots * self.roots.unsqueeze(1)
            self.right /= self.roots
        if not self.gram.isfinite().all():
            raise FloatingPointError("the Jacobian of the residuals is not finite")

    def _add(self, held: list[tuple[Tensor, Tensor]]) -> None:
        """The products of blocks, which they leave: of J^T J what is right of its diagonal."""
        while held:
            r, j = held.pop()
            if not hasattr(self, "upper"):
                self.upper, self.right = j.new_zeros(j.shape[1], j.shape[1]), j.new_zeros(j.shape[1])
            self.right += j.mT @ r
            add_gram(self.upper, j)

    def step(self, mu: float) -> Tensor:
        factor = _cholesky(self.gram, mu)
        p = torch.cholesky_solve(self.right.unsqueeze(1), factor).squeeze(1)
        p = -(self.j.mT @ p if self.wide else p) / self.roots
        return (p if self.q is None else p + self.q).to(self.dtype)


def _cholesky(gram: Tensor, mu: float) -> Tensor:
    """Of gram + mu I, or of the least power of ten times mu for which it exists."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    while True:
        factor, info = torch.linalg.cholesky_ex(gram + mu * identity)
        if info == 0:
            return factor
        mu = max(10 * mu, torch.finfo(gram.dtype).eps * float(gram.diagonal().max()))


class MatrixFree:
    """mu -> p_mu from J v and J^T w by automatic differentiation, J itself never exists; q holds beta."""

    def __init__(
        self,
        system: System,
        parameters: Sequence[Tensor],
        q: Tensor | None,
        rank: int,
        generator: torch.Generator,
        world: World = ALONE,
    ):
        self.parameters, self.q, self.world = parameters, q, world
        self.r = system.residual().to(parameters[0].dtype)  # that of the products, whose rounding the sketch must know
        self.w = torch.zeros_like(self.r, requires_grad=True)
        self.pulled = self._pull(self.w, create_graph=True)  # J^T w, a function of w
        counts = world.gather(torch.tensor([len(self.r)])).tolist()
        self.mine = slice(sum(counts[: world.rank]), sum(counts[: world.rank + 1]))  # of the rows of all
        right = world.gather(self.r.detach())
        self.right = right if q is None else right + self.forward(q)
        if not self.right.isfinite().all():
            raise FloatingPointError("the residuals are not finite")
        self.product = lambda w: self.forward(self.transposed(w))
        self.preconditioner = nystrom(self.product, self.right, min(rank, len(self.right)), generator)

    def _pull(self, w: Tensor, create_graph: bool = False) -> Tensor:
        options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True, "create_graph": create_graph}
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(self.r, self.parameters, w, **options)])

    def forward(self, v: Tensor) -> Tensor:
        """J v, the derivative of v . J^T w by w."""
        return self.world.gather(torch.autograd.grad(self.pulled, self.w, v, retain_graph=True)[0])

    def transposed(self, w: Tensor) -> Tensor:
        """J^T w."""
        return self.world.sum([self._pull(w[self.mine])])[0]

    def step(self, mu: float) -> Tensor:
        p = -self.transposed(nystrom_cg(self.product, self.right, mu, self.preconditioner))
        return p if self.q is None else p + self.q


class GaussNewton(SecondOrder):
    r"""Damped Gauss-Newton steps, chosen by a loss that the caller evaluates; see the module for the formula.

    Args:
        params: tensors, one group.
        damping: mu of the first step, of residuals whose squares add up to the loss; then the one that was best.
        momentum: beta; 0 is Levenberg-Marquardt, 0.9 to 0.99 is SPRING.
        lengths: the candidates of eta.
        scaling: s, by default 1/2; the solver cg has none. Where the columns are sketched, S is of the sketched J.
        solver: direct, by Cholesky factors in float64; or cg, conjugate gradients preconditioned by Nystroem, which
            never holds J and is for very many residuals.
        rows, columns: count sketches of so many rows (combinations of residuals) and columns (combinations of
            parameters); None: none.
        rank: of the preconditioner.
        seed: of the sketches.
    Raises:
        ValueError: an option out of its range.

    Example:
        >>> optimizer = GaussNewton([torch.zeros(3, requires_grad=True)], damping=1e-2)
        >>> optimizer.param_groups[0]["damping"]
        0.01
    """

    called = "Gauss-Newton"

    def __init__(
        self,
        params,
        damping: float = 1e-3,
        momentum: float = 0.0,
        lengths: tuple[float, ...] = (1.0, 0.3),
        scaling: float | None = None,
        solver: Literal["direct", "cg"] = "direct",
        rows: int | None = None,
        columns: int | None = None,
        rank: int = 32,
        seed: int = 0,
    ):
        if not damping > 0 or not 0 <= momentum < 1 or not lengths or min(lengths) <= 0:
            raise ValueError("needed are damping > 0, 0 <= momentum < 1 and lengths > 0")
        if min(1 if size is None else size for size in (rows, columns, rank)) < 1:
            raise ValueError(f"rows, columns and rank are at least 1, given {rows}, {columns} and {rank}")
        if not 0 <= (scaling or 0) <= 1:
            raise ValueError(f"scaling is between 0 and 1, given {scaling}")
        if solver == "cg" and (rows or columns or scaling):
            raise ValueError("rows, columns and scaling are for J as a matrix, which the solver cg does not hold")
        if momentum and columns:
            raise ValueError("momentum keeps a step that a new sketch of the columns cannot hold: one of the two")
        super().__init__(params, damping)
        self.momentum, self.lengths, self.solver = momentum, lengths, solver
        self.rows, self.columns, self.rank, self.seed = rows, columns, rank, seed
        self.scaling = scaling if scaling is not None else 0.5 if solver == "direct" else 0.0

    def step(self, system: System, probe: Callable[[], float]) -> float:
        """One step; returns the probe's loss after it, which is never larger than before.

        Args:
            system: residuals whose squares add up to the loss.
            probe: the loss at the parameters as they are, the same function during a step.
        """
        group = self.param_groups[0]
        parameters, start = group["params"], torch.nn.utils.parameters_to_vector(group["params"]).detach().clone()
        last = self.state[parameters[0]].get("last")
        q = None if last is None or not self.momentum else self.momentum * last
        generator = torch.Generator(start.device).manual_seed(self.seed + group["steps"])
        p_of, mu = self._linear(system, parameters, q, generator), group["damping"]
        candidates = {candidate: p_of(candidate) for candidate in (mu / SPREAD, mu, mu * SPREAD)}
        best = probe(), None, mu * SPREAD  # where no candidate is better: stay, and damp more
        for candidate, p in candidates.items():
            for eta in self.lengths:
                assign(parameters, start + eta * p)
                loss = probe()
                if loss < best[0]:
                    best = loss, eta * p, candidate
        loss, step, mu = best
        group["damping"] = min(max(mu, LEAST), MOST)
        assign(parameters, start if step is None else start + step)
        self.count(step is not None)
        if self.momentum:
            self.state[parameters[0]]["last"] = torch.zeros_like(start) if step is None else step
        return loss

    def _linear(
        self, system: System, parameters: list[Tensor], q: Tensor | None, generator: torch.Generator
    ) -> Callable[[float], Tensor]:
        """mu -> p_mu."""
        world = getattr(system, "world", ALONE)
        if self.solver == "cg":
            return MatrixFree(system, parameters, q, self.rank, generator, world).step
        if self.columns is None:
            return Dense(self._sketched(system, None, generator, world), q, self.scaling, world).step
        sketch = CountSketch(sum(map(torch.numel, parameters)), self.columns, generator)
        dense = Dense(self._sketched(system, sketch, generator, world), None, self.scaling, world)
        return lambda mu: sketch.transposed(dense.step(mu))

    def _sketched(
        self, system: System, columns: CountSketch | None, generator: torch.Generator, world: World
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """r and J, sketched block by block: the sketch of all rows is the sum of those of the blocks."""
        total = None
        if not world.leads:  # rows of other processes, other signs
            generator = stream(generator.initial_seed(), f"rank {world.rank}", generator.device)
        for r, j in system.blocks():
            j = j if columns is None else columns(j, 1)
            if self.rows is None:
                yield r, j
                continue
            rows = CountSketch(len(r), self.rows, generator)
            block = rows(r, 0), rows(j, 0)
            total = block if total is None else (total[0].add_(block[0]), total[1].add_(block[1]))
        if total is not None:
            yield total
