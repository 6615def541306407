"""The benchmark of what others print: short runs, which are not run again."""

import pytest
import torch
from conftest import F64, close

from benchmarks.accuracy import yardsticks
from kanpde.jets.ansatz import Field


@pytest.mark.parametrize("solution", ["square", "harmonic", "cosine"])
def test_the_sources_are_those_of_the_solutions(solution):
    cube, x = yardsticks.Cube(4, solution), torch.rand(5, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    close(cube.source(x), Field.of(cube.exact, x).lap(torch.ones_like(x)), 1e-12)


@pytest.mark.slow
def test_quick_run_and_the_same_again(tmp_path):
    out, cases = tmp_path / "yardsticks.md", ["cube_harmonic", "allen_cahn_paths"]
    call = ["--quick", "--cases", *cases, "--runs", str(tmp_path), "--out", str(out)]
    yardsticks.main(call)
    text, runs = out.read_text(), sorted(tmp_path.glob("*.h5"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    cube, paths = (dict(zip(yardsticks.HEADING, row, strict=True)) for row in rows[2:])
    assert [cube["case"], paths["case"]] == cases
    assert float(cube["start"]) < 1e-10 and cube["at x_0"] == "-"
    assert abs(float(paths["at x_0"]) - 0.0528) < 1e-3 and paths["error"] == "-"
    before = [path.stat().st_mtime_ns for path in runs]
    yardsticks.main(call)
    assert [path.stat().st_mtime_ns for path in runs] == before and out.read_text() == text
