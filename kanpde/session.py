"""A session at the machine: its clock, and Ctrl-C as a question instead of an exception."""

import signal
import threading
import time
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
    """Turn the first Ctrl-C (or SIGTERM) into a flag, so that a step is finished; a second one interrupts at once."""
    asked: list[int] = []
    former = {}

    def note(number, frame):
        asked.append(number)
        for signal_number, handler in former.items():
            signal.signal(signal_number, handler)

    if threading.current_thread() is threading.main_thread():
        former.update({number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)})
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
