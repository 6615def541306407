"""What README's commands give: `python -m kanpde.solve PROBLEM --dim D --backbone B --seed S`, and no other flag.

    python -m benchmarks.defaults [--cases allen_cahn-100-kan ...] [--seeds 23 24 25] [--jobs 2] [--runs DIR]
        [--out benchmarks/results/defaults.md] [--render]

Each run is that command in a process of its own, with one thread where there are two jobs. No setting was ever chosen
by a run with one of the default seeds. Finished runs are kept and broken ones go on, by the same command; beside the
table lies a CSV of all finished runs, a row of which counts as done where the run itself is not in --runs.

kept is the mean and the sample standard deviation of the errors of the weights that the validation loss chose, start
the mean of those before training, of the start in closed form alone, least that of the smallest error of any
evaluation: what a choice by the exact solution would at best have given. Core-minutes are the processor time of the
whole command, so that other work beside it does not count.
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.machine import machine
from benchmarks.common.study import (
    RESULTS,
    Parser,
    Row,
    Seeded,
    Study,
    exiting,
    markdown,
    over_seeds,
    program,
    solving,
    spread,
)
from kanpde.runs.models import Run

TABLE8 = [(name, d) for name in ("poisson", "allen_cahn", "sine_gordon") for d in (20, 50, 100)]
PAIRS = [*TABLE8, ("allen_cahn", 1_000), ("allen_cahn", 10_000), ("heat", 10)]
CASES = [f"{name}-{d}-{net}" for name, d in PAIRS for net in ("kan", "metakan")] + ["allen_cahn-100000-metakan"]
FLOORS = ("constant", "affine", "additive", "taylor2", "no_training")
NUMBERS = ("error", "start", "least", "last", "best_step", "steps", "core_minutes", "parameters", "peak_MB", *FLOORS)
COLUMNS = ("case", "seed", *NUMBERS, "machine")


def command(task: Seeded, path: Path) -> list[str]:
    """The command of README, or what goes on with it."""
    name, dim, net = task.case.rsplit("-", 2)
    return solving(path, lambda: [name, "--dim", dim, "--backbone", net, "--seed", str(task.seed)])


def trained(task: Seeded, args: argparse.Namespace) -> list[Row]:
    """The row of a run, once it has ended; none where it failed, which its log explains."""
    path, log = args.runs / f"{task.stem}.h5", args.runs / f"{task.stem}.log"
    whole = not path.is_file()
    code, minutes = program(command(task, path), log, one_thread=args.jobs > 1)
    return [] if code else [measured(Run.open(path), task, minutes if whole else float("nan"))]


def measured(run: Run, task: Seeded, minutes: float) -> Row:
    """What the table says of a run that took so many minutes of processor time, nan where only a part is known."""
    attrs, history = run.attrs, run.history
    numbers = {
        "error": run.rel_l2,
        "start": run.floors.get("start", float("nan")),
        "least": min(history["rel_l2"]),
        "last": attrs["rel_l2_last"],
        "best_step": attrs["best_step"],
        "steps": attrs["steps"],
        "core_minutes": minutes,
        "parameters": attrs["parameters"],
        "peak_MB": max(history["peak_memory_bytes"]) / 2**20,
        **{name: run.floors.get(name, float("nan")) for name in FLOORS},
    }
    who = f"{machine().partition(',')[0]}, {attrs['threads']} threads, torch {attrs['torch_version']}"
    return {"case": task.case, "seed": str(task.seed), "machine": who} | {k: f"{v:.6g}" for k, v in numbers.items()}


def study(out: Path) -> Study:
    """The rows and the table, case by case."""
    return Study(out, COLUMNS, report, task_of, lambda row: (CASES.index(row["case"]), int(row["seed"])))


def task_of(row: Row) -> Seeded:
    """The run that a row is of."""
    return Seeded(row["case"], int(row["seed"]))


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a case, its smallest floor in bold."""
    heading = [*"case|kept|start|least|last|seeds|kept steps|steps|core-minutes|parameters|MB".split("|"), *FLOORS]
    cases = {case: [row for row in rows if row["case"] == case] for case in CASES}
    lines = [line(case, own) for case, own in cases.items() if own]
    machines = sorted({row["machine"] for row in rows})
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    return "\n".join(["# README's commands", "", "\n\n".join(about), "", *machines, "", *markdown(heading, lines), ""])


def line(case: str, rows: Sequence[Row]) -> list[str]:
    """A case: means over its seeds, the least and the largest step that was kept, the median of the processor time."""
    of = lambda name: [float(row[name]) for row in rows]
    steps = sorted({int(row["best_step"]) for row in rows})
    floors = {name: of(name)[0] for name in FLOORS}
    least = min(value for value in floors.values() if value == value)
    shown = lambda value: "-" if value != value else f"**{value:.3g}**" if value == least else f"{value:.3g}"
    return [
        case,
        spread(of("error")),
        "-" if (start := statistics.mean(of("start"))) != start else f"{start:.3g}",
        f"{statistics.mean(of('least')):.3g}",
        f"{statistics.mean(of('last')):.3g}",
        " ".join(row["seed"] for row in rows),
        " to ".join(f"{step:,}" for step in dict.fromkeys((steps[0], steps[-1]))),
        f"{int(of('steps')[0]):,}",
        f"{statistics.median(known):.1f}" if (known := [m for m in of("core_minutes") if m == m]) else "-",
        f"{int(of('parameters')[0]):,}",
        f"{max(of('peak_MB')):,.0f}",
        *map(shown, floors.values()),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("defaults", __doc__)
    parser.cases(CASES, help="such as allen_cahn-100-kan")
    parser.common(RESULTS / "defaults.md", seeds=[23, 24, 25], jobs=2, render=True)
    print(over_seeds(parser, argv, study, trained, lambda rows: "done").out)


if __name__ == "__main__":
    exiting(main, "defaults")
