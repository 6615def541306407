"""What README's commands give: `python -m kanpde.solve PROBLEM --dim D --backbone B --seed S`, and no other flag.

    python -m benchmarks.defaults [--cases allen_cahn-100-kan ...] [--seeds 23 24 25] [--jobs 2] [--runs DIR]
        [--out benchmarks/results/defaults.md] [--render]

Each run is that command in a process of its own, with one thread where there are two jobs. No setting was ever chosen
by a run with one of the default seeds. Finished runs are kept and broken ones go on, by the same command; beside the
table lies a CSV of all finished runs, a row of which counts as done where the run itself is not in --runs.

kept is the mean and the sample standard deviation of the errors of the weights that the validation loss chose, least
that of the smallest error of any evaluation: what a choice by the exact solution would at best have given. Core-minutes
are the processor time of the whole command, so that other work beside it does not count.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from benchmarks.budget import at_least, markdown
from benchmarks.machine import machine
from benchmarks.report import RESULTS, Parser, deliver, exiting
from kanpde.config import ConfigError, suggest
from kanpde.record import Run, replacing

TABLE8 = [(name, d) for name in ("poisson", "allen_cahn", "sine_gordon") for d in (20, 50, 100)]
PAIRS = [*TABLE8, ("allen_cahn", 1_000), ("allen_cahn", 10_000), ("heat", 10)]
CASES = [f"{name}-{d}-{net}" for name, d in PAIRS for net in ("kan", "metakan")] + ["allen_cahn-100000-metakan"]
FLOORS = ("constant", "affine", "additive", "taylor2", "no_training")
NUMBERS = ("error", "least", "last", "best_step", "steps", "core_minutes", "parameters", "peak_MB", *FLOORS)
COLUMNS = ("case", "seed", *NUMBERS, "machine")
Row = dict[str, str]


class Task(NamedTuple):
    case: str
    seed: int

    @property
    def stem(self) -> str:
        return f"{self.case}-seed{self.seed}"


def command(task: Task, path: Path) -> list[str]:
    """The command of README, or what goes on with it."""
    solve = [sys.executable, "-m", "kanpde.solve"]
    if path.is_file():
        return [*solve, "--resume", str(path)]
    path.with_suffix(".pt").unlink(missing_ok=True)  # of a run that was killed before it had a result
    name, dim, net = task.case.rsplit("-", 2)
    return [*solve, name, "--dim", dim, "--backbone", net, "--seed", str(task.seed), "--out", str(path)]


def trained(task: Task, args: argparse.Namespace) -> Row | None:
    """The row of a run, once it has ended; None where it failed, which its log explains."""
    path = args.runs / f"{task.stem}.h5"
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if args.jobs > 1 else {})
    whole = not path.is_file()
    with (args.runs / f"{task.stem}.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command(task, path), stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
    print(f"{task.stem}: {'done' if not code else f'exit code {code}, see {log.name}'}", flush=True)
    minutes = (usage.ru_utime + usage.ru_stime) / 60 if whole else float("nan")
    return None if code else measured(Run.open(path), task, minutes)


def measured(run: Run, task: Task, minutes: float) -> Row:
    """What the table says of a run that took so many minutes of processor time, nan where only a part is known."""
    attrs, history = run.attrs, run.history
    numbers = {
        "error": run.rel_l2,
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


def kept(path: Path) -> dict[Task, Row]:
    """The rows of the CSV."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ConfigError(f"{path}: not a table of {', '.join(COLUMNS)}")
        return {Task(row["case"], int(row["seed"])): row for row in reader}


def write(rows: dict[Task, Row], out: Path) -> None:
    """The CSV and the table."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = dict(sorted(rows.items(), key=lambda item: (CASES.index(item[0].case), item[0].seed)))
    with replacing(out.with_suffix(".csv")) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
    deliver(report(rows), out)


def report(rows: dict[Task, Row]) -> str:
    """Markdown: a line a case, its smallest floor in bold."""
    heading = [*"case|kept|least|last|seeds|kept steps|steps|core-minutes|parameters|MB".split("|"), *FLOORS]
    cases = {case: [row for task, row in rows.items() if task.case == case] for case in CASES}
    lines = [line(case, own) for case, own in cases.items() if own]
    machines = sorted({row["machine"] for row in rows.values()})
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    return "\n".join(["# README's commands", "", "\n\n".join(about), "", *machines, "", *markdown(heading, lines), ""])


def line(case: str, rows: Sequence[Row]) -> list[str]:
    """A case: means over its seeds, the least and the largest step that was kept, the median of the processor time."""
    of = lambda name: [float(row[name]) for row in rows]
    deviation = f" ± {statistics.stdev(of('error')):.2g}" if len(rows) > 1 else ""
    steps = sorted({int(row["best_step"]) for row in rows})
    floors = {name: of(name)[0] for name in FLOORS}
    least = min(value for value in floors.values() if value == value)
    shown = lambda value: "-" if value != value else f"**{value:.3g}**" if value == least else f"{value:.3g}"
    return [
        case,
        f"{statistics.mean(of('error')):.3g}{deviation}",
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


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="defaults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", metavar="CASE", default=CASES, help="such as allen_cahn-100-kan")
    parser.add_argument("--seeds", type=int, nargs="+", default=[23, 24, 25])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--runs", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--out", type=Path, default=RESULTS / "defaults.md")
    parser.add_argument("--render", action="store_true", help="run nothing")
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "jobs": 1})
    for case in args.cases:
        if case not in CASES:
            raise ConfigError(suggest("case", case, CASES))
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parsed(argv)
    rows, csv_file = kept(args.out.with_suffix(".csv")), args.out.with_suffix(".csv")
    args.runs.mkdir(parents=True, exist_ok=True)
    tasks = [Task(case, seed) for seed in args.seeds for case in args.cases]
    with ThreadPoolExecutor(args.jobs) as pool:
        for row in pool.map(partial(trained, args=args), [] if args.render else [t for t in tasks if t not in rows]):
            if row is not None:
                rows = kept(csv_file) | {Task(row["case"], int(row["seed"])): row}
                write(rows, args.out)
    write(rows, args.out)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "defaults")
