"""Sweeps: what is stated, checked before the first run, worked off and gone on with; their tables, pictures; tune."""

import csv
import io
import os
import signal
import socket
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import one_line
from rich.console import Console
from test_solve import call

from kanpde import Run, cli, solve
from kanpde.config import dump, load
from kanpde.ground.errors import ConfigError
from kanpde.plot.sweep import learning_curves
from kanpde.records.run import RunFileError
from kanpde.records.sweep import Sweep, spread
from kanpde.sweeps import engines, grid, running, shown
from kanpde.sweeps.grid import Base
from kanpde.sweeps.values import keyed, listed
from kanpde.training import known
from kanpde.training.plan import Plan

TINY = ["points.interior=10", "points.test=300", "points.validation=50", "evaluation.every=2", "slices.points=5"]
TINY = [word for each in [*TINY, "slices.volume=0", "verify=false", "backbone.widths=[4]"] for word in ("--set", each)]
STEPS = ["--solver", "adam", "--steps", 2]
MINE = """
from dataclasses import dataclass
import kanpde
from kanpde.domains import Ball

@dataclass(frozen=True)
class Mine(kanpde.Problem):
    @property
    def domain(self):
        return Ball(self.dim)

    def exact(self, x):
        raise RuntimeError("the solution is read")

    def residual(self, u, x):
        return u.lap + 1.0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, no_pictures):
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Here(engines.Engine):
    """Runs cells in this very process; `events` may hold what happens instead at a cell's turn."""

    threads = 1
    events: dict = {}  # noqa: RUF012  of a test: name of a cell to exceptions or codes, one for each turn

    def __init__(self, cells, jobs=None):
        self.jobs = jobs or 1
        self.stopped, self.done = [], []

    def __str__(self):
        return "here"

    def start(self, cell):
        self.done.append((cell.name, cell.command()[2]))
        turns = self.events.get(cell.name, [])
        what = turns.pop(0) if turns else None
        if what is None or isinstance(what, str):
            argv, sys.argv = sys.argv, ["kanpde", *cell.command()[2:]]
            try:
                solve.main()
            except SystemExit as end:
                what = end.code or 0
            finally:
                sys.argv = argv
        return cell.name, what

    def code(self, handle):
        if isinstance(handle[1], BaseException):
            raise handle[1]
        return handle[1]

    def stop(self, handles):
        self.stopped += [name for name, _ in handles]


@pytest.fixture
def here(monkeypatch):
    """Cells run in this process; the engines that commands have made, in their order."""
    made = []

    def local(cells, jobs=None):
        made.append(Here(cells, jobs))
        return made[-1]

    monkeypatch.setattr(engines, "Local", local)
    monkeypatch.setattr(running, "PAUSE", 0)
    monkeypatch.setattr(Here, "events", {})
    return made


def sweep(capsys, *over, out="out", problem="allen_cahn", more=()):
    return call(capsys, cli.main, "sweep", problem, "--over", *over, "--out", out, *STEPS, *TINY, *more)


# ---------------------------------------------------------------------------------------------------------------
# What is stated


@pytest.mark.parametrize(
    "text, values",
    [
        ("20,50,100", [20, 50, 100]),
        ("0..4", [0, 1, 2, 3, 4]),
        ("-1..1,7", [-1, 0, 1, 7]),
        ("3..3", [3]),
        ("kan,metakan", ["kan", "metakan"]),
        ("{name: kan, widths: [8]},metakan", [{"name": "kan", "widths": [8]}, "metakan"]),
        ("[8],[8,8]", [[8], [8, 8]]),
        ("1e-3,null,true,0.5", [1e-3, None, True, 0.5]),
        ("net.py:Mine", ["net.py:Mine"]),
    ],
)
def test_values_are_yaml_with_commas_and_ranges(text, values):
    assert listed("k", text) == values


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "an empty list"),
        ("5..1", "a range goes up"),
        ("0..99999999999", "a range goes up, by at most 10,000"),
        ("1,2,1", "'1' stands twice"),
        ("1,,2", "not valid YAML"),
        ("{a: 1", "not valid YAML"),
        ("1],[2", "not valid YAML"),
    ],
)
def test_what_are_no_values_is_said_in_a_line(text, said):
    with pytest.raises(ConfigError) as info:
        listed("k", text)
    assert said in one_line(info) and "k" in str(info.value)


def test_words_behind_an_option_are_its_own_in_any_order(folder):
    for words, over in (
        (["allen_cahn", "seed=0..1", "problem.dim=2"], ["a=1"]),
        (["seed=0..1", "problem.dim=2", "allen_cahn"], ["a=1"]),
    ):
        assert cli._problem_and_over(words, over) == ("allen_cahn", ["a=1", "seed=0..1", "problem.dim=2"])
    Path("a=b.yaml").write_text("{}")
    assert cli._problem_and_over(["a=b.yaml", "seed=1"], None) == ("a=b.yaml", ["seed=1"])
    for words in (["seed=1"], ["one", "two", "seed=1"]):
        with pytest.raises(ConfigError, match="needed is one problem"):
            cli._problem_and_over(words, None)
    for words, said in ((["seed"], "needed is KEY=VALUES"), (["=1"], "needed is KEY"), (["a=1", "a=2"], "given twice")):
        with pytest.raises(ConfigError, match=said):
            keyed(words)


def test_a_file_has_lists_and_the_command_line_others(folder, capsys):
    Path("p.yaml").write_text("problem: {name: allen_cahn, dim: 3}\nsweep: {seed: 0..2, backbone: [kan, metakan]}\n")
    assert grid.stated("p.yaml", ["seed=5", "problem.dim=2,3"]) == {
        "seed": [5],
        "backbone": ["kan", "metakan"],
        "problem.dim": [2, 3],
    }
    assert load("p.yaml").problem["dim"] == 3  # a single run reads all but the sweep
    for given, said in (
        ("{seed: []}", "an empty list"),
        ("{seed: 3}", "needed is a list"),
        ("[1]", "a mapping of lists"),
    ):
        Path("p.yaml").write_text(f"problem: {{name: allen_cahn, dim: 3}}\nsweep: {given}\n")
        with pytest.raises(ConfigError) as info:
            grid.stated("p.yaml", [])
        assert said in one_line(info)
    with pytest.raises(ConfigError, match="nothing varies"):
        grid.stated("allen_cahn", [])


def test_names_of_cells_are_readable_and_never_the_same():
    named = lambda over: list(grid.named({key: listed(key, text) for key, text in over.items()}))
    assert named({"problem.dim": "2,3", "backbone": "kan", "seed": "0"}) == ["dim2-kan-seed0", "dim3-kan-seed0"]
    assert named({"phases.0.lr": "1e-3", "phases.1.lr": "0.1"}) == ["phases.0.lr0.001-phases.1.lr0.1"]
    (name,) = named({"backbone": "{name: kan, widths: [8]}"})
    assert name.startswith("backbone-name-kan-widths-8-")
    assert len(set(named({"backbone.widths": "[1,2],[12],['1,2']"}))) == 3
    with pytest.raises(ConfigError, match="one name"):
        named({"a.k": "x,y", "b.k": "x-y,'y'", "c": "z,y-z"} | {"a.k": "x,x-y", "b.k": "y-y,y"})


def test_options_come_after_the_backbone_that_they_are_of_and_solvers_and_steps_vary_too():
    base = Base("allen_cahn")
    config = base.config({"backbone.widths": [4], "backbone": "kan", "solver": "adam", "steps": 7, "problem.dim": 3})
    assert (config.backbone["name"], config.backbone["widths"], config.steps) == ("kan", [4], 7)
    assert config.phases[0].optimizer == "adam"
    words = base.words({"backbone.widths": [4], "backbone": "kan", "solver": "adam", "steps": 7})
    assert words[:5] == ["allen_cahn", "--solver", "adam", "--steps", "7"]
    assert words[5:] == ["--set", "backbone=kan", "--set", "backbone.widths=[4]"]


# ---------------------------------------------------------------------------------------------------------------
# Checked before the first run


@pytest.mark.parametrize(
    "over, said",
    [
        (["problem.dim=3,0"], "cell dim0: problem.dim: given 0"),
        (["problem.dims=3"], "did you mean dim?"),
        (["sead=0..1"], "did you mean seed?"),
        (["seed=0,-1"], "cell seed-1: seed: given -1"),
        (["backbone=kan,kann", "seed=0..1"], "did you mean kan?"),
        (["phases.0.lr=1e-3,fast"], "cell fast: phases.0.lr"),
        (["solver=adam,soup"], "unknown solver 'soup'"),
        (["steps=2,0"], "steps: given 0"),
        (["seed=0..100"], "the grid has 101 cells (101); --yes begins more than 100"),
        (["seed=0..9999", "problem.dim=2,3"], "at most 10,000"),
    ],
)
def test_one_bad_cell_ends_all_before_the_first_begins(folder, capsys, here, over, said):
    code, out, err = sweep(capsys, *over)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    assert not Path("out").exists() and not here


def test_a_large_grid_is_begun_when_asked_twice(folder, capsys, here, monkeypatch):
    monkeypatch.setattr(grid, "UNASKED", 1)
    assert sweep(capsys, "seed=0..1")[0] == 2
    code, out, _ = sweep(capsys, "seed=0..1", more=["--yes", "--dry-run"])
    assert code == 0 and "seed1" in out and "MB" in out and not Path("out").exists()


# ---------------------------------------------------------------------------------------------------------------
# Worked off


def test_a_sweep_is_ordinary_runs_which_are_left_and_extended(folder, capsys, here):
    code, out, err = sweep(capsys, "backbone=kan,metakan", "seed=0..1")
    assert code == 0, err
    names = ["kan-seed0", "kan-seed1", "metakan-seed0", "metakan-seed1"]
    assert [name for name, _ in here[0].done] == names and "4 finished" in out
    assert sorted(p.stem for p in Path("out").glob("*.h5")) == names and Path("out/kan-seed0.pt").is_file()
    run = Run.open("out/metakan-seed1.h5")
    assert (run.attrs["seed"], run.attrs["backbone"], run.attrs["steps"]) == (1, "metakan", 2)
    stated = yaml.safe_load(Path("out/sweep.yaml").read_text())
    assert stated["over"] == {"backbone": ["kan", "metakan"], "seed": [0, 1]} and list(stated["cells"]) == names
    before = {p: p.stat().st_mtime_ns for p in Path("out").glob("*.h5")}
    assert sweep(capsys, "seed=0..1", "backbone=kan,metakan")[0] == 0 and here[1].done == []  # keys in any order
    assert sweep(capsys, "backbone=kan,metakan", "seed=0..2")[0] == 0
    assert [name for name, _ in here[2].done] == ["kan-seed2", "metakan-seed2"]
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in before.items())


def test_another_sweep_or_other_runs_in_the_folder_are_refused(folder, capsys, here):
    assert sweep(capsys, "seed=0..1")[0] == 0
    for over, more, said in (
        (["seed=0"], [], "its sweep has seed1, this one has not"),
        (["problem.dim=2"], [], "its sweep has seed0 and 1 more"),
        (["seed=0..1"], ["--set", "points.interior=11"], "a sweep with set"),
    ):
        code, _, err = sweep(capsys, *over, more=more)
        assert code == 2 and said in err and err.count("\n") == 1
    Path("out/sweep.yaml").unlink()  # the runs themselves are compared, too
    code, _, err = sweep(capsys, "seed=0..1", more=["--set", "points.interior=11"])
    assert code == 2 and "points.interior: given 11, the run has 10" in err
    Path("out/sweep.yaml").write_text("cells: 3\n")
    code, _, err = sweep(capsys, "seed=0..1")
    assert code == 2 and "a damaged sweep.yaml" in err


def test_a_cell_that_fails_is_tried_once_more_from_its_checkpoint_and_shown(folder, capsys, here):
    code, out, _ = sweep(capsys, "phases.0.lr=1e-3,1e+30", more=["--set", "evaluation.every=1", "--steps", 24])
    assert code == 1 and [word for name, word in here[0].done if name == "lr1e+30"] == ["allen_cahn", "--resume"]
    assert "1 finished, 1 failed" in out and "lr1e+30 failed: " in out
    code, out, _ = sweep(capsys, "phases.0.lr=1e-3,1e+30", more=["--set", "evaluation.every=1", "--steps", 24])
    assert code == 1 and [name for name, _ in here[1].done] == ["lr1e+30"] * 2
    here.clear()
    Here.events["seed0"] = [-signal.SIGKILL]
    code, out, _ = sweep(capsys, "seed=0..1", out="other")
    assert code == 0 and "seed0 failed: killed by SIGKILL" in out
    assert [name for name, _ in here[0].done] == ["seed0", "seed1", "seed0"]


def test_ctrl_c_is_passed_on_and_the_same_command_goes_on(folder, capsys, here):
    Here.events["seed1"] = [KeyboardInterrupt()]
    code, out, _ = sweep(capsys, "seed=0..2")
    assert code == 130 and here[0].stopped == ["seed1"] and "the same command goes on" in out
    assert "1 finished, 1 waiting, 1 interrupted" in out and not Path("out/.sweep.yaml.lock").exists()
    code, out, _ = sweep(capsys, "seed=0..2")
    assert code == 0 and [name for name, _ in here[1].done] == ["seed1", "seed2"] and "1 of them finished" in out


def test_the_folder_may_be_no_file(folder, capsys, here):
    Path("out").write_text("")
    for command in (lambda: sweep(capsys, "seed=0..1"), lambda: tune(capsys, RATES)):
        code, _, err = command()
        assert code == 2 and "a file; needed is a folder" in err
    assert Path("out").read_text() == ""


def test_on_a_terminal_there_is_one_table(tmp_path):
    cells = [grid.Cell(f"c{n:02}", tmp_path / f"c{n}.h5", [], 20, 1, False) for n in range(30)]
    cells[29].state, cells[29].reason = "failed", "step 3: the loss is nan"
    cells[28].begin()
    cells[28].row = {"step": 10.0, "loss": 0.5, "rel_l2": float("nan"), "wall_s": 61.0, "steps_per_s": 0.1}
    screen = io.StringIO()
    with shown.Shown(Console(file=screen, force_terminal=True, width=100, height=20), cells) as tell:
        tell(None)
    text = screen.getvalue()
    assert "10/20" in text and "5.00e-01" in text and "1:01" in text and "1:40" in text and "nan" in text
    assert "1 running" in text and "28 waiting" in text and "18 more cells" in text and "c28" in text
    plain = Console(file=io.StringIO(), width=100)
    with shown.Shown(plain, cells) as tell:
        tell(None)
        tell(cells[29])
    assert plain.file.getvalue() == "c29 failed: step 3: the loss is nan (0 of 30)\n"


def test_two_commands_never_work_in_one_folder(folder, capsys, here):
    with running.held(Path("out")):
        code, _, err = sweep(capsys, "seed=0..1")
    assert code == 2 and f"process {os.getpid()} on" in err and "is writing it" in err and not here[0].done
    Path("out/.sweep.yaml.lock").write_text("process 1 on a machine that was switched off")  # and nobody holds it
    assert sweep(capsys, "seed=0..1")[0] == 0


# ---------------------------------------------------------------------------------------------------------------
# Processes


def ended(engine, handle):
    while engine.code(handle) is None:
        time.sleep(0.02)
    return engine.code(handle)


def test_threads_and_memory_are_divided_and_ours_are_left(tmp_path, monkeypatch):
    threads, before = torch.get_num_threads(), dict(os.environ)
    cell = lambda n, gpu=False: grid.Cell(f"c{n}", tmp_path / f"c{n}.h5", [], 1, 10**9, gpu)
    cells = [cell(n) for n in range(6)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(engines, "available_bytes", lambda: float("inf"))
    shape = lambda engine: (engine.jobs, engine.threads)
    assert shape(engines.Local(cells)) == (6, 1) and shape(engines.Local(cells[:2])) == (2, 4)
    assert shape(engines.Local(cells, jobs=3)) == (3, 2) and shape(engines.Local([])) == (1, 8)
    assert shape(engines.Local([cell(9, gpu=True), *cells])) == (1, 8)
    monkeypatch.setattr(engines, "available_bytes", lambda: 3.5e9)
    assert shape(engines.Local(cells)) == (3, 2)
    monkeypatch.setattr(engines, "available_bytes", lambda: 1e6)
    assert shape(engines.Local(cells)) == (1, 8)
    words = ["-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    monkeypatch.setattr(grid.Cell, "command", lambda _: words)
    engine = engines.Local(cells, jobs=2)
    assert ended(engine, engine.start(cells[0])) == 0
    assert cells[0].log.read_text().splitlines()[-1] == "4"
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, before)


def test_ctrl_c_reaches_the_processes_and_is_waited_for(tmp_path, monkeypatch):
    # with a handler of its own, as a run has: what a shell starts in the background begins with SIGINT ignored
    text = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    text += "try:\n print('up', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('stored')"
    monkeypatch.setattr(grid.Cell, "command", lambda _: ["-c", text])
    cells = [grid.Cell(f"c{n}", tmp_path / f"c{n}.h5", [], 1, 1, False) for n in range(2)]
    engine = engines.Local(cells, jobs=2)
    handles = [engine.start(cell) for cell in cells]
    while not all("up\n" in cell.log.read_text() for cell in cells):
        time.sleep(0.02)
    engine.stop(handles)
    assert [engine.code(handle) for handle in handles] == [0, 0]
    assert all(cell.log.read_text().endswith("stored\n") for cell in cells)


@pytest.mark.slow
def test_a_sweep_in_processes_of_its_own(folder, capsys):
    code, out, err = sweep(capsys, "seed=0", more=["--jobs", 1])
    assert code == 0 and "seed0 finished: step 2/2" in out, err
    assert "python -m kanpde.solve" in Path("out/seed0.log").read_text()


@pytest.mark.slow
def test_a_sweep_on_ray_goes_on_where_it_was_broken_off(folder, capsys):
    pytest.importorskip("ray")
    code, out, err = sweep(capsys, "seed=0..1", more=["--engine", "ray"])
    assert code == 0 and "of Ray" in out and "2 finished" in out, err
    code, out, _ = sweep(capsys, "seed=0..2", more=["--engine", "ray"])
    assert code == 0 and "2 of them finished" in out and "3 finished" in out


@pytest.mark.slow
def test_a_program_that_a_task_of_ray_has_started_gets_ctrl_c(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    # with a handler of its own, as a run has: what a shell starts in the background begins with SIGINT ignored
    text = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    text += "try:\n print('up', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n print('stored')"
    monkeypatch.setattr(grid.Cell, "command", lambda _: ["-c", text])
    cell = grid.Cell("c", tmp_path / "c.h5", [], 1, 1, False)
    engine = engines.Cluster([cell])
    try:
        handle = engine.start(cell)
        while not cell.log.exists() or "up\n" not in cell.log.read_text():
            time.sleep(0.1)
        engine.stop([handle])
    finally:
        engine.close()
    assert cell.log.read_text().endswith("stored\n")


def test_a_cluster_that_has_ended_without_saying_so_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert engines._answering(None) is None and engines._answering("auto") == "auto"
    recorded = tmp_path / "ray" / "ray_current_cluster"
    recorded.parent.mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        recorded.write_text(f"127.0.0.1:{taken.getsockname()[1]}")
        assert engines._answering(None) == "local"
        for asked in ("auto", recorded.read_text()):
            with pytest.raises(OSError, match="there is no cluster at 127"):
                engines._answering(asked)
        taken.listen()
        assert engines._answering(None) is None and engines._answering(recorded.read_text()) == recorded.read_text()


def test_a_cluster_that_is_not_there_is_a_line(folder, capsys, monkeypatch):
    code, _, err = sweep(capsys, "seed=0..1", more=["--address", "auto"])
    assert code == 2 and "say --engine ray" in err
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = sweep(capsys, "seed=0..1", more=["--engine", "ray"])
    assert code == 2 and "pip install 'kanpde[scale]'" in err and not Path("out").exists()
    monkeypatch.undo()


# ---------------------------------------------------------------------------------------------------------------
# Over the seeds


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep whose runs are written by hand: error 2^-dim 10^-seed at the end, of one that has failed none."""
    folder = tmp_path_factory.mktemp("done")
    cells = grid.named({"problem.dim": [2, 3], "backbone": ["kan", "metakan"], "seed": [0, 1, 2]})
    sweep = Sweep(
        folder,
        {"problem": "allen_cahn"},
        {"problem.dim": [2, 3], "backbone": ["kan", "metakan"], "seed": [0, 1, 2]},
        cells,
    )
    sweep.save()
    for name, values in cells.items():
        run = Run(sweep.path(name))
        error = 2.0 ** -values["problem.dim"] * 10.0 ** -values["seed"]
        failed = name == "dim3-metakan-seed2"
        run.attrs = {
            "status": "failed" if failed else "finished",
            "rel_l2_best": error,
            "parameters": 7,
            "validation_best": 1.0,
        }
        for step in (0, 10, 20):
            seconds = step * (1 + values["seed"]) + 0.5
            run.log({"step": step, "loss": 1.0, "rel_l2": error * 2 ** (2 - step / 10), "wall_s": seconds})
        run.save()
    return sweep


def test_tables_have_mean_and_sample_deviation_over_the_seeds(done, capsys):
    code, out, _ = call(capsys, cli.main, "compare", done.folder, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [(r["problem.dim"], r["backbone"], r["runs"]) for r in rows] == [
        ("2", "kan", "3 of 3"),
        ("2", "metakan", "3 of 3"),
        ("3", "kan", "3 of 3"),
        ("3", "metakan", "2 of 3"),
    ]
    errors = [2.0**-2 * 10.0**-seed for seed in range(3)]
    assert float(rows[0]["rel_l2"]) == pytest.approx(statistics.mean(errors), rel=1e-5)
    assert float(rows[0]["rel_l2_std"]) == pytest.approx(statistics.stdev(errors), rel=1e-5)
    code, out, _ = call(capsys, cli.main, "compare", done.folder, "--format", "markdown")
    assert code == 0 and "| 2 | kan | 3 of 3 | 0.0925 ± 0.14 |" in out
    code, out, _ = call(capsys, cli.main, "compare", done.folder)
    assert code == 0 and "metakan" in out and "±" in out
    assert np.isnan(spread([])).all() and np.isnan(spread([1.0])[1]) and spread([1.0, float("nan"), 3.0])[0] == 2
    for command in ("compare", "plot"):
        code, _, err = call(capsys, cli.main, command, done.folder.parent)
        assert code == 2 and "a folder without sweep.yaml" in err


def test_curves_are_means_of_logarithms_with_bands_over_the_seeds(done, capsys, tmp_path):
    figure = learning_curves(done)
    assert len(figure.axes) == 4 and figure.axes[0].get_yscale() == "log"
    assert [ax.get_title(loc="left") for ax in figure.axes[::2]] == ["dim = 2", "dim = 3"]
    assert figure.axes[0].get_ylabel() and [ax.get_xlabel() for ax in figure.axes[2:]] == ["step", "time (s)"]
    kan, metakan = figure.axes[0].lines
    assert kan.get_label() == "kan" and kan.get_color() != metakan.get_color()
    assert np.allclose(kan.get_xdata(), [0, 10, 20]) and np.allclose(kan.get_ydata(), np.array([4, 2, 1]) * 2**-2 / 10)
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(band.max(), 4 * 2**-2) and np.isclose(band.min(), 2**-2 / 100)  # 10 to the power of 1 apart
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["kan", "metakan"]
    assert "11 of 12 runs" in figure.get_suptitle()
    code, out, _ = call(capsys, cli.main, "plot", done.folder, "--folder", tmp_path)
    assert code == 0 and out.split() == [str(tmp_path / "sweep.png")] and (tmp_path / "sweep.png").stat().st_size > 1000


def test_a_sweep_of_which_nothing_has_ended_has_no_curves(tmp_path):
    sweep = Sweep(tmp_path, {"problem": "allen_cahn"}, {"seed": [0]}, {"seed0": {"seed": 0}})
    with pytest.raises(RunFileError, match="no run of the sweep has ended"):
        learning_curves(sweep)


# ---------------------------------------------------------------------------------------------------------------
# tune

RATES = "phases.0.lr=1e-4..1e-1:log"


@pytest.fixture
def optuna():
    return pytest.importorskip("optuna")


def tune(capsys, *over, out="out", problem="allen_cahn", trials=2, more=()):
    more = ["--trials", trials, "--set", "problem.dim=2", *more]
    return call(capsys, cli.main, "tune", problem, "--over", *over, "--out", out, *STEPS, *TINY, *more)


def test_the_search_never_reads_the_solution(folder, capsys, optuna):
    Path("mine.py").write_text(MINE)
    Path("mine.yaml").write_text("problem: {name: mine.py:Mine, dim: 2}\nstart: network\n")
    code, out, err = tune(capsys, RATES, problem="mine.yaml", trials=3)
    assert code == 0 and "best of 3 trials" in out, err
    for path in Path("out").glob("*.h5"):
        run = Run.open(path)
        assert run.attrs["status"] == "finished" and np.isnan(run.history["rel_l2"]).all()
    code, _, err = call(capsys, solve.main, "mine.yaml", *STEPS, *TINY)
    assert code == 2 and "the solution is read" in err  # a run that is not blind


def test_nor_does_it_read_a_reference(folder, capsys, optuna, monkeypatch):
    def read(*_):
        raise AssertionError("the reference is read")

    monkeypatch.setattr(known.Known, "of", read)
    base = Base("kdv", None, 2, ("verify=false",))
    with pytest.raises(AssertionError):
        Plan.of(base.config({}))
    plan = Plan.of(base.config({}), blind=True)
    assert not plan.knows and plan.known is None


def test_a_search_is_gone_on_with_and_its_best_is_a_file_for_solve(folder, capsys, optuna):
    over = [RATES, "backbone.widths=[4],[5,5]"]
    code, out, err = tune(capsys, *over, trials=2)
    assert code == 0 and out.count("complete") == 2, err
    code, out, _ = tune(capsys, *over, trials=4)
    assert code == 0 and out.count("complete") == 2 and "best of 4 trials" in out
    assert tune(capsys, *over, trials=4)[1].count("complete") == 0
    losses = {path: min(Run.open(path).history["validation"]) for path in Path("out").glob("*.h5")}
    best = min(losses, key=losses.get)
    assert len(losses) == 4 and f"held-out loss {losses[best]:.3e}" in out
    config = load("out/best.yaml")
    assert config.phases[0].lr == Run.open(best).config["phases"][0]["lr"] and config.verify is False
    values = yaml.safe_load(out.partition(":\n")[2].partition("settings")[0])
    sets = [word for word in TINY if word != "--set"]
    stated = Base("allen_cahn", "adam", 2, [*sets, "problem.dim=2"]).config(values)
    assert dump(Plan.of(config).config) == dump(Plan.of(stated).config)
    code, _, err = call(capsys, solve.main, "out/best.yaml", "--out", "best.h5", "--quiet")
    assert code == 0 and Run.open("best.h5").attrs["status"] == "finished", err
    code, _, err = tune(capsys, RATES)
    assert code == 2 and "a search with over" in err


def test_a_trial_that_is_broken_off_goes_on_with_its_run(folder, capsys, optuna, monkeypatch):
    from kanpde.sweeps import tune as of

    begin = of.begin

    def interrupted(plan, path, **calls):
        run = begin(plan, path, on_step=lambda state: os.kill(os.getpid(), signal.SIGINT), **calls)
        assert run.attrs["status"] == "interrupted" and run.attrs["steps"] == 1
        return run

    monkeypatch.setattr(of, "begin", interrupted)
    code, out, _ = tune(capsys, RATES, trials=1)
    assert code == 130 and "the same command goes on" in out
    monkeypatch.setattr(of, "begin", begin)
    code, out, _ = tune(capsys, RATES, trials=1)
    assert code == 0 and out.count("complete") == 1
    (path,) = Path("out").glob("*.h5")
    assert Run.open(path).attrs["steps"] == 2


def test_a_trial_of_a_process_that_was_killed_is_tried_again(folder, capsys, optuna, monkeypatch):
    from kanpde.sweeps import tune as of

    begin = of.begin

    def gone(*_, **__):
        raise RuntimeError("gone")

    monkeypatch.setattr(of, "begin", gone)
    with pytest.raises(RuntimeError, match="gone"):
        tune(capsys, RATES, trials=1)
    monkeypatch.setattr(of, "begin", begin)
    journal = Path("out/trials.log")
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "tri')  # in the middle of a line
    code, out, _ = tune(capsys, RATES, trials=1)
    assert code == 0 and out.count("complete") == 1 and [p.name for p in Path("out").glob("*.h5")] == ["trial-0000.h5"]
    assert tune(capsys, RATES, trials=2)[0] == 0
    journal.write_text("no\njournal\n")
    code, _, err = tune(capsys, RATES, trials=3)
    assert code == 2 and "a damaged journal" in err and err.count("\n") == 1


def test_a_budget_of_time_ends_a_search_and_bad_trials_are_given_up(folder, capsys, optuna):
    began = time.monotonic()
    code, out, _ = tune(capsys, RATES, trials=10**6, more=["--minutes", 0.01, "--steps", 10**6])
    assert code == 1 and "pruned" in out and time.monotonic() - began < 60
    code, out, _ = tune(capsys, "phases.0.lr=1e-3,1e+30", out="other", trials=12, more=["--steps", 8])
    assert code == 0 and "phases.0.lr: 0.001" in out and ("fail " in out or "pruned" in out)


@pytest.mark.parametrize(
    "over, said",
    [
        (["seed=0..3"], "trials would not compare"),
        (["loss.weights.gradient=1,2"], "trials would not compare"),
        (["points={interior: 3}"], "trials would not compare"),
        (["phases.0.lr=1e-2..1e-4"], "the second number is to be larger"),
        (["phases.0.lr=0..1:log"], "a logarithm needs"),
        (["backbone.grid_size=-3..4"], "backbone.grid_size=-3: "),
        (["backbone=kan,kann"], "did you mean kan?"),
        (["phases.0.rate=1,2"], "unknown key"),
    ],
)
def test_a_search_that_cannot_be_is_a_line_before_its_first_trial(folder, capsys, over, said):
    code, out, err = tune(capsys, *over)
    assert (code, out) == (2, "") and said in err and err.count("\n") == 1 and not Path("out").exists()


def test_without_optuna_the_search_says_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = tune(capsys, RATES)
    assert code == 2 and "pip install 'kanpde[tune]'" in err
