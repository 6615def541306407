"""Exact derivatives of any backbone at points, for plain torch code and for what other packages ask of a network."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.jets import jet, taylor
from kanpde.jets.gram import Dense, Diagonal, Part
from kanpde.jets.nested import gradient_of
from kanpde.jets.taylor import Polarised, Taylor

AT_ONCE = 2**22  # numbers of a batched backward pass through a transform
ROUNDING = 1e3  # how many roundings a transform may be off its affine form

InputTransform = Callable[[Tensor], Tensor]
OutputTransform = Callable[[Tensor, Tensor], Tensor]


class Derivatives:
    r"""Value and exact derivatives of u = T(x, f(g(x))) at N points, each by one forward jet through the network f.

    With T = h + m f, output by output,

    .. math:: \Delta u_k = \Delta h_k + m_k \Delta f_k + 2 \nabla m_k \cdot \nabla f_k + f_k \Delta m_k

    All can be differentiated by the weights, and by x where it requires a gradient. Each call is a pass of its own, at
    the weights as they are by then.

    Args:
        net: f, (N, p) -> (N, n), of modules with jet rules: any that `kanpde.backbones.build` gives.
        x: points (N, d), taken in the dtype of the network.
        input_transform: g, (N, d) -> (N, p), row by row; None: the points themselves.
        output_transform: T, (x, f) -> (N, n), row by row, with u_k affine in f_k; None: f itself.
    Raises:
        ConfigError: x is no (N, d); an axis that it has not; an output transform that is not of this form.
        MissingJetRule: a module of the network has no rule.

    Example:
        >>> from kanpde import backbones
        >>> u = Derivatives(backbones.build("metakan", 3), torch.rand(5, 3))
        >>> u.value().shape, u.gradient().shape, u.laplacian().shape, u.hessian(0, 2).shape
        (torch.Size([5, 1]), torch.Size([5, 1, 3]), torch.Size([5, 1]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        net: nn.Module,
        x: Tensor,
        input_transform: InputTransform | None = None,
        output_transform: OutputTransform | None = None,
    ) -> None:
        if x.ndim != 2:
            raise ConfigError(f"Derivatives: given points of shape {tuple(x.shape)}, needed are (N, d)")
        self.net, self.given = net, x
        self.x = x.to(next(net.parameters(), x).dtype)
        self.input_transform, self.output_transform = input_transform, output_transform

    def value(self) -> Tensor:
        """u, (N, n)."""
        f = self._network(self.x)
        return f if self.output_transform is None else self.output_transform(self.x, f)

    def gradient(self, axes: Sequence[int] | None = None) -> Tensor:
        """du_k / dx_i by some axes, by default all, (N, n, axes)."""
        return self._first(self._checked(axes))

    def laplacian(self, axes: Sequence[int] | None = None) -> Tensor:
        """sum_i d^2 u_k / dx_i^2 over some axes, by default all, (N, n)."""
        return self._second(self._checked(axes))

    def hessian(self, i: int, j: int) -> Tensor:
        """d^2 u_k / dx_i dx_j, (N, n)."""
        return self._mixed(tuple(sorted(self._checked((i, j)))))

    def _checked(self, axes: Sequence[int] | None) -> tuple[int, ...]:
        d = self.x.shape[1]
        axes = tuple(range(d)) if axes is None else tuple(axes)
        if wrong := [axis for axis in axes if not -d <= axis < d]:
            raise ConfigError(f"Derivatives: given the axis {wrong[0]}, the points have 0 to {d - 1}")
        return tuple(axis % d for axis in axes)

    # By jets through the network -----------------------------------------------------------------------------------

    def _first(self, axes: tuple[int, ...]) -> Tensor:
        axis_vectors = torch.eye(self.x.shape[1], dtype=self.x.dtype, device=self.x.device)[list(axes)]
        f = self._jet((), axis_vectors)
        if self.output_transform is None:
            return f.along.mT
        m, h = self._factor_and_lift(())
        self._check_affine(f.value, m.value, h.value)
        by_axes = lambda part: part.gradient[..., list(axes)]
        return by_axes(h) + m.value.unsqueeze(-1) * f.along.mT + f.value.unsqueeze(-1) * by_axes(m)

    def _second(self, axes: tuple[int, ...]) -> Tensor:
        if self.output_transform is None:
            return _lap(self._jet(axes, None))
        m, h = self._factor_and_lift(axes)
        f = self._jet(axes, m.gradient * _ones_at(axes, self.x))
        self._check_affine(f.value, m.value, h.value)
        crossed = f.along.diagonal(dim1=1, dim2=2)  # grad m_k . grad f_k
        return h.second + m.value * _lap(f) + 2 * crossed + f.value * m.second

    def _mixed(self, axes: tuple[int, ...]) -> Tensor:
        polarised = Polarised.of((axes,))
        v, counts = polarised.vectors(self.x), polarised.counts
        g, transform = self.input_transform, self.output_transform
        u = taylor.push(self.net, taylor.line(self.x, v, counts) if g is None else _taylor(g, self.x, v, counts))
        if transform is not None:
            m, h = (_taylor(part, self.x, v, counts) for part in (self._factor, self._lift))
            self._check_affine(u.value, m.value, h.value)
            u = m.times(u).plus(h)
        return polarised.derivatives(u)[axes].view(len(self.x), -1)

    def _network(self, x: Tensor) -> Tensor:
        return self.net(x if self.input_transform is None else self.input_transform(x))

    def _jet(self, axes: tuple[int, ...], directions: Tensor | None) -> jet.Jet:
        """The jet of f: second derivatives by the axes, where there are any, and along directions (m or N, m, d)."""
        along = None if directions is None else directions.expand(len(self.x), -1, -1)
        s = _ones_at(axes, self.x) if axes else None
        if self.input_transform is None:
            return jet.push(self.net, jet.Jet(self.x, along, None if s is None else Diagonal(s)), Part.NONE)
        g = _Closed.of(self.input_transform, self.x, axes)
        tangents = g.gradient.mT  # (N, d, p)
        along = None if along is None else along @ tangents
        if s is None:
            return jet.push(self.net, jet.Jet(g.value, along), Part.NONE)
        return jet.push(self.net, jet.Jet(g.value, along, Dense((g.gradient * s) @ tangents), g.second), Part.NONE)

    # The output transform h + m f ----------------------------------------------------------------------------------

    @cached_property
    def _outputs(self) -> int:
        """n."""
        with torch.no_grad():
            return self._network(self.x[:1]).shape[1]

    def _lift(self, x: Tensor) -> Tensor:
        return self.output_transform(x, x.new_zeros(len(x), self._outputs))

    def _factor(self, x: Tensor) -> Tensor:
        return self.output_transform(x, x.new_ones(len(x), self._outputs)) - self._lift(x)

    def _factor_and_lift(self, axes: tuple[int, ...]) -> tuple["_Closed", "_Closed"]:
        return tuple(_Closed.of(part, self.x, axes) for part in (self._factor, self._lift))

    def _check_affine(self, f: Tensor, m: Tensor, h: Tensor) -> None:
        """Raises ConfigError where T(x, f) is not h + m f."""
        with torch.no_grad():
            u = self.output_transform(self.x, f)
            allowed = ROUNDING * torch.finfo(u.dtype).eps * (m.abs() * (1 + f.abs()) + h.abs() + u.abs()).amax()
            fits = u.shape == m.shape and not ((u - (h + m * f)).abs() > allowed).any()
        if not fits:
            raise ConfigError("the output transform is not h(x) + m(x) f, output by output: its jet is not known")


class _Closed(NamedTuple):
    """k functions of the points in closed form, differentiated by torch.

    Attributes:
        value: (N, k).
        gradient: (N, k, d).
        second: the sums of their second derivatives by some axes, (N, k).
    """

    value: Tensor
    gradient: Tensor
    second: Tensor

    @staticmethod
    def of(function: Callable[[Tensor], Tensor], x: Tensor, axes: tuple[int, ...]) -> "_Closed":
        keep = x.requires_grad or (torch.is_grad_enabled() and function(x).requires_grad)  # by x, or by what it holds
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = function(at)
            gradients = [gradient_of(column, at) for column in value.unbind(1)]
            seconds = [_sum_of_seconds(gradient, at, axes) for gradient in gradients]
        found = _Closed(value, torch.stack(gradients, 1), torch.stack(seconds, 1))
        return found if keep else _Closed(*map(Tensor.detach, found))


def _sum_of_seconds(gradient: Tensor, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """sum_i dg_i / dx_i over the axes (N,), of as many axes at once as AT_ONCE allows."""
    total = torch.zeros_like(x[:, 0])
    if not axes or not gradient.requires_grad:
        return total
    for block in torch.tensor(axes, device=x.device).split(max(1, AT_ONCE // max(1, x.numel()))):
        rows = nn.functional.one_hot(block, x.shape[1]).to(x.dtype).unsqueeze(1).expand(-1, len(x), -1)
        (found,) = torch.autograd.grad(gradient, x, rows, create_graph=True, is_grads_batched=True, allow_unused=True)
        total = total if found is None else total + (found * rows).sum((0, 2))
    return total


def _taylor(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor, counts: tuple[int, ...]) -> Taylor:
    """The Taylor jet of a function (N, d) -> (N, k) in closed form."""
    columns = range(function(x).shape[1])
    return Taylor.side_by_side([taylor.along(lambda x, k=k: function(x)[:, k], x, v, counts) for k in columns])


def _ones_at(axes: tuple[int, ...], x: Tensor) -> Tensor:
    """(1, d)."""
    s = x.new_zeros(1, x.shape[1])
    s[:, list(axes)] = 1
    return s


def _lap(f: jet.Jet) -> Tensor:
    return torch.zeros_like(f.value) if f.lap is None else f.lap.expand_as(f.value)
