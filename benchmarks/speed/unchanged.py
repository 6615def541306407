"""Whether two checkouts compute the same: five short runs bit for bit, and how long their steps take, side by side.

    python -m benchmarks.unchanged --before CHECKOUT [--repeats 5] [--only RUN] [--published-soap] [--quick]
                                   [--out benchmarks/results/unchanged.md]

--before is another checkout of kanpde, such as `git worktree add ../before 837070c`; the other side is the one that
this script is of. A run is a process of its own, on one thread, with everything seeded: problems, backbones, solvers
and optimisers of five kinds. Of each the loss of every step, and the weights at its end, are compared bit for bit.
Both run at once and take turns step by step, so that a machine that changes its speed changes it for both; of --repeats
pairs of processes the median is quoted of each side and of the ratio of a pair of steps, without the first three steps.

--published-soap: SOAP on both sides as pytorch_optimizer has it. Since 045e19e its first step is one of kanpde's own:
a run from before takes another path, on which a spline layer may need fewer of its functions, and so less time.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
import contextlib, hashlib, json, sys, time
import torch, kanpde
from kanpde import problems
name, arguments, given, steps, published_soap, out = json.loads(sys.argv[1])
if published_soap:
    import pytorch_optimizer
    with contextlib.suppress(ImportError):
        from kanpde.optim.optimisers import _soap
        _soap().step = pytorch_optimizer.SOAP.step
losses, seconds = [], []
def note(state):
    global begun
    losses.append(state.loss.hex()); seconds.append(time.perf_counter() - begun)
    print(flush=True); sys.stdin.readline()  # the turn of the other side
    begun = time.perf_counter()
given = {**given, "compile": False, "slices": {"points": 2, "volume": 0}}
problem = getattr(problems, name)(**arguments)
begun = time.perf_counter()
run = kanpde.train(problem, out=out, steps=steps, on_step=note, **given)
digest = hashlib.sha256()
for key, tensor in sorted(run.load_model().state_dict().items()):
    digest.update(key.encode() + tensor.contiguous().numpy().tobytes())
print(json.dumps([losses, digest.hexdigest(), seconds[3:]]))
"""
Found = tuple[list[str], str, list[float]]  # losses, digest of the weights, seconds of the steps


@contextmanager
def started(checkout: Path, name: str, steps: int, published_soap: bool) -> Iterator[subprocess.Popen]:
    """A run by the code of a checkout, which waits for a line after each step."""
    problem, arguments, given = RUNS[name]
    with tempfile.TemporaryDirectory() as folder, Path(folder, "errors").open("w+", encoding="utf-8") as errors:
        told = json.dumps([problem, arguments, given, steps, published_soap, str(Path(folder, "run.h5"))])
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-c", CHILD, told]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
        child = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
        try:
            yield child
        finally:
            child.communicate()
            if child.returncode:
                errors.seek(0)
                raise ConfigError(f"{name} in {checkout}: {errors.read().strip().splitlines()[-1]}")


def ran(sides: Sequence[Path], name: str, steps: int, published_soap: bool) -> list[Found]:
    """Of a run by the code of each checkout the losses, the digest of the weights, and the seconds of the steps."""
    with ExitStack() as stack:
        children = [stack.enter_context(started(checkout, name, steps, published_soap)) for checkout in sides]
        for turn in range(steps):
            for child in children:
                if turn:
                    print(file=child.stdin, flush=True)
                child.stdout.readline()
        found = []
        for child in children:
            print(file=child.stdin, flush=True)
            found.append(json.loads(child.stdout.readline()))
    return found


def compared(before: Path, name: str, repeats: int, steps: int, published_soap: bool) -> list[str]:
    """The line of a run."""
    pairs = []
    for number in range(repeats):
        sides = [before, HERE] if number % 2 else [HERE, before]
        found = ran(sides, name, steps, published_soap)
        pairs.append(found if number % 2 else found[::-1])
    first, second = pairs[0]
    apart = sum(a != b for a, b in zip(first[0], second[0], strict=True))
    timed = [pair for (_, _, was), (_, _, now) in pairs for pair in zip(was, now, strict=True)]
    return [
        name,
        f"{steps - apart} of {steps}",
        "the same" if first[1] == second[1] else "differ",
        f"{1e3 * statistics.median(was for was, _ in timed):.1f}",
        f"{1e3 * statistics.median(now for _, now in timed):.1f}",
        f"{statistics.median(now / was for was, now in timed):.2f}",
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
    parser.add_argument("--only", action="append", choices=RUNS, help="of the runs this one", metavar="RUN")
    parser.add_argument("--published-soap", action="store_true", help="SOAP as pytorch_optimizer has it, on both sides")
    args = parser.common(quick="one process of each side, of few steps").parse_args(argv)
    at_least(args, {"repeats": 1})
    if not (args.before / "kanpde" / "__init__.py").is_file():
        raise ConfigError(f"--before {args.before}: no checkout of kanpde")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, and deliver the table."""
    args = parsed(argv)
    repeats, steps = (1, 6) if args.quick else (args.repeats, STEPS)
    runs = args.only or RUNS
    lines = [compared(args.before.resolve(), name, repeats, steps, args.published_soap) for name in runs]
    soap = "; SOAP on both sides as published" if args.published_soap else ""
    heading = ("run", "losses, bit for bit", "weights", "step before, ms", "step now, ms", "now / before")
    about = f"`python -m benchmarks.unchanged`: {machine()}; before {commit(args.before)}, now {commit(HERE)}{soap}."
    text = "\n".join(["# The same numbers", "", about, "", *markdown(heading, lines), ""])
    deliver(text, args.out)


if __name__ == "__main__":
    exiting(main, "unchanged")
