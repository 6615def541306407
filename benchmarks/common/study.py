"""What all benchmarks do alike: the command line, jobs, rows in a CSV, tables in Markdown.

A benchmark measures rows. A `Study` keeps those of the tasks that are done in a CSV beside its table, does the rest,
and writes both anew after each task: the same command goes on where it was broken off.
"""

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from matplotlib.figure import Figure

from kanpde.ground.errors import ConfigError, suggest
from kanpde.records.run import RunFileError, replacing

RESULTS = Path(__file__).parent.parent / "results"
Row = dict[str, object]

# ---------------------------------------------------------------------------------------------------------------
# The command line


class Parser(argparse.ArgumentParser):
    """The options of a benchmark, its docstring as help; what argparse would print before it exits is a ConfigError."""

    def __init__(self, name: str, about: str):
        super().__init__(prog=name, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)

    def cases(self, names: Sequence[str], kind: str = "case", flag: str = "--cases", **more) -> None:
        """--cases, by another flag too: some of these names, by default all."""

        def known(name: str) -> str:
            if name not in names:
                raise argparse.ArgumentTypeError(suggest(kind, name, list(names)))
            return name

        flags = dict.fromkeys((flag, "--cases"))
        more = {"default": list(names), "metavar": kind.split()[0].upper(), "dest": flag[2:]} | more
        self.add_argument(*flags, nargs="+", type=known, **more)

    def common(
        self,
        out: Path | None = None,
        *,
        seeds: Sequence[int] | None = None,
        jobs: int | None = None,
        quick: str = "",
        render: bool = False,
    ) -> "Parser":
        """--out, and as far as a benchmark has them --seeds, --jobs, --quick (with its meaning) and --render."""
        if seeds is not None:
            self.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
        if jobs is not None:
            self.add_argument("--jobs", type=int, default=jobs, help="tasks at a time")
        if quick:
            self.add_argument("--quick", "--small", action="store_true", help=quick)
        if render:
            self.add_argument("--render", action="store_true", help="measure nothing: the table of the rows there are")
        self.add_argument("--out", type=Path, default=out, metavar="PATH", help="where the results go")
        return self


def at_least(args: argparse.Namespace, bounds: Mapping[str, int]) -> None:
    """Refuse options, or lists of numbers, below their bounds."""
    for name, least in bounds.items():
        given = getattr(args, name)
        if (given := min(given if isinstance(given, list) else [given], default=least)) < least:
            raise ConfigError(f"--{name} must be at least {least}, given {given}")


def above_zero(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that are 0, negative, infinite or no number."""
    for name in names:
        if not 0 < getattr(args, name) < float("inf"):
            raise ConfigError(f"--{name} must be above 0, given {getattr(args, name):g}")


def exiting(main: Callable[[], None], name: str) -> None:
    """Run a command line; whatever is wrong with its input is one line and exit code 2."""
    try:
        main()
    except (ConfigError, RunFileError) as error:
        complaint = str(error)
    except OSError as error:
        complaint = f"{error.filename or 'a file'} cannot be written or read ({error.strerror or error})"
    else:
        return
    print(f"{name}: {' '.join(complaint.split())}", file=sys.stderr)
    sys.exit(2)


# ---------------------------------------------------------------------------------------------------------------
# Rows and tables


def kept(path: Path, columns: Sequence[str], check: Callable[[Row], object] | None = None) -> list[Row]:
    """The rows of a CSV, all text; none where there is no file.

    Raises:
        ConfigError: it has other columns, or a row that `check` cannot read.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    try:
        if tuple(reader.fieldnames or ()) != tuple(columns):
            raise ValueError(f"but of {', '.join(reader.fieldnames or ('nothing',))}")
        for row in rows if check else ():
            check(row)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not a table of {', '.join(columns)} ({error})") from None
    return rows


def keep(path: Path, columns: Sequence[str], rows: Iterable[Row], digits: int | None = 6) -> None:
    """Write these columns of rows to a CSV that replaces the former one whole; digits: of fractions, None for all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = "" if digits is None else f".{digits}g"
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:{form}}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def markdown(heading: Sequence[str], rows: Iterable[Sequence], align: str = "-r") -> list[str]:
    """Lines of a table; numbers have three digits, what is not known is -.

    align: a letter for each column, l(eft), r(ight) or - for as it comes; the last letter stands for all that follow.
    """
    line = lambda cells: f"| {' | '.join(map(cell, cells))} |"
    rule = [{"l": ":--", "r": "--:", "-": "---"}[letter] for letter in align.ljust(len(heading), align[-1])]
    return [line(heading), line(rule), *map(line, rows)]


def cell(value) -> str:
    """What a table says of a value."""
    if isinstance(value, float):
        return f"{value:.3g}" if value == value else "-"
    return "-" if value is None else str(value)


def spread(values: Sequence[float], form: str = ".3g", deviation: str = ".2g") -> str:
    """The mean of several values and their sample standard deviation."""
    more = f" ± {statistics.stdev(values):{deviation}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{more}" if values else "-"


def flat(config: Mapping, prefix: str = "") -> dict:
    """Nested settings by their dotted names."""
    parts = (flat(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}": v} for k, v in config.items())
    return {name: value for part in parts for name, value in part.items()}


def deliver(text: str, out: Path | None) -> None:
    """Write a text to a file, or print it."""
    if out is None:
        print(text, end="")
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------
# Jobs


def _begin(threads: int | None) -> None:
    """For a process of the pool: Ctrl-C is for the one that started it."""
    torch.set_num_threads(threads or torch.get_num_threads())
    signal.signal(signal.SIGINT, lambda *_: None)  # unlike SIG_IGN, a program that is started does not inherit it


@contextmanager
def results(work: Callable, tasks: Iterable, jobs: int, threads: int | None = 1) -> Iterator[Iterator[tuple]]:
    """(task, work(task)) as they come, `jobs` at a time, each in a process of so many threads (None: torch's own).

    Ctrl-C or SIGTERM in the block ends the processes, and the program with 130.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    context = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(threads,)) as pool:
        futures = {pool.submit(work, task): task for task in tasks}
        try:
            yield ((futures[future], future.result()) for future in as_completed(futures))
        except KeyboardInterrupt:
            for process in list(pool._processes.values()):
                process.terminate()
            sys.exit(130)  # the pool, broken now, waits for their end
        finally:
            signal.signal(signal.SIGTERM, before)


def alone(work: Callable, task, threads: int | None = None):
    """work(task) in a process of its own, whose memory nothing else has."""
    with results(work, [task], 1, threads) as found:
        return next(found)[1]


def solving(out: Path, new: Callable[[], Sequence[str]]) -> list[str]:
    """The words of `python -m kanpde.solve` that go on with the run at `out`, or begin it with those of `new`."""
    solve = [sys.executable, "-m", "kanpde.solve"]
    if out.is_file():
        return [*solve, "--resume", str(out)]
    out.with_suffix(".pt").unlink(missing_ok=True)  # of a run that was killed before it had a result
    return [*solve, *new(), "--out", str(out)]


class Ended(NamedTuple):
    """What came of a program."""

    code: int
    minutes: float  # of processor time


def program(words: Sequence[str], log: Path, one_thread: bool = False) -> Ended:
    """Run a program as the work of a process of `results`, its output appended to a log.

    Where that process is ended, the program gets the signal of Ctrl-C, and the time that it needs to store its state.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if one_thread else {})
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, env=environment, start_new_session=True)

    def end(*_) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal would cost the program its state
        process.send_signal(signal.SIGINT)
        process.wait()
        os._exit(130)  # an exception would be taken for the result of this task, and the next one begin

    before = signal.signal(signal.SIGTERM, end)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        signal.signal(signal.SIGTERM, before)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, (usage.ru_utime + usage.ru_stime) / 60)


@dataclass(frozen=True)
class Study:
    """A table of the rows of many tasks, and the CSV beside it.

    Attributes:
        out: the table.
        columns: of the CSV.
        report: from the rows, as the CSV has them, to Markdown.
        key: of a row, the key of its task. A task may have several rows.
        place: of a row, by which rows are sorted.
        check: fails where a row is none of ours.
    """

    out: Path
    columns: Sequence[str]
    report: Callable[[list[Row]], str]
    key: Callable[[Row], Hashable]
    place: Callable[[Row], object]
    check: Callable[[Row], object] | None = None

    def rows(self) -> list[Row]:
        """What is kept."""
        return kept(self.out.with_suffix(".csv"), self.columns, self.check)

    def add(self, rows: Iterable[Row] = ()) -> None:
        """Keep more rows, in place of those with their keys, and write the table."""
        rows = list(rows)
        new = set(map(self.key, rows))
        every = [*(row for row in self.rows() if self.key(row) not in new), *rows]
        keep(self.out.with_suffix(".csv"), self.columns, sorted(every, key=self.place))
        deliver(self.report(self.rows()), self.out)

    def run(
        self,
        work: Callable[..., list[Row]],
        tasks: Mapping[Hashable, object],
        jobs: int,
        say: Callable[..., str],
        threads: int | None = 1,
    ) -> None:
        """Do the tasks, by their keys, that have no row yet, `jobs` at a time; then write the table in any case.

        Args:
            work: from a task to its rows, in another process.
            say: a line about a task and its rows.
        """
        done = set(map(self.key, self.rows()))
        rest = [task for key, task in tasks.items() if key not in done]
        with results(work, rest, jobs, threads) as found:
            for task, rows in found:
                self.add(rows)
                print(say(task, rows), flush=True)
        self.add()


class Seeded(NamedTuple):
    """A run of a table: a case with a seed."""

    case: str
    seed: int

    @property
    def stem(self) -> str:
        """The name of its files."""
        return f"{self.case}-seed{self.seed}"


def with_figure(
    study: Study,
    tasks: Iterable[Hashable],
    measure: Callable[..., list[Row]],
    args: argparse.Namespace,
    say: Callable[[Hashable, list[Row]], str],
    drawn: Callable[[list[Row]], Figure],
) -> None:
    """What is left of the tasks, unless the command line says --render, and the figure beside the table.

    Args:
        measure: (task, quick) -> its rows.
    """
    left = {} if args.render else {task: task for task in tasks}
    study.run(partial(measure, quick=args.quick), left, args.jobs, say)
    with replacing(args.out.with_suffix(".png")) as path:
        drawn(study.rows()).savefig(path, dpi=110, format="png")
    print(args.out)


def over_seeds(
    parser: Parser,
    argv: Sequence[str] | None,
    study: Callable[[Path], Study],
    work: Callable[..., list[Row]],
    says: Callable[[list[Row]], str],
) -> argparse.Namespace:
    """Do the cases with the seeds that a command line asks for, and return it; files of the runs lie under --runs.

    Args:
        parser: with `cases`, and of `common` seeds, jobs and render.
        study: from --out to the table.
        work: (task, args=the command line) -> its rows, none where it failed and its log says why.
        says: what is said of the rows of a task.
    """
    parser.add_argument("--runs", type=Path, default=Path("runs") / parser.prog)
    args = parser.parse_args(argv)
    at_least(args, {"seeds": 0, "jobs": 1})
    args.runs.mkdir(parents=True, exist_ok=True)
    tasks = () if args.render else [Seeded(case, seed) for seed in args.seeds for case in args.cases]
    say = lambda task, rows: f"{task.stem}: {says(rows) if rows else f'failed, see {args.runs / task.stem}.log'}"
    study(args.out).run(partial(work, args=args), {task: task for task in tasks}, args.jobs, say)
    return args
