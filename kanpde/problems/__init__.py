"""The problem library."""

from kanpde.problems.base import Problem
from kanpde.problems.elliptic import AllenCahn, Poisson, SineGordon
from kanpde.problems.parabolic import HJB, Heat

PROBLEMS = {"poisson": Poisson, "allen_cahn": AllenCahn, "sine_gordon": SineGordon, "heat": Heat, "hjb": HJB}

__all__ = ["HJB", "PROBLEMS", "AllenCahn", "Heat", "Poisson", "Problem", "SineGordon"]
