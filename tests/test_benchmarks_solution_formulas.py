"""The benchmark of formulas of solutions: its problems have their solutions, and a row says what was found."""

import pytest

from benchmarks.formulas import solution_formulas as study
from kanpde.proof import prove
from kanpde.testing import check_problem


@pytest.mark.parametrize("problem", [study.Rod(), study.Quadratic(2), study.Spreading(), study.Waves()])
def test_problems_have_their_solutions(problem):
    assert "exact solution" in str(check_problem(problem))


def test_a_case_in_a_few_seconds_is_a_row_of_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "QUICK", 60.0)  # which it does not take
    (row,) = study.measure("hjb_quadratic", tmp_path, quick=True)
    assert row["verdict"] == "exact" and row["way"] == "edges" and row["error"] < 1e-3
    assert prove(study.Quadratic(), row["formula"]).exact
    text = study.report([row, {**row, "case": "heat", "formula": "", "verdict": "no formula"}])
    assert "- exact: 1 of 2" in text and text.count("| chebykan [], degree 4") == 2


def test_rows_are_kept_in_the_order_of_the_cases(tmp_path):
    row = dict.fromkeys(study.COLUMNS, "") | {"error": 1.0, "seconds": 2.0}
    study.study(tmp_path / "t.md").add([{**row, "case": "heat"}, {**row, "case": "poisson_pairs"}])
    assert [row["case"] for row in study.study(tmp_path / "t.md").rows()] == ["poisson_pairs", "heat"]
