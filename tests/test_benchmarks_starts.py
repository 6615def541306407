"""The benchmark of starts below d = 1000: a line for each pair, which is not run again."""

import pytest
from conftest import jobs_here, one_line

from benchmarks.accuracy import starts
from benchmarks.common import study
from kanpde.ground.errors import ConfigError


def test_quick_run_and_the_same_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    out = tmp_path / "starts.md"
    words = ["--quick", "--cases", "poisson-5", "hjb-10", "--backbones", "kan", "--out", str(out)]
    starts.main(words)
    assert "poisson-5-kan-0-8-ladder: " in capsys.readouterr().out
    text = out.read_text()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "| kan |" in line]
    assert [line[0] for line in lines] == ["poisson-5", "hjb-10"] and lines[0][8] == "better"
    starts.main(words)
    assert capsys.readouterr().out.strip() == str(out) and out.read_text() == text


@pytest.mark.parametrize("case", starts.CASES)
def test_every_case_is_a_problem(case):
    assert starts.problem_of(case).dim == int(case.rsplit("-", 1)[1])


@pytest.mark.parametrize("ladder, says", [(0.5, "better"), (0.9, "even"), (1.2, "even"), (2.0, "worse")])
def test_what_a_ratio_says(ladder, says):
    row = lambda error: {name: "0" for name in starts.COLUMNS} | {"error": str(error)}
    assert starts.line(row(1.0), row(ladder))[8] == says


def test_bad_input_is_one_line():
    with pytest.raises(ConfigError, match="--steps must be at least 1, given 0") as info:
        starts.main(["--steps", "0"])
    one_line(info)
