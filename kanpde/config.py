"""YAML to typed, validated configurations: solver < problem < command line; wrong names meet the nearest."""

import copy
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
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
    ValidationError,
)

from kanpde.reading import DEPTH, ConfigError, parse, read_yaml, shown, suggest

PACKAGE = Path(__file__).resolve().parent
MEMORY = r"(\d+(?:\.\d+)?) *([MG]i?B)"  # such as 8GB, 500 MB, 1.5GiB
HIGH_DIM = 1000  # inputs from which high_dim is the default solver
NAMED = ("problem", "backbone", "operator")  # keys where a bare name stands for {name: ...}
ELSEWHERE = {  # what a user may take for a key of a run, and is said otherwise
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


def as_mapping(value):
    """A bare name stands for the mapping with that name."""
    return {"name": value} if isinstance(value, str) else value


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


class Strict(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")


class AdaptConfig(Strict):
    """Interior points drawn from `candidates` times as many, by residual: `kanpde.samplers.resampled`."""

    candidates: Annotated[int, Field(ge=2)] = 10
    power: NonNegativeFloat = 1.0
    offset: NonNegativeFloat = 1.0


class PointsConfig(Strict):
    """How many points of each kind, and how they are drawn. A count may be 100d, or a table by dimension."""

    interior: Count = 400
    boundary: Count = 0
    initial: Count = 0
    test: Annotated[int, Field(ge=2)] = 20_000
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
    """See `kanpde.losses.Loss`. A weight may be a table by dimension."""

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
    grid_size: before the first step the grids of B-splines are refined to so many intervals.
    """

    optimizer: Literal["adam", "adamw", "soap", "muon", "lbfgs", "gauss_newton"] = "adam"
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
    options: dict[str, Any] = {}


class EvaluationConfig(Strict):
    """Every `every` steps errors and validation loss are measured, on at most `points` points until the last time.

    best_from: the step from which the weights of the least validation loss are kept; before, the latest are.
    """

    every: PositiveInt = 100
    points: PositiveInt = 20_000
    best_from: Annotated[int, Field(ge=0)] = 0


class StopConfig(Strict):
    """Stop at a validation loss, when the clock has run out, or after so many evaluations without a smaller one."""

    error: PositiveFloat | None = None
    seconds: PositiveFloat | None = None
    patience: PositiveInt | None = None


class SlicesConfig(Strict):
    """The plane of the pictures: random (orthonormal, through the centre) or two coordinate axes; points per axis."""

    plane: Literal["random"] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = "random"
    points: Annotated[int, Field(ge=2)] = 101
    volume: Annotated[int, Field(ge=0)] = 41


class RunConfig(Strict):
    """Everything that decides a run."""

    problem: dict[str, Any]
    backbone: dict[str, Any]
    operator: dict[str, Any] = {"name": "forward"}
    constraint: Literal["hard", "soft"] = "hard"
    points: PointsConfig = PointsConfig()
    loss: LossConfig = LossConfig()
    phases: Annotated[list[PhaseConfig], Field(min_length=1)]
    evaluation: EvaluationConfig = EvaluationConfig()
    stop: StopConfig = StopConfig()
    slices: SlicesConfig = SlicesConfig()
    start: Literal["network", "constant"] = "network"
    start_from: str | None = None
    units: Literal["frame", "given"] | None = None
    average: Annotated[float, Field(ge=0, lt=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: str = "cpu"
    dtype: Literal["float32", "float64"] = "float32"
    compile: Literal["auto", True, False] = "auto"
    max_memory: Annotated[str | None, AfterValidator(_memory)] = None
    _solver: Mapping | None = PrivateAttr({})  # what is the solver's and not the user's; None: of a run, nobody's

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)


def resolve(count: float | str | dict[int, float], dim: int) -> float:
    """A number at a dimension: 100d is 100 times it; a table gives the entry of the next larger key, or of the last."""
    if isinstance(count, str):
        return int(count[:-1]) * dim
    if isinstance(count, dict):
        return count[min((k for k in count if k >= dim), default=max(count))]
    return count


# ---------------------------------------------------------------------------------------------------------------
# Reading and merging


def load(
    problem: str | Path,
    solver: str | None = None,
    overrides: Mapping | None = None,
    sets: Sequence[str] = (),
    steps: int | None = None,
) -> RunConfig:
    """The configuration of a run: the solver's YAML, then the problem's, then overrides, then `a.b=c` strings.

    Args:
        problem: a YAML file, or the name of one that kanpde ships.
        solver: likewise; default what the problem's file says under `solver`, else `default_solver` of the dimension.
        overrides: nested mapping.
        sets: strings such as points.interior=500; list items by number (phases.0.steps=100).
        steps: rescale all phases in proportion to this total.
    Raises:
        ConfigError: anything that does not fit.
    """
    path = find("problems", str(problem))
    tree = read_yaml(path)
    own = tree.pop("solver", None)
    named = solver or own
    below = read_yaml(find("solvers", str(named or "default")))
    tree = merge(merge(below, tree), overrides or {})
    for assignment in sets:
        assign(tree, assignment)
    if isinstance(tree.get("problem"), Mapping):
        tree["problem"] = locate(tree["problem"], path.parent)
    config = validate(tree, steps, below)
    best = named or default_solver(config.problem.get("dim"))
    return config if best in (named, "default") else load(problem, best, overrides, sets, steps)


def default_solver(dim: object) -> str:
    """The solver of a PDE for which none is named."""
    return "high_dim" if isinstance(dim, int) and dim >= HIGH_DIM else "default"


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


def locate(problem: Mapping, folder: Path) -> dict:
    """A user's problem file, and tables, given relative to the YAML file that names them, as absolute paths."""
    found = dict(problem)
    file, colon, cls = str(problem.get("name", "")).rpartition(":")
    if colon:
        found["name"] = f"{_beside(folder, file)}:{cls}"
    for key in ("file", "test"):
        if problem.get("name") == "data" and isinstance(problem.get(key), str):
            found[key] = str(_beside(folder, problem[key]))
    return found


def _beside(folder: Path, file: str) -> Path:
    """A file in a folder, or else in the current one."""
    near = folder / file
    return (near if os.path.isfile(near) else Path(file)).resolve()


def rescale(phases: Sequence[PhaseConfig], steps: int) -> list[PhaseConfig]:
    """The phases with their steps in the same proportions and the given total; phases left without a step go."""
    total, done, ends = sum(p.steps for p in phases), 0, []
    for phase in phases:
        done += phase.steps
        ends.append(round(done * steps / total))
    scaled = [p.model_copy(update={"steps": b - a}) for p, a, b in zip(phases, [0, *ends], ends, strict=False)]
    return [p for p in scaled if p.steps > 0]


def find(folder: str, name: str) -> Path:
    """The YAML file: a path as given, or a bare name among the shipped ones (folder is problems or solvers)."""
    given = Path(name)
    if os.path.isfile(given):
        return given
    shipped = {p.stem: p for p in sorted(library(folder).glob("*.yaml"))}
    if given.suffix not in (".yaml", ".yml") and len(given.parts) == 1:
        if name in shipped:
            return shipped[name]
        raise ConfigError(suggest(f"{folder[:-1]}", name, list(shipped)))
    near = difflib.get_close_matches(given.stem, shipped, n=1)
    raise ConfigError(f"{name}: no such file" + (f"; shipped is {near[0]}" if near else ""))


def library(folder: str) -> Path:
    """The folder of shipped YAML files, in an installed package or a checkout."""
    installed = PACKAGE / "_library" / folder
    return installed if installed.is_dir() else PACKAGE.parent / folder


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


def _one_line(error: ValidationError) -> str:
    """The deepest thing pydantic objects to, as one line with the key, what was given, and what is allowed."""
    first = min(error.errors(), key=lambda e: (e["type"] != "extra_forbidden", -len(e["loc"])))
    where = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden" and len(where) == 1 and where[0] in ELSEWHERE:
        return f"unknown key {where[0]!r}: {ELSEWHERE[where[0]]}"
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
            inner = {"phases": PhaseConfig, "adapt": AdaptConfig, "sparsity": SparsityConfig}.get(part)
            model = inner or model.model_fields[part].annotation
    return list(model.model_fields)
