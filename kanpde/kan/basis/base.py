"""What a basis of edge functions offers a layer: the number of weights of an edge, and their contraction."""

from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kanpde.jets.tracing import has_numbers, in_torch_func, plainly, transformed
from kanpde.kan.basis.base_functions import BASE_FUNCTIONS

Derivatives = tuple[Tensor, ...]  # f, f', f'', ... each (N, in, functions)


class Edges(NamedTuple):
    """Sums over the edges of a layer, for N points, `in` inputs, `out` outputs (what was not asked for is None).

    Example:
        >>> from kanpde.kan.basis import Fourier
        >>> basis = Fourier(2)
        >>> theta = torch.ones(2, basis.size, 3)
        >>> edges = basis.contract(torch.zeros(5, 2), theta, slope=True)
        >>> edges.value.shape, edges.slope.shape, edges.bend
        (torch.Size([5, 3]), torch.Size([5, 2, 3]), None)
    """

    value: Tensor  # (N, out)      sum_i phi_io(x_i)
    slope: Tensor | None  # (N, in, out)  phi'_io(x_i)
    bend: Tensor | None  # (N, out)      sum_i q_i phi''_io(x_i)


class Basis(nn.Module):
    """A family of functions of one variable on the range [low_i, high_i] of each input of a layer.

    A member states `size`, the weights of an edge, and writes `contract`, `init_activation` and `init_weights`.

    Args:
        in_features: inputs of the layer.
        grid_range: (low, high), or one such pair per input.
    Raises:
        ValueError: another shape, or a range that does not increase.

    Example:
        >>> Basis(2, [(0.0, 1.0), (0.0, 4.0)]).scale()  # dz/dx of z in [-1, 1]
        tensor([2.0000, 0.5000])
    """

    size: int
    smoothness = float("inf")  # continuous derivatives: second-order operators need 2
    recursive = False  # functions that come from a recurrence: written out, their derivatives take minutes to compile

    def __init__(self, in_features: int, grid_range: Any = (-1.0, 1.0)) -> None:
        super().__init__()
        limits = torch.as_tensor(grid_range, dtype=torch.get_default_dtype())
        if limits.shape not in ((2,), (in_features, 2)):
            raise ValueError(f"grid_range takes a pair, or {in_features} of them; its shape is {tuple(limits.shape)}")
        if has_numbers(limits) and not ((limits[..., 0] < limits[..., 1]) & limits.isfinite().all(-1)).all():
            raise ValueError(f"grid_range must be finite and increase, given {grid_range}")
        low, high = limits.expand(in_features, 2).unbind(-1)
        self.register_buffer("low", low.clone())
        self.register_buffer("high", high.clone())

    def scale(self, inputs: slice | Tensor = slice(None)) -> Tensor:
        """dz/dx (in,) of the coordinate z = 2 (x - low) / (high - low) - 1, which is [-1, 1] on the range."""
        return 2 / (self.high[inputs] - self.low[inputs])

    def contract(
        self,
        x: Tensor,
        theta: Tensor,
        inputs: slice | Tensor = slice(None),
        slope: bool = False,
        curvature: Tensor | None = None,
    ) -> Edges:
        """The sums over the edges at x (N, in) with theta (in, size, out); `curvature` is q (1 or N, in).

        `inputs` says which inputs of the layer the columns of x are.
        """
        raise NotImplementedError

    def edges(
        self, x: Tensor, theta: Tensor, order: int, inputs: slice | Tensor = slice(None), normed: Tensor | None = None
    ) -> list[Tensor]:
        """phi'_io, phi''_io, ... up to the derivative `order` at x (N, in), each (N, in, out), theta (in, size, out).

        With `normed` (N, in), those of the basis functions at it, then those of the base function at x: (N, 2 in, out).
        """
        raise NotImplementedError

    @property
    def states_edges(self) -> bool:
        """Whether its edge functions have derivatives one by one, of which those of any order of a network are made."""
        return type(self).edges is not Basis.edges

    def each(self, x: Tensor, theta: Tensor, inputs: Sequence[int], normed: Tensor | None = None) -> Tensor:
        """phi_e at x_i, (N, E), of edges taken one by one: i is inputs[e], theta (E, size), or (N, E, size).

        With `normed` (N, in), the basis functions stand at it and the base function at x.
        """
        raise NotImplementedError

    def footprint(self, n_out: int, order: int) -> int:
        """Numbers per point and input that a contraction with derivatives up to `order` holds at a time."""
        raise NotImplementedError

    def init_activation(self) -> Tensor:
        """Weights (size,) of a simple activation across the range, which the edges of a network start from."""
        raise NotImplementedError

    def init_scale(self) -> Tensor:
        """Sizes (size,) of random weights: smaller for functions whose derivatives are large."""
        return self.low.new_ones(self.size)

    def init_weights(self, n_in: int, n_out: int, generator: torch.Generator) -> Tensor:
        """Initial free weights (n_in, size, n_out)."""
        raise NotImplementedError


# Deviation of the weights of basis functions, times 1 / sqrt(in); `init_activation` is multiplied by 1 / sqrt(in)
SPREAD = 0.1


class LinearBasis(Basis):
    """Edge functions that are linear in their weights, phi(x) = sum_c theta_c b_c(x) + theta_base base(x).

    A member states `count`, the number of its functions b_c, and writes their `formula`; contraction with any
    weights, base function and gradients are inherited.

    Args:
        base: silu, gelu, identity or none; its weight is the last one of an edge.

    Example:
        >>> class Monomials(LinearBasis):
        ...     def __init__(self, in_features, grid_range=(-1.0, 1.0)):
        ...         super().__init__(in_features, 2, grid_range)
        ...     def formula(self):
        ...         of = lambda x: [[x, x**2], [x**0, 2 * x], [0 * x, 2 * x**0]]
        ...         return lambda first, last, x, low, scale, axis=-1, out=None: [
        ...             torch.stack(row, axis) for row in of(x)[first : last + 1]
        ...         ]
        >>> Monomials(1).contract(torch.tensor([[3.0]]), torch.ones(1, 2, 1), slope=True).slope  # of x + x^2
        tensor([[[7.]]])
    """

    has_parameters = False  # whether its functions are trained themselves
    resolution: str | None = None  # its option that says how many functions there are; None: it cannot be refined

    def __init__(self, in_features: int, count: int, grid_range=(-1.0, 1.0), base: str = "none"):
        super().__init__(in_features, grid_range)
        if base not in BASE_FUNCTIONS:
            raise ValueError(f"base is one of {', '.join(BASE_FUNCTIONS)}, given {base!r}")
        self.count, self.base, self.size = count, base, count + (base != "none")

    def finer(self, resolution: int) -> "LinearBasis":
        """Functions of its kind on ranges like its own, with another resolution; a member that states one writes this.

        Raises:
            ValueError: there is none.
        """
        raise ValueError(f"{type(self).__name__} has no resolution to refine")

    def among(self, finer: "LinearBasis") -> list[int] | None:
        """Which of the functions of a finer basis its own are; None: they are none of them."""
        return None

    def formula(self) -> Callable[..., list[Tensor]]:
        """f(first, last, x, *constants, axis, out) -> [b^(first), ..., b^(last)] at x, the functions as a new axis.

        axis = -1: x (N, in) -> (N, in, count). axis = -2: x (in, N) -> (in, count, N), which is faster where there are
        many points; x (N, in) and constants (in) -> (N, count, in). The formula may write its results into `out`, a
        tensor each, or leave that to `fill`.
        """
        raise NotImplementedError

    def constants(self, inputs: slice | Tensor, axis: int = -1) -> tuple[Tensor, ...]:
        """The tensors without a gradient that the formula reads: low and dz/dx, shaped to meet x.

        A member may hand out others; the first two are of the inputs, further ones serve all of them.
        """
        limits = self.low[inputs], self.scale(inputs)
        return limits if axis == -1 else tuple(t.unsqueeze(-1) for t in limits)

    def live(self, x: Tensor) -> slice:
        """The functions b_c that can be other than 0 somewhere at x; the others need not be computed."""
        return slice(0, self.count)

    def functions(self, x: Tensor, order: int, inputs: slice | Tensor = slice(None)) -> Derivatives:
        """b, b', ... up to the derivative `order` at x (N, in): each (N, in, count)."""
        return closed(self.formula(), 0, order, x, *self.constants(inputs))

    def base_function(self, x: Tensor, order: int) -> Derivatives:
        """The base function and its derivatives, each (N, in, 1), or (N, in, 0) without one."""
        return closed(BASE_FUNCTIONS[self.base], 0, order, x)

    def features(self, x: Tensor, order: int, inputs: slice | Tensor = slice(None)) -> Derivatives:
        """All functions of an edge, base last: each (N, in, size)."""
        return closed(self.together(), 0, order, x, *self.constants(inputs))

    def together(self, live: slice | None = None) -> Callable[..., list[Tensor]]:
        """The formula of all functions of an edge, base last; of the basis functions only the live ones (None: all)."""
        count = self.count if live is None else live.stop - live.start  # slice.indices breaks a graph of torch 2.11
        formula = self.formula() if count == self.count else partial(self.formula(), live=live)
        return formula if self.base == "none" else partial(_together, formula, count, BASE_FUNCTIONS[self.base])

    def weights_of(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Weights (size,) of function(t), t from -1 to 1 across the range, by least squares; 0 of the base function."""
        t = torch.linspace(-1, 1, 8 * self.count + 1, dtype=torch.float64, device=self.low.device)
        x = self.low[0] + (t + 1) / 2 * (self.high[0] - self.low[0])
        (b,) = self.functions(x.to(self.low.dtype).unsqueeze(1), 0, slice(0, 1))
        a, y = b[:, 0].detach().double(), function(t).unsqueeze(1)
        found = torch.linalg.lstsq(a, y, driver="gels").solution.squeeze(1)  # the other drivers are not deterministic
        return torch.cat([found.to(self.low.dtype), self.low.new_zeros(self.size - self.count)])

    def contract(self, x, theta, inputs=slice(None), slope=False, curvature=None) -> Edges:
        order = 2 if curvature is not None else int(slope)
        return contract_features(self.features(x, order, inputs), theta, slope, curvature)

    def edges(self, x, theta, order, inputs=slice(None), normed=None) -> list[Tensor]:
        of = lambda features, theta: [(b.transpose(0, 1) @ theta).transpose(0, 1) for b in features[1:]]
        if normed is None:
            return of(self.features(x, order, inputs), theta)
        functions = of(self.functions(normed, order, inputs), theta[:, : self.count])
        base = of(self.base_function(x, order), theta[:, self.count :])
        return [torch.cat(pair, 1) for pair in zip(functions, base, strict=True)]

    def each(self, x: Tensor, theta: Tensor, inputs: Sequence[int], normed: Tensor | None = None) -> Tensor:
        if normed is None:
            features = self.features(x, 0)[0]
        else:
            features = torch.cat([self.functions(normed, 0)[0], self.base_function(x, 0)[0]], -1)
        return (features[:, inputs] * theta).sum(-1)

    def footprint(self, n_out: int, order: int) -> int:
        return self.size * (order + 1)

    def init_weights(self, n_in: int, n_out: int, generator: torch.Generator) -> Tensor:
        theta = torch.empty(n_in, self.size, n_out).normal_(std=SPREAD / sqrt(n_in), generator=generator)
        theta *= self.init_scale().unsqueeze(-1)
        if self.base != "none":
            theta[:, -1].normal_(std=1 / sqrt(n_in), generator=generator)
            return theta
        main = torch.empty(n_in, 1, n_out).normal_(std=1 / sqrt(n_in), generator=generator)
        return theta + main * self.init_activation().unsqueeze(-1)


def _together(formula: Callable, count: int, base: Callable, first: int, last: int, x: Tensor, *constants, axis=-1):
    """The derivatives of `count` basis functions and, last, of the base function."""
    if transformed() or not has_numbers(x):
        pairs = zip(formula(first, last, x, *constants, axis=axis), base(first, last, x, axis=axis), strict=True)
        return [torch.cat(pair, axis) for pair in pairs]
    shape = list(x.shape)
    shape.insert(x.ndim + 1 + axis, count + 1)
    both = [x.new_empty(shape) for _ in range(first, last + 1)]
    fill(formula, first, last, x, *constants, axis=axis, out=[b.narrow(axis, 0, count) for b in both])
    fill(base, first, last, x, axis=axis, out=[b.narrow(axis, count, 1) for b in both])
    return both


def fill(formula: Callable, first: int, last: int, x: Tensor, *constants: Tensor, axis: int, out: list[Tensor]) -> None:
    """The derivatives first ... last of a formula, into `out`."""
    for b, place in zip(formula(first, last, x, *constants, axis=axis, out=out), out, strict=True):
        if b.data_ptr() != place.data_ptr():  # the formula has not put it there itself
            place.copy_(b)


def contract_features(b: Derivatives, theta: Tensor, slope: bool, curvature: Tensor | None) -> Edges:
    """Contract features (N, in, size) with theta (in, size, out)."""
    flat = theta.flatten(0, 1)
    return Edges(
        value=b[0].flatten(1) @ flat,
        slope=(b[1].transpose(0, 1) @ theta).transpose(0, 1) if slope else None,
        bend=None if curvature is None else (b[2] * curvature.unsqueeze(-1)).flatten(1) @ flat,
    )


def closed(formula: Callable, first: int, last: int, x: Tensor, *constants: Tensor, axis: int = -1) -> Derivatives:
    """Derivatives first ... last of functions in closed form, which differentiate into the next ones."""
    if plainly():  # the compiler fuses the steps itself, and differentiates once at most
        return tuple(formula(first, last, x, *constants, axis=axis))
    if not torch.is_grad_enabled() and not in_torch_func():
        return _Closed.forward(formula, first, last, axis, x, *constants)
    return _Closed.apply(formula, first, last, axis, x, *constants)


class _Closed(torch.autograd.Function):
    """Derivatives first ... last of functions in closed form. Saves x alone: the backward is the next derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(formula, first, last, axis, x, *constants):
        tiles = [formula(first, last, tile, *constants, axis=axis) for tile in _tiles(x, axis)]
        return tuple(tiles[0]) if len(tiles) == 1 else tuple(map(torch.cat, zip(*tiles, strict=True)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.formula, ctx.first, ctx.last, ctx.axis, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        (x, *constants), axis = ctx.saved_tensors, ctx.axis
        parts = []
        for tile, *g in zip(_tiles(x, axis), *(_tiles(g, axis, x) for g in grads), strict=True):
            higher = closed(ctx.formula, ctx.first + 1, ctx.last + 1, tile, *constants, axis=axis)
            parts.append(sum((a * b).sum(axis) for a, b in zip(g, higher, strict=True)))
        return None, None, None, None, torch.cat(parts), *[None] * len(constants)


TILE = 2**13  # values of x to a tile: the steps of a formula on all its functions stay in the cache


def _tiles(t: Tensor, axis: int, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """Some points (N, in) at a time, as many as make a tile of `like`, by default t itself; of (in, N) all."""
    x = t if like is None else like
    return t.split(max(1, TILE // max(1, x.shape[-1]))) if axis == -1 else (t,)
