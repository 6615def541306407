"""What the start in closed form reaches rung by rung on the ball, and what training adds to it.

    python -m benchmarks.ladder [--dims 100 1000 10000] [--problems poisson allen_cahn sine_gordon]
        [--backbones kan metakan] [--seeds 0] [--quick] [--runs DIR] [--out benchmarks/results/ladder.md]

Two-body solutions, relative l2 errors on radial points, of one run a row: of `start: ladder` before training, by rung,
and after it; start is the rung that was kept. The steps are those of `STEPS`; the solver is the default one below
d = 1000, high_dim from there on.
taylor2 is what the polynomial of second degree of the solution itself leaves. Runs that have ended are not run again;
the table is of all of them that lie in --runs.
"""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.accuracy.high_dim import PUBLISHED
from benchmarks.common.budget import QUICK, ended, spread
from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from kanpde.backbones import BACKBONES
from kanpde.problems import PDES
from kanpde.runs.models import Run
from kanpde.training import plan

STEPS = {100: 3000, 1_000: 300, 10_000: 40, 100_000: 10, 1_000_000: 1}
RUNGS = ("constant", "affine", "additive")
HEADING = ("problem", "d", "backbone", "seed", *RUNGS, "start", "taylor2", "numbers", "start s", "network", "steps")
HEADING += ("error", "minutes", "peak MB", "test points", "published")


def row(run: Run) -> dict:
    """What the table says of a run."""
    rungs = json.loads(run.attrs["start_rungs"])
    errors = {r["rung"]: r["rel_l2"] for r in rungs}
    published = PUBLISHED.get(run.attrs["dim"], {}).values() if run.attrs["problem"] == "allen_cahn" else ()
    return {
        "problem": run.attrs["problem"],
        "d": run.attrs["dim"],
        "backbone": run.attrs["backbone"],
        "seed": run.attrs["seed"],
        **{name: errors.get(name) for name in RUNGS},
        "start": run.floors["start"],
        "taylor2": run.floors["taylor2"],
        "numbers": run.attrs["start_numbers"],
        "start s": round(rungs[-1]["wall_s"], 1),
        "network": run.attrs["parameters"],
        "steps": run.attrs["steps"],
        "error": run.rel_l2,
        "minutes": float(run.history["wall_s"][-1]) / 60,
        "peak MB": round(max(run.history["peak_memory_bytes"]) / 2**20),
        "test points": run.attrs["test_points"],
        "published": min(published, default=None),
    }


def rows_of(folder: Path) -> list[dict]:
    """Of all runs in a folder that have ended."""
    runs = [run for path in folder.glob("*.h5") if (run := Run.open(path)).attrs["status"] == "finished"]
    order = lambda r: (r["d"], list(PDES).index(r["problem"]), r["backbone"], r["seed"])
    return sorted(map(row, runs), key=order)


def report(rows: Sequence[dict], settings: str) -> str:
    """Markdown."""
    lines = ["# The start in closed form", "", f"`python -m benchmarks.ladder`: {settings}."]
    lines += [
        "numbers: coefficients of the start; network: parameters beside it; start s: seconds until it is there.",
        "",
    ]
    return "\n".join([*lines, *markdown(HEADING, ([r[name] for name in HEADING] for r in rows))]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Parser("ladder", __doc__)
    options.add_argument("--dims", type=int, nargs="+", default=list(STEPS)[:-2])
    options.add_argument("--problems", nargs="+", choices=PDES, default=["poisson", "allen_cahn", "sine_gordon"])
    options.add_argument("--backbones", nargs="+", choices=BACKBONES, default=["kan"], metavar="NAME")
    options.add_argument(
        "--runs", type=Path, default=Path("runs/ladder"), metavar="DIR", help="where the runs are kept"
    )
    args = options.common(seeds=[0], quick="a few steps of few points, to see that all works").parse_args(argv)
    at_least(args, {"dims": 3, "seeds": 0})
    settings = machine() + (", --quick, a few steps" if args.quick else "")
    for dim, name, backbone, seed in product(args.dims, args.problems, args.backbones, args.seeds):
        problem = PDES[name](dim)
        given = {"slices": {"points": 2, "volume": 0}, "seed": seed, "start": "ladder"}
        config = plan.configured(problem, {**given, **(QUICK if args.quick else {}), "backbone": {"name": backbone}})
        steps = 8 if args.quick else STEPS[min((d for d in STEPS if d >= dim), default=max(STEPS))]
        config = plan.resolved(spread(config, steps), problem)
        path = args.runs / f"{name}-{dim}d-{backbone}{'-quick' if args.quick else ''}-seed{seed}.h5"
        found = row(ended(path, problem, config, lambda config=config: config))
        print(f"{path.stem}: {found['start']:.3g}, trained {found['error']:.3g}", flush=True)
        if args.out:
            deliver(report(rows_of(args.runs), settings), args.out)
    print(report(rows_of(args.runs), settings))


if __name__ == "__main__":
    exiting(main, "ladder")
