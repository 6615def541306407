"""Runs whose inputs are sharded: each process has a slice of the coordinates of every point.

`shard: inputs` takes the place of points that are shared out. Points, network and equation are those of one process,
but

- a point is the coordinates of this process alone (`kanpde.domains.ball.SlicedBall`); what is a sum over coordinates,
  |x|^2 and the solution with its Laplacian, is summed over processes, and terms that couple neighbours read a few
  columns of the slices beside this one (`kanpde.problems.solutions`);
- the first layer has the rows of these coordinates, and its outputs are summed (`kanpde.kan.sliced`); all that follows,
  loss and gradient included, is the same in every process, which takes the same decisions;
- `kanpde.jets.slices` says how gradients go: no message for the weights of a slice, one for a meta-learner;
- the state of the optimiser is that of a slice, so its steps must not mix weights (`Optimiser.elementwise`);
- a polynomial has the coefficients of a slice, and inner products are summed (`kanpde.training.ladder`).

Files are those of one process: the first one gathers rows tensor by tensor, and any number of processes goes on with
them. Random numbers are of inputs, not of processes: a run is the same by any number, up to rounding.

What reads single coordinates, or mixes weights of several slices, is refused here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kanpde import backbones
from kanpde.config import RunConfig, SlicesConfig
from kanpde.ground.construct import construct
from kanpde.ground.errors import ConfigError
from kanpde.ground.world import World
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.quadratic import Quadratic
from kanpde.jets.slices import WHOLE, Slice
from kanpde.kan.sliced import SlicedLinear, sliced
from kanpde.optim.optimisers import OPTIMISERS
from kanpde.problems import PROBLEMS, Problem
from kanpde.problems.base import sliced as of_slice

Move = Callable[..., Tensor]  # rows of this process to those of all, or back
FEWEST = 2  # inputs of a process: as many as a term of a solution reaches beyond its first


def on_slice(config: RunConfig, problem: Problem, net: nn.Module | None) -> Problem:
    """The problem of this process, as the configuration says.

    Raises:
        ConfigError: its inputs cannot be sharded, or are too few.
    """
    if config.shard != "inputs":
        return problem
    if not (problem.sliceable and type(problem) in PROBLEMS.values()):  # what derives from one may read anything
        able = ", ".join(name for name, kind in PROBLEMS.items() if kind.sliceable)
        name = type(problem).__name__
        raise ConfigError(f"shard: inputs: not of {name}, which reads single inputs or is not of a ball; but of {able}")
    if net is not None:
        raise ConfigError(
            "shard: inputs: the network is one of the configuration, whose first layer is cut; leave out net"
        )
    world = World.current()
    if problem.dim < FEWEST * world.size:
        given = f"{problem.dim} inputs for {world.size} processes"
        raise ConfigError(f"shard: inputs: given {given}; needed are at least {FEWEST} for each")
    return of_slice(problem, Slice(problem.dim, world))


def check(config: RunConfig) -> None:
    """Raises ConfigError for what a run whose inputs are sharded has not."""
    if config.shard != "inputs":
        return
    first = next((phase.optimizer for phase in config.phases if not OPTIMISERS[phase.optimizer].elementwise), None)
    elementwise = ", ".join(name for name, kind in OPTIMISERS.items() if kind.elementwise)
    grids = any(phase.update_grid or phase.refines for phase in config.phases)
    refused = {
        f"operator: {config.operator['name']}": config.operator["name"] != "forward" and "use forward",
        f"optimizer {first}": first and f"it mixes the weights of several inputs; use {elementwise}",
        f"start: {config.start}": config.start == "quadratic"
        and "products are of two processes; use additive, or ladder",
        "constraint: soft": config.constraint == "soft" and "use hard",
        "compile: true": (config.compile or config.operator.get("compile")) and "leave it out",
        "points.sequence: sobol": config.points.sequence != "random" and "use random",
        "points.adapt": config.points.adapt and "leave it out",
        "loss.directions": config.loss.directions and "leave it out",
        "loss.sparsity": config.loss.sparsity and "leave it out",
        "loss.balance": config.loss.balance and "leave it out",
        "loss.emphasis": config.loss.emphasis and "leave it out",
        "phases: update_grid, grid_size, degree, harmonics": grids and "leave them out",
        "frequencies": config.frequencies and "leave them out",
        "average": config.average is not None and "leave it out",
        "verify": config.verify and "leave it out",
        "stop.to": config.stop.to is not None and "use stop.loss or stop.seconds",
        "slices": config.slices != SlicesConfig() and "there are no pictures of a field",
        "start_from": config.start_from and "leave it out",
        "stages": config.stages and "leave them out",
        "reference": config.reference is not None and "leave it out",
        "points_of_interest": config.points_of_interest and "leave it out",
        "max_memory": config.max_memory is not None and "leave it out; points.interior says how many points there are",
        f"device: {config.device}": ":" in config.device and "say cuda, and each process takes one of its own",
    }
    if found := next(((name, why) for name, why in refused.items() if why), None):
        raise ConfigError(f"{found[0]}: not with shard: inputs; {found[1]}")


def network(config: RunConfig, options: Mapping[str, Any], problem: Problem, drawn: torch.Generator) -> nn.Module:
    """The network of the configuration with the first layer of this process.

    Raises:
        ConfigError: its first layer is none of edges, or not the same for all inputs.
    """
    options, dim = dict(options), problem.dim
    if not hasattr(backbones.BACKBONES.get(options["name"]), "basis"):
        raise ConfigError(
            f"backbone {options['name']}: not with shard: inputs; use kan, metakan or one of another basis"
        )
    if options.get("prompt_rank") is not None:
        raise ConfigError("backbone.prompt_rank: not with shard: inputs; leave it out")
    if "grid_range" in options:
        known = {"auto": problem.domain.input_range(str(config.points.law))[0], "frame": (-1.0, 1.0)}
        given = options["grid_range"]
        options["grid_range"] = known.get(given, given) if isinstance(given, str) else given
        if not isinstance(options["grid_range"][0], int | float):
            raise ConfigError("backbone.grid_range: with shard: inputs one interval is that of all inputs")
    if "widths" in options:
        options["widths"] = backbones.widths_of(options["widths"], dim)
    net = construct("backbone", backbones.BACKBONES, options, 1, 1, generator=drawn)
    try:
        return sliced(net, problem.input_slice, config.seed, options.get("meta_init", ""))
    except ValueError as error:
        raise ConfigError(f"backbone {options['name']}: not with shard: inputs; {error}") from None


# ---------------------------------------------------------------------------------------------------------------
# What is sliced


def sliced_names(u: Ansatz | nn.Module) -> dict[str, Slice]:
    """The names in the state of a module whose tensors have a row for each input of this process."""
    found = {}
    for name, module in u.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(module, SlicedLinear):
            rows = "theta" if hasattr(module.weights, "theta") else "prompts"
            found |= {f"{prefix}{part}": module.inputs for part in (f"weights.{rows}", "basis.low", "basis.high")}
        if isinstance(module, Quadratic) and module.inputs is not WHOLE:
            found |= {f"{prefix}{part}": module.inputs for part in "ab"}
    return found


def count_parameters(net: nn.Module) -> int:
    """Numbers in the parameters of all processes, shared ones once."""
    names = sliced_names(net)
    rows = lambda name, p: p.numel() if name not in names else p.numel() // names[name].width * names[name].dim
    return sum(rows(name, p) for name, p in net.named_parameters())


class Parts:
    """The state of a run whose inputs are sharded: which tensors are slices, and how all of them are one file.

    Args:
        u: of the run.
        inputs: those of this process.
    """

    def __init__(self, u: Ansatz, inputs: Slice):
        self.u, self.inputs, self.names = u, inputs, sliced_names(u)

    @property
    def shared(self) -> list[Tensor]:
        """The parameters that are the same in all processes."""
        return [p for name, p in self.u.named_parameters() if name not in self.names]

    def whole(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        """The state with all rows, of the first process; what others get is of no use."""
        return self._moved(state, optimizer, self.inputs.whole)

    def mine(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        """The state with the rows of this process."""
        return self._moved(state, optimizer, self.inputs.cut)

    def _moved(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer | None, move: Move) -> dict[str, Any]:
        weights = lambda held: held and {name: move(t) if name in self.names else t for name, t in held.items()}
        points = lambda x: x if x is None else move(x, 1)
        pools = {name: {**pool, "points": points(pool["points"])} for name, pool in state["pools"].items()}
        best = {**state["best"], "weights": weights(state["best"]["weights"])}
        found = {**state, "weights": weights(state["weights"]), "best": best, "pools": pools}
        if optimizer is not None:
            found["optimizer"] = {**state["optimizer"], "state": self._moments(state["optimizer"], optimizer, move)}
        return found

    def _moments(self, state: Mapping[str, Any], optimizer: torch.optim.Optimizer, move: Move) -> dict[int, dict]:
        """What an optimiser knows of each parameter, by its number: moments have the shape of the parameter."""
        cut = {p for name, p in self.u.named_parameters() if name in self.names}
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        moved = lambda p, t: move(t) if p in cut and torch.is_tensor(t) and t.ndim == p.ndim else t
        return {
            number: {key: moved(parameters[number], t) for key, t in held.items()}
            for number, held in state["state"].items()
        }
