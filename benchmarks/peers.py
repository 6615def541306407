"""The same PDE by kanpde, DeepXDE, PINA, pykan and the released MetaKAN code: time and memory of a step, time to error.

    python -m benchmarks.peers [--problems poisson ...] [--dims 100 ...] [--sides kanpde-kan deepxde-kan ...]
        [--minutes 15] [--official DIR] [--out benchmarks/results/peers.md]      (needs pip install -e '.[bench]')

A side is a solver and a network: `kan` and `metakan` are B-spline networks [d, 32, 32, 32, 1], `mlp` has four layers of
128 tanh. All sides of a network start from the same weights and knots, draw the same fresh radial points at every step,
scale the residual by 1 / (2 d), have u = (1 - |x|^2) f, Adam and linear decay over --steps; that they give the same
loss is checked before anything is measured. DeepXDE and PINA take any torch module as their network, so their KAN is
what a user would bring along: the textbook Cox-de Boor recursion.

Each peer's loss comes from its own API; the step around it (points, backward pass, Adam, schedule) is the same for all,
without the peers' training loops (callbacks, Lightning), which would take longer. The sides' steps are interleaved.
Then one side after the other trains for --minutes at most (0: not at all); its error is taken on 2000 test points while
the clock stands. With --out, finished rows are kept in a CSV beside the table and not measured again. All on the CPU.
"""

import argparse
import contextlib
import csv
import importlib
import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.machine import machine
from benchmarks.memory import peak_bytes
from benchmarks.operators import CoxDeBoorKAN
from benchmarks.report import Parser, exiting
from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.config import ConfigError
from kanpde.jet import Jet
from kanpde.kan.network import parameter_groups
from kanpde.operators import Forward
from kanpde.problems import AllenCahn, Poisson
from kanpde.samplers import stream

PROBLEMS = {"poisson": Poisson, "allen_cahn": AllenCahn}
WIDTHS = {"kan": (32,) * 3, "metakan": (32,) * 3, "mlp": (128,) * 4}
RATES, BETAS = {"prompts": 1.5e-2, "meta": 2e-3, "rest": 3e-3}, (0.9, 0.99)  # those of the solver adam
MLP_RATE = 1e-3
TARGETS = {"s_to_1e-2": 1e-2, "s_to_5e-3": 5e-3, "s_to_3e-3": 3e-3}
SEED, TEST_POINTS, EVERY = 0, 2000, 10
KEYS, SETTINGS = ("problem", "dim", "side"), ("points", "steps", "threads")
COLUMNS = (*KEYS, *SETTINGS, "ms", "peak_MB", *TARGETS, "error", "steps_done", "seconds")
WANTED = {"deepxde-kan": 20, "pina-kan": 20, "deepxde-mlp": 3, "pina-mlp": 3}  # times kanpde; Poisson, d = 100


@dataclass(frozen=True)
class Case:
    """What all sides share: problem, points of a step, steps of the schedule, and the checkout of the released code."""

    problem: Poisson
    points: int
    steps: int
    official: Path | None = None

    def network(self, name: str) -> nn.Sequential:
        """The network at its initial weights. A MetaKAN has a meta-learner per layer, as in the released code."""
        options = {} if name == "mlp" else {"grid_range": self.problem.domain.input_range("radial")}
        options |= {"meta_share": "layer"} if name == "metakan" else {}
        return build(name, self.problem.dim, generator=stream(SEED, "init"), widths=WIDTHS[name], **options)

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """The points of a step; without a generator always the same others."""
        return self.problem.domain.interior(self.points, generator or stream(SEED, "validation"))

    def residual(self, u: Tensor, lap: Tensor, x: Tensor) -> Tensor:
        """(N,) from u and Lap u, each (N,). The source takes no part in differentiation."""
        return self.problem.residual_scale * self.problem.residual(Jet(u, lap=lap), x.detach())


class Side:
    """A solver at work: `loss` (points to a scalar) is its own, `predict(x)` is u (N,), `step()` a step of training."""

    def __init__(self, case: Case, loss: Callable, predict: Callable, rates: Sequence[tuple[list[Tensor], float]]):
        self.case, self.loss, self.predict, self.generator = case, loss, predict, stream(SEED, "interior")
        self.adam = torch.optim.Adam([{"params": p, "lr": rate} for p, rate in rates], betas=BETAS)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, lambda step: max(0.0, 1 - step / case.steps))

    def step(self) -> None:
        self.adam.zero_grad()
        self.loss(self.case.draw(self.generator)).backward()
        self.adam.step()
        self.schedule.step()

    def bytes_held(self) -> int:
        """Parameters that have gradients, these gradients, and Adam's two averages."""
        return 4 * sum(p.nbytes for group in self.adam.param_groups for p in group["params"] if p.grad is not None)


def rates(net: nn.Module, name: str) -> list[tuple[list[Tensor], float]]:
    return [(p, MLP_RATE if name == "mlp" else RATES[group]) for group, p in parameter_groups(net).items()]


def brought_along(net: nn.Module, name: str) -> nn.Module:
    """The module that a user of DeepXDE or PINA would take, with the parameters of `net`."""
    return net if name == "mlp" else CoxDeBoorKAN(net)


class Hard(nn.Module):
    """u = (1 - |x|^2) f, (N, d) -> (N, 1)."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        x = x.as_subclass(Tensor)  # PINA's own KAN likewise strips labels: arithmetic on LabelTensors is slow
        return (1 - x.square().sum(1, keepdim=True)) * self.net(x)


# ---------------------------------------------------------------------------------------------------------------
# The sides


def kanpde(case: Case, name: str) -> Side:
    """kanpde: the operator Forward on an Ansatz; one jet, one backward pass."""
    net = case.network(name)
    u, operator = Ansatz(case.problem, net), Forward()

    def loss(x: Tensor) -> Tensor:
        jet = operator(u, x)
        return case.residual(jet.value, jet.lap, x).square().mean()

    return Side(case, loss, u, rates(net, name))


def deepxde(case: Case, name: str) -> Side:
    """DeepXDE, torch backend: dde.data.PDE with the sum of dde.grad.hessian(y, x, i=i, j=i) over i, in the default
    reverse mode (its forward mode is slower here). The loss is Model.outputs_losses_train, of which Model.train_step
    takes the gradient; the network is a dde.nn.pytorch.NN with an output transform.
    """
    os.environ["DDE_BACKEND"] = "pytorch"
    dde, dim, net = peer("deepxde"), case.problem.dim, case.network(name)
    torch.set_default_device(None)  # where there is a GPU, DeepXDE makes it the default of all tensors

    class Net(dde.nn.pytorch.NN):
        def __init__(self, module: nn.Module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self._output_transform(x, self.module(x))

    def pde(x, y):
        lap = sum(dde.grad.hessian(y, x, i=i, j=i) for i in range(dim))
        return case.residual(y[:, 0], lap[:, 0], x)

    network = Net(brought_along(net, name))
    network.apply_output_transform(lambda x, f: (1 - x.square().sum(1, keepdim=True)) * f)
    data = dde.data.PDE(dde.geometry.Hypersphere([0.0] * dim, 1.0), pde, [], anchors=case.draw().numpy())
    model = dde.Model(data, network)
    model.compile("adam", lr=MLP_RATE, verbose=0)  # makes the loss; its optimiser is not used
    loss = lambda x: model.outputs_losses_train(x.numpy(), None, None)[1].sum()
    return Side(case, loss, lambda x: torch.as_tensor(model.predict(x.numpy()))[:, 0], rates(net, name))


def pina(case: Case, name: str) -> Side:
    """PINA: Condition.evaluate of an Equation that calls pina.operator.laplacian, and the MSELoss of its
    PhysicsInformedSingleModelSolver, which is what the solver's training_step computes inside Lightning.
    """
    labels, net, plain = [f"x{i}" for i in range(case.problem.dim)], case.network(name), lambda t: t.as_subclass(Tensor)
    labelled = lambda x: peer("pina").LabelTensor(x, labels)

    def residual(x, u):
        lap = peer("pina.operator").laplacian(u, x, components=["u"], d=labels)
        return case.residual(plain(u)[:, 0], plain(lap)[:, 0], plain(x))

    equation = peer("pina.equation").Equation(residual)
    condition = peer("pina").Condition(input=labelled(case.draw()), equation=equation)
    attributes = {"input_variables": labels, "output_variables": ["u"], "conditions": {"ball": condition}}
    problem = type("InTheBall", (peer("pina.problem").BaseProblem,), attributes)()
    solver = peer("pina.solver").PhysicsInformedSingleModelSolver(problem, Hard(brought_along(net, name)))

    def loss(x: Tensor) -> Tensor:
        found = condition.evaluate({"input": labelled(x)}, solver)
        return solver.loss(found, torch.zeros_like(found)).mean()

    return Side(case, loss, lambda x: plain(solver(labelled(x)))[:, 0], rates(net, name))


def pykan(case: Case, name: str) -> Side:
    """pykan: its KAN under speed(), the Laplacian from kan.utils.batch_hessian, all d^2 entries, as in its PDE example.

    It trains a scale of each spline, 1 at first, beside the weights that the others have.
    """
    net, hessian = case.network(name), peer("kan.utils").batch_hessian
    sizes, grid = [case.problem.dim, *WIDTHS[name], 1], net[0].basis
    kan = peer("kan").KAN(width=sizes, grid=grid.grid_size, k=grid.spline_order, auto_save=False).speed()
    with torch.no_grad():
        for theirs, ours in zip(kan.act_fun, net, strict=True):
            theta = ours.weights.theta  # (in, splines and base, out)
            theirs.grid.copy_(knots(ours.basis))
            theirs.coef.copy_(theta[:, :-1].mT)
            theirs.scale_base.copy_(theta[:, -1])
            theirs.scale_sp.fill_(1.0)
    u = Hard(kan)

    def loss(x: Tensor) -> Tensor:
        lap = hessian(u, x, create_graph=True).diagonal(dim1=1, dim2=2).sum(1)
        return case.residual(u(x)[:, 0], lap, x).square().mean()

    trained = [p for p in kan.parameters() if p.requires_grad]
    return Side(case, loss, lambda x: u(x)[:, 0], [(trained, RATES["rest"])])


def official(case: Case, name: str) -> Side:
    """The released code of MetaKAN: class PINN of solving_pde/{Poisson,AllenCahn}.py with its exact loss Method0, which
    reads the points PINN.xf and the source PINN.ff; these are set here in place of PINN.Resample.
    """
    pinn, net = released_pinn(case.official, case.problem), case.network(name)
    kan, scale = pinn.u_net.hyperkan, case.problem.residual_scale
    with torch.no_grad():
        for layer, prompts, learner, ours in zip(kan.layers, kan.embeddings, kan.hypernet, net, strict=True):
            layer.grid.copy_(knots(ours.basis))
            prompts.copy_(ours.weights.prompts.permute(2, 0, 1).flatten(0, 1))  # (out in, p)
            own = ours.weights.learner
            for theirs, mine in zip(learner.parameters(), (own.w1, own.b1, own.w2, own.b2), strict=True):
                theirs.copy_(mine)

    def loss(x: Tensor) -> Tensor:
        pinn.xf, pinn.ff = x, case.problem.source(x)
        return scale**2 * pinn.Method0()[0]

    trained = [(list(kan.embeddings), RATES["prompts"]), (list(kan.hypernet.parameters()), RATES["meta"])]
    return Side(case, loss, lambda x: pinn.u_net(x)[:, 0], trained)


SOLVERS = {"kanpde": kanpde, "deepxde": deepxde, "pina": pina, "pykan": pykan, "official": official}
SIDES = ("kanpde-metakan", "kanpde-kan", "kanpde-mlp", "deepxde-kan", "deepxde-mlp", "pina-kan", "pina-mlp")
SIDES += ("pykan-kan", "official-metakan")


def make(side: str, case: Case) -> Side:
    solver, name = side.split("-")
    return SOLVERS[solver](case, name)


@contextlib.contextmanager
def importing(what: str):
    """Without what a peer prints as it comes up; what it lacks is one line."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    except ImportError as error:
        raise ConfigError(f"{what} cannot be imported ({error}): pip install -e '.[bench]'") from None


def peer(module: str):
    with importing(module):
        return importlib.import_module(module)


def knots(basis) -> Tensor:
    """All knots of uniform B-splines, (in, G + 2 k + 1)."""
    g, k = basis.grid_size, basis.spline_order
    step = (basis.high - basis.low) / g
    return basis.low.unsqueeze(1) + step.unsqueeze(1) * torch.arange(-k, g + k + 1)


def released_pinn(folder: Path, problem: Poisson):
    """The released script's PINN, without the training at the end of the script."""
    script = folder / "solving_pde" / f"{type(problem).__name__}.py"
    source, start, _ = (script.read_text(encoding="utf-8") if script.is_file() else "").partition("\nmodel = PINN()")
    if not start:
        raise ConfigError(f"--official: {script} is not there, or not the released script with a line model = PINN()")
    options = {"dim": problem.dim, "model": "MetaKAN", "hidden_dim": 128, "PINN_h": 32, "PINN_L": 4, "N_test": 2}
    argv, path = [script.name, *(f"--{k}={v}" for k, v in options.items())], [str(script.parent), *sys.path]
    names = {"__name__": script.stem}
    with mock.patch.object(sys, "argv", argv), mock.patch.object(sys, "path", path), importing(script.name):
        exec(compile(source, str(script), "exec"), names)
        return names["PINN"]()


# ---------------------------------------------------------------------------------------------------------------
# Measuring


def check_losses(sides: Sequence[str], case: Case) -> None:
    """All sides of a network give the same loss, to 1e-4, at the weights that all start from; and also without the
    source, beside which the Laplacian of a new network is small.
    """
    kind, x = type(case.problem), case.draw()
    sourceless = type(kind.__name__, (kind,), {"source": lambda self, x: torch.zeros_like(x[:, 0])})
    for name, each in product(sides, (case, replace(case, problem=sourceless(case.problem.dim)))):
        own, loss = (make(side, each).loss(x.clone()).item() for side in (f"kanpde-{name.split('-')[1]}", name))
        assert abs(loss / own - 1) < 1e-4, f"{name}: loss {loss}, by kanpde {own}"


def seconds_of(side: Side) -> float:
    start = time.perf_counter()
    side.step()
    return time.perf_counter() - start


def step_rows(sides: dict[str, Side], repeats: int, allowed: float = 15.0) -> dict[str, dict]:
    """Peak memory of a second step; median time of `repeats` interleaved ones, of fewer where they take `allowed` s."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    peaks = {}
    for name, side in sides.items():
        side.step()
        peaks[name] = peak_bytes(side.step, side.bytes_held(), torch.device("cpu")) / 2**20
    for name in list(sides) * repeats:
        if sum(times[name]) < allowed:
            times[name].append(seconds_of(sides[name]))
    return {name: {"ms": 1e3 * statistics.median(times[name]), "peak_MB": peaks[name]} for name in sides}


def run_row(side: Side, case: Case, allowed: float) -> dict:
    """Train until every error of TARGETS is reached, the schedule ends, or `allowed` seconds of steps have passed.

    The error is taken at the same steps on all sides: it is noisy at first, and crosses a target early and by chance.
    """
    x = case.problem.domain.interior(TEST_POINTS, stream(SEED, "test"))
    exact = case.problem.exact(x)
    spent, done, error, reached = 0.0, 0, float("nan"), {}
    while spent < allowed and done < case.steps and len(reached) < len(TARGETS):
        spent, done = spent + seconds_of(side), done + 1
        if done % EVERY == 0 or done == case.steps or spent >= allowed:
            with torch.no_grad():
                error = ((side.predict(x) - exact).norm() / exact.norm()).item()
            reached = {name: spent for name, target in TARGETS.items() if error <= target} | reached
    return {"error": error, "steps_done": done, "seconds": spent, **reached}


class Rows:
    """Rows by problem, dimension and side, all of the same settings; each new one is written to `path`."""

    def __init__(self, path: Path | None, settings: dict):
        self.path, self.settings = path, {name: str(value) for name, value in settings.items()}
        kept = csv.DictReader(path.read_text(encoding="utf-8").splitlines()) if path and path.is_file() else ()
        self.rows = {tuple(row[k] for k in KEYS): row for row in kept}
        if any(row[name] != value for row in self.rows.values() for name, value in self.settings.items()):
            raise ConfigError(f"{path} has rows of other settings ({', '.join(SETTINGS)}): name another --out")

    def get(self, *key) -> dict:
        return self.rows.get(tuple(map(str, key)), {})

    def add(self, *key, **measured) -> None:
        names = dict(zip(KEYS, map(str, key), strict=True))
        new = {name: f"{value:.6g}" for name, value in measured.items()}
        self.rows[tuple(names.values())] = names | self.settings | self.get(*key) | new
        print(*key, ", ".join(f"{name} {value}" for name, value in new.items()), flush=True)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows.values())


def measure(rows: Rows, problem: str, case: Case, sides: Sequence[str], repeats: int, allowed: float) -> None:
    """The rows of one problem that are not there yet. Times of steps compare only if they are taken together."""
    key = problem, case.problem.dim
    if not all(rows.get(*key, side) for side in sides):
        check_losses(sides, case)
        for side, row in step_rows({side: make(side, case) for side in sides}, repeats).items():
            rows.add(*key, side, **row)
    for side in sides:
        row = rows.get(*key, side)
        finished = all(row.get(name) for name in TARGETS) or row.get("steps_done") == str(case.steps)
        if not finished and float(row.get("seconds") or 0) < allowed:
            rows.add(*key, side, **run_row(make(side, case), case, allowed))


# ---------------------------------------------------------------------------------------------------------------
# The report


def report(rows: Rows) -> str:
    """Markdown: a table for each problem and dimension, and the figures that are wanted."""
    titles = {name: name.replace("_", " ") for name in TARGETS}
    heading = ["side", "ms", "x", "MB", "x", *titles.values(), "last error", "steps"]
    lines = [
        "# The same PDE by other packages",
        "",
        f"`python -m benchmarks.peers`: {', '.join(f'{k} {v}' for k, v in rows.settings.items())}; {machine()}.",
        "ms and MB: of a training step, MB the most that is allocated in it; x: over kanpde's with the same network;",
        "s to e: seconds of training to the relative l2 error e, > t where t seconds did not suffice.",
    ]
    line = lambda texts: f"| {' | '.join(texts)} |"
    for problem, dim in dict.fromkeys(key[:2] for key in rows.rows):
        lines += ["", f"## {problem}, d = {dim}", "", line(heading), line(["---", *["--:"] * (len(heading) - 1)])]
        for side in (side for side in SIDES if rows.get(problem, dim, side)):
            row, own = rows.get(problem, dim, side), rows.get(problem, dim, f"kanpde-{side.split('-')[1]}")
            step = (text for name in ("ms", "peak_MB") for text in (value(row, name), ratio(row, own, name)))
            run = row.get("error") or "-", row.get("steps_done") or "-"
            lines.append(line([side, *step, *(value(row, name) for name in TARGETS), *run]))
    lines.append("")
    for side, least in WANTED.items():
        row, own = (rows.get("poisson", 100, name) for name in (side, f"kanpde-{side.split('-')[1]}"))
        if row and own:
            to = "; ".join(f"{title} {ratio(row, own, name)}" for name, title in titles.items())
            lines.append(f"- Poisson, d = 100, {side} / kanpde: step {ratio(row, own, 'ms')} (wanted: {least}); {to}")
    return "\n".join(lines) + "\n"


def value(row: dict, column: str, unit: float = 1.0) -> str:
    """A number of a row in units of another; a lower bound where the side trained without getting there."""
    if row.get(column):
        return f"{float(row[column]) / unit:.1f}"
    return f"> {float(row['seconds']) / unit:.1f}" if row.get("seconds") else "-"


def ratio(row: dict, own: dict, column: str) -> str:
    """A number of a row over kanpde's."""
    return value(row, column, float(own[column])) if own.get(column) else "-"


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--dims", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="default all; official-metakan only with --official")
    parser.add_argument("--official", type=Path, metavar="DIR", help="checkout of the released MetaKAN code")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000, help="length of the schedule")
    parser.add_argument("--minutes", type=float, default=15.0, help="training time of a side; 0 measures steps only")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.official is None and "official-metakan" in (args.sides or ()):
        raise ConfigError("the side official-metakan needs --official DIR, a checkout of the released MetaKAN code")
    if min(args.points, args.steps, args.repeats, args.threads) < 1 or args.minutes < 0 or min(args.dims) < 2:
        raise ConfigError("--points, --steps, --repeats and --threads are at least 1, --dims 2, --minutes 0")
    torch.set_num_threads(args.threads)
    rows = Rows(args.out and args.out.with_suffix(".csv"), {name: getattr(args, name) for name in SETTINGS})
    sides = args.sides or [side for side in SIDES if args.official or side != "official-metakan"]
    for problem, dim in product(args.problems, args.dims):
        case = Case(PROBLEMS[problem](dim), args.points, args.steps, args.official)
        measure(rows, problem, case, sides, args.repeats, 60 * args.minutes)
    if args.out:
        args.out.write_text(report(rows), encoding="utf-8")
    print(report(rows))


if __name__ == "__main__":
    exiting(main, "peers")
