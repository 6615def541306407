"""DeepXDE's and PINA's own Poisson examples with our networks: their operator and ours, time of a step and error.

    python -m benchmarks.adapters [--cases deepxde-1d ...] [--networks kan metakan] [--jobs 1] [--quick]
        [--out benchmarks/results/adapters.md] [--render]      (needs pip install -e '.[deepxde,pina]')

Both sides of a row have the same program of the package, the same network [d, 32, 32, 32, 1] from the same weights, the
same points and Adam at the rate 1e-3; they differ in one line, `dde.grad.hessian` or `pina.operator.laplacian` against
`laplacian` of kanpde.adapters. deepxde-1d is its Poisson_Dirichlet_1d.py (16 points and 2 on the boundary),
deepxde-lshape its Poisson_Lshape.py (1200 and 120), pina-square the Poisson2DSquareProblem of its zoo on a grid of
20 x 20 points and 80 on the boundary; -10 and -100 are Poisson's equation in the unit ball of so many dimensions with
the two-body solution of MetaKAN's paper, 100 points, and u = (1 - |x|^2) f as the package's output transform.

A step is DeepXDE's `Model.train_step`, and in PINA `Condition.evaluate` of all conditions, the solver's loss, backward
pass and its Adam, without Lightning's loop around it. Steps of both sides alternate, on a machine that does other work
too: ms is the median, and compares within a row. In the first step, at equal weights, loss and gradient differ by the
relative numbers off; error is the relative l2 error after all steps, which are few, at 2000 points, - where no solution
is known. One thread, single precision.
"""

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde import backbones
from kanpde.adapters import deepxde as to_deepxde
from kanpde.adapters import pina as to_pina
from kanpde.adapters.packages import imported
from kanpde.ground.samplers import stream
from kanpde.jets.jet import Jet
from kanpde.problems import Poisson

STEPS = {"deepxde-1d": 300, "deepxde-lshape": 100, "deepxde-10": 200, "deepxde-100": 20}
STEPS |= {"pina-square": 200, "pina-10": 200, "pina-100": 20}
NETWORKS, TEST_POINTS, RATE = ("kan", "metakan"), 2000, 1e-3
COLUMNS = ("case", "network", "steps", "theirs_ms", "ours_ms", "ratio", "loss_off", "gradient_off")
COLUMNS += ("loss_theirs", "loss_ours", "error_theirs", "error_ours", "machine")


class Task(NamedTuple):
    """A row."""

    case: str
    network: str
    steps: int


@dataclass
class Side:
    """A program with one of the operators."""

    net: nn.Module
    loss: Callable[[], Tensor]
    step: Callable[[], None]
    error: Callable[[], float]

    def gradient(self) -> Tensor:
        """Of the loss by all weights, in one vector."""
        weights = [p for p in self.net.parameters() if p.requires_grad]
        found = torch.autograd.grad(self.loss(), weights, allow_unused=True, materialize_grads=True)
        return torch.cat([g.flatten() for g in found])


def backbone(name: str, dim: int, **options: Any) -> nn.Module:
    """The same network whenever it is built."""
    return backbones.build(name, dim, generator=stream(0, "init"), **options)


def relative(u: Tensor, exact: Tensor) -> float:
    """The relative l2 error of two columns or vectors."""
    return ((u.flatten() - exact.flatten()).norm() / exact.norm()).item()


def ball(dim: int) -> tuple[Poisson, Tensor, Tensor]:
    """The problem of a case in the ball, points to train and to test on."""
    problem = Poisson(dim)
    return (
        problem,
        problem.domain.interior(100, stream(0, "interior")),
        problem.domain.interior(2000, stream(0, "test")),
    )


def of_ball(problem: Poisson, u: Tensor, lap: Tensor, x: Tensor) -> Tensor:
    """The residual (N, 1) from plain columns."""
    return (problem.residual_scale * problem.residual(Jet(u[:, 0], lap=lap[:, 0]), x.detach())).unsqueeze(1)


def vanishing(x: Tensor, f: Tensor) -> Tensor:
    """(1 - |x|^2) f."""
    return (1 - x.square().sum(1, keepdim=True)) * f


# ---------------------------------------------------------------------------------------------------------------
# DeepXDE


def deepxde(case: str, network: str, ours: bool) -> Side:
    """A side in DeepXDE."""
    os.environ["DDE_BACKEND"] = "pytorch"
    dde = imported("deepxde", "deepxde")
    torch.set_default_device(None)  # where there is a GPU, DeepXDE makes it the default of all tensors
    lap = to_deepxde.laplacian if ours else partial(_theirs, dde)
    data, net, exact, x = {"deepxde-1d": _line, "deepxde-lshape": _l_shape}.get(case, _ball)(dde, case, network, lap)
    model = dde.Model(data, net)
    model.compile("adam", lr=RATE, verbose=0)
    given = data.train_next_batch()
    loss = lambda: model.outputs_losses_train(*given)[1].sum()
    error = lambda: float("nan") if exact is None else relative(torch.as_tensor(model.predict(x)), exact)
    return Side(net, loss, lambda: model.train_step(*given), error)


def _theirs(dde: Any, y: Tensor, x: Tensor) -> Tensor:
    return sum(dde.grad.hessian(y, x, i=i, j=i) for i in range(x.shape[1]))


def _line(dde: Any, case: str, network: str, lap: Callable) -> tuple:
    solution, geometry = lambda x: np.sin(np.pi * x), dde.geometry.Interval(-1, 1)
    pde = lambda x, y: -lap(y, x) - np.pi**2 * torch.sin(np.pi * x)
    bc = dde.icbc.DirichletBC(geometry, solution, lambda x, on_boundary: on_boundary)
    data = dde.data.PDE(geometry, pde, bc, 16, 2, solution=solution, num_test=100)
    x = np.linspace(-1, 1, TEST_POINTS, dtype=np.float32)[:, None]
    return data, to_deepxde.network(backbone(network, 1)), torch.as_tensor(solution(x)), x


def _l_shape(dde: Any, case: str, network: str, lap: Callable) -> tuple:
    geometry = dde.geometry.Polygon([[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]])
    bc = dde.icbc.DirichletBC(geometry, lambda x: 0, lambda x, on_boundary: on_boundary)
    dde.config.set_random_seed(0)  # of its points; this process is for this row alone
    data = dde.data.PDE(geometry, lambda x, y: -lap(y, x) - 1, bc, num_domain=1200, num_boundary=120)
    return data, to_deepxde.network(backbone(network, 2)), None, None


def _ball(dde: Any, case: str, network: str, lap: Callable) -> tuple:
    dim = int(case.rpartition("-")[2])
    problem, x, test = ball(dim)
    pde = lambda x, y: of_ball(problem, y, lap(y, x), x)
    data = dde.data.PDE(dde.geometry.Hypersphere([0.0] * dim, 1.0), pde, [], anchors=x.numpy())
    net = to_deepxde.network(backbone(network, dim))
    net.apply_output_transform(vanishing)
    return data, net, problem.exact(test), test.numpy()


# ---------------------------------------------------------------------------------------------------------------
# PINA


def pina(case: str, network: str, ours: bool) -> Side:
    """A side in PINA."""
    label_tensor, plain = imported("pina", "pina").LabelTensor, lambda t: t.as_subclass(Tensor)
    lap = to_pina.laplacian if ours else imported("pina.operator", "pina").laplacian
    problem, model, exact, x = (_square if case == "pina-square" else _pina_ball)(case, network, lap)
    solver = imported("pina.solver", "pina").PhysicsInformedSingleModelSolver(problem, model)
    (adam,), _ = solver.configure_optimizers()
    adam.param_groups[0]["lr"] = RATE

    def loss() -> Tensor:
        found = [each.evaluate({"input": each.input}, solver) for each in problem.conditions.values()]
        return plain(sum(solver.loss(r, torch.zeros_like(r)).mean() for r in found))

    def step() -> None:
        adam.zero_grad()
        loss().backward()
        adam.step()

    at = label_tensor(x, model.variables)
    return Side(model, loss, step, lambda: relative(plain(solver(at)).detach(), exact))


def _condition(**parts: Any) -> Any:
    """A Condition, its equation from a function."""
    equation = imported("pina.equation", "pina").Equation(parts.pop("equation"))
    return imported("pina", "pina").Condition(**parts, equation=equation)


def _square(case: str, network: str, lap: Callable) -> tuple:
    square = imported("pina.problem.zoo", "pina").Poisson2DSquareProblem
    source = lambda x: torch.sin(x["x"] * torch.pi) * torch.sin(x["y"] * torch.pi) * 2 * torch.pi**2
    equation = _condition(domain="D", equation=lambda x, u: lap(u, x) - source(x))
    conditions = {"boundary": square.conditions["boundary"], "D": equation}
    problem = type("Square", (square,), {"conditions": conditions})()
    random.seed(0)  # of the order of the sides; this process is for this row alone
    torch.manual_seed(0)
    problem.discretise_domain(20, "grid", domains="D")
    problem.discretise_domain(80, "random", domains="boundary")
    problem.move_discretisation_into_conditions()
    model = to_pina.Network(backbone(network, 2, grid_range=(0.0, 1.0)), ["x", "y"])
    x = torch.rand(TEST_POINTS, 2, generator=stream(0, "test"))
    return problem, model, -torch.sin(torch.pi * x).prod(1), x


def _pina_ball(case: str, network: str, lap: Callable) -> tuple:
    dim = int(case.rpartition("-")[2])
    problem, x, test = ball(dim)
    names = [f"x{i}" for i in range(dim)]
    plain = lambda t: t.as_subclass(Tensor)
    residual = lambda x, u: of_ball(problem, plain(u), plain(lap(u, x)), to_pina.columns(x, names))
    condition = _condition(input=imported("pina", "pina").LabelTensor(x, names), equation=residual)
    attributes = {"input_variables": sorted(names), "output_variables": ["u"], "conditions": {"ball": condition}}
    theirs = type("InTheBall", (imported("pina.problem", "pina").BaseProblem,), attributes)()
    return theirs, to_pina.Network(backbone(network, dim), names, None, vanishing), problem.exact(test), test


# ---------------------------------------------------------------------------------------------------------------
# Measuring


def measured(task: Task) -> list[Row]:
    """The row of a task."""
    side = deepxde if task.case.startswith("deepxde") else pina
    theirs, ours = (side(task.case, task.network, which) for which in (False, True))
    off = lambda a, b: ((a - b).abs().max() / b.abs().max()).item()
    row: Row = {**task._asdict(), "loss_off": off(ours.loss().detach(), theirs.loss().detach())}
    row["gradient_off"] = off(ours.gradient(), theirs.gradient())
    times: dict[str, list[float]] = {"theirs": [], "ours": []}
    for _ in range(task.steps):
        for name, each in (("theirs", theirs), ("ours", ours)):
            start = time.perf_counter()
            each.step()
            times[name].append(time.perf_counter() - start)
    ms = {name: 1e3 * statistics.median(each) for name, each in times.items()}
    row |= {"theirs_ms": ms["theirs"], "ours_ms": ms["ours"], "ratio": ms["theirs"] / ms["ours"], "machine": machine()}
    for name, each in (("theirs", theirs), ("ours", ours)):
        row |= {f"loss_{name}": each.loss().item(), f"error_{name}": each.error()}
    return [{name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in row.items()}]


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line a case and network."""
    heading = "case|network|ms, theirs|ms, ours|ratio|loss off|gradient off|steps|loss, theirs|ours|error, theirs|ours"
    names = ("theirs_ms", "ours_ms", "ratio", "loss_off", "gradient_off", "steps")
    names += ("loss_theirs", "loss_ours", "error_theirs", "error_ours")
    number = lambda row, name: row[name] if name == "steps" else float(row[name])
    table = markdown(
        heading.split("|"), [[r["case"], r["network"], *(number(r, n) for n in names)] for r in rows], "llr"
    )
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    return "\n".join(["# Adapters", "", "\n\n".join(about), "", *sorted({r["machine"] for r in rows}), "", *table, ""])


def study(args: argparse.Namespace) -> Study:
    """The rows and the table, case by case."""
    key = lambda row: (row["case"], row["network"])
    place = lambda row: (list(STEPS).index(row["case"]), NETWORKS.index(row["network"]))
    return Study(args.out, COLUMNS, report, key, place)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("adapters", __doc__)
    parser.cases(list(STEPS), help="such as deepxde-10")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.common(RESULTS / "adapters.md", jobs=1, quick="two steps of each", render=True)
    args = parser.parse_args(argv)
    at_least(args, {"jobs": 1})
    steps = lambda case: 2 if args.quick else STEPS[case]
    tasks = [] if args.render else [Task(case, net, steps(case)) for case in args.cases for net in args.networks]
    say = lambda task, rows: ", ".join(f"{name} {rows[0][name]}" for name in COLUMNS[:8])
    study(args).run(measured, {(task.case, task.network): task for task in tasks}, args.jobs, say)


if __name__ == "__main__":
    exiting(main, "adapters")
