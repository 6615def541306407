"""What `solver: auto` chooses between: steps of second order and of first order, by the number of inputs.

    python -m benchmarks.choice [--cases poisson-2 heat-4 ...] [--solvers low_dim default] [--seeds 0 1 2]
        [--jobs 1] [--quick] [--out benchmarks/results/choice.md]

A case is an equation of the library and its dimension, to which time adds an input; each solver is taken as it is
shipped, with its own network. kept is the relative l2 error of the weights that the validation loss chose; s the
processor time of the run. Medians over the seeds.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde.config import load
from kanpde.runs.api import begin
from kanpde.training.plan import Plan

CASES = ("poisson-2", "poisson-3", "heat-2", "sine_gordon-3", "poisson-5", "allen_cahn-5", "heat-4", "poisson-10")
SOLVERS = ("low_dim", "default")
COLUMNS = ("case", "seed", "solver", "inputs", "error", "seconds", "parameters")
HEADING = (
    "equation-d",
    "inputs",
    "seeds",
    "low_dim: parameters",
    "kept",
    "s",
    "default: parameters",
    "kept",
    "s",
    "ratio",
)
QUICK = {"points": {"interior": 40, "test": 100, "validation": 40}}


class Task(NamedTuple):
    """A run of the table."""

    case: str
    seed: int
    solver: str


def measured(task: Task, quick: bool) -> list[Row]:
    """The row of a run."""
    name, dim = task.case.split("-")
    given = {"problem": {"dim": int(dim)}, "seed": task.seed, "verify": False, "compile": False}
    given |= {"slices": {"points": 2, "volume": 0}} | (QUICK if quick else {})
    plan = Plan.of(load(name, task.solver, given, steps=2 if quick else None))
    with TemporaryDirectory() as folder:
        began = time.process_time()
        run = begin(plan, Path(folder, "run.h5"))
        seconds = time.process_time() - began
    found = {"inputs": plan.problem.n_inputs, "error": run.rel_l2, "seconds": seconds, "parameters": plan.parameters}
    return [task._asdict() | found]


def task_of(row: Row) -> Task:
    """The run that a row is of."""
    return Task(row["case"], int(row["seed"]), row["solver"])


def place(row: Row) -> tuple:
    """By which rows are sorted."""
    task = task_of(row)
    return CASES.index(task.case), task.seed, SOLVERS.index(task.solver)


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a case, of the seeds that both solvers have."""
    of: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        of.setdefault(row["case"], {}).setdefault(row["solver"], {})[row["seed"]] = row
    lines = [line(case, solvers) for case, solvers in of.items() if len(solvers) == len(SOLVERS)]
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    title = "# Second order or first"
    return "\n".join([title, "", "\n\n".join(about), "", machine(), "", *markdown(HEADING, lines), ""])


def line(case: str, solvers: dict[str, dict[str, Row]]) -> list:
    """A case: medians over the seeds that both solvers have; the last cell is default's error by that of low_dim."""
    seeds = sorted(set.intersection(*map(set, solvers.values())), key=int)
    median = lambda solver, name: statistics.median(float(solvers[solver][seed][name]) for seed in seeds)
    cells, first = [], solvers["low_dim"][seeds[0]]
    for name in SOLVERS:
        cells += [
            solvers[name][seeds[0]]["parameters"],
            f"{median(name, 'error'):.2e}",
            f"{median(name, 'seconds'):.0f}",
        ]
    ratio = median("default", "error") / median("low_dim", "error")
    return [case, first["inputs"], " ".join(seeds), *cells, f"{ratio:.2g}"]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("choice", __doc__)
    parser.cases(CASES, help="such as poisson-3")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), metavar="NAME")
    quick = "a few steps on few points, to see that all works"
    parser.common(RESULTS / "choice.md", seeds=[0], jobs=1, quick=quick)
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    tasks = [Task(case, seed, solver) for seed in args.seeds for case in args.cases for solver in args.solvers]
    say = lambda task, rows: f"{'-'.join(map(str, task))}: {rows[0]['error']:.3g}, {rows[0]['seconds']:.0f} s"
    work = partial(measured, quick=args.quick)
    Study(args.out, COLUMNS, report, task_of, place).run(work, {task: task for task in tasks}, args.jobs, say)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "choice")
