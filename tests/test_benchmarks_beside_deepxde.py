"""benchmarks.beside_deepxde: both sides of a row, and its table."""

import csv

import pytest
from conftest import jobs_here

from benchmarks.accuracy import beside_deepxde
from benchmarks.common import study


def test_the_table_has_the_best_of_the_other_side():
    row = lambda side, error, **more: {
        **{"case": "wave", "seed": "0", "side": side, "error": error, "cpu_seconds": "60", "steps": "9"},
        **{"statement_lines": "15", "settings_lines": "6", "machine": "here"},
        **more,
    }
    rows = [row("our points, single", "0.5"), row("kanpde", "0.001"), row("our points, double", "nan")]
    text = beside_deepxde.report([*rows, row("its points, single", "0.02", statement_lines="11")])
    assert "| `wave` | 0 | 0.001 | 0.02 | its points, single | 20 | 60 | 60 | 9 | 15 | 11 | 6 | 6 |" in text
    assert "15 in the median, 15 at most" in text


@pytest.mark.slow
def test_both_sides_of_a_row(tmp_path, monkeypatch):
    pytest.importorskip("deepxde", reason="deepxde is not installed")
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "beside.md"
    cases = ["inverse_diffusion", "helmholtz"]
    beside_deepxde.main(["--quick", "--cases", *cases, "--runs", str(tmp_path / "runs"), "--out", str(out)])
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [row["side"] for row in rows[:4]] == ["kanpde", *beside_deepxde.TRIALS]
    assert all(0 < float(row["error"]) < 100 and float(row["cpu_seconds"]) > 0 for row in rows)
    assert all(int(row["statement_lines"]) <= 30 for row in rows)
