"""A trained model at the rows of a new table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kanpde import columns, setup
from kanpde.config import ConfigError
from kanpde.problems.fitting import Fitting
from kanpde.record import Run

BATCH = 4096  # rows at a time


def predict(run: Run, path: str | Path, trust: bool = False) -> tuple[columns.Columns, float]:
    """The columns of a file as they are, with the model's u beside them, and the share of rows off its range.

    Args:
        run: a finished one; its best weights count.
        path: CSV or NPZ (`kanpde.columns`) with the columns that the run's problem names: those of its table or
            formula, else x1 ... xd.
        trust: see `Run.load_model`.
    Raises:
        ConfigError: a column is missing, or a number in it.
    """
    u = run.load_model(trust=trust)
    names = input_names(u.problem)
    table = columns.as_written(path)
    inputs = columns.read(path, names)
    x = torch.from_numpy(np.stack(list(inputs.values()), 1))
    if not x.isfinite().all():
        bad = int((~x.isfinite().all(1)).sum())
        raise ConfigError(f"{path}: {bad:,} of {len(x):,} rows lack a number that the model needs")
    like = next(u.parameters())
    with torch.no_grad():
        found = torch.cat([u(part.to(like)) for part in x.split(BATCH)]).double()
    name = output_name(run, table)
    return {**table, name: found.numpy()}, off_range(u, x)


def input_names(problem) -> Sequence[str]:
    """The names of the inputs of a problem's u."""
    return list(getattr(problem, "names", ())) or [f"x{i + 1}" for i in range(problem.domain.dim)]


def output_name(run: Run, table: columns.Columns) -> str:
    """A name for the predictions that the table does not have."""
    name = setup.config_of(run).problem.get("output") or "u"
    return f"{name}_predicted" if name in table else name


def off_range(u, x: torch.Tensor) -> float:
    """The share of rows with an input outside the box that the model scales to [-1, 1]; 0 where it scales none."""
    if not isinstance(u.problem, Fitting):
        return 0.0
    z = u.net[0](x.to(next(u.parameters())))
    return ((z.abs() > 1 + 1e-5).any(1)).double().mean().item()
