"""Walks from exit to exit: on spheres, and on heat balls."""

from collections.abc import Callable
from dataclasses import dataclass
from math import e as EULER

import torch
from torch import Tensor

from kanpde.ground.samplers import directions
from kanpde.verification.equation import DefectEquation, NotVerifiable
from kanpde.verification.method import Clock, Last, Method, Unfit, uniform

SHELL = 1e-4  # of half the width of a domain: so near to its boundary walks end
STEPS = 20_000  # of a walk, after which it is given up
SMALL = 0.3  # the most of max |q + q_0| w in a step
READINGS = 2  # of the residual, about, in a walk
MARGIN = 1.2  # of the extremes of q at random points


class Walk(Method):
    r"""A method that goes on from exit to exit until it is known what e is where a walk has come to.

    With q_0 = max(0, -min q) taken out of q, a step from x to X at the time tau_X, and to Y at tau_Y, gives

    .. math:: e(x) = E\, e^{-q_0 \tau_X} e(X) + w\, E\, e^{-q_0 \tau_Y} ((q + q_0) e - \rho)(Y)

    of which one of e(X), e(Y) is followed: e(Y) with the probability c / (1 + c), c = max |q + q_0| w, so that where q
    is below zero weights do not grow in the mean, and by 1 + c at most in a step. Steps are so small that c <= SMALL.
    rho is read at Y where that is followed, and else with a probability in proportion to w, so that all readings of a
    walk weigh about the same.

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
            inside = uniform(x, generator) * (1 + c) < c
            chance = (READINGS * step.w / whole).clamp_max(1)
            read = inside | (uniform(x, generator) < chance)
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
            r = radius[some] * uniform(x[some], generator).sqrt() * uniform(x[some], generator) ** (1 / d)
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
        (tau_x, r_x), (tau_y, r_y) = of(top, 0), of(top * uniform(top, generator), 1)

        def inside(some: Tensor) -> Tensor:
            share = uniform(x[some], generator) ** (1 / d)
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
