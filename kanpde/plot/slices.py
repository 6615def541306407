"""Pictures of u, u* and their difference on a line or a plane through the domain."""

import re
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import letter, plain, title
from kanpde.plot.graph import symbol
from kanpde.records.run import RunFile, RunFileError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

ERROR_COLOURS = "magma"
DECADES = 4  # of error shown; what lies below gets the lowest colour


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
        beside = name == "estimated", data.get("true_error")
        return cls(name, caption, origin, axes, tuple(labels), ticks, u, exact, error, letter(run), *beside)

    @property
    def relative_error(self) -> np.ndarray | None:
        """|u - u*| / max |u*|, the maximum over the slice; NaN where u* = 0 all over it."""
        if self.error is None:
            return None
        scale = np.max(abs(self.u_exact), where=np.isfinite(self.u_exact), initial=0.0)
        return self.error / (scale or np.nan)

    @property
    def known(self) -> str:
        """What u* is of: the label says so of a reference."""
        return "reference" if self.label.endswith("reference, interpolated") else "exact"

    @property
    def inside(self) -> np.ndarray:
        """Where the slice lies in the domain: u* tells, if there is one, since a diverged u is NaN inside too."""
        return np.isfinite(self.u if self.u_exact is None else self.u_exact)


def slice_2d(run: RunFile, name: str) -> "Figure":
    """u, u*, |u - u*| (all in the unit of u) and |u - u*| / max |u*| on a slice; u alone if u* is not known.

    A plane is drawn as colours, a line as curves. What lies outside the domain is left blank.

    Raises:
        ValueError: there is no such slice, or it has three axes.
    """
    cut = Slice.of(run, name)
    if len(cut.ticks) > 2:
        raise ValueError(f"{run.path}: slice {name!r} has {len(cut.ticks)} axes; a picture takes 1 or 2")
    figure = _draw_line(cut) if len(cut.ticks) == 1 else _draw_plane(cut)
    figure.suptitle("\n".join(filter(None, (title(run), fill(plain(cut.label), int(10 * figure.get_figwidth()))))))
    return figure


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


def _draw_plane(cut: Slice) -> "Figure":
    from matplotlib.figure import Figure

    colours, norm = value_colours(cut.u, cut.u_exact)
    alone = ", no exact solution" if cut.error is None else ""
    u = cut.letter
    panels = [(cut.u, f"${u}$ (network){alone}", colours, norm)]
    if cut.error is not None:
        relative = rf"relative error $|{u} - {u}^*|\;/\;\max\,|{u}^*|$"
        last = (cut.relative_error, relative, ERROR_COLOURS, error_norm(cut.relative_error))
        exact, error = f"${u}^*$ ({cut.known})", f"$|{u} - {u}^*|$"
        scale = error_norm(cut.error)
        if cut.estimated:
            exact, error = f"${u} - e$ (corrected)", "$|e|$ (estimated without a solution)"
            if cut.true_error is not None:
                last = (cut.true_error, f"$|{u} - {u}^*|$ (true)", ERROR_COLOURS, scale)
        panels += [(cut.u_exact, exact, colours, norm), (cut.error, error, ERROR_COLOURS, scale), last]
    side = 2 if len(panels) > 1 else 1
    figure = Figure(figsize=(5.2 * side, 4.4 * side + 0.5), layout="constrained")
    axes = figure.subplots(side, side, squeeze=False).flat
    for ax, (values, heading, colours, norm) in zip(axes, panels, strict=True):
        _draw_image(ax, cut, values, colours, norm)
        ax.set_title(heading)
    return figure


def _draw_image(ax: "Axes", cut: Slice, values: np.ndarray, colours: str, norm: "Normalize") -> None:
    from matplotlib.colors import LogNorm

    # a mesh, not an image: ticks need not be equidistant; its rows run along the second axis of the slice, upwards
    mesh = ax.pcolormesh(*cut.ticks, values.T, cmap=colours, norm=norm, shading="nearest", rasterized=True)
    clipped = isinstance(norm, LogNorm) and np.nanmin(values) < norm.vmin
    ax.figure.colorbar(mesh, ax=ax, extend="min" if clipped else "neither", shrink=0.9)
    ax.set(xlabel=_symbol(cut.axis_labels[0]), ylabel=_symbol(cut.axis_labels[1]), facecolor="0.94")
    if np.isclose(*np.ptp(cut.ticks, axis=1)):
        ax.set_aspect("equal")
    if not np.isfinite(values).any():
        ax.text(0.5, 0.5, "no finite value", transform=ax.transAxes, ha="center", va="center", color="0.4")


def _draw_line(cut: Slice) -> "Figure":
    from matplotlib.figure import Figure

    panels = 1 if cut.error is None else 2
    figure = Figure(figsize=(1.0 + 5.0 * panels, 4.5), layout="constrained")
    axes, t = figure.subplots(1, panels, squeeze=False)[0], cut.ticks[0]
    u = cut.letter
    axes[0].plot(t, cut.u, color="C0", linewidth=2, label=f"${u}$ (network)")
    axes[0].set_ylabel(f"${u}$")
    if cut.error is None:
        axes[0].set_title("no exact solution")
    else:
        exact, error = f"${u}^*$ ({cut.known})", f"$|{u} - {u}^*|$"
        if cut.estimated:
            exact, error = f"${u} - e$ (corrected)", "$|e|$ (estimated)"
        axes[0].plot(t, cut.u_exact, color="black", linestyle="--", label=exact)
        shown = np.where(cut.error > 0, 1.0, np.nan)
        axes[1].plot(t, shown * cut.error, color="C3", label=error)
        if cut.true_error is not None:
            axes[1].plot(t, cut.true_error, color="black", linestyle="--", label=f"$|{u} - {u}^*|$ (true)")
        axes[1].plot(t, shown * cut.relative_error, color="C1", label=rf"$|{u} - {u}^*|\;/\;\max\,|{u}^*|$")
        axes[1].set(ylabel="error", yscale="log")
    for ax in axes:
        ax.set_xlabel(_symbol(cut.axis_labels[0]))
        ax.grid(color="0.9")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    return figure


def _symbol(label: str) -> str:
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
