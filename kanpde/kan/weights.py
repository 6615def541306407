"""Where the weights of the edges come from: free parameters, or a meta-learner that maps a prompt to them.

Both hand out theta (in, size, out). A layer with 100 000 inputs takes it in pieces along the inputs, by a `Recipe`.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from kanpde.jets.tracing import compiling, constant, has_numbers, plainly, recorded, transformed


class Recipe(NamedTuple):
    """How a piece of theta comes about, in pure functions of tensors.

    `pieces` are cut along the inputs, `shared` serve all of them: theta = generate(*pieces, *shared), and
    pullback(grad, *pieces, *shared) are the gradients of all these (None of what has none).

    Example:
        >>> recipe = Direct(torch.ones(2, 3, 4)).recipe()
        >>> recipe.generate(*recipe.pieces, *recipe.shared).shape
        torch.Size([2, 3, 4])
    """

    generate: Callable[..., Tensor]
    pullback: Callable[..., tuple[Tensor | None, ...]]
    pieces: tuple[Tensor, ...]
    shared: tuple[Tensor | None, ...]


class Direct(nn.Module):
    """theta is the parameter.

    Example:
        >>> Direct(torch.zeros(2, 3, 4)).theta.shape  # inputs, functions of an edge, outputs
        torch.Size([2, 3, 4])
    """

    generated_per_input = 0  # numbers that come into being with the weights of one input

    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = nn.Parameter(theta)

    @property
    def edges(self) -> tuple[int, int]:
        """Edges into an output, and outputs."""
        return self.theta.shape[0], self.theta.shape[2]

    def split(self, chunk: int) -> tuple[Tensor, ...]:
        return self.theta.split(chunk)

    def pick(self, index: Tensor) -> Tensor:
        return self.theta[index]

    def generate(self, piece: Tensor) -> Tensor:
        return piece

    def recipe(self, columns: Tensor | None = None) -> Recipe:
        """Of the weights `columns` of an edge alone, by default all."""
        if columns is None:
            return Recipe(_as_it_is, _as_it_is_pullback, (self.theta,), ())
        return Recipe(_chosen, _chosen_pullback, (self.theta,), (columns,))

    def extra_repr(self) -> str:
        return "in={}, size={}, out={}".format(*self.theta.shape)


def _as_it_is(theta: Tensor) -> Tensor:
    return theta


def _as_it_is_pullback(grad: Tensor, theta: Tensor) -> tuple[Tensor]:
    return (grad,)


def _chosen(theta: Tensor, columns: Tensor) -> Tensor:
    return theta[:, columns]


def _chosen_pullback(grad: Tensor, theta: Tensor, columns: Tensor) -> tuple[Tensor, None]:
    return torch.zeros_like(theta).index_copy(1, columns, grad), None


class MetaLearner(nn.Module):
    r"""The network that generates the weights of an edge from its prompt z.

    .. math:: M(z) = W_2\, \mathrm{relu}(W_1 z + b_1) + b_2, \qquad
              W_1 \in R^{h \times p},\ W_2 \in R^{D \times h}

    Args:
        prompt_dim: p, length of a prompt.
        hidden: h, hidden units.
        size: D, weights of an edge.
        bias: whether b_1 and b_2 exist.
    Source: MetaKAN, ICML 2025, eq. 12.

    Example:
        >>> MetaLearner(prompt_dim=1, hidden=8, size=9)(torch.zeros(2, 1, 4)).shape  # prompts of 2 x 4 edges
        torch.Size([2, 9, 4])
    """

    def __init__(self, prompt_dim: int, hidden: int, size: int, bias: bool = True):
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(hidden, prompt_dim))
        self.w2 = nn.Parameter(torch.zeros(size, hidden))
        self.b1 = nn.Parameter(torch.zeros(hidden)) if bias else None
        self.b2 = nn.Parameter(torch.zeros(size)) if bias else None

    def with_tensors(self, **tensors: Tensor) -> "MetaLearner":
        """The same map of other numbers: tensors by the names of its parameters, in their place."""
        made = copy.copy(self)
        made._parameters = {name: None for name in self._parameters if name not in tensors}
        made.__dict__.update(tensors)
        return made

    def forward(self, prompts: Tensor) -> Tensor:
        """prompts (in, p, out) -> theta (in, D, out)."""
        recipe = self.recipe(prompts)
        if plainly():  # the compiler differentiates and recomputes by itself
            return recipe.generate(*recipe.pieces, *recipe.shared)
        return _Generate.apply(recipe.generate, recipe.pullback, *recipe.pieces, *recipe.shared)

    def recipe(self, prompts: Tensor, columns: Tensor | None = None) -> Recipe:
        """By a table where it costs less than the hidden units; of the weights `columns` of an edge, by default all."""
        w2, b2 = self._last(columns)
        if not self._by_table(prompts.shape[0] * prompts.shape[2]):
            return Recipe(_by_tiles, _by_tiles_pullback, (prompts,), (self.w1, self.b1, w2, b2))
        knots, *table = _table(self.w1, self.b1, w2, b2)
        return Recipe(_by_table, _by_table_pullback, (prompts, _segments(prompts, knots)), tuple(table))

    def recipe_of_factors(self, of_inputs: Tensor, of_outputs: Tensor, columns: Tensor | None = None) -> Recipe:
        """The same of prompts (in, p, out) that are products of `of_inputs` (in, p, r) and `of_outputs` (p, r, out)."""
        w2, b2 = self._last(columns)
        by_table = self._by_table(of_inputs.shape[0] * of_outputs.shape[2])
        shared = _table(self.w1, self.b1, w2, b2) if by_table else (self.w1, self.b1, w2, b2)
        made, pulled = (_by_own_table, _by_own_table_pullback) if by_table else (_by_tiles, _by_tiles_pullback)
        generate, pullback = partial(_of_factors, made), partial(_of_factors_pullback, pulled)
        return Recipe(generate, pullback, (of_inputs,), (of_outputs, *shared))

    def _last(self, columns: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """W2 and b2, of some weights of an edge alone."""
        if columns is None:
            return self.w2, self.b2
        return self.w2[columns], None if self.b2 is None else self.b2[columns]

    def _by_table(self, edges: int) -> bool:
        # on a GPU the sums over the edges of a segment need atomics; on several threads, what torch 2.13 compiles of
        # them writes beyond its buffers
        alone = self.w1.device.type == "cpu" and not (compiling() and _threads() > 1)
        return self.w1.shape[1] == 1 and alone and edges >= TABLE_FROM

    def extra_repr(self) -> str:
        hidden, prompt_dim = self.w1.shape
        return f"prompt_dim={prompt_dim}, hidden={hidden}, size={len(self.w2)}, bias={self.b1 is not None}"


@constant
def _threads() -> int:
    """A constant to the compiler, which cannot trace it."""
    return torch.get_num_threads()


class _Generate(torch.autograd.Function):
    """theta of a recipe. Saves its pieces and shared tensors, no hidden unit."""

    generate_vmap_rule = True

    @staticmethod
    def forward(generate, pullback, *tensors):
        return generate(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.pullback, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        return None, None, *ctx.pullback(grad, *ctx.saved_tensors)


# Scalar prompts: between its knots -b1 / W1, M is a straight line alpha_s z + beta_s. A table of H + 1 lines replaces
# the hidden units of every edge, and the gradients of the lines are sums over the edges of a segment; those of W1, b1,
# W2 and b2 follow by automatic differentiation of the table.

TABLE_FROM = 2048  # edges from which a table costs less than their hidden units
TABLE_TILE = 2**13  # edges to a tile


def _table(w1, b1, w2, b2) -> tuple[Tensor, Tensor, Tensor]:
    """The knots (H,), and the slopes and intercepts (H + 1, D) of the segments between them."""
    w = w1[:, 0]
    b = torch.zeros_like(w) if b1 is None else b1
    far = torch.where(b > 0, -torch.inf, torch.inf)  # a unit without slope is on or off everywhere
    knots, order = torch.where(w == 0, far, -b / w).detach().sort()
    rises = (w >= 0)[order].unsqueeze(1)
    sign = torch.where(rises, 1, -1)
    table = []
    for factor in (w, b):
        steps = (w2.mT * factor.unsqueeze(1))[order] * sign
        start = -(steps * ~rises).sum(0, keepdim=True)  # falling units are on at the far left
        table.append(torch.cat([start, start + torch.cumsum(steps, 0)]))
    alpha, beta = table
    return knots, alpha, beta if b2 is None else beta + b2


def _segments(prompts: Tensor, knots: Tensor) -> Tensor:
    """The segment of each prompt (in, 1, out), one byte each where they are few."""
    search = _by_halving if transformed() or not has_numbers(prompts) else _by_cells
    found = search(knots, prompts.detach().contiguous())
    return found.to(torch.uint8 if len(knots) < 256 else torch.int16 if len(knots) < 2**15 else torch.int32)


CELLS = 2**12
KNOTS_OF_CELL = 4  # at most, for the cells to be faster
SEARCH_TILE = 2**14


def _by_halving(knots: Tensor, z: Tensor) -> Tensor:
    """How many knots are below each z."""
    return torch.searchsorted(knots, z, out_int32=True)


def _by_cells(knots: Tensor, z: Tensor) -> Tensor:
    """The same by equal cells across all z: how many knots are before a cell is known, those within are compared.

    The cell is a monotonic function of z in floating point too, so that the result is exact. No z is in the first or
    the last cell, which hold the knots beyond all z.
    """
    low, high = z.aminmax()
    per_unit = (CELLS - 1) / (high - low)
    cells = lambda t: torch.sub(t, low).mul_(per_unit).add_(1).clamp_(0, CELLS + 1).nan_to_num_(0).int()
    in_cell = cells(knots).bincount(minlength=CELLS + 2)
    most = int(in_cell[1:-1].max())
    if not low < high or not per_unit.isfinite() or most > KNOTS_OF_CELL:
        return _by_halving(knots, z)
    before = (in_cell.cumsum(0) - in_cell).int()
    padded = torch.cat([knots, knots.new_full((1,), torch.inf)])
    found = []
    for tile in z.view(-1).split(SEARCH_TILE):
        segment = before.index_select(0, cells(tile))
        for _ in range(most):
            segment += tile > padded.index_select(0, segment)
        found.append(segment)
    return torch.cat(found).view(z.shape)


def _by_table(prompts: Tensor, segment: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    lines = (
        torch.addcmul(beta.index_select(0, index), alpha.index_select(0, index), z)
        for z, index in _table_tiles(prompts, segment)
    )
    tiles = (line.unflatten(0, (-1, prompts.shape[2])).mT for line in lines)
    return _joined(tiles, len(prompts))  # (in, D, out)


def _by_table_pullback(grad: Tensor, prompts: Tensor, segment: Tensor, alpha: Tensor, beta: Tensor) -> tuple:
    grad_z, sums = [], alpha.new_zeros(alpha.shape[0], 2 * alpha.shape[1])
    for (z, index), g in zip(_table_tiles(prompts, segment), grad.split(_inputs(prompts)), strict=True):
        per_edge = _per_edge(g)
        grad_z.append((alpha.index_select(0, index) * per_edge).sum(-1))
        sums = sums.index_add(0, index, torch.cat([per_edge * z, per_edge], 1))
    return torch.cat(grad_z).reshape(prompts.shape), None, *sums.split(alpha.shape[1], 1)


def _by_own_table(prompts: Tensor, knots: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Where the segments of the prompts are not known yet."""
    return _by_table(prompts, _segments(prompts, knots), alpha, beta)


def _by_own_table_pullback(grad: Tensor, prompts: Tensor, knots: Tensor, alpha: Tensor, beta: Tensor) -> tuple:
    return _by_table_pullback(grad, prompts, _segments(prompts, knots), alpha, beta)


def _table_tiles(prompts: Tensor, segment: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The prompts (E, 1) and the segments (E,) of some inputs at a time."""
    inputs = _inputs(prompts)
    for z, index in zip(prompts.split(inputs), segment.split(inputs), strict=True):
        yield z.reshape(-1, 1), index.reshape(-1).long()


def _inputs(prompts: Tensor) -> int:
    """Inputs to a tile: what their edges generate stays in the cache."""
    return max(1, prompts.shape[0] if recorded() else TABLE_TILE // prompts.shape[2])


# Any prompts: the hidden units of a tile of edges at a time, computed again in the backward pass

TILE = 2**16  # hidden numbers of a tile at least: a few hundred kB stay in the cache


def _by_tiles(prompts: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    z = _per_edge(prompts)
    tiles = (linear(torch.relu(linear(tile, w1, b1)), w2, b2) for tile in z.split(_tile(z, w1, w2)))
    theta = _joined(tiles, len(z))
    return theta.reshape(prompts.shape[0], prompts.shape[2], theta.shape[1]).mT  # of no inputs, too


def _by_tiles_pullback(grad: Tensor, prompts: Tensor, w1, b1, w2, b2) -> tuple:
    z, per_edge = _per_edge(prompts), _per_edge(grad)
    tile = _tile(z, w1, w2)
    grad_z, sums = [], [0] * 4
    for z_tile, g in zip(z.split(tile), per_edge.split(tile), strict=True):
        hidden = torch.relu(linear(z_tile, w1, b1))
        grad_hidden = (g @ w2) * (hidden > 0)
        grad_z.append(grad_hidden @ w1)
        parts = grad_hidden.mT @ z_tile, grad_hidden.sum(0), g.mT @ hidden, g.sum(0)
        sums = [total + part for total, part in zip(sums, parts, strict=True)]
    grad_w1, grad_b1, grad_w2, grad_b2 = sums
    grad_prompts = torch.cat(grad_z).reshape(prompts.mT.shape).mT
    return grad_prompts, grad_w1, None if b1 is None else grad_b1, grad_w2, None if b2 is None else grad_b2


def _tile(z: Tensor, w1: Tensor, w2: Tensor) -> int:
    """Edges to a tile: its hidden units are small beside what all edges generate."""
    size, hidden = w2.shape
    if recorded():
        return max(1, z.shape[0])
    return max(1, max(TILE, z.shape[0] * size // 8) // hidden)


# Prompts that are products of factors come into being with the piece that needs them, and again in the backward pass


def _product(of_inputs: Tensor, of_outputs: Tensor) -> Tensor:
    """z_ijo = sum_k a_ijk b_jko: (in, p, r), (p, r, out) -> (in, p, out)."""
    return (of_inputs.transpose(0, 1) @ of_outputs).transpose(0, 1)


def _of_factors(generate: Callable, of_inputs: Tensor, of_outputs: Tensor, *shared: Tensor | None) -> Tensor:
    return generate(_product(of_inputs, of_outputs), *shared)


def _of_factors_pullback(pullback: Callable, grad: Tensor, of_inputs: Tensor, of_outputs: Tensor, *shared) -> tuple:
    grad_z, *others = pullback(grad, _product(of_inputs, of_outputs), *shared)
    by_component = grad_z.transpose(0, 1)  # (p, in, out)
    grad_inputs = (by_component @ of_outputs.mT).transpose(0, 1)
    return grad_inputs, of_inputs.permute(1, 2, 0) @ by_component, *others


def _per_edge(t: Tensor) -> Tensor:
    """(in, p, out) -> (in out, p)."""
    return t.mT.reshape(-1, t.shape[1])


def _joined(tiles: Iterator[Tensor], length: int) -> Tensor:
    """The tiles one after the other, each put into its place as it comes: all of them are as large as the result."""
    first = next(tiles)
    if len(first) == length:
        return first
    if transformed():
        return torch.cat([first, *tiles])
    whole = first.new_empty(length, *first.shape[1:])
    start = 0
    for tile in chain([first], tiles):
        whole[start : start + len(tile)] = tile
        start += len(tile)
    return whole


class Meta(nn.Module):
    """theta = M(z) for a prompt z per edge; several layers may share the meta-learner M.

    registers: whether M is a submodule. Of the layers of a network that share M the first registers it: a parameter
    has one name, as `torch.func.functional_call` and a state_dict need.

    Example:
        >>> meta = Meta(torch.zeros(2, 1, 4), MetaLearner(1, hidden=8, size=9))
        >>> recipe = meta.recipe()
        >>> recipe.generate(*recipe.pieces, *recipe.shared).shape  # inputs, functions of an edge, outputs
        torch.Size([2, 9, 4])
    """

    def __init__(self, prompts: Tensor, learner: MetaLearner, registers: bool = True):
        super().__init__()
        self.prompts = nn.Parameter(prompts)
        self._take(learner, registers)

    def _take(self, learner: MetaLearner, registers: bool) -> None:
        if registers:
            self.learner = learner
        else:
            self.__dict__["learner"] = learner

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *others) -> None:
        if "learner" not in self._modules:  # older checkpoints name it once for each layer
            for key in [key for key in state_dict if key.startswith(f"{prefix}learner.")]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *others)

    @property
    def edges(self) -> tuple[int, int]:
        """Edges into an output, and outputs."""
        return self.prompts.shape[0], self.prompts.shape[2]

    @property
    def prompt_parameters(self) -> tuple[nn.Parameter, ...]:
        """Those of the prompts."""
        return (self.prompts,)

    @property
    def generated_per_input(self) -> int:
        return 2 * len(self.learner.w2) * self.edges[1]

    def draw(self, std: float, generator: torch.Generator) -> None:
        """New prompts of a deviation."""
        self.prompts.normal_(std=std, generator=generator)

    def split(self, chunk: int) -> tuple[Tensor, ...]:
        return self.prompts.split(chunk)

    def pick(self, index: Tensor | slice) -> Tensor:
        return self.prompts[index]

    def generate(self, piece: Tensor) -> Tensor:
        return self.learner(piece)

    def recipe(self, columns: Tensor | None = None) -> Recipe:
        return self.learner.recipe(self.prompts, columns)

    def extra_repr(self) -> str:
        return "in={}, prompt_dim={}, out={}".format(*self.prompts.shape)


class MetaLowRank(Meta):
    r"""theta = M(z) for prompts of rank r: r numbers for each input and each output of a layer, one prompt per edge.

    .. math:: z_{ijo} = \sum_{k=1}^r a_{ijk} b_{jko}, \qquad
              a \in R^{in \times p \times r}, \quad b \in R^{p \times r \times out}

    for each component j of a prompt: p r (in + out) numbers instead of p in out. One more output costs p r of them,
    however many inputs there are. M bends, so the weights of the edges have a higher rank than their prompts.

    Args:
        of_inputs: a.
        of_outputs: b.
        learner, registers: as of `Meta`.

    Example:
        >>> weights = MetaLowRank(torch.ones(100, 1, 2), torch.ones(1, 2, 96), MetaLearner(1, 8, size=9))
        >>> weights.prompts.shape, sum(p.numel() for p in weights.prompt_parameters)
        (torch.Size([100, 1, 96]), 392)
    """

    def __init__(self, of_inputs: Tensor, of_outputs: Tensor, learner: MetaLearner, registers: bool = True):
        nn.Module.__init__(self)
        self.of_inputs, self.of_outputs = nn.Parameter(of_inputs), nn.Parameter(of_outputs)
        self._take(learner, registers)

    @property
    def prompts(self) -> Tensor:
        """z (in, p, out), of all edges."""
        return _product(self.of_inputs, self.of_outputs)

    @property
    def edges(self) -> tuple[int, int]:
        """Edges into an output, and outputs."""
        return self.of_inputs.shape[0], self.of_outputs.shape[2]

    @property
    def prompt_parameters(self) -> tuple[nn.Parameter, ...]:
        """Both factors."""
        return self.of_inputs, self.of_outputs

    def draw(self, std: float, generator: torch.Generator) -> None:
        """New prompts of a deviation: a step of a moves z as far as a step of free prompts would, since |b_o| is 1."""
        self.of_inputs.normal_(std=std, generator=generator)
        self.of_outputs.normal_(std=1 / sqrt(self.of_outputs.shape[1]), generator=generator)

    def split(self, chunk: int) -> tuple[Tensor, ...]:
        return self.of_inputs.split(chunk)

    def pick(self, index: Tensor | slice) -> Tensor:
        return self.of_inputs[index]

    def generate(self, piece: Tensor) -> Tensor:
        return self.learner(_product(piece, self.of_outputs))

    def recipe(self, columns: Tensor | None = None) -> Recipe:
        return self.learner.recipe_of_factors(self.of_inputs, self.of_outputs, columns)

    def extra_repr(self) -> str:
        n_in, prompt_dim, rank = self.of_inputs.shape
        return f"in={n_in}, prompt_dim={prompt_dim}, rank={rank}, out={self.edges[1]}"


class MetaReleased(Meta):
    """theta of a convolution in the layout of the released code: not Eq. 21, but the same number of parameters.

    There M(z), (out in taps, D), is read as (out, in D, taps): the D numbers of one prompt fill taps of a kernel
    instead of the weights of one edge (all taps of one kernel where D = taps, parts of neighbouring kernels else).
    `prompts` is (in taps, p, out) as everywhere. Channels are ordered input by input with the base last, as in the
    released MetaKANConv and MetaFastKANConv (its KALN and KAGN put the base first).

    Example:
        >>> meta = MetaReleased(torch.zeros(2 * 9, 1, 4), MetaLearner(1, hidden=8, size=9), taps=9)
        >>> recipe = meta.recipe()
        >>> recipe.generate(*recipe.pieces, *recipe.shared).shape
        torch.Size([18, 9, 4])
    """

    def __init__(self, prompts: Tensor, learner: MetaLearner, taps: int, registers: bool = True):
        super().__init__(prompts, learner, registers)
        self.taps = taps

    def generate(self, piece: Tensor) -> Tensor:
        """All prompts -> theta (in taps, D, out)."""
        generated = self.learner(piece)  # (in taps, D, out)
        n_in, size = len(generated) // self.taps, generated.shape[1]
        kernels = generated.permute(2, 0, 1).reshape(-1, n_in * size, self.taps)
        functions, base = kernels.split((n_in * (size - 1), n_in), 1)
        per_edge = torch.cat([functions.unflatten(1, (n_in, size - 1)), base.unsqueeze(2)], 2)  # (out, in, D, taps)
        return per_edge.permute(1, 3, 2, 0).flatten(0, 1)


@torch.no_grad()
def materialize(module: nn.Module) -> nn.Module:
    """A copy in which every generated weight is a free one: the same function without prompts and meta-learners.

    For inference, `torch.export` and ONNX; a plain KAN is copied as it is.
    """
    net = copy.deepcopy(module)
    for layer in list(net.modules()):
        if isinstance(getattr(layer, "weights", None), Meta):
            theta = layer.weights.generate(layer.weights.pick(slice(None)))
            layer.weights = Direct(theta.clone(memory_format=torch.contiguous_format))
    return net
