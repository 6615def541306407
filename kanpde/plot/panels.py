"""Pictures of several panels: at several times, of several fields side by side, of three planes, curves at times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import plain
from kanpde.plot.slices import (
    ERROR_COLOURS,
    Body,
    Slice,
    axis_name,
    colour_bar,
    draw_curves,
    draw_image,
    error_norm,
    headed,
    is_true,
    panel_size,
    panels_of,
    plane,
    scale_error,
    value_colours,
)
from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

CURVES = 5  # times of which a picture has curves
TALL = 22.0  # inches, at most


@dataclass(frozen=True)
class Row:
    """Panels with one range of colours: of a plane, values at each time, and the name of what they are."""

    cut: Body
    values: np.ndarray
    name: str
    colours: str
    norm: "Normalize"


def over_time(run: RunFile, names: Sequence[str]) -> "Figure":
    """Planes at several times, a column each: rows of u, and of u* and the error as far as they are known.

    Of a system these of each field; of several planes u and the error of each.

    Raises:
        ValueError: there is no such mesh, or it is not at several times.
    """
    bodies = [Body.of(view, name) for view in run.views().values() for name in names]
    if not all(len(body.times) for body in bodies):
        raise ValueError(f"{run.path}: meshes {', '.join(names)} are not at several times")
    rows = []
    for body in bodies:
        where = f", {_off(body)}" if len(names) > 1 else ""
        panels = [panel for i, panel in enumerate(panels_of(body)) if not (where and i == 1)]
        rows += [Row(body, values, f"{heading}{plain(where)}", *look) for values, heading, *look in panels]
    figure = _rows(rows, is_true(run), f"{axis_name(bodies[0].time_label)} = ")
    headed(figure, run, bodies[0].label if len(names) == 1 else "planes through the centre")
    return figure


def _rows(rows: Sequence[Row], true: bool, time: str) -> "Figure":
    columns = len(rows[0].values)
    sizes = [panel_size(row.cut, true, columns) for row in rows]
    width, heights = columns * max(w for w, _ in sizes) + 1.6, [h - 0.4 for _, h in sizes]
    figure, grid = _grid(len(rows), columns, width, heights)
    for k, (line, row) in enumerate(zip(grid, rows, strict=True)):
        for i, ax in enumerate(line):
            mesh = draw_image(ax, row.cut, row.values[i], row.colours, row.norm, true, bar=False)
            if k == 0:
                ax.set_title(f"{time}{row.cut.times[i]:.4g}")
            if i:
                ax.set(ylabel="", yticklabels=[])
            if k + 1 < len(rows) and rows[k + 1].cut.axis_labels == row.cut.axis_labels:
                ax.set(xlabel="", xticklabels=[])
        colour_bar(figure, mesh, row.values, list(line), label=row.name, pad=0.01)
    return figure


def _grid(lines: int, columns: int, width: float, heights: Sequence[float]) -> "tuple[Figure, np.ndarray]":
    """A figure of axes (lines, columns), not taller than it may be."""
    from matplotlib.figure import Figure

    height = sum(heights) + 1.1  # two lines above, and the names of the axes
    shrink = min(1.0, TALL / height)
    figure = Figure(figsize=(max(width * shrink, 5.0), height * shrink), layout="constrained")
    return figure, figure.subplots(lines, columns, squeeze=False, height_ratios=heights)


def side_by_side(run: RunFile, name: str) -> "Figure":
    """The fields of a system on one line or plane, a row each: u, and u* and the error as far as they are known.

    Raises:
        ValueError: there is no such slice, or it has three axes.
    """
    views = list(run.views().values())
    cut = Slice.of(views[0], name)  # of the run itself only a field that is called u has one
    if len(cut.ticks) > 2:
        raise ValueError(f"{run.path}: slice {name!r} has {len(cut.ticks)} axes; a picture takes 1 or 2")
    if len(cut.ticks) == 1:
        figure = _lines([Slice.of(view, name) for view in views])
    else:
        figure = _table([plane(view, name) for view in views], is_true(run))
    headed(figure, run, cut.label)
    return figure


def planes(run: RunFile, names: Sequence[str]) -> "Figure":
    """Planes of one field, a row each: u, and u* and the error if they are known, in the same colours."""
    figure = _table([plane(run, name) for name in names], is_true(run), alike=True)
    headed(figure, run, "planes through the centre")
    return figure


def _table(cuts: Sequence[Slice | Body], true: bool, alike: bool = False) -> "Figure":
    """A row of panels for each plane; with one panel in each, these are beside each other."""
    rows = [panels_of(cut) for cut in cuts]
    if alike:
        where = [plain(_off(cut)) for cut in cuts]
        named = lambda row, at: [(values, f"{heading}, {at}", *look) for values, heading, *look in row]
        rows = list(map(named, _in_the_same_colours(rows), where))
    columns = max(map(len, rows))
    if columns == 1:
        columns = min(3, len(rows))
        cells = [(cut, panel) for cut, (panel,) in zip(cuts, rows, strict=True)]
    else:
        padded = [[*row, *[None] * (columns - len(row))] for row in rows]
        cells = [(cut, panel) for cut, row in zip(cuts, padded, strict=True) for panel in row]
    lines = -(-len(cells) // columns)
    sizes = [panel_size(cut, true, columns) for cut, _ in cells]
    heights = [max(h for _, h in sizes[k * columns : (k + 1) * columns]) for k in range(lines)]
    figure, grid = _grid(lines, columns, columns * (max(w for w, _ in sizes) + 0.7), heights)
    axes = grid.flat
    for ax, (cut, panel) in zip(axes, cells, strict=False):
        if panel is None:
            ax.set_axis_off()
            continue
        values, heading, colours, norm = panel
        draw_image(ax, cut, values, colours, norm, true)
        ax.set_title(heading)
    for ax in list(axes)[len(cells) :]:
        ax.set_axis_off()
    return figure


def _in_the_same_colours(rows: list[list[tuple]]) -> list[list[tuple]]:
    flat = lambda i: np.concatenate([row[i][0].ravel() for row in rows if len(row) > i])
    known = max(map(len, rows)) > 1
    values = value_colours(flat(0), flat(1) if known else None)
    looks = [values, values, (ERROR_COLOURS, error_norm(flat(2)))] if known else [values]
    return [[(*panel[:2], *look) for panel, look in zip(row, looks, strict=False)] for row in rows]


def _lines(cuts: Sequence[Slice]) -> "Figure":
    from matplotlib.figure import Figure

    columns = 1 + any(cut.error is not None for cut in cuts)
    figure = Figure(figsize=(1.0 + 5.0 * columns, 3.6 * len(cuts) + 0.6), layout="constrained")
    for axes, cut in zip(figure.subplots(len(cuts), columns, squeeze=False), cuts, strict=True):
        used = axes[: 1 if cut.error is None else 2]
        draw_curves(used, cut)
        for ax in axes[len(used) :]:
            ax.set_axis_off()
    return figure


def curves_at_times(run: RunFile, name: str) -> "Figure":
    """Of one coordinate of space and time: u along x at several times, u* dashed; beside it the error, if known.

    Raises:
        ValueError: the slice is not a plane of a coordinate and time.
    """
    from matplotlib.figure import Figure

    cuts = [Slice.of(view, name) for view in run.views().values()]
    if len(cuts[0].ticks) != 2 or cuts[0].time is None:
        raise ValueError(f"{run.path}: slice {name!r} is no plane of a coordinate and time")
    columns = 1 + any(cut.error is not None for cut in cuts)
    figure = Figure(figsize=(1.0 + 5.0 * columns, 3.8 * len(cuts) + 0.8), layout="constrained")
    for axes, cut in zip(figure.subplots(len(cuts), columns, squeeze=False), cuts, strict=True):
        _draw_at_times(axes, cut)
    headed(figure, run, "" if cuts[0].label == "the whole domain" else cuts[0].label)
    return figure


def _draw_at_times(axes: np.ndarray, cut: Slice) -> None:
    import matplotlib

    time = cut.time
    x, t, along = cut.ticks[1 - time], cut.ticks[time], lambda values, i: np.take(values, i, axis=time)
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, CURVES))
    for i, colour in zip(np.linspace(0, len(t) - 1, CURVES).round().astype(int), colours, strict=True):
        label = f"{axis_name(cut.axis_labels[time])} = {t[i]:.4g}"
        axes[0].plot(x, along(cut.u, i), color=colour, label=label)
        if cut.error is not None:
            axes[0].plot(x, along(cut.u_exact, i), color="black", linestyle="--", linewidth=0.9)
            error = along(cut.error, i)
            axes[1].plot(x, np.where(error > 0, error, np.nan), color=colour, label=label)
    axes[0].set_ylabel(f"${cut.letter}$" + (rf", ${cut.letter}^*$ dashed" if cut.error is not None else ""))
    if cut.error is not None:
        axes[1].set_ylabel(f"$|{cut.letter} - {cut.letter}^*|$")
        scale_error(axes[1], cut.error)
    elif len(axes) > 1:
        axes[1].set_axis_off()
    for ax in axes[: 1 if cut.error is None else 2]:
        ax.set_xlabel(axis_name(cut.axis_labels[1 - time]))
        ax.grid(color="0.9")
    axes[0].legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _off(cut: Slice | Body) -> str:
    """Where a plane is: what its caption says of the other coordinates."""
    return cut.label.partition(" at ")[2] or cut.label
