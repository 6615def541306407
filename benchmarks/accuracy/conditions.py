"""Conditions of each kind on problems with known solutions: met exactly and by the loss, weights balanced and not.

    python -m benchmarks.conditions [--problems heat wave ...] [--sides hard soft ...] [--seeds 0] [--steps 1500]
        [--jobs 1] [--quick] [--out benchmarks/results/conditions.md]

chebykan [d, 12, 12, 1], SOAP with linear decay, 100 points a step and 25 of each condition, float32. `hard` builds in
what an ansatz meets, and has terms for the rest; `values` is the same with fluxes in the loss (`fluxes: loss`), where
there are any; `soft` has terms for all, with weights 1 or found by a balance. Errors are of the kept weights on 5 000
points; the misfit is the largest root mean square of any condition at 1 000 points.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, Row, Study, at_least, exiting, markdown
from kanpde import Problem, train
from kanpde.domains import Ball, Box, Cylinder, Domain
from kanpde.domains.base import space_of
from kanpde.ground.samplers import stream
from kanpde.jets import Jet
from kanpde.jets.nested import nested
from kanpde.problems.conditions import (
    Condition,
    Dirichlet,
    Initial,
    Integral,
    Neumann,
    Observations,
    Periodic,
    Point,
    Robin,
    Terminal,
)
from kanpde.problems.parts import normals
from kanpde.training.weighting import BALANCES

PI = torch.pi
COLUMNS = ("problem", "side", "seed", "conditions", "rel_l2", "misfit", "worst", "seconds", "steps")
SIDES = ("hard", "values", "soft", *(f"soft, {name}" for name in BALANCES))
RATES = {"prompts": 1e-2, "meta": 1e-2, "rest": 1e-2, "problem": 1e-2}


@dataclass(frozen=True)
class Manufactured(Problem):
    """A problem of the table `CASES`, whose right side and values are those of its solution."""

    dim: int = 1
    name: str = "heat"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", space_of(self.domain).dim)

    @property
    def case(self) -> "Case":
        """What it is."""
        return CASES[self.name]

    @property
    def coordinates(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return self.case.coordinates

    @property
    def domain(self) -> Domain:
        """That of the case."""
        return self.case.domain

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Those of the case, with values of the solution."""
        return self.case.conditions(self)

    def exact(self, x: Tensor) -> Tensor:
        """The solution."""
        return self.case.exact(x)

    def slope(self, *index: int) -> Callable[[Tensor], Tensor]:
        """A derivative of the solution by axes."""
        return lambda x: nested(self.exact, x, (index,))[index]

    def flux(self, on: str) -> Callable[[Tensor], Tensor]:
        """n . grad of the solution on a part of the boundary."""

        def along(x: Tensor) -> Tensor:
            axes = tuple((i,) for i in range(x.shape[1]))
            gradient = torch.stack(list(nested(self.exact, x, axes).values()), 1)
            return (normals(self, x, on) * gradient).sum(1)

        return along

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        """F(u) of F(u) = F(u*)."""
        return self.case.equation(u, x)

    def source(self, x: Tensor) -> Tensor:
        """F(u*)."""
        reads = self.reads.derivatives
        found = Jet(self.exact(x), derivatives=nested(self.exact, x, reads), coordinates=self.axes)
        return self.case.equation(found, x)

    @property
    def has_source(self) -> bool:
        """Yes."""
        return True


@dataclass(frozen=True)
class Case:
    """One problem: where, what, and under which conditions."""

    coordinates: tuple[str, ...]
    domain: Domain
    exact: Callable[[Tensor], Tensor]
    equation: Callable[[Jet, Tensor], Tensor]
    conditions: Callable[[Manufactured], tuple[Condition, ...]]


TUBE, SQUARE = Cylinder(Box(1, 0, 1)), Box(2, 0, 1)
CASES = {
    "heat": Case(  # values at the walls that change in time
        ("x", "t"),
        TUBE,
        lambda x: torch.exp(-x[:, 1]) * torch.cos(2 * x[:, 0]),
        lambda u, x: u.t - u.xx,
        lambda p: (Dirichlet("boundary", p.exact), Initial(p.exact)),
    ),
    "wave": Case(
        ("x", "t"),
        TUBE,
        lambda x: torch.sin(PI * x[:, 0]) * torch.cos(2 * PI * x[:, 1] + 0.5),
        lambda u, x: u.tt - 4 * u.xx,
        lambda p: (Dirichlet(), Initial(p.exact), Initial(p.slope(1), derivative="t")),
    ),
    "flux": Case(  # of a square, values on two of its sides
        ("x", "y"),
        SQUARE,
        lambda x: torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1]),
        lambda u, x: u.xx + u.yy - u.value**3,  # of this sign there is one solution
        lambda p: (
            Dirichlet("x = 0", p.exact),
            Dirichlet("y = 1", p.exact),
            Neumann("x = 1", p.flux("x = 1")),
            Neumann("y = 0", p.flux("y = 0")),
        ),
    ),
    "robin": Case(
        ("x", "y"),
        Ball(2),
        lambda x: torch.cos(2 * x[:, 0] + x[:, 1]),
        lambda u, x: u.xx + u.yy - u.value,
        lambda p: (Robin("boundary", 1.0, 1.0, lambda x: p.exact(x) + p.flux("boundary")(x)),),
    ),
    "periodic": Case(
        ("x", "t"),
        TUBE,
        lambda x: torch.exp(torch.sin(2 * PI * (x[:, 0] - x[:, 1]))),
        lambda u, x: u.t + u.value * u.x - 0.05 * u.xx,
        lambda p: (Periodic("x"), Initial(p.exact)),
    ),
    "terminal": Case(  # backward in time, as the value of an option
        ("x", "t"),
        TUBE,
        lambda x: torch.exp(x[:, 1]) * torch.cos(3 * x[:, 0]),
        lambda u, x: u.t + 0.1 * u.xx,
        lambda p: (Terminal(p.exact), Dirichlet("x = 0", p.exact), Neumann("x = 1", p.flux("x = 1"))),
    ),
    "observed": Case(  # no values at the walls but fifty measurements inside
        ("x", "y"),
        SQUARE,
        lambda x: torch.sin(3 * x[:, 0]) * torch.cosh(x[:, 1]),
        lambda u, x: u.xx + u.yy,
        lambda p: (Dirichlet("y = 0", p.exact), Observations(SEEN, p.exact(SEEN))),
    ),
    "mean": Case(  # fluxes alone leave a constant open
        ("x", "y"),
        SQUARE,
        lambda x: torch.cos(PI * x[:, 0]) * torch.cos(2 * PI * x[:, 1]),
        lambda u, x: u.xx + u.yy,
        lambda p: (Neumann(), Integral(0.0)),
    ),
    "pinned": Case(
        ("x", "y"),
        SQUARE,
        lambda x: torch.exp(x[:, 0]) * torch.sin(2 * x[:, 1]),
        lambda u, x: u.xx + u.yy,
        lambda p: (Neumann("boundary", p.flux("boundary")), Point(MIDDLE, p.exact(MIDDLE))),
    ),
}
MIDDLE = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
SEEN = torch.rand(50, 2, generator=stream(0, "seen"), dtype=torch.float64)


def measured(task: tuple[str, str, int, int, bool]) -> list[Row]:
    """The row of a run."""
    name, side, seed, steps, quick = task
    problem, (mode, _, balance) = Manufactured(name=name), side.partition(", ")
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            problem,
            solver="adam",
            backbone={"name": "chebykan", "widths": [4] if quick else [12, 12]},
            constraint="soft" if mode == "soft" else "hard",
            fluxes="loss" if mode == "values" else None,
            points={"interior": 100, "boundary": 25, "test": 5000, "validation": 500},
            loss={"gradient": "none", "balance": balance or None},
            phases=[{"optimizer": "soap", "steps": steps, "lr": RATES, "schedule": "linear"}],
            evaluation={"every": max(1, steps // 10)},
            compile=False,
            seed=seed,
            out=Path(folder) / "run.h5",
        )
        u = run.load_model(problem=problem)
    found = {}
    for key, condition in problem.asked.items():
        x = condition.points(problem, 1000, stream(1, "misfit"), "volume", dtype=u.like.dtype)
        found[key] = condition.misfit(u, x).detach().square().mean().sqrt().item()
    worst = max(found, key=found.__getitem__)
    seconds = float(run.history["wall_s"][-1])
    numbers = ", ".join(found), run.rel_l2, found[worst], worst, seconds, steps
    return [dict(zip(COLUMNS, (name, side, seed, *numbers), strict=True))]


def key(row: Row) -> tuple[str, str, int]:
    """The run that a row is of."""
    return str(row["problem"]), str(row["side"]), int(str(row["seed"]))


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a run."""
    heading = ("problem", "side", "seed", "relative l2", "largest misfit", "of", "seconds")
    number = lambda row, name: float(str(row[name]))
    lines = [
        (r["problem"], r["side"], r["seed"], number(r, "rel_l2"), number(r, "misfit"), r["worst"], number(r, "seconds"))
        for r in rows
    ]
    steps = sorted({int(str(r["steps"])) for r in rows})
    text = [
        "# Conditions of each kind: exactly, by the loss, balanced",
        "",
        f"`python -m benchmarks.conditions`: {machine()}; {', '.join(map(str, steps))} steps;",
        "problems and sides: the head of benchmarks/accuracy/conditions.py.",
        "",
        *markdown(heading, lines, "llrrrlr"),
        "",
    ]
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("conditions", __doc__)
    parser.cases(list(CASES), "problem", "--problems")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=1500)
    parser.common(Path("benchmarks/results/conditions.md"), seeds=[0], jobs=1, quick="a few steps of small networks")
    args = parser.parse_args(argv)
    at_least(args, {"steps": 1, "jobs": 1})
    steps = 4 if args.quick else args.steps
    each = [(name, side, seed) for name in args.problems for side in args.sides for seed in args.seeds]
    place = lambda row: (list(CASES).index(str(row["problem"])), SIDES.index(str(row["side"])), int(str(row["seed"])))
    study = Study(args.out, COLUMNS, report, key, place)
    tasks = {task: (*task, steps, args.quick) for task in each}
    study.run(measured, tasks, args.jobs, lambda task, rows: f"{task[:3]}: {float(str(rows[0]['rel_l2'])):.2g}")


if __name__ == "__main__":
    exiting(main, "conditions")
