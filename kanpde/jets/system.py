"""Several fields: their jets by name, complex ones as pairs, and the networks that they are outputs of."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError, suggest
from kanpde.jets import taylor
from kanpde.jets.gram import Dense, Part, rows_of
from kanpde.jets.jet import Jet, MissingJetRule, push, rule
from kanpde.jets.tracing import in_torch_func, recorded


@dataclass(frozen=True)
class Jets:
    """The jets of the fields of a problem: in their order, `u, v, p = w`, and by their names, `w.p` or `w["p"]`.

    Example:
        >>> w = Jets(("u", "v"), (Jet(torch.ones(2)), Jet(torch.zeros(2))))
        >>> u, v = w
        >>> v is w.v
        True
    """

    names: tuple[str, ...]
    jets: tuple[Jet, ...]

    def __iter__(self) -> Iterator[Jet]:
        return iter(self.jets)

    def __len__(self) -> int:
        return len(self.jets)

    def __getitem__(self, name: str | int) -> Jet:
        return self.jets[name] if isinstance(name, int) else self.jets[place(name, self.names)]

    def __getattr__(self, name: str) -> Jet:
        if not name.startswith("_") and name in self.names:
            return self.jets[self.names.index(name)]
        hint = f"; take the jet of a field, such as {self.names[0]}.{name}" if hasattr(Jet, name) else ""
        raise AttributeError(suggest("field", name, self.names) + hint)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Jets":
        """The jets whose tensors are function(those of these)."""
        return Jets(self.names, tuple(jet.map(function) for jet in self.jets))

    @property
    def parts(self) -> list[Tensor]:
        """All tensors that they have."""
        return [part for jet in self.jets for part in jet.parts]

    @staticmethod
    def of_columns(names: tuple[str, ...], jet: Jet) -> "Jets":
        """From a jet whose tensors have a last axis of fields."""
        return Jets(names, tuple(jet.map(lambda t, k=k: t[..., k]) for k in range(len(names))))


@dataclass(frozen=True)
class Complex:
    r"""A complex field psi = u + i v as the pair of its real and imaginary parts, which are fields.

    It reads what jets offer, `psi.t`, `psi.xx`, `psi.lap`, `psi.d("x", 3)`, as complex tensors (N,). A residual that is
    complex is two equations.

    Example:
        >>> psi = Complex(Jet(torch.tensor([3.0])), Jet(torch.tensor([4.0])))
        >>> psi.value, psi.abs_sq
        (tensor([3.+4.j]), tensor([25.]))
    """

    real: Jet
    imag: Jet

    @property
    def abs_sq(self) -> Tensor:
        """|psi|^2, (N,)."""
        return self.real.value.square() + self.imag.value.square()

    @property
    def conj(self) -> Tensor:
        """The value of its complex conjugate, (N,)."""
        return torch.complex(self.real.value, -self.imag.value)

    def d(self, *steps: str | int) -> Tensor:
        """A derivative by names, as that of a jet, (N,)."""
        return torch.complex(self.real.d(*steps), self.imag.d(*steps))

    def sum_of(self, *powers: int, **options: Any) -> Tensor:
        """A sum of derivatives, as that of a jet, (N,)."""
        return torch.complex(self.real.sum_of(*powers, **options), self.imag.sum_of(*powers, **options))

    def div(self, a: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """div(a grad psi) for a real function a(x), (N,)."""
        return torch.complex(self.real.div(a, x), self.imag.div(a, x))

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_") or name == "grad_sq":
            raise AttributeError(f"a complex field has no {name}")
        return torch.complex(getattr(self.real, name), getattr(self.imag, name))


class Separate(nn.Module):
    """One network for each field, their outputs side by side: (N, d) -> (N, K)."""

    def __init__(self, nets: Sequence[nn.Module]):
        super().__init__()
        self.nets = nn.ModuleList(nets)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([net(x) for net in self.nets], 1)


class Stages(nn.Module):
    """The sum of networks (N, d) -> (N, K), of which the last is trained and the others are what was learned before.

    Its jets have no |grad u|^2, which would need the products of their gradients.
    """

    def __init__(self, nets: Sequence[nn.Module]):
        super().__init__()
        self.nets = nn.ModuleList(nets)
        for net in self.nets[:-1]:
            net.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return sum(net(x) for net in self.nets)


@rule(Stages, reads=lambda module, wanted: Part.FULL, told=True)
def _stages(module: Stages, jet: Jet, wanted: Part) -> Jet:
    if wanted:
        raise MissingJetRule("of a sum of networks there is no |grad u|^2")
    parts = [push(net, jet, wanted) for net in module.nets]
    return reduce(Jet.__add__, (replace(part, gram=None) for part in parts))


@taylor.rule(Stages, fits=lambda module: all(map(taylor.has_rules, module.nets)))
def _stages_taylor(module: Stages, y: taylor.Taylor) -> taylor.Taylor:
    first, *rest = (taylor.push(net, y) for net in module.nets)
    return reduce(taylor.Taylor.plus, rest, first)


class Slabs(nn.Module):
    """Networks (N, d) -> (N, K) one after the other in time: in the slab t_k < t <= t_{k+1} it is f_k(x, t - t_k).

    Args:
        ends: t_1 ... t_K, rising from 0; before 0 it is the first network, after the last end the last.
    """

    def __init__(self, nets: Sequence[nn.Module], ends: Sequence[float]):
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.ends = tuple(ends)
        self.starts = (0.0, *self.ends[:-1])

    def forward(self, x: Tensor) -> Tensor:
        if recorded() or in_torch_func():  # nothing that depends on where the points are
            every = torch.stack([net(self._since(start, x)) for net, start in zip(self.nets, self.starts, strict=True)])
            return torch.take_along_dim(every, self._slab_of(x)[None, :, None], 0).squeeze(0)
        parts = self.parts(x)
        return self.joined(parts, [net(self._since(start, x[rows])) for net, start, rows in parts])

    def parts(self, x: Tensor) -> list[tuple[nn.Module, float, Tensor]]:
        """Network, begin and the numbers of the points in it, of each slab that has any; of no points the first."""
        slab = self._slab_of(x)
        each = [(slab == k).nonzero().squeeze(1) for k in range(len(self.nets))]
        found = list(zip(self.nets, self.starts, each, strict=True))
        return [part for part in found if len(part[2])] or found[:1]

    def joined(self, parts: Sequence[tuple[nn.Module, float, Tensor]], values: Sequence[Tensor]) -> Tensor:
        """Values at the points of `parts`, the points of each in the first axis, in the order of all points."""
        return torch.cat(list(values))[torch.cat([rows for *_, rows in parts]).argsort()]

    def _slab_of(self, x: Tensor) -> Tensor:
        return (x[:, -1:].detach() > x.new_tensor(self.starts[1:])).sum(1)

    @staticmethod
    def _since(start: float, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-1], x[:, -1:] - start], 1)

    def extra_repr(self) -> str:
        return f"ends={self.ends}"


@rule(Slabs, reads=lambda module, wanted: Part.FULL, told=True)
def _slabs(module: Slabs, jet: Jet, wanted: Part) -> Jet:
    parts, found = module.parts(jet.value), []
    for net, start, rows in parts:
        at = lambda t, rows=rows: None if t is None else t[rows]
        gram = None if jet.gram is None else rows_of(jet.gram, rows, len(jet.value))
        value = module._since(start, at(jet.value))
        found.append(push(net, Jet(value, at(jet.along), gram, at(jet.lap)), wanted))

    def joined(of: Callable[[Jet], Tensor | None]) -> Tensor | None:
        each = [of(part) for part in found]
        return None if any(t is None for t in each) else module.joined(parts, each)

    dense = lambda part: part.gram.dense().expand(len(part.value), -1, -1)
    return Jet(
        value=joined(lambda part: part.value),
        along=joined(lambda part: part.along),
        gram=Dense(joined(dense)) if wanted and jet.gram is not None else None,
        lap=joined(lambda part: None if part.lap is None else part.lap.expand_as(part.value)),
    )


@taylor.rule(Slabs, fits=lambda module: all(map(taylor.has_rules, module.nets)))
def _slabs_taylor(module: Slabs, y: taylor.Taylor) -> taylor.Taylor:
    parts, n = module.parts(y.value), len(y.value)
    at = lambda t, rows: t if t is None or len(t) != n else t[rows]
    given = lambda start, rows: replace(
        y, value=module._since(start, y.value[rows]), terms=tuple(at(t, rows) for t in y.terms)
    )
    found = [taylor.push(net, given(start, rows)) for net, start, rows in parts]
    terms = []
    for j, count in enumerate(y.counts):
        each = [part.terms[j] for part in found]
        zero = lambda part, count=count: part.value.new_zeros(1, 1, 1).expand(1, count, part.value.shape[1])
        sized = [
            (zero(part) if t is None else t).expand(len(part.value), -1, -1)
            for t, part in zip(each, found, strict=True)
        ]
        terms.append(None if all(t is None for t in each) else module.joined(parts, sized))
    return taylor.Taylor(module.joined(parts, [part.value for part in found]), tuple(terms), y.counts)


class Column(nn.Module):
    """One output of several: (N, K) -> (N, 1)."""

    def __init__(self, index: int):
        super().__init__()
        self.index = index

    def forward(self, y: Tensor) -> Tensor:
        return self.of(y)

    def of(self, y: Any) -> Any:
        """The column of a tensor (..., K)."""
        return y[..., self.index : self.index + 1]


@rule(Column, reads=lambda module, wanted: Part.FULL if wanted else Part.NONE, told=True)
def _column(module: Column, jet: Jet, wanted: Part) -> Jet:
    of = lambda t: None if t is None else module.of(t)
    gram = None
    if jet.gram is not None and wanted:
        one = torch.eye(jet.value.shape[-1], dtype=jet.value.dtype, device=jet.value.device)
        gram = jet.gram.linear(module.of(one), wanted)
    return Jet(module.of(jet.value), of(jet.along), gram, of(jet.lap))


@taylor.rule(Column)
def _column_taylor(module: Column, y: taylor.Taylor) -> taylor.Taylor:
    return y.through(module.of, module.of(y.value))


def place(field: str, fields: Sequence[str]) -> int:
    """The number of a field.

    Raises:
        ConfigError: it is none of them.
    """
    if field not in fields:
        raise ConfigError(suggest("field", field, fields))
    return fields.index(field)


def networks(net: nn.Module) -> list[nn.Module]:
    """Those of the fields where each has its own, or of all stages or slabs, else the one."""
    return list(net.nets) if isinstance(net, Separate | Stages | Slabs) else [net]
