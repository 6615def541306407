"""The problem library."""

from kanpde.problems.base import Problem
from kanpde.problems.data import Data
from kanpde.problems.diffusion import AdvectionDiffusion, BlackScholes, FokkerPlanck, InverseDiffusion, STLDiffusion
from kanpde.problems.elastic import Elasticity, Plate
from kanpde.problems.elliptic import AllenCahn, Poisson, SineGordon
from kanpde.problems.evolution import AllenCahn1D, Burgers, KdV, KuramotoSivashinsky, Schroedinger
from kanpde.problems.fitting import Feynman, Function, HighDimFunction
from kanpde.problems.fluids import Cavity, Stokes
from kanpde.problems.manufactured import Multiscale, PoissonCos, PoissonPairs
from kanpde.problems.parabolic import HJB, Heat
from kanpde.problems.references import Reference
from kanpde.problems.terminal import AllenCahnPaths, BlackScholesBarenblatt, HJBControl
from kanpde.problems.unknowns import Unknown
from kanpde.problems.waves import Helmholtz, Wave

ON_BALL = {"poisson": Poisson, "allen_cahn": AllenCahn, "sine_gordon": SineGordon, "heat": Heat, "hjb": HJB}
ON_PATHS = {
    "hjb_control": HJBControl,
    "black_scholes_barenblatt": BlackScholesBarenblatt,
    "allen_cahn_paths": AllenCahnPaths,
}
PDES = ON_BALL | ON_PATHS  # of any dimension
LOW_DIM = {
    "burgers": Burgers,
    "allen_cahn_1d": AllenCahn1D,
    "kdv": KdV,
    "kuramoto_sivashinsky": KuramotoSivashinsky,
    "schroedinger": Schroedinger,
    "wave": Wave,
    "helmholtz": Helmholtz,
    "advection_diffusion": AdvectionDiffusion,
    "fokker_planck": FokkerPlanck,
    "black_scholes": BlackScholes,
    "stl_diffusion": STLDiffusion,
    "inverse_diffusion": InverseDiffusion,
    "stokes": Stokes,
    "cavity": Cavity,
    "plate": Plate,
    "elasticity": Elasticity,
    "poisson_pairs": PoissonPairs,
    "poisson_cos": PoissonCos,
    "multiscale": Multiscale,
}
FITS = {"feynman": Feynman, "high_dim_function": HighDimFunction, "function": Function, "data": Data}
PROBLEMS = PDES | LOW_DIM | FITS

__all__ = [
    "FITS",
    "HJB",
    "LOW_DIM",
    "ON_BALL",
    "ON_PATHS",
    "PDES",
    "PROBLEMS",
    "AdvectionDiffusion",
    "AllenCahn",
    "AllenCahn1D",
    "AllenCahnPaths",
    "BlackScholes",
    "BlackScholesBarenblatt",
    "Burgers",
    "Cavity",
    "Data",
    "Elasticity",
    "Feynman",
    "FokkerPlanck",
    "Function",
    "HJBControl",
    "Heat",
    "Helmholtz",
    "HighDimFunction",
    "InverseDiffusion",
    "KdV",
    "KuramotoSivashinsky",
    "Multiscale",
    "Plate",
    "Poisson",
    "PoissonCos",
    "PoissonPairs",
    "Problem",
    "Reference",
    "STLDiffusion",
    "Schroedinger",
    "SineGordon",
    "Stokes",
    "Unknown",
    "Wave",
]
