"""A penalty on the edges of a KAN that leaves few of them: L1 of their sizes, and the entropy of the shares."""

import torch
from torch import Tensor, nn

from kanpde.kan.basis.base import LinearBasis
from kanpde.kan.layers import KANLinear

POINTS = 4  # to an interval between the knots, or to a basis function


def edge_sizes(layer: KANLinear) -> Tensor:
    """The standard deviation of each edge function over the grid of its input, (in, out)."""
    basis, weights = layer.basis, layer.weights
    t = torch.linspace(0, 1, POINTS * basis.size, dtype=basis.low.dtype, device=basis.low.device).unsqueeze(1)
    features = basis.features(basis.low + t * (basis.high - basis.low), 0)[0].transpose(0, 1)  # (in, points, size)
    theta = weights.generate(weights.pick(torch.arange(layer.in_features, device=basis.low.device)))
    centred = features - features.mean(1, keepdim=True)
    gram = centred.mT @ centred / len(t)
    return ((gram @ theta) * theta).sum(1).clamp_min(torch.finfo(t.dtype).tiny).sqrt()


def sparsity(net: nn.Module, l1: float, entropy: float) -> Tensor:
    r"""sum over the layers of l1 |a| + entropy H(a), for the sizes a_io of the edges of a layer.

    .. math:: |a| = \sum_{io} a_{io}, \qquad H(a) = -\sum_{io} p_{io} \log p_{io}, \quad p_{io} = a_{io} / |a|

    Source: Liu et al. 2024 (arXiv 2404.19756), section 2.5.1, with the deviation of an edge function over its grid in
    place of its mean size over the data, so that constants and the sample do not count.

    Raises:
        ValueError: a network without KAN layers, or with wavelets, which are not linear in their weights.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, KANLinear)]
    if not layers or not all(isinstance(layer.basis, LinearBasis) for layer in layers):
        raise ValueError("sparsity needs KAN layers with a linear basis")
    total = 0.0
    for layer in layers:
        a = edge_sizes(layer)
        p = a / a.sum()
        total = total + l1 * a.sum() - entropy * torch.special.xlogy(p, p).sum()
    return total
