#!/usr/bin/env bash
# One would guess that the columns of PINA's points are in the order in which the variables were stated.
# A domain sorts their names as text: x1, x10, x11, x12, x2, ... Up to nine numbered variables the order is the one that
# was stated, from ten on it is another. What a model gets, an nn.Module that takes columns by number, is that order:
# u(x) = x2 at twelve variables, written for the second column, is x10. Nothing is said.
# It matters to users of kanpde in ten dimensions or more: grids of the first layer, hard constraints and exact solutions
# that are written by the number of a column meet another variable.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pina-mathlab==0.3.2.post2610 torch==2.13.0
HOME="$folder" "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from pina import Condition
from pina.domain import CartesianDomain
from pina.equation import Equation
from pina.problem import SpatialProblem
from pina.solver import PhysicsInformedSingleModelSolver

print("pina-mathlab", version("pina-mathlab"))


class Second(torch.nn.Module):
    """u = the second coordinate, by the number of its column."""

    def forward(self, x):
        return x.as_subclass(torch.Tensor)[:, 1:2] + 0 * self.weight

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))


def coordinate(count):
    """The variables as points have them, and which of them the second column is."""
    names = [f"x{i}" for i in range(1, count + 1)]
    domain = CartesianDomain({name: [0, 1] for name in names})
    conditions = {"D": Condition(domain=domain, equation=Equation(lambda x, u: u))}
    kind = {"output_variables": ["u"], "spatial_domain": domain, "conditions": conditions}
    solver = PhysicsInformedSingleModelSolver(type("P", (SpatialProblem,), kind)(), Second())
    x = domain.sample(5)
    u = solver(x).as_subclass(torch.Tensor)
    return x.labels, [name for name in names if torch.equal(x.extract([name]).as_subclass(torch.Tensor), u)]


found = {count: coordinate(count) for count in (9, 12)}
for count, (labels, second) in found.items():
    print(f"{count} variables: {' '.join(labels)}; the second column is {second[0]}")
sys.exit(0 if [second for _, second in found.values()] == [["x2"], ["x10"]] else "pina behaves differently now")
PYTHON
