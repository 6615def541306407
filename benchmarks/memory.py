"""Peak memory of training a layer, KAN against MetaKAN (Figure 4 of the paper).

    python -m benchmarks.memory [--quick] [--device cuda] [--out benchmarks/results]

One square layer n -> n of B-splines (k = 3), batch 128, float32, Adam, one meta-learner with one prompt per edge. The
peak is of all that a training step holds: parameters, gradients, Adam's averages and every temporary, counted from the
allocator's own events (torch.profiler on a CPU, torch.cuda.max_memory_allocated on a GPU), after a first step has made
the averages. Writes memory.csv, which `python -m benchmarks.figures memory` draws, and memory.md.
"""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.machine import machine
from kanpde import backbones
from kanpde.kan.network import count_parameters

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


def measure(model: str, width: int, grid: int, hidden: int, device: torch.device) -> dict:
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
    averages = (t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t))
    held = sum(t.nbytes for t in (*net.parameters(), *net.buffers(), *averages, x))
    return {
        "model": model,
        "width": width,
        "grid": grid,
        "meta_hidden": hidden or "",
        "batch": BATCH,
        "connections": width * width,
        "parameters": count_parameters(net),
        "peak_bytes": peak_bytes(step, held, device),
    }


def table(rows: list[dict], device: str) -> str:
    """Markdown: MB of KAN and of MetaKAN by width and grid."""
    peak = {(r["model"], r["width"], r["grid"], r["meta_hidden"]): r["peak_bytes"] / 1e6 for r in rows}
    hidden = sorted({r["meta_hidden"] for r in rows} - {""})
    lines = [
        "# Peak training memory of a square layer, MB",
        "",
        f"`python -m benchmarks.memory`: most bytes allocated in a training step, batch {BATCH}, float32, Adam; "
        f"{machine(device)}.",
        "",
        f"| width | G | KAN | {' | '.join(f'MetaKAN h={h}' for h in hidden)} | largest MetaKAN / KAN |",
        "|---|---|---|" + "---|" * (len(hidden) + 1),
    ]
    for width, grid in sorted({(r["width"], r["grid"]) for r in rows}):
        kan, meta = peak["kan", width, grid, ""], [peak["metakan", width, grid, h] for h in hidden]
        cells = " | ".join(f"{m:.2f}" for m in meta)
        lines.append(f"| {width} | {grid} | {kan:.2f} | {cells} | {max(meta) / kan:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two widths and two grids")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    args = parser.parse_args()
    widths, grids = (WIDTHS[:2], GRIDS[:2]) if args.quick else (WIDTHS, GRIDS)
    rows = []
    for width in widths:
        for grid in grids:
            for hidden in (0, *HIDDEN):
                model = "metakan" if hidden else "kan"
                rows.append(measure(model, width, grid, hidden, torch.device(args.device)))
                print(*rows[-1].values(), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    with open(args.out / "memory.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    (args.out / "memory.md").write_text(table(rows, args.device), encoding="utf-8")
    print(table(rows, args.device))


if __name__ == "__main__":
    main()
