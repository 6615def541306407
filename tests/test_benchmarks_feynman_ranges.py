"""The inputs of I.12.11: errors in closed form, and the table."""

import math

import pytest
import torch

from benchmarks.formulas import feynman_ranges
from kanpde.ground.samplers import stream


@pytest.mark.parametrize("low", [-1.0, 0.0, 0.5])
def test_errors_in_closed_form_are_those_of_a_sample(low):
    t = torch.rand(5, 2**20, generator=stream(0, "sample"), dtype=torch.float64)
    q, ef, b, v = low + (1 - low) * t[:4]
    sine, m = (2 * math.pi * t[4]).sin(), (1 + low) / 2
    y = q * (ef + b * v * sine)
    left = y - y.mean(), y - q * ef, y - q * (ef + m * m * sine)
    assert list(feynman_ranges.floors(low).values()) == pytest.approx(
        [e.square().mean().sqrt().item() for e in left], rel=5e-3
    )


def test_the_table_has_both_intervals_and_the_printed_cells(tmp_path):
    feynman_ranges.main(["--quick", "--out", str(tmp_path / "table.md")])
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "| the best constant | 0.36 | 0.259 |" in lines
    cells = [line.split(" | ")[:3] for line in lines if line.startswith(("| kan", "| metakan"))]
    assert cells == [
        ["| kan", "5", "0.0873"],
        ["| kan", "20", "0.258"],
        ["| metakan", "5", "0.0855"],
        ["| metakan", "20", "0.135"],
    ]
