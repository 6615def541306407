"""Long tasks of a benchmark, some at a time, each in a process of one thread; Ctrl-C or SIGTERM ends them all."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context

import torch


def one_thread() -> None:
    """For a process of the pool: Ctrl-C is for the one that started it."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def results(work: Callable, tasks: Iterable, jobs: int) -> Iterator[Iterator[tuple]]:
    """(task, work(task)) as they come, `jobs` at a time; Ctrl-C or SIGTERM in the block ends the program with 130."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        futures = {pool.submit(work, task): task for task in tasks}
        try:
            yield ((futures[future], future.result()) for future in as_completed(futures))
        except KeyboardInterrupt:
            for process in list(pool._processes.values()):
                process.terminate()
            sys.exit(130)  # the pool, broken now, waits for their end
        finally:
            signal.signal(signal.SIGTERM, before)
