r"""Slabs of time: a problem as it is in one of them, in the time since it began, with the values that came before.

In the slab t_k < t < t_{k+1} of (0, T) the problem of u_k(x, s) = u(x, t_k + s) is that of u with t_k + s for t in
whatever is a function of the points, on (0, t_{k+1} - t_k), with the initial values

.. math:: u_k(x, 0) = u_{k-1}(x, t_k - t_{k-1}), \qquad
          \partial_s u_k(x, 0) = \partial_s u_{k-1}(x, t_k - t_{k-1})

of which the second are asked for where the problem has a condition on du/dt at t = 0. Initial values are left to the
loss, in all slabs; what is asked for in space is met in each of them as it is in the whole.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kanpde.domains.base import kinds_of, time_of
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.problems.base import Problem
from kanpde.problems.conditions import Condition, Continued, Dirichlet, Initial, Value, slope

OF_POINTS = (  # what a problem may state as a function of points, the last argument, beside its equation
    "coefficients",
    "s_grad",
    "directions",
    "diffusion",
    "exact",
    "untrained",
    "known_part",
    "importance_weights",
)
OF_ITS_OWN = ("factor", "extra_terms", "held_out", "inputs_of")  # what says nothing of a slab


def ends_of(slabs: int | Sequence[float], time: float) -> tuple[float, ...]:
    """The times at which slabs of (0, time) end, the last of them `time`: of a number of slabs, equal parts.

    Raises:
        ConfigError: the times given, where one ends and the next begins, do not rise, or are not within (0, time).
    """
    if isinstance(slabs, int):
        return tuple(time * (k + 1) / slabs for k in range(slabs))
    if any(b <= a for a, b in zip((0.0, *slabs), (*slabs, time), strict=True)):
        raise ConfigError(f"slabs: given {list(slabs)}, needed are times that rise, above 0 and below {time:g}")
    return (*slabs, time)


def continued(problem: Problem) -> Problem:
    """The problem of all times, whose initial values are left to the loss.

    Values that are stated without conditions become conditions.

    Raises:
        ConfigError: it has no slabs; the line says why.
    """
    check(problem)
    asked = problem.asked if problem.conditions else _stated(problem)
    handed = {name: _left_to_the_loss(name, condition) for name, condition in asked.items()}
    now_conditions = () if problem.conditions else ("lift", "boundary_value", "initial_value")
    free = {name: getattr(Problem, name) for name in ("taylor", *now_conditions)}
    return _derived(problem, conditions=property(lambda self: handed), **free)


def check(problem: Problem) -> None:
    """Raises ConfigError where a problem has no slabs of time."""
    name = type(problem).__name__
    if time_of(problem.domain) is None:
        raise ConfigError(f"slabs: {name} has no time; they are of problems with time")
    if getattr(problem.domain, "until", None) is None:
        kind = type(problem.domain).__name__
        raise ConfigError(f"slabs: a {kind} is not cut in time; Cylinder(space, time) is")
    if problem.parameters is not None:
        raise ConfigError(f"slabs: {name} has unknowns, which are the same at all times; leave slabs out")
    if own := [member for member in OF_ITS_OWN if problem.states(member)]:
        raise ConfigError(f"slabs: {name} states {own[0]} of its own, which says nothing of a slab; leave slabs out")
    if problem.conditions and problem.states("lift"):
        raise ConfigError(f"slabs: {name} states lift beside its conditions, which has no slabs; leave one of them out")
    if problem.conditions and not any(isinstance(condition, Initial) for condition in problem.asked.values()):
        raise ConfigError(f"slabs: {name} has no Initial, whose values one slab would hand on to the next")


def in_slab(problem: Problem, start: float, end: float, former: Ansatz | None = None) -> Problem:
    """The problem in the slab from start to end.

    Args:
        problem: of `continued`.
        former: u of the slab before, in the time since that began; None: it is the first.
    """
    move = lambda x: torch.cat([x[..., :-1], x[..., -1:] + start], -1)
    asked = {name: _in_slab(c, move, former) for name, c in problem.asked.items()}
    domain = problem.domain.until(end - start)
    equation = ("left_side", "source") if problem.has_source else ("residual",)
    stated = [*equation, *(name for name in OF_POINTS if problem.states(name))]
    return _derived(
        problem,
        conditions=property(lambda self: asked),
        domain=property(lambda self: domain),
        points_of_interest={},
        **{name: _moved(getattr(problem, name), move) for name in stated},
    )


def _stated(problem: Problem) -> dict[str, Condition]:
    """The values that a problem states without conditions, as conditions."""
    begin = problem.initial_value if problem.states("initial_value") or problem.states("lift") else 0.0
    at_the_edge = (
        {"dirichlet": Dirichlet(value=problem.boundary_value)} if "boundary" in kinds_of(problem.domain) else {}
    )
    return {**at_the_edge, "initial": Initial(begin)}


def _left_to_the_loss(name: str, condition: Condition) -> Condition:
    """A condition as it is, but for an initial one.

    Raises:
        ConfigError: it is none of a part of time.
    """
    if condition.functions is None:
        kind = type(condition).__name__
        raise ConfigError(f"slabs: condition {name}: {kind} is not asked for slab by slab; leave slabs out")
    if not isinstance(condition, Initial):
        return condition
    return Continued(condition.value, condition.derivative, field=condition.field)


def _in_slab(condition: Condition, move: Callable[[Tensor], Tensor], former: Ansatz | None) -> Condition:
    """A condition in the time of a slab, of an initial one that which the slab before has left."""
    if not isinstance(condition, Initial):
        return condition.moved(move)
    return (
        condition
        if former is None
        else Continued(_left_by(former, condition), condition.derivative, field=condition.field)
    )


def _left_by(former: Ansatz, condition: Initial) -> Value:
    """u, or du/dt, at the end of a slab, (N,) at points of the next one."""
    end = time_of(former.problem.domain)

    @torch.no_grad()
    def value(x: Tensor) -> Tensor:
        u = former.of(condition.field)
        at = torch.cat([x[..., :-1], torch.full_like(x[..., -1:], end)], -1).to(u.like.device)
        if condition.derivative is None:
            return u(at).to(x)
        along = torch.zeros_like(at)
        along[..., -1] = 1
        return slope(u, at.to(u.like), along.to(u.like)).to(x)

    return value


def _moved(function: Callable, move: Callable[[Tensor], Tensor]) -> Callable:
    """A method of the problem itself, whose last argument are the points."""
    return lambda self, *given: function(*given[:-1], move(given[-1]))


def _derived(problem: Problem, **members: Any) -> Problem:
    """A copy of a problem with other members, of a class of the same name; what was made of the former ones is gone."""
    cls = type(problem)
    named: Mapping = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    mine = copy.copy(problem)
    for name in [name for name in vars(mine) if isinstance(getattr(cls, name, None), cached_property)]:
        vars(mine).pop(name)
    object.__setattr__(mine, "__class__", type(cls.__name__, (cls,), {**named, **members}))
    return mine
