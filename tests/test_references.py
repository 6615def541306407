"""References: solutions in files, of the kinds that others write; points of interest; what is left of equations."""

from dataclasses import dataclass
from math import pi
from pathlib import Path

import h5py
import numpy as np
import pytest
import pyvista
import scipy.io
import torch
from conftest import call

import kanpde
from kanpde.domains import Box, Cylinder
from kanpde.ground import apart
from kanpde.ground.errors import ConfigError
from kanpde.plot import main_pictures
from kanpde.problems import AllenCahnPaths, BlackScholesBarenblatt, HJBControl
from kanpde.problems.conditions import Dirichlet, Initial, Observations
from kanpde.problems.interest import points_of_interest
from kanpde.records import arrays, columns
from kanpde.runs.predict import predict
from kanpde.training import known, remaining
from kanpde.training.known import Known

FEW = {
    "backbone": {"name": "chebykan", "widths": [4], "degree": 4},
    "phases": [{"optimizer": "gauss_newton", "steps": 3}],
    "points": {"interior": 40, "test": 300, "validation": 64},
    "evaluation": {"every": 3},
    "slices": {"points": 9},
    "start": "network",
    "dtype": "float64",
    "verify": False,
}


@dataclass(frozen=True)
class OnRod(kanpde.Problem):
    """On (0, 1) x (0, 2)."""

    dim: int = 1
    coordinates = ("x", "t")

    @property
    def domain(self):
        return Cylinder(Box(1, 0, 1), 2.0)


class Heat(OnRod):
    """u_t = u_xx / pi^2, u = exp(-t) sin(pi x)"""

    def residual(self, u, x):
        return u.t - u.xx / pi**2

    def initial_value(self, x):
        return torch.sin(pi * x[:, 0])


class Solved(Heat):
    """The same with its solution."""

    def exact(self, x):
        return torch.exp(-x[:, 1]) * torch.sin(pi * x[:, 0])


class Rotation(OnRod):
    """v_t = w, w_t = -v at each x, from (sin pi x, 0)"""

    fields = ("v", "w")
    conditions = (Initial(lambda x: torch.sin(pi * x[:, 0]), field="v"), Initial(0.0, field="w"))

    def residual(self, u, x):
        return {"first": u.v.t - u.w.value, "second": u.w.t + u.v.value}


X, T = np.linspace(0, 1, 7), np.linspace(0, 2, 5)
GRID = np.stack(np.meshgrid(X, T, indexing="ij"), -1)  # (7, 5, 2)
U = np.exp(-GRID[..., 1]) * np.sin(pi * GRID[..., 0])
V, W = np.sin(pi * GRID[..., 0]) * np.cos(GRID[..., 1]), -np.sin(pi * GRID[..., 0]) * np.sin(GRID[..., 1])


def rows_of(reference: kanpde.Reference, problem=None) -> np.ndarray:
    """Points and values (N, d + K), sorted by the points."""
    rows = reference.open(problem or Heat())
    found = np.concatenate(rows.at(np.arange(rows.count)), 1)
    return found[np.lexsort(found[:, 1::-1].T)]


EXPECTED = np.concatenate([GRID.reshape(-1, 2), U.reshape(-1, 1)], 1)


# ---------------------------------------------------------------------------------------------------------------
# Files of all kinds


def mat(path: Path) -> dict:
    scipy.io.savemat(path, {"x": X, "tt": T, "uu": U})  # as rows (1, n), as in public benchmarks
    return {}


def mat_of_meshgrid(path: Path) -> dict:
    scipy.io.savemat(path, {"X": GRID[..., 0].T, "T": GRID[..., 1].T, "u": U.T})
    return {"coordinates": {"x": "X", "t": "T"}}


def mat_73(path: Path) -> dict:
    """The layout of MATLAB's v7.3: HDF5 behind 512 bytes, axes from the last to the first."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, a in {"x": X[:, None], "t": T[None], "usol": U}.items():
            file[name] = a.T
            file[name].attrs["MATLAB_class"] = np.bytes_("double")
        file["#refs#/a"] = np.zeros(3)
    header = "MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124).encode() + b"\x00\x02IM"
    with path.open("r+b") as file:
        file.write(header)
    return {}


def npz(path: Path) -> dict:
    np.savez(path, x=X, t=T, u=U.T, label=np.array(["not", "numbers"]))
    return {"axes": ["t", "x"]}


def npz_of_points(path: Path) -> dict:
    np.savez(path, x=EXPECTED[:, :2], values=EXPECTED[:, 2])
    return {"coordinates": {"x": "x[0]", "t": "x[1]"}}


def csv(path: Path) -> dict:
    text = "\n".join(",".join(map(repr, row)) for row in EXPECTED[::-1].tolist())
    path.write_text(f"x,t,u\n{text}\n")
    return {}


def comsol(path: Path) -> dict:
    """Wide: a column for each time, in other units, of which a name is longer than its place."""
    names = "".join(f"{f'u (mol/m^3) @ t={t:g}':<25}" for t in T)
    head = f"% Model:              heat.mph\n% Dimension:          1\n% Length unit:        mm\n% {'X':<24}{names}\n"
    rows = np.concatenate([1000 * X[:, None], U / 2], 1)
    path.write_text(head + "\n".join("   ".join(map(repr, row)) for row in rows.tolist()) + "\n")
    return {"units": {"x": 0.001, "u": 2.0}}


def comsol_of_points(path: Path) -> dict:
    rows = "\n".join("  ".join(map(repr, row)) for row in EXPECTED.tolist())
    path.write_text(f"% Version:  COMSOL 6.1\n% x                       t  u (1)\n{rows}\n")
    return {}


def pdebench(path: Path) -> dict:
    """(sample, t, x), with a time more than there are values."""
    with h5py.File(path, "w") as file:
        file["tensor"] = np.stack([U.T + 1, U.T]).astype("<f8")
        file["x-coordinate"], file["t-coordinate"] = X, np.append(T, 2.5)
    return {"sample": 1}


def vtu(path: Path) -> dict:
    points = np.concatenate([EXPECTED[:, :2], np.zeros((len(EXPECTED), 1))], 1)
    mesh = pyvista.PolyData(points).delaunay_2d().cast_to_unstructured_grid()
    mesh["velocity"] = np.stack([EXPECTED[:, 2], EXPECTED[:, 0]], 1)
    mesh.save(path)
    return {"coordinates": {"t": "y"}, "fields": {"u": "velocity[0]"}}


def pvd(path: Path) -> dict:
    """A series of meshes with a list of their times."""
    listed = ""
    for k, t in enumerate(T):
        mesh = pyvista.PolyData(np.stack([X, 0 * X, 0 * X], 1))
        mesh["u"] = U[:, k]
        mesh.save(path.with_name(f"step{k}.vtp"))
        listed += f'<DataSet timestep="{t}" file="step{k}.vtp"/>'
    path.write_text(f'<VTKFile type="Collection" version="0.1"><Collection>{listed}</Collection></VTKFile>')
    return {}


WRITERS = {
    ".mat": (mat, mat_of_meshgrid, mat_73),
    ".npz": (npz, npz_of_points),
    ".csv": (csv,),
    ".dat": (comsol, comsol_of_points),
    ".hdf5": (pdebench,),
    ".vtu": (vtu,),
    ".pvd": (pvd,),
}
CASES = [(writer, ending) for ending, writers in WRITERS.items() for writer in writers]


@pytest.mark.parametrize("writer, ending", CASES, ids=[writer.__name__ for writer, _ in CASES])
def test_numbers_are_those_that_the_writer_of_a_format_was_given(writer, ending, tmp_path):
    path = tmp_path / f"solution{ending}"
    options = writer(path)
    found = rows_of(kanpde.Reference(path, **options))
    assert found.shape == EXPECTED.shape
    np.testing.assert_allclose(found, EXPECTED, rtol=1e-15, atol=0 if ending != ".dat" else 1e-16)


def test_files_of_meshio(tmp_path, monkeypatch):
    meshio = pytest.importorskip("meshio", reason="meshio is not installed")
    monkeypatch.chdir(tmp_path)  # where it writes the numbers of a series
    points = np.stack([np.tile(X, 2), np.repeat([0.0, 1.0], len(X)), np.zeros(2 * len(X))], 1)
    cells = pyvista.PolyData(points).delaunay_2d().regular_faces
    u = np.concatenate([U, U])
    still = lambda k: meshio.Mesh(points, [("triangle", cells)], point_data={"u": u[:, k]})
    with meshio.xdmf.TimeSeriesWriter("series.xdmf") as writer:
        writer.write_points_cells(points, [("triangle", cells)])
        for k, t in enumerate(T):
            writer.write_data(t, point_data={"u": u[:, k]})
    both = np.sort(np.concatenate([EXPECTED, EXPECTED]), 0)
    np.testing.assert_array_equal(np.sort(rows_of(kanpde.Reference("series.xdmf")), 0), both)
    for name in ("still.vtu", "still.xdmf", "still.vtk"):
        still(2).write(name)
        contents = arrays.read(name).arrays
        np.testing.assert_array_equal(contents["u"].whole(), u[:, 2])
        np.testing.assert_array_equal(contents["x"].whole(), points[:, 0])
    Path("series.h5").rename("elsewhere.h5")
    with pytest.raises(ConfigError, match=r"series.xdmf: it needs series.h5, which is not there"):
        rows_of(kanpde.Reference("series.xdmf"))


def test_what_is_known_of_cells_is_read_at_their_centres(tmp_path):
    grid = pyvista.RectilinearGrid([0.0, 0.2, 1.0], [0.0, 2.0], [0.0])
    grid.cell_data["u"] = [3.0, 4.0]
    grid.cast_to_unstructured_grid().save(tmp_path / "volumes.vtu")
    found = rows_of(kanpde.Reference(tmp_path / "volumes.vtu", coordinates={"x": "x", "t": "y"}))
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], [[0.1, 1, 3], [0.6, 1, 4]], rtol=1e-6)


@pytest.mark.parametrize("ending", [".npz", ".csv"])
def test_a_snapshot_is_at_the_time_that_is_stated(ending, tmp_path):
    path = tmp_path / f"snapshot{ending}"
    if ending == ".npz":
        np.savez(path, x=X, u=U[:, 2])
    else:
        np.savetxt(path, np.stack([X, U[:, 2]], 1), delimiter=",", header="x,u", comments="")
    found = rows_of(kanpde.Reference(path, coordinates={"x": "x", "t": 0.5}))
    np.testing.assert_array_equal(found, np.stack([X, np.full_like(X, 0.5), U[:, 2]], 1))


@pytest.mark.parametrize("ending", [".mat", ".h5"])
def test_complex_arrays_are_two_fields(ending, tmp_path):
    path, psi = tmp_path / f"nls{ending}", V + 1j * W
    if ending == ".mat":
        scipy.io.savemat(path, {"x": X, "tt": T, "uu": psi})
    else:  # as MATLAB has them in HDF5
        path = path.with_name("nls73.mat")
        with h5py.File(path, "w") as file:
            parts = np.empty(psi.T.shape, dtype=[("real", "<f8"), ("imag", "<f8")])
            parts["real"], parts["imag"] = psi.T.real, psi.T.imag
            file["x"], file["tt"], file["uu"] = X[None], T[:, None], parts
    found = rows_of(kanpde.Reference(path, {"v": "uu.real", "w": "uu.imag"}), Rotation())
    np.testing.assert_array_equal(found[:, 2:], np.stack([V.ravel(), W.ravel()], 1))
    with pytest.raises(ConfigError, match=r"uu is complex; say v: uu.real, uu.imag or uu.abs"):
        rows_of(kanpde.Reference(path, {"v": "uu"}), Rotation())


def test_units_shift_and_a_field_that_is_not_known(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, t=T, v=V)
    options = {"units": {"x": 2.0, "v": 3.0}, "shift": {"x": 1.0, "v": -1.0}}
    found = rows_of(kanpde.Reference(tmp_path / "a.npz", **options), Rotation())
    np.testing.assert_array_equal(found[:, 0], 2 * GRID[..., 0].ravel() + 1)
    np.testing.assert_array_equal(found[:, 2], 3 * V.ravel() - 1)
    assert np.isnan(found[:, 3]).all()
    assert kanpde.Reference(tmp_path / "a.npz").open(Rotation()).said == ["w not in it"]


def test_axes_of_one_length_are_told_apart_by_what_is_stated_alone(tmp_path):
    path, square = tmp_path / "a.npz", np.arange(25.0).reshape(5, 5)
    np.savez(path, x=X[:5], t=T, u=square)
    with pytest.raises(ConfigError, match=r"which axis is which in their order, such as axes: \[x, t\]"):
        rows_of(kanpde.Reference(path))
    np.testing.assert_array_equal(rows_of(kanpde.Reference(path, axes=["x", "t"]))[:, 2], square.ravel())
    np.testing.assert_array_equal(rows_of(kanpde.Reference(path, axes=["t", "x"]))[:, 2], square.T.ravel())
    with h5py.File(path.with_suffix(".h5"), "w") as file:  # PDEBench has one order
        file["tensor"], file["x-coordinate"], file["t-coordinate"] = square, X[:5], T
    np.testing.assert_array_equal(rows_of(kanpde.Reference(path.with_suffix(".h5")))[:, 2], square.T.ravel())


# ---------------------------------------------------------------------------------------------------------------
# Which points


@pytest.mark.parametrize("writer, ending", [(csv, ".csv"), (comsol, ".dat"), (mat_73, ".mat"), (pdebench, ".h5")])
def test_a_large_file_is_streamed_and_gives_the_same_points(writer, ending, tmp_path, monkeypatch):
    path = tmp_path / f"large{ending}"
    reference = kanpde.Reference(path, **writer(path))
    whole = Known.of(reference, Heat(), 11, seed=3)
    for module, name, value in ((arrays, "LARGE", 1), (arrays, "ROWS", 4), (arrays, "PART", 3), (known, "SHOWN", 4)):
        monkeypatch.setattr(module, name, value)
    streamed = Known.of(reference, Heat(), 11, seed=3)
    assert torch.equal(streamed.x, whole.x) and torch.equal(streamed.u, whole.u) and len(whole.x) == 11
    assert reference.open(Heat()).large and ("streamed" in streamed.says or "are read" in streamed.says)
    assert len({tuple(row) for row in whole.x.tolist()}) == 11
    assert not torch.equal(Known.of(reference, Heat(), 11, seed=4).x, streamed.x)
    assert "u (mol" not in whole.says and "35 points" in whole.says


def test_of_a_stored_array_no_more_is_held_than_a_part(tmp_path, monkeypatch):
    read, getitem = [], h5py.Dataset.__getitem__
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["tensor"] = np.random.default_rng(0).random((3, 20, 30, 40))
    array = arrays.read(tmp_path / "a.h5").arrays["tensor"].fixed(0, 2)
    numbers = np.random.default_rng(1).integers(0, [[20], [30], [40]], (3, 500))
    expected = array.whole()[tuple(numbers)]
    for part in (10, 100, 5000, 10**6):
        monkeypatch.setattr(arrays, "PART", part)
        with monkeypatch.context() as patch:
            patch.setattr(h5py.Dataset, "__getitem__", lambda s, i: read.append((a := getitem(s, i)).size) or a)
            assert (array.at(tuple(numbers)) == expected).all()
        assert max(read) <= max(part, 40)
        read.clear()


def test_points_without_numbers_and_outside_are_left_out_and_told_of(tmp_path):
    rows = [*EXPECTED.tolist(), [0.5, 0.5, float("nan")], [0.5, 3.0, 0.1], [-0.5, 1.0, 0.1]]
    text = "\n".join(",".join(map(repr, row)) for row in rows)
    (tmp_path / "a.csv").write_text(f"x,t,u\n{text}\n")
    with pytest.warns(UserWarning) as said:
        found = Known.of(kanpde.Reference(tmp_path / "a.csv"), Heat(), 1000, seed=0)
    assert len(found.x) == 35 and found.u.isfinite().all()
    lines = [str(each.message) for each in said]
    assert lines[0] == "reference a.csv: 1 of 38 points lack a number and are left out"
    assert (
        "2 of 37 points lie outside of the domain: x is -0.5 to 1 in the file, 0 to 1 in the domain; t is" in lines[1]
    )


def test_between_the_points_of_a_grid_and_of_others(tmp_path):
    x, t = np.linspace(0, 0.9, 40), np.linspace(0, 2, 30)  # the right end is left out, as where it is periodic
    solution = lambda a, b: np.exp(-b) * np.sin(pi * a)
    np.savez(tmp_path / "grid.npz", x=x, t=t, u=solution(x[:, None], t))
    at = torch.tensor([[0.31, 0.77], [0.62, 1.9], [0.95, 1.0]], dtype=torch.float64)
    exact = solution(*at.numpy().T)
    found = Known.of(kanpde.Reference(tmp_path / "grid.npz"), Heat(), 10, seed=0).at(at).numpy()
    assert abs(found - exact)[:2].max() < 1e-5 and np.isnan(found[2])
    drawn = np.random.default_rng(0).random((2000, 2)) * [1, 2]
    table = np.concatenate([drawn, solution(*drawn.T)[:, None]], 1)
    np.savetxt(tmp_path / "drawn.txt", table, header="x t u")
    found = Known.of(kanpde.Reference(tmp_path / "drawn.txt"), Heat(), 10, seed=0).at(at).numpy()
    assert 1e-7 < abs(found - exact).max() < 1e-2
    lines = np.concatenate([np.repeat(drawn[:9], 2, 0), np.ones((18, 1))], 1)  # of the same points twice: no triangles
    np.savetxt(tmp_path / "line.txt", lines * [0, 1, 1], header="x t u")
    assert Known.of(kanpde.Reference(tmp_path / "line.txt"), Heat(), 10, seed=0).at(at) is None


# ---------------------------------------------------------------------------------------------------------------
# What a run says of it


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run with the solution, with it as a file, and with neither."""
    folder = tmp_path_factory.mktemp("references")
    exact = kanpde.train(Solved(), out=folder / "exact.h5", **FEW)
    x, u = exact.field["x"], exact.field["u_exact"]
    np.savez(folder / "solution.npz", x=x[:, 0], t=x[:, 1], u=u)
    file = kanpde.Reference(folder / "solution.npz")
    return (
        exact,
        kanpde.train(Heat(), out=folder / "file.h5", reference=file, **FEW),
        kanpde.train(Heat(), out=folder / "none.h5", **FEW),
    )


def test_errors_are_those_of_the_same_solution_as_a_formula(runs):
    exact, file, none = runs
    for name in ("rel_l2_best", "rel_l2_last", "rmse_best"):
        assert file.attrs[name] == pytest.approx(exact.attrs[name], rel=1e-12)
        assert np.isnan(none.attrs[name])
    for name in ("rel_l2", "rel_l1", "linf"):
        np.testing.assert_allclose(file.history[name], exact.history[name], rtol=1e-12)
    assert file.floors.keys() == exact.floors.keys() >= {"constant"}
    assert file.floors["constant"] == pytest.approx(exact.floors["constant"], rel=1e-12)
    np.testing.assert_allclose(np.sort(file.field["error"]), np.sort(exact.field["error"]), rtol=1e-9)
    assert file.attrs["skill_constant"] == file.rel_l2 / file.floors["constant"]
    assert file.attrs["reference"] == "solution.npz, 300 points; errors at all 300"


def test_errors_are_what_is_computed_by_hand(runs):
    _, run, _ = runs
    with np.load(run.config["reference"]["file"]) as file:
        x, u = torch.from_numpy(np.stack([file["x"], file["t"]], 1)), torch.from_numpy(file["u"])
    found = run.load_model(problem=Heat())(x).detach()
    assert run.rel_l2 == pytest.approx(((found - u).norm() / u.norm()).item(), rel=1e-12)
    times, which = run.table("times"), x[:, 1].argsort().chunk(15)
    by_hand = [((found - u)[i].norm() / u[i].norm()).item() for i in which]
    np.testing.assert_allclose(times["rel_l2"], by_hand, rtol=1e-9)
    np.testing.assert_allclose(times["t"], [x[i, 1].mean().item() for i in which], rtol=1e-12)


def test_nothing_of_the_training_changes(runs):
    weights = [torch.load(run.checkpoint, weights_only=True)["weights"] for run in runs]
    for other in weights[1:]:
        assert all(torch.equal(weights[0][name], value) for name, value in other.items())
    assert len({tuple(run.history["validation"]) for run in runs}) == 1


def test_a_grid_has_its_own_times_and_slices(tmp_path):
    path = tmp_path / "v.mat"
    scipy.io.savemat(path, {"x": X, "t": T, "v": V, "w": W})
    options = FEW | {"points": {"interior": 40, "test": 20, "validation": 64}}
    run = kanpde.train(Rotation(), out=tmp_path / "a.h5", reference={"file": str(path)}, **options)
    again = kanpde.train(Rotation(), out=tmp_path / "b.h5", reference={"file": str(path)}, **options)
    assert run.attrs["test_points"] == 20 and (run.field["x"] == again.field["x"]).all()
    points = {tuple(row) for row in GRID.reshape(-1, 2).tolist()}
    assert {tuple(row) for row in run.field["x"].tolist()} < points
    times = kanpde.Run.open(run.path).table("times")
    np.testing.assert_array_equal(times["t"], T)
    both = np.stack([times["fields/v/rel_l2"], times["fields/w/rel_l2"]])
    np.testing.assert_allclose(times["rel_l2"][1:], np.sqrt((both**2).mean(0))[1:], rtol=1e-12)
    cut = run.slices["random"]
    assert cut["label"].endswith("; reference, interpolated") and np.isfinite(cut["v_exact"]).all()
    assert run.views()["w"].rel_l2 == run.attrs["rel_l2_best/w"] > 0
    assert (tmp_path / "a-by-time.png") in main_pictures(run)


# ---------------------------------------------------------------------------------------------------------------
# The command line

HEAT = """
from dataclasses import dataclass
import torch
import kanpde
from kanpde.domains import Box, Cylinder

@dataclass(frozen=True)
class Heat(kanpde.Problem):
    dim: int = 1
    coordinates = ("x", "t")
    reference = kanpde.Reference("solution.npz")
    points_of_interest = {"u(1/2, 0)": ((0.5, 0.0), 1.0)}

    @property
    def domain(self):
        return Cylinder(Box(1, 0, 1), 2.0)

    def residual(self, u, x):
        return u.t - u.xx / torch.pi**2

    def initial_value(self, x):
        return torch.sin(torch.pi * x[:, 0])
"""
YAML = """
problem: {name: heat.py:Heat}
backbone: {name: chebykan, widths: [4]}
phases: [{optimizer: gauss_newton, steps: 2}]
points: {interior: 30, test: 50, validation: 32}
slices: {points: 5}
start: network
verify: false
dtype: float64
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, no_pictures):
    (tmp_path / "heat.py").write_text(HEAT)
    (tmp_path / "heat.yaml").write_text(YAML)
    np.savez(tmp_path / "solution.npz", x=X, t=T, usol=U)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_tells_of_it_and_the_result_has_it(folder, capsys):
    code, out, err = call(capsys, "solve", "heat.yaml", "--out", "a.h5")
    assert code == 0 and not err, err
    assert "reference solution.npz, 35 points; errors at all 35; u is usol" in out
    run = kanpde.Run.open("a.h5")
    assert run.config["reference"]["file"] == str(folder / "solution.npz")
    worst = run.table("times")["rel_l2"].max()
    assert "worst time, t = " in out and f"{worst:.3e}" in out
    assert "u(1/2, 0)" in out and "published 1, difference" in out
    table = run.table("points_of_interest")
    u = run.load_model(trust=True)(torch.tensor([0.5, 0.0], dtype=torch.float64)).item()
    assert table["name"] == ["u(1/2, 0)"] and table["u"][0] == u and table["difference"][0] == u - 1.0
    assert "verdict" not in run.attrs and "left of" not in out and len(run.table("residuals")["rms"]) == 1


def test_the_key_goes_before_what_the_class_states(folder, capsys):
    np.savez(folder / "other.npz", x=X, t=T, u=U + 1)
    Path("heat.yaml").write_text(YAML + "reference: {file: other.npz}\npoints_of_interest: {middle: [[0.5, 1.0]]}\n")
    code, out, err = call(capsys, "solve", "heat.yaml", "--out", "a.h5")
    assert code == 0 and "reference other.npz, 35 points" in out and "middle" in out, err
    assert kanpde.Run.open("a.h5").rel_l2 > 0.5
    code, out, _ = call(capsys, "solve", "heat.yaml", "--out", "b.h5", "--set", "reference=null")
    assert code == 0 and "reference" not in out and "verdict   " in out
    assert kanpde.Run.open("b.h5").config["reference"] is None


REFUSED = {  # settings, what is said
    "no such file": (["reference.file=nothing.mat"], "nothing.mat: no such file"),
    "unknown key": (["reference.unit=1"], "unknown key reference 'unit'; did you mean units?"),
    "unknown field": (["reference.fields.v=usol"], "unknown key reference.fields 'v' (known: u)"),
    "wrong name": (["reference.fields.u=usal"], "unknown array 'usal'; did you mean usol?"),
    "other coordinates": (["reference.file=renamed.npz"], "nothing in it is called t; say coordinates: {t: NAME}"),
    "missing field": (["reference.file=two.npz"], "nothing in it is called u; say fields: {u: NAME} (arrays: x 7"),
    "shape": (["reference.file=short.npz"], "usol has shape (6, 5), the coordinates x 7, t 5: these do not fit"),
    "samples": (["reference.file=many.npz"], "of 3 samples along the first axis say which: sample: 0"),
    "sample": (["reference.file=many.npz", "reference.sample=3"], "sample: given 3, usol has 0 to 2"),
    "axes": (["reference.axes=[t, x]"], "axes: given ['t', 'x'], but the axes have lengths (7, 5)"),
    "units": (["reference.units.x=1000"], "x is 0 to 1000 in the file, 0 to 1 in the domain; units and shift"),
    "no number": (["reference.units.x=far"], "reference.units.x: given 'far'"),
    "empty": (["reference.file=empty.csv"], "empty.csv: the file is empty"),
    "no rows": (["reference.file=head.dat"], "head.dat: there are no rows of numbers"),
    "no names": (["reference.file=bare.dat"], "there is no line with names above them"),
    "all nan": (["reference.file=nan.npz"], "all of its 35 points lack a number"),
    "not MATLAB's": (["reference.file=text.mat"], "text.mat: cannot be read as MATLAB's"),
    "not HDF5": (["reference.file=text.h5"], "text.h5: cannot be read as HDF5"),
    "not VTK's": (["reference.file=text.vtu"], "text.vtu: cannot be read as a mesh"),
    "point of interest": (["points_of_interest.a=[[0.5], 1.0]"], "a: given the point [0.5], needed are 2 finite"),
    "point outside": (["points_of_interest.a=[[0.5, 3.0], 1.0]"], "a: [0.5, 3.0] lies outside of the domain"),
}


@pytest.mark.parametrize("settings, said", REFUSED.values(), ids=list(REFUSED))
def test_what_does_not_fit_is_one_line(folder, capsys, settings, said):
    Path("heat.yaml").write_text(YAML + "reference: {file: solution.npz}\n")
    np.savez("renamed.npz", x=X, zeit=T, u=U)
    np.savez("two.npz", x=X, t=T, a=U, b=U)
    np.savez("short.npz", x=X, t=T, usol=U[1:])
    np.savez("many.npz", x=X, t=T, usol=np.stack([U] * 3))
    np.savez("nan.npz", x=X, t=T, usol=U * np.nan)
    Path("empty.csv").write_text("")
    Path("head.dat").write_text("% x t u\n")
    Path("bare.dat").write_text("0 0 1\n")
    for ending in ("mat", "h5", "vtu"):
        Path(f"text.{ending}").write_text("no such thing\n" * 20)
    words = [word for given in settings for word in ("--set", given)]
    code, _, err = call(capsys, "solve", "heat.yaml", "--quiet", "--out", "a.h5", *words)
    assert code == 2 and said in err and err.count("\n") == 1 and err.startswith("kanpde: "), err
    assert not Path("a.h5").exists()


def test_a_class_that_states_something_else_is_refused(tmp_path):
    class Wrong(Heat):
        reference = "solution.npz"

    with pytest.raises(ConfigError, match="Wrong.reference: given a str, needed is kanpde.Reference"):
        kanpde.train(Wrong(), out=tmp_path / "a.h5", **FEW)
    for given, said in (({"units": {"x": 0}}, "multiplied by 0"), ({"fields": "u"}, "needed are names in the file")):
        with pytest.raises(ConfigError, match=said):
            kanpde.Reference("a.npz", **given)


def test_a_run_whose_reference_is_gone_opens_and_goes_on(folder, capsys):
    call(capsys, "solve", "heat.yaml", "--quiet", "--out", "a.h5", "--set", "phases.0.steps=4")
    call(capsys, "solve", "heat.yaml", "--quiet", "--out", "b.h5", "--set", "phases.0.steps=2")
    known_error = kanpde.Run.open("b.h5").rel_l2
    Path("solution.npz").rename("elsewhere.npz")
    run = kanpde.Run.open("b.h5")
    assert run.load_model(trust=True)(torch.zeros(1, 2, dtype=torch.float64)).shape == (1,)
    Path("rows.csv").write_text("x,t\n0.5,0.5\n")
    assert predict(run, "rows.csv", trust=True)[1] == 0
    code, _, err = call(capsys, "solve", "--resume", "b.h5", "--steps", 4)
    assert code == 0 and err.count("it is gone, so errors are not known from here on") == 1, err
    found, whole = kanpde.Run.open("b.h5"), kanpde.Run.open("a.h5")
    assert found.history["rel_l2"][-2] == known_error and np.isnan(found.rel_l2) and not found.table("times")
    weights = [torch.load(r.checkpoint, weights_only=True)["weights"] for r in (found, whole)]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_resuming_is_bit_for_bit_and_tells_of_another_reference(folder, capsys):
    call(capsys, "solve", "heat.yaml", "--quiet", "--out", "a.h5", "--set", "phases.0.steps=4")
    call(capsys, "solve", "heat.yaml", "--quiet", "--out", "b.h5", "--set", "phases.0.steps=2")
    code, _, err = call(capsys, "solve", "--resume", "b.h5", "--steps", 4, "--quiet")
    one, two = kanpde.Run.open("a.h5"), kanpde.Run.open("b.h5")
    assert code == 0 and not err and one.rel_l2 == two.rel_l2
    for name in ("residuals", "times", "points_of_interest"):
        assert one.table(name).keys() == two.table(name).keys() and one.table(name)
        for key, column in one.table(name).items():
            np.testing.assert_array_equal(column, two.table(name)[key])
    np.savez("solution.npz", x=X, t=T, usol=U + 1)
    code, _, err = call(capsys, "solve", "--resume", "b.h5", "--steps", 5, "--quiet")
    assert code == 0 and "it has changed since the run was begun" in err


# ---------------------------------------------------------------------------------------------------------------
# Points of interest


def test_published_values_are_those_of_the_published_parameters():
    for problem, others, value in (
        (HJBControl(100), (HJBControl(99), HJBControl(100, strength=2.0)), 4.5901),
        (BlackScholesBarenblatt(100), (BlackScholesBarenblatt(100, rate=0.1),), 77.1049),
        (AllenCahnPaths(100), (AllenCahnPaths(100, time=0.5),), 0.0528),
    ):
        (point,) = points_of_interest(problem)
        assert point.published == value and len(point.x) == 101 and point.x[-1] == 0
        assert not any(other.points_of_interest for other in others)
        if problem.has_exact:
            exact = problem.exact(torch.tensor([point.x], dtype=torch.float64)).item()
            assert exact == pytest.approx(value, abs=2e-4)


def test_points_of_interest_of_a_system():
    stated = {"a": ((0.5, 1.0), {"v": 1.0, "w": None}), "b": ((0.5, 1.0), 2.0, "w"), "c": ((0.1, 0.2), None)}
    found = points_of_interest(Rotation(), stated)
    assert [(p.name, p.field, p.published) for p in found] == [
        *(("a", "v", 1.0), ("a", "w", None), ("b", "w", 2.0), ("c", "v", None), ("c", "w", None))
    ]
    for given, said in (
        (((0.5, 1.0), 2.0), "2.0 is of which field"),
        (((0.5, 1.0), {"p": 2.0}), "unknown field 'p'"),
        (((0.5, 1.0), {"v": "much"}), "given 'much', needed is a number"),
        ("a", "needed is a point"),
    ):
        with pytest.raises(ConfigError, match=said):
            points_of_interest(Rotation(), {"a": given})


# ---------------------------------------------------------------------------------------------------------------
# What is left of equations and conditions


class Scaled(OnRod):
    """In large numbers, with values that a loss has to learn."""

    conditions = (
        Dirichlet("boundary", lambda x: 100 + 0 * x[:, 0]),
        Initial(lambda x: 100 + torch.sin(pi * x[:, 0])),
        Observations([[0.5, 0.5], [0.5, 1.0]], [100.5, 100.0], noise=10.0),
    )

    @property
    def residual_scale(self):
        return 1e-3

    def residual(self, u, x):
        return 50 * (u.t - u.xx / pi**2)


def test_what_is_left_is_in_the_units_that_it_is_written_in(tmp_path):
    run = kanpde.train(Scaled(), out=tmp_path / "a.h5", constraint="soft", **FEW)
    columns = run.table("residuals")
    table = {name: [columns[key][i] for key in KEYS] for i, name in enumerate(columns["name"])}
    assert table.keys() == {"interior", "dirichlet", "initial", "observations"}
    row = int(np.flatnonzero(np.asarray(run.history["step"]) == run.attrs["best_step"])[-1])
    held = {name: run.history[f"held_out/{name}"][row] ** 0.5 for name in table}
    assert table["interior"][0] == pytest.approx(1000 * held["interior"], rel=1e-9)
    assert table["dirichlet"][0] == pytest.approx(held["dirichlet"], rel=1e-9)
    assert table["observations"][0] == pytest.approx(10 * held["observations"], rel=1e-9)
    assert table["observations"][2] == pytest.approx(np.sqrt((100.5**2 + 100**2) / 2))
    assert np.isnan(table["interior"][2]) and table["dirichlet"][2] == 100
    assert all(largest >= rms for rms, largest, *_ in table.values())
    assert run.history["step"][0] == 0
    start = run.history["held_out/interior"][0] ** 0.5
    assert table["interior"][3] == pytest.approx(1000 * start, rel=1e-9)


KEYS = ("rms", "largest", "asked", "rms_start", "largest_start")


def test_the_verdict_names_what_is_not_learned():
    table = {
        "name": ["momentum", "continuity", "wall", "lid", "mean"],
        "rms": [0.01, 0.42, 0.5, 0.3, 0.0],
        "asked": [np.nan, np.nan, 0.0, 5.0, np.nan],
        "rms_start": [1.0, 1.0, 1.0, 0.3, 0.0],
        "noise": [0.0] * 5,
    }
    said = "continuity (42 % of its size at the start), wall (50 % of its size at the start)"
    assert remaining.verdict(table, True) == f"not learned: {said}"
    assert remaining.verdict(table, False) == "learned: less than 10% is left of each equation and condition"
    table["rms"][3] = 2.0
    assert remaining.verdict(table, False) == "not learned: lid (40 % of the values asked for)"
    table["noise"][3] = 1.1  # of observations
    assert remaining.verdict(table, False) == "learned: less than 10% is left of each equation and condition"
    assert remaining.verdict({key: [] for key in table}, True) == ""


def test_a_run_without_a_solution_ends_with_a_verdict(runs):
    exact, file, none = runs
    table = none.table("residuals")
    share = table["rms"][0] / table["rms_start"][0]
    assert none.attrs["verdict"].startswith("not learned: interior (" if share > 0.1 else "learned: ")
    assert "verdict" not in exact.attrs and "verdict" not in file.attrs
    np.testing.assert_array_equal(table["rms"], file.table("residuals")["rms"])


def test_before_a_start_in_closed_form(tmp_path):
    """What it was at the start is of the network as it was drawn, be there a polynomial beside it or not."""
    options = FEW | {"start": "ladder"}
    run = kanpde.train(Heat(), out=tmp_path / "a.h5", **options)
    assert run.table("residuals")["rms_start"][0] > 2 * run.history["held_out/interior"][0] ** 0.5
    assert "verdict" in run.attrs


def test_a_solution_too_large_to_square_is_refused(tmp_path):
    x, t = np.linspace(0, 1, 9), np.linspace(0, 2, 5)
    np.savez(tmp_path / "large.npz", x=x, t=t, u=np.full((9, 5), 1e300))

    class Large(Heat):
        reference = kanpde.Reference(tmp_path / "large.npz")

    with pytest.raises(ConfigError, match="so large that its squares are no numbers"):
        kanpde.train(Large(), out=tmp_path / "run.h5", **FEW)


def test_a_reference_is_known_up_to_its_ends_in_single_precision():
    t = np.linspace(0, pi / 2, 5)
    x = np.stack([t, t], 1)
    grid = np.stack(np.meshgrid(t, t, indexing="ij"), -1).reshape(-1, 2)
    through = known.between(grid, grid[:, :1], x, x[:, :1])
    end = np.array([[np.float64(np.float32(pi / 2))] * 2])
    assert end[0, 0] > pi / 2 and through(end)[0, 0] == pytest.approx(pi / 2)
    assert np.isnan(through(end + 1e-5)).all()


def test_a_field_that_is_zero_at_a_time_has_no_relative_error_then(tmp_path):
    @dataclass(frozen=True)
    class Turning(kanpde.Problem):
        """(u, v)_t = (-v, u): cos t and sin t, which is zero at t = 0"""

        dim: int = 1
        coordinates = ("x", "t")
        fields = ("u", "v")
        conditions = (Initial(1.0, field="u"), Initial(0.0, field="v"))

        @property
        def domain(self):
            return Cylinder(Box(1, 0, 1))

        def residual(self, w, x):
            return w.u.t + w.v.value, w.v.t - w.u.value

    t, x = np.linspace(0, 1, 5), np.linspace(0, 1, 4)
    u, v = (np.broadcast_to(f(t), (4, 5)) for f in (np.cos, np.sin))
    np.savez(tmp_path / "turn.npz", x=x, t=t, u=u, v=v)
    given = {"backbone": {"name": "mlp", "widths": [4]}, "reference": {"file": str(tmp_path / "turn.npz")}}
    small = {"points": {"interior": 8, "validation": 16}, "slices": {"points": 3, "volume": 0}, "verify": False}
    run = kanpde.train(Turning(), out=tmp_path / "run.h5", steps=1, **given, **small)
    times = run.table("times")
    assert np.isnan(times["fields/v/rel_l2"][0]) and np.isfinite(times["fields/v/rel_l2"][1:]).all()
    assert times["rel_l2"][0] == times["fields/u/rel_l2"][0] < 1e-6


@pytest.mark.parametrize("writer, ending", [(mat, ".mat"), (pdebench, ".h5"), (vtu, ".vtu")])
@pytest.mark.parametrize("read", ["import os; os.abort()", "import time; time.sleep(600)", f"exit({apart.REFUSED})"])
def test_what_crashes_or_blocks_a_library_does_so_elsewhere(tmp_path, monkeypatch, writer, ending, read):
    """Damage has ended the program inside scipy.io.loadmat, and inside VTK for numbers of points that are not there."""
    path = tmp_path / f"a{ending}"
    writer(path)
    assert arrays.read(path).arrays
    monkeypatch.setattr(apart, "PATIENCE", 1)
    monkeypatch.setattr(apart, "READ", read)
    with pytest.raises(ConfigError, match="a damaged file, which the library") as info:
        arrays.read(path)
    assert "\n" not in str(info.value)


def test_matlab_files_are_read_by_the_other_process_alone(tmp_path, monkeypatch):
    """One that was read there has crashed the next process, as what damage does to memory differs."""
    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("read in this process"))
    held = {"file": np.arange(6.0).reshape(2, 3), "z": np.array([[1 + 2j]]), "text": "words", "none": np.empty((0, 3))}
    scipy.io.savemat(tmp_path / "a.mat", held)
    found = arrays.read(tmp_path / "a.mat").arrays
    assert sorted(found) == ["file", "z"] and found["z"].whole() == held["z"]
    assert np.array_equal(found["file"].whole(), held["file"])
    (tmp_path / "b.mat").write_bytes(b"no such format" * 100)
    with pytest.raises(ConfigError, match="b.mat: cannot be read as MATLAB's: Unknown mat file type"):
        arrays.read(tmp_path / "b.mat")


@pytest.mark.parametrize("program", ["bytearray(2**50)", "import numpy; numpy.ones(2**40)"])
def test_what_wants_too_much_memory_has_it_nowhere(tmp_path, program):
    path = tmp_path / "a.csv"
    path.write_text("x")
    assert apart.survived(path, "open(path).read()") and apart.survived(path, "no such name")
    assert not apart.survived(path, program)


def test_of_a_large_hdf5_file_the_description_is_read(tmp_path):
    pdebench(tmp_path / "a.h5")
    watched = "import h5py\nread = []\nh5py.Dataset.__getitem__ = lambda data, _: read.append(data.name)\n"
    for most, count in ((0, 0), (110, 2), (10**6, 3)):
        assert apart.survived(tmp_path / "a.h5", f"{watched}{apart.hdf5(most)}\nif len(read) != {count}: os._exit(3)")
    assert not apart.survived(tmp_path / "a.h5", apart.hdf5(10**6, most=10))


def test_what_h5py_raises_is_one_line(tmp_path, monkeypatch):
    """Of an object whose description is damaged h5py says so by a KeyError."""
    pdebench(tmp_path / "a.h5")
    monkeypatch.setattr(h5py.File, "visititems", lambda *_: {}["invalid dataset size"])
    with pytest.raises(ConfigError, match="cannot be read as HDF5: 'invalid dataset size'"):
        arrays.read(tmp_path / "a.h5")


def test_an_npz_of_a_version_that_is_none_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=X, t=T, u=U)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 176  # of the first entry of the archive
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as NPZ: zip file version 17.6"):
        arrays.read(path)
    with pytest.raises(ConfigError, match="cannot be read as NPZ: zip file version 17.6"):
        columns.read(path)


def test_of_a_mesh_that_is_cut_off_the_place_is_named(tmp_path):
    path = tmp_path / "a.vtu"
    vtu(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="cannot be read as a mesh: Error parsing XML in stream at line"):
        arrays.read(path)
