"""Several processes that train together do what one does, end together, and leave files that go on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.multiprocessing
import worlds
from conftest import one_line

import kanpde
from kanpde import ConfigError
from kanpde.ground.world import Lost, World, joined
from kanpde.runs.models import Run
from kanpde.training.checkpoints import load_checkpoint

BOUNDS = {"gradient": 1e-12, "trajectory": 1e-10, "resumed": 1e-10}
BOUND_OF_CG = 1e-6  # at which its iterations stop; its preconditioner knows no more than the root of the rounding
LONG = ["poisson", "--dim", "2", "--steps", "100000", "--no-compile", "--backbone", "chebykan"]
SETS = ["backbone.widths=[4]", "points.interior=9", "points.test=64", "points.validation=16", "evaluation.every=2"]
SECONDS = 60  # in which a run ends whose process is lost


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_do_what_one_does(size, tmp_path):
    """Gradients, steps of each optimiser, and runs that other numbers of processes go on with."""
    torch.multiprocessing.spawn(worlds.run, (size, free_port(), tmp_path), nprocs=size)
    found = json.loads((tmp_path / "found.json").read_text())
    steps = [name for name in worlds.TRAJECTORIES if size == 2 or name not in worlds.SLOW]
    assert {f"gradient: {name}" for name in worlds.GRADIENTS} | {f"trajectory: {name}" for name in steps} < {*found}
    assert found.pop("trajectory: gauss_newton, cg", 0.0) < BOUND_OF_CG
    assert {name: e for name, e in found.items() if not e <= BOUNDS[name.partition(":")[0]]} == {}


# ---------------------------------------------------------------------------------------------------------------
# Programs


def torchrun(log: Path, *words) -> subprocess.Popen:
    """torchrun with two processes, in a process group of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    return begun(log, [*command, "-m", "kanpde.solve", *words], start_new_session=True)


def begun(log: Path, words, **options) -> subprocess.Popen:
    with log.open("w") as file:
        return subprocess.Popen(list(map(str, words)), stdout=file, stderr=file, **options)


def long_run(folder: Path) -> tuple[subprocess.Popen, Path, Path]:
    """A run of two processes that has been evaluated a few times; its result file; what it says."""
    out, log = folder / "run.h5", folder / "log"
    process = torchrun(log, *LONG, *(word for given in SETS for word in ("--set", given)), "--out", out)
    while not (out.is_file() and len(Run.open(out).history["step"]) > 2):
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    return process, out, log


def ended(process: subprocess.Popen) -> None:
    try:
        process.wait(SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def said(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("kanpde: ")]


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find the processes")
def test_a_killed_process_ends_the_run_in_one_line_and_it_goes_on_alone(tmp_path):
    process, out, log = long_run(tmp_path)
    os.kill(children(process)[-1], signal.SIGKILL)
    ended(process)
    assert said(log) == ["kanpde: a process of the run is lost: it has ended, or takes no part any more"]
    run = Run.open(out)
    assert run.attrs["status"] == "failed" and "lost" in run.attrs["message"]
    assert (run.attrs["world_size"], run.attrs["backend"]) == (2, "gloo")
    saved = load_checkpoint(run.checkpoint)
    assert saved["step"] == run.history["step"][-1] and len(saved["others"]) == 1
    on = kanpde.resume(out, on_step=lambda state: state.step > saved["step"] + 2)
    assert on.history["step"][-1] > saved["step"] and on.attrs["world_size"] == 1


def test_sigterm_does_not_break_off_the_end_of_one_that_a_lost_process_leaves():
    """torchrun sends it when it sees the loss: often while the others write down what they have."""
    told, world = [], World(0, 2)
    former = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with world._ending_once():
            with pytest.raises(Lost), world._noticing():
                raise RuntimeError("connection closed by peer")
            os.kill(os.getpid(), signal.SIGTERM)
        assert told == []
        with World(0, 2)._ending_once():
            os.kill(os.getpid(), signal.SIGTERM)
        assert told == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, former)


def test_a_run_that_is_told_to_end_leaves_its_last_step(tmp_path):
    process, out, log = long_run(tmp_path)
    process.send_signal(signal.SIGINT)
    ended(process)
    run, text = Run.open(out), log.read_text()
    assert run.attrs["status"] == "interrupted" and not said(log)
    assert text.count("interrupted at step") == 1 and text.count("to go on:") == 1
    assert load_checkpoint(run.checkpoint)["step"] == run.attrs["steps"] >= run.history["step"][-1]


@pytest.mark.parametrize("given", [["--nonsense"], ["--set", "points.interior=1"]])
def test_bad_input_is_one_line(given, tmp_path):
    port, out = free_port(), tmp_path / "run.h5"
    of = lambda rank: {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    words = [sys.executable, "-m", "kanpde.solve", "poisson", "--dim", "2", "--out", out, *given]
    environments = [os.environ | {"MASTER_ADDR": "localhost"} | of(rank) for rank in range(2)]
    processes = [begun(tmp_path / f"{rank}", words, env=env) for rank, env in enumerate(environments)]
    assert [process.wait(SECONDS) for process in processes] == [2, 2]
    assert len([line for rank in range(2) for line in said(tmp_path / f"{rank}")]) == 1
    assert not list(tmp_path.glob("run*"))


# ---------------------------------------------------------------------------------------------------------------
# Shares


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_add_up_and_are_the_rows_in_their_order(size):
    every = [World(rank, size) for rank in range(size)]
    for n in (7, 8, 20):
        rows = torch.arange(n).unsqueeze(1)
        parts = [world.part(rows) for world in every]
        assert torch.equal(torch.cat(parts), rows)
        assert [len(part) for part in parts] == [world.share(n) for world in every]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1 and {world.total(n) for world in every} == {n}
    few = torch.zeros(2, 1)
    assert size == 1 or size == 2 or all(len(w.part(few)) == 2 and w.total(2) == 2 * size for w in every)


def test_one_process_is_alone_and_does_nothing(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with joined() as world:
        assert world.alone and world.leads and world is World.current()
        t = torch.ones(2)
        assert world.sum([t])[0] is t and world.gather(t) is t and world.part(t) is t
        assert world.first(lambda: 3) == 3 and world.any(False, True) == (False, True) and world.speaks()


@pytest.mark.parametrize("given", [{"RANK": "2"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": ""}])
def test_an_environment_that_cannot_be_is_one_line(given, monkeypatch):
    for name, value in {"MASTER_ADDR": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", **given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="needed is 0 <= RANK < WORLD_SIZE") as info, joined():
        pass
    one_line(info)
