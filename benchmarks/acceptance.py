"""The errors that one default solver reaches, and the memory of exact steps at d = 100 000.

    python -m benchmarks.acceptance [--only poisson-20-kan ...] [--threads 2] [--out benchmarks/results/acceptance.md]

Each row runs in a process of its own, coefficient seed 0, 20 000 radial test points. Rows already in --csv are kept, so
an interrupted benchmark goes on where it stopped.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.machine import machine

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
COLUMNS = (
    "case",
    "rel_l2",
    "wanted",
    "printed",
    "constant_floor",
    "minutes",
    "minutes_allowed",
    "peak_memory_MB",
    "parameters",
    "threads",
)


def solve(case: str, folder: Path) -> dict:
    """Train one case with the default solver, as `python -m kanpde.solve` does."""
    from kanpde.api import train
    from kanpde.config import load
    from kanpde.setup import backbone, problem

    name, dim, net = case.split("-")
    config = load(name, overrides={"problem": {"dim": int(dim)}, "backbone": net})
    start = time.perf_counter()
    made = problem(config)
    run = train(made, backbone(config, made), config=config, out=folder / f"{case}.h5")
    return {
        "rel_l2": run.rel_l2,
        "constant_floor": run.floors["constant"],
        "minutes": (time.perf_counter() - start) / 60,
        "peak_memory_MB": max(run.history["peak_memory_bytes"]) / 2**20,
        "parameters": run.attrs["parameters"],
    }


def exact_steps(case: str, points: int = 100, steps: int = 10) -> dict:
    """Exact training steps of Adam at very high dimension: peak resident memory of the whole process."""
    from kanpde import Ansatz, count_parameters
    from kanpde.backbones import build
    from kanpde.metrics import PeakMemory
    from kanpde.operators import Forward
    from kanpde.problems import AllenCahn
    from kanpde.samplers import stream

    _, dim, name = case.split("-")
    problem = AllenCahn(int(dim))
    memory, start = PeakMemory(torch.device("cpu")), time.perf_counter()
    net = build(name, problem.dim, generator=stream(0, "init"), grid_range=problem.domain.input_range("radial"))
    u, optimizer, generator = Ansatz(problem, net), torch.optim.Adam(net.parameters(), 1e-3), stream(0, "interior")
    for _ in range(steps):
        x = problem.domain.interior(points, generator)
        optimizer.zero_grad()
        (problem.residual_scale * problem.residual(Forward()(u, x), x)).square().mean().backward()
        optimizer.step()
    return {
        "rel_l2": float("nan"),
        "constant_floor": float("nan"),
        "minutes": (time.perf_counter() - start) / 60,
        "peak_memory_MB": memory.bytes() / 2**20,
        "parameters": count_parameters(net),
    }


def run_case(case: str, threads: int, folder: Path) -> dict:
    """The row of a case, measured in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.acceptance",
        "--one",
        case,
        "--threads",
        str(threads),
        "--folder",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} failed:\n{done.stderr}")
    wanted, printed, allowed = CASES[case]
    stated = {"case": case, "wanted": wanted, "printed": printed, "minutes_allowed": allowed, "threads": threads}
    return stated | json.loads(done.stdout)


def report(rows: list[dict]) -> str:
    lines = [
        "# What the default solver reaches",
        "",
        f"{machine()}; one process a row; coefficient seed 0, 20 000 radial test points.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
    ]
    for row in rows:
        cells = (row[name] for name in COLUMNS)
        lines.append("| " + " | ".join(f"{float(c):.3g}" if _is_fraction(c) else str(c) for c in cells) + " |")
    return "\n".join(lines) + "\n"


def _is_fraction(cell) -> bool:
    return (
        not isinstance(cell, int) and str(cell).replace(".", "").replace("e-", "").isdigit() and not str(cell).isdigit()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="keep the result files there")
    parser.add_argument("--csv", type=Path, help="rows so far")
    parser.add_argument("--one", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.one:
        row = exact_steps(args.one) if args.one.startswith("steps") else solve(args.one, args.folder)
        print(json.dumps(row))
        return
    rows = list(csv.DictReader(args.csv.open())) if args.csv and args.csv.is_file() else []
    folder = args.folder or Path(tempfile.mkdtemp())
    for case in args.only:
        if case in {row["case"] for row in rows}:
            continue
        rows.append(run_case(case, args.threads, folder))
        print({k: rows[-1][k] for k in ("case", "rel_l2", "wanted", "minutes", "peak_memory_MB")}, flush=True)
        if args.csv:
            with args.csv.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
    print(report(rows))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(report(rows))


if __name__ == "__main__":
    main()
