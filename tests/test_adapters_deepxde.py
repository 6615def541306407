"""Networks, operators and domains of kanpde in DeepXDE."""

import copy
import sys

import numpy as np
import pytest
import torch
from conftest import F64, close, generator, network, one_line, points

from kanpde import backbones
from kanpde.adapters import deepxde as ours
from kanpde.domains import Ball, Box, Combined, Cylinder, Ellipsoid, PointCloud, Polygon
from kanpde.ground.errors import ConfigError

N, D = 6, 3


@pytest.fixture(scope="module")
def dde():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDE_BACKEND", "pytorch")
        return pytest.importorskip("deepxde", reason="deepxde is not installed")


def transformed(net):
    net.apply_feature_transform(lambda x: torch.cat([x, torch.sin(x[:, :1])], 1))
    net.apply_output_transform(lambda x, f: x[:, :1].exp() + (1 - x[:, 1:2] ** 2) * f)
    return net


@pytest.fixture(params=["plain", "transformed"])
def net(dde, request):
    made = ours.network(network("kan", D + (request.param == "transformed"), 2))
    return transformed(made) if request.param == "transformed" else made


def test_operators_are_those_of_deepxde(dde, net):
    x = points(N, D, reach=0.7).requires_grad_()
    y = net(x)
    dde.grad.clear()
    for k in range(2):
        for j in range(D):
            close(ours.jacobian(y, x, i=k, j=j), dde.grad.jacobian(y, x, i=k, j=j), 1e-11)
            for i in range(D):
                found, theirs = (of(y, x, component=k, i=i, j=j) for of in (ours.hessian, dde.grad.hessian))
                assert found.shape == (N, 1) and (found - theirs).abs().max() < 1e-9
        close(ours.jacobian(y, x, i=k), dde.grad.jacobian(y, x, i=k), 1e-11)
        theirs = [dde.grad.hessian(y, x, component=k, i=i, j=i) for i in range(D)]
        close(ours.laplacian(y, x, component=k), sum(theirs), 1e-10)
        close(ours.laplacian(y, x, component=k, axes=[0, 2]), theirs[0] + theirs[2], 1e-10)
    column = torch.cat(
        [dde.grad.jacobian(y, x, i=k, j=1) for k in range(2)], 1
    )  # which theirs has in forward mode only
    close(ours.jacobian(y, x, j=1), column, 1e-11)
    gradients = [
        dde.grad.jacobian(of(y, x), x, i=0, j=2)
        for of in (ours.laplacian, lambda y, x: sum(dde.grad.hessian(y, x, i=i, j=i) for i in range(D)))
    ]
    close(*gradients, 1e-9)  # of third order, DeepXDE's own on ours
    dde.grad.clear()


def poisson(dde, operator, net, **options):
    """DeepXDE's example in one dimension, in single precision."""
    pde = lambda x, y: -operator(y, x) - np.pi**2 * torch.sin(np.pi * x)
    solution, geometry = lambda x: np.sin(np.pi * x), dde.geometry.Interval(-1, 1)
    bc = dde.icbc.DirichletBC(geometry, solution, lambda x, on_boundary: on_boundary)
    data = dde.data.PDE(geometry, pde, bc, 16, 2, solution=solution, num_test=20, **options)
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, verbose=0)
    return model, pde


def test_a_model_trains_as_it_does_with_its_own_operator(dde):
    first = ours.network(backbones.build("metakan", 1))
    models = [
        poisson(dde, of, net)[0] for of, net in ((ours.laplacian, first), (dde.grad.hessian, copy.deepcopy(first)))
    ]
    assert isinstance(first, dde.nn.NN) and first.num_trainable_parameters() == sum(
        map(torch.numel, first.parameters())
    )
    for model in models:
        x, y, aux = model.data.train_next_batch()
        for _ in range(3):
            model.train_step(x, y, aux)
        model.after = model.outputs_losses_train(x, y, aux)[1]
    close(models[0].after, models[1].after, 1e-4)
    for a, b in zip(*(model.net.parameters() for model in models), strict=True):
        close(a, b, 1e-3)
    model, before = models[0], models[0].after.sum().item()
    model.train(iterations=30, verbose=0, display_every=30)
    assert model.losshistory.loss_train[-1].sum() < before


def test_what_else_a_model_does_goes_through(dde, tmp_path):
    net = ours.network(backbones.build("kan", 1), regularization=["l1", 1e-4])
    model, pde = poisson(dde, ours.laplacian, net)
    x, y, aux = model.data.train_next_batch()
    assert len(model.outputs_losses_train(x, y, aux)[1]) == 3  # equation, boundary, and the regularisation
    at = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    inputs = torch.tensor(at, requires_grad=True)
    close(torch.as_tensor(model.predict(at, operator=pde)), pde(inputs, net(inputs)).detach(), 1e-5)
    model.train(iterations=1, verbose=0)
    path, before = model.save(str(tmp_path / "model")), model.predict(at)
    with torch.no_grad():
        next(net.parameters()).zero_()
    model.restore(path, verbose=0)
    assert np.array_equal(model.predict(at), before)


def test_auxiliary_variables_and_flux_conditions_go_through(dde):
    geometry = dde.geometry.Interval(-1, 1)
    pde = lambda x, y, a: ours.laplacian(y, x) - a
    bc = dde.icbc.NeumannBC(geometry, lambda x: x, lambda x, on_boundary: on_boundary)
    data = dde.data.PDE(geometry, pde, bc, 4, 2, auxiliary_var_function=lambda x: 2 * x)
    net = ours.network(backbones.build("kan", 1))
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, verbose=0)
    loss = model.outputs_losses_train(*data.train_next_batch())[1]
    x = torch.tensor(data.train_x, requires_grad=True)
    lap = ours.laplacian(net(x), x)
    close(loss[0], (lap - 2 * x)[data.num_bcs[0] :].square().mean(), 1e-5)


@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")  # in Polygon.inside
def test_points_in_double_precision_train_a_network_in_single(dde):
    """DeepXDE's example in the L-shape, whose points are, which its own networks do not take."""
    geometry = dde.geometry.Polygon([[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]])
    bc = dde.icbc.DirichletBC(geometry, lambda x: 0, lambda x, on_boundary: on_boundary)
    theirs = lambda y, x: dde.grad.hessian(y, x, i=0, j=0) + dde.grad.hessian(y, x, i=1, j=1)
    residual = lambda operator: lambda x, y: -operator(y, x) - 1
    net, losses = ours.network(backbones.build("kan", 2)), []
    data = dde.data.PDE(geometry, residual(theirs), bc, num_domain=5, num_boundary=6)
    for operator in (ours.laplacian, theirs):
        data.pde = residual(operator)
        model = dde.Model(data, net)
        model.compile("adam", lr=1e-3, verbose=0)
        losses.append(model.outputs_losses_train(data.train_x, None, None)[1])
    assert data.train_x.dtype == np.float64
    close(losses[0].double(), losses[1], 1e-5)


def test_in_forward_mode_an_output_is_the_first_of_a_pair(dde):
    net, x = ours.network(network("kan", D)), points(N, D).requires_grad_()
    y = net(x)
    close(ours.laplacian((y, net), x), ours.laplacian(y, x))


def test_bad_calls_are_one_line(dde):
    net, x = ours.network(network("kan", D, 2)), points(N, D).requires_grad_()
    y = net(x)
    for call, says in (
        (lambda: ours.laplacian(y[:, :1], x), "laplacian: given no output"),
        (lambda: ours.hessian(y, x.clone()), "hessian: given other points"),
        (lambda: ours.hessian(y, x, component=2), "component: given 2, the network has the outputs 0 to 1"),
        (lambda: ours.jacobian(y, x), "neither i nor j"),
        (lambda: ours.jacobian(y, x, i=0, j=3), "axis 3"),
        (lambda: ours.domain(dde.geometry.StarShaped([0, 0], 1, [0.1], [0.1])), "given a StarShaped, known"),
        (lambda: ours.domain(dde.geometry.Ellipse([0, 0], 2, 1, angle=0.3)), "turned by 0.3"),
        (lambda: ours.domain(timed(dde, dde.geometry.Interval(0, 1), 1)), "times from 1"),
    ):
        with pytest.raises(ConfigError, match=says) as info:
            call()
        one_line(info)


def test_without_deepxde_there_is_one_line(monkeypatch):
    ours._kind.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "deepxde"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "deepxde", None)
    with pytest.raises(ConfigError, match=r"pip install 'kanpde\[deepxde\]'") as info:
        ours.network(network("kan", D))
    one_line(info)


def test_another_backend_is_one_line(dde, monkeypatch):
    ours._kind.cache_clear()
    monkeypatch.setattr(dde.backend, "backend_name", "jax")
    with pytest.raises(ConfigError, match="backend jax"):
        ours.network(network("kan", D))


# Geometries --------------------------------------------------------------------------------------------------------


def timed(dde, geometry, begin=0):
    return dde.geometry.GeometryXTime(geometry, dde.geometry.TimeDomain(begin, 2))


SHAPES = {
    "interval": (lambda g: g.Interval(-1, 2), Box),
    "rectangle": (lambda g: g.Rectangle([0, -1], [1, 3]), Box),
    "cuboid": (lambda g: g.Cuboid([0, -1, 0], [1, 3, 2]), Box),
    "hypercube": (lambda g: g.Hypercube([0] * 5, [1, 2, 1, 1, 3]), Box),
    "disk": (lambda g: g.Disk([1, 0.5], 2), Ball),
    "sphere": (lambda g: g.Sphere([1, 0.5, 0], 2), Ball),
    "hypersphere": (lambda g: g.Hypersphere([0.5] * 6, 1.5), Ball),
    "ellipse": (lambda g: g.Ellipse([1, 0], 2, 0.5), Ellipsoid),
    "triangle": (lambda g: g.Triangle([0, 0], [3, 1], [1, 2]), Polygon),
    "polygon": (lambda g: g.Polygon([[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]]), Polygon),
    "union": (lambda g: g.Rectangle([0, 0], [1, 1]) | g.Disk([1, 1], 0.5), Combined),
    "difference": (lambda g: g.Rectangle([0, 0], [1, 1]) - g.Disk([0.5, 0.5], 0.25), Combined),
    "intersection": (lambda g: g.Rectangle([0, 0], [1, 1]) & g.Disk([0, 0], 0.75), Combined),
}


@pytest.mark.filterwarnings("ignore:Arrays of 2-dimensional vectors:DeprecationWarning")  # in Triangle.inside
@pytest.mark.parametrize("name", SHAPES)
def test_a_geometry_is_the_same_domain(dde, name):
    make, kind = SHAPES[name]
    theirs = make(dde.geometry)
    domain = ours.domain(theirs)
    assert isinstance(domain, kind) and domain.dim == theirs.dim
    inside = domain.interior(300, generator(), law="volume", dtype=F64)
    assert theirs.inside(inside.numpy()).all()
    low, high = map(torch.as_tensor, map(np.asarray, theirs.bbox))
    around = low + (high - low) * (1.4 * torch.rand(2000, theirs.dim, dtype=F64, generator=generator()) - 0.2)
    assert np.array_equal(domain.contains(around).numpy(), theirs.inside(around.numpy()))
    edge = domain.boundary(
        300, generator()
    )  # in single precision: DeepXDE's Triangle knows no other points of its sides
    assert theirs.on_boundary(edge.numpy()).all()
    if name != "ellipse":  # DeepXDE states no normals of it
        off = np.abs(domain.normal(edge).numpy() - theirs.boundary_normal(edge.numpy())).max(1)
        assert np.median(off) < 1e-6 and (off < 1e-5).mean() > 0.98  # all but corners


def test_time_and_clouds_are_domains(dde):
    domain = ours.domain(timed(dde, dde.geometry.Disk([0, 0], 1)))
    assert domain == Cylinder(Ball(2, 1.0, (0.0, 0.0)), 2.0)
    x, normals = np.random.default_rng(0).random((20, 2)), np.ones((3, 2))
    cloud = ours.domain(dde.geometry.PointCloud(x, 2 + x[:3], normals))
    assert isinstance(cloud, PointCloud)
    close(cloud.points, torch.as_tensor(x.astype(np.float32), dtype=cloud.points.dtype))
    close(cloud.normals, torch.as_tensor(normals, dtype=cloud.normals.dtype))


def test_points_of_a_domain_train_a_model(dde):
    domain = ours.domain(dde.geometry.Interval(-1, 1))
    anchors = domain.interior(9, generator()).numpy()
    model, _ = poisson(dde, ours.laplacian, ours.network(backbones.build("kan", 1)), anchors=anchors)
    assert all(row in model.data.train_x for row in anchors)
