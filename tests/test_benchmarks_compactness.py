"""The benchmark of compactness: a row and a panel for every network, and no run is made twice."""

import h5py
import pytest
import torch

from benchmarks.common import budget
from benchmarks.formulas import compactness
from kanpde.interpret import similarity
from kanpde.runs.models import Run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compactness")
    call = ["--quick", "--seeds", "0", "--runs", str(folder / "runs"), "--out", str(folder / "table.md")]
    threads = torch.get_num_threads()
    compactness.main(call)
    yield folder, call
    torch.set_num_threads(threads)


def cells(folder) -> dict[str, list[str]]:
    lines = [line for line in (folder / "table.md").read_text().splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])}


def test_a_row_for_every_network_with_what_its_run_says(done):
    folder, _ = done
    rows = cells(folder)
    assert list(rows) == [net.title for net in compactness.NETS.values()]
    for name, net in compactness.NETS.items():
        run = Run.open(folder / "runs" / f"{name}-0.h5")
        found = similarity.compactness(run.load_model().net)
        seed, parameters, rmse, _, rank, *_ = rows[net.title]
        assert (seed, parameters, rank) == ("0", f"{run.attrs['parameters']:,}", f"{found['effective_rank']:.2f}")
        assert float(rmse) == pytest.approx(run.attrs["rmse_best"], rel=1e-2)
    assert rows["KAN"][1] == "450"  # 50 edges of 9 weights


def test_after_two_steps_the_metakan_is_still_near_rank_one(done):
    folder, _ = done
    kan, meta = (Run.open(folder / "runs" / f"{name}-0.h5").load_model(best=False).net for name in ("kan", "meta"))
    ranks = [similarity.compactness(net)["effective_rank"] for net in (kan, meta)]
    assert ranks[0] > 2 * ranks[1]


def test_both_figures_are_drawn(done):
    folder, _ = done
    assert all((folder / "figures" / f"{name}.png").stat().st_size > 10_000 for name in ("figure9", "figure10"))


def test_finished_runs_stay_and_others_go_on(done, monkeypatch):
    folder, call = done
    before, stopped = (folder / "table.md").read_text(), Run.open(folder / "runs" / "kan-0.h5")
    monkeypatch.setattr(budget, "train", None)
    compactness.main(call)
    assert (folder / "table.md").read_text() == before
    status(stopped.path, "interrupted")
    gone_on = []
    monkeypatch.setattr(budget, "resume", lambda path, problem: (gone_on.append(path), Run.open(path))[1])
    with pytest.raises(SystemExit, match="130"):  # interrupted again
        compactness.main(call)
    assert gone_on == [stopped.path]
    monkeypatch.setattr(budget, "resume", lambda path, problem: (status(path, "finished"), Run.open(path))[1])
    compactness.main(call)
    assert (folder / "table.md").read_text() == before


def status(path, value: str) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["status"] = value
