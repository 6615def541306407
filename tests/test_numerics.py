"""The extremes of what can be asked for: a run whose numbers are finite, or a sentence."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import call

import kanpde
from kanpde.backbones import BACKBONES
from kanpde.domains import Ball
from kanpde.ground.errors import ConfigError
from kanpde.operators import Forward
from kanpde.problems import AllenCahn, Poisson, Problem

SMALL = {
    "points": {"interior": 8, "test": 40, "validation": 20},
    "evaluation": {"every": 1, "points": 40},
    "slices": {"points": 3, "volume": 0},
    "verify": False,
    "steps": 3,
}
TINY = {"backbone": {"name": "kan", "widths": [2]}}
CASES = {
    "a grid of one interval": {"backbone": {"name": "kan", "widths": [2], "grid_size": 1}},
    "a grid of 200": {"backbone": {"name": "kan", "widths": [2], "grid_size": 200}},
    "a layer of width 1": {"backbone": {"name": "kan", "widths": [1]}},
    "layers of width 1": {"backbone": {"name": "metakan", "widths": [1, 1]}},
    "one point": {"points": {"interior": 1, "test": 2, "validation": 2}},
    "one point by SOAP": {"points": {"interior": 1, "test": 2, "validation": 2}, "solver": "default"},
    "one point by Gauss-Newton": {"points": {"interior": 1, "test": 2, "validation": 2}, "solver": "low_dim"},
    "float64": {"dtype": "float64"},
    "a rate of 1e-12": {"steps": None, "phases": [{"optimizer": "adam", "steps": 3, "lr": 1e-12}]},
    "a rate of 0": {"steps": None, "phases": [{"optimizer": "adam", "steps": 3, "lr": 0.0}]},
    "L-BFGS at a rate of 1e3": {"steps": None, "phases": [{"optimizer": "lbfgs", "steps": 3, "lr": 1e3}]},
    "L-BFGS at a rate of 1e-12": {"steps": None, "phases": [{"optimizer": "lbfgs", "steps": 3, "lr": 1e-12}]},
}


@dataclass(frozen=True)
class Interval(Problem):
    """u'' = -2, u(-1) = u(1) = 0."""

    dim: int = 1

    @property
    def domain(self):
        return Ball(1)

    def residual(self, u, x):
        return u.lap + 2

    def exact(self, x):
        return 1 - x[:, 0] ** 2


@pytest.mark.parametrize("problem", [Interval(), Poisson(2)], ids=["d = 1", "d = 2"])
@pytest.mark.parametrize("case", CASES)
def test_three_steps_are_finite(tmp_path, case, problem):
    given = {**SMALL, **TINY, **CASES[case]}
    if given["steps"] is None:
        del given["steps"]
    run = kanpde.train(problem, out=tmp_path / "X.h5", **given)
    assert run.history["step"] == [0, 1, 2, 3]
    for name in ("rel_l2", "validation"):
        assert np.isfinite(run.history[name]).all(), name
    assert all(p.isfinite().all() for p in run.load_model(problem=problem).parameters())


def test_a_rate_of_1e3_is_brought_down_or_refused(tmp_path):
    given = {**SMALL, **TINY, "phases": [{"optimizer": "adam", "steps": 40, "lr": 1e3}]}
    del given["steps"]
    try:
        run = kanpde.train(AllenCahn(2), out=tmp_path / "X.h5", **given)
    except kanpde.RunFailed as error:
        assert "have not helped" in str(error) and "\n" not in str(error)
    else:
        assert run.attrs["status"] in ("finished", "diverged") and np.isfinite(run.history["validation"]).all()


def test_phases_that_do_not_train_leave_the_weights(tmp_path):
    """A rate of 1e-12 in float32 is below what a weight can change by."""
    given = {**SMALL, **TINY, "phases": [{"optimizer": "adam", "steps": 3, "lr": 1e-12}]}
    del given["steps"]
    run = kanpde.train(Poisson(2), out=tmp_path / "X.h5", **given)
    assert run.history["rel_l2"][-1] == pytest.approx(run.history["rel_l2"][1], rel=1e-6)


@pytest.mark.parametrize("grid", [1, 5, 200])
@pytest.mark.parametrize("name", [name for name in BACKBONES if not name.startswith("meta")])
def test_points_on_knots_corners_and_far_off_the_grid(name, grid):
    """Value and Laplacian are finite where splines meet, at corners, and a thousand times off the grid."""
    options = {"grid_size": grid} if name == "kan" else {}
    net = BACKBONES[name](2, 1, widths=[3], generator=torch.Generator().manual_seed(0), **options)
    far, knots = torch.tensor([-1e3, -1.0, 1.0, 1e3]), torch.linspace(-1, 1, grid + 1)
    found = Forward()(net, torch.cat([torch.cartesian_prod(knots, knots), torch.cartesian_prod(far, far)]))
    assert found.value.isfinite().all() and found.lap.isfinite().all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64", "int8"])
def test_other_dtypes_are_refused_in_one_line(capsys, tmp_path, monkeypatch, dtype):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "solve", "poisson", "--dim", 2, "--dtype", dtype)
    assert code == 2 and err == f"kanpde: dtype: given '{dtype}', input should be 'float32' or 'float64'\n"
    assert not any(tmp_path.iterdir())


def test_a_sketch_of_more_rows_than_there_are_is_refused(tmp_path):
    given = {**SMALL, **TINY, "phases": [{"optimizer": "gauss_newton", "steps": 2, "options": {"rows": 1_000_000}}]}
    del given["steps"]
    with pytest.raises(ConfigError, match=r"rows: given 1,000,000, a step has 8 residuals"):
        kanpde.train(Poisson(2), out=tmp_path / "X.h5", **{**given, "loss": {"gradient": "none"}})
    assert not any(tmp_path.iterdir())


def test_observations_that_no_square_can_hold_are_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{i / 30},{(1 + i) * 1e-200}" for i in range(30))
    (tmp_path / "tiny.csv").write_text("x,y\n" + rows)
    sets = ("--set", "problem.file=tiny.csv", "--set", "problem.output=y")
    code, _, err = call(capsys, "solve", "data", *sets, "--steps", 3)
    assert code == 2 and "the observation varies by" in err and err.count("\n") == 1
    code, _, err = call(capsys, "solve", "feynman", "--set", "problem.noise=1e300", "--steps", 3)
    assert code == 2 and "problem: given are numbers up to" in err and err.count("\n") == 1
