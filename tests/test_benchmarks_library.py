"""benchmarks.library runs the plain command for each equation of the library, and shows what came of it."""

import csv

import pytest
from conftest import jobs_here

from benchmarks.accuracy import library
from benchmarks.common import study
from kanpde.ground.errors import ConfigError
from kanpde.problems import LOW_DIM


def test_a_run_its_table_and_its_curve(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    given = ["--cases", "stokes", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "library.md")]
    library.main([*given, "--quick"])
    (row,) = csv.DictReader((tmp_path / "library.csv").open())
    assert row["case"] == "stokes" and row["steps"] == "2" and row["reference"] == "closed"
    assert [part.split("=")[0] for part in row["fields"].split()] == ["u", "v", "p"]
    assert 0 < float(row["cpu_seconds"]) < 100 and float(row["error"]) < 2
    text = (tmp_path / "library.md").read_text()
    assert f"| `stokes` | {float(row['error']):.2g} | 3e-02, missed |" in text
    curve = (tmp_path / "library_curves.csv").read_text()
    steps = [int(line.split(",")[2]) for line in curve.splitlines()[1:]]
    assert steps == [0, 1, 2] and (tmp_path / "figures" / "library.png").stat().st_size > 5_000
    for file in (tmp_path / "runs").iterdir():
        file.unlink()
    library.main([*given, "--render"])  # what was kept is enough
    assert (tmp_path / "library.md").read_text() == text and (tmp_path / "library_curves.csv").read_text() == curve
    with pytest.raises(ConfigError, match="did you mean stokes"):
        library.main(["--cases", "stoke"])


def test_targets_are_of_equations_and_lines_are_counted():
    assert set(library.TARGETS) < set(LOW_DIM)
    assert library.reference("kdv") == "computed, to 1e-10" and library.reference("wave") == "closed"
    assert library.yaml_lines("fokker_planck") >= 2
    assert 5 < library.class_lines(LOW_DIM["kdv"]) < library.class_lines(LOW_DIM["elasticity"]) < 80
