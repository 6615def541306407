"""The KAN layer: any basis, any weights, and the way a jet goes through it."""

from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from kanpde.jet import Dense, Diagonal, Jet, Sampled, add_up, rule
from kanpde.kan.basis.base import LinearBasis

CHUNK_BYTES = 2**24  # what one piece of a streamed layer may hold; larger pieces leave the cache


class KANLinear(nn.Module):
    r"""y_o = sum_i phi_io(x_i) [+ b_o], with phi_io = sum_c theta_ico b_c.

    The inputs are streamed: when N, in and out are large, they are taken piece by piece and each piece is computed
    again in the backward pass, so that memory does not grow with N x in x out.

    Args:
        basis: the basis of the edge functions.
        weights: `Direct` or `Meta`, handing out theta (in, size, out).
        in_features, out_features: sizes of the layer.
        bias: adds b (out,), zero at first.
    """

    def __init__(self, basis: LinearBasis, weights: nn.Module, in_features: int, out_features: int, bias: bool = False):
        super().__init__()
        self.basis, self.weights = basis, weights
        self.in_features, self.out_features = in_features, out_features
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""

        def part(x, raw, inputs):
            return self.basis.contract(x, self.weights.generate(raw), inputs).value

        chunk = self.chunk(x, per_input=self.basis.size)
        y = add_up(part, list(zip(x.split(chunk, -1), self.weights.split(chunk), self.slices(chunk), strict=True)))
        return y if self.bias is None else y + self.bias

    def chunk(self, x: Tensor, per_input: int) -> int:
        """Inputs to a piece, for `per_input` numbers per point and input."""
        if self.in_features <= 16:
            return self.in_features
        points = max(1, prod(x.shape[:-1]))
        bytes_of_input = x.element_size() * (points * per_input + self.weights.generated_per_input)
        return min(self.in_features, max(16, CHUNK_BYTES // bytes_of_input))

    def slices(self, chunk: int) -> list[slice]:
        return [slice(i, min(i + chunk, self.in_features)) for i in range(0, self.in_features, chunk)]

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


@rule(KANLinear)
def _kan_linear(layer: KANLinear, jet: Jet) -> Jet:
    """With A_io = phi'_io(x_i): along' = along A, gram' = A^T gram A, lap' = sum_i phi''_io gram_ii + lap A."""
    if jet.gram is not None and layer.basis.smoothness < 2:
        raise ValueError(f"a jet with lap needs two continuous derivatives; {layer.basis} has {layer.basis.smoothness}")
    if isinstance(jet.gram, Sampled):
        return _kan_linear_sampled(layer, jet)
    gram = jet.gram
    coupled = isinstance(gram, Dense)
    chunk = layer.in_features if coupled else layer.chunk(jet.value, 3 * layer.basis.size + layer.out_features)
    slices = layer.slices(chunk)
    cut = lambda t: [None] * len(slices) if t is None else t.split(chunk, -1)
    pieces = [
        jet.value.split(chunk, -1),
        layer.weights.split(chunk),
        slices,
        cut(jet.along),
        cut(jet.lap),
        [None] * len(slices) if gram is None else gram.split(chunk),
    ]

    def part(x, raw, inputs, along, lap, gram):
        slope = along is not None or lap is not None or gram is not None
        curvature = None if gram is None else gram.diagonal()
        edges = layer.basis.contract(x, layer.weights.generate(raw), inputs, slope, curvature)
        bend = edges.bend
        if lap is not None:
            moved = (lap.unsqueeze(-2) @ edges.slope).squeeze(-2)
            bend = moved if bend is None else bend + moved
        return Jet(
            value=edges.value,
            along=None if along is None else along @ edges.slope,
            gram=None if gram is None else gram.through(edges.slope),
            lap=bend,
        )

    out = add_up(part, list(zip(*pieces, strict=True)))
    return out if layer.bias is None else Jet(out.value + layer.bias, out.along, out.gram, out.lap)


def _kan_linear_sampled(layer: KANLinear, jet: Jet) -> Jet:
    """Second-order part from the sampled inputs alone; value and directions from all of them."""
    gram = jet.gram
    out = _kan_linear(layer, replace(jet, gram=None))
    theta = layer.weights.generate(layer.weights.pick(gram.index))
    edges = layer.basis.contract(jet.value[:, gram.index], theta, gram.index, slope=True, curvature=gram.s)
    lap = edges.bend if out.lap is None else out.lap + edges.bend
    return replace(out, gram=Diagonal(gram.s).through(edges.slope), lap=lap)
