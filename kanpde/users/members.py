"""Members by name, or as `file.py:Class` of a user's: problems, and what their runs are made of."""

from collections.abc import Mapping
from pathlib import Path

from kanpde.ground.construct import call, construct
from kanpde.ground.errors import ConfigError
from kanpde.problems import PROBLEMS, Problem
from kanpde.users.code import problem_class
from kanpde.users.modules import class_from_source, load_class

PYTHON = "python."  # before the class name of a problem or network that no YAML can name


def problem_of(
    spec: Mapping, stored: str | None = None, trust: bool = True, beside: Mapping[str, str] | None = None
) -> Problem:
    """The problem of a specification {name, dim, ...}; the name is a shipped one, or that of a class in a user's file.

    Args:
        stored, beside: the sources kept in a result file, of the user's file and of the modules beside it.
        trust: whether what is stored may be executed.
    Raises:
        ConfigError: it cannot be made.
    """
    options = dict(spec)
    name = str(options.pop("name"))
    file, colon, cls = name.rpartition(":")
    if isinstance(options.get("dim"), int) and options["dim"] < 1:
        raise ConfigError(f"problem.dim: given {options['dim']}, dim must be at least 1")
    if not colon and name.startswith(PYTHON):
        raise ConfigError(f"the run's problem {name.removeprefix(PYTHON)} was made in Python: pass problem=")
    if not colon:
        return construct("problem", PROBLEMS, spec)
    if stored is not None and not trust:
        raise ConfigError(f"the run's problem is code of {Path(file).name}: load_model(trust=True) executes it")
    found = load_class(name) if stored is None else class_from_source(stored, cls, file, beside)
    return call(f"problem {cls}", problem_class(found, name, options), options)


def short_name(spec: Mapping, problem: Problem) -> str:
    """What a problem is called in titles: its shipped name, or that of its class."""
    name = str(spec["name"])
    return type(problem).__name__ if ":" in name or name.startswith(PYTHON) else name
