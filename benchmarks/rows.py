"""Rows of a long benchmark: timed, limited in time, written as they come, drawn as Markdown. No framework is needed."""

import csv
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from kanpde.config import ConfigError
from kanpde.record import replacing


class TimeUp(Exception):
    """A row took longer than it may."""


@contextmanager
def limit(seconds: float):
    """Raise TimeUp in the block once it has taken so long; a call into compiled code is finished first."""

    def ring(*_):
        raise TimeUp

    if seconds < 1:
        raise TimeUp
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def rates(run: Callable[[int], None], seconds: float, batches: int = 5) -> list[float]:
    """Steps per second in each batch; `run(n)` does n steps and waits until the device has done them.

    Two steps warm up, one more sets the size of the batches, so that all of them take about `seconds`.
    """
    run(2)
    n = max(1, int(seconds / batches / _seconds(run, 1)))
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < batches and (not found or time.perf_counter() - start < 2 * seconds):  # slow steps: fewer
        found.append(n / _seconds(run, n))
    return found


def _seconds(run: Callable[[int], None], n: int) -> float:
    start = time.perf_counter()
    run(n)
    return time.perf_counter() - start


class Table:
    """Rows in a csv as they come; `draw` makes Markdown of what stands there, anew after each row.

    Args:
        out: the Markdown; the csv is beside it.
        columns: of the csv; what a row lacks is empty.
        draw: from the rows, all cells text, to Markdown.
    """

    def __init__(self, out: Path, columns: Sequence[str], draw: Callable[[list[dict[str, str]]], str]):
        self.out, self.csv, self.columns, self.draw = out, out.with_suffix(".csv"), columns, draw
        out.parent.mkdir(parents=True, exist_ok=True)
        with self.csv.open("w", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, columns, lineterminator="\n").writeheader()

    def add(self, **row) -> None:
        with self.csv.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns, restval="", lineterminator="\n").writerow(row)
        self.out.write_text(self.draw(self.rows()), encoding="utf-8")
        print(*(shown(value) for value in row.values() if value != ""), flush=True)

    def rows(self) -> list[dict[str, str]]:
        with self.csv.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def kept(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV that `keep` has written; none where there is no file.

    Raises:
        ConfigError: it has other columns.
    """
    if not path.is_file():
        return []
    lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    if lines and tuple(lines[0]) != tuple(columns):
        raise ConfigError(f"{path}: not a table of {', '.join(columns)}")
    return lines


def keep(path: Path, columns: Sequence[str], rows: Iterable[dict]) -> None:
    """Write rows to a CSV that replaces the former one whole; fractions with six digits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)


def shown(value: object) -> str:
    """A cell: numbers with at most four digits, text as it is."""
    try:
        number = float(value)
    except ValueError:
        return str(value)
    return f"{number:,.0f}" if number.is_integer() or 1e3 <= abs(number) < 1e12 else f"{number:.3g}"


def markdown(heading: str, columns: Sequence[str], rows: Sequence[dict]) -> str:
    """A section with a table of these columns; nothing where there are no rows."""
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *([shown(row.get(name, "")) for name in columns] for row in rows)]
    return "\n".join([f"\n## {heading}\n", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def pivot(heading: str, rows: Sequence[dict], value: str) -> str:
    """A line for each side, a column for each dimension; where there is no value, the row's note."""
    lines: dict[str, dict] = {}
    for row in rows:
        lines.setdefault(row["side"], {"side": row["side"]})[f"d = {int(row['dim']):,}"] = row[value] or row["note"]
    columns = dict.fromkeys(name for line in lines.values() for name in line)
    return markdown(heading, list(columns), list(lines.values()))
