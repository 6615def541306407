"""Stacks of KAN layers: their weights, free or generated, how these start, and the names of the parameter groups."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import pi, prod, sqrt
from operator import methodcaller

import torch
from torch import Tensor, nn

from kanpde.jets.jet import LayerNorm
from kanpde.kan.basis.base import Basis, LinearBasis
from kanpde.kan.clusters import cluster_widths
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct, Meta, MetaLearner, MetaLowRank, MetaReleased

# Deviation of the basis weights of the one activation that generated edges start from
META_SPREAD = 0.03

Sizes = Sequence[tuple[int, int]]  # (edges into an output, outputs) of each layer
BasisFor = Callable[[int, int], Basis]  # (layer number, inputs of the layer) -> its basis
WeightsFor = Callable[[Sizes, Sequence[Basis]], Sequence[nn.Module]]  # the weights of all layers


def stack(
    dims: Sequence[int],
    basis_for: BasisFor,
    weights_for: WeightsFor,
    bias: bool = False,
    norm: str = "none",
    centred: bool = False,
) -> nn.Sequential:
    """KAN layers on the sizes `dims`, with a LayerNorm before the functions of no layer, the hidden ones or all.

    centred: the first layer is zero at the origin.
    """
    edges = list(itertools.pairwise(dims))
    bases = [basis_for(number, n_in) for number, (n_in, _) in enumerate(edges)]
    norms = [norm == "all" or (norm == "hidden" and number > 0) for number in range(len(edges))]
    return nn.Sequential(
        *(
            KANLinear(basis, w, n_in, n_out, bias, LayerNorm(n_in) if normed else None, centred and number == 0)
            for number, (basis, w, (n_in, n_out), normed) in enumerate(
                zip(bases, weights_for(edges, bases), edges, norms, strict=True)
            )
        )
    )


def free_weights(edges: Sizes, bases: Sequence[Basis], generator: torch.Generator) -> list[Direct]:
    """Weights of their own for each layer, as its basis draws them."""
    return [
        Direct(basis.init_weights(n_in, n_out, generator)) for basis, (n_in, n_out) in zip(bases, edges, strict=True)
    ]


@dataclass(frozen=True)
class MetaOptions:
    """How weights are generated.

    Attributes:
        prompt_dim: p, numbers of a prompt.
        hidden: h, hidden units of a meta-learner.
        bias: whether a meta-learner has biases.
        share: which layers share one: network (all), layer (none), C clusters of output widths, or a label per layer.
        unused: keep a meta-learner for each of C clusters where fewer widths are distinct, as the released code does.
        init: linear, sine or official.
        released_layout: of a convolution, `MetaReleased` instead of Eq. 21.
        rank: r, of the prompts of a layer, `MetaLowRank`, where they are fewer numbers then: r (in + out) < in out.
            Prompts of other layers are free: factors would be as many numbers and say less. None: free in all.
    """

    prompt_dim: int = 1
    hidden: int = 128
    bias: bool = True
    share: str | int | Sequence[int] = "network"
    unused: bool = False
    init: str = "linear"
    released_layout: bool = False
    rank: int | None = None

    def is_low_rank(self, n_in: int, n_out: int) -> bool:
        """Whether the prompts of a layer are products of factors."""
        return self.rank is not None and self.rank * (n_in + n_out) < n_in * n_out


def generated_weights(
    edges: Sizes, bases: Sequence[Basis], generator: torch.Generator, options: MetaOptions, taps: int = 1
) -> list[Meta]:
    """One prompt per edge, and meta-learners shared as the options say; they must be of layers with equal bases.

    Raises:
        ValueError: labels that do not fit, or a rank of prompts in the released layout.
    """
    if options.released_layout and options.rank is not None:
        raise ValueError("prompts of the released layout are free: they have no rank")
    labels = shared_labels(tuple(n_out for _, n_out in edges), options.share, options.unused)
    learners: dict[int, MetaLearner] = {}
    weights = []
    new = lambda size: MetaLearner(options.prompt_dim, options.hidden, size, options.bias)
    for label, basis, (n_in, n_out) in zip(labels, bases, edges, strict=True):
        is_first = label not in learners
        learner = learners.setdefault(label, new(basis.size)) if is_first else learners[label]
        if options.is_low_rank(n_in, n_out):
            sizes = (n_in, options.prompt_dim, options.rank), (options.prompt_dim, options.rank, n_out)
            weights.append(MetaLowRank(*map(torch.empty, sizes), learner, registers=is_first))
            continue
        kind = partial(MetaReleased, taps=taps) if options.released_layout else Meta
        weights.append(kind(torch.empty(n_in, options.prompt_dim, n_out), learner, registers=is_first))
    starts = {"linear": _init_linear, "sine": partial(_init_linear, activation=_sine), "official": _init_official}
    starts[options.init](weights, bases, generator)
    if options.unused and isinstance(options.share, int):
        spare = [new(bases[0].size).requires_grad_(False) for _ in range(options.share - len(learners))]
        weights[0].unused_learners = nn.ModuleList(spare)
    return weights


def shared_labels(widths: tuple[int, ...], share: str | int | Sequence[int], unused: bool = False) -> tuple[int, ...]:
    """The number of the meta-learner of each layer: one for all, one each, C clusters of widths, or as listed."""
    if share == "network":
        return (0,) * len(widths)
    if share == "layer":
        return tuple(range(len(widths)))
    if isinstance(share, int):
        return cluster_widths(widths, min(share, len(set(widths))) if unused else share)
    if isinstance(share, str) or len(share) != len(widths):
        raise ValueError(f"meta_share is network, layer, a number of clusters or {len(widths)} labels, given {share!r}")
    return tuple(share)


def _sine(basis: Basis) -> Tensor:
    """Weights (size,) of sin(pi t / 2), t from -1 to 1 across the range."""
    if not isinstance(basis, LinearBasis):
        name = type(basis).__name__.lower()
        raise ValueError(f"meta_init: sine is for functions that are added up; of a {name}: linear, official")
    return basis.weights_of(lambda t: (pi / 2 * t).sin())


def prompt_deviation(edges: tuple[int, int], learner: MetaLearner, init: str) -> float:
    """The deviation of the first prompts of a layer: 1 / sqrt(in), of the released code that of Xavier."""
    if init == "official":
        return sqrt(2 / (prod(edges) + learner.w1.shape[1]))
    return 1 / sqrt(edges[0])


@torch.no_grad()
def _init_linear(
    weights: list[Meta], bases: Sequence[Basis], generator: torch.Generator, activation=methodcaller("init_activation")
) -> None:
    """M(z) = V z at first: the network starts as an MLP with weights z and the activation sum_c V_c b_c.

    Hidden units come in pairs of opposite sign, W_1 = (A, -A), W_2 = (C, -C), V = C A, so every edge can grow, shrink
    and change its sign along its prompt; training bends M apart at the knots. Prompts have deviation 1 / sqrt(in).
    """
    for w in weights:
        w.draw(prompt_deviation(w.edges, w.learner, "linear"), generator)
    for learner, basis in {w.learner: basis for w, basis in zip(weights, bases, strict=True)}.items():
        hidden, prompt_dim = learner.w1.shape
        half = hidden // 2
        v = torch.empty(basis.size, prompt_dim).normal_(std=META_SPREAD, generator=generator)
        v[-1] = 0
        v = (v * basis.init_scale().unsqueeze(1) + activation(basis).unsqueeze(1)) / sqrt(prompt_dim)
        a = torch.empty(half, prompt_dim).normal_(std=1 / sqrt(max(half, 1)), generator=generator)  # as large as C
        c = v @ torch.linalg.pinv(a)  # the smallest C with C A = V
        for parameter, pair in ((learner.w1, (a, -a)), (learner.w2.T, (c.T, -c.T))):
            parameter.zero_()
            parameter[: 2 * half] = torch.cat(pair)
        learner.w1[2 * half :].normal_(generator=generator)  # a unit without a partner: nothing yet, but not dead


@torch.no_grad()
def _init_official(weights: list[Meta], bases: Sequence[Basis], generator: torch.Generator) -> None:
    """The released code: Xavier-normal prompts (edges x prompt) and layers, biases 0; weights start near 0."""
    for w in weights:
        w.draw(prompt_deviation(w.edges, w.learner, "official"), generator)
    for learner in {w.learner: None for w in weights}:
        for matrix in (learner.w1, learner.w2):
            matrix.normal_(std=sqrt(2 / sum(matrix.shape)), generator=generator)


def parameter_groups(module: nn.Module) -> dict[str, list[Tensor]]:
    """The trained parameters of any module by what they are: `prompts`, `meta` (the meta-learners), `rest`."""
    groups: dict[str, dict[Tensor, None]] = {"prompts": {}, "meta": {}, "rest": {}}
    for child in module.modules():
        if isinstance(child, Meta):
            groups["prompts"].update(dict.fromkeys(child.prompt_parameters))
        if isinstance(child, MetaLearner):
            groups["meta"].update(dict.fromkeys(child.parameters()))
    named = groups["prompts"] | groups["meta"]
    groups["rest"] = {p: None for p in module.parameters() if p not in named}
    trained = {name: [p for p in parameters if p.requires_grad] for name, parameters in groups.items()}
    return {name: parameters for name, parameters in trained.items() if parameters}


def count_parameters(module: nn.Module, include_frozen: bool = True) -> int:
    """Numbers in the module's parameters, shared ones once; buffers do not count."""
    return sum(p.numel() for p in module.parameters() if include_frozen or p.requires_grad)
