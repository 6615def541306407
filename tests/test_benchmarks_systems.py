"""Three fields beside one: the ways compute the same, and a small run ends in a table."""

import torch
from conftest import refused

from benchmarks.speed import systems


def test_three_problems_and_three_networks_are_the_same():
    for read in systems.READS:
        made = systems.sides("mlp", read, 5)
        apart, together = (made[side][1]() for side in ("three problems", "three on three networks"))
        assert torch.isclose(apart, together, rtol=1e-4)
        equations = made["three on one network"][0][0].problem.reading.equations
        assert equations == ("equation_1", "equation_2", "equation_3")


def test_a_small_run(capsys, tmp_path):
    systems.main(["--quick", "--out", str(tmp_path / "systems.md")])
    lines = (tmp_path / "systems.md").read_text().splitlines()
    assert sum(line.startswith("| mlp | ") for line in lines) == 4 * len(systems.READS)
    assert capsys.readouterr().out.splitlines() == lines


def test_a_bad_call():
    refused("benchmarks.systems", "--backbones", "nothing")
