"""Sums over pieces of a layer's inputs, of which one at a time is alive, unless somebody looks on."""

from collections.abc import Callable

from torch.utils.checkpoint import checkpoint

from kanpde.jets.tracing import transformed


def add_up(part: Callable, pieces: list[tuple]):
    """sum of part(*piece); with more than one piece each is recomputed in the backward pass, so only one is alive."""
    run = (lambda part, *piece: part(*piece)) if len(pieces) == 1 else recomputed
    total = None
    for piece in pieces:
        total = add(total, run(part, *piece))
    return total


def recomputed(part: Callable, *given):
    """part(*given), of which nothing but `given` is kept: the backward pass computes again what it needs."""
    if transformed():  # torch.func refuses checkpoints, and what computes again would not be looked on
        return part(*given)
    return checkpoint(part, *given, use_reentrant=False, preserve_rng_state=False)


def add(a, b):
    """a + b, where None is nothing."""
    return b if a is None else a if b is None else a + b
