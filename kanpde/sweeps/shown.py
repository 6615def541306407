"""A sweep as it goes: one live table on a terminal, elsewhere a line for each cell that begins or ends."""

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kanpde.runs.api import ENDED
from kanpde.runs.summary import duration
from kanpde.sweeps.cells import Cell

STYLES = {"running": "bold", "failed": "red", "diverged": "yellow", "interrupted": "yellow", "waiting": "dim"}
FIRST = ("running", "failed", "diverged", "interrupted", "waiting", "finished")  # where there is no room for all
BESIDE = 8  # lines of a terminal that are not rows of the table


class Shown:
    """Context in which a sweep is shown; called with a cell that begins or ends, and with None as time passes."""

    def __init__(self, say: Console, cells: Sequence[Cell]):
        self.say, self.cells = say, cells
        self.live = Live(console=say, auto_refresh=False, transient=True) if say.is_terminal and not say.quiet else None

    def __enter__(self) -> "Shown":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, cell: Cell | None) -> None:
        if self.live:
            self.live.update(table(self.cells, max(3, self.say.height - BESIDE)), refresh=True)
        elif cell is not None:
            self.say.print(self._line(cell))

    def _line(self, cell: Cell) -> str:
        if cell.state == "running":
            return f"{cell.name} {'goes on' if cell.path.is_file() else 'begins'}{' again' * (cell.tries > 1)}"
        done = sum(cell.state in ENDED for cell in self.cells)
        said = cell.reason or ", ".join(f"{name} {text}" for name, text in _numbers(cell).items() if text)
        return f"{cell.name} {cell.state}: {said} ({done} of {len(self.cells)})"


def table(cells: Sequence[Cell], most: int | None = None) -> Table:
    """State, step, loss, rel l2, time and reason of each cell; of more than `most` those that say more."""
    shown = cells if most is None else sorted(cells, key=lambda cell: FIRST.index(cell.state))[:most]
    counts = Counter(cell.state for cell in cells)
    caption = ", ".join(f"{counts[state]} {state}" for state in reversed(FIRST) if counts[state])
    more = f"; {len(cells) - len(shown)} more cells" if len(shown) < len(cells) else ""
    made = Table(caption=caption + more, caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    why = any(cell.reason for cell in shown)
    for name in ("cell", "state", "step", "loss", "rel l2", "time", "left", *["reason"] * why):
        wraps = name in ("cell", "reason")
        made.add_column(name, justify="left" if wraps else "right", overflow="fold", no_wrap=not wraps)
    for cell in shown:
        texts = [cell.name, cell.state, *_numbers(cell).values(), *[cell.reason] * why]
        made.add_row(*map(Text, texts), style=STYLES.get(cell.state))
    return made


def planned(cells: Sequence[Cell]) -> Table:
    """What would run: cells, steps, memory by the estimate, and whether they have a result."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("cell", "state", "steps", "memory"):
        made.add_column(name, justify="right" if name in ("steps", "memory") else "left", overflow="fold")
    for cell in cells:
        made.add_row(*map(Text, (cell.name, cell.state, f"{cell.steps:,}", f"{cell.bytes / 2**20:,.0f} MB")))
    return made


def _numbers(cell: Cell) -> dict[str, str]:
    """Step, loss, error, time so far and left as they are shown; what is not known is empty."""
    row = cell.row
    number = lambda name: f"{row[name]:.2e}" if row.get(name, float("nan")) == row.get(name) else ""
    left = cell.seconds_left if cell.state == "running" else float("nan")
    return {
        "step": f"{row['step']:.0f}/{cell.steps}" if row else "",
        "loss": number("loss"),
        "rel l2": number("rel_l2"),
        "time": duration(row["wall_s"]) if row else "",
        "left": duration(left) if left == left else "",
    }
