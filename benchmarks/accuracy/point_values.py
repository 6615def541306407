"""Values at points: a network and its correction beside Monte Carlo alone, in the same time.

    python -m benchmarks.point_values [--dim 100] [--points 16] [--steps 400] [--seconds 30] [--plain 30] [--quick]
        [--out benchmarks/results/point_values.md]

Poisson's equation on the ball. ours: training of --steps, then u - e by draws from the Green function for --seconds.
alone: u* itself by the same draws, of the source in the place of the residual, and by walks on spheres, for --plain
seconds each. Errors are root mean squares over the points, relative to that of u*; those of Monte Carlo alone are
scaled to the seconds that ours took in all, training included, as 1 / sqrt(seconds). One thread.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import torch
from torch import Tensor, nn

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, above_zero, at_least, deliver, exiting, markdown
from kanpde import Ansatz, train, verify
from kanpde.ground.samplers import stream
from kanpde.problems import Poisson
from kanpde.verification import DefectEquation, Samples
from kanpde.verification.estimate import sampled
from kanpde.verification.methods import BallGreen, Method, Spheres


def nothing(dim: int) -> nn.Module:
    """f = 0, a network whose defect is -u*."""
    net = nn.Sequential(nn.Linear(dim, 1)).double()
    nn.init.zeros_(net[0].weight)
    nn.init.zeros_(net[0].bias)
    return net


def plain(method: Method, x: Tensor, seconds: float) -> tuple[Tensor, float, int]:
    """u* at points by Monte Carlo alone, the seconds, and the samples at each."""
    generator, begun, n = stream(0, "plain"), monotonic(), 1
    samples = Samples.none(x, torch.zeros(len(x), dtype=torch.float64))
    while monotonic() - begun < seconds:
        part = monotonic()
        samples = sampled(method, samples, n, generator)
        left = seconds - (monotonic() - begun)
        n = max(1, min(2 * n, int(n * left / (monotonic() - part))))
    return -samples.mean, monotonic() - begun, int(samples.count[0])


def compared(dim: int, points: int, steps: int, seconds: float, alone: float, quick: bool) -> list[tuple]:
    """Rows of the table."""
    problem = Poisson(dim)
    x = problem.domain.interior(points, stream(0, "points"), dtype=torch.float64)
    exact = problem.exact(x)
    off = lambda u: ((u - exact).norm() / exact.norm()).item()
    given = {"points": {"test": 64, "validation": 16}} if quick else {}
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run.h5"
        run = train(problem, backbone="kan", steps=steps, out=out, compile=False, verify=False, **given)
        u, trained = run.load_model(), float(run.history["wall_s"][-1])
    found = verify(u, x, seconds=seconds, rel=1e-3)
    whole = trained + found.seconds
    rows = [
        ("the network", trained, "-", off(torch.from_numpy(found.u)), "-", "-"),
        ("its correction", whole, int(found.count[0]), off(torch.from_numpy(found.corrected)), "-", 1.0),
    ]
    equation = DefectEquation(Ansatz(problem, nothing(dim)))
    for name, kind in (("alone, Green function", BallGreen), ("alone, walks on spheres", Spheres)):
        value, spent, count = plain(kind(equation), x, alone)
        scaled = off(value) * (spent / whole) ** 0.5
        rows.append((name, spent, count, off(value), scaled, scaled / rows[1][3]))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Parser("point_values", __doc__)
    options.add_argument("--dim", type=int, default=100)
    options.add_argument("--points", type=int, default=16)
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--plain", type=float, default=30.0)
    options.common(RESULTS / "point_values.md", quick="a few steps, a second for each side")
    args = options.parse_args(argv)
    at_least(args, {"dim": 3, "points": 2, "steps": 1})
    above_zero(args, "seconds", "plain")
    torch.set_num_threads(1)
    steps, seconds, alone = (4, 0.3, 0.3) if args.quick else (args.steps, args.seconds, args.plain)
    rows = compared(args.dim, args.points, steps, seconds, alone, args.quick)
    heading = ("", "s", "samples a point", "error", "error in the seconds of ours", "error / ours")
    lines = [
        "# Values at points",
        "",
        f"`python -m benchmarks.point_values --dim {args.dim}`: Poisson's equation at {args.points} points of",
        f"the ball, a kan trained for {steps} steps; {machine()}.",
        "",
        *markdown(heading, rows),
    ]
    deliver("\n".join(lines) + "\n", args.out)


if __name__ == "__main__":
    exiting(main, "point_values")
