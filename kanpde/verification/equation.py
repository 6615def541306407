r"""The linear equation that the defect e = u - u* of an approximate solution u satisfies.

With F(u) the residual of a problem, F(u*) = 0 and r = F(u),

.. math:: DF(u)\, e = r + O(e^2), \qquad DF(u) = \sum_i a_i \partial_i^2 + b \cdot \nabla + q,

whose coefficients are the derivatives of the residual by what it reads of the jet of u. Nothing is read of u* but the
equation and its conditions: e is u minus the values that these ask for, and zero where u has them built in.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from kanpde.domains.base import is_framed, kinds_of, laws_of, space_of, time_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Jet
from kanpde.jets.nested import gradient_of
from kanpde.operators import Forward
from kanpde.problems.conditions import Condition, Dirichlet, Initial, Neumann, Robin, Terminal, at
from kanpde.problems.parts import face_of

PROBES = range(4, 65)  # points at which it is looked at what the equation is, and as many as hold at most
NUMBERS = 2**19  # coordinates
SAME = 1e-6  # of coefficients that are one and the same, relative to them
BLOCK = 2**19  # coordinates of points whose jets are made at once
ROUNDING = 1e-4  # of the residual, that it may be in float32; means of it are a few hundred times smaller at most


class NotVerifiable(ConfigError):
    """An equation, a domain or a condition of which no method gives the defect.

    Example:
        >>> from kanpde import Ansatz, backbones, verify
        >>> from kanpde.problems import KdV
        >>> verify(Ansatz(KdV(), backbones.build("mlp", 2)))
        Traceback (most recent call last):
            ...
        kanpde.verification.equation.NotVerifiable: an equation of order 3
    """


@dataclass(frozen=True)
class Coefficients:
    """Of the defect's equation at N points.

    Attributes:
        r: the residual (N,).
        q: its derivative by u (N,).
        b: its derivatives by the first ones of u, those in time included (N, n_inputs).
        a: its derivatives by the second ones along each axis (N, n_inputs).
    """

    r: Tensor
    q: Tensor
    b: Tensor
    a: Tensor


class DefectEquation:
    r"""That of u, divided by the coefficient of its second derivatives: Lap e + b . grad e + q e - e_s = rho.

    s is the time since there were values, in units of the diffusivity: s = k t from initial values on, k (T - t) back
    from terminal ones. Without time there is no e_s.

    Args:
        u: a trained ansatz, of a problem with one field and no unknowns of its own. What is read is a copy: in float32
            where that makes no difference, else in float64.

    Attributes:
        domain, space, time: of the problem; time is its length, or None.
        k: the diffusivity of e_t = k (Lap e + ...), where it is the same everywhere; else None.
        scalar: whether the second derivatives are a(x) Lap u.
        drifts, reacts: whether there is any b, any q.
        linear: whether the equation is linear in u, so that nothing is left out.
        mixed: whether there are second derivatives of F by its jet but that by u.
        largest_q, smallest_q: of q, at random points.
        slowest, fastest: the least and the largest of a at random points, along each axis, and `drift`, `rate` the
            largest |b| and q, as `rates` gives them.
        seconds: about, that the coefficients at a point take.
    Raises:
        NotVerifiable: it is none of one field, of second order, and elliptic or parabolic; or its conditions are
            neither values nor fluxes, or leave a part of the boundary or the begin of time open.

    Example:
        >>> from kanpde import backbones
        >>> from kanpde.problems import Poisson
        >>> equation = DefectEquation(Ansatz(Poisson(3), backbones.build("kan", 3, widths=[4])))
        >>> equation.time, equation.linear
        (None, True)
    """

    def __init__(self, u: Ansatz):
        self.u = copy.deepcopy(u).to("cpu", torch.float64).eval()
        self.problem, self.domain = u.problem, u.problem.domain
        self.space, self.time = space_of(self.domain), time_of(self.domain)
        self._refuse()
        n = max(PROBES.start, min(PROBES.stop - 1, NUMBERS // self.problem.n_inputs))
        self.probes = self.domain.interior(n, stream(0, "probes"), laws_of(self.domain)[0], dtype=torch.float64)
        found = self.coefficients(self.probes)
        self._classify(found)
        self._measure(found)
        self._check_conditions()
        self._round(u, found.r)

    def _classify(self, found: Coefficients) -> None:
        """What kind of equation it is, by its coefficients at the probes."""
        d, same = self.space.dim, lambda t, size: t.abs() <= SAME * size
        a, size = found.a[:, :d], found.a[:, :d].abs().amax()
        if self.time is not None and not same(found.a[:, d], size).all():
            raise NotVerifiable("the equation is hyperbolic, it has second derivatives in time")
        if not ((a > SAME * size).all() or (a < -SAME * size).all()):
            raise NotVerifiable("the equation is not elliptic in space: second derivatives vanish or change their sign")
        self.scalar = bool(same(a - a[:, :1], size).all())
        self.drifts = not same(found.b[:, :d].abs().amax(1), a[:, 0].abs()).all()
        self.k, self.backward = None, False
        if self.time is None:
            return
        speed = found.b[:, d] / a[:, 0]
        if not ((speed < 0).all() or (speed > 0).all()):
            raise NotVerifiable("the equation is not parabolic: what u_t is multiplied by vanishes or changes its sign")
        self.backward = bool(speed[0] > 0)
        if self.scalar and same(speed - speed.mean(), speed.abs().mean()).all():
            self.k = 1 / speed.mean().abs().item()

    def _measure(self, found: Coefficients) -> None:
        """How large its coefficients are at the probes, and whether it is linear."""
        self._q = found.q / found.a[:, 0]
        self.reacts = bool((self._q != 0).any())
        self.largest_q, self.smallest_q = self._q.amax().item(), self._q.amin().item()
        a, b, q, _ = self.rates(self.probes)
        self.slowest, self.fastest = a.amin(0), a.amax(0)
        self.drift, self.rate = b.norm(dim=1).amax().item(), q.amax().item()
        parts = [self._second_slopes(part) for part in self._parts(self.probes)]
        self._curvature = (torch.cat([second for second, _ in parts]) / (2 * found.a[:, 0])).abs()
        self.mixed = any(mixed for _, mixed in parts)
        self.linear = not self._curvature.any() and not self.mixed

    def _round(self, u: Ansatz, r: Tensor) -> None:
        """Take the network in float32 where that changes no digit of the residual that matters."""
        exact, self.u = self.u, copy.deepcopy(u).to("cpu", torch.float32).eval()
        begun = monotonic()
        rounded = self.coefficients(self.probes).r
        self.seconds = (monotonic() - begun) / len(r)
        if not (rounded - r).norm() <= ROUNDING * r.norm():
            self.u, self.seconds = exact, 2 * self.seconds

    def _refuse(self) -> None:
        """Raises NotVerifiable for what the problem says of itself."""
        problem, reads = self.problem, self.problem.reads
        equations = problem.reading.equations
        if not self.u.continuous:
            raise NotVerifiable("u is of slabs of time, and what it jumps by between them is in no residual")
        if problem.fits_rows:
            raise NotVerifiable("a fit has no equation: its error is that on rows it has not seen")
        if len(problem.fields) > 1 or len(equations) > 1:
            raise NotVerifiable(f"a system of {max(len(problem.fields), len(equations))} equations")
        if problem.parameters is not None:
            raise NotVerifiable("the problem has unknowns of its own: its solution is not determined by the equation")
        if not is_framed(self.space):
            raise NotVerifiable(f"a {type(self.space).__name__} has no frame, which says how large it is")
        if reads.order > 2:
            raise NotVerifiable(f"an equation of order {reads.order}")
        if reads.diffusion or any(len(set(index)) > 1 for index in reads.every):
            raise NotVerifiable("the equation has mixed second derivatives")

    # -----------------------------------------------------------------------------------------------------------
    # Coefficients

    def coefficients(self, x: Tensor) -> Coefficients:
        """Those at points (N, n_inputs)."""
        parts = [self._coefficients(part) for part in self._parts(x)]
        return Coefficients(*(torch.cat([getattr(part, name) for part in parts]) for name in _NAMES))

    def _parts(self, x: Tensor) -> Sequence[Tensor]:
        return x.split(max(1, BLOCK // x.shape[1]))

    def _coefficients(self, x: Tensor) -> Coefficients:
        problem, x = self.problem, x.to(self.u.like.dtype)
        jet, r, of = self._slopes(x)
        q, first, second = of(jet.value), torch.zeros_like(x), torch.zeros_like(x)
        if (slope := of(jet.lap)) is not None:
            second += slope.unsqueeze(1) * problem.coefficients(x)
        if (slope := of(jet.along)) is not None:
            first += (slope.unsqueeze(2) * problem.directions(x)).sum(1)
        if (slope := of(jet.gram)) is not None:
            weights = problem.coefficients(x) if problem.s_grad(x) is None else problem.s_grad(x)
            first += 2 * slope.unsqueeze(1) * weights * self.gradient(x)
        for index, derivative in jet.derivatives.items():
            if (slope := of(derivative)) is not None:
                (first if len(index) == 1 else second)[:, index[0]] += slope
        return Coefficients(*(t.detach().double() for t in (r, torch.zeros_like(r) if q is None else q, first, second)))

    def _slopes(self, x: Tensor, twice: bool = False) -> tuple[Jet, Tensor, Callable[[Tensor | None], Tensor | None]]:
        """The jet of u at points, the residual, and its derivatives by parts of the jet, None where they are 0."""
        with torch.no_grad():
            found = Forward()(self.u, x)
        with torch.enable_grad():
            jet = found.map(lambda t: t.detach().requires_grad_())
            r = self.problem.residual(jet, x)
            slopes = torch.autograd.grad(r.sum(), jet.parts, create_graph=twice, allow_unused=True)
        by = {id(part): slope for part, slope in zip(jet.parts, slopes, strict=True)}
        return jet, r, lambda part: by.get(id(part))

    def _second_slopes(self, x: Tensor) -> tuple[Tensor, bool]:
        """d^2 F / du^2 (N,) at points, and whether there are other second derivatives of F by the jet."""
        jet, _, of = self._slopes(x.to(self.u.like.dtype), twice=True)
        curvature, mixed = torch.zeros(len(x), dtype=torch.float64), bool(self.problem.reads.grad_sq)
        for part in jet.parts:
            slope = of(part)
            if slope is None or not slope.requires_grad:
                continue
            seconds = torch.autograd.grad(slope.sum(), jet.parts, allow_unused=True, retain_graph=True)
            for other, second in zip(jet.parts, seconds, strict=True):
                if part is jet.value and other is jet.value and second is not None:
                    curvature = second.double()
                else:
                    mixed = mixed or bool(second is not None and (second != 0).any())
        return curvature, mixed

    def gradient(self, x: Tensor) -> Tensor:
        """grad u (N, n_inputs)."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return gradient_of(self.u(x), x).detach()

    def at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """rho and q (N,) at points."""
        found = self.coefficients(x)
        a = found.a[:, 0]
        return found.r / a, found.q / a

    def bend(self, longest: float) -> float:
        r"""A bound of sup G |F''| / (2 a), G the Green function of Lap + q, where the mean time of a walk is `longest`.

        W = G_0 1 is at most w = `longest`, and K (1 + W / w) is above G f for K = sup f / (1 / w + q^- - 2 q^+), by the
        maximum principle; so is w sup f where q is nowhere above zero. By the extremes at random points.
        """
        below, above = (-self._q).clamp_min(0), max(self.largest_q, 0.0)
        left = 1 / longest + below - 2 * above
        bounds = [] if above else [longest * self._curvature.amax().item()]
        if (left > 0).all():
            bounds.append(2 * (self._curvature / left).amax().item())
        return min(bounds, default=float("inf") if self._curvature.any() else 0.0)

    def rates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b (N, d), q and rho (N,) of a . e_xx + b . grad e + q e -+ e_t = rho, a > 0.

        Divided by the size of what e_t is multiplied by; without time, when clocks may run as they like, by the largest
        of a.
        """
        found, d = self.coefficients(x), self.space.dim
        size = found.a.abs().amax(1) if self.time is None else found.b[:, d].abs()
        unit = found.a[:, 0].sign() * size
        columns = unit.unsqueeze(1)
        return found.a[:, :d] / columns, found.b[:, :d] / columns, found.q / unit, found.r / unit

    # -----------------------------------------------------------------------------------------------------------
    # Values

    def _check_conditions(self) -> None:
        """Raises NotVerifiable for conditions that are neither values nor fluxes, and where e is left undetermined."""
        for name, condition in self.problem.asked.items():
            derived = getattr(condition, "derivative", None) is not None
            if not isinstance(condition, Dirichlet | Neumann | Robin | Initial | Terminal) or derived:
                raise NotVerifiable(f"the condition {name} is none of values or fluxes on the boundary or at a time")
        if self.fluxes and self.time is None and not (self.reacts or self._has(Dirichlet | Robin)):
            raise NotVerifiable("fluxes alone leave a constant undetermined")
        first = Terminal if self.backward else Initial
        given = self._has(first) if self.problem.conditions else not self.backward
        if self.time is not None and not given:
            ends = ("the end", "Terminal") if self.backward else ("the begin", "Initial")
            raise NotVerifiable(f"the sign of u_t asks for values at {ends[0]} of time ({ends[1]}), and there are none")
        if "boundary" in kinds_of(self.domain):
            self.edges(self.domain.boundary(len(self.probes), stream(0, "edges"), dtype=torch.float64))

    def _has(self, kind) -> bool:
        return any(isinstance(condition, kind) for condition in self.problem.asked.values())

    @property
    def fluxes(self) -> bool:
        """Whether a part of the boundary has a condition on the normal derivative."""
        return self._has(Neumann | Robin)

    @property
    def met(self) -> bool:
        """Whether u has all that is asked for built in, and that is values."""
        if not self.u.hard or self.fluxes:
            return False
        return not self.problem.conditions or set(self.problem.asked) == set(self.problem.exactly.met)

    def misfit(self, x: Tensor, exits: Tensor) -> Tensor:
        """e (N,) at points (N, n_inputs) where u is to have values: on the boundary where `exits`, else at s = 0."""
        e = torch.zeros(len(x), dtype=torch.float64)
        if self.met:
            return e
        for where, of in ((exits, lambda z: self.edges(z).misfit), (~exits, self._first_misfit)):
            if where.any():
                e[where] = of(x[where])
        return e

    def edges(self, x: Tensor) -> "Edges":
        """What is asked for at points of the boundary, and how far u is from it."""
        n = len(x)
        flux, rate, misfit = torch.zeros(n, dtype=torch.bool), x.new_zeros(n), x.new_full((n,), float("nan"))
        if not self.problem.conditions:
            return Edges(flux, rate, self._values_off(x, self.problem.boundary_value))
        for condition in self.problem.asked.values():
            if isinstance(condition, Initial | Terminal) or not (on := self._on(condition, x)).any():
                continue
            z, b = x[on], 1.0
            if isinstance(condition, Robin):
                b = at(condition.b, z)
                rate[on] = at(condition.a, z) / b
            misfit[on] = (condition.misfit(self.u, z.to(self.u.like.dtype)).double() / b).detach()
            flux[on] = isinstance(condition, Neumann | Robin)
        if misfit.isnan().any():
            raise NotVerifiable("on a part of the boundary nothing is asked for")
        return Edges(flux, rate, misfit)

    def _on(self, condition: Condition, x: Tensor) -> Tensor:
        """Which of the points of the boundary belong to the part of a condition."""
        part = condition.part
        if callable(part):
            return part(x)
        if part == "boundary":
            return torch.ones(len(x), dtype=torch.bool)
        axis, value = face_of(self.problem, part)
        return (x[:, axis] - value).abs() <= SAME * (1 + abs(value))

    def _values_off(self, x: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.no_grad():
            return self.u(x.to(self.u.like.dtype)).double() - value(x)

    def _first_misfit(self, x: Tensor) -> Tensor:
        if not self.problem.conditions:
            return self._values_off(x, self.problem.initial_value)
        kind = Terminal if self.backward else Initial
        (condition,) = (c for c in self.problem.asked.values() if isinstance(c, kind))
        return self._values_off(x, lambda x: at(condition.value, x))


@dataclass(frozen=True)
class Edges:
    """At points of the boundary: n . grad e + rate e = misfit where the flux is given, else e = misfit; (N,) each."""

    flux: Tensor
    rate: Tensor
    misfit: Tensor


_NAMES = ("r", "q", "b", "a")
