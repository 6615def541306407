"""A cell of a sweep: an ordinary run in a process of its own, and what its files and its log say of it."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kanpde.records.run import RunFile, RunFileError
from kanpde.runs.api import ENDED

TRIES = 2  # of a cell that fails, in one call
INTERRUPTED = 130


@dataclass(eq=False)
class Cell:
    """A run of a sweep, as far as it is.

    Attributes:
        words: of `python -m kanpde.solve`, which begin it.
        bytes: what its process holds, by an estimate.
        gpu: whether it is on one.
        state: waiting, running, interrupted, failed, or a status that a run ends with.
        reason: why it has failed.
        row: the last row of its history.
    """

    name: str
    path: Path
    words: list[str]
    steps: int
    bytes: int
    gpu: bool
    state: str = "waiting"
    reason: str = ""
    tries: int = 0
    row: dict[str, Any] = field(default_factory=dict)
    _seen: int = 0  # of the file's time of change
    _status: str = ""

    def __post_init__(self):
        self.look()
        if self.ended:
            self.state = self._status

    @property
    def log(self) -> Path:
        return self.path.with_suffix(".log")

    @property
    def ended(self) -> bool:
        """Whether its file has a result: also of a run that has ended worse than it began."""
        return self._status in ENDED

    @property
    def again(self) -> bool:
        """Whether it is to be tried once more."""
        return self.state == "failed" and self.tries < TRIES

    @property
    def seconds_left(self) -> float:
        """By the speed of the last steps; NaN where it is not known."""
        rate = self.row.get("steps_per_s", 0.0)
        return (self.steps - self.row["step"]) / rate if rate > 0 else float("nan")

    def command(self) -> list[str]:
        """What begins the run, or goes on with it from its checkpoint, after the name of Python."""
        words = ["--resume", str(self.path)] if self.path.is_file() else [*self.words, "--out", str(self.path)]
        return ["-m", "kanpde.solve", *words]

    def begin(self) -> None:
        self.state, self.reason, self.tries = "running", "", self.tries + 1

    def look(self) -> None:
        """Read how far the run is, if its file is another than at the last look."""
        try:
            changed = os.stat(self.path).st_mtime_ns
            if changed == self._seen:
                return
            run = RunFile.open(self.path)
        except (OSError, RunFileError):  # not there yet; or broken, which the run itself will say
            return
        self._seen, self._status = changed, str(run.attrs.get("status", ""))
        self.row = {name: float(column[-1]) for name, column in run.history.items() if len(column)}

    def end(self, code: int) -> None:
        """Its process has ended with this code."""
        self.look()
        if self.ended:
            self.state = self._status
        elif code == INTERRUPTED:
            self.state = "interrupted"
        else:
            self.state, self.reason = "failed", self._why(code)

    def _why(self, code: int) -> str:
        """The last line of the log, or the signal that has ended it."""
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError as error:
            return f"no log ({error.strerror})"
        return (
            next((line for line in reversed(lines) if line.strip()), "").removeprefix("kanpde: ") or f"exit code {code}"
        )
