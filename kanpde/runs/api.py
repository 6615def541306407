"""The two calls that make a run: train and resume."""

import copy
import json
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kanpde.config import RunConfig, dump
from kanpde.ground.errors import ConfigError
from kanpde.ground.world import World
from kanpde.loggers import logged
from kanpde.problems.base import Problem, own
from kanpde.records.lock import Lock
from kanpde.runs import summary
from kanpde.runs.models import Run, start_from
from kanpde.runs.names import reserve
from kanpde.runs.sessions import device_name, differences, session, sessions
from kanpde.runs.stored import check_reference, check_rows, config_of, extended
from kanpde.training import statements
from kanpde.training.checkpoints import checkpoint_of, fitting
from kanpde.training.checks import check_device
from kanpde.training.loop import CONVERGED, Callback, ResidualTraining, State
from kanpde.training.plan import Plan, configured
from kanpde.training.slabs import training_of
from kanpde.training.training import RunFailed, now
from kanpde.users.code import blaming, check_call
from kanpde.users.members import PYTHON, enter, kept_with, short, short_name

ENDED = ("finished", "diverged")  # statuses of runs that have nothing left to do: diverged ones ended worse than begun


@torch.inference_mode(False)
@torch.enable_grad()
def train(
    problem: Problem,
    net: nn.Module | None = None,
    *,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
    **overrides: Any,
) -> Run:
    """Solve a problem and return its run.

    A run works on copies of the network and of the unknowns of the problem: the same call again is the same run.
    Within `kanpde.ground.world.joined` the processes that torchrun has started train it together, each of which makes
    the same call; the first alone writes, calls back, and has its results.

    Args:
        problem: a `Problem`.
        net: any module (N, d) -> (N, 1); None builds the backbone of the configuration. With `start: ladder` the
            run's network is s net, beside a polynomial, with `constant` c + s net. Solvers ask for the former, but
            below d = 1000 they leave a net that is given as it is.
        config: a `RunConfig`; without one, the dimension's default solver with `overrides`: solver="paper", steps=500,
            seed=1, backbone="kan", points={"interior": 200}, or any other key of a YAML.
        out: the result file; default a new one under runs/.
        on_step, on_evaluation: called with the `State`; returning True ends the run, or the slab of time that it is in.
    Raises:
        ConfigError: something in the call does not fit. RunFailed: the run had to end.

    Example:
        >>> from kanpde.problems import Poisson
        >>> run = train(Poisson(3), backbone="kan", steps=20, out=getfixture("tmp_path") / "run.h5")
        >>> run.attrs["status"]
        'finished'
    """
    check_call(problem, net)
    if net is not None and config is None:
        overrides = {**overrides, "backbone": PYTHON + type(net).__name__}
    if config is not None and overrides:
        raise ConfigError(f"train: {', '.join(overrides)} given beside config; change the configuration instead")
    mine = own(problem)
    with blaming(mine, ConfigError):
        plan = Plan.of(configured(mine, overrides) if config is None else config, mine, copy.deepcopy(net))
        statements.check_unknowns(plan, problem)
    return begin(plan, out, on_step, on_evaluation)


def begin(
    plan: Plan,
    out: str | Path | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
) -> Run:
    """The run of a plan, on its objects themselves; otherwise as `train`."""
    world = World.current()
    with _written_by(world, partial(reserve, out, plan.config)) as (path, lock):
        run = Run(path)
        run.lock = lock
        run.attrs = attributes(plan) | of_world(world)
        with blaming(plan.problem, RunFailed):
            training = training_of(plan, run, world)
        if plan.config.start_from:
            start_from(training.u, Path(plan.config.start_from))
            training.tested.load_state_dict(training.u.state_dict())
        with blaming(plan.problem, RunFailed):
            run.floors = training.by_first(training.evaluator.floors)
        _drive(training, plan, on_step, on_evaluation)
    return run


def _drive(
    training: ResidualTraining, plan: Plan, on_step: Callback | None = None, on_evaluation: Callback | None = None
) -> None:
    """Train, and give each row of the history to the loggers, in the process that writes."""
    if not plan.config.log or not training.world.leads:
        training.drive(on_step, on_evaluation)
        return
    with logged(plan.config.log, training.run) as log:

        def evaluated(state: State) -> bool | None:
            log(state.step, state.row)
            return on_evaluation(state) if on_evaluation else None

        training.drive(on_step, evaluated)


@contextmanager
def _written_by(world: World, take: Callable[[], Lock]) -> Iterator[tuple[Path, Lock | None]]:
    """The name of a result, of which the first process of a world takes the lock, and that lock; in the others None."""
    locks: list[Lock] = []

    def taken() -> Path:
        locks.append(take())
        return locks[0].result

    try:
        yield world.first(taken), locks[0] if locks else None
    finally:
        for lock in locks:
            lock.release()


@torch.inference_mode(False)
@torch.enable_grad()
def resume(
    path: str | Path,
    *,
    problem: Problem | None = None,
    net: nn.Module | None = None,
    steps: int | None = None,
    stop: Mapping | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
) -> Run:
    """Go on with a run from its checkpoint; `steps` above the run's own extend its last phase.

    A run of a problem or network made in Python needs them again; it works on copies of them. `stop` has criteria that
    replace the run's own, by name, such as {"seconds": 600}: a run that has ended by one goes on only with another.

    Raises:
        ConfigError: the run is done, or the table it fits has changed. RunFailed: the run had to end.
    """
    if problem is not None:
        check_call(problem, net)
    run = Run.open(path)
    config = extended(config_of(run), steps, stop)
    enter(config)
    mine = None if problem is None else own(problem)
    return go_on(run, Plan.of(config, mine, copy.deepcopy(net), stored=True), on_step, on_evaluation)


def go_on(run: Run, plan: Plan, on_step: Callback | None = None, on_evaluation: Callback | None = None) -> Run:
    """`resume` on the objects of a plan themselves."""
    world = World.current()
    with _written_by(world, Lock(run.path).take) as (_, run.lock):
        run.attrs = Run.open(run.path).attrs  # as they are now that nobody else writes
        return _go_on(run, plan, world, on_step, on_evaluation)


def _go_on(run: Run, plan: Plan, world: World, on_step: Callback | None, on_evaluation: Callback | None) -> Run:
    check_rows(run, plan.problem)
    check_device(plan.config.device)
    with blaming(plan.problem, ConfigError):
        training = training_of(plan, run, world)
    saved = checkpoint_of(run)
    with fitting(run.checkpoint):
        training.load_state_dict(saved)
    if training.state.step >= plan.config.steps and run.attrs["status"] in ENDED:
        raise ConfigError(f"{run.path}: the run has done its {saved['step']} steps; --steps above that extend it")
    if (criterion := training.stopped()) and run.attrs["status"] in ENDED:
        how = (
            "start_from goes on with other phases"
            if criterion == CONVERGED
            else "--set with another value, or null, goes on"
        )
        raise ConfigError(f"{run.path}: the run has ended by {criterion}; {how}")
    run.set_verification({})
    for name in ("times", "points_of_interest"):
        run.set_table(name, {})
    check_reference(run, plan)
    of_the_end = ("rel_l2_best", "rmse_best", "rel_l2_last", "validation_best", "validation_last")
    said = ("message", "converged", "verdict", "not_verified", "former_rel_l2", "former_validation")
    of_fields = (f"rel_l2_best/{name}" for name in run.fields)
    for name in (*of_the_end, *said, *of_fields, *(f"skill_{floor}" for floor in run.floors)):
        run.attrs.pop(name, None)  # of the weights so far
    former, now_there = sessions(run), session(plan.config, training.step)
    if changed := differences(former[-1], now_there):
        said = "not bit for bit what it would have been without a pause"
        warnings.warn(f"{run.path} goes on with {', '.join(changed)}: {said}", stacklevel=2)
    run.attrs |= {**of_world(world), "sessions": json.dumps([*former, now_there]), "config": dump(plan.config)}
    world.any(False)  # all have read what the first will write
    _drive(training, plan, on_step, on_evaluation)
    return run


def attributes(plan: Plan) -> dict:
    """What the result file says of the run."""
    config, problem = plan.config, plan.problem
    return {
        "id": uuid.uuid4().hex,
        "config": dump(config),
        "seed": config.seed,
        "problem": short_name(config.problem, problem),
        "title": str(problem.title or "").replace("\0", " ").encode("utf-8", "replace").decode(),
        "fits": problem.fits_rows,
        "dim": problem.dim,
        "time": problem.has_time,
        "backbone": short(config.backbone["name"]),
        "parameters": plan.parameters,
        "sharded": plan.config.shard,
        "problem_parameters": summary.unknowns_of(problem),
        "device": device_name(config.device),
        "torch_version": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "sessions": json.dumps([session(config)]),
        "started": now(),
        "law": config.points.law,
        **({"solver": f"{found.solver}: {found.why}"} if (found := plan.choice) else {}),
        **({"conditions": plan.conditions} if problem.conditions else {}),
        **({"fields": ",".join(problem.fields)} if len(problem.fields) > 1 else {}),
        **({"rows_sha256": rows} if (rows := problem.rows_sha256) else {}),
        **({"reference": known.says, "reference_sha256": known.sha256} if (known := plan.known) else {}),
        **kept_with(config, problem),
    }


def of_world(world: World) -> dict:
    """What the result file says of the processes of a run."""
    return {"world_size": world.size, "backend": world.backend}
