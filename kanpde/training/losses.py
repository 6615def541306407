"""Named terms of a loss: interior residual and its gradient, boundary, initial condition, and the problem's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.nested import gradient_of
from kanpde.jets.slices import WHOLE, Slice
from kanpde.jets.tracing import in_torch_func
from kanpde.kan.sparsity import sparsity
from kanpde.operators.base import Operator
from kanpde.operators.forward import Forward, compiled
from kanpde.problems import Problem
from kanpde.problems.frames import Frame
from kanpde.problems.reading import ALONE

OWN = ("interior", "gradient", "boundary", "initial", "sparsity")  # names of the terms that every problem may have
Points = dict[str, Tensor]  # by the name of the term that reads them
Residuals = dict[str, Tensor]  # by the name of the term


@dataclass(frozen=True)
class Loss:
    r"""sum_k w_k L_k over the terms k for which there are points, each a mean of squares.

    interior: mean of (c r)^2 for the residual r of the PDE and the scale c; with `two_sample`, the mean of
    (c r_1)(c r_2) for two independent draws of a stochastic operator, whose expectation is that of the exact residual
    where r is affine in the estimated terms: the square of one estimate adds its variance (Hu et al. 2024). Of several
    equations there is one such term for each, by its name, for which a weight `interior` stands where it has none.
    gradient: mean of |c grad r|^2 / d, which asks d numbers of every point instead of one, over all equations; with
    `directions`, the unbiased mean of (v . c grad r)^2 / d over that many random directions v per point, of components
    +1 and -1.
    boundary: mean of (u - g)^2 on the boundary. initial: mean of (u - u_0)^2 at t = 0. By its name, the mean square of
    the misfit of each condition that is not built in. Others are the problem's own.

    Args:
        residual: square or two_sample.
        scale: c: "2d" is the problem's residual_scale, 1 / (2 d), in the units of the frame; "none" is 1.
        weights: w_k by name, 1 where not given.
        gradient: none; exact, which needs a network with three continuous derivatives; or almost_everywhere, for cubic
            splines: grad r jumps across their knots, and the derivative of the loss by the weights then misses that
            the knots of hidden layers move (those of the first layer do not).
        directions: of the gradient; None: all of it.
        sparsity: l1 and entropy of a term on the edges of a KAN, `kanpde.kan.sparsity`; None: no such term.
        frame: the units of the domain, in which c and the gradient are taken; None: those of x.
        equations: the names of their terms.
        weighs: whether points inside have weights w of their own (`Problem.importance_weights`): the means are those of
            w r^2 and w |grad r|^2.
        inputs: those of which a process has the components of the gradient; `WHOLE`: all.
    Source: gradient-enhanced PINNs, Yu et al. 2022 (arXiv 2111.02801).
    """

    residual: Literal["square", "two_sample"] = "square"
    scale: Literal["2d", "none"] = "2d"
    weights: dict[str, float] = field(default_factory=dict)
    gradient: Literal["none", "exact", "almost_everywhere"] = "none"
    directions: int | None = None
    sparsity: dict[str, float] | None = None
    frame: Frame | None = None
    equations: tuple[str, ...] = (ALONE,)
    weighs: bool = False
    inputs: Slice = WHOLE

    def weight(self, name: str) -> float:
        """w_k as it is stated."""
        of_all = self.weights.get(ALONE, 1.0) if name in self.equations else 1.0
        return self.weights.get(name, of_all)

    def factor(self, problem) -> float:
        """c."""
        scale = problem.residual_scale if self.scale == "2d" else 1.0
        return scale * self.frame.equation if self.frame and self.scale == "2d" else scale

    def residuals(
        self, u: Ansatz, operator: Operator, points: Points, generator: torch.Generator, graph: bool = True
    ) -> Residuals:
        """What each term is the mean square of, (N,) or (N, d); a two-sample interior is (2, N), two draws.

        graph: whether they are to be differentiated by the weights; without, a gradient by x is cheaper.
        """
        problem, asked = u.problem, u.problem.asked
        read = {
            "interior": lambda x: self._weighed(self._interior(u, operator, x, generator, graph), problem, x),
            "boundary": lambda x: {"boundary": u(x) - problem.boundary_value(x)},
            "initial": lambda x: {"initial": u(x) - problem.initial_value(x)},
        }
        found: Residuals = {}
        for name, x in points.items():
            found |= {name: asked[name].misfit(u.of(asked[name].field), x)} if name in asked else read[name](x)
        return found

    def means(self, residuals: Residuals, emphasis: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The mean square of each residual, that of a point (N,) weighted by its emphasis where there is one."""
        emphasis = emphasis or {}
        two = self.equations if self.residual == "two_sample" else ()
        squares = {name: r.prod(0) if name in two else r.square() for name, r in residuals.items()}
        return {name: self._mean(name, square * emphasis.get(name, 1.0)) for name, square in squares.items()}

    def _mean(self, name: str, squares: Tensor) -> Tensor:
        if self.inputs is WHOLE or name != "gradient":
            return squares.mean()
        (total,) = self.inputs.sum(squares.sum())
        return total / (len(squares) * self.inputs.dim)

    def terms(self, u: Ansatz, operator: Operator, points: Points, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms L_k, not yet weighted, in the order in which they are computed."""
        return self.means(self.residuals(u, operator, points, generator)) | self.extra_terms(u)

    def values(
        self, u: Ansatz, operator: Operator, points: Points, generator: torch.Generator, at_once: int | None = None
    ) -> dict[str, float]:
        """The terms as numbers, without a graph by the weights; of the points so many `at_once` (None: all)."""
        sums: dict[str, float] = {}
        with torch.set_grad_enabled(self.gradient != "none"):  # its gradient by x needs a graph
            for name, x in points.items():
                for part in x.split(at_once or len(x)):
                    found = self.means(self.residuals(u, operator, {name: part}, generator, graph=False))
                    sums |= {k: sums.get(k, 0.0) + term.item() * len(part) / len(x) for k, term in found.items()}
        with torch.enable_grad():  # of the problem's own terms some differentiate by x themselves
            return sums | {name: float(term.detach()) for name, term in self.extra_terms(u).items()}

    def extra_terms(self, u: Ansatz) -> dict[str, Tensor]:
        """Terms without points: the problem's own, conditions that have none, and the sparsity of the network.

        Raises:
            ConfigError: a term that is not one number with a gradient, or has the name of another.
        """
        found = {name: one_number(name, term) for name, term in u.problem.extra_terms(u).items()}
        for name, condition in u.problem.asked.items():
            if not condition.by_points:
                x = condition.points(u.problem, 0, stream(0, name, u.like.device), "", dtype=u.like.dtype)
                found[name] = condition.misfit(u.of(condition.field), x).square().mean()
        return found if self.sparsity is None else found | {"sparsity": sparsity(u.net, **self.sparsity)}

    def total(self, terms: Mapping[str, Tensor], weights: Mapping[str, float] | None = None):
        """sum_k w_k L_k, with the loss's weights or others."""
        of = self.weight if weights is None else lambda name: weights.get(name, 1.0)
        return sum(of(name) * term for name, term in terms.items())

    def at_points(self, residuals: Residuals) -> Tensor | None:
        """The residual of a point (N,), of several equations the root of the sum of their squares; None: not there."""
        r = [residuals[name] for name in self.equations if name in residuals]
        if not r:
            return None
        return r[0] if len(r) == 1 else torch.stack(r).square().sum(0).sqrt()

    def _interior(
        self, u: Ansatz, operator: Operator, x: Tensor, generator: torch.Generator, graph: bool = True
    ) -> Residuals:
        scale, problem = self.factor(u.problem), u.problem

        def residual(x: Tensor) -> Residuals:
            return {name: scale * r for name, r in problem.equations(operator(u, x, generator=generator), x).items()}

        if self.residual == "two_sample":
            first, second = residual(x), residual(x)
            return {name: torch.stack([r, second[name]]) for name, r in first.items()}
        if self.gradient == "none" or not torch.is_grad_enabled():
            return residual(x)
        if operator.compile and not in_torch_func():
            r, slope = _compiled_with_gradient(u, operator, x)
            found, slopes = {ALONE: scale * r}, [scale * slope]
        else:
            found, slopes = _with_gradients(residual, x, self.equations, graph)
        units = (lambda slope: slope) if self.frame is None else (lambda slope: slope * self.frame.lengths.to(slope))
        each = [self._components(units(slope), generator) for slope in slopes]
        return found | {"gradient": each[0] if len(each) == 1 else torch.cat(each, 1)}

    def _weighed(self, residuals: Residuals, problem: Problem, x: Tensor) -> Residuals:
        if not self.weighs:
            return residuals
        root = problem.importance_weights(x).to(x).sqrt()
        return {name: (root.unsqueeze(1) if name == "gradient" else root) * r for name, r in residuals.items()}

    def _components(self, slope: Tensor, generator: torch.Generator) -> Tensor:
        """grad r (N, d) itself, or d^(-1/2) v . grad r (N, V): the same mean square, or an unbiased estimate of it."""
        if self.directions is None:
            return slope
        shape = len(slope), self.directions, slope.shape[-1]
        signs = torch.randint(2, shape, generator=generator, device=slope.device, dtype=slope.dtype) * 2 - 1
        return (signs @ slope.unsqueeze(-1)).squeeze(-1) / slope.shape[-1] ** 0.5


def one_number(name: str, term) -> Tensor:
    """A term of a problem's own, ()."""
    if name in OWN:
        raise ConfigError(f"extra_terms: a term is called {name}, as one of the loss; give it another name")
    if not torch.is_tensor(term):
        raise ConfigError(f"extra_terms: {name} is a {type(term).__name__}; needed is a tensor that depends on u")
    if term.numel() != 1 or not term.is_floating_point():
        given = f"{str(term.dtype).removeprefix('torch.')} of shape {tuple(term.shape)}"
        raise ConfigError(f"extra_terms: {name} is {given}; needed is one real number, such as .square().mean()")
    return term.reshape(())


def _with_gradients(
    function: Callable[[Tensor], Residuals], x: Tensor, names: Sequence[str], graph: bool
) -> tuple[Residuals, list[Tensor]]:
    """Residuals (N,) of these names at x and the gradient (N, d) of each, with or without its graph."""
    if in_torch_func():  # per-sample gradients
        values, slopes = _gradients_by_torch_func(lambda x: tuple(function(x).values()), x)
        return dict(zip(names, values, strict=True)), slopes
    x = x.detach().requires_grad_()
    found = function(x)
    kept = {"create_graph": graph, "retain_graph": graph or len(found) > 1}
    return found, [torch.autograd.grad(r.sum(), x, **kept)[0] for r in found.values()]


def _gradients_by_torch_func(function: Callable[[Tensor], tuple], x: Tensor) -> tuple[tuple, list[Tensor]]:
    """Values (N,) of functions and their gradients (N, d), from one forward pass."""
    values, pull = torch.func.vjp(function, x)
    ones = lambda k: tuple(torch.ones_like(r) if i == k else torch.zeros_like(r) for i, r in enumerate(values))
    return values, [pull(ones(k))[0] for k in range(len(values))]


def _compiled_with_gradient(u: Ansatz, operator: Forward, x: Tensor) -> tuple[Tensor, Tensor]:
    """The residual and its gradient, differentiated once before torch compiles it: a second time torch does by itself.

    The source of a problem that states one stays outside: it may be what torch cannot compile, and need not be.
    """
    at = x.detach().requires_grad_()
    g = u.problem.source(at) if u.problem.has_source else x.new_zeros(len(x))
    run = compiled(_left_side_with_gradient, graphs=x.is_cuda, whole=True)
    r, slope = run(u, replace(operator, compile=False), x)
    return r - g, slope - gradient_of(g, at)


def _left_side_with_gradient(u: Ansatz, operator: Forward, x: Tensor) -> tuple[Tensor, Tensor]:
    side = u.problem.left_side if u.problem.has_source else u.problem.residual
    summed = lambda x: ((y := side(operator(u, x), x)).sum(), y)
    slope, value = torch.func.grad(summed, has_aux=True)(x)
    return value, slope
