"""What a run says of itself as rows of words, for pages and notebooks: how wrong it is, how it was made, in what time.

Everything is read with care: older files, those of classifiers and of runs that have failed lack some of it.
"""

import html
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kanpde.runs import summary

if TYPE_CHECKING:
    from kanpde.records.run import RunFile

Rows = list[tuple[str, str]]
MIB = 2**20


def heading(run: "RunFile") -> str:
    """poisson, d = 3, kan; of a classifier its data set and model."""
    attrs = run.attrs
    dim = f"d = {run.dimension}" if "dim" in attrs else ""
    said = (attrs.get("problem", attrs.get("dataset", "")), dim, attrs.get("backbone", attrs.get("model", "")))
    return ", ".join(str(part) for part in said if part) or run.path.stem


def errors(run: "RunFile") -> Rows:
    """How wrong the run is, as it is estimated without a solution and as far as it is known; and what is said of it."""
    attrs, found, rows = run.attrs, run.verification, []
    if found:
        interval = f"{100 * found['confidence']:.3g} % interval {found['low']:.2e} to {found['high']:.2e}"
        how = f"{found['method']}, {found['seconds']:.0f} s; no solution is used"
        rows.append(("estimated relative l2 error", f"{found['rel_l2']:.3e}, {interval} ({how})"))
    elif why := attrs.get("not_verified"):
        rows.append(("not verified", str(why)))
    rows += _known(run)
    if error := best_skill(run):
        rows.append(("skill", error))
    if verdict := attrs.get("verdict"):
        rows.append(("equations and conditions", str(verdict)))
    return rows


def _known(run: "RunFile") -> Rows:
    attrs, rows = run.attrs, []
    for kind in ("test", "validation"):
        if _is_number(accuracy := attrs.get(f"{kind}_accuracy")):
            rows.append((f"{kind} accuracy", f"{accuracy:.2f} %"))
    if math.isfinite(run.rel_l2):
        points = f" on {attrs['test_points']:,} test points" if "test_points" in attrs else ""
        reference = f", against {attrs['reference']}" if attrs.get("reference") else ""
        rows.append(("relative l2 error", f"{run.rel_l2:.3e}{points}{reference}"))
        for name, view in run.views().items() if len(run.fields) > 1 else ():
            if math.isfinite(view.rel_l2):
                rows.append((f"of {name}", f"{view.rel_l2:.3e}"))
    if worst := summary.worst_time(run):
        rows.append(("worst time", f"{worst[1]:.3e} at t = {worst[0]:.4g}"))
    if attrs.get("fits") and "rmse_best" in attrs:
        rows.append(("root mean square error", f"{attrs['rmse_best']:.3e}"))
    return rows


def best_skill(run: "RunFile") -> str:
    """The error over the smallest floor of a run with one field; empty: either is not known."""
    floors = {name: value for name, value in run.floors.items() if 0 < value < math.inf}
    error = run.rel_l2 if math.isfinite(run.rel_l2) else run.verification.get("rel_l2", math.nan)
    if not floors or not math.isfinite(error) or len(run.fields) > 1:
        return ""
    name = min(floors, key=floors.__getitem__)
    return f"{error / floors[name]:.3g} times the smallest floor ({name.replace('_', ' ')}, {floors[name]:.2e})"


def remarks(run: "RunFile") -> list[str]:
    """What should be known of the run beside its numbers."""
    said = [str(run.attrs[name]) for name in ("message", "converged") if run.attrs.get(name)]
    if run.history.get("step") is not None and "backbone" in run.attrs:
        said += filter(None, (summary.off_grid(run), *summary.of_observations(run)))
    return said


def costs(run: "RunFile") -> Rows:
    """Time and memory, as the last row of the history has them."""
    last = {name: float(column[-1]) for name, column in run.history.items() if len(column)}
    rows: Rows = []
    known = lambda name: math.isfinite(last.get(name, math.nan))
    if known("wall_s"):
        rows.append(("time of training", summary.duration(last["wall_s"])))
    if known("step"):
        rows.append(("steps", f"{int(last['step']):,}"))
    if known("steps_per_s"):
        rows.append(("steps per second", f"{last['steps_per_s']:.3g}"))
    if run.verification:
        rows.append(("time of the verification", f"{run.verification['seconds']:.1f} s"))
    for name, label in (("peak_memory_bytes", "peak memory"), ("saved_memory_bytes", "kept for the backward pass")):
        if known(name):
            rows.append((label, f"{last[name] / MIB:,.3g} MiB"))
    for name in ("started", "finished"):
        if run.attrs.get(name):
            rows.append((name, str(run.attrs[name])))
    return rows


def settings(run: "RunFile") -> Rows:
    """What was chosen, in a few words; the whole of it is the configuration."""
    attrs = run.attrs
    rows: Rows = []
    if "parameters" in attrs:
        own = int(attrs.get("problem_parameters", 0))
        rows.append(("parameters", summary.parameters(int(attrs["parameters"]), own)))
    tree = run.config
    for label, key in (("network", "backbone"), ("operator", "operator")):
        if isinstance(tree.get(key), dict):
            rows.append((label, _said(tree[key])))
    if phases := tree.get("phases"):
        rows.append(("training", "; ".join(f"{p['steps']:,} steps of {p['optimizer']}" for p in phases)))
    if isinstance(points := tree.get("points"), dict):
        kinds = {kind: points.get(kind) for kind in ("interior", "boundary", "initial")}
        rows.append(("points of a step", ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n)))
    if attrs.get("conditions"):
        rows.append(("conditions are met", str(attrs["conditions"])))
    if slabs := tree.get("slabs"):
        said = (
            f"{slabs} equal ones" if isinstance(slabs, int) else f"to {', '.join(f'{end:g}' for end in slabs)}, and on"
        )
        rows.append(("slabs of time", said))
    for key in ("dtype", "seed"):
        if key in tree:
            rows.append((key, str(tree[key])))
    return rows


def _said(options: dict) -> str:
    rest = ", ".join(f"{key}={value}" for key, value in options.items() if key != "name" and value is not None)
    return f"{options.get('name', '')} ({rest})" if rest else str(options.get("name", ""))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def as_html(run: "RunFile") -> str:
    """A table for notebooks: what was solved, how wrong it is, its time and its file; all of it escaped."""
    rows: Iterable[tuple[str, str]] = [
        ("status", str(run.attrs.get("status", "not begun"))),
        *errors(run),
        *((label, value) for label, value in costs(run) if label in ("time of training", "steps", "peak memory")),
        ("result", str(Path(run.path))),
    ]
    title = html.escape(heading(run))
    equation = html.escape(str(run.attrs.get("title", "")))
    lines = "".join(
        f'<tr><th scope="row" style="text-align:left">{html.escape(label)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for label, value in rows
    )
    return f"<table><caption><b>{title}</b><br>{equation}</caption><tbody>{lines}</tbody></table>"
