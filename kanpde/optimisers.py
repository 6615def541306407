"""The optimiser of a phase, with its parameter groups, and the schedule of its learning rates."""

from math import cos, pi

import torch
from torch import Tensor

from kanpde.ansatz import Ansatz
from kanpde.config import ConfigError, PhaseConfig
from kanpde.kan.network import parameter_groups


def rates(phase: PhaseConfig, u: Ansatz) -> dict[str, tuple[list[Tensor], float]]:
    """The parameters and the learning rate of each group: prompts, meta, rest, problem, as far as they exist.

    Raises:
        ConfigError: `lr` has no rate for a group, and none for rest.
    """
    groups = parameter_groups(u.net)
    if u.problem_parameters is not None:
        groups["problem"] = list(u.problem_parameters.parameters())
    given = phase.lr if isinstance(phase.lr, dict) else dict.fromkeys(groups, phase.lr)
    for name in groups:
        if name not in given and "rest" not in given:
            raise ConfigError(f"phases: lr has no rate for the parameter group {name} (given: {', '.join(given)})")
    return {name: (parameters, given.get(name, given.get("rest"))) for name, parameters in groups.items()}


def make_optimizer(phase: PhaseConfig, u: Ansatz) -> torch.optim.Optimizer:
    """The optimiser of a phase; its parameter groups have a base_lr. L-BFGS has one group, and the largest rate."""
    groups = rates(phase, u)
    if phase.optimizer == "lbfgs":
        parameters = [p for group, _ in groups.values() for p in group]
        rate = max(rate for _, rate in groups.values())
        optimizer = torch.optim.LBFGS(
            parameters, rate, max_iter=1, max_eval=25, history_size=phase.history, line_search_fn="strong_wolfe"
        )
    else:
        named = [{"params": parameters, "lr": rate, "name": name} for name, (parameters, rate) in groups.items()]
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[phase.optimizer]
        optimizer = kind(named, betas=phase.betas, weight_decay=phase.weight_decay)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def schedule(phase: PhaseConfig, step: int) -> float:
    """Factor on the learning rates at a step of the phase, from 1 at its start to `final` at its end."""
    t, final = step / phase.steps, phase.final
    if phase.schedule == "linear":
        return final + (1 - final) * (1 - t)
    if phase.schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + cos(pi * t))
    if phase.schedule == "exponential":
        return max(final, 1e-8) ** t
    return 1.0
