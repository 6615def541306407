"""Members of one's own: a basis of edge functions, a network, an operator, an optimiser.

    kanpde list examples/my_members.py
    kanpde solve poisson --dim 10 --backbone examples/my_members.py:Hermite
    kanpde solve poisson --dim 10 --backbone examples/my_members.py:metaHermite     (generated weights)
    kanpde solve poisson --dim 10 --set phases.0.optimizer=examples/my_members.py:Signs

`python examples/my_members.py` checks them all against automatic differentiation.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from kanpde.jets import Jet
from kanpde.kan.basis.base import LinearBasis
from kanpde.operators import Autograd, Operator
from kanpde.testing import check_backbone, check_basis, check_operator


class Hermite(LinearBasis):
    """Hermite functions He_k(z) exp(-z^2 / 2), k < count, of z = 2 (x - low) / (high - low) - 1."""

    def __init__(self, in_features: int, count: int = 5, grid_range=(-1.0, 1.0), base: str = "silu"):
        super().__init__(in_features, count, grid_range, base)

    def formula(self):
        return partial(hermite, self.count)

    def init_activation(self):
        """z exp(-z^2 / 2), and the base function."""
        return torch.eye(self.size, dtype=self.low.dtype)[1] + torch.eye(self.size, dtype=self.low.dtype)[-1]


def hermite(count, first, last, x, low, scale, axis=-1, out=None):
    """d^r/dx^r He_k(z) g(z) = (-dz/dx)^r He_{k + r}(z) g(z) for the Gaussian g."""
    z = (x - low) * scale - 1
    he = [torch.ones_like(z), z]
    for k in range(1, count + last):
        he.append(z * he[k] - k * he[k - 1])
    g = (-z.square() / 2).exp()
    return [torch.stack([(-scale) ** r * he[k + r] * g for k in range(count)], axis) for r in range(first, last + 1)]


def two_layers(dim_in: int, dim_out: int = 1, *, generator: torch.Generator, width: int = 20) -> nn.Sequential:
    """A perceptron with one hidden layer."""
    layers = [nn.utils.skip_init(nn.Linear, *sizes) for sizes in ((dim_in, width), (width, dim_out))]
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(std=layer.in_features**-0.5, generator=generator)
            layer.bias.zero_()
    return nn.Sequential(layers[0], nn.Tanh(), layers[1])


@dataclass(frozen=True)
class Differences(Operator):
    """L u by central differences with a step h, and everything else by automatic differentiation."""

    h: float = 1e-3
    exact = True

    def estimate(self, u, x, s, directions, generator):
        jet = Autograd().estimate(u, x, s, directions, generator)
        shifts = self.h * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        value = lambda y: u(y).reshape(len(y))
        second = [(value(x + e) - 2 * value(x) + value(x - e)) / self.h**2 for e in shifts]
        return Jet(jet.value, jet.along, jet.gram, (torch.stack(second, 1) * s).sum(1))


class Signs(torch.optim.Optimizer):
    """Steps by the sign of the averaged gradient."""

    def __init__(self, params, lr: float = 1e-3, momentum: float = 0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                p.sub_(group["lr"] * average.sign())
        return loss


if __name__ == "__main__":
    print(check_basis(Hermite), check_backbone(two_layers), check_operator(Differences(), tolerance=1e-5), sep="\n\n")
