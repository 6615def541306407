"""What a method is, and what several of them need."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kanpde.domains import Ball
from kanpde.verification.equation import DefectEquation, NotVerifiable

GROWS = 3.0  # the most of q, where it is above zero, times the time there is
RESONATES = (
    0.5  # without time: the same times the mean time of a walk, 1 over which is below the first eigenvalue of -Lap
)


class Unfit(NotVerifiable):
    """What a method is not made for, which is no reason if another one is."""


class Method:
    """What draws samples of the defect; made only for what it is valid for.

    Attributes:
        says: its name, for the result file.
        longest: the mean time of a walk at most, sup_x of the integral of its Green function.
    Raises:
        NotVerifiable: the equation is none of those.

    Example:
        >>> from kanpde import Ansatz, backbones
        >>> from kanpde.problems import Poisson
        >>> from kanpde.verification.equation import DefectEquation
        >>> from kanpde.verification.methods import method_of
        >>> u = Ansatz(Poisson(3), backbones.build("kan", 3, widths=[4]))
        >>> method_of(DefectEquation(u)).says
        'Green function of the ball'
    """

    says: str

    def __init__(self, equation: DefectEquation):
        self.equation = equation
        half, d = torch.as_tensor(equation.space.frame()[1], dtype=torch.float64), equation.space.dim
        self.half = half.max().item()
        self.longest = half.expand(d).square().sum().item() / (2 * d)
        if isinstance(equation.space, Ball):
            self.longest = self.half**2 / (2 * d)
        if equation.k is not None:
            self.longest = min(self.longest, equation.k * equation.time)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A sample at each of the points x (N, n_inputs), independent of the others, whose mean is e: (N,)."""
        raise NotImplementedError

    def distance(self, x: Tensor) -> Tensor:
        """From points of space to the boundary, at most."""
        space = self.equation.space
        try:
            return space.distance(x)
        except (NotImplementedError, AttributeError):
            raise NotVerifiable(f"a {type(space).__name__} has no distance to its boundary") from None

    def _at_boundary(self, x: Tensor) -> Tensor:
        """The points of the boundary nearest to points near it."""
        d = self.equation.space.dim
        return torch.cat([self.equation.space.nearest(x[:, :d]), x[:, d:]], 1)

    def _check_growth(self, q: float, longest: float) -> None:
        if q * longest > (RESONATES if self.equation.time is None else GROWS):
            raise NotVerifiable(f"dF/du = {q:.3g} is above zero and so large that paths may grow without bound")

    def _check_scalar(self) -> None:
        if self.equation.fluxes:
            raise Unfit("a part of the boundary has a condition on the normal derivative")
        if not self.equation.scalar or self.equation.drifts:
            raise Unfit("its principal part is not a(x) Lap u alone: there is a drift or another second derivative")


def uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(x), generator=generator, dtype=x.dtype)


@dataclass(frozen=True)
class Clock:
    """Time as the defect's equation has it: s = k t since initial values, or k (T - t) before terminal ones."""

    equation: DefectEquation

    def since(self, x: Tensor) -> Tensor:
        """s (N,) of points."""
        t = x[:, -1]
        return self.equation.k * (self.equation.time - t if self.equation.backward else t)

    def back(self, x: Tensor, by: Tensor) -> Tensor:
        """The points at a time that is so much nearer to that of the values."""
        sign = 1 if self.equation.backward else -1
        return torch.cat([x[:, :-1], (x[:, -1] + sign * by / self.equation.k).unsqueeze(1)], 1)


@dataclass(frozen=True)
class Last:
    """e at the ends of walks: a value (N,), and of those that go `on`, numbers in N, weights and the points where."""

    value: Tensor
    on: Tensor
    weight: Tensor
    x: Tensor

    @classmethod
    def known(cls, value: Tensor, x: Tensor) -> "Last":
        """Where nothing goes on."""
        return cls(value, torch.zeros(0, dtype=torch.long), value[:0], x[:0])
