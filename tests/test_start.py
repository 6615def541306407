"""The start from the best constant, and first layers that are zero at the origin."""

import copy
from dataclasses import dataclass

import pytest
import torch
from conftest import F64, call, generator
from scipy.optimize import minimize_scalar

from kanpde import Run
from kanpde.backbones import BACKBONES, build
from kanpde.ground.errors import ConfigError
from kanpde.interpret.network import EdgeNetwork
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Affine
from kanpde.operators import Autograd
from kanpde.problems import HJB, ON_BALL, AllenCahn, Function, Heat, Poisson
from kanpde.runs.api import resume, train
from kanpde.training.start import Constant, best_constant, units


@dataclass(frozen=True)
class ConstantBody(AllenCahn):
    """The solution is -7 (1 - |x|^2)."""

    def source(self, x):
        m = 1 - x.square().sum(-1)
        return 14 * self.dim + self.nonlinearity(-7 * m)


@dataclass(frozen=True)
class SoftPoisson(Poisson):
    """No factor: constants leave the residual as it is."""

    def factor(self, x):
        return None


def of_constant(problem, c: float, x: torch.Tensor) -> torch.Tensor:
    """The scaled residual by automatic differentiation."""
    u = Ansatz(problem, Constant(torch.full((1, 1), c, dtype=x.dtype)))
    held = lambda x: u(x) + 0 * x.sum(-1)  # a graph in x, where the constant has none
    plain = type("Plain", (Ansatz,), {"forward": lambda self, x: held(x)})(problem, u.net)
    return problem.residual_scale * problem.residual(Autograd()(plain, x), x)


@pytest.mark.parametrize("name", ON_BALL)
def test_the_best_constant_is_that_of_a_search(name):
    problem = ON_BALL[name](5)
    x = problem.domain.interior(40, generator(), dtype=F64)
    mean_square = lambda c: of_constant(problem, float(c), x).square().mean().item()
    c, rms = best_constant(problem, x)
    found = minimize_scalar(mean_square, bracket=(c - 1, c + 1.3), tol=1e-10)
    assert abs(c - found.x) < 1e-5 * (1 + abs(c))
    assert rms == pytest.approx(found.fun**0.5, rel=1e-9)
    assert rms < mean_square(0.0) ** 0.5


def test_a_constant_that_solves_the_equation_is_found():
    problem = ConstantBody(30)
    c, rms = best_constant(problem, problem.domain.interior(20, generator(), dtype=F64))
    assert c == pytest.approx(-7, abs=1e-9)
    assert rms < 1e-9
    assert units(problem, "radial", generator()).scale.item() > 0


def test_where_constants_are_not_in_the_residual_it_is_zero():
    problem = SoftPoisson(4)
    c, rms = best_constant(problem, problem.domain.interior(20, generator(), dtype=F64))
    assert c == 0
    assert rms > 0


def test_a_run_starts_from_the_constant(tmp_path):
    problem = AllenCahn(200)
    short = {"points": {"interior": 8, "test": 500, "validation": 50}, "slices": {"points": 5, "volume": 0}}
    run = train(problem, backbone="kan", start="constant", steps=2, out=tmp_path / "run.h5", **short)
    first = float(run.history["rel_l2"][0])
    assert first == pytest.approx(run.floors["constant"], rel=0.1)
    x = problem.domain.interior(5, generator())  # a model that is loaded has its constant
    error = (run.load_model()(x) - problem.exact(x)).norm() / problem.exact(x).norm()
    assert error < 0.2


@pytest.mark.parametrize("dim, problem", [(9, Heat), (9, HJB)])
def test_problems_with_time_start_so_too(problem, dim, tmp_path):
    short = {"points": {"interior": 8, "test": 50, "validation": 10}, "slices": {"points": 5, "volume": 0}}
    run = train(problem(dim), start="constant", steps=1, out=tmp_path / "run.h5", **short)
    assert run.attrs["status"] == "finished"


def test_a_network_made_in_python_starts_so_too_and_goes_on(tmp_path):
    new = lambda: torch.nn.Sequential(torch.nn.Linear(1000, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    short = {"points": {"interior": 2, "test": 50, "validation": 10}, "slices": {"points": 5, "volume": 0}}
    net, problem = new(), Poisson(1000)
    drawn = copy.deepcopy(net.state_dict())
    run = train(problem, net, steps=1, start="constant", out=tmp_path / "run.h5", **short)
    assert run.history["rel_l2"][0] < 2 * run.floors["constant"]
    u = run.load_model(net=new())
    assert isinstance(u.net[-1], Affine) and u.net[-1].shift != 0
    assert all(torch.equal(weight, drawn[name]) for name, weight in net.state_dict().items())
    assert len(run.load_model(net=u.net).net) == 4  # one that ends with such a map gets no other
    assert resume(run.path, net=new(), steps=2).attrs["steps"] == 2


def test_a_run_of_the_command_line_starts_so_once_and_goes_on(capsys, tmp_path, no_pictures):
    path = str(tmp_path / "run.h5")
    given = ("start=constant", "points.test=500", "slices.volume=0")
    sets = [word for setting in given for word in ("--set", setting)]
    assert call(capsys, "solve", "poisson", "--dim", 4, "--steps", 1, "--out", path, "--quiet", *sets) == (0, "", "")
    run = Run.open(path)
    assert run.history["rel_l2"][0] < 2 * run.floors["constant"]
    assert sum(isinstance(module, Affine) for module in run.load_model().modules()) == 1
    assert call(capsys, "solve", "--resume", path, "--steps", 2, "--quiet") == (0, "", "")
    assert Run.open(path).attrs["steps"] == 2


def test_a_centred_network_taken_apart_is_the_same_function():
    net = build("metakan", 3, generator=generator(), widths=(4,), centred=True, bias=True).double()
    x = torch.randn(7, 3, generator=generator(), dtype=F64)
    assert torch.allclose(EdgeNetwork.of(net)(x), net(x), rtol=1e-10)


SOFT = {"constraint": "soft", "points": {"boundary": 5}}


@pytest.mark.parametrize(
    "problem, given, match",
    [
        (Poisson(3), SOFT, "start: constant needs constraint: hard"),
        (Function(formula="sin(x)", ranges={"x": [0, 1]}), {"solver": "fit"}, "start: constant is for PDEs"),
        (Poisson(3), {"start": "zero"}, "start: given 'zero'"),
    ],
)
def test_what_has_no_constant_to_start_from_is_refused(problem, given, match):
    with pytest.raises(ConfigError, match=match):
        train(problem, steps=1, **{"start": "constant", **given})


@pytest.mark.parametrize("name", [n for n in BACKBONES if n != "mlp"])
def test_a_centred_network_has_a_first_layer_that_is_zero_at_the_origin(name):
    centred, plain = (build(name, 3, generator=generator(), widths=(4,), centred=flag)[0] for flag in (True, False))
    x, origin = torch.randn(5, 3, generator=generator()), torch.zeros(1, 3)
    assert centred(origin).abs().max() < 1e-6 < 1e-2 < centred(x).abs().max()
    assert torch.allclose(centred(x), plain(x) - plain(origin), atol=1e-6)
    assert not build(name, 3, widths=(4,), centred=True)[1].centred
