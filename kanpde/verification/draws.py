"""Single draws from where a point is: of the Green function of a ball, and of the heat kernel."""

import torch
from torch import Tensor

from kanpde.domains import Ball
from kanpde.domains.base import kinds_of
from kanpde.ground.samplers import directions
from kanpde.verification.equation import DefectEquation
from kanpde.verification.method import GROWS, Clock, Last, Method, Unfit, uniform
from kanpde.verification.walks import MARGIN, HeatBalls

CONTRACTS = 0.9  # the most of |q| w with which the terms of a series shrink
TABLE = 512  # angles at which the Poisson kernel is tabled


class Series(Method):
    r"""One draw Y from the Green function of the whole domain, and one exit: e = w (q e - rho)(Y) + e(X).

    e(Y) is a sample of the same kind. It is drawn with the probability of its weight w q, where that is below 1, so
    that weights stay 1: the Neumann series of (Lap + q)^{-1} without a cut. It converges where |q| w <= CONTRACTS, and
    in time always, with terms as large as those of exp(|q| s).
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
        on = (uniform(y, generator) < survival).nonzero().squeeze(1)
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
        rho = chord * uniform(x, generator).sqrt()
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
        sign = torch.where(uniform(x, generator).unsqueeze(1) < (1 + size) / 2, 1.0, -1.0)
        return ball._placed(ball.radius * sign * axis)
    cells = torch.linspace(0, 1, TABLE + 1, dtype=x.dtype)
    angles = torch.pi * cells**2  # finest where the kernel of a point near the boundary is large
    middle, width = (angles[1:] + angles[:-1]) / 2, angles[1:] - angles[:-1]
    distance = (1 - size).square() + 4 * size * (middle / 2).sin().square()
    log_density = (d - 2) * middle.sin().log() - d / 2 * distance.log() + width.log()
    cell = torch.multinomial(torch.softmax(log_density, 1), 1, generator=generator).squeeze(1)
    angle = angles[cell] + width[cell] * uniform(x, generator)
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
        if self.largest_q * self.longest > GROWS:
            raise Unfit(f"|dF/du| = {self.largest_q:.3g} is too large for a series in it")
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
        return self._moved(x, s * uniform(x, generator), generator), s

    def _moved(self, x: Tensor, tau: Tensor, generator: torch.Generator) -> Tensor:
        z = torch.randn(len(x), x.shape[1] - 1, generator=generator, dtype=x.dtype)
        return self.clock.back(torch.cat([x[:, :-1] + (2 * tau).sqrt().unsqueeze(1) * z, x[:, -1:]], 1), tau)

    def exit(self, x: Tensor, generator: torch.Generator) -> Tensor:
        z = self._moved(x, self.clock.since(x), generator)
        return self.equation.misfit(z, torch.zeros(len(z), dtype=torch.bool))
