r"""The jet of a KAN layer with a basis linear in its weights, forward and backward, piece by piece along the inputs.

With the features b of the inputs and their derivatives, the weights theta and A_io = phi'_io(x_i), for any row vectors
r (directions, lap, tangents), curvatures q and the Gram matrix G of the inputs:

.. math:: y = b\,\theta, \qquad r' = r A \ \ (A = b' \theta), \qquad c = (b'' \circ q)\,\theta, \qquad G' = A^T G A

The inputs alone are saved. The backward pass computes b, b', b'' and A of each piece again and then, a bar marking the
gradient of what it stands on,

.. math:: \bar A = r^T \bar r' + G A (\bar G' + \bar G'^T), \qquad
          \bar\theta = b^T \bar y + (b'' \circ q)^T \bar c + b'^T \bar A

so nothing of the size N x in x out is alive but that of one piece.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kanpde.jets.gram import Part
from kanpde.jets.pieces import add, recomputed
from kanpde.jets.tracing import apart, differentiated_once, plainly, recorded, uncompiled
from kanpde.kan.basis.base import LinearBasis, closed
from kanpde.kan.weights import Recipe

KEEP_BYTES = 2**28  # of the features of a layer whose backward pass is differentiated: above it, again piece by piece


def is_large(features: int) -> bool:
    """Whether features of so many bytes are too much to keep for a backward pass that is differentiated."""
    return features > KEEP_BYTES


class Inputs(NamedTuple):
    """What goes into a layer or a piece of it, (1 or N, ...) but for x; or its gradients; or which are needed."""

    x: Tensor  # (in, N): points innermost
    q: Tensor | None  # (in)       curvatures
    g: Tensor | None  # (in), a diagonal, or (in, in)
    rows: tuple[Tensor, ...]  # each (m, in)


class Outputs(NamedTuple):
    """What comes out of it, summed over the inputs; or the gradients of that."""

    value: Tensor  # (N, out)
    rows: tuple[Tensor, ...]  # each (N, m, out)
    bend: Tensor | None  # (N, out)
    gram: Tensor | None  # (N, out, out), or its diagonal


@dataclass(frozen=True)
class Layer:
    """What a piece needs beside tensors. Features are (in, size, N): points innermost is the fastest."""

    features: Callable  # f(first, last, x, *constants, axis) -> derivatives
    generate: Callable
    pullback: Callable
    wanted: Part
    is_identity: bool = False  # G is the identity
    gram_dtype: torch.dtype | None = None  # of the products with G, by default that of x

    def push(self, inputs: Inputs, constants: tuple, weights: tuple) -> Outputs:
        """One piece forward; `constants` are those of the basis."""
        x, q, g, rows = inputs
        order = _order(inputs)
        b = closed(self.features, 0, order, x, *constants, axis=-2)
        theta = self.generate(*weights)
        a = None if order == 0 else _slopes(b[1], theta)
        return Outputs(
            value=_matrix(b[0]).mT @ _matrix(theta),
            rows=tuple(r @ a for r in rows),
            bend=None if q is None else _matrix(b[2] * _each(q)).mT @ _matrix(theta),
            gram=None if g is None else _Congruence.apply(self, a, g) if differentiated_once() else self.gram(a, g),
        )

    def pull(self, inputs: Inputs, constants: tuple, weights: tuple, bar: Outputs, need: Inputs) -> tuple:
        """One piece backward: the gradients of the inputs where `need` says so, and of the weights."""
        x, q, g, rows = inputs
        order = _order(inputs)
        b = closed(self.features, 0, order + need.x, x, *constants, axis=-2)
        theta = self.generate(*weights)
        a = None if order == 0 else _slopes(b[1], theta)
        grad_a = self.grad_a(a, g, rows, bar)
        grad_theta = _matrix(b[0]) @ bar.value
        if q is not None:
            grad_theta = torch.addmm(grad_theta, _matrix(b[2] * _each(q)), bar.bend)
        grad_theta = grad_theta.reshape(theta.shape)
        if grad_a is not None:
            grad_theta = torch.baddbmm(grad_theta, b[1], grad_a.transpose(0, 1))
        grads = Inputs(
            self._grad_x(b, theta, q, bar, grad_a) if need.x else None,
            (b[2] * (theta @ bar.bend.mT)).sum(1).mT.sum_to_size(q.shape) if need.q else None,
            self.grad_g(a, g, bar.gram) if need.g else None,
            tuple(
                (bar_r @ a.mT).sum_to_size(r.shape) if needed else None
                for r, bar_r, needed in zip(rows, bar.rows, need.rows, strict=True)
            ),
        )
        return grads, self.pullback(grad_theta, *weights)

    def gram(self, a: Tensor, g: Tensor) -> Tensor:
        """A^T G A, or its diagonal."""
        left, half = self._halves(a, g)
        return (left * half).sum(1) if self.wanted == Part.DIAGONAL else (left.mT @ half).to(a.dtype)

    def _halves(self, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """A and G A."""
        if self.gram_dtype is not None and self.wanted == Part.FULL:
            a, g = a.to(self.gram_dtype), g.to(self.gram_dtype)
        return a, a if self.is_identity else a * g.unsqueeze(-1) if g.ndim == 2 else g @ a

    def grad_a(self, a: Tensor | None, g: Tensor | None, rows: tuple, bar: Outputs) -> Tensor | None:
        """G A (G_bar + G_bar^T) + sum_k r_k^T r_bar_k."""
        grad = None
        if g is not None:
            _, half = self._halves(a, g)
            if self.wanted == Part.DIAGONAL:
                grad = half * (2 * bar.gram).unsqueeze(1)
            else:
                grad = (half @ (bar.gram + bar.gram.mT).to(half.dtype)).to(a.dtype)
        for r, bar_r in zip(rows, bar.rows, strict=True):
            grad = add(grad, r.mT * bar_r if bar_r.shape[1] == 1 else r.mT @ bar_r)  # a compiler fuses the former
        return grad

    def grad_g(self, a: Tensor, g: Tensor, bar: Tensor) -> Tensor:
        right = a * bar.unsqueeze(1) if self.wanted == Part.DIAGONAL else a @ bar
        return (right @ a.mT if g.ndim == 3 else (right * a).sum(-1)).sum_to_size(g.shape)

    def _grad_x(self, b: tuple, theta: Tensor, q: Tensor | None, bar: Outputs, grad_a: Tensor | None) -> Tensor:
        """b' . (theta y_bar) + b'' . (theta A_bar) + q b^(3) . (theta c_bar)."""
        grad = (b[1] * (theta @ bar.value.mT)).sum(1)
        if grad_a is not None:
            grad = grad + (b[2] * (grad_a.transpose(0, 1) @ theta.mT).mT).sum(1)
        if q is not None:
            grad = grad + q.mT * (b[3] * (theta @ bar.bend.mT)).sum(1)
        return grad


class _Congruence(torch.autograd.Function):
    """A^T G A of a symmetric G for the compiler, which would take twice the products of its gradient by itself."""

    @staticmethod
    def forward(layer, a, g):
        return layer.gram(a, g)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.layer, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        a, g = ctx.saved_tensors
        of_a = ctx.layer.grad_a(a, g, (), Outputs(None, (), None, grad))
        return None, of_a, ctx.layer.grad_g(a, g, grad) if ctx.needs_input_grad[2] else None


class Compiled:
    """A layer whose pieces torch.compile has fused, once for each shape."""

    def __init__(self, layer: Layer):
        self.layer, self.contents = layer, contents(layer)

    def push(self, inputs: Inputs, constants: tuple, weights: tuple) -> Outputs:
        return self._run(Layer.push, (), inputs, constants, weights)

    def pull(self, inputs: Inputs, constants: tuple, weights: tuple, bar: Outputs, need: Inputs) -> tuple:
        return self._run(Layer.pull, (need,), inputs, constants, weights, bar)

    def _run(self, method: Callable, settings: tuple, *given):
        x = given[0].x
        key = method, settings, self.contents, x.dtype, x.device, _shapes(given)
        if key not in _COMPILED:
            layer = self.layer
            piece = apart(lambda *given: method(layer, *given, *settings), f"piece_{len(_COMPILED)}")
            _COMPILED[key] = torch.compile(piece, dynamic=False, fullgraph=True)
        return _COMPILED[key](*given)


_COMPILED: dict[tuple, Callable] = {}


def _shapes(given):
    return tuple(map(_shapes, given)) if isinstance(given, tuple) else None if given is None else given.shape


def contents(thing):
    """What tells functions and layers apart, in terms that can be compared: functions, and the settings of partials."""
    if isinstance(thing, partial):
        settings = tuple((name, str(value)) for name, value in sorted(thing.keywords.items()))
        return contents(thing.func), tuple(map(contents, thing.args)), settings
    if isinstance(thing, Layer):
        return tuple(map(contents, vars(thing).values()))
    return thing


def _order(inputs: Inputs) -> int:
    """The derivatives of the features that are needed forward."""
    return 2 if inputs.q is not None else int(bool(inputs.rows) or inputs.g is not None)


def _matrix(t: Tensor) -> Tensor:
    """(in, size, n) -> (in size, n): all inputs meet in one product."""
    return t.reshape(t.shape[0] * t.shape[1], t.shape[2])


def _each(q: Tensor) -> Tensor:
    """(n, in) -> (in, 1, n), for all functions of an input."""
    return q.mT.unsqueeze(1)


def _slopes(first: Tensor, theta: Tensor) -> Tensor:
    """A (N, in, out)."""
    return (first.mT @ theta).transpose(0, 1)


def push(layer: Layer, basis: LinearBasis, inputs: Inputs, recipe: Recipe, chunk: int) -> Outputs:
    """The whole layer, `chunk` inputs at a time."""
    if not recorded():
        return _stream(layer, basis, inputs, recipe, chunk)
    if chunk >= inputs.x.shape[-1]:  # the compiler saves and recomputes by itself
        inputs = inputs._replace(x=_laid_out(inputs.x.mT))
        return layer.push(inputs, basis.constants(slice(None), -2), (*recipe.pieces, *recipe.shared))
    return _stream_uncompiled(layer, basis, inputs, recipe, chunk)


def _laid_out(x: Tensor) -> Tensor:
    """x, contiguous, in memory: torch.compile would transpose it again for every function that reads it."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def _stream(layer: Layer | Compiled, basis: LinearBasis, inputs: Inputs, recipe: Recipe, chunk: int) -> Outputs:
    stream = _Stream(layer, basis, len(inputs.rows), len(recipe.pieces), chunk)
    run = _Streamed.forward if plainly() else _Streamed.apply
    return stream.outputs(run(stream, *inputs[:3], *inputs.rows, *recipe.pieces, *recipe.shared))


@uncompiled
def _stream_uncompiled(layer: Layer, basis: LinearBasis, inputs: Inputs, recipe: Recipe, chunk: int) -> Outputs:
    """Within a compiled step: the loop over the pieces is not unrolled, each piece is compiled by itself."""
    return _stream(Compiled(layer), basis, inputs, recipe, chunk)


@dataclass(frozen=True)
class _Stream:
    """The pieces of a layer, and the order of its tensors: x, q, g, rows, and pieces and shared ones of the weights."""

    layer: Layer | Compiled
    basis: LinearBasis
    rows: int
    pieces: int
    chunk: int

    def cut(self, tensors: tuple) -> Iterator[tuple[Inputs, tuple, tuple]]:
        """Inputs, constants and weights of one piece after the other."""
        x, q, g = tensors[:3]
        rows, pieces, shared = self._sorted(tensors)
        per_input, common = self._constants()
        for i in range(0, x.shape[-1], self.chunk):
            of = slice(i, i + self.chunk)
            part = lambda t, of=of: None if t is None else t if t.ndim == 3 and t is g else t[..., of]
            inputs = Inputs(part(x).mT.contiguous(), part(q), part(g), tuple(map(part, rows)))
            yield inputs, (*(t[of] for t in per_input), *common), (*(t[of] for t in pieces), *shared)

    def _constants(self) -> tuple[tuple, tuple]:
        """Those of each input, the first two, and those of all."""
        constants = self.basis.constants(slice(None), -2)
        return constants[:2], constants[2:]

    def is_large(self, x: Tensor) -> bool:
        """Whether all pieces of a backward pass that is differentiated itself are too much to keep."""
        return self.chunk < x.shape[-1] and is_large(x.numel() * self.basis.footprint(0, 4) * x.element_size())

    def _sorted(self, tensors: tuple) -> tuple[tuple, tuple, tuple]:
        """Rows, pieces and shared tensors."""
        rows = 3 + self.rows
        return tensors[3:rows], tensors[rows : rows + self.pieces], tensors[rows + self.pieces :]

    def outputs(self, flat: tuple) -> Outputs:
        """`Outputs` from a tuple without what there is not."""
        flat = list(flat)
        value, rows, rest = flat[0], tuple(flat[1 : 1 + self.rows]), flat[1 + self.rows :]
        return Outputs(value, rows, *rest)


class _Streamed(torch.autograd.Function):
    """Sums over the pieces. Saves what it is given; the backward is differentiable itself."""

    generate_vmap_rule = True

    @staticmethod
    def forward(stream, *tensors):
        total = None
        for piece in stream.cut(tensors):
            out = stream.layer.push(*piece)
            flat = out.value, *out.rows, out.bend, out.gram
            total = flat if total is None else tuple(map(add, total, flat))
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.stream, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *bars):
        stream, bar, needs = ctx.stream, ctx.stream.outputs(bars), ctx.needs_input_grad[1:]
        need = Inputs(*needs[:3], needs[3 : 3 + stream.rows])
        along, shared = [], None
        pull = recomputed if torch.is_grad_enabled() and stream.is_large(ctx.saved_tensors[0]) else _directly
        for piece in stream.cut(ctx.saved_tensors):
            inputs, weights = pull(stream.layer.pull, *piece, bar, need)
            along.append((_mT(inputs.x), *inputs[1:3], *inputs.rows, *weights[: stream.pieces]))
            sums = weights[stream.pieces :]
            shared = sums if shared is None else tuple(map(add, shared, sums))
        return None, *_joined(along, stream), *shared


def _directly(function: Callable, *given):
    return function(*given)


def _mT(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.mT


def _joined(pieces: list[tuple], stream: _Stream) -> list[Tensor | None]:
    """The gradients of x, q, g, rows joined along the last axis, of the pieces of the weights along the first."""
    join = lambda parts, dim: parts[0] if parts[0] is None or len(parts) == 1 else torch.cat(parts, dim)
    of_inputs = 3 + stream.rows
    return [join(parts, -1 if k < of_inputs else 0) for k, parts in enumerate(zip(*pieces, strict=True))]
