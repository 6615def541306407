"""Polynomials of second degree in many variables, with as many products of two as are there."""

import torch
from torch import Tensor, nn

from kanpde.jets.ansatz import Field, SlicedField
from kanpde.jets.slices import WHOLE, Slice, total

DENSE = 32  # with more than d^2 / DENSE products their matrix is multiplied whole


class Quadratic(nn.Module):
    r"""A polynomial p(x) with its gradient and Hessian in closed form, whose coefficients no optimiser trains.

    .. math:: p = c + \sum_i a_i y_i + \sum_i b_i y_i^2 / 2 + \sum_k v_k y_{i_k} y_{j_k}, \qquad y = (x - x_0) / h

    Args:
        dim: d.
        centre, lengths: x_0 and h, (d,) each; None: 0 and 1.
        inputs: those of this process, which are d then, of a polynomial without products; `WHOLE`: all.

    Example:
        >>> p = Quadratic(3)
        >>> p.add(torch.tensor([[0, 2]]))
        >>> p.v.fill_(5.0)
        tensor([5.])
        >>> p(torch.tensor([[1.0, 2.0, 3.0]])).value
        tensor([15.])
    """

    PARTS = ("c", "a", "b", "v")

    def __init__(
        self, dim: int, centre: Tensor | None = None, lengths: Tensor | None = None, inputs: Slice = WHOLE
    ) -> None:
        super().__init__()
        self.inputs = inputs
        zeros = {"c": 1, "a": dim, "b": dim, "v": 0}
        for name, size in zeros.items():
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("pairs", torch.zeros(0, 2, dtype=torch.long))
        self.register_buffer("centre", None if centre is None else centre.clone())
        self.register_buffer("lengths", None if lengths is None else lengths.clone())

    @property
    def coefficients(self) -> list[Tensor]:
        """c (1,), a (d,), b (d,), v (K,)."""
        return [getattr(self, name) for name in self.PARTS]

    @property
    def count(self) -> int:
        """How many coefficients are not zero, in all processes."""
        (of_inputs,) = self.inputs.sum((self.a.count_nonzero() + self.b.count_nonzero()).double())
        return int(of_inputs + self.c.count_nonzero() + self.v.count_nonzero())

    def add(self, pairs: Tensor) -> None:
        """Products of pairs i < j (K, 2) more, with coefficients 0."""
        self.pairs = torch.cat([self.pairs, pairs.to(self.pairs)])
        self.v = torch.cat([self.v, self.v.new_zeros(len(pairs))])

    def units(self, x: Tensor) -> Tensor:
        """y (N, d)."""
        return x if self.lengths is None else (x - self.centre) / self.lengths

    def forward(self, x: Tensor) -> Field:
        """p at x (N, d)."""
        y = self.units(x)
        half = self._times(y)
        (rest,) = total([y * (self.a + 0.5 * half)], self.inputs)
        value = self.c + rest
        grad, second = self.a + half, self.b.unsqueeze(0)
        if self.lengths is not None:
            grad, second = grad / self.lengths, second / self.lengths.square()
        if self.inputs is WHOLE:
            return Field(value, grad, second)
        return SlicedField(value, grad, second, self.inputs)

    def _times(self, y: Tensor) -> Tensor:
        """The Hessian times y, for each of N."""
        if len(self.v) == 0:
            return self.b * y
        i, j = self.pairs.T
        if DENSE * len(self.v) > y.shape[1] ** 2:
            return y @ self.hessian(self.b, self.v).to(y.dtype)
        return (
            (self.b * y).index_add(1, i, self.v * y.index_select(1, j)).index_add(1, j, self.v * y.index_select(1, i))
        )

    def hessian(self, b: Tensor, v: Tensor) -> Tensor:
        """The matrix (d, d) with b on its diagonal and v at the pairs."""
        i, j = self.pairs.T
        return torch.diag(b).index_put((torch.cat([i, j]), torch.cat([j, i])), torch.cat([v, v]))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *others) -> None:
        """With as many pairs as there are in it."""
        for name in ("pairs", "v"):
            if prefix + name in state_dict:
                mine = getattr(self, name)
                setattr(self, name, mine.new_zeros(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *others)
