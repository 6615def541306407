"""The sides of benchmarks.peers: kanpde, DeepXDE, PINA, pykan and the released MetaKAN code, each with its own loss."""

import contextlib
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.speed.operators import CoxDeBoorKAN, knots_of
from kanpde import Ansatz
from kanpde.backbones import build
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.jet import Jet
from kanpde.kan.network import parameter_groups
from kanpde.operators import Forward
from kanpde.problems import Poisson

WIDTHS = {"kan": (32,) * 3, "metakan": (32,) * 3, "mlp": (128,) * 4}
RATES, BETAS = {"prompts": 1.5e-2, "meta": 2e-3, "rest": 3e-3}, (0.9, 0.99)  # those of the solver adam
MLP_RATE = 1e-3
SEED = 0


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
            theirs.grid.copy_(knots_of(ours.basis))
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
            layer.grid.copy_(knots_of(ours.basis))
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
