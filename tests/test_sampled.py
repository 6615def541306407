"""Laws of one's own: points, weights of the terms, what is refused."""

from dataclasses import dataclass

import pytest
import torch
from conftest import close, generator, one_line, planned

import kanpde
from kanpde import ConfigError, Problem
from kanpde.domains import Ball, Box, Cylinder, Sampled
from kanpde.operators import Forward
from kanpde.problems.conditions import Dirichlet
from kanpde.testing import check_domain
from kanpde.training.objective import Objective

F64 = torch.float64
FAST = {"backbone": {"name": "chebykan", "widths": [6]}, "dtype": "float64"}


def towards_zero(n: int, g: torch.Generator) -> torch.Tensor:
    """Points of the unit square of density 1 / (2 sqrt x)."""
    u = torch.rand(n, 2, generator=g, device=g.device, dtype=F64)
    return torch.stack([u[:, 0] ** 2, u[:, 1]], 1)


ROOT = lambda x: 2 * x[:, 0].sqrt()


@dataclass(frozen=True)
class Layer(Problem):
    """u'' = f on the unit square, with points near x = 0."""

    dim: int = 2
    where: object = Sampled(Box(2, 0, 1), towards_zero, ROOT)
    coordinates = ("x", "y")
    conditions = (Dirichlet("x = 0", 1.0), Dirichlet("x = 1", 0.0))

    @property
    def domain(self):
        return self.where

    def residual(self, u, x):
        return u.xx + u.yy - torch.exp(-x[:, 0])


def test_points_are_those_of_the_law_and_all_else_that_of_the_domain():
    domain, box = Layer().domain, Box(2, 0, 1)
    x = domain.interior(5, generator(1), dtype=torch.float32)
    close(x, towards_zero(5, generator(1)).float())
    assert domain.volume == box.volume and domain.sides == box.sides and domain.laws == ("own",)
    close(domain.boundary(4, generator(), dtype=F64), box.boundary(4, generator(), dtype=F64))
    assert "factor" in str(check_domain(domain)) and "factor" in str(check_domain(Cylinder(domain, 2.0)))


def test_weights_make_the_mean_that_over_the_volume():
    domain = Layer().domain
    x = domain.interior(200_000, generator(), dtype=F64)
    w, y = domain.importance(x), domain.domain.interior(200_000, generator(1), "volume", dtype=F64)
    for f in (lambda x: torch.exp(-x[:, 0]), lambda x: x[:, 0] * x[:, 1]):
        assert abs((w * f(x)).mean() - f(y).mean()) < 5e-3


@pytest.mark.parametrize("gradient", ["none", "exact"])
def test_the_terms_of_a_step_are_weighed(gradient):
    problem = Layer()
    plan = planned(problem, {**FAST, "loss": {"gradient": gradient}})
    u, x = plan.ansatz(), problem.domain.interior(6, generator(), dtype=F64)
    terms = plan.loss.terms(u, plan.operator, {"interior": x}, generator())
    at, w, scale = x.clone().requires_grad_(), ROOT(x), plan.loss.factor(problem)
    r = scale * problem.residual(Forward()(u, at), at)
    close(terms["interior"], (w * r.square()).mean())
    if gradient == "exact":
        slope = torch.autograd.grad(r.sum(), at)[0] * plan.frame.lengths
        close(terms["gradient"], (w[:, None] * slope.square()).mean())
    objective = Objective(plan, u)
    r, _ = map(
        torch.cat, zip(*objective.system({"interior": x}, generator(), list(u.parameters())).blocks(), strict=True)
    )
    close(r.square().sum(), plan.loss.total(terms).detach())


def test_time_is_added_to_such_a_domain():
    domain = Cylinder(Layer().domain, 2.0)
    x = domain.interior(4, generator(), dtype=F64)
    close(domain.importance(x), ROOT(x))
    assert Sampled(Ball(2), lambda n, g: torch.zeros(n, 2)).importance(x[:, :2]) is None


def test_a_run_and_what_is_refused(tmp_path):
    run = kanpde.train(Layer(), out=tmp_path / "run.h5", steps=2, **FAST)
    assert run.attrs["law"] == "own" and run.attrs["status"] == "finished"
    negative = Sampled(Box(2, 0, 1), towards_zero, lambda x: -x[:, 0])
    for options, given, said in (
        ({}, {"points": {"adapt": {"candidates": 2}}}, "points of this problem have weights"),
        ({"where": negative}, {}, "needed are numbers of at least 0"),
        ({}, {"points": {"law": "volume"}}, "unknown points.law"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            planned(Layer(**options), {**FAST, **given})
        one_line(error)
    for law, said in (
        (lambda n, g: torch.rand(n, 3, generator=g), r"given \(16, 3\)"),
        (lambda n, g: 2 + torch.rand(n, 2, generator=g), "outside of the domain"),
        (lambda n, g: None, "given NoneType"),
    ):
        with pytest.raises(ConfigError, match=said):
            Sampled(Box(2, 0, 1), law)
    with pytest.raises(ConfigError, match="sample its space"):
        Sampled(Cylinder(Box(1)), towards_zero)
