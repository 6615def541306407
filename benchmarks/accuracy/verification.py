"""Is the error that is estimated without a solution the true one, and how often does its interval hold it?

    python -m benchmarks.verification [--what shown small] [--cases poisson-5 ...] [--seeds N ...] [--seconds 60]
        [--runs runs/verification] [--jobs 1] [--quick] [--render] [--out benchmarks/results/verification.md]

shown: a run of each case by the default solver of its dimension, then `kanpde.verify` with rel = 0.1, within --seconds.
small: runs of 100 and 400 steps of small networks, ten seeds each, so that many errors of all sizes are judged; rel =
0.1 within 10 s. The share of 95 % intervals that hold the truth is of all that ended in time and of all there are.

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
from kanpde.problems import HJB, AllenCahn, Heat, Poisson, SineGordon
from kanpde.problems.conditions import Dirichlet

COLUMNS = ("what", "case", "seed", "steps", "true", "estimated", "low", "high", "train", "verify", "samples", "method")
COLUMNS += ("machine",)
REL, CONFIDENCE, SMALL_SECONDS = 0.1, 0.95, 10.0
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
        kind, d = (SHOWN if self.what == "shown" else SMALL)[self.case]
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
            return given | {"backbone": "metakan" if self.case == "allen_cahn-100" else "kan"}
        soft = {"constraint": "soft", "points": {"boundary": 100}} if "soft" in self.case else {}
        backbone = {"name": "kan", "widths": [8]} if self.seed % 2 else {"name": "mlp", "widths": [32, 32]}
        return given | soft | {"backbone": backbone, "steps": self.steps, "compile": False}


def key(row: Row) -> tuple:
    """That of the cell of a row."""
    return tuple(str(row[name]) for name in ("what", "case", "seed", "steps"))


def cells(args) -> Iterator[Cell]:
    """All that are asked for."""
    for what in args.what:
        names = SHOWN if what == "shown" else SMALL
        lengths = (0,) if what == "shown" else SMALL_STEPS
        seeds = args.seeds if what == "shown" or args.seeds != [0] else SMALL_SEEDS
        seconds = args.seconds if what == "shown" else SMALL_SECONDS
        for name, steps, seed in product(names, lengths, seeds):
            if not args.cases or name in args.cases:
                yield Cell(what, name, seed, steps, seconds, args.runs, args.quick)


def measured(cell: Cell) -> list[Row]:
    """The row of a cell."""
    problem = cell.problem
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    finished = cell.path.is_file() and Run.open(cell.path).attrs["status"] == "finished"
    if not finished:
        cell.path.unlink(missing_ok=True)
        train(problem, out=cell.path, **cell.options())
    run = Run.open(cell.path)
    found = verify(run, seconds=0.2 if cell.quick else cell.seconds, rel=REL, confidence=CONFIDENCE, problem=problem)
    errors = run.rel_l2, found.rel_l2, found.low, found.high, float(run.history["wall_s"][-1]), found.seconds
    return [dict(zip(COLUMNS, (*cell.key, *errors, int(found.count.sum()), found.method, machine()), strict=True))]


def place(row: Row) -> tuple:
    """Rows in the order of the cases."""
    names = list(SHOWN if row["what"] == "shown" else SMALL)
    return row["what"], names.index(str(row["case"])), int(row["steps"]), int(row["seed"])


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
    return "\n".join(lines) + "\n"


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
    options.add_argument("--what", nargs="+", choices=("shown", "small"), default=["shown", "small"])
    options.cases([*dict.fromkeys([*SHOWN, *SMALL])], default=[])
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
