"""Space-time: all of a domain of space at all times, or the points of a diffusion on its way."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_members, importance_of, kinds_of, length, set_fields
from kanpde.jets.ansatz import Field


@dataclass(frozen=True)
class Cylinder(Domain):
    """Space-time: a spatial domain times [0, time]; the last coordinate is t.

    Example:
        >>> from kanpde.domains import Box
        >>> heated = Cylinder(Box(2), time=0.5)
        >>> x = heated.interior(100, torch.Generator().manual_seed(0))
        >>> x.shape, bool((x[:, -1] <= 0.5).all())
        (torch.Size([100, 3]), True)
    """

    space: Domain
    time: float = 1.0

    def __post_init__(self):
        check_members(self.space, ("dim", "laws", "interior"))
        set_fields(self, time=length("Cylinder", "time", self.time))

    @property
    def dim(self) -> int:
        return self.space.dim + 1

    @property
    def laws(self) -> tuple[str, ...]:
        return self.space.laws

    def interior(
        self, n: int, generator: torch.Generator, law: str | None = None, sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points (n, dim): space by its law and sequence, time uniform and always plain."""
        return self._in_time(self.space.interior(n, generator, law or self.laws[0], sequence, **kind), generator)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points on the lateral boundary."""
        return self._in_time(self.space.boundary(n, generator, sequence, **kind), generator)

    def initial(
        self, n: int, generator: torch.Generator, law: str | None = None, sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points at t = 0."""
        return self.at_time(0.0, n, generator, law, sequence, **kind)

    def at_time(
        self,
        t: float,
        n: int,
        generator: torch.Generator,
        law: str | None = None,
        sequence: str = "random",
        **kind: Any,
    ) -> Tensor:
        """n points at a time t."""
        x = self.space.interior(n, generator, law or self.laws[0], sequence, **kind)
        return self._at(x, x.new_full((n, 1), t))

    def _in_time(self, x: Tensor, generator: torch.Generator) -> Tensor:
        t = torch.rand(len(x), 1, generator=generator, device=x.device, dtype=x.dtype)
        return self._at(x, self.time * t)

    def _at(self, x: Tensor, t: Tensor) -> Tensor:
        """Points of space, drawn by its law, at times (N, 1)."""
        return torch.cat([x, t], 1)

    def contains(self, x: Tensor) -> Tensor:
        return self.space.contains(x[:, :-1]) & (x[:, -1] >= 0) & (x[:, -1] <= self.time)

    def factor(self, x: Tensor) -> Field | None:
        """m = t m_space: zero at t = 0 and on the lateral boundary; t where space has no boundary."""
        t = x[:, -1:]
        if (m := self.space.factor(x[:, :-1])) is None:
            if "boundary" in kinds_of(self):
                return None
            m = Field(torch.ones_like(t[:, 0]), torch.zeros_like(x[:, :-1]), torch.zeros_like(t))
        second = (t * m.hessian_diagonal).expand(len(x), self.space.dim)
        return Field(
            t[:, 0] * m.value,
            torch.cat([t * m.grad, m.value[:, None]], 1),
            torch.cat([second, torch.zeros_like(t)], 1),
        )

    def importance(self, x: Tensor) -> Tensor | None:
        """That of space."""
        return importance_of(self.space, x[:, :-1])

    def until(self, time: float) -> "Cylinder":
        """The same space for another length of time."""
        return replace(self, time=time)

    def normal(self, x: Tensor) -> Tensor:
        """That of space, without a component in time."""
        return torch.cat([self.space.normal(x[:, :-1]), torch.zeros_like(x[:, -1:])], 1)

    @property
    def volume(self) -> float:
        """That of space by the time."""
        return self.space.volume * self.time

    @property
    def area(self) -> float:
        """Of the lateral boundary: that of space by the time."""
        return self.space.area * self.time

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return [*self.space.input_range(law), (0.0, self.time)]

    def frame(self) -> tuple[list[float], float]:
        """Centre, in the middle of time, and half-width: one of space, or one for each coordinate where it has many."""
        centre, reach = self.space.frame()
        reach = reach if isinstance(reach, float | int) else [*reach, self.time / 2]
        return [*centre, self.time / 2], reach


@dataclass(frozen=True)
class Paths(Cylinder):
    r"""Space-time as a diffusion sees it: points (X_t, t) on its way from one point to the law `space` at the end.

    X_t has the law of the diffusion at a time t uniform in [0, time]. That is where a terminal value problem
    u_t + L u = F is to be known for u(x_0, 0), by the formula of Feynman and Kac; in high dimension no other law has
    points near its paths.

    Args:
        space: the law at the end, a `Gaussian` (of Brownian paths x_0 + sigma W_t, with its `sigma` = sigma
            sqrt(time)) or a `LogNormal` (of geometric ones), or any with `earlier(x, share)`.
        time: the length of time.

    Example:
        >>> from kanpde.domains import Gaussian
        >>> paths = Paths(Gaussian(2, 2.0, (1.0, 3.0)), time=0.5)
        >>> paths.initial(2, torch.Generator().manual_seed(0))
        tensor([[1., 3., 0.],
                [1., 3., 0.]])
    """

    until = None  # its law knows the end of time

    def __post_init__(self):
        super().__post_init__()
        check_members(self.space, ("earlier",))

    def _at(self, x: Tensor, t: Tensor) -> Tensor:
        return super()._at(self.space.earlier(x, t / self.time), t)
