"""A run once more from what its file holds, and how far its history is the same."""

import copy
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kanpde.ground.errors import ConfigError
from kanpde.problems.base import Problem, own
from kanpde.records.run import RunFile
from kanpde.runs.api import begin
from kanpde.runs.models import Run
from kanpde.runs.sessions import differences, session, sessions
from kanpde.runs.stored import check_rows, config_of
from kanpde.training.loop import Callback
from kanpde.training.plan import Plan
from kanpde.users.members import changed, enter, kept_in, problem_of

OF_THE_MACHINE = (
    "wall_s",
    "steps_per_s",
    "peak_memory_bytes",
    "saved_memory_bytes",
    "estimated/",
)  # columns that no run repeats


@dataclass(frozen=True)
class Repeat:
    """How a run went a second time.

    Attributes:
        rows: of the history that both have.
        first: the step of the first row that differs; None: they are the same bit for bit.
        column, before, now: a number that differs there, and what it was.
        reasons: why that may be.
    """

    rows: int
    first: int | None = None
    column: str = ""
    before: float = float("nan")
    now: float = float("nan")
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.first is None:
            return f"the same bit for bit in all {self.rows} rows of the history"
        why = "; ".join(self.reasons) or "nothing that the file knows of has changed"
        return f"differs from step {self.first} on: {self.column} {self.now!r}, it was {self.before!r} ({why})"


@torch.inference_mode(False)
@torch.enable_grad()
def rerun(
    run: str | Path | Run,
    out: str | Path | None = None,
    *,
    problem: Problem | None = None,
    net: nn.Module | None = None,
    trust: bool = False,
    on_evaluation: Callback | None = None,
) -> Repeat:
    """Train a run again from the configuration in its file, and compare the histories bit for bit.

    Args:
        out: where the second result goes; None: nowhere.
        problem, net: those of the run, where they were made in Python; the network as it was given to `train`.
        trust: the source of a user's file is that which the run keeps, not the file as it is now.
    Raises:
        ConfigError: files that the run reads have changed, or are gone.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    config = config_of(run)
    kept = kept_in(run.attrs) if trust else {}
    if not trust and (file := changed(config, run.attrs)):
        raise ConfigError(f"{run.path}: {file} has changed since the run; restore it, or --trust executes what it was")
    enter(config, kept)
    problem = own(problem_of(config.problem, kept.get("problem")) if problem is None else problem)
    check_rows(run, problem)
    plan = Plan.of(config.model_copy(update={"log": {}}), problem, copy.deepcopy(net))
    with tempfile.TemporaryDirectory() as folder:
        second = begin(plan, out or Path(folder) / "rerun.h5", on_evaluation=on_evaluation)
    return compared(run, second)


def compared(run: RunFile, second: RunFile) -> Repeat:
    """Where the history of a second run leaves that of the first, by all columns but those of the machine."""
    steps = np.asarray(run.history["step"])
    rows = min(len(steps), len(second.history["step"]))
    for row in range(rows):
        for name in (name for name in run.history if not name.startswith(OF_THE_MACHINE)):
            before, now = (float(each.history.get(name, [np.nan] * rows)[row]) for each in (run, second))
            if before != now and not (before != before and now != now):
                return Repeat(rows, int(steps[row]), name, before, now, tuple(_reasons(run, second)))
    if len(steps) != len(second.history["step"]) and run.attrs["status"] in ("finished", "diverged"):
        last = int(steps[rows - 1])
        return Repeat(rows, last, "rows", len(steps), len(second.history["step"]), tuple(_reasons(run, second)))
    return Repeat(rows)


def _reasons(run: RunFile, second: RunFile) -> list[str]:
    """What of the machine is not what it was, and what else decides where a run ends."""
    former, now = sessions(run), session(config_of(second))
    found = differences(former[0], now)
    for later in former[1:]:
        if said := differences(later, now):
            found.append(f"from step {later['step']} on {', '.join(said)}")
    if len({each["steps"] for each in former if "steps" in each}) > 1:
        found.append(f"the run was extended from {former[0]['steps']} steps, which its schedule did not know before")
    if config_of(run).stop.seconds is not None:
        found.append("stop.seconds ends a run by the clock")
    return found
