"""What a residual reads of u: it is called once, with numbers that say who has looked at them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kanpde.domains.base import laws_of
from kanpde.ground.samplers import stream
from kanpde.jets.jet import Jet
from kanpde.jets.names import Index, Reads

Fill = Callable[[Sequence[int]], Tensor]  # a tensor of a shape


class Asked(dict[Index, Tensor]):
    """Derivatives that are made when they are read; those that were read are in it afterwards."""

    def __init__(self, fill: Fill, n: int):
        super().__init__()
        self.fill, self.n = fill, n

    def __missing__(self, index: Index) -> Tensor:
        self[index] = self.fill((self.n,))
        return self[index]


@dataclass(frozen=True)
class Watched(Jet):
    """A jet that notes which of its parts are read."""

    seen: set[str] = field(default_factory=set)

    def __getattribute__(self, name: str):
        if name in ("along", "lap", "gram", "diffusion"):
            object.__getattribute__(self, "seen").add(name)
        return object.__getattribute__(self, name)


def any_jet(problem, x: Tensor, fill: Fill) -> Watched:
    """A jet at x of all that there may be, each part a tensor by `fill`; None where the problem has no such part."""
    n, s, v, factors = len(x), problem.coefficients(x), problem.directions(x), problem.diffusion(x)
    return Watched(
        value=fill((n,)),
        along=None if v is None else fill((n, v.shape[-2])),
        gram=None if s is None else fill((n,)),
        lap=None if s is None else fill((n,)),
        diffusion=None if factors is None else fill((n,)),
        derivatives=Asked(fill, n),
        coordinates=problem.axes,
    )


def reads_of(problem) -> Reads:
    """What the residual reads of a jet: of normal numbers, of those above and of those below zero, lest it branches.

    One that fails at such numbers, or where nothing else is known of the problem yet, reads what it has read until
    then, and all parts that have no name; where it is called in earnest, it says why it fails.
    """
    own = problem.parameters
    like = next(own.parameters(), torch.empty(0)) if isinstance(own, nn.Module) else torch.empty(0)
    generator, derivatives, seen = stream(0, "reads"), set(), set()
    for sign in (lambda t: t, torch.abs, lambda t: -t.abs()):
        fill = lambda shape, sign=sign: sign(torch.randn(shape, generator=generator)).to(like)
        jet = None
        try:
            x = problem.domain.interior(2, generator, laws_of(problem.domain)[0], dtype=like.dtype).to(like)
            jet = any_jet(problem, x, fill)
            problem.residual(jet, x)
        except Exception:
            seen |= {"along", "lap", "gram", "diffusion"}
        derivatives |= set() if jet is None else jet.derivatives.keys()
        seen |= set() if jet is None else jet.seen
    along, lap, grad_sq, diffusion = (name in seen for name in ("along", "lap", "gram", "diffusion"))
    return Reads(along, lap, grad_sq, diffusion, tuple(sorted(derivatives, key=lambda index: (len(index), index))))
