"""The optimiser of a phase, with its parameter groups, and the schedule of its learning rates."""

import traceback
from functools import cache
from math import cos, pi

import torch
from torch import Tensor

from kanpde.config import PhaseConfig
from kanpde.ground.construct import call
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.kan.network import parameter_groups
from kanpde.optim import GaussNewton, RestartingLBFGS

FIRST_ORDER = ("adam", "adamw", "soap", "muon")
FROZEN = ("lbfgs",)  # optimisers that see one function for the whole phase: the same points, the same probes
MAX_PRECONDITION_DIM = 512  # longer axes of a parameter have no matrix in SOAP: d = 100 000 inputs must not


def rates(phase: PhaseConfig, u: Ansatz) -> dict[str, tuple[list[Tensor], float]]:
    """The parameters and the learning rate of each group: prompts, meta, rest, problem, as far as they exist.

    Raises:
        ConfigError: `lr` has no rate for a group, and none for rest.
    """
    groups = parameter_groups(u.net)
    if u.problem_parameters is not None:
        groups["problem"] = [p for p in u.problem_parameters.parameters() if p.requires_grad]
    given = phase.lr if isinstance(phase.lr, dict) else dict.fromkeys(groups, phase.lr)
    for name in groups:
        if name not in given and "rest" not in given:
            raise ConfigError(f"phases: lr has no rate for the parameter group {name} (given: {', '.join(given)})")
    return {name: (parameters, given.get(name, given.get("rest"))) for name, parameters in groups.items()}


def make_optimizer(phase: PhaseConfig, u: Ansatz) -> torch.optim.Optimizer:
    """The optimiser of a phase; its parameter groups have a base_lr. Those of second order have one group.

    Raises:
        ConfigError: `options` that the optimiser does not have.
    """
    try:
        return _made(phase, rates(phase, u))
    except (RuntimeError, AssertionError) as error:  # of options that do not go together
        raise ConfigError(f"optimizer {phase.optimizer}: {error}") from None


def _made(phase: PhaseConfig, groups: dict[str, tuple[list[Tensor], float]]) -> torch.optim.Optimizer:
    label = f"optimizer {phase.optimizer}"
    if phase.optimizer in FIRST_ORDER:
        every = {"betas": phase.betas, "weight_decay": phase.weight_decay}
        named = [{"params": p, "lr": rate, "name": name, **every} for name, (p, rate) in groups.items()]
        kind, own, named = _first_order(phase.optimizer, named)
        optimizer = call(label, kind, own | phase.options, named, lr=0.0, **every)  # each group has its own rate
    else:
        parameters = [p for group, _ in groups.values() for p in group]
        if phase.optimizer == "lbfgs":
            rate = max(rate for _, rate in groups.values())
            optimizer = call(label, RestartingLBFGS, phase.options, parameters, lr=rate, history_size=phase.history)
        else:
            optimizer = call(label, GaussNewton, phase.options, parameters)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def of_optimizer(error: Exception) -> bool:
    """Whether an error was raised within an optimiser of torch or pytorch_optimizer, not in a loss that it asked."""
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    last = max(
        (i for i, name in enumerate(modules) if not name.startswith(("torch.", "pytorch_optimizer."))), default=-1
    )
    return any(name.startswith(("torch.optim.", "pytorch_optimizer.")) for name in modules[last + 1 :])


def for_sparsity(phase: PhaseConfig) -> PhaseConfig:
    """The phase beside `loss.sparsity`: damping that is scaled by curvature would leave all edges, so it is not."""
    if phase.optimizer != "gauss_newton":
        return phase
    return phase.model_copy(update={"options": {"scaling": 0.0, **phase.options}})


def _first_order(name: str, groups: list[dict]) -> tuple[type[torch.optim.Optimizer], dict, list[dict]]:
    """The class, kanpde's own defaults for it, and its groups: of Muon the matrices, and what Adam does beside it."""
    if name in ("adam", "adamw"):
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name], {}, groups
    if name == "soap":
        return _soap(), {"max_precondition_dim": MAX_PRECONDITION_DIM}, groups
    import pytorch_optimizer  # a second to import: where it is used

    halves = [
        {**group, "params": parameters, "use_muon": muon}
        for group in groups
        for muon in (True, False)
        if (parameters := [p for p in group["params"] if (p.ndim > 1) == muon])
    ]
    return pytorch_optimizer.AdaMuon, {}, halves


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
