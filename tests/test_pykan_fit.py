"""pykan's side of the Feynman benchmark: data, choice by validation, the hard time limit. Runs without pykan."""

import importlib.util
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import sympy
import torch

from benchmarks.formulas import pykan_fit
from benchmarks.formulas.pykan_fit import Best, Peer, formula_values, load, moments, relative_mse, structure
from kanpde.ground.errors import ConfigError

X = sympy.symbols("x_1 x_2")


def arrays(n=50, d=2):
    g = np.random.default_rng(0)
    x, z = g.uniform(1, 5, (n, d)), g.uniform(1, 5, (n, d))
    return {"x_train": x, "y_train": x.prod(1), "x_test": z, "y_test": z.prod(1)}


@pytest.fixture
def points(tmp_path):
    def save(**changes):
        content = {name: v for name, v in (arrays() | changes).items() if v is not None}
        np.savez(tmp_path / "in.npz", **content)
        return tmp_path / "in.npz"

    return save


@pytest.fixture
def data(points):
    return load(points(), seed=0)


def test_structures_are_pykans_widths():
    assert structure("2,5,1", 2) == [2, 5, 1]
    assert structure("3,2+1,0+4,1", 3) == [3, [2, 1], [0, 4], 1]


@pytest.mark.parametrize(
    "text", ["2", "3,5,1", "2,5,2", "2,,1", "2,0,1", "2,-1+3,1", "2,1+1+1,1", "2,five,1", "2,5,1+0"]
)
def test_other_structures_are_refused(text):
    with pytest.raises(ConfigError, match="allowed is 2,H"):
        structure(text, 2)


def test_a_fifth_of_the_training_points_validates(points, data):
    rows = torch.cat([data.x["validation"], data.x["train"]])
    assert len(data.x["validation"]) == 10 and len(data.x["train"]) == 40
    given = torch.as_tensor(arrays()["x_train"])
    assert torch.equal(rows[rows[:, 0].argsort()], given[given[:, 0].argsort()])
    assert torch.equal(data.x["test"], torch.as_tensor(arrays()["x_test"]))
    for part, x in data.x.items():
        assert torch.equal(data.y[part], x.prod(1, keepdim=True)), part
    assert torch.equal(load(points(), seed=0).x["train"], data.x["train"])
    assert not torch.equal(load(points(), seed=1).x["train"], data.x["train"])


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"y_test": None}, "holds no y_test"),
        ({"y_train": np.ones(49)}, r"x_train \(50, 2\) and y_train \(49,\)"),
        ({"x_test": np.ones((50, 3))}, r"x_test \(50, 3\)"),
        ({"x_train": np.ones(50)}, r"x_train \(50,\)"),
        ({"y_test": np.full(50, np.inf)}, "allowed are finite"),
    ],
)
def test_bad_points_are_refused(points, changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load(points(**changes), seed=0)


def test_the_model_lives_in_standardised_units(points):
    line = {f"y_{part}": 7 * arrays()[f"x_{part}"][:, 0] - 3 for part in ("train", "test")}
    data = load(points(**line), seed=0)  # a line of slope > 0 is the identity in standardised units
    for part in ("validation", "test"):
        torch.testing.assert_close(data.predict(lambda x: x[:, :1], part), data.y[part])
    dataset = data.dataset()
    torch.testing.assert_close(dataset["train_input"].std(0), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(dataset["test_label"], dataset["test_input"][:, :1])
    assert moments(torch.full((5, 1), 3.0))[1] == 1


def test_relative_error_is_one_for_the_mean():
    y = torch.tensor([[1.0], [2.0], [6.0]])
    assert relative_mse(y.mean().expand(3, 1), y) == pytest.approx(1)
    assert relative_mse(y + 2, y) == pytest.approx(4 / (14 / 3))


def test_validation_chooses_and_test_reports(data):
    def off(validation, test):
        return lambda part: data.y[part] + {"validation": validation, "test": test}[part]

    best, variance = Best(data), (data.y["test"] - data.y["test"].mean()).square().mean().item()
    best.offer(off(0.5, 2.0), structure="a")
    best.offer(off(0.6, 0.0), structure="b")
    best.offer(off(float("nan"), 0.0), structure="c")
    assert best.report["structure"] == "a" and best.report["rmse"] == pytest.approx(2)
    assert best.report["relative_mse"] == pytest.approx(4 / variance)
    best.offer(off(0.4, 3.0), structure="d")
    assert best.report["structure"] == "d" and best.report["rmse"] == pytest.approx(3)


def test_formulas_are_evaluated():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    assert formula_values(X[0] * X[1] ** 2, X, x).tolist() == [[4.0], [48.0]]
    assert formula_values(sympy.Float(2.5), X, x).tolist() == [[2.5], [2.5]]


@pytest.mark.parametrize("formula", [sympy.sqrt(-X[0]), sympy.sqrt(-2) * X[0], 1 / (X[0] - 1), sympy.nan * X[0]])
def test_a_formula_that_is_no_real_number_fails(formula):
    with pytest.raises(ArithmeticError, match="complex or not finite"):
        formula_values(formula, X, torch.tensor([[1.0, 2.0]], dtype=torch.float64))


def test_what_the_fit_found_is_written_when_the_formula_never_ends():
    found, written = {}, []
    peer = SimpleNamespace(
        report=lambda: dict(found), fit=lambda: found.update(grid=5), find_formula=lambda: time.sleep(9)
    )
    pykan_fit.run(peer, 0.3, True, written.append)
    assert [row["grid"] for row in written] == [5, 5]
    assert written[0]["seconds"] < 0.2 and 0.25 < written[1]["seconds"] < 1


def test_the_fit_has_its_share_of_the_time():
    shares = []
    for symbolic in (False, True):
        written = []
        peer = SimpleNamespace(report=dict, fit=lambda: time.sleep(9), find_formula=lambda: None)
        pykan_fit.run(peer, 0.5, symbolic, written.append)
        shares.append(written[0]["seconds"])
    assert 0.5 <= shares[0] < 0.8 and 0.3 <= shares[1] < 0.48


class FakeKAN(torch.nn.Module):
    """Off by a constant: less for more nodes and finer grids; 4 nodes diverge, 9 nodes fail."""

    log, data = None, None  # set by the test

    def __init__(self, width, grid, k, seed, auto_save):
        super().__init__()
        self.nodes, self.grid = width[1], grid

    def forward(self, x):
        mean, std = moments(FakeKAN.data.y["train"])
        y = (x * moments(FakeKAN.data.x["train"])[1] + moments(FakeKAN.data.x["train"])[0]).prod(1, keepdim=True)
        return (y - mean) / std + (float("nan") if self.nodes == 4 else 1 / (self.nodes * self.grid))

    def fit(self, dataset, opt, steps, metrics):
        if self.nodes == 9:
            raise RuntimeError("no such luck")
        FakeKAN.log.append((self.nodes, self.grid))
        metrics[0]()
        return {"test_loss": [(self(dataset["test_input"]) - dataset["test_label"]).square().mean().sqrt().item()]}

    def get_act(self, x):
        assert len(x) == len(FakeKAN.data.x["train"]), "grids are refined on the training points"

    def refine(self, grid):
        self.grid = grid
        return self


def test_the_best_structure_is_refined_first_and_failures_are_noted(data, monkeypatch):
    monkeypatch.setattr(FakeKAN, "data", data)
    monkeypatch.setattr(FakeKAN, "log", [])
    peer = Peer(FakeKAN, data, {f"2,{n},1": [2, n, 1] for n in (1, 4, 9, 3)}, seed=0)
    peer.fit()
    screened, refined = FakeKAN.log[:3], FakeKAN.log[3:]
    assert screened == [(1, 3), (4, 3), (3, 3)]
    assert refined == [(nodes, grid) for nodes in (3, 1, 4) for grid in pykan_fit.GRIDS]
    report = peer.report()
    assert (report["structure"], report["grid"], report["steps"]) == ("2,3,1", 20, 12)
    assert report["errors"] == ["fit 2,9,1: RuntimeError: no such luck"]
    offset = moments(data.y["train"])[1].item() / 60
    assert report["rmse"] == pytest.approx(offset)


class FakeFormula(torch.nn.Module):
    """x_1 x_2 with inexact constants that are round only when expanded; through standardised units and back."""

    def symbolic_formula(self, symbols, normalizer, output_normalizer):
        (mean, std), (out_mean, out_std) = normalizer, output_normalizer
        z = [(s - m) / v for s, m, v in zip(symbols, mean, std, strict=True)]
        a, b = (s * v + m for s, m, v in zip(z, mean, std, strict=True))
        y = (0.333333333 * a + 0.2) * 3.0000003 * b - 0.6 * b
        return [(y - out_mean[0]) / out_std[0] * out_std[0] + out_mean[0]], symbols


def test_the_expanded_and_rounded_formula_is_exact(data):
    peer = Peer(None, data, {}, seed=0)
    peer.offer_formula(FakeFormula(), "2,0+1,1")
    report = peer.report()
    assert sympy.nsimplify(sympy.sympify(report["formula"])) == sympy.prod(X)
    assert report["formula_relative_mse"] < pykan_fit.EXACT and report["formula_structure"] == "2,0+1,1"


def test_without_pykan_one_line_says_so(points, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kan", None)
    with pytest.raises(ConfigError, match="pykan cannot be imported"):
        pykan_fit.main([str(points()), str(tmp_path / "out.json")])
    with pytest.raises(ConfigError, match="--seconds -1.0"):
        pykan_fit.main([str(points()), str(tmp_path / "out.json"), "--seconds", "-1"])


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("kan"), reason="needs pykan")
def test_pykan_fits_a_product_within_the_time(points, tmp_path):
    out = tmp_path / "out.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.pykan_fit",
        str(points(**arrays(500))),
        str(out),
        "--structure",
        "2,0+1,1",
    ]
    ended = subprocess.run([*command, "--seconds", "15", "--symbolic"], capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stderr
    report = json.loads(out.read_text())
    assert report["seconds"] < 17 and report["steps"] > 5
    assert report["relative_mse"] < 0.05 and report["structure"] == "2,0+1,1"
    assert not (tmp_path / "model").exists()
