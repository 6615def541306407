"""Solve high-dimensional PDEs with Kolmogorov-Arnold networks, exactly differentiated."""

from kanpde import backbones, operators, problems, testing
from kanpde.ansatz import Ansatz, Field
from kanpde.api import resume, train
from kanpde.config import ConfigError
from kanpde.jet import Jet
from kanpde.kan.network import count_parameters
from kanpde.problems import Problem
from kanpde.record import Run
from kanpde.training import RunFailed

__version__ = "0.1.0"

__all__ = [
    "Ansatz",
    "ConfigError",
    "Field",
    "Jet",
    "Problem",
    "Run",
    "RunFailed",
    "backbones",
    "count_parameters",
    "operators",
    "problems",
    "resume",
    "testing",
    "train",
]
