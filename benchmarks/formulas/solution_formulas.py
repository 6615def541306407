"""Formulas of solutions of PDEs: a network is trained, made a formula, and the formula is put into the equation.

    python -m benchmarks.solution_formulas [--cases pairs heat ...] [--jobs 1] [--quick] [--render]
        [--runs runs/solution_formulas] [--out benchmarks/results/solution_formulas.md]

Each case is a run, then `kanpde.explain.explain`: edges are pruned and become functions; where these are no formula, or
none that is exact, a search for the values of u (`kanpde.recover`) ends at the first formula that the equation accepts.
No solution that is known is read by either, but for the column with the error of the network.

Rows in the CSV beside --out count as done; the table is rendered after each of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde import train
from kanpde.domains import Box, Cylinder
from kanpde.explain import explain
from kanpde.interpret import text
from kanpde.jets.jet import Jet
from kanpde.problems import Heat, Helmholtz, PoissonCos, PoissonPairs, Problem
from kanpde.problems.conditions import Dirichlet, Initial, Neumann, Terminal

SECONDS, SEARCH, QUICK = 60.0, 120.0, 2.0  # for the edges, for the search; for both where it is to be quick
LONGEST = 90  # letters of a formula in the table
COLUMNS = ("case", "equation", "network", "steps", "error", "way", "formula", "verdict", "seconds", "machine")


@dataclass(frozen=True)
class Rod(Problem):
    """u_t = u_xx / 10 on (0, 1), u = 0 at the ends, sin(pi x) at first"""

    dim: int = 1
    coordinates = ("x", "t")
    conditions = (Dirichlet(), Initial(lambda x: torch.sin(torch.pi * x[:, 0])))

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, 0, 1), 1.0)

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t - u.xx / 10

    def exact(self, x: Tensor) -> Tensor:
        return torch.exp(-(torch.pi**2) * x[:, 1] / 10) * torch.sin(torch.pi * x[:, 0])


@dataclass(frozen=True)
class Quadratic(Problem):
    """u_t + Lap u / 2 - |grad u|^2 / 2 + |x|^2 / 2 = 0 on (-1, 1)^d, u = |x|^2 / 2 at last: linear-quadratic control"""

    dim: int = 4

    @property
    def conditions(self) -> tuple:
        return (Terminal(lambda x: x[:, :-1].square().sum(1) / 2),)

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(self.dim, -1, 1), 1.0)

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t + u.lap / 2 - u.grad_sq / 2 + x[:, :-1].square().sum(1) / 2

    def exact(self, x: Tensor) -> Tensor:
        return x[:, :-1].square().sum(1) / 2 + self.dim / 2 * (1 - x[:, -1])


@dataclass(frozen=True)
class Spreading(Problem):
    """u_t - u_xx + u_x^2 = 0 on (-1, 1), by Cole-Hopf -log of a Gaussian that spreads"""

    dim: int = 1
    coordinates = ("x", "t")

    @property
    def conditions(self) -> tuple:
        ends = lambda x: 1 / (4 + 4 * x[:, 1]) + torch.log(1 + x[:, 1]) / 2
        return Initial(lambda x: x[:, 0] ** 2 / 4), Dirichlet(value=ends)

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, -1, 1), 1.0)

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        return u.t - u.xx + u.x**2

    def exact(self, x: Tensor) -> Tensor:
        return x[:, 0] ** 2 / (4 + 4 * x[:, 1]) + torch.log(1 + x[:, 1]) / 2


@dataclass(frozen=True)
class Waves(Spreading):
    """u_t - u_xx + u_x^2 = 0 on (0, 1), u_x = 0 at the ends, by Cole-Hopf -log(1 + exp(-pi^2 t) cos(pi x) / 2)"""

    conditions = (Initial(lambda x: -torch.log(1 + torch.cos(torch.pi * x[:, 0]) / 2)), Neumann())

    @property
    def domain(self) -> Cylinder:
        return Cylinder(Box(1, 0, 1), 0.2)

    def exact(self, x: Tensor) -> Tensor:
        return -torch.log(1 + torch.exp(-(torch.pi**2) * x[:, 1]) * torch.cos(torch.pi * x[:, 0]) / 2)


@dataclass(frozen=True)
class Case:
    """A problem and the network for it.

    Attributes:
        widths, degree: of a chebykan.
        soft: whether conditions are in the loss; else they are built in where there is an ansatz.
    """

    problem: Callable[[], Problem]
    widths: tuple[int, ...]
    degree: int
    steps: int
    soft: bool = True
    backbone: dict = field(default_factory=dict)

    def settings(self, quick: bool) -> dict:
        """Of `kanpde.train`."""
        weights = {"loss": {"weights": dict.fromkeys(self.problem().asked, 100)}} if self.soft else {}
        points = {"interior": 1000, "boundary": 1000} if self.soft else {"interior": 1000}
        return {
            "solver": "low_dim",
            "start": "network",
            "constraint": "soft" if self.soft else "hard",
            "backbone": {"name": "chebykan", "widths": list(self.widths), "degree": self.degree, **self.backbone},
            "points": points | ({"test": 1000} if quick else {}),
            "phases": [{"optimizer": "levenberg_marquardt", "steps": 3 if quick else self.steps}],
            **weights,
        }


PLAIN = {"squash": "none"}
CASES = {
    "poisson_pairs": Case(PoissonPairs, (10,), 2, 12, backbone=PLAIN),
    "poisson_cos": Case(PoissonCos, (), 20, 6, backbone=PLAIN),
    "heat": Case(Rod, (2,), 12, 100, backbone=PLAIN),
    "helmholtz": Case(Helmholtz, (8,), 16, 120, soft=False),
    "hjb_quadratic": Case(Quadratic, (), 4, 20, backbone=PLAIN),
    "hjb_spreading": Case(Spreading, (6,), 10, 60),
    "hjb_waves": Case(Waves, (6,), 10, 60),
    "heat_ball": Case(partial(Heat, 2), (6,), 10, 60, soft=False),
}


def measure(case: str, runs: Path, quick: bool = False) -> list[Row]:
    """The row of a case: train, explain, prove."""
    of, start = CASES[case], time.perf_counter()
    problem = of.problem()
    run = train(problem, out=runs / f"{case}.h5", seed=0, **of.settings(quick))
    seconds, search = (QUICK, QUICK) if quick else (SECONDS, SEARCH)
    said: list = []
    found = explain(run, problem=problem, seconds=seconds, search=search, say=said.append)
    proof = found.proof
    searched = any(isinstance(line, str) and line.startswith("search") for line in said)
    return [
        {
            "case": case,
            "equation": problem.title,
            "network": f"chebykan {list(of.widths)}, degree {of.degree}",
            "steps": of.settings(quick)["phases"][0]["steps"],
            "error": run.rel_l2,
            "way": "search" if searched else "edges",
            "formula": "" if proof is None else text(proof.formula),
            "verdict": "no formula" if proof is None else proof.verdict,
            "seconds": time.perf_counter() - start,
            "machine": machine(),
        }
    ]


# ---------------------------------------------------------------------------------------------------------------
# The table

RULE = (
    "`python -m benchmarks.solution_formulas`. Error: relative l2 error of the network, which nothing else reads. By:",
    "edges of the network, pruned and made functions, or a search for the values of u. The verdict is that of",
    "`kanpde.proof.prove`: the formula in the equation and the conditions, by sympy, or bounded by intervals.",
)


def study(out: Path) -> Study:
    """The rows and the table, in the order of the cases."""
    order = list(CASES)
    return Study(out, COLUMNS, report, lambda row: row["case"], lambda row: order.index(str(row["case"])))


def report(rows: Sequence[Row]) -> str:
    """Markdown: how many are exact, then a line for each case."""
    exact = sum(row["verdict"] == "exact" for row in rows)
    machines = [f"- {name}" for name in sorted({str(row["machine"]) for row in rows})]
    heading = ["case", "equation", "network", "error", "by", "formula", "verdict", "s"]
    head = ["# Formulas of solutions", "", *RULE, "", *machines, f"- exact: {exact} of {len(rows)}", ""]
    return "\n".join([*head, *markdown(heading, map(_line, rows), "lllrlllr")]) + "\n"


def _line(row: Row) -> list[str]:
    formula = str(row["formula"])
    shown = formula if len(formula) <= LONGEST else f"{formula[:LONGEST]} ..."
    plain = lambda word: str(row[word]).replace("|", "\\|")
    numbers = f"{float(row['error']):.1e}", f"{float(row['seconds']):.0f}"
    verdict = plain("verdict")
    return [
        *(str(row["case"]), plain("equation"), f"{row['network']}, {row['steps']} steps", numbers[0], str(row["way"])),
        *(f"`{shown}`" if shown else "", verdict, numbers[1]),
    ]


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, do what is not there yet, and render."""
    args = arguments(words)
    args.runs.mkdir(parents=True, exist_ok=True)
    tasks = {} if args.render else {case: case for case in args.cases}
    said = lambda case, rows: f"{case}: {rows[0]['formula']}, {rows[0]['verdict']}"
    study(args.out).run(partial(measure, runs=args.runs, quick=args.quick), tasks, args.jobs, said)


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("solution_formulas", __doc__)
    parser.cases(list(CASES))
    parser.add_argument("--runs", type=Path, default=Path("runs") / "solution_formulas")
    parser.common(RESULTS / "solution_formulas.md", jobs=1, quick="a few steps and seconds each", render=True)
    args = parser.parse_args(words)
    at_least(args, {"jobs": 1})
    return args


if __name__ == "__main__":
    exiting(main, "solution_formulas")
