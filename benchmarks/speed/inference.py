"""What a run's function takes, with gradient and Laplacian, in the program that trained it and as the exported files.

    python -m benchmarks.inference [--backbones kan metakan mlp] [--dim 3] [--points 1000] [--repeats 15] [--quick]
        [--out benchmarks/results/inference.md]      (needs pip install -e '.[export]', cc and g++)

u is a run of Poisson, two steps of training, in float64; its value, gradient and Laplacian are asked for at one point
and at --points. eager is kanpde's jet in the program that has the run; each file is loaded as its users would, that of
C by ctypes, point by point, compiled with -O2. One thread; sides are interleaved; ms is the median of eager, the others
are times as long as it: below one is faster. The largest difference from eager is relative. size is that of the file.
"""

import argparse
import ctypes
import importlib.util
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy import ndarray

from benchmarks.common.machine import machine
from benchmarks.common.study import RESULTS, Parser, at_least, deliver, exiting, markdown
from kanpde import train
from kanpde.export import export
from kanpde.export.function import Derivatives
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.problems import Poisson
from kanpde.runs.models import Run

Side = Callable[[ndarray], Sequence[ndarray]]  # points (N, d) to value, gradient and Laplacian
FILES = {"torch": "u.pt2", "aoti": "aoti.pt2", "onnx": "u.onnx", "numpy": "u.py", "c": "u.c"}
SMALL = {"points": {"interior": 20, "test": 50, "validation": 20}, "slices": {"points": 2, "volume": 0}}


def of_torch(function: Callable) -> Side:
    """A side that takes tensors."""
    return lambda x: [part.detach().numpy() for part in function(torch.from_numpy(x))]


def of_onnx(path: Path) -> Side:
    """One by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def of_numpy(path: Path) -> Side:
    """One of a Python file."""
    spec = importlib.util.spec_from_file_location("exported", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.derivatives


def of_c(path: Path) -> Side:
    """One of a C file, compiled here."""
    library = path.with_suffix(".so")
    subprocess.run(["cc", "-std=c99", "-O2", "-shared", "-fPIC", "-o", library, path, "-lm"], check=True)
    function = ctypes.CDLL(str(library)).u_derivatives
    function.argtypes, function.restype = [ctypes.c_void_p] * 4, None

    def side(x: ndarray) -> list[ndarray]:
        out = np.empty(len(x)), np.empty_like(x), np.empty(len(x))
        for i in range(len(x)):
            function(*(part.ctypes.data + i * part.strides[0] for part in (x, *out)))
        return list(out)

    return side


READ: dict[str, Callable[[Path], Side]] = {
    "torch": lambda path: of_torch(torch.export.load(path).module()),
    "aoti": lambda path: of_torch(torch._inductor.aoti_load_package(str(path))),
    "onnx": of_onnx,
    "numpy": of_numpy,
    "c": of_c,
}


def there() -> list[str]:
    """The formats that this machine can write and run."""
    onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    needs = {"aoti": shutil.which("g++"), "onnx": onnx, "c": shutil.which("cc")}
    return [name for name in FILES if needs.get(name, True)]


def sides(run: Run, folder: Path) -> Iterator[tuple[str, Side, float, float]]:
    """Names, functions, seconds of the export, and sizes of the files in kB, eager first."""
    yield "eager", of_torch(Derivatives(run.load_model())), 0.0, 0.0
    for name in there():
        began = time.perf_counter()
        try:
            (path,) = export(run, folder / FILES[name], name)
        except ConfigError as error:  # such as a network that onnxruntime does not know
            print(error)
            continue
        yield name, READ[name](path), time.perf_counter() - began, path.stat().st_size / 1e3


def measured(backbone: str, dim: int, counts: Sequence[int], repeats: int) -> Iterator[list]:
    """The lines of a network."""
    with TemporaryDirectory() as folder:
        run = train(Poisson(dim), backbone=backbone, steps=2, verify=False, out=Path(folder, "run.h5"), **SMALL)
        made = list(sides(run, Path(folder)))
        drawn = Poisson(dim).domain.interior(max(counts), stream(0, "inference")).double().numpy()
        times: dict[tuple[str, int], list[float]] = {}
        gaps: dict[str, float] = {}
        for n in counts:
            x = np.ascontiguousarray(drawn[:n])
            eager = made[0][1](x)
            for name, side, *_ in made:
                found = side(x)
                gap = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, eager, strict=True))
                gaps[name] = max(gap, gaps.get(name, 0.0))
            for _ in range(repeats):
                for name, side, *_ in made:
                    began = time.perf_counter()
                    side(x)
                    times.setdefault((name, n), []).append(time.perf_counter() - began)
        for name, _, seconds, size in made:
            median = [statistics.median(times[name, n]) for n in counts]
            beside = [m / statistics.median(times["eager", n]) for m, n in zip(median, counts, strict=True)]
            own = name == "eager"
            cells = [f"{1e3 * m:.3g} ms" if own else f"{ratio:.3g}" for m, ratio in zip(median, beside, strict=True)]
            yield [
                backbone,
                name,
                *cells,
                *(["", "", ""] if own else [f"{gaps[name]:.0e}", f"{size:.0f}", f"{seconds:.0f}"]),
            ]


def report(args: argparse.Namespace) -> str:
    """Markdown."""
    counts = (1, args.points)
    heading = ["network", "file", *(f"{n:,} points" for n in counts), "difference", "size, kB", "export, s"]
    lines = [line for name in args.backbones for line in measured(name, args.dim, counts, args.repeats)]
    about = __doc__.partition("\n\n    ")[0], *__doc__.rstrip().split("\n\n")[2:]
    of = f"d = {args.dim}. {machine()}"
    return "\n".join(["# Inference", "", "\n\n".join(about), "", of, "", *markdown(heading, lines), ""])


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = Parser("inference", __doc__)
    parser.add_argument("--backbones", nargs="+", default=["kan", "metakan", "mlp"], metavar="NAME")
    parser.add_argument("--dim", type=int, default=3)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.common(RESULTS / "inference.md", quick="a few points, twice")
    args = parser.parse_args(argv)
    at_least(args, {"dim": 1, "points": 2, "repeats": 1})
    if args.quick:
        args.points, args.repeats = 4, 2
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parsed(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        deliver(report(args), args.out)
    finally:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    exiting(main, "inference")
