"""The values of a layer by tiles: the plain contraction, its gradients, and gradients of gradients, for every basis."""

from functools import partial

import pytest
import torch
from conftest import F64, close, generator, points
from torch import Tensor
from torch.func import grad, vmap

from kanpde.backbones import build
from kanpde.kan import weights
from kanpde.kan.basis import BSpline, Chebyshev, Fourier, GaussianRBF, Legendre, bspline
from kanpde.kan.basis.base import LinearBasis, contract_features
from kanpde.kan.kernels import values as module
from kanpde.kan.kernels.values import values
from kanpde.kan.weights import Direct, Meta, MetaLearner, MetaLowRank

BASES = {
    "bspline": BSpline,
    "bspline-order1": partial(BSpline, spline_order=1),
    "bspline-order2": partial(BSpline, spline_order=2, base="gelu"),
    "bspline-order4": partial(BSpline, spline_order=4, base="identity"),
    "bspline-order5": partial(BSpline, spline_order=5, base="none"),
    "bspline-local": partial(BSpline, grid_size=bspline.LOCAL_FROM),
    "rbf": GaussianRBF,
    "rbf-none": partial(GaussianRBF, centers=3, base="none"),
    "chebyshev": Chebyshev,
    "legendre": Legendre,
    "legendre-plain": partial(Legendre, degree=3, squash="none"),
    "fourier": Fourier,
}
N_IN, N_OUT = 5, 3
TILES = {
    "one": (2**15, 128, 1),
    "of 3 points": (15, 1, 1),
    "of 2 inputs": (8, 4, 1),
    "function by function": (8, 4, 99),
}
WEIGHTS = ["direct", "tiles", "table", "tiles of rank 2", "table of rank 2"]


def made(case: str) -> LinearBasis:
    return BASES[case](N_IN, grid_range=[(-1.0, 1.0), (0.0, 2.5), (-0.25, 0.125), (-2.0, 2.0), (-1.0, 0.0)]).double()


def across(basis: LinearBasis, n: int, seed: int = 5) -> Tensor:
    """n points per input, up to a fifth of the range outside of it on either side."""
    return basis.low + (basis.high - basis.low) * (points(n, N_IN, seed, reach=0.7) + 0.5)


def weights_of(kind: str, size: int, monkeypatch) -> Direct | Meta:
    monkeypatch.setattr(weights, "TABLE_FROM", 1 if kind.startswith("table") else 10**9)
    if kind == "direct":
        return Direct(points(N_IN * size, N_OUT, 6).reshape(N_IN, size, N_OUT))
    learner = MetaLearner(1, 4, size).double()
    with torch.no_grad():
        for p in learner.parameters():
            p.normal_(generator=generator(3))
    if kind.endswith("of rank 2"):
        return MetaLowRank(points(N_IN, 2, 6).unsqueeze(1), points(2, N_OUT, 7).unsqueeze(0), learner)
    return Meta(points(N_IN, N_OUT, 6).unsqueeze(1), learner)


def plain(basis: LinearBasis, w: Direct | Meta, x: Tensor, normed: Tensor | None = None) -> Tensor:
    (raw,) = w.split(N_IN)
    theta = w.generate(raw)
    if normed is None:
        return basis.contract(x, theta).value
    b = torch.cat([basis.functions(normed, 0)[0], basis.base_function(x, 0)[0]], -1)
    return contract_features((b,), theta, False, None).value


def set_tiles(monkeypatch, tiles: str) -> None:
    for name, value in zip(("TILE", "POINTS", "COPY_FROM"), TILES[tiles], strict=True):
        monkeypatch.setattr(module, name, value)


def compare(basis: LinearBasis, w: Direct | Meta, n: int, is_normed: bool) -> None:
    """Values; gradients by the tiles; and gradients and their gradients by plain operations."""
    x = across(basis, n).requires_grad_()
    normed = across(basis, n, seed=7).requires_grad_() if is_normed else None
    of = [x, *[normed] * is_normed, *w.parameters()]
    results = []
    for run in (lambda: values(basis, w.recipe(), x, normed), lambda: plain(basis, w, x, normed)):
        by_tiles = torch.autograd.grad(run().sin().sum(), of, allow_unused=True)
        y = run()
        first = torch.autograd.grad(y.sin().sum(), of, create_graph=True, allow_unused=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first if g is not None), of, allow_unused=True)
        results.append([y, *by_tiles, *first, *second])
    for got, expected in zip(*results, strict=True):
        expected = torch.zeros_like(got) if expected is None else expected
        close(torch.zeros_like(expected) if got is None else got, expected)


@pytest.mark.parametrize("is_normed", [False, True], ids=["", "normed"])
@pytest.mark.parametrize("case", BASES)
def test_values_of_every_basis_are_the_contraction(monkeypatch, case, is_normed):
    set_tiles(monkeypatch, "of 2 inputs")
    basis = made(case)
    compare(basis, weights_of("direct", basis.size, monkeypatch), 9, is_normed)


@pytest.mark.parametrize("is_normed", [False, True], ids=["", "normed"])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("tiles", TILES)
@pytest.mark.parametrize("case", ["bspline", "rbf"])
def test_tiles_and_weights_of_every_kind(monkeypatch, case, tiles, kind, is_normed):
    set_tiles(monkeypatch, tiles)
    shape = {"one": (9, 5), "of 3 points": (3, 5)}.get(tiles, (4, 2))
    assert module._tile(torch.empty(9, N_IN)) == shape
    basis = made(case)
    compare(basis, weights_of(kind, basis.size, monkeypatch), 9, is_normed)


@pytest.mark.parametrize("tiles", TILES)
def test_one_point_and_none(monkeypatch, tiles):
    set_tiles(monkeypatch, tiles)
    basis = made("bspline")
    w = weights_of("direct", basis.size, monkeypatch)
    compare(basis, w, 1, False)
    x = across(basis, 0).requires_grad_()
    y = values(basis, w.recipe(), x)
    assert y.shape == (0, N_OUT)
    to_x, to_theta = torch.autograd.grad(y.sum(), [x, w.theta])
    assert to_x.shape == x.shape and torch.equal(to_theta, torch.zeros_like(w.theta))


@pytest.mark.parametrize("needed", [("x",), ("normed",), ("theta",), ("normed", "theta"), ("x", "theta")], ids=str)
def test_gradients_of_what_needs_one(monkeypatch, needed):
    set_tiles(monkeypatch, "of 2 inputs")
    basis = made("rbf")
    w = weights_of("direct", basis.size, monkeypatch)
    given = {"x": across(basis, 9), "normed": across(basis, 9, 7), "theta": w.theta.detach()}
    w.theta.requires_grad_("theta" in needed)
    of = [w.theta if name == "theta" else given[name].requires_grad_() for name in needed]
    got = torch.autograd.grad(values(basis, w.recipe(), given["x"], given["normed"]).sin().sum(), of)
    expected = torch.autograd.grad(plain(basis, w, given["x"], given["normed"]).sin().sum(), of)
    for a, b in zip(got, expected, strict=True):
        close(a, b)


@pytest.mark.parametrize("case", ["bspline", "rbf", "chebyshev", "fourier"])
def test_gradients_per_point_by_vmap(monkeypatch, case):
    set_tiles(monkeypatch, "of 2 inputs")
    basis = made(case)
    w = weights_of("direct", basis.size, monkeypatch)
    recipe = w.recipe()
    at = lambda theta, x, normed: values(basis, recipe._replace(pieces=(theta,)), x[None], normed[None]).sin().sum()
    x, normed, theta = across(basis, 4), across(basis, 4, 7), w.theta.detach()
    batched = vmap(grad(at, argnums=(0, 1, 2)), (None, 0, 0))(theta, x, normed)
    for i in range(4):
        rows = [t.clone().requires_grad_() for t in (theta, x[i], normed[i])]
        alone = Direct(rows[0])
        y = plain(basis, alone, rows[1][None], rows[2][None])
        for got, expected in zip(batched, torch.autograd.grad(y.sin().sum(), [alone.theta, *rows[1:]]), strict=True):
            close(got[i], expected)


def test_nothing_but_inputs_and_weights_is_saved():
    basis = BSpline(N_IN)
    w = Direct(torch.ones(N_IN, basis.size, N_OUT))
    x, kept = torch.rand(50, N_IN, generator=generator()), {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        values(basis, w.recipe(), x)
    assert sum(t.numel() for t in kept.values()) == x.numel() + w.theta.numel() + 2 * N_IN


def test_single_precision_is_the_same_function():
    for case in BASES:
        basis, theta = made(case), None
        theta = points(N_IN * basis.size, N_OUT, 6).reshape(N_IN, basis.size, N_OUT)
        x = across(basis, 9)
        double = values(basis, Direct(theta).recipe(), x)
        single = values(basis.float(), Direct(theta.float()).recipe(), x.float())
        assert single.dtype == torch.float32 and double.dtype == F64
        close(single.double(), double, 1e-4, case)


@pytest.mark.parametrize("name, options", [("kan", {}), ("kan", {"base": "none"}), ("fastkan", {"norm": "all"})])
@pytest.mark.parametrize("copy_from", [1, 10**6])
def test_compiled_values_of_many_and_of_few_points_equal_eager_ones(monkeypatch, name, options, copy_from):
    """And their gradients; of many points the products are laid out by function instead of by input."""
    net = build(name, 5, generator=generator(), widths=(4,), **options).double()
    x, parameters = points(9, 5).to(F64), [p for p in net.parameters() if p.requires_grad]
    gradients = lambda run: [y := run(x), *torch.autograd.grad(y.square().sum(), parameters)]
    expected = gradients(net)
    monkeypatch.setattr(module, "COPY_FROM", copy_from)
    with torch._dynamo.config.patch(recompile_limit=256):
        found = gradients(torch.compile(net, fullgraph=True, backend="aot_eager"))
    for got, wanted in zip(found, expected, strict=True):
        close(got, wanted, 1e-10)
