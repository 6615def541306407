"""Named terms of a loss: interior residual and its gradient, boundary, initial condition, and the problem's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.nested import gradient_of
from kanpde.jets.tracing import in_torch_func
from kanpde.kan.sparsity import sparsity
from kanpde.operators.base import Operator
from kanpde.operators.forward import Forward, compiled
from kanpde.problems.frames import Frame

OWN = ("interior", "gradient", "boundary", "initial", "sparsity")  # names of the terms that every problem may have
Points = dict[str, Tensor]  # by the name of the term that reads them
Residuals = dict[str, Tensor]  # by the name of the term


@dataclass(frozen=True)
class Loss:
    r"""sum_k w_k L_k over the terms k for which there are points, each a mean of squares.

    interior: mean of (c r)^2 for the residual r of the PDE and the scale c; with `two_sample`, the mean of
    (c r_1)(c r_2) for two independent draws of a stochastic operator, whose expectation is that of the exact residual
    where r is affine in the estimated terms: the square of one estimate adds its variance (Hu et al. 2024).
    gradient: mean of |c grad r|^2 / d, which asks d numbers of every point instead of one; with `directions`, the
    unbiased mean of (v . c grad r)^2 / d over that many random directions v per point, of components +1 and -1.
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
    Source: gradient-enhanced PINNs, Yu et al. 2022 (arXiv 2111.02801).
    """

    residual: Literal["square", "two_sample"] = "square"
    scale: Literal["2d", "none"] = "2d"
    weights: dict[str, float] = field(default_factory=dict)
    gradient: Literal["none", "exact", "almost_everywhere"] = "none"
    directions: int | None = None
    sparsity: dict[str, float] | None = None
    frame: Frame | None = None

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
            "interior": lambda x: self._interior(u, operator, x, generator, graph),
            "boundary": lambda x: {"boundary": u(x) - problem.boundary_value(x)},
            "initial": lambda x: {"initial": u(x) - problem.initial_value(x)},
        }
        found: Residuals = {}
        for name, x in points.items():
            found |= {name: asked[name].misfit(u, x)} if name in asked else read[name](x)
        return found

    def means(self, residuals: Residuals, emphasis: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The mean square of each residual, that of a point (N,) weighted by its emphasis where there is one."""
        emphasis = emphasis or {}
        two = "interior" if self.residual == "two_sample" else None
        squares = {name: r.prod(0) if name == two else r.square() for name, r in residuals.items()}
        return {name: (square * emphasis.get(name, 1.0)).mean() for name, square in squares.items()}

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
        """Terms without points: the problem's own, and the sparsity of the network.

        Raises:
            ConfigError: a term that is not one number with a gradient, or has the name of another.
        """
        found = {name: one_number(name, term) for name, term in u.problem.extra_terms(u).items()}
        return found if self.sparsity is None else found | {"sparsity": sparsity(u.net, **self.sparsity)}

    def total(self, terms: Mapping[str, Tensor], weights: Mapping[str, float] | None = None):
        """sum_k w_k L_k, with the loss's weights or others."""
        weights = self.weights if weights is None else weights
        return sum(weights.get(name, 1.0) * term for name, term in terms.items())

    def _interior(
        self, u: Ansatz, operator: Operator, x: Tensor, generator: torch.Generator, graph: bool = True
    ) -> Residuals:
        scale = self.factor(u.problem)
        residual = lambda x: scale * u.problem.residual(operator(u, x, generator=generator), x)
        if self.residual == "two_sample":
            return {"interior": torch.stack([residual(x), residual(x)])}
        if self.gradient == "none" or not torch.is_grad_enabled():
            return {"interior": residual(x)}
        if operator.compile and not in_torch_func():
            r, slope = _compiled_with_gradient(u, operator, x)
            r, slope = scale * r, scale * slope
        else:
            r, slope = _with_gradient(residual, x, graph)
        slope = slope if self.frame is None else slope * self.frame.lengths.to(slope)
        return {"interior": r, "gradient": self._components(slope, generator)}

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


def _with_gradient(function: Callable[[Tensor], Tensor], x: Tensor, graph: bool = True) -> tuple[Tensor, Tensor]:
    """function(x) (N,) and its gradient (N, d), with or without its graph."""
    if in_torch_func():  # per-sample gradients
        return _with_gradient_by_torch_func(function, x)
    x = x.detach().requires_grad_()
    value = function(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
    return value, slope


def _with_gradient_by_torch_func(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    summed = lambda x: ((y := function(x)).sum(), y)
    slope, value = torch.func.grad(summed, has_aux=True)(x)
    return value, slope


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
    return _with_gradient_by_torch_func(lambda x: side(operator(u, x), x), x)
