"""The exact forward operator against nested automatic differentiation: values, parameter gradients, input gradients."""

from dataclasses import dataclass

import pytest
import torch
from conftest import F64, HIDDEN, check_off_knots, close, generator, in_pairs, network, one_line, order_one, points
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from kanpde import backbones
from kanpde.domains import Ball, Box, Cylinder
from kanpde.jets import jet
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.gram import Dense, Diagonal, Part, Sampled, Tangents
from kanpde.jets.jet import Jet, LayerNorm, MissingJetRule, Product, Sine, push
from kanpde.jets.names import Reads
from kanpde.kan import layers, weights
from kanpde.kan.basis import BSpline, Gram, Wavelet
from kanpde.kan.basis.base import Basis
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct
from kanpde.operators.autograd import Autograd
from kanpde.operators.forward import Forward
from kanpde.operators.stochastic import SDGD, Hutchinson
from kanpde.problems import HJB, PDES, Heat, Poisson, Problem
from kanpde.runs.api import train

NETS = {f"mlp-{name}": ("mlp", {"activation": name}) for name in backbones.ACTIVATIONS}
NETS |= {f"kan-order{k}": ("kan", {"spline_order": k}) for k in (3, 4, 5)}
NETS |= {"kan-bias": ("kan", {"bias": True})}
NETS |= {
    f"metakan-prompt{p}-{share}": ("metakan", {"prompt_dim": p, "meta_share": share})
    for p in (1, 3)
    for share in ("network", "layer", 2)
}
NETS |= {"metakan-unbiased": ("metakan", {"meta_bias": False})}
BASES = {name: {} for name in backbones.BACKBONES if name not in ("mlp", "kan", "metakan")}
BASES |= {f"wavkan-{w}": {"wavelet": w} for w in ("dog", "morlet")} | {"metawavkan-dog": {"wavelet": "dog"}}
BASES |= {"kan-local": {"grid_size": 30}, "kan-gelu": {"base": "gelu", "spline_order": 4}}
BASES |= {"chebykan-plain": {"squash": "none", "degree": 4}, "gramkan-outer": {"outer": "silu"}}
BASES |= {"legendrekan-none": {"base": "none"}, "fourierkan-none": {"base": "none"}}
NORMED = [name for name in backbones.BACKBONES if name != "mlp" and "wav" not in name]
NORMS = ("none", "hidden", "all")
BASES |= {
    f"{name}-norm-{norm}": {"norm": norm, "grid_range": (-HIDDEN, HIDDEN) if norm == "all" else (-1.0, 1.0)}
    for name in NORMED
    for norm in NORMS
}
BASES |= {"gramkan-outer-norm-all": {"outer": "silu", "norm": "all"}, "chebykan-none-norm-all": {"norm": "all"}}
BASES |= {f"{name}-centred": {"centred": True, "bias": True} for name in ("kan", "metakan", "wavkan", "chebykan")}
BASES |= {"fastkan-norm-all-centred": {"centred": True, "norm": "all", "grid_range": (-HIDDEN, HIDDEN)}}
NETS |= {case: (case.split("-")[0], options) for case, options in BASES.items()}
FAMILIES = ["mlp-tanh", "kan-order4", "metakan-prompt3-2", "fastkan", "wavkan"]


def net_of(case: str, dim: int, **options) -> nn.Module:
    name, given = NETS[case]
    return network(name, dim, **given, **options)


# Coefficients s and directions v ----------------------------------------------------------------------------------


def signed(x: Tensor) -> Tensor:
    """s (d,): either sign, one zero where d > 1."""
    s = torch.linspace(-1.5, 2.0, x.shape[-1], dtype=x.dtype)
    s[x.shape[-1] // 2] = 0 if x.shape[-1] > 1 else -0.7
    return s


def of_x(x: Tensor) -> Tensor:
    """s (N, d) that depends on x: either sign, the first zero where d > 1."""
    mask = torch.ones(x.shape[-1], dtype=x.dtype)
    mask[0] = float(x.shape[-1] == 1)
    return mask * (x.square() - 0.2 + 0.3 * x.roll(1, -1))


S_CASES = {
    "default": lambda x: None,
    "signed": signed,
    "row": lambda x: signed(x)[None],
    "per-point": lambda x: points(*x.shape, seed=7),
    "of-x": of_x,
}


def two_fields(x: Tensor) -> Tensor:
    """v (N, 2, d) that depends on x."""
    return torch.stack([x.cos(), x * x.roll(1, -1)], 1)


def two_constants(x: Tensor) -> Tensor:
    """v (2, d)."""
    return points(2, x.shape[-1], seed=8)


def evaluate(operator, u, x: Tensor, s=None, v=None) -> dict[str, Tensor]:
    """All that a training step can see: the jet, and the gradient of a nonlinear function of it in x and parameters."""
    x = x.clone().requires_grad_()
    out = operator(u, x, None if s is None else s(x), None if v is None else v(x))
    seen = {"value": out.value, "along": out.along, "grad_sq": out.gram, "lap": out.lap}
    seen = {name: t for name, t in seen.items() if t is not None}
    residual = (
        out.value**3 + out.value * seen.get("lap", 1) + seen.get("grad_sq", 1) * seen.get("along", x[:, :1]).sum(-1)
    )
    named = {name: p for name, p in u.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(residual.square().mean(), [x, *named.values()])
    return {**seen, **{f"gradient in {n}": t for n, t in zip(["x", *named], gradients, strict=True)}}


def check_equal(a: dict[str, Tensor], b: dict[str, Tensor], rel: float = 1e-12) -> None:
    assert a.keys() == b.keys()
    for name in a:
        close(a[name], b[name], rel, name)


def check_forward(u, x: Tensor, s=None, v=None, chunks=(None, 4), parts=()) -> None:
    """Forward equals Autograd in all that `evaluate` returns, and that has all the parts named."""
    check_off_knots(u.net if isinstance(u, Ansatz) else u, x)
    forward = evaluate(Forward(), u, x, s, v)
    assert set(parts) <= forward.keys()
    for chunk in chunks:
        check_equal(forward, evaluate(Autograd(chunk), u, x, s, v))


ALL = ("value", "along", "grad_sq", "lap")


# Plain networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3, 20])
@pytest.mark.parametrize("case", [case for case in NETS if case not in BASES])
def test_forward_equals_nested_autograd(case, dim):
    """By second derivatives one by one in one and three dimensions, by four of them at once in the others."""
    net, x = net_of(case, dim), points(4, dim)
    check_forward(net, x, of_x, two_fields, parts=ALL, chunks=(None if dim in (1, 3) else 4,))


DIMS = (1, 3, 20)
OTHERS = [case for case in BASES if case not in {f"{name}-norm-{norm}" for name in NORMED for norm in NORMS}]
TAKES = lambda case, dim: dim > 1 or "norm-all" not in case  # one input alone: its LayerNorm is constant
NORM_DIMS = in_pairs(NORMED, NORMS, DIMS, given=lambda name, norm, dim: TAKES(f"{name}-norm-{norm}", dim))


def check_basis(case: str, dim: int) -> None:
    """Coefficients of either sign."""
    net, x = net_of(case, dim), points(4, dim)
    check_forward(net, x, of_x, two_fields, parts=ALL, chunks=(4,))
    if dim == 3:
        check_forward(net, x, signed, None, parts=("value", "grad_sq", "lap"), chunks=(None,))


@pytest.mark.parametrize("case, dim", [(case, dim) for case in OTHERS for dim in DIMS if TAKES(case, dim)])
def test_forward_of_every_basis_equals_nested_autograd(case, dim):
    check_basis(case, dim)


@pytest.mark.parametrize("name, norm, dim", NORM_DIMS)
def test_forward_of_every_normed_basis_equals_nested_autograd(name, norm, dim):
    check_basis(f"{name}-norm-{norm}", dim)


@pytest.mark.parametrize("case", ["metakan-prompt1-network", "metakan-unbiased", "metafastkan", "metawavkan"])
def test_forward_with_weights_from_a_table_equals_nested_autograd(monkeypatch, case):
    """The way in which many scalar prompts generate, in pieces of a streamed layer too."""
    net, x = net_of(case, 40), points(3, 40)
    tiled = evaluate(Forward(), net, x, of_x, two_fields)
    monkeypatch.setattr(weights, "TABLE_FROM", 1)
    check_forward(net, x, of_x, two_fields, chunks=(20,))
    check_equal(evaluate(Forward(), net, x, of_x, two_fields), tiled)
    monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
    check_equal(evaluate(Forward(), net, x, of_x, two_fields), tiled)


@pytest.mark.parametrize("case", FAMILIES)
def test_forward_equals_nested_autograd_in_100_dimensions(case):
    net, x = net_of(case, 100), points(2, 100)
    check_forward(net, x, of_x, two_fields, parts=ALL, chunks=(25,))


V_CASES = {"none": None, "constant": two_constants, "of-x": two_fields}


@pytest.mark.parametrize("case, s, v", in_pairs(FAMILIES, S_CASES, V_CASES))
def test_forward_takes_coefficients_and_directions_of_every_shape(case, s, v):
    check_forward(net_of(case, 3), points(4, 3), S_CASES[s], V_CASES[v], parts=("value", "grad_sq", "lap"))


def test_default_coefficients_are_one():
    net, x = net_of("kan-order3", 3), points(4, 3)
    check_equal(evaluate(Forward(), net, x), evaluate(Forward(), net, x, lambda x: torch.ones(3, dtype=F64)))


@pytest.mark.parametrize("s", ["signed", "of-x"])
def test_linear_first_layer_in_more_than_256_dimensions(s):
    """The linear rule takes coefficients per point in pieces of 256 inputs."""
    check_forward(net_of("mlp-tanh", 300), points(2, 300), S_CASES[s], chunks=(100,))


@pytest.mark.parametrize("case", FAMILIES)
def test_several_outputs_have_gram_matrix_j_s_jt(case):
    net, x = net_of(case, 3, dim_out=2), points(4, 3)
    s = of_x(x)
    out = Forward()(net, x, s)
    jacobian = vmap(jacrev(net_row := lambda y: net(y[None])[0]))(x)
    hessian = vmap(jacrev(jacrev(net_row)))(x)
    close(out.gram, jacobian @ torch.diag_embed(s) @ jacobian.mT)
    close(out.lap, (hessian.diagonal(dim1=-2, dim2=-1) * s[:, None]).sum(-1))


def compose(*modules: nn.Module) -> nn.Sequential:
    return order_one(nn.Sequential(*modules), seed=4)


def kan_layer(n_in: int, n_out: int, norm: nn.LayerNorm | None = None, basis: type[Basis] = BSpline) -> KANLinear:
    options = {"spline_order": 4} if basis is BSpline else {}
    basis = basis(n_in, grid_range=(-5.0, 5.0), **options)
    return KANLinear(basis, Direct(torch.zeros(n_in, basis.size, n_out)), n_in, n_out, bias=True, norm=norm)


COMPOSED = {
    "product first": lambda: compose(Product(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)),
    "product inside": lambda: compose(nn.Linear(4, 6), Product(), nn.Tanh(), nn.Linear(3, 1)),
    "product last": lambda: compose(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2), Product()),
    "two products": lambda: compose(kan_layer(4, 8), Product(), nn.Linear(4, 4), Product(), nn.Linear(2, 1)),
    "products of inputs": lambda: compose(Product(), Product()),
    "sine of a frequency": lambda: compose(nn.Linear(4, 3), Sine(2.5), nn.Linear(3, 3), Sine(0.5), nn.Linear(3, 1)),
    "softplus of a beta": lambda: compose(nn.Linear(4, 3), nn.Softplus(beta=3.0), nn.Linear(3, 1)),
    "activation first": lambda: compose(nn.Tanh(), nn.Linear(4, 3), nn.SiLU(), nn.Linear(3, 1)),
    "activation first, KAN": lambda: compose(Sine(), kan_layer(4, 3), nn.Tanh(), kan_layer(3, 1)),
    "linear layers in a row": lambda: compose(nn.Linear(4, 3), nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 1)),
    "linear, KAN": lambda: compose(nn.Linear(4, 3), nn.Identity(), kan_layer(3, 1)),
    "LayerNorm": lambda: compose(nn.Linear(4, 5), LayerNorm(5), nn.Tanh(), nn.Linear(5, 1)),
    "LayerNorm first": lambda: compose(LayerNorm(4), nn.Linear(4, 1)),
    "LayerNorm without weights": lambda: compose(
        nn.Linear(4, 3), LayerNorm(3, elementwise_affine=False), kan_layer(3, 1)
    ),
    "LayerNorm without bias": lambda: compose(kan_layer(4, 3), LayerNorm(3, bias=False), kan_layer(3, 1)),
    "LayerNorm of another eps": lambda: compose(
        Sine(), LayerNorm(4, eps=0.5), nn.Linear(4, 4), Product(), nn.Linear(2, 1)
    ),
    "LayerNorm in a layer": lambda: compose(nn.Linear(4, 3), kan_layer(3, 4, LayerNorm(3)), nn.Linear(4, 1)),
    "nested": lambda: compose(nn.Sequential(nn.Linear(4, 4), Sine(), Product()), kan_layer(2, 3), nn.Linear(3, 1)),
}


@pytest.mark.parametrize("s", ["default", "signed", "of-x"])
@pytest.mark.parametrize("name", COMPOSED)
def test_modules_compose(name, s):
    check_forward(COMPOSED[name](), points(4, 4), S_CASES[s], two_fields, parts=ALL, chunks=(None,))


@pytest.mark.parametrize("s", ["default", "of-x"])
@pytest.mark.parametrize(
    "modules",
    [(nn.Linear(4, 2), Product()), (nn.Linear(4, 4), Product(), nn.Linear(2, 1))],
    ids=["product of linear", "quadratic"],
)
def test_quadratic_network_has_an_entry_per_point(modules, s):
    """L of a quadratic function does not depend on x, its shape is (N,) all the same."""
    check_forward(compose(*modules), points(5, 4), S_CASES[s], two_fields, parts=ALL)


@pytest.mark.parametrize("operator", [Forward(), Autograd(), Autograd(4)], ids=str)
def test_second_derivatives_of_an_affine_network_are_zero(operator):
    net, x = compose(nn.Linear(3, 1)), points(5, 3)
    out = operator(net, x)
    assert torch.equal(out.lap, torch.zeros(5, dtype=F64))
    close(out.grad_sq, net[0].weight.square().sum().expand(5))


@pytest.mark.parametrize("operator", [Forward(), Autograd()], ids=str)
def test_affine_network_in_an_ansatz(operator):
    """Lap of (1 - |x|^2) (w.x + b) = -2 d (w.x + b) - 4 w.x."""
    net, x = compose(nn.Linear(3, 1)), points(5, 3)
    f = net(x).squeeze(-1)
    close(operator(Ansatz(Poisson(3), net), x).lap, -6 * f - 4 * (f - net[0].bias))


@pytest.mark.parametrize("case", FAMILIES)
def test_forward_takes_an_empty_batch(case):
    net = net_of(case, 3)
    assert net(points(0, 3)).shape == (0, 1)
    assert Forward()(net, points(0, 3)).lap.shape == (0,)


@pytest.mark.parametrize("operator", [Forward(), Autograd(), Autograd(4)], ids=str)
def test_without_grad_the_result_is_the_same_and_detached(operator):
    net, x = net_of("kan-order3", 3), points(4, 3)
    with torch.no_grad():
        out = operator(net, x, of_x(x), two_fields(x))
    again = operator(net, x, of_x(x), two_fields(x))
    assert len(out.parts) == 4
    for a, b in zip(again.parts, out.parts, strict=True):
        assert a.requires_grad and not b.requires_grad
        close(b, a)


# Single modules, all forms of the Gram matrix, LayerNorm -----------------------------------------------------------

FORMS = {
    "diagonal": lambda: Diagonal(signed(torch.ones(1, 4, dtype=F64))[None]),
    "diagonal-per-point": lambda: Diagonal(points(3, 4, seed=7)),
    "sampled": lambda: Sampled(points(1, 2, seed=7), torch.tensor([3, 1]), 4),
    "sampled-per-point": lambda: Sampled(points(3, 2, seed=7), torch.tensor([2, 0]), 4),
    "tangents": lambda: Tangents(points(2, 4, seed=7)[None]),
    "tangents-per-point": lambda: Tangents(points(6, 4, seed=7).unflatten(0, (3, 2))),
    "dense": lambda: Dense(symmetric(points(4, 4, seed=7)[None])),
    "dense-per-point": lambda: Dense(symmetric(points(12, 4, seed=7).unflatten(0, (3, 4)))),
    "none": lambda: None,
}


def symmetric(matrix: Tensor) -> Tensor:
    return matrix + matrix.mT


MODULES = {
    "linear": lambda: nn.Linear(4, 3),
    "tanh": nn.Tanh,
    "sine": lambda: Sine(1.5),
    "product": Product,
    "LayerNorm": lambda: LayerNorm(4),
    "LayerNorm of torch": lambda: nn.LayerNorm(4),
    "LayerNorm of torch without weights": lambda: nn.LayerNorm(4, elementwise_affine=False),
    "LayerNorm without weights": lambda: LayerNorm(4, elementwise_affine=False),
    "LayerNorm without bias": lambda: LayerNorm(4, bias=False),
    "KAN": lambda: kan_layer(4, 3),
    "KAN after LayerNorm": lambda: kan_layer(4, 3, LayerNorm(4)),
    "KAN after LayerNorm of torch": lambda: kan_layer(4, 3, nn.LayerNorm(4, elementwise_affine=False)),
    "Gram KAN after LayerNorm": lambda: kan_layer(4, 3, LayerNorm(4), Gram),
    "wavelets": lambda: kan_layer(4, 3, basis=Wavelet),
}


@pytest.mark.parametrize("name, form, carried", in_pairs(MODULES, FORMS, [True, False]))
def test_every_form_goes_through_every_module(name, form, carried):
    """The second-order chain rule with the module's Hessian: along J, J S J^T, lap J + S : H, in each form S has."""
    module, x = order_one(nn.Sequential(MODULES[name]()), seed=4)[0], points(3, 4)
    along, lap = (points(6, 4, seed=8).unflatten(0, (3, 2)), points(3, 4, seed=9)) if carried else (None, None)
    given = Jet(x, along, FORMS[form](), lap if form != "none" else None)
    out = push(module, given)
    of_row = lambda y: module(y[None])[0]
    jacobian, hessian = vmap(jacrev(of_row))(x), vmap(jacrev(jacrev(of_row)))(x)  # (N, out, in), (N, out, in, in)
    close(out.value, module(x))
    assert (out.along is None, out.gram is None) == (not carried, form == "none")
    if carried:
        close(out.along, along @ jacobian.mT)
    if form == "none":
        assert out.lap is None
        return
    s = given.gram.dense().expand(3, -1, -1)
    gram, lap_of_module = jacobian @ s @ jacobian.mT, torch.einsum("nab,noab->no", s, hessian)
    close(out.gram.dense().expand(3, -1, -1), gram)
    close(out.gram.diagonal().expand(3, -1), gram.diagonal(dim1=-2, dim2=-1))
    expected = lap_of_module + (jacobian @ lap.unsqueeze(-1)).squeeze(-1) if carried else lap_of_module
    if out.lap is None:  # of a linear module: nothing carried, nothing added
        assert not carried and not hessian.any()
    else:
        close(out.lap.expand(3, -1), expected)


@pytest.mark.parametrize("options", [{}, {"elementwise_affine": False}, {"bias": False}, {"eps": 0.1}], ids=str)
def test_layer_norm_is_that_of_torch(options):
    """Value and two derivatives; the fused kernel's third is wrong (torch 2.13)."""
    ours = order_one(nn.Sequential(LayerNorm(5, **options)))[0]
    theirs = nn.LayerNorm(5, **options).double()
    theirs.load_state_dict(ours.state_dict())
    x, first = points(4, 5).requires_grad_(), points(4, 5, seed=2)
    results = []
    for norm in (ours, theirs):
        gradients = torch.autograd.grad(norm(x).sin().sum(), [x, *norm.parameters()], create_graph=True)
        second = torch.autograd.grad((gradients[0] * first).sum(), [x, *norm.parameters()], allow_unused=True)
        results.append([norm(x), *gradients, *(g for g in second if g is not None)])
    for a, b in zip(*results, strict=True):
        close(a, b)
    assert ours(points(0, 5)).shape == (0, 5) and Forward()(ours, points(0, 5)).lap.shape == (0, 5)


def test_layer_norm_has_right_derivatives_of_third_order():
    """By central differences of the second derivatives, step h and h / 2: the error is that of order h^2."""
    norm, x, w = order_one(nn.Sequential(LayerNorm(4))), points(1, 4)[0], points(1, 4, seed=2)[0]
    second = jacrev(grad(lambda x: (norm(x[None])[0].sin() * w).sum()))
    third = jacrev(second)(x)
    difference = lambda h: torch.stack([(second(x + h * e) - second(x - h * e)) / (2 * h) for e in torch.eye(4)], -1)
    extrapolated = (4 * difference(1e-3) - difference(2e-3)) / 3
    close(third, extrapolated, 1e-7)


@pytest.mark.parametrize("norm", [nn.LayerNorm, LayerNorm])
def test_forward_through_a_norm_of_torch_has_the_right_gradients(norm):
    """Its backward is but one, of the value: the fused kernel's wrong third derivatives are not used."""
    net = compose(nn.Linear(4, 5), norm(5), nn.Tanh(), kan_layer(5, 3, norm(5)), nn.Linear(3, 1))
    own = compose(nn.Linear(4, 5), LayerNorm(5), nn.Tanh(), kan_layer(5, 3, LayerNorm(5)), nn.Linear(3, 1))
    own.load_state_dict(net.state_dict())
    x = points(4, 4)
    check_equal(evaluate(Forward(), net, x, of_x, two_fields), evaluate(Autograd(4), own, x, of_x, two_fields))


# Estimators in their trivial cases ---------------------------------------------------------------------------------

ESTIMATED = [
    "fastkan",
    "fastkan-norm-all",
    "metafastkan",
    "kan-norm-all",
    "wavkan",
    "gramkan",
    "gramkan-outer-norm-all",
]


@pytest.mark.parametrize("per_point", [False, True], ids=["shared", "per-point"])
@pytest.mark.parametrize("case", ESTIMATED)
def test_sdgd_of_all_dimensions_is_exact(case, per_point):
    net, x = net_of(case, 3), points(4, 3)
    exact = evaluate(Forward(), net, x, of_x, two_fields)
    sdgd = SDGD(3, per_point=per_point)
    check_equal(evaluate(lambda *a: sdgd(*a, generator=generator()), net, x, of_x, two_fields), exact)


def test_more_coordinates_a_step_than_there_are_are_refused():
    with pytest.raises(ValueError, match="dims: 16 coordinates a step, needed is at most 2, the inputs of the problem"):
        SDGD().check(2)


@pytest.mark.parametrize("case", ESTIMATED)
def test_estimators_average_to_the_operator(case):
    """Over all choices of 2 of 3 dimensions, and over orthogonal probes, which add up to the identity."""
    net, x, s = net_of(case, 3), points(4, 3), points(1, 3, seed=7).square()
    exact = Forward()(net, x, s[0])
    jets = []
    for index in ([0, 1], [1, 2], [2, 0]):
        gram = Sampled(1.5 * s[:, index], torch.tensor(index), 3)
        jets.append(push(net, Jet(x, None, gram)))
    close(sum(j.lap for j in jets)[:, 0] / 3, exact.lap)
    close(sum(j.gram.dense() for j in jets)[:, 0, 0] / 3, exact.grad_sq)
    probes = torch.linalg.qr(points(3, 3, seed=8)).Q * s.sqrt()
    out = push(net, Jet(x, None, Tangents(probes[None])))
    close(out.lap[:, 0], exact.lap)
    close(out.gram.dense()[:, 0, 0], exact.grad_sq)


@pytest.mark.parametrize("case", ESTIMATED)
@pytest.mark.parametrize("operator", [SDGD(1), Hutchinson(2), Hutchinson(2, "gaussian", per_point=True)], ids=str)
def test_estimators_run_with_gradients(case, operator):
    net, x = net_of(case, 3), points(4, 3)
    out = evaluate(lambda *a: operator(*a, generator=generator()), net, x, None, two_fields)
    exact = evaluate(Forward(), net, x, None, two_fields)
    assert out.keys() == exact.keys() and all(t.isfinite().all() for t in out.values())
    close(out["value"], exact["value"])
    close(out["along"], exact["along"])
    assert (out["lap"] - exact["lap"]).abs().max() > 1e-3


# Problems and the hard constraint ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class General(Problem):
    """A problem for the operators alone: any domain, coefficients, directions, lift."""

    domain: object = None
    s: object = S_CASES["default"]
    own: object = S_CASES["default"]
    v: object = S_CASES["default"]
    lifted: bool = False
    parameters: object = None
    reads = Reads(grad_sq=True)

    def coefficients(self, x):
        s = self.s(x)
        return x.new_ones(x.shape[-1]) if s is None else s

    def s_grad(self, x):
        return self.own(x)

    def directions(self, x):
        return self.v(x)

    def lift(self, x):
        """h = sum sin(x_i + i / 10)."""
        shifted = x + torch.arange(x.shape[-1], dtype=x.dtype) / 10
        return Field(shifted.sin().sum(-1), shifted.cos(), -shifted.sin()) if self.lifted else None


DOMAINS = {
    "ball": Ball(3, radius=1.5),
    "box": Box(3, -0.95, 1.3),
    "ball-time": Cylinder(Ball(2)),
    "box-time": Cylinder(Box(2), time=2.0),
}


@pytest.mark.parametrize("domain, s, lifted", in_pairs(DOMAINS, S_CASES, [False, True]))
def test_hard_constraint_equals_nested_autograd(domain, s, lifted):
    problem = General(3, DOMAINS[domain], S_CASES[s], v=two_fields, lifted=lifted)
    check_forward(Ansatz(problem, net_of("kan-order4", 3)), points(4, 3), parts=ALL)


@pytest.mark.parametrize("name, case, hard", in_pairs(PDES, FAMILIES, [True, False]))
def test_operator_of_every_pde_equals_nested_autograd(name, case, hard):
    """The problem supplies its coefficients (time: 0), directions and lift; the residuals agree too."""
    problem = PDES[name](3)
    x = points(4, problem.domain.dim).abs()  # within the grids
    u = Ansatz(problem, net_of(case, problem.domain.dim), hard)
    check_forward(u, x, parts=("value", "lap"), chunks=(None,))
    close(problem.residual(Forward()(u, x), x), problem.residual(Autograd()(u, x), x))


@pytest.mark.parametrize("name, case, dim", [("poisson", "kan-order3", 100), ("hjb", "metakan-prompt1-layer", 99)])
def test_hard_constraint_equals_nested_autograd_in_100_dimensions(name, case, dim):
    problem = PDES[name](dim)
    x = problem.domain.interior(2, generator(), dtype=F64)
    check_forward(Ansatz(problem, net_of(case, 100)), x, chunks=(25,))


@pytest.mark.parametrize("dim", [1, 20])
def test_hard_constraint_on_a_box_in_other_dimensions(dim):
    problem = General(dim, Box(dim), of_x, v=two_fields, lifted=True)
    check_forward(Ansatz(problem, net_of("kan-order4", dim)), points(3, dim, reach=0.5), chunks=(4,), parts=ALL)


def test_ansatz_strips_its_own_directions():
    x = points(4, 4)
    out = Forward()(Ansatz(HJB(3), net_of("kan-order3", 4)), x)
    assert (out.value.shape, out.along.shape, out.grad_sq.shape, out.lap.shape) == ((4,), (4, 1), (4,), (4,))
    assert Forward()(Ansatz(Poisson(4), net_of("kan-order3", 4)), x).along is None


def test_gradient_may_have_coefficients_of_its_own():
    problem = General(3, Ball(3), signed, of_x, two_fields, lifted=True)
    u, x = Ansatz(problem, net_of("kan-order4", 3)), points(4, 3)
    check_forward(u, x, parts=ALL)
    out = Forward()(u, x)
    close(out.grad_sq, Forward()(u, x, of_x(x)).grad_sq)
    close(out.lap, Forward()(Ansatz(General(3, Ball(3), signed, lifted=True), u.net), x).lap)
    assert (
        out.grad_sq - Forward()(Ansatz(General(3, Ball(3), signed, lifted=True), u.net), x).grad_sq
    ).abs().max() > 0.1


@pytest.mark.parametrize("hard", [True, False], ids=["hard", "soft"])
def test_equation_of_first_order_has_no_laplacian(hard):
    """Eikonal and transport equations: no second derivatives, but a gradient square and directions."""

    class FirstOrder(General):
        def coefficients(self, x):
            return None

    problem = FirstOrder(3, Ball(3), own=lambda x: x.new_ones(3), v=two_fields)
    u, x = Ansatz(problem, net_of("kan-order3", 3), hard), points(4, 3)
    assert Forward()(u, x).lap is None
    check_forward(u, x, parts=("along", "grad_sq"))


def test_gradient_square_that_no_residual_reads_is_not_computed():
    for operator in (Forward(), Autograd()):
        out = operator(Ansatz(Poisson(3), net_of("kan-order3", 3)), points(4, 3))
        with pytest.raises(AttributeError, match="grad_sq was not computed"):
            _ = out.grad_sq


class Scales(nn.Module):
    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values, dtype=F64))


@pytest.mark.parametrize("case", ["mlp-tanh", "kan-order4"])
@pytest.mark.parametrize("values", [(1.0, -0.5, 2.0), (1.0, 0.0, 2.0)], ids=["nonzero", "one zero"])
@pytest.mark.parametrize("per_point", [False, True], ids=["constant", "of-x"])
def test_unknown_coefficients_of_an_inverse_problem_have_the_same_gradient(case, values, per_point):
    unknown = Scales(values)
    s = (lambda x: unknown.values * x.square()) if per_point else (lambda x: unknown.values)
    problem = General(3, Ball(3), s, v=two_fields, lifted=True, parameters=unknown)
    u = Ansatz(problem, net_of(case, 3))
    assert any(p is unknown.values for p in u.parameters())
    check_forward(u, points(4, 3), parts=ALL)


def test_field_of_a_function_is_its_field():
    x = points(4, 3)
    numeric, closed = Field.of(lambda x: Ball(3, 1.5).factor(x).value.exp(), x), Ball(3, 1.5).factor(x)
    close(numeric.grad, closed.grad * closed.value.exp()[:, None])
    close(numeric.hessian_diagonal, (closed.grad.square() + closed.hessian_diagonal) * closed.value.exp()[:, None])


@pytest.mark.parametrize(
    "function", [lambda x: x.new_ones(len(x)), lambda x: 2 * x[:, 0] + 1], ids=["constant", "affine"]
)
def test_field_of_an_affine_function_has_no_curvature(function):
    field = Field.of(function, points(4, 3))
    assert torch.equal(field.hessian_diagonal.expand(4, 3), torch.zeros(4, 3, dtype=F64))


def test_fields_of_functions_in_an_ansatz_equal_nested_autograd():
    """A factor and a lift given as functions, the way a user writes them."""

    class ByFunction(General):
        def factor(self, x):
            return Field.of(lambda x: (1 - x.square().sum(-1)).sin(), x)

        def lift(self, x):
            return Field.of(lambda x: x.sin().prod(-1), x)

    u, x = Ansatz(ByFunction(3, Ball(3)), net_of("kan-order4", 3)), points(4, 3)
    a, b = Forward()(u, x), Autograd()(u, x)
    for name in ("value", "grad_sq", "lap"):
        close(getattr(a, name), getattr(b, name), name=name)


@pytest.mark.parametrize("function", [lambda x: x.sin().prod(1), lambda x: x.new_ones(len(x))], ids=["sine", "one"])
def test_field_of_a_function_for_one_point_at_a_time(function):
    x = points(4, 3)
    apart = lambda row: tuple(vars(Field.of(function, row.unsqueeze(0))).values())
    together = vars(Field.of(function, x))
    for (name, expected), part in zip(together.items(), torch.func.vmap(apart)(x), strict=True):
        close(part.squeeze(1), expected, name=name)


def test_gauss_newton_takes_fields_of_functions(tmp_path):
    @dataclass(frozen=True)
    class ByFunction(Poisson):
        def factor(self, x):
            return Field.of(lambda x: 1 - x.square().sum(1), x)

    runs = [
        train(
            problem(3),
            backbone={"name": "kan", "widths": [3]},
            dtype="float64",
            loss={"gradient": "none"},
            phases=[{"optimizer": "gauss_newton", "steps": 2}],
            points={"test": 100},
            out=tmp_path / f"{problem.__name__}.h5",
        )
        for problem in (Poisson, ByFunction)
    ]
    assert runs[0].rel_l2 == pytest.approx(runs[1].rel_l2, rel=1e-8)


@pytest.mark.parametrize("s", [signed, of_x])
def test_a_lift_without_a_factor_is_added(s):
    class NoFactor(General):
        def factor(self, x):
            return None

    problem = NoFactor(3, Ball(3), s, v=two_fields, lifted=True)
    check_forward(Ansatz(problem, net_of("kan-order4", 3)), points(4, 3), parts=ALL)


# The streamed first layer ------------------------------------------------------------------------------------------

STREAMED = ["kan-order4", "kan-bias", "metakan-prompt3-network", "fastkan-norm-all", "metagramkan", "wavkan-morlet"]


def stream_all_layers(monkeypatch, net: nn.Module, x: Tensor) -> None:
    monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
    first = net[0]
    assert len(first.slices(first.chunk(x, per_input=first.basis.footprint(first.out_features, 0)))) > 2


@pytest.mark.parametrize("s", ["default", "signed", "of-x"])
@pytest.mark.parametrize("case", STREAMED)
def test_streamed_layer_equals_unstreamed(monkeypatch, case, s):
    net, x = net_of(case, 40, widths=(20, 3)), points(3, 40)
    whole = evaluate(Forward(), net, x, S_CASES[s], two_fields)
    stream_all_layers(monkeypatch, net, x)
    check_equal(evaluate(Forward(), net, x, S_CASES[s], two_fields), whole)


@pytest.mark.parametrize("case", STREAMED)
def test_streamed_layer_equals_unstreamed_in_an_ansatz(monkeypatch, case):
    u, x = Ansatz(HJB(39), net_of(case, 40)), points(3, 40, reach=0.3)
    whole = evaluate(Forward(), u, x)
    stream_all_layers(monkeypatch, u.net, x)
    check_equal(evaluate(Forward(), u, x), whole)


@pytest.mark.parametrize("case", STREAMED)
def test_streamed_value_equals_unstreamed(monkeypatch, case):
    """The forward value, its gradient in x and parameters, and nested differentiation through the pieces."""
    net, x = net_of(case, 40), points(3, 40).requires_grad_()
    trained = [p for p in net.parameters() if p.requires_grad]
    both = lambda: (net(x), *torch.autograd.grad(net(x).sin().sum(), [x, *trained]))
    whole, nested = both(), evaluate(Autograd(20), net, x)
    stream_all_layers(monkeypatch, net, x)
    for a, b in zip(both(), whole, strict=True):
        close(a, b)
    check_equal(evaluate(Autograd(20), net, x), nested)


def saved_bytes(case: str, dim: int, n: int = 32) -> int:
    """What autograd keeps of one Forward pass over n points, parameters and inputs left out."""
    net, x = net_of(case, dim, widths=(16,)), points(n, dim)
    s, v = of_x(x), two_fields(x)
    known = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers(), x, s, v)}
    kept = {}

    def pack(t):
        kept[t.untyped_storage().data_ptr()] = t  # a reference, so that no address is used twice
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = Forward()(net, x, s, v)
    assert out.lap.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in known)


@pytest.mark.parametrize("case", ["kan-order3", "metakan-prompt3-network"])
def test_saved_memory_of_a_streamed_layer_does_not_grow_with_points_inputs_outputs(monkeypatch, case):
    growth = lambda: saved_bytes(case, 192) - saved_bytes(case, 64)
    one_number_per_point_and_input = 32 * (192 - 64) * 8
    assert growth() == 0  # fused: the inputs alone
    monkeypatch.setattr(layers.KANLinear, "fused", False)
    assert growth() > 16 * one_number_per_point_and_input  # neither fused nor streamed, every edge is kept
    monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
    assert growth() < 4 * one_number_per_point_and_input


# What is refused, and transforms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3, 3), (3, 3), (4,), (2, 3), ()], ids=str)
@pytest.mark.parametrize("operator", [Forward(), Autograd()], ids=str)
def test_coefficients_of_other_shapes_are_refused_in_one_line(operator, shape):
    """5 points in 3 dimensions: a matrix, for all points or for each, is no diagonal."""
    with pytest.raises(ValueError, match="s have shape") as info:
        operator(net_of("mlp-tanh", 3), points(5, 3), torch.ones(shape, dtype=F64))
    one_line(info)


@pytest.mark.parametrize(
    "wrap", [lambda m: m, lambda m: nn.Sequential(nn.Sequential(nn.Linear(3, 3), m), nn.Linear(3, 1))]
)
def test_module_without_a_rule_is_named(wrap):
    class Swirl(nn.Tanh):
        """Even a subclass of a known module may compute something else."""

    for module, name in ((nn.GELU(), "GELU"), (Swirl(), "Swirl")):
        with pytest.raises(MissingJetRule, match=f"{name}.*Autograd") as info:
            Forward()(wrap(module).double(), points(2, 3))
        one_line(info)
        assert not jet.has_rules(wrap(module))
    assert all(jet.has_rules(net_of(case, 3)) for case in FAMILIES)


def test_rule_of_ones_own_is_used(monkeypatch):
    class Square(nn.Module):
        def forward(self, x):
            return x.square()

    monkeypatch.setattr(jet, "_RULES", dict(jet._RULES))
    jet.rule(Square)(lambda m, y: jet.elementwise(y, m(y.value), 2 * y.value, torch.full_like(y.value, 2)))
    check_forward(compose(nn.Linear(3, 4), Square(), nn.Linear(4, 4), Square(), nn.Linear(4, 1)), points(4, 3), of_x)


def test_rule_of_ones_own_is_told_what_is_wanted(monkeypatch):
    class Twice(nn.Module):
        def forward(self, x):
            return 2 * x

    seen = []

    def twice(module, y, wanted):
        seen.append(wanted)
        return jet.elementwise(y, module(y.value), torch.full_like(y.value, 2), torch.zeros_like(y.value))

    monkeypatch.setattr(jet, "_RULES", dict(jet._RULES))
    jet.rule(Twice, told=True)(twice)
    check_forward(compose(nn.Linear(3, 4), Twice(), nn.Tanh(), nn.Linear(4, 1)), points(4, 3), of_x)
    assert set(seen) == {Part.FULL}


@pytest.mark.parametrize("order", [1, 2])
def test_splines_too_rough_for_second_derivatives_are_refused_in_one_line(order):
    with pytest.raises(ValueError, match=f"spline_order={order}") as info:
        Forward()(network("kan", 3, spline_order=order), points(2, 3))
    one_line(info)


class Residual(nn.Module):
    """The residual as a module, for functional_call."""

    def __init__(self, problem, net):
        super().__init__()
        self.problem, self.u = problem, Ansatz(problem, net)

    def forward(self, x):
        return self.problem.residual(Forward()(self.u, x), x)


@pytest.mark.parametrize("case", FAMILIES)
@pytest.mark.parametrize("problem", [Poisson(3), Heat(2), HJB(2, solution="scaled")], ids=lambda p: type(p).__name__)
def test_gradients_per_point_by_vmap_equal_a_loop(problem, case):
    module, x = Residual(problem, net_of(case, 3)), points(4, 3, reach=0.5)
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    at = lambda p, x: functional_call(module, p, (x[None],)).squeeze(0)
    batched = vmap(grad(at), (None, 0))(named, x)
    rows = [torch.autograd.grad(module(x[i : i + 1]).squeeze(0), list(named.values())) for i in range(len(x))]
    for name, loop in zip(named, zip(*rows, strict=True), strict=True):
        close(batched[name], torch.stack(loop), name=name)
    close(vmap(at, (None, 0))(named, x), module(x))
