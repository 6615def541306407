"""The errors that one default solver reaches, and the memory of exact steps at d = 100 000.

    python -m benchmarks.acceptance [--only poisson-20-kan ...] [--threads 2] [--out benchmarks/results/acceptance.md]

Each row runs in a process of its own, coefficient seed 0, 20 000 radial test points. Rows already in --csv are kept, so
an interrupted benchmark goes on where it stopped.
"""

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, Row, alone, deliver, exiting, keep, kept, markdown
from kanpde import Ansatz, count_parameters
from kanpde.backbones import build
from kanpde.config import load
from kanpde.ground.metrics import PeakMemory
from kanpde.ground.samplers import stream
from kanpde.operators import Forward
from kanpde.problems import AllenCahn
from kanpde.runs.api import train
from kanpde.users.members import problem_of

# problem, dimension, backbone: the error wanted, the error printed in the paper (or nan), minutes allowed
CASES = {
    "poisson-20-kan": (5e-4, 5.24e-4, 10),
    "poisson-20-metakan": (3.5e-3, 2.96e-3, 10),
    "allen_cahn-20-kan": (6e-4, 1.36e-3, 10),
    "allen_cahn-20-metakan": (5e-3, 3.66e-3, 10),
    "allen_cahn-100-kan": (4e-3, 6.53e-3, 10),
    "allen_cahn-100-metakan": (5.5e-3, 3.37e-3, 6),
    "sine_gordon-20-kan": (6e-4, 2.66e-1, 10),
    "sine_gordon-20-metakan": (4e-3, 2.69e-1, 10),
    "heat-10-kan": (1e-2, float("nan"), 5),
    "heat-10-metakan": (1e-2, float("nan"), 5),
    "hjb-10-kan": (1e-2, float("nan"), 5),
    "hjb-10-metakan": (1e-2, float("nan"), 5),
    "steps-100000-metakan": (float("nan"), float("nan"), 10),
}
COLUMNS = ("case", "rel_l2", "wanted", "printed", "constant_floor", "minutes", "minutes_allowed", "peak_memory_MB")
COLUMNS += ("parameters", "threads")


def solve(case: str, folder: Path) -> dict:
    """Train one case with the default solver, as `python -m kanpde.solve` does."""
    name, dim, net = case.split("-")
    config = load(name, overrides={"problem": {"dim": int(dim)}, "backbone": net})
    start = time.perf_counter()
    made = problem_of(config.problem)
    run = train(made, config=config, out=folder / f"{case}.h5")
    return {
        "rel_l2": run.rel_l2,
        "constant_floor": run.floors["constant"],
        "minutes": (time.perf_counter() - start) / 60,
        "peak_memory_MB": max(run.history["peak_memory_bytes"]) / 2**20,
        "parameters": run.attrs["parameters"],
    }


def exact_steps(case: str, points: int = 100, steps: int = 10) -> dict:
    """Exact training steps of Adam at very high dimension: peak resident memory of the whole process."""
    _, dim, name = case.split("-")
    equation = AllenCahn(int(dim))
    memory, start = PeakMemory(torch.device("cpu")), time.perf_counter()
    net = build(name, equation.dim, generator=stream(0, "init"), grid_range=equation.domain.input_range("radial"))
    u, optimizer, generator = Ansatz(equation, net), torch.optim.Adam(net.parameters(), 1e-3), stream(0, "interior")
    for _ in range(steps):
        x = equation.domain.interior(points, generator)
        optimizer.zero_grad()
        (equation.residual_scale * equation.residual(Forward()(u, x), x)).square().mean().backward()
        optimizer.step()
    return {
        "rel_l2": float("nan"),
        "constant_floor": float("nan"),
        "minutes": (time.perf_counter() - start) / 60,
        "peak_memory_MB": memory.bytes() / 2**20,
        "parameters": count_parameters(net),
    }


def measured(case: str, threads: int, folder: Path) -> Row:
    """The row of a case."""
    row = exact_steps(case) if case.startswith("steps") else solve(case, folder)
    wanted, printed, allowed = CASES[case]
    stated = {"case": case, "wanted": wanted, "printed": printed, "minutes_allowed": allowed, "threads": threads}
    return stated | row


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line for each case."""
    lines = [
        "# What the default solver reaches",
        "",
        f"{machine()}; one process a row; coefficient seed 0, 20 000 radial test points.",
        "",
        *markdown(COLUMNS, ([shown(row[name]) for name in COLUMNS] for row in rows), "-"),
    ]
    return "\n".join(lines) + "\n"


def shown(value: object) -> str:
    """Fractions with three digits, those of a CSV as well."""
    fraction = isinstance(value, float) or "." in str(value)
    return f"{float(value):.3g}" if fraction else str(value)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("acceptance", __doc__)
    parser.cases(list(CASES), flag="--only")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keep the result files there")
    parser.add_argument("--csv", type=Path, help="rows so far")
    args = parser.common().parse_args(argv)
    torch.set_num_threads(args.threads)
    rows = kept(args.csv, COLUMNS) if args.csv else []
    work = partial(measured, threads=args.threads, folder=args.folder or Path(tempfile.mkdtemp()))
    for case in args.only:
        if case in {row["case"] for row in rows}:
            continue
        rows.append(alone(work, case, args.threads))
        print({k: rows[-1][k] for k in ("case", "rel_l2", "wanted", "minutes", "peak_memory_MB")}, flush=True)
        if args.csv:
            keep(args.csv, COLUMNS, rows, digits=None)
    print(report(rows))
    if args.out:
        deliver(report(rows), args.out)


if __name__ == "__main__":
    exiting(main, "acceptance")
