"""Waves of stated frequencies that a network sees beside its inputs: what they are, their derivatives, and runs."""

from math import pi

import pytest
import torch
from conftest import F64, close, generator, one_line, planned
from torch import nn

import kanpde
from kanpde import ConfigError
from kanpde.backbones import build
from kanpde.jets.nested import nested
from kanpde.operators import Autograd, Forward
from kanpde.problems import Function, Multiscale, Poisson, Schroedinger, Wave

SQUARES = {"name": "chebykan", "widths": [4], "degree": 2, "squash": "none"}
SOFT = {"solver": "low_dim", "constraint": "soft", "points": {"interior": 200, "boundary": 60, "validation": 50}}
NETS = {"squares": SQUARES, "kan": {"name": "kan", "widths": [3], "spline_order": 5}, "mlp": {"name": "mlp"}}


@pytest.mark.parametrize("units", ["given", "frame"])
def test_the_network_sees_cosines_and_sines_in_the_units_of_the_domain(units):
    """Beside each coordinate, in the order of these, whatever the order in which they are stated."""
    given = {**SOFT, "frequencies": {"t": [1.0], "x": [0.5, 2]}, "units": units, "backbone": SQUARES}
    plan = planned(Wave(), given)
    x, layers = plan.problem.domain.interior(6, generator(2), dtype=F64), list(plan.net.double())
    first = next(i for i, layer in enumerate(layers) if hasattr(layer, "basis"))
    seen = nn.Sequential(*layers[:first])(x)
    assert seen.shape == (6, 8)
    for column, (axis, f) in {1: (0, 0.5), 3: (0, 2), 6: (1, 1.0)}.items():
        close(seen[:, column], (2 * pi * f * x[:, axis]).cos(), 1e-14)
        close(seen[:, column + 1], (2 * pi * f * x[:, axis]).sin(), 1e-14)
    close(seen[:, 0], 2 * x[:, 0] - 1 if units == "frame" else x[:, 0], 1e-14)
    assert all(layers[first].basis.low[[1, 2, 3, 4, 6, 7]] == -1)


@pytest.mark.parametrize("net", NETS)
def test_derivatives_are_those_of_nested_differentiation(net):
    plan = planned(Multiscale(), {"solver": "low_dim", "frequencies": {"y": [1.0, 2.5]}, "backbone": NETS[net]})
    u, x = plan.ansatz(), plan.problem.domain.interior(6, generator(2), dtype=F64)
    v = torch.eye(2, dtype=F64)
    for a, b in zip(Forward()(u, x, directions=v).parts, Autograd()(u, x, directions=v).parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    indices = ((0,), (1, 1), (0, 1, 1))
    value, found = u.derivatives(x, indices)
    wanted = nested(u, x, ((), *indices))
    close(value, wanted[()], 1e-12)
    for index in indices:
        assert torch.allclose(found[index], wanted[index], rtol=1e-9, atol=1e-9), index


def test_a_product_of_waves_is_found_to_the_last_digits(tmp_path):
    """Squares of sums of what the network sees; and a file opens with its inputs."""
    given = {**SOFT, "frequencies": {"x": [2], "y": [2]}, "backbone": SQUARES, "verify": False}
    given |= {"loss": {"weights": {"dirichlet": 100}}, "phases": [{"optimizer": "levenberg_marquardt", "steps": 40}]}
    run = kanpde.train(Multiscale(waves=(4,)), out=tmp_path / "run.h5", **given)
    assert run.rel_l2 < 1e-12
    x = torch.rand(5, 2, generator=generator(3), dtype=F64)
    close(kanpde.Run.open(run.path).load_model()(x).reshape(-1), Multiscale(waves=(4,)).exact(x), 1e-11)


HARD = {"solver": "low_dim"}
REFUSED = {
    "no coordinate": (
        Wave(),
        {**HARD, "frequencies": {"X": [1]}},
        None,
        r"unknown key frequencies 'X' \(known: x, t\)",
    ),
    "periodic": (Schroedinger(), {**HARD, "frequencies": {"x": [1]}}, None, "u is periodic in x; Periodic"),
    "data": (
        Function(formula="a*b", ranges={"a": (0, 1), "b": (0, 1)}),
        {"frequencies": {"a": [1]}},
        None,
        "fits data",
    ),
    "sharded": (Poisson(8), {"frequencies": {"x1": [1]}, "shard": "inputs"}, None, "not with shard: inputs"),
    "of one's own": (Wave(), {**HARD, "frequencies": {"x": [1]}}, build("mlp", 2, widths=(4,)), "made in Python"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_they_do_not_go_with_is_refused_in_one_line(case):
    problem, given, net, says = REFUSED[case]
    with pytest.raises(ConfigError, match=says) as info:
        planned(problem, {**given, "backbone": {"name": "python.MLP"}} if net is not None else given, net)
    one_line(info)


@pytest.mark.parametrize("each", [[], [0], [-1.0], ["fast"]])
def test_frequencies_are_numbers_above_zero(each):
    with pytest.raises(ConfigError, match=r"frequencies\.x"):
        planned(Wave(), {**HARD, "frequencies": {"x": each}})
