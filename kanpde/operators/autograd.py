"""The oracle: nested automatic differentiation of any function, d second derivatives one by one."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanpde.jets.ansatz import Ansatz
from kanpde.jets.differentiable import check_differentiable
from kanpde.jets.jet import Jet
from kanpde.jets.names import Index
from kanpde.jets.nested import nested
from kanpde.jets.taylor import along
from kanpde.operators.base import Operator


@dataclass(frozen=True)
class Autograd(Operator):
    """Exact, for any differentiable u: one reverse pass for the gradient, one more for each second derivative.

    Cost and memory of a training step grow with d times the cost of u; meant as the oracle and for modules without a
    jet rule.

    Args:
        chunk: second derivatives taken at once by a batched reverse pass (None: one by one).

    Example:
        >>> Autograd()(lambda x: (x**3).sum(1), torch.tensor([[1.0, 2.0]])).lap.item()  # 6 x_1 + 6 x_2
        18.0
    """

    chunk: int | None = None
    exact = True

    def __post_init__(self):
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"Autograd needs chunk >= 1 (or none), given {self.chunk}")

    def nests(self, net: nn.Module) -> bool:
        return True

    def derivatives(self, u: Ansatz, x: Tensor, indices: tuple[Index, ...]) -> tuple[Tensor, dict[Index, Tensor]]:
        check_nested(u, x)
        found = nested(u, x, ((), *indices))
        return found.pop(()), found

    def diffusion(self, u: Ansatz, x: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        check_nested(u, x)
        found = along(u, x, factors, (factors.shape[1],) * 2)
        return found.value.squeeze(-1), found.terms[1].sum((1, 2))

    def estimate(
        self,
        u: Callable[[Tensor], Tensor],
        x: Tensor,
        s: Tensor | None,
        directions: Tensor | None,
        generator: torch.Generator | None,
    ) -> Jet:
        """Raises NotDifferentiable where u has a backward pass that torch differentiates wrongly without saying so."""
        check_nested(u, x)
        reads_grad_sq = u.problem.reads.grad_sq if isinstance(u, Ansatz) else True
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            value = scalar_value(u, x)
            (grad,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            jet = Jet(
                value,
                None if directions is None else (directions @ grad.unsqueeze(-1)).squeeze(-1),
                None if s is None or not reads_grad_sq else (s * grad.square()).sum(-1),
                None if s is None else (s * self._hessian_diagonal(grad, x, s)).sum(-1),
            )
        return jet if keep else jet.map(Tensor.detach)

    def _hessian_diagonal(self, grad: Tensor, x: Tensor, s: Tensor) -> Tensor:
        """d^2 u / dx_i^2 (N, d), zero where s is."""
        used = torch.ones_like(s, dtype=torch.bool) if s.requires_grad else s.ne(0)
        needed = used.any(0).nonzero().squeeze(-1).tolist()
        columns = [x.new_zeros(len(x))] * x.shape[-1]
        if not grad.requires_grad:
            return torch.stack(columns, 1)
        for block in _blocks(needed, self.chunk or 1):
            index = torch.tensor(block, device=x.device)
            if self.chunk is None:
                (second,) = torch.autograd.grad(grad[:, index[0]].sum(), x, create_graph=True, allow_unused=True)
                second = None if second is None else second.unsqueeze(0)
            else:
                rows = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)[index].unsqueeze(1).expand(-1, len(x), -1)
                (second,) = torch.autograd.grad(
                    grad, x, rows, create_graph=True, is_grads_batched=True, allow_unused=True
                )
            if second is None:  # affine in x
                continue
            for i, row in zip(block, second, strict=True):
                columns[i] = row[:, i]
        return torch.stack(columns, 1)


def _blocks(items: list[int], size: int) -> list[list[int]]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def check_nested(u, x: Tensor) -> None:
    """`check_differentiable` of a function or an ansatz, which says what of it is wrong."""
    parts = {}
    if isinstance(u, Ansatz) and u.hard:
        parts["the factor of the problem"] = lambda x: u.problem.factor(x).value
        parts["the lift of the problem"] = lambda x: u.problem.lift(x).value
    check_differentiable(u, x, parts)


def scalar_value(u, x: Tensor) -> Tensor:
    """u(x) as (N,), for functions that return (N,) or (N, 1).

    Raises:
        ValueError: u has more than one output.
    """
    value = u(x)
    if value.ndim == 2 and value.shape[-1] == 1:
        value = value.squeeze(-1)
    if value.ndim != 1:
        raise ValueError(f"nested differentiation needs one output per point, given shape {tuple(value.shape)}")
    return value
