"""Elasticity: a clamped plate that bends, a plate with a hole that is pulled."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kanpde.domains import Ball, Box
from kanpde.domains.base import Domain
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Jet
from kanpde.jets.system import Jets
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Condition, Dirichlet, Neumann, slope
from kanpde.problems.parts import On, normals
from kanpde.problems.terminal import check_positive


@dataclass(frozen=True)
class Plate(Problem):
    """Lap Lap u = q on (0, 1)^2, u and its slope 0 on the boundary: a clamped plate; u = sin(pi x)^2 sin(pi y)^2.

    Example:
        >>> round(Plate().exact(torch.tensor([[0.5, 0.25]])).item(), 4)
        0.5
    """

    dim: Literal[2] = 2
    coordinates = ("x", "y")
    conditions = (Dirichlet(), Neumann())

    @property
    def domain(self) -> Box:
        return Box(2, 0, 1)

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        return u.bilap

    def source(self, x: Tensor) -> Tensor:
        x, y = (2 * torch.pi * x).cos().unbind(1)
        return 4 * torch.pi**4 * (4 * x * y - x - y)

    def exact(self, x: Tensor) -> Tensor:
        return (torch.pi * x).sin().square().prod(1)


@dataclass(frozen=True)
class Traction(Condition):
    """sigma . n = value, of displacements u and v in plane stress.

    Args:
        on: where.
        value: (N, 2) at points and their outward normals, both (N, 2).
        modulus, poisson: of the material.
    """

    on: On
    value: Callable[[Tensor, Tensor], Tensor]
    modulus: float
    poisson: float
    kind = "traction"
    of_all = True

    def misfit(self, w: Ansatz, x: Tensor) -> Tensor:
        n = normals(w.problem, x, self.on)
        e = torch.eye(2, dtype=x.dtype, device=x.device).unsqueeze(1).expand(2, len(x), 2)
        (u_x, u_y), (v_x, v_y) = ((slope(w.of(f), x, e[0]), slope(w.of(f), x, e[1])) for f in ("u", "v"))
        xx, yy, xy = plane_stress(u_x, u_y, v_x, v_y, self.modulus, self.poisson)
        found = torch.stack([xx * n[:, 0] + xy * n[:, 1], xy * n[:, 0] + yy * n[:, 1]], 1)
        return found - self.value(x, n)


def plane_stress(
    u_x: Tensor, u_y: Tensor, v_x: Tensor, v_y: Tensor, modulus: float, poisson: float
) -> tuple[Tensor, Tensor, Tensor]:
    """sigma_xx, sigma_yy and sigma_xy, by the law of Hooke, of the slopes of displacements."""
    a = modulus / (1 - poisson**2)
    return a * (u_x + poisson * v_y), a * (v_y + poisson * u_x), a * (1 - poisson) / 2 * (u_y + v_x)


@dataclass(frozen=True)
class Elasticity(Problem):
    r"""div sigma = 0 in plane stress: a quarter of a plate with a hole of radius 1, which is pulled along x.

    (0, L)^2 without the hole; displacements u and v, tension and modulus 1. The axes are those of symmetry, the hole is
    free, and on the two outer sides the traction is that of an infinite plate. Exact, with 2 G = E / (1 + nu) and
    kappa = (3 - nu) / (1 + nu) in polar coordinates r, phi,

    .. math:: u &= \frac{1}{8 G} \Big(r (\kappa + 1) \cos\varphi + \frac 2r ((1 + \kappa) \cos\varphi + \cos 3\varphi)
                   - \frac{2}{r^3} \cos 3\varphi\Big) \\
              v &= \frac{1}{8 G} \Big(r (\kappa - 3) \sin\varphi + \frac 2r ((1 - \kappa) \sin\varphi + \sin 3\varphi)
                   - \frac{2}{r^3} \sin 3\varphi\Big)

    Args:
        size: L.
        poisson: nu, Poisson's ratio.
    Source: Kirsch 1898, Z. Ver. Dtsch. Ing. 42, 797-807: at the top of the hole the stress is 3.

    Example:
        >>> Elasticity().fields, Elasticity().domain.contains(torch.tensor([[0.0, 0.0]]))  # in the hole
        (('u', 'v'), tensor([False]))
    """

    dim: Literal[2] = 2
    size: float = 4.0
    poisson: float = 0.3
    coordinates = ("x", "y")
    fields = ("u", "v")

    def __post_init__(self):
        check_positive(self, "size")
        if not self.size > 1 or not -1 < self.poisson < 1:
            raise ValueError("needed are size > 1, beside the hole, and -1 < poisson < 1")

    @cached_property
    def domain(self) -> Domain:
        return Box(2, 0, self.size) - Ball(2)

    @property
    def conditions(self) -> dict[str, Condition]:
        outside = lambda x: x.amax(1) > self.size * (1 - 1e-6)
        hole = lambda x: x.square().sum(1) < 1 + 1e-4
        free = lambda x, n: torch.zeros_like(x)
        return {
            "u_left": Dirichlet("x = low", 0.0, field="u"),
            "v_below": Dirichlet("y = low", 0.0, field="v"),
            "shear_left": Neumann("x = low", 0.0, field="v"),  # u is 0 along it, so v_x alone is the shear
            "shear_below": Neumann("y = low", 0.0, field="u"),
            "hole": Traction(hole, free, 1.0, self.poisson),
            "outside": Traction(outside, self.pull, 1.0, self.poisson),
        }

    def residual(self, w: Jets, x: Tensor) -> dict[str, Tensor]:
        u, v = w
        shear, mixed = (1 - self.poisson) / 2, (1 + self.poisson) / 2
        return {"x-balance": u.xx + shear * u.yy + mixed * v.xy, "y-balance": v.yy + shear * v.xx + mixed * u.xy}

    def pull(self, x: Tensor, n: Tensor) -> Tensor:
        """sigma . n of the exact stress."""
        r_sq, phi = x.square().sum(1), torch.atan2(x[:, 1], x[:, 0])
        a, b = 1 / r_sq, 1.5 / r_sq.square()
        c_2, c_4, s_2, s_4 = (2 * phi).cos(), (4 * phi).cos(), (2 * phi).sin(), (4 * phi).sin()
        xx = 1 - a * (1.5 * c_2 + c_4) + b * c_4
        yy = -a * (0.5 * c_2 - c_4) - b * c_4
        xy = -a * (0.5 * s_2 + s_4) + b * s_4
        return torch.stack([xx * n[:, 0] + xy * n[:, 1], xy * n[:, 0] + yy * n[:, 1]], 1)

    def exact(self, x: Tensor) -> dict[str, Tensor]:
        r, phi = x.square().sum(1).sqrt(), torch.atan2(x[:, 1], x[:, 0])
        kappa, scale = (3 - self.poisson) / (1 + self.poisson), (1 + self.poisson) / 4
        c, s, c_3, s_3 = phi.cos(), phi.sin(), (3 * phi).cos(), (3 * phi).sin()
        return {
            "u": scale * (r * (kappa + 1) * c + 2 / r * ((1 + kappa) * c + c_3) - 2 / r**3 * c_3),
            "v": scale * (r * (kappa - 3) * s + 2 / r * ((1 - kappa) * s + s_3) - 2 / r**3 * s_3),
        }
