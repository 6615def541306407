"""Every backbone on one PDE: the same points, steps and solver, a first guide to which basis to try.

    python -m benchmarks.backbones [--dim 20] [--steps 1000] [--names kan,metakan] [--out FILE.md]

Poisson's equation on the ball with the default solver, one seed; networks [d, 32, 32, 32, 1] with the options'
defaults, the MLP [d, 128, 128, 128, 1].
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, deliver, exiting, markdown
from kanpde.backbones import BACKBONES
from kanpde.problems import Poisson
from kanpde.runs.api import train

HEADING = ("backbone", "parameters", "relative l2 error", "ms a step", "off the grid")


def row(name: str, dim: int, steps: int, folder: Path) -> list[str]:
    """Train one backbone; the cells of its line."""
    evaluation = {"every": steps, "points": 2000}
    run = train(Poisson(dim), backbone=name, steps=steps, evaluation=evaluation, out=folder / f"{name}.h5")
    seconds = run.history["wall_s"][-1]
    off = max((column[-1] for key, column in run.history.items() if key.startswith("off_grid/")), default=0.0)
    parameters = f"{run.attrs['parameters']:,}"
    return [name, parameters, f"{run.rel_l2:.1e}", f"{seconds / steps * 1e3:.0f}", f"{off:.0%}"]


def report(rows: Sequence[Sequence[str]], dim: int, steps: int) -> str:
    """Markdown: a line for each backbone."""
    lines = [
        f"# Every backbone, Poisson's equation in {dim} dimensions, {steps} steps",
        "",
        f"`python -m benchmarks.backbones --dim {dim} --steps {steps}`: default solver, seed 0; {machine()}. "
        "Off the grid: the largest fraction of the inputs of a layer at the end. The machine had other work.",
        "",
        *markdown(HEADING, rows),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("backbones", __doc__)
    parser.add_argument("--dim", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--names", default=",".join(BACKBONES), help="backbones, with commas between")
    args, rows = parser.common().parse_args(argv), []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names.split(","):
            rows.append(row(name, args.dim, args.steps, Path(folder)))
            print(*rows[-1], flush=True)
    if args.out:
        deliver(report(rows, args.dim, args.steps), args.out)


if __name__ == "__main__":
    exiting(main, "backbones")
