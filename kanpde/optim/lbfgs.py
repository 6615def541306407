"""L-BFGS that starts again where torch's would stop for good."""

from collections.abc import Callable

import torch
from torch import Tensor


class RestartingLBFGS(torch.optim.LBFGS):
    """L-BFGS with strong Wolfe conditions, one iteration a step.

    A step after which the loss is not finite or has not fallen is undone and the memory of curvature forgotten: the
    next step is one of steepest descent. `restarts` counts them.

    Args:
        params: tensors, one group.
        lr: length of the first try of a line search.
        history_size: pairs of steps and gradient differences that are kept.
        max_eval: evaluations of the loss in a step.
    Source: Nocedal & Wright, Numerical Optimization, 2006, algorithm 7.5.
    """

    def __init__(self, params, lr: float = 1.0, history_size: int = 50, max_eval: int = 25):
        super().__init__(params, lr, 1, max_eval, 0.0, 0.0, history_size, "strong_wolfe")
        self.restarts = 0

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        parameters = [p for group in self.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in parameters]
        first = super().step(closure)
        with torch.enable_grad():
            last = closure()
        if not last < first:
            with torch.no_grad():
                for p, former in zip(parameters, before, strict=True):
                    p.copy_(former)
            self.state.clear()
            self.restarts += 1
        return first
