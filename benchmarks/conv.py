"""Convolutional KANs on images: trains a classifier, with several seeds.

python -m benchmarks.conv --dataset cifar10 --model metakanconv --layers 8 --prompt-dim 2 --clusters 7 --seeds 3
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import nets, series
from benchmarks.recipes import Recipe
from kanpde.construct import construct
from kanpde.solve import run_app

DEFAULT = Recipe(epochs=10, lr={"prompts": 5e-3, "meta": 3e-3, "rest": 3e-3}, weight_decay=1e-2)
RECIPES = {  # by model, where they differ from the default: without a norm after its layers it needs smaller steps
    "metafastkanconv": replace(DEFAULT, lr={"prompts": 1e-3, "meta": 3e-4, "rest": 3e-3}),
}
AUGMENT = {"cifar10": "flip-crop", "cifar100": "flip-crop"}  # as the paper states; the others: none


def build(spec, shape, classes, generator):
    """The network for images of a shape (C, H, W)."""
    return construct("model", nets.CONV_NETS, spec, shape[0], classes, generator=generator)


FAMILY = series.Family(
    model="model",
    build=build,
    options=("layers", "prompt_dim", "meta_hidden", "clusters", "grid_size", "spline_order"),
    recipe=lambda model, dataset: replace(RECIPES.get(model, DEFAULT), augment=AUGMENT.get(dataset, "none")),
    out=Path("runs/conv"),
    flat=False,
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
@series.with_common
def conv(
    context: typer.Context,
    dataset: series.Dataset = None,
    model: Annotated[str | None, typer.Option(help=f"One of {', '.join(nets.CONV_NETS)}.")] = None,
    layers: Annotated[int | None, typer.Option(help="Convolutions: 4 or 8.")] = None,
    prompt_dim: Annotated[int | None, typer.Option(help="Numbers in a prompt.")] = None,
    meta_hidden: Annotated[int | None, typer.Option(help="Hidden units of a meta-learner.")] = None,
    clusters: Annotated[int | None, typer.Option(help="Meta-learners, each for layers of like width.")] = None,
    grid_size: Annotated[int | None, typer.Option("--grid", help="Cells of a spline grid.")] = None,
    spline_order: Annotated[int | None, typer.Option("--order", help="Order of the splines.")] = None,
    augment: Annotated[str | None, typer.Option(help="none (default), crop or flip-crop (default for cifar).")] = None,
) -> None:
    """Train a convolutional network on images and test it once, with the best weights by validation; a result file
    (.h5) for each seed goes to runs/conv.

    Seeds that are finished are skipped, interrupted ones go on. Exit codes: 0 done, 1 the training failed, 2 a bad
    call, 130 interrupted by Ctrl-C.
    """
    series.run(FAMILY, context.params)


if __name__ == "__main__":
    run_app(app)
