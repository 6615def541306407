"""Rows in a run of Weights & Biases, by default offline."""

import os
from collections.abc import Mapping
from typing import Literal

from kanpde.loggers.base import Logger, described, known, summed_up
from kanpde.records.run import RunFile

UNASKED = ("disable_git", "disable_code", "x_disable_stats", "x_disable_meta", "x_disable_machine_info")


class WeightsAndBiases(Logger):
    """A run with the id of the result, in the folder wandb beside it; `wandb sync` sends it, or mode: online.

    What wandb records beside that, of the console, the machine, its packages, the code and git, is switched off.

    Args:
        project: its name.
        entity: user or team; default that of the login.
        mode: offline: nothing leaves this machine. online: rows are sent as they come.
    """

    package = "wandb"

    def __init__(
        self, project: str = "kanpde", entity: str | None = None, mode: Literal["offline", "online"] = "offline"
    ):
        self.project, self.entity, self.mode = project, entity, mode

    def begin(self, run: RunFile) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to wandb's own developers; read at its import
        import wandb

        self.run = wandb.init(
            project=self.project,
            entity=self.entity,
            name=run.path.stem,
            id=run.attrs["id"],
            resume="allow" if self.mode == "online" else None,
            dir=run.path.parent,
            mode=self.mode,
            config={**run.config, **described(run)},
            settings=wandb.Settings(
                console="off", silent=True, x_save_requirements=False, **dict.fromkeys(UNASKED, True)
            ),
        )

    def row(self, step: int, row: Mapping[str, float]) -> None:
        self.run.log(known(row), step=step)

    def end(self, run: RunFile) -> None:
        status = str(run.attrs.get("status", ""))
        self.run.summary.update({**summed_up(run), "status": status})
        self.run.finish(exit_code=0 if status == "finished" else 1)
