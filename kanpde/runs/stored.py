"""The configuration of a run that there is: read, extended, and held against what is asked for."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from kanpde.config import RunConfig, assign, find, located, merge, validate
from kanpde.config.reading import read_yaml
from kanpde.ground.errors import ConfigError
from kanpde.problems import Problem
from kanpde.problems.base import own
from kanpde.records.run import RunFile
from kanpde.training.plan import Plan, of_fluxes, resolved
from kanpde.users.members import changed, enter, problem_of


def config_of(run: RunFile) -> RunConfig:
    """The complete configuration that a result file holds.

    Of older ones stop.error is what is stop.loss now, fluxes were left to the loss, and the flows in the corners of the
    cavity were not known.
    """
    tree = run.config
    if not run.attrs.get("fits"):
        tree.setdefault("fluxes", "loss")
    if tree["problem"].get("name") == "cavity":
        tree["problem"].setdefault("corners", False)
    stop = tree.get("stop")
    if isinstance(stop, dict) and "error" in stop:
        stop["loss"] = stop.pop("error")
    return validate(tree, solver=None)


def extended(config: RunConfig, steps: int | None, stop: Mapping | None = None) -> RunConfig:
    """More steps lengthen the last phase; its schedule spans the new length. `stop` replaces criteria by name."""
    if stop is not None:
        config = validate(merge(config.model_dump(mode="json"), {"stop": stop}))
    if steps is None or steps == config.steps:
        return config
    if steps < config.steps:
        raise ConfigError(f"--steps: given {steps}, the run has {config.steps}; resuming can only extend it")
    if config.slabs is not None:
        raise ConfigError(
            f"--steps: given {steps}; a run in slabs of time has its {config.steps}, shared out among them"
        )
    *phases, last = config.phases
    last = last.model_copy(update={"steps": last.steps + steps - config.steps})
    return config.model_copy(update={"phases": [*phases, last]})


def agreeing(
    run: RunFile, problem_file: str | None, solver: str | None, flags: dict, sets: Sequence[str], steps: int | None
) -> Plan:
    """The plan to go on with a run, extended to `steps`; whatever else is given must be what the run has.

    Raises:
        ConfigError: something given differs; the message names it.
    """
    stored = config_of(run)
    given: dict = {}
    if solver is not None:
        given = merge(given, read_yaml(find("solvers", solver)))
    if problem_file is not None:
        given = merge(given, _agreeing_problem(find("problems", problem_file)))
    tree = merge(stored.model_dump(mode="json"), merge(given, flags))
    for assignment in sets:
        assign(tree, assignment)
    wanted = validate(located(tree, Path()), solver=None)
    if file := changed(stored, run.attrs):
        raise ConfigError(f"--resume: {file} has changed since the run; restore it, or start anew")
    enter(stored)
    problem = of_fluxes(wanted, own(problem_of(wanted.problem)), None)
    check_rows(run, problem)
    wanted = resolved(wanted, problem).model_copy(update={"units": wanted.units})  # files of before it have none
    check_same(wanted, stored, "--resume")
    longer = extended(stored, steps, wanted.stop.model_dump()).model_copy(
        update={"verify": wanted.verify, "log": wanted.log}
    )
    return Plan.of(longer, problem, stored=True)


def check_same(wanted: RunConfig, stored: RunConfig, label: str, length: bool = False) -> None:
    """Raises ConfigError where two resolved configurations differ, be it in what stops and ends them if `length`."""
    ours, theirs = (_leaves(c.model_dump(mode="json")) for c in (wanted, stored))
    for key in sorted(ours.keys() | theirs.keys()):
        of_length = key.endswith(".steps") or key.startswith("stop.") or key == "verify"
        beside = key == "log" or key.startswith("log.")
        if ours.get(key) != theirs.get(key) and not beside and (length or not of_length):
            raise ConfigError(f"{label}: {key}: given {ours.get(key)!r}, the run has {theirs.get(key)!r}")


def check_rows(run: RunFile, problem: Problem) -> None:
    """Raises ConfigError where the table of a fit is no longer the one that the run was trained on."""
    rows = problem.rows_sha256
    if run.attrs.get("rows_sha256", rows) != rows:
        raise ConfigError(f"--resume: {run.path} was trained on other rows; restore the table it fits, or start anew")


def check_reference(run: RunFile, plan: Plan) -> None:
    """A warning where the reference is no longer the one that former errors are against."""
    known = plan.known
    if known is not None and run.attrs.get("reference_sha256", known.sha256) != known.sha256:
        warnings.warn(f"reference {plan.config.reference.file}: it has changed since the run was begun", stacklevel=2)


def _agreeing_problem(path: Path) -> dict:
    """A problem's file, less its dimension, which --dim sets as a rule, its sweep, and its solver, which a run has."""
    tree = located(read_yaml(path), path.parent)
    for key in ("solver", "sweep"):
        tree.pop(key, None)
    if isinstance(tree.get("problem"), Mapping):
        tree["problem"] = {key: value for key, value in tree["problem"].items() if key != "dim"}
    return tree


def _leaves(tree, prefix: str = "") -> dict:
    if isinstance(tree, dict) and tree:
        items = tree.items()
    elif isinstance(tree, list) and any(isinstance(item, dict) for item in tree):
        items = enumerate(tree)
    else:
        return {prefix: tree}
    out: dict = {}
    for key, value in items:
        out |= _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return out
