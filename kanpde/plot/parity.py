"""What a fit predicts against what was observed at the test rows: a perfect one lies on the diagonal."""

from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import MAX_DOTS, title
from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def parity(run: RunFile) -> "Figure":
    """u against the observed y at the test rows with the line u = y, and the residuals u - y against y below.

    Both are in the unit of y. The heading has the root mean square error and R^2 = 1 - mean (u - y)^2 / var y.

    Raises:
        ValueError: the run has no observations at test rows.
    """
    from matplotlib.figure import Figure

    if "u_exact" not in run.field:
        raise ValueError(f"{run.path}: no u_exact at the test points")
    observed, predicted = (np.asarray(run.field[name], dtype=np.float64) for name in ("u_exact", "u"))
    thin = slice(None, None, -(-len(observed) // MAX_DOTS) or 1)  # more dots only make the picture darker
    figure = Figure(figsize=(6.0, 7.5), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure.suptitle(title(run))
    top.set(title=_quality(observed, predicted), ylabel="predicted $u$")
    below.set(xlabel="observed $y$", ylabel="$u - y$")
    dots = dict(s=9, color="C0", alpha=0.5, linewidths=0, rasterized=True)
    top.scatter(observed[thin], predicted[thin], label=f"{len(observed):,} test rows", **dots)
    below.scatter(observed[thin], (predicted - observed)[thin], **dots)
    _draw_reference(top, below, observed)
    return figure


def _quality(observed: np.ndarray, predicted: np.ndarray) -> str:
    """RMSE, and R^2 where y varies."""
    square, variance = np.mean((predicted - observed) ** 2), np.var(observed)
    r2 = f", $R^2$ = {1 - square / variance:.6f}" if variance > 0 else ""
    return f"RMSE {np.sqrt(square):.3g}{r2}"


def _draw_reference(top: "Axes", below: "Axes", observed: np.ndarray) -> None:
    """The diagonal u = y, and u - y = 0."""
    ends = [np.nanmin(observed), np.nanmax(observed)]
    line = dict(color="black", linewidth=1.0, linestyle="--")
    top.plot(ends, ends, label="$u = y$", **line)
    below.axhline(0.0, **line)
    for ax in (top, below):
        ax.grid(color="0.9")
        ax.set_axisbelow(True)
    top.legend(frameon=False)
