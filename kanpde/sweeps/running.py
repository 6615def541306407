"""The cells of a sweep, worked off by an engine: those that are done are left, those that fail are tried once more."""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kanpde.ground.errors import ConfigError
from kanpde.records.lock import Lock
from kanpde.records.sweep import FILE
from kanpde.sweeps.cells import INTERRUPTED, Cell
from kanpde.sweeps.engines import PAUSE, Engine

Tell = Callable[[Cell | None], None]  # of a cell that begins or ends; None: only time has passed


def work(cells: Sequence[Cell], engine: Engine, tell: Tell) -> None:
    """Run all cells that have no result.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM, or a terminal that is gone; the cells have stored their state by then.
    """
    waiting, running = deque(cell for cell in cells if not cell.ended), {}
    with _ended_alike():
        try:
            while waiting or running:
                while waiting and len(running) < engine.jobs:
                    cell = waiting.popleft()
                    cell.begin()
                    running[engine.start(cell)] = cell
                    tell(cell)
                time.sleep(PAUSE)
                waiting.extend(cell for cell in _ended(running, engine, tell) if cell.again)
                tell(None)
        except BaseException:  # whatever it is, no cell is left to itself
            engine.stop(running)
            for cell in running.values():
                cell.end(INTERRUPTED)
            raise


def _ended(running: dict, engine: Engine, tell: Tell) -> list[Cell]:
    """Take those that have ended out of those that run."""
    found = []
    for handle, cell in list(running.items()):
        cell.look()
        if (code := engine.code(handle)) is not None:
            del running[handle]
            cell.end(code)
            tell(cell)
            found.append(cell)
    return found


@contextmanager
def _ended_alike() -> Iterator[None]:
    """What ends a program from outside is a Ctrl-C here, so that no cell is left to itself."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python delivers no signals
        numbers = []
    former = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone.

    Raises:
        ConfigError: another is at work there, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(f"--out {folder}: a file; needed is a folder") from None
    except OSError as error:
        raise ConfigError(f"--out {folder}: the folder cannot be written ({error.strerror})") from None
    with Lock(folder / FILE).take():
        yield
