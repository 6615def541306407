"""Whether a result is still being written, seen from outside and without touching its lock."""

import os
import platform
import re
from pathlib import Path

from kanpde.records.lock import lock_of


def is_held(result: Path) -> bool:
    """Whether a process has the lock of a result, by what its file says of it.

    True where that process is on another machine, of which nobody here can tell. The lock itself is not tried: in
    that moment it would refuse one who wants it.
    """
    try:
        owner = lock_of(result).read_text()[:1000]
    except (OSError, UnicodeDecodeError):
        return False
    match = re.fullmatch(r"process (\d+) on (.*)", owner)
    if match is None or match[2] != platform.node():
        return True
    try:
        os.kill(int(match[1]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
