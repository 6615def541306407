"""Small KANs for rows, the smallest first, pruned and refined; then formulas on all their edges at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kanpde import backbones
from kanpde.interpret.expression import expression
from kanpde.interpret.fitting import Tolerance, error, fit
from kanpde.interpret.functions import function
from kanpde.interpret.network import EdgeNetwork
from kanpde.interpret.prune import prune
from kanpde.interpret.snap import suggest_edge
from kanpde.jets.jet import Affine

if TYPE_CHECKING:
    import sympy

WIDTHS = ((1,), (2,), (2, 1))  # hidden ones: functions of a sum, sums of two of these, functions of such sums
PROMISING = 2e-2  # relative error on unseen rows from which a network is worth a formula
GRID, FINE_GRID = 5, 12
STEPS, FINE_STEPS, FORMULA_STEPS = 40, 15, 40
TRIES = 4  # candidates of an edge
TOLERANCE = Tolerance(relative=1.5, absolute=2e-3)  # of pruning
EXACT = 1e-12
BETTER = 0.9  # share of the error that another candidate must leave


def between_units(x: Tensor, y: Tensor, widths: Sequence[int], generator: torch.Generator) -> EdgeNetwork:
    """A KAN of these hidden widths between maps of x (N, d) to [-1, 1] and to the mean and deviation of y (N, 1)."""
    low, high = x.amin(0), x.amax(0)
    scale = 2 / torch.where(high > low, high - low, 1.0)
    net = backbones.build("kan", x.shape[1], 1, widths=tuple(widths), grid_size=GRID, generator=generator).double()
    std, mean = torch.std_mean(y)
    return EdgeNetwork.of(nn.Sequential(Affine(scale, -1 - scale * low), *net, Affine(std[None], mean[None])))


def small_networks(
    x: Tensor,
    y: Tensor,
    held: Tensor,
    names: Sequence[str],
    structures: Sequence[tuple[int, ...]],
    generator: torch.Generator,
    check: Callable[[], None],
) -> Iterator[sympy.Expr]:
    """Formulas for y (N,) of x (N, d), one of each structure that does well on the rows held out.

    Args:
        names: of the columns of x.
        structures: hidden widths.
        check: called again and again; it may raise to end the search.
    """
    y = y.unsqueeze(1)
    for widths in structures:
        check()
        network = between_units(x, y, widths, generator)
        fit(network, x[~held], y[~held], STEPS, damping=0.1)
        if error(network, x[held], y[held]) > PROMISING:
            continue
        check()
        network, _ = prune(network, x[~held], y[~held], tolerance=TOLERANCE)
        network.refine(FINE_GRID)
        fit(network, x[~held], y[~held], FINE_STEPS, damping=0.01)
        yield expression(read(network, x[~held], y[~held], check), names)


def read(network: EdgeNetwork, x: Tensor, y: Tensor, check: Callable[[], None]) -> EdgeNetwork:
    """Formulas on all edges at once, then other ones on an edge after the other while that makes it better."""
    candidates = {edge: suggest_edge(network, x, edge)[:TRIES] for edge, _ in network.edges()}
    best = network.copy()
    for edge, found in candidates.items():
        _put(best, edge, found[0])
    smallest, better = fit(best, x, y, FORMULA_STEPS), True
    while better and smallest > EXACT:
        better = False
        for edge, candidate in [(edge, c) for edge, found in candidates.items() for c in found]:
            check()
            trial = best.copy()
            _put(trial, edge, candidate)
            now = fit(trial, x, y, FORMULA_STEPS)
            if now < BETTER * smallest:
                best, smallest, better = trial, now, True
            if smallest <= EXACT:
                return best
    return best


def _put(network: EdgeNetwork, edge, candidate) -> None:
    network.put(edge, function(candidate.name), candidate.a, candidate.b, candidate.c, candidate.d)
