"""Viscous flows in two dimensions: velocities u and v, pressure p."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from kanpde.config import shipped
from kanpde.domains import Box
from kanpde.jets.system import Jets
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Dirichlet, Integral
from kanpde.problems.references import Reference
from kanpde.problems.terminal import check_positive

NEAR = 1e-6  # a corner, in which p is what it is at this distance


@dataclass(frozen=True)
class Stokes(Problem):
    """-Lap (u, v) + grad p = 0, div (u, v) = 0 on (-1, 1)^2: two flows collide; velocities given on the boundary.

    Exact: u = 20 x y^3, v = 5 x^4 - 5 y^4, p = 60 x^2 y - 20 y^3, of mean zero.

    Source: Elman, Silvester, Wathen, Finite Elements and Fast Iterative Solvers, example 3.1.4 (of the second edition).

    Example:
        >>> sorted(Stokes().reading.equations)
        ['continuity', 'x-momentum', 'y-momentum']
    """

    dim: Literal[2] = 2
    coordinates = ("x", "y")
    fields = ("u", "v", "p")

    @property
    def conditions(self) -> tuple:
        velocity = [Dirichlet("boundary", lambda x, f=f: self.exact(x)[f], field=f) for f in ("u", "v")]
        return *velocity, Integral(0.0, field="p")

    @property
    def domain(self) -> Box:
        return Box(2, -1, 1)

    def residual(self, w: Jets, x: Tensor) -> dict[str, Tensor]:
        u, v, p = w
        return {"x-momentum": p.x - u.lap, "y-momentum": p.y - v.lap, "continuity": u.x + v.y}

    def exact(self, x: Tensor) -> dict[str, Tensor]:
        x, y = x.unbind(1)
        return {"u": 20 * x * y**3, "v": 5 * x**4 - 5 * y**4, "p": 60 * x**2 * y - 20 * y**3}


@dataclass(frozen=True)
class Cavity(Problem):
    r"""Steady Navier-Stokes equations on (0, 1)^2: the lid moves with the speed 4 x (1 - x), the walls do not.

    (u, v) . grad (u, v) + grad p = Lap (u, v) / Re, div (u, v) = 0, p of mean zero. The slopes of the velocity jump in
    the corners below the lid, where p is not bounded. What is known there is built in: with X and Y the distances to
    the wall and to the lid, r to the corner and the angles theta from the lid and phi from the wall, the Stokes flow

    .. math:: u = 4 (X - Y \varphi), \quad v = 4 X \theta, \quad p = \frac{8}{Re} \log r

    of the left corner and its mirror image. What is left of the stream function is of the order r^3.74.

    Args:
        reynolds: Re.
        corners: whether these flows are built in.
    Source: of the orders of flows in corners, Moffatt 1964, J. Fluid Mech. 18, 1-18.

    Example:
        >>> Cavity(reynolds=10).fields
        ('u', 'v', 'p')
    """

    dim: Literal[2] = 2
    reynolds: float = 100.0
    corners: bool = True
    coordinates = ("x", "y")
    fields = ("u", "v", "p")
    conditions = (
        *(Dirichlet(side, 0.0, field="u") for side in ("x = low", "x = high", "y = low")),
        Dirichlet("y = high", lambda x: 4 * x[:, 0] * (1 - x[:, 0]), field="u"),
        Dirichlet("boundary", 0.0, field="v"),
        Integral(0.0, field="p"),
    )

    def __post_init__(self):
        check_positive(self, "reynolds")

    @property
    def reference(self) -> Reference | None:
        return Reference(shipped("references/cavity.npz"), axes=("x", "y")) if self.reynolds == 100 else None

    def settings(self) -> dict[str, bool]:
        return {"corners": self.corners}

    def known_part(self, x: Tensor) -> dict[str, Tensor]:
        if not self.corners:
            return {}
        left, right = (_corner(distance, 1 - x[:, 1]) for distance in (x[:, 0], 1 - x[:, 0]))
        return {
            "u": left.u + right.u,
            "v": left.v - right.v,
            "p": (left.p - right.p) / self.reynolds,
        }

    @property
    def domain(self) -> Box:
        return Box(2, 0, 1)

    def residual(self, w: Jets, x: Tensor) -> dict[str, Tensor]:
        u, v, p = w
        return {
            "x-momentum": u.value * u.x + v.value * u.y + p.x - u.lap / self.reynolds,
            "y-momentum": u.value * v.x + v.value * v.y + p.y - v.lap / self.reynolds,
            "continuity": u.x + v.y,
        }


class _Flow(NamedTuple):
    """Velocities, and Re times the pressure."""

    u: Tensor
    v: Tensor
    p: Tensor


def _corner(to_wall: Tensor, to_lid: Tensor) -> _Flow:
    """The Stokes flow in the left corner below a lid of speed 4 x (1 - x), as in `Cavity`."""
    corner = (to_wall == 0) & (to_lid == 0)  # which has no angle: slopes there are those along the lid and the wall
    theta, phi = torch.atan2(to_lid, to_wall + corner), torch.atan2(to_wall, to_lid + corner)
    r_squared = (to_wall**2 + to_lid**2).clamp_min(NEAR**2)
    return _Flow(4 * (to_wall - to_lid * phi), 4 * to_wall * theta, 4 * r_squared.log())
