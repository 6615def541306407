"""The comparison with other packages: equal losses, times to an error, rows that are kept. Runs without the peers."""

import csv
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from benchmarks.common.study import exiting
from benchmarks.speed import peer_sides, peers
from kanpde import Ansatz
from kanpde.ground.errors import ConfigError
from kanpde.operators import Forward
from kanpde.problems import AllenCahn, Poisson

QUICK = ["--problems", "poisson", "--dims", "3", "--points", "10", "--steps", "2", "--repeats", "1"]


@pytest.fixture
def case():
    return peer_sides.Case(AllenCahn(3), points=10, steps=50)


def rows_of(settings: dict, **measured: dict) -> peers.Rows:
    rows = peers.Rows(None, settings)
    for side, row in measured.items():
        rows.add("poisson", 100, side.replace("_", "-"), **row)
    return rows


def test_finished_rows_are_kept(tmp_path, monkeypatch, capsys):
    out = tmp_path / "results" / "peers.md"
    argv = [*QUICK, "--sides", "kanpde-kan", "kanpde-metakan", "--out", str(out)]
    peers.main([*argv, "--minutes", "0"])
    assert "| kanpde-metakan |" in out.read_text()
    peers.main([*argv, "--minutes", "1"])
    rows = list(csv.DictReader(out.with_suffix(".csv").open()))
    assert [row["side"] for row in rows] == ["kanpde-kan", "kanpde-metakan"]
    assert all(row["steps_done"] == "2" and float(row["ms"]) > 0 and float(row["peak_MB"]) > 0 for row in rows)
    assert out.read_text() in capsys.readouterr().out

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(peers, "make", never)
    peers.main([*argv, "--minutes", "1"])
    with pytest.raises(ConfigError, match="other settings"):
        peers.main([*argv, "--points", "11"])


def test_training_stops_at_the_errors_or_when_the_time_is_over(case):
    side = peer_sides.kanpde(case, "kan")
    cut = peers.run_row(side, case, allowed=1e-9)
    assert cut["steps_done"] == 1 and cut["error"] > 1e-2 and not cut.keys() & peers.TARGETS.keys()
    side.predict = case.problem.exact
    reached = peers.run_row(side, case, allowed=60)
    assert reached["error"] == 0 and reached["steps_done"] <= peers.EVERY
    assert all(reached[name] == reached["seconds"] > 0 for name in peers.TARGETS)


def test_a_longer_time_is_used_where_a_target_was_missed(case, monkeypatch):
    allowed = []
    monkeypatch.setattr(peers, "run_row", lambda side, case, t: allowed.append(t) or {"error": 1.0, "seconds": t})
    rows = peers.Rows(None, {})
    for seconds in (2, 1, 3):
        peers.measure(rows, "allen_cahn", case, ["kanpde-kan"], 1, seconds)
    assert allowed == [2, 3]


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_sides_must_have_the_same_laplacian(case, monkeypatch, factor):
    def other(case, name):
        jet = lambda x: Forward()(Ansatz(case.problem, case.network(name)), x)
        loss = lambda x: case.residual(jet(x).value, factor * jet(x).lap, x).square().mean()
        return peer_sides.Side(case, loss, case.problem.exact, [([torch.zeros(1)], 1e-3)])

    monkeypatch.setitem(peer_sides.SOLVERS, "deepxde", other)
    case = replace(case, problem=AllenCahn(20))  # where a new network hardly shows beside the source
    with nullcontext() if factor == 1 else pytest.raises(AssertionError, match="deepxde-mlp: loss"):
        peers.check_losses(["deepxde-mlp"], case)


def test_report_bounds_what_was_not_reached():
    own = {"ms": 10, "peak_MB": 2, "s_to_1e-2": 5, "s_to_5e-3": 8, "error": 4e-3, "steps_done": 9, "seconds": 30}
    other = {"ms": 400, "peak_MB": 50, "s_to_1e-2": 150, "error": 8e-3, "steps_done": 7, "seconds": 160}
    text = peers.report(rows_of({"points": 10}, kanpde_kan=own, deepxde_kan=other))
    assert "| deepxde-kan | 400.0 | 40.0 | 50.0 | 25.0 | 150.0 | > 160.0 | > 160.0 | 0.008 | 7 |" in text
    assert "step 40.0 (wanted: 20); s to 1e-2 30.0; s to 5e-3 > 20.0; s to 3e-3 -" in text


@pytest.mark.parametrize(
    "argv, complaint",
    [
        (["--sides", "deepxde-kan"], "deepxde cannot be imported"),
        (["--sides", "pina-mlp"], "pina"),
        (["--sides", "pykan-kan"], "kan.utils cannot be imported"),
        (["--sides", "official-metakan"], "needs --official"),
        (["--official", "nowhere", "--sides", "official-metakan"], "is not there"),
        (["--steps", "0"], "at least 1"),
        (["--sides", "deepxde"], "invalid choice"),
    ],
)
def test_what_is_wrong_is_one_line(monkeypatch, capsys, argv, complaint):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("deepxde", "pina", "kan")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("deepxde", "pina", "kan"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit) as stop:
        exiting(lambda: peers.main([*QUICK, *argv]), "peers")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and complaint in error


def test_released_script_is_read_up_to_its_training(tmp_path):
    script = tmp_path / "solving_pde" / "Poisson.py"
    script.parent.mkdir()
    script.write_text("import sys\nclass PINN:\n    seen = sys.argv[1:]\n\nmodel = PINN()\nraise SystemExit('too far')")
    before = list(sys.argv), list(sys.path)
    pinn = peer_sides.released_pinn(tmp_path, Poisson(7))
    assert "--dim=7" in pinn.seen and (sys.argv, sys.path) == before


@pytest.mark.parametrize("side", [side for side in peer_sides.SIDES if side.startswith(("deepxde", "pina", "pykan"))])
def test_peers_train_as_kanpde_does(case, monkeypatch, side):
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    solver, name = side.split("-")
    for module in {"deepxde": ["deepxde"], "pina": ["pina"], "pykan": ["pandas", "kan"]}[solver]:
        pytest.importorskip(module)
    with torch.random.fork_rng():  # pykan sets the global seed
        other, own = peer_sides.make(side, case), peer_sides.kanpde(case, name)
        peers.check_losses([side], case)
    for steps in (0, 3):
        for _ in range(steps):
            other.step()
            own.step()
        if steps == 0 or solver != "pykan":  # which trains parameters of its own
            assert torch.allclose(other.predict(case.draw()), own.predict(case.draw()), rtol=1e-3, atol=1e-5)
