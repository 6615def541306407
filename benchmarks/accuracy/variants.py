"""What the default solver's choices are worth: variants of its configuration, each trained for as long.

    python -m benchmarks.variants [--study optimisers weighting initialisation scaling widths] [--dims 20 100]
        [--backbones kan metakan] [--minutes 2 | --steps 1500] [--seeds 0] [--problem allen_cahn] [--solver default]
        [--quick] [--runs DIR] [--out benchmarks/results/variants.md]

Every run has the steps that fill --minutes on this machine, its evaluations included; or --steps, where the steps of
all variants cost the same, as those of an initialisation do. --solver is what the variants change. Runs that have
ended are not run again and one that was broken off goes on, by the same command. All runs go to a CSV beside --out.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import fmean

from benchmarks.common.budget import QUICK, checked, cost, parser, settled
from benchmarks.common.machine import machine
from benchmarks.common.study import at_least, deliver, exiting, keep, markdown
from kanpde.backbones import defaults
from kanpde.config import RunConfig, merge
from kanpde.domains.base import kinds_of
from kanpde.kan import network
from kanpde.problems import PROBLEMS
from kanpde.runs.models import Run
from kanpde.training import plan

PLAIN = {"loss": {"gradient": "none"}, "points": {"interior": 400}}
SOFT = {"constraint": "soft", "points": {"boundary": 100, "initial": 100}}  # initial: of problems with time
ADAM = {"optimizer": "adam", "warmup": 0.0}
LBFGS = {"optimizer": "lbfgs", "lr": 1.0, "schedule": "constant", "warmup": 0.0}
NEWTON = {"optimizer": "gauss_newton"}
SPRING = {**NEWTON, "options": {"momentum": 0.95}}
SCALED = {
    f"last 1/6 of the steps gauss_newton, scaling {s:g}": {
        **PLAIN,
        "dtype": "float64",
        "phases": [{"steps": 300}, {**NEWTON, "steps": 60, "options": {"scaling": s}}],
    }
    for s in (0.0, 0.5, 1.0)
}

# Label: what is merged onto the solver's configuration. A list of phases: what is merged onto its first phase; steps
# are in proportion. start: not a configuration's, see `started`. Nothing: one run for all studies.
STUDIES = {
    "optimisers": {
        "default: soap, gradient": {},
        "soap, no gradient": {**PLAIN},
        "adam, no gradient": {**PLAIN, "phases": [ADAM]},
        "adam, gradient": {"phases": [ADAM]},
        "muon, gradient": {"phases": [{"optimizer": "muon"}]},
        "gradient in 4 directions": {"loss": {"directions": 4}},
        "gradient in 16 directions": {"loss": {"directions": 16}},
        "last 1/5 of the steps lbfgs": {"phases": [{"steps": 4000}, {**LBFGS, "steps": 1000}]},
        "no gradient, last 1/200 gauss_newton": {**PLAIN, "phases": [{"steps": 3980}, {**NEWTON, "steps": 20}]},
        "the same, momentum 0.95": {**PLAIN, "phases": [{"steps": 3980}, {**SPRING, "steps": 20}]},
        "average 0.999": {"average": 0.999},
        "cosine": {"phases": [{"schedule": "cosine"}]},
        "one_cycle": {"phases": [{"schedule": "one_cycle", "warmup": 0.0}]},
    },
    "weighting": {
        "default: hard, gradient weight 3": {},
        "gradient weight 0.2": {"loss": {"weights": {"gradient": 0.2}}},
        "gradient weight 20": {"loss": {"weights": {"gradient": 20.0}}},
        "adapt, refresh 10": {"points": {"adapt": {}, "refresh": 10}},
        "rba, refresh 200": {"points": {"refresh": 200}, "loss": {"emphasis": "rba"}},
        "soft": {**SOFT},
        "soft, gradnorm": {**SOFT, "loss": {"balance": "gradnorm"}},
        "soft, ntk": {**SOFT, "loss": {"balance": "ntk"}},
        "soft, relobralo": {**SOFT, "loss": {"balance": "relobralo"}},
    },
    "initialisation": {
        f"default: spread {network.META_SPREAD:g}, hidden_range 1, grid_range auto, scale 2d": {},
        "meta_init linear": {"backbone": {"meta_init": "linear"}},
        "meta_init official": {"backbone": {"meta_init": "official"}},
        "spread 0.003": {"start": {"spread": 0.003}},
        "spread 0.3": {"start": {"spread": 0.3}},
        "prompts x0.3": {"start": {"prompts": 0.3}},
        "prompts x3": {"start": {"prompts": 3.0}},
        "hidden_range 1.5": {"backbone": {"hidden_range": (-1.5, 1.5)}},
        "hidden_range 2": {"backbone": {"hidden_range": (-2.0, 2.0)}},
        "hidden_range 4": {"backbone": {"hidden_range": (-4.0, 4.0)}},
        "grid_range 1": {"backbone": {"grid_range": (-1.0, 1.0)}},
        "scale none": {"loss": {"scale": "none"}},
    },
    "scaling": SCALED,
    "widths": {
        "default: widths 32 32 32": {},
        "widths 64 32 32": {"backbone": {"widths": (64, 32, 32)}},
        "widths 96 32 32": {"backbone": {"widths": (96, 32, 32)}},
        "widths 32 64 32": {"backbone": {"widths": (32, 64, 32)}},
    },
}
FIELDS = ("study", "variant", "problem", "d", "backbone", "seed", "status", "steps", "seconds", "rel_l2")

# ---------------------------------------------------------------------------------------------------------------
# A variant


@contextmanager
def started(spread: float | None = None, prompts: float = 1.0) -> Iterator[None]:
    """Generated weights start with another META_SPREAD, and from prompts times a factor: patched, being no options."""
    linear, kept = network._init_linear, network.META_SPREAD

    def init(weights, *given, **options) -> None:
        linear(weights, *given, **options)
        for w in weights:
            w.prompts.data.mul_(prompts)

    network.META_SPREAD, network._init_linear = kept if spread is None else spread, init
    try:
        yield
    finally:
        network.META_SPREAD, network._init_linear = kept, linear


def applies(variant: dict, backbone: str) -> bool:
    """Whether the backbone has what the variant changes."""
    needed = {*variant.get("backbone", ()), *(["meta_init"] if "start" in variant else ())}
    return needed <= defaults(backbone).keys()


def configured(args, problem, variant: dict, backbone: str, seed: int) -> RunConfig:
    """The solver's configuration with that of the variant merged onto it."""
    plain = {"slices": {"points": 2, "volume": 0}, "device": args.device, "seed": seed, "solver": args.solver}
    plain["backbone"] = {"name": backbone}
    tree = {key: value for key, value in variant.items() if key != "start"}
    if "points" in tree and "initial" not in kinds_of(problem.domain):
        tree["points"] = {kind: n for kind, n in tree["points"].items() if kind != "initial"}
    if "phases" in tree:
        first, few = plan.configured(problem, plain).phases[0].model_dump(), {"steps": 1} if args.quick else {}
        tree["phases"] = [{**first, **phase, **few} for phase in tree["phases"]]
    given = merge(merge(plain, tree), QUICK if args.quick else {})
    return plan.resolved(plan.configured(problem, given), problem)


def steps_for(problem, config: RunConfig, seconds: float, evaluations: int = 24) -> int:
    """The steps that fill `seconds`, as `budget.fitted`, each phase priced by itself: pilots would miss a short one."""
    costs = [cost(problem, config.model_copy(update={"phases": [phase]})) for phase in config.phases]
    step = sum(phase.steps * c.step for phase, c in zip(config.phases, costs, strict=True)) / config.steps
    return max(1, int((seconds - costs[0].once - evaluations * costs[0].evaluation) / step))


def trained(args, label: str, variant: dict, problem, backbone: str, seed: int) -> Run:
    """The run of a variant below --runs, finished."""
    name = re.sub(r"[^a-z0-9.]+", "-", label.lower()) if variant else "as-it-is"
    length = "quick" if args.quick else f"{args.steps}steps" if args.steps else f"{args.minutes:g}min"
    stem = f"{args.problem}-{problem.dim}d-{backbone}-{name}-{Path(args.solver).stem}-{length}-seed{seed}"
    path, seconds = args.runs / f"{stem}.h5", 60 * args.minutes
    with started(**variant.get("start", {})):
        config = configured(args, problem, variant, backbone, seed)
        steps = 8 if args.quick else args.steps or (None if path.is_file() else steps_for(problem, config, seconds))
        run = settled(path, problem, config, seconds, steps)
    print(f"{stem}: {run.rel_l2:.3g} after {run.attrs['steps']} steps", flush=True)
    return run


# ---------------------------------------------------------------------------------------------------------------
# The report


def row(args, study: str, label: str, run: Run) -> dict:
    """A line of the CSV."""
    of_run = {name: run.attrs[name] for name in ("backbone", "seed", "status", "steps")}
    of_run |= {"seconds": round(float(run.history["wall_s"][-1]), 1), "rel_l2": run.rel_l2}
    return {"study": study, "variant": label, "problem": args.problem, "d": run.attrs["dim"], **of_run}


def table(study: str, rows: Sequence[dict]) -> list[str]:
    """A line a variant, a column a dimension and backbone: mean error (mean steps), the least of a column bold."""
    own = [r for r in rows if r["study"] == study]
    columns = dict.fromkeys((r["d"], r["backbone"]) for r in own)
    lines = {label: [label] for label in STUDIES[study]}
    for column in columns:
        runs = {label: [r for r in own if (r["variant"], r["d"], r["backbone"]) == (label, *column)] for label in lines}
        ended = {label: all(r["status"] == "finished" for r in rs) for label, rs in runs.items()}
        errors = {label: fmean(r["rel_l2"] for r in rs) for label, rs in runs.items() if rs}
        best = min((e for label, e in errors.items() if ended[label] and e == e), default=None)
        for label, line in lines.items():
            if label not in errors:
                line.append(None)
                continue
            mark, note = "**" * (errors[label] == best), "" if ended[label] else ", failed"
            line.append(f"{mark}{errors[label]:.3g}{mark} ({round(fmean(r['steps'] for r in runs[label]))}{note})")
    return markdown(["variant", *(f"d {dim}, {backbone}" for dim, backbone in columns)], lines.values())


def report(args, rows: Sequence[dict]) -> str:
    """Markdown: a table for each study."""
    length = f"{args.steps} steps a run" if args.steps else f"{args.minutes:g} minutes a run"
    length = "--quick, a few steps" if args.quick else length
    seeds = f"seed{'s' * (len(args.seeds) > 1)} {', '.join(map(str, args.seeds))}"
    lines = [
        "# Variants of the default solver",
        "",
        f"`python -m benchmarks.variants`: {args.problem}, solver {args.solver}, {length}, {seeds}; "
        f"{machine(args.device)}.",
        "Relative l2 errors, means over seeds, and the numbers of steps; bold: the least of a column.",
    ]
    for study in dict.fromkeys(r["study"] for r in rows):
        lines += ["", f"## {study.capitalize()}", "", *table(study, rows)]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser("variants", __doc__, [20, 100], ["kan", "metakan"], 2.0)
    options.add_argument("--study", nargs="+", choices=STUDIES, default=list(STUDIES))
    options.add_argument("--steps", type=int, help="of every run, instead of --minutes")
    options.add_argument("--problem", choices=PROBLEMS, default="allen_cahn")
    args = checked(options.parse_args(argv))
    if args.steps is not None:
        at_least(args, {"steps": 1})
    rows = []
    for study, dim, backbone, seed in product(args.study, args.dims, args.backbones, args.seeds):
        problem = PROBLEMS[args.problem](dim)
        for label, variant in STUDIES[study].items():
            if not applies(variant, backbone):
                continue
            rows.append(row(args, study, label, trained(args, label, variant, problem, backbone, seed)))
            if args.out:
                deliver(report(args, rows), args.out)
                keep(args.out.with_suffix(".csv"), FIELDS, rows, digits=None)
    print(report(args, rows))


if __name__ == "__main__":
    exiting(main, "variants")
