"""How long starting takes: `import kanpde` and a dry run, beside `import torch`, which both must do.

    python -m benchmarks.import_time [--repeats 7] [--quick] [--out benchmarks/results/import_time.md]

Each start is a process of its own, the sides in turn, one of each before the first that counts: it fills the caches of
bytecode and of files. Medians are quoted, and the least, which other work on the machine disturbs less.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown

BASE = "import torch"
SIDES = {
    BASE: ["-c", "import torch"],
    "import kanpde": ["-c", "import kanpde"],
    "kanpde solve poisson --dim 100 --dry-run": ["-m", "kanpde", "solve", "poisson", "--dim", "100", "--dry-run"],
}
QUICK = list(SIDES)[:2]


def seconds(arguments: Sequence[str]) -> float:
    """Wall time of a Python process, which may write the bytecode of what it imports."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


def measure(names: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """The times of each side, taken in turn."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for count in range(-1, repeats):
        for name in names:
            found = seconds(SIDES[name])
            if count >= 0:
                times[name].append(found)
                print(f"{name}: {found:.2f} s", file=sys.stderr, flush=True)
    return times


def report(times: dict[str, list[float]]) -> str:
    """Markdown: medians, the least, and their ratios to those of torch alone."""
    about = f"{machine()}, load {os.getloadavg()[0]:.1f} at the end; interleaved processes, {len(times[BASE])} of each."
    heading = ("process", "median, s", "least, s", "median / torch", "least / torch")
    median = {name: statistics.median(found) for name, found in times.items()}
    least = {name: min(found) for name, found in times.items()}
    ratio = lambda of, name: f"{of[name] / of[BASE]:.2f}"
    lines = [
        [f"`{name}`", f"{median[name]:.2f}", f"{least[name]:.2f}", ratio(median, name), ratio(least, name)]
        for name in times
    ]
    return "\n".join(
        ["# Time to start", "", "`python -m benchmarks.import_time`: " + about, "", *markdown(heading, lines), ""]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and deliver the table."""
    parser = Parser("import_time", __doc__).common(quick="one process of each import, to try the script")
    parser.add_argument("--repeats", type=int, default=7, help="processes of a side")
    args = parser.parse_args(argv)
    at_least(args, {"repeats": 1})
    text = report(measure(QUICK, 1) if args.quick else measure(list(SIDES), args.repeats))
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "import_time")
