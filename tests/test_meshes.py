"""Meshes have the shape of the domain, u where the file says, and pictures and ParaView's files hold these numbers."""

import numpy as np
import pytest
import torch
from conftest import F64, configuration
from test_cuts import Linear, Placed

from kanpde import Ansatz, Run, plot
from kanpde.domains import Ball, Box, Cylinder, Polygon, Sampled, Simplex, Surface
from kanpde.plot import volumes
from kanpde.training import cuts
from kanpde.training.meshes import TIMES, clipped, meshes, simplices

pyvista = pytest.importorskip("pyvista")

L = Polygon(((0, 0), (2, 0), (2, 0.9), (1.1, 0.9), (1.1, 2), (0, 2)))
PLATE = Box(2, (-2, -1), (2, 1)) - Ball(2, 0.5, (0.25, 0.0))


class NoLevel(Ball):
    """A ball that says no more than what it contains."""

    def level(self, x):
        raise NotImplementedError


@pytest.fixture(scope="module")
def tube() -> Surface:
    return Surface(
        pyvista.Spline([(0, 0, 0), (1, 0.4, 0.2), (2, 0, 0.6)], 20).tube(radius=0.35, n_sides=16).triangulate()
    )


def made(domain, points=41, volume=21, plane="random", problem=Placed) -> tuple[Ansatz, dict, dict]:
    problem = problem(domain.dim, domain)
    config = configuration(problem, {"slices": {"points": points, "volume": volume, "plane": plane}})
    u = Ansatz(problem, Linear())
    found = cuts.slices(config, u)
    return u, found, meshes(config, u, found)


def as_run(path, domain, **options) -> Run:
    _, slices, found = made(domain, **options)
    run = Run(path)
    run.attrs |= {"problem": "placed", "dim": domain.dim, "time": hasattr(domain, "time"), "backbone": "kan"}
    run.history["step"] = [0.0]
    run.set_slices(slices), run.set_meshes(found)
    run.save()
    return Run.open(path)


SHAPES = {
    "plate": PLATE,
    "L": L,
    "disc": Ball(2),
    "no level": NoLevel(2),
    "triangle": Simplex(2),
    "ball": Ball(3),
    "cube without ball": Box(3) - Ball(3, 0.7),
    "sampled": Sampled(Ball(2), lambda n, g: 0.1 * torch.rand(n, 2, generator=g)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_file_for_paraview_has_the_measure_of_the_domain(name, tmp_path):
    domain = SHAPES[name]
    run = as_run(tmp_path / "r.h5", domain)
    assert tmp_path / "r-domain.vtu" in plot.save_vtk(run, tmp_path)
    mesh = pyvista.read(tmp_path / "r-domain.vtu")
    size = mesh.compute_cell_sizes()["Area" if domain.dim == 2 else "Volume"]
    assert size.min() >= 0 and size.sum() == pytest.approx(domain.volume, rel=0.02)
    inner = torch.from_numpy(np.asarray(mesh.cell_centers().points, float))[:, : domain.dim]
    assert domain.contains(inner).double().mean() > 0.98, "a hole is none of it"
    assert not (tmp_path / "r-random.vti").exists() and not (tmp_path / "r-volume.vti").exists()


def test_the_part_of_a_surface_and_its_boundary(tube, tmp_path):
    run = as_run(tmp_path / "r.h5", tube, points=11, volume=31)
    plot.save_vtk(run, tmp_path)
    body, skin = (pyvista.read(tmp_path / f"r-{name}.vtu") for name in ("domain", "surface"))
    assert body.compute_cell_sizes()["Volume"].sum() == pytest.approx(tube.volume, rel=0.02)
    assert skin.compute_cell_sizes()["Area"].sum() == pytest.approx(tube.area, rel=1e-5)
    assert len(skin.points) > 4 * len(tube.points), "large triangles are split, as u is known at corners alone"
    corners = skin.points[: len(tube.points)]
    np.testing.assert_allclose(corners, tube.points, atol=1e-6)
    np.testing.assert_allclose(skin["u"], skin.points @ [1, 2, 3], atol=1e-5)


@pytest.mark.parametrize("domain", [PLATE, Ball(2), L, Ball(3), NoLevel(3)])
def test_corners_of_the_boundary_lie_on_it(domain):
    """Sides that only one cell has are all on the boundary: cells fit together, and end there."""
    _, _, found = made(domain, points=21, volume=11)
    mesh = found["domain"]
    x = torch.from_numpy(mesh["points"])
    k = x.shape[1]
    sides = np.concatenate([np.delete(mesh["cells"], i, axis=1) for i in range(k + 1)])
    alone, count = np.unique(np.sort(sides, axis=1), axis=0, return_counts=True)
    assert count.max() == 2
    distance = domain.distance(x[np.unique(alone[count == 1])]).abs()
    assert distance.max() < 1e-4
    assert domain.distance(x).min() > -1e-5


@pytest.mark.parametrize("k", [2, 3])
def test_simplices_fill_the_grid_and_keep_what_is_inside(k):
    cells = simplices(4, k)
    assert len(cells) == 3**k * (2 if k == 2 else 6) and (cells.diff(dim=1) > 0).all()
    ends, all_of_them = clipped(cells, torch.ones(4**k, dtype=torch.bool))
    assert torch.equal(ends[:, 0], ends[:, 1]) and torch.equal(ends[:, 0][all_of_them].sort(0)[0], cells.sort(0)[0])
    ends, none = clipped(cells, torch.zeros(4**k, dtype=torch.bool))
    assert not len(ends) and not len(none)


TIMED = {"disc in time": Cylinder(Ball(2), 0.5), "ball in time": Cylinder(Ball(3), 2.0)}
PLACED = {**TIMED, "plate": PLATE, "ball": Ball(3), "ball of 7": Ball(7), "of 4 in time": Cylinder(Ball(4), 2.0)}


@pytest.mark.parametrize("name", PLACED)
def test_values_are_those_of_the_points_and_times_that_the_file_names(name):
    domain = PLACED[name]
    u, slices, found = made(domain, points=11, volume=9)
    named = {2: {"domain"}, 3: {"domain", "plane_01", "plane_02", "plane_12"}}
    space = cuts.space(domain)
    assert set(found) == named.get(space, {"random", "volume"}) | ({"volume"} if name == "disc in time" else set())
    for key, mesh in found.items():
        times = mesh.get("times")
        assert (times is not None) == (name in TIMED and key != "volume")
        for i, t in enumerate([None] if times is None else times):
            x = mesh["origin"] + mesh["points"] @ mesh["axes"]
            x[:, -1] = x[:, -1] if t is None else t
            values = {what: mesh[what] if t is None else mesh[what][i] for what in ("u", "u_exact", "error")}
            expected = u(torch.from_numpy(x).to(F64))
            np.testing.assert_allclose(values["u"], expected.detach(), atol=1e-12)
            np.testing.assert_allclose(values["error"], abs(values["u"] - values["u_exact"]), atol=1e-12)
        if times is not None:
            np.testing.assert_allclose(times, np.linspace(0, domain.time, TIMES))
            assert mesh["time_label"] == "t" and "t =" not in mesh["label"]
        if key in slices and times is None:
            inner = np.isfinite(slices[key]["u"]).sum()
            assert 0.9 * inner <= len(mesh["points"]), "all points of the grid that are inside"


def test_boxes_lines_and_asked_planes():
    assert made(Box(1))[2] == {} and made(Cylinder(Box(1), 1.0))[2] == {}
    _, slices, found = made(Ball(3), plane=[2, 0], volume=0)
    assert set(slices) == {"axes"} == set(found) and list(found["axes"]["axis_labels"]) == ["x3", "x1"]
    assert set(made(Ball(2), plane=[1, 0])[2]) == {"axes", "domain"}
    apart = Ball(3, 0.4, (-1.0, 0, 0)) | Ball(3, 0.4, (1.0, 0, 0))
    assert "plane_12" not in made(apart, volume=15)[2], "between two balls there is nothing"


def test_many_dimensions_are_worked_on_in_parts(monkeypatch):
    monkeypatch.setattr("kanpde.training.meshes.PART", 4096)
    _, _, found = made(Ball(2000), points=9, volume=0)
    t = found["random"]["points"]
    assert np.linalg.norm(t, axis=1).max() == pytest.approx(1, abs=1e-4)


# Files


@pytest.mark.parametrize("name", TIMED)
def test_a_series_in_time_is_read_back(name, tmp_path):
    domain = TIMED[name]
    run = as_run(tmp_path / "a & b.h5", domain, points=11, volume=7)
    paths = plot.save_vtk(run, tmp_path / "vtk")
    reader = pyvista.get_reader(tmp_path / "vtk" / "a & b-domain.pvd")
    np.testing.assert_allclose(reader.time_values, np.linspace(0, domain.time, TIMES))
    assert sum(path.suffix == ".vtu" for path in paths) == TIMES and all(path.exists() for path in paths)
    for t in reader.time_values:
        reader.set_active_time_value(t)
        mesh = reader.read()[0]
        assert set(mesh.point_data.keys()) == {"u", "u_exact", "u_error"}
        weights = np.arange(1, domain.dim + 1)
        expected = mesh.points[:, : domain.dim - 1] @ weights[:-1] + t * weights[-1]
        np.testing.assert_allclose(mesh["u"], expected, atol=1e-5)
    with pytest.raises(ValueError, match="no mesh 'other'; there are: domain"):
        plot.mesh_3d(run, "other")


def test_files_without_meshes_are_drawn_as_before(tmp_path):
    run = as_run(tmp_path / "r.h5", Ball(3), points=9, volume=7)
    run.set_meshes({})
    run.save()
    run = Run.open(run.path)
    assert run.meshes == {} and {path.suffix for path in plot.save_vtk(run, tmp_path)} == {".vti"}
    figure = plot.planes(run, ["plane_01", "plane_02", "plane_12"])
    assert len(figure.axes) == 18


# Pictures


def titles(figure) -> list[str]:
    return [ax.get_title() for ax in figure.axes if ax.get_title()]


def test_a_plane_in_time_is_drawn_at_several_times(tmp_path):
    run = as_run(tmp_path / "r.h5", TIMED["disc in time"], points=11, volume=0)
    figure = plot.over_time(run, ["domain"])
    panels = figure.axes[: 3 * TIMES]
    assert titles(figure) == [f"$t$ = {t:.4g}" for t in np.linspace(0, 0.5, TIMES)]
    assert panels[-1].get_xlabel() == "$x_{1}$" and panels[0].get_ylabel() == "$x_{2}$"
    for i, ax in enumerate(panels):
        assert ax.get_aspect() == 1.0
        np.testing.assert_allclose((*ax.get_xlim(), *ax.get_ylim()), (-1, 1, -1, 1), atol=1e-5)
        data = run.meshes["domain"][("u", "u_exact", "error")[i // TIMES]][i % TIMES]
        assert np.isin(data, ax.collections[0].get_array()).all() or i // TIMES == 2
    names = {path.name for path in plot.main_pictures(run, tmp_path)}
    assert names == {"r-convergence.png", "r-error.png"}


def test_one_coordinate_and_time_is_an_image_and_curves(tmp_path):
    run = as_run(tmp_path / "r.h5", Cylinder(Box(1, 2.0, 5.0), 3.0), points=21)
    u = run.slices["random"]["u"]
    left, right = plot.curves_at_times(run, "random").axes
    drawn = [line for line in left.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in drawn] == [f"$t$ = {t:.4g}" for t in (0, 0.75, 1.5, 2.25, 3)]
    for line, i in zip(drawn, (0, 5, 10, 15, 20), strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.stack([np.linspace(2, 5, 21), u[:, i]], 1))
    assert sum(line.get_linestyle() == "--" for line in left.lines) == 5 and left.get_xlabel() == "$x_{1}$"
    assert [text.get_text() for text in right.texts] == ["zero everywhere"]
    ax = plot.slice_2d(run, "random").axes[0]
    assert (*ax.get_xlim(), *ax.get_ylim()) == (0, 3, 2, 5) and ax.get_xlabel() == "$t$"
    names = {path.name for path in plot.main_pictures(run, tmp_path)}
    assert names == {"r-convergence.png", "r-error.png", "r-times.png"}
    with pytest.raises(ValueError, match="is no plane of a coordinate and time"):
        plot.curves_at_times(as_run(tmp_path / "s.h5", Box(2), points=5), "random")


def test_three_coordinates_are_three_planes_in_the_same_colours(tmp_path):
    run = as_run(tmp_path / "r.h5", Ball(3), points=9, volume=0)
    figure = plot.planes(run, ["plane_01", "plane_02", "plane_12"])
    assert [title.rpartition(", ")[2] for title in titles(figure)] == [f"x{i} = 0" for i in (3, 2, 1) for _ in range(3)]
    first = [figure.axes[i].collections[0].get_clim() for i in (0, 3, 6)]
    assert first == [first[0]] * 3
    assert {path.name for path in plot.main_pictures(run)} == {"r-convergence.png", "r-error.png"}


def test_a_plane_ends_where_the_domain_does(tmp_path):
    run = as_run(tmp_path / "r.h5", PLATE)
    ax = plot.slice_2d(run, "random").axes[0]
    assert (*ax.get_xlim(), *ax.get_ylim(), ax.get_aspect()) == (-2, 2, -1, 1, 1.0)
    corners = ax.collections[0]._triangulation
    at = np.stack([corners.x, corners.y], 1)[corners.triangles].mean(1)
    assert np.hypot(at[:, 0] - 0.25, at[:, 1]).min() > 0.49, "the hole is blank"


def of_system(path, domain) -> Run:
    run = as_run(path, domain, points=9)
    run.attrs["fields"] = "u,v"
    renamed = lambda data: {
        **{key: value for key, value in data.items() if key not in ("u_exact", "error")},
        "v": 2 * data["u"],
        "v_exact": 2 * data["u_exact"],
        "v_error": data["error"],
    }
    run.set_slices({name: renamed(data) for name, data in run.slices.items()})
    run.set_meshes({name: renamed(data) for name, data in run.meshes.items()})
    return run


@pytest.mark.parametrize("domain", [PLATE, Box(1), Cylinder(Box(1), 1.0), Cylinder(Ball(2), 1.0)])
def test_fields_are_rows_of_one_picture(domain, tmp_path):
    run = of_system(tmp_path / "r.h5", domain)
    names = {path.name for path in plot.main_pictures(run, tmp_path)}
    assert "r-error.png" in names and not any("error-" in name for name in names)
    if domain is PLATE:
        said = titles(plot.side_by_side(run, "random"))
        assert said == ["$u$ (network)", "$v$ (network)", "$v^*$ (exact)", "$|v - v^*|$"]
        assert set(plot.mesh_3d(run, "domain").point_data.keys()) == {"u", "v", "v_exact", "v_error"}


@pytest.mark.parametrize("name", ["domain", "surface"])
def test_surfaces_and_bodies_are_photographed(name, tube, tmp_path):
    run = as_run(tmp_path / "r.h5", tube, points=5, volume=11)
    size = np.ptp(run.meshes[name]["points"], axis=0)
    body, sides = volumes._body(plot.volumes.Body.of(run, name), run.meshes[name]["u"])
    np.testing.assert_allclose(sides, size / size.max(), err_msg="true proportions")
    middle = body.cell_centers().points > sides / 2
    assert middle.all(axis=1).any() == (name == "surface"), "a body is cut open"
    try:
        plot.render_3d(run, name, tmp_path / "v.png")
    except RuntimeError as error:
        pytest.skip(str(error))
    assert (tmp_path / "v.png").stat().st_size > 10_000


def test_the_words_of_a_row_of_times_stand_apart(tmp_path):
    run = as_run(tmp_path / "run.h5", Cylinder(Box(2) - Ball(2, 0.5)))
    run.set_meshes({"domain": {k: v for k, v in run.meshes["domain"].items() if k not in ("u_exact", "error")}})
    figure = plot.over_time(run, ["domain"])
    figure.draw_without_rendering()
    top = figure._suptitle.get_window_extent().y0
    for ax in figure.axes[:5]:
        assert ax.title.get_window_extent().y1 <= top and ax.xaxis.label.get_window_extent().y0 >= 0
