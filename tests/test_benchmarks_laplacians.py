"""The benchmark of Laplacians: it runs without peers, holds sides against nested differentiation, and divides rows."""

import sys

import pytest
import torch
from conftest import one_line, refused

from benchmarks.speed import laplacians
from kanpde.ground.errors import ConfigError


@pytest.fixture
def alone(monkeypatch):
    """No peers, and nothing compiled."""
    for module in laplacians.PACKAGES.values():
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(laplacians, "compiles", lambda device: False)


def test_quick_run_without_peers(alone, tmp_path):
    out = tmp_path / "results" / "laplacians.md"
    laplacians.main(["--quick", "--out", str(out)])
    text = out.read_text()
    assert "## 6-8-8-1, N = 4" in text and "The peers are not installed." in text
    for name in ("jet, standard", "jet, collapsed", "folx, compiled"):
        assert f"| {name} | not installed |" in text
    own = next(line.split(" | ") for line in text.splitlines() if line.startswith("| kanpde |"))
    assert own[3] == "1.00" and float(own[4]) < 1e-5 and "| nested | " in text


def test_a_side_that_computes_something_else_is_no_comparison(alone, monkeypatch):
    class Half(laplacians.Forward):
        def estimate(self, *args):
            return super().estimate(*args).map(lambda t: 0.5 * t)

    monkeypatch.setattr(laplacians, "Forward", Half)
    with pytest.raises(AssertionError, match="kanpde is off by"):
        laplacians.measure((3, 4, 1), 2, {}, repeats=1)


def test_a_compiled_side_is_held_against_kanpde_compiled():
    seconds = {"kanpde": 4.0, "jet, standard": 8.0, "kanpde, compiled": 2.0, "jet, standard, compiled": 3.0}
    rows = {name: laplacians.Row(0.0, both, 0.0, 0.0) for name, both in seconds.items()}
    lines = list(laplacians.verdicts("3-1", rows | {"jet, collapsed": "not installed"}))
    assert lines == [
        "- jet, standard / kanpde at 3-1 = 2.00 (wanted: at least 1.5)",
        "- jet, standard, compiled / kanpde, compiled at 3-1 = 1.50 (wanted: at least 1.5)",
    ]


def test_gradients_are_those_of_the_weights():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    _, gradients = laplacians.exact(net, torch.ones(5, 2))
    assert [g.shape for g in gradients] == [net[0].weight.shape, net[2].weight.shape]
    assert net[0].weight.dtype == torch.float32


def test_bad_input_is_one_line():
    with pytest.raises(ConfigError, match="--repeats must be at least 1, given 0") as info:
        laplacians.main(["--repeats", "0"])
    one_line(info)
    refused("benchmarks.laplacians", "--repeats", "0")
