"""Named terms of the loss of a problem: interior residual, boundary, initial condition, and its own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from kanpde.ansatz import Ansatz

Points = dict[str, Tensor]  # by the name of the term that reads them


@dataclass(frozen=True)
class Loss:
    r"""sum_k w_k L_k over the terms k for which there are points.

    interior: mean of (c r)^2 for the residual r of the PDE and the scale c; with `two_sample`, the mean of
    (c r_1)(c r_2) for two independent draws of a stochastic operator, whose expectation is that of the exact residual
    where r is affine in the estimated terms: the square of one estimate adds its variance (Hu et al. 2024).
    boundary: mean of (u - g)^2 on the boundary. initial: mean of (u - u_0)^2 at t = 0. Others are the problem's own.

    Args:
        residual: square or two_sample.
        scale: c: "2d" is the problem's residual_scale, 1 / (2 d); "none" is 1.
        weights: w_k by name, 1 where not given.
    """

    residual: Literal["square", "two_sample"] = "square"
    scale: Literal["2d", "none"] = "2d"
    weights: dict[str, float] = field(default_factory=dict)

    def terms(self, u: Ansatz, operator: Callable, points: Points, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms L_k, not yet weighted, in the order in which they are computed."""
        problem = u.problem
        read = {
            "interior": lambda x: self._interior(u, operator, x, generator),
            "boundary": lambda x: (u(x) - problem.boundary_value(x)).square().mean(),
            "initial": lambda x: (u(x) - problem.initial_value(x)).square().mean(),
        }
        return {name: read[name](x) for name, x in points.items()} | problem.extra_terms(u)

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        return sum(self.weights.get(name, 1.0) * term for name, term in terms.items())

    def _interior(self, u: Ansatz, operator: Callable, x: Tensor, generator: torch.Generator) -> Tensor:
        scale = u.problem.residual_scale if self.scale == "2d" else 1.0

        def residual() -> Tensor:
            return scale * u.problem.residual(operator(u, x, generator=generator), x)

        first = residual()
        return (first * (residual() if self.residual == "two_sample" else first)).mean()
