"""Helpers of the tests: seeded generators, networks with weights of order one, relative comparison."""

import os
import runpy
import signal
import subprocess
import sys
import sysconfig
import venv
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from itertools import combinations, product
from math import sqrt
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev

from kanpde import backbones, cli, plot
from kanpde.config import RunConfig
from kanpde.kan.basis import BSpline, Gram, Wavelet
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Meta, MetaLearner
from kanpde.plot import inline
from kanpde.problems import Problem
from kanpde.training import loop as training
from kanpde.training import plan
from kanpde.training.plan import Plan, configured, resolved

F64 = torch.float64
OF_DERIVATIVES = ("curved", "default", "high_dim", "official", "terminal")  # solvers that are not for fits
HIDDEN = 4.0  # hidden grids reach from -HIDDEN to HIDDEN, so that weights of order one keep hidden values on them


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tensors here are small, and threads that wait for each other on a shared machine take a hundred times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def kept_compilations():
    """What torch.compile has made is found again by the next session, in the user's cache unless it is told where."""
    with pytest.MonkeyPatch.context() as patch:
        if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
            with suppress(OSError, RuntimeError):  # no home, or one that cannot be written to
                folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kanpde" / "inductor"
                folder.mkdir(parents=True, exist_ok=True)
                patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
        yield


@pytest.fixture(autouse=True)
def no_compiling_by_itself(monkeypatch):
    """Runs of a few seconds that keep the default number of steps would spend half a minute compiling."""
    monkeypatch.setattr(plan, "COMPILE_FROM", float("inf"))


@pytest.fixture(scope="session", autouse=True)
def coarse_pictures():
    """Drawn as they are asked for, in a fraction of the time: no test counts dots per inch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plot, "DPI", 20)
        patch.setattr(inline, "DPI", 20)
        yield


@pytest.fixture
def no_pictures(monkeypatch):
    """A run of the command line without the pictures at its end, which take longer than a few steps."""
    monkeypatch.setattr(plot, "main_pictures", lambda *_, **__: [])


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel, and the other packages of this one."""
    folder, root = tmp_path_factory.mktemp("wheel"), Path(__file__).parent.parent
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(root)], check=True, timeout=300)
    (made,) = folder.glob("kanpde-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(made)], check=True, timeout=120)
    (packages,) = (folder / "env").glob("lib/python*/site-packages")
    # the path alone: what an editable installation lists there is not read
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"], encoding="utf-8")
    return python


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def configuration(problem: Problem, given: dict | None = None) -> RunConfig:
    """The complete configuration of a problem with these values."""
    return resolved(configured(problem, given or {}), problem)


def planned(problem: Problem, given: dict | None = None, net: nn.Module | None = None) -> Plan:
    """The plan of a run of the problem itself with these values."""
    return Plan.of(configured(problem, given or {}), problem, net)


def points(n: int, dim: int, seed: int = 1, reach: float = 0.9) -> Tensor:
    """n float64 points uniform in [-reach, reach]^dim."""
    return reach * (2 * torch.rand(n, dim, generator=generator(seed), dtype=F64) - 1)


def close(a: Tensor, b: Tensor, rel: float = 1e-12, name: str = "") -> None:
    """Assert max|a - b| <= rel max|b|, with b finite and of a's shape."""
    assert a.shape == b.shape, f"{name}: shape {tuple(a.shape)} against {tuple(b.shape)}"
    assert b.isfinite().all(), f"{name}: the reference is not finite"
    error, size = (a - b).abs().max().item(), b.abs().max().item()
    assert error <= rel * size, f"{name}: error {error:.2e} at size {size:.2e}"


def hessian(function):
    """The Hessian of a scalar function of one point, by reverse differentiation twice."""
    return jacrev(grad(function))


def one_line(info) -> str:
    """The message of a raised error (pytest.raises), asserted to be one line that says something."""
    text = str(info.value)
    assert text and "\n" not in text, f"not one line: {text!r}"
    return text


@torch.no_grad()
def order_one(net: nn.Module, seed: int = 2) -> nn.Module:
    """The network in float64 with parameters drawn anew, of order one per unit: std 1 / sqrt(fan in), biases 1 / 2."""
    g = generator(seed)
    net = net.double()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.weight.normal_(std=1 / sqrt(module.in_features), generator=g)
            module.bias.normal_(std=0.5, generator=g)
        if isinstance(module, KANLinear):
            if module.bias is not None:
                module.bias.normal_(std=0.5, generator=g)
            if isinstance(module.weights, Meta):
                module.weights.draw(0.7 / sqrt(module.in_features), g)
            else:
                module.weights.theta.normal_(std=0.7 / sqrt(module.in_features), generator=g)
                if isinstance(module.basis, Wavelet):  # scales and shifts are not summed over the inputs
                    module.weights.theta[:, :2].normal_(std=0.5, generator=g)
        if isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            module.weight.normal_(1, 0.3, generator=g)
            if module.bias is not None:
                module.bias.normal_(std=0.3, generator=g)
        if isinstance(module, Gram):
            module.beta.normal_(0.25, 0.1, generator=g)
        if isinstance(module, MetaLearner):
            hidden, prompt_dim = module.w1.shape
            module.w1.normal_(std=1 / sqrt(prompt_dim), generator=g)
            module.w2.normal_(std=1 / sqrt(hidden), generator=g)
            for bias in (module.b1, module.b2):
                if bias is not None:  # common to all edges: small, for their sums over many inputs
                    bias.normal_(std=0.02, generator=g)
    return net


def network(name: str, dim: int, dim_out: int = 1, seed: int = 2, **options) -> nn.Module:
    """A small backbone with weights of order one; the hidden grids of a KAN are (-HIDDEN, HIDDEN)."""
    options = {"widths": (4, 3), **options}
    if name != "mlp":
        options = {"hidden_range": (-HIDDEN, HIDDEN), **options}
    if name.startswith("meta"):
        options = {"meta_hidden": 8, **options}
    return order_one(backbones.build(name, dim, dim_out, generator=generator(seed), **options), seed)


def check_off_knots(net: nn.Module, x: Tensor) -> None:
    """Assert that all inputs of all splines lie on the grid, and none within 1e-6 of a knot."""
    seen = []

    def hook(layer, inputs):
        basis = layer.basis
        x = inputs[0] if layer.norm is None else layer.norm(inputs[0])
        cell = (x.detach() - basis.low) / (basis.high - basis.low) * basis.grid_size
        seen.append((cell.min() > 0) & (cell.max() < basis.grid_size) & ((cell - cell.round()).abs().min() > 1e-6))

    splines = [m for m in net.modules() if isinstance(m, KANLinear) and isinstance(m.basis, BSpline)]
    handles = [layer.register_forward_pre_hook(hook) for layer in splines]
    net(x)
    for handle in handles:
        handle.remove()
    assert all(seen), "a value left the grid or sits on a knot: choose another seed"


def in_pairs(*axes, given=lambda *case: True, named=str) -> list:
    """The product of the axes as parameters: every pair of values by default, what is left among the slow tests.

    A case is taken as long as it has pairs that no case before it has, the one with most of them first.
    """
    cases = [case for case in product(*map(list, axes)) if given(*case)]
    pairs = [set(combinations(enumerate(map(named, case)), 2)) for case in cases]
    left, taken = set().union(*pairs), set()
    while left:
        best = max(range(len(cases)), key=lambda i: len(pairs[i] & left))
        taken.add(best)
        left -= pairs[best]
    marks = lambda i: [] if i in taken else [pytest.mark.slow]
    return [pytest.param(*case, id="-".join(map(named, case)), marks=marks(i)) for i, case in enumerate(cases)]


def refused(module: str, *argv: str) -> None:
    """Assert that python -m module with these arguments, run in this process, ends with exit code 2 and one line."""
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as said:
        patch.setattr(sys, "argv", [module, *argv])
        with pytest.raises(SystemExit) as info:
            runpy.run_module(module, run_name="__main__")
    assert info.value.code == 2 and len(said.getvalue().splitlines()) == 1


@contextmanager
def jobs_here(work, tasks, jobs, threads=1):
    """In place of `results` of benchmarks.common.study: one task after another in this process, where patches reach."""
    yield ((task, work(task)) for task in tasks)


def call(capsys, *args):
    """(exit code, standard output, standard error) of a command of the console script."""
    argv, sys.argv = sys.argv, ["kanpde", *map(str, args)]
    try:
        with pytest.raises(SystemExit) as info:
            cli.main()
    finally:
        sys.argv = argv
    captured = capsys.readouterr()
    return info.value.code or 0, captured.out, captured.err


def interrupt_after(monkeypatch, step: int) -> None:
    """Raise the signal of Ctrl-C at the end of a step."""
    original = training.ResidualTraining._step

    def stepped(self, *args):
        original(self, *args)
        if self.state.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.ResidualTraining, "_step", stepped)
