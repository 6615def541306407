"""Random jets: sums of higher derivatives, estimated without bias in as many dimensions as there are."""

from dataclasses import dataclass
from itertools import chain, permutations, product

import h5py
import numpy as np
import pytest
import torch
from conftest import F64, close, generator, one_line
from test_stochastic import Opaque, over
from torch import nn

import kanpde
from kanpde import Ansatz, Problem
from kanpde.backbones import build
from kanpde.domains import Ball, Cylinder
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets import names
from kanpde.jets.nested import nested
from kanpde.jets.system import Complex
from kanpde.operators import SDGD, Autograd, Forward, Hutchinson
from kanpde.training.losses import Loss


@dataclass(frozen=True)
class Biharmonic(Problem):
    """Lap Lap u = 8 d (d + 2) on the unit ball, u = 0 and du/dn = 0 on its boundary; u = (1 - |x|^2)^2"""

    dim: int = 3

    @property
    def domain(self):
        return Ball(self.dim)

    @property
    def conditions(self):
        return (kanpde.problems.conditions.Dirichlet(), kanpde.problems.conditions.Neumann())

    @property
    def residual_scale(self):
        return 1 / (8 * self.dim * (self.dim + 2))

    def left_side(self, u, x):
        return u.bilap

    def source(self, x):
        return x.new_full((len(x),), 8.0 * self.dim * (self.dim + 2))

    def exact(self, x):
        return (1 - x.square().sum(1)).square()


@dataclass(frozen=True)
class Summed(Problem):
    """One sum of derivatives, as it is stated."""

    dim: int = 3
    powers: tuple = (3,)
    places: tuple | None = None
    weights: tuple | None = None

    @property
    def domain(self):
        return Ball(self.dim)

    def residual(self, u, x):
        return u.sum_of(*self.powers, axes=self.places, weights=self.weights)


THIRD, PAIRS = Summed(3), Summed(3, (2, 1), ((0, 1), (1, 2), (2, 0), (0, 0)), (1.0, -2.0, 0.5, 3.0))
SIXTH = Summed(2, (2, 2, 2))


def smooth(dim, widths=(3,), opaque=False, outputs=1):
    net = build("mlp", dim, outputs, generator=stream(0, "net"), widths=widths).double()
    return Opaque(net) if opaque else net


def ansatz(problem, opaque=False):
    u = Ansatz(problem, smooth(problem.domain.dim, opaque=opaque))
    return u, problem.domain.interior(2, stream(0, "x"), dtype=F64)


def by_nesting(u, x):
    """The sum that is read, from nested differentiation of u, term by term as they are stated."""
    (of,) = u.problem.reads.sums
    return sum(c * t for c, t in zip(of.terms.values(), nested(u, x, of.terms).values(), strict=True))


def ranks(count):
    """Numbers of every order, as `torch.rand` may draw them."""
    return [torch.tensor(order, dtype=F64) for order in permutations(range(count))]


def dealt(estimator, of):
    """For each of all equally likely outcomes what is drawn for it, one after the other."""
    if isinstance(estimator, Hutchinson):
        shape = estimator.probes, len(of.powers), of.count
        signs = product((-1.0, 1.0), repeat=estimator.probes * len(of.powers) * of.count)
        return [[torch.tensor(z, dtype=F64).view(1, *shape)] for z in signs]
    if of.axes is not None:
        return [[z.expand(1, -1)] for z in ranks(of.size)]
    return [[z.expand(1, -1) for z in each] for each in product(ranks(of.count), repeat=len(of.powers))]


def outcomes(monkeypatch, estimator, u, x, value):
    """value(sum that is estimated) for all that can be drawn; points draw what is drawn for all, one further each."""
    (of,) = u.problem.reads.sums
    hands = dealt(estimator, of)
    if estimator.per_point:
        n = len(hands)
        rows = lambda k: [
            torch.cat(each) for each in zip(*(hands[(k + row) % n] for row in range(len(x))), strict=True)
        ]
        hands = [rows(k) for k in range(n)]
    return over(monkeypatch, chain.from_iterable(hands), lambda g: value(estimator(u, x, generator=g).sums[of]))


CASES = [
    (Biharmonic(3), Hutchinson(1)),
    (Biharmonic(2), Hutchinson(2)),
    (Biharmonic(2), Hutchinson(1, per_point=True)),
    (SIXTH, Hutchinson(1)),
    (Biharmonic(3), SDGD(2)),
    (Biharmonic(3), SDGD(1, per_point=True)),
    (THIRD, SDGD(2)),
    (THIRD, SDGD(2, per_point=True)),
    (PAIRS, SDGD(3)),
    (PAIRS, SDGD(1, per_point=True)),
    (SIXTH, SDGD(1)),
]


@pytest.mark.parametrize(("problem", "estimator"), CASES, ids=str)
def test_the_mean_over_all_that_can_be_drawn_is_the_sum(monkeypatch, problem, estimator):
    """To rounding, by nested differentiation; and so is that of the gradients by the weights."""
    u, x = ansatz(problem)
    trained = list(u.parameters())
    weight = torch.tensor([1.0, -0.7], dtype=F64)
    both = lambda found: [found, *torch.autograd.grad((weight * found).sum(), trained, materialize_grads=True)]
    exact = [t.detach() for t in both(by_nesting(u, x))]
    found = [[t.detach() for t in each] for each in outcomes(monkeypatch, estimator, u, x, both)]
    assert not torch.allclose(found[0][0], exact[0])
    for each, expected in zip(zip(*found, strict=True), exact, strict=True):
        close(torch.stack(each).mean(0), expected)


def of_gaussians(monkeypatch, probes, u, x):
    """Estimates (M, N) by Gaussian directions, and weights: of five nodes in each number, exact to degree nine."""
    nodes, shares = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(5))
    (of,) = u.problem.reads.sums
    places = torch.cartesian_prod(*[torch.arange(5)] * (probes * of.count))
    hands = nodes[places].view(-1, 1, probes, 1, of.count)
    operator = Hutchinson(probes, "gaussian")
    with torch.no_grad():
        found = over(monkeypatch, hands, lambda g: operator(u, x, generator=g).sums[of])
    return torch.stack(found), (shares / shares.sum())[places].prod(1).unsqueeze(1)


def test_gaussian_directions_have_the_bilaplacian_as_their_mean(monkeypatch):
    """An estimate has degree four in its numbers, its square eight; with twice the probes half the variance."""
    u, x = ansatz(Biharmonic(2))
    exact, variances = by_nesting(u, x).detach(), []
    for probes in (1, 2):
        found, weights = of_gaussians(monkeypatch, probes, u, x)
        close((weights * found).sum(0), exact)
        variances.append((weights * (found - exact).square()).sum(0))
    close(variances[0], 2 * variances[1])


def test_variance_of_signs_falls_with_their_number(monkeypatch):
    u, x = ansatz(Biharmonic(2))
    found = [outcomes(monkeypatch, Hutchinson(v), u, x, torch.Tensor.detach) for v in (1, 2)]
    one, two = (torch.stack(each).var(0, correction=0) for each in found)
    assert (one > 0).all()
    close(one, 2 * two)


def test_variance_of_terms_is_that_of_sampling_without_replacement(monkeypatch):
    u, x = ansatz(THIRD)
    terms = torch.stack(list(nested(u, x, THIRD.reads.sums[0].terms).values())).detach()
    for b in (1, 2):
        found = torch.stack(outcomes(monkeypatch, SDGD(b), u, x, torch.Tensor.detach))
        close(found.var(0, correction=0), 9 / b * (1 - b / 3) * terms.var(0))
    (found,) = SDGD(3)(u, x, generator=stream(0, "o")).sums.values()
    close(found, terms.sum(0))


def test_signs_are_exact_for_sums_of_functions_of_one_coordinate():
    """As those of the Laplacian are."""

    class Additive(nn.Linear):
        def forward(self, x):
            return super().forward(x.sin())

    u = Ansatz(Biharmonic(4), Additive(4, 1, dtype=F64), hard=False)
    x = torch.randn(3, 4, generator=generator(0), dtype=F64)
    close(Hutchinson(1)(u, x, generator=stream(0, "o")).bilap, by_nesting(u, x))


@pytest.mark.parametrize("operator", [Hutchinson(40), Hutchinson(40, "gaussian", per_point=True), SDGD(3)], ids=str)
def test_what_is_drawn_has_the_mean_that_it_should(operator):
    """Over 1000 draws of a fixed seed, within 4.5 standard errors."""
    u, x = ansatz(Biharmonic(4))
    numbers = stream(1, "operator")
    with torch.no_grad():
        drawn = torch.stack([operator(u, x, generator=numbers).bilap for _ in range(1000)])
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - by_nesting(u, x)).abs() < 4.5 * error).all()


@pytest.mark.parametrize(
    ("problem", "operator"),
    [
        (Biharmonic(5), Hutchinson(3)),
        (Biharmonic(5), Hutchinson(3, "gaussian", per_point=True)),
        (Biharmonic(5), SDGD(2)),
        (Summed(5, (3, 1), ((0, 1), (4, 2), (3, 3))), SDGD(2, per_point=True)),
    ],
    ids=str,
)
def test_the_jet_of_rules_is_that_of_nested_differentiation(problem, operator):
    """Of the same draw, with gradients by x and by the weights."""
    found = []
    for opaque in (False, True):
        u, x = ansatz(problem, opaque)
        x = x.requires_grad_()
        (value,) = operator(u, x, generator=stream(3, "o")).sums.values()
        found.append([value, *torch.autograd.grad(value.square().sum(), [x, *u.parameters()], materialize_grads=True)])
    for a, b in zip(*found, strict=True):
        close(a, b, 1e-11)


@pytest.mark.parametrize("problem", [Biharmonic(3), THIRD, PAIRS, SIXTH], ids=str)
def test_exact_operators_have_all_terms(problem):
    u, x = ansatz(problem)
    (of,) = problem.reads.sums
    for operator in (Forward(), Autograd()):
        jet = operator(u, x)
        close(jet.sum_of(*of.powers, axes=of.axes, weights=of.weights), by_nesting(u, x))


def test_all_terms_that_are_stated_are_exact():
    u, x = ansatz(PAIRS)
    (found,) = SDGD(4)(u, x, generator=stream(0, "o")).sums.values()
    close(found, by_nesting(u, x))


class OverTime(Problem):
    @property
    def domain(self):
        return Cylinder(Ball(self.dim))

    def residual(self, u, x):
        return u.t + u.bilap


@pytest.mark.parametrize("operator", [Hutchinson(1), SDGD(2)], ids=str)
def test_time_is_no_coordinate_of_the_sum(monkeypatch, operator):
    u, x = ansatz(OverTime(2))
    close(torch.stack(outcomes(monkeypatch, operator, u, x, torch.Tensor.detach)).mean(0), by_nesting(u, x).detach())
    close(operator(u, x, generator=stream(0, "o")).t, Forward()(u, x).t)


@dataclass(frozen=True)
class Two(Problem):
    """Two fields, of which the second is read otherwise."""

    dim: int = 2
    fields = ("u", "v")

    @property
    def domain(self):
        return Ball(self.dim)

    def residual(self, w, x):
        return w.u.bilap - w.v.value, w.v.sum_of(3) + w.u.value


@pytest.mark.parametrize("of", ["f", "u"])
def test_fields_have_their_own_sums(of):
    """At once where they are outputs of one network; all terms of a sum of third derivatives are exact."""
    problem = Two()
    u = Ansatz(problem, smooth(2, outputs=2))
    x = problem.domain.interior(3, stream(0, "x"), dtype=F64)
    drawn, exact = SDGD(2, of=of)(u, x, generator=stream(0, "o")), Forward()(u, x)
    close(problem.residual(drawn, x)[1], problem.residual(exact, x)[1])
    jets = [SDGD(2, of=of)(u, x, generator=stream(k, "o")).u.bilap for k in range(2)]
    assert jets[0].shape == (3,) and not torch.allclose(*jets)


def test_a_complex_field_has_the_sums_of_both_parts():
    u, x = ansatz(THIRD)
    jet = Forward()(u, x)
    psi = Complex(jet, jet.map(lambda t: 2 * t))
    close(torch.view_as_real(psi.sum_of(3)), torch.stack([by_nesting(u, x), 2 * by_nesting(u, x)], 1))


@pytest.mark.parametrize("residual", ["two_sample", "square"])
def test_the_loss_of_two_draws_is_unbiased_and_a_squared_one_is_not(monkeypatch, residual):
    problem = Biharmonic(2)
    u, x = ansatz(problem)
    hands = [hand for (hand,) in dealt(Hutchinson(1), problem.reads.sums[0])]
    twice = product(hands, repeat=2) if residual == "two_sample" else ((hand,) for hand in hands)
    term = lambda g: Loss(residual).terms(u, Hutchinson(1), {"interior": x}, g)["interior"]
    with torch.no_grad():
        mean = torch.stack(over(monkeypatch, chain.from_iterable(twice), term)).mean()
        exact = Loss().terms(u, Forward(), {"interior": x}, stream(0, "o"))["interior"]
        found = torch.stack(outcomes(monkeypatch, Hutchinson(1), u, x, torch.Tensor.detach))
    bias = found.var(0, correction=0).mean() * problem.residual_scale**2
    assert abs(mean - exact - (bias if residual == "square" else 0)) < 1e-12 * bias


def test_nothing_is_listed_in_many_dimensions(monkeypatch):
    """Neither what is read nor a step asks for the 5 * 10^7 terms."""
    monkeypatch.setattr(names, "_terms", lambda of: pytest.fail(f"the terms of {of}"))
    problem = Biharmonic(10_000)
    u = Ansatz(problem, build("metakan", 10_000, widths=(4,), spline_order=5, generator=stream(0, "net")))
    x = problem.domain.interior(2, stream(0, "x"))
    for operator in (Hutchinson(2), SDGD(2)):
        assert operator.counts(problem.reads) == ((8,) * 4)
        problem.residual(operator(u, x, generator=stream(0, "o")), x).square().sum().backward()


def train(tmp_path, problem, operator, **options):
    small = {"points": {"interior": 8, "test": 20, "validation": 10}, "backbone": {"name": "chebykan", "widths": [4]}}
    base = {"solver": "adam", "verify": False, "steps": 2, "out": str(tmp_path / "run.h5")}
    return kanpde.train(problem, operator=operator, **(base | small | options))


def test_a_run_in_a_hundred_dimensions(tmp_path, monkeypatch):
    """The estimate's variance is in its history; what is estimated is evaluated exactly nowhere."""
    monkeypatch.setattr(names, "_terms", lambda of: pytest.fail(f"the terms of {of}"))
    run = train(tmp_path, Biharmonic(100), {"name": "hutchinson", "probes": 4}, loss={"residual": "two_sample"})
    with h5py.File(run.path) as file:
        assert file["history"]["estimator_variance"][-1] > 0
        assert "interior" not in [name.decode() for name in file["residuals"]["name"][:]]


@pytest.mark.parametrize(
    ("problem", "operator", "complaint"),
    [
        (THIRD, {"name": "hutchinson"}, "u.sum_of(3): random directions give sums over squares alone"),
        (PAIRS, {"name": "hutchinson"}, "u.sum_of(2, 1, axes): random directions"),
        (OverTime(2), {"name": "sdgd", "dims": 3}, "dims: 3 coordinates a step, u.bilap is of 2"),
        (Biharmonic(200), {"name": "forward"}, "u.bilap has 40,000 terms, at most 20,000 are computed one by one"),
        (Summed(3, (0,)), {"name": "forward"}, "needed are how often by each coordinate, from 1 on"),
        (Summed(3, ()), {"name": "forward"}, "u.sum_of()"),
        (
            Summed(3, (1,), ((3,),)),
            {"name": "forward"},
            "axes has (3,), needed for each of the 1 powers: 1 number from",
        ),
        (Summed(3, (1, 2), ((1,),)), {"name": "forward"}, "2 numbers from 0 to 2"),
        (Summed(3, (1,), ((0,),), (1.0, 2.0)), {"name": "forward"}, "given 2 weights for 1 axes"),
        (Summed(3, (1,), None, (1.0,)), {"name": "forward"}, "weights are of the axes that are stated; none are"),
    ],
    ids=lambda case: getattr(case, "name", None),
)
def test_what_cannot_be_estimated_or_computed_is_refused_in_one_line(tmp_path, problem, operator, complaint):
    with pytest.raises(ConfigError) as info:
        train(tmp_path, problem, operator)
    assert complaint in str(info.value)
    one_line(info)
    assert not list(tmp_path.iterdir())


def test_a_start_that_reads_the_equation_exactly_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"start: constant reads u.bilap, which hutchinson draws; say start: network"):
        train(tmp_path, Biharmonic(3), "hutchinson", start="constant")


def test_units_of_a_sum_are_those_of_its_terms():
    lengths = torch.tensor([2.0, 0.5, 3.0], dtype=F64)
    for problem in (Biharmonic(3), THIRD, PAIRS):
        (of,) = problem.reads.sums
        terms = {index: abs(c) for index, c in of.terms.items()}
        assert of.at(lengths) == pytest.approx(sum(c * lengths[list(i)].prod().item() for i, c in terms.items()))
        assert of.times(0) == max(index.count(0) for index in terms)
        assert of.order == len(next(iter(terms)))
