"""The benchmark of kills: it finds what is wrong, a table of what was tried, and a long run in small."""

import os
import signal

import pytest
from conftest import jobs_here, one_line

from benchmarks.common import study
from benchmarks.reliability import crashes, long_runs
from kanpde.ground.errors import ConfigError
from kanpde.records.run import RunFile


@pytest.mark.slow
def test_quick_run_and_the_same_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "crashes.md"
    words = ["--kinds", "adam", "--kills", "2", "--out", str(out)]
    crashes.main(words)
    assert capsys.readouterr().out.count("as alone") == 8
    assert "| all | 8 / 0 | 8 / 0 |" in out.read_text()
    before = out.read_text()
    crashes.main(words)
    assert capsys.readouterr().out.strip() == str(out) and out.read_text() == before


def test_a_process_that_hangs_is_ended_and_one_that_is_killed_is_told():
    def child(act):
        if pid := os.fork():
            return pid
        act()
        os._exit(0)

    assert crashes.ended(child(lambda: None)) == 0
    assert crashes.ended(child(lambda: os.kill(os.getpid(), signal.SIGKILL))) == -signal.SIGKILL
    assert crashes.ended(child(signal.pause), 0.1) is None


def test_what_is_wrong_is_found(tmp_path, monkeypatch):
    """A file that is behind what was told, one that does not open, and what is left over."""
    whole = RunFile(tmp_path / "whole.h5")
    for step in (0, 2, 4):
        whole.log({"step": step, "loss": step})
    whole.save()
    monkeypatch.setattr(crashes, "whole", lambda kind: RunFile.open(whole.path))
    failed = []
    for number, spoil in enumerate(
        (
            lambda path: None,
            lambda path: path.write_bytes(path.read_bytes()[:700]),
            lambda path: path.unlink(),
        )
    ):
        (tmp_path / str(number)).mkdir()
        trial = crashes.Trial("adam", tmp_path / str(number))
        run = RunFile(trial.path)
        run.log({"step": 0, "loss": 0})
        run.log({"step": 2, "loss": 2})
        run.save()
        trial.intact("step 2/80  loss 1\n")
        assert not trial.failed
        spoil(trial.path)
        trial.intact("step 2/80  loss 1\nstep 4/80  loss 1\n")
        failed.append(trial.failed)
    assert failed[0].startswith("step 4 was told of, the file ends with 2") and "unreadable" in failed[1] + failed[2]
    trial.refused(1, "kanpde: x\n")
    assert trial.failed == failed[2], "the first is kept"


def test_the_table_counts(tmp_path):
    row = dict(zip(crashes.COLUMNS, (0, "adam", "kill", "1 s", "", ""), strict=True))
    text = crashes.report([row, row | {"number": 1, "failed": "left: []"}, row | {"kind": "fit", "ended": "ended"}])
    assert "| kill | 2 / 1 | 1 / 0 | 3 / 1 |" in text and "2 kills came before the end" in text and "left: []" in text


@pytest.mark.slow
def test_a_long_run_in_small(tmp_path, capsys):
    out = tmp_path / "long_runs.md"
    long_runs.main(["--steps", "100", "--every", "5", "--out", str(out)])
    assert "100 steps of Adam" in out.read_text() and " 0 failed" in out.read_text()
    assert (tmp_path / "figures" / "long_runs.png").stat().st_size > 1000
    before = out.with_suffix(".csv").read_text()
    long_runs.main(["--render", "--every", "5", "--out", str(out)])
    assert out.with_suffix(".csv").read_text() == before


def test_a_long_run_is_measured_by_its_ends():
    rows = [{"step": str(s), "ms": str(1.0 + (s > 90)), "memory_mb": ""} for s in range(1, 101)]
    assert long_runs.ends(rows, "ms") == (1.0, 2.0)


def test_bad_input_is_one_line(tmp_path):
    for main, words in (
        (crashes.main, ["--kills", "0"]),
        (crashes.main, ["--kinds", "adma"]),
        (long_runs.main, ["--render", "--out", str(tmp_path / "none.md")]),
    ):
        with pytest.raises(ConfigError) as info:
            main(words)
        one_line(info)
