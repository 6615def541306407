"""Where the weights of the edges come from: free parameters, or a meta-learner that maps a prompt to them.

Both hand out theta (in, size, out) in pieces along the inputs, so that a layer with 100 000 of them can be streamed:
`split` cuts the parameter (one node of the autograd graph), `pick` takes the inputs of an index, and `generate` turns
what either gave into weights.
"""

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
        self.w1 = nn.Parameter(torch.empty(hidden, prompt_dim))
        self.w2 = nn.Parameter(torch.empty(size, hidden))
        self.b1 = nn.Parameter(torch.zeros(hidden)) if bias else None
        self.b2 = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, prompts: Tensor) -> Tensor:
        """prompts (in, p, out) -> theta (in, D, out)."""
        n_in, _, n_out = prompts.shape
        edges = prompts.mT.flatten(0, 1)  # (in out, p)
        return _Generate.apply(edges, self.w1, self.b1, self.w2, self.b2).unflatten(0, (n_in, n_out)).mT

    def extra_repr(self) -> str:
        hidden, prompt_dim = self.w1.shape
        return f"prompt_dim={prompt_dim}, hidden={hidden}, size={len(self.w2)}, bias={self.b1 is not None}"


class _Generate(torch.autograd.Function):
    """M(z) for edges z (E, p) -> (E, D). Saves no hidden unit: the backward computes them again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z, w1, b1, w2, b2):
        return linear(torch.relu(linear(z, w1, b1)), w2, b2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        z, w1, b1, w2, b2 = ctx.saved_tensors
        hidden = torch.relu(linear(z, w1, b1))
        grad_hidden = (grad @ w2) * (hidden > 0)
        return (
            grad_hidden @ w1,
            grad_hidden.mT @ z,
            None if b1 is None else grad_hidden.sum(0),
            grad.mT @ hidden,
            None if b2 is None else grad.sum(0),
        )


class Meta(nn.Module):
    """theta = M(z) for a prompt z per edge; several layers may share the meta-learner M."""

    def __init__(self, prompts: Tensor, learner: MetaLearner):
        super().__init__()
        self.prompts = nn.Parameter(prompts)
        self.learner = learner

    @property
    def generated_per_input(self) -> int:
        size, hidden = self.learner.w2.shape
        return (2 * hidden + size) * self.prompts.shape[-1]

    def split(self, chunk: int) -> tuple[Tensor, ...]:
        return self.prompts.split(chunk)

    def pick(self, index: Tensor) -> Tensor:
        return self.prompts[index]

    def generate(self, piece: Tensor) -> Tensor:
        return self.learner(piece)

    def extra_repr(self) -> str:
        return "in={}, prompt_dim={}, out={}".format(*self.prompts.shape)
