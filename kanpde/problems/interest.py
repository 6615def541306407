"""Points of interest: where a solution is asked for by itself, beside what others have published for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kanpde.domains.base import number
from kanpde.ground.errors import ConfigError, suggest

NEEDED = "needed is a point, or a point with its published value: {'u(0, 0)': ((0.0, 0.0), 4.59)}"


@dataclass(frozen=True)
class Interest:
    """A field at a point.

    Attributes:
        x: (d,).
        published: None: nothing is.
    """

    name: str
    field: str
    x: tuple[float, ...]
    published: float | None


def points_of_interest(problem: Any, stated: Mapping | None = None) -> list[Interest]:
    """Those of a problem, or others that are stated in their place, one for each field.

    Each is a point, (point, value), (point, value, field), or (point, {field: value}).

    Raises:
        ConfigError: one is not such.
    """
    stated = problem.points_of_interest if stated is None else stated
    if not isinstance(stated, Mapping):
        hint = "; write @property above it" if callable(stated) else ""
        raise ConfigError(f"points_of_interest: given a {type(stated).__name__}, needed is a mapping by name{hint}")
    return [each for name, given in stated.items() for each in _at(problem, str(name), given)]


def _at(problem: Any, name: str, given: Any) -> list[Interest]:
    d, fields = problem.n_inputs, problem.fields
    x, value, *field = _parts(name, given, d)
    x = x if isinstance(x, Sequence) else (x,)
    numbers = [number(part) for part in x]
    if None in numbers or len(numbers) != d:
        raise ConfigError(f"points_of_interest: {name}: given the point {list(x)!r:.80}, needed are {d} finite numbers")
    if field or isinstance(value, Mapping):
        values = {field[0]: value} if field else dict(value)
    elif value is None or len(fields) == 1:
        values = dict.fromkeys(fields, value)
    else:
        raise ConfigError(
            f"points_of_interest: {name}: {value!r:.40} is of which field? {{{fields[0]}: {value!r:.40}}}"
        )
    if unknown := [one for one in values if one not in fields]:
        raise ConfigError(f"points_of_interest: {name}: {suggest('field', unknown[0], fields)}")
    if bad := [one for one in values.values() if one is not None and number(one) is None]:
        raise ConfigError(f"points_of_interest: {name}: given {bad[0]!r:.60}, needed is a number")
    return [Interest(name, one, tuple(numbers), number(v)) for one, v in values.items()]


def _parts(name: str, given: Any, d: int) -> tuple:
    """Point, value, and maybe the field; of one coordinate (x, value) is no point."""
    if isinstance(given, Sequence) and not isinstance(given, str) and given:
        plain = all(number(part) is not None for part in given)
        if plain and not (d == 1 and len(given) == 2):
            return given, None
        if len(given) == 1:
            return given[0], None
        if len(given) == 2 or (len(given) == 3 and isinstance(given[2], str)):
            return tuple(given)
    raise ConfigError(f"points_of_interest: {name}: given {given!r:.80}, {NEEDED}")
