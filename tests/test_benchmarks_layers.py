"""The benchmark of layers: it runs without peers, says what is missing, and measures what it says."""

import sys
import types
from functools import partial

import pytest
import torch
from conftest import one_line, refused
from torch import nn

from benchmarks.speed import layers
from kanpde.ground.errors import ConfigError
from kanpde.training.plan import compiles


def test_quick_run_without_peers(tmp_path, monkeypatch):
    for module in layers.PACKAGES.values():
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # in a second, not half a minute
    out = tmp_path / "results" / "layers.md"
    layers.main(["--quick", "--out", str(out)])
    text = out.read_text()
    assert text.count("\n## ") == 3 + 1 + 1 + 1  # networks, convolution, generation, what was wanted
    assert all(text.count(f"| {name} | not installed |") == 3 for name in (*layers.PACKAGES, "inkan dense"))
    assert text.count("| efficient-kan | no checkout given |") == text.count("| fast-kan | no checkout given |") == 3
    assert text.count("| torch-conv-kan") == 2
    lines = [line for line in text.splitlines() if line.startswith("| kan |")]
    assert len(lines) == 4 and all(line.split(" | ")[3] == "1.00" for line in lines)
    assert text.count("| nn.Linear and SiLU, compiled | ") == 3 * compiles("cpu")
    assert "- pykan / kanpde at 20-12-1: not installed (wanted: at least 20)" in text
    assert "autograd / kanpde in generating weights = " in text and "| autograd | " in text


def test_a_peer_is_held_against_kanpde_compiled_and_not():
    rows = {"kan": 4.0, "kan, compiled": 2.0, "efficient-kan": 8.0, "efficient-kan, compiled": 3.0, "pykan": 20.0}
    rows = {name: layers.Row(0.0, seconds, 0) for name, seconds in rows.items()}
    line = "- efficient-kan / kanpde at 3-1 = 2.00, 4.00 with kanpde compiled, 1.50 with both (wanted: at least 3)"
    assert layers.verdict("efficient-kan", "3-1", rows, 3) == line
    assert "= 5.00, 10.00 with kanpde compiled (wanted" in layers.verdict("pykan", "3-1", rows, 20)


def test_weights_of_peers_are_drawn_beside_the_global_generator():
    before = torch.get_rng_state()
    found = {"fast-kan": types.SimpleNamespace(layer=lambda: nn.Linear(3, 3))}
    sides = [layers.peer("fast-kan", found, "fastkan", lambda m: m.layer()) for _ in range(2)]
    assert torch.equal(sides[0].module.weight, sides[1].module.weight)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_peer_that_computes_something_else_is_no_comparison():
    own, x = nn.Linear(3, 2), torch.ones(4, 3)
    sides = [layers.Side("kan", own, "kan"), layers.Side("efficient-kan", nn.Linear(3, 2), "kan")]
    with pytest.raises(AssertionError, match="efficient-kan differs from kan"):
        layers.compare(sides, x)
    sides[1].module.load_state_dict(own.state_dict())
    layers.compare(sides, x)


def test_autograd_saves_the_hidden_units_and_kanpde_does_not():
    rows = layers.generation(100, 41, repeats=1)
    assert rows["autograd"][1] == 4 * 64  # float32
    assert rows["kanpde"][1] < 0.2 * rows["autograd"][1]


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--peer", "fastkan=here"], "efficient-kan, fast-kan, torch-conv-kan; given 'fastkan=here'"),
        (["--peer", "fast-kan"], "given 'fast-kan'"),
        (["--peer", "fast-kan=nowhere"], "--peer fast-kan=nowhere: there is no fastkan/fastkan.py"),
        (["--repeats", "0"], "--repeats must be at least 1, given 0"),
    ],
)
def test_bad_input_is_one_line(options, complaint):
    with pytest.raises(ConfigError) as info:
        layers.main(options)
    assert complaint in str(info.value)
    one_line(info)


def test_exit_code_of_a_bad_call():
    refused("benchmarks.layers", "--repeats", "0")
