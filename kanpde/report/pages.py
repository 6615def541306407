"""The HTML of a page, and its file, which is replaced whole."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from kanpde.ground.errors import ConfigError
from kanpde.plot import learning_curves, picture
from kanpde.records import compare
from kanpde.records import sweep as sweeps
from kanpde.records.run import RunFile, RunFileError, replacing
from kanpde.report.contents import Contents, Table, contents

MISSING = "the view that can be turned needs plotly: pip install 'kanpde[report]'"
AS_COLUMN = {"rel_l2": "relative l2 error", "time_s": "time (s)", "peak_memory_mb": "memory (MB)"}


def report(path: str | Path, out: str | Path | None = None, *, reload: float | None = None) -> Path:
    """Write the page on a run, or on the runs of a folder, and return its path.

    Args:
        path: a result file, or a folder of them, of a sweep or not.
        out: the page; default <stem>-report.html beside the file, or report.html in the folder.
        reload: seconds after which a page loads itself again; None: it does not.
    Raises:
        RunFileError: there is no such file, it is damaged, or a folder has none.
        ConfigError: the page cannot be written.
    """
    path = Path(os.path.expanduser(path))
    out = default_out(path) if out is None else Path(os.path.expanduser(out))
    check_out(out)
    text = page_of_folder(path, reload) if path.is_dir() else page_of_run(RunFile.open(path), reload)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out


def default_out(path: Path) -> Path:
    """Where the page goes unless it is said."""
    return path / "report.html" if path.is_dir() else path.with_name(f"{path.stem}-report.html")


def check_out(out: Path) -> None:
    """Raises ConfigError where no page can be written, or what is there is no page."""
    if out.suffix not in (".html", ".htm"):
        raise ConfigError(f"--out {out}: needed is a file ending in .html")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise ConfigError(f"--out {out}: a folder; needed is a file ending in .html")


def page_of_run(run: RunFile, reload: float | None = None) -> str:
    """The page on one run."""
    found = contents(run)
    script = plotly_js() if found.view else None
    return _rendered("run.html", title=found.heading, page=found, reload=reload, script=script, missing=MISSING)


def page_of_folder(folder: Path, reload: float | None = None) -> str:
    """The page on the runs of a folder: a table with links to a section each; of a sweep its groups before that.

    Raises:
        RunFileError: there are no result files.
    """
    paths = sorted(folder.glob("*.h5"))
    sweep = sweeps.Sweep.open(folder) if (folder / sweeps.FILE).is_file() else None
    if not paths and sweep is None:
        raise RunFileError(f"{folder}: a folder without result files (.h5)")
    pages, broken = [], []
    for path in paths:
        try:
            pages.append(contents(RunFile.open(path), brief=True))
        except RunFileError as error:
            broken.append((path.name, str(error)))
    groups, curves = (None, None) if sweep is None else _of_sweep(sweep)
    title = folder.resolve().name
    table = _index(pages)
    return _rendered(
        "folder.html", title=title, pages=pages, broken=broken, table=table, groups=groups, curves=curves, reload=reload
    )


def _of_sweep(sweep: sweeps.Sweep) -> tuple[Table, object | None]:
    """The table of its groups, and its learning curves once a run has ended."""
    head, rows = sweeps.cells(sweep)
    note = "Mean ± sample standard deviation over the seeds of each combination."
    try:
        curves = picture("sweep", learning_curves(sweep))
    except RunFileError:
        curves = None
    return Table("Groups of the sweep", head, rows, note), curves


def _index(pages: Iterable[Contents]) -> Table:
    """A row for each run, of which those columns are shown that say something."""
    lines = [compare.cells(compare.summary(page.run) | {"file": page.name, "status": page.status}) for page in pages]
    columns = [column for column in zip(compare.COLUMNS, *lines, strict=True) if any(column[1:])]
    head = [AS_COLUMN.get(column[0], column[0]) for column in columns]
    return Table("Runs", head, list(zip(*(column[1:] for column in columns), strict=True)))


def plotly_js() -> str | None:
    """The text of plotly.js as the installed plotly brings it; None: there is none."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        return None
    return get_plotlyjs()


def _rendered(template: str, **values: object) -> str:
    environment = Environment(
        loader=PackageLoader("kanpde.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return environment.get_template(template).render(written=written, **values)
