"""Semilinear elliptic equations Lap u + N(u) = g on the unit ball, u = 0 on its boundary."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor

from kanpde.domains import Ball
from kanpde.domains.ball import SlicedBall
from kanpde.jets.jet import Jet
from kanpde.jets.slices import WHOLE
from kanpde.problems.base import Problem
from kanpde.problems.solutions import REACH, BallSolution

SolutionName = Literal["two_body", "three_body", "scaled", "coupled"]


@dataclass(frozen=True)
class Poisson(Problem):
    """Lap u = g on the unit ball, u = 0 on its boundary; exact solution u = (1 - |x|^2) f.

    Args:
        dim: d.
        seed: of the coefficients of the solution.
        solution: two_body, three_body, scaled or coupled (`kanpde.problems.solutions`).
    Source: MetaKAN, ICML 2025, eqs. 22-24, after Hu et al. 2024 (arXiv 2307.12306).

    Example:
        >>> import torch
        >>> x = torch.nn.functional.normalize(torch.ones(1, 100))  # on the unit sphere
        >>> Poisson(100).exact(x).abs().item() < 1e-5
        True
    """

    seed: int = 0
    solution: SolutionName = "two_body"
    sliceable = True

    def __post_init__(self):
        check_solution(self.solution, self.dim, self.seed)

    @cached_property
    def closed_form(self) -> BallSolution:
        return BallSolution(self.solution, self.dim, self.seed, self.input_slice)

    @property
    def domain(self) -> Ball:
        return Ball(self.dim) if self.input_slice is WHOLE else SlicedBall(self.dim, inputs=self.input_slice)

    def nonlinearity(self, u: Tensor) -> Tensor | float:
        """N(u)."""
        return 0.0

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        return u.lap + self.nonlinearity(u.value)

    def exact(self, x: Tensor) -> Tensor:
        return self.closed_form.value(x)

    def source(self, x: Tensor) -> Tensor:
        """g = Lap u* + N(u*)."""
        value, laplacian = self.closed_form.value_and_laplacian(x)
        return laplacian + self.nonlinearity(value)

    def taylor(self) -> tuple | None:
        return self.closed_form.taylor() if self.input_slice is WHOLE else None

    def taylor_polynomials(self, x: Tensor) -> dict[str, Tensor]:
        """Of sliced inputs the polynomials of which `taylor` are the coefficients, at points."""
        return self.closed_form.taylor_polynomials(x)

    def untrained(self, x: Tensor) -> Tensor:
        """-m g / (2 d), since Lap (m f) is about -2 d f."""
        return -self.factor(x).value * self.source(x) / (2 * self.dim)


@dataclass(frozen=True)
class AllenCahn(Poisson):
    """Lap u + u - u^3 = g on the unit ball, u = 0 on its boundary; otherwise as `Poisson`.

    Example:
        >>> import torch
        >>> AllenCahn(5).exact(torch.zeros(2, 5)).shape
        torch.Size([2])
    """

    def nonlinearity(self, u: Tensor) -> Tensor:
        return u - u**3


@dataclass(frozen=True)
class SineGordon(Poisson):
    """Lap u + sin u = g on the unit ball, u = 0 on its boundary; otherwise as `Poisson`.

    Example:
        >>> import torch
        >>> SineGordon(5, seed=1).source(torch.zeros(2, 5)).shape
        torch.Size([2])
    """

    def nonlinearity(self, u: Tensor) -> Tensor:
        return u.sin()


def check_solution(name: str, dim: int, seed: int) -> None:
    """Raises ValueError where the dimension is too small for the solution, or numpy has no such seed."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed: given {seed}, needed is 0 to {2**32 - 1}")
    if name not in REACH:
        raise ValueError(f"solution {name!r} is not one of {', '.join(REACH)}")
    if dim < REACH[name] + 1:
        raise ValueError(
            f"solution {name} couples {REACH[name] + 1} coordinates: dim must be at least that, given {dim}"
        )
