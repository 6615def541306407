"""Domains: where a problem lives, points in it and on its boundary, and the factor that vanishes there."""

from kanpde.domains.ball import Ball
from kanpde.domains.base import Domain, IncompleteDomain
from kanpde.domains.box import Box
from kanpde.domains.cloud import PointCloud
from kanpde.domains.combined import Combined
from kanpde.domains.cylinder import Cylinder, Paths
from kanpde.domains.gaussian import Gaussian, LogNormal
from kanpde.domains.sampled import Sampled
from kanpde.domains.shapes import Ellipsoid, Polygon, Simplex
from kanpde.domains.surface import Surface

__all__ = [
    "Ball",
    "Box",
    "Combined",
    "Cylinder",
    "Domain",
    "Ellipsoid",
    "Gaussian",
    "IncompleteDomain",
    "LogNormal",
    "Paths",
    "PointCloud",
    "Polygon",
    "Sampled",
    "Simplex",
    "Surface",
]
