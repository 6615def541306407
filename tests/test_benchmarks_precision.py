"""benchmarks.precision has errors of several networks, and a figure of them against time."""

import csv

import pytest
from conftest import jobs_here

from benchmarks.accuracy import precision
from benchmarks.common import study
from kanpde.config import load
from kanpde.training.plan import Plan


def test_a_line_for_each_case_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "table.md"
    few = ["--quick", "--cases", "poisson_cos", "--nets", "chebykan", "mlp", "--seeds", "0", "1", "--out", str(out)]
    precision.main(few)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [(row["net"], row["seed"]) for row in rows] == [
        ("chebykan", "0"),
        ("chebykan", "1"),
        ("mlp", "0"),
        ("mlp", "1"),
    ]
    of = lambda net: sum(float(row["error"]) for row in rows if row["net"] == net) / 2
    (line,) = (line for line in out.read_text().splitlines() if line.startswith("| `poisson_cos`"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert float(cells[2]) == pytest.approx(of("chebykan"), rel=0.06) and cells[5] == ""
    assert cells[-3] == min(("chebykan", "mlp"), key=of) and cells[-2] == "1e-10"
    assert (tmp_path / "table.png").read_bytes()[:4] == b"\x89PNG"
    precision.main([*few, "--render"])
    assert list(csv.DictReader((tmp_path / "table.csv").open())) == rows


@pytest.mark.parametrize("case", precision.CASES)
def test_every_network_of_a_case_is_one(case):
    of = precision.CASES[case]
    for net in precision.NETS:
        given = {**of.given, "problem": dict(of.problem), "backbone": {"name": net, **of.nets.get(net, {})}}
        assert Plan.of(load(of.problem["name"], "low_dim", given)).parameters < 1700
