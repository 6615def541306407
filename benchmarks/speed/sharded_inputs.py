"""Inputs sharded over processes: what a step sends and a process holds, measured and by formula; d = 1e8 by formula.

    python -m benchmarks.sharded_inputs [--sizes 1 2 4] [--dims 10000 100000 1000000] [--backbones kan metakan]
        [--points 4] [--steps 3] [--quick] [--out benchmarks/results/sharded_inputs.md]

Steps of Adam on the sine-Gordon equation in float32, `shard: inputs`, all processes on this machine by gloo. Messages
and their bytes are counted where they are sent, in every process; bytes held are those of the tensors that a run has:
points, first layer, all other weights, gradients, moments, and the constants of inputs. Each is beside the formula of
`traffic` and `held`, with which it must agree exactly, or the script ends. The peak is that of the whole process,
Python and torch included.

The plan takes the same formulas. Nothing in it is measured.
"""

import argparse
import os
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.multiprocessing

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from benchmarks.speed.world_scaling import counted
from kanpde.ground.metrics import PeakMemory
from kanpde.ground.world import World, joined
from kanpde.jets.slices import Slice
from kanpde.problems import SineGordon
from kanpde.runs.models import Run
from kanpde.training.loop import ResidualTraining
from kanpde.training.plan import Plan, configured
from kanpde.training.shards import sliced_names

WARM = 1  # steps before those that count
PLANNED, PROCESSES = 10**8, (64, 256)  # inputs and processes of the plan
WIDTHS = (32, 32, 32)
SIZE, HIDDEN = 9, 128  # weights of an edge, B-splines and base; hidden units of the meta-learner
BYTES, DOUBLE = 4, 8  # of a number in float32, and in float64
HELD = ("points", "first layer", "gradient of it", "moments of it", "inputs", "shared")


@dataclass(frozen=True)
class Case:
    """A run: its network, inputs, processes, and points of a step."""

    backbone: str
    dim: int
    size: int
    points: int

    def inputs(self, rank: int) -> Slice:
        """Those of a process."""
        return Slice(self.dim, World(rank, self.size))

    @property
    def generated(self) -> bool:
        return self.backbone == "metakan"

    @property
    def learner(self) -> int:
        """Numbers of the meta-learner."""
        return HIDDEN * (2 + SIZE) + SIZE if self.generated else 0


def traffic(case: Case, rank: int) -> list[int]:
    """Bytes of the messages of a step, in their order but for those to neighbours, which come last.

    |g|^2 of the Gaussians of points in float64; |x|^2 of the factor m; the outputs of the first layer, their
    derivatives along grad m, their Gram matrix and second-order part; Lap m; of the source f, x . grad f, |grad f|^2,
    Lap f, |x|^2; backward the gradient of a meta-learner by the first layer; whether any process is told to stop, two
    flags. And a column of each point for each neighbour.
    """
    if case.size == 1:
        return []
    n, out = case.points, WIDTHS[0]
    layer = n * (3 * out + out * (out + 1) // 2)
    sums = [DOUBLE * n, BYTES * n, BYTES * layer, BYTES * n, BYTES * 5 * n, BYTES * case.learner, BYTES * 2]
    neighbours = (rank > 0) + (rank < case.size - 1)
    return [*filter(None, sums), *[BYTES * n] * neighbours]


def held(case: Case, rank: int) -> dict[str, int]:
    """Bytes that a process holds from step to step, by what they are.

    `inputs`: the ends of each grid, and the coefficients of the solution, in float64.
    """
    inputs, out = case.inputs(rank), WIDTHS[0]
    first = BYTES * inputs.width * out * (1 if case.generated else SIZE)
    coefficients = min(inputs.stop, case.dim - 1) - max(inputs.start - 1, 0)  # those that the slice before it reads too
    edges = sum(a * b for a, b in zip(WIDTHS, (*WIDTHS[1:], 1), strict=True))
    rest = 4 * BYTES * (edges * (1 if case.generated else SIZE) + case.learner)  # with gradient and moments
    constants = 2 * BYTES * inputs.width + DOUBLE * coefficients
    found = BYTES * case.points * inputs.width, first, first, 2 * first, constants, rest
    return dict(zip(HELD, found, strict=True))


# ---------------------------------------------------------------------------------------------------------------
# Measured


def training_of(case: Case, steps: int, world: World, folder: Path) -> ResidualTraining:
    """The run, of which no step is evaluated."""
    counts = {"interior": case.points, "test": 64, "validation": 16}
    given = {"backbone": {"name": case.backbone, "widths": list(WIDTHS)}, "points": counts, "shard": "inputs"}
    given |= {"solver": "adam", "steps": steps}
    problem = SineGordon(case.dim)
    return ResidualTraining(Plan.of(configured(problem, given), problem), Run(folder / "none.h5"), world)


def bytes_of(training: ResidualTraining) -> dict[str, int]:
    """What a run holds, by what it is."""
    names, u = sliced_names(training.u), training.u
    state = training.optimizer.state
    moments = lambda p: sum(t.nbytes for t in state[p].values() if t.shape == p.shape)
    parameters = dict(u.named_parameters())
    first = [p for name, p in parameters.items() if name in names]
    shared = [p for name, p in parameters.items() if name not in names]
    ends = [t.nbytes for name, t in u.named_buffers() if name in names]
    found = [
        training.supply.pools["interior"].points.nbytes,
        sum(p.nbytes for p in first),
        sum(p.grad.nbytes for p in first),
        sum(map(moments, first)),
        sum(ends) + training.plan.problem.closed_form.c.nbytes,
        sum(p.nbytes + p.grad.nbytes + moments(p) for p in shared),
    ]
    return dict(zip(HELD, found, strict=True))


def process(rank: int, case: Case, port: int, steps: int, folder: Path) -> None:
    """One of the processes; the first writes what `measured` says."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case.size), LOCAL_WORLD_SIZE=str(case.size))
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    with joined() as world:
        training, peak = training_of(case, WARM + steps, world, folder), PeakMemory(torch.device("cpu"))
        found = []
        for phase, last in training._phases():
            while training.step < last:
                with counted() as sent:
                    training._step(phase, last)
                    world.any(False, False)  # as the loop does after a step
                found.append([*sent.sizes, *sent.to_neighbours])
        every = world.collect((found[WARM:], bytes_of(training), peak.bytes()))
        if world.leads:
            torch.save(every, folder / "found.pt")


def measured(case: Case, steps: int) -> list[tuple[list[list[int]], dict[str, int], int]]:
    """Of each process the bytes of the messages of each step, what it holds, and its peak."""
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(process, (case, port, steps, Path(folder)), nprocs=case.size)
        return torch.load(Path(folder) / "found.pt")


def checked(case: Case, steps: int) -> list[tuple[list[list[int]], dict[str, int], int]]:
    """What was measured, where it is what the formulas say.

    Raises:
        RuntimeError: it is not.
    """
    found = measured(case, steps)
    for rank, (sent, holds, _) in enumerate(found):
        if any(step != traffic(case, rank) for step in sent):
            raise RuntimeError(f"{case}: process {rank} sent {sent}, by formula {traffic(case, rank)}")
        if holds != held(case, rank):
            raise RuntimeError(f"{case}: process {rank} holds {holds}, by formula {held(case, rank)}")
    return found


def line_of(case: Case, steps: int) -> list:
    """Measured, of the process that sends and holds most: messages and bytes of a step, bytes held, peak."""
    found = checked(case, steps)
    most = max((step for sent, *_ in found for step in sent), key=sum)
    line = [case.backbone, case.dim, case.size, len(most), sum(most), max(sum(holds.values()) for _, holds, _ in found)]
    print(*line, file=sys.stderr, flush=True)
    return [*line, max(peak for *_, peak in found)]


# ---------------------------------------------------------------------------------------------------------------
# Tables


def amount(size: float) -> str:
    """1.23 GB, in powers of ten."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size:.0f} B"


def planned(points: int) -> Iterator[list[str]]:
    """Lines of the plan: of a process in the middle."""
    for backbone in ("kan", "metakan"):
        for size in PROCESSES:
            case, rank = Case(backbone, PLANNED, size, points), size // 2
            sent, holds = traffic(case, rank), held(case, rank)
            yield [backbone, f"{size}", *(amount(holds[name]) for name in HELD), f"{len(sent)}", f"{sum(sent):,}"]


def report(lines: Sequence[Sequence], points: int, steps: int) -> str:
    """Markdown: what was measured, and below it the plan."""
    heading = ["network", "d", "processes", "messages a step", "bytes a step", "bytes held", "peak of a process"]
    rows = [[*line[:2], f"{line[2]}", f"{line[3]}", f"{line[4]:,}", f"{line[5]:,}", amount(line[6])] for line in lines]
    plan = ["network", "processes", *HELD, "messages a step", "bytes a step"]
    text = [
        "# Sharded inputs",
        "",
        f"`python -m benchmarks.sharded_inputs`: {machine()} a process, {os.cpu_count()} cores,",
        f"load {os.getloadavg()[0]:.1f} at the end, {points} points, {steps} steps. Of the process that sends and "
        "holds",
        "most. Messages and bytes a step were counted in every process and at every step, bytes held are those of its",
        "points, weights, gradients, moments and constants of inputs; all of them are exactly those of the formulas",
        "`traffic` and `held` of the script, which ends otherwise. The peak has all else, Python and torch included.",
        "Bytes a step do not depend on d.",
        "",
        *markdown(heading, rows, "lr"),
        "",
        f"## d = {PLANNED:,} by the same formulas, not measured",
        "",
        f"Of a process in the middle, {points} points, float32, widths {list(WIDTHS)}. `inputs`: ends of grids and",
        "coefficients of the solution; `shared`: all weights that every process has, with gradient and moments. What a",
        "piece of a layer works with comes on top, and the best weights so far, as large as the first layer.",
        "",
        *markdown(plan, list(planned(points)), "lr"),
    ]
    return "\n".join(text) + "\n"


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("sharded_inputs", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="numbers of processes")
    parser.add_argument("--dims", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--backbones", nargs="+", choices=("kan", "metakan"), default=["kan", "metakan"])
    parser.add_argument("--points", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3, help="steps that count")
    args = parser.common(quick="one small network and two processes, to try the script").parse_args(argv)
    at_least(args, {"sizes": 1, "points": 1, "dims": 2 * max(args.sizes), "steps": 1})
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = arguments(argv)
    if args.quick:
        args.sizes, args.dims, args.backbones, args.steps = [1, 2], [9], ["metakan"], 1
    cases = [Case(name, dim, size, args.points) for name in args.backbones for dim in args.dims for size in args.sizes]
    text = report([line_of(case, args.steps) for case in cases], args.points, args.steps)
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "sharded_inputs")
