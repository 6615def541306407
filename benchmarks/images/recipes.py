"""What one run of an image classifier trains, and how: data set, model, options, seed, and the recipe."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import cos, pi
from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from benchmarks.images import data
from kanpde.ground.errors import ConfigError, suggest
from kanpde.ground.samplers import stream

RESIZED_AT_ONCE = 5000  # images: resizing holds floats of all of them

Group = Literal["prompts", "meta", "rest"]


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained; the annotations are the schema (`kanpde.ground.construct.call` checks them).

    Attributes:
        lr: learning rates by parameter group; prompts and meta fall back on rest.
        schedule: the factor on all rates, step by step: cosine falls from 1 to 0 over all steps, exponential is `decay`
            to the number of epochs so far (fractions count), constant is 1.
        scaling: unit maps pixels to [-1, 1], where grids live; standard uses the data set's mean and deviation.
        validation: the number or the fraction of the training set that is kept for model selection.
        train_examples: train on so many of the others only.
    """

    epochs: PositiveInt = 10
    batch: PositiveInt = 128
    optimizer: Literal["adamw"] = "adamw"
    lr: dict[Group, PositiveFloat] = field(default_factory=lambda: {"prompts": 1e-2, "meta": 1e-3, "rest": 3e-3})
    weight_decay: NonNegativeFloat = 1e-4
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    decay: PositiveFloat = 0.8
    label_smoothing: NonNegativeFloat = 0.0
    augment: Literal["none", "crop", "flip-crop"] = "none"
    scaling: Literal["unit", "standard"] = "unit"
    validation: PositiveInt | PositiveFloat = 0.1
    train_examples: PositiveInt | None = None
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self):
        if "rest" not in self.lr:
            raise ValueError(f"lr has no rate for the group rest (given: {', '.join(self.lr) or 'none'})")
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing: given {self.label_smoothing}, needed is less than 1")

    def factor(self, step: int, per_epoch: int) -> float:
        """On the learning rates at a step, counted from 0."""
        if self.schedule == "cosine":
            return 0.5 * (1 + cos(pi * step / (self.epochs * per_epoch)))
        return self.decay ** (step / per_epoch) if self.schedule == "exponential" else 1.0


@dataclass(frozen=True)
class Task:
    """What one run trains: a model with options on a data set, flat (28x28, as vectors) or as images."""

    dataset: str
    model: str
    options: Mapping
    recipe: Recipe
    seed: int = 0
    flat: bool = True

    @property
    def info(self) -> data.Dataset:
        """What the data set is."""
        if self.dataset not in data.DATASETS:
            raise ConfigError(suggest("data set", self.dataset, list(data.DATASETS)))
        return data.DATASETS[self.dataset]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that the model sees."""
        size = 28 if self.flat else self.info.size
        return self.info.channels, size, size

    def config(self) -> dict:
        """As it is stored: plain JSON, without the seed."""
        found = {"dataset": self.dataset, "model": self.model, "options": dict(self.options)}
        return json.loads(json.dumps({**found, "recipe": asdict(self.recipe)}, default=str))

    def read(self, split: str, folder: Path | None) -> data.Images:
        """The `train` or `test` split, at the size that the model sees."""
        images = data.read(self.dataset, split, folder)
        if not self.flat:
            return images
        return data.Images(torch.cat([data.resize28(part) for part in images.x.split(RESIZED_AT_ONCE)]), images.y)

    def splits(self, folder: Path | None) -> tuple[data.Images, data.Images]:
        """The examples to train on, and those to validate on.

        Raises:
            ConfigError: there are not so many.
        """
        data.check_present(self.dataset, "test", folder)  # before hours of training, not after
        train, validation = data.split_validation(
            self.read("train", folder), self.recipe.validation, stream(self.seed, "validation")
        )
        count = self.recipe.train_examples
        if count is None:
            return train, validation
        if count > len(train):
            raise ConfigError(f"train_examples: given {count}, {self.dataset} has {len(train)} without the validation")
        return train[torch.randperm(len(train), generator=stream(self.seed, "subset"))[:count]], validation

    def inputs(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels (N, C, H, W) uint8 as the model wants them; augmented where a generator is given."""
        recipe, info = self.recipe, self.info
        if generator is not None:
            x = data.augment(x, generator, recipe.augment)
        half = (0.5,) * info.channels
        x = data.normalise(x, *((half, half) if recipe.scaling == "unit" else (info.mean, info.std)))
        x = x.to(getattr(torch, recipe.precision))
        return x.flatten(1) if self.flat else x
