"""Checks of members of one's own, for their authors' tests: each compares it with what it should be, and says so."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from kanpde import backbones
from kanpde.domains.base import Domain, kinds_of, laws_of, tells_inside, time_of
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.differentiable import NotDifferentiable
from kanpde.jets.jet import Jet, has_rules
from kanpde.jets.nested import nested
from kanpde.jets.system import Jets
from kanpde.jets.taylor import along
from kanpde.kan.basis.base import Basis
from kanpde.operators import Autograd, Forward, Operator
from kanpde.problems import Problem
from kanpde.problems.conditions import Observations
from kanpde.problems.reading import ALONE, any_jet

F64 = torch.float64
DRAWS = 2000  # of an operator that estimates
SIGMAS = 6  # standard errors that its mean may be off by
STEP = 1e-5  # of differences
INTEGRAL = 1e-3  # error of a mean over points


@dataclass
class Report:
    """What was compared with what, and how far apart it was.

    Attributes:
        lines: (what, with what, the difference relative to the largest entry or to 1).

    Example:
        >>> report = Report()
        >>> report.lines.append(("slopes", "a central difference", 1.2e-10))
        >>> print(report)
        slopes  1.2e-10  against a central difference
    """

    lines: list[tuple[str, str, float]] = field(default_factory=list)

    def close(self, what: str, given: Tensor, source: str, expected: Tensor, tolerance: float) -> None:
        """Note the difference; raises AssertionError where it is larger than the tolerance, or shapes differ."""
        self.holds(given.shape == expected.shape, f"{what} has shape {tuple(given.shape)}, not {tuple(expected.shape)}")
        size, gap = max(1.0, expected.abs().max().item()), (given - expected).abs().max().item()
        self.holds(gap <= tolerance * size, f"{what} is off by {gap:.1e} (size {size:.1e})")
        self.lines.append((what, source, gap / size))

    @staticmethod
    def holds(condition: object, message: str) -> None:
        """Raises AssertionError with the message where a condition does not hold."""
        if not condition:
            raise AssertionError(message)

    def __str__(self) -> str:
        width = max((len(what) for what, _, _ in self.lines), default=0)
        return "\n".join(f"{what:{width}}  {gap:.1e}  against {source}" for what, source, gap in self.lines)


@contextmanager
def _checking():
    """Gradients are on, and an error of differentiation is one line."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    except NotDifferentiable as error:
        raise AssertionError(str(error)) from None


@contextmanager
def _own_generator(report: Report, what: str):
    before = torch.get_rng_state()
    yield
    report.holds(torch.equal(before, torch.get_rng_state()), f"{what}: the global generator of torch was used")


# ---------------------------------------------------------------------------------------------------------------
# Problems


def check_problem(problem: Problem, points: int = 8, seed: int = 0, tolerance: float = 1e-9) -> Report:
    """Check in float64, against nested differentiation, that a problem agrees with itself.

    Shapes of coefficients, directions and residual; the same values at every call; factor and lift are what their
    closed forms say, m vanishes and h has the boundary (and initial) values on the boundary; and, where the exact
    solution is known, it has these values too and its residual is zero, unless the equation has unknowns. Observations
    with noise may be six times that off.

    Args:
        problem: a `Problem`.
        points: number of points.
        seed: of the points.
        tolerance: on differences, relative to the largest entry.
    Raises:
        AssertionError: in one line, what does not agree and by how much.

    Example:
        >>> from kanpde.problems import HJB
        >>> "exact solution on the boundary" in str(check_problem(HJB(3)))
        True
    """
    report, generator, domain = Report(), stream(seed, "check"), problem.domain
    with _checking():
        x = domain.interior(points, generator, laws_of(domain)[0], dtype=F64)
        report.holds(
            x.shape == (points, domain.dim), f"points have shape {tuple(x.shape)}, not ({points}, {domain.dim})"
        )
        _check_equation(report, problem, x)
        several = len(problem.fields) > 1
        for field in problem.fields:
            of, name = problem.of(field), f" of {field}" if several else ""
            for part, function in (("factor", of.factor), ("lift", of.lift)):
                _check_field(report, f"{part}{name}", function, x, tolerance)
        for name, condition in problem.asked.items():
            edge = condition.points(problem, points, generator, laws_of(domain)[0], dtype=F64)
            _check_condition(report, problem, name, condition, edge, tolerance)
        for place in () if problem.conditions or several else kinds_of(domain)[1:]:
            law = [laws_of(domain)[0]] if place == "initial" else []
            edge = getattr(domain, place)(points, generator, *law, dtype=F64)
            _check_edge(report, problem, place, edge, tolerance)
        if problem.has_exact:
            _check_exact(report, problem, x, tolerance)
    return report


def _check_equation(report: Report, problem, x: Tensor) -> None:
    n, d = x.shape
    s, directions = problem.coefficients(x), problem.directions(x)
    if s is not None:
        fits = s.shape in ((d,), (n, d))
        report.holds(fits, f"coefficients have shape {tuple(s.shape)}, not ({d},) or ({n}, {d})")
    m = 0 if directions is None else directions.shape[-2]
    if directions is not None:
        fits = directions.shape in ((m, d), (n, m, d))
        report.holds(fits, f"directions have shape {tuple(directions.shape)}, not (m, {d}) or ({n}, m, {d})")
    ones = any_jet(problem, x, x.new_ones)
    mlp = backbones.build("mlp", d, len(problem.fields), widths=(8,)).double()
    network = Ansatz(problem, mlp, hard=False)  # 1 may be a denominator
    with torch.no_grad():
        equations = [(problem.equations(u, x), problem.equations(u, x)) for u in (ones, Forward()(network, x))]
    found = [(r, second[name]) for first, second in equations for name, r in first.items()]
    for first, second in found:
        report.holds(first.shape == (n,), f"the residual has shape {tuple(first.shape)}, not ({n},)")
        same = torch.equal(first.nan_to_num(), second.nan_to_num())
        report.holds(same, "the residual differs between two calls")
    finite = any(all(r.isfinite().all() for r in first.values()) for first, _ in equations)
    report.holds(problem.has_exact or finite, "the residual is not finite")


def _check_field(
    report: Report, name: str, field_of: Callable[[Tensor], Field | None], x: Tensor, tolerance: float
) -> None:
    if (given := field_of(x)) is None:
        return
    reference = Field.of(lambda y: field_of(y).value, x)
    for part in ("value", "grad", "hessian_diagonal"):
        expected, found = getattr(reference, part), getattr(given, part)
        found = found.expand_as(expected) if part == "hessian_diagonal" else found
        report.close(f"{name}: {part}", found, "automatic differentiation", expected, tolerance)


def _check_edge(report: Report, problem, place: str, x: Tensor, tolerance: float) -> None:
    values = problem.boundary_value(x) if place == "boundary" else problem.initial_value(x)
    m, h = problem.factor(x), problem.lift(x)
    if m is not None:
        report.close(f"factor on the {place}", m.value, "zero", torch.zeros_like(m.value), tolerance)
        lift = torch.zeros_like(values) if h is None else h.value
        report.close(f"lift on the {place}", lift, f"{place}_value", values, tolerance)
    if problem.has_exact:
        report.close(f"exact solution on the {place}", problem.exact(x), f"{place}_value", values, tolerance)


class _Exact(nn.Module):
    """The exact solution as a network."""

    def __init__(self, problem):
        super().__init__()
        self.of, self.precision = problem.exact_fields, nn.Parameter(torch.empty(0, dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        u = self.of(x)
        return u if u.ndim == 2 else u.unsqueeze(1)


def _check_condition(report: Report, problem, name: str, condition, x: Tensor, tolerance: float) -> None:
    if not problem.has_exact:
        return
    u = Ansatz(problem, _Exact(problem), hard=False).of(condition.field)
    if not u(x[:1, : problem.n_inputs]).isfinite().all():  # the solution of this field is not known
        return
    misfit = condition.misfit(u, x)
    tolerance = tolerance if condition.by_points else INTEGRAL
    tolerance = SIGMAS if isinstance(condition, Observations) and condition.noise else tolerance  # in units of it
    report.close(f"exact solution, {name}", misfit, "zero", torch.zeros_like(misfit), tolerance)


def _check_exact(report: Report, problem, x: Tensor, tolerance: float) -> None:
    exact = problem.exact_fields(x)
    shape = (len(x),) if len(problem.fields) == 1 else (len(x), len(problem.fields))
    report.holds(exact.shape == shape, f"the exact solution has shape {tuple(exact.shape)}, not {shape}")
    unknowns = isinstance(problem.parameters, nn.Module)  # of which it is not known what they are at the solution
    if unknowns or not exact.isfinite().all():  # or some fields are not known, and the residual cannot be
        return
    if len(problem.fields) == 1:
        u: Jet | Jets = _exact_jet(problem, problem.exact, x)
    else:
        column = lambda k: lambda x: problem.exact_fields(x)[:, k]
        u = Jets(problem.fields, tuple(_exact_jet(problem, column(k), x) for k in range(len(problem.fields))))
    size = max(1.0, *(t.abs().max().item() for t in u.parts))
    for name, r in problem.equations(u, x).items():
        worst, of = r.abs().max().item(), "" if name == ALONE else f" in {name}"
        message = f"the exact solution has the residual {worst:.1e}{of} (its derivatives: {size:.1e})"
        report.holds(worst <= tolerance * size, message)
        report.lines.append((f"residual of the exact solution{of}", "zero", worst / size))


def _exact_jet(problem, exact: Callable[[Tensor], Tensor], x: Tensor) -> Jet:
    """The jet of a function (N, d) -> (N,), with all that the problem may read."""
    u = Autograd()(exact, x, problem.coefficients(x), problem.directions(x))
    if (s_grad := problem.s_grad(x)) is not None:
        u = replace(u, gram=Autograd()(exact, x, s_grad).grad_sq)
    if (factors := problem.diffusion(x)) is not None:
        second = along(exact, x, factors.reshape(-1, *factors.shape[-2:]), (factors.shape[-2],) * 2).terms[1]
        u = replace(u, diffusion=second.sum((1, 2)))
    return replace(u, derivatives=nested(exact, x, problem.reads.every), coordinates=problem.axes)


# ---------------------------------------------------------------------------------------------------------------
# Domains


def check_domain(domain: Domain, points: int = 200, seed: int = 0, tolerance: float = 1e-9) -> Report:
    """Check in float64 that a domain agrees with itself.

    By every law, points are in the domain, in the dtype asked for, and the same for the same generator; almost all lie
    in `input_range`. A factor, where there is one, is above zero inside, is what its closed forms say, and vanishes on
    the boundary, and at t = 0 where there is time. A distance is above zero inside, is that of no point of the boundary
    too far, and vanishes there.

    Raises:
        AssertionError: in one line, what does not agree and by how much.

    Example:
        >>> from kanpde.domains import Ball, Cylinder
        >>> "factor on the initial" in str(check_domain(Cylinder(Ball(3))))
        True
    """
    report, laws = Report(), laws_of(domain)
    with _checking():
        for law in laws:
            x = _drawn(report, f"points by {law}", domain, "interior", points, seed, [law])
            outside = (~domain.contains(x)).sum().item() if tells_inside(domain) else 0
            report.holds(not outside, f"{outside} of {points} points by {law} are not in the domain")
            low, high = torch.tensor(domain.input_range(law), dtype=F64).unbind(1)
            off = ((x < low) | (x > high)).double().mean().item()
            report.holds(off < 0.05, f"{off:.0%} of the coordinates by {law} are off input_range")
        inside = domain.factor(x)
        report.holds(inside is None or (inside.value > 0).all(), "the factor is not above zero at all points inside")
        _check_field(report, "factor", domain.factor, x, tolerance)
        for place in kinds_of(domain)[1:]:
            edge = _drawn(report, f"points, {place}", domain, place, points, seed, laws[: place == "initial"])
            if (m := domain.factor(edge)) is not None:
                report.close(f"factor on the {place}", m.value, "zero", torch.zeros_like(m.value), tolerance)
            if place == "boundary" and time_of(domain) is None:
                _check_distance(report, domain, x, edge, tolerance)
    return report


def _check_distance(report: Report, domain, x: Tensor, edge: Tensor, tolerance: float) -> None:
    """Of a domain that states one, by points inside and on the boundary."""
    try:
        distance, there = domain.distance(x), domain.distance(edge)
    except (AttributeError, NotImplementedError):
        return
    size = 1 + edge.abs().max()
    report.holds((distance > 0).all(), "the distance is not above zero at all points inside")
    too_far = (distance > torch.cdist(x, edge).amin(1) + tolerance * size).sum().item()
    report.holds(not too_far, f"the distance of {too_far} points is more than that to a point of the boundary")
    report.close("distance on the boundary", there, "zero", torch.zeros_like(there), tolerance * size)


def _drawn(report: Report, what: str, domain, place: str, n: int, seed: int, law) -> Tensor:
    draw = lambda: getattr(domain, place)(n, stream(seed, place), *law, dtype=F64)
    with _own_generator(report, what):
        x, again = draw(), draw()
    report.holds(x.shape == (n, domain.dim), f"{what} have shape {tuple(x.shape)}, not ({n}, {domain.dim})")
    report.holds(x.dtype == F64, f"{what} are {x.dtype}, asked for was {F64}")
    report.close(what, again, "the same generator again", x, 0.0)
    return x


# ---------------------------------------------------------------------------------------------------------------
# Bases, networks, operators


def check_basis(basis: type[Basis], seed: int = 0, tolerance: float = 1e-9, **options: Any) -> Report:
    """Check in float64 that a class of bases has the derivatives that it says it has.

    Slopes, curvatures and third derivatives against central differences, as automatic differentiation goes through
    the same formulas; the gradient by the weights likewise; edges one by one against their sums; and the jet of a
    network of it against nested differentiation.

    Args:
        basis: called as basis(in_features, grid_range=..., **options).
        tolerance: on what differs by rounding; differences may be off by 1e-6.
    Raises:
        AssertionError: in one line, what does not agree and by how much.

    Example:
        >>> from kanpde.kan.basis import Fourier
        >>> "jet: lap" in str(check_basis(Fourier, harmonics=2))
        True
    """
    report, generator, (n, n_in, n_out) = Report(), stream(seed, "check"), (7, 3, 2)
    uniform = lambda *shape: torch.rand(*shape, generator=generator, dtype=F64)
    with _checking():
        made = basis(n_in, grid_range=[(-1.0, 1.0), (0.0, 2.0), (-3.0, 0.5)], **options).double()
        x = made.low + (made.high - made.low) * (0.05 + 0.9 * uniform(n, n_in))
        theta = (0.5 + uniform(n_in, made.size, n_out)).requires_grad_()
        for name in ("init_activation", "init_scale"):
            shape = tuple(getattr(made, name)().shape)
            report.holds(shape == (made.size,), f"{name} has shape {shape}, not ({made.size},)")
        _check_derivatives(report, made, x, theta.detach())
        inputs = [i for i in range(n_in) for _ in range(n_out)]
        each = made.each(x, theta.transpose(1, 2).flatten(0, 1), inputs).unflatten(1, (n_in, n_out))
        report.close("edges one by one", each.sum(1), "their sums", made.contract(x, theta).value, tolerance)
        _check_gradient(report, lambda theta: made.contract(x, theta).value.sum(), theta, generator)
        if made.smoothness > 1:
            network_of = backbones.specialise(backbones.kan, basis)
            net = network_of(n_in, generator=generator, widths=(4,), hidden_range=(-2.0, 2.0), **options)
            _check_jet(report, net.double(), 2 * uniform(n, n_in) - 1, tolerance)
    return report


def _check_derivatives(report: Report, basis: Basis, x: Tensor, theta: Tensor) -> None:
    """Each of the first, second and third derivative of the edges against a difference of the one before."""
    one, h = x.new_ones(1, x.shape[1]), STEP

    def sums(x: Tensor) -> list[Tensor]:
        edges = basis.contract(x, theta, slope=True, curvature=one if basis.smoothness > 1 else None)
        return [edges.value, edges.slope.sum(1), *([] if edges.bend is None else [edges.bend])]

    at = x.clone().requires_grad_()
    derivatives = [part.detach() for part in sums(at)]
    if basis.smoothness > 2:  # what the gradient of a residual reads
        third = [torch.autograd.grad(y.sum(), at, retain_graph=True)[0].sum(1) for y in sums(at)[2].unbind(1)]
        derivatives.append(torch.stack(third, 1))
    above, below = (sums(x + step) for step in (h, -h))
    names = ("slopes", "curvatures", "third derivatives")
    for name, given, up, down in zip(names, derivatives[1:], above, below, strict=False):
        report.close(name, given, "a central difference", (up - down) / (2 * h), 1e-6)


def _check_gradient(report: Report, function: Callable[[Tensor], Tensor], theta: Tensor, generator) -> None:
    direction, h = torch.randn(theta.shape, generator=generator, dtype=F64), STEP
    (gradient,) = torch.autograd.grad(function(theta), theta)
    with torch.no_grad():
        difference = (function(theta + h * direction) - function(theta - h * direction)) / (2 * h)
    report.close("gradient by the weights", (gradient * direction).sum(), "a central difference", difference, 1e-6)


def _check_jet(report: Report, net: nn.Module, x: Tensor, tolerance: float) -> None:
    found, expected = Forward()(net, x), Autograd()(net, x)
    for name in ("value", "grad_sq", "lap"):
        report.close(f"jet: {name}", getattr(found, name), "nested differentiation", getattr(expected, name), tolerance)


def check_backbone(
    builder: str | Callable[..., nn.Module], dim: int = 3, seed: int = 0, tolerance: float = 1e-9, **options: Any
) -> Report:
    """Check that a network by name, or a function (dim_in, dim_out, *, generator, **options), can be trained and kept.

    Values (N, 1), the same for the same seed, with the global generator untouched; weights that another of it takes
    over; in float64 its jet against nested differentiation, where it has jet rules.

    Raises:
        AssertionError: in one line, what does not agree and by how much.

    Example:
        >>> "jet: lap" in str(check_backbone("metakan", widths=(4,)))
        True
    """
    report, x = Report(), 2 * torch.rand(6, dim, generator=stream(seed, "check"), dtype=F64) - 1
    call = (lambda *sizes, **given: backbones.build(builder, *sizes, **given)) if isinstance(builder, str) else builder
    with _checking():
        with _own_generator(report, "the network"):
            net, same, other = (call(dim, 1, generator=stream(s, "net"), **options) for s in (seed, seed, seed + 1))
        report.holds(isinstance(net, nn.Module), f"it gives a {type(net).__name__}, not a torch.nn.Module")
        value = net.double()(x)
        report.close("values", value, "the same seed again", same.double()(x), 0.0)
        report.holds(value.shape == (len(x), 1), f"values have shape {tuple(value.shape)}, not ({len(x)}, 1)")
        other.double().load_state_dict(net.state_dict())
        report.close("values of its weights", other(x), "those in another network", value, 0.0)
        if has_rules(net):
            _check_jet(report, net, x, tolerance)
    return report


def check_operator(operator: Operator, dim: int = 4, seed: int = 0, tolerance: float = 1e-9) -> Report:
    """Check an operator in float64 against nested differentiation of a network, with coefficients and directions.

    An exact one has its jet, and the gradients of that by the weights. One that estimates has its value and slopes,
    gives the same numbers for the same generator, and its mean over 2000 draws is within six standard errors.

    Raises:
        AssertionError: in one line, what does not agree and by how much.

    Example:
        >>> from kanpde.operators import Hutchinson
        >>> "mean of lap" in str(check_operator(Hutchinson(probes=2)))
        True
    """
    report, generator = Report(), stream(seed, "check")
    net = backbones.build("mlp", dim, widths=(6,), generator=generator).double()
    x = 2 * torch.rand(5, dim, generator=generator, dtype=F64) - 1
    s, v = 0.5 + torch.rand(dim, generator=generator, dtype=F64), torch.randn(2, dim, generator=generator, dtype=F64)
    draw = lambda number: operator(net, x, s, v, generator=stream(number, "draws"))
    with _checking():
        exact, found = Autograd()(net, x, s, v), draw(0)
        for name in ("value", "along", *(("grad_sq", "lap") if operator.exact else ())):
            report.close(name, getattr(found, name), "nested differentiation", getattr(exact, name), tolerance)
        report.close("lap again", draw(0).lap, "the same generator", found.lap, 0.0)
        (_check_by_weights if operator.exact else _check_mean)(report, net, draw, exact, tolerance)
    return report


def _check_by_weights(report: Report, net: nn.Module, draw: Callable[[int], Jet], exact: Jet, tolerance: float) -> None:
    options = {"allow_unused": True, "materialize_grads": True}
    of = lambda jet: torch.autograd.grad(jet.lap.square().sum(), list(net.parameters()), **options)
    for (name, _), given, wanted in zip(net.named_parameters(), of(draw(0)), of(exact), strict=True):
        report.close(f"gradient of lap by {name}", given, "nested differentiation", wanted, tolerance)


def _check_mean(report: Report, net: nn.Module, draw: Callable[[int], Jet], exact: Jet, tolerance: float) -> None:
    with torch.no_grad():
        draws = torch.stack([draw(number).lap for number in range(DRAWS)])
    error = draws.std(0) / DRAWS**0.5
    worst = ((draws.mean(0) - exact.lap.detach()).abs() / error.clamp_min(tolerance)).max().item()
    report.holds(worst <= SIGMAS, f"the mean of lap over {DRAWS} draws is {worst:.1f} standard errors off")
    report.lines.append((f"mean of lap over {DRAWS} draws, in standard errors", "nested differentiation", worst))
