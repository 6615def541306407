r"""Samples of the defect e(x), by the equation Lap e + b . grad e + q e - e_s = rho that it satisfies.

All rest on one identity. Of a domain D inside the domain of the equation with x in it, G_D(x, .) > 0 the Green function
of -Lap (or of d/ds - Lap) with zero values on its boundary, and X the place where a Brownian motion from x leaves D,

.. math:: e(x) = E\, e(X) + \int_D G_D(x, y) \bigl(q(y) e(y) - \rho(y)\bigr) dy .

Y is drawn in proportion to G_D(x, .), whose integral w(x) is the mean time that the motion spends in D (of the
generator Lap): e(x) = E [e(X) + w (q e - rho)(Y)]. Where e is not known the identity is used again.
"""

from collections.abc import Callable

from kanpde.verification.draws import BallGreen, HeatKernel
from kanpde.verification.equation import DefectEquation, NotVerifiable
from kanpde.verification.grid import Grid
from kanpde.verification.method import Method, Unfit
from kanpde.verification.paths import Paths
from kanpde.verification.walks import HeatBalls, Spheres

METHODS: tuple[Callable[[DefectEquation], Method], ...] = (BallGreen, HeatKernel, Spheres, HeatBalls, Paths, Grid)


def method_of(equation: DefectEquation) -> "Method":
    """The method for an equation and its domain.

    Raises:
        NotVerifiable: there is none; the line says why.
    """
    refused = []
    for kind in METHODS:
        try:
            return kind(equation)
        except NotVerifiable as error:
            refused.append(error)
    reasons = [error for error in refused if not isinstance(error, Unfit)] or refused
    raise NotVerifiable("; ".join(dict.fromkeys(map(str, reasons))))
