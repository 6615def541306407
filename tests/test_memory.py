"""Limits of memory: micro-batches with the gradient of the whole batch, refusals, and running out of memory once."""

from dataclasses import dataclass, replace

import pytest
import torch
from conftest import configuration, in_pairs, one_line, planned

import kanpde
from benchmarks.speed.memory import peak_bytes
from kanpde import Run
from kanpde.backbones import build
from kanpde.config import PhaseConfig
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import resident_bytes
from kanpde.ground.samplers import stream
from kanpde.jets.jet import Footprint, Step, footprint
from kanpde.operators import OPERATORS, Forward
from kanpde.problems import Poisson
from kanpde.training import ladder, memory
from kanpde.training.loop import ResidualTraining
from kanpde.training.objective import Objective

SMALL = {"backbone": "kan", "points": {"interior": 30, "test": 40, "validation": 10}, "dtype": "float64"}
SOFT = {"constraint": "soft", "points": {**SMALL["points"], "boundary": 7}}


def training(path, **settings) -> ResidualTraining:
    return ResidualTraining(planned(Poisson(4), {**SMALL, "steps": 3, **settings}), Run(path / "run.h5"))


@pytest.mark.parametrize("micro_batch", [1, 5, 11, 12, 40])
def test_micro_batches_have_the_gradient_of_the_whole(tmp_path, micro_batch):
    """Two terms with points of their own and different numbers of them."""
    soft = {**SOFT, "points": {**SOFT["points"], "interior": 12}}
    made = [training(tmp_path, **soft, loss={"weights": {"boundary": 3.0}}) for _ in range(2)]
    points = made[0].supply.points()
    made[1].objective.micro_batch = micro_batch
    losses = [t.objective.backward(points, t.supply.probes) for t in made]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
    assert made[0].objective.terms.keys() == made[1].objective.terms.keys() == {"interior", "gradient", "boundary"}
    for a, b in zip(made[1].u.parameters(), made[0].u.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-11, atol=1e-14)
    sizes = [len(part["interior"]) for part, _, _ in made[1].objective._parts(points, {})]
    assert sum(sizes) == 12 and max(sizes) <= micro_batch


@dataclass(frozen=True)
class Observed(Poisson):
    """With terms of its own."""

    terms = ("data", "mirrored")

    def extra_terms(self, u):
        x = torch.full((4, self.dim), 0.1, dtype=torch.float64)
        return {"data": (u(x) - 3).square().mean(), "mirrored": (u(-x) - 1).square().mean()}


BALANCED = {"gradnorm": {"every": 1}, "relobralo": {"lookback": 0.5, "decay": 0.5}}
HUTCHINSON = {"name": "hutchinson", "probes": 2}
PER_POINT = {"name": "sdgd", "dims": 2, "per_point": True}
COMBINATIONS = {
    "plain": {},
    "gradient": {"loss": {"gradient": "almost_everywhere"}},
    "directions": {"loss": {"gradient": "almost_everywhere", "directions": 2}},
    "sparsity": {"loss": {"sparsity": {"l1": 1e-2, "entropy": 1e-2}}},
    "rba": {"loss": {"emphasis": {"name": "rba"}}, "points": {"refresh": "fixed"}},
    **{f"{name}": {"loss": {"balance": {"name": name, **options}}} for name, options in BALANCED.items()},
    "shared probes": {"operator": HUTCHINSON},
    "probes of points": {"operator": PER_POINT},
    "two samples": {"operator": HUTCHINSON, "loss": {"residual": "two_sample"}},
    "two samples, balanced": {
        "operator": HUTCHINSON,
        "loss": {"residual": "two_sample", "balance": {"name": "relobralo", **BALANCED["relobralo"]}},
    },
    "hard": {"constraint": "hard"},
}


@pytest.mark.parametrize("case", COMBINATIONS)
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_no_number_depends_on_micro_batches(tmp_path, case, micro_batch):
    """Two steps by each, as balances and emphases look back: with fewer points of the boundary than micro-batches."""
    problem = Observed(3)
    given = {"constraint": "soft", "solver": "adam", "backbone": {"name": "kan", "widths": [4]}, "dtype": "float64"}
    points = {"interior": 7, "boundary": 3, "test": 40, "validation": 10}
    given |= {"points": points | COMBINATIONS[case].get("points", {}), "steps": 3}
    given |= {key: value for key, value in COMBINATIONS[case].items() if key != "points"}
    if given["constraint"] == "hard":
        del given["points"]["boundary"]
    made = [ResidualTraining(planned(problem, given), Run(tmp_path / "run.h5")) for _ in range(2)]
    made[1].objective.micro_batch = micro_batch
    points = made[0].supply.points()
    for _ in range(2):
        losses = [t.objective.backward(points, t.supply.probes) for t in made]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-12, atol=0)
        for name, value in made[0].objective.terms.items():
            assert made[1].objective.terms[name] == pytest.approx(value, rel=1e-11)
        for a, b in zip(made[1].u.parameters(), made[0].u.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def test_a_limit_makes_micro_batches_that_fit(tmp_path):
    problem = Poisson(100)
    plan = planned(problem, {"backbone": "kan", "points": {"interior": 4000}})
    fixed, step = memory.estimate(plan)
    limited = lambda limit: replace(plan, config=plan.config.model_copy(update={"max_memory": limit}))
    limit = lambda share: f"{(resident_bytes() + fixed + share * step) / 1e6:.0f}MB"
    batch = lambda share: memory.micro_batch(limited(limit(share)))
    assert memory.micro_batch(plan) is None and batch(1.5) is None
    assert 1000 < batch(0.5) < 3000
    with pytest.raises(ConfigError, match="max_memory: given 1MB, one point at a time needs about") as info:
        memory.micro_batch(limited("1MB"))
    one_line(info)


@pytest.mark.parametrize(
    "dim, backbone, solver", in_pairs([3, 100, 1000], ["metakan", "kan", "mlp"], ["adam", "default"])
)
def test_estimate_is_of_the_right_size(dim, backbone, solver):
    """Beside what a step allocates, without and with the gradient of the residual."""
    problem = Poisson(dim)
    plan = planned(problem, {"backbone": backbone, "points": {"interior": 200}, "solver": solver})
    objective, x = Objective(plan, plan.ansatz()), problem.domain.interior(200, stream(0, "x"))
    step = lambda: objective.backward({"interior": x}, stream(0, "probes"))
    step()
    objective.u.zero_grad()
    assert 0.5 < memory.estimate(plan)[1] / peak_bytes(step, 0, torch.device("cpu")) < 2.5


def test_a_start_in_closed_form_has_as_many_points_as_fit(monkeypatch):
    monkeypatch.setattr(ladder, "NUMBERS", 2**17)
    monkeypatch.setattr(ladder, "ROUNDS", 1)
    monkeypatch.setattr(ladder, "ALL_UP_TO", 0)
    plan = planned(Poisson(300), {"backbone": "kan", "start": "ladder"})
    climb = lambda: list(ladder.climb(plan, stream(0, "start")))
    stated = ladder.bytes_of(ladder.points_of(plan) * 300, plan)
    assert ladder.points_of(plan) == 2**17 // 300
    assert 0.5 < stated / peak_bytes(climb, 0, torch.device("cpu")) < 2.5
    limit = f"{(resident_bytes() + memory.estimate(plan)[0] + 0.5 * stated) / 1e6:.0f}MB"
    half = replace(plan, config=plan.config.model_copy(update={"max_memory": limit}))
    assert 0.3 < ladder.points_of(half) / ladder.points_of(plan) < 0.7


FOOTPRINTS = [  # bytes of a step
    ("mlp", {}, Step(1000, 100, 4, 1), 317304000),
    ("mlp", {"widths": (8,)}, Step(50, 49, 8, 2), 276400),
    ("kan", {}, Step(100, 3, 4, 2), 7191200),
    ("kan", {}, Step(4000, 1000, 4, 1), 149552640),
    ("kan", {}, Step(20000, 10000, 4, 2), 4410288640),
    ("kan", {"norm": "all"}, Step(30, 12, 4, 1), 3944160),
    ("metakan", {"widths": (128, 128)}, Step(100, 100, 8, 2), 143840640),
    ("fastkan", {"widths": (20, 20)}, Step(200, 10, 4, 2), 16531200),
    ("wavkan", {}, Step(100, 48, 4, 2), 35284800),
    ("gramkan", {"bias": True}, Step(64, 1000, 4, 2), 115442688),
]


@pytest.mark.parametrize("name, options, step, expected", FOOTPRINTS)
def test_footprints_of_layers_stay_what_they_are(name, options, step, expected):
    """Streamed and whole layers, one that keeps no features of its second pass, norms, tangents and Gram matrices."""
    parts = [footprint(module, step) for module in build(name, step.dim, **options).modules()]
    kept, working = 5 * step.dim + sum(part.kept for part in parts), max(part.working for part in parts)
    assert int(step.itemsize * (step.points * kept + working)) == expected


def test_a_module_of_ones_own_has_a_footprint():
    class Wide(torch.nn.Module):
        """Holds seven numbers of a point."""

    step = Step(10, 3, 4, 1)
    assert footprint(Wide(), step) == Footprint(0, 0)
    footprint.register(Wide, lambda module, step: Footprint(kept=7))
    assert footprint(Wide(), step) == Footprint(7, 0)


@pytest.mark.parametrize("text, size", [("8GB", 8 * 10**9), ("1.5 GiB", 3 * 2**29), ("500mb", 5 * 10**8)])
def test_amounts_of_memory(text, size):
    assert memory.parse(text) == size


def test_other_amounts_are_refused_in_one_line():
    with pytest.raises(ConfigError, match="max_memory.*8 apples.*8GB") as info:
        configuration(Poisson(3), {"max_memory": "8 apples"})
    one_line(info)


def test_out_of_memory_is_tried_once_more_with_half_the_points(tmp_path, monkeypatch):
    """And said so; a second time it is an error."""
    most = [20]

    class Small(Forward):
        def __call__(self, u, x, *args, **kwargs):
            if len(x) > most[0] and torch.is_grad_enabled() and u.training:  # not where a check looks at a copy
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(u, x, *args, **kwargs)

    monkeypatch.setitem(OPERATORS, "forward", Small)
    whole = {**SMALL, "phases": [PhaseConfig(steps=2)], "start": "network"}
    with pytest.warns(UserWarning, match="out of memory: from now on 15 points at a time"):
        run = kanpde.train(Poisson(4), out=tmp_path / "a.h5", **whole)
    most[0] = 100
    plain = kanpde.train(Poisson(4), out=tmp_path / "b.h5", **whole)
    assert run.history["loss"][-1] == pytest.approx(plain.history["loss"][-1], rel=1e-10)
    most[0] = 3
    with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning):
        kanpde.train(Poisson(4), out=tmp_path / "c.h5", **whole)
