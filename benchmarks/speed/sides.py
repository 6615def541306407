"""The sides of benchmarks.gpu: training with the exact operator, its checks, and the process that runs JAX."""

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.timing import rates, to_targets
from benchmarks.speed.memory import bytes_of, peak_bytes
from benchmarks.speed.operators import residuals
from kanpde import Ansatz, count_parameters
from kanpde.backbones import build
from kanpde.config import PhaseConfig, load
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import errors
from kanpde.ground.samplers import stream
from kanpde.operators import Autograd, Forward
from kanpde.optim.optimisers import make_optimizer, schedule
from kanpde.problems import AllenCahn

NETS, STDE, POINTS = ("metakan", "kan", "mlp"), "mlp, STDE in JAX", 100
PUBLISHED = PhaseConfig(steps=10_000, lr=1e-3, schedule="linear")  # SDGD and STDE, with 100 points
CHECKED = 16  # points


def problem_and_net(name: str, dim: int):
    problem = AllenCahn(dim)
    options = {} if name == "mlp" else {"grid_range": problem.domain.input_range("radial")[0]}
    return problem, build(name, dim, generator=stream(0, "init"), **options)


class Exact:
    """Training on the exact residual at fresh points of every step, as kanpde.training.loop does it."""

    def __init__(self, name: str, dim: int, device: torch.device, phase: PhaseConfig, points: int, compiled=False):
        problem, net = problem_and_net(name, dim)
        self.u, self.phase, self.points, self.device = Ansatz(problem, net).to(device), phase, points, device
        self.eager, self.loss = (self._loss(Forward(compile=way)) for way in (False, compiled))
        self.start()

    def _loss(self, operator: Forward) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, source: residuals(operator, self.u, x, source).square().mean()

    def start(self) -> None:
        """Begin at step 0 with the weights there are."""
        self.optimizer, self.done = make_optimizer(self.phase, self.u), 0
        self.generator = stream(0, "interior", self.device)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Points and the source there."""
        x = self.u.problem.domain.interior(self.points, self.generator)
        return x, self.u.problem.source(x)

    def step(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(self.phase, min(self.done, self.phase.steps))
        x, source = self.draw()
        self.optimizer.zero_grad()
        self.loss(x, source).backward()
        self.optimizer.step()
        self.done += 1

    def run(self, n: int, action: Callable[[], object] | None = None) -> None:
        """n steps, or another action n times, until the device has done them."""
        for _ in range(n):
            (action or self.step)()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def speed(name: str, dim: int, device: torch.device, seconds: float, compiled: bool) -> Iterator[dict]:
    """Steps a second, and the most memory the row had on a GPU; on a CPU, the most bytes allocated in a step."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = Exact(name, dim, device, PUBLISHED, POINTS, compiled)
    row = rates_row(rates(training.run, seconds)) | {"parameters": count_parameters(training.u)}
    if device.type == "cuda":
        row["peak_MB"] = torch.cuda.max_memory_allocated(device) / 1e6
    else:
        training.optimizer.zero_grad()
        row["peak_MB"] = peak_bytes(training.step, bytes_of(training.u, training.optimizer), device) / 1e6
    drawn = rates(lambda n: training.run(n, training.draw), seconds / 4, batches=3)
    yield row | {"source_ms": 1e3 / statistics.median(drawn)}
    if compiled:
        x, source = training.draw()
        deviation = abs(training.loss(x, source).item() / training.eager(x, source).item() - 1)
        yield {"section": "check", "quantity": "loss", "deviation": deviation, "allowed": 1e-3}


def release(device: torch.device) -> None:
    """Give back what earlier rows held, compiled code and its graphs too."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def rates_row(found: list[float]) -> dict:
    return {"steps_per_s": statistics.median(found), "slowest": min(found), "fastest": max(found)}


def settings(name: str, steps: int | None) -> tuple[PhaseConfig, int]:
    """The phase and points of the solver adam for a KAN, the published ones for an mlp; `steps` other than theirs."""
    phase, points = PUBLISHED, POINTS
    if "kan" in name:
        config = load("allen_cahn", "adam", overrides={"backbone": name})
        phase, points = config.phases[0], config.points.interior
    return (phase.model_copy(update={"steps": steps}) if steps else phase), points


def time_to_errors(
    training: Exact, test: dict[str, Tensor], targets: Sequence[float], every: int, seconds: float
) -> Iterator[dict]:
    """As `timing.to_targets`; test: points x and the exact solution there."""
    initial = deepcopy(training.u.state_dict())
    training.run(3)  # warm up, compile
    training.u.load_state_dict(initial)
    training.start()
    x, exact = (test[name].to(training.device) for name in ("x", "exact"))

    @torch.no_grad()
    def error() -> float:
        return errors(training.u(x), exact)["rel_l2"]

    yield from to_targets(training.run, error, targets, every, training.phase.steps, seconds)


# ---------------------------------------------------------------------------------------------------------------
# Checks, and the side in JAX


def largest(found: Tensor, wanted: Tensor) -> float:
    """The largest deviation relative to the largest value."""
    return ((found.double() - wanted).abs().max() / wanted.abs().max()).item()


def quantities(operator, u: Ansatz, x: Tensor) -> dict[str, Tensor]:
    """u, Lap u, and the gradient of the loss, all parameters in one."""
    jet = operator(u, x)
    loss = residuals(operator, u, x, u.problem.source(x)).square().mean()
    gradients = torch.autograd.grad(loss, list(u.parameters()))
    gradient = torch.cat([g.flatten() for g in gradients])
    return {"value": jet.value.detach(), "lap": jet.lap.detach(), "gradient": gradient}


def check(name: str, dim: int, device: torch.device, oracle: bool) -> Iterator[dict]:
    """Forward in float64 against nested differentiation (`oracle`), and Forward in float32 against float64."""
    problem, net = problem_and_net(name, dim)
    u = Ansatz(problem, net).to(device, torch.float64)
    x = problem.domain.interior(CHECKED, stream(0, "check", device), dtype=torch.float64)
    exact = quantities(Forward(), u, x)
    if oracle:
        for key, wanted in quantities(Autograd(), u, x).items():
            yield {"quantity": f"{key}, float64", "deviation": largest(exact[key], wanted), "allowed": 1e-9}
    single = quantities(Forward(), u.float(), x.float())
    for key, wanted in exact.items():
        yield {"quantity": f"{key}, float32", "deviation": largest(single[key], wanted), "allowed": 1e-3}


def check_jax(dim: int, device: torch.device) -> Iterator[dict]:
    """u and Lap u of the same mlp, with every dimension sampled, and the source, against kanpde's in float64."""
    problem, net = problem_and_net("mlp", dim)
    u = Ansatz(problem, net).double()
    x = problem.domain.interior(CHECKED, stream(0, "check"), dtype=torch.float64)
    jet = Autograd()(u, x)
    arrays = {"x": x, "value": jet.value, "lap": jet.lap, "source": problem.source(x)}
    for i, layer in enumerate(layer for layer in net if hasattr(layer, "weight")):
        arrays |= {f"weight{i}": layer.weight.T, f"bias{i}": layer.bias}
    arrays = {name: t.detach().numpy() for name, t in arrays.items()}
    for row in in_jax("check", arrays | {"c": problem.closed_form.c.numpy()}, device):
        allowed = 1e-9 if row["quantity"].endswith("64") else 1e-5 if "source" in row["quantity"] else 1e-3
        yield row | {"allowed": allowed}


def in_jax(job: str, arrays: dict, device: torch.device, **options: float | Sequence[float]) -> list[dict]:
    """What benchmarks.stde_jax prints, run in a process of its own on the same kind of device."""
    if not find_spec("jax"):
        raise ConfigError("JAX is not installed")
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_PLATFORMS": device.type}
    environment["JAX_TRACEBACK_FILTERING"] = "off"  # the last line is then the error
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "arrays.npz", **arrays)
        flags = [str(word) for name, given in options.items() for word in (f"--{name}", *np.atleast_1d(given))]
        command = [sys.executable, "-m", "benchmarks.speed.stde_jax", job, f"{folder}/arrays.npz", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode and "RESOURCE_EXHAUSTED" in done.stderr:
        raise MemoryError
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return [json.loads(line) for line in done.stdout.splitlines()]


def speed_jax(dim: int, device: torch.device, seconds: float) -> dict:
    """As `speed`; on a CPU the memory is that of the compiled step's temporaries, if JAX knows it."""
    arrays = {"c": AllenCahn(dim).closed_form.c.numpy()}
    (row,) = in_jax("speed", arrays, device, seconds=seconds, points=POINTS, steps=PUBLISHED.steps)
    peak = "n/a" if row["peak_bytes"] is None else row["peak_bytes"] / 1e6
    return rates_row(row["rates"]) | {"peak_MB": peak, "parameters": row["parameters"]}


def time_to_errors_jax(
    dim: int, device: torch.device, test: dict[str, Tensor], steps: int, **options: float | Sequence[float]
) -> list[dict]:
    """As `time_to_errors`, with targets, every and seconds among the options."""
    arrays = {"c": AllenCahn(dim).closed_form.c.numpy()} | {name: t.numpy() for name, t in test.items()}
    return in_jax("error", arrays, device, points=POINTS, steps=steps, lr=PUBLISHED.lr, **options)
