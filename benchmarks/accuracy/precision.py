"""How many digits steps of second order reach in few dimensions, by networks of several kinds, within minutes.

    python -m benchmarks.precision [--cases burgers ...] [--nets chebykan kan metakan mlp] [--seeds 0 1 2]
        [--seconds 600] [--jobs 1] [--quick] [--out benchmarks/results/precision.md] [--render]

Each run is a shipped equation under `low_dim` with the network and the points of `CASES`, Levenberg-Marquardt steps in
double precision, where u is sharp with a degree of chebykan and points that grow from phase to phase, until --seconds
have passed or no step makes the loss smaller. kept is the relative l2 error of the weights that the validation loss
chose, the median over the seeds; s the seconds until then. best is the network with the least such error. asked for is
what this project asked of a KAN in ten minutes, published what others report, on GPUs. The figure has errors against
time. The networks of multiscale and wave see the waves of the solution's frequencies, which these cases state.
"""

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown, with_figure
from kanpde import Run, RunFailed
from kanpde.config import load
from kanpde.runs.api import begin
from kanpde.training.plan import Plan

STEPS = 100_000  # more than there is time for
KEPT = 60  # points of a curve
LM = {"optimizer": "levenberg_marquardt"}


class Case(NamedTuple):
    """An equation as it is solved here.

    Attributes:
        problem: name and options.
        asked: the error that was asked of a KAN; None: none was.
        published: by whom, and what.
        given: values of the configuration.
        nets: options of networks by name, other than those of the solver.
        phases: of networks by name, the first ones of which each has some steps; None: there is one.
    """

    problem: Mapping[str, Any]
    asked: float | None = None
    published: str = ""
    given: Mapping[str, Any] = {}
    nets: Mapping[str, Mapping[str, Any]] = {}
    phases: Mapping[str, Sequence[Mapping[str, Any]]] = {}


def rising(*stages: tuple[int, ...]) -> list[dict[str, int]]:
    """Phases of so many steps, polynomials of such a degree, which the first phase has already, and if said points."""
    phases = [dict(zip(("steps", "degree", "points"), stage, strict=False)) for stage in stages]
    del phases[0]["degree"]
    return phases


DEEP = {
    "chebykan": {"widths": [10, 10], "degree": 4},
    "kan": {"widths": [8, 8], "grid_size": 6, "spline_order": 5},
}
RISING = {"chebykan": rising((35, 4), (25, 6), (30, 8), (STEPS, 10))}
SQUARES = {"widths": [10], "grid_size": 2, "spline_order": 3, "base": "none", "hidden_range": [-8, 8]}
LEARNED = {"meta_hidden": 4, "meta_share": "layer"}  # of an edge one number, of each layer a line of functions
WIDE = {**SQUARES, "hidden_range": [-12, 12]}
WAVES = {"chebykan": {"widths": [12], "degree": 2, "squash": "none"}, "kan": WIDE, "metakan": {**WIDE, **LEARNED}}
SOFT = {"constraint": "soft", "loss": {"weights": {"dirichlet": 100, "initial": 100}}}
STAY = {"refresh": "fixed", "adapt": None, "sequence": "sobol"}
CASES = {
    "poisson_pairs": Case(
        {"name": "poisson_pairs"},
        1e-10,
        nets={
            "chebykan": {"widths": [10], "degree": 2, "squash": "none"},
            "kan": SQUARES,
            "metakan": {**SQUARES, **LEARNED},
        },
    ),
    "poisson_cos": Case(
        {"name": "poisson_cos"},
        1e-10,
        nets={
            "chebykan": {"widths": [], "degree": 20, "squash": "none"},
            "kan": {"widths": [], "grid_size": 24, "spline_order": 7, "base": "none"},
        },
    ),
    "multiscale": Case({"name": "multiscale"}, 1e-7, nets=WAVES),
    "wave": Case(
        {"name": "wave"},
        1e-7,
        given={
            **SOFT,
            "frequencies": {"x": [0.5, 2], "t": [1, 4]},
            "points": {"interior": 1000, "boundary": 300},
        },
        nets={**WAVES, "chebykan": {**WAVES["chebykan"], "widths": [8]}},
    ),
    "helmholtz": Case({"name": "helmholtz"}, nets={"chebykan": {"widths": [12], "degree": 16}}),
    "burgers": Case(
        {"name": "burgers", "nu": 0.01},
        1e-7,
        "DSGNAR 8.0e-14 (346 s, H100)",
        {"points": STAY},
        DEEP | {"kan": {"widths": [8, 8], "grid_size": 4, "spline_order": 5, "hidden_range": [-2, 2]}},
        {
            "chebykan": rising((35, 4, 3000), (25, 6, 4000), (30, 8, 6000), (40, 10, 8000), (STEPS, 12, 10_000)),
            "kan": [
                {"steps": 40, "points": 3000},
                {"steps": 40, "grid_size": 8, "points": 5000},
                {"steps": STEPS, "grid_size": 16, "points": 8000},
            ],
        },
    ),
    "burgers_steep": Case({"name": "burgers"}, 1e-5, "SSBroyden 8.3e-9", nets=DEEP, phases=RISING),
    "allen_cahn_1d": Case({"name": "allen_cahn_1d"}, 1e-4, "SSBroyden 1.9e-6", nets=DEEP, phases=RISING),
    "kdv": Case(
        {"name": "kdv"},
        1e-4,
        "SSBroyden 2.2e-6",
        {"points": STAY},
        DEEP,
        {"chebykan": rising((40, 4, 4000), (30, 6, 6000), (40, 8, 10_000), (STEPS, 10, 14_000))},
    ),
    "cavity": Case(
        {"name": "cavity"},
        1e-4,
        given={"points": {**STAY, "sequence": "random", "adapt": {"candidates": 4}}},
        nets=DEEP,
        phases={"chebykan": rising((35, 4, 1500), (25, 6, 3000), (15, 8, 5000), (15, 8, 5500), (STEPS, 8, 7000))},
    ),
    "ball_5": Case(
        {"name": "poisson", "dim": 5},
        1e-7,
        given={"points": {"interior": 8000}},  # all from the start: few leave spikes in five dimensions that stay
        nets={"chebykan": {"widths": [14, 6], "degree": 4}},
        phases={"chebykan": rising((30, 4), (30, 6), (STEPS, 8))},
    ),
    "ball_10": Case(
        {"name": "poisson", "dim": 10},
        1e-5,
        given={"points": {"interior": 12_000}},
        nets={"chebykan": {"widths": [16, 8], "degree": 4}},
        phases={"chebykan": rising((40, 4), (STEPS, 6))},
    ),
}
NETS = ("chebykan", "kan", "metakan", "mlp")
COLUMNS = ("case", "net", "seed", "limit", "error", "seconds", "steps", "loss", "parameters", "curve")
HEADING = ("case", *(f"{net}: parameters | kept | s" for net in NETS), "best", "asked for", "published")
QUICK = {"interior": 40, "test": 100, "validation": 40}


class Task(NamedTuple):
    """A run of the table."""

    case: str
    net: str
    seed: int
    limit: int


def measured(task: Task, quick: bool) -> list[Row]:
    """The row of a run."""
    case, curve = CASES[task.case], []
    points = dict(case.given.get("points", {})) | (QUICK if quick else {})
    phases = [{**LM, **phase} for phase in case.phases.get(task.net, [{"steps": STEPS}])]
    phases = [{**LM, "steps": 2}] if quick else phases
    given = {**case.given, "problem": dict(case.problem), "points": points, "phases": phases, "seed": task.seed}
    given |= {"backbone": {"name": task.net, **case.nets.get(task.net, {})}, "stop": {"seconds": task.limit}}
    given |= {"verify": False, "slices": {"points": 2, "volume": 0}, "evaluation": {"every": 5}}
    plan = Plan.of(load(case.problem["name"], "low_dim", given))
    with TemporaryDirectory() as folder:
        began, path = time.monotonic(), Path(folder, "run.h5")
        try:
            run = begin(plan, path)
        except RunFailed:  # of which the best weights are kept
            run = Run.open(path)
        seconds = time.monotonic() - began
    rows = list(zip(run.history["wall_s"], run.history["rel_l2"], strict=True))
    curve = rows[:: max(1, len(rows) // KEPT)] + rows[-1:]
    found = {"error": run.rel_l2, "seconds": seconds, "steps": int(run.history["step"][-1])}
    found |= {"loss": float(run.history["loss"][-1]), "parameters": plan.parameters}
    return [task._asdict() | found | {"curve": " ".join(f"{s:.1f}:{e:.2e}" for s, e in curve)}]


def task_of(row: Row) -> Task:
    """The run that a row is of."""
    return Task(row["case"], row["net"], int(row["seed"]), int(row["limit"]))


def place(row: Row) -> tuple:
    """By which rows are sorted."""
    task = task_of(row)
    return list(CASES).index(task.case), NETS.index(task.net), task.limit, task.seed


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a case."""
    of: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        of.setdefault(row["case"], {}).setdefault(row["net"], []).append(row)
    heading = [part for cell in HEADING for part in cell.split(" | ")]
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    lines = [line(case, nets) for case, nets in of.items()]
    title = "# Digits in few dimensions"
    figure = "![errors against time](precision.png)"
    return "\n".join([title, "", "\n\n".join(about), "", machine(), "", *markdown(heading, lines), "", figure, ""])


def line(case: str, nets: Mapping[str, Sequence[Row]]) -> list:
    """A case: of each network the median over its runs."""
    cells, kept = [], {}
    for net in NETS:
        rows = nets.get(net, ())
        if not rows:
            cells += ["", "", ""]
            continue
        kept[net] = statistics.median(float(row["error"]) for row in rows)
        seconds = statistics.median(float(row["seconds"]) for row in rows)
        cells += [rows[0]["parameters"], f"{kept[net]:.1e}", f"{seconds:.0f}"]
    asked = CASES[case].asked
    return [
        f"`{case}`",
        *cells,
        min(kept, key=kept.__getitem__),
        f"{asked:.0e}" if asked else "",
        CASES[case].published,
    ]


def drawn(rows: Sequence[Row]) -> Figure:
    """Errors against time, a panel a case, a line a run."""
    cases = [case for case in CASES if any(row["case"] == case for row in rows)]
    columns = min(4, len(cases))
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for case, panel in zip(cases, panels, strict=False):
        of_case, named = [row for row in rows if row["case"] == case], set()
        for row in of_case:
            pairs = [tuple(map(float, pair.split(":"))) for pair in str(row["curve"]).split()]
            label = None if row["net"] in named else row["net"]
            named.add(row["net"])
            panel.loglog(
                *zip(*[(max(s, 0.1), e) for s, e in pairs], strict=True),
                color=f"C{NETS.index(row['net'])}",
                label=label,
            )
        if asked := CASES[case].asked:
            panel.axhline(asked, color="0.6", linestyle=":")
        panel.set(title=case, xlabel="s")
        panel.grid(alpha=0.3)
        panel.legend(fontsize="x-small")
    for panel in list(panels):
        panel.remove()
    figure.supylabel("relative l2 error")
    return figure


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("precision", __doc__)
    parser.cases(list(CASES), help="such as wave")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NAME")
    parser.add_argument("--seconds", type=int, default=600)
    quick = "a few steps on few points, to see that all works"
    parser.common(RESULTS / "precision.md", seeds=[0, 1, 2], jobs=1, quick=quick, render=True)
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "seconds": 1, "jobs": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    tasks = [Task(c, net, seed, args.seconds) for seed in args.seeds for c in args.cases for net in args.nets]
    say = lambda task, rows: f"{'-'.join(map(str, task))}: {rows[0]['error']:.3g}, {rows[0]['seconds']:.0f} s"
    study = Study(args.out, COLUMNS, report, task_of, place)
    with_figure(study, tasks, measured, args, say, drawn)


if __name__ == "__main__":
    exiting(main, "precision")
