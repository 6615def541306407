"""Linear diffusions: with drift, of a probability, of prices, in a part from a file, with an unknown coefficient."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from kanpde.config import shipped
from kanpde.domains import Box, Cylinder, Surface
from kanpde.ground.samplers import stream
from kanpde.jets.jet import Jet
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Dirichlet, Initial, Observations
from kanpde.problems.terminal import check_positive
from kanpde.problems.unknowns import Unknown


@dataclass(frozen=True)
class AdvectionDiffusion(Problem):
    """u_t + a u_x = D u_xx on (-1, 1) x (0, 1): a pulse that moves and spreads, u given at t = 0 and at the ends.

    Exact: u = s / S exp(-(x + 1/2 - a t)^2 / (2 S^2)) with S^2 = s^2 + 2 D t.

    Args:
        speed: a.
        diffusivity: D.
        width: s, of the pulse at t = 0.

    Example:
        >>> round(AdvectionDiffusion().exact(torch.tensor([[0.5, 1.0]])).item(), 4)
        0.7071
    """

    dim: Literal[1] = 1
    speed: float = 1.0
    diffusivity: float = 0.005
    width: float = 0.1
    coordinates = ("x", "t")

    def __post_init__(self):
        check_positive(self, "diffusivity", "width")

    @property
    def conditions(self) -> tuple:
        return Dirichlet("boundary", self.exact), Initial(self.exact)

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, -1, 1))

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t + self.speed * u.x - self.diffusivity * u.xx

    def exact(self, x: Tensor) -> Tensor:
        x, t = x.unbind(1)
        spread = self.width**2 + 2 * self.diffusivity * t
        return self.width / spread.sqrt() * (-(x + 0.5 - self.speed * t).square() / (2 * spread)).exp()


@dataclass(frozen=True)
class FokkerPlanck(Problem):
    """p_t = (theta x p)_x + D p_xx: the density of an Ornstein-Uhlenbeck process, from a Gaussian at t = 0.

    Exact: a Gaussian of mean m e^(-theta t) and variance s^2 e^(-2 theta t) + D / theta (1 - e^(-2 theta t)), of mass 1
    at all times. The domain ends seven deviations from it, where p = 0 to ten digits.

    Args:
        theta: the rate of return.
        diffusivity: D.
        mean, deviation: m and s, at t = 0.

    Example:
        >>> problem = FokkerPlanck()
        >>> x = torch.linspace(*problem.domain.space.sides[0], 1001, dtype=torch.float64)
        >>> round(torch.trapezoid(problem.exact(torch.stack([x, torch.ones_like(x)], 1)), x).item(), 9)
        1.0
    """

    dim: Literal[1] = 1
    theta: float = 1.0
    diffusivity: float = 0.5
    mean: float = 1.0
    deviation: float = 0.5
    coordinates = ("x", "t")

    def __post_init__(self):
        check_positive(self, "theta", "diffusivity", "deviation")

    @property
    def conditions(self) -> tuple:
        return Dirichlet(), Initial(self.exact)

    @property
    def domain(self) -> Cylinder:
        reach = abs(self.mean) + 7 * max(self.deviation, (self.diffusivity / self.theta) ** 0.5)
        return Cylinder(Box(1, -reach, reach))

    def residual(self, p: Jet, x: Tensor) -> Tensor:
        return p.t - self.theta * (p.value + x[:, 0] * p.x) - self.diffusivity * p.xx

    def exact(self, x: Tensor) -> Tensor:
        x, t = x.unbind(1)
        left = (-2 * self.theta * t).exp()
        variance = self.deviation**2 * left + self.diffusivity / self.theta * (1 - left)
        return (-(x - self.mean * left.sqrt()).square() / (2 * variance)).exp() / (2 * torch.pi * variance).sqrt()


@dataclass(frozen=True)
class BlackScholes(Problem):
    """V_t = sigma^2 / 2 s^2 V_ss + r (s V_s - V), V = max(s - K, 0) at t = 0: a European call, in time to maturity.

    Exact: the formula of Black and Scholes. The domain ends seven deviations above the strike, where V = s - K e^(-r t)
    to ten digits. The kink of the payoff is in no function that is smooth: V at t = 0 is a term of the loss.

    Args:
        strike: K.
        rate: r, of interest.
        volatility: sigma.
        time: to maturity, at most.
    Source: Black, Scholes 1973, J. Polit. Econ. 81, 637-654.

    Example:
        >>> round(BlackScholes().exact(torch.tensor([[1.0, 1.0]])).item(), 6)
        0.104506
    """

    dim: Literal[1] = 1
    strike: float = 1.0
    rate: float = 0.05
    volatility: float = 0.2
    time: float = 1.0
    coordinates = ("s", "t")

    def __post_init__(self):
        check_positive(self, "strike", "volatility", "time")

    @property
    def conditions(self) -> tuple:
        far = Dirichlet("s = high", lambda x: x[:, 0] - self.strike * (-self.rate * x[:, 1]).exp())
        return Dirichlet("s = low", 0.0), far, Initial(lambda x: (x[:, 0] - self.strike).relu())

    @property
    def domain(self) -> Cylinder:
        high = self.strike * math.exp(7 * self.volatility * self.time**0.5)
        return Cylinder(Box(1, 0, high), self.time)

    def residual(self, v: Jet, x: Tensor) -> Tensor:
        s = x[:, 0]
        return v.t - self.volatility**2 / 2 * s**2 * v.ss - self.rate * (s * v.s - v.value)

    def exact(self, x: Tensor) -> Tensor:
        s, t = x.double().unbind(1)
        deviation = self.volatility * t.clamp_min(1e-300).sqrt()
        d = ((s / self.strike).log() + self.rate * t) / deviation
        normal = torch.special.ndtr
        discounted = self.strike * (-self.rate * t).exp() * normal(d - deviation / 2)
        return (s * normal(d + deviation / 2) - discounted).to(x)


@dataclass(frozen=True)
class STLDiffusion(Problem):
    """Lap u = 0 in a part from an STL file, u given on its surface; exact: the harmonic x^2 - y^2 + x y z.

    Args:
        part: an STL file, or any other that `kanpde.domains.Surface` reads; None: a bracket that is shipped.

    Example:
        >>> part = STLDiffusion().domain
        >>> part.dim, len(part.interior(8, torch.Generator().manual_seed(0)))
        (3, 8)
    """

    dim: Literal[3] = 3
    part: str | None = None
    coordinates = ("x", "y", "z")

    @property
    def conditions(self) -> tuple:
        return (Dirichlet("boundary", self.exact),)

    @cached_property
    def domain(self) -> Surface:
        return Surface(self.part or shipped("references/bracket.stl"))

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.lap

    def exact(self, x: Tensor) -> Tensor:
        x, y, z = x.unbind(1)
        return x**2 - y**2 + x * y * z


@dataclass(frozen=True)
class InverseDiffusion(Problem):
    """-(a u')' = f on (0, 1), u = 0 at the ends: a, which is 2 + 3 x, from noisy observations of u = sin(pi x).

    a = a0 + a1 x, two unknown numbers.

    Args:
        observations: how many, at random points.
        noise: their standard deviation.
        seed: of both.

    Example:
        >>> InverseDiffusion().reads.names(InverseDiffusion().axes)
        ['u.x', 'u.xx']
    """

    dim: Literal[1] = 1
    observations: int = 200
    noise: float = 0.02
    seed: int = 0
    coordinates = ("x",)
    a0 = Unknown(1.0)
    a1 = Unknown(0.0)

    def __post_init__(self):
        check_positive(self, "observations", "noise")

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor]:
        """Points and values of the observations."""
        drawn = stream(self.seed, "observations")
        x = torch.rand(self.observations, 1, generator=drawn, dtype=torch.float64)
        return x, self.exact(x) + self.noise * torch.randn(len(x), generator=drawn, dtype=torch.float64)

    @property
    def conditions(self) -> tuple:
        return Dirichlet(), Observations(*self.seen, self.noise)

    @property
    def domain(self) -> Box:
        return Box(1, 0, 1)

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        return -(self.a0 + self.a1 * x[:, 0]) * u.xx - self.a1 * u.x

    def source(self, x: Tensor) -> Tensor:
        x = torch.pi * x[:, 0]
        return (2 * torch.pi**2 + 3 * torch.pi * x) * x.sin() - 3 * torch.pi * x.cos()

    def exact(self, x: Tensor) -> Tensor:
        return (torch.pi * x[:, 0]).sin()
