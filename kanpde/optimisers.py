"""The optimiser of a phase, with its parameter groups, and the schedule of its learning rates."""

from math import cos, pi

import torch

from kanpde.ansatz import Ansatz
from kanpde.config import ConfigError, PhaseConfig
from kanpde.kan.network import parameter_groups


def make_optimizer(phase: PhaseConfig, u: Ansatz) -> torch.optim.Optimizer:
    """The optimiser of a phase, one parameter group per name in `parameter_groups`, each with its base_lr."""
    groups = parameter_groups(u.net)
    if u.problem_parameters is not None:
        groups["problem"] = list(u.problem_parameters.parameters())
    rates = phase.lr if isinstance(phase.lr, dict) else dict.fromkeys(groups, phase.lr)
    for name in groups:
        if name not in rates and "rest" not in rates:
            raise ConfigError(f"phases: lr has no rate for the parameter group {name}, and none for rest")
    if phase.optimizer == "lbfgs":
        rate = max(rates.values())
        parameters = [p for group in groups.values() for p in group]
        optimizer = torch.optim.LBFGS(
            parameters, rate, max_iter=1, max_eval=25, history_size=phase.history, line_search_fn="strong_wolfe"
        )
        optimizer.param_groups[0]["base_lr"] = rate
        return optimizer
    named = [
        {"params": parameters, "lr": rates.get(name, rates.get("rest")), "name": name}
        for name, parameters in groups.items()
    ]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = kinds[phase.optimizer](named, betas=phase.betas, weight_decay=phase.weight_decay)
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
