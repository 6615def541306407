"""The benchmark of high dimension: runs of a given length, that go on where they stopped, and a table of them."""

import pytest
from conftest import configuration, one_line, refused

from benchmarks.accuracy import high_dim
from benchmarks.common import budget
from kanpde.ground.errors import ConfigError
from kanpde.problems import AllenCahn
from kanpde.runs.api import train
from kanpde.runs.models import Run
from kanpde.training import ladder

SMALL = {
    "points": {"interior": 8, "test": 64, "validation": 32},
    "slices": {"points": 2, "volume": 0},
    "backbone": "kan",
}


@pytest.fixture(autouse=True)
def a_start_of_few_points(monkeypatch):
    """Runs of a few steps spend their time on it otherwise."""
    monkeypatch.setattr(ladder, "NUMBERS", 2**14)
    monkeypatch.setattr(ladder, "SCREENED_NUMBERS", 2**15)


def config(**changed):
    return configuration(AllenCahn(4), {**SMALL, **changed})


@pytest.mark.slow
def test_quick_run_and_the_same_again(tmp_path, capsys):
    out = tmp_path / "results" / "high_dim.md"
    call = ["--quick", "--dims", "1000", "--backbones", "kan", "metakan", "--runs", str(tmp_path), "--out", str(out)]
    high_dim.main(call)
    text, runs = out.read_text(), sorted(tmp_path.glob("*.h5"))
    rows = [line for line in text.splitlines() if line.startswith("| 1000 |")]
    assert len(runs) == 2 and len(rows) == 3  # two runs, and what was published
    assert all(len(line.split("|")) == len(high_dim.HEADING) + 2 for line in rows[:2])
    assert rows[2] == "| 1000 | 0.00056 | 0.00071 | 0.0063 |"
    assert text.count("wanted 0.00035: ") == 2
    before = [path.stat().st_mtime_ns for path in runs]
    high_dim.main(call)
    assert [path.stat().st_mtime_ns for path in runs] == before and out.read_text() == text
    assert capsys.readouterr().out.count("allen_cahn-1000d-kan-high_dim-quick-seed0: ") == 2


def test_goals_are_held_against_their_bounds():
    row = {"d": 100_000, "backbone": "kan", "seed": 0, "error": 7e-4, "/ constant": 0.5, "gradient": "exact"}
    holds, not_yet = high_dim.verdicts([row])
    assert high_dim.verdicts([row | {"gradient": "none"}]) == [holds]
    assert holds.endswith("skill 0.5, wanted 0.8: holds")
    assert not_yet.endswith("skill 0.5, wanted with gradient-enhanced residuals 0.35: does not hold")


def test_a_step_an_evaluation_and_what_is_done_once_have_a_cost():
    assert all(seconds > 0 for seconds in budget.cost(AllenCahn(4), config()))


@pytest.fixture
def known_cost(monkeypatch):
    """Seconds of a step, an evaluation, and what is done once."""
    monkeypatch.setattr(budget, "cost", lambda *_: budget.Cost(0.1, 2.0, 8.0))


def test_steps_fill_the_time(known_cost):
    made = config(evaluation={"every": 20})
    assert budget.steps_for(AllenCahn(4), made, 60) == 260  # 260 (0.1 + 2 / 20) + 8
    assert budget.steps_for(AllenCahn(4), made, 1e-3) == 1


def test_a_run_has_the_steps_that_fill_the_time(known_cost, tmp_path):
    run = budget.settled(tmp_path / "run.h5", AllenCahn(4), config(compile=False), 61.0)
    assert run.attrs["steps"] == 50  # (61 - 8 - 24 x 2) / 0.1
    assert len(run.history["step"]) <= 25


def test_a_broken_run_goes_on(tmp_path):
    path = tmp_path / "run.h5"
    whole = budget.settled(tmp_path / "whole.h5", AllenCahn(4), config(), 1.0, steps=12)
    interrupt = lambda state: state.step == 5
    made = budget.spread(config(), 12)
    train(AllenCahn(4), config=made, out=path, on_evaluation=interrupt)
    stopped = Run.open(path)
    stopped.attrs["status"] = "running"
    stopped.set_field({}), stopped.set_slices({})
    stopped.save()
    run = budget.settled(path, AllenCahn(4), config(), 1.0)
    assert run.attrs["status"] == "finished" and run.attrs["steps"] == 12 and run.rel_l2 == whole.rel_l2


def test_ctrl_c_ends_the_benchmark(tmp_path, monkeypatch, capsys):
    interrupted = Run(tmp_path / "run.h5")
    interrupted.attrs["status"] = "interrupted"
    monkeypatch.setattr(budget, "train", lambda *_, **__: interrupted)
    with pytest.raises(SystemExit) as info:
        budget.settled(interrupted.path, AllenCahn(4), config(), 1.0, steps=2)
    assert info.value.code == 130 and "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("steps, every", [(1, 1), (24, 1), (25, 2), (4500, 188)])
def test_evaluations_are_spread_over_the_steps(steps, every):
    made = budget.spread(config(), steps)
    assert made.evaluation.every == every and made.steps == steps and -(-steps // every) <= 24


def test_a_name_reserved_by_a_run_that_never_began_is_free(tmp_path):
    (tmp_path / "run.pt").touch()
    assert budget.settled(tmp_path / "run.h5", AllenCahn(4), config(), 1.0, steps=2).attrs["steps"] == 2


def test_a_failed_run_has_ended(tmp_path, capsys):
    made = config(phases=[{"optimizer": "adam", "steps": 50, "lr": 1e30}])
    for _ in range(2):
        run = budget.settled(tmp_path / "run.h5", AllenCahn(4), made, 1.0, steps=50)
        assert run.attrs["status"] == "failed" and run.attrs["message"]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_runs_of_another_configuration_are_refused(tmp_path):
    budget.settled(tmp_path / "run.h5", AllenCahn(4), config(), 1.0, steps=2)
    with pytest.raises(ConfigError, match="another configuration") as info:
        budget.settled(tmp_path / "run.h5", AllenCahn(4), config(dtype="float64"), 1.0, steps=2)
    one_line(info)


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--dims", "1000", "2"], "--dims must be at least 3, given 2"),
        (["--seeds", "-1"], "--seeds must be at least 0, given -1"),
        (["--threads", "0"], "--threads must be at least 1, given 0"),
        (["--minutes", "0"], "--minutes must be above 0, given 0"),
        (["--backbones", "kam"], "invalid choice: 'kam'"),
        (["--solver", "defalt"], "did you mean default?"),
        (["--device", "abacus"], "device 'abacus' is not there"),
    ],
)
def test_bad_input_is_one_line(options, complaint, tmp_path):
    with pytest.raises(ConfigError) as info:
        high_dim.main(["--runs", str(tmp_path), *options])
    assert complaint in str(info.value)
    one_line(info)


def test_exit_code_of_a_bad_call():
    refused("benchmarks.high_dim", "--minutes", "0")
