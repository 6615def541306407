"""Stacks of KAN layers, their initialisation, and the names of their parameter groups."""

import itertools
from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from kanpde.kan.basis.base import LinearBasis
from kanpde.kan.clusters import cluster_widths
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct, Meta, MetaLearner

BasisFor = Callable[[int, int], LinearBasis]  # (layer number, inputs of the layer) -> its basis


def kan(dims: Sequence[int], basis_for: BasisFor, generator: torch.Generator, bias: bool = False) -> nn.Sequential:
    """A KAN with free weights on the layer sizes `dims`."""
    layers = []
    for number, (n_in, n_out) in enumerate(itertools.pairwise(dims)):
        basis = basis_for(number, n_in)
        theta = torch.empty(n_in, basis.size, n_out).normal_(std=KAN_SPREAD / sqrt(n_in), generator=generator)
        theta[:, -1].normal_(std=1 / sqrt(n_in), generator=generator)
        layers.append(KANLinear(basis, Direct(theta), n_in, n_out, bias))
    return nn.Sequential(*layers)


# Deviations of the spline weights: of a KAN, times 1 / sqrt(in) (its base weights have 1 / sqrt(in)); and of the spline
# weights of the one activation that a MetaKAN starts from
KAN_SPREAD = 0.1
META_SPREAD = 0.3


def meta_kan(
    dims: Sequence[int],
    basis_for: BasisFor,
    generator: torch.Generator,
    bias: bool = False,
    prompt_dim: int = 1,
    meta_hidden: int = 128,
    meta_bias: bool = True,
    meta_share: str | int | Sequence[int] = "network",
    meta_init: str = "linear",
) -> nn.Sequential:
    """A KAN whose weights meta-learners generate from one prompt per edge (see `kanpde.backbones.build`)."""
    bases = [basis_for(number, n_in) for number, n_in in enumerate(dims[:-1])]
    labels = shared_labels(tuple(dims[1:]), meta_share)
    learners = {}
    layers = []
    for label, basis, n_in, n_out in zip(labels, bases, dims, dims[1:], strict=False):
        learner = learners.setdefault(label, MetaLearner(prompt_dim, meta_hidden, basis.size, meta_bias))
        prompts = torch.empty(n_in, prompt_dim, n_out)
        layers.append(KANLinear(basis, Meta(prompts, learner), n_in, n_out, bias))
    initialise = {"linear": _init_linear, "official": _init_official}
    initialise[meta_init](layers, generator)
    return nn.Sequential(*layers)


def shared_labels(widths: tuple[int, ...], share: str | int | Sequence[int]) -> tuple[int, ...]:
    """The number of the meta-learner of each layer: one for all, one each, C clusters of widths, or as listed."""
    if share == "network":
        return (0,) * len(widths)
    if share == "layer":
        return tuple(range(len(widths)))
    if isinstance(share, int):
        return cluster_widths(widths, share)
    if isinstance(share, str) or len(share) != len(widths):
        raise ValueError(f"meta_share is network, layer, a number of clusters or {len(widths)} labels, given {share!r}")
    return tuple(share)


@torch.no_grad()
def _init_linear(layers: list[KANLinear], generator: torch.Generator) -> None:
    """M(z) = V z at first: the network starts as an MLP with weights z and the activation sum_c V_c b_c.

    Hidden units come in pairs of opposite sign, W_1 = (A, -A), W_2 = (C, -C), V = C A, so every edge can grow, shrink
    and change its sign along its prompt; training bends M apart at the knots. Prompts have deviation 1 / sqrt(in).
    """
    for layer in layers:
        layer.weights.prompts.normal_(std=1 / sqrt(layer.in_features), generator=generator)
    for learner, basis in {layer.weights.learner: layer.basis for layer in layers}.items():
        hidden, prompt_dim = learner.w1.shape
        half = hidden // 2
        v = torch.empty(basis.size, prompt_dim).normal_(std=META_SPREAD, generator=generator)
        v[-1] = 0
        v = (v + basis.start().unsqueeze(1)) / sqrt(prompt_dim)
        a = torch.empty(half, prompt_dim).normal_(std=1 / sqrt(max(half, 1)), generator=generator)  # as large as C
        c = v @ torch.linalg.pinv(a)  # the smallest C with C A = V
        for parameter, pair in ((learner.w1, (a, -a)), (learner.w2.T, (c.T, -c.T))):
            parameter.zero_()
            parameter[: 2 * half] = torch.cat(pair)
        learner.w1[2 * half :].normal_(generator=generator)  # a unit without a partner: nothing yet, but not dead


@torch.no_grad()
def _init_official(layers: list[KANLinear], generator: torch.Generator) -> None:
    """The released code: Xavier-normal prompts (edges x prompt) and layers, biases 0; weights start near 0."""
    for layer in layers:
        edges, prompt_dim = layer.in_features * layer.out_features, layer.weights.prompts.shape[1]
        layer.weights.prompts.normal_(std=sqrt(2 / (edges + prompt_dim)), generator=generator)
    for learner in {layer.weights.learner: None for layer in layers}:
        for matrix in (learner.w1, learner.w2):
            matrix.normal_(std=sqrt(2 / sum(matrix.shape)), generator=generator)


def parameter_groups(module: nn.Module) -> dict[str, list[Tensor]]:
    """The parameters of any module by what they are: `prompts`, `meta` (the meta-learners), `rest`."""
    groups: dict[str, dict[Tensor, None]] = {"prompts": {}, "meta": {}, "rest": {}}
    for child in module.modules():
        if isinstance(child, Meta):
            groups["prompts"][child.prompts] = None
        if isinstance(child, MetaLearner):
            groups["meta"].update(dict.fromkeys(child.parameters()))
    named = groups["prompts"] | groups["meta"]
    groups["rest"] = {p: None for p in module.parameters() if p not in named}
    return {name: list(parameters) for name, parameters in groups.items() if parameters}


def count_parameters(module: nn.Module, include_frozen: bool = True) -> int:
    """Numbers in the module's parameters, shared ones once; buffers do not count."""
    return sum(p.numel() for p in module.parameters() if include_frozen or p.requires_grad)
