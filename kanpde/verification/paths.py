"""Paths in small steps, for what has no closed form."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kanpde.domains.base import kinds_of
from kanpde.verification.equation import DefectEquation, NotVerifiable
from kanpde.verification.method import Method, Unfit

STEPS = 20_000  # of a walk, after which it is given up
NODES = 16  # steps of a path in the mean, at least
ACROSS = 64  # steps in the mean time between the two planes that hold the domain most closely
DRIFTS = 0.5  # the most of b^2 h / a, so that noise moves a path more than the drift; else ACROSS steps on its way
LASTS = 8  # times as long as in the mean, after which next to no path is left
ROUNDING = 1e-9  # of a step that has not met the boundary
LITTLE = 1e-3  # of a path, that is left when it ends


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
        elif equation.time is None:
            raise Unfit("space has no boundary, and there is no time")
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
