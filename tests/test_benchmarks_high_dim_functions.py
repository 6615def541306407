"""The benchmark of Table 4: its runs are those of the paper, start symmetric, are measured right, and are kept."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import F64, generator, one_line, refused

from benchmarks.common import printed
from benchmarks.formulas import high_dim_functions as table4
from kanpde import count_parameters
from kanpde.ground.errors import ConfigError
from kanpde.kan.weights import Meta
from kanpde.runs.api import train
from kanpde.runs.models import Run
from kanpde.training.plan import Plan
from kanpde.users.members import problem_of

Made = tuple[Run, table4.Task]


def built(cell: str, equal: bool = True) -> torch.nn.Module:
    """The network of a cell as it starts, without the fixed maps around it."""
    made = table4.config(table4.Task(cell, 0))
    net = Plan.of(made).net
    if equal:
        table4.equal_prompts(net)
    return net.to(F64)


def row_of(cell: str, rmse: float, constant: float = 1.0, seed: int = 0) -> table4.Row:
    numbers = {"rmse": rmse, "constant": constant, "seed": seed, "parameters": 7, "seconds": 60, "steps": 9}
    return {name: "" for name in table4.COLUMNS} | {"cell": cell} | {name: str(n) for name, n in numbers.items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Made:
    """A metakan, 12 steps at rest and 2 more."""
    task = table4.Task("f2-10-metakan", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(table4.STEPS["metakan"], 10, (12, 2))
        return table4.trained(task, tmp_path_factory.mktemp("table4") / "run.h5"), task


def prompts(run: Run) -> torch.Tensor:
    """The last prompts (in,) of the first layer."""
    first, _ = [m.prompts for m in run.load_model(best=False).modules() if isinstance(m, Meta)]
    return first.detach().flatten()


def test_every_printed_cell_once_on_the_printed_rows():
    assert len(table4.CELLS) == len(printed.rows(4)) == 36
    for cell, like in table4.CELLS.items():
        made = table4.config(table4.Task(cell, 3))
        problem, points = problem_of(made.problem), made.points
        assert (problem.dim, problem.formula) == (like["dimension"], like["function"])
        assert points.interior + points.validation == points.test == 1000 and points.refresh == "fixed"
        assert made.seed == 3 and made.dtype == "float64"


@pytest.mark.parametrize("cell", [cell for cell in table4.CELLS if "1000" in cell or "-10-" in cell])
def test_parameters_are_the_printed_ones_but_for_what_these_leave_out(cell):
    """metakan: without n + 1 prompts; kan: with two biases, and 2 n inputs for f2."""
    function, n, net = table4.Task(cell, 0).parts
    inputs = 2 * n if function == "f2" else n
    missing = n + 1 if net == "metakan" else 9 * (n - inputs) - 2
    assert count_parameters(built(cell)) == table4.CELLS[cell]["params_printed"] + missing


@pytest.mark.parametrize("cell", ["f1-10-metakan", "f3-50-metakan"])
def test_equal_prompts_are_a_symmetric_start(cell):
    n = table4.Task(cell, 0).parts[1]
    x = torch.rand(20, n, generator=generator(), dtype=F64)
    mixed = x[:, torch.randperm(n, generator=generator())]
    change = lambda net: ((net(x) - net(mixed)).norm() / net(x).std()).item()
    with torch.no_grad():
        assert change(built(cell)) < 1e-12 < 0.1 < change(built(cell, equal=False))


def test_row_is_what_the_stored_weights_do_on_the_test_points(run: Made):
    made, task = run
    row, x, y = table4.row(task, made), *(torch.tensor(made.field[name], dtype=F64) for name in ("x", "u_exact"))
    assert len(y) == 1000 and torch.allclose(y, (x**2 + x**3).sum(1))
    with torch.no_grad():
        rmse = (made.load_model()(x) - y).square().mean().sqrt().item()
    assert float(row["rmse"]) == pytest.approx(rmse, rel=1e-3)
    assert float(row["constant"]) == pytest.approx(y.std().item(), rel=0.01)
    assert rmse < 0.03 * y.std().item()
    assert (row["steps"], row["meta_hidden"], row["cell"]) == ("14", "10", "f2-10-metakan")


def test_prompts_rest_and_are_trained_then(run: Made, tmp_path, monkeypatch):
    assert prompts(run[0]).std() > 1e-6
    monkeypatch.setitem(table4.STEPS["metakan"], 10, (3, 1))
    monkeypatch.setattr(table4, "train", lambda *args, **given: train(*args, **given | {"on_step": stop_at_3}))
    at_rest = prompts(table4.trained(run[1], tmp_path / "run.h5"))
    assert (at_rest == at_rest[0]).all() and at_rest[0].item() == pytest.approx(0.1)


def stop_at_3(state) -> bool:
    return state.step == 3


@pytest.mark.parametrize(
    "cell, rmse, constant, expected",
    [
        ("f1-10-kan", 5.91e-4, 0.2, True),
        ("f1-10-kan", 5.93e-4, 0.2, False),
        ("f1-1000-kan", 0.017, 0.018, True),
        ("f1-1000-kan", 0.019, 0.018, False),  # printed is 0.414
        ("f2-50-kan", 3.0, 3.5, True),  # printed is NA
        ("f2-50-kan", 3.6, 3.5, False),
    ],
)
def test_below_is_below_the_printed_number_and_the_constant(cell, rmse, constant, expected):
    assert table4.below(row_of(cell, rmse, constant)) is expected


def test_report_in_the_order_of_the_paper(tmp_path):
    rows = [row_of("f3-1000-metakan", 1e-3), row_of("f2-50-kan", 2.0, 3.0), row_of("f1-10-metakan", 1e-4, seed=1)]
    rows += [row_of("f1-10-metakan", 0.5), row_of("f1-10-kan", 0.5)]
    table4.study(tmp_path / "t.md").add(rows)
    text = (tmp_path / "t.md").read_text()
    lines = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| f") and " n |" not in line
    ]
    assert [(line[0], line[1], line[2], line[3], line[7]) for line in lines] == [
        ("f1", "10", "kan", "0", "no"),
        ("f1", "10", "metakan", "0", "no"),
        ("f1", "10", "metakan", "1", "yes"),
        ("f2", "50", "kan", "0", "yes"),
        ("f3", "1000", "metakan", "0", "yes"),
    ]
    assert lines[3][4] == "NA" and lines[0][4:7] == ["5.92e-04", "5.00e-01", "1.00e+00"]
    assert "\nkan: below the printed number and the constant in 1 of 2 runs. Not in f1-10-kan (seed 0)." in text
    assert "in 2 of 3 runs. Not in f1-10-metakan (seed 0)." in text
    assert table4.study(tmp_path / "t.md").rows() == sorted(
        rows, key=lambda r: (list(table4.CELLS).index(r["cell"]), r["seed"])
    )


def test_runs_that_are_there_are_not_run_again(tmp_path, capsys):
    out = tmp_path / "t.md"
    call = ["--quick", "--jobs", "1", "--out", str(out), "--cells", "f1-10-kan", "f3-10-metakan"]
    table4.main(call)
    text, rows = out.read_text(), list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [(row["cell"], row["steps"]) for row in rows] == [("f1-10-kan", "1"), ("f3-10-metakan", "2")]
    assert len(capsys.readouterr().out.splitlines()) == 2
    out.unlink()
    table4.main(call)
    assert out.read_text() == text and not capsys.readouterr().out
    table4.main(["--render", "--out", str(out)])
    assert out.read_text() == text and not capsys.readouterr().out


@pytest.mark.parametrize("text", ["cell,seed\nf1-10-kan,0\n", "cell,seed,rmse\nf1-11-kan,0,1\n", "a\n1\n"])
def test_another_csv_is_refused(tmp_path: Path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match="not a table of cell") as info:
        table4.main(["--render", "--out", str(tmp_path / "t.md")])
    one_line(info)


def test_bad_calls_are_one_line():
    refused("benchmarks.high_dim_functions", "--cells", "f1-10-metakn")
    for words in (["--jobs", "0"], ["--seeds", "-1"], ["--cells", "f4-10-kan"]):
        with pytest.raises(ConfigError) as info:
            table4.parsed(words)
        one_line(info)
