"""Runs side by side: a row of numbers per result file."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from rich.table import Table

TEXT = ("file", "problem", "backbone", "status")
SETTINGS = ("problem", "dim", "backbone", "seed", "status")
COLUMNS = ("file", "problem", "dim", "backbone", "parameters", "steps", "rel_l2", "estimated", "skill", "time_s")
COLUMNS += ("peak_memory_mb", "seed", "status")


def summary(run: RunFile) -> dict[str, object]:
    """The row of a run; what the file does not tell is None.

    estimated is the error as it is estimated without a solution, and skill rel_l2, or where no solution is known this
    one, over the error of the best constant; time_s is seconds since training began, and peak_memory_mb
    2^20 bytes, both at the last evaluation.
    """
    steps = _last(run, "step")
    floor, estimated = run.floors.get("constant", math.nan), run.verification.get("rel_l2", math.nan)
    error = run.rel_l2 if math.isfinite(run.rel_l2) else estimated
    row = {name: run.attrs.get(name) for name in COLUMNS} | {
        "file": str(run.path),
        "parameters": _parameters(run),
        "steps": steps if steps is None else int(steps),
        "rel_l2": run.rel_l2,
        "estimated": estimated,
        "skill": error / floor if floor > 0 else None,
        "time_s": _last(run, "wall_s"),
        "peak_memory_mb": _last(run, "peak_memory_bytes", scale=2**-20),
    }
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def table(rows: Iterable[Mapping[str, object]], format: str = "markdown") -> str:
    """Rows of `summary` in their order as "markdown" or "csv"; fractions to 3 significant digits, integers in full.

    Raises:
        ValueError: another format.
    """
    lines = [cells(row) for row in rows]
    if format == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *lines])
        return text.getvalue()
    if format == "markdown":
        rule = [":--" if name in TEXT else "--:" for name in COLUMNS]
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in [COLUMNS, rule, *escaped])
    raise ValueError(f"table format {format!r} is not one of markdown, csv")


def rich_table(rows: Iterable[Mapping[str, object]]) -> "Table":
    """The same for the terminal, which is narrow: settings that all rows share go to the title; names fold first."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns = dict(zip(COLUMNS, zip(*map(cells, rows), strict=True), strict=False))
    common = {name: columns[name][0] for name in SETTINGS if len(set(columns.get(name, ()))) == 1}
    title = ", ".join(f"{name} {cell}" for name, cell in common.items() if cell)
    result = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown = [name for name in COLUMNS if name not in common]
    for name in shown:
        style = {} if name in TEXT else dict(justify="right", no_wrap=True)
        result.add_column(name.replace("_", "\n"), overflow="fold", **style)
    for line in zip(*(columns[name] for name in shown if columns), strict=True):
        result.add_row(*map(Text, line))
    return result


def _parameters(run: RunFile) -> int | None:
    """Those of the network and of the problem."""
    net = run.attrs.get("parameters")
    return net if net is None else net + run.attrs.get("problem_parameters", 0)


def _last(run: RunFile, column: str, scale: float = 1.0) -> float | None:
    values: Sequence[float] = run.history.get(column, ())
    return scale * float(values[-1]) if len(values) and math.isfinite(values[-1]) else None


def cells(row: Mapping[str, object]) -> list[str]:
    """The values of a row of `summary` in the order of `COLUMNS`, as tables show them."""
    return [_cell(row.get(name)) for name in COLUMNS]


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN
        return ""
    return f"{float(f'{value:.3g}'):g}" if isinstance(value, (float, np.floating)) else str(value)
