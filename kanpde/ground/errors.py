"""What is wrong with a call, in one line: what was given, what is allowed, and the nearest match."""

import difflib
from collections.abc import Sequence


class ConfigError(ValueError):
    """A bad call: one line that says what was given, what is allowed, and the nearest match.

    Example:
        >>> from kanpde import backbones
        >>> backbones.build("metakna", 3)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        kanpde.ground.errors.ConfigError: unknown backbone 'metakna'; did you mean metakan? ...
    """


def suggest(kind: str, given: str, allowed: Sequence[str]) -> str:
    """One line for a name that is not in `allowed`."""
    near = difflib.get_close_matches(str(given), [str(a) for a in allowed], n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {kind} {shown(str(given))}{hint} (known: {', '.join(map(str, allowed))})"


def shown(value, most: int = 100) -> str:
    """repr(value), cut short in the middle."""
    text = repr(value)
    return text if len(text) <= 2 * most else f"{text[:most]} ... {text[-20:]}"
