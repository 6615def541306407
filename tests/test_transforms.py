"""What torch does to functions, done to networks: forward mode, compiling, tracing, tensors that have but shapes."""

import copy
import io

import pytest
import torch
from conftest import close, generator, hessian, network, points
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call, jacfwd, jacrev, jvp, vmap

from benchmarks.images.nets import CONV_NETS
from kanpde.backbones import BACKBONES, build
from kanpde.jets.ansatz import Ansatz
from kanpde.operators import Forward
from kanpde.problems import Poisson

CASES = {name: {} for name in BACKBONES}
CASES |= {"kan of fine grids": {"grid_size": 25}, "kan of higher order": {"spline_order": 5}}
CASES |= {
    "metakan of long prompts": {"prompt_dim": 3},
    "metakan of low rank": {"prompt_rank": 1},
    "kan of many inputs": {"centred": True},
}
INPUTS = {"kan of many inputs": 20}


def made(case: str) -> tuple[torch.nn.Module, Tensor]:
    d = INPUTS.get(case, 3)
    return network(case.split(" ")[0], d, widths=(4,), **CASES[case]), points(5, d)


def normal(t: Tensor, seed: int = 3) -> Tensor:
    return torch.randn(t.shape, generator=generator(seed), dtype=t.dtype)


@pytest.mark.parametrize("case", CASES)
def test_forward_mode_is_reverse_mode(case):
    """By the inputs, by the parameters, and once more by the inputs in each order of the two modes."""
    net, x = made(case)
    f, v = lambda p: net(p.unsqueeze(0))[0, 0], normal(x)
    slope = vmap(jacrev(f))(x)
    close(jvp(net, (x,), (v,))[1].squeeze(1), (slope * v).sum(1))
    second = vmap(hessian(f))(x)
    for way in (jacfwd(jacrev(f)), jacrev(jacfwd(f)), jacfwd(jacfwd(f))):
        close(vmap(way)(x), second, 1e-11)
    trained = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
    along = {name: normal(p) for name, p in trained.items()}
    by_weights = lambda p: functional_call(net, p, (x,)).squeeze(1)
    rows = jacrev(by_weights)(trained)
    expected = sum((rows[name] * along[name]).flatten(1).sum(1) for name in trained)
    close(jvp(by_weights, (trained,), (along,))[1], expected, 1e-11)


@pytest.mark.parametrize("case", CASES)
def test_dual_numbers_give_hessian_vector_products(case):
    net, x = made(case)
    v = normal(x)
    product = vmap(hessian(lambda p: net(p.unsqueeze(0))[0, 0]))(x) @ v.unsqueeze(2)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.clone().requires_grad_(), v)
        (slope,) = torch.autograd.grad(net(dual).sum(), dual)
        close(forward_ad.unpack_dual(slope).tangent, product.squeeze(2), 1e-11)


@pytest.mark.parametrize("case", ["kan", "metakan", "metafastkan", "wavkan", "kan of many inputs"])
def test_jets_have_a_forward_derivative(case):
    net, x = made(case)
    u, v = Ansatz(Poisson(x.shape[1]), net), normal(x)
    at = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Forward()(u, at).lap.sum(), at)
    close(jvp(lambda x: Forward()(u, x).lap, (x,), (v,))[1], (slope * v).sum(1), 1e-11)


@pytest.mark.parametrize("name", ["kanconv", "metafastkanconv"])
def test_convolutions_have_a_forward_derivative(name):
    net = CONV_NETS[name](2, 3, generator=generator()).double().eval()
    x = points(2, 50).reshape(1, 2, 10, 5)
    close(jvp(net, (x,), (normal(x),))[1], (jacrev(net)(x) * normal(x)).flatten(2).sum(2), 1e-11)


TRAINED = ["kan", "metakan", "kan of higher order", "kan of fine grids", "metawavkan", "fastkan"]


@pytest.mark.parametrize(
    "case, backend",
    [(case, "aot_eager") for case in TRAINED]  # which traces as eager does, and the backward pass too
    + [pytest.param(case, "eager", marks=[pytest.mark.slow] if case != "kan" else []) for case in TRAINED],
)
def test_a_compiled_network_trains_as_it_is(case, backend):
    """Two steps of Adam."""
    net, x = made(case)
    twin = copy.deepcopy(net)
    torch._dynamo.reset()
    for one, called in ((net, net), (twin, torch.compile(twin, backend=backend, fullgraph=True))):
        optimizer = torch.optim.Adam([p for p in one.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            called(x).square().mean().backward()
            optimizer.step()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        close(q.detach(), p.detach(), 1e-9, name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["mlp", "kan", "metakan", "kan of fine grids", "fastkan", "wavkan", "metagramkan"])
def test_a_traced_model_takes_other_points_and_is_saved(case):
    net, x = made(case)
    u, file = Ansatz(Poisson(3), net), io.BytesIO()
    torch.jit.save(torch.jit.trace(u, x), file)
    file.seek(0)
    traced, y = torch.jit.load(file), points(300, 3, seed=8)
    for _ in range(3):  # the first calls are not optimised yet
        close(traced(y), u(y))


@pytest.mark.parametrize("case", CASES)
def test_shapes_go_through_without_numbers(case):
    """On the device meta and as fake tensors: values, jets, and a backward pass."""
    net, x = made(case)
    u = Ansatz(Poisson(x.shape[1]), net)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = mode.from_tensor(x)
        assert u(fake).shape == Forward()(u, fake).lap.shape == (5,)
    u = copy.deepcopy(u).to("meta")
    jet = Forward()(u, x.to("meta"))
    (jet.value + jet.lap).sum().backward()
    assert all(p.grad.shape == p.shape for p in u.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["kan", "metakan", "fastkan", "wavkan"])
def test_a_network_is_built_without_memory(name):
    with torch.device("meta"):
        net = build(name, 10**4, widths=(10**3, 3))
        assert net(torch.empty(10, 10**4)).shape == (10, 1)
    assert all(p.is_meta for p in net.parameters())
