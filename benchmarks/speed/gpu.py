"""Checks, training steps a second, peak memory and time to an error on one GPU: exact operators, and STDE in JAX.

    python -m benchmarks.gpu [--compile] [--seconds 500] --out benchmarks/results/gpu.md  # under 9 minutes on a GPU
    python -m benchmarks.gpu --small --out FILE.md                                        # small sizes, on a CPU

Allen-Cahn, two-body solution, hard constraint, 100 fresh points a step, Adam; metakan and kan [d, 32, 32, 32, 1], mlp
(4 linear layers, 128 wide, tanh) with the exact Forward operator, and the same mlp with the stochastic estimator of
benchmarks/speed/stde_jax.py. Every row goes to FILE.csv as soon as it is measured, and FILE.md is drawn anew from
that: a run that is cut short loses nothing. A row that failed or ran out of time or memory says so. --compile adds the
exact sides with torch.compile (CUDA graphs), which the times to an error then use. Exit code 1 if a check failed.

JAX is optional (`pip install jax`, on a GPU `pip install 'jax[cuda13]'`); without it its rows say so. On a machine that
has torch and JAX but no network, bring as wheels what kanpde needs beside them, made for its Python:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .whl \\
        pydantic==2.14.3 pydantic_core==2.50.4 annotated-types typing-inspection typing-extensions

and there, in this folder with .whl (a missing JAX travels likewise: jax, jaxlib, jax-cuda13-plugin, jax-cuda13-pjrt):

    python3 -m pip install -q --no-index --no-deps --target .site .whl/*.whl &&
        PYTHONPATH=.site PYTHONUNBUFFERED=1 python3 -m benchmarks.gpu --compile --out "$OUT/gpu.md"
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, Row, deliver, exiting, keep, kept, markdown
from benchmarks.common.timing import TimeUp, limit
from benchmarks.speed import sides
from benchmarks.speed.sides import NETS, POINTS, STDE
from kanpde.config import PhaseConfig
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems import AllenCahn
from kanpde.training.checks import check_device

SECTIONS = ("check", "speed", "error")
COLUMNS = ("section", "side", "dim", "points", "parameters", "steps_per_s", "slowest", "fastest", "peak_MB")
COLUMNS += ("source_ms", "target", "seconds", "steps", "rel_l2", "quantity", "deviation", "allowed", "note")
CHECK_COLUMNS = ("side", "dim", "quantity", "deviation", "allowed", "note")
ERROR_COLUMNS = ("side", "dim", "points", "target", "seconds", "steps", "rel_l2", "note")
OUT_OF_TIME = "not measured (time)"


@dataclass(frozen=True)
class Plan:
    """Sizes of a run of this benchmark."""

    dims: Sequence[int] = (100, 1_000, 10_000, 100_000, 1_000_000)
    check_dims: Sequence[int] = (20, 100)  # where nested differentiation is affordable
    single_dim: int = 10_000  # where float32 is compared with float64
    row_seconds: float = 3.0  # of timed steps
    row_limit: float = 90.0  # seconds that a row may take with all its preparations
    reserve: float = 160.0  # seconds kept for the times to an error
    targets: Sequence[float] = (1e-2, 5e-3)
    steps: int | None = None  # of a training; None: those of its settings
    every: int = 50  # steps from one evaluation to the next
    test_points: int = 2000


FULL = Plan()
SMALL = Plan(
    dims=(20, 50),
    check_dims=(6,),
    single_dim=100,
    row_seconds=0.2,
    row_limit=60.0,
    reserve=20.0,
    targets=(0.9, 1e-4),
    steps=40,
    every=20,
    test_points=200,
)


class Table:
    """Rows in a CSV as they come; `draw` makes Markdown of what stands there, anew after each row."""

    def __init__(self, out: Path, draw: Callable[[list[Row]], str]):
        self.out, self.csv, self.draw, self.found = out, out.with_suffix(".csv"), draw, []
        keep(self.csv, COLUMNS, self.found)

    def add(self, **row) -> None:
        """One more row."""
        self.found.append(row)
        keep(self.csv, COLUMNS, self.found, digits=None)
        deliver(self.draw(self.rows()), self.out)
        print(*(shown(value) for value in row.values() if value != ""), flush=True)

    def rows(self) -> list[Row]:
        """All rows as text, all columns in each."""
        return kept(self.csv, COLUMNS)


# ---------------------------------------------------------------------------------------------------------------
# Sections


@dataclass(frozen=True)
class Benchmark:
    """The sections, each a number of rows of the table, within the seconds that are left."""

    plan: Plan
    device: torch.device
    table: Table
    end: float  # time.monotonic()

    def left(self) -> float:
        return self.end - time.monotonic()

    def measured(self, row: dict, seconds: float, measure: Callable[..., dict | Iterable[dict]], *args) -> bool:
        """Add what `measure(*args)` finds within the seconds as rows, or one row that says why not."""
        sides.release(self.device)
        try:
            with limit(min(seconds, self.left())):
                found = measure(*args)
                for one in [found] if isinstance(found, dict) else found:
                    self.table.add(**(row | one))
            return True
        except TimeUp:
            note = OUT_OF_TIME
        except (torch.OutOfMemoryError, MemoryError):
            note = "out of memory"
        except ConfigError as error:
            note = str(error)
        except Exception as error:  # one row may fail; the others are still wanted
            note = " ".join(f"failed: {type(error).__name__}: {error}".split())[:200]
        self.table.add(**row, note=note)
        return False

    def checks(self) -> None:
        plan = self.plan
        for name in NETS:
            for dim in (*plan.check_dims, plan.single_dim):
                row = {"section": "check", "side": name, "dim": dim}
                self.measured(row, plan.row_limit, sides.check, name, dim, self.device, dim in plan.check_dims)
        for dim in plan.check_dims:
            row = {"section": "check", "side": STDE, "dim": dim}
            self.measured(row, plan.row_limit, sides.check_jax, dim, self.device)

    def speeds(self, compiled: bool = False) -> set[str]:
        """Rows of all dimensions; the names of the networks that were measured at the first one."""
        plan, found = self.plan, set()
        for dim in plan.dims:
            for name in NETS if compiled else (*NETS, STDE):
                side = f"{name}, compiled" if compiled else name
                row = {"section": "speed", "side": side, "dim": dim, "points": POINTS}
                seconds = min(plan.row_limit, self.left() - plan.reserve)
                given = (dim, self.device, plan.row_seconds)
                what = (sides.speed_jax, *given) if name == STDE else (sides.speed, name, *given, compiled)
                if self.measured(row, seconds, *what) and dim == plan.dims[0]:
                    found.add(name)
        return found

    def times_to_errors(self, compiled: set[str]) -> None:
        """Rows of each side at the first dimension; the time that is left is shared."""
        problem = AllenCahn(self.plan.dims[0])
        x = problem.domain.interior(self.plan.test_points, stream(0, "test"))
        test = {"x": x, "exact": problem.exact(x.double())}
        for i, name in enumerate((*NETS, STDE)):
            phase, points = sides.settings(name, self.plan.steps)
            side = f"{name}, compiled" if name in compiled else name
            row = {"section": "error", "side": side, "dim": problem.dim, "points": points}
            share = self.left() / (len(NETS) + 1 - i)
            self.measured(row, self.left(), self.time_to_errors, name, name in compiled, phase, points, test, share)

    def time_to_errors(
        self, name: str, compiled: bool, phase: PhaseConfig, points: int, test: dict, seconds: float
    ) -> Iterator[dict]:
        """A row for each target, reached or not."""
        plan, dim, reached = self.plan, self.plan.dims[0], set()
        options = {"targets": plan.targets, "every": plan.every, "seconds": seconds}
        if name == STDE:
            found = sides.time_to_errors_jax(dim, self.device, test, phase.steps, **options)
        else:
            training = sides.Exact(name, dim, self.device, phase, points, compiled)
            found = sides.time_to_errors(training, test, **options)
        for row in found:
            if "target" in row:
                reached.add(row["target"])
                yield row
                continue
            cut = "" if row["steps"] >= phase.steps else f" of {phase.steps:,} (time)"
            note = f"not reached: at best {row['best']:.2e} in {row['steps']:,} steps{cut}"
            for target in sorted(set(plan.targets) - reached, reverse=True):
                yield {"target": target, "note": note}


def failed(row: Row) -> bool:
    """Whether a row is of a check that was done and did not hold."""
    done = row["section"] == "check" and row["deviation"]
    return bool(done) and not float(row["deviation"]) <= float(row["allowed"])


def shown(value: object) -> str:
    """A cell: numbers with at most four digits, text as it is."""
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return f"{number:,.0f}" if number.is_integer() or 1e3 <= abs(number) < 1e12 else f"{number:.3g}"


def section(heading: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    """A section with a table of these columns; nothing where there are no rows."""
    lines = ([shown(row.get(name, "")) for name in columns] for row in rows)
    return "\n".join([f"\n## {heading}\n", *markdown(columns, lines, "-")]) + "\n" if rows else ""


def pivot(heading: str, rows: Sequence[Row], value: str) -> str:
    """A line for each side, a column for each dimension; where there is no value, the row's note."""
    lines: dict[str, Row] = {}
    for row in rows:
        lines.setdefault(row["side"], {"side": row["side"]})[f"d = {int(row['dim']):,}"] = row[value] or row["note"]
    columns = dict.fromkeys(name for line in lines.values() for name in line)
    return section(heading, list(columns), list(lines.values()))


def drawing(device: str, command: str) -> Callable[[list[Row]], str]:
    """The function that draws the Markdown."""
    jax = f"JAX {version('jax')} at its default precision" if find_spec("jax") else "JAX is not installed"
    header = [
        "# Training steps on a CPU" if device == "cpu" else "# Training steps on one GPU",
        "",
        f"`{command}`; {machine(device)}, float32; {jax}.",
        "",
        f"Allen-Cahn, two-body solution, hard constraint, {POINTS} fresh points a step, Adam; metakan and kan",
        "[d, 32, 32, 32, 1], mlp of 4 linear layers, 128 wide; the exact operator, or 16 sampled dimensions (STDE).",
        "For the errors a KAN is trained as kanpde's solver adam does, an mlp as STDE was published (Adam 1e-3,",
        "linear decay); the clock stands still while the error is measured, at every few steps.",
    ]

    def draw(rows: list[Row]) -> str:
        of = {name: [row for row in rows if row["section"] == name] for name in ("check", "speed", "error")}
        checked = [row | {"note": row["note"] or ("FAILED" if failed(row) else "ok")} for row in of["check"]]
        exact = [row for row in of["speed"] if row["side"] != STDE]
        of_what = "one step; in JAX its temporaries alone" if device == "cpu" else "all that a row allocated"
        parts = [
            section("Checks: largest deviations", CHECK_COLUMNS, checked),
            pivot("Training steps a second", of["speed"], "steps_per_s"),
            pivot(f"Peak memory, MB ({of_what})", of["speed"], "peak_MB"),
            pivot("Of a step: points and source, ms", exact, "source_ms"),
            section("Time of training to a relative l2 error, s", ERROR_COLUMNS, of["error"]),
        ]
        return "\n".join(header) + "\n" + "".join(parts)

    return draw


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("gpu", __doc__)
    parser.add_argument("--device", help="default cuda, or cpu with --small")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--seconds", type=float, default=500.0, help="what starts later is not measured")
    parser.add_argument("--dims", type=int, nargs="+", help="other dimensions; errors are of the first")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS)
    args = parser.common(quick="everything at small sizes").parse_args(argv)
    end, name = time.monotonic() + args.seconds, args.device or ("cpu" if args.quick else "cuda")
    check_device(name)
    if args.out is None or args.out.suffix != ".md":
        raise ConfigError(f"--out: needed is a file ending in .md, given {args.out}; the csv is written beside it")
    if args.dims and min(args.dims) < 2:
        raise ConfigError(f"--dims: given {min(args.dims)}, the solution couples 2 coordinates")
    plan = SMALL if args.quick else FULL
    plan = replace(plan, dims=args.dims) if args.dims else plan
    command = f"python -m benchmarks.gpu{' --small' * args.quick}{' --compile' * args.compile}"
    device = torch.device(name)
    benchmark = Benchmark(plan, device, Table(args.out, drawing(name, command)), end)
    compiled = set(NETS) if args.compile else set()
    if "check" in args.only:
        benchmark.checks()
    if "speed" in args.only:
        benchmark.speeds()
        compiled = benchmark.speeds(compiled=True) if args.compile else set()
    if "error" in args.only:
        benchmark.times_to_errors(compiled)
    if any(map(failed, benchmark.table.rows())):
        sys.exit("gpu: a check failed")


if __name__ == "__main__":
    exiting(main, "gpu")
