"""What a page says of a run: words, tables and pictures, from its file and the formula beside it, if there is one."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kanpde.plot import (
    Picture,
    beside_floors,
    flat_slices,
    main_figures,
    other_figures,
    picture,
    rotatable,
)
from kanpde.records.live import is_held
from kanpde.records.run import RunFile, RunFileError
from kanpde.runs import facts, summary
from kanpde.runs.sessions import sessions

SHOWN = {  # the headings of pictures, by the names of their files
    "convergence": "Loss and error against the step",
    "epochs": "Loss and accuracy against the epoch",
    "error": "The field, and how wrong it is",
    "times": "The field at several times",
    "by-time": "Error against time",
    "parity": "Predicted against true values",
    "radial": "Error against the distance to the centre",
    "quantiles": "How the error is distributed",
}
CURVES = ("convergence", "epochs")
MOST, LONGEST = 50, 2000  # lines, and letters of one, of a formula
STATES = {
    "finished": "finished",
    "running": "running",
    "interrupted": "interrupted: it can be gone on with",
    "failed": "failed",
    "diverged": "diverged: it ended worse than it began",
}
DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)  # of what no run has written


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first column names its row, and numbers are in the others."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Contents:
    """A page on a run.

    Attributes:
        status: one of `STATES`, or broken off: a run that nobody writes any more.
        done: its steps, and how many there are to be; None: it is not known.
        view: the figure that can be turned; None: there is none.
        curves, fields: pictures, with their headings.
    """

    run: RunFile
    name: str
    heading: str
    equation: str
    status: str
    state: str
    done: tuple[int, int] | None
    errors: facts.Rows
    remarks: list[str]
    costs: facts.Rows
    settings: facts.Rows
    tables: list[Table]
    environment: list[Table]
    curves: list[tuple[str, Picture]]
    fields: list[tuple[str, Picture]]
    standing: Picture | None
    view: dict[str, Any] | None
    config: str
    cite: str
    commands: list[tuple[str, str]]

    @property
    def goes_on(self) -> bool:
        return self.status == "running"


def contents(run: RunFile, brief: bool = False) -> Contents:
    """All that a page has of a run; `brief` leaves out fields and the view, for a page of many runs.

    Raises:
        RunFileError: the file holds what no run has written.
    """
    try:
        return _contents(run, brief)
    except RunFileError:
        raise
    except DAMAGE as error:
        raise RunFileError(f"{run.path}: a damaged kanpde result ({error})") from None


def _contents(run: RunFile, brief: bool) -> Contents:
    status = state_of(run)
    figures = main_figures(run) if len(run.history.get("step", run.history.get("epoch", ()))) else {}
    shown = {**figures, **({} if brief else other_figures(run))}
    made = {name: picture(name, figure) for name, figure in shown.items() if not brief or name in CURVES}
    titled = [(_heading(name), each) for name, each in made.items()]
    return Contents(
        run=run,
        name=run.path.stem,
        heading=facts.heading(run),
        equation=str(run.attrs.get("title", "")),
        status=status,
        state=STATES.get(status, "broken off: no process writes it any more, and it can be gone on with"),
        done=_done(run),
        errors=facts.errors(run),
        remarks=facts.remarks(run),
        costs=facts.costs(run),
        settings=facts.settings(run),
        tables=[t for t in (_formula(run), _floors(run), *_left(run), _unknowns(run), _ladder(run)) if t],
        environment=[table for table in (_environment(run), _retreats(run)) if table],
        curves=[each for each in titled if each[1].name in CURVES],
        fields=[each for each in titled if each[1].name not in CURVES],
        standing=_standing(run),
        view=None if brief else rotatable(run, flat_slices(run)),
        config=yaml.safe_dump(run.config, sort_keys=False, default_flow_style=None, width=100).rstrip(),
        cite=citation(run),
        commands=_commands(run),
    )


def state_of(run: RunFile) -> str:
    """The status of a file; of a run that says that it goes on and that nobody writes, broken."""
    status = str(run.attrs.get("status", "running"))
    return "broken" if status == "running" and not is_held(run.path) else status


def _heading(name: str) -> str:
    """Of slice-volume-v: the slice volume, v."""
    first, _, rest = name.partition("-")
    if name in SHOWN:
        return SHOWN[name]
    return f"{SHOWN.get(first, first.capitalize())}: {rest}"


def _done(run: RunFile) -> tuple[int, int] | None:
    steps, phases = run.history.get("step", ()), run.config.get("phases")
    return (int(steps[-1]), sum(int(phase["steps"]) for phase in phases)) if len(steps) and phases else None


def _standing(run: RunFile) -> Picture | None:
    if not run.floors or len(run.fields) > 1 or not (run.verification or run.rel_l2 > 0):
        return None
    return picture("floors", beside_floors(run), "The error and its interval on one axis with its floors")


def _formula(run: RunFile) -> Table | None:
    """The formula that `kanpde explain` has found, and what is proved of it."""
    try:
        lines = run.path.with_name(f"{run.path.stem}-solution.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    note = "By kanpde explain: the formula in the equation and the conditions, the verdict in the last line."
    rows = [(line[:LONGEST],) for line in lines[:MOST]]
    return Table("The solution as a formula", ("formula, equations and conditions",), rows, note) if rows else None


def _floors(run: RunFile) -> Table | None:
    """Each floor, and the error over it."""
    rows = []
    for field, view in run.views().items():
        error = view.rel_l2 if math.isfinite(view.rel_l2) else run.verification.get("rel_l2", math.nan)
        for name, floor in view.floors.items():
            of = f"{field}: " if len(run.fields) > 1 else ""
            skill = f"{error / floor:.3g}" if floor > 0 and math.isfinite(error) else ""
            rows.append((of + name.replace("_", " "), f"{floor:.2e}", skill))
    note = "What functions reach that learn next to nothing, on the same points. A skill below 1 is better than that."
    return Table("Floors", ("function", "relative l2 error", "skill = error / floor"), rows, note) if rows else None


def _left(run: RunFile) -> Iterable[Table]:
    """What is left of each equation and condition, and what came out at the points of interest."""
    number = lambda value: f"{value:.2e}" if math.isfinite(value) else ""
    rows = [(name, *map(number, sizes)) for name, *sizes in summary.residuals(run)]
    if rows:
        head = ("equation or condition", "root mean square", "largest", "at the start", "largest at the start")
        note = "What is left of each, in the units it is written in, at points that training has not seen."
        if run.attrs.get("conditions"):
            note += f" Conditions are met {run.attrs['conditions']}."
        yield Table("Equations and conditions", head, rows, note)
    rows = [(name, f"{u:.6g}", number(known), number(apart)) for name, u, known, apart in summary.interest(run)]
    if rows:
        yield Table("Points of interest", ("point", "value", "published", "difference"), rows)


def _unknowns(run: RunFile) -> Table | None:
    if not any(name.startswith(summary.UNKNOWN) for name in run.history):
        return None
    errors = summary.standard_errors(run)
    rows = [
        (name, f"{value:.6g}", f"{errors[name]:.2g}" if name in errors else "", f"{start:.6g}")
        for name, (start, value) in summary.unknowns(run).items()
    ]
    return Table("Unknowns of the equation", ("unknown", "found", "standard error", "at the start"), rows)


def _ladder(run: RunFile) -> Table | None:
    """The rungs of a start in closed form."""
    if "start_rungs" not in run.attrs:
        return None
    number = lambda value: f"{value:.2e}" if value is not None and math.isfinite(value) else ""
    rows = [
        (
            ": ".join(filter(None, (str(rung["rung"]), str(rung["says"])))),
            f"{rung['numbers']:,}",
            number(rung["validation"]),
            number(rung.get("rel_l2")),
            f"{rung['wall_s']:.1f}",
        )
        for rung in json.loads(run.attrs["start_rungs"])
    ]
    head = ("rung", "coefficients", "held-out loss", "relative l2 error", "after s")
    return Table("Start in closed form", head, rows, f"Training began from: {run.attrs['start']}.")


def _environment(run: RunFile) -> Table:
    """A row for each fact, a column for each session."""
    found = sessions(run)
    names = list(dict.fromkeys(name for each in found for name in each if name != "step"))
    rows = [(_fact(name), *(str(each.get(name, "")) for each in found)) for name in names]
    if "world_size" in run.attrs:
        backend = f", {run.attrs['backend']}" if run.attrs.get("backend") else ""
        rows.append(("processes", f"{run.attrs['world_size']}{backend}", *[""] * (len(found) - 1)))
    rows += [(name, str(run.attrs[name]), *[""] * (len(found) - 1)) for name in ("machine", "id") if name in run.attrs]
    return Table("Environment", ("", *(f"from step {each.get('step', 0):,}" for each in found)), rows)


def _fact(name: str) -> str:
    return {"git": "git commit", "cpu": "processor"}.get(name, name)


def _retreats(run: RunFile) -> Table | None:
    found = json.loads(run.attrs.get("retreats", "[]"))
    rows = [(f"{each['step']:,}", f"{each['to']:,}", str(each["why"])) for each in found]
    head = ("at step", "back to step", "why")
    return Table("Returns to the best state, each with half the rates", head, rows) if rows else None


def _commands(run: RunFile) -> list[tuple[str, str]]:
    """What to type, by what it is for."""
    path = run.path
    if run.attrs.get("kind") == "classification":
        return []
    ended = run.attrs.get("status") in ("finished", "diverged")
    go_on = [] if ended else [("Go on with it", f"kanpde solve --resume {path}")]
    return [
        *go_on,
        ("Train it again and compare bit for bit", f"kanpde rerun {path}"),
        ("The same from the configuration below, saved as a file", "kanpde solve config.yaml"),
    ]


def citation(run: RunFile) -> str:
    """BibTeX of kanpde in the version of the run, and of the method of its network."""
    version = sessions(run)[0].get("kanpde", "")
    entries = [_entry("software", "kanpde", author="{The kanpde developers}", title="{kanpde}", version=str(version))]
    network = str(run.attrs.get("backbone", run.attrs.get("model", "")))
    if network.startswith("meta"):
        title = "{Improving Memory Efficiency for Training KANs via Meta Learning}"
        where = "International Conference on Machine Learning"
        entries.append(_entry("inproceedings", "metakan", title=title, booktitle=where, year="2025"))
    return "\n\n".join(entries)


def _entry(kind: str, key: str, **fields: str) -> str:
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
    return f"@{kind}{{{key},\n{lines}}}"
