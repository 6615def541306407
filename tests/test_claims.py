"""A name that a killed run left is free again, one of a run at work is not, and nothing half-written stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import configuration

from kanpde.ground.errors import ConfigError
from kanpde.problems import Poisson
from kanpde.records.run import replacing
from kanpde.runs import claims
from kanpde.runs.claims import claim, occupied, remove_leftovers
from kanpde.runs.names import check_out, reserve


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def killed(checkpoint: Path, process: int, monkeypatch) -> None:
    """What a process left that was killed before its first result."""
    with monkeypatch.context() as as_it:
        as_it.setattr(os, "getpid", lambda: process)
        claim(checkpoint)


def test_a_killed_run_leaves_its_name_free(tmp_path, monkeypatch, dead):
    path, config = tmp_path / "X.h5", configuration(Poisson(3), {})
    killed(tmp_path / "X.pt", dead, monkeypatch)
    check_out(path)
    assert reserve(path, config) == path, "taken over"
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* no result yet"):
        check_out(path)
    (tmp_path / "X.pt").write_bytes(b"")  # as earlier versions left it
    assert reserve(path, config) == path


def test_a_run_at_work_keeps_its_name(tmp_path):
    claim(tmp_path / "X.pt")
    with pytest.raises(FileExistsError):
        claim(tmp_path / "X.pt")


def test_what_is_said_of_a_name_is_true(tmp_path, monkeypatch, dead):
    """--resume is offered where there is a result, and a checkpoint with weights is never replaced."""
    path = tmp_path / "X.h5"
    path.with_suffix(".pt").write_bytes(b"PK" + bytes(5000))
    assert "no " in occupied(path) and "--resume" not in occupied(path)
    path.write_bytes(b"result")
    assert f"--resume {path}" in occupied(path)
    path.with_suffix(".pt").unlink()
    killed(path.with_suffix(".pt"), dead, monkeypatch)
    assert not claims._is_abandoned(path.with_suffix(".pt")), "it has a result"
    other = tmp_path / "Y.pt"
    other.write_text(f"{claims.CLAIM}process {dead} on another-machine")
    assert "another-machine" in occupied(tmp_path / "Y.h5"), "whose processes nobody here can see"


def test_half_written_files_of_processes_that_are_gone_are_removed(tmp_path, dead):
    gone = [f".X.h5.{dead}.tmp", f".X.pt.{dead}.tmp"]
    kept = [f".X.h5.{os.getpid()}.tmp", f".Y.h5.{dead}.tmp", ".X.h5.word.tmp", "X.h5"]
    for name in [*gone, *kept]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "X.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    (tmp_path / f".[X].h5.{dead}.tmp").touch()
    remove_leftovers(tmp_path / "[X].h5")
    assert not (tmp_path / f".[X].h5.{dead}.tmp").exists(), "brackets are no pattern"


def test_a_file_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: done.append(name) or real(*args))
    with replacing(tmp_path / "X.h5") as temporary:
        temporary.write_text("new")
    assert done == ["fsync", "replace"] and (tmp_path / "X.h5").read_text() == "new"
