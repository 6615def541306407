"""What is known of u before the training: added to every network, its values taken from those that are asked for."""

from dataclasses import dataclass

import h5py
import pytest
import torch
from conftest import F64, close, generator, one_line, planned, points

import kanpde
from kanpde import ConfigError, Problem, Run, Unknown
from kanpde.domains import Box, Cylinder
from kanpde.jets.ansatz import Field
from kanpde.problems import Cavity
from kanpde.problems.base import own
from kanpde.problems.conditions import Dirichlet, Initial, Neumann, Periodic
from kanpde.problems.slabs import continued, in_slab

SQUARE = Box(2, 0, 1)
FAST = {"backbone": {"name": "chebykan", "widths": [4]}, "dtype": "float64", "loss": {"gradient": "none"}}


def values(x):
    return x[:, 0] ** 2 - x[:, 1]


def nothing(x):
    return x.new_zeros(len(x))


def corner(x):
    """x y log r around (0, 0), whose second derivatives are not bounded there."""
    return x[:, 0] * x[:, 1] * (x[:, 0] ** 2 + x[:, 1] ** 2).clamp_min(1e-30).log() / 2


@dataclass(frozen=True)
class Known(Problem):
    """Any conditions on any domain, beside what is known."""

    where: object = SQUARE
    conditions: object = (Dirichlet("boundary", values),)
    part: object = corner

    @property
    def domain(self):
        return self.where

    def known_part(self, x):
        return self.part(x)

    def residual(self, u, x):
        return u.lap


def ansatz(problem):
    return planned(own(problem), FAST).ansatz()


def refusal(problem, **options):
    with pytest.raises(ConfigError) as info:
        planned(own(problem), {**FAST, **options})
    return one_line(info)


def test_u_is_what_is_known_and_has_the_values_asked_for():
    u, edge, x = ansatz(Known(dim=2)), SQUARE.boundary(64, generator(1), dtype=F64), points(20, 2).abs()
    assert u.problem.exactly.met == {"dirichlet"}
    close(u(edge), values(edge), 1e-12)
    rest = Known(dim=2, conditions=(Dirichlet("boundary", lambda x: values(x) - corner(x)),), part=nothing)
    for name in ("value", "grad", "hessian_diagonal"):
        wanted = getattr(Field.of(corner, x), name) + getattr(own(rest).lift(x), name)
        close(getattr(u.problem.lift(x), name), wanted, 1e-10, name)
    assert (wanted - Field.of(values, x).hessian_diagonal).abs().max() > 0.1
    close(own(Known(dim=2, part=values)).lift(x).value, values(x), 1e-12)  # which has the values itself


@pytest.mark.parametrize(
    ("part", "met"),
    [
        (lambda x: torch.cos(torch.pi * x[:, 0]) * torch.exp(x[:, 1]), {"neumann", "initial"}),  # flat at both ends
        (lambda x: x[:, 0] * torch.exp(x[:, 1]), {"initial"}),
    ],
)
def test_a_flux_is_met_where_what_is_known_has_it(part, met):
    conditions = Neumann("boundary", 0.0), Initial(lambda x: torch.cos(torch.pi * x[:, 0]))
    problem = own(Known(dim=1, where=Cylinder(Box(1, 0, 1), 1.0), conditions=conditions, part=part))
    assert problem.exactly.met == met
    start = torch.tensor([[0.3, 0.0], [0.8, 0.0]], dtype=F64)
    close(ansatz(problem)(start), torch.cos(torch.pi * start[:, 0]), 1e-12)


def test_periodic_is_met_where_what_is_known_is():
    of = lambda part: own(Known(dim=2, conditions=(Periodic("x1"),), part=part)).exactly.met
    assert of(lambda x: torch.cos(2 * torch.pi * x[:, 0])) == {"periodic"} and not of(lambda x: x[:, 0])


def test_it_is_that_of_the_time_in_a_slab():
    """What is known, with the values that are asked for, is moved; so u is the same function there."""
    part = lambda x: torch.exp(x[:, 1]) * x[:, 0] ** 2
    where, conditions = Cylinder(Box(1, 0, 1), 1.0), (Dirichlet("boundary", 0.0), Initial(part))
    problem = in_slab(continued(Known(dim=1, where=where, conditions=conditions, part=part)), 0.25, 1.0)
    x = torch.tensor([[0.0, 0.1], [1.0, 0.7], [0.4, 0.3]], dtype=F64)
    close(problem.known_part(x), part(x + x.new_tensor([0, 0.25])))
    assert problem.exactly.met == {"dirichlet"}
    close(problem.lift(x).value, torch.exp(x[:, 1] + 0.25) * (x[:, 0] ** 2 - x[:, 0]))


class Source(Problem):
    """-Lap u = a point source at (0.3, 0.4), u = 0 on the boundary of the square: Green's function."""

    domain, conditions = SQUARE, (Dirichlet(),)

    def known_part(self, x):
        return -((x - x.new_tensor([0.3, 0.4])) ** 2).sum(1).log() / (4 * torch.pi)

    def residual(self, u, x):
        return u.lap


def test_a_point_source_in_a_square(tmp_path):
    """Against its series of sines across, which converges where y is not that of the source."""
    options = {"solver": "low_dim", "steps": 25, "verify": False, "slices": {"points": 2, "volume": 0}}
    options |= {"points": {"interior": 300, "validation": 100, "test": 9}}
    run = kanpde.train(Source(2), out=tmp_path / "X.h5", backbone={"name": "chebykan", "widths": [6]}, **options)
    x = torch.tensor([[0.5, 0.8], [0.2, 0.1], [0.9, 0.6]], dtype=F64)
    n = torch.arange(1, 60, dtype=F64) * torch.pi
    below, above = torch.minimum(x[:, 1:], x.new_tensor(0.4)), torch.maximum(x[:, 1:], x.new_tensor(0.4))
    across = torch.sin(n * x[:, :1]) * torch.sin(0.3 * n)
    green = (2 * across * torch.sinh(n * below) * torch.sinh(n * (1 - above)) / (n * torch.sinh(n))).sum(1)
    assert (run.load_model(problem=Source(2))(x) - green).abs().max() < 1e-5 * green.max()


class Fields(Problem):
    """Two fields, of which something is known of one."""

    fields = ("v", "w")
    conditions = (Dirichlet("boundary", 1.0, field="v"),)
    domain = SQUARE

    def known_part(self, x):
        return {"w": 3.0}

    def residual(self, u, x):
        v, w = u
        return v.lap, w.lap


def test_of_several_fields_some_have_one():
    u, x = ansatz(Fields(2)), points(5, 2).abs()
    close(u(x)[:, 1], 3 + u.net(x)[:, 1], 1e-12)
    assert torch.equal(own(Fields(2)).of("v").known_part(x), torch.zeros(5, dtype=F64))


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({}, {"constraint": "soft"}, "constraint: soft; say hard"),
        ({"conditions": ()}, {}, "stated conditions"),
        ({"part": lambda x: x}, {}, "known_part"),
        ({"part": lambda x: torch.log(x[:, 0] - 2)}, {}, "known_part"),
    ],
)
def test_what_cannot_be_added_is_refused(changes, options, says):
    assert says in refusal(Known(dim=2, **changes), **options)


def test_a_lift_of_ones_own_and_unknowns_are_refused():
    class Own(Known):
        def lift(self, x):
            return Field.of(corner, x)

    class Trained(Problem):
        domain, conditions, k = SQUARE, (Dirichlet(),), Unknown(1.0)

        def known_part(self, x):
            return self.k * corner(x)

        def residual(self, u, x):
            return u.lap

    assert "add it to the lift" in refusal(Own(dim=2)) and "has no unknowns" in refusal(Trained(2))

    class Wrong(Fields):
        def known_part(self, x):
            return {"ww": 1.0}

    assert "known_part: " in refusal(Wrong(2)) and "did you mean w" in refusal(Wrong(2))


def test_the_flows_in_the_corners_of_the_cavity():
    """Stokes flows: div (u, v) = 0 and grad p = Lap (u, v) / Re, with the speed of the lid beside its corner."""
    problem, x, one = Cavity(reynolds=50.0), points(30, 2).abs(), torch.ones(2, dtype=F64)
    u, v, p = (Field.of(problem.of(name).known_part, x) for name in problem.fields)
    close(u.grad[:, 0], -v.grad[:, 1], 1e-12)
    for k, velocity in enumerate((u, v)):
        close(p.grad[:, k], velocity.lap(one) / 50, 1e-10)
    lid = torch.tensor([[0.2, 1.0], [1.0, 1.0], [0.0, 1.0]], dtype=F64)
    found = problem.known_part(lid)
    close(found["u"], 4 * lid[:, 0] + 4 * (1 - lid[:, 0]), 1e-12)
    assert not found["v"].any() and found["p"].isfinite().all()


def test_the_flow_in_a_corner_has_no_source_whatever_the_network_is():
    """Without what is known there it has one of 4, as the speed of the lid has a slope and the wall stands."""
    near = torch.tensor([[1e-4, 1 - 2e-4], [1 - 1e-4, 1 - 1e-4]], dtype=F64)
    found = {}
    for corners in (True, False):
        u = ansatz(Cavity(corners=corners))
        assert len(u.problem.exactly.met) == 5
        grads = [Field.of(u.of(name), near).grad for name in "uv"]
        found[corners] = (grads[0][:, 0] + grads[1][:, 1]).abs()
    assert found[True].max() < 0.02 and found[False].max() > 3


def test_results_of_a_cavity_of_before_have_no_flows_in_its_corners(tmp_path):
    """Of such a file the configuration does not say."""
    x, options = (
        points(5, 2).abs(),
        {"solver": "adam", "steps": 1, "points": {"interior": 9, "test": 9, "validation": 9}},
    )
    for corners in (True, False):
        run = kanpde.train(Cavity(corners=corners), out=tmp_path / f"{corners}.h5", **FAST, **options)
        before = run.load_model()(x)
        with h5py.File(run.path, "r+") as file:
            assert f"corners: {str(corners).lower()}\n" in file.attrs["config"]
            if not corners:
                file.attrs["config"] = file.attrs["config"].replace("  corners: false\n", "")
        assert torch.equal(Run.open(run.path).load_model()(x), before)
