"""What can be known to fail before the first step of a run."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from kanpde import memory, setup
from kanpde.ansatz import Ansatz
from kanpde.config import ConfigError, PhaseConfig, RunConfig, suggest
from kanpde.jet import Jet, has_rules
from kanpde.kan.grids import extend_grid, kan_layers, update_grid
from kanpde.kan.layers import KANLinear
from kanpde.kan.sparsity import sparsity
from kanpde.optimisers import FROZEN, make_optimizer
from kanpde.problems.fitting import Fitting
from kanpde.samplers import SOBOL_MAX_DIM, directions, stream


def check(config: RunConfig, problem, net: nn.Module) -> None:
    """What can be known to fail before the first step.

    Raises:
        ConfigError: in one line.
    """
    check_device(config.device)
    setup.operator(config, problem)
    check_operator(config, problem, net)
    setup.loss(config)
    setup.balance(config)
    setup.emphasis(config, problem)
    for kind, n in setup.counts(config, problem).items():
        if n < 1:
            extra = "" if kind == "interior" else f", constraint: soft needs {kind} points (100d are 100 per dimension)"
            raise ConfigError(f"points.{kind}: given {n}, needed is at least 1{extra}")
    for name in config.loss.weights:
        if name not in (known := ("interior", "gradient", "boundary", "initial", "sparsity", *problem.terms)):
            raise ConfigError(suggest("key loss.weights", name, known))
    if config.points.sequence == "sobol" and problem.domain.dim + 1 > SOBOL_MAX_DIM:
        raise ConfigError(
            f"points.sequence: sobol has at most {SOBOL_MAX_DIM} dimensions, the problem {problem.domain.dim}"
        )
    axes = config.slices.plane
    if axes != "random" and (max(axes) >= problem.domain.dim or axes[0] == axes[1]):
        allowed = f"two different coordinates of 0 to {problem.domain.dim - 1}"
        raise ConfigError(f"slices.plane: given {list(axes)}, needed are {allowed}")
    check_start(config, problem)
    for phase in config.phases:
        make_optimizer(phase, Ansatz(problem, net))
        check_phase(phase, config)
    check_grids(config, problem, net)
    check_smoothness(config, net)
    check_shapes(config, problem, net)
    check_gradient(config, problem)
    check_sparsity(config, net)
    if config.average is not None and isinstance(problem.parameters, nn.Module):
        raise ConfigError("average: problems with parameters of their own have none")
    check_factor(config, problem)
    memory.micro_batch(config, problem, net)


def check_operator(config: RunConfig, problem, net: nn.Module) -> None:
    """Raises ConfigError where the operator cannot be had of the network, or estimates what the problem has not."""
    name = config.operator["name"]
    if name == "forward" and not has_rules(net):
        raise ConfigError("operator: forward has no jet rule for a module of this network; use autograd")
    if isinstance(problem, Fitting) and name not in ("forward", "autograd"):
        raise ConfigError(f"operator: given {name}, but a fit has no derivatives to estimate; use forward")


def check_phase(phase: PhaseConfig, config: RunConfig) -> None:
    """Raises ConfigError where the residuals of a phase are not functions of a point, or its points do not stay."""
    if (
        phase.optimizer in FROZEN
        and (config.loss.emphasis or {}).get("name") == "rba"
        and config.points.refresh != "fixed"
    ):
        raise ConfigError("loss.emphasis: rba beside lbfgs needs points.refresh: fixed")
    if phase.optimizer != "gauss_newton":
        return
    if config.operator["name"] != "forward":
        raise ConfigError(f"phases: gauss_newton needs the operator forward, given {config.operator['name']}")
    if config.loss.directions or config.loss.emphasis:
        raise ConfigError("phases: gauss_newton has neither loss.directions nor loss.emphasis")


def check_grids(config: RunConfig, problem, net: nn.Module) -> None:
    """Raises ConfigError where a phase changes grids that it cannot, or would make them coarser."""
    if not any(p.update_grid or p.grid_size is not None for p in config.phases):
        return
    sizes = [config.backbone.get("grid_size"), *(p.grid_size for p in config.phases)]
    sizes = [size for size in sizes if size is not None]
    trial = copy.deepcopy(net).double()
    if any(p.update_grid for p in config.phases):
        try:
            update_grid(trial, torch.zeros(2, problem.domain.dim, dtype=torch.float64))
        except ValueError as error:
            raise ConfigError(f"phases: update_grid: {error}") from None
    if any(p.grid_size is not None for p in config.phases):
        if not kan_layers(net):
            raise ConfigError(f"phases: grid_size: {config.backbone['name']} has no grids")
        try:
            extend_grid(trial, sizes[-1])
        except ValueError as error:
            raise ConfigError(f"phases: grid_size: {error}") from None
        if sizes != sorted(sizes):
            raise ConfigError(f"phases: grid_size: grids become finer from phase to phase, given {sizes}")


def check_smoothness(config: RunConfig, net: nn.Module) -> None:
    """Raises ConfigError where the network has fewer derivatives than an exact gradient of the residual reads."""
    layers = [layer for layer in net.modules() if isinstance(layer, KANLinear)]
    smoothness = min((layer.basis.smoothness for layer in layers), default=3)
    if config.loss.gradient == "exact" and smoothness < 3:
        raise ConfigError(
            "loss.gradient: exact needs backbone.spline_order of at least 4 (more parameters), or say almost_everywhere"
        )


def check_start(config: RunConfig, problem) -> None:
    """Raises ConfigError where there is no run, or no best constant, to start from."""
    if config.start_from and not ((run := Path(config.start_from)).name and run.with_suffix(".pt").is_file()):
        raise ConfigError(f"start_from: {config.start_from} has no checkpoint beside it")
    if config.start == "network":
        return
    if isinstance(problem, Fitting):
        raise ConfigError("start: constant is for PDEs; a network that fits data has their mean and deviation")
    if config.constraint == "soft":
        raise ConfigError("start: constant needs constraint: hard; say start: network with constraint: soft")


def check_shapes(config: RunConfig, problem, net: nn.Module) -> None:
    """Raises ConfigError where network, residual or exact solution are not a number per point: others may broadcast."""
    n, d, dtype = 3, problem.domain.dim, getattr(torch, config.dtype)
    x = problem.domain.interior(n, stream(0, "check"), config.points.law, dtype=dtype)
    inputs, trial = problem.coordinates(x), copy.deepcopy(net).to("cpu", dtype).eval()
    try:
        with torch.no_grad():
            shapes = {"the network": (trial(inputs), (n, 1))}
    except (RuntimeError, ValueError, IndexError) as error:
        message = str(error).splitlines()[0]
        raise ConfigError(f"the network does not take inputs (N, {inputs.shape[1]}): {message}") from None
    if not isinstance(problem, Fitting):
        shapes["the residual"] = problem.residual(_ones(problem, x), x), (n,)
    if problem.has_exact:
        shapes["the exact solution"] = problem.exact(x), (n,)
    for what, (found, needed) in shapes.items():
        if found.shape != needed:
            of = f"{n} points of {d} coordinates"
            raise ConfigError(f"{what} has shape {tuple(found.shape)} at {of}, needed is {needed}")


def _ones(problem, x: Tensor) -> Jet:
    """A jet at x whose entries are all 1."""
    along, one = problem.directions(x), x.new_ones(len(x))
    return Jet(one, None if along is None else x.new_ones(len(x), along.shape[-2]), one, one)


def check_gradient(config: RunConfig, problem) -> None:
    """Raises ConfigError where automatic differentiation by x does not see the source: a table, numpy, detach.

    The residual of a jet that is held, against a central difference along a random direction.
    """
    if config.loss.gradient == "none":
        return
    if isinstance(problem, Fitting):
        raise ConfigError("loss.gradient: a fit has no equation whose gradient vanishes; use the solver fit, or none")
    x = problem.domain.interior(2, stream(0, "check"), config.points.law, dtype=torch.float64)
    v = directions(2, x.shape[1], stream(1, "check"), dtype=x.dtype)
    jet, h = _ones(problem, x), 1e-4
    residual = lambda x: problem.residual(jet, x)
    size = residual(x).abs().max().item()
    difference = (residual(x + h * v) - residual(x - h * v)) / (2 * h)
    try:
        (slope,) = torch.autograd.grad(residual(x.requires_grad_()).sum(), x)
    except RuntimeError:  # of numpy, or of a residual without a graph
        slope = torch.zeros_like(x)
    if not torch.allclose((slope * v).sum(1), difference, rtol=1e-3, atol=1e-3 * size + 1e-6):
        raise ConfigError(
            "loss.gradient: the residual cannot be differentiated by x (a detached source?): set it to none"
        )


def check_sparsity(config: RunConfig, net: nn.Module) -> None:
    """Raises ConfigError where there are no edges that a penalty could make fewer."""
    if config.loss.sparsity is not None:
        try:
            sparsity(copy.deepcopy(net).double(), 1.0, 1.0)
        except ValueError as error:
            raise ConfigError(f"loss.sparsity: {error}") from None


def check_factor(config: RunConfig, problem) -> None:
    """A factor of the hard constraint that is as good as zero almost everywhere leaves nothing to learn."""
    points = max(4, min(64, 2**22 // problem.domain.dim))
    x = problem.domain.interior(points, stream(0, "check"), config.points.law, dtype=torch.float64)
    m = problem.factor(x) if config.constraint == "hard" else None
    if m is not None and m.value.abs().median() < 1e-6:
        raise ConfigError(f"constraint: the factor of a hard one is about {m.value.abs().median():.0e} here; use soft")


def check_device(device: str) -> None:
    """Raises ConfigError where torch does not know the device, or it is not there."""
    try:
        torch.empty(0, device=torch.device(device))
        torch.Generator(device)  # there is none on meta
    except (RuntimeError, AssertionError, ValueError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(f"device {device!r} is not there (available: {', '.join(there)})") from None
