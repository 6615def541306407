"""Terminal value problems u_t + L u = F(u), u(., T) = g, on the paths of which u(x_0, 0) is a mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from kanpde.domains import Gaussian, LogNormal, Paths
from kanpde.jets.jet import Jet
from kanpde.problems.base import Problem, unit
from kanpde.problems.conditions import Terminal

NODES = 200  # of a Gauss-Legendre quadrature


@dataclass(frozen=True)
class TerminalValueProblem(Problem):
    """What these have in common: u is the network itself, u(., T) a term of the loss, and the residual one per time.

    Built in, u(., T) would be the terminal value at all times, from which u(x_0, 0) is far in many dimensions.
    """

    time: float = 1.0
    default_solver: ClassVar[str | None] = "terminal"

    @property
    def residual_scale(self) -> float:
        """The length of time: u_t is of the size of u / T."""
        return self.time


@dataclass(frozen=True)
class OnBrownianPaths(TerminalValueProblem):
    """Those with u_t + Lap u: u.along[:, 0] is u_t, on the paths X_t = sqrt(2) W_t."""

    @property
    def domain(self) -> Paths:
        return Paths(Gaussian(self.dim, (2 * self.time) ** 0.5), self.time)

    def coefficients(self, x: Tensor) -> Tensor:
        return in_space_alone(x.new_ones(self.dim))

    def directions(self, x: Tensor) -> Tensor:
        return unit(self.dim + 1, -1, x)


@dataclass(frozen=True)
class HJBControl(OnBrownianPaths):
    r"""u_t + Lap u - lambda |grad u|^2 = 0 with u(x, T) = ln((1 + |x|^2) / 2): the cost of a linear-quadratic control.

    On the paths X_t = sqrt(2) W_t. The exact solution is the mean of the transformation of Hopf and Cole,

    .. math:: u(x, t) = -\frac 1\lambda \ln E\, (2 / (1 + |X|^2))^\lambda, \qquad
              X = x + \sqrt{2 (T - t)}\, Z, \quad Z \sim N(0, I),

    an integral over one variable: E e^{-s |X|^2} = (1 + 4 tau s)^{-d/2} exp(-|x|^2 s / (1 + 4 tau s)), tau = T - t.

    Args:
        dim: d, coordinates of space.
        time: T.
        strength: lambda, of the control.
    Source: Han, Jentzen, E 2018 (arXiv 1707.02568), eqs. 9 to 11: u(0, 0) = 4.5901 for d = 100, T = 1, lambda = 1.

    Example:
        >>> u = HJBControl(100).exact(torch.zeros(1, 101, dtype=torch.float64))
        >>> round(u.item(), 4)
        4.5902
    """

    strength: float = 1.0
    conditions = (Terminal(lambda x: ((1 + x[:, :-1].square().sum(1)) / 2).log()),)

    def __post_init__(self):
        check_positive(self, "time", "strength")

    @property
    def points_of_interest(self) -> Mapping[str, Any]:
        published = (self.dim, self.time, self.strength) == (100, 1.0, 1.0)
        return {"u(0, 0)": ((0.0,) * (self.dim + 1), 4.5901)} if published else {}

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.along[:, 0] + u.lap - self.strength * u.grad_sq

    def exact(self, x: Tensor) -> Tensor:
        r"""By the quadrature of 2^lambda / Gamma(lambda) int s^{lambda - 1} e^{-s} E e^{-s |X|^2} ds."""
        tau, r_sq = (self.time - x[:, -1:]).double(), x[:, :-1].double().square().sum(1, keepdim=True)
        rate = 1 + r_sq + 2 * self.dim * tau  # at which the integrand falls at first
        nodes, weights = (torch.from_numpy(t).to(x.device) for t in np.polynomial.legendre.leggauss(NODES))
        w = (nodes + 1) / 2
        v, power = w / (1 - w), max(1.0, 1 / self.strength)  # by which s^{lambda - 1} is not singular
        s = v**power / rate
        spread = 1 + 4 * tau * s
        logarithm = (power * self.strength - 1) * v.log() - s - self.dim / 2 * spread.log() - r_sq * s / spread
        integral = (weights / 2 / (1 - w).square() * logarithm.exp()).sum(1, keepdim=True)
        constant = math.log(power) + self.strength * math.log(2) - math.lgamma(self.strength)
        return (rate.log() - (integral.log() + constant) / self.strength).squeeze(1).to(x)


@dataclass(frozen=True)
class BlackScholesBarenblatt(TerminalValueProblem):
    r"""u_t + sigma^2 / 2 sum_i x_i^2 u_ii = r (u - x . grad u) with u(x, T) = |x|^2: an option on d assets.

    On the paths of prices dX = sigma X dW from x_0 = (1, 1/2, 1, 1/2, ...). Exact: e^{(r + sigma^2)(T - t)} |x|^2.

    Args:
        dim: d, assets.
        time: T.
        rate: r, of interest.
        volatility: sigma.
    Source: Raissi 2018 (arXiv 1804.07010), section 4.1: u(x_0, 0) = 77.1049 for d = 100.

    Example:
        >>> problem = BlackScholesBarenblatt(100)
        >>> x_0 = problem.domain.initial(1, torch.Generator().manual_seed(0))
        >>> round(problem.exact(x_0).item(), 3)
        77.105
    """

    rate: float = 0.05
    volatility: float = 0.4
    conditions = (Terminal(lambda x: x[:, :-1].square().sum(1)),)

    def __post_init__(self):
        check_positive(self, "time", "volatility")

    @property
    def first(self) -> tuple[float, ...]:
        """x_0."""
        return tuple(1.0 if i % 2 == 0 else 0.5 for i in range(self.dim))

    @property
    def domain(self) -> Paths:
        return Paths(LogNormal(self.dim, self.volatility * self.time**0.5, self.first), self.time)

    @property
    def points_of_interest(self) -> Mapping[str, Any]:
        published = (self.dim, self.time, self.rate, self.volatility) == (100, 1.0, 0.05, 0.4)
        return {"u(x_0, 0)": ((*self.first, 0.0), 77.1049)} if published else {}

    def coefficients(self, x: Tensor) -> Tensor:
        return in_space_alone(self.volatility**2 / 2 * x[:, :-1].square())

    def directions(self, x: Tensor) -> Tensor:
        """(r x, 1)."""
        return torch.cat([self.rate * x[:, :-1], torch.ones_like(x[:, -1:])], 1).unsqueeze(1)

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.along[:, 0] + u.lap - self.rate * u.value

    def exact(self, x: Tensor) -> Tensor:
        growth = (self.rate + self.volatility**2) * (self.time - x[:, -1])
        return growth.exp() * x[:, :-1].square().sum(1)


@dataclass(frozen=True)
class AllenCahnPaths(OnBrownianPaths):
    """u_t + Lap u + u - u^3 = 0 with u(x, T) = 1 / (2 + 2/5 |x|^2), the Allen-Cahn equation in time.

    On the paths X_t = sqrt(2) W_t. There is no exact solution.

    Args:
        dim: d, coordinates of space.
        time: T.
    Source: Han, Jentzen, E 2018 (arXiv 1707.02568), eq. 15: u(0, 0) = 0.0528 for d = 100, T = 0.3, by branching
        diffusions.

    Example:
        >>> AllenCahnPaths(100).points_of_interest["u(0, 0)"][1]  # as published
        0.0528
    """

    time: float = 0.3
    conditions = (Terminal(lambda x: 1 / (2 + 0.4 * x[:, :-1].square().sum(1))),)

    def __post_init__(self):
        check_positive(self, "time")

    @property
    def points_of_interest(self) -> Mapping[str, Any]:
        published = (self.dim, self.time) == (100, 0.3)
        return {"u(0, 0)": ((0.0,) * (self.dim + 1), 0.0528)} if published else {}

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.along[:, 0] + u.lap + u.value - u.value**3


def in_space_alone(s: Tensor) -> Tensor:
    """Coefficients (..., d) of second derivatives with 0 for time after them."""
    return torch.cat([s, torch.zeros_like(s[..., :1])], -1)


def check_positive(problem: Problem, *names: str) -> None:
    """Raises ValueError for a number that is not above 0."""
    for name in names:
        if not 0 < getattr(problem, name) < float("inf"):
            raise ValueError(f"{name}: given {getattr(problem, name)!r}, needed is a finite number above 0")
