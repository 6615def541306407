"""Allen-Cahn (two-body) in high dimension, beside the floors, the published errors and the goals.

    python -m benchmarks.high_dim [--dims 1000 10000 100000] [--backbones kan metakan] [--minutes 30] [--seeds 0]
        [--solver high_dim] [--quick] [--runs DIR] [--out benchmarks/results/high_dim.md]

Every run has the steps that fill --minutes on this machine, its evaluations included. Runs that have ended are not run
again, whatever --minutes is now, and one that was broken off goes on, by the same command. Floors: relative l2 errors
of what learns next to nothing, on the same radial points (`kanpde.ground.metrics.Floors`); the skill of a run is its
error over the constant's.
"""

from collections.abc import Sequence
from itertools import product

from benchmarks.common.budget import checked, parser, trained
from benchmarks.common.machine import machine
from benchmarks.common.study import deliver, exiting, markdown
from kanpde.problems import AllenCahn
from kanpde.runs.models import Run

FLOORS = ("constant", "affine", "additive", "taylor2", "no_training")
# Relative l2 errors as printed, by dimension. SDGD (arXiv 2307.12306, torch) and STDE with 16 dimensions a step: STDE,
# arXiv 2412.00088, tables 1 to 3, 10 000 steps; last: its table 12 (without gradients), 20 000 steps.
PUBLISHED = {
    1_000: {"SDGD": 5.6e-4, "STDE": 7.1e-4, "STDE, 20 000 steps": 6.3e-3},
    10_000: {"SDGD": 1.86e-3, "STDE": 8.3e-4, "STDE, 20 000 steps": 1.2e-4},
    100_000: {"SDGD": 2.18e-3, "STDE": 1.5e-3, "STDE, 20 000 steps": 5.4e-4},
}
METHODS = tuple(PUBLISHED[1_000])
GOALS = [  # dimension, what, at most, and whether of runs with the gradient of the residual in the loss alone
    (1_000, "error", 3.5e-4, False),
    (10_000, "error", 2e-4, False),
    (100_000, "skill", 0.8, False),
    (100_000, "skill", 0.35, True),
]
HEADING = ("d", "backbone", "seed", "parameters", "steps", "points", "gradient", "minutes", "error")
HEADING += (*FLOORS, "/ constant", "/ no_training", "peak MB")


def row(run: Run) -> dict:
    """What the table says of a run."""
    floors = {name: run.floors.get(name) for name in FLOORS}
    return {
        "d": run.attrs["dim"],
        "backbone": run.attrs["backbone"],
        "seed": run.attrs["seed"],
        "parameters": run.attrs["parameters"],
        "steps": run.attrs["steps"],
        "points": run.config["points"]["interior"],
        "gradient": run.config["loss"].get("gradient", "none"),
        "minutes": float(run.history["wall_s"][-1]) / 60,
        "error": run.rel_l2,
        **floors,
        "/ constant": run.rel_l2 / floors["constant"],
        "/ no_training": run.rel_l2 / floors["no_training"],
        "peak MB": round(max(run.history["peak_memory_bytes"]) / 2**20),
    }


def verdicts(rows: Sequence[dict]) -> list[str]:
    """A line for every goal and run of its dimension."""
    found = []
    for dim, what, most, enhanced in GOALS:
        for r in (r for r in rows if r["d"] == dim and (r["gradient"] != "none" or not enhanced)):
            got = r["error" if what == "error" else "/ constant"]
            says = "holds" if got <= most else "does not hold"
            note = " with gradient-enhanced residuals" if enhanced else ""
            who = f"d = {dim}, {r['backbone']}, seed {r['seed']}"
            found.append(f"- {who}: {what} {got:.3g}, wanted{note} {most:g}: {says}")
    return found


def report(rows: Sequence[dict], settings: str) -> str:
    """Markdown: our runs, what was published, the goals."""
    dims = dict.fromkeys(r["d"] for r in rows)
    lines = [
        "# Allen-Cahn in high dimension",
        "",
        f"`python -m benchmarks.high_dim`: {settings}.",
        "Errors are relative l2 errors on radial points; skill is the error over the constant's.",
        "",
        *markdown(HEADING, ([r[name] for name in HEADING] for r in rows)),
        "",
        "## Published",
        "",
        "SDGD (Hu et al. 2024, arXiv 2307.12306) and STDE with 16 dimensions a step, as printed in STDE (arXiv",
        "2412.00088), tables 1 to 3, 10 000 steps of 100 points; last its table 12, 20 000 steps. The coefficients",
        "that STDE drew are not known, so its floors may differ.",
        "",
        *markdown(("d", *METHODS), ([dim, *(PUBLISHED.get(dim, {}).get(name) for name in METHODS)] for dim in dims)),
        "",
        "## Goals",
        "",
        *(verdicts(rows) or ["None for these dimensions."]),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser("high_dim", __doc__, [1_000, 10_000, 100_000], ["kan", "metakan"], 30.0, "high_dim")
    args = checked(options.parse_args(argv))
    settings = f"solver {args.solver}{', --quick, a few steps' if args.quick else ''}; {machine(args.device)}"
    rows = []
    for dim, backbone, seed in product(args.dims, args.backbones, args.seeds):
        run = trained(args, f"allen_cahn-{dim}d-{backbone}", AllenCahn(dim), {"name": backbone}, seed)
        rows.append(row(run))
        if args.out:
            deliver(report(rows, settings), args.out)
    print(report(rows, settings))


if __name__ == "__main__":
    exiting(main, "high_dim")
