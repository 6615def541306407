"""Levenberg-Marquardt for Burgers' equation as somebody writes it in plain torch, in a page."""

from collections.abc import Callable
from itertools import pairwise
from math import pi

import torch
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vmap

WIDTHS = (2, 20, 20, 20, 1)
POINTS = 3000
MOST, LEAST = 1e8, 1e-14  # of the damping


def network(generator: torch.Generator) -> torch.nn.Module:
    """A tanh network in double precision, by Glorot's initialisation."""
    layers: list[torch.nn.Module] = []
    for n_in, n_out in pairwise(WIDTHS):
        layer = torch.nn.utils.skip_init(torch.nn.Linear, n_in, n_out, dtype=torch.float64)
        torch.nn.init.xavier_normal_(layer.weight, generator=generator)
        torch.nn.init.zeros_(layer.bias)
        layers += [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def solve(nu: float, seed: int, look: Callable[[Callable[[Tensor], Tensor]], bool]) -> None:
    """u_t + u u_x = nu u_xx on (-1, 1) x (0, 1), u = -sin(pi x) at first, 0 at the walls.

    look: called after every step with u of points (n, 2); True ends the training.
    """
    generator = torch.Generator().manual_seed(seed)
    net = network(generator)
    theta = {name: p.detach() for name, p in net.named_parameters()}
    shapes = {name: p.shape for name, p in theta.items()}
    flat = torch.cat([p.reshape(-1) for p in theta.values()])

    def u(flat: Tensor, point: Tensor) -> Tensor:
        pieces = flat.split([shape.numel() for shape in shapes.values()])
        weights = {name: p.view(shape) for (name, shape), p in zip(shapes.items(), pieces, strict=True)}
        x, t = point
        return -torch.sin(pi * x) + t * (1 - x**2) * functional_call(net, weights, (point,)).squeeze()

    def residual(flat: Tensor, point: Tensor) -> Tensor:
        along = torch.tensor([1.0, 0.0], dtype=torch.float64)
        slope = grad(u, argnums=1)
        first, second = jvp(lambda p: slope(flat, p), (point,), (along,))
        return first[1] + u(flat, point) * first[0] - nu * second[0]

    x = torch.rand(POINTS, 2, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 1.0]) - torch.tensor(
        [1.0, 0]
    )
    every, rows = vmap(residual, (None, 0)), vmap(jacrev(residual), (None, 0), chunk_size=1000)
    damping, r = 1e-3, every(flat, x)
    while True:
        j = rows(flat, x)
        gram, right = j.mT @ j, j.mT @ r
        while damping < MOST:
            factor, failed = torch.linalg.cholesky_ex(gram + damping * torch.diag(gram.diagonal().clamp_min(1e-12)))
            if not failed:
                trial = flat - torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1)
                after = every(trial, x)
                if after.square().sum() < r.square().sum():
                    flat, r, damping = trial, after, max(damping / 3, LEAST)
                    break
            damping *= 2
        if look(lambda points, flat=flat: vmap(u, (None, 0))(flat, points)) or damping >= MOST:
            return
