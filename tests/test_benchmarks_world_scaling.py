"""The benchmark of several processes: what it counts, what it models, and its table."""

import pytest
import torch
import torch.distributed as dist

from benchmarks.speed import world_scaling
from kanpde.ground.errors import ConfigError


def test_messages_are_counted_and_left_alone_afterwards(monkeypatch):
    sent = []
    monkeypatch.setattr(dist, "all_reduce", lambda t, op=None: sent.append((t, op)))
    before = dist.all_reduce
    with world_scaling.counted() as traffic:
        dist.all_reduce(torch.zeros(5, dtype=torch.float64), op="max")
        dist.all_reduce(torch.zeros(3))
    assert traffic.sizes == [40, 12] and traffic.seconds >= 0 and dist.all_reduce is before
    assert [op for _, op in sent] == ["max", None]


def test_the_model_is_that_of_a_ring():
    assert world_scaling.modelled(world_scaling.BANDWIDTH, 0, gpus=2) == pytest.approx(1.0)
    assert world_scaling.modelled(0, 3, gpus=2) == pytest.approx(6 * world_scaling.LATENCY)


@pytest.mark.slow
def test_table_has_a_line_for_each_number_of_processes(tmp_path, capsys):
    world_scaling.main(["--quick", "--out", str(tmp_path / "world_scaling.md")])
    text = (tmp_path / "world_scaling.md").read_text()
    assert text == capsys.readouterr().out
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| mlp | 3 | ")]
    assert [line[2:5] for line in lines[:4]] == [
        ["weak", "1", "8"],
        ["weak", "2", "16"],
        ["strong", "1", "8"],
        ["strong", "2", "8"],
    ]
    alone, together = lines[0], lines[1]
    assert alone[9] == "0" and int(together[9].replace(",", "")) > 1000 and "not measured" in text


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="--points must be at least 4, given 1"):
        world_scaling.main(["--points", "1"])
