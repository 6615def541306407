"""What is stated is read, or refused with what to write; boundary and initial values are built in where they can be."""

import math

import pytest
import torch
from conftest import F64, generator, planned

import kanpde
from kanpde.config import load
from kanpde.domains import Ball, Box, Cylinder
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.nested import gradient_of
from kanpde.operators import Autograd
from kanpde.problems import PDES, Function, Heat, Poisson
from kanpde.problems.lifts import Affine, Curved, Transfinite
from kanpde.training.plan import Plan

TINY = {
    "backbone": {"name": "kan", "widths": [4]},
    "points": {"test": 50, "validation": 50},
    "solver": "adam",
    "steps": 2,
}
PI = math.pi


class Laplace(kanpde.Problem):
    """u_xx + ... = 0 on a domain that the test gives; whatever else a problem may state is a keyword."""

    place = Box(2)

    @property
    def domain(self):
        return self.place

    def residual(self, u, x):
        return u.lap


def stating(domain, base=Laplace, **stated):
    """A problem of a class that has these members; functions of x become methods."""
    members = {"place": domain, **{k: v for k, v in stated.items() if not callable(v)}}
    members |= {k: lambda self, x, f=v: f(x) for k, v in stated.items() if callable(v)}
    return type("Stated", (base,), {**members, "__module__": __name__})(domain.dim)


def checked(problem, **options):
    """What a run does before its first step."""
    given = {key: value for key, value in TINY.items() if key != "points"} | options
    return planned(problem, given).config


def refused(problem, says, **options):
    with pytest.raises(ConfigError, match=says) as info:
        checked(problem, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


ones = lambda x: x.new_ones(len(x))
zeros = lambda x: x.new_zeros(len(x))
plate = lambda x: 300 + 100 * x[:, 0].exp() * x[:, 1].cos()

# ---------------------------------------------------------------------------------------------------------------
# Lifts

BUILT = {  # a domain, boundary and initial values, and the form of the lift
    "constant": (Ball(5, 2.0), ones, None, Affine),
    "affine": (Box(4, 0.0, 3.0), lambda x: 3 - x.sum(-1), None, Affine),
    "ends of an interval": (Box(1, 0.0, 2.0), lambda x: torch.where(x[:, 0] > 1, 3.0, 1.0).to(x), None, Affine),
    "faces of a square": (Box(2, -1.0, 2.0), plate, None, Curved),
    "only on the faces": (Box(2), lambda x: torch.atan2(x[:, 1], x[:, 0] ** 2), None, Curved),
    "initial": (Cylinder(Box(1, 0.0, 1.0), 0.2), None, lambda x: (PI * x[:, 0]).sin(), Curved),
    "initial, in a ball": (Cylinder(Ball(3)), None, lambda x: (1 - x[:, :-1].square().sum(-1)) * x[:, 0].exp(), Curved),
    "boundary in time": (Cylinder(Ball(4)), lambda x: x[:, -1].sin(), None, Curved),
    "both": (Cylinder(Box(1), 2.0), lambda x: x[:, 1].cos() * x[:, 0].exp(), lambda x: x[:, 0].exp(), Curved),
    "constant in time": (Cylinder(Ball(6)), lambda x: 2 * ones(x), lambda x: 2 * ones(x), Affine),
}


def of_case(name):
    domain, g, u_0, form = BUILT[name]
    stated = {k: v for k, v in (("boundary_value", g), ("initial_value", u_0)) if v is not None}
    return stating(domain, **stated), form


@pytest.mark.parametrize("name", BUILT)
def test_the_ansatz_has_the_values_that_are_stated_whatever_the_network(name):
    problem, form = of_case(name)
    assert isinstance(problem._built_lift, form)
    net = torch.nn.Sequential(torch.nn.Linear(problem.domain.dim, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).to(F64)
    u, (_, g, u_0, _) = Ansatz(problem, net), BUILT[name]
    x = problem.domain.boundary(40, generator(), dtype=F64)
    wanted = zeros(x) if g is None else g(x)
    assert torch.allclose(u(x), wanted, rtol=1e-12, atol=1e-12)
    if hasattr(problem.domain, "initial"):
        x = problem.domain.initial(40, generator(), dtype=F64)
        wanted = zeros(x) if u_0 is None else u_0(x)
        assert torch.allclose(u(x), wanted, rtol=1e-12, atol=1e-12)
    checked(problem)


def test_faces_of_a_cube_are_interpolated():
    g = lambda x: (x[:, 0] * x[:, 1]).exp() + x[:, 2].sin()
    x = Box(3, 0.0, 2.0).boundary(40, generator(), dtype=F64)
    assert torch.allclose(Transfinite(g, ((0.0, 2.0),) * 3)(x), g(x), rtol=1e-12)


@pytest.mark.parametrize("name", BUILT)
def test_a_built_lift_is_a_field(name):
    problem, _ = of_case(name)
    x = problem.domain.interior(5, generator(), dtype=F64).requires_grad_()
    h = problem.lift(x)
    grad = gradient_of(h.value, x)
    assert torch.allclose(h.grad, grad, atol=1e-10)
    second = torch.stack([gradient_of(grad[:, i], x)[:, i] for i in range(x.shape[1])], 1)
    assert torch.allclose(h.hessian_diagonal.expand_as(second), second, atol=1e-9)


def test_transfinite_interpolation_reads_nothing_but_faces_and_has_polynomials_of_one_axis():
    """g = p(x) + q(y) is its own interpolation where it is linear in one of them along each face."""
    seen = []

    def g(x):
        seen.append(x.detach())
        return x[:, 0] * (1 + x[:, 1] ** 3)

    h = Transfinite(g, ((-1.0, 1.0), (-1.0, 1.0)))
    x = Box(2).interior(20, generator(), dtype=F64)
    assert torch.allclose(h(x), x[:, 0] * (1 + x[:, 1] ** 3))
    assert (torch.cat(seen).abs() == 1).any(1).all()


def test_affine_values_have_a_lift_in_high_dimension():
    problem = stating(Ball(20_000), boundary_value=lambda x: 1 + x.sum(-1))
    x = problem.domain.boundary(2, generator(), dtype=F64)
    h = problem.lift(x)
    assert torch.allclose(h.value, 1 + x.sum(-1)) and h.grad.eq(1).all() and h.hessian_diagonal.shape == (1, 1)


NO_LIFT = {
    "a ball": (Ball(3), lambda x: x[:, 0].exp(), None, r"return Field.of\(self.boundary_value, x\).*soft"),
    "a kink": (Box(2), lambda x: x[:, 0].abs(), None, "kink"),
    "a hat at t = 0": (Cylinder(Box(1)), None, lambda x: 1 - x[:, 0].abs(), "kink"),
    "a lid": (Box(2), lambda x: (x[:, 1] == 1).to(x), None, "jumps"),
    "numpy": (Box(2), lambda x: torch.from_numpy(x.detach().numpy()[:, 0] ** 2), None, "numpy"),
    "corners": (Cylinder(Box(1)), ones, lambda x: 3 * ones(x), "differ by up to 2 on the boundary at t = 0"),
    "an end": (Cylinder(Box(1)), None, lambda x: (PI * x[:, 0]).cos(), "initial_value is up to 1 on the boundary"),
    "no start": (Cylinder(Box(1)), ones, None, "zero and boundary_value differ by up to 1"),
    "a column": (Box(2), lambda x: x[:, :1], None, r"shape \(\d+, 1\)"),
    "not finite": (Box(2), lambda x: x[:, 0] / 0, None, "not finite"),
}


@pytest.mark.parametrize("name", NO_LIFT)
def test_values_without_a_lift_are_refused_with_what_to_write(name):
    domain, g, u_0, says = NO_LIFT[name]
    refused(
        stating(domain, **{k: v for k, v in (("boundary_value", g), ("initial_value", u_0)) if v is not None}), says
    )


def test_boundary_values_are_trained_with_under_the_hard_constraint(tmp_path):
    """u'' = 0, u(0) = 1, u(1) = 3: the values at the ends are exact, also by Gauss-Newton's vectorised points."""
    problem = stating(Box(1, 0.0, 1.0), boundary_value=lambda x: 1 + 2 * x[:, 0])
    x = torch.tensor([[0.0], [0.5], [1.0]])
    run = kanpde.train(problem, out=tmp_path / "a.h5", **TINY)
    assert run.load_model(problem=problem)(x)[::2].tolist() == [1, 3]
    curved = stating(Box(2), boundary_value=plate)
    options = {
        **TINY,
        "phases": [{"optimizer": "gauss_newton", "steps": 2}],
        "points": {**TINY["points"], "interior": 20},
    }
    run = kanpde.train(curved, out=tmp_path / "b.h5", **options)
    edge = curved.domain.boundary(9, generator())
    assert torch.allclose(run.load_model(problem=curved)(edge), plate(edge), rtol=1e-5)


def test_soft_values_are_those_of_the_lift_where_nothing_else_is_stated():
    lift = lambda x: Field.of(lambda x: 1 + 2 * x[:, 0], x)
    problem = stating(Cylinder(Box(1, 0.0, 1.0)), lift=lift)
    x = problem.domain.boundary(5, generator(), dtype=F64)
    assert torch.equal(problem.boundary_value(x), 1 + 2 * x[:, 0])
    assert torch.equal(problem.initial_value(x), 1 + 2 * x[:, 0])
    checked(problem, constraint="soft", points={"boundary": 5, "initial": 5})


def test_unknowns_in_a_field_are_seen_by_the_gradient():
    a = torch.nn.Parameter(torch.tensor(2.0, dtype=F64))
    h = Field.of(lambda x: a * x[:, 0] ** 2, torch.rand(3, 2, generator=generator(), dtype=F64))
    assert torch.autograd.grad(h.hessian_diagonal.sum(), a)[0] == 6


# ---------------------------------------------------------------------------------------------------------------
# Time


def test_time_has_no_second_derivative_unless_it_is_stated():
    problem = stating(Cylinder(Box(2), 1.0), factor=lambda x: None)
    x = problem.domain.interior(4, generator(), dtype=F64)
    assert problem.coefficients(x).tolist() == [1, 1, 0]
    square = lambda x: x.square().sum(-1)  # x^2 + y^2 + t^2, of which 4 is of space
    assert torch.allclose(Autograd()(square, x, problem.coefficients(x)).lap, torch.full((4,), 4.0, dtype=F64))


# ---------------------------------------------------------------------------------------------------------------
# The configuration

UNREAD = {
    "boundary points": ({"points": {"boundary": 10}}, r"points.boundary: given 10, .*constraint: soft"),
    "boundary points by dimension": ({"points": {"boundary": "10d"}}, "points.boundary: given 30"),
    "initial points": ({"points": {"initial": 10}}, "points.initial"),
    "weight": ({"loss": {"weights": {"boundary": 2.0}}}, "loss.weights.boundary"),
    "weight of the start": ({"loss": {"weights": {"initial": 2.0}}}, "loss.weights.initial"),
    "of time, soft": ({"constraint": "soft", "points": {"boundary": 5, "initial": 5}}, "points.initial: .*Ball"),
    "gradient": ({"loss": {"weights": {"gradient": 2.0}}}, "loss.weights.gradient: given 2, .*set loss.gradient"),
    "gradient, switched off": (
        {"solver": "default", "loss": {"gradient": "none", "weights": {"gradient": 2.0}}},
        "loss.weights.gradient",
    ),
    "sparsity": ({"loss": {"weights": {"sparsity": 2.0}}}, "loss.weights.sparsity"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_points_and_weights_that_nothing_reads_are_refused(name):
    options, says = UNREAD[name]
    refused(Poisson(3), says, **options)


def test_what_a_solver_brings_for_its_own_mode_is_no_statement():
    checked(Poisson(3), solver="default", loss={"gradient": "none"})
    checked(Poisson(3), solver="paper", constraint="hard")
    checked(Poisson(3), solver="paper")  # initial points, of problems with time
    made = load("poisson", "default", {"problem": {"dim": 3}}, ["loss.gradient=none"])
    Plan.of(made)
    made = load("poisson", "paper", {"problem": {"dim": 3}}, ["constraint=hard", "points.boundary=7"])
    with pytest.raises(ConfigError, match="points.boundary: given 7"):
        Plan.of(made)


def test_the_command_line_refuses_in_one_line(capsys, tmp_path, monkeypatch):
    from conftest import call

    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "solve", "poisson", "--dim", 3, "--set", "points.boundary=10")
    assert code == 2 and err.startswith("kanpde: points.boundary") and len(err.splitlines()) == 1


# ---------------------------------------------------------------------------------------------------------------
# The problem


@pytest.mark.parametrize("name", PDES)
@pytest.mark.parametrize("constraint", ["hard", "soft"])
def test_shipped_problems_state_nothing_that_is_not_read(name, constraint):
    points = {"boundary": 4} if constraint == "soft" else {}
    points |= {"initial": 4} if constraint == "soft" and name in ("heat", "hjb") else {}
    checked(PDES[name](4), constraint=constraint, points=points)


def test_a_term_that_is_not_listed_or_not_given_is_refused():
    class Data(Laplace):
        def extra_terms(self, u):
            return {"data": (u(torch.zeros(4, 2)) - 3).square().mean()}

    assert "terms = ('data',)" in refused(Data(2), "gives data, terms lists nothing")
    refused(type("Two", (Data,), {"terms": ("data", "flux")})(2), "gives data, terms lists data, flux")
    refused(type("Text", (Data,), {"terms": "data"})(2), r"needed is a tuple of names")
    refused(type("None_", (Laplace,), {"terms": ("data",)})(2), "gives nothing, terms lists data")
    checked(type("Right", (Data,), {"terms": ("data",)})(2))

    class Taken(Laplace):
        terms = ("interior",)

        def extra_terms(self, u):
            return {"interior": u(torch.zeros(4, 2)).square().mean()}

    refused(Taken(2), "interior is the name of another term")


def test_names_that_are_nearly_read_are_refused():
    for wrong, right in (
        ("boundary_values", "boundary_value"),
        ("intial_value", "initial_value"),
        ("sourse", "source"),
        ("coeficients", "coefficients"),
        ("extra_term", "extra_terms"),
    ):
        refused(stating(Box(2), **{wrong: ones}), f"{wrong}: nothing reads it; did you mean {right}")
    refused(type("Typo", (Laplace,), {"parameter": torch.nn.Linear(1, 1)})(2), "did you mean parameters")


def test_helpers_of_a_class_may_have_any_name():
    class Own(Laplace):
        def sources(self, x):
            return x.sum(-1)

        def residual(self, u, x):
            return u.lap - self.sources(x)

        def exact_flux(self, x):
            return x

    checked(Own(2))


class Both(Laplace):
    """A residual that leaves its own source out."""

    def source(self, x):
        return x.sum(-1)


def test_a_source_that_the_residual_does_not_read_is_refused():
    refused(Both(2), "Both.source: residual is stated too and does not read it")

    class Reads(Both):
        def residual(self, u, x):
            return u.lap - self.source(x)

    checked(Reads(2))

    class Twice(Poisson):
        def residual(self, u, x):
            return 2 * super().residual(u, x)

        def source(self, x):
            return super().source(x)

    checked(Twice(3))

    class Other(Poisson):
        def residual(self, u, x):
            return u.lap - 1

    checked(Other(3))  # the source is that of a class above, and no statement of this one


PLACES = {
    "a fit": (
        type("Fit", (Function,), {"boundary_value": lambda self, x: ones(x)})(formula="sin(x)", ranges={"x": (0, 1)}),
        {"solver": "fit"},
        "a fit has no such values",
    ),
    "no time": (stating(Box(2), initial_value=ones), {}, "initial_value: nothing reads it.*Cylinder"),
    "no factor": (stating(Box(2), factor=lambda x: None, boundary_value=ones), {}, "factor gives None"),
    "no factor, lift": (
        stating(Box(2), factor=lambda x: None, lift=lambda x: Field.of(ones, x)),
        {},
        "state a factor",
    ),
    "other factor": (stating(Ball(2, 2.0), factor=Ball(2).factor), {}, "vanishes nowhere on the boundary .* 3 there"),
    "lift off": (
        stating(Box(2), lift=lambda x: Field.of(lambda x: x[:, 0], x), boundary_value=lambda x: x[:, 0] + 0.25),
        {},
        "lift and boundary_value differ by up to 0.25",
    ),
    "start off": (
        type("Off", (Heat,), {"initial_value": lambda self, x: super(type(self), self).initial_value(x) + 0.1})(3),
        {},
        "lift and initial_value differ by up to 0.1",
    ),
    "soft, no start": (
        stating(Cylinder(Box(1)), boundary_value=zeros),
        {"constraint": "soft", "points": {"boundary": 5, "initial": 5}},
        "def initial_value",
    ),
    "soft, own factor": (
        stating(Box(2), factor=lambda x: None),
        {"constraint": "soft", "points": {"boundary": 5}},
        "factor: constraint: soft does not read it",
    ),
    "soft, a column": (
        stating(Box(2), boundary_value=lambda x: x[:, :1]),
        {"constraint": "soft", "points": {"boundary": 5}},
        r"boundary_value: given is a tensor of shape",
    ),
    "parameters": (
        stating(Box(2), parameters=torch.ones(1)),
        {},
        "parameters: given a Tensor, needed is a torch.nn.Mod",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_values_that_nothing_reads_are_refused(name):
    problem, options, says = PLACES[name]
    refused(problem, says, **options)


def test_a_term_of_ones_own_may_read_the_values_of_a_free_boundary():
    class Weak(Laplace):
        terms = ("edge",)

        def factor(self, x):
            return None

        def boundary_value(self, x):
            return x.sum(-1)

        def extra_terms(self, u):
            x = self.domain.boundary(8, torch.Generator().manual_seed(0))
            return {"edge": (u(x) - self.boundary_value(x)).square().mean()}

    checked(Weak(2))
    assert Weak(2).lift(torch.zeros(3, 2)) is None, "u = f there"


def test_a_factor_of_a_part_of_the_boundary_leaves_the_rest_free():
    """u' = f with u(0) = 0: nothing is stated at the other end."""
    checked(stating(Box(1, 0.0, 1.0), factor=lambda x: Field(x[:, 0], ones(x)[:, None], x.new_zeros(1, 1))))
    part = stating(
        Box(1, 0.0, 1.0),
        factor=lambda x: Field(x[:, 0], ones(x)[:, None], x.new_zeros(1, 1)),
        lift=lambda x: Field.of(ones, x),
        boundary_value=ones,
    )
    with pytest.warns(UserWarning, match="does not vanish on .* of the boundary"):
        checked(part)
