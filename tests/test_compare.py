"""A row per run, and tables that read back."""

import csv
import io

import numpy as np
import pytest

from kanpde import Run
from kanpde.records.compare import COLUMNS, rich_table, summary, table


def finished(path, rel_l2: float = 0.00330123) -> Run:
    run = Run(path)
    run.attrs |= {
        "problem": "allen_cahn",
        "dim": 100,
        "backbone": "metakan",
        "parameters": 1234567,
        "seed": 12345,
        "status": "finished",
        "rel_l2_best": rel_l2,
    }
    run.log({"step": 0, "rel_l2": 1.0, "wall_s": 0.5, "peak_memory_bytes": 1e8})
    run.log({"step": 20000, "rel_l2": 0.004, "wall_s": 12345.6, "peak_memory_bytes": 250 * 2**20})
    run.floors["constant"] = 0.066
    run.save()
    return Run.open(path)


def parsed(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text)))


def test_summary_of_a_finished_run(tmp_path):
    row = summary(finished(tmp_path / "a.h5"))
    assert tuple(row) == COLUMNS
    assert row == {
        "file": str(tmp_path / "a.h5"),
        "problem": "allen_cahn",
        "dim": 100,
        "backbone": "metakan",
        "parameters": 1234567,
        "steps": 20000,
        "rel_l2": 0.00330123,
        "estimated": None,
        "skill": pytest.approx(0.00330123 / 0.066),
        "time_s": 12345.6,
        "peak_memory_mb": pytest.approx(250.0),
        "seed": 12345,
        "status": "finished",
    }


def test_summary_of_an_empty_run_has_nothing_but_its_name(tmp_path):
    row = summary(Run(tmp_path / "a.h5"))
    assert row.pop("file") == str(tmp_path / "a.h5") and set(row.values()) == {None}


def test_without_exact_solution_error_and_skill_are_missing(tmp_path):
    run = finished(tmp_path / "a.h5", rel_l2=float("nan"))
    row = summary(run)
    assert row["rel_l2"] is None and row["skill"] is None and row["steps"] == 20000
    run.set_verification({"rel_l2": 0.0132})
    assert summary(run)["estimated"] == 0.0132 and summary(run)["skill"] == 0.0132 / run.floors["constant"]


@pytest.mark.parametrize("floor", [0.0, float("nan"), None])
def test_without_floor_there_is_no_skill(tmp_path, floor):
    run = finished(tmp_path / "a.h5")
    run.floors = {} if floor is None else {"constant": floor}
    assert summary(run)["skill"] is None and summary(run)["rel_l2"] == 0.00330123


def test_csv_reads_back_in_the_given_order(tmp_path):
    rows = [summary(finished(tmp_path / name)) for name in ("b, with comma.h5", "a.h5")]
    back = parsed(table(rows, "csv"))
    assert [line["file"] for line in back] == [str(tmp_path / "b, with comma.h5"), str(tmp_path / "a.h5")]
    assert tuple(back[0]) == COLUMNS
    assert back[0]["rel_l2"] == "0.0033" and back[0]["skill"] == "0.05" and back[0]["time_s"] == "12300"
    assert (back[0]["parameters"], back[0]["seed"], back[0]["steps"]) == ("1234567", "12345", "20000")


@pytest.mark.parametrize(
    "value, text",
    [
        (1.23456e-5, "1.23e-05"),
        (0.123456, "0.123"),
        (2.0, "2"),
        (98765.4, "98800"),
        (np.float32(0.5), "0.5"),
        (None, ""),
        (float("nan"), ""),
        (7, "7"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert parsed(table([{"file": "a", "rel_l2": value}], "csv"))[0]["rel_l2"] == text


def test_markdown_is_a_table(tmp_path):
    rows = [summary(finished(tmp_path / "a|b.h5")), summary(Run(tmp_path / "c.h5"))]
    head, rule, first, second = table(rows, "markdown").splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == list(COLUMNS)
    assert set(rule) == set("|:- ") and rule.count("|") == len(COLUMNS) + 1
    assert r"a\|b.h5" in first and first.replace(r"\|", "").count("|") == len(COLUMNS) + 1
    assert second.count("|") == len(COLUMNS) + 1 and "None" not in second and "nan" not in second


def test_no_rows_give_the_heading_only():
    assert table([], "csv").splitlines() == [",".join(COLUMNS)]
    assert len(table([], "markdown").splitlines()) == 2
    assert rich_table([]).row_count == 0


def test_unknown_format_is_named():
    with pytest.raises(ValueError, match="'html' is not one of markdown, csv"):
        table([], "html")


def rendered(rows, width: int) -> str:
    console = pytest.importorskip("rich.console").Console(width=width, file=io.StringIO())
    console.print(rich_table(rows))
    return console.file.getvalue()


def test_rich_table_has_what_the_rows_share_in_its_title(tmp_path):
    good, bad = summary(finished(tmp_path / "a.h5")), summary(finished(tmp_path / "b.h5", rel_l2=1.0))
    text = rendered([good | {"file": "a.h5"}, bad | {"file": "[b].h5", "seed": 77}], 80)
    title, _, rest = text.partition("\n")
    assert "problem allen_cahn, dim 100, backbone metakan, status finished" in title and "seed" not in title
    for cell in ("a.h5", "[b].h5", "0.0033", "15.2", "12345", "77"):
        assert cell in rest, cell
    assert "metakan" not in rest


def test_rich_table_folds_names_before_numbers(tmp_path):
    row = summary(finished(tmp_path / "a.h5"))
    other = {"problem": "heat", "dim": 10, "backbone": "mlp", "seed": 77, "status": "failed"}
    text = rendered([row | {"file": 30 * "a"}, row | other], 80)
    for cell in ("100", "1234567", "20000", "0.0033", "0.05", "12300", "250", "12345", "77"):
        assert cell in text, cell
