"""benchmarks.fuzz at a small size: nothing that is drawn or damaged ends in a traceback, a crash or a hang."""

import csv
import random

import pytest
from conftest import one_line

from benchmarks.reliability import fuzz
from kanpde.ground.errors import ConfigError


def test_configurations_and_files_end_or_are_refused_in_a_line(tmp_path, capsys):
    out = tmp_path / "fuzz.md"
    fuzz.main(["--configurations", "6", "--files", "22", "--seed", "3", "--out", str(out)])
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert sum(int(row["count"]) for row in rows) == 28
    assert {row["kind"] for row in rows} == {"configuration", *fuzz.KINDS}
    assert not [row for row in rows if row["outcome"] in fuzz.FAILURES]
    assert {row["outcome"] for row in rows} == set(fuzz.OUTCOMES)
    assert "28 tried, 0 failed." in out.read_text()
    capsys.readouterr()
    fuzz.main(["--configurations", "6", "--files", "22", "--seed", "3", "--only", "6", "--out", str(out)])
    assert capsys.readouterr().out.startswith("6 YAML: ")


def test_rows_count_what_is_alike_and_name_what_failed():
    ended = [(0, "YAML", "finished", ""), (1, "YAML", "one line", "a"), (2, "YAML", "one line", "b")]
    rows = fuzz.counted(4, [*ended, (3, "YAML", "crash", "exit\ncode 7")])
    assert [(row["outcome"], row["count"], row["says"]) for row in rows] == [
        ("finished", "1", ""),
        ("one line", "2", ""),
        ("crash", "1", "3: exit code 7"),
    ]
    assert "4 tried, 1 failed.\n\n- YAML: crash, 3: exit code 7\n" in fuzz.report(rows)


class Odd(ValueError):
    """No error of kanpde's."""


def _raise(error: Exception):
    raise error


@pytest.mark.parametrize(
    ("work", "outcome"),
    [
        (lambda: None, "finished"),
        (lambda: "not finite", "not finite"),
        (lambda: _raise(ConfigError("no")), "one line"),
        (lambda: _raise(ConfigError("no\nno")), "several lines"),
        (lambda: _raise(Odd("no")), "traceback"),
        (lambda: _raise(MemoryError()), "memory"),
    ],
)
def test_what_comes_of_a_try(work, outcome):
    assert fuzz.tried(work)[0] == outcome


def test_a_process_that_dies_or_hangs_is_seen(monkeypatch):
    other = fuzz.Other(seconds=600.0)
    monkeypatch.setattr(fuzz, "serve", dies)
    assert other.ask("configuration", {}) == ("crash", "exit code 7")
    monkeypatch.setattr(fuzz, "serve", hangs)
    other.seconds = 1.0
    assert other.ask("configuration", {})[0] == "hang"


def dies(pipe):
    raise SystemExit(7)


def hangs(pipe):
    pipe.poll(1000)
    pipe.recv()
    pipe.poll(1000)


def test_damage_is_by_the_seed():
    content = bytes(range(256)) * 4
    one, same, other = (fuzz.damaged(content, random.Random(seed)) for seed in (1, 1, 2))
    assert one == same != other and one != content


def test_bad_options_are_one_line():
    with pytest.raises(ConfigError) as info:
        fuzz.main(["--files", "-1"])
    assert "--files must be at least 0" in one_line(info)
