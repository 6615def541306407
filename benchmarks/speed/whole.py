"""What a whole command costs at high dimension, from its start to its pictures, and what memory, of two checkouts.

    python -m benchmarks.whole --before CHECKOUT [--dim 100000] [--steps 10] [--start constant] [--repeats 1]
        [--out benchmarks/results/whole.md]

`python -m kanpde.solve allen_cahn --dim D --steps STEPS --set start=START`, each a process of its own on one thread;
--before is another checkout of kanpde, such as `git worktree add ../before 69df4df`, the other side the one that this
script is of. They take turns, and of --repeats the median is quoted: seconds by the clock and of the processor, and the
largest resident set of the whole process. A --start that the other checkout does not know is measured on this side
alone. Rows of other dimensions, steps, starts and checkouts before are kept.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import TemporaryDirectory

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from benchmarks.speed.unchanged import HERE, commit
from kanpde.ground.errors import ConfigError
from kanpde.runs.models import Run

COLUMNS = (
    "dim",
    "steps",
    "start",
    "against",
    "side",
    "commit",
    "seconds",
    "processor_s",
    "peak_MB",
    "error",
    "test_points",
)
HEADING = ("d", "steps", "start", "side", "commit", "s", "processor s", "peak MB", "error", "on points", "s / before")


def ran(checkout: Path, dim: int, steps: int, start: str) -> Row | None:
    """One run of the command by a checkout; None: it refuses the start."""
    with TemporaryDirectory() as folder:
        out = Path(folder, "run.h5")
        words = ["allen_cahn", "--dim", str(dim), "--steps", str(steps), "--set", f"start={start}", "--out", str(out)]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        began = time.perf_counter()
        command = [sys.executable, "-m", "kanpde.solve", *words]
        process = Popen(command, cwd=folder, env=environment, stdout=DEVNULL, stderr=DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode == 2:
            return None
        if process.returncode:
            raise ConfigError(f"{' '.join(words)} in {checkout}: exit code {process.returncode}")
        run = Run.open(out)
        return {
            "seconds": time.perf_counter() - began,
            "processor_s": usage.ru_utime + usage.ru_stime,
            "peak_MB": usage.ru_maxrss / 2**10,
            "error": run.rel_l2,
            "test_points": run.attrs["test_points"],
        }


def compared(args: argparse.Namespace) -> list[Row]:
    """A row of each side."""
    sides, found = {"before": args.before.resolve(), "now": HERE}, {"before": [], "now": []}
    for _ in range(args.repeats):
        for side, checkout in sides.items():
            found[side].append(ran(checkout, args.dim, args.steps, args.start))
    of_case = {"dim": args.dim, "steps": args.steps, "start": args.start, "against": commit(sides["before"])}
    rows = []
    for side, checkout in sides.items():
        if runs := [run for run in found[side] if run is not None]:
            medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            rows.append(of_case | {"side": side, "commit": commit(checkout)} | medians)
    return rows


def case_of(row: Row) -> tuple:
    """The command that a row is of, and what was before."""
    return int(row["dim"]), int(row["steps"]), row["start"], row["against"]


def report(rows: Sequence[Row]) -> str:
    """Markdown."""
    before = {case_of(row): float(row["seconds"]) for row in rows if row["side"] == "before"}
    lines = []
    for row in rows:
        seconds, reference = float(row["seconds"]), before.get(case_of(row), float("nan"))
        numbers = f"{seconds:.0f}", f"{float(row['processor_s']):.0f}", f"{float(row['peak_MB']):,.0f}"
        about = (*case_of(row)[:3], row["side"], row["commit"])
        lines.append([*about, *numbers, float(row["error"]), row["test_points"], seconds / reference])
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    return "\n".join(["# A whole command", "", "\n\n".join(about), "", machine(), "", *markdown(HEADING, lines), ""])


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("whole", __doc__)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--dim", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--start", default="constant", help="constant, ladder, ...")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.common(RESULTS / "whole.md").parse_args(argv)
    at_least(args, {"dim": 3, "steps": 1, "repeats": 1})
    if not (args.before / "kanpde" / "__init__.py").is_file():
        raise ConfigError(f"--before {args.before}: no checkout of kanpde")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and add the rows to the table."""
    args = parsed(argv)
    place = lambda row: (*case_of(row), row["side"])
    Study(args.out, COLUMNS, report, case_of, place).add(compared(args))
    print(args.out)


if __name__ == "__main__":
    exiting(main, "whole")
