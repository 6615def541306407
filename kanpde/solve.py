"""python -m kanpde.solve PROBLEM.yaml: reads arguments, prints, and leaves the rest to the library."""

import errno
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from kanpde import backbones
from kanpde import config as configuration
from kanpde.config import RunConfig, dump
from kanpde.ground.errors import ConfigError, shown
from kanpde.ground.world import Lost, World, joined
from kanpde.jets.system import networks
from kanpde.kan.layers import KANLinear
from kanpde.records.run import RunFileError
from kanpde.runs import summary
from kanpde.runs.api import begin, go_on
from kanpde.runs.models import Run
from kanpde.runs.names import check_out
from kanpde.runs.progress import Progress, number
from kanpde.runs.stored import agreeing
from kanpde.training import evaluation, ladder, memory
from kanpde.training.plan import Plan
from kanpde.training.training import RunFailed
from kanpde.users.code import blame
from kanpde.users.members import short_name

console = Console(highlight=False, soft_wrap=True, markup=False)
INTERRUPTED = 130  # the exit code of Ctrl-C


def solve(
    problem: Annotated[str | None, typer.Argument(help="YAML file, shipped name, or my_pde.py:MyPDE.")] = None,
    dim: Annotated[int | None, typer.Option(help="Dimension of the problem (problem.dim).")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Network: kan, metakan, my_file.py:Name (backbone.name).")
    ] = None,
    solver: Annotated[str | None, typer.Option(help="YAML file, shipped (kanpde list), or auto.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the training; problem.seed is that of the coefficients.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser updates in all; phases are rescaled in proportion.")
    ] = None,
    to: Annotated[
        float | None, typer.Option(help="Stop at this relative l2 error, estimated without a solution (stop.to).")
    ] = None,
    verify: Annotated[
        bool | None, typer.Option("--verify/--no-verify", help="Estimate the error at the end, in a tenth of the time.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 or float64.")] = None,
    max_memory: Annotated[str | None, typer.Option(help="Such as 8GB: micro-batches of points that fit.")] = None,
    compiled: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Default: where it pays.")] = None,
    out: Annotated[Path | None, typer.Option(help="Result file (.h5); default a new one under runs/.")] = None,
    resume_from: Annotated[
        Path | None, typer.Option("--resume", help="Go on with a run; more --steps extend it.")
    ] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Any value: a.b=c, such as points.interior=500.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print configuration, parameters and memory; run nothing.")
    ] = False,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="The history there too: tensorboard, wandb, mlflow.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Solve a PDE or fit data: train a network, print the error beside its floors, leave a result file and pictures.

    By several processes: torchrun --nproc-per-node 4 -m kanpde.solve and the same words.

    Exit codes: 0 done, 1 the run failed, 2 a bad call, 130 interrupted by Ctrl-C (--resume goes on).
    """
    flags = {"problem.dim": dim, "backbone": backbone, "seed": seed, "device": device, "dtype": dtype}
    flags = _tree(flags | {"max_memory": max_memory, "compile": compiled, "stop.to": to, "verify": verify})
    flags |= {"log": {name: {} for name in log}} if log else {}
    world = World.current()
    say = console if world.leads and not quiet else Console(quiet=True)
    if resume_from is not None:
        if out is not None and out != resume_from:
            raise ConfigError(f"--out {out}: a resumed run goes on in its own file, {resume_from}")
        run = Run.open(resume_from)
        plan = agreeing(run, problem, solver, flags, sets or [], steps)
    elif problem is None:
        raise ConfigError(
            "give a problem: a YAML file, my_pde.py:MyPDE, or a shipped name such as allen_cahn (see kanpde list)"
        )
    else:
        run, plan = None, Plan.of(configuration.load(problem, solver, flags, sets or [], steps))
        world.first(partial(check_out, out))
    _announce(say, plan)
    if dry_run:
        _dry_run(say, plan)
        return
    run_plan(say, plan, out, run)


def run_plan(say: Console, plan: Plan, out: Path | None, run: Run | None) -> Run:
    """Begin a plan, or go on with its run; show how it goes, what came of it, and its pictures."""
    with Progress(say) as show:
        calls = {"on_step": show.step, "on_evaluation": show.evaluation}
        try:
            run = begin(plan, out, **calls) if run is None else go_on(run, plan, **calls)
        except KeyboardInterrupt:
            say.print("interrupted; " + (_go_on(show.path) if show.path else "nothing was computed yet"))
            raise SystemExit(INTERRUPTED) from None
    if run.attrs["status"] == "interrupted":
        say.print(f"interrupted at step {run.attrs['steps']}; {_go_on(run.path)}")
        raise SystemExit(INTERRUPTED)
    if not World.current().leads:
        return run
    say.print(_result_table(run))
    if verdict := run.attrs.get("verdict"):
        say.print(f"verdict   {verdict}")
    if converged := run.attrs.get("converged"):
        say.print(f"ended     {converged}")
    for line in filter(None, (summary.off_grid(run), *summary.of_observations(run))):
        say.print(f"warning   {line}")
    if run.config["stop"].get("to") and run.verification and run.verification["high"] > run.config["stop"]["to"]:
        say.print(f"warning   {run.attrs['message']}")
    say.print(f"result    {run.path}")
    from kanpde.plot import main_pictures  # matplotlib, only now

    for path in main_pictures(run):
        say.print(f"picture   {path}")
    if run.attrs["status"] == "diverged":  # its one line has been said
        raise SystemExit(1)
    return run


@contextmanager
def _warnings_in_one_line(leads: bool):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of libraries, to those who write them
        warnings.showwarning = lambda message, *_, **__: leads and print(f"kanpde: {message}", file=sys.stderr)
        yield


def _go_on(path: Path) -> str:
    return f"to go on:\n  python -m kanpde.solve --resume {path}"


def _tree(flags: dict) -> dict:
    """Dotted keys to a nested mapping, without those not given."""
    tree: dict = {}
    for key, value in flags.items():
        if value is not None:
            *parents, last = key.split(".")
            node = tree
            for part in parents:
                node = node.setdefault(part, {})
            node[last] = value
    return tree


def _announce(say: Console, plan: Plan) -> None:
    config, problem = plan.config, plan.problem
    dim = f"{problem.dim} + time" if problem.has_time else problem.dim
    title = f": {problem.title}" if problem.title else ""
    say.print(f"problem   {short_name(config.problem, problem)}, d = {dim}{title}")
    options = ", ".join(f"{k}={v}" for k, v in config.backbone.items() if k != "name")
    net, comma, own = _parameters(plan).partition(", and")
    say.print(f"backbone  {config.backbone['name']}, {net} parameters{comma}{own} ({options})")
    if held := _held(plan):
        say.print(f"width     {held}")
    reading = problem.reading
    if plan.sliced:
        say.print(f"inputs    {problem.dim:,}, sharded: this process has {problem.n_inputs:,} of every point")
    if len(problem.fields) > 1:
        own = "a network each" if config.networks == "separate" else f"one network with {len(problem.fields)} outputs"
        say.print(f"fields    {', '.join(problem.fields)}: {own}")
    if not problem.fits_rows:
        read = [name for field, reads in reading.fields.items() for name in reads.names(problem.axes, field)]
        equations = f"equations {', '.join(reading.equations)}" if len(reading.equations) > 1 else "equation "
        many = "they read" if len(reading.equations) > 1 else "it reads"
        say.print(f"{equations} in {problem.axes}, {many} {', '.join(read)}")
    if problem.conditions:
        say.print(f"conditions {plan.conditions}")
    if plan.config.slabs is not None:
        ends = ", ".join(f"{end:.4g}" for end in plan.net.ends)
        say.print(
            f"slabs     {plan.config.parts} of time, to {ends}: one after the other, each with its part of the steps"
        )
    if known := plan.known:
        instead = "; the exact solution is not read" if problem.has_exact else ""
        say.print(f"reference {known.says}{instead}")
    if plan.choice:
        say.print(f"chosen    solver {plan.choice.solver}: {plan.choice.why}")
    points = ", ".join(f"{n} {kind}" for kind, n in plan.counts.items())
    tested = (
        ""
        if problem.fits_rows or config.reference or not problem.has_exact
        else f", errors on {config.points.test:,} test points"
    )
    scale = _scale(plan)
    scale += ", in the units of the domain" if plan.frame else ""
    say.print(
        f"solver    {_operator(config)}, {config.constraint} constraint, {points} points ({config.points.law}), "
        f"residual scaled by {scale}{tested}, {config.steps} steps on {config.device} in {config.dtype}"
        + (", compiled (the first step takes a minute or two)" if config.compile else "")
    )


def _parameters(plan: Plan) -> str:
    """4,137, and 3 of the problem."""
    return summary.parameters(plan.parameters, summary.unknowns_of(plan.problem))


def _held(plan: Plan) -> str:
    """What the first hidden layer can hold, where it has fewer units than inputs: see `benchmarks.capacity`."""
    layers = [m for m in networks(plan.net)[0].modules() if isinstance(m, KANLinear | torch.nn.Linear)]
    if plan.problem.fits_rows or len(layers) < 2 or plan.sliced or layers[0].in_features <= layers[0].out_features:
        return ""
    n_in, units = layers[0].in_features, layers[0].out_features
    wide, *_ = backbones.widths_of("wide", n_in)
    named = hasattr(backbones.BACKBONES.get(plan.config.backbone["name"]), "basis")
    more = f"; --set backbone.widths=wide: {wide}" if named and wide > units else ""
    held = f"interactions of {n_in:,} inputs in at most {units} directions"
    return f"the {units} units of the first hidden layer hold {held}{more}"


def _scale(plan: Plan) -> str:
    """What the residual is multiplied by, in the units of the domain."""
    problem, scaled = plan.problem, plan.config.loss.scale == "2d"
    if problem.fits_rows:
        return "1/deviation of y" if scaled else "1"
    scale = problem.residual_scale if scaled else 1.0
    return "1/(2d)" if scale == 1 / (2 * problem.dim) else f"{scale:g}"


def _operator(config: RunConfig) -> str:
    options = ", ".join(f"{k}={v}" for k, v in config.operator.items() if k != "name")
    return f"{config.operator['name']}({options})" if options else config.operator["name"]


def _dry_run(say: Console, plan: Plan) -> None:
    (fixed, step), tests = memory.estimate(plan), evaluation.bytes_of(plan)
    say.print(f"parameters {_parameters(plan)}")
    start = ladder.bytes_of(ladder.points_of(plan) * plan.problem.n_inputs, plan) if plan.start() else 0
    parts = {"parameters and optimiser": fixed, "one step": step, "an evaluation": tests, "the start before it": start}
    say.print(f"estimated memory: {', '.join(f'{n / 2**20:,.1f} MB {part}' for part, n in parts.items() if n)}")
    say.print("configuration:\n" + dump(plan.config))


def _result_table(run: Run) -> Table:
    """Error, floors, skill = error / floor, parameters, time, memory."""
    table = Table(title=f"{run.attrs['problem']}, d = {run.dimension}, {run.attrs['backbone']}", title_justify="left")
    table.add_column("")
    table.add_column("relative l2", justify="right")
    table.add_column("skill = error / floor", justify="right")
    error, attrs, first = run.rel_l2, run.attrs, run.config["evaluation"]["best_from"]
    why = "least validation loss" + (f" from step {first:,} on" if first else "")
    table.add_row(f"kept step {attrs['best_step']:,}: {why}", number(error, 3), "")
    table.add_row(f"last step {attrs['steps']:,}", number(attrs["rel_l2_last"], 3), "")
    if worst := summary.worst_time(run):
        table.add_row(f"worst time, t = {worst[0]:.4g}", number(worst[1], 3), "")
    _add_verification(table, run)
    for field, view in run.views().items():
        of = "" if len(run.fields) == 1 else f"{field}: "
        if of:
            table.add_row(f"field {field}", number(view.rel_l2, 3), "")
        for name, floor in view.floors.items():
            error = view.rel_l2 if view.rel_l2 == view.rel_l2 else run.verification.get("rel_l2", float("nan"))
            skill = f"{error / floor:.3f}" if floor and error == error else ""
            table.add_row(f"{of}floor: {name.replace('_', ' ')}", f"{floor:.3e}", skill)
    wall, memory = run.history["wall_s"][-1], run.history["peak_memory_bytes"][-1]
    if run.attrs["fits"]:
        _add_squares(table, run)
    _add_interest(table, run)
    if "verdict" in run.attrs:
        _add_residuals(table, run)
    table.add_section()
    losses = number(attrs["validation_best"], 3), number(attrs["validation_last"], 3)
    table.add_row("validation loss, and of the last", *losses)
    _add_parameters(table, run)
    table.add_row("time", summary.duration(wall), "")
    table.add_row("peak memory", f"{memory / 2**20:,.0f} MB", "")
    return table


def _add_verification(table: Table, run: Run) -> None:
    """The error as it is estimated without a solution, or why it is not."""
    if found := run.verification:
        table.add_row("estimated without a solution", number(found["rel_l2"], 3), "")
        between = f"{number(found['low'])} to {number(found['high'])}"
        table.add_row(f"  {found['confidence']:.0%} interval ({found['seconds']:.0f} s)", between, "")
    elif why := run.attrs.get("not_verified"):
        table.add_row(f"not verified: {why}", "", "")


def _add_interest(table: Table, run: Run) -> None:
    """u at the points of interest, and how far that is from what is published."""
    for row, (name, u, published, difference) in enumerate(summary.interest(run)):
        if not row:
            table.add_section()
        beside = f"published {published:.6g}, difference {difference:.1e}" if published == published else ""
        table.add_row(name, f"{u:.6g}", beside)


def _add_residuals(table: Table, run: Run) -> None:
    """What is left of each equation and condition, beside what there was before the first step."""
    table.add_section()
    for name, *sizes in summary.residuals(run):
        rms, largest, *start = map(number, sizes)
        table.add_row(f"left of {name}, rms", rms, f"from {start[0]}")
        table.add_row("  largest", largest, f"from {start[1]}")


def _add_parameters(table: Table, run: Run) -> None:
    """How many there are, of the network and of the problem, and the unknowns by name."""
    attrs = run.attrs
    table.add_row("parameters", f"{attrs['parameters']:,}", "")
    if "start_numbers" in attrs:
        table.add_row("coefficients of the start", f"{attrs['start_numbers']:,}", "")
    if own := attrs.get("problem_parameters"):
        table.add_row("parameters of the problem", f"{own:,}", "")
    errors = summary.standard_errors(run)
    for name, (start, value) in summary.unknowns(run).items():
        known = f"{value:.6g} ± {errors[name]:.2g}" if name in errors else f"{value:.6g}"
        table.add_row(f"unknown {name}", known, f"from {start:.6g}")
    if own and not errors:
        table.add_row(f"no standard errors: {attrs['no_standard_errors']}", "", "")


def _add_squares(table: Table, run: Run) -> None:
    """What a fit is judged by: root mean square, mean square, and the share of the variance that is explained."""
    rmse = run.attrs["rmse_best"]
    constant = float(np.std(run.field["u_exact"]))
    table.add_section()
    table.add_row("RMSE, and of the best constant", number(rmse, 3), number(constant, 3))
    table.add_row("MSE, and of the best constant", number(rmse**2, 3), number(constant**2, 3))
    if constant:
        table.add_row("unexplained share of the variance, 1 - R^2", number((rmse / constant) ** 2, 3), "")


def run_app(app: typer.Typer) -> None:
    """Run a command line: one clear line and the exit code for whatever goes wrong, in all processes of a world."""
    try:
        with joined() as world:
            _run_app(app, world)
    except (ConfigError, Lost) as error:  # of joining it
        _complain(error, 1 if isinstance(error, Lost) else 2)


def _run_app(app: typer.Typer, world: World) -> None:
    try:
        with _warnings_in_one_line(world.leads):
            code = app(standalone_mode=False)
    except (ConfigError, RunFileError, NotImplementedError) as error:  # the last: a problem without a domain, say
        _complain(error, 2)
    except (RunFailed, Lost) as error:
        _complain(error, 1)
    except OSError as error:
        if (line := blame(error)) is not None:
            _complain(line, 2)
        code = 2 if error.errno == errno.ENAMETOOLONG else 1
        _complain(f"{shown(error.filename or 'a file')} cannot be written or read ({error.strerror or error})", code)
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted", INTERRUPTED)
    except (torch.OutOfMemoryError, MemoryError) as error:
        _complain(f"out of memory: {str(error).splitlines()[0] if str(error) else 'use a smaller problem'}", 1)
    except Exception as error:
        if "can't allocate memory" in str(error):  # a RuntimeError of torch's allocator for the CPU
            _complain(f"out of memory: {str(error).rpartition('] ')[2]}", 1)
        if (line := blame(error)) is not None:  # raised in a user's problem file
            _complain(line, 2)
        message = getattr(error, "format_message", None)  # click's own complaints about arguments
        if message is None:
            raise
        _complain(message() + _given(error), 2)
    if code == INTERRUPTED:  # of typer, which keeps KeyboardInterrupt to itself
        _complain("interrupted", INTERRUPTED)
    sys.exit(code or 0)


def _given(error) -> str:
    """What the command line says for the option that click objects to, which its message leaves out."""
    options = getattr(getattr(error, "param", None), "opts", ())
    values = [after for word, after in zip(sys.argv, sys.argv[1:], strict=False) if word in options]
    return f" (given {values[-1]!r})" if values else ""


def _complain(error, code: int) -> None:
    if World.current().speaks():
        print(f"kanpde: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    sys.exit(code)


def main() -> None:
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(solve)
    run_app(app)


if __name__ == "__main__":
    main()
