"""Tables of numbers: named columns read from a CSV or NPZ file, and written to CSV."""

import csv
import difflib
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kanpde.ground.errors import ConfigError

Columns = dict[str, np.ndarray]
UNREADABLE = (  # what NumPy and zipfile say of an NPZ file that is none
    OSError,
    ValueError,
    TypeError,
    EOFError,
    AttributeError,
    RuntimeError,
    MemoryError,
    KeyError,
    zipfile.BadZipFile,
    zlib.error,
)
MISSING = ("", "na", "n/a", "null")  # cells without a number, in any case; nan is a number to Python


def read(path: str | Path, wanted: Sequence[str] | None = None) -> Columns:
    """The columns of a file by name, each (N,) float64; of `wanted` names only, in that order, if given.

    A CSV file has names in its first line; cells that are empty, NA, N/A or null are NaN. An NPZ file has an array
    (N,) per column; one of shape (N, d) named x holds the columns x1 ... xd.

    Raises:
        ConfigError: no such file, another kind of file, a missing column, or a cell that is no number.
    """
    path = Path(path)
    if _kind(path) == ".npz":
        columns = _read_npz(path)
        _check(path, wanted or (), list(columns))
        return {name: columns[name] for name in wanted or columns}
    header, lines = _read_csv(path)
    _check(path, wanted or (), header)
    return {name: _numbers(path, name, header.index(name), lines) for name in wanted or header}


def names(path: str | Path) -> list[str]:
    """The names of the columns of a file."""
    path = Path(path)
    return list(_read_npz(path)) if _kind(path) == ".npz" else _read_csv(path)[0]


def blocks(path: str | Path, rows: int) -> Iterator[Columns]:
    """All columns of a CSV file, so many rows at a time: no more of it is in memory.

    Raises:
        ConfigError: as of `read`.
    """
    path = Path(path)
    with _reading(path) as reader:
        lines = ((reader.line_num, [cell.strip() for cell in line]) for line in reader if any(map(str.strip, line)))
        _, header = next(lines, (0, None))
        if header is None:
            raise ConfigError(f"{path}: the file is empty")
        _check_header(path, header)
        found = list(islice(lines, rows))
        if not found:
            raise ConfigError(f"{path}: there are no rows below the names of the columns")
        while found:
            _check_cells(path, header, found)
            yield {name: _numbers(path, name, i, found) for i, name in enumerate(header)}
            found = list(islice(lines, rows))


def as_written(path: str | Path) -> Columns:
    """All columns of a file as they are: of a CSV the text of the cells, be they numbers or not."""
    path = Path(path)
    if _kind(path) == ".npz":
        return _read_npz(path)
    header, lines = _read_csv(path)
    return {name: np.array([cells[i] for _, cells in lines], dtype=object) for i, name in enumerate(header)}


def write(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """A CSV file of the columns, numbers with all their digits."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def _kind(path: Path) -> str:
    """.csv or .npz."""
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: no such file")
    if path.suffix.lower() not in (".csv", ".npz"):
        raise ConfigError(f"{path}: needed is a file ending in .csv or .npz")
    return path.suffix.lower()


def _check(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    for name in wanted:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = f"{', '.join(there[:12])}{', ...' * (len(there) > 12)}"
            raise ConfigError(f"{path}: no column {name!r}{hint} (columns: {known})")


# ---------------------------------------------------------------------------------------------------------------
# CSV

Line = tuple[int, list[str]]  # its number in the file, and its cells


def _read_csv(path: Path) -> tuple[list[str], list[Line]]:
    """The names in the first line, and the lines below it that are not empty."""
    with _reading(path) as reader:
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader if any(map(str.strip, line))]
    if not lines:
        raise ConfigError(f"{path}: the file is empty")
    (_, header), *rows = lines
    _check_header(path, header)
    if not rows:
        raise ConfigError(f"{path}: there are no rows below the names of the columns")
    _check_cells(path, header, rows)
    return header, rows


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """A csv.reader of a file; what it cannot read becomes one line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield csv.reader(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: cannot be read as CSV: {error}") from None


def _check_cells(path: Path, header: list[str], rows: list[Line]) -> None:
    for number, cells in rows:
        if len(cells) != len(header):
            raise ConfigError(f"{path}: line {number} has {len(cells)} cells, the first line names {len(header)}")


def _check_header(path: Path, header: list[str]) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise ConfigError(f"{path}: two columns are named {twice[0]!r}")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise ConfigError(f"{path}: cells are separated by commas, the first line is {header[0]!r}")
    if all(map(_is_number, header)):
        raise ConfigError(f"{path}: the first line has the names of the columns, given are numbers: {header[0]}, ...")


def _numbers(path: Path, name: str, column: int, lines: list[Line]) -> np.ndarray:
    """The cells of a column as float64, NaN where there is none."""
    try:
        return np.array([_number(cells[column]) for _, cells in lines])
    except ValueError:
        number, cell = next((n, cells[column]) for n, cells in lines if not _is_number(cells[column]))
        raise ConfigError(f"{path}: line {number}, column {name}: {cell!r} is no number") from None


def _number(cell: str) -> float:
    return float("nan") if cell.lower() in MISSING else float(cell)


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------
# NPZ


def _read_npz(path: Path) -> Columns:
    columns: Columns = {}
    for name, array in _arrays(path).items():
        parts = {f"{name}{i + 1}": part for i, part in enumerate(array.T)} if array.ndim == 2 else {name: array}
        if twice := parts.keys() & columns.keys():
            raise ConfigError(f"{path}: two columns are named {min(twice)!r}")
        columns |= parts
    if not columns:
        raise ConfigError(f"{path}: the file is empty")
    shapes = {np.shape(column) for column in columns.values()}
    if len(shapes) != 1 or len(min(shapes)) != 1:
        given = ", ".join(f"{name} {array.shape}" for name, array in columns.items())
        raise ConfigError(f"{path}: needed is one number per row in each array, given are {given}")
    if shapes == {(0,)}:
        raise ConfigError(f"{path}: there are no rows")
    return columns


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the file, float64."""
    name, found = "", {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                found[name] = file[name].astype(np.float64, casting="same_kind")  # no text, no complex numbers
    except UNREADABLE as error:
        where, said = f", array {name}" if name else "", str(error).splitlines() or [type(error).__name__]
        raise ConfigError(f"{path}: cannot be read as NPZ{where}: {said[0]}") from None
    return found
