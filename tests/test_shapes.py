"""Domains with measures: volumes, areas, centroids, normals, divergence theorem, and which points are inside."""

from math import pi, sqrt

import numpy as np
import pytest
import torch
from conftest import generator, one_line
from matplotlib.path import Path

from kanpde import ConfigError
from kanpde.domains import Ball, Box, Cylinder, Ellipsoid, Polygon, Simplex
from kanpde.testing import check_domain

F64 = torch.float64
ARROW = Polygon(((0, 0), (2, -1), (1, 0), (2, 1)))  # not convex, clockwise or not
DOMAINS = {
    "ball": (Ball(3, 0.7, (1.0, -2.0, 0.5)), 4 / 3 * pi * 0.7**3, 4 * pi * 0.7**2),
    "box": (Box(3, (0, -1, 2), (1, 1, 5)), 6.0, 2 * (2 + 3 + 6)),
    "ellipse": (Ellipsoid((2.0, 0.5), (1.0, 1.0)), pi, 8.578421775),
    "ellipsoid": (Ellipsoid((1.0, 2.0, 0.5)), 4 / 3 * pi, 15.869162163),
    "triangle": (Simplex(2, 2.0), 2.0, 4 + 2 * sqrt(2)),
    "simplex": (Simplex(4), 1 / 24, (4 + 2) / 6),
    "arrow": (ARROW, 1.0, 2 * sqrt(5) + 2 * sqrt(2)),
    "plate with a hole": (Box(2) - Ball(2, 0.5), 4 - pi / 4, 8 + pi),
    "two balls": (Ball(2) | Ball(2, 1.0, (1.0, 0.0)), 2 * pi - (2 * pi / 3 - sqrt(3) / 2), 2 * 4 * pi / 3),
    "lens": (Ball(2) & Ball(2, 1.0, (1.0, 0.0)), 2 * pi / 3 - sqrt(3) / 2, 2 * 2 * pi / 3),
    "a hole in a lens": ((Ball(2) & Ball(2, 1.0, (1.0, 0.0))) - Box(2, (0.4, -0.1), (0.6, 0.1)), 1.1883697, 4.988790),
}
CYLINDERS = {
    "ball in time": (Cylinder(Ball(2, 0.5, (1.0, 0.0)), 3.0), 3 * pi / 4, 3 * pi),
    "box in time": (Cylinder(Box(2, 0, (2, 1)), 0.5), 1.0, 3.0),
}
CENTRES = {
    "ball": (1.0, -2.0, 0.5),
    "box": (0.5, 0.0, 3.5),
    "ellipse": (1.0, 1.0),
    "ellipsoid": (0.0, 0.0, 0.0),
    "triangle": (2 / 3, 2 / 3),
    "simplex": (0.2,) * 4,
    "arrow": (1.0, 0.0),
    "plate with a hole": (0.0, 0.0),
    "two balls": (0.5, 0.0),
    "lens": (0.5, 0.0),
    "a hole in a lens": (0.5, 0.0),
    "ball in time": (1.0, 0.0, 1.5),
    "box in time": (1.0, 0.5, 0.25),
}
N = 200_000


@pytest.mark.parametrize("name", DOMAINS)
def test_measures(name):
    """Against closed forms, or to the digits of an estimate; and against the share inside a box around it."""
    domain, volume, area = DOMAINS[name]
    estimated = type(domain).__name__ == "Combined"
    assert domain.volume == pytest.approx(volume, rel=5e-3 if estimated else 1e-12)
    assert domain.area == pytest.approx(area, rel=1e-2 if estimated else 2e-4)
    low, high = torch.tensor(domain.input_range("volume"), dtype=F64).unbind(1)
    x = low + (high - low) * torch.rand(N, domain.dim, generator=generator(3), dtype=F64)
    share, whole = domain.contains(x).double().mean().item(), (high - low).prod().item()
    assert abs(share - volume / whole) <= 4 * (share * (1 - share) / N) ** 0.5


@pytest.mark.parametrize("name", CENTRES)
def test_centroids(name):
    n, domain = 20_000, (DOMAINS | CYLINDERS)[name][0]
    x = domain.interior(n, generator(1), "volume", dtype=F64)
    assert ((x.mean(0) - torch.tensor(CENTRES[name])).abs() <= 4 * x.std(0) / n**0.5).all()


@pytest.mark.parametrize("name", CYLINDERS)
def test_measures_with_time(name):
    """Those of space by the time; the boundary is the lateral one, without a normal in time."""
    domain, volume, area = CYLINDERS[name]
    assert domain.volume == pytest.approx(volume) and domain.area == pytest.approx(area)
    n, generators = 20_000, (generator(1), generator(2))
    x, y = domain.interior(n, generators[0], "volume", dtype=F64), domain.boundary(n, generators[1], dtype=F64)
    normal = domain.normal(y)
    assert not normal[:, -1].any()
    inside = volume * (2 * x[:, 0] + x[:, -1])
    through = area * (y[:, 0] ** 2 * normal[:, 0] + y[:, -1] * y[:, 1] * normal[:, 1])
    error = ((inside.var() + through.var()) / n).sqrt().item()
    assert abs((inside.mean() - through.mean()).item()) < 4 * error


@pytest.mark.parametrize("name", DOMAINS)
@pytest.mark.parametrize("sequence", ["random", "sobol"])
def test_the_divergence_theorem(name, sequence):
    """int div F = int F . n for fields of degrees 0 to 2: points are uniform, normals point outwards."""
    domain, volume, area = DOMAINS[name]
    d = domain.dim
    x = domain.interior(N, generator(1), "volume", sequence, dtype=F64)
    y = domain.boundary(N, generator(2), sequence, dtype=F64)
    n = domain.normal(y)
    assert domain.contains(x).all() and torch.allclose(n.norm(dim=1), torch.ones(N, dtype=F64))
    centre = torch.tensor(domain.frame()[0], dtype=F64)
    one, of = lambda z: torch.ones(len(z), dtype=F64), lambda z, k: (z - centre)[:, k]
    for k in range(d):
        fields = (
            (one, lambda z: 0 * one(z)),
            (lambda z, k=k: of(z, k), one),
            (lambda z, k=k: of(z, k) * of(z, 0), lambda z, k=k: of(z, 0) * (1 + (k == 0))),
        )
        for field, divergence in fields:
            inside, through = volume * divergence(x), area * field(y) * n[:, k]
            error = ((inside.var() + through.var()) / N).sqrt().item()
            assert abs((inside.mean() - through.mean()).item()) < 4.5 * error + 1e-9


@pytest.mark.parametrize("name", DOMAINS)
def test_domains_agree_with_themselves(name):
    domain = DOMAINS[name][0]
    assert "factor on the boundary" in str(check_domain(domain if name != "box" else Cylinder(domain)))
    x, y = domain.interior(500, generator(1), dtype=F64, law="volume"), domain.boundary(500, generator(2), dtype=F64)
    assert (domain.level(x) > 0).all() and domain.level(y).abs().max() < 1e-7
    outside = y + 1e-3 * domain.normal(y)
    clear = ~domain.contains(outside)
    assert clear.double().mean() > 0.95 and (domain.level(outside)[clear] < 0).all()


def test_points_in_a_polygon_are_those_of_matplotlib():
    x = 3 * torch.rand(100_000, 2, generator=generator(5), dtype=F64) - torch.tensor([0.5, 1.5], dtype=F64)
    assert (ARROW.contains(x).numpy() == Path(np.array(ARROW.vertices)).contains_points(x.numpy())).all()
    assert Polygon(ARROW.vertices[::-1]) == ARROW


def test_the_factor_of_a_polygon_has_slope_one_on_its_sides():
    y, n = ARROW.boundary(200, generator(1), dtype=F64), None
    n = ARROW.normal(y)
    near = 1e-5
    corners = torch.cdist(y, torch.tensor(ARROW.vertices, dtype=F64)).amin(1)
    y, n = y[corners > 0.05], n[corners > 0.05]
    assert torch.allclose(ARROW._smooth(y - near * n) / near, torch.ones(len(y), dtype=F64), atol=1e-3)


def test_many_dimensions_cost_what_their_points_do():
    for domain in (Ball(100_000, 2.0, (0.5,) * 100_000), Ellipsoid((1.0,) * 100_000), Box(100_000, 0, 1)):
        x = domain.interior(2, generator(1), "volume")
        assert x.shape == (2, 100_000) and domain.contains(x).all() and domain.factor(x).grad.shape == x.shape
    for domain in (Ball(100_000), Ellipsoid((1.0,) * 100_000)):  # all points are within 1e-4 of the boundary
        x = domain.interior(60, generator(1), "volume")
        assert domain.contains(x).all() and not domain.contains(1.001 * x).any()
    assert Simplex(1000).boundary(3, generator(1)).shape == (3, 1000)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Ball(2, 1.0, (0.0,)), "Ball: center: given (0.0,), needed are 2 finite numbers"),
        (lambda: Ball(2, 1.0, 0.0), "needed are 2 finite numbers"),
        (lambda: Ellipsoid((1.0, 0.0)), "Ellipsoid: axes: given 0.0, needed is a finite number above 0"),
        (lambda: Ellipsoid((1.0, 2.0), (0.0,)), "Ellipsoid: center: given (0.0,), needed are 2"),
        (lambda: Simplex(0), "Simplex: dim: given 0"),
        (lambda: Polygon(((0, 0), (1, 0))), "given 2, needed are three or more different ones"),
        (lambda: Polygon(((0, 0), (1, 1), (1, 0), (0, 1))), "Polygon: vertices: sides 0 and 2 cross"),
        (lambda: Polygon(((0, 0), (1, 0, 2), (1, 1))), "needed are 2 finite numbers"),
        (lambda: Ball(2) | Ball(3), "union: given domains of 2 and 3 dimensions"),
        (lambda: Ball(2) - Cylinder(Ball(1)), "difference: given a Cylinder; combine domains of space, then add time"),
        (
            lambda: (Ball(2) & Ball(2, 1.0, (9.0, 0.0))).interior(4, generator(0)),
            "0 of 4,824 points are in the domain",
        ),
    ],
)
def test_bad_shapes_are_one_line(make, says):
    with pytest.raises(ConfigError) as info:
        make()
    assert says in one_line(info)


def test_a_polygon_has_its_factor_at_points_of_its_sides():
    """Its slope jumps there; that is no wrong derivative, at whatever points it is asked for first."""
    corner = Polygon(((0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1)))
    x = corner.boundary(8, torch.Generator().manual_seed(0), dtype=torch.float64)
    assert corner.factor(x).value.abs().max() < 1e-9
