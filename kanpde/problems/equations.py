"""The tables of equations: what each is called, its formula, the ranges of its variables, and the network of the paper.

"feynman": the 100 equations of FeynmanEquations.csv with its names and ranges (Udrescu & Tegmark, AI Feynman, Science
Advances 6(16), 2020; the Feynman Symbolic Regression Database, in an Apache-2.0 repository).
"paper": the 17 equations of Table 2 of the MetaKAN paper (ICML 2025) with its names and structures, and the formulas
and ranges of pykan's get_feynman_dataset (KindXiaoming/pykan, MIT).
"""

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

from kanpde.ground.errors import ConfigError, suggest
from kanpde.problems.formulas import Formula

# I.9.18 has 6 inputs in the paper and 9 in pykan (G, m1, m2 and two points). The table has the dimensionless form of
# Liu et al. (KAN, 2024), a/((b - 1)^2 + (c - d)^2 + (e - f)^2): pykan's with m1 = m2 = x2 = 1, and pykan's ranges of
# the others. I.18.4 is the centre of mass, the first of the two equations that pykan has under this name.
TABLES = {"feynman": "feynman.csv", "paper": "feynman_paper.csv"}
FOLDER = Path(__file__).resolve().parent / "tables"

# names of the paper that the CSV of AI Feynman has otherwise: a spreadsheet dropped zeros, and the paper has a misprint
ALIASES = {"I.6.20a": "I.6.2a", "I.6.20": "I.6.2", "I.6.20b": "I.6.2b", "I.8.4": "I.8.14", "I.15.10": "I.15.1"}


@dataclass(frozen=True)
class Equation:
    """One equation, output = formula(x) with x uniform in ranges.

    ranges are (low, high) of each of formula.names, in this order. structure is the widths of the paper's network from
    the inputs to the output, None where the paper has none.
    """

    name: str
    output: str
    formula: Formula
    ranges: tuple[tuple[float, float], ...]
    structure: tuple[int, ...] | None


def equation(name: str, collection: str = "feynman") -> Equation:
    """The equation of this name in a collection, "feynman" or "paper".

    Raises:
        ConfigError: an unknown collection or name, with the nearest match and what the other collection calls it.
    """
    known = equations(collection)
    if name not in known:
        raise ConfigError(_unknown(str(name), collection, list(known)))
    return known[name]


@cache
def equations(collection: str) -> Mapping[str, Equation]:
    """All equations of a collection by name, in the order of its source.

    Raises:
        ConfigError: an unknown collection.
    """
    if collection not in TABLES:
        raise ConfigError(suggest("collection of equations", collection, list(TABLES)))
    with open(FOLDER / TABLES[collection], encoding="utf-8", newline="") as file:
        return MappingProxyType({row["name"]: _equation(row) for row in csv.DictReader(file)})


def _equation(row: dict[str, str]) -> Equation:
    """A row of a table: ranges are written "sigma 1 3; theta 1 3", a structure "2 2 1 1"."""
    names, lows, highs = zip(*(entry.split() for entry in row["ranges"].split(";")), strict=True)
    return Equation(
        name=row["name"],
        output=row["output"],
        formula=Formula.parse(row["formula"], names),
        ranges=tuple((float(low), float(high)) for low, high in zip(lows, highs, strict=True)),
        structure=tuple(map(int, row["structure"].split())) or None,
    )


def _unknown(name: str, collection: str, known: list[str]) -> str:
    """One line for a name that is not in the collection."""
    line = f"unknown equation {name!r} of collection {collection} ({len(known)} equations, {known[0]} to {known[-1]})"
    theirs = ALIASES if collection == "feynman" else {ours: paper for paper, ours in ALIASES.items()}
    if name in theirs:
        source, table = ("the paper", "the CSV") if collection == "feynman" else ("the CSV", "the paper")
        return f"{line}; {name} of {source} is {theirs[name]} of {table}"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return line + (f"; did you mean {near[0]}?" if near else "")
