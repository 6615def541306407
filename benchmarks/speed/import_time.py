"""How long starting takes: `import kanpde` and a dry run, beside `import torch`, which both must do.

    python -m benchmarks.import_time [--repeats 7] [--quick] [--out benchmarks/results/import_time.md]

Each start is a process of its own, the sides in turn, one of each before the first that counts: it fills the caches of
bytecode and of files. Medians are quoted, and the least, which other work on the machine disturbs less.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, deliver, exiting
from kanpde.ground.errors import ConfigError

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
    head = [
        "# Time to start",
        "",
        f"`python -m benchmarks.import_time`: {machine()}, load {os.getloadavg()[0]:.1f} at the end; interleaved",
        f"processes, {len(times[BASE])} of each.",
        "",
        "| process | median, s | least, s | median / torch | least / torch |",
        "| :-- | --: | --: | --: | --: |",
    ]
    median = {name: statistics.median(found) for name, found in times.items()}
    least = {name: min(found) for name, found in times.items()}
    lines = [
        f"| `{name}` | {median[name]:.2f} | {least[name]:.2f} | {median[name] / median[BASE]:.2f} | "
        f"{least[name] / least[BASE]:.2f} |"
        for name in times
    ]
    return "\n".join([*head, *lines]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="import_time", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="processes of a side")
    parser.add_argument("--quick", action="store_true", help="one process of each import, to try the script")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    args = parser.parse_args(argv)
    if args.repeats < 1:
        raise ConfigError("--repeats is at least 1")
    text = report(measure(QUICK, 1) if args.quick else measure(list(SIDES), args.repeats))
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "import_time")
