"""Figures 9 and 10 of the paper: how alike the edges of a KAN and of a MetaKAN have become, and their prompts.

    python -m benchmarks.compactness [--seeds 0 1 2] [--runs runs/compactness] [--quick]
        [--out benchmarks/results/compactness.md]

The example of section B, exp((sin(pi (x1^2 + x2^2)) + sin(pi (x3^2 + x4^2))) / 2), on [4, 5, 5, 1], trained by
Levenberg-Marquardt. A MetaKAN starts from its own initialisation, or from the weights of the trained KAN. Finished runs
in --runs count as done, others go on; the pictures are those of the first seed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.common.budget import ended
from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, deliver, exiting, markdown
from kanpde.config import load
from kanpde.interpret import similarity
from kanpde.plot import similarity_figure
from kanpde.runs.models import Run
from kanpde.training.plan import resolved
from kanpde.users.members import problem_of

WIDTHS = [5, 5]
STEPS, QUICK_STEPS = 100, 2
DPI = 100


class Net(NamedTuple):
    """A row of the table."""

    title: str
    hidden: int | None = None  # units of the meta-learner; None: a KAN
    from_kan: bool = False


NETS = {
    "kan": Net("KAN"),
    "meta": Net("MetaKAN, h = 32", 32),
    "meta-from-kan": Net("the same, from the KAN", 32, True),
    "meta64-from-kan": Net("h = 64, from the KAN", 64, True),
}


def trained(name: str, seed: int, runs: Path, steps: int) -> Run:
    """The run of a network, finished."""
    path = runs / f"{name}-{seed}.h5"
    net = NETS[name]
    backbone = {"name": "kan" if net.hidden is None else "metakan", "widths": WIDTHS}
    given = {
        "backbone": backbone | ({} if net.hidden is None else {"meta_hidden": net.hidden}),
        "phases": [{"optimizer": "gauss_newton", "steps": steps, "options": {"damping": 0.1}}],
        "seed": seed,
    }
    if net.from_kan:
        given["start_from"] = str(runs / f"kan-{seed}.h5")
    config = load("function", "fit", given)
    made = problem_of(config.problem)
    config = resolved(config, made)
    return ended(path, made, config, lambda: config)


def row(name: str, seed: int, run: Run) -> list[str]:
    """The cells of a run."""
    found = similarity.compactness(run.load_model().net)
    deviation = float(np.std(run.field["u_exact"]))
    numbers = [found[key] for key in ("effective_rank", "effective_rank_unit", "mean_abs_cosine")]
    return [
        NETS[name].title,
        str(seed),
        f"{run.attrs['parameters']:,}",
        f"{run.attrs['rmse_best']:.2e}",
        f"{run.attrs['rmse_best'] / deviation:.1%}",
        *(f"{number:.2f}" for number in numbers),
    ]


HEADING = ["network", "seed", "parameters", "test RMSE", "of the deviation", "effective rank", "of unit vectors"]
HEADING += ["mean \\|cosine\\|"]

RULE = """# Figures 9 and 10 of the paper: how compact the edges are

`python -m benchmarks.compactness`. The example of section B on [4, 5, 5, 1], 50 edges of 8 coefficients (G = 5, k =
3), trained by {steps} steps of Levenberg-Marquardt on 800 rows. Effective rank: exp of the entropy of the
normalised singular values of the coefficient vectors (Roy and Vetterli 2007), at their own lengths and at length 1;
8 is the largest possible. Mean |cosine|: over all pairs of edges.

KANs start from their random initialisation. "MetaKAN, h = 32" starts from ours, `meta_init: linear`, in which all
edges are multiples of one function: **it begins at rank 1**, and a small rank afterwards is in part where it came
from, not what it has learned. "from the KAN" starts from the weights of the KAN of the same seed, as near as the
meta-learner can come to them (exactly with h = 64 hidden units, which is more parameters than the KAN has), and
inherits its rank. Compare compactness only where the errors are alike.

"""


def report(rows: Sequence[Sequence[str]], steps: int) -> str:
    """Markdown: what was done, a line for each run, the pictures."""
    lines = [RULE.format(steps=steps), f"- {machine()}", "", *markdown(HEADING, rows, "lr")]
    pictures = "\n".join(f"![{name}](figures/{name}.png)" for name in ("figure9", "figure10"))
    return "\n".join(lines) + f"\n\n{pictures}\n"


def draw(runs: dict[str, Run], folder: Path) -> None:
    """figure9.png, cosine similarities; figure10.png, similarities of the prompts."""
    nets = {f"{NETS[n].title}\nRMSE {run.attrs['rmse_best']:.1e}": run.load_model().net for n, run in runs.items()}
    edges = similarity.edges_of(next(iter(nets.values())))
    layers = edges[:, 0].tolist()
    cosines = [(title, similarity.cosine_similarity(net, edges).numpy()) for title, net in nets.items()]
    prompts = [(title, similarity.prompt_similarity(net, edges).numpy()) for title, net in list(nets.items())[1:]]
    folder.mkdir(parents=True, exist_ok=True)
    similarity_figure(cosines, layers).savefig(folder / "figure9.png", dpi=DPI)
    similarity_figure(prompts, layers, label="prompt similarity").savefig(folder / "figure10.png", dpi=DPI)


def main(words: Sequence[str] | None = None) -> None:
    """Train what is not there yet, and render."""
    parser = Parser("compactness", __doc__)
    parser.add_argument("--runs", type=Path, help="where the result files are; default runs/compactness")
    parser.common(seeds=[0, 1, 2], quick="two steps a run, to see that it works")
    args = parser.parse_args(words)
    steps = QUICK_STEPS if args.quick else STEPS
    runs = args.runs or Path("runs/quick/compactness" if args.quick else "runs/compactness")
    out = args.out or (Path("runs/quick") if args.quick else RESULTS) / "compactness.md"
    torch.set_num_threads(1)
    rows, first = [], {}
    for seed in args.seeds:
        for name in NETS:
            run = trained(name, seed, runs, steps)
            rows.append(row(name, seed, run))
            print(*rows[-1], sep="  ", flush=True)
            first |= {name: run} if seed == args.seeds[0] else {}
    draw(first, out.parent / "figures")
    deliver(report(rows, steps), out)


if __name__ == "__main__":
    exiting(main, "compactness")
