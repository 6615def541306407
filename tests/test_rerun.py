"""The same bits for the same seed, whatever looks on; sessions; `kanpde rerun`."""

import json
from functools import partial

import pytest
import torch
from conftest import call, interrupt_after

import kanpde
from kanpde.problems import Poisson
from kanpde.runs import sessions
from kanpde.runs.models import Run
from kanpde.runs.rerun import rerun
from kanpde.runs.stored import config_of

SMALL = {
    "points": {"interior": 20, "test": 50, "validation": 20},
    "backbone": {"name": "kan", "widths": [3]},
    "slices": {"points": 5, "volume": 0},
    "verify": False,
    "steps": 12,
}


def train(path, every=2, seed=0, **calls):
    return kanpde.train(Poisson(3), out=path, seed=seed, evaluation={"every": every, "points": 50}, **SMALL, **calls)


def last(run) -> list[torch.Tensor]:
    return list(run.load_model(best=False).state_dict().values())


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(last(a), last(b), strict=True))


def test_what_looks_on_changes_no_bit(tmp_path):
    """Evaluations, pictures drawn while it goes, callbacks, and numbers drawn by others."""
    from kanpde.plot import main_pictures

    def busy(state):
        torch.rand(7)
        if state.step == 6:
            main_pictures(Run.open(state.run.path))

    often, seldom = (
        train(tmp_path / "often.h5", 1, on_step=lambda s: torch.rand(3) is None),
        train(tmp_path / "s.h5", 5),
    )
    watched = train(tmp_path / "watched.h5", 3, on_evaluation=busy)
    assert same(often, seldom) and same(often, watched)
    assert not same(often, train(tmp_path / "other.h5", seed=1))


def test_rerun_repeats_a_run(tmp_path):
    run = train(tmp_path / "X.h5")
    found = rerun(run.path)
    assert found.first is None and found.rows == 7 and "the same bit for bit in all 7 rows" in str(found)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["X.h5", "X.pt"]
    rerun(run.path, out=tmp_path / "Y.h5")
    assert same(run, Run.open(tmp_path / "Y.h5"))


def test_of_a_file_that_has_changed_what_the_run_keeps_is_executed_if_it_is_trusted(tmp_path, capsys):
    own, out = tmp_path / "own.py", tmp_path / "X.h5"
    own.write_text("from kanpde.problems import Poisson\n\n\nclass Mine(Poisson):\n    pass\n")
    options = ("--dim", 2, "--steps", 3, "--set", "verify=false", "--out", out, "--quiet")
    assert call(capsys, "solve", f"{own}:Mine", *options)[0] == 0
    changes = {"restore it, or --trust executes what it was": partial(own.write_text, "raise SystemExit(3)")}
    for says, change in (changes | {"no file": own.unlink}).items():
        change()
        code, _, err = call(capsys, "rerun", out)
        assert code == 2 and says in err and err.count("\n") == 1
        code, said, err = call(capsys, "rerun", out, "--trust")
        assert code == 0 and "the same bit for bit" in said, err


def test_rerun_says_from_where_on_and_why(tmp_path, capsys):
    run = train(tmp_path / "X.h5")
    (only,) = json.loads(run.attrs["sessions"])
    run.attrs["sessions"] = json.dumps([{**only, "torch": "1.0", "threads": 7}])
    run.history["rel_l2"][3] *= 1 + 1e-15
    run.save()
    code, out, err = call(capsys, "rerun", run.path)
    line = out.splitlines()[-1]
    assert code == 1 and "differs from step 6 on: rel_l2" in line and not err
    assert f"torch {torch.__version__} (the run: 1.0)" in line and "(the run: 7)" in line
    assert call(capsys, "rerun", run.path, "--quiet")[:2] == (1, "")
    run.attrs["sessions"] = "3"
    run.save()
    code, _, err = call(capsys, "rerun", run.path)
    assert code == 2 and "no sessions" in err and err.count("\n") == 1


def test_an_extended_run_is_another_one(tmp_path):
    run = train(tmp_path / "X.h5")
    kanpde.resume(run.path, steps=20)
    assert len(sessions.sessions(Run.open(run.path))) == 2
    found = rerun(run.path)
    assert found.first is not None and "was extended from 12 steps" in str(found)


def test_a_run_under_other_versions_goes_on_and_says_so(tmp_path, monkeypatch, recwarn):
    with monkeypatch.context() as stopped:
        interrupt_after(stopped, 6)
        train(tmp_path / "X.h5")
    kanpde.resume(tmp_path / "X.h5")
    assert not [w for w in recwarn if "goes on with" in str(w.message)]
    monkeypatch.setattr(sessions.torch, "__version__", "99.0")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    with pytest.warns(UserWarning, match=r"goes on with torch 99.0 \(the run: .*\), threads 17 .*not bit for bit"):
        kanpde.resume(tmp_path / "X.h5", steps=20)
    later = sessions.sessions(Run.open(tmp_path / "X.h5"))[-1]
    assert later["step"] == 12 and later["steps"] == 20 and later["threads"] == 17


def test_the_file_says_what_made_it(tmp_path, monkeypatch):
    import subprocess

    monkeypatch.chdir(tmp_path)
    (outside,) = sessions.sessions(train(tmp_path / "X.h5"))
    assert outside["git"] == "" and outside["python"] and outside["cpu"] and outside["device"] == "cpu"
    say = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*say, *command], check=True)
    assert len(sessions.session(config_of(Run.open("X.h5")))["git"]) == 40
