"""Fully connected KANs and MLPs on images: trains a classifier, with several seeds.

python -m benchmarks.images --dataset mnist --backbone metakan --hidden 32 --grid 5 --seeds 3

Trains a fully connected network on images (28x28, as vectors) and tests it once, with the best weights by validation; a
result file (.h5) for each seed goes to runs/images. Seeds that are finished are skipped, interrupted ones go on. Exit
codes: 0 done, 1 the training failed, 2 a bad call, 130 interrupted by Ctrl-C.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.common.study import exiting
from benchmarks.images import nets, series
from benchmarks.images.recipes import Recipe
from kanpde.ground.construct import construct

DEFAULT = Recipe(epochs=8, lr={"prompts": 1e-2, "meta": 3e-3, "rest": 3e-3}, weight_decay=0.1)
RECIPES = {  # by backbone, where they differ from the default
    "metakan": replace(DEFAULT, epochs=12, lr={"prompts": 5e-3, "meta": 1e-2, "rest": 3e-3}, weight_decay=0.2),
    "metafastkan": replace(DEFAULT, epochs=10),
    "wavkan": replace(DEFAULT, epochs=9),
}


def build(spec, shape, classes, generator):
    """The network for images of a shape (C, H, W), as vectors."""
    channels, height, width = shape
    return construct("backbone", nets.CLASSIFIERS, spec, channels * height * width, classes, generator=generator)


FAMILY = series.Family(
    name="images",
    about=__doc__,
    model="backbone",
    networks=nets.CLASSIFIERS,
    build=build,
    options=("hidden", "grid_size", "spline_order", "centers", "wavelet", "prompt_dim", "meta_hidden"),
    recipe=lambda backbone, dataset: RECIPES.get(backbone, DEFAULT),
    out=Path("runs/images"),
    flat=True,
)


def main(argv: Sequence[str] | None = None) -> None:
    series.main(FAMILY, argv)


if __name__ == "__main__":
    exiting(main, "images")
