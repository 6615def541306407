"""The benchmark of conditions: its problems have their solutions, and its table a line for each run."""

import pytest
from conftest import jobs_here

from benchmarks.accuracy import conditions
from benchmarks.common import study
from kanpde.testing import check_problem


@pytest.mark.parametrize("name", conditions.CASES)
def test_the_solution_has_its_equation_and_its_values(name):
    said = str(check_problem(conditions.Manufactured(name=name)))
    assert "residual of the exact solution" in said and "exact solution, " in said


@pytest.mark.slow
def test_quick_run_and_the_same_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    words = ["--quick", "--problems", "wave", "flux", "--sides", "hard", "soft", "--out", str(tmp_path / "c.md")]
    conditions.main(words)
    assert "('wave', 'hard', 0)" in capsys.readouterr().out
    text = (tmp_path / "c.md").read_text()
    assert [line.split("|")[1].strip() for line in text.splitlines() if "| hard" in line] == ["wave", "flux"]
    conditions.main(words)
    assert capsys.readouterr().out == "" and (tmp_path / "c.md").read_text() == text
