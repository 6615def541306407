"""What a domain is: points in it and on its boundary, and the factor that vanishes there."""

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Sequence
from math import isfinite
from operator import index
from typing import Any, ClassVar

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Field

LAWS = ("radial", "volume")
MEMBERS = ("dim", "laws", "interior", "boundary", "contains", "factor", "input_range", "frame")


class IncompleteDomain(ConfigError, TypeError):
    """A domain that lacks members; the message is one line that names them.

    Example:
        >>> class Disc(Domain):
        ...     dim, laws = 2, ("volume",)
        >>> Disc()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        kanpde.domains.base.IncompleteDomain: the domain Disc lacks ...
    """

    def __init__(self, name: str, members: Sequence[str]):
        super().__init__(f"the domain {name} lacks {', '.join(members)}: kanpde.domains.Domain says what they are")


class _Complete(ABCMeta):
    """Objects that lack a member are refused when they are made."""

    def __call__(cls, *args, **options):
        set_by_init = getattr(cls, "__dataclass_fields__", None)
        if set_by_init is None and cls.__init__ is not object.__init__:
            set_by_init = ("dim", "laws")
        given = lambda name: hasattr(cls, name) or name in (set_by_init or ())
        if cls.__abstractmethods__:
            raise IncompleteDomain(cls.__name__, [m for m in MEMBERS if m in cls.__abstractmethods__ or not given(m)])
        made = super().__call__(*args, **options)
        check_members(made, MEMBERS)
        return made


def check_members(domain, members: Sequence[str]) -> None:
    """Raises IncompleteDomain, a ConfigError and a TypeError, where a domain has not all of these members."""
    if lacking := [name for name in members if not hasattr(domain, name)]:
        raise IncompleteDomain(type(domain).__name__, lacking)


class Domain(metaclass=_Complete):
    """What a domain of one's own derives from; an object that lacks a member is refused when it is made.

    Attributes:
        dim: d, the number of coordinates of a point.
        laws: names of the laws by which points can be drawn; the first is the default.
        boundary: a method; None in its place: there is no boundary.
        triangles: of its boundary in space, corners (V, 3) and their numbers (F, 3), for pictures; None: not of these.

    A domain with time, t in [0, time] being the last coordinate, has the attribute `time` and the method
    `initial(n, generator, law, sequence, **kind)`, points at t = 0. Points (n, dim) come in the dtype `kind["dtype"]`
    on the generator's device, and all their randomness from the generator.

    Raises:
        IncompleteDomain: a member is missing.

    Example:
        >>> from kanpde.domains import Ball, Box
        >>> (Box(2) - Ball(2, 0.5)).contains(torch.tensor([[0.0, 0.0], [0.9, 0.9]]))
        tensor([False,  True])
    """

    dim: int
    laws: tuple[str, ...]
    triangles: tuple[Tensor, Tensor] | None = None
    _combine: ClassVar[Callable[..., "Domain"]]  # `kanpde.domains.combined`, which is above this module

    @abstractmethod
    def interior(self, n: int, generator: torch.Generator, law: str, sequence: str = "random", **kind: Any) -> Tensor:
        """n points of the domain by a law, of a sequence random or sobol (`kanpde.ground.samplers.uniforms`)."""

    @abstractmethod
    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points on the boundary, in space; read where the constraint is soft."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Which of the points x (N, dim) lie in the closed domain: (N,) of bool."""

    @abstractmethod
    def factor(self, x: Tensor) -> Field | None:
        """m of the hard constraint u = h + m f at x (N, dim): zero on the boundary and at t = 0, else above zero.

        None: there is none, and values on a boundary are left to the loss.
        """

    @abstractmethod
    def input_range(self, law: str) -> Sequence[tuple[float, float]]:
        """An interval per coordinate that holds almost all points of a law: the grid of the first layer."""

    @abstractmethod
    def frame(self) -> tuple[Sequence[float], float | Sequence[float]]:
        """Centre (dim,) and half-width, one or one per coordinate: of the pictures, and the unit of length of a run."""

    def importance(self, x: Tensor) -> Tensor | None:
        """Weights (N,) of the squares at points inside, of a law that is not that of the mean; None: all are 1."""
        return None

    def level(self, x: Tensor) -> Tensor:
        """A function (N,) that is above zero inside, zero on the boundary, below outside, and smooth across it."""
        raise NotImplementedError(f"{type(self).__name__} states no level, which combinations of domains read")

    def distance(self, x: Tensor) -> Tensor:
        """At most the distance (N,) to the boundary from points inside, of points outside below zero: walks read it."""
        raise NotImplementedError(f"{type(self).__name__} states no distance to its boundary")

    def nearest(self, x: Tensor) -> Tensor:
        """The points (N, dim) of the boundary nearest to points near it."""
        return x + self.distance(x).unsqueeze(-1) * self.normal(x)

    def normal(self, x: Tensor) -> Tensor:
        """The outward unit normals (N, dim) at points of the boundary: those of the factor, which falls outwards."""
        if (m := self.factor(x)) is None:
            raise NotImplementedError(f"{type(self).__name__} states no normal")
        return -m.grad / m.grad.norm(dim=1, keepdim=True)

    @property
    def volume(self) -> float:
        """The measure of the domain."""
        raise NotImplementedError(f"{type(self).__name__} states no volume")

    @property
    def area(self) -> float:
        """The measure of its boundary."""
        raise NotImplementedError(f"{type(self).__name__} states no area")

    def __or__(self, other: "Domain") -> "Domain":
        """The union."""
        return self._combine("union", self, other)

    def __and__(self, other: "Domain") -> "Domain":
        """The intersection."""
        return self._combine("intersection", self, other)

    def __sub__(self, other: "Domain") -> "Domain":
        """This domain without the other one."""
        return self._combine("difference", self, other)


def check_law(law: str, laws: Sequence[str] = LAWS) -> None:
    """Raises ConfigError, a ValueError, for a law that is not one of these."""
    if law not in laws:
        raise ConfigError(f"sampling law {law!r} is not one of {', '.join(laws)}")


def rounding(x: Tensor) -> float:
    """How much the squares of the coordinates of points (N, d) may add up to more than they are, relative to it."""
    return float(torch.finfo(x.dtype).eps * x.shape[-1] ** 0.5)


MULTIPLIED = 32  # factors up to which a product is written out


def product(factors: Tensor) -> Tensor:
    """The product over the last axis; of few factors written out, as nested derivatives of torch's divide by them."""
    if factors.shape[-1] > MULTIPLIED:
        return factors.prod(-1)
    found, *rest = factors.unbind(-1)
    for factor in rest:
        found = found * factor
    return found


def conjunction(levels: list[Tensor]) -> Tensor:
    """f + g - sqrt(f^2 + g^2) again and again: above zero where all are, smooth but where two vanish (R-functions).

    Source: Rvachev 1982; Shapiro 2007, Acta Numerica 16, 239-303.
    """
    found = levels[0]
    for level in levels[1:]:
        found = found + level - torch.hypot(found, level)
    return found


# ---------------------------------------------------------------------------------------------------------------
# What a domain has; one of a user's own need not derive from `Domain`, and may lack what its runs do not read


def laws_of(domain: Any) -> tuple[str, ...]:
    """The names of a domain's laws; a single one may stand for itself."""
    return (domain.laws,) if isinstance(domain.laws, str) else tuple(domain.laws)


def frame_of(domain) -> tuple[Tensor, Tensor]:
    """Centre and half-widths of a domain, (d,) each in float64.

    Its own `frame` has the half-width as one number or one per coordinate, and may leave out that of time: time / 2.
    """
    centre, reach = (torch.as_tensor(t, dtype=torch.float64) for t in domain.frame())
    reach, time = reach.reshape(-1), time_of(domain)
    if time is not None and len(reach) < domain.dim:
        reach = torch.cat([reach.expand(domain.dim - 1), reach.new_tensor([abs(time) / 2])])
    return centre, reach.expand(domain.dim)


def time_of(domain: Any) -> float | None:
    """The length of time, which is then the last coordinate; None: there is no time."""
    return getattr(domain, "time", None)


def space_of(domain: Any) -> Any:
    """The domain in space, which is the domain itself where there is no time."""
    return getattr(domain, "space", domain)


def kinds_of(domain: Any) -> tuple[str, ...]:
    """The kinds of points that it draws, of interior, boundary and initial."""
    draws = lambda domain, kind: getattr(domain, kind, None) is not None
    kinds = [kind for kind in ("interior", "boundary", "initial") if draws(domain, kind)]
    return tuple(kind for kind in kinds if kind != "boundary" or draws(space_of(domain), kind))


def importance_of(domain: Any, x: Tensor) -> Tensor | None:
    """The weights of points of its law, if it has any."""
    weights = getattr(domain, "importance", None)
    return None if weights is None else weights(x)


def is_framed(domain: Any) -> bool:
    """Whether it has centre and half-widths, for units and pictures."""
    return hasattr(domain, "frame")


def tells_inside(domain: Any) -> bool:
    """Whether it knows which points lie in it."""
    return hasattr(domain, "contains")


def looks_like_one(domain: Any) -> bool:
    """Whether it is an object with any member of a domain."""
    return not isinstance(domain, type) and any(hasattr(domain, member) for member in MEMBERS)


FEW = 1e3  # numbers across a domain that are too few


def numbers_across(domain, dtype: torch.dtype) -> float:
    """How many numbers of a dtype there are across half the width of a domain, where they are fewest; inf: unknown."""
    if not is_framed(domain):
        return float("inf")
    origin, reach = (torch.as_tensor(t, dtype=torch.float64) for t in domain.frame())
    space = len(origin) - (time_of(domain) is not None)  # time begins at 0
    return resolution(origin[:space], reach.expand(space) if reach.ndim == 0 else reach[:space], dtype)


def resolution(centre: Tensor, reach: Tensor, dtype: torch.dtype) -> float:
    """How many numbers of a dtype there are in the intervals centre to centre + reach, the fewest."""
    return (reach / (torch.finfo(dtype).eps * (centre.abs() + reach))).min().item()


def drawn_in(domain) -> torch.dtype:
    """The dtype of points to test on, the same for runs in any dtype: float32 where it tells enough of them apart."""
    return torch.float32 if numbers_across(domain, torch.float32) >= FEW else torch.float64


# ---------------------------------------------------------------------------------------------------------------
# Fields of a domain, checked


def set_fields(domain, **fields) -> None:
    """Fields of a frozen dataclass, from __post_init__."""
    for name, value in fields.items():
        object.__setattr__(domain, name, value)


def dimension(domain) -> int:
    """Its `dim`, an integer of at least 1."""
    try:
        dim = index(domain.dim)
    except TypeError:
        dim = 0
    if dim < 1:
        raise ConfigError(f"{type(domain).__name__}: dim: given {domain.dim!r}, needed is an integer of at least 1")
    return dim


def length(kind: str, name: str, value) -> float:
    """A finite number above 0."""
    found = number(value)
    if found is None or not 0 < found:
        raise ConfigError(f"{kind}: {name}: given {value!r}, needed is a finite number above 0")
    return found


def numbers(kind: str, name: str, value: Any, count: int) -> tuple[float, ...]:
    """`count` finite numbers."""
    try:
        found = [number(part) for part in value]
    except TypeError:
        found = [None]
    if None in found or len(found) != count:
        raise ConfigError(f"{kind}: {name}: given {value!r:.80}, needed are {count} finite numbers")
    return tuple(float(part) for part in found)


def number(value) -> float | None:
    """A finite number as a float; None for anything else, and for what is trained, which would stay as it is."""
    try:
        found = None if isinstance(value, str | bytes) or getattr(value, "requires_grad", False) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
    return found if found is not None and isfinite(found) else None
