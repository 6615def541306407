"""The folder of a sweep: what it is, in sweep.yaml, its runs by their settings, and what they have in common by group.

sweep.yaml  problem solver steps set, as on the command line; over, the values by key; cells, the settings of each run
            by its name: <name>.h5 is the result, <name>.pt its checkpoint, <name>.log what it has printed
"""

import csv
import io
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kanpde.records.compare import summary
from kanpde.records.run import RunFile, RunFileError, replacing

if TYPE_CHECKING:
    from rich.table import Table

FILE = "sweep.yaml"
SEED = "seed"  # what groups are over
ENDED = ("finished", "diverged")
MEASURED = {  # column: what it is called
    "rel_l2": "rel l2",
    "estimated": "estimated",
    "skill": "skill",
    "validation": "validation loss",
    "parameters": "parameters",
    "time_s": "time (s)",
    "peak_memory_mb": "memory (MB)",
}
WHOLE = 20  # letters of a value that are not broken into lines
ALIKE = ("parameters", "peak_memory_mb")  # of all runs of a group, as good as


@dataclass(frozen=True)
class Sweep:
    """A sweep as its folder says it.

    Attributes:
        stated: problem, solver, steps and set, which all cells share.
        over: the values by key.
        cells: the settings of a cell, by key, by its name.
    """

    folder: Path
    stated: Mapping[str, Any]
    over: Mapping[str, list]
    cells: Mapping[str, Mapping[str, Any]]

    @classmethod
    def open(cls, folder: str | Path) -> "Sweep":
        """Raises RunFileError where there is none, or it is damaged."""
        file = Path(folder) / FILE
        try:
            tree = yaml.safe_load(file.read_text(encoding="utf-8"))
            found = cls(Path(folder), tree["stated"], tree["over"], tree["cells"])
            if not (found.over and found.cells and all(set(v) == set(found.over) for v in found.cells.values())):
                raise ValueError
        except FileNotFoundError:
            raise RunFileError(f"{folder}: a folder without {FILE}, so not that of a sweep") from None
        except (OSError, UnicodeDecodeError) as error:
            raise RunFileError(f"{file}: cannot be read ({error})") from None
        except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
            raise RunFileError(f"{file}: a damaged {FILE}") from None
        return found

    def save(self) -> None:
        """Write sweep.yaml, whole."""
        tree = {
            "stated": dict(self.stated),
            "over": dict(self.over),
            "cells": {k: dict(v) for k, v in self.cells.items()},
        }
        with replacing(self.folder / FILE) as temporary:
            temporary.write_text(yaml.safe_dump(tree, sort_keys=False, width=100), encoding="utf-8")

    def path(self, name: str) -> Path:
        """The result file of a cell."""
        return self.folder / f"{name}.h5"

    @property
    def keys(self) -> list[str]:
        """What groups differ in: the keys without the seed."""
        return [key for key in self.over if key != SEED]

    def groups(self) -> dict[tuple, list[RunFile]]:
        """The runs that have ended, by the values of `keys` as texts, over the seeds; all groups in their order."""
        found: dict[tuple, list[RunFile]] = {}
        for name, values in self.cells.items():
            group = found.setdefault(tuple(said(values[key]) for key in self.keys), [])
            if os.path.isfile(path := self.path(name)):
                run = RunFile.open(path)
                if run.attrs.get("status") in ENDED:
                    group.append(run)
        return found


def labels(keys: Iterable[str]) -> dict[str, str]:
    """Keys by what tables and names call them: their last parts, or all of a key where another ends alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    return {key: short if list(last.values()).count(short) == 1 else key for key, short in last.items()}


def said(value: Any) -> str:
    """A value as a user would write it."""
    return value if isinstance(value, str) else repr(value) if isinstance(value, float) else written(value)


def written(value: Any) -> str:
    """A value as YAML in one line, which reads as the same value."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("...\n").strip()


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation of the numbers among them, each NaN where there are too few."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    mean = statistics.mean(known) if known else math.nan
    return mean, statistics.stdev(known) if len(known) > 1 else math.nan


def rows(sweep: Sweep) -> list[dict[str, Any]]:
    """A row for each group: its settings, how many runs it has of how many, and the spread of what they measure."""
    seeds = len(sweep.over.get(SEED, [0]))
    found = []
    for values, runs in sweep.groups().items():
        each = [summary(run) | {"validation": run.attrs.get("validation_best")} for run in runs]
        measured = {name: spread([row[name] for row in each]) for name in MEASURED}
        found.append({**dict(zip(sweep.keys, values, strict=True)), "runs": f"{len(runs)} of {seeds}", **measured})
    return found


def rich_table(sweep: Sweep) -> "Table":
    """The rows for the terminal, mean ± sample standard deviation; what nothing is known of has no column."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    heading, lines = cells(sweep)
    problem = Path(str(sweep.stated["problem"])).stem
    title = f"{problem}: mean ± sample standard deviation over the runs of a group"
    made = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, name in enumerate(heading):
        of_keys = number < len(sweep.keys)
        fits = of_keys and all(len(line[number]) <= WHOLE for line in lines)
        made.add_column(
            name if of_keys else name.replace(" ", "\n"), no_wrap=fits, justify="left" if of_keys else "right"
        )
    for line in lines:
        made.add_row(*map(Text, line))
    return made


def table(sweep: Sweep, format: str) -> str:
    """The rows as "markdown", or as "csv" with a column for each mean and each deviation."""
    if format == "markdown":
        heading, lines = cells(sweep)
        rule = [":--" if number < len(sweep.keys) else "--:" for number in range(len(heading))]
        escaped = [[cell.replace("|", r"\|") for cell in line] for line in lines]
        return "".join(f"| {' | '.join(line)} |\n" for line in [heading, rule, *escaped])
    found, text = rows(sweep), io.StringIO()
    shown, writer = _shown(found), csv.writer(text, lineterminator="\n")
    writer.writerow([*sweep.keys, "runs", *(part for name in shown for part in (name, f"{name}_std"))])
    for row in found:
        numbers = (f"{value:.6g}" if value == value else "" for name in shown for value in row[name])
        writer.writerow([*(row[key] for key in sweep.keys), row["runs"], *numbers])
    return text.getvalue()


def cells(sweep: Sweep) -> tuple[list[str], list[list[str]]]:
    """Heading and lines of the table that people read."""
    found = rows(sweep)
    shown, plain = _shown(found), [*sweep.keys, "runs"]
    if {"rel_l2", "estimated"} & set(shown):
        shown.remove("validation")  # which says less
    lines = [[*(row[name] for name in plain), *(_cell(name, *row[name]) for name in shown)] for row in found]
    return [*labels(sweep.keys).values(), "runs", *(MEASURED[name] for name in shown)], lines


def _shown(found: Iterable[Mapping]) -> list[str]:
    """The measured columns of which something is known."""
    return [name for name in MEASURED if any(row[name][0] == row[name][0] for row in found)]


def _cell(name: str, mean: float, deviation: float) -> str:
    if mean != mean:
        return ""
    alike = name in ALIKE or not deviation > 0
    return _number(mean, 3) if alike else f"{_number(mean, 3)} ± {_number(deviation, 2)}"


def _number(value: float, digits: int) -> str:
    """So many digits, but whole numbers in full."""
    return f"{round(value):,}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
