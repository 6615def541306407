"""Pictures of u, u* and their difference on a line or a plane through the domain.

A plane that the file has a mesh of is drawn as triangles, which end where the domain does; else it is a grid.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import letter, plain, title
from kanpde.plot.graph import symbol
from kanpde.records.run import RunFile, RunFileError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import Collection, QuadMesh
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

ERROR_COLOURS = "magma"
DECADES = 4  # of error shown; what lies below gets the lowest colour
REFINED, STEEP = (
    3,
    4.0,
)  # times that a triangle is split where its values are in this proportion, on a logarithmic scale
SLENDER = 8  # times as long as wide, a domain that would be a thread in its true proportions


@dataclass(frozen=True)
class Slice:
    """u at origin + sum_i t_i axes_i; index j of array axis i stands for t_i = grid[i][j]; NaN outside the domain.

    Attributes:
        name, label: the key in the file, and the caption.
        origin, axes: (d,), zero where the file has none, and (k, d).
        axis_labels: k names.
        ticks: (k, n).
        u, u_exact, error: (n,) * k; the last two None without an exact solution.
        letter: what u is called in formulas.
        estimated: whether u_exact is u - e, and error |e|, as they are estimated without a solution.
        true_error: beside such an estimate |u - u*|, where it is known.
        time: which axis is time; None: none.
    """

    name: str
    label: str
    origin: np.ndarray
    axes: np.ndarray
    axis_labels: tuple[str, ...]
    ticks: np.ndarray
    u: np.ndarray
    u_exact: np.ndarray | None
    error: np.ndarray | None
    letter: str = "u"
    estimated: bool = False
    true_error: np.ndarray | None = None
    time: int | None = None

    @classmethod
    def of(cls, run: RunFile, name: str) -> "Slice":
        """Raises ValueError where the run has no such slice, RunFileError where it is not whole."""
        if name not in run.slices:
            raise ValueError(f"{run.path}: no slice {name!r}; there are: {', '.join(run.slices) or 'none'}")
        data = run.slices[name]
        if missing := {"axes", "grid", "u"} - data.keys():
            raise RunFileError(f"{run.path}: slice {name!r} has no {' and no '.join(sorted(missing))}")
        axes = np.asarray(data["axes"], dtype=np.float64)
        k, n = len(axes), np.shape(data["grid"])[-1]
        origin = np.broadcast_to(np.asarray(data.get("origin", 0.0), dtype=np.float64), axes.shape[1:])
        u, exact = (np.asarray(data.get(key, np.nan), dtype=np.float64) for key in ("u", "u_exact"))
        exact = exact if np.isfinite(exact).any() else None
        error = None if exact is None else np.asarray(data.get("error", abs(u - exact)), dtype=np.float64)
        labels = _labels(data.get("axis_labels", ""))
        labels = labels if len(labels) == k and all(labels) else "abc"[:k]
        caption, ticks = _text(data.get("label", "")) or f"slice {name}", np.broadcast_to(data["grid"], (k, n))
        beside = name == "estimated", data.get("true_error"), time_axis(run, axes)
        return cls(name, caption, origin, axes, tuple(labels), ticks, u, exact, error, letter(run), *beside)

    @property
    def relative_error(self) -> np.ndarray | None:
        """|u - u*| / max |u*|, the maximum over the slice; NaN where u* = 0 all over it."""
        if self.error is None:
            return None
        return relative(self.error, self.u_exact)

    @property
    def ranges(self) -> np.ndarray:
        """Of the axes, (k, 2)."""
        return self.ticks[:, [0, -1]]

    @property
    def turned(self) -> bool:
        """Whether a picture has the second axis to the right: time, unless the plane was asked for."""
        return self.time == 1 and self.name != "axes"

    def draw(self, ax: "Axes", values: np.ndarray, **style: object) -> "QuadMesh":
        """Values (n, n) of a plane as colours, between points too unless there are some outside the domain.

        A mesh, not an image, as ticks need not be equidistant.
        """
        shading = "gouraud" if np.isfinite(values).all() else "nearest"
        x, y = self.ticks[::-1] if self.turned else self.ticks
        return ax.pcolormesh(x, y, values if self.turned else values.T, shading=shading, rasterized=True, **style)

    @property
    def inside(self) -> np.ndarray:
        """Where the slice lies in the domain: u* tells, if there is one, since a diverged u is NaN inside too."""
        return np.isfinite(self.u if self.u_exact is None else self.u_exact)


@dataclass(frozen=True)
class Body:
    """u on triangles or tetrahedra, which end where the domain does: corner j stands for origin + points[j] axes.

    Attributes:
        name, label, origin, axes, axis_labels, letter, time: as of a slice; of several times origin has no last one.
        points, cells: (V, k) and (C, 3 or 4).
        times, time_label: (m,) and its name; empty: there is no time, or one that the label tells.
        u, u_exact, error: (V,), of several times (m, V); the last two None without an exact solution.
    """

    name: str
    label: str
    origin: np.ndarray
    axes: np.ndarray
    axis_labels: tuple[str, ...]
    points: np.ndarray
    cells: np.ndarray
    times: np.ndarray
    u: np.ndarray
    u_exact: np.ndarray | None
    error: np.ndarray | None
    letter: str = "u"
    time: int | None = None
    time_label: str = "t"
    estimated: bool = False
    turned: bool = False
    true_error: np.ndarray | None = None

    @classmethod
    def of(cls, run: RunFile, name: str) -> "Body":
        """Raises ValueError where the run has no such mesh, RunFileError where it is not whole."""
        if name not in run.meshes:
            raise ValueError(f"{run.path}: no mesh {name!r}; there are: {', '.join(run.meshes) or 'none'}")
        data = run.meshes[name]
        if missing := {"axes", "origin", "points", "cells", "u"} - data.keys():
            raise RunFileError(f"{run.path}: mesh {name!r} has no {' and no '.join(sorted(missing))}")
        u, exact, error, axes = (np.asarray(data.get(key, np.nan), float) for key in ("u", "u_exact", "error", "axes"))
        known = np.isfinite(exact).any()
        labels = _labels(data["axis_labels"]) if "axis_labels" in data else "abc"[: len(axes)]
        return cls(
            name,
            _text(data.get("label", "")) or f"mesh {name}",
            np.asarray(data["origin"], dtype=np.float64),
            axes,
            tuple(labels),
            np.asarray(data["points"], dtype=np.float64),
            np.asarray(data["cells"]),
            np.asarray(data.get("times", ()), dtype=np.float64),
            u,
            exact if known else None,
            error if known else None,
            letter(run),
            time_axis(run, axes),
            _text(data.get("time_label", "t")),
        )

    @property
    def relative_error(self) -> np.ndarray | None:
        """As of a slice."""
        return relative(self.error, self.u_exact)

    @property
    def ranges(self) -> np.ndarray:
        """Of the axes, (k, 2)."""
        return np.stack([self.points.min(0), self.points.max(0)], 1)

    def draw(self, ax: "Axes", values: np.ndarray, **style: object) -> "Collection":
        """Values (V,) on triangles of a plane as colours; those with a corner that is not finite are left out."""
        cells = self.cells[np.isfinite(values[self.cells]).all(1)]
        ax.set(xlim=self.ranges[0], ylim=self.ranges[1])
        if not len(cells):
            cells, values, style = self.cells[:1], np.zeros(len(values)), style | {"alpha": 0.0}
        corners, values = _refined(self.points[cells], values[cells], style["norm"])
        number = np.arange(corners[..., 0].size).reshape(-1, 3)
        look = dict(shading="gouraud", rasterized=True)
        return ax.tripcolor(*corners.reshape(-1, 2).T, values.ravel(), triangles=number, **look, **style)


def _refined(corners: np.ndarray, values: np.ndarray, norm: "Normalize") -> tuple[np.ndarray, np.ndarray]:
    """Triangles (C, 3, 2) and values (C, 3), split where a logarithm is steep, as at a boundary where the error is 0.

    Between corners matplotlib mixes colours, not values: the dark of a boundary would be as wide as its triangles.
    """
    from matplotlib.colors import LogNorm

    done = []
    for _ in range(REFINED if isinstance(norm, LogNorm) else 0):
        low, high = np.clip(values, norm.vmin, norm.vmax).min(1), values.max(1)
        steep = high > STEEP * low
        done.append((corners[~steep], values[~steep]))
        corners, values = _quartered(corners[steep]), _quartered(values[steep])
    done.append((corners, values))
    return tuple(map(np.concatenate, zip(*done, strict=True)))


def _quartered(x: np.ndarray) -> np.ndarray:
    """Of what is given at corners (C, 3, ...) that of the four triangles between these and the middles of the sides."""
    a, b, c = np.moveaxis(x, 1, 0)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return np.concatenate([np.stack(each, 1) for each in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])


def relative(error: np.ndarray | None, exact: np.ndarray | None) -> np.ndarray | None:
    """|u - u*| / max |u*|, NaN where that is zero; None: it is not known."""
    if error is None or exact is None:
        return None
    scale = np.max(abs(exact), where=np.isfinite(exact), initial=0.0)
    return error / (scale or np.nan)


def time_axis(run: RunFile, axes: np.ndarray) -> int | None:
    """Which of the axes (k, d) is time, the last coordinate of a run that has it; None: none."""
    along = [i for i, axis in enumerate(axes) if run.attrs.get("time") and axis[-1] and not axis[:-1].any()]
    return along[0] if along else None


def plane(run: RunFile, name: str) -> Slice | Body:
    """A slice of two axes as triangles, if the file has them at the same time; else, and of a line, as a grid."""
    cut = Slice.of(run, name)
    for mesh in (name, "domain"):
        if mesh in run.meshes and len(cut.ticks) == 2:
            body = Body.of(run, mesh)
            if not len(body.times) and np.shape(body.axes) == np.shape(cut.axes) and (body.axes == cut.axes).all():
                return body
    return cut


def slice_2d(run: RunFile, name: str) -> "Figure":
    """u, u*, |u - u*| (all in the unit of u) and |u - u*| / max |u*| on a slice; u alone if u* is not known.

    A plane is drawn as colours, a line as curves. What lies outside the domain is left blank.

    Raises:
        ValueError: there is no such slice, or it has three axes.
    """
    cut = Slice.of(run, name)
    if len(cut.ticks) > 2:
        raise ValueError(f"{run.path}: slice {name!r} has {len(cut.ticks)} axes; a picture takes 1 or 2")
    figure = _draw_line(cut) if len(cut.ticks) == 1 else _draw_plane(plane(run, name), is_true(run))
    headed(figure, run, cut.label)
    return figure


def headed(figure: "Figure", run: RunFile, label: str) -> None:
    """Title of a figure: the run, and below it a caption."""
    width = int(10 * figure.get_figwidth())
    figure.suptitle("\n".join(filter(None, (title(run), fill(plain(label), width)))))


def is_true(run: RunFile) -> bool:
    """Whether lengths of coordinates compare: those of space do, inputs of a fit have units of their own."""
    return not run.attrs.get("fits")


def value_colours(*values: np.ndarray | None) -> tuple[str, "Normalize"]:
    """One colour map and range for all: diverging about 0 if they have both signs, sequential if not."""
    from matplotlib.colors import Normalize

    finite = np.concatenate([v[np.isfinite(v)] for v in values if v is not None])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    top = max(-low, high)
    if min(-low, high) > 0.05 * top:
        return "RdBu_r", Normalize(-top, top)
    return "viridis", Normalize(low, high)


def error_norm(error: np.ndarray) -> "Normalize":
    """Logarithmic if the errors spread over more than 1.5 decades, from 0 if not."""
    from matplotlib.colors import LogNorm, Normalize

    positive = error[np.isfinite(error) & (error > 0)]
    if not len(positive):
        return Normalize(0.0, 1.0)
    low, high = np.quantile(positive, 0.01), positive.max()
    if high < 10**1.5 * low:
        return Normalize(0.0, high)
    return LogNorm(max(low, high / 10**DECADES), high, clip=True)


def _draw_plane(cut: Slice | Body, true: bool) -> "Figure":
    from matplotlib.figure import Figure

    panels = panels_of(cut)
    if len(panels) == 1:
        panels = [(panels[0][0], f"{panels[0][1]}, no exact solution", *panels[0][2:])]
    else:
        relative = rf"relative error $|{cut.letter} - {cut.letter}^*|\;/\;\max\,|{cut.letter}^*|$"
        last = (cut.relative_error, relative, ERROR_COLOURS, error_norm(cut.relative_error))
        if cut.true_error is not None:
            last = (cut.true_error, f"$|{cut.letter} - {cut.letter}^*|$ (true)", ERROR_COLOURS, panels[2][3])
        panels.append(last)
    side = 2 if len(panels) > 1 else 1
    width, height = panel_size(cut, true, side)
    figure = Figure(figsize=((width + 0.8) * side, height * side + 0.5), layout="constrained")
    axes = figure.subplots(side, side, squeeze=False).flat
    for ax, (values, heading, colours, norm) in zip(axes, panels, strict=True):
        draw_image(ax, cut, values, colours, norm, true)
        ax.set_title(heading)
    return figure


def panels_of(cut: Slice | Body) -> "list[tuple[np.ndarray, str, str, Normalize]]":
    """Values, heading, colours and their range of u, and of u* and the error as far as they are known."""
    u = cut.letter
    colours, norm = value_colours(cut.u, cut.u_exact)
    panels = [(cut.u, f"${u}$ (network)", colours, norm)]
    if cut.error is None:
        return panels
    exact, error = f"${u}^*$ (exact)", f"$|{u} - {u}^*|$"
    if cut.estimated:
        exact, error = f"${u} - e$ (corrected)", "$|e|$ (estimated without a solution)"
    return [*panels, (cut.u_exact, exact, colours, norm), (cut.error, error, ERROR_COLOURS, error_norm(cut.error))]


def panel_size(cut: Slice | Body, true: bool, columns: int) -> tuple[float, float]:
    """Width and height in inches of a panel, by the proportions of what is drawn."""
    width = min(4.4, 14 / columns)
    x, y = np.ptp(cut.ranges, axis=1)[:: -1 if cut.turned else 1]
    high = y / x if is_equal(cut, true) else 0.8
    if high > 1.6:  # a tall one is narrow
        return max(1.6, 1.6 * width / high), 1.6 * width
    return width, max(0.8 * width * high, 1.0) + 0.85


def is_equal(cut: Slice | Body, true: bool) -> bool:
    """Whether one unit is as long on both axes: of lengths, and where it makes no difference."""
    x, y = np.ptp(cut.ranges, axis=1)
    return bool(np.isclose(x, y)) or (true and cut.time is None and max(x, y) < SLENDER * min(x, y))


def draw_image(
    ax: "Axes", cut: Slice | Body, values: np.ndarray, colours: str, norm: "Normalize", true: bool, bar: bool = True
) -> "ScalarMappable":
    """Values of a plane as colours, with names at the axes and with a bar of colours."""
    mesh = cut.draw(ax, values, cmap=colours, norm=norm)
    if bar:
        colour_bar(ax.figure, mesh, values, ax)
    labels = cut.axis_labels[::-1] if cut.turned else cut.axis_labels
    ax.set(
        xlabel=axis_name(labels[0]),
        ylabel=axis_name(labels[1]),
        facecolor="0.94" if isinstance(cut, Slice) else "white",
    )
    ax.locator_params(nbins=5)
    if is_equal(cut, true):
        ax.set_aspect("equal")
    if not np.isfinite(values).any():
        ax.text(0.5, 0.5, "no finite value", transform=ax.transAxes, ha="center", va="center", color="0.4")
    return mesh


def colour_bar(figure: "Figure", mesh: "ScalarMappable", values: np.ndarray, axes: object, **options: object) -> None:
    """Beside one or several axes; pointed where values are below it."""
    from matplotlib.colors import LogNorm

    clipped = isinstance(mesh.norm, LogNorm) and np.nanmin(values, initial=np.inf) < mesh.norm.vmin
    figure.colorbar(mesh, ax=axes, extend="min" if clipped else "neither", **{"shrink": 0.9, **options})


def _draw_line(cut: Slice) -> "Figure":
    from matplotlib.figure import Figure

    panels = 1 if cut.error is None else 2
    figure = Figure(figsize=(1.0 + 5.0 * panels, 4.5), layout="constrained")
    draw_curves(figure.subplots(1, panels, squeeze=False)[0], cut)
    if cut.error is None:
        figure.axes[0].set_title("no exact solution")
    return figure


def draw_curves(axes: "Sequence[Axes]", cut: Slice) -> None:
    """u and u* of a line, and in the second axes, if u* is known, the error."""
    t, u = cut.ticks[0], cut.letter
    axes[0].plot(t, cut.u, color="C0", linewidth=2, label=f"${u}$ (network)")
    axes[0].set_ylabel(f"${u}$")
    if cut.error is not None:
        exact, error = f"${u}^*$ (exact)", f"$|{u} - {u}^*|$"
        if cut.estimated:
            exact, error = f"${u} - e$ (corrected)", "$|e|$ (estimated)"
        axes[0].plot(t, cut.u_exact, color="black", linestyle="--", label=exact)
        shown = np.where(cut.error > 0, 1.0, np.nan)
        axes[1].plot(t, shown * cut.error, color="C3", label=error)
        if cut.true_error is not None:
            axes[1].plot(t, cut.true_error, color="black", linestyle="--", label=f"$|{u} - {u}^*|$ (true)")
        axes[1].plot(t, shown * cut.relative_error, color="C1", label=rf"$|{u} - {u}^*|\;/\;\max\,|{u}^*|$")
        axes[1].set_ylabel("error")
        scale_error(axes[1], cut.error, cut.relative_error, cut.true_error)
    for ax in axes:
        ax.set_xlabel(axis_name(cut.axis_labels[0]))
        ax.grid(color="0.9")
        if ax.lines:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def scale_error(ax: "Axes", *errors: np.ndarray | None) -> None:
    """A logarithmic axis of some decades: how near to 0 an error comes where it changes sign says nothing."""
    shown = np.concatenate([error[np.isfinite(error) & (error > 0)] for error in errors if error is not None])
    if not len(shown):
        ax.text(0.5, 0.5, "zero everywhere", transform=ax.transAxes, ha="center", va="center", color="0.4")
        ax.set(yticks=[], xticks=[])
        return
    low = max(np.quantile(shown, 0.02), shown.max() / 10 ** (DECADES + 1))
    ax.set(yscale="log", ylim=(low / 1.5, 1.5 * shown.max()))


def axis_name(label: str) -> str:
    """A letter, with or without an index, is set as mathematics; words stay words."""
    return f"${label}$" if re.fullmatch(r"[A-Za-z](_(\w|\{\w+\}))?", label) else symbol(label)


def _labels(value: object) -> list[str]:
    """A list of names; older files have one text with commas between them."""
    if np.ndim(value) == 1:
        return [_text(label) for label in value]
    return [label.strip() for label in _text(value).split(",")]


def _text(value: object) -> str:
    """A string that went through HDF5: str, bytes, or a 0-d array of either."""
    value = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
