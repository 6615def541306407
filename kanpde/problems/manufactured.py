"""Poisson equations that measure precision: a network of few units holds their solutions."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kanpde.domains import Box
from kanpde.jets.jet import Jet
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Dirichlet


class OnUnitBox(Problem):
    """Lap u = g on (0, 1)^d with the values of the solution on the boundary."""

    @property
    def domain(self) -> Box:
        return Box(self.dim, 0, 1)

    @property
    def conditions(self) -> tuple:
        return (Dirichlet(value=self.exact),)

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        return u.lap


@dataclass(frozen=True)
class PoissonPairs(OnUnitBox):
    """Lap u = 0 on (0, 1)^d, d even; u = x1 x2 + x3 x4 + ... on the boundary, and within.

    4 x1 x2 = (x1 + x2)^2 - (x1 - x2)^2: squares of d sums of inputs, which two layers of a KAN hold.

    Args:
        dim: d.
    Raises:
        ValueError: d is odd.
    Source: E, Yu 2018, Commun. Math. Stat. 6, 1-12.

    Example:
        >>> PoissonPairs(4).exact(torch.tensor([[1.0, 2.0, 3.0, 4.0]])).item()
        14.0
    """

    dim: int = 10

    def __post_init__(self):
        if self.dim % 2:
            raise ValueError(f"dim must be even, given {self.dim}")

    def source(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x))

    def exact(self, x: Tensor) -> Tensor:
        return (x[:, ::2] * x[:, 1::2]).sum(1)


@dataclass(frozen=True)
class PoissonCos(OnUnitBox):
    """-Lap u = pi^2 sum_i cos(pi x_i) on (0, 1)^d; u = sum_i cos(pi x_i) on the boundary, and within.

    A sum of functions of one input: one layer of a KAN holds it.

    Args:
        dim: d.
    Source: Dangel, Müller, Zeinhofer 2024 (arXiv 2405.15603).

    Example:
        >>> PoissonCos().exact(torch.zeros(1, 5)).item()
        5.0
    """

    dim: int = 5

    def source(self, x: Tensor) -> Tensor:
        return -(torch.pi**2) * self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return (torch.pi * x).cos().sum(1)


@dataclass(frozen=True)
class Multiscale(OnUnitBox):
    """-Lap u = pi^2 sum_w w^2 sin(w pi x) sin(w pi y) / 2 on (0, 1)^2, u = 0 on the boundary; w = 4, 8, 12, 16.

    u = sum_w sin(w pi x) sin(w pi y) / 4: waves of several lengths, of which a network learns the long ones first.

    Args:
        waves: half waves along each side.

    Example:
        >>> round(Multiscale(waves=(1, 3)).exact(torch.tensor([[0.5, 0.5]])).item(), 6)
        1.0
    """

    dim: Literal[2] = 2
    waves: tuple[int, ...] = (4, 8, 12, 16)
    coordinates = ("x", "y")

    def source(self, x: Tensor) -> Tensor:
        return sum(-2 * (w * torch.pi) ** 2 * self._wave(w, x) for w in self.waves)

    def exact(self, x: Tensor) -> Tensor:
        return sum(self._wave(w, x) for w in self.waves)

    def _wave(self, w: int, x: Tensor) -> Tensor:
        return (w * torch.pi * x).sin().prod(1) / len(self.waves)
