"""Systems: jets of several fields against nested differentiation, equations, conditions and results of each field."""

from dataclasses import dataclass

import h5py
import numpy as np
import pytest
import torch
from conftest import call, close, generator, network, one_line, planned
from torch import nn

import kanpde
from kanpde import Complex, ConfigError, Problem, plot
from kanpde.domains import Ball, Box, Cylinder
from kanpde.jets.ansatz import Ansatz, System
from kanpde.jets.nested import nested
from kanpde.jets.system import Separate
from kanpde.operators import SDGD, Autograd, Forward, Hutchinson
from kanpde.problems.conditions import (
    Condition,
    Dirichlet,
    Initial,
    Integral,
    Neumann,
    Observations,
    Periodic,
)
from kanpde.problems.exactly import Vanishing
from kanpde.records.run import RunFile
from kanpde.testing import check_problem

F64, PI = torch.float64, torch.pi
NET = {"name": "chebykan", "widths": [6]}
FAST = {"backbone": NET, "dtype": "float64", "loss": {"gradient": "none"}}
SHORT = {**FAST, "steps": 3, "points": {"test": 64, "validation": 32}, "slices": {"points": 9, "volume": 0}}


@dataclass(frozen=True)
class Kovasznay(Problem):
    """Kovasznay's flow behind a grid, at Reynolds number 40."""

    dim: int = 2
    fields = ("u", "v", "p")
    coordinates = ("x", "y")
    rate = 20 - (400 + 4 * PI**2) ** 0.5

    @property
    def domain(self):
        return Box(2, (-0.5, -0.5), (1.0, 1.5))

    def exact(self, x):
        wake, y = torch.exp(self.rate * x[:, 0]), 2 * PI * x[:, 1]
        return 1 - wake * torch.cos(y), self.rate / (2 * PI) * wake * torch.sin(y), (1 - wake.square()) / 2

    @property
    def conditions(self):
        of = lambda k: lambda x: self.exact(x)[k]
        return (
            Dirichlet("boundary", of(0), field="u"),
            Dirichlet("boundary", of(1), field="v"),
            Dirichlet("x = 1", of(2), field="p"),
        )

    def residual(self, w, x):
        u, v, p = w
        return {
            "momentum_x": u.value * u.x + v.value * u.y + p.x - u.lap / 40,
            "momentum_y": u.value * v.x + v.value * v.y + p.y - v.lap / 40,
            "continuity": u.x + v.y,
        }


@dataclass(frozen=True)
class Reading(Problem):
    """All that a residual can read, of two fields with conditions of their own."""

    dim: int = 3
    fields = ("a", "b")
    conditions = (
        Dirichlet("boundary", lambda x: torch.sin(x[:, 0]) * x[:, 1], field="a"),
        Initial(lambda x: torch.cos(x[:, 0]), field="b"),
    )

    @property
    def domain(self):
        return Cylinder(Box(2, -1, 1), 0.5)

    def directions(self, x):
        return torch.stack([x, x.square()], 1)

    def diffusion(self, x):
        return torch.stack([x.cos(), x], 1)

    def residual(self, w, x):
        of = lambda u: u.lap + u.grad_sq + u.along.sum(1) + u.diffusion + u.d("x1", 3) + u.d("x1", "t") + u.value
        return of(w.a) * w.b.value, w.b.t + of(w.b)


def nets(problem, separate: bool = False) -> nn.Module:
    """Networks of a problem with weights of order one, rough nowhere."""
    of = lambda k, n: network("chebykan", problem.n_inputs, n, seed=k)
    return Separate([of(k, 1) for k in range(len(problem.fields))]) if separate else of(0, len(problem.fields))


def parts_of(jets) -> list[torch.Tensor]:
    return [part for jet in jets for part in jet.parts]


# ---------------------------------------------------------------------------------------------------------------
# Jets


@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_jets_of_all_fields_are_those_of_each_differentiated_again_and_again(separate):
    problem = Reading()
    u = Ansatz(problem, nets(problem, separate))
    x = problem.domain.interior(5, generator(), "volume", dtype=F64)
    jets = Forward()(u, x)
    loss = lambda jets: sum(r.square().mean() for r in problem.equations(jets, x).values())
    slopes = torch.autograd.grad(loss(jets), list(u.parameters()), retain_graph=True)
    oracle = Autograd()(u, x)
    for name in problem.fields:
        mine, its = jets[name], oracle[name]
        for part in ("value", "along", "grad_sq", "lap", "diffusion"):
            close(getattr(mine, part), getattr(its, part), 1e-10, f"{name} {part}")
        assert its.derivatives.keys() <= mine.derivatives.keys()
        for index, derivative in its.derivatives.items():
            close(mine.derivatives[index], derivative, 1e-10, f"{name} {index}")
        of_field = lambda y, name=name: u(y)[:, problem.fields.index(name)]
        for index, its in nested(of_field, x, jets[name].derivatives).items():
            close(jets[name].derivatives[index], its, 1e-10, f"{name} {index}")
    for mine, its in zip(slopes, torch.autograd.grad(loss(oracle), list(u.parameters())), strict=True):
        close(mine, its, 1e-10)


def test_a_field_alone_is_what_it_is_among_the_others():
    problem = Reading()
    for separate in (False, True):
        u = Ansatz(problem, nets(problem, separate))
        x = problem.domain.interior(4, generator(), "volume", dtype=F64)
        jets = Forward()(u, x)
        for k, name in enumerate(problem.fields):
            close(u.of(name)(x), u(x)[:, k])
            alone = Forward()(u.of(name), x)
            close(alone.lap, jets[name].lap, 1e-11)
            close(alone.d("x1", 3), jets[name].d("x1", 3), 1e-11)
        assert u.of(None) is u and u.of("a").of(None) is not u


def test_u_of_any_points_has_a_last_axis_of_fields():
    problem = Kovasznay()
    u = Ansatz(problem, nets(problem))
    x = torch.rand(2, 4, 2, dtype=F64)
    assert isinstance(u, System) and u(x).shape == (2, 4, 3) and u(x[0, 0]).shape == (3,)
    close(u(x)[1], u(x[1]))
    assert u(x.numpy()).shape == (2, 4, 3)
    assert u.of("v")(x).shape == (2, 4)
    with pytest.raises(ConfigError, match="unknown field 'w'"):
        u.of("w")
    jets = Forward()(u, x[0])
    assert jets[1] is jets["v"] is jets.v


@pytest.mark.parametrize(
    "operator",
    [SDGD(dims=1), SDGD(dims=1, per_point=True), SDGD(dims=1, of="u"), Hutchinson(probes=2), Hutchinson(2, of="u")],
    ids=str,
)
def test_stochastic_operators_estimate_each_field_by_the_same_probes_or_its_own(operator):
    problem = Pair()
    u, x = Ansatz(problem, nets(problem)), problem.domain.interior(3, generator(), "volume", dtype=F64)
    jets, drawn = operator(u, x, generator=generator(3)), generator(3)
    for name in problem.fields:
        drawn = generator(3) if operator.of == "f" else drawn  # one jet of the network serves all
        close(jets[name].lap, operator(u.of(name), x, generator=drawn).lap, 1e-10)


def test_fields_that_vanish_on_the_same_part_have_one_factor(monkeypatch):
    seen = []
    once = Vanishing.__call__
    monkeypatch.setattr(Vanishing, "__call__", lambda self, x: seen.append(self) or once(self, x))
    problem = Kovasznay()
    u, x = Ansatz(problem, nets(problem)), problem.domain.interior(3, generator(), "volume", dtype=F64)
    factors = {problem.of(name).exactly.factor for name in problem.fields}
    assert len(factors) == 2  # that of u and v, and that of p
    seen.clear()
    u(x)
    assert len(seen) == 2


# ---------------------------------------------------------------------------------------------------------------
# Equations


@dataclass(frozen=True)
class Pair(Problem):
    """u + v and u - v, with what it returns as an option."""

    dim: int = 2
    kind: str = "tuple"
    fields = ("u", "v")
    conditions = Dirichlet("boundary", 0.0, field="u"), Dirichlet("boundary", 1.0, field="v")

    @property
    def domain(self):
        return Ball(2)

    def residual(self, w, x):
        u, v = w
        first, second = u.lap + v.value, v.lap - w.u.value
        made = {"tuple": (first, second), "dict": {"one": first, "two": second}, "one": first + second}
        return {**made, "complex": torch.complex(first, second)}[self.kind]


def test_equations_have_names():
    names = {kind: Pair(kind=kind).reading.equations for kind in ("tuple", "dict", "one", "complex")}
    assert names == {
        "tuple": ("equation_1", "equation_2"),
        "dict": ("one", "two"),
        "one": ("interior",),
        "complex": ("equation_re", "equation_im"),
    }
    reads = Pair().reading.fields
    assert (reads["u"].lap, reads["u"].value, reads["v"].order) == (True, True, 2)


@pytest.mark.parametrize("gradient", ["none", "exact"])
def test_the_loss_has_a_term_for_each_equation_and_weights_by_their_names(gradient):
    problem = Kovasznay()
    weights = {"interior": 3.0, "continuity": 10.0}
    plan = planned(problem, {**FAST, "loss": {"gradient": gradient, "weights": weights}})
    u, x = plan.ansatz(), problem.domain.interior(7, generator(), "volume", dtype=F64)
    terms = plan.loss.terms(u, plan.operator, {"interior": x}, generator())
    scale = plan.loss.factor(problem)
    at = x.clone().requires_grad_()
    for name, r in problem.equations(Forward()(u, at), at).items():
        close(terms[name], (scale * r).square().mean())
    assert [plan.loss.weight(name) for name in ("momentum_x", "momentum_y", "continuity")] == [3.0, 3.0, 10.0]
    if gradient == "exact":
        h = plan.frame.lengths
        r = problem.equations(Forward()(u, at), at).values()
        slopes = [torch.autograd.grad(each.sum(), at, retain_graph=True)[0] * h * scale for each in r]
        close(terms["gradient"], torch.cat(slopes, 1).square().mean())
    close(plan.loss.total(terms), sum(plan.loss.weight(name) * term for name, term in terms.items()))


@dataclass(frozen=True)
class Schroedinger(Problem):
    """i psi_t + psi_xx / 2 + |psi|^2 psi = 0, whose soliton is sech(x) exp(i t / 2)."""

    dim: int = 1
    fields = ("re", "im")
    coordinates = ("x", "t")

    @property
    def domain(self):
        return Cylinder(Box(1, -5, 5), 1.0)

    @property
    def conditions(self):
        of = lambda k: lambda x: self.exact(x)[k]
        values = [Initial(of(k), field=name) for k, name in enumerate(self.fields)]
        return (*values, *(Dirichlet("boundary", of(k), field=name) for k, name in enumerate(self.fields)))

    def exact(self, x):
        size, phase = 1 / torch.cosh(x[:, 0]), x[:, 1] / 2
        return size * torch.cos(phase), size * torch.sin(phase)

    def residual(self, w, x):
        psi = Complex(*w)
        return 1j * psi.t + psi.xx / 2 + psi.abs_sq * psi.value


def test_a_complex_field_is_a_pair():
    report = str(check_problem(Schroedinger()))
    assert "residual of the exact solution in equation_re" in report and "equation_im" in report
    problem, x = Schroedinger(), torch.rand(4, 2, dtype=F64)
    re, im = Forward()(Ansatz(problem, nets(problem)), x)
    psi = Complex(re, im)
    close(psi.d("x", 2).imag, im.xx)
    close((psi.value * psi.conj).real, psi.abs_sq)
    with pytest.raises(AttributeError, match="no grad_sq"):
        _ = psi.grad_sq


def test_problems_with_a_known_solution_are_checked():
    report = str(check_problem(Kovasznay()))
    assert "lift of p" in report and "exact solution, dirichlet_v" in report and "in continuity" in report
    wrong = type("Wrong", (Kovasznay,), {"rate": 1.0})()
    with pytest.raises(AssertionError, match="the exact solution has the residual .* in momentum_"):
        check_problem(wrong)


# ---------------------------------------------------------------------------------------------------------------
# Conditions


def test_each_field_has_its_values():
    problem = Kovasznay()
    plan = planned(problem, FAST)
    assert plan.met == {"dirichlet_u", "dirichlet_v", "dirichlet_p"} and plan.counts == {"interior": 100}
    u = plan.ansatz()
    edge = problem.domain.boundary(50, generator(), dtype=F64)
    close(u(edge)[:, :2], torch.stack(problem.exact(edge)[:2], 1), 1e-9)
    right = edge[edge[:, 0] == 1.0]
    close(u(right)[:, 2], problem.exact(right)[2], 1e-9)
    assert (u(edge)[:, 2] - problem.exact(edge)[2]).abs().max() > 1e-3  # elsewhere it is free


def test_a_condition_is_a_term_of_its_field():
    problem = Kovasznay()
    plan = planned(problem, {**FAST, "constraint": "soft"})
    u = plan.ansatz()
    x = problem.asked["dirichlet_v"].points(problem, 9, generator(), "volume", dtype=F64)
    found = plan.loss.residuals(u, plan.operator, {"dirichlet_v": x}, generator())
    close(found["dirichlet_v"], u(x)[:, 1] - problem.exact(x)[1])
    assert plan.config.loss.balance == {"name": "gradnorm"} and len(plan.counts) == 4


@dataclass(frozen=True)
class Ring(Problem):
    """Two fields on a circle."""

    dim: int = 1
    every: bool = True
    fields = ("u", "v")
    coordinates = ("x", "t")

    @property
    def domain(self):
        return Cylinder(Box(1, 0, 2), 1.0)

    @property
    def conditions(self):
        start = (Initial(lambda x: torch.sin(PI * x[:, 0]), field=name) for name in self.fields)
        return *start, Periodic("x", 2) if self.every else Periodic("x", 2, field="v")

    def residual(self, w, x):
        return w.u.t + w.v.x, w.v.t + w.u.x


@pytest.mark.parametrize("networks", ["shared", "separate"])
def test_all_fields_are_periodic_where_none_is_named(networks):
    plan = planned(Ring(), {**FAST, "networks": networks})
    assert "periodic" in plan.met
    u, t = plan.ansatz(), torch.linspace(0, 1, 5, dtype=F64)
    ends = [torch.stack([torch.full_like(t, x), t], 1) for x in (0.0, 2.0)]
    close(u(ends[0]), u(ends[1]))
    for a, b in zip(*(parts_of(Forward()(u, x)) for x in ends), strict=True):
        close(a, b, 1e-9)
    of_one = planned(Ring(every=False), {**FAST, "networks": networks})
    assert of_one.met == {"initial_u", "initial_v"} and "periodic_v" in of_one.counts
    x = of_one.problem.asked["periodic_v"].points(of_one.problem, 3, generator(), "volume", dtype=F64)
    found = of_one.loss.residuals(of_one.ansatz(), of_one.operator, {"periodic_v": x}, generator())
    assert found["periodic_v"].shape == (3, 3)  # v and two derivatives


@dataclass(frozen=True)
class Walls(Problem):
    """A flow whose pressure has a mean, with any conditions beside it."""

    dim: int = 2
    more: object = ()
    fields = ("u", "p")
    coordinates = ("x", "y")

    @property
    def domain(self):
        return Box(2, 0, 2)

    @property
    def conditions(self):
        return Dirichlet("boundary", 0.0, field="u"), Integral(8.0, field="p"), *self.more

    def residual(self, w, x):
        return w.u.lap - w.p.x, w.p.lap


def test_an_integral_is_a_term_without_points():
    plan = planned(Walls(), FAST)
    assert "integral_p" not in plan.counts and "by the loss: integral_p" in plan.conditions
    u = plan.ansatz()
    (term,) = plan.loss.extra_terms(u).values()
    grid = (torch.arange(400, dtype=F64) + 0.5) / 200
    square = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        mean = u.of("p")(square).mean()
    assert abs(term.item() - (mean.item() - 2.0) ** 2) < 1e-3 * max(1, abs(mean.item()))
    timed = Cylinder(Box(1, 0, 3), 2.0)
    problem = Stretched(where=timed)
    x = problem.asked["integral"].points(problem, 0, generator(), "", dtype=F64)
    misfit = problem.asked["integral"].misfit(Ansatz(problem, Ramp(), hard=False), x)
    close(misfit, torch.linspace(0, 2, 16, dtype=F64) + 1.5 - 1.0, 1e-3)  # the mean of x + t is 1.5 + t, wanted is 1


@dataclass(frozen=True)
class Stretched(Problem):
    """A field with an integral."""

    dim: int = 1
    where: object = None
    conditions = (Integral(3.0),)

    @property
    def domain(self):
        return self.where

    def residual(self, u, x):
        return u.t


class Ramp(nn.Module):
    """The sum of the coordinates."""

    def __init__(self):
        super().__init__()
        self.precision = nn.Parameter(torch.empty(0, dtype=F64))

    def forward(self, x):
        return x.sum(1, keepdim=True)


def test_observations_come_from_a_table(tmp_path):
    table = tmp_path / "seen.csv"
    table.write_text("y,x,p,other\n0.5,1.5,2.0,a\n1.0,0.25,3.0,b\n")
    problem = Walls(more=(Observations(table, noise=0.5, field="p"), Observations(str(table), "p", field="u")))
    plan = planned(problem, FAST)
    assert plan.counts["observations_p"] == plan.counts["observations_u"] == 2
    x = problem.asked["observations_p"].points(problem, 9, generator(), "volume", dtype=F64)
    assert x.tolist() == [[1.5, 0.5, 2.0], [0.25, 1.0, 3.0]]
    found = plan.loss.residuals(plan.ansatz(), plan.operator, {"observations_p": x}, generator())
    close(found["observations_p"], (plan.ansatz()(x[:, :2])[:, 1] - x[:, 2]) / 0.5)
    for column, line in (("q", "no column 'q'"), ("other", "other")):
        with pytest.raises(ConfigError, match=line) as error:
            planned(Walls(more=(Observations(table, column, field="p"),)), FAST)
        one_line(error)


def test_observations_outside_of_the_domain_are_told(tmp_path):
    problem = Walls(more=(Observations(torch.tensor([[0.5, 0.5], [2.5, 0.5], [9.0, 9.0]]), torch.ones(3), field="p"),))
    with pytest.warns(UserWarning, match="observations_p: 2 of 3 points lie outside of the domain"):
        planned(problem, FAST)


class Slip(Condition):
    """u and p have the same values on a face, a condition of a user's own."""

    kind = "slip"

    def misfit(self, u, x):
        return u(x)[:, 0] - u.of("p")(x)


def test_a_condition_of_ones_own_reads_all_fields():
    plan = planned(Walls(more=(Slip(),)), FAST)
    x = plan.problem.domain.boundary(4, generator(), dtype=F64)
    u = plan.ansatz()
    found = plan.loss.residuals(u, plan.operator, {"slip": x}, generator())
    close(found["slip"], u(x)[:, 0] - u(x)[:, 1])


# ---------------------------------------------------------------------------------------------------------------
# Runs


@pytest.mark.parametrize("networks", ["shared", "separate"])
def test_a_run_has_errors_floors_arrays_and_pictures_of_each_field(tmp_path, networks):
    run = kanpde.train(Kovasznay(), out=tmp_path / "run.h5", networks=networks, **SHORT)
    with h5py.File(run.path) as file:
        names = {"u", "v", "p", *(f"{name}_{what}" for name in "uvp" for what in ("exact", "error")), "x", "radius"}
        assert set(file["field"]) == names
        assert set(file["slices/random"]) >= names - {"x", "radius"} and file["slices/random/v"].shape == (9, 9)
        assert file["history/fields/v/rel_l2"].shape == file["history/terms/continuity"].shape == (2,)
        assert file["floors/p/constant"][()] > 0 and file.attrs["fields"] == "u,v,p"
    again = RunFile.open(run.path)
    view = again.views()["v"]
    error = np.linalg.norm(view.field["error"]) / np.linalg.norm(view.field["u_exact"])
    assert view.rel_l2 == pytest.approx(error) == pytest.approx(again.attrs["rel_l2_best/v"])
    assert set(view.floors) == {"constant", "affine", "additive", "taylor2"} and "history/fields" not in view.history
    every = [again.views()[name].rel_l2 for name in "uvp"]
    assert again.rel_l2 == pytest.approx(np.sqrt(np.mean(np.square(every))))
    assert view.attrs["skill_v/constant"] == pytest.approx(view.rel_l2 / view.floors["constant"])
    u = run.load_model(problem=Kovasznay())
    close(u(torch.from_numpy(again.field["x"]))[:, 1], torch.from_numpy(again.field["v"]), 1e-9)
    if networks == "separate":  # the files are alike
        return
    paths = {path.name for path in plot.plot_run(again, tmp_path, vtk=True, render=False)}
    assert {"run-error.png", "run-radial-p.png", "run-domain.vtu"} <= paths
    assert not any(path.startswith("run-error-") for path in paths), "fields are rows of one picture"
    mesh = plot.mesh_3d(again, "domain")
    assert set(mesh.point_data.keys()) == {f"{name}{end}" for name in "uvp" for end in ("", "_exact", "_error")}
    grid = plot.grid_3d(again, "random")
    assert {"u", "v", "p", "v_exact", "p_error", "v_relative_error"} <= set(grid.point_data.keys())


def test_a_run_goes_on_exactly(tmp_path):
    whole = kanpde.train(Kovasznay(), out=tmp_path / "whole.h5", **{**SHORT, "steps": 6})
    stop = lambda state: state.step == 3
    part = kanpde.train(Kovasznay(), out=tmp_path / "part.h5", on_step=stop, **{**SHORT, "steps": 6})
    rest = kanpde.resume(part.path, problem=Kovasznay())
    assert rest.attrs["rel_l2_best/p"] == whole.attrs["rel_l2_best/p"]
    assert np.array_equal(rest.history["terms/continuity"][-1:], whole.history["terms/continuity"][-1:])


def test_fields_learn_together(tmp_path):
    solver = {"phases": [{"optimizer": "gauss_newton", "steps": 10}], "points": {"interior": 120, "test": 300}}
    run = kanpde.train(
        Kovasznay(), out=tmp_path / "run.h5", **{**FAST, "backbone": {**NET, "widths": [8, 8]}}, **solver
    )
    assert max(view.rel_l2 for view in run.views().values()) < 0.08
    assert min(view.history["rel_l2"][0] for view in run.views().values()) > 0.1


@dataclass(frozen=True)
class Conductivity(Problem):
    """(a u')' = 0 with a(x) to be found of u: u = x + x^2, a = 1 / (1 + 2 x) where a(0) = 1."""

    dim: int = 1
    fields = ("u", "a")
    coordinates = ("x",)

    @property
    def domain(self):
        return Box(1, 0, 1)

    @property
    def conditions(self):
        x = torch.linspace(0, 1, 21, dtype=F64)[:, None]
        return Observations(x, x + x.square(), noise=0.1, field="u"), Dirichlet("x = 0", 1.0, field="a")

    def exact(self, x):
        return {"a": 1 / (1 + 2 * x[:, 0])}

    def residual(self, w, x):
        return w.a.x * w.u.x + w.a.value * w.u.xx


def test_a_coefficient_is_a_field_without_an_equation(tmp_path):
    solver = {"phases": [{"optimizer": "gauss_newton", "steps": 30}], "points": {"interior": 60, "test": 200}}
    run = kanpde.train(Conductivity(), out=tmp_path / "run.h5", **FAST, **solver)
    assert run.views()["a"].rel_l2 < 0.02 < 0.2 < run.views()["a"].history["rel_l2"][0]
    assert np.isnan(run.views()["u"].rel_l2) and run.rel_l2 == run.views()["a"].rel_l2
    assert "u_exact" not in run.field and "a_error" in run.field


def test_the_jacobian_of_a_system_is_that_of_its_residuals():
    problem = Kovasznay()
    for gradient in ("none", "exact"):
        plan = planned(problem, {**FAST, "constraint": "soft", "loss": {"gradient": gradient, "balance": None}})
        from kanpde.training.objective import Objective

        objective = Objective(plan, u := plan.ansatz())
        points = {"interior": problem.domain.interior(5, generator(), "volume", dtype=F64)}
        points["dirichlet_v"] = problem.domain.boundary(4, generator(), dtype=F64)
        parameters = list(u.parameters())
        system = objective.system(points, generator(), parameters)
        r, j = map(torch.cat, zip(*system.blocks(), strict=True))
        loss = objective.loss.total(objective.loss.terms(u, plan.operator, points, generator()))
        close(r.square().sum(), loss.detach(), 1e-10)
        slopes = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        close(2 * r @ j, slopes, 1e-9)


def test_predictions_have_a_column_for_each_field(tmp_path, capsys):
    (tmp_path / "pde.py").write_text(PDE)
    yaml = tmp_path / "pde.yaml"
    yaml.write_text("problem: {name: 'pde.py:Twins'}\nbackbone: {name: chebykan, widths: [4]}\n")
    out = tmp_path / "run.h5"
    code, said, complaint = call(capsys, "solve", yaml, "--steps", 2, "--out", out, "--set", "slices.points=5")
    assert code == 0, complaint
    assert "fields    u, v: one network with 2 outputs" in said and "equations equation_1, equation_2" in said
    assert "field v" in said
    (tmp_path / "rows.csv").write_text("x1,x2,u\n0.1,0.2,5\n0.3,0.1,6\n")
    code, said, complaint = call(capsys, "predict", out, tmp_path / "rows.csv", "--out", tmp_path / "p.csv", "--trust")
    assert code == 0, complaint
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "x1,x2,u,u_predicted,v"


PDE = """
from kanpde import Problem
from kanpde.domains import Box
from kanpde.problems.conditions import Dirichlet

class Twins(Problem):
    fields = ("u", "v")
    dim = 2
    domain = Box(2, 0, 1)
    conditions = (Dirichlet("boundary", 0.0, field="u"), Dirichlet("boundary", 1.0, field="v"))

    def __init__(self):
        pass

    def exact(self, x):
        return {"v": 1 + 0 * x[:, 0]}

    def residual(self, w, x):
        return w.u.lap - w.v.value + 1, w.v.lap
"""


# ---------------------------------------------------------------------------------------------------------------
# What is refused


def with_(**changes) -> Problem:
    """A sound system, with something changed."""
    made = type("Changed", (Pair,), changes)()
    return made


REFUSED = {
    "a condition without a field": (dict(conditions=(Dirichlet(),)), {}, "field: none given, needed is one of u, v"),
    "a field that is none": (dict(conditions=(Neumann(field="w"),)), {}, "unknown field 'w'"),
    "no conditions": (dict(conditions=()), {}, "a system needs conditions"),
    "a field that is never used": (
        dict(fields=("u", "v", "q"), residual=lambda s, w, x: w.u.lap + w.v.lap), {}, "q is in no equation",
    ),
    "two on one part": (
        dict(conditions=(Dirichlet(field="u"), Neumann(field="u"), Dirichlet(field="v"))), {}, "of u are on the same",
    ),
    "names twice": (dict(fields=("u", "u")), {}, "'u' means something else already"),
    "a name of a coordinate": (dict(fields=("x", "v"), coordinates=("x", "y")), {}, "'x' means something else"),
    "no name": (dict(fields=("u", "2v")), {}, "'2v' is no name"),
    "one text": (dict(fields="uv"), {}, "needed is a tuple of names"),
    "an equation called as a condition": (
        dict(residual=lambda s, w, x: {"dirichlet_u": w.u.lap, "two": w.v.lap}), {}, "the name of another",
    ),
    "an equation of another shape": (dict(residual=lambda s, w, x: (w.u.lap, w.v.lap[:1])), {}, "equation_2"),
    "no equation": (dict(residual=lambda s, w, x: ()), {}, "returns no equation"),
    "a text": (dict(residual=lambda s, w, x: "u"), {}, "u is in no equation"),
    "a factor of its own": (dict(factor=lambda s, x: None), {}, "it is of a problem with one field"),
    "a weight of no equation": ({}, {"loss": {"weights": {"equation_3": 1.0}}}, "equation_2"),
    "compiled": ({}, {"compile": True}, "a system is not compiled"),
    "from a constant": ({}, {"start": "constant"}, "start: constant"),
    "networks from a constant": ({}, {"start": "constant", "networks": "separate"}, "start: constant"),
    "another solution": (dict(exact=lambda s, x: (x[:, 0],)), {}, "needed are the values of u, v"),
    "a solution of another shape": (dict(exact=lambda s, x: (x, x[:, 0])), {}, r"exact: u has shape \(3, 2\)"),
    "an equation of nothing": (
        dict(residual=lambda s, w, x: (w.u.lap + w.v.lap, x[:, 0])), {}, "equation_2 does not depend on any field",
    ),
    "a field with values alone": (dict(residual=lambda s, w, x: (w.u.lap + 1,)), {}, "v is in no equation"),
    "an equation called interior": (
        dict(residual=lambda s, w, x: {"interior": w.u.lap, "b": w.v.lap}), {}, "interior is the name of another term",
    ),
    "an equation with a slash": (
        dict(residual=lambda s, w, x: {"a/b": w.u.lap, "b": w.v.lap}), {}, "needed is a name without",
    ),
    "another dimension": (dict(domain=Ball(3)), {}, "dim: given 2, its domain has 3 coordinates of space"),
    "a key that is none": (dict(residual=lambda s, w, x: w["q"].lap), {}, "unknown field 'q'"),
    "a solution of another name": (dict(exact=lambda s, x: {"w": x[:, 0]}), {}, "unknown field 'w'"),
    "a field of another name": (dict(residual=lambda s, w, x: w.q.lap), {}, "unknown field 'q'"),
    "a derivative of all": (dict(residual=lambda s, w, x: w.lap), {}, "take the jet of a field"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, tmp_path):
    changes, options, said = REFUSED[case]
    with pytest.raises(ConfigError, match=said) as error:
        kanpde.train(with_(**changes), out=tmp_path / "run.h5", **FAST | options, steps=1)
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_separate_networks_are_of_systems(tmp_path):
    with pytest.raises(ConfigError, match="the problem has one field"):
        planned(Stretched(where=Cylinder(Box(1, 0, 3), 2.0)), {**FAST, "networks": "separate"})
    with pytest.raises(ConfigError, match="made in Python"):
        planned(Pair(), {**FAST, "networks": "separate"}, nets(Pair()))
    with pytest.raises(ConfigError, match=r"needed is a tensor of numbers of shape \(4, 2\)|shape \(3, 2\)"):
        planned(Pair(), FAST, network("chebykan", 2))
