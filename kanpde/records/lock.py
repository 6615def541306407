"""Who writes a result: one process at a time, by a lock that the kernel takes back from whatever is killed."""

import glob
import os
import platform
from pathlib import Path
from typing import Self

from kanpde.ground.errors import ConfigError

try:
    import fcntl
except ImportError:  # on Windows, where nothing keeps a second writer away
    fcntl = None


class Locked(ConfigError):
    """Another process writes the result; one line that says which."""


class Lock:
    """The right to write a result X.h5 and its checkpoint, from `take` to `release` or the end of the process.

    It is an exclusive lock (flock) of the file .X.h5.lock beside them, which says who has it. A process that is stopped
    keeps it; one that is killed leaves a file that nobody has locked, and the next one takes it over.

    Example: `with Lock(path).take(): ...`
    """

    def __init__(self, result: Path):
        self.result = result
        self.path = lock_of(result)
        self._file = None

    def take(self) -> Self:
        """Lock, and remove what killed processes were writing there.

        Raises:
            Locked: another process has it. ConfigError: the folder cannot be written.
        """
        while True:
            try:
                file = self.path.open("a+")
            except OSError as error:
                raise ConfigError(f"{self.path.parent}: the folder cannot be written ({error.strerror})") from None
            try:
                _lock(file)
            except BlockingIOError:
                file.seek(0)
                owner = file.read(1000) or "another process"
                file.close()
                raise Locked(f"{self.result}: {owner} is writing it; wait for it, or end it if it is stopped") from None
            if _is_at(file, self.path):
                break
            file.close()  # who had it has removed the file since it was opened
        self._file = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        _remove_leftovers(self.result)
        return self

    def keep(self) -> None:
        """Before a write: make sure that it is still there; where the file was removed, take it again.

        Raises:
            Locked: another process has it now. ConfigError: the folder cannot be written.
        """
        if not _is_at(self._file, self.path):
            self._close()
            self.take()

    def release(self) -> None:
        """Let go of it, and remove the file of a lock that is still one's own."""
        if self._file is None:
            return
        if _is_at(self._file, self.path):
            self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        self._file.close()
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error) -> None:
        self.release()


def was_killed(result: Path) -> bool:
    """Whether there is the lock of a process that works on a result, or was killed when it did."""
    return os.path.exists(lock_of(result))


def lock_of(result: Path) -> Path:
    """The file that is locked by who writes a result."""
    return result.with_name(f".{result.name}.lock")


def _lock(file) -> None:
    """Raises BlockingIOError where another process has it; a file system without locks keeps nobody away."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return


def _is_at(file, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _remove_leftovers(result: Path) -> None:
    """What was being written for the result and its checkpoint when a process was killed."""
    for target in (result, result.with_suffix(".pt")):
        for left in result.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            left.unlink(missing_ok=True)
