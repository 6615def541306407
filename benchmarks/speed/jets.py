"""Derivatives of any order by name: how exact they are, and what they cost beside nested differentiation.

    python -m benchmarks.jets [--backbones kan chebykan ...] [--points 1000] [--repeats 15] [--quick]
        [--out benchmarks/results/jets.md]

Exactness: networks of every basis, [d, 6, 5, 1] in float64, against nested reverse differentiation: the largest
relative difference in the derivatives of an order, and in the gradients of their mean square by the weights. Pure and
mixed derivatives, of up to six inputs.

Cost: [2, 32, 32, 32, 1] in float32 at --points points; forward and backward of the mean square of one thing that a
residual reads, with its factor 1 - x^2. Steps are interleaved, medians are quoted.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from benchmarks.speed.operators import Side, interleaved, step
from kanpde import Ansatz, Problem
from kanpde.backbones import FAMILIES, build
from kanpde.domains import Box
from kanpde.ground.metrics import saved_memory
from kanpde.ground.samplers import stream
from kanpde.jets import Jet
from kanpde.jets.names import Index
from kanpde.jets.nested import nested
from kanpde.jets.taylor import Polarised, line, push
from kanpde.operators import Autograd, Forward

F64 = torch.float64
DIMS, ORDERS = (1, 2, 3, 6), (1, 2, 3, 4)
MOST = 8  # derivatives of an order and number of inputs that are compared
READS: dict[str, Callable[[Jet], Tensor]] = {
    "u_x": lambda u: u.x,
    "u_xx": lambda u: u.xx,
    "u_xxx": lambda u: u.xxx,
    "u_xxxx": lambda u: u.xxxx,
    "u_xy": lambda u: u.xy,
    "u_xx + u_yy": lambda u: u.xx + u.yy,
    "u.lap": lambda u: u.lap,
    "u.bilap": lambda u: u.bilap,
}
NESTED = ("u_xx", "u_xxxx", "u.bilap")


@dataclass(frozen=True)
class Reading(Problem):
    """A problem whose residual is one thing that it reads of u."""

    dim: int = 2
    read: str = "u_xx"
    coordinates = ("x", "y")

    @property
    def domain(self) -> Box:
        """The square."""
        return Box(2)

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        """What is read."""
        return READS[self.read](u)


def some(dim: int, order: int) -> tuple[Index, ...]:
    """Derivatives of an order: all, or some that are spread over them."""
    every = list(combinations_with_replacement(range(dim), order))
    return tuple(every[:: -(-len(every) // MOST)])


def differences(name: str, dim: int, order: int) -> float:
    """The largest relative difference between Taylor jets and nested differentiation, by x and by the weights."""
    smooth = {"spline_order": 6} if name.removeprefix("meta") == "kan" else {}
    net = build(name, dim, widths=(6, 5), generator=stream(0, "init"), **smooth).double()
    x = 0.9 * (2 * torch.rand(8, dim, generator=stream(0, "x"), dtype=F64) - 1)
    indices = some(dim, order)
    polarised = Polarised.of(indices)
    found = polarised.derivatives(push(net, line(x, polarised.vectors(x), polarised.counts)))
    expected = nested(lambda x: net(x).squeeze(-1), x, indices)
    pairs = [(found[index], expected[index]) for index in indices]
    trained = [p for p in net.parameters() if p.requires_grad]
    for of in zip(*pairs, strict=True):
        total = torch.stack([y.square().mean() for y in of]).sum()
        pairs.append(torch.autograd.grad(total, trained, materialize_grads=True))
    values, gradients = pairs[:-2], zip(*pairs[-2:], strict=True)
    size = max(b.abs().max().item() for _, b in values)
    flat = [torch.cat([g.flatten() for g in side]) for side in zip(*gradients, strict=True)]
    by_weights = ((flat[0] - flat[1]).abs().max() / flat[1].abs().max()).item()
    return max(by_weights, *((a - b).abs().max().item() / size for a, b in values))


def sides(name: str, points: int) -> dict[str, Side]:
    """Module and loss of each thing that is read, and of some the same by nested differentiation."""
    smooth = {"spline_order": 5} if name == "kan" else {}
    net = build(name, 2, widths=(32, 32, 32), generator=stream(0, "init"), **smooth)
    x = Box(2).interior(points, stream(0, "interior"))

    def of(read: str, operator: Forward | Autograd) -> Side:
        u = Ansatz(problem := Reading(read=read), net)
        return u, lambda: problem.residual(operator(u, x), x).square().mean()

    return {read: of(read, Forward()) for read in READS} | {f"{r}, nested": of(r, Autograd()) for r in NESTED}


def costs(name: str, points: int, repeats: int) -> list[list[str]]:
    """A line for each side of a network."""
    made, first, saved, losses = sides(name, points), {}, {}, {}
    for side, (module, loss) in made.items():
        first[side] = step(module, loss)
        with saved_memory(module) as bytes_saved:
            losses[side] = loss().item()
        saved[side] = bytes_saved() / 1e6
    for read in NESTED:
        assert abs(losses[f"{read}, nested"] / losses[read] - 1) < 1e-2, losses
    ms = {side: 1e3 * statistics.median(times) for side, times in interleaved(made, first, repeats).items()}
    base = ms["u_xx"]
    return [[name, side, f"{ms[side]:.1f}", f"{ms[side] / base:.2f}", f"{saved[side]:.1f}"] for side in made]


def report(exact: Sequence[Sequence], cost: Sequence[Sequence[str]], points: int) -> str:
    """Markdown: the two tables."""
    lines = [
        "# Derivatives of any order by name",
        "",
        f"`python -m benchmarks.jets`: {machine()}.",
        "",
        "## Largest relative difference from nested differentiation, float64",
        "",
        *markdown(["basis", "order", *(f"d = {dim}" for dim in DIMS)], exact, "lrr"),
        "",
        f"## Steps, {points} points, [2, 32, 32, 32, 1], float32",
        "",
        *markdown(["network", "read", "ms", "time / u_xx", "saved, MB"], cost, "llr"),
    ]
    return "\n".join(lines) + "\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("jets", __doc__)
    parser.add_argument("--backbones", nargs="+", choices=("mlp", *FAMILIES), default=["kan", "chebykan", "fastkan"])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15, help="steps of a side")
    args = parser.common(quick="one basis and small numbers, to try the script").parse_args(argv)
    at_least(args, {"repeats": 1, "points": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = arguments(argv)
    names = ("mlp", *FAMILIES, *(f"meta{name}" for name in FAMILIES))
    if args.quick:
        names, args.backbones, args.points, args.repeats = ("fourierkan",), ["mlp"], 8, 2
    exact = [[name, order, *(differences(name, dim, order) for dim in DIMS)] for name in names for order in ORDERS]
    cost: list[list[str]] = []
    for name in args.backbones:
        cost += costs(name, args.points, args.repeats)
        print("\n".join(map(" | ".join, cost[-len(READS) - len(NESTED) :])), file=sys.stderr, flush=True)
    text = report(exact, cost, args.points)
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "jets")
