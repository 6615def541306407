"""Error against number of parameters: prompts of low rank, free ones, free weights, and an mlp.

    python -m benchmarks.prompts [--problem poisson] [--dims 100] [--starts ladder] [--backbones kan metakan mlp]
        [--ranks 1 2 4 8] [--widths wide] [--steps N] [--seeds 0] [--jobs 1] [--quick] [--render]
        [--out benchmarks/results/prompts.md]

Two-body solutions, relative l2 errors on 20 000 radial points, of one run a row: after training, and of the start
alone. Steps, by dimension, are those of `STEPS`; the solver is the default one below d = 1000, high_dim from there on.
--backbones metakan stands for free prompts and those of each of --ranks; --widths are those of kan and metakan, an mlp
has its own. Minutes are of processor time on one thread, the start included; compiling, which runs of 3000 steps do,
counts with TORCHINDUCTOR_COMPILE_THREADS=1. Rows that are there are not measured again; those of --quick go to a table
of their own.
"""

import resource
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.common.budget import QUICK, spread
from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde.problems import PDES
from kanpde.runs.api import train
from kanpde.training import plan

STEPS = {100: 600, 1_000: 100}
STARTS = ("network", "ladder")
COLUMNS = ("problem", "d", "start", "backbone", "rank", "widths", "seed", "parameters", "steps", "from", "error")
COLUMNS += ("minutes", "machine")
NUMBERS = ("from", "error", "minutes")  # that are not whole


class Cell(NamedTuple):
    """What one run is of."""

    problem: str
    dim: int
    start: str
    backbone: str
    rank: str  # a number, free, or nothing
    widths: str  # a name, or nothing
    seed: int
    steps: int
    quick: bool

    @property
    def key(self) -> tuple:
        """Of its row."""
        return tuple(map(str, self[:-1]))

    @property
    def options(self) -> dict:
        """Of the backbone."""
        given = {"name": self.backbone} | ({"widths": self.widths} if self.widths else {})
        return given | ({"prompt_rank": int(self.rank)} if self.rank.isdigit() else {})


def key(row: Row) -> tuple:
    """That of the cell of a row."""
    return tuple(str(row[name]) for name in (*COLUMNS[:7], "steps"))


def cells(args) -> Iterator[Cell]:
    """All that are asked for."""
    for problem, dim, start, name, seed in product([args.problem], args.dims, args.starts, args.backbones, args.seeds):
        steps = 8 if args.quick else args.steps or STEPS[min((d for d in STEPS if d >= dim), default=max(STEPS))]
        ranks = [*map(str, args.ranks), "free"] if name == "metakan" else [""]
        widths = "" if name == "mlp" else args.widths
        yield from (Cell(problem, dim, start, name, rank, widths, seed, steps, args.quick) for rank in ranks)


def seconds() -> float:
    """Of processor time, of this process and those that it has waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(r.ru_utime + r.ru_stime for r in used)


def measured(cell: Cell) -> list[Row]:
    """The row of a cell."""
    began, problem = seconds(), PDES[cell.problem](cell.dim)
    given = {"slices": {"points": 2, "volume": 0}, "seed": cell.seed, "start": cell.start}
    given |= {"backbone": cell.options} | (QUICK if cell.quick else {})
    config = plan.resolved(spread(plan.configured(problem, given), cell.steps, evaluations=6), problem)
    with TemporaryDirectory() as folder:
        run = train(problem, config=config, out=Path(folder) / "run.h5")
    found = run.attrs["parameters"], run.attrs["steps"], run.floors.get("start", float("nan")), run.rel_l2
    found += (seconds() - began) / 60, machine()
    return [dict(zip(COLUMNS, (*cell[:7], *found), strict=True))]


def place(row: Row) -> tuple:
    """Rows by problem, dimension and start, the fewest parameters first."""
    return row["problem"], int(row["d"]), row["start"], int(row["parameters"]), row["backbone"], key(row)


def report(rows: Sequence[Row]) -> str:
    """Markdown."""
    heading = COLUMNS[:-1]
    body = [[float(row[name]) if name in NUMBERS else row[name] or "-" for name in heading] for row in rows]
    lines = [
        "# Error against number of parameters",
        "",
        "`python -m benchmarks.prompts`: two-body solutions, relative l2 errors on radial points, a run a row.",
        "rank: of the prompts of a metakan, or free; from: the error of the start alone, whose",
        "coefficients (299 at d = 100, 2998 at d = 1000) are not among the parameters; minutes: of processor time.",
        f"Machine: {'; '.join(dict.fromkeys(str(row['machine']) for row in rows))}.",
        "",
        *markdown(heading, body),
    ]
    return "\n".join(lines) + "\n"


def said(cell: Cell, rows: Sequence[Row]) -> str:
    """A line about what was measured."""
    (row,) = rows
    name = f"{row['problem']} {row['d']} {row['start']} {row['backbone']} {row['rank']}"
    return (
        f"{name}: {row['parameters']:,} parameters, {row['from']:.3g} -> {row['error']:.3g}, {row['minutes']:.1f} min"
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Parser("prompts", __doc__)
    options.add_argument("--problem", choices=PDES, default="poisson")
    options.add_argument("--dims", type=int, nargs="+", default=[100])
    options.add_argument("--starts", nargs="+", choices=STARTS, default=["ladder"])
    options.add_argument("--backbones", nargs="+", choices=("kan", "metakan", "mlp"), default=["kan", "metakan", "mlp"])
    options.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4, 8])
    options.add_argument("--widths", choices=("paper", "wide"), default="wide")
    options.add_argument("--steps", type=int, default=0, help="of each run; 0: those of its dimension")
    options.common(RESULTS / "prompts.md", seeds=[0], jobs=1, quick="a few steps of few points", render=True)
    args = options.parse_args(argv)
    at_least(args, {"dims": 3, "seeds": 0, "ranks": 1, "jobs": 1, "steps": 0})
    out = args.out.with_stem(f"{args.out.stem}_quick") if args.quick else args.out
    study = Study(out, COLUMNS, report, key, place, check=place)
    tasks = {} if args.render else {cell.key: cell for cell in cells(args)}
    study.run(measured, tasks, args.jobs, said)


if __name__ == "__main__":
    exiting(main, "prompts")
