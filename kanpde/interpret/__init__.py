"""What a KAN has learned: its edges taken apart, pruned, turned into formulas, and the formula of the whole.

    network = EdgeNetwork.of(net)                    # every edge a module of its own, in float64
    network, steps = prune(network, x, y)            # without what hardly matters
    network, steps = snap(network, x, y)             # edges become a f(b x + c)
    formula = refine(expression(network, names), names, x, y)

A step names what changed and the errors on the sample before and after; what makes the function worse is undone.
"""

from kanpde.interpret.expression import agrees, evaluate, expression, latex, text
from kanpde.interpret.fitting import Step, Tolerance, error, fit
from kanpde.interpret.functions import FUNCTIONS, Function
from kanpde.interpret.network import EdgeNetwork, Numeric, Symbolic
from kanpde.interpret.prune import prune
from kanpde.interpret.refine import refine, simplify
from kanpde.interpret.snap import snap, suggest_edge
from kanpde.interpret.symbolic import Candidate, fit_edge

__all__ = [
    "FUNCTIONS",
    "Candidate",
    "EdgeNetwork",
    "Function",
    "Numeric",
    "Step",
    "Symbolic",
    "Tolerance",
    "agrees",
    "error",
    "evaluate",
    "expression",
    "fit",
    "fit_edge",
    "latex",
    "prune",
    "refine",
    "simplify",
    "snap",
    "suggest_edge",
    "text",
]
