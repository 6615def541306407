"""Slabs of time against one network for all times: what is left after the same steps in all, and what they take.

    python -m benchmarks.slabs [--cases kdv burgers ...] [--slabs 1 2 4] [--weight 100] [--seeds 0] [--steps 200]
        [--jobs 1] [--quick] [--out benchmarks/results/slabs.md]

Each run is a shipped file with its network and points; of several slabs each has a network of that size and its part of
the steps. 1 is the run of the file, whose initial values are built in; in slabs they are left to the loss, with the
weight of the file or another one. error is the relative l2 error of the weights that the validation loss chose, worst
that at the worst time, jump the root mean square of what u jumps by where one slab ends and the next begins, relative
to u; s the processor time of the run. All are medians over the seeds.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde import train
from kanpde.config import load
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.problems import LOW_DIM
from kanpde.runs.summary import worst_time

CASES = ("kdv", "burgers", "allen_cahn_1d", "kuramoto_sivashinsky", "wave")
COLUMNS = ("case", "seed", "steps", "slabs", "weight", "error", "worst", "jump", "seconds", "parameters")
HEADING = (
    "problem",
    "steps",
    "seeds",
    "slabs",
    "weight of initial values",
    "parameters",
    "error",
    "worst",
    "jump",
    "s",
)
QUICK = {"interior": 40, "test": 100, "validation": 40}  # points
OF_FILE = "file"  # a weight that is that of the file
POINTS = 1000  # at which a jump is measured


class Task(NamedTuple):
    """A run of the table."""

    case: str
    seed: int
    steps: int
    slabs: int
    weight: str


def measured(task: Task, quick: bool) -> list[Row]:
    """The row of a run."""
    given = {"seed": task.seed, "verify": False, "slices": {"points": 2, "volume": 0}}
    given |= {"slabs": task.slabs} if task.slabs > 1 else {}
    given |= {} if task.weight == OF_FILE else {"loss": {"weights": {"initial": float(task.weight)}}}
    config = load(task.case, overrides=given | ({"points": QUICK} if quick else {}), steps=task.steps)
    with TemporaryDirectory() as folder:
        began = time.process_time()
        run = train(LOW_DIM[task.case](), config=config, out=Path(folder, "run.h5"))
        seconds, u = time.process_time() - began, run.load_model()
    _, worst = worst_time(run) or (None, float("nan"))
    found = {"error": run.rel_l2, "worst": worst, "jump": jump(u), "seconds": seconds}
    return [task._asdict() | found | {"parameters": run.attrs["parameters"]}]


@torch.no_grad()
def jump(u: Ansatz) -> float:
    """What u jumps by between slabs, relative to u there; NaN: it is continuous."""
    if u.continuous:
        return float("nan")
    domain, gaps, sizes = u.problem.domain, [], []
    for end in u.net.ends[:-1]:
        x = domain.at_time(end, POINTS, stream(0, "jump"), dtype=torch.float64)
        after = x.clone()
        after[:, -1] = torch.nextafter(after[:, -1], after[:, -1] + 1)
        before = u(x)
        gaps.append(u(after) - before)
        sizes.append(before)
    return (torch.cat(gaps).norm() / torch.cat(sizes).norm()).item()


def task_of(row: Row) -> Task:
    """The run that a row is of."""
    return Task(row["case"], int(row["seed"]), int(row["steps"]), int(row["slabs"]), str(row["weight"]))


def place(row: Row) -> tuple:
    """By which rows are sorted."""
    task = task_of(row)
    return CASES.index(task.case), task.steps, task.slabs, task.weight != OF_FILE, task.weight, task.seed


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a problem, number of steps and of slabs, and weight."""
    of: dict[tuple, list[Row]] = {}
    for row in rows:
        of.setdefault((row["case"], row["steps"], row["slabs"], row["weight"]), []).append(row)
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    lines = [line(*key, runs) for key, runs in of.items()]
    return "\n".join(["# Slabs of time", "", "\n\n".join(about), "", machine(), "", *markdown(HEADING, lines), ""])


def line(case: str, steps: str, slabs: str, weight: str, runs: list[Row]) -> list:
    """Medians over the seeds."""
    median = lambda name: statistics.median(float(run[name]) for run in runs)
    seeds = " ".join(str(run["seed"]) for run in runs)
    found = (median(name) for name in ("error", "worst", "jump"))
    return [f"`{case}`", steps, seeds, slabs, weight, runs[0]["parameters"], *found, f"{median('seconds'):.0f}"]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("slabs", __doc__)
    parser.cases(CASES, help="such as kdv", default=["kdv"])
    parser.add_argument("--slabs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--weight", default=OF_FILE, help="of initial values in slabs")
    parser.add_argument("--steps", type=int, default=200)
    parser.common(RESULTS / "slabs.md", seeds=[0], jobs=1, quick="a few steps on few points, to see that all works")
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "steps": 1, "slabs": 1, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    steps = 2 * max(args.slabs) if args.quick else args.steps
    of = lambda slabs: args.weight if slabs > 1 else OF_FILE
    runs = [(case, seed) for seed in args.seeds for case in args.cases]
    tasks = [Task(*run, steps, slabs, of(slabs)) for run in runs for slabs in args.slabs]
    say = lambda task, rows: f"{'-'.join(map(str, task))}: {rows[0]['error']:.3g}, {rows[0]['seconds']:.0f} s"
    work = partial(measured, quick=args.quick)
    Study(args.out, COLUMNS, report, task_of, place).run(work, {task: task for task in tasks}, args.jobs, say)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "slabs")
