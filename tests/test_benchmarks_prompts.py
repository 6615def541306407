"""The benchmark of prompts of low rank: cells, quick runs that are not run again, and the table of their rows."""

import csv

import pytest
from conftest import jobs_here, one_line

from benchmarks.accuracy import prompts
from benchmarks.common import study
from kanpde.ground.errors import ConfigError


def test_quick_runs_and_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "results", jobs_here)
    call = ["--quick", "--dims", "20", "--ranks", "2", "--backbones", "metakan", "mlp", "--starts", "network"]
    call += ["--out", str(tmp_path / "prompts.md")]
    prompts.main(call)
    text = (tmp_path / "prompts_quick.md").read_text()
    with (tmp_path / "prompts_quick.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["backbone"], row["rank"], row["parameters"]) for row in rows] == [
        ("metakan", "2", str(2 * (20 + 32) + 2 * 2 * (32 + 32) + 32 + 1417)),
        ("metakan", "free", "4137"),
        ("mlp", "", str(20 * 128 + 2 * 128**2 + 128 + 3 * 128 + 1)),
    ]
    assert all(0 < float(row["error"]) < 10 and row["from"] == "nan" and row["steps"] == "8" for row in rows)
    assert text.count("| poisson | 20 | network |") == 3 and "| metakan | free | wide |" in text
    monkeypatch.setattr(prompts, "measured", lambda cell: pytest.fail("measured again"))
    prompts.main(call)
    assert (tmp_path / "prompts_quick.md").read_text() == text


def test_steps_are_those_of_the_dimension_and_ranks_above_0(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(prompts.Study, "run", lambda self, work, tasks, jobs, say: seen.extend(tasks.values()))
    prompts.main(["--dims", "50", "1000", "20000", "--backbones", "kan", "--out", str(tmp_path / "p.md")])
    assert [cell.steps for cell in seen] == [prompts.STEPS[100], prompts.STEPS[1000], prompts.STEPS[1000]]
    with pytest.raises(ConfigError) as info:
        prompts.main(["--ranks", "0"])
    assert "--ranks must be at least 1" in one_line(info)
