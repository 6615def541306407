"""What a system of three fields costs beside one field.

    python -m benchmarks.systems [--backbones kan metakan chebykan mlp] [--points 1000] [--repeats 15] [--quick]
        [--out benchmarks/results/systems.md]

Forward and backward of the mean square of each field's own equation, which reads the same of each field: on one
network [2, 32, 32, 32, 3], on three networks [2, 32, 32, 32, 1], and as three problems with one field; beside one field
on [2, 32, 32, 32, 1]. All vanish on the boundary by their factor. float32, steps interleaved, medians.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from benchmarks.speed.operators import Side, interleaved, step
from kanpde import Ansatz, Problem
from kanpde.backbones import FAMILIES, build
from kanpde.domains import Box
from kanpde.ground.metrics import saved_memory
from kanpde.ground.samplers import stream
from kanpde.jets import Jet
from kanpde.jets.system import Separate
from kanpde.operators import Forward
from kanpde.problems.conditions import Dirichlet

FIELDS = ("u", "v", "w")
READS: dict[str, Callable[[Jet], Tensor]] = {
    "u.lap": lambda u: u.lap,
    "u.lap, u.x, u.y": lambda u: u.lap + u.x + u.y,
    "u.xx, u.yy, u.x, u.y": lambda u: u.xx + u.yy + u.x + u.y,
    "u.xxx, u.y": lambda u: u.xxx + u.y,
}


@dataclass(frozen=True)
class One(Problem):
    """A field that vanishes on the boundary of the square, and what is read of it."""

    dim: int = 2
    read: str = "u.lap"
    coordinates = ("x", "y")
    conditions = (Dirichlet(field="u"),)

    @property
    def domain(self) -> Box:
        """The square."""
        return Box(2)

    def residual(self, u: Any, x: Tensor) -> Any:
        """What is read."""
        return READS[self.read](u)


class Three(One):
    """Three fields, an equation for each."""

    fields = FIELDS
    conditions = tuple(Dirichlet(field=name) for name in FIELDS)

    def residual(self, u: Any, x: Tensor) -> Any:
        """What is read of each."""
        return tuple(map(READS[self.read], u))


def sides(name: str, read: str, points: int) -> dict[str, Side]:
    """Module and loss of each way."""
    smooth = {"spline_order": 5} if name in ("kan", "metakan") else {}
    net = lambda outputs, k=0: build(name, 2, outputs, widths=(32, 32, 32), generator=stream(k, "init"), **smooth)
    x = Box(2).interior(points, stream(0, "interior"), "volume")

    def of(problem: Problem, *nets: nn.Module) -> Side:
        each = [Ansatz(problem, net) for net in nets]

        def loss() -> Tensor:
            equations = (problem.equations(Forward()(u, x), x) for u in each)
            return torch.stack([r.square().mean() for found in equations for r in found.values()]).sum()

        return nn.ModuleList(each), loss

    one, three = One(read=read), Three(read=read)
    apart = [net(1, k) for k in range(len(FIELDS))]
    return {
        "one field": of(one, net(1)),
        "three on one network": of(three, net(len(FIELDS))),
        "three on three networks": of(three, Separate(apart)),
        "three problems": of(one, *apart),
    }


def costs(name: str, read: str, points: int, repeats: int) -> list[list[str]]:
    """A line for each way."""
    made, first, saved, losses = sides(name, read, points), {}, {}, {}
    for side, (module, loss) in made.items():
        first[side] = step(module, loss)
        with saved_memory(module) as bytes_saved:
            losses[side] = loss().item()
        saved[side] = bytes_saved() / 1e6
    assert abs(losses["three problems"] / losses["three on three networks"] - 1) < 1e-3, losses
    ms = {side: 1e3 * statistics.median(times) for side, times in interleaved(made, first, repeats).items()}
    base = "one field"
    return [
        [name, read, side, f"{ms[side]:.1f}", f"{ms[side] / ms[base]:.2f}", f"{saved[side] / saved[base]:.2f}"]
        for side in made
    ]


def report(rows: Sequence[Sequence[str]], points: int) -> str:
    """Markdown."""
    heading = ["network", "read of each field", "fields", "ms", "time / one field", "saved memory / one field"]
    lines = [
        "# A system of three fields beside one field",
        "",
        f"`python -m benchmarks.systems`: {machine()}.",
        f"Steps at {points} points; see the head of the script.",
        "",
        *markdown(heading, rows, "lllr"),
    ]
    return "\n".join(lines) + "\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("systems", __doc__)
    names = ["kan", "metakan", "chebykan", "mlp"]
    parser.add_argument("--backbones", nargs="+", choices=("mlp", "metakan", *FAMILIES), default=names)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15, help="steps of a side")
    args = parser.common(quick="one network and small numbers, to try the script").parse_args(argv)
    at_least(args, {"repeats": 1, "points": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = arguments(argv)
    if args.quick:
        args.backbones, args.points, args.repeats = ["mlp"], 8, 2
    rows: list[list[str]] = []
    for name in args.backbones:
        for read in READS:
            rows += costs(name, read, args.points, args.repeats)
            print("\n".join(map(" | ".join, rows[-4:])), file=sys.stderr, flush=True)
    text = report(rows, args.points)
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "systems")
