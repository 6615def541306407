"""Derivatives by name: Taylor jets of any order against nested differentiation, what is read, and what is refused."""

from dataclasses import dataclass
from itertools import combinations_with_replacement, pairwise
from math import factorial, prod

import pytest
import torch
from conftest import generator, one_line, planned
from torch import nn

import kanpde
from kanpde import ConfigError, Problem
from kanpde.backbones import BACKBONES, build
from kanpde.domains import Ball, Box, Cylinder
from kanpde.jets import Field, taylor
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Affine, LayerNorm, Product, Sine
from kanpde.jets.names import Coordinates, Reads, Sum
from kanpde.jets.nested import nested
from kanpde.jets.taylor import Polarised, Taylor
from kanpde.operators import Autograd, Forward, Hutchinson
from kanpde.testing import check_problem

F64 = torch.float64


def points(n, d, reach=0.9, seed=1):
    return reach * (2 * torch.rand(n, d, generator=generator(seed), dtype=F64) - 1)


def indices_of(d, order):
    return tuple(i for k in range(1, order + 1) for i in combinations_with_replacement(range(d), k))


def of_taylor(net, x, indices):
    polarised = Polarised.of(indices)
    return polarised.derivatives(taylor.push(net, taylor.line(x, polarised.vectors(x), polarised.counts)))


def close(found, expected, rel=1e-10):
    assert (found - expected).abs().max() <= rel * (expected.abs().max() + 1e-300)


# ---------------------------------------------------------------------------------------------------------------
# Taylor jets of networks


def smooth_net(name, d, seed=0):
    """A network of which derivatives of order 5 are continuous."""
    options = {"spline_order": 6} if name.removeprefix("meta") == "kan" else {}
    return build(name, d, widths=(4, 3), generator=generator(seed), **options).double()


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("d", [1, 2, 6])
def test_taylor_jets_equal_nested_differentiation(name, d):
    """All derivatives up to order 4 (of six inputs some of each kind), and their gradients by the weights."""
    net, x = smooth_net(name, d), points(5, d)
    indices = indices_of(d, 4) if d < 3 else ((0,), (3, 3), (0, 1), (1, 1, 4), (0, 2, 5), (2, 2, 2, 2), (0, 1, 2, 3))
    found = of_taylor(net, x, indices)
    expected = nested(lambda x: net(x).squeeze(-1), x, indices)
    for index in indices:
        close(found[index], expected[index])
    trained = [p for p in net.parameters() if p.requires_grad]
    total = lambda of: sum((k + 1) * of[index].square().mean() for k, index in enumerate(indices))
    for a, b in zip(
        *(torch.autograd.grad(total(of), trained, materialize_grads=True) for of in (found, expected)), strict=True
    ):
        close(a, b)


MODULES = {
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "softplus": nn.Softplus(beta=1.5),
    "sine": Sine(1.7),
    "identity": nn.Identity(),
    "affine": Affine(torch.tensor([2.0, -1.0, 0.5, 3.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "norm": LayerNorm(4),
    "torch's norm": nn.LayerNorm(4, elementwise_affine=False),
    "product": Product(),
}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_rule(name):
    module = MODULES[name].double()
    net = nn.Sequential(nn.Linear(2, 4), module, nn.Linear(2 if name == "product" else 4, 1)).double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator(k), dtype=F64))
    plain = nn.Sequential(net[0], LayerNorm(4, elementwise_affine=False).double(), net[2]) if "torch" in name else net
    x, indices = points(5, 2), indices_of(2, 4)
    assert taylor.has_rules(net)
    found, expected = of_taylor(net, x, indices), nested(lambda x: plain(x).squeeze(-1), x, indices)
    for index in indices:
        close(found[index], expected[index])


def test_a_module_without_a_rule_is_differentiated_again_and_again():
    class Cubic(nn.Module):
        def forward(self, x):
            return x**3

    net = nn.Sequential(nn.Linear(1, 1), Cubic()).double()
    assert not taylor.has_rules(net)
    with pytest.raises(TypeError, match="no Taylor rule for Cubic"):
        of_taylor(net, points(3, 1), ((0,),))
    (w, b), x = (p.detach() for p in net.parameters()), points(3, 1)
    _, found = Ansatz(Third(), net, hard=False).derivatives(x, ((0, 0, 0), (0, 0)))
    close(found[0, 0, 0], (6 * w**3).expand(3, 1)[:, 0])
    close(found[0, 0], (6 * w**2 * (w * x + b))[:, 0])


def test_wide_layers_are_taken_in_pieces_and_inputs_that_stand_still_left_out(monkeypatch):
    d, indices = 40, ((3, 3, 3), (7, 30))
    net, x = smooth_net("chebykan", d), points(6, d)
    expected = of_taylor(net, x, indices)
    monkeypatch.setattr("kanpde.kan.layers.TAYLOR_BYTES", 0)
    monkeypatch.setattr("kanpde.kan.layers.CHUNK_BYTES", 0)
    monkeypatch.setattr("kanpde.kan.layers._that_move", lambda rows: None)
    found = of_taylor(net, x, indices)
    for index in indices:
        close(found[index], expected[index], 1e-13)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_of_no_input_that_moves_all_derivatives_are_zero(name):
    """So are hidden values, far off the grid of a wavelet."""
    net = BACKBONES[name](3, widths=[4], generator=generator())
    x = torch.rand(5, 3, generator=generator())
    y = taylor.push(net, taylor.line(x, torch.zeros(1, 1, 3), (2,)))
    assert torch.equal(y.value, net(x)) and not torch.cat([term.flatten() for term in y.terms]).any()


def test_polarisation_is_exact_of_polynomials():
    """D_v^k of x^a / a! is k! v^a / a!, for every monomial of the order; only the derivative by its own axes is 1."""
    for index in indices_of(4, 4):
        polarised = Polarised.of((index,))
        ((_, weights),) = polarised.sums
        for other in combinations_with_replacement(range(4), len(index)):
            powers = [other.count(axis) for axis in range(4)]
            monomial = lambda v, powers=powers: prod(dict(v).get(i, 0) ** a for i, a in enumerate(powers))
            size = factorial(len(index)) / prod(map(factorial, powers))
            found = sum(w * size * monomial(polarised.directions[k]) for k, w in weights)
            assert found == pytest.approx(float(other == index), abs=1e-13), (index, other)


def test_few_directions():
    """Those of second derivatives that are read anyway serve for the mixed one; each goes as far as it is needed."""
    counts = lambda *indices: Polarised.of(indices).counts
    assert counts((0,), (1,), (0, 0)) == (2, 1)
    assert counts((0, 1)) == (2, 2) and counts((0, 0), (0, 1), (1, 1)) == (3, 3)
    assert counts((0, 0, 1, 1)) == (4, 4, 4, 4) and counts((0, 0, 0, 0), (1,)) == (2, 1, 1, 1)


def test_products_and_functions_of_series():
    """exp(x) sin(x) along two directions, the second to a lower order."""
    t = torch.tensor([[0.3], [-0.4]], dtype=F64)
    y = taylor.line(t, torch.tensor([[[1.0], [2.0]]], dtype=F64), (2, 2, 1))
    product = y.of([t.exp()] * 4).times(y.of([t.sin(), t.cos(), -t.sin(), -t.cos()]))
    e, s, c = t[:, 0].exp(), t[:, 0].sin(), t[:, 0].cos()
    first, second, third = e * (s + c), 2 * e * c, 2 * e * (c - s)
    close(product.terms[0][..., 0], torch.stack([first, 2 * first], 1))
    close(product.terms[1][..., 0], torch.stack([second, 4 * second], 1))
    close(product.terms[2][..., 0], third[:, None])
    assert isinstance(product.plus(product), Taylor)


# ---------------------------------------------------------------------------------------------------------------
# Names


def test_names_mean_derivatives():
    own = Coordinates(3, True, ("x", "speed", "t"))
    assert own.index("xxt") == (0, 0, 2) and own.index("speedx") == (0, 1) and own.index("y") is None
    assert own.of("x", 3) == (0, 0, 0) and own.of("t", "x", 2) == (0, 0, 2) and list(own.space) == [0, 1]
    default = Coordinates(12, has_time=True)
    assert default.index("x11x1") == (0, 10) and default.index("x12") is None and default.index("t") == (11,)
    assert default.names((0, 11)) == "x1t" and str(default) == "x1, x2, ..., t" and str(own) == "x, speed, t"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("x",), "given 1 names (x), the domain has 2 coordinates"),
        (("x", "x"), "'x' in x, x has two meanings"),
        (("x", "xx"), "'xx' in x, xx has two meanings"),
        (("x", "lap"), "'lap' is what a jet calls something else"),
        (("x", "2t"), "'2t' is no name"),
        ("xt", "needed is a tuple of 2 names"),
    ],
)
def test_names_that_clash_are_refused(given, says):
    with pytest.raises(ConfigError) as info:
        Coordinates(2, given=given)
    assert says in one_line(info)


def test_names_of_a_derivative_are_asked_for_in_order():
    with pytest.raises(ConfigError, match="unknown coordinate 'z' .*x, t"):
        Coordinates(2, given=("x", "t")).of("z")
    with pytest.raises(ConfigError, match="each followed by how often"):
        Coordinates(2, given=("x", "t")).of(2, "x")


# ---------------------------------------------------------------------------------------------------------------
# Problems that read them


@dataclass(frozen=True)
class OnAnInterval(Problem):
    """u on (-1, 1) times (0, 1), zero on the boundary, sin(pi x) at first."""

    dim: int = 1
    coordinates = ("x", "t")

    @property
    def domain(self):
        return Cylinder(Box(1))

    def exact(self, x):
        return torch.sin(torch.pi * x[:, 0]) * torch.exp(-x[:, 1])

    def initial_value(self, x):
        return torch.sin(torch.pi * x[:, 0])


class Third(OnAnInterval):
    def residual(self, u, x):
        return u.t + u.xxx - u.xt + 0.5 * u.d("x", 4) - self.right(x)

    def right(self, x):
        """u_t + u_xxx - u_xt + u_xxxx / 2 of sin(pi x) exp(-t)."""
        s, c, p = torch.sin(torch.pi * x[:, 0]), torch.cos(torch.pi * x[:, 0]), torch.pi
        return torch.exp(-x[:, 1]) * (-s - p**3 * c + p * c + p**4 * s / 2)


@dataclass(frozen=True)
class Plate(Problem):
    """Lap^2 u = g on a square, u = (1 - x^2)(1 - y^2) exp(x)."""

    dim: int = 2
    coordinates = ("x", "y")

    @property
    def domain(self):
        return Box(2)

    def residual(self, u, x):
        return u.bilap - self.right(x)

    def right(self, x):
        parts = nested(self.exact, x, ((0,) * 4, (0, 0, 1, 1), (1,) * 4))
        return parts[(0,) * 4] + 2 * parts[0, 0, 1, 1] + parts[(1,) * 4]

    def exact(self, x):
        return (1 - x.square()).prod(1) * torch.exp(x[:, 0])


@dataclass(frozen=True)
class Media(Problem):
    """-div(a grad u) = g with a = 1 + |x|^2 on the unit ball, u = 1 - |x|^2."""

    dim: int = 3

    @property
    def domain(self):
        return Ball(self.dim)

    def a(self, x):
        return 1 + x.square().sum(1)

    def residual(self, u, x):
        return u.div(self.a, x) + 2 * self.dim * self.a(x) + 4 * x.square().sum(1)

    def exact(self, x):
        return 1 - x.square().sum(1)


class Named(Problem):
    """Heat in two coordinates of space, by the default names, with the Laplacian beside first derivatives by name."""

    @property
    def domain(self):
        return Cylinder(Ball(2))

    def residual(self, u, x):
        return u.t - u.lap + 0.5 * u.x2


class Mixed(Named):
    def directions(self, x):
        return torch.tensor([[1.0, 2.0, 0.0]], dtype=x.dtype)

    def residual(self, u, x):
        return u.along[:, 0] + u.grad_sq + u.x1x2 + u.x1


class Basket(Problem):
    """sum_ij a_ij u_ij with A = s s^T, of factors that depend on x: full, of rank 2 in three dimensions."""

    @property
    def domain(self):
        return Ball(3)

    def diffusion(self, x):
        rows = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]], dtype=x.dtype)
        return rows * (1 + x.unsqueeze(1) / 2)

    def exact(self, x):
        return 1 - x.square().sum(1)

    def residual(self, u, x):
        return u.diffusion + u.x1 + 2 * self.diffusion(x).square().sum((1, 2)) + 2 * x[:, 0]


@pytest.mark.parametrize(
    ("problem", "reads"),
    [
        (Third(), Reads(False, False, False, False, ((1,), (0, 1), (0, 0, 0), (0, 0, 0, 0)))),
        (Plate(), Reads(False, False, False, False, (), (Sum((2, 2), 2),))),
        (Media(), Reads(False, False, False, False, ((0,), (1,), (2,), (0, 0), (1, 1), (2, 2)))),
        (Named(2), Reads(False, True, False, False, ((1,), (2,)))),
        (Mixed(2), Reads(True, False, True, False, ((0,), (0, 1)))),
        (Basket(3), Reads(False, False, False, True, ((0,),))),
    ],
    ids=["third", "plate", "media", "named", "mixed", "basket"],
)
def test_what_is_read_is_known_and_all_operators_compute_it(problem, reads):
    """The jet is that of nested differentiation, hard and soft, with its gradients by x and the weights."""
    assert problem.reads == reads
    d = problem.domain.dim
    x = problem.domain.interior(4, generator(2), dtype=F64).requires_grad_()
    for hard in (True, False):
        u = Ansatz(problem, smooth_net("kan", d), hard)
        found = {}
        for operator in (Forward(), Autograd()):
            jet = operator(u, x)
            assert jet.derivatives.keys() == set(reads.every)
            assert (jet.along is not None, jet.lap is not None) == (reads.along, reads.second)
            r = problem.residual(jet, x)
            found[operator] = [*jet.parts, *torch.autograd.grad(r.square().sum(), [x, *u.net.parameters()])]
        for a, b in zip(*found.values(), strict=True):
            close(a, b)
        estimated = Hutchinson(probes=2)(u, x, generator=generator(3))
        for index in reads.derivatives:
            close(estimated.derivatives[index], Forward()(u, x).derivatives[index])


@pytest.mark.parametrize("problem", [Third(), Plate(), Media(), Basket(3)], ids=["third", "plate", "media", "basket"])
def test_statements_agree_with_exact_solutions(problem):
    assert "residual of the exact solution" in str(check_problem(problem))


def test_single_precision_holds_up_to_the_fourth_derivative():
    """The factor of a box is a product that vanishes: nested derivatives of torch.prod would leave no digit."""
    net, x = smooth_net("kan", 2), points(50, 2)
    jets = [Forward()(Ansatz(Plate(), net.to(dtype)), x.to(dtype)).bilap.double() for dtype in (F64, torch.float32)]
    close(jets[1], jets[0], 1e-4)


def test_without_a_graph_the_derivatives_have_none():
    u, x = Ansatz(Third(), smooth_net("kan", 2)), points(3, 2)
    with torch.no_grad():
        for operator in (Forward(), Autograd()):
            assert not any(part.requires_grad for part in operator(u, x).parts)
    assert not any(
        t.requires_grad for t in taylor.along(lambda x: x.prod(1), x, torch.eye(2, dtype=F64)[None], (2, 2)).terms
    )


def test_unknowns_in_factor_and_lift_have_gradients():
    @dataclass(frozen=True)
    class Unknown(OnAnInterval):
        parameters: nn.Module = None

        def residual(self, u, x):
            return u.xx

        def lift(self, x):
            return Field.of(lambda x: self.parameters(x.square()).squeeze(-1), x)

    problem = Unknown(parameters=nn.Linear(2, 1).double())
    u = Ansatz(problem, smooth_net("kan", 2))
    x = points(3, 2)
    found, expected = (
        torch.autograd.grad(operator(u, x).xx.square().sum(), problem.parameters.weight)[0]
        for operator in (Forward(), Autograd())
    )
    close(found, expected)
    assert found.abs().max() > 0


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ({"name": "kan"}, "backbone.spline_order: given 3, fourth derivatives need at least 5"),
        ({"name": "metakan", "spline_order": 4}, "given 4, fourth derivatives need at least 5"),
    ],
)
def test_bases_too_rough_for_the_order_are_refused(backbone, says):
    with pytest.raises(ConfigError) as info:
        planned(Third(), {"backbone": backbone, "loss": {"gradient": "none"}})
    assert says in one_line(info)
    with pytest.raises(ConfigError, match=r"loss.gradient: exact needs backbone.spline_order of at least 6"):
        planned(Third(), {"backbone": {"name": "kan", "spline_order": 5}, "loss": {"gradient": "exact"}})


def test_compile_is_refused_or_left():
    given = {"backbone": {"name": "kan", "spline_order": 5}, "loss": {"gradient": "none"}, "steps": 5000}
    assert planned(Third(), given).config.compile is False
    with pytest.raises(ConfigError, match=r"compile: u\.xxxx is not compiled"):
        planned(Third(), {**given, "compile": True})


def test_a_derivative_that_was_not_read_is_explained():
    class Moody(OnAnInterval):
        def residual(self, u, x):
            return u.xx if len(x) == 2 else u.xt

    u = Forward()(Ansatz(Moody(), smooth_net("kan", 2)), points(3, 2))
    with pytest.raises(AttributeError, match=r"u\.xt was not computed: the residual did not read it"):
        Moody().residual(u, points(3, 2))
    with pytest.raises(AttributeError, match=r"by the names of the coordinates, such as u\.xx or u\.t"):
        _ = u.uxx
    with pytest.raises(AttributeError, match="of the u of a problem"):
        Forward()(smooth_net("kan", 2), points(3, 2)).d("x")


@pytest.mark.parametrize("optimizer", ["soap", "gauss_newton"])
def test_a_run_learns_an_equation_of_fourth_order(tmp_path, optimizer):
    options = {"phases": [{"optimizer": optimizer, "steps": 6}], "loss": {"gradient": "none"}, "dtype": "float64"}
    points = {"interior": 40, "test": 50, "validation": 30}
    net = {"name": "chebykan", "widths": [5]}
    run = kanpde.train(Third(), backbone=net, solver="adam", points=points, out=tmp_path / "r.h5", **options)
    losses = run.history["validation"]
    assert losses[-1] < (0.8 if optimizer == "soap" else 0.1) * losses[0]
    assert all(a > b for a, b in pairwise(losses))


def test_the_scale_of_a_domain_is_that_of_what_is_read():
    @dataclass(frozen=True)
    class Small(Problem):
        dim: int = 1
        coordinates = ("x",)

        @property
        def domain(self):
            return Box(1, 0, 0.2)

        def residual(self, u, x):
            return u.xxx

    given = {"backbone": {"name": "chebykan", "widths": [4]}, "loss": {"gradient": "none"}}
    plan = planned(Small(), given)
    assert plan.loss.factor(plan.problem) == pytest.approx(0.1**3)
