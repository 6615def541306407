"""What is left of runs that are killed, doubled, stopped, or have no room to write: tried, and failed.

    python -m benchmarks.crashes [--kills 25] [--seed 0] [--jobs 1] [--out benchmarks/results/crashes.md]

Five kinds of runs of about a second each. Of each kind one is left alone; what becomes of the others is compared with
it. `kill`: SIGKILL at a random time of the run, and in every third of its resumption too. `write`: SIGKILL at a random
write, when half of the file is there, when all of it is, or once it has taken the place of the former one. Then:

- every file opens, and the history has the evaluations that the command line has told of;
- the same command again, or --resume where there is a result, ends bit for bit as the run that was left alone: history
  (but for the columns of the machine), weights, best weights;
- result and checkpoint are all that lies there, and nothing has printed a traceback. Where the kill came between the
  last write and the end, the lock's file lies there too, until the next command: it locks nothing.

`twins`: two commands with one --out, the second at a random time. `stopped`: SIGSTOP at a random time, a second command
meanwhile, SIGCONT. Of both one ends as the run alone, the other with one line and exit code 2. `full`: files cannot
grow beyond a random size; one line, and the run goes on once there is room. `read-only`: a folder that cannot be
written; one line, and what is there is as it was. Pictures are left out: they are drawn from the result.
"""

import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytorch_optimizer  # noqa: F401 - what a run imports on its way is there before the processes of runs are
import torch
import torch._dynamo
import torch._inductor.compile_fx

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde import cli, plot
from kanpde.ground.errors import ConfigError
from kanpde.records.run import RunFileError
from kanpde.runs.models import Run
from kanpde.runs.rerun import compared
from kanpde.training.checkpoints import load_checkpoint

EVERY = ["--no-verify", "--set", "points.test=200", "--set", "points.validation=50", "--set", "slices.points=5"]
EVERY += ["--set", "slices.volume=0", "--set", "points.interior=40", "--set", "evaluation.every=2"]
SMALL = ["--set", "backbone.widths=[4]"]
PHASES = "phases=[{optimizer: adam, steps: 20}, {optimizer: lbfgs, steps: 8}]"
KINDS = {
    "adam": ["poisson", "--dim", "3", "--backbone", "kan", "--solver", "adam", "--steps", "80", *SMALL],
    "soap": ["allen_cahn", "--dim", "4", "--backbone", "metakan", "--steps", "40", *SMALL],
    "lbfgs": ["poisson", "--dim", "2", "--backbone", "kan", "--set", PHASES, *SMALL],
    "gauss_newton": ["burgers", "--solver", "low_dim", "--steps", "8", "--set", "backbone.widths=[4]"],
    "fit": ["feynman", "--solver", "fit", "--steps", "60", *SMALL],
}
WAYS = ("kill", "write", "twins", "stopped", "full", "read-only")
STAGES = ("half", "whole", "replaced")
COLUMNS = ("number", "kind", "way", "when", "ended", "failed")
LIMIT = 120  # seconds of a command: more is a hang
NOBODY = 65534


# ---------------------------------------------------------------------------------------------------------------
# Commands as children of this process, which has imported all that they need


def begin(words: Sequence[str], log: Path, first: Callable[[], object] | None = None) -> int:
    """The process of a command of the console script, whose output goes to a log; `first` is called in it before."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        sys.stdout = sys.stderr = log.open("a", buffering=1, encoding="utf-8")
        os.dup2(sys.stdout.fileno(), 1)
        os.dup2(sys.stdout.fileno(), 2)
        torch.set_num_threads(1)
        plot.main_pictures = lambda run: []
        sys.argv = ["kanpde", *words]
        if first is not None:
            first()
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int, seconds: float = LIMIT) -> int | None:
    """The exit code of a process, negative by a signal; None: it was at work for so long, and has been killed."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def dying(number: int, stage: str) -> None:
    """Kill this process at its write of that number."""
    replace, left = os.replace, [number]

    def at_work(source, target) -> None:
        left[0] -= 1
        if left[0]:
            replace(source, target)
            return
        if stage == "half":
            os.truncate(source, os.path.getsize(source) // 2)
        elif stage == "replaced":
            replace(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    os.replace = at_work


def cramped(size: int) -> None:
    """No file of this process grows beyond a size, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def unprivileged() -> None:
    """Be somebody to whom a folder can be closed."""
    if os.geteuid() == 0:
        os.setuid(NOBODY)


# ---------------------------------------------------------------------------------------------------------------
# A run in a folder, and what can be wrong with it


class Trial:
    """A run of a kind as commands in a folder; `failed` says what was wrong first."""

    def __init__(self, kind: str, folder: Path):
        self.kind, self.folder, self.failed = kind, folder, ""
        self.path, self.logs = folder / "run" / "X.h5", 0
        self.path.parent.mkdir()

    @property
    def words(self) -> list[str]:
        """The command that a user gives next."""
        if self.path.exists():
            return ["solve", "--resume", str(self.path)]
        return ["solve", *KINDS[self.kind], *EVERY, "--out", str(self.path)]

    def log(self) -> Path:
        self.logs += 1
        return self.folder / f"{self.logs}.log"

    def check(self, right: bool, what: str) -> None:
        if not right and not self.failed:
            self.failed = what

    def go(self, first: Callable[[], object] | None = None, after: float = LIMIT) -> tuple[int | None, str]:
        """One command, killed after so many seconds; its exit code and what it printed."""
        log = self.log()
        pid = begin(self.words, log, first)
        code = ended(pid, after)
        text = log.read_text(encoding="utf-8")
        self.check("Traceback" not in text, f"a traceback: {text[-300:]}")
        self.check(code is not None or after < LIMIT, "a hang")
        return code, text

    def intact(self, text: str) -> None:
        """After a kill: every file opens, and has what was told."""
        told = [int(line.split()[1].split("/")[0]) for line in text.splitlines() if line.startswith("step ")]
        try:
            if told:
                steps = list(Run.open(self.path).history["step"])
                self.check(steps[-1] >= told[-1], f"step {told[-1]} was told of, the file ends with {steps[-1]}")
                self.check(steps == list(whole(self.kind).history["step"])[: len(steps)], f"rows {steps}")
            for path in self.path.parent.glob("[!.]*"):
                load_checkpoint(path) if path.suffix == ".pt" else Run.open(path)
        except (ConfigError, RunFileError, OSError) as error:
            self.check(False, f"unreadable: {error}")

    def as_alone(self, struck_at_the_end: bool) -> None:
        """At the end: all is bit for bit that of the run that was left alone, and nothing else lies there."""
        try:
            run, other = Run.open(self.path), whole(self.kind)
            found = compared(run, other)
            self.check(found.first is None and len(run.history["step"]) == len(other.history["step"]), str(found))
            ours, theirs = load_checkpoint(run.checkpoint), load_checkpoint(other.checkpoint)
            for mine, its in (
                (ours["weights"], theirs["weights"]),
                (ours["best"]["weights"], theirs["best"]["weights"]),
            ):
                self.check(all(torch.equal(mine[name], its[name]) for name in its), "other weights")
        except (ConfigError, RunFileError, OSError) as error:
            self.check(False, f"unreadable: {error}")
        there = {path.name for path in self.path.parent.iterdir()} - ({".X.h5.lock"} if struck_at_the_end else set())
        self.check(there == {"X.h5", "X.pt"}, f"left: {sorted(there)}")

    def refused(self, code: int | None, text: str) -> None:
        """Exit code 2 and one line that is a complaint."""
        lines = [line for line in text.splitlines() if line.startswith("kanpde: ")]
        self.check(code == 2 and len(lines) == 1, f"no refusal: {code}, {text[-300:]}")


@cache
def alone(kind: str) -> tuple[Path, float]:
    """The result of a run that is left alone, and its seconds."""
    trial, start = Trial(kind, Path(tempfile.mkdtemp(prefix="crashes-"))), time.monotonic()
    code, text = trial.go()
    if code:
        raise ConfigError(f"the run {kind} does not end: {text[-500:]}")
    return trial.path, time.monotonic() - start


def whole(kind: str) -> Run:
    """The run that was left alone."""
    return Run.open(alone(kind)[0])


# ---------------------------------------------------------------------------------------------------------------
# The ways


def kill(trial: Trial, drawn: random.Random) -> str:
    """SIGKILL at a random time of the run, and maybe of its resumption."""
    when = drawn.uniform(0, 1.05 * alone(trial.kind)[1])
    trial.intact(trial.go(after=when)[1])
    if not drawn.randrange(3) and trial.path.exists():
        trial.intact(trial.go(after=drawn.uniform(0, alone(trial.kind)[1]))[1])
    return f"{when:.2f} s"


def write(trial: Trial, drawn: random.Random) -> str:
    """SIGKILL at a random write."""
    writes = 2 * (len(whole(trial.kind).history["step"]) + 1)  # of checkpoint and result
    number, stage = drawn.randint(1, writes), drawn.choice(STAGES)
    trial.intact(trial.go(lambda: dying(number, stage))[1])
    return f"{number} {stage}"


def under_way(trial: Trial, drawn: random.Random) -> tuple[float, list[Path], int]:
    """A run that has been at work for a random time: the seconds, logs for two commands, and its process."""
    when, logs = drawn.uniform(0, alone(trial.kind)[1]), [trial.log(), trial.log()]
    process = begin(trial.words, logs[0])
    time.sleep(when)
    return when, logs, process


def twins(trial: Trial, drawn: random.Random) -> str:
    """Two commands with one --out."""
    when, logs, first = under_way(trial, drawn)
    second = begin(trial.words, logs[1])
    one_of_two(trial, [first, second], logs)
    return f"{when:.2f} s"


def stopped(trial: Trial, drawn: random.Random) -> str:
    """A second command while the first is stopped."""
    when, logs, first = under_way(trial, drawn)
    os.kill(first, signal.SIGSTOP)
    second = begin(trial.words, logs[1])
    code = ended(second)
    os.kill(first, signal.SIGCONT)
    one_of_two(trial, [first], logs, [code])
    return f"{when:.2f} s"


def one_of_two(trial: Trial, pids: list[int], logs: list[Path], codes: Sequence[int | None] = ()) -> None:
    """One of two commands has done the run, the other was refused."""
    codes = [*(ended(pid) for pid in pids), *codes]
    texts = [log.read_text(encoding="utf-8") for log in logs]
    trial.check(0 in codes, f"neither has ended: {codes}")
    if 0 in codes:
        loser = 1 - codes.index(0)
        trial.refused(codes[loser], texts[loser])


def full(trial: Trial, drawn: random.Random) -> str:
    """No room for what is written."""
    path = alone(trial.kind)[0]
    most = max(path.stat().st_size, path.with_suffix(".pt").stat().st_size)
    size = drawn.randint(4096, most)
    code, text = trial.go(lambda: cramped(size))
    lines = [line for line in text.splitlines() if line.startswith("kanpde: ") and "cannot be written" in line]
    trial.check((code, len(lines)) in ((1, 1), (0, 0)), f"no single line: {code}, {text[-300:]}")
    trial.check(not code or text.rstrip().splitlines()[-1] in lines, f"more than the line: {text[-300:]}")
    return f"{size} bytes"


def read_only(trial: Trial, drawn: random.Random) -> str:
    """A folder that cannot be written, at the beginning and at a resumption."""
    folder = trial.path.parent
    for each in (trial.folder, folder):
        each.chmod(0o555)
    trial.refused(*trial.go(unprivileged))
    for each in (trial.folder, folder):
        each.chmod(0o777)
    after = drawn.uniform(0.3, 0.9) * alone(trial.kind)[1]
    trial.go(after=after)
    before = {path.name: path.read_bytes() for path in folder.glob("[!.]*")}
    folder.chmod(0o555)
    trial.refused(*trial.go(unprivileged))
    trial.check(before == {path.name: path.read_bytes() for path in folder.glob("[!.]*")}, "files have changed")
    folder.chmod(0o777)
    return f"{after:.2f} s"


ACTS = dict(zip(WAYS, (kill, write, twins, stopped, full, read_only), strict=True))


def tried(task: tuple[int, str, str, int]) -> list[Row]:
    """One trial: the way, then the same command again until the run is done, then the comparison."""
    number, kind, way, seed = task
    alone(kind)
    drawn = random.Random(f"{seed}/{number}/{kind}/{way}")
    with tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        trial = Trial(kind, Path(folder))
        when = ACTS[way](trial, drawn)
        ended_before = trial.path.exists() and Run.open(trial.path).attrs["status"] == "finished"
        if not ended_before:
            code, text = trial.go()
            trial.check(code == 0, f"does not go on: {text[-300:]}")
        trial.as_alone(struck_at_the_end=ended_before and way in ("kill", "write"))
    row = (number, kind, way, when, "ended" if ended_before else "", " ".join(trial.failed.split()))
    return [dict(zip(COLUMNS, row, strict=True))]


# ---------------------------------------------------------------------------------------------------------------
# The table


def report(rows: list[Row]) -> str:
    """Markdown: tried and failed by kind and way, and what has failed."""
    lines = ["# Runs that are killed, doubled, stopped, or have no room", ""]
    lines += [f"`python -m benchmarks.crashes`, on {machine()}. Tried / failed; what is tried: see the script.", ""]
    count = lambda found: f"{len(found)} / {sum(bool(row['failed']) for row in found)}" if found else "-"
    of = lambda kind, way: [row for row in rows if kind in (None, row["kind"]) and way in (None, row["way"])]
    kinds = [kind for kind in KINDS if of(kind, None)]
    table = [[way, *(count(of(kind, way)) for kind in kinds), count(of(None, way))] for way in WAYS if of(None, way)]
    table.append(["all", *(count(of(kind, None)) for kind in kinds), count(rows)])
    lines += markdown(["", *kinds, "all"], table)
    struck = [row for row in rows if row["way"] in ("kill", "write") and not row["ended"]]
    lines += ["", f"{len(struck)} kills came before the end of the run."]
    if failed := [row for row in rows if row["failed"]]:
        lines += ["", "## Failed", ""]
        lines += markdown(
            ["number", "kind", "way", "when", "what"], [[r[c] for c in COLUMNS if c != "ended"] for r in failed]
        )
    return "\n".join(lines) + "\n"


def tasks(kinds: Sequence[str], ways: Sequence[str], kills: int, seed: int) -> dict:
    """By (number, kind, way): so many kills of each way and kind, and an eighth as many of what is no kill."""
    times = {way: kills if way in ("kill", "write") else max(1, kills // 8) for way in ways}
    every = [(number, kind, way) for way in ways for kind in kinds for number in range(times[way])]
    return {task: (*task, seed) for task in every}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("crashes", __doc__)
    parser.cases(list(KINDS), "kind", "--kinds")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--kills", type=int, default=25, help="of each kind and way")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.common(RESULTS / "crashes.md", jobs=1).parse_args(argv)
    at_least(args, {"kills": 1, "jobs": 1})
    key = lambda row: (int(row["number"]), row["kind"], row["way"])
    place = lambda row: (WAYS.index(row["way"]), list(KINDS).index(row["kind"]), int(row["number"]))
    study = Study(args.out, COLUMNS, report, key, place, key)
    say = lambda task, rows: f"{rows[0]['way']} {rows[0]['kind']} {rows[0]['when']}: {rows[0]['failed'] or 'as alone'}"
    study.run(tried, tasks(args.kinds, args.ways, args.kills, args.seed), args.jobs, say)
    print(args.out)


if __name__ == "__main__":
    exiting(main, "crashes")
