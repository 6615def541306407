r"""How well observations determine the unknowns of an equation: standard errors from the Gauss-Newton matrix.

Let m(theta, a) be the residuals of the equation and its conditions, and o(theta, a) the misfits of the observations in
units of their noise, for the weights theta of the network and the unknowns a. With m = 0 kept, u moves with a by

.. math:: \delta\theta = -J^T (J J^T + \lambda)^{-1} \, \partial m / \partial a, \qquad J = \partial m / \partial\theta,

and so do the misfits, S = do/da + do/dtheta delta theta. S^T S is what is left of the Gauss-Newton matrix of all where
the equation weighs infinitely much (its Schur complement), and its inverse the covariance of a: no unbiased estimate
of a has a smaller one (Cramer and Rao), and least squares have this one as far as u is linear in a within the noise.
"""

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import has_rules
from kanpde.jets.system import networks
from kanpde.operators import Forward
from kanpde.problems.conditions import Observations
from kanpde.problems.unknowns import Unknown, reported
from kanpde.training.losses import Points
from kanpde.training.objective import Objective
from kanpde.training.residuals import Residuals

ROWS = 512  # points of each kind at most, observations aside
NUMBERS = 2**25  # of the Jacobian at them at most
MOST = 200  # unknown numbers
SMALL = 1e3  # lambda: so many times the rounding of J J^T
SHARE = 0.3  # of a direction from which an unknown is named in it
APART = 3.0  # standard deviations of the mean square misfit from which it disagrees with the noise stated


@dataclass(frozen=True)
class Determined:
    """What observations say of unknowns.

    Attributes:
        errors: standard errors of the numbers that are reported, by name; inf where nothing depends on them.
        undetermined: the directions whose standard error is above the scale of their unknowns, in words.
        misfit: root mean square misfit over the noise that is stated, with the unknowns taken off; NaN: none is.
        count: of the observations with such a noise.
    """

    errors: dict[str, float]
    undetermined: list[str]
    misfit: float
    count: int

    @property
    def disagrees(self) -> bool:
        """Whether the misfit is another than noise of the size stated would leave."""
        return abs(self.misfit**2 - 1) > APART * (2 / max(self.count, 1)) ** 0.5

    def write(self, attrs: dict) -> None:
        """Into the attributes of a result file."""
        attrs["standard_errors"] = json.dumps(self.errors)
        if self.undetermined:
            attrs["undetermined"] = "; ".join(self.undetermined)
        if self.count:
            attrs.update(misfit_over_noise=self.misfit, misfit_disagrees=self.disagrees)


def determined(objective: Objective, u: Ansatz, points: Points) -> "Determined | str":
    """Of the unknowns of a problem, at points by the name of their term; or why nothing is said of them, in words."""
    problem = u.problem
    weights = objective.weights(list(points))
    observed = {name: c for name, c in problem.asked.items() if isinstance(c, Observations) and weights.get(name)}
    if not observed:
        return "there are no Observations"
    own = [p for p in u.problem_parameters.parameters() if p.requires_grad]
    if sum(map(torch.numel, own)) > MOST:
        return f"they are more than {MOST} numbers"
    if (system := _system(objective, u, points, own)) is None:
        return "the operator of this network cannot be differentiated point by point"
    k = sum(map(torch.numel, own))
    s, r, noise_known = _sensitivities(system, observed, k)
    known = torch.cat([torch.full((len(r[name]),), noise_known[name]) for name in observed])
    misfits = torch.cat([r[name] for name in observed])
    if not known.all():  # those of no stated noise have the size that they have
        size = misfits[~known].square().sum().div(max(1, int((~known).sum()) - k)).sqrt().clamp_min(1e-300)
        s = torch.where(known[:, None], s, s / size)
    count = int(known.sum())
    misfit = misfits[known].square().sum().div(max(1, count - k)).sqrt().item() if count else float("nan")
    parts = _parts(u.problem_parameters)
    names = [name + (f".{i}" if part.numel() > 1 else "") for name, part in parts for i in range(part.numel())]
    return Determined(*_errors(problem, u.problem_parameters, own, s, names), misfit, count)


def _system(objective: Objective, u: Ansatz, points: Points, own: Sequence[Tensor]) -> Residuals | None:
    """The residuals at fewer points, of an operator that is differentiated point by point; None: there is none."""
    trained = [p for p in u.net.parameters() if p.requires_grad]
    rows = 1 + u.problem.n_inputs * (objective.loss.gradient != "none")
    most = max(32, min(ROWS, NUMBERS // (rows * max(1, sum(map(torch.numel, trained))))))
    asked = u.problem.asked
    fewer = {name: x if isinstance(asked.get(name), Observations) else x[:most] for name, x in points.items()}
    mine = copy.copy(objective)
    mine.u, mine.operator = u, objective.operator.uncompiled()
    if not mine.operator.transforms:
        if not all(map(has_rules, networks(u.net))) or mine.operator.draws(u.problem.reads):
            return None
        mine.operator = Forward()
    return Residuals(mine, fewer, stream(0, "determined", u.like.device), [*trained, *own])


def _sensitivities(system: Residuals, observed: dict[str, Observations], k: int) -> tuple[Tensor, dict, dict]:
    """S (n, k) of all observations, their misfits by name, and whether their noise is stated."""
    model = [j.double() for name in system.points if name not in observed for _, j in system.blocks_of(name)]
    model += [j.double() for _, j in system.blocks_of_terms()]
    j = torch.cat(model)
    by_net, by_own = j[:, :-k], j[:, -k:]
    gram = by_net @ by_net.mT
    rounding = max(torch.finfo(system.parameters[0].dtype).eps ** 2, torch.finfo(gram.dtype).eps)
    gram.diagonal().add_(SMALL * rounding * torch.linalg.matrix_norm(gram, 2) + torch.finfo(gram.dtype).tiny)
    moved = by_net.mT @ torch.linalg.solve(gram, by_own)  # -d theta / d a
    found, misfits = [], {}
    for name in observed:
        rows = [(r.double(), j.double()) for r, j in system.blocks_of(name)]
        (w,) = system.objective.weights([name]).values()
        unit = (len(system.points[name]) / w) ** 0.5
        found += [unit * (j[:, -k:] - j[:, :-k] @ moved) for _, j in rows]
        misfits[name] = unit * torch.cat([r for r, _ in rows])
    return torch.cat(found), misfits, {name: condition.noise is not None for name, condition in observed.items()}


def _errors(
    problem, module: nn.Module, own: Sequence[Tensor], s: Tensor, names: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """The standard errors of what is reported, and the directions that are not determined, from S (n, k)."""
    information, directions = torch.linalg.eigh(s.mT @ s)
    least = torch.finfo(s.dtype).eps * information[-1].clamp_min(1e-300)
    variance = torch.where(information > least, 1 / information, float("inf"))
    errors = {}
    for name, value in reported(problem, module).items():
        slopes = torch.autograd.grad(value, own, allow_unused=True, materialize_grads=True, retain_graph=True)
        slope = torch.cat([g.flatten().double() for g in slopes]) @ directions
        each = torch.where(slope.abs() > 1e-8 * slope.abs().max(), slope.square() * variance, 0.0)
        errors[name] = each.sum().sqrt().item()
    far = [v for v, size in zip(directions.mT, variance, strict=True) if not size <= 1]
    return errors, [_named(v, names) for v in far]


def _named(direction: Tensor, names: Sequence[str]) -> str:
    """a - 0.5 b: the unknowns in a direction, in the units of their scales."""
    sizes = direction / direction[direction.abs().argmax()]
    parts = [f"{size:+.2g} {name}" for name, size in zip(names, sizes.tolist(), strict=True) if abs(size) > SHARE]
    return " ".join(parts).replace("+1 ", "+").replace("-1 ", "- ").replace("+", "+ ").removeprefix("+ ")


def _parts(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The trained numbers of a module with the names of their unknowns."""
    own = {p: part.name for part in module.modules() if isinstance(part, Unknown) for p in part.parameters()}
    return [(own.get(p, name), p) for name, p in module.named_parameters() if p.requires_grad]
