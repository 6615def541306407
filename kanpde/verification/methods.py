r"""Unbiased samples of the defect e(x), by the equation Lap e + b . grad e + q e - e_s = rho that it satisfies.

All rest on one identity. Of a domain D inside the domain of the equation with x in it, G_D(x, .) > 0 the Green function
of -Lap (or of d/ds - Lap) with zero values on its boundary, and X the place where a Brownian motion from x leaves D,

.. math:: e(x) = E\, e(X) + \int_D G_D(x, y) \bigl(q(y) e(y) - \rho(y)\bigr) dy .

Y is drawn in proportion to G_D(x, .), whose integral w(x) is the mean time that the motion spends in D (of the
generator Lap): e(x) = E [e(X) + w (q e - rho)(Y)]. Where e is not known the identity is used again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import e as EULER

import torch
from torch import Tensor

from kanpde.domains import Ball, Box
from kanpde.domains.base import kinds_of
from kanpde.ground.samplers import directions
from kanpde.verification.equation import DefectEquation, NotVerifiable

SHELL = 1e-4  # of half the width of a domain: so near to its boundary walks end
STEPS = 20_000  # of a walk, after which it is given up
CONTRACTS = 0.9  # the most of |q| w with which the terms of a series shrink
SMALL = 0.3  # the most of max |q + q_0| w in a step
READINGS = 2  # of the residual, about, in a walk
MARGIN = 1.2  # of the extremes of q at random points
GROWS = 3.0  # the most of q, where it is above zero, times the time there is
RESONATES = 0.5  # the same times the mean time of a walk; 1 over that is below the least eigenvalue of -Lap
NODES = 16  # steps of a path in the mean, at least
ACROSS = 64  # steps in the mean time between the two planes that hold the domain most closely
DRIFTS = (
    0.5  # the most of b^2 h / a, so that noise moves a path more than the drift; or as many steps on the way across
)
LASTS = 8  # times as long as in the mean, after which next to no path is left
ROUNDING = 1e-9  # of a step that has not met the boundary
LITTLE = 1e-3  # of a path, that is left when it ends
INTERVALS = {1: 500, 2: 100, 3: 10}  # of the coarser grid along an axis, by dimension
COARSE = 0.05  # by how much the solutions on both grids may differ, relative to them
TABLE = 512  # angles at which the Poisson kernel is tabled


def method_of(equation: DefectEquation) -> "Method":
    """The method for an equation and its domain.

    Raises:
        NotVerifiable: there is none; the line says why.
    """
    refused = []
    for kind in METHODS:
        try:
            return kind(equation)
        except NotVerifiable as error:
            refused.append(error)
    reasons = [error for error in refused if not isinstance(error, Unfit)] or refused
    raise NotVerifiable("; ".join(dict.fromkeys(map(str, reasons))))


class Unfit(NotVerifiable):
    """What a method is not made for, which is no reason if another one is."""


class Method:
    """What draws samples of the defect; made only for what it is valid for.

    Attributes:
        says: its name, for the result file.
        longest: the mean time of a walk at most, sup_x of the integral of its Green function.
    Raises:
        NotVerifiable: the equation is none of those.
    """

    says: str

    def __init__(self, equation: DefectEquation):
        self.equation = equation
        half, d = torch.as_tensor(equation.space.frame()[1], dtype=torch.float64), equation.space.dim
        self.half = half.max().item()
        self.longest = half.expand(d).square().sum().item() / (2 * d)
        if isinstance(equation.space, Ball):
            self.longest = self.half**2 / (2 * d)
        if equation.k is not None:
            self.longest = min(self.longest, equation.k * equation.time)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A sample of e at each of the points x (N, n_inputs): (N,), unbiased, independent."""
        raise NotImplementedError

    def distance(self, x: Tensor) -> Tensor:
        """From points of space to the boundary, at most."""
        space = self.equation.space
        try:
            return space.distance(x)
        except (NotImplementedError, AttributeError):
            raise NotVerifiable(f"a {type(space).__name__} has no distance to its boundary") from None

    def _at_boundary(self, x: Tensor) -> Tensor:
        """The points of the boundary nearest to points near it."""
        d = self.equation.space.dim
        return torch.cat([self.equation.space.nearest(x[:, :d]), x[:, d:]], 1)

    def _check_growth(self, q: float, longest: float) -> None:
        if q * longest > (RESONATES if self.equation.time is None else GROWS):
            raise NotVerifiable(f"dF/du = {q:.3g} is above zero and so large that paths may grow without bound")

    def _check_scalar(self) -> None:
        if self.equation.fluxes:
            raise Unfit("a part of the boundary has a condition on the normal derivative")
        if not self.equation.scalar or self.equation.drifts:
            raise Unfit("its principal part is not a(x) Lap u alone: there is a drift or another second derivative")


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(x), generator=generator, dtype=x.dtype)


# ---------------------------------------------------------------------------------------------------------------
# Walks


class Walk(Method):
    r"""A method that goes on from exit to exit until it is known what e is where a walk has come to.

    With q_0 = max(0, -min q) taken out of q, a step from x to X at the time tau_X, and to Y at tau_Y, gives

    .. math:: e(x) = E\, e^{-q_0 \tau_X} e(X) + w\, E\, e^{-q_0 \tau_Y} ((q + q_0) e - \rho)(Y)

    of which one of e(X), e(Y) is followed: e(Y) with the probability c / (1 + c), c = max |q + q_0| w, so that where q
    is below zero no weight is ever above 1 + c. Steps are so small that c <= SMALL. rho is read at Y where that is
    followed, and else with a probability in proportion to w, so that all readings of a walk weigh about the same.

    Attributes:
        q_0, q_max: as above.
    """

    def __init__(self, equation: DefectEquation):
        super().__init__(equation)
        self._check_scalar()
        self.distance(equation.probes[:, : equation.space.dim])
        self.q_0 = max(0.0, -MARGIN * equation.smallest_q)
        self.q_max = max(self.q_0, self.q_0 + MARGIN * equation.largest_q)
        self._check_growth(equation.largest_q, self.longest)
        self.longest_step = SMALL / self.q_max if self.q_max else float("inf")

    def step(self, x: Tensor, generator: torch.Generator) -> "Step":
        """Where a step from x leads."""
        raise NotImplementedError

    def ended(self, x: Tensor) -> Tensor:
        """Which walks (N,) are at their end."""
        return self._in_shell(x)

    def last(self, x: Tensor, generator: torch.Generator) -> "Last":
        """What e is where walks are at their end."""
        raise NotImplementedError

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        total, at, weight = x.new_zeros(len(x)), torch.arange(len(x)), x.new_ones(len(x))
        whole = self._time_left(x)
        for _ in range(STEPS):
            ended = self.ended(x)
            if ended.any():
                last = self.last(x[ended], generator)
                total[at[ended]] += weight[ended] * last.value
                on, rest = ended.nonzero().squeeze(1)[last.on], ~ended
                x = torch.cat([x[rest], last.x])
                weight = torch.cat([weight[rest], weight[on] * last.weight])
                at, whole = torch.cat([at[rest], at[on]]), torch.cat([whole[rest], whole[on]])
            if not len(at):
                return total
            step = self.step(x, generator)
            c = self.q_max * step.w
            inside = _uniform(x, generator) * (1 + c) < c
            chance = (READINGS * step.w / whole).clamp_max(1)
            read = inside | (_uniform(x, generator) < chance)
            share = 1 - (1 - chance) / (1 + c)  # of walks that read it
            y = step.inside(read)
            rho, q = self.equation.at(y)
            kept = (weight * torch.exp(-self.q_0 * step.tau_y))[read]
            total[at[read]] -= kept * (step.w / share)[read] * rho
            weight = weight * (1 + c) * torch.exp(-self.q_0 * step.tau_x)
            gone = inside[read]
            weight[inside] = (kept * (1 + c)[read] * (q + self.q_0) / (self.q_max or 1))[gone]
            x = step.exit
            x[inside] = y[gone]
        raise NotVerifiable(f"walks have not come to an end in {STEPS:,} steps")

    def _time_left(self, x: Tensor) -> Tensor:
        """About how long a walk from x takes (N,): (half^2 - r^2) / (2 d) at r = half - distance."""
        d = self.equation.space.dim
        distance = self.distance(x[:, :d]).clamp(SHELL * self.half, self.half)
        return distance * (2 * self.half - distance) / (2 * d)

    def _in_shell(self, x: Tensor) -> Tensor:
        return self.distance(x[:, : self.equation.space.dim]) <= SHELL * self.half


@dataclass(frozen=True)
class Last:
    """e at the ends of walks: a value (N,), and of those that go `on`, numbers in N, weights and the points where."""

    value: Tensor
    on: Tensor
    weight: Tensor
    x: Tensor

    @classmethod
    def known(cls, value: Tensor, x: Tensor) -> "Last":
        """Where nothing goes on."""
        return cls(value, torch.zeros(0, dtype=torch.long), value[:0], x[:0])


@dataclass(frozen=True)
class Step:
    """A step of a walk: w, the exit X and the time tau_X until then; tau_Y of Y, which `inside` gives of some."""

    w: Tensor
    exit: Tensor
    tau_x: Tensor
    tau_y: Tensor
    inside: Callable[[Tensor], Tensor]


class Spheres(Walk):
    r"""The walk on spheres, of an equation without q: D is the largest ball around x in the domain.

    X is uniform on the sphere of radius R. Of G the level sets are balls, and -dG/dr = r^{1-d} / |S|, so Y is uniform
    in a ball of radius R sqrt(U), U uniform, and w = R^2 / (2 d), in every dimension.

    The walk ends within a shell, which changes e there by about the width of the shell times its slope: 1e-4 of it.
    Source: Muller 1956; Sawhney and Crane 2020 (ACM Trans. Graph. 39).
    """

    says = "walk on spheres"

    def __init__(self, equation: DefectEquation):
        if equation.time is not None or equation.reacts:
            raise Unfit("there is time, or a term in u")
        super().__init__(equation)

    def step(self, x: Tensor, generator: torch.Generator) -> Step:
        d, radius = x.shape[1], self.distance(x)
        exits = x + radius.unsqueeze(1) * directions(len(x), d, generator, dtype=x.dtype)
        still = torch.zeros_like(radius)

        def inside(some: Tensor) -> Tensor:
            r = radius[some] * _uniform(x[some], generator).sqrt() * _uniform(x[some], generator) ** (1 / d)
            return x[some] + r.unsqueeze(1) * directions(len(r), d, generator, dtype=x.dtype)

        return Step(radius.square() / (2 * d), exits, still, still, inside)

    def last(self, x: Tensor, generator: torch.Generator) -> Last:
        if self.equation.met:
            return Last.known(x.new_zeros(len(x)), x)
        return Last.known(self.equation.misfit(self._at_boundary(x), torch.ones(len(x), dtype=torch.bool)), x)


class HeatBalls(Walk):
    r"""The walk on heat balls: D = {(y, s - tau): Phi(y - x, tau) > level}, Phi the heat kernel.

    With z = log(tau_0 / tau), where tau_0 = level^{-2/d} / (4 pi) is the time at its top, D is |y - x|^2 < 2 d tau z.
    On its surface |grad Phi| = level r / (2 tau), and the measure of the exit X, times r^{d-1}, is in proportion to
    tau^{d/2 - 1} z^{d/2} d tau: z has the law Gamma(d/2 + 1) with rate d/2, and the direction is uniform. G_D = Phi -
    level, since constants solve the adjoint equation too. Its level sets are heat balls with tops tau_0 U, U uniform,
    in which Y is uniform: z has the law Gamma(d/2 + 1) with rate d/2 + 1, and the distance is sqrt(2 d tau z) V^{1/d}.
    w = E tau = tau_0 (1 + 2/d)^{-(d/2 + 1)}.

    The largest radius is sqrt(2 d tau_0 / exp(1)). Without time the same steps serve an equation with q, whose walks
    then know how long they take. A walk ends within a shell, or at `SHELL` of the time.
    Source: the mean value property of Watson 1973 (Evans, 2.3.2), here with the Green function in any dimension.
    """

    says = "walk on heat balls"

    def __init__(self, equation: DefectEquation):
        if equation.time is not None and equation.k is None:
            raise Unfit("its diffusivity is not constant")
        super().__init__(equation)
        self.clock = None if equation.time is None else Clock(equation)

    def step(self, x: Tensor, generator: torch.Generator) -> Step:
        d = self.equation.space.dim
        mean = (1 + 2 / d) ** -(d / 2 + 1)
        top = EULER * self.distance(x[:, :d]).square() / (2 * d)
        top = top if self.clock is None else top.minimum(self.clock.since(x))
        top = top.clamp_max(self.longest_step / mean)
        of = lambda top, more: self._fall(x, top, more, generator)
        (tau_x, r_x), (tau_y, r_y) = of(top, 0), of(top * _uniform(top, generator), 1)

        def inside(some: Tensor) -> Tensor:
            share = _uniform(x[some], generator) ** (1 / d)
            return self._moved(x[some], tau_y[some], share * r_y[some], generator)

        return Step(top * mean, self._moved(x, tau_x, r_x, generator), tau_x, tau_y, inside)

    def _fall(self, x: Tensor, top: Tensor, more: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """tau and the radius of the heat ball there."""
        d = self.equation.space.dim
        normal = torch.randn(len(x), d + 2, generator=generator, dtype=x.dtype)
        z = normal.square().sum(1) / (d + 2 * more)  # Gamma(d/2 + 1) of rate d/2 + more
        tau = top * torch.exp(-z)
        return tau, (2 * d * tau * z).sqrt()

    def _moved(self, x: Tensor, tau: Tensor, r: Tensor, generator: torch.Generator) -> Tensor:
        d = self.equation.space.dim
        y = x[:, :d] + r.unsqueeze(1) * directions(len(x), d, generator, dtype=x.dtype)
        return y if self.clock is None else self.clock.back(torch.cat([y, x[:, d:]], 1), tau)

    def _time_left(self, x: Tensor) -> Tensor:
        left = super()._time_left(x)
        return left if self.clock is None else left.minimum(self.clock.since(x))

    def ended(self, x: Tensor) -> Tensor:
        exits = self._in_shell(x)
        return exits if self.clock is None else exits | (self.clock.since(x) <= SHELL * self.longest)

    def last(self, x: Tensor, generator: torch.Generator) -> Last:
        if self.equation.met:
            return Last.known(x.new_zeros(len(x)), x)
        exits, z = self._in_shell(x), self._at_boundary(x)
        if self.clock is not None:
            z = torch.where(exits.unsqueeze(1), z, self.clock.back(x, self.clock.since(x)))
        return Last.known(self.equation.misfit(z, exits), x)


# ---------------------------------------------------------------------------------------------------------------
# One draw from where x is


class Series(Method):
    r"""One draw Y from the Green function of the whole domain, and one exit: e = w (q e - rho)(Y) + e(X).

    e(Y) is a sample of the same kind. It is drawn with the probability of its weight w q, where that is below 1, so
    that weights stay 1: the Neumann series of (Lap + q)^{-1} without a cut. It converges where |q| w <= CONTRACTS.
    """

    def source(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Y (N, n_inputs), and weights (N,) whose mean is w(x)."""
        raise NotImplementedError

    def exit(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A sample of e at the place where the motion leaves."""
        raise NotImplementedError

    def term(self, x: Tensor, generator: torch.Generator) -> Last:
        """Misfit and residual, and where the term in q goes on."""
        y, w = self.source(x, generator)
        rho, q = self.equation.at(y)
        value = -w * rho if self.equation.met else self.exit(x, generator) - w * rho
        weight = w * q
        survival = weight.abs().clamp_max(1)
        on = (_uniform(y, generator) < survival).nonzero().squeeze(1)
        return Last(value, on, (weight / survival)[on], y[on])

    @property
    def largest_q(self) -> float:
        return MARGIN * max(abs(self.equation.largest_q), abs(self.equation.smallest_q))


class BallGreen(HeatBalls, Series):
    r"""One draw from the Green function of the ball, and from its Poisson kernel: no walk, in any dimension.

    From x in a direction theta, uniform, to a distance rho with density 2 rho / l^2 on the chord (0, l),

    .. math:: \int G(x, y) f(y) dy = E\, w f(x + \rho\theta), \quad
              w = \frac{l^2}{2} \frac{1 - k^{(d - 2)/2}}{d - 2}, \quad
              k = \frac{\rho^2}{\rho^2 + (R^2 - |x|^2)(R^2 - |y|^2) / R^2},

    since G = Phi(x - y) - Phi(image) with Phi = rho^{2-d} / ((d - 2) |S|), and |S| rho^{d-1} Phi = rho / (d - 2); for
    d = 2 its limit -log(k) / 2, and d = 1 is no exception.

    Where |q| (R^2 - |x|^2) / (2 d) is too large for a series in q, heat balls lead outwards until it is small enough.
    All the way they would need a number of steps that grows like d: one of radius r comes r / sqrt(d) nearer to the
    boundary. Source: Evans, Partial Differential Equations, 2.2.4.
    """

    says = "Green function of the ball"

    def __init__(self, equation: DefectEquation):
        if equation.time is not None or not isinstance(equation.domain, Ball):
            raise Unfit("the domain is no ball")
        super().__init__(equation)
        self.ball: Ball = equation.domain
        if self._leads_outwards:
            self.says = "heat balls, then the Green function of the ball"

    @property
    def _leads_outwards(self) -> bool:
        return self.largest_q * self.ball.radius**2 > CONTRACTS * 2 * self.ball.dim

    def ended(self, x: Tensor) -> Tensor:
        inside = self.ball.radius**2 - self.ball._from_center(x).square().sum(1)
        return self.largest_q * inside <= CONTRACTS * 2 * self.ball.dim

    def last(self, x: Tensor, generator: torch.Generator) -> Last:
        return self.term(x, generator)

    def source(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        y = self.ball._from_center(x)
        direction = directions(len(x), self.ball.dim, generator, dtype=x.dtype)
        square = self.ball.radius**2
        inside = square - y.square().sum(1)
        cosine = (y * direction).sum(1)
        chord = (cosine.square() + inside.clamp_min(0)).sqrt() - cosine
        rho = chord * _uniform(x, generator).sqrt()
        y = y + rho.unsqueeze(1) * direction
        image = inside * (square - y.square().sum(1)).clamp_min(0) / square
        log_k = -torch.log1p(image / rho.square().clamp_min(1e-300))
        half = (self.ball.dim - 2) / 2
        share = -log_k / 2 if half == 0 else -torch.expm1(half * log_k) / (2 * half)
        return self.ball._placed(y), chord.square() / 2 * share

    def exit(self, x: Tensor, generator: torch.Generator) -> Tensor:
        z = exits_of_ball(self.ball, x, generator)
        return self.equation.misfit(z, torch.ones(len(z), dtype=torch.bool))


def exits_of_ball(ball: Ball, x: Tensor, generator: torch.Generator) -> Tensor:
    r"""Where a Brownian motion from x (N, d) leaves the ball: one point each by the Poisson kernel.

    With c the cosine of the angle between x and z, its density in the angle is
    (1 - c^2)^{(d-2)/2} (R^2 + |x|^2 - 2 R |x| c)^{-d/2}: it is drawn by a table, and the rest of the direction uniform.
    """
    d, y = ball.dim, ball._from_center(x)
    length = y.norm(dim=1, keepdim=True)
    size = (length / ball.radius).clamp_max(1 - 1e-12)
    axis = torch.where(length > 0, y / length.clamp_min(1e-300), directions(1, d, generator, dtype=x.dtype))
    if d == 1:
        sign = torch.where(_uniform(x, generator).unsqueeze(1) < (1 + size) / 2, 1.0, -1.0)
        return ball._placed(ball.radius * sign * axis)
    cells = torch.linspace(0, 1, TABLE + 1, dtype=x.dtype)
    angles = torch.pi * cells**2  # finest where the kernel of a point near the boundary is large
    middle, width = (angles[1:] + angles[:-1]) / 2, angles[1:] - angles[:-1]
    distance = (1 - size).square() + 4 * size * (middle / 2).sin().square()
    log_density = (d - 2) * middle.sin().log() - d / 2 * distance.log() + width.log()
    cell = torch.multinomial(torch.softmax(log_density, 1), 1, generator=generator).squeeze(1)
    angle = angles[cell] + width[cell] * _uniform(x, generator)
    other = directions(len(x), d, generator, dtype=x.dtype)
    other = torch.nn.functional.normalize(other - (other * axis).sum(1, keepdim=True) * axis, dim=1)
    return ball._placed(ball.radius * (angle.cos().unsqueeze(1) * axis + angle.sin().unsqueeze(1) * other))


class HeatKernel(Series):
    r"""One draw from the heat kernel, where space has no boundary and coefficients are constant.

    .. math:: e(x, s) = E\, e(x + \sqrt{2 s} Z, 0) + s\, E (q e - \rho)(x + \sqrt{2 \tau} Z, s - \tau),
              \qquad \tau \sim U(0, s), \; Z \sim N(0, I)

    Source: the formula of Feynman and Kac.
    """

    says = "heat kernel"

    def __init__(self, equation: DefectEquation):
        super().__init__(equation)
        if equation.time is None or "boundary" in kinds_of(equation.domain):
            raise Unfit("space has a boundary")
        self._check_scalar()
        if equation.k is None:
            raise Unfit("its diffusivity is not constant")
        self.longest = equation.k * equation.time
        self._check_growth(self.largest_q, self.longest)
        self.clock = Clock(equation)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        total, at, weight = x.new_zeros(len(x)), torch.arange(len(x)), x.new_ones(len(x))
        while len(at):
            last = self.term(x, generator)
            total[at] += weight * last.value
            at, weight, x = at[last.on], weight[last.on] * last.weight, last.x
        return total

    def source(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        s = self.clock.since(x)
        return self._moved(x, s * _uniform(x, generator), generator), s

    def _moved(self, x: Tensor, tau: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn(len(x), x.shape[1] - 1, generator=generator, dtype=x.dtype)
        return self.clock.back(torch.cat([x[:, :-1] + (2 * tau).sqrt().unsqueeze(1) * z, x[:, -1:]], 1), tau)

    def exit(self, x: Tensor, generator: torch.Generator) -> Tensor:
        z = self._moved(x, self.clock.since(x), generator)
        return self.equation.misfit(z, torch.zeros(len(z), dtype=torch.bool))


@dataclass(frozen=True)
class Clock:
    """Time as the defect's equation has it: s = k t since initial values, or k (T - t) before terminal ones."""

    equation: DefectEquation

    def since(self, x: Tensor) -> Tensor:
        """s (N,) of points."""
        t = x[:, -1]
        return self.equation.k * (self.equation.time - t if self.equation.backward else t)

    def back(self, x: Tensor, by: Tensor) -> Tensor:
        """The points at a time that is so much nearer to that of the values."""
        sign = 1 if self.equation.backward else -1
        return torch.cat([x[:, :-1], (x[:, -1] + sign * by / self.equation.k).unsqueeze(1)], 1)


# ---------------------------------------------------------------------------------------------------------------
# Paths in small steps


class Paths(Method):
    r"""Paths of the diffusion dX = b ds + sqrt(2 a) dW in small steps, for drifts and any diagonal second derivatives.

    .. math:: e(x, t) = E\, \Bigl[ Q_s e(X_s) - \int_0^s Q_\tau \rho(X_\tau) d\tau \Bigr], \qquad
              Q_\tau = \exp \int_0^\tau q(X)

    with all coefficients divided by that of e_t. Steps have random lengths, with the exponential law of a mean h that
    resolves the time, the domain and the drift: the sum of h Q rho over their ends has the integral as its mean,
    however fast rho is forgotten on the way, as on any fixed grid it has not. The drift is that at the begin of a step,
    or of every second one: each path is made both ways of the same noise, and twice the former less the latter has an
    error of second order in h.

    Values on the boundary end a path; fluxes n . grad e + r e = f mirror it and add int Q f dL, Q falling by r dL, L
    its local time there. Without time a path goes on until next to nothing of it is left.
    Source: Feynman and Kac; Talay and Tubaro 1990; Gobet 2000, 2001.
    """

    says = "paths in small steps, extrapolated"

    def __init__(self, equation: DefectEquation):
        super().__init__(equation)
        self.bounded = "boundary" in kinds_of(equation.domain)
        if self.bounded:
            self.distance(equation.probes[:, : equation.space.dim])
        half = torch.as_tensor(equation.space.frame()[1], dtype=torch.float64).expand(equation.space.dim)
        across = half.square() / 2  # the mean time between two planes, times a
        inside = (across / equation.slowest).amin().item() if self.bounded else float("inf")
        self.longest = inside if equation.time is None else equation.time
        self.step = (across / equation.fastest).amin().item() / ACROSS if self.bounded else float("inf")
        if b := equation.drift:
            noise, way = DRIFTS * equation.slowest.amin().item() / b**2, half.amin().item() / b
            self.step = min(self.step, max(noise, way / ACROSS))
        if (steps := min(self.longest, LASTS * inside) / self.step) > STEPS / LASTS:
            raise NotVerifiable(f"paths that resolve its drift and its domain take {steps:,.0f} steps")
        self._check_growth(equation.rate, self.longest)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        timed = self.equation.time is not None
        left = self._since(x) if timed else x.new_full((len(x),), float("inf"))
        h = (left / NODES if timed else left).clamp_max(self.step)
        rates = self.equation.rates(x)
        both = [Path(x, rates), Path(x, rates)]
        totals, at = x.new_zeros(2, len(x)), torch.arange(len(x))
        for k in range(STEPS):
            drawn = torch.empty_like(h).exponential_(generator=generator) * h
            last, step = drawn >= left, drawn.minimum(left)
            z = torch.randn(len(at), self.equation.space.dim, generator=generator, dtype=x.dtype)
            for path, fresh in zip(both, (True, k % 2 == 1), strict=True):
                self._step(path, step, h, z, last, fresh)
            left = left - step
            ended = last | (torch.stack([path.weight.abs() for path in both]).amax(0) < LITTLE)
            if ended.any():
                for total, path in zip(totals, both, strict=True):
                    total[at[ended]] = path.total[ended]
                both = [path.of(~ended) for path in both]
                at, left, h = at[~ended], left[~ended], h[~ended]
            if not len(at):
                return 2 * totals[0] - totals[1]
        raise NotVerifiable(f"paths have not come to an end in {STEPS:,} steps")

    def _since(self, x: Tensor) -> Tensor:
        t = x[:, -1]
        return self.equation.time - t if self.equation.backward else t

    def _step(self, path: "Path", step: Tensor, h: Tensor, z: Tensor, last: Tensor, fresh: bool) -> None:
        """Euler in X, the trapezoidal rule in Q; rho at the end, e there of those whose `last` it is."""
        d, equation = self.equation.space.dim, self.equation
        a, b, q = path.rates[:3]
        step = torch.where(path.weight == 0, 0.0, step)  # outside, where coefficients may grow without bound
        moved = path.x.clone()
        moved[:, :d] += step.unsqueeze(1) * b + (2 * a * step.unsqueeze(1)).sqrt() * z
        if equation.time is not None:
            moved[:, -1] += step if equation.backward else -step
        edge = self._met_boundary(path.x, moved, a, step)
        there = equation.rates(moved)
        growth = path.weight * torch.exp(step * (q + there[2]) / 2)
        path.weight = growth * edge.survives
        path.total = path.total + growth * edge.gathers - torch.where(last, 0.0, h * path.weight * there[3])
        path.x = moved
        path.rates = there if fresh else path.rates
        if last.any() and not equation.met:
            path.total[last] += path.weight[last] * self._at_first(moved[last])

    def _at_first(self, x: Tensor) -> Tensor:
        """e where time has come to that of the values."""
        x = x.clone()
        x[:, -1] = self.equation.time if self.equation.backward else 0.0
        return self.equation.misfit(x, torch.zeros(len(x), dtype=torch.bool))

    def _met_boundary(self, x: Tensor, moved: Tensor, a: Tensor, h: Tensor) -> "Met":
        """What a step has met of the boundary; where the flux is given, what has gone beyond is mirrored in `moved`.

        Of a step from x to x' at distances l, l' from values on the boundary the part exp(-l l' / (a h)) has met them,
        as if the boundary were flat. A path that is mirrored from l beyond has a local time of 2 l there.
        """
        met = Met(torch.ones_like(h), torch.zeros_like(h))
        if not self.bounded:
            return met
        d = self.equation.space.dim
        beyond = self.distance(moved[:, :d])
        product = self.distance(x[:, :d]).clamp_min(0) * beyond.clamp_min(0)
        survives = -torch.expm1(-product / (a.mean(1) * h).clamp_min(1e-300))
        near = (survives < 1 - ROUNDING).nonzero().squeeze(1)
        if not len(near):
            return met
        if self.equation.met:
            met.survives[near] = survives[near]
            return met
        z = self._at_boundary(moved[near])
        edge, lost = self.equation.edges(z), 1 - survives[near]
        local = torch.where(edge.flux, 2 * (-beyond[near]).clamp_min(0), 0.0)
        met.survives[near] = torch.where(edge.flux, torch.exp(-edge.rate * local), survives[near])
        met.gathers[near] = edge.misfit * torch.where(edge.flux, local, lost)
        back = near[edge.flux & (local > 0)]
        moved[back, :d] = 2 * z[edge.flux & (local > 0), :d] - moved[back, :d]
        return met


@dataclass(frozen=True)
class Met:
    """Of a step: which share survives, and what e is of the boundary that it has met, times the share or local time."""

    survives: Tensor
    gathers: Tensor


class Path:
    """Where paths are, the coefficients that lead them on, what is left of them, and what they have gathered."""

    def __init__(self, x: Tensor, rates: Sequence[Tensor]):
        self.x, self.rates, self.weight, self.total = x, rates, x.new_ones(len(x)), x.new_zeros(len(x))

    def of(self, some: Tensor) -> "Path":
        """Some of them."""
        path = Path(self.x[some], [rate[some] for rate in self.rates])
        path.weight, path.total = self.weight[some], self.total[some]
        return path


# ---------------------------------------------------------------------------------------------------------------
# No paths: a grid


class Grid(Method):
    r"""Central differences on a box of up to three dimensions, for any q and drift, where paths would grow.

    The linear equation is solved on grids of n and 2 n intervals an axis; their extrapolation, (4 e_h - e_{2h}) / 3 at
    the coarser one's points, is interpolated. It has no noise, and is refused where the two grids differ by more than
    `COARSE` of their size: then it is not known what e is. Needs scipy.
    """

    says = "differences on a grid"

    def __init__(self, equation: DefectEquation):
        super().__init__(equation)
        if equation.time is not None or not isinstance(equation.domain, Box) or equation.space.dim not in INTERVALS:
            raise Unfit("the domain is no box of up to three dimensions without time")
        if equation.fluxes:
            raise Unfit("a part of the boundary has a condition on the normal derivative")
        n = INTERVALS[equation.space.dim]
        coarse, fine = self._solved(n), self._solved(2 * n)
        every = (slice(None, None, 2),) * equation.space.dim
        if (fine[every] - coarse).norm() > COARSE * fine[every].norm():
            raise NotVerifiable("the defect is not resolved on a grid")
        self.values = (4 * fine[every] - coarse) / 3

    def _solved(self, n: int) -> Tensor:
        """e at the points of a grid of n intervals an axis."""
        try:
            from scipy.sparse import coo_matrix
            from scipy.sparse.linalg import spsolve
        except ImportError:
            raise NotVerifiable("a grid needs scipy (pip install scipy)") from None
        d, box = self.equation.space.dim, self.equation.domain
        axes = [torch.linspace(low, high, n + 1, dtype=torch.float64) for low, high in box.sides]
        x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
        number = torch.arange(len(x)).reshape((n + 1,) * d)
        inner = number[(slice(1, -1),) * d].flatten()
        edge = torch.ones(len(x), dtype=torch.bool)
        edge[inner] = False
        a, b, q, rho = self.equation.rates(x[inner])
        entries = [(inner, inner, q)]
        for axis, (low, high) in enumerate(box.sides):
            h, step = (high - low) / n, (n + 1) ** (d - 1 - axis)
            second, first = a[:, axis] / h**2, b[:, axis] / (2 * h)
            entries += [(inner, inner + step, second + first), (inner, inner - step, second - first)]
            entries.append((inner, inner, -2 * second))
        known = edge.nonzero().squeeze(1)
        entries.append((known, known, torch.ones(len(known), dtype=torch.float64)))
        right = torch.zeros(len(x), dtype=torch.float64)
        right[inner] = rho
        right[known] = self.equation.misfit(x[known], torch.ones(len(known), dtype=torch.bool))
        rows, columns, values = (torch.cat(parts).numpy() for parts in zip(*entries, strict=True))
        matrix = coo_matrix((values, (rows, columns)), shape=(len(x), len(x))).tocsc()
        return torch.from_numpy(spsolve(matrix, right.numpy())).reshape((n + 1,) * d)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """e itself, by linear interpolation."""
        found = torch.zeros(len(x), dtype=torch.float64)
        n = torch.tensor([size - 1 for size in self.values.shape])
        low, high = (torch.tensor(side, dtype=torch.float64) for side in zip(*self.equation.domain.sides, strict=True))
        place = (x - low) / (high - low) * n
        cell = place.floor().clamp_min(0).minimum((n - 1).double())
        share = place - cell
        for corner in product((0, 1), repeat=x.shape[1]):
            at = torch.tensor(corner)
            weight = torch.where(at == 1, share, 1 - share).prod(1)
            found += weight * self.values[tuple((cell.long() + at).T)]
        return found


METHODS: tuple[Callable[[DefectEquation], Method], ...] = (BallGreen, HeatKernel, Spheres, HeatBalls, Paths, Grid)
