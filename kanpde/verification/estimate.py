r"""The defect at points, and the relative l2 error over a law, from samples; both with intervals.

With the means e_i and variances s_i^2 of n samples at each of M points x_i, and u_i there,

.. math:: rel^2 = \frac{\sum_i E_i}{\sum_i u_i^2 - 2 u_i e_i + E_i}, \qquad E_i = e_i^2 - s_i^2 / n,

where E_i is an unbiased estimate of e(x_i)^2: the mean of the products of two different samples, so that their noise,
which e_i^2 alone would add, is not in it. The variance of the quotient over points, which holds both that of the
noise and that of the choice of points, gives its interval.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kanpde.verification.method import Method

AT_ONCE = 2**18  # coordinates of samples that are drawn together


@dataclass(frozen=True)
class Samples:
    """What is known of the defect at points: how many samples, their means and variances.

    Attributes:
        x, u: the points (M, n_inputs), and the approximate solution there (M,).
        count, mean, variance: of the samples at each point (M,).

    Example:
        >>> none = Samples.none(torch.zeros(2, 3), torch.ones(2))
        >>> none.plus(torch.tensor([[1.0, 3.0], [2.0, 2.0]])).mean
        tensor([2., 2.])
    """

    x: Tensor
    u: Tensor
    count: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def none(cls, x: Tensor, u: Tensor) -> "Samples":
        """Points without samples."""
        zero = u.new_zeros(len(x))
        return cls(x, u, zero, zero, zero)

    @property
    def standard_error(self) -> Tensor:
        """Of the means (M,)."""
        return (self.variance / self.count).sqrt()

    def plus(self, samples: Tensor) -> "Samples":
        """With more samples (M, n) at each point (the variance by Chan, Golub and LeVeque 1983)."""
        n, old = samples.shape[1], self.count
        mean, both = samples.mean(1), old + n
        step = mean - self.mean
        squares = self.variance * (old - 1).clamp_min(0) + (samples - mean.unsqueeze(1)).square().sum(1)
        squares = squares + step.square() * old * n / both
        return replace(self, count=both, mean=self.mean + step * n / both, variance=squares / (both - 1).clamp_min(1))

    def and_points(self, other: "Samples") -> "Samples":
        """With more points."""
        names = ("x", "u", "count", "mean", "variance")
        return Samples(*(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))


@dataclass(frozen=True)
class Interval:
    """An estimate with an interval that holds the truth with the probability `confidence`.

    of_noise, of_points: the variances of rel^2 that more samples, and that more points would make smaller.

    Example:
        >>> Interval(0.1, 0.09, 0.11, 0.95, 0.0, 0.0).value
        0.1
    """

    value: float
    low: float
    high: float
    confidence: float
    of_noise: float
    of_points: float

    @property
    def width(self) -> float:
        """Half its width by these variances, relative to the value; inf where that is zero."""
        deviation = (self.of_noise + self.of_points) ** 0.5
        return quantile(self.confidence) * deviation / (2 * self.value**2) if self.value > 0 else math.inf


def relative_l2(samples: Samples, confidence: float, drawn: bool = True) -> Interval:
    """Of the defect over the law of the points, see the head of this module; not `drawn`, over these very points."""
    m, (u, e) = len(samples.u), (samples.u, samples.mean)
    noise = samples.variance / samples.count
    squares = e.square() - noise
    solution = u.square() - 2 * u * e + squares
    quotient = (squares.mean() / solution.mean()).item()
    parts = (squares - quotient * solution) / solution.mean()
    of_noise = ((4 * squares.clamp_min(0) * noise + 2 * noise.square()) / solution.mean() ** 2).mean().item() / m
    total = (parts.var() / m).item() if drawn else of_noise
    reach = quantile(confidence, m) * total**0.5
    root = lambda square: max(square, 0.0) ** 0.5
    low, high = root(quotient - reach), root(quotient + reach)
    return Interval(root(quotient), low, high, confidence, of_noise, max(total - of_noise, 0.0))


def quantile(confidence: float, m: int | None = None) -> float:
    """z with P(|T| < z) = confidence, T normal, or of Student's law with m - 1 degrees of freedom (Fisher, Cornish)."""
    z = math.sqrt(2) * torch.erfinv(torch.tensor(confidence, dtype=torch.float64)).item()
    if m is None:
        return z
    n = max(m - 1, 1)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)


def sampled(method: Method, samples: Samples, n: int, generator: torch.Generator) -> Samples:
    """With n more samples at each point."""
    points, each = max(1, AT_ONCE // samples.x.shape[1]), []
    for part in samples.x.split(max(1, points // n)):
        at_once = max(1, min(n, points // len(part)))
        drawn = [method.draw(part.repeat(k, 1), generator).reshape(k, -1).T for k in _parts(n, at_once)]
        each.append(torch.cat(drawn, 1))
    return samples.plus(torch.cat(each))


def _parts(n: int, most: int) -> list[int]:
    return [min(most, n - done) for done in range(0, n, most)]
