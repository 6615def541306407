"""Six equations of the library by kanpde and by DeepXDE, in the same time: errors, and lines to write.

    python -m benchmarks.beside_deepxde [--cases wave ...] [--seeds 0] [--jobs 1] [--runs DIR] [--quick]
        [--out benchmarks/results/beside_deepxde.md] [--render]      (needs pip install -e '.[bench]')

kanpde is `python -m kanpde.solve NAME --seed S` and nothing else. DeepXDE, from the registry, then trains for as many
seconds of processor time as that whole command took, but a minute at least, with the networks, points of the
conditions, rates and iterations of Adam of its documented examples (benchmarks/accuracy/deepxde_problems.py), and
L-BFGS in the time that is left. It does so three times: on the interior points that kanpde begins with, in single and
in double precision, and on those of its example in single precision, its default. The table has the smallest error of
the three; the CSV has all. One thread each.

error is the relative l2 error of all fields at the 20 000 points that kanpde's error is of, of the inverse problem the
larger relative error of the two unknown numbers. ratio is that of DeepXDE by that of kanpde. lines are those without
blank ones and docstrings of a statement, without an exact solution that it does not use, and of the settings: kanpde's
YAML file, and in DeepXDE network, points and optimiser, and those that make data and model, compile and train.
"""

import argparse
import inspect
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.accuracy.library import QUICK, class_lines, yaml_lines
from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Seeded, Study, exiting, markdown, over_seeds, program, solving
from kanpde.ground.samplers import stream
from kanpde.problems import LOW_DIM, Problem
from kanpde.runs.models import Run
from kanpde.runs.stored import config_of
from kanpde.runs.summary import unknowns
from kanpde.training.known import Known

CASES = ("burgers", "allen_cahn_1d", "schroedinger", "wave", "helmholtz", "inverse_diffusion")
EXACT = {"a0": 2.0, "a1": 3.0}  # the numbers of inverse_diffusion
LEAST = 60.0  # seconds of DeepXDE
TRIALS = {"our points, single": (True, False), "our points, double": (True, True), "its points, single": (False, False)}
COLUMNS = ("case", "seed", "side", "error", "cpu_seconds", "steps", "statement_lines", "settings_lines", "machine")


def compared(task: Seeded, args: argparse.Namespace) -> list[Row]:
    """kanpde's row and those of DeepXDE; none where kanpde failed, which its log explains."""
    path = args.runs / f"{task.stem}.h5"
    path.unlink(missing_ok=True)  # what counts is the time of the whole command
    words = [task.case, "--seed", str(task.seed), *(QUICK if args.quick else ())]
    code, minutes = program(solving(path, lambda: words), args.runs / f"{task.stem}.log", one_thread=True)
    if code:
        return []
    seconds = 60 * minutes
    run = Run.open(path)
    points = started_from(run)
    budget = 1.0 if args.quick else max(seconds, LEAST)
    return [of_kanpde(run, task, seconds), *(of_deepxde(task, side, points, budget) for side in TRIALS)]


def of_kanpde(run: Run, task: Seeded, seconds: float) -> Row:
    """The row of a run that took so many seconds of processor time."""
    found = {name: value for name, (_, value) in unknowns(run).items()}
    problem = LOW_DIM[task.case]
    return row(task, "kanpde", off(found) if found else run.rel_l2, seconds, str(run.attrs["steps"])) | {
        "statement_lines": class_lines(problem)
        - (0 if "self.exact(" in inspect.getsource(problem) else exact_lines(problem)),
        "settings_lines": yaml_lines(task.case),
    }


def of_deepxde(task: Seeded, side: str, points: np.ndarray, seconds: float) -> Row:
    """The row of DeepXDE in one of its settings after so many seconds."""
    os.environ["DDE_BACKEND"] = "pytorch"
    from benchmarks.accuracy import deepxde_problems as deepxde  # only here: it is for this process alone

    ours, double = TRIALS[side]
    problem = LOW_DIM[task.case]()
    begin = time.process_time()
    model, example, adam, lbfgs = deepxde.trained(
        task.case, points if ours else None, double, seconds, task.seed, time.process_time
    )
    seconds = time.process_time() - begin
    x, u = known(problem)
    found = {name: value.item() for name, value in zip(EXACT, example.unknowns, strict=False)}
    predicted = model.predict(x.astype(np.float64 if double else np.float32)).reshape(u.shape)
    error = off(found) if found else float(np.linalg.norm(predicted - u) / np.linalg.norm(u))
    return row(task, side, error, seconds, f"{adam} Adam, {lbfgs} L-BFGS") | {
        "statement_lines": method_lines(type(example).statement),
        "settings_lines": method_lines(type(example).settings) + (6 if example.settings().quasi_newton else 4),
    }


def row(task: Seeded, side: str, error: float, seconds: float, steps: str) -> Row:
    """What both sides say."""
    at = f"{machine().partition(',')[0]}, 1 thread each"
    error, seconds = f"{error:.6g}", f"{seconds:.4g}"
    return {"case": task.case, "seed": str(task.seed), "side": side, "error": error, "steps": steps} | {
        "cpu_seconds": seconds,
        "machine": at,
    }


def off(found: dict[str, float]) -> float:
    """The larger relative error of the unknown numbers."""
    return max(abs(found[name] / exact - 1) for name, exact in EXACT.items())


def started_from(run: Run) -> np.ndarray:
    """The interior points (n, d) that a run begins with, in double precision."""
    config = config_of(run)
    domain, drawn, points = LOW_DIM[config.problem["name"]]().domain, stream(config.seed, "interior"), config.points
    x = domain.interior(points.interior, drawn, points.law, points.sequence, dtype=torch.float64)
    return x.numpy()


def known(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Test points (N, d) and the fields there (N, K) or (N,), in double precision."""
    if problem.reference is not None:
        found = Known.of(problem.reference, problem, 20_000, seed=0)
        return found.x.numpy(), found.u.numpy()
    x = problem.domain.interior(20_000, stream(0, "test"), dtype=torch.float64)
    return x.numpy(), problem.exact(x).numpy()


def exact_lines(problem: type[Problem]) -> int:
    """Lines of its exact solution, where it has one."""
    return method_lines(problem.exact) if "exact" in vars(problem) else 0


def method_lines(method) -> int:
    """Lines of a method, without blank ones."""
    return sum(bool(line.strip()) for line in inspect.getsource(method).splitlines())


def study(out: Path) -> Study:
    """The rows and the table, case by case."""
    place = lambda row: (CASES.index(row["case"]), int(row["seed"]))
    return Study(out, COLUMNS, report, lambda row: Seeded(row["case"], int(row["seed"])), place)


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a case and seed."""
    heading = "case|seed|error|DeepXDE|of|ratio|seconds|DeepXDE|its steps|lines: statement|DeepXDE|settings|DeepXDE"
    lines = [line([r for r in rows if key == (r["case"], r["seed"])]) for key in dict.fromkeys(map(key_of, rows))]
    ours = [int(row["statement_lines"]) for row in rows if row["side"] == "kanpde"]
    median = f"Lines of our statements: {statistics.median(ours):g} in the median, {max(ours)} at most." if ours else ""
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    table = markdown(heading.split("|"), lines)
    machines = sorted({row["machine"] for row in rows})
    head = ["# Beside DeepXDE", "", "\n\n".join(about), "", *machines, ""]
    return "\n".join([*head, *table, "", median, ""])


def key_of(row: Row) -> tuple[str, str]:
    return row["case"], row["seed"]


def line(rows: Sequence[Row]) -> list[str]:
    """A case with one seed."""
    ours, *theirs = sorted(rows, key=lambda row: row["side"] != "kanpde")
    error = lambda row: float(row["error"]) if math.isfinite(float(row["error"])) else math.inf
    best = min(theirs, key=error)
    return [
        f"`{ours['case']}`",
        ours["seed"],
        f"{error(ours):.2g}",
        f"{error(best):.2g}",
        best["side"],
        f"{error(best) / error(ours):.3g}",
        f"{float(ours['cpu_seconds']):.0f}",
        f"{float(best['cpu_seconds']):.0f}",
        best["steps"],
        *(row[f"{part}_lines"] for part in ("statement", "settings") for row in (ours, best)),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("beside_deepxde", __doc__)
    parser.cases(list(CASES), help="such as wave")
    quick = "two steps of ours and a second of DeepXDE"
    parser.common(RESULTS / "beside_deepxde.md", seeds=[0], jobs=1, quick=quick, render=True)
    print(over_seeds(parser, argv, study, compared, lambda rows: ", ".join(line(rows)[2:6])).out)


if __name__ == "__main__":
    exiting(main, "beside_deepxde")
