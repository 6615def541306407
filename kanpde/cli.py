"""The console script `kanpde`: solve, plot, compare, list."""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from kanpde import backbones, operators, problems
from kanpde.config import ConfigError, library
from kanpde.record import Run
from kanpde.solve import console, run_app, solve

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Solve high-dimensional PDEs with Kolmogorov-Arnold networks.",
)
app.command()(solve)


@app.command()
def plot(
    run: Annotated[Path, typer.Argument(help="A result file (.h5).")],
    folder: Annotated[Path | None, typer.Option(help="Where the pictures go; default beside the result file.")] = None,
) -> None:
    """Draw the pictures of a run: convergence, slices, error against |x|, quantiles, a volume, files for ParaView."""
    from kanpde.plot import plot_run

    opened = Run.open(run)
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RuntimeWarning)
            paths = plot_run(opened, folder)
    except OSError as error:
        raise ConfigError(f"{folder or run.parent}: pictures cannot be written ({error.strerror or error})") from None
    for warning in said:
        print(f"kanpde: {warning.message}", file=sys.stderr)
    for path in paths:
        console.print(str(path))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Result files (.h5).")],
    style: Annotated[
        Literal["table", "markdown", "csv"], typer.Option("--format", help="table, markdown or csv.")
    ] = "table",
) -> None:
    """Compare runs in a table: error, skill against the constant floor, parameters, time, memory."""
    from kanpde import compare as comparison

    rows = [comparison.summary(Run.open(path)) for path in runs]
    if style == "table":
        console.print(comparison.rich_table(rows))
    else:
        print(comparison.table(rows, style), end="")


@app.command(name="list")
def list_() -> None:
    """Show the problems, backbones, bases, operators and solvers, a line each."""
    from kanpde.kan.basis import BASES

    sections = {
        "problems": problems.PROBLEMS,
        "backbones": backbones.BACKBONES,
        "bases": BASES,
        "operators": operators.OPERATORS,
    }
    table = Table(show_header=False, box=None)
    for title, members in sections.items():
        table.add_row(f"[bold]{title}[/bold]", "")
        for name, member in members.items():
            table.add_row(f"  {name}", member.__doc__.strip().splitlines()[0])
    table.add_row("[bold]solvers[/bold]", "")
    for path in sorted(library("solvers").glob("*.yaml")):
        table.add_row(f"  {path.stem}", path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    console.print(table)


def main() -> None:
    """The console script."""
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    run_app(app)


if __name__ == "__main__":
    main()
