"""The pictures and VTK files hold the numbers of the result file; what the file lacks is left out."""

import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from kanpde import Run, plot
from kanpde.plot import curves, slices, volumes

pyvista = pytest.importorskip("pyvista")

DIM = 5
FLOORS = {"constant": 6.6e-2, "additive": 1.2e-2, "broken": float("nan")}


def exact(x):
    return (1 - (x**2).sum(-1)) * np.sin(2 * x[..., 0] + x[..., 1])


def values(x, solved: bool = True) -> dict:
    """u, and u* and |u - u*| if it is known, NaN outside the unit ball."""
    out = (x**2).sum(-1) > 1
    u = np.where(out, np.nan, exact(x) + 1e-2 * np.cos(3 * x[..., 2]) * x[..., 0])
    reference = np.where(out, np.nan, exact(x))
    return {"u": u, "u_exact": reference, "error": abs(u - reference)} if solved else {"u": u}


def cut(axes, ticks, solved: bool = True, **labels: str) -> dict:
    mesh = np.stack(np.meshgrid(*np.broadcast_to(ticks, (len(axes), np.shape(ticks)[-1])), indexing="ij"), -1)
    return {"origin": np.zeros(DIM), "axes": axes, "grid": ticks, **labels, **values(mesh @ axes, solved)}


def interrupted(path, rows: int = 4) -> Run:
    run = Run(path)
    run.attrs |= {"problem": "allen_cahn", "dim": DIM, "backbone": "metakan", "status": "interrupted"}
    for i in range(rows):
        error = [0.5, 0.1, 0.02, 0.03][i]
        run.log(
            {
                "step": 100 * i,
                "loss": error**2,
                "rel_l2": error,
                "rel_l1": 0.8 * error,
                "linf": 2 * error,
                "terms/interior": 0.9 * error**2,
                "terms/boundary": 0.0 if i == 1 else 0.1 * error**2,
            }
        )
    run.floors |= FLOORS
    return run


def complete(path, solved: bool = True, keep_x: bool = True) -> Run:
    run, rng = interrupted(path), np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0]
    run.slices["coordinate"] = cut(np.eye(DIM)[:2], np.linspace(-1, 1, 8), solved)
    run.slices["line"] = cut(axes[:1], np.linspace(-1, 1, 11), solved)
    labels = {"label": "random plane through 0", "axis_labels": "log price, x_1"}
    run.slices["random"] = cut(axes[:2], np.linspace(-1, 1, 9), solved, **labels)
    run.slices["volume"] = cut(axes[:3], np.linspace(-1, 1, 12), solved)
    x = rng.standard_normal((2000, DIM))
    radius = rng.random(2000)
    x *= (radius / np.linalg.norm(x, axis=1))[:, None]
    run.field.update(radius=radius, **values(x, solved), **({"x": x} if keep_x else {}))
    run.save()
    return Run.open(run.path)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return complete(tmp_path_factory.mktemp("run") / "ac.h5")


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are made, and files of their names; most of the time goes into the layout, when a figure is saved."""
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.write_bytes(bytes(200)))


def lines(ax) -> dict:
    return {line.get_label(): line for line in ax.lines}


def line(ax, start: str):
    found = [value for label, value in lines(ax).items() if label.startswith(start)]
    assert len(found) == 1, f"{start!r} in {list(lines(ax))}"
    return found[0]


def names(paths) -> set[str]:
    assert all(path.stat().st_size > 100 for path in paths)
    return {path.name for path in paths}


# Which files


PNG = {"ac-convergence.png", "ac-error.png", "ac-slice-coordinate.png", "ac-slice-line.png"}
PNG |= {"ac-radial.png", "ac-quantiles.png"}
VTK = {"ac-random.vti", "ac-coordinate.vti", "ac-volume.vti", "ac-points.vtp"}


def test_all_files_of_a_complete_run_lie_beside_it(run):
    assert names(plot.plot_run(run, render=False)) == PNG | VTK
    assert {path.name for path in run.path.parent.iterdir()} == {"ac.h5"} | PNG | VTK


def test_another_folder_and_no_vtk(run, tmp_path, unsaved):
    paths = plot.plot_run(run, tmp_path / "new", vtk=False, render=False)
    assert names(paths) == PNG and {path.parent for path in paths} == {tmp_path / "new"}


def test_main_pictures(run, tmp_path, unsaved):
    assert names(plot.main_pictures(run, tmp_path)) == {"ac-convergence.png", "ac-error.png"}


def test_interrupted_run_gives_the_convergence_picture_only(tmp_path, unsaved):
    run = interrupted(tmp_path / "ac.h5")
    assert names(plot.plot_run(run)) == {"ac-convergence.png"}  # in memory, as training holds it
    run.save()
    assert names(plot.plot_run(Run.open(run.path))) == {"ac-convergence.png"}


def test_without_exact_solution_there_are_no_error_distributions(tmp_path, unsaved):
    paths = plot.plot_run(complete(tmp_path / "ac.h5", solved=False), render=False)
    assert names(paths) == (PNG | VTK) - {"ac-radial.png", "ac-quantiles.png"}


def test_without_coordinates_there_are_no_points(tmp_path):
    run = complete(tmp_path / "ac.h5", keep_x=False)
    assert names(plot.save_vtk(run, tmp_path)) == VTK - {"ac-points.vtp"}
    assert plot.radial(run).axes and plot.quantiles(run).axes
    with pytest.raises(ValueError, match="coordinates"):
        volumes.points(run)


def test_error_picture_prefers_the_random_slice_then_a_plane(run, tmp_path, monkeypatch, unsaved):
    drawn = []
    monkeypatch.setattr(plot, "slice_2d", lambda run, name: drawn.append(name) or Figure())
    plot.main_pictures(run, tmp_path)
    other = interrupted(tmp_path / "b.h5")
    other.slices.update({name: run.slices[name] for name in ("line", "coordinate", "volume")})
    plot.main_pictures(other)
    assert drawn == ["random", "coordinate"]


def test_import_is_cheap_and_the_main_pictures_need_no_vtk(run, tmp_path):
    code = f"""
import sys, kanpde.plot
from kanpde import Run
assert not {{"matplotlib", "pyvista", "vtkmodules"}} & sys.modules.keys()
kanpde.plot.main_pictures(Run.open({str(run.path)!r}), {str(tmp_path)!r})
assert not {{"pyvista", "vtkmodules", "matplotlib.pyplot"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Curves


def test_convergence_draws_loss_terms_errors_floors_and_best(run):
    figure = plot.convergence(run)
    loss, error = figure.axes
    assert figure.get_suptitle() == f"allen_cahn, d = {DIM}, metakan"
    assert loss.get_yscale() == error.get_yscale() == "log" and loss.get_xlabel() == "step"
    np.testing.assert_array_equal(line(loss, "loss").get_xdata(), [0, 100, 200, 300])
    np.testing.assert_array_equal(line(loss, "loss").get_ydata(), run.history["loss"])
    np.testing.assert_array_equal(line(loss, "interior").get_ydata(), run.history["terms/interior"])
    assert line(loss, "interior").get_linewidth() < line(loss, "loss").get_linewidth()
    for start, column in (("relative $l^2", "rel_l2"), ("relative $l^1", "rel_l1"), (r"$\max", "linf")):
        np.testing.assert_array_equal(line(error, start).get_ydata(), run.history[column])
    np.testing.assert_array_equal(line(error, "kept").get_xydata(), [[200, 0.02]])
    for name in ("constant", "additive"):
        floor = line(error, f"floor: {name}")
        assert set(floor.get_ydata()) == {FLOORS[name]} and floor.get_linestyle() == "--"
    assert {text.get_text() for text in error.get_legend().get_texts()} == set(lines(error))
    assert not any("broken" in label for label in lines(error)), "a floor that is not a number has no line"


def test_values_that_are_not_positive_are_left_out_and_counted(run):
    boundary = line(plot.convergence(run).axes[0], "boundary")
    np.testing.assert_array_equal(boundary.get_xdata(), [0, 200, 300])
    assert boundary.get_label() == "boundary (1 values <= 0)"


def test_convergence_without_exact_solution_has_the_loss_only(tmp_path):
    run = interrupted(tmp_path / "a.h5")
    run.history |= {name: [np.nan] * 4 for name in ("rel_l2", "rel_l1", "linf")}
    (ax,) = plot.convergence(run).axes
    assert ax.get_ylabel() == "loss" and len(line(ax, "loss").get_xdata()) == 4


def test_convergence_of_a_single_row_shows_dots(tmp_path):
    loss, error = plot.convergence(interrupted(tmp_path / "a.h5", rows=1)).axes
    assert line(loss, "loss").get_marker() == line(error, "relative $l^2").get_marker() == "o"


def test_convergence_before_the_first_row(tmp_path):
    (ax,) = plot.convergence(Run(tmp_path / "a.h5")).axes
    assert [text.get_text() for text in ax.texts] == ["nothing to draw"]


def test_radial_shows_every_point_with_median_and_band(run):
    (ax,) = plot.radial(run).axes
    dots, band = ax.collections
    np.testing.assert_array_equal(dots.get_offsets(), np.stack([run.field["radius"], run.field["error"]], 1))
    assert dots.get_rasterized() and ax.get_yscale() == "log"
    r, median = line(ax, "median").get_data()
    for near, value in zip(r, median, strict=True):  # 50 points a bin, here compared with those within 0.0125
        inside = run.field["error"][abs(run.field["radius"] - near) < 0.0125]
        assert np.quantile(inside, 0.2) < value < np.quantile(inside, 0.8)
    low, high = band.get_paths()[0].get_extents().intervaly
    assert low < median.min() and high > median.max()


def test_bands_hold_ninety_percent():
    radius = np.repeat([0.2, 0.7], 1000)
    error = np.tile(np.arange(1000.0), 2) * np.where(radius < 0.5, 1, 10)
    centre, low, median, high = curves._bands(radius, error)
    assert set(centre) == {0.2, 0.7} and len(centre) == curves.BINS
    np.testing.assert_allclose(median[centre < 0.5].mean(), 499.5, rtol=0.01)
    assert ((error >= low.min()) & (error <= high.max())).mean() > 0.9
    few = curves._bands(radius[:7], error[:7])[:, 0]
    np.testing.assert_allclose(few, [0.2, 0.3, 3.0, 5.7])


def test_quantiles_are_those_of_the_error_over_rms(run):
    (ax,) = plot.quantiles(run).axes
    relative = run.field["error"] / np.sqrt(np.mean(run.field["u_exact"] ** 2))
    level, value = line(ax, "test points").get_data()
    np.testing.assert_allclose(value, np.sort(relative))
    np.testing.assert_allclose(level[[0, -1]], [0.025, 99.975])
    for q in (50, 90, 99):
        mark = line(ax, f"{q} % below")
        np.testing.assert_allclose(mark.get_xydata(), [[q, np.quantile(relative, q / 100)]], rtol=1e-2)


@pytest.mark.parametrize("picture", [plot.radial, plot.quantiles])
def test_distributions_need_errors(picture, tmp_path):
    with pytest.raises(ValueError, match=r"a\.h5: no error at the test points"):
        picture(interrupted(tmp_path / "a.h5"))


# Slices


def test_plane_has_four_panels_with_the_slice(run):
    figure = plot.slice_2d(run, "random")
    panels, data = figure.axes[:4], run.slices["random"]
    relative = data["error"] / np.nanmax(abs(data["u_exact"]))
    for ax, values in zip(panels, (data["u"], data["u_exact"], data["error"], relative), strict=True):
        array = ax.collections[0].get_array()
        np.testing.assert_array_equal(np.ma.getmaskarray(array), np.isnan(values).T, "the outside is blank")
        np.testing.assert_array_equal(array.filled(np.nan), values.T)
        assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_aspect()) == ("log price", "$x_1$", 1.0)
    assert panels[0].collections[0].get_clim() == panels[1].collections[0].get_clim()
    assert panels[0].collections[0].get_cmap().name == "RdBu_r"
    assert isinstance(panels[2].collections[0].norm, LogNorm)
    assert r"\max\,|u^*|" in panels[3].get_title()
    assert figure.get_suptitle().endswith("\nrandom plane through 0")
    assert len(figure.axes) == 8, "a colour bar per panel"


def test_horizontal_axis_is_the_first_of_the_slice(tmp_path):
    run = interrupted(tmp_path / "a.h5")
    ticks = np.array([[0.0, 1.0, 2.0], [0.0, 10.0, 20.0]])
    run.slices["s"] = {"axes": np.eye(DIM)[:2], "grid": ticks, "u": np.arange(9.0).reshape(3, 3)}
    run.save()
    figure = plot.slice_2d(Run.open(run.path), "s")
    ax, _bar = figure.axes
    mesh = ax.collections[0]
    assert mesh.get_array()[2, 0] == 2.0, "u at the first tick of a and the last of b"
    np.testing.assert_array_equal(ax.get_xlim() + ax.get_ylim(), (0.0, 2.0, 0.0, 20.0))
    assert ax.get_aspect() == "auto" and (ax.get_xlabel(), ax.get_ylabel()) == ("$a$", "$b$")
    assert figure.get_suptitle().endswith("\nslice s")


def test_line_has_curves_and_errors(run):
    (left, right), data = plot.slice_2d(run, "line").axes, run.slices["line"]
    np.testing.assert_array_equal(line(left, "$u$").get_xydata(), np.stack([data["grid"], data["u"]], 1))
    np.testing.assert_array_equal(line(left, "$u^*$").get_ydata(), data["u_exact"])
    drawn = line(right, "$|u - u^*|$").get_ydata()
    np.testing.assert_array_equal(drawn, np.where(data["error"] > 0, data["error"], np.nan))
    assert right.get_yscale() == "log" and left.get_xlabel() == "$a$"


def test_slices_without_exact_solution_show_u_only(tmp_path):
    run = complete(tmp_path / "a.h5", solved=False)
    assert len(plot.slice_2d(run, "random").axes) == 2  # with its colour bar
    (ax,) = plot.slice_2d(run, "line").axes
    assert list(lines(ax)) == ["$u$ (network)"]
    said = [plot.slice_2d(run, name).axes[0].get_title() for name in ("random", "line")]
    assert all("no exact solution" in title for title in said), "the pictures say why there is no error"


@pytest.mark.parametrize("label", ["über", "über".encode(), np.array("über"), np.array("über".encode(), dtype=object)])
def test_labels_of_any_string_type(run, tmp_path, label):
    other = interrupted(tmp_path / "a.h5")
    other.slices["s"] = run.slices["random"] | {"label": label, "axis_labels": b"only one"}
    found = slices.Slice.of(other, "s")
    assert found.label == "über" and found.axis_labels == ("a", "b")


def test_unknown_and_unsuitable_slices_are_named(run):
    with pytest.raises(ValueError, match="no slice 'other'; there are: coordinate, line, random, volume"):
        plot.slice_2d(run, "other")
    with pytest.raises(ValueError, match="'volume' has 3 axes"):
        plot.slice_2d(run, "volume")
    with pytest.raises(ValueError, match="'line' has 1 axes"):
        plot.grid_3d(run, "line")


@pytest.mark.parametrize("change", [{"u": np.nan}, {"u_exact": 0.0}, {"error": 0.0}, {"u": np.inf, "error": np.inf}])
def test_diverged_or_trivial_slices_are_drawn(run, tmp_path, change):
    other = interrupted(tmp_path / "a.h5")
    for name in ("random", "line"):
        data = run.slices[name]
        other.slices[name] = data | {key: np.where(np.isnan(data["u"]), np.nan, value) for key, value in change.items()}
    assert names(plot.plot_run(other, vtk=False)) == {"a-convergence.png", "a-error.png", "a-slice-line.png"}


@pytest.mark.parametrize("low, colours, limits", [(-2.0, "RdBu_r", (-3.0, 3.0)), (0.5, "viridis", (0.5, 3.0))])
def test_colours_diverge_about_zero_only_for_both_signs(low, colours, limits):
    name, norm = slices.value_colours(np.array([low, np.nan]), np.array([3.0]))
    assert name == colours and (norm.vmin, norm.vmax) == limits


# VTK


@pytest.mark.parametrize("name", ["coordinate", "volume"])
def test_vti_holds_the_slice(run, tmp_path, name):
    assert tmp_path / f"ac-{name}.vti" in plot.save_vtk(run, tmp_path)
    grid, data = pyvista.read(tmp_path / f"ac-{name}.vti"), run.slices[name]
    shape = data["u"].shape
    assert grid.dimensions[: len(shape)] == shape
    for key in ("u", "u_exact", "error"):
        np.testing.assert_array_equal(grid[key].reshape(shape, order="F"), data[key])
    np.testing.assert_allclose(grid["relative_error"] * np.nanmax(abs(data["u_exact"])), grid["error"])
    # where the file says a point lies is where the value was taken
    position = grid.points[:, : len(shape)] @ data["axes"]
    np.testing.assert_allclose(grid["u"], values(position)["u"], rtol=1e-5, atol=1e-5)


def test_outside_is_blank_in_vtk(run, tmp_path):
    plot.save_vtk(run, tmp_path)
    grid = pyvista.read(tmp_path / "ac-volume.vti")
    outside = np.isnan(run.slices["volume"]["u"]).ravel(order="F")
    assert 0 < outside.sum() < len(outside)
    np.testing.assert_array_equal(grid["inside"] == 0, outside)
    np.testing.assert_array_equal(grid["vtkGhostType"] == volumes.HIDDEN_POINT, outside)


def test_inside_of_a_diverged_run_is_that_of_the_exact_solution(run, tmp_path):
    other = interrupted(tmp_path / "a.h5")
    other.slices["s"] = run.slices["volume"] | {"u": np.full((12,) * 3, np.nan)}
    np.testing.assert_array_equal(plot.grid_3d(other, "s")["inside"], plot.grid_3d(run, "volume")["inside"])


def test_uneven_ticks_are_refused(run, tmp_path):
    other = interrupted(tmp_path / "a.h5")
    other.slices["s"] = run.slices["random"] | {"grid": np.linspace(0, 1, 9) ** 2}
    with pytest.raises(ValueError, match="not equidistant"):
        plot.grid_3d(other, "s")


def test_points_hold_the_field(run, tmp_path):
    plot.save_vtk(run, tmp_path)
    cloud = pyvista.read(tmp_path / "ac-points.vtp")
    np.testing.assert_allclose(cloud.points, run.field["x"][:, :3], rtol=1e-6)
    for key in ("u", "u_exact", "error", "radius"):
        np.testing.assert_array_equal(cloud[key], run.field[key])


def test_points_of_a_plane_get_a_zero(tmp_path):
    run = interrupted(tmp_path / "a.h5")
    run.field.update(x=np.array([[1.0, 2.0], [3.0, 4.0]]), u=np.array([5.0, 6.0]))
    np.testing.assert_array_equal(volumes.points(run).points, [[1, 2, 0], [3, 4, 0]])


# Volumes


def test_render_shows_both_fields(run, tmp_path):
    try:
        plot.render_3d(run, "volume", tmp_path / "v.png")
    except RuntimeError as error:
        pytest.skip(str(error))
    image = matplotlib.image.imread(tmp_path / "v.png")[..., :3]
    assert (image[0, 0] == 1).all(), "the background is white"
    coloured = np.ptp(image, axis=2) > 0.2
    left, right = np.array_split(coloured, 2, axis=1)
    assert left.mean() > 0.03 and right.mean() > 0.03
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_body_is_cut_open_inside_the_domain(run):
    cut = slices.Slice.of(run, "volume")
    body = volumes._solid(cut, cut.u)
    t = 2 * body.points - 1  # the unit cube back to the ticks
    assert np.linalg.norm(t, axis=1).max() < 1.15, "at most half a cell beyond the ball"
    for corner in np.ndindex(2, 2, 2):
        there = (np.where(corner, t, -t) > 0.15).all(axis=1).any()
        assert there == (corner != (1, 1, 1)), f"octant {corner}: only the one facing the viewer is gone"
    assert np.isfinite(body["values"]).all()
    grid_points = np.isclose(body.points * 11 % 1, 0, atol=1e-4) | np.isclose(body.points * 11 % 1, 1, atol=1e-4)
    deep = grid_points.all(axis=1) & (np.linalg.norm(t, axis=1) < 0.8)
    position = t[deep] @ run.slices["volume"]["axes"]
    np.testing.assert_allclose(body["values"][deep], values(position)["u"], atol=1e-5)


def test_a_machine_that_cannot_render_keeps_the_other_pictures(run, tmp_path, monkeypatch, unsaved):
    monkeypatch.setattr(volumes, "PROBE", "import os; os.abort()")
    volumes._require_rendering.cache_clear()
    with pytest.warns(RuntimeWarning, match="VTK cannot render on this machine") as caught:
        paths = plot.plot_run(run, tmp_path)
    assert names(paths) == PNG | VTK and len(caught) == 1
    assert "\n" not in str(caught[0].message)


def test_volume_pictures_are_named_after_the_run(run, tmp_path, monkeypatch, unsaved):
    monkeypatch.setattr(plot, "render_3d", lambda run, name, path: path.write_text(name * 50))
    other = interrupted(tmp_path / "a.h5")
    other.slices.update(v=run.slices["volume"], w=run.slices["volume"])
    _, first, second = plot.plot_run(other, vtk=False)
    assert (first.name, first.read_text()) == ("a-volume.png", 50 * "v")
    assert (second.name, second.read_text()) == ("a-volume-w.png", 50 * "w")
