"""A run that diverges goes back to its best state with half the rates, so often and no more, and says so."""

import json
from itertools import pairwise

import pytest
import torch
from conftest import interrupt_after

import kanpde
from kanpde.problems import Poisson
from kanpde.records import compare
from kanpde.runs.models import Run
from kanpde.runs.rerun import compared
from kanpde.training import loop

SMALL = {
    "points": {"interior": 20, "test": 50, "validation": 20},
    "evaluation": {"every": 2, "points": 50},
    "backbone": {"name": "kan", "widths": [3]},
    "slices": {"points": 5, "volume": 0},
    "start": "network",
    "verify": False,
}


def spoiled(*steps):
    """A callback that makes weights of these steps NaN."""

    def spoil(state):
        if state.step in steps:
            with torch.no_grad():
                next(state.u.net.parameters()).fill_(float("nan"))

    return spoil


def train(path, lr=1e-3, steps=20, optimizer="adam", **more):
    phases = [{"optimizer": optimizer, "lr": lr, "steps": steps}]
    return kanpde.train(Poisson(3), out=path, **{**SMALL, "phases": phases, **more})


@pytest.mark.parametrize("average", [None, 0.9])
def test_a_run_goes_back_to_its_best_state_and_ends(tmp_path, average):
    with pytest.warns(UserWarning, match=r"diverged at step 7, 15 .* in the end 0.25 of those"):
        run = train(tmp_path / "X.h5", on_step=spoiled(7, 15), average=average)
    assert run.attrs["status"] == "finished" and run.history["step"] == list(range(0, 21, 2))
    assert [each["to"] <= each["step"] for each in json.loads(run.attrs["retreats"])] == [True, True]
    rates = dict(zip(run.history["step"], run.history["lr"], strict=True))
    assert rates[6] == 1e-3 and rates[10] == 0.5e-3 and rates[20] == 0.25e-3


def test_steps_that_have_no_rate_are_damped_more(tmp_path):
    phases = [{"optimizer": "levenberg_marquardt", "steps": 5, "options": {"damping": 1e-3}}]
    options = {"solver": "low_dim", "phases": phases, "backbone": {"name": "chebykan", "widths": [3], "degree": 4}}
    options |= {"points": {**SMALL["points"], "refresh": "fixed"}, "evaluation": {"every": 1}}
    with pytest.warns(UserWarning, match="step 4"):
        run = train(tmp_path / "X.h5", on_step=spoiled(4), **options)
    (group,) = torch.load(run.checkpoint, weights_only=True)["optimizer"]["param_groups"]
    assert 2e-3 < group["damping"] < 2e-2  # after one step from 1e-2


def test_a_start_in_closed_form_is_kept_where_training_is_worse(tmp_path):
    """Of one that is good, anything that a network adds at first is many times worse: no reason to end."""
    run = train(tmp_path / "X.h5", 1.0, 40, start="ladder")
    assert run.attrs["status"] == "finished" and run.attrs["best_step"] == 0 and "retreats" not in run.attrs


def test_a_run_whose_last_step_diverges_has_diverged(tmp_path):
    with pytest.warns(UserWarning, match="step 20: the weights are not finite; what is kept is of step"):
        run = train(tmp_path / "X.h5", on_step=spoiled(20))
    assert run.attrs["status"] == "diverged" and run.load_model() is not None


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_rates_that_are_far_too_large_end_in_a_sentence(tmp_path, optimizer):
    """And the file says of the failed run what its checkpoint holds: the best state."""
    with pytest.raises(kanpde.RunFailed, match="10 returns to the best state, each with half the rates"):
        train(tmp_path / "X.h5", 1e6, 60, optimizer)
    run = Run.open(tmp_path / "X.h5")
    assert run.attrs["status"] == "failed"
    row = list(run.history["step"]).index(run.attrs["best_step"])
    u, x = run.load_model(), torch.randn(2000, 3, dtype=torch.float32) * 0.3
    exact = u.problem.exact(x)
    assert all(p.isfinite().all() for p in u.parameters())
    assert compare.summary(run)["rel_l2"] == run.rel_l2 == run.history["rel_l2"][row]
    error = (u(x).flatten() - exact.flatten()).norm() / exact.norm()
    assert 0.3 < error / run.rel_l2 < 3, "not the row of the diverged weights"


def test_a_run_that_has_gone_back_is_resumed_bit_for_bit(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole.h5", on_step=spoiled(7))
    with monkeypatch.context() as stopped:
        interrupt_after(stopped, 10)
        assert train(tmp_path / "X.h5", on_step=spoiled(7)).attrs["status"] == "interrupted"
    again = kanpde.resume(tmp_path / "X.h5")
    assert json.loads(again.attrs["retreats"]) == json.loads(whole.attrs["retreats"])
    assert compared(again, whole).first is None and again.history["step"] == whole.history["step"]


def test_nothing_is_tried_again_before_there_is_a_good_state(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.ResidualTraining, "_diverged", lambda self, terms: "not finite")
    with pytest.raises(kanpde.RunFailed, match="^step 0: not finite$"):
        train(tmp_path / "X.h5")
    assert not any(tmp_path.iterdir())


def test_long_histories_are_not_written_whole_each_time(tmp_path, monkeypatch):
    """A row more is as dear after many as after few; what a kill takes is little, and computed again."""
    writes = []
    monkeypatch.setattr(loop, "SHARE", 4)
    save = loop.ResidualTraining.save
    monkeypatch.setattr(loop.ResidualTraining, "save", lambda self, s: writes.append(self.step) or save(self, s))
    train(tmp_path / "X.h5", steps=40, evaluation={"every": 1, "points": 20})
    assert writes[:6] == [0, 1, 2, 3, 5, 7] and len(writes) < 16
    assert all(later - step <= 1 + later // 3 for step, later in pairwise(writes))
    assert list(Run.open(tmp_path / "X.h5").history["step"]) == list(range(41))


def test_a_row_is_in_the_file_before_a_callback_is_told_of_it(tmp_path):
    seen = []
    told = lambda state: seen.append(Run.open(state.run.path).history["step"][-1] == state.step)
    train(tmp_path / "X.h5", on_evaluation=told)
    assert len(seen) == 11 and all(seen)
