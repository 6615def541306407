"""The problem library."""

from kanpde.problems.base import Problem
from kanpde.problems.data import Data
from kanpde.problems.elliptic import AllenCahn, Poisson, SineGordon
from kanpde.problems.fitting import Feynman, Function, HighDimFunction
from kanpde.problems.parabolic import HJB, Heat

PDES = {"poisson": Poisson, "allen_cahn": AllenCahn, "sine_gordon": SineGordon, "heat": Heat, "hjb": HJB}
FITS = {"feynman": Feynman, "high_dim_function": HighDimFunction, "function": Function, "data": Data}
PROBLEMS = PDES | FITS

__all__ = [
    "FITS",
    "HJB",
    "PDES",
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
