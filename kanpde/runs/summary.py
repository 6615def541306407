"""What a run says of itself in words: its dimension, its parameters, its unknowns, and what lies off its grids."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import nn

from kanpde.kan.network import count_parameters
from kanpde.records.run import RunFile

FEW, MANY = 3, 16  # unknowns beside the error in the line of an evaluation, and in the table of a result
OFF_GRID = 0.1  # share of the inputs of a layer from which it is mentioned
INTEREST = ("name", "field", "u", "published", "difference")
RESIDUALS = ("name", "rms", "largest", "rms_start", "largest_start")
UNKNOWN = "parameters/"  # what columns of the history begin with


def unknowns_of(problem) -> int:
    """How many numbers of the problem itself are trained: unknown coefficients, or networks of its own."""
    own = problem.parameters
    return count_parameters(own) if isinstance(own, nn.Module) else 0


def parameters(net: int, problem: int) -> str:
    """4,137, and 3 of the problem."""
    return f"{net:,}" + (f", and {problem:,} of the problem" if problem else "")


def start(run: RunFile) -> str:
    """The start in closed form that a run has, and what each rung below it left: their losses at held-out points."""
    rungs = json.loads(run.attrs["start_rungs"])
    losses = ", ".join(f"{row['rung']} {row['validation']:.2e}" for row in rungs)
    return f"{run.attrs['start']}; {run.attrs['start_numbers']:,} coefficients; held-out losses: {losses}"


def unknowns(run: RunFile) -> dict[str, tuple[float, float]]:
    """The unknowns of an inverse problem that the history has: at its start, and of the weights that are kept."""
    row = _kept(run)
    return {
        name.removeprefix(UNKNOWN): (float(run.history[name][0]), float(run.history[name][row]))
        for name in _unknown(run.history, MANY)
    }


def standard_errors(run: RunFile) -> dict[str, float]:
    """Those of the unknowns by name, where observations say them; inf where nothing observed depends on one."""
    return json.loads(run.attrs.get("standard_errors", "{}"))


def of_observations(run: RunFile) -> list[str]:
    """What is to be known of unknowns beside their values: which are not determined, or not yet found."""
    lines = []
    if far := run.attrs.get("undetermined"):
        lines.append(f"the observations do not determine {far} (a standard error above the scale of the unknowns)")
    if run.attrs.get("misfit_disagrees"):
        size = run.attrs["misfit_over_noise"]
        why = "more steps, or more noise" if size > 1 else "the equation weighs too little, or less noise"
        lines.append(
            f"the misfit is {size:.2g} times the noise that is stated: {why}; standard errors are of that noise"
        )
    return lines


def few_unknowns(row: Mapping[str, float]) -> str:
    """Those of a row of the history with their values, if they are few."""
    return "".join(f"{name.removeprefix(UNKNOWN)} {row[name]:.4g}  " for name in _unknown(row, FEW))


def _unknown(columns: Iterable[str], most: int) -> list[str]:
    """Columns of unknowns: all, or else those that are one number, or else none, as far as they are few enough."""
    every = sorted((name for name in columns if name.startswith(UNKNOWN)), key=_by_numbers)
    numbers = [name for name in every if not re.search(r"\.\d+$", name)]
    return next((found for found in (every, numbers) if len(found) <= most), [])


def _by_numbers(name: str) -> list[str | float]:
    """What names are sorted by: b.2 comes before b.10, c(x = -1) before c(x = -0.5)."""
    parts = re.split(r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", name)
    return [float(part) if i % 2 else part for i, part in enumerate(parts)]


def off_grid(run: RunFile) -> str | None:
    """A line on the layers of the kept weights with more than `OFF_GRID` of their inputs off their grids, and a remedy.

    Grids do not clamp: what lies off them is seen by the base function and what is left of the basis.
    """
    row = _kept(run)
    shares = {
        int(name.removeprefix("off_grid/")): values[row]
        for name, values in run.history.items()
        if name.startswith("off_grid/") and values[row] > OFF_GRID
    }
    if not shares:
        return None
    which = ", ".join(f"{share:.0%} of the inputs of layer {layer}" for layer, share in sorted(shares.items()))
    switches = ["backbone.grid_range"] * (0 in shares) + ["backbone.hidden_range"] * (max(shares) > 0)
    moved = "" if str(run.attrs["backbone"]).startswith("meta") else ", or a later phase with update_grid moves it"
    return f"{which} lie off its grid (layers count from 0); {' and '.join(switches)} widens it{moved}"


def worst_time(run: RunFile) -> tuple[float, float] | None:
    """The time at which the relative l2 error is largest, and that; None: it is not known at several times."""
    times = run.table("times")
    known = np.isfinite(times.get("rel_l2", ()))
    if np.sum(known) < 2:
        return None
    worst = int(np.argmax(np.where(known, times["rel_l2"], -1.0)))
    return float(times["t"][worst]), float(times["rel_l2"][worst])


def interest(run: RunFile) -> Iterable[tuple[str, float, float, float]]:
    """Of each point of interest its name, u there, what is published, and the difference; NaN where nothing is."""
    table = run.table("points_of_interest")
    several = len(run.fields) > 1
    for name, field, *values in zip(*(table.get(k, ()) for k in INTEREST), strict=True):
        yield f"{name}, {field}" if several else name, *map(float, values)


def residuals(run: RunFile) -> Iterable[tuple[str, float, float, float, float]]:
    """Of each equation and condition its name, root mean square and largest at the end, and the same at the start.

    Of a run that has not ended nothing.
    """
    table = run.table("residuals") if "rms" in run.table("residuals") else {}
    for name, *values in zip(*(table.get(k, ()) for k in RESIDUALS), strict=True):
        yield name, *map(float, values)


def _kept(run: RunFile) -> int:
    """The row of the history that belongs to the weights that are kept, the last one where none does."""
    steps: Sequence[float] = run.history["step"]
    found = np.flatnonzero(np.asarray(steps) == run.attrs.get("best_step", -1))
    return int(found[-1]) if len(found) else len(steps) - 1


def duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
