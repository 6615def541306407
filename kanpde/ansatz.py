"""The ansatz u = h + m f: a network f with the boundary values built in, and the jet of u from the jet of f."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanpde.jet import Jet


@dataclass(frozen=True)
class Field:
    """A closed-form function at N points: value (N,), gradient (N, d), diagonal of its Hessian (N or 1, d or 1)."""

    value: Tensor
    grad: Tensor
    hessian_diagonal: Tensor

    @staticmethod
    def of(function: Callable[[Tensor], Tensor], x: Tensor) -> "Field":
        """The field of any differentiable function (N, d) -> (N,), by d + 1 passes of automatic differentiation."""
        if torch._C._are_functorch_transforms_active():  # Gauss-Newton's vmap over points takes no torch.autograd
            gradient = torch.func.grad(lambda x: function(x).sum())
            second = [torch.func.grad(lambda x, i=i: gradient(x)[:, i].sum())(x)[:, i] for i in range(x.shape[1])]
            return Field(function(x), gradient(x), torch.stack(second, 1))
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = function(at)
            grad = gradient_of(value, at)
            second = torch.stack([gradient_of(g, at)[:, i] for i, g in enumerate(grad.unbind(1))], 1)
        return Field(value, grad, second) if x.requires_grad else Field(value.detach(), grad.detach(), second.detach())

    def lap(self, s: Tensor) -> Tensor:
        """sum_i s_i d^2/dx_i^2, (N,)."""
        return (self.hessian_diagonal.expand_as(self.grad) * s).sum(-1)


def gradient_of(y: Tensor, x: Tensor) -> Tensor:
    """d sum(y) / dx, zero where y is constant, differentiable again."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True)[0]


class Ansatz(nn.Module):
    """u(x) = h(x) + m(x) f(x) (N,) for a network f, where m vanishes on the boundary and h has the boundary values.

    m is the problem's `factor(x)`, h its `lift(x)` (None: 0); both are closed-form fields.

    Args:
        problem: supplies factor, lift, and to the operators coefficients s, s_grad and directions.
        net: (N, d) -> (N, 1).
        hard: False makes u the network itself; the boundary values are then a term of the loss.
    """

    def __init__(self, problem, net: nn.Module, hard: bool = True):
        super().__init__()
        self.problem, self.net, self.hard = problem, net, hard
        parameters = getattr(problem, "parameters", None)
        self.problem_parameters = parameters if isinstance(parameters, nn.Module) else None

    def fields(self, x: Tensor) -> tuple[Field | None, Field | None]:
        """(m, h) at x, each None where the ansatz has none."""
        return (self.problem.factor(x), self.problem.lift(x)) if self.hard else (None, None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.problem.coordinates(x)
        f = self.net(x).squeeze(-1)
        m, h = self.fields(x)
        u = f if m is None else m.value * f
        return u if h is None else h.value + u

    def jet(self, jet_of_net: Callable[..., Jet], x: Tensor, s: Tensor | None, directions: Tensor | None) -> Jet:
        """The jet of u, from `jet_of_net(net, x, s, directions)`.

        L u = Lh + m Lf + 2 (S grad m) . grad f + f Lm, v . grad u = v . grad h + m v . grad f + f v . grad m, and
        |grad u|^2 likewise; S grad m and S grad h go through the network as directions of their own.
        """
        x = self.problem.coordinates(x)
        m, h = self.fields(x)
        if m is None:
            if h is not None:
                raise ValueError("a lift h needs a factor m beside it")
            return jet_of_net(self.net, x, s, directions)
        flowing = (
            [m] if h is None or not self.problem.reads_grad_sq else [m, h]
        )  # grad h . grad f is in |grad u|^2 alone
        flows = [] if s is None else [(s * field.grad).unsqueeze(1) for field in flowing]
        given = [] if directions is None else [directions.expand(len(x), -1, -1)]
        f = jet_of_net(self.net, x, s, torch.cat(given + flows, 1) if given or flows else None)
        outer = 0 if directions is None else directions.shape[-2]

        value = m.value * f.value
        along = None
        if directions is not None:
            along = m.value[:, None] * f.along[:, :outer] + f.value[:, None] * _dot(directions, m.grad)
        lap, grad_sq = None, None
        if s is not None:
            m_f = f.along[:, outer]  # S grad m . grad f
            lap = m.value * f.lap + 2 * m_f + f.value * m.lap(s)
            grad_sq = _square_of_product(m, f, m_f, s) if f.gram is not None else None
        if h is None:
            return Jet(value, along, grad_sq, lap)
        if directions is not None:
            along = along + _dot(directions, h.grad)
        if s is not None:
            lap = lap + h.lap(s)
        if grad_sq is not None:
            h_f = f.along[:, outer + 1]  # S grad h . grad f
            grad_sq = grad_sq + (s * h.grad.square()).sum(-1)
            grad_sq = grad_sq + 2 * (m.value * h_f + f.value * (s * h.grad * m.grad).sum(-1))
        return Jet(h.value + value, along, grad_sq, lap)


def _square_of_product(m: Field, f: Jet, m_f: Tensor, s: Tensor) -> Tensor:
    """|grad(m f)|_S^2 = m^2 |grad f|^2 + 2 m f grad m . S grad f + f^2 |grad m|^2."""
    m_m = (s * m.grad.square()).sum(-1)
    return m.value.square() * f.grad_sq + 2 * m.value * f.value * m_f + f.value.square() * m_m


def _dot(directions: Tensor, gradient: Tensor) -> Tensor:
    """(m, d) or (N, m, d) against (N, d) -> (N, m)."""
    return (directions @ gradient.unsqueeze(-1)).squeeze(-1)
