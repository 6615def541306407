"""Training steps of the exact operator, its estimators and nested differentiation: time, saved bytes, peak memory.

    python -m benchmarks.operators [--dims 20 100 ...] [--backbones metakan kan mlp] [--compile-all | --no-compile]
        [--out benchmarks/results/operators.md]
    python -m benchmarks.operators --million      # two steps in a million dimensions, in a process of their own

Networks: metakan and kan [d, 32, 32, 32, 1], B-splines on [-1, 1], one meta-learner of 128 units; mlp [d, 128, 128,
128, 1], tanh. A step is forward and backward of the mean squared residual of Allen-Cahn (hard constraint, source
computed beforehand), generation of weights included, no optimiser. Sides:

    exact              kanpde.operators.Forward: one jet, one backward pass
    value              forward and backward of the mean of u^2 through the same layers, no derivatives in x
    Hutchinson, SDGD   the estimators of kanpde.operators: 1 or 16 directions, 4 or 16 dimensions
    nested             nested differentiation (kanpde.operators.Autograd) over kanpde's own basis
    published          nested differentiation over the Cox-de Boor recursion, as published codes do it; of an mlp, over
                       the mlp itself
    published, 4 dims  the same with 4 random second derivatives, scaled by d / 4

"compiled" is Forward(compile=True), and torch.compile of the network for value: of metakan from d = 100 on, of
the others at d = 100 alone, unless --compile-all. Sides that compute the same must give the same loss. Steps of all
sides are interleaved, a fast one after one of the same side that is not timed; medians are quoted.
"""

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, alone, at_least, deliver, exiting, keep, markdown
from benchmarks.speed.memory import bytes_of, peak_bytes
from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.metrics import saved_memory
from kanpde.ground.samplers import stream
from kanpde.operators import SDGD, Autograd, Forward, Hutchinson
from kanpde.problems import AllenCahn

DIMS, BACKBONES = (20, 100, 1_000, 10_000, 100_000), ("metakan", "kan", "mlp")
LARGEST = {"nested": 100, "published": 100, "published, 4 dims": 1_000}  # dimension; beyond, a step takes too long
PEAK_UP_TO = 10_000  # dimensions: the profiler slows a step down
COMPILED_FROM = 100  # dimension: every compilation takes about a minute
SAME = {"exact": ("exact, compiled", "nested", "published"), "value": ("value, compiled",)}  # loss
WIDE, WIDE_REPEATS = 10_000, 5  # dimension from which a side is repeated so often at most
SLOW, SLOW_REPEATS = 1.0, 3  # seconds of a step from which a side is repeated so often only
SMALLEST = 16  # dimension that SDGD can sample 16 of
HEADING = ("side", "ms", "time / exact", "saved, MB", "saved / exact", "peak, MB", "compilation, s", "steps")
COLUMNS = ("backbone", "dim", "points", "side", "ms", "saved_MB", "peak_MB", "compile_s", "steps", "threads")

WANTED = (  # of metakan: side, dimension, column, least ratio to exact
    ("published", 100, "ms", "150, aimed at 300"),
    ("published", 100, "saved_MB", "100"),
    ("published, 4 dims", 100, "ms", "8"),
    ("published, 4 dims", 1_000, "ms", "6"),
)
WANTED_VALUE = {100: 4, 1_000: 5, 10_000: 5, 100_000: 5}  # most time of exact / value, by dimension
WANTED_GB = 6  # most resident memory of a step in a million dimensions

Side = tuple[nn.Module, Callable[[], Tensor]]  # a module, and the loss whose gradient goes into its parameters


class CoxDeBoorKAN(nn.Module):
    """The same network, evaluated by the recursion B_{j,p} = (x - t_j) / (t_j+p - t_j) B_{j,p-1} + ..."""

    def __init__(self, net: nn.Sequential):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            theta = layer.weights.generate(layer.weights.split(layer.in_features)[0])
            features = torch.cat([self.splines(layer.basis, x), nn.functional.silu(x).unsqueeze(-1)], -1)
            x = torch.einsum("nic,ico->no", features, theta)
        return x

    @staticmethod
    def splines(basis, x: Tensor) -> Tensor:
        k, knots = basis.spline_order, knots_of(basis)
        x = x.unsqueeze(-1)
        b = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
        for p in range(1, k + 1):
            left = (x - knots[:, : -(p + 1)]) / (knots[:, p:-1] - knots[:, : -(p + 1)])
            right = (knots[:, p + 1 :] - x) / (knots[:, p + 1 :] - knots[:, 1:-p])
            b = left * b[..., :-1] + right * b[..., 1:]
        return b


def knots_of(basis) -> Tensor:
    """All knots of uniform B-splines, (in, G + 2 k + 1)."""
    g, k = basis.grid_size, basis.spline_order
    step = (basis.high - basis.low) / g
    return basis.low.unsqueeze(1) + step.unsqueeze(1) * torch.arange(-k, g + k + 1)


class WithoutRules(nn.Sequential):
    """The layers of a network, as a module that no jet can go through."""


# Sides -------------------------------------------------------------------------------------------------------------


def draw(problem: AllenCahn, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (N, d) and the source there (N,)."""
    x = problem.domain.interior(points, generator)
    return x, problem.source(x)


def residuals(operator, u: Ansatz, x: Tensor, source: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """(Lap u + u - u^3 - g) / (2 d), (N,)."""
    jet = operator(u, x, generator=generator)
    return u.problem.residual_scale * (jet.lap + u.problem.nonlinearity(jet.value) - source)


def sides(dim: int, points: int, backbone: str = "metakan", compiled: bool = False) -> dict[str, Side]:
    """All sides that are affordable in this dimension, by name, with the same parameters."""
    problem = AllenCahn(dim)
    net = build(backbone, dim, generator=stream(0, "init"))
    own = Ansatz(problem, net)
    textbook = Ansatz(problem, WithoutRules(*net) if backbone == "mlp" else CoxDeBoorKAN(net))
    x, source = draw(problem, points, stream(0, "interior"))

    def residual(operator, u: Ansatz) -> Side:
        probes = stream(0, "probes")
        return u, lambda: residuals(operator, u, x, source, probes).square().mean()

    def value(u: Ansatz) -> Side:
        return u, lambda: u(x).square().mean()

    made = {"exact": residual(Forward(), own), "value": value(own)}
    if compiled:
        made["exact, compiled"] = residual(Forward(compile=True), own)
        made["value, compiled"] = value(Ansatz(problem, torch.compile(net, dynamic=False)))
    for number in (1, 16):
        made[f"Hutchinson {number}"] = residual(Hutchinson(number), own)
    for number in (4, 16):
        made[f"SDGD {number}"] = residual(SDGD(number), own)
    nested = {} if backbone == "mlp" else {"nested": residual(Autograd(), own)}
    nested["published"] = residual(Autograd(), textbook)
    nested["published, 4 dims"] = residual(SDGD(4, of="u"), textbook)
    return made | {name: side for name, side in nested.items() if dim <= LARGEST[name]}


# Measurements ------------------------------------------------------------------------------------------------------


def step(module: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Seconds of one forward and backward pass, by the parameters alone, as a training step takes it."""
    module.zero_grad()
    start = time.perf_counter()
    loss().backward(inputs=[p for p in module.parameters() if p.requires_grad])
    return time.perf_counter() - start


def peak(module: nn.Module, loss: Callable[[], Tensor], inputs: int) -> int:
    """Most bytes alive during a step, the parameters and `inputs` bytes of points and source among them."""
    module.zero_grad()
    return peak_bytes(lambda: loss().backward(), inputs + bytes_of(module), torch.device("cpu"))


def measure(backbone: str, dim: int, points: int, repeats: int, compiled: bool) -> list[dict]:
    """A row for each side."""
    if compiled:
        torch.compiler.reset()  # torch.compile gives up on code that it has met with many networks
    rows, seconds, losses = {}, {}, {}
    made = sides(dim, points, backbone, compiled)
    for name, (module, loss) in made.items():
        row = rows[name] = {"backbone": backbone, "dim": dim, "points": points, "side": name}
        if "compiled" in name:
            row["compile_s"] = step(module, loss)
        module.zero_grad()
        start = time.perf_counter()
        with saved_memory(module) as saved:
            first = loss()
        first.backward()
        seconds[name], losses[name], row["saved_MB"] = time.perf_counter() - start, first.item(), saved() / 1e6
        if dim <= PEAK_UP_TO:
            row["peak_MB"] = peak(module, loss, inputs=4 * points * (dim + 1)) / 1e6
    agree(losses)
    times = interleaved(made, seconds, repeats if dim < WIDE else min(repeats, WIDE_REPEATS))
    for name, of_side in times.items():
        rows[name] |= {
            "ms": 1e3 * statistics.median(of_side),
            "steps": len(of_side),
            "threads": torch.get_num_threads(),
        }
    return list(rows.values())


def agree(losses: dict[str, float]) -> None:
    """Raise where sides that compute the same have different losses."""
    for name, others in SAME.items():
        for other in others:
            if other in losses:
                assert abs(losses[other] / losses[name] - 1) < 1e-3, f"{other} differs from {name}: {losses}"


def interleaved(made: dict[str, Side], seconds: dict[str, float], repeats: int) -> dict[str, list[float]]:
    """Seconds of the steps of each side, given about how long one takes."""
    times: dict[str, list[float]] = {name: [] for name in made}
    for i in range(repeats):
        for name, side in made.items():
            if seconds[name] < SLOW:
                step(*side)  # finds the memory that the side before gave back to the system
            elif i >= SLOW_REPEATS:
                continue
            times[name].append(step(*side))
    return times


def in_high_dimension(dim: int, points: int, steps: int = 2) -> tuple[list[float], int]:
    """Seconds of exact training steps with Adam, fresh points each; and the peak resident bytes of this process."""
    problem = AllenCahn(dim)
    u = Ansatz(problem, build("metakan", dim, generator=stream(0, "init")))
    adam, generator, seconds = torch.optim.Adam(u.parameters(), lr=1e-3), stream(0, "interior"), []
    for _ in range(steps):
        start = time.perf_counter()
        x, source = draw(problem, points, generator)
        adam.zero_grad()
        residuals(Forward(), u, x, source).square().mean().backward()
        adam.step()
        seconds.append(time.perf_counter() - start)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return seconds, most if sys.platform == "darwin" else 1024 * most


# Tables ------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[dict]) -> str:
    """The sides of one network in one dimension."""
    exact, lines = rows[0], []
    for row in rows:
        ratios = (f"{n:.2f}" for column in ("ms", "saved_MB") for n in (row[column], row[column] / exact[column]))
        rest = (f"{row[column]:.1f}" if column in row else "" for column in ("peak_MB", "compile_s"))
        lines.append([row["side"], *ratios, *rest, row["steps"]])
    title = f"## {exact['backbone']}, d = {exact['dim']:,}"
    return "\n".join([title, "", *markdown(HEADING, lines, "lr")]) + "\n"


def verdicts(rows: Sequence[dict]) -> Iterator[str]:
    """The lines that hold ratios against the wanted ones, of what was measured."""
    at = {(row["backbone"], row["dim"], row["side"]): row for row in rows}
    modes = ("", ", compiled")
    for (side, dim, column, least), mode in product(WANTED, modes):
        top, exact = at.get(("metakan", dim, side)), at.get(("metakan", dim, "exact" + mode))
        if top and exact:
            ratio, of = top[column] / exact[column], "" if column == "ms" else "saved bytes, "
            yield f"- {of}metakan, d = {dim:,}: {side} / exact{mode} = {ratio:.3g} (wanted: at least {least})"
    for backbone, (dim, most), mode in product(("metakan", "kan"), WANTED_VALUE.items(), modes):
        exact, value = (at.get((backbone, dim, side + mode)) for side in ("exact", "value"))
        if exact and value:
            ratio = exact["ms"] / value["ms"]
            yield f"- {backbone}, d = {dim:,}: exact / value{mode} = {ratio:.3g} (wanted: at most {most})"


def report(rows: Sequence[dict], points: int) -> str:
    """Markdown: a table for each network and dimension, and what was wanted."""
    cases = dict.fromkeys((row["backbone"], row["dim"]) for row in rows)
    tables = [table([row for row in rows if (row["backbone"], row["dim"]) == case]) for case in cases]
    head = [
        f"# Training steps of operators, N = {points}",
        "",
        f"`python -m benchmarks.operators`: {machine()};",
        "float32; medians of interleaved steps. Networks and sides: the head of benchmarks/speed/operators.py.",
        "Saved: by the forward pass for the backward pass, beside the parameters. Peak: all that is alive at a time in",
        "a step. Compilation: the first step, with what the compiler's cache on the disk held.",
        "",
    ]
    return "\n".join([*head, *tables, "## Wanted", "", *(list(verdicts(rows)) or ["Nothing of these sizes."])]) + "\n"


def report_of_high_dimension(dim: int, points: int) -> str:
    """Measured in a process of its own, whose memory is that of the steps alone."""
    seconds, most = alone(partial(in_high_dimension, points=points), dim)
    steps = ", ".join(f"{s:.1f}" for s in seconds)
    return (
        f"# Exact training steps in {dim:,} dimensions\n\n"
        f"`python -m benchmarks.operators --million`: metakan [{dim}, 32, 32, 32, 1], N = {points}, Adam, points and "
        f"source drawn at each step, no torch.compile; {machine()}.\n\n"
        f"- seconds per step: {steps}\n"
        f"- peak resident memory = {most / 1e9:.2f} GB (wanted: at most {WANTED_GB})\n"
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("operators", __doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=list(DIMS))
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=11, help="steps of a side, default 11; of a slow one fewer")
    compiling = parser.add_mutually_exclusive_group()
    compiling.add_argument("--compile-all", action="store_true", help="compile all networks in all dimensions")
    compiling.add_argument("--no-compile", action="store_true", help="eager sides only")
    parser.add_argument("--million", action="store_true", help="two steps in a million dimensions, nothing else")
    args = parser.common(quick="small sizes, eager sides: to try the script").parse_args(argv)
    if args.quick:
        args.dims, args.points, args.repeats, args.no_compile = [20], 10, 2, True
    at_least(args, {"points": 1, "repeats": 1, "dims": SMALLEST})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = arguments(argv)
    if args.million:
        text = report_of_high_dimension(2_000 if args.quick else 1_000_000, args.points)
        if args.out:
            deliver(text, args.out)
    rows: list[dict] = []
    for backbone, dim in () if args.million else product(args.backbones, args.dims):
        chosen = dim >= COMPILED_FROM if backbone == "metakan" else dim == COMPILED_FROM
        compiled = not args.no_compile and (chosen or args.compile_all)
        rows += measure(backbone, dim, args.points, args.repeats, compiled)
        text = report(rows, args.points)
        print(f"{backbone}, d = {dim:,}: measured", file=sys.stderr, flush=True)
        if args.out:
            deliver(text, args.out)
            keep(args.out.with_suffix(".csv"), COLUMNS, rows, digits=None)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "operators")
