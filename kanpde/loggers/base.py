"""What a logger is, and what all of them say of a run."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from kanpde.records.run import RunFile

ENDED = ("rel_l2_best", "rmse_best", "validation_best", "best_step", "parameters")  # attributes that sum a run up


class Logger(ABC):
    """A place for the rows of a run. Its options are the arguments of its constructor, which imports nothing.

    Attributes:
        package: that it writes with, imported by `begin`.

    Example:
        >>> class Printed(Logger):
        ...     def begin(self, run):
        ...         pass
        ...     def row(self, step, row):
        ...         print(step, row["loss"])
        ...     def end(self, run):
        ...         pass
        >>> Printed().row(10, {"loss": 0.5})
        10 0.5
    """

    package: ClassVar[str]

    @abstractmethod
    def begin(self, run: RunFile) -> None:
        """Open it for a run that begins or goes on; what a broken run has left after its last row is void."""

    @abstractmethod
    def row(self, step: int, row: Mapping[str, float]) -> None:
        """Write a row of the history."""

    @abstractmethod
    def end(self, run: RunFile) -> None:
        """Write what the run has come to, and close it."""


def known(row: Mapping[str, float]) -> dict[str, float]:
    """The columns of a row that have a number: the error of a run without a solution is NaN in all of them."""
    return {name: float(value) for name, value in row.items() if name != "step" and not math.isnan(value)}


def last_step(run: RunFile) -> int:
    """That of the last row which is in the file; -1: there is none."""
    steps = run.history.get("step", ())
    return int(steps[-1]) if len(steps) else -1


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a.b": c} of nested mappings and of lists of mappings."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            value = dict(enumerate(value))
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found


def summed_up(run: RunFile) -> dict[str, float]:
    """Numbers of the end of a run: errors, their estimate with its interval, and the kept step."""
    found = {name: run.attrs[name] for name in ENDED if name in run.attrs}
    estimate = {f"estimated/{name}": run.verification[name] for name in ("rel_l2", "low", "high") if run.verification}
    return {name: float(value) for name, value in (found | estimate).items() if math.isfinite(value)}


def described(run: RunFile) -> dict[str, str]:
    """Words that a run is found by."""
    names = ("id", "problem", "title", "backbone", "device")
    return {name: str(run.attrs[name]) for name in names if run.attrs.get(name)} | {"result": str(run.path.absolute())}
