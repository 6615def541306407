"""How wrong a run is, or any trained ansatz, without knowing the solution; results go into the file of the run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.problems.base import Problem
from kanpde.records import columns
from kanpde.records.lock import Lock
from kanpde.records.run import RunFile
from kanpde.runs.models import Run, opened
from kanpde.runs.predict import rows_for
from kanpde.training.training import WriteFailed
from kanpde.training.verifying import keep, kept_weights
from kanpde.verification import Interval, NotVerifiable, Verification, estimated

OnRound = Callable[[Interval, int, float], object]


@torch.inference_mode(False)
def verify(
    run: str | Path | Run | Ansatz,
    points: int | Tensor | None = None,
    *,
    seconds: float | None = 60.0,
    rel: float = 0.1,
    confidence: float = 0.95,
    seed: int = 0,
    law: str | None = None,
    trust: bool = False,
    net: nn.Module | None = None,
    problem: Problem | None = None,
    on_round: OnRound | None = None,
) -> Verification:
    r"""How far u is from the solution u* of its problem, by the residual alone.

    The defect e = u - u* satisfies a linear equation with the residual as its source, up to terms of second order in
    e, whose solution at a point is a mean over Brownian paths from there: `kanpde.verification.methods`. The same call
    again goes on with the samples that a run's file holds.

    Args:
        run: a result file or run, whose kept weights are verified and whose file gets the result; or an ansatz.
        points: how many, drawn by the law of the run, None: as many as it takes; or points (M, n_inputs) of your own,
            of which the file of a run is told nothing.
        seconds: at most, about; None: until `rel` is reached.
        rel: half the width of the interval, relative to the error, at which it is enough; at points of your own the
            standard error of the defect, relative to it, in the mean square.
        confidence: of the interval.
        seed: of points and samples.
        law: by which points are drawn; default that of the run, or the first of the domain.
        trust, net, problem: as of `Run.load_model`.
        on_round: called with the interval, the number of samples and the seconds so far.
    Raises:
        NotVerifiable: of this equation, domain or condition no method gives the defect; the line says why.
        ConfigError: the call does not fit.

    Example:
        >>> from kanpde import train
        >>> from kanpde.problems import Poisson
        >>> run = train(Poisson(3), backbone="kan", steps=100, out=getfixture("tmp_path") / "run.h5")
        >>> found = verify(run, rel=0.2)
        >>> abs(found.rel_l2 / run.rel_l2 - 1) < 0.3
        True
    """
    _check(points, seconds, rel, confidence)
    options = {"points": points, "seconds": seconds, "rel": rel, "confidence": confidence, "seed": seed}
    if isinstance(run, Ansatz):
        return estimated(run, law=law, on_round=on_round, **options)
    if not isinstance(run, str | Path | RunFile):
        raise ConfigError(f"verify: given a {type(run).__name__}, needed is a run, its file, or an Ansatz")
    run = run if isinstance(run, RunFile) else Run.open(run)
    if run.attrs.get("fits"):
        raise NotVerifiable(f"{run.path}: a fit has no equation; its error is that on rows it has not seen")
    _, u = opened(run, trust, net=net, problem=problem)
    if points is not None and not isinstance(points, int):
        return estimated(u, on_round=on_round, **options)
    of = kept_weights(run, seed, law, points)
    found = estimated(u, law=of["law"], former=former_of(run, of), on_round=on_round, **options)
    keep(run, found, of)
    _save(run)
    return found


def _check(points, seconds: float | None, rel: float, confidence: float) -> None:
    for name, value in (("seconds", seconds), ("rel", rel), ("confidence", confidence)):
        if not isinstance(value, int | float) and not (name == "seconds" and value is None):
            raise ConfigError(f"{name}: given {value!r:.40}, needed is a number")
    if isinstance(points, int) and points < 2:
        raise ConfigError(f"points: given {points}, needed are at least 2")
    if seconds is not None and not seconds > 0:
        raise ConfigError(f"seconds: given {seconds}, needed is a number above 0")
    if not 0 < rel:
        raise ConfigError(f"rel: given {rel}, needed is a number above 0")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence: given {confidence}, needed is a number between 0 and 1")


def former_of(run: RunFile, of: dict) -> Verification | None:
    """The verification that a run's file holds, if it is of the same weights and points."""
    held = run.verification
    if not held or any(held.get(name) != of.get(name) for name in ("seed", "law", "step", "points")):
        return None
    return Verification(**{name: held[name] for name in Verification.__dataclass_fields__})


def verified_table(
    run: Run, path: str | Path, seconds: float | None = 60.0, rel: float = 0.1, trust: bool = False
) -> tuple[columns.Columns, Verification]:
    """The columns of a file of points with u, u - e and the standard error of that beside them.

    Args:
        path: CSV or NPZ with the coordinates, as of `kanpde.runs.predict`.
        seconds, rel, trust: as of `verify`.
    Raises:
        ConfigError: a column or a number is missing, or points are not in the domain. NotVerifiable: as of `verify`.
    """
    u = run.load_model(trust=trust)
    table, x = rows_for(u, path)
    found = verify(u, x, seconds=seconds, rel=rel)
    new = {"u": found.u, "corrected": found.corrected, "standard_error": found.standard_error}
    return table | {f"{name}_" if name in table else name: column for name, column in new.items()}, found


PICTURE = 33  # points along an axis of an estimated slice, at most


def verified_slice(
    run: Run, seconds: float | None = 60.0, rel: float = 0.1, trust: bool = False, on_round: OnRound | None = None
) -> Verification:
    """The defect on the plane or line that stands for a run: the slice `estimated` of its file, which `plot` draws.

    Of every so many points of the run's first slice: `u_exact` is u - e there, `error` |e|, `standard_error` that of
    e, and `true_error` |u - u*| where u* is known.

    Raises:
        ConfigError: the run has no such slice. Otherwise as `verify`.
    """
    flat = [name for name, data in run.slices.items() if len(data["axes"]) <= 2 and name != "estimated"]
    if not flat:
        raise ConfigError(f"{run.path}: the run has no slice of one or two axes")
    data, u = run.slices[flat[0]], run.load_model(trust=trust)
    k, n = len(data["axes"]), data["u"].shape[0]
    every = (slice(None, None, -(-n // PICTURE)),) * k
    ticks = np.broadcast_to(data["grid"], (k, n))[:, every[0]]
    inside = np.isfinite(data["u"][every])
    grid = np.stack(np.meshgrid(*ticks, indexing="ij"), -1)[inside]
    x = torch.from_numpy(data["origin"] + grid @ data["axes"])
    within = u.problem.domain.contains(x).numpy()  # and not merely as near to the boundary as rounding
    inside[inside] = within
    found = verify(u, x[torch.from_numpy(within)], seconds=seconds, rel=rel, on_round=on_round)
    placed = {
        "u": found.u,
        "u_exact": found.corrected,
        "error": abs(found.defect),
        "standard_error": found.standard_error,
    }
    made = {key: data[key] for key in ("origin", "axes", "label", "axis_labels") if key in data} | {"grid": ticks}
    for name, values in placed.items():
        made[name] = np.full(inside.shape, np.nan)
        made[name][inside] = values
    if "error" in data:
        made["true_error"] = data["error"][every]
    run.set_slices({**run.slices, "estimated": made})
    _save(run)
    return found


def _save(run: Run) -> None:
    """Write the file of a run, unless its training does.

    Raises:
        Locked: another process writes it. WriteFailed: it has changed since it was read, or cannot be written.
    """
    if run.attrs.get("status") == "running":
        return
    try:
        with Lock(run.path).take():
            if Run.open(run.path).attrs.get("finished") != run.attrs.get("finished"):
                raise WriteFailed(f"{run.path}: the run has gone on since it was opened; the estimate is not kept")
            run.save()
    except OSError as error:
        raise WriteFailed(f"{run.path} cannot be written ({error.strerror or error})") from None
