"""The two calls that make a run: train and resume."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from kanpde import checks, setup
from kanpde.checkpoints import fitting, load_checkpoint, start_from
from kanpde.config import ConfigError, RunConfig
from kanpde.kan.network import count_parameters
from kanpde.problems.fitting import Fitting
from kanpde.record import Run
from kanpde.training import Callback, RunFailed, Training, WriteFailed, now


def train(
    problem,
    net: nn.Module | None = None,
    *,
    config: RunConfig | None = None,
    out: str | Path | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
    **overrides,
) -> Run:
    """Solve a problem and return its run.

    Args:
        problem: a `Problem`.
        net: any module (N, d) -> (N, 1); None builds the backbone of the configuration. Where `start` is constant (the
            default from d = 1000 on) the run's network is c + s net.
        config: a `RunConfig`; without one, the dimension's default solver with `overrides`: solver="paper", steps=500,
            seed=1, backbone="kan", points={"interior": 200}, or any other key of a YAML.
        out: the result file; default a new one under runs/.
        on_step, on_evaluation: called with the `State`; returning True ends the run.
    Raises:
        ConfigError: something in the call does not fit. RunFailed: the run had to end.

    Example:
        >>> from kanpde.problems import Poisson
        >>> run = train(Poisson(3), backbone="kan", steps=20, out=getfixture("tmp_path") / "run.h5")
        >>> run.attrs["status"]
        'finished'
    """
    if config is None:
        if net is not None:
            overrides = {**overrides, "backbone": setup.PYTHON + type(net).__name__}
        config = setup.config_for(problem, overrides)
    elif overrides:
        raise ConfigError(f"train: {', '.join(overrides)} given beside config; change the configuration instead")
    config = setup.resolved(config, problem)
    net = setup.network(config, problem, net)
    checks.check(config, problem, net)
    run = Run(setup.reserve(out, config))
    try:
        run.attrs = attributes(config, problem, net)
        training = Training(config, problem, net, run)
        if config.start_from:
            start_from(training.u.net, Path(config.start_from))
            training.tested.load_state_dict(training.u.state_dict())
        run.floors = training.evaluator.floors()
        return drive(training, on_step, on_evaluation)
    finally:
        setup.release(run)


def resume(
    path: str | Path,
    *,
    problem=None,
    net: nn.Module | None = None,
    steps: int | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
) -> Run:
    """Go on with a run from its checkpoint; `steps` above the run's own extend its last phase.

    A run of a problem or network made in Python needs them again.

    Raises:
        ConfigError: the run is done, or the table it fits has changed. RunFailed: the run had to end.
    """
    run = Run.open(path)
    config = setup.extended(setup.config_of(run), steps)
    problem = problem or setup.problem(config)
    setup.check_rows(run, problem)
    training = Training(config, problem, setup.network(config, problem, net), run)
    saved = load_checkpoint(run.checkpoint)
    with fitting(run.checkpoint):
        training.load_state_dict(saved)
    if training.state.step >= config.steps and run.attrs["status"] == "finished":
        raise ConfigError(f"{path}: the run has done its {saved['step']} steps; --steps above that extend it")
    for name in (
        "rel_l2_best",
        "rmse_best",
        "rel_l2_last",
        "best_step",
        "message",
        *(f"skill_{floor}" for floor in run.floors),
    ):
        run.attrs.pop(name, None)  # of the weights so far
    run.attrs["config"] = setup.dump(config)
    return drive(training, on_step, on_evaluation)


def drive(training: Training, on_step: Callback | None, on_evaluation: Callback | None) -> Run:
    """Run the loop, and whatever happens leave files that say so; the checkpoint keeps the last good state."""
    try:
        status = training.loop(on_step, on_evaluation)
        if status == "finished":
            try:
                training.finish()
            except KeyboardInterrupt:
                status = "interrupted"
        training.save(status)
    except WriteFailed:
        raise
    except Exception as error:
        training.fail(f"{type(error).__name__}: {error}" if not isinstance(error, RunFailed) else str(error))
        raise
    return training.run


def attributes(config: RunConfig, problem, net: nn.Module) -> dict:
    """What the result file says of the run."""
    source = setup.source_of(config)
    return {
        "config": setup.dump(config),
        "seed": config.seed,
        "problem": setup.short_name(config, problem),
        "title": problem.title,
        "fits": isinstance(problem, Fitting),
        "dim": problem.dim,
        "backbone": config.backbone["name"].removeprefix(setup.PYTHON),
        "parameters": count_parameters(net),
        "device": device_name(config.device),
        "torch_version": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "started": now(),
        "law": config.points.law,
        **({"rows_sha256": rows} if (rows := setup.rows_sha256(problem)) else {}),
        **({"problem_source": source, "problem_sha256": hashlib.sha256(source.encode()).hexdigest()} if source else {}),
    }


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
