"""Optimisers of residuals: closed forms of their steps, and the residuals and Jacobians that they are given."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from conftest import F64, close, configuration, one_line, order_one, planned
from torch import Tensor, nn

from kanpde import Problem, Unknown, backbones
from kanpde.config import PhaseConfig
from kanpde.domains import Box
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.kan.kernels.jacobian import covers, jacobian
from kanpde.optim import GaussNewton, RestartingLBFGS
from kanpde.optim.linear import CountSketch, nystrom, nystrom_cg
from kanpde.optim.optimisers import make_optimizer, schedule
from kanpde.problems import HJB, LOW_DIM, AllenCahn, Function, Heat, Poisson
from kanpde.problems.conditions import Condition, Dirichlet, Neumann, Robin, draws
from kanpde.training.objective import Objective
from kanpde.training.plan import Plan
from kanpde.training.residuals import Residuals


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=stream(seed, "normal"), dtype=F64)


@dataclass
class Linear:
    """r = A theta - b."""

    a: Tensor
    b: Tensor
    theta: nn.Parameter

    def residual(self) -> Tensor:
        return self.a @ self.theta - self.b

    def blocks(self):
        for a, b in zip(self.a.split(7), self.b.split(7), strict=True):
            yield (a @ self.theta - b).detach(), a

    def loss(self) -> float:
        return self.residual().square().sum().item()


def linear(m: int, n: int) -> Linear:
    return Linear(normal(m, n), normal(m, seed=1), nn.Parameter(normal(n, seed=2)))


@pytest.mark.parametrize("solver", ["direct", "cg"])
@pytest.mark.parametrize(("m", "n"), [(40, 12), (12, 40)])
def test_one_step_solves_a_linear_problem(m, n, solver):
    system = linear(m, n)
    start = system.theta.detach().clone()
    scaling = None if solver == "cg" else 0.0
    optimizer = GaussNewton([system.theta], damping=1e-10, lengths=(1.0,), scaling=scaling, solver=solver, rank=8)
    optimizer.step(system, system.loss)
    best = start - torch.linalg.pinv(system.a) @ (system.a @ start - system.b)  # nearest to the start
    close(system.theta, best, 1e-4 if solver == "cg" else 1e-7)


@pytest.mark.parametrize(("m", "n"), [(40, 12), (12, 40)])
@pytest.mark.parametrize(("solver", "scaling"), [("direct", 0.0), ("direct", None), ("direct", 1.0), ("cg", None)])
def test_momentum_is_spring(m, n, solver, scaling):
    """The second step is the minimum of |r + J p|^2 + mu |p - beta q|_S^2."""
    system, mu, beta = linear(m, n), 0.5, 0.9
    system.a[:, 0] = 0  # a parameter that nothing depends on
    options = {"damping": mu, "momentum": beta, "lengths": (1.0,), "solver": solver, "rank": 8, "scaling": scaling}
    optimizer = GaussNewton([system.theta], **options)
    before = system.theta.detach().clone()
    optimizer.step(system, system.loss)
    q = beta * (system.theta.detach() - before)
    r, j, before = system.residual().detach(), system.a, system.theta.detach().clone()
    optimizer.step(system, system.loss)
    mu = optimizer.param_groups[0]["damping"]
    s = (j.mT @ j).diagonal() ** (0.0 if solver == "cg" else 0.5 if scaling is None else scaling)
    damped, q = (mu * s / s.max()).sqrt()[1:], q[1:]
    both, right = torch.cat([j[:, 1:], damped.diag()]), torch.cat([-r, damped * q])
    p = torch.linalg.lstsq(both, right.unsqueeze(1)).solution.squeeze(1)
    step = system.theta.detach() - before
    assert step[0] == 0
    close(step[1:], p, 1e-4 if solver == "cg" else 1e-8)


def test_steps_scaled_by_the_curvature_know_no_units():
    """Parameters in other units: the same steps with Marquardt's scaling, other steps without."""
    units = 10.0 ** torch.arange(-3, 9, 0.5, dtype=F64)[:12]
    losses = {}
    for scaling in (0.0, 1.0):
        for name, unit in (("one", torch.ones(12, dtype=F64)), ("other", units)):
            system = linear(40, 12)
            system.a, system.theta = system.a / unit, nn.Parameter(system.theta.detach() * unit)
            # S has 1 for its largest entry, so that damping is in units of it
            damping = 10 * (system.a.square().sum(0).max() / 40).item()
            optimizer = GaussNewton([system.theta], damping=damping, scaling=scaling)
            losses[scaling, name] = [optimizer.step(system, system.loss) for _ in range(4)]
    assert losses[1.0, "one"] == pytest.approx(losses[1.0, "other"], rel=1e-6)
    assert losses[0.0, "one"] != pytest.approx(losses[0.0, "other"], rel=1e-2)


def test_sketches_step_in_fewer_rows_and_columns():
    """Enough rows solve the problem; few columns do not, but never make it worse."""
    rows, columns = linear(400, 12), linear(400, 12)
    least = (torch.linalg.pinv(rows.a) @ rows.b - rows.theta).norm().item()
    optimizer = GaussNewton([rows.theta], damping=1e-8, rows=100)
    first = rows.loss()
    for _ in range(4):
        optimizer.step(rows, rows.loss)
    best = (rows.a @ (torch.linalg.pinv(rows.a) @ rows.b) - rows.b).square().sum().item()
    assert least > 1 and rows.loss() < best + 0.05 * (first - best)
    optimizer, losses = GaussNewton([columns.theta], damping=1e-8, columns=4), [columns.loss()]
    for _ in range(30):
        losses.append(optimizer.step(columns, columns.loss))
    assert losses == sorted(losses, reverse=True) and losses[1] > 1.01 * best and losses[-1] < 1.01 * best


def test_a_step_that_makes_the_unseen_loss_larger_is_not_taken():
    system = linear(12, 40)
    start = system.theta.detach().clone()
    optimizer = GaussNewton([system.theta], damping=1e-3)
    optimizer.step(system, lambda: (system.theta - start).square().sum().item())
    assert torch.equal(system.theta, start) and optimizer.param_groups[0]["damping"] > 1e-3
    assert optimizer.report() == {"damping": optimizer.param_groups[0]["damping"], "accepted": 0.0}


def test_a_resumed_optimizer_goes_on():
    one, two = linear(12, 40), linear(12, 40)
    make = lambda system: GaussNewton([system.theta], momentum=0.9, rows=8)
    a, b = make(one), make(two)
    a.step(one, one.loss)
    b.load_state_dict(a.state_dict())
    two.theta.data.copy_(one.theta)
    assert a.step(one, one.loss) == b.step(two, two.loss) and torch.equal(one.theta, two.theta)


def test_count_sketch():
    generator = stream(0, "sketch")
    x, y = normal(30), normal(30, seed=1)
    sketches = [CountSketch(30, 10, generator) for _ in range(4000)]
    products = torch.stack([s(x, 0) @ s(y, 0) for s in sketches])
    assert abs(products.mean() - x @ y) < 4 * products.std() / 4000**0.5 and products.std() > 0
    s, v = sketches[0], normal(10, seed=2)
    close(s(x, 0) @ v, x @ s.transposed(v), 1e-12)
    close(s(normal(4, 30), 1), torch.stack([s(row, 0) for row in normal(4, 30)]), 1e-12)


def test_nystrom_cg():
    q = torch.linalg.qr(normal(60, 60))[0]
    values = 10.0 ** torch.arange(0, -12, -0.2, dtype=F64)
    k = q @ (values.unsqueeze(1) * q.mT)
    b, count = normal(60, seed=3), [0]

    def product(v):
        count[0] += 1
        return k @ v

    u, found = nystrom(product, b, 20, stream(0, "n"))
    close(found[:5], values[:5], 0.05)
    close(u.mT @ u, torch.eye(20, dtype=F64), 1e-8)
    used = {}
    for rank in (1, 20):
        count[0] = 0
        x = nystrom_cg(product, b, 1e-4, nystrom(product, b, rank, stream(0, "n")), tolerance=1e-9)
        close(x, torch.linalg.solve(k + 1e-4 * torch.eye(60, dtype=F64), b), 1e-6)
        used[rank] = count[0] - rank
    assert used[20] < 0.6 * used[1]


@pytest.mark.parametrize(
    "options",
    [
        {"damping": 0.0},
        {"momentum": 1.0},
        {"lengths": ()},
        {"solver": "cg", "rows": 3},
        {"solver": "cg", "scaling": 0.5},
        {"scaling": 1.5},
        {"rows": 0},
        {"solver": "cg", "rank": 0},
        {"momentum": 0.5, "columns": 3},
    ],
)
def test_bad_options_are_one_line(options):
    with pytest.raises(ValueError) as info:
        GaussNewton([nn.Parameter(torch.zeros(2))], **options)
    one_line(info)


def test_lbfgs_restarts_where_the_function_jumps():
    """Beyond a cliff the gradient of before is of no use: torch's own stays there."""
    x = nn.Parameter(torch.tensor([3.0, 2.0], dtype=F64))
    optimizer, calls = RestartingLBFGS([x]), [0]

    def closure():
        calls[0] += 1
        optimizer.zero_grad()
        loss = (x[0] - 1).square() + 100 * (x[1] - x[0].square()).square()
        if 20 < calls[0] < 40:
            loss = loss * float("nan")
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(80)]
    assert optimizer.report()["restarts"] > 0 and losses[-1] < 1e-10


# ---------------------------------------------------------------------------------------------------------------
# The system of a problem


def objective(problem, net: str = "kan", **config) -> Objective:
    given = {"dtype": "float64", "backbone": {"name": net, "widths": [4]}, **config}
    plan = Plan.of(configuration(problem, given), problem, stored=True)  # terms of one's own are not looked at yet
    return Objective(plan, plan.ansatz())


def drawn(o: Objective, n: int = 6) -> dict[str, Tensor]:
    domain, g = o.u.problem.domain, stream(3, "x")
    points = {"interior": domain.interior(n, g, dtype=F64)}
    if not o.u.hard:
        points |= {"boundary": domain.boundary(n + 1, g, dtype=F64), "initial": domain.initial(n + 2, g, dtype=F64)}
    return points


CASES = {
    "kan": lambda: objective(Poisson(4)),
    "metakan": lambda: objective(Poisson(4), "metakan"),
    "gradient": lambda: objective(
        Poisson(4), loss={"gradient": "almost_everywhere", "weights": {"gradient": 0.3, "interior": 2.0}}
    ),
    "terms": lambda: objective(
        Heat(3), constraint="soft", points={"boundary": 7, "initial": 8}, loss={"weights": {"boundary": 5.0}}
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_residuals_add_up_to_the_loss_and_jacobian_is_that_of_autograd(case):
    o = CASES[case]()
    points, probes = drawn(o), stream(0, "probes")
    parameters = list(o.u.parameters())
    system = o.system(points, probes, parameters)
    value = o.backward(points, probes)
    r = system.residual()
    close(r.square().sum(), value, 1e-12)
    blocks = list(system.blocks())
    j = torch.cat([b[1] for b in blocks])
    rows = [torch.autograd.grad(v, parameters, retain_graph=True, materialize_grads=True, allow_unused=True) for v in r]
    wanted = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    # blocks are of points: the gradient's rows stand beside those of the residual
    close(torch.cat([b[0] for b in blocks]).square().sum(), value, 1e-12)
    close(j.mT @ j, wanted.mT @ wanted, 1e-9)
    close(2 * j.mT @ torch.cat([b[0] for b in blocks]), torch.cat([p.grad.flatten() for p in parameters]), 1e-9)
    again = torch.cat([b[1] for b in o.system(points, probes, parameters).blocks()])  # nothing was left behind
    assert torch.equal(again, j)


def test_gradient_term_is_that_of_the_residual_and_its_directions_are_unbiased():
    o = CASES["gradient"]()
    (x,) = drawn(o).values()
    c, problem = o.u.problem.residual_scale, o.u.problem
    residual = lambda x: c * problem.residual(o.operator(o.u, x), x)
    step = 1e-5
    slope = torch.stack([(residual(x + step * e) - residual(x - step * e)) / (2 * step) for e in torch.eye(4).to(x)], 1)
    found = o.loss.residuals(o.u, o.operator, {"interior": x}, stream(0, "v"))["gradient"]
    close(found, slope, 1e-6)
    few = objective(Poisson(4), loss={"gradient": "almost_everywhere", "directions": 1})
    few.u.load_state_dict(o.u.state_dict())
    g = stream(0, "v")
    means = torch.stack([few.loss.terms(few.u, few.operator, {"interior": x}, g)["gradient"] for _ in range(600)])
    assert abs(means.mean() - found.square().mean()) < 4 * means.std() / 600**0.5 and means.std() > 0


GAUSS_NEWTON = {"optimizer": "gauss_newton", "steps": 1}
LBFGS = {"optimizer": "lbfgs", "steps": 1}
HUTCHINSON = {"operator": "hutchinson", "solver": "adam"}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"loss": {"gradient": "exact"}}, "spline_order"),
        ({"loss": {"gradient": "exact"}, "operator": "hutchinson"}, "no exact operator"),
        ({"loss": {"gradient": "none", "directions": 2}}, "loss.directions"),
        ({"phases": [GAUSS_NEWTON], "compile": True}, "steps of gauss_newton are not compiled"),
        (
            {
                "phases": [{"optimizer": "gauss_newton", "steps": 1}],
                "operator": "hutchinson",
                "loss": {"gradient": "none"},
            },
            "operator forward",
        ),
        ({"phases": [{**GAUSS_NEWTON, "options": {"dampening": 1}}]}, "damping"),
        ({"phases": [{"optimizer": "soap", "steps": 1, "options": {"shampoo": 1}}]}, "shampoo_beta"),
        ({"loss": {"balance": "gradnrom"}}, "gradnorm"),
        ({"loss": {"emphasis": "rba"}}, "points.refresh"),
        ({"loss": {"emphasis": "causal"}}, "time"),
        ({"points": {"adapt": {"candidate": 3}}}, "candidates"),
        ({"loss": {"balance": {"every": 10}}}, "needed is a name"),
        ({"loss": {"emphasis": "casual"}}, "causal"),
        ({"phases": [LBFGS], "points": {"refresh": 9}, "loss": {"emphasis": "rba"}}, "points.refresh: fixed"),
        ({"phases": [GAUSS_NEWTON], "operator": "autograd"}, "operator forward"),
        (
            {"points": {"adapt": {}}, "loss": {"residual": "two_sample"}, "operator": "hutchinson", "solver": "adam"},
            "two_sample",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(config, complaint):
    with pytest.raises(ConfigError) as info:
        planned(Poisson(4), {"backbone": "kan", **config})
    assert complaint in one_line(info)


@dataclass(frozen=True)
class Detached(Poisson):
    """A source that automatic differentiation does not see."""

    numpy: bool = False

    def source(self, x):
        return torch.as_tensor(super().source(x).numpy()) if self.numpy else super().source(x.detach())


@pytest.mark.parametrize("numpy", [False, True])
def test_a_source_without_a_gradient_is_refused_where_the_loss_reads_it(numpy):
    problem = Detached(4, numpy=numpy)
    with pytest.raises(ConfigError, match="set it to none") as info:
        planned(problem, {"backbone": "kan"})
    one_line(info)
    planned(problem, {"backbone": "kan", "solver": "adam"})


def test_muon_is_for_the_matrices_of_a_group():
    u = planned(Poisson(4), {"backbone": "mlp"}).ansatz()
    made = make_optimizer(PhaseConfig(optimizer="muon", steps=1, betas=(0.5, 0.6), weight_decay=0.1), u)
    by_muon = {group["use_muon"]: {p.ndim for p in group["params"]} for group in made.param_groups}
    assert by_muon == {True: {2}, False: {1}}
    assert all(group["betas"] == (0.5, 0.6) and group["weight_decay"] == 0.1 for group in made.param_groups)


def test_jacobian_of_weights_that_are_tied():
    o = objective(Poisson(4), "mlp", backbone={"name": "mlp", "widths": [5, 5, 5]}, loss={"gradient": "none"})
    linear = [m for m in o.u.net if isinstance(m, nn.Linear)]
    linear[2].weight = linear[1].weight
    points, probes, parameters = drawn(o), stream(0, "probes"), list(o.u.parameters())
    o.backward(points, probes)
    system = o.system(points, probes, parameters)
    (r, j), *_ = system.blocks()
    assert system.is_closed("interior")
    close(2 * j.mT @ r, torch.cat([p.grad.flatten() for p in parameters]), 1e-10)


@dataclass(frozen=True)
class WithUnknownField(Problem):
    """a(x, y) Lap u = 1 for a field a that is not known, with values and fluxes that are not built in."""

    dim: int = 2
    a = Unknown(2.0, of=("x", "y"), degree=2)
    coordinates = ("x", "y")
    conditions = Dirichlet("x = 0"), Neumann("x = 1", 2.0), Robin("y = 0", 1.0, 2.0, 0.5), Dirichlet("y = 1", 1.0)

    @property
    def domain(self):
        return Box(2, 0, 1)

    def residual(self, u, x):
        return self.a(x) * u.lap - 1.0


@dataclass(frozen=True)
class WithFluxes(WithUnknownField):
    """The same equation with fluxes that agree where they meet, which are built in, and one that is not."""

    conditions = Neumann("x = 1", 2.0), Neumann("y = 1"), Neumann(lambda x: x[:, 0] == 0, -1.0)


class Bent(Condition):
    """A condition of a user's own, whose points know of each other."""

    def misfit(self, u, x):
        return u(x.flip(0)) - u(x)


@dataclass(frozen=True)
class WithBent(WithUnknownField):
    """The same with a condition that no Jacobian of single points has."""

    conditions = (Bent(),)


NETS = {
    "kan": {"name": "kan", "widths": [4, 3], "spline_order": 5},
    "biases": {"name": "kan", "widths": [4, 3], "spline_order": 5, "bias": True},
    "chebykan": {"name": "chebykan", "widths": [4, 3]},
    "metakan": {"name": "metakan", "widths": [4, 3], "spline_order": 5},
    "mlp": {"name": "mlp", "widths": [5, 4]},
}
EQUATIONS = {
    "second derivatives": (Poisson(4), {}),
    "more inputs than features": (AllenCahn(20), {}),
    "coefficients of every point": (LOW_DIM["black_scholes"](), {}),
    "any order, mixed": (LOW_DIM["plate"](), {}),
    "directions": (HJB(3), {}),
    "several fields": (LOW_DIM["elasticity"](), {}),
    "a network for each field": (LOW_DIM["stokes"](), {"networks": "separate"}),
    "periodic": (LOW_DIM["schroedinger"](), {"constraint": "soft"}),
    "unknown numbers": (LOW_DIM["inverse_diffusion"](), {}),
    "an unknown field": (WithUnknownField(), {"constraint": "soft"}),
    "fluxes that are met": (WithFluxes(), {}),
    "waves beside the inputs": (LOW_DIM["multiscale"](), {"frequencies": {"x": [2, 3], "y": [1]}}),
}


def system_of(problem, net: str, monkeypatch, **config) -> Residuals:
    """Of an objective with weights drawn anew, at a few points of each term."""
    monkeypatch.setattr("kanpde.training.residuals.BLOCK_NUMBERS", 1)
    monkeypatch.setattr("kanpde.training.residuals.BLOCK", 4)  # more than one block
    o = objective(problem, **{"backbone": NETS[net], "loss": {"gradient": "none"}, "operator": "forward", **config})
    order_one(o.u.net)
    of, names = draws(o.u.problem, "volume"), o.loss.equations
    names = ["interior", *(name for name, c in o.u.problem.asked.items() if c.by_points)]
    points = {name: of[name](6, stream(0, name), sequence="random", dtype=F64) for name in names}
    return o.system(points, stream(0, "probes"), [p for p in o.u.parameters() if p.requires_grad])


@pytest.mark.parametrize("equation", EQUATIONS)
@pytest.mark.parametrize("net", NETS)
def test_the_jacobian_from_one_reverse_pass_is_that_of_single_points(net, equation, monkeypatch):
    problem, config = EQUATIONS[equation]
    system = system_of(problem, net, monkeypatch, **config)
    for name in system.points:
        assert system.is_closed(name), name
        closed = [torch.cat(parts) for parts in zip(*system.blocks_of(name), strict=True)]
        system.objective.closed[name] = False
        single = [torch.cat(parts) for parts in zip(*system.blocks_of(name), strict=True)]
        for ours, wanted in zip(closed, single, strict=True):
            assert (ours - wanted).abs().max() <= 1e-11 * wanted.abs().max(), name


def test_what_has_no_jacobian_in_closed_form_is_seen(monkeypatch):
    """A gradient of the residual, layers with norms, and conditions whose points know of each other."""
    system = system_of(Poisson(3), "chebykan", monkeypatch, loss={"gradient": "exact"})
    assert not system.is_closed("interior")
    normed = system_of(Poisson(3), "kan", monkeypatch, backbone={"name": "kan", "widths": [40], "norm": "hidden"})
    assert not normed.is_closed("interior")
    bent = system_of(WithBent(), "kan", monkeypatch, constraint="soft")
    name, *_ = bent.objective.u.problem.asked
    assert bent.is_closed("interior") and not bent.is_closed(name)


FITS = {
    "kan": {},
    "bias": {"bias": True},
    "narrow grids": {"grid_size": 3, "spline_order": 2},
    "metakan": {"name": "metakan"},
    "metakan of fewer weights than points": {"name": "metakan", "grid_size": 3, "spline_order": 2},
}


@pytest.mark.parametrize("case", FITS)
@pytest.mark.parametrize("law", ["volume", "arcsine"])
def test_jacobian_of_a_fit_from_one_reverse_pass_is_that_of_single_points(case, law, monkeypatch):
    problem = Function(formula="a*b+c", ranges=dict.fromkeys("abc", (-1.0, 2.0)))
    o = objective(problem, backbone={"name": "kan", "widths": [3, 2], **FITS[case]}, loss={"weights": {"interior": 2}})
    rows = {"interior": problem.domain.interior(300, stream(0, "rows"), law, dtype=F64)}
    monkeypatch.setattr("kanpde.training.residuals.BLOCK_NUMBERS", 1)  # more than one block
    system = o.system(rows, stream(0, "probes"), list(o.u.parameters()))
    plain = [torch.cat(parts) for parts in zip(*system.blocks(), strict=True)]
    assert o.closed == {"interior": True}
    o.closed["interior"] = False
    for ours, wanted in zip(plain, map(torch.cat, zip(*system.blocks(), strict=True)), strict=True):
        close(ours, wanted, 1e-11)


def rows_of(net: nn.Module, parameters: list[Tensor], function: Callable) -> tuple[Tensor, Tensor]:
    """r (N,) and J (N, P) of one residual a point."""
    r, j = jacobian(net, parameters, lambda: function().unsqueeze(1))
    return r.squeeze(1), j.squeeze(1)


def test_jacobian_of_a_layer_that_is_called_twice():
    layer = backbones.build("kan", 2, 2, widths=(), generator=stream(0, "net")).double()[0]
    net, x, parameters = nn.Sequential(layer, layer), normal(5, 2), list(layer.parameters())
    assert covers(net, parameters)
    r, j = rows_of(net, parameters, lambda: net(x)[:, 1].square())
    squares = net(x)[:, 1].square()
    wanted = torch.stack([torch.autograd.grad(v, parameters, retain_graph=True)[0].flatten() for v in squares])
    close(r, squares.detach())
    close(j, wanted, 1e-11)


def test_jacobian_of_prompts_of_low_rank():
    net = backbones.build("metakan", 4, widths=(4,), prompt_rank=1, generator=stream(0, "net")).double()
    x, parameters = normal(5, 4), list(net.parameters())
    assert (
        covers(net, parameters)
        and {"0.weights.of_inputs", "0.weights.of_outputs"} < dict(net.named_parameters()).keys()
    )
    _, j = rows_of(net, parameters, lambda: net(x)[:, 0])
    rows = [torch.autograd.grad(y, parameters, retain_graph=True) for y in net(x)[:, 0]]
    close(j, torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]), 1e-11)


def test_jacobian_passes_by_layers_that_are_not_trained():
    """The first is frozen, the second generated."""
    first, second = (backbones.build(name, 2, 2, widths=(), generator=stream(0, name)) for name in ("kan", "metakan"))
    last = backbones.build("kan", 2, 1, widths=(), generator=stream(0, "last"))
    net, x, parameters = nn.Sequential(first, second, last).double(), normal(5, 2), list(last.parameters())
    for part in (first, second):
        part.requires_grad_(False)
    r, j = rows_of(net, parameters, lambda: net(x)[:, 0])
    y = net(x)[:, 0]
    close(r, y.detach())
    close(j, torch.stack([torch.autograd.grad(v, parameters, retain_graph=True)[0].flatten() for v in y]), 1e-11)


@pytest.mark.parametrize(("name", "options"), [("kan", {"norm": "hidden"}), ("wavkan", {})])
def test_parameters_of_other_layers_and_of_those_with_norms_are_left_to_the_jets(name, options):
    net = backbones.build(name, 2, widths=(8,), **options, generator=stream(0, "net"))
    assert not covers(net, list(net.parameters()))
    few = [p for p in net.parameters() if p.ndim == 1][:1]  # a few numbers have a reverse pass each
    assert not few or covers(net, few)


def test_a_meta_learner_that_layers_with_norms_share_is_left_to_the_jets():
    net = backbones.build("metakan", 2, widths=(3,), norm="hidden", generator=stream(0, "net"))
    assert covers(net, [net[0].weights.prompts]) and not covers(net, list(net[0].weights.learner.parameters()))


@dataclass(frozen=True)
class OwnTerms(Poisson):
    """Terms of one evaluation of u, as `given` makes them of its values at three points."""

    given: Callable = lambda values: {}

    def extra_terms(self, u):
        x = torch.linspace(-0.5, 0.5, 3 * self.dim, dtype=torch.float64).view(3, self.dim)
        return self.given(u(x))


def of_own_terms(given) -> tuple[Objective, dict[str, Tensor], list[Tensor]]:
    o = objective(OwnTerms(2, given=given), solver="adam")
    return o, drawn(o, 5), list(o.u.parameters())


OWN_TERMS = {
    "of one evaluation": lambda u: {"a": u[:2].square().mean(), "b": (u[2] - 1) ** 2, "c": u.square().sum()},
    "of one number in an axis": lambda u: {"a": u[:1].square()},
    "that depends on nothing": lambda u: {"a": torch.tensor(2.0, dtype=u.dtype), "b": u.square().mean()},
    "that is 0": lambda u: {"a": (u - u.detach()).square().mean(), "b": u.square().mean()},
    "that is 0 but for rounding": lambda u: {"a": (u - u.detach()).square().mean() - 1e-17},
}


@pytest.mark.parametrize("solver", ["direct", "cg"])
@pytest.mark.parametrize("case", OWN_TERMS)
def test_gauss_newton_takes_terms_of_a_problem(case, solver):
    """The squares add up to the loss, J is that of autograd, and a step is finite and makes the loss smaller."""
    o, points, parameters = of_own_terms(OWN_TERMS[case])
    system, probes = o.system(points, stream(0, "probes"), parameters), stream(0, "probes")
    r, j = map(torch.cat, zip(*system.blocks(), strict=True))
    loss = o.backward(points, probes)
    close(r.square().sum(), loss, 1e-12)
    gradient = torch.cat([p.grad.flatten() for p in parameters])
    close(2 * j.mT @ r, gradient, 1e-9)
    GaussNewton(parameters, solver=solver).step(system, lambda: o.at(points, probes))
    assert o.at(points, probes) < loss and all(p.isfinite().all() for p in parameters)


@pytest.mark.parametrize(
    "given, complaint",
    [
        (lambda u: {"a": u.mean() - 5}, "extra_terms: a is -.*at least 0"),
        (lambda u: {"a": 0.5}, "extra_terms: a is a float; needed is a tensor"),
        (lambda u: {"a": u.square()}, r"extra_terms: a is float64 of shape \(3,\); needed is one real number"),
        (lambda u: {"a": (u > 0).sum()}, r"extra_terms: a is int64 of shape \(\); needed is one real number"),
        (lambda u: {"interior": u.square().mean()}, "extra_terms: a term is called interior"),
    ],
)
def test_terms_that_do_not_fit_are_one_line(given, complaint):
    o, points, parameters = of_own_terms(given)
    with pytest.raises(ConfigError, match=complaint) as info:
        list(o.system(points, stream(0, "probes"), parameters).blocks())
    one_line(info)


def test_gauss_newton_that_cannot_go_on_says_so_or_stays():
    system = linear(12, 40)
    optimizer = GaussNewton([system.theta])
    for _ in range(40):
        optimizer.step(system, lambda: 1.0)
    assert optimizer.param_groups[0]["damping"] == 1e15
    system.a[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        optimizer.step(system, lambda: 1.0)


def test_an_exact_gradient_takes_splines_of_order_four():
    planned(Poisson(4), {"backbone": {"name": "kan", "spline_order": 4}, "loss": {"gradient": "exact"}})


@pytest.mark.parametrize("name", ["linear", "cosine", "exponential", "one_cycle", "constant"])
def test_schedules_rise_and_fall(name):
    phase = PhaseConfig(steps=1000, schedule=name, warmup=0 if name == "one_cycle" else 0.1, final=0.01)
    factors = torch.tensor([schedule(phase, step) for step in range(1000)])
    top = int(factors.argmax())
    assert factors[0] < 0.05 and factors.max() > 0.6 and 90 <= top <= 310
    assert (factors[: top + 1].diff() > 0).all() and (factors[top:].diff() <= 0).all()
    assert (factors[-1] < 0.03) == (name != "constant")
