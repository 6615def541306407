"""check_problem passes what is right and names what is wrong."""

import pytest
import torch

from kanpde.jets.ansatz import Field
from kanpde.problems import HJB, ON_BALL, ON_PATHS, Heat, Poisson
from kanpde.testing import check_problem


@pytest.mark.parametrize("solution", ["two_body", "three_body", "scaled"])
@pytest.mark.parametrize("name", ON_BALL)
def test_shipped_problems_pass(name, solution):
    check_problem(ON_BALL[name](4, solution=solution))


@pytest.mark.parametrize("name", ON_PATHS)
def test_terminal_value_problems_pass(name):
    check_problem(ON_PATHS[name](4))


class WrongSource(Poisson):
    def source(self, x):
        return super().source(x) + 1e-6


class WrongFactor(Poisson):
    def factor(self, x):
        m = super().factor(x)
        return Field(m.value, 1.01 * m.grad, m.hessian_diagonal)


class WrongBoundary(Poisson):
    def boundary_value(self, x):
        return x[:, 0]


class WrongShape(Poisson):
    def residual(self, u, x):
        return super().residual(u, x).unsqueeze(1)


class WrongExact(Poisson):
    def exact(self, x):
        return super().exact(x).unsqueeze(1)


class WrongCoefficients(Poisson):
    def coefficients(self, x):
        return torch.eye(self.dim)


class WrongLift(Heat):
    def lift(self, x):
        h = super().lift(x)
        return Field(h.value, h.grad, 2 * h.hessian_diagonal)


class Moody(HJB):
    def residual(self, u, x):
        return super().residual(u, x) + torch.rand(len(x), dtype=x.dtype)


@pytest.mark.parametrize(
    "problem, says",
    [
        (WrongSource(4), "residual"),
        (WrongFactor(4), "factor: grad"),
        (WrongBoundary(4), "boundary"),
        (WrongShape(4), "shape"),
        (WrongExact(4), "exact solution on the boundary has shape"),
        (WrongCoefficients(3), "coefficients"),
        (WrongLift(3), "lift: hessian"),
        (Moody(3), "two calls"),
    ],
)
def test_mistakes_are_named_in_one_line(problem, says):
    with pytest.raises(AssertionError, match=says) as info:
        check_problem(problem)
    assert "\n" not in str(info.value)
