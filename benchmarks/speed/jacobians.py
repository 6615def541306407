"""The Jacobian of a Gauss-Newton step: from one reverse pass for all points, and from those of single points.

    python -m benchmarks.jacobians [--repeats 7] [--points 3000] [--cases burgers-kan ...] [--quick]
        [--out benchmarks/results/jacobians.md]

Both give J = dr/dtheta of the interior residual at the same points in float64, in blocks as a step takes them; that
they are the same to 1e-11 of the largest entry is checked first. Single points are a vectorised reverse pass through
their jets, as every step was before. Of a step of Gauss-Newton the rest is shown too: the normal matrix or the kernel,
a Cholesky factor, of which it takes three, and a value of the loss, of which it takes seven. Sides are interleaved;
medians of milliseconds.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, at_least, deliver, exiting, markdown
from kanpde.config import load
from kanpde.ground.samplers import stream
from kanpde.optim.gauss_newton import Dense
from kanpde.problems.conditions import draws
from kanpde.training.objective import Objective
from kanpde.training.plan import Plan
from kanpde.training.residuals import Residuals

NETS = {
    "kan": {"name": "kan", "widths": [12, 12]},
    "chebykan": {"name": "chebykan", "widths": [8], "degree": 16},
    "mlp": {"name": "mlp", "widths": [20, 20, 20]},
    "metakan": {"name": "metakan", "widths": [12, 12]},
}
PROBLEMS = ("burgers", "cavity", "elasticity")
CASES = [f"{problem}-{net}" for problem in PROBLEMS for net in NETS]
HEADING = ("case", "parameters", "one pass", "single points", "ratio", "normal matrix", "Cholesky", "loss")
AGREE = 1e-11


def system_of(case: str, points: int) -> tuple[Objective, Residuals]:
    """The residuals of the interior points of a case, with its first weights."""
    problem, net = case.split("-")
    given = {"backbone": NETS[net], "loss": {"gradient": "none", "emphasis": None}, "points": {"interior": points}}
    plan = Plan.of(load(problem, "low_dim", {**given, "start": "network"}))
    objective = Objective(plan, plan.ansatz())
    x = draws(plan.problem, "volume")["interior"](points, stream(0, "x"), sequence="random", dtype=torch.float64)
    parameters = [p for p in objective.u.parameters() if p.requires_grad]
    return objective, objective.system({"interior": x}, stream(0, "probes"), parameters)


def measure(case: str, points: int, repeats: int) -> list:
    """A line of the table."""
    objective, system = system_of(case, points)
    sides: dict[str, Callable] = {"one": lambda: jacobian(system, True), "single": lambda: jacobian(system, False)}
    check(case, *(side() for side in sides.values()))
    j = sides["one"]()
    sides |= {
        "normal": lambda: Dense([(j[:, 0], j)], None, 0.5),
        "factor": lambda: torch.linalg.cholesky_ex(gram),
        "loss": lambda: objective.at(system.points, stream(0, "probes")),
    }
    gram = sides["normal"]().gram + torch.eye(min(j.shape), dtype=j.dtype)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            begin = time.perf_counter()
            side()
            seconds[name].append(1e3 * (time.perf_counter() - begin))
    ms = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = f"{ms['single'] / ms['one']:.3g}"
    rest = (ms[name] for name in ("normal", "factor", "loss"))
    return [f"`{case}`", f"{j.shape[1]:,}", ms["one"], ms["single"], ratio, *rest]


def jacobian(system: Residuals, closed: bool) -> Tensor:
    """J of the interior, by one of the two ways."""
    system.objective.closed["interior"] = closed
    return torch.cat([j for _, j in system.blocks_of("interior")])


def check(case: str, one: Tensor, single: Tensor) -> None:
    """Raises AssertionError where the two differ."""
    off = ((one - single).abs().max() / single.abs().max()).item()
    assert off < AGREE, f"{case}: the Jacobians differ by {off:.1e} of the largest entry"


def report(lines: Sequence[list], args: argparse.Namespace) -> str:
    """Markdown."""
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    head = ["# Jacobians", "", "\n\n".join(about), "", f"{machine()}, {args.points:,} points.", ""]
    return "\n".join([*head, *markdown(HEADING, lines), ""])


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("jacobians", __doc__)
    parser.cases(CASES, help="such as burgers-kan")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--points", type=int, default=3000)
    parser.common(RESULTS / "jacobians.md", quick="40 points, once")
    args = parser.parse_args(argv)
    at_least(args, {"repeats": 1, "points": 1})
    if args.quick:
        args.points, args.repeats = 40, 1
    lines = []
    for case in args.cases:
        lines.append(measure(case, args.points, args.repeats))
        print(lines[-1], flush=True)
    deliver(report(lines, args), Path(args.out))


if __name__ == "__main__":
    exiting(main, "jacobians")
