"""A session at the machine: its clock, and Ctrl-C as a question instead of an exception; and quiet."""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class Clock:
    """Wall-clock seconds over all sessions of a run, and steps per second since the last question."""

    def __init__(self, elapsed: float, step: int):
        self.start, self.elapsed = time.perf_counter(), elapsed
        self.mark, self.step = self.start, step

    def seconds(self) -> float:
        return self.elapsed + time.perf_counter() - self.start

    def rate(self, step: int) -> float:
        """Steps per second since the last call."""
        t = time.perf_counter()
        rate = (step - self.step) / max(t - self.mark, 1e-9)
        self.mark, self.step = t, step
        return rate


@contextmanager
def interruptible(signals: Sequence[int] = (signal.SIGINT,)):
    """Turn the first Ctrl-C, or another of the signals, into a flag, so that a step is finished.

    A second one interrupts at once.
    """
    asked: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere Python delivers no signals
    of = {signal.SIGINT: signal.default_int_handler}
    former = {number: signal.getsignal(number) or of.get(number, signal.SIG_DFL) for number in signals}

    def note(number, frame):
        asked.append(number)
        signal.signal(number, former[number])

    for number in former if in_main_thread else ():
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number in former if in_main_thread else ():
            signal.signal(number, former[number])


@contextmanager
def quiet(said: list[str] | None = None) -> Iterator[None]:
    """Without what pyvista warns and logs, by the root logger, of a file that it cannot read: one line will say it.

    Nor does VTK print what it says to no logger.

    Args:
        said: gets what is logged, each a line.
    """
    from vtkmodules.vtkCommonCore import vtkLogger  # only now: importing it takes a while

    def held(record: logging.LogRecord) -> bool:
        if said is not None:
            said.append(" ".join(record.getMessage().split())[:200])
        return False

    root = logging.getLogger()
    root.addFilter(held)
    verbosity = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(held)
        vtkLogger.SetStderrVerbosity(verbosity)
