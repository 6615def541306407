"""The configuration of a run: every key, typed and validated; unknown keys are errors."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, is_dataclass
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PrivateAttr,
)

MEMORY = r"(\d+(?:\.\d+)?) *([MG]i?B)"  # such as 8GB, 500 MB, 1.5GiB


def as_mapping(value):
    """A bare name stands for the mapping with that name."""
    return {"name": value} if isinstance(value, str) else value


def as_options(value):
    """Names, one or a list of them, stand for the mapping of each to its options, of which there are none."""
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return {name: {} for name in names}
    if isinstance(value, Mapping):
        return {name: {} if options is None else options for name, options in value.items()}
    return value


def plainly(value):
    """A dataclass as the mapping of its fields, without its defaults."""
    return asdict(value) if is_dataclass(value) else value


def _point_count(value):
    if value == {} or (isinstance(value, str) and not re.fullmatch(r"[1-9]\d*d", value)):
        raise ValueError("a number of points is an integer, a multiple of the dimension such as 100d, or {dim: number}")
    return value


def _memory(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(MEMORY, value.strip(), re.IGNORECASE):
        raise ValueError("an amount of memory is such as 8GB, 500MB or 1.5GiB")
    return value


Number = Annotated[int, Field(ge=0, strict=True)]
Count = Annotated[Number | str | dict[PositiveInt, PositiveInt], AfterValidator(_point_count)]


TestCount = Annotated[int, Field(ge=2)] | Annotated[dict[PositiveInt, Annotated[int, Field(ge=2)]], Field(min_length=1)]


class Strict(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")


class AdaptConfig(Strict):
    """Interior points drawn from `candidates` times as many, by residual: `kanpde.ground.samplers.resampled`."""

    candidates: Annotated[int, Field(ge=2)] = 10
    power: NonNegativeFloat = 1.0
    offset: NonNegativeFloat = 1.0


class PointsConfig(Strict):
    """How many points of each kind, and how they are drawn. A count may be 100d, or a table by dimension.

    test: a number, or a table.
    """

    interior: Count = 400
    boundary: Count = 0
    initial: Count = 0
    test: TestCount = 20_000
    validation: Annotated[int, Field(ge=2)] = 2_000
    law: str | None = None
    sequence: Literal["random", "sobol"] = "random"
    refresh: PositiveInt | Literal["fixed"] = 1
    adapt: AdaptConfig | None = None


class SparsityConfig(Strict):
    """A penalty that leaves few edges and nodes: see `kanpde.kan.sparsity`."""

    l1: NonNegativeFloat = 1e-3
    entropy: NonNegativeFloat = 1e-3


class LossConfig(Strict):
    """See `kanpde.training.losses.Loss`. A weight may be a table by dimension."""

    residual: Literal["square", "two_sample"] = "square"
    scale: Literal["2d", "none"] = "2d"
    weights: dict[str, NonNegativeFloat | Annotated[dict[PositiveInt, NonNegativeFloat], Field(min_length=1)]] = {}
    gradient: Literal["none", "exact", "almost_everywhere"] = "none"
    directions: PositiveInt | None = None
    sparsity: SparsityConfig | None = None
    balance: Annotated[dict[str, Any] | None, BeforeValidator(as_mapping)] = None
    emphasis: Annotated[dict[str, Any] | None, BeforeValidator(as_mapping)] = None


class PhaseConfig(Strict):
    """A number of steps with one optimiser. `lr` is one rate, or one per parameter group.

    update_grid: before the first step the grids move to what the layers see (free weights only).
    grid_size, degree, harmonics: before the first step the basis is refined to so many intervals of B-splines, to this
        degree of polynomials, to so many harmonics. At most one of them.
    points: from the first step on there are so many interior points, drawn anew.

    Example:
        >>> PhaseConfig(optimizer="lbfgs", steps=500).history
        50
    """

    optimizer: str = "adam"
    steps: PositiveInt
    lr: NonNegativeFloat | dict[Literal["prompts", "meta", "rest", "problem"], NonNegativeFloat] = 1e-3
    schedule: Literal["constant", "linear", "cosine", "exponential", "one_cycle"] = "constant"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 0.0
    history: PositiveInt = 50
    update_grid: bool = False
    grid_size: PositiveInt | None = None
    degree: PositiveInt | None = None
    harmonics: PositiveInt | None = None
    points: PositiveInt | None = None
    options: dict[str, Any] = {}

    @property
    def refines(self) -> dict[str, int]:
        """The resolution to which it refines the basis, by its name; empty: to none."""
        given = {name: getattr(self, name) for name in ("grid_size", "degree", "harmonics")}
        return {name: value for name, value in given.items() if value is not None}


class EvaluationConfig(Strict):
    """Every `every` steps errors and validation loss are measured, on at most `points` points until the last time.

    best_from: the step from which the weights of the least validation loss are kept; before, the latest are.
    """

    every: PositiveInt = 100
    points: PositiveInt = 20_000
    best_from: Annotated[int, Field(ge=0)] = 0


class StopConfig(Strict):
    """Stop at an error, a loss or a time.

    to: the relative l2 error, as it is estimated without a solution, is below with a confidence of 95 %.
    loss: the validation loss is below.
    seconds: the clock has run out.
    patience: after so many evaluations without a smaller validation loss.
    """

    to: PositiveFloat | None = None
    loss: PositiveFloat | None = None
    seconds: PositiveFloat | None = None
    patience: PositiveInt | None = None


class SlicesConfig(Strict):
    """The plane of the pictures: random (orthonormal, through the centre) or two coordinate axes; points per axis.

    Example:
        >>> SlicesConfig(plane=(0, 1)).points
        101
    """

    plane: Literal["random"] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = "random"
    points: Annotated[int, Field(ge=2)] = 101
    volume: Annotated[int, Field(ge=0)] = 41


class ReferenceConfig(Strict):
    """The solution as a file holds it, against which errors are reported: `kanpde.Reference`.

    Example:
        >>> ReferenceConfig(file="rod.mat", fields={"u": "usol"}).axes is None
        True
    """

    file: str
    fields: dict[str, str] | None = None
    coordinates: dict[str, float | str] | None = None
    axes: list[str | list[str]] | None = None
    sample: Annotated[int, Field(ge=0)] | None = None
    units: dict[str, float] = {}
    shift: dict[str, float] = {}


class RunConfig(Strict):
    """Everything that decides a run.

    log: where the history goes besides the result file, which decides nothing: `kanpde.loggers`.
    frequencies: of coordinates the f of which the network sees cos(2 pi f x) and sin(2 pi f x) beside x.
    fluxes: whether conditions on slopes are built in where they can be, or are terms of the loss; None: the former.
    networks: the fields of a system are outputs of one network, or each has its own.
    stages: backbone and start of the networks that this one is to correct, by `kanpde.runs.corrected`.
    slabs: of time, trained one after the other: a number of equal ones, or the times where one ends and another begins.
    shard: what the processes of torchrun share out: the points of a step, or the inputs of each point.

    Example:
        >>> phases = [{"optimizer": "soap", "steps": 100}]
        >>> RunConfig(problem={"name": "poisson"}, backbone={"name": "kan"}, phases=phases).constraint
        'hard'
    """

    problem: dict[str, Any]
    backbone: dict[str, Any]
    operator: dict[str, Any] = {"name": "forward"}
    networks: Literal["shared", "separate"] = "shared"
    constraint: Literal["hard", "soft"] = "hard"
    fluxes: Literal["exactly", "loss"] | None = None
    frequencies: dict[str, Annotated[list[PositiveFloat], Field(min_length=1)]] = {}
    points: PointsConfig = PointsConfig()
    loss: LossConfig = LossConfig()
    phases: Annotated[list[PhaseConfig], Field(min_length=1)]
    evaluation: EvaluationConfig = EvaluationConfig()
    stop: StopConfig = StopConfig()
    slices: SlicesConfig = SlicesConfig()
    start: Literal["network", "constant", "affine", "additive", "quadratic", "ladder"] = "network"
    start_from: str | None = None
    stages: list[dict[str, Any]] = []
    slabs: Annotated[int, Field(ge=2, strict=True)] | Annotated[list[PositiveFloat], Field(min_length=1)] | None = None
    units: Literal["frame", "given"] | None = None
    average: Annotated[float, Field(ge=0, lt=1)] | None = None
    verify: bool = True
    log: Annotated[dict[str, dict[str, Any]], BeforeValidator(as_options)] = {}
    reference: Annotated[ReferenceConfig | None, BeforeValidator(plainly)] = None
    points_of_interest: dict[str, Any] | None = None
    shard: Literal["points", "inputs"] = "points"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    compile: Literal["auto", True, False] = "auto"
    max_memory: Annotated[str | None, AfterValidator(_memory)] = None
    _solver: Mapping | None = PrivateAttr({})  # what is the solver's and not the user's; None: of a run, nobody's
    _under: Callable[..., "RunConfig"] | None = PrivateAttr(None)  # the same under another solver; None: it has its own

    def model_copy(self, *, update: Mapping | None = None, deep: bool = False) -> "RunConfig":
        changed = super().model_copy(update=update, deep=deep)
        if update and self._under is not None:
            changed._under = partial(_under, self._under, update)
        return changed

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    @property
    def parts(self) -> int:
        """The number of slabs of time, which share the steps; 1 of a run for all times."""
        return 1 if self.slabs is None else self.slabs if isinstance(self.slabs, int) else len(self.slabs) + 1


def _under(same: Callable[..., RunConfig], update: Mapping, solver: str) -> RunConfig:
    return same(solver).model_copy(update=update)


def resolve(count: float | str | dict[int, float], dim: int) -> float:
    """A number at a dimension: 100d is 100 times it; a table gives the entry of the next larger key, or of the last."""
    if isinstance(count, str):
        return int(count[:-1]) * dim
    if isinstance(count, dict):
        return count[min((k for k in count if k >= dim), default=max(count))]
    return count
