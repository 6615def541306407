"""Least squares for the constants that are left in a network or a formula, and what a step of an explanation says."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor
from torch.func import functional_call

from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import errors
from kanpde.interpret.network import EdgeNetwork
from kanpde.optim import GaussNewton

Model = Callable[[Tensor], Tensor]  # parameters (P,), or (N, P) for each point its own, -> values (N, out)

EXACT = 1e-30  # a share of squares that is rounding alone
PATIENCE = 4  # steps without progress after which a fit ends
PROGRESS = 1e-3  # share by which a step must lessen the sum of squares to count
CAUTION = 30.0  # by which the damping grows after a step that had to be refused
REFUSED = 1e6  # the damping from which on a refused step ends a fit


@dataclass(frozen=True)
class Step:
    """One change of a network: relative l2 errors on the sample before it and after it and the fit that followed.

    `kept` is False where the change was undone; `error_after` is then what it would have been.

    Example:
        >>> print(Step("without edge 0 -> 1 of layer 0", 1e-3, 2e-1, kept=False))
        without edge 0 -> 1 of layer 0: 0.001 -> 0.2, undone
    """

    what: str
    error_before: float
    error_after: float
    kept: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.error_before:.3g} -> {self.error_after:.3g}{'' if self.kept else ', undone'}"


@dataclass(frozen=True)
class Tolerance:
    """A step is kept while its error is at most max(absolute, relative x the smallest error so far).

    The smallest so far, not the last: a hundred small losses may not add up to a large one.

    Example:
        >>> Tolerance(relative=1.5).allows(1.4e-3, smallest=1e-3), Tolerance(relative=1.5).allows(1.6e-3, smallest=1e-3)
        (True, False)
    """

    relative: float = 1.1
    absolute: float = 1e-9

    def __post_init__(self):
        if not self.relative >= 1 or not self.absolute >= 0:
            raise ConfigError(
                f"a tolerance has relative >= 1 and absolute >= 0, given {self.relative}, {self.absolute}"
            )

    def allows(self, error: float, smallest: float) -> bool:
        return error <= max(self.absolute, self.relative * smallest)


class _System:
    """Residuals (f(theta) - y) / |y| with theta = start + scale z: columns of J at the start are about of length 1.

    Those below a thousandth of the longest are shorter: such parameters hardly matter.
    """

    def __init__(self, model: Model, start: Tensor, y: Tensor):
        self.model, self.start, self.y, self.size = model, start, y, y.norm().clamp_min(1e-300)
        self.z, self.scale = torch.zeros_like(start), torch.ones_like(start)
        ((_, j),) = self.blocks()
        lengths = j.norm(dim=0)
        self.scale = 1 / (lengths + 1e-3 * lengths.max().clamp_min(1e-300))

    def parameters(self) -> Tensor:
        return self.start + self.scale * self.z

    def residual(self) -> Tensor:
        return (self.model(self.parameters()) - self.y).flatten() / self.size

    @torch.no_grad()
    def loss(self) -> float:
        return self.residual().square().sum().item()

    @torch.enable_grad()
    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All at once: point n has parameters theta_n of its own, and d f_n / d theta_n is row n."""
        theta = self.parameters().expand(len(self.y), -1).clone().requires_grad_()
        values = self.model(theta)
        columns = values.sum(0)
        rows = [torch.autograd.grad(column, theta, retain_graph=True)[0] for column in columns]
        j = torch.stack(rows, 1).flatten(0, 1) * (self.scale / self.size)
        yield (values.detach() - self.y).flatten() / self.size, j


def least_squares(model: Model, start: Tensor, y: Tensor, steps: int = 50, damping: float = 1e-4) -> Tensor:
    """Parameters (P,) with a smaller |f(parameters) - y|, by Levenberg-Marquardt from `start` (P,).

    Parameters at which a value is not finite are never taken. It ends where nothing is gained any more, or where there
    is no derivative.

    Args:
        model: the values (N, out) as a function of parameters (P,) or (N, P).
        y: (N, out), in float64.
        damping: of the first step, beside columns of the Jacobian of about length 1.
    """
    if not len(start) or not steps:
        return start
    system = _System(model, start, y)
    optimizer = GaussNewton([system.z], damping=damping, lengths=(1.0,), scaling=0.0)
    group, loss, idle = optimizer.param_groups[0], system.loss(), 0
    if not isfinite(loss) or not system.scale.isfinite().all():
        return start
    for _ in range(steps):
        try:
            before, loss = loss, optimizer.step(system, system.loss)
        except FloatingPointError:  # a derivative is infinite here, as of a root at 0
            break
        if loss == before:
            group["damping"] *= CAUTION
        else:
            idle = idle + 1 if loss > (1 - PROGRESS) * before else 0
        if idle == PATIENCE or loss < EXACT or group["damping"] > REFUSED:
            break
    return system.parameters()


def fit(network: EdgeNetwork, x: Tensor, y: Tensor, steps: int = 30, damping: float = 1e-4) -> float:
    """Fit all coefficients that a network still has to y (N, out) at x (N, d), in place; returns the error after."""
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in trained.values()]

    def model(theta: Tensor) -> Tensor:
        pieces = zip(trained.items(), theta.split(sizes, -1), strict=True)
        return functional_call(network, {name: t if p.ndim else t.squeeze(-1) for (name, p), t in pieces}, (x,))

    start = torch.nn.utils.parameters_to_vector(trained.values()).detach()
    torch.nn.utils.vector_to_parameters(least_squares(model, start, y.double(), steps, damping), trained.values())
    return error(network, x, y)


@torch.no_grad()
def error(network: EdgeNetwork, x: Tensor, y: Tensor) -> float:
    """Relative l2 error |f(x) - y| / |y|; infinite where a value is not a number."""
    found = errors(network(x), y)["rel_l2"]
    return found if found == found else float("inf")


def sample(network: EdgeNetwork, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x (N, d), or images (N, channels, H, W), and y (N, out) in float64, of y (N,) its only column.

    Raises:
        ConfigError: shapes that are not those of the network.
    """
    y = y.unsqueeze(1) if y.ndim == 1 else y
    widths = network.widths
    if x.ndim != network.axes or x.shape[1] != widths[0] or y.shape != (len(x), widths[-1]):
        sides = ", H, W" if network.axes == 4 else ""
        raise ConfigError(
            f"a network {list(widths)} takes x (N, {widths[0]}{sides}) and y (N, {widths[-1]}), "
            f"given {tuple(x.shape)} and {tuple(y.shape)}"
        )
    return x.double(), y.double()
