"""What all benchmarks do alike: every task's result, an end at Ctrl-C and SIGTERM, rows that are kept, tables."""

import argparse
import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from conftest import jobs_here, one_line

from benchmarks.common import study
from benchmarks.common.study import Parser, Study, alone, keep, kept, markdown, program, results
from kanpde.ground.errors import ConfigError

WAITS = "trap 'echo stored; exit 3' INT; echo begun; for i in $(seq 400); do sleep 0.05; done"


def test_every_task_has_its_result():
    with results(abs, [-3, -1, 2], 2) as found:
        assert sorted(found) == [(-3, 3), (-1, 1), (2, 2)]
    assert alone(abs, -5) == 5


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_processes(sent):
    before = signal.getsignal(signal.SIGTERM)
    of_shell = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(SystemExit) as info, results(time.sleep, [60, 60], 1):
            os.kill(os.getpid(), sent)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, of_shell)
    assert info.value.code == 130
    assert not multiprocessing.active_children() and signal.getsignal(signal.SIGTERM) == before


def test_a_program_has_its_code_and_its_time(tmp_path):
    spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $OMP_NUM_THREADS; exit 3"
    code, minutes = program(["sh", "-c", spin], tmp_path / "log", one_thread=True)
    assert code == 3 and 0 < minutes < 1 and (tmp_path / "log").read_text() == "1\n"


def test_ctrl_c_reaches_a_program_that_then_stores_its_state(tmp_path):
    """The first of two is told to end, and waited for; the second never begins."""
    logs = [tmp_path / "first", tmp_path / "second"]
    of_shell = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit), results(partial(program, ["sh", "-c", WAITS]), logs, 1):
            while not (logs[0].is_file() and logs[0].read_text()):
                time.sleep(0.05)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
    finally:
        signal.signal(signal.SIGINT, of_shell)
    assert logs[0].read_text() == "begun\nstored\n" and not logs[1].exists()


# Rows --------------------------------------------------------------------------------------------------------------


def squares(out: Path) -> Study:
    """A study of squares, by descending numbers."""
    report = lambda rows: "\n".join(markdown(["n", "square"], [list(row.values()) for row in rows]))
    return Study(out, ("n", "square"), report, lambda row: int(row["n"]), lambda row: -int(row["n"]))


def test_a_study_does_what_is_not_done_yet_and_keeps_it_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "results", jobs_here)
    made, asked = squares(tmp_path / "t.md"), []
    work = lambda n: asked.append(n) or [{"n": n, "square": n * n / 3}]
    made.run(work, {1: 1, 3: 3}, 1, lambda task, rows: f"{task} has {len(rows)} row")
    made.run(work, {3: 3, 2: 2}, 1, lambda task, rows: f"{task} again")
    assert asked == [1, 3, 2] and capsys.readouterr().out == "1 has 1 row\n3 has 1 row\n2 again\n"
    assert [(row["n"], row["square"]) for row in made.rows()] == [("3", "3"), ("2", "1.33333"), ("1", "0.333333")]
    made.add([{"n": 2, "square": 5}])
    assert (tmp_path / "t.md").read_text().splitlines()[3] == "| 2 | 5 |", "in place of the former row"


def test_a_task_without_rows_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    squares(tmp_path / "t.md").run(lambda n: [], {1: 1}, 1, lambda task, rows: "failed")
    assert squares(tmp_path / "t.md").rows() == [] and (tmp_path / "t.md").is_file()


def test_rows_have_all_columns_and_the_digits_asked_for(tmp_path):
    rows = [{"a": 1 / 3, "b": "x", "c": 4}, {"a": 7}]
    keep(tmp_path / "r.csv", ("a", "b"), rows)
    assert kept(tmp_path / "r.csv", ("a", "b")) == [{"a": "0.333333", "b": "x"}, {"a": "7", "b": ""}]
    keep(tmp_path / "r.csv", ("a",), rows, digits=None)
    assert float(kept(tmp_path / "r.csv", ("a",))[0]["a"]) == 1 / 3
    assert kept(tmp_path / "none.csv", ("a",)) == []


@pytest.mark.parametrize("text, columns", [("a,b\n1,2\n", ("a",)), ("", ("a",)), ("a\nx\n", ("a",))])
def test_another_csv_is_refused(tmp_path, text, columns):
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ConfigError, match="not a table of a") as info:
        kept(tmp_path / "r.csv", columns, lambda row: float(row["a"]))
    one_line(info)


def test_tables_are_aligned_column_by_column():
    heading, rule, first = markdown(["a", "b", "c", "d"], [["x", 0.12345, None, float("nan")]], "l-r")
    assert (heading, rule) == ("| a | b | c | d |", "| :-- | --- | --: | --: |") and first == "| x | 0.123 | - | - |"


# The command line --------------------------------------------------------------------------------------------------


def test_common_options_and_cases():
    parser = Parser("some", "About.").common(Path("t.md"), seeds=[1], jobs=2, quick="small", render=True)
    parser.cases(["one", "two"], "cell", "--cells")
    args = parser.parse_args(["--small", "--cases", "two"])
    assert (args.quick, args.cells, args.seeds, args.jobs, args.out) == (True, ["two"], [1], 2, Path("t.md"))
    assert parser.parse_args([]).cells == ["one", "two"]
    with pytest.raises(ConfigError, match="did you mean two"):
        parser.parse_args(["--cells", "tow"])
    for given in ({"jobs": 0}, {"seeds": [3, -1]}):
        with pytest.raises(ConfigError, match="must be at least"):
            study.at_least(argparse.Namespace(**given), {"jobs": 1} if "jobs" in given else {"seeds": 0})
    for value in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="--minutes must be above 0"):
            study.above_zero(argparse.Namespace(minutes=value), "minutes")
