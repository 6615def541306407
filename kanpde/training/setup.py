"""From a configuration to the objects of a run: problem, backbone, operator, loss, and the path of its result."""

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
import yaml
from torch import nn

from kanpde import backbones
from kanpde.config import RunConfig, assign, default_solver, find, locate, merge, resolve, validate
from kanpde.config.reading import read_yaml
from kanpde.config.schema import as_mapping
from kanpde.config.trees import NAMED
from kanpde.ground.construct import call, construct, plain_fields
from kanpde.ground.errors import ConfigError, shown, suggest
from kanpde.ground.samplers import stream
from kanpde.jets.jet import Affine
from kanpde.kan.basis.polynomial import Polynomial
from kanpde.kan.layers import KANLinear
from kanpde.operators import OPERATORS, Forward
from kanpde.problems import PROBLEMS
from kanpde.problems.fitting import Fitting, Units
from kanpde.problems.frames import Frame, check_domain, framed, grid_range, largest_factor, laws_of
from kanpde.records.claims import claim, occupied
from kanpde.records.run import Run
from kanpde.training import start
from kanpde.training.losses import Loss
from kanpde.training.optimisers import for_sparsity
from kanpde.training.weighting import BALANCES, EMPHASES
from kanpde.users.code import check_call, problem_class
from kanpde.users.modules import changed, class_from_source, load_class

EXACT = ("forward", "autograd")  # operators without an estimate
COMPILE_FROM = 3000  # steps from which the seconds that compiling takes come back
WHOLE_UP_TO = 10_000  # inputs of a network whose gradient of the residual is compiled; those of more are streamed
LONGEST = 200  # bytes of a file's name, so that those of its pictures and of temporary files are not too long
PYTHON = "python."  # before the class name of a problem or network that no YAML can name


def problem(config: RunConfig, stored: str | None = None, trust: bool = True, beside: dict[str, str] | None = None):
    """The problem by name, or the class of a user's file; `stored`, `beside` are the sources kept in a result file."""
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
        return call(f"problem {cls}", problem_class(load_class(name), name, spec), spec)
    if not trust:
        raise ConfigError(f"the run's problem is code of {Path(file).name}: load_model(trust=True) executes it")
    return call(f"problem {cls}", problem_class(class_from_source(stored, cls, file, beside), name, spec), spec)


def short_name(config: RunConfig, problem) -> str:
    name = str(config.problem["name"])
    return type(problem).__name__ if ":" in name or name.startswith(PYTHON) else name


def network(config: RunConfig, problem, net: nn.Module | None = None, trained: bool = False) -> nn.Module:
    """The network of a run: `net`, or the backbone in the units of the domain; c + s net where these or `start` ask.

    One that ends with such a map stays as it is. `trained`: a checkpoint will be loaded, so c and s, and the data, are
    not needed.
    """
    frame = framed(config, problem) if net is None else None
    net = backbone(config, problem, trained) if net is None else net
    layers = list(net) if type(net) is nn.Sequential else [net]
    if isinstance(problem, Fitting) or isinstance(layers[-1], Affine) or not (frame or config.start == "constant"):
        return net
    if trained:
        return nn.Sequential(*layers, start.affine())
    size = 1 / largest_factor(problem) if frame and config.constraint == "hard" else 1.0
    if config.start == "network":
        return nn.Sequential(*layers, start.affine(size))
    drawn, scale = stream(config.seed, "start"), loss(config, problem).factor(problem)
    return nn.Sequential(*layers, start.units(problem, config.points.law, drawn, scale, size))


def backbone(config: RunConfig, problem, trained: bool = False) -> nn.Module:
    """The network of the configuration.

    A network that fits data sees inputs in [-1, 1] and outputs of deviation 1: it begins and ends with a fixed map.
    One of a PDE begins with the map to the units of its domain, if x is not in them.
    `trained`: a checkpoint will be loaded, so the numbers of these maps, and the data, are not needed.
    """
    options, fits = dict(config.backbone), isinstance(problem, Fitting)
    if options["name"].startswith(PYTHON):
        raise ConfigError(f"the run's network {options['name'].removeprefix(PYTHON)} was made in Python: pass net=")
    frame = framed(config, problem)
    if "grid_range" in options:
        options["grid_range"] = grid_range(config, problem)
    generator = stream(config.seed, "init")
    net = construct(
        "backbone", backbones.BACKBONES, options, problem.dim if fits else problem.domain.dim, 1, generator=generator
    )
    if fits:
        units = Units.unknown(problem.dim) if trained else problem.units
        return nn.Sequential(units.scaling_inputs(), *net, units.scaling_output())
    if any(isinstance(layer, KANLinear) and layer.basis.smoothness < 2 for layer in net.modules()):
        raise ConfigError(f"backbone.spline_order: given {options['spline_order']}, second derivatives need at least 3")
    return nn.Sequential(frame.scaling_inputs(), *net) if frame else net


def operator(config: RunConfig, problem):
    """The operator; what samples more dimensions than there are is refused here, not in the first step."""
    options = {"compile": True} if config.compile is True and config.operator["name"] == "forward" else {}
    made = construct("operator", OPERATORS, {**options, **config.operator})
    if getattr(made, "dims", 0) > problem.domain.dim:
        raise ConfigError(f"operator sdgd: dims: given {made.dims}, the problem has {problem.domain.dim} inputs")
    return made


def loss(config: RunConfig, problem=None) -> Loss:
    """The loss, in the units of the problem's domain if one is given; what its operator cannot give is refused here."""
    if config.loss.residual == "two_sample" and config.operator["name"] in EXACT:
        raise ConfigError(f"loss.residual: two_sample is for stochastic operators; {config.operator['name']} is exact")
    gradient, exact = config.loss.gradient, config.operator["name"] in EXACT
    if gradient != "none" and (not exact or config.loss.residual == "two_sample"):
        raise ConfigError(
            f"loss.gradient: given {gradient}, but {config.operator['name']} is no exact operator: set it to none"
        )
    if config.loss.directions and gradient == "none":
        raise ConfigError("loss.directions: they are of loss.gradient, which is none")
    frame = None if problem is None else framed(config, problem)
    return Loss(**config.loss.model_dump(exclude={"balance", "emphasis"}), frame=frame)


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
    """The configuration with defaults that depend on the problem filled in: law, point counts, backbone options, units.

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
    numbers = {kind: resolve(getattr(points, kind), problem.dim) for kind in ("interior", "boundary", "initial")}
    for kind, rows in getattr(problem.domain, "counts", {}).items():  # of a table, no more than there are
        numbers[kind] = min(numbers.get(kind, getattr(points, kind)), rows)
    weights = {name: resolve(weight, problem.dim) for name, weight in config.loss.weights.items()}
    changes = {"points": points.model_copy(update={"law": law, **numbers}), "backbone": backbone}
    changes["loss"] = config.loss.model_copy(update={"weights": weights})
    changes["problem"] = {**config.problem, **problem.settings()}
    changes["units"] = config.units or ("frame" if Frame.of(problem) else None)
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
    shipped = {cls: name for name, cls in PROBLEMS.items()}
    named = {"name": shipped.get(type(problem), PYTHON + type(problem).__qualname__), **plain_fields(problem)}
    default = "fit" if isinstance(problem, Fitting) else default_solver(named.get("dim", problem.dim))
    solver = read_yaml(find("solvers", str(overrides.pop("solver", default))))
    return resolved(validate(merge({**solver, "problem": named}, overrides), steps, solver), problem)


def dump(config: RunConfig) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json", warnings=False), sort_keys=False, width=100)


def config_of(run: Run) -> RunConfig:
    return validate(run.config, solver=None)


def extended(config: RunConfig, steps: int | None, stop: Mapping | None = None) -> RunConfig:
    """More steps lengthen the last phase; its schedule spans the new length. `stop` replaces criteria by name."""
    if stop is not None:
        config = validate(merge(config.model_dump(mode="json"), {"stop": stop}))
    if steps is None or steps == config.steps:
        return config
    if steps < config.steps:
        raise ConfigError(f"--steps: given {steps}, the run has {config.steps}; resuming can only extend it")
    *phases, last = config.phases
    last = last.model_copy(update={"steps": last.steps + steps - config.steps})
    return config.model_copy(update={"phases": [*phases, last]})


def reserve(out: str | Path | None, config: RunConfig) -> Path:
    """Where the result goes: the file asked for, which must not exist, or a new one under runs/.

    A checkpoint without weights holds the name until the first evaluation, so that two runs never share one.

    Raises:
        ConfigError: the file exists, or its folder cannot be written.
    """
    check_out(out)
    path = Path(os.path.expanduser(out)) if out is not None else Path("runs") / f"{_stem(config)}.h5"
    _make_folder(path.parent)
    again = 1
    while True:
        try:
            if path.exists():
                raise FileExistsError
            claim(path.with_suffix(".pt"))
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
    stem = os.fsencode(f"{name}-{which}-{backbone}")[: LONGEST - 40].decode(errors="ignore")
    return f"{stem}-seed{config.seed}"


def check_out(out: str | Path | None) -> None:
    """Raises ConfigError where --out is no new .h5 file."""
    if out is None:
        return
    path = Path(os.path.expanduser(out))
    if len(os.fsencode(path.name)) > LONGEST or "\0" in str(out):
        raise ConfigError(f"--out {shown(str(out))}: needed is a name of at most {LONGEST} bytes, none of them 0")
    if os.path.isdir(path):
        raise ConfigError(f"--out {out}: a folder; needed is the path of a file ending in .h5")
    if path.suffix != ".h5":
        raise ConfigError(f"--out {out}: needed is a file ending in .h5")
    if reason := occupied(path):
        raise ConfigError(f"--out {out}: {reason}")


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
    wanted = validate(tree, solver=None)
    if file := changed(str(stored.problem["name"]), run.attrs):
        raise ConfigError(f"--resume: {file} has changed since the run; restore it, or start anew")
    made = problem(wanted)
    check_rows(run, made)
    wanted = resolved(wanted, made).model_copy(update={"units": wanted.units})  # files of before it have none
    check_same(wanted, stored, "--resume")
    return extended(stored, steps, wanted.stop.model_dump())


def check_same(wanted: RunConfig, stored: RunConfig, label: str, length: bool = False) -> None:
    """Raises ConfigError where two resolved configurations differ, be it in steps and what stops them if `length`."""
    ours, theirs = (_leaves(c.model_dump(mode="json")) for c in (wanted, stored))
    for key in sorted(ours.keys() | theirs.keys()):
        of_length = key.endswith(".steps") or key.startswith("stop.")
        if ours.get(key) != theirs.get(key) and (length or not of_length):
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
