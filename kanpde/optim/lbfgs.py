"""L-BFGS that starts again where torch's would stop for good."""

from collections.abc import Callable

import torch
from torch import Tensor

FAILURES = 8  # in a row, after which a first try is 1e-8 of a step: along the gradient nothing is to be had


class RestartingLBFGS(torch.optim.LBFGS):
    """L-BFGS with strong Wolfe conditions, one iteration a step.

    A step after which the loss is not finite or has not fallen is undone and the memory of curvature forgotten: the
    next step is one of steepest descent, with a first try ten times shorter after every failure in a row. After
    `FAILURES` in a row the phase has converged: its steps hold the weights and search no more.

    Args:
        params: tensors, one group.
        lr: length of the first try of a line search.
        history_size: pairs of steps and gradient differences that are kept.
        max_eval: evaluations of the loss in a step.
    Source: Nocedal & Wright, Numerical Optimization, 2006, algorithm 7.5.

    Example:
        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> optimizer = RestartingLBFGS([x])
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = ((x - 1) ** 2).sum()
        ...     loss.backward()
        ...     return loss
        >>> for _ in range(5):
        ...     _ = optimizer.step(closure)
        >>> round(x.item(), 4)
        1.0
    """

    def __init__(self, params, lr: float = 1.0, history_size: int = 50, max_eval: int = 25):
        super().__init__(params, lr, 1, max_eval, 0.0, 0.0, history_size, "strong_wolfe")
        self.param_groups[0].update(restarts=0, shrink=1.0)  # a state that state_dict() knows

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        (group,) = self.param_groups
        if self.converged:
            with torch.enable_grad():
                return closure()
        before = [p.detach().clone() for p in group["params"]]
        group["lr"] *= group["shrink"]
        first = super().step(closure)
        with torch.enable_grad():
            last = closure()
        if last < first:
            group["shrink"] = 1.0
            return first
        with torch.no_grad():
            for p, former in zip(group["params"], before, strict=True):
                p.copy_(former)
        self.state.clear()
        group["restarts"] += 1
        group["shrink"] *= 0.1
        with torch.enable_grad():
            return closure()  # what the caller notes is of the weights as they are

    @property
    def converged(self) -> bool:
        """Whether no step makes the loss smaller, not even a short one down the gradient."""
        return self.param_groups[0]["shrink"] < 0.1 ** (FAILURES - 0.5)

    def report(self) -> dict[str, float]:
        """How many steps were undone."""
        return {"restarts": self.param_groups[0]["restarts"]}
