"""The benchmark of recovered formulas: its measures are right, rows are kept, and counts compare like with like."""

import pytest
import torch
from conftest import one_line

from benchmarks.formulas import recovery
from kanpde.ground.errors import ConfigError
from kanpde.problems.equations import equations


def row(equation: str, side: str, mse: float = 1.0, error: float = 1.0, **more) -> recovery.Row:
    numbers = {"relative_mse": mse, "formula_error": error, "found": "a*b", "seconds": 60.0, "cpu_seconds": 30.0}
    return {"equation": equation, "side": side, **numbers, "allowed": 60.0, "machine": "some processor", **more}


def test_measures_are_relative_to_variance_and_to_size():
    y = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert recovery.relative_mse(torch.full_like(y, 2.5), y) == pytest.approx(1)
    rows = torch.stack([y, 2 * y, 2 * y * y], 1)
    assert recovery.formula_error("a*I", ["a", "I"], rows) < 1e-15  # I is a name, not the root of -1
    assert recovery.formula_error("1.1*a*I", ["a", "I"], rows) == pytest.approx(0.1)
    assert recovery.formula_error("sqrt(-a)*I", ["a", "I"], rows) == float("inf")


def test_samples_are_those_of_the_problem_and_differ():
    found = recovery.samples("I.12.5")
    assert {name: tuple(rows.shape) for name, rows in found.items()} == {
        name: (1000, 3) for name in ("train", "test", "fresh")
    }
    assert not torch.isin(found["fresh"][:, 0], torch.cat([found["train"][:, 0], found["test"][:, 0]])).any()
    for rows in found.values():
        assert torch.equal(rows[:, 0] * rows[:, 1], rows[:, 2])
    assert torch.equal(recovery.samples("I.12.5")["train"], found["train"])


def test_our_side_finds_a_product():
    found = recovery.by_kanpde(recovery.Task("I.12.5", "kanpde", 20), recovery.samples("I.12.5"))
    assert recovery.is_fitted(found) and recovery.is_recovered(found)
    assert found["found"] in ("q2*Ef", "Ef*q2") and found["seconds"] < 20


def test_counts_are_of_the_equations_that_all_sides_have_done():
    rows = [row("I.12.5", "kanpde", 1e-8, 1e-12), row("I.12.5", "pykan", 1e-8), row("I.12.1", "kanpde", 1e-8, 1e-12)]
    text = recovery.report(rows)
    assert "on the 1 equations that kanpde and pykan have done" in text
    assert "kanpde: 1 fitted, 1 recovered" in text and "pykan: 1 fitted, 0 recovered" in text
    assert text.count("| I.12") == 3 and "some processor" in text


def test_limits_count_as_the_docstring_says():
    assert recovery.is_fitted(row("I.12.5", "kanpde", 9.9e-7)) and not recovery.is_fitted(row("I.12.5", "kanpde", 1e-6))
    assert recovery.is_recovered(row("I.12.5", "kanpde", error=1e-9))
    assert not recovery.is_recovered(row("I.12.5", "kanpde", error=1.1e-9))
    assert not recovery.is_fitted(row("I.12.5", "kanpde", float("nan")))


def test_rows_are_kept_in_the_order_of_the_equations(tmp_path):
    out = tmp_path / "recovery.md"
    recovery.study(out).add([row("II.3.24", "kanpde", found=""), row("I.12.5", "pykan"), row("I.12.5", "kanpde")])
    rows = recovery.study(out).rows()
    assert [(r["equation"], r["side"]) for r in rows] == [
        ("I.12.5", "kanpde"),
        ("I.12.5", "pykan"),
        ("II.3.24", "kanpde"),
    ]
    before = out.read_text()
    recovery.main(["--render", "--out", str(out)])
    assert out.read_text() == before
    recovery.main(["--equations", "I.12.5", "--out", str(out)])  # done: no process is started for it
    assert recovery.study(out).rows() == rows


def test_totals_are_of_each_side_and_of_what_both_have_done():
    ours = [row("I.12.5", "kanpde", 1e-9, 1e-12), row("II.3.24", "kanpde", 1e-9)]
    text = recovery.report([*ours, row("I.12.5", "pykan")])
    assert "- kanpde, 2 equations: 2 fitted, 1 recovered; 1.0 minutes" in text
    assert "- on the 1 equations" in text and "  - kanpde: 1 fitted, 1 recovered; 0.5 minutes" in text
    assert "  - pykan: 0 fitted, 0 recovered" in text


def test_a_foreign_csv_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match="not a table") as info:
        recovery.main(["--render", "--out", str(tmp_path / "t.md")])
    one_line(info)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--equations", "I.12.55"], "I.12.5"),
        (["--seconds", "0"], "above 0"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--sides", "pykan"], "--peer"),
    ],
)
def test_bad_words_are_named(words, complaint, tmp_path):
    with pytest.raises(ConfigError, match=complaint) as info:
        recovery.main([*words, "--out", str(tmp_path / "t.md")])
    one_line(info)
    assert not list(tmp_path.iterdir())


def test_all_equations_are_tried_by_default():
    assert (
        recovery.arguments([]).equations == list(equations("feynman")) and len(recovery.arguments([]).equations) == 100
    )


def test_long_formulas_are_cut_and_bars_do_not_end_a_cell():
    assert recovery.shortened("a|b") == "a\\|b"
    assert recovery.shortened("x" * 200).endswith(" ...") and len(recovery.shortened("x" * 200)) < 110
