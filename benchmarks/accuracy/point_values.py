"""Values at points: a network, its correction and a second network, beside Monte Carlo alone in the same time.

    python -m benchmarks.point_values [--problem poisson] [--backbone kan] [--dim 100] [--points 64] [--steps 400]
        [--seconds 30] [--second 0] [--plain 30] [--run run.h5] [--quick] [--out benchmarks/results/point_values.md]

the network: training of --steps, or the run that is given. its correction: u - e by draws from the Green function,
until its standard error is a tenth of the error, or for --seconds. the second network: `kanpde.correct`, --second
steps. alone, for Poisson's equation: u* itself by the same draws, of the source in the place of the residual, and by
walks on spheres, for --plain seconds each, scaled to the seconds that the network and its correction took in all as
1 / sqrt(seconds). Errors are root mean squares over the points, relative to that of u*. One thread. Tables of other
problems and dimensions stay.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import torch
from torch import Tensor, nn

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, above_zero, at_least, deliver, exiting, markdown
from kanpde import Ansatz, Run, correct, train, verify
from kanpde.ground.samplers import stream
from kanpde.problems import ON_BALL, PDES
from kanpde.verification import DefectEquation, Samples
from kanpde.verification.estimate import sampled
from kanpde.verification.method import Method
from kanpde.verification.methods import BallGreen, Spheres


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


def compared(args, runs: Path) -> list[tuple]:
    """Rows of the table."""
    problem = PDES[args.problem](args.dim)
    x = problem.domain.interior(args.points, stream(0, "points"), dtype=torch.float64)
    exact = problem.exact(x)
    off = lambda u: ((u - exact).norm() / exact.norm()).item()
    given = {"points": {"test": 64, "validation": 16}} if args.quick else {}
    run = Run.open(args.run) if args.run else None
    if run is None:
        run = train(problem, backbone=args.backbone, steps=args.steps, out=runs / "run.h5", verify=False, **given)
    trained = float(run.history["wall_s"][-1])
    found = verify(run.load_model(), x, seconds=args.seconds, rel=0.1)
    whole, corrected = trained + found.seconds, off(torch.from_numpy(found.corrected))
    rows: list[tuple] = [
        ("the network", trained, "-", off(torch.from_numpy(found.u)), "-", "-"),
        ("its correction", found.seconds, int(found.count[0]), corrected, "-", 1.0),
    ]
    if args.second:
        second = correct(run, steps=args.second, out=runs / "second.h5", verify=False, compile=False, **given)
        u = second.load_model().double()
        rows.append(("the second network", float(second.history["wall_s"][-1]), "-", off(u(x).detach()), "-", "-"))
    if args.problem != "poisson":
        return rows
    equation = DefectEquation(Ansatz(problem, nothing(args.dim)))
    for name, kind in (("alone, Green function", BallGreen), ("alone, walks on spheres", Spheres)):
        value, spent, count = plain(kind(equation), x, args.plain)
        scaled = off(value) * (spent / whole) ** 0.5
        rows.append((name, spent, count, off(value), scaled, scaled / corrected))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Parser("point_values", __doc__)
    options.add_argument("--problem", choices=ON_BALL, default="poisson")
    options.add_argument("--backbone", choices=("kan", "metakan", "mlp"), default="kan")
    options.add_argument("--dim", type=int, default=100)
    options.add_argument("--points", type=int, default=64)
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--seconds", type=float, default=30.0)
    options.add_argument("--second", type=int, default=0, help="steps of a second network; 0: none")
    options.add_argument("--plain", type=float, default=30.0)
    options.add_argument("--run", type=Path, help="of the problem, instead of training one")
    options.common(RESULTS / "point_values.md", quick="a few steps, a second for each side")
    args = options.parse_args(argv)
    at_least(args, {"dim": 3, "points": 2, "steps": 1, "second": 0})
    above_zero(args, "seconds", "plain")
    torch.set_num_threads(1)
    if args.quick:
        args.steps, args.seconds, args.plain, args.second = 4, 0.3, 0.3, min(args.second, 2)
    with TemporaryDirectory() as folder:
        rows = compared(args, Path(folder))
    heading = ("", "s", "samples a point", "error", "in the seconds of both", "error / its correction")
    title = f"## {args.problem}, d = {args.dim}"
    of = f"the run {args.run.name}" if args.run else f"{args.steps} steps"
    about = f"{args.points} points, {args.backbone}, {of}; {machine()}."
    deliver(with_table(args.out, title, [title, "", about, "", *markdown(heading, rows)]), args.out)


def with_table(path: Path, title: str, lines: Sequence[str]) -> str:
    """The text of a file with a table in the place of that with its title."""
    head = "# Values at points\n\n`python -m benchmarks.point_values`\n"
    before, *tables = (path.read_text(encoding="utf-8") if path.is_file() else head).split("\n## ")
    kept = [f"## {table.strip()}" for table in tables if f"## {table}".splitlines()[0] != title]
    return "\n\n".join([before.strip(), *kept, "\n".join(lines)]) + "\n"


if __name__ == "__main__":
    exiting(main, "point_values")
