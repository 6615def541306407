"""What optimisers of a sum of squares |r|^2 share: the residuals they read, the scale of their damping, their state."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, Protocol

import torch
from torch import Tensor

FLAT = 1e-6  # of the length of a column of J beside the longest: shorter ones count as if they had it


class System(Protocol):
    """The residuals at one set of points, as functions of the parameters as they are.

    It may have a `world`: processes of which each has residuals of its own.
    """

    def blocks(self) -> Iterable[tuple[Tensor, Tensor]]:
        """(r (m,), J (m, P)), a few points at a time."""
        ...

    def residual(self) -> Tensor:
        """r (M,), with its graph, in the order of the blocks."""
        ...


class SecondOrder(torch.optim.Optimizer):
    """One of a single group, with a damping; how many steps there were, and how many made the loss smaller.

    Attributes:
        called: its name in what it says.
    """

    called: ClassVar[str]

    def __init__(self, params, damping: float):
        super().__init__(params, {"lr": 1.0})
        if len(self.param_groups) > 1:
            raise ValueError(f"{self.called} takes one group of parameters")
        # a state that state_dict() knows
        self.param_groups[0].update(damping=damping, steps=0, accepted=0)

    def count(self, accepted: bool) -> None:
        """Note a step."""
        self.param_groups[0]["steps"] += 1
        self.param_groups[0]["accepted"] += accepted

    @property
    def converged(self) -> bool:
        """Whether no step makes the loss smaller, of one that can tell."""
        return False

    def report(self) -> dict[str, float]:
        """Damping, and the share of steps that made the loss smaller."""
        group = self.param_groups[0]
        return {"damping": group["damping"], "accepted": group["accepted"] / max(group["steps"], 1)}


def roots(lengths: Tensor, scaling: float) -> Tensor:
    """The roots of the diagonal S, from the lengths of the columns of J."""
    return (lengths / lengths.max().clamp_min(torch.finfo(lengths.dtype).tiny)).clamp_min(FLAT) ** scaling


@torch.no_grad()
def assign(parameters: Sequence[Tensor], flat: Tensor) -> None:
    """Set the parameters to the numbers of one vector."""
    for p, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.copy_(piece.view_as(p))
