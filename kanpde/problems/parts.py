"""Parts of a boundary that conditions are on: their points and normals.

"boundary"            all of the boundary in space
"x = 1"               the face of a box where a coordinate has this value
a function of x       the points of the boundary where it is True: x (N, d) -> (N,) of bool
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kanpde.domains import Box, Cylinder
from kanpde.domains.base import space_of
from kanpde.domains.shapes import accepted
from kanpde.ground.errors import ConfigError, suggest

On = str | Callable[[Tensor], Tensor]


def points_on(problem: Any, on: On, n: int, generator: torch.Generator, **kind: Any) -> Tensor:
    """n points of a part of the boundary.

    Raises:
        ConfigError: it has none.
    """
    domain = problem.domain
    if isinstance(on, str) and on != "boundary":
        return _on_side(problem, *face_of(problem, on), n, generator, **kind)
    if not callable(on):
        return domain.boundary(n, generator, **kind)

    def trial(m: int) -> Tensor:
        x = domain.boundary(m, generator, **kind)
        meant = on(x)
        if not isinstance(meant, Tensor) or meant.shape != (len(x),) or meant.dtype != torch.bool:
            given = f"{tuple(meant.shape)} of {meant.dtype}" if isinstance(meant, Tensor) else type(meant).__name__
            raise ConfigError(f"on: given {given} at {len(x)} points, needed is ({len(x)},) of bool")
        return x[meant]

    return accepted(trial, n, "the part of the boundary that is meant")


def _on_side(problem: Any, axis: int, value: float, n: int, generator: torch.Generator, **kind: Any) -> Tensor:
    """n points uniform on a side of a box, as far as it belongs to the domain."""
    domain = problem.domain
    space = space_of(domain)
    box = space if isinstance(space, Box) else Box(space.dim, *zip(*space.sides, strict=True))
    whole = domain if box is space else box if domain is space else Cylinder(box, domain.time)

    def trial(m: int) -> Tensor:
        x = whole.interior(m, generator, "volume", **kind)
        x[:, axis] = value
        return x if box is space else x[space.contains(x[:, : space.dim])]

    return trial(n) if box is space else accepted(trial, n)


def face_of(problem: Any, on: str) -> tuple[int, float]:
    """The axis and the value of a face of a box, "x = 1".

    Raises:
        ConfigError: there is no such face.
    """
    found = re.fullmatch(r"\s*(\w+)\s*=\s*(\S+)\s*", on)
    space = space_of(problem.domain)
    sides = getattr(space, "sides", None)
    if found is None or not sides:
        needed = "'boundary', a function of x" + (", or a face such as 'x = 1'" if sides else "")
        raise ConfigError(f"on: given {on!r}, the domain, {type(space).__name__}, has {needed}")
    axis, (low, high) = ends_of(problem, found[1])
    if found[2] in ("low", "high"):
        return axis, {"low": low, "high": high}[found[2]]
    faces = {f"{value:g}": value for value in (low, high)}
    try:
        given = float(found[2])
    except ValueError:
        given = float("nan")
    for value in (low, high):
        if abs(given - value) <= 1e-9 * (abs(value) + high - low):
            return axis, value
    raise ConfigError(suggest(f"side {found[1]} =", found[2], [*faces, "low", "high"]))


def ends_of(problem: Any, name: str) -> tuple[int, tuple[float, float]]:
    """The axis of a coordinate of a box, and where it begins and ends.

    Raises:
        ConfigError: it is none.
    """
    axis, space = problem.axes.axis(name), space_of(problem.domain)
    if not getattr(space, "sides", None) or axis >= space.dim:
        box = f"has them in a Box alone, the domain is {type(space).__name__}"
        what = box if axis < space.dim else "is time: write Initial or Terminal"
        raise ConfigError(f"it names the ends of {name!r}, which {what}")
    return axis, space.sides[axis]


def normals(problem: Any, x: Tensor, on: On) -> Tensor:
    """Outward unit normals (N, d) at points of a part of the boundary, without a component in time."""
    if isinstance(on, str) and on != "boundary":
        axis, value = face_of(problem, on)
        n = torch.zeros_like(x)
        n[:, axis] = 1.0 if value == ends_of(problem, problem.axes.name(axis))[1][1] else -1.0
        return n
    space = space_of(problem.domain)
    return torch.cat([space.normal(x[:, : space.dim]), x.new_zeros(len(x), x.shape[1] - space.dim)], 1)


def in_space(problem: Any, n: int, generator: torch.Generator, law: str, t: float, **kind: Any) -> Tensor:
    """n points of space at a time."""
    domain = problem.domain
    if hasattr(domain, "at_time"):
        return domain.at_time(t, n, generator, law, **kind)
    x = domain.initial(n, generator, law, **kind)  # of a domain of a user's own
    x[:, -1] = t
    return x
