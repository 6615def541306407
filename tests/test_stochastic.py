"""The estimators: unbiased, with the variance their docstrings state, and the loss that is unbiased too."""

from dataclasses import dataclass
from itertools import chain, combinations, product

import pytest
import torch
from conftest import F64, close, in_pairs
from torch import nn

from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.samplers import stream
from kanpde.operators import SDGD, Forward, Hutchinson
from kanpde.problems import HJB, Poisson
from kanpde.training.losses import Loss

ESTIMATORS = [
    SDGD(2),
    SDGD(2, per_point=True),
    SDGD(2, of="u"),
    SDGD(2, per_point=True, of="u"),
    Hutchinson(2),
    Hutchinson(2, "gaussian"),
    Hutchinson(2, "gaussian", per_point=True),
    Hutchinson(2, of="u"),
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
    h = torch.randn(d, d, generator=stream(0, name), dtype=F64)
    return h + h.T


def outcomes(estimator, d):
    """All that can be drawn for a point, each as likely: the sets of dimensions, or the signs.

    An estimate is a polynomial of degree two in its Gaussian numbers, and the signs have their moments up to the third.
    """
    if isinstance(estimator, SDGD):
        sets = torch.tensor(list(combinations(range(d), estimator.dims)))
        return torch.zeros(len(sets), d, dtype=F64).scatter(1, sets, 1.0)
    return torch.tensor(list(product((-1.0, 1.0), repeat=estimator.probes * d)), dtype=F64).view(
        -1, estimator.probes, d
    )


def hands(estimator, x):
    """All outcomes, in the form in which they are drawn; two points get different ones, each all of them in turn."""
    drawn, rows = outcomes(estimator, x.shape[-1]), len(x) if estimator.per_point else 1
    return [torch.stack([drawn[(k + row) % len(drawn)] for row in range(rows)]) for k in range(len(drawn))]


def over(monkeypatch, hands, estimate):
    """estimate(generator) again and again, until all hands are dealt in place of the numbers of this generator."""
    hands, found, dealer = list(hands), [], torch.Generator()

    def dealt(draw, given):
        def drawn(*args, generator=None, **options):
            return given(hands.pop(0)) if generator is dealer else draw(*args, generator=generator, **options)

        return drawn

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", dealt(torch.rand, lambda z: z))
        patch.setattr(torch, "randn", dealt(torch.randn, lambda z: z))
        patch.setattr(torch, "randint", dealt(torch.randint, lambda z: (z + 1) / 2))
        while hands:
            before = len(hands)
            found.append(estimate(dealer))
            assert len(hands) < before, "nothing was drawn"
    return found


@pytest.mark.parametrize("problem, estimator, opaque", in_pairs([Poisson(3), HJB(2)], ESTIMATORS, [False, True]))
def test_estimators_are_unbiased(monkeypatch, problem, estimator, opaque):
    """The mean over all that can be drawn is L u, to rounding."""
    net = build("kan", problem.domain.dim, generator=stream(0, "net"), widths=(3,)).double()
    x = problem.domain.interior(2, stream(0, "x"), dtype=F64)
    exact = Forward()(Ansatz(problem, net), x)
    u = Ansatz(problem, Opaque(net) if opaque else net)
    with torch.no_grad():
        jets = over(monkeypatch, hands(estimator, x), lambda g: estimator(u, x, generator=g))
    close(torch.stack([j.lap for j in jets]).mean(0), exact.lap)
    close(jets[0].value, exact.value)
    assert not torch.allclose(jets[0].lap, exact.lap)
    if problem.reads.grad_sq:
        close(torch.stack([j.grad_sq for j in jets]).mean(0), exact.grad_sq)


@pytest.mark.parametrize("estimator", [e for e in ESTIMATORS if e.of == "f"], ids=str)
def test_draws_have_the_mean_that_they_should(estimator):
    """Every entry of the estimate of S over 1000 draws, within 4.5 standard errors; points draw for themselves."""
    x, s = torch.zeros(2, 4, dtype=F64), torch.tensor([[0.0, 1.0, 2.0, 0.5]], dtype=F64)
    generator = stream(1, "operator")
    drawn = torch.stack([estimator._gram(x, s, generator).dense() for _ in range(1000)])
    assert drawn.shape[1] == (2 if estimator.per_point else 1)
    assert not estimator.per_point or not torch.equal(drawn[:, 0], drawn[:, 1])
    error = drawn.std(0) / len(drawn) ** 0.5  # round-off counts as no distance
    assert ((drawn.mean(0) - s.diag_embed()).abs() < 4.5 * error + 1e-9).all()


def test_variance_of_rademacher_probes_is_the_off_diagonal(monkeypatch):
    """And so says `variance`, here of all draws that there are."""
    h, x, operator = symmetric(4, "h"), torch.zeros(1, 4, dtype=F64), Hutchinson(2)
    drawn = hands(operator, x)
    estimate = lambda g: operator.variance(quadratic(h), x, generator=g, draws=len(drawn))
    (found,) = over(monkeypatch, drawn, estimate)
    expected = 2 / 2 * (h.square().sum() - h.diagonal().square().sum())
    close(found * (len(drawn) - 1) / len(drawn), expected.view(1))


def test_variance_of_gaussian_probes_is_the_whole_hessian(monkeypatch):
    """By a rule of three nodes in each number, exact to degree five: a squared estimate has degree four."""
    h, x, operator = symmetric(2, "h"), torch.zeros(1, 2, dtype=F64), Hutchinson(2, "gaussian")
    drawn = [torch.tensor(z, dtype=F64).view(1, 2, 2) for z in product((-(3**0.5), 0.0, 3**0.5), repeat=4)]
    weight = torch.stack([(1 / 6 + (z == 0).double() / 2).prod() for z in drawn])
    estimate = lambda g: operator(quadratic(h), x, generator=g).lap[0]
    found = torch.stack(over(monkeypatch, drawn, estimate)).detach()
    close((weight * found).sum(), h.trace())
    close((weight * (found - h.trace()).square()).sum(), 2 / 2 * h.square().sum())


def test_variance_of_sdgd_is_that_of_sampling_without_replacement(monkeypatch):
    d, b = 6, 2
    h, x, operator = symmetric(d, "h"), torch.zeros(1, d, dtype=F64), SDGD(b)
    estimate = lambda g: operator(quadratic(h), x, generator=g).lap[0]
    found = torch.stack(over(monkeypatch, hands(operator, x), estimate)).detach()
    close(found.var(correction=0), d**2 / b * (1 - b / d) * h.diagonal().var())


@pytest.mark.parametrize("operator", [Hutchinson(1), Hutchinson(1, "gaussian"), SDGD(2)], ids=str)
def test_weights_scale_the_probes(monkeypatch, operator):
    h, s = symmetric(4, "h"), torch.tensor([0.0, 1.0, 2.0, 0.5], dtype=F64)
    x = torch.zeros(1, 4, dtype=F64)
    estimate = lambda g: operator(quadratic(h), x, s, generator=g).lap[0]
    found = over(monkeypatch, hands(operator, x), estimate)
    close(torch.stack(found).mean().detach(), (s * h.diagonal()).sum())


@pytest.mark.parametrize("operator", [SDGD(4), SDGD(4, per_point=True), SDGD(4, of="u")], ids=str)
def test_sdgd_of_all_dimensions_is_exact(operator):
    problem = Poisson(4)
    u = Ansatz(problem, build("metakan", 4, widths=(3, 3)).double())
    x = problem.domain.interior(5, stream(0, "x"), dtype=F64)
    assert torch.allclose(operator(u, x, generator=stream(0, "o")).lap, Forward()(u, x).lap, rtol=1e-12)


def test_negative_coefficients_are_refused_by_hutchinson_and_taken_by_sdgd():
    x = torch.zeros(1, 2, dtype=F64)
    s = torch.tensor([1.0, -1.0], dtype=F64)
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


def interior_losses(monkeypatch, residual, dealt):
    """The interior term, mean over all that so many draws can give and exact, and the variance of one."""
    net = build("kan", 4, generator=stream(0, "net"), widths=(3,)).double()
    x, operator = Poisson(4).domain.interior(2, stream(0, "x"), dtype=F64), SDGD(1, of="u")
    with torch.no_grad():
        u = Ansatz(Solved(4, laplacian=Forward()(Ansatz(Poisson(4), net), x).lap), net)
        term = lambda g: Loss(residual).terms(u, operator, {"interior": x}, g)["interior"]
        drawn = hands(operator, x)
        found = over(monkeypatch, chain.from_iterable(product(drawn, repeat=dealt)), term)
        assert len(found) == len(drawn) ** dealt
        exact = Loss().terms(u, Forward(), {"interior": x}, stream(5, "operator"))["interior"]
        estimates = over(monkeypatch, drawn, lambda g: operator(u, x, generator=g).lap)
    variance = torch.stack(estimates).var(0, correction=0).mean() * u.problem.residual_scale**2
    return torch.stack(found).mean(), exact, variance


def test_two_sample_loss_is_unbiased(monkeypatch):
    mean, exact, variance = interior_losses(monkeypatch, "two_sample", 2)
    assert abs(mean - exact) < 1e-12 * variance


def test_squared_estimate_is_biased_by_its_variance(monkeypatch):
    mean, exact, variance = interior_losses(monkeypatch, "square", 1)
    close(mean - exact, variance)
