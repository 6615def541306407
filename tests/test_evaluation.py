"""Evaluation where points have very many coordinates: in parts, each solution once, within the memory that is said."""

from dataclasses import dataclass

import pytest
import torch
from conftest import one_line, planned

import kanpde
from benchmarks.speed.memory import peak_bytes
from kanpde import Run
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems import AllenCahn, Poisson
from kanpde.training import cuts, evaluation
from kanpde.training.evaluation import BLOCK, Evaluator
from kanpde.training.loop import ResidualTraining

GIVEN = {"backbone": "kan", "points": {"interior": 8, "test": 600, "validation": 20}, "dtype": "float64"}


def evaluator(problem, **more) -> Evaluator:
    plan = planned(problem, {**GIVEN, **more})
    return Evaluator(plan, plan.ansatz())


def measured(of: Evaluator) -> tuple:
    """Errors of the history, floors, and all that is measured on the test points."""
    errors, field, digest, _ = of.full_test()
    return of.test_errors(), of.floors(), errors, field, digest


@pytest.mark.parametrize("start", ["network", "ladder"])
def test_parts_of_blocks_change_no_number(monkeypatch, start):
    whole = measured(evaluator(AllenCahn(7), start=start))
    monkeypatch.setattr(evaluation, "PART", 7 * 50)
    monkeypatch.setattr(evaluation, "CACHE", 0)
    parts = evaluator(AllenCahn(7), start=start)
    assert [len(x) for x, _ in parts.blocks("test", 300)] == [50] * 5 + [6, 44]
    found = measured(parts)
    for one, other in zip(found[:4], whole[:4], strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            torch.testing.assert_close(torch.as_tensor(one[name]), torch.as_tensor(value), rtol=1e-12, atol=1e-15)
    assert found[4] == whole[4]


@dataclass(frozen=True)
class Counted(Poisson):
    """Notes at how many points its solution was asked for."""

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "asked_for", [])

    def exact(self, x):
        self.asked_for.append(len(x))
        return super().exact(x)


def test_the_solution_is_computed_once_where_points_are_drawn_again(monkeypatch):
    monkeypatch.setattr(evaluation, "CACHE", 0)
    of = evaluator(Counted(4))
    asked_for = of.problem.asked_for
    asked_for.clear()
    for _ in range(2):
        measured(of)
    assert sum(asked_for) == 3 * BLOCK and not of._points


def test_thelast_terms_are_not_measured_again(tmp_path, monkeypatch):
    calls, validation = [], Evaluator.validation
    monkeypatch.setattr(Evaluator, "validation", lambda self, terms: calls.append(0) or validation(self, terms))
    given = {**GIVEN, "start": "network"}
    run = kanpde.train(Poisson(4), out=tmp_path / "a.h5", steps=6, evaluation={"every": 3}, **given)
    assert len(calls) == 3 and run.attrs["validation_last"] == run.history["validation"][-1]
    training = ResidualTraining(planned(Poisson(4), {**given, "steps": 6}), Run(tmp_path / "b.h5"))
    training.loop(lambda state: state.step == 4)  # between two evaluations
    assert training.last_terms() == training.validation(training.u) != run.history["validation"][0]


def test_a_plane_has_fewer_points_where_they_have_many_coordinates(monkeypatch):
    monkeypatch.setattr(cuts, "PLANE", 4 * 30)
    found = evaluator(Poisson(4), slices={"points": 9, "volume": 4}).slices()
    assert found["random"]["u"].shape == (5, 5) and found["volume"]["u"].shape == (4, 4, 4)


def test_what_evaluations_hold_is_of_the_right_size():
    of = evaluator(Poisson(40_000), dtype="float32", points={"test": 300, "validation": 2})
    peak = peak_bytes(lambda: (of.floors(), of.test_errors(), of.full_test()), 0, torch.device("cpu"))
    assert 0.5 < evaluation.bytes_of(of.plan) / peak < 2


def test_a_limit_below_what_evaluations_need_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"max_memory: given \d+MB, the evaluations need about [\d,]+MB") as info:
        needed = evaluation.bytes_of(planned(Poisson(20_000), {"backbone": "kan"}))
        held = evaluation.memory.resident_bytes()
        planned(Poisson(20_000), {"backbone": "kan", "max_memory": f"{(held + needed / 2) / 1e6:.0f}MB"})
    one_line(info)


@pytest.mark.parametrize("solution", ["two_body", "three_body", "scaled", "coupled"])
def test_the_solution_without_derivatives_is_the_same_number(solution):
    form = Poisson(5000, solution=solution).closed_form
    x = Poisson(5000).domain.interior(3, stream(0, "x"))
    assert torch.equal(form.value(x), form.value_and_laplacian(x)[0])
