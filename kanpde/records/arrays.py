"""Arrays of numbers by name in files of others: MATLAB, NumPy, tables, exports of COMSOL, HDF5, meshes."""

import itertools
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from xml.etree import ElementTree

import h5py
import numpy as np

from kanpde.ground import apart
from kanpde.ground.errors import ConfigError
from kanpde.ground.session import quiet
from kanpde.records import columns

LARGE = 2**28  # bytes of a text, or of the arrays that are read of an HDF5 file, from which not all is in memory
ROWS = 2**16  # lines of a text at a time
PART = 2**22  # numbers of a dataset at a time
XDMF = (".xdmf", ".xmf")
COMMENTS = ("%", "#")  # what lines above the numbers of a text begin with


class Array:
    """Numbers (n_1, ..., n_k) of a file, in memory or not.

    Attributes:
        shape, dtype: of them.
        along: what its axes are, where the file says so: rows, times, or parts of vectors.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    along: tuple[str, ...] | None = None

    def at(self, index: tuple[np.ndarray, ...]) -> np.ndarray:
        """Those at places (m,), one array of numbers for each axis."""
        raise NotImplementedError(f"{type(self).__name__} states no at")

    def whole(self) -> np.ndarray:
        """All of them."""
        raise NotImplementedError(f"{type(self).__name__} states no whole")

    def fixed(self, axis: int, number: int) -> "Array":
        """Those with one number of an axis, which is gone."""
        raise NotImplementedError(f"{type(self).__name__} states no fixed")

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_complex(self) -> bool:
        return self.dtype.kind == "c" or self.dtype.names is not None

    def squeezed(self) -> "Array":
        """Without the axes of one number, but for the last that is left."""
        ones = [axis for axis, n in enumerate(self.shape) if n == 1]
        ones, found = ones[len(ones) == len(self.shape) :], self
        for axis in reversed(ones):
            found = found.fixed(axis, 0)
        return found


@dataclass(frozen=True, eq=False)
class Held(Array):
    """An array in memory."""

    values: np.ndarray
    along: tuple[str, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def at(self, index: tuple[np.ndarray, ...]) -> np.ndarray:
        return self.values[index]

    def whole(self) -> np.ndarray:
        return self.values

    def fixed(self, axis: int, number: int) -> Array:
        along = None if self.along is None else (*self.along[:axis], *self.along[axis + 1 :])
        return Held(self.values.take(number, axis), along)


@dataclass(frozen=True, eq=False)
class Stored(Array):
    """A dataset of an HDF5 file, of which no more is read than is asked for.

    Args:
        full, dtype: the shape of the dataset as it lies there, and its type.
        turned: whether the axes are named from the last to the first, as MATLAB stores them.
        chosen: of each axis of the dataset one number, or None for all of it.
    """

    path: Path
    name: str
    full: tuple[int, ...]
    dtype: np.dtype
    turned: bool = False
    chosen: tuple[int | None, ...] = ()

    @property
    def free(self) -> list[int]:
        """The axes of the dataset that are axes of the array, in its order."""
        left = [axis for axis, number in enumerate(self._choice) if number is None]
        return left[::-1] if self.turned else left

    @property
    def _choice(self) -> tuple[int | None, ...]:
        return self.chosen or (None,) * len(self.full)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.full[axis] for axis in self.free)

    def fixed(self, axis: int, number: int) -> "Stored":
        chosen = list(self._choice)
        chosen[self.free[axis]] = number
        return replace(self, chosen=tuple(chosen))

    def whole(self) -> np.ndarray:
        with _opened(self.path) as file:
            found = file[self.name][tuple(slice(None) if n is None else n for n in self._choice)]
        found = _complex(np.asarray(found))
        return found.T if self.turned else found

    def at(self, index: tuple[np.ndarray, ...]) -> np.ndarray:
        places = index[::-1] if self.turned else index
        with _opened(self.path) as file:
            return _complex(self._gathered(file[self.name], list(self._choice), places))

    def _gathered(self, data: h5py.Dataset, chosen: list, places: tuple[np.ndarray, ...]) -> np.ndarray:
        """The numbers at places of the free axes, read in slabs of at most `PART`."""
        first, *others = [axis for axis, number in enumerate(chosen) if number is None]
        row = int(np.prod([self.full[axis] for axis in others], dtype=np.int64))
        select = [slice(None) if number is None else number for number in chosen]
        found = np.empty(len(places[0]), self.dtype)
        step = max(1, PART // row)
        for start in range(0, self.full[first], step):
            if not (here := (places[0] >= start) & (places[0] < start + step)).any():
                continue
            if row <= PART:
                select[first] = slice(start, start + step)
                slab = data[tuple(select)]
                found[here] = slab[(places[0][here] - start, *(place[here] for place in places[1:]))]
            else:
                inner = [*chosen[:first], start, *chosen[first + 1 :]]
                found[here] = self._gathered(data, inner, tuple(place[here] for place in places[1:]))
        return found


@dataclass(frozen=True, eq=False)
class Derived(Array):
    """A number made of each number of an array: its real part, say."""

    of: Array
    function: Callable[[np.ndarray], np.ndarray]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of.shape

    @property
    def along(self) -> tuple[str, ...] | None:
        return self.of.along

    def at(self, index: tuple[np.ndarray, ...]) -> np.ndarray:
        return self.function(self.of.at(index))

    def whole(self) -> np.ndarray:
        return self.function(self.of.whole())

    def fixed(self, axis: int, number: int) -> "Derived":
        return replace(self, of=self.of.fixed(axis, number))


Arrays = dict[str, Array]


@dataclass(frozen=True, eq=False)
class Contents:
    """What is in a file.

    Attributes:
        arrays: by name; of a text that is streamed those of its first lines.
        blocks: of such a text the arrays of so many lines after the other; None: all is in `arrays`.
        order: the coordinates in the order of the axes of the others, where it is that of all such files.
    """

    path: Path
    arrays: Arrays
    blocks: Callable[[], Iterator[Arrays]] | None = None
    order: tuple[str, ...] = ()


PARTS = {"real": np.real, "imag": np.imag, "abs": np.abs}


def named(contents: Contents, name: str) -> Array | None:
    """The array of a name, or a part of it: `uu.real`, `.imag`, `.abs`, or a component of its last axis, `velocity[0]`.

    None: there is no such array.
    """
    if (found := contents.arrays.get(name)) is not None:
        return found
    stem, dot, part = name.rpartition(".")
    if dot and part in PARTS and (whole := named(contents, stem)) is not None:
        return Derived(whole, PARTS[part])
    if (match := re.fullmatch(r"(.+)\[(\d+)\]", name)) and (whole := contents.arrays.get(match[1])) is not None:
        if len(whole.shape) > 1 and int(match[2]) < whole.shape[-1]:
            return whole.fixed(len(whole.shape) - 1, int(match[2]))
    return None


def read(path: str | Path) -> Contents:
    """The arrays of a file, by its ending.

    .mat (also v7.3, which is HDF5), .npz, .csv, .dat and .txt with a line of names above the numbers that begins with %
    or #, .h5 and .hdf5; all else is a mesh that pyvista reads, or meshio.

    Raises:
        ConfigError: there is no such file, it cannot be read, or has no numbers.
    """
    path = Path(path).expanduser()
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: {'this is a folder' if os.path.isdir(path) else 'no such file'}")
    if not path.stat().st_size:
        raise ConfigError(f"{path}: the file is empty")
    found = READERS.get(path.suffix.lower(), _mesh)(path)
    if not found.arrays:
        raise ConfigError(f"{path}: there are no arrays of numbers in it")
    return found


def _try(path: Path, program: str) -> str:
    """What another process says that reads the file. Raises ConfigError where it does not come back."""
    if (said := apart.said(path, program)) is None:
        raise ConfigError(f"{path}: a damaged file, which the library that reads such files cannot be trusted with")
    return said


# ---------------------------------------------------------------------------------------------------------------
# MATLAB, NumPy, HDF5


def _mat(path: Path) -> Contents:
    if h5py.is_hdf5(path):
        return Contents(path, _datasets(path, turned=True))
    with TemporaryDirectory() as folder:
        copy = Path(folder, "copy.npz")
        said = _try(path, apart.matlab(copy))
        if said or not copy.exists():
            raise ConfigError(f"{path}: cannot be read as MATLAB's: {_shown(said)}")
        with np.load(copy, allow_pickle=False) as file:
            found = {name.removeprefix("of "): file[name] for name in file.files}
    return Contents(path, {name: Held(a) for name, a in found.items() if _of_numbers(a)})


def _npz(path: Path) -> Contents:
    found = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                try:
                    found[name] = file[name]
                except ValueError:  # an array of objects
                    continue
    except columns.UNREADABLE as error:
        raise ConfigError(f"{path}: cannot be read as NPZ: {_line(error)}") from None
    return Contents(path, {name: Held(a) for name, a in found.items() if _of_numbers(a)})


def _hdf5(path: Path) -> Contents:
    """An HDF5 file; where coordinates are called as PDEBench does, axes are in its order."""
    arrays = _datasets(path, turned=False)
    as_pdebench = any(name.endswith("-coordinate") for name in arrays)
    return Contents(path, arrays, order=("t", "x", "y", "z") if as_pdebench else ())


def _datasets(path: Path, turned: bool) -> Arrays:
    found: Arrays = {}

    def note(name: str, data: object) -> None:
        if isinstance(data, h5py.Dataset) and not name.startswith("#") and "MATLAB_empty" not in data.attrs:
            if data.dtype.kind in "iufc" or _complex_names(data.dtype):
                found[name] = Stored(path, name, data.shape, data.dtype, turned)

    _try(path, apart.hdf5(LARGE))
    with _opened(path) as file:
        file.visititems(note)
    return found


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as HDF5: {_line(error)}") from None


def _of_numbers(array: object) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "biufc" and array.size > 0


def _complex_names(dtype: np.dtype) -> bool:
    """Whether these are complex numbers as MATLAB stores them, in two parts."""
    return dtype.names == ("real", "imag")


def _complex(values: np.ndarray) -> np.ndarray:
    return values["real"] + 1j * values["imag"] if _complex_names(values.dtype) else values


# ---------------------------------------------------------------------------------------------------------------
# Text: a table with names in its first line, or an export of COMSOL


def _text(path: Path) -> Contents:
    """Columns along rows; those with a time in their names, `u (m/s) @ t=0.1`, are one array along rows and times."""
    blocks = lambda: _blocks(path)
    if path.stat().st_size > LARGE:
        return Contents(path, next(blocks()), blocks)
    each = list(blocks())
    return Contents(path, {name: _together([block[name] for block in each]) for name in each[0]})


def _together(parts: Sequence[Held]) -> Held:
    along = parts[0].along
    return parts[0] if along == ("times",) else Held(np.concatenate([part.values for part in parts]), along)


def _blocks(path: Path) -> Iterator[Arrays]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            commented = file.readline().lstrip().startswith(COMMENTS)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if path.suffix.lower() == ".csv" and not commented:
        for block in columns.blocks(path, ROWS):
            yield {name: Held(values, ("rows",)) for name, values in block.items()}
        return
    yield from _commented(path)


def _commented(path: Path) -> Iterator[Arrays]:
    """The blocks of a text whose lines above the numbers begin with % or #, of which the last names the columns."""
    header, names = "", None
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = (line for line in file if line.strip())
        for line in lines:
            if line.lstrip().startswith(COMMENTS):
                header = line
                continue
            rest = itertools.chain([line], (line for line in lines if not line.lstrip().startswith(COMMENTS)))
            while part := list(itertools.islice(rest, ROWS)):
                numbers = _numbers(path, part, names)
                names = names or _column_names(path, header, numbers.shape[1])
                yield _as_series(path, names, numbers)
    if names is None:
        raise ConfigError(f"{path}: there are no rows of numbers")


def _numbers(path: Path, lines: list[str], names: list | None) -> np.ndarray:
    delimiter = "," if "," in lines[0] else None
    try:
        found = np.loadtxt(lines, delimiter=delimiter, ndmin=2, comments=None)
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read as rows of numbers: {_line(error)}") from None
    if names is not None and found.shape[1] != len(names):
        raise ConfigError(f"{path}: rows of {found.shape[1]} numbers, the line above them names {len(names)}")
    return found


Column = tuple[str, str | None, float]  # its name, and where it is of a time the name of that and its value
NAME = re.compile(r"(\S+)(?: +\([^()]*\))?(?: +@ +([A-Za-z_]\w*) *= *([^\s,]+))?")


def _column_names(path: Path, header: str, count: int) -> list[Column]:
    """The names in the line above the numbers, `% x  y  u (m/s) @ t=0  u (m/s) @ t=0.1`, without their units."""
    text = header.strip().lstrip("".join(COMMENTS)).strip()
    tries = (text.split(","), re.split(r"\s{2,}|\t", text), [match[0] for match in NAME.finditer(text)])
    parts = next(([p.strip() for p in found] for found in tries if len(found) == count), None)
    if parts is None:
        given = (
            f"the line above them is {header.strip()!r:.100}" if header else "there is no line with names above them"
        )
        needed = "needed is one that begins with % and names each column, such as % x  t  u"
        raise ConfigError(f"{path}: rows of {count} numbers, but {given}; {needed}")
    found = []
    for part in parts:
        name, key, value = NAME.fullmatch(part).groups() if NAME.fullmatch(part) else (part, None, None)
        try:
            found.append((name, key, float(value.split("[")[0]) if key else 0.0))
        except ValueError:
            raise ConfigError(f"{path}: column {part!r}: {value!r} is no number") from None
    return found


def _as_series(path: Path, names: list[Column], numbers: np.ndarray) -> Arrays:
    plain = [i for i, (_, key, _) in enumerate(names) if key is None]
    found: Arrays = {names[i][0]: Held(numbers[:, i], ("rows",)) for i in plain}
    if len(found) < len(plain):
        twice = [names[i][0] for i in plain]
        raise ConfigError(f"{path}: two columns are named {next(n for n in twice if twice.count(n) > 1)!r}")
    series = {name: [i for i, each in enumerate(names) if each[0] == name] for name, key, _ in names if key is not None}
    times = {name: [names[i][2] for i in places] for name, places in series.items()}
    if len({tuple(each) for each in times.values()}) > 1:
        raise ConfigError(f"{path}: {' and '.join(times)} are not there at the same times")
    for name, places in series.items():
        found[name] = Held(numbers[:, places], ("rows", "times"))
        found.setdefault(str(names[places[0]][1]), Held(np.array(times[name]), ("times",)))
    return found


# ---------------------------------------------------------------------------------------------------------------
# Meshes


def _mesh(path: Path) -> Contents:
    """The points of a mesh, x, y, z, and what is known at them; of a series of them at its times t.

    Where all is known of cells, as of finite volumes, the points are their centres.
    """
    said: list[str] = []
    try:
        empty = _empty_grids(path) if path.suffix.lower() in XDMF else set()
        _try(path, apart.MESH)
        with quiet(said):
            reader = _reader(path)
            times = list(getattr(reader, "time_values", ()) or ())
            if len(times) > 1:
                return Contents(path, _series(path, reader, times, empty))
            mesh = _one(path, reader.read(), empty)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # meshio ends the program where it does not know what a file is
        hint = "" if find_spec("meshio") else "; more files are read with meshio: pip install 'kanpde[mesh]'"
        reason = said[0] if said else _line(error)  # VTK's first complaint says what is wrong, its last what follows
        raise ConfigError(f"{path}: cannot be read as a mesh: {reason}{hint}") from None
    return Contents(path, {**_of_points(mesh.points), **_of_data(mesh, mesh.n_points)})


def _reader(path: Path):
    """What has `read`, and maybe times."""
    import pyvista

    try:
        return pyvista.get_reader(path)
    except TypeError:  # pyvista asks any XDMF for times, and has no answer where there are none
        from vtkmodules.vtkIOXdmf2 import vtkXdmfReader

        plain = vtkXdmfReader()
        plain.SetFileName(str(path))

        def read():
            plain.Update()
            return pyvista.wrap(plain.GetOutputDataObject(0))

    except (ValueError, OSError):  # it has no reader, and meshio may have one
        read = lambda: pyvista.read(path)
    return SimpleNamespace(read=read)


def _empty_grids(path: Path) -> set[str]:
    """The names of grids of an XDMF file without data of their own: VTK says that these are zero there.

    Raises:
        ConfigError: a file that it names is not there: VTK would end the program.
    """
    grids = ElementTree.parse(path).getroot().findall("./Domain/Grid")
    for item in (item for grid in grids for item in grid.iter("DataItem")):
        file = (item.text or "").strip().rpartition(":/")[0] if item.get("Format", "").upper() == "HDF" else ""
        if file and not os.path.isfile(path.parent / file):
            raise ConfigError(f"{path}: it needs {path.parent / file}, which is not there")
    return {grid.get("Name", "") for grid in grids if grid.find(".//Attribute") is None}


def _one(path: Path, mesh, empty: Collection[str] = ()):
    """A mesh, or all blocks of one together but for the empty ones."""
    import pyvista

    if isinstance(mesh, pyvista.MultiBlock):
        blocks = pyvista.MultiBlock({name: mesh[name] for name in mesh.keys() if name not in empty})
        mesh = blocks[0] if len(blocks) == 1 and isinstance(blocks[0], pyvista.DataSet) else blocks.combine()
    if not isinstance(mesh, pyvista.DataSet) or not mesh.n_points:
        raise ConfigError(f"{path}: there are no points in it")
    return mesh.cell_centers() if not len(mesh.point_data) and len(mesh.cell_data) else mesh


def _series(path: Path, reader, times: list[float], empty: Collection[str]) -> Arrays:
    """All times side by side, (points, times), where the points stay; else one after the other."""
    meshes = []
    for time in times:
        reader.set_active_time_value(time)
        meshes.append(_one(path, reader.read(), empty).copy())
    data = [_of_data(mesh, mesh.n_points) for mesh in meshes]
    common = [name for name in data[0] if all(name in each for each in data)]
    first = np.asarray(meshes[0].points)
    if all(np.array_equal(first, mesh.points) for mesh in meshes):
        stacked = {name: np.stack([each[name].values for each in data], 1) for name in common}
        found = {name: Held(a, ("rows", "times", *("parts",) * (a.ndim - 2))) for name, a in stacked.items()}
        return {**_of_points(first), **found, "t": Held(np.array(times, dtype=np.float64), ("times",))}
    along = lambda a: ("rows", *("parts",) * (a.ndim - 1))
    joined = {name: np.concatenate([each[name].values for each in data]) for name in common}
    t = np.repeat(times, [mesh.n_points for mesh in meshes]).astype(np.float64)
    points = _of_points(np.concatenate([np.asarray(mesh.points) for mesh in meshes]))
    return {**points, **{name: Held(a, along(a)) for name, a in joined.items()}, "t": Held(t, ("rows",))}


def _of_points(points: np.ndarray) -> Arrays:
    return {name: Held(np.asarray(points)[:, i].astype(np.float64), ("rows",)) for i, name in enumerate("xyz")}


def _of_data(mesh, count: int) -> dict[str, Held]:
    found = {name: np.asarray(mesh.point_data[name]) for name in mesh.point_data.keys()}
    kept = {name: a for name, a in found.items() if _of_numbers(a) and len(a) == count}
    return {name: Held(a, ("rows", *("parts",) * (a.ndim - 1))) for name, a in kept.items()}


def _line(error: BaseException) -> str:
    return _shown(str(error)) or type(error).__name__


def _shown(text: str) -> str:
    """A text of others, as part of a line."""
    return " ".join(text.split())[:200]


READERS: dict[str, Callable[[Path], Contents]] = {
    ".mat": _mat,
    ".npz": _npz,
    ".csv": _text,
    ".dat": _text,
    ".txt": _text,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}
