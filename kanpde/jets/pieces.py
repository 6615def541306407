"""Sums over pieces of a layer's inputs, of which one at a time is alive; and who looks on, for whom all are."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint


def recorded() -> bool:
    """Whether torch.compile, torch.export or torch.jit.trace record plain operations, to differentiate them itself."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def plainly() -> bool:
    """Whether operations are to be plain: recorded, or seen by forward mode, which goes through them by itself."""
    return recorded() or forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether the former or torch.func look on: they take no buffers that are written into."""
    return plainly() or torch._C._are_functorch_transforms_active()


def exporting() -> bool:
    """Whether what is recorded will be given any number of points."""
    return _exported() or torch.jit.is_tracing()


# before torch 2.7 an export cannot be told from compiling
_exported = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)


def has_numbers(x: Tensor) -> bool:
    """Whether a branch may depend on the numbers in x, and memory of x be written into: not if x has shapes alone."""
    return type(x) in (Tensor, nn.Parameter) and not x.is_meta


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
