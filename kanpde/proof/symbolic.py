"""Torch code as formulas: the operations that a function of tensors calls, one by one, on arrays of sympy expressions.

torch records them down to its elementary ones (`make_fx`), those of automatic differentiation within it too; each has a
line here. Numbers that the code has as floats are read as what they are to 16 digits: 9.869604401089358 as pi**2.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kanpde.interpret.refine import closed_form

if TYPE_CHECKING:
    import sympy

ROUNDING = 4e-16  # of a float and the number that it is read as, relative to it
MOST_BELOW = 1000  # in the fractions that are read
MULTIPLES, SUMMANDS = 200, 1000  # in sums of a whole number and a multiple of pi, pi^2, sqrt(2)


class Untraceable(Exception):
    """Code of which there is no formula; the message says why.

    Example:
        >>> import sympy
        >>> traced(lambda x: [x.sort().values], [torch.ones(2)], [sympy.symbols("a b")])
        Traceback (most recent call last):
            ...
        kanpde.proof.symbolic.Untraceable: ...
    """


def traced(function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], arrays: Sequence[Any]) -> list:
    """What a function returns, as arrays of expressions, where its arguments are these arrays.

    Args:
        function: of tensors, to a sequence of tensors.
        tensors: arguments with numbers, at which it can be called; the formulas do not depend on them.
        arrays: the same arguments as expressions, of the same shapes.
    Raises:
        Untraceable: it fails, branches on its numbers, or calls what has no rule here.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        module = make_fx(lambda *given: tuple(function(*given)))(*tensors)
    except Exception as error:  # of a user's code
        raise Untraceable(" ".join(str(error).split())[:200] or type(error).__name__) from None
    module.graph.eliminate_dead_code()
    given, known = iter(arrays), {}
    of = lambda value: torch.fx.node.map_arg(value, known.__getitem__)
    for node in module.graph.nodes:
        if node.op == "placeholder":
            known[node] = np.array(next(given), dtype=object)
        elif node.op == "get_attr":
            known[node] = of_tensor(getattr(module, node.target))
        elif node.op == "output":
            return list(of(node.args[0]))
        else:
            known[node] = _called(node.target, of(node.args), of(node.kwargs))
    raise Untraceable("it returns nothing")


def of_tensor(t: Tensor) -> np.ndarray:
    """The numbers of a tensor as an array of sympy numbers."""
    numbers = [read(v) for v in t.detach().flatten().tolist()]
    found = np.empty(len(numbers), dtype=object)
    found[:] = numbers
    return found.reshape(t.shape)


def read(value: complex) -> sympy.Expr:
    """The number that a Python number stands for: a simple fraction, one with pi or a root, else its exact value.

    Raises:
        Untraceable: it is not finite, or complex.

    Example:
        >>> read(0.1), read(1 - 17 * torch.pi**2)
        (1/10, 1 - 17*pi**2)
    """
    import sympy

    if isinstance(value, int):
        return sympy.Integer(value)
    if isinstance(value, complex) or not abs(value) < float("inf"):
        raise Untraceable(f"the number {value}")
    fraction = Fraction(value).limit_denominator(MOST_BELOW)
    if abs(float(fraction) - value) <= ROUNDING * abs(value):
        return sympy.Rational(fraction)
    found = closed_form(value, ROUNDING)
    return found or _read_sum(value) or sympy.Rational(value)


def _read_sum(value: float) -> sympy.Expr | None:
    """p + q c with whole p and q, for c of pi, pi^2, sqrt(2)."""
    import sympy

    for unit in (sympy.pi**2, sympy.pi, sympy.sqrt(2)):
        for q in range(-MULTIPLES, MULTIPLES + 1):
            rest = value - q * float(unit)
            p = round(rest)
            if q and abs(p) <= SUMMANDS and abs(rest - p) <= ROUNDING * (abs(value) + abs(q * float(unit))):
                return p + q * unit
    return None


# ---------------------------------------------------------------------------------------------------------------
# Rules: numpy's own operations where these take arrays of objects, sympy's functions on each entry


def _called(target: Any, args: tuple, kwargs: dict) -> Any:
    """What one operation gives."""
    if target is operator.getitem:
        return args[0][args[1]]
    name = str(target).split(".")[1]
    if name in RULES:
        return RULES[name](*args, **{k: v for k, v in kwargs.items() if k not in PLACED})
    arrays = [a for a in args if isinstance(a, np.ndarray)]
    if any(entry.free_symbols for array in arrays for entry in array.flat):
        raise Untraceable(f"no formula for torch's {name}")
    number = lambda a: torch.tensor(a.astype(float)) if isinstance(a, np.ndarray) else a
    return of_tensor(target(*map(number, args), **kwargs))


PLACED = ("dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "implicit")


def _number(value: Any) -> Any:
    """An operand: a Python number as a sympy one."""
    return value if isinstance(value, np.ndarray) else read(value)


def _elementwise(function: Callable) -> Callable:
    """Of arrays and numbers, entry by entry."""
    each = np.frompyfunc(function, function.__code__.co_argcount, 1)
    return lambda *operands: np.asarray(each(*map(_number, operands)), dtype=object)


def _of_sympy(name: str) -> Callable:
    """sympy's function of this name."""

    def function(u):
        import sympy

        return getattr(sympy, name)(u)

    return _elementwise(function)


def _sum_of(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    """a + b as it is written, so that terms which cancel are still there."""
    import sympy

    if a == 0 or b == 0:
        return a + b
    return sympy.Add(a, b, evaluate=False)


_add, _times = _elementwise(_sum_of), _elementwise(lambda a, b: a * b)
_minus = _elementwise(lambda a: -a)


def _added(a: Any, b: Any, alpha: Any = 1) -> np.ndarray:
    return _add(a, b if alpha == 1 else _times(b, alpha))


def _subtracted(a: Any, b: Any, alpha: Any = 1) -> np.ndarray:
    return _added(a, _times(b, -1), alpha)


def _in_place(rule: Callable) -> Callable:
    """The rule whose result goes into its first argument, and what this is a view of."""

    def put(array: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
        array[...] = rule(array, *args, **options)
        return array

    return put


def _summed(array: np.ndarray, dims: Any = None, keepdim: bool = False) -> np.ndarray:
    """The sum over some axes, by default all."""
    axes = range(array.ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    axes = sorted(axis % array.ndim for axis in axes) if array.ndim else []
    kept = [axis for axis in range(array.ndim) if axis not in axes]
    count = int(np.prod([array.shape[axis] for axis in axes]))
    flat = array.transpose(*kept, *axes).reshape(*(array.shape[axis] for axis in kept), count)
    found = reduce(_add, (flat[..., k] for k in range(count)), np.full(flat.shape[:-1], read(0), dtype=object))
    return np.expand_dims(found, tuple(axes)) if keepdim else np.asarray(found, dtype=object)


def _averaged(array: np.ndarray, dims: Any = None, keepdim: bool = False) -> np.ndarray:
    found = _summed(array, dims, keepdim)
    return _elementwise(lambda a, n: a / n)(found, array.size // max(found.size, 1))


def _sliced(array: np.ndarray, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> np.ndarray:
    return array[(slice(None),) * (dim % array.ndim) + (slice(start, end, step),)]


def _product_of_matrices(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(..., n, k) by (..., k, m)."""
    return _summed(_times(a[..., :, :, None], b[..., None, :, :]), -2)


def _split(array: np.ndarray, size: Any, dim: int = 0) -> list[np.ndarray]:
    whole = array.shape[dim]
    sizes = [size] * (whole // size) + [whole % size] * bool(whole % size) if isinstance(size, int) else size
    ends = np.cumsum(sizes).tolist()
    return [_sliced(array, dim, end - n, end) for n, end in zip(sizes, ends, strict=True)]


def _filled(array: np.ndarray, shape: Sequence[int], value: Any) -> np.ndarray:
    return np.full(tuple(shape), read(value), dtype=object)


def _placed(gradient: np.ndarray, shape: Sequence[int], dim: int, *part: Any) -> np.ndarray:
    """Zeros with the gradient of a slice, or of one index, in its place."""
    found = np.full(tuple(shape), read(0), dtype=object)
    index, *of_slice = part
    found[(slice(None),) * (dim % found.ndim) + (slice(index, *of_slice) if of_slice else index,)] = gradient
    return found


def _squeezed(array: np.ndarray, dims: Any = None) -> np.ndarray:
    dims = range(array.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    return array.squeeze(tuple(d % array.ndim for d in dims if array.shape[d] == 1))


def _power(a: sympy.Expr, b: sympy.Expr) -> sympy.Expr:
    return a**b


_same = lambda array, *_, **__: array
_copied = lambda array, *_, **__: array.copy()

RULES: dict[str, Callable] = {
    **{name: _of_sympy(name) for name in ("exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "sqrt", "sign")},
    **{name: _of_sympy(name) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    "abs": _of_sympy("Abs"),
    "neg": _minus,
    "reciprocal": _elementwise(lambda a: 1 / a),
    "rsqrt": _elementwise(lambda a: a ** (-read(0.5))),
    "square": _elementwise(lambda a: a**2),
    "expm1": lambda a: _subtracted(RULES["exp"](a), 1),
    "log1p": lambda a: RULES["log"](_add(a, 1)),
    "sigmoid": lambda a: _elementwise(lambda e: 1 / (1 + e))(RULES["exp"](_minus(a))),
    "tanh_backward": _elementwise(lambda gradient, y: gradient * (1 - y**2)),
    "sigmoid_backward": _elementwise(lambda gradient, y: gradient * y * (1 - y)),
    "add": _added,
    "sub": _subtracted,
    "rsub": lambda a, b, alpha=1: _subtracted(b, a, alpha),
    "mul": _times,
    "div": _elementwise(lambda a, b: a / b),
    "pow": _elementwise(_power),
    "sum": _summed,
    "mean": _averaged,
    "prod": lambda array, dim=None, keepdim=False: np.asarray(np.prod(array, axis=dim, keepdims=keepdim), dtype=object),
    "mm": _product_of_matrices,
    "bmm": _product_of_matrices,
    "mv": lambda a, b: _summed(_times(a, b), -1),
    "dot": lambda a, b: _summed(_times(a, b)),
    "addmm": lambda c, a, b: _add(c, _product_of_matrices(a, b)),
    **dict.fromkeys(("detach", "alias", "lift_fresh", "lift"), _same),
    **dict.fromkeys(("clone", "lift_fresh_copy", "contiguous", "_to_copy"), _copied),
    "select": lambda array, dim, index: _sliced(array, dim, index, index + 1 or None).squeeze(dim),
    "slice": _sliced,
    "select_backward": _placed,
    "slice_backward": _placed,
    "unsqueeze": lambda array, dim: np.expand_dims(array, dim),
    "squeeze": _squeezed,
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), lambda array, shape: array.reshape(tuple(shape))),
    "expand": lambda array, shape: np.broadcast_to(
        array, [array.shape[k - len(shape)] if n == -1 else n for k, n in enumerate(shape)]
    ),
    "permute": lambda array, dims: array.transpose(dims),
    "transpose": lambda array, a, b: array.swapaxes(a, b),
    "t": lambda array: array.T,
    "unbind": lambda array, dim=0: list(np.moveaxis(array, dim, 0)),
    "split": _split,
    "split_with_sizes": _split,
    "cat": lambda arrays, dim=0: np.concatenate(arrays, dim),
    "stack": lambda arrays, dim=0: np.stack(arrays, dim),
    "flip": lambda array, dims: np.flip(array, dims),
    "zeros_like": lambda array: _filled(array, array.shape, 0),
    "ones_like": lambda array: _filled(array, array.shape, 1),
    "full_like": lambda array, value: _filled(array, array.shape, value),
    "new_zeros": lambda array, shape: _filled(array, shape, 0),
    "new_ones": lambda array, shape: _filled(array, shape, 1),
    "new_full": _filled,
}
RULES |= {
    f"{name}_": _in_place(RULES[name]) for name in ("add", "sub", "mul", "div", "neg", "pow", "exp", "sin", "cos")
}
RULES |= {
    "copy_": _in_place(lambda array, other: other),
    "fill_": _in_place(lambda array, value: _number(value)),
    "zero_": _in_place(lambda array: read(0)),
}
