"""Verification: the defect by Monte Carlo against closed forms, its intervals, what it refuses, and runs that have it."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from kanpde import Ansatz, Problem
from kanpde.domains import Ball, Box, Cylinder, Ellipsoid, Gaussian, Polygon, Simplex
from kanpde.problems.conditions import Dirichlet, Terminal
from kanpde.verification import DefectEquation
from kanpde.verification.methods import BallGreen, HeatBalls, HeatKernel, Paths, Spheres


@dataclass(frozen=True)
class Linear(Problem):
    """s u_t = Lap u + q u - g, s = 0, 1 or -1, with u* = sin(sum x) cos(t) + x_1: in any domain, with any q(x)."""

    on: Any = None
    q: float = 0.0
    s: float = 0.0

    @property
    def domain(self):
        return self.on

    def _q(self, x):
        return self.q * (1 + 0.5 * torch.sin(3 * x[:, 0]))

    def exact(self, x):
        t = x[:, -1] if self.s else torch.zeros_like(x[:, 0])
        return x[:, : self.dim].sum(1).sin() * t.cos() + x[:, 0]

    def source(self, x):
        t = x[:, -1] if self.s else torch.zeros_like(x[:, 0])
        wave = x[:, : self.dim].sum(1).sin()
        return -self.dim * wave * t.cos() + self._q(x) * self.exact(x) + self.s * wave * t.sin()

    def left_side(self, u, x):
        found = u.lap + self._q(x) * u.value
        return found - self.s * u.t if self.s else found

    def boundary_value(self, x):
        return self.exact(x)

    def initial_value(self, x):
        return self.exact(x)


def net(d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = nn.Sequential(nn.Linear(d, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) / 2)
    return made


def check(problem, kind, n=400, points=48, tolerance=1e-3):
    """Samples of the defect of a random network have the mean that they should, at points of the domain."""
    u = Ansatz(problem, net(problem.n_inputs), hard=False)
    equation = DefectEquation(u)
    method = kind(equation)
    generator = torch.Generator().manual_seed(1)
    x = problem.domain.interior(points, generator, dtype=torch.float64)
    e = (equation.u(x.to(equation.u.like.dtype)) - problem.exact(x)).detach().double()
    samples = method.draw(x.repeat(n, 1), generator).reshape(n, points)
    error, mean = samples.std(0) / n**0.5, samples.mean(0)
    z = (mean - e) / (error + tolerance * e.abs().max())
    assert z.square().mean() < 1.8 and z.mean().abs() * points**0.5 < 3.5
    assert error.mean() < 0.3 * e.abs().mean()  # else nothing was seen
    return method


@pytest.mark.parametrize("q", [0.0, -1.0, -40.0, 0.5])
@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_the_green_function_of_a_ball(d, q):
    on = Ball(d, 1.5, tuple(0.1 * i for i in range(d)))
    assert check(Linear(d, on, q), BallGreen).says.startswith("heat balls" if 2.7 * abs(q) / d > 0.9 else "Green")


SPACES = [
    Box(2, (0.0, -1.0), (1.0, 2.0)),
    Box(1),
    Ball(3, 1.0) | Ball(3, 1.0, (0.8, 0.0, 0.0)),
    Box(2) - Ball(2, 0.4),
    Box(2) & Ball(2, 1.2),
    Ellipsoid((1.0, 0.5, 0.7)),
    Simplex(3),
    Polygon(((0.0, 0.0), (2.0, 0.0), (2.0, 1.0), (1.0, 1.0), (1.0, 2.0), (0.0, 2.0))),
]


@pytest.mark.parametrize("on", SPACES, ids=lambda on: f"{type(on).__name__}-{on.dim}")
def test_walks_on_spheres(on):
    check(Linear(on.dim, on), Spheres)


@pytest.mark.parametrize("q", [-1.0, -20.0, 0.5])
@pytest.mark.parametrize("on", SPACES[:4], ids=lambda on: f"{type(on).__name__}-{on.dim}")
def test_walks_on_heat_balls_without_time(on, q):
    check(Linear(on.dim, on, q), HeatBalls)


@pytest.mark.parametrize("s", [1.0, -1.0, 3.0])
@pytest.mark.parametrize("q", [0.0, -3.0, 0.5])
@pytest.mark.parametrize(
    "space", [Ball(1), Ball(2, 0.7), Ball(6), Box(2)], ids=lambda on: f"{type(on).__name__}-{on.dim}"
)
def test_walks_on_heat_balls(space, q, s):
    problem = Linear(space.dim, Cylinder(space, 0.5), q, s)
    if s < 0:
        problem = Backward(space.dim, Cylinder(space, 0.5), q, s)
    check(problem, HeatBalls)


@dataclass(frozen=True)
class Backward(Linear):
    """Values at the end of time."""

    conditions = (Dirichlet(value=lambda x: wave(x)), Terminal(lambda x: wave(x)))


def wave(x):
    return x[:, :-1].sum(1).sin() * x[:, -1].cos() + x[:, 0]


@pytest.mark.parametrize("q", [0.0, -1.5, 0.5])
def test_the_heat_kernel(q):
    check(Linear(4, Cylinder(Gaussian(4, 0.5), 0.7), q, 1.0), HeatKernel)


@dataclass(frozen=True)
class Drifting(Linear):
    """The same with a drift v . grad u and second derivatives of different sizes."""

    def coefficients(self, x):
        s = 1 + 0.3 * torch.arange(x.shape[1], dtype=x.dtype)
        if self.s:
            s[-1] = 0
        return s

    def directions(self, x):
        v = torch.zeros(1, x.shape[1], dtype=x.dtype)
        v[0, 0] = 1.5
        return v

    def left_side(self, u, x):
        return super().left_side(u, x) + u.along[:, 0]

    def source(self, x):
        t = x[:, -1] if self.s else torch.zeros_like(x[:, 0])
        space = x[:, : self.dim].sum(1)
        more = self.coefficients(x)[: self.dim].sum() - self.dim
        return super().source(x) - more * space.sin() * t.cos() + 1.5 * (space.cos() * t.cos() + 1)


@pytest.mark.parametrize("q", [0.0, -2.0, 0.5])
@pytest.mark.parametrize("space", [Ball(2), Box(3), Gaussian(3, 0.6)], ids=lambda on: f"{type(on).__name__}-{on.dim}")
def test_paths_in_small_steps(space, q):
    check(Drifting(space.dim, Cylinder(space, 0.4), q, 1.0), Paths, tolerance=1e-2)


def test_paths_without_time():
    check(Drifting(2, Ball(2), -1.0), Paths, n=200, tolerance=2e-2)
