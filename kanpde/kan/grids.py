"""The grids of a KAN: how much of its inputs lies off them, moving them to the data, and refining its bases.

Off the grid a basis does what its docstring says: splines fade to 0 within k intervals, Gaussians fade, polynomials of
tanh level out, harmonics go on, and the base function is not affected. Nothing is clamped; `off_grid` is the monitor.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kanpde.kan.basis.base import LinearBasis
from kanpde.kan.conv import KANConv2d
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct, MetaReleased

Layer = KANLinear | KANConv2d


def kan_layers(net: nn.Module) -> list[Layer]:
    """The KAN layers of a network in the order of its modules."""
    return [m for m in net.modules() if isinstance(m, Layer)]


@torch.no_grad()
def off_grid(net: nn.Module, x: Tensor) -> list[float]:
    """The fraction of the inputs of each KAN layer that lie outside its grid, for inputs x of the network."""
    return [
        ((seen < layer.basis.low) | (seen > layer.basis.high)).double().mean().item()
        for layer, seen in _inputs(net, x, kan_layers(net))
    ]


def _inputs(net: nn.Module, x: Tensor, layers: list[Layer]) -> Iterator[tuple[Layer, Tensor]]:
    """What the basis functions of each layer see, (M, inputs)."""
    found: dict[Layer, Tensor] = {}

    def note(layer: Layer, given: tuple) -> None:
        seen = given[0] if layer.norm is None else layer.norm(given[0])
        found[layer] = seen.movedim(1, -1).flatten(0, -2)

    modes = {module: module.training for module in net.modules()}
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        net.eval()(x)  # dropout and batch norms would change what is seen, and be changed by it
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    yield from found.items()


@torch.no_grad()
def update_grid(
    net: nn.Module, x: Tensor, margin: float = 0.05, optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Move the grids to the data, layer by layer, and refit the weights, so that the network stays what it is.

    The range of each input becomes that of its samples, `margin` of it wider on both sides (an input that does not vary
    keeps its range). New weights are the least-squares fit of the old functions on the new range.

    Args:
        net: a network of KAN layers with free weights and linear bases.
        x: samples of the network's input.
        optimizer: its state for the weights is carried over, see `refine`.
    Raises:
        ValueError: generated weights (one meta-learner serves many inputs; `materialize` first), wavelets, or groups.
    """
    for layer in kan_layers(net):
        if not isinstance(layer.weights, Direct):
            raise ValueError("update_grid needs free weights, these are generated: materialize the network first")
        if not isinstance(layer.basis, LinearBasis):
            raise ValueError(f"update_grid needs a linear basis, given {layer.basis}")
        if getattr(layer, "groups", 1) > 1:
            raise ValueError(f"update_grid needs groups = 1, given {layer.groups}")
    for layer in kan_layers(net):
        ((_, seen),) = _inputs(net, x, [layer])
        low, high = seen.amin(0), seen.amax(0)
        varies = high > low
        spare = margin * (high - low)
        old, new = copy.deepcopy(layer.basis), layer.basis
        new.low.copy_(torch.where(varies, low - spare, old.low))
        new.high.copy_(torch.where(varies, high + spare, old.high))
        step = refit(old, new).repeat_interleave(len(layer.weights.theta) // len(new.low), 0)
        _replace(layer.weights, "theta", step, optimizer)


@torch.no_grad()
def refine(net: nn.Module, resolution: int, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Refine the bases of all layers on the same ranges: B-splines to so many intervals, polynomials to this degree.

    Where the old functions are among the new ones, or a new grid divides the old one, the network is exactly the same,
    else the closest in least squares: theta' = R theta with one matrix R for all edges, so generated weights are
    refined exactly as well, through the last layer of their meta-learner. The optimiser goes on: parameters are
    exchanged in its groups; its averages of gradients are carried as steps, m' = R m and v' = |R| v, so that the
    function goes on moving the way it did. L-BFGS loses its history.

    Args:
        resolution: the number of intervals, the degree or the harmonics, as the `resolution` of the bases says.
    Raises:
        ValueError: another basis, or weights in the released layout of a convolution.

    Example:
        >>> from kanpde.backbones import build
        >>> net, x = build("kan", 2, widths=(3,), grid_size=4), torch.zeros(1, 2)
        >>> before = net(x)
        >>> refine(net, 8)
        >>> net[0].basis.grid_size, torch.allclose(net(x), before, atol=1e-6)
        (8, True)
    """
    layers = kan_layers(net)
    for layer in layers:
        if not isinstance(layer.basis, LinearBasis) or layer.basis.resolution is None:
            raise ValueError(f"refine needs B-splines, polynomials or harmonics, given {layer.basis}")
        if isinstance(layer.weights, MetaReleased):
            raise ValueError("refine needs one prompt per edge, given the weights of a released convolution")
    done: set[nn.Module] = set()
    for layer in layers:
        old = layer.basis
        layer.basis = refined(old, resolution)
        step = refit(old, layer.basis)[:1]
        if isinstance(layer.weights, Direct):
            _replace(layer.weights, "theta", step, optimizer)
        elif layer.weights.learner not in done:
            learner = layer.weights.learner
            done.add(learner)
            _replace(learner, "w2", step[0], optimizer)
            if learner.b2 is not None:
                _replace(learner, "b2", step[0], optimizer)


def refined(basis: LinearBasis, resolution: int) -> LinearBasis:
    """Functions of the same kind, on the same ranges."""
    new = basis.finer(resolution).to(basis.low)
    new.low.copy_(basis.low)
    new.high.copy_(basis.high)
    return new


def refit(old: LinearBasis, new: LinearBasis) -> Tensor:
    """R (in, size', size) with theta' = R theta: the fit of each old function by the new ones, on the new range.

    Functions of the same range that are among the new ones stay what they are.
    """
    same = torch.equal(old.low, new.low) and torch.equal(old.high, new.high)
    if same and (places := old.among(new)) is not None:
        fit = torch.zeros(1, new.count, old.count, dtype=torch.float64, device=old.low.device)
        fit[0, places, range(old.count)] = 1
        fit = fit.expand(len(old.low), -1, -1)
    else:
        t = torch.linspace(0, 1, 8 * new.size, dtype=torch.float64, device=old.low.device).unsqueeze(1)
        a, b = copy.deepcopy(old).double(), copy.deepcopy(new).double()
        x = b.low + t * (b.high - b.low)
        before, after = (basis.functions(x, 0)[0].transpose(0, 1) for basis in (a, b))  # (in, points, count)
        fit = torch.linalg.lstsq(after, before, driver="gels").solution  # the others are not deterministic
    step = fit.new_zeros(len(fit), new.size, old.size)
    step[:, : new.count, : old.count] = fit
    step[:, new.count :, old.count :] = torch.eye(new.size - new.count)
    return step


def _replace(module: nn.Module, name: str, step: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Exchange a parameter t for step @ t, in the module and in the optimiser."""
    old = getattr(module, name)
    moved = lambda matrix, t: (matrix @ t.double()).to(t.dtype)
    new = nn.Parameter(moved(step, old.detach()), old.requires_grad)
    setattr(module, name, new)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    state = optimizer.state.pop(old, {})
    if isinstance(optimizer, torch.optim.LBFGS):  # it keeps pairs of flat vectors of all parameters
        optimizer.state.clear()
        optimizer._params = optimizer.param_groups[0]["params"]
        optimizer._numel_cache = None
        return
    optimizer.state[new] = {
        key: moved(step.abs() if "sq" in key else step, value)
        if torch.is_tensor(value) and value.shape == old.shape
        else value
        for key, value in state.items()
    }
