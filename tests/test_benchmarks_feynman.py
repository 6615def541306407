"""The benchmark of Table 2: its structures are those printed, rows are kept, and below means below both numbers."""

import csv
from itertools import pairwise
from types import SimpleNamespace

import pytest
from conftest import one_line

from benchmarks.common import printed
from benchmarks.common.study import RESULTS
from benchmarks.formulas import feynman
from kanpde.ground.errors import ConfigError
from kanpde.problems.equations import equations


def row(equation="I.12.5", net="kan", grid=5, rmse=1e-3, printed_=2e-3, constant=1.0, sample=0, law="arcsine") -> dict:
    numbers = {"rmse": rmse, "constant": constant, "printed": printed_, "parameters": 54, "parameters_printed": 57}
    more = {"seed": 0, "kan_widths": "2-2-1", "seconds": 6.0, "machine": "some processor"}
    return {"equation": equation, "law": law, "sample": sample, "net": net, "grid": grid, **numbers, **more}


def test_narrower_structures_keep_their_ends_and_are_no_narrower_than_needed():
    assert feynman.narrowed((2, 2, 1), 33) == (2, 2, 1)
    for equation in equations("paper").values():
        widths = feynman.narrowed(equation.structure, 33)
        assert sum(a * b for a, b in pairwise(widths)) <= 33 and min(widths) >= 1
        assert (widths[0], widths[-1], len(widths)) == (equation.structure[0], 1, len(equation.structure))
    assert feynman.narrowed((4, 5, 5, 1), 49) == (4, 4, 5, 1)


@pytest.mark.parametrize(
    ("rmse", "constant", "is_beaten"), [(1e-3, 1.0, True), (3e-3, 1.0, False), (1e-3, 5e-4, False)]
)
def test_beaten_is_below_the_printed_number_and_the_constant(rmse, constant, is_beaten):
    assert feynman.beaten(row(rmse=rmse, constant=constant)) is is_beaten


def test_rows_are_kept_in_the_order_of_the_paper_and_rendered_again_alike(tmp_path):
    out = tmp_path / "t.md"
    rows = [row(grid=20), row(), row(net="metakan", rmse=1.0), row("I.6.20a"), row(net="metakan", grid=20)]
    feynman.study(out).add(rows)
    with out.with_suffix(".csv").open() as file:
        kept = [(line["equation"], line["net"], line["grid"]) for line in csv.DictReader(file)]
    assert kept[0] == ("I.6.20a", "kan", "5") and kept[1:3] == [("I.12.5", "kan", "5"), ("I.12.5", "metakan", "5")]
    text = out.read_text()
    assert "kan: below the printed number and the constant in 3 of 3 cells." in text
    assert "metakan: below the printed number and the constant in 1 of 2 cells. Not in I.12.5 at G = 5." in text
    feynman.main(["--render", "--out", str(out)])
    assert out.read_text() == text


def test_other_samples_have_a_table_of_their_own():
    rows = [row(), row("I.10.7", rmse=9e-3), *(row("I.10.7", rmse=e, sample=k) for k, e in ((1, 1e-3), (4, 3e-3)))]
    first, second = feynman.report(rows).split("### Other samples")
    assert "in 1 of 2 cells" in first and "I.12.5" not in second
    assert "| sample 0 | sample 1 | sample 4 | median |" in second
    assert "| I.10.7 | 5 | kan | 2.00e-03 | 9.00e-03 | 1.00e-03 | 3.00e-03 | 3.00e-03 (above) |" in second
    assert "Other samples" not in feynman.report(rows[:2])


def test_each_law_has_a_table_of_its_own():
    first, second = feynman.report([row(), row(law="volume", rmse=1.0)]).split("uniform at random\n")
    assert "arcsine law\n" in first and "1 of 1" in first and "0 of 1" in second


@pytest.mark.parametrize(("widths", "counts"), [((4, 3, 3, 1), [12, 6, 3]), ((6, 5, 5, 5, 1), [4, 3, 3])])
def test_starts_are_halved_by_their_validation_errors(widths, counts, monkeypatch):
    """Twelve starts of up to 30 edges, 12 * 30 // 85 = 4 of 85; in each round the best of the one before go on."""
    rounds, moved = {1: [], 2: [], 3: []}, set()

    def fit(self, net, widths, grid, *, steps, start=None, seed=0, update_grid=False, **phase):
        number = seed if start is None else start.number
        rounds[steps].append(number)
        moved.update({steps} if update_grid else {})
        score = abs(number - 2.2)
        config = {"phases": [{"update_grid": update_grid}]}
        return SimpleNamespace(
            number=number, history={"validation": [0.0 if update_grid else score, score]}, config=config
        )

    monkeypatch.setattr(feynman.Fits, "fit", fit)
    finalists = feynman.Fits("I.12.5", "volume", 0, 12, feynman.Steps((1, 2, 3)), "").kans(widths)
    assert [len(numbers) for numbers in rounds.values()] == counts
    assert rounds[2] == sorted(rounds[1], key=lambda k: abs(k - 2.2))[: counts[1]]
    assert [run.number for run in finalists] == rounds[3] == [2, 3, 1]
    assert moved == {2}, "grids move between the first round and the last"


@pytest.mark.parametrize(("law", "sequence"), [("arcsine", "sobol"), ("volume", "random")])
def test_the_law_is_that_of_the_training_points(law, sequence, tmp_path):
    (run,) = feynman.Fits("I.12.5", law, 0, 1, feynman.QUICK, tmp_path).kans((2, 2, 1))
    assert (run.config["points"]["law"], run.config["points"]["sequence"]) == (law, sequence)


def test_the_rows_of_an_equation_are_the_four_printed_cells():
    rows = feynman.fit_equation(("I.12.5", "arcsine", 3), 2, feynman.QUICK)
    assert {(r["law"], r["sample"]) for r in rows} == {("arcsine", 3)}
    cells = [(r["equation"], r["model"].lower(), r["grid"], r["mse_printed"]) for r in printed.rows(2)]
    assert {(r["equation"], r["net"], r["grid"], r["printed"]) for r in rows} == {c for c in cells if c[0] == "I.12.5"}
    sizes = {(r["net"], r["grid"]): r["parameters"] for r in rows}
    edges, learner = 6, lambda size: 2 * 32 + 33 * size
    assert sizes["kan", 5] == edges * 9 and sizes["kan", 20] == edges * 24
    assert sizes["metakan", 5] == edges + learner(9) and sizes["metakan", 20] == edges + learner(24)


def test_the_committed_table_is_what_its_rows_say():
    with (RESULTS / "feynman.csv").open() as file:
        assert feynman.report(list(csv.DictReader(file))) == (RESULTS / "feynman.md").read_text()


@pytest.mark.parametrize(
    "words", [["--equations", "I.12.55"], ["--seeds", "0"], ["--samples", "-1"], ["--jobs", "0"], ["--law", "arcsin"]]
)
def test_bad_words_are_named(words, tmp_path):
    with pytest.raises(ConfigError, match=words[1]) as info:
        feynman.main([*words, "--out", str(tmp_path / "t.md")])
    one_line(info)
    assert not list(tmp_path.iterdir())
