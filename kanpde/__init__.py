"""Solve high-dimensional PDEs with Kolmogorov-Arnold networks, exactly differentiated."""

import sys

from kanpde import backbones, operators, problems, testing
from kanpde.ground.errors import ConfigError
from kanpde.ground.former import Former
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.jet import Jet
from kanpde.jets.system import Complex, Jets
from kanpde.kan.network import count_parameters
from kanpde.problems import Problem, Reference, Unknown
from kanpde.runs.api import resume, train
from kanpde.runs.corrected import correct
from kanpde.runs.models import Run
from kanpde.runs.progress import Progress
from kanpde.runs.rerun import rerun
from kanpde.runs.verified import verify
from kanpde.training.training import RunFailed
from kanpde.verification import NotVerifiable, Verification

__version__ = "0.2.0"
sys.meta_path.append(Former)  # last: for what is not found otherwise

__all__ = [
    "Ansatz",
    "Complex",
    "ConfigError",
    "Field",
    "Jet",
    "Jets",
    "NotVerifiable",
    "Problem",
    "Progress",
    "Reference",
    "Run",
    "RunFailed",
    "Unknown",
    "Verification",
    "backbones",
    "correct",
    "count_parameters",
    "operators",
    "problems",
    "rerun",
    "resume",
    "testing",
    "train",
    "verify",
]
