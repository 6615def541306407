"""The function as one C99 file that needs math.h alone: at one point, without memory of its own.

A result is an array of doubles with the strides that torch gives it, so what torch calls a view is one here. What only
moves numbers is found by moving their places.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from kanpde.export.listing import Listing, Step, expression, names_in, number, refused

HEAD = """/* {about}

{notes}

   cc -O2 -c {stem}.c, and link with -lm. */

#include <math.h>

#define N_INPUTS {inputs}
#define N_FIELDS {fields}

/* {value} */
void u(const double x[N_INPUTS], double value[N_FIELDS]);

/* {derivatives} */
void u_derivatives(const double x[N_INPUTS], double value[N_FIELDS], double gradient[N_FIELDS * N_INPUTS],
                   double laplacian[N_FIELDS]);

static inline double sign(double a) {{ return (a > 0) - (a < 0); }}
static inline double sigmoid(double a) {{ return 1.0 / (1.0 + exp(-a)); }}
static inline double larger(double a, double b) {{ return a != a || a > b ? a : b; }}
static inline double smaller(double a, double b) {{ return a != a || a < b ? a : b; }}
static inline double choose(double a, double b, double c) {{ return a != 0 ? b : c; }}
static inline double both(double a, double b) {{ return a != 0 && b != 0; }}
static inline double either(double a, double b) {{ return a != 0 || b != 0; }}
"""


@dataclass(frozen=True)
class Place:
    """Where a result is: an array of C, and which of its numbers."""

    array: str
    offset: int
    strides: tuple[int, ...]
    shape: tuple[int, ...]

    def at(self, indices: list[str]) -> str:
        """The number at indices, one for each dimension; of a shorter one those of the last, of length 1 none."""
        own = zip(self.shape, self.strides, indices[len(indices) - len(self.shape) :], strict=True)
        terms = [f"{i} * {s}" if s != 1 else i for n, s, i in own if n > 1 and s]
        terms += [str(self.offset)] if self.offset or not terms else []
        return f"{self.array}[{' + '.join(terms)}]"


@dataclass
class _Writer:
    """What is written of one function: lines, arrays in use, and where each result is."""

    listing: Listing
    tables: dict[str, str]
    lines: list[str] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    arrays: dict[int, tuple[str, Tensor]] = field(default_factory=dict)  # by storage; the tensor keeps it alive
    sizes: dict[str, int] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)

    def place(self, name: str) -> Place:
        """Where the result of a name is, a constant made a table on the way."""
        if name not in self.places:
            self.places[name] = self._table(self.listing.constants[name])
        return self.places[name]

    def _table(self, value: Tensor) -> Place:
        numbers = ", ".join(number(v) for v in value.detach().double().flatten().tolist())
        name = self.tables.setdefault(f"[{max(value.numel(), 1)}] = {{{numbers or 0}}}", f"c{len(self.tables)}")
        return Place(name, 0, _dense(value.shape), tuple(value.shape))

    def new(self, value: Tensor) -> Place:
        """An array for a result, one that no one reads any more where there is one."""
        size = value.untyped_storage().nbytes() // value.element_size()
        fitting = [name for name in self.free if self.sizes[name] >= size]
        name = min(fitting, key=self.sizes.get) if fitting else f"t{len(self.sizes)}"
        self.sizes.setdefault(name, max(size, 1))
        self.free = [other for other in self.free if other != name]
        self.arrays[value.untyped_storage().data_ptr()] = name, value
        return _placed(name, value)

    def write(self, step: Step) -> None:
        """One step: nothing for a view, else its loops."""
        values = step.value if isinstance(step.value, tuple | list) else [step.value]
        known = [self.arrays.get(v.untyped_storage().data_ptr()) for v in values]
        if not any(v.numel() for v in values):  # nothing: no loop reads it
            self.places[step.name] = _placed("x", values[0])
            return
        if all(known):
            self.places[step.name] = _placed(known[0][0], values[0])  # of several the first, which keeps the array
            return
        self.places[step.name] = self.new(step.value)
        self.lines += [f"    {line}" for line in self._loops(step)]

    def _loops(self, step: Step) -> list[str]:
        if step.op in LOOPS:
            return LOOPS[step.op](self, step, *step.args, **step.kwargs)
        out = self.places[step.name]
        indices, opened = _nest(out.shape)
        scalars = [
            self.place(a.name).at(indices) if isinstance(a, fx.Node) else number(a)
            for a in step.args
            if not isinstance(a, list)
        ]
        text = expression(step, scalars)
        return _moved(self, step) if text is None else [f"{opened}{out.at(indices)} = {text};"]

    def release(self, names: tuple[str, ...]) -> None:
        """Arrays of which no result is read any more may be written again."""
        for name in names:
            if name in self.places:
                del self.places[name]
        used = {place.array for place in self.places.values()}
        for pointer, (array, _) in list(self.arrays.items()):
            if array not in used and array in self.sizes:
                del self.arrays[pointer]
                self.free.append(array)


def _placed(array: str, value: Tensor) -> Place:
    return Place(array, value.storage_offset(), tuple(value.stride()), tuple(value.shape))


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _nest(shape: tuple[int, ...], letters: str = "ijklmnop") -> tuple[list[str], str]:
    """Indices of loops over a shape, and their heads."""
    indices = list(letters[: len(shape)])
    heads = [f"for (int {i} = 0; {i} < {n}; {i}++) " for i, n in zip(indices, shape, strict=True) if n != 1]
    return indices, "".join(heads)


def _moved(of: _Writer, step: Step) -> list[str]:
    """An operation that moves numbers to places known beforehand, found by moving the numbers of their places."""
    names, values = list(dict.fromkeys(names_in(step))), of.listing.values
    is_index = {name: values[name].dtype == torch.int64 for name in names}
    if step.op not in MOVES or any(is_index[name] and name not in of.listing.constants for name in names):
        raise refused("c", step.op)
    moved, sources = dict(values), []
    for name in names:
        if not is_index[name]:
            each = _each(of.place(name))
            moved[name] = torch.arange(len(sources), len(sources) + len(each)).double().view(values[name].shape)
            sources += each
    args, kwargs = map_arg((step.args, step.kwargs), lambda a: moved[a.name])
    packet, overload = step.op.split(".")
    found = getattr(getattr(torch.ops.aten, packet), overload)(*args, **kwargs).flatten().tolist()
    return [f"{to} = {sources[int(k)]};" for to, k in zip(_each(of.places[step.name]), found, strict=True)]


def _each(place: Place) -> list[str]:
    """Every number of an array in the order of its indices."""
    grid = [0]
    for n, stride in zip(place.shape, place.strides, strict=True):
        grid = [k + i * stride for k in grid for i in range(n)]
    return [f"{place.array}[{k + place.offset}]" for k in grid]


def _product(of: _Writer, step: Step, *args: Any) -> list[str]:
    """Matrix products; of three arguments the first is added."""
    *added, a, b = (of.place(arg.name) for arg in args)
    out = of.places[step.name]
    (*batch, rows, columns), inner = out.shape, a.shape[-1]
    indices, opened = _nest(tuple(out.shape))
    *q, i, j = indices
    start = added[0].at(indices) if added else "0.0"
    first = [f"{opened}{out.at(indices)} = {start};"]
    outer = "".join(
        f"for (int {k} = 0; {k} < {n}; {k}++) " for k, n in zip([*q, i], [*batch, rows], strict=True) if n > 1
    )
    loop = f"{outer}for (int z = 0; z < {inner}; z++) for (int {j} = 0; {j} < {columns}; {j}++) "
    return [*first, f"{loop}{out.at(indices)} += {a.at([*q, i, 'z'])} * {b.at([*q, 'z', j])};"]


def _reduced(start: str, add: str, divide: bool = False):
    """Sums and the like over axes."""

    def loops(of: _Writer, step: Step, x: fx.Node, axes: Any = None, keepdim: bool = False, **_: Any) -> list[str]:
        source, out = of.place(x.name), of.places[step.name]
        rank = len(source.shape)
        axes = range(rank) if axes is None or axes == [] else [axes] if isinstance(axes, int) else axes
        gone = {axis % rank for axis in axes}
        inner, opened = _nest(source.shape)
        kept = [i for axis, i in enumerate(inner) if keepdim or axis not in gone]
        to = out.at([i if not keepdim or inner.index(i) not in gone else "0" for i in kept])
        clear, cleared = _nest(out.shape)
        lines = [f"{cleared}{out.at(clear)} = {start};", f"{opened}{to} = {add.format(to, source.at(inner))};"]
        count = math.prod(source.shape[axis] for axis in gone)
        return [*lines, f"{cleared}{out.at(clear)} /= {count}.0;"] if divide else lines

    return loops


def _cumulative(sign: str):
    """Running sums and products along an axis."""

    def loops(of: _Writer, step: Step, x: fx.Node, axis: int, **_: Any) -> list[str]:
        source, out = of.place(x.name), of.places[step.name]
        indices, opened = _nest(out.shape)
        i = indices[axis]
        before = [f"({k} - 1)" if k == i else k for k in indices]
        further = opened.replace(f"int {i} = 0", f"int {i} = 1")
        rest = [f"{further}{out.at(indices)} = {out.at(before)} {sign} {source.at(indices)};"]
        return [f"{opened}{out.at(indices)} = {source.at(indices)};", *(rest if out.shape[axis] > 1 else [])]

    return loops


def _cat(of: _Writer, step: Step, parts: list[fx.Node], axis: int = 0) -> list[str]:
    out, lines, start = of.places[step.name], [], 0
    axis %= len(out.shape)
    for part in (of.place(node.name) for node in parts):
        if 0 in part.shape:
            continue
        indices, opened = _nest(part.shape)
        moved = Place(out.array, out.offset + start * out.strides[axis], out.strides, part.shape)
        lines.append(f"{opened}{moved.at(indices)} = {part.at(indices)};")
        start += part.shape[axis]
    return lines


def _scatter(of: _Writer, step: Step, x: fx.Node, axis: int, index: fx.Node, values: fx.Node) -> list[str]:
    """x with values written where the index says along an axis."""
    out, given, at, from_ = of.places[step.name], *(of.place(node.name) for node in (x, index, values))
    axis %= len(out.shape)
    copied, opened = _nest(out.shape)
    indices, head = _nest(at.shape)
    terms = [
        f"{i} * {s}"
        for k, (i, s, n) in enumerate(zip(indices, out.strides, at.shape, strict=True))
        if k != axis and n > 1
    ]
    to = " + ".join([*terms, f"(int){at.at(indices)} * {out.strides[axis]}", str(out.offset)])
    return [f"{opened}{out.at(copied)} = {given.at(copied)};", f"{head}{out.array}[{to}] = {from_.at(indices)};"]


LOOPS = {
    "mm.default": _product,
    "bmm.default": _product,
    "addmm.default": _product,
    "sum.dim_IntList": _reduced("0.0", "{0} + {1}"),
    "sum.default": _reduced("0.0", "{0} + {1}"),
    "mean.dim": _reduced("0.0", "{0} + {1}", divide=True),
    "prod.dim_int": _reduced("1.0", "{0} * {1}"),
    "amax.default": _reduced("-INFINITY", "larger({0}, {1})"),
    "amin.default": _reduced("INFINITY", "smaller({0}, {1})"),
    "cumsum.default": _cumulative("+"),
    "cumprod.default": _cumulative("*"),
    "cat.default": _cat,
    "scatter.src": _scatter,
}
MOVES = {
    "slice_scatter.default",
    "select_scatter.default",
    "diagonal_scatter.default",
    "copy.default",
    "index.Tensor",
    "index_put.default",
    "flip.default",
    "roll.default",
    "view.default",
    "_unsafe_view.default",
    "as_strided.default",
    "expand.default",
    "repeat.default",
    "gather.default",
    "unbind.int",
}


def source(
    value: Listing, derivatives: Listing, stem: str, about: str, notes: str, value_doc: str, doc: str, fields: int
) -> str:
    """The file, of the list of the value and that of all derivatives, both for one point."""
    tables: dict[str, str] = {}
    inputs = value.values[value.points].shape[1]
    bodies = [
        _function("u", value, tables, ["value"]),
        _function("u_derivatives", derivatives, tables, ["value", "gradient", "laplacian"]),
    ]
    head = HEAD.format(
        about=about, notes=notes, stem=stem, inputs=inputs, fields=fields, value=value_doc, derivatives=doc
    )
    arrays = [f"static const double {name}{rest};" for rest, name in tables.items()]
    return "\n".join([head, *arrays, "", *bodies])


def _function(name: str, listing: Listing, tables: dict[str, str], results: list[str]) -> str:
    x = listing.values[listing.points]
    of = _Writer(listing, tables)
    of.places[listing.points] = _placed("x", x)
    of.arrays[x.untyped_storage().data_ptr()] = "x", x
    for step in listing.steps:
        if not isinstance(step.value, int):
            of.write(step)
        of.release(step.last)
    for result, out in zip(results, listing.outputs, strict=True):
        place = of.place(out)
        indices, opened = _nest(place.shape)
        to = Place(result, 0, _dense(place.shape), place.shape)
        of.lines.append(f"    {opened}{to.at(indices)} = {place.at(indices)};")
    arrays = [f"    double {array}[{size}];" for array, size in of.sizes.items()]
    sizes = {"value": "N_FIELDS", "gradient": "N_FIELDS * N_INPUTS", "laplacian": "N_FIELDS"}
    parameters = ", ".join(["const double x[N_INPUTS]", *(f"double {key}[{sizes[key]}]" for key in results)])
    return "\n".join([f"void {name}({parameters}) {{", *arrays, *of.lines, "}", ""])
