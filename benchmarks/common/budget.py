"""Runs of a given length of time: how many steps fill it on this machine, and runs that go on where they stopped;
the options that the benchmarks made of such runs share.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from benchmarks.common.study import Parser, above_zero, at_least
from kanpde.backbones import BACKBONES
from kanpde.config import RunConfig, dump
from kanpde.config.trees import rescale
from kanpde.ground.errors import ConfigError
from kanpde.runs.api import resume, train
from kanpde.runs.models import Run
from kanpde.runs.stored import config_of
from kanpde.training import plan
from kanpde.training.checks import check_device
from kanpde.training.cuts import PLANE, SLICE
from kanpde.training.loop import ResidualTraining
from kanpde.training.training import RunFailed, WriteFailed

ENDED = ("finished", "failed")


class Cost(NamedTuple):
    """Seconds of a step, of an evaluation, and of what a run does once: floors, tests on all points, slices."""

    step: float
    evaluation: float
    once: float


def cost(problem, config: RunConfig, pilot: int = 6) -> Cost:
    """Seconds on this machine, by a throw-away run of `pilot` steps.

    A step: the mean over the second half. An evaluation: the one after the last step. What is done once is priced by
    its points: the floors, the last and the best weights on the test points, the slices.
    """
    config = plan.resolved(config, problem)
    evaluation, ticks = config.evaluation.model_copy(update={"every": pilot}), []
    short = config.model_copy(update={"phases": rescale(config.phases, pilot), "evaluation": evaluation})
    with TemporaryDirectory() as folder:
        training = ResidualTraining(plan.Plan.of(short, problem), Run(Path(folder) / "pilot.h5"))
        if training.loop(lambda state: ticks.append(time.perf_counter())) == "interrupted":
            raise KeyboardInterrupt
        last = time.perf_counter() - ticks[-1]
    points, most = config.points, training.evaluator.history_points()
    slices = min(config.slices.points**2, PLANE // problem.dim)
    slices += config.slices.volume**3 * (config.slices.volume**3 * problem.dim <= SLICE)
    once = 2 * points.test + max(most, min(points.test, 4096)) + slices
    half = pilot // 2
    step = (ticks[-1] - ticks[half - 1]) / (len(ticks) - half)
    return Cost(step, last, last * once / (most + min(points.validation, most)))


def steps_for(problem, config: RunConfig, seconds: float) -> int:
    """Steps of a run that takes `seconds` here: (seconds - once) / (step + evaluation / every), at least 1."""
    step, evaluation, once = cost(problem, config)
    return max(1, int((seconds - once) / (step + evaluation / config.evaluation.every)))


def fitted(problem, config: RunConfig, seconds: float, evaluations: int = 24) -> RunConfig:
    """The configuration with the steps that fill `seconds` here: (seconds - once - evaluations x evaluation) / step."""
    step, evaluation, once = cost(problem, config)
    return spread(config, max(1, int((seconds - once - evaluations * evaluation) / step)), evaluations)


def spread(config: RunConfig, steps: int, evaluations: int = 24) -> RunConfig:
    """The configuration with so many steps and at most so many evaluations, evenly apart but for the last."""
    every = -(-steps // evaluations)
    evaluation = config.evaluation.model_copy(update={"every": every})
    return config.model_copy(update={"phases": rescale(config.phases, steps), "evaluation": evaluation})


def settled(path: Path, problem, config: RunConfig, seconds: float, steps: int | None = None) -> Run:
    """The run at `path` as `ended`; one that starts is trained for `seconds` (or `steps`)."""
    return ended(path, problem, config, lambda: spread(config, steps) if steps else fitted(problem, config, seconds))


def ended(path: Path, problem, config: RunConfig, new: Callable[[], RunConfig]) -> Run:
    """The run at `path`: as it lies there if it has ended, else gone on with, or trained by the configuration `new()`.

    A run that failed has ended too; its error is the last one measured.

    Raises:
        ConfigError: what lies there was configured otherwise. SystemExit: it was broken off (Ctrl-C).
    """
    try:
        if path.is_file():
            run = _same(Run.open(path), config)
            run = run if run.attrs.get("status") in ENDED else resume(path, problem=problem)
        else:
            path.with_suffix(".pt").unlink(missing_ok=True)  # of a run that ended before its first evaluation
            run = train(problem, config=new(), out=path)
    except WriteFailed:
        raise
    except RunFailed as error:
        print(f"{path}: {error}", file=sys.stderr)
        run = Run.open(path)
    if run.attrs["status"] not in ENDED:
        print(f"{path}: broken off; the same command goes on with it", file=sys.stderr)
        raise SystemExit(130)
    return run


def _same(run: Run, config: RunConfig) -> Run:
    """The run, if it has this configuration but for the numbers of steps and evaluations."""
    stored = config_of(run)
    free = {"phases": rescale(config.phases, stored.steps), "evaluation": stored.evaluation}
    if dump(config.model_copy(update=free)) != dump(stored):
        raise ConfigError(f"{run.path}: a run of another configuration (has the solver changed?): name other --runs")
    return run


# ---------------------------------------------------------------------------------------------------------------
# What the benchmarks of this kind share


QUICK = {"points": {"interior": 16, "test": 256, "validation": 64}, "compile": False}
LEAST = {"dims": 3, "seeds": 0, "threads": 1}


def parser(
    name: str, about: str, dims: list[int], backbones: list[str], minutes: float, solver: str = "default"
) -> Parser:
    """The options of a benchmark of errors, with its defaults."""
    made = Parser(name, about)
    made.add_argument("--dims", type=int, nargs="+", default=dims)
    made.add_argument("--backbones", nargs="+", choices=BACKBONES, default=backbones, metavar="NAME")
    made.add_argument("--minutes", type=float, default=minutes, help="of a run that starts, evaluations included")
    made.add_argument("--solver", default=solver, help="a name or a YAML file")
    made.add_argument("--runs", type=Path, default=Path("runs") / name, metavar="DIR", help="where the runs are kept")
    made.add_argument("--threads", type=int, default=torch.get_num_threads())
    made.add_argument("--device", default="cpu")
    return made.common(seeds=[0], quick="a few steps of few points, to see that all works")


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """The options, if they make sense."""
    at_least(args, LEAST)
    above_zero(args, "minutes")
    check_device(args.device)
    torch.set_num_threads(args.threads)
    return args


def configured(args: argparse.Namespace, problem, backbone: dict, seed: int) -> RunConfig:
    """The solver's configuration for a problem and a backbone, without the points of pictures."""
    plain = {"slices": {"points": 2, "volume": 0}, "device": args.device, "seed": seed, "solver": args.solver}
    given = {**plain, **(QUICK if args.quick else {}), "backbone": backbone}
    return plan.resolved(plan.configured(problem, given), problem)


def trained(args: argparse.Namespace, name: str, problem, backbone: dict, seed: int, steps: int | None = None) -> Run:
    """The run of this name below --runs, finished; one that starts has so many steps, or fills --minutes."""
    quick = "-quick" if args.quick else ""
    path = args.runs / f"{name}-{Path(args.solver).stem}{quick}-seed{seed}.h5"
    config = configured(args, problem, backbone, seed)
    run = settled(path, problem, config, 60 * args.minutes, steps=8 if args.quick else steps)
    print(f"{path.stem}: {run.rel_l2:.3g} after {run.attrs['steps']} steps", flush=True)
    return run
