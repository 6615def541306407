"""A session at the machine: its clock, and Ctrl-C as a question instead of an exception; and quiet."""

import logging
import signal
import threading
import time
import warnings
from collections.abc import Iterator
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
def interruptible():
    """Turn the first Ctrl-C into a flag, so that a step is finished; a second one interrupts at once."""
    asked: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()  # elsewhere Python delivers no signals
    former = signal.getsignal(signal.SIGINT) or signal.default_int_handler

    def note(number, frame):
        asked.append(number)
        signal.signal(signal.SIGINT, former)

    if in_main_thread:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, former)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what pyvista warns and logs, by the root logger, of a file that it cannot read: one line will say it.

    Nor does VTK print what it says to no logger.
    """
    from vtkmodules.vtkCommonCore import vtkLogger  # only now: importing it takes a while

    root, nothing = logging.getLogger(), lambda record: False
    root.addFilter(nothing)
    verbosity = vtkLogger.GetCurrentVerbosityCutoff()
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(nothing)
        vtkLogger.SetStderrVerbosity(verbosity)
