"""What `python -m kanpde.solve NAME --seed S` gives for each equation of the library in few dimensions.

    python -m benchmarks.library [--cases wave ...] [--seeds 0 1] [--jobs 1] [--runs DIR] [--quick]
        [--out benchmarks/results/library.md] [--render]

Each run is that command, and no other flag, in a process of its own with one thread. Finished runs are kept. Beside the
table lie a CSV of all runs, one of their learning curves, and a figure of these.

error is the relative l2 error of the weights that the validation loss chose, of all fields together and of each: the
mean over the seeds and its sample standard deviation. target is what was asked for. worst time is when the error of one
time is largest, and that error. seconds are the processor time of the whole command. lines are those of the YAML file,
and those of the class without docstrings and blank lines. Settings were tuned with the seed 0.
"""

import argparse
import ast
import inspect
import math
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.common.machine import machine
from benchmarks.common.study import (
    RESULTS,
    Parser,
    Row,
    Seeded,
    Study,
    exiting,
    keep,
    kept,
    markdown,
    over_seeds,
    program,
    solving,
    spread,
)
from kanpde.config import shipped
from kanpde.problems import LOW_DIM
from kanpde.records.run import replacing
from kanpde.runs.models import Run
from kanpde.runs.summary import worst_time

TARGETS = {  # the relative l2 errors that were asked for, where any was
    "burgers": 1e-3,
    "allen_cahn_1d": 1e-2,
    "kdv": 1e-2,
    "schroedinger": 1e-2,
    "wave": 1e-3,
    "helmholtz": 1e-4,
    "stl_diffusion": 3e-2,
    "stokes": 3e-2,
    "cavity": 3e-2,
    "plate": 1e-3,
    "elasticity": 3e-2,
}
NUMBERS = ("error", "worst_time", "worst_error", "steps", "cpu_seconds", "parameters", "yaml_lines", "class_lines")
COLUMNS = ("case", "seed", *NUMBERS[:1], "fields", *NUMBERS[1:], "reference", "machine")
CURVES = ("case", "seed", "step", "wall_seconds", "error")
QUICK = ("--steps", "2", "--no-verify", "--set", "points.test=200", "--set", "evaluation.every=1")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito


def trained(task: Seeded, args: argparse.Namespace) -> list[Row]:
    """The row of a run, once it has ended, its curve among the others; none where it failed, which its log explains."""
    path, log = args.runs / f"{task.stem}.h5", args.runs / f"{task.stem}.log"
    whole = not path.is_file()
    new = lambda: [task.case, "--seed", str(task.seed), *(QUICK if args.quick else ())]
    code, minutes = program(solving(path, new), log, one_thread=True)
    return [] if code else [measured(Run.open(path), task, 60 * minutes if whole else math.nan)]


def measured(run: Run, task: Seeded, seconds: float) -> Row:
    """What the table says of a run that took so many seconds of processor time, nan where only a part is known."""
    attrs, (worst, by) = run.attrs, worst_time(run) or (math.nan, math.nan)
    several = run.fields if len(run.fields) > 1 else ()
    numbers = {
        "error": run.rel_l2,
        "worst_time": worst,
        "worst_error": by,
        "steps": attrs["steps"],
        "cpu_seconds": seconds,
        "parameters": attrs["parameters"],
        "yaml_lines": yaml_lines(task.case),
        "class_lines": class_lines(LOW_DIM[task.case]),
    }
    return {
        **{"case": task.case, "seed": str(task.seed)},
        **{name: f"{value:.6g}" for name, value in numbers.items()},
        "fields": " ".join(f"{field}={attrs[f'rel_l2_best/{field}']:.4g}" for field in several),
        "reference": reference(task.case),
        "machine": f"{machine().partition(',')[0]}, {attrs['threads']} threads, torch {attrs['torch_version']}",
    }


def yaml_lines(case: str) -> int:
    """Lines of the file of a problem, comments among them."""
    return sum(bool(line.strip()) for line in shipped(f"{case}.yaml").read_text(encoding="utf-8").splitlines())


def class_lines(problem: type) -> int:
    """Lines of a class, without docstrings and blank lines."""
    source = textwrap.dedent(inspect.getsource(problem))
    rows = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            said = node.body[0]
            rows[said.lineno - 1 : said.end_lineno] = [""] * (said.end_lineno - said.lineno + 1)
    return sum(bool(row.strip()) for row in rows)


def reference(case: str) -> str:
    """Where the solution is from: a closed form, or a computation with the difference of two resolutions."""
    if LOW_DIM[case]().reference is None:
        return "closed"
    with np.load(shipped(f"references/{case}.npz")) as file:
        return f"computed, to {float(file['difference']):.0e}"


def curve(run: Run, task: Seeded) -> list[Row]:
    """The errors of a run by the time of its loop."""
    columns = (run.history[name] for name in ("step", "wall_s", "rel_l2"))
    rows = zip(*columns, strict=True)
    return [dict(zip(CURVES, (*task, int(step), float(s), float(e)), strict=True)) for step, s, e in rows]


def study(out: Path) -> Study:
    """The rows and the table, case by case."""
    return Study(out, COLUMNS, report, task_of, place)


def place(row: Row) -> tuple[int, int]:
    """In the order of the library."""
    return list(LOW_DIM).index(row["case"]), int(row["seed"])


def task_of(row: Row) -> Seeded:
    """The run that a row is of."""
    return Seeded(row["case"], int(row["seed"]))


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a case."""
    heading = "case|error|target|fields|worst time|seeds|steps|seconds|parameters|lines: YAML|class|reference"
    cases = {case: [row for row in rows if row["case"] == case] for case in LOW_DIM}
    lines = [line(case, own) for case, own in cases.items() if own]
    machines = sorted({row["machine"] for row in rows})
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    figure = "![learning curves](figures/library.png)"
    table = markdown(heading.split("|"), lines)
    return "\n".join(
        ["# The library in few dimensions", "", "\n\n".join(about), "", *machines, "", *table, "", figure, ""]
    )


def line(case: str, rows: Sequence[Row]) -> list[str]:
    """A case: means over its seeds."""
    of = lambda name: [value for row in rows if (value := float(row[name])) == value]
    several = lambda name: " to ".join(f"{value:,.0f}" for value in dict.fromkeys((min(of(name)), max(of(name)))))
    mean = statistics.mean(of("error"))
    parts = [dict(part.split("=") for part in row["fields"].split()) for row in rows]
    fields = {name: statistics.mean(float(part[name]) for part in parts) for name in parts[0]}
    times, errors = of("worst_time"), of("worst_error")
    return [
        f"`{case}`",
        spread(of("error"), ".2g", ".1g"),
        f"{asked:.0e}, {'reached' if mean <= asked else 'missed'}" if (asked := TARGETS.get(case)) else "-",
        ", ".join(f"{name} {value:.2g}" for name, value in fields.items()) or "-",
        f"{times[int(np.argmax(errors))]:.3g}: {max(errors):.2g}" if errors else "-",
        " ".join(row["seed"] for row in rows),
        several("steps"),
        several("cpu_seconds") if of("cpu_seconds") else "-",
        several("parameters"),
        f"{float(rows[0]['yaml_lines']):.0f}",
        f"{float(rows[0]['class_lines']):.0f}",
        rows[0]["reference"],
    ]


def drawn(rows: Sequence[Row]) -> Figure:
    """Learning curves, a panel each, a line a seed; dashed is the target."""
    cases = [case for case in LOW_DIM if any(row["case"] == case for row in rows)]
    across = min(4, max(len(cases), 1))
    down = -(-len(cases) // across) or 1
    figure = Figure(figsize=(3 * across, 2.3 * down), layout="constrained")
    panels = iter(figure.subplots(down, across, squeeze=False).flat)
    for case, ax in zip(cases, panels, strict=False):
        own = [row for row in rows if row["case"] == case]
        for seed, colour in zip(sorted({row["seed"] for row in own}, key=int), COLOURS, strict=False):
            points = [(float(row["wall_seconds"]), float(row["error"])) for row in own if row["seed"] == seed]
            ax.plot(*zip(*points, strict=True), color=colour, lw=1.4, label=f"seed {seed}")
        if case in TARGETS:
            ax.axhline(TARGETS[case], color="0.4", lw=0.9, ls=(0, (4, 1.5)))
        ax.set(yscale="log", title=case)
        ax.title.set_fontsize(10)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.25, lw=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in panels:
        ax.set_axis_off()
    figure.supxlabel("seconds of the loop", fontsize=10)
    figure.supylabel("relative l2 error", fontsize=10)
    return figure


def rendered(out: Path, runs: Path) -> None:
    """The curves of the runs that there are, beside those kept before, and the figure."""
    where = out.with_name(f"{out.stem}_curves.csv")
    tasks = [task_of(row) for row in study(out).rows()]
    before = {}
    for row in kept(where, CURVES):
        before.setdefault(task_of(row), []).append(row)
    new = {t: curve(Run.open(path), t) for t in tasks if (path := runs / f"{t.stem}.h5").is_file()}
    every = before | new
    rows = [row for task in tasks for row in every.get(task, ())]
    keep(where, CURVES, rows, digits=4)
    study(out).add()
    picture = out.parent / "figures" / f"{out.stem}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    with replacing(picture) as temporary:
        drawn(kept(where, CURVES)).savefig(temporary, format="png", dpi=110)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("library", __doc__)
    parser.cases(list(LOW_DIM), help="such as wave")
    parser.common(RESULTS / "library.md", seeds=[0], jobs=1, quick="two steps of each, on few points", render=True)
    args = over_seeds(parser, argv, study, trained, lambda rows: rows[0]["error"])
    rendered(args.out, args.runs)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "library")
