"""Slices of a solution for pictures: a line, a plane or a volume through the domain, with u, u* and the error there.

A slice is the points origin + sum_i t_i axes_i. One along coordinates has these as its t, and their names; a random
one has directions of space through the centre.
"""

from collections.abc import Callable, Sequence

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
Solution = Callable[[Tensor], Tensor | None]
ROUNDING = 1e-5  # of the distance from the centre: as near to the boundary is on it


def slices(config: RunConfig, u: Ansatz, solution: Solution | None = None) -> dict[str, dict]:
    """A line or plane, and a volume of three dimensions or more, as `kanpde.records` keeps them; none through a table.

    Of one or two coordinates, time among them, the plane is all of the domain; of more it is random or the two that
    are asked for. Coordinates off the slice are those of the centre.

    Args:
        solution: u* at points, by default the exact one.
    """
    domain, wanted = u.problem.domain, config.slices
    solution = solution or u.problem.exact_fields
    if not is_framed(domain):
        return {}
    plane = list(wanted.plane) if wanted.plane != "random" else _coordinates(domain, 2)
    made = {"random" if wanted.plane == "random" else "axes": _slice(config, u, solution, 2, plane, wanted.points)}
    if domain.dim >= 3 and wanted.volume**3 * domain.dim <= SLICE and wanted.volume > 1:
        if (whole := _coordinates(domain, 3)) is not None or space(domain) >= 3:
            made["volume"] = _slice(config, u, solution, 3, whole, wanted.volume)
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
        centre = frame_of(domain)[0].to(x)
        found = found | domain.contains(x + ROUNDING * (centre - x)).reshape(len(x))
    return found


def space(domain) -> int:
    """The number of coordinates without time."""
    return domain.dim - (time_of(domain) is not None)


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
def _slice(
    config: RunConfig, u: Ansatz, solution: Solution, k: int, coordinates: Sequence[int] | None, points: int
) -> dict:
    """k axes: these coordinates, which may be fewer, or random directions where they are None."""
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
    data = {
        "origin": origin.numpy(),
        "axes": axes.numpy(),
        "grid": (ticks[0] if coordinates is None else ticks).numpy(),
        "label": _caption(problem, coordinates, k, scaled),
        **_values(u, solution, origin, axes, ticks),
    }
    if config.reference is not None and len(data) > 4 + len(u.problem.fields):
        data["label"] += "; reference, interpolated"
    if coordinates is not None:
        data["axis_labels"] = [coordinate_names(problem)[i] for i in coordinates]
    return data


def _values(u: Ansatz, solution: Solution, origin: Tensor, axes: Tensor, ticks: Tensor) -> dict:
    """u, and u* and the error where they are known, on the grid; NaN outside the domain."""
    problem, like = u.problem, u.like
    grid = torch.stack(torch.meshgrid(*ticks, indexing="ij"), -1).flatten(0, -2)
    found: list[tuple[Tensor, ...]] = []
    for part in grid.split(max(1, min(2048, PART // len(origin)))):
        x = (origin + part @ axes).to(like)
        exact = solution(x)
        found.append((inside(problem.domain, x), u(x), *([] if exact is None else [exact])))
    within, *values = map(torch.cat, zip(*found, strict=True))
    shape, outside = (ticks.shape[1],) * len(ticks), ~within
    values = [t.double().index_fill(0, outside.nonzero()[:, 0], float("nan")) for t in values]
    columns = by_field(problem.fields, *values, *[None] * (2 - len(values)))
    return {name: t.reshape(shape).cpu().numpy() for name, t in columns.items()}


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
