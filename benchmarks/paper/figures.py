"""Figures 2, 4, 6 and 7 of the paper, drawn from the printed tables and from our own measurements.

    python -m benchmarks.figures NAME... [--runs DIR ...] [--out DIR] [--format png|pdf|svg]

    tradeoff    parameters against accuracy, printed and measured, an arrow from each KAN to its MetaKAN (Figure 2)
    memory      peak memory of training against connections and grid size, from a memory.csv (Figure 4)
    curves      loss and accuracy over the epochs, a picture for each data set; name the runs to compare (Figure 6)
    tsne        t-SNE of features, from .npz files with arrays features, labels, model (Figure 7)

The colours are safe for the colour-blind.
"""

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.common import printed
from benchmarks.common.study import RESULTS, Parser, Row, exiting, kept
from benchmarks.paper.report import TITLES, Measured, differences, find, same_but_seed
from kanpde.ground.errors import ConfigError

Side = tuple[str, np.ndarray, np.ndarray]  # model, features (N, F), labels (N,)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
DATASETS = dict(zip(printed.DATASETS, COLOURS, strict=False))
CLASSES = ("#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#777777")
PANELS = {  # of the trade-off: model, title: table, and the setting shown of many
    ("KAN", "KAN, hidden 32, G = 5"): (5, {"hidden": [32], "grid_size": 5}),
    ("FastKAN", "FastKAN, hidden 32, 8 centres"): (6, {"hidden": [32], "centers": 8}),
    ("WavKAN", "WavKAN, hidden 32, Mexican hat"): (7, {"hidden": [32], "wavelet": "mexican_hat"}),
    ("KANConv", "KANConv, 4 layers"): (3, {"layers": 4}),
}
MEMORY = ("width", "grid", "meta_hidden", "batch", "connections", "parameters", "peak_bytes")
MODELS = {row["model"].lower(): row["model"] for table in TITLES for row in printed.rows(table)}
MARKERS = {"printed": dict(ls="none", ms=9, mfc="none", zorder=4), "measured": dict(ls="none", ms=5.5, zorder=3)}
DASHED = (0, (4, 1.5))
BELOW = dict(loc="outside lower center", frameon=False)
POINTS = 2000  # of a t-SNE: more take minutes and hide one another

_key = partial(Line2D, [], [])  # of a legend


def tradeoff(runs: Sequence[Measured]) -> Figure:
    """Parameters against accuracy for one setting of each kind of network, a panel each.

    Runs with a caveat are left out. Of several groups of runs that belong to one printed row, the largest is shown.
    """
    figure = Figure(figsize=(8.5, 8.0), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    comparable = [run for run in runs if not run.caveat]
    for ax, ((model, title), (table, settings)) in zip(figure.subplots(2, 2).flat, PANELS.items(), strict=True):
        rows = [row for row in printed.rows(table) if settings.items() <= printed.options(row).items()]
        for dataset, colour in DATASETS.items():
            here = {row["model"]: row for row in rows if row["dataset"] == dataset}
            pair = [here[name] for name in (model, f"Meta{model}") if name in here]
            _pair(ax, [(row["params_printed"], row["accuracy_printed"]) for row in pair], colour, filled=False)
            _pair(ax, [_point(row, comparable) for row in pair], colour, filled=True)
        ax.margins(x=0.14)
        ax.set(xscale="log", ylim=(0, 103), xlabel="parameters", ylabel="test accuracy (%)", title=title)
        _log_ticks(ax.xaxis)
        _finish(ax)
    keys = [_key(label=name, color=colour, linewidth=5) for name, colour in DATASETS.items()]
    for side, style in MARKERS.items():
        keys.append(_key(label=f"KAN, {side}", marker="o", color="0.25", **style))
        keys.append(_key(label=f"MetaKAN, {side}", marker="s", color="0.25", **style))
    figure.legend(handles=keys, ncols=5, **BELOW)
    return figure


def _point(row: dict, runs: Sequence[Measured]) -> tuple[float, float] | None:
    group = max(same_but_seed(run for run in runs if run.belongs(row)), key=len, default=None)
    return group and (group[0].parameters, float(np.mean([run.accuracy for run in group])))


def _pair(ax: Axes, points: Sequence[tuple[float, float] | None], colour: str, filled: bool) -> None:
    """A KAN as a circle, its MetaKAN as a square, and an arrow from the one to the other."""
    for point, marker in zip(points, "os", strict=False):
        if point:
            ax.plot(*point, marker=marker, color=colour, **MARKERS["measured" if filled else "printed"])
    if len(points) == 2 and all(points):
        line = dict(color=colour, linewidth=1.4 if filled else 0.9, alpha=0.9 if filled else 0.55)
        arrow = dict(arrowstyle="-|>", shrinkA=6, shrinkB=6, mutation_scale=11, **line)
        ax.annotate("", xy=points[1], xytext=points[0], arrowprops=arrow)


def curves(runs: Sequence[Measured]) -> Figure:
    """Loss and accuracy over the epochs: the mean over seeds, and their range as a band.

    Raises:
        ConfigError: more runs than one can tell apart.
    """
    groups = same_but_seed(runs)
    if len(groups) > len(COLOURS):
        raise ConfigError(f"curves of {len(groups)} different runs on {runs[0].dataset}: name at most {len(COLOURS)}")
    figure = Figure(figsize=(9.0, 4.4), layout="constrained")
    for ax, name, label in zip(figure.subplots(1, 2), ("loss", "accuracy"), ("loss", "accuracy (%)"), strict=True):
        for group, colour in zip(groups, COLOURS, strict=False):
            _band(ax, group, f"train_{name}", color=colour, linestyle=DASHED, linewidth=1.2)
            _band(ax, group, f"validation_{name}", color=colour, linewidth=1.8)
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.get_major_locator().set_params(integer=True)
        _finish(ax)
        if name == "loss":
            ax.set_yscale("log")
            _log_ticks(ax.yaxis)
    keys = [_key(label=_name(group, groups), color=c, linewidth=3) for group, c in zip(groups, COLOURS, strict=False)]
    keys += [_key(label="validation", color="0.3"), _key(label="training", color="0.3", linestyle=DASHED)]
    figure.suptitle(next(name for name, ours in printed.DATASETS.items() if ours == runs[0].dataset))
    longest = max(len(key.get_label()) for key in keys)
    columns = 4 if longest < 25 else 2 if longest < 60 else 1
    figure.set_figheight(4.2 + 0.22 * -(-len(keys) // columns))  # all panels of one height, however long the legend
    figure.legend(handles=keys, ncols=columns, **BELOW)
    return figure


def _band(ax: Axes, group: Sequence[Measured], column: str, **style: object) -> None:
    length = min(run.epochs for run in group)
    values, epochs = np.array([run.history[column][:length] for run in group]), group[0].history["epoch"][:length]
    ax.plot(epochs, values.mean(0), marker="o" if length == 1 else None, **style)
    if len(group) > 1:
        ax.fill_between(epochs, values.min(0), values.max(0), color=style["color"], alpha=0.15, linewidth=0)


def _name(group: Sequence[Measured], groups: Sequence[Sequence[Measured]]) -> str:
    """The model, what tells it from others of its kind, and the number of seeds."""
    run, rivals = group[0], [other for other in groups if other[0].model == group[0].model]
    seeds = f"{len(group)} seeds" if len(group) > 1 else ""
    return ", ".join(filter(None, [MODELS.get(run.model, run.model), differences(group, rivals), run.caveat, seeds]))


def memory(rows: Sequence[Mapping]) -> Figure:
    """Peak memory against connections and against grid size, where most rows are; of equals G small and width large."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained")
    panels = (("grid", "G = {:g}", "connections", "connections"), ("width", "width {:g}", "grid", "grid size G"))
    for ax, (fixed, title, along, label) in zip(figure.subplots(1, 2), panels, strict=True):
        choices = {row[fixed]: len({other[along] for other in rows if other[fixed] == row[fixed]}) for row in rows}
        value = max(choices, key=lambda choice: (choices[choice], -choice if fixed == "grid" else choice))
        ax.set_prop_cycle(color=COLOURS)
        for name, line in _lines([row for row in rows if row[fixed] == value]).items():
            x, y = zip(*sorted((row[along], row["peak_bytes"] / 1e6) for row in line), strict=True)
            ax.plot(x, y, marker="s" if name.startswith("Meta") else "o", markersize=6, linewidth=1.8, label=name)
        ax.set(title=title.format(value), xlabel=label, ylabel="peak memory in training (MB)")
        _finish(ax)
        ax.legend(frameon=False)
    left, right = figure.axes
    left.set(xscale="log", yscale="log")
    right.set_ylim(bottom=0)
    _log_ticks(left.xaxis)
    _log_ticks(left.yaxis)
    return figure


def _lines(rows: Sequence[Mapping]) -> dict[str, list[Mapping]]:
    """The rows of each line by its label, which names what several lines of a model differ in."""
    lines: dict[str, list[Mapping]] = {}
    for row in rows:
        same = [other for other in rows if other["model"] == row["model"]]
        varied = [name for name in ("meta_hidden", "batch") if len({other[name] for other in same}) > 1]
        said = [f"{name.replace('meta_hidden', 'meta-learner')} {row[name]:g}" for name in varied]
        lines.setdefault(", ".join([MODELS.get(row["model"], row["model"]), *said]), []).append(row)
    return lines


def tsne(sides: Sequence[Side], seed: int = 0) -> Figure:
    """t-SNE of the features of each model, side by side; of more than ten classes the first ten.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ConfigError("tsne needs scikit-learn: pip install scikit-learn") from None
    figure = Figure(figsize=(4.5 * len(sides), 5.0), layout="constrained")
    found = sorted({int(label) for _, _, labels in sides for label in labels})[: len(CLASSES)]
    for ax, (model, features, labels) in zip(figure.subplots(1, len(sides), squeeze=False)[0], sides, strict=True):
        known = np.flatnonzero(np.isin(labels, found))
        chosen = np.random.default_rng(seed).permutation(known)[:POINTS]
        near = min(30.0, (len(chosen) - 1) / 3)  # fewer points have fewer neighbours
        flat = TSNE(perplexity=near, init="pca", random_state=seed).fit_transform(features[chosen])
        for label, colour in zip(found, CLASSES, strict=False):
            ax.scatter(*flat[labels[chosen] == label].T, s=9, color=colour, linewidths=0, alpha=0.8)
        ax.set_title(MODELS.get(model.lower(), model))
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("0.8")
    dot = partial(_key, marker="o", linestyle="none", markersize=7)
    keys = [dot(label=str(label), color=colour) for label, colour in zip(found, CLASSES, strict=False)]
    figure.legend(handles=keys, ncols=10, title="class", handletextpad=0.1, columnspacing=1.2, **BELOW)
    return figure


def _finish(ax: Axes) -> None:
    ax.grid(which="major", color="0.92")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("0.4")


def _log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 of each decade, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(_short)
    axis.set_minor_formatter(NullFormatter())


def _short(value: float, _: int) -> str:
    unit, size = ("M", 1e6) if value >= 1e6 else ("k", 1e3) if value >= 1e3 else ("", 1)
    return f"{value / size:g}{unit}"


def _files(places: Sequence[Path], pattern: str) -> list[Path]:
    """Files that are named and have the pattern's suffix, and those below the folders named that match it."""
    for place in places:
        if not place.exists():
            raise ConfigError(f"{place}: no such file or folder")
    below = (path for place in places if place.is_dir() for path in sorted(place.rglob(pattern)))
    files = [*(place for place in places if place.is_file() and place.suffix == Path(pattern).suffix), *below]
    if not files:
        raise ConfigError(f"no {pattern} in {', '.join(map(str, places))}")
    return files


def _runs(places: Sequence[Path]) -> list[Measured]:
    runs, left_out = find([place for place in places if place.suffix not in (".npz", ".csv")])
    print("".join(f"{note}\n" for note in left_out), end="")
    return runs


def _tradeoff(places: Sequence[Path]) -> Iterator[tuple[str, Figure]]:
    runs = _runs(places)
    print("".join(f"Left out, {run.caveat}: {run.path.name}\n" for run in runs if run.caveat), end="")
    yield "tradeoff", tradeoff(runs)


def _curves(places: Sequence[Path]) -> Iterator[tuple[str, Figure]]:
    runs = _runs(places)
    if not runs:
        raise ConfigError(f"no finished run in {', '.join(map(str, places))}")
    for dataset in dict.fromkeys(run.dataset for run in runs):
        yield f"curves-{dataset}", curves([run for run in runs if run.dataset == dataset])


def _memory(places: Sequence[Path]) -> Iterator[tuple[str, Figure]]:
    path, *others = _files(places, "memory.csv")
    if others:
        raise ConfigError(f"memory: {path} and {others[0]}: name one")

    def read(line: Row) -> Row:
        numbers = line | {"meta_hidden": line["meta_hidden"] or 0}
        return {name: float(numbers[name]) for name in MEMORY} | {"model": line["model"].lower()}

    rows = list(map(read, kept(path, ("model", *MEMORY), read)))
    if not rows:
        raise ConfigError(f"{path}: no rows")
    yield "memory", memory(rows)


def _tsne(places: Sequence[Path]) -> Iterator[tuple[str, Figure]]:
    yield "tsne", tsne(sorted(map(_side, _files(places, "*.npz")), key=lambda side: side[0].lower().startswith("meta")))


def _side(path: Path) -> Side:
    try:
        with np.load(path) as data:
            features, labels, model = data["features"], data["labels"], str(data["model"])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: not an .npz file of features, labels, model ({error})") from None
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) < 4:
        raise ConfigError(f"{path}: features {features.shape} and labels {labels.shape}, wanted (N, F) and (N,), N > 3")
    return model, features, labels


FIGURES = {"tradeoff": _tradeoff, "memory": _memory, "curves": _curves, "tsne": _tsne}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("figures", __doc__)
    parser.add_argument("names", nargs="+", choices=FIGURES)
    parser.add_argument("--runs", type=Path, nargs="+", default=[RESULTS], help="folders, or files")
    parser.add_argument("--out", type=Path, default=RESULTS / "figures", help="folder of the pictures")
    parser.add_argument("--format", choices=("png", "pdf", "svg"), default="png")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        for stem, figure in FIGURES[name](args.runs):
            path = args.out / f"{stem}.{args.format}"
            figure.savefig(path, dpi=250)
            print(path)


if __name__ == "__main__":
    exiting(main, "figures")
