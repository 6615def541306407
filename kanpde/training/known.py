"""What a reference says of the solution: the points that errors are measured at, and values between its points."""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanpde.domains.base import frame_of, is_framed, time_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems.references import Reference, Rows, names_of
from kanpde.training.cuts import inside

PART = 2**18  # points that are looked at at a time
SHOWN = 2**15  # points that values between them are made of, where they are no grid
GRID = 2**20  # points of a grid that are kept for that
CUBIC = 2**18  # up to which values between them are cubic
DRAWN = 2**20  # keys at a time


@dataclass(frozen=True, eq=False)
class Known:
    """Points of a reference, chosen by a seed, and the values there, in float64.

    Attributes:
        x, u: (n, d) and (n,), of several fields (n, K) with NaN for those that are not known.
        says: what it is, in a line.
        between: made when it is asked for, points (N, d) to values (N, K); None: there is none.
    """

    x: Tensor
    u: Tensor
    says: str
    make: Callable[[], "Callable[[np.ndarray], np.ndarray] | None"]

    @classmethod
    def of(cls, reference: Reference, problem: Any, n: int, seed: int) -> "Known":
        """At most n of its points inside the domain, each as likely as any other.

        Raises:
            ConfigError: as of `Reference.open`, or most of its points lie outside of the domain.
        """
        rows = reference.open(problem)
        chosen = Chosen(problem, [place is not None for place in rows.values], max(n, SHOWN))
        for keys, x, u in _parts(rows, seed):
            chosen.add(keys, x, u)
            if rows.large and rows.stream is None and (chosen.enough or chosen.astray):
                break
        file = Path(reference.file).name
        chosen.check(file)
        keys, x, u = chosen.sorted()
        count = f"{rows.count:,} points" if rows.stream is None else f"{chosen.read:,} points"
        read = f", of which {chosen.read:,} are read" if chosen.read < rows.count else ", streamed" * rows.large
        at = f"all {len(keys):,}" if len(keys) <= n else f"{n:,}"
        says = f"{file}, {count}{read}; errors at {at}" + (f"; {', '.join(rows.said)}" if rows.said else "")
        found = [torch.from_numpy(np.ascontiguousarray(a[:n])) for a in (x, u)]
        whole = not rows.large and rows.count <= GRID
        return cls(
            found[0],
            found[1].squeeze(1) if len(problem.fields) == 1 else found[1],
            says,
            lambda: between(*(rows.at(np.arange(rows.count)) if whole else (x, u)), x, u),
        )

    def since(self, start: float, time: float) -> "Known | None":
        """Its points from a time on, for so long, in the time since then; None: there are none."""
        t = self.x[:, -1] - start
        rows = (t >= 0 if start == 0 else t > 0) & (t <= time)
        if not rows.any():
            return None
        move = lambda x, by: np.concatenate([x[:, :-1], x[:, -1:] + by], 1)
        between = self._function
        make = lambda: None if between is None else lambda x: between(move(x, start))
        return Known(torch.cat([self.x[rows, :-1], t[rows, None]], 1), self.u[rows], self.says, make)

    @property
    def sha256(self) -> str:
        """A fingerprint of the points and values."""
        return hashlib.sha256(self.x.numpy().tobytes() + self.u.numpy().tobytes()).hexdigest()

    @cached_property
    def _function(self):
        return self.make()

    def at(self, x: Tensor) -> Tensor | None:
        """Values between its points, as u has them, NaN outside of them; None: they cannot be had."""
        if self._function is None:
            return None
        found = torch.from_numpy(self._function(x.detach().double().cpu().numpy())).to(x.device)
        return found.squeeze(1) if self.u.ndim == 1 else found


class Chosen:
    """The points of least keys among those inside the domain where nothing is missing, of all that are added.

    Attributes:
        read, lacking, outside: how many there have been, without a number, and outside of the domain.
    """

    def __init__(self, problem: Any, known: list[bool], most: int):
        self.problem, self.known, self.most = problem, known, most
        self.read = self.lacking = self.outside = 0
        d = problem.n_inputs
        self.low, self.high = np.full(d, np.inf), np.full(d, -np.inf)
        self.kept = np.empty(0), np.empty((0, d)), np.empty((0, len(known)))

    @property
    def enough(self) -> bool:
        return len(self.kept[0]) >= self.most

    @property
    def astray(self) -> bool:
        """Whether most points lie outside of the domain."""
        return 2 * self.outside > self.read - self.lacking

    def add(self, keys: np.ndarray, x: np.ndarray, u: np.ndarray) -> None:
        """Points (m, d) and values (m, K)."""
        whole = np.isfinite(x).all(1) & np.isfinite(u[:, self.known]).all(1)
        within = np.zeros_like(whole)
        if whole.any():
            self.low, self.high = np.minimum(self.low, x[whole].min(0)), np.maximum(self.high, x[whole].max(0))
            within[whole] = inside(self.problem.domain, torch.from_numpy(x[whole])).cpu().numpy()
        self.read += len(keys)
        self.lacking += int((~whole).sum())
        self.outside += int((whole & ~within).sum())
        joined = [np.concatenate([a, b[within]]) for a, b in zip(self.kept, (keys, x, u), strict=True)]
        least = np.argpartition(joined[0], self.most)[: self.most] if len(joined[0]) > self.most else slice(None)
        self.kept = tuple(a[least] for a in joined)

    def sorted(self) -> tuple[np.ndarray, ...]:
        """Keys, points and values in the order of the keys."""
        order = np.argsort(self.kept[0])
        return tuple(a[order] for a in self.kept)

    def check(self, file: str) -> None:
        """Raises ConfigError where little or nothing is left; a few that are left out are told of."""
        whole = self.read - self.lacking
        if not whole:
            raise ConfigError(f"reference {file}: all of its {self.read:,} points lack a number")
        off = f"{self.outside:,} of {whole:,} points lie outside of the domain: {self._ranges()}"
        if self.astray:
            raise ConfigError(
                f"reference {file}: {off}; units and shift of the reference make them those of the domain"
            )
        if self.lacking:
            said = f"{self.lacking:,} of {self.read:,} points lack a number and are left out"
            warnings.warn(f"reference {file}: {said}", stacklevel=2)
        if self.outside:
            warnings.warn(f"reference {file}: {off}; these are left out", stacklevel=2)

    def _ranges(self) -> str:
        """Where the points are along each coordinate, and where the domain is, of those that differ."""
        domain, names = self.problem.domain, names_of(self.problem)
        if not is_framed(domain):
            return ", ".join(f"{n} from {a:.4g} to {b:.4g}" for n, a, b in zip(names, self.low, self.high, strict=True))
        centre, reach = (t.numpy() for t in frame_of(domain))
        if (time := time_of(domain)) is not None:
            centre[-1] = reach[-1] = time / 2
        low, high = centre - reach, centre + reach
        slack = 1e-6 * reach
        beyond = (self.low < low - slack) | (self.high > high + slack)
        differ = np.flatnonzero(beyond) if beyond.any() else range(len(names))
        of = lambda i, low, high: f"{low[i]:.4g} to {high[i]:.4g}"
        each = [
            f"{names[i]} is {of(i, self.low, self.high)} in the file, {of(i, low, high)} in the domain" for i in differ
        ]
        return "; ".join(each[:3])


# ---------------------------------------------------------------------------------------------------------------
# Points in parts, each with a key that is drawn by the seed, in the order of the points


def _parts(rows: Rows, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    if rows.stream is not None:
        drawn = stream(seed, "reference")
        for block in rows.stream():
            yield _keys(block.count, drawn), *block.at(np.arange(block.count))
    elif rows.large:
        yield from _first(rows, seed)
    else:
        drawn = stream(seed, "reference")
        for start in range(0, rows.count, PART):
            numbers = np.arange(start, min(start + PART, rows.count))
            yield _keys(len(numbers), drawn), *rows.at(numbers)


def _keys(count: int, drawn: torch.Generator) -> np.ndarray:
    return torch.rand(count, generator=drawn, dtype=torch.float64).numpy()


def _first(rows: Rows, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Those of least keys first, twice as many each time."""
    done, most = 0, 2 * SHOWN
    while done < rows.count:
        drawn, keys, numbers = stream(seed, "reference"), np.empty(0), np.empty(0, dtype=np.int64)
        for start in range(0, rows.count, DRAWN):
            stop = min(start + DRAWN, rows.count)
            keys = np.concatenate([keys, _keys(stop - start, drawn)])
            numbers = np.concatenate([numbers, np.arange(start, stop)])
            if len(keys) > most:
                least = np.argpartition(keys, most)[:most]
                keys, numbers = keys[least], numbers[least]
        order = np.argsort(keys)[done:]
        yield keys[order], *rows.at(numbers[order])
        done, most = done + len(order), 2 * most


# ---------------------------------------------------------------------------------------------------------------
# Between the points


def between(x: np.ndarray, u: np.ndarray, some_x: np.ndarray, some_u: np.ndarray):
    """A function through the values at points: cubic, or of large grids linear, on a grid; else linear on triangles.

    Args:
        some_x, some_u: some of them, without what is missing, for the latter.
    """
    known = ~np.isnan(some_u).all(0)
    function = _through(x, u[:, known], some_x, some_u[:, known])
    if function is None:
        return None

    low, high = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
    rounding = np.finfo(np.float32).eps * np.maximum(np.abs(low), np.abs(high))

    def values(points: np.ndarray) -> np.ndarray:
        found = np.full((len(points), len(known)), np.nan)
        within = np.clip(points, low, high)  # pi / 2 in single precision lies beyond it
        found[:, known] = function(np.where(np.abs(points - within) <= rounding, within, points))
        return found

    return values


def _through(x: np.ndarray, u: np.ndarray, some_x: np.ndarray, some_u: np.ndarray):
    """The same of fields of which all is known."""
    from scipy.interpolate import LinearNDInterpolator, RegularGridInterpolator  # only now: importing it takes a while

    if (grid := _grid(x, u)) is not None:
        ticks, values = grid
        cubic = min(map(len, ticks)) >= 4 and len(x) <= CUBIC
        return RegularGridInterpolator(
            ticks, values, method="cubic" if cubic else "linear", bounds_error=False, fill_value=np.nan
        )
    if not 2 <= x.shape[1] <= 3 or len(some_x) <= x.shape[1]:
        return None
    try:
        return LinearNDInterpolator(some_x[:SHOWN], some_u[:SHOWN], rescale=True)
    except Exception:  # of points in a line or a plane
        return None


def _grid(x: np.ndarray, u: np.ndarray) -> tuple[list[np.ndarray], np.ndarray] | None:
    """Ticks (n_i,) of each coordinate and values (n_1, ..., n_d, K), where the points are all of such a grid."""
    if not (np.isfinite(x).all() and np.isfinite(u).all()):
        return None
    ticks, places = zip(*(np.unique(column, return_inverse=True) for column in x.T), strict=True)
    shape = tuple(map(len, ticks))
    if math.prod(shape) != len(x) or min(shape) < 2:
        return None
    number = np.ravel_multi_index(tuple(place.reshape(-1) for place in places), shape)
    if len(np.unique(number)) != len(x):
        return None
    values = np.empty_like(u)
    values[number] = u
    return list(ticks), values.reshape(*shape, -1)
