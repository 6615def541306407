"""The function that a run has found as a module of its own: value, gradient and Laplacian at points, in float64."""

from functools import partial

import torch
from torch import Tensor, nn

from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.jet import has_rules
from kanpde.jets.system import Separate
from kanpde.kan.weights import materialize
from kanpde.operators.forward import Forward


class Value(nn.Module):
    """u at points (N, d): (N,), of several fields (N, K). Generated weights are free ones, all numbers float64."""

    def __init__(self, u: Ansatz):
        super().__init__()
        self.u = materialize(u).eval().double().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.u(x)


class Derivatives(Value):
    """u with its derivatives at points (N, d), exact: by one jet, or, of networks without rules, by nested
    differentiation.

    Returns:
        value (N,), gradient (N, d) by all inputs and Laplacian (N,) over those of space; of several fields (N, K),
        (N, K, d) and (N, K).
    """

    def __init__(self, u: Ansatz):
        super().__init__(u)
        axes = self.u.problem.axes
        space = torch.zeros(1, axes.count, dtype=torch.float64)
        space[:, list(axes.space)] = 1
        self.register_buffer("space", space)
        self.register_buffer("units", torch.eye(axes.count, dtype=torch.float64).unsqueeze(0))
        nets = self.u.net.nets if isinstance(self.u.net, Separate) else [self.u.net]
        self.has_rules = all(map(has_rules, nets))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not self.has_rules:
            return self._nested(x)
        jet = Forward().estimate(self.u, x, self.space, self.units, None)
        gradient = jet.along if jet.value.ndim == 1 else jet.along.transpose(1, 2)
        return jet.value, gradient, jet.lap

    def _nested(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        names = self.u.problem.fields
        each = [Field.of(partial(_of_field, self.u, k if len(names) > 1 else None), x) for k in range(len(names))]
        parts = [field.value for field in each], [field.grad for field in each], [f.lap(self.space) for f in each]
        return tuple(torch.stack(part, 1) if len(names) > 1 else part[0] for part in parts)


def _of_field(u: Ansatz, k: int | None, x: Tensor) -> Tensor:
    return u(x) if k is None else u(x)[:, k]
