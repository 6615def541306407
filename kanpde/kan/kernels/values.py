r"""The values of a KAN layer with a basis linear in its weights, y = b(x) theta, a tile of points after the other.

With the features b (points, size, in) of a tile and their derivatives b', a bar marking a gradient:

.. math:: y = b\,\theta, \qquad \bar\theta = b^T \bar y, \qquad \bar x = \sum_c b'_c \circ (\bar y\, \theta_c^T)

The inputs and the weights alone are saved; the backward pass computes the features again. The numbers of one tile, in
buffers that all tiles share, stay in the cache. `kanpde.kan.kernels.jets` pushes jets.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from kanpde.jets.tracing import exporting, has_numbers, plainly, transformed
from kanpde.kan.basis.base import LinearBasis, closed, contract_features, fill
from kanpde.kan.basis.base_functions import BASE_FUNCTIONS
from kanpde.kan.weights import Recipe

TILE = 2**15  # values of x to a tile: the steps of a formula on all its functions stay in the cache
POINTS = 128  # to a tile at least: products of fewer read theta too often
COPY_FROM = 256  # points from which a copy of theta, for one product instead of one for each function, pays


def values(basis: LinearBasis, recipe: Recipe, x: Tensor, normed: Tensor | None = None) -> Tensor:
    """x (N, in) -> (N, out): the sums of the edge functions.

    With `normed` (N, in), the basis functions stand at it and the base function at x.
    """
    constants = basis.constants(slice(None))
    layer = _Layer(basis.formula(), basis.count, basis.base, recipe.generate, recipe.pullback, len(constants))
    weights = *recipe.pieces, *recipe.shared
    if plainly() or not has_numbers(x):  # the compiler saves and recomputes by itself
        return _plain(layer, x, normed, constants, layer.generate(*weights))
    return _Values.apply(layer, x, normed, *constants, *weights)


@dataclass(frozen=True)
class _Layer:
    """What the values of a layer need beside tensors: x, normed, the constants of the basis, and the weights."""

    formula: Callable
    count: int
    base: str
    generate: Callable
    pullback: Callable
    constants: int

    def sorted(self, tensors: tuple) -> tuple[Tensor, Tensor | None, tuple, tuple]:
        """x, normed, constants and weights."""
        x, normed, *rest = tensors
        return x, normed, tuple(rest[: self.constants]), tuple(rest[self.constants :])

    def parts(self, order: int, x: Tensor, normed: Tensor | None, constants: tuple) -> Sequence[Tensor]:
        """The derivative `order` of the basis functions and of the base, (N, functions, in) each, as plain operations
        that can be differentiated."""
        functions = closed(self.formula, order, order, x if normed is None else normed, *constants, axis=-2)
        return [*functions, *closed(BASE_FUNCTIONS[self.base], order, order, x, axis=-2)]

    def features(self, order: int, x: Tensor, normed: Tensor | None, constants: tuple) -> Tensor:
        """The same in one, (N, size, in)."""
        return torch.cat(self.parts(order, x, normed, constants), -2)

    def write(self, x: Tensor, normed: Tensor | None, constants: tuple, out: Sequence[Tensor], base_slope: bool = True):
        """The features of a tile into `out`, and their derivatives if it has a second place (of the base if asked)."""
        last, seen = len(out) - 1, x if normed is None else normed
        fill(self.formula, 0, last, seen, *constants, axis=-2, out=[b[:, : self.count] for b in out])
        if self.base != "none":
            places = out if base_slope else out[:1]
            base = BASE_FUNCTIONS[self.base]
            fill(base, 0, len(places) - 1, x, axis=-2, out=[b[:, self.count :] for b in places])


class _Values(torch.autograd.Function):
    """Saves what it is given; the backward is differentiable itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(layer, *tensors):
        x, normed, constants, weights = layer.sorted(tensors)
        run = _plain if transformed() else _forward
        return run(layer, x, normed, constants, layer.generate(*weights))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.layer, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        layer, (of_x, of_normed, *others) = ctx.layer, ctx.needs_input_grad[1:]
        x, normed, constants, weights = layer.sorted(ctx.saved_tensors)
        theta = layer.generate(*weights)
        if torch.is_grad_enabled() or transformed():
            grad_x, grad_normed, grad_theta = _plain_backward(layer, x, normed, constants, theta, grad)
        else:
            need = of_x, of_normed, any(others)
            grad_x, grad_normed, grad_theta = _backward(layer, x, normed, constants, theta, grad, need)
        of_weights = [None] * len(weights) if grad_theta is None else layer.pullback(grad_theta, *weights)
        return None, grad_x, grad_normed, *[None] * len(constants), *of_weights


def _plain(layer: _Layer, x: Tensor, normed: Tensor | None, constants: tuple, theta: Tensor) -> Tensor:
    """The values in operations that can be differentiated and batched."""
    if not exporting() and len(x) < COPY_FROM:
        b = layer.features(0, x, normed, constants).mT
        return contract_features((b,), theta, False, None).value
    parts = layer.parts(0, x, normed, constants)  # those of other arguments in a product of their own
    parts = parts if normed is not None else [torch.cat(parts, -2)]
    sizes = [b.shape[-2] for b in parts]
    flat = (w.transpose(0, 1).flatten(0, 1) for w in theta.split(sizes, 1))
    return sum(b.flatten(1) @ w for b, w in zip(parts, flat, strict=True))


def _plain_backward(layer: _Layer, x, normed, constants: tuple, theta: Tensor, grad: Tensor) -> tuple:
    """The gradients of x, normed and theta in such operations."""
    b, slope = (layer.features(order, x, normed, constants) for order in (0, 1))  # (N, size, in)
    n, size, n_in = b.shape
    flat = theta.transpose(0, 1).reshape(size * n_in, theta.shape[-1])
    grad_theta = (b.reshape(n, size * n_in).mT @ grad).reshape(size, n_in, theta.shape[-1]).transpose(0, 1)
    to_x = (grad @ flat.mT).reshape(b.shape) * slope
    if normed is None:
        return to_x.sum(-2), None, grad_theta
    to_normed, to_base = (to_x.narrow(1, *of).sum(1) for of in ((0, layer.count), (layer.count, size - layer.count)))
    return to_base, to_normed, grad_theta


def _forward(layer: _Layer, x: Tensor, normed: Tensor | None, constants: tuple, theta: Tensor) -> Tensor:
    y = x.new_zeros(x.shape[0], theta.shape[-1])
    room = _Room(1, x, theta.shape[1])
    for columns, of_columns, product in _columns(x, constants, theta):
        for rows in _rows(x):
            (b,) = places = room.of(x[rows, columns])
            layer.write(x[rows, columns], None if normed is None else normed[rows, columns], of_columns, places)
            product.add_values(b, y[rows])
    return y


def _backward(
    layer: _Layer, x, normed, constants: tuple, theta: Tensor, grad: Tensor, need: tuple[bool, bool, bool]
) -> list[Tensor | None]:
    """The gradients of x, normed and theta, of those that are needed."""
    of_x, of_normed, of_theta = need
    of_inputs, grad = of_x or of_normed, grad.contiguous()
    place = lambda t, needed: torch.empty_like(t, memory_format=torch.contiguous_format) if needed else None
    grads = list(map(place, (x, x, theta), need))
    room = _Room(1 + of_inputs, x, theta.shape[1])
    live = slice(0, theta.shape[1] if of_x else layer.count)  # functions whose argument needs a gradient
    for columns, of_columns, product in _columns(x, constants, theta, grads[2]):
        for rows in _rows(x):
            tile = rows, columns
            b, *slope = places = room.of(x[tile])
            layer.write(x[tile], None if normed is None else normed[tile], of_columns, places, of_x)
            if of_theta:
                product.add_gradient(b, grad[rows], rows.start == 0)
            if of_inputs:
                parts = b[:, live]
                product.to_features(grad[rows], parts)
                parts.mul_(slope[0][:, live])
                _add_functions(parts, layer.count, *(None if g is None else g[tile] for g in grads[:2]), normed is None)
        if of_theta:
            product.finish()
    return grads


def _add_functions(
    parts: Tensor, count: int, grad_x: Tensor | None, grad_normed: Tensor | None, together: bool
) -> None:
    """Sums of `parts` (N, functions, in) of the gradients of the inputs: all of x, or those of x and of normed."""
    if together:
        torch.sum(parts, 1, out=grad_x)
        return
    if grad_normed is not None:
        torch.sum(parts[:, :count], 1, out=grad_normed)
    if grad_x is not None:
        torch.sum(parts[:, count:], 1, out=grad_x)


class _Planes:
    """Products of features (points, size, in) with theta (in, size, out), function by function: no copy of theta."""

    def __init__(self, theta: Tensor, grad: Tensor | None):
        self.theta, self.grad = theta.unbind(1), () if grad is None else grad.unbind(1)

    def add_values(self, b: Tensor, total: Tensor) -> None:
        for b_c, theta_c in zip(b.unbind(1), self.theta, strict=True):
            total.addmm_(b_c, theta_c)

    def to_features(self, grad: Tensor, out: Tensor) -> None:
        """To the first functions, as many as `out` has."""
        for theta_c, out_c in zip(self.theta, out.unbind(1), strict=False):
            torch.mm(grad, theta_c.mT, out=out_c)

    def add_gradient(self, b: Tensor, grad: Tensor, is_first: bool) -> None:
        for b_c, grad_c in zip(b.unbind(1), self.grad, strict=True):
            grad_c.addmm_(b_c.mT, grad, beta=0 if is_first else 1)

    def finish(self) -> None:
        """The gradient is where it belongs."""


class _Flat:
    """The same by one product with a copy of theta, (size in, out)."""

    def __init__(self, theta: Tensor, grad: Tensor | None):
        self.theta, self.grad = theta.transpose(0, 1).reshape(-1, theta.shape[-1]), grad
        self.flat = None if grad is None else torch.empty_like(self.theta)

    def add_values(self, b: Tensor, total: Tensor) -> None:
        total.addmm_(b.flatten(1), self.theta)

    def to_features(self, grad: Tensor, out: Tensor) -> None:
        to = out.flatten(1)
        torch.mm(grad, self.theta[: to.shape[1]].mT, out=to)

    def add_gradient(self, b: Tensor, grad: Tensor, is_first: bool) -> None:
        self.flat.addmm_(b.flatten(1).mT, grad, beta=0 if is_first else 1)

    def finish(self) -> None:
        n_in, size, n_out = self.grad.shape
        self.grad.copy_(self.flat.view(size, n_in, n_out).transpose(0, 1))


class _Room:
    """Buffers (points, size, in) for the features of a tile, made once and used for all tiles."""

    def __init__(self, count: int, x: Tensor, size: int):
        points, inputs = _tile(x)
        self.count, self.size, self.numbers = count, size, x.new_empty(count * points * size * inputs)
        self.views: dict[tuple, tuple[Tensor, ...]] = {}

    def of(self, tile: Tensor) -> tuple[Tensor, ...]:
        points, inputs = tile.shape
        if tile.shape not in self.views:
            shape = self.count, points, self.size, inputs
            self.views[tile.shape] = self.numbers[: prod(shape)].view(shape).unbind()
        return self.views[tile.shape]


def _tile(x: Tensor) -> tuple[int, int]:
    """Points and inputs of a tile of x (N, in): all of few inputs, else enough points for a fast product."""
    points, inputs = (max(1, n) for n in x.shape)
    points = min(points, max(TILE // inputs, POINTS))
    return points, min(inputs, max(1, TILE // points))


def _rows(x: Tensor) -> Iterator[slice]:
    """The points, some at a time; once none if there are none."""
    points, _ = _tile(x)
    return (slice(i, i + points) for i in range(0, max(1, x.shape[0]), points))


def _columns(x: Tensor, constants: tuple, theta: Tensor, grad: Tensor | None = None) -> Iterator[tuple]:
    """The inputs, some at a time: which, their constants and products. low and dz/dx are theirs, others serve all."""
    _, inputs = _tile(x)
    kind = _Flat if x.shape[0] >= COPY_FROM else _Planes
    for i in range(0, x.shape[1], inputs):
        of = slice(i, i + inputs)
        yield of, (*(t[of] for t in constants[:2]), *constants[2:]), kind(theta[of], None if grad is None else grad[of])
