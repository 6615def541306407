"""Where the weights of the edges come from: free parameters, or a meta-learner that maps a prompt to them.

Both hand out theta (in, size, out) in pieces along the inputs, so that a layer with 100 000 of them can be streamed:
`split` cuts the parameter (one node of the autograd graph), `pick` takes the inputs of an index, and `generate` turns
what either gave into weights.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class Direct(nn.Module):
    """theta is the parameter."""

    generated_per_input = 0  # numbers that come into being with the weights of one input

    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = nn.Parameter(theta)

    def split(self, chunk: int) -> tuple[Tensor, ...]:
        return self.theta.split(chunk)

    def pick(self, index: Tensor) -> Tensor:
        return self.theta[index]

    def generate(self, piece: Tensor) -> Tensor:
        return piece

    def extra_repr(self) -> str:
        return "in={}, size={}, out={}".format(*self.theta.shape)


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
    """

    def __init__(self, prompt_dim: int, hidden: int, size: int, bias: bool = True):
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(hidden, prompt_dim))
        self.w2 = nn.Parameter(torch.zeros(size, hidden))
        self.b1 = nn.Parameter(torch.zeros(hidden)) if bias else None
        self.b2 = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, prompts: Tensor) -> Tensor:
        """prompts (in, p, out) -> theta (in, D, out)."""
        n_in, _, n_out = prompts.shape
        edges = prompts.mT.flatten(0, 1)  # (in out, p)
        by_table = edges.shape[1] == 1 and edges.device.type == "cpu" and len(edges) >= TABLE_FROM
        theta = (_GenerateByTable if by_table else _Generate).apply(edges, self.w1, self.b1, self.w2, self.b2)
        return theta.unflatten(0, (n_in, n_out)).mT

    def extra_repr(self) -> str:
        hidden, prompt_dim = self.w1.shape
        return f"prompt_dim={prompt_dim}, hidden={hidden}, size={len(self.w2)}, bias={self.b1 is not None}"


class _Generate(torch.autograd.Function):
    """M(z) for edges z (E, p) -> (E, D). Saves no hidden unit: the backward computes them again, tile by tile."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z, w1, b1, w2, b2):
        return _joined([linear(torch.relu(linear(tile, w1, b1)), w2, b2) for tile in z.split(_tile(z, w1, w2))])

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        z, w1, b1, w2, b2 = ctx.saved_tensors
        tile = _tile(z, w1, w2)
        grad_z, sums = [], [0] * 4
        for z_tile, g in zip(z.split(tile), grad.split(tile), strict=True):
            hidden = torch.relu(linear(z_tile, w1, b1))
            grad_hidden = (g @ w2) * (hidden > 0)
            grad_z.append(grad_hidden @ w1)
            parts = grad_hidden.mT @ z_tile, grad_hidden.sum(0), g.mT @ hidden, g.sum(0)
            sums = [total + part for total, part in zip(sums, parts, strict=True)]
        grad_w1, grad_b1, grad_w2, grad_b2 = sums
        return _joined(grad_z), grad_w1, None if b1 is None else grad_b1, grad_w2, None if b2 is None else grad_b2


TABLE_FROM = 4096  # edges from which a table of M costs less than its hidden units


class _GenerateByTable(torch.autograd.Function):
    """M(z) for scalar prompts: between its knots -b1 / W1, M is a straight line alpha_s z + beta_s.

    A table of H + 1 segments replaces the hidden units of every edge, and the gradients are sums over the edges of a
    segment, then over the segments in which a unit is on. On a GPU such sums need atomics: it computes tiles instead.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z, w1, b1, w2, b2):
        alpha, beta, segment, _, _ = _table(z, w1, b1, w2, b2)
        return torch.addcmul(beta[segment], alpha[segment], z)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        z, w1, b1, w2, b2 = ctx.saved_tensors
        alpha, _, segment, order, rises = _table(z, w1, b1, w2, b2)
        zero = grad.new_zeros(len(alpha), grad.shape[1])
        sums = zero.index_add(0, segment, grad), zero.index_add(0, segment, grad * z)  # by segment
        past = [torch.cumsum(t, 0) for t in sums]
        on = [torch.where(rises, t[-1] - t[:-1], t[:-1]) for t in past]  # over the segments in which a unit is on
        on_b, on_a = (torch.empty_like(t).index_copy(0, order, t) for t in on)  # (H, D), in the order of the units
        grad_w2 = w1 * on_a if b1 is None else w1 * on_a + b1.unsqueeze(1) * on_b
        return (
            (alpha[segment] * grad).sum(-1, keepdim=True),
            (w2.mT * on_a).sum(-1, keepdim=True),
            None if b1 is None else (w2.mT * on_b).sum(-1),
            grad_w2.mT,
            None if b2 is None else past[0][-1],
        )


def _table(z, w1, b1, w2, b2) -> tuple[Tensor, ...]:
    """Slopes and intercepts (H + 1, D), the segment of each edge, the units by knot, and which of them rise (H, 1)."""
    w = w1[:, 0]
    b = torch.zeros_like(w) if b1 is None else b1
    far = torch.where(b > 0, -torch.inf, torch.inf)  # a unit without slope is on or off everywhere
    knots, order = torch.where(w == 0, far, -b / w).sort()
    rises = (w >= 0)[order].unsqueeze(1)
    sign = torch.where(rises, 1, -1)
    columns = w2.mT  # (H, D)
    pieces = []
    for factor in (w, b):
        steps = (columns * factor.unsqueeze(1))[order] * sign
        start = -(steps * ~rises).sum(0, keepdim=True)  # falling units are on at the far left
        pieces.append(torch.cat([start, start + torch.cumsum(steps, 0)]))
    alpha, beta = pieces
    segment = torch.searchsorted(knots.detach(), z[:, 0].detach().contiguous())
    return alpha, beta if b2 is None else beta + b2, segment, order, rises


TILE = 2**16  # hidden numbers of a tile at least: a few hundred kB stay in the cache


def _tile(z: Tensor, w1: Tensor, w2: Tensor) -> int:
    """Edges to a tile: its hidden units are small beside what all edges generate."""
    size, hidden = w2.shape
    return max(1, max(TILE, len(z) * size // 8) // hidden)


def _joined(tiles: list[Tensor]) -> Tensor:
    return tiles[0] if len(tiles) == 1 else torch.cat(tiles)


class Meta(nn.Module):
    """theta = M(z) for a prompt z per edge; several layers may share the meta-learner M."""

    def __init__(self, prompts: Tensor, learner: MetaLearner):
        super().__init__()
        self.prompts = nn.Parameter(prompts)
        self.learner = learner

    @property
    def generated_per_input(self) -> int:
        return 2 * len(self.learner.w2) * self.prompts.shape[-1]

    def split(self, chunk: int) -> tuple[Tensor, ...]:
        return self.prompts.split(chunk)

    def pick(self, index: Tensor) -> Tensor:
        return self.prompts[index]

    def generate(self, piece: Tensor) -> Tensor:
        return self.learner(piece)

    def extra_repr(self) -> str:
        return "in={}, prompt_dim={}, out={}".format(*self.prompts.shape)


class MetaReleased(Meta):
    """theta of a convolution in the layout of the released code: not Eq. 21, but the same number of parameters.

    There M(z), (out in taps, D), is read as (out, in D, taps): the D numbers of one prompt fill taps of a kernel
    instead of the weights of one edge (all taps of one kernel where D = taps, parts of neighbouring kernels else).
    `prompts` is (in taps, p, out) as everywhere. Channels are ordered input by input with the base last, as in the
    released MetaKANConv and MetaFastKANConv (its KALN and KAGN put the base first).
    """

    def __init__(self, prompts: Tensor, learner: MetaLearner, taps: int):
        super().__init__(prompts, learner)
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
            theta = layer.weights.generate(layer.weights.prompts)
            layer.weights = Direct(theta.clone(memory_format=torch.contiguous_format))
    return net
