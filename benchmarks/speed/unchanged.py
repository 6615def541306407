"""Whether two checkouts compute the same: five short runs bit for bit, and how long their steps take, side by side.

    python -m benchmarks.unchanged --before CHECKOUT [--repeats 5] [--quick] [--out benchmarks/results/unchanged.md]

--before is another checkout of kanpde, such as `git worktree add ../before 837070c`; the other side is the one that
this script is of. A run is a process of its own, on one thread, with everything seeded: problems, backbones, solvers
and optimisers of five kinds. Of each the loss of every step, and the weights at its end, are compared bit for bit.
Steps are timed in --repeats processes of each side in turn; the median is quoted, without the first three of each.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from kanpde.ground.errors import ConfigError

HERE = Path(__file__).resolve().parents[2]
POINTS = {"test": 200, "validation": 100}
RUNS = {  # problem, its arguments, and what kanpde.train is told
    "poisson 20, metakan, SOAP": (
        "Poisson",
        {"dim": 20},
        {"backbone": "metakan", "points": {"interior": 50, **POINTS}},
    ),
    "allen_cahn 1000, kan, high_dim": ("AllenCahn", {"dim": 1000}, {"backbone": "kan", "points": POINTS}),
    "heat 5, fastkan, Adam, soft": (
        "Heat",
        {"dim": 5},
        {
            "backbone": "fastkan",
            "solver": "adam",
            "constraint": "soft",
            "points": {"interior": 60, "boundary": 20, "initial": 20, **POINTS},
        },
    ),
    "sine_gordon 10, metachebykan, L-BFGS, Hutchinson": (
        "SineGordon",
        {"dim": 10},
        {
            "backbone": "metachebykan",
            "solver": "adam",
            "operator": {"name": "hutchinson", "probes": 4},
            "phases": [{"optimizer": "adam", "steps": 6}, {"optimizer": "lbfgs", "steps": 6}],
            "points": {"interior": 60, **POINTS},
        },
    ),
    "feynman I.12.5, kan, Gauss-Newton": (
        "Feynman",
        {"equation": "I.12.5"},
        {"backbone": {"name": "kan", "widths": [4]}, "points": {"interior": 200, **POINTS}},
    ),
}
STEPS = 12
CHILD = """
import hashlib, json, sys, time
import torch, kanpde
from kanpde import problems
name, arguments, given, steps, out = json.loads(sys.argv[1])
losses, ticks = [], [time.perf_counter()]
def note(state):
    losses.append(state.loss.hex()); ticks.append(time.perf_counter())
given = {**given, "compile": False, "slices": {"points": 2, "volume": 0}}
problem = getattr(problems, name)(**arguments)
run = kanpde.train(problem, out=out, steps=steps, on_step=note, **given)
digest = hashlib.sha256()
for key, tensor in sorted(run.load_model().state_dict().items()):
    digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
print(json.dumps([losses, digest.hexdigest(), [b - a for a, b in zip(ticks[3:], ticks[4:])]]))
"""
Found = tuple[list[str], str, list[float]]


def ran(checkout: Path, name: str, steps: int) -> Found:
    """The losses, the digest of the weights, and the seconds of the steps of a run by the code of a checkout."""
    problem, arguments, given = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        told = json.dumps([problem, arguments, given, steps, str(Path(folder, "run.h5"))])
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", CHILD, told]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{name} in {checkout}: {done.stderr.strip().splitlines()[-1]}")
    losses, digest, seconds = json.loads(done.stdout.splitlines()[-1])
    return losses, digest, seconds


def compared(before: Path, name: str, repeats: int, steps: int) -> list[str]:
    """The line of a run."""
    sides = {"before": before, "now": HERE}
    found: dict[str, list[Found]] = {side: [] for side in sides}
    for number in range(repeats):
        for side in list(sides) if number % 2 else reversed(sides):
            found[side].append(ran(sides[side], name, steps))
    first, second = found["before"][0], found["now"][0]
    apart = sum(a != b for a, b in zip(first[0], second[0], strict=True))
    median = {side: statistics.median(t for _, _, seconds in of for t in seconds) for side, of in found.items()}
    return [
        name,
        f"{steps - apart} of {steps}",
        "the same" if first[1] == second[1] else "differ",
        f"{1e3 * median['before']:.1f}",
        f"{1e3 * median['now']:.1f}",
        f"{median['now'] / median['before']:.2f}",
    ]


def commit(checkout: Path) -> str:
    """The commit of a checkout, and a digest of what is not committed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(checkout), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    changes = git("diff", "HEAD", "--", "kanpde")
    digest = hashlib.sha256(changes.encode()).hexdigest()[:7]
    return git("rev-parse", "--short", "HEAD").strip() + (f" with changes {digest}" if changes else "")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = Parser("unchanged", __doc__)
    parser.add_argument("--before", type=Path, required=True, help="another checkout")
    parser.add_argument("--repeats", type=int, default=5, help="processes of each side")
    args = parser.common(quick="one process of each side, of few steps").parse_args(argv)
    at_least(args, {"repeats": 1})
    if not (args.before / "kanpde" / "__init__.py").is_file():
        raise ConfigError(f"--before {args.before}: no checkout of kanpde")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and deliver the table."""
    args = parsed(argv)
    repeats, steps = (1, 6) if args.quick else (args.repeats, STEPS)
    lines = [compared(args.before.resolve(), name, repeats, steps) for name in RUNS]
    heading = ("run", "losses, bit for bit", "weights", "step before, ms", "step now, ms", "now / before")
    about = f"`python -m benchmarks.unchanged`: {machine()}; before {commit(args.before)}, now {commit(HERE)}."
    text = "\n".join(["# The same numbers", "", about, "", *markdown(heading, lines), ""])
    deliver(text, args.out)


if __name__ == "__main__":
    exiting(main, "unchanged")
