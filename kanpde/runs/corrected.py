"""A run corrected: a second network that learns what is left of the equation, beside the first one."""

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from kanpde.config import assign, merge, validate
from kanpde.config.trees import rescale
from kanpde.domains.base import drawn_in
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.system import networks
from kanpde.problems.base import Problem, own
from kanpde.records.lock import Lock
from kanpde.runs.api import begin
from kanpde.runs.models import Run, opened
from kanpde.training.loop import Callback
from kanpde.training.plan import Plan, without_ladder

POINTS = 2048  # at which a correction is held against what it corrects


@torch.inference_mode(False)
@torch.enable_grad()
def correct(
    run: str | Path | Run,
    *,
    steps: int | None = None,
    out: str | Path | None = None,
    trust: bool = False,
    problem: Problem | None = None,
    on_step: Callback | None = None,
    on_evaluation: Callback | None = None,
    **overrides: Any,
) -> Run:
    r"""Train a second network on the defect of a run; the new run is of their sum.

    .. math:: u_2 = h + m (p + f_1 + s f_2)

    f_1 stays as it is, p is solved for anew where there is a polynomial that is solved for, and f_2 begins at zero in
    units s of the residual that is left. Corrections can be corrected again.

    Args:
        run: a result file or run, whose kept weights are f_1.
        steps: of the new one; None: as many as the run had.
        out: the result file; default a new one beside that of the run.
        trust, problem: as of `Run.load_model`.
        overrides: keys of the configuration that are to differ, as of `train`.
    Raises:
        ConfigError: of this run there is no such correction; the line says why.

    Source: multi-stage networks (Wang and Lai 2024, J. Comput. Phys. 504), here on the exact jet.
    """
    if not isinstance(run, str | Path | Run):
        raise ConfigError(f"correct: given a {type(run).__name__}, needed is a run or its file")
    run = run if isinstance(run, Run) else Run.open(run)
    plan, path = corrected(run, steps, (), trust, problem, overrides)
    second = begin(plan, out or path, on_step, on_evaluation)
    compare(run, second, trust, problem)
    return second


def compare(former: Run, second: Run, trust: bool = False, problem: Problem | None = None) -> None:
    """Into the file of a correction by how much it has changed u, in relative l2 over points of the law.

    The attribute `former_rel_l2` is an estimate of the error of the former run, for equations of any kind, as good as
    the validation loss has fallen, from `former_validation`: where it has hardly, it says nothing.
    """
    u, v = (run.load_model(trust=trust, problem=problem) for run in (former, second))
    domain, law = u.problem.domain, str(former.attrs["law"])
    x = domain.interior(POINTS, stream(0, "correction"), law, dtype=drawn_in(domain)).to(u.like)
    with torch.no_grad():
        changed, now = u(x) - v(x), v(x)
    second.attrs["former_rel_l2"] = (changed.norm() / now.norm()).item()
    second.attrs["former_validation"] = float(former.attrs.get("validation_best", float("nan")))
    with Lock(second.path).take():
        second.save()


def said(second: Run) -> str:
    """A line about that."""
    before, after = (float(second.attrs.get(name, float("nan"))) for name in ("former_validation", "validation_best"))
    by = f"{second.attrs['former_rel_l2']:.2e}"
    return f"it differs from the former by {by}, an estimate of its error; validation loss {before:.2e} -> {after:.2e}"


def corrected(
    run: Run,
    steps: int | None = None,
    sets: Sequence[str] = (),
    trust: bool = False,
    problem: Problem | None = None,
    overrides: Mapping = MappingProxyType({}),
) -> tuple[Plan, Path]:
    """The plan of a correction, with f_1 in it, and a new file beside that of the run."""
    former, u = opened(run, trust, problem=problem)
    _check(run, former)
    config = former.config
    stage = {"backbone": config.backbone, "start": config.start}
    climbs = without_ladder(config.model_copy(update={"start_from": None}), former.problem) is None
    changes = {"stages": [*config.stages, stage], "start": "ladder" if climbs else "network", "start_from": None}
    changes["seed"] = config.seed + 1
    tree = merge(config.model_dump(mode="json"), changes | dict(overrides))
    for assignment in sets:
        assign(tree, assignment)
    config = validate(tree, solver=None)
    if steps is not None and not (isinstance(steps, int) and steps >= 1):
        raise ConfigError(f"steps: given {steps}, needed is a number of at least 1")
    if steps is not None:
        config = config.model_copy(update={"phases": rescale(config.phases, steps)})
    plan = Plan.of(config, own(former.problem), stored=True)
    for net, known in zip(plan.net.nets, networks(u.net), strict=False):
        net.load_state_dict(known.state_dict())
    return plan, _beside(run.path)


def _beside(path: Path) -> Path:
    """run-corrected.h5, or the first of run-corrected-2.h5 and so on that is free."""
    names = (path.with_name(f"{path.stem}-corrected{'' if k == 1 else f'-{k}'}.h5") for k in count(1))
    return next(name for name in names if not name.exists() and not name.with_suffix(".pt").exists())


def _check(run: Run, plan: Plan) -> None:
    """Raises ConfigError where there is no such correction."""
    if run.attrs["fits"]:
        raise ConfigError(f"{run.path}: a fit has no equation that says what is left; train a larger network")
    if plan.config.slabs is not None:
        raise ConfigError(f"{run.path}: a run in slabs of time; corrections are of one network for all times")
    if len(plan.problem.fields) > 1:
        raise ConfigError(f"{run.path}: a system of {len(plan.problem.fields)} fields; corrections are of one field")
    if plan.problem.reads.grad_sq:
        raise ConfigError(f"{run.path}: the equation reads |grad u|^2, which a sum of networks does not give")
