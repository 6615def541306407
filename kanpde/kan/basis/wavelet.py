"""Wavelets with a scale, a shift and a weight per edge (WavKAN)."""

from collections.abc import Sequence
from functools import partial
from math import comb, expm1, log, pi, sqrt

import torch
from torch import Tensor
from torch.nn.functional import softplus

from kanpde.jets.elementary import gaussian_derivatives
from kanpde.jets.tracing import has_numbers, plainly, recorded
from kanpde.kan.basis.base import Basis, Edges

SMALLEST = 0.05  # of the scale sigma, in units of half the range


class Wavelet(Basis):
    r"""phi(x) = w psi(u), u = (z - mu) / sigma: a wavelet of its own for each edge.

    .. math:: \psi(u) = -u e^{-u^2/2} \ (\text{dog}), \quad
              \tfrac{2}{\sqrt 3 \pi^{1/4}} (u^2 - 1) e^{-u^2/2} \ (\text{mexican_hat}), \quad
              \cos(5u) e^{-u^2/2} \ (\text{morlet})

    An edge has three weights in the order (scale, mu, w); sigma = 0.05 + softplus(scale + c), which stays away from 0
    and is 1 at scale 0. z is [-1, 1] on the range.

    Args:
        in_features: inputs of the layer.
        wavelet: dog (derivative of a Gaussian), mexican_hat or morlet.
        grid_range: (a, b), the range of z, or one such pair per input.
    Source: Bozorgasl and Chen 2024, Wav-KAN (arXiv 2405.12832), without the factor 1 / sqrt(sigma), as its code.

    Example:
        >>> basis = Wavelet(1, "dog")
        >>> basis.contract(torch.tensor([[0.0]]), basis.init_activation().reshape(1, 3, 1)).value.item()
        0.0
    """

    size = 3

    def __init__(self, in_features: int, wavelet: str = "mexican_hat", grid_range=(-1.0, 1.0)):
        if wavelet not in WAVELETS:
            raise ValueError(f"wavelet is one of {', '.join(WAVELETS)}, given {wavelet!r}")
        super().__init__(in_features, grid_range)
        self.wavelet = wavelet

    def contract(self, x, theta, inputs=slice(None), slope=False, curvature=None) -> Edges:
        psi, scale = WAVELETS[self.wavelet], self.scale(inputs)
        raw, mu, w = theta.unbind(1)  # each (in, out)
        rate = 1 / _sigma(raw)
        z = (x - self.low[inputs]) * scale - 1
        sums = _WaveletSum.forward if plainly() else _WaveletSum.apply
        value = sums(psi, z, mu, rate, w)
        if not slope and curvature is None:
            return Edges(value, None, None)
        u = (z.unsqueeze(-1) - mu) * rate  # (N, in, out)
        first, second = (psi if plainly() else partial(_Wavelet.apply, psi))(1, 2, u)
        rate = rate * scale.unsqueeze(-1)  # du/dx
        bend = None if curvature is None else curvature.expand(len(x), -1)
        return Edges(
            value=value,
            slope=first * (w * rate) if slope else None,
            bend=None if bend is None else torch.einsum("nio,io,ni->no", second, w * rate**2, bend),
        )

    def edges(self, x, theta, order, inputs=slice(None), normed=None) -> list[Tensor]:
        if normed is not None:
            raise ValueError("wavelets have no base function beside which a norm could stand")
        psi, scale = WAVELETS[self.wavelet], self.scale(inputs)
        raw, mu, w = theta.unbind(1)
        rate = 1 / _sigma(raw)
        u = (((x - self.low[inputs]) * scale - 1).unsqueeze(-1) - mu) * rate
        found = (psi if plainly() else partial(_Wavelet.apply, psi))(1, order, u)
        rate = rate * scale.unsqueeze(-1)  # du/dx
        return [f * (w * rate**r) for r, f in enumerate(found, 1)]

    def each(self, x: Tensor, theta: Tensor, inputs: Sequence[int], normed: Tensor | None = None) -> Tensor:
        """In operations that any theta goes through; there is no base function."""
        raw, mu, w = theta.unbind(-1)
        z = (((x if normed is None else normed) - self.low) * self.scale() - 1)[:, inputs]
        return w * WAVELETS[self.wavelet](0, 0, (z - mu) / _sigma(raw))[0]

    def footprint(self, n_out: int, order: int) -> int:
        return 4 * n_out if order else 1

    def init_activation(self) -> Tensor:
        """w = 1 at the standard scale and shift."""
        return torch.cat([self.low.new_zeros(2), self.low.new_ones(1)])

    def init_weights(self, n_in: int, n_out: int, generator: torch.Generator) -> Tensor:
        theta = torch.zeros(n_in, 3, n_out)
        theta[:, 1].uniform_(-1, 1, generator=generator)
        theta[:, 2].normal_(std=1 / sqrt(n_in), generator=generator)
        return theta

    def extra_repr(self) -> str:
        return f"wavelet={self.wavelet}"


_OFFSET = log(expm1(1 - SMALLEST))  # softplus(_OFFSET) = 1 - SMALLEST


def _sigma(raw: Tensor) -> Tensor:
    """The scale of a wavelet: positive, and 1 of the weight 0."""
    return SMALLEST + softplus(raw + _OFFSET)


class _Wavelet(torch.autograd.Function):
    """psi^(first) ... psi^(last) at u. Saves u alone: the backward is the next derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(derivatives, first, last, u):
        return tuple(derivatives(first, last, u))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.derivatives, ctx.first, ctx.last, u = inputs
        ctx.save_for_backward(u)

    @staticmethod
    def backward(ctx, *grads):
        (u,) = ctx.saved_tensors
        higher = _Wavelet.apply(ctx.derivatives, ctx.first + 1, ctx.last + 1, u)
        return None, None, None, sum(g * h for g, h in zip(grads, higher, strict=True))


class _WaveletSum(torch.autograd.Function):
    """sum_i w_io psi((z_i - mu_io) rate_io), (N, out). Holds the edges of a few inputs at a time and saves none."""

    generate_vmap_rule = True

    @staticmethod
    def forward(derivatives, z, mu, rate, w):
        total: Tensor | int = 0
        for z_tile, mu_tile, rate_tile, w_tile in _tiles(z, mu, rate, w):
            (psi,) = derivatives(0, 0, (z_tile.unsqueeze(-1) - mu_tile) * rate_tile)
            total = total + (psi * w_tile).sum(1)
        return total

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.derivatives, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        grads = []
        for z, mu, rate, w in _tiles(*ctx.saved_tensors):
            u = (z.unsqueeze(-1) - mu) * rate
            psi, slope = ctx.derivatives(0, 1, u)
            to_u = slope * grad.unsqueeze(1) * w
            grad_w, grad_rate = (psi * grad.unsqueeze(1)).sum(0), (to_u * u).sum(0) / rate
            to_u = to_u * rate
            grads.append((to_u.sum(-1), -to_u.sum(0), grad_rate, grad_w))
        grad_z, *others = zip(*grads, strict=True)
        return None, torch.cat(grad_z, -1), *map(torch.cat, others)


TILE = 2**15  # numbers of a tile: they stay in the cache


def _tiles(z: Tensor, *of_edges: Tensor):
    """The inputs of a layer, a few at a time: columns of z (N, in), and rows of the others (in, out)."""
    if recorded() or not has_numbers(z):  # the compiler fuses the steps itself
        return [(z, *of_edges)]
    inputs = max(1, TILE // max(1, z.shape[0] * of_edges[0].shape[1]))
    return zip(z.split(inputs, -1), *(t.split(inputs) for t in of_edges), strict=True)


def gaussian_multiple(times: int, factor: float, first: int, last: int, u: Tensor) -> list[Tensor]:
    """Derivatives first ... last of factor g^(times), g = exp(-u^2 / 2): the Gaussian's further ones."""
    return gaussian_derivatives(first + times, last + times, u, factor)


def morlet(first: int, last: int, u: Tensor) -> list[Tensor]:
    """Derivatives first ... last of cos(5 u) exp(-u^2 / 2), by Leibniz' rule."""
    g = gaussian_derivatives(0, last, u)
    c = [5**j * torch.cos(5 * u + j * pi / 2) for j in range(last + 1)]
    return [sum(comb(r, j) * c[j] * g[r - j] for j in range(r + 1)) for r in range(first, last + 1)]


WAVELETS = {
    "dog": partial(gaussian_multiple, 1, 1.0),
    "mexican_hat": partial(gaussian_multiple, 2, 2 / (sqrt(3) * pi**0.25)),
    "morlet": morlet,
}
