"""The network of a plan, in the units of its domain: one, one for each field, each slab of time, or each stage."""

from collections.abc import Mapping, Sequence
from math import pi

import torch
from torch import nn

from kanpde import backbones
from kanpde.config import RunConfig
from kanpde.config.trees import rescale
from kanpde.domains.base import space_of, time_of
from kanpde.ground.construct import construct
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.harmonics import harmonics
from kanpde.jets.jet import Affine
from kanpde.jets.slices import WHOLE
from kanpde.jets.system import Separate, Slabs, Stages
from kanpde.kan.layers import KANLinear
from kanpde.problems import Problem, slabs
from kanpde.problems.exactly import Exactly
from kanpde.problems.fitting import Units
from kanpde.problems.frames import Frame, grid_range, largest_factor
from kanpde.training import ladder, shards, start
from kanpde.training.losses import Loss
from kanpde.users.members import PYTHON

ORDINALS = {2: "second", 3: "third", 4: "fourth"}


def network(
    config: RunConfig, problem: Problem, frame: Frame | None, loss: Loss, given: nn.Module | None, stored: bool
) -> nn.Module:
    """The network that is given, which is one of x, or that of the configuration: one, or one for each field."""
    if config.start == "constant" and len(problem.fields) > 1 and not stored:
        raise ConfigError("start: constant is that of one field; say start: network")
    if given is not None:
        return _with_units(config, problem, None, loss, given, stored)
    if config.slabs is not None:
        ends, nets = slabs.ends_of(config.slabs, time_of(problem.domain)), []
        for k, (start, end) in enumerate(zip((0.0, *ends), ends, strict=False)):
            here, own = slabs.in_slab(problem, start, end), of_slab(config, k)
            nets.append(_of_config(own, here, frame_of(config, here), loss, stored))
        return Slabs(nets, ends)
    if config.stages:
        earlier = [config.model_copy(update={**stage, "stages": []}) for stage in config.stages]
        former = [network(each, problem, frame, loss, None, stored=True) for each in earlier]
        return Stages([*former, _of_config(config, problem, frame, loss, stored)])
    return _of_config(config, problem, frame, loss, stored)


def of_slab(config: RunConfig, number: int) -> RunConfig:
    """The configuration of one slab: its part of the steps, a seed of its own, the seconds at which it ends."""
    count = config.parts
    share = config.steps * (number + 1) // count - config.steps * number // count
    kept, seconds = config.evaluation, config.stop.seconds
    changes = {
        "slabs": None,
        "phases": rescale(config.phases, share),
        "seed": config.seed + number,
        "evaluation": kept.model_copy(update={"best_from": kept.best_from * share // config.steps}),
        "points_of_interest": None,
        "log": {},
    }
    if seconds is not None:
        changes["stop"] = config.stop.model_copy(update={"seconds": seconds * (number + 1) / count})
    return config.model_copy(update=changes)


def _of_config(config: RunConfig, problem: Problem, frame: Frame | None, loss: Loss, stored: bool) -> nn.Module:
    """The network of a configuration by itself, or one for each field."""
    if config.networks == "shared" or len(problem.fields) == 1:
        drawn = stream(config.seed, "init")
        return _with_units(config, problem, frame, loss, untrained(config, problem, frame, drawn, stored), stored)
    nets = []
    for name in problem.fields:
        net = untrained(config, problem.of(name), frame, stream(config.seed, f"init/{name}"), stored)
        nets.append(_with_units(config, problem.of(name), frame, loss, net, stored))
    return Separate(nets)


def untrained(
    config: RunConfig, problem: Problem, frame: Frame | None, drawn: torch.Generator, stored: bool
) -> nn.Module:
    """The network of the configuration, untrained.

    One that fits data sees inputs in [-1, 1] and outputs of deviation 1: it begins and ends with a fixed map. One of a
    PDE begins with the map to the units of its domain, if x is not in them.
    """
    options = dict(config.backbone)
    if options["name"].startswith(PYTHON):
        raise ConfigError(f"the run's network {options['name'].removeprefix(PYTHON)} was made in Python: pass net=")
    if problem.input_slice is not WHOLE:
        return shards.network(config, options, problem, drawn)
    if "grid_range" in options:
        options["grid_range"] = grid_range(options["grid_range"], problem, config.points.law, frame)
    waves, inputs = None, problem.n_inputs
    met = Exactly.built_in(problem, config.constraint == "hard")
    beside = _waves(config.frequencies, problem, frame)
    if met.periodic or met.flat or beside:
        ranges = grid_range(_ends(problem) if met.flat else "frame", problem, config.points.law, frame)
        grids = options.get("grid_range", (-1.0, 1.0))
        waves, limits = harmonics(ranges, met.periodic or {}, grids, met.flat, beside)
        options |= {"grid_range": limits} if "grid_range" in options else {}
        inputs = len(limits)
    net = construct("backbone", backbones.BACKBONES, options, inputs, len(problem.fields), generator=drawn)
    if problem.fits_rows:
        units = Units.unknown(problem.dim) if stored else problem.units
        return nn.Sequential(units.scaling_inputs(), *_layers(net), units.scaling_output())
    needed = max(2, problem.reads.order)
    if any(isinstance(layer, KANLinear) and layer.basis.smoothness < needed for layer in net.modules()):
        which = ORDINALS.get(needed, f"{needed}th")
        if order := options.get("spline_order"):
            raise ConfigError(f"backbone.spline_order: given {order}, {which} derivatives need at least {needed + 1}")
        raise ConfigError(f"backbone {options['name']}: its functions have no continuous {which} derivatives")
    net = nn.Sequential(*waves, *_layers(net)) if waves else net
    return nn.Sequential(frame.scaling_inputs(), *_layers(net)) if frame else net


def _waves(
    frequencies: Mapping[str, Sequence[float]], problem: Problem, frame: Frame | None
) -> dict[int, list[tuple[float, float]]]:
    """Of axes the rates and shifts of cos(2 pi f x_i), for the units of the run."""
    axes = {problem.axes.index(name)[0]: each for name, each in frequencies.items()}
    h = lambda axis: 1.0 if frame is None else float(frame.lengths[axis])
    c = lambda axis: 0.0 if frame is None else float(frame.centre[axis])
    return {axis: [(2 * pi * f * h(axis), 2 * pi * f * c(axis)) for f in each] for axis, each in axes.items()}


def _ends(problem: Problem) -> list[tuple[float, float]]:
    """Where the coordinates of a box begin and end, and time where there is one."""
    time = time_of(problem.domain)
    return [*space_of(problem.domain).sides, *([] if time is None else [(0.0, time)])]


def _layers(net: nn.Module) -> list[nn.Module]:
    return list(net) if type(net) is nn.Sequential else [net]


def _with_units(
    config: RunConfig, problem: Problem, frame: Frame | None, loss: Loss, net: nn.Module, stored: bool
) -> nn.Module:
    """c + s net where `start` or the units of the domain ask for it; one that ends with such a map stays as it is.

    Beside a start in closed form it is s net, with an s of its own that is set when the start is there.
    """
    layers, climbs = _layers(net), config.start in ladder.STARTS or bool(config.stages)
    begins = frame or climbs or config.start != "network"
    if problem.fits_rows or (isinstance(layers[-1], Affine) and not climbs) or not begins:
        return net
    if stored:
        return nn.Sequential(*layers, start.affine((1.0,) * len(problem.fields)))
    hard = frame and config.constraint == "hard"
    size = [1 / largest_factor(problem.of(name)) if hard else 1.0 for name in problem.fields]
    if config.start == "network" or climbs:
        return nn.Sequential(*layers, start.affine(size))
    drawn, scale = stream(config.seed, "start"), loss.factor(problem)
    return nn.Sequential(*layers, start.units(problem, config.points.law, drawn, scale, *size))


def frame_of(config: RunConfig, problem: Problem) -> Frame | None:
    """The units of length and time, where a run has any of its own."""
    return Frame.of(problem) if config.units == "frame" else None
