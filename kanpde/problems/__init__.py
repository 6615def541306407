"""The problem library."""

from kanpde.problems.base import Problem
from kanpde.problems.data import Data
from kanpde.problems.elliptic import AllenCahn, Poisson, SineGordon
from kanpde.problems.fitting import Feynman, Function, HighDimFunction
from kanpde.problems.parabolic import HJB, Heat
from kanpde.problems.references import Reference
from kanpde.problems.terminal import AllenCahnPaths, BlackScholesBarenblatt, HJBControl
from kanpde.problems.unknowns import Unknown

ON_BALL = {"poisson": Poisson, "allen_cahn": AllenCahn, "sine_gordon": SineGordon, "heat": Heat, "hjb": HJB}
ON_PATHS = {
    "hjb_control": HJBControl,
    "black_scholes_barenblatt": BlackScholesBarenblatt,
    "allen_cahn_paths": AllenCahnPaths,
}
PDES = ON_BALL | ON_PATHS
FITS = {"feynman": Feynman, "high_dim_function": HighDimFunction, "function": Function, "data": Data}
PROBLEMS = PDES | FITS

__all__ = [
    "FITS",
    "HJB",
    "ON_BALL",
    "ON_PATHS",
    "PDES",
    "PROBLEMS",
    "AllenCahn",
    "AllenCahnPaths",
    "BlackScholesBarenblatt",
    "Data",
    "Feynman",
    "Function",
    "HJBControl",
    "Heat",
    "HighDimFunction",
    "Poisson",
    "Problem",
    "Reference",
    "SineGordon",
    "Unknown",
]
