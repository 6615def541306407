"""Does a first grid that fits the data help? The same training with grid_range auto and [-1, 1].

    python -m benchmarks.grid_range [--dims 20 100 1000] [--steps 1000] [--out benchmarks/results/grid_range.md]

Poisson, two-body solution, solver adam with fewer steps, the validation-selected test error of both sides.
"""

import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import kanpde
from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, deliver, exiting, markdown
from kanpde.problems import Poisson


def error(dim: int, backbone: str, grid_range, steps: int, folder: Path) -> float:
    """The test error of one side."""
    name = f"{dim}-{backbone}-{grid_range == 'auto'}.h5"
    options = {"backbone": {"name": backbone, "grid_range": grid_range}, "slices": {"points": 2, "volume": 0}}
    run = kanpde.train(
        Poisson(dim),
        out=folder / name,
        steps=steps,
        points={"interior": 200, "test": 4096},
        evaluation={"every": 200},
        **options,
    )
    return run.rel_l2


def report(rows: Sequence[Sequence], steps: int) -> str:
    """Markdown: a line for each dimension and backbone."""
    lines = [
        f"# grid_range auto against [-1, 1]: relative l2 error after {steps} steps of 200 points, Poisson",
        "",
        f"{machine()}; seed 0.",
        "",
        *markdown(["d", "backbone", "auto", "[-1, 1]"], rows, "-"),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("grid_range", __doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--steps", type=int, default=1000)
    args, rows = parser.common().parse_args(argv), []
    for dim, backbone in product(args.dims, ("kan", "metakan")):
        with tempfile.TemporaryDirectory() as folder:
            sides = [error(dim, backbone, grid, args.steps, Path(folder)) for grid in ("auto", (-1.0, 1.0))]
        rows.append([dim, backbone, *(f"{side:.2e}" for side in sides)])
        print(*rows[-1], flush=True)
        if args.out:  # after each row: nothing measured is lost
            deliver(report(rows, args.steps), args.out)


if __name__ == "__main__":
    exiting(main, "grid_range")
