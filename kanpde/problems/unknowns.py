"""Unknowns of an equation: numbers, vectors and functions that are found with its solution, from observations."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Self, overload

import torch
from torch import Tensor, nn

from kanpde.domains.base import frame_of
from kanpde.ground.errors import ConfigError, suggest

SHOWN = 5  # values of a function of one coordinate in the history


class Unknown(nn.Module):
    r"""A number, a vector or a function in an equation, trained with the network.

    As an attribute of a problem it is read like a number: with `a = Unknown(1.0)` in the class, `self.a` in its
    residual is a tensor of one number, of a vector `self.b[0]` one of its numbers, and of a function `self.c(x)` its
    values (N,) at points x (N, d). `problem.unknowns["a"]` is the module itself.

    value = initial + scale p, and with `positive` initial exp(p), where p is what is trained, from 0: so a step of an
    optimiser has the same effect in all units. A function is initial + scale p(xi), or initial exp(p(xi)), with a
    polynomial :math:`p = \sum c_{kl...} T_k(\xi_1) T_l(\xi_2) \cdots` of Chebyshev's, of this total degree, in the
    coordinates that are named, scaled to [-1, 1] over the domain.

    Args:
        initial: where it begins: a number, or a list of numbers (a vector).
        positive: whether it stays above zero; then its logarithm is what is trained.
        lr: its learning rate; default that of the group `problem` of the solver.
        scale: the size of a change that matters; default |initial|, or 1 where that is 0. Of positive ones there is
            none.
        of: the name of a coordinate, or several: a function of these.
        degree: of its polynomial.
    Raises:
        ConfigError: an initial value that is no finite number, or not above zero where `positive`; a scale or a rate
            that is not; a degree without `of`.

    Example:
        >>> a = Unknown(2.0, positive=True)
        >>> a.value.item(), Unknown([1.0, 0.0]).value.tolist()
        (2.0, [1.0, 0.0])
    """

    name: str = "unknown"

    def __init__(
        self,
        initial: float | Sequence[float],
        *,
        positive: bool = False,
        lr: float | None = None,
        scale: float | None = None,
        of: str | Sequence[str] | None = None,
        degree: int | None = None,
    ):
        super().__init__()
        try:
            first = torch.as_tensor(initial, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(
                f"Unknown: initial: given {initial!r:.60}, needed is a number, or a list of them"
            ) from None
        if first.ndim > 1 or not first.numel() or not first.isfinite().all():
            raise ConfigError(f"Unknown: initial: given {initial!r:.60}, needed is a finite number, or a list of them")
        if positive and not (first > 0).all():
            raise ConfigError(f"Unknown: initial: given {initial!r:.60}, needed is above 0, as positive is stated")
        for key, value in (("lr", lr), ("scale", scale)):
            if value is not None and not (isinstance(value, int | float) and 0 < value and isfinite(value)):
                raise ConfigError(f"Unknown: {key}: given {value!r:.60}, needed is a number above 0")
        if positive and scale is not None:
            raise ConfigError("Unknown: scale: a positive one has none, as its logarithm is what is trained")
        if of is None and degree is not None:
            raise ConfigError("Unknown: degree: it is of a function; name its coordinates, of='x'")
        if of is not None and (first.ndim or (degree is not None and not (isinstance(degree, int) and degree >= 0))):
            raise ConfigError(
                f"Unknown: given initial={initial!r:.60}, degree={degree!r}; a function begins at one number, and its "
                "degree is a whole number from 0 on"
            )
        self.positive, self.lr = positive, lr
        self.of = (of,) if isinstance(of, str) else None if of is None else tuple(of)
        self.degree = 6 if degree is None else degree
        self.powers = () if self.of is None else _powers(len(self.of), self.degree)
        self.register_buffer("initial", first, persistent=False)
        sizes = first.abs() if scale is None else torch.full_like(first, scale)
        self.register_buffer("scale", torch.where(sizes > 0, sizes, 1.0), persistent=False)
        self.trained = nn.Parameter(torch.zeros(first.shape if self.of is None else (len(self.powers),)).to(first))

    # -----------------------------------------------------------------------------------------------------------
    # As an attribute of a problem

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, problem: None, owner: type) -> Self: ...
    @overload
    def __get__(self, problem: Any, owner: type) -> Any: ...
    def __get__(self, problem, owner=None):
        if problem is None:
            return self
        own = vars(problem).get(self.name, self)
        return own.value if own.of is None else Function(own, problem)

    def __set__(self, problem: Any, value: Any) -> None:
        if not isinstance(value, Unknown):
            raise ConfigError(f"{type(problem).__name__}.{self.name}: given {value!r:.60}, needed is an Unknown(...)")
        value.name = self.name
        vars(problem)[self.name] = value

    # -----------------------------------------------------------------------------------------------------------
    # Its values

    @property
    def value(self) -> Tensor:
        """() or (n,); of a function its coefficients."""
        return self.trained if self.of is not None else self._scaled(self.trained)

    def at(self, xi: Tensor) -> Tensor:
        """A function (N,) at its own coordinates (N, k), scaled to [-1, 1]."""
        t = [torch.ones_like(xi), xi]
        for _ in range(self.degree - 1):
            t.append(2 * xi * t[-1] - t[-2])
        terms = [torch.stack([t[power][:, k] for k, power in enumerate(each)]).prod(0) for each in self.powers]
        return self._scaled(torch.stack(terms, 1) @ self.trained.to(xi))

    def _scaled(self, p: Tensor) -> Tensor:
        return self.initial.to(p) * p.exp() if self.positive else self.initial.to(p) + self.scale.to(p) * p

    def check(self, problem: Any) -> None:
        """Raises ConfigError where it is a function of what is no coordinate of the problem."""
        names = [problem.axes.name(axis) for axis in range(problem.n_inputs)]
        for given in self.of or ():
            if given not in names:
                raise ConfigError(suggest(f"{type(problem).__name__}.{self.name}: coordinate", given, names))

    def numbers(self, problem: Any) -> dict[str, Tensor]:
        """What is reported of it, () each, by name: a; b.0, b.1; of a function c(x = 0.25) at a few points."""
        if self.of is None:
            value = self.value
            return {self.name: value} if not value.ndim else {f"{self.name}.{i}": v for i, v in enumerate(value)}
        x, named = _points(problem, self.of)
        return {f"{self.name}({at})": value for at, value in zip(named, Function(self, problem)(x), strict=True)}


class Function:
    """An unknown function of a problem, of points x (N, d): what `self.c` is in a residual."""

    def __init__(self, unknown: Unknown, problem: Any):
        self.unknown, self.problem = unknown, problem

    def __call__(self, x: Tensor) -> Tensor:
        """Its values (N,)."""
        centre, reach = frame_of(self.problem.domain)
        axes = [self.problem.axes.axis(name) for name in self.unknown.of or ()]
        return self.unknown.at((x[:, axes] - centre[axes].to(x)) / reach[axes].to(x))


def unknowns_of(problem: Any) -> dict[str, Unknown]:
    """The unknowns that are attributes of a problem, by name, in the order in which they are stated.

    Raises:
        ConfigError: one is not an attribute of the class, but in a list, or of the object alone; none would be trained.
    """
    classes = reversed(type(problem).__mro__)
    names = {name: value for cls in classes for name, value in vars(cls).items()} | vars(problem)
    for name, value in names.items():
        held = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        loose = isinstance(value, Unknown) and not isinstance(getattr(type(problem), name, None), Unknown)
        if (loose and value is vars(problem).get(name)) or any(isinstance(part, Unknown) for part in held):
            hint = "in the body of the class, a = Unknown(1.0), and Unknown([1.0, 0.0]) is a vector"
            raise ConfigError(f"{type(problem).__name__}.{name}: unknowns are attributes of their own, {hint}")
    found = {name: vars(problem).get(name, value) for name, value in names.items() if isinstance(value, Unknown)}
    return {name: value for name, value in found.items() if isinstance(value, Unknown)}


def reported(problem: Any, module: nn.Module | None, most: int = 16) -> dict[str, Tensor]:
    """The numbers () that are reported of what is trained beside the network, by name, where there are at most so many.

    module: the unknowns of the problem; of another module its parameters, by their names.
    """
    found: dict[str, Tensor] = {}
    for part in module.children() if module is not None else ():
        if isinstance(part, Unknown):
            found |= part.numbers(problem)
    others = {} if found or module is None else dict(module.named_parameters())
    for name, p in others.items():
        if p.numel() <= most:
            found |= {name + (f".{i}" if p.numel() > 1 else ""): value for i, value in enumerate(p.flatten())}
    return found


def _powers(k: int, degree: int) -> tuple[tuple[int, ...], ...]:
    """The exponents of k coordinates with a sum of at most `degree`."""
    if k == 0:
        return ((),)
    return tuple((p, *rest) for p in range(degree + 1) for rest in _powers(k - 1, degree - p))


def _points(problem: Any, of: Sequence[str]) -> tuple[Tensor, list[str]]:
    """Points (n, d) at which a function is reported, along its coordinate or the centre, and what they are called."""
    centre, reach = frame_of(problem.domain)
    axis = problem.axes.axis(of[0])
    along = torch.linspace(-1, 1, SHOWN, dtype=torch.float64) if len(of) == 1 else torch.zeros(1, dtype=torch.float64)
    x = centre.repeat(len(along), 1)
    x[:, axis] += reach[axis] * along
    indices = [problem.axes.axis(name) for name in of]
    return x, [", ".join(f"{name} = {row[i]:.4g}" for name, i in zip(of, indices, strict=True)) for row in x]
