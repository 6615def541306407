"""What a program of a user's says of types: the public API, read by mypy --strict in test_types.py; never run."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import kanpde
from kanpde import Ansatz, Field, Jet, Run, backbones, testing
from kanpde.domains import Ball, Box, Cylinder, Domain
from kanpde.operators import SDGD, Autograd, Forward, Hutchinson, Operator
from kanpde.problems import AllenCahn, Poisson


@dataclass(frozen=True)
class Mine(kanpde.Problem):
    k: float = 1.0

    @property
    def domain(self) -> Domain:
        return Cylinder(Box(self.dim, 0.0, 1.0), 2.0)

    def residual(self, u: Jet, x: Tensor) -> Tensor:
        assert u.lap is not None
        return u.lap + self.k * u.value

    def lift(self, x: Tensor) -> Field:
        return Field.of(lambda y: y[:, 0], x)


def solve(folder: Path) -> float:
    run: Run = kanpde.train(Mine(2, k=3.0), out=folder / "run.h5", steps=10, backbone="kan")
    again: Run = kanpde.resume(run.path, steps=20, stop={"seconds": 3.0})
    model: Ansatz = Run.open(again.path).load_model(trust=True)
    value: Tensor = model(torch.zeros(3, 3))
    return again.rel_l2 + float(value.sum())


def jets() -> list[Jet]:
    net: nn.Module = backbones.build("metakan", 4, widths=(3,))
    u, x = Ansatz(AllenCahn(4), net), Ball(4).interior(5, torch.Generator(), dtype=torch.float64)
    operators: list[Operator] = [Forward(), Autograd(), Hutchinson(probes=2), SDGD(dims=2)]
    return [operator(u, x, generator=torch.Generator()) for operator in operators]


def check() -> str:
    reports: list[testing.Report] = [
        testing.check_problem(Poisson(3)),
        testing.check_domain(Ball(2)),
        testing.check_operator(Forward()),
    ]
    return "\n".join(map(str, reports)) + str(kanpde.count_parameters(nn.Linear(2, 2)))
