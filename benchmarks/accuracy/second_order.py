"""Optimisers of second order on the same network and points: what is left after the same steps, and what they take.

    python -m benchmarks.second_order [--cases stokes wave ...] [--methods gauss_newton ...] [--seeds 0 1 2]
        [--steps 100] [--jobs 1] [--quick] [--out benchmarks/results/second_order.md]

Each run is a shipped file with its network, points and weights, all of its phases replaced by the one method. kept is
the relative l2 error of the weights that the validation loss chose; s the processor time of the run. Errors and times
are medians over the seeds; the last columns are ratios to Gauss-Newton, above one where it leaves more or takes longer.
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
from kanpde import train
from kanpde.config import load
from kanpde.problems import LOW_DIM

CASES = ("stokes", "plate", "helmholtz", "wave", "advection_diffusion", "fokker_planck", "elasticity")
METHODS = {
    "gauss_newton": {"optimizer": "gauss_newton"},
    "straight": {"optimizer": "levenberg_marquardt", "options": {"acceleration": 0.0}},
    "levenberg_marquardt": {"optimizer": "levenberg_marquardt"},
}
COLUMNS = ("case", "seed", "steps", "method", "error", "loss", "seconds", "parameters")
HEADING = ("problem", "parameters", "steps", "seeds", "Gauss-Newton: kept", "s", "without acceleration: kept", "s")
HEADING += ("Levenberg-Marquardt: kept", "s", "Gauss-Newton's error / its", "its time / Gauss-Newton's")
QUICK = {"interior": 40, "test": 100, "validation": 40}  # points


class Task(NamedTuple):
    """A run of the table."""

    case: str
    seed: int
    steps: int
    method: str


def measured(task: Task, quick: bool) -> list[Row]:
    """The row of a run."""
    phases = [METHODS[task.method] | {"steps": task.steps}]
    given = {"phases": phases, "seed": task.seed, "verify": False, "slices": {"points": 2, "volume": 0}}
    config = load(task.case, overrides=given | ({"points": QUICK} if quick else {}))
    with TemporaryDirectory() as folder:
        began = time.process_time()
        run = train(LOW_DIM[task.case](), config=config, out=Path(folder, "run.h5"))
        seconds = time.process_time() - began
    found = {"error": run.rel_l2, "loss": run.attrs["validation_best"], "seconds": seconds}
    return [task._asdict() | found | {"parameters": run.attrs["parameters"]}]


def task_of(row: Row) -> Task:
    """The run that a row is of."""
    return Task(row["case"], int(row["seed"]), int(row["steps"]), row["method"])


def place(row: Row) -> tuple:
    """By which rows are sorted."""
    task = task_of(row)
    return CASES.index(task.case), task.steps, task.seed, list(METHODS).index(task.method)


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a problem and number of steps, of the seeds that each method has."""
    of: dict[tuple, dict[str, dict[str, Row]]] = {}
    for row in rows:
        of.setdefault((row["case"], row["steps"]), {}).setdefault(row["method"], {})[row["seed"]] = row
    lines = [line(*key, methods) for key, methods in of.items() if len(methods) == len(METHODS)]
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    title = "# Optimisers of second order"
    return "\n".join([title, "", "\n\n".join(about), "", machine(), "", *markdown(HEADING, lines), ""])


def line(case: str, steps: str, methods: dict[str, dict[str, Row]]) -> list:
    """A problem: medians over the seeds that all methods have, and ratios of these."""
    seeds = sorted(set.intersection(*map(set, methods.values())), key=int)
    median = lambda method, name: statistics.median(float(methods[method][seed][name]) for seed in seeds)
    cells = [cell for method in METHODS for cell in (median(method, "error"), f"{median(method, 'seconds'):.0f}")]
    before, *_, now = METHODS
    ratios = (median(a, name) / median(b, name) for a, b, name in ((before, now, "error"), (now, before, "seconds")))
    parameters = methods[now][seeds[0]]["parameters"]
    return [f"`{case}`", parameters, steps, " ".join(seeds), *cells, *(f"{ratio:.2g}" for ratio in ratios)]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("second_order", __doc__)
    parser.cases(CASES, help="such as wave")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    parser.add_argument("--steps", type=int, default=100)
    quick = "a few steps on few points, to see that all works"
    parser.common(RESULTS / "second_order.md", seeds=[0], jobs=1, quick=quick)
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "steps": 1, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    steps = 2 if args.quick else args.steps
    tasks = [Task(case, seed, steps, method) for seed in args.seeds for case in args.cases for method in args.methods]
    say = lambda task, rows: f"{'-'.join(map(str, task))}: {rows[0]['error']:.3g}, {rows[0]['seconds']:.0f} s"
    work = partial(measured, quick=args.quick)
    Study(args.out, COLUMNS, report, task_of, place).run(work, {task: task for task in tasks}, args.jobs, say)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "second_order")
