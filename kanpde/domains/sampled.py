"""A domain whose points inside are drawn by a law of one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_law, space_of, time_of
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Field

TRIED = 16  # points that are drawn to see whether the law gives points


@dataclass(frozen=True)
class Sampled(Domain):
    """A domain of space, with another law for the points inside; all else is that of the domain.

    Of a law with density p (times a constant), weights 1 / p make the mean over its points that over the volume: they
    weigh the squares of the residual and of its gradient. Errors and validation are by the law as well.

    Args:
        domain: of space.
        law: (n, generator) -> points (n, d), all randomness from the generator, on its device.
        weights: of points x (N, d) -> (N,), not below zero; None: all are 1.
    Raises:
        ConfigError: a domain with time, or a law that gives anything but n points of the domain.

    Example:
        >>> from kanpde.domains import Box
        >>> near_zero = lambda n, g: torch.rand(n, 1, generator=g, device=g.device) ** 2  # density 1 / (2 sqrt x)
        >>> domain = Sampled(Box(1, 0, 1), near_zero, lambda x: 2 * x[:, 0].sqrt())
        >>> x = domain.interior(100_000, torch.Generator().manual_seed(0))
        >>> round((domain.importance(x) * x[:, 0]).mean().item(), 2)  # of x over (0, 1)
        0.5
    """

    domain: Domain
    law: Callable[[int, torch.Generator], Tensor]
    weights: Callable[[Tensor], Tensor] | None = None
    laws = ("own",)

    def __post_init__(self):
        if time_of(self.domain) is not None:
            raise ConfigError(f"Sampled: given a {type(self.domain).__name__}; sample its space, then add time")
        x = self.interior(TRIED, torch.Generator().manual_seed(0))
        if not self.contains(x).all():
            raise ConfigError("Sampled: law: it gives points outside of the domain")

    @property
    def dim(self) -> int:
        return self.domain.dim

    def interior(
        self, n: int, generator: torch.Generator, law: str = "own", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points by the law, whatever the sequence.

        Raises:
            ConfigError: the law gives something else.
        """
        check_law(law, self.laws)
        x = self.law(n, generator)
        if not isinstance(x, Tensor) or x.shape != (n, self.dim) or not x.is_floating_point():
            given = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ConfigError(f"Sampled: law: given {given} for n = {n}, needed are points ({n}, {self.dim})")
        return x.to(generator.device, kind.get("dtype") or x.dtype)

    def importance(self, x: Tensor) -> Tensor | None:
        """The weights at points, (N,)."""
        return None if self.weights is None else self.weights(x)

    @property
    def boundary(self) -> Any:
        """That of the domain."""
        return self.domain.boundary

    def contains(self, x: Tensor) -> Tensor:
        return self.domain.contains(x)

    def factor(self, x: Tensor) -> Field | None:
        return self.domain.factor(x)

    def level(self, x: Tensor) -> Tensor:
        return self.domain.level(x)

    def normal(self, x: Tensor) -> Tensor:
        return self.domain.normal(x)

    @property
    def triangles(self) -> tuple[Tensor, Tensor] | None:
        return getattr(self.domain, "triangles", None)

    @property
    def volume(self) -> float:
        return self.domain.volume

    @property
    def area(self) -> float:
        return self.domain.area

    def input_range(self, law: str) -> Sequence[tuple[float, float]]:
        return self.domain.input_range(self.domain.laws[0])

    def frame(self) -> tuple[Sequence[float], float | Sequence[float]]:
        return self.domain.frame()

    @property
    def sides(self) -> Any:
        """Those of a box, which are named in conditions; None: it has none."""
        return getattr(space_of(self.domain), "sides", None)
