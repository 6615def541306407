"""Fitting a user's table: rows of a CSV or NPZ file, split into training, validation and test rows."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field as Limits
from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems.fitting import Fitting, Units, of_size, set_dim, set_once
from kanpde.records import columns

Share = Annotated[float, Limits(ge=0, lt=1)]


@dataclass(frozen=True, eq=False)
class Rows:
    """Training, validation and test rows (n, d + 1) of a table."""

    parts: dict[str, Tensor]
    laws = ("rows",)

    @property
    def dim(self) -> int:
        return self.parts["interior"].shape[1] - 1

    @property
    def counts(self) -> dict[str, int]:
        """How many rows of each kind there are."""
        return {name: len(rows) for name, rows in self.parts.items()}

    def interior(self, n: int, generator: torch.Generator, law="rows", sequence="random", dtype=None) -> Tensor:
        """n training rows, a random choice; all of them, in their order, where there are no more."""
        rows = self.parts["interior"].to(generator.device, dtype or torch.get_default_dtype())
        if n >= len(rows):
            return rows
        return rows[torch.randperm(len(rows), generator=generator, device=rows.device)[:n]]

    def held_out(self, name: str, number: int, n: int, generator: torch.Generator, law: str = "rows") -> Tensor:
        """The rows number n to number n + n of the validation or test rows."""
        return self.parts[name][number * n : (number + 1) * n]

    @cached_property
    def units(self) -> Units:
        return Units.of(self.parts["interior"])

    @cached_property
    def sha256(self) -> str:
        """Of the rows and their split."""
        digest = hashlib.sha256()
        for rows in self.parts.values():
            digest.update(rows.contiguous().numpy())
        return digest.hexdigest()


@dataclass(frozen=True)
class Data(Fitting):
    """One column of a table as a function of others.

    Args:
        file: CSV with names in the first line, or NPZ (`kanpde.records.columns`).
        inputs: names of columns; default all but the output.
        output: name of a column; default the last.
        test: share of the rows to test on, or a file of test rows. A share of less than two rows is none.
        validation: share of the rows that choose the best weights.
        seed: of the split.
        missing: what to do with rows in which a number is missing: refuse, or drop them.
        folds, fold: of k folds of the rows, the one that is tested on, instead of a share.

    Rows with the same inputs stay together in one part, whatever their observations.

    Without validation rows the training rows choose the best weights; without test rows the error is theirs.

    Raises:
        ConfigError: a file that cannot be read, a column that is not there, too few rows.

    Example:
        >>> import numpy as np
        >>> file = getfixture("tmp_path") / "table.npz"
        >>> np.savez(file, x=np.arange(100.0), y=2 * np.arange(100.0))
        >>> Data(file=str(file), output="y").dim
        1
    """

    dim: int | None = None
    file: str = "data.csv"
    inputs: tuple[str, ...] | None = None
    output: str | None = None
    test: Share | str = 0.2
    validation: Share = 0.1
    seed: int = 0
    missing: Literal["refuse", "drop"] = "refuse"
    folds: Annotated[int, Limits(ge=2)] | None = None
    fold: Annotated[int, Limits(ge=0)] = 0

    def __post_init__(self):
        if self.inputs is None or self.output is None:
            names = columns.names(self.file)
            set_once(self, "output", self.output or names[-1])
            set_once(self, "inputs", self.inputs or tuple(name for name in names if name != self.output))
        if not self.inputs or self.output in self.inputs:
            raise ConfigError(
                f"problem.inputs: given {', '.join(self.inputs) or 'none'}; needed are columns but {self.output}"
            )
        if not all(self.inputs):
            raise ConfigError(f"problem.inputs: a column of {self.file} has no name; name it, or say which are inputs")
        if len(set(self.inputs)) < len(self.inputs):
            raise ConfigError(f"problem.inputs: given {', '.join(self.inputs)}; a column can be an input once")
        if self.folds is not None and self.fold >= self.folds:
            raise ConfigError(f"problem.fold: given {self.fold}, needed is 0 to {self.folds - 1}")
        if self.folds is not None and isinstance(self.test, str):
            raise ConfigError(f"problem.test: given {self.test}, but the rows of a fold are those that are tested on")
        set_dim(self, len(self.inputs))

    def settings(self) -> dict:
        """What a result file needs to say to make the problem again without the table."""
        return {"inputs": list(self.inputs), "output": self.output}

    @property
    def names(self) -> Sequence[str]:
        return self.inputs

    @property
    def title(self) -> str:
        return f"{self.output} of {', '.join(self.inputs[:6])}{', ...' * (self.dim > 6)} in {Path(self.file).name}"

    @cached_property
    def domain(self) -> Rows:
        rows = self._rows(self.file)
        rows = rows[torch.randperm(len(rows), generator=stream(self.seed, "split"))]
        group = groups(rows)
        self._say_repeated(group)
        tested = self._tested(group)
        test, rest = rows[tested], ~tested
        if isinstance(self.test, str):
            test = self._test_rows(rows)
        validated = rest & _share(group, rest, self.validation)
        interior, validation = rows[rest & ~validated], rows[validated]
        if len(interior) < 2:
            raise ConfigError(f"problem.file: {self.file} leaves {len(interior)} rows to train on, needed are 2")
        parts = {"interior": interior, "validation": validation, "test": test}
        return Rows({name: part if len(part) else interior for name, part in parts.items()})

    def _tested(self, group: Tensor) -> Tensor:
        """Which rows are tested on (N,)."""
        if self.folds is not None:
            return self._enough(group % self.folds == self.fold, f"fold {self.fold} of {self.folds}")
        share = 0.0 if isinstance(self.test, str) else self.test
        return _share(group, torch.ones_like(group, dtype=torch.bool), share)

    def _test_rows(self, rows: Tensor) -> Tensor:
        """Those of the test file, of which some may have inputs of the other rows."""
        test = self._rows(self.test)
        self._enough(torch.ones(len(test), dtype=torch.bool), f"file {self.test}")
        group = groups(torch.cat([rows, test]))
        if seen := int(torch.isin(group[len(rows) :], group[: len(rows)]).sum()):
            warnings.warn(
                f"{self.test}: {seen:,} of {len(test):,} test rows have the inputs of training rows", stacklevel=2
            )
        return test

    def _enough(self, tested: Tensor, where: str) -> Tensor:
        if tested.sum() < 2:
            raise ConfigError(f"problem: {where} has {tested.sum()} rows to test on, needed are 2")
        return tested

    def _say_repeated(self, group: Tensor) -> None:
        sizes = group.bincount()
        if repeated := sizes[sizes > 1].tolist():
            warnings.warn(
                f"{self.file}: {sum(repeated):,} of {len(group):,} rows have the inputs of another row; each of these "
                f"{len(repeated):,} groups stays together in training, validation or test",
                stacklevel=2,
            )

    @property
    def row_counts(self) -> dict[str, int]:
        return self.domain.counts

    @property
    def rows_sha256(self) -> str:
        return self.domain.sha256

    def _rows(self, file: str) -> Tensor:
        """(N, d + 1): the inputs and the output of the rows of a file."""
        read = columns.read(file, [*self.inputs, self.output])
        rows = torch.stack([torch.from_numpy(column) for column in read.values()], 1)
        whole = rows.isfinite().all(1)
        if not whole.all() and self.missing == "refuse":
            bad = int((~whole).sum())
            raise ConfigError(
                f"{file}: {bad:,} of {len(rows):,} rows lack a number; problem.missing: drop leaves them out"
            )
        return of_size(rows[whole])


def groups(rows: Tensor) -> Tensor:
    """The number (N,) of the group of each row (N, d + 1): those with its inputs. They are counted as they come."""
    inputs, numbers = (rows[:, :-1] + 0.0).numpy(), {}  # -0 is 0
    return torch.tensor([numbers.setdefault(row.tobytes(), len(numbers)) for row in inputs], dtype=torch.long)


def _share(group: Tensor, among: Tensor, share: float) -> Tensor:
    """Which rows (N,) make such a share of those `among` all: the first groups, as near to it as whole groups come.

    A share of less than two rows is none, and two rows are left.
    """
    n, left = round(share * int(among.sum())), int(among.sum()) - 2
    chosen, taken = [], 0
    for number, size in enumerate(group[among].bincount().tolist() if n > 1 else ()):
        if taken >= n:
            break
        if size and taken + size / 2 <= n and (size == 1 or taken + size <= left):  # nearer to n than without
            chosen.append(number)
            taken += size
    if n > 1 and not chosen:
        warnings.warn(f"a share of {share:g} of the rows holds no group of equal inputs: there is none", stacklevel=2)
    return among & torch.isin(group, torch.tensor(chosen, dtype=group.dtype))
