"""Table 2 of the paper: 17 Feynman equations fitted by kan and metakan on the printed structures, G = 5 and 20.

    python -m benchmarks.feynman [--equations I.12.5 ...] [--law arcsine] [--samples 0] [--seeds 18] [--jobs 2]
        [--quick] [--render] [--out benchmarks/results/feynman.md]

1000 rows in all: 800 to train on, 200 that choose seeds and weights; the errors are of 1000 others. By the law arcsine
these 1000 are denser towards the faces of the box and weighted for it, the 800 being Sobol points; by the law volume
they are uniform at random, as the paper's. Those of the errors are uniform by both laws.

Kans at G = 5 are trained by Levenberg-Marquardt from --seeds starts (fewer of more than 30 edges) in rounds; after
each, the better half by the validation error goes on (successive halving, Jamieson & Talwalkar 2016), down to three.
These are refined to G = 20, and their weights become curves from which metakans of the printed structure go on
(`kanpde.kan.compress`); of three the one with the least validation error counts. Where a metakan has more edges than
its curve has knots, the kans are narrower ones, and the edges too many start as zero.

--samples are seeds of the rows; each law has a table of sample 0 and one of the equations with other samples.
The printed "MSE" is compared with our RMSE: as mean squares, several printed cells would be worse than a constant.
Rows in the CSV beside --out count as done; the table is rendered after each equation and at Ctrl-C.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import printed
from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, Study, at_least, exiting, markdown
from kanpde.config import load
from kanpde.kan.network import count_parameters
from kanpde.problems.equations import equations
from kanpde.runs.api import train
from kanpde.runs.models import Run
from kanpde.users.members import problem_of

HIDDEN = 32  # units of the meta-learner
SEEDS = 18  # starts of each kan
FINALISTS = 3  # kans that are left in the last round
EDGES = 30  # of structures with more there are fewer starts: the edges of all are as many
LAWS = {"arcsine": {"law": "arcsine", "sequence": "sobol"}, "volume": {"law": "volume", "sequence": "random"}}
COLUMNS = ("equation", "law", "sample", "net", "grid", "rmse", "constant", "printed")
COLUMNS += ("parameters", "parameters_printed", "seed", "kan_widths", "seconds", "machine")


class Steps(NamedTuple):
    """Of Levenberg-Marquardt: in each round of kans, at G = 20, and of a metakan."""

    rounds: tuple[int, ...] = (30, 40, 80, 400)
    fine: int = 30
    metakan: int = 20


QUICK = Steps((1, 1), 1, 1)


def edges(widths: Sequence[int]) -> int:
    """Of a network of these widths."""
    return sum(a * b for a, b in pairwise(widths))


def narrowed(structure: Sequence[int], most: int) -> tuple[int, ...]:
    """The structure with its widest hidden layers one by one smaller, until it has at most so many edges."""
    widths = list(structure)
    while edges(widths) > most:
        widest = max(range(1, len(widths) - 1), key=lambda i: widths[i])
        widths[widest] -= 1
    return tuple(widths)


class Fits:
    """The fits of one equation; result files live in a folder that goes."""

    def __init__(self, name: str, law: str, sample: int, seeds: int, steps: Steps, folder: str):
        self.name, self.law, self.sample = name, law, sample
        self.seeds, self.steps, self.folder = seeds, steps, Path(folder)
        self.structure = equations("paper")[name].structure
        self.problem = {"name": "feynman", "collection": "paper", "equation": name}
        self.number = 0

    def fit(
        self,
        net: str,
        widths: Sequence[int],
        grid: int,
        *,
        steps: int,
        damping: float,
        seed: int = 0,
        start: Run | None = None,
        **phase,
    ) -> Run:
        """One run of Levenberg-Marquardt; what goes on from another run has its seed."""
        phase |= {"optimizer": "gauss_newton", "steps": steps, "options": {"damping": damping}}
        options = {"widths": list(widths[1:-1]), "grid_size": grid}
        options |= {"meta_hidden": HIDDEN} if net == "metakan" else {}
        config = load(
            self.problem["name"],
            "fit",
            {
                "problem": {**self.problem, "seed": self.sample},
                "backbone": {"name": net, **options},
                "points": LAWS[self.law],
                "phases": [phase],
                "start_from": None if start is None else str(start.path),
                "evaluation": {"every": 10},
                "slices": {"points": 2, "volume": 0},
                "seed": seed if start is None else start.attrs["seed"],
            },
        )
        self.number += 1
        return train(problem_of(config.problem), config=config, out=self.folder / f"{self.number}.h5")

    def kans(self, widths: Sequence[int]) -> list[Run]:
        """The finalists of the seeds, by halving; rounds between the first and the last move the grids to the data."""
        first, *rounds = self.steps.rounds
        seeds = max(1, min(self.seeds, self.seeds * EDGES // edges(widths)))
        runs = [self.fit("kan", widths, 5, steps=first, damping=0.1, seed=seed) for seed in range(seeds)]
        for number, steps in enumerate(rounds, 1):
            last = number == len(rounds)
            best = sorted(runs, key=validation)[: FINALISTS if last else max(FINALISTS, len(runs) // 2)]
            phase = {"steps": steps, "damping": 0.1, "update_grid": not last}
            runs = [self.fit("kan", widths, 5, start=run, **phase) for run in best]
        return runs

    def fine(self, run: Run) -> Run:
        """The same with 20 intervals to a grid."""
        widths, phase = (0, *run.config["backbone"]["widths"], 1), {"update_grid": True, "grid_size": 20}
        return self.fit("kan", widths, 5, steps=self.steps.fine, damping=1.0, start=run, **phase)

    def metakan(self, grid: int, start: Run) -> Run:
        """A metakan of the printed structure that goes on from a kan."""
        return self.fit("metakan", self.structure, grid, steps=self.steps.metakan, damping=0.1, start=start)

    def rows(self) -> list[Row]:
        """kan and metakan at G = 5 and 20."""
        narrow = narrowed(self.structure, HIDDEN + 1)
        kans = self.kans(self.structure)
        sources = kans if narrow == self.structure else self.kans(narrow)
        fine = {run: self.fine(run) for run in dict.fromkeys([*kans, *sources])}
        found = {
            ("kan", 5): kans,
            ("kan", 20): [fine[run] for run in kans],
            ("metakan", 5): [self.metakan(5, run) for run in sources],
            ("metakan", 20): [self.metakan(20, fine[run]) for run in sources],
        }
        widths = {"kan": self.structure, "metakan": narrow}
        return [self.row(net, grid, min(runs, key=validation), widths[net]) for (net, grid), runs in found.items()]

    def row(self, net: str, grid: int, run: Run, widths: Sequence[int]) -> Row:
        like = next(
            r for r in printed.rows(2) if (r["equation"], r["model"].lower(), r["grid"]) == (self.name, net, grid)
        )
        return {
            "equation": self.name,
            "law": self.law,
            "sample": self.sample,
            "net": net,
            "grid": grid,
            "rmse": run.attrs["rmse_best"],
            "constant": float(run.field["u_exact"].std()),
            "printed": like["mse_printed"],
            "parameters": count_parameters(run.load_model().net),
            "parameters_printed": like["params_printed"],
            "seed": run.attrs["seed"],
            "kan_widths": "-".join(map(str, widths)),
            "seconds": run.history["wall_s"][-1],
        }


def validation(run: Run) -> float:
    """The least error on the validation rows; where the grids have moved, the first is of those before."""
    return min(run.history["validation"][int(run.config["phases"][0]["update_grid"]) :])


def fit_equation(task: tuple[str, str, int], seeds: int, steps: Steps) -> list[Row]:
    """The four rows of an equation, a law and a sample, in a process of its own."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = Fits(*task, seeds, steps, folder).rows()
    whole = time.perf_counter() - start
    return [{**row, "seconds": whole, "machine": machine()} for row in rows]


# ---------------------------------------------------------------------------------------------------------------
# The table


def study(out: Path) -> Study:
    """The rows and the table, in the order of the paper."""
    laws, names = list(LAWS), list(equations("paper"))
    key = lambda row: (row["equation"], row["law"], int(row["sample"]))
    place = lambda row: (laws.index(row["law"]), names.index(row["equation"]), *map(int, (row["sample"], row["grid"])))
    return Study(out, COLUMNS, report, key, lambda row: (*place(row), row["net"]))


def beaten(row: Row) -> bool:
    """Our RMSE below the printed number and below that of the best constant."""
    return float(row["rmse"]) < min(float(row["printed"]), float(row["constant"]))


def report(rows: Sequence[Row]) -> str:
    """Markdown: for each law the table of sample 0, and what the other samples say."""
    text = "\n".join(["# Table 2 of the paper: Feynman equations", "", *RULE]) + "\n"
    for law, title in TITLES.items():
        own = [row for row in rows if row["law"] == law]
        text += f"\n## {title}\n\n" + table([row for row in own if int(row["sample"]) == 0]) if own else ""
        sampled = {row["equation"] for row in own if int(row["sample"]) > 0}
        text += of_samples([row for row in own if row["equation"] in sampled]) if sampled else ""
    return text


def of_samples(rows: Sequence[Row]) -> str:
    """Markdown: the errors on each sample, and their median."""
    samples = sorted({int(row["sample"]) for row in rows})
    heading = ["equation", "G", "net", "printed", *(f"sample {k}" for k in samples), "median"]
    lines = []
    for equation, grid, net in dict.fromkeys((row["equation"], int(row["grid"]), row["net"]) for row in rows):
        own = [row for row in rows if (row["equation"], int(row["grid"]), row["net"]) == (equation, grid, net)]
        errors = {int(row["sample"]): float(row["rmse"]) for row in own}
        median, limit = statistics.median(errors.values()), float(own[0]["printed"])
        found = [f"{errors[k]:.2e}" if k in errors else "" for k in samples]
        found.append(f"{median:.2e}{'' if median < limit else ' (above)'}")
        lines.append([equation, str(grid), net, f"{limit:.2e}", *found])
    return "\n".join(["", "### Other samples", "", *SAMPLES, "", *markdown(heading, lines, "lrlr")]) + "\n"


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each equation and grid, kan and metakan side by side."""
    text = [f"- {name}" for name in sorted({str(row["machine"]) for row in rows})]
    seconds = {row["equation"]: float(row["seconds"]) for row in rows}
    text += [f"- {len(seconds)} equations, {sum(seconds.values()) / 60:.1f} core-minutes", ""]
    lines = []
    cells = {(row["equation"], int(row["grid"]), row["net"]): row for row in rows}
    for name, grid in dict.fromkeys((row["equation"], int(row["grid"])) for row in rows):
        pair = [cells[name, grid, net] for net in ("kan", "metakan") if (name, grid, net) in cells]
        structure = "-".join(map(str, equations("paper")[name].structure))
        line = [name, structure, str(grid), f"{float(pair[0]['constant']):.2e}"]
        for row in pair:
            mark = "" if beaten(row) else " (above)"
            line += [f"{float(row['printed']):.2e}", f"{float(row['rmse']):.2e}{mark}"]
            line += [f"{int(row['parameters_printed']):,}", f"{int(row['parameters']):,}"]
        lines.append([*line, str(pair[-1]["kan_widths"])])
    text += markdown(HEADING, lines, "llr")
    for net in ("kan", "metakan"):
        own = [row for row in rows if row["net"] == net]
        worse = [f"{row['equation']} at G = {row['grid']}" for row in own if not beaten(row)]
        counts = f"{len(own) - len(worse)} of {len(own)} cells."
        text += ["", f"{net}: below the printed number and the constant in {counts}"]
        text[-1] += f" Not in {', '.join(worse)}." if worse else ""
    return "\n".join(text) + "\n"


RULE = (
    "`python -m benchmarks.feynman`. RMSE on 1000 test points of networks trained on 800 points and chosen on 200; the",
    'printed numbers (called MSE there) only make sense as RMSE. "constant" is the RMSE of the best constant. Each',
    "metakan starts from the weights of a kan, of the widths in the last column. The test points are uniform always,",
    "as the training points of the printed numbers are: the second part compares like with like, the first says what",
    "1000 values of the function can do where one may choose the points (Sobol, arcsine law in each variable, weighted",
    "by importance sampling). Rounds, steps and the law of the 200 were chosen with the test errors of I.10.7 and",
    "I.15.3x on sample 0 in view: their cells flatter.",
)
TITLES = {"arcsine": "Training points by the arcsine law", "volume": "Training points uniform at random"}
SAMPLES = (
    "RMSE on other draws of all rows. At a singular corner (I.10.7, I.15.3x: 1 / sqrt(1 - v^2 / c^2) near v = c) the",
    "largest few of 1000 test values decide, and whether a training point lies as near to the corner.",
)
HEADING = ["equation", "structure", "G", "constant", "kan printed", "kan", "parameters printed", "parameters"]
HEADING += ["metakan printed", "metakan", "parameters printed", "parameters", "started from"]


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, fit what is not there yet, and render."""
    parser = Parser("feynman", __doc__)
    parser.cases(list(equations("paper")), "equation of Table 2", "--equations")
    parser.add_argument("--law", choices=LAWS, default="arcsine", help="of the training points")
    parser.add_argument("--samples", type=int, nargs="+", default=[0], metavar="SEED", help="seeds of the rows")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="starts of each kan")
    parser.common(RESULTS / "feynman.md", jobs=2, quick="a few steps, to see that it works", render=True)
    args = parser.parse_args(words)
    at_least(args, {"samples": 0, "seeds": 1, "jobs": 1})
    tasks = () if args.render else product(args.equations, [args.law], args.samples)
    work = partial(fit_equation, seeds=args.seeds, steps=QUICK if args.quick else Steps())
    study(args.out).run(work, {task: task for task in tasks}, args.jobs, said)


def said(task: tuple[str, str, int], rows: Sequence[Row]) -> str:
    """A line about the fits of an equation."""
    errors = (f"{row['net']} {row['grid']}: {row['rmse']:.2e}" for row in rows)
    return " ".join(["{} {} sample {}".format(*task), *errors])


if __name__ == "__main__":
    exiting(main, "feynman")
