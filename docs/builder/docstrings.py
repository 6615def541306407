"""Docstrings as they are written for `help` and doctest, made what mkdocstrings shows."""

import re
from textwrap import dedent, indent

import griffe

MATH = re.compile(r"^( *)\.\. math:: (.*(?:\n\1 +\S.*)*)", re.MULTILINE)
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", re.MULTILINE)  # arguments that share a line
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Formulas between dollar signs, arguments one by one, and `Examples:` as the section whose lines >>> are code."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            text = MATH.sub(_between_dollars, obj.docstring.value)
            obj.docstring.value = EXAMPLE.sub(r"\n\1Examples:", SEVERAL.sub(_each, text))


def _each(found: re.Match) -> str:
    return "\n".join(f"{found[1]}{name}: {found[3]}" for name in found[2].split(", "))


def _between_dollars(found: re.Match) -> str:
    first, *rest = found[2].splitlines()
    return indent("\n".join(["", "$$", first, *dedent("\n".join(rest)).splitlines(), "$$", ""]), found[1])
