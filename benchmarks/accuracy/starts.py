"""What a start in closed form is worth below d = 1000: the default solver as it was, and from `start: ladder`.

    python -m benchmarks.starts [--cases poisson-20 poisson:scaled-20 ...] [--backbones kan metakan] [--seeds 0]
        [--starts network ladder] [--steps 600] [--jobs 1] [--quick] [--out benchmarks/results/starts.md]

The same points, seeds and steps for each start, one after the other: kept is the relative l2 error of the weights that
the validation loss chose, start that before the first step, s the processor time of the whole run, the start included.
A run of other steps than the solver's 3000 has the same schedule, shorter. The two of a pair are `better` or `worse` by
more than a quarter, else `even`; beside the errors stand the validation losses, by which a run would choose.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.common.budget import QUICK
from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde import train
from kanpde.backbones import BACKBONES
from kanpde.problems import PDES, Problem

BALLS = ("poisson", "allen_cahn", "sine_gordon")
CASES = [f"{name}-{d}" for d in (5, 20, 100) for name in BALLS] + ["heat-10", "hjb-10"]
CASES += ["poisson:scaled-20", "poisson:coupled-20"]
STARTS = ("network", "constant", "ladder")
COLUMNS = ("case", "backbone", "seed", "steps", "start", "before", "error", "validation", "seconds", "kept_step")
EVEN = 1.25  # a ratio of errors that says nothing
HEADING = ("problem", "network", "seed", "steps", "start", "kept", "from the ladder", "ratio", "")
HEADING += ("validation", "from the ladder", "s", "from the ladder")


class Task(NamedTuple):
    """A run of the table."""

    case: str
    backbone: str
    seed: int
    steps: int
    start: str


def problem_of(case: str) -> Problem:
    """The problem poisson:scaled-20, its solution two_body where none is named."""
    name, dim = case.rsplit("-", 1)
    name, _, solution = name.partition(":")
    return PDES[name](int(dim), **({"solution": solution} if solution else {}))


def measured(task: Task, quick: bool) -> list[Row]:
    """The row of a run."""
    given = {"slices": {"points": 2, "volume": 0}, "solver": "default", "backbone": task.backbone, "seed": task.seed}
    with TemporaryDirectory() as folder:
        began = time.process_time()
        given |= {"steps": task.steps, "start": task.start, "out": Path(folder, "run.h5"), **(QUICK if quick else {})}
        run = train(problem_of(task.case), **given)
        seconds = time.process_time() - began
    found = {"before": run.history["rel_l2"][0], "error": run.rel_l2, "validation": run.attrs["validation_best"]}
    return [task._asdict() | found | {"seconds": seconds, "kept_step": run.attrs["best_step"]}]


def task_of(row: Row) -> Task:
    """The run that a row is of."""
    return Task(row["case"], row["backbone"], int(row["seed"]), int(row["steps"]), row["start"])


def place(row: Row) -> tuple:
    """By which rows are sorted."""
    task = task_of(row)
    return CASES.index(task.case), task.backbone, task.steps, task.seed, STARTS.index(task.start)


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a pair."""
    of = {task_of(row): row for row in rows}
    pairs = [(row, of[found]) for task, row in of.items() if (found := task._replace(start="ladder")) in of]
    lines = [line(was, ladder) for was, ladder in pairs if was["start"] != "ladder"]
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    return "\n".join(["# Where a run starts", "", "\n\n".join(about), "", machine(), "", *markdown(HEADING, lines), ""])


def line(was: Row, ladder: Row) -> list:
    """A pair: the errors, their ratio and what it says, validation losses, seconds."""
    ratio = float(ladder["error"]) / float(was["error"])
    says = "better" if ratio < 1 / EVEN else "worse" if ratio > EVEN else "even"
    number = lambda row, name: float(row[name])
    before = f"{number(was, 'error'):.3g}", f"{number(ladder, 'error'):.3g} (start {number(ladder, 'before'):.2g})"
    return [
        *(was[name] for name in ("case", "backbone", "seed", "steps", "start")),
        *before,
        f"{ratio:.2f}",
        says,
        number(was, "validation"),
        number(ladder, "validation"),
        *(f"{number(row, 'seconds'):.0f}" for row in (was, ladder)),
    ]


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("starts", __doc__)
    parser.cases(CASES, help="such as poisson:scaled-20")
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["kan", "metakan"], metavar="NAME")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=["network", "ladder"])
    parser.add_argument("--steps", type=int, default=600)
    parser.common(RESULTS / "starts.md", seeds=[0], jobs=1, quick="a few steps of few points, to see that all works")
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "steps": 1, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    tasks = [
        Task(case, backbone, seed, 8 if args.quick else args.steps, start)
        for seed in args.seeds
        for case in args.cases
        for backbone in args.backbones
        for start in args.starts
    ]
    say = lambda task, rows: f"{'-'.join(map(str, task))}: {rows[0]['error']:.3g}, {rows[0]['seconds']:.0f} s"
    work = partial(measured, quick=args.quick)
    Study(args.out, COLUMNS, report, task_of, place).run(work, {task: task for task in tasks}, args.jobs, say)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "starts")
