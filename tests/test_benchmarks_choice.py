"""benchmarks.choice compares the solvers that `auto` chooses between."""

import csv

from conftest import jobs_here

from benchmarks.accuracy import choice
from benchmarks.common import study


def test_a_line_for_each_case(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "table.md"
    choice.main(["--quick", "--cases", "heat-2", "--out", str(out)])
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["solver"] for row in rows] == list(choice.SOLVERS) and {row["inputs"] for row in rows} == {"3"}
    errors = {row["solver"]: float(row["error"]) for row in rows}
    (line,) = (line for line in out.read_text().splitlines() if line.startswith("| heat-2"))
    cells = line.strip("| ").split(" | ")
    assert len(cells) == len(choice.HEADING) and cells[-1] == f"{errors['default'] / errors['low_dim']:.2g}"
    assert float(cells[4]) != float(cells[7])
