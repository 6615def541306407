"""Rows of a table: those of equal inputs stay together, and numbers far from 0 keep their digits in float32."""

import copy
import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import F64, call, close
from torch import Tensor, nn

from kanpde import Problem, resume, train
from kanpde.domains import Box
from kanpde.ground.samplers import stream
from kanpde.problems import Data, Function
from kanpde.problems.fitting import Units
from kanpde.records import columns
from kanpde.runs.predict import predict

QUICK = ["--set", "backbone.widths=[3]", "--set", "phases.0.steps=3"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def repeated(path: Path, n: int = 120, distinct: int = 40) -> None:
    """Rows of x, z with inputs that come up to several times, some with another y; one is -0 and 0."""
    g = np.random.default_rng(0)
    x = g.normal(size=(distinct, 2))[g.integers(distinct, size=n)]
    x[:3] = [[0.0, 1.0], [-0.0, 1.0], [0.0, 1.0]]
    columns.write(path, {"x": x[:, 0], "z": x[:, 1], "y": x.sum(1) + g.integers(2, size=n)})


@pytest.mark.parametrize("options", [{}, {"seed": 3, "test": 0.5}, {"folds": 4, "fold": 2}, {"validation": 0.3}])
def test_rows_of_equal_inputs_stay_together(folder, options):
    """In one part each; the parts are as large as asked for but for a group, and no row is lost."""
    repeated(Path("t.csv"))
    with pytest.warns(UserWarning, match=r"t.csv: 1\d\d of 120 rows have the inputs of another row; each of these \d+"):
        domain = Data(file="t.csv", **options).domain
    inputs = [{tuple(row) for row in (part[:, :2] + 0.0).tolist()} for part in domain.parts.values()]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(inputs, 2))
    assert sum(domain.counts.values()) == 120 and min(domain.counts.values()) > 1
    if "folds" not in options:
        assert abs(domain.counts["test"] - 120 * options.get("test", 0.2)) <= 4


def test_rows_without_equals_are_split_as_ever(folder):
    """The seed alone decides: a run of an earlier version finds its rows again."""
    x = np.arange(1.0, 41.0)
    columns.write(Path("t.csv"), {"x": x, "y": x**2})
    rows = torch.tensor(np.stack([x, x**2], 1))[torch.randperm(40, generator=stream(0, "split"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts, fold = Data(file="t.csv").domain.parts, Data(file="t.csv", folds=3, fold=1, validation=0.0).domain.parts
    assert torch.equal(parts["test"], rows[:8]) and torch.equal(parts["validation"], rows[8:11])
    assert torch.equal(parts["interior"], rows[11:]) and torch.equal(fold["test"], rows[1::3])


def test_a_test_file_with_training_rows_says_how_many(capsys, folder):
    x = np.arange(1.0, 41.0)
    columns.write(Path("t.csv"), {"x": x, "y": x**2})
    columns.write(Path("test.csv"), {"x": np.array([0.5, 3, 4, 41]), "y": np.array([0.25, 9, 0, 41**2])})
    given = ["--set", "problem.file=t.csv", "--set", "problem.test=test.csv"]
    code, _, err = call(capsys, "solve", "data", *given, *QUICK, "--out", "r.h5")
    assert code == 0 and err.startswith("kanpde: ") and err.count("\n") == 1
    assert err.endswith("test.csv: 2 of 4 test rows have the inputs of training rows\n")


# Numbers far from 0 ------------------------------------------------------------------------------------------------


def far(path: Path, shift: float = 0.0, n: int = 120) -> Tensor:
    """A table of seconds since 1970 and a y of the same size; (n, 3) rows."""
    a, b = np.random.default_rng(0).uniform(0, 1, (2, n))
    rows = np.stack([shift + 1000 * a, b, shift + np.sin(3 * a) + b], 1)
    columns.write(path, dict(zip(("time", "b", "y"), rows.T, strict=True)))
    return torch.tensor(rows)


@pytest.mark.parametrize("optimizer", [{"optimizer": "gauss_newton"}, {"optimizer": "adam"}, {"optimizer": "lbfgs"}])
def test_a_column_far_from_0_is_fitted_in_float32(folder, optimizer):
    """As well as in float64, by every kind of optimiser; errors, floors and predictions are in float64."""
    rows = far(Path("t.csv"), 1.7e9)
    options = {"backbone": {"name": "kan", "widths": [2]}, "phases": [{**optimizer, "steps": 8}]}
    options["points"] = {"interior": 10**6, "validation": 10**6, "test": 10**6}
    runs = {d: train(Data(file="t.csv"), dtype=d, out=f"{d}.h5", **options) for d in ("float32", "float64")}
    rmse = {d: run.attrs["rmse_best"] for d, run in runs.items()}
    assert rmse["float32"] == pytest.approx(rmse["float64"], rel=0.2)
    observed = runs["float32"].field["u_exact"]
    constant = runs["float32"].floors["constant"] * np.sqrt(np.mean(observed**2))
    assert constant == pytest.approx(np.std(observed), rel=1e-3)
    u = runs["float32"].load_model()
    assert next(u.parameters()).dtype == torch.float32 and u(rows[:, :2]).dtype == F64
    found, off = predict(runs["float32"], "t.csv")
    close(torch.tensor(found["y_predicted"]), u(rows[:, :2]).detach(), 1e-15)
    assert off < 0.05 and u(rows[:, :2].float()).dtype == torch.float32
    steps = resume("float32.h5", steps=9)
    assert steps.attrs["status"] == "finished" and steps.attrs["rmse_best"] <= 1.01 * rmse["float32"]


def test_ranges_far_from_0_are_fitted_in_float32(folder):
    problem = Function(formula="sin(3*(x-1e9))", ranges={"x": (1e9, 1e9 + 1)})
    options = {"backbone": {"name": "kan", "widths": [1]}, "steps": 10, "dtype": "float32"}
    run = train(problem, out="f.h5", points={"interior": 100, "validation": 50, "test": 100}, **options)
    assert run.attrs["rmse_best"] < 2e-2
    assert np.nanmax(next(iter(run.slices.values()))["error"]) < 0.1


def test_units_of_a_cast_network_stay_in_float64():
    """Through casts, copies and the weights of a run that kept them in float32."""
    units = Units(torch.tensor([1e9], dtype=F64), torch.tensor([1e9 + 1], dtype=F64), 1e9, 0.5)
    first, last = (copy.deepcopy(m).float() for m in (units.scaling_inputs(), units.scaling_output()))
    x = torch.tensor([[1e9 + 0.25]], dtype=F64)
    z = first(x)
    assert z.dtype == torch.float32 and z.item() == pytest.approx(-0.5, abs=1e-6)
    assert last(z).dtype == F64 and last(z).item() == pytest.approx(1e9 - 0.25, abs=1e-6)
    assert set(first.state_dict()) == {"scale", "shift"} and first.shift.dtype == F64
    first.load_state_dict({"scale": torch.tensor([2.0]), "shift": torch.tensor([0.5])})
    assert first.double()(x).dtype == F64 and first.shift.item() == 0.5


@dataclass(frozen=True)
class FarAway(Problem):
    """u'' = -1 beside 1e9."""

    @property
    def domain(self):
        return Box(self.dim, 1e9, 1e9 + 1)

    def residual(self, u, x):
        return u.lap + 1


def test_points_that_a_dtype_cannot_tell_apart_are_said(folder):
    far(Path("t.csv"), 1.7e9)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    options = {"solver": "adam", "steps": 1, "dtype": "float32", "points": {"test": 300}}
    with pytest.warns(UserWarning, match="so far from 0 that float32 has .* dtype: float64"):
        train(Data(file="t.csv"), net=net, out="r.h5", **options)
    with pytest.warns(UserWarning, match="so far from 0 that float32 has .* dtype: float64"):
        train(FarAway(1), backbone="mlp", out="p.h5", **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="points lie so far")
        run = train(FarAway(1), backbone="mlp", out="q.h5", **options | {"dtype": "float64"})
    assert len(np.unique(run.field["x"])) > 0.99 * len(run.field["x"])
