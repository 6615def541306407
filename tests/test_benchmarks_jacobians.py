"""benchmarks.jacobians: both ways to a Jacobian side by side, and none that differ."""

import pytest
import torch

from benchmarks.speed import jacobians


def test_quick_run(tmp_path):
    out = tmp_path / "jacobians.md"
    jacobians.main(["--quick", "--cases", "burgers-chebykan", "cavity-mlp", "--out", str(out)])
    rows = [line.split(" | ") for line in out.read_text().splitlines() if line.startswith("| `")]
    assert [row[0] for row in rows] == ["| `burgers-chebykan`", "| `cavity-mlp`"]
    assert all(float(row[2].replace(",", "")) > 0 and float(row[4]) > 0 for row in rows)


def test_jacobians_that_differ_are_no_comparison():
    j = torch.ones(3, 2, dtype=torch.float64)
    with pytest.raises(AssertionError, match="differ by 1.0e-03"):
        jacobians.check("one", j * 1.001, j)
