"""The console script `kanpde`, a command a function; what they do is the library's."""

import os
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kanpde.config import load
from kanpde.ground.errors import ConfigError
from kanpde.records import columns
from kanpde.records.run import replacing
from kanpde.records.sweep import Sweep
from kanpde.runs.models import Run
from kanpde.solve import INTERRUPTED, console, run_app, run_plan, solve
from kanpde.training.training import RunFailed
from kanpde.users.listing import members_in, shipped

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Solve high-dimensional PDEs with Kolmogorov-Arnold networks.",
)
app.command()(solve)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A result file (.h5), or the folder of a sweep.")],
    folder: Annotated[Path | None, typer.Option(help="Where the pictures go; default beside the result file.")] = None,
) -> None:
    """Draw the pictures of a run, as far as it has the data, and write files for ParaView.

    Of a sweep, sweep.png: learning curves against step and time, with bands over the seeds.

    Convergence; u, u* and the error in the problem's coordinates, at several times, of a system for each field; the
    error against |x| and its quantiles; a volume cut open and a surface. ParaView opens -domain.vtu, with time
    -domain.pvd.
    """
    from kanpde.plot import plot_run, plot_sweep

    draw, opened = (plot_sweep, Sweep.open(run)) if os.path.isdir(run) else (plot_run, Run.open(run))
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RuntimeWarning)
            paths = draw(opened, folder)
    except OSError as error:
        raise ConfigError(f"{folder or run.parent}: pictures cannot be written ({error.strerror or error})") from None
    for warning in said:
        print(f"kanpde: {warning.message}", file=sys.stderr)
    for path in paths:
        console.print(str(path))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A result file (.h5), or a folder of them, such as that of a sweep.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; default <run>-report.html beside it, report.html in a folder.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow what goes on: until it has ended, or Ctrl-C.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Write a page on a run, one HTML file that needs nothing beside it and no network.

    What was solved, how wrong it is with its error bar and floors, the start, learning curves, the field, also to be
    turned (extra `report`), equations and conditions, settings, time, memory, environment, how to cite and to repeat
    it. Of a folder a table with a section for each run, of a sweep its groups too.

    With --watch the page is written anew whenever a result has changed, and loads itself again.
    """
    from kanpde import report as pages

    say = Console(quiet=True) if quiet else console
    if not watch:
        say.print(f"page      {pages.report(run, out)}")
        return
    shown: list[Path] = []

    def tell(page: Path) -> None:
        if not shown:
            say.print(f"page      {page}; Ctrl-C ends watching, not the run")
        shown.append(page)

    try:
        page = pages.watch(run, out, on_page=tell)
    except KeyboardInterrupt:
        say.print("interrupted; the page stays as it is")
        raise SystemExit(INTERRUPTED) from None
    say.print(f"page      {page}, after the end")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A result file (.h5).")],
    out: Annotated[Path, typer.Option(help="A new file: .pt2, .onnx, .py, .c; of vtk .vtu, with several times .pvd.")],
    style: Annotated[
        Literal["torch", "aoti", "onnx", "numpy", "c", "vtk"],
        typer.Option("--format", help="torch, aoti, onnx, numpy, c or vtk."),
    ] = "torch",
    trust: Annotated[bool, typer.Option("--trust", help="Execute the problem's source kept in the run.")] = False,
) -> None:
    """Write the function u of a run for programs that do not know kanpde: value, gradient and Laplacian in float64.

    torch: a program of torch.export; aoti: that compiled for this machine; onnx: a model for onnxruntime (extra
    `export`); numpy: a Python file; c: a C99 file. Hard constraint and all fields included. vtk: the values on the
    domain's mesh, for ParaView.
    """
    from kanpde.export import export as exported

    for path in exported(run, out, style, trust):
        console.print(str(path))


@app.command()
def verify(
    run: Annotated[Path, typer.Argument(help="A result file (.h5).")],
    points: Annotated[int | None, typer.Option(min=2, help="How many; default as many as it takes.")] = None,
    seconds: Annotated[float, typer.Option(help="That it may take, about.")] = 60,
    rel: Annotated[float, typer.Option(help="Half the width of the interval, relative to the error.")] = 0.1,
    confidence: Annotated[float, typer.Option(help="Of the interval.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of points and samples.")] = 0,
    picture: Annotated[bool, typer.Option("--picture", help="Draw the estimated error on a plane instead.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Execute the problem's source kept in the run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Estimate the error of a run without knowing the solution, from its residual; write it into the result file.

    The same command again goes on with the samples that the file holds. Ctrl-C ends it with those so far.
    """
    from kanpde.runs.verified import verified_slice
    from kanpde.runs.verified import verify as verified
    from kanpde.verification import NotVerifiable

    def show(interval, samples: int, spent: float) -> None:
        if not quiet:
            line = f"{interval.value:.2e}  {interval.low:.2e} to {interval.high:.2e}"
            console.print(f"{spent:5.1f} s  {samples:9,} samples  {line}")

    opened = Run.open(run)
    if picture:
        from kanpde.plot import slice_2d, write

        verified_slice(opened, seconds, rel, trust, show)
        for path in write(opened, None, {"slice-estimated": slice_2d(opened, "estimated")}):
            console.print(f"picture   {path}")
        return
    options = {"seconds": seconds, "rel": rel, "confidence": confidence, "seed": seed, "trust": trust}
    try:
        found = verified(opened, points, on_round=show, **options)
    except NotVerifiable as error:
        corrects = not (opened.attrs.get("fits") or len(opened.fields) > 1 or opened.config.get("slabs"))
        hint = "; kanpde correct estimates the error by a second network" if corrects else ""
        raise ConfigError(f"not verified: {error}{hint}") from None
    if not quiet:
        console.print(f"estimated {found}, {found.method}")
        if opened.rel_l2 == opened.rel_l2:
            console.print(f"error     {opened.rel_l2:.2e} on the test points, by the exact solution")


@app.command()
def correct(
    run: Annotated[Path, typer.Argument(help="A result file (.h5).")],
    at: Annotated[
        Path | None, typer.Option(help="CSV or NPZ with the coordinates: write corrected values there, train nothing.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the second network; default as many as the run had.")] = None,
    seconds: Annotated[float, typer.Option(help="With --at: that it may take, about.")] = 60,
    rel: Annotated[float, typer.Option(help="With --at: standard error, relative to the error.")] = 0.1,
    out: Annotated[
        Path | None, typer.Option(help="Result file; with --at the CSV to write. Default beside what is given.")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any value of the new run: a.b=c.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Execute the problem's source kept in the run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Correct a run: train a second network on what is left of the equation; or, with --at, write u - e at points."""
    opened = Run.open(run)
    if at is None:
        from kanpde.runs.corrected import compare, corrected, said

        plan, path = corrected(opened, steps, sets or [], trust)
        say = Console(quiet=True) if quiet else console
        second = run_plan(say, plan, out or path, None)
        compare(opened, second, trust)
        say.print(f"correction {said(second)}")
        return
    from kanpde.runs.verified import verified_table

    out = out or at.with_name(f"{at.stem}-corrected.csv")
    if out.exists():
        raise ConfigError(f"--out {out}: the file exists; choose another name")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    table, found = verified_table(opened, at, seconds=seconds, rel=rel, trust=trust)
    with replacing(out) as temporary:
        columns.write(temporary, table)
    if not quiet:
        console.print(f"{len(found.u):,} rows written to {out}; error of u {found}, {found.method}")
    if found.high == float("inf"):
        print("kanpde: the error is too large for a correction that is linear in it", file=sys.stderr)


@app.command()
def rerun(
    run: Annotated[Path, typer.Argument(help="A result file (.h5).")],
    out: Annotated[Path | None, typer.Option(help="Keep the second result there (.h5); default nowhere.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Execute the sources kept in the run, not the files.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Train a run again from what its file holds, and say whether the history is the same bit for bit.

    Exit code 1: it is not; the line says from which step on, and what is no longer as it was: torch, threads, device.
    """
    from kanpde.runs.rerun import rerun as repeated

    say = Console(quiet=True) if quiet else console
    show = lambda state: say.print(f"step {state.step}/{state.steps}  loss {state.loss:.2e}")
    found = repeated(run, out, trust=trust, on_evaluation=show)
    say.print(f"{run}: {found}")
    if found.first is not None:
        raise SystemExit(1)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Result files (.h5), or folders of sweeps.")],
    style: Annotated[
        Literal["table", "markdown", "csv"], typer.Option("--format", help="table, markdown or csv.")
    ] = "table",
) -> None:
    """Compare runs in a table: error, skill against the constant floor, parameters, time, memory.

    Of the folder of a sweep, mean ± sample standard deviation over the seeds of each combination of the other keys.
    """
    from kanpde.records import compare as comparison
    from kanpde.records import sweep as of_sweeps

    for folder in (path for path in runs if os.path.isdir(path)):
        opened = of_sweeps.Sweep.open(folder)
        if style == "table":
            console.print(of_sweeps.rich_table(opened))
        else:
            print(of_sweeps.table(opened, style), end="")
    rows = [comparison.summary(Run.open(path)) for path in runs if not os.path.isdir(path)]
    if rows and style == "table":
        console.print(comparison.rich_table(rows))
    elif rows:
        print(comparison.table(rows, style), end="")


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A result file (.h5).")],
    table: Annotated[Path, typer.Argument(help="CSV or NPZ with the columns of the inputs.")],
    out: Annotated[Path | None, typer.Option(help="CSV to write; default <table>-predicted.csv.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Execute the problem's source kept in the run.")] = False,
) -> None:
    """Write the rows of a table with the prediction of a trained model beside them."""
    from kanpde.runs.predict import predict as predicted

    out = out or table.with_name(f"{table.stem}-predicted.csv")
    if out.exists():
        raise ConfigError(f"--out {out}: the file exists; choose another name")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    opened = Run.open(run)
    found, off_range = predicted(opened, table, trust)
    with replacing(out) as temporary:
        columns.write(temporary, found)
    rows = len(next(iter(found.values())))
    names = ", ".join(list(found)[-len(opened.fields) :])
    console.print(f"{rows:,} rows, {names} written to {out}")
    if off_range:
        where = "the range of the training rows" if opened.attrs["fits"] else "the domain of the problem"
        share = f"{off_range:.1%} of the rows lie outside {where}"
        print(f"kanpde: {share} ({round(off_range * rows):,} of {rows:,})", file=sys.stderr)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A result file (.h5).")],
    other: Annotated[Path | None, typer.Option(help="Another run whose edges are compared with these.")] = None,
    prune: Annotated[bool, typer.Option(help="Take out what hardly matters.")] = True,
    symbolic: Annotated[bool, typer.Option(help="Look for formulas.")] = True,
    choose: Annotated[
        list[str] | None, typer.Option(help="Function of an edge LAYER,INPUT,OUTPUT from 0 on: 0,1,0=sin.")
    ] = None,
    r2: Annotated[float, typer.Option(help="Share of the variance of an edge that its formula explains.")] = 0.95,
    tolerance: Annotated[float, typer.Option(help="Factor by which the error may grow.")] = 1.5,
    points: Annotated[int, typer.Option(help="Of the sample; of a fit, training rows.")] = 1000,
    seconds: Annotated[float, typer.Option(help="Most that pruning and the search for formulas take.")] = 120,
    search: Annotated[
        float, typer.Option(help="Seconds for a formula of u by its equation, where the edges have no exact one.")
    ] = 0,
    folder: Annotated[Path | None, typer.Option(help="Where the files go; default beside the result file.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Execute the problem's source kept in the run.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Say what a KAN has learned: importance of inputs, pruning, formulas, how alike its edges are; with pictures.

    Of a PDE the formula is put into the equation and the conditions: exact, bounded, or not a solution.
    """
    from kanpde.explain import explain as explained

    say = lambda what: None if quiet else console.print(what)
    options = {"prune": prune, "symbolic": symbolic, "choose": _choices(choose or []), "r2": r2, "tolerance": tolerance}
    options |= {"points": points, "seconds": seconds, "search": search, "folder": folder, "trust": trust}
    opened = Run.open(run)
    try:
        found = explained(opened, other=Run.open(other) if other else None, **options, say=say)
    except OSError as error:
        raise ConfigError(f"{folder or run.parent}: files cannot be written ({error.strerror or error})") from None
    for path in found.files:
        say(str(path))


def _choices(words: list[str]) -> dict[tuple[int, int, int], str]:
    """{(0, 1, 0): "sin"} of 0,1,0=sin."""
    found = {}
    for word in words:
        match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*=\s*(\S+)\s*", word)
        if not match:
            raise ConfigError(f"--choose {word}: needed is LAYER,INPUT,OUTPUT=FUNCTION from 0 on, such as 0,1,0=sin")
        layer, i, o, name = match.groups()
        found[int(layer), int(i), int(o)] = name
    return found


@app.command()
def recover(
    problem: Annotated[str, typer.Argument(help="YAML file of a fit, or a shipped name such as feynman or data.")],
    seconds: Annotated[float, typer.Option(help="That the search may take.")] = 60,
    seed: Annotated[int, typer.Option(help="Of the networks of the search.")] = 0,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any value: a.b=c.")] = None,
) -> None:
    """Search a formula for the rows of a fit: every better one as it is found, then the best, with its test error.

    Ctrl-C ends the search with the best so far, and exit code 130.
    """
    from kanpde.interpret import latex, text
    from kanpde.recover.search import search

    show = lambda formula, error: console.print(f"{error:.1e}  {text(formula)}")
    found, test_error, interrupted = search(load(problem, None, {"seed": seed}, sets or []), seconds, show)
    if found.formula is None:
        console.print(f"no formula in {found.seconds:.0f} s")
    else:
        console.print(f"formula     {text(found.formula)}")
        console.print(f"LaTeX       {latex(found.formula)}")
        console.print(f"relative l2 {test_error:.2e} on the test rows, after {found.seconds:.1f} s")
    if interrupted:
        console.print("interrupted" + (": that is the best so far" if found.formula is not None else ""))
        raise SystemExit(INTERRUPTED)


@app.command()
def folds(
    problem: Annotated[str, typer.Argument(help="YAML file of a problem that reads a table, or data.")],
    k: Annotated[int, typer.Option("--folds", min=2, help="How many parts of the rows.")] = 5,
    backbone: Annotated[str | None, typer.Option(help="Network (backbone.name).")] = None,
    solver: Annotated[str | None, typer.Option(help="YAML file, or shipped.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser updates in all.")] = None,
    out: Annotated[Path, typer.Option(help="Result files are <out>-fold0.h5, ...")] = Path("runs/folds"),
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any value: a.b=c.")] = None,
) -> None:
    """Cross-validate a fit of a table: the error on each of k parts of a model trained on the others.

    After Ctrl-C the same command goes on.
    """
    from kanpde.runs.folds import cross_validate, summary

    config = load(problem, solver, {"backbone": backbone} if backbone else None, sets or [], steps)
    show = lambda run: console.print(f"{run.path}  RMSE {run.attrs['rmse_best']:.4g}")
    try:
        found = summary(cross_validate(config, k, out, show))
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on")
        raise SystemExit(INTERRUPTED) from None
    for name, (mean, deviation) in found.items():
        console.print(f"{name:17}{mean:.6g} ± {deviation:.2g}")


@app.command()
def sweep(
    words: Annotated[list[str], typer.Argument(metavar="PROBLEM", help="YAML file, or a shipped name.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; the same command again goes on there.")],
    over: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUES ...", help="What varies: backbone=kan,metakan seed=0..4.")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="YAML file, or shipped.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser updates of each run.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any value of all runs: a.b=c.")] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster: auto, or host:port.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; default by cores and memory.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Begin a grid of more than 100 runs, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the runs; begin none.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Run a grid: each combination of the values is an ordinary run, <out>/<name>.h5, checkpoint and log beside it.

    VALUES are a list with commas, YAML each, or a range a..b with both ends; the problem's file may have them under
    `sweep`. Every run is checked before the first begins. The same command again leaves what is finished, goes on with
    what is not, and one with more values adds runs. Ctrl-C lets the runs store their state.

    Exit codes: 0 all finished, 1 some failed, 2 a bad call, 130 interrupted.
    """
    from kanpde.sweeps import engines, grid, running, shown

    say = Console(quiet=True) if quiet else console
    problem, over = _problem_and_over(words, over)
    base = grid.Base.of(problem, solver, steps, sets)
    planned, cells = grid.planned(base, grid.stated(problem, over), out, yes)
    if dry_run:
        say.print(shown.planned(cells))
        return
    if address is not None and engine == "local":
        raise ConfigError(f"--address {address}: it is that of a Ray cluster; say --engine ray")
    left = [cell for cell in cells if not cell.ended]
    at = engines.Local(left, jobs) if engine == "local" else engines.Cluster(left, jobs, address)
    try:
        with running.held(out):
            planned.save()
            say.print(f"{len(cells)} runs, {len(cells) - len(left)} of them finished; {at}")
            with shown.Shown(say, cells) as tell:
                running.work(cells, at, tell)
    except KeyboardInterrupt:
        say.print(shown.table(cells))
        say.print("interrupted; the same command goes on")
        raise SystemExit(INTERRUPTED) from None
    finally:
        at.close()
    say.print(shown.table(cells))
    if not all(cell.state == "finished" for cell in cells):
        say.print("the same command tries those again that have no result")
        raise SystemExit(1)


@app.command()
def tune(
    words: Annotated[list[str], typer.Argument(metavar="PROBLEM", help="YAML file, or a shipped name.")],
    out: Annotated[Path, typer.Option(help="Folder of the search; the same command again goes on there.")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUES ...", help="What is searched: phases.0.lr=1e-4..1e-2:log backbone=kan,fastkan."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="In all, those of former calls included.")] = 30,
    minutes: Annotated[float | None, typer.Option(min=0, help="That this call may take.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search; that of the training is --set seed=1.")] = 0,
    solver: Annotated[str | None, typer.Option(help="YAML file, or shipped.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser updates of each trial.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Any value of all trials: a.b=c.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Search settings with a budget by Optuna: the least loss at held-out points, never by the exact solution.

    VALUES are a..b, numbers between with a logarithm as a..b:log, or a list with commas. The best settings are printed
    as YAML, and <out>/best.yaml is a file for `kanpde solve`. A trial that is worse than the median of those before it
    is given up. Ctrl-C stores the state; the same command goes on.
    """
    from kanpde.sweeps import running
    from kanpde.sweeps.grid import Base
    from kanpde.sweeps.tune import Search, check, space
    from kanpde.sweeps.values import keyed

    say = Console(quiet=True) if quiet else console
    problem, over = _problem_and_over(words, over)
    base, searched = Base.of(problem, solver, steps, sets), space(over)
    check(base, searched)
    search = Search(base, searched, keyed(over), out, seed)

    def tell(trial, run) -> None:
        values = ", ".join(
            f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in trial.params.items()
        )
        loss = "" if trial.value is None else f" {trial.value:.3e}"
        reason = f": {trial.user_attrs['reason']}" if "reason" in trial.user_attrs else ""
        say.print(f"trial {trial.number} {trial.state.name.lower()}{loss}  {values}{reason}")

    with running.held(out):
        study = search.study()
        interrupted = False
        try:
            search.run(study, trials, 60 * minutes if minutes is not None else float("inf"), tell)
        except KeyboardInterrupt:
            interrupted = True
    if best := search.best(study):
        say.print(f"best of {len(study.trials)} trials, held-out loss {study.best_value:.3e}:")
        say.print(yaml.safe_dump(best, sort_keys=False, default_flow_style=None).rstrip())
        say.print(f"settings  {out / 'best.yaml'}")
    if interrupted:
        say.print("interrupted; the same command goes on")
        raise SystemExit(INTERRUPTED)
    if not best:
        raise RunFailed(f"no trial has ended with a loss; {out} has their files")


def _problem_and_over(words: list[str], over: list[str] | None) -> tuple[str, list[str]]:
    """The problem, and all KEY=VALUES: those behind the first of an --over come as words of their own."""
    problems = [word for word in words if "=" not in word or os.path.isfile(word)]
    if len(problems) != 1:
        given = f"given {', '.join(problems)}" if problems else "none is given"
        raise ConfigError(f"needed is one problem, {given}; what varies is KEY=VALUES, without spaces or in quotes")
    return problems[0], [*(over or []), *(word for word in words if word not in problems)]


@app.command()
def doctor() -> None:
    """Say what is installed here, and whether it computes what it should; the exit code is 1 where something is wrong.

    Versions of all packages and what they need to be, the machine, and checks of some seconds: derivatives, a run
    with its file, a picture. What is known of versions that do not go together is in docs/compatibility.md.
    """
    from kanpde.doctor import examined

    lines = examined()
    table = Table(show_header=False, box=None)
    for about in dict.fromkeys(line.about for line in lines):
        table.add_row(Text(about, "bold"), "", "")
        for line in (line for line in lines if line.about == about):
            table.add_row(f"  {line.name}", line.state, line.says)
    console.print(table)
    if any(line.state == "wrong" for line in lines):
        raise SystemExit(1)


@app.command(name="list")
def list_(
    file: Annotated[Path | None, typer.Argument(help="A file of one's own whose members are shown instead.")] = None,
) -> None:
    """Show the problems, backbones, bases, operators, optimisers and solvers, a line each."""
    sections = shipped() if file is None else members_in(str(file))
    table = Table(show_header=False, box=None)
    for title, members in sections.items():
        table.add_row(Text(title, "bold"), "")
        for name, line in members.items():
            table.add_row(f"  {name}", line)
    console.print(table)


def main() -> None:
    """The console script."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    run_app(app)


if __name__ == "__main__":
    main()
