"""Function fitting: rows (x, y) of inputs and an observation, drawn from a formula."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import pi
from typing import Annotated, Literal

import torch
from pydantic import Field as Limits
from torch import Tensor

from kanpde.domains.base import check_law
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import LARGEST
from kanpde.ground.samplers import stream, uniforms
from kanpde.jets.jet import Jet, Scaling
from kanpde.jets.names import Reads
from kanpde.problems.base import Problem
from kanpde.problems.equations import Equation, equation
from kanpde.problems.formulas import Formula

NonNegative = Annotated[float, Limits(ge=0)]
TRIES = 100  # draws of a sample, of which rows where the formula is not finite are left out


@dataclass(frozen=True)
class Units:
    """The box of the inputs, (d,) low and high, and mean and deviation of the observations: what a model scales by."""

    low: Tensor
    high: Tensor
    mean: float
    std: float

    @classmethod
    def of(cls, rows: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> "Units":
        """Of training rows (N, d + 1); the box is that of the rows where it is not given.

        Raises:
            ConfigError: observations that vary by less than the root of the least number.
        """
        x, y = rows[:, :-1].double(), rows[:, -1].double()
        low, high = x.amin(0) if low is None else low, x.amax(0) if high is None else high
        high = torch.where(high > low, high, low + low.abs().clamp_min(1))  # an input that does not vary
        std = y.std(correction=0).item()
        if std == 0 and y.min() < y.max():
            varies = f"varies by {(y.max() - y.min()).item():.0e}"
            raise ConfigError(f"problem: the observation {varies}, whose square is no number; state it in other units")
        return cls(low, high, y.mean().item(), std if std > 0 else 1.0)

    @classmethod
    def unknown(cls, dim: int) -> "Units":
        return cls(torch.zeros(dim), torch.ones(dim), 0.0, 1.0)

    @property
    def centre(self) -> Tensor:
        """Of the box, (d,)."""
        return (self.low + self.high) / 2

    def scaling_inputs(self) -> Scaling:
        """The box to [-1, 1]^d."""
        scale = 2 / (self.high - self.low)
        return Scaling(scale, -1 - scale * self.low, inwards=True)

    def scaling_output(self) -> Scaling:
        """Numbers of mean 0 and deviation 1 to y."""
        return Scaling(*torch.tensor([[self.std], [self.mean]], dtype=torch.float64), inwards=False)


def of_size(rows: Tensor) -> Tensor:
    """The rows; raises ConfigError where the squares of some numbers cannot be added up."""
    if (rows.abs() > LARGEST).any():
        raise ConfigError(f"problem: given are numbers up to {rows.abs().max():.0e}, needed are at most {LARGEST:.0e}")
    return rows


class Fitting(Problem):
    """u(x) = y at rows (x, y): the residual is u(x) - y, and the model scales x to [-1, 1] and y by its deviation.

    Points are rows (N, d + 1) of d inputs and one observation, or (N, d + 2) with a weight w of the square of the
    residual: it is sqrt(w) (u(x) - y) there. A member has a domain of such rows, which knows their `units`, and the
    names of the inputs.
    """

    names: Sequence[str] = ()
    reads = Reads(along=False, lap=False)
    fits_rows = True
    default_solver = "fit"

    def held_out(self, name: str, number: int, n: int, generator: torch.Generator, law: str) -> Tensor:
        return self.domain.held_out(name, number, n, generator, law)

    @property
    def n_inputs(self) -> int:
        """Those of the columns, be the table there or not."""
        return self.dim

    def inputs_of(self, points: Tensor) -> Tensor:
        return points[..., : self.dim]

    def coefficients(self, x: Tensor) -> None:
        return None

    def factor(self, x: Tensor) -> None:
        return None

    @property
    def residual_scale(self) -> float:
        """1 / deviation of y: the loss is the share of the variance that is not explained."""
        return 1 / self.units.std

    def residual(self, u: Jet, rows: Tensor) -> Tensor:
        return self.importance_weights(rows).sqrt() * (u.value - rows[:, self.dim])

    def importance_weights(self, rows: Tensor) -> Tensor:
        return super().importance_weights(rows) if rows.shape[-1] <= self.dim + 1 else rows[:, self.dim + 1]

    @property
    def units(self) -> Units:
        """Those of the training rows."""
        return self.domain.units

    def function(self, x: Tensor) -> Tensor:
        """What y is at inputs (N, d), NaN where only the rows know it."""
        return x.new_full((len(x),), float("nan"))

    def exact(self, x: Tensor) -> Tensor:
        """The observation of rows, or the function at inputs (N, d)."""
        return x[:, self.dim] if x.shape[-1] > self.dim else self.function(x)


# ---------------------------------------------------------------------------------------------------------------
# Samples of a function


@dataclass(frozen=True)
class Sample:
    """Rows (x, f(x)), x uniform in a box; those that are trained and validated on carry noise of relative size `noise`.

    By the law arcsine these rows are denser towards the faces, x_i = low_i + (high_i - low_i) sin^2(pi t_i / 2) with t
    uniform: the limit law of Chebyshev points. Their weights, prod_i (pi / 2) sin(pi t_i), are those of importance
    sampling: loss and validation error are estimates of means over the box all the same. Test rows are uniform always.
    Rows where f is not finite are drawn again.

    Source: weighted least squares, Cohen & Migliorati 2017 (arXiv 1608.00512).
    """

    function: Callable[[Tensor], Tensor]
    ranges: tuple[tuple[float, float], ...]
    noise: float = 0.0
    seed: int = 0
    laws = ("volume", "arcsine")

    @property
    def dim(self) -> int:
        return len(self.ranges)

    def limits(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.ranges, dtype=torch.float64).unbind(1)

    def _rows(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", noise: float = 0.0
    ) -> Tensor:
        check_law(law, self.laws)
        low, high = (t.to(generator.device) for t in self.limits())
        kept, y = low.new_empty(0, self.dim + 1 + (law == "arcsine")), self.dim
        for _ in range(TRIES):
            t = uniforms(n, self.dim, generator, sequence, dtype=torch.float64)
            x = low + (high - low) * (t if law == "volume" else (pi / 2 * t).sin().square())
            weight = [(pi / 2 * (pi * t).sin()).prod(1, keepdim=True)] if law == "arcsine" else []
            rows = torch.cat([x, self.function(x).unsqueeze(1), *weight], 1)
            kept = torch.cat([kept, rows[rows[:, y].isfinite()]])
            if len(kept) >= n:
                kept = of_size(kept[:n])
                shift = torch.randn(n, generator=generator, device=kept.device, dtype=kept.dtype)
                kept[:, y] += noise * kept[:, y].std(correction=0) * shift
                return of_size(kept)
        raise ConfigError(f"problem: of {TRIES * n:,} points in its ranges, {len(kept):,} have a finite value")

    def interior(self, n: int, generator: torch.Generator, law="volume", sequence="random", dtype=None) -> Tensor:
        """The n training rows, by the seed of the sample; by the law arcsine with weights.

        Raises:
            ValueError: an unknown law.
        """
        own = stream(self.seed, "sample", generator.device)
        return self._rows(n, own, law, sequence, self.noise).to(dtype or torch.get_default_dtype())

    def held_out(self, name: str, number: int, n: int, generator: torch.Generator, law: str = "volume") -> Tensor:
        """n rows by the seed of the sample: those of the validation by the law and with the noise of the training."""
        own = stream(self.seed, f"{name}/{number}", generator.device)
        return self._rows(n, own, law, noise=self.noise) if name == "validation" else self._rows(n, own)

    @cached_property
    def units(self) -> Units:
        """Of 1000 uniform rows, whatever the law of the training."""
        rows = self.interior(1000, torch.Generator(), dtype=torch.float64)
        return Units.of(rows, *self.limits())

    def contains(self, x: Tensor) -> Tensor:
        low, high = (t.to(x) for t in self.limits())
        return ((x >= low) & (x <= high)).all(-1)

    def frame(self) -> tuple[list[float], list[float]]:
        """Centre and half-widths of the pictures."""
        low, high = self.limits()
        return ((low + high) / 2).tolist(), ((high - low) / 2).tolist()


@dataclass(frozen=True)
class Function(Fitting):
    """y = f(x) for a formula of one's own, sampled uniformly in the ranges of its variables.

    Args:
        formula: such as exp(-(a/b)**2) of the variables in `ranges`; see `kanpde.problems.formulas`.
        ranges: low and high by variable.
        noise: deviation of the noise of the training rows, as a share of that of y.
        seed: of the training rows.

    Example:
        >>> Function(formula="exp(-a**2) * b", ranges={"a": (0, 2), "b": (-1, 1)}).exact(torch.tensor([[0.0, 0.5]]))
        tensor([0.5000])
    """

    dim: int | None = None
    formula: str = "x*y"
    ranges: dict[str, tuple[float, float]] = field(default_factory=lambda: {"x": (-1.0, 1.0), "y": (-1.0, 1.0)})
    noise: NonNegative = 0.0
    seed: int = 0

    def __post_init__(self):
        for name, (low, high) in self.ranges.items():
            if not low < high:
                raise ConfigError(f"problem.ranges: {name}: given [{low:g}, {high:g}], needed is low < high")
        set_dim(self, len(self.ranges))
        _ = self.function

    def settings(self) -> dict:
        """A result file keeps the ranges, be the problem made in Python or in YAML."""
        return {"ranges": {name: list(limits) for name, limits in self.ranges.items()}}

    @cached_property
    def function(self) -> Formula:
        return Formula.parse(self.formula, self.names)

    @property
    def names(self) -> Sequence[str]:
        return list(self.ranges)

    @property
    def title(self) -> str:
        return f"y = {self.formula}"

    @cached_property
    def domain(self) -> Sample:
        return Sample(self.function, tuple(self.ranges.values()), self.noise, self.seed)


@dataclass(frozen=True)
class Feynman(Fitting):
    """An equation of the Feynman Lectures, sampled uniformly in the ranges of its variables.

    Args:
        equation: its number, such as I.12.5.
        collection: feynman, the 100 equations of AI Feynman; or paper, the 17 of Table 2 of the MetaKAN paper.
        noise, seed: as in `Function`.
    Source: Udrescu & Tegmark 2020 (arXiv 1905.11481); Table 2 of MetaKAN, ICML 2025, with pykan's ranges.

    Example:
        >>> Feynman(equation="I.6.2").names
        ('sigma', 'theta')
    """

    dim: int | None = None
    equation: str = "I.12.5"
    collection: Literal["feynman", "paper"] = "feynman"
    noise: NonNegative = 0.0
    seed: int = 0

    def __post_init__(self):
        set_dim(self, len(self.of_table.ranges))

    @cached_property
    def of_table(self) -> Equation:
        return equation(self.equation, self.collection)

    @property
    def function(self) -> Formula:
        return self.of_table.formula

    @property
    def names(self) -> Sequence[str]:
        return self.function.names

    @property
    def title(self) -> str:
        return f"{self.equation}: {self.of_table.output} = {self.function.text}"

    @cached_property
    def domain(self) -> Sample:
        return Sample(self.function, self.of_table.ranges, self.noise, self.seed)


HIGH_DIM_FUNCTIONS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "f1": ("exp(mean_i sin(pi x_i / 2)^2)", lambda x: (pi / 2 * x).sin().square().mean(-1).exp()),
    "f2": ("sum_i (x_i^2 + x_i^3)", lambda x: (x**2 + x**3).sum(-1)),
    "f3": ("exp(-mean_i x_i^2)", lambda x: (-x.square().mean(-1)).exp()),
}


@dataclass(frozen=True)
class HighDimFunction(Fitting):
    """f1, f2 or f3 of the MetaKAN paper in any number of variables, x uniform in [-1, 1]^d.

    Args:
        dim: d.
        formula: f1 = exp(mean_i sin(pi x_i / 2)^2), f2 = sum_i (x_i^2 + x_i^3), f3 = exp(-mean_i x_i^2).
        noise, seed: as in `Function`.
    Source: MetaKAN, ICML 2025, C.1.

    Example:
        >>> HighDimFunction(dim=10, formula="f1").exact(torch.zeros(2, 10)).shape
        torch.Size([2])
    """

    dim: int
    formula: Literal["f1", "f2", "f3"] = "f1"
    noise: NonNegative = 0.0
    seed: int = 0

    @property
    def function(self) -> Callable[[Tensor], Tensor]:
        return HIGH_DIM_FUNCTIONS[self.formula][1]

    @property
    def names(self) -> Sequence[str]:
        return [f"x{i + 1}" for i in range(self.dim)]

    @property
    def title(self) -> str:
        return f"{self.formula} = {HIGH_DIM_FUNCTIONS[self.formula][0]}"

    @cached_property
    def domain(self) -> Sample:
        return Sample(self.function, ((-1.0, 1.0),) * self.dim, self.noise, self.seed)


def set_dim(problem: Fitting, dim: int) -> None:
    """The number of inputs of a problem that knows it itself."""
    if problem.dim not in (None, dim):
        raise ConfigError(f"problem.dim: given {problem.dim}, this function has {dim} inputs; leave dim out")
    set_once(problem, "dim", dim)


def set_once(problem: Fitting, name: str, value) -> None:
    """A field of a frozen dataclass, from __post_init__."""
    object.__setattr__(problem, name, value)
