"""Whether nested automatic differentiation of a function is right: torch does not say where it is not.

A backward pass in numpy, with saved constants, or marked `once_differentiable` differentiates to zero the second time,
and nothing is raised. With u at x + t v for a random direction v, and w one through the parameters theta,

.. math:: \\partial_t u, \\quad \\partial_t^2 u, \\quad
          \\partial_w (u, \\partial_t u, \\partial_t^2 u)

are compared with differences: of values for the first, of first derivatives for the second.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import CodeType
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.jets.tracing import has_numbers, transformed

POINTS = 8
NUMBERS = 2**17  # coordinates of all points at most
PLAIN = int, float, bool, str, type(None), torch.dtype  # what a function may hold that is compared by value
MADE_ANEW = 1000  # functions of one code that are tried: one that is made anew for each call is not tried for ever


@dataclass(frozen=True)
class _Accuracy:
    """Steps in units of the spread of the points, and relative differences: surely right, surely wrong, nothing."""

    steps: tuple[float, ...]
    right: float
    wrong: float
    nothing: float


FINE = _Accuracy((1e-4, 1e-3, 1e-5, 1e-6, 1e-7, 1e-2), 1e-3, 1e-2, 1e-6)
COARSE = _Accuracy((1e-2, 3e-2, 1e-3, 1e-1), 3e-2, 0.2, 1e-2)  # of single precision


class NotDifferentiable(ConfigError):
    """Nested automatic differentiation of a function is not its derivative."""


def check_differentiable(u: Callable[[Tensor], Tensor], x: Tensor, parts: dict[str, Callable] | None = None) -> None:
    """Compare the nested derivatives of u with differences, once for each u; nothing of u or of torch is changed.

    In float64 where u takes it, modules as copies in evaluation mode. What differences do not resolve, a kink, noise,
    is passed, and nothing is done where torch transforms the call or x has no numbers.

    Args:
        u: a module or a function (N, d) -> (N,) or (N, 1).
        x: points (N, d), of which a few are used.
        parts: functions of x by name that u is made of, to say which of them it is.
    Raises:
        NotDifferentiable: in one line, with the name of what has the wrong derivative.
    """
    if transformed() or not has_numbers(x) or x.ndim != 2 or 0 in x.shape or _seen(u):
        return
    with _untouched(x):
        trial, at, accuracy = _prepared(u, x.detach()[: max(1, min(POINTS, NUMBERS // x.shape[1]))])
        if trial is not None and (order := _wrong(trial, at, accuracy)):
            raise NotDifferentiable(
                f"{_culprit(u, trial, at, accuracy, parts or {})}: automatic differentiation gives a wrong {order}, by "
                "differences (a backward in numpy, with constants, or once_differentiable?): write it "
                "in torch operations, or register a jet rule for its module and use the operator forward"
            )
    _note(u)


# Trials: where differences are taken -------------------------------------------------------------------------------


@contextmanager
def _untouched(x: Tensor) -> Iterator[None]:
    """Gradients on, and the global generators as they were afterwards."""
    devices = [x.device] if x.is_cuda else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        yield


def _prepared(u: Callable, x: Tensor) -> tuple[Callable | None, Tensor, _Accuracy]:
    """u as it may be tried, at points of a dtype that it takes; None where it gives other numbers the next time."""
    for dtype, accuracy in ((torch.float64, FINE), (x.dtype, FINE if x.dtype == torch.float64 else COARSE)):
        trial, at = _copied(u, dtype), x.to(dtype)
        try:
            first, second = (_values(trial, at).detach() for _ in range(2))
        except Exception:  # it does not take this dtype; what it does not take at all the caller will see
            continue
        if first.ndim == 1 and torch.equal(first, second):
            return trial, at, accuracy
    return None, x, COARSE


def _copied(u: Callable, dtype: torch.dtype) -> Callable:
    if not isinstance(u, nn.Module):
        return u
    try:
        return copy.deepcopy(u).to(dtype).eval()
    except Exception:  # a module that holds a graph; its derivatives by its own parameters are not tried
        return lambda x: u(x)


def _values(u: Callable, x: Tensor) -> Tensor:
    y = u(x)
    return y.squeeze(-1) if y.ndim == 2 and y.shape[-1] == 1 else y


def _along(u: Callable, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u, d/dt u and d^2/dt^2 u (N,) at x + t v by nested reverse differentiation, with their graphs."""
    x = x.detach().requires_grad_()
    found = [_values(u, x)]
    for _ in range(2):
        (slope,) = _gradients(found[-1].sum(), [x])
        found.append((slope * v).sum(-1))
    return tuple(found)


def _gradients(y: Tensor, x: list[Tensor]) -> tuple[Tensor, ...]:
    if not y.requires_grad:
        return tuple(map(torch.zeros_like, x))
    return torch.autograd.grad(y, x, create_graph=True, allow_unused=True, materialize_grads=True)


def _direction(x: Tensor, generator: torch.Generator) -> Tensor:
    """(d,), as long as the points are spread, coordinate by coordinate."""
    spread = (x.amax(0) - x.amin(0)) / 2
    spread = torch.where(spread > 0, spread, x.abs().amax(0))
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    z = torch.randn(x.shape[1], generator=generator, dtype=torch.float64).to(x)
    return z * spread / x.shape[1] ** 0.5


# Comparison --------------------------------------------------------------------------------------------------------


def _wrong(u: Callable, x: Tensor, accuracy: _Accuracy) -> str | None:
    """Which derivative differs from differences that are resolved; None: none."""
    generator = torch.Generator().manual_seed(0)
    v = _direction(x, generator)
    try:
        here = _along(u, x, v)
        of_x = cache(lambda t: tuple(f.detach() for f in _along(u, x + t * v, v)))
        for order, name in ((1, "first derivative"), (2, "second derivative")):
            moved = lambda t, order=order: of_x(t)[order - 1]
            if _differ(here[order].detach(), here[order - 1].detach(), moved, here, accuracy):
                return name
        trained = [p for p in u.parameters() if p.requires_grad] if isinstance(u, nn.Module) else []
        return _wrong_by_parameters(trained, here, lambda: _along(u, x, v), generator, accuracy) if trained else None
    except RuntimeError as error:
        said = str(error)  # of what else went wrong the caller hears where it happens
        return "derivative" if "once_differentiable" in said or "numpy" in said else None


def _wrong_by_parameters(trained: list[Tensor], here: tuple, again: Callable, generator, accuracy) -> str | None:
    """The derivatives of sums over the points along a random direction through the parameters of a copy."""
    signs = torch.randn(len(here[0]), generator=generator, dtype=torch.float64).to(here[0])
    size = max(p.detach().square().mean().sqrt().item() for p in trained if p.numel()) or 1.0
    w = [torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device) for p in trained]
    w = [z * (p.detach().square().mean().sqrt().item() or size) for z, p in zip(w, trained, strict=True)]
    start = [p.detach().clone() for p in trained]
    sums = lambda found: torch.stack([(signs * f).sum() for f in found])

    @torch.no_grad()
    def move(t: float) -> None:
        for p, p_0, along in zip(trained, start, w, strict=True):
            p.copy_(p_0 + t * along)

    def moved(t: float) -> Tensor:
        move(t)
        return sums(again()).detach()

    slope = [sum((g * z).sum() for g, z in zip(_gradients(y, trained), w, strict=True)).detach() for y in sums(here)]
    found = _differ(torch.stack(slope), sums(here).detach(), moved, (torch.stack(slope),), accuracy, 1)
    move(0.0)
    return "derivative by the parameters" if found else None


def _differ(
    given: Tensor, here: Tensor, moved: Callable[[float], Tensor], sizes: tuple, accuracy: _Accuracy, most: int = 2
) -> bool:
    """Whether at least `most` of the numbers `given` (of fewer: all) are not the slopes of moved(t) at t = 0.

    One-sided differences that disagree resolve nothing: noise, a kink, a step that is too long. Nor do those that are
    as the same number over the step: a jump, as of the slope of |t|, where both sides are as far from the middle.
    """
    nothing = accuracy.nothing * max(s.detach().abs().max().item() for s in sizes)
    right, wrong, jump = (torch.zeros_like(given, dtype=torch.bool) for _ in range(3))
    last = None
    for t in accuracy.steps:
        after, before = moved(t), moved(-t)
        unsure = (after - 2 * here + before).abs() / t
        slope = (after - before) / (2 * t)
        if last is not None:
            jump |= (t * slope - last).abs() < 0.1 * last.abs()
        last = t * slope
        gap, size = (given - slope).abs(), torch.maximum(given.abs(), slope.abs())
        right |= gap <= accuracy.right * size + nothing
        unsure = unsure + unsure.median() + 1e3 * torch.finfo(here.dtype).eps * here.abs() / t
        wrong |= (gap > accuracy.wrong * size + nothing + 10 * unsure) & (after != here) & (before != here)
        if right.all():
            return False
    return (wrong & ~right & ~jump).sum().item() >= min(most, len(given))


# Names -------------------------------------------------------------------------------------------------------------


def _culprit(u: Callable, trial: Callable, x: Tensor, accuracy: _Accuracy, parts: dict[str, Callable]) -> str:
    """The part or the submodule of u whose own derivatives are wrong, by name; else what u is."""
    for name, part in parts.items():
        if _is_wrong(part, x, accuracy):
            return name
    called: list[tuple[str, nn.Module, Tensor]] = []
    modules = dict(trial.named_modules()) if isinstance(trial, nn.Module) else {}
    handles = [
        module.register_forward_hook(lambda module, given, _, name=name: called.append((name, module, given[0])))
        for name, module in modules.items()
        if name and not any(module.children())
    ]
    try:
        trial(x)
    finally:
        for handle in handles:
            handle.remove()
    for name, module, given in called:
        if torch.is_tensor(given) and given.ndim == 2 and _is_wrong(_Mixed(module), given.detach(), accuracy):
            return f"{name} ({type(module).__name__})"
    return type(u).__name__ if isinstance(u, nn.Module) else getattr(u, "__qualname__", repr(u))


def _is_wrong(function: Callable, x: Tensor, accuracy: _Accuracy) -> bool:
    try:
        return _wrong(function, x, accuracy) is not None
    except Exception:  # a part that cannot be tried by itself
        return False


class _Mixed(nn.Module):
    """One number of all outputs of a module."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y = self.module(x).flatten(1)
        return y @ torch.linspace(0.5, 1, y.shape[1], dtype=y.dtype, device=y.device)


# What has been compared before -------------------------------------------------------------------------------------

_PASSED: WeakKeyDictionary[Callable | CodeType, list[tuple]] = WeakKeyDictionary()


def _key(u: Callable) -> tuple[object, tuple]:
    """What u is: a module itself, a function its code and all that it holds."""
    function = getattr(u, "__func__", u)
    code = getattr(function, "__code__", None)
    if code is None:
        return u, ()
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return code, (getattr(u, "__self__", None), *cells, *(function.__defaults__ or ()))


def _seen(u: Callable) -> bool:
    try:
        anchor, held = _key(u)
        known = _PASSED.get(anchor, [])
    except (TypeError, ValueError):  # no weak references to it, or a cell that is empty still
        return False
    same = lambda old, new: old() is new if isinstance(old, ref) else type(old) is type(new) and old == new
    return len(known) == MADE_ANEW or any(len(old) == len(held) and all(map(same, old, held)) for old in known)


def _note(u: Callable) -> None:
    try:
        anchor, held = _key(u)
        _PASSED.setdefault(anchor, []).append(tuple(one if isinstance(one, PLAIN) else ref(one) for one in held))
    except (TypeError, ValueError):
        return
