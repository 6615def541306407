"""Convolutional KANs on images: trains a classifier, with several seeds.

python -m benchmarks.conv --dataset cifar10 --model metakanconv --layers 8 --prompt-dim 2 --clusters 7 --seeds 3

Trains a convolutional network on images and tests it once, with the best weights by validation; a result file (.h5) for
each seed goes to runs/conv. Seeds that are finished are skipped, interrupted ones go on. Exit codes: 0 done, 1 the
training failed, 2 a bad call, 130 interrupted by Ctrl-C.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.common.study import exiting
from benchmarks.images import nets, series
from benchmarks.images.recipes import Recipe
from kanpde.ground.construct import construct

DEFAULT = Recipe(epochs=10, lr={"prompts": 5e-3, "meta": 3e-3, "rest": 3e-3}, weight_decay=1e-2)
RECIPES = {  # by model, where they differ from the default: without a norm after its layers it needs smaller steps
    "metafastkanconv": replace(DEFAULT, lr={"prompts": 1e-3, "meta": 3e-4, "rest": 3e-3}),
}
AUGMENT = {"cifar10": "flip-crop", "cifar100": "flip-crop"}  # as the paper states; the others: none


def build(spec, shape, classes, generator):
    """The network for images of a shape (C, H, W)."""
    return construct("model", nets.CONV_NETS, spec, shape[0], classes, generator=generator)


FAMILY = series.Family(
    name="conv",
    about=__doc__,
    model="model",
    networks=nets.CONV_NETS,
    build=build,
    options=("layers", "prompt_dim", "meta_hidden", "clusters", "grid_size", "spline_order"),
    recipe=lambda model, dataset: replace(RECIPES.get(model, DEFAULT), augment=AUGMENT.get(dataset, "none")),
    out=Path("runs/conv"),
    flat=False,
)


def main(argv: Sequence[str] | None = None) -> None:
    series.main(FAMILY, argv)


if __name__ == "__main__":
    exiting(main, "conv")
