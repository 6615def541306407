"""Peak memory of training a layer, KAN against MetaKAN (Figure 4 of the paper).

    python -m benchmarks.memory [--quick] [--device cuda] [--out benchmarks/results]

One square layer n -> n of B-splines (k = 3), batch 128, float32, Adam, one meta-learner with one prompt per edge. The
peak is of all that a training step holds: parameters, gradients, Adam's averages and every temporary, counted from the
allocator's own events (torch.profiler on a CPU, torch.cuda.max_memory_allocated on a GPU), after a first step has made
the averages. Writes memory.csv, which `python -m benchmarks.figures memory` draws, and memory.md.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, Row, deliver, exiting, keep, markdown
from kanpde import backbones
from kanpde.kan.network import count_parameters

COLUMNS = ("model", "width", "grid", "meta_hidden", "batch", "connections", "parameters", "peak_bytes")
WIDTHS, GRIDS, HIDDEN, BATCH = (64, 128, 256, 512, 1024), (5, 10, 20, 50, 80), (16, 32, 64), 128


def peak_bytes(step: Callable[[], None], held: int, device: torch.device) -> int:
    """Most bytes that are allocated at a time during a step, with `held` bytes allocated before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    now = most = held
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def bytes_of(*things: nn.Module | Optimizer | Tensor) -> int:
    """Bytes of modules (parameters and buffers), of what optimisers remember, and of tensors."""
    tensors = []
    for thing in things:
        if isinstance(thing, nn.Module):
            tensors += [*thing.parameters(), *thing.buffers()]
        elif isinstance(thing, Optimizer):
            tensors += [t for state in thing.state.values() for t in state.values() if torch.is_tensor(t)]
        else:
            tensors.append(thing)
    return sum(t.nbytes for t in tensors)


def measure(model: str, width: int, grid: int, hidden: int, device: torch.device) -> Row:
    """One row: the model, its parameters, and the peak of its second training step."""
    generator = torch.Generator().manual_seed(0)
    options = {"meta_hidden": hidden} if model == "metakan" else {}
    net = backbones.build(model, width, width, generator=generator, widths=(), grid_size=grid, **options).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    x = 2 * torch.rand(BATCH, width, generator=generator).to(device) - 1

    def step() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    return {
        "model": model,
        "width": width,
        "grid": grid,
        "meta_hidden": hidden or "",
        "batch": BATCH,
        "connections": width * width,
        "parameters": count_parameters(net),
        "peak_bytes": peak_bytes(step, bytes_of(net, optimizer, x), device),
    }


def table(rows: Sequence[Row], device: str) -> str:
    """Markdown: MB of KAN and of MetaKAN by width and grid."""
    peak = {(r["model"], r["width"], r["grid"], r["meta_hidden"]): r["peak_bytes"] / 1e6 for r in rows}
    hidden = sorted({r["meta_hidden"] for r in rows} - {""})
    lines = []
    for width, grid in sorted({(r["width"], r["grid"]) for r in rows}):
        kan, meta = peak["kan", width, grid, ""], [peak["metakan", width, grid, h] for h in hidden]
        lines.append([width, grid, *(f"{number:.2f}" for number in (kan, *meta, max(meta) / kan))])
    head = [
        "# Peak training memory of a square layer, MB",
        "",
        f"`python -m benchmarks.memory`: most bytes allocated in a training step, batch {BATCH}, float32, Adam; "
        f"{machine(device)}.",
        "",
    ]
    heading = ["width", "G", "KAN", *(f"MetaKAN h={h}" for h in hidden), "largest MetaKAN / KAN"]
    return "\n".join([*head, *markdown(heading, lines, "-")]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("memory", __doc__)
    parser.add_argument("--device", default="cpu")
    args = parser.common(RESULTS, quick="two widths and two grids").parse_args(argv)
    widths, grids = (WIDTHS[:2], GRIDS[:2]) if args.quick else (WIDTHS, GRIDS)
    rows = []
    for width, grid, hidden in product(widths, grids, (0, *HIDDEN)):
        rows.append(measure("metakan" if hidden else "kan", width, grid, hidden, torch.device(args.device)))
        print(*rows[-1].values(), flush=True)
    keep(args.out / "memory.csv", COLUMNS, rows)
    deliver(table(rows, args.device), args.out / "memory.md")
    print(table(rows, args.device))


if __name__ == "__main__":
    exiting(main, "memory")
