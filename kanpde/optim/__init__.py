"""Optimisers of residuals that torch and pytorch-optimizer do not have."""

from kanpde.optim.broyden import SelfScaledBroyden
from kanpde.optim.gauss_newton import GaussNewton
from kanpde.optim.lbfgs import RestartingLBFGS
from kanpde.optim.levenberg_marquardt import LevenbergMarquardt

__all__ = ["GaussNewton", "LevenbergMarquardt", "RestartingLBFGS", "SelfScaledBroyden"]
