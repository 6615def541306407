"""Time and peak memory of kanpde's layers beside those of other packages, and of generating weights.

    python -m benchmarks.layers [--peer NAME=DIR ...] [--repeats 11] [--quick] [--out benchmarks/results/layers.md]

Peers that no registry has come as checkouts, --peer efficient-kan=DIR --peer fast-kan=DIR --peer torch-conv-kan=DIR;
pykan (in its own speed mode), flashkan and inkan (splines by a table of cells, or all of them: `dense`) are measured
where they are installed. A peer that is missing is a row that says so. Each peer computes the same function as its
counterpart of kanpde: it is given the same weights, and the outputs are compared. flashkan and inkan compile their
splines, and nothing else, also in the sides that are called eager.

All sides run in float32, with the threads that torch has (OMP_NUM_THREADS): eagerly, and those of the networks also
compiled (torch.compile, fixed shapes), but for pykan, whose speed mode is its own. A step is a forward pass, the mean
of squares, and a backward pass into the parameters, of a convolution also into its input; steps of all sides are
interleaved, each after one of the same side that is not timed (it finds the memory that the side before gave back to
the system), and medians quoted.
"""

import importlib.util
import statistics
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, at_least, deliver, exiting, markdown
from benchmarks.speed.memory import bytes_of, peak_bytes
from kanpde.backbones import build
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import saved_memory
from kanpde.ground.samplers import stream
from kanpde.kan import network
from kanpde.kan.basis import BSpline
from kanpde.kan.conv import KANConv2d
from kanpde.kan.weights import Meta, MetaLearner
from kanpde.training.plan import compiles

FILES = {  # of a checkout, the file with the layers
    "efficient-kan": "src/efficient_kan/kan.py",
    "fast-kan": "fastkan/fastkan.py",
    "torch-conv-kan": "kan_convs/kan_conv.py",
}
PACKAGES = {"pykan": "kan", "flashkan": "flashkan", "inkan": "inkan"}  # of the registry, and what they import as
SLOW = 1.0  # seconds of a step from which a side is repeated SLOW_REPEATS times only
SLOW_REPEATS = 3


HEADING = ("side", "forward, ms", "forward + backward, ms", "time / kanpde", "peak memory, MB", "peak / kanpde")


@dataclass(frozen=True)
class Sizes:
    """What is measured: networks (widths, batch), convolution (in, out, side of an image, batch), generated edges."""

    networks: tuple = (((1000, 1000, 1), 100), ((784, 64, 10), 1024), ((100, 32, 32, 32, 1), 2000))
    conv: tuple = (64, 128, 16, 64)
    edges: tuple = (1000, 322)  # inputs, outputs
    compiled: tuple = (
        *("kan", "efficient-kan", "flashkan", "inkan", "inkan dense", "metakan", "nn.Linear and SiLU"),
        *("fastkan", "fast-kan"),
    )


QUICK = Sizes(
    networks=(((20, 12, 1), 10), ((16, 8, 3), 12), ((10, 4, 4, 4, 1), 20)),
    conv=(3, 4, 6, 2),
    edges=(100, 46),
    compiled=("nn.Linear and SiLU",),
)
COMPILED = ", compiled"  # ends the name of a side that is
WANTED = {  # least time of a peer / time of kanpde, at the three networks
    "efficient-kan": (1.8, 3, 5),
    "fast-kan": (1.1, 1.5, 1.5),
    "pykan": (20, 20, 20),
    "flashkan": (1.1, 1.1, 1.1),
    "inkan": (1.1, 1.1, 1.1),
    "inkan dense": (1.1, 1.1, 1.1),
}
WANTED_CONV = (1.6, 3)  # least time and peak memory of torch-conv-kan / those of kanpde
WANTED_GENERATION = (6, 2)  # least time of autograd / time of kanpde; most bytes saved per edge


@dataclass(frozen=True)
class Side:
    """A module, and the side of kanpde that it is compared with; without a module, why there is none."""

    name: str
    module: nn.Module | None
    beside: str
    missing: str = ""


@dataclass(frozen=True)
class Row:
    """What a side was measured to take."""

    forward: float  # seconds
    both: float  # seconds, forward and backward
    peak: int  # bytes


Rows = dict[str, Row | str]  # by the name of the side; a text says why it is missing


# Peers -------------------------------------------------------------------------------------------------------------


def load(folders: dict[str, Path]) -> dict[str, ModuleType]:
    """The peers there are: checkouts by their one file of layers, and the installed ones of PACKAGES.

    Raises:
        ConfigError: a checkout lacks the file.
    """
    found = {}
    for name, folder in folders.items():
        path = folder / FILES[name]
        if not path.is_file():
            raise ConfigError(f"--peer {name}={folder}: there is no {FILES[name]}")
        spec = importlib.util.spec_from_file_location("peer_" + name.replace("-", "_"), path)
        found[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[name])
    for name, module in PACKAGES.items():
        with suppress(ImportError):  # not installed, or one of the packages that it needs
            found[name] = importlib.import_module(module)
    return found


def peer(name: str, found: dict[str, ModuleType], beside: str, make: Callable[[ModuleType], nn.Module]) -> Side:
    """A side of a peer, whose first word is the package; it draws its first weights from torch's own generator."""
    package = name.split()[0]
    if package not in found:
        return Side(name, None, beside, "not installed" if package in PACKAGES else "no checkout given")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Side(name, make(found[package]), beside)


@torch.no_grad()
def with_weights(kan: nn.Sequential, theirs: nn.Module) -> nn.Module:
    """efficient-kan, flashkan or inkan with the weights of our layers."""
    for own, layer in zip(kan, theirs.layers, strict=True):
        theta = own.weights.theta  # (in, size, out)
        layer.base_weight.copy_(theta[:, -1].mT)
        layer.spline_weight.copy_(theta[:, :-1].permute(2, 0, 1))
        if hasattr(layer, "spline_scaler"):
            layer.spline_scaler.fill_(1)
    return theirs


@torch.no_grad()
def as_pykan(kan: nn.Sequential, theirs: nn.Module) -> nn.Module:
    """The peer with the weights of our layers, in its speed mode."""
    for own, layer in zip(kan, theirs.act_fun, strict=True):
        theta = own.weights.theta
        layer.coef.copy_(theta[:, :-1].mT)
        layer.scale_base.copy_(theta[:, -1])
        layer.scale_sp.fill_(1)
    return theirs.speed()


@torch.no_grad()
def as_fast_kan(fastkan: nn.Sequential, theirs: nn.Module) -> nn.Module:
    """The peer with the weights of our layers."""
    for own, layer in zip(fastkan, theirs.layers, strict=True):
        theta = own.weights.theta
        layer.spline_linear.weight.copy_(theta[:, :-1].permute(2, 0, 1).flatten(1))
        layer.base_linear.weight.copy_(theta[:, -1].mT)
        layer.base_linear.bias.copy_(own.bias)
    return theirs


@torch.no_grad()
def as_torch_conv_kan(conv: KANConv2d, theirs: nn.Module) -> nn.Module:
    """Its instance norm and PReLU, which follow the layer, are taken out."""
    per_tap = conv.weights.theta.unflatten(0, (-1, *conv.kernel_size)).permute(4, 0, 3, 1, 2)  # (out, in, size, a, b)
    theirs.spline_conv[0].weight.copy_(per_tap[:, :, :-1].flatten(1, 2))
    theirs.base_conv[0].weight.copy_(per_tap[:, :, -1])
    theirs.layer_norm, theirs.prelus = nn.ModuleList([nn.Identity()]), nn.ModuleList([nn.Identity()])
    return theirs


# Sides -------------------------------------------------------------------------------------------------------------


def networks(widths: tuple[int, ...], found: dict[str, ModuleType]) -> list[Side]:
    """B-splines (G = 5, k = 3, SiLU) and Gaussians (8 centres, SiLU, LayerNorm, bias), each beside its peers."""
    n_in, *hidden, n_out = widths
    make = lambda name, **options: build(
        name, n_in, n_out, generator=stream(0, "init"), widths=tuple(hidden), **options
    )
    kan, fastkan = make("kan"), make("fastkan", norm="all", bias=True, grid_range=(-2.0, 2.0))
    pykan = lambda m: as_pykan(kan, m.KAN(width=list(widths), grid=5, k=3, seed=0, auto_save=False))
    network = lambda **how: lambda m: with_weights(kan, m.KANNetwork(list(widths), **how))
    return [
        Side("kan", kan, "kan"),
        peer("efficient-kan", found, "kan", lambda m: with_weights(kan, m.KAN(list(widths)))),
        peer("pykan", found, "kan", pykan),
        peer("flashkan", found, "kan", network()),
        peer("inkan", found, "kan", network()),
        peer("inkan dense", found, "kan", network(basis_mode="dense")),
        Side("metakan", make("metakan"), "kan"),
        Side("nn.Linear and SiLU", make("mlp", activation="silu"), "kan"),
        Side("fastkan", fastkan, "fastkan"),
        peer("fast-kan", found, "fastkan", lambda m: as_fast_kan(fastkan, m.FastKAN(list(widths)))),
    ]


def with_compiled(sides: Sequence[Side], names: Sequence[str]) -> list[Side]:
    """After the sides, those of them with these names in compiled form, beside the compiled side of kanpde."""
    there = [side for side in sides if side.name in names and side.module is not None and compiles("cpu")]
    compiled = lambda side: torch.compile(side.module, dynamic=False)
    return [*sides, *(Side(side.name + COMPILED, compiled(side), side.beside + COMPILED) for side in there)]


def convolutions(c_in: int, c_out: int, found: dict[str, ModuleType]) -> list[Side]:
    """3 x 3, padding 1, B-splines (G = 5, k = 3, GELU): the layers alone, and with norm and activation after them."""
    basis, edges = BSpline(c_in, base="gelu"), [(9 * c_in, c_out)]
    (free,) = network.free_weights(edges, [basis], stream(0, "init"))
    (generated,) = network.generated_weights(edges, [basis], stream(0, "init"), network.MetaOptions())
    kan, metakan = (KANConv2d(basis, w, c_in, c_out, 3, padding=1) for w in (free, generated))
    with_norm = nn.Sequential(KANConv2d(basis, free, c_in, c_out, 3, padding=1), nn.InstanceNorm2d(c_out), nn.PReLU())
    theirs = lambda m: m.KANConv2DLayer(c_in, c_out, 3, padding=1)
    whole = peer("torch-conv-kan", found, "kan, norm, PReLU", theirs)
    return [
        Side("kan", kan, "kan"),
        peer("torch-conv-kan", found, "kan", lambda m: as_torch_conv_kan(kan, theirs(m))),
        Side("metakan", metakan, "kan"),
        Side("nn.Conv2d", nn.utils.skip_init(nn.Conv2d, c_in, c_out, 3, padding=1, bias=False), "kan"),
        Side("kan, norm, PReLU", with_norm, "kan, norm, PReLU"),
        Side("torch-conv-kan, norm, PReLU", whole.module, whole.beside, whole.missing),
    ]


# Measurements ------------------------------------------------------------------------------------------------------


def step(module: nn.Module, x: Tensor) -> tuple[float, float]:
    """Seconds of the forward pass, and of forward and backward together."""
    module.zero_grad()
    x.grad = None
    start = time.perf_counter()
    y = module(x)
    forward = time.perf_counter() - start
    y.square().mean().backward()
    return forward, time.perf_counter() - start


def peak(module: nn.Module, x: Tensor) -> int:
    """Most bytes alive during a step, the parameters and the input among them."""
    module.zero_grad()
    x.grad = None
    return peak_bytes(lambda: module(x).square().mean().backward(), bytes_of(module, x), x.device)


def measure(sides: Sequence[Side], x: Tensor, repeats: int) -> Rows:
    """The medians of interleaved steps, after one that warms up and the one whose memory is recorded."""
    there = [side for side in sides if side.module is not None]
    compare(there, x)
    rows: Rows = {side.name: side.missing for side in sides}
    first = {side.name: step(side.module, x)[1] for side in there}
    peaks = {side.name: peak(side.module, x) for side in there}
    times: dict[str, list[tuple[float, float]]] = {side.name: [] for side in there}
    for i in range(repeats):
        for side in there:
            if i < SLOW_REPEATS or first[side.name] < SLOW:
                step(side.module, x)
                times[side.name].append(step(side.module, x))
    for name, t in times.items():
        forward, both = map(statistics.median, zip(*t, strict=True))
        rows[name] = Row(forward, both, peaks[name])
    return rows


@torch.no_grad()
def compare(sides: Sequence[Side], x: Tensor) -> None:
    """Raise where a peer computes something else than its counterpart."""
    by_name = {side.name: side.module for side in sides}
    for side in sides:
        if side.name.removesuffix(COMPILED) in WANTED or side.name == "torch-conv-kan":
            own, theirs = by_name[side.beside](x), side.module(x)
            error = ((own - theirs).abs().max() / own.abs().max()).item()
            assert error < 1e-3, f"{side.name} differs from {side.beside} by {error:.1e}"


def generation(n_in: int, n_out: int, repeats: int) -> dict[str, tuple[float, float]]:
    """Weights of scalar prompts by kanpde and by plain automatic differentiation: side -> (seconds, saved bytes).

    The gradient of the weights is given, so that nothing but the meta-learner is measured; the bytes are those saved
    for the backward pass beside prompts and parameters, per edge.
    """
    generator = stream(0, "init")
    normal = lambda *shape: torch.empty(shape).normal_(generator=generator)
    meta = Meta(normal(n_in, 1, n_out), MetaLearner(1, 64, 9))
    for p in meta.learner.parameters():
        p.data.normal_(generator=generator)
    z, m, grad = meta.prompts, meta.learner, normal(n_in, 9, n_out)
    plain = lambda: linear(torch.relu(linear(z.mT, m.w1, m.b1)), m.w2, m.b2).mT
    sides = {"kanpde": lambda: meta.generate(meta.prompts), "autograd": plain}
    times, saved, results = {name: [] for name in sides}, {}, []
    for name, generate in sides.items():
        with saved_memory(meta) as bytes_saved:
            theta = generate()
        saved[name] = bytes_saved() / (n_in * n_out)
        results.append((theta.detach(), *torch.autograd.grad(theta, list(meta.parameters()), grad)))
    for own, expected in zip(*results, strict=True):
        assert (own - expected).abs().max() < 1e-3 * expected.abs().max()
    for _ in range(repeats):
        for name, generate in sides.items():
            for _ in range(2):  # the second one counts
                meta.zero_grad()
                start = time.perf_counter()
                generate().backward(grad)
                seconds = time.perf_counter() - start
            times[name].append(seconds)
    return {name: (statistics.median(times[name]), saved[name]) for name in sides}


# Tables ------------------------------------------------------------------------------------------------------------


def table(title: str, sides: Sequence[Side], rows: Rows) -> str:
    """The sides of one network or layer."""
    lines = []
    for side in sides:
        row, own = rows[side.name], rows.get(side.beside)
        if isinstance(row, str):
            lines.append([side.name, row, *[""] * 4])
            continue
        ratios = (f"{row.both / own.both:.2f}", f"{row.peak / own.peak:.2f}") if own else ("", "")
        times = f"{1e3 * row.forward:.2f}", f"{1e3 * row.both:.2f}"
        lines.append([side.name, *times, ratios[0], f"{row.peak / 1e6:.2f}", ratios[1]])
    return "\n".join([f"## {title}", "", *markdown(HEADING, lines, "lr")]) + "\n"


def verdict(name: str, where: str, rows: Rows, wanted: float) -> str:
    """The line that holds a peer's time against the wanted ratio: both eager, kanpde compiled, both compiled."""
    row, beside = rows[name], "fastkan" if name == "fast-kan" else "kan"
    if isinstance(row, str):
        return f"- {name} / kanpde at {where}: {row} (wanted: at least {wanted})"
    ratios = [f"{row.both / rows[beside].both:.2f}"]
    if own := rows.get(beside + COMPILED):
        ratios.append(f"{row.both / own.both:.2f} with kanpde compiled")
        if peer := rows.get(name + COMPILED):
            ratios.append(f"{peer.both / own.both:.2f} with both")
    return f"- {name} / kanpde at {where} = {', '.join(ratios)} (wanted: at least {wanted})"


def of_networks(sizes: Sizes, found: dict[str, ModuleType], repeats: int) -> tuple[list[str], list[str]]:
    """Tables and verdicts."""
    tables, verdicts = [], {name: [] for name in WANTED}
    for k, (widths, batch) in enumerate(sizes.networks):
        where = "-".join(map(str, widths))
        torch.compiler.reset()  # else a limit of compilations is reached, and what follows is eager
        sides = with_compiled(networks(widths, found), sizes.compiled)
        x = 2 * torch.rand(batch, widths[0], generator=stream(0, "interior")) - 1
        rows = measure(sides, x, repeats)
        tables.append(table(f"{where}, batch {batch}", sides, rows))
        for name, wanted in WANTED.items():
            verdicts[name].append(verdict(name, where, rows, wanted[k]))
    return tables, [line for lines in verdicts.values() for line in lines]


def of_convolution(sizes: Sizes, found: dict[str, ModuleType], repeats: int) -> tuple[list[str], list[str]]:
    """The table, and its verdicts."""
    c_in, c_out, side, batch = sizes.conv
    sides, where = convolutions(c_in, c_out, found), f"a convolution {c_in} to {c_out}"
    x = 2 * torch.rand(batch, c_in, side, side, generator=stream(0, "interior")) - 1
    rows = measure(sides, x.requires_grad_(), repeats)
    time_wanted, peak_wanted = WANTED_CONV
    verdicts = [verdict("torch-conv-kan", where, rows, time_wanted)]
    row = rows["torch-conv-kan"]
    if isinstance(row, Row):
        ratio = row.peak / rows["kan"].peak
        verdicts.append(f"- its peak memory / kanpde's = {ratio:.2f} (wanted: at least {peak_wanted})")
    note = (
        "torch-conv-kan's layer ends in an instance norm and a PReLU: here without them, and with them on both sides."
    )
    return [table(f"{where}, 3 x 3, images {side} x {side}, batch {batch}", sides, rows), note + "\n"], verdicts


def of_generation(sizes: Sizes, repeats: int) -> tuple[list[str], list[str]]:
    """The table, and its verdicts."""
    n_in, n_out = sizes.edges
    rows = generation(n_in, n_out, repeats)
    lines = [
        f"## Generating 9 weights for each of {n_in * n_out:,} edges from scalar prompts, 64 hidden units",
        "",
        *markdown(
            ["side", "forward + backward, ms", "saved, bytes per edge"],
            ([name, f"{1e3 * seconds:.2f}", f"{saved:.2f}"] for name, (seconds, saved) in rows.items()),
            "lr",
        ),
    ]
    (own, saved), (plain, _) = rows["kanpde"], rows["autograd"]
    time_wanted, saved_wanted = WANTED_GENERATION
    return ["\n".join(lines) + "\n"], [
        f"- autograd / kanpde in generating weights = {plain / own:.2f} (wanted: at least {time_wanted})",
        f"- saved by kanpde per edge = {saved:.2f} bytes (wanted: at most {saved_wanted})",
    ]


def report(sizes: Sizes, found: dict[str, ModuleType], repeats: int) -> str:
    """Markdown: all tables, and what was wanted."""
    parts = [of_networks(sizes, found, repeats), of_convolution(sizes, found, repeats), of_generation(sizes, repeats)]
    tables, verdicts = ([line for lines in kind for line in lines] for kind in zip(*parts, strict=True))
    packages = "".join(f"; {name} {version(name)}" for name in PACKAGES if name in found)
    head = [
        "# Layers of kanpde beside those of other packages",
        "",
        f"`python -m benchmarks.layers`: {machine()}; float32{packages};",
        "medians of interleaved steps; compiled: the same module in torch.compile. Without that, flashkan and inkan",
        "compile their splines alone; pykan is in its speed mode; dense: inkan computes all splines instead of the",
        "four of a cell. flashkan's splines are differences of truncated powers, which lose their digits to the right",
        "of the grid; all others are exact to rounding. Each peer has the weights of the kanpde side it is divided",
        "by, kan (B-splines) or fastkan (Gaussians), and the same outputs to 1e-3 of the largest. Peak memory",
        "is all that is alive at a time in a step: parameters, gradients, input and temporaries.",
        "",
    ]
    wanted = "## Wanted" if sizes == Sizes() else "## Wanted at the full sizes; not of these"
    return "\n".join([*head, *tables, wanted, "", *verdicts]) + "\n"


def checkout(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if name not in FILES or not folder:
        raise ArgumentTypeError(f"NAME=DIR with a name of {', '.join(FILES)}; given {text!r}")
    return name, Path(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("layers", __doc__)
    parser.add_argument("--peer", type=checkout, action="append", default=[], metavar="NAME=DIR", help="a checkout")
    parser.add_argument("--repeats", type=int, default=11, help="steps of a side, default 11; of a slow one 3")
    args = parser.common(quick="small sizes, two steps: to try the script").parse_args(argv)
    at_least(args, {"repeats": 1})
    sizes, repeats = (QUICK, 2) if args.quick else (Sizes(), args.repeats)
    deliver(report(sizes, load(dict(args.peer)), repeats), args.out)


if __name__ == "__main__":
    exiting(main, "layers")
