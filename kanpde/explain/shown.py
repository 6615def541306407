"""What an explanation shows: pictures of networks and of how alike their edges are, tables, formulas as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kanpde import plot
from kanpde.interpret import EdgeNetwork, Symbolic, latex, similarity
from kanpde.interpret.edges import Activations, EdgeLayer
from kanpde.kan.grids import kan_layers
from kanpde.kan.weights import Meta

if TYPE_CHECKING:
    import sympy
    from matplotlib.figure import Figure
    from rich.table import Table

LISTED = 20  # inputs in the table of importance
NARROWEST = 4.6  # inches of a figure with one heat map, whose labels need room


# ---------------------------------------------------------------------------------------------------------------
# Pictures


def graph(network: EdgeNetwork, x: Tensor, names: Sequence[str], output: str, title: str) -> Figure:
    """A network drawn with its functions as they are at x (N, d), formulas with their names."""
    stages = zip(network.layers, network.activations(x), network.importance(x).edges, strict=True)
    return plot.network_graph([_pictures(*stage) for stage in stages], names, [output], title)


def _pictures(layer: EdgeLayer, seen: Activations, importance: Tensor) -> plot.EdgePictures:
    labels = {(i, o): edge.function.name for i, o, edge in layer.present() if isinstance(edge, Symbolic)}
    removed = torch.ones_like(importance, dtype=torch.bool)
    for i, o, _ in layer.present():
        removed[i, o] = False
    x, y = seen.inputs.T, seen.edges.transpose(0, 1)
    return plot.EdgePictures(x.numpy(), y.numpy(), importance.numpy(), labels, removed.numpy())


def similarities(nets: Mapping[str, nn.Module]) -> dict[str, Figure]:
    """Heat maps of networks by title, side by side: "similarity" of coefficients, and "prompts" of the meta ones.

    Raises:
        ConfigError: functions that have no coefficients, see `kanpde.interpret.similarity.coefficient_vectors`.
    """
    edges = {title: similarity.edges_of(net) for title, net in nets.items()}
    first = next(iter(edges.values()))
    layers = first[:, 0].tolist() if all(torch.equal(first, other) for other in edges.values()) else None
    options = {"layers": layers, "ordered": find_spec("scipy") is not None}
    cosines = [(title, similarity.cosine_similarity(net, edges[title]).numpy()) for title, net in nets.items()]
    figures = {"similarity": plot.similarity_figure(cosines, **options)}
    meta = {title: net for title, net in nets.items() if all(isinstance(m.weights, Meta) for m in kan_layers(net))}
    if meta:
        prompts = [(title, similarity.prompt_similarity(net, edges[title]).numpy()) for title, net in meta.items()]
        figures["prompts"] = plot.similarity_figure(prompts, **options, label="prompt similarity")
    for figure in figures.values():
        figure.set_figwidth(max(NARROWEST, figure.get_figwidth()))
    return figures


# ---------------------------------------------------------------------------------------------------------------
# Tables


def table_of_importance(importance: Mapping[str, float]) -> Table:
    """The inputs, the most important first."""
    from rich.text import Text

    table = _table("input", "importance", title="what the network reads")
    ordered = sorted(importance.items(), key=lambda item: -item[1])
    for name, score in ordered[:LISTED]:
        table.add_row(Text(name), f"{score:.3f}")
    if len(ordered) > LISTED:
        table.add_row(f"{len(ordered) - LISTED:,} others", f"up to {ordered[LISTED][1]:.3f}")
    return table


def table_of_errors(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Errors by stage and rows."""
    table = _table("", "relative l2", "RMSE", "test: relative l2", "RMSE", title="errors")
    for stage, of in found.items():
        table.add_row(stage, *(f"{of[rows][name]:.3g}" for rows in ("sample", "test") for name in ("rel_l2", "rmse")))
    return table


def table_of_compactness(found: Mapping[str, Mapping[str, float]]) -> Table:
    """Numbers of `kanpde.interpret.similarity.compactness` by title of the network."""
    from rich.text import Text

    table = _table("", *map(Text, found), title="how alike the edges are")
    for name in next(iter(found.values())):
        table.add_row(name.replace("_", " "), *(f"{of[name]:.4g}" for of in found.values()))
    return table


def _table(*columns: str, title: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


# ---------------------------------------------------------------------------------------------------------------
# LaTeX


def tex(formula: sympy.Expr, names: Sequence[str], output: str) -> str:
    """LaTeX of output = formula in these names."""
    import sympy

    return f"{latex(sympy.Symbol(output), names=names)} = {latex(formula, names=[*names, output])}"
