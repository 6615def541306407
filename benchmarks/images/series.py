"""A classifier trained with several seeds, one after another: what `benchmarks.images` and `.conv` have in common."""

import json
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import nn

from benchmarks.common.learners import fitted_hidden
from benchmarks.common.study import Parser, flat, spread
from benchmarks.images.classify import Classification, train
from benchmarks.images.data import DATASETS
from benchmarks.images.nets import CONV_NETS
from benchmarks.images.recipes import Recipe, Task
from kanpde.config import assign
from kanpde.ground.construct import call
from kanpde.ground.errors import ConfigError
from kanpde.runs.models import Run
from kanpde.training.checks import check_device
from kanpde.training.training import RunFailed

console = Console(highlight=False, soft_wrap=True)

# ---------------------------------------------------------------------------------------------------------------
# The command line

OPTIONS = {  # of networks: flag, type, help; a family has some of them
    "layers": ("--layers", int, "convolutions: 4 or 8"),
    "hidden": ("--hidden", str, "widths of the hidden layers: 32, or 32,32"),
    "grid_size": ("--grid", int, "cells of a spline grid"),
    "spline_order": ("--order", int, "order of the splines"),
    "centers": ("--centers", int, "radial functions of an activation"),
    "wavelet": ("--wavelet", str, "mexican_hat, morlet or dog"),
    "prompt_dim": ("--prompt-dim", int, "numbers in a prompt"),
    "meta_hidden": ("--meta-hidden", int, "hidden units of a meta-learner"),
    "clusters": ("--clusters", int, "meta-learners, each for layers of like width"),
}
COMMON = {  # of the recipe, the data and the files
    "sets": ("--set", str, "any option of the network: name=value"),
    "augment": ("--augment", str, "none (default), crop or flip-crop (default of convolutions for cifar)"),
    "epochs": ("--epochs", int, "passes through the training examples"),
    "batch": ("--batch", int, "examples of a step"),
    "lr_prompts": ("--lr-prompts", float, "learning rate of the prompts"),
    "lr_meta": ("--lr-meta", float, "learning rate of the meta-learners"),
    "lr": ("--lr", float, "learning rate of all other parameters"),
    "weight_decay": ("--weight-decay", float, "weight decay of AdamW"),
    "schedule": ("--schedule", str, "of learning rates: cosine reaches 0, exponential shrinks by --decay an epoch"),
    "decay": ("--decay", float, "factor an epoch of the exponential schedule"),
    "label_smoothing": ("--label-smoothing", float, "of the training loss"),
    "scaling": ("--scaling", str, "of pixels: unit, to [-1, 1] (default), or standard, by the data set's deviation"),
    "validation": ("--validation", float, "number or fraction of training examples kept for model selection"),
    "train_examples": ("--train-examples", int, "train on a subset of this many examples; default all"),
    "seeds": ("--seeds", str, "3 means seeds 0, 1, 2; 0,1,4 and 7, name them; default 1"),
    "data": ("--data", Path, "folder of the data sets; default $KANPDE_DATA"),
    "out": ("--out", Path, "folder of the result files"),
    "tag": ("--tag", str, "a word of your own in the names of the result files"),
    "device": ("--device", str, "cpu, cuda, cuda:1, ...; default cpu"),
    "resume": ("--resume", Path, "go on with the run of this result file; all else it says itself"),
}
CHOICES = {"schedule": ("cosine", "exponential", "constant"), "scaling": ("unit", "standard")}
SWITCHES = {
    "again": ("--again", "replace results that exist instead of skipping them"),
    "quiet": ("--quiet", "print nothing but errors"),
}

WITH_RESUME = {"resume", "data", "device", "quiet"}
RATES = {"lr_prompts": "prompts", "lr_meta": "meta", "lr": "rest"}
SHORT = {"hidden": "", "grid_size": "g", "spline_order": "k", "centers": "c", "wavelet": "", "prompt_dim": "p"}
SHORT |= {"meta_hidden": "h", "clusters": "m", "layers": "l", "train_examples": "n"}  # before values in file names


@dataclass(frozen=True)
class Family:
    """What the command lines differ in.

    Attributes:
        name: of the command.
        about: its help.
        model: the option that names the network.
        networks: these names.
        build: (name and options, (C, H, W), classes, generator) -> network.
        options: those of the network that have a flag of their own.
        recipe: (name, data set) -> the default recipe.
    """

    name: str
    about: str
    model: str
    networks: Collection[str]
    build: Callable[..., nn.Module]
    options: tuple[str, ...]
    recipe: Callable[[str, str], Recipe]
    out: Path
    flat: bool


def parser(family: Family) -> Parser:
    """The options of a family's networks, and then those that all have; what is not given is None."""
    made = Parser(family.name, family.about)
    made.add_argument("--dataset", help=f"one of {', '.join(DATASETS)}")
    made.add_argument(f"--{family.model}", help=f"one of {', '.join(family.networks)}")
    for name, (flag, kind, about) in ({name: OPTIONS[name] for name in family.options} | COMMON).items():
        action = "append" if name == "sets" else "store"
        choices = {"choices": CHOICES[name]} if name in CHOICES else {}
        made.add_argument(flag, dest=name, type=kind, action=action, help=about, **choices)
    for name, (flag, about) in SWITCHES.items():
        made.add_argument(flag, dest=name, action="store_true", default=None, help=about)
    return made


def main(family: Family, argv: Sequence[str] | None = None) -> None:
    """Do what the command line says; a training that failed is one line and exit code 1."""
    args = vars(parser(family).parse_args(argv))
    try:
        run(family, {name: value for name, value in args.items() if value is not None})
    except RunFailed as error:
        sys.exit(f"{family.name}: {error}")
    except (torch.OutOfMemoryError, MemoryError) as error:
        sys.exit(f"{family.name}: out of memory: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit(130)


def run(family: Family, given: Mapping) -> None:
    """Train and test with each seed, by the options that were given."""
    say, device = Console(quiet=True) if "quiet" in given else console, given.get("device", "cpu")
    check_device(device)
    jobs = _resumed(given) if "resume" in given else _asked(given, family)
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


def _asked(given: Mapping, family: Family) -> list[tuple[Task, Path]]:
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


def _recipe(given: Mapping, family: Family) -> Recipe:
    values = asdict(family.recipe(given[family.model], given["dataset"]))
    values.update({name: given[name] for name in values.keys() & given.keys() - RATES.keys()})
    values["lr"] = {**values["lr"], **{group: given[flag] for flag, group in RATES.items() if flag in given}}
    if values["validation"] >= 1 and float(values["validation"]).is_integer():
        values["validation"] = int(values["validation"])
    return call("recipe", Recipe, values)


def _tags(task: Task, given: Mapping) -> list[str]:
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


def _resumed(given: Mapping) -> list[tuple[Task, Path]]:
    """The task that a result file says."""
    path = Path(given["resume"])
    if more := sorted(given.keys() - WITH_RESUME):
        raise ConfigError(f"--resume: the file says all else itself (given also: {', '.join(more)})")
    return [(task_of(Run.open(path)), path)]


def task_of(run: Run) -> Task:
    """What a run has trained.

    Raises:
        ConfigError: it is not the result of a classifier.
    """
    if run.attrs.get("kind") != "classification":
        raise ConfigError(f"{run.path}: not the result of a classifier")
    config = json.loads(run.attrs["config"])
    recipe, flat = call("recipe", Recipe, config["recipe"]), config["model"] not in CONV_NETS
    return Task(config["dataset"], config["model"], config["options"], recipe, int(run.attrs["seed"]), flat)


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
    stored = flat(json.loads(attrs.get("config", "{}")))
    wanted = flat(task.config())
    for key in sorted(stored.keys() | wanted.keys()):
        if stored.get(key) != wanted.get(key):
            raise ConfigError(
                f"{path} has {key} {stored.get(key)}, now {wanted.get(key)}: choose another --tag or --out, "
                "or replace it by --again"
            )
    if attrs["status"] == "finished":
        return "skip"
    return "resume" if attrs["status"] != "failed" and path.with_suffix(".pt").exists() else "start"


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

    def batch(self, training: Classification) -> None:
        done = (training.step - 1) % training.per_epoch + 1
        if not self.bar or (done % 20 and done < training.per_epoch):
            return
        loss, accuracy = training.running()
        epoch = f"{(training.step - 1) // training.per_epoch + 1}/{training.task.recipe.epochs}"
        text = f"loss {loss:.4f}  accuracy {accuracy:.2f} %"
        self.bar.update(self.task, total=training.per_epoch, completed=done, epoch=epoch, text=text)

    def epoch(self, training: Classification) -> None:
        row = {name: column[-1] for name, column in training.run.history.items()}
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
    table.add_row("mean ± deviation", *(spread(c, ".2f", ".2f") for c in columns), "")
    return table
