"""The same PDE by kanpde, DeepXDE, PINA, pykan and the released MetaKAN code: time and memory of a step, time to error.

    python -m benchmarks.peers [--problems poisson ...] [--dims 100 ...] [--sides kanpde-kan deepxde-kan ...]
        [--minutes 15] [--official DIR] [--out benchmarks/results/peers.md]      (needs pip install -e '.[bench]')

A side is a solver and a network: `kan` and `metakan` are B-spline networks [d, 32, 32, 32, 1], `mlp` has four layers of
128 tanh. All sides of a network start from the same weights and knots, draw the same fresh radial points at every step,
scale the residual by 1 / (2 d), have u = (1 - |x|^2) f, Adam and linear decay over --steps; that they give the same
loss is checked before anything is measured. DeepXDE and PINA take any torch module as their network, so their KAN is
what a user would bring along: the textbook Cox-de Boor recursion.

Each peer's loss comes from its own API; the step around it (points, backward pass, Adam, schedule) is the same for all,
without the peers' training loops (callbacks, Lightning), which would take longer. The sides' steps are interleaved.
Then one side after the other trains for --minutes at most (0: not at all); its error is taken on 2000 test points while
the clock stands. With --out, finished rows are kept in a CSV beside the table and not measured again. All on the CPU.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, Row, at_least, deliver, exiting, keep, kept, markdown
from benchmarks.speed.memory import peak_bytes
from benchmarks.speed.peer_sides import SEED, SIDES, Case, Side, make
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems import AllenCahn, Poisson

PROBLEMS = {"poisson": Poisson, "allen_cahn": AllenCahn}
TARGETS = {"s_to_1e-2": 1e-2, "s_to_5e-3": 5e-3, "s_to_3e-3": 3e-3}
TEST_POINTS, EVERY = 2000, 10
KEYS, SETTINGS = ("problem", "dim", "side"), ("points", "steps", "threads")
COLUMNS = (*KEYS, *SETTINGS, "ms", "peak_MB", *TARGETS, "error", "steps_done", "seconds")
WANTED = {"deepxde-kan": 20, "pina-kan": 20, "deepxde-mlp": 3, "pina-mlp": 3}  # times kanpde; Poisson, d = 100


# ---------------------------------------------------------------------------------------------------------------
# Measuring


def check_losses(sides: Sequence[str], case: Case) -> None:
    """All sides of a network give the same loss, to 1e-4, at the weights that all start from; and also without the
    source, beside which the Laplacian of a new network is small.
    """
    kind, x = type(case.problem), case.draw()
    sourceless = type(kind.__name__, (kind,), {"source": lambda self, x: torch.zeros_like(x[:, 0])})
    for name, each in product(sides, (case, replace(case, problem=sourceless(case.problem.dim)))):
        own, loss = (make(side, each).loss(x.clone()).item() for side in (f"kanpde-{name.split('-')[1]}", name))
        assert abs(loss / own - 1) < 1e-4, f"{name}: loss {loss}, by kanpde {own}"


def seconds_of(side: Side) -> float:
    start = time.perf_counter()
    side.step()
    return time.perf_counter() - start


def step_rows(sides: dict[str, Side], repeats: int, allowed: float = 15.0) -> dict[str, dict]:
    """Peak memory of a second step; median time of `repeats` interleaved ones, of fewer where they take `allowed` s."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks = {}
    for name, side in sides.items():
        side.step()
        peaks[name] = peak_bytes(side.step, side.bytes_held(), torch.device("cpu")) / 2**20
    for name in list(sides) * repeats:
        if sum(times[name]) < allowed:
            times[name].append(seconds_of(sides[name]))
    return {name: {"ms": 1e3 * statistics.median(times[name]), "peak_MB": peaks[name]} for name in sides}


def run_row(side: Side, case: Case, allowed: float) -> dict:
    """Train until every error of TARGETS is reached, the schedule ends, or `allowed` seconds of steps have passed.

    The error is taken at the same steps on all sides: it is noisy at first, and crosses a target early and by chance.
    """
    x = case.problem.domain.interior(TEST_POINTS, stream(SEED, "test"))
    exact = case.problem.exact(x)
    spent, done, error, reached = 0.0, 0, float("nan"), {}
    while spent < allowed and done < case.steps and len(reached) < len(TARGETS):
        spent, done = spent + seconds_of(side), done + 1
        if done % EVERY == 0 or done == case.steps or spent >= allowed:
            with torch.no_grad():
                error = ((side.predict(x) - exact).norm() / exact.norm()).item()
            reached = {name: spent for name, target in TARGETS.items() if error <= target} | reached
    return {"error": error, "steps_done": done, "seconds": spent, **reached}


class Rows:
    """Rows by problem, dimension and side, all of the same settings; each new one is written to `path`."""

    def __init__(self, path: Path | None, settings: dict):
        self.path, self.settings = path, {name: str(value) for name, value in settings.items()}
        self.rows = {tuple(row[k] for k in KEYS): row for row in (kept(path, COLUMNS) if path else ())}
        if any(row[name] != value for row in self.rows.values() for name, value in self.settings.items()):
            raise ConfigError(f"{path} has rows of other settings ({', '.join(SETTINGS)}): name another --out")

    def get(self, *key) -> Row:
        """The row of a problem, dimension and side; empty where there is none."""
        return self.rows.get(tuple(map(str, key)), {})

    def add(self, *key, **measured) -> None:
        """More numbers of a row."""
        names = dict(zip(KEYS, map(str, key), strict=True))
        new = {name: f"{value:.6g}" for name, value in measured.items()}
        self.rows[tuple(names.values())] = names | self.settings | self.get(*key) | new
        print(*key, ", ".join(f"{name} {value}" for name, value in new.items()), flush=True)
        if self.path:
            keep(self.path, COLUMNS, self.rows.values())


def measure(rows: Rows, problem: str, case: Case, sides: Sequence[str], repeats: int, allowed: float) -> None:
    """The rows of one problem that are not there yet. Times of steps compare only if they are taken together."""
    key = problem, case.problem.dim
    if not all(rows.get(*key, side) for side in sides):
        check_losses(sides, case)
        for side, row in step_rows({side: make(side, case) for side in sides}, repeats).items():
            rows.add(*key, side, **row)
    for side in sides:
        row = rows.get(*key, side)
        finished = all(row.get(name) for name in TARGETS) or row.get("steps_done") == str(case.steps)
        if not finished and float(row.get("seconds") or 0) < allowed:
            rows.add(*key, side, **run_row(make(side, case), case, allowed))


# ---------------------------------------------------------------------------------------------------------------
# The report


def report(rows: Rows) -> str:
    """Markdown: a table for each problem and dimension, and the figures that are wanted."""
    titles = {name: name.replace("_", " ") for name in TARGETS}
    heading = ["side", "ms", "x", "MB", "x", *titles.values(), "last error", "steps"]
    lines = [
        "# The same PDE by other packages",
        "",
        f"`python -m benchmarks.peers`: {', '.join(f'{k} {v}' for k, v in rows.settings.items())}; {machine()}.",
        "ms and MB: of a training step, MB the most that is allocated in it; x: over kanpde's with the same network;",
        "s to e: seconds of training to the relative l2 error e, > t where t seconds did not suffice.",
    ]
    for problem, dim in dict.fromkeys(key[:2] for key in rows.rows):
        cells = []
        for side in (side for side in SIDES if rows.get(problem, dim, side)):
            row, own = rows.get(problem, dim, side), rows.get(problem, dim, f"kanpde-{side.split('-')[1]}")
            step = (text for name in ("ms", "peak_MB") for text in (value(row, name), ratio(row, own, name)))
            run = row.get("error") or "-", row.get("steps_done") or "-"
            cells.append([side, *step, *(value(row, name) for name in TARGETS), *run])
        lines += ["", f"## {problem}, d = {dim}", "", *markdown(heading, cells)]
    lines.append("")
    for side, least in WANTED.items():
        row, own = (rows.get("poisson", 100, name) for name in (side, f"kanpde-{side.split('-')[1]}"))
        if row and own:
            to = "; ".join(f"{title} {ratio(row, own, name)}" for name, title in titles.items())
            lines.append(f"- Poisson, d = 100, {side} / kanpde: step {ratio(row, own, 'ms')} (wanted: {least}); {to}")
    return "\n".join(lines) + "\n"


def value(row: dict, column: str, unit: float = 1.0) -> str:
    """A number of a row in units of another; a lower bound where the side trained without getting there."""
    if row.get(column):
        return f"{float(row[column]) / unit:.1f}"
    return f"> {float(row['seconds']) / unit:.1f}" if row.get("seconds") else "-"


def ratio(row: dict, own: dict, column: str) -> str:
    """A number of a row over kanpde's."""
    return value(row, column, float(own[column])) if own.get(column) else "-"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("peers", __doc__)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--dims", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="default all; official-metakan only with --official")
    parser.add_argument("--official", type=Path, metavar="DIR", help="checkout of the released MetaKAN code")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000, help="length of the schedule")
    parser.add_argument("--minutes", type=float, default=15.0, help="training time of a side; 0 measures steps only")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.common().parse_args(argv)
    if args.official is None and "official-metakan" in (args.sides or ()):
        raise ConfigError("the side official-metakan needs --official DIR, a checkout of the released MetaKAN code")
    at_least(args, {"points": 1, "steps": 1, "repeats": 1, "threads": 1, "dims": 2, "minutes": 0})
    torch.set_num_threads(args.threads)
    rows = Rows(args.out and args.out.with_suffix(".csv"), {name: getattr(args, name) for name in SETTINGS})
    sides = args.sides or [side for side in SIDES if args.official or side != "official-metakan"]
    for problem, dim in product(args.problems, args.dims):
        case = Case(PROBLEMS[problem](dim), args.points, args.steps, args.official)
        measure(rows, problem, case, sides, args.repeats, 60 * args.minutes)
    if args.out:
        deliver(report(rows), args.out)
    print(report(rows))


if __name__ == "__main__":
    exiting(main, "peers")
