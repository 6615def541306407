"""The benchmark of solutions that stay hard: best fits, networks of one size, learning curves."""

import csv
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch
from conftest import F64, one_line, refused

from benchmarks.accuracy import harder
from kanpde import backbones, count_parameters
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems import Poisson


def test_quick_run_and_the_same_again(tmp_path, capsys):
    out = tmp_path / "results" / "harder.md"
    call = ["--quick", "--dims", "6", "--solutions", "coupled", "--backbones", "kan", "mlp", "--runs", str(tmp_path)]
    harder.main([*call, "--out", str(out)])
    text, curves = out.read_text(), list(csv.DictReader(out.with_suffix(".csv").open()))
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| coupled | 6 |")]
    # the fits; kan and the mlps of its size and of a metakan's; kan beside its mlp
    assert [len(row) for row in rows] == [2 + len(harder.KINDS), *[len(harder.HEADING)] * 3, 5 + len(harder.SAME)]
    kan, as_kan, as_metakan = (int(row[4]) for row in rows[1:4])
    assert abs(as_kan / kan - 1) < 0.1 and as_metakan < kan / 2
    assert rows[4][2] == "kan" and rows[4][4:6] == [rows[1][11], rows[2][11]] and rows[4][6] == "- |"
    assert len({row["backbone"] for row in curves}) == 3 and {row["step"] for row in curves} == {*map(str, range(9))}
    before = [path.stat().st_mtime_ns for path in tmp_path.glob("*.h5")]
    harder.main([*call, "--out", str(out)])
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("*.h5")] == before and out.read_text() == text
    assert "coupled-6d-kan-default-quick-seed0: " in capsys.readouterr().out


def fake_runs(monkeypatch, took) -> tuple[list, list]:
    """The labels, and the names and steps asked for, where a run takes the steps that `took` says."""
    asked = []

    def trained(args, name, problem, backbone, seed, steps):
        asked.append((name.removeprefix("coupled-6d-"), steps))
        return SimpleNamespace(path=name, attrs={"status": "finished", "steps": took(name, steps)})

    monkeypatch.setattr(harder, "trained", trained)
    args = Namespace(backbones=["mlp", "kan"], quick=False, device="cpu", solver="default")
    return [net.label for net, _ in harder.runs(args, Poisson(6, solution="coupled"), 0)], asked


@pytest.mark.parametrize("many, again", [(900, True), (200, False)])
def test_an_mlp_that_took_more_steps_takes_as_many_once_more(monkeypatch, many, again):
    took = lambda name, steps: steps or (300 if name.endswith("-kan") else many)
    labels, asked = fake_runs(monkeypatch, took)
    assert len(labels) == len(asked) == 3 + again and labels[0] == "kan"
    assert [pair for pair in asked if pair[1]] == [(f"{labels[1]}-steps-of-kan", 300)] * again
    if again:
        with pytest.raises(ConfigError, match="given 299 steps, needed are 300 as of kan"):
            fake_runs(monkeypatch, lambda name, steps: 299 if steps else took(name, steps))


def least_squares(problem: Poisson, kind: str, n: int = 8000) -> float:
    """The best fit of all functions of a kind, unknown by unknown, on half of the points, measured on the others."""
    x = problem.domain.interior(2 * n, stream(1, "fits"), dtype=F64)
    y, m, (i, j) = problem.dim**0.5 * x, problem.factor(x).value.unsqueeze(1), torch.triu_indices(*[problem.dim] * 2)
    affine = [torch.ones_like(m), y]
    more = {"additive": [y**k for k in range(2, 8)], "quadratic": [y[:, i] * y[:, j]]}.get(kind, [])
    columns = m if kind == "constant" else m * torch.cat(affine + more, 1)
    return harder.held_out(columns, problem.exact(x), n)


@pytest.mark.parametrize("solution", ["two_body", "three_body", "scaled", "coupled"])
def test_best_fits_are_those_of_least_squares(solution):
    """The few unknowns that symmetry leaves lose nothing; the others have d or d^2 / 2 to find."""
    problem = Poisson(8, solution=solution)
    found = harder.fits(problem, 4000)
    for kind in harder.KINDS[:-1]:
        assert found[kind] == pytest.approx(least_squares(problem, kind), rel=0.15), kind


@pytest.mark.parametrize("dim", [100, 1000])
@pytest.mark.parametrize("solution", ["scaled", "coupled"])
def test_hard_solutions_stay_hard(solution, dim):
    assert min(harder.fits(Poisson(dim, solution=solution), 500).values()) > 0.2


@pytest.mark.parametrize("dim, parameters", [(20, 24_480), (100, 6_697), (3, 1)])
def test_width_of_the_mlp_with_so_many_parameters(dim, parameters):
    count = lambda w: count_parameters(backbones.build("mlp", dim, widths=(w,) * 3))
    width = harder.mlp_width(dim, parameters)
    others = [count(w) for w in (width - 1, width + 1) if w]
    assert all(abs(count(width) - parameters) <= abs(other - parameters) for other in others)


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--solutions", "four_body"], "invalid choice: 'four_body'"),
        (["--dims", "2"], "--dims must be at least 3, given 2"),
    ],
)
def test_bad_input_is_one_line(options, complaint):
    with pytest.raises(ConfigError) as info:
        harder.main(options)
    assert complaint in str(info.value)
    one_line(info)


def test_exit_code_of_a_bad_call():
    refused("benchmarks.harder", "--dims", "2")


def test_networks_of_one_size_stand_beside_the_same_mlp():
    def run(backbone, parameters, error, against=None, same="minutes"):
        row = {"solution": "scaled", "d": 20, "backbone": backbone, "seed": 0, "parameters": parameters}
        return row | {"error": error, "against": against, "same": same}

    rows = [run("kan", 90, 0.2), run("fourierkan", 90, 0.1), run("fastkan", 50, 0.3)]
    rows += [run("mlp_9", 91, 0.15, "kan"), run("mlp_9, steps of kan", 91, 0.25, "kan", "steps")]
    found = [line[2:] for line in harder.beside(rows)]
    assert found == [["kan", 0, 0.2, 0.15, 0.25], ["fourierkan", 0, 0.1, 0.15, None]]
