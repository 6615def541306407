"""A formula for the rows of a fit, by the search of `kanpde.recover.recover`, and its error on test rows."""

import time
from dataclasses import replace

import torch

from kanpde.config import RunConfig
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import errors
from kanpde.ground.samplers import stream
from kanpde.interpret.expression import values_at
from kanpde.problems import FITS
from kanpde.recover.recover import recover
from kanpde.recover.trials import Recovery, Say
from kanpde.training.plan import resolved
from kanpde.users.members import problem_of


def search(config: RunConfig, seconds: float, say: Say) -> tuple[Recovery, float, bool]:
    """What a search finds for the training rows, its relative l2 error on test rows, and whether it was interrupted.

    It ends after so many seconds, at an exact formula, or at Ctrl-C with the best formula said so far.

    Raises:
        ConfigError: a problem without rows, or rows that `recover` refuses.
    """
    problem = problem_of(config.problem)
    if not problem.fits_rows:
        known = ", ".join(FITS)
        raise ConfigError(f"recover: given {config.problem['name']}, needed is a problem that fits rows: {known}")
    points = resolved(config, problem).points
    drawn = stream(config.seed, "interior"), points.law, points.sequence
    rows = problem.domain.interior(points.interior, *drawn, dtype=torch.float64)
    x, y = problem.inputs_of(rows), problem.exact(rows)
    best, start, interrupted = Recovery(), time.perf_counter(), False

    def note(formula, error: float) -> None:
        nonlocal best
        best = Recovery(formula, error)
        say(formula, error)

    try:
        found = recover(x, y, problem.names, seconds, stream(config.seed, "search"), note)
    except KeyboardInterrupt:
        found, interrupted = replace(best, seconds=time.perf_counter() - start), True
    if found.formula is None:
        return found, float("inf"), interrupted
    test = problem.domain.held_out("test", 0, points.test, stream(config.seed, "test"))
    return found, errors(values_at(found.formula, problem.names, test[:, :-1]), test[:, -1])["rel_l2"], interrupted
