"""Generated weights that are like given ones: prompts and meta-learners fitted to the weights of a trained KAN.

A scalar prompt and a meta-learner of h hidden units draw a curve of straight pieces with h knots through the space of
edge weights. Fitting it is a principal curve: prompts by arc length along a short path through all edges, knots spread
over the path, then in turn the least-squares curve and, for each edge, the nearest point on it. Where there are no more
edges than hidden units, the curve goes through all of them, and the network is the same function.

Source: principal curves, Hastie & Stuetzle 1989.
"""

import torch
from torch import Tensor, nn

from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct, Meta, MetaLearner, MetaLowRank

ROUNDS = 100  # of curve and nearest points
SAMPLES = 8  # candidates for a nearest point, to a piece of the curve


@torch.no_grad()
def generate_like(net: nn.Module, given: nn.Module) -> float:
    """Set the generated weights of `net` as near as they can be to the free ones of `given`, which may be narrower.

    Edges that the narrower one does not have are zero functions. The grids become those of `given`.

    Returns:
        The relative l2 error of the weights.
    Raises:
        ValueError: the layers do not correspond, prompts are not scalar or are of low rank, or meta-learners have no
            biases.
    """
    pairs = list(zip(_layers(net), _layers(given), strict=False))
    if len(_layers(net)) != len(_layers(given)) or not all(_contains(a, b) for a, b in pairs):
        raise ValueError("the layers of the two networks have different bases, or those to be like are wider")
    if not all(isinstance(b.weights, Direct) and isinstance(a.weights, Meta) for a, b in pairs):
        raise ValueError("needed are generated weights, and free ones that they are to be like")
    if any(isinstance(a.weights, MetaLowRank) for a, _ in pairs):
        raise ValueError("prompts of a low rank cannot be what is asked for at each edge: leave out prompt_rank")
    error = size = 0.0
    for learner in {a.weights.learner: None for a, _ in pairs}:
        if learner.w1.shape[1] > 1 or learner.b1 is None or learner.b2 is None:
            raise ValueError("weights can be fitted by scalar prompts and meta-learners with biases")
        own = [(a.weights, _padded(b.weights.theta, a)) for a, b in pairs if a.weights.learner is learner]
        edges = torch.cat([theta.mT.flatten(0, 1) for _, theta in own]).double()
        different, which = edges.unique(dim=0, return_inverse=True)
        z = _draw_curve(learner, different)[which]
        for (w, theta), part in zip(own, z.split([theta.shape[0] * theta.shape[2] for _, theta in own]), strict=True):
            w.prompts.copy_(part.reshape(theta.shape[0], 1, theta.shape[2]))
            error += (w.generate(w.prompts) - theta).square().sum().item()
            size += theta.square().sum().item()
    for a, b in pairs:
        a.basis.low[: b.in_features], a.basis.high[: b.in_features] = b.basis.low, b.basis.high
        if a.bias is not None and b.bias is not None:
            a.bias.zero_()
            a.bias[: len(b.bias)] = b.bias
    return (error / size) ** 0.5


def _layers(net: nn.Module) -> list[KANLinear]:
    return [layer for layer in net.modules() if isinstance(layer, KANLinear)]


def _contains(a: KANLinear, b: KANLinear) -> bool:
    same = type(a.basis) is type(b.basis) and a.basis.size == b.basis.size and a.centred == b.centred
    return same and a.in_features >= b.in_features and a.out_features >= b.out_features


def _padded(theta: Tensor, layer: KANLinear) -> Tensor:
    """theta with zeros for the edges of the layer that it does not have."""
    whole = theta.new_zeros(layer.in_features, theta.shape[1], layer.out_features)
    whole[: theta.shape[0], :, : theta.shape[2]] = theta
    return whole


def _draw_curve(learner: MetaLearner, edges: Tensor) -> Tensor:
    """Fit the meta-learner to the edges (E, D) and return their prompts (E,) in [-1, 1]."""
    hidden = len(learner.w1)
    z = _arc_length(edges)
    best = torch.inf, None
    for _ in range(1 if len(edges) <= hidden else ROUNDS):
        knots = _knots(z, hidden)
        units = _units(z, knots)
        fit = torch.linalg.lstsq(units, edges, driver="gelsd").solution
        gap = (units @ fit - edges).square().sum().item()
        if gap < best[0]:
            best = gap, (z, knots, fit)
        z = _nearest(knots, fit, edges)
    z, knots, fit = best[1]
    learner.w1.fill_(1.0)
    learner.b1.copy_(-knots)
    learner.w2.copy_(fit[:-1].mT)
    learner.b2.copy_(fit[-1])
    return z.to(learner.w1)


def _units(z: Tensor, knots: Tensor) -> Tensor:
    """Hidden units relu(z - knot), and the one of the bias: (E, h + 1)."""
    return torch.cat([torch.relu(z.unsqueeze(1) - knots), torch.ones_like(z).unsqueeze(1)], 1)


def _knots(z: Tensor, hidden: int) -> Tensor:
    """The first to the left of all prompts, the others among them: at them where they are no more than the knots."""
    inner = z.sort().values[1:-1]
    if len(inner) > hidden - 1:
        at = torch.linspace(0, len(inner) - 1, hidden - 1, dtype=z.dtype)
        inner = inner[at.round().long()]
    spare = torch.linspace(1, 2, hidden - 1 - len(inner), dtype=z.dtype) + 0.5  # to the right: not yet in use
    return torch.cat([z.new_tensor([-1.5]), inner, spare])


def _arc_length(edges: Tensor) -> Tensor:
    """Positions in [-1, 1] along a path from edge to nearest edge, which starts at the end of the longest axis."""
    distance = torch.cdist(edges, edges)
    centred = edges - edges.mean(0)
    axis = torch.linalg.svd(centred, full_matrices=False).Vh[0]
    order, left = [int((centred @ axis).argmin())], torch.ones(len(edges), dtype=torch.bool)
    while len(order) < len(edges):
        left[order[-1]] = False
        order.append(int(torch.where(left, distance[order[-1]], torch.inf).argmin()))
    steps = distance[order[:-1], order[1:]].clamp_min(1e-3 * distance.max())  # no two edges at one place
    length = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    return torch.empty_like(length).index_copy(0, torch.tensor(order), 2 * length / length[-1] - 1)


def _nearest(knots: Tensor, fit: Tensor, edges: Tensor) -> Tensor:
    """For each edge the prompt at which the curve comes nearest."""
    z = torch.linspace(-1, 1, SAMPLES * len(knots), dtype=edges.dtype)
    return z[torch.cdist(edges, _units(z, knots) @ fit).argmin(1)]
