"""The peak memory benchmark: it counts what is allocated, and a MetaKAN layer stays below a KAN layer."""

import csv
import sys

import pytest
import torch

from benchmarks.speed import memory

CPU = torch.device("cpu")


def test_peak_is_what_is_alive_at_a_time():
    def step():
        a = torch.zeros(10**6)
        b = torch.zeros(2 * 10**6)
        del a
        c = torch.zeros(5 * 10**5)
        del b, c

    assert memory.peak_bytes(step, 1000, CPU) == pytest.approx(1000 + 12e6, rel=1e-3)


@pytest.mark.parametrize("hidden", memory.HIDDEN)
@pytest.mark.parametrize("width, grid", [(64, 5), (128, 20)])
def test_metakan_needs_less_than_kan(width, grid, hidden):
    kan, meta = memory.measure("kan", width, grid, 0, CPU), memory.measure("metakan", width, grid, hidden, CPU)
    assert meta["peak_bytes"] < kan["peak_bytes"]
    assert kan["peak_bytes"] > 4 * 4 * kan["parameters"]  # parameters, gradients, two averages
    assert kan["connections"] == meta["connections"] == width**2


def test_command_writes_a_table_and_a_csv(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "WIDTHS", (8, 12))
    monkeypatch.setattr(memory, "GRIDS", (3, 4))
    monkeypatch.setattr(sys, "argv", ["memory", "--quick", "--out", str(tmp_path)])
    memory.main()
    rows = list(csv.DictReader((tmp_path / "memory.csv").open()))
    assert len(rows) == 2 * 2 * 4 and {r["model"] for r in rows} == {"kan", "metakan"}
    text = (tmp_path / "memory.md").read_text()
    assert text in capsys.readouterr().out and text.count("\n| 8 |") == 2
