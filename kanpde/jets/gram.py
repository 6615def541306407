"""The Gram matrix G = J S J^T of a jet in its forms: diagonal at the input, dense after the first mixing layer, sampled
rows for SDGD, tangents for Hutchinson. Each knows its diagonal and how it goes through a linear map of the features.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from kanpde.jets.pieces import add_up
from kanpde.jets.tracing import plainly


class Part(IntEnum):
    """How much of a Gram matrix is read later on."""

    NONE = 0
    DIAGONAL = 1
    FULL = 2


def rows_of(gram, rows: Tensor, n: int):
    """A Gram matrix of n points at some of them, by their numbers; what is the same at all of them stays as it is."""
    of_points = {name: t for name, t in vars(gram).items() if name in _OF_POINTS and t is not None and len(t) == n}
    return replace(gram, **{name: t[rows] for name, t in of_points.items()})


_OF_POINTS = ("s", "matrix", "rows")  # arrays of the forms below whose first axis is that of the points

FEW = 1.5  # inputs for each feature up to which their tangents cost less than the Gram matrix of the features


def is_few(inputs: int, features: int) -> bool:
    """Whether the tangents of so many inputs cost less than a Gram matrix of so many features."""
    return inputs <= FEW * features


def numbers_of(inputs: int, features: int) -> int:
    """Numbers of either, whichever is taken, at a point."""
    return features * (inputs if is_few(inputs, features) else features)


class _SymmetricProduct(torch.autograd.Function):
    """G = A^T diag(s) A per point; its backward needs one product, s A (Gbar + Gbar^T), instead of two."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, s):
        return a.mT @ (a * s.unsqueeze(-1))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        a, s = ctx.saved_tensors
        product = a @ (grad + grad.mT)
        grad_s = (0.5 * product * a).sum(-1).sum_to_size(s.shape) if ctx.needs_input_grad[1] else None
        return product * s.unsqueeze(-1), grad_s


@dataclass(frozen=True)
class Diagonal:
    """S itself, s (1 or N, d): the Gram matrix of the inputs, and of any elementwise function of them."""

    s: Tensor

    def diagonal(self) -> Tensor:
        return self.s

    def split(self, chunk: int) -> list["Diagonal"]:
        return [Diagonal(piece) for piece in self.s.split(chunk, -1)]

    def through(self, a: Tensor) -> "Dense":
        product = _SymmetricProduct.forward if plainly() else _SymmetricProduct.apply
        return Dense(product(a, self.s))

    def is_few(self, features: int) -> bool:
        """Whether the tangents of all inputs cost less than a Gram matrix of so many features."""
        return is_few(self.s.shape[-1], features)

    def linear(self, w: Tensor, wanted: Part = Part.FULL) -> "Dense | Diagonal | Tangents":
        if wanted == Part.DIAGONAL:
            return Diagonal(self.s @ w.square())
        if self.is_few(w.shape[1]):
            return Tangents(w.unsqueeze(0), self.s)
        if self.s.shape[0] == 1:  # one W^T S W for the whole batch
            return Dense((w.mT @ (w * self.s.mT)).unsqueeze(0))
        pairs = lambda w, s: (s @ (w.unsqueeze(2) * w.unsqueeze(1)).flatten(1)).unflatten(1, (w.shape[1], w.shape[1]))
        return Dense(add_up(pairs, list(zip(w.split(256), self.s.split(256, -1), strict=True))))

    def scaled(self, a: Tensor) -> "Diagonal":
        return Diagonal(self.s * a.square())

    def dense(self) -> Tensor:
        return torch.diag_embed(self.s)


@dataclass(frozen=True)
class Dense:
    """G (1 or N, n, n), after a layer that mixes features."""

    matrix: Tensor

    def diagonal(self) -> Tensor:
        return self.matrix.diagonal(dim1=-2, dim2=-1)

    def split(self, chunk: int) -> list["Dense"]:
        return [self]  # features are coupled: the matrix goes through a layer whole

    def through(self, a: Tensor) -> "Dense":
        return Dense(a.mT @ (self.matrix @ a))

    def linear(self, w: Tensor, wanted: Part = Part.FULL) -> "Dense | Diagonal":
        half = self.matrix @ w
        return Diagonal((w * half).sum(-2)) if wanted == Part.DIAGONAL else Dense(w.mT @ half)

    def scaled(self, a: Tensor) -> "Dense":
        return Dense(a.unsqueeze(-1) * self.matrix * a.unsqueeze(-2))

    def dense(self) -> Tensor:
        return self.matrix

    def __add__(self, other: "Dense") -> "Dense":
        return Dense(self.matrix + other.matrix)


@dataclass(frozen=True)
class Sampled:
    """S restricted to the inputs `index` (B,), with s (1 or N, B): the input of SDGD."""

    s: Tensor
    index: Tensor
    dim: int

    def diagonal(self) -> Tensor:
        return self.s.new_zeros(len(self.s), self.dim).index_copy(1, self.index, self.s)

    def linear(self, w: Tensor, wanted: Part = Part.FULL) -> "Dense | Diagonal | Tangents":
        return Diagonal(self.s).linear(w[self.index], wanted)

    def through(self, a: Tensor) -> Dense:
        return Diagonal(self.s).through(a[:, self.index])

    def scaled(self, a: Tensor) -> "Sampled":
        return Sampled(self.s * a[:, self.index].square(), self.index, self.dim)

    def dense(self) -> Tensor:
        return torch.diag_embed(self.diagonal())


@dataclass(frozen=True)
class Tangents:
    """G = T^T diag(s) T with T (1 or N, V, n) = J w_k.

    The Gram matrix of V probes w_k, E[G] = J S J^T, s = 1 (None); or, w_k being the axes, J S J^T itself, which costs
    less than n x n numbers where there are fewer inputs than features.
    """

    rows: Tensor
    s: Tensor | None = None  # (1 or N, V)

    @staticmethod
    def of_axes(s: Tensor) -> "Tangents":
        """J S J^T of the inputs themselves, from s (1 or N, d)."""
        return Tangents(torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).unsqueeze(0), s)

    def _weighted(self) -> Tensor:
        return self.rows if self.s is None else self.rows * self.s.unsqueeze(-1)

    def diagonal(self) -> Tensor:
        return (self.rows * self._weighted()).sum(-2)

    def split(self, chunk: int) -> list["Tangents"]:
        return [replace(self, rows=piece) for piece in self.rows.split(chunk, -1)]

    def through(self, a: Tensor) -> "Tangents":
        return replace(self, rows=self.rows @ a)

    def linear(self, w: Tensor, wanted: Part = Part.FULL) -> "Tangents":
        return replace(self, rows=self.rows @ w)

    def scaled(self, a: Tensor) -> "Tangents":
        return replace(self, rows=self.rows * a.unsqueeze(-2))

    def dense(self) -> Tensor:
        return self.rows.mT @ self._weighted()

    def __add__(self, other: "Tangents") -> "Tangents":
        return replace(self, rows=self.rows + other.rows)
