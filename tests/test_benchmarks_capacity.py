"""What a first layer of few units can hold: interactions by the Hessian, matrices whose best approximation is known."""

import pytest
import torch
from conftest import F64, close, one_line

from benchmarks.accuracy import capacity
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import Floors
from kanpde.ground.samplers import stream
from kanpde.problems import Poisson


@pytest.mark.parametrize("solution", ["two_body", "coupled"])
def test_interactions_are_the_hessian_off_the_diagonal(solution):
    problem = Poisson(5, solution=solution)
    f = lambda x: problem.closed_form.body(x.unsqueeze(0)).value.squeeze(0)
    hessian = torch.func.hessian(f)(torch.zeros(5, dtype=F64))
    close(capacity.interactions(problem), hessian - hessian.diagonal().diag(), 1e-12)


def test_what_is_left_of_known_matrices():
    """An outer product needs one unit; of two edges apart one unit holds one, and leaves the other."""
    outer = torch.outer(v := torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=F64), v).fill_diagonal_(0)
    edges = torch.zeros(4, 4, dtype=F64)
    edges[0, 1] = edges[1, 0] = edges[2, 3] = edges[3, 2] = 1.0
    assert capacity.left_over(outer, 1, 2).norm() < 1e-3 and capacity.left_over(edges, 2, 2).norm() < 1e-3
    assert capacity.left_over(edges, 1, 4).norm() == pytest.approx(2**0.5, rel=1e-4)


def test_all_interactions_together_are_what_an_additive_function_leaves():
    problem = Poisson(50)
    x = problem.domain.interior(4000, stream(1, "x"), dtype=F64)
    floors = Floors(50, 4000, problem.closed_form.taylor())
    floors.add(x, problem.exact(x), problem.factor(x).value, torch.zeros(4000))
    found = capacity.error(problem, capacity.interactions(problem))
    assert found == pytest.approx(floors.result()["additive"], rel=0.1)


def test_table(tmp_path):
    out = tmp_path / "results" / "capacity.md"
    capacity.main(["--dims", "4", "--widths", "1", "4", "--starts", "1", "--out", str(out)])
    row = next(line for line in out.read_text().splitlines() if line.startswith("| 4 "))
    _, every, one, four = (float(cell) for cell in row.strip("| ").split(" | "))
    assert every > one > four and four < 1e-5


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--dims", "2"], "--dims must be at least 3, given 2"),
        (["--widths", "0"], "--widths must be at least 1, given 0"),
        (["--starts", "0"], "--starts must be at least 1, given 0"),
        (["--solution", "tow_body"], "invalid choice: 'tow_body'"),
    ],
)
def test_bad_input_is_one_line(options, complaint):
    with pytest.raises(ConfigError) as info:
        capacity.main(options)
    assert complaint in one_line(info)
