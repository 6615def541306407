"""One training step of the exact operator against nested differentiation: time, saved memory, and the value-only step.

    python -m benchmarks.operators [--dim 100] [--points 100] [--repeats 15] [--out benchmarks/results/operators.md]

Sides, for metakan [d, 32, 32, 32, 1] with one meta-learner of 128 units, the residual of Allen-Cahn, hard constraint:

    forward     kanpde.operators.Forward: one jet, one backward pass
    value       forward and backward of the mean of u^2 through the same code
    nested      nested differentiation (kanpde.operators.Autograd) over kanpde's own basis
    published   nested differentiation over the textbook Cox-de Boor recursion, as the published codes do it

The sides are interleaved and medians quoted.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.metrics import saved_memory
from kanpde.operators import Autograd, Forward
from kanpde.problems import AllenCahn
from kanpde.samplers import stream


class CoxDeBoorKAN(nn.Module):
    """The same network, evaluated by the recursion B_{j,p} = (x - t_j) / (t_j+p - t_j) B_{j,p-1} + ..."""

    def __init__(self, net: nn.Sequential):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            theta = layer.weights.generate(layer.weights.split(layer.in_features)[0])
            features = torch.cat([self.splines(layer.basis, x), nn.functional.silu(x).unsqueeze(-1)], -1)
            x = torch.einsum("nic,ico->no", features, theta)
        return x

    @staticmethod
    def splines(basis, x: Tensor) -> Tensor:
        g, k = basis.grid_size, basis.spline_order
        step = (basis.high - basis.low) / g
        knots = basis.low.unsqueeze(1) + step.unsqueeze(1) * torch.arange(-k, g + k + 1)
        x = x.unsqueeze(-1)
        b = ((x >= knots[:, :-1]) & (x < knots[:, 1:])).to(x.dtype)
        for p in range(1, k + 1):
            left = (x - knots[:, : -(p + 1)]) / (knots[:, p:-1] - knots[:, : -(p + 1)])
            right = (knots[:, p + 1 :] - x) / (knots[:, p + 1 :] - knots[:, 1:-p])
            b = left * b[..., :-1] + right * b[..., 1:]
        return b


def sides(dim: int, points: int) -> dict:
    """name -> (module, function that returns the loss)."""
    problem = AllenCahn(dim)
    net = build("metakan", dim, generator=stream(0, "init"))
    own, textbook = Ansatz(problem, net), Ansatz(problem, CoxDeBoorKAN(net))
    x = problem.domain.interior(points, stream(0, "interior"))
    source = problem.source(x)

    def residual(operator, u):
        jet = operator(u, x)
        return (problem.residual_scale * (jet.lap + problem.nonlinearity(jet.value) - source)).square().mean()

    return {
        "forward": (own, lambda: residual(Forward(), own)),
        "value": (own, lambda: own(x).square().mean()),
        "nested": (own, lambda: residual(Autograd(), own)),
        "published": (textbook, lambda: residual(Autograd(), textbook)),
    }


def step(module: nn.Module, loss) -> float:
    """Seconds of one forward and backward pass."""
    module.zero_grad()
    start = time.perf_counter()
    loss().backward()
    return time.perf_counter() - start


def measure(dim: int, points: int, repeats: int, slow_repeats: int) -> dict[str, dict[str, float]]:
    made = sides(dim, points)
    rows = {}
    losses = {}
    for name, (module, loss) in made.items():
        with saved_memory(module) as saved:
            losses[name] = loss().item()
        rows[name] = {"saved_MB": saved() / 2**20}
        step(module, loss)
    for name in ("nested", "published"):
        assert abs(losses[name] / losses["forward"] - 1) < 1e-3, losses  # the sides compute the same thing
    times: dict[str, list[float]] = {name: [] for name in made}
    for i in range(repeats):
        for name, (module, loss) in made.items():
            if name in ("forward", "value") or i < slow_repeats:
                times[name].append(step(module, loss))
    for name, t in times.items():
        rows[name]["ms"] = 1e3 * statistics.median(t)
    return rows


def report(rows: dict, dim: int, points: int) -> str:
    forward = rows["forward"]
    lines = [
        f"# One training step, metakan [{dim}, 32, 32, 32, 1], N = {points}",
        "",
        f"{machine()}; medians of interleaved steps.",
        "",
        "| side | ms | saved for backward, MB | time / forward | saved / forward |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ratios = row["ms"] / forward["ms"], row["saved_MB"] / forward["saved_MB"]
        lines.append(f"| {name} | {row['ms']:.2f} | {row['saved_MB']:.2f} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    lines += ["", f"forward / value = {forward['ms'] / rows['value']['ms']:.2f} (wanted: at most 5)"]
    for name, wanted in (("published", 100), ("nested", 20)):
        lines.append(f"{name} / forward = {rows[name]['ms'] / forward['ms']:.0f} (wanted: at least {wanted})")
        lines.append(
            f"saved forward / {name} = 1/{rows[name]['saved_MB'] / forward['saved_MB']:.0f} (wanted: at most 1/50)"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--slow-repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    text = report(measure(args.dim, args.points, args.repeats, args.slow_repeats), args.dim, args.points)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)


if __name__ == "__main__":
    main()
