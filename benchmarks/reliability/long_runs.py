"""A run of many steps: time of a step and memory as it goes, while another process reads its file.

    python -m benchmarks.long_runs [--steps 100000] [--every 50] [--out benchmarks/results/long_runs.md]

A small KAN that fits a formula, as what could grow with the steps is all around it: history, checkpoint, result file,
what Python and torch keep. Every second this process reads the whole file, by `Run.open` and by h5py alone, and the
resident memory of the run. The time of a step is that of all that happens between two evaluations, these and writing
included, by the clock and of the processor, which other work on the machine does not slow down.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import h5py
import torch

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, at_least, deliver, exiting, keep, kept, markdown
from kanpde.config import load
from kanpde.ground.errors import ConfigError
from kanpde.records.run import RunFileError, replacing
from kanpde.runs.api import begin
from kanpde.runs.models import Run
from kanpde.training.plan import Plan

COLUMNS = ("step", "ms", "cpu_ms", "memory_mb", "file_kb", "reads", "failed_reads")
SETS = ("points.interior=16", "points.test=100", "points.validation=50", "backbone.widths=[3]", "slices.points=5")
SETS += ("slices.volume=0", "compile=false", "verify=false")
WINDOWS = 100  # of steps, a row each


def work(steps: int, every: int, out: Path, log: Path) -> None:
    """The run; a line of the log for each evaluation: the step, and the seconds of the processor so far."""
    torch.set_num_threads(1)
    sets = [*SETS, f"evaluation.every={every}", f"phases=[{{optimizer: adam, steps: {steps}}}]"]
    with log.open("a", buffering=1, encoding="utf-8") as file:
        note = lambda state: file.write(f"{state.step} {time.process_time()}\n") and None
        begin(Plan.of(load("feynman", None, {"backbone": "kan"}, sets, None)), out, on_evaluation=note)


def measure(steps: int, every: int) -> list[Row]:
    """A row for each window of steps: the last step, the median time of one, and what was seen from outside."""
    with tempfile.TemporaryDirectory(prefix="long-runs-") as folder:
        out, log = Path(folder) / "long.h5", Path(folder) / "cpu.txt"
        process = get_context("spawn").Process(target=work, args=(steps, every, out, log))
        process.start()
        seen = [{"step": 0, "reads": 0, "failed_reads": 0}]
        while process.is_alive():
            time.sleep(1)
            seen.append(seen[-1] | (look(out, seen[-1]) if out.exists() else {}) | {"memory_mb": resident(process.pid)})
        process.join()
        if process.exitcode:
            raise ConfigError(f"the run ended with {process.exitcode}")
        history = Run.open(out).history
        lines = [line.split() for line in log.read_text(encoding="utf-8").splitlines()]
    of_clock = per_step(history["step"], history["wall_s"])
    of_processor = per_step([int(step) for step, _ in lines], [float(seconds) for _, seconds in lines])
    rows, width = [], max(every, steps // WINDOWS)
    for last in range(width, steps + 1, width):
        median = lambda times, last=last: statistics.median(ms for s, ms in times if last - width < s <= last)
        while_it_went = [each for each in seen if each["step"] <= last and each.get("memory_mb")]
        rows.append(
            (while_it_went or seen)[-1] | {"step": last, "ms": median(of_clock), "cpu_ms": median(of_processor)}
        )
    return rows


def per_step(at: Sequence[float], seconds: Sequence[float]) -> list[tuple[int, float]]:
    """(step, ms a step since the evaluation before) of evaluations."""
    between = zip(pairwise(at), pairwise(seconds), strict=True)
    return [(int(b), 1e3 * (v - u) / (b - a)) for (a, b), (u, v) in between]


def look(out: Path, last: Row) -> Row:
    """All of a file as another process finds it."""
    try:
        step = int(Run.open(out).history["step"][-1])
        with h5py.File(out) as file:
            file.visititems(lambda name, node: node[()] if isinstance(node, h5py.Dataset) else None)
    except (RunFileError, OSError, KeyError, RuntimeError) as error:
        print(f"a read that failed: {error}", file=sys.stderr)
        return {"failed_reads": last["failed_reads"] + 1}
    return {"step": step, "reads": last["reads"] + 1, "file_kb": out.stat().st_size / 1024}


def resident(pid: int) -> float | None:
    """Resident memory of a process in 2^20 bytes; None: it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), None)


def ends(rows: list[Row], column: str) -> tuple[float, float]:
    """The medians of a column over the second tenth of the rows, when all is warm, and over the last."""
    n = max(1, len(rows) // 10)
    of = lambda part: statistics.median(float(row[column]) for row in part if row[column] not in ("", None))
    return of(rows[n : 2 * n] or rows), of(rows[-n:])


def report(rows: list[Row], every: int) -> str:
    """Markdown: the second tenth of the run beside the last."""
    lines = ["# A long run", "", "![time of a step and memory](figures/long_runs.png)", ""]
    lines += [f"`python -m benchmarks.long_runs`, on {machine()}, load {os.getloadavg()[0]:.1f} at the end."]
    lines += [
        f"{int(rows[-1]['step']):,} steps of Adam, an evaluation every {every}, read once a second meanwhile.",
        "",
    ]
    names = {
        "ms": "time of a step, ms",
        "cpu_ms": "of the processor",
        "memory_mb": "resident memory, MB",
        "file_kb": "result file, kB",
    }
    table = [[said, *ends(rows, column)] for column, said in names.items()]
    table = [[said, first, last, last / first] for said, first, last in table]
    lines += markdown(["median over", "second tenth", "last tenth", "ratio"], table)
    reads, failed = int(rows[-1]["reads"]), int(rows[-1]["failed_reads"])
    return "\n".join([*lines, "", f"{reads + failed} reads of the file while it was written, {failed} failed."]) + "\n"


def picture(rows: list[Row], path: Path) -> None:
    """Time of a step and memory over the steps, from 0 on."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    for axes, (column, said) in zip(
        figure.subplots(1, 2), {"ms": "time of a step, ms", "memory_mb": "resident memory, MB"}.items(), strict=True
    ):
        there = [row for row in rows if row[column] not in ("", None)]
        axes.plot([int(row["step"]) for row in there], [float(row[column]) for row in there], label="by the clock")
        if column == "ms":
            axes.plot(
                [int(row["step"]) for row in there], [float(row["cpu_ms"]) for row in there], label="of the processor"
            )
            axes.legend()
        axes.set(xlabel="step", ylabel=said, ylim=(0, None))
        axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("long_runs", __doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=50, help="steps between two evaluations")
    args: argparse.Namespace = parser.common(RESULTS / "long_runs.md", render=True).parse_args(argv)
    at_least(args, {"steps": 20, "every": 1})
    table = args.out.with_suffix(".csv")
    if not args.render:
        keep(table, COLUMNS, measure(args.steps, args.every))
    rows = kept(table, COLUMNS, lambda row: float(row["ms"]))
    if not rows:
        raise ConfigError(f"{table}: no rows")
    picture(rows, args.out.parent / "figures" / "long_runs.png")
    deliver(report(rows, args.every), args.out)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "long_runs")
