"""Tables 3, 5, 6, 7 and 9 of the paper: the printed accuracies beside those of our own runs.

    python -m benchmarks.report [--runs DIR ...] [--table 3 ...] [--format text|markdown] [--out FILE]

Runs are the finished classification results (.h5) below the folders given. Runs that differ by their seed alone share
a line of a table; of the same seed the first file counts.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from benchmarks.common import printed, study
from benchmarks.common.learners import DEFAULTS
from benchmarks.common.study import RESULTS, Parser, deliver, exiting, flat
from kanpde.ground.errors import ConfigError
from kanpde.records import RunFileError
from kanpde.runs.models import Run

TITLES = {
    3: "Table 3. Convolutional networks",
    5: "Table 5. KAN and MetaKAN",
    6: "Table 6. FastKAN and MetaFastKAN",
    7: "Table 7. WavKAN and MetaWavKAN",
    9: "Table 9. Numbers of meta-learners (C) and prompt sizes",
}
HEADINGS = {"hidden": "hidden", "grid_size": "G", "centers": "centres", "wavelet": "wavelet"}  # of identifying options
HEADINGS |= {"layers": "layers", "clusters": "C", "prompt_dim": "prompt"}
HISTORY = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")
WORDS = ("data set", "model", "wavelet", "note")  # columns that are set flush left
RULE = (
    "Accuracy on the test images in %. Printed: the paper's. Measured: ours, with the weights of the epoch that the\n"
    "validation images chose; mean ± sample standard deviation over seeds. A dash: nothing measured.\n"
)


@dataclass(frozen=True)
class Measured:
    """A finished run, as far as tables and figures need it."""

    path: Path
    model: str
    dataset: str  # that of the printed rows it stands beside
    seed: int
    parameters: int
    accuracy: float
    config: dict  # settings by dotted name
    caveat: str  # why it does not compare with the printed number; empty if it does
    history: dict = field(repr=False)

    @property
    def epochs(self) -> int:
        return len(self.history["epoch"])

    def belongs(self, row: dict) -> bool:
        """Whether a printed row has this model, data set, and settings."""
        same = self.model == row["model"].lower() and self.dataset == printed.DATASETS[row["dataset"]]
        return same and all(self._option(name) == value for name, value in printed.options(row).items())

    def _option(self, name: str) -> object:
        value = self.config.get(f"options.{name}")
        return self._option("layers") if name == "clusters" and value == "layer" else value  # a meta-learner for each


def find(places: Sequence[Path]) -> tuple[list[Measured], list[str]]:
    """Finished classification runs, .h5 files named or anywhere below folders named, and a note on each thing left out.

    Raises:
        ConfigError: there is no such file or folder, or a file that was named is no classification result.
    """
    runs, unfinished, broken = [], defaultdict(list), []
    for path, named in _files(places).items():
        try:
            run = Run.open(path)
            if run.attrs.get("kind") == "classification" and run.attrs.get("status") == "finished":
                runs.append(_measured(run))
            elif run.attrs.get("kind") == "classification":
                unfinished[run.attrs.get("status", "of unknown status")].append(path.name)
            elif named:  # folders may well hold results of other kinds
                raise ConfigError(f"{path}: a result, but not of a classification run")
        except (RunFileError, ConfigError) as error:
            if named:
                raise ConfigError(str(error)) from None
            broken.append(f"Left out: {error}")
    notes = [f"Left out, {status}: {listed(names)}" for status, names in sorted(unfinished.items())]
    kept, repeated = _once_per_seed(runs)
    return kept, [*notes, *repeated, *broken]


def _files(places: Sequence[Path]) -> dict[Path, bool]:
    """Each file once, and whether it was named."""
    files: dict[Path, bool] = {}
    for place in places:
        if not place.exists():
            raise ConfigError(f"{place}: no such file or folder of runs")
        below = (path for path in place.rglob("*.h5") if not path.name.startswith("."))  # no file being written
        for path in [place] if place.is_file() else sorted(below):
            files[path] = place.is_file() or files.get(path, False)
    return files


def _measured(run: Run) -> Measured:
    try:
        attrs = run.attrs
        dataset, split = printed.OTHER_SPLITS.get(attrs["dataset"], (attrs["dataset"], ""))
        return Measured(
            path=run.path,
            model=str(attrs["model"]).lower(),
            dataset=dataset,
            seed=int(attrs["seed"]),
            parameters=int(attrs["parameters"]),
            accuracy=float(attrs["test_accuracy"]),
            config={f"options.{k}": v for k, v in DEFAULTS.items()} | flat(json.loads(attrs["config"])),
            caveat="; ".join(filter(None, [split, _subset(attrs)])),
            history={name: run.history[name] for name in HISTORY},
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{run.path}: a damaged classification result ({type(error).__name__}: {error})") from None


def _subset(attrs: dict) -> str:
    """What to say of a run that saw fewer training images than there are, those for validation counted in."""
    trained, whole = int(attrs["train_examples"]), printed.TRAINING_IMAGES[attrs["dataset"]]
    fewer = trained + int(attrs.get("validation_examples", 0)) < whole
    return f"trained on {trained:,} of the {whole:,} training images" if fewer else ""


def same_but_seed(runs: Iterable[Measured]) -> list[list[Measured]]:
    """Runs that differ by nothing but the seed together, in the order of their first; seeds ascend."""
    groups = defaultdict(list)
    for run in runs:
        groups[run.model, run.dataset, run.caveat, json.dumps(run.config, sort_keys=True)].append(run)
    return [sorted(group, key=lambda run: run.seed) for group in groups.values()]


def _once_per_seed(runs: list[Measured]) -> tuple[list[Measured], list[str]]:
    kept, notes = [], []
    for group in same_but_seed(runs):
        first: dict[int, Measured] = {}
        for run in group:
            if first.setdefault(run.seed, run) is not run:
                notes.append(f"Left out: {run.path.name} repeats seed {run.seed} of {first[run.seed].path.name}")
        kept += first.values()
    return kept, notes


def listed(names: Sequence[str], shown: int = 4) -> str:
    """The first few of many names."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


@dataclass
class Table:
    """A table ready to be set: all cells are text, and the column `note` has the numbers of the footnotes."""

    title: str
    columns: list[str]
    lines: list[list[str]]
    footnotes: list[str]


def build(table: int, runs: Sequence[Measured]) -> Table:
    """Every printed row, once for each group of runs that belongs to it, or with dashes."""
    rows, lines, footnotes = printed.rows(table), [], {}
    settings = [name for name in HEADINGS if any(name in printed.options(row) for row in rows)]
    columns = ["data set", *(HEADINGS[name] for name in settings), "model", "parameters printed", "parameters ours"]
    columns += ["accuracy printed", "accuracy measured", "seeds", "epochs", "note"]
    for row in rows:
        options = printed.options(row)
        start = [row["dataset"], *(cell(options.get(name, "")) for name in settings), row["model"]]
        start.append(f"{row['params_printed']:,}")
        shown = _mean(row["accuracy_printed"], row.get("accuracy_std_printed"))
        groups = same_but_seed(run for run in runs if run.belongs(row))
        for group in sorted(groups, key=lambda group: group[0].caveat):  # what compares comes first
            note = "; ".join(filter(None, [group[0].caveat, differences(group, groups)]))
            mark = f"[{footnotes.setdefault(note, len(footnotes) + 1)}]" if note else ""
            parameters, *rest = _measurements(group)
            lines.append([*start, parameters, shown, *rest, mark])
        if not groups:
            lines.append([*start, "-", shown, "-", "-", "-", ""])
    return Table(TITLES[table], columns, lines, [f"[{number}] {note}" for note, number in footnotes.items()])


def _measurements(group: Sequence[Measured]) -> list[str]:
    """Parameters, accuracy, seeds, epochs."""
    accuracies = [run.accuracy for run in group]
    found = [sorted({getattr(run, name) for run in group}) for name in ("parameters", "epochs")]
    parameters, epochs = (", ".join(f"{number:,}" for number in numbers) for numbers in found)
    return [parameters, study.spread(accuracies, ".2f", ".2f"), str(len(group)), epochs]


def differences(group: Sequence[Measured], groups: Sequence[Sequence[Measured]]) -> str:
    """The settings of a group that not all groups share; what a caveat says already is left out."""
    configs = [other[0].config for other in groups]
    names = sorted({name for config in configs for name in config} - {"dataset", "recipe.train_examples"})
    own = {name: group[0].config.get(name, "unset") for name in names}
    differing = [name for name in names if any(config.get(name, "unset") != own[name] for config in configs)]
    return ", ".join(f"{name.split('.', 1)[-1]} {cell(own[name])}" for name in differing)


def _mean(mean: float, spread: float | None) -> str:
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def cell(value: object) -> str:
    """A setting in words."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def markdown(table: Table) -> str:
    align = "".join("l" if name in WORDS else "r" for name in table.columns)
    lines = study.markdown(table.columns, table.lines, align)
    return "\n".join([f"## {table.title}", "", *lines, "", *(f"- {note}" for note in table.footnotes)]).rstrip() + "\n"


def text(table: Table) -> str:
    """The table for a terminal, as wide as it must be."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in table.columns:
        drawn.add_column(name.replace(" ", "\n"), justify="left" if name in WORDS else "right", no_wrap=True)
    for line in table.lines:
        drawn.add_row(*map(Text, line))
    out = StringIO()
    Console(file=out, width=500).print(drawn)
    lines = [line.rstrip() for line in out.getvalue().rstrip().splitlines()]
    return "\n".join([table.title, *lines, *table.footnotes]) + "\n"


def report(places: Sequence[Path], tables: Sequence[int] = tuple(TITLES), style: str = "text") -> str:
    """The tables in the style "text" or "markdown", and below them what was left out."""
    setter = {"text": text, "markdown": markdown}[style]
    runs, left_out = find(places)
    every = [row for table in TITLES for row in printed.rows(table)]
    strangers = [run.path.name for run in runs if not any(run.belongs(row) for row in every)]
    notes = [f"In no row of these tables: {listed(strangers)}"] if strangers else []
    notes = [*([] if runs else ["No finished run was found"]), *notes, *left_out]
    parts = [RULE, *(setter(build(table, runs)) for table in tables), *(f"- {note}" for note in notes)]
    return "\n".join(parts).rstrip() + "\n"


def table_parser(name: str, about: str, tables: Sequence[int]) -> Parser:
    """The options of a program that prints tables of the paper."""
    parser = Parser(name, about)
    parser.add_argument("--table", type=int, nargs="+", choices=tables, default=list(tables), help="default all")
    parser.add_argument("--format", choices=("text", "markdown"), default="text")
    return parser.common()


def main(argv: Sequence[str] | None = None) -> None:
    parser = table_parser("report", __doc__, list(TITLES))
    parser.add_argument("--runs", type=Path, nargs="+", default=[RESULTS], help="folders, or .h5 files")
    args = parser.parse_args(argv)
    deliver(report(args.runs, args.table, args.format), args.out)


if __name__ == "__main__":
    exiting(main, "report")
