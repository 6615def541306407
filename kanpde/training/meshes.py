"""The domain's own shape as triangles or tetrahedra, with u, u* and the error at their corners, for pictures.

The squares or cubes of a slice's grid are split, and cut where the boundary crosses an edge. What is thinner than these
is not seen.
"""

from collections.abc import Callable
from itertools import permutations
from math import factorial

import numpy as np
import torch
from torch import Tensor

from kanpde.config import RunConfig
from kanpde.domains.base import space_of, time_of
from kanpde.jets.ansatz import Ansatz
from kanpde.training.cuts import PART, PLANE, Solution, coordinate_names, cut, space, values

TIMES = 5  # from the beginning to the end
CUBES = 64  # points along an axis in three coordinates, at most
SURFACE = 2**16  # triangles, of all times, up to which those of a surface are split: u is known at their corners alone
CORNERS = 2**20  # of a surface; where it has more, there is no picture of it
BY_LEVEL, BY_HALVES = 6, 14  # steps that find the boundary on an edge
INWARDS = 1e-6  # of an edge, by which what is found is moved inwards: a solution may have no value outside
MERGED = 1e-4  # of an edge, from its inner end: what is cut there is this end

# What is left of a simplex by how many of its corners are inside, these first: corner ii, or the crossing of edge ij.
# Pieces of neighbours fit together, since corners are in the order of their numbers.
PARTS = {
    (2, 1): ["00 01 02"],
    (2, 2): ["00 11 12", "00 12 02"],
    (3, 1): ["00 01 02 03"],
    (3, 2): ["00 02 03 13", "00 02 12 13", "00 11 12 13"],
    (3, 3): ["00 11 22 23", "00 11 13 23", "00 03 13 23"],
}


@torch.no_grad()
def meshes(config: RunConfig, u: Ansatz, cuts: dict[str, dict], solution: Solution | None = None) -> dict[str, dict]:
    """By name `domain`, of two or three coordinates of space, other slices, and `surface`; as `kanpde.records` says.

    With time the domain, and planes of three coordinates, are there at several times.

    Args:
        cuts: what `kanpde.training.cuts.slices` gives for u.
        solution: as there.
    """
    domain, made = u.problem.domain, {}
    dim, time = space(domain), time_of(domain)
    if not cuts or dim < 2:
        return {}
    for name, data in cuts.items():
        if len(data["axes"]) == 2 and not (name == "random" and dim == 2):
            made[name] = _mesh(u, data, _times(time) if dim == 3 and name != "axes" else None, solution)
        if (
            len(data["axes"]) == 3
            and dim != 3
            and data["inside"].shape[0] <= CUBES
            and _edge(data) * domain.dim <= PLANE
        ):
            made[name] = _mesh(u, data, None, solution)
    n = {2: config.slices.points, 3: min(config.slices.volume, CUBES)}.get(dim, 0)
    if n > 1:
        whole = cuts.get("random" if dim == 2 else "volume")
        if whole is None or whole["grid"].shape != (dim, n):
            whole = cut(config, u, dim, list(range(dim)), n, solution)
        made["domain"] = _mesh(u, whole, _times(time), solution)
    made = {name: mesh for name, mesh in made.items() if len(mesh["cells"])}
    if (found := getattr(space_of(domain), "triangles", None)) is not None and len(found[0]) <= CORNERS:
        made["surface"] = _surface(u, *found, _times(time), solution)
    return made


def _edge(data: dict) -> int:
    """About how many corners on the boundary a volume has: a few for each cube that is cut."""
    inside = data["inside"]
    return 4 * sum(int((np.diff(inside, axis=axis) != 0).sum()) for axis in range(3))


def _times(time: float | None) -> Tensor | None:
    return None if time is None else torch.linspace(0, time, TIMES, dtype=torch.float64)


def _mesh(u: Ansatz, data: dict, times: Tensor | None, solution: Solution | None) -> dict:
    """Of a slice: its own values at the grid's points, and new ones on the boundary; at other times all are new."""
    origin, axes = torch.from_numpy(data["origin"]), torch.from_numpy(data["axes"])
    k, n = len(axes), data["inside"].shape[0]
    ticks = torch.from_numpy(np.broadcast_to(data["grid"], (k, n)).copy())
    grid = torch.stack(torch.meshgrid(*ticks, indexing="ij"), -1).flatten(0, -2)
    ends, cells = clipped(simplices(n, k), torch.from_numpy(data["inside"].ravel()))
    a, b = grid[ends[:, 0]], grid[ends[:, 1]]
    new = ends[:, 0] != ends[:, 1]
    points = a.clone()
    if new.any():
        share = crossings(u.problem.domain, origin, axes, a[new], b[new])
        points[new] = a[new] + share.unsqueeze(1) * (b[new] - a[new])
        cells = _merged(ends, new.nonzero()[:, 0][share < MERGED])[cells]
        cells = cells[(cells.sort(1)[0].diff(dim=1) > 0).all(1)]
    wrong = (_sizes(points, cells) < 0).unsqueeze(1)
    cells = torch.where(wrong, torch.cat([cells[:, :2].flip(1), cells[:, 2:]], 1), cells)
    made = {key: data[key] for key in ("origin", "axes", "label", "axis_labels") if key in data}
    made |= {"points": points.numpy(), "cells": cells.int().numpy()}
    if times is not None:
        return made | {"label": _without_time(u, data["label"])} | _at_times(u, origin, axes, points, times, solution)
    known = {name: data[name].ravel()[ends[:, 0].numpy()] for name in data if np.shape(data[name]) == (n,) * k}
    if new.any():
        found = values(u, origin, axes, points[new], clip=False, solution=solution)
        for name in known.keys() - {"inside"}:  # of u* maybe nothing is known at these
            known[name][new.numpy()] = found.get(name, np.nan)
    return made | {name: found for name, found in known.items() if name not in ("inside", "grid", "axes")}


def _surface(u: Ansatz, corners: Tensor, faces: Tensor, times: Tensor | None, solution: Solution | None) -> dict:
    """u at the corners of triangles, and of those that they are split into."""
    problem = u.problem
    points, faces = corners.double().cpu(), faces.cpu()
    while 4 * len(faces) * (1 if times is None else len(times)) <= SURFACE:
        points, faces = _split(points, faces)
    axes = torch.eye(problem.domain.dim, dtype=torch.float64)[:3]
    origin = torch.zeros(problem.domain.dim, dtype=torch.float64)
    names = coordinate_names(problem)[:3]
    made = {"origin": origin.numpy(), "axes": axes.numpy(), "points": points.numpy(), "cells": faces.int().numpy()}
    made |= {"label": "the surface", "axis_labels": names}
    if times is None:
        return made | values(u, origin, axes, points, clip=False, solution=solution)
    return made | _at_times(u, origin, axes, points, times, solution)


def _at_times(
    u: Ansatz, origin: Tensor, axes: Tensor, points: Tensor, times: Tensor, solution: Solution | None
) -> dict:
    """(m, V) each, and the times; the last coordinate of the origin is the time."""
    at = lambda t: torch.cat([origin[:-1], t.reshape(1)])
    found = [values(u, at(t), axes, points, clip=False, solution=solution) for t in times]
    names = dict.fromkeys(name for each in found for name in each)  # at some times u* may not be known
    unknown = np.full(len(points), np.nan)
    said = {"times": times.numpy(), "time_label": coordinate_names(u.problem)[-1]}
    return said | {name: np.stack([each.get(name, unknown) for each in found]) for name in names}


def _without_time(u: Ansatz, label: str) -> str:
    """A caption that names the middle of time is of all times."""
    label, semicolon, note = label.partition("; ")
    if " at " not in label:
        return label + semicolon + note
    along, _, at = label.partition(" at ")
    others = [part for part in at.split(", ") if not part.startswith(f"{coordinate_names(u.problem)[-1]} = ")]
    return (f"{along} at {', '.join(others)}" if others else "the whole domain") + semicolon + note


# ---------------------------------------------------------------------------------------------------------------
# Geometry


def simplices(n: int, k: int) -> Tensor:
    """Those that a grid of n^k points is split into, k! a cube: (C, k + 1) numbers of corners, ascending."""
    number = torch.arange(n**k).reshape((n,) * k)
    first = number[(slice(0, n - 1),) * k].reshape(-1, 1)
    steps = torch.tensor([[n ** (k - 1 - axis) for axis in order] for order in permutations(range(k))]).cumsum(1)
    corners = torch.cat([torch.zeros(len(steps), 1, dtype=steps.dtype), steps], 1)
    return (first.unsqueeze(1) + corners).flatten(0, 1)


def clipped(cells: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The part of simplices whose corners (V,) are inside.

    Returns:
        Corners (P, 2), a point of the grid twice or the ends, inside and outside, of an edge that is cut; and the
        cells (C, k + 1) by their numbers.
    """
    k = cells.shape[1] - 1
    count = inside[cells].sum(1)
    pairs = [cells[count == k + 1].unsqueeze(-1).expand(-1, -1, 2)]
    for m in range(1, k + 1):
        some = cells[count == m]
        some = some.gather(1, inside[some].logical_not().int().argsort(dim=1, stable=True))
        for part in PARTS[k, m]:
            ends = torch.tensor([[int(i), int(j)] for i, j in part.split()])
            pairs.append(some[:, ends.flatten()].reshape(-1, k + 1, 2))
    both, size = torch.cat(pairs), len(inside)
    code, number = torch.unique(both[..., 0] * size + both[..., 1], return_inverse=True)
    return torch.stack([code // size, code % size], 1), number


def _level(domain, axes: Tensor) -> tuple[Callable[[Tensor], Tensor], int]:
    """The level of a domain, along axes of space that of its space, and as many steps as it takes to find its zero.

    Of one that has no level 1 inside and -1 outside.
    """
    of, dim = space_of(domain), space(domain)
    if of is domain or axes[:, dim:].any():
        of, dim = domain, domain.dim
    try:
        of.level(torch.zeros(1, dim, dtype=axes.dtype))
    except (NotImplementedError, AttributeError):
        return lambda x: torch.where(domain.contains(x), 1.0, -1.0).to(x), BY_HALVES
    return lambda x: of.level(x[:, :dim]), BY_LEVEL


def crossings(domain, origin: Tensor, axes: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """The share (E,) of the way from points inside to such outside (E, k), in t of a slice, at which the boundary is.

    By false position (Illinois), which halves an interval where the level is 1 and -1.
    """
    level, steps = _level(domain, axes)
    found, rows = [], max(1, PART // len(origin))
    for a, b in zip(inner.split(rows), outer.split(rows), strict=True):
        at = lambda share, a=a, b=b: level(origin + (a + share.unsqueeze(1) * (b - a)) @ axes)
        low, high = a.new_zeros(len(a)), a.new_ones(len(a))
        f, g, share, before = at(low).abs(), -at(high).abs(), low, None
        for _ in range(steps):
            share = low + (high - low) * torch.where(f > g, f / (f - g), 0.5)
            here = at(share)
            within = here >= 0
            again = 1.0 if before is None or steps == BY_HALVES else torch.where(within == before, 0.5, 1.0)
            f, g = torch.where(within, here, again * f), torch.where(within, again * g, here)
            low, high, before = torch.where(within, share, low), torch.where(within, high, share), within
        found.append((low if steps == BY_HALVES else share) * (1 - INWARDS))
    return torch.cat(found)


def _merged(ends: Tensor, near: Tensor) -> Tensor:
    """A new number for each corner: of those near the inner end of their edge that of this end."""
    number, where = torch.arange(len(ends)), torch.zeros(int(ends.max()) + 1, dtype=torch.long)
    inner = ends[:, 0] == ends[:, 1]
    where[ends[inner, 0]] = number[inner]
    number[near] = where[ends[near, 0]]
    return number


def _sizes(points: Tensor, cells: Tensor) -> Tensor:
    """The measures (C,) of simplices, below zero of those that are turned the wrong way."""
    first, *others = points[cells].unbind(1)
    sides = torch.stack([other - first for other in others], 1)
    return torch.linalg.det(sides) / factorial(sides.shape[1])


def _split(points: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Each triangle into four, at the middle of its sides."""
    sides = torch.stack([faces, faces.roll(-1, 1)], -1)  # (F, 3, 2): ab, bc, ca
    ends, number = torch.unique(sides.sort(-1)[0].flatten(0, 1), dim=0, return_inverse=True)
    ab, bc, ca = (len(points) + number.reshape(-1, 3)).unbind(1)
    a, b, c = faces.unbind(1)
    new = [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return torch.cat([points, points[ends].mean(1)]), torch.cat([torch.stack(each, 1) for each in new])
