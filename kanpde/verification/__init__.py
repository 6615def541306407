"""How wrong a solution is, without knowing the right one: the defect by Monte Carlo on its exact residual."""

from kanpde.verification.equation import DefectEquation, NotVerifiable
from kanpde.verification.estimate import Interval, Samples, relative_l2
from kanpde.verification.method import Method
from kanpde.verification.methods import METHODS, method_of
from kanpde.verification.verify import Verification, estimated

__all__ = [
    "METHODS",
    "DefectEquation",
    "Interval",
    "Method",
    "NotVerifiable",
    "Samples",
    "Verification",
    "estimated",
    "method_of",
    "relative_l2",
]
