"""Surfaces of triangles: measures, which points are inside, distances, normals, files, and what is refused."""

import copy
import pickle
import sys
from dataclasses import dataclass
from itertools import pairwise
from math import pi

import numpy as np
import pytest
import torch
from conftest import generator, one_line, planned
from torch import Tensor
from torch.func import jacrev, vmap

import kanpde
from kanpde import ConfigError
from kanpde.domains import Ball, Cylinder, Surface
from kanpde.ground import apart
from kanpde.jets.ansatz import Field
from kanpde.jets.differentiable import NotDifferentiable
from kanpde.problems.conditions import Dirichlet, Initial
from kanpde.testing import check_domain, check_problem

pyvista = pytest.importorskip("pyvista")
F64, N = torch.float64, 20_000
mesh_of = lambda points, faces: pyvista.PolyData.from_regular_faces(np.array(points, float), np.array(faces))


def star():
    """A ball with needles."""
    ball = pyvista.Icosphere(nsub=1)
    radius = np.where(np.arange(ball.n_points) % 2, 0.15, 1.0)
    return mesh_of(ball.points * radius[:, None], ball.regular_faces)


def spike():
    """A tetrahedron with edges as sharp as a knife."""
    return mesh_of([[0, 0, 0], [1, 0, 0], [0.5, 0.05, 0], [0.5, 0, 3]], [[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def turned(mesh):
    """Every triangle in the other sense."""
    return mesh_of(mesh.points, mesh.triangulate().regular_faces[:, ::-1])


CUBE = pyvista.Cube(center=(1, 2, 3))
TORUS = pyvista.ParametricTorus(u_res=24, v_res=24, w_res=24).triangulate()
MESHES = {
    "sphere": pyvista.Sphere(theta_resolution=12, phi_resolution=12),
    "cube": CUBE,
    "icosahedron": pyvista.Icosahedron(),
    "torus": TORUS,
    "star": star(),
    "spike": spike(),
    "shell": pyvista.Icosphere(radius=2.0, nsub=2).merge(pyvista.Icosphere(radius=1.0, nsub=2)),
}
DOMAINS = {name: Surface(mesh) for name, mesh in MESHES.items()}
of_all = pytest.mark.parametrize("name", MESHES)


def corners(name: str) -> Tensor:
    """Of the triangles as they are in a mesh, (3, F, 3)."""
    mesh = MESHES[name].triangulate()
    return torch.tensor(np.asarray(mesh.points, float)[mesh.regular_faces]).transpose(0, 1)


def turns(name: str, x: Tensor) -> Tensor:
    """How often each triangle's solid angle adds up around points (N,), and which are inside by it.

    Source: van Oosterom & Strackee 1983, IEEE Trans. Biomed. Eng. 30, 125-126.
    """
    found = torch.zeros(len(x), dtype=F64)
    for triangle in corners(name).unbind(1):
        a, b, c = (triangle - x.unsqueeze(1)).unbind(1)
        la, lb, lc = (side.norm(dim=1) for side in (a, b, c))
        above = (a * torch.linalg.cross(b, c)).sum(1)
        below = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        found += torch.atan2(above, below) / (2 * pi)
    return found.round().abs().long() % 2 == 1


def around(domain: Surface, n: int = 4000) -> Tensor:
    """Points of a box around a domain, some of them near its corners."""
    low, high = torch.tensor(domain.input_range("volume"), dtype=F64).unbind(1)
    x = low + (high - low) * (1.4 * torch.rand(n, 3, generator=generator(3), dtype=F64) - 0.2)
    near = torch.randint(len(domain.points), (n // 4,), generator=generator(4))
    return torch.cat([x, domain.points[near] + 0.02 * torch.randn(n // 4, 3, generator=generator(5), dtype=F64)])


@of_all
def test_measures(name):
    """Of two closed surfaces, one within the other, the volume is what is between them."""
    domain, (a, b, c) = DOMAINS[name], corners(name)
    cones = (a * torch.linalg.cross(b, c)).sum(1) / 6
    if name == "shell":
        cones[len(cones) // 2 :] *= -1
    volume = cones.sum().item()
    assert domain.volume == pytest.approx(abs(volume), rel=1e-6) and domain.area == pytest.approx(MESHES[name].area)
    x, y = domain.interior(N, generator(1), dtype=F64), domain.boundary(N, generator(2), dtype=F64)
    means = (x, (cones / volume) @ ((a + b + c) / 4)), (y, domain_mean(a, b, c))
    for points, mean in means:
        assert ((points.mean(0) - mean).abs() <= 4 * points.std(0) / N**0.5).all()
    z = around(domain, N)[:N]
    share = domain.contains(z).double().mean().item()
    low, high = torch.tensor(domain.input_range("volume"), dtype=F64).unbind(1)
    whole = (1.4 * (high - low)).prod().item()
    assert abs(share - domain.volume / whole) <= 4 * (share * (1 - share) / N) ** 0.5


def domain_mean(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """The centroid of triangles."""
    area = torch.linalg.cross(b - a, c - a).norm(dim=1)
    return (area / area.sum()) @ ((a + b + c) / 3)


@of_all
@pytest.mark.parametrize("sequence", ["random", "sobol"])
def test_the_divergence_theorem(name, sequence):
    """int div F = int F . n for F_k = (x - a)_k (x - a)_j, a a corner: points are uniform, normals point outwards."""
    domain = DOMAINS[name]
    x = domain.interior(N, generator(1), "volume", sequence, dtype=F64)
    y = domain.boundary(N, generator(2), sequence, dtype=F64)
    n, corner = domain.normal(y), torch.tensor(domain.input_range("volume"), dtype=F64)[:, 0]
    assert torch.allclose(n.norm(dim=1), torch.ones(N, dtype=F64))
    for k in range(3):
        for j in range(3):
            inside = domain.volume * (x - corner)[:, j] * (1 + (k == j))
            through = domain.area * (y - corner)[:, k] * (y - corner)[:, j] * n[:, k]
            error = ((inside.var() + through.var()) / N).sqrt().item()
            assert abs((inside.mean() - through.mean()).item()) < 4 * error


@of_all
def test_inside_is_where_solid_angles_add_up(name):
    domain = DOMAINS[name]
    x = around(domain)
    assert (domain.contains(x) == turns(name, x)).all()
    x, y = domain.interior(500, generator(1)), domain.boundary(500, generator(2))
    assert turns(name, x.double()).all() and x.dtype == y.dtype == torch.float32 and domain.contains(y).all()
    y = domain.boundary(500, generator(2), dtype=F64)
    assert domain.contains(y).all() and domain.level(y).abs().max() < 1e-14
    assert "points, boundary" in str(check_domain(domain))


@pytest.mark.parametrize("size, away", [(1e-6, 0.0), (1e6, 0.0), (1.0, 1e5), (1e-3, 1e3)])
@pytest.mark.parametrize("name", ["star", "spike"])
def test_inside_is_the_same_wherever_and_however_large_it_is(name, size, away):
    """Distances of VTK alone have wrong signs at a third of these points where away is 1e5."""
    moved = Surface(mesh_of(np.asarray(MESHES[name].points, float) * size + away, MESHES[name].regular_faces))
    x, domain = around(DOMAINS[name]), DOMAINS[name]
    clear = domain.level(x).abs() > 1e-6
    assert (moved.contains(size * x + away) == domain.contains(x))[clear].all()
    assert torch.allclose(moved.level(size * x + away), size * domain.level(x), rtol=0, atol=1e-6 * size)


def test_distances_and_normals_of_a_cube():
    centre = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    x = centre + 3 * (torch.rand(500, 3, generator=generator(1), dtype=F64) - 0.5)
    off = (x - centre).abs() - 0.5
    expected = -(off.clamp_min(0).norm(dim=1) + off.amax(1).clamp_max(0))
    assert torch.allclose(DOMAINS["cube"].level(x), expected, atol=1e-14)
    y = DOMAINS["cube"].boundary(500, generator(2), dtype=F64)
    on = (y - centre).abs() > 0.5 - 1e-12
    assert torch.allclose(DOMAINS["cube"].normal(y), on * (y - centre).sign(), atol=1e-14)


def test_they_are_there_within_transforms_and_without_a_gradient():
    """Gauss-Newton maps over points; what has no gradient is not taken for constant."""
    cube, x = DOMAINS["cube"], DOMAINS["cube"].interior(5, generator(1), dtype=F64)
    assert torch.equal(vmap(lambda y: cube.level(y.unsqueeze(0))[0])(x), cube.level(x))
    found = vmap(jacrev(lambda y: (cube.normal(y.unsqueeze(0))[0] * y).sum()))(x)
    assert torch.equal(found, cube.normal(x))
    with pytest.raises(NotDifferentiable):
        Field.of(cube.level, x)


def test_a_surface_is_kept_and_copied():
    x = around(DOMAINS["torus"], 400)
    inside = DOMAINS["torus"].contains(x)
    for other in (pickle.loads(pickle.dumps(DOMAINS["torus"])), copy.deepcopy(DOMAINS["torus"])):
        assert torch.equal(other.contains(x), inside)


# Meshes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["stl", "ply", "vtp", "obj", "vtk"])
def test_files(suffix, tmp_path):
    """STL has each corner once for every triangle."""
    TORUS.save(tmp_path / f"part.{suffix}")
    domain = Surface(tmp_path / f"part.{suffix}")
    assert len(domain.points) == TORUS.n_points and domain.volume == pytest.approx(TORUS.volume, rel=1e-6)
    assert str(tmp_path) not in repr(domain)


def test_corners_are_merged_and_squares_cut():
    for mesh in (pyvista.Cube(clean=False), CUBE.cast_to_unstructured_grid(), CUBE.triangulate()):
        assert (len(Surface(mesh).points), len(Surface(mesh).faces), Surface(mesh).area) == (8, 12, 6.0)


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("outer", [False, True])
def test_triangles_are_turned_outwards(outer, inner):
    """A hollow ball is one however either of its surfaces is turned, and so is a part whose triangles disagree."""
    big, small = pyvista.Icosphere(radius=2.0, nsub=1), pyvista.Icosphere(radius=1.0, nsub=1)
    shell = (turned(big) if outer else big).merge(turned(small) if inner else small)
    domain = Surface(shell)
    assert domain.volume == pytest.approx(big.volume - small.volume, rel=1e-6)
    assert domain.contains(torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [2.5, 0, 0]])).tolist() == [False, True, False]
    y = domain.boundary(200, generator(1), dtype=F64)
    assert (((y * domain.normal(y)).sum(1) > 0) == (y.norm(dim=1) > 1.4)).all()
    faces = big.regular_faces.copy()
    faces[3 : 3 + 4 * outer + 9 * inner] = faces[3 : 3 + 4 * outer + 9 * inner, ::-1]
    assert Surface(mesh_of(big.points, faces)).volume == pytest.approx(big.volume, rel=1e-6)


@pytest.mark.parametrize("cuts", [1, 2, 7])
def test_triangles_that_are_a_line_do_no_harm(cuts):
    """A tetrahedron with corners on an edge of which the face beyond knows nothing: VTK alone is wrong about 8 %."""
    share = [(i + 1) / (cuts + 1.5) for i in range(cuts)]
    points = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], *([s, 1 - s, 0] for s in share)]
    chain = [2, *range(4, 4 + cuts), 1]
    faces = [[0, i, j] for i, j in pairwise(chain)] + [[0, 1, 3], [1, 2, 3], [2, 0, 3]]
    faces += [[2, j, i] for i, j in pairwise(chain[1:])]
    domain = Surface(mesh_of(points, faces))
    x = 1.4 * torch.rand(N, 3, generator=generator(1), dtype=F64) - 0.2
    assert (domain.contains(x) == ((x >= 0).all(1) & (x.sum(1) <= 1))).all()
    assert domain.volume == pytest.approx(1 / 6) and domain.normal(x[:500]).isfinite().all()


def klein():
    """A closed surface with one side."""
    n = 6
    at = lambda i, j: (i * n + j % n) if i < n else (-j) % n
    squares = [(at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)) for i in range(n) for j in range(n)]
    return mesh_of(
        np.random.default_rng(0).random((n * n, 3)), [f for a, b, c, d in squares for f in ((a, b, c), (a, c, d))]
    )


@pytest.mark.parametrize(
    ("mesh", "says"),
    [
        ("none.stl", "no file none.stl"),
        ("text.stl", "without triangles"),
        ("text.foo", "text.foo cannot be read"),
        (3, "given a int, needed is a file or a pyvista.PolyData"),
        (pyvista.PolyData(np.eye(3)), "without triangles"),
        (pyvista.PolyData(), "without triangles"),
        (pyvista.Plane(i_resolution=2, j_resolution=2), "not closed: 8 of 16 edges are open"),
        (pyvista.ImageData(dimensions=(3, 3, 3)), "mesh of volumes: Surface(mesh.extract_surface()) is its boundary"),
        (CUBE.triangulate().merge(pyvista.Cube(center=(2, 3, 3)).triangulate()), "1 edges have over 2 triangles"),
        (mesh_of([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2], [2, 1, 0]]), "encloses nothing"),
        (mesh_of([[0, 0, 0], [1, 0, 0], [0, 1, np.nan]], [[0, 1, 2], [2, 1, 0]]), "not finite"),
        (klein(), "one side"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_surface_is_refused_in_one_line(mesh, says, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for name in ("text.stl", "text.foo"):
        (tmp_path / name).write_text("solid")
    with pytest.raises(ConfigError) as info:
        Surface(mesh)
    assert says in one_line(info) and not caplog.records  # which pyvista writes of a broken file


def test_without_pyvista_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvista", None)
    with pytest.raises(ConfigError, match="pip install pyvista") as info:
        Surface("part.stl")
    one_line(info)


# Problems ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laplace(kanpde.Problem):
    """Lap u = 0 in a cube of triangles."""

    dim: int = 3

    @property
    def domain(self):
        return DOMAINS["cube"]

    def residual(self, u, x):
        return u.lap


class Stated(Laplace):
    conditions = (Dirichlet(value=lambda x: x[:, 0] * x[:, 1]),)


class Valued(Laplace):
    def boundary_value(self, x):
        return x[:, 0] * x[:, 1]

    def exact(self, x):
        return x[:, 0] * x[:, 1]


class Timed(Laplace):
    conditions = (Dirichlet(), Initial(0.0))

    @property
    def domain(self):
        return Cylinder(DOMAINS["cube"], 2.0)

    def residual(self, u, x):
        return u.t - u.lap


class Without(Laplace):
    @property
    def domain(self):
        return DOMAINS["cube"] - Ball(3, 0.2, (1.0, 2.0, 3.0))


def test_values_on_a_surface_are_left_to_the_loss():
    assert Stated().exactly.met == frozenset() and planned(Stated()).counts["dirichlet"] > 0
    assert Timed().exactly.met == {"initial"} and Timed().domain.volume == 2.0 and Timed().domain.area == 12.0
    for problem in (Laplace(), Without()):
        with pytest.raises(ConfigError, match="has no factor that is zero on its boundary: state conditions") as info:
            planned(problem)
        one_line(info)
    assert Valued().lift(DOMAINS["cube"].points) is None and "exact solution" in str(check_problem(Valued()))
    assert planned(Laplace(), {"constraint": "soft", "points": {"boundary": 10}}).counts["boundary"] == 10


def test_something_is_taken_away_from_a_surface():
    domain = Without().domain
    assert domain.volume == pytest.approx(1 - 4 / 3 * pi * 0.2**3, rel=5e-3)
    assert domain.area == pytest.approx(6 + 4 * pi * 0.2**2, rel=1e-2) and domain.factor(torch.zeros(1, 3)) is None
    assert "points by volume" in str(check_domain(domain))


def test_a_file_that_crashes_its_reader_is_read_elsewhere_first(tmp_path, monkeypatch):
    """Numbers of points that are not there have ended the program inside VTK."""
    CUBE.save(tmp_path / "cube.vtp")
    assert Surface(tmp_path / "cube.vtp").volume == pytest.approx(CUBE.volume)
    monkeypatch.setattr(apart, "READ", "import os; os.abort()")
    with pytest.raises(ConfigError, match=r"cube.vtp: a damaged file, which the library") as info:
        Surface(tmp_path / "cube.vtp")
    one_line(info)
