"""A checksum in front of an HDF5 file, as damaged ones can crash or block the HDF5 library.

Of the user block, SEAL bytes that HDF5 leaves to whoever writes the file, the first line is `kanpde sha256 ...` of all
that follows the block. A file without it, as of earlier versions, or with another one, as after it was changed by
another program, is first read by another process, which may crash.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

from kanpde.ground import apart

SEAL = 512  # the least that HDF5 allows
MARK = b"kanpde sha256 "
LARGEST = 1000  # times the size of the file: what may be in it


def sealed(image: memoryview) -> None:
    """Write the checksum into the user block of an HDF5 file."""
    line = MARK + hashlib.sha256(image[SEAL:]).hexdigest().encode() + b"\n"
    image[: len(line)] = line


def sound(path: Path) -> bool:
    """Whether a file can be opened here: it is as it was written, or another process has read it and come back."""
    state = path.stat()
    return _sound(path.absolute(), state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(256)
def _sound(path: Path, *state: int) -> bool:
    with path.open("rb") as file:
        block = file.read(SEAL)
        if block.startswith(MARK) and hashlib.file_digest(file, "sha256").hexdigest().encode() in block:
            return True
    most = LARGEST * max(path.stat().st_size, 2**20)
    return apart.survived(path, apart.hdf5(most, most))
