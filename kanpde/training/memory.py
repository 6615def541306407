"""What a training step needs of memory, and the number of points at a time that fits into a limit."""

import re
from typing import TYPE_CHECKING

from kanpde.config.schema import MEMORY
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import resident_bytes
from kanpde.jets.jet import Step, footprint

if TYPE_CHECKING:
    from kanpde.training.plan import Plan

UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


def parse(limit: str) -> int:
    """Bytes of "8GB", "500 MB" or "2GiB"."""
    number, unit = re.fullmatch(MEMORY, limit.strip(), re.IGNORECASE).groups()
    return int(float(number) * UNITS[unit.upper()])


def estimate(plan: "Plan") -> tuple[int, int]:
    """Bytes of parameters with gradient, two moments and best copy; and of what a step on all its points holds.

    Of a point: its coordinates, their directions and gradients, and what the layers keep (`kanpde.jets.jet.footprint`);
    and what one layer at a time works with.
    """
    net, size, dim = plan.net, plan.dtype.itemsize, plan.problem.domain.dim
    dim = plan.problem.input_slice.width if plan.sliced else dim
    n, passes = sum(plan.most.values()), 1 if plan.config.loss.gradient == "none" else 2
    counts = plan.operator.counts(plan.problem.reads)
    layers = [footprint(module, Step(n, dim, size, passes, counts)) for module in net.modules()]
    kept, working = 5 * dim + sum(layer.kept for layer in layers), max(layer.working for layer in layers)
    return 5 * size * sum(p.numel() for p in net.parameters()), int(size * (n * kept + working))


def left(plan: "Plan") -> int | None:
    """Bytes of `max_memory` beside what the process holds already, and parameters; None: there is no limit."""
    config = plan.config
    if config.max_memory is None:
        return None
    return parse(config.max_memory) - _held(plan) - estimate(plan)[0]


def _held(plan: "Plan") -> int:
    return resident_bytes() if plan.config.device == "cpu" else 0


def micro_batch(plan: "Plan") -> int | None:
    """The points of each kind that fit into `max_memory` at a time; None: all.

    What the process holds already counts as well. A step adds up the gradients of its micro-batches: the same
    gradient, in less memory.

    Raises:
        ConfigError: not even one point fits.
    """
    config, there = plan.config, left(plan)
    if there is None:
        return None
    fixed, step = estimate(plan)
    n = sum(plan.most.values())
    if there >= step:
        return None
    if there < step / n:
        needed = (_held(plan) + fixed + step / n) / 10**6
        raise ConfigError(f"max_memory: given {config.max_memory}, one point at a time needs about {needed:,.0f}MB")
    return max(1, int(there / step * max(plan.most.values())))
