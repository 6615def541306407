"""Several processes that train together do what one does, end together, and leave files that go on."""

import json
import socket

import pytest
import torch.multiprocessing
import worlds

BOUNDS = {"gradient": 1e-12, "trajectory": 1e-10, "resumed": 1e-10}
BOUND_OF_CG = 1e-6  # at which its iterations stop; its preconditioner knows no more than the root of the rounding


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_do_what_one_does(size, tmp_path):
    """Gradients, steps of each optimiser, and runs that other numbers of processes go on with."""
    torch.multiprocessing.spawn(worlds.run, (size, free_port(), tmp_path), nprocs=size)
    found = json.loads((tmp_path / "found.json").read_text())
    assert len(found) == len(worlds.GRADIENTS) + len(worlds.TRAJECTORIES) + 2 * len(worlds.RESUMED) + 1
    assert found.pop("trajectory: gauss_newton, cg") < BOUND_OF_CG
    assert {name: e for name, e in found.items() if not e <= BOUNDS[name.partition(":")[0]]} == {}
