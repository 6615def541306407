"""The result file: one HDF5 file a run, replaced whole at every write, so that a reader always finds a good one.

Before the HDF5 there are 512 bytes, a user block, with a checksum of the rest: see `kanpde.records.seal`.

attrs     schema_version status config seed problem dim backbone parameters device torch_version started finished ...
          id, which the checkpoint has too; sessions, retreats, slabs: JSON lists of mappings
history/  a row per evaluation: step loss rel_l2 rel_l1 rmse linf wall_s steps_per_s peak_memory_bytes
          saved_memory_bytes lr validation (the weighted loss at held-out points), terms/<name> of the step's points,
          held_out/<name> of the held-out points, weights/<name>; slab, of those of time that a row is of
floors/   errors of functions that learn nothing, on the same test points
field/    x u u_exact error at the test points (x only while N d <= 2^25)
slices/<name>/  origin (d,) axes (k, d) grid (n,) or (k, n) u u_exact error (n, ..., n), NaN outside the domain, which
                inside (n, ..., n) tells; label, and axis_labels of coordinates
meshes/<name>/  the domain's own shape (domain), what of a slice lies in it, or its boundary (surface): points
                (V, k), which stand for origin (d,) + points axes (k, d); cells, triangles (C, 3) or tetrahedra (C, 4)
                by the numbers of their corners; u u_exact error (V,), or with times (m,) of these (m, V), in the place
                of the last coordinate of origin, time_label; label, axis_labels
times/          of a problem with time where a solution is known: t, rel_l2 and fields/<name>/rel_l2 at each time of the
                test points, or in intervals of as many points each, of which t is the mean
points_of_interest/  name field x (points, d) u published difference; NaN where nothing is published
residuals/      name rms largest of what is left of each equation and of each condition that is a term, in the units
                they are written in, at the held-out points; asked, the root mean square of the values that a condition
                asks for; noise of observations; rms_start largest_start of the network as it was drawn
verification/   how wrong u is by an estimate that knows no solution: attributes rel_l2 low high confidence seconds
          method seed law step, and at its points x u defect = u - u* standard_error count (of samples)

Of a system the attribute fields has their names, u,v,p, and what is above of u is there of each: beside the errors of
all together history/fields/v/rel_l2, floors/v/..., and instead of u, u_exact, error the arrays v, v_exact, v_error.
"""

import copy
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import h5py
import numpy as np
import yaml

from kanpde.records.lock import Lock
from kanpde.records.seal import SEAL, sealed, sound

SCHEMA_VERSION = 1
TABLES = ("times", "points_of_interest", "residuals")  # groups of columns


class RunFileError(ValueError):
    """A result file that is missing, broken, or of another kind; the message is one line.

    Example:
        >>> RunFile.open("nowhere.h5")
        Traceback (most recent call last):
            ...
        kanpde.records.run.RunFileError: nowhere.h5: no such file
    """


class RunFile:
    """The contents of a result file: being written by training, or opened with `open`.

    Attributes:
        path: the file; its checkpoint lies beside it with the suffix .pt.
        attrs: attributes by name.
        history: a list or array per column, `terms/<name>` included.
        floors: relative l2 errors of the reference functions by name.

    Example:
        >>> from kanpde import train
        >>> from kanpde.problems import Poisson
        >>> small = {"solver": "adam", "points": {"test": 100}, "slices": {"points": 5, "volume": 5}}
        >>> run = train(Poisson(3), backbone="mlp", steps=1, out=getfixture("tmp_path") / "run.h5", **small)
        >>> RunFile.open(run.path).attrs["status"]
        'finished'
    """

    def __init__(self, path: str | Path):
        self.path = Path(os.path.expanduser(path))
        self.attrs: dict = {}
        self.history: dict[str, list | np.ndarray] = {}
        self.floors: dict[str, float] = {}
        self._field: dict[str, np.ndarray] | None = {}
        self._slices: dict[str, dict[str, np.ndarray]] | None = {}
        self._meshes: dict[str, dict[str, np.ndarray]] | None = {}
        self._verification: dict | None = {}
        self._tables: dict[str, dict] = {name: {} for name in TABLES}
        self.lock: Lock | None = None  # held by who trains it

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a result file.

        Raises:
            RunFileError: there is no such file, or it is not a kanpde result.
        """
        run = cls(path)
        with _reading(run.path) as file:
            if empty := [name for name, value in file.attrs.items() if isinstance(value, h5py.Empty)]:
                raise ValueError(f"nothing in {empty[0]}")
            run.attrs = {k: v.item() if isinstance(v, np.generic) else v for k, v in file.attrs.items()}
            run.history = _columns(file["history"])
            run.floors = {name: float(value) for name, value in _columns(file.get("floors", {})).items()}
        run._field = run._slices = run._meshes = run._verification = None  # read when asked for
        run._tables = {}
        return run

    @property
    def config(self) -> dict:
        """The resolved configuration.

        Raises:
            RunFileError: the file has none.
        """
        try:
            tree = yaml.safe_load(self.attrs.get("config", ""))
        except (yaml.YAMLError, AttributeError):
            tree = None
        if not isinstance(tree, dict):
            raise RunFileError(f"{self.path}: a damaged kanpde result (no configuration)")
        return tree

    @property
    def checkpoint(self) -> Path:
        return self.path.with_suffix(".pt")

    @property
    def rel_l2(self) -> float:
        """Relative l2 error of the best weights, at the end on all test points; NaN where no solution is known."""
        if "rel_l2_best" in self.attrs:
            return float(self.attrs["rel_l2_best"])
        errors = dict(zip(self.history.get("step", ()), self.history.get("rel_l2", ()), strict=True))
        return float(errors.get(self.attrs.get("best_step"), list(errors.values())[-1] if errors else float("nan")))

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of what was solved for."""
        return tuple(str(self.attrs.get("fields", "u")).split(","))

    def views(self) -> dict[str, Self]:
        """The file as that of each of its fields alone: its errors, floors and arrays under the names of a u."""
        return {name: self._view(name) for name in self.fields} if len(self.fields) > 1 else {"u": self}

    def _view(self, name: str) -> Self:
        view, prefix = copy.copy(self), f"fields/{name}/"
        own = {key.removeprefix(prefix): column for key, column in self.history.items() if key.startswith(prefix)}
        view.history = {key: column for key, column in self.history.items() if not key.startswith("fields/")} | own
        view.floors = {key.removeprefix(f"{name}/"): f for key, f in self.floors.items() if key.startswith(f"{name}/")}
        view.attrs = {**self.attrs, "fields": "u", "field": name}
        if f"rel_l2_best/{name}" in self.attrs:
            view.attrs["rel_l2_best"] = self.attrs[f"rel_l2_best/{name}"]
        named = {name: "u", f"{name}_exact": "u_exact", f"{name}_error": "error"}
        others = {f"{field}{end}" for field in self.fields for end in ("", "_exact", "_error")}
        renamed = lambda data: {named.get(k, k): v for k, v in data.items() if k in named or k not in others}
        view._field = renamed(self.field)
        view._slices = {key: renamed(data) for key, data in self.slices.items()}
        view._meshes = {key: renamed(data) for key, data in self.meshes.items()}
        return view

    @property
    def dimension(self) -> str:
        """d of space, and whether there is time beside it."""
        return f"{self.attrs['dim']} + time" if self.attrs.get("time") else str(self.attrs["dim"])

    @property
    def field(self) -> dict[str, np.ndarray]:
        """Test points x (N, d) where kept, u, u_exact, error = |u - u_exact|, and the radius |x|: each (N,)."""
        if self._field is None:
            with _reading(self.path) as file:
                self._field = {name: data[()] for name, data in file.get("field", {}).items()}
        return self._field

    @property
    def slices(self) -> dict[str, dict[str, np.ndarray]]:
        """The slices by name: origin, axes, grid (positions along each axis), u, u_exact, error."""
        if self._slices is None:
            self._slices = self._groups("slices")
        return self._slices

    @property
    def meshes(self) -> dict[str, dict[str, np.ndarray]]:
        """The meshes by name: origin, axes, points, cells, times, u, u_exact, error; older files have none."""
        if self._meshes is None:
            self._meshes = self._groups("meshes")
        return self._meshes

    def _groups(self, kind: str) -> dict[str, dict[str, np.ndarray]]:
        with _reading(self.path) as file:
            groups = file.get(kind, {}).items()
            return {name: {k: data[()] for k, data in group.items()} for name, group in groups}

    @property
    def verification(self) -> dict:
        """The group `verification`: how wrong u is by an estimate that knows no solution; {}: there is none."""
        if self._verification is None:
            with _reading(self.path) as file:
                group = file.get("verification")
                of = lambda value: value.item() if isinstance(value, np.generic) else value
                attrs = {} if group is None else {name: of(value) for name, value in group.attrs.items()}
                self._verification = attrs | (_columns(group) if group is not None else {})
        return self._verification

    def table(self, name: str) -> dict:
        """The columns of a group of `TABLES`, arrays or lists of texts; {}: there is none."""
        if name not in self._tables:
            with _reading(self.path) as file:
                columns = _columns(file.get(name, {}))
            self._tables[name] = {key: _texts(column) for key, column in columns.items()}
        return self._tables[name]

    def set_table(self, name: str, columns: Mapping) -> None:
        """Arrays, or lists of texts."""
        self._tables[name] = dict(columns)

    def set_verification(self, found: Mapping) -> None:
        """Arrays become datasets, all else attributes."""
        self._verification = dict(found)

    def set_field(self, field: dict[str, np.ndarray]) -> None:
        self._field = field

    def set_slices(self, slices: dict[str, dict]) -> None:
        self._slices = slices

    def set_meshes(self, meshes: dict[str, dict]) -> None:
        self._meshes = meshes

    def log(self, row: Mapping[str, float]) -> None:
        """Append a row to the history; a column that is new is NaN before."""
        rows = len(next(iter(self.history.values()), ()))
        for name in dict.fromkeys([*self.history, *row]):  # in one order in every process
            self.history.setdefault(name, [float("nan")] * rows).append(float(row.get(name, float("nan"))))

    def save(self) -> None:
        """Write the whole file beside its place, then move it there.

        Raises:
            OSError: it could not be written; the former file is intact.
        """
        with replacing(self.path) as temporary:
            image = io.BytesIO()  # h5py prints pages where its own writing to a full disk fails
            self._write(image)
            sealed(image.getbuffer())
            temporary.write_bytes(image.getbuffer())

    def _write(self, image: io.BytesIO) -> None:
        with h5py.File(image, "w", userblock_size=SEAL) as file:
            file.attrs.update({"schema_version": SCHEMA_VERSION, **self.attrs})
            file.create_group("history")
            for name, column in self.history.items():
                file[f"history/{name}"] = np.asarray(column, dtype=np.float64)
            for name, value in self.floors.items():
                file[f"floors/{name}"] = value
            for name, data in self.field.items():
                file[f"field/{name}"] = data
            for name, data in self.slices.items():
                for key, array in data.items():
                    file[f"slices/{name}/{key}"] = array
            for table in TABLES:
                for name, column in self.table(table).items():
                    file[f"{table}/{name}"] = column
            for name, data in self.meshes.items():
                for key, array in data.items():  # numbers of corners are half of it, and alike
                    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if key == "cells" else {}
                    file.create_dataset(f"meshes/{name}/{key}", data=array, **packed)
            for name, value in self.verification.items():
                group = file.require_group("verification")
                if isinstance(value, np.ndarray):
                    group[name] = value
                else:
                    group.attrs[name] = value


class replacing:
    """Context of a temporary path that takes the place of `path` if the block succeeds, and is removed if not.

    What takes the place is on the disk by then: after a loss of power there is the old file or the new one, whole.

    Example:
        >>> path = getfixture("tmp_path") / "table.csv"
        >>> with replacing(path) as temporary:
        ...     _ = temporary.write_text("x,y")
        >>> path.read_text()
        'x,y'
    """

    def __init__(self, path: Path):
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind, value, traceback) -> None:
        if kind is None:
            with self.temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self.temporary, self.path)
        else:
            self.temporary.unlink(missing_ok=True)


def _columns(group) -> dict[str, np.ndarray]:
    """The arrays of a group and of those within it, by their paths."""
    columns: dict[str, np.ndarray] = {}
    if not len(group):
        return columns
    group.visititems(lambda name, data: columns.update({name: data[()]}) if isinstance(data, h5py.Dataset) else None)
    return columns


def _texts(column: np.ndarray) -> np.ndarray | list[str]:
    return [text.decode() for text in column] if column.dtype == object else column


class _reading:
    """Context of an open result file; what h5py says of a broken one becomes one line."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> h5py.File:
        if not os.path.isfile(self.path):
            raise RunFileError(f"{self.path}: no such file")
        if not sound(self.path):
            raise RunFileError(f"{self.path}: a damaged file, which the HDF5 library cannot be trusted with")
        try:
            self.file = h5py.File(self.path, "r")
        except OSError:
            raise RunFileError(f"{self.path}: not a readable HDF5 file") from None
        try:
            version, has_history = self.file.attrs.get("schema_version"), "history" in self.file
        except (OSError, KeyError, RuntimeError, ValueError):
            version, has_history = None, False
        if not isinstance(version, int | np.integer) or not has_history:
            self.file.close()
            raise RunFileError(f"{self.path}: an HDF5 file, but not a kanpde result")
        if version > SCHEMA_VERSION:
            self.file.close()
            raise RunFileError(
                f"{self.path}: written by a newer kanpde (schema {version}, this one reads {SCHEMA_VERSION})"
            )
        return self.file

    def __exit__(self, kind, value, traceback) -> None:
        self.file.close()
        if kind in (OSError, KeyError, RuntimeError, AttributeError, TypeError, ValueError, UnicodeDecodeError):
            raise RunFileError(f"{self.path}: a damaged kanpde result ({value})") from None
