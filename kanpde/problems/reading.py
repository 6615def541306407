"""What a residual reads of u, and what equations it returns: it is called, with numbers that say who looks at them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from kanpde.domains.base import laws_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.jet import Jet
from kanpde.jets.names import Index, Reads, Sum, in_order
from kanpde.jets.system import Jets

PARTS = ("value", "along", "lap", "gram", "diffusion")
ALONE = "interior"  # the name of an equation that is the only one
Fill = Callable[[Sequence[int]], Tensor]  # a tensor of a shape


class Asked(dict[Index | Sum, Tensor]):
    """Derivatives, or sums of them, that are made when they are read; those that were read are in it afterwards."""

    def __init__(self, fill: Fill, n: int):
        super().__init__()
        self.fill, self.n = fill, n

    def __missing__(self, index: Index | Sum) -> Tensor:
        self[index] = self.fill((self.n,))
        return self[index]


@dataclass(frozen=True)
class Watched(Jet):
    """A jet that notes which of its parts are read."""

    seen: set[str] = field(default_factory=set)

    def __getattribute__(self, name: str):
        if name in PARTS:
            object.__getattribute__(self, "seen").add(name)
        return object.__getattribute__(self, name)


@dataclass(frozen=True)
class Reading:
    """What a residual reads of each field, and the names of the equations that it returns."""

    fields: dict[str, Reads]
    equations: tuple[str, ...]


def any_jet(problem, x: Tensor, fill: Fill) -> "Watched | Jets":
    """A jet at x of all that there may be, each part a tensor by `fill`; None where the problem has no such part.

    Of a problem with several fields the jets of all.
    """
    n, s, v, factors = len(x), problem.coefficients(x), problem.directions(x), problem.diffusion(x)
    jets = [
        Watched(
            value=fill((n,)),
            along=None if v is None else fill((n, v.shape[-2])),
            gram=None if s is None else fill((n,)),
            lap=None if s is None else fill((n,)),
            diffusion=None if factors is None else fill((n,)),
            derivatives=Asked(fill, n),
            sums=Asked(fill, n),
            coordinates=problem.axes,
        )
        for _ in problem.fields
    ]
    return jets[0] if len(jets) == 1 else Jets(problem.fields, tuple(jets))


def equations(found) -> dict[str, Tensor]:
    """What a residual returns by name, (N,) each: one tensor, a tuple of them, or a dictionary.

    One that is complex is two equations, of its real and of its imaginary part.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(found, Mapping):
        named = {str(name): r for name, r in found.items()}
    elif isinstance(found, tuple | list):
        named = {f"equation_{k}": r for k, r in enumerate(found, 1)}
    else:
        named = {ALONE: found}
    if not named:
        raise ConfigError("the residual returns no equation")
    parts: dict[str, Tensor] = {}
    for name, r in named.items():
        if isinstance(r, Tensor) and r.is_complex():
            stem = "equation" if name == ALONE else name
            parts |= {f"{stem}_re": r.real, f"{stem}_im": r.imag}
        else:
            parts[name] = r
    return parts


def reading_of(problem) -> Reading:
    """What the residual reads of a jet: of normal numbers, of those above and of those below zero, lest it branches.

    One that fails at such numbers, or where nothing else is known of the problem yet, reads what it has read until
    then, and all parts that have no name; where it is called in earnest, it says why it fails.
    """
    own = problem.parameters
    like = next(own.parameters(), torch.empty(0)) if isinstance(own, nn.Module) else torch.empty(0)
    generator, names = stream(0, "reads"), problem.fields
    derivatives, seen = {name: set() for name in names}, {name: set() for name in names}
    sums: dict[str, dict[Sum, Tensor]] = {name: {} for name in names}  # in the order in which they are read
    returned: tuple[str, ...] = (ALONE,)
    for sign in (lambda t: t, torch.abs, lambda t: -t.abs()):
        fill = lambda shape, sign=sign: sign(torch.randn(shape, generator=generator)).to(like)
        each: Sequence = ()
        try:
            x = problem.domain.interior(2, generator, laws_of(problem.domain)[0], dtype=like.dtype).to(like)
            jet = any_jet(problem, x, fill)
            each = (jet,) if len(names) == 1 else tuple(jet)
            returned = tuple(equations(problem.residual(jet, x)))
        except Exception:
            seen = {name: {*PARTS} for name in names}
        for name, watched in zip(names, each, strict=False):
            derivatives[name] |= watched.derivatives.keys()
            sums[name] |= watched.sums
            seen[name] |= watched.seen
    parts = lambda name: (part in seen[name] for part in ("along", "lap", "gram", "diffusion"))
    named = lambda name: (in_order(derivatives[name]), tuple(sums[name]))
    reads = {name: Reads(*parts(name), *named(name), "value" in seen[name]) for name in names}
    return Reading(reads, returned)
