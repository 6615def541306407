"""Objects from names and options: the signature of a constructor, with its annotations, is the schema."""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from kanpde.config import ConfigError, suggest


def construct(kind: str, table: Mapping[str, Callable], spec: Mapping[str, Any], *given, **fixed):
    """Call table[spec["name"]] with the other entries of spec, checked against its signature and annotations.

    Args:
        kind: what it is, for messages.
        given, fixed: arguments that are not the user's.
    Raises:
        ConfigError: unknown name or option, wrong type, or a ValueError of the constructor.
    """
    options = dict(spec)
    if not isinstance(options.get("name"), str):
        raise ConfigError(f"{kind}: given {options}, needed is a name ({', '.join(table)}), or a mapping with one")
    name = options.pop("name")
    if name not in table:
        raise ConfigError(suggest(kind, name, list(table)))
    return call(f"{kind} {name}", table[name], options, *given, **fixed)


def call(label: str, function: Callable, options: Mapping[str, Any], *given, **fixed):
    """Call a function with options checked against its signature and annotations; see `construct`."""
    named = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    free = [p for p in named[len(given) :] if p.name not in fixed]
    allowed = [p.name for p in free]
    hints = get_type_hints(function if inspect.isfunction(function) else function.__init__, include_extras=True)
    checked = {}
    for key, value in options.items():
        if key not in allowed:
            raise ConfigError(suggest(f"option of {label}", key, allowed))
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value) if key in hints else value
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"{label}: {key}: given {first['input']!r}, {first['msg'][0].lower()}{first['msg'][1:]}"
            ) from None
    for p in free:
        if p.default is p.empty and p.name not in checked:
            raise ConfigError(f"{label}: {p.name}: missing")
    try:
        return function(*given, **checked, **fixed)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{label}: {error.args[0] if error.args else error}") from None


def load_class(name: str) -> type:
    """The class in a user's file, `my_pde.py:MyProblem`."""
    file, _, cls = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"problem {name}: no file {file}")
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"problem {name}: {file} cannot be read: {error}") from None
    return class_from_source(source, cls, str(path))


def class_from_source(source: str, cls: str, file: str) -> type:
    """Execute the source of a user's problem file as a module and return its class."""
    module_name = f"kanpde_user_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(module_name, loader=None))
    module.__file__ = file
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        exec(compile(source, file, "exec"), module.__dict__)
    except Exception as error:
        raise ConfigError(f"{file}: {type(error).__name__}: {error}") from None
    if not hasattr(module, cls):
        classes = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module_name]
        raise ConfigError(suggest(f"class in {file}", cls, classes))
    return getattr(module, cls)
