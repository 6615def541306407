"""What a page shows to be turned by hand: u on a body, or as a height over a plane, as a figure of plotly.js.

Numbers are in its form of binary arrays, {dtype, bdata, shape}; plotly itself is not needed to make one.
"""

import base64
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kanpde.plot.slices import ERROR_COLOURS, SLENDER, Body, Slice, is_true, panels_of, plane
from kanpde.plot.volumes import at_one_time
from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from matplotlib.colors import Normalize

STOPS = 17  # colours of a map
HEIGHT = 0.6  # of a surface over a plane, in units of its longer side
EYE = {"x": 1.65, "y": 1.4, "z": 1.05}
LIGHT = {"ambient": 0.75, "diffuse": 0.35, "specular": 0.05, "roughness": 0.9, "fresnel": 0.0}
FACES = ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))  # of a tetrahedron, opposite to its corners 3, 2, 1, 0


def rotatable(run: RunFile, flat: Sequence[str]) -> dict[str, Any] | None:
    """A body in three coordinates, else the plane that stands for the run; None: there is neither.

    Of tetrahedra those are left out that lie in the octant of large coordinates, as in the picture of a volume.

    Args:
        flat: names of the lines and planes, the one that stands for the run first.
    Returns:
        caption; layout; trace; and looks, each with a label and what it changes of the trace: u, and u* and the error
        as far as they are known, of each field, of a plane at each of its times.
    """
    views = list(run.views().values())
    cuts = _bodies(run, views) or _planes(run, views, flat)
    if not cuts or not np.isfinite(cuts[0].u).any():
        return None
    solid = len(cuts[0].axes) == 3
    shape = _shape(_skin(cuts[0])) if isinstance(cuts[0], Body) else _grid(cuts[0])
    kept = _kept(cuts[0]) if solid else slice(None)
    looks = [look for cut in cuts for look in _looks(cut, kept, solid)]
    return {
        "caption": cuts[0].label,
        "layout": {"scene": _scene(cuts[0], solid, is_true(run))},
        "trace": shape,
        "looks": looks,
    }


def _bodies(run: RunFile, views: Sequence[RunFile]) -> list[Body]:
    """The boundary, or else the domain, of three coordinates; at the middle one of several times."""
    for name in ("surface", "domain"):
        if np.shape(run.meshes.get(name, {}).get("axes"))[:1] == (3,):
            return [at_one_time(Body.of(view, name)) for view in views]
    return []


def _planes(run: RunFile, views: Sequence[RunFile], flat: Sequence[str]) -> list[Body | Slice]:
    """The domain of two coordinates at all its times, or the first plane."""
    if len(run.meshes.get("domain", {}).get("times", ())):
        return [Body.of(view, "domain") for view in views]
    name = next((name for name in flat if len(run.slices[name]["axes"]) == 2), None)
    return [] if name is None else [plane(view, name) for view in views]


def _skin(body: Body) -> Body:
    """A body by the triangles that are seen of it, and the corners of these."""
    cells = _triangles(body)
    cells = cells[np.isfinite(body.u.reshape(-1, len(body.points))[:, cells]).all((0, 2))]
    if body.cells.shape[1] == 3:
        return replace(body, cells=cells)
    corners = _kept(body)
    number = np.zeros(len(body.points), dtype=np.int64)
    number[corners] = np.arange(len(corners))
    return replace(body, points=body.points[corners], cells=number[cells])


def _kept(body: Body) -> np.ndarray:
    """The numbers of the corners that are seen."""
    return np.arange(len(body.points)) if body.cells.shape[1] == 3 else np.unique(_triangles(body))


def _triangles(body: Body) -> np.ndarray:
    """(C, 3): of tetrahedra without an octant the faces that belong to one alone."""
    if body.cells.shape[1] == 3:
        return body.cells
    near = (body.points[body.cells].mean(1) < body.ranges.mean(1)).any(1)
    cells, n = body.cells[near].astype(np.int64), len(body.points)
    a, b, c = np.sort(cells[:, FACES].reshape(-1, 3), 1).T
    _, first, count = np.unique((a * n + b) * n + c, return_index=True, return_counts=True)
    alone = first[count == 1]
    faces, inner = cells[:, FACES].reshape(-1, 3)[alone], cells[:, ::-1].reshape(-1)[alone]
    a, b, c, d = (body.points[corners] for corners in (*faces.T, inner))
    inward = (np.cross(b - a, c - a) * (d - a)).sum(1) > 0
    faces[inward] = faces[inward, ::-1]  # light falls from outside
    return faces


def _shape(body: Body) -> dict[str, Any]:
    corners = dict(zip("xyz", map(packed, body.points.T), strict=False))
    return {"type": "mesh3d", **corners, **dict(zip("ijk", map(_numbered, body.cells.T), strict=True)), **_style()}


def _grid(cut: Slice) -> dict[str, Any]:
    return {"type": "surface", **dict(zip("xy", map(packed, cut.ticks), strict=True)), **_style()}


def _style() -> dict[str, Any]:
    return {"lighting": LIGHT, "colorbar": {"thickness": 14, "len": 0.75}}


def _looks(cut: Body | Slice, kept: np.ndarray | slice, solid: bool) -> list[dict[str, Any]]:
    """u, u* and the error with their colours, at each time."""
    times = cut.times if isinstance(cut, Body) else ()
    found = []
    for (values, _, colours, norm), label in zip(panels_of(cut), _names(cut), strict=True):
        for i, time in enumerate(times if len(times) else [None]):
            at = "" if time is None else f" at {cut.time_label} = {time:.4g}"
            shown = values if time is None else values[i]
            found.append({"label": f"{label}{at}", "trace": _look(cut, shown[kept], colours, norm, solid)})
    return found


def _names(cut: Body | Slice) -> list[str]:
    u = cut.letter.replace(r"\mathrm{", "").rstrip("}").replace(r"\_", "_")
    exact, error = (f"{u} - e, corrected", "|e|, estimated") if cut.estimated else (f"{u}*", f"|{u} - {u}*|")
    return [u, exact, error][: 1 if cut.error is None else 3]


def _look(cut: Body | Slice, values: np.ndarray, colours: str, norm: "Normalize", solid: bool) -> dict[str, Any]:
    """What colours a trace, and of a plane lifts it: errors from 0, as heights have no logarithm."""
    low = 0.0 if colours == ERROR_COLOURS else norm.vmin
    found = {"colorscale": colour_scale(colours), "cmin": low, "cmax": norm.vmax}
    if isinstance(cut, Slice):
        return found | {"z": packed(values.T), "surfacecolor": packed(values.T)}
    shown = packed(np.nan_to_num(values, nan=0.0, posinf=norm.vmax, neginf=norm.vmin))
    return found | {"intensity": shown} | ({} if solid else {"z": shown})


def _scene(cut: Body | Slice, solid: bool, true: bool) -> dict[str, Any]:
    """Names of the axes, and lengths as they are where these compare."""
    sides = np.ptp(cut.ranges, axis=1)
    alike = true and cut.time is None and sides.max() < SLENDER * sides.min()
    x, y, *z = sides / sides.max() if alike else np.ones(len(sides))
    names = dict(zip("xyz", [*cut.axis_labels, *([] if solid else [""])], strict=True))
    axes = {f"{axis}axis": {"title": {"text": name}} for axis, name in names.items()}
    ratio = {"x": float(x), "y": float(y), "z": float(z[0]) if solid else HEIGHT}
    return {**axes, "aspectmode": "manual", "aspectratio": ratio, "camera": {"eye": EYE}}


def packed(values: np.ndarray) -> dict[str, str]:
    """Numbers in four bytes each, as plotly.js reads them."""
    return _packed(np.asarray(values), "f4")


def _numbered(values: np.ndarray) -> dict[str, str]:
    return _packed(values, "u2" if values.max(initial=0) < 2**16 else "u4")


def _packed(values: np.ndarray, dtype: str) -> dict[str, str]:
    data = base64.b64encode(np.ascontiguousarray(values, dtype=f"<{dtype}").tobytes()).decode()
    shape = {"shape": ", ".join(map(str, values.shape))} if values.ndim > 1 else {}
    return {"dtype": dtype, "bdata": data, **shape}


def colour_scale(name: str) -> list[list]:
    """A map of matplotlib as stops of plotly.js."""
    import matplotlib
    from matplotlib.colors import to_hex

    return [[float(t), to_hex(matplotlib.colormaps[name](t))] for t in np.linspace(0, 1, STOPS)]
