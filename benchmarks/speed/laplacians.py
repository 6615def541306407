"""The Laplacian of a tanh network and a training step with it: kanpde, collapsed Taylor mode, the forward Laplacian.

    python -m benchmarks.laplacians [--repeats 11] [--quick] [--out benchmarks/results/laplacians.md]

Peers, where they are installed (pip install jet-for-pytorch folx): jet-for-pytorch (Taylor mode, standard and
collapsed; it needs Python 3.12, so all sides run there), each captured as a graph without common subexpressions, as its
authors measure it; and folx (forward Laplacian, JAX), compiled by jax.jit. `nested` is one reverse pass for the
gradient and one more for each second derivative.

A step is the Laplacian at N points, the mean of its squares, and a backward pass into the parameters. All sides have
the same weights and points in float32, one thread, and steps that are interleaved, each after one of the same side
that is not timed; medians are quoted. Laplacians and gradients are compared with nested differentiation in float64.
"""

import importlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.samplers import stream
from kanpde.operators import Autograd, Forward
from kanpde.problems import Poisson
from kanpde.training.plan import compiles

CASES = (((100, 128, 128, 128, 1), 100), ((50, 768, 768, 512, 512, 1), 32))  # widths, points
QUICK = (((6, 8, 8, 1), 4),)
PACKAGES = {"jet-for-pytorch": "jet", "folx": "folx"}  # and what they import as
COMPILED = ", compiled"  # ends the name of a side that is
SLOW, SLOW_REPEATS = 1.0, 3  # seconds of a step from which a side is repeated so often only
ALLOWED = 1e-4  # largest deviation of a Laplacian, or of a gradient, over the largest value
WANTED = {"jet, standard": 1.5, "jet, collapsed": 1.5}  # least time of a peer / time of kanpde
HEADING = ("side", "forward, ms", "forward + backward, ms", "time / kanpde", "error of Lap u", "of the gradient")


@dataclass(frozen=True)
class Side:
    """How a side computes; without `laplacian`, why it does not.

    Attributes:
        laplacian: Lap u at the points (N,), as the forward pass of a step computes it.
        gradients: of the mean of its squares, by each weight (out, in); it has what `laplacian` gave.
    """

    name: str
    laplacian: Callable[[], object] | None = None
    gradients: Callable[[object], Sequence] | None = None
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """What a side was measured to take, in seconds, and its largest deviations over the largest value."""

    forward: float
    both: float
    of_laplacian: float
    of_gradient: float


# Sides -------------------------------------------------------------------------------------------------------------


def load() -> dict[str, ModuleType]:
    """The peers that are installed."""
    found = {}
    for name, module in PACKAGES.items():
        with suppress(ImportError):
            found[name] = importlib.import_module(module)
    return found


def in_torch(name: str, net: nn.Module, laplacian: Callable[[Tensor], Tensor], x: Tensor) -> Side:
    """A side whose Laplacian torch differentiates by all parameters that it depends on: not by the last bias."""
    *reached, _ = net.parameters()

    def gradients(lap: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(lap.square().mean(), reached)
        return [g for g in found if g.ndim == 2]

    return Side(name, partial(laplacian, x), gradients)


def of(net: nn.Module, operator) -> Callable[[Tensor], Tensor]:
    """Lap u (N,) by an operator of kanpde, as the training with a Poisson equation has it: without |grad u|^2."""
    u = Ansatz(Poisson(net[0].in_features), net, hard=False)
    return lambda x: operator(u, x).lap


def taylor(jet: ModuleType, net: nn.Module, collapsed: bool, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Lap u (N,) by jet-for-pytorch: the graph of one point, common subexpressions out, over all points by vmap.

    Given a batch, it would push N d directions. The graph keeps the parameters there are: they change in place only.
    """
    of_a_point = jet.laplacian(net, (x[0],), collapsed=collapsed)
    graph, _ = jet.capture_graph(of_a_point, (x[0],))
    jet.common_subexpression_elimination(graph.graph)
    graph.recompile()
    return lambda x: torch.func.vmap(graph)(x).squeeze(-1)


def in_jax(folx: ModuleType, net: nn.Module, x: Tensor) -> Side:
    """folx: the forward Laplacian at all points, and the gradient of its mean square, each compiled by jax.jit."""
    import jax
    import jax.numpy as jnp

    to_jax = lambda t: jnp.asarray(t.detach().numpy())
    params = [(to_jax(layer.weight), to_jax(layer.bias)) for layer in net if isinstance(layer, nn.Linear)]
    with on_one_core():
        points = jax.block_until_ready(to_jax(x))  # starts the threads of XLA

    def u(params, x):
        *hidden, (w, b) = params
        for weight, bias in hidden:
            x = jnp.tanh(weight @ x + bias)
        return (w @ x + b)[0]

    laplacian = lambda params, x: jax.vmap(folx.ForwardLaplacianOperator(0)(partial(u, params)))(x)[0]
    forward = jax.jit(laplacian)
    gradient = jax.jit(jax.grad(lambda params: jnp.mean(laplacian(params, points) ** 2)))
    whole = lambda lap: [w for w, _ in jax.block_until_ready(gradient(params))]  # once more, with the forward pass
    return Side("folx" + COMPILED, lambda: jax.block_until_ready(forward(params, points)), whole)


@contextmanager
def on_one_core() -> Iterator[None]:
    """XLA takes as many threads as there are cores to run on when it starts."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def sides(net: nn.Module, x: Tensor, found: dict[str, ModuleType]) -> list[Side]:
    """All sides: eager ones, then compiled ones."""
    made = {"kanpde": of(net, Forward()), "nested": of(net, Autograd())}
    if jet := found.get("jet-for-pytorch"):
        made |= {f"jet, {way}": taylor(jet, net, way == "collapsed", x) for way in ("standard", "collapsed")}
    eager = [in_torch(name, net, laplacian, x) for name, laplacian in made.items()]
    compiled = []
    if compiles("cpu"):
        whole = {"kanpde": of(net, Forward(compile=True))}
        whole |= {name: torch.compile(made[name], dynamic=False) for name in made if name.startswith("jet")}
        compiled = [in_torch(name + COMPILED, net, laplacian, x) for name, laplacian in whole.items()]
    if not jet:
        eager += [Side(name, missing="not installed") for name in WANTED]
    folx = found.get("folx")
    return [*eager, *compiled, in_jax(folx, net, x) if folx else Side("folx" + COMPILED, missing="not installed")]


# Measurements ------------------------------------------------------------------------------------------------------


def step(side: Side) -> tuple[float, float]:
    """Seconds of the forward pass, and of the whole step: JAX takes its gradient with a forward pass of its own."""
    start = time.perf_counter()
    lap = side.laplacian()
    forward = time.perf_counter() - start
    start = start if isinstance(lap, Tensor) else time.perf_counter()
    side.gradients(lap)
    return forward, time.perf_counter() - start


def deviation(found, wanted: Tensor) -> float:
    """The largest deviation over the largest value."""
    found = found.detach() if isinstance(found, Tensor) else torch.as_tensor(np.array(found))
    return ((found.double() - wanted).abs().max() / wanted.abs().max()).item()


def exact(net: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Laplacian and gradients by nested differentiation in float64."""
    side = in_torch("exact", net.double(), of(net, Autograd()), x.double())
    lap = side.laplacian()
    gradients = side.gradients(lap)
    net.float()
    return lap.detach(), gradients


def measure(widths: tuple[int, ...], points: int, found: dict[str, ModuleType], repeats: int) -> dict[str, Row | str]:
    """A row for each side; why there is none where it is missing."""
    torch.compiler.reset()
    d, *hidden, _ = widths
    net = build("mlp", d, generator=stream(0, "init"), widths=tuple(hidden))
    x = torch.randn(points, d, generator=stream(0, "interior"))
    wanted, gradients = exact(net, x)
    every = sides(net, x, found)
    there, errors, first = [side for side in every if not side.missing], {}, {}
    for side in there:
        lap = side.laplacian()
        pairs = zip(side.gradients(lap), gradients, strict=True)
        errors[side.name] = deviation(lap, wanted), max(deviation(g, w) for g, w in pairs)
        assert max(errors[side.name]) < ALLOWED, f"{side.name} is off by {errors[side.name]}"
        first[side.name] = step(side)[1]
    times: dict[str, list[tuple[float, float]]] = {side.name: [] for side in there}
    for i in range(repeats):
        for side in there:
            if i < SLOW_REPEATS or first[side.name] < SLOW:
                step(side)
                times[side.name].append(step(side))
    rows: dict[str, Row | str] = {side.name: side.missing for side in every}
    return rows | {name: Row(*map(statistics.median, zip(*t, strict=True)), *errors[name]) for name, t in times.items()}


# Tables ------------------------------------------------------------------------------------------------------------


def beside(name: str, rows: dict[str, Row | str]) -> Row | str | None:
    """The side of kanpde that a side is divided by: the compiled one where it is compiled."""
    return rows.get("kanpde" + COMPILED * name.endswith(COMPILED))


def table(title: str, rows: dict[str, Row | str]) -> str:
    """The sides of one network."""
    lines = []
    for name, row in rows.items():
        if isinstance(row, str):
            lines.append([name, row, *[""] * 4])
            continue
        own = beside(name, rows)
        ratio = f"{row.both / own.both:.2f}" if own else ""
        times = f"{1e3 * row.forward:.2f}", f"{1e3 * row.both:.2f}"
        lines.append([name, *times, ratio, f"{row.of_laplacian:.1e}", f"{row.of_gradient:.1e}"])
    return "\n".join([f"## {title}", "", *markdown(HEADING, lines, "lr")]) + "\n"


def verdicts(title: str, rows: dict[str, Row | str]) -> Iterator[str]:
    """The lines that hold the peers' times against the wanted ratios."""
    for name, least in WANTED.items():
        for mode in ("", COMPILED):
            row, own = rows.get(name + mode), beside(name + mode, rows)
            if isinstance(row, Row) and own:
                ratio = row.both / own.both
                yield f"- {name}{mode} / kanpde{mode} at {title} = {ratio:.2f} (wanted: at least {least})"


def report(cases: Sequence[tuple], found: dict[str, ModuleType], repeats: int) -> str:
    """Markdown: a table for each network, and what was wanted."""
    tables, lines = [], []
    for widths, points in cases:
        title = f"{'-'.join(map(str, widths))}, N = {points}"
        rows = measure(widths, points, found, repeats)
        tables.append(table(title, rows))
        lines += verdicts(title, rows)
    packages = "".join(f"; {name} {version(name)}" for name in found)
    head = [
        "# Laplacians of a tanh network, and training steps with them",
        "",
        f"`python -m benchmarks.laplacians`: {machine()}; float32{packages};",
        "medians of interleaved steps: Laplacian, mean square, gradient by the parameters. Compiled sides (by",
        "torch.compile, jax.jit) are divided by the compiled side of kanpde, all others by its eager one. jet:",
        "jet-for-pytorch, captured without common subexpressions, vmapped over the points. nested: the gradient,",
        "differentiated once for each dimension. Errors: against nested differentiation in float64, the largest",
        "deviation over the largest value.",
        "",
    ]
    wanted = "## Wanted" if cases == CASES else "## Wanted at the full sizes; not of these"
    return "\n".join([*head, *tables, wanted, "", *(lines or ["The peers are not installed."])]) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("laplacians", __doc__)
    parser.add_argument("--repeats", type=int, default=11, help="steps of a side, default 11; of a slow one 3")
    args = parser.common(quick="a small network, two steps: to try the script").parse_args(argv)
    at_least(args, {"repeats": 1})
    cases, repeats = (QUICK, 2) if args.quick else (CASES, args.repeats)
    deliver(report(cases, load(), repeats), args.out)


if __name__ == "__main__":
    exiting(main, "laplacians")
