"""A trained model at the rows of a new table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.records import columns
from kanpde.runs.models import Run
from kanpde.runs.stored import config_of
from kanpde.training.cuts import coordinate_names, inside

BATCH = 4096  # rows at a time


def predict(run: Run, path: str | Path, trust: bool = False) -> tuple[columns.Columns, float]:
    """The columns of a file as they are, with the model's u beside them, and the share of rows that it does not know.

    Args:
        run: a finished one; its best weights count.
        path: CSV or NPZ (`kanpde.records.columns`) with the columns that the run's problem names: those of its table or
            formula, else x1 ... xd, and of a problem with time t (or x{d + 1}) at last.
        trust: see `Run.load_model`.
    Raises:
        ConfigError: a column is missing, or a number in it.
    """
    u = run.load_model(trust=trust)
    table, x = rows_for(u, path)
    with torch.no_grad():
        found = torch.cat([u(part.to(u.like)) for part in x.split(BATCH)]).double()
    if found.ndim == 1:
        return {**table, output_name(run, table): found.numpy()}, off_range(u, x)
    names = [f"{name}_predicted" if name in table else name for name in run.fields]
    return {**table, **dict(zip(names, found.numpy().T, strict=True))}, off_range(u, x)


def rows_for(u: Ansatz, path: str | Path) -> tuple[columns.Columns, torch.Tensor]:
    """The columns of a file as they are, and of its rows the inputs (N, d) of u.

    Raises:
        ConfigError: a column is missing, or a number in it.
    """
    table = columns.as_written(path)
    inputs = columns.read(path, _columns_of(input_names(u.problem), table))
    x = torch.from_numpy(np.stack(list(inputs.values()), 1))
    if not x.isfinite().all():
        bad = int((~x.isfinite().all(1)).sum())
        raise ConfigError(f"{path}: {bad:,} of {len(x):,} rows lack a number that the model needs")
    return table, x


def input_names(problem) -> Sequence[str]:
    """The names of the inputs of a problem's u."""
    return coordinate_names(problem)


def _columns_of(names: Sequence[str], table: columns.Columns) -> Sequence[str]:
    """The names, but for a time t that the table calls by its number among the coordinates."""
    numbered = [*names[:-1], f"x{len(names)}"]
    return numbered if names[-1] == "t" and "t" not in table and numbered[-1] in table else names


def output_name(run: Run, table: columns.Columns) -> str:
    """A name for the predictions that the table does not have."""
    name = config_of(run).problem.get("output") or "u"
    return f"{name}_predicted" if name in table else name


def off_range(u, x: torch.Tensor) -> float:
    """The share of rows with an input outside the box that the model scales to [-1, 1]; of a PDE outside its domain."""
    x = x.to(u.like)
    if u.problem.fits_rows:
        within = (u.net[0](x).abs() <= 1 + 1e-5).all(1)
    else:
        within = inside(u.problem.domain, x)
    return (~within).double().mean().item()
