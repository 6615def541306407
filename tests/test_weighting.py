"""Adaptive weights: balances of the terms against closed forms, emphases of the points, and resampling."""

from itertools import combinations
from math import exp

import pytest
import scipy.stats
import torch
from conftest import F64, close, generator, one_line, points
from torch import nn

from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.samplers import resampled
from kanpde.operators import Forward
from kanpde.problems import Heat
from kanpde.training.losses import Loss
from kanpde.training.weighting import NTK, RBA, Causal, GradNorm, ReLoBRaLo, ntk_trace

A, B = points(40, 5, seed=1), 100 * points(30, 5, seed=2)  # rows are grad r of linear residuals
NAN = float("nan")


def linear(theta):
    """Residuals r = rows . theta of two terms, one 100 times larger, and their mean squares."""
    residuals = {"interior": A @ theta, "boundary": B @ theta}
    return {name: r.square().mean() for name, r in residuals.items()}, residuals


def parameter(seed=3):
    return points(5, 1, seed)[:, 0].requires_grad_()


def step(balance, theta, g=None):
    terms, residuals = linear(theta)
    balance.update(terms, residuals, [theta], g or generator())
    return terms


def values(balance, seed=0, **terms):
    """One step of a balance that reads values alone."""
    balance.update({name: torch.tensor(value, dtype=F64) for name, value in terms.items()}, {}, [], generator(seed))
    return balance.weights


def reloaded(path, of, into, **device):
    torch.save(of.state_dict(), path)
    into.load_state_dict(torch.load(path, weights_only=True), **device)
    return into


# ---------------------------------------------------------------------------------------------------------------
# Balances


def test_gradnorm_gives_weighted_gradients_the_sum_of_the_norms():
    balance, theta = GradNorm(decay=0.0), parameter()
    terms = step(balance, theta)
    gradients = {name: 2 * m.T @ (m @ theta.detach()) / len(m) for name, m in (("interior", A), ("boundary", B))}
    norms = {name: gradient.norm() for name, gradient in gradients.items()}
    assert norms["boundary"] > 1000 * norms["interior"]
    for name, norm in norms.items():
        close(balance.weights[name] * norm, sum(norms.values()))
    assert theta.grad is None
    Loss().total(terms, balance.weights).backward()  # the graphs stay
    assert theta.grad.norm() > 0


def test_gradnorm_averages_from_one_and_updates_every_so_often():
    sharp, smooth, theta = GradNorm(decay=0.0), GradNorm(every=3, decay=0.75), parameter()
    step(sharp, theta)
    expected = dict.fromkeys(sharp.weights, 1.0)
    for number in range(7):
        step(smooth, theta)
        if number % 3 == 0:
            expected = {name: 0.75 * old + 0.25 * sharp.weights[name] for name, old in expected.items()}
        assert smooth.weights == pytest.approx(expected, rel=1e-12)


def test_terms_without_a_gradient_keep_their_weight():
    theta, other = parameter(), parameter(4)
    terms = {
        "interior": theta.square().sum(),
        "flat": 0 * theta.sum(),
        "constant": torch.ones(()),
        "other": other.sum(),
    }
    for balance in (GradNorm(decay=0.0), NTK(decay=0.0)):
        balance.update(terms, terms, [theta, torch.ones(2)], generator())
        assert balance.weights == {"interior": 1.0}
        balance.update({"interior": NAN * theta.sum()}, {"interior": NAN * theta.sum()}, [theta], generator())
        assert balance.weights == {"interior": 1.0}


def test_ntk_trace_of_signs_is_unbiased():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    parameters, r = list(net.parameters()), net(points(12, 2)).squeeze(1)
    per_sample = [torch.autograd.grad(one, parameters, retain_graph=True) for one in r]
    exact = sum(g.square().sum() for row in per_sample for g in row).item() / len(r)
    g = generator(5)
    draws = torch.tensor([ntk_trace(r, parameters, g) for _ in range(4000)], dtype=F64)
    deviation = (draws.std() / len(draws) ** 0.5).item()
    assert deviation < 0.05 * exact
    assert abs(draws.mean().item() - exact) < 3.5 * deviation


def test_ntk_balance_by_parts_is_that_of_all_residuals():
    """Exact for orthogonal gradients: traces (1 + 4 + 9) / 3 and 25, whatever the parts."""
    theta = torch.ones(4, dtype=F64, requires_grad=True)
    a, b = torch.tensor([1.0, 2.0, 3.0], dtype=F64) * theta[:3], 5 * theta[3:]
    for parts in ([{"a": a, "b": b}], [{"a": a[:2], "b": b}, {"a": a[2:]}]):
        balance = NTK(decay=0.0)
        balance.update_by_parts([({}, part) for part in parts], [theta], generator())
        total = 14 / 3 + 25
        assert balance.weights == pytest.approx({"a": total / (14 / 3), "b": total / 25}, rel=1e-12)


def test_ntk_trace_is_exact_for_orthogonal_gradients():
    theta, scales = parameter(), torch.arange(1.0, 6.0, dtype=F64)
    assert ntk_trace(scales * theta, [theta], generator()) == pytest.approx(55 / 5, rel=1e-12)
    pairs = (scales * theta).reshape(1, 5).expand(3, 5) * torch.eye(3, 5, dtype=F64)
    assert ntk_trace(pairs, [theta], generator()) == pytest.approx(14 / 15, rel=1e-12)


def test_ntk_weighs_inversely_to_the_mean_trace():
    theta, n = parameter(), {"interior": 5, "boundary": 10}
    residuals = {"interior": theta, "boundary": torch.cat([10 * theta, torch.zeros(5, dtype=F64)])}
    terms = {name: r.square().mean() for name, r in residuals.items()} | {"own": theta.sum()}
    balance = NTK(decay=0.0)
    balance.update(terms, residuals, [theta], generator())
    trace = {"interior": 5 / n["interior"], "boundary": 500 / n["boundary"]}
    assert balance.weights == pytest.approx({name: 51 / t for name, t in trace.items()}, rel=1e-12)


def test_relobralo_raises_the_weight_of_the_slower_term():
    balance = ReLoBRaLo(decay=0.9)
    for k in range(30):
        weights = values(balance, seed=k, fast=0.5**k, slow=0.9**k)
        assert sum(weights.values()) == pytest.approx(2, rel=1e-12)
    e = {"fast": exp(0.5), "slow": exp(0.9)}
    limit = {name: 2 * v / sum(e.values()) for name, v in e.items()}  # all ratios L(t) / L(t - 1) are constant
    expected = {name: 0.9**29 + (1 - 0.9**29) * v for name, v in limit.items()}
    assert weights == pytest.approx(expected, rel=1e-9) and weights["slow"] > 1.1


def test_relobralo_looks_back_by_chance():
    kept, back = ReLoBRaLo(decay=0.5, lookback=1.0), ReLoBRaLo(decay=0.5, lookback=0.0)
    for balance in (kept, back):
        for fast in (1.0, 0.1, 0.1):
            values(balance, fast=fast, slow=1.0)
    share = 2 / (1 + exp(0.9))  # of L(t) / L(0) = 0.1 and 1, and of the step from 1 to 0.1
    assert back.weights["fast"] == pytest.approx(0.5 * share + 0.5, rel=1e-12)
    assert kept.weights["fast"] == pytest.approx(0.5 * (0.5 + 0.5 * share) + 0.5, rel=1e-12)
    mixed, g, looked = ReLoBRaLo(decay=0.5, lookback=0.75), generator(6), 0
    for _ in range(2000):
        mixed.weights, mixed.first, mixed.last = {"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 9.0}, {"a": 1.0, "b": 1.0}
        mixed.update({"a": torch.ones(()), "b": torch.ones(())}, {}, [], g)
        looked += mixed.weights["a"] != 1
    assert scipy.stats.binomtest(looked, 2000, 0.25).pvalue > 1e-3


def test_relobralo_at_a_low_temperature_sees_only_the_slowest():
    weights = [ReLoBRaLo(temperature=t, decay=0.0) for t in (1e-3, 1e3)]
    for balance in weights:
        values(balance, fast=1.0, slow=1.0)
        values(balance, fast=0.5, slow=0.9)
    assert weights[0].weights == pytest.approx({"fast": 0, "slow": 2}, abs=1e-12)
    assert weights[1].weights == pytest.approx({"fast": 1, "slow": 1}, abs=1e-3)


def test_relobralo_survives_zeros_and_begins_anew_with_other_terms():
    balance = ReLoBRaLo(decay=0.0)
    for value in (0.0, 0.0, 100.0):
        weights = values(balance, a=value, b=1.0)
        assert sum(weights.values()) == pytest.approx(2)
    assert values(balance, a=1.0, b=1.0, c=3.0) == {"a": 1.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize("kind", [GradNorm, NTK, ReLoBRaLo])
def test_a_balance_continues_bit_exactly(kind, tmp_path):
    options = {"lookback": 0.5} if kind is ReLoBRaLo else {"every": 2}
    steps, balance, g, whole = [parameter(seed) for seed in range(7)], kind(**options), generator(7), []
    for theta in steps:
        step(balance, theta, g)
        whole.append(balance.state_dict())
    assert min(balance.weights.values()) != 1
    balance, g = kind(**options), generator(7)
    for theta, state in zip(steps, whole, strict=True):  # written and read at each step
        balance = reloaded(tmp_path / "balance.pt", balance, kind(**options))
        step(balance, theta, g)
        assert balance.state_dict() == state


@pytest.mark.parametrize("balance", [GradNorm(every=1), NTK(every=1), ReLoBRaLo()])
def test_balances_read_the_loss_of_a_network(balance):
    problem = Heat(3)
    u = Ansatz(problem, build("kan", problem.domain.dim, widths=(4,), generator=generator()).double(), hard=False)
    g, kind = generator(8), {"dtype": F64}
    draw = {"interior": problem.domain.interior, "boundary": problem.domain.boundary, "initial": problem.domain.initial}
    before = None
    for _ in range(2):
        residuals = Loss().residuals(u, Forward(), {name: f(9, g, **kind) for name, f in draw.items()}, g)
        terms = {name: r.square().mean() for name, r in residuals.items()}
        balance.update(terms, residuals, list(u.parameters()), g)
        assert list(balance.weights) == list(draw) and balance.weights != before
        before = balance.weights
    sum(terms.values()).backward()


# ---------------------------------------------------------------------------------------------------------------
# Emphases


def test_rba_follows_its_recursion_and_focuses_on_large_residuals():
    x, r = points(6, 3), torch.tensor([0.0, 1, -2, 3, -8, 4], dtype=F64)
    rba, expected = RBA(rate=0.1, decay=0.5), torch.zeros(6, dtype=F64)
    assert rba.weights(x) is None
    for _ in range(60):
        rba.update(x, r.clone().requires_grad_())
        expected = 0.5 * expected + 0.1 * r.abs() / 8
        close(rba.weights(x), expected.square())
    close(rba.weights(x), (0.2 * r.abs() / 8).square())  # rate / (1 - decay) at the largest
    assert rba.weights(x).argmax() == 4 and not rba.weights(x).requires_grad


def test_rba_begins_anew_with_other_points():
    x, other, r = points(6, 3), points(6, 3, seed=4), torch.arange(6.0, dtype=F64)
    rba = RBA(rate=0.1)
    for _ in range(3):
        rba.update(x, r)
    assert rba.weights(other) is None and rba.weights(x[:5]) is None and rba.weights(x.float()) is None
    close(rba.weights(x.clone()), (0.1 * r / 5 * (1 + 0.999 + 0.999**2)).square())
    rba.update(other, r.flip(0))
    assert rba.weights(x) is None
    close(rba.weights(other), (0.1 * r.flip(0) / 5).square())
    other += 1  # in place: these are other points, too
    assert rba.weights(other) is None
    rba.update(x, torch.zeros(6, dtype=F64))
    assert not rba.weights(x).any()


def in_time(t):
    """Points whose last coordinate is t."""
    return torch.cat([points(len(t), 2), torch.as_tensor(t, dtype=F64)[:, None]], 1)


def test_causal_is_the_exponential_of_the_earlier_bins():
    causal, x = Causal(bins=4, epsilon=0.5, time=2.0, decay=0.0), in_time([0.0, 0.4, 0.7, 1.2, 1.9, 2.0])
    assert causal.weights(x) is None
    causal.update(x, torch.tensor([1.0, 2, 1, -3, 5, 5], dtype=F64).requires_grad_())
    losses = [2.5, 1, 9, 25]
    sums = torch.tensor([0, 0, *(sum(losses[:m]) for m in (1, 2, 3, 3))], dtype=F64)
    close(causal.weights(x), torch.exp(-0.5 * sums))
    first = Causal(dim_time=0, bins=4, epsilon=0.5, time=2.0, decay=0.0)
    first.update(x.flip(1), torch.tensor([1.0, 2, 1, -3, 5, 5], dtype=F64))
    assert torch.equal(first.weights(x.flip(1)), causal.weights(x))


def test_causal_opens_late_bins_when_early_ones_are_small():
    causal, x = Causal(bins=8, epsilon=10.0, decay=0.5), in_time(torch.linspace(0, 1, 64))
    residual = torch.ones(64, dtype=F64)
    causal.update(x, residual)
    w = causal.weights(x)
    assert (w[:8] == 1).all() and (w[8:] < 1e-4).all() and (w.diff() <= 0).all()
    residual[:32] = 1e-3
    for _ in range(30):
        causal.update(x, residual)
    w = causal.weights(x)
    assert (w[:36] > 0.99).all() and (w[40:] < 1e-4).all() and (w.diff() <= 0).all()


def test_causal_averages_where_it_sees_points_and_keeps_the_rest():
    causal, x = Causal(bins=3, decay=0.75), in_time([0.1, 0.5, 0.9])
    causal.update(x[:1], torch.tensor([2.0], dtype=F64))
    close(causal.weights(x), torch.tensor([0.0, -4, -4], dtype=F64).exp())  # bins not seen: by those before them
    causal.update(x[1:2], torch.tensor([1.0], dtype=F64))
    close(causal.weights(x), torch.tensor([0.0, -4, -5], dtype=F64).exp())
    causal.update(x[:2], torch.tensor([0.0, 3.0], dtype=F64))
    close(causal.weights(x), torch.tensor([0.0, -3, -3 - (0.75 + 0.25 * 9)], dtype=F64).exp())


@pytest.mark.parametrize("make", [lambda: RBA(), lambda: Causal(bins=4)], ids=["RBA", "Causal"])
def test_an_emphasis_continues_bit_exactly(make, tmp_path):
    x, rounds = in_time(torch.linspace(0, 1, 20)), points(6, 20, seed=9)
    whole, half = make(), make()
    reloaded(tmp_path / "new.pt", half, make())  # before the first update
    for r in rounds:
        whole.update(x, r)
    for r in rounds[:3]:
        half.update(x, r)
    half = reloaded(tmp_path / "emphasis.pt", half, make(), device="cpu")
    assert half.weights(x) is not None
    for r in rounds[3:]:
        half.update(x, r)
    assert torch.equal(whole.weights(x), half.weights(x)) and len(whole.weights(x).unique()) > 3


# ---------------------------------------------------------------------------------------------------------------
# Resampling


def chi_square(found, p, draws):
    assert scipy.stats.chisquare(found, [q * draws for q in p]).pvalue > 1e-3


@pytest.mark.parametrize("power, offset", [(1.0, 1.0), (2.0, 0.0), (0.5, 3.0), (0.0, 1.0)])
def test_resampled_follows_the_density(power, offset):
    r = torch.tensor([-1.0, 0.5, 3.0, 2.0, -4.0], dtype=F64)
    p = r.abs() ** power / (r.abs() ** power).mean() + offset
    p = (p / p.sum()).tolist()
    candidates, g, draws = torch.arange(5)[:, None], generator(10), 5000
    ones = torch.cat([resampled(candidates, r, 1, g, power, offset) for _ in range(draws)])
    chi_square(ones.flatten().bincount(minlength=5).tolist(), p, draws)
    pairs = torch.stack([resampled(candidates, r, 2, g, power, offset)[:, 0].sort().values for _ in range(draws)])
    found = [((pairs[:, 0] == i) & (pairs[:, 1] == j)).sum().item() for i, j in combinations(range(5), 2)]
    assert sum(found) == draws  # never the same twice
    chi_square(found, [p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i, j in combinations(range(5), 2)], draws)
    if power == 0:
        assert p == pytest.approx([0.2] * 5)


def test_resampled_survives_extremes():
    candidates, g = points(8, 3), generator(11)
    for r in (torch.zeros(8), torch.full((8,), 1e30), torch.full((8,), 1e-30)):
        drawn = resampled(candidates, r, 8, g, power=3.0, offset=0.0)
        close(drawn.sort(0).values, candidates.sort(0).values)
    one = torch.zeros(8).index_fill(0, torch.tensor([5]), 1e-20).requires_grad_()
    drawn = resampled(candidates, one, 1, g, offset=0.0)
    assert torch.equal(drawn, candidates[5:6]) and not drawn.requires_grad
    again = [resampled(candidates, points(1, 8)[0], 4, generator(12)) for _ in range(2)]
    assert torch.equal(*again)


# ---------------------------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize(
    "bad",
    [
        *(lambda kind=kind: kind(every=0) for kind in (GradNorm, NTK)),
        *(lambda kind=kind, d=d: kind(decay=d) for kind in (GradNorm, NTK, RBA, Causal) for d in (-0.1, 1.0, NAN)),
        *(lambda t=t: ReLoBRaLo(temperature=t) for t in (0, -1, NAN)),
        *(lambda p=p: ReLoBRaLo(lookback=p) for p in (-0.1, 1.1, NAN)),
        lambda: ReLoBRaLo(decay=1.0),
        *(lambda rate=rate: RBA(rate=rate) for rate in (0, -1, NAN, float("inf"))),
        lambda: Causal(bins=0),
        *(lambda e=e: Causal(epsilon=e) for e in (-1, NAN, float("inf"))),
        *(lambda t=t: Causal(time=t) for t in (0, -1, NAN, float("inf"))),
        *(lambda make=make: make().update(points(4, 2), torch.ones(2, 4)) for make in (RBA, Causal)),
        lambda: resampled(points(4, 2), torch.ones(4), 5, generator()),
        lambda: resampled(points(4, 2), torch.ones(3), 2, generator()),
        *(lambda v=v: resampled(points(2, 2), torch.tensor([1.0, v]), 1, generator()) for v in (NAN, float("inf"))),
        lambda: resampled(points(4, 2), torch.ones(4), 2, generator(), power=-1.0),
        lambda: resampled(points(4, 2), torch.ones(4), 2, generator(), offset=-1.0),
    ],
)
def test_bad_options_are_one_line(bad):
    with pytest.raises(ValueError) as info:
        bad()
    one_line(info)
