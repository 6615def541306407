"""Lifts built from what a problem states: a function with its boundary and initial values, by these values alone."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from kanpde.domains import Box
from kanpde.domains.base import kinds_of, space_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Field
from kanpde.jets.nested import gradient_of

Function = Callable[[Tensor], Tensor]

AXES = 3  # of a box whose faces are interpolated, by 3^axes - 1 evaluations a point
INPUTS = 256  # of a lift that is differentiated automatically, by so many passes
POINTS, NUMBERS = 16, 2**20  # in high dimension fewer points, so that they hold at most
LINES, CELLS = 8, 1000  # along which derivatives are integrated
ROUNDING = 1e-9  # of what is affine in double precision, relative to its size
COMPATIBLE = 1e-5  # of values at t = 0, relative to their size
SMOOTH = 1e-2


@dataclass(frozen=True, eq=False)
class Affine:
    """h(x) = a . x + b for a (d,), b ()."""

    a: Tensor
    b: Tensor

    def __call__(self, x: Tensor) -> Field:
        a, b = self.a.to(x), self.b.to(x)
        return Field(x @ a + b, a.expand_as(x), x.new_zeros(1, 1))


@dataclass(frozen=True, eq=False)
class Curved:
    """h of any smooth function, differentiated automatically."""

    function: Function

    def __call__(self, x: Tensor) -> Field:
        return Field.of(self.function, x)


@dataclass(frozen=True)
class Transfinite:
    """g - prod_i (1 - P_i) g with P_i g linear in x_i between the values of g on the two faces of axis i.

    It reads g on the faces of the box alone, and is g there. Coordinates beyond those of `ranges` (time) pass through.

    Source: Gordon & Hall 1973, Numer. Math. 21, 109-129 (transfinite interpolation).
    """

    g: Function
    ranges: tuple[tuple[float, float], ...]

    def __call__(self, x: Tensor) -> Tensor:
        n = len(self.ranges)
        share = [(x[:, i] - low) / (high - low) for i, (low, high) in enumerate(self.ranges)]
        found = x.new_zeros(len(x))
        for choice in product((None, 0, 1), repeat=n):
            if choice == (None,) * n:
                continue
            weight, columns = x.new_full((len(x),), -1.0), list(x.unbind(1))
            for i, side in enumerate(choice):
                if side is not None:
                    weight = -weight * (share[i] if side else 1 - share[i])
                    columns[i] = torch.full_like(columns[i], self.ranges[i][side])
            found = found + weight * self.g(torch.stack(columns, 1))
        return found


@dataclass(frozen=True)
class InTime:
    """h(x, t) = u_0(x) + G(x, t) - G(x, 0): u_0 at t = 0, and on the boundary g where G is g there and u_0 is g(., 0).

    None stands for zero.
    """

    u_0: Function | None
    of_boundary: Function | None

    def __call__(self, x: Tensor) -> Tensor:
        start = torch.cat([x[:, :-1], torch.zeros_like(x[:, -1:])], 1)
        h = x.new_zeros(len(x)) if self.u_0 is None else self.u_0(start)
        return h if self.of_boundary is None else h + self.of_boundary(x) - self.of_boundary(start)


def built(problem) -> Affine | Curved | None:
    """x -> the `Field` of a lift of what the problem states; None where it states neither kind of values.

    Values affine in space have themselves as a lift, on any domain; others on the faces of a box of few dimensions are
    interpolated; initial values are constant in time, with what the boundary adds to them.

    Raises:
        ConfigError: there is no such lift; the line says what to write.
    """
    if not problem.states("boundary_value") and not problem.states("initial_value"):
        return None
    timed = "initial" in kinds_of(problem.domain)
    g = _as_tensors(problem.boundary_value) if problem.states("boundary_value") else None
    u_0 = _as_tensors(problem.initial_value) if timed and problem.states("initial_value") else None
    if g is None and u_0 is None:
        return None
    x = problem.domain.interior(2, stream(0, "lift"))
    if problem.factor(x) is None:  # u = f, free on the boundary
        return None
    try:
        return _built(problem, g, u_0, timed)
    except RuntimeError as error:  # of a dtype, say
        reason = str(error).splitlines()[0]
        raise ConfigError(f"constraint: hard: no lift is built ({reason}): write `lift`, or say soft") from None


def _as_tensors(values: Function) -> Function:
    """Values of which a plain number stands for one at every point."""

    def each(x: Tensor) -> Tensor:
        y = values(x)
        return y if isinstance(y, Tensor) else torch.as_tensor(y, dtype=x.dtype, device=x.device).expand(len(x))

    return each


def _built(problem, g: Function | None, u_0: Function | None, timed: bool) -> Affine | Curved:
    at = _Samples.of(problem.domain, timed)
    for name, values in (("boundary_value", g), ("initial_value", u_0)):
        if values is not None:
            _check_values(name, values, at.edge if name == "boundary_value" else at.inside)
    of_boundary = None if g is None else _extension(g, problem.domain, at)
    h = InTime(u_0, of_boundary) if timed else of_boundary
    if timed and "boundary" in kinds_of(problem.domain):
        _check_compatible(h, g, u_0, at)
    names = " and ".join(name for name, f in (("boundary_value", g), ("initial_value", u_0)) if f is not None)
    return _affine(h, at) or _curved(h, g, at, names)


@dataclass(frozen=True)
class _Samples:
    """Points (n, d) in float64 inside the domain and on its boundary; of a domain with time both have the same t."""

    inside: Tensor
    edge: Tensor
    timed: bool

    @classmethod
    def of(cls, domain, timed: bool) -> "_Samples":
        drawn, kind = stream(0, "lift"), {"dtype": torch.float64}
        n = max(4, min(POINTS, NUMBERS // domain.dim))
        inside, edge = domain.interior(n, drawn, **kind), points_at(domain, "boundary", 2 * n, drawn, **kind)
        return cls(inside, inside if edge is None else edge, timed)

    @property
    def all(self) -> Tensor:
        return torch.cat([self.edge, self.inside])

    def pairs(self) -> tuple[Tensor, Tensor]:
        """p, q (n, d), of which many lie on the boundary; with time p and q at the same t."""
        p = self.all
        q = p.roll(1, 0)
        return p, torch.cat([q[:, :-1], p[:, -1:]], 1) if self.timed else q

    def lines(self) -> list[tuple[Tensor, Tensor]]:
        """Ends (d,) of lines through the domain, some on the boundary."""
        p = self.all
        step = max(1, len(p) // LINES)
        return list(zip(p[::step], p.roll(1, 0)[::step], strict=True))


def points_at(domain, place: str, n: int, generator: torch.Generator, **kind) -> Tensor | None:
    """n points on the boundary or at t = 0; None where a domain draws none, as constraint: hard does not need them."""
    try:
        return getattr(domain, place)(n, generator, **kind)
    except (AttributeError, NotImplementedError, TypeError):
        return None


def _check_values(name: str, values: Function, x: Tensor) -> None:
    """Raises ConfigError where values are not a finite number per point, or move with the parameters of a problem."""
    with torch.enable_grad():
        y = values(x)
    if not isinstance(y, Tensor) or y.shape != (len(x),):
        shape = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ConfigError(f"{name} has shape {shape} at {len(x)} points, needed is ({len(x)},)")
    if not y.isfinite().all():
        raise ConfigError(f"{name} is not finite where it is read")
    if y.requires_grad:
        raise ConfigError(f"constraint: hard: {name} depends on parameters; write `lift`, or say constraint: soft")


def _rounding(values: Tensor) -> float:
    return max(ROUNDING, 100 * torch.finfo(values.dtype).eps)


def _size(*values: Tensor) -> float:
    return max((y.abs().max().item() for y in values), default=0.0)


def extension(g: Function, domain) -> Function:
    """A function that is g on the boundary of a domain.

    Raises:
        ConfigError: there is none that is built.
    """
    return _extension(g, domain, _Samples.of(domain, "initial" in kinds_of(domain)))


def is_smooth(h: Function, domain) -> bool:
    """Whether a function has the derivatives that it says it has, first and second: no kink, no jump."""
    at = _Samples.of(domain, "initial" in kinds_of(domain))
    return all(_integrates(h, start, end) for start, end in at.lines())


def _extension(g: Function, domain, at: _Samples) -> Function:
    """A function that is g on the boundary: g itself where it is affine in space, or interpolated from its faces."""
    p, q = at.pairs()
    ends, middle = (g(p) + g(q)) / 2, g((p + q) / 2)
    if _size(middle - ends) <= _rounding(ends) * _size(ends, g(p)):
        return g
    space = space_of(domain)
    if isinstance(space, Box) and space.dim <= AXES:
        return Transfinite(g, tuple((float(low), float(high)) for low, high in space.input_range("volume")))
    of_time = "; with initial_value it has to be that at t = 0" if at.timed else ""
    raise ConfigError(
        f"constraint: hard: a lift is built of a boundary_value that is affine in x, or of any on a Box of at most "
        f"{AXES} dimensions, not of this one on a {type(space).__name__} of {space.dim}: write def lift(self, x): "
        f"return Field.of(self.boundary_value, x) if the formula holds inside the domain too{of_time}, or say "
        "constraint: soft"
    )


def _check_compatible(h: Function, g: Function | None, u_0: Function | None, at: _Samples) -> None:
    """Raises ConfigError where boundary and initial values differ at t = 0, so that no lift has both."""
    x = at.edge
    wanted = x.new_zeros(len(x)) if g is None else g(x)
    gap, size = _size(h(x) - wanted), _size(wanted, h(x), h(at.inside))
    if gap > COMPATIBLE * size:
        what = "initial_value is" if g is None else f"{'initial_value' if u_0 else 'zero'} and boundary_value differ by"
        zero = ", where u is zero" if g is None else " at t = 0"
        raise ConfigError(
            f"constraint: hard: {what} up to {gap:.2g} on the boundary{zero}: state a boundary_value and an "
            "initial_value that agree at t = 0, or say constraint: soft"
        )


def _affine(h: Function, at: _Samples) -> Affine | None:
    """h in closed form, where it is affine in all coordinates."""
    x = at.all
    first = x[:1].clone().requires_grad_()
    with torch.enable_grad():
        y = h(first)
        a = gradient_of(y, first)[0].detach()
    b = y.detach()[0] - x[0] @ a
    values, size = h(x).detach(), _size(x * a)
    gap = _size(x @ a + b - values)
    return Affine(a, b) if gap <= _rounding(values) * max(_size(values), size) else None


def _curved(h: Function, g: Function | None, at: _Samples, names: str) -> Curved:
    """h by automatic differentiation, checked to be what its derivatives say: no kink, no jump, nothing detached."""
    inputs = at.inside.shape[1]
    if inputs > INPUTS:
        raise ConfigError(
            f"constraint: hard: a lift with second derivatives by {inputs} inputs is too dear to be built: write "
            "`lift` with its closed-form Field, or say constraint: soft"
        )
    write = "write a smooth `lift`, or say constraint: soft"
    if g is not None:  # a jump where faces meet
        inward = at.edge + 1e-6 * (at.inside.mean(0) - at.edge)
        inward = torch.cat([inward[:, :-1], at.edge[:, -1:]], 1) if at.timed else inward
        if _size(h(inward) - g(at.edge)) > 1e-3 * _size(g(at.edge)):
            raise ConfigError(f"constraint: hard: boundary_value jumps on the boundary, so has no lift: {write}")
    if not all(_integrates(h, start, end) for start, end in at.lines()):
        raise ConfigError(
            f"constraint: hard: {names} cannot be differentiated twice (a kink, a jump, numpy, detach?): {write}"
        )
    return Curved(h)


def _integrates(h: Function, start: Tensor, end: Tensor) -> bool:
    """Whether h along a line has first and second derivatives that integrate to its differences."""
    v = end - start
    share = torch.linspace(0, 1, 2 * CELLS + 1, dtype=v.dtype).unsqueeze(1)  # even: ends of cells, odd: their middles
    x = (start + share * v).requires_grad_()
    with torch.enable_grad():
        y = h(x)
        slope = (gradient_of(y, x) * v).sum(1)
        bend = (gradient_of(slope, x) * v).sum(1)
    for f, derivative in ((y, slope), (slope, bend)):
        f, derivative = f.detach(), derivative.detach()
        change = derivative[1::2].mean() - (f[-1] - f[0])
        if not change.abs() <= SMOOTH * derivative.abs().mean() + 1e-7 * (f.abs().max() + y.detach().abs().max()):
            return False
    return True
