"""The ansatz u = h + m f: a network f with the boundary values built in, and the jet of u from the jet of f.

Of several fields each has an ansatz of its own, on outputs of one network or on networks of their own.
"""

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
from kanpde.jets.slices import Slice, total
from kanpde.jets.system import Column, Separate, Slabs, Stages, networks, place
from kanpde.jets.taylor import Polarised, Taylor, along, has_rules, line, push
from kanpde.jets.tracing import in_torch_func, recorded


@dataclass(frozen=True, eq=False)
class Field:
    """A closed-form function at N points: value (N,), gradient (N, d), diagonal of its Hessian (N or 1, d or 1).

    Example:
        >>> x = torch.tensor([[1.0, 2.0]])
        >>> m = Field.of(lambda x: (x**2).sum(1), x)
        >>> m.value, m.grad, m.lap(torch.ones(2))
        (tensor([5.]), tensor([[2., 4.]]), tensor([4.]))
    """

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

    def __add__(self, other: "Field") -> "Field":
        second = self.hessian_diagonal + other.hessian_diagonal
        return Field(self.value + other.value, self.grad + other.grad, second)

    def __mul__(self, other: "Field") -> "Field":
        a, b = self._beside_slopes(self.value.unsqueeze(1)), other._beside_slopes(other.value.unsqueeze(1))
        second = a * other.hessian_diagonal + 2 * self.grad * other.grad + b * self.hessian_diagonal
        return Field(self.value * other.value, a * other.grad + b * self.grad, second)

    def _beside_slopes(self, value: Tensor) -> Tensor:
        """A value as what slopes are multiplied by."""
        return value


@dataclass(frozen=True, eq=False)
class SlicedField(Field):
    """One of which a process has the slopes by its inputs alone; the values are in all processes."""

    inputs: Slice

    def lap(self, s: Tensor) -> Tensor:
        (found,) = total([self.hessian_diagonal.expand_as(self.grad) * s], self.inputs)
        return found

    def __add__(self, other: Field) -> "SlicedField":
        return self._of(super().__add__(other))

    def __mul__(self, other: Field) -> "SlicedField":
        return self._of(super().__mul__(other))

    def _beside_slopes(self, value: Tensor) -> Tensor:
        return self.inputs.spread(value)[0]

    def _of(self, field: Field) -> "SlicedField":
        return SlicedField(field.value, field.grad, field.hessian_diagonal, self.inputs)


class Ansatz(nn.Module):
    """u(x) = h(x) + m(x) f(x) (N,) for a network f, where m vanishes on the boundary and h has the boundary values.

    m is the problem's `factor(x)`, h its `lift(x)`; both are closed-form fields, None: 1 and 0. With a start p it is
    h + m (p + f): p, known before the training, belongs to what is built in.

    That of a problem with several fields is a `System`, u(x) (N, K).

    Args:
        problem: supplies factor, lift, and to the operators coefficients s, s_grad and directions.
        net: (N, d) -> (N, 1), or (N, K) for K fields.
        hard: False makes u the network itself, or p + f; the boundary values are then a term of the loss.
        start: p, a module that gives a `Field`; None: 0.

    Example:
        >>> from kanpde.problems import Poisson
        >>> u = Ansatz(Poisson(2), torch.nn.Linear(2, 1))
        >>> u(torch.tensor([[1.0, 0.0], [0.6, 0.8]])).abs().max() < 1e-6  # on the unit circle, whatever the network is
        tensor(True)
    """

    def __new__(cls, problem: Any = None, *args: Any, **options: Any) -> "Ansatz":
        return super().__new__(System if cls is Ansatz and len(getattr(problem, "fields", "u")) > 1 else cls)

    def __init__(self, problem: Any, net: nn.Module, hard: bool = True, start: nn.Module | None = None) -> None:
        super().__init__()
        self.problem, self.net, self.hard, self.start = problem, net, hard, start
        parameters = getattr(problem, "parameters", None)
        self.problem_parameters = parameters if isinstance(parameters, nn.Module) else None

    @property
    def scales(self) -> bool:
        """Whether the network takes points in float64 and scales them itself."""
        net = self.net.nets[0] if isinstance(self.net, Stages) else self.net
        return isinstance(net, nn.Sequential) and isinstance(net[0], Scaling)

    @property
    def continuous(self) -> bool:
        """Whether u is one function, and none of slabs of time that meet as well as their initial values are met."""
        return not isinstance(self.net, Slabs)

    @property
    def like(self) -> Tensor:
        """An empty tensor with the device and dtype of points."""
        p = next(self.net.parameters(), torch.empty(0))
        return p.new_empty(0, dtype=torch.float64 if self.scales else p.dtype)

    def of(self, field: str | None) -> "Ansatz":
        """That of a field; of the only one, and of None, itself."""
        return self

    def built_in(self, x: Tensor) -> tuple[Field | None, Field | None]:
        """(m, h) at x, each None where the ansatz has none; with a start p instead of h it is h + m p."""
        m, h = (self.problem.factor(x), self.problem.lift(x)) if self.hard else (None, None)
        if self.start is None:
            return m, h
        p = self.start(x)
        started = p if m is None else m * p
        return m, started if h is None else h + started

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
        return u if x.ndim == 2 else u.reshape(x.shape[:-1] + u.shape[1:])

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
        m, h = self.built_in(x)
        u = f if m is None else m.value * f
        return u if h is None else h.value + u

    def jet(self, jet_of_net: Callable[..., Jet], x: Tensor, s: Tensor | None, directions: Tensor | None) -> Jet:
        """The jet of u, from `jet_of_net(net, x, s, directions)`.

        L u = Lh + m Lf + 2 (S grad m) . grad f + f Lm, v . grad u = v . grad h + m v . grad f + f v . grad m, and
        |grad u|^2 likewise; S grad m and S grad h go through the network as directions of their own.
        """
        x = self.problem.inputs_of(x)
        m, h = self.built_in(x)
        given = [] if directions is None else [directions.expand(len(x), -1, -1)]
        flows = _flows(m, h, s, self.problem.reads.grad_sq)
        f = jet_of_net(self.net, x, s, torch.cat(given + flows, 1) if flows else directions)
        return _product_rule(m, h, f, s, directions)

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
        m, h = self.built_in(x)
        part = lambda k: along(lambda x: self.built_in(x)[k].value, x, v, counts)
        if m is not None:
            u = part(0).times(u)
        return u if h is None else part(1).plus(u)


class System(Ansatz):
    """Several fields u_k(x) = h_k(x) + m_k(x) f_k(x), (N, K): what `Ansatz` is of one, with a last axis of fields.

    Args:
        net: (N, d) -> (N, K), whose outputs the f_k are; or a `Separate` of networks, one for each.
    """

    def of(self, field: str | None) -> Ansatz:
        """The ansatz of a field, on the same weights."""
        if field is None:
            return self
        k, problem = place(field, self.problem.fields), self.problem.of(field)
        net = self.net.nets[k] if self.separate else nn.Sequential(self.net, Column(k))
        return Ansatz(problem, net, self.hard)

    @property
    def separate(self) -> bool:
        """Whether each field has a network of its own."""
        return isinstance(self.net, Separate)

    @property
    def each(self) -> list[Ansatz]:
        """The ansätze of the fields."""
        return [self.of(name) for name in self.problem.fields]

    @property
    def has_rules(self) -> bool:
        """Whether Taylor jets go through the networks."""
        return all(map(has_rules, networks(self.net)))

    def _built_in(self, at: Callable[[Callable], Any]) -> list[tuple[Any, Any]]:
        """`at` of the factor and of the lift of each field, None where it has none; once where fields have the same."""
        known: dict[Callable | None, Any] = {None: None}
        once = lambda of: known[of] if of in known else known.setdefault(of, at(of))
        parts = [self.problem.of(name).exactly for name in self.problem.fields] if self.hard else []
        return [(once(part.factor), once(part.lift)) for part in parts] or [(None, None)] * len(self.problem.fields)

    def built_in(self, x: Tensor) -> list[tuple[Field | None, Field | None]]:
        """(m_k, h_k) at x."""
        return self._built_in(lambda of: of(x))

    def _at(self, x: Tensor) -> Tensor:
        f, columns = self.net(x.to(self.like.dtype)).to(x.dtype), []
        for (m, h), f_k in zip(self.built_in(x), f.unbind(1), strict=True):
            u_k = f_k if m is None else m.value * f_k
            columns.append(u_k if h is None else h.value + u_k)
        return torch.stack(columns, 1)

    def jet(self, jet_of_net: Callable[..., Jet], x: Tensor, s: Tensor | None, directions: Tensor | None) -> Jet:
        """The jets of all fields from one jet of the network: each tensor with a last axis of fields."""
        x = self.problem.inputs_of(x)
        outer, parts = 0 if directions is None else directions.shape[-2], self.built_in(x)
        every = [] if directions is None else [directions.expand(len(x), -1, -1)]
        reads_grad_sq, places = self.problem.reads.grad_sq, {}  # of the flows among the directions
        of = lambda m, h: (m, h if reads_grad_sq else None)
        for m, h in parts:
            if of(m, h) not in places:
                flows, first = _flows(m, h, s, reads_grad_sq), outer + sum(map(len, places.values()))
                places[of(m, h)] = range(first, first + len(flows))
                every += flows
        f = jet_of_net(self.net, x, s, torch.cat(every, 1) if every else None)
        jets = []
        for k, (m, h) in enumerate(parts):
            own = [*range(outer), *places[of(m, h)]]
            f_k = Jet(
                value=f.value[:, k],
                along=f.along[:, own, k] if own else None,
                gram=None if f.gram is None else f.gram[:, k, k],
                lap=None if f.lap is None else f.lap[:, k],
            )
            jets.append(_product_rule(m, h, f_k, s, directions))
        stacked = lambda parts: None if parts[0] is None else torch.stack(parts, -1)
        names = "value", "along", "gram", "lap"
        return Jet(*(stacked([getattr(jet, name) for jet in jets]) for name in names))

    def derivatives(self, x: Tensor, indices: tuple[Index, ...]) -> tuple[Tensor, dict[Index, Tensor]]:
        if not self.has_rules or self.separate:
            found = [u.derivatives(x, indices) for u in self.each]
            values = torch.stack([value for value, _ in found], 1)
            return values, {index: torch.stack([each[index] for _, each in found], 1) for index in indices}
        polarised = Polarised.of(indices)
        u = self.taylor(x, polarised.vectors(self.problem.inputs_of(x)), polarised.counts)
        return u.value, polarised.derivatives(u)

    def taylor(self, x: Tensor, v: Tensor, counts: tuple[int, ...]) -> Taylor:
        """The Taylor jet of u, K features, along v (1 or N, m, d), exact."""
        x = self.problem.inputs_of(x)
        if not self.has_rules or self.separate:
            return Taylor.side_by_side([u.taylor(x, v, counts) for u in self.each])
        f, each = push(self.net, line(x, v, counts)), []
        for k, (m, h) in enumerate(self._built_in(lambda of: along(lambda x: of(x).value, x, v, counts))):
            u_k = f.through(Column(k).of, Column(k).of(f.value))
            u_k = u_k if m is None else m.times(u_k)
            each.append(u_k if h is None else h.plus(u_k))
        return Taylor.side_by_side(each)


def _flows(m: Field | None, h: Field | None, s: Tensor | None, reads_grad_sq: bool) -> list[Tensor]:
    """S grad m and, for |grad u|^2 alone, S grad h: directions (N, 1, d) along which f is differentiated."""
    flowing = [m, h if reads_grad_sq else None]
    return [] if s is None else [(s * field.grad).unsqueeze(1) for field in flowing if field is not None]


def _product_rule(m: Field | None, h: Field | None, f: Jet, s: Tensor | None, directions: Tensor | None) -> Jet:
    """The jet of h + m f from that of f along the directions and, after them, `_flows`."""
    if m is None and h is None:
        return f
    outer = 0 if directions is None else directions.shape[-2]
    along, flows = (None, ()) if f.along is None else (f.along[:, :outer], f.along[:, outer:].unbind(1))
    u = Jet(f.value, along if outer else None, f.grad_sq if f.gram is not None else None, f.lap)
    if m is not None:
        u = _product(m, f, u.along, flows[0] if flows else None, s, directions)
    return u if h is None else _sum(h, m, f, u, flows[-1] if flows else None, s, directions)


def _product(
    m: Field, f: Jet, along: Tensor | None, m_f: Tensor | None, s: Tensor | None, directions: Tensor | None
) -> Jet:
    """The jet of m f; m_f = S grad m . grad f."""
    if along is not None:
        along = m.value[:, None] * along + f.value[:, None] * _dot(directions, m.grad)
    lap, grad_sq = None, None
    if s is not None:
        lap = m.value * f.lap + 2 * m_f + f.value * m.lap(s)
        grad_sq = _square_of_product(m, f, m_f, s) if f.gram is not None else None
    return Jet(m.value * f.value, along, grad_sq, lap)


def _sum(
    h: Field, m: Field | None, f: Jet, u: Jet, h_f: Tensor | None, s: Tensor | None, directions: Tensor | None
) -> Jet:
    """The jet of h + u for u = m f; h_f = S grad h . grad f."""
    along, grad_sq, lap = u.along, u.gram, u.lap
    if along is not None:
        along = along + _dot(directions, h.grad)
    if s is not None:
        lap = lap + h.lap(s)
    if grad_sq is not None:
        h_u = h_f if m is None else m.value * h_f + f.value * (s * h.grad * m.grad).sum(-1)
        grad_sq = grad_sq + (s * h.grad.square()).sum(-1) + 2 * h_u
    return Jet(h.value + u.value, along, grad_sq, lap)


def _square_of_product(m: Field, f: Jet, m_f: Tensor, s: Tensor) -> Tensor:
    """|grad(m f)|_S^2 = m^2 |grad f|^2 + 2 m f grad m . S grad f + f^2 |grad m|^2."""
    m_m = (s * m.grad.square()).sum(-1)
    return m.value.square() * f.grad_sq + 2 * m.value * f.value * m_f + f.value.square() * m_m


def _dot(directions: Tensor, gradient: Tensor) -> Tensor:
    """(m, d) or (N, m, d) against (N, d) -> (N, m)."""
    return (directions @ gradient.unsqueeze(-1)).squeeze(-1)
