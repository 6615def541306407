"""Which solver a run takes where it is left to choose by itself, `solver: auto`.

Levenberg-Marquardt steps in double precision, `low_dim`, end at errors that are 39 to 960 times smaller than those of
first order with two or three inputs, and still smaller with five (benchmarks/results/choice.md). They factor J,
M P^2 products a step for M residuals and P parameters, and need all derivatives exactly, so that a large network or a
drawn operator is left to first order.
"""

from collections.abc import Callable
from typing import NamedTuple

from kanpde.config import RunConfig, default_solver
from kanpde.operators import OPERATORS
from kanpde.problems import Problem

FEW = 5  # inputs, time among them
SMALL = 2500  # parameters


class Choice(NamedTuple):
    """The name of a shipped solver, and what speaks for it."""

    solver: str
    why: str


def choice(problem: Problem, config: RunConfig, size: Callable[[], int]) -> Choice:
    """The solver for a problem.

    Args:
        config: as it is under another solver; what the user says of the operator is read.
        size: the parameters that the network has under `low_dim`, only asked where the inputs are few.
    """
    operator, inputs = str(config.operator["name"]), problem.n_inputs
    of_dimension = default_solver(problem.dim)
    if problem.default_solver is not None:
        return Choice(problem.default_solver, f"that of every {type(problem).__name__}")
    if inputs > FEW:
        return Choice(of_dimension, f"{inputs:,} inputs, more than {FEW}")
    if operator in OPERATORS and not OPERATORS[operator].exact:
        return Choice(of_dimension, f"the operator {operator} draws what it computes")
    if (parameters := size()) > SMALL:
        return Choice(of_dimension, f"{parameters:,} parameters, more than {SMALL:,}")
    return Choice("low_dim", f"{inputs} inputs, {parameters:,} parameters and an exact operator")
