"""The ansatz u = h + m f: a network f with the boundary values built in, and the jet of u from the jet of f."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.jets.differentiable import check_differentiable
from kanpde.jets.jet import Jet, Scaling
from kanpde.jets.names import Index
from kanpde.jets.nested import gradient_of, nested
from kanpde.jets.taylor import Polarised, Taylor, along, has_rules, line, push
from kanpde.jets.tracing import in_torch_func, recorded


@dataclass(frozen=True)
class Field:
    """A closed-form function at N points: value (N,), gradient (N, d), diagonal of its Hessian (N or 1, d or 1)."""

    value: Tensor
    grad: Tensor
    hessian_diagonal: Tensor

    @staticmethod
    def of(function: Callable[[Tensor], Tensor], x: Tensor) -> "Field":
        """The field of any differentiable function (N, d) -> (N,), by d + 1 passes of automatic differentiation.

        Raises:
            NotDifferentiable: that is not its field, see `kanpde.jets.differentiable`.
        """
        check_differentiable(function, x)
        if in_torch_func():  # Gauss-Newton's vmap over points takes no torch.autograd
            gradient = torch.func.grad(lambda x: function(x).sum())
            second = [torch.func.grad(lambda x, i=i: gradient(x)[:, i].sum())(x)[:, i] for i in range(x.shape[1])]
            return Field(function(x), gradient(x), torch.stack(second, 1))
        keep = x.requires_grad or (torch.is_grad_enabled() and function(x).requires_grad)  # by x, or by unknowns in it
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = function(at)
            grad = gradient_of(value, at)
            second = torch.stack([gradient_of(g, at)[:, i] for i, g in enumerate(grad.unbind(1))], 1)
        return Field(value, grad, second) if keep else Field(value.detach(), grad.detach(), second.detach())

    def lap(self, s: Tensor) -> Tensor:
        """sum_i s_i d^2/dx_i^2, (N,)."""
        return (self.hessian_diagonal.expand_as(self.grad) * s).sum(-1)


class Ansatz(nn.Module):
    """u(x) = h(x) + m(x) f(x) (N,) for a network f, where m vanishes on the boundary and h has the boundary values.

    m is the problem's `factor(x)`, h its `lift(x)` (None: 0); both are closed-form fields.

    Args:
        problem: supplies factor, lift, and to the operators coefficients s, s_grad and directions.
        net: (N, d) -> (N, 1).
        hard: False makes u the network itself; the boundary values are then a term of the loss.
    """

    def __init__(self, problem: Any, net: nn.Module, hard: bool = True) -> None:
        super().__init__()
        self.problem, self.net, self.hard = problem, net, hard
        parameters = getattr(problem, "parameters", None)
        self.problem_parameters = parameters if isinstance(parameters, nn.Module) else None

    @property
    def scales(self) -> bool:
        """Whether the network takes points in float64 and scales them itself."""
        return isinstance(self.net, nn.Sequential) and isinstance(self.net[0], Scaling)

    @property
    def like(self) -> Tensor:
        """An empty tensor with the device and dtype of points."""
        p = next(self.net.parameters(), torch.empty(0))
        return p.new_empty(0, dtype=torch.float64 if self.scales else p.dtype)

    def fields(self, x: Tensor) -> tuple[Field | None, Field | None]:
        """(m, h) at x, each None where the ansatz has none."""
        return (self.problem.factor(x), self.problem.lift(x)) if self.hard else (None, None)

    def forward(self, x: Tensor) -> Tensor:
        """u at points: (N, d) -> (N,), one point (d,) -> (), any grid (..., d) -> (...).

        In the dtype given, with m and h at the very points and the network in its own; of integers in that of the
        network. Arrays give an array without a graph, lists a tensor.

        Raises:
            ConfigError: points of another number of coordinates, complex ones, or on another device.
        """
        if recorded():  # nothing that depends on a shape
            return self._at(self.problem.inputs_of(x))
        if not torch.is_tensor(x):
            return self._of_array(x)
        u = self._at(self._inputs(x))
        return u if x.ndim == 2 else u.reshape(x.shape[:-1])

    def _inputs(self, x: Tensor) -> Tensor:
        """The inputs (N, d) of u at points, as floating-point numbers."""
        own, d = self.like, getattr(self.problem, "n_inputs", x.shape[-1] if x.ndim else 0)
        if x.is_complex():
            raise ConfigError(f"u takes real points, given {x.dtype}")
        if x.device != own.device:
            raise ConfigError(f"u is on {own.device}, the points are on {x.device}: move one of them with .to")
        points = x.flatten(0, -2) if x.ndim > 2 else torch.atleast_2d(x)
        inputs = self.problem.inputs_of(points)
        if x.ndim == 0 or inputs.shape[-1] != d:
            raise ConfigError(f"u takes points (N, {d}), or one point ({d},); given {tuple(x.shape)}")
        return inputs if x.is_floating_point() else inputs.to(own.dtype)

    @torch.no_grad()
    def _of_array(self, x) -> Tensor | np.ndarray:
        own, is_array = self.like, hasattr(x, "__array__")
        try:
            given = torch.as_tensor(np.array(x)) if is_array else torch.as_tensor(x, dtype=own.dtype)
        except (TypeError, ValueError):
            raise ConfigError(f"u takes points as a tensor or an array of numbers, given {type(x).__name__}") from None
        u = self(given.to(own.device))
        return u.cpu().numpy() if is_array else u

    def _at(self, x: Tensor) -> Tensor:
        """u (N,) at inputs (N, d), the network in its dtype and m and h in that of x."""
        f = self.net(x.to(self.like.dtype)).squeeze(-1).to(x.dtype)
        m, h = self.fields(x)
        u = f if m is None else m.value * f
        return u if h is None else h.value + u

    def jet(self, jet_of_net: Callable[..., Jet], x: Tensor, s: Tensor | None, directions: Tensor | None) -> Jet:
        """The jet of u, from `jet_of_net(net, x, s, directions)`.

        L u = Lh + m Lf + 2 (S grad m) . grad f + f Lm, v . grad u = v . grad h + m v . grad f + f v . grad m, and
        |grad u|^2 likewise; S grad m and S grad h go through the network as directions of their own.
        """
        x = self.problem.inputs_of(x)
        m, h = self.fields(x)
        if m is None:
            if h is not None:
                raise ValueError("a lift h needs a factor m beside it")
            return jet_of_net(self.net, x, s, directions)
        flowing = (
            [m] if h is None or not self.problem.reads.grad_sq else [m, h]
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

    def derivatives(self, x: Tensor, indices: tuple[Index, ...]) -> tuple[Tensor, dict[Index, Tensor]]:
        """u (N,) and its derivatives of any order by axes, exact: sums of those of `taylor` where there are rules."""
        if not has_rules(self.net):
            found = nested(self._at, self.problem.inputs_of(x), ((), *indices))
            return found.pop(()), found
        polarised = Polarised.of(indices)
        u = self.taylor(x, polarised.vectors(self.problem.inputs_of(x)), polarised.counts)
        return u.value.squeeze(-1), polarised.derivatives(u)

    def taylor(self, x: Tensor, v: Tensor, counts: tuple[int, ...]) -> Taylor:
        """The Taylor jet of u, one feature, along v (1 or N, m, d), exact.

        That of f goes through its modules where they have rules. m and h, and an f without them, are differentiated
        along the directions one order after the other.
        """
        x = self.problem.inputs_of(x)
        if not has_rules(self.net):
            return along(self._at, x, v, counts)
        u = push(self.net, line(x, v, counts))
        m, h = self.fields(x)
        part = lambda of: along(lambda x: of(x).value, x, v, counts)
        if m is not None:
            u = part(self.problem.factor).times(u)
        return u if h is None else part(self.problem.lift).plus(u)


def _square_of_product(m: Field, f: Jet, m_f: Tensor, s: Tensor) -> Tensor:
    """|grad(m f)|_S^2 = m^2 |grad f|^2 + 2 m f grad m . S grad f + f^2 |grad m|^2."""
    m_m = (s * m.grad.square()).sum(-1)
    return m.value.square() * f.grad_sq + 2 * m.value * f.value * m_f + f.value.square() * m_m


def _dot(directions: Tensor, gradient: Tensor) -> Tensor:
    """(m, d) or (N, m, d) against (N, d) -> (N, m)."""
    return (directions @ gradient.unsqueeze(-1)).squeeze(-1)
