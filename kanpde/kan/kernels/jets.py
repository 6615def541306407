r"""The jet of a KAN layer with a basis linear in its weights, forward and backward, piece by piece along the inputs.

With the features b of the inputs and their derivatives, the weights theta and A_io = phi'_io(x_i), for any row vectors
r (directions, lap, tangents), curvatures q and the Gram matrix G of the inputs:

.. math:: y = b\,\theta, \qquad r' = r A \ \ (A = b' \theta), \qquad c = (b'' \circ q)\,\theta, \qquad G' = A^T G A

The inputs alone are saved. The backward pass computes b, b', b'' and A of each piece again and then, a bar marking the
gradient of what it stands on,

.. math:: \bar A = r^T \bar r' + G A (\bar G' + \bar G'^T), \qquad
          \bar\theta = b^T \bar y + (b'' \circ q)^T \bar c + b'^T \bar A

so nothing of the size N x in x out is alive but that of one piece. Where r is one row, r' is the product (b' r) theta.

The gradient of a residual by x is differentiated again by theta. Let a dot mark the derivative along the gradients of
what the pass by x gave: the gradients of <bar, dot of what comes out> are closed as well. In them b' x_dot, b'' x_dot
and b^(3) x_dot stand where b, b' and b'' stood, A_dot = (b'' x_dot) theta, and

.. math:: \dot G' = \dot A^T G A + A^T \dot G A + A^T G \dot A, \qquad
          \bar\theta = (b' \dot x)^T \bar y + \dots + b'^T (G \dot A + \dot G A)(\bar G' + \bar G'^T)
          + (b'' \dot x)^T G A (\bar G' + \bar G'^T)

Features and gradients of A are kept from the pass by x for that, unless they are too many (`is_large`).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from kanpde.jets.gram import Part
from kanpde.jets.pieces import add, recomputed
from kanpde.jets.tracing import apart, asked_for, differentiated_once, in_torch_func, plainly, recorded, uncompiled
from kanpde.kan.basis.base import Derivatives, LinearBasis, closed
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


class Piece:
    """Some inputs of a layer, with the features, weights and slopes there: each computed when it is first read."""

    def __init__(self, layer: "Layer", inputs: Inputs, constants: tuple, weights: tuple):
        self.layer, self.inputs, self.constants, self.weights = layer, inputs, constants, weights
        self._features: Derivatives = ()
        self._theta: Tensor | None = None
        self._slopes: Tensor | None = None

    def anew(self) -> "Piece":
        """The same, of which nothing has been computed."""
        return Piece(self.layer, self.inputs, self.constants, self.weights)

    def features(self, last: int) -> Derivatives:
        """b, b', ..., b^(last) or more, each (in, size, N)."""
        if len(self._features) <= last:
            more = closed(self.layer.features, len(self._features), last, self.inputs.x, *self.constants, axis=-2)
            self._features = *self._features, *more
        return self._features

    @property
    def theta(self) -> Tensor:
        """(in, size, out)."""
        if self._theta is None:
            self._theta = self.layer.generate(*self.weights)
        return self._theta

    @property
    def slopes(self) -> Tensor | None:
        """A (N, in, out); None: nothing reads it."""
        if self._slopes is None and _reads_slopes(self.inputs):
            self._slopes = _slopes(self.features(1)[1], self.theta)
        return self._slopes

    def drop_slopes(self) -> None:
        """They are large, and soon computed again."""
        self._slopes = None


class Pull:
    """The gradients of what comes out of a piece, and what they are multiplied to on their way back: once each."""

    def __init__(self, piece: Piece, bar: Outputs):
        self.piece, self.bar, layer, a = piece, bar, piece.layer, piece.slopes
        self.twice = None if bar.gram is None else layer.twice(bar.gram)
        self.turned = None if bar.gram is None else layer.turned(a, self.twice)
        self.of_slopes = self.slopes_from(self.turned, piece.inputs.g, piece.inputs.rows)

    def slopes_from(self, turned: Tensor | None, g: Tensor | None, rows: tuple) -> Tensor | None:
        """G A (G_bar + G_bar^T) + sum_k r_k^T r_bar_k over the rows that A takes."""
        grad = None if turned is None else self.piece.layer.weighed(g, turned).to(self.bar.value.dtype)
        for r, bar_r in zip(rows, self.bar.rows, strict=True):
            if r is not None and not is_one(r):
                grad = add(grad, r.mT * bar_r if bar_r.shape[1] == 1 else r.mT @ bar_r)  # the former is fused
        return grad


@dataclass(frozen=True)
class Layer:
    """What a piece needs beside tensors. Features are (in, size, N): points innermost is the fastest."""

    features: Callable  # f(first, last, x, *constants, axis) -> derivatives
    generate: Callable
    pullback: Callable
    wanted: Part
    is_identity: bool = False  # G is the identity
    gram_dtype: torch.dtype | None = None  # of the products with G, by default that of x

    def push(self, piece: Piece) -> Outputs:
        """One piece forward."""
        _, q, g, rows = piece.inputs
        b, theta, a = piece.features(_order(piece.inputs)), piece.theta, piece.slopes
        gram = None if g is None else _Congruence.apply(self, a, g) if differentiated_once() else self.gram(a, g)
        return _outputs(_terms(b, q, rows), theta, tuple(None if is_one(r) else r @ a for r in rows), gram)

    def pull(self, piece: Piece, bar: Outputs, need: Inputs, of_weights: bool) -> tuple[Inputs, tuple]:
        """One piece backward: the gradients of the inputs where `need` says so, and of the weights, or None."""
        return self.pulled(Pull(piece, bar), need, of_weights)

    def pulled(self, pull: Pull, need: Inputs, of_weights: bool) -> tuple[Inputs, tuple]:
        """The same, of what is multiplied already."""
        piece, bar = pull.piece, pull.bar
        _, q, g, rows = piece.inputs
        b, theta, a = piece.features(_order(piece.inputs) + need.x), piece.theta, piece.slopes
        of_terms = _of_terms(theta, bar) if need.x or need.q or any(need.rows) else []
        grad_x = None
        if need.x:
            grad_x = sum(map(_dot, _terms(b[1:], q, rows), of_terms))
            grad_x = add(grad_x, None if pull.of_slopes is None else _back(b[2], theta, pull.of_slopes))
        grads = Inputs(
            grad_x,
            _dot(b[2], of_terms[-1]).mT.sum_to_size(q.shape) if need.q else None,
            0.5 * self.grad_g(a, g, pull.turned) if need.g else None,
            _of_rows(b, a, of_terms, pull, need),
        )
        if not of_weights:
            return grads, (None,) * len(piece.weights)
        grad_theta = _of_theta(_terms(b, q, rows), bar).view(theta.shape)
        if pull.of_slopes is not None:
            grad_theta = torch.baddbmm(grad_theta, b[1], pull.of_slopes.transpose(0, 1))
        return grads, self.pullback(grad_theta, *piece.weights)

    def pull_again(self, pull: Pull, dot: Inputs, need: Inputs) -> tuple[Outputs, Inputs, tuple]:
        """`pull` by the inputs, backward: the gradients of <dot, its result> by bar, by the inputs and by the weights.

        The first are the derivative of `push` along dot, the others the gradients of <bar, that derivative>.
        """
        piece, bar = pull.piece, pull.bar
        inputs = x, q, g, rows = piece.inputs
        b, theta, a = piece.features(_order(inputs) + 1 + need.x), piece.theta, piece.slopes
        dx = torch.zeros_like(x) if dot.x is None else dot.x
        moved = [f * dx.unsqueeze(1) for f in b[1:]]  # the derivatives of b, b', ... along dot
        da = None if a is None else _slopes(moved[1], theta)
        pairs = list(zip(rows, dot.rows, strict=True))
        many = tuple(None if is_one(r) else r @ da if dr is None else r @ da + dr @ a for r, dr in pairs)
        terms = _moved_terms(b, moved, inputs, dot)
        along = _outputs(terms, theta, many, None if g is None else self._gram_along(a, da, g, dot.g))

        grad_theta = _of_theta(terms, bar).view(theta.shape)
        of_terms = _of_terms(theta, bar) if need.x or need.q or any(need.rows) else []
        grad_x = sum(map(_dot, _moved_terms(b[1:], moved[1:], inputs, dot), of_terms)) if need.x else None
        turned = None if g is None else self.turned(da, pull.twice)
        grad_a = pull.slopes_from(turned, g, dot.rows)
        if dot.g is not None:
            grad_a = add(grad_a, self.weighed(dot.g, pull.turned).to(a.dtype))
        for f, of_slopes in ((b, grad_a), (moved, pull.of_slopes)):
            if of_slopes is not None:
                grad_theta = torch.baddbmm(grad_theta, f[1], of_slopes.transpose(0, 1))
                grad_x = add(grad_x, _back(f[2], theta, of_slopes)) if need.x else None
        grads = Inputs(
            grad_x,
            _dot(moved[2], of_terms[-1]).mT.sum_to_size(q.shape) if need.q else None,
            self.grad_g(a, g, turned) if need.g else None,
            _of_rows(moved, da, of_terms, pull, need),
        )
        return along, grads, self.pullback(grad_theta, *piece.weights)

    def gram(self, a: Tensor, g: Tensor) -> Tensor:
        """A^T G A, or its diagonal."""
        left = self._for_gram(a)
        half = self.weighed(g, left)
        return (left * half).sum(1) if self.wanted == Part.DIAGONAL else (left.mT @ half).to(a.dtype)

    def _gram_along(self, a: Tensor, da: Tensor, g: Tensor, dg: Tensor | None) -> Tensor:
        """dA^T G A + A^T dG A + A^T G dA, or its diagonal."""
        left = self._for_gram(a)
        half = self.weighed(g, self._for_gram(da))
        if dg is not None:
            half = half + self.weighed(dg, left) / 2
        if self.wanted == Part.DIAGONAL:
            return 2 * (left * half).sum(1)
        product = left.mT @ half
        return (product + product.mT).to(a.dtype)

    def _for_gram(self, t: Tensor) -> Tensor:
        """In the type of the products with G."""
        return t if self.gram_dtype is None or self.wanted != Part.FULL else t.to(self.gram_dtype)

    def weighed(self, g: Tensor, t: Tensor) -> Tensor:
        """G t of t (N, in, out)."""
        if self.is_identity:
            return t
        return t * g.unsqueeze(-1) if g.ndim == 2 else g.to(t.dtype) @ t

    def twice(self, bar: Tensor) -> Tensor:
        """G_bar + G_bar^T, or its diagonal."""
        return 2 * bar if self.wanted == Part.DIAGONAL else bar + bar.mT

    def turned(self, a: Tensor, twice: Tensor) -> Tensor:
        """A (G_bar + G_bar^T)."""
        return a * twice.unsqueeze(1) if self.wanted == Part.DIAGONAL else self._for_gram(a) @ self._for_gram(twice)

    def grad_g(self, a: Tensor, g: Tensor, turned: Tensor) -> Tensor:
        """turned A^T, or its diagonal."""
        turned = turned.to(a.dtype)
        return (turned @ a.mT if g.ndim == 3 else (turned * a).sum(-1)).sum_to_size(g.shape)


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
        layer = ctx.layer
        turned = layer.turned(a, layer.twice(grad))
        of_g = 0.5 * layer.grad_g(a, g, turned) if ctx.needs_input_grad[2] else None
        return None, layer.weighed(g, turned).to(a.dtype), of_g


class Compiled:
    """A layer whose pieces torch.compile has fused, once for each shape."""

    def __init__(self, layer: Layer):
        self.layer, self.contents = layer, contents(layer)

    def push(self, piece: Piece) -> Outputs:
        return self._run(Layer.push, (), piece)

    def pull(self, piece: Piece, bar: Outputs, need: Inputs, of_weights: bool) -> tuple[Inputs, tuple]:
        return self._run(Layer.pull, (need, of_weights), piece, bar)

    def _run(self, method: Callable, settings: tuple, piece: Piece, *bars):
        given, x = (piece.inputs, piece.constants, piece.weights), piece.inputs.x
        key = method, settings, self.contents, x.dtype, x.device, _shapes((*given, *bars))
        if key not in _COMPILED:
            layer = self.layer
            run = lambda given, bars: method(layer, Piece(layer, *given), *bars, *settings)
            _COMPILED[key] = torch.compile(apart(run, f"piece_{len(_COMPILED)}"), dynamic=False, fullgraph=True)
        return _COMPILED[key](given, bars)


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


def is_one(rows: Tensor) -> bool:
    """Whether a point has one row: b' r is then a term, which costs less than r A, unless a compiler fuses that."""
    return rows.shape[1] == 1 and not recorded()


def _reads_slopes(inputs: Inputs) -> bool:
    """Whether A is needed."""
    return inputs.g is not None or not all(map(is_one, inputs.rows))


def _terms(b: Sequence, q: Tensor | None, rows: Sequence) -> list[Tensor]:
    """What theta is multiplied by: b, b' r for each row that is one, b'' q. From b', b'', ... their derivatives."""
    each = [b[1] * _each(r.squeeze(1)) for r in rows if is_one(r)]
    return [b[0], *each, *([] if q is None else [b[2] * _each(q)])]


def _moved_terms(b: Sequence, moved: Sequence, inputs: Inputs, dot: Inputs) -> list[Tensor]:
    """The derivatives of the terms along dot."""
    found = _terms(moved, inputs.q, inputs.rows)
    singles = [dr for r, dr in zip(inputs.rows, dot.rows, strict=True) if is_one(r)]
    for k, dr in enumerate(singles, 1):
        if dr is not None:
            found[k] = found[k] + b[1] * _each(dr.squeeze(1))
    if dot.q is not None:
        found[-1] = found[-1] + b[2] * _each(dot.q)
    return found


def _outputs(terms: list[Tensor], theta: Tensor, many: tuple, gram: Tensor | None) -> Outputs:
    """The products of the terms with theta, among them the rows that are `many`."""
    value, *others = (_matrix(t).mT @ _matrix(theta) for t in terms)
    singles = iter(others)
    rows = tuple(next(singles).unsqueeze(1) if r is None else r for r in many)
    return Outputs(value, rows, next(singles, None), gram)


def _bars(bar: Outputs) -> list[Tensor]:
    """The gradients of the products of the terms."""
    singles = [r.squeeze(1) for r in bar.rows if is_one(r)]
    return [bar.value, *singles, *([] if bar.bend is None else [bar.bend])]


def _of_theta(terms: list[Tensor], bar: Outputs) -> Tensor:
    """That of theta, (in size, out)."""
    (first, *others) = zip(terms, _bars(bar), strict=True)
    grad = _matrix(first[0]) @ first[1]
    for term, bar_t in others:
        grad = torch.addmm(grad, _matrix(term), bar_t)
    return grad


def _of_terms(theta: Tensor, bar: Outputs) -> list[Tensor]:
    """Those of the terms, each (in, size, N)."""
    return [(_matrix(theta) @ bar_t.mT).unflatten(0, theta.shape[:2]) for bar_t in _bars(bar)]


def _of_rows(b: Sequence, a: Tensor | None, of_terms: list[Tensor], pull: Pull, need: Inputs) -> tuple:
    """Those of the rows, where they are needed."""
    singles, found = iter(of_terms[1:]), []
    for r, bar_r, needed in zip(pull.piece.inputs.rows, pull.bar.rows, need.rows, strict=True):
        of_term = next(singles, None) if is_one(r) else None
        if needed:
            grad = bar_r @ a.mT if of_term is None else _dot(b[1], of_term).mT.unsqueeze(1)
            found.append(grad.sum_to_size(r.shape))
        else:
            found.append(None)
    return tuple(found)


def _back(b: Tensor, theta: Tensor, of_slopes: Tensor) -> Tensor:
    """sum_co b_ic theta_ico A_bar_io, (in, N)."""
    return _dot(b, theta @ of_slopes.permute(1, 2, 0))


def _dot(b: Tensor, c: Tensor) -> Tensor:
    """(in, size, N) and the same -> (in, N)."""
    return (b * c).sum(1)


def _slopes(first: Tensor, theta: Tensor) -> Tensor:
    """A (N, in, out)."""
    return (first.mT @ theta).transpose(0, 1)


def push(layer: Layer, basis: LinearBasis, inputs: Inputs, recipe: Recipe, chunk: int) -> Outputs:
    """The whole layer, `chunk` inputs at a time."""
    if not recorded():
        return _stream(layer, basis, inputs, recipe, chunk)
    if chunk >= inputs.x.shape[-1]:  # the compiler saves and recomputes by itself
        inputs = inputs._replace(x=_laid_out(inputs.x.mT))
        return layer.push(Piece(layer, inputs, basis.constants(slice(None), -2), (*recipe.pieces, *recipe.shared)))
    return _stream_uncompiled(layer, basis, inputs, recipe, chunk)


def _laid_out(x: Tensor) -> Tensor:
    """x, contiguous, in memory: torch.compile would transpose it again for every function that reads it."""
    x = x.contiguous()
    return x.as_strided(x.shape, x.stride())


def _stream(layer: Layer | Compiled, basis: LinearBasis, inputs: Inputs, recipe: Recipe, chunk: int) -> Outputs:
    stream = _Stream(layer, basis, len(inputs.rows), len(recipe.pieces), inputs.x.shape[-1], chunk)
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
    inputs: int
    chunk: int

    def cut(self, tensors: tuple) -> Iterator[Piece]:
        """One piece after the other."""
        rows, pieces, shared = self._sorted(tensors)
        per_input, common = self._constants()
        for of, inputs in self.cut_inputs((*tensors[:3], *rows)):
            constants, weights = (*(t[of] for t in per_input), *common), (*(t[of] for t in pieces), *shared)
            yield Piece(self.layer, inputs, constants, weights)

    def cut_inputs(self, tensors: tuple) -> Iterator[tuple[slice, Inputs]]:
        """x, q, g and rows, or what is of their shapes, of one piece after the other."""
        x, q, g, *rows = tensors
        for i in range(0, self.inputs, self.chunk):
            of = slice(i, i + self.chunk)
            part = lambda t, of=of: None if t is None else t if t.ndim == 3 and t is g else t[..., of]
            yield of, Inputs(None if x is None else part(x).mT.contiguous(), part(q), part(g), tuple(map(part, rows)))

    def _constants(self) -> tuple[tuple, tuple]:
        """Those of each input, the first two, and those of all."""
        constants = self.basis.constants(slice(None), -2)
        return constants[:2], constants[2:]

    @staticmethod
    def of_inputs(t: tuple) -> Inputs:
        return Inputs(*t[:3], tuple(t[3:]))

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
            total = _added(total, _flat(stream.layer.push(piece)))
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.stream, *tensors = inputs
        ctx.kept = []
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *bars):
        stream, needs = ctx.stream, asked_for(ctx)[1:]
        outs = 3 + stream.rows
        needs, of_weights = needs[:outs], needs[outs:]
        bar, need, recorded_again = stream.outputs(bars), stream.of_inputs(needs), torch.is_grad_enabled()
        large = recorded_again and stream.is_large(ctx.saved_tensors[0])
        if recorded_again and not in_torch_func() and not large and not any(of_weights):
            ctx.kept = []
            grads = _Pulled.apply(stream, ctx.kept, needs, *bars, *ctx.saved_tensors)
            return None, *grads, *[None] * len(of_weights)
        known = [] if recorded_again else ctx.kept
        along, summed = [], None
        pull = lambda piece: stream.layer.pull(piece, bar, need, any(of_weights))
        for piece in known or stream.cut(ctx.saved_tensors):
            inputs, weights = recomputed(lambda piece=piece: pull(piece.anew())) if large else pull(piece)
            along.append((*_flat_inputs(inputs), *weights[: stream.pieces]))
            summed = _added(summed, weights[stream.pieces :])
        ctx.kept = []
        return None, *_joined(along, outs), *summed


class _Pulled(torch.autograd.Function):
    """The gradients of `_Streamed` by its inputs, with a backward pass in closed form, which is differentiable itself.

    What it computes of the pieces it keeps for that and for the second backward pass of `_Streamed`.
    """

    @staticmethod
    def forward(ctx, stream, kept, needs, *tensors):
        ctx.stream = stream
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        outs = 3 + stream.rows
        bar, need = stream.outputs(tensors[:outs]), stream.of_inputs(needs)
        kept += stream.cut(tensors[outs:])
        ctx.pulls = [Pull(piece, bar) for piece in kept]
        grads = [stream.layer.pulled(pull, need, of_weights=False)[0] for pull in ctx.pulls]
        for piece in kept:
            piece.drop_slopes()
        return tuple(_joined(list(map(_flat_inputs, grads)), outs))

    @staticmethod
    def backward(ctx, *dots):
        stream, outs = ctx.stream, 3 + ctx.stream.rows
        bars, tensors = ctx.saved_tensors[:outs], ctx.saved_tensors[outs:]
        bar, need = stream.outputs(bars), stream.of_inputs(asked_for(ctx)[3 + outs : 3 + 2 * outs])
        pushed, summed, along = None, None, []
        known = [] if torch.is_grad_enabled() else ctx.pulls
        pulls = _taken(known) if known else (Pull(piece, bar) for piece in stream.cut(tensors))
        for pull, (_, dot) in zip(pulls, stream.cut_inputs(dots), strict=True):
            out, inputs, weights = stream.layer.pull_again(pull, dot, need)
            pushed, summed = _added(pushed, _flat(out)), _added(summed, weights[stream.pieces :])
            along.append((*_flat_inputs(inputs), *weights[: stream.pieces]))
        return None, None, None, *pushed, *_joined(along, outs), *summed


def _taken(pulls: list[Pull]) -> Iterator[Pull]:
    """One after the other, none of which stays."""
    while pulls:
        yield pulls.pop(0)


def _flat(out: Outputs) -> tuple:
    return out.value, *out.rows, out.bend, out.gram


def _flat_inputs(inputs: Inputs) -> tuple:
    return None if inputs.x is None else inputs.x.mT, *inputs[1:3], *inputs.rows


def _added(total: tuple | None, more: tuple) -> tuple:
    return more if total is None else tuple(map(add, total, more))


def _joined(pieces: list[tuple], outs: int) -> list[Tensor | None]:
    """The gradients of x, q, g, rows joined along the last axis, of the pieces of the weights along the first."""
    join = lambda parts, dim: parts[0] if parts[0] is None or len(parts) == 1 else torch.cat(parts, dim)
    return [join(parts, -1 if k < outs else 0) for k, parts in enumerate(zip(*pieces, strict=True))]
