"""The GPU benchmark: small on a CPU it fills every section, and what cannot be measured is a row that says why."""

import csv
import math
import time
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from conftest import one_line

from benchmarks.common import timing
from benchmarks.speed import gpu, sides
from kanpde.ground.errors import ConfigError

CPU = torch.device("cpu")
TINY = replace(gpu.SMALL, dims=(4, 6), check_dims=(4,), single_dim=8, row_seconds=0.01, steps=4, every=2)


def table(path) -> gpu.Table:
    return gpu.Table(path / "gpu.md", gpu.drawing("cpu", "command"))


def benchmark(path, seconds=60.0) -> gpu.Benchmark:
    return gpu.Benchmark(TINY, CPU, table(path), time.monotonic() + seconds)


def test_small_run_without_jax_fills_every_section(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "SMALL", replace(TINY, targets=(1e3, 1e-9)))
    monkeypatch.setattr(sides, "find_spec", lambda name: None)
    gpu.main(["--small", "--out", str(tmp_path / "gpu.md")])
    found = list(csv.DictReader((tmp_path / "gpu.csv").open()))
    of = lambda section, side: [row for row in found if row["section"] == section and row["side"] == side]
    for name in sides.NETS:
        checks = of("check", name)
        assert [row["quantity"] for row in checks if row["dim"] == "4"] == [
            f"{what}, {bits}" for bits in ("float64", "float32") for what in ("value", "lap", "gradient")
        ]
        assert not any(map(gpu.failed, checks))
        assert [row["dim"] for row in of("speed", name)] == ["4", "6"]
        assert all(float(row["steps_per_s"]) > 0 and float(row["peak_MB"]) > 0 for row in of("speed", name))
        reached, missed = of("error", name)
        assert (reached["target"], reached["steps"]) == ("1000.0", "2") and float(reached["seconds"]) > 0
        assert missed["note"].startswith("not reached: at best") and missed["seconds"] == ""
    for section in gpu.SECTIONS:
        assert {row["note"] for row in of(section, sides.STDE)} == {"JAX is not installed"}
    text = (tmp_path / "gpu.md").read_text()
    assert text.count("\n## ") == 5 and "| side | d = 4 | d = 6 |" in text and "FAILED" not in text
    assert "speed kan 6" in capsys.readouterr().out


@pytest.mark.skipif(not find_spec("jax"), reason="JAX is not installed")
def test_jax_side_computes_the_same_problem():
    found = list(sides.check_jax(5, CPU))
    assert [row["quantity"] for row in found[3:]] == ["value, float32", "lap, float32", "source, float32"]
    assert all(row["deviation"] <= row["allowed"] for row in found)
    assert sides.speed_jax(5, CPU, 0.01)["steps_per_s"] > 0


def test_a_row_that_is_not_measured_says_why(tmp_path):
    def exhausted():
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken():
        yield {"dim": 5}
        raise RuntimeError("first\nsecond")

    made = benchmark(tmp_path)
    for measure in (lambda: time.sleep(5), exhausted, broken):
        assert not made.measured({"section": "speed", "side": "kan", "dim": 4}, 1.0, measure)
    notes = [row["note"] for row in made.table.rows()]
    assert notes == [gpu.OUT_OF_TIME, "out of memory", "", "failed: RuntimeError: first second"]
    assert [row["dim"] for row in made.table.rows()] == ["4", "4", "5", "4"]  # what was found before stays


def test_nothing_starts_when_the_time_has_run_out(tmp_path):
    made = benchmark(tmp_path, seconds=0.0)
    assert made.speeds() == set()
    assert {row["note"] for row in made.table.rows()} == {gpu.OUT_OF_TIME}
    assert gpu.OUT_OF_TIME in (tmp_path / "gpu.md").read_text()


def test_training_stops_at_the_last_target_and_says_when_time_ran_out(tmp_path):
    made, (phase, points) = benchmark(tmp_path), sides.settings("kan", 4)
    x = torch.zeros(3, 4)
    test = {"x": x, "exact": torch.full((3,), 1e9)}  # out of reach: the relative error stays 1
    given = "kan", False, phase, points, test
    assert points == 400 and phase.steps == 4
    (row, _) = made.time_to_errors(*given, 60.0)
    assert row == {"target": 0.9, "note": "not reached: at best 1.00e+00 in 4 steps"}
    (row, _) = made.time_to_errors(*given, 0.0)
    assert row["note"] == "not reached: at best inf in 0 steps of 4 (time)"


def test_failed_checks():
    row = {"section": "check", "allowed": "1e-3"}
    assert [gpu.failed(row | {"deviation": d}) for d in ("1e-4", "1e-2", "nan", "")] == [False, True, True, False]


def test_a_failed_check_is_exit_code_1(tmp_path, monkeypatch):
    wrong = lambda *_: iter([{"quantity": "lap", "deviation": math.nan, "allowed": 1e-3}])
    monkeypatch.setattr(sides, "check", wrong)
    monkeypatch.setattr(sides, "check_jax", wrong)
    with pytest.raises(SystemExit, match="a check failed"):
        gpu.main(["--small", "--only", "check", "--out", str(tmp_path / "gpu.md")])
    assert "FAILED" in (tmp_path / "gpu.md").read_text()


def test_rates_take_about_the_time_asked_for():
    done = []
    found = timing.rates(lambda n: (done.append(n), time.sleep(0.002 * n)), 0.1)
    assert len(found) == 5 and all(100 < rate <= 500 for rate in found)
    assert done[:2] == [2, 1]
    assert len(timing.rates(lambda n: time.sleep(0.02 * n), 0.01)) == 1  # a slow step is measured once


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--small", "--dims", "1"], "--dims: given 1"),
        (["--small", "--device", "abacus"], "'abacus'"),
        (["--small", "--only", "nothing"], "nothing"),
    ],
)
def test_bad_calls_are_one_line(arguments, words, tmp_path):
    with pytest.raises(ConfigError) as info:
        gpu.main([*arguments, "--out", str(tmp_path / "gpu.md")])
    assert words in one_line(info)
    assert not list(tmp_path.iterdir())
