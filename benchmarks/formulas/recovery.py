"""The 100 Feynman equations from their rows alone: how well they are fitted, and which formulas are found again.

    python -m benchmarks.recovery [--equations I.12.5 ...] [--seconds 60] [--jobs 2] [--sides kanpde pykan]
        [--peer PYTHON] [--quick] [--render] [--out benchmarks/results/recovery.md]

Both sides see the same 1000 rows and have the same time and one thread in a process beside this one. The kanpde side
is `kanpde.recover.recover`, which knows no units; the pykan side is `benchmarks.pykan_fit` in the interpreter --peer,
where pykan is installed. "fitted": the mean square error of the best model on 1000 test rows is below 1e-6 of their
variance. "recovered": the formula, as text, is within 1e-9 of the equation (relative l2) on 1000 fresh points.

Rows in the CSV beside --out count as done; the table is rendered after each of them.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, above_zero, at_least, exiting, markdown
from kanpde.ground.errors import ConfigError
from kanpde.problems import Feynman
from kanpde.problems.equations import equations

SIDES = ("kanpde", "pykan")
ROWS = 1000
FITTED = 1e-6  # mean square error, as a share of the variance
RECOVERED = 1e-9  # relative l2 error on fresh points
QUICK_SECONDS = 5.0
GRACE = 60.0  # seconds that a pykan process may take to start and end
COLUMNS = ("equation", "side", "relative_mse", "formula_error", "found", "seconds", "cpu_seconds", "allowed", "machine")


@dataclass(frozen=True)
class Task:
    """One equation on one side, with so many seconds."""

    equation: str
    side: str
    seconds: float
    peer: str = ""


def samples(name: str) -> dict[str, torch.Tensor]:
    """Rows (N, d + 1) of an equation: train, test, and fresh, which no side ever sees."""
    domain = Feynman(equation=name).domain
    draw = lambda kind: domain.held_out(kind, 0, ROWS, torch.Generator())
    return {
        "train": domain.interior(ROWS, torch.Generator(), dtype=torch.float64),
        "test": draw("test"),
        "fresh": draw("fresh"),
    }


def relative_mse(found: torch.Tensor, y: torch.Tensor) -> float:
    """Mean square error as a share of the variance of y."""
    return ((found - y).square().mean() / y.var(correction=0)).item()


def formula_error(text: str, names: Sequence[str], rows: torch.Tensor) -> float:
    """Relative l2 error of a formula at rows; infinite where it has no value."""
    import sympy

    from kanpde.interpret.expression import values_at

    expr = sympy.sympify(text, locals={name: sympy.Symbol(name) for name in names})
    left = (values_at(expr, names, rows[:, :-1]) - rows[:, -1]).norm() / rows[:, -1].norm()
    return left.item() if left.isfinite() else float("inf")


def by_kanpde(task: Task, rows: dict[str, torch.Tensor]) -> Row:
    """Our search."""
    from kanpde.recover.recover import recover

    names, train, test = Feynman(equation=task.equation).names, rows["train"], rows["test"]
    cpu = time.process_time()
    found = recover(train[:, :-1], train[:, -1], names, task.seconds)
    text = "" if found.formula is None else str(found.formula)
    return {
        "relative_mse": relative_mse(found.model(test[:, :-1]), test[:, -1]) if found.model else float("inf"),
        "formula_error": formula_error(text, names, rows["fresh"]) if text else float("inf"),
        "found": text,
        "seconds": found.seconds,
        "cpu_seconds": time.process_time() - cpu,
    }


def by_pykan(task: Task, rows: dict[str, torch.Tensor]) -> Row:
    """pykan's fit and symbolic search, in its own interpreter."""
    arrays = {}
    for part in ("train", "test"):
        arrays |= {f"x_{part}": rows[part][:, :-1].numpy(), f"y_{part}": rows[part][:, -1].numpy()}
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "rows.npz", Path(folder) / "report.json"
        np.savez(source, **arrays)
        words = [task.peer, "-m", "benchmarks.formulas.pykan_fit", str(source), str(target), "--symbolic"]
        done = subprocess.run(
            [*words, "--seconds", str(task.seconds)], capture_output=True, text=True, timeout=task.seconds + GRACE
        )
        if not target.is_file():
            raise ConfigError(f"pykan on {task.equation}: {(done.stderr.strip().splitlines() or ['no report'])[-1]}")
        report = json.loads(target.read_text())
    text = report.get("formula", "")
    names = [f"x_{i + 1}" for i in range(rows["train"].shape[1] - 1)]
    errors = [report.get(key, float("inf")) for key in ("relative_mse", "formula_relative_mse")]
    return {
        "relative_mse": min(errors),
        "formula_error": formula_error(text, names, rows["fresh"]) if text else float("inf"),
        "found": text,
        "seconds": report["seconds"],
        "cpu_seconds": report["cpu_seconds"],
    }


def measure(task: Task) -> list[Row]:
    """The row of a task, in a process that does one at a time."""
    found = {"kanpde": by_kanpde, "pykan": by_pykan}[task.side](task, samples(task.equation))
    return [{"equation": task.equation, "side": task.side, **found, "allowed": task.seconds, "machine": machine()}]


# ---------------------------------------------------------------------------------------------------------------
# The table


def is_fitted(row: Row) -> bool:
    return float(row["relative_mse"]) < FITTED


def is_recovered(row: Row) -> bool:
    return float(row["formula_error"]) <= RECOVERED


def study(out: Path) -> Study:
    """The rows and the table, in the order of the equations."""
    order = list(equations("feynman"))
    place = lambda row: (order.index(row["equation"]), SIDES.index(row["side"]))
    return Study(out, COLUMNS, report, lambda row: (row["equation"], row["side"]), place)


def report(rows: Sequence[Row]) -> str:
    """Markdown: what each side has reached, and on the equations that all have done; then a line for each row."""
    lines = ["# Feynman equations from their rows", "", *RULE, ""]
    lines += [f"- {name}" for name in sorted({str(row["machine"]) for row in rows})]
    of = {side: own for side in SIDES if (own := [row for row in rows if row["side"] == side])}
    lines += [f"- {side}, {len(own)} equations: {reached(own)}" for side, own in of.items()]
    if len(of) > 1:
        common = set.intersection(*({row["equation"] for row in own} for own in of.values()))
        lines += [f"- on the {len(common)} equations that {' and '.join(of)} have done:"]
        for side, own in of.items():
            lines += [f"  - {side}: {reached([row for row in own if row['equation'] in common])}"]
    return "\n".join([*lines, "", *markdown(HEADING, map(line, rows), "lllrrllrrl")]) + "\n"


def line(row: Row) -> list[str]:
    """The cells of a row."""
    return [
        row["equation"],
        f"`{equations('feynman')[row['equation']].formula.text}`",
        row["side"],
        *(f"{float(row[key]):.1e}" for key in ("relative_mse", "formula_error")),
        *("yes" if passed(row) else "" for passed in (is_fitted, is_recovered)),
        *(f"{float(row[key]):.0f}" for key in ("seconds", "cpu_seconds")),
        f"`{shortened(str(row['found']))}`" if row["found"] else "",
    ]


def reached(rows: Sequence[Row]) -> str:
    """How many of these are fitted and recovered, and what it took."""
    spent = sum(float(row["cpu_seconds"]) for row in rows) / 60
    counts = f"{sum(map(is_fitted, rows))} fitted, {sum(map(is_recovered, rows))} recovered"
    return f"{counts}; {spent:.1f} minutes of processor time"


def shortened(text: str, length: int = 100) -> str:
    """The beginning of a long formula; the CSV has all of it."""
    return (text if len(text) <= length else f"{text[:length]} ...").replace("|", "\\|")


RULE = (
    "`python -m benchmarks.recovery`. Models and formulas from 1000 rows, one thread, equal time for each side. MSE:",
    "mean square error on 1000 test rows over their variance, of the best model; fitted: below 1e-6. Error: relative",
    "l2 error of the formula on 1000 fresh points; recovered: at most 1e-9. Seconds: of the clock, of the processor.",
)
HEADING = ["equation", "formula", "side", "MSE", "error", "fitted", "recovered", "s", "cpu s", "found"]


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, do what is not there yet, and render."""
    args = arguments(words)
    seconds = QUICK_SECONDS if args.quick else args.seconds
    tasks = [Task(name, side, seconds, args.peer) for name in args.equations for side in args.sides]
    wanted = {} if args.render else {(task.equation, task.side): task for task in tasks}
    study(args.out).run(measure, wanted, args.jobs, said)


def said(task: Task, rows: Sequence[Row]) -> str:
    """A line about the row of a task."""
    (row,) = rows
    fitted, recovered = ("yes" if passed(row) else "no" for passed in (is_fitted, is_recovered))
    return f"{task.equation} {task.side} fitted: {fitted}, recovered: {recovered}, {row['found']}"


def arguments(words: Sequence[str] | None):
    """The command line, checked."""
    parser = Parser("recovery", __doc__)
    parser.cases(list(equations("feynman")), "equation", "--equations")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["kanpde"])
    parser.add_argument("--seconds", type=float, default=60.0, help="for each equation and side")
    parser.add_argument("--peer", default="", metavar="PYTHON", help="the interpreter that has pykan")
    parser.common(RESULTS / "recovery.md", jobs=2, quick="a few seconds each, to see that it works", render=True)
    args = parser.parse_args(words)
    above_zero(args, "seconds")
    at_least(args, {"jobs": 1})
    if "pykan" in args.sides and not args.peer and not args.render:
        raise ConfigError("--sides pykan needs --peer, the Python interpreter that has pykan")
    return args


if __name__ == "__main__":
    exiting(main, "recovery")
