"""Generated weights fitted to free ones: exact where the curve has knots enough, near where it has not."""

import pytest
import torch

from kanpde import count_parameters
from kanpde.backbones import build
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.kan import grids
from kanpde.kan.compress import generate_like
from kanpde.kan.layers import KANLinear
from kanpde.problems import HighDimFunction
from kanpde.runs.api import train


def pair(dim, widths, hidden, narrow=None, bias=False):
    g = torch.Generator().manual_seed(0)
    given = build("kan", dim, widths=narrow or widths, bias=bias, generator=g).double()
    net = build("metakan", dim, widths=widths, meta_hidden=hidden, bias=bias, generator=g).double()
    return net, given, 2 * torch.rand(50, dim, generator=g, dtype=torch.float64) - 1


@pytest.mark.parametrize("hidden", [24, 25, 32, 100])
def test_the_same_function_where_edges_are_no_more_than_knots(hidden):
    net, given, x = pair(4, (3, 3), hidden)  # 24 edges
    assert generate_like(net, given) < 1e-12
    torch.testing.assert_close(net(x), given(x), rtol=1e-10, atol=1e-12)


def test_more_edges_are_approached_the_better_the_more_knots():
    errors = [generate_like(*pair(4, (5, 5), hidden)[:2]) for hidden in (4, 12, 40)]
    assert 0.6 > errors[0] > 1.2 * errors[1] > 1.5 * errors[2] > 0


def test_the_rounds_of_the_principal_curve_bring_it_nearer(monkeypatch):
    net, given, _ = pair(4, (5, 5), 16)
    many = generate_like(net, given)
    monkeypatch.setattr("kanpde.kan.compress.ROUNDS", 1)
    assert many < 0.9 * generate_like(net, given)


def test_a_narrower_network_is_the_same_function_in_a_wider_one():
    net, given, x = pair(4, (5, 5), 32, narrow=(3, 3))
    generate_like(net, given)
    torch.testing.assert_close(net(x), given(x), rtol=1e-10, atol=1e-12)


def test_biases_and_grids_are_taken_over():
    net, given, x = pair(3, (2, 2), 32, bias=True)
    for number, layer in enumerate(m for m in given.modules() if isinstance(m, KANLinear)):
        layer.bias.data += number + 1.0
    grids.update_grid(given, 3 * x)
    generate_like(net, given)
    torch.testing.assert_close(net(3 * x), given(3 * x), rtol=1e-9, atol=1e-11)


def test_a_meta_learner_for_each_layer():
    g = torch.Generator().manual_seed(0)
    given = build("kan", 4, widths=(5, 5), generator=g).double()
    net = build("metakan", 4, widths=(5, 5), meta_hidden=32, meta_share="layer", generator=g).double()
    assert generate_like(net, given) < 1e-12  # 20, 25 and 5 edges


@pytest.mark.parametrize(
    "options, given, says",
    [
        ({"widths": (3,)}, {"widths": (3, 3)}, "different"),
        ({"widths": (3,)}, {"widths": (4,)}, "wider"),
        ({"widths": (3,), "grid_size": 7}, {"widths": (3,)}, "bases"),
        ({"widths": (3,), "prompt_dim": 2}, {"widths": (3,)}, "scalar"),
        ({"widths": (3,), "meta_bias": False}, {"widths": (3,)}, "biases"),
        ({"widths": (5,), "prompt_rank": 1}, {"widths": (5,)}, "prompt_rank"),
    ],
)
def test_what_does_not_correspond_is_refused(options, given, says):
    with pytest.raises(ValueError, match=says):
        generate_like(build("metakan", 2, **options), build("kan", 2, **given))


def test_a_metakan_starts_from_the_run_of_a_kan(tmp_path):
    options = {"solver": "fit", "backbone": {"name": "kan", "widths": [2]}, "points": {"interior": 60, "test": 50}}
    options |= {"slices": {"points": 3, "volume": 0}, "evaluation": {"every": 5}}
    problem = HighDimFunction(2)
    kan = train(problem, steps=10, out=tmp_path / "kan.h5", **options)
    meta = {"backbone": {"name": "metakan", "widths": [2]}, "start_from": str(kan.path)}
    run = train(problem, steps=2, out=tmp_path / "meta.h5", **{**options, **meta})
    assert run.history["rel_l2"][0] == pytest.approx(kan.rel_l2, rel=1e-6)
    with pytest.raises(ConfigError, match="does not fit"):
        wide = {"backbone": {"name": "metakan", "widths": [1]}, "start_from": str(kan.path)}
        train(problem, steps=2, out=tmp_path / "other.h5", **{**options, **wide})
    assert not (tmp_path / "other.h5").exists()


def test_refined_and_moved_grids_are_those_of_the_result(tmp_path):
    """A run whose phases move and refine the grids is read back as the function that was tested."""
    phases = [{"optimizer": "gauss_newton", "steps": 3}]
    phases += [{"optimizer": "gauss_newton", "steps": 2, "update_grid": True, "grid_size": 8}]
    problem = HighDimFunction(2)
    options = {"backbone": {"name": "kan", "widths": [2]}, "points": {"interior": 60, "test": 50}}
    run = train(problem, solver="fit", phases=phases, out=tmp_path / "run.h5", **options)
    u = run.load_model(problem=problem)
    rows = problem.domain.held_out("test", 0, 50, stream(0, "x"))
    torch.testing.assert_close(u(rows).detach().numpy(), run.field["u"], rtol=1e-12, atol=1e-13)
    assert run.attrs["parameters"] == count_parameters(u.net)
    assert [layer.basis.size for layer in u.net if isinstance(layer, KANLinear)] == [12, 12]
    assert u.net[2].basis.low.min() != -1.0
