"""The benchmark of whole commands: what a process takes, and a line for each side."""

import pytest
from conftest import one_line

from benchmarks.speed import whole
from kanpde.ground.errors import ConfigError


@pytest.mark.slow
def test_a_command_is_measured_and_one_that_is_refused_is_none():
    row = whole.ran(whole.HERE, 3, 1, "network")
    assert row["seconds"] > 0 and row["processor_s"] > 0 and row["peak_MB"] > 100 and row["test_points"] == 20_000
    assert whole.ran(whole.HERE, 3, 1, "nowhere") is None


def test_sides_and_commands_stand_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "commit", lambda checkout: "new" if checkout == whole.HERE else "old")
    (tmp_path / "kanpde").mkdir()
    (tmp_path / "kanpde" / "__init__.py").touch()

    def ran(checkout, dim, steps, start):
        old = checkout != whole.HERE
        numbers = {"processor_s": 1.0, "peak_MB": 300.0, "error": 0.1, "test_points": 20}
        return None if old and start == "ladder" else {"seconds": 8.0 if old else 2.0, **numbers}

    monkeypatch.setattr(whole, "ran", ran)
    out = tmp_path / "whole.md"
    for start in ("constant", "ladder"):
        whole.main(["--before", str(tmp_path), "--start", start, "--repeats", "2", "--out", str(out)])
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in out.read_text().splitlines() if "| 10 |" in line
    ]
    assert [line[2:5] for line in lines] == [
        ["constant", "before", "old"],
        ["constant", "now", "new"],
        ["ladder", "now", "new"],
    ]
    assert [line[-1] for line in lines] == ["1", "0.25", "-"]


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no checkout of kanpde") as info:
        whole.main(["--before", str(tmp_path)])
    one_line(info)
