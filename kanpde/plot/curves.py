"""Curves of a run: errors against steps, against |x|, and against the share of the test points."""

from typing import TYPE_CHECKING

import numpy as np

from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ERRORS = {"rel_l2": "relative $l^2$", "rel_l1": "relative $l^1$", "linf": r"$\max\,|u - u^*|$"}
LEVELS = (0.50, 0.90, 0.99)
BINS, POINTS_PER_BIN = 40, 25
MAX_DOTS = 20_000
SHOWN = 1e-4  # of the median over times, errors that are shown


def convergence(run: RunFile) -> "Figure":
    """Loss and its terms against the step; beside it the test errors and the floors, if there is an exact solution.

    The loss is in the squared unit of the residual, the l2 and l1 errors are relative, and
    max |u - u*| is in the unit of u. Values that are not finite and positive
    have no place on the logarithmic axis: they are left out, and the legend counts those that are not positive.
    """
    from matplotlib.figure import Figure

    known = [name for name in ERRORS if np.isfinite(run.history.get(name, ())).any()]
    errors = {ERRORS[name]: run.history[name] for name in known}
    if len(run.fields) > 1 and errors:
        own = {name: run.history.get(f"fields/{name}/rel_l2", ()) for name in run.fields}
        known = {f"{ERRORS['rel_l2']} of {plain(name)}": e for name, e in own.items() if np.isfinite(e).any()}
        errors = {f"{ERRORS['rel_l2']} of all": run.history["rel_l2"]} | known
    panels = 2 if errors else 1
    figure = Figure(figsize=(1.0 + 5.0 * panels, 5.0), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    figure.suptitle(title(run))
    _draw_loss(axes[0], run)
    if errors:
        _draw_errors(axes[1], run, errors)
    for ax in axes:
        ax.set_xlabel("step")
        _finish(ax)
    return figure


def radial(run: RunFile) -> "Figure":
    """Point-wise error |u - u*| (in the unit of u) against |x| at the test points, with its median and 90 % band.

    The axis leaves out the lowest few of 1000 points, which lie where u - u* changes sign.

    Raises:
        ValueError: the run has no errors at test points.
    """
    from matplotlib.figure import Figure

    error, radius = _field(run, "error"), _field(run, "radius")
    shown = np.isfinite(radius) & (error > 0)
    radius, error = radius[shown], error[shown]
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    ax = figure.subplots()
    u = letter(run)
    ax.set(title=title(run), xlabel="$|x|$", ylabel=f"$|{u} - {u}^*|$")
    thin = slice(None, None, -(-len(error) // MAX_DOTS) or 1)  # more dots only make the picture darker
    dots = dict(s=5, color="0.5", alpha=0.25, linewidths=0, rasterized=True)
    ax.scatter(radius[thin], error[thin], label="test points", **dots)
    if len(error):
        centre, low, median, high = _bands(radius, error)
        ax.fill_between(centre, low, high, color="C0", alpha=0.25, linewidth=0, label="90 % of the points")
        ax.plot(centre, median, color="C0", linewidth=2, marker="o", markersize=3, label="median")
    _finish(ax)
    _start_above_tail(ax, error)
    return figure


def quantiles(run: RunFile) -> "Figure":
    """Empirical distribution of |u - u*| / rms(u*) at the test points (no unit): its value at each quantile level.

    Raises:
        ValueError: the run has no errors at test points.
    """
    from matplotlib.figure import Figure

    error, exact = _field(run, "error"), _field(run, "u_exact")
    rms = np.sqrt(np.mean(exact[np.isfinite(exact)] ** 2)) if np.isfinite(exact).any() else np.nan
    relative = np.sort(error[np.isfinite(error)]) / (rms or np.nan)
    level = (np.arange(len(relative)) + 0.5) / max(len(relative), 1)
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    ax = figure.subplots()
    u = letter(run)
    ylabel = rf"$|{u} - {u}^*|\;/\;\mathrm{{rms}}({u}^*)$"
    ax.set(title=title(run), xlabel="share of the test points (%)", ylabel=ylabel)
    _line(ax, 100 * level, relative, "test points", color="C0", linewidth=2)
    dot = dict(marker="o", markersize=8, linestyle="none")
    for i, q in enumerate(LEVELS if np.isfinite(relative).any() else ()):
        value = np.interp(q, level, relative)
        ax.plot([0, 100 * q, 100 * q], [value, value, 0], color="0.5", linewidth=0.8, linestyle=":")
        _line(ax, [100 * q], [value], f"{100 * q:.0f} % below {value:.2e}", **dot, color=f"C{i + 1}")
    ax.set_xlim(0, 101)
    _finish(ax)
    _start_above_tail(ax, relative)
    return figure


def by_time(run: RunFile) -> "Figure":
    """Relative l2 error over the space at each time, of a system also that of each field.

    Raises:
        ValueError: the run has no errors by time.
    """
    from matplotlib.figure import Figure

    columns = run.table("times")
    if "rel_l2" not in columns:
        raise ValueError(f"{run.path}: no errors by time")
    figure = Figure(figsize=(7.0, 5.0), layout="constrained")
    ax = figure.subplots()
    ax.set(title=title(run), xlabel="$t$", ylabel=ERRORS["rel_l2"])
    several = len(run.fields) > 1
    _line(ax, columns["t"], columns["rel_l2"], "all fields" if several else ERRORS["rel_l2"], color="C0", linewidth=2)
    for i, name in enumerate(run.fields if several else ()):
        _line(ax, columns["t"], columns[f"fields/{name}/rel_l2"], plain(name), color=f"C{i + 1}", linewidth=1)
    _finish(ax)
    positive = [e for e in columns["rel_l2"] if 0 < e < np.inf]
    if positive:  # what is built in has an error of rounding alone, which would take all decades
        ax.set_ylim(bottom=max(min(positive), SHOWN * np.median(positive)) / 2)
    return figure


def epochs(run: RunFile) -> "Figure":
    """Of a classifier the loss and the accuracy (%) of training and validation against the epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    figure.suptitle(title(run))
    for ax, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for kind in ("train", "validation"):
            values = run.history.get(f"{kind}_{measure}", ())
            ax.plot(run.history["epoch"][: len(values)], values, label=kind, marker="o", markersize=3)
        ax.set(xlabel="epoch", ylabel=measure if measure == "loss" else f"{measure} (%)")
        ax.grid(color="0.9")
        ax.legend(frameon=False)
    return figure


def beside_floors(run: RunFile) -> "Figure":
    """The relative l2 error on one axis with its floors: the estimate with its interval, and what is known.

    Raises:
        ValueError: neither is known.
    """
    from matplotlib.figure import Figure

    found, error = run.verification, run.rel_l2
    floors = {name.replace("_", " "): value for name, value in run.floors.items() if 0 < value < np.inf}
    rows = [f"floor: {name}" for name in floors] + ["known"] * (error > 0) + ["estimated"] * bool(found)
    if not found and not error > 0:
        raise ValueError(f"{run.path}: no error is known")
    figure = Figure(figsize=(7.0, 0.34 * len(rows) + 0.9), layout="constrained")
    ax = figure.subplots()
    ax.set(xscale="log", xlabel=f"{ERRORS['rel_l2']} error", yticks=range(len(rows)), yticklabels=map(plain, rows))
    ax.plot(list(floors.values()), range(len(floors)), "o", color="0.55")
    if error > 0:
        ax.plot([error], [rows.index("known")], "*", color="C0", markersize=12, markeredgecolor="black")
    if found:
        _draw_interval(ax, found, rows.index("estimated"))
    ax.grid(axis="x", which="major", color="0.9")
    ax.set_axisbelow(True)
    ax.margins(x=0.08, y=0.15)
    return figure


def _draw_interval(ax: "Axes", found: dict, row: int) -> None:
    """An estimate with its interval, of which an end that is not finite or positive is left open by an arrow."""
    value = found["rel_l2"]
    low, high = (found[end] if 0 < found[end] < np.inf else None for end in ("low", "high"))
    ends = [value / 2 if low is None else low, value * 2 if high is None else high]
    ax.plot(ends, [row, row], color="C1", linewidth=3, solid_capstyle="butt")
    for end, known, marker in zip(ends, (low, high), "<>", strict=True):
        ax.plot([end], [row], marker=marker if known is None else "|", color="C1", markersize=10, markeredgewidth=2)
    ax.plot([value], [row], "o", color="C1", markeredgecolor="black")


def title(run: RunFile) -> str:
    """Problem, dimension and backbone, as far as the file names them."""
    named = {"problem": "{}", "field": "{}", "dim": "d = {}", "backbone": "{}"}
    said = {**run.attrs, **({"dim": run.dimension} if "dim" in run.attrs else {})}
    return plain(", ".join(form.format(said[key]) for key, form in named.items() if key in said))


def letter(run: RunFile) -> str:
    """What u is called in formulas: of one field of a system its name."""
    name = str(run.attrs.get("field", "u"))
    return name if len(name) == 1 else rf"\mathrm{{{name}}}".replace("_", r"\_")


def plain(text: str) -> str:
    """Text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _field(run: RunFile, name: str) -> np.ndarray:
    if name not in run.field:
        raise ValueError(f"{run.path}: no {name} at the test points")
    return np.asarray(run.field[name], dtype=np.float64)


def _draw_loss(ax: "Axes", run: RunFile) -> None:
    ax.set_ylabel("loss")
    for name in sorted(name for name in run.history if name.startswith("terms/")):
        _line(ax, run.history["step"], run.history[name], plain(name.removeprefix("terms/")), linewidth=0.9)
    if "loss" in run.history:
        _line(ax, run.history["step"], run.history["loss"], "loss", color="black", linewidth=2)


def _draw_errors(ax: "Axes", run: RunFile, errors: dict[str, np.ndarray]) -> None:
    ax.set_ylabel("error at the test points")
    for i, (label, values) in enumerate(errors.items()):
        _line(ax, run.history["step"], values, label, color=f"C{i}", linewidth=1 if i else 2)
    rel_l2 = np.asarray(run.history.get("rel_l2", ()), dtype=np.float64)
    if (rel_l2 > 0).any():
        steps = np.asarray(run.history["step"])
        kept = steps == run.attrs.get("best_step", -1)  # the weights chosen by validation, once the run has ended
        best = [kept.argmax() if kept.any() else np.nanargmin(np.where(rel_l2 > 0, rel_l2, np.nan))]
        mark = dict(color="C0", marker="*", markersize=13, markeredgecolor="black", linestyle="none", zorder=5)
        step, value = steps[best], rel_l2[best]
        _line(ax, step, value, f"kept: {ERRORS['rel_l2']} {value[0]:.2e}", **mark)
    shown = run.floors if len(run.fields) == 1 else {k: v for k, v in run.floors.items() if k.endswith("/constant")}
    floors = sorted((value, name) for name, value in shown.items() if 0 < value < np.inf)
    for i, (value, name) in enumerate(floors):
        dashes = (3 * (i % 2), (3, 3))  # of neighbours they alternate: floors may well coincide
        ax.axhline(value, color=f"C{3 + i}", linewidth=1.3, linestyle=dashes, label=f"floor: {name} {value:.2e}")


def _line(ax: "Axes", x: np.ndarray, y: np.ndarray, label: str, **style: object) -> None:
    """A curve through the finite positive values; a lone value gets a dot, since a line through it is invisible."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    shown = np.isfinite(y) & (y > 0)
    lost = int((y <= 0).sum())
    if shown.sum() == 1:
        style = {"marker": "o", **style}
    if shown.any() or lost:
        ax.plot(x[shown], y[shown], label=f"{label} ({lost} values <= 0)" if lost else label, **style)


def _bands(radius: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Median radius and the 5, 50, 95 % quantiles of the error, (4, bins).

    Bins hold equally many points: at high dimension nearly all of a ball's volume lies at its boundary.
    """
    bins = np.array_split(np.argsort(radius), np.clip(len(radius) // POINTS_PER_BIN, 1, BINS))
    return np.array([(np.median(radius[i]), *np.quantile(error[i], (0.05, 0.50, 0.95))) for i in bins]).T


def _finish(ax: "Axes") -> None:
    """Logarithmic axis, grid, and the legend below, where it hides no curve."""
    ax.set_yscale("log")
    ax.grid(which="major", color="0.9")
    ax.set_axisbelow(True)
    handles, _ = ax.get_legend_handles_labels()
    if handles:
        below = dict(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
        ax.legend(**below, handlelength=2.8, fontsize="small", frameon=False)
    else:
        ax.text(0.5, 0.5, "nothing to draw", transform=ax.transAxes, ha="center", va="center", color="0.5")


def _start_above_tail(ax: "Axes", error: np.ndarray) -> None:
    """Let the axis begin below the lowest 0.5 %: how near to 0 a few points come says nothing, but takes decades."""
    positive = error[np.isfinite(error) & (error > 0)]
    if len(positive):
        ax.set_ylim(bottom=np.quantile(positive, 0.005) / 2)
