"""The benchmark of sharded inputs: its formulas against what is sent and held, its table, its plan."""

import pytest

from benchmarks.speed import sharded_inputs
from benchmarks.speed.sharded_inputs import Case, held, traffic
from kanpde.ground.errors import ConfigError


@pytest.mark.slow
def test_measured_is_by_formula_and_is_a_line_each(tmp_path, capsys):
    sharded_inputs.main(["--quick", "--out", str(tmp_path / "sharded_inputs.md")])
    text = (tmp_path / "sharded_inputs.md").read_text()
    assert text == capsys.readouterr().out and "not measured" in text
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| metakan | 9 | ")]
    assert [line[2:4] for line in lines] == [["1", "0"], ["2", "8"]]
    assert int(lines[1][4].replace(",", "")) == sum(traffic(Case("metakan", 9, 2, 4), 0))


def test_what_is_not_by_formula_ends_the_script(monkeypatch):
    case = Case("kan", 9, 2, 4)
    right = [([traffic(case, rank)], held(case, rank), 0) for rank in range(2)]
    monkeypatch.setattr(sharded_inputs, "measured", lambda *_: right)
    assert sharded_inputs.checked(case, 1) == right
    for wrong in (([[1, 2]], right[0][1], 0), (right[0][0], right[0][1] | {"points": 1}, 0)):
        monkeypatch.setattr(sharded_inputs, "measured", lambda *_, wrong=wrong: [wrong, right[1]])
        with pytest.raises(RuntimeError, match="by formula"):
            sharded_inputs.checked(case, 1)


def test_traffic_does_not_depend_on_d_and_what_is_held_adds_up():
    assert traffic(Case("kan", 100, 4, 4), 1) == traffic(Case("kan", 10**8, 4, 4), 1)
    whole, parts = held(Case("kan", 101, 1, 4), 0), [held(Case("kan", 101, 4, 4), rank) for rank in range(4)]
    for name in ("points", "first layer", "moments of it"):
        assert whole[name] == sum(part[name] for part in parts)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="--dims must be at least 8, given 7"):
        sharded_inputs.main(["--dims", "7"])
