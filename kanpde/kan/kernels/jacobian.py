r"""The Jacobian of a network of KAN layers by their parameters, a row for each point, from one reverse pass for all.

With the inputs x and the outputs z of a layer, of which those of a point do not depend on other points,

.. math:: \partial r_n / \partial\theta_{ico} = b_c(x_{ni}) \, \partial r_n / \partial z_{no}

for its weights theta; where a meta-learner generates them, its pullback takes each row to prompts and meta-learner.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct, Meta


def covers(net: nn.Module, parameters: Sequence[Tensor]) -> bool:
    """Whether the parameters are used in layers that `jacobian` knows, and nowhere else."""
    each, wanted = {"prefix": "net", "remove_duplicate": False}, set(parameters)
    used = {name: p for name, p in net.named_parameters(**each) if p in wanted}
    known = {f"{name}.": module for name, module in net.named_modules(**each) if _is_known(module)}
    weights = [layer.weights for layer in known.values()]
    elsewhere = [m.learner for m in net.modules() if isinstance(m, Meta) and m not in weights]
    if not all(wanted.isdisjoint(learner.parameters()) for learner in elsewhere):
        return False
    return wanted == set(used.values()) and all(name.startswith(tuple(known)) for name in used)


def weights_of(net: nn.Module) -> int:
    """Weights of the layers that `jacobian` knows: while it runs, it holds as many numbers for each point."""
    layers = [module for module in net.modules() if _is_known(module)]
    return sum(layer.in_features * layer.basis.size * layer.out_features for layer in layers)


def _is_known(module: nn.Module) -> bool:
    return isinstance(module, KANLinear) and module.fuses and not module.centred


def jacobian(
    net: nn.Module, x: Tensor, parameters: Sequence[Tensor], function: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """r = function(net(x)) (N,), row by row, and J = dr/dparameters (N, P), for parameters that it `covers`."""
    calls: list[tuple[KANLinear, Tensor, Tensor]] = []
    note = lambda layer, given, out: calls.append((layer, given[0].detach(), out))
    uses = lambda module: _is_known(module) and not set(parameters).isdisjoint(_parameters(module))
    trained = [module for module in net.modules() if uses(module)]
    handles = [layer.register_forward_hook(note) for layer in trained]
    try:
        with torch.enable_grad():
            r = function(net(x))
            slopes = torch.autograd.grad(r.sum(), [out for _, _, out in calls])
    finally:
        for handle in handles:
            handle.remove()
    j: dict[Tensor, Tensor | float] = dict.fromkeys(parameters, 0.0)
    made: list[tuple[Tensor, Tensor]] = []
    for (layer, seen, _), slope in zip(calls, slopes, strict=True):
        (b,) = layer.basis.features(seen, 0)
        theta, of_theta = _theta(layer), b.unsqueeze(-1) * slope[:, None, None, :]
        if not theta.is_leaf:
            made.append((theta, of_theta))
        for p, of_p in ((theta, of_theta), (layer.bias, slope)):
            if p in j:
                j[p] = j[p] + of_p.flatten(1)
    if made:
        sources = [p for p in parameters if not torch.is_tensor(j[p])]
        for p, of_p in zip(sources, _pulled(*zip(*made, strict=True), sources), strict=True):
            j[p] = of_p
    return r.detach(), torch.cat([j[p] for p in parameters], 1)


def _parameters(layer: KANLinear) -> list[Tensor]:
    """Of a layer, with those of a meta-learner that another layer registers."""
    shared = layer.weights.learner.parameters() if isinstance(layer.weights, Meta) else ()
    return [*layer.parameters(), *shared]


def _theta(layer: KANLinear) -> Tensor:
    """The weights of a layer: the parameter itself, or generated with their graph."""
    if isinstance(layer.weights, Direct):
        return layer.weights.theta
    with torch.enable_grad():
        (prompts,) = layer.weights.split(layer.in_features)
        return layer.weights.generate(prompts)


def _pulled(outputs: Sequence[Tensor], rows: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
    """The gradients by the outputs, a row each, taken to the sources they come from, (N, size of the source) each."""
    sizes = [out.numel() for out in outputs]
    if sum(sizes) < len(rows[0]):  # the Jacobian of the outputs has fewer rows
        units = torch.eye(sum(sizes), dtype=rows[0].dtype, device=rows[0].device).split(sizes, 1)
        units = [unit.reshape(-1, *out.shape) for unit, out in zip(units, outputs, strict=True)]
        joined = torch.cat([row.flatten(1) for row in rows], 1)
        return [joined @ j for j in _pulled(outputs, units, sources)]
    return [j.flatten(1) for j in torch.autograd.grad(outputs, sources, rows, is_grads_batched=True)]
