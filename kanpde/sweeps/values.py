"""What a user states of settings that vary: KEY=VALUES words, and the `sweep` of a file, as lists of values by key."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kanpde.config.reading import parse
from kanpde.ground.errors import ConfigError, shown
from kanpde.records.sweep import written

RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")  # a..b, both included
MOST = 10_000  # values of a key, and cells of a grid


def keyed(words: Iterable[str]) -> dict[str, str]:
    """The texts after KEY= by their keys.

    Raises:
        ConfigError: a word without a key, or a key that stands twice.
    """
    found: dict[str, str] = {}
    for word in words:
        key, equals, text = (part.strip() for part in word.partition("="))
        if not equals or not key:
            raise ConfigError(f"--over {shown(word)}: needed is KEY=VALUES, such as seed=0..4 or backbone=kan,metakan")
        if key in found:
            raise ConfigError(f"--over {key}: given twice; its values go into one list, with commas")
        found[key] = text
    return found


def listed(key: str, text: str) -> list:
    """The values of 20,50,100, of 0..4, of {name: kan, widths: [8]},metakan, and of such together.

    Raises:
        ConfigError: no YAML, none, or one that stands twice.
    """
    return expanded(key, parse(f"[{text}]", f"--over {key}"))


def expanded(key: str, given: Any) -> list:
    """A list with its ranges written out; of a text, what the command line makes of it.

    Raises:
        ConfigError: as `listed`; not a list.
    """
    if isinstance(given, str):
        return listed(key, given)
    if not isinstance(given, Sequence):
        raise ConfigError(f"sweep: {key}: given {shown(given)}, needed is a list of values")
    values = [value for item in given for value in _range(key, item)]
    if not values:
        raise ConfigError(f"sweep: {key}: an empty list; needed is a value at least")
    twice = [text for text, count in Counter(map(written, values)).items() if count > 1]
    if twice:
        raise ConfigError(f"sweep: {key}: {shown(twice[0])} stands twice")
    return values


def _range(key: str, item: Any) -> Sequence:
    match = RANGE.fullmatch(item.strip()) if isinstance(item, str) else None
    if match is None:
        return [item]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST:
        raise ConfigError(f"sweep: {key}: {item}: a range goes up, by at most {MOST:,} values")
    return range(first, last + 1)


def assignments(values: Mapping[str, Any]) -> list[str]:
    """a.b=c of each, a backbone before its options: another name drops those of the old one."""
    return [f"{key}={written(values[key])}" for key in sorted(values, key=lambda key: key.count("."))]
