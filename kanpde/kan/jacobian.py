r"""The Jacobian of a network of KAN layers by their parameters, a row for each point, from one reverse pass for all.

With the inputs x and the outputs z of a layer, of which those of a point do not depend on other points,

.. math:: \partial r_n / \partial\theta_{ico} = b_c(x_{ni}) \, \partial r_n / \partial z_{no}

for its weights theta; where a meta-learner generates them, its pullback takes each row to prompts and meta-learner.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from kanpde.kan.layers import KANLinear


def has_layers_of(net: nn.Module, parameters: Sequence[Tensor]) -> bool:
    """Whether each of the parameters belongs to a layer that `jacobian` knows."""
    return {p for layer in _layers(net) for p in layer.parameters()}.issuperset(parameters)


def _layers(net: nn.Module) -> list[KANLinear]:
    return [layer for layer in net.modules() if isinstance(layer, KANLinear) and layer.fuses and not layer.centred]


def jacobian(
    net: nn.Module, x: Tensor, parameters: Sequence[Tensor], function: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """r = function(net(x)) (N,), row by row, and J = dr/dparameters (N, P); for parameters that it `has_layers_of`."""
    calls: list[tuple[KANLinear, Tensor, Tensor]] = []
    note = lambda layer, given, out: calls.append((layer, given[0].detach(), out))
    trained = [layer for layer in _layers(net) if not set(parameters).isdisjoint(layer.parameters())]
    handles = [layer.register_forward_hook(note) for layer in trained]
    try:
        with torch.enable_grad():
            r = function(net(x))
            slopes = torch.autograd.grad(r.sum(), [out for _, _, out in calls])
    finally:
        for handle in handles:
            handle.remove()
    with torch.enable_grad():
        pairs = [
            pair for (layer, seen, _), slope in zip(calls, slopes, strict=True) for pair in _of(layer, seen, slope)
        ]
    outputs, rows = zip(*((out, of_out) for out, of_out in pairs if out.requires_grad), strict=True)
    return r.detach(), _pulled(outputs, rows, parameters)


def _of(layer: KANLinear, x: Tensor, slope: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Theta and the bias of a layer with the gradients of each r_n by them."""
    (b,) = layer.basis.features(x, 0)
    (pieces,) = layer.weights.split(layer.in_features)
    yield layer.weights.generate(pieces), b.unsqueeze(-1) * slope[:, None, None, :]
    if layer.bias is not None:
        yield layer.bias, slope


def _pulled(outputs: Sequence[Tensor], rows: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """The gradients of the outputs, a row each, taken to the parameters (N, P)."""
    sizes = [out.numel() for out in outputs]
    if sum(sizes) < len(rows[0]) and not all(out.is_leaf for out in outputs):  # their own Jacobian has fewer rows
        units = torch.eye(sum(sizes), dtype=rows[0].dtype, device=rows[0].device).split(sizes, 1)
        units = [unit.reshape(-1, *out.shape) for unit, out in zip(units, outputs, strict=True)]
        return torch.cat([row.flatten(1) for row in rows], 1) @ _pulled(outputs, units, parameters)
    options = {"is_grads_batched": True, "allow_unused": True, "materialize_grads": True}
    return torch.cat([of_p.flatten(1) for of_p in torch.autograd.grad(outputs, parameters, rows, **options)], 1)
