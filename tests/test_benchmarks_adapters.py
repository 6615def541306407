"""benchmarks.adapters: both sides are the same program but for the operator, and the table."""

import csv

import pytest
from conftest import jobs_here

from benchmarks.common import study
from benchmarks.speed import adapters


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["deepxde-1d", "pina-10"])
def test_both_sides_have_the_same_loss_and_gradient(case, tmp_path, monkeypatch):
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    pytest.importorskip(case.partition("-")[0])
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "adapters.md"
    adapters.main(["--quick", "--cases", case, "--networks", "kan", "--out", str(out)])
    (row,) = csv.DictReader(out.with_suffix(".csv").open())
    number = {name: float(row[name]) for name in adapters.COLUMNS if name not in ("case", "network", "machine")}
    assert number["loss_off"] < 1e-5 and number["gradient_off"] < 1e-4 and number["steps"] == 2
    assert number["ratio"] == pytest.approx(number["theirs_ms"] / number["ours_ms"], rel=1e-4) and number["ours_ms"] > 0
    assert number["error_theirs"] == pytest.approx(number["error_ours"], rel=1e-3)
    assert f"| {case} | kan |" in out.read_text()


@pytest.mark.filterwarnings("ignore")
def test_another_operator_would_show(tmp_path, monkeypatch):
    pytest.importorskip("pina")
    right = adapters.to_pina.laplacian
    monkeypatch.setattr(adapters.to_pina, "laplacian", lambda *given: 1.01 * right(*given))
    (row,) = adapters.measured(adapters.Task("pina-10", "kan", 1))
    assert float(row["gradient_off"]) > 1e-4
