"""Is the error that is estimated without a solution the true one, and how often does its interval hold it?

    python -m benchmarks.verification [--what shown small wrong] [--cases poisson-5 ...] [--seeds N ...] [--seconds 60]
        [--runs runs/verification] [--jobs 1] [--quick] [--render] [--out benchmarks/results/verification.md]

shown: a run of 400 steps of each case by the default solver of its dimension, and README's main command whole, then
`kanpde.verify` with rel = 0.1, within --seconds.
small: runs of 100 and 400 steps of small networks, ten seeds each, so that many errors of all sizes are judged; rel =
0.1 within 10 s. The share of 95 % intervals that hold the truth is of all that ended in time and of all there are.

wrong: runs that are wrong on purpose, verified with the right statement: the source with the other sign, no boundary
values in the loss, a hundredth of the steps. residual: root mean square of what the training saw as residual, relative
to that of the source: what a norm of the residual alone says. Called wrong: all of the interval is above 0.03.

true: of u and the exact solution on 20 000 points of the same law, which nothing else reads. train, verify: seconds on
one thread. samples: of the defect. A run that is kept under --runs is not trained again.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import pi
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, above_zero, at_least, exiting, markdown
from kanpde import Problem, Run, train, verify
from kanpde.domains import Ball, Box
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.operators import Forward
from kanpde.problems import HJB, AllenCahn, Heat, Poisson, SineGordon
from kanpde.problems.conditions import Dirichlet

COLUMNS = ("what", "case", "seed", "steps", "true", "estimated", "low", "high", "train", "verify", "samples", "method")
COLUMNS += ("residual", "machine")
REL, CONFIDENCE, SMALL_SECONDS = 0.1, 0.95, 10.0
MAIN, SHOWN_STEPS = "allen_cahn-100", 400  # all of the main job, and of others so many steps as say how wrong they are
SMALL_STEPS, SMALL_SEEDS = (100, 400), range(10)


@dataclass(frozen=True)
class Helmholtz(Problem):
    """Lap u + u = g on a domain, with the values of u* = prod_i sin(2 x_i + i)."""

    on: Any = None
    k: float = 1.0

    @property
    def domain(self):
        return self.on

    @property
    def conditions(self):
        return (Dirichlet("boundary", self.exact),)

    def exact(self, x: Tensor) -> Tensor:
        return (2 * x + torch.arange(self.dim, dtype=x.dtype)).sin().prod(1)

    def left_side(self, u, x: Tensor) -> Tensor:
        return u.lap + self.k**2 * u.value

    def source(self, x: Tensor) -> Tensor:
        return (self.k**2 - 4 * self.dim) * self.exact(x)


def part():
    """A surface of triangles, as an STL file holds it: a bent tube."""
    import pyvista

    from kanpde.domains import Surface

    turn = torch.linspace(0, pi, 13, dtype=torch.float64)
    spine = pyvista.Spline(torch.stack([turn.cos(), turn.sin(), 0 * turn], 1).numpy(), 24)
    return Surface(spine.tube(radius=0.4, n_sides=16, capping=True).triangulate().clean())


SHOWN = {
    **{
        f"{name}-{d}": (kind, d)
        for (name, kind), d in product(
            (("poisson", Poisson), ("allen_cahn", AllenCahn), ("sine_gordon", SineGordon)), (5, 20, 100, 1000)
        )
    },
    "heat-10": (Heat, 10),
    "hjb-10": (HJB, 10),
    "helmholtz-box-2": (lambda d: Helmholtz(d, Box(d)), 2),
    "two-balls-3": (lambda d: Helmholtz(d, Ball(d) | Ball(d, 0.8, (1.0, 0.0, 0.0)), 0.0), 3),
    "tube-stl-3": (lambda d: Helmholtz(d, part(), 0.0), 3),
}
SMALL = {
    "poisson-3": (Poisson, 3),
    "poisson-20": (Poisson, 20),
    "allen_cahn-4": (AllenCahn, 4),
    "allen_cahn-20": (AllenCahn, 20),
    "sine_gordon-10": (SineGordon, 10),
    "poisson-soft-3": (Poisson, 3),
    "heat-3": (Heat, 3),
    "hjb-3": (HJB, 3),
    "helmholtz-box-2": SHOWN["helmholtz-box-2"],
    "two-balls-3": SHOWN["two-balls-3"],
}


class Negated:
    """What makes a problem wrong: its source has the other sign."""

    def source(self, x: Tensor) -> Tensor:
        return -super().source(x)


def negated(kind):
    """A class of problems with the other sign of the source."""
    return dataclass(frozen=True)(type(kind.__name__, (Negated, kind), {}))


NO_VALUES = {"constraint": "soft", "points": {"boundary": 50}, "loss": {"weights": {"boundary": 0.0}}}
WRONG = {  # what is trained, the right problem, and options of the run
    "sign-poisson-20": (negated(Poisson)(20), Poisson(20), {"steps": 400}),
    "sign-sine_gordon-20": (negated(SineGordon)(20), SineGordon(20), {"steps": 400}),
    "sign-poisson-3": (negated(Poisson)(3), Poisson(3), {"steps": 400}),
    "sign-heat-3": (negated(Heat)(3), Heat(3), {"steps": 400}),
    "values-poisson-3": (Poisson(3), Poisson(3), {"steps": 400, **NO_VALUES}),
    "values-poisson-20": (Poisson(20), Poisson(20), {"steps": 400, **NO_VALUES}),
    "values-two-balls-3": (
        two := SHOWN["two-balls-3"][0](3),
        two,
        {"steps": 400, **NO_VALUES, "loss": {"weights": {"dirichlet": 0.0}}},
    ),
    "stopped-poisson-20": (Poisson(20), Poisson(20), {"steps": 30}),
    "stopped-sine_gordon-20": (SineGordon(20), SineGordon(20), {"steps": 30}),
    "stopped-heat-3": (Heat(3), Heat(3), {"steps": 30}),
}
SETS = {"shown": SHOWN, "small": SMALL, "wrong": WRONG}
NOT_RIGHT = 0.03


class Cell(NamedTuple):
    """What one run is of."""

    what: str
    case: str
    seed: int
    steps: int  # 0: those of the solver
    seconds: float
    runs: Path
    quick: bool

    @property
    def key(self) -> tuple:
        """Of its row."""
        return self.what, self.case, str(self.seed), str(self.steps)

    @property
    def problem(self) -> Problem:
        if self.what == "wrong":
            return WRONG[self.case][1]
        kind, d = SETS[self.what][self.case]
        return kind(d)

    @property
    def path(self) -> Path:
        return self.runs / f"{self.what}-{self.case}-{self.seed}-{self.steps}.h5"

    def options(self) -> dict:
        """Of the run."""
        given: dict = {"seed": self.seed, "verify": False, "slices": {"points": 2, "volume": 0}}
        if self.quick:
            return given | {"steps": 4, "compile": False, "points": {"test": 64, "validation": 16}}
        if self.what == "shown":
            length = {"steps": self.steps} if self.steps else {}
            return given | {"backbone": "metakan" if self.case == MAIN else "kan"} | length
        small = {"backbone": {"name": "kan", "widths": [16]}, "compile": False, "start": "network"}
        if self.what == "wrong":
            return given | small | WRONG[self.case][2]
        soft = {"constraint": "soft", "points": {"boundary": 100}} if "soft" in self.case else {}
        backbone = {"name": "kan", "widths": [8]} if self.seed % 2 else {"name": "mlp", "widths": [32, 32]}
        return given | soft | {"backbone": backbone, "steps": self.steps, "compile": False}


def key(row: Row) -> tuple:
    """That of the cell of a row."""
    return tuple(str(row[name]) for name in ("what", "case", "seed", "steps"))


def cells(args) -> Iterator[Cell]:
    """All that are asked for."""
    for what in args.what:
        lengths = SMALL_STEPS if what == "small" else (SHOWN_STEPS if what == "shown" else 0,)
        seeds = SMALL_SEEDS if what == "small" and args.seeds == [0] else args.seeds
        seconds = args.seconds if what == "shown" else SMALL_SECONDS
        for name, steps, seed in product(SETS[what], lengths, seeds):
            if not args.cases or name in args.cases:
                steps = 0 if (what, name) == ("shown", MAIN) else steps
                yield Cell(what, name, seed, steps, seconds, args.runs, args.quick)


def measured(cell: Cell) -> list[Row]:
    """The row of a cell."""
    problem = cell.problem
    trained = WRONG[cell.case][0] if cell.what == "wrong" else problem
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    finished = cell.path.is_file() and Run.open(cell.path).attrs["status"] == "finished"
    if not finished:
        cell.path.unlink(missing_ok=True)
        train(trained, out=cell.path, **cell.options())
    run = Run.open(cell.path)
    u = run.load_model(problem=trained)
    alone = residual(u)
    u.problem = problem
    seconds = 1.0 if cell.quick else cell.seconds
    found = verify(u, seconds=seconds, rel=REL, confidence=CONFIDENCE, law=str(run.attrs["law"]))
    true = error(u) if cell.what == "wrong" else run.rel_l2
    errors = true, found.rel_l2, found.low, found.high, float(run.history["wall_s"][-1]), found.seconds
    last = int(found.count.sum()), found.method, alone, machine()
    return [dict(zip(COLUMNS, (*cell.key, *errors, *last), strict=True))]


def residual(u: Ansatz) -> float:
    """Of u, relative to the source, in the root mean square over points."""
    x = points_of(u, 512)
    with torch.no_grad():
        jet, source = Forward()(u, x), u.problem.source(x)
        return (u.problem.residual(jet, x).norm() / source.norm()).item()


def error(u: Ansatz) -> float:
    """Relative to the solution, over points."""
    x = points_of(u, 20_000)
    with torch.no_grad():
        exact = u.problem.exact(x)
        return ((u(x) - exact).norm() / exact.norm()).item()


def points_of(u: Ansatz, n: int) -> Tensor:
    """Points by the first law of the domain, which is that of runs."""
    return u.problem.domain.interior(n, stream(0, "benchmark"), dtype=u.like.dtype)


def place(row: Row) -> tuple:
    """Rows in the order of the cases."""
    names = list(SETS[str(row["what"])])
    return list(SETS).index(str(row["what"])), names.index(str(row["case"])), int(row["steps"]), int(row["seed"])


def report(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [
        "# The error without a solution",
        "",
        "`python -m benchmarks.verification`: relative l2 errors, true and as estimated from the residual, with 95 %",
        "intervals that were to be 10 % wide to both sides; train, verify: seconds on one thread.",
        f"Machine: {'; '.join(dict.fromkeys(str(row['machine']) for row in rows))}.",
    ]
    if shown := [row for row in rows if row["what"] == "shown"]:
        heading = ("case", "true", "estimated", "interval", "estimated / true", "train", "verify", "samples", "method")
        lines += ["", *markdown(heading, map(line, shown), "lrrrr-")]
    if small := [row for row in rows if row["what"] == "small"]:
        heading = ("case", "runs", "hold the truth", "estimated / true", "errors", "wide / error", "verify / train")
        cases = dict.fromkeys(str(row["case"]) for row in small)
        parts = [(name, [row for row in small if row["case"] == name]) for name in cases]
        lines += ["", "Small runs:", "", *markdown(heading, [calibration(*part) for part in [*parts, ("all", small)]])]
    if wrong := [row for row in rows if row["what"] == "wrong"]:
        heading = ("wrong on purpose", "residual / source", "true", "estimated", "interval", "called wrong")
        called = sum(map(is_called_wrong, wrong))
        lines += ["", f"Runs that are wrong, {called} of {len(wrong)} called so:", ""]
        lines += markdown(heading, map(of_wrong, wrong), "lr")
    return "\n".join(lines) + "\n"


def is_called_wrong(row: Row) -> bool:
    """Whether the interval is far above what a solution may be wrong by."""
    return float(row["low"]) > NOT_RIGHT


def of_wrong(row: Row) -> tuple:
    """A line of a run that is wrong."""
    found = [float(row[name]) for name in ("residual", "true", "estimated")]
    between = f"{float(row['low']):.3g} to {float(row['high']):.3g}"
    return (row["case"], *found, between, "yes" if is_called_wrong(row) else "no")


def line(row: Row) -> tuple:
    """Of a run."""
    true, estimated, low, high = (float(row[name]) for name in ("true", "estimated", "low", "high"))
    spent = (f"{float(row[name]):.1f}" for name in ("train", "verify"))
    between = f"{low:.3g} to {high:.3g}"
    return (row["case"], true, estimated, between, estimated / true, *spent, f"{int(row['samples']):,}", row["method"])


def holds(row: Row) -> bool:
    """Whether the interval has the true error in it."""
    return float(row["low"]) <= float(row["true"]) <= float(row["high"])


def calibration(name: str, rows: Sequence[Row]) -> tuple:
    """Of several runs: medians, and from least to most."""
    of = lambda a, b: [float(row[a]) / float(row[b]) for row in rows]
    ratio, errors = of("estimated", "true"), sorted(float(row["true"]) for row in rows)
    wide = [(float(r["high"]) - float(r["low"])) / 2 / float(r["estimated"]) for r in rows if float(r["estimated"])]
    return (
        name,
        len(rows),
        f"{sum(map(holds, rows)) / len(rows):.1%}",
        f"{statistics.median(ratio):.3f} ({min(ratio):.2f} to {max(ratio):.2f})",
        f"{errors[0]:.1e} to {errors[-1]:.1e}",
        f"{statistics.median(wide):.2f}" if wide else "-",
        f"{statistics.median(of('verify', 'train')):.2f}",
    )


def said(cell: Cell, rows: Sequence[Row]) -> str:
    """A line about what was measured."""
    (row,) = rows
    interval = f"{row['low']:.3g} to {row['high']:.3g}"
    known = f"{' '.join(cell.key)}: {row['true']:.3g}"
    return f"{known}, estimated {row['estimated']:.3g} ({interval}) in {row['verify']:.1f} s"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Parser("verification", __doc__)
    options.add_argument("--what", nargs="+", choices=list(SETS), default=list(SETS))
    options.cases([*dict.fromkeys([*SHOWN, *SMALL, *WRONG])], default=[])
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--runs", type=Path, default=Path("runs/verification"), help="where they are kept")
    options.common(RESULTS / "verification.md", seeds=[0], jobs=1, quick="a few steps of few points", render=True)
    args = options.parse_args(argv)
    at_least(args, {"seeds": 0, "jobs": 1})
    above_zero(args, "seconds")
    out = args.out.with_stem(f"{args.out.stem}_quick") if args.quick else args.out
    study = Study(out, COLUMNS, report, key, place, check=place)
    study.run(measured, {} if args.render else {cell.key: cell for cell in cells(args)}, args.jobs, said)


if __name__ == "__main__":
    exiting(main, "verification")
