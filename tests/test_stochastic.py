"""The estimators: unbiased, with the variance their docstrings state, and the loss that is unbiased too."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.samplers import stream
from kanpde.operators import SDGD, Forward, Hutchinson
from kanpde.problems import HJB, Poisson
from kanpde.training.losses import Loss

DRAWS = 2000
ESTIMATORS = [
    SDGD(2),
    SDGD(2, per_point=True),
    SDGD(2, of="u"),
    SDGD(2, per_point=True, of="u"),
    Hutchinson(3),
    Hutchinson(2, "gaussian"),
    Hutchinson(2, "gaussian", per_point=True),
    Hutchinson(3, of="u"),
]


class Opaque(nn.Module):
    """A module without a jet rule."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


def quadratic(h):
    return lambda x: 0.5 * ((x @ h) * x).sum(-1)


def symmetric(d, name):
    h = torch.randn(d, d, generator=stream(0, name), dtype=torch.float64)
    return h + h.T


def z_scores(samples, mean):
    """Distance of the sample mean from the mean in standard errors; round-off counts as no distance."""
    error = samples.std(0) / len(samples) ** 0.5
    return ((samples.mean(0) - mean).abs() / (error + 1e-9 * mean.abs() + 1e-12)).max().item()


@pytest.mark.parametrize("opaque", [False, True], ids=["jet", "nested"])
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("problem", [Poisson(4), HJB(3)], ids=["poisson", "hjb"])
def test_estimators_are_unbiased(problem, estimator, opaque):
    net = build("kan", problem.domain.dim, widths=(3,)).double()
    x = problem.domain.interior(2, stream(0, "x"), dtype=torch.float64)
    exact = Forward()(Ansatz(problem, net), x)
    u = Ansatz(problem, Opaque(net) if opaque else net)
    generator = stream(1, "operator")
    draws = 400 if opaque else 1000
    with torch.no_grad():
        jets = [estimator(u, x, generator=generator) for _ in range(draws)]
    assert z_scores(torch.stack([j.lap for j in jets]), exact.lap) < 4.5
    assert torch.allclose(jets[0].value, exact.value)
    if problem.reads_grad_sq:
        assert z_scores(torch.stack([j.grad_sq for j in jets]), exact.grad_sq) < 4.5


def relative_variance(operator, function, x, expected):
    generator = stream(2, "operator")
    samples = torch.stack([operator(function, x, generator=generator).lap for _ in range(DRAWS)])
    return samples.var(0).mean().item() / expected


def test_variance_of_rademacher_probes_is_the_off_diagonal():
    h, v = symmetric(5, "h"), 3
    expected = 2 / v * (h.square().sum() - h.diagonal().square().sum()).item()
    x = torch.zeros(1, 5, dtype=torch.float64)
    assert relative_variance(Hutchinson(v), quadratic(h), x, expected) == pytest.approx(1, abs=0.12)


def test_variance_of_gaussian_probes_is_the_whole_hessian():
    h, v = symmetric(5, "h"), 3
    expected = 2 / v * h.square().sum().item()
    x = torch.zeros(1, 5, dtype=torch.float64)
    assert relative_variance(Hutchinson(v, "gaussian"), quadratic(h), x, expected) == pytest.approx(1, abs=0.12)


def test_variance_of_sdgd_is_that_of_sampling_without_replacement():
    d, b = 6, 2
    h = symmetric(d, "h")
    expected = d**2 / b * (1 - b / d) * h.diagonal().var().item()
    x = torch.zeros(1, d, dtype=torch.float64)
    assert relative_variance(SDGD(b), quadratic(h), x, expected) == pytest.approx(1, abs=0.12)


def test_weights_scale_the_probes():
    h, s = symmetric(4, "h"), torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=torch.float64)
    x = torch.zeros(1, 4, dtype=torch.float64)
    expected = (s * h.diagonal()).sum()
    for operator in (Hutchinson(2), SDGD(2)):
        generator = stream(3, "operator")
        samples = torch.stack([operator(quadratic(h), x, s, generator=generator).lap for _ in range(DRAWS)])
        assert z_scores(samples, expected) < 4.5


@pytest.mark.parametrize("operator", [SDGD(4), SDGD(4, per_point=True), SDGD(4, of="u")], ids=str)
def test_sdgd_of_all_dimensions_is_exact(operator):
    problem = Poisson(4)
    u = Ansatz(problem, build("metakan", 4, widths=(3, 3)).double())
    x = problem.domain.interior(5, stream(0, "x"), dtype=torch.float64)
    assert torch.allclose(operator(u, x, generator=stream(0, "o")).lap, Forward()(u, x).lap, rtol=1e-12)


def test_reported_variance_is_that_of_repeated_estimates():
    h = symmetric(5, "h")
    x = torch.zeros(3, 5, dtype=torch.float64)
    reported = Hutchinson(2).variance(quadratic(h), x, generator=stream(4, "o"), draws=DRAWS)
    assert reported.shape == (3,)
    assert reported.mean().item() == pytest.approx((h.square().sum() - h.diagonal().square().sum()).item(), rel=0.12)


def test_negative_coefficients_are_refused_by_hutchinson_and_taken_by_sdgd():
    x = torch.zeros(1, 2, dtype=torch.float64)
    s = torch.tensor([1.0, -1.0], dtype=torch.float64)
    net = build("kan", 2, widths=(3,)).double()
    with pytest.raises(ValueError, match="s >= 0"):
        Hutchinson(2)(net, x, s, generator=stream(0, "o"))
    assert torch.allclose(SDGD(2)(net, x, s, generator=stream(0, "o")).lap, Forward()(net, x, s).lap)


def test_estimators_ask_for_a_generator():
    with pytest.raises(ValueError, match="Generator"):
        SDGD(1)(build("mlp", 2, widths=(3,)), torch.zeros(1, 2))


@dataclass(frozen=True, eq=False)
class Solved(Poisson):
    """A residual that is zero for the given Laplacian: what is left of a loss is the estimator's part."""

    laplacian: torch.Tensor | None = None

    def residual(self, u, x):
        return u.lap - self.laplacian


def interior_losses(residual, operator, draws=DRAWS):
    """Interior terms over many draws, their exact value, and the variance of the scaled residual."""
    net = build("kan", 4, widths=(3,)).double()
    x = Poisson(4).domain.interior(2, stream(0, "x"), dtype=torch.float64)
    with torch.no_grad():
        u = Ansatz(Solved(4, laplacian=Forward()(Ansatz(Poisson(4), net), x).lap), net)
        generator, loss = stream(5, "operator"), Loss(residual)
        samples = torch.stack([loss.terms(u, operator, {"interior": x}, generator)["interior"] for _ in range(draws)])
        exact = Loss().terms(u, Forward(), {"interior": x}, generator)["interior"]
        variance = operator.variance(u, x, generator=generator, draws=draws) * u.problem.residual_scale**2
    return samples, exact, variance.mean()


def test_two_sample_loss_is_unbiased():
    samples, exact, _ = interior_losses("two_sample", SDGD(1, of="u"))
    assert z_scores(samples, exact) < 4.5


def test_squared_estimate_is_biased_by_its_variance():
    samples, exact, variance = interior_losses("square", SDGD(1, of="u"))
    assert z_scores(samples, exact) > 10
    assert (samples.mean() - exact).item() == pytest.approx(variance.item(), rel=0.15)
