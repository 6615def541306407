"""A domain known by points of it."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_law, length
from kanpde.ground.errors import ConfigError, shown
from kanpde.ground.samplers import SEQUENCES, stream

REACH = 3.0  # median distances between neighbours, within which the domain is said to go on
NEIGHBOURS = 1000  # points over which the median is taken
AT_ONCE = 2**24  # distances

Rows = Any  # (n, d): an array, a tensor, or a .npy or .csv file


class PointCloud(Domain):
    """A domain that is known by points inside, and on its boundary where it has one, alone.

    Points are rows of these, as long as there are enough no row twice; so are those to test on. There is no factor:
    values on the boundary are left to the loss.

    Args:
        points: (n, d), inside: an array, a tensor, a .npy file, or a .csv file of numbers, with a first line of names
            or without.
        boundary: (m, d), on the boundary; None: it has none.
        normals: (m, d), outward at the points of the boundary, of any length; what Neumann and Robin conditions read.
        volume, area: the measures, where they are known.
    Raises:
        ConfigError: no such file, no table of finite numbers, or sizes that do not fit.

    Example:
        >>> cloud = PointCloud([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> cloud.dim, cloud.input_range("rows")
        (2, [(0.0, 1.0), (0.0, 1.0)])
    """

    laws = ("rows",)

    def __init__(
        self,
        points: Rows,
        boundary: Rows | None = None,
        normals: Rows | None = None,
        volume: float | None = None,
        area: float | None = None,
    ):
        self.points = _rows("points", points)
        self.dim = self.points.shape[1]
        self.edge = None if boundary is None else _rows("boundary", boundary, self.dim)
        self.normals = None if normals is None else _rows("normals", normals, self.dim)
        if self.edge is None:
            self.boundary = None
        if self.normals is not None and (self.edge is None or len(self.normals) != len(self.edge)):
            given, needed = len(self.normals), 0 if self.edge is None else len(self.edge)
            raise ConfigError(f"PointCloud: normals: given {given}, needed is one for each of {needed} boundary points")
        if self.normals is not None and not self.normals.norm(dim=1).all():
            raise ConfigError("PointCloud: normals: one of them is zero")
        self._volume, self._area = (
            None if size is None else length("PointCloud", name, size)
            for name, size in (("volume", volume), ("area", area))
        )
        self._all = self.points if self.edge is None else torch.cat([self.points, self.edge])
        if (flat := self._all.amin(0) == self._all.amax(0)).any():
            raise ConfigError(f"PointCloud: points: all have the same coordinate {flat.long().argmax().item()}")
        self.reach = REACH * self._spacing()

    def _spacing(self) -> float:
        """The median distance from a point to its nearest other one."""
        some = torch.randperm(len(self._all), generator=stream(0, "spacing"))[:NEIGHBOURS]
        return _nearest(self._all[some], self._all, some)[0].median().item()

    def interior(
        self, n: int, generator: torch.Generator, law: str = "rows", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n of the points; the sequence says nothing of them."""
        check_law(law, self.laws)
        return _drawn(self.points, n, generator, sequence, **kind)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n of the points of the boundary."""
        return _drawn(self.edge, n, generator, sequence, **kind)

    def contains(self, x: Tensor) -> Tensor:
        """Whether a point is as near as three times the median distance between neighbours to one of those given."""
        return _nearest(x, self._all)[0] <= self.reach

    def factor(self, x: Tensor) -> None:
        """None: where the boundary is between its points is not known."""

    def normal(self, x: Tensor) -> Tensor:
        """That of the nearest point of the boundary.

        Raises:
            ConfigError: none are given.
        """
        if self.normals is None:
            raise ConfigError("PointCloud: normals: none are given, and a condition reads them")
        nearest = _nearest(x, self.edge)[1]
        return torch.nn.functional.normalize(self.normals.to(x)[nearest])

    @property
    def volume(self) -> float:
        """As it was given."""
        return super().volume if self._volume is None else self._volume

    @property
    def area(self) -> float:
        """As it was given."""
        return super().area if self._area is None else self._area

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return list(zip(self._all.amin(0).tolist(), self._all.amax(0).tolist(), strict=True))

    def frame(self) -> tuple[list[float], list[float]]:
        """Centre and half-widths of the box around all points."""
        sides = self.input_range("rows")
        return [(low + high) / 2 for low, high in sides], [(high - low) / 2 for low, high in sides]


def _rows(name: str, given: Rows, dim: int | None = None) -> Tensor:
    """A table (n, d) of finite numbers, in float64."""
    if isinstance(given, str | PathLike):
        given = _of_file(name, given)
    try:
        found = torch.as_tensor(given).detach().cpu().to(torch.float64, copy=True)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"PointCloud: {name}: given {shown(given, 40)}, needed are numbers (n, d)") from None
    if found.ndim != 2 or not found.numel() or found.shape[1] != (dim or found.shape[1]):
        raise ConfigError(f"PointCloud: {name}: given {tuple(found.shape)}, needed are numbers (n, {dim or 'd'})")
    if not (finite := found.isfinite().all(1)).all():
        raise ConfigError(f"PointCloud: {name}: row {finite.long().argmin().item()} is not finite")
    return found


def _of_file(name: str, file: str | PathLike) -> np.ndarray:
    path = Path(file).expanduser()
    if not path.is_file() or path.suffix not in (".npy", ".csv"):
        problem = "no such file" if path.suffix in (".npy", ".csv") else "needed is a .npy or a .csv file"
        raise ConfigError(f"PointCloud: {name}: given {str(file)!r}: {problem}")
    try:
        rows = np.load(path) if path.suffix == ".npy" else np.genfromtxt(path, delimiter=",", ndmin=2)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"PointCloud: {name}: {file} cannot be read ({reason:.100})") from None
    if path.suffix == ".npy" or not len(rows):
        return rows
    return rows[1:] if np.isnan(rows[0]).all() else rows


def _drawn(rows: Tensor, n: int, generator: torch.Generator, sequence: str, dtype: torch.dtype | None = None) -> Tensor:
    """n rows, none twice where there are as many."""
    if sequence not in SEQUENCES:
        raise ConfigError(f"sequence {sequence!r} is not one of {', '.join(SEQUENCES)}")
    options = {"generator": generator, "device": generator.device}
    if n <= len(rows):
        which = torch.randperm(len(rows), **options)[:n]
    else:
        which = torch.randint(len(rows), (n,), **options)
    return rows[which.to(rows.device)].to(generator.device, dtype or torch.get_default_dtype())


def _nearest(x: Tensor, rows: Tensor, but: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The distances (N,) from points to the nearest rows, and the numbers of these.

    but: of each point the row that does not count.
    """
    distances, numbers = [x.new_empty(0, dtype=torch.float64)], [x.new_empty(0, dtype=torch.long)]
    rows, step = rows.to(x.device), max(1, AT_ONCE // len(rows))
    for begin in range(0, len(x), step):
        each = torch.cdist(x[begin : begin + step].double(), rows, compute_mode="donot_use_mm_for_euclid_dist")
        if but is not None:
            each.scatter_(1, but[begin : begin + step, None], torch.inf)
        found = each.min(1)
        distances.append(found.values)
        numbers.append(found.indices)
    return torch.cat(distances), torch.cat(numbers)
