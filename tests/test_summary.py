"""What a run says of itself: all its parameters, its unknowns from start to end, what lies off its grids."""

import re
from pathlib import Path

import pytest
from test_solve import TINY, drawn, folder, run  # noqa: F401, fixtures

from kanpde import Run, config, plot
from kanpde.records import compare
from kanpde.runs import summary

INVERSE = '''
from dataclasses import dataclass
import math
import torch
from torch import nn
import kanpde
from kanpde.domains import Box, Cylinder

class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.5))
        self.shape = nn.Linear(4, 5)

@dataclass(frozen=True, eq=False)
class Inverse(kanpde.Problem):
    """u_t = u_xx + k u"""
    terms = ("observed",)
    def __post_init__(self):
        object.__setattr__(self, "parameters", Unknown())
    @property
    def domain(self):
        return Cylinder(Box(1, 0.0, 1.0), 2.0)
    def coefficients(self, x):
        return x.new_tensor([1.0, 0.0])
    def directions(self, x):
        return x.new_tensor([[0.0, 1.0]])
    def residual(self, u, x):
        return u.along[:, 0] - u.lap - self.parameters.k * u.value - (math.pi * x[:, 0]).sin()
    def extra_terms(self, u):
        x = torch.linspace(0.1, 0.9, 5)[:, None].expand(-1, 2)
        return {"observed": (u(x) - 1).square().mean()}
'''


@pytest.fixture
def inverse(folder) -> list:  # noqa: F811
    Path("inverse.py").write_text(INVERSE)
    Path("p.yaml").write_text("problem: {name: inverse.py:Inverse, dim: 1}\n")
    return ["p.yaml", "--solver", "adam", "--backbone", "kan", *TINY, "--set", "backbone.widths=[3]"]


def test_parameters_and_unknowns_of_the_problem_are_printed(capsys, inverse):
    """26 of the problem: k and a linear map of 4 to 5; the value of k at the start and of the weights that are kept."""
    code, out, _ = run(capsys, *inverse, "--steps", 4, "--out", "r.h5")
    assert code == 0
    opened = Run.open("r.h5")
    net, k = opened.attrs["parameters"], opened.history["parameters/k"]
    assert f"kan, {net:,} parameters, and 26 of the problem (" in out
    assert re.search(r"parameters +│ +\d+ ", out) and re.search(r"parameters of the problem +│ +26 ", out)
    kept = k[list(opened.history["step"]).index(opened.attrs["best_step"])]
    assert re.search(rf"unknown k +│ +{re.escape(f'{kept:.6g}')} +│ +from 0.5", out)
    assert "problem   Inverse, d = 1 + time: u_t" in out and "Inverse, d = 1 + time, kan" in out
    assert plot.convergence(opened).get_suptitle() == "Inverse, d = 1 + time, kan"
    assert compare.summary(opened)["parameters"] == net + 26
    assert re.search(r"step 4/4  loss \S+  k 0\.\d+  ", out), "and as it moves"


def test_a_dry_run_counts_the_parameters_of_the_problem(capsys, inverse):
    code, out, _ = run(capsys, *inverse, "--dry-run")
    assert code == 0 and re.search(r"parameters [\d,]+, and 26 of the problem\n", out)


@pytest.mark.parametrize("solver", sorted(p.stem for p in config.library("solvers").glob("*.yaml")))
def test_default_rates_let_an_unknown_move(solver):
    """First-order steps are about as long as the rate, which falls linearly to 0: unknowns get 2 away."""
    phases = config.load("poisson", solver).phases
    first_order = [phase for phase in phases if isinstance(phase.lr, dict)]
    assert all(phase.lr["problem"] * phase.steps / 2 >= 2 for phase in first_order)


def test_unknowns_are_told_as_they_move_where_they_are_few():
    assert summary.few_unknowns({"loss": 1.0, "parameters/k": 4.98125}) == "k 4.981  "
    biases = {f"parameters/net.0.bias.{i}": 1.0 for i in range(4)}
    assert summary.few_unknowns(biases) == ""
    assert summary.few_unknowns(biases | {"parameters/k": 0.5}) == "k 0.5  "


def finished(off: list[float], backbone: str = "metakan") -> Run:
    made = Run("r.h5")
    made.attrs |= {"best_step": 10, "backbone": backbone}
    made.history |= {"step": [0.0, 10.0, 20.0], **{f"off_grid/{i}": [0.0, share, 0.9] for i, share in enumerate(off)}}
    return made


def test_layers_off_their_grids_are_named_with_what_helps():
    """Above a tenth, of the weights that are kept."""
    assert summary.off_grid(finished([0.0, 0.1, 0.02])) is None
    line = summary.off_grid(finished([0.0, 0.05, 0.31]))
    assert "31% of the inputs of layer 2" in line and "layer 1" not in line
    assert "backbone.hidden_range" in line and "grid_range" not in line and "update_grid" not in line
    assert "update_grid" in summary.off_grid(finished([0.0, 0.2], "kan"))
    assert "backbone.grid_range" in summary.off_grid(finished([0.2, 0.0]))


def test_solve_warns_of_layers_off_their_grids(capsys, folder):  # noqa: F811
    """Hidden ranges as narrow as 1e-3 hold next to nothing."""
    narrow = ["--set", "backbone={name: kan, widths: [3], hidden_range: [-0.001, 0.001]}"]
    code, out, _ = run(capsys, "poisson", "--dim", 3, *TINY, *narrow, "--steps", 2)
    assert code == 0 and re.search(r"\d+% of the inputs of layer 1 lie off its grid.*backbone.hidden_range", out)
    code, out, _ = run(capsys, "poisson", "--dim", 3, *TINY, "--backbone", "mlp", "--steps", 2)
    assert code == 0 and "off its grid" not in out
