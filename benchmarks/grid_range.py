"""Does a first grid that fits the data help? The same training with grid_range auto and [-1, 1].

    python -m benchmarks.grid_range [--dims 20 100 1000] [--steps 1000] [--out benchmarks/results/grid_range.md]

Poisson, two-body solution, solver adam with fewer steps, the validation-selected test error of both sides.
"""

import argparse
import tempfile
from pathlib import Path

import kanpde
from benchmarks.machine import machine
from kanpde.problems import Poisson


def error(dim: int, backbone: str, grid_range, steps: int, folder: Path) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dims", type=int, nargs="*", default=[20, 100, 1000])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        f"# grid_range auto against [-1, 1]: relative l2 error after {args.steps} steps of 200 points, Poisson",
        "",
        f"{machine()}; seed 0.",
        "",
        "| d | backbone | auto | [-1, 1] |",
        "|---|---|---|---|",
    ]
    for dim in args.dims:
        for backbone in ("kan", "metakan"):
            with tempfile.TemporaryDirectory() as folder:
                sides = [error(dim, backbone, grid, args.steps, Path(folder)) for grid in ("auto", (-1.0, 1.0))]
            lines.append(f"| {dim} | {backbone} | {sides[0]:.2e} | {sides[1]:.2e} |")
            print(lines[-1], flush=True)
            if args.out:  # after each row: nothing measured is lost
                args.out.parent.mkdir(parents=True, exist_ok=True)
                args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
