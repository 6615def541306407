"""What an optimiser is given for a step: a loss with its gradient, or residuals with their Jacobian."""

import torch
from torch import Tensor

from kanpde.training.losses import Points
from kanpde.training.objective import Objective


def of_loss(
    optimizer: torch.optim.Optimizer, objective: Objective, points: Points, probes: torch.Generator, frozen: bool
) -> None:
    """One by the gradient of the loss.

    frozen: whether the optimiser sees one function for all its steps: the same probes, balance and emphasis.
    Raises:
        FloatingPointError: a term is not finite.
    """
    first, start = None, probes.get_state() if frozen else None

    def closure() -> Tensor:
        nonlocal first
        if start is not None:
            probes.set_state(start)  # a line search needs one function: the same probes at every call
        optimizer.zero_grad()
        try:
            loss = objective.backward(points, probes, adapt=not frozen)
        except FloatingPointError:
            if first is None or not frozen:
                raise
            return 10 * first + 1  # too long a try of a line search, which cannot go on from infinity
        first = loss if first is None else first
        return loss

    optimizer.step(closure)
    if frozen:
        probes.set_state(start)


def of_system(
    optimizer: torch.optim.Optimizer, objective: Objective, points: Points, unseen: Points, probes: torch.Generator
) -> None:
    """One by residuals and their Jacobian, chosen by the loss at points that may be others.

    Raises:
        FloatingPointError: a term, or the Jacobian, is not finite.
    """
    system = objective.system(points, probes, optimizer.param_groups[0]["params"])
    emphasis = objective.weighing(unseen, probes)
    optimizer.step(system, lambda: objective.at(unseen, probes, emphasis))
    objective.measure(points, probes)
