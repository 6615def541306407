"""Checks of a problem of one's own, for its author's tests."""

import torch
from torch import Tensor

from kanpde.backbones import build
from kanpde.domains.base import kinds_of, laws_of
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.differentiable import NotDifferentiable
from kanpde.jets.jet import Jet
from kanpde.operators import Autograd, Forward


@torch.inference_mode(False)
@torch.enable_grad()
def check_problem(problem, points: int = 8, seed: int = 0, tolerance: float = 1e-9) -> None:
    """Check in float64, against nested differentiation, that a problem agrees with itself.

    Shapes of coefficients, directions and residual; the same values at every call; factor and lift are what their
    closed forms say, m vanishes and h has the boundary (and initial) values on the boundary; and, where the exact
    solution is known, it has these values too and its residual is zero.

    Args:
        problem: a `Problem`.
        points: number of points.
        seed: of the points.
        tolerance: on differences, relative to the largest entry.
    Raises:
        AssertionError: in one line, what does not agree and by how much.

    Example:
        >>> from kanpde.problems import HJB
        >>> check_problem(HJB(3))
    """
    try:
        _check(problem, points, seed, tolerance)
    except NotDifferentiable as error:
        raise AssertionError(str(error)) from None


def _check(problem, points: int, seed: int, tolerance: float) -> None:
    generator = stream(seed, "check")
    domain = problem.domain
    x = domain.interior(points, generator, laws_of(domain)[0], dtype=torch.float64)
    _expect(x.shape == (points, domain.dim), f"points have shape {tuple(x.shape)}, not ({points}, {domain.dim})")
    _check_operator(problem, x)
    m, h = problem.factor(x), problem.lift(x)
    for name, field, function in (("factor", m, problem.factor), ("lift", h, problem.lift)):
        if field is not None:
            _check_field(name, field, lambda y, function=function: function(y).value, x, tolerance)
    for place in kinds_of(domain)[1:]:
        law = [laws_of(domain)[0]] if place == "initial" else []
        _check_edge(problem, place, getattr(domain, place)(points, generator, *law, dtype=torch.float64), tolerance)
    if problem.has_exact:
        exact = problem.exact(x)
        _expect(exact.shape == (points,), f"the exact solution has shape {tuple(exact.shape)}, not ({points},)")
        u = Autograd()(problem.exact, x, problem.coefficients(x), problem.directions(x))
        if (s_grad := problem.s_grad(x)) is not None:
            u = Jet(u.value, u.along, Autograd()(problem.exact, x, s_grad).grad_sq, u.lap)
        residual = problem.residual(u, x)
        size = max(1.0, *(t.abs().max().item() for t in vars(u).values() if t is not None))
        worst = residual.abs().max().item()
        _expect(
            worst <= tolerance * size, f"the exact solution has the residual {worst:.1e} (its derivatives: {size:.1e})"
        )


def _check_operator(problem, x: Tensor) -> None:
    n, d = x.shape
    s, directions = problem.coefficients(x), problem.directions(x)
    if s is not None:
        _expect(s.shape in ((d,), (n, d)), f"coefficients have shape {tuple(s.shape)}, not ({d},) or ({n}, {d})")
    m = 0 if directions is None else directions.shape[-2]
    if directions is not None:
        allowed = (m, d), (n, m, d)
        _expect(
            directions.shape in allowed,
            f"directions have shape {tuple(directions.shape)}, not (m, {d}) or ({n}, m, {d})",
        )
    one = x.new_ones(n)
    u = Jet(one, x.new_ones(n, m) if m else None, one if problem.reads_grad_sq else None, None if s is None else one)
    network = Ansatz(
        problem, build("mlp", d, widths=(8,)).double(), hard=False
    )  # what is 1 may be what it divides by 0
    with torch.no_grad():
        trials = [u, Forward()(network, x)]
        found = [(problem.residual(u, x), problem.residual(u, x)) for u in trials]
    for first, second in found:
        _expect(first.shape == (n,), f"the residual has shape {tuple(first.shape)}, not ({n},)")
        _expect(torch.equal(first.nan_to_num(), second.nan_to_num()), "the residual differs between two calls")
    finite = any(first.isfinite().all() for first, _ in found)
    _expect(problem.has_exact or finite, "the residual is not finite")


def _check_field(name: str, field: Field, function, x: Tensor, tolerance: float) -> None:
    reference = Field.of(function, x)
    for part in ("value", "grad", "hessian_diagonal"):
        expected = getattr(reference, part)
        given = getattr(field, part)
        if part == "hessian_diagonal":
            given = given.expand_as(expected)
        _expect_close(f"{name}: {part}", given, expected, tolerance)


def _check_edge(problem, place: str, x: Tensor, tolerance: float) -> None:
    values = problem.boundary_value(x) if place == "boundary" else problem.initial_value(x)
    m, h = problem.factor(x), problem.lift(x)
    if m is not None:
        _expect_close(f"factor on the {place}", m.value, torch.zeros_like(m.value), tolerance)
        _expect_close(f"lift on the {place}", torch.zeros_like(values) if h is None else h.value, values, tolerance)
    if problem.has_exact:
        _expect_close(f"exact solution on the {place}", problem.exact(x), values, tolerance)


def _expect_close(what: str, given: Tensor, expected: Tensor, tolerance: float) -> None:
    gap, size = (given - expected).abs().max().item(), max(1.0, expected.abs().max().item())
    _expect(gap <= tolerance * size, f"{what} is off by {gap:.1e} (size {size:.1e})")


def _expect(holds, message: str) -> None:
    if not holds:
        raise AssertionError(message)
