"""Time of a long benchmark: steps a second, seconds to an error, blocks that may take so long. No torch, for JAX."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class TimeUp(Exception):
    """A row took longer than it may."""


@contextmanager
def limit(seconds: float):
    """Raise TimeUp in the block once it has taken so long; a call into compiled code is finished first."""

    def ring(*_):
        raise TimeUp

    if seconds < 1:
        raise TimeUp
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def rates(run: Callable[[int], None], seconds: float, batches: int = 5) -> list[float]:
    """Steps per second in each batch; `run(n)` does n steps and waits until the device has done them.

    Two steps warm up, one more sets the size of the batches, so that all of them take about `seconds`.
    """
    run(2)
    n = max(1, int(seconds / batches / _seconds(run, 1)))
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < batches and (not found or time.perf_counter() - start < 2 * seconds):  # slow steps: fewer
        found.append(n / _seconds(run, n))
    return found


def to_targets(
    run: Callable[[int], None],
    error: Callable[[], float],
    targets: Sequence[float],
    every: int,
    steps: int,
    seconds: float,
) -> Iterator[dict]:
    """The first evaluation at or below each target; the clock runs in training only. Last, the smallest error.

    Args:
        run: n steps, done when it returns.
        error: of the weights there are.
        every: steps from one evaluation to the next.
        steps: after so many, or so many seconds, it is given up.
    """
    left, best, spent, done, start = sorted(targets), float("inf"), 0.0, 0, time.perf_counter()
    while done < steps and left and time.perf_counter() - start < seconds:
        spent, done = spent + _seconds(run, every), done + every
        gap = error()
        best = min(best, gap)
        while left and gap <= left[-1]:
            yield {"target": left.pop(), "seconds": spent, "steps": done, "rel_l2": gap}
    yield {"best": best, "seconds": spent, "steps": done}


def _seconds(run: Callable[[int], None], n: int) -> float:
    start = time.perf_counter()
    run(n)
    return time.perf_counter() - start
