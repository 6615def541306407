"""Sums over pieces of a layer's inputs, of which one at a time is alive."""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint


def add_up(part: Callable, pieces: list[tuple]):
    """sum of part(*piece); with more than one piece each is recomputed in the backward pass, so only one is alive."""
    total = None
    for piece in pieces:
        if len(pieces) == 1 or torch._C._are_functorch_transforms_active():  # which refuse checkpoints
            total = add(total, part(*piece))
        else:
            total = add(total, checkpoint(part, *piece, use_reentrant=False, preserve_rng_state=False))
    return total


def add(a, b):
    """a + b, where None is nothing."""
    return b if a is None else a if b is None else a + b
