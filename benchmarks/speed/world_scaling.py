"""What several processes gain: weak and strong scaling, and what they send each other.

    python -m benchmarks.world_scaling [--sizes 1 2 4] [--points 64] [--dims 100 1000] [--backbones kan metakan]
        [--steps 15] [--quick] [--out benchmarks/results/world_scaling.md]

Steps of Adam on Poisson's equation in float32, one thread a process, all processes on this machine by gloo. Weak: so
many points for each process; strong: so many for all. Steps begin together, and take as long as the slowest process:
median and least are quoted, of which other work on the machine disturbs the least one less. Communication is the time
within messages, waiting for others included, and bytes are what a process hands over for a step, counted at the
messages themselves.

The model of many GPUs takes these bytes and messages, and a bandwidth and a latency that are stated: a ring sends
2 (K - 1) / K times the bytes over the slowest link, in 2 (K - 1) rounds. Nothing in it is measured on GPUs.
"""

import argparse
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from kanpde.ground.world import World, joined
from kanpde.problems import Poisson
from kanpde.runs.models import Run
from kanpde.training.loop import ResidualTraining
from kanpde.training.plan import Plan, configured

WARM = 2  # steps before those that count
GPUS, BANDWIDTH, LATENCY = 64, 25e9, 10e-6  # of the model: bytes per second of a link, seconds of a round
SMALL_SHARE = 0.05  # of a step, that communication may take


@dataclass
class Traffic:
    """Messages of a process: their bytes, of sums and of tensors for neighbours, and the seconds of sums."""

    sizes: list[int] = field(default_factory=list)
    to_neighbours: list[int] = field(default_factory=list)
    seconds: float = 0.0


@contextmanager
def counted() -> Iterator[Traffic]:
    """In the block every sum over the processes is noted, and every tensor for a neighbour."""
    traffic, before, exchange = Traffic(), dist.all_reduce, dist.batch_isend_irecv

    def noting(t: Tensor, *args, **kwargs):
        start = time.perf_counter()
        before(t, *args, **kwargs)
        traffic.seconds += time.perf_counter() - start
        traffic.sizes.append(t.nbytes)

    def noting_neighbours(messages: list):
        traffic.to_neighbours += [message.tensor.nbytes for message in messages if message.op is dist.isend]
        return exchange(messages)

    dist.all_reduce, dist.batch_isend_irecv = noting, noting_neighbours
    try:
        yield traffic
    finally:
        dist.all_reduce, dist.batch_isend_irecv = before, exchange


def training_of(dim: int, backbone: str, points: int, steps: int, world: World, folder: Path) -> ResidualTraining:
    """The run, of which no step is evaluated."""
    counts = {"interior": points, "test": 64, "validation": 16}
    given = {"backbone": backbone, "points": counts, "start": "network", "compile": False, "steps": steps}
    given |= {"phases": [{"optimizer": "adam", "steps": steps, "lr": 1e-3}], "loss": {"gradient": "none"}}
    problem = Poisson(dim)
    return ResidualTraining(Plan.of(configured(problem, given), problem), Run(folder / "none.h5"), world)


def process(rank: int, size: int, port: int, case: tuple[int, str, int], steps: int, folder: Path) -> None:
    """One of the processes; the first writes what `measured` says."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), LOCAL_WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with joined() as world:
        training = training_of(*case, WARM + steps, world, folder)
        one = partial(training._step, *next(iter(training._phases())))
        for _ in range(WARM):
            one()
        seconds = []
        with counted() as traffic:
            for _ in range(steps):
                start = time.perf_counter()
                one()
                world.any(False, False)  # as the loop does after a step
                seconds.append(time.perf_counter() - start)
        if world.leads:
            share = traffic.seconds / sum(seconds)
            found = [
                statistics.median(seconds),
                min(seconds),
                share,
                sum(traffic.sizes) / steps,
                len(traffic.sizes) / steps,
            ]
            torch.save(found, folder / "found.pt")


def measured(size: int, case: tuple[int, str, int], steps: int) -> list[float]:
    """Median and least seconds of a step, share of communication, bytes and messages a step."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, (size, port, case, steps, Path(folder)), nprocs=size)
        return torch.load(Path(folder) / "found.pt")


def modelled(size: float, messages: float, gpus: int = GPUS) -> float:
    """Seconds that a ring of GPUs takes for the messages of a step."""
    return 2 * (gpus - 1) / gpus * size / BANDWIDTH + messages * 2 * (gpus - 1) * LATENCY


def rows_of(dim: int, backbone: str, points: int, sizes: Sequence[int], steps: int) -> Iterator[list]:
    """A line for each kind of scaling and number of processes."""
    for kind in ("weak", "strong"):
        alone = 0.0
        for size in sizes:
            n = points * size if kind == "weak" else points
            median, least, share, sent, messages = measured(size, (dim, backbone, n), steps)
            alone = alone or least * size / n  # of one process and one point
            efficiency = alone * n / size / least
            line = [backbone, dim, kind, size, n, 1e3 * median, 1e3 * least, efficiency, share, sent, messages]
            print(*line[:5], *(f"{number:.3g}" for number in line[5:]), file=sys.stderr, flush=True)
            yield line


def report(rows: Sequence[Sequence], cores: int) -> str:
    """Markdown: what was measured, and below it the model."""
    heading = ["network", "d", "scaling", "processes", "points", "ms a step", "least", "efficiency", "communication"]
    heading += ["bytes a step", "messages"]
    lines = [
        [
            *row[:5],
            f"{row[5]:.1f}",
            f"{row[6]:.1f}",
            f"{row[7]:.2f}",
            f"{row[8]:.0%}",
            f"{row[9]:,.0f}",
            f"{row[10]:.0f}",
        ]
        for row in rows
    ]
    largest = {(row[0], row[1]): (row[9], row[10]) for row in rows}
    model = [
        [backbone, dim, f"{sent:,.0f}", f"{1e3 * t:.2f}", f"{1e3 * t / SMALL_SHARE:.0f}"]
        for (backbone, dim), (sent, messages) in largest.items()
        for t in [modelled(sent, messages)]
    ]
    text = [
        "# Several processes",
        "",
        f"`python -m benchmarks.world_scaling`: {machine()} a process, {cores} cores, load {os.getloadavg()[0]:.1f} at "
        "the end.",
        "More processes than cores take turns: they show what is sent, not what is gained. Efficiency is the points a",
        "second of a process beside those of the first line; communication is the share of a step within messages,",
        "waiting for others included.",
        "",
        *markdown(heading, lines, "lrlr"),
        "",
        f"## A model of {GPUS} GPUs, not measured",
        "",
        f"From the bytes and messages above: a ring of {GPUS}, {BANDWIDTH / 1e9:.0f} GB/s a link, {1e6 * LATENCY:.0f} "
        f"microseconds a round. Steps that take longer than the last column lose less than {SMALL_SHARE:.0%}.",
        "",
        *markdown(["network", "d", "bytes a step", "communication, ms", "step, ms"], model, "lr"),
    ]
    return "\n".join(text) + "\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("world_scaling", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--points", type=int, default=64)
    parser.add_argument("--dims", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--backbones", nargs="+", choices=("kan", "metakan", "mlp"), default=["kan", "metakan"])
    parser.add_argument("--steps", type=int, default=15, help="steps that count")
    args = parser.common(quick="one small network and two processes, to try the script").parse_args(argv)
    at_least(args, {"sizes": 1, "points": 4, "dims": 1, "steps": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = arguments(argv)
    if args.quick:
        args.sizes, args.points, args.dims, args.backbones, args.steps = [1, 2], 8, [3], ["mlp"], 2
    cases = [(dim, backbone) for backbone in args.backbones for dim in args.dims]
    rows = [row for dim, backbone in cases for row in rows_of(dim, backbone, args.points, args.sizes, args.steps)]
    text = report(rows, os.cpu_count() or 1)
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "world_scaling")
