"""Unknowns and their standard errors: a = 2 + 3 x of -(a u')' = f, from 200 values of u with noise of 0.02.

    python -m benchmarks.inverse [--seeds 0 1 2 3 4 5 6 7 8 9] [--jobs 1] [--quick]
        [--out benchmarks/results/inverse.md]

The shipped problem `inverse_diffusion` with its own solver; a seed draws the points and the noise. A number found is
`off` by so much per cent, and by z of the standard errors that the run states for it, which knows nothing of the truth.
Cramer and Rao: what a standard error is at least, for any unbiased estimate from these points, by finite differences
of the solution, which the run does not use. Seconds are processor time.
"""

import argparse
import json
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
from kanpde import config
from kanpde.problems import InverseDiffusion
from kanpde.runs.api import begin
from kanpde.training.plan import Plan

TRUTH = {"a0": 2.0, "a1": 3.0}
COLUMNS = ("seed", *(f"{name}{part}" for name in TRUTH for part in ("", "_error", "_least")), "misfit", "seconds")
HEADING = ("seed", *(f"{name}{part}" for name in TRUTH for part in ("", ": off", ": z")), "misfit / noise", "s")


class Task(NamedTuple):
    """A run of the table."""

    seed: int


def measured(task: Task, quick: bool) -> list[Row]:
    """The row of a run."""
    sets = [f"problem.seed={task.seed}", "verify=false", "slices.volume=0"]
    with TemporaryDirectory() as folder:
        began = time.process_time()
        run = begin(
            Plan.of(config.load("inverse_diffusion", sets=sets, steps=3 if quick else None)), Path(folder, "run.h5")
        )
        seconds = time.process_time() - began
    errors, least = json.loads(run.attrs["standard_errors"]), cramer_rao(InverseDiffusion(seed=task.seed))
    row: Row = {"seed": task.seed, "misfit": run.attrs["misfit_over_noise"], "seconds": seconds}
    kept = list(run.history["step"]).index(run.attrs["best_step"])
    for name in TRUTH:
        row |= {
            name: run.history[f"parameters/{name}"][kept],
            f"{name}_error": errors[name],
            f"{name}_least": least[name],
        }
    return [row]


def cramer_rao(problem: InverseDiffusion) -> dict[str, float]:
    """The least standard errors of any unbiased estimate."""
    by = slopes(problem)
    return dict(zip(TRUTH, torch.linalg.inv(by.mT @ by).diagonal().sqrt().tolist(), strict=True))


def slopes(problem: InverseDiffusion, cells: int = 2000, step: float = 1e-3) -> torch.Tensor:
    """du/da (n, 2) at the points over the noise: central differences of the solution on a grid of finite volumes."""
    x, _ = problem.seen
    grid = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    source = problem.source(grid.unsqueeze(1))

    def solution(truth: dict[str, float]) -> torch.Tensor:
        a = truth["a0"] + truth["a1"] * (grid[:-1] + grid[1:]) / 2  # -(a u')' = f, so a u' = C - F
        inner = torch.cumsum(source[1:-1], 0) / cells
        flux = torch.cat([inner.new_zeros(1), inner])
        constant = (flux / a).sum() / (1 / a).sum()
        u = torch.cat([flux.new_zeros(1), torch.cumsum((constant - flux) / a, 0) / cells])
        at = (x[:, 0] * cells).long().clamp(0, cells - 1)
        return u[at] + (x[:, 0] * cells - at) * (u[at + 1] - u[at])

    moved = lambda name, by: solution(TRUTH | {name: TRUTH[name] + by})
    return torch.stack([(moved(name, step) - moved(name, -step)) / (2 * step) for name in TRUTH], 1) / problem.noise


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a seed, and what they say together."""
    of = lambda row, name: float(row[name])
    off = lambda row, name: of(row, name) - TRUTH[name]
    z = lambda row, name: off(row, name) / of(row, f"{name}_error")
    of_number = lambda row, name: (
        f"{of(row, name):.4f} ± {of(row, f'{name}_error'):.2g}",
        f"{off(row, name) / TRUTH[name]:+.1%}",
        f"{z(row, name):+.2f}",
    )
    last = lambda row: (f"{of(row, 'misfit'):.3f}", f"{of(row, 'seconds'):.0f}")
    lines = [[row["seed"], *(text for name in TRUTH for text in of_number(row, name)), *last(row)] for row in rows]
    count = lambda holds: sum(all(holds(row, name) for name in TRUTH) for row in rows)
    near, agree = count(lambda r, n: abs(off(r, n)) <= 0.02 * TRUTH[n]), count(lambda r, n: abs(z(r, n)) <= 2)
    both = (
        f"Of {len(rows)} runs both numbers are within 2 % in {near}, within two of their standard errors in {agree}. "
    )
    for name, truth in TRUTH.items():
        stated, least = (statistics.median(of(row, f"{name}_{part}") for row in rows) for part in ("error", "least"))
        spread = statistics.stdev(off(row, name) for row in rows) if len(rows) > 1 else float("nan")
        both += f"{name}: standard error {stated:.3g} (Cramer and Rao {least:.3g}, {least / truth:.1%}), "
        both += f"spread {spread:.3g}. "
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    table = markdown(HEADING, lines)
    return "\n".join(["# Unknowns", "", "\n\n".join(about), "", machine(), "", both.strip(), "", *table, ""])


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("inverse", __doc__)
    parser.common(RESULTS / "inverse.md", seeds=[*range(10)], jobs=1, quick="three steps, to see that all works")
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    tasks = [Task(seed) for seed in args.seeds]
    say = lambda task, rows: f"seed {task.seed}: {rows[0]['a0']:.4f}, {rows[0]['a1']:.4f}"
    study = Study(args.out, COLUMNS, report, lambda row: Task(int(row["seed"])), lambda row: int(row["seed"]))
    study.run(partial(measured, quick=args.quick), {task: task for task in tasks}, args.jobs, say)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "inverse")
