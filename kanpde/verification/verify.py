"""The verification of a solution: samples of its defect until its relative l2 error is known, or time is up."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from kanpde.domains.base import laws_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.verification.equation import DefectEquation, NotVerifiable
from kanpde.verification.estimate import Interval, Samples, relative_l2, sampled
from kanpde.verification.method import Method
from kanpde.verification.methods import method_of

POINTS = 64  # at first
SAMPLES = 8  # at each of them, at first
FEWEST = 16  # points
MOST_POINTS, NUMBERS = 4096, 2**25  # and as many as have so many coordinates, since they are kept
MIXED = 3.0  # see `Drawing.interval`
USELESS = 0.05  # of the variance of an interval that is of noise, from which more samples do not help
LEAST = 2  # samples of a point, from which there is a variance


@dataclass(frozen=True)
class Verification:
    """How far u is from the solution of its problem, without use of that.

    Attributes:
        rel_l2, low, high: the relative l2 error over the law of the points, and the ends of an interval that holds it
            with the probability `confidence`; high is inf where e is too large for an equation that is linear in it.
        confidence, seconds, method: how that was found.
        x: points (M, n_inputs). u, defect, standard_error: of u there, e = u - u* and the standard error of that (M,).
        count: samples at each point (M,).

    Of points that were given, all is of these alone.

    Example:
        >>> import kanpde
        >>> u = kanpde.Ansatz(kanpde.problems.Poisson(3), kanpde.backbones.build("kan", 3, widths=[4]))
        >>> found = kanpde.verify(u, points=64, rel=0.5, seconds=2)
        >>> found.low < found.rel_l2 < found.high, found.method
        (True, 'Green function of the ball')
    """

    rel_l2: float
    low: float
    high: float
    confidence: float
    seconds: float
    method: str
    x: np.ndarray = field(repr=False)
    u: np.ndarray = field(repr=False)
    defect: np.ndarray = field(repr=False)
    standard_error: np.ndarray = field(repr=False)
    count: np.ndarray = field(repr=False)

    @property
    def corrected(self) -> np.ndarray:
        """u - e at the points (M,), whose standard error is that of e."""
        return self.u - self.defect

    def __str__(self) -> str:
        return f"{self.rel_l2:.2e} ({self.low:.2e} to {self.high:.2e} with {self.confidence:.0%} confidence)"

    def samples(self) -> Samples:
        """The samples it was made of, to go on with."""
        count, error = torch.from_numpy(self.count), torch.from_numpy(self.standard_error)
        x, u, mean = map(torch.from_numpy, (self.x, self.u, self.defect))
        return Samples(x, u, count, mean, error.square() * count)


def estimated(
    u: Ansatz,
    points: int | Tensor | None = None,
    seconds: float | None = 60.0,
    rel: float = 0.1,
    confidence: float = 0.95,
    seed: int = 0,
    law: str | None = None,
    former: Verification | None = None,
    on_round: Callable[[Interval, int, float], object] | None = None,
) -> Verification:
    """How wrong u is; see `kanpde.verify`, which is this for runs as well.

    Args:
        former: a verification of the same u and points to go on with.
        on_round: called with the interval so far, the number of samples and the seconds.
    """
    drawing = Drawing(u, points, law, seed)
    start, spent = monotonic(), 0.0 if former is None else former.seconds
    samples = interval = None
    if former is not None:
        samples, drawing.rate = former.samples(), former.count.sum() / former.seconds
        interval = drawing.interval(samples, confidence)
    limit = float("inf") if seconds is None else seconds
    try:
        while interval is None or drawing.rough(samples, interval) > rel:
            left, begun = limit - (monotonic() - start), monotonic()
            if samples is not None and (left <= 0 or not (wanted := drawing.wanted(samples, interval, left))):
                break
            before = 0 if samples is None else int(samples.count.sum())
            samples = drawing.first(left) if samples is None else drawing.more(samples, *wanted)
            interval = drawing.interval(samples, confidence)
            drawing.rate = (int(samples.count.sum()) - before) / max(monotonic() - begun, 1e-9)
            if on_round is not None:
                on_round(interval, int(samples.count.sum()), monotonic() - start)
    except KeyboardInterrupt:
        if interval is None:
            raise
    return Verification(
        interval.value,
        interval.low,
        interval.high,
        confidence,
        spent + monotonic() - start,
        drawing.method.says + ("" if drawing.equation.linear else ", linear in the error"),
        *(t.numpy() for t in (samples.x, samples.u, samples.mean, samples.standard_error, samples.count)),
    )


class Drawing:
    """Points by a law, or those given, and samples at them: of streams of their own, so that one can go on.

    Attributes:
        rate: samples a second, as of the last round.
    Raises:
        ConfigError: points that are none of the domain. NotVerifiable: there is no method.
    """

    def __init__(self, u: Ansatz, points: int | Tensor | None, law: str | None, seed: int):
        self.equation = DefectEquation(u)
        self.method: Method = method_of(self.equation)
        self.domain, self.seed, self.rate = self.equation.domain, seed, 0.0
        self.law = law or laws_of(self.domain)[0]
        self.given = None if points is None or isinstance(points, int) else self._checked(points)
        self.fixed = len(self.given) if self.given is not None else points
        self.most = max(FEWEST, min(MOST_POINTS, NUMBERS // self.domain.dim))

    def _checked(self, points) -> Tensor:
        try:
            x = torch.atleast_2d(torch.as_tensor(points, dtype=torch.float64))
        except (TypeError, ValueError):
            raise ConfigError(f"points: given {points!r:.60}, needed is a number, or points (M, d)") from None
        d = self.equation.problem.n_inputs
        if x.ndim != 2 or x.shape[1] != d or not len(x):
            raise ConfigError(f"points: given {tuple(x.shape)}, needed are (M, {d})")
        outside = ~x.isfinite().all(1) | ~self.domain.contains(x)
        if outside.any():
            first = int(outside.nonzero()[0])
            raise ConfigError(
                f"points: {int(outside.sum())} of {len(x)} are not in the domain, the first is number {first}"
            )
        return x

    def points(self, first: int, n: int) -> Samples:
        """n points from the first on, without samples."""
        if self.given is not None:
            x = self.given
        else:
            x = self.domain.interior(
                n, stream(self.seed, f"verification/points/{first}"), self.law, dtype=torch.float64
            )
        with torch.no_grad():
            return Samples.none(x, self.equation.u(x.to(self.equation.u.like.dtype)).double())

    def first(self, seconds: float) -> Samples:
        """A few samples at the first points, in about half the seconds.

        Raises:
            NotVerifiable: there is no time for them.
        """
        most = POINTS * SAMPLES
        affordable = most if (each := 2 * self.equation.seconds) * most <= seconds else int(seconds / each)
        points = self.fixed or min(POINTS, self.most, affordable // LEAST)
        if points < FEWEST and not self.fixed:
            raise NotVerifiable(
                f"{seconds:.3g} s are not enough: the residual takes {self.equation.seconds:.2g} s a point"
            )
        return self.more(self.points(0, points), 0, max(LEAST, min(SAMPLES, affordable // points)))

    def more(self, samples: Samples, points: int, n: int) -> Samples:
        """With so many more points, which have as many samples as the others, or n more samples at each."""
        done = int(samples.count.sum())
        generator = stream(self.seed, f"verification/samples/{done}")
        if points:
            count = int(samples.count[0])
            return samples.and_points(sampled(self.method, self.points(len(samples.x), points), count, generator))
        return sampled(self.method, samples, n, generator)

    def wanted(self, samples: Samples, interval: Interval, seconds: float) -> tuple[int, int] | None:
        """How many points, or samples at each, would be worth most: as many as there are, if the seconds last.

        None: they last for none.
        """
        m, n, affordable = len(samples.x), int(samples.count[0]), int(self.rate * seconds)
        if self.fixed is None and interval.of_points > interval.of_noise and m < self.most:
            more = min(m, self.most - m, affordable // n)
            return (more, n) if more >= LEAST else None
        if self.given is None and interval.of_noise < USELESS * interval.of_points:
            return None  # as many points as there may be
        more = min(n, affordable // m)
        return (0, more) if more >= 1 else None

    def rough(self, samples: Samples, interval: Interval) -> float:
        """What is to fall below `rel`, relative to the error: half the interval; at given points the standard error."""
        if self.given is None:
            return interval.width
        return (samples.standard_error.norm() / samples.mean.norm()).item()

    def interval(self, samples: Samples, confidence: float) -> Interval:
        """Of the relative l2 error, wider by what a linear equation of it leaves out: see `nonlinear`.

        Of terms such as |grad u|^2 there is no bound: they are taken to change the error by at most `MIXED` times as
        much of itself as it is of u.
        """
        found = relative_l2(samples, confidence, self.given is None)
        largest = (samples.mean.abs() + 2 * samples.standard_error).amax().item()
        shrunk, grown = nonlinear(self.equation.bend(self.method.longest) * largest)
        if self.equation.mixed:
            shrunk, grown = shrunk * max(0.0, 1 - MIXED * found.value), grown * (1 + MIXED * found.value)
        return replace(found, low=found.low * shrunk, high=found.high * grown)


def nonlinear(c: float) -> tuple[float, float]:
    r"""By which factors the defect e may differ from that of the linear equation, l: at least, at most.

    The term of second order that is left out gives | |e| - |l| | <= C |e|^2 in the supremum, C that of
    `DefectEquation.bend`, so for c = C |l|

    .. math:: \frac{\sqrt{1 + 4 c} - 1}{2 c} \le \frac{|e|}{|l|} \le \frac{1 - \sqrt{1 - 4 c}}{2 c},

    and no bound above where 4 c > 1: the argument of Newton and Kantorovich.

    Example:
        >>> nonlinear(0.0)
        (1.0, 1.0)
    """
    if c < 1e-8:
        return 1.0, 1.0
    if c == float("inf"):
        return 0.0, c
    return ((1 + 4 * c) ** 0.5 - 1) / (2 * c), (1 - (1 - 4 * c) ** 0.5) / (2 * c) if 4 * c <= 1 else float("inf")
