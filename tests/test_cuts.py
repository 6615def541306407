"""Slices lie where the domain does, along coordinates by name, time among them; what lies outside is counted."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import F64, configuration
from torch import nn

import kanpde
from kanpde import Ansatz, Run, plot
from kanpde.domains import Ball, Box, Cylinder
from kanpde.domains.base import frame_of
from kanpde.plot.slices import Slice
from kanpde.problems.fitting import Function
from kanpde.runs.predict import off_range, predict
from kanpde.training import cuts


class Linear(nn.Module):
    """u(x) = 1 x_1 + 2 x_2 + 3 x_3 + ..., which tells where it was evaluated."""

    def __init__(self):
        super().__init__()
        self.unit = nn.Parameter(torch.ones(1, dtype=F64))

    def forward(self, x):
        return self.unit * linear(x)[:, None]


def linear(x):
    return (x * torch.arange(1, x.shape[1] + 1, dtype=x.dtype)).sum(-1)


@dataclass(frozen=True)
class Oblong:
    """(0, 1) x (2, 5) x (-4, 0), whose frame has a half-width per coordinate."""

    dim = 3
    laws = ("volume",)

    def interior(self, *args, **kind):
        return Box(3, (0, 2, -4), (1, 5, 0)).interior(*args, **kind)

    def input_range(self, law):
        return [(0.0, 1.0), (2.0, 5.0), (-4.0, 0.0)]

    def frame(self):
        return [0.5, 3.5, -2.0], [0.5, 1.5, 2.0]

    def contains(self, x):
        low, high = x.new_tensor([[0, 2, -4], [1, 5, 0]])
        return ((x >= low) & (x <= high)).all(-1)


class Unbounded:
    """A domain that tells neither what it contains nor where its middle is."""

    dim = 2
    laws = ("volume",)


@dataclass(frozen=True)
class Placed(kanpde.Problem):
    """u and u* are the same linear function of the coordinates."""

    where: object = None
    names: tuple = ()

    @property
    def domain(self):
        return self.where

    def factor(self, x):
        return None

    def residual(self, u, x):
        return u.value

    def exact(self, x):
        return linear(x)


def sliced(domain, points=5, volume=4, plane="random", names=()) -> tuple[Ansatz, dict]:
    problem = Placed(domain.dim, domain, names)
    config = configuration(problem, {"slices": {"points": points, "volume": volume, "plane": plane}})
    u = Ansatz(problem, Linear())
    return u, cuts.slices(config, u)


def labels(data) -> list[str]:
    return list(data.get("axis_labels", []))


TIME = Cylinder(Box(1, 0.0, 1.0), 3.0)
DISC = Cylinder(Ball(2), 0.5)
CASES = {  # domain, plane: name, axes, ranges of the axes, caption
    "unit square": (Box(2, 0.0, 1.0), "random", "random", ["x1", "x2"], [(0, 1), (0, 1)], "the whole domain"),
    "a line": (Box(1, 2.0, 5.0), "random", "random", ["x1"], [(2, 5)], "the whole domain"),
    "space and time": (TIME, "random", "random", ["x1", "t"], [(0, 1), (0, 3)], "the whole domain"),
    "time asked for": (TIME, [1, 0], "axes", ["t", "x1"], [(0, 3), (0, 1)], "the whole domain"),
    "disc in time": (DISC, "random", "random", ["x1", "x2"], [(-1, 1), (-1, 1)], "x1, x2 at t = 0.25"),
    "disc along time": (DISC, [0, 2], "axes", ["x1", "t"], [(-1, 1), (0, 0.5)], "x1, t at x2 = 0"),
    "user's": (Oblong(), [1, 2], "axes", ["x2", "x3"], [(2, 5), (-4, 0)], "x2, x3 at x1 = 0.5"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_plane_has_the_coordinates_of_the_domain(case):
    domain, plane, name, axes, ranges, caption = CASES[case]
    _, found = sliced(domain, plane=plane)
    data = found[name]
    assert labels(data) == axes and data["label"] == caption
    np.testing.assert_allclose(np.stack([data["grid"][:, 0], data["grid"][:, -1]], 1), ranges)


@pytest.mark.parametrize("domain", [*(case[0] for case in CASES.values()), Ball(5), Cylinder(Box(4, 2.0, 3.0), 2.0)])
def test_values_are_those_of_the_points_that_the_file_names(domain):
    """x = origin + sum_i t_i axes_i for every slice, flat or not, and the whole of a box is inside."""
    _, found = sliced(domain)
    assert ("volume" in found) == (domain.dim >= 3)
    for data in found.values():
        k = len(data["axes"])
        ticks = np.broadcast_to(data["grid"], (k, np.shape(data["grid"])[-1]))
        x = data["origin"] + np.stack(np.meshgrid(*ticks, indexing="ij"), -1) @ data["axes"]
        expected = x @ np.arange(1, domain.dim + 1)
        seen = np.isfinite(data["u"])
        assert seen.any() and (seen.all() or not isinstance(domain, Box))
        np.testing.assert_allclose(data["u"][seen], expected[seen], atol=1e-12)
        np.testing.assert_allclose(data["error"][seen], 0, atol=1e-12)


def test_three_coordinates_with_time_are_a_volume():
    _, found = sliced(DISC)
    volume = found["volume"]
    assert labels(volume) == ["x1", "x2", "t"] and volume["label"] == "the whole domain"
    np.testing.assert_allclose(volume["grid"][2], np.linspace(0, 0.5, 4))


def test_random_planes_have_letters_and_the_time_that_they_are_taken_at():
    _, found = sliced(Cylinder(Box(4, 2.0, 3.0), 2.0))
    data = found["random"]
    assert labels(data) == [] and data["label"] == "random 2-D subspace through the centre, t = 1"
    np.testing.assert_allclose(data["origin"], [2.5] * 4 + [1.0])
    np.testing.assert_allclose(data["axes"] @ data["axes"].T, np.eye(2), atol=1e-12)
    assert not data["axes"][:, -1].any()
    _, found = sliced(Box(4, 0.0, (1.0, 2.0, 3.0, 4.0)))
    assert found["random"]["label"].endswith("in half-widths of the coordinates")


def test_three_coordinates_of_space_have_three_planes():
    for domain, at in ((Oblong(), ["x3 = -2", "x2 = 3.5", "x1 = 0.5"]), (Cylinder(Oblong(), 2.0), [])):
        _, found = sliced(domain)
        assert list(found) == ["plane_01", "plane_02", "plane_12", "volume"]
        assert [labels(data) for data in found.values()][:3] == [["x1", "x2"], ["x1", "x3"], ["x2", "x3"]]
        said = [data["label"].partition(" at ")[2] for data in found.values()]
        assert said[:3] == (at or ["x3 = -2, t = 1", "x2 = 3.5, t = 1", "x1 = 0.5, t = 1"])


def test_coordinates_have_the_names_of_the_problem():
    assert cuts.coordinate_names(Placed(2, Box(2), ("price", "rate"))) == ["price", "rate"]
    assert cuts.coordinate_names(Placed(2, Box(2), ("one",))) == ["x1", "x2"], "names that are not of the coordinates"

    class Named(Placed):
        coordinates = ("x", "y")

    assert cuts.coordinate_names(Named(2, Box(2))) == ["x", "y"]
    assert cuts.coordinate_names(Placed(2, DISC)) == ["x1", "x2", "t"]
    assert cuts.coordinate_names(Function(formula="a*b", ranges={"a": (0, 1), "b": (2, 3)})) == ["a", "b"]
    _, found = sliced(Box(2), names=("price, net", "rate"))
    assert labels(found["random"]) == ["price, net", "rate"]


def as_run(path, domain, **options) -> Run:
    run = Run(path)
    _, found = sliced(domain, **options)
    rng = np.random.default_rng(0)
    centre, reach = (t.numpy() for t in frame_of(domain))
    run.attrs["time"] = hasattr(domain, "time")
    run.field.update(x=centre + reach * rng.uniform(-1, 1, (4000, domain.dim)), u=np.zeros(4000))
    run.history["step"] = [0.0]
    run.set_slices(found)
    run.save()
    return Run.open(path)


@pytest.mark.parametrize("case", [case for case in CASES if case != "a line"])
def test_grids_for_paraview_lie_among_the_test_points(case, tmp_path):
    pyvista = pytest.importorskip("pyvista")
    domain, plane, *_ = CASES[case]
    run = as_run(tmp_path / "r.h5", domain, plane=plane)
    plot.save_vtk(run, tmp_path)
    cloud = pyvista.read(tmp_path / "r-points.vtp")
    for name, data in run.slices.items():
        grid = pyvista.read(tmp_path / f"r-{name}.vti")
        seen = np.isfinite(grid["u"])
        weights = np.arange(1, domain.dim + 1)
        np.testing.assert_allclose(grid.points[seen][:, : domain.dim] @ weights, grid["u"][seen], atol=1e-5)
        if len(data["axes"]) == domain.dim:
            np.testing.assert_allclose(grid.bounds, cloud.bounds, atol=5e-3 * np.ptp(cloud.points))


def test_pictures_are_labelled_with_names_that_are_no_mathematics(tmp_path):
    """A comma in a name is no new axis, and dollars do not begin a formula."""
    run = as_run(tmp_path / "r.h5", Box(2, 0.0, 1.0), names=("cost, $a$", "x_{$"))
    assert Slice.of(run, "random").axis_labels == ("cost, $a$", "x_{$")
    figure = plot.slice_2d(run, "random")
    figure.savefig(tmp_path / "r.png", dpi=20)  # of mathematics that is none, matplotlib raises here
    assert figure.axes[0].get_xlabel() == r"cost, \$a\$"
    run = as_run(tmp_path / "t.h5", TIME)
    ax = plot.slice_2d(run, "random").axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$t$", "$x_{1}$"), "time goes to the right"
    np.testing.assert_array_equal(ax.collections[0].get_array(), run.slices["random"]["u"])
    run = as_run(tmp_path / "a.h5", TIME, plane=[0, 1])
    assert plot.slice_2d(run, "axes").axes[0].get_xlabel() == "$x_{1}$", "unless it is asked for otherwise"


# Rows outside the domain

ROWS = torch.tensor([[0.5, 0.5], [1.0, 3.0], [1.5, 0.5], [0.5, 3.1], [0.5, -0.1]], dtype=F64)


def test_rows_outside_the_domain_are_counted_in_space_and_in_time():
    u, _ = sliced(TIME)
    assert off_range(u, ROWS) == pytest.approx(3 / 5)
    u, _ = sliced(Box(2, 0.0, 1.0))
    assert off_range(u, ROWS) == pytest.approx(4 / 5)


def test_the_boundary_is_inside_whatever_rounding_does():
    ball, x = Ball(7, 0.3), torch.randn(500, 7, generator=torch.Generator().manual_seed(0), dtype=F64)
    x = 0.3 * x / x.norm(dim=1, keepdim=True)
    assert cuts.inside(ball, x).all() and not cuts.inside(ball, 1.001 * x).any()
    assert cuts.inside(Box(1, 0.1, 0.7), torch.tensor([[0.1], [0.7]])).all()


def test_a_domain_that_does_not_tell_counts_none():
    assert off_range(Ansatz(Placed(2, Unbounded()), Linear()), ROWS) == 0


def test_predict_calls_time_t_and_reads_it_by_its_number_too(tmp_path, monkeypatch):
    u, _ = sliced(TIME)
    run = Run(tmp_path / "r.h5")
    monkeypatch.setattr(Run, "load_model", lambda self, trust: u)
    monkeypatch.setattr("kanpde.runs.predict.output_name", lambda run, table: "u")
    for names in (("x1", "t"), ("x1", "x2"), ("t", "x1")):
        path = tmp_path / f"{'-'.join(names)}.csv"
        first, second = (0.25, 2.0) if names[0] == "x1" else (2.0, 0.25)
        path.write_text(f"{names[0]},{names[1]}\n{first},{second}\n9,9\n")
        found, off = predict(run, path)
        assert off == 0.5 and found["u"][0] == 0.25 + 2 * 2.0
