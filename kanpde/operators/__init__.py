"""Operators: u and points in, jet out. All have the same signature."""

from kanpde.operators.autograd import Autograd
from kanpde.operators.base import Operator
from kanpde.operators.forward import Forward
from kanpde.operators.stochastic import SDGD, Hutchinson

OPERATORS = {"forward": Forward, "autograd": Autograd, "hutchinson": Hutchinson, "sdgd": SDGD}

__all__ = ["OPERATORS", "SDGD", "Autograd", "Forward", "Hutchinson", "Operator"]
