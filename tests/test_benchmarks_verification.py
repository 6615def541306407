"""The benchmarks of verification: quick runs, what counts as held and as called wrong, tables."""

import csv

import pytest
from conftest import jobs_here

from benchmarks.accuracy import point_values, verification
from benchmarks.common import study

CASES = {"shown": "helmholtz-box-2", "small": "poisson-soft-3", "wrong": "values-poisson-3"}


def row(what, case, true=1e-3, estimated=1.1e-3, low=9e-4, high=1.2e-3):
    numbers = {"true": true, "estimated": estimated, "low": low, "high": high, "train": 10, "verify": 1, "samples": 9}
    return {
        "what": what,
        "case": case,
        "seed": "0",
        "steps": "0",
        "method": "m",
        "residual": 0.1,
        "machine": "x",
    } | numbers


@pytest.mark.parametrize("what", CASES)
def test_quick_runs_and_the_same_again(what, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    monkeypatch.setattr(verification, "SMALL_STEPS", (4,))
    call = ["--quick", "--what", what, "--cases", CASES[what], "--seeds", "1", "--runs", str(tmp_path / "runs")]
    call += ["--out", str(tmp_path / "v.md")]
    verification.main(call)
    with (tmp_path / "v_quick.csv").open() as file:
        (found,) = csv.DictReader(file)
    assert found["case"] == CASES[what] and 0 < float(found["true"]) and int(found["samples"]) >= 2 * 16
    monkeypatch.setattr(verification, "measured", lambda cell: pytest.fail("measured again"))
    verification.main(call)


def test_the_table_says_how_many_intervals_hold_the_truth():
    small = [
        row("small", "poisson-3"),
        row("small", "poisson-3", low=1.05e-3),
        row("small", "heat-3", high=float("inf")),
    ]
    text = verification.report([row("shown", "poisson-5"), *small])
    assert "| poisson-5 | 0.001 | 0.0011 | 0.0009 to 0.0012 |" in text
    assert "| poisson-3 | 2 | 50.0% |" in text and "| all | 3 | 66.7% |" in text
    wrong = [row("wrong", "sign-poisson-3"), row("wrong", "values-poisson-3", low=0.04)]
    assert "1 of 2 called so" in verification.report(wrong)


def test_the_sign_of_a_source_is_what_is_wrong():
    trained, right, _ = verification.WRONG["sign-heat-3"]
    x = verification.Heat(3).domain.interior(5, verification.stream(0, "x"))
    assert (trained.source(x) == -right.source(x)).all() and trained.dim == 3


@pytest.mark.slow
def test_point_values(tmp_path):
    call = ["--quick", "--dim", "5", "--points", "4", "--out", str(tmp_path / "p.md")]
    point_values.main(call)
    point_values.main([*call, "--problem", "sine_gordon", "--second", "2"])
    point_values.main(call)  # in the place of the first
    text = (tmp_path / "p.md").read_text()
    assert text.count("## ") == 2 and text.count("alone, ") == 2 and text.count("the second network") == 1
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    errors = {row[1]: float(row[4]) for row in rows if len(row) > 4 and row[1] in ("the network", "its correction")}
    assert errors["its correction"] < 0.3 * errors["the network"]
