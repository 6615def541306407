"""benchmarks.race: errors against processor time of all sides, and when each is below its goals."""

import csv
import time

import numpy as np
import pytest
from conftest import jobs_here

from benchmarks.accuracy import race
from benchmarks.common import study


def test_a_line_has_the_first_look_below_each_goal(tmp_path):
    row = {"side": "kan", "seed": "0", "limit": "9", "error": "2e-5", "seconds": "30", "parameters": "880"}
    row["curve"] = "1.0:5e-01 10.0:9e-04 12.0:2e-03 20.4:9e-05 30.0:2e-05"
    assert "| kan | 0 | 880 | 10 | 20 | - | - | 2.0e-05 | 30 |" in race.report([row])
    assert len(race.drawn([row]).axes[0].lines) == 1


def test_looking_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: now[0])

    def slowly(x):
        now[0] += 100
        return x.sum(1) * 1.1

    x = np.ones((3, 2))
    watch = race.Watch(x, x.sum(1), 9.0)
    assert not watch.over(slowly) and watch.seconds() == 0
    now[0] += 1
    assert not watch.over(slowly) and len(watch.curve) == 1  # too soon to look
    now[0] += 9
    assert watch.over(slowly) and watch.seconds() == 10
    assert [seconds for seconds, _ in watch.curve] == [0, 10] and watch.curve[1][1] == pytest.approx(0.1)


def test_ours_and_plain_torch(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out, sides = tmp_path / "race.md", ["chebykan", "plain Levenberg-Marquardt"]
    race.main(["--quick", "--sides", *sides, "--out", str(out)])
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [row["side"] for row in rows] == sides and all(0.3 < float(row["error"]) < 1.5 for row in rows)
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG" and out.read_text().count("| 0 |") == 2


@pytest.mark.slow
def test_the_others(tmp_path, monkeypatch):
    pytest.importorskip("deepxde", reason="deepxde is not installed")
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "race.md"
    race.main(["--quick", "--sides", "DeepXDE, L-BFGS", "DeepXDE, NNCG", "--out", str(out)])
    assert all(float(row["error"]) < 1 for row in csv.DictReader(out.with_suffix(".csv").open()))
