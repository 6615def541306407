"""A program as a list of operations on arrays, which NumPy and C sources are written from.

What does not depend on the points is computed once, here: weights, grids, centres and identities become constants.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from kanpde.ground.errors import ConfigError


@dataclass(frozen=True)
class Step:
    """An operation of aten, or one on sizes: mul.Tensor, add.

    Attributes:
        name: of the result.
        args, kwargs: names of results as `fx.Node`, numbers, lists of both.
        value: the result at the one point of the example.
        last: names that no later step reads.
    """

    name: str
    op: str
    args: tuple
    kwargs: dict
    value: Any
    last: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Steps in order.

    Attributes:
        points: the name of the input (N, d).
        constants: arrays by name.
        outputs: names of the results.
        values: of all names at the one point of the example.
    """

    points: str
    constants: dict[str, Tensor]
    steps: list[Step]
    outputs: tuple[str, ...]
    values: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, program: torch.export.ExportedProgram, x: Tensor, sizes_are_known: bool) -> "Listing":
        """The program in few kinds of operations.

        Args:
            x: a point (1, d) of the domain.
            sizes_are_known: whether the program is for one point alone, so that what depends on N is constant too.
        """
        module = program.run_decompositions().module()
        values: dict[str, Any] = {}
        constant: set[str] = set()
        steps, points, outputs = [], "", ()
        for node in module.graph.nodes:
            if node.op == "output":
                outputs = tuple(_names(node.args))
                continue
            values[node.name] = value = _value(module, node, values, x)
            if node.op == "placeholder":
                points = node.name
            elif node.op == "get_attr" or _is_constant(node, constant, sizes_are_known):
                constant.add(node.name)
            elif node.users:
                steps.append(Step(node.name, _name(node), node.args, node.kwargs, value))
        read = {name for step in steps for name in names_in(step)} | set(outputs)
        known = {name: values[name] for name in values if name in read & constant}
        return cls(points, known, list(_with_last(steps, {points, *known, *outputs})), outputs, values)


OPERATION = type(torch.ops.aten.add.Tensor)  # the others are Python's, on sizes


def names_in(step: Step) -> list[str]:
    """The names that a step reads."""
    return _names((step.args, step.kwargs))


def _names(arguments: Any) -> list[str]:
    found: list[str] = []
    map_arg(arguments, lambda node: found.append(node.name))
    return found


def _name(node: fx.Node) -> str:
    target = node.target
    return str(target).removeprefix("aten.") if isinstance(target, OPERATION) else target.__name__


def _value(module: fx.GraphModule, node: fx.Node, values: dict, x: Tensor) -> Any:
    if node.op == "placeholder":
        return x
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(module).detach()
    if node.op != "call_function":
        return None
    args, kwargs = map_arg((node.args, node.kwargs), lambda a: values[a.name])
    return node.target(*args, **kwargs)


def _is_constant(node: fx.Node, constant: set[str], sizes_are_known: bool) -> bool:
    if node.op != "call_function":
        return False
    if node.target in (torch.ops.aten.sym_size.int, torch.ops.aten.full_like.default):
        return sizes_are_known
    return all(a.name in constant for a in node.all_input_nodes)


def _with_last(steps: list[Step], kept: set[str]) -> Iterator[Step]:
    """The steps, with the names that are read there for the last time."""
    seen, found = set(kept), []
    for step in reversed(steps):
        last = tuple(dict.fromkeys(name for name in (*names_in(step), step.name) if name not in seen))
        seen.update(last)
        found.append(Step(step.name, step.op, step.args, step.kwargs, step.value, last))
    return reversed(found)


# The elementwise operations, in expressions that NumPy and C read alike ---------------------------------------------

EXPRESSIONS = {
    "abs.default": "fabs({0})",
    "add.Tensor": "{0} + {1}",
    "sub.Tensor": "{0} - {1}",
    "mul.Tensor": "{0} * {1}",
    "div.Tensor": "{0} / {1}",
    "neg.default": "-{0}",
    "reciprocal.default": "1.0 / {0}",
    "square.default": "{0} * {0}",
    "pow.Tensor_Tensor": "pow({0}, {1})",
    "pow.Tensor_Scalar": "pow({0}, {1})",
    "pow.Scalar": "pow({0}, {1})",
    "sqrt.default": "sqrt({0})",
    "rsqrt.default": "1.0 / sqrt({0})",
    "exp.default": "exp({0})",
    "expm1.default": "expm1({0})",
    "log.default": "log({0})",
    "log1p.default": "log1p({0})",
    "sin.default": "sin({0})",
    "cos.default": "cos({0})",
    "tan.default": "tan({0})",
    "sinh.default": "sinh({0})",
    "cosh.default": "cosh({0})",
    "tanh.default": "tanh({0})",
    "asin.default": "asin({0})",
    "acos.default": "acos({0})",
    "atan.default": "atan({0})",
    "atan2.default": "atan2({0}, {1})",
    "sigmoid.default": "sigmoid({0})",
    "erf.default": "erf({0})",
    "floor.default": "floor({0})",
    "ceil.default": "ceil({0})",
    "round.default": "rint({0})",
    "trunc.default": "trunc({0})",
    "sign.default": "sign({0})",
    "relu.default": "larger({0}, 0.0)",
    "maximum.default": "larger({0}, {1})",
    "minimum.default": "smaller({0}, {1})",
    "where.self": "choose({0}, {1}, {2})",
    "logical_and.default": "both({0}, {1})",
    "bitwise_and.Tensor": "both({0}, {1})",
    "logical_or.default": "either({0}, {1})",
    "bitwise_or.Tensor": "either({0}, {1})",
    "logical_not.default": "choose({0}, 0.0, 1.0)",
    "bitwise_not.default": "choose({0}, 0.0, 1.0)",
    "isfinite.default": "isfinite({0})",
    "isnan.default": "isnan({0})",
    "clone.default": "{0}",
    "alias.default": "{0}",
    "lift_fresh_copy.default": "{0}",
    "scalar_tensor.default": "{0}",
} | {
    f"{name}.{kind}": f"{{0}} {sign} {{1}}"
    for name, sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items()
    for kind in ("Tensor", "Scalar")
}
FEW = 4  # factors into which a power is written out


def expression(step: Step, args: list[str]) -> str | None:
    """An elementwise operation on arguments that are written out; None: it is not one.

    Of whole numbers that come of rounding down the integral part alone is left.
    """
    if step.op == "pow.Tensor_Scalar" and step.args[1] in range(2, FEW + 1):
        return " * ".join([args[0]] * int(step.args[1]))
    if step.op == "clamp.default":
        low, high = [*args[1:], "None", "None"][:2]
        found = args[0] if low == "None" else f"larger({args[0]}, {low})"
        return found if high == "None" else f"smaller({found}, {high})"
    if step.op == "_to_copy.default":
        return args[0] if step.value.is_floating_point() else f"trunc({args[0]})"
    if "alpha" in step.kwargs:
        args = [args[0], f"{number(step.kwargs['alpha'])} * {args[1]}"]
    return EXPRESSIONS[step.op].format(*args) if step.op in EXPRESSIONS else None


def number(value: Any) -> str:
    """A number as both languages read it."""
    if isinstance(value, bool | int | float):
        return repr(float(value)).replace("inf", "INFINITY").replace("nan", "NAN")
    return repr(value)


def refused(style: str, op: str) -> ConfigError:
    return ConfigError(f"--format {style}: the function needs {op}, which that format has no rule for; torch has")
