"""The jet: all that a second-order PDE needs of a function at N points, and how it goes through a network.

A jet holds, for n features y of the inputs x with Jacobian J = dy/dx and S = diag(s),

    value  (N, n)      y
    along  (N, m, n)   v_k . grad y for m direction fields v_k(x)
    gram   (N, n, n)   J S J^T  (never J itself: n is 32 where the dimension may be 100 000)
    lap    (N, n)      L y = sum_i s_i d^2 y / dx_i^2

and is pushed forward module by module, in one pass. `gram` takes four forms on its way (`kanpde.jets.gram`); rules
never ask which, and leave out what no later module reads.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kanpde.jets.elementary import (
    sigmoid_derivatives,
    silu_derivatives,
    sine_derivatives,
    softplus_derivatives,
    tanh_derivatives,
)
from kanpde.jets.gram import Part, numbers_of
from kanpde.jets.names import Coordinates, Index, Sum
from kanpde.jets.nested import gradient_of
from kanpde.jets.pieces import add

HOOKS = "_jet_hooks"  # of a module: to its jets what its forward hooks are to values


class MissingJetRule(TypeError):
    """A module has no rule by which a jet goes through it."""


@dataclass(frozen=True)
class Jet:
    r"""Value, directional derivatives, Gram matrix and second-order part of n features at N points.

    The result of an operator on a scalar function drops the feature axis: value (N,), along (N, m), lap (N,), and
    the Gram matrix has one entry, `grad_sq` (N,) = sum_i s_i (du/dx_i)^2. What was not asked for is None.

    The jet of a problem's u has derivatives by the names of the coordinates as well, each (N,), those that the residual
    reads: `u.t`, `u.xx`, `u.xt`, `u.xxxx`, the same as `u.d("x", 4)`, `u.bilap`, `u.sum_of(3)` and `u.div(a, x)`; and,
    with a full matrix A(x), `diffusion` (N,) = sum_ij a_ij d^2 u / dx_i dx_j.

    Example:
        >>> from kanpde.operators import Forward
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> jet = Forward()(net, torch.zeros(5, 2), directions=torch.eye(2))
        >>> jet.value.shape, jet.along.shape, jet.grad_sq.shape, jet.lap.shape
        (torch.Size([5]), torch.Size([5, 2]), torch.Size([5]), torch.Size([5]))
    """

    value: Tensor
    along: Tensor | None = None
    gram: Any = None
    lap: Tensor | None = None
    diffusion: Tensor | None = None
    derivatives: Mapping[Index, Tensor] = field(default_factory=dict)
    sums: Mapping[Sum, Tensor] = field(default_factory=dict)  # that are not those of `derivatives`
    coordinates: Coordinates | None = None

    @property
    def grad_sq(self) -> Tensor:
        """|grad u|_S^2 = sum_i s_i (du/dx_i)^2 of a scalar function, (N,)."""
        if self.gram is None:
            raise AttributeError("of a jet that has no gram")  # which __getattr__ says better
        return self.gram

    def d(self, *steps: str | int) -> Tensor:
        """A derivative by names, each followed by how often where it is not once: d("x", 3), d("x", 2, "t"), (N,)."""
        return self._derivative(self._named().of(*steps))

    @property
    def bilap(self) -> Tensor:
        """sum_ij d^4 u / dx_i^2 dx_j^2 over the coordinates of space, (N,)."""
        return self.sum_of(2, 2)

    def sum_of(
        self,
        *powers: int,
        axes: Sequence[Sequence[int]] | None = None,
        weights: Sequence[float] | None = None,
    ) -> Tensor:
        r"""sum c d_i^m d_j^n ... u, (N,), for the powers m, n, ... over all i, j, ... of space.

        `sum_of(3)` is the sum of all third derivatives u_iii, `sum_of(2, 2)` the bilaplacian, `sum_of(2, 2, 2)` the
        Laplacian of that.

        Args:
            axes: (i, j, ...) of each term, numbers of coordinates from 0; None: all, time left out.
            weights: c of each of them; None: 1.
        """
        named, fixed = self._named(), lambda given, part: None if given is None else tuple(map(part, given))
        count = len(named.space) if axes is None else named.count
        return self._sum(Sum(powers, count, fixed(axes, tuple), fixed(weights, float)))

    def div(self, a: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        r"""div(a grad u) = a Lap u + grad a . grad u over the coordinates of space, (N,), for a function a(x) (N,)."""
        space = self._named().space
        with torch.enable_grad():
            at = x if x.requires_grad else x.detach().requires_grad_()
            value = a(at)
            slope = gradient_of(value, at)
        return sum(value * self._derivative((i, i)) + slope[:, i] * self._derivative((i,)) for i in space)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Jet":
        """The jet whose tensors are function(those of this one)."""
        of = lambda t: None if t is None else function(t)
        each = {name: {k: function(t) for k, t in getattr(self, name).items()} for name in ("derivatives", "sums")}
        return replace(self, **dict(zip(_PARTS, map(of, _fields(self)), strict=True)), **each)

    @property
    def parts(self) -> list[Tensor]:
        """All tensors that it has."""
        found: list[Tensor] = []
        self.map(lambda t: found.append(t) or t)
        return found

    def _named(self) -> Coordinates:
        if self.coordinates is None:
            raise AttributeError("derivatives by name are of the u of a problem, whose coordinates have names")
        return self.coordinates

    def _derivative(self, index: Index) -> Tensor:
        try:
            return self.derivatives[index]
        except KeyError:
            name = self._named().names(index)
            raise AttributeError(
                f"u.{name} was not computed: the residual did not read it when it was called to see what it reads"
            ) from None

    def _sum(self, of: Sum) -> Tensor:
        """One that is there, or of derivatives that are."""
        try:
            return self.sums[of]
        except KeyError:
            return sum(c * self._derivative(index) for index, c in of.terms.items())

    def __getattr__(self, name: str):
        """A derivative by name; of what a jet has not, how to get it."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if self.coordinates is not None and (index := self.coordinates.index(name)) is not None:
            return self._derivative(index)
        message = _instead(name, self.coordinates)
        raise AttributeError(message, name=name, obj=None)  # without obj Python guesses no name

    def __add__(self, other: "Jet") -> "Jet":
        return Jet(*(add(a, b) for a, b in zip(_fields(self), _fields(other), strict=True)))


def _instead(name: str, coordinates: Coordinates | None) -> str:
    """What to read instead of an attribute that a jet has not."""
    if name == "grad_sq":
        return "grad_sq was not computed"
    if coordinates is not None and (odd := coordinates.odd(name)):
        return f"no {name} here: {odd} is no coordinate ({coordinates})"
    gets = "a jet offers value, along, lap, grad_sq"
    if coordinates is not None:
        first, last = (coordinates.name(axis) for axis in (0, coordinates.count - 1))
        gets += f", and derivatives by the names of the coordinates, such as u.{first}{first} or u.{last}"
    if re.fullmatch(r"(?i)(u_?)?(hess|lap|delta|d2|([a-z]\d?)_?\3$|dxx|dtt).*|second.*", name):
        gets += "; second derivatives: lap = sum_i s_i d^2u/dx_i^2, with s from coefficients(x)"
    elif hasattr(Tensor, name) and name not in ("grad", "t"):
        gets += f"; it is no tensor, but its value is: value.{name}"
    else:
        gets += "; first derivatives: along[:, k] = v_k . grad u, with v_k from directions(x), and grad_sq = |grad u|^2"
    return f"no {name} here: {gets}"


_PARTS = ("value", "along", "gram", "lap", "diffusion")


def _fields(jet: Jet) -> tuple:
    return tuple(getattr(jet, name) for name in _PARTS)


# ---------------------------------------------------------------------------------------------------------------
# Rules


class _Rule(NamedTuple):
    push: Callable[[nn.Module, Jet, Part], Jet]
    reads: Callable[[nn.Module, Part], Part]


_RULES: dict[type[nn.Module], _Rule] = {}


def rule(*modules: type[nn.Module], reads: Callable[[nn.Module, Part], Part] | None = None, told: bool = False):
    """Register the function below, (module, jet) -> jet, as the jet rule of these module types.

    Args:
        reads: (module, wanted) -> how much of the given Gram matrix the rule reads where `wanted` of its result is
            read; default all.
        told: the function is (module, jet, wanted) -> jet, told what is wanted; it may leave out what is not.
    """

    def register(function):
        pushed = function if told else lambda module, jet, wanted: function(module, jet)
        _RULES.update(dict.fromkeys(modules, _Rule(pushed, reads or (lambda module, wanted: Part.FULL))))
        return function

    return register


def has_rules(module: nn.Module) -> bool:
    """Whether a jet can go through this module and all that it is made of."""
    if not isinstance(module, nn.Module) or type(module) not in _RULES:
        return False
    return not isinstance(module, nn.Sequential) or all(map(has_rules, module))


def push(module: nn.Module, jet: Jet, wanted: Part = Part.FULL) -> Jet:
    """The jet of module(y), given the jet of y; of its Gram matrix as much as is wanted, or more.

    Raises:
        MissingJetRule: the module's type has no rule.
    """
    return hooked(module, jet, _rule_of(module).push(module, jet, wanted))


def hooked(module: nn.Module, given: Any, out: Any) -> Any:
    """A jet that came out of a module, as its hooks under `HOOKS`, (module, given, out) -> out, hand it on."""
    for hook in getattr(module, HOOKS, ()):
        out = hook(module, given, out)
    return out


def _rule_of(module: nn.Module) -> _Rule:
    try:
        return _RULES[type(module)]
    except KeyError:
        raise MissingJetRule(
            f"no jet rule for {type(module).__name__}: use the operator Autograd, or register one with kanpde.jets.rule"
        ) from None


def _wanted_along(module: nn.Sequential, wanted: Part) -> list[Part]:
    """What is read of the Gram matrix before each child and after the last."""
    parts = [wanted]
    for child in reversed(module):
        parts.append(_rule_of(child).reads(child, parts[-1]))
    return parts[::-1]


@rule(nn.Sequential, reads=lambda module, wanted: _wanted_along(module, wanted)[0], told=True)
def _sequential(module: nn.Sequential, jet: Jet, wanted: Part) -> Jet:
    for child, part in zip(module, _wanted_along(module, wanted)[1:], strict=True):
        jet = push(child, jet, part)
    return jet


def _itself_and_diagonal(module: nn.Module, wanted: Part) -> Part:
    """Of an elementwise function: the diagonal goes into the second-order part."""
    return max(wanted, Part.DIAGONAL)


def _all_or_nothing(module: nn.Module, wanted: Part) -> Part:
    """Of a linear map: every entry of the result mixes all that are given."""
    return Part.FULL if wanted else Part.NONE


@rule(nn.Identity, reads=lambda module, wanted: wanted)
def _identity(module: nn.Module, jet: Jet) -> Jet:
    return jet


@rule(nn.Linear, reads=_all_or_nothing, told=True)
def _linear(module: nn.Linear, jet: Jet, wanted: Part) -> Jet:
    w = module.weight.mT
    return Jet(
        value=module(jet.value),
        along=None if jet.along is None else jet.along @ w,
        gram=None if jet.gram is None or not wanted else jet.gram.linear(w, wanted),
        lap=None if jet.lap is None else jet.lap @ w,
    )


def elementwise(jet: Jet, value: Tensor, first: Tensor, second: Tensor) -> Jet:
    """The jet of a(y) from a, a' and a'' at y: a' v.grad y, a' G a', a' Ly + a'' diag G."""
    lap = None if jet.lap is None else first * jet.lap
    if jet.gram is not None:
        lap = add(lap, second * jet.gram.diagonal())
    return Jet(
        value=value,
        along=None if jet.along is None else first.unsqueeze(-2) * jet.along,
        gram=None if jet.gram is None else jet.gram.scaled(first),
        lap=lap,
    )


_ELEMENTARY: dict[type[nn.Module], Callable[[nn.Module, Tensor, int], list[Tensor]]] = {}


def smooth(*modules: type[nn.Module]):
    """Register the function below, (module, y, last) -> [a, a', ..., a^(last)] at y, of modules that are elementwise.

    From it come their jet rule and, for derivatives of any order, their Taylor rule (`kanpde.jets.taylor`).
    """

    def register(function):
        _ELEMENTARY.update(dict.fromkeys(modules, function))
        of_jet = lambda module, jet: elementwise(jet, *function(module, jet.value, 2))
        rule(*modules, reads=_itself_and_diagonal)(of_jet)
        return function

    return register


def elementary(module: nn.Module) -> Callable[[nn.Module, Tensor, int], list[Tensor]] | None:
    """What was registered with `smooth` for the type of a module."""
    return _ELEMENTARY.get(type(module))


def general(jet: Jet, value: Tensor, jacobian: Tensor | None, second: Tensor | None) -> Jet:
    """The jet of any f(y) from its value, its Jacobian (N, n, n') and sum_ab G_ab d^2 f / dy_a dy_b (N, n')."""
    lap = None if jet.lap is None else (jet.lap.unsqueeze(-2) @ jacobian).squeeze(-2)
    return Jet(
        value=value,
        along=None if jet.along is None else jet.along @ jacobian,
        gram=None if jet.gram is None else jet.gram.through(jacobian),
        lap=add(lap, second),
    )


class LayerNorm(nn.LayerNorm):
    """torch's LayerNorm in plain operations: the fused one's derivatives are wrong from the third order on (2.13)."""

    def forward(self, x: Tensor) -> Tensor:
        c = x - x.mean(-1, keepdim=True)
        y = c * (c.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias


@rule(LayerNorm, nn.LayerNorm)
def _layer_norm(module: nn.LayerNorm, jet: Jet) -> Jet:
    return general(jet, *layer_norm_terms(module, jet))


def layer_norm_terms(module: nn.LayerNorm, jet: Jet) -> tuple[Tensor, Tensor, Tensor | None]:
    r"""Value, Jacobian and second-order term of gamma r c + beta, c = y - mean(y), r = (|c|^2 / n + eps)^(-1/2).

    .. math:: \partial r = -r^3 c / n, \qquad
              \sum G_{ab} \partial_a \partial_b r = 3 r^5 c^T G c / n^2 - r^3 (\mathrm{tr}\, G - 1^T G 1 / n) / n
    """
    n = jet.value.shape[-1]
    c = jet.value - jet.value.mean(-1, keepdim=True)
    r = (c.square().mean(-1, keepdim=True) + module.eps).rsqrt()
    gamma = c.new_ones(n) if module.weight is None else module.weight
    centre = torch.eye(n, dtype=c.dtype, device=c.device) - 1 / n
    jacobian = r.unsqueeze(-1) * (centre - (r * c / n).unsqueeze(-1) * (r * c).unsqueeze(-2)) * gamma
    second = None
    if jet.gram is not None:
        g = jet.gram.dense()
        gc = (g @ c.unsqueeze(-1)).squeeze(-1)
        trace = g.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - g.sum((-2, -1)).unsqueeze(-1) / n
        bend = 3 * r**5 * (c * gc).sum(-1, keepdim=True) / n**2 - r**3 * trace / n
        second = gamma * (c * bend - 2 * r**3 / n * (gc - gc.mean(-1, keepdim=True)))
    return module(jet.value), jacobian, second


@smooth(nn.Tanh)
def _tanh(module: nn.Module, y: Tensor, last: int) -> list[Tensor]:
    return tanh_derivatives(last, y)


@smooth(nn.Sigmoid)
def _sigmoid(module: nn.Module, y: Tensor, last: int) -> list[Tensor]:
    return sigmoid_derivatives(last, torch.sigmoid(y))


@smooth(nn.SiLU)
def _silu(module: nn.Module, y: Tensor, last: int) -> list[Tensor]:
    return silu_derivatives(0, last, y)


@smooth(nn.Softplus)
def _softplus(module: nn.Softplus, y: Tensor, last: int) -> list[Tensor]:
    return softplus_derivatives(last, y, module.beta)


class Sine(nn.Module):
    """sin(frequency x), elementwise."""

    def __init__(self, frequency: float = 1.0):
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)

    def extra_repr(self) -> str:
        return f"frequency={self.frequency}"


@smooth(Sine)
def _sine(module: Sine, y: Tensor, last: int) -> list[Tensor]:
    return sine_derivatives(last, y, module.frequency)


class Affine(nn.Module):
    """scale x + shift with fixed numbers, one of each per feature: how a model keeps the units of its data."""

    def __init__(self, scale: Tensor, shift: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, self.scale, x)


class Scaling(Affine):
    """scale x + shift in float64, whatever the network is cast to: of data that lie far from 0, float32 holds no digit.

    Args:
        inwards: of the inputs of a network, handed on in its dtype; else of its outputs, which stay in float64.
    """

    def __init__(self, scale: Tensor, shift: Tensor, inwards: bool):
        super().__init__(scale.double(), shift.double())
        self.inwards = inwards
        self.register_buffer("like", torch.empty(0), persistent=False)  # of the dtype that the network is cast to

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.double())
        return y.to(self.like.dtype) if self.inwards else y

    def _apply(self, fn, recurse: bool = True):
        kept = self.scale, self.shift
        super()._apply(fn, recurse)
        self.scale, self.shift = (t.to(self.like.device) for t in kept)
        return self


@rule(Affine, Scaling, reads=lambda module, wanted: wanted)
def _affine(module: Affine, jet: Jet) -> Jet:
    value = module(jet.value)
    scale = module.scale.to(value.dtype)
    return Jet(
        value=value,
        along=None if jet.along is None else scale * jet.along,
        gram=None if jet.gram is None else jet.gram.scaled(scale.expand(1, value.shape[-1])),
        lap=None if jet.lap is None else scale * jet.lap,
    )


class Product(nn.Module):
    """Products of neighbouring features: (N, 2 n) -> (N, n), y_k = x_2k x_2k+1."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 0::2] * x[..., 1::2]


@rule(Product)
def _product(module: Product, jet: Jet) -> Jet:
    """L(ab) = a Lb + b La + 2 G_ab; the Jacobian a grad b + b grad a is a pair sum of rows scaled by the partner."""
    partner = torch.stack([jet.value[..., 1::2], jet.value[..., 0::2]], -1).flatten(-2)
    pair_sum = torch.eye(jet.value.shape[-1] // 2, dtype=partner.dtype, device=partner.device).repeat_interleave(2, 0)
    scaled = elementwise(replace(jet, gram=None), jet.value, partner, partner)
    lap, gram = scaled.lap, None
    if jet.gram is not None:
        cross = 2 * jet.gram.dense().diagonal(1, -2, -1)[..., 0::2]
        gram = jet.gram.scaled(partner).linear(pair_sum, Part.FULL)
        lap = cross if lap is None else lap @ pair_sum + cross
    elif lap is not None:
        lap = lap @ pair_sum
    return Jet(module(jet.value), None if jet.along is None else scaled.along @ pair_sum, gram, lap)


# ---------------------------------------------------------------------------------------------------------------
# Memory


class Step(NamedTuple):
    """What the memory of a training step depends on beside the network."""

    points: int
    dim: int
    itemsize: int  # bytes of a number
    passes: int  # 2 with the gradient of the residual, which keeps what it differentiates, else 1
    counts: tuple[int, ...] = ()  # of a Taylor jet, how many directions go to order 1, 2, ...


class Footprint(NamedTuple):
    """Numbers that a module holds in a training step: those kept of each point, and those of all points at a time."""

    kept: int = 0
    working: float = 0


@singledispatch
def footprint(module: nn.Module, step: Step) -> Footprint:
    """What a module holds beside its children, in a forward pass of jets and the backward pass of their loss.

    Nothing of one that has not registered: `@footprint.register` with the type in the annotation, as `nn.Linear`.
    """
    return Footprint()


@footprint.register
def _linear_footprint(module: nn.Linear, step: Step) -> Footprint:
    """Inputs; value, lap and two directions, and a Gram matrix before and after the function that follows."""
    n_in, n_out = module.in_features, module.out_features
    return Footprint(step.passes * (n_in + 4 * n_out + 2 * numbers_of(step.dim, n_out)))
