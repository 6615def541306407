"""The benchmark of variants: what each changes, where it applies, the table of all."""

import csv
import math
import re
from argparse import Namespace

import pytest
import torch
from conftest import F64, one_line, refused

from benchmarks.accuracy import variants
from benchmarks.common import budget
from kanpde.config import PhaseConfig, dump, find
from kanpde.config.reading import read_yaml
from kanpde.ground.errors import ConfigError
from kanpde.kan import network
from kanpde.problems import AllenCahn, Heat, Poisson
from kanpde.training.plan import Plan

ARGS = Namespace(device="cpu", solver="default", quick=False, problem="poisson")
ALL = {(study, label): variant for study, table in variants.STUDIES.items() for label, variant in table.items()}
OPTIMISERS = variants.STUDIES["optimisers"]


def made(variant: dict, backbone: str = "metakan", problem=None):
    return variants.configured(ARGS, problem or Poisson(4), variant, backbone, 0)


@pytest.mark.slow
def test_quick_run_and_the_same_again(tmp_path, monkeypatch, capsys):
    chosen = ("default: soap, gradient", "last 1/5 of the steps lbfgs", "no gradient, last 1/200 gauss_newton")
    starts = ("meta_init official", "prompts x3", "hidden_range 2")
    tables = {
        "optimisers": {label: OPTIMISERS[label] for label in chosen},
        "initialisation": {"default": {}} | {label: ALL["initialisation", label] for label in starts},
    }
    monkeypatch.setattr(variants, "STUDIES", tables)
    out = tmp_path / "results" / "variants.md"
    call = ["--quick", "--dims", "4", "--backbones", "kan", "--runs", str(tmp_path), "--out", str(out), "--seeds", "0"]
    variants.main([*call, "1"])
    text, runs = out.read_text(), sorted(tmp_path.glob("*.h5"))
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert len(runs) == 2 * 4 and len(rows) == 2 * 5  # one default for both tables; two starts are not for a kan
    lines = re.findall(r"^\| (.+) \| (.+) \|$", text, re.MULTILINE)
    cells = dict(lines)
    assert cells["meta_init official"] == cells["prompts x3"] == "-" and cells["variant"] == "d 4, kan"
    assert cells["default"].replace("*", "") == cells[chosen[0]].replace("*", "")
    mean = sum(float(r["rel_l2"]) for r in rows if r["variant"] == "hidden_range 2") / 2
    assert cells["hidden_range 2"].replace("*", "") == f"{mean:.3g} (8)"
    before = [path.stat().st_mtime_ns for path in runs]
    variants.main([*call, "1"])
    assert [path.stat().st_mtime_ns for path in runs] == before and out.read_text() == text
    assert "allen_cahn-4d-kan-as-it-is-default-quick-seed0: " in capsys.readouterr().out


@pytest.mark.parametrize("backbone", ["kan", "metakan", "mlp"])
def test_every_variant_is_a_run_of_its_own(backbone):
    """Configurations that a run accepts, no two alike but for the defaults and for what is patched."""
    problem, seen = Poisson(4), {}
    for (study, label), variant in ALL.items():
        if variants.applies(variant, backbone):
            config = made(variant, backbone)
            Plan.of(config, problem)
            if variant and "start" not in variant:
                assert seen.setdefault(dump(config), label) == label, (study, label)
    assert dump(made({}, backbone)) not in seen
    names = [re.sub(r"[^a-z0-9.]+", "-", label.lower()) for (_, label), variant in ALL.items() if variant]
    assert len(set(names)) == len(names)


def test_soft_constraints_have_points_for_problems_with_time():
    Plan.of(made(variants.SOFT, "kan", Heat(3)), Heat(3))


def test_phases_are_those_that_the_labels_say():
    (adam,) = read_yaml(find("solvers", "adam"))["phases"]
    found = made(OPTIMISERS["adam, no gradient"])
    assert found.phases[0] == PhaseConfig(**adam | {"steps": found.steps})
    assert found.points.interior == read_yaml(find("solvers", "adam"))["points"]["interior"]
    lbfgs = made(OPTIMISERS["last 1/5 of the steps lbfgs"])
    assert lbfgs.phases[1].steps * 5 == lbfgs.steps and lbfgs.phases[1].lr == 1
    newton, spring = (
        made(OPTIMISERS["no gradient, last 1/200 gauss_newton"]),
        made(OPTIMISERS["the same, momentum 0.95"]),
    )
    assert newton.phases[1].steps * 200 == newton.steps == spring.steps
    assert spring.phases[1].options == {"momentum": 0.95} and spring.phases[0] == newton.phases[0]


def test_what_applies_to_a_backbone():
    count = lambda backbone: sum(variants.applies(v, backbone) for v in variants.STUDIES["initialisation"].values())
    assert [count(name) for name in ("metakan", "metafastkan", "kan", "mlp")] == [12, 12, 6, 2]


def test_starts_scale_the_prompts_and_the_spread_and_are_taken_back():
    config, problem = made({}), Poisson(4)
    prompts = lambda net: net[0].weights.prompts.detach()
    plain, kept = Plan.of(config, problem).net, network.META_SPREAD
    with pytest.raises(RuntimeError), variants.started(prompts=3.0):
        wide = Plan.of(config, problem).net
        raise RuntimeError
    with variants.started(spread=0.0):
        flat = Plan.of(config, problem).net
    again = Plan.of(config, problem).net
    assert torch.equal(prompts(wide), 3 * prompts(plain)) and torch.equal(prompts(flat), prompts(plain))
    theta = flat[0].weights.learner(prompts(flat))[:, :, 0].to(F64)  # one activation, times each prompt
    assert torch.linalg.matrix_rank(theta, rtol=1e-4) == 1
    assert network.META_SPREAD == kept and all(map(torch.equal, plain.parameters(), again.parameters()))
    learned = lambda net: net[0].weights.learner.w2
    assert torch.equal(learned(wide), learned(plain)) and not torch.equal(learned(flat), learned(plain))


def test_steps_price_each_phase(monkeypatch):
    """0.1 s a step of 199, 10 s a step of one, 2 s once and 24 evaluations of 1 s in 300 s, by hand."""
    step = lambda problem, c: budget.Cost(10.0 if c.phases[0].optimizer == "gauss_newton" else 0.1, 1.0, 2.0)
    monkeypatch.setattr(variants, "cost", step)
    config = made(OPTIMISERS["no gradient, last 1/200 gauss_newton"])
    assert variants.steps_for(Poisson(4), config, 300) == math.floor((300 - 2 - 24) / (0.1 * 0.995 + 10 * 0.005))
    assert variants.steps_for(Poisson(4), made({}), 300) == pytest.approx(274 / 0.1, abs=1)
    assert variants.steps_for(Poisson(4), config, 1) == 1


def test_the_least_finished_error_of_a_column_is_bold(monkeypatch):
    monkeypatch.setattr(variants, "STUDIES", {"s": {"a": {}, "b": {}, "c": {}, "d": {}}})
    of = lambda label, error, dim=5, status="finished", steps=10: {
        "study": "s", "variant": label, "d": dim, "backbone": "kan", "status": status, "steps": steps, "rel_l2": error
    }  # fmt: skip
    rows = [of("a", 0.2), of("a", 0.4, steps=21), of("b", 0.01, status="failed"), of("c", math.nan), of("b", 0.5, 7)]
    assert variants.table("s", rows)[2:] == [
        "| a | **0.3** (16) | - |",
        "| b | 0.01 (10, failed) | **0.5** (10) |",
        "| c | nan (10) | - |",
        "| d | - | - |",
    ]


def test_a_run_of_another_table_is_refused(tmp_path):
    given = {"quick": True, "runs": tmp_path, "minutes": 1.0, "steps": None}
    problem, args = AllenCahn(4), Namespace(**{**vars(ARGS), **given})
    variants.trained(args, "ema", {"average": 0.9}, problem, "kan", 0)
    with pytest.raises(ConfigError) as info:
        variants.trained(args, "ema", {"average": 0.99}, problem, "kan", 0)
    assert "another configuration" in one_line(info)


def test_runs_of_given_steps(tmp_path):
    given = {"quick": False, "runs": tmp_path, "minutes": 1.0, "steps": 3}
    small = {"points": {"interior": 8, "test": 64, "validation": 16}}
    run = variants.trained(Namespace(**{**vars(ARGS), **given}), "small", small, AllenCahn(4), "kan", 0)
    assert run.attrs["steps"] == 3 and run.path.stem.endswith("-3steps-seed0")


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--study", "weights"], "invalid choice: 'weights'"),
        (["--problem", "laplace"], "invalid choice: 'laplace'"),
        (["--minutes", "0"], "--minutes must be above 0, given 0"),
        (["--steps", "0"], "--steps must be at least 1, given 0"),
        (["--solver", "defualt", "--quick"], "default"),
    ],
)
def test_bad_input_is_one_line(options, complaint, tmp_path):
    with pytest.raises(ConfigError) as info:
        variants.main([*options, "--runs", str(tmp_path)])
    assert complaint in one_line(info)


def test_exit_code_of_a_bad_call():
    refused("benchmarks.variants", "--dims", "2")
