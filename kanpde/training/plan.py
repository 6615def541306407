"""The plan of a run: a value made once and checked once, from a configuration, that everything after it reads."""

import os
import shutil
import sysconfig
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from kanpde import backbones
from kanpde.config import (
    AUTO,
    HIGH_DIM,
    ReferenceConfig,
    RunConfig,
    beside,
    default_solver,
    find,
    located,
    merge,
    resolve,
    unstated,
    validate,
)
from kanpde.config.reading import read_yaml
from kanpde.config.trees import validate_part
from kanpde.domains.base import kinds_of, laws_of, time_of
from kanpde.ground.construct import construct, plain_fields
from kanpde.ground.errors import ConfigError, suggest
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.quadratic import Quadratic
from kanpde.jets.slices import WHOLE
from kanpde.jets.system import Stages
from kanpde.kan.basis.base import Basis
from kanpde.kan.network import count_parameters
from kanpde.operators import OPERATORS, Forward, Operator
from kanpde.optim.optimisers import OPTIMISERS, for_sparsity
from kanpde.problems import PROBLEMS, Problem, slabs
from kanpde.problems.base import leaving_fluxes, own
from kanpde.problems.conditions import Observations, Periodic
from kanpde.problems.frames import Frame, check_domain
from kanpde.problems.interest import Interest, points_of_interest
from kanpde.problems.references import Reference
from kanpde.records.run import RunFile, RunFileError
from kanpde.training import checks, ladder, networks, shards
from kanpde.training.choice import Choice, choice
from kanpde.training.known import Known
from kanpde.training.losses import Loss
from kanpde.training.weighting import BALANCES, EMPHASES, Balance, Emphasis
from kanpde.users.code import blaming, check_call
from kanpde.users.members import PYTHON, enter, problem_of

KINDS = ("interior", "boundary", "initial")
LEAST = 16  # points of a condition
BALANCED = {"name": "gradnorm"}  # the least errors of four problems of nine in benchmarks/results/conditions.md
COMPILE_FROM = 3000  # steps from which the seconds that compiling takes come back
WHOLE_UP_TO = 10_000  # inputs of a network whose gradient of the residual is compiled; those of more are streamed


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a run is made of.

    Attributes:
        config: complete, with the defaults that depend on the problem.
        problem: the run's own, whose unknowns it trains.
        net: the run's own, in the units of the domain; of an untrained one the weights are drawn by config.seed.
        frame: the units of length and time of the run; None where x is in them, or is taken as it is.
        operator, loss: what makes jets, and what is made of them.
        balance: what weighs the terms of the loss as it goes; None: nothing but the weights given.
        emphasis: what weighs the interior points; None: all the same.
        met: names of the conditions that u meets whatever the network is; the others are terms.
        counts: points a step by kind: interior, as long as no phase has others, and those that constraint and domain
            leave a term for.
        stored: whether it is that of a run that there is.
        blind: whether the solution is read nowhere, known or not: what is chosen by such a run knows nothing of it.
        choice: the solver that `auto` has found; None: one is named.
        whole, begins: of a slab of time the plan of the run, and when the slab begins; None: it is that of the run.
    """

    config: RunConfig
    problem: Problem
    net: nn.Module
    frame: Frame | None
    operator: Operator
    loss: Loss
    balance: Balance | None
    emphasis: Emphasis | None
    met: frozenset[str]
    counts: dict[str, int]
    stored: bool = False
    blind: bool = False
    choice: Choice | None = None
    whole: "Plan | None" = None
    begins: float = 0.0

    @classmethod
    def of(
        cls,
        config: RunConfig,
        problem: Problem | None = None,
        net: nn.Module | None = None,
        *,
        stored: bool = False,
        blind: bool = False,
    ) -> "Plan":
        """The plan of a configuration, on these very objects where they are given.

        Args:
            problem, net: None: those of the configuration.
            stored: the configuration is that of a result: complete, and checked when that run was made. A checkpoint
                will be loaded, so what only an untrained network needs, and the rows of a fit, are not looked at.
            blind: see the attribute.
        Raises:
            ConfigError: in one line, what can be known to fail before the first step.
        """
        problem, found = own(problem_of(config.problem)) if problem is None else problem, None
        with blaming(problem, ConfigError):
            problem = shards.on_slice(config, problem, net)
            if not stored:
                enter(config)
                config, found = _chosen(config, problem, net)
            if config.slabs is not None:
                checks.check_slabs(config, net)
                problem = slabs.continued(problem)
            problem = of_fluxes(config, problem, net)
            if config.frequencies:
                checks.check_frequencies(config, problem, net)
            if not stored:
                config = resolved(config, problem, net)
                shards.check(config)
            operator, met = _operator(config, problem), _met(config, problem, net)
            parts = _measures(config, problem, operator)
            plan = cls(
                config=config,
                problem=problem,
                net=networks.network(config, problem, parts["frame"], parts["loss"], net, stored),
                operator=operator,
                met=met,
                counts=_counts(config, problem, met),
                stored=stored,
                blind=blind,
                choice=found,
                **parts,
            )
            if not stored:
                checks.check(plan)
        return plan

    def slab(self, number: int, former: Ansatz | None = None) -> "Plan":
        """The plan of a slab of time, whose network is that of the whole; its steps are its part of those of the run.

        former: u of the slab before, in the time of that.
        """
        start, end = self.net.starts[number], self.net.ends[number]
        config = networks.of_slab(self.config, number)
        problem = slabs.in_slab(self.problem, start, end, former)
        parts = _measures(config, problem, self.operator) | {"whole": self, "begins": start}
        return replace(self, config=config, problem=problem, net=self.net.nets[number], **parts)

    @property
    def hard(self) -> bool:
        """Whether the boundary values are built into u."""
        return self.config.constraint == "hard"

    @property
    def sliced(self) -> bool:
        """Whether each process has some of the inputs of every point."""
        return self.problem.input_slice is not WHOLE

    @property
    def parameters(self) -> int:
        """Numbers that the network has, in all processes."""
        return shards.count_parameters(self.net) if self.sliced else count_parameters(self.net)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.config.dtype)

    @property
    def device(self) -> torch.device:
        return torch.device(self.config.device)

    @property
    def of_phases(self) -> list[int]:
        """The interior points of a step, those that phases ask for among them."""
        return [self.counts["interior"], *(phase.points for phase in self.config.phases if phase.points is not None)]

    @property
    def most(self) -> dict[str, int]:
        """The most points of a step by kind."""
        return self.counts | {"interior": max(self.of_phases)}

    @property
    def conditions(self) -> str:
        """exactly: initial, dirichlet; by the loss: neumann, balanced by gradnorm."""
        left, balance = [name for name in self.problem.asked if name not in self.met], self.config.loss.balance
        exactly = f"exactly: {', '.join(name for name in self.problem.asked if name in self.met)}" if self.met else ""
        by_loss = f"by the loss: {', '.join(left)}" + (f", balanced by {balance['name']}" if balance else "")
        return "; ".join(part for part in (exactly, by_loss if left else "") if part)

    @cached_property
    def known(self) -> Known | None:
        """The reference at the points of its errors; None: there is none, or it is gone since the run was begun."""
        if self.config.reference is None or self.blind:
            return None
        if self.whole is not None:
            known, time = self.whole.known, time_of(self.problem.domain)
            return None if known is None else known.since(self.begins, time)
        reference = Reference(**self.config.reference.model_dump())
        if self.stored and not os.path.isfile(reference.file):
            warnings.warn(f"reference {reference.file}: it is gone, so errors are not known from here on", stacklevel=2)
            return None
        return Known.of(reference, self.problem, self.config.points.test, self.config.seed)

    @property
    def knows(self) -> bool:
        """Whether errors are known: against the reference, where there is one, or else an exact solution."""
        if self.config.reference is None:
            return self.problem.has_exact and not self.blind
        return self.known is not None

    @property
    def interest(self) -> list[Interest]:
        """The points of interest."""
        return points_of_interest(self.problem, self.config.points_of_interest)

    def ansatz(self, device: torch.device | str | None = None) -> Ansatz:
        """u of the run, which trains the network and the unknowns of the plan; a start in closed form is not yet there.

        device: None: that of the run.
        """
        return Ansatz(self.problem, self.net, self.hard, self.start()).to(device or self.device, self.dtype)

    @property
    def former(self) -> nn.Module | None:
        """The networks of earlier stages, which are not trained; None: there are none."""
        return Stages(self.net.nets[:-1]) if isinstance(self.net, Stages) else None

    def start(self) -> Quadratic | None:
        """A start in closed form that is zero, in the units of the domain; None: the run has no such start."""
        if self.config.start not in ladder.STARTS:
            return None
        units = (self.frame.centre, self.frame.lengths) if self.frame else (None, None)
        return Quadratic(self.problem.n_inputs, *units, self.problem.input_slice)


# ---------------------------------------------------------------------------------------------------------------
# The objects of a configuration


def of_fluxes(config: RunConfig, problem: Problem, net: nn.Module | None) -> Problem:
    """The problem, whose fluxes are left to the loss where the configuration says so, or u has a given network.

    Raises:
        ConfigError: they are to be met exactly by what cannot.
    """
    if config.fluxes == "exactly" and (net is not None or config.constraint == "soft"):
        why = (
            "constraint: soft leaves all to the loss" if net is None else "a network made in Python has its own inputs"
        )
        raise ConfigError(f"fluxes: given exactly, but {why}; say fluxes: loss")
    by_loss = config.fluxes == "loss" or net is not None
    hard = bool(problem.conditions) and config.constraint == "hard"
    return leaving_fluxes(problem) if hard and by_loss and problem.exactly.fluxes else problem


def _met(config: RunConfig, problem: Problem, net: nn.Module | None) -> frozenset[str]:
    """The conditions that u meets whatever the network is, which is periodic where it is made for it."""
    if not problem.conditions or config.constraint == "soft":
        return frozenset()
    periodic = {name for name, condition in problem.asked.items() if isinstance(condition, Periodic)}
    return problem.exactly.met - (periodic if net is not None else frozenset())


def _operator(config: RunConfig, problem: Problem) -> Operator:
    """The operator; what does not fit the problem is refused here, not in the first step."""
    name = config.operator["name"]
    compiling = config.compile is True and name in OPERATORS and OPERATORS[name].compiles
    made = construct("operator", OPERATORS, ({"compile": True} if compiling else {}) | config.operator)
    try:
        made.check(problem.n_inputs)
        for of in problem.reads.sums:
            made.check_sum(of)
    except ValueError as error:
        raise ConfigError(f"operator {name}: {error}") from None
    return made


def _loss(config: RunConfig, problem: Problem, operator: Operator, frame: Frame | None) -> Loss:
    """The loss in the units of the run; what its operator cannot give is refused here."""
    name, gradient = config.operator["name"], config.loss.gradient
    if config.loss.residual == "two_sample" and operator.exact:
        raise ConfigError(f"loss.residual: two_sample is for stochastic operators; {name} is exact")
    if gradient != "none" and not operator.exact:
        raise ConfigError(f"loss.gradient: given {gradient}, but {name} is no exact operator: set it to none")
    if config.loss.directions and gradient == "none":
        raise ConfigError("loss.directions: they are of loss.gradient, which is none")
    stated = config.loss.model_dump(exclude={"balance", "emphasis"})
    if (weighs := problem.weighs_points) and config.points.adapt:
        raise ConfigError("points.adapt: the points of this problem have weights, which are those of its own law")
    return Loss(**stated, frame=frame, equations=problem.reading.equations, weighs=weighs, inputs=problem.input_slice)


def _measures(config: RunConfig, problem: Problem, operator: Operator) -> dict:
    """Frame, loss, balance and emphasis, as a plan has them."""
    frame = networks.frame_of(config, problem)
    return {
        "frame": frame,
        "loss": _loss(config, problem, operator, frame),
        "balance": construct("loss.balance", BALANCES, config.loss.balance) if config.loss.balance else None,
        "emphasis": _emphasis(config, problem),
    }


def _emphasis(config: RunConfig, problem: Problem) -> Emphasis | None:
    spec = config.loss.emphasis
    if config.loss.residual == "two_sample" and (spec or config.points.adapt):
        raise ConfigError("loss.emphasis, points.adapt: they read one residual per point, two_sample has two")
    if spec is None:
        return None
    kind, time = EMPHASES.get(spec.get("name"), Emphasis), time_of(problem.domain)
    if kind.reads_time and time is None:
        raise ConfigError(f"loss.emphasis: {spec['name']} is for problems with time")
    made = construct("loss.emphasis", EMPHASES, spec, **({"time": time, "dim_time": -1} if kind.reads_time else {}))
    if made.knows_points and config.points.refresh == 1:
        raise ConfigError(
            f"loss.emphasis: {spec['name']} weighs points that stay; points.refresh is fixed or more than 1 with it"
        )
    return made


def _counts(config: RunConfig, problem: Problem, met: frozenset[str]) -> dict[str, int]:
    """The kinds and conditions that the constraint and the domain leave a term for."""
    numbers = {kind: resolve(getattr(config.points, kind), problem.dim) for kind in KINDS}
    if problem.conditions:
        n = numbers["boundary"] or max(LEAST, numbers["interior"] // 4)
        left = {name: c for name, c in problem.asked.items() if name not in met and c.by_points}
        rows = {name: c.count(problem) if isinstance(c, Observations) else n for name, c in left.items()}
        return {"interior": numbers["interior"], **rows}
    kinds = kinds_of(problem.domain) if config.constraint == "soft" and not problem.fits_rows else ("interior",)
    return {kind: numbers[kind] for kind in kinds}


# ---------------------------------------------------------------------------------------------------------------
# Defaults that depend on the problem


def configured(problem: Problem, overrides: Mapping) -> RunConfig:
    """The configuration of a problem object: the named solver, else that of the problem or dimension, with changes.

    Raises:
        ConfigError: something does not fit.
    """
    overrides = dict(overrides)
    steps = overrides.pop("steps", None)
    shipped = {cls: name for name, cls in PROBLEMS.items()}
    named = {"name": shipped.get(type(problem), PYTHON + type(problem).__qualname__), **plain_fields(problem)}
    default = problem.default_solver or default_solver(named.get("dim", problem.dim))
    solver, under = overrides.pop("solver", default), partial(_configured, named, overrides, steps)
    if solver != AUTO:
        return under(str(solver))
    config = under(default)
    config._under = under
    return config


def _configured(problem: Mapping, overrides: Mapping, steps: int | None, solver: str) -> RunConfig:
    below = read_yaml(find("solvers", solver))
    return validate(located(merge({**below, "problem": problem}, overrides), Path()), steps, unstated(below, overrides))


def _chosen(config: RunConfig, problem: Problem, net: nn.Module | None) -> tuple[RunConfig, Choice | None]:
    """The configuration under the solver that `auto` finds for the problem; one with a named solver as it is."""
    under = config._under
    if under is None:
        return config, None

    def size() -> int:
        if net is not None:
            return count_parameters(net)
        given = resolved(under("low_dim"), problem)
        frame = networks.frame_of(given, problem)
        each = len(problem.fields) if given.networks == "separate" else 1
        return each * count_parameters(networks.untrained(given, problem, frame, stream(0, "size"), stored=False))

    found = choice(problem, config, size)
    return under(found.solver), found


def resolved(config: RunConfig, problem: Problem, net: nn.Module | None = None) -> RunConfig:
    """The configuration with defaults that depend on the problem filled in: law, point counts, backbone options, units.

    Args:
        net: one that is given, which stays as it is.
    Raises:
        ConfigError: the domain does not know the law, or lacks a member.
    """
    check_call(problem)
    backbone = {**backbones.defaults(config.backbone["name"]), **config.backbone}
    check_domain(problem, config.constraint == "hard", backbone.get("grid_range"))
    laws, points = laws_of(problem.domain), config.points
    law = points.law or laws[0]
    if law not in laws:
        raise ConfigError(suggest(f"points.law of the domain {type(problem.domain).__name__}:", law, laws))
    for phase in config.phases:
        if phase.optimizer not in OPTIMISERS:
            raise ConfigError(suggest("phases: optimizer", phase.optimizer, list(OPTIMISERS)))
    numbers = {kind: resolve(getattr(points, kind), problem.dim) for kind in (*KINDS, "test")}
    for kind, rows in problem.row_counts.items():
        numbers[kind] = min(numbers.get(kind, getattr(points, kind)), rows)
    weights = {name: resolve(weight, problem.dim) for name, weight in config.loss.weights.items()}
    changes = {"points": points.model_copy(update={"law": law, **numbers}), "backbone": backbone}
    changes["loss"] = config.loss.model_copy(update={"weights": weights, "balance": _balance(config, problem)})
    changes["problem"] = {**config.problem, **problem.settings()}
    changes["reference"] = _reference(config, problem)
    changes["start"] = _start(config.model_copy(update=changes), problem, net)
    hard = bool(problem.conditions) and config.constraint == "hard"
    changes["fluxes"] = config.fluxes or ("exactly" if hard and problem.exactly.fluxes else None)
    changes["units"] = config.units or ("frame" if Frame.of(problem) or config.slabs is not None else None)
    if config.loss.sparsity is not None:
        changes["phases"] = [for_sparsity(phase) for phase in config.phases]
    changes["compile"] = _compile(config, problem)
    if problem.input_slice is not WHOLE and "verify" not in config.model_fields_set:
        changes["verify"] = False  # its walks read single coordinates
    return config.model_copy(update=changes)


def _reference(config: RunConfig, problem: Problem) -> ReferenceConfig | None:
    """That of the configuration, which may be none, else of the problem, whose file may lie beside its own."""
    if "reference" in config.model_fields_set:
        return config.reference
    stated = problem.reference
    if stated is None:
        return None
    if not isinstance(stated, Reference):
        hint = "kanpde.Reference('solution.mat')"
        raise ConfigError(f"{type(problem).__name__}.reference: given a {type(stated).__name__}, needed is {hint}")
    folder = Path(config.problem["name"].rpartition(":")[0]).parent
    tree = {**asdict(stated), "file": str(beside(folder, os.path.expanduser(stated.file)))}
    return validate_part("reference", ReferenceConfig, tree)


def _balance(config: RunConfig, problem: Problem) -> dict | None:
    """What weighs the terms: by default `BALANCED` where there are conditions among them, and a phase that it sees."""
    stated, first = config.loss.balance, OPTIMISERS[config.phases[0].optimizer]
    left = bool(problem.conditions) and problem.asked.keys() - _met(config, problem, None)
    if "balance" in config.loss.model_fields_set or not left or first.wants_system or first.keeps_points:
        return stated
    return dict(BALANCED)


def _start(config: RunConfig, problem: Problem, net: nn.Module | None) -> str:
    """The start that is stated; where that of a solver is not for the problem, in many dimensions the best constant.

    Raises:
        ConfigError: one of the user's is not for it.
    """
    if config.start not in ladder.STARTS:
        return config.start
    reason, hard = without_ladder(config, problem), config.constraint == "hard"
    if (config._solver or {}).get("start") != config.start:
        if reason is not None:
            raise ConfigError(f"start: {config.start} {reason}; say start: network")
        return config.start
    if config.start_from:
        return _former_start(config.start_from)
    if net is not None and problem.n_inputs < HIGH_DIM:
        return "network"
    unread = config.loss.gradient == "none"  # else a run is refused for what hides the gradient
    if reason is None and not (unread and checks.hides_gradient(problem, str(config.points.law), hard)):
        return config.start
    far = problem.n_inputs >= HIGH_DIM and len(problem.fields) == 1 and hard
    return "constant" if far else "network"  # from zero a constant takes longer than slopes, which are many


def _former_start(path: str) -> str:
    """The start of a run whose weights another begins with: its polynomial comes with them."""
    try:
        former = RunFile.open(path).config.get("start", "network")
    except RunFileError:  # which is said where the weights are read
        return "network"
    return former if former in ladder.STARTS else "network"


def without_ladder(config: RunConfig, problem: Problem) -> str | None:
    """Why a problem has no start in closed form; None: it has."""
    if problem.fits_rows:
        return "is for PDEs; a network that fits data has their mean and deviation"
    if len(problem.fields) > 1:
        return "is that of one field"
    if problem.parameters is not None or problem.terms:
        return "is for equations without unknowns or terms of their own"
    if config.start_from:
        return "has a start of its own, and start_from another"
    if config.slabs is not None:
        return "is that of all times, and slabs are of some"
    if whole := [name for name, condition in problem.asked.items() if not condition.by_points]:
        return f"needs conditions at points, and {whole[0]} has none"
    if any(isinstance(condition, Periodic) for condition in problem.asked.values()):
        return "is not periodic"
    if problem.conditions and config.constraint == "hard" and problem.exactly.flat:
        first = next(name for name, sides in problem.exactly.fluxes.items() if sides)
        return f"has slopes where {first} is met exactly"
    return None


def _compile(config: RunConfig, problem: Problem) -> bool:
    """Whether to compile: auto does where it pays and works. torch does not compile a second backward pass."""
    systems = [phase.optimizer for phase in config.phases if OPTIMISERS[phase.optimizer].wants_system]
    if systems:
        if True in (config.compile, config.operator.get("compile")):
            raise ConfigError(f"compile: steps of {systems[0]} are not compiled; given true")
        return False
    if not OPERATORS.get(config.operator["name"], Operator).compiles:
        if config.compile is True:
            can = ", ".join(name for name, kind in OPERATORS.items() if kind.compiles)
            raise ConfigError(f"compile: only the operator {can} compiles, given {config.operator['name']}")
        return False
    reads, several = problem.reads, len(problem.reading.equations) > 1 or len(problem.fields) > 1
    if (reads.named or several) and config.compile is True:
        what = "a system" if several else reads.names(problem.axes)[-1]
        raise ConfigError(f"compile: {what} is not compiled; given true")
    if problem.input_slice is not WHOLE and config.compile == "auto":
        return False
    if config.compile != "auto" or reads.named or several:
        return config.compile is True
    basis = getattr(backbones.BACKBONES.get(config.backbone["name"]), "basis", Basis)
    too_much = config.loss.gradient != "none" and (problem.domain.dim > WHOLE_UP_TO or basis.recursive)
    return config.steps // config.parts >= COMPILE_FROM and not too_much and compiles(config.device)


@cache
def compiles(device: str) -> bool:
    """Whether there is what torch.compile needs: a new enough torch, on a CPU a C++ compiler, on a GPU Triton.

    Steps that it fails for all the same run without it, `kanpde.training.objective`.
    """
    try:
        Forward(compile=True)  # an old torch is refused
    except ValueError:
        return False
    if device != "cpu":
        return find_spec("triton") is not None
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return headers and any(map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl")))
