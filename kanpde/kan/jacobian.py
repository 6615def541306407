r"""The Jacobian of a network of KAN layers by their free weights, a row for each point, from one reverse pass for all.

With the inputs x and the outputs z of a layer, of which those of a point do not depend on other points,

.. math:: \partial r_n / \partial\theta_{ico} = b_c(x_{ni}) \, \partial r_n / \partial z_{no}
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct


def has_free_layers(net: nn.Module, parameters: Sequence[Tensor]) -> bool:
    """Whether each of the parameters is a weight or a bias of a layer that `jacobian` knows."""
    return {p for layer in _free_layers(net) for p in layer.parameters()}.issuperset(parameters)


def _free_layers(net: nn.Module) -> list[KANLinear]:
    layers = [module for module in net.modules() if isinstance(module, KANLinear)]
    return [layer for layer in layers if layer.fuses and isinstance(layer.weights, Direct) and not layer.centred]


def jacobian(
    net: nn.Module, x: Tensor, parameters: Sequence[Tensor], function: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """r = function(net(x)) (N,), row by row, and J = dr/dparameters (N, P); for parameters that `has_free_layers`."""
    j: dict[Tensor, Tensor | float] = dict.fromkeys(parameters, 0.0)
    calls: list[tuple[KANLinear, Tensor, Tensor]] = []
    note = lambda layer, given, out: calls.append((layer, given[0].detach(), out))
    trained = [layer for layer in _free_layers(net) if not j.keys().isdisjoint(layer.parameters())]
    handles = [layer.register_forward_hook(note) for layer in trained]
    try:
        with torch.enable_grad():
            r = function(net(x))
            slopes = torch.autograd.grad(r.sum(), [out for _, _, out in calls])
    finally:
        for handle in handles:
            handle.remove()
    for (layer, seen, _), slope in zip(calls, slopes, strict=True):
        if layer.bias in j:
            j[layer.bias] = j[layer.bias] + slope
        if layer.weights.theta in j:
            (b,) = layer.basis.features(seen, 0)
            j[layer.weights.theta] = j[layer.weights.theta] + (b.unsqueeze(-1) * slope[:, None, None, :]).flatten(1)
    return r.detach(), torch.cat([j[p] for p in parameters], 1)
