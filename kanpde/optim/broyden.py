r"""Self-scaled quasi-Newton steps of Broyden's family, with a dense inverse Hessian of P parameters.

Of the gradient g, with s the last step, y the change of g along it, and H what stands for the inverse Hessian,

.. math:: H \leftarrow \frac{1}{\tau} \Big(H - \frac{H y\, y^T H}{y^T H y} + \varphi\, v v^T\Big)
                       + \frac{s s^T}{y^T s}, \qquad
          v = \sqrt{y^T H y} \Big(\frac{s}{y^T s} - \frac{H y}{y^T H y}\Big).

tau = phi = 1 is BFGS. With b = s^T H^{-1} s / y^T s and tau = min(1, 1/b) the curvatures that H has too large come down
in all directions at once, not one after another, which a loss whose Hessian is near singular needs. With
h = y^T H y / y^T s, a = h b - 1 and c = (a / (1 + a))^{1/2} the update of Broyden's family takes

.. math:: \theta = \max\Big(\frac{\rho - 1}{a}, \min\Big(\frac{1}{\rho}, \frac{1 - b}{b}\Big)\Big), \quad
          \rho = \min(1, h (1 - c)), \quad \varphi = \frac{1 - \theta}{1 + a \theta}

and a tau with the root of sigma = 1 + a theta. Work and memory are P^2 numbers a step.

The length of a step meets the conditions of Wolfe, or where the loss has no digits left to tell, those that Hager and
Zhang put in their place, which read slopes.

Sources: Al-Baali 1998, Comput. Optim. Appl. 9, 191-203; Urbán, Stefanou, Pons 2025, J. Comput. Phys. 523, 113656
(arXiv 2405.04230); the line search: Hager, Zhang 2005, SIAM J. Optim. 16, 170-192.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from typing import Literal

import torch
from torch import Tensor

from kanpde.optim.second_order import assign

FALL, SLOPE = (
    1e-4,
    0.9,
)  # of Wolfe's conditions: the share of the fall that the slope says, and of the slope that may be left
ROUNDING = 1e-12  # of the loss, up to which it counts as no larger
WIDER = 4.0  # times the length of a try that is too short


class SelfScaledBroyden(torch.optim.Optimizer):
    """Self-scaled quasi-Newton steps, one a step, on one function; see the module for the formula.

    Where no length makes the loss smaller, H is forgotten, and the next step is one of steepest descent.

    Args:
        params: tensors, one group.
        update: broyden; or bfgs, phi = 1 with the same tau.
        tries: evaluations of the loss in a step at most.
    Raises:
        ValueError: an option out of its range.

    Example:
        >>> theta = torch.tensor([-1.2, 1.0], dtype=torch.float64, requires_grad=True)
        >>> optimizer = SelfScaledBroyden([theta])
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = (1 - theta[0]) ** 2 + 100 * (theta[1] - theta[0] ** 2) ** 2
        ...     loss.backward()
        ...     return loss.detach()
        >>> losses = [optimizer.step(closure).item() for _ in range(60)]
        >>> losses[-1] < 1e-20
        True
    """

    keeps_points = True

    def __init__(self, params, update: Literal["broyden", "bfgs"] = "broyden", tries: int = 25):
        if update not in ("broyden", "bfgs") or tries < 2:
            raise ValueError(f"needed are update broyden or bfgs and tries >= 2, given {update} and {tries}")
        super().__init__(params, {"lr": 1.0})
        if len(self.param_groups) > 1:
            raise ValueError("the self-scaled Broyden optimiser takes one group of parameters")
        self.update, self.tries = update, tries
        self.param_groups[0].update(restarts=0, ended=False)  # a state that state_dict() knows

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step; returns the loss after it, which is not larger than before, up to its rounding."""
        (group,) = self.param_groups
        line = _Line(group["params"], torch.enable_grad()(closure))
        here = line.at(0.0)
        if group["ended"]:
            return here.loss
        state = self.state[group["params"][0]]
        h, g = state.get("inverse_hessian"), here.gradient
        direction = -g if h is None else -(h @ g)
        first = 1.0 if h is not None else min(1.0, 1 / max(float(g.abs().sum()), 1e-300))
        found = line.search(here, direction, self.tries, first)
        if found is None:
            group["ended"] = h is None  # not even down the gradient
            group["restarts"] += h is not None
            state.pop("inverse_hessian", None)
            return line.at(0.0).loss
        s, y = found.length * direction, found.gradient - g
        curvature = float(y @ s)
        if curvature > torch.finfo(s.dtype).eps * float(y.norm() * s.norm()):
            if h is None:
                scale = curvature / float(y @ y)
                h, bent = scale * torch.eye(len(s), dtype=s.dtype, device=s.device), float(s @ s) / scale
            else:
                bent = -found.length * float(s @ g)
            state["inverse_hessian"] = _updated(h, s, y, self.update, bent, curvature)
        return found.loss

    @property
    def converged(self) -> bool:
        """Whether no step makes the loss smaller, not even down the gradient."""
        return self.param_groups[0]["ended"]

    def report(self) -> dict[str, float]:
        """How many times H was forgotten."""
        return {"restarts": self.param_groups[0]["restarts"]}


def _updated(h: Tensor, s: Tensor, y: Tensor, update: str, bent: float, curvature: float) -> Tensor:
    """H after a step.

    Args:
        bent: s^T H^-1 s.
        curvature: y^T s.
    """
    hy = h @ y
    seen = float(y @ hy)
    b, ratio = bent / curvature, seen / curvature
    a = max(b * ratio - 1, 0.0)
    tau, phi = min(1.0, 1 / b), 1.0
    if update == "broyden" and a > 0:
        rho = min(1.0, ratio * (1 - sqrt(a / (1 + a))))
        theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b))
        sigma = 1 + a * theta
        phi = (1 - theta) / sigma
        root = sigma ** (-1 / max(len(s) - 1, 1))
        tau = tau * min(root, 1 / theta) if theta > 0 else min(tau * root, sigma)
    v = sqrt(seen) * (s / curvature - hy / seen)
    return (h - torch.outer(hy, hy) / seen + phi * torch.outer(v, v)) / tau + torch.outer(s, s) / curvature


@dataclass(frozen=True)
class _Point:
    """A point of a line: its length from the start; loss, gradient, and slope along the line there."""

    length: float
    loss: Tensor
    gradient: Tensor
    slope: float


class _Line:
    """The loss along a direction from the parameters as they were; they are left at the last point asked for."""

    def __init__(self, parameters: list[Tensor], closure: Callable[[], Tensor]):
        self.parameters, self.closure = parameters, closure
        self.start = torch.nn.utils.parameters_to_vector(parameters).detach().clone()
        self.direction = torch.zeros_like(self.start, dtype=torch.float64)

    def at(self, length: float) -> _Point:
        assign(self.parameters, (self.start + length * self.direction).to(self.start.dtype))
        loss = self.closure().detach()
        slopes = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        gradient = torch.cat([slope.detach().reshape(-1) for slope in slopes]).double()
        return _Point(length, loss, gradient, float(gradient @ self.direction))

    def search(self, here: _Point, direction: Tensor, tries: int, first: float) -> _Point | None:
        """A point that meets the conditions, else the lowest one; None: none is lower than here."""
        self.direction = direction
        here = replace(here, slope=float(here.gradient @ direction))
        if not here.slope < 0:
            return None
        low, high, length, lowest = here, None, first, None
        for _ in range(tries):
            point = self.at(length)
            if isfinite(float(point.loss) + point.slope) and _has_fallen(point, here):
                if point.slope >= SLOPE * here.slope:
                    return point
                low = point
                lowest = point if point.loss < (lowest or here).loss else lowest
            else:
                high = point
            length = WIDER * length if high is None else _between(low, high)
        return None if lowest is None else self.at(lowest.length)


def _has_fallen(point: _Point, start: _Point) -> bool:
    """Whether the loss has fallen enough: by its values, or where these are rounding by the slopes."""
    if point.loss <= start.loss + FALL * point.length * start.slope:
        return True
    near = float(point.loss) <= float(start.loss) + ROUNDING * abs(float(start.loss))
    return near and point.slope <= (2 * FALL - 1) * start.slope


def _between(low: _Point, high: _Point) -> float:
    """The zero of the slope on a chord, well between both; the middle where the slopes say nothing."""
    a, b = low.length, high.length
    width = b - a
    if not isfinite(high.slope) or not high.slope > low.slope:
        return a + width / 2
    inner = a - low.slope * width / (high.slope - low.slope)
    return min(max(inner, a + 0.1 * width), b - 0.1 * width)
