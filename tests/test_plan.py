"""A run is planned once: nothing of it is built twice, and what it is made of is what is trained."""

from collections import Counter
from functools import wraps

import pytest
import torch
from conftest import call, planned

import kanpde
from kanpde import operators
from kanpde.kan import network
from kanpde.operators import Forward
from kanpde.problems import AllenCahn, Poisson
from kanpde.training import losses, plan, weighting
from kanpde.training.plan import Plan

SMALL = {"points": {"interior": 8, "test": 20, "validation": 10}, "slices": {"points": 3, "volume": 0}}
SETS = [word for key, n in SMALL["points"].items() for word in ("--set", f"points.{key}={n}")]


@pytest.fixture
def made(monkeypatch) -> Counter:
    """How often each part of a run is constructed."""
    count: Counter = Counter()

    def counted(name: str, function):
        @wraps(function)
        def noted(*args, **options):
            count[name] += 1
            return function(*args, **options)

        return noted

    stack = counted("network", network.stack)
    monkeypatch.setattr(network, "stack", stack)
    for name, cls in (("operator", Forward), ("loss", losses.Loss), ("balance", weighting.GradNorm)):
        monkeypatch.setattr(cls, "__init__", counted(name, cls.__init__))
    monkeypatch.setattr(AllenCahn, "__init__", counted("problem", AllenCahn.__init__))
    monkeypatch.setattr(plan, "resolved", counted("configuration", plan.resolved))
    monkeypatch.setattr(plan.checks, "check", counted("checks", plan.checks.check))
    return count


def test_one_solve_makes_each_part_once(made, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, error = call(
        capsys,
        *("solve", "allen_cahn", "--dim", 4, "--backbone", "kan", "--steps", 2, "--quiet", "--out", "run.h5", *SETS),
        *("--set", "loss.balance=gradnorm", "--set", "compile=false", "--set", "start=network"),
    )
    assert (code, error) == (0, "")
    assert made == dict.fromkeys(("network", "operator", "loss", "balance", "problem", "configuration", "checks"), 1)


def test_a_run_that_goes_on_is_not_checked_again(made, tmp_path):
    kanpde.train(AllenCahn(4), backbone="kan", steps=2, out=tmp_path / "run.h5", **SMALL)
    made.clear()
    kanpde.resume(tmp_path / "run.h5", steps=3)
    assert made["checks"] == made["configuration"] == 0 and made["network"] == made["loss"] == 1


def test_what_is_planned_is_what_is_trained():
    """The network of the plan is that of u, and the unknowns are those of the plan's own problem."""
    made = planned(Poisson(3), {"backbone": "kan", **SMALL})
    u = made.ansatz()
    assert u.net is made.net and u.problem is made.problem and u.hard and made.hard
    assert made.counts == {"interior": 8} and made.operator == Forward() and made.frame is None


def test_a_plan_cannot_be_changed():
    made = planned(Poisson(3), {"backbone": "kan", **SMALL})
    with pytest.raises(AttributeError):
        made.net = torch.nn.Linear(3, 1)


def test_members_are_asked_for_what_they_are(monkeypatch):
    """An operator that is entered under another name is checked, and used, as what it says it is."""

    class Other(operators.Hutchinson):
        """The same, of another name."""

    monkeypatch.setitem(operators.OPERATORS, "other", Other)
    given = {"backbone": "kan", "operator": "other", "solver": "adam", **SMALL}
    assert isinstance(planned(Poisson(3), given).operator, Other)
    for changes, says in (
        ({"loss": {"gradient": "almost_everywhere"}}, "other is no exact operator"),
        ({"compile": True}, "only the operator forward compiles, given other"),
        ({"phases": [{"optimizer": "gauss_newton", "steps": 1}]}, "needs the operator forward, given other"),
    ):
        with pytest.raises(kanpde.ConfigError, match=says):
            planned(Poisson(3), given | changes)


def test_a_stored_plan_looks_for_no_constant():
    """The map behind the network is there, with the numbers that a checkpoint will replace."""
    config = planned(Poisson(3), {"backbone": "kan", "start": "constant", **SMALL}).config
    fresh, stored = Plan.of(config, Poisson(3)), Plan.of(config, Poisson(3), stored=True)
    assert fresh.net.state_dict().keys() == stored.net.state_dict().keys()
    assert not torch.equal(fresh.net[-1].scale, stored.net[-1].scale)
