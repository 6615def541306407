"""Viscous flows in two dimensions: velocities u and v, pressure p."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from kanpde.config import shipped
from kanpde.domains import Box
from kanpde.jets.system import Jets
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Dirichlet, Integral
from kanpde.problems.references import Reference
from kanpde.problems.terminal import check_positive


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
    """Steady Navier-Stokes equations on (0, 1)^2: the lid moves with the speed 4 x (1 - x), the walls do not.

    (u, v) . grad (u, v) + grad p = Lap (u, v) / Re, div (u, v) = 0, p of mean zero. The slopes of the velocity jump in
    the corners below the lid, where p is not bounded.

    Args:
        reynolds: Re.

    Example:
        >>> Cavity(reynolds=10).fields
        ('u', 'v', 'p')
    """

    dim: Literal[2] = 2
    reynolds: float = 100.0
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
