"""The benchmark of unknowns: a line for each seed, and the slopes of the solution by the unknowns in closed form."""

import pytest
import torch
from conftest import jobs_here, one_line

from benchmarks.accuracy import inverse
from benchmarks.common import study
from kanpde.ground.errors import ConfigError
from kanpde.problems import InverseDiffusion


def test_quick_run_and_the_same_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "inverse.md"
    words = ["--quick", "--seeds", "3", "--out", str(out)]
    inverse.main(words)
    assert capsys.readouterr().out.startswith("seed 3: ")
    text = out.read_text()
    assert "Of 1 runs both numbers are within 2 % in 0" in text and "\n| 3 |" in text
    inverse.main(words)
    assert capsys.readouterr().out.strip() == str(out) and out.read_text() == text


def test_least_errors_are_those_of_the_solution():
    """The solution for s a is u / s, so the slope along a = (2, 3) itself is -u."""
    problem = InverseDiffusion()
    found = inverse.slopes(problem, 2000, 1e-3) @ torch.tensor([2.0, 3.0], dtype=torch.float64)
    expected = -torch.sin(torch.pi * problem.seen[0][:, 0]) / problem.noise
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_bad_input_is_one_line():
    with pytest.raises(ConfigError, match="--jobs must be at least 1, given 0") as info:
        inverse.main(["--jobs", "0"])
    one_line(info)
