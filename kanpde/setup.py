"""From a configuration to the objects of a run: problem, backbone, operator, loss, and the path of its result."""

import dataclasses
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import yaml
from torch import nn

from kanpde import backbones, start
from kanpde.config import (
    NAMED,
    ConfigError,
    RunConfig,
    as_mapping,
    assign,
    default_solver,
    find,
    locate,
    merge,
    read_yaml,
    resolve,
    validate,
)
from kanpde.construct import call, class_from_source, construct, load_class
from kanpde.jet import Affine
from kanpde.kan.basis.polynomial import Polynomial
from kanpde.kan.layers import KANLinear
from kanpde.losses import Loss
from kanpde.operators import OPERATORS, Forward
from kanpde.optimisers import for_sparsity
from kanpde.problems import PROBLEMS
from kanpde.problems.fitting import Fitting, Units
from kanpde.record import Run
from kanpde.samplers import stream
from kanpde.weighting import BALANCES, EMPHASES

EXACT = ("forward", "autograd")  # operators without an estimate
COMPILE_FROM = 3000  # steps from which the seconds that compiling takes come back
WHOLE_UP_TO = 10_000  # inputs of a network whose gradient of the residual is compiled; those of more are streamed
PYTHON = "python."  # before the class name of a problem or network that no YAML can name


def problem(config: RunConfig, stored: str | None = None, trust: bool = True):
    """The problem by name, or the class of a user's file; `stored` is the source kept in a result file."""
    spec = dict(config.problem)
    name = str(spec.pop("name"))
    file, colon, cls = name.rpartition(":")
    if isinstance(spec.get("dim"), int) and spec["dim"] < 1:
        raise ConfigError(f"problem.dim: given {spec['dim']}, dim must be at least 1")
    if not colon and name.startswith(PYTHON):
        raise ConfigError(f"the run's problem {name.removeprefix(PYTHON)} was made in Python: pass problem=")
    if not colon:
        return construct("problem", PROBLEMS, config.problem)
    if stored is None:
        return call(f"problem {cls}", load_class(name), spec)
    if not trust:
        raise ConfigError(f"the run's problem is code of {Path(file).name}: load_model(trust=True) executes it")
    return call(f"problem {cls}", class_from_source(stored, cls, file), spec)


def source_of(config: RunConfig) -> str | None:
    """The text of a user's problem file."""
    file, colon, _ = str(config.problem["name"]).rpartition(":")
    return Path(file).read_text(encoding="utf-8") if colon and Path(file).is_file() else None


def short_name(config: RunConfig, problem) -> str:
    name = str(config.problem["name"])
    return type(problem).__name__ if ":" in name or name.startswith(PYTHON) else name


def network(config: RunConfig, problem, net: nn.Module | None = None, trained: bool = False) -> nn.Module:
    """The network of a run: `net`, or the backbone of the configuration; of a PDE c + s net where `start` is constant.

    One that ends with such a map stays as it is. `trained`: a checkpoint will be loaded, so c and s, and the data, are
    not needed.
    """
    net = backbone(config, problem, trained) if net is None else net
    layers = list(net) if type(net) is nn.Sequential else [net]
    if config.start == "network" or isinstance(problem, Fitting) or isinstance(layers[-1], Affine):
        return net
    drawn = stream(config.seed, "start")
    return nn.Sequential(*layers, start.affine() if trained else start.units(problem, config.points.law, drawn))


def backbone(config: RunConfig, problem, trained: bool = False) -> nn.Module:
    """The network of the configuration; `grid_range: auto` fits the grid of the inputs to the domain and the law.

    A network that fits data sees inputs in [-1, 1] and outputs of deviation 1: it begins and ends with a fixed map.
    `trained`: a checkpoint will be loaded, so the numbers of these maps, and the data, are not needed.
    """
    options, fits = dict(config.backbone), isinstance(problem, Fitting)
    if options["name"].startswith(PYTHON):
        raise ConfigError(f"the run's network {options['name'].removeprefix(PYTHON)} was made in Python: pass net=")
    if options.get("grid_range") == "auto":
        options["grid_range"] = (-1.0, 1.0) if fits else problem.domain.input_range(config.points.law)
    generator = stream(config.seed, "init")
    net = construct(
        "backbone", backbones.BACKBONES, options, problem.dim if fits else problem.domain.dim, 1, generator=generator
    )
    if fits:
        units = Units.unknown(problem.dim) if trained else problem.units
        return nn.Sequential(units.scaling_inputs(), *net, units.scaling_output())
    for layer in net.modules():
        if isinstance(layer, KANLinear) and layer.basis.smoothness < 2:
            raise ConfigError(
                f"backbone.spline_order: given {options['spline_order']}, second derivatives need at least 3"
            )
    return net


def operator(config: RunConfig, problem):
    """The operator; what samples more dimensions than there are is refused here, not in the first step."""
    options = {"compile": True} if config.compile is True and config.operator["name"] == "forward" else {}
    made = construct("operator", OPERATORS, {**options, **config.operator})
    if getattr(made, "dims", 0) > problem.domain.dim:
        raise ConfigError(f"operator sdgd: dims: given {made.dims}, the problem has {problem.domain.dim} inputs")
    return made


def loss(config: RunConfig) -> Loss:
    """The loss; what its operator cannot give is refused here."""
    if config.loss.residual == "two_sample" and config.operator["name"] in EXACT:
        raise ConfigError(f"loss.residual: two_sample is for stochastic operators; {config.operator['name']} is exact")
    gradient, exact = config.loss.gradient, config.operator["name"] in EXACT
    if gradient != "none" and (not exact or config.loss.residual == "two_sample"):
        raise ConfigError(
            f"loss.gradient: given {gradient}, but {config.operator['name']} is no exact operator: set it to none"
        )
    if config.loss.directions and gradient == "none":
        raise ConfigError("loss.directions: they are of loss.gradient, which is none")
    return Loss(**config.loss.model_dump(exclude={"balance", "emphasis"}))


def balance(config: RunConfig):
    """What weighs the terms of the loss as it goes; None: nothing but the weights given."""
    return None if config.loss.balance is None else construct("loss.balance", BALANCES, config.loss.balance)


def emphasis(config: RunConfig, problem):
    """What weighs the interior points; None: all the same."""
    spec = config.loss.emphasis
    if config.loss.residual == "two_sample" and (spec or config.points.adapt):
        raise ConfigError("loss.emphasis, points.adapt: they read one residual per point, two_sample has two")
    if spec is None:
        return None
    if spec.get("name") == "causal":
        if not hasattr(problem.domain, "time"):
            raise ConfigError("loss.emphasis: causal is for problems with time")
        return construct("loss.emphasis", EMPHASES, spec, time=problem.domain.time, dim_time=-1)
    made = construct("loss.emphasis", EMPHASES, spec)
    if config.points.refresh == 1:
        raise ConfigError("loss.emphasis: rba weighs points that stay; points.refresh is fixed or more than 1 with it")
    return made


def counts(config: RunConfig, problem) -> dict[str, int]:
    """Points a step by kind: the kinds that the constraint and the domain leave a term for."""
    kinds = ["interior"]
    if config.constraint == "soft":
        kinds += [kind for kind in ("boundary", "initial") if hasattr(problem.domain, kind)]
    return {kind: resolve(getattr(config.points, kind), problem.dim) for kind in kinds}


def resolved(config: RunConfig, problem) -> RunConfig:
    """The configuration with defaults that depend on the problem filled in: law, point counts, backbone options.

    Raises:
        ConfigError: the domain does not know the law.
    """
    laws, points = problem.domain.laws, config.points
    law = points.law or laws[0]
    if law not in laws:
        raise ConfigError(
            f"points.law: given {law!r}, the domain {type(problem.domain).__name__} has {', '.join(laws)}"
        )
    numbers = {kind: resolve(getattr(points, kind), problem.dim) for kind in ("interior", "boundary", "initial")}
    for kind, rows in getattr(problem.domain, "counts", {}).items():  # of a table, no more than there are
        numbers[kind] = min(numbers.get(kind, getattr(points, kind)), rows)
    backbone = {**backbones.defaults(config.backbone["name"]), **config.backbone}
    weights = {name: resolve(weight, problem.dim) for name, weight in config.loss.weights.items()}
    changes = {"points": points.model_copy(update={"law": law, **numbers}), "backbone": backbone}
    changes["loss"] = config.loss.model_copy(update={"weights": weights})
    changes["problem"] = {**config.problem, **problem.settings()}
    if config.loss.sparsity is not None:
        changes["phases"] = [for_sparsity(phase) for phase in config.phases]
    return config.model_copy(update={**changes, "compile": _compile(config, problem.domain.dim)})


def _compile(config: RunConfig, inputs: int) -> bool:
    """Whether to compile: auto does where it pays and works. torch does not compile a second backward pass."""
    if any(phase.optimizer == "gauss_newton" for phase in config.phases):
        if True in (config.compile, config.operator.get("compile")):
            raise ConfigError("compile: steps of gauss_newton are not compiled; given true")
        return False
    if config.operator["name"] != "forward":
        if config.compile is True:
            raise ConfigError(f"compile: only the operator forward compiles, given {config.operator['name']}")
        return False
    if config.compile != "auto":
        return config.compile
    too_much = config.loss.gradient != "none" and (inputs > WHOLE_UP_TO or _recursive(config.backbone["name"]))
    return config.steps >= COMPILE_FROM and not too_much and compiles(config.device)


def _recursive(backbone: str) -> bool:
    """Whether its functions come from a recurrence: written out, its derivatives take minutes to compile."""
    family = backbones.FAMILIES.get(backbone.removeprefix("meta"))
    return family is not None and issubclass(family[0], Polynomial)


@cache
def compiles(device: str) -> bool:
    """Whether torch.compile works here: it needs a new enough torch, on a CPU a C++ compiler, on a GPU Triton."""
    try:
        Forward(compile=True)  # an old torch is refused
        return torch.compile(lambda t: t + 1)(torch.zeros(1, device=device)).item() == 1
    except Exception:  # whatever is missing, it does not
        return False


# ---------------------------------------------------------------------------------------------------------------
# Configurations of problems made in Python, and of result files


def config_for(problem, overrides: dict) -> RunConfig:
    """The configuration of a problem object: the named solver (default: fit, or that of the dimension) with changes."""
    overrides = dict(overrides)
    steps = overrides.pop("steps", None)
    default = "fit" if isinstance(problem, Fitting) else default_solver(problem.dim)
    solver = read_yaml(find("solvers", str(overrides.pop("solver", default))))
    shipped = {cls: name for name, cls in PROBLEMS.items()}
    named = {"name": shipped.get(type(problem), PYTHON + type(problem).__qualname__), **_plain_fields(problem)}
    return resolved(validate(merge({**solver, "problem": named}, overrides), steps), problem)


def _plain_fields(problem) -> dict:
    fields = dataclasses.fields(problem) if dataclasses.is_dataclass(problem) else ()
    values = {f.name: getattr(problem, f.name) for f in fields}
    return {k: v for k, v in values.items() if isinstance(v, (int, float, str, bool, type(None)))}


def dump(config: RunConfig) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100)


def config_of(run: Run) -> RunConfig:
    return validate(run.config)


def extended(config: RunConfig, steps: int | None) -> RunConfig:
    """More steps lengthen the last phase; its schedule spans the new length."""
    if steps is None or steps == config.steps:
        return config
    if steps < config.steps:
        raise ConfigError(f"--steps: given {steps}, the run has {config.steps}; resuming can only extend it")
    *phases, last = config.phases
    last = last.model_copy(update={"steps": last.steps + steps - config.steps})
    return config.model_copy(update={"phases": [*phases, last]})


def reserve(out: str | Path | None, config: RunConfig) -> Path:
    """Where the result goes: the file asked for, which must not exist, or a new one under runs/.

    An empty checkpoint holds the name until the first evaluation, so that two runs never share one.

    Raises:
        ConfigError: the file exists, or its folder cannot be written.
    """
    path = Path(out) if out is not None else Path("runs") / f"{_stem(config)}.h5"
    check_out(out)
    _make_folder(path.parent)
    again = 1
    while True:
        try:
            if path.exists():
                raise FileExistsError
            path.with_suffix(".pt").touch(exist_ok=False)
            return path
        except FileExistsError:
            if out is not None:
                check_out(out)
                raise ConfigError(f"--out {out}: another run has just taken this name") from None
            again += 1
            path = path.with_name(f"{_stem(config)}-{again}.h5")
        except OSError as error:
            raise ConfigError(f"{path.parent}: the folder cannot be written ({error.strerror})") from None


def release(run: Run) -> None:
    """Give up a name under which no result was written."""
    if not run.path.exists():
        run.checkpoint.unlink(missing_ok=True)


def _stem(config: RunConfig) -> str:
    given = config.problem
    name = str(given["name"]).rpartition(":")[2].removeprefix(PYTHON)
    which = given.get("equation") or (Path(given["file"]).stem if "file" in given else f"{given.get('dim', '')}d")
    backbone = config.backbone["name"].removeprefix(PYTHON)
    return f"{name}-{which}-{backbone}-seed{config.seed}"


def check_out(out: str | Path | None) -> None:
    """Raises ConfigError where --out is no new .h5 file."""
    if out is None:
        return
    path = Path(out)
    if path.is_dir():
        raise ConfigError(f"--out {out}: a folder; needed is the path of a file ending in .h5")
    if path.suffix != ".h5":
        raise ConfigError(f"--out {out}: needed is a file ending in .h5")
    for taken in (path, path.with_suffix(".pt")):
        if taken.exists():
            raise ConfigError(f"--out {out}: {taken} exists; choose another name, or --resume {path}")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: the folder cannot be made ({error.strerror})") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder}: the folder cannot be written")


def agreeing(
    run: Run, problem_file: str | None, solver: str | None, flags: dict, sets: Sequence[str], steps: int | None
) -> RunConfig:
    """The configuration of a run to resume, extended to `steps`; whatever else is given must be what the run has.

    Raises:
        ConfigError: something given differs; the message names it.
    """
    stored = config_of(run)
    given: dict = {}
    if solver is not None:
        given = merge(given, read_yaml(find("solvers", solver)))
    if problem_file is not None:
        given = merge(given, _agreeing_problem(find("problems", problem_file)))
    tree = merge(stored.model_dump(mode="json"), merge(given, flags))
    for assignment in sets:
        assign(tree, assignment)
    wanted = validate(tree)
    if source_of(stored) not in (None, run.attrs.get("problem_source")):
        raise ConfigError(f"--resume: {stored.problem['name']} has changed since the run; restore it, or start anew")
    made = problem(wanted)
    check_rows(run, made)
    check_same(resolved(wanted, made), stored, "--resume")
    return extended(stored, steps)


def check_same(wanted: RunConfig, stored: RunConfig, label: str, steps: bool = False) -> None:
    """Raises ConfigError where two resolved configurations differ, be it in their steps if `steps`."""
    ours, theirs = (_leaves(c.model_dump(mode="json")) for c in (wanted, stored))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key) and (steps or not key.endswith(".steps")):
            raise ConfigError(f"{label}: {key}: given {ours.get(key)!r}, the run has {theirs.get(key)!r}")


def rows_sha256(problem) -> str | None:
    """The fingerprint of the table that a problem fits."""
    return getattr(problem.domain, "sha256", None)


def check_rows(run: Run, problem) -> None:
    """Raises ConfigError where the table of a fit is no longer the one that the run was trained on."""
    rows = rows_sha256(problem)
    if run.attrs.get("rows_sha256", rows) != rows:
        raise ConfigError(f"--resume: {run.path} was trained on other rows; restore the table it fits, or start anew")


def _agreeing_problem(path: Path) -> dict:
    """A problem's file, less its dimension, which --dim sets as a rule, and its solver, which the run has."""
    tree = {key: as_mapping(value) if key in NAMED else value for key, value in read_yaml(path).items()}
    tree.pop("solver", None)
    if "problem" in tree:
        located = locate(tree["problem"], path.parent)
        tree["problem"] = {key: value for key, value in located.items() if key != "dim"}
    return tree


def _leaves(tree, prefix: str = "") -> dict:
    if isinstance(tree, dict) and tree:
        items = tree.items()
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        items = enumerate(tree)
    else:
        return {prefix: tree}
    out: dict = {}
    for key, value in items:
        out |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return out
