r"""Taylor jets: derivatives of any order along directions, in closed form, module by module.

For y(t) = y(x + t v) and any function a that is applied to it, Faa di Bruno's formula says, with the partial Bell
polynomials B,

.. math:: (a \circ y)^{(j)} = \sum_{r=1}^j a^{(r)}(y) \, B_{j,r}(y', \ldots, y^{(j-r+1)}), \qquad
          B_{j,r} = \sum_{i=1}^{j-r+1} \binom{j-1}{i-1} y^{(i)} B_{j-i,r-1}, \quad B_{0,0} = 1

so one pass forward gives all orders, with the derivatives of the functions themselves and none that are nested. Mixed
derivatives are sums of such along several directions, by the polarisation formula

.. math:: \partial_{v_1} \cdots \partial_{v_k} u = \frac{1}{2^{k-1} k!}
          \sum_{\epsilon_2, \ldots = \pm 1} \epsilon_2 \cdots \epsilon_k \, D^k_{v_1 + \epsilon_2 v_2 + \ldots} u

Source: Griewank, Utke, Walther 2000 (Math. Comp. 69, 1117-1130) on tensors from univariate Taylor series; Bettencourt,
Johnson, Duvenaud 2019 on Taylor mode for nested derivatives.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import comb, factorial, gcd

import torch
from torch import Tensor, nn

from kanpde.jets.jet import Affine, LayerNorm, MissingJetRule, Product, Scaling, elementary, hooked
from kanpde.jets.names import Index
from kanpde.jets.nested import slopes

Row = list[Tensor | None]  # of the numbers B_j1 ... B_jj; None: zero


@dataclass(frozen=True)
class Taylor:
    """Derivatives of n features at N points along m directions, of which the first have the highest orders.

    Attributes:
        value: (N, n).
        terms: for each order j = 1 ... k the derivatives (N or 1, m_j, n) along the first m_j of the directions, where
            m_1 >= m_2 >= ...; None: zero.
        counts: m_1 ... m_k.
    """

    value: Tensor
    terms: tuple[Tensor | None, ...]
    counts: tuple[int, ...]

    @property
    def order(self) -> int:
        return len(self.counts)

    def through(self, linear: Callable[[Tensor], Tensor], value: Tensor) -> "Taylor":
        """That of a linear map of the features, whose value is given."""
        return replace(self, value=value, terms=tuple(None if t is None else linear(t) for t in self.terms))

    def bell(self) -> list[Row]:
        """For each order j the partial Bell polynomials B_j1 ... B_jj of the terms, each (N or 1, m_j, n)."""
        rows: list[Row] = []
        for j, count in enumerate(self.counts, 1):
            cut = lambda t, count=count: None if t is None else t[:, :count]
            row: Row = [cut(self.terms[j - 1])]
            for r in range(2, j + 1):
                pairs = ((i, cut(self.terms[i - 1]), cut(rows[j - i - 1][r - 2])) for i in range(1, j - r + 2))
                row.append(_total(comb(j - 1, i - 1) * (y * b) for i, y, b in pairs if y is not None and b is not None))
            rows.append(row)
        return rows

    def rows(self) -> Tensor:
        """The same in one tensor (N or 1, m_1 + ... + m_k, k, n): B_jr at j's rows and r, zero where r > j."""
        bell = self.bell()
        size = max((len(b) for row in bell for b in row if b is not None), default=1)
        n, zero = self.value.shape[-1], self.value.new_zeros(())
        blocks = []
        for row, count in zip(bell, self.counts, strict=True):
            row = [zero if b is None else b for b in [*row, *[None] * (self.order - len(row))]]
            blocks.append(torch.stack([b.expand(size, count, n) for b in row], 2))
        return torch.cat(blocks, 1)

    def after(self, value: Tensor, rows: Tensor, edges: Sequence[Tensor]) -> "Taylor":
        """That of sums over functions of one feature each, from `rows` and the derivatives (N, n, n') of each edge."""
        return self.with_sums(value, summed(rows, edges))

    def with_sums(self, value: Tensor, sums: Tensor) -> "Taylor":
        """Other features along the same directions: value (N, n'), and all orders in one tensor (N, m_1 + ..., n')."""
        return replace(self, value=value, terms=sums.split(self.counts, 1))

    def of(self, derivatives: Sequence[Tensor]) -> "Taylor":
        """That of a(y), from a, a', ..., a^(k) at the values: each (N, n)."""
        value, *higher = derivatives
        terms = [
            _total(a.unsqueeze(1) * b for a, b in zip(higher, row, strict=False) if b is not None)
            for row in self.bell()
        ]
        return replace(self, value=value, terms=tuple(terms))

    def times(self, other: "Taylor") -> "Taylor":
        """The product, by Leibniz' rule."""
        a, b = (lambda t, y=y: (y.value.unsqueeze(1), *y.terms)[t] for y in (self, other))
        terms = []
        for j, count in enumerate(self.counts, 1):
            cut = lambda t, count=count: t if t is None or t.shape[1] == 1 else t[:, :count]
            pairs = ((comb(j, i), cut(a(i)), cut(b(j - i))) for i in range(j + 1))
            terms.append(_total(c * (p * q) for c, p, q in pairs if p is not None and q is not None))
        return replace(self, value=self.value * other.value, terms=tuple(terms))

    def plus(self, other: "Taylor") -> "Taylor":
        """The sum."""
        pairs = zip(self.terms, other.terms, strict=True)
        terms = tuple(_total(t for t in pair if t is not None) for pair in pairs)
        return replace(self, value=self.value + other.value, terms=terms)

    @staticmethod
    def side_by_side(each: Sequence["Taylor"]) -> "Taylor":
        """Features of several along the same directions, one after the other."""
        value = torch.cat([y.value for y in each], 1)
        size = lambda t, y: y.value.new_zeros(1, 1, y.value.shape[1]) if t is None else t
        terms = []
        for j, count in enumerate(each[0].counts):
            parts = [size(y.terms[j], y).expand(len(value), count, -1) for y in each]
            terms.append(torch.cat(parts, 2))
        return Taylor(value, tuple(terms), each[0].counts)


def summed(rows: Tensor, edges: Sequence[Tensor]) -> Tensor:
    """sum_i sum_r B_jri phi_io^(r), (N, m_1 + ... + m_k, n'), from rows (N or 1, ..., k, n) and k times (N, n, n')."""
    return rows.flatten(2) @ torch.cat(list(edges), 1)


def _total(terms: Iterable[Tensor]) -> Tensor | None:
    total = None
    for term in terms:
        total = term if total is None else total + term
    return total


def line(x: Tensor, directions: Tensor, counts: tuple[int, ...]) -> Taylor:
    """x + t v of the inputs themselves, for v (1 or N, m, d)."""
    return Taylor(x, (directions, *[None] * (len(counts) - 1)), counts)


# ---------------------------------------------------------------------------------------------------------------
# Rules


_RULES: dict[type[nn.Module], Callable[[nn.Module, Taylor], Taylor]] = {}
_FIT: dict[type[nn.Module], Callable[[nn.Module], bool]] = {}


def rule(*modules: type[nn.Module], fits: Callable[[nn.Module], bool] = lambda module: True):
    """Register the function below, (module, y) -> Taylor jet of module(y), for these module types.

    fits: whether it serves a module of the type.
    """

    def register(function):
        _RULES.update(dict.fromkeys(modules, function))
        _FIT.update(dict.fromkeys(modules, fits))
        return function

    return register


def has_rules(module: nn.Module) -> bool:
    """Whether a Taylor jet can go through this module and all that it is made of."""
    if not _serves(module):
        return False
    return not isinstance(module, nn.Sequential) or all(map(has_rules, module))


def _serves(module: nn.Module) -> bool:
    kind = type(module)
    return elementary(module) is not None or (kind in _RULES and _FIT[kind](module))


def push(module: nn.Module, y: Taylor) -> Taylor:
    """The Taylor jet of module(y).

    Raises:
        MissingJetRule: the module's type has no rule.
    """
    if (function := elementary(module)) is not None:
        return y.of(function(module, y.value, y.order))
    if not _serves(module):
        raise MissingJetRule(f"no Taylor rule for {type(module).__name__}: register one with kanpde.jets.taylor.rule")
    return hooked(module, y, _RULES[type(module)](module, y))


@rule(nn.Sequential)
def _sequential(module: nn.Sequential, y: Taylor) -> Taylor:
    for child in module:
        y = push(child, y)
    return y


@rule(nn.Identity)
def _identity(module: nn.Module, y: Taylor) -> Taylor:
    return y


@rule(nn.Linear)
def _linear(module: nn.Linear, y: Taylor) -> Taylor:
    return y.through(lambda t: t @ module.weight.mT, module(y.value))


@rule(Affine, Scaling)
def _affine(module: Affine, y: Taylor) -> Taylor:
    value = module(y.value)
    return y.through(lambda t: module.scale.to(value.dtype) * t.to(value.dtype), value)


@rule(Product)
def _product(module: Product, y: Taylor) -> Taylor:
    first, second = (y.through(lambda t, k=k: t[..., k::2], y.value[..., k::2]) for k in (0, 1))
    return first.times(second)


@rule(LayerNorm, nn.LayerNorm)
def _layer_norm(module: nn.LayerNorm, y: Taylor) -> Taylor:
    """gamma c (|c|^2 / n + eps)^(-1/2) + beta with c = y - mean(y)."""
    c = y.through(lambda t: t - t.mean(-1, keepdim=True), y.value - y.value.mean(-1, keepdim=True))
    square = c.times(c)
    mean = square.through(lambda t: t.mean(-1, keepdim=True), square.value.mean(-1, keepdim=True) + module.eps)
    normed = c.times(mean.of(_root_derivatives(mean.value, y.order)))
    gamma, beta = (0 if t is None else t for t in (module.weight, module.bias))
    scale = (lambda t: t) if module.weight is None else (lambda t: t * gamma)
    return normed.through(scale, scale(normed.value) + beta)


def _root_derivatives(z: Tensor, last: int) -> list[Tensor]:
    """z^(-1/2) and its derivatives up to the last."""
    found = [z.rsqrt()]
    for r in range(last):
        found.append(found[-1] * (-(0.5 + r) / z))
    return found


# ---------------------------------------------------------------------------------------------------------------
# Functions that are no modules


def along(function: Callable[[Tensor], Tensor], x: Tensor, directions: Tensor, counts: tuple[int, ...]) -> Taylor:
    """The Taylor jet of any function (N, d) -> (N,) as one feature, by nested differentiation along the directions."""
    value, terms = function(x).unsqueeze(-1), []
    kept = (lambda t: t) if value.requires_grad else Tensor.detach  # by x, or by unknowns in the function
    for count in sorted(set(counts)):  # the directions of the highest orders, then those of lower ones
        done = len(terms) and terms[0].shape[1]
        v = directions[:, done:count].expand(len(x), -1, -1)
        at = x.unsqueeze(1).expand_as(v).flatten(0, 1)
        moved = lambda t, at=at, v=v: function(at + t.unsqueeze(1) * v.flatten(0, 1))
        order = sum(each >= count for each in counts)
        found = [kept(slope).view(len(x), count - done, 1) for slope in slopes(moved, at.new_zeros(len(at)), order)]
        terms = [torch.cat([a, b], 1) for a, b in zip(terms, found, strict=False)] + terms[len(found) :] or found
    return Taylor(value, tuple(terms), counts)


# ---------------------------------------------------------------------------------------------------------------
# Polarisation


@dataclass(frozen=True)
class Polarised:
    """Derivatives by axes as sums of derivatives along directions.

    Attributes:
        directions: each as its (axis, component) pairs, those of the highest orders first.
        counts: along how many of the directions there is a derivative of order 1, 2, ...
        sums: of each derivative the pairs (direction, weight).
    """

    directions: tuple[tuple[tuple[int, int], ...], ...]
    counts: tuple[int, ...]
    sums: tuple[tuple[Index, tuple[tuple[int, float], ...]], ...]

    @staticmethod
    @cache
    def of(indices: tuple[Index, ...]) -> "Polarised":
        """Of derivatives, each of order 1 or higher."""
        given = {index: _polarised(index, indices) for index in indices}
        orders: dict = {}
        for index, weights in given.items():
            for v in weights:
                orders[v] = max(orders.get(v, 0), len(index))
        directions = sorted(orders, key=lambda v: (-orders[v], v))
        place = {v: k for k, v in enumerate(directions)}
        counts = tuple(sum(order >= j for order in orders.values()) for j in range(1, max(orders.values()) + 1))
        sums = tuple((i, tuple((place[v], w) for v, w in weights.items())) for i, weights in given.items())
        return Polarised(tuple(directions), counts, sums)

    def vectors(self, x: Tensor) -> Tensor:
        """The directions as (1, m, d)."""
        v = x.new_zeros(1, len(self.directions), x.shape[-1])
        for k, pairs in enumerate(self.directions):
            for axis, component in pairs:
                v[0, k, axis] = component
        return v

    def derivatives(self, u: Taylor) -> dict[Index, Tensor]:
        """Those of the features, each (N, n); of one feature (N,)."""
        found, n = {}, u.value.shape[1]
        one = (lambda t: t.squeeze(1)) if n == 1 else (lambda t: t)
        for index, pairs in self.sums:
            term = u.terms[len(index) - 1]
            of = (lambda k: torch.zeros_like(u.value)) if term is None else (lambda k, t=term: t[:, k])
            found[index] = one(sum(of(k) if w == 1 else w * of(k) for k, w in pairs).expand(len(u.value), n))
        return found


@cache
def mixed(powers: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]:
    """The rows C_p and weights w_p of D_v1^m1 ... D_vr^mr = sum_p w_p D^k_{C_p v}, for any v_1 ... v_r.

    Example:
        >>> mixed((3,)), mixed((1, 1))
        ((((1,),), (1.0,)), (((1, 1), (1, -1)), (0.25, -0.25)))
    """
    index = tuple(i for i, m in enumerate(powers) for _ in range(m))
    found = _polarised(index, ())
    rows = tuple(tuple(dict(v).get(i, 0) for i in range(len(powers))) for v in found)
    return rows, tuple(found.values())


def _polarised(index: Index, indices: tuple[Index, ...]) -> dict[tuple, float]:
    """{direction: weight} with d^index = sum weight D^k_direction."""
    k = len(index)
    if k == 2 and index[0] != index[1] and {(i, i) for i in index} <= set(indices):  # which are there anyway
        i, j = index
        return {((i, 1), (j, 1)): 0.5, ((i, 1),): -0.5, ((j, 1),): -0.5}
    weights: dict[tuple, int] = {}
    for signs in product((1, -1), repeat=k - 1):
        components: dict[int, int] = {}
        for axis, sign in zip(index, (1, *signs), strict=True):
            components[axis] = components.get(axis, 0) + sign
        v = [(axis, c) for axis, c in sorted(components.items()) if c]
        if not v:
            continue
        size = gcd(*(c for _, c in v)) * (1 if v[0][1] > 0 else -1)
        direction = tuple((axis, c // size) for axis, c in v)
        weights[direction] = weights.get(direction, 0) + size**k * (-1) ** signs.count(-1)
    whole = 2 ** (k - 1) * factorial(k)
    return {v: w / whole for v, w in weights.items() if w}
