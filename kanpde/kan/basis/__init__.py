"""The bases of edge functions by name."""

from kanpde.kan.basis.bspline import BSpline

BASES = {"bspline": BSpline}
