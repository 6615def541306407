"""A classifier trained with several seeds, one after another: what `benchmarks.images` and `.conv` have in common."""

import json
import os
import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from inspect import Signature, signature
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from benchmarks.classify import Training, train
from benchmarks.data import DATASETS
from benchmarks.parameter_counts import fitted_hidden
from benchmarks.recipes import Recipe, Task
from kanpde.checks import check_device
from kanpde.config import ConfigError, assign
from kanpde.construct import call
from kanpde.record import Run

console = Console(highlight=False, soft_wrap=True)

# ---------------------------------------------------------------------------------------------------------------
# Options that both command lines have

Dataset = Annotated[str | None, typer.Option(help=f"One of {', '.join(DATASETS)}.")]
Epochs = Annotated[int | None, typer.Option(help="Passes through the training examples.")]
Batch = Annotated[int | None, typer.Option(help="Examples of a step.")]
LrPrompts = Annotated[float | None, typer.Option(help="Learning rate of the prompts.")]
LrMeta = Annotated[float | None, typer.Option(help="Learning rate of the meta-learners.")]
Lr = Annotated[float | None, typer.Option(help="Learning rate of all other parameters.")]
WeightDecay = Annotated[float | None, typer.Option(help="Weight decay of AdamW.")]
Schedule = Annotated[
    Literal["cosine", "exponential", "constant"] | None,
    typer.Option(help="Learning rates over the steps: cosine reaches 0, exponential shrinks by --decay an epoch."),
]
Decay = Annotated[float | None, typer.Option(help="Factor an epoch of the exponential schedule.")]
LabelSmoothing = Annotated[float | None, typer.Option(help="Label smoothing of the training loss.")]
Scaling = Annotated[
    Literal["unit", "standard"] | None,
    typer.Option(help="Pixels: unit maps to [-1, 1] (default), standard uses the data set's mean and deviation."),
]
Validation = Annotated[
    float | None, typer.Option(help="Number or fraction of training examples kept for model selection.")
]
TrainExamples = Annotated[int | None, typer.Option(help="Train on a subset of this many examples; default all.")]
Seeds = Annotated[str | None, typer.Option(help="3 means seeds 0, 1, 2; 0,1,4 and 7, name them. [default: 1]")]
Data = Annotated[Path | None, typer.Option(help="Folder of the data sets; default $KANPDE_DATA.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... [default: cpu]")]
Out = Annotated[Path | None, typer.Option(help="Folder of the result files.")]
Tag = Annotated[str | None, typer.Option(help="A word of your own in the names of the result files.")]
Resume = Annotated[Path | None, typer.Option(help="Go on with the run of this result file; all else it says itself.")]
Again = Annotated[bool | None, typer.Option("--again", help="Replace results that exist instead of skipping them.")]
Quiet = Annotated[bool | None, typer.Option("--quiet", help="Print nothing but errors.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Any option of the network: name=value.")]

WITH_RESUME = {"resume", "data", "device", "quiet"}
RATES = {"lr_prompts": "prompts", "lr_meta": "meta", "lr": "rest"}
SHORT = {"hidden": "", "grid_size": "g", "spline_order": "k", "centers": "c", "wavelet": "", "prompt_dim": "p"}
SHORT |= {"meta_hidden": "h", "clusters": "m", "layers": "l", "train_examples": "n"}  # before values in file names


@dataclass(frozen=True)
class Family:
    """What the command lines differ in.

    Attributes:
        model: the option that names the network.
        build: (name and options, (C, H, W), classes, generator) -> network.
        options: those of the network that have a flag of their own.
        recipe: (name, data set) -> the default recipe.
    """

    model: str
    build: Callable[..., nn.Module]
    options: tuple[str, ...]
    recipe: Callable[[str, str], Recipe]
    out: Path
    flat: bool


def _common(
    sets: Sets = None,
    epochs: Epochs = None,
    batch: Batch = None,
    lr_prompts: LrPrompts = None,
    lr_meta: LrMeta = None,
    lr: Lr = None,
    weight_decay: WeightDecay = None,
    schedule: Schedule = None,
    decay: Decay = None,
    label_smoothing: LabelSmoothing = None,
    scaling: Scaling = None,
    validation: Validation = None,
    train_examples: TrainExamples = None,
    seeds: Seeds = None,
    data: Data = None,
    out: Out = None,
    tag: Tag = None,
    device: Device = None,
    resume: Resume = None,
    again: Again = None,
    quiet: Quiet = None,
) -> None:
    """The options that every command line has."""


def with_common(own: Callable[..., None]) -> Callable[..., None]:
    """The command line of a function whose arguments are its own options: these, and then the common ones."""

    def command(context: typer.Context, **options) -> None:
        own(context)

    first, second = signature(own).parameters, signature(_common).parameters
    command.__signature__ = Signature([*first.values(), *second.values()])
    command.__annotations__ = {p.name: p.annotation for p in (*first.values(), *second.values())}
    command.__name__, command.__doc__ = own.__name__, own.__doc__
    return command


def run(family: Family, params: Mapping) -> None:
    """Do what the command line says; `params` are its options by name, None where not given."""
    given = {name: value for name, value in params.items() if not (value is None or value is False or value == ())}
    say, device = Console(quiet=True) if "quiet" in given else console, given.get("device", "cpu")
    check_device(device)
    jobs = _resumed(given, family) if "resume" in given else _asked(given, family)
    plans = [_plan(task, path, "again" in given) for task, path in jobs]  # complain before the first one starts
    done = []
    for (task, path), plan in zip(jobs, plans, strict=True):
        if plan == "skip":
            done.append(Run.open(path).attrs)
            say.print("finished before (--again trains anew):")
        else:
            done.append(_train(family, task, path, given.get("data"), device, plan == "resume", say))
        say.print(f"{_summary(done[-1])}\n{path}")
    if len(done) > 1:
        say.print(_table(done))


def _train(family: Family, task: Task, path: Path, folder, device: str, resume: bool, say: Console) -> dict:
    def build(shape, classes, generator):
        return family.build({"name": task.model, **task.options}, shape, classes, generator)

    if resume:
        say.print(f"{path}: going on where it was interrupted")
    with _Show(say) as show:
        calls = {"on_batch": show.batch, "on_epoch": show.epoch}
        attrs = train(task, build, path, folder and Path(folder), device, resume, **calls)
    if attrs["status"] == "interrupted":
        say.print(f"interrupted; the same command line goes on, and so does --resume {path}")
        raise SystemExit(130)
    return attrs


# ---------------------------------------------------------------------------------------------------------------
# From options to tasks and files


def _asked(given: dict, family: Family) -> list[tuple[Task, Path]]:
    """A task and a result file for each seed."""
    for name in ("dataset", family.model):
        if name not in given:
            raise ConfigError(f"give --{name} (--help shows all options), or --resume FILE")
    options = {name: given[name] for name in family.options if name in given}
    if "hidden" in options:
        options["hidden"] = _numbers("--hidden", options["hidden"])
    for assignment in given.get("sets", ()):
        assign(options, assignment)
    fitted = fitted_hidden(given[family.model], given["dataset"], options)
    if fitted is not None:
        options.setdefault("meta_hidden", fitted)  # that of the printed parameter count
    task = Task(given["dataset"], given[family.model], options, _recipe(given, family), flat=family.flat)
    stem = "-".join([task.dataset, task.model, *_tags(task, given)])
    out = Path(given.get("out", family.out))
    seeds = parse_seeds(given.get("seeds", "1"))
    return [(replace(task, seed=seed), out / f"{stem}-seed{seed}.h5") for seed in seeds]


def _recipe(given: dict, family: Family) -> Recipe:
    values = asdict(family.recipe(given[family.model], given["dataset"]))
    values.update({name: given[name] for name in values.keys() & given.keys() - RATES.keys()})
    values["lr"] = {**values["lr"], **{group: given[flag] for flag, group in RATES.items() if flag in given}}
    if values["validation"] >= 1 and float(values["validation"]).is_integer():
        values["validation"] = int(values["validation"])
    return call("recipe", Recipe, values)


def _tags(task: Task, given: dict) -> list[str]:
    """What of the options the name of a file says: all that were given for the network, and a subset."""
    named = {**task.options, **{k: v for k, v in given.items() if k == "train_examples"}}
    tags = [SHORT.get(k, k) + "-".join(map(str, v if isinstance(v, list | tuple) else [v])) for k, v in named.items()]
    return [re.sub(r"[^\w.-]", "_", tag) for tag in [*tags, *([given["tag"]] if "tag" in given else [])]]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        numbers = ()
    if numbers:
        return numbers
    raise ConfigError(f"{option}: given {text!r}, needed are whole numbers such as 32 or 32,32")


def parse_seeds(text: str) -> list[int]:
    """`3` means 0, 1, 2; a text with a comma lists the seeds themselves."""
    numbers = _numbers("--seeds", text)
    seeds = list(dict.fromkeys(numbers)) if "," in text else list(range(numbers[0] if numbers else 0))
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"--seeds: given {text!r}, needed is how many (3), or a list of them (0,1,4)")
    return seeds


def _resumed(given: dict, family: Family) -> list[tuple[Task, Path]]:
    """The task that a result file says."""
    path = Path(given["resume"])
    if more := sorted(given.keys() - WITH_RESUME):
        raise ConfigError(f"--resume: the file says all else itself (given also: {', '.join(more)})")
    attrs = Run.open(path).attrs
    if attrs.get("kind") != "classification":
        raise ConfigError(f"{path}: not the result of a classifier")
    config = json.loads(attrs["config"])
    recipe = call("recipe", Recipe, config["recipe"])
    return [(Task(config["dataset"], config["model"], config["options"], recipe, attrs["seed"], family.flat), path)]


def _plan(task: Task, path: Path, again: bool) -> str:
    """start, resume or skip, by what the result file says.

    Raises:
        ConfigError: it is the result of another configuration, or its folder cannot be written to.
    """
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"{path.parent}: no folder that can be written to")
    if again or not path.exists():
        return "start"
    attrs = Run.open(path).attrs
    stored = _flat(json.loads(attrs.get("config", "{}")))
    wanted = _flat(task.config())
    for key in sorted(stored.keys() | wanted.keys()):
        if stored.get(key) != wanted.get(key):
            raise ConfigError(
                f"{path} has {key} {stored.get(key)}, now {wanted.get(key)}: choose another --tag or --out, "
                "or replace it by --again"
            )
    if attrs["status"] == "finished":
        return "skip"
    return "resume" if attrs["status"] != "failed" and path.with_suffix(".pt").exists() else "start"


def _flat(config: dict, prefix: str = "") -> dict:
    nested = (_flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in config.items())
    return {name: value for part in nested for name, value in part.items()}


# ---------------------------------------------------------------------------------------------------------------
# What is printed


class _Show:
    """A bar of the present epoch on a terminal, and a line for each epoch that is over."""

    def __init__(self, say: Console):
        self.say, self.bar = say, None
        if say.is_terminal and not say.quiet:
            columns = TextColumn("epoch {task.fields[epoch]}"), BarColumn(20), TextColumn("{task.fields[text]}")
            self.bar = Progress(*columns, TimeRemainingColumn(), console=say, transient=True)
            self.task = self.bar.add_task("", epoch="", text="")

    def __enter__(self) -> "_Show":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error) -> None:
        if self.bar:
            self.bar.stop()

    def batch(self, training: Training) -> None:
        done = (training.step - 1) % training.per_epoch + 1
        if not self.bar or (done % 20 and done < training.per_epoch):
            return
        loss, accuracy = training.running()
        epoch = f"{(training.step - 1) // training.per_epoch + 1}/{training.task.recipe.epochs}"
        text = f"loss {loss:.4f}  accuracy {accuracy:.2f} %"
        self.bar.update(self.task, total=training.per_epoch, completed=done, epoch=epoch, text=text)

    def epoch(self, training: Training) -> None:
        row = {name: column[-1] for name, column in training.history.items()}
        self.say.print(
            f"epoch {row['epoch']:.0f}/{training.task.recipe.epochs}  "
            f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.2f} %  "
            f"validation loss {row['validation_loss']:.4f} accuracy {row['validation_accuracy']:.2f} %  "
            f"{row['wall_s']:.0f} s"
        )


def _summary(attrs: Mapping) -> str:
    trained = attrs["parameters_trainable"]
    frozen = "" if trained == attrs["parameters"] else f" ({trained:,} trained)"
    return (
        f"{attrs['dataset']} {attrs['model']} seed {attrs['seed']}: test accuracy {attrs['test_accuracy']:.2f} %, "
        f"loss {attrs['test_loss']:.4f} (best epoch {attrs['best_epoch']}, validation "
        f"{attrs['best_validation_accuracy']:.2f} %), {attrs['parameters']:,} parameters{frozen}, "
        f"{attrs['seconds']:.0f} s"
    )


def _table(done: list[Mapping]) -> Table:
    table = Table(title=f"{done[0]['dataset']}, {done[0]['model']}", title_justify="left")
    for name in ("seed", "test accuracy", "validation accuracy", "best epoch"):
        table.add_column(name, justify="right")
    for attrs in done:
        found = f"{attrs['test_accuracy']:.2f}", f"{attrs['best_validation_accuracy']:.2f}", str(attrs["best_epoch"])
        table.add_row(str(attrs["seed"]), *found)
    columns = [[attrs[name] for attrs in done] for name in ("test_accuracy", "best_validation_accuracy")]
    table.add_section()
    table.add_row("mean ± deviation", *(f"{statistics.mean(c):.2f} ± {statistics.stdev(c):.2f}" for c in columns), "")
    return table
