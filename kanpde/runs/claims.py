"""Whose the name of a result is: a run holds it by a checkpoint without weights until its first result is written."""

import glob
import os
import platform
import re
from pathlib import Path

CLAIM = "a run of kanpde that has no result yet: "  # before process and machine
LARGEST = 1000  # bytes of such a file


def claim(checkpoint: Path) -> None:
    """Hold a name for this process; what a process left that was killed is replaced.

    Raises:
        FileExistsError: another run has it.
    """
    if _is_abandoned(checkpoint):
        checkpoint.unlink(missing_ok=True)
    with checkpoint.open("x", encoding="utf-8") as file:
        file.write(f"{CLAIM}process {os.getpid()} on {platform.node()}")


def occupied(path: Path) -> str | None:
    """Why a name has no room for a new result, and what to do; None: it has."""
    checkpoint = path.with_suffix(".pt")
    if os.path.exists(path):  # False of a name too long, too
        return f"{path} exists; choose another name, or --resume {path}"
    if not os.path.exists(checkpoint) or _is_abandoned(checkpoint):
        return None
    owner = _owner(checkpoint)
    if owner is None:
        return f"{checkpoint} exists, but no {path} to resume; choose another name, or remove it"
    return (
        f"{owner} has taken the name and has no result yet; choose another, or remove {checkpoint} if that run is gone"
    )


def remove_leftovers(path: Path) -> None:
    """Remove what processes that are gone were writing for the result file and its checkpoint."""
    for target in (path, path.with_suffix(".pt")):
        for left in path.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            process = left.name.removesuffix(".tmp").rpartition(".")[2]
            if process.isdecimal() and not _is_alive(int(process)):
                left.unlink(missing_ok=True)


def _owner(checkpoint: Path) -> str | None:
    """The process and machine that hold a name, "" where the file is empty; None: it holds none."""
    if not checkpoint.is_file() or checkpoint.stat().st_size > LARGEST:
        return None
    text = checkpoint.read_bytes().decode("utf-8", "replace")
    return text.removeprefix(CLAIM) if text.startswith(CLAIM) or not text else None


def _is_abandoned(checkpoint: Path) -> bool:
    """Whether it holds the name of a run without a result whose process, on this machine, is gone."""
    owner = _owner(checkpoint)
    if owner is None or checkpoint.with_suffix(".h5").exists():
        return False
    match = re.fullmatch(r"process (\d+) on (.*)", owner)
    return not owner or (match is not None and match[2] == platform.node() and not _is_alive(int(match[1])))


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # there signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
