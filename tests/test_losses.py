"""The terms of the loss."""

import torch

from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.samplers import stream
from kanpde.operators import Forward
from kanpde.problems import Heat, Poisson
from kanpde.training.losses import Loss


def setting(problem, hard):
    net = build("kan", problem.domain.dim, widths=(4,)).double()
    generator = stream(0, "x")
    kind = {"dtype": torch.float64}
    points = {"interior": problem.domain.interior(9, generator, **kind)}
    if not hard:
        points["boundary"] = problem.domain.boundary(7, generator, **kind)
        if hasattr(problem.domain, "initial"):
            points["initial"] = problem.domain.initial(5, generator, **kind)
    return Ansatz(problem, net, hard), points


def test_interior_term_is_the_mean_square_of_the_scaled_residual():
    problem = Poisson(5)
    u, points = setting(problem, True)
    x = points["interior"]
    residual = problem.residual(Forward()(u, x), x)
    for scale, factor in (("2d", 1 / 10), ("none", 1.0)):
        term = Loss(scale=scale).terms(u, Forward(), points, stream(0, "o"))["interior"]
        assert torch.allclose(term, (factor * residual).square().mean())


def test_soft_terms_measure_boundary_and_initial_values():
    problem = Heat(3)
    u, points = setting(problem, False)
    terms = Loss().terms(u, Forward(), points, stream(0, "o"))
    assert list(terms) == ["interior", "boundary", "initial"]
    assert torch.allclose(terms["boundary"], u.net(points["boundary"]).square().mean())
    gap = u.net(points["initial"]).squeeze(1) - problem.exact(points["initial"])
    assert torch.allclose(terms["initial"], gap.square().mean())


def test_weights_multiply_the_terms_they_name():
    terms = {"interior": torch.tensor(2.0), "boundary": torch.tensor(3.0)}
    assert Loss(weights={"interior": 0.01}).total(terms) == 0.01 * 2 + 3


def test_hard_constraint_leaves_nothing_to_the_boundary():
    u, _ = setting(Heat(3), True)
    domain = u.problem.domain
    edge = domain.boundary(7, stream(0, "b"), dtype=torch.float64)
    start = domain.initial(7, stream(0, "b"), dtype=torch.float64)
    edge_values = u.problem.exact(edge)  # zero up to the round-off of |x| = 1
    assert torch.allclose(u(edge), edge_values, atol=1e-12)
    assert torch.allclose(u(start), u.problem.exact(start))
