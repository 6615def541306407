"""Meshes and slices as files for ParaView, and pictures of a volume cut open and of a surface."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

import numpy as np

from kanpde.plot.curves import plain, title
from kanpde.plot.slices import SLENDER, Body, Slice, panels_of, time_axis
from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from pyvista import ImageData, PolyData, UnstructuredGrid

PROBE = "import pyvista; p = pyvista.Plotter(off_screen=True); p.add_mesh(pyvista.Sphere()); p.screenshot()"
SHORT = 0.7  # of the longest side, one that has no room for numbers
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


def mesh_3d(run: RunFile, name: str, step: int = 0) -> "UnstructuredGrid":
    """A mesh of the file in its coordinates of space; point arrays <field>, <field>_exact, <field>_error, as known.

    Args:
        step: which of its times, if it has them.
    Raises:
        ValueError: there is no such mesh, or it is not in the first three coordinates.
    """
    import pyvista

    body = Body.of(next(iter(run.views().values())), name)
    if body.axes[:, 3:].any():
        raise ValueError(f"{run.path}: mesh {name!r} is not in the first three coordinates")
    at = (body.origin + body.points @ body.axes)[:, : 2 if _is_flat(body) else 3]
    kind = pyvista.CellType.TRIANGLE if body.cells.shape[1] == 3 else pyvista.CellType.TETRA
    mesh = pyvista.UnstructuredGrid({kind: body.cells}, np.pad(at, [(0, 0), (0, 3 - at.shape[1])]))
    for field, view in run.views().items():
        of_field = Body.of(view, name)
        for end, values in (("", of_field.u), ("_exact", of_field.u_exact), ("_error", of_field.error)):
            if values is not None:
                mesh.point_data[f"{field}{end}"] = values[step] if len(body.times) else values
    mesh.set_active_scalars(run.fields[0])
    return mesh


def _is_flat(body: Body) -> bool:
    """Whether there are two coordinates of space, and the third one, if any, is time."""
    return not body.axes[:, 2:].any()


def save_vtk(run: RunFile, folder: str | Path) -> list[Path]:
    """Write files for ParaView, and return their paths.

    <stem>-domain.vtu, all fields on the domain's own shape, <stem>-surface.vtu on its boundary; with time one for each
    of several times, -0.vtu, -1.vtu, ..., and a .pvd that opens them all. <stem>-<slice>.vti for each slice of two or
    three axes that is no part of these, and <stem>-points.vtp if the points were kept.
    """
    folder, stem = Path(folder), run.path.stem
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in ("domain", "surface"):
        if name in run.meshes:
            written += save_mesh(run, name, folder / f"{stem}-{name}")
    has_axes = {name: np.asarray(data["axes"]) for name, data in run.slices.items() if len(data["axes"]) in (2, 3)}
    shown = lambda name: "domain" in run.meshes and time_axis(run, has_axes[name]) is None and name != "estimated"
    others = {f"{stem}-{name}.vti": grid_3d(run, name) for name in has_axes if not shown(name)}
    if "x" in run.field:
        others[f"{stem}-points.vtp"] = points(run)
    for name, mesh in others.items():
        mesh.save(folder / name)
    return [*written, *(folder / name for name in others)]


def save_mesh(run: RunFile, name: str, stem: Path) -> list[Path]:
    """Write <stem>.vtu; with time <stem>-0.vtu, ... and, last, <stem>.pvd, which opens them all."""
    times = run.meshes[name].get("times", ())
    files = [stem.with_name(f"{stem.name}-{i}.vtu") for i in range(len(times))] or [stem.with_name(f"{stem.name}.vtu")]
    for i, file in enumerate(files):
        mesh_3d(run, name, i).save(file)
    if not len(times):
        return files
    each = zip(times, files, strict=True)
    sets = [f"<DataSet timestep={quoteattr(repr(float(t)))} file={quoteattr(file.name)}/>" for t, file in each]
    series = stem.with_name(f"{stem.name}.pvd")
    head = '<VTKFile type="Collection" version="0.1">'
    series.write_text(
        "\n".join(['<?xml version="1.0"?>', head, "<Collection>", *sets, "</Collection>", "</VTKFile>", ""])
    )
    return [*files, series]


def render_3d(run: RunFile, name: str, path: str | Path) -> None:
    """A PNG of u and of |u - u*|, side by side: of a volume without the octant that faces the viewer, or of a surface.

    Args:
        name: of a mesh, which of several times is shown at the middle one, or of a slice.
    Raises:
        RuntimeError: this machine cannot render.
        ValueError: there is no such slice, or it has not three axes.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    cut = at_one_time(Body.of(run, name)) if name in run.meshes else Slice.of(run, name)
    if len(cut.axes) != 3:
        raise ValueError(f"{run.path}: slice {name!r} has {len(cut.axes)} axes; a volume takes 3")
    _require_rendering()
    panels = panels_of(cut)
    figure = Figure(figsize=(6.2 * len(panels[::2]), 6.0), layout="constrained")
    figure.suptitle("\n".join(filter(None, (title(run), plain(cut.label)))))
    axes = figure.subplots(1, len(panels[::2]), squeeze=False)[0]
    for ax, (values, heading, colours, norm) in zip(axes, panels[::2], strict=True):
        # VTK draws the body only: the texts and colour bars of matplotlib are those of the other pictures
        ax.imshow(_photograph(cut, values, colours, norm))
        ax.set_axis_off()
        ax.set_title(heading)
        extend = "min" if isinstance(norm, LogNorm) else "neither"
        figure.colorbar(ScalarMappable(norm, colours), ax=ax, shrink=0.75, extend=extend)
    figure.savefig(path, dpi=200)


def at_one_time(body: Body) -> Body:
    """As it is at the middle one of its times."""
    if not len(body.times):
        return body
    i = len(body.times) // 2
    at = {key: None if getattr(body, key) is None else getattr(body, key)[i] for key in ("u", "u_exact", "error")}
    label = f"{body.label} at {body.time_label} = {body.times[i]:.4g}"
    return replace(body, **at, times=body.times[:0], label=label)


def _photograph(cut: Slice | Body, values: np.ndarray, colours: str, norm: "Normalize") -> np.ndarray:
    """An RGB image of the volume, its box and its axes, without margins."""
    import pyvista
    from matplotlib.colors import LogNorm

    with _quiet():
        plotter = pyvista.Plotter(off_screen=True, window_size=(1100, 1100), lighting="none")
        plotter.set_background("white")
        plotter.add_light(pyvista.Light(light_type="headlight"))
        solid, sides = (_solid(cut, values), np.ones(3)) if isinstance(cut, Slice) else _body(cut, values)
        if solid.n_cells:
            shade = dict(ambient=0.72, diffuse=0.3, specular=0.0, show_scalar_bar=False, nan_color="grey")
            look = dict(cmap=colours, clim=(norm.vmin, norm.vmax), log_scale=isinstance(norm, LogNorm))
            plotter.add_mesh(solid, scalars="values", **look, **shade)
        plotter.show_bounds(**_box(cut, sides))
        plotter.camera_position = [sides / 2 + (2.4, 1.9, 1.75), sides / 2 - (0, 0, 0.05), (0, 0, 1)]
        image = plotter.screenshot(return_img=True)
        plotter.close()
    inked = [(image < 250).any(axis=axes).nonzero()[0] for axes in ((1, 2), (0, 2))]
    return image[tuple(slice(where.min(), where.max() + 1) for where in inked)]


def _box(cut: Slice | Body, sides: np.ndarray) -> dict:
    """How the box around a volume is labelled; numbers at its corners are in each other's way where a side is short."""
    labels, ranges = cut.axis_labels, cut.ranges
    box = dict(bounds=np.stack([np.zeros(3), sides], 1).ravel(), color="black", font_size=25, location="outer")
    if sides.min() < SHORT * sides.max():
        labels = [f"{label}: {low:.3g} to {high:.3g}" for label, (low, high) in zip(labels, ranges, strict=True)]
        box |= {f"show_{axis}labels": False for axis in "xyz"} | {"font_size": 18}
    else:
        box |= {f"n_{axis}labels": 3 for axis in "xyz"}
    names = {f"{axis}title": label for axis, label in zip("xyz", labels, strict=True)}
    return box | names | {"axes_ranges": ranges.ravel(), "ticks": "outside", "fmt": "%.3g"}


def _body(body: Body, values: np.ndarray) -> "tuple[UnstructuredGrid, np.ndarray]":
    """A mesh with its longest side scaled to 1, and the sides; of tetrahedra not the octant of large coordinates."""
    import pyvista

    low, size = body.ranges[:, 0], np.ptp(body.ranges, axis=1)
    scale = size.max() if body.time is None and size.max() < SLENDER * size.min() else size
    at, cells = (body.points - low) / scale, body.cells
    if cells.shape[1] == 4:
        cells = cells[(body.points[cells].mean(1) < body.ranges.mean(1)).any(1)]
    kind = pyvista.CellType.TRIANGLE if cells.shape[1] == 3 else pyvista.CellType.TETRA
    mesh = pyvista.UnstructuredGrid({kind: cells}, at)
    mesh.point_data["values"] = values
    return mesh, size / scale


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
