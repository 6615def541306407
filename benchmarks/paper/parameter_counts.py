"""The parameter counts that Tables 2 to 9 of the paper print, beside those of the networks that this library builds.

    python -m benchmarks.parameter_counts [--table 3 ...] [--format text|markdown] [--out FILE]

Where the two differ, a note says why, with a formula that gives the printed count, or that none was found.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import torch

from benchmarks.common import printed, study
from benchmarks.common.learners import Learner, learner
from benchmarks.images import data, nets
from benchmarks.paper import report
from kanpde import backbones
from kanpde.ground.construct import construct
from kanpde.kan.network import count_parameters


class Reason(NamedTuple):
    """Why a printed count differs, and the formula that gives it."""

    where: str  # words that a row of the table has (see `reason`), / between alternatives
    text: str
    formula: str


UNRESOLVED = Reason("", "unresolved: no formula found", "")
REASONS = {  # of a table, the first that applies
    2: [
        Reason("KAN 5 I.6.20a/I.6.20", "one edge too many", "9 * (N + 1) + O"),
        Reason("KAN 5 I.8.4/I.12.4", "unresolved: MetaKAN's count, for the two cells are swapped", ""),
        Reason("MetaKAN 5 I.8.4/I.12.4", "KAN's count, for the two cells are swapped", "9 * N + O"),
        Reason("KAN 20 I.9.18", "the same as for other KANs, but 2,566 became 2,556", "N * (25 + row) + O - 10"),
        Reason("KAN 20", "per edge 1 more in each row, as in a spreadsheet; right is 24", "N * (25 + row) + O"),
        Reason("MetaKAN 20 fits", "no biases, 26 weights instead of 24, h fitted (ours: 32)", "N + (1 + 26) * h"),
        Reason("MetaKAN 5 I.12.5/I.13.4/I.14.3/I.14.4", "prompts and pykan's 4 symbolic weights alone", "5 * N"),
    ],
    4: [
        Reason("KAN f2", "twice as many inputs", "9 * (2 * n + 1) + 2"),
        Reason("MetaKAN", "all but the prompts", "MLP(1, h, 9)"),
    ],
    5: [
        Reason("KAN", "the row with G = 7", "11 * N + O"),
        Reason("MetaKAN", "6 weights to an edge instead of 7", "N + (1 + 6) * h"),
    ],
    6: [Reason("", "SVHN with 6 centres; h unknown (ours: 256)", "N + MLP(1, 128, 7) + 2 * I + 6 * L")],
    7: [
        Reason("WavKAN", "also the base weights that the released layer has and never uses", "4 * N + 2 * O"),
        Reason("MetaWavKAN starred", "all but BatchNorm", "N + C * MLP(1, h, 3)"),
    ],
    8: [Reason("", "KAN's count", "9 * N")],
}
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
RULE = """\
Ours: what count_parameters says of the network that kanpde builds for the row, numbers that are not trained included.
C meta-learners of h hidden units make the weights from prompts. The paper does not print h: it is the value that gives
the printed count, except in Table 2. Equal counts take numbers that are never used, as in the released code: two of a
KAGNConv layer, and one of 7 meta-learners. A row without a note is equal; a note tells what was counted instead:

N edges, O outputs and I inputs of the L layers together, n inputs of the network, row: which equation it is,
MLP(p, h, W) = (p + 1) * h + (h + 1) * W for a meta-learner that makes W weights from p numbers.
"""


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
        why, letters = None, {}
        if ours != row["params_printed"]:
            why = reason(table, row, meta)
            letters = sizes((dim_in, *spec.get("hidden", spec.get("widths", (32, 32, 32))), dim_out))
            letters |= {"n": dim_in, "row": number // 4 + 1}  # Table 2 has 4 rows to an equation
            letters |= {"C": meta.clusters, "h": meta.fitted} if meta else {}
        found.append(Line(row, meta, ours, why, letters))
    return tuple(found)


def sizes(dims: Sequence[int]) -> dict[str, int]:
    """The letters of the formulas for a fully connected network."""
    edges = sum(n_in * n_out for n_in, n_out in itertools.pairwise(dims))
    return {"N": edges, "O": sum(dims[1:]), "I": sum(dims[:-1]), "L": len(dims) - 1}


def reason(table: int, row: dict, meta: Learner | None) -> Reason:
    """The first of the table's reasons whose words the row has."""
    words = {str(row.get(name)) for name in ("model", "grid", "equation", "function")}
    words |= {"starred" if meta and meta.starred else "", "fits" if meta and meta.fitted else ""}
    has = lambda where: all(words & set(word.split("/")) for word in where.split())
    return next((found for found in REASONS.get(table, []) if has(found.where)), UNRESOLVED)


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
    _, text, formula = line.reason
    number = footnotes.setdefault(f"{text}: {formula}" if formula else text, len(footnotes) + 1)
    if not formula:
        return f"[{number}] unresolved"
    numbers = re.sub(r"\b[A-Za-z]+\b", lambda match: str(line.letters.get(match[0], match[0])), formula)
    return f"[{number}] {numbers} = {line.value:,}"


def summary(tables: Sequence[int]) -> report.Table:
    """How many rows of each table are equal, explained and unresolved."""
    counts = {f"Table {table}": Counter(line.status for line in lines(table)) for table in tables}
    counts["all"] = sum(counts.values(), Counter())
    states = ("equal", "explained", "unresolved")
    shown = [[name, str(found.total()), *(str(found[state]) for state in states)] for name, found in counts.items()]
    return report.Table("Summary", ["table", "rows", *states], shown, [])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables, or write them to a file."""
    args = report.table_parser("parameter_counts", __doc__, list(IDENTITY)).parse_args(argv)
    setter = {"text": report.text, "markdown": report.markdown}[args.format]
    text = "\n".join([RULE, *map(setter, map(build, args.table)), setter(summary(args.table))])
    study.deliver(text, args.out)


if __name__ == "__main__":
    study.exiting(main, "parameter_counts")
