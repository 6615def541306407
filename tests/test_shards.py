"""Processes that have slices of the inputs compute what one that has all of them does, and leave its files."""

import json

import pytest
import sliced
import torch
import torch.multiprocessing
from conftest import one_line, planned
from test_world import free_port

import kanpde
from kanpde import ConfigError
from kanpde.ground import world as worlds
from kanpde.ground.world import World
from kanpde.jets.slices import BLOCK, Slice
from kanpde.kan.sliced import SlicedLinear
from kanpde.problems import Heat, Poisson, SineGordon

BOUNDS = {"equal": 1e-12, "trajectory": 1e-10, "float32": 1e-5}
BOUNDS["last step"] = 1e-7  # of Gauss-Newton on a rung, of which rounding decides whether it is taken


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_slices_of_the_inputs_are_what_one_process_has(size, tmp_path):
    """Jets, gradients, steps, starts, and files that another number of processes goes on with."""
    torch.multiprocessing.spawn(sliced.run, (size, free_port(), tmp_path), nprocs=size)
    found = json.loads((tmp_path / "found.json").read_text())
    assert {f"equal: {name}" for name in sliced.CASES} < {*found}
    assert {name: e for name, e in found.items() if not e <= BOUNDS[name.partition(":")[0]]} == {}


class Own(Poisson):
    """Which may read any input."""


SHARDED = {"solver": "adam", "shard": "inputs"}
REFUSED = {
    "shard: inputs: not of Heat": (Heat(3), {}),
    "shard: inputs: not of Own": (Own(3), {}),
    "operator: hutchinson: not with": (SineGordon(4), {"operator": "hutchinson"}),
    "optimizer soap: not with .* use adam, adamw": (SineGordon(4), {"solver": "default"}),
    "optimizer lbfgs: not with": (SineGordon(4), {"phases": [{"optimizer": "lbfgs", "steps": 2}]}),
    "start: quadratic: not with": (SineGordon(4), {"start": "quadratic"}),
    "constraint: soft: not with": (SineGordon(4), {"constraint": "soft", "points": {"boundary": 9}}),
    "compile: true: not with": (SineGordon(4), {"compile": True}),
    "points.sequence: sobol: not with": (SineGordon(4), {"points": {"sequence": "sobol"}}),
    "points.adapt: not with": (SineGordon(4), {"points": {"adapt": {"candidates": 3}}}),
    "loss.directions: not with": (SineGordon(4), {"loss": {"gradient": "almost_everywhere", "directions": 2}}),
    "loss.sparsity: not with": (SineGordon(4), {"loss": {"sparsity": {"l1": 0.1}}}),
    "loss.balance: not with": (SineGordon(4), {"loss": {"balance": "gradnorm"}}),
    "update_grid, grid_size, degree, harmonics: not with": (
        SineGordon(4),
        {"backbone": "kan", "phases": [{"steps": 2, "update_grid": True}]},
    ),
    "average: not with": (SineGordon(4), {"average": 0.9}),
    "verify: not with": (SineGordon(4), {"verify": True}),
    "stop.to: not with": (SineGordon(4), {"stop": {"to": 0.1}}),
    "slices: not with": (SineGordon(4), {"slices": {"points": 5}}),
    "points_of_interest: not with": (SineGordon(4), {"points_of_interest": {"a": [0.0, 0.0, 0.0, 0.1]}}),
    "max_memory: not with": (SineGordon(4), {"max_memory": "8GB"}),
    "backbone mlp: not with": (SineGordon(4), {"backbone": "mlp"}),
    "backbone wavkan: not with": (SineGordon(4), {"backbone": "wavkan"}),
    "backbone gramkan: not with": (SineGordon(4), {"backbone": "gramkan"}),
    "backbone fastkan: not with": (SineGordon(4), {"backbone": {"name": "fastkan", "norm": "all"}}),
    "prompt_rank: not with": (SineGordon(4), {"backbone": {"name": "metakan", "prompt_rank": 1}}),
    "grid_range: with shard: inputs one": (SineGordon(4), {"backbone": {"name": "kan", "grid_range": [[-1, 1]] * 4}}),
    "shard": (SineGordon(4), {"shard": "input"}),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_sharded_is_refused_in_one_line(says):
    problem, given = REFUSED[says]
    with pytest.raises(ConfigError, match=says) as info:
        planned(problem, SHARDED | given)
    one_line(info)


def test_too_few_inputs_and_networks_made_in_python_are_refused_in_one_line(monkeypatch):
    with pytest.raises(ConfigError, match="the network is one of the configuration") as info:
        planned(SineGordon(4), SHARDED, torch.nn.Linear(4, 1))
    one_line(info)
    token = worlds._CURRENT.set(World(0, 3))
    try:
        with pytest.raises(ConfigError, match="given 5 inputs for 3 processes; needed are at least 2") as info:
            planned(SineGordon(5), SHARDED)
    finally:
        worlds._CURRENT.reset(token)
    one_line(info)


# ---------------------------------------------------------------------------------------------------------------
# Slices


@pytest.mark.parametrize("dim", [7, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_slices_are_the_inputs_in_their_order_and_draw_what_one_would(dim, size):
    every = [Slice(dim, World(rank, size)) for rank in range(size)]
    assert [every[0].start, *(s.stop for s in every)] == [*(s.start for s in every), dim]
    whole = torch.arange(dim)
    assert torch.equal(torch.cat([s.cut(whole) for s in every]), whole)
    draw = lambda n, generator: torch.randn(2, n, generator=generator)
    parts = [s.drawn("x", 3, draw, 1) for s in every]
    assert torch.equal(torch.cat(parts, 1), Slice(dim).drawn("x", 3, draw, 1))


def test_a_file_of_one_process_says_what_was_sharded_and_opens_as_any_other(tmp_path):
    run = kanpde.train(SineGordon(6), out=tmp_path / "run.h5", **sliced.SMALL | {"shard": "inputs", "steps": 2})
    assert run.attrs["sharded"] == run.config["shard"] == "inputs" and not run.config["verify"]
    u = run.load_model()
    assert isinstance(u.net[0], SlicedLinear) and run.attrs["parameters"] == sum(p.numel() for p in u.net.parameters())
    plain = planned(SineGordon(6), sliced.SMALL)
    plain.net.load_state_dict(u.net.state_dict())
    x = 0.1 * torch.ones(3, 6, dtype=torch.float64)
    assert torch.allclose(plain.ansatz()(x), u(x), rtol=1e-13)
    assert {"constant", "affine", "additive", "taylor2", "no_training"} == {*run.floors}


def test_weights_start_with_the_deviation_of_a_layer_of_all_inputs():
    for backbone, name in (("kan", "theta"), ("metakan", "prompts")):
        of = lambda shard, backbone=backbone, name=name: (
            getattr(
                planned(SineGordon(3000), {"solver": "adam", "shard": shard, "backbone": backbone}).net[0].weights, name
            )
            .std()
            .item()
        )
        assert of("inputs") == pytest.approx(of("points"), rel=0.02)
