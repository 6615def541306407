"""How a run goes, as it goes: a live line on a terminal and in a notebook, elsewhere a line per evaluation."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from kanpde.runs import summary
from kanpde.training import verifying
from kanpde.training.loop import State

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 110  # letters from which there is room for a bar
MIB = 2**20


class Progress:
    """Callbacks of `train` and `resume` that show how it goes, within its context.

    In a notebook the line is live where ipywidgets is installed (extra `notebook`).

    Args:
        say: where to.
    Example:
        >>> import kanpde
        >>> from rich.console import Console
        >>> from kanpde.problems import Poisson
        >>> with Progress(Console(quiet=True)) as show:
        ...     calls = {"on_step": show.step, "on_evaluation": show.evaluation}
        ...     run = kanpde.train(Poisson(3), steps=2, out=getfixture("tmp_path") / "run.h5", **calls)
        >>> show.path == run.path
        True
    """

    def __init__(self, say: "Console | None" = None):
        from rich.console import Console  # only now: importing it takes a while
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self.say = Console(highlight=False, soft_wrap=True, markup=False) if say is None else say
        self.text = ""
        self.path: Path | None = None
        self.live: Bar | None = None
        if _can_live(self.say):
            columns = [TextColumn("step {task.completed:.0f}/{task.total:.0f}"), TextColumn("{task.fields[text]}")]
            if self.say.width >= WIDE:
                columns.insert(1, BarColumn(20))
            self.live = Bar(*columns, console=self.say)

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
            self.task = self.live.add_task("", total=0, text="")
        return self

    def __exit__(self, *error) -> None:
        if self.live:
            self.live.stop()

    def step(self, state: State) -> None:
        """After each step."""
        if self.live:
            text = f"loss {number(state.loss)}  {self.text}"
            self.live.update(self.task, completed=state.step, total=state.steps, text=text)

    def evaluation(self, state: State) -> None:
        """After each evaluation."""
        row, self.path = state.row, state.run.path
        if not state.step and "start" in state.run.attrs:
            self.say.print(f"start     {summary.start(state.run)}")
        left = (state.steps - state.step) / state.steps_per_s if state.steps_per_s > 0 else float("nan")
        remaining = "" if left != left else f"  {summary.duration(left)} left"
        error = "" if row["rel_l2"] != row["rel_l2"] else f"rel l2 {row['rel_l2']:.2e}  "
        error += summary.few_unknowns(row)
        self.text = f"{error}{row['steps_per_s']:.1f} steps/s  {row['peak_memory_bytes'] / MIB:.0f} MB{remaining}"
        if self.live:
            self.step(state)
        else:
            self.say.print(f"step {state.step}/{state.steps}  loss {number(state.loss)}  {self.text}")
        if state.step == state.steps and not state.u.problem.fits_rows and state.u.continuous:
            self._announce_verification(state)

    def _announce_verification(self, state: State) -> None:
        config = state.run.config
        seconds = verifying.seconds_for(state.row["wall_s"], config["stop"]["to"]) if config["verify"] else 0
        if seconds:
            self.say.print(f"verifying the error without a solution, for {summary.duration(seconds)} at most")


def _can_live(say: "Console") -> bool:
    if say.quiet:
        return False
    return say.is_terminal or (say.is_jupyter and find_spec("ipywidgets") is not None)


def number(value: float, digits: int = 2) -> str:
    """With so many digits after the point; - where it is not known."""
    return "-" if value != value else f"{value:.{digits}e}"
