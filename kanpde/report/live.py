"""A page that follows its runs: written anew whenever a file has changed, until nothing goes on any more."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from kanpde.records.live import is_held
from kanpde.records.run import RunFile, RunFileError
from kanpde.records.sweep import FILE
from kanpde.report.contents import state_of
from kanpde.report.pages import check_out, default_out, report

SECONDS = 2.0  # between two looks at the files
RELOAD = 5.0  # after which a page loads itself again


def watch(
    path: str | Path,
    out: str | Path | None = None,
    *,
    seconds: float = SECONDS,
    on_page: Callable[[Path], object] | None = None,
) -> Path:
    """Write the page on runs again and again until they have ended, or until Ctrl-C; return its path.

    The page loads itself again as long as it is written; the last one does not. A run that has not left its first
    result yet is waited for.

    Args:
        path, out: as of `report`.
        seconds: between two looks at the files.
        on_page: called with the path of each page that is written.
    Raises:
        RunFileError: there is no such file and nobody is about to write it, or it is damaged.
    """
    path = Path(os.path.expanduser(path))
    out = default_out(path) if out is None else Path(os.path.expanduser(out))
    check_out(out)
    seen = None
    try:
        while goes_on(path):
            if path.exists() and (now := _signature(path)) != seen:
                seen = now
                report(path, out, reload=RELOAD)
                if on_page:
                    on_page(out)
            time.sleep(seconds)
    finally:
        if path.exists():
            report(path, out)
    if not path.exists():
        raise RunFileError(f"{path}: no such file")
    return out


def goes_on(path: Path) -> bool:
    """Whether a process still writes a result; of a folder any of them, or its sweep."""
    if path.is_dir():
        return is_held(path / FILE) or any(map(goes_on, path.glob("*.h5")))
    if not path.exists():
        return is_held(path)
    return state_of(RunFile.open(path)) == "running"


def _signature(path: Path) -> tuple:
    """What changes when a file is replaced."""
    files = sorted(path.glob("*.h5")) if path.is_dir() else [path]
    found = []
    for file in files:
        try:
            at = file.stat()
        except FileNotFoundError:  # replaced in this moment, or removed
            continue
        found.append((file.name, at.st_ino, at.st_mtime_ns, at.st_size))
    return tuple(found)
