"""All of space, or its positive part, by laws that diffusions reach."""

from dataclasses import dataclass
from math import exp, expm1, inf, sqrt
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.ball import GRID_DEVIATIONS
from kanpde.domains.base import Domain, check_law, dimension, length, numbers, set_fields
from kanpde.ground.samplers import gaussians

FRAME_DEVIATIONS = 3.0


class Unbounded(Domain):
    """A domain without a boundary; u is the network itself."""

    boundary = None

    def factor(self, x: Tensor) -> None:
        """None: u is zero nowhere."""

    @property
    def volume(self) -> float:
        """Infinite."""
        return inf

    @property
    def area(self) -> float:
        """There is no boundary: 0."""
        return 0.0


@dataclass(frozen=True)
class Gaussian(Unbounded):
    """All of R^dim, with points drawn from the normal distribution N(center, sigma^2 I).

    Centre and half-width, of pictures and units, are those of the cube of three standard deviations; the first grid
    has four.

    Args:
        dim: d.
        sigma: the standard deviation of each coordinate.
        center: d numbers; None: the origin.
    Raises:
        ConfigError: not finite, a sigma that is not above 0, or another number of coordinates.

    Example:
        >>> Gaussian(2, 0.5, (1.0, 0.0)).frame()
        ([1.0, 0.0], 1.5)
    """

    dim: int
    sigma: float = 1.0
    center: tuple[float, ...] | None = None
    laws = ("normal",)

    def __post_init__(self):
        set_fields(self, dim=dimension(self), sigma=length("Gaussian", "sigma", self.sigma))
        if self.center is not None:
            set_fields(self, center=numbers("Gaussian", "center", self.center, self.dim))

    def interior(
        self, n: int, generator: torch.Generator, law: str = "normal", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points (n, dim) of the normal distribution."""
        check_law(law, self.laws)
        x = self.sigma * gaussians(n, self.dim, generator, sequence, **kind)
        return x if self.center is None else x + x.new_tensor(self.center)

    def earlier(self, x: Tensor, share: Tensor) -> Tensor:
        """Points of Brownian paths at a share (N, 1) of the time at whose end they are at x (N, dim), in law."""
        centre = 0.0 if self.center is None else x.new_tensor(self.center)
        return centre + share.sqrt() * (x - centre)

    def contains(self, x: Tensor) -> Tensor:
        return torch.ones(len(x), dtype=torch.bool, device=x.device)

    def input_range(self, law: str) -> list[tuple[float, float]]:
        reach = GRID_DEVIATIONS * self.sigma
        return [(c - reach, c + reach) for c in self.center or [0.0] * self.dim]

    def frame(self) -> tuple[list[float], float]:
        """Centre, and three standard deviations."""
        return list(self.center or [0.0] * self.dim), FRAME_DEVIATIONS * self.sigma


@dataclass(frozen=True)
class LogNormal(Unbounded):
    r"""The points with positive coordinates, of a law under which prices move.

    .. math:: x_i = c_i \exp(\sigma Z_i - \sigma^2 / 2), \qquad Z \sim N(0, I), \quad E\, x = c

    Centre and half-width, of pictures and units, are c and three standard deviations; the first grid has four of the
    logarithm.

    Args:
        dim: d.
        sigma: the standard deviation of the logarithm of each coordinate.
        center: c, a number above 0 for all coordinates, or one for each.
    Raises:
        ConfigError: not finite, a sigma or center that is not above 0, or another number of coordinates.

    Example:
        >>> x = LogNormal(2, 0.4, (1.0, 2.0)).interior(100_000, torch.Generator().manual_seed(0))
        >>> [round(mean, 1) for mean in x.mean(0).tolist()]
        [1.0, 2.0]
    """

    dim: int
    sigma: float = 1.0
    center: float | tuple[float, ...] = 1.0
    laws = ("lognormal",)

    def __post_init__(self):
        set_fields(self, dim=dimension(self), sigma=length("LogNormal", "sigma", self.sigma))
        given = self.center if hasattr(self.center, "__len__") else (self.center,) * self.dim
        centre = numbers("LogNormal", "center", given, self.dim)
        set_fields(self, center=tuple(length("LogNormal", "center", c) for c in centre))

    def interior(
        self, n: int, generator: torch.Generator, law: str = "lognormal", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points (n, dim) of the law."""
        check_law(law, self.laws)
        z = gaussians(n, self.dim, generator, sequence, **kind)
        return z.new_tensor(self.center) * (self.sigma * z - self.sigma**2 / 2).exp()

    def earlier(self, x: Tensor, share: Tensor) -> Tensor:
        """Points of geometric Brownian paths at a share (N, 1) of the time at whose end they are at x, in law."""
        centre, drift = x.new_tensor(self.center), self.sigma**2 / 2
        return centre * (share.sqrt() * ((x / centre).log() + drift) - share * drift).exp()

    def contains(self, x: Tensor) -> Tensor:
        return (x > 0).all(-1)

    def input_range(self, law: str) -> list[tuple[float, float]]:
        low, high = (exp(sign * GRID_DEVIATIONS * self.sigma) for sign in (-1, 1))
        return [(c * low, c * high) for c in self.center]

    def frame(self) -> tuple[list[float], list[float]]:
        """Centre, and three standard deviations of each coordinate."""
        deviation = sqrt(expm1(self.sigma**2))
        return list(self.center), [FRAME_DEVIATIONS * deviation * c for c in self.center]
