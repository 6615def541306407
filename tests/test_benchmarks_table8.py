"""The benchmark of Table 8: runs are kept and gone on with, the table follows from the CSV, bad calls are one line."""

import csv
import re
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import jobs_here, one_line, refused

from benchmarks.common.study import Ended
from benchmarks.paper import table8
from kanpde.ground.errors import ConfigError
from kanpde.runs.api import train
from kanpde.runs.models import Run

CELLS = ["allen_cahn-100-kan", "allen_cahn-100-metakan"]
STEMS = [f"{cell}-default-seed0-coefficients0" for cell in CELLS]


def argv(folder: Path, *more: str) -> list[str]:
    return ["--quick", "--runs", str(folder / "runs"), "--out", str(folder / "results/table8.md"), *more]


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    """A folder with the runs of CELLS, two trained at a time; of the first there was an unfinished one."""
    folder = tmp_path_factory.mktemp("table8")
    args = table8.parsed(argv(folder, "--cells", *CELLS))
    task, *_ = table8.tasks(args)
    made, problem = table8.config(task, args)
    phases = [phase.model_copy(update={"steps": table8.QUICK_STEPS}) for phase in made.phases[:1]]

    def killed(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            problem, config=made.model_copy(update={"phases": phases}), out=args.runs / f"{STEMS[0]}.h5", on_step=killed
        )
    table8.main(argv(folder, "--cells", *CELLS, "--jobs", "2"))
    return folder


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """The commands of the processes that would be started, which end at once."""
    commands = []

    def start(words, log, one_thread):
        commands.append(words)
        return Ended(0, 0.0)

    monkeypatch.setattr(table8, "results", jobs_here)
    monkeypatch.setattr(table8, "program", start)
    monkeypatch.setattr(table8, "_done", lambda row: "")
    return commands


def rows_of(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_quick_runs_are_in_the_table_and_the_csv(quick):
    rows = rows_of(quick / "results/table8.csv")
    assert [row["cell"] for row in rows] == CELLS and tuple(rows[0]) == table8.COLUMNS
    assert all(row["steps"] == str(table8.QUICK_STEPS) and 0 < float(row["rel_l2_best"]) < 2 for row in rows)
    assert (
        all(0 < float(row["taylor2"]) <= float(row["constant"]) < 1 for row in rows)
        and rows[0]["parameters"] == "47520"
    )
    assert rows[1]["threads"] == "1", "two at a time"
    text = (quick / "results/table8.md").read_text()
    assert text.count("\n| poisson-") == 6 and "0 of 2 cells measured" in text


def test_an_unfinished_run_went_on(quick):
    run = Run.open(quick / f"runs/quick/{STEMS[0]}.h5")
    assert run.attrs["status"] == "finished" and run.history["step"].tolist() == [0, table8.QUICK_STEPS]


def test_finished_runs_are_not_repeated(quick, started, tmp_path):
    before = (quick / "results/table8.md").read_text()
    table8.main(argv(quick, "--cells", *CELLS))
    assert not started and (quick / "results/table8.md").read_text() == before
    args = ["--runs", str(tmp_path), *argv(quick)[3:], "--quick", "--cells", *CELLS]
    table8.main(args)
    assert not started and (quick / "results/table8.md").read_text() == before, "rows of the CSV suffice"


def test_only_what_is_missing_is_started(quick, started, tmp_path, monkeypatch):
    monkeypatch.setattr(table8, "render", lambda args: table8.stored(args) | {task: {} for task in table8.tasks(args)})
    wanted = ["--seeds", "0", "2", "--solvers", "default", "paper", "--coefficients", "0", "5", "--cap", "2"]
    table8.main(argv(quick, "--cells", CELLS[0], *wanted))
    seed, paper, other = started
    assert "seed=2" in seed and "problem.seed=0" in seed and "--steps" in seed
    assert "paper" in paper and "stop.seconds=120" in paper
    assert "seed=0" in other and "problem.seed=5" in other


def test_steps_are_those_of_other_seeds(quick, monkeypatch):
    monkeypatch.setattr(table8, "steps_for", lambda problem, config, seconds: 7 + int(seconds))
    args = table8.parsed(argv(quick, "--minutes", "2"))
    args.quick = False
    of = lambda cell, solver="default": table8.length(table8.Task(cell, solver, 1, 0), args)[:2]
    assert of(CELLS[0]) == ["--steps", str(table8.QUICK_STEPS)]
    assert of("poisson-20-kan") == ["--steps", "127"] and of("poisson-20-kan", "paper") == []


def test_a_changed_solver_is_refused(quick):
    args = argv(quick, "--cells", CELLS[0])
    options = quick / "results/table8.csv"
    before = options.read_text()
    mark = rows_of(options)[0]["settings"]
    try:
        options.write_text(before.replace(mark, "deadbeef"))
        with pytest.raises(ConfigError) as info:
            table8.main([*args, "--runs", str(quick / "none")])
        assert f"{STEMS[0]} was made before the solver default changed" in one_line(info)
    finally:
        options.write_text(before)


def test_ctrl_c_renders(tmp_path, monkeypatch, capsys):
    @contextmanager
    def interrupted(*_, **__):
        raise SystemExit(130)
        yield

    monkeypatch.setattr(table8, "results", interrupted)
    with pytest.raises(SystemExit) as info:
        table8.main(argv(tmp_path))
    assert info.value.code == 130
    assert (tmp_path / "results/table8.md").is_file() and "the same command goes on" in capsys.readouterr().out


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def call(task, args):
        return ["false"] if task.cell == "poisson-20-kan" else ["sh", "-c", "echo one; echo two >&2; exit 3"]

    monkeypatch.setattr(table8, "command", call)
    monkeypatch.setattr(table8, "results", jobs_here)
    with pytest.raises(SystemExit) as info:
        table8.main(argv(tmp_path))
    said = capsys.readouterr().out
    assert info.value.code == 1 and "failed (1): " in said and "failed (3): two" in said


# ---------------------------------------------------------------------------------------------------------------
# The table


def hand_made(path: Path, *runs: dict) -> Path:
    """A CSV of runs that say what differs from the usual."""
    usual = dict.fromkeys(table8.COLUMNS, "1") | {"solver": "default", "seed": "0", "coefficients": "0", "steps": "900"}
    usual |= {"minutes": "4", "constant": "0.04", "additive": "0.02", "taylor2": "0.001", "machine": "a machine"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table8.COLUMNS)
        writer.writeheader()
        writer.writerows(usual | {name: str(value) for name, value in run.items()} for run in runs)
    return path


def rendered(folder: Path, *runs: dict) -> str:
    hand_made(folder / "table8.csv", *runs)
    table8.main(["--render", "--runs", str(folder / "runs"), "--out", str(folder / "table8.md")])
    return (folder / "table8.md").read_text(encoding="utf-8")


def line(text: str, start: str) -> list[str]:
    (found,) = (line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_mean_deviation_and_verdicts(tmp_path):
    text = rendered(
        tmp_path,
        *(dict(cell="poisson-20-kan", seed=i, rel_l2_best=e) for i, e in enumerate((6e-5, 7e-5, 8e-5))),
        dict(cell="allen_cahn-20-kan", rel_l2_best=9e-5),
        dict(cell="sine_gordon-20-kan", rel_l2_best=7e-5, minutes=15.2),
        dict(cell="poisson-100-metakan", rel_l2_best=5e-3, steps=100),
        dict(cell="poisson-100-metakan", rel_l2_best=7e-3, steps=120, seed=1, minutes=6, peak_memory_MB=512),
        dict(cell="poisson-100-metakan", rel_l2_best=0.5, solver="paper", steps=1234, minutes=15),
    )
    first, last = line(text, "poisson-20-kan"), line(text, "poisson-100-metakan")
    assert first[:8] == ["poisson-20-kan", "0.000524", "-", "-", "7e-05 ± 1e-05", "3", "yes", "24,480"]
    assert last[1:7] == ["0.00459", "0.5 (1,234 steps, 15.0 min)", "-", "0.006 ± 0.0014", "2", "no"]
    assert last[8:] == ["1", "100 to 120", "6.0", "512", "0.04", "0.02", "0.001"]
    assert "Below the printed error: 3 of 4 cells measured. Not below: poisson-100-metakan." in text
    assert line(text, "kan | 20")[2:] == ["8e-05", "7e-05: met", "9e-05: missed", "7e-05, 15.2 minutes: missed"]
    assert line(text, "metakan | 100")[2:] == ["0.003", "0.006: missed", "not measured", "not measured"]
    assert "## Other coefficients" not in text
    assert rendered(tmp_path / "again", *rows_of(tmp_path / "table8.csv")) == text, "the CSV keeps all that is told"


def test_other_coefficients_are_told_as_skill(tmp_path):
    runs = [dict(cell="poisson-50-kan", coefficients=c, rel_l2_best=e) for c, e in ((3, 0.01), (0, 0.002))]
    text = rendered(tmp_path, *runs, dict(cell="poisson-20-kan", rel_l2_best=1e-5))
    section = text.partition("## Other coefficients")[2]
    assert re.findall(r"^\| poisson.*", section, re.M) == [
        "| poisson-50-kan | 0 | 0 | 0.002 | 0.05 | 0.1 | 2 |",
        "| poisson-50-kan | 3 | 0 | 0.01 | 0.25 | 0.5 | 10 |",
    ]
    assert "| poisson-50-kan | 0.00214 | - | - | 0.002 | 1 | yes |" in text


def test_runs_of_two_settings_are_no_mean(tmp_path):
    runs = [dict(cell="poisson-50-kan", seed=seed, rel_l2_best=0.01, settings=f"s{seed}") for seed in (0, 1)]
    with pytest.raises(ConfigError) as info:
        rendered(tmp_path, *runs)
    assert "poisson-50-kan-default-seed1-coefficients0 has other settings" in one_line(info)


def test_a_broken_csv_is_one_line(tmp_path):
    for text in (
        "cell,solver\npoisson-20-kan,default\n",
        (hand_made(tmp_path / "a.csv", {"cell": "poisson"})).read_text(),
    ):
        (tmp_path / "table8.csv").write_text(text)
        with pytest.raises(ConfigError) as info:
            table8.main(["--render", "--runs", str(tmp_path), "--out", str(tmp_path / "table8.md")])
        assert "table8.csv: not a table of cell, solver" in one_line(info)


def test_figure_8_shows_both_networks(quick):
    table8.main(argv(quick, "--figure"))
    assert (quick / "results/figures/table8-allen_cahn-100.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--cells", "poison-20-kan"], "unknown cell 'poison-20-kan'; did you mean poisson-20-kan?"),
        (["--minutes", "-1"], "--minutes must be above 0, given -1"),
        (["--minutes", "nan"], "above 0"),
        (["--cap", "0"], "above 0"),
        (["--solvers", "papers"], "invalid choice: 'papers'"),
        (["--seeds", "-1"], "at least 0"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--figure"], "no finished run allen_cahn-100-*"),
    ],
)
def test_a_bad_call_is_one_line(tmp_path, arguments, said):
    with pytest.raises(ConfigError) as info:
        table8.main(argv(tmp_path, *arguments))
    assert said in one_line(info)


def test_exit_code_of_a_bad_call():
    refused("benchmarks.table8", "--cells", "poisson")
