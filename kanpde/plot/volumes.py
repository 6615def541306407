"""Slices as grids for ParaView, and a picture of a volume cut open."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import plain, title
from kanpde.plot.slices import ERROR_COLOURS, Slice, error_norm, value_colours
from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from pyvista import ImageData, PolyData, UnstructuredGrid

PROBE = "import pyvista; p = pyvista.Plotter(off_screen=True); p.add_mesh(pyvista.Sphere()); p.screenshot()"
HIDDEN_POINT = 2  # vtkDataSetAttributes::HIDDENPOINT


def grid_3d(run: RunFile, name: str) -> "ImageData":
    """A slice with two or three axes as a grid; point arrays u, u_exact, error, relative_error.

    Of a system those of each field, v, v_exact, v_error, v_relative_error.

    It lies where the test points of `points` do, if its axes are in the span of the first three coordinates and at
    right angles; else in coordinates of its own.
    Points outside the domain keep their NaN; `inside` is 0 there, and `vtkGhostType` makes ParaView leave them blank.

    Raises:
        ValueError: there is no such slice, it is a line, or its ticks are not equidistant.
    """
    import pyvista

    cut = Slice.of(next(iter(run.views().values())), name)
    k, n = cut.ticks.shape
    spacing = np.ptp(cut.ticks, axis=1) / (n - 1)
    if k not in (2, 3):
        raise ValueError(f"{run.path}: slice {name!r} has {k} axes; a grid takes 2 or 3")
    if not np.allclose(np.diff(cut.ticks), spacing[:, None], rtol=1e-3):
        raise ValueError(f"{run.path}: the ticks of slice {name!r} are not equidistant")
    flat = [1] * (3 - k)
    placed = _placed(cut)
    corner, directions, lengths = placed or (np.pad(cut.ticks[:, 0], (0, 3 - k)), np.eye(3), np.ones(k))
    grid = pyvista.ImageData(dimensions=[n] * k + flat, spacing=[*(lengths * spacing), *flat], origin=corner)
    if placed:
        grid.direction_matrix = directions
    for field, view in run.views().items():
        of_field = Slice.of(view, name)
        for key in ("u", "u_exact", "error", "relative_error"):
            if getattr(of_field, key) is not None:  # VTK counts the first axis fastest
                grid.point_data[_named(run, field, key)] = getattr(of_field, key).ravel(order="F")
    inside = cut.inside.ravel(order="F")
    grid.point_data["inside"] = inside.astype(np.uint8)
    grid.point_data["vtkGhostType"] = np.where(inside, 0, HIDDEN_POINT).astype(np.uint8)
    grid.set_active_scalars(run.fields[0])
    return grid


def _placed(cut: Slice) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """First corner, unit vectors as columns, and lengths of the axes, in the first three coordinates, if there."""
    lengths = np.linalg.norm(cut.axes, axis=1)
    units = cut.axes / lengths[:, None]
    if units[:, 3:].any() or not np.allclose(units @ units.T, np.eye(len(units)), atol=1e-6):
        return None
    first = lambda x: np.pad(x[..., :3], [*[(0, 0)] * (x.ndim - 1), (0, max(0, 3 - x.shape[-1]))])
    corner, directions = first(cut.origin + cut.ticks[:, 0] @ cut.axes), first(units)
    if len(directions) == 2:
        directions = np.vstack([directions, np.cross(*directions)])
    return corner, directions.T, lengths


def points(run: RunFile) -> "PolyData":
    """The test points at their first three coordinates (zeros for those that do not exist), with the field's arrays.

    Raises:
        ValueError: the run has not kept the coordinates.
    """
    import pyvista

    if "x" not in run.field:
        raise ValueError(f"{run.path}: the coordinates of the test points were not kept")
    x = np.asarray(run.field["x"], dtype=np.float64)[:, :3]
    cloud = pyvista.PolyData(np.pad(x, [(0, 0), (0, 3 - x.shape[1])]))
    for field, view in run.views().items():
        for key in ("u", "u_exact", "error", "radius"):
            if key in view.field:
                cloud.point_data[_named(run, field, key)] = np.asarray(view.field[key], dtype=np.float64)
    return cloud


def _named(run: RunFile, field: str, key: str) -> str:
    """The name of an array of a field: of a system v, v_exact, v_error."""
    if len(run.fields) == 1 or key == "radius":
        return key
    return field if key == "u" else f"{field}_{key.removeprefix('u_')}"


def save_vtk(run: RunFile, folder: str | Path) -> list[Path]:
    """Write <stem>-<slice>.vti for each slice with two or three axes, and <stem>-points.vtp if the points were kept."""
    folder, stem = Path(folder), run.path.stem
    names = [name for name, data in run.slices.items() if len(data["axes"]) in (2, 3)]
    meshes = {f"{stem}-{name}.vti": grid_3d(run, name) for name in names}
    if "x" in run.field:
        meshes[f"{stem}-points.vtp"] = points(run)
    folder.mkdir(parents=True, exist_ok=True)
    for name, mesh in meshes.items():
        mesh.save(folder / name)
    return [folder / name for name in meshes]


def render_3d(run: RunFile, name: str, path: str | Path) -> None:
    """A PNG of u and of |u - u*|, side by side, on a volume of which the octant facing the viewer is taken away.

    Raises:
        RuntimeError: this machine cannot render.
        ValueError: there is no such slice, or it has not three axes.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    cut = Slice.of(run, name)
    if len(cut.ticks) != 3:
        raise ValueError(f"{run.path}: slice {name!r} has {len(cut.ticks)} axes; a volume takes 3")
    _require_rendering()
    u = cut.letter
    panels = [(f"${u}$ (network)", cut.u, *value_colours(cut.u, cut.u_exact))]
    if cut.error is not None:
        panels.append((f"$|{u} - {u}^*|$", cut.error, ERROR_COLOURS, error_norm(cut.error)))
    figure = Figure(figsize=(6.2 * len(panels), 6.0), layout="constrained")
    figure.suptitle("\n".join(filter(None, (title(run), plain(cut.label)))))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (heading, values, colours, norm) in zip(axes, panels, strict=True):
        # VTK draws the body only: the texts and colour bars of matplotlib are those of the other pictures
        ax.imshow(_photograph(cut, values, colours, norm))
        ax.set_axis_off()
        ax.set_title(heading)
        extend = "min" if isinstance(norm, LogNorm) else "neither"
        figure.colorbar(ScalarMappable(norm, colours), ax=ax, shrink=0.75, extend=extend)
    figure.savefig(path, dpi=200)


def _photograph(cut: Slice, values: np.ndarray, colours: str, norm: "Normalize") -> np.ndarray:
    """An RGB image of the volume, its box and its axes, without margins."""
    import pyvista
    from matplotlib.colors import LogNorm

    with _quiet():
        plotter = pyvista.Plotter(off_screen=True, window_size=(1100, 1100), lighting="none")
        plotter.set_background("white")
        plotter.add_light(pyvista.Light(light_type="headlight"))
        solid = _solid(cut, values)
        if solid.n_cells:
            shade = dict(ambient=0.72, diffuse=0.3, specular=0.0, show_scalar_bar=False, nan_color="grey")
            look = dict(cmap=colours, clim=(norm.vmin, norm.vmax), log_scale=isinstance(norm, LogNorm))
            plotter.add_mesh(solid, scalars="values", **look, **shade)
        ranges = [t for ticks in cut.ticks for t in (ticks[0], ticks[-1])]
        names = dict(zip(("xtitle", "ytitle", "ztitle"), cut.axis_labels, strict=True))
        box = dict(bounds=(0, 1, 0, 1, 0, 1), axes_ranges=ranges, color="black", font_size=25, fmt="%.3g")
        plotter.show_bounds(location="outer", ticks="outside", n_xlabels=3, n_ylabels=3, n_zlabels=3, **box, **names)
        plotter.camera_position = [(2.9, 2.4, 2.2), (0.5, 0.5, 0.45), (0, 0, 1)]
        image = plotter.screenshot(return_img=True)
        plotter.close()
    inked = [(image < 250).any(axis=axes).nonzero()[0] for axes in ((1, 2), (0, 2))]
    return image[tuple(slice(where.min(), where.max() + 1) for where in inked)]


def _solid(cut: Slice, values: np.ndarray) -> "UnstructuredGrid":
    """The part of the volume inside the domain, without the octant of large coordinates, scaled to the unit cube.

    The domain's indicator is smoothed and cut at 1/2, or else its boundary would show the grid's stairs; values are
    continued by averages of their neighbours for the half cell that this may add.
    """
    import pyvista

    n = values.shape[0]
    known = np.isfinite(values)
    total, weight = _blur(np.where(known, values, 0.0)), _blur(known.astype(float))
    mean = np.divide(total, weight, out=np.full_like(values, np.nan), where=weight > 0)
    grid = pyvista.ImageData(dimensions=[n] * 3, spacing=[1 / (n - 1)] * 3)
    grid.point_data["values"] = np.where(known, values, mean).ravel(order="F")
    grid.point_data["inside"] = _blur(cut.inside.astype(float)).ravel(order="F")
    kept = (grid.cell_centers().points < (n // 2) / (n - 1)).any(axis=1)
    return grid.extract_cells(kept).clip_scalar(scalars="inside", invert=False, value=0.5)


def _blur(values: np.ndarray, passes: int = 2) -> np.ndarray:
    """Averages with weights 1/4, 1/2, 1/4 along each axis."""
    for axis in list(range(values.ndim)) * passes:
        rows = np.moveaxis(values, axis, 0)
        padded = np.concatenate([rows[:1], rows, rows[-1:]])
        values = np.moveaxis((padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4, 0, axis)
    return values


@functools.cache
def _require_rendering() -> None:
    """Raises RuntimeError unless a process of its own can render: without any OpenGL VTK does not raise, it crashes."""
    try:
        if subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=120).returncode == 0:
            return
    except (OSError, subprocess.SubprocessError):
        pass
    raise RuntimeError("no 3-D picture: VTK cannot render on this machine (it needs EGL, OSMesa or an X display)")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without VTK's warnings, which tell of every kind of window it tried before the one that works."""
    from vtkmodules.vtkCommonCore import vtkLogger

    former = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    try:
        yield
    finally:
        vtkLogger.SetStderrVerbosity(former)
