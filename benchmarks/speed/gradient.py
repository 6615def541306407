"""Training steps with the gradient of the residual, as the default solver takes them: plain, eager and compiled.

    python -m benchmarks.gradient [--dims 20 100 1000] [--backbones kan metakan mlp] [--repeats 21] [--quick]
        [--out benchmarks/results/gradient.md]

The networks of `benchmarks.operators`; as many points as the default solver has: 100 up to d = 100, 40 up to 1000, else
10. A step is forward and backward of the loss on Allen-Cahn, source included, no optimiser. Sides:

    plain                mean r^2, one pass
    gradient             mean r^2 + 3 mean |grad r|^2 / d, differentiated twice
    gradient, compiled   the same: differentiated once before torch.compile sees it

Sides of the same loss must agree in it. Steps are interleaved, medians are quoted.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from itertools import product

import torch

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from benchmarks.speed.operators import BACKBONES, Side, interleaved, step
from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.metrics import saved_memory
from kanpde.ground.samplers import stream
from kanpde.operators import Forward
from kanpde.problems import AllenCahn
from kanpde.training.losses import Loss

POINTS = {100: 100, 1_000: 40, sys.maxsize: 10}  # up to a dimension
WEIGHTS = {"gradient": 3.0}
HEADING = ("network", "d", "points", "side", "ms", "time / plain", "saved, MB", "first step, s")


def sides(backbone: str, dim: int, points: int) -> dict[str, Side]:
    """Module and loss of each side, by name, with the same parameters."""
    problem = AllenCahn(dim)
    u = Ansatz(problem, build(backbone, dim, generator=stream(0, "init")))
    x = problem.domain.interior(points, stream(0, "interior"))

    def of(loss: Loss, compiled: bool = False) -> Side:
        return u, lambda: loss.total(loss.terms(u, Forward(compiled), {"interior": x}, stream(0, "operator")))

    enhanced = Loss(gradient="almost_everywhere", weights=WEIGHTS)
    return {"plain": of(Loss()), "gradient": of(enhanced), "gradient, compiled": of(enhanced, compiled=True)}


def measure(backbone: str, dim: int, points: int, repeats: int) -> list[list[str]]:
    """The lines of one network."""
    made, first, saved, losses = sides(backbone, dim, points), {}, {}, {}
    for name, (module, loss) in made.items():
        first[name] = step(module, loss)
        with saved_memory(module) as bytes_saved:
            losses[name] = loss().item()
        saved[name] = bytes_saved() / 1e6
    assert abs(losses["gradient, compiled"] / losses["gradient"] - 1) < 1e-3, losses
    ms = {name: 1e3 * statistics.median(times) for name, times in interleaved(made, first, repeats).items()}
    numbers = {n: (f"{ms[n]:.1f}", f"{ms[n] / ms['plain']:.2f}", f"{saved[n]:.1f}", f"{first[n]:.1f}") for n in made}
    return [[backbone, f"{dim:,}", str(points), name, *numbers[name]] for name in made]


def report(lines: Sequence[Sequence[str]]) -> str:
    """Markdown: a line for each side."""
    head = [
        "# Training steps with the gradient of the residual",
        "",
        f"`python -m benchmarks.gradient`: {machine()}; float32; medians of interleaved steps.",
        "First step: compilation is in it, with what the compiler's cache on the disk held.",
        "",
        *markdown(HEADING, lines, "lrrlr"),
    ]
    return "\n".join(head) + "\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("gradient", __doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["kan", "metakan", "mlp"])
    parser.add_argument("--repeats", type=int, default=21, help="steps of a side")
    args = parser.common(quick="one small network, to try the script").parse_args(argv)
    if args.quick:
        args.dims, args.backbones, args.repeats = [2], ["mlp"], 2
    at_least(args, {"repeats": 1, "dims": 2})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args, lines = arguments(argv), []
    for backbone, dim in product(args.backbones, args.dims):
        torch.compiler.reset()
        points = next(n for most, n in POINTS.items() if dim <= most)
        lines += measure(backbone, dim, 8 if args.quick else points, args.repeats)
        print("\n".join(map(" | ".join, lines[-3:])), file=sys.stderr, flush=True)
        if args.out:
            deliver(report(lines), args.out)
    print(report(lines), end="")


if __name__ == "__main__":
    exiting(main, "gradient")
