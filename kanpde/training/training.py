"""What every training is, of a PDE or of a classifier: steps, the best weights, and two files replaced whole."""

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime

import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import PeakMemory
from kanpde.ground.session import Clock, interruptible
from kanpde.ground.world import ALONE, Lost, World
from kanpde.records.run import RunFile, replacing


class RunFailed(RuntimeError):
    """A run that had to end: a loss that is not finite, or a disk that is full. One line; nothing computed is lost.

    Example:
        >>> from kanpde import train
        >>> from kanpde.problems import Poisson
        >>> wild = {"phases": [{"optimizer": "adam", "lr": 1e30, "steps": 99}], "backbone": "mlp", "start": "network"}
        >>> train(Poisson(3), out=getfixture("tmp_path") / "run.h5", **wild)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        kanpde.training.training.RunFailed: step 2: the loss term ...
    """


class WriteFailed(RunFailed):
    """A result that could not be written; the last good files are intact."""


class Training:
    """A run that learns step by step, ends by itself or by Ctrl-C, and leaves files that say how.

    What derives from it states `step`, `walk`, `finish`, `state_dict`, and maybe `progress`.

    Args:
        run: the result file; the checkpoint lies beside it.
        world: the processes that train together, of which the first alone calls back, writes and has results.
    """

    gathers = False  # whether the state is that of all processes of the world together

    def __init__(self, run: RunFile, device: torch.device, world: World = ALONE):
        self.run, self.device, self.world = run, device, world
        self.elapsed = 0.0  # wall-clock seconds of earlier sessions

    @property
    def step(self) -> int:
        """Updates made so far."""
        raise NotImplementedError(f"{type(self).__name__} states no step")

    @property
    def progress(self) -> dict:
        """Attributes of the result file that change as the run goes on."""
        return {}

    def walk(self, *callbacks: Callable | None) -> Iterator[bool]:
        """Train; after each step, whether to stop here."""
        raise NotImplementedError(f"{type(self).__name__} states no walk")

    def finish(self) -> str:
        """After the last step: what the results are; returns the status of the run."""
        raise NotImplementedError(f"{type(self).__name__} states no finish")

    def state_dict(self) -> dict:
        """Everything that a bit-exact continuation needs."""
        raise NotImplementedError(f"{type(self).__name__} states no state_dict")

    def drive(self, *callbacks: Callable | None) -> None:
        """Train, and whatever happens leave files that say so; the checkpoint keeps the last good state.

        Raises:
            RunFailed: something is not finite, or a result that cannot be written.
        """
        try:
            self.save(self._work(*(callbacks if self.world.leads else ())))
        except WriteFailed:
            raise
        except Exception as error:
            self.fail(str(error) if isinstance(error, RunFailed | Lost) else f"{type(error).__name__}: {error}")
            raise

    def _work(self, *callbacks: Callable | None) -> str:
        """The loop, and if it was not interrupted, the results."""
        status = self.loop(*callbacks)
        try:
            if self.gathers and status == "finished":  # together, and so to the end
                with interruptible((signal.SIGINT, signal.SIGTERM)):
                    return self.finish()
            return self.finish() if status == "finished" and self.world.leads else status
        except KeyboardInterrupt:
            return "interrupted"

    def loop(self, *callbacks: Callable | None) -> str:
        """Train to the end, to a step that is the last, or to Ctrl-C, which finishes the step; returns the status.

        Of several processes each may be told, by SIGTERM too, with which what has started them ends them.
        """
        self.memory, self.clock = PeakMemory(self.device), Clock(self.elapsed, self.step)
        with interruptible((signal.SIGINT,) if self.world.alone else (signal.SIGINT, signal.SIGTERM)) as interrupted:
            for stop in self.walk(*callbacks):
                told, stop = self.world.any(interrupted(), stop)
                if told:
                    return "interrupted"
                if stop:
                    return "finished"
        return "finished"

    def save(self, status: str) -> None:
        """Write the checkpoint and the result file, each replaced whole.

        Raises:
            WriteFailed: they cannot be written; the former ones are intact.
        """
        self.run.attrs.update(status=status, finished=now(), **self.progress)
        if self.gathers:
            state = self.state_dict()
            self.world.first(lambda: self._write(lambda: state))
        elif self.world.leads:
            self._write(self.state_dict)

    def _write(self, state: Callable[[], dict]) -> None:
        run = self.run
        try:
            run.path.parent.mkdir(parents=True, exist_ok=True)  # a folder that is gone is no reason to lose a run
            if run.lock is not None:
                run.lock.keep()
            with replacing(run.checkpoint) as temporary:
                torch.save(state(), temporary)
            run.save()
        except ConfigError as error:
            raise WriteFailed(f"{run.path} cannot be written ({error})") from None
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            if run.path.parent.is_dir() and shutil.disk_usage(run.path.parent).free < 2**20:
                reason = "no space left on the disk"
            intact = "; the last good file is intact" if run.path.exists() else ""
            raise WriteFailed(f"{run.path} cannot be written ({reason}){intact}") from None

    def fail(self, message: str) -> None:
        """Say in the result file, if there is one and it can be written, why the run ended; leave the checkpoint.

        What the file says of the best weights stays what the checkpoint has.
        """
        if self.world.leads and self.run.path.exists():
            self.run.attrs.update(status="failed", message=message, finished=now())
            with suppress(OSError, RuntimeError, ConfigError):
                if self.run.lock is not None:
                    self.run.lock.keep()
                self.run.save()


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of its state, which later steps leave as it is."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
