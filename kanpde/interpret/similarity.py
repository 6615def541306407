"""How alike the edges of a KAN have become: similarity of coefficients and of prompts, effective rank, compactness."""

from math import exp

import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.kan.basis.base import LinearBasis
from kanpde.kan.grids import Layer, kan_layers
from kanpde.kan.weights import Meta

LIMIT = 2000  # edges compared; of larger networks a sample


def edges_of(net: nn.Module, limit: int = LIMIT, generator: torch.Generator | None = None) -> Tensor:
    """(E, 3): layer, input and output of each edge, ordered by layer, then input; of more than `limit` a sample.

    The inputs of a convolution are its channels at each tap.

    Args:
        generator: of the sample; default one with seed 0.
    Raises:
        ConfigError: the network has no KAN layer, or `limit` is below 1.
    """
    if limit < 1:
        raise ConfigError(f"limit is the number of edges compared, at least 1, given {limit}")
    tables = []
    for number, layer in enumerate(_layers(net)):
        n_in, n_out = layer.weights.edges
        pairs = torch.cartesian_prod(torch.arange(n_in), torch.arange(n_out))
        tables.append(nn.functional.pad(pairs, (1, 0), value=number))
    edges = torch.cat(tables)
    if len(edges) > limit:
        generator = generator or torch.Generator().manual_seed(0)
        edges = edges[torch.randperm(len(edges), generator=generator)[:limit].sort().values]
    return edges


@torch.no_grad()
def coefficient_vectors(net: nn.Module, edges: Tensor | None = None) -> Tensor:
    """(E, count) in float64: the coefficients of the basis functions of each edge, without that of the base function.

    For B-splines count = G + k. Meta-learners are asked for what they generate.

    Args:
        edges: rows of `edges_of`; by default its sample.
    Raises:
        ConfigError: no KAN layer, functions that are not linear in their weights, or layers with unequal bases.
    """
    layers = _layers(net)
    for layer in layers:
        if not isinstance(layer.basis, LinearBasis):
            name = type(layer.basis).__name__
            raise ConfigError(
                f"the functions of {name} have no coefficient vectors: they are not linear in their weights"
            )
    kinds = {f"{layer.basis.count} {type(layer.basis).__name__}": None for layer in layers}
    if len(kinds) > 1:
        raise ConfigError(f"only coefficients of equal bases compare; the layers have {', '.join(kinds)} functions")
    edges = edges_of(net) if edges is None else edges
    weights = [layer.weights.generate(layer.weights.pick(slice(None))) for layer in layers]
    return _pick(weights, edges)[:, : layers[0].basis.count]


def cosine_similarity(net: nn.Module, edges: Tensor | None = None) -> Tensor:
    """(E, E): cosine of the angle between the coefficient vectors of every two edges, without the base weight.

    An edge whose coefficients are all 0 has similarity 0 to all. Source: MetaKAN, ICML 2025, Figure 9.

    Args, raises: as `coefficient_vectors`.
    """
    unit = _unit(coefficient_vectors(net, edges))
    return (unit @ unit.mT).clamp(-1, 1)


@torch.no_grad()
def prompt_similarity(net: nn.Module, edges: Tensor | None = None) -> Tensor:
    r"""(E, E): how near to one another the prompts of every two edges are, 1 where they are equal.

    .. math:: s_{ab} = \exp\left(-\frac{|z_a - z_b|^2}{2 \sigma^2}\right), \qquad
              \sigma^2 = \frac{1}{E} \sum_a |z_a - \bar z|^2

    The cosine of two scalar prompts is only a sign, so the distance decides, as in Figure 10 of MetaKAN (ICML 2025),
    which shows |z_a - z_b|. The exponent averages to -1 over all pairs: the numbers neither depend on the
    unit of z nor on p. Prompts of different meta-learners mean nothing to one another: s = 0, and each has its sigma.

    Args:
        edges: rows of `edges_of`; by default its sample.
    Raises:
        ConfigError: no KAN layer, or one whose weights are not generated from prompts.
    """
    layers = _layers(net)
    if not all(isinstance(layer.weights, Meta) for layer in layers):
        raise ConfigError("only a meta network such as metakan has prompts; this one has a layer with free weights")
    edges = edges_of(net) if edges is None else edges
    prompts = _pick([layer.weights.prompts for layer in layers], edges)
    learners = [layer.weights.learner for layer in layers]
    learner = torch.tensor([learners.index(one) for one in learners])[edges[:, 0]]  # the first layer that has it
    similarity = prompts.new_zeros(len(edges), len(edges))
    for one in learner.unique():
        mine = (learner == one).nonzero().squeeze(1)
        z = prompts[mine]
        variance = (z - z.mean(0)).square().sum(1).mean()
        distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
        tiny = torch.finfo(z.dtype).tiny  # equal prompts: distance 0, similarity 1
        similarity[mine[:, None], mine] = torch.exp(-distance.square() / (2 * variance).clamp_min(tiny))
    return similarity


def effective_rank(matrix: Tensor) -> float:
    r"""The number of directions a matrix really has, between 1 and its rank; 0 of a zero matrix.

    .. math:: \exp\Big(-\sum_i p_i \log p_i\Big), \qquad p_i = \sigma_i / \sum_j \sigma_j

    with the singular values sigma. Source: Roy and Vetterli, EUSIPCO 2007.

    Raises:
        ConfigError: not a matrix, or not finite.
    """
    if matrix.ndim != 2 or not matrix.isfinite().all():
        kind = f"shape {tuple(matrix.shape)}" if matrix.ndim != 2 else "entries that are not finite"
        raise ConfigError(f"the effective rank is that of a finite matrix, given {kind}")
    values = torch.linalg.svdvals(matrix.detach().double())
    if not values.any():
        return 0.0
    return exp(torch.special.entr(values / values.sum()).sum())


def compactness(net: nn.Module, edges: Tensor | None = None) -> dict[str, float]:
    """How few functions the edges of a network make do with: numbers that go with `cosine_similarity`.

    Returns:
        edges: E compared; coefficients: of an edge, the largest rank possible;
        effective_rank: of the coefficient vectors (E, coefficients), where large functions count more;
        effective_rank_unit: of the vectors at length 1, where all count alike, as in the matrix of cosines;
        mean_abs_cosine: over all pairs of different edges; NaN of a single edge.

    Args, raises: as `coefficient_vectors`.
    """
    vectors = coefficient_vectors(net, edges)
    unit, count = _unit(vectors), len(vectors)
    cosines = (unit @ unit.mT).abs()
    off_diagonal = cosines.sum() - cosines.trace()
    return {
        "edges": count,
        "coefficients": vectors.shape[1],
        "effective_rank": effective_rank(vectors),
        "effective_rank_unit": effective_rank(unit),
        "mean_abs_cosine": off_diagonal.item() / (count * (count - 1)) if count > 1 else float("nan"),
    }


def _layers(net: nn.Module) -> list[Layer]:
    layers = kan_layers(net)
    if not layers:
        raise ConfigError(f"edges are compared in a KAN, but this {type(net).__name__} has no KAN layer")
    return layers


def _pick(per_layer: list[Tensor], edges: Tensor) -> Tensor:
    """(E, n): what tensors (in, n, out), one of each layer, hold of the edges."""
    layer, i, o = edges.unbind(1)
    picked = torch.empty(len(edges), per_layer[0].shape[1], dtype=torch.float64)
    for number, tensor in enumerate(per_layer):
        mine = layer == number
        picked[mine] = tensor.cpu()[i[mine], :, o[mine]].double()
    return picked


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, dim=1, eps=torch.finfo(vectors.dtype).tiny)
