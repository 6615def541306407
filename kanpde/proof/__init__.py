"""A formula in the equations and conditions of a problem: exact, bounded by interval arithmetic, or not a solution."""

from kanpde.proof.intervals import Bound, bound
from kanpde.proof.prove import Finding, Proof, prove, solution_of, solved_by
from kanpde.proof.symbolic import Untraceable, traced

__all__ = ["Bound", "Finding", "Proof", "Untraceable", "bound", "prove", "solution_of", "solved_by", "traced"]
