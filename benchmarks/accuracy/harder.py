"""Poisson with solutions that stay hard in high dimension: errors and learning curves beside what fits them best.

    python -m benchmarks.harder [--dims 20 100] [--solutions scaled coupled] [--minutes 4] [--seeds 0] [--quick]
        [--backbones kan metakan chebykan fourierkan mlp] [--solver default] [--runs DIR]
        [--out benchmarks/results/harder.md]

Every run has the steps that fill --minutes on this machine, its evaluations included. mlp stands for two: three hidden
layers of tanh, as wide as give about as many parameters as the kan has, and as the metakan, which starts from sines and
has a small meta-learner for each layer and wider hidden grids. An mlp that took more steps than the kan or metakan
of its size is trained once more, with as many. Runs that have ended are not run again and one that was broken off goes
on, by the same command.
The curves go to a CSV beside --out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import pi, sqrt

import torch
from torch import Tensor

from benchmarks.common.budget import checked, configured, parser, trained
from benchmarks.common.machine import machine
from benchmarks.common.study import Row, deliver, exiting, keep, markdown
from kanpde import count_parameters
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems import Poisson
from kanpde.problems.solutions import SOLUTIONS
from kanpde.runs.models import Run
from kanpde.training.plan import Plan

FRACTIONS = {"1/8": 1 / 8, "1/4": 1 / 4, "1/2": 1 / 2, "end": 1.0}  # of the steps
OPTIONS = {  # 4,164 parameters at d = 20
    "metakan": {"meta_init": "sine", "meta_share": "layer", "meta_hidden": 32, "hidden_range": (-1.5, 1.5)}
}
LIKE = ("kan", "metakan")  # whose numbers of parameters the mlps have
SAME = {"minutes": "mlp, as many minutes", "steps": "mlp, as many steps"}
KINDS = ("constant", "affine", "additive", "quadratic", "source")
HEADING = ("solution", "d", "backbone", "seed", "parameters", "steps", "seconds", *FRACTIONS, "error", "/ least fit")
CURVE = ("solution", "d", "backbone", "seed", "step", "seconds", "rel_l2")

# ---------------------------------------------------------------------------------------------------------------
# What fits the solution best


def columns(problem: Poisson, x: Tensor) -> dict[str, Tensor]:
    r"""Columns (N, k) of which the best combination is the best fit to u of its kind.

    u = m sum_i c_i phi(x_i ... x_i+r), and the law of x is that of its permutations and changes of sign. So the best
    fit to a term is the same for all i: p(x_i ... x_i+r) + sum_j q(x_j) with q even, and with C = sum_i c_i that to u

        m [sum_i c_i p(x_i ... x_i+r) + C sum_j q(x_j)]

    where p is a constant; affine; additive, p = sum_k g_k(x_i+k) with g_k and q spanned by y, y^2 and the Fourier
    functions of [-4, 4] up to the eighth, y = sqrt(d) x; or quadratic with q(x_j) = x_j^2, which is the best of all
    d (d + 1) / 2 products with a few unknowns. `source`: u read off its source, -m g / (2 d) times a cubic of m.
    """
    solution, y, m = problem.closed_form, sqrt(problem.dim) * x, problem.factor(x).value
    c = torch.as_tensor(solution.c, dtype=x.dtype, device=x.device)
    parts = [y[:, k : k + len(c)] for k in range(problem.dim - len(c) + 1)]
    waves = [wave(j * pi / 4 * y) for j in range(1, 9) for wave in (torch.sin, torch.cos)]
    local = lambda g: [g[:, k : k + len(c)] @ c for k in range(len(parts))]
    everywhere = lambda g: c.sum() * g.mean(1)
    constant = [c.sum().expand(len(x))]
    affine = constant + local(y)
    additive = affine + [column for g in (y.square(), *waves) for column in (*local(g), everywhere(g))]
    quadratic = [(a * b) @ c for k, a in enumerate(parts) for b in parts[k:]]
    quadratic += [*affine, everywhere(y.square())]
    found = {"constant": constant, "affine": affine, "additive": additive, "quadratic": quadratic}
    guess = problem.untrained(x)
    found = {name: m.unsqueeze(1) * torch.stack(cs, 1) for name, cs in found.items()}
    return found | {"source": torch.stack([guess * m**k for k in range(4)], 1)}


def fits(problem: Poisson, points: int, block: int = 250) -> dict[str, float]:
    """Relative l2 errors of the best fits on radial points, fitted on `points` and measured on as many others."""
    held = {name: [] for name in ("u", *KINDS)}
    generator = stream(0, "fits")
    for _ in range(2 * points // block):
        x = problem.domain.interior(block, generator, dtype=torch.float32)
        for name, t in {"u": problem.exact(x), **columns(problem, x)}.items():
            held[name].append(t.double())
    u, half = torch.cat(held["u"]), points // block * block
    return {name: held_out(torch.cat(held[name]), u, half) for name in KINDS}


def held_out(a: Tensor, u: Tensor, n: int) -> float:
    """|a y - u| / |u| on the rows from n on, y fitted to the first n."""
    a = a / a.norm(dim=0).clamp_min(1e-300)
    y = torch.linalg.lstsq(a[:n], u[:n].unsqueeze(1), rcond=1e-10, driver="gelsd").solution
    return ((a[n:] @ y).squeeze(1) - u[n:]).norm().item() / u[n:].norm().item()


# ---------------------------------------------------------------------------------------------------------------
# Networks of about as many parameters


def mlp_width(dim: int, parameters: int, layers: int = 3) -> int:
    """The width of hidden layers that comes nearest to a number of parameters."""
    count = lambda w: sum((a + 1) * b for a, b in pairwise([dim, *[w] * layers, 1]))
    return min(range(1, 2 + int(sqrt(parameters))), key=lambda w: abs(count(w) - parameters))


@dataclass(frozen=True)
class Net:
    """A backbone by the name it has in the table and its options; of an mlp, which network it is compared with, and
    what is the same for both.
    """

    label: str
    options: dict
    against: str | None = None
    same: str = "minutes"


def backbone(name: str) -> dict:
    """What the configuration says of it."""
    return {"name": name, **OPTIONS.get(name, {})}


def networks(args, problem: Poisson) -> Iterator[Net]:
    """Those that a problem is solved by."""
    for name in sorted(args.backbones, key="mlp".__eq__):  # the mlps last: they take the steps of others
        if name != "mlp":
            yield Net(name, backbone(name))
            continue
        for like in LIKE:
            net = Plan.of(configured(args, problem, backbone(like), 0), problem).net
            width = mlp_width(problem.dim, count_parameters(net))
            options = {"name": "mlp", "widths": [width] * 3}
            yield Net(f"mlp_{width}", options, like)
            if like in args.backbones:
                yield Net(f"mlp_{width}, steps of {like}", options, like, "steps")


def runs(args, problem: Poisson, seed: int) -> Iterator[tuple[Net, Run]]:
    """All networks, trained; an mlp with the steps of another only where it took more in the same time.

    Raises:
        ConfigError: a run that lies there has another number of steps.
    """
    steps: dict[str, int] = {}
    for net in networks(args, problem):
        wanted = steps[net.against] if net.same == "steps" else None
        if wanted and steps[net.label.split(",")[0]] <= wanted:
            continue
        name = f"{problem.solution}-{problem.dim}d-{net.label.replace(', ', '-').replace(' ', '-')}"
        run = trained(args, name, problem, net.options, seed, wanted)
        took = steps[net.label] = run.attrs["steps"]
        if wanted and run.attrs["status"] == "finished" and took != wanted:
            raise ConfigError(
                f"{run.path}: given {took} steps, needed are {wanted} as of {net.against}: name other --runs"
            )
        yield net, run


# ---------------------------------------------------------------------------------------------------------------
# The report


def row(problem: Poisson, net: Net, run: Run, least: float) -> dict:
    """What the table says of a run; the learning curve by the evaluation next to a fraction of the steps."""
    errors, last = dict(zip(run.history["step"], run.history["rel_l2"], strict=True)), run.attrs["steps"]
    at = lambda fraction: float(errors[min(errors, key=lambda step: abs(step - fraction * last))])
    return {
        "solution": problem.solution,
        "d": problem.dim,
        "backbone": net.label,
        "seed": run.attrs["seed"],
        "parameters": run.attrs["parameters"],
        "steps": run.attrs["steps"],
        "seconds": round(float(run.history["wall_s"][-1])),
        **{name: at(fraction) for name, fraction in FRACTIONS.items()},
        "error": run.rel_l2,
        "/ least fit": run.rel_l2 / least,
        "against": net.against,
        "same": net.same,
    }


def beside(rows: Sequence[dict]) -> Iterator[list]:
    """Rows of the table that compares a network with the mlps of its size: of as many parameters as one of `LIKE`."""
    key = lambda r, name: (r["solution"], r["d"], name, r["seed"])
    errors = {(key(r, r["against"]), r["same"]): r["error"] for r in rows if r["against"]}
    likes = {(key(r, ""), r["parameters"]): r["backbone"] for r in rows if r["backbone"] in LIKE}
    for r in rows:
        like = None if r["against"] else likes.get((key(r, ""), r["parameters"]))
        minutes, steps = (errors.get((key(r, like), same)) for same in SAME)
        if minutes is not None:
            yield [*key(r, r["backbone"]), r["error"], minutes, steps if r["backbone"] == like else None]


def curve(problem: Poisson, net: Net, run: Run) -> list[Row]:
    """Rows of the CSV: an evaluation each."""
    names = problem.solution, problem.dim, net.label, run.attrs["seed"]
    history = zip(*(run.history[name] for name in ("step", "wall_s", "rel_l2")), strict=True)
    rows = ([*names, int(step), f"{seconds:.1f}", f"{error:.6g}"] for step, seconds, error in history)
    return [dict(zip(CURVE, row, strict=True)) for row in rows]


def report(best: dict[Poisson, dict], rows: Sequence[dict], settings: str) -> str:
    """Markdown: the best fits, what training reaches, and networks beside the mlps of their size."""
    lines = [
        "# Solutions that stay hard in high dimension",
        "",
        f"`python -m benchmarks.harder`: Poisson, {settings}.",
        "Errors are relative l2 errors on radial points.",
        "",
        "## What fits best",
        "",
        "m times a constant, an affine, an additive or a quadratic function, and the solution read off its source,",
        "-m g / (2 d) times a cubic of m: fitted on half of the points, measured on the others.",
        "",
        *markdown(("solution", "d", *KINDS), ([p.solution, p.dim, *found.values()] for p, found in best.items())),
        "",
        "## What training reaches",
        "",
        "At fractions of the steps and at the end; error: of the weights that validation chose; beside it this over",
        "the least fit. mlp_n has three hidden layers of n tanh, for about as many parameters as kan or metakan, which",
        f"has the options {OPTIONS['metakan']}.",
        "",
        *markdown(HEADING, ([r[name] for name in HEADING] for r in rows)),
        "",
        "## Beside the mlp with as many parameters",
        "",
        "-: it took no more steps in as many minutes, or was not trained with these.",
        "",
        *markdown(("solution", "d", "backbone", "seed", "error", *SAME.values()), beside(rows)),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser("harder", __doc__, [20, 100], ["kan", "metakan", "chebykan", "fourierkan", "mlp"], 4.0)
    options.add_argument("--solutions", nargs="+", choices=SOLUTIONS, default=["scaled", "coupled"])
    args = checked(options.parse_args(argv))
    length = "--quick, a few steps" if args.quick else f"{args.minutes:g} minutes a run"
    settings = f"solver {args.solver}, {length}; {machine(args.device)}"
    problems = [Poisson(dim, solution=name) for name, dim in product(args.solutions, args.dims)]
    best = {problem: fits(problem, 500 if args.quick else 4000) for problem in problems}
    rows, curves = [], []
    for problem, seed in product(problems, args.seeds):
        for net, run in runs(args, problem, seed):
            rows.append(row(problem, net, run, min(best[problem].values())))
            curves += curve(problem, net, run)
            if args.out:
                deliver(report(best, rows, settings), args.out)
                keep(args.out.with_suffix(".csv"), CURVE, curves)
    print(report(best, rows, settings))


if __name__ == "__main__":
    exiting(main, "harder")
