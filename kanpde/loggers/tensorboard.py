"""Rows as the events of TensorBoard."""

import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from kanpde.loggers.base import Logger, described, known, last_step, summed_up
from kanpde.records.run import RunFile


class TensorBoard(Logger):
    """Scalars by column, in a folder beside the result: `tensorboard --logdir FOLDER` shows them.

    Args:
        folder: default <run>-tensorboard beside the result file.
    """

    package = "tensorboard"

    def __init__(self, folder: str | None = None):
        self.folder = folder

    def begin(self, run: RunFile) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = (
            Path(os.path.expanduser(self.folder)) if self.folder else Path(f"{run.path.with_suffix('')}-tensorboard")
        )
        self.writer = SummaryWriter(str(folder), purge_step=last_step(run) + 1)
        words = "\n".join(f"- {name}: {value}" for name, value in described(run).items())
        configuration = yaml.safe_dump(run.config, sort_keys=False)
        self.writer.add_text("run", f"{words}\n\n```yaml\n{configuration}```", max(last_step(run), 0))
        self.writer.flush()

    def row(self, step: int, row: Mapping[str, float]) -> None:
        for name, value in known(row).items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, run: RunFile) -> None:
        for name, value in summed_up(run).items():
            self.writer.add_scalar(f"end/{name}", value, max(last_step(run), 0))
        self.writer.add_text("status", str(run.attrs.get("status", "")), max(last_step(run), 0))
        self.writer.close()
