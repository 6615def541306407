"""What a run without a known solution has left of its equations and conditions, in the units they are written in."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import has_rules
from kanpde.jets.system import networks
from kanpde.operators import Forward, Operator
from kanpde.problems.conditions import Observations
from kanpde.training.losses import Points
from kanpde.training.plan import Plan

LEARNED = 0.1  # of its size, what may be left of an equation or a condition that has been learned
NOISY = 2.0  # times the noise that is stated of observations, what may be left of them
Sizes = dict[str, dict[str, float]]  # by the name of an equation or condition: rms, largest, asked, noise


def remaining(u: Ansatz, operator: Operator, points: Points, at_once: int | None = None) -> Sizes:
    """Root mean square and largest of each residual and misfit at points, without scales and weights.

    `asked` is the root mean square of the values that a condition asks for; NaN: there are none. `noise` is that of
    observations. An equation whose
    operator only estimates it, and of which there is no exact one, is left out.
    """
    if not operator.exact:
        exact = all(map(has_rules, networks(u.net))) and not operator.draws(u.problem.reads)
        operator = Forward() if exact else None
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for kind, x in points.items():
        for part in x.split(at_once or len(x)):
            for name, pair in _left(u, operator, kind, part):
                found.setdefault(name, []).append(pair)
    for name, condition in u.problem.asked.items():
        if not condition.by_points:
            x = condition.points(u.problem, 0, stream(0, name, u.like.device), "", dtype=u.like.dtype)
            found[name] = [(condition.misfit(u.of(condition.field), x), torch.full((1,), float("nan")))]
    sizes = {name: _sizes(*map(torch.cat, zip(*parts, strict=True))) for name, parts in found.items()}
    return {name: {**each, "noise": noise_of(u.problem.asked.get(name))} for name, each in sizes.items()}


def measured(plan: Plan, u: Ansatz, points: Points, at_once: int | None) -> Sizes:
    """`remaining` of a run's u, with fewer points at a time where they do not fit."""
    of = partial(remaining, u, plan.operator, points)
    with torch.set_grad_enabled(plan.config.loss.gradient != "none"):  # as the loss at these points is
        try:
            return of(at_once)
        except torch.OutOfMemoryError:
            return of(1)


def noise_of(condition: Any) -> float:
    """What an observation is known up to; 0 of all else."""
    return float(condition.noise or 0.0) if isinstance(condition, Observations) else 0.0


def _left(u: Ansatz, operator: Operator | None, kind: str, x: Tensor) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """By name what is left at points, and the values asked for there."""
    problem, unknown = u.problem, x.new_full((1,), float("nan"))
    if condition := problem.asked.get(kind):
        size = noise_of(condition) or 1.0  # by which a misfit is divided
        values = condition.wanted(x)
        yield kind, (size * condition.misfit(u.of(condition.field), x), unknown if values is None else values)
    elif kind != "interior":
        values = getattr(problem, f"{kind}_value")(x)
        yield kind, (u(x) - values, torch.as_tensor(values).to(x).reshape(-1))
    elif operator is not None:
        generator = stream(0, "remaining", x.device)
        for name, r in problem.equations(operator.uncompiled()(u, x, generator=generator), x).items():
            yield name, (r, unknown)


def _sizes(r: Tensor, asked: Tensor) -> dict[str, float]:
    r, asked = r.detach().double(), asked.detach().double()
    of = lambda values: values.square().mean().sqrt().item()
    return {"rms": of(r), "largest": r.abs().max().item(), "asked": of(asked)}


# ---------------------------------------------------------------------------------------------------------------
# As a table, and as a verdict


def as_table(end: Sizes, start: Mapping[str, Any]) -> dict[str, list | np.ndarray]:
    """The columns of the group `residuals` at the end of a run, beside those at its start."""
    first = {name: i for i, name in enumerate(start.get("name", ()))}
    at_start = lambda name, key: start[key][first[name]] if name in first else float("nan")
    columns: dict[str, list | np.ndarray] = {"name": list(end)}
    for key in ("rms", "largest", "asked", "noise"):
        columns[key] = np.array([sizes[key] for sizes in end.values()])
    for key in ("rms_start", "largest_start"):
        columns[key] = np.array([at_start(name, key) for name in end])
    return columns


def at_start(sizes: Sizes) -> dict[str, list | np.ndarray]:
    """The columns of the group before the first step."""
    columns = {f"{key}_start": np.array([each[key] for each in sizes.values()]) for key in ("rms", "largest")}
    return {"name": list(sizes), **columns}


def verdict(table: Mapping[str, Any], from_nothing: bool) -> str:
    """Which equations and conditions have not been learned: of which more than `LEARNED` of their size is left.

    The size of a condition is that of the values asked for, where these are not zero; of all else it is what was left
    of the network as it was drawn, in a run that began `from_nothing`: of one that goes on from another it says little.
    Of observations as much may be left as `NOISY` times their noise.
    """
    found, judged = [], False
    columns: Sequence[Sequence] = [table[key] for key in ("name", "rms", "asked", "rms_start", "noise")]
    for name, rms, asked, start, noise in zip(*columns, strict=True):
        size, of = (asked, "of the values asked for") if asked > 0 else (start, "of its size at the start")
        if not size > 0 or (size is start and not from_nothing):
            continue
        judged = True
        if rms > max(LEARNED * size, NOISY * noise):
            found.append(f"{name} ({100 * rms / size:.3g} % {of})")
    if found:
        return f"not learned: {', '.join(found)}"
    return f"learned: less than {LEARNED:.0%} is left of each equation and condition" if judged else ""
