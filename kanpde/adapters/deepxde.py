"""Networks, exact operators and domains of kanpde in a program that is written for DeepXDE's torch backend.

`network(kanpde.backbones.build("kan", 2))` stands for `dde.nn.FNN(...)`, and `laplacian(y, x)` for the sum of
`dde.grad.hessian(y, x, i=i, j=i)`.
"""

import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor, nn

from kanpde.adapters.packages import Held, derivatives_of, imported, made_as
from kanpde.domains import Ball, Box, Cylinder, Domain, Ellipsoid, PointCloud, Polygon
from kanpde.ground.errors import ConfigError

# ---------------------------------------------------------------------------------------------------------------
# The network


def network(module: nn.Module, regularization: Sequence[Any] | None = None) -> Any:
    """A backbone of kanpde as a network of DeepXDE, a `dde.nn.NN`.

    It takes `apply_feature_transform`, any g(x), and `apply_output_transform`, any that is affine in each output, as
    hard constraints are; the operators of this module see through both.

    Args:
        module: (N, d) -> (N, n), of modules with jet rules: any that `kanpde.backbones.build` gives.
        regularization: what DeepXDE takes, such as ["l2", 1e-5].
    Raises:
        ConfigError: DeepXDE is not installed, or has another backend.
    """
    made = _kind()()
    made.module, made.regularizer = module, regularization
    return made


@cache
def _kind() -> type[nn.Module]:
    """The class of the networks: DeepXDE, which it derives from, is imported by the first of them."""
    if "deepxde" not in sys.modules:
        os.environ.setdefault("DDE_BACKEND", "pytorch")
    dde = imported("deepxde", "deepxde")
    if dde.backend.backend_name != "pytorch":
        raise ConfigError(f"DeepXDE has the backend {dde.backend.backend_name}, needed is DDE_BACKEND=pytorch")

    class Network(dde.nn.pytorch.NN):
        """T(x, f(g(x))) with the transforms that it is told to apply."""

        def forward(self, inputs: Tensor) -> Tensor:
            return Held(self.module, inputs, self._input_transform, self._output_transform).output()

    return Network


# ---------------------------------------------------------------------------------------------------------------
# Operators, with the arguments of dde.grad


def jacobian(ys: Any, xs: Tensor, i: int | None = None, j: int | None = None) -> Tensor:
    """J[i, j] = dy_i / dx_j (N, 1); without j the row of all x_j (N, d), without i the column of all y_i (N, n).

    Raises:
        ConfigError: ys is not the whole output of a `network`, or not at xs; neither i nor j, or none such.
    """
    slopes = _at(ys, xs, "jacobian").gradient(None if j is None else [j])
    if i is None and slopes.shape[2] > 1:
        raise ConfigError("jacobian: given neither i nor j, needed is one of them")
    return slopes[..., 0] if i is None else _column(slopes.mT, i, "jacobian: i")[..., 0]


def hessian(ys: Any, xs: Tensor, component: int = 0, i: int = 0, j: int = 0) -> Tensor:
    """d^2 y_component / dx_i dx_j (N, 1); raises as `jacobian`. Of a sum of those with i = j take `laplacian`."""
    return _column(_at(ys, xs, "hessian").hessian(i, j), component, "hessian: component")


def laplacian(ys: Any, xs: Tensor, component: int = 0, axes: Sequence[int] | None = None) -> Tensor:
    """sum_i d^2 y_component / dx_i^2 (N, 1) over some axes, by default all; raises as `jacobian`.

    One forward jet gives it for all components, whatever the number of axes.
    """
    return _column(_at(ys, xs, "laplacian").laplacian(axes), component, "laplacian: component")


def _at(ys: Any, xs: Tensor, operator: str) -> Held:
    found = derivatives_of(ys[0] if isinstance(ys, tuple) else ys, operator)  # a tuple in DeepXDE's forward mode
    if found.given is not xs:
        raise ConfigError(f"{operator}: given other points than those that the output was computed at")
    return found


def _column(y: Tensor, k: int, what: str) -> Tensor:
    n = y.shape[-1]
    if not 0 <= k < n:
        raise ConfigError(f"{what}: given {k}, the network has the outputs 0 to {n - 1}")
    return y[..., k : k + 1]


# ---------------------------------------------------------------------------------------------------------------
# Geometries


def domain(geometry: Any) -> Domain:
    """A geometry of DeepXDE as a domain of kanpde, whose points come from a generator and are uniform.

    Raises:
        ConfigError: one that is none of those in `GEOMETRIES`, an ellipse that is turned, times that do not begin at 0.

    Example:
        >>> from types import SimpleNamespace  # any object with the fields of DeepXDE's class of that name
        >>> domain(type("Interval", (SimpleNamespace,), {})(l=-1, r=1)).sides
        [(-1.0, 1.0)]
    """
    return made_as(GEOMETRIES, geometry, "DeepXDE")(geometry)


def _box(geometry: Any) -> Domain:
    return Box(geometry.dim, geometry.xmin.tolist(), geometry.xmax.tolist())


def _ellipse(geometry: Any) -> Domain:
    if geometry.angle:
        raise ConfigError(f"domain: given an Ellipse turned by {geometry.angle:g}, needed is one along the axes")
    return Ellipsoid((geometry.semimajor, geometry.semiminor), tuple(geometry.center.tolist()))


def _cylinder(geometry: Any) -> Domain:
    time = geometry.timedomain
    if time.t0 != 0:
        raise ConfigError(f"domain: given times from {time.t0:g}, needed are times from 0")
    return Cylinder(domain(geometry.geometry), time.t1)


def _cloud(geometry: Any) -> Domain:
    return PointCloud(geometry.points, geometry.boundary_points, geometry.boundary_normals)


GEOMETRIES = {
    "Interval": lambda g: Box(1, float(g.l), float(g.r)),
    "Hypercube": _box,  # and Rectangle, Cuboid
    "Hypersphere": lambda g: Ball(g.dim, float(g.radius), tuple(g.center.tolist())),  # and Disk, Sphere
    "Ellipse": _ellipse,
    "Triangle": lambda g: Polygon(tuple(tuple(x.tolist()) for x in (g.x1, g.x2, g.x3))),
    "Polygon": lambda g: Polygon(tuple(map(tuple, g.vertices.tolist()))),
    "PointCloud": _cloud,
    "CSGUnion": lambda g: domain(g.geom1) | domain(g.geom2),
    "CSGDifference": lambda g: domain(g.geom1) - domain(g.geom2),
    "CSGIntersection": lambda g: domain(g.geom1) & domain(g.geom2),
    "GeometryXTime": _cylinder,
}
