"""The parameter counts that Tables 2 to 9 of the paper print, beside those of the networks that this library builds.

    python -m benchmarks.parameter_counts [--table 3 ...] [--format text|markdown] [--out FILE]

Where the two differ, a note says why, with a formula that gives the printed count, or that none was found.
"""

import argparse
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from benchmarks import data, nets, printed, report
from kanpde import backbones
from kanpde.construct import construct
from kanpde.kan.network import count_parameters

# h of the meta-learners, which the paper does not print: the value with which the printed count comes out. 2x: of two
# meta-learners (those of Tables 3 and 9 are in printed.options); *: printed without BatchNorm; -: no h fits.
LINES = {  # what names a line of FITTED, and what its numbers stand for, in the order of the printed rows
    2: (("grid",), "equation"),
    3: (("model", "layers"), "dataset"),
    4: (("function",), "dimension"),
    5: ((), "model"),
    6: (("dataset", "hidden"), "centers"),
    7: (("dataset", "hidden"), "wavelet"),
    8: ((), "model"),
    9: (("model", "dim_z"), "C"),
}
FITTED = {
    (2, 5): 17 * "- ",
    (2, 20): "24 16 64 72 72 24 24 12 48 48 72 48 12 - - 48 -",  # in the formula alone
    (3, "MetaKANConv", 4): "32 128 128",  # MNIST, CIFAR-10, CIFAR-100
    (3, "MetaKANConv", 8): "32 256 32",
    (3, "MetaFastKANConv", 4): "128 128 128",
    (3, "MetaFastKANConv", 8): "128 128 128",
    (3, "MetaKALNConv", 4): "32 64 256",
    (3, "MetaKALNConv", 8): "64 64 64",
    (3, "MetaKAGNConv", 4): "64 128 128",
    (3, "MetaKAGNConv", 8): "256 128 128",
    (4, "f1"): "8 9 11 20 30 64",  # n = 10, 20, 50, 100, 500, 1000
    (4, "f2"): "10 12 16 32 80 120",
    (4, "f3"): "8 9 15 20 60 250",
    (5,): "256",  # and no biases
    (6, "SVHN", (32,)): "128 64 128",  # 6, 8, 13 centres
    (6, "FMNIST", (32,)): "128 256 512",
    (6, "KMNIST", (32,)): "128 256 512",
    (6, "MNIST", (32,)): "128 64 128",
    (6, "CIFAR-10", (32,)): "256 256 -",
    (6, "CIFAR-100", (32,)): "512 512 256",
    (6, "SVHN", (32, 32)): "128 128 512",
    (6, "FMNIST", (32, 32)): "512 128 128",
    (6, "KMNIST", (32, 32)): "128 512 512",
    (6, "MNIST", (32, 32)): "128 128 128",
    (6, "CIFAR-10", (32, 32)): "256 512 512",
    (6, "CIFAR-100", (32, 32)): "256 512 512",
    (7, "SVHN", (32,)): "256 128 256",  # DoG, Morlet, Mexican hat
    (7, "FMNIST", (32,)): "256 128 64",
    (7, "KMNIST", (32,)): "256 64 64*",
    (7, "MNIST", (32,)): "256 64 1024*",
    (7, "CIFAR-10", (32,)): "256 128 64",
    (7, "CIFAR-100", (32,)): "256 128 1024*",
    (7, "SVHN", (32, 32)): "256 64 1024*",
    (7, "FMNIST", (32, 32)): "256 128 256",
    (7, "KMNIST", (32, 32)): "256 64 1024*",
    (7, "MNIST", (32, 32)): "2x1024* 64 2x1024*",
    (7, "CIFAR-10", (32, 32)): "256 128 128",
    (7, "CIFAR-100", (32, 32)): "1024* 128 256",
    (8,): "128",
    (9, "MetaKANConv", 1): "256 256 64 64",  # C = 1, 3, 5, 7
    (9, "MetaKANConv", 2): "64 32 32 32",
    (9, "MetaKANConv", 4): "64 32 32 32",
    (9, "MetaFastKANConv", 1): "32 32 32 16",
    (9, "MetaFastKANConv", 2): "32 32 32 32",
    (9, "MetaFastKANConv", 4): "32 32 32 32",
}
UNFITTED = {2: 32, 6: 256}  # our h where none fits, and in all of Table 2


class Reason(NamedTuple):
    """Why a printed count differs, and the formula that gives it, for the rows that have what `where` says."""

    text: str
    formula: str
    where: dict[str, object]  # of several values one


SWAPPED = ("I.8.4", "I.12.4")
WITHOUT_LEARNER = ("I.12.5", "I.13.4", "I.14.3", "I.14.4")
FIVES = ("I.10.7", "I.12.11", "I.13.12", "I.15.3x", "I.15.10", "I.18.4")
REASONS = [  # the first that applies counts
    Reason(
        "one edge too many",
        "9 * (N + 1) + O",
        {"table": 2, "model": "KAN", "grid": 5, "equation": ("I.6.20a", "I.6.20")},
    ),
    Reason(
        "unresolved; the cells of KAN and MetaKAN are swapped, so this is MetaKAN's",
        "",
        {"table": 2, "model": "KAN", "grid": 5, "equation": SWAPPED},
    ),
    Reason(
        "as the other rows with G = 20, but for a digit (2,556 instead of 2,566)",
        "N * (25 + row) + O - 10",
        {"table": 2, "model": "KAN", "grid": 20, "equation": "I.9.18"},
    ),
    Reason(
        "the weights per edge, which are 24, count up from row to row as the cells of a spreadsheet do",
        "N * (25 + row) + O",
        {"table": 2, "model": "KAN", "grid": 20},
    ),
    Reason(
        "the cells of KAN and MetaKAN are swapped, so this is KAN's",
        "9 * N + O",
        {"table": 2, "model": "MetaKAN", "grid": 5, "equation": SWAPPED},
    ),
    Reason(
        "the prompts, and the 4 numbers that pykan has per edge for symbolic functions, but no meta-learner",
        "5 * N",
        {"table": 2, "model": "MetaKAN", "grid": 5, "equation": WITHOUT_LEARNER},
    ),
    Reason(
        "unresolved; a multiple of 5, as in the rows of 5 N, but N is not that of the structure",
        "",
        {"table": 2, "model": "MetaKAN", "grid": 5, "equation": FIVES},
    ),
    Reason(
        "a meta-learner without biases that makes 26 weights instead of 24; its h is fitted (ours: 32)",
        "N + (1 + 26) * h",
        {"table": 2, "model": "MetaKAN", "grid": 20, "fits": True},
    ),
    Reason("unresolved", "", {"table": 2, "model": "MetaKAN"}),
    Reason("as for twice as many inputs", "9 * (2 * n + 1) + 2", {"table": 4, "model": "KAN", "function": "f2"}),
    Reason("the prompts are not counted", "MLP(1, h, 9)", {"table": 4, "model": "MetaKAN"}),
    Reason("the count of G = 7", "11 * N + O", {"table": 5, "model": "KAN"}),
    Reason("as for edges with 6 weights instead of 7", "N + (1 + 6) * h", {"table": 5, "model": "MetaKAN"}),
    Reason(
        "the count of SVHN with 6 centres and h = 128, so h is unknown (ours: 256)",
        "N + MLP(1, 128, 7) + 2 * I + 6 * L",
        {"table": 6, "model": "MetaFastKAN"},
    ),
    Reason(
        "with the base weight per edge that the released layer creates and never uses",
        "4 * N + 2 * O",
        {"table": 7, "model": "WavKAN"},
    ),
    Reason("BatchNorm is not counted", "N + C * MLP(1, h, 3)", {"table": 7, "model": "MetaWavKAN", "starred": True}),
    Reason("the count of KAN", "9 * N", {"table": 8, "model": "MetaKAN"}),
]
TITLES = report.TITLES | {
    2: "Table 2. Feynman equations",
    4: "Table 4. Functions of many variables",
    8: "Table 8. Partial differential equations",
}
IDENTITY = {  # the columns that tell rows of a table apart, beside the model and its meta-learners
    2: {"dataset": "data set", "structure": "structure", "grid": "G"},
    3: {"dataset": "data set", "layers": "layers"},
    4: {"dataset": "data set", "dimension": "n"},
    5: {"dataset": "data set", "hidden": "hidden", "grid": "G"},
    6: {"dataset": "data set", "hidden": "hidden", "centers": "centres"},
    7: {"dataset": "data set", "hidden": "hidden", "wavelet": "wavelet"},
    8: {"dataset": "data set"},
    9: {"dataset": "data set", "layers": "layers"},
}
BUILDERS = {"backbone": backbones.BACKBONES, "classifier": nets.CLASSIFIERS, "model": nets.CONV_NETS}
BUILDERS = {"backbone": backbones.BACKBONES, "classifier": nets.CLASSIFIERS, "model": nets.CONV_NETS}
RULE = """\
Ours: what count_parameters says of the network that kanpde builds for the row, numbers that are not trained included.
C meta-learners with h hidden units make the weights from prompts. The paper does not print h: where possible it is
fitted to the printed count. An empty note: the counts are equal.

Notes: N edges, O outputs and I inputs of the L layers together; n inputs of the network; row: which equation it is;
MLP(p, h, W) = (p + 1) * h + (h + 1) * W: a meta-learner that makes W weights from p numbers.
"""


class Learner(NamedTuple):
    """The meta-learners of a row."""

    clusters: int
    prompt_dim: int
    hidden: int  # of ours
    fitted: int  # hidden units that the printed count tells; 0: none
    starred: bool


@dataclass(frozen=True)
class Line:
    """A printed row, our count, and, where they differ, the reason and the values of the letters in its formula."""

    row: dict
    learner: Learner | None
    ours: int
    reason: Reason | None
    letters: dict[str, int]

    @property
    def value(self) -> int | None:
        """What the formula gives. The text itself is evaluated: a formula that is shown cannot be another one."""
        formula = self.reason.formula if self.reason else ""
        return eval(formula, {"__builtins__": {}, "MLP": mlp}, self.letters) if formula else None

    @property
    def status(self) -> Literal["equal", "explained", "unresolved"]:
        if self.ours == self.row["params_printed"]:
            return "equal"
        return "explained" if self.value == self.row["params_printed"] else "unresolved"


def mlp(inputs: int, hidden: int, outputs: int) -> int:
    """The parameters of a two-layer perceptron with biases."""
    return (inputs + 1) * hidden + (hidden + 1) * outputs


def learner(table: int, row: dict) -> Learner | None:
    """The meta-learners of a row, if its model has any."""
    if not row["model"].startswith("Meta"):
        return None
    fields, along = LINES[table]
    key = (table, *(tuple(row[name]) if name == "hidden" else row[name] for name in fields))
    places = list(dict.fromkeys(other[along] for other in printed.rows(table) if other["model"].startswith("Meta")))
    count, fitted, star = re.fullmatch(r"(\dx)?(\d+|-)(\*?)", FITTED[key].split()[places.index(row[along])]).groups()
    options, h = printed.options(row), 0 if fitted == "-" else int(fitted)
    clusters = options.get("clusters", int(count[0]) if count else 1)
    hidden = UNFITTED[table] if table == 2 or not h else h
    return Learner(clusters, options.get("prompt_dim", 1), hidden, h, bool(star))


def specification(table: int, row: dict, meta: Learner | None) -> tuple[str, int, int, dict]:
    """The network of a row: kind, sizes at both ends, name and options."""
    spec: dict = {"name": row["model"].lower()}
    if meta:
        spec |= {"prompt_dim": meta.prompt_dim, "meta_hidden": meta.hidden}
    if table in (2, 4):
        dims = row["structure"] if table == 2 else (row["dimension"], 1, 1)
        spec |= {"widths": tuple(dims[1:-1]), "grid_size": row.get("grid", 5), "bias": meta is None}
        return "backbone", dims[0], dims[-1], spec
    if table == 8:
        return "backbone", row["dimension"], 1, spec
    info = data.DATASETS[printed.DATASETS[row["dataset"]]]
    spec |= printed.options(row)
    if table in (3, 9):
        spec |= {"clusters": "layer"} if spec.get("clusters") == spec["layers"] else {}
        spec |= {"official_count": True} if "kagn" in spec["name"] else {}
        return "model", info.channels, info.classes, spec
    spec["hidden"] = tuple(spec["hidden"])
    spec |= {"meta_share": meta.clusters} if meta and meta.clusters > 1 else {}
    return "classifier", info.channels * 28 * 28, info.classes, spec  # the paper resizes all images to 28 x 28


@cache
def count(kind: str, dim_in: int, dim_out: int, spec: tuple[tuple[str, object], ...]) -> int:
    """The parameters of a network that is built for it."""
    net = construct(kind, BUILDERS[kind], dict(spec), dim_in, dim_out, generator=torch.Generator().manual_seed(0))
    return count_parameters(net)


@cache
def lines(table: int) -> tuple[Line, ...]:
    """Every row of a table in the paper's order."""
    found = []
    for number, row in enumerate(printed.rows(table)):
        meta = learner(table, row)
        kind, dim_in, dim_out, spec = specification(table, row, meta)
        ours = count(kind, dim_in, dim_out, tuple(spec.items()))
        if ours == row["params_printed"]:
            found.append(Line(row, meta, ours, None, {}))
            continue
        dims = (dim_in, *spec.get("hidden", spec.get("widths", (32, 32, 32))), dim_out)
        letters = sizes(dims) | {"n": dim_in, "row": number // 4 + 1}  # Table 2 has 4 rows to an equation
        letters |= {"C": meta.clusters, "h": meta.fitted} if meta else {}
        found.append(Line(row, meta, ours, reason(table, row, meta), letters))
    return tuple(found)


def sizes(dims: Sequence[int]) -> dict[str, int]:
    """The letters of the formulas for a fully connected network."""
    edges = sum(n_in * n_out for n_in, n_out in itertools.pairwise(dims))
    return {"N": edges, "O": sum(dims[1:]), "I": sum(dims[:-1]), "L": len(dims) - 1}


def reason(table: int, row: dict, meta: Learner | None) -> Reason:
    """The first reason that names a row."""
    facts = row | {"table": table} | ({"starred": meta.starred, "fits": meta.fitted > 0} if meta else {})
    return next(reason for reason in REASONS if _applies(reason.where, facts))


def _applies(where: Mapping[str, object], facts: Mapping[str, object]) -> bool:
    wanted = {name: value if isinstance(value, tuple) else (value,) for name, value in where.items()}
    return all(facts.get(name) in values for name, values in wanted.items())


def build(table: int) -> report.Table:
    """A table of the paper as it is shown."""
    columns = [*IDENTITY[table].values(), "model", "C", "prompt", "h", "printed", "ours", "note"]
    shown: list[list[str]] = []
    footnotes: dict[str, int] = {}
    for line in lines(table):
        identity = [report.cell(line.row[name]) for name in IDENTITY[table]]
        learners = [str(number) for number in line.learner[:3]] if line.learner else [""] * 3
        counts = [f"{line.row['params_printed']:,}", f"{line.ours:,}"]
        shown.append([*identity, line.row["model"], *learners, *counts, _note(line, footnotes)])
    return report.Table(TITLES[table], columns, shown, [f"[{number}] {text}" for text, number in footnotes.items()])


def _note(line: Line, footnotes: dict[str, int]) -> str:
    """The number of the footnote with the reason, and its formula in numbers."""
    if line.reason is None:
        return ""
    text, formula, _ = line.reason
    number = footnotes.setdefault(f"{text}: {formula}" if formula else text, len(footnotes) + 1)
    if not formula:
        return f"[{number}] unresolved"
    numbers = re.sub(r"\b[A-Za-z]+\b", lambda match: str(line.letters.get(match[0], match[0])), formula)
    return f"[{number}] {numbers} = {line.value}"


def summary(tables: Sequence[int]) -> report.Table:
    """How many rows of each table are equal, explained and unresolved."""
    counts = {f"Table {table}": Counter(line.status for line in lines(table)) for table in tables}
    counts["all"] = sum(counts.values(), Counter())
    states = ("equal", "explained", "unresolved")
    shown = [[name, str(found.total()), *(str(found[state]) for state in states)] for name, found in counts.items()]
    return report.Table("Summary", ["table", "rows", *states], shown, [])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, or write them to a file."""
    parser = report.Parser(prog="parameter_counts", description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=int, nargs="+", choices=IDENTITY, default=list(IDENTITY), help="default all")
    parser.add_argument("--format", choices=("text", "markdown"), default="text")
    parser.add_argument("--out", type=Path, help="write there instead of printing")
    args = parser.parse_args(argv)
    setter = {"text": report.text, "markdown": report.markdown}[args.format]
    text = "\n".join([RULE, *map(setter, map(build, args.table)), setter(summary(args.table))])
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    report.exiting(main, "parameter_counts")
