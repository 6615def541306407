"""Nested differentiation of any function: what has no rule, and what rules are compared with."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kanpde.jets.names import Index
from kanpde.jets.tracing import in_torch_func

Function = Callable[[Tensor], Tensor]


def gradient_of(y: Tensor, x: Tensor) -> Tensor:
    """d sum(y) / dx, zero where y is constant, differentiable again."""
    if not y.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(y.sum(), x, create_graph=True, allow_unused=True, materialize_grads=True)[0]


def gradient_by_torch_func(function: Function) -> Function:
    """The gradient of sum(function) as a function, which torch.func may transform again."""
    return torch.func.grad(lambda x: function(x).sum())


def slopes(function: Function, t: Tensor, order: int) -> list[Tensor]:
    """The first ... order-th derivatives at t (M,) of a function of one number for each of M points."""
    if in_torch_func():
        each = [function]
        for _ in range(order):
            each.append(gradient_by_torch_func(each[-1]))
        return [f(t) for f in each[1:]]
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        found = [function(t)]
        for _ in range(order):
            found.append(gradient_of(found[-1], t))
    return found[1:]


def nested(function: Function, x: Tensor, indices: Iterable[Index]) -> dict[Index, Tensor]:
    """Derivatives by axes of a function (N, d) -> (N,), each (N,), one after the other; that of () is the value."""
    within = sorted({index[:k] for index in indices for k in range(1, len(index) + 1)}, key=len)
    if in_torch_func():
        each: dict[Index, Function] = {(): function}
        for index in within:
            gradient = gradient_by_torch_func(each[index[:-1]])
            each[index] = lambda x, f=gradient, i=index[-1]: f(x)[:, i]
        return {index: each[index](x) for index in indices}
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        found, gradients = {(): function(x)}, {}
        for index in within:
            below = index[:-1]
            if below not in gradients:
                gradients[below] = gradient_of(found[below], x)
            found[index] = gradients[below][:, index[-1]]
    if not torch.is_grad_enabled():
        found = {index: y.detach() for index, y in found.items()}
    return {index: found[index] for index in indices}
