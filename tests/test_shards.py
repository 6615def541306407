"""Processes that have slices of the inputs compute what one that has all of them does, and leave its files."""

import json

import pytest
import sliced
import torch.multiprocessing
from conftest import one_line, planned
from test_world import free_port

from kanpde import ConfigError
from kanpde.problems import Heat, SineGordon

BOUNDS = {"equal": 1e-12, "trajectory": 1e-10}


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_slices_of_the_inputs_are_what_one_process_has(size, tmp_path):
    """Jets, gradients, steps, starts, and files that another number of processes goes on with."""
    torch.multiprocessing.spawn(sliced.run, (size, free_port(), tmp_path), nprocs=size)
    found = json.loads((tmp_path / "found.json").read_text())
    assert {f"equal: {name}" for name in sliced.CASES} < {*found}
    assert {name: e for name, e in found.items() if not e <= BOUNDS[name.partition(":")[0]]} == {}
