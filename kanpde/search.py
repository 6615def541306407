"""A formula for the rows of a fit, by the search of `kanpde.interpret.recover`, and its error on test rows."""

import torch

from kanpde import setup
from kanpde.config import ConfigError, RunConfig
from kanpde.interpret.expression import values_at
from kanpde.interpret.recover import recover
from kanpde.interpret.trials import Recovery, Say
from kanpde.metrics import errors
from kanpde.problems import FITS
from kanpde.problems.fitting import Fitting
from kanpde.samplers import stream


def search(config: RunConfig, seconds: float, say: Say) -> tuple[Recovery, float]:
    """What a search of so many seconds finds for the training rows, and its relative l2 error on the test rows.

    Raises:
        ConfigError: a problem without rows, or rows that `recover` refuses.
    """
    problem = setup.problem(config)
    if not isinstance(problem, Fitting):
        known = ", ".join(FITS)
        raise ConfigError(f"recover: given {config.problem['name']}, needed is a problem that fits rows: {known}")
    points = setup.resolved(config, problem).points
    rows = problem.domain.interior(points.interior, stream(config.seed, "interior"), dtype=torch.float64)
    found = recover(rows[:, :-1], rows[:, -1], problem.names, seconds, stream(config.seed, "search"), say)
    if found.formula is None:
        return found, float("inf")
    test = problem.domain.held_out("test", 0, points.test, stream(config.seed, "test"))
    return found, errors(values_at(found.formula, problem.names, test[:, :-1]), test[:, -1])["rel_l2"]
