"""Where the history of a run goes besides its result file: the same rows, by one key, `log`.

They are written by the packages themselves, on this machine unless something else is asked for. A logger that fails is
a warning, and never the end of a run.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from kanpde.ground.construct import construct
from kanpde.ground.errors import ConfigError
from kanpde.loggers.base import Logger
from kanpde.loggers.mlflow import MLflow
from kanpde.loggers.tensorboard import TensorBoard
from kanpde.loggers.wandb import WeightsAndBiases
from kanpde.records.run import RunFile

__all__ = ["LOGGERS", "Logger", "logged", "made"]

LOGGERS: dict[str, type[Logger]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow}

Row = Callable[[int, Mapping[str, float]], None]


def made(log: Mapping[str, Mapping[str, Any]]) -> dict[str, Logger]:
    """The loggers of the key `log` by their names; none of them has begun.

    Raises:
        ConfigError: an unknown name or option, or a package that is not installed.
    """
    found = {name: construct("log", LOGGERS, {**options, "name": name}) for name, options in log.items()}
    for name, logger in found.items():
        if find_spec(logger.package) is None:
            raise ConfigError(f"log: {name} needs the package {logger.package}: pip install 'kanpde[{name}]'")
    return found


@contextmanager
def logged(log: Mapping[str, Mapping[str, Any]], run: RunFile) -> Iterator[Row]:
    """Context of a function that takes each row of the history with its step; the loggers end with the run."""
    working = made(log)

    def tell(call: str, *arguments: object) -> None:
        for name, logger in list(working.items()):
            try:
                getattr(logger, call)(*arguments)
            except (Exception, SystemExit) as error:  # of a package, a disk or a server; the run is worth more
                del working[name]
                said = next(iter(str(error).splitlines()), "")
                warnings.warn(
                    f"log: {name} ends here, and the run goes on ({type(error).__name__}: {said})", stacklevel=3
                )

    tell("begin", run)
    try:
        yield lambda step, row: tell("row", step, row)
    finally:
        tell("end", run)
