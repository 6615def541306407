"""Learning curves of a sweep: against step and against time, a row for each value of its first key."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import ERRORS, plain
from kanpde.records.run import RunFile, RunFileError
from kanpde.records.sweep import Sweep, labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
DASHES = ("-", "--", ":", "-.")  # of more curves than colours
CURVES = len(COLOURS) * len(DASHES)  # of a panel, which can be told apart
AGAINST = {"step": "step", "wall_s": "time (s)"}
MEASURES = {"rel_l2": f"{ERRORS['rel_l2']} error", "validation": "validation loss"}
POINTS = 200  # of a curve against time
ROW, WIDTH, LEGEND = 2.9, 10.0, 0.24  # inches


def learning_curves(sweep: Sweep) -> "Figure":
    """The relative l2 error, where no run knows it the validation loss, of the runs that have ended.

    A line is the geometric mean over the seeds, and its band a standard deviation of the logarithm: on this axis mean
    and deviation, of numbers that are positive.

    Raises:
        RunFileError: no run has ended, or the curves of a panel cannot be told apart.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    groups = sweep.groups()
    runs = [run for each in groups.values() for run in each]
    measure = next((name for name in MEASURES if any(_curve(run, name, "step")[0].size for run in runs)), None)
    if measure is None:
        raise RunFileError(f"{sweep.folder}: no run of the sweep has ended yet")
    rows = list(dict.fromkeys(values[:1] if len(sweep.keys) > 1 else () for values in groups))
    curves = list(dict.fromkeys(_label(sweep, values) for values in groups))
    if len(curves) > CURVES:
        raise RunFileError(f"{sweep.folder}: {len(curves)} curves in a panel, at most {CURVES} can be told apart")
    legend = LEGEND * -(-len(curves) // 3) if curves != [""] else 0.0
    size = WIDTH, 1.1 + ROW * len(rows) + legend
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), 2, sharey=True, sharex="col", squeeze=False)
    for row, panels in zip(rows, axes, strict=True):
        for ax, against in zip(panels, AGAINST, strict=True):
            for values, each in groups.items():
                if values[: len(row)] == row:
                    number = curves.index(_label(sweep, values))
                    _draw(ax, each, measure, against, curves[number], number)
            ax.set_yscale("log")
            ax.grid(which="major", color="0.9")
            ax.set_axisbelow(True)
            ax.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=against == "step"))
        panels[0].set_ylabel(MEASURES[measure])
        if row:
            panels[0].set_title(plain(f"{labels(sweep.keys)[sweep.keys[0]]} = {row[0]}"), loc="left", fontsize="medium")
    for ax, label in zip(axes[-1], AGAINST.values(), strict=True):
        ax.set_xlabel(label)
    figure.suptitle(_title(sweep, runs), fontsize="large")
    _add_legend(figure, axes)
    return figure


def _add_legend(figure: "Figure", axes: np.ndarray) -> None:
    """One for all panels, below them, where it hides no curve."""
    found = {label: line for ax in axes.flat for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if found:
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=3, frameon=False)


def _draw(ax: "Axes", runs: Sequence[RunFile], measure: str, against: str, label: str, number: int) -> None:
    """The mean of the logarithms of these runs and its band."""
    curves = [(x, y) for x, y in (_curve(run, measure, against) for run in runs) if x.size]
    if not curves:
        return
    x, logs = _together(curves, against)
    mean = logs.mean(0)
    style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS)]}
    marker = {"marker": "o", "markersize": 4} if len(x) == 1 else {}
    ax.plot(x, np.exp(mean), linewidth=1.6, label=plain(label) or None, **style, **marker)
    if len(logs) > 1:
        deviation = logs.std(0, ddof=1)
        ax.fill_between(
            x, np.exp(mean - deviation), np.exp(mean + deviation), color=style["color"], alpha=0.2, linewidth=0
        )


def _together(curves: Sequence[tuple[np.ndarray, np.ndarray]], against: str) -> tuple[np.ndarray, np.ndarray]:
    """x (n,) from where all have begun, and the logarithms of all curves there (seeds, n).

    Steps are those there are; times, which are another of each run, are POINTS. A run that has ended stays as it is.
    """
    every = np.unique(np.concatenate([x for x, _ in curves]))
    first = max(x[0] for x, _ in curves)
    x = every[every >= first] if against == "step" else np.linspace(first, every[-1], POINTS)
    return x, np.stack([np.interp(x, at, np.log(y)) for at, y in curves])


def _curve(run: RunFile, measure: str, against: str) -> tuple[np.ndarray, np.ndarray]:
    """x and the finite positive values of a run."""
    x, y = (np.asarray(run.history.get(name, ()), dtype=np.float64) for name in (against, measure))
    if x.shape != y.shape:
        return np.empty(0), np.empty(0)
    shown = np.isfinite(x) & np.isfinite(y) & (y > 0)
    return x[shown], y[shown]


def _label(sweep: Sweep, values: tuple) -> str:
    """The values by which curves of a panel differ: words alone, all else behind its key."""
    pairs = list(zip(labels(sweep.keys).values(), values, strict=True))[len(sweep.keys) > 1 :]
    return ", ".join(value if value.isidentifier() else f"{key} = {value}" for key, value in pairs)


def _title(sweep: Sweep, runs: Sequence[RunFile]) -> str:
    """Problem, how many seeds, and what lines and bands are."""
    problem = plain(Path(str(sweep.stated["problem"])).stem)
    some = f"{len(runs)} of {len(sweep.cells)} runs" if len(runs) < len(sweep.cells) else f"{len(runs)} runs"
    bands = "geometric mean and standard deviation over the seeds" if len(sweep.over.get("seed", ())) > 1 else ""
    return ", ".join(filter(None, (problem, some, bands)))
