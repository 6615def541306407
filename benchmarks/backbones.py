"""Every backbone on one PDE: the same points, steps and solver, a first guide to which basis to try.

    python -m benchmarks.backbones [--dim 20] [--steps 1000] [--names kan,metakan] [--out FILE.md]

Poisson's equation on the ball with the default solver, one seed; networks [d, 32, 32, 32, 1] with the options'
defaults, the MLP [d, 128, 128, 128, 1].
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.machine import machine
from kanpde.api import train
from kanpde.backbones import BACKBONES
from kanpde.problems import Poisson


def row(name: str, dim: int, steps: int, folder: Path) -> str:
    """Train one backbone; its line of the table."""
    evaluation = {"every": steps, "points": 2000}
    run = train(Poisson(dim), backbone=name, steps=steps, evaluation=evaluation, out=folder / f"{name}.h5")
    seconds = run.history["wall_s"][-1]
    off = max((column[-1] for key, column in run.history.items() if key.startswith("off_grid/")), default=0.0)
    return f"| {name} | {run.attrs['parameters']:,} | {run.rel_l2:.1e} | {seconds / steps * 1e3:.0f} | {off:.0%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--names", default=",".join(BACKBONES), help="backbones, with commas between")
    parser.add_argument("--out", type=Path, help="a markdown file for the table")
    args = parser.parse_args()
    lines = [
        f"# Every backbone, Poisson's equation in {args.dim} dimensions, {args.steps} steps",
        "",
        f"`python -m benchmarks.backbones --dim {args.dim} --steps {args.steps}`: default solver, seed 0; {machine()}. "
        "Off the grid: the largest fraction of the inputs of a layer at the end. The machine had other work.",
        "",
        "| backbone | parameters | relative l2 error | ms a step | off the grid |",
        "|---|--:|--:|--:|--:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names.split(","):
            lines.append(row(name, args.dim, args.steps, Path(folder)))
            print(lines[-1], flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
