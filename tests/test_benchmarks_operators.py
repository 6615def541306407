"""The benchmark of operators: it runs, its sides compute what they say, and its verdicts are ratios of its rows."""

import csv

import pytest
import torch
from conftest import one_line, refused

from benchmarks.speed import operators
from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.operators import SDGD
from kanpde.problems import AllenCahn


def test_quick_run(tmp_path, capsys):
    out = tmp_path / "results" / "operators.md"
    operators.main(["--quick", "--backbones", "metakan", "mlp", "--out", str(out)])
    text = out.read_text()
    assert capsys.readouterr().out == text and "## metakan, d = 20" in text and "## mlp, d = 20" in text
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert list(rows[0]) == list(operators.COLUMNS)
    estimators = {"Hutchinson 1", "Hutchinson 16", "SDGD 4", "SDGD 16"}
    common = {"exact", "value", "published", "published, 4 dims"} | estimators
    found = {name: {row["side"] for row in rows if row["backbone"] == name} for name in ("metakan", "mlp")}
    assert found == {"metakan": common | {"nested"}, "mlp": common}
    at = {(row["backbone"], row["side"]): {k: float(row[k]) for k in ("ms", "saved_MB", "peak_MB")} for row in rows}
    for column in ("ms", "saved_MB", "peak_MB"):
        assert at["metakan", "published"][column] > at["metakan", "exact"][column] > 0


@pytest.mark.parametrize("backbone", operators.BACKBONES)
def test_published_sample_is_sdgd_of_u(backbone):
    module, loss = operators.sides(20, 5, backbone)["published, 4 dims"]
    problem = AllenCahn(20)
    u = Ansatz(problem, build(backbone, 20, generator=stream(0, "init")))
    x, source = operators.draw(problem, 5, stream(0, "interior"))
    expected = operators.residuals(SDGD(4, of="u"), u, x, source, stream(0, "probes")).square().mean()
    first = loss()
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=0)
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_nested_sides_end_where_a_step_takes_too_long():
    assert not {"nested", "published"} & set(operators.sides(101, 2))
    assert "published, 4 dims" in operators.sides(101, 2) and "published, 4 dims" not in operators.sides(1001, 2)


def test_sides_that_differ_are_no_comparison():
    operators.agree({"exact": 1.0, "published": 1.0005, "value": 3.0, "SDGD 4": 7.0})
    with pytest.raises(AssertionError, match="published"):
        operators.agree({"exact": 1.0, "published": 1.002, "value": 3.0})
    with pytest.raises(AssertionError, match="value, compiled"):
        operators.agree({"exact": 1.0, "value": 3.0, "value, compiled": float("nan")})


def test_verdicts():
    row = lambda side, ms, saved: {"backbone": "metakan", "dim": 100, "side": side, "ms": ms, "saved_MB": saved}
    rows = [row("exact", 20.0, 2.0), row("value", 5.0, 1.0), row("exact, compiled", 10.0, 4.0)]
    rows += [row("published", 4000.0, 500.0), row("published, 4 dims", 150.0, 30.0)]
    assert list(operators.verdicts(rows)) == [
        "- metakan, d = 100: published / exact = 200 (wanted: at least 150, aimed at 300)",
        "- metakan, d = 100: published / exact, compiled = 400 (wanted: at least 150, aimed at 300)",
        "- saved bytes, metakan, d = 100: published / exact = 250 (wanted: at least 100)",
        "- saved bytes, metakan, d = 100: published / exact, compiled = 125 (wanted: at least 100)",
        "- metakan, d = 100: published, 4 dims / exact = 7.5 (wanted: at least 8)",
        "- metakan, d = 100: published, 4 dims / exact, compiled = 15 (wanted: at least 8)",
        "- metakan, d = 100: exact / value = 4 (wanted: at most 4)",
    ]


def test_slow_sides_are_repeated_less(monkeypatch):
    calls = []
    monkeypatch.setattr(operators, "step", lambda module, loss: calls.append(loss) or 1.0)
    times = operators.interleaved({"a": (None, "a"), "b": (None, "b")}, {"a": 0.1, "b": 30.0}, repeats=5)
    assert len(times["a"]) == 5 and len(times["b"]) == operators.SLOW_REPEATS
    assert calls[:6] == ["a", "a", "b"] * 2 and calls.count("a") == 10


def test_steps_in_high_dimension():
    seconds, most = operators.in_high_dimension(50, 5)
    assert len(seconds) == 2 and min(seconds) > 0
    assert 10**7 < most < 10**11


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--dims", "15"], "--dims must be at least 16, given 15"),
        (["--repeats", "0"], "--repeats must be at least 1, given 0"),
        (["--compile-all", "--no-compile"], "not allowed with"),
        (["--backbones", "metakann"], "metakann"),
    ],
)
def test_bad_input_is_one_line(options, complaint):
    with pytest.raises(ConfigError) as info:
        operators.main(options)
    assert complaint in str(info.value)
    one_line(info)


def test_exit_code_of_a_bad_call():
    refused("benchmarks.operators", "--points", "0")
