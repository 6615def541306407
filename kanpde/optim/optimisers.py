"""The optimisers by name, what a phase does with each, and the schedule of its learning rates."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from inspect import signature
from math import cos, pi
from typing import Any

import torch
from torch import Tensor

from kanpde.config import PhaseConfig
from kanpde.ground.construct import call
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.kan.network import parameter_groups
from kanpde.optim.broyden import SelfScaledBroyden
from kanpde.optim.gauss_newton import GaussNewton
from kanpde.optim.lbfgs import RestartingLBFGS
from kanpde.optim.levenberg_marquardt import LevenbergMarquardt
from kanpde.optim.second_order import SecondOrder

Groups = dict[str, tuple[list[Tensor], float]]  # the parameters and the learning rate of each group
MAX_PRECONDITION_DIM = 512  # longer axes of a parameter have no matrix in SOAP: d = 100 000 inputs must not


@dataclass(frozen=True)
class Optimiser:
    """An optimiser as a phase uses it.

    Attributes:
        make: (phase, groups) -> the optimiser.
        about: a line on it.
        by_gradients: whether its step reads gradients alone, so that two trial steps show what is wrong with options.
        keeps_points: whether it sees one function for the whole phase: the same points, the same probes.
        wants_system: whether its step reads the residuals and their Jacobian, `kanpde.training.residuals`.
        elementwise: whether the step of a weight reads its own gradients alone, so that any process may make it.
        most: the parameters that it takes; None: any number.
        beside_sparsity: options that are its defaults beside `loss.sparsity`.
    """

    make: Callable[[PhaseConfig, Groups], torch.optim.Optimizer]
    about: str = ""
    by_gradients: bool = True
    keeps_points: bool = False
    wants_system: bool = False
    elementwise: bool = False
    most: int | None = None
    beside_sparsity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, kind: type[torch.optim.Optimizer]) -> "Optimiser":
        """A class of optimisers of one's own; it may have the attribute keeps_points or wants_system."""
        keeps_points, wants_system = getattr(kind, "keeps_points", False), getattr(kind, "wants_system", False)
        make = _of_all if keeps_points or wants_system else _of_groups
        by_gradients = not keeps_points and not wants_system
        return cls(partial(make, lambda: kind), "", by_gradients, keeps_points, wants_system)


def rates(phase: PhaseConfig, u: Ansatz) -> Groups:
    """The groups of parameters: prompts, meta, rest, problem, as far as they exist, and unknowns that have rates.

    Raises:
        ConfigError: `lr` has no rate for a group, and none for rest.
    """
    groups, own = parameter_groups(u.net), {}
    if u.problem_parameters is not None:
        own = {name: part for name, part in u.problem_parameters.named_children() if getattr(part, "lr", None)}
        apart = {p for part in own.values() for p in part.parameters()}
        groups["problem"] = [p for p in u.problem_parameters.parameters() if p.requires_grad and p not in apart]
    given = phase.lr if isinstance(phase.lr, dict) else dict.fromkeys(groups, phase.lr)
    for name in groups:
        if name not in given and "rest" not in given:
            raise ConfigError(f"phases: lr has no rate for the parameter group {name} (given: {', '.join(given)})")
    found = {name: (parameters, given.get(name, given.get("rest"))) for name, parameters in groups.items()}
    return found | {f"problem.{name}": (list(part.parameters()), part.lr) for name, part in own.items()}


def make_optimizer(phase: PhaseConfig, u: Ansatz, former: torch.optim.Optimizer | None = None) -> torch.optim.Optimizer:
    """The optimiser of a phase; its parameter groups have a base_lr. Those of second order have one group.

    Args:
        former: that of the phase before, whose damping one of its kind goes on with, unless the phase states one.
    Raises:
        ConfigError: `options` that the optimiser does not have.
    """
    try:
        optimizer = OPTIMISERS[phase.optimizer].make(phase, rates(phase, u))
    except (RuntimeError, AssertionError) as error:  # of options that do not go together
        raise ConfigError(f"optimizer {phase.optimizer}: {error}") from None
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    if isinstance(optimizer, SecondOrder) and type(former) is type(optimizer) and "damping" not in phase.options:
        optimizer.param_groups[0]["damping"] = former.param_groups[0]["damping"]
    return optimizer


def _of_groups(
    kind: Callable[[], type[torch.optim.Optimizer]], phase: PhaseConfig, groups: Groups, split=None, **own
) -> torch.optim.Optimizer:
    """One of first order: each group has its own rate. `own` are kanpde's defaults for its options."""
    every = {"betas": phase.betas, "weight_decay": phase.weight_decay}
    named = [{"params": p, "lr": rate, "name": name, **every} for name, (p, rate) in groups.items()]
    label, named, made = f"optimizer {phase.optimizer}", split(named) if split else named, kind()
    taken = {name: value for name, value in every.items() if name in signature(made).parameters}
    return call(label, made, own | phase.options, named, lr=0.0, **taken)


def _of_all(
    kind: Callable[[], type[torch.optim.Optimizer]], phase: PhaseConfig, groups: Groups, **own
) -> torch.optim.Optimizer:
    """One of second order: all parameters together."""
    parameters = [p for group, _ in groups.values() for p in group]
    return call(f"optimizer {phase.optimizer}", kind(), phase.options, parameters, **own)


def _lbfgs(phase: PhaseConfig, groups: Groups) -> torch.optim.Optimizer:
    largest = max(rate for _, rate in groups.values())
    return _of_all(lambda: RestartingLBFGS, phase, groups, lr=largest, history_size=phase.history)


def _matrices_apart(groups: list[dict]) -> list[dict]:
    """Of Muon the matrices, and what Adam does beside it."""
    return [
        {**group, "params": parameters, "use_muon": muon}
        for group in groups
        for muon in (True, False)
        if (parameters := [p for p in group["params"] if (p.ndim > 1) == muon])
    ]


def of_optimizer(error: Exception) -> bool:
    """Whether an error was raised within an optimiser of torch or pytorch_optimizer, not in a loss that it asked."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max(
        (i for i, name in enumerate(modules) if not name.startswith(("torch.", "pytorch_optimizer."))), default=-1
    )
    return any(name.startswith(("torch.optim.", "pytorch_optimizer.")) for name in modules[last + 1 :])


def for_sparsity(phase: PhaseConfig) -> PhaseConfig:
    """The phase beside `loss.sparsity`."""
    defaults = OPTIMISERS[phase.optimizer].beside_sparsity
    return phase.model_copy(update={"options": {**defaults, **phase.options}}) if defaults else phase


def _muon() -> type[torch.optim.Optimizer]:
    import pytorch_optimizer  # a second to import: where it is used

    return pytorch_optimizer.AdaMuon


@cache
def _soap() -> type[torch.optim.Optimizer]:
    import pytorch_optimizer

    class SOAP(pytorch_optimizer.SOAP):
        """SOAP whose first step, which makes the preconditioners of a gradient, is one of Adam down that gradient.

        Not one in their eigenbasis: beyond the rank of one gradient it is rounding, of which Adam makes whole steps.
        """

        def step(self, closure=None):
            first = [group for group in self.param_groups if group.get("step", 0) == 0]
            loss = super().step(closure)
            with torch.no_grad():
                for group in first:
                    for p in (p for p in group["params"] if p.grad is not None):
                        p.mul_(1 - group["lr"] * group["weight_decay"])
                        p.sub_(p.grad / (p.grad.abs() + group["eps"]), alpha=group["lr"])
            return loss

    return SOAP


OPTIMISERS = {
    "adam": Optimiser(
        partial(_of_groups, lambda: torch.optim.Adam), "Adaptive moments (Kingma & Ba 2015).", elementwise=True
    ),
    "adamw": Optimiser(
        partial(_of_groups, lambda: torch.optim.AdamW), "Adam whose weights decay apart from them.", elementwise=True
    ),
    "soap": Optimiser(
        partial(_of_groups, _soap, max_precondition_dim=MAX_PRECONDITION_DIM),
        "Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024).",
    ),
    "muon": Optimiser(
        partial(_of_groups, _muon, split=_matrices_apart), "Orthogonal momentum of matrices, and Adam (AdaMuon)."
    ),
    "lbfgs": Optimiser(
        _lbfgs,
        "Quasi-Newton steps with a line search, on points that stay.",
        by_gradients=False,
        keeps_points=True,
    ),
    "ssbroyden": Optimiser(
        partial(_of_all, lambda: SelfScaledBroyden),
        "Self-scaled quasi-Newton steps with a dense inverse Hessian (Al-Baali 1998), on points that stay.",
        by_gradients=False,
        keeps_points=True,
        most=10_000,  # 0.8 GB of inverse Hessian in float64
    ),
    "gauss_newton": Optimiser(
        partial(_of_all, lambda: GaussNewton),
        "Damped Gauss-Newton steps of the residuals, for few parameters.",
        by_gradients=False,
        wants_system=True,
        beside_sparsity={"scaling": 0.0},  # damping that is scaled by curvature would leave all edges
    ),
    "levenberg_marquardt": Optimiser(
        partial(_of_all, lambda: LevenbergMarquardt),
        "Levenberg-Marquardt with geodesic acceleration, to the last digits; few parameters, points that stay.",
        by_gradients=False,
        wants_system=True,
        beside_sparsity={"scaling": 0.0},
    ),
}


def schedule(phase: PhaseConfig, step: int) -> float:
    """Factor on the learning rates at a step of the phase: down to `final` at its end, times a rise over the warm-up.

    one_cycle has no other warm-up: it rises from 1/25 to 1 over 0.3 of the phase by a cosine, and falls by a cosine.

    Source: Smith & Topin 2018 (arXiv 1708.07120).
    """
    t, final = step / phase.steps, phase.final
    if phase.schedule == "one_cycle":
        rise = 0.3
        return _wave(1 / 25, 1, t / rise) if t < rise else _wave(1, final, (t - rise) / (1 - rise))
    rising = min(1.0, (step + 1) / (phase.warmup * phase.steps)) if phase.warmup else 1.0
    return rising * _falling(phase.schedule, t, final)


def _falling(name: str, t: float, final: float) -> float:
    if name == "linear":
        return final + (1 - final) * (1 - t)
    if name == "cosine":
        return _wave(1, final, t)
    if name == "exponential":
        return max(final, 1e-8) ** t
    return 1.0


def _wave(a: float, b: float, t: float) -> float:
    """From a at t = 0 to b at t = 1, flat at both."""
    return b + (a - b) * 0.5 * (1 + cos(pi * t))
