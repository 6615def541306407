"""`solver: auto`: what is chosen, why, and that everything a user states stays."""

import pytest
import yaml
from conftest import call, one_line, planned
from torch import nn

import kanpde
from kanpde import ConfigError
from kanpde.config import load
from kanpde.problems import Function, Heat, HJBControl, Poisson
from kanpde.training.plan import Plan

CHOSEN = {
    "few inputs": (Poisson(2), {}, None, "low_dim", "2 inputs, 312 parameters"),
    "time is one of them": (Heat(10), {}, None, "default", "11 inputs, more than 5"),
    "many": (Poisson(1000), {}, None, "high_dim", "1,000 inputs"),
    "a drawn operator": (
        Poisson(3),
        {"operator": "hutchinson", "loss": {"gradient": "none"}},
        None,
        "default",
        "the operator hutchinson draws",
    ),
    "a large network": (
        Poisson(3),
        {"backbone": {"name": "chebykan", "widths": [64, 64]}},
        None,
        "default",
        "56,576 p",
    ),
    "a network of one's own": (
        Poisson(2),
        {},
        nn.Sequential(nn.Linear(2, 9), nn.Tanh(), nn.Linear(9, 1)),
        "low_dim",
        "37 p",
    ),
    "a fit": (Function(formula="sin(x)", ranges={"x": [0, 1]}), {}, None, "fit", "that of every Function"),
    "terminal values": (HJBControl(5), {}, None, "terminal", "that of every HJBControl"),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_the_choice_and_its_reason(case):
    problem, stated, net, solver, why = CHOSEN[case]
    if net is not None:
        stated = stated | {"backbone": "python.Sequential"}
    plan = planned(problem, stated | {"solver": "auto"}, net=net)
    assert plan.choice.solver == solver and why in plan.choice.why
    named = planned(problem, stated | {"solver": solver}, net=net)
    assert plan.config == named.config and named.choice is None


def test_what_is_stated_stays_and_the_result_says_what_was_chosen(tmp_path, capsys):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"problem": {"name": "poisson", "dim": 2}, "solver": "auto", "verify": False}))
    options = ("--set", "points.interior=40", "--set", "points.test=50", "--steps", 3, "--seed", 7)
    code, out, err = call(capsys, "solve", path, *options, "--out", tmp_path / "run.h5")
    assert code == 0 and "chosen    solver low_dim: 2 inputs, 312 parameters and an exact operator" in out, err
    run = kanpde.Run.open(tmp_path / "run.h5")
    assert run.attrs["solver"].startswith("low_dim: 2 inputs")
    config = Plan.of(load(path, "low_dim", {"seed": 7}, options[1:4:2], 3)).config
    assert run.config == config.model_dump(mode="json")


def test_a_changed_configuration_is_changed_under_the_chosen_solver_too():
    config = load("poisson", "auto", {"problem": {"dim": 2}})
    assert (
        Plan.of(config.model_copy(update={"seed": 3})).config
        == Plan.of(load("poisson", "low_dim", {"problem": {"dim": 2}, "seed": 3})).config
    )


def test_an_unknown_solver_is_one_line():
    with pytest.raises(ConfigError, match="solver") as info:
        load("poisson", "automatic")
    one_line(info)
