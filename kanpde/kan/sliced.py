"""The first layer of a network whose inputs are sliced: each process has the rows of its inputs, all have the sums.

As the tiles of a streamed layer are summed in one process, so are those of several: value, directions, the Gram matrix
A^T S A, of which the upper half is sent, and the second-order part in one message. All that follows is in every
process.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kanpde.jets.gram import Dense, Diagonal, Part
from kanpde.jets.jet import Jet, rule
from kanpde.kan.basis.base import LinearBasis
from kanpde.kan.layers import KANLinear, jet_of_sums, reads_of
from kanpde.kan.network import prompt_deviation
from kanpde.kan.weights import Direct, Meta, MetaLearner, Recipe

if TYPE_CHECKING:
    from kanpde.jets.slices import Slice


class SlicedLinear(KANLinear):
    """A `KANLinear` of the inputs of this process, whose outputs are those of all inputs; its bias comes once.

    Args:
        inputs: which inputs.
    """

    def __init__(self, basis: LinearBasis, weights: nn.Module, out_features: int, inputs: "Slice", **options: Any):
        super().__init__(basis, weights, inputs.width, out_features, **options)
        self.inputs = inputs

    def shifted(self, sums: Tensor, x: Tensor) -> Tensor:
        (y,) = self.inputs.sum(self.centred_sums(sums, x))
        return self.with_bias(y)

    def summed(self, jet: Jet, x: Tensor) -> Jet:
        """The jet of all inputs, from that of the sums over those of this process at x."""
        form, gram = _packed(jet.gram)
        parts = {"value": self.centred_sums(jet.value, x), "along": jet.along, "gram": gram, "lap": jet.lap}
        parts = {name: t for name, t in parts.items() if t is not None}
        found = dict(zip(parts, self.inputs.sum(*parts.values()), strict=True))
        if gram is not None:
            found["gram"] = form(found["gram"])
        return Jet(**found | {"value": self.with_bias(found["value"])})


def _packed(gram: Any) -> tuple[Callable[[Tensor], Any], Tensor | None]:
    """The numbers of a Gram matrix that are sums over inputs, and how they are one again."""
    if gram is None or isinstance(gram, Diagonal):
        return Diagonal, None if gram is None else gram.s
    g = gram.dense()
    i, j = torch.triu_indices(g.shape[-1], g.shape[-1], device=g.device)

    def unpacked(upper: Tensor) -> Dense:
        number = torch.zeros(g.shape[-2:], dtype=torch.long, device=g.device)
        number[i, j] = number[j, i] = torch.arange(len(i), device=g.device)
        return Dense(upper[:, number])

    return unpacked, g[:, i, j]


@rule(SlicedLinear, reads=reads_of, told=True)
def _sliced_linear(layer: SlicedLinear, jet: Jet, wanted: Part) -> Jet:
    out = jet_of_sums(layer, jet, wanted)
    return layer.summed(out if wanted else replace(out, gram=None), jet.value)


class MetaOfSlice(Meta):
    """theta = M(z) for the prompts of these inputs; what they ask of M, which all share, is summed over processes."""

    def __init__(self, prompts: Tensor, learner: MetaLearner, inputs: "Slice"):
        super().__init__(prompts, learner)
        self.inputs = inputs

    def _spread(self) -> MetaLearner:
        given = {name: p for name, p in self.learner.named_parameters()}
        return self.learner.with_tensors(**dict(zip(given, self.inputs.spread(*given.values()), strict=True)))

    def generate(self, piece: Tensor) -> Tensor:
        return self._spread()(piece)

    def recipe(self, columns: Tensor | None = None) -> Recipe:
        return self._spread().recipe(self.prompts, columns)


@torch.no_grad()
def sliced(net: nn.Module, inputs: "Slice", seed: int, init: str) -> nn.Sequential:
    """A network of all inputs of which this process has the rows of some, from one of a single input.

    The first layer is drawn for each block of inputs, with the deviations of a layer of all of them.

    Args:
        net: (N, 1) -> (N, n), whose first layer has functions that are the same for all inputs.
        seed: of the first layer.
        init: how generated weights start.
    Raises:
        ValueError: its first layer is none that can be sliced.
    """
    first = net[0] if isinstance(net, nn.Sequential) else net
    if not (isinstance(first, KANLinear) and first.fuses and type(first.weights) in (Direct, Meta)):
        raise ValueError("needed is a first layer of edges with a linear basis and no norm before it")
    basis, n_out = copy.deepcopy(first.basis), first.out_features
    basis.low, basis.high = (t.expand(inputs.width).clone() for t in (basis.low, basis.high))
    options = {"bias": first.bias is not None, "centred": first.centred}
    if isinstance(first.weights, Meta):
        learner = first.weights.learner
        prompt_dim, std = learner.w1.shape[1], prompt_deviation((inputs.dim, n_out), learner, init)
        draw = lambda n, g: torch.empty(n, prompt_dim, n_out).normal_(std=std, generator=g)
        weights: nn.Module = MetaOfSlice(inputs.drawn("first layer", seed, draw, 0), learner, inputs)
    else:
        draw = lambda n, g: basis.init_weights(n, n_out, g) * (n / inputs.dim) ** 0.5
        weights = Direct(inputs.drawn("first layer", seed, draw, 0))
    return nn.Sequential(SlicedLinear(basis, weights, n_out, inputs, **options), *list(net)[1:])
