"""Trees of plain values: one over another, a value set in one, and the configuration that a tree states."""

import copy
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import yaml
from pydantic import ValidationError

from kanpde.config.reading import DEPTH, parse
from kanpde.config.schema import (
    AdaptConfig,
    PhaseConfig,
    ReferenceConfig,
    RunConfig,
    SparsityConfig,
    Strict,
    as_mapping,
)
from kanpde.ground.errors import ConfigError, shown, suggest

NAMED = ("problem", "backbone", "operator")  # keys where a bare name stands for {name: ...}
ELSEWHERE = {  # what a user may take for a key of a run, and is said otherwise
    "stop.error": "a validation loss is stop.loss, the error as it is estimated without a solution stop.to",
    "solver": "the solver is the option --solver, solver= of train, or the key solver of a problem's file",
    "steps": "the steps in all are the option --steps, or steps= of train; each phase has its own, phases.0.steps",
    "dim": "the dimension is the key problem.dim, or the option --dim",
    "out": "the result file is the option --out, or out= of train",
    "resume": "a run is resumed by the option --resume, or by kanpde.resume",
    "quiet": "it is an option of the command line, --quiet",
    "dry_run": "it is an option of the command line, --dry-run",
    "lr": "each phase has its own rate, phases.0.lr",
    "optimizer": "each phase has its own, phases.0.optimizer",
    "name": "the names are those of problem, backbone and operator: problem.name, backbone.name, operator.name",
}


def merge(below: Mapping, above: Mapping) -> dict:
    """Nested mappings, `above` winning; another `name` drops the options that belonged to the old one."""
    out = dict(below)
    for key, value in above.items():
        old = _named(out.get(key), value)
        value = _named(value, old)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and "name" in old and value["name"] != old["name"]
            kept = {"dim": old["dim"]} if renamed and "dim" in old else {}
            out[key] = {**kept, **value} if renamed else merge(old, value)
        else:
            out[key] = value
    return out


def _named(value, other):
    """A bare name beside a mapping is the mapping with that name."""
    return {"name": value} if isinstance(value, str) and isinstance(other, Mapping) else value


def assign(tree: dict, assignment: str) -> None:
    """Apply one `a.b=c`; c is read as YAML."""
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {shown(assignment)}: needed is a.b=c")
    *parents, last = path.split(".")
    if len(parents) > DEPTH:
        raise ConfigError(f"--set {shown(path)}: there is no key so deep")
    value = parse(text, f"--set {path}")
    tree.update({key: as_mapping(tree[key]) for key in NAMED if key in tree})
    node: Any = tree
    for part in parents:
        child = copy.deepcopy(_item(node, part, assignment, {}))
        _put(node, part, child, assignment)
        node = child
    old = node.get(last) if isinstance(node, dict) else None
    if isinstance(old, Mapping) and "name" in old:  # another problem, backbone or operator drops the options of the old
        value = merge({last: old}, {last: value})[last]
    _put(node, last, value, assignment)


def _put(node, key: str, value, assignment: str) -> None:
    if isinstance(node, dict):
        node[key] = value
    else:
        _item(node, key, assignment)
        node[int(key)] = value


def _item(node, key: str, assignment: str, default=None):
    if isinstance(node, dict):
        return node.get(key, default)
    if isinstance(node, list) and re.fullmatch("[0-9]{1,9}", key) and int(key) < len(node):
        return node[int(key)]
    raise ConfigError(f"--set {assignment}: there is nothing at {key}")


def validate(tree: Mapping, steps: int | None = None, solver: Mapping | None = {}) -> RunConfig:
    """A tree of plain values as a RunConfig, phases rescaled to `steps`; `backbones` has options by backbone."""
    tree = {key: as_mapping(value) if key in NAMED else value for key, value in tree.items()}
    presets = tree.pop("backbones", {})
    for key in tree.keys() & set(NAMED):
        if not (isinstance(tree[key], Mapping) and isinstance(tree[key].get("name"), str)):
            raise ConfigError(f"{key}: given {shown(tree[key])}, needed is a name, or a mapping with the key name")
    if not (isinstance(presets, Mapping) and all(isinstance(of_one, Mapping) for of_one in presets.values())):
        raise ConfigError(f"backbones: given {shown(presets)}, needed are options by name of a backbone")
    if "backbone" in tree:
        tree["backbone"] = {**presets.get(tree["backbone"]["name"], {}), **tree["backbone"]}
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None
    config._solver = solver
    if steps is None:
        return config
    if not isinstance(steps, Real) or not 1 <= steps < float("inf"):
        raise ConfigError(f"steps: given {steps!r}, needed is a number, at least 1")
    return config.model_copy(update={"phases": rescale(config.phases, steps)})


def validate_part(key: str, model: type[Strict], tree: Mapping) -> Any:
    """A tree of plain values as what stands at a key."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{key}.{_one_line(error)}") from None


def dump(config: RunConfig) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json", warnings=False), sort_keys=False, width=100)


def rescale(phases: Sequence[PhaseConfig], steps: int) -> list[PhaseConfig]:
    """The phases with their steps in the same proportions and the given total; phases left without a step go."""
    total, done, ends = sum(p.steps for p in phases), 0, []
    for phase in phases:
        done += phase.steps
        ends.append(round(done * steps / total))
    scaled = [p.model_copy(update={"steps": b - a}) for p, a, b in zip(phases, [0, *ends], ends, strict=False)]
    return [p for p in scaled if p.steps > 0]


def _one_line(error: ValidationError) -> str:
    """The deepest thing pydantic objects to, as one line with the key, what was given, and what is allowed."""
    first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
    where = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden" and (dotted := ".".join(where)) in ELSEWHERE:
        return f"unknown key {dotted!r}: {ELSEWHERE[dotted]}"
    if first["type"] == "extra_forbidden":
        return suggest(f"key {'.'.join(where[:-1])}".rstrip() if where[:-1] else "key", where[-1], _keys_at(where[:-1]))
    path = ".".join(part for part in where if part.isidentifier() or part.isdigit())
    if first["type"] == "missing":
        return f"{path}: missing"
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: given {shown(first['input'])}, {message[0].lower()}{message[1:]}"


def _keys_at(path: list[str]) -> list[str]:
    model: Any = RunConfig
    for part in path:
        if not part.isdigit():
            inner = {"phases": PhaseConfig, "adapt": AdaptConfig, "sparsity": SparsityConfig}
            model = (inner | {"reference": ReferenceConfig}).get(part) or model.model_fields[part].annotation
    return list(model.model_fields)
