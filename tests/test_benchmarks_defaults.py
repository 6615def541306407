"""benchmarks.defaults runs README's command and nothing else, and tells what came of it."""

import csv
import re
import sys
from pathlib import Path

import pytest
from conftest import jobs_here

from benchmarks.accuracy import defaults
from benchmarks.common import study
from benchmarks.common.study import Seeded
from kanpde import train
from kanpde.ground.errors import ConfigError
from kanpde.problems import Poisson

README = Path(__file__).parent.parent / "README.md"


def row(case: str, seed: int, error: float, **changed) -> defaults.Row:
    values = {name: "1" for name in defaults.NUMBERS} | {"error": f"{error}", "steps": "3000", "best_step": "2900"}
    return {"case": case, "seed": str(seed), "machine": "a processor", **values, **changed}


def test_the_command_is_that_of_the_readme_with_a_seed(tmp_path):
    words = defaults.command(Seeded("allen_cahn-100-metakan", 23), tmp_path / "run.h5")
    in_readme = re.search(
        r"python (-m kanpde.solve) problems/(allen_cahn).yaml (--dim 100 --backbone metakan)", README.read_text()
    )
    assert [words[0], " ".join(words[1:3]), words[3]] == [sys.executable, *in_readme.groups()[:2]]
    assert " ".join(words[4:]) == f"{in_readme[3]} --seed 23 --out {tmp_path / 'run.h5'}"
    (tmp_path / "run.h5").touch()
    assert defaults.command(Seeded("heat-10-kan", 3), tmp_path / "run.h5")[3:] == [
        "--resume",
        str(tmp_path / "run.h5"),
    ]


def test_a_row_is_of_the_kept_weights(tmp_path):
    small = {"points": {"interior": 10, "test": 60, "validation": 20}, "evaluation": {"every": 4}}
    run = train(Poisson(3), out=tmp_path / "r.h5", backbone={"name": "kan", "widths": [3]}, steps=8, **small)
    measured = defaults.measured(run, Seeded("poisson-20-kan", 23), 1.5)
    assert tuple(measured) == (*defaults.COLUMNS[:2], "machine", *defaults.NUMBERS) and measured["steps"] == "8"
    assert float(measured["error"]) == pytest.approx(run.rel_l2, rel=1e-5)
    assert float(measured["least"]) == pytest.approx(min(run.history["rel_l2"]), rel=1e-5)


def test_the_table_has_means_deviations_and_the_least_floor_in_bold(tmp_path):
    floors = {"constant": "0.5", "affine": "0.25", "additive": "nan", "taylor2": "0.125", "no_training": "3"}
    rows = [row("poisson-20-kan", seed, error, **floors) for seed, error in ((23, 1e-3), (24, 3e-3))]
    out = tmp_path / "defaults.md"
    defaults.study(out).add(rows)
    line = next(text for text in out.read_text().splitlines() if text.startswith("| poisson"))
    assert "| 0.002 ± 0.0014 |" in line and "| 23 24 | 2,900 | 3,000 |" in line
    assert line.endswith("| 0.5 | 0.25 | - | **0.125** | 3 |")
    assert list(csv.DictReader(out.with_suffix(".csv").open())) == rows
    assert set(map(defaults.task_of, defaults.study(out).rows())) == {("poisson-20-kan", 23), ("poisson-20-kan", 24)}


def test_runs_that_are_done_are_not_run_again(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(defaults, "trained", lambda task, args: ran.append(task) or [row(*task, 1e-3)])
    monkeypatch.setattr(study, "results", jobs_here)
    given = ["--cases", "heat-10-kan", "--runs", str(tmp_path), "--out", str(tmp_path / "d.md"), "--seeds"]
    defaults.main([*given, "23"])
    defaults.main([*given, "23", "24"])
    assert ran == [("heat-10-kan", 23), ("heat-10-kan", 24)]
    with pytest.raises(ConfigError, match="did you mean heat-10-kan"):
        defaults.main(["--cases", "heat-10-kann"])
