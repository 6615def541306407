"""Where the points and probes of the steps come from: a pool for each kind of points, drawn from streams of its own."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kanpde.config.schema import PhaseConfig
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import Pool, resampled, stream
from kanpde.problems.conditions import Observations, draws
from kanpde.training.losses import Points
from kanpde.training.objective import Objective
from kanpde.training.plan import Plan

STREAMS = ("interior", "boundary", "operator")  # of random numbers


class Supply:
    """The points of each step, of a world the share of this process, and what a checkpoint needs to go on with them.

    Attributes:
        streams: of random numbers, by what is drawn.
        pools: by the names of the terms that read their points.
    Raises:
        ConfigError: the processes of the world are more than points, or on one GPU.
    """

    def __init__(self, plan: Plan, objective: Objective, device: torch.device):
        self.plan, self.objective, self.world, self.device = plan, objective, objective.world, device
        self._check_world()
        self.streams = {name: self._stream(name) for name in STREAMS}
        self.pools = self._pools()

    @property
    def probes(self) -> torch.Generator:
        """What a stochastic operator draws from."""
        return self.streams["operator"]

    def points(self) -> Points:
        """Those of the next step, drawn once, so that every evaluation of the loss within it sees the same."""
        return {name: pool() for name, pool in self.pools.items()}

    def unseen(self, points: Points) -> Points:
        """Others than those of a step; where points stay for several steps, the same."""
        return {name: pool.draw() if pool.refresh == 1 else points[name] for name, pool in self.pools.items()}

    def keep(self, still: bool) -> None:
        """Whether the points stay as they are from now on."""
        for pool in self.pools.values():
            pool.freeze() if still else pool.thaw()

    def begin(self, phase: PhaseConfig) -> None:
        """As many interior points as a phase asks for."""
        if phase.points is not None:
            self.objective.counts["interior"] = phase.points
            self.pools["interior"].forget()

    # -----------------------------------------------------------------------------------------------------------
    # Streams and pools

    def _stream(self, name: str, begin: str = "") -> torch.Generator:
        """Random numbers by the seed, but for the first process and what all draw alike by its rank too."""
        own = f"/rank {self.world.rank}{begin}" if self._rank_of(name) else ""
        return stream(self.plan.config.seed, name + own, self.device)

    def _rank_of(self, name: str) -> int:
        """The process whose random numbers this one draws: the first where all draw alike."""
        alike = {"interior": self.plan.problem.fits_rows, "operator": self.objective.shares_probes}
        return 0 if alike.get(name) else self.world.rank

    def _are_rows(self, name: str) -> bool:
        """Whether points are rows of data."""
        return self.plan.problem.fits_rows or isinstance(self.objective.u.problem.asked.get(name), Observations)

    def _check_world(self) -> None:
        size, device = self.world.size, self.plan.config.device
        least = self.plan.counts | {"interior": min(self.plan.of_phases)}
        split = {name: n for name, n in least.items() if name == "interior" or not self._are_rows(name)}
        if few := [f"{n} {name}" for name, n in split.items() if n < size]:
            raise ConfigError(f"points: given {few[0]} for {size} processes; needed is at least one for each")
        if size > 1 and ":" in device:
            raise ConfigError(f"device: given {device} for {size} processes; say cuda, and each takes one of its own")

    def _pools(self) -> dict[str, Pool]:
        u, points = self.objective.u, self.plan.config.points
        of, kind = draws(u.problem, points.law), {"sequence": points.sequence, "dtype": u.like.dtype}
        inside, edge = self.streams["interior"], self.streams["boundary"]

        def draw(name: str, n: int) -> Tensor:
            if name == "interior":
                return self._adapted(n, lambda m: of[name](m, inside, **kind))
            return of[name](n, edge, **kind)

        def mine(name: str) -> Tensor:
            """Points of this process; rows are split, of which otherwise some might come twice, and some not at all."""
            n = self.objective.counts[name]
            return self.world.part(draw(name, n)) if self._are_rows(name) else draw(name, self.world.share(n))

        return {name: Pool(partial(mine, name), points.refresh) for name in self.plan.counts}

    def _adapted(self, n: int, draw: Callable[[int], Tensor]) -> Tensor:
        """n interior points, with `points.adapt` those of more candidates that the residual prefers.

        Each process of a world draws and prefers for itself.
        """
        adapt, inside = self.plan.config.points.adapt, self.streams["interior"]
        if adapt is None:
            return draw(n)
        x = draw(adapt.candidates * n)
        r = self.objective.residual(x, self.probes)
        if self.world.any(not r.isfinite().all())[0]:
            raise FloatingPointError("the residual at the candidates for points is not finite")
        return resampled(x, r, n, inside, adapt.power, adapt.offset)

    # -----------------------------------------------------------------------------------------------------------
    # Checkpoints

    def state_dict(self) -> dict:
        """Points that stay, of all processes together, and the streams of each, the first one's apart."""
        counts, size = self.objective.counts, self.world.size
        joint = lambda name, x: x if x is None or counts[name] < size else self.world.gather(x)
        pools = {name: pool.state_dict() for name, pool in self.pools.items()}
        streams = self.world.collect({name: generator.get_state() for name, generator in self.streams.items()})
        return {
            "streams": streams[0],
            "others": streams[1:],
            "pools": {name: {**pool, "points": joint(name, pool["points"])} for name, pool in pools.items()},
        }

    def load_state_dict(self, saved: dict, step: int) -> None:
        """Go on; of more processes than there were the others begin by seed, rank and the step."""
        streams = [saved["streams"], *saved.get("others", [])]
        for name, generator in self.streams.items():
            rank, fresh = self._rank_of(name), self._stream(name, f"/step {step}")
            generator.set_state(streams[rank][name].cpu() if rank < len(streams) else fresh.get_state())
        for name, pool in self.pools.items():
            held = saved["pools"][name]
            mine = None if held["points"] is None else self.world.part(held["points"])
            pool.load_state_dict({**held, "points": mine}, self.device)
