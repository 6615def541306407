"""Training slab by slab of time: solve, freeze, go on; one run, one file, and at the end one u for all times."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kanpde.domains.base import time_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import give_back
from kanpde.ground.world import ALONE, World
from kanpde.jets.ansatz import Ansatz
from kanpde.kan.network import count_parameters
from kanpde.records.run import RunFile
from kanpde.training.checkpoints import refine_grids
from kanpde.training.loop import Callback, ResidualTraining, State
from kanpde.training.plan import Plan
from kanpde.training.training import weights_of

Row = dict[str, float]


def training_of(plan: Plan, run: RunFile, world: World = ALONE) -> ResidualTraining:
    """The training of a plan: of one network, or slab by slab.

    Raises:
        ConfigError: as of these.
    """
    return (ResidualTraining if plan.config.slabs is None else SlabTraining)(plan, run, world)


class SlabTraining(ResidualTraining):
    """A run slab by slab, each an ordinary training whose initial values are what the one before it has left.

    A slab begins with the weights of the one before, as a function of the time since it began in units of its length.

    The history has the rows of all of them, with steps that go on and a column `slab`; errors and losses in it are
    those of the slab. A checkpoint holds the networks so far, and the state of the training of the slab it is in.

    Attributes:
        done: what came of the slabs before.
        now: the training of the slab it is in.
        over: whether that has made its last step.
    Raises:
        ConfigError: there are several processes.
    """

    def __init__(self, plan: Plan, run: RunFile, world: World = ALONE):
        if not world.alone:
            raise ConfigError(f"slabs: one process trains them, given {world.size}")
        super().__init__(plan, run, world)
        self.done: list[dict] = []
        self._enter()

    def _enter(self) -> None:
        """Begin with the slab after those that are done."""
        number, former = len(self.done), None
        if number:
            former = self.plan.slab(number - 1).ansatz().eval().requires_grad_(False)
            _begin_with(former.net, self.u.net.nets[number])
        self.over, self.now = False, OfSlab(self.plan.slab(number, former), self.run.path, self._log, self.save)

    @property
    def tested(self) -> Ansatz:
        return self.u

    @property
    def before(self) -> int:
        """Steps of the slabs before."""
        return sum(each["steps"] for each in self.done)

    @property
    def step(self) -> int:
        return self.before + self.now.step

    @property
    def in_last(self) -> bool:
        """Whether the slab it is in is the last one."""
        return len(self.done) + 1 == len(self.u.net.nets)

    @property
    def progress(self) -> dict:
        return {"steps": self.step, "best_step": self.before + self.now.best["step"]}

    # -----------------------------------------------------------------------------------------------------------
    # The loop

    def walk(self, on_step: Callback | None = None, on_evaluation: Callback | None = None) -> Iterator[bool]:
        """Train the slabs one after the other; a criterion, or a callback that returns True, ends the one it is in."""
        told = [call and (lambda _, call=call: call(self._seen())) for call in (on_step, on_evaluation)]
        while True:
            now = self.now
            now.memory, now.clock = self.memory, self.clock
            self.clock.rate(now.step)
            for stop in () if self.over else now.walk(*told):
                self.over = stop
                yield False
                if stop:
                    break
            self.over = True
            if self.in_last:
                return
            self.done.append(now.result())
            now.u.load_state_dict(now.best["weights"])
            self._enter()

    def _seen(self) -> State:
        """What callbacks see: the steps of all slabs, and u at all times."""
        now, state = self.now.state, self.state
        of_slab = {name: getattr(now, name) for name in ("phase", "loss", "terms", "steps_per_s")}
        self.state = replace(state, step=self.step, row=now.row and self._of_run(now.row), **of_slab)
        return self.state

    def _of_run(self, row: Row) -> Row:
        """A row of the history of the slab as one of the run."""
        return {**row, "step": self.before + row["step"], "slab": len(self.done)}

    def _log(self, row: Row) -> None:
        self.run.log(self._of_run(row))

    # -----------------------------------------------------------------------------------------------------------
    # Results and files

    def stopped(self) -> str | None:
        return self.now.stopped() if self.in_last else None

    def finish(self) -> str:
        """Errors, field and pictures of u at all times; the run has diverged where a slab has."""
        give_back()
        now, every = self.now, [*self.done, self.now.result()]
        kept, last = (self._weights(of) for of in (now.best["weights"], weights_of(now.tested)))
        self.objective.load_adapted(now.objective.adapted())
        self.u.load_state_dict(kept)
        self.best = {"step": self.before + now.best["step"], "weights": kept, "terms": self.validation(self.u)}
        self.u.load_state_dict(last)
        self._seen()
        self.ending().results(self.validation(self.u))
        self.run.attrs |= {"parameters": count_parameters(self.u.net), "slabs": json.dumps(every)}
        if said := [f"slab {k}: {each['message']}" for k, each in enumerate(every) if each["message"]]:
            self.run.attrs["message"] = "; ".join(said)
        return next((each["status"] for each in every if each["status"] != "finished"), "finished")

    def _weights(self, of_slab: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of u with these of the slab, whose network is one of its own."""
        own = {f"net.nets.{len(self.done)}.{name.removeprefix('net.')}": value for name, value in of_slab.items()}
        return weights_of(self.u) | own

    def state_dict(self) -> dict:
        now = self.now
        return {
            "id": self.run.attrs.get("id"),
            "weights": self._weights(weights_of(now.tested)),
            "best": {"step": self.before + now.best["step"], "weights": self._weights(now.best["weights"] or {})},
            "step": self.step,
            "slab": len(self.done),
            "done": self.done,
            "over": self.over,
            "training": now.state_dict(),
            "history": {name: torch.tensor(rows, dtype=torch.float64) for name, rows in self.run.history.items()},
            "floors": self.run.floors,
        }

    def load_state_dict(self, saved: dict) -> None:
        refine_grids(self.u.net, self.config, saved)
        self.u.load_state_dict(saved["weights"])
        self.done, self.run.floors = [dict(each) for each in saved["done"]], saved["floors"]
        self._enter()
        self.now.load_state_dict(saved["training"])
        self.run.history = {name: rows.tolist() for name, rows in saved["history"].items()}
        goes_on = self.in_last and self.now.step < self.now.config.steps and self.now.stopped() is None
        self.over, self.elapsed = saved["over"] and not goes_on, self.now.elapsed  # criteria may be others by now
        self._seen()


@torch.no_grad()
def _begin_with(former: nn.Module, net: nn.Module) -> None:
    """Give a network the weights of the one before, unless phases have refined the grids of that."""
    pairs = list(zip(former.parameters(), net.parameters(), strict=True))
    if all(theirs.shape == ours.shape for theirs, ours in pairs):
        for theirs, ours in pairs:
            ours.copy_(theirs)


class OfSlab(ResidualTraining):
    """The training of a slab, whose rows and files are those of the run.

    Args:
        log: what a row of its history is told to.
        keep: what writes the files of the run, with a status.
    """

    def __init__(self, plan: Plan, path: Path, log: Callable[[Row], None], keep: Callable[[str], None]):
        super().__init__(plan, _Rows(path, log))
        self._keep_files = keep

    def save(self, status: str) -> None:
        self._keep_files(status)

    def result(self) -> dict:
        """What came of it, as plain values."""
        status, start = self.ending().verdict(self.last_terms()), self.plan.begins
        return {
            "start": start,
            "end": start + time_of(self.plan.problem.domain),
            "steps": self.step,
            "best_step": self.best["step"],
            "validation": self.objective.total(self.best["terms"]),
            "retreats": len(self.retreats),
            "status": status,
            "message": str(self.run.attrs.get("message", "")),
        }


class _Rows(RunFile):
    """The record of a slab, which is written by nobody: its rows go to that of the run too."""

    def __init__(self, path: Path, tell: Callable[[Row], None]):
        super().__init__(path)
        self.tell = tell

    def log(self, row: Row) -> None:
        super().log(row)
        self.tell(row)
