"""The library of symbolic functions: what an edge may turn out to be, where it is defined, and how it is searched."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from math import pi

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError, suggest

Within = Callable[[Tensor, Tensor], Tensor]  # least and largest arguments -> where f is smooth between them


@dataclass(frozen=True)
class Function:
    """f of an edge a f(b x + c) + d.

    Attributes:
        name: what it is called, and how sympy reads it with x as its argument.
        torch: f on tensors.
        sympy: f on sympy expressions; it is given the module and the argument.
        complexity: how much a formula with it costs, beside R^2; more where b and c are both free, since a sin of a
            small b is also an x^2.
        defined: whether f is smooth on intervals of arguments, given their ends.
        search: a grid (G, 2) of (beta, gamma) for arguments beta t + gamma with t in [-1, 1], where f is smooth.
        free: which of b and c tell functions of the family apart: a rescaled x^2 is an x^2, so its b stays as it is.

    Example:
        >>> function("sin").torch(torch.zeros(1)), function("sin").complexity
        (tensor([0.]), 3)
    """

    name: str
    torch: Callable[[Tensor], Tensor]
    sympy: Callable
    complexity: int
    defined: Within
    search: Callable[[], Tensor]
    free: tuple[str, ...] = ("b", "c")


# ---------------------------------------------------------------------------------------------------------------
# Domains

anywhere: Within = lambda low, high: low <= high
positive: Within = lambda low, high: low > 0
one_sided: Within = lambda low, high: (low > 0) | (high < 0)
within_one: Within = lambda low, high: (low > -1) & (high < 1)
between_poles: Within = lambda low, high: torch.floor(low / pi + 0.5) == torch.floor(high / pi + 0.5)

# ---------------------------------------------------------------------------------------------------------------
# Grids of (beta, gamma)


def _pairs(beta: Iterable[float] | Tensor, gamma: Tensor) -> Tensor:
    return torch.cartesian_prod(torch.as_tensor(beta, dtype=torch.float64), gamma.double())


def _both_signs(t: Tensor) -> Tensor:
    return torch.cat([-t.flip(0), t])


@cache
def nothing() -> Tensor:
    return _pairs([1.0], torch.zeros(1))


@cache
def shifts() -> Tensor:
    """Of a power: u = t + gamma, with the zero on the data or off it."""
    return _pairs([1.0], torch.cat([torch.linspace(-2, 2, 81), _both_signs(torch.logspace(0.31, 1.5, 20))]))


@cache
def kinks() -> Tensor:
    return _pairs([1.0], torch.linspace(-0.99, 0.99, 199))


@cache
def poles() -> Tensor:
    """Of what ends or has a pole at 0: u = t + gamma or -t + gamma, which is close to 0 at an end, or far off."""
    return _pairs([-1.0, 1.0], 1 + torch.logspace(-5, 2, 71))


@cache
def rates() -> Tensor:
    return _pairs(_both_signs(torch.logspace(-1.5, 1.3, 40)), torch.zeros(1))


@cache
def waves() -> Tensor:
    return _pairs(torch.linspace(0.2, 24, 100), torch.arange(8) * pi / 8)


@cache
def bumps() -> Tensor:
    """Of a step or a bump: its width, and its centre on the data or near it."""
    width, centre = _pairs(torch.logspace(-0.7, 1.3, 14), torch.linspace(-2, 2, 33)).T
    return torch.stack([width, -width * centre], 1)


def _between(reach: float) -> Tensor:
    """Every piece of (-reach, reach), from argument `first` at t = -1 to `last` at t = 1."""
    ends = reach * torch.tanh(torch.linspace(-4, 4, 25, dtype=torch.float64))
    first, last = _pairs(ends, ends).T
    pairs = torch.stack([(last - first) / 2, (last + first) / 2], 1)
    return pairs[first < last]


@cache
def pieces_of_one() -> Tensor:
    return _between(1.0)


@cache
def pieces_of_tan() -> Tensor:
    return _between(pi / 2)


# ---------------------------------------------------------------------------------------------------------------
# The library


def _power(n: int, complexity: int) -> Function:
    name = "x" if n == 1 else f"x^{n}"
    search, free = (nothing, ()) if n == 1 else (shifts, ("c",))
    return Function(name, lambda u: u**n, lambda sp, u: u**n, complexity, anywhere, search, free)


def _inverse_power(n: int, complexity: int) -> Function:
    name = "1/x" if n == 1 else f"1/x^{n}"
    return Function(name, lambda u: u**-n, lambda sp, u: 1 / u**n, complexity, one_sided, poles, ("c",))


FUNCTIONS = {
    f.name: f
    for f in (
        Function("0", torch.zeros_like, lambda sp, u: sp.Integer(0), 0, anywhere, nothing, ()),
        *(_power(n, complexity) for n, complexity in ((1, 1), (2, 2), (3, 3), (4, 3))),
        *(_inverse_power(n, complexity) for n, complexity in ((1, 2), (2, 2), (3, 3), (4, 4))),
        Function("sqrt", torch.sqrt, lambda sp, u: sp.sqrt(u), 2, positive, poles, ("c",)),
        Function("1/sqrt", torch.rsqrt, lambda sp, u: 1 / sp.sqrt(u), 2, positive, poles, ("c",)),
        Function("exp", torch.exp, lambda sp, u: sp.exp(u), 2, anywhere, rates, ("b",)),
        Function("log", torch.log, lambda sp, u: sp.log(u), 2, positive, poles, ("c",)),
        Function("cosh", torch.cosh, lambda sp, u: sp.cosh(u), 3, anywhere, rates),
        Function("abs", torch.abs, lambda sp, u: sp.Abs(u), 3, anywhere, kinks, ("c",)),
        Function("sin", torch.sin, lambda sp, u: sp.sin(u), 3, anywhere, waves),
        Function("cos", torch.cos, lambda sp, u: sp.cos(u), 3, anywhere, waves),
        Function("tan", torch.tan, lambda sp, u: sp.tan(u), 4, between_poles, pieces_of_tan),
        Function("tanh", torch.tanh, lambda sp, u: sp.tanh(u), 3, anywhere, bumps),
        Function("arctan", torch.arctan, lambda sp, u: sp.atan(u), 4, anywhere, bumps),
        Function("arcsin", torch.arcsin, lambda sp, u: sp.asin(u), 4, within_one, pieces_of_one),
        Function("arccos", torch.arccos, lambda sp, u: sp.acos(u), 4, within_one, pieces_of_one),
        Function("arctanh", torch.arctanh, lambda sp, u: sp.atanh(u), 4, within_one, pieces_of_one),
        Function("gaussian", lambda u: torch.exp(-u * u), lambda sp, u: sp.exp(-(u**2)), 3, anywhere, bumps),
        Function("1/(1+x^2)", lambda u: 1 / (1 + u * u), lambda sp, u: 1 / (1 + u**2), 3, anywhere, bumps),
    )
}

# cos and arccos are sin and arcsin with another shift, and edges are rarely a cosh: a search need not try all
SEARCHED = tuple(name for name in FUNCTIONS if name not in ("cos", "arccos", "cosh"))


def function(name: str) -> Function:
    """The function of this name in the library.

    Raises:
        ConfigError: an unknown name.
    """
    if name not in FUNCTIONS:
        raise ConfigError(suggest("function", name, list(FUNCTIONS)))
    return FUNCTIONS[name]
