"""Files of others, read by another process first: damage can crash or block the libraries that read them.

HDF5, MATLAB's and VTK's formats are read by libraries in C that trust what is in a file.
"""

import subprocess
import sys
from pathlib import Path

PATIENCE = 60  # seconds that reading a file may take
SPEED = 10**7  # bytes a second of large ones
MEMORY = 2**33  # bytes of addresses of the other process
GROWN = 100  # and so many for a byte of the file
REFUSED = 3  # its exit code where it wants too much
READ = f"""
import os, sys
path = sys.argv[1]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({MEMORY} + {GROWN} * os.path.getsize(path),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError):
    pass
try:
    exec(sys.argv[2])
except MemoryError:
    os._exit({REFUSED})
"""
MESH = """
import pyvista
reader = pyvista.get_reader(path)
for time in list(getattr(reader, "time_values", ()) or ()) or [None]:
    if time is not None:
        reader.set_active_time_value(time)
    reader.read()
"""


def matlab(to: Path) -> str:
    """What copies the arrays of numbers of a MATLAB file to `to`, as NPZ: that called `name` as "of name".

    The copy is what to read: what damage does to memory differs from reading to reading, so that a file that was read
    once may crash the next process.
    """
    return f"""
import numpy
from scipy.io import loadmat
numbers = lambda array: isinstance(array, numpy.ndarray) and array.dtype.kind in "biufc"
try:
    found = {{"of " + name: array for name, array in loadmat(path).items() if numbers(array)}}
    numpy.savez({str(to)!r}, **found)
except MemoryError:
    raise
except Exception as error:
    print(ascii(str(error) or type(error).__name__)[1:-1])
"""


def hdf5(read: int, most: int = sys.maxsize) -> str:
    """What reads all attributes of an HDF5 file, and so many bytes of its datasets, the smallest first.

    Args:
        most: bytes that all datasets may have together, above which the file is refused.
    """
    return f"""
import h5py
with h5py.File(path, "r") as file:
    nodes, left = [file], {read}
    file.visititems(lambda name, node: nodes.append(node))
    data = [node for node in nodes if isinstance(node, h5py.Dataset)]
    if sum(node.nbytes for node in data) > {most}:
        os._exit({REFUSED})
    for node in nodes:
        dict(node.attrs)
    for node in sorted(data, key=lambda node: node.nbytes):
        if (left := left - node.nbytes) < 0:
            break
        node[()]
"""


def said(path: Path, program: str) -> str | None:
    """What another process prints that runs a program about the file at `path`; None where it does not come back.

    It has bounded time and memory. An error that Python raises there is not told.
    """
    words, patience = [sys.executable, "-c", READ, str(path), program], PATIENCE + path.stat().st_size / SPEED
    try:
        done = subprocess.run(words, capture_output=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout.decode(errors="replace") if done.returncode >= 0 and done.returncode != REFUSED else None


def survived(path: Path, program: str) -> bool:
    """Whether another process comes back from a program about the file at `path`, in time and with bounded memory.

    What Python says of the file there, it says here too: that is for the caller to find.
    """
    return said(path, program) is not None
