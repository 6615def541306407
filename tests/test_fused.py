"""Fused layers against plain operations and automatic differentiation, and what torch.compile makes of both."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from conftest import F64, close, generator, points
from torch.func import functional_call, grad, vmap
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from kanpde.backbones import BACKBONES, build
from kanpde.ground.samplers import stream
from kanpde.jets import gram
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.gram import Dense, Diagonal, Part, Tangents
from kanpde.jets.jet import push
from kanpde.kan import layers, weights
from kanpde.kan.kernels import jets as fused
from kanpde.kan.layers import KANLinear
from kanpde.operators import Forward, forward
from kanpde.operators.forward import input_jet
from kanpde.problems import HJB, AllenCahn
from kanpde.training import losses, plan
from kanpde.training.losses import Loss

NETS = {
    "kan": {"widths": (5, 4)},
    "metakan": {"widths": (5, 4)},
    "metakan-prompt2": {"widths": (5, 4), "prompt_dim": 2},
    "metakan-rank": {"widths": (5, 4), "prompt_rank": 2},
    "metakan-prompt2-rank": {"widths": (5, 4), "prompt_dim": 2, "prompt_rank": 2},
    "fastkan": {"widths": (5, 4)},
    "legendrekan": {"widths": (5, 4)},
}


def network(case: str, dim: int, **options):
    net = build(case.split("-")[0], dim, generator=stream(0, "init"), **{**NETS[case], **options}).double()
    with torch.no_grad():  # first weights are small
        for p in net.parameters():
            p.mul_(1.5)
    return net


def jets(net, x, s, wanted=Part.FULL, along=2):
    """All parts of the jet of a network, and the gradients of their sum in parameters, x, s and directions."""
    directions = points(along * len(x), x.shape[1], seed=5).reshape(len(x), along, -1).requires_grad_()
    given = [x.requires_grad_(), s.requires_grad_(), directions, *(p for p in net.parameters() if p.requires_grad)]
    jet = push(net, input_jet(x, Diagonal(s), directions), wanted)
    parts = [jet.value, jet.along, jet.lap, *([jet.gram.dense()] if wanted else [])]
    total = sum((part * torch.linspace(0.5, 1.5, part.numel(), dtype=F64).view(part.shape)).sum() for part in parts)
    return [*parts, *torch.autograd.grad(total, given)]


@pytest.mark.parametrize("few", [0.0, 1.5], ids=["gram", "tangents"])
@pytest.mark.parametrize("chunk", [1, 3 * 2**20], ids=["streamed", "whole"])
@pytest.mark.parametrize("case", NETS)
def test_fused_equals_plain(monkeypatch, case, chunk, few):
    """Both ways to carry second derivatives; coefficients for each point, of either sign."""
    monkeypatch.setattr(gram, "FEW", few)
    monkeypatch.setattr(layers, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(weights, "TABLE_FROM", 1)
    net, x, s = network(case, 20), points(3, 20), points(3, 20, seed=7)
    results = []
    for way in (True, False):
        monkeypatch.setattr(KANLinear, "fused", way)
        results.append(jets(net, x.clone(), s.clone()))
    for got, expected in zip(*results, strict=True):
        close(got, expected, 1e-11)


def twice(net, x, s, wanted, along, retained=False):
    """The gradients of a function of a jet in x, s and directions, and those of a function of them in all there is."""
    directions = points(along * len(x), x.shape[1], seed=5).reshape(len(x), along, -1).requires_grad_()
    given = [x.requires_grad_(), *([s] if s.requires_grad else []), directions]
    jet = push(net, input_jet(x, Diagonal(s), directions), wanted)
    parts = [jet.value, jet.along, jet.lap, *([jet.gram.dense()] if wanted else [])]
    weigh = lambda t: (t * torch.linspace(0.5, 1.5, t.numel(), dtype=F64).view(t.shape)).sum()
    slopes = torch.autograd.grad(sum(weigh(part + part**2) for part in parts), given, create_graph=True)
    total = sum(map(weigh, (*slopes, *parts)))
    given += [p for p in net.parameters() if p.requires_grad]
    if retained:
        torch.autograd.grad(total, given, retain_graph=True)
    return [*slopes, *torch.autograd.grad(total, given)]


@pytest.mark.parametrize("wanted, along, few", [(Part.FULL, 1, 0.0), (Part.FULL, 2, 1.5), (Part.NONE, 2, 0.0)])
@pytest.mark.parametrize("chunk", [1, 3 * 2**20], ids=["streamed", "whole"])
@pytest.mark.parametrize("case", ["kan", "metakan", "legendrekan"])
def test_the_gradient_of_a_gradient_in_closed_form(monkeypatch, case, chunk, wanted, along, few):
    """Against automatic differentiation of the plain layers; S is given for each point, or the identity."""
    monkeypatch.setattr(gram, "FEW", few)
    monkeypatch.setattr(layers, "CHUNK_BYTES", chunk)
    net, x = network(case, 18), points(3, 18)
    for s in (points(3, 18, seed=7).requires_grad_(), torch.ones(1, 18, dtype=F64)):
        results = []
        for way in (True, False):
            monkeypatch.setattr(KANLinear, "fused", way)
            results.append(twice(net, x.clone(), s, wanted, along))
        for got, expected in zip(*results, strict=True):
            close(got, expected, 1e-11)


def test_a_second_pass_may_come_again_and_be_differentiated(monkeypatch):
    """What the first one kept is for one more alone; a third derivative needs what records it."""
    net, x, s = network("kan", 4), points(3, 4), torch.ones(1, 4, dtype=F64)
    for got, expected in zip(*(twice(net, x.clone(), s, Part.NONE, 1, again) for again in (True, False)), strict=True):
        close(got, expected, 1e-14)
    thirds = []
    for way in (True, False):
        monkeypatch.setattr(KANLinear, "fused", way)
        at = x.clone().requires_grad_()
        y = Forward()(net, at).lap.pow(2).sum()
        for _ in range(2):
            (slope,) = torch.autograd.grad(y, at, create_graph=True)
            y = slope.pow(2).sum()
        thirds.append(torch.autograd.grad(y, [at, *net.parameters()]))
    for got, expected in zip(*thirds, strict=True):
        close(got, expected, 1e-11)


def test_a_pass_by_the_inputs_computes_no_gradient_of_the_weights(monkeypatch):
    net, x = network("kan", 4), points(3, 4).requires_grad_()
    asked = []
    pulled = fused.Layer.pulled
    noted = lambda layer, pull, need, of_weights=True: asked.append(of_weights) or pulled(layer, pull, need, of_weights)
    monkeypatch.setattr(fused.Layer, "pulled", noted)
    lap = Forward()(net, x).lap.sum()
    torch.autograd.grad(torch.autograd.grad(lap, x, create_graph=True)[0].sum(), x, retain_graph=True)
    assert not any(asked)
    lap.backward(inputs=list(net.parameters()))
    assert any(asked) and x.grad is None


@pytest.mark.parametrize("case", ["kan", "metakan"])
def test_what_no_layer_reads_is_left_out(case):
    """The last Gram matrix where |grad u|^2 is not read, and all but the diagonal of the one before."""
    net, x = network(case, 6), points(3, 6)
    s = torch.ones(1, 6, dtype=F64)
    whole, lean = (jets(net, x.clone(), s.clone(), wanted) for wanted in (Part.FULL, Part.NONE))
    assert push(net, input_jet(x, Diagonal(s), None), Part.NONE).gram is None
    for a, b in zip(whole[:3], lean[:3], strict=True):
        close(b, a, 1e-13)
    hidden = net[:-1]
    for form in (Diagonal(torch.ones(1, 6, dtype=F64)), Diagonal(torch.ones(3, 6, dtype=F64))):
        jet = input_jet(x, form, None)
        part, full = push(hidden, jet, Part.DIAGONAL), push(hidden, jet, Part.FULL)
        assert isinstance(part.gram, Diagonal | Tangents) and isinstance(full.gram, Dense | Tangents)
        close(part.gram.diagonal(), full.gram.diagonal(), 1e-13)


@pytest.mark.parametrize("case", ["kan", "metakan", "metakan-rank"])
def test_live_splines_are_all_that_count(monkeypatch, case):
    """Points in one cell of the grid: the other splines are neither computed nor trained, and nothing changes."""
    net, s = network(case, 6, grid_range=(-1.0, 1.0), grid_size=8), torch.ones(1, 6, dtype=F64)
    x = points(4, 6, reach=0.1) + 0.12
    live, columns = net[0]._live(x)
    assert (live, columns.tolist()) == (slice(4, 8), [4, 5, 6, 7, 11])
    sliced = jets(net, x.clone(), s.clone())
    monkeypatch.setattr(type(net[0].basis), "live", lambda self, x: slice(0, self.count))
    assert net[0]._live(x) == (slice(0, 11), None)
    for got, expected in zip(sliced, jets(net, x.clone(), s.clone()), strict=True):
        close(got, expected, 1e-12)


class Largest(TorchDispatchMode):
    """The numbers of the largest tensor that comes into being."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(t.numel() for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


@pytest.mark.parametrize("table_from", [1, 10**9], ids=["table", "tiles"])
def test_prompts_of_low_rank_never_exist_together(monkeypatch, table_from):
    """Nor their hidden units: the layer is streamed forward and backward, and factors are what is kept."""
    monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
    monkeypatch.setattr(weights, "TABLE_FROM", table_from)
    monkeypatch.setattr(weights, "TILE", 2**9)
    monkeypatch.setattr(layers, "FEWEST", 100)
    most = {}
    for rank in (1, None):
        net = build("metakan", 2000, widths=(8,), prompt_rank=rank, meta_hidden=4, generator=stream(0, "init"))[:1]
        with Largest() as seen:
            jet = push(net, input_jet(torch.zeros(1, 2000), Diagonal(torch.ones(1, 2000)), None), Part.FULL)
            (jet.value.sum() + jet.lap.sum()).backward()
        most[rank] = seen.most
    assert most[1] < 10_000 < 2000 * 8 <= most[None]


@pytest.mark.parametrize("case", ["metakan", "metakan-rank"])
def test_per_sample_gradients_of_the_jet(monkeypatch, case):
    """vmap over points, the layer streamed."""
    net, x = network(case, 20), points(3, 20)
    monkeypatch.setattr(weights, "TABLE_FROM", 1)
    monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
    named = dict(net.named_parameters())
    residual = lambda p, x: functional_call(net_lap, p, (x[None],)).sum()

    class Lap(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return Forward()(self.net, x).lap ** 2

    net_lap = Lap()
    named = {f"net.{name}": p for name, p in named.items()}
    batched = vmap(grad(residual), (None, 0))(named, x)
    for i in range(3):
        row = torch.autograd.grad(residual(named, x[i]), list(named.values()))
        for name, expected in zip(named, row, strict=True):
            close(batched[name][i], expected, 1e-11)


def test_gram_products_in_bfloat16_touch_the_second_order_part_alone():
    """Values and directions are the same numbers; L u is off by no more than the rounding of the products."""
    net, x = build("kan", 100, generator=stream(0, "init")), points(16, 100, reach=0.3).float()
    v = torch.ones(1, 100)
    exact = Forward()(network_like(net), x.double(), directions=v.double())
    plain = Forward()(net, x, directions=v)
    for layer in net:
        layer.gram_dtype = torch.bfloat16
    rounded = Forward()(net, x, directions=v)
    assert torch.equal(rounded.value, plain.value) and torch.equal(rounded.along, plain.along)
    error = lambda jet: ((jet.lap - exact.lap).norm() / exact.lap.norm()).item()
    assert error(plain) < 1e-5 < error(rounded) < 1e-2


def network_like(net):
    copy = build("kan", 100).double()
    copy.load_state_dict(net.state_dict())
    return copy


# torch.compile -----------------------------------------------------------------------------------------------------


def residual(u, operator, x):
    jet = operator(u, x)
    loss = (jet.lap + jet.value**3).square().mean()
    return [loss, *torch.autograd.grad(loss, list(u.parameters()))]


@pytest.mark.skipif(not plan.compiles("cpu"), reason="torch.compile does not work here")
@pytest.mark.parametrize(
    "name, streamed, backend",
    [
        ("kan", False, "aot_eager"),  # all but the code that is generated, which the gradient below has too
        ("metakan", True, "aot_eager"),
        ("metakan-rank", True, "aot_eager"),
        ("metakan-rank", False, "aot_eager"),
        ("mlp", False, "aot_eager"),
        pytest.param("kan", False, "inductor", marks=pytest.mark.slow),
        pytest.param("metakan", True, "inductor", marks=pytest.mark.slow),
        pytest.param("mlp", False, "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled_step_equals_eager(monkeypatch, name, streamed, backend):
    """Also where the first layer is too wide to be held whole: its pieces are compiled, the rest around them."""
    made = torch.compile
    monkeypatch.setattr(fused, "_COMPILED", {})
    monkeypatch.setattr(forward, "compiled", cache(forward.compiled.__wrapped__))
    if backend != "inductor":
        monkeypatch.setattr(
            torch, "compile", lambda f, **options: made(f, **{**options, "mode": None}, backend=backend)
        )
    if streamed:
        monkeypatch.setattr(layers, "WHOLE_BYTES", 1)
        monkeypatch.setattr(layers, "CHUNK_BYTES", 1)
    monkeypatch.setattr(weights, "TABLE_FROM", 1)
    problem, options = AllenCahn(24), {} if name == "mlp" else {**NETS[name], "widths": (5,)}
    u = Ansatz(problem, build(name.split("-")[0], 24, generator=stream(0, "init"), **options))
    u, x = u.double(), problem.domain.interior(6, stream(1, "x"), dtype=F64)
    operator = Forward()
    for got, expected in zip(residual(u, replace(operator, compile=True), x), residual(u, operator, x), strict=True):
        close(got, expected, 1e-10)
    with torch.no_grad():  # evaluations have other numbers of points: they are not compiled
        before = len(fused._COMPILED)
        close(replace(operator, compile=True)(u, x[:3]).lap, operator(u, x[:3]).lap, 1e-12)
        assert len(fused._COMPILED) == before and (before > 0) == streamed


@pytest.mark.skipif(not plan.compiles("cpu"), reason="torch.compile does not work here")
@pytest.mark.parametrize(
    "problem, name, widths",
    [(AllenCahn(3), "kan", ()), pytest.param(HJB(3), "metakan", (3,), marks=pytest.mark.slow)],
)
def test_compiled_gradient_of_the_residual_equals_eager(problem, name, widths):
    """And its own gradient by the parameters; the source is not compiled, a lift is."""
    u = Ansatz(problem, build(name, problem.domain.dim, generator=stream(0, "init"), widths=widths)).double()
    x, loss = problem.domain.interior(6, stream(1, "x"), dtype=F64), Loss(gradient="almost_everywhere")

    def terms(operator):
        found = loss.residuals(u, operator, {"interior": x}, stream(0, "o"))
        return [*found.values(), *torch.autograd.grad(loss.total(loss.means(found)), list(u.parameters()))]

    for got, expected in zip(terms(Forward(compile=True)), terms(Forward()), strict=True):
        close(got, expected, 1e-12)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name == "metakan" or not name.startswith("meta")])
def test_the_gradient_of_the_residual_is_one_graph(name):
    """Of every basis: neither hidden from the compiler nor overwritten before it is differentiated."""
    widths = () if name in ("chebykan", "legendrekan", "gramkan", "fourierkan") else (4,)  # of features alike
    u = Ansatz(problem := AllenCahn(3), build(name, 3, generator=stream(0, "init"), widths=widths)).double()
    x = problem.domain.interior(6, stream(1, "x"), dtype=F64)
    plainly = losses._left_side_with_gradient(u, Forward(), x)  # first: what the residual reads is known by then
    with torch._dynamo.config.patch(recompile_limit=256):  # once for each network
        found = torch.compile(losses._left_side_with_gradient, fullgraph=True, backend="eager")(u, Forward(), x)
    for got, expected in zip(found, plainly, strict=True):
        close(got, expected, 1e-10)


def test_no_table_of_segments_in_what_is_compiled_for_several_threads(monkeypatch):
    """torch 2.13 compiles sums over segments, on two threads, to code that writes beyond its buffers."""
    learner, edges = weights.MetaLearner(1, 8, 9), 100 * 32
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert learner._by_table(edges)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not learner._by_table(edges)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert learner._by_table(edges)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("cells", [2, 7, weights.CELLS])
def test_segments_are_those_of_a_binary_search(monkeypatch, dtype, cells):
    """Prompts on knots, equal and infinite knots, knots beyond all prompts, and what no cells can be made of."""
    monkeypatch.setattr(weights, "CELLS", cells)
    z = torch.randn(40, 1, 60, generator=generator(), dtype=dtype)
    some, inf = torch.randn(30, generator=generator(1), dtype=dtype), torch.tensor([-torch.inf, torch.inf], dtype=dtype)
    knots = torch.cat([some, some[:2], 1e6 * some[2:5], z[0, 0, :9], z.amin().view(1), z.amax().view(1), inf])
    nan, far = z.clone(), z.clone()
    nan[0, 0, 0], far[0, 0, 0] = torch.nan, 1e30
    for prompts in (z, nan, far, z.clamp(0, 0), 1e-30 * z):
        expected = torch.searchsorted(knots := knots.sort().values, prompts, out_int32=True)
        assert torch.equal(weights._by_cells(knots, prompts), expected)


def test_prompts_are_found_without_a_binary_search(monkeypatch):
    """Although some knots are far beyond all prompts, as those of units that are never on."""
    z, knots = torch.randn(40, 1, 60, generator=generator()), torch.linspace(-2, 2, 64)
    knots = torch.cat([torch.full((20,), -torch.inf), knots, torch.full((20,), 1e6)])
    expected = torch.searchsorted(knots, z, out_int32=True)
    monkeypatch.setattr(torch, "searchsorted", None)
    assert torch.equal(weights._by_cells(knots, z), expected)


def test_generation_by_the_table_is_one_graph():
    """Although the compiler cannot trace the number of threads."""
    learner = weights.MetaLearner(1, 8, 9).double()
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, generator=generator())
    prompts = torch.linspace(-2, 2, 3200, dtype=F64).reshape(100, 1, 32)
    close(torch.compile(learner, fullgraph=True, backend="eager")(prompts), learner(prompts), 1e-12)
