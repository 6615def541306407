"""Slices of a solution for pictures: a line, a plane or a volume through the domain, with u, u* and the error there.

A slice is the points origin + sum_i t_i axes_i. One along coordinates has these as its t, and their names; a random
one has directions of space through the centre.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from kanpde.config import RunConfig
from kanpde.domains.base import frame_of, is_framed, tells_inside, time_of
from kanpde.ground.samplers import directions, stream
from kanpde.jets.ansatz import Ansatz

SLICE = 2**28  # coordinates evaluated for a volume; where it has more, there is none
PLANE = 2**26  # for a plane; where it has more, it has fewer points
PART = 2**23  # at a time
LISTED = 3  # coordinates off a slice whose values its caption tells
ROUNDING = 1e-5  # of the distance from the centre: as near to the boundary is on it


def slices(config: RunConfig, u: Ansatz) -> dict[str, dict]:
    """A line or planes, and a volume of three dimensions or more, as `kanpde.records` keeps them; none through a table.

    Of one or two coordinates, time among them, the plane is all of the domain; of three of space there are three
    planes, of more a random one, or the one that is asked for. Coordinates off the slice are those of the centre.
    """
    domain, wanted = u.problem.domain, config.slices
    if not is_framed(domain):
        return {}
    made = {name: cut(config, u, 2, plane, wanted.points) for name, plane in _planes(config, domain).items()}
    if domain.dim >= 3 and wanted.volume**3 * domain.dim <= SLICE and wanted.volume > 1:
        if (whole := _coordinates(domain, 3)) is not None or space(domain) >= 3:
            made["volume"] = cut(config, u, 3, whole, wanted.volume)
    return made


def coordinate_names(problem) -> list[str]:
    """The problem's `names` of its inputs, any texts, else its `coordinates`."""
    own = getattr(problem, "names", ())
    if problem.fits_rows and own:  # be the table there or not
        return list(own)
    dim = problem.axes.count
    if isinstance(own, Sequence) and len(own) == dim and all(isinstance(name, str) for name in own):
        return list(own)
    return [problem.axes.name(axis) for axis in range(dim)]


def inside(domain, x: Tensor) -> Tensor:
    """Which points x (N, d) lie in the closed domain, (N,); all of them where the domain does not tell.

    What rounding has put beyond the boundary counts: points are also looked at a little nearer to the centre.
    """
    if not tells_inside(domain):
        return torch.ones(len(x), dtype=torch.bool, device=x.device)
    found = domain.contains(x).reshape(len(x))
    if is_framed(domain):
        off = (~found).nonzero()[:, 0]
        nearer = x[off] + ROUNDING * (frame_of(domain)[0].to(x) - x[off])
        found = found.index_put((off,), domain.contains(nearer).reshape(len(off)))
    return found


def space(domain) -> int:
    """The number of coordinates without time."""
    return domain.dim - (time_of(domain) is not None)


def _planes(config: RunConfig, domain) -> dict[str, list[int] | None]:
    """The coordinates of each plane by its name; None: random directions."""
    if config.slices.plane != "random":
        return {"axes": list(config.slices.plane)}
    if space(domain) == 3:
        return {f"plane_{i}{j}": [i, j] for i, j in combinations(range(3), 2)}
    return {"random": _coordinates(domain, 2)}


def _coordinates(domain, k: int) -> list[int] | None:
    """Those of all the domain, or of all its space, where they are k or fewer; None: too many."""
    return next((list(range(n)) for n in (domain.dim, space(domain)) if n <= k), None)


def _random(domain, k: int, seed: int) -> tuple[Tensor, Tensor, bool]:
    """k orthonormal directions of space (k, d), the reach of t, and whether they are in half-widths of coordinates."""
    n, reach = space(domain), frame_of(domain)[1]
    axes = torch.zeros(k, domain.dim, dtype=torch.float64)
    drawn = directions(k, n, stream(seed, f"slices/{k}"), dtype=torch.float64)
    axes[:, :n] = torch.linalg.qr(drawn.mT)[0].mT
    scaled = bool((reach[:n] != reach[0]).any())
    return (axes * reach, reach.new_ones(k), True) if scaled else (axes, reach[0].expand(k), False)


def _caption(problem, coordinates: Sequence[int] | None, k: int, scaled: bool) -> str:
    """What the slice is of, for the pictures, with the coordinates that it leaves out."""
    names, (centre, _) = coordinate_names(problem), frame_of(problem.domain)
    at = {i: f"{names[i]} = {centre[i]:.4g}" for i in range(len(names))}
    time = [at[len(names) - 1]] if space(problem.domain) < len(names) else []
    if coordinates is None:
        where = [f"random {k}-D subspace through the centre", *time]
        return ", ".join(where + ["in half-widths of the coordinates"] * scaled)
    others = [at[i] for i in at if i not in coordinates]
    if not others:
        return "the whole domain"
    along = ", ".join(names[i] for i in coordinates)
    if len(others) <= LISTED:
        return f"{along} at {', '.join(others)}"
    shown = [each for each in time if each in others]
    return ", ".join([f"{along} through the centre, off the distribution of the points", *shown])


@torch.no_grad()
def cut(config: RunConfig, u: Ansatz, k: int, coordinates: Sequence[int] | None, points: int) -> dict:
    """A slice of k axes: these coordinates, which may be fewer, or random directions where they are None."""
    problem, domain = u.problem, u.problem.domain
    origin, reach = frame_of(domain)
    scaled = False
    if coordinates is None:
        axes, half, scaled = _random(domain, k, config.seed)
        middle = torch.zeros_like(half)
    else:
        axes = torch.eye(domain.dim, dtype=torch.float64)[coordinates]
        middle, half = origin[coordinates], reach[coordinates]
        origin = origin.index_fill(0, torch.tensor(coordinates), 0.0)
    most = PLANE if k == 2 else SLICE
    n = max(2, min(points, int((most / domain.dim) ** (1 / len(axes)))))
    ticks = middle[:, None] + half[:, None] * torch.linspace(-1, 1, n, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(*ticks, indexing="ij"), -1)
    found = values(u, origin, axes, grid.flatten(0, -2))
    data = {
        "origin": origin.numpy(),
        "axes": axes.numpy(),
        "grid": (ticks[0] if coordinates is None else ticks).numpy(),
        "label": _caption(problem, coordinates, k, scaled),
        **{name: t.reshape(grid.shape[:-1]) for name, t in found.items()},
    }
    if coordinates is not None:
        data["axis_labels"] = [coordinate_names(problem)[i] for i in coordinates]
    return data


@torch.no_grad()
def values(u: Ansatz, origin: Tensor, axes: Tensor, grid: Tensor, clip: bool = True) -> dict[str, np.ndarray]:
    """u, and u* and the error where they are known, (N,) each, at the points origin + t axes for t of a grid (N, k).

    With `clip` they are NaN outside the domain, and `inside` (N,) says where that is not so.
    """
    problem, like = u.problem, u.like
    found: list[tuple[Tensor, ...]] = []
    for part in grid.split(max(1, min(2048, PART // len(origin)))):
        x = (origin + part @ axes).to(like)
        exact = problem.exact_fields(x)
        within = inside(problem.domain, x) if clip else x.new_ones(len(x), dtype=torch.bool)
        found.append((within, u(x), *([] if exact is None else [exact])))
    within, *known = map(torch.cat, zip(*found, strict=True))
    known = [t.double().index_fill(0, (~within).nonzero()[:, 0], float("nan")) for t in known]
    columns = by_field(problem.fields, *known, *[None] * (2 - len(known)))
    said = {"inside": within} if clip else {}
    return {name: t.cpu().numpy() for name, t in {**said, **columns}.items()}


def by_field(fields: Sequence[str], u: Tensor, exact: Tensor | None) -> dict[str, Tensor]:
    """u, u_exact and error; of several fields, columns of u, name, name_exact and name_error of each, as known."""
    if len(fields) == 1:
        return {"u": u} if exact is None else {"u": u, "u_exact": exact, "error": (u - exact).abs()}
    found = {}
    for k, name in enumerate(fields):
        found[name] = u[..., k]
        if exact is not None and exact[..., k].isfinite().any():
            found[f"{name}_exact"], found[f"{name}_error"] = exact[..., k], (u[..., k] - exact[..., k]).abs()
    return found
