"""Problems of the library as a user of DeepXDE 1.15 (backend pytorch) states and sets them.

The settings are those of its documented examples (examples/pinn_forward and pinn_inverse of its repository): networks,
numbers of points of the conditions, rates and iterations of Adam. An example of the same equation with other constants
gives its settings to ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import deepxde as dde
import numpy as np
import torch
from torch import Tensor

from kanpde import problems


@dataclass(frozen=True)
class Settings:
    """What an example sets beside the statement.

    Attributes:
        net: the network.
        interior, boundary, initial: numbers of points.
        iterations: of Adam, at a rate of 1e-3.
        quasi_newton: whether L-BFGS follows in the example.
        decay: of the rate, as `Model.compile` takes it.
        resampled: whether every step has new points.
    """

    net: torch.nn.Module
    interior: int
    boundary: int
    initial: int = 0
    iterations: int = 15000
    quasi_newton: bool = True
    decay: tuple | None = None
    resampled: bool = False


class Example:
    """A problem: its geometry, equations and conditions, and the numbers that it looks for."""

    unknowns: Sequence[Tensor] = ()

    def statement(self) -> tuple[dde.geometry.geometry.Geometry, Callable, list]:
        """Geometry, residual and conditions."""
        raise NotImplementedError

    def settings(self) -> Settings:
        """What it sets beside these."""
        raise NotImplementedError


class Burgers(Example):
    """With the settings of its example.

    Args:
        nu: the viscosity, there 0.01 / pi.
    """

    def __init__(self, nu: float = 0.01 / np.pi):
        self.nu = nu

    def statement(self):
        def pde(x, u):
            u_x, u_t = (dde.grad.jacobian(u, x, j=j) for j in (0, 1))
            return u_t + u * u_x - self.nu * dde.grad.hessian(u, x)

        domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
        walls = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on_boundary: on_boundary)
        start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on_initial: on_initial)
        return domain, pde, [walls, start]

    def settings(self):
        net = dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal")
        return Settings(net, interior=2540, boundary=80, initial=160)


class AllenCahn1D(Example):
    """Its example has the same equation with other constants, the initial value in the network, and fixed ends."""

    def statement(self):
        def pde(x, u):
            return dde.grad.jacobian(u, x, j=1) - 1e-4 * dde.grad.hessian(u, x) - 5 * (u - u**3)

        domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1))
        circle = [
            dde.icbc.PeriodicBC(domain, 0, lambda _, on_boundary: on_boundary, derivative_order=order)
            for order in (0, 1)
        ]
        return domain, pde, circle

    def settings(self):
        net = dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal")
        net.apply_output_transform(lambda x, y: x[:, :1] ** 2 * torch.cos(np.pi * x[:, :1]) + x[:, 1:] * y)
        return Settings(net, interior=8000, boundary=400, initial=800, iterations=40000)


class Schroedinger(Example):
    """With the settings of its example, but for the stopping rules of L-BFGS."""

    def statement(self):
        def pde(x, h):
            re, im = h[:, :1], h[:, 1:]
            re_t, im_t = (dde.grad.jacobian(h, x, i=i, j=1) for i in (0, 1))
            re_xx, im_xx = (dde.grad.hessian(h, x, component=i) for i in (0, 1))
            square = re**2 + im**2
            return [re_t + im_xx / 2 + square * im, im_t - re_xx / 2 - square * re]

        domain = dde.geometry.GeometryXTime(dde.geometry.Interval(-5, 5), dde.geometry.TimeDomain(0, np.pi / 2))
        ends, begin = (lambda _, on_boundary: on_boundary), (lambda _, on_initial: on_initial)
        circle = [
            dde.icbc.PeriodicBC(domain, 0, ends, derivative_order=order, component=i)
            for order in (0, 1)
            for i in (0, 1)
        ]
        start = [
            dde.icbc.IC(domain, lambda x: 2 / np.cosh(x[:, :1]), begin, component=0),
            dde.icbc.IC(domain, lambda x: 0, begin, component=1),
        ]
        return domain, pde, circle + start

    def settings(self):
        net = dde.nn.FNN([2, 100, 100, 100, 100, 2], "tanh", "Glorot normal")
        return Settings(net, interior=10000, boundary=20, initial=200, iterations=10000)


class Wave(Example):
    """Its example has another speed and another initial value; Adam alone, and Fourier features.

    Those, STMsFFN, are not in the PyTorch backend of version 1.15: a network of the same size stands for it.
    """

    def statement(self):
        def pde(x, u):
            return dde.grad.hessian(u, x, i=1, j=1) - 4 * dde.grad.hessian(u, x)

        def first(x):
            return np.sin(np.pi * x[:, :1]) + np.sin(4 * np.pi * x[:, :1]) / 2

        domain = dde.geometry.GeometryXTime(dde.geometry.Interval(0, 1), dde.geometry.TimeDomain(0, 1))
        walls = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on_boundary: on_boundary)
        start = dde.icbc.IC(domain, first, lambda _, on_initial: on_initial)
        rest = dde.icbc.OperatorBC(
            domain, lambda x, u, _: dde.grad.jacobian(u, x, j=1), lambda x, _: dde.utils.isclose(x[1], 0)
        )
        return domain, pde, [walls, start, rest]

    def settings(self):
        net = dde.nn.FNN([2, 100, 100, 100, 1], "tanh", "Glorot uniform")
        net.apply_feature_transform(lambda x: (x - 0.5) * 2 * np.sqrt(3))
        decay = ("inverse time", 2000, 0.9)
        return Settings(net, 360, 360, 360, iterations=10000, quasi_newton=False, decay=decay, resampled=True)


class Helmholtz(Example):
    """Its example has another wave number; sines, the values in the network, Adam alone."""

    def statement(self):
        def pde(x, u):
            lap = dde.grad.hessian(u, x, i=0, j=0) + dde.grad.hessian(u, x, i=1, j=1)
            exact = torch.sin(np.pi * x[:, :1]) * torch.sin(4 * np.pi * x[:, 1:])
            return lap + u - (1 - 17 * np.pi**2) * exact

        return dde.geometry.Rectangle([-1, -1], [1, 1]), pde, []

    def settings(self):
        net = dde.nn.FNN([2, 150, 150, 150, 1], "sin", "Glorot uniform")
        net.apply_output_transform(lambda x, u: (1 - x[:, :1] ** 2) * (1 - x[:, 1:] ** 2) * u)
        points = (2 * 4 * 10) ** 2  # ten along each wave, as in the example
        return Settings(net, interior=points, boundary=320, iterations=5000, quasi_newton=False)


class InverseDiffusion(Example):
    """Its inverse diffusion: observations as a condition, 32 units, Adam alone. The equation is ours."""

    @cached_property
    def unknowns(self):
        return [dde.Variable(1.0), dde.Variable(0.0)]

    def statement(self):
        a0, a1 = self.unknowns

        def pde(x, u):
            y = np.pi * x
            source = (2 * np.pi**2 + 3 * np.pi * y) * torch.sin(y) - 3 * np.pi * torch.cos(y)
            return -(a0 + a1 * x) * dde.grad.hessian(u, x) - a1 * dde.grad.jacobian(u, x) - source

        points, values = (t.numpy() for t in problems.InverseDiffusion().seen)
        interval = dde.geometry.Interval(0, 1)
        ends = dde.icbc.DirichletBC(interval, lambda x: 0, lambda _, on_boundary: on_boundary)
        return interval, pde, [ends, dde.icbc.PointSetBC(points, values[:, None])]

    def settings(self):
        net = dde.nn.FNN([1, 32, 32, 32, 1], "tanh", "Glorot uniform")
        return Settings(net, interior=40, boundary=2, iterations=50000, quasi_newton=False)


EXAMPLES: dict[str, type[Example]] = {
    "burgers": Burgers,
    "allen_cahn_1d": AllenCahn1D,
    "schroedinger": Schroedinger,
    "wave": Wave,
    "helmholtz": Helmholtz,
    "inverse_diffusion": InverseDiffusion,
}


class Until(dde.callbacks.Callback):
    """Ends a training where `over` says so after a step."""

    def __init__(self, over: Callable[[], bool]):
        super().__init__()
        self.over = over

    def on_epoch_end(self):
        if self.over():
            self.model.stop_training = True


def begun(example: Example, points: np.ndarray | None, double: bool, seed: int) -> dde.Model:
    """The model of an example, not yet trained.

    Args:
        points: (n, d) of the interior; None: those of the example.
    """
    dde.config.set_default_float("float64" if double else "float32")
    dde.config.set_random_seed(seed)
    domain, pde, conditions = example.statement()
    settings = example.settings()
    own = points is None
    counts = {"num_domain": settings.interior if own else 0, "num_boundary": settings.boundary, "anchors": points}
    if isinstance(domain, dde.geometry.GeometryXTime):
        data = dde.data.TimePDE(domain, pde, conditions, num_initial=settings.initial, **counts)
    else:
        data = dde.data.PDE(domain, pde, conditions, **counts)
    return dde.Model(data, settings.net)


def train(model: dde.Model, example: Example, optimizer: str, over: Callable[[], bool], more: Sequence = ()) -> int:
    """Train by adam, L-BFGS or NNCG until it is over, Adam for the iterations of the example; how many there were.

    Args:
        more: callbacks.
    """
    settings, before = example.settings(), model.train_state.step or 0
    options = {"external_trainable_variables": list(example.unknowns)} if example.unknowns else {}
    options |= {"lr": 1e-3, "decay": settings.decay} if optimizer == "adam" else {}
    count = {"adam": settings.iterations, "NNCG": 10**9}.get(optimizer)
    dde.optimizers.config.LBFGS_options.update(iter_per_step=50, fun_per_step=62)  # between two looks at the clock
    model.compile(optimizer, verbose=0, **options)
    model.train(iterations=count, callbacks=[Until(over), *more], display_every=10**9, verbose=0)
    return model.train_state.step - before


def trained(
    case: str, points: np.ndarray | None, double: bool, seconds: float, seed: int, clock: Callable[[], float]
) -> tuple[dde.Model, Example, int, int]:
    """A model after so many seconds of the clock, its example, and the iterations of Adam and of L-BFGS.

    Adam has the iterations of the example, of the time at most half where L-BFGS follows there; L-BFGS the rest.

    Args:
        points: (n, d) of the interior; None: those of the example.
    """
    example = EXAMPLES[case]()
    model, settings, begin = begun(example, points, double, seed), example.settings(), clock()
    half = begin + seconds * (0.5 if settings.quasi_newton else 1.0)
    more = [dde.callbacks.PDEPointResampler(period=1)] if settings.resampled and points is None else []
    adam, lbfgs = train(model, example, "adam", lambda: clock() > half, more), 0
    if clock() < begin + seconds:
        lbfgs = train(model, example, "L-BFGS", lambda: clock() > begin + seconds)
    return model, example, adam, lbfgs
