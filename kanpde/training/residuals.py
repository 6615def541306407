"""The residuals of all terms as a system, and their Jacobian by the weights: what Gauss-Newton reads."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from kanpde.ground.errors import ConfigError
from kanpde.kan.kernels.jacobian import NotCovered, covers, jacobian, weights_of
from kanpde.operators import Operator
from kanpde.training.losses import Points

if TYPE_CHECKING:
    from kanpde.training.objective import Objective

BLOCK = 128  # points at least whose Jacobian exists at a time
LOOKED_AT = 2  # points at which the one is compared with the other before it is used
BLOCK_NUMBERS = 2**21  # of the Jacobian of these points, where the parameters are few


class Residuals:
    """r (M,), all residuals of all terms with the roots of their weights, so that |r|^2 is the loss; and J = dr/dtheta.

    A term of the problem's own is one residual, the root of it. J comes in blocks of points, each from one reverse pass
    through the jets of all of them (`kanpde.kan.kernels.jacobian`), or where that has no formula from a vectorised one
    through the jet of single points. In a world of several processes each has the rows of its points, of which |r|^2
    adds up to the loss, and of a term without points an equal part.

    Args:
        emphasis: the weights (N,) of the interior points; None: all the same.
    """

    def __init__(
        self,
        objective: "Objective",
        points: Points,
        probes: torch.Generator,
        parameters: Sequence[Tensor],
        emphasis: Tensor | None = None,
    ):
        self.objective, self.points, self.probes, self.world = objective, points, probes, objective.world
        self.parameters = parameters
        self.roots = {} if emphasis is None else {"interior": emphasis.sqrt()}
        self.leaves = {str(i): p.detach() for i, p in enumerate(parameters)}
        self.names = self._names()

    def _names(self) -> dict[str, str]:
        """The leaf of every name: of weights that are tied each name, of a module that layers share the first."""
        leaf = {p: key for p, key in zip(self.parameters, self.leaves, strict=True)}
        modules = self.objective.u.named_modules(prefix="u")
        named = ((f"{at}.{name}", p) for at, module in modules for name, p in module.named_parameters(recurse=False))
        return {name: leaf[p] for name, p in named if p in leaf}

    def residual(self) -> Tensor:
        """r (M,), in the order of the blocks."""
        of_points = (
            _times(self._of_points(name, x, self.objective.operator), self.roots.get(name)).flatten()
            for name, x in self.points.items()
        )
        return torch.cat([*of_points, *self._extra()])

    def _of_points(self, name: str, x: Tensor, operator: Operator) -> Tensor:
        """The residuals (N, m) of a term at N of its points."""
        o = self.objective
        found, times = o.loss.residuals(o.u, operator, {name: x}, self.probes), o.count(name, self.points) / len(x)
        return torch.cat([self._rooted(key, r, times).view(len(x), -1) for key, r in found.items()], 1)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(r (m,), J (m, P)) of the points, block by block, then of the problem's own terms."""
        for name in self.points:
            yield from self.blocks_of(name)
        yield from self.blocks_of_terms()

    def blocks_of(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of the points of a term."""
        closed, numbers = self.is_closed(name), sum(map(torch.numel, self.parameters))
        numbers = max(numbers, weights_of(self.objective.u)) if closed else numbers
        block = self._in_closed_form(name) if closed else self._of_jets(name)
        x, size = self.points[name], max(BLOCK, BLOCK_NUMBERS // numbers)
        roots = self.roots.get(name, x.new_ones(len(x)))
        for part, root in zip(x.split(size), roots.split(size), strict=True):
            r, j = block(part)
            if name in self.roots:  # the residuals of a point follow one another
                root = root.repeat_interleave(len(r) // len(part))
                r, j = r * root, _times(j, root)
            yield r, j

    def is_closed(self, name: str) -> bool:
        """Whether the Jacobian of a term comes from one reverse pass for all points: as is seen at a few, once."""
        known = self.objective.closed
        if name not in known:
            known[name] = covers(self.objective.u, self.parameters) and self._agrees(
                name, self.points[name][:LOOKED_AT]
            )
        return known[name]

    def _agrees(self, name: str, x: Tensor) -> bool:
        """Whether that is the one from reverse passes of single points, at points x."""
        try:
            (_, found), (_, wanted) = self._in_closed_form(name)(x), self._of_jets(name)(x)
        except (NotCovered, RuntimeError):  # the latter from torch, of what has no second derivative
            return False
        slack = torch.finfo(wanted.dtype).eps ** 0.5 * wanted.abs().max()
        return found.shape == wanted.shape and bool(((found - wanted).abs() <= slack).all())

    def blocks_of_terms(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Those of terms without points."""
        for r in self._extra():  # of which several may share a graph, and some have none
            yield r.detach(), self._slope(r)

    def _slope(self, r: Tensor) -> Tensor:
        """dr/dtheta (1, P) of one residual, whose graph stays."""
        if not r.requires_grad:
            return r.new_zeros(1, sum(map(torch.numel, self.parameters)))
        options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
        return torch.cat([g.reshape(1, -1) for g in torch.autograd.grad(r, self.parameters, **options)], 1)

    def _in_closed_form(self, name: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """x -> residuals of a term and their Jacobian, from one reverse pass for each residual of a point."""
        u, operator = self.objective.u, self.objective.operator.uncompiled()

        def block(x: Tensor) -> tuple[Tensor, Tensor]:
            r, j = jacobian(u, self.parameters, lambda: self._of_points(name, x, operator))
            return r.flatten(), j.flatten(0, 1)

        return block

    def _of_jets(self, name: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """x -> residuals of a term and their Jacobian."""
        at_points = vmap(jacrev(partial(self._at, _AtOnePoint(self, name)), has_aux=True), (None, 0))

        def block(x: Tensor) -> tuple[Tensor, Tensor]:
            j, r = at_points(self.leaves, x)
            return r.flatten(), torch.cat([j[key].reshape(r.numel(), -1) for key in self.leaves], 1)

        return block

    def _at(self, rows: nn.Module, leaves: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """The residuals at x, twice: to be differentiated, and to be kept."""
        r = functional_call(rows, {name: leaves[key] for name, key in self.names.items()}, (x,), tie_weights=False)
        return r, r

    def _rooted(self, name: str, r: Tensor, times: float = 1) -> Tensor:
        """r with the root of w / n for its mean over n values, `times` as many as are in r."""
        (w,) = self.objective.weights([name]).values()
        return r.flatten() * (w / (r.numel() * times)) ** 0.5

    def _extra(self) -> list[Tensor]:
        """The roots of the terms without points; ConfigError for one that has none. At 0 their slope counts as 0."""
        found = []
        for name, term in self.objective.loss.extra_terms(self.objective.u).items():
            info = torch.finfo(term.dtype)
            if term < -info.eps:
                raise ConfigError(
                    f"extra_terms: {name} is {term.item():.3g}; gauss_newton takes the root of a term, which is at "
                    "least 0; use another optimizer"
                )
            found.append(self._rooted(name, term.clamp_min(info.tiny).sqrt(), self.world.size))
        return found


class _AtOnePoint(nn.Module):
    """The residuals of a term at one point (d,), as a function of the parameters of u."""

    def __init__(self, system: Residuals, name: str):
        super().__init__()
        self.u, self.system, self.name = system.objective.u, system, name

    def forward(self, x: Tensor) -> Tensor:
        system, o = self.system, self.system.objective
        found = o.loss.residuals(self.u, o.operator, {self.name: x.unsqueeze(0)}, system.probes)
        n = o.count(self.name, system.points)
        return torch.cat([system._rooted(name, r, n) for name, r in found.items()])


def _times(r: Tensor, root: Tensor | None) -> Tensor:
    """r (N,) or (N, m), each row times its root (N,); None: as it is."""
    return r if root is None else r * root.reshape(-1, *[1] * (r.ndim - 1))
