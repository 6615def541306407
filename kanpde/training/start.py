"""The start of training: the best constant, and the network in units of what that leaves."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kanpde.jets import taylor
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.gram import Dense
from kanpde.jets.jet import Affine, Jet, rule
from kanpde.jets.system import Stages
from kanpde.operators import Forward

POINTS = 256  # in high dimension fewer, so that they hold at most
NUMBERS = 2**24
STEPS = 20


class Constant(nn.Module):
    """f(x) = c, one number for all points (1, 1) or one for each (N, 1)."""

    def __init__(self, c: Tensor):
        super().__init__()
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        return self.c.expand(len(x), 1)


@rule(Constant)
def _constant(module: Constant, jet: Jet) -> Jet:
    value = module(jet.value)
    zero = torch.zeros_like(value)
    along = None if jet.along is None else zero.unsqueeze(-1).expand(-1, jet.along.shape[-2], -1)
    return Jet(value, along, None if jet.gram is None else Dense(zero.unsqueeze(-1)), zero)


@taylor.rule(Constant)
def _constant_taylor(module: Constant, y: taylor.Taylor) -> taylor.Taylor:
    return replace(y, value=module(y.value), terms=(None,) * y.order)


def best_constant(problem, x: Tensor, scale: float | None = None) -> tuple[float, float]:
    r"""c that makes the mean of (k r[h + c m])^2 over the points x least, and the root of that mean.

    r is the residual, k the scale, else the problem's `residual_scale`; h + c m is the ansatz with a constant for the
    network. By Gauss-Newton steps from 0; where r does not depend on c, c is 0.
    """
    scale = problem.residual_scale if scale is None else scale
    best, c = (0.0, float("inf")), 0.0
    for _ in range(STEPS):
        each = torch.full((len(x), 1), c, dtype=x.dtype, device=x.device, requires_grad=True)
        u = Ansatz(problem, Constant(each))
        r = scale * problem.residual(Forward()(u, x), x) + 0 * each.squeeze(1)  # a graph in any case
        (slope,) = torch.autograd.grad(r.sum(), each)
        rms = r.detach().square().mean().sqrt().item()
        best = min(best, (c, rms), key=lambda found: found[1])
        curvature = slope.square().sum().item()
        if curvature == 0:
            break
        step = (slope.squeeze(1) * r.detach()).sum().item() / curvature
        c -= step
        if abs(step) <= 1e-6 * (1 + abs(c)):
            break
    return best


def units(problem, law: str, generator: torch.Generator, scale: float | None = None, size: float = 1.0) -> Affine:
    """What stands behind a network f to make c + s f of it, c and s from `best_constant` at points drawn by the law.

    Args:
        scale: of the residual, see `best_constant`.
        size: of f, where the factor of the ansatz is of size 1 / size.
    """
    n = max(16, min(POINTS, NUMBERS // problem.domain.dim))
    c, rms = best_constant(problem, problem.domain.interior(n, generator, law=law), scale)
    return affine([size * (rms or 1.0)], c)


def scale_of(net: nn.Module) -> Tensor:
    """What a network that ends with such a map is multiplied by, of several stages the last."""
    return (net.nets[-1] if isinstance(net, Stages) else net)[-1].scale


def affine(scale: Sequence[float], shift: float = 0.0) -> Affine:
    """y_k = scale_k x_k + shift."""
    return Affine(torch.tensor(scale), torch.full((len(scale),), shift))
