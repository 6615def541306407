"""The bilaplacian in many dimensions: a step with all its terms beside steps that estimate it by random jets.

    python -m benchmarks.random_jets [--dims 10 100 1000] [--repeats 15] [--quick]
        [--out benchmarks/results/random_jets.md]

u.bilap of kan [d, 32, 32, 32, 1] on the unit ball with the factor 1 - |x|^2, at 10 points in float32; forward and
backward of its mean square. Exact up to 100 dimensions, and by the estimators of kanpde.operators. Steps are
interleaved, medians are quoted. The deviation is that of one estimate over the size of u.bilap, roots of mean squares
over the points and 32 draws of the network as it is drawn; beyond 100 dimensions u.bilap is the mean of the draws.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from benchmarks.speed.operators import Side, interleaved, step
from kanpde import Ansatz, Problem
from kanpde.backbones import build
from kanpde.domains import Ball
from kanpde.ground.metrics import saved_memory
from kanpde.ground.samplers import stream
from kanpde.jets import Jet
from kanpde.operators import SDGD, Forward, Hutchinson, Operator

DIMS, EXACT_UP_TO, POINTS, DRAWS = (10, 100, 1_000), 100, 10, 32
ESTIMATORS: dict[str, Operator] = {
    "Hutchinson 8": Hutchinson(8),
    "Hutchinson 8, gaussian": Hutchinson(8, "gaussian"),
    "SDGD 8": SDGD(8),
}
SMALLEST = 8  # dimension that SDGD can sample 8 of
HEADING = ("d", "operator", "ms", "time / exact", "saved, MB", "saved / exact", "deviation")


@dataclass(frozen=True)
class Biharmonic(Problem):
    """The bilaplacian on the unit ball, zero on its boundary."""

    dim: int = 10

    @property
    def domain(self) -> Ball:
        """The ball."""
        return Ball(self.dim)

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        """What is read."""
        return u.bilap


def deviation(u: Ansatz, x: Tensor, operator: Operator, exact: Tensor | None) -> float:
    """The standard deviation of an estimate over the size of what it estimates."""
    generator = stream(0, "deviation")
    with torch.no_grad():
        drawn = torch.stack([operator(u, x, generator=generator).bilap for _ in range(DRAWS)])
    size = (drawn.mean(0) if exact is None else exact).square().mean().sqrt()
    return (drawn.var(0).mean().sqrt() / size).item()


def sides(dim: int) -> tuple[Ansatz, Tensor, dict[str, Side]]:
    """u, points, and module and loss of each operator that is affordable."""
    u = Ansatz(Biharmonic(dim), build("kan", dim, generator=stream(0, "init"), widths=(32, 32, 32), spline_order=5))
    x, drawn = u.problem.domain.interior(POINTS, stream(0, "interior")), stream(0, "probes")
    operators = {"exact": Forward()} | ESTIMATORS if dim <= EXACT_UP_TO else ESTIMATORS
    loss = lambda operator: operator(u, x, generator=drawn).bilap.square().mean()
    return u, x, {name: (u, lambda operator=operator: loss(operator)) for name, operator in operators.items()}


def measure(dim: int, repeats: int) -> list[list[str]]:
    """A line for each side."""
    u, x, made = sides(dim)
    saved, first, exact = {}, {name: step(*side) for name, side in made.items()}, None
    for name, (module, loss) in made.items():
        with saved_memory(module) as bytes_saved:
            loss()
        saved[name] = bytes_saved() / 1e6
    if "exact" in made:
        with torch.no_grad():
            exact = Forward()(u, x).bilap
    ms = {name: 1e3 * statistics.median(times) for name, times in interleaved(made, first, repeats).items()}
    over = lambda of, name: f"{of[name] / of['exact']:.2g}" if "exact" in of else ""
    spread = {name: f"{deviation(u, x, operator, exact):.2f}" for name, operator in ESTIMATORS.items()}
    line = lambda k: [f"{ms[k]:.0f}", over(ms, k), f"{saved[k]:.1f}", over(saved, k), spread.get(k, "0")]
    return [[f"{dim:,}", name, *line(name)] for name in made]


def report(rows: Sequence[Sequence[str]]) -> str:
    """Markdown: the table."""
    lines = [
        "# The bilaplacian in many dimensions",
        "",
        f"`python -m benchmarks.random_jets`: {machine()}; kan [d, 32, 32, 32, 1], {POINTS} points, float32.",
        "",
        *markdown(HEADING, rows, "rlr"),
    ]
    return "\n".join(lines) + "\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("random_jets", __doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=list(DIMS))
    parser.add_argument("--repeats", type=int, default=15, help="steps of a side, of a slow one fewer")
    args = parser.common(quick="one small dimension, to try the script").parse_args(argv)
    at_least(args, {"repeats": 1, "dims": SMALLEST})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = arguments(argv)
    if args.quick:
        args.dims, args.repeats = [SMALLEST], 2
    rows: list[list[str]] = []
    for dim in args.dims:
        rows += (found := measure(dim, args.repeats))
        print("\n".join(map(" | ".join, found)), file=sys.stderr, flush=True)
    text = report(rows)
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "random_jets")
