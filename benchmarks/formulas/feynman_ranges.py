"""Which inputs the printed numbers of I.12.11, q (Ef + B v sin theta), belong to: [-1, 1], as pykan has it, or [0, 1].

    python -m benchmarks.feynman_ranges [--quick] [--out benchmarks/results/feynman_ranges.md]

For q, Ef, B and v uniform in an interval and theta in [0, 2 pi]: the root mean square errors of three functions in
closed form, and those of the networks of `benchmarks.feynman` trained on inputs in [0, 1].
"""

import tempfile
from collections.abc import Sequence

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, deliver, exiting, markdown
from benchmarks.formulas.feynman import QUICK, SEEDS, Fits, Steps
from kanpde.problems.equations import equations

NAME = "I.12.11"
LOW = {"[-1, 1]": -1.0, "[0, 1]": 0.0}
RULE = (
    "q (Ef + B v sin theta), theta in [0, 2 pi]: errors in closed form (see the script), and those of the networks of",
    "[feynman.md](feynman.md), points uniform. In [-1, 1] what q Ef leaves is a product with the signs of four inputs;",
    "in [0, 1] a sum of functions of one input says something of it. The printed numbers are about the three errors in",
    "closed form of [0, 1]: the constant (kan, G = 20), q Ef (metakan, G = 20) and the third (both at G = 5).",
)


def floors(low: float) -> dict[str, float]:
    """The errors of the best constant, of q Ef, and of q (Ef + E[B] E[v] sin theta), inputs uniform in [low, 1].

    E[sin theta] = 0 and E[sin^2 theta] = 1/2, so with m = E[x] and s = E[x^2] of the other inputs these are the roots
    of s (s + s^2 / 2) - m^4, s^3 / 2 and s (s^2 - m^4) / 2.
    """
    m, s = (1 + low) / 2, (1 - low**3) / (3 * (1 - low))
    squares = s * (s + s * s / 2) - m**4, s**3 / 2, s * (s * s - m**4) / 2
    names = "the best constant", "q Ef", "q (Ef + E[B] E[v] sin theta)"
    return {name: square**0.5 for name, square in zip(names, squares, strict=True)}


def rows(seeds: int, steps: Steps) -> list[Row]:
    """Those of the equation with inputs in [0, 1]."""
    found = equations("paper")[NAME]
    ranges = {name: (0.0, high) for name, (_, high) in zip(found.formula.names, found.ranges, strict=True)}
    with tempfile.TemporaryDirectory() as folder:
        fits = Fits(NAME, "volume", 0, seeds, steps, folder)
        fits.problem = {"name": "function", "formula": found.formula.text, "ranges": ranges}
        return fits.rows()


def report(found: Sequence[Row]) -> str:
    """Markdown: the errors in closed form, the printed ones, and ours."""
    both = {interval: floors(low) for interval, low in LOW.items()}
    of_nets = ([row["net"], row["grid"], float(row["printed"]), float(row["rmse"])] for row in found)
    lines = [
        "# The inputs of I.12.11",
        "",
        f"`python -m benchmarks.feynman_ranges`; {machine()}.",
        "",
        *RULE,
        "",
        *markdown(
            ["RMSE of", *(f"inputs in {interval}" for interval in LOW)],
            ([name, *(both[interval][name] for interval in LOW)] for name in both["[0, 1]"]),
            "lr",
        ),
        "",
        *markdown(["net", "G", "printed", "ours, inputs in [0, 1]"], of_nets, "lr"),
    ]
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, fit, and write the report."""
    parser = Parser("feynman_ranges", __doc__)
    parser.common(RESULTS / "feynman_ranges.md", quick="a few steps, to see that it works")
    args = parser.parse_args(words)
    deliver(report(rows(1, QUICK) if args.quick else rows(SEEDS, Steps())), args.out)


if __name__ == "__main__":
    exiting(main, "feynman_ranges")
