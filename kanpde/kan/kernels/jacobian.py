r"""The Jacobian of residuals by the parameters of layers, a row for each point, from one reverse pass for all points.

What comes out of a layer for a point does not depend on other points. With the features b of its inputs, r_n a residual
of point n, and a bar for the gradient of r_n by what it stands on, the gradient by the weights theta of the layer is

.. math:: \bar\theta_{nico} = \sum_k b_c^{(k)}(x_{ni}) \, \bar A^{(k)}_{nio}, \qquad
          \bar A^{(0)} = \bar y, \quad \bar A^{(1)} = \sum_m r_m^T \bar r'_m + G A (\bar G' + \bar G'^T), \quad
          \bar A^{(2)} = q \, \bar c

of a jet (see `kanpde.kan.kernels.jets` for its parts), and A^(k) = sum_j B_jk^T bar y^(j) of a Taylor jet with the
polynomials B of its inputs. An affine layer is the same with b = x, b' = 1. Where a meta-learner generates theta, its
pullback takes each row to prompts and meta-learner. A few parameters elsewhere, such as unknown coefficients of an
equation, have a column each from a second reverse pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanpde.jets.gram import Dense, Diagonal, Tangents
from kanpde.jets.jet import HOOKS, Jet
from kanpde.jets.taylor import Taylor
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import Direct, Meta

OTHERS = 32  # numbers of parameters that are of no layer, of which each costs a reverse pass


def covers(module: nn.Module, parameters: Sequence[Tensor]) -> bool:
    """Whether `jacobian` knows all layers that use these parameters; a few numbers may be of no layer."""
    wanted, known = set(parameters), {}
    for name, child in module.named_modules(prefix="u", remove_duplicate=False):
        if _is_known(child):
            known[f"{name}."] = child
    of_layers, others = set(), set()
    for name, p in module.named_parameters(prefix="u", remove_duplicate=False):
        if p in wanted:
            (of_layers if name.startswith(tuple(known)) else others).add(p)
    weights = [layer.weights for layer in known.values() if isinstance(layer, KANLinear)]
    elsewhere = [m.learner for m in module.modules() if isinstance(m, Meta) and m not in weights]
    others |= {p for learner in elsewhere for p in learner.parameters() if p in wanted}
    few = sum(p.numel() for p in others) <= OTHERS
    return few and of_layers.isdisjoint(others) and wanted == of_layers | others


def weights_of(module: nn.Module) -> int:
    """Weights of the layers that `jacobian` knows: while it runs, it holds as many numbers for each point."""
    layers = [m for m in module.modules() if isinstance(m, KANLinear) and _is_known(m)]
    return sum(layer.in_features * layer.basis.size * layer.out_features for layer in layers)


def _is_known(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (isinstance(module, KANLinear) and module.fuses and not module.centred)


class NotCovered(ValueError):
    """A jet went through a layer in a form of which `jacobian` has no formula."""


class Call(NamedTuple):
    """A pass through a layer: values (N, n), a jet or a Taylor jet of N points, what went in and what came out."""

    layer: nn.Module
    given: Tensor | Jet | Taylor
    out: Tensor | Jet | Taylor


def jacobian(module: nn.Module, parameters: Sequence[Tensor], function: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """r = function() (N, m), m residuals of each point, and J = dr/dparameters (N, m, P).

    Args:
        module: holds the layers that the function uses, once or several times, on N points in their order each time.
        parameters: those that it `covers`.
    Raises:
        NotCovered: what a layer was given has another number of points, or a form without a formula.
    """
    calls, r = _called(module, parameters, function)
    outs = [_parts(call) for call in calls]
    flat = [t for parts in outs for t in parts.values()]
    j = r.new_zeros(*r.shape, sum(p.numel() for p in parameters))
    sizes = [p.numel() for p in parameters]
    columns = dict(zip(parameters, j.split(sizes, -1), strict=True))
    features = [_features(call) for call in calls]
    layers = {p for call in calls for p in _parameters(call.layer)}
    generated_from = {p for call in calls for p in _sources(call.layer)}
    sources = [p for p in parameters if p in generated_from]
    others = [p for p in parameters if p not in layers]
    for k in range(r.shape[1]):
        slopes = iter(torch.autograd.grad(r[:, k].sum(), flat, retain_graph=True, allow_unused=True) if flat else ())
        made: dict[Tensor, tuple[Tensor, Tensor]] = {}
        for call, parts, b in zip(calls, outs, features, strict=True):
            bars = {name: slope for name, slope in ((name, next(slopes)) for name in parts) if slope is not None}
            _add(call, b, bars, {p: column[:, k] for p, column in columns.items()}, made)
        for p, row in zip(sources, _pulled(*zip(*made.values(), strict=True), sources) if made else (), strict=True):
            columns[p][:, k] += row
        for p, row in zip(others, _by_columns(r[:, k], others), strict=True):
            columns[p][:, k] = row
    return r.detach(), j


def _called(module: nn.Module, parameters: Sequence[Tensor], function: Callable) -> tuple[list[Call], Tensor]:
    """The passes through layers that are trained, in their order, and r with its graph."""
    calls: list[Call] = []
    wanted = set(parameters)
    trained = [m for m in module.modules() if _is_known(m) and not wanted.isdisjoint(_parameters(m))]

    def note(layer: nn.Module, given: Tensor | Jet | Taylor, out: Tensor | Jet | Taylor) -> Tensor | Jet | Taylor:
        calls.append(Call(layer, given, _of_each_point(out)))
        return calls[-1].out

    handles = [m.register_forward_hook(lambda layer, given, out: note(layer, given[0], out)) for m in trained]
    for m in trained:
        setattr(m, HOOKS, [note])
    try:
        with torch.enable_grad():
            r = function()
    finally:
        for handle, m in zip(handles, trained, strict=True):
            handle.remove()
            delattr(m, HOOKS)
    if odd := next((c for c in calls if len(c.given if torch.is_tensor(c.given) else c.given.value) != len(r)), None):
        raise NotCovered(f"{type(odd.layer).__name__} was given other points than the {len(r)} of the residuals")
    return calls, r


def _of_each_point(out: Tensor | Jet | Taylor) -> Tensor | Jet | Taylor:
    """The same with a row for each point, where one stands for all, so that each has a gradient of its own."""
    if torch.is_tensor(out):
        return out
    spread = lambda t: t if t is None or len(t) == len(out.value) else t.expand(len(out.value), *t.shape[1:])
    if isinstance(out, Taylor):
        return replace(out, terms=tuple(map(spread, out.terms)))
    part = {Dense: "matrix", Diagonal: "s", Tangents: "rows"}.get(type(out.gram))
    gram = out.gram if part is None else replace(out.gram, **{part: spread(getattr(out.gram, part))})
    return replace(out, along=spread(out.along), gram=gram, lap=spread(out.lap))


def _parameters(layer: nn.Module) -> list[Tensor]:
    """Of a layer, with those of a meta-learner that another layer registers."""
    return [*layer.parameters(), *_sources(layer)]


def _sources(layer: nn.Module) -> list[Tensor]:
    """What its weights are generated from."""
    if not isinstance(layer, KANLinear) or isinstance(layer.weights, Direct):
        return []
    shared = layer.weights.learner.parameters() if isinstance(layer.weights, Meta) else ()
    return [*layer.weights.parameters(), *shared]


# ---------------------------------------------------------------------------------------------------------------
# What came out of a layer, and the gradients of its weights


def _parts(call: Call) -> dict[str, Tensor]:
    """The tensors that came out of it, but for the values of what called the layer for these, which is noted itself."""
    if torch.is_tensor(call.out):
        found = {"value": call.out}
    elif isinstance(call.out, Taylor):
        found = {str(j): t for j, t in enumerate(call.out.terms)}
    else:
        out, own = call.out, isinstance(call.layer, KANLinear)
        found = {"value": out.value if own else None, "along": out.along, "lap": out.lap, "gram": _tensor(out.gram)}
    return {name: t for name, t in found.items() if t is not None and t.requires_grad}


def _tensor(gram: Dense | Diagonal | Tangents | None) -> Tensor | None:
    if isinstance(gram, Tangents):
        return gram.rows
    return gram.matrix if isinstance(gram, Dense) else None if gram is None else gram.s


def _features(call: Call) -> Sequence[Tensor]:
    """b, b', ... at the inputs, each (N, in, size); of an affine layer x and 1, (N or 1, in, 1)."""
    given, layer = call.given, call.layer
    x = (given if torch.is_tensor(given) else given.value).detach()
    if not isinstance(layer, KANLinear):
        return x.unsqueeze(-1), x.new_ones(1, x.shape[1], 1)
    with torch.no_grad():
        return layer.basis.features(x, _order(given))


def _order(given: Tensor | Jet | Taylor) -> int:
    """The derivatives of the features that it reads."""
    if isinstance(given, Jet):
        return 1 if given.gram is None else 2
    return given.order if isinstance(given, Taylor) else 0


def _add(call: Call, b: Sequence[Tensor], bars: dict[str, Tensor], columns: dict[Tensor, Tensor], made: dict) -> None:
    """Add the gradients of the weights of a call, from those of what came out; of generated weights to `made`."""
    layer, value = call.layer, bars.get("value")
    if value is not None and layer.bias in columns:
        columns[layer.bias] += value
    by_order = [a if a is None else a.detach() for a in _by_order(call, b, bars)]
    if isinstance(layer, nn.Linear):
        if layer.weight in columns:
            _sum(b, by_order, columns[layer.weight].unflatten(-1, layer.weight.shape).mT.unsqueeze(-2))
        return
    theta = layer.weights.theta if isinstance(layer.weights, Direct) else None
    if theta is not None:
        if theta in columns:
            _sum(b, by_order, columns[theta].unflatten(-1, theta.shape))
        return
    if layer not in made:
        generated = _generated(layer)
        if not generated.requires_grad:
            return
        made[layer] = generated, b[0].new_zeros(len(b[0]), *generated.shape)
    _sum(b, by_order, made[layer][1])


def _sum(b: Sequence[Tensor], by_order: Sequence[Tensor | None], total: Tensor) -> None:
    """Add sum_k b^(k) A^(k) to a total (N, in, size, out)."""
    for b_k, a_k in zip(b, by_order, strict=False):
        if a_k is not None:
            total.addcmul_(b_k.unsqueeze(-1), a_k.unsqueeze(-2))


def _by_order(call: Call, b: Sequence[Tensor], bars: dict[str, Tensor]) -> list[Tensor | None]:
    """A^(0), A^(1), ... each (N, in or 1, out); None: zero."""
    value = bars.get("value")
    first = None if value is None else value.unsqueeze(1)
    if torch.is_tensor(call.given):
        return [first]
    if isinstance(call.given, Taylor):
        return [None, *_of_taylor(call, bars)]
    return [first, *_of_jet(call, b, bars)]


def _of_taylor(call: Call, bars: dict[str, Tensor]) -> list[Tensor | None]:
    """A^(1), A^(2), ... of a Taylor jet; an affine layer takes each order to itself."""
    given, affine = call.given, isinstance(call.layer, nn.Linear)
    if affine:
        terms = [(given.terms[int(j)], bar) for j, bar in bars.items()]
        return [_product([(t, bar) for t, bar in terms if t is not None])]
    rows = given.rows().detach().split(given.counts, 1)
    pairs = [(rows[int(j)], bar) for j, bar in bars.items()]
    return [_product([(row[:, :, k], bar) for row, bar in pairs]) for k in range(given.order)]


def _product(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor | None:
    """The sum of r^T r_bar over rows r (N or 1, m, in) and their gradients (N, m, out): (N, in, out)."""
    if not pairs:
        return None
    n = max(len(bar) for _, bar in pairs)
    rows, bars = (torch.cat([t.detach().expand(n, -1, -1) for t in each], 1) for each in zip(*pairs, strict=True))
    return rows.mT @ bars


def _of_jet(call: Call, b: Sequence[Tensor], bars: dict[str, Tensor]) -> list[Tensor | None]:
    """A^(1) and A^(2) of a jet."""
    given, out, layer = call.given, call.out, call.layer
    pairs = [] if "along" not in bars else [(given.along, bars["along"])]
    if given.lap is not None and "lap" in bars:
        pairs.append((given.lap.unsqueeze(1), bars["lap"].unsqueeze(1)))
    gram, bar = given.gram, bars.get("gram")
    if not isinstance(gram, Diagonal | Dense | Tangents | None):
        raise NotCovered(f"{type(gram).__name__} has no formula")
    if bar is not None and isinstance(out.gram, Tangents):
        before = gram if isinstance(gram, Tangents) else Tangents.of_axes(gram.s)
        pairs.append((before.rows, bar))
        bar = None
    first = _product(pairs)
    if bar is not None:
        turned = _of_gram(gram, _slopes(layer, b), bar, isinstance(out.gram, Diagonal)).expand(
            len(call.given.value), -1, -1
        )
        first = turned if first is None else first + turned
    if gram is None or "lap" not in bars or isinstance(layer, nn.Linear):
        return [first]
    return [first, gram.diagonal().detach().unsqueeze(-1) * bars["lap"].unsqueeze(1)]


def _of_gram(gram: Diagonal | Dense | Tangents, a: Tensor, bar: Tensor, diagonal: bool) -> Tensor:
    """G A (G_bar + G_bar^T) (N, in, out), of its diagonal 2 G A G_bar."""
    g_a = gram.s.unsqueeze(-1) * a if isinstance(gram, Diagonal) else gram.dense() @ a
    return (2 * g_a * bar.unsqueeze(1) if diagonal else g_a @ (bar + bar.mT)).detach()


def _slopes(layer: nn.Module, b: Sequence[Tensor]) -> Tensor:
    """A (N or 1, in, out)."""
    if isinstance(layer, nn.Linear):
        return layer.weight.mT.unsqueeze(0)
    return (b[1].transpose(0, 1) @ _generated(layer)).transpose(0, 1)


def _generated(layer: KANLinear) -> Tensor:
    """The weights of a layer (in, size, out): the parameter itself, or generated with their graph."""
    with torch.enable_grad():
        (raw,) = layer.weights.split(layer.in_features)
        return layer.weights.generate(raw)


def _pulled(outputs: Sequence[Tensor], rows: Sequence[Tensor], sources: Sequence[Tensor]) -> list[Tensor]:
    """The gradients by the outputs, a row each, taken to the sources they come from, (N, size of the source) each."""
    sizes = [out.numel() for out in outputs]
    if sum(sizes) < len(rows[0]):  # the Jacobian of the outputs has fewer rows
        units = torch.eye(sum(sizes), dtype=rows[0].dtype, device=rows[0].device).split(sizes, 1)
        units = [unit.reshape(-1, *out.shape) for unit, out in zip(units, outputs, strict=True)]
        joined = torch.cat([row.flatten(1) for row in rows], 1)
        return [joined @ j for j in _pulled(outputs, units, sources)]
    return [j.flatten(1) for j in torch.autograd.grad(outputs, sources, rows, is_grads_batched=True)]


def _by_columns(r: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
    """dr/dp (N, size) of parameters of no layer: g(w) = sum_n w_n dr_n/dp is linear in w, and its slope a column."""
    if not others:
        return []
    w = torch.ones_like(r, requires_grad=True)
    options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
    found = torch.autograd.grad((w * r).sum(), others, create_graph=True, **options)
    column = lambda g: torch.autograd.grad(g, w, **options)[0] if g.requires_grad else torch.zeros_like(r)
    return [torch.stack([column(g) for g in each.flatten()], 1) for each in found]
