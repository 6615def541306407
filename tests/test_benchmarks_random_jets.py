"""The benchmark of the bilaplacian in many dimensions: its table, and which sides there are."""

import pytest
from conftest import one_line

from benchmarks.speed import random_jets
from kanpde.ground.errors import ConfigError


def test_quick_run(tmp_path, capsys):
    random_jets.main(["--quick", "--out", str(tmp_path / "random_jets.md")])
    text = (tmp_path / "random_jets.md").read_text()
    assert capsys.readouterr().out == text
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if line.startswith("| 8 ")]
    assert [row[0] for row in rows] == ["exact", *random_jets.ESTIMATORS]
    assert rows[0][2] == rows[0][4] == "1" and all(float(row[5]) > 0 for row in rows[1:])


def test_the_exact_side_ends_where_a_step_takes_too_long():
    assert set(random_jets.sides(101)[2]) == set(random_jets.ESTIMATORS)


def test_dimensions_that_cannot_be_sampled_are_refused():
    with pytest.raises(ConfigError, match="--dims must be at least 8, given 7") as info:
        random_jets.main(["--dims", "7"])
    one_line(info)
