"""The contract of every basis: values and derivatives against formulas written out anew, first weights, transforms."""

import copy
from functools import partial
from math import comb, pi, sqrt

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from conftest import F64, close, generator, one_line, points
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.functional import gelu, silu, softplus

from kanpde.backbones import build
from kanpde.kan.basis import (
    BASES,
    BSpline,
    Chebyshev,
    Fourier,
    GaussianRBF,
    Gram,
    Legendre,
    Wavelet,
    base,
    bspline,
    wavelet,
)
from kanpde.kan.basis.base import SPREAD, Basis, LinearBasis
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct
from kanpde.operators import Forward

CASES = {
    "bspline-order3": partial(BSpline, grid_size=5, spline_order=3),
    "bspline-order4-gelu": partial(BSpline, grid_size=4, spline_order=4, base="gelu"),
    "bspline-order5-identity": partial(BSpline, grid_size=3, spline_order=5, base="identity"),
    "bspline-local": partial(BSpline, grid_size=bspline.LOCAL_FROM, spline_order=3, base="none"),
    "bspline-local-order4": partial(BSpline, grid_size=bspline.LOCAL_FROM + 3, spline_order=4),
    "rbf": partial(GaussianRBF),
    "rbf-gelu": partial(GaussianRBF, centers=2, base="gelu"),
    "rbf-none": partial(GaussianRBF, centers=5, base="none"),
    "chebyshev": partial(Chebyshev),
    "chebyshev-plain-silu": partial(Chebyshev, degree=5, base="silu", squash="none"),
    "chebyshev-degree1": partial(Chebyshev, degree=1),
    "legendre": partial(Legendre),
    "legendre-plain-identity": partial(Legendre, degree=4, base="identity", squash="none"),
    "legendre-none": partial(Legendre, degree=2, base="none"),
    "gram": partial(Gram),
    "gram-outer": partial(Gram, degree=3, outer="silu"),
    "gram-outer-plain-gelu": partial(Gram, degree=4, base="gelu", squash="none", outer="silu"),
    "gram-plain-none": partial(Gram, degree=5, base="none", squash="none"),
    "fourier": partial(Fourier),
    "fourier-identity": partial(Fourier, harmonics=1, base="identity"),
    "fourier-none": partial(Fourier, harmonics=3, base="none"),
    "wavelet-dog": partial(Wavelet, wavelet="dog"),
    "wavelet-mexican_hat": partial(Wavelet, wavelet="mexican_hat"),
    "wavelet-morlet": partial(Wavelet, wavelet="morlet"),
}
LINEAR = [case for case in CASES if "wavelet" not in case]
WAVELETS = [case for case in CASES if "wavelet" in case]
RANGES = {"one": (-2.0, 2.0), "each": [(-1.0, 1.0), (0.0, 2.5), (-0.25, 0.125)]}  # exact in float32
BASE = {"silu": silu, "gelu": gelu, "identity": lambda x: x}


def made(case: str, n_in: int = 3, grid_range=(-1.0, 1.0)) -> Basis:
    """The basis in float64, its parameters not those that it starts from, its centres not rounded to float32."""
    basis = CASES[case](n_in, grid_range=grid_range).double()
    with torch.no_grad():
        if isinstance(basis, GaussianRBF):
            basis.centers.copy_(torch.linspace(-1, 1, basis.count, dtype=F64))
        if isinstance(basis, Gram):
            basis.beta.add_(0.3 * points(1, len(basis.beta), seed=3)[0])
    return basis


def across(basis: Basis, n: int = 9, seed: int = 5) -> Tensor:
    """n points per input, up to a fifth of the range outside of it on either side."""
    return basis.low + (basis.high - basis.low) * (points(n, len(basis.low), seed, reach=0.7) + 0.5)


def weights_of(basis: Basis, n_out: int = 2, seed: int = 6) -> Tensor:
    """theta (in, size, out) of order one."""
    return points(len(basis.low) * basis.size, n_out, seed).reshape(len(basis.low), basis.size, n_out)


def derivatives(function, x: Tensor, up_to: int) -> list[Tensor]:
    """[f, f', ...] by autograd, of f (N, in, C) whose entries depend on x (N, in) at the same place alone."""
    count = function(x).shape[-1]
    tall = x.repeat(count, 1) if x.requires_grad else x.repeat(count, 1).requires_grad_()  # a copy for each column
    f = function(tall).unflatten(0, (count, -1)).diagonal(dim1=0, dim2=-1).movedim(-1, 0).flatten(0, 1)
    out = [f]
    for _ in range(up_to):
        (f,) = torch.autograd.grad((f + 0 * tall).sum(), tall, create_graph=True)
        out.append(f)
    return [f.unflatten(0, (count, -1)).movedim(0, -1) for f in out]


# The formulas, in plain operations that autograd differentiates ----------------------------------------------------


def spline_reference(x: Tensor, low: Tensor, high: Tensor, grid_size: int, k: int) -> Tensor:
    """The recursion of Cox and de Boor."""
    step = (high - low) / grid_size
    knot = lambda j: low + step * (j - k)
    b = [((knot(j) <= x) & (x < knot(j + 1))).double() for j in range(grid_size + 2 * k)]
    for d in range(1, k + 1):
        b = [
            (x - knot(j)) / (d * step) * b[j] + (knot(j + d + 1) - x) / (d * step) * b[j + 1] for j in range(len(b) - 1)
        ]
    return torch.stack(b, -1)


def polynomials(coefficients: list[np.ndarray], t: Tensor) -> Tensor:
    """Polynomials of t by their coefficients, lowest first."""
    return torch.stack([sum(c * t**i for i, c in enumerate(of.tolist())) + 0 * t for of in coefficients], -1)


def gram_reference(basis: Gram, t: Tensor) -> Tensor:
    p = [torch.ones_like(t), t]
    for n in range(1, basis.degree):
        p.append(t * p[n] - basis.beta[n - 1] * p[n - 1])
    p = torch.stack(p, -1)
    return silu(p) if basis.outer == "silu" else p


def formula(basis: LinearBasis, x: Tensor, inputs=slice(None)) -> Tensor:
    """All functions of an edge at x (N, in): (N, in, size)."""
    low, high = basis.low[inputs], basis.high[inputs]
    z = 2 * (x - low) / (high - low) - 1
    t = torch.tanh(z) if getattr(basis, "squash", "") == "tanh" else z
    unit = lambda n: [0] * n + [1]
    if isinstance(basis, BSpline):
        b = spline_reference(x, low, high, basis.grid_size, basis.spline_order)
    elif isinstance(basis, GaussianRBF):
        width = (high - low) / (basis.count - 1)
        b = torch.stack([torch.exp(-(((x - low - j * width) / width) ** 2)) for j in range(basis.count)], -1)
    elif isinstance(basis, Chebyshev):
        b = polynomials([np.polynomial.chebyshev.cheb2poly(unit(n)) for n in range(basis.degree + 1)], t)
    elif isinstance(basis, Legendre):
        b = polynomials([np.polynomial.legendre.leg2poly(unit(n)) for n in range(basis.degree + 1)], t)
    elif isinstance(basis, Gram):
        b = gram_reference(basis, t)
    else:
        angles = [k * pi / 2 * z for k in range(1, basis.harmonics + 1)]
        b = torch.stack([*map(torch.cos, angles), *map(torch.sin, angles)], -1)
    return b if basis.base == "none" else torch.cat([b, BASE[basis.base](x).unsqueeze(-1)], -1)


PSI = {
    "dog": lambda u: -u * torch.exp(-(u**2) / 2),
    "mexican_hat": lambda u: 2 / (sqrt(3) * pi**0.25) * (u**2 - 1) * torch.exp(-(u**2) / 2),
    "morlet": lambda u: torch.cos(5 * u) * torch.exp(-(u**2) / 2),
}


def sigma_of(raw: Tensor) -> Tensor:
    """0.05 + softplus(raw + c), which is 1 at raw = 0."""
    return 0.05 + softplus(raw + np.log(np.expm1(0.95)))


def edge_functions(basis: Basis, x: Tensor, theta: Tensor, inputs=slice(None)) -> Tensor:
    """phi_io(x_i), (N, in, out)."""
    if isinstance(basis, LinearBasis):
        return torch.einsum("nic,ico->nio", formula(basis, x, inputs), theta)
    low, high = basis.low[inputs], basis.high[inputs]
    z = 2 * (x - low) / (high - low) - 1
    raw, mu, w = theta.unbind(1)
    return w * PSI[basis.wavelet]((z.unsqueeze(-1) - mu) / sigma_of(raw))


# Values and derivatives --------------------------------------------------------------------------------------------


def test_every_basis_is_a_case():
    assert {type(made(case)) for case in CASES} == set(BASES.values())


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("case", LINEAR)
def test_functions_and_four_derivatives_equal_their_formulas(case, ranges):
    """Orders 0 to 2 in closed form, 3 and 4 by the backward of the backward of all of them."""
    basis = made(case, 3, RANGES[ranges])
    x = across(basis)
    expected = derivatives(lambda x: formula(basis, x), x, 4)
    for order in (0, 1, 2):
        assert len(basis.features(x, order)) == order + 1
        for r in range(order + 1):
            function = lambda x, order=order, r=r: basis.features(x, order)[r]
            for n, got in enumerate(derivatives(function, x, 4 - r)):
                close(got, expected[r + n], 1e-11 if n else 1e-12, f"derivative {n} of derivative {r} of {order}")


@pytest.mark.parametrize("q_rows", [1, 9])
@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("case", CASES)
def test_contraction_equals_the_sum_over_the_edges(case, ranges, q_rows):
    """Value, slope and bend, and their gradients in x, theta, the curvature and what the basis trains."""
    basis = made(case, 3, RANGES[ranges])
    x, theta = across(basis).requires_grad_(), weights_of(basis).requires_grad_()
    q = points(q_rows, 3, seed=8).requires_grad_()
    phi, slope, second = derivatives(lambda x: edge_functions(basis, x, theta), x, 2)
    expected = phi.sum(1), slope, (q.unsqueeze(-1) * second).sum(1)
    got = basis.contract(x, theta, slope=True, curvature=q)
    trained = [p for p in basis.parameters() if p.requires_grad]
    for a, b, name in zip(got, expected, got._fields, strict=True):
        close(a, b, 1e-12, name)
        of = [x, theta, *trained, *[q] * (name == "bend")]
        gradients = [torch.autograd.grad(f.sin().sum(), of, retain_graph=True, allow_unused=True) for f in (a, b)]
        for c, d in zip(*gradients, strict=True):
            assert (c is None) == (d is None)
            if c is not None:
                close(c, d, 1e-10, f"gradient of {name}")


@pytest.mark.parametrize("case", CASES)
def test_contraction_gives_what_is_asked_for(case):
    basis = made(case)
    x, theta, q = across(basis), weights_of(basis), points(1, 3)
    whole = basis.contract(x, theta, slope=True, curvature=q)
    for slope, curvature in ((False, None), (True, None), (False, q)):
        edges = basis.contract(x, theta, slope=slope, curvature=curvature)
        assert (edges.slope is None, edges.bend is None) == (not slope, curvature is None)
        for part, of_whole in zip(edges, whole, strict=True):
            assert part is None or (part - of_whole).abs().max() <= 1e-14 * of_whole.abs().max()
    empty = basis.contract(x[:0], theta, slope=True, curvature=q)
    assert [t.shape for t in empty] == [(0, 2), (0, 3, 2), (0, 2)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("inputs", [slice(1, 3), slice(0, 1), torch.tensor([2, 0])], ids=str)
def test_inputs_say_which_columns_the_points_are(case, inputs):
    basis = made(case, 3, RANGES["each"])
    x, theta, q = across(basis), weights_of(basis), points(9, 3, seed=8)
    got = basis.contract(x[:, inputs], theta[inputs], inputs, slope=True, curvature=q[:, inputs])
    whole = basis.contract(x, theta, slope=True, curvature=q)
    close(got.value, edge_functions(basis, x, theta)[:, inputs].sum(1))
    close(got.slope, whole.slope[:, inputs])
    alone = [basis.contract(x[:, [i]], theta[[i]], torch.tensor([i]), curvature=q[:, [i]]).bend for i in range(3)]
    close(got.bend, sum(torch.stack(alone)[inputs]))
    close(whole.bend, sum(alone))


@pytest.mark.parametrize("case", LINEAR)
def test_linear_bases_are_linear_in_theta(case):
    basis = made(case)
    x, q, a, b = across(basis), points(9, 3, seed=8), weights_of(basis, seed=6), weights_of(basis, seed=7)
    parts = [basis.contract(x, theta, slope=True, curvature=q) for theta in (2 * a - 3 * b, a, b)]
    for both, of_a, of_b in zip(*parts, strict=True):
        close(both, 2 * of_a - 3 * of_b)


@pytest.mark.parametrize("case", LINEAR)
def test_size_counts_the_functions_and_the_base(case):
    basis = made(case)
    x = across(basis)
    assert basis.size == basis.count + (basis.base != "none") == basis.features(x, 0)[0].shape[-1]
    assert basis.functions(x, 0)[0].shape[-1] == basis.count == len(basis.init_activation()) - (basis.base != "none")
    assert basis.base_function(x, 1)[1].shape == (9, 3, basis.base != "none")
    for order in (0, 1, 2):
        assert basis.footprint(7, order) == sum(f[0, 0].numel() for f in basis.features(x, order))


DEFAULTS = {"bspline": 9, "rbf": 9, "chebyshev": 9, "legendre": 9, "gram": 9, "fourier": 9, "wavelet": 3}


@pytest.mark.parametrize("name", BASES)
def test_default_sizes_and_ranges(name):
    """Nine weights to an edge, as a cubic spline on 5 intervals has with its base; [-1, 1] but for the Gaussians."""
    basis = BASES[name](2)
    assert basis.size == DEFAULTS[name]
    assert basis.high.tolist() == ([2, 2] if name == "rbf" else [1, 1])
    assert basis.low.tolist() == (-basis.high).tolist()


@pytest.mark.parametrize("case", CASES)
def test_float32_is_the_same_function(case):
    single, theta = CASES[case](3).float(), None
    double = copy.deepcopy(single).double()
    x, theta = across(double), weights_of(double)
    for a, b in zip(
        *(
            basis.contract(x.to(d), theta.to(d), slope=True, curvature=x.to(d) ** 2)
            for basis, d in ((single, torch.float32), (double, F64))
        ),
        strict=True,
    ):
        assert a.dtype == torch.float32
        close(a.double(), b, 2e-4)


@pytest.mark.parametrize("case", CASES)
def test_far_away_everything_is_finite(case):
    """Functions on tanh or of compact support stay bounded, and a base of x itself grows no faster than x."""
    basis = made(case)
    x = torch.tensor([-1e6, -40.0, 40.0, 1e6], dtype=F64)[:, None].expand(-1, 3).clone().requires_grad_()
    theta = weights_of(basis).requires_grad_()
    parts = basis.contract(x, theta, slope=True, curvature=points(1, 3))
    gradients = torch.autograd.grad(sum(p.sum() for p in parts), [x, theta])
    assert all(t.isfinite().all() for t in (*parts, *gradients))
    if getattr(basis, "squash", "tanh") == "tanh":
        assert parts.value.abs().max() <= 20 + 3e6 and parts.slope.abs().max() <= 20


def test_points_that_are_not_numbers_give_values_that_are_not():
    """A run that diverges shows as such, with any number of intervals."""
    x = torch.tensor([[float("nan")], [0.3], [float("inf")]], dtype=F64)
    for case in CASES:
        basis = made(case, 1)
        value = basis.contract(x, weights_of(basis)).value
        assert value[0].isnan().all() and value[1].isfinite().all(), case


# The formulas against other libraries ------------------------------------------------------------------------------


@pytest.mark.parametrize("name, evaluate", [("chebyshev", "eval_chebyt"), ("legendre", "eval_legendre")])
def test_polynomials_are_those_of_scipy(name, evaluate):
    x = across(made(name, 1), 50)
    for squash, t in (("tanh", np.tanh(x.numpy())), ("none", x.numpy())):
        basis = BASES[name](1, degree=9, base="none", squash=squash).double()
        expected = getattr(scipy.special, evaluate)(np.arange(10), t[..., None])
        close(basis.features(x, 0)[0], torch.from_numpy(expected), 1e-13)


def test_gram_polynomials_start_as_monic_legendre_polynomials():
    x = across(made("gram", 1), 50)
    basis = Gram(1, degree=7, base="none", squash="none").double()
    monic = [2**n / comb(2 * n, n) for n in range(8)]
    expected = scipy.special.eval_legendre(np.arange(8), x.numpy()[..., None]) * monic
    close(basis.features(x, 0)[0], torch.from_numpy(expected), 1e-6)  # beta is built in float32


def test_gaussians_are_those_of_scipy():
    """exp(-u^2) is a normal density of deviation delta / sqrt 2, up to its factor."""
    basis, x = made("rbf", 1, (-2.0, 3.0)), torch.linspace(-4, 5, 40, dtype=F64)[:, None]
    centers, delta = np.linspace(-2, 3, 8), 5 / 7
    density = scipy.stats.norm.pdf(x.numpy(), centers, delta / sqrt(2)) * delta * sqrt(pi)
    close(basis.functions(x, 0)[0][:, 0], torch.from_numpy(density))
    assert torch.equal(basis.centers, torch.linspace(-1, 1, 8, dtype=F64)) and not basis.centers.requires_grad
    assert torch.equal(GaussianRBF(1).centers, torch.linspace(-1, 1, 8))


@pytest.mark.parametrize("name", WAVELETS)
def test_wavelet_of_unit_scale_is_the_mother_wavelet_of_scipy_s_formulas(name):
    """The Mexican hat integrates to zero with a square that integrates to one; all are of the shape stated."""
    basis = made(name, 1)
    x = torch.linspace(-9, 9, 4001, dtype=F64)[:, None]
    psi = basis.contract(x, basis.init_activation().double().reshape(1, 3, 1)).value
    close(psi, PSI[basis.wavelet](x))
    if basis.wavelet == "mexican_hat":
        close(torch.trapezoid(psi**2, x, dim=0), torch.ones(1, dtype=F64), 1e-10)
    if basis.wavelet != "morlet":
        assert torch.trapezoid(psi, x, dim=0).abs() < 1e-10


@pytest.mark.parametrize("name", BASE)
def test_base_functions_are_those_of_torch(name):
    x, basis = torch.linspace(-7, 7, 60, dtype=F64)[:, None], BSpline(1, base=name).double()
    expected = derivatives(lambda x: BASE[name](x).unsqueeze(-1), x, 4)
    for r in range(3):
        for n, f in enumerate(derivatives(lambda x, r=r: basis.base_function(x, 2)[r], x, 4 - r)):
            size = max(1, expected[r + n].abs().max())
            assert (f - expected[r + n]).abs().max() <= 1e-13 * size, f"derivative {n} of derivative {r}"


def check_contraction(basis, x: Tensor, theta: Tensor) -> None:
    """The contraction is the sum of the edge functions, and so are its first and second derivatives."""
    results = []
    for value in (basis.contract(x, theta).value, edge_functions(basis, x, theta).sum(1)):
        first = torch.autograd.grad(value.sin().sum(), [x, theta], create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), [x, theta])
        results.append([value, *first, *second])
    for got, expected in zip(*results, strict=True):
        close(got, expected, 1e-11)


@pytest.mark.parametrize("tile", [1, 5, 7, 2**13])
@pytest.mark.parametrize("case", LINEAR)
def test_tiles_of_points_are_the_points(monkeypatch, case, tile):
    """9 points, 3 inputs: one point a tile (the last case of 3 numbers to 5 too), two, all."""
    basis = made(case)
    monkeypatch.setattr(base, "TILE", tile)
    assert len(base._tiles(torch.empty(9, 3), -1)) == {1: 9, 5: 9, 7: 5, 2**13: 1}[tile]
    x, theta = across(basis).requires_grad_(), weights_of(basis).requires_grad_()
    check_contraction(basis, x, theta)
    empty = basis.contract(x[:0], theta).value
    assert empty.shape == (0, 2) and torch.equal(torch.autograd.grad(empty.sum(), x)[0], torch.zeros_like(x))


# Splines of local support ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_local_splines_equal_all_splines(monkeypatch, order):
    """At knots, at the ends, outside the grid and far from it, derivatives beyond the order included."""
    size, (low, high) = bspline.LOCAL_FROM, (-2.0, 1.0)
    knots = torch.linspace(low, high, size + 1, dtype=F64)
    step = (high - low) / size
    outside = torch.tensor([n * step for n in range(1, order + 3)], dtype=F64)
    x = torch.cat([knots, knots + step / 3, low - outside, high + outside, low - outside + step / 7,
                   torch.tensor([-1e9, 1e9], dtype=F64)])[:, None]  # fmt: skip
    basis = BSpline(1, size, order, (low, high)).double()
    calls = []
    cardinal = bspline._cardinal
    monkeypatch.setattr(bspline, "_cardinal", lambda tau, *a: calls.append(tau.shape[-1]) or cardinal(tau, *a))
    local = basis.formula()(0, 5, x, *basis.constants(slice(None)))
    monkeypatch.setattr(bspline, "LOCAL_FROM", size + 1)
    dense = basis.formula()(0, 5, x, *basis.constants(slice(None)))
    assert calls == [order + 1, size + order]
    for r, (a, b) in enumerate(zip(local, dense, strict=True)):
        assert a.shape == b.shape and (a - b).abs().max() <= 1e-13 * max(1, b.abs().max()), f"derivative {r}"


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [bspline.LOCAL_FROM, 60])
def test_local_splines_sum_to_one_on_the_grid(order, size):
    x = torch.linspace(-1, 1, 3 * size + 1, dtype=F64)[:, None]  # the knots and the ends too
    splines = BSpline(1, size, order).double().functions(x, 0)[0]
    assert splines.shape[-1] == size + order and splines.min() >= 0
    assert (splines > 0).sum(-1).max() <= order + 1
    close(splines.sum(-1), torch.ones_like(x), 1e-13)


# Wavelets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4])
def test_scale_of_a_wavelet_stays_away_from_zero(raw):
    """The slope of the dog at its centre is -w / sigma; at raw = 0 sigma is 1."""
    basis = made("wavelet-dog", 1)
    theta = torch.tensor([raw, 0.25, 1.0], dtype=F64).reshape(1, 3, 1)
    sigma = -1 / basis.contract(torch.full((1, 1), 0.25, dtype=F64), theta, slope=True).slope
    assert sigma >= wavelet.SMALLEST * (1 - 1e-12)
    close(sigma, sigma_of(torch.full((1, 1, 1), raw, dtype=F64)))
    assert raw or abs(sigma - 1) < 1e-12


@pytest.mark.parametrize("case", WAVELETS)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
def test_gradients_of_extreme_wavelets_are_finite(case, dtype):
    basis = CASES[case](3).to(dtype)
    extremes = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)] * 3)  # (27, 3)
    theta = extremes.T.expand(3, 3, 27).clone().requires_grad_()
    x = across(basis.double()).to(dtype).requires_grad_()
    parts = basis.to(dtype).contract(x, theta, slope=True, curvature=x.detach() ** 2)
    assert all(p.isfinite().all() for p in parts)
    for part in (parts, parts[:1]):
        gradients = torch.autograd.grad(sum(p.sum() for p in part), [x, theta], retain_graph=True)
        assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("case", WAVELETS)
def test_wavelets_are_linear_in_their_last_weight(case):
    basis = made(case)
    x, theta = across(basis), weights_of(basis)
    other = theta.clone()
    other[:, 2] *= -3
    for a, b in zip(*(basis.contract(x, t, slope=True, curvature=x) for t in (theta, other)), strict=True):
        close(b, -3 * a)


@pytest.mark.parametrize("tile", [1, 2 * 9 * 2, 2**16])
@pytest.mark.parametrize("case", WAVELETS)
def test_tiles_of_a_wavelet_sum_are_the_sum(monkeypatch, case, tile):
    """9 points, 5 inputs, 2 outputs: one input a tile, two a tile (the last one alone), all."""
    basis = made(case, 5)
    monkeypatch.setattr(wavelet, "TILE", tile)
    sizes = [len(mu) for _, mu in wavelet._tiles(torch.empty(9, 5), torch.empty(5, 2))]
    assert sizes == {1: [1] * 5, 36: [2, 2, 1], 2**16: [5]}[tile]
    x, theta = across(basis).requires_grad_(), weights_of(basis).requires_grad_()
    check_contraction(basis, x, theta)


@pytest.mark.parametrize("tile", [1, 2**16])
@pytest.mark.parametrize("name", ["dog", "mexican_hat", "morlet"])
def test_wavelet_sum_passes_gradgradcheck(monkeypatch, name, tile):
    monkeypatch.setattr(wavelet, "TILE", tile)
    z, mu, w = points(2, 2, 1), points(2, 2, 2), points(2, 2, 3)
    rate = 1.5 + points(2, 2, 4)
    given = [t.requires_grad_() for t in (z, mu, rate, w)]
    function = lambda *t: wavelet._WaveletSum.apply(wavelet.WAVELETS[name], *t)
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


# What weights start from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid_range", [(-1.0, 1.0), (-2.0, 2.0), (0.0, 2.5)], ids=str)
@pytest.mark.parametrize("case", LINEAR)
def test_start_rises_across_the_range(case, grid_range):
    """Where the base is a part of it too: silu falls left of -1.28, by 0.1 at most."""
    basis = CASES[case](1, grid_range=grid_range).double()
    assert basis.init_activation().shape == (basis.size,)
    x = torch.linspace(*grid_range, 200, dtype=F64)[:, None]
    inner = slice(30, 170) if isinstance(basis, GaussianRBF) else slice(None)  # Gaussians fade at the ends
    y = basis.contract(x, basis.init_activation().double().reshape(1, -1, 1)).value[inner, 0]
    assert (y.diff() > -2e-3).all() and y[-1] - y[0] > 1
    assert y.diff().clamp_max(0).sum() > -0.05


@pytest.mark.parametrize("case", LINEAR)
def test_start_of_the_functions_alone_is_t(case):
    """-1 to 1 across the range: straight for splines, p_1 for polynomials, the slow sine for Fourier."""
    basis = CASES[case](1, grid_range=(-2.0, 2.0)).double()
    x = torch.linspace(-2, 2, 41, dtype=F64)[:, None]
    z = x[:, 0] / 2
    if basis.base != "none":
        assert basis.init_activation()[-1] == 1
    t = (basis.functions(x, 0)[0] @ basis.init_activation()[: basis.count].double())[:, 0]
    if isinstance(basis, BSpline):
        close(t, z, 1e-6)
    elif isinstance(basis, GaussianRBF):
        assert torch.equal(basis.init_activation()[: basis.count], basis.centers)
        assert (t[5:-5].diff() > 0).all()
    elif isinstance(basis, Fourier):
        close(t, torch.sin(pi / 2 * z))
    else:
        t_of_z = torch.tanh(z) if basis.squash == "tanh" else z
        close(t, silu(t_of_z) + t.mul(0) if getattr(basis, "outer", "") == "silu" else t_of_z, 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_init_weights_has_the_deviations_stated(case):
    """Functions scale SPREAD / sqrt(in), the base 1 / sqrt(in); without one, the first activation times one number."""
    basis, n_in, n_out = CASES[case](16), 16, 3000
    theta = basis.init_weights(n_in, n_out, generator(1)).double() * sqrt(n_in)
    assert theta.shape == (n_in, basis.size, n_out)
    deviation = theta.transpose(0, 1).flatten(1).std(1)
    if isinstance(basis, Wavelet):
        assert not theta[:, 0].any() and (theta[:, 1] / sqrt(n_in)).abs().max() <= 1
        expected = torch.tensor([0, sqrt(n_in / 3), 1], dtype=F64)
    elif basis.base == "none":
        start, spread = basis.init_activation().double(), SPREAD * basis.init_scale().double()
        expected = (spread**2 + start**2).sqrt()
        along = torch.einsum("ico,c->io", theta, start) / start.square().sum()
        rest = theta - along.unsqueeze(1) * start[:, None]
        assert abs(along.std() - (1 + (spread * start).square().sum() / start.square().sum() ** 2).sqrt()) < 0.02
        assert rest.std() < SPREAD
    else:
        expected = torch.cat([SPREAD * basis.init_scale().double()[:-1], torch.ones(1, dtype=F64)])
    assert (deviation - expected).abs().le(0.02 * expected).all()
    assert theta.mean((0, 2)).abs().max() < 0.02 * max(1, expected.max())
    pairs = theta.transpose(0, 1).flatten(1)[-2:]
    if isinstance(basis, Wavelet) or basis.base != "none":
        assert torch.corrcoef(pairs)[0, 1].abs() < 0.02


@pytest.mark.parametrize("case", CASES)
def test_init_scale_is_of_the_harmonic_or_the_degree(case):
    """1 / k^2, and 1 elsewhere: second derivatives in z of the harmonics have one size."""
    basis = CASES[case](1)
    decay = basis.init_scale()
    assert decay.shape == (basis.size,) and decay.dtype == torch.float32
    if isinstance(basis, Fourier):
        x = torch.linspace(-1, 1, 401)[:-1, None]  # a whole number of half periods
        size = basis.features(x, 2)[2][:, 0, : basis.count].square().mean(0).sqrt() * decay[: basis.count]
        assert torch.allclose(size, size[0].expand_as(size), rtol=1e-3)
    elif hasattr(basis, "degree"):
        assert torch.allclose(decay[: basis.count], torch.tensor([1 / max(n, 1) ** 2 for n in range(basis.count)]))
    else:
        assert decay.eq(1).all()
    assert isinstance(basis, Wavelet) or basis.base == "none" or decay[-1] == 1


@pytest.mark.parametrize("case", CASES)
def test_init_weights_depends_on_the_generator_alone(case):
    basis, before = CASES[case](4), torch.get_rng_state()
    a, b, c = (basis.init_weights(4, 5, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())


# What is refused ---------------------------------------------------------------------------------------------------

BAD = {
    "bspline": [{"grid_size": 0}, {"spline_order": 0}],
    "rbf": [{"centers": 1}, {"centers": 0}],
    "chebyshev": [{"degree": 0}, {"squash": "sigmoid"}],
    "legendre": [{"degree": 0}, {"squash": "minmax"}],
    "gram": [{"degree": 0}, {"squash": ""}, {"outer": "gelu"}],
    "fourier": [{"harmonics": 0}],
    "wavelet": [{"wavelet": "haar"}],
}
BAD_RANGES = [(1.0, -1.0), (0.5, 0.5), (float("nan"), 1.0), [(-1.0, 1.0)] * 2, (-1.0, 0.0, 1.0), 1.0]


@pytest.mark.parametrize("name", BASES)
def test_bad_options_are_refused_in_one_line(name):
    bad = [*BAD[name], *({"grid_range": r} for r in BAD_RANGES)]
    for options in [*bad, *([] if name == "wavelet" else [{"base": "relu"}])]:
        with pytest.raises(ValueError, match=next(iter(options))) as info:
            BASES[name](3, **options)
        one_line(info)


# Transforms and copies ---------------------------------------------------------------------------------------------


def layer_of(case: str, n_in: int = 3, n_out: int = 2) -> KANLinear:
    basis = made(case, n_in)
    return KANLinear(basis, Direct(weights_of(basis, n_out)), n_in, n_out, bias=True)


@pytest.mark.parametrize("case", CASES)
def test_gradients_per_point_by_vmap_equal_a_loop(case):
    layer = layer_of(case)
    x = across(layer.basis, 4)
    named = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    at = lambda p, x: functional_call(layer, p, (x[None],)).sin().sum()
    batched = vmap(grad(at, (0, 1)), (None, 0))(named, x)
    for i in range(len(x)):
        row = x[i : i + 1].clone().requires_grad_()
        gradients = torch.autograd.grad(at(named, row[0]), [row, *named.values()])
        for got, expected in zip([batched[1], *batched[0].values()], gradients, strict=True):
            close(got[i], expected.squeeze(0) if expected is gradients[0] else expected)
    close(vmap(lambda x: functional_call(layer, named, (x[None],))[0])(x), layer(x))


@pytest.mark.parametrize("case", CASES)
def test_weights_are_batched_by_vmap(case):
    """An ensemble of layers over the same points."""
    layer = layer_of(case)
    x = across(layer.basis, 4)
    thetas = torch.stack([weights_of(layer.basis, seed=s) for s in (1, 2, 3)])
    got = vmap(lambda theta: functional_call(layer, {"weights.theta": theta}, (x,)))(thetas)
    for theta, one in zip(thetas, got, strict=True):
        close(one, functional_call(layer, {"weights.theta": theta}, (x,)))


@pytest.mark.parametrize("case", CASES)
def test_copy_state_and_precision(case, tmp_path):
    layer = layer_of(case)
    x = across(layer.basis, 4)
    before, twin = layer(x), copy.deepcopy(layer)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.125)
    assert torch.equal(layer(x), before) and not torch.equal(twin(x), before)
    torch.save(layer.state_dict(), tmp_path / "layer.pt")
    twin.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
    assert torch.equal(twin(x), before)
    single = copy.deepcopy(layer).float()
    assert {t.dtype for t in (*single.parameters(), *single.buffers())} == {torch.float32}
    assert single(x.float()).dtype == torch.float32
    close(single(x.float()).double(), before, 1e-4)


NAMES = {"bspline": "kan", "rbf": "fastkan", "chebyshev": "chebykan", "legendre": "legendrekan", "gram": "gramkan",
         "fourier": "fourierkan", "wavelet": "wavkan"}  # fmt: skip
FIRST = [next(case for case in CASES if case.startswith(name)) for name in NAMES]  # of each basis


@pytest.mark.parametrize("case", CASES)
def test_network_of_every_basis_is_built_and_exports(case):
    name, options = NAMES[case.split("-")[0]], CASES[case].keywords
    net = build(name, 3, widths=(4,) if case in FIRST else (), **options).double()
    assert all(f"{key}={value}" in repr(layer.basis) for layer in net for key, value in options.items())
    exported = torch.export.export(net, (points(5, 3),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    x = points(8, 3, seed=9)
    close(exported(x), net(x), 1e-13)


@pytest.mark.parametrize("case", CASES)
def test_description_names_the_options(case):
    text = repr(made(case))
    assert "\n" not in text
    for option, value in CASES[case].keywords.items():
        assert f"{option}={value}" in text


# ---------------------------------------------------------------------------------------------------------------
# On the knots


def on_knots(basis: Basis, intervals: int, order: int) -> Tensor:
    """Points (N, 1) on the knots of a grid, both ends, those beyond them, and as near as rounding can tell."""
    steps = torch.arange(-order - 1, intervals + order + 2, dtype=F64) / intervals
    x = basis.low[0] + steps * (basis.high[0] - basis.low[0])
    return torch.cat([x, x * (1 + 2.0**-52), x * (1 - 2.0**-52)]).unsqueeze(1)


def beside(basis: Basis, x: Tensor) -> Tensor:
    """As near to x as limits are taken: to the right, of the right end to the left."""
    near = 1e-9 * (basis.high[0] - basis.low[0])
    at_end = (x - basis.high[0]).abs() < 1e-3 * near
    return torch.where(at_end, x - near, x + near)


@pytest.mark.parametrize("grid_range", [(-1.0, 1.0), (0.25, 7.5)], ids=str)
@pytest.mark.parametrize("case", LINEAR)
def test_derivatives_on_knots_are_limits_from_one_side(case, grid_range):
    """Of the order that jumps and all below: from the right, at the right end from the left."""
    basis = CASES[case](1, grid_range=grid_range).double()
    intervals, order = getattr(basis, "grid_size", 5), getattr(basis, "spline_order", 3)
    x = on_knots(basis, intervals, order)
    for r in range(order + 1 if not basis.has_parameters else 3):
        at, near = (basis.features(t, r)[r].detach() for t in (x, beside(basis, x)))
        assert (at - near).abs().max() < 1e-5 * near.abs().max(), f"derivative {r}"


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("size", [1, 2, 5, bspline.LOCAL_FROM, 33])
def test_derivative_that_jumps_is_a_row_of_binomials(size, order):
    """h^k B_j^(k) is (-1)^m (k over m) on the cell number m of the k + 1 cells of B_j: exact on every knot."""
    basis = BSpline(1, size, order, grid_range=(0.1, 2.3), base="none").double()
    h = (basis.high - basis.low) / size
    cells = torch.arange(-order - 1, size + order + 1)
    x = basis.low + torch.cat([cells, torch.tensor([size])]).unsqueeze(1) * h
    inside = torch.where(cells == size, size - 1, cells)  # the right end belongs to the last cell
    inside = torch.cat([inside, torch.tensor([size - 1])])
    m = inside.unsqueeze(1) - (torch.arange(size + order) - order)
    row = torch.tensor([(-1) ** i * comb(order, i) for i in range(order + 1)], dtype=F64)
    wanted = torch.where((m >= 0) & (m <= order), row[m.clamp(0, order)], 0)
    close(basis.functions(x, order)[order][:, 0] * h**order, wanted, 1e-12)


@pytest.mark.parametrize("fused", [True, False])
def test_third_derivatives_of_a_layer_agree_on_its_knots(fused):
    """By backward through lap, for all points or one at a time (the live splines differ), by torch.func, compiled."""
    basis = BSpline(1, 5).double()
    layer = KANLinear(basis, Direct(torch.randn(1, basis.size, 1, generator=generator(), dtype=F64)), 1, 1)
    layer.fused = fused
    lap = lambda x: Forward()(layer, x).lap
    third = lambda x: torch.autograd.grad(lap(x.requires_grad_()).sum(), x)[0]
    x = on_knots(basis, 5, 3)
    found = third(x.clone())
    close(found, third(beside(basis, x)), 1e-6)
    close(torch.cat([third(one.clone()) for one in x.split(1)]), found, 1e-12)
    close(vmap(grad(lambda one: lap(one.unsqueeze(0)).squeeze()))(x), found, 1e-12)


def test_compiled_splines_have_the_same_derivative_on_knots():
    """The compiler differentiates the second derivative itself."""
    basis = BSpline(1, 5, base="none").double()
    x = on_knots(basis, 5, 3)
    weights = torch.randn(8, generator=generator(), dtype=F64)
    second = torch.compile(lambda x: basis.functions(x, 2)[2], backend="aot_eager")
    (third,) = torch.autograd.grad((second(y := x.clone().requires_grad_()) @ weights).sum(), y)
    close(third, basis.functions(x, 3)[3] @ weights, 1e-12)
