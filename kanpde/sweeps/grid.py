"""A grid of runs: the product of lists of values by key, each run checked before the first begins."""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from kanpde.config import RunConfig, find, load
from kanpde.config.reading import read_yaml
from kanpde.ground.errors import ConfigError, shown
from kanpde.ground.metrics import resident_bytes
from kanpde.records.run import RunFile
from kanpde.records.sweep import FILE, Sweep, labels, said
from kanpde.runs.names import check_out
from kanpde.runs.stored import check_same, config_of
from kanpde.sweeps.cells import Cell
from kanpde.sweeps.values import MOST, assignments, expanded, keyed
from kanpde.training import evaluation, ladder, memory
from kanpde.training.plan import Plan

UNASKED = 100  # cells that are begun without --yes
OPTIONS = ("solver", "steps")  # keys that are options of a run, and none of its configuration
PLAIN = re.compile(r"[A-Za-z0-9_.+-]{1,40}")


@dataclass(frozen=True)
class Base:
    """What all runs of a sweep or a search have in common, as the command line states it."""

    problem: str
    solver: str | None = None
    steps: int | None = None
    sets: Sequence[str] = ()

    @classmethod
    def of(cls, problem: str, solver: str | None, steps: int | None, sets: Sequence[str] | None) -> "Base":
        """With the paths of its files in full."""
        full = lambda name: str(Path(name).resolve()) if name is not None and os.path.isfile(name) else name
        return cls(full(problem), full(solver), steps, tuple(sets or ()))

    @property
    def stated(self) -> dict[str, Any]:
        return {"problem": self.problem, "solver": self.solver, "steps": self.steps, "set": list(self.sets)}

    def config(self, values: Mapping[str, Any]) -> RunConfig:
        """The configuration with these values over it.

        Raises:
            ConfigError: it is none.
        """
        options = {"solver": self.solver, "steps": self.steps} | {k: values[k] for k in OPTIONS if k in values}
        solver = None if options["solver"] is None else str(options["solver"])
        return load(self.problem, solver, None, [*self.sets, *self._assigned(values)], options["steps"])

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The same as words of `python -m kanpde.solve`."""
        options = {"solver": self.solver, "steps": self.steps} | {k: values[k] for k in OPTIONS if k in values}
        words = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
        sets = [*self.sets, *self._assigned(values)]
        return [self.problem, *words, *(word for assignment in sets for word in ("--set", assignment))]

    def _assigned(self, values: Mapping[str, Any]) -> list[str]:
        return assignments({key: value for key, value in values.items() if key not in OPTIONS})


def stated(problem: str, words: Iterable[str]) -> dict[str, list]:
    """The values by key: of the problem's file under `sweep`, and those of the command line over them.

    Raises:
        ConfigError: there are none, or they are no lists.
    """
    given = read_yaml(find("problems", problem)).get("sweep", {})
    if not isinstance(given, Mapping):
        raise ConfigError(f"{problem}: sweep: given {shown(given)}, needed is a mapping of lists by key")
    over = {str(key): values for key, values in given.items()} | keyed(words)
    if not over:
        raise ConfigError(f"{problem}: nothing varies; say --over KEY=VALUES, or give the file a mapping `sweep`")
    return {key: expanded(key, values) for key, values in over.items()}


def named(over: Mapping[str, Sequence]) -> dict[str, dict[str, Any]]:
    """The cells of a grid, their values by key, under names for files such as dim20-kan-seed0.

    Raises:
        ConfigError: two have one name.
    """
    found: dict[str, dict[str, Any]] = {}
    short = labels(over)
    for values in product(*over.values()):
        cell = dict(zip(over, values, strict=True))
        name = "-".join(_part(short[key], value) for key, value in cell.items())
        name = name if len(name) <= 150 else f"{name[:150]}-{_digest(name)}"
        if name in found:
            raise ConfigError(f"sweep: {found[name]} and {cell} would have one name, {name}")
        found[name] = cell
    return found


def _part(label: str, value: Any) -> str:
    """What a value adds to the name of a cell: words stand alone, numbers behind their key; all else has a digest."""
    text = said(value)
    if isinstance(value, str) and PLAIN.fullmatch(text):
        return text
    if not isinstance(value, str | Mapping | list):
        return f"{label}{text}"
    return f"{label}-{re.sub('[^A-Za-z0-9_.+]+', '-', text).strip('-')[:30]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def planned(base: Base, over: Mapping[str, Sequence], folder: Path, yes: bool = False) -> tuple[Sweep, list[Cell]]:
    """The sweep and its cells; all are checked, and nothing is written.

    Raises:
        ConfigError: a cell is no run, or there are more than UNASKED without yes; the folder has another sweep.
    """
    count = math.prod(map(len, over.values()))
    if count > MOST or (count > UNASKED and not yes):
        most = f"needed are at most {MOST:,}" if count > MOST else f"--yes begins more than {UNASKED}"
        sizes = " x ".join(str(len(values)) for values in over.values())
        raise ConfigError(f"the grid has {count:,} cells ({sizes}); {most}")
    there = _there(folder)
    if there is not None and there.over.keys() == over.keys():
        over = {key: over[key] for key in there.over}  # in whose order cells are named
    sweep = Sweep(folder, base.stated, over, named(over))
    if there is not None:
        _check_contains(sweep, there)
    return sweep, [_checked(base, sweep, name, values) for name, values in sweep.cells.items()]


def _there(folder: Path) -> Sweep | None:
    """The sweep that a folder holds."""
    return Sweep.open(folder) if (folder / FILE).exists() else None


def _check_contains(sweep: Sweep, there: Sweep) -> None:
    """Raises ConfigError where the sweep of the folder is no part of this one, which would extend it."""
    for key, value in sweep.stated.items():
        if there.stated.get(key) != value:
            was = said(there.stated.get(key))
            raise ConfigError(f"--out {sweep.folder}: a sweep with {key} {was}, given {said(value)}; choose another")
    missing = [name for name, values in there.cells.items() if sweep.cells.get(name) != values]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        hint = "a sweep that contains the former one extends it"
        raise ConfigError(f"--out {sweep.folder}: its sweep has {missing[0]}{more}, this one has not; {hint}")


def _checked(base: Base, sweep: Sweep, name: str, values: Mapping[str, Any]) -> Cell:
    """A cell, of which everything is known that can be known to fail before its first step."""
    path = sweep.path(name)
    try:
        plan = Plan.of(base.config(values))
        if path.is_file():
            check_same(plan.config, config_of(RunFile.open(path)), str(path), length=True)
        else:
            check_out(path)
    except ConfigError as error:
        raise ConfigError(f"cell {name}: {error}") from None
    return Cell(name, path, base.words(values), plan.config.steps, bytes_of(plan), plan.device.type == "cuda")


def bytes_of(plan: Plan) -> int:
    """What the process of a run holds, by the estimate of a dry run; this process stands for one without a run."""
    start = ladder.bytes_of(ladder.points_of(plan) * plan.problem.n_inputs, plan) if plan.start() else 0
    return resident_bytes() + sum(memory.estimate(plan)) + max(evaluation.bytes_of(plan), start)
