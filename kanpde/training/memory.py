"""What a training step needs of memory, and the number of points at a time that fits into a limit."""

import re
from typing import TYPE_CHECKING

from torch import nn

from kanpde.config.schema import MEMORY
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import resident_bytes
from kanpde.jets.gram import FEW
from kanpde.kan.fused import KEEP_BYTES
from kanpde.kan.layers import CHUNK_BYTES, KANLinear

if TYPE_CHECKING:
    from kanpde.training.plan import Plan

UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


def parse(limit: str) -> int:
    """Bytes of "8GB", "500 MB" or "2GiB"."""
    number, unit = re.fullmatch(MEMORY, limit.strip(), re.IGNORECASE).groups()
    return int(float(number) * UNITS[unit.upper()])


def estimate(plan: "Plan") -> tuple[int, int]:
    """Bytes of parameters with gradient, two moments and best copy; and of what a step on all its points holds.

    Of a point: its coordinates, their directions and gradients; of each layer the outputs with a Gram matrix, or the
    tangents where inputs are few; and of one layer at a time the features and slopes, of a streamed one a piece. A
    gradient of the residual keeps features and slopes of all layers, up to `KEEP_BYTES` of each, and the rest twice.
    """
    net, size, dim = plan.net, plan.dtype.itemsize, plan.problem.domain.dim
    n = sum(plan.counts.values())
    kept, working, passes = 5 * dim, 0, 1 if plan.config.loss.gradient == "none" else 2
    for layer in net.modules():
        inputs, out = getattr(layer, "in_features", 0), getattr(layer, "out_features", 0)
        second = out * (dim if dim <= FEW * out else out)
        if isinstance(layer, KANLinear):
            kept += 3 * out + second
            piece = n * inputs * (layer.basis.footprint(out, 3) + 3 * out)
            streamed = piece * size > CHUNK_BYTES and inputs > 16 and layer.norm is None
            working = max(working, 1.5 * CHUNK_BYTES // size if streamed else piece)
            features = inputs * (layer.basis.footprint(out, 4) + 4 * out)
            if passes == 2 and not (streamed and n * features * size > KEEP_BYTES):
                kept += features
            if layer.norm is not None:  # Jacobian and Gram matrix of what the functions and the base see
                kept += passes * 6 * inputs**2
            if layer.norm is not None or not layer.fuses:
                kept += passes * inputs * (layer.basis.footprint(out, 2) + 2 * out)
        elif isinstance(layer, nn.Linear):
            kept += passes * (inputs + 4 * out + 2 * second)
    return 5 * size * sum(p.numel() for p in net.parameters()), int(size * (n * kept + working))


def micro_batch(plan: "Plan") -> int | None:
    """The points of each kind that fit into `max_memory` at a time; None: all.

    What the process holds already counts as well. A step adds up the gradients of its micro-batches: the same
    gradient, in less memory.

    Raises:
        ConfigError: not even one point fits.
    """
    config = plan.config
    if config.max_memory is None:
        return None
    limit = parse(config.max_memory)
    held = resident_bytes() if config.device == "cpu" else 0
    fixed, step = estimate(plan)
    left, n = limit - held - fixed, sum(plan.counts.values())
    if left >= step:
        return None
    if left < step / n:
        needed = (held + fixed + step / n) / 10**6
        raise ConfigError(f"max_memory: given {config.max_memory}, one point at a time needs about {needed:,.0f}MB")
    return max(1, int(left / step * max(plan.counts.values())))
