"""The error of a fit by k-fold cross-validation: k runs, each tested on the rows that it did not see."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kanpde.config import RunConfig
from kanpde.ground.errors import ConfigError
from kanpde.problems.data import Data
from kanpde.runs.api import ENDED, resume, train
from kanpde.runs.models import Run
from kanpde.runs.names import check_out
from kanpde.runs.stored import check_rows, check_same, config_of
from kanpde.training.plan import resolved
from kanpde.users.members import problem_of


def cross_validate(config: RunConfig, folds: int, out: str | Path, each: Callable[[Run], None] | None = None):
    """Train on each of the k complements and return the runs, <out>-fold0.h5 to <out>-fold<k-1>.h5.

    Runs of the same configuration and rows that lie there are taken as they are, or gone on with.

    Args:
        config: of a problem that reads a table.
        folds: k, at least 2.
        each: called with every finished run.
    Raises:
        ConfigError: another problem, too few rows, or a file of another run; before the first run.
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    if config.problem["name"] != "data":
        raise ConfigError(f"folds: needed is the problem data, given {config.problem['name']}")
    paths = [f"{out}-fold{fold}.h5" for fold in range(folds)]
    of_folds = [
        config.model_copy(update={"problem": {**config.problem, "folds": folds, "fold": i}}) for i in range(folds)
    ]
    problems = [problem_of(of_fold.problem) for of_fold in of_folds]
    for fold in problems:
        _ = fold.domain.units  # reads the table: what does not fit is said before the first run
    there = [_there(*each) for each in zip(paths, problems, of_folds, strict=True)]
    runs: list[Run] = []
    for path, fold, of_fold, run in zip(paths, problems, of_folds, there, strict=True):
        if run is None:
            run = train(fold, config=of_fold, out=path)
        elif run.attrs["status"] not in ENDED:
            run = resume(path, problem=fold)
        if run.attrs["status"] not in ENDED:
            raise KeyboardInterrupt
        runs.append(run)
        if each is not None:
            each(run)
    return runs


def _there(path: str, fold: Data, config: RunConfig) -> Run | None:
    """The run of a fold that has begun before."""
    if not Path(path).is_file():
        check_out(path)
        return None
    run = Run.open(path)
    check_rows(run, fold)
    check_same(resolved(config, fold), config_of(run), path, length=True)
    return run


def summary(runs: list[Run]) -> dict[str, tuple[float, float]]:
    """Mean and sample standard deviation over the folds of RMSE, that of the best constant, and R^2, by name.

    R^2 = 1 - (RMSE / that of the constant)^2 on the rows of a fold; there is none where y does not vary.
    """
    rmse = np.array([run.attrs["rmse_best"] for run in runs])
    constant = np.array([run.field["u_exact"].std() for run in runs])
    columns = {"rmse": rmse, "rmse_of_constant": constant}
    if constant.all():
        columns["r2"] = 1 - (rmse / constant) ** 2
    return {name: (float(column.mean()), float(column.std(ddof=1))) for name, column in columns.items()}
