"""Equations in time on an interval: Burgers, Allen-Cahn, Korteweg-de Vries, Kuramoto-Sivashinsky, Schroedinger."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kanpde.config import shipped
from kanpde.domains import Box, Cylinder
from kanpde.jets.jet import Jet
from kanpde.jets.system import Complex, Jets
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Dirichlet, Initial, Periodic
from kanpde.problems.references import Reference
from kanpde.problems.terminal import check_positive

STEP = 0.12  # of a sum for an integral, in units of the kernel exp(-z^2)


@dataclass(frozen=True)
class Burgers(Problem):
    r"""u_t + u u_x = nu u_xx on (-1, 1) x (0, 1), u = -sin(pi x) at t = 0 and 0 at the ends: a shock at x = 0.

    Exact, by the transformation of Hopf and Cole,

    .. math:: u(x, t) = -\frac{E \sin(\pi y) f(y)}{E f(y)}, \quad f(y) = e^{-\cos(\pi y) / (2 \pi \nu)},
              \quad y = x - \sqrt{4 \nu t}\, z

    with the weight exp(-z^2), by sums at equal steps, whose error falls exponentially for every nu.

    Args:
        nu: the viscosity.
    Source: Basdevant et al. 1986, Comput. Fluids 14, 23-41.

    Example:
        >>> u = Burgers().exact(torch.tensor([[0.5, 0.5], [0.5, 0.0]], dtype=torch.float64))
        >>> [round(value, 4) for value in u.tolist()]
        [-0.5928, -1.0]
    """

    dim: Literal[1] = 1
    nu: float = 0.01 / math.pi
    coordinates = ("x", "t")
    conditions = (Dirichlet(), Initial(lambda x: -(torch.pi * x[:, 0]).sin()))

    def __post_init__(self):
        check_positive(self, "nu")

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, -1, 1))

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t + u.value * u.x - self.nu * u.xx

    def exact(self, x: Tensor) -> Tensor:
        reach = 6 + (4 * self.nu) ** -0.5  # what comes to x has moved by at most t
        z = torch.linspace(-reach, reach, math.ceil(2 * reach / STEP) + 1, dtype=torch.float64, device=x.device)
        y = x[:, :1].double() - (4 * self.nu * x[:, 1:].double().clamp_min(1e-300)).sqrt() * z
        weight = (-(torch.pi * y).cos() / (2 * torch.pi * self.nu) - z.square()).softmax(1)
        return -((torch.pi * y).sin() * weight).sum(1).to(x)


@dataclass(frozen=True)
class AllenCahn1D(Problem):
    """u_t = 0.0001 u_xx + 5 u - 5 u^3 on a circle, -1 < x < 1, 0 < t < 1, u = x^2 cos(pi x) at t = 0: fronts.

    The initial value has an edge where the circle closes, as its slope there is 2 and -2.

    Source: Raissi, Perdikaris, Karniadakis 2019, J. Comput. Phys. 378, 686-707, section 3.2.

    Example:
        >>> AllenCahn1D().reads.names(AllenCahn1D().axes)
        ['u.t', 'u.xx']
    """

    dim: Literal[1] = 1
    coordinates = ("x", "t")
    reference = Reference(shipped("references/allen_cahn_1d.npz"))
    conditions = (Periodic("x"), Initial(lambda x: x[:, 0].square() * (torch.pi * x[:, 0]).cos()))

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, -1, 1))

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t - 1e-4 * u.xx - 5 * u.value + 5 * u.value**3


@dataclass(frozen=True)
class KdV(Problem):
    """u_t + u u_x + 0.022^2 u_xxx = 0 on a circle, -1 < x < 1, 0 < t < 1, u = cos(pi x) at t = 0: solitons.

    The equation of Korteweg and de Vries.

    Source: Zabusky, Kruskal 1965, Phys. Rev. Lett. 15, 240-243.

    Example:
        >>> KdV().reads.names(KdV().axes), sorted(KdV().exactly.met)
        (['u.x', 'u.t', 'u.xxx'], ['initial', 'periodic'])
    """

    dim: Literal[1] = 1
    coordinates = ("x", "t")
    reference = Reference(shipped("references/kdv.npz"))
    conditions = (Periodic("x"), Initial(lambda x: (torch.pi * x[:, 0]).cos()))

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, -1, 1))

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t + u.value * u.x + 0.022**2 * u.xxx


@dataclass(frozen=True)
class KuramotoSivashinsky(Problem):
    """u_t + a u u_x + b u_xx + c u_xxxx = 0 on a circle, a = 100/16, b = 100/16^2, c = 100/16^4: chaos.

    0 < x < 2 pi, 0 < t < 1, u = cos(x) (1 + sin(x)) at t = 0.

    Source: Wang, Sankaran, Perdikaris 2022 (arXiv 2203.07404).

    Example:
        >>> KuramotoSivashinsky().reads.order
        4
    """

    dim: Literal[1] = 1
    coordinates = ("x", "t")
    reference = Reference(shipped("references/kuramoto_sivashinsky.npz"))
    conditions = (Periodic("x"), Initial(lambda x: x[:, 0].cos() * (1 + x[:, 0].sin())))

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, 0, 2 * math.pi))

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t + 100 * (u.value * u.x / 16 + u.xx / 16**2 + u.xxxx / 16**4)


@dataclass(frozen=True)
class Schroedinger(Problem):
    """i h_t + h_xx / 2 + |h|^2 h = 0 on a circle, -5 < x < 5, 0 < t < pi / 2, h = 2 sech(x) at t = 0: h = re + i im.

    The initial value has a small edge where the circle closes, as its slope there is not zero.

    Source: Raissi, Perdikaris, Karniadakis 2019, J. Comput. Phys. 378, 686-707, section 3.1.

    Example:
        >>> Schroedinger().fields, sorted(Schroedinger().reading.equations)
        (('re', 'im'), ['equation_im', 'equation_re'])
    """

    dim: Literal[1] = 1
    coordinates = ("x", "t")
    fields = ("re", "im")
    reference = Reference(shipped("references/schroedinger.npz"))
    conditions = (Periodic("x"), Initial(lambda x: 2 / x[:, 0].cosh(), field="re"), Initial(0.0, field="im"))

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, -5, 5), math.pi / 2)

    def residual(self, w: Jets, x: Tensor) -> Tensor:
        h = Complex(w.re, w.im)
        return 1j * h.t + h.xx / 2 + h.abs_sq * h.value
