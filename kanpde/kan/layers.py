"""The KAN layer: any basis, any weights, and the way a jet goes through it."""

from dataclasses import replace
from math import ceil

import torch
from torch import Tensor, nn

from kanpde.jets import taylor
from kanpde.jets.gram import Dense, Diagonal, Part, Sampled, Tangents, numbers_of
from kanpde.jets.jet import Footprint, Jet, Step, footprint, general, layer_norm_terms, rule
from kanpde.jets.pieces import add, add_up
from kanpde.jets.taylor import Taylor
from kanpde.jets.tracing import exporting, has_numbers, in_torch_func, readable, recorded
from kanpde.kan.basis.base import Basis, LinearBasis, contract_features
from kanpde.kan.kernels.jets import Inputs, Layer, is_large, push
from kanpde.kan.kernels.values import values

SPARE = 0.25  # share of the functions from which leaving them out pays
WHOLE_BYTES = 2**23  # what torch.compile may hold of a layer that is not streamed
DIFFERENTIATED_BYTES = 2**26  # the same where it compiles a pass with its gradient by x, which cannot be streamed
TAYLOR_BYTES = 2**28  # what a Taylor jet may hold of a layer that is not streamed
CHUNK_BYTES = 10 * 2**20  # what one piece of a streamed layer may hold; larger pieces leave the cache
GPU_CHUNK_BYTES = 2**28  # of a GPU, where smaller pieces leave it idle
FEWEST = 16  # inputs of a piece


class KANLinear(nn.Module):
    r"""y_o = sum_i phi_io(x_i) [- phi_io(0)] [+ b_o], with phi_io = sum_c theta_ico b_c for the linear bases.

    The inputs are streamed: when N, in and out are large, they are taken piece by piece and each piece is computed
    again in the backward pass, so that memory does not grow with N x in x out.

    Args:
        basis: the basis of the edge functions.
        weights: `Direct`, `Meta` or `MetaLowRank`, handing out theta (in, size, out).
        in_features, out_features: sizes of the layer.
        bias: adds b (out,), zero at first.
        norm: a LayerNorm before the basis functions; the base function sees x itself (FastKAN). Linear bases only.
        centred: subtracts the sums at x = 0. Where d = 10 000 inputs lie near 0, a step that adds e to every phi(0)
            adds d e to y; without these sums, y moves as slowly as the slopes.
    """

    fused = True  # False: plain operations and automatic differentiation, by pieces that are checkpoints
    gram_dtype: torch.dtype | None = None  # of the products with the Gram matrix in a fused layer; see docs/speed.md

    def __init__(
        self,
        basis: Basis,
        weights: nn.Module,
        in_features: int,
        out_features: int,
        bias: bool = False,
        norm: nn.LayerNorm | None = None,
        centred: bool = False,
    ):
        super().__init__()
        check_norm(basis, norm)
        check_sizes(basis, weights, in_features, in_features, out_features)
        if not isinstance(norm, nn.LayerNorm | None):
            raise ValueError(f"the norm of a linear layer is a LayerNorm, given {norm}")
        self.basis, self.weights, self.norm = basis, weights, norm
        self.in_features, self.out_features = in_features, out_features
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.centred = centred

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        return self.shifted(self.sums(x), x)

    def shifted(self, sums: Tensor, x: Tensor) -> Tensor:
        """The sums of the edge functions at x (N, out), with the bias and, if centred, without the sums at 0."""
        return self.with_bias(self.centred_sums(sums, x))

    def centred_sums(self, sums: Tensor, x: Tensor) -> Tensor:
        """If centred, without the sums at 0."""
        return sums - self.sums(x.new_zeros(1, self.in_features)) if self.centred else sums

    def with_bias(self, y: Tensor) -> Tensor:
        """y + b, where there is a b."""
        return y if self.bias is None else y + self.bias

    def sums(self, x: Tensor) -> Tensor:
        """sum_i phi_io(x_i), (N, out)."""
        if self._closed and self._at_once(x):
            return values(self.basis, self.weights.recipe(), x, None if self.norm is None else self.norm(x))
        return self._pushed(Jet(x)).value if self.fuses else self._summed(x)

    @property
    def _closed(self) -> bool:
        return self.fused and isinstance(self.basis, LinearBasis) and not self.basis.has_parameters

    @property
    def fuses(self) -> bool:
        """Whether jets go through the pieces of `kanpde.kan.kernels.jets`."""
        return self._closed and self.norm is None

    def _at_once(self, x: Tensor) -> bool:
        """Whether the weights may exist whole for the values, whose tiles are for the cache of a CPU."""
        generated = self.weights.generated_per_input * self.in_features * x.element_size()
        return x.device.type == "cpu" and generated <= WHOLE_BYTES

    def _pushed(self, jet: Jet, wanted: Part = Part.NONE) -> Jet:
        """The jet by `kanpde.kan.kernels.jets`: directions, lap and tangents are rows, the Gram matrix a product."""
        x, gram = jet.value, jet.gram
        if isinstance(gram, Diagonal) and wanted == Part.FULL and gram.is_few(self.out_features):
            gram = Tangents.of_axes(gram.s)
        tangents = gram.rows if wanted and isinstance(gram, Tangents) else None
        q = None if gram is None else gram.diagonal()
        g = gram.s if isinstance(gram, Diagonal) else gram.matrix if isinstance(gram, Dense) else None
        g = None if not wanted else g
        given = [t for t in (jet.along, None if jet.lap is None else jet.lap.unsqueeze(-2), tangents) if t is not None]
        live, columns = self._live(x)
        recipe = self.weights.recipe(columns)
        layer = Layer(self.basis.together(live), recipe.generate, recipe.pullback, wanted, _is_one(g), self.gram_dtype)
        per_input = self.basis.footprint(self.out_features, 2 if q is not None else int(bool(given)))
        per_input += 2 * self.out_features if given or q is not None else 0
        chunk = self.in_features if isinstance(gram, Dense) else self.chunk(x, per_input)
        out = push(layer, self.basis, Inputs(x, q, g, tuple(given)), recipe, chunk)
        rows = iter(out.rows)
        along = None if jet.along is None else next(rows)
        lap = add(None if jet.lap is None else next(rows).squeeze(-2), out.bend)
        if tangents is not None:
            return Jet(out.value, along, replace(gram, rows=next(rows)), lap)
        form = Diagonal if wanted == Part.DIAGONAL else Dense
        return Jet(out.value, along, None if out.gram is None else form(out.gram), lap)

    def _live(self, x: Tensor) -> tuple[slice, Tensor | None]:
        """The basis functions that x needs, and the weights of an edge that belong to them and the base; or all."""
        count, size = self.basis.count, self.basis.size
        live = self.basis.live(x) if readable(x) else slice(0, count)
        columns = [*range(live.start, live.stop), *range(count, size)]
        if len(columns) > (1 - SPARE) * size:
            return slice(0, count), None
        return live, torch.tensor(columns, device=x.device)

    def _summed(self, x: Tensor) -> Tensor:
        chunk = self.chunk(x, per_input=self.basis.footprint(self.out_features, 0))
        pieces = [x.split(chunk, -1), self.weights.split(chunk), self.slices(chunk)]
        if self.norm is not None:
            pieces.append(self.norm(x).split(chunk, -1))
        return add_up(self._part, list(zip(*pieces, strict=True)))

    def _part(self, x: Tensor, raw: Tensor, inputs: slice, normed: Tensor | None = None) -> Tensor:
        theta, basis = self.weights.generate(raw), self.basis
        if normed is None:
            return basis.contract(x, theta, inputs).value
        functions, base = basis.functions(normed, 0, inputs), basis.base_function(x, 0)
        return contract_features((torch.cat([functions[0], base[0]], -1),), theta, False, None).value

    def chunk(self, x: Tensor, per_input: int) -> int:
        """Inputs to a piece, for `per_input` numbers per point and input."""
        compiling = recorded()
        if self.in_features <= FEWEST or not has_numbers(x) or exporting():  # an exported network takes any points
            return self.in_features
        bytes_of_input = x.element_size() * (max(1, len(x)) * per_input + self.weights.generated_per_input)
        whole = DIFFERENTIATED_BYTES if in_torch_func() else WHOLE_BYTES
        if compiling and self.in_features * bytes_of_input <= whole:
            return self.in_features
        piece = CHUNK_BYTES if x.device.type == "cpu" else GPU_CHUNK_BYTES
        most = max(FEWEST, piece // bytes_of_input)
        return ceil(self.in_features / ceil(self.in_features / most))

    def slices(self, chunk: int) -> list[slice]:
        return [slice(i, min(i + chunk, self.in_features)) for i in range(0, self.in_features, chunk)]

    def extra_repr(self) -> str:
        centred = ", centred" if self.centred else ""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}{centred}"


def check_norm(basis: Basis, norm: nn.Module | None) -> None:
    if norm is not None and not isinstance(basis, LinearBasis):
        raise ValueError(f"a norm stands before the functions of a linear basis; {basis} is not one")


def check_sizes(basis: Basis, weights: nn.Module, inputs: int, edges: int, outputs: int) -> None:
    """Raise where the basis is not for `inputs`, or the weights are not for `edges` into each of `outputs`."""
    if len(basis.low) != inputs or weights.edges != (edges, outputs):
        has = "weights of {} edges into each of {} outputs".format(*weights.edges)
        raise ValueError(
            f"a basis of {len(basis.low)} inputs and {has}; needed are {inputs} inputs and "
            f"{edges} edges into each of {outputs} outputs"
        )


def _is_one(s: Tensor | None) -> bool:
    """Whether a diagonal, the same for all points, is known to be that of the identity."""
    fixed = s is not None and s.ndim == 2 and len(s) == 1 and not s.requires_grad
    return fixed and readable(s) and bool((s == 1).all())


def reads_of(layer: KANLinear, wanted: Part) -> Part:
    """How much of the Gram matrix of its inputs a layer reads."""
    return Part.FULL if wanted or layer.norm is not None else Part.DIAGONAL


@rule(KANLinear, reads=reads_of, told=True)
def _kan_linear(layer: KANLinear, jet: Jet, wanted: Part) -> Jet:
    """With A_io = phi'_io(x_i): along' = along A, gram' = A^T gram A, lap' = sum_i phi''_io gram_ii + lap A."""
    if jet.gram is not None and layer.basis.smoothness < 2:
        raise ValueError(f"a jet with lap needs two continuous derivatives; {layer.basis} has {layer.basis.smoothness}")
    out = jet_of_sums(layer, jet, wanted)
    return replace(out, value=layer.shifted(out.value, jet.value))


def jet_of_sums(layer: KANLinear, jet: Jet, wanted: Part) -> Jet:
    """The jet of the sums of the edge functions."""
    if layer.norm is not None:
        return _kan_linear_normed(layer, jet)
    if isinstance(jet.gram, Sampled):
        return _kan_linear_sampled(layer, jet)
    return layer._pushed(jet, wanted) if layer.fuses else _kan_linear_streamed(layer, jet)


def _kan_linear_streamed(layer: KANLinear, jet: Jet) -> Jet:
    gram = jet.gram
    coupled = isinstance(gram, Dense)
    per_input = layer.basis.footprint(layer.out_features, 2) + layer.out_features
    chunk = layer.in_features if coupled else layer.chunk(jet.value, per_input)
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
        return general(Jet(x, along, gram, lap), edges.value, edges.slope, edges.bend)

    return add_up(part, list(zip(*pieces, strict=True)))


def _kan_linear_sampled(layer: KANLinear, jet: Jet) -> Jet:
    """Second-order part from the sampled inputs alone; value and directions from all of them."""
    gram = jet.gram
    out = jet_of_sums(layer, replace(jet, gram=None), Part.NONE)
    theta = layer.weights.generate(layer.weights.pick(gram.index))
    edges = layer.basis.contract(jet.value[:, gram.index], theta, gram.index, slope=True, curvature=gram.s)
    lap = edges.bend if out.lap is None else out.lap + edges.bend
    return replace(out, gram=Diagonal(gram.s).through(edges.slope), lap=lap)


def _kan_linear_normed(layer: KANLinear, jet: Jet) -> Jet:
    """phi_io = base(x_i) + sum_c theta_ico b_c(t_i) with t = norm(x): two layers over the features (t, x) together."""
    basis, count = layer.basis, layer.basis.count
    x = jet.value
    value, jacobian, second = layer_norm_terms(layer.norm, jet)
    same = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand_as(jacobian)
    second = None if second is None else torch.cat([second, torch.zeros_like(second)], -1)
    both = general(jet, torch.cat([value, x], -1), torch.cat([jacobian, same], -1), second)
    slope = both.along is not None or both.lap is not None
    order = 2 if both.gram is not None else int(slope)
    curvature = (None, None) if both.gram is None else both.gram.diagonal().split(x.shape[-1], -1)
    (raw,) = layer.weights.split(layer.in_features)
    theta = layer.weights.generate(raw)
    functions = contract_features(basis.functions(value, order), theta[:, :count], slope, curvature[0])
    base = contract_features(basis.base_function(x, order), theta[:, count:], slope, curvature[1])
    return general(
        both,
        functions.value + base.value,
        torch.cat([functions.slope, base.slope], 1) if slope else None,
        functions.bend + base.bend if order == 2 else None,
    )


@taylor.rule(KANLinear, fits=lambda layer: layer.basis.states_edges)
def _kan_linear_taylor(layer: KANLinear, y: Taylor) -> Taylor:
    r"""Along each direction y_o^(j) = sum_i sum_r phi_io^(r)(x_i) B_jr(x_i', ..., x_i^(j - r + 1))."""
    if layer.basis.smoothness < y.order:
        raise ValueError(f"derivatives of order {y.order} of {layer.basis}, which has {layer.basis.smoothness}")
    value, x, order = layer(y.value), y.value, y.order
    if layer.norm is not None:
        normed = taylor.push(layer.norm, y)
        (raw,) = layer.weights.split(layer.in_features)
        edges = layer.basis.edges(x, layer.weights.generate(raw), order, normed=normed.value)
        return y.after(value, torch.cat([normed.rows(), y.rows()], -1), edges)
    rows = y.rows()
    if (moving := _that_move(rows)) is not None:
        theta = layer.weights.generate(layer.weights.pick(moving))
        return y.after(value, rows[..., moving], layer.basis.edges(x[:, moving], theta, order, moving))
    per_input = layer.basis.footprint(layer.out_features, order) + order * layer.out_features
    whole = len(x) * layer.in_features * per_input * x.element_size() <= TAYLOR_BYTES
    chunk = layer.in_features if whole else layer.chunk(x, per_input)

    def part(x: Tensor, raw: Tensor, inputs: slice) -> Tensor:
        edges = layer.basis.edges(x, layer.weights.generate(raw), order, inputs)
        return taylor.summed(rows[..., inputs], edges)

    sums = add_up(part, list(zip(x.split(chunk, -1), layer.weights.split(chunk), layer.slices(chunk), strict=True)))
    return y.with_sums(value, sums)


def _that_move(rows: Tensor) -> Tensor | None:
    """The inputs that change along any direction, where it is known that others do not; None: all."""
    if rows.requires_grad or len(rows) > 1 or not readable(rows):
        return None
    moving = rows.flatten(0, -2).any(0).nonzero().squeeze(-1)
    return moving if len(moving) < rows.shape[-1] else None


@footprint.register
def _kan_linear_footprint(layer: KANLinear, step: Step) -> Footprint:
    """The outputs with their Gram matrix, and features and slopes of the inputs, of a streamed layer those of a piece.

    A gradient of the residual keeps features and slopes, unless they are `is_large`, and all else twice.
    """
    inputs, out, size = layer.in_features, layer.out_features, step.itemsize
    features = lambda order: inputs * (layer.basis.footprint(out, order) + order * out)
    whole = step.points * features(3)
    streamed = whole * size > CHUNK_BYTES and inputs > FEWEST and layer.norm is None
    kept = 3 * out + numbers_of(step.dim, out)
    if step.passes == 2 and not (streamed and is_large(step.points * features(4) * size)):
        kept += features(4)
    if layer.norm is not None:  # Jacobian and Gram matrix of what the functions and the base see
        kept += step.passes * 6 * inputs**2
    if not layer.fuses:
        kept += step.passes * features(2)
    if (order := len(step.counts)) > 0:  # the rows of a Taylor jet, and functions and derivatives of the edges
        rows = sum(step.counts) * (order * inputs + out)
        kept += step.passes * (rows + inputs * (layer.basis.footprint(out, order) + order * out))
    return Footprint(kept, 1.5 * CHUNK_BYTES // size if streamed else whole)
