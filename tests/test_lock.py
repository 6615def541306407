"""One process writes a result: a killed one leaves its name free, a stopped one keeps it."""

import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import configuration

import kanpde
from kanpde.ground.errors import ConfigError
from kanpde.problems import Poisson
from kanpde.records.lock import Lock, Locked
from kanpde.records.run import replacing
from kanpde.runs.models import Run
from kanpde.runs.names import check_out, reserve

SMALL = {
    "points": {"interior": 20, "test": 50, "validation": 20},
    "evaluation": {"every": 2, "points": 50},
    "backbone": {"name": "kan", "widths": [3]},
    "slices": {"points": 5, "volume": 0},
    "verify": False,
}
HOLDER = """
import sys, time
from pathlib import Path
from kanpde.records.lock import Lock
lock = Lock(Path(sys.argv[1])).take()
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has locked X.h5."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "X.h5"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.wait()


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def test_a_killed_run_leaves_its_name_free(tmp_path, holder):
    """Whatever it had written: nothing, or a checkpoint without a result."""
    path, config = tmp_path / "X.h5", configuration(Poisson(3), {})
    with pytest.raises(Locked, match=f"process {holder.pid} on"):
        reserve(path, config)
    path.with_suffix(".pt").write_bytes(b"PK")
    (tmp_path / ".X.h5.123.tmp").touch()
    kill(holder)
    check_out(path)
    with reserve(path, config) as lock:
        assert lock.result == path
        assert [p.name for p in tmp_path.iterdir()] == [".X.h5.lock"]
    assert not any(tmp_path.iterdir())


def test_a_stopped_run_keeps_its_name(tmp_path, holder):
    os.kill(holder.pid, signal.SIGSTOP)
    with pytest.raises(Locked, match="is writing it"):
        Lock(tmp_path / "X.h5").take()


def test_names_of_others_are_passed_by(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configuration(Poisson(3), {})
    with reserve(None, config) as first, reserve(None, config) as second:
        assert first.result != second.result


def test_what_is_said_of_a_name_is_true(tmp_path):
    """--resume is offered where there is a result, and a file that no run has left is never replaced."""
    path = tmp_path / "X.h5"
    path.with_suffix(".pt").write_bytes(b"PK" + bytes(5000))
    with pytest.raises(ConfigError, match=r"X.pt exists, but no .*X.h5 to resume"):
        check_out(path)
    path.write_bytes(b"result")
    with pytest.raises(ConfigError, match=f"--resume {path}"):
        check_out(path)


def test_two_runs_on_one_output_are_one_line(tmp_path):
    """A run and its own resumption at the same time: the second is refused, the first one's result is whole."""
    path, said = tmp_path / "X.h5", []

    def twin(state):
        for call in (lambda: kanpde.resume(path), lambda: kanpde.train(Poisson(3), out=path, **SMALL, steps=2)):
            if path.exists():
                with pytest.raises(ConfigError) as info:
                    call()
                said.append(str(info.value))

    run = kanpde.train(Poisson(3), out=path, **SMALL, steps=4, on_step=twin)
    assert run.attrs["status"] == "finished" and "is writing it" in said[0] and "exists" in said[1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["X.h5", "X.pt"]


def test_a_run_whose_name_was_taken_writes_nothing_more(tmp_path):
    """The lock's file removed by hand, and another process at work on the result: the first one ends."""
    path, lock = tmp_path / "X.h5", Lock(tmp_path / "X.h5")

    def robbed(state):
        if state.step == 3:
            (tmp_path / ".X.h5.lock").unlink()
            lock.take()

    with pytest.raises(kanpde.RunFailed, match="is writing it"):
        kanpde.train(Poisson(3), out=path, **SMALL, steps=6, on_step=robbed)
    lock.release()
    assert Run.open(path).history["step"][-1] == 2 and Run.open(path).attrs["status"] == "running"


def test_a_folder_that_is_removed_loses_no_run(tmp_path):
    import shutil

    path = tmp_path / "folder" / "X.h5"

    def remove(state):
        if state.step == 3:
            shutil.rmtree(path.parent)

    kanpde.train(Poisson(3), out=path, **SMALL, steps=6, on_step=remove)
    assert Run.open(path).history["step"][-1] == 6 and Run.open(path).load_model() is not None


def test_a_result_that_cannot_be_written_says_why(tmp_path):
    import shutil

    path = tmp_path / "folder" / "X.h5"

    def spoil(state):
        if state.step == 3:
            shutil.rmtree(path.parent)
            path.parent.touch()

    with pytest.raises(kanpde.RunFailed, match=r"X.h5 cannot be written \(") as info:
        kanpde.train(Poisson(3), out=path, **SMALL, steps=6, on_step=spoil)
    assert "\n" not in str(info.value)


def test_a_checkpoint_belongs_to_its_result(tmp_path):
    """That of another seed beside a result: refused, not resumed or loaded."""
    paths = [tmp_path / f"{seed}.h5" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        kanpde.train(Poisson(3), out=path, **SMALL, steps=2, seed=seed)
    os.replace(paths[1].with_suffix(".pt"), paths[0].with_suffix(".pt"))
    for call in (lambda: kanpde.resume(paths[0], steps=4), Run.open(paths[0]).load_model):
        with pytest.raises(ConfigError, match="0.pt: the checkpoint of another run than"):
            call()
    torch.save([1, 2], paths[0].with_suffix(".pt"))
    with pytest.raises(ConfigError, match="not a checkpoint of kanpde"):
        kanpde.resume(paths[0], steps=4)


def test_a_file_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: done.append(name) or real(*args))
    with replacing(tmp_path / "X.h5") as temporary:
        temporary.write_text("new")
    assert done == ["fsync", "replace"] and (tmp_path / "X.h5").read_text() == "new"
