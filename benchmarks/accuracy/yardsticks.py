"""Problems as others state them, with the errors and the values that they print.

    python -m benchmarks.yardsticks [--cases cube_square ...] [--seeds 0] [--quick] [--runs DIR]
        [--out benchmarks/results/yardsticks.md]

    cube_square     Poisson on [0, 1]^100 with u = |x|^2, values on the boundary as a term of the loss. Printed is the
                    absolute error (root mean square) of SPRING, there after 7000 s on a GPU, of u up to a factor;
                    arXiv 2505.12149
    cube_harmonic   the same in 10 dimensions, u = sum x_{2i-1} x_{2i}
    cube_cosine     the same in 5 dimensions, u = sum cos pi x_i
    hjb_control, allen_cahn_paths   terminal values at 100 D; Han, Jentzen, E 2018 (arXiv 1707.02568): u(0, 0)
    black_scholes_barenblatt        the same; Raissi 2018 (arXiv 1804.07010): u(x_0, 0)

A run a row. start: the relative l2 error of the polynomial that is fitted to the equation in closed form, on points of
the problem's own law; error: after training; rms: absolute; at x_0: u there, and what is known of it. Runs that have
ended are not run again; the table is of all of them that lie in --runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from benchmarks.common.budget import QUICK, ended, spread
from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from kanpde import Problem
from kanpde.domains import Box
from kanpde.ground.samplers import stream
from kanpde.problems import ON_PATHS
from kanpde.problems.conditions import Dirichlet
from kanpde.runs.models import Run
from kanpde.training import plan


@dataclass(frozen=True)
class Cube(Problem):
    """Lap u = g on [0, 1]^d, with the values of u* on the boundary."""

    solution: Literal["square", "harmonic", "cosine"] = "square"

    @property
    def domain(self) -> Box:
        return Box(self.dim, 0.0, 1.0)

    @property
    def conditions(self):
        return (Dirichlet("boundary", self.exact),)

    def exact(self, x: Tensor) -> Tensor:
        if self.solution == "square":
            return x.square().sum(1)
        if self.solution == "harmonic":
            return (x[:, 0::2] * x[:, 1::2]).sum(1)
        return (math.pi * x).cos().sum(1)

    def left_side(self, u, x: Tensor) -> Tensor:
        return u.lap

    def source(self, x: Tensor) -> Tensor:
        g = {"square": 2.0 * self.dim + 0 * x[:, 0], "harmonic": 0 * x[:, 0]}
        return g[self.solution] if self.solution in g else -(math.pi**2) * self.exact(x)


@dataclass(frozen=True)
class Case:
    """A problem, the steps of its run, and what is printed of it: an absolute error, or u(x_0, 0)."""

    problem: Problem
    steps: int
    printed: str
    known: float | None = None  # a value at x_0


CASES = {
    "cube_square": Case(Cube(100, "square"), 2, "rms 3.6e-3"),
    "cube_harmonic": Case(Cube(10, "harmonic"), 2, "rms 1.2e-5"),
    "cube_cosine": Case(Cube(5, "cosine"), 2000, "rms 2.6e-7"),
    "hjb_control": Case(ON_PATHS["hjb_control"](100), 500, "u(0, 0) = 4.5901", 4.5901),
    "black_scholes_barenblatt": Case(ON_PATHS["black_scholes_barenblatt"](100), 500, "u(x_0, 0) = 77.1049", 77.1049),
    "allen_cahn_paths": Case(ON_PATHS["allen_cahn_paths"](100), 500, "u(0, 0) = 0.0528", 0.0528),
}
HEADING = ("case", "d", "seed", "start", "start s", "steps", "error", "rms", "minutes", "at x_0", "printed")
SETTINGS = {"start": "ladder", "constraint": "soft", "slices": {"points": 2, "volume": 0}, "dtype": "float64"}
POINTS = {"interior": 200, "boundary": 200, "test": 4096}


def row(name: str, run: Run) -> dict:
    """What the table says of a run."""
    case = CASES[name]
    at = None
    if case.known is not None:
        x_0 = case.problem.domain.initial(1, stream(0, "x_0"), dtype=torch.float64)
        at = f"{run.load_model(problem=case.problem)(x_0).item():.5g}"
    known = case.problem.has_exact
    return {
        "case": name,
        "d": case.problem.dim,
        "seed": run.attrs["seed"],
        "start": run.floors["start"] if known else None,
        "start s": round(float(run.history["wall_s"][0]), 1),
        "steps": run.attrs["steps"],
        "error": run.rel_l2 if known else None,
        "rms": float(run.attrs["rmse_best"]) if known else None,
        "minutes": float(run.history["wall_s"][-1]) / 60,
        "at x_0": at,
        "printed": case.printed,
    }


def configured(case: Case, seed: int, quick: bool):
    """The configuration of a run: kan, in float64."""
    given = {**SETTINGS, "points": POINTS, "seed": seed, "backbone": {"name": "kan"}}
    given |= QUICK if quick else {}
    config = plan.configured(case.problem, given)
    return plan.resolved(spread(config, 2 if quick else case.steps), case.problem)


def report(rows: Sequence[dict], settings: str) -> str:
    """Markdown."""
    lines = ["# Problems as others state them", "", f"`python -m benchmarks.yardsticks`: kan, float64; {settings}.", ""]
    return "\n".join([*lines, *markdown(HEADING, ([r[name] for name in HEADING] for r in rows))]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Parser("yardsticks", __doc__)
    options.cases(list(CASES))
    options.add_argument(
        "--runs", type=Path, default=Path("runs/yardsticks"), metavar="DIR", help="where the runs are kept"
    )
    args = options.common(seeds=[0], quick="a few steps of few points, to see that all works").parse_args(argv)
    at_least(args, {"seeds": 0})
    settings = machine() + (", --quick, a few steps" if args.quick else "")
    path = lambda name, seed: args.runs / f"{name}{'-quick' if args.quick else ''}-seed{seed}.h5"
    for name, seed in product(args.cases, args.seeds):
        config = configured(CASES[name], seed, args.quick)
        ended(path(name, seed), CASES[name].problem, config, lambda config=config: config)
        there = [(n, s) for n, s in product(CASES, args.seeds) if path(n, s).is_file()]
        text = report([row(n, Run.open(path(n, s))) for n, s in there], settings)
        if args.out:
            deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "yardsticks")
