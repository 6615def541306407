"""How long to five digits of Burgers' equation with nu = 0.01: kanpde, DeepXDE, Levenberg-Marquardt in plain torch.

    python -m benchmarks.race [--sides chebykan ...] [--seeds 0] [--seconds 600] [--jobs 1] [--quick]
        [--out benchmarks/results/race.md] [--render]      (needs pip install -e '.[bench]')

Each side has --seconds of processor time on one thread, in double precision. What is asked of it are errors of 1e-3,
1e-4, 1e-5 and 1e-6: the relative l2 error at 20 000 points, looked at as the training goes on; looking at the others
does not count, kanpde's evaluations and validation do. The time is that of the first look at which an error is
below, - where none was. DeepXDE has the network, points and rates of its documented example: with Adam and L-BFGS, of
which Adam has at most half of the time, and with Adam, L-BFGS and NNCG, of which the first has a quarter and the second
the next. Plain torch is `benchmarks/accuracy/plain_lm.py`, a network of the same size. kanpde has the case `burgers` of
`benchmarks.precision`: the degree of chebykan, the intervals of kan and the points rise from phase to phase.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.accuracy.beside_deepxde import known
from benchmarks.accuracy.precision import CASES, LM
from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown, with_figure
from kanpde.config import load
from kanpde.problems import Burgers
from kanpde.runs.api import begin
from kanpde.training.plan import Plan

NU = 0.01
GOALS = (1e-3, 1e-4, 1e-5, 1e-6)
EVERY = 4.0  # seconds between two looks at the others
CASE = CASES["burgers"]
COLUMNS = ("side", "seed", "limit", "error", "seconds", "parameters", "curve")


class Task(NamedTuple):
    """A training of the table."""

    side: str
    seed: int
    limit: int


class Watch:
    """Errors against the seconds of a training that is interrupted to look at them.

    Args:
        x, u: test points (n, 2), and what is right there.
        limit: the seconds of the training.
    """

    def __init__(self, x: np.ndarray, u: np.ndarray, limit: float):
        self.x, self.u, self.limit = x, u, limit
        self.curve: list[tuple[float, float]] = []
        self.began, self.looked = time.process_time(), 0.0

    def seconds(self) -> float:
        """Those of the training alone."""
        return time.process_time() - self.began - self.looked

    def over(self, predict: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Whether the time is over; now and then the error of what predicts u is noted."""
        seconds = self.seconds()
        over = seconds > self.limit
        if over or not self.curve or seconds > self.curve[-1][0] + EVERY:
            here = time.process_time()
            off = np.asarray(predict(self.x)).reshape(self.u.shape) - self.u
            self.curve.append((seconds, float(np.linalg.norm(off) / np.linalg.norm(self.u))))
            self.looked += time.process_time() - here
        return over


def of_kanpde(backbone: str, task: Task, watch: Watch, quick: bool) -> int:
    """A run with one of our networks; returns its parameters."""
    given = {"problem": dict(CASE.problem), "points": CASE.given["points"], "verify": False, "seed": task.seed}
    given |= {"backbone": {"name": backbone, **CASE.nets[backbone]}}
    given |= {"phases": [{**LM, **phase} for phase in CASE.phases[backbone]]}
    given |= {"evaluation": {"every": 5}, "slices": {"points": 2, "volume": 0}}
    if quick:
        points = {**CASE.given["points"], "interior": 60}
        given |= {"phases": [{**LM, "steps": 4}], "points": points, "evaluation": {"every": 1}}
    plan = Plan.of(load("burgers", "low_dim", given))

    def evaluated(state) -> bool:
        watch.curve.append((watch.seconds(), float(state.row["rel_l2"])))
        return watch.seconds() > watch.limit

    with TemporaryDirectory() as folder:
        begin(plan, Path(folder, "run.h5"), on_evaluation=evaluated)
    return plan.parameters


def of_deepxde(shares: Mapping[str, float], task: Task, watch: Watch, quick: bool) -> int:
    """DeepXDE, of whose optimisers each has the time until its share of all is over."""
    os.environ["DDE_BACKEND"] = "pytorch"
    from benchmarks.accuracy import deepxde_problems as deepxde  # only here: it is for this process alone

    example = deepxde.Burgers(NU)
    model = deepxde.begun(example, None, double=True, seed=task.seed)
    for optimizer, share in shares.items():
        until = share * watch.limit
        deepxde.train(
            model, example, optimizer, lambda until=until: watch.over(model.predict) or watch.seconds() > until
        )
    return sum(p.numel() for p in model.net.parameters())


def of_plain(task: Task, watch: Watch, quick: bool) -> int:
    """Levenberg-Marquardt in plain torch."""
    from benchmarks.accuracy import plain_lm

    plain_lm.solve(NU, task.seed, lambda u: watch.over(lambda x: u(torch.from_numpy(x)).numpy()))
    return sum(p.numel() for p in plain_lm.network(torch.Generator()).parameters())


SIDES: dict[str, Callable[[Task, Watch, bool], int]] = {
    "chebykan": partial(of_kanpde, "chebykan"),
    "kan": partial(of_kanpde, "kan"),
    "plain Levenberg-Marquardt": of_plain,
    "DeepXDE, L-BFGS": partial(of_deepxde, {"adam": 0.5, "L-BFGS": 1.0}),
    "DeepXDE, NNCG": partial(of_deepxde, {"adam": 0.25, "L-BFGS": 0.5, "NNCG": 1.0}),
}


def measured(task: Task, quick: bool) -> list[Row]:
    """The row of a training."""
    x, u = known(Burgers(nu=NU))
    watch = Watch(x, u, 1.0 if quick else task.limit)
    parameters = SIDES[task.side](task, watch, quick)
    seconds, error = watch.curve[-1]
    curve = " ".join(f"{s:.1f}:{e:.2e}" for s, e in watch.curve)
    return [task._asdict() | {"error": error, "seconds": seconds, "parameters": parameters, "curve": curve}]


def task_of(row: Row) -> Task:
    """The training that a row is of."""
    return Task(row["side"], int(row["seed"]), int(row["limit"]))


def place(row: Row) -> tuple:
    """By which rows are sorted."""
    task = task_of(row)
    return list(SIDES).index(task.side), task.limit, task.seed


def pairs(row: Row) -> list[tuple[float, float]]:
    """(seconds, error) of a row."""
    return [tuple(map(float, pair.split(":"))) for pair in str(row["curve"]).split()]


def reached(row: Row, goal: float) -> str:
    """The seconds at which the error is below a goal first."""
    return next((f"{seconds:.0f}" for seconds, error in pairs(row) if error < goal), "-")


def last(row: Row) -> tuple[str, str]:
    """Its error, and after how many seconds."""
    return f"{float(row['error']):.1e}", f"{float(row['seconds']):.0f}"


def report(rows: Iterable[Row]) -> str:
    """Markdown: a line a training."""
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    heading = ["side", "seed", "parameters", *(f"s to {goal:.0e}" for goal in GOALS), "error", "after s"]
    lines = [
        [*(row[name] for name in ("side", "seed", "parameters")), *(reached(row, goal) for goal in GOALS), *last(row)]
        for row in rows
    ]
    table = markdown(heading, lines)
    figure = "![errors against time](race.png)"
    return "\n".join(["# A race to five digits", "", "\n\n".join(about), "", machine(), "", *table, "", figure, ""])


def drawn(rows: Sequence[Row]) -> Figure:
    """Errors against time, a line a training."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    for row in rows:
        number = list(SIDES).index(row["side"])
        label = row["side"] if row["seed"] == rows[0]["seed"] else None
        panel.loglog(*zip(*[(max(s, 0.1), e) for s, e in pairs(row)], strict=True), color=f"C{number}", label=label)
    panel.set(xlabel="processor seconds", ylabel="relative l2 error", title=f"Burgers, nu = {NU}")
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    return figure


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("race", __doc__)
    parser.cases(list(SIDES), "side", "--sides", help="such as chebykan")
    parser.add_argument("--seconds", type=int, default=600)
    parser.common(RESULTS / "race.md", seeds=[0], jobs=1, quick="a second of each, on few points", render=True)
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "seconds": 1, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    tasks = [Task(side, seed, args.seconds) for seed in args.seeds for side in args.sides]
    say = lambda task, rows: f"{task.side}, seed {task.seed}: {rows[0]['error']:.3g}, {rows[0]['seconds']:.0f} s"
    study = Study(args.out, COLUMNS, report, task_of, place)
    with_figure(study, tasks, measured, args, say, drawn)


if __name__ == "__main__":
    exiting(main, "race")
