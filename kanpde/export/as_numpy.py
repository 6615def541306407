"""The function as one Python file that needs NumPy alone."""

import base64
import re
from typing import Any

from torch import Tensor, fx

from kanpde.export.listing import Listing, Step, expression, number, refused

HEAD = '''"""{about}"""

from base64 import b64decode
from math import erf as _erf

import numpy as np
from numpy import (
    arccos as acos,
    arcsin as asin,
    arctan as atan,
    arctan2 as atan2,
    ceil,
    cos,
    cosh,
    exp,
    expm1,
    fabs,
    floor,
    inf as INFINITY,
    isfinite,
    isnan,
    log,
    log1p,
    logical_and as both,
    logical_or as either,
    maximum as larger,
    minimum as smaller,
    nan as NAN,
    power as pow,
    rint,
    sign,
    sin,
    sinh,
    sqrt,
    tan,
    tanh,
    trunc,
    where as choose,
)

ABOUT = {metadata}
erf = np.vectorize(_erf, otypes=[float])


def u(x):
    """{value}"""
    return _at(_value, x)


def derivatives(x):
    """{derivatives}"""
    return _at(_derivatives, x)


def _at(function, x):
    x = np.asarray(x, dtype=float)
    if x.ndim not in (1, 2) or x.shape[-1] != {inputs}:
        raise ValueError(f"u takes points (N, {inputs}), or one point ({inputs},); given {{x.shape}}")
    with np.errstate(all="ignore"):
        found = function(np.atleast_2d(x))
    found = found if x.ndim == 2 else tuple(part[0] for part in found)
    return found[0] if len(found) == 1 else found


def sigmoid(x):
    return 1.0 / (1.0 + exp(-x))


def _scatter(x, axis, index, values):
    out = np.array(x)
    np.put_along_axis(out, index.astype(np.int64), values, axis)
    return out


def _with_part(x, where, values):
    out = np.array(x)
    out[where] = values
    return out


def _expand(x, shape):
    x = np.asarray(x)
    own = (1,) * (len(shape) - x.ndim) + x.shape
    return np.broadcast_to(x, [old if new == -1 else new for old, new in zip(own, shape)])


def _index(x, index):
    return x[tuple(slice(None) if i is None else np.asarray(i).astype(np.int64) for i in index)]


def _array(text, *shape):
    return np.frombuffer(b64decode(text), "<f8").reshape(shape)
'''


def source(value: Listing, derivatives: Listing, about: str, metadata: dict, value_doc: str, doc: str) -> str:
    """The file, of the list of the value and that of all derivatives."""
    constants: dict[bytes, str] = {}
    bodies = [_function(name, of, constants) for name, of in (("_value", value), ("_derivatives", derivatives))]
    inputs = value.values[value.points].shape[1]
    head = HEAD.format(about=about, metadata=_dictionary(metadata), value=value_doc, derivatives=doc, inputs=inputs)
    lines = [f"{name} = {array}" for array, name in constants.items()]
    return "\n".join([head, "", *bodies, *lines, ""])


def _dictionary(metadata: dict) -> str:
    return "{\n" + "".join(f"    {key!r}: {value!r},\n" for key, value in metadata.items()) + "}"


def _function(name: str, listing: Listing, constants: dict[str, str]) -> str:
    names = {listing.points: "x"}
    for key, tensor in listing.constants.items():
        names[key] = _constant(tensor, constants)
    free: list[str] = []
    lines = []
    for step in listing.steps:
        text = _statement(step, names)
        free += [names[key] for key in step.last if key in names]
        names[step.name] = free.pop() if free else f"t{len(names)}"
        lines.append(f"    {names[step.name]} = {text}")
        free += [names[step.name]] if step.name in step.last else []
    results = ", ".join(names[key] for key in listing.outputs)
    return "\n".join([f"def {name}(x):", *lines, f"    return ({results},)", "", ""])


def _constant(value: Any, constants: dict[str, str]) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    if value.ndim == 0:
        return number(value.item())
    text = base64.b64encode(value.double().contiguous().numpy().astype("<f8").tobytes()).decode()
    array = f'_array("{text}"{"".join(f", {n}" for n in value.shape)})'
    return constants.setdefault(array, f"C{len(constants)}")


def _written(value: Any, names: dict[str, str]) -> str:
    """An argument: names, numbers as floats, sizes and axes as they are."""
    if isinstance(value, fx.Node):
        return names[value.name]
    if isinstance(value, list | tuple):
        inner = ", ".join(_written(v, names) for v in value)
        return f"({inner},)" if inner else "()"
    return str(value)


def _statement(step: Step, names: dict[str, str]) -> str:
    scalars = [names[a.name] if isinstance(a, fx.Node) else number(a) for a in step.args if not isinstance(a, list)]
    if (text := expression(step, scalars)) is not None:
        return text
    in_order = step.op != "as_strided.default" or step.value.is_contiguous()
    if step.op not in ARRAYS or not in_order:
        raise refused("numpy", step.op)
    args = [_written(a, names) for a in step.args]
    keywords = {key: _written(a, names) for key, a in step.kwargs.items()}
    return ARRAYS[step.op](*args, **{key: a for key, a in keywords.items() if key in KEYWORDS})


KEYWORDS = ("dtype", "keepdim")
END = 2**62  # from which an end of a slice is none


def _cut(axis: str, start: str = "None", end: str = "None", step: str = "1") -> str:
    """An index that takes a slice along an axis."""
    end = "None" if re.fullmatch(r"\d+", end) and int(end) > END else end
    return _along(axis, f"slice({start}, {end}, {step})")


def _along(axis: str, index: str) -> str:
    """An index along an axis, of a negative number counted from the last, as a tuple."""
    before, after = ("slice(None), " * int(axis), "") if int(axis) >= 0 else ("..., ", "slice(None), " * ~int(axis))
    return f"({before}{index}, {after})"


def _reduced(function: str, x: str, axes: str = "None", keepdim: str = "False", **_: str) -> str:
    return f"np.{function}({x}, axis={axes}, keepdims={keepdim})"


ARRAYS = {
    "view.default": lambda x, shape: f"np.reshape({x}, {shape})",
    "_unsafe_view.default": lambda x, shape: f"np.reshape({x}, {shape})",
    "permute.default": lambda x, axes: f"np.transpose({x}, {axes})",
    "expand.default": lambda x, shape, **_: f"_expand({x}, {shape})",
    "unsqueeze.default": lambda x, axis: f"np.expand_dims({x}, {axis})",
    "squeeze.dims": lambda x, axes: f"np.squeeze({x}, {axes})",
    "slice.Tensor": lambda x, axis="0", *ends: f"{x}[{_cut(axis, *ends)}]",
    "slice_scatter.default": lambda x, y, axis="0", *ends: f"_with_part({x}, {_cut(axis, *ends)}, {y})",
    "select.int": lambda x, axis, index: f"np.take({x}, {index}, {axis})",
    "select_scatter.default": lambda x, y, axis, index: f"_with_part({x}, {_along(axis, index)}, {y})",
    "copy.default": lambda x, y: f"np.broadcast_to({y}, {x}.shape)",
    "cat.default": lambda parts, axis="0": f"np.concatenate({parts}, {axis})",
    "diagonal.default": lambda x, offset="0", a="0", b="1": f"np.diagonal({x}, {offset}, {a}, {b})",
    "split_with_sizes.default": lambda x, sizes, axis="0": f"np.split({x}, np.cumsum({sizes})[:-1], {axis})",
    "index.Tensor": lambda x, index: f"_index({x}, {index})",
    "scatter.src": lambda x, axis, index, values: f"_scatter({x}, {axis}, {index}, {values})",
    "mm.default": lambda a, b: f"{a} @ {b}",
    "bmm.default": lambda a, b: f"{a} @ {b}",
    "addmm.default": lambda c, a, b: f"{c} + {a} @ {b}",
    "sum.dim_IntList": lambda *a, **k: _reduced("sum", *a, **k),
    "sum.default": lambda *a, **k: _reduced("sum", *a),
    "mean.dim": lambda *a, **k: _reduced("mean", *a, **k),
    "amax.default": lambda *a, **k: _reduced("max", *a, **k),
    "amin.default": lambda *a, **k: _reduced("min", *a, **k),
    "prod.dim_int": lambda *a, **k: _reduced("prod", *a, **k),
    "cumsum.default": lambda x, axis, **_: f"np.cumsum({x}, {axis})",
    "cumprod.default": lambda x, axis, **_: f"np.cumprod({x}, {axis})",
    "flip.default": lambda x, axes: f"np.flip({x}, {axes})",
    "full.default": lambda shape, value, **_: f"np.full({shape}, float({value}))",
    "full_like.default": lambda x, value, **_: f"np.full(np.shape({x}), float({value}))",
    "as_strided.default": lambda x, shape, *_: f"np.reshape({x}, {shape})",
    "sym_size.int": lambda x, axis: f"{x}.shape[{axis}]",
    "getitem": lambda parts, index: f"{parts}[{index}]",
    "mul": lambda a, b: f"{a} * {b}",
    "add": lambda a, b: f"{a} + {b}",
    "sub": lambda a, b: f"{a} - {b}",
    "floordiv": lambda a, b: f"{a} // {b}",
}
