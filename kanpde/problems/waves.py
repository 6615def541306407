"""Linear waves: a string, and the equation of Helmholtz."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kanpde.domains import Box, Cylinder
from kanpde.jets.jet import Jet
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Dirichlet, Initial


@dataclass(frozen=True)
class Wave(Problem):
    """u_tt = 4 u_xx on (0, 1) x (0, 1), u = sin(pi x) + sin(4 pi x) / 2 at rest at t = 0, and 0 at the ends.

    Exact: u = sin(pi x) cos(2 pi t) + sin(4 pi x) cos(8 pi t) / 2.

    Source: Wang, Yu, Perdikaris 2022, J. Comput. Phys. 449, 110768, section 7.3.

    Example:
        >>> round(Wave().exact(torch.tensor([[0.5, 0.5]])).item(), 4)
        -1.0
    """

    dim: Literal[1] = 1
    coordinates = ("x", "t")

    @property
    def conditions(self) -> tuple:
        return Dirichlet(), Initial(lambda x: self.exact(x * x.new_tensor([1, 0]))), Initial(0.0, derivative="t")

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, 0, 1))

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.tt - 4 * u.xx

    def exact(self, x: Tensor) -> Tensor:
        x, t = (torch.pi * x).unbind(1)
        return x.sin() * (2 * t).cos() + (4 * x).sin() * (8 * t).cos() / 2


@dataclass(frozen=True)
class Helmholtz(Problem):
    """Lap u + k^2 u = q on (-1, 1)^2, u = 0 on the boundary; exact: u = sin(a1 pi x) sin(a2 pi y).

    Args:
        a1, a2: half waves.
        k: the wave number.
    Source: Wang, Teng, Perdikaris 2021, SIAM J. Sci. Comput. 43, A3055-A3081, section 4.1.

    Example:
        >>> round(Helmholtz().exact(torch.tensor([[0.5, 0.125]])).item(), 4)
        1.0
    """

    dim: Literal[2] = 2
    a1: int = 1
    a2: int = 4
    k: float = 1.0
    coordinates = ("x", "y")

    @property
    def domain(self) -> Box:
        return Box(2, -1, 1)

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        return u.lap + self.k**2 * u.value

    def source(self, x: Tensor) -> Tensor:
        return (self.k**2 - torch.pi**2 * (self.a1**2 + self.a2**2)) * self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return (torch.pi * self.a1 * x[:, 0]).sin() * (torch.pi * self.a2 * x[:, 1]).sin()
