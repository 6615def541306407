"""Fluxes that the ansatz meets whatever the network is, what of them is left to the loss, and what flat inputs keep."""

from dataclasses import dataclass, replace

import h5py
import numpy as np
import pytest
import torch
from conftest import F64, generator, one_line, planned
from torch import nn

import kanpde
from kanpde import ConfigError, Problem, Run
from kanpde.backbones import build
from kanpde.domains import Ball, Box, Cylinder
from kanpde.explain import explain
from kanpde.jets.harmonics import harmonics
from kanpde.jets.nested import nested
from kanpde.operators import Autograd, Forward
from kanpde.problems.base import own
from kanpde.problems.conditions import Dirichlet, Initial, Neumann, Periodic, Point, Robin, Terminal
from kanpde.problems.sides import OnSide, carriers, profile
from kanpde.verification.equation import DefectEquation

NETS = {
    "kan": {"name": "kan", "widths": [4], "spline_order": 5},
    "chebykan": {"name": "chebykan", "widths": [4]},
    "mlp": {"name": "mlp", "widths": [5, 5]},
}
FAST = {"backbone": NETS["chebykan"], "dtype": "float64", "loss": {"gradient": "none"}}


@dataclass(frozen=True)
class Stated(Problem):
    """Any conditions on any domain; u* = sin(x_1 + 1/2) exp(the sum of the other coordinates / 2)."""

    where: object = None
    conditions: object = ()
    reads_time: bool = False

    @property
    def domain(self):
        return self.where

    def exact(self, x):
        return solution(x)

    def residual(self, u, x):
        return u.lap + (u.t if self.reads_time else 0)


def stated(where, *conditions):
    timed = isinstance(where, Cylinder)
    dim = where.space.dim if timed else where.dim
    return Stated(dim=dim, where=where, conditions=conditions, reads_time=timed)


def solution(x):
    return torch.sin(x[:, 0] + 0.5) * torch.exp(x[:, 1:].sum(1) / 2)


def slope(axis):
    """du*/dx_axis."""
    if axis == 0:
        return lambda x: torch.cos(x[:, 0] + 0.5) * torch.exp(x[:, 1:].sum(1) / 2)
    return lambda x: solution(x) / 2


def out(axis, end="high"):
    """The flux of u* through a side."""
    of = slope(axis)
    return lambda x: of(x) if end == "high" else -of(x)


def robin(axis, end, a, b):
    return Robin(f"x{axis + 1} = {end}", a, b, lambda x: a * solution(x) + b * out(axis, end)(x))


def flux(axis, end):
    return Neumann(f"x{axis + 1} = {end}", out(axis, end))


def value(axis, end):
    return Dirichlet(f"x{axis + 1} = {end}", solution)


LINE, SQUARE, CUBE = Box(1, -0.5, 1.5), Box(2, (0, -1), (2, 1)), Box(3, 0, 1)
TUBE, SLAB = Cylinder(LINE, 0.5), Cylinder(SQUARE, 2.0)
PLATE, SEEN = Box(2) - Ball(2, 0.5), Point([0.1], 0.3)
MET = {
    "value and flux": (LINE, value(0, "low"), flux(0, "high")),
    "flux and value": (LINE, flux(0, "low"), value(0, "high")),
    "one flux": (LINE, flux(0, "low"), Point([1.5], 0.0)),
    "two fluxes": (LINE, flux(0, "low"), flux(0, "high"), SEEN),
    "two fluxes of zero": (LINE, Neumann(), SEEN),
    "robin": (LINE, robin(0, "low", 1.0, 2.0), value(0, "high")),
    "two robin": (LINE, robin(0, "low", 1.0, 2.0), robin(0, "high", 3.0, 0.5)),
    "robin and flux": (LINE, robin(0, "low", -1.0, -2.0), flux(0, "high")),
    "robin alone": (LINE, robin(0, "high", 2.0, 1.0)),
    "adjacent sides": (SQUARE, value(0, "low"), flux(0, "high"), flux(1, "low"), value(1, "high")),
    "all fluxes": (SQUARE, *(flux(axis, end) for axis in (0, 1) for end in ("low", "high")), Point([0.1, 0.2], 0.3)),
    "all robin": (SQUARE, *(robin(axis, end, 1.0, 0.5) for axis in (0, 1) for end in ("low", "high"))),
    "flux and period": (SQUARE, Periodic("x1"), Neumann("x2 = low", 2.0), Dirichlet("x2 = high", 1.0)),
    "cube": (CUBE, flux(0, "low"), value(0, "high"), flux(1, "high"), robin(2, "low", 1.0, 1.0), flux(2, "high")),
    "insulated cube": (CUBE, Neumann(), Point([0.5, 0.5, 0.5], 0.0)),
    "side of a plate": (PLATE, Neumann("x1 = low", 3.0), Dirichlet("x2 = high", lambda x: -3 * x[:, 0])),
    "in time": (TUBE, Initial(solution), flux(0, "low"), flux(0, "high")),
    "in time with values": (SLAB, Initial(solution), value(0, "low"), flux(0, "high"), robin(1, "low", 1.0, 1.0)),
    "with a slope in time": (TUBE, Initial(solution), Initial(slope(1), "t"), flux(0, "low"), value(0, "high")),
    "both ends of time": (TUBE, Initial(solution), Terminal(solution), flux(0, "high")),
}  # fmt: skip


SOME = "two robin", "flux and period", "in time with values"  # which all networks are tried on


@pytest.mark.parametrize(
    ("net", "case"), [("chebykan", case) for case in MET] + [(net, case) for net in ("kan", "mlp") for case in SOME]
)
def test_fluxes_are_met_by_any_network(net, case):
    """To rounding, beside all values, also where sides meet; what is at points inside alone is a term."""
    plan = planned(own(stated(*MET[case])), {**FAST, "backbone": NETS[net]})
    asked = plan.problem.asked
    assert plan.met == {name for name, c in asked.items() if not isinstance(c, Point)}
    assert plan.config.fluxes == "exactly"
    u = _drawn(plan.ansatz())
    for name in plan.met:
        x = asked[name].points(plan.problem, 40, generator(4), "volume", dtype=F64)
        misfit = asked[name].misfit(u, torch.cat([x, _at_corners(plan.problem, asked[name])]))
        assert misfit.abs().max() < (1e-11 if isinstance(asked[name], Periodic) else 1e-12), name
    x = plan.problem.domain.interior(40, generator(5), dtype=F64)
    assert (u(x) - _drawn(plan.ansatz(), 2)(x)).abs().max() > 1e-3  # and free inside


def _drawn(u, seed=1):
    """Weights that are not small."""
    with torch.no_grad():
        for p in u.net.parameters():
            p.normal_(std=0.5, generator=generator(seed))
    return u


def _at_corners(problem, condition):
    """Where the side of a condition meets others, one point; none of one that is no face of a box."""
    space = getattr(problem.domain, "space", problem.domain)
    if not isinstance(condition, Neumann | Robin) or condition.part == "boundary" or not isinstance(space, Box):
        return torch.empty(0, problem.n_inputs, dtype=F64)
    x = torch.tensor([[low for low, _ in space.sides] + [0.0] * (problem.n_inputs - space.dim)], dtype=F64)
    axis = int(condition.part[1]) - 1
    x[0, axis] = space.sides[axis][condition.part.endswith("high")]
    return x


@pytest.mark.parametrize("case", SOME)
@pytest.mark.parametrize("net", NETS)
def test_derivatives_of_the_ansatz_are_those_of_nested_differentiation(net, case):
    """Laplacian, square of the gradient, directions; and by name up to the third order, mixed ones too."""
    plan = planned(own(stated(*MET[case])), {**FAST, "backbone": NETS[net]})
    u, x = _drawn(plan.ansatz()), plan.problem.domain.interior(5, generator(2), dtype=F64)
    s, v = torch.rand(x.shape[1], generator=generator(3), dtype=F64), torch.eye(x.shape[1], dtype=F64)
    ours, wanted = Forward()(u, x, s, v), Autograd()(u, x, s, v)
    for a, b in zip(ours.parts, wanted.parts, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    last = x.shape[1] - 1
    indices = ((0,), (0, 0), (0, 0, 0), (last, last), *([(0, last), (0, 0, last)] if last else []))
    value, found = u.derivatives(x, indices)
    wanted = nested(u, x, ((), *indices))
    assert torch.allclose(value, wanted[()], atol=1e-12)
    for index in indices:
        assert torch.allclose(found[index], wanted[index], rtol=1e-9, atol=1e-9), index


@pytest.mark.parametrize("case", MET)
def test_factor_and_lift_have_their_own_derivatives(case):
    """Against nested differentiation; m is above zero inside."""
    problem = stated(*MET[case])
    x = problem.domain.interior(5, generator(5), dtype=F64)
    axes = range(x.shape[1])
    indices = tuple((i,) for i in axes) + tuple((i, i) for i in axes)
    for of in (problem.factor, problem.lift):
        if (found := of(x)) is None:
            continue
        expected = nested(lambda x, of=of: of(x).value, x, indices)
        grad, second = (torch.stack([expected[(i,) * k] for i in axes], 1) for k in (1, 2))
        assert torch.allclose(found.grad, grad, atol=1e-11)
        assert torch.allclose(found.hessian_diagonal.expand_as(grad), second, atol=1e-10)
    assert problem.factor(x) is None or (problem.factor(x).value > 0).all()


# ---------------------------------------------------------------------------------------------------------------
# Left to the loss


LEFT = {  # a problem, and the places of the conditions that are met
    "a flux that disagrees with a value where they meet": (
        (SQUARE, Dirichlet("x1 = low", lambda x: x[:, 1].square()), Neumann("x2 = high", 0.0)), {0},
    ),
    "fluxes that disagree where they meet": (
        (SQUARE, Neumann("x1 = low", lambda x: x[:, 1].square()), Neumann("x2 = high", 0.0), Point([1.0, 0.0], 1.0)),
        {1},  # either alone
    ),
    "initial values of another flux": ((TUBE, Initial(lambda x: x[:, 0]), Neumann()), {0}),
    "initial values of another flux at one end": (
        (TUBE, Initial(lambda x: x[:, 0]), Neumann("x1 = low"), Neumann("x1 = high", 1.0)), {0, 2},
    ),
    "a flux that changes in time": ((TUBE, Initial(0.0), Neumann("x1 = high", lambda x: 1 + x[:, 1])), {0}),
    "a flux that begins at zero": ((TUBE, Initial(0.0), Neumann("x1 = high", lambda x: x[:, 1])), {0, 1}),
    "robin that no positive factor has": (
        (LINE, Dirichlet("x1 = low"), Robin("x1 = high", -2.0, 1.0, 1.0)), {0},
    ),
    "robin of a function": ((LINE, Dirichlet("x1 = low"), Robin("x1 = high", lambda x: x[:, 0], 1.0)), {0}),
    "a part that is no side": ((SQUARE, Dirichlet("x1 = low"), Neumann(lambda x: x[:, 0] > 1.9)), {0}),
    "a ball": ((Ball(2), Neumann("boundary", 1.0), Point([0.0, 0.0], 1.0)), set()),
    "all sides of four dimensions": ((Box(4), Neumann(), Point([0.0] * 4, 1.0)), set()),
    "a side of four dimensions": ((Box(4), Neumann("x1 = 1"), Dirichlet("x1 = -1")), {0, 1}),
    "a flux with a kink": ((SQUARE, Neumann("x1 = low", lambda x: x[:, 1].abs()), Point([1.0, 0.0], 1.0)), set()),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_the_ansatz_does_not_meet_is_a_term(case):
    """What is said to be met is, the rest is not, and its points are drawn."""
    given, met = LEFT[case]
    plan = planned(own(stated(*given)), FAST)
    names = list(plan.problem.asked)
    assert plan.met == {names[k] for k in met}
    assert plan.counts.keys() - {"interior"} == set(names) - plan.met
    u = _drawn(plan.ansatz())
    for name, condition in plan.problem.asked.items():
        x = condition.points(plan.problem, 30, generator(4), "volume", dtype=F64)
        assert (condition.misfit(u, x).abs().max() < 1e-12) == (name in plan.met), name


def test_fluxes_are_left_to_the_loss_where_that_is_said(tmp_path):
    problem, met = stated(*MET["adjacent sides"]), {"dirichlet", "dirichlet_2"}
    plan = planned(own(problem), {**FAST, "fluxes": "loss"})
    assert plan.met == met and plan.problem.exactly.flat == {} and not _flat_layers(plan.net)
    assert planned(own(problem), FAST).conditions == "exactly: dirichlet, neumann, neumann_2, dirichlet_2"
    soft = planned(own(problem), {**FAST, "constraint": "soft"})
    assert soft.met == frozenset() and soft.config.fluxes is None and not _flat_layers(soft.net)
    net = build("mlp", 2, widths=(4,), generator=generator(0))
    given = planned(own(problem), {**FAST, "backbone": {"name": "python.MLP"}}, net=net)
    assert given.met == met
    for options, words in (({"constraint": "soft"}, "soft leaves all to the loss"), ({}, "has its own inputs")):
        with pytest.raises(ConfigError) as info:
            planned(own(problem), {**FAST, **options, "fluxes": "exactly"}, net=None if options else net)
        assert words in one_line(info)


def _flat_layers(net):
    return [layer for layer in net if type(layer).__name__ == "Polynomials"]


def test_a_start_with_slopes_is_refused():
    problem = stated(*MET["value and flux"])
    with pytest.raises(ConfigError, match="start: ladder has slopes where neumann is met exactly; say start: network"):
        planned(own(problem), {**FAST, "start": "ladder"})
    assert planned(own(problem), {**FAST, "solver": "default"}).config.start == "network"
    assert planned(own(problem), {**FAST, "start": "ladder", "fluxes": "loss"}).config.start == "ladder"


def test_a_clamped_side_has_a_factor_of_second_order():
    """Value and slope on a side, of an equation of fourth order: m has a double zero there, and f is free."""

    @dataclass(frozen=True)
    class Beam(Stated):
        def residual(self, u, x):
            return u.d("x1", 4)

    clamped = Beam(dim=1, where=LINE, conditions=(value(0, "low"), flux(0, "low"), flux(0, "high"), value(0, "high")))
    plan = planned(own(clamped), FAST)
    assert len(plan.met) == 4 and plan.problem.exactly.flat == {} and plan.config.fluxes == "exactly"
    assert planned(own(clamped), {**FAST, "fluxes": "loss"}).met == {"dirichlet", "dirichlet_2"}
    held = Beam(dim=1, where=LINE, conditions=(value(0, "low"), flux(0, "low"), robin(0, "high", 1.0, 1.0)))
    assert planned(own(held), FAST).problem.exactly.flat == {0: {1}}
    for problem in (clamped, held):
        plan = planned(own(problem), FAST)
        u = _drawn(plan.ansatz())
        for name, condition in plan.problem.asked.items():
            x = condition.points(plan.problem, 3, generator(4), "volume", dtype=F64)
            assert name in plan.met and condition.misfit(u, x).abs().max() < 1e-12


def test_fields_are_flat_where_all_of_them_are_to_be():
    """Two fields that are insulated, and one that is beside another with values, which the same inputs serve."""

    @dataclass(frozen=True)
    class Two(Problem):
        dim: int = 1
        coordinates = ("x",)
        fields = ("u", "v")
        conditions: object = ()

        @property
        def domain(self):
            return LINE

        def residual(self, w, x):
            u, v = w
            return u.xx - v.value, v.xx + u.value

    fluxes = [Neumann("x = low", 1.0, field=name) for name in ("u", "v")]
    beside = Neumann("x = high", 2.0, field="u"), Dirichlet("x = high", 3.0, field="v")
    for networks in ("shared", "separate"):
        plan = planned(own(Two(conditions=(*fluxes, *beside))), {**FAST, "networks": networks})
        assert plan.met == {"neumann_u", "neumann_v", "dirichlet_v"}
        u = plan.ansatz()
        for name, condition in plan.problem.asked.items():
            x = condition.points(plan.problem, 3, generator(4), "volume", dtype=F64)
            misfit = condition.misfit(u.of(condition.field), x).abs().max()
            assert (misfit < 1e-12) == (name in plan.met), name


# ---------------------------------------------------------------------------------------------------------------
# Runs


def test_runs_of_before_open_with_their_fluxes_in_the_loss(tmp_path):
    """Of such a file the configuration does not say; one that does has the network that it was trained with."""
    problem, x = stated(*MET["value and flux"]), torch.linspace(-0.5, 1.5, 5, dtype=F64).unsqueeze(1)
    options = {**FAST, "solver": "adam", "steps": 2, "points": {"interior": 10, "test": 9, "validation": 9}}
    for fluxes in ("loss", "exactly"):
        path = tmp_path / f"{fluxes}.h5"
        run = kanpde.train(problem, out=path, fluxes=fluxes, **options)
        before = run.load_model(problem=problem)(x)
        assert run.config["fluxes"] == fluxes
        if fluxes == "loss":
            with h5py.File(path, "r+") as file:
                file.attrs["config"] = file.attrs["config"].replace("fluxes: loss\n", "")
        again = Run.open(path).load_model(problem=problem)
        assert torch.equal(again(x), before)
        misfit = problem.asked["neumann"].misfit(again, x[-1:]).abs().item()
        assert (misfit < 1e-12) == (fluxes == "exactly")
    with pytest.raises(ConfigError, match="flat inputs is not taken apart; train one with fluxes: loss"):
        explain(run, problem=problem)


def test_a_verified_error_has_no_flux_where_u_has_the_one_that_is_asked_for():
    """Walks end where values are met, and are mirrored at fluxes, whether these are met or not."""
    u = planned(own(stated(*MET["adjacent sides"])), FAST).ansatz()
    equation = DefectEquation(u)
    assert not equation.met and DefectEquation(planned(own(stated(LINE, Dirichlet())), FAST).ansatz()).met
    edges = equation.edges(SQUARE.boundary(50, generator(1), dtype=F64))
    assert edges.misfit.abs().max() < 1e-6 and edges.flux.any() and not edges.flux.all()


@pytest.mark.parametrize("constraint", ["hard", "soft"])
def test_a_manufactured_solution_is_found(tmp_path, constraint):
    """u'' = -u* with a value and a flux: as well as by terms of the loss, with the flux to rounding."""

    @dataclass(frozen=True)
    class Sine(Stated):
        def residual(self, u, x):
            return u.lap + solution(x)

    problem = Sine(dim=1, where=LINE, conditions=(value(0, "low"), flux(0, "high")))
    run = kanpde.train(
        problem,
        out=tmp_path / "a.h5",
        solver="low_dim",
        backbone={"name": "chebykan", "widths": [4], "degree": 6},
        constraint=constraint,
        points={"interior": 60, "boundary": 8, "test": 200, "validation": 100},
        phases=[{"optimizer": "levenberg_marquardt", "steps": 12}],
        verify=False,
    )
    assert run.rel_l2 < 1e-3
    x = torch.tensor([[1.5]], dtype=F64)
    misfit = problem.asked["neumann"].misfit(run.load_model(problem=problem), x).abs().item()
    assert (misfit < 1e-13) == (constraint == "hard")


# ---------------------------------------------------------------------------------------------------------------
# Flat inputs, factors, carriers


@pytest.mark.parametrize("ends", [{0}, {1}, {0, 1}])
def test_flat_inputs_are_flat_and_keep_smooth_functions(ends):
    """Polynomials in both of a function with a third derivative at the flat ends; in the first alone they hardly do."""
    inputs, limits = harmonics([(0.0, 1.0), (-1.0, 3.0)], {}, (-0.5, 0.5), {1: ends})
    assert limits == [(-0.5, 0.5), (-1.0, 1.0), (-1.0, 1.0)]
    x = torch.stack([torch.rand(400, generator=generator(0), dtype=F64), torch.linspace(-1, 3, 400, dtype=F64)], 1)
    y = inputs(x)
    assert torch.equal(y[:, 0], x[:, 0]) and y[:, 1:].abs().max() <= 1 + 1e-15
    slopes = [nested(lambda x, k=k: inputs(x)[:, k], x, ((1,),))[1,] for k in (1, 2)]
    for end in (0, 1):
        at_end = torch.stack(slopes)[:, -end]
        assert (at_end.abs().max() < 1e-14) == (end in ends)
    t, roots = x[:, 1].numpy(), [-1.0 if end == 0 else 3.0 for end in ends]
    slope = np.polynomial.Polynomial.fromroots(roots) * np.polynomial.Polynomial([1, 0.3, -0.2, 0.1])
    wanted = np.sin(slope.integ()(t))  # whose slope has these zeros, and no symmetry
    first, second = (y[:, k].numpy() for k in (1, 2))
    basis = lambda n: np.polynomial.chebyshev.chebvander2d(first, second, [n, n])
    left = {n: _left(basis(n), wanted) for n in (4, 8)}
    alone = _left(np.polynomial.chebyshev.chebvander(first, 40), wanted)
    assert left[8] < 1e-3 * left[4] < 1e-3 and alone > 100 * left[8]


def _left(basis, wanted):
    """What least squares leave."""
    return np.abs(basis @ np.linalg.lstsq(basis, wanted, rcond=1e-13)[0] - wanted).max()


def test_flat_inputs_have_the_jets_of_what_they_compute():
    """Beside a periodic axis; Gram, directions."""
    inputs, _ = harmonics([(0.0, 2.0), (-1.0, 1.0), (0.0, 1.0)], {0: 2}, (-1.0, 1.0), {1: {0, 1}, 2: {1}})
    net = nn.Sequential(*inputs, *build("chebykan", 8, widths=(4,), generator=generator(0))).double()
    x, v = torch.rand(4, 3, generator=generator(1), dtype=F64), torch.tensor([[1.0, 2.0, -1.0]], dtype=F64)
    a, b = Forward()(net, x, directions=v), Autograd()(net, x, directions=v)
    for p, q in zip(a.parts, b.parts, strict=True):
        assert torch.allclose(p, q, atol=1e-11)
    seen = net[2](net[1](net[0](x)))
    t, s = x[:, 1], 1 - x[:, 2]
    assert torch.allclose(seen[:, 4], (3 * t - t**3) / 2) and torch.allclose(seen[:, 6], 1 - 2 * s**2)


def test_polynomials_of_an_axis_have_what_is_asked_of_them():
    """Of values alone those of linear interpolation, to the bit; m at most 1."""
    on = lambda end, a, b: OnSide(0, end, a, b, 0.0)
    ends = (1.0, 3.0)
    assert carriers([on(0, 1.0, 0.0), on(1, 1.0, 0.0)], ends) == [[1.0, -1.0], [0.0, 1.0]]
    assert carriers([on(1, 1.0, 0.0)], ends) == [[1.0]]
    assert carriers([on(0, 0.0, 1.0)], ends) == [[0.0, -2.0]]  # -d/dx (-2 t) = 1
    assert profile([on(0, 0.0, 1.0), on(1, 0.0, 2.0)], ends) is None
    half = profile([on(0, 1.0, 0.0), on(1, 0.0, 1.0)], ends)
    assert half.coefficients == pytest.approx((0.0, 2.0, -1.0), rel=2e-3)
    with pytest.raises(ConfigError, match="no factor of this degree"):
        profile([on(0, 1.0, 0.0), on(1, -2.0, 1.0)], ends)
    assert replace(on(0, 1.0, 0.0), value=1.0).is_zero is False
