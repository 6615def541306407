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
    """With the settings of its example."""

    def statement(self):
        def pde(x, u):
            u_x, u_t = (dde.grad.jacobian(u, x, j=j) for j in (0, 1))
            return u_t + u * u_x - 0.01 / np.pi * dde.grad.hessian(u, x)

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
    """Ends a training at an instant of a clock."""

    def __init__(self, clock: Callable[[], float], end: float):
        super().__init__()
        self.clock, self.end = clock, end

    def on_epoch_end(self):
        if self.clock() > self.end:
            self.model.stop_training = True


def trained(
    case: str, points: np.ndarray | None, double: bool, seconds: float, seed: int, clock: Callable[[], float]
) -> tuple[dde.Model, Example, int, int]:
    """A model after so many seconds of the clock, its example, and the iterations of Adam and of L-BFGS.

    Adam has the iterations of the example, of the time at most half where L-BFGS follows there; L-BFGS the rest.

    Args:
        points: (n, d) of the interior; None: those of the example.
    """
    dde.config.set_default_float("float64" if double else "float32")
    dde.config.set_random_seed(seed)
    example = EXAMPLES[case]()
    domain, pde, conditions = example.statement()
    settings = example.settings()
    own = points is None
    counts = {"num_domain": settings.interior if own else 0, "num_boundary": settings.boundary, "anchors": points}
    if isinstance(domain, dde.geometry.GeometryXTime):
        data = dde.data.TimePDE(domain, pde, conditions, num_initial=settings.initial, **counts)
    else:
        data = dde.data.PDE(domain, pde, conditions, **counts)
    model = dde.Model(data, settings.net)
    begin = clock()
    half = begin + seconds * (0.5 if settings.quasi_newton else 1.0)
    more = [dde.callbacks.PDEPointResampler(period=1)] if settings.resampled and own else []
    compiled = {"external_trainable_variables": list(example.unknowns)} if example.unknowns else {}
    quiet = {"display_every": 10**9, "verbose": 0}
    dde.optimizers.config.LBFGS_options.update(iter_per_step=50, fun_per_step=62)  # between two looks at the clock
    model.compile("adam", lr=1e-3, decay=settings.decay, verbose=0, **compiled)
    model.train(iterations=settings.iterations, callbacks=[Until(clock, half), *more], **quiet)
    adam = model.train_state.step
    if clock() < begin + seconds:
        model.compile("L-BFGS", verbose=0, **compiled)
        model.train(callbacks=[Until(clock, begin + seconds)], **quiet)
    return model, example, adam, model.train_state.step - adam
