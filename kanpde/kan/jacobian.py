"""The Jacobian of a network of KAN layers by their free weights, a row for each point, from one reverse pass for all.

With the inputs x and the outputs z of a layer, of which those of a point do not depend on other points,

.. math:: \\partial r_n / \\partial\\theta_{ico} = b_c(x_{ni}) \\, \\partial r_n / \\partial z_{no}
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kanpde.kan.basis.base import LinearBasis
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct


def has_free_layers(net: nn.Module, parameters: Sequence[Tensor]) -> bool:
    """Whether the parameters are the weights and biases of KAN layers that `jacobian` knows, each."""
    known: set[Tensor] = set()
    for layer in net.modules():
        if isinstance(layer, KANLinear) and _is_plain(layer):
            known |= {p for p in (layer.weights.theta, layer.bias) if p is not None}
    return known.issuperset(parameters)


def _is_plain(layer: KANLinear) -> bool:
    linear = isinstance(layer.basis, LinearBasis) and not layer.basis.has_parameters
    return linear and isinstance(layer.weights, Direct) and layer.norm is None and not layer.centred


def jacobian(
    net: nn.Module, x: Tensor, parameters: Sequence[Tensor], function: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """r = function(net(x)) (N,), row by row, and J = dr/dparameters (N, P); for parameters that `has_free_layers`."""
    calls: list[tuple[KANLinear, Tensor, Tensor]] = []
    note = lambda layer, given, out: calls.append((layer, given[0].detach(), out))
    handles = [layer.register_forward_hook(note) for layer in net.modules() if isinstance(layer, KANLinear)]
    try:
        with torch.enable_grad():
            r = function(net(x))
            slopes = torch.autograd.grad(r.sum(), [out for _, _, out in calls])
    finally:
        for handle in handles:
            handle.remove()
    j = {p: 0.0 for p in parameters}
    for (layer, seen, _), slope in zip(calls, slopes, strict=True):
        if layer.bias in j:
            j[layer.bias] = j[layer.bias] + slope
        if layer.weights.theta in j:
            (b,) = layer.basis.features(seen, 0)
            j[layer.weights.theta] = j[layer.weights.theta] + (b.unsqueeze(-1) * slope[:, None, None, :]).flatten(1)
    return r.detach(), torch.cat([j[p] for p in parameters], 1)
