"""The problem library."""

from kanpde.problems.base import Problem
from kanpde.problems.data import Data
from kanpde.problems.elliptic import AllenCahn, Poisson, SineGordon
from kanpde.problems.fitting import Feynman, Function, HighDimFunction
from kanpde.problems.parabolic import HJB, Heat

PROBLEMS = {"poisson": Poisson, "allen_cahn": AllenCahn, "sine_gordon": SineGordon, "heat": Heat, "hjb": HJB}
PROBLEMS |= {"feynman": Feynman, "high_dim_function": HighDimFunction, "function": Function, "data": Data}

__all__ = [
    "HJB",
    "PROBLEMS",
    "AllenCahn",
    "Data",
    "Feynman",
    "Function",
    "Heat",
    "HighDimFunction",
    "Poisson",
    "Problem",
    "SineGordon",
]
