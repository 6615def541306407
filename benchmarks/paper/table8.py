"""Table 8 of the paper, its printed errors beside ours: 3 equations in 20, 50 and 100 dimensions, kan and metakan.

    python -m benchmarks.table8 [--cells poisson-20-kan ...] [--seeds 0 1 2] [--minutes 4] [--coefficients 1 2]
        [--solvers default paper official] [--cap 15] [--jobs 1] [--runs DIR] [--out benchmarks/results/table8.md]

Each run is `python -m kanpde.solve` in a process of its own; its result, checkpoint and log lie under --runs. The
default solver, without a start in closed form, gets as many steps as fill --minutes, the same for all seeds of a cell:
a run that is there decides. The paper's and that of its released code keep their own steps, train one seed, and end
after --cap minutes. --coefficients are problem seeds beside 0, each with the first training seed. --jobs 2 trains two
at a time, one thread each.

Finished runs are kept, unfinished ones go on where they stopped. The table is rendered after each run and at Ctrl-C;
beside it lies a CSV of all finished runs, a row of which counts as done where the run itself is not in --runs.
--render trains nothing; --figure draws Figure 8, the error for Allen-Cahn at d = 100, from stored runs.
"""

import argparse
import hashlib
import json
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common import printed, study
from benchmarks.common.budget import steps_for
from benchmarks.common.machine import machine
from benchmarks.common.study import Row, markdown, program, results, spread
from kanpde.backbones import defaults
from kanpde.config import RunConfig, load
from kanpde.ground.errors import ConfigError
from kanpde.runs.models import Run
from kanpde.runs.stored import config_of
from kanpde.training.plan import resolved
from kanpde.users.members import problem_of

CELLS = {
    f"{row['pde'].lower().replace('-', '_')}-{row['dimension']}-{row['model'].lower()}": row for row in printed.rows(8)
}
PROBLEMS = tuple(dict.fromkeys(cell.split("-")[0] for cell in CELLS))
GOALS = {("kan", 20): 8e-5, ("kan", 50): 4e-4, ("kan", 100): 1.2e-3}  # the errors wanted
GOALS |= {("metakan", 20): 2e-3, ("metakan", 50): 3e-3, ("metakan", 100): 3e-3}
WITHIN = 15  # minutes
SOLVERS = ("default", "paper", "official")
FLOORS = ("constant", "additive", "taylor2")
COLUMNS = ("cell", "solver", "seed", "coefficients", "settings", "steps", "minutes", "threads", "rel_l2_best")
COLUMNS += ("rel_l2_last", *FLOORS, "parameters", "peak_memory_MB", "machine")
QUICK_STEPS = 3
QUICK = ("points.interior=10", "points.test=300", "points.validation=10")
QUICK += ("slices.points=11", "slices.volume=0", "compile=false")
NO_SETTINGS = {"problem", "seed", "stop", "evaluation", "slices", "device", "compile", "max_memory"}
NEW = {"status": "new"}


class Task(NamedTuple):
    """A run of the table: training seed, and seed of the coefficients of the exact solution."""

    cell: str
    solver: str
    seed: int
    coefficients: int

    @property
    def stem(self) -> str:
        return "{}-{}-seed{}-coefficients{}".format(*self)

    @classmethod
    def of(cls, path: Path) -> "Task | None":
        """The task that a result file of ours is named after."""
        found = re.fullmatch(rf"(.+)-({'|'.join(SOLVERS)})-seed(\d+)-coefficients(\d+)", path.stem)
        return cls(found[1], found[2], int(found[3]), int(found[4])) if found and found[1] in CELLS else None


def sets(task: Task, args: argparse.Namespace) -> list[str]:
    """What the run has beside its problem and solver, as --set takes it."""
    _, dim, net = task.cell.split("-")
    own = [f"problem.dim={dim}", f"problem.seed={task.coefficients}", f"backbone={net}", f"seed={task.seed}"]
    capped = [f"stop.seconds={60 * args.cap:g}"] if task.solver != "default" else ["start=network"]
    soft = ["points.boundary=10"] if args.quick and task.solver == "paper" else []
    return [*own, *capped, *soft, *(QUICK if args.quick else ())]


def config(task: Task, args: argparse.Namespace) -> tuple[RunConfig, object]:
    """Resolved configuration and problem."""
    made = load(task.cell.split("-")[0], task.solver, sets=sets(task, args))
    problem = problem_of(made.problem)
    return resolved(made, problem), problem


def settings(config: RunConfig) -> str:
    """A mark of all that seeds of a cell share, as far as it differs from defaults: a new option does not change it."""
    tree = config.model_dump(mode="json", exclude_defaults=True, exclude=NO_SETTINGS)
    usual = json.loads(json.dumps(defaults(config.backbone["name"])))  # tuples become lists
    tree["backbone"] = {k: v for k, v in tree["backbone"].items() if k == "name" or v != usual.get(k)}
    tree["phases"] = [{k: v for k, v in phase.items() if k != "steps"} for phase in tree["phases"]]
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:8]


# ---------------------------------------------------------------------------------------------------------------
# The store: result files, and the CSV for those that are elsewhere


def stored(args: argparse.Namespace) -> dict[Task, Row]:
    """All runs: rows of the CSV, over them those of the files; `status` tells what is not finished.

    Raises:
        ConfigError: the CSV is not one of ours, or runs of one cell and solver differ in their settings.
    """
    done = {"status": "finished", "message": ""}
    rows = {task_of(row): row | done for row in study.kept(args.out.with_suffix(".csv"), COLUMNS, check_row)}
    for path in sorted(args.runs.glob("*.h5")):
        if task := Task.of(path):
            rows[task] = measured(path, task)
    rows = dict(sorted(rows.items(), key=lambda item: (list(CELLS).index(item[0].cell), item[0][1:])))
    seen: dict[tuple, Row] = {}
    for task, row in rows.items():
        if seen.setdefault(task[:2], row)["settings"] != row["settings"]:
            raise ConfigError(f"{task.stem} has other settings than the runs beside it: {_elsewhere(args)}")
    return rows


def _elsewhere(args: argparse.Namespace) -> str:
    return (
        f"name another --runs and --out, or remove what is outdated in {args.runs} and {args.out.with_suffix('.csv')}"
    )


def task_of(row: Row) -> Task:
    """The run that a row is of."""
    return Task(row["cell"], row["solver"], int(row["seed"]), int(row["coefficients"]))


def check_row(row: Row) -> None:
    """Fail where a row is none of ours."""
    task_of(row), [float(row[name]) for name in COLUMNS[5:-1]], CELLS[row["cell"]], SOLVERS.index(row["solver"])


def measured(path: Path, task: Task) -> Row:
    """The row of a result file; the steps of an unfinished run are those it is to have."""
    run = Run.open(path)
    made, status = config_of(run), run.attrs["status"]
    row = {
        **task._asdict(),
        "settings": settings(made),
        "steps": run.attrs["steps"] if status == "finished" else made.steps,
        "minutes": run.history["wall_s"][-1] / 60,
        "threads": run.attrs["threads"],
        "rel_l2_best": run.rel_l2,
        "rel_l2_last": run.attrs.get("rel_l2_last", run.history["rel_l2"][-1]),
        **{name: run.floors[name] for name in FLOORS},
        "parameters": run.attrs["parameters"],
        "peak_memory_MB": max(run.history["peak_memory_bytes"]) / 2**20,
        "machine": f"{machine().rpartition(', ')[0].rpartition(', ')[0]}, torch {run.attrs['torch_version']}",
        "status": status,
        "message": run.attrs.get("message", ""),
    }
    return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in row.items()}


def render(args: argparse.Namespace) -> dict[Task, Row]:
    """Write the table and the CSV of what there is, and return it."""
    rows = stored(args)
    finished = [row for row in rows.values() if row["status"] == "finished"]
    study.keep(args.out.with_suffix(".csv"), COLUMNS, finished)
    study.deliver(report(rows), args.out)
    return rows


# ---------------------------------------------------------------------------------------------------------------
# Running


def tasks(args: argparse.Namespace) -> list[Task]:
    """One seed of all cells before the next: the table is whole early."""
    seeds = {solver: args.seeds if solver == "default" else args.seeds[:1] for solver in args.solvers}
    runs = [(solver, seed, 0) for solver in args.solvers for seed in seeds[solver]]
    runs += [("default", args.seeds[0], c) for c in dict.fromkeys(args.coefficients) if c]
    return [Task(cell, *run) for run in runs for cell in args.cells]


def check(wanted: Sequence[Task], rows: dict[Task, Row], args: argparse.Namespace) -> None:
    """What is there must be of the solver as it is now."""
    now = {task[:2]: settings(config(task, args)[0]) for task in wanted}
    for task, row in rows.items():
        if row["settings"] != now.get(task[:2], row["settings"]):
            raise ConfigError(f"{task.stem} was made before the solver {task.solver} changed: {_elsewhere(args)}")


def length(task: Task, args: argparse.Namespace) -> list[str]:
    """How long the run is to be: as other seeds; else what fills the time, compiled or not as that was measured."""
    if args.quick or task.solver != "default":
        return ["--steps", str(QUICK_STEPS)] if args.quick else []
    there = [row["steps"] for other, row in stored(args).items() if other[:2] == task[:2]]
    made, problem = config(task, args)
    number = there[0] if there else str(steps_for(problem, made, 60 * args.minutes))
    return ["--steps", number, "--set", f"compile={str(made.compile).lower()}"]


def command(task: Task, args: argparse.Namespace) -> list[str]:
    """The command line that makes the run, or goes on with it."""
    given = [word for assignment in sets(task, args) for word in ("--set", assignment)]
    new = lambda: [task.cell.split("-")[0], "--solver", task.solver, *given, *length(task, args)]
    return study.solving(args.runs / f"{task.stem}.h5", new)


def trained(task: Task, args: argparse.Namespace) -> int:
    """Make the run, or go on with it; its exit code."""
    words = command(task, args)
    print(task.stem, "goes on" if "--resume" in words else "starts", flush=True)
    return program(words, args.runs / f"{task.stem}.log", one_thread=args.jobs > 1).code


def run(wanted: Sequence[Task], args: argparse.Namespace) -> list[Task]:
    """Train what is wanted, --jobs at a time, rendering after each; returns what failed."""
    failed = []
    with results(partial(trained, args=args), wanted, args.jobs, threads=1 if args.jobs > 1 else None) as found:
        for task, code in found:
            rows = render(args)
            failed += [task] if code else []
            print(task.stem, f"failed ({code}): {_last_line(task, args)}" if code else _done(rows[task]), flush=True)
    return failed


def _last_line(task: Task, args: argparse.Namespace) -> str:
    return (args.runs / f"{task.stem}.log").read_text(encoding="utf-8").strip().rpartition("\n")[2]


def _done(row: Row) -> str:
    return ", ".join(f"{name} {float(row[name]):.3g}" for name in ("rel_l2_best", "steps", "minutes", "peak_memory_MB"))


# ---------------------------------------------------------------------------------------------------------------
# The report


def report(rows: dict[Task, Row]) -> str:
    """Markdown from the finished runs."""
    done = {task: row for task, row in rows.items() if row["status"] == "finished"}
    means = {cell: statistics.mean(errors(own)) for cell in CELLS if (own := of(done, cell))}
    worse = [cell for cell, mean in means.items() if mean >= CELLS[cell]["rel_l2_printed"]]
    machines = Counter(f"{row['machine']}, {row['threads']} threads" for row in done.values())
    rest = [(row["status"], task.stem, row["message"]) for task, row in rows.items() if task not in done]
    table = lambda columns, lines: "\n".join(markdown(columns, lines, "lr"))
    parts = [
        RULE,
        "\n".join(f"- {name}: {count} runs" for name, count in machines.items()),
        table(HEADING, [line(cell, done) for cell in CELLS]),
        f"Below the printed error: {len(means) - len(worse)} of {len(means)} cells measured."
        + (f" Not below: {', '.join(worse)}." if worse else ""),
        f"## Goals\n\nThe mean of the default solver, each run within {WITHIN} minutes.",
        table(["network", "d", "goal", *PROBLEMS], [goal_line(net, dim, done) for net, dim in GOALS]),
        skills(done),
        "\n".join("- " + " ".join(filter(None, words)) for words in rest),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


RULE = """# Table 8 of the paper

`python -m benchmarks.table8`. Relative l2 errors on 20 000 radial test points, with the weights that validation chose.
default: mean ± sample standard deviation over the training seeds; minutes and MB: the most of them. paper and
official: one seed, ended by the clock where the steps are fewer than 10,000. constant, additive, taylor2: errors of
functions that learn next to nothing. Coefficient seed 0."""
HEADING = ["cell", "printed", "paper", "official", "default", "seeds", "below printed", "parameters printed"]
HEADING += ["parameters", "steps", "minutes", "MB", *FLOORS]


def of(rows: dict[Task, Row], cell: str, solver: str = "default") -> list[Row]:
    """The runs of a cell with the coefficients of seed 0."""
    return [row for task, row in rows.items() if task[:2] == (cell, solver) and task.coefficients == 0]


def numbers(rows: Sequence[Row], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


errors = partial(numbers, name="rel_l2_best")


def between(values: Sequence[float]) -> str:
    """One number, or the least and the largest."""
    return " to ".join(f"{int(value):,}" for value in sorted({min(values), max(values)})) if values else "-"


def line(cell: str, rows: dict[Task, Row]) -> list[str]:
    """The cells of a line of the table."""
    row, (own, *others) = CELLS[cell], (of(rows, cell, solver) for solver in SOLVERS)
    every = [*own, *others[0], *others[1]]
    shown = lambda row: (
        f"{float(row['rel_l2_best']):.3g} ({int(row['steps']):,} steps, {float(row['minutes']):.1f} min)"
    )
    most = (f"{max(numbers(own, name)):{form}}" if own else "-" for name, form in MOST.items())
    below = "-" if not own else "yes" if statistics.mean(errors(own)) < row["rel_l2_printed"] else "no"
    return [
        cell,
        f"{row['rel_l2_printed']:.3g}",
        *("; ".join(map(shown, group)) or "-" for group in others),
        spread(errors(own)),
        str(len(own)),
        below,
        f"{row['params_printed']:,}",
        between(numbers(every, "parameters")),
        between(numbers(own, "steps")),
        *most,
        *(f"{float(every[0][name]):.3g}" if every else "-" for name in FLOORS),
    ]


MOST = {"minutes": ".1f", "peak_memory_MB": ",.0f"}


def goal_line(net: str, dim: int, rows: dict[Task, Row]) -> list[str]:
    """A goal and how each equation stands to it."""
    goal = GOALS[net, dim]
    return [net, str(dim), f"{goal:.2g}", *(verdict(of(rows, f"{p}-{dim}-{net}"), goal) for p in PROBLEMS)]


def verdict(rows: Sequence[Row], goal: float) -> str:
    """met or missed; a run that took too long misses it too."""
    if not rows:
        return "not measured"
    mean, minutes = statistics.mean(errors(rows)), max(numbers(rows, "minutes"))
    late = f", {minutes:.1f} minutes" if minutes > WITHIN else ""
    return f"{mean:.3g}{late}: {'met' if mean <= goal and not late else 'missed'}"


def skills(rows: dict[Task, Row]) -> str:
    """Errors over the floors where other coefficients were measured, those of seed 0 beside them."""
    cells = {task.cell for task in rows if task.coefficients}
    lines = [
        [task.cell, str(task.coefficients), str(task.seed), f"{(error := float(row['rel_l2_best'])):.3g}"]
        + [f"{error / float(row[name]):.3g}" for name in FLOORS]
        for task, row in sorted(rows.items(), key=lambda item: (list(CELLS).index(item[0].cell), item[0].coefficients))
        if task.cell in cells and task.solver == "default"
    ]
    columns = ["cell", "coefficients", "seed", "error", *(f"error / {name}" for name in FLOORS)]
    return "\n".join(["## Other coefficients", "", *markdown(columns, lines, "lr")]) if lines else ""


# ---------------------------------------------------------------------------------------------------------------
# Figure 8


def figure(args: argparse.Namespace) -> Path:
    """|u - u*| / max |u*| for Allen-Cahn, d = 100, on a random plane through the centre, a panel for each network.

    The training seed decides the plane: the first seed of which there are most networks is shown.
    """
    from matplotlib.figure import Figure

    from kanpde.plot.slices import ERROR_COLOURS, Slice, error_norm

    files = {task: path for path in sorted(args.runs.glob("*.h5")) if (task := Task.of(path))}
    found = [task for task in files if (task.cell[:14], task[1], task[3]) == ("allen_cahn-100", "default", 0)]
    runs = {task: opened for task in found if (opened := Run.open(files[task])).attrs["status"] == "finished"}
    if not runs:
        raise ConfigError(f"--figure: no finished run allen_cahn-100-* of the default solver in {args.runs}")
    most = Counter(task.seed for task in runs).most_common(1)[0][0]
    cuts = {task: Slice.of(opened, "random") for task, opened in runs.items() if task.seed == most}
    norm = error_norm(np.array([cut.relative_error for cut in cuts.values()]))
    drawn = Figure(figsize=(0.6 + 3.6 * len(cuts), 3.6), layout="constrained")
    for ax, (task, cut) in zip(drawn.subplots(1, len(cuts), squeeze=False)[0], cuts.items(), strict=True):
        image = ax.pcolormesh(*cut.ticks, cut.relative_error.T, cmap=ERROR_COLOURS, norm=norm, shading="nearest")
        ax.set(
            title=f"{CELLS[task.cell]['model']}, {runs[task].rel_l2:.2e}", aspect="equal", xlabel="$a$", ylabel="$b$"
        )
    drawn.colorbar(image, ax=drawn.axes, label=r"$|u - u^*|\;/\;\max\,|u^*|$", shrink=0.8)
    path = args.out.parent / "figures" / "table8-allen_cahn-100.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=110)
    return path


# ---------------------------------------------------------------------------------------------------------------
# The command line


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; --quick has a store of its own."""
    parser = study.Parser("table8", __doc__)
    parser.cases(list(CELLS), "cell", "--cells", default=None, help="such as poisson-20-kan; default all 18")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=["default"])
    parser.add_argument("--coefficients", type=int, nargs="+", default=[], help="problem seeds beside 0; default none")
    parser.add_argument("--minutes", type=float, default=4.0, help="of a run of the default solver")
    parser.add_argument("--cap", type=float, default=15.0, help="minutes after which a run of the others ends")
    parser.add_argument("--figure", action="store_true", help="draw Figure 8; train nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/table8"))
    parser.common(seeds=(), jobs=1, quick="two cells, one seed, few steps, in RUNS/quick", render=True)
    args = parser.parse_args(argv)
    args.cells = list(dict.fromkeys(args.cells or list(CELLS)[: 2 if args.quick else None]))
    args.seeds = list(dict.fromkeys(args.seeds or ([0] if args.quick else [0, 1, 2])))
    args.solvers = list(dict.fromkeys(args.solvers))
    args.runs = args.runs / "quick" if args.quick else args.runs
    args.out = args.out or (args.runs if args.quick else study.RESULTS) / "table8.md"
    study.above_zero(args, "minutes", "cap")
    study.at_least(args, {"seeds": 0, "coefficients": 0, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args, failed = parsed(argv), []
    if args.figure:
        print(figure(args))
    elif not args.render:
        wanted, rows = tasks(args), stored(args)
        check(wanted, rows, args)
        args.runs.mkdir(parents=True, exist_ok=True)
        try:
            failed = run([task for task in wanted if rows.get(task, NEW)["status"] not in ("finished", "failed")], args)
        except SystemExit:
            render(args)
            print(f"interrupted; the same command goes on. {args.out}")
            raise
    render(args)
    print(args.out)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    study.exiting(main, "table8")
