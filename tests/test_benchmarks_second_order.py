"""benchmarks.second_order compares optimisers on one network with the same points."""

import csv

from conftest import jobs_here

from benchmarks.accuracy import second_order
from benchmarks.common import study


def test_a_line_for_each_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "table.md"
    second_order.main(["--quick", "--cases", "stokes", "--out", str(out)])
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["method"] for row in rows] == list(second_order.METHODS) and {row["steps"] for row in rows} == {"2"}
    errors = {row["method"]: float(row["error"]) for row in rows}
    assert all(0 < e < 3 for e in errors.values())
    assert errors["gauss_newton"] != errors["levenberg_marquardt"]
    ratio = errors["gauss_newton"] / errors["levenberg_marquardt"]
    (line,) = (line for line in out.read_text().splitlines() if line.startswith("| `stokes`"))
    assert line.split(" | ")[-2] == f"{ratio:.2g}" and len(line.split(" | ")) == len(second_order.HEADING)
