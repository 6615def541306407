r"""Slices of the inputs: each process has some coordinates of every point, and what is a sum over all is sent once.

Tensors are of two kinds. One is *shared*: the same numbers in all processes, as are the values of u, all that follows
the first layer, and the loss. One is *sliced*: coordinates x_i, slopes by them, weights of the first layer; each
process has its own columns or rows. Two maps lead from one kind to the other, each the adjoint of the other:

.. math:: \Sigma: (y_1, \ldots, y_K) \mapsto y_1 + \ldots + y_K, \qquad
          \Sigma^T: \bar y \mapsto (\bar y, \ldots, \bar y)

`Slice.sum` is the first: a message forward, and none backward, since the gradient of what is shared is there already,
whole, in each process. `Slice.spread` is the second: nothing forward, and backward a message, which adds up what each
slice asks of a number that they share, such as the weights of a meta-learner. With both where the kinds change, the
gradient of a shared parameter comes out whole in every process, that of a sliced one where it lives, and derivatives of
derivatives as well. This is the pair f, g of Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053).

A solution that couples neighbours reads `Slice.beyond`, the columns next to a slice: H of the edges, with H^T = H.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kanpde.ground.samplers import stream
from kanpde.ground.world import ALONE, World

BLOCK = 4096  # inputs whose random numbers come from a stream of their own, whichever process draws them


@dataclass(frozen=True, eq=False)
class Slice:
    """The inputs start ... stop of dim that this process has; the others of the world have the others.

    Attributes:
        dim: of all inputs; 0: of `WHOLE`, with which nothing is sliced.
        world: the processes.

    Example:
        >>> Slice(7, World(1, 2)).start, Slice(7, World(1, 2)).width
        (4, 3)
    """

    dim: int = 0
    world: World = ALONE

    def __deepcopy__(self, memo: dict) -> "Slice":
        return self  # a copy of a network is in the same processes

    @property
    def start(self) -> int:
        return self.dim // self.world.size * self.world.rank + min(self.world.rank, self.dim % self.world.size)

    @property
    def stop(self) -> int:
        return self.start + self.width

    @property
    def width(self) -> int:
        """How many inputs this process has."""
        return self.world.share(self.dim)

    # -----------------------------------------------------------------------------------------------------------
    # From one kind to the other

    def sum(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The sums over the processes, shared, of what each has of its inputs: one message for each dtype."""
        return tensors if self.world.alone else _Sum.apply(self.world, *tensors)

    def spread(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Shared tensors as what acts on the inputs of this process."""
        return tensors if self.world.alone else _Spread.apply(self.world, *tensors)

    def beyond(self, x: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """The columns (N, reach) before and after those of this process, (N, 0) where there are none."""
        none = x[:, :0]
        if self.world.alone:
            return none, none
        before, after = _Edges.apply(self.world, x[:, :reach], x[:, -reach:])
        return before if self.start else none, after if self.stop < self.dim else none

    # -----------------------------------------------------------------------------------------------------------
    # Rows of a whole

    def blocks(self) -> list[tuple[int, slice]]:
        """The numbers of the blocks of `BLOCK` inputs that this process has any of, and which of them."""
        found = []
        for number in range(self.start // BLOCK, -(-self.stop // BLOCK)):
            first = number * BLOCK
            found.append((number, slice(max(self.start - first, 0), min(self.stop - first, BLOCK))))
        return found

    def drawn(self, name: str, seed: int, draw: Any, dim: int, device: torch.device | str = "cpu") -> Tensor:
        """Random numbers for the inputs of this process: draw(n, generator) for n inputs, which are its axis `dim`.

        Each block has a stream of its own, so that an input has the same numbers whoever holds it.
        """
        parts = []
        for number, own in self.blocks():
            n = min(BLOCK, self.dim - number * BLOCK)
            parts.append(draw(n, stream(seed, f"{name}/{number}", device)).narrow(dim, own.start, own.stop - own.start))
        return torch.cat(parts, dim)

    def cut(self, whole: Tensor, dim: int = 0) -> Tensor:
        """What this process has of a tensor of all inputs."""
        return whole.narrow(dim, self.start, self.width).clone()

    def whole(self, mine: Tensor, dim: int = 0) -> Tensor | None:
        """Of the first process the tensor of all inputs, on the CPU; of others None."""
        rows = self.world.to_first(mine.detach().movedim(dim, 0))
        return None if rows is None else rows.movedim(0, dim).contiguous()


WHOLE = Slice()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, world: World, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.world = world
        return tuple(world.sum(tensors))

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Spread.apply(ctx.world, *grads)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, world: World, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.world = world
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Sum.apply(ctx.world, *grads)


class _Edges(torch.autograd.Function):
    """First and last columns of each slice -> the last ones of the slice before it, the first ones of that after it."""

    @staticmethod
    def forward(ctx, world: World, first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        ctx.world = world
        return world.swap(first, last)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Edges.apply(ctx.world, *grads)


def total(parts: Sequence[Tensor], inputs: Slice) -> list[Tensor]:
    """Sums of each (N, inputs) over its inputs and over the processes, (N,), in one message."""
    return list(inputs.sum(*(part.sum(-1) for part in parts)))
