"""Members by name, or as `file.py:Class` of a user's: problems, and what their runs are made of."""

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from kanpde import backbones
from kanpde.config import RunConfig
from kanpde.ground.construct import call, construct
from kanpde.ground.errors import ConfigError
from kanpde.kan.basis.base import Basis
from kanpde.operators import OPERATORS, Operator
from kanpde.optim.optimisers import OPTIMISERS, Optimiser
from kanpde.problems import PROBLEMS, Problem
from kanpde.users.code import problem_class
from kanpde.users.modules import Kept, class_from_source, kept_of, load_class

PYTHON = "python."  # before the class name of a problem or network that no YAML can name


def short(name: str) -> str:
    """What a member is called in titles and in names of files."""
    return name.rpartition(":")[2].removeprefix(PYTHON)


def short_name(spec: Mapping, problem: Problem) -> str:
    """What a problem is called: its shipped name, or that of its class."""
    name = str(spec["name"])
    return type(problem).__name__ if ":" in name or name.startswith(PYTHON) else name


# ---------------------------------------------------------------------------------------------------------------
# Problems


def problem_of(spec: Mapping, kept: Kept | None = None, trust: bool = True) -> Problem:
    """The problem of a specification {name, dim, ...}; the name is a shipped one, or that of a class in a user's file.

    Args:
        kept: the sources in a result file, which are executed instead of the file.
        trust: whether these may be.
    Raises:
        ConfigError: it cannot be made.
    """
    options = dict(spec)
    name = str(options.pop("name"))
    _, colon, cls = name.rpartition(":")
    if isinstance(options.get("dim"), int) and options["dim"] < 1:
        raise ConfigError(f"problem.dim: given {options['dim']}, dim must be at least 1")
    if not colon and name.startswith(PYTHON):
        raise ConfigError(f"the run's problem {name.removeprefix(PYTHON)} was made in Python: pass problem=")
    if not colon:
        return construct("problem", PROBLEMS, spec)
    return call(f"problem {cls}", problem_class(_loaded("problem", name, kept, trust), name, options), options)


def _loaded(kind: str, name: str, kept: Kept | None, trust: bool) -> type:
    """The class of a user's file as it lies there, or as a result keeps it."""
    file, _, cls = name.rpartition(":")
    if kept is not None and not trust:
        how = "load_model(trust=True) executes it, as --trust does"
        raise ConfigError(f"the run's {kind} is code of {Path(file).name}: {how}")
    found = load_class(name, kind) if kept is None else class_from_source(kept.source, cls, file, kept.beside)
    _LOADED[name] = found
    return found


_LOADED: dict[str, type] = {}  # by name, as it was read last


# ---------------------------------------------------------------------------------------------------------------
# What a user's file adds to the tables


def enter(config: RunConfig, kept: Mapping[str, Kept] | None = None, trust: bool = True) -> None:
    """Enter into the tables, under its whole name, what a configuration names as `file.py:Class`.

    A backbone is a class of bases (`kanpde.kan.basis`), or a function or class (dim_in, dim_out, *, generator, options)
    -> module; with `meta` before the class of bases it is the network with generated weights. An operator is a
    subclass of `kanpde.operators.Operator`, an optimizer one of torch.optim.Optimizer.

    Args:
        kept, trust: as of `problem_of`, by name.
    Raises:
        ConfigError: the file cannot be read, or what it calls so is something else.
    """
    for kind, name in _named(config):
        if ":" in name:
            _ENTERING[kind](name, (kept or {}).get(name), trust)


def _named(config: RunConfig) -> Iterator[tuple[str, str]]:
    yield "backbone", config.backbone["name"]
    yield "operator", config.operator["name"]
    yield from (("optimizer", phase.optimizer) for phase in config.phases)


def _enter_backbone(name: str, kept: Kept | None, trust: bool) -> None:
    file, _, cls = name.rpartition(":")
    plain = f"{file}:{cls.removeprefix('meta')}"
    found = _LOADED[name] = _loaded("backbone", plain, kept, trust)
    if isinstance(found, type) and issubclass(found, Basis):
        template = backbones.kan if name == plain else backbones.metakan
        backbones.BACKBONES[name] = backbones.specialise(template, found)
    elif name == plain and (inspect.isfunction(found) or (isinstance(found, type) and issubclass(found, nn.Module))):
        backbones.BACKBONES[name] = found
    else:
        needed = "a class derived from kanpde.kan.basis.base.Basis, or a function (dim_in, dim_out, *, generator)"
        raise ConfigError(f"backbone {name}: needed is {needed}")


def _enter_operator(name: str, kept: Kept | None, trust: bool) -> None:
    OPERATORS[name] = _derived("operator", name, kept, trust, Operator)


def _enter_optimizer(name: str, kept: Kept | None, trust: bool) -> None:
    OPTIMISERS[name] = Optimiser.of(_derived("optimizer", name, kept, trust, torch.optim.Optimizer))


def _derived(kind: str, name: str, kept: Kept | None, trust: bool, base: type) -> type:
    found = _loaded(kind, name, kept, trust)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{kind} {name}: needed is a class derived from {base.__module__}.{base.__qualname__}")
    return found


_ENTERING = {"backbone": _enter_backbone, "operator": _enter_operator, "optimizer": _enter_optimizer}


# ---------------------------------------------------------------------------------------------------------------
# What a result keeps of them


def kept_with(config: RunConfig, problem: Problem) -> dict[str, str]:
    """Attributes of a result: the sources of all users' files that its configuration names."""
    attrs = {}
    if kept := kept_of(str(config.problem["name"]), type(problem).__module__):
        digest = hashlib.sha256(kept.source.encode()).hexdigest()
        attrs = {"problem_source": kept.source, "problem_sha256": digest}
        attrs |= {"problem_modules": json.dumps(kept.beside)} if kept.beside else {}
    names = {name for _, name in _named(config) if name in _LOADED}
    members = {name: kept._asdict() for name in sorted(names) if (kept := kept_of(name, _LOADED[name].__module__))}
    return attrs | ({"member_sources": json.dumps(members)} if members else {})


def kept_in(attrs: Mapping) -> dict[str, Kept]:
    """The sources of users' files that a result file keeps, by name; that of the problem is "problem"."""
    members = json.loads(attrs.get("member_sources", "{}"))
    found = {name: Kept(**kept) for name, kept in members.items()}
    if "problem_source" in attrs:
        found["problem"] = Kept(attrs["problem_source"], json.loads(attrs.get("problem_modules", "{}")))
    return found


def changed(config: RunConfig, attrs: Mapping) -> Path | None:
    """A user's file of a run, or one beside it, that is no longer what the result keeps."""
    kept = kept_in(attrs)
    names = {"problem": str(config.problem["name"])} | {name: name for name in kept if name != "problem"}
    files = ((Path(names[key].rpartition(":")[0]), each) for key, each in kept.items())
    return next((found for file, each in files if (found := each.changed(file))), None)
