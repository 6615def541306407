"""A checksum in front of an HDF5 file, as damaged ones can crash or block the HDF5 library.

Of the user block, SEAL bytes that HDF5 leaves to whoever writes the file, the first line is `kanpde sha256 ...` of all
that follows the block. A file without it, as of earlier versions, or with another one, as after it was changed by
another program, is first read by another process, which may crash.
"""

import hashlib
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

SEAL = 512  # the least that HDF5 allows
MARK = b"kanpde sha256 "
PATIENCE = 60  # seconds that reading all of a file may take
LARGEST = 1000  # times the size of the file: what may be in it
REFUSED = 3  # the exit code of the other process
READ = f"""
import os, sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    nodes = [file]
    file.visititems(lambda name, node: nodes.append(node))
    data = [node for node in nodes if isinstance(node, h5py.Dataset)]
    if sum(node.nbytes for node in data) > {LARGEST} * max(os.path.getsize(sys.argv[1]), 2**20):
        os._exit({REFUSED})
    for node in nodes:
        dict(node.attrs)
    for node in data:
        node[()]
"""


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
    try:
        found = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return found.returncode >= 0 and found.returncode != REFUSED  # what Python says of it is said here, too
