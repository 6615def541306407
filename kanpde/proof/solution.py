"""A formula in the place of a network: u and its derivatives as tensors, made of a sympy expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kanpde.interpret.expression import evaluate
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Jet
from kanpde.jets.names import Index
from kanpde.jets.taylor import Taylor, along

if TYPE_CHECKING:
    import sympy


class Solution(Ansatz):
    """u(x) of a formula, and derivatives of it that sympy takes; what conditions read of an ansatz it has too.

    Args:
        problem: of one field.
        expr: in `symbols`, one for each input, and in numbers that have names.
        numbers: the values of these, tensors ().
    """

    def __init__(
        self,
        problem: Any,
        expr: sympy.Expr,
        symbols: Sequence[sympy.Symbol],
        numbers: dict[sympy.Symbol, Tensor] | None = None,
    ) -> None:
        super().__init__(problem, nn.Identity(), hard=False)
        self.expr, self.symbols, self.numbers = expr, list(symbols), numbers or {}

    @property
    def like(self) -> Tensor:
        return torch.empty(0, dtype=torch.float64)

    def _at(self, x: Tensor) -> Tensor:
        return self._values(self.expr, x)

    def _values(self, expr: sympy.Expr, x: Tensor) -> Tensor:
        values = dict(zip(self.symbols, x.unbind(1), strict=True)) | self.numbers
        return evaluate(expr, values).expand(len(x))

    def _derivative(self, x: Tensor, index: Index) -> Tensor:
        return self._values(self.expr.diff(*(self.symbols[axis] for axis in index)) if index else self.expr, x)

    def derivatives(self, x: Tensor, indices: tuple[Index, ...]) -> tuple[Tensor, dict[Index, Tensor]]:
        x = self.problem.inputs_of(x)
        return self._at(x), {index: self._derivative(x, index) for index in indices}

    def taylor(self, x: Tensor, v: Tensor, counts: tuple[int, ...]) -> Taylor:
        if len(counts) != 1:
            return along(self._at, x, v, counts)
        slopes = (v[:, : counts[0]] * self._gradient(x).unsqueeze(1)).sum(-1, keepdim=True)
        return Taylor(self._at(x).unsqueeze(1), (slopes,), counts)

    def _gradient(self, x: Tensor) -> Tensor:
        return torch.stack([self._derivative(x, (i,)) for i in range(len(self.symbols))], 1)

    def full_jet(self, x: Tensor) -> Jet:
        """The jet of what the residual of the problem reads, at points x."""
        problem, reads, x = self.problem, self.problem.reads, self.problem.inputs_of(x)
        axes, s = range(len(self.symbols)), problem.coefficients(x)
        of_slopes = problem.s_grad(x) if problem.s_grad(x) is not None else s
        second = lambda: torch.stack([self._derivative(x, (i, i)) for i in axes], 1)
        rows = lambda: torch.stack([torch.stack([self._derivative(x, (i, j)) for j in axes], 1) for i in axes], 1)
        factors = problem.diffusion(x) if reads.diffusion else None
        matrix = None if factors is None else (factors.unsqueeze(-1) * factors.unsqueeze(-2)).sum(-3)
        return Jet(
            value=self._at(x),
            along=(problem.directions(x) * self._gradient(x).unsqueeze(1)).sum(-1) if reads.along else None,
            gram=(of_slopes * self._gradient(x).square()).sum(-1) if reads.grad_sq else None,
            lap=(s * second()).sum(-1) if reads.lap else None,
            diffusion=None if matrix is None else (matrix * rows()).sum((-2, -1)),
            derivatives={index: self._derivative(x, index) for index in reads.every},
            coordinates=problem.axes,
        )
