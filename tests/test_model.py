"""The network as a torch module: one name for each parameter, and what torch does to modules."""

import copy
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import F64, close, network, one_line, points
from torch.func import functional_call

from benchmarks.images.nets import CONV_NETS
from kanpde.backbones import build
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.kan.kernels.jacobian import covers, jacobian
from kanpde.kan.weights import Meta
from kanpde.problems import Poisson
from kanpde.runs.api import resume, train
from kanpde.runs.models import Run

SHARED = {
    "network": lambda: network("metakan", 2),
    "two clusters": lambda: network("metakan", 2, meta_share=2),
    "norms": lambda: network("metafastkan", 2),
    "labels": lambda: network("metachebykan", 2, meta_share=(1, 0, 1)),
    "convolutions": lambda: CONV_NETS["metakanconv"](2, 3, generator=torch.Generator().manual_seed(0)).double().eval(),
}


def named_as_before(net) -> dict:
    """The weights as checkpoints had them: a shared meta-learner under the name of each layer that has it."""
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for at, module in net.named_modules():
        if isinstance(module, Meta):
            state |= {f"{at}.learner.{name}": value.clone() for name, value in module.learner.state_dict().items()}
    return state


@pytest.mark.parametrize("case", SHARED)
def test_a_shared_meta_learner_has_one_name(case):
    net = SHARED[case]()
    every = dict(net.named_parameters(remove_duplicate=False))
    assert len(every) == len(set(every.values())) and every.keys() == dict(net.named_parameters()).keys()
    assert len(named_as_before(net)) > len(net.state_dict()), "no layers share a meta-learner"


@pytest.mark.parametrize("case", SHARED)
def test_functional_call_leaves_the_parameters_of_the_model(case):
    net = SHARED[case]()
    x = points(3, 2) if case != "convolutions" else points(2, 50).reshape(1, 2, 10, 5)
    before, y = dict(net.named_parameters()), net(x)
    others = {name: 1.01 * p.detach() for name, p in before.items()}
    changed = functional_call(net, others, (x,))
    assert all(p is before[name] for name, p in net.named_parameters())
    assert torch.equal(net(x), y) and not torch.equal(changed, y)
    net.load_state_dict(others, strict=False)
    close(net(x), changed)


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("assign", [False, True])
def test_weights_under_all_names_load(case, assign):
    net, twin = SHARED[case](), SHARED[case]()
    state = named_as_before(net)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    twin.load_state_dict(state, assign=assign)
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), net.parameters(), strict=True))
    with pytest.raises(RuntimeError, match="size mismatch|Unexpected|Missing"):
        build("metakan", 2, widths=(4, 4, 4)).load_state_dict(state)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_share_as_the_original(way):
    net = network("metakan", 2)
    twin = copy.deepcopy(net) if way == "deepcopy" else pickle.loads(pickle.dumps(net))
    twin.float()
    first, *others = [layer.weights.learner for layer in twin]
    assert all(learner is first for learner in others) and first is not net[0].weights.learner
    assert first.w1.dtype == torch.float32 and net[0].weights.learner.w1.dtype == F64


def test_the_jacobian_of_a_meta_learner_alone_has_every_layer():
    net, x = network("metakan", 2), points(4, 2)
    learner = list(net[0].weights.learner.parameters())
    assert covers(net, learner)
    j = jacobian(net, learner, lambda: net(x))[1].squeeze(1)
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(y, learner, retain_graph=True)]) for y in net(x)]
    close(j, torch.stack(rows), 1e-10)


def test_an_older_checkpoint_opens_starts_and_resumes(tmp_path):
    """With a shared meta-learner under the name of each layer: the same model, and bit for bit the same next step."""
    options = {"backbone": {"name": "metakan", "widths": [4, 3]}, "average": 0.9}
    train(Poisson(2), out=tmp_path / "new.h5", steps=2, **options)
    for suffix in (".h5", ".pt"):
        shutil.copy(tmp_path / f"new{suffix}", tmp_path / f"old{suffix}")
    saved = torch.load(tmp_path / "old.pt", weights_only=True)
    for weights, prefix in ((saved["weights"], ""), (saved["best"]["weights"], ""), (saved["average"], "module.")):
        first = {k: v for k, v in weights.items() if ".learner." in k}
        for number in (1, 2):
            weights |= {k.replace(f"{prefix}net.0", f"{prefix}net.{number}"): v for k, v in first.items()}
    torch.save(saved, tmp_path / "old.pt")
    found = {}
    for name in ("new", "old"):
        run, x = Run.open(tmp_path / f"{name}.h5"), points(3, 2).float()
        started = train(Poisson(2), out=tmp_path / f"{name}-start.h5", steps=1, start_from=str(run.path), **options)
        models = [*(run.load_model(best=best) for best in (True, False)), started.load_model(best=False)]
        models.append(resume(run.path, steps=4).load_model(best=False))
        found[name] = [u(x) for u in models]
    assert all(map(torch.equal, found["new"], found["old"]))


def model(dtype=torch.float32, dim: int = 3) -> Ansatz:
    return Ansatz(Poisson(dim), network("metakan", dim)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("given", [torch.float32, F64])
def test_a_model_takes_points_of_any_kind_and_answers_in_kind(dtype, given):
    u, x = model(dtype), points(4, 3).to(given)
    y = u(x)
    assert y.dtype == given and y.requires_grad
    close(y.detach(), model(F64)(x.double()).detach().to(given), 1e-5)
    close(u(x[0]), y[0], 1e-5)
    close(u(x.reshape(2, 2, 3)), y.reshape(2, 2), 1e-5)
    array = u(x.numpy())
    assert isinstance(array, np.ndarray) and array.dtype == x.numpy().dtype and array.shape == (4,)
    close(torch.from_numpy(array), y.detach(), 1e-5)
    assert u(x[0].numpy()).shape == () and u(x[:0]).shape == (0,) and u(x.numpy()[::-1]).shape == (4,)
    whole = torch.arange(6).reshape(2, 3)
    for these in (whole, whole.tolist()):
        close(u(these).detach(), u(whole.to(dtype)).detach())
    assert u([0.1, 0.2, 0.3]).shape == () and u(whole).dtype == dtype
    assert u(whole.numpy()).dtype == y.to(dtype).detach().numpy().dtype


def test_the_boundary_value_is_that_of_the_points_given():
    """In double precision, of a network in single precision: the factor is not rounded with the network's input."""
    x = torch.tensor([[1 - 1e-9, 0, 0]], dtype=F64)
    u = model()
    close(u(x), (1 - x.square().sum(1)) * u.net(x.float()).squeeze(1))


def test_a_model_differentiates_by_points_of_another_dtype():
    u, x = model(), points(4, 3).requires_grad_()
    (slope,) = torch.autograd.grad(u(x).sum(), x)
    (expected,) = torch.autograd.grad(model(F64)(x).sum(), x)
    close(slope, expected, 1e-4)
    close(torch.func.vmap(u)(x), u(x), 1e-5)


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(5, 2), r"\(N, 3\).*given \(5, 2\)"),
        (torch.zeros(5, 1), r"given \(5, 1\)"),
        (torch.zeros(4), r"\(3,\); given \(4,\)"),
        (torch.zeros(()), r"given \(\)"),
        (torch.zeros(0), r"given \(0,\)"),
        (1.0, r"given \(\)"),
        (np.zeros((5, 2)), r"given \(5, 2\)"),
        (torch.zeros(5, 3, dtype=torch.complex64), "real points"),
        (np.zeros((2, 3), dtype=complex), "real points"),
        (np.array([["a", "b", "c"]]), "array of numbers"),
        ("x", "array of numbers, given str"),
        ([[0.1, 0.2, 0.3], [0.1]], "array of numbers, given list"),
        (None, "array of numbers, given NoneType"),
        (torch.zeros(2, 3, device="meta"), "u is on cpu, the points are on meta"),
    ],
)
def test_what_are_no_points_is_said_in_one_line(x, said):
    with pytest.raises(ConfigError, match=said) as info:
        model()(x)
    one_line(info)


def test_a_model_can_be_copied_moved_and_pickled():
    u, x = model(), points(4, 3)
    for twin in (copy.deepcopy(u), pickle.loads(pickle.dumps(u))):
        assert torch.equal(twin(x), u(x)) and torch.equal(twin.double().float()(x), u(x))
    half = copy.deepcopy(u).to(torch.bfloat16)(x.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and (half - u(x)).abs().max() < 0.1 * u(x).abs().max()
