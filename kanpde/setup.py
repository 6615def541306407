"""From a configuration to the objects of a run: problem, backbone, operator, loss, and the path of its result."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from torch import nn

from kanpde import backbones
from kanpde.config import (
    ConfigError,
    RunConfig,
    as_mapping,
    assign,
    find,
    locate,
    merge,
    read_yaml,
    resolve_count,
    validate,
)
from kanpde.construct import call, class_from_source, construct, load_class
from kanpde.kan.layers import CHUNK_BYTES, KANLinear
from kanpde.losses import Loss
from kanpde.operators import OPERATORS
from kanpde.problems import PROBLEMS
from kanpde.record import Run
from kanpde.samplers import SOBOL_MAX_DIM, stream


def problem(config: RunConfig, stored: str | None = None, trust: bool = True):
    """The problem by name, or the class of a user's file; `stored` is the source kept in a result file."""
    spec = dict(config.problem)
    name = str(spec.pop("name"))
    if ":" not in name:
        return construct("problem", PROBLEMS, config.problem)
    file, _, cls = name.rpartition(":")
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
    return type(problem).__name__ if ":" in name else name


def backbone(config: RunConfig, problem) -> nn.Module:
    """The network of the configuration; `grid_range: auto` fits the grid of the inputs to the domain and the law."""
    options = dict(config.backbone)
    domain = problem.domain
    if backbones.takes(options["name"], "grid_range") and options.get("grid_range", "auto") == "auto":
        options["grid_range"] = domain.input_range(config.points.law)
    generator = stream(config.seed, "init")
    net = construct("backbone", backbones.BACKBONES, options, domain.dim, generator=generator)
    for layer in net.modules():
        if isinstance(layer, KANLinear) and layer.basis.smoothness < 2:
            raise ConfigError(
                f"backbone.spline_order: given {options['spline_order']}, second derivatives need at least 3"
            )
    return net


def operator(config: RunConfig, problem):
    """The operator; what samples more dimensions than there are is refused here, not in the first step."""
    made = construct("operator", OPERATORS, config.operator)
    if getattr(made, "dims", 0) > problem.domain.dim:
        raise ConfigError(f"operator sdgd: dims: given {made.dims}, the problem has {problem.domain.dim} inputs")
    return made


def loss(config: RunConfig) -> Loss:
    if config.loss.residual == "two_sample" and config.operator["name"] in ("forward", "autograd"):
        raise ConfigError(f"loss.residual: two_sample is for stochastic operators; {config.operator['name']} is exact")
    return Loss(config.loss.residual, config.loss.scale, dict(config.loss.weights))


def counts(config: RunConfig, problem) -> dict[str, int]:
    """Points a step by kind: the kinds that the constraint and the domain leave a term for."""
    kinds = ["interior"]
    if config.constraint == "soft":
        kinds += [kind for kind in ("boundary", "initial") if hasattr(problem.domain, kind)]
    return {kind: resolve_count(getattr(config.points, kind), problem.dim) for kind in kinds}


def check(config: RunConfig, problem) -> None:
    """What can be known to fail before the first step.

    Raises:
        ConfigError: in one line.
    """
    check_device(config.device)
    for kind, n in counts(config, problem).items():
        if n < 1:
            why = (
                "needed is at least 1"
                if kind == "interior"
                else f"constraint: soft needs {kind} points (100d are 100 per dimension)"
            )
            raise ConfigError(f"points.{kind}: given {n}, {why}")
    if config.points.sequence == "sobol" and problem.domain.dim + 1 > SOBOL_MAX_DIM:
        raise ConfigError(
            f"points.sequence: sobol has at most {SOBOL_MAX_DIM} dimensions, the problem {problem.domain.dim}"
        )
    axes = config.slices.plane
    if axes != "random" and max(axes) >= problem.domain.dim:
        raise ConfigError(f"slices.plane: given {list(axes)}, the coordinates are 0 to {problem.domain.dim - 1}")
    if config.start_from and not Path(config.start_from).with_suffix(".pt").is_file():
        raise ConfigError(f"start_from: {config.start_from} has no checkpoint beside it")


def check_device(device: str) -> None:
    """Raises ConfigError where torch does not know the device, or it is not there."""
    try:
        torch.empty(0, device=torch.device(device))
    except (RuntimeError, AssertionError, ValueError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(f"device {device!r} is not there (available: {', '.join(there)})") from None


# ---------------------------------------------------------------------------------------------------------------
# Configurations of problems made in Python, and of result files


def config_for(problem, overrides: dict) -> RunConfig:
    """The configuration of a problem object: the named solver (default: default) with overrides."""
    overrides = dict(overrides)
    steps = overrides.pop("steps", None)
    solver = read_yaml(find("solvers", str(overrides.pop("solver", "default"))))
    shipped = {cls: name for name, cls in PROBLEMS.items()}
    named = {"name": shipped.get(type(problem), type(problem).__qualname__), **_plain_fields(problem)}
    config = validate(merge({**solver, "problem": named}, overrides), steps)
    check(config, problem)
    return config


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


def result_path(out: str | Path | None, config: RunConfig) -> Path:
    """Where the result goes: the file asked for, which must not exist, or a new one under runs/.

    Raises:
        ConfigError: the file exists, or its folder cannot be written.
    """
    if out is None:
        name = str(config.problem["name"]).rpartition(":")[2]
        stem = f"{name}-{config.problem.get('dim', '')}d-{config.backbone['name']}-seed{config.seed}"
        path, again = Path("runs") / f"{stem}.h5", 1
        while path.exists() or path.with_suffix(".pt").exists():
            again += 1
            path = Path("runs") / f"{stem}-{again}.h5"
    else:
        path = Path(out)
        if path.is_dir():
            raise ConfigError(f"--out {out}: a folder; needed is the path of a file ending in .h5")
        if path.suffix != ".h5":
            raise ConfigError(f"--out {out}: needed is a file ending in .h5")
        for taken in (path, path.with_suffix(".pt")):
            if taken.exists():
                raise ConfigError(f"--out {out}: {taken} exists; choose another name, or --resume {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{path.parent}: the folder cannot be made ({error.strerror})") from None
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{path.parent}: the folder cannot be written")
    return path


def agreeing(
    run: Run, problem: str | None, solver: str | None, flags: dict, sets: Sequence[str], steps: int | None
) -> RunConfig:
    """The configuration of a run to resume, extended to `steps`; whatever else is given must be what the run has.

    Raises:
        ConfigError: something given differs; the message names it.
    """
    stored = config_of(run)
    given: dict = {}
    if solver is not None:
        given = merge(given, read_yaml(find("solvers", solver)))
    if problem is not None:
        path = find("problems", problem)
        name = locate(as_mapping(read_yaml(path).get("problem", {})), path.parent).get("name")
        given = merge(given, {"problem": {"name": name}})
    tree = merge(stored.model_dump(mode="json"), merge(given, flags))
    for assignment in sets:
        assign(tree, assignment)
    if source_of(stored) not in (None, run.attrs.get("problem_source")):
        raise ConfigError(f"--resume: {stored.problem['name']} has changed since the run; restore it, or start anew")
    ours, theirs = (_leaves(c.model_dump(mode="json")) for c in (validate(tree), stored))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key) and not key.endswith(".steps"):
            raise ConfigError(f"--resume: {key}: given {ours.get(key)!r}, the run has {theirs.get(key)!r}")
    return extended(stored, steps)


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


def estimate_memory(config: RunConfig, problem, net: nn.Module) -> tuple[int, int]:
    """Bytes of parameters with gradient, two moments and best copy; and of what one training step saves and holds.

    Per point a layer in -> out keeps its features, the slope matrix and its product with the Gram matrix; a streamed
    layer keeps its inputs and one piece.
    """
    size = getattr(torch, config.dtype).itemsize
    n = sum(counts(config, problem).values())
    saved = n * problem.domain.dim * 3
    for layer in net.modules():
        if isinstance(layer, KANLinear):
            mixed = layer.in_features * (3 * layer.basis.size + 2 * layer.out_features)
            streamed = n * mixed * size > CHUNK_BYTES and layer.in_features > 16
            saved += (3 * CHUNK_BYTES // size if streamed else n * mixed) + 2 * n * layer.out_features**2
        elif isinstance(layer, nn.Linear):
            saved += n * (layer.in_features + 4 * layer.out_features + 3 * layer.out_features**2)
    return 5 * size * sum(p.numel() for p in net.parameters()), size * saved
