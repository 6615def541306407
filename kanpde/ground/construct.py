"""Objects from names and options: the signature of a constructor, with its annotations, is the schema."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from kanpde.ground.errors import ConfigError, shown, suggest


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
        if _has_nan(value):
            raise ConfigError(f"{label}: {key}: given {shown(value)}, that is not a number")
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value) if key in hints else value
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(
                f"{label}: {key}: given {shown(first['input'])}, {first['msg'][0].lower()}{first['msg'][1:]}"
            ) from None
    for p in free:
        if p.default is p.empty and p.name not in checked:
            unread = ""
            if p.name in vars(function):  # of a class that restates a field without being a dataclass of its own
                own = f"{p.name} = {vars(function)[p.name]!r:.40}"
                unread = f" ({own} in its class is read below @dataclass(frozen=True))"
            raise ConfigError(f"{label}: {p.name}: missing{unread}")
    try:
        return function(*given, **checked, **fixed)
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{label}: {error.args[0] if error.args else error}") from None


def _has_nan(value) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(map(_has_nan, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and value != value


def plain_fields(made) -> dict[str, Any]:
    """The fields of a dataclass that YAML can hold, as it holds them; others are left out."""
    fields = dataclasses.fields(made) if dataclasses.is_dataclass(made) else ()
    found = {f.name: _plain(getattr(made, f.name)) for f in fields}
    return {name: value for name, value in found.items() if value is not _NOT_PLAIN}


_NOT_PLAIN = object()


def _plain(value):
    """A value of numbers, texts, lists and mappings; numpy's and torch's numbers are numbers, paths are texts."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, PurePath | str):
        return str(value)
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return _plain(value.item())
    if isinstance(value, Mapping):
        items = {key: _plain(part) for key, part in value.items()}
        return _NOT_PLAIN if any(part is _NOT_PLAIN for part in (*items.values(), *map(_plain, items))) else items
    if isinstance(value, list | tuple):
        items = [_plain(part) for part in value]
        return _NOT_PLAIN if any(part is _NOT_PLAIN for part in items) else items
    return _NOT_PLAIN
