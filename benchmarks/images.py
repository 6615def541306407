"""Fully connected KANs and MLPs on images: trains a classifier, with several seeds.

python -m benchmarks.images --dataset mnist --backbone metakan --hidden 32 --grid 5 --seeds 3
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import nets, series
from benchmarks.recipes import Recipe
from kanpde.construct import construct
from kanpde.solve import run_app

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
    model="backbone",
    build=build,
    options=("hidden", "grid_size", "spline_order", "centers", "wavelet", "prompt_dim", "meta_hidden"),
    recipe=lambda backbone, dataset: RECIPES.get(backbone, DEFAULT),
    out=Path("runs/images"),
    flat=True,
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
@series.with_common
def images(
    context: typer.Context,
    dataset: series.Dataset = None,
    backbone: Annotated[str | None, typer.Option(help=f"One of {', '.join(nets.CLASSIFIERS)}.")] = None,
    hidden: Annotated[str | None, typer.Option(help="Widths of the hidden layers: 32, or 32,32.")] = None,
    grid_size: Annotated[int | None, typer.Option("--grid", help="Cells of a spline grid.")] = None,
    spline_order: Annotated[int | None, typer.Option("--order", help="Order of the splines.")] = None,
    centers: Annotated[int | None, typer.Option(help="Radial functions of an activation.")] = None,
    wavelet: Annotated[str | None, typer.Option(help="mexican_hat, morlet or dog.")] = None,
    prompt_dim: Annotated[int | None, typer.Option(help="Numbers in a prompt.")] = None,
    meta_hidden: Annotated[int | None, typer.Option(help="Hidden units of the meta-learner.")] = None,
    augment: Annotated[str | None, typer.Option(help="none (default), crop or flip-crop.")] = None,
) -> None:
    """Train a fully connected network on images (28x28, as vectors) and test it once, with the best weights by
    validation; a result file (.h5) for each seed goes to runs/images.

    Seeds that are finished are skipped, interrupted ones go on. Exit codes: 0 done, 1 the training failed, 2 a bad
    call, 130 interrupted by Ctrl-C.
    """
    series.run(FAMILY, context.params)


if __name__ == "__main__":
    run_app(app)
