"""Networks, exact operators and domains of kanpde in a program that is written for PINA.

`Network(kanpde.backbones.build("kan", 2), ["x", "y"])` is a model for its solvers, and `laplacian(u, x)` stands for
`pina.operator.laplacian(u, x)` in an Equation.

PINA sorts the names of variables as text, x1, x10, x11, x2: the columns of its points are not in the order of a
problem with ten variables or more. Here columns are taken by name, and come out in the order that is given.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from kanpde.adapters.derivatives import InputTransform, OutputTransform
from kanpde.adapters.packages import Held, derivatives_of, imported, made_as
from kanpde.domains import Box, Domain, Ellipsoid, Polygon
from kanpde.ground.errors import ConfigError, suggest

# ---------------------------------------------------------------------------------------------------------------
# The network


def columns(x: Any, variables: Sequence[str]) -> Tensor:
    """Points of PINA's as a plain tensor (N, d), its columns in the order of the variables.

    Raises:
        ConfigError: points without labels, or a variable that is none of them.
    """
    labels = getattr(x, "labels", None)
    if labels is None:
        raise ConfigError(f"given points without labels, needed is a LabelTensor with {', '.join(variables)}")
    if unknown := [name for name in variables if name not in labels]:
        raise ConfigError(suggest("variable", unknown[0], labels))
    return x.extract(list(variables)).as_subclass(Tensor)


class Network(nn.Module):
    """A backbone of kanpde as a model for PINA's solvers: points by names in, outputs by numbers out.

    PINA gives the outputs the names of its problem. The operators of this module see through both transforms, which
    get plain tensors with columns in the order of `variables`.

    Args:
        module: (N, d) -> (N, n), of modules with jet rules: any that `kanpde.backbones.build` gives.
        variables: the names of its inputs, in their order; not sorted.
        input_transform, output_transform: as those of `kanpde.adapters.Derivatives`, such as a hard constraint.
    Raises:
        ConfigError: PINA is not installed, or a name stands twice.

    Example, which tests/test_adapters_pina.py runs where PINA is installed:
        >>> from kanpde import backbones
        >>> net = Network(backbones.build("kan", 2), ["x", "t"])  # doctest: +SKIP
    """

    def __init__(
        self,
        module: nn.Module,
        variables: Sequence[str],
        input_transform: InputTransform | None = None,
        output_transform: OutputTransform | None = None,
    ) -> None:
        super().__init__()
        self.module, self.variables = module, list(variables)
        if len(set(self.variables)) < len(self.variables):
            raise ConfigError(f"variables: given {', '.join(self.variables)}, needed is each name once")
        self.input_transform, self.output_transform = input_transform, output_transform
        _kind()

    def forward(self, x: Any) -> Any:
        u = Held(self.module, columns(x, self.variables), self.input_transform, self.output_transform)
        found = u.output(_kind())
        found.variables = self.variables
        return found


@cache
def _kind() -> type[Tensor]:
    """The class of the outputs; PINA, which it derives from, is imported by the first network."""
    label_tensor = imported("pina", "pina").LabelTensor

    class Output(label_tensor):
        """A LabelTensor that stays the object it is when a solver makes it a LabelTensor to give it labels."""

        def as_subclass(self, cls: type) -> Any:
            return self if cls is label_tensor else super().as_subclass(cls)

    return Output


# ---------------------------------------------------------------------------------------------------------------
# Operators, with the arguments of pina.operator


def grad(output_: Any, input_: Any, components: Any = None, d: Any = None) -> Any:
    """du_k / dx_i, (N, components times d) with PINA's labels dudx, ..., exact; raises as `laplacian`."""
    u, outputs, axes, components, d = _asked(output_, input_, components, d, "grad")
    found = u.gradient(axes)[:, outputs].flatten(1)
    return imported("pina", "pina").LabelTensor(found, [f"d{c}d{i}" for c in components for i in d])


def laplacian(output_: Any, input_: Any, components: Any = None, d: Any = None) -> Any:
    """sum_i d^2 u_k / dx_i^2 over the variables d, (N, components) with PINA's labels ddu, ..., by one forward jet.

    Args:
        output_: what the solver made of a `Network`, whole.
        input_: the points that it was computed at.
        components: names of outputs; None: all.
        d: names of variables; None: all.
    Raises:
        ConfigError: another output, other points, or a name that is none of theirs.
    """
    u, outputs, axes, components, _ = _asked(output_, input_, components, d, "laplacian")
    return imported("pina", "pina").LabelTensor(u.laplacian(axes)[:, outputs], [f"dd{c}" for c in components])


def _asked(output: Any, points: Any, components: Any, d: Any, operator: str) -> tuple:
    """The derivatives, and of outputs and variables the places and names."""
    u = derivatives_of(output, operator)
    known, labels = output.variables, getattr(output, "labels", None)
    if labels is None:
        raise ConfigError(f"{operator}: given an output without names, which a solver gives to what a network returns")
    listed = lambda names, every: list(every if names is None else [names] if isinstance(names, str) else names)
    components, d = listed(components, labels), listed(d, known)
    if not torch.equal(columns(points, known), u.given):
        raise ConfigError(f"{operator}: given other points than those that the output was computed at")
    places = [_place(name, labels, f"component of {operator}") for name in components]
    return u, places, [_place(name, known, f"variable of {operator}") for name in d], components, d


def _place(name: str, names: Sequence[str], kind: str) -> int:
    if name not in names:
        raise ConfigError(suggest(kind, name, names))
    return list(names).index(name)


# ---------------------------------------------------------------------------------------------------------------
# Domains


def domain(shape: Any, variables: Sequence[str]) -> Domain:
    """A domain of PINA as one of kanpde, its coordinates in the order of the variables.

    Raises:
        ConfigError: one that is none of those in `DOMAINS`, other variables, one of them fixed, or of a simplex more
            than two.
    """
    if sorted(variables) != sorted(shape.variables):
        raise ConfigError(f"domain: given the variables {', '.join(variables)}, it has {', '.join(shape.variables)}")
    return made_as(DOMAINS, shape, "PINA")(shape, list(variables))


def _sides(shape: Any, variables: list[str]) -> list[tuple[float, float]]:
    if shape.fixed:
        raise ConfigError(f"domain: {', '.join(shape.fixed)} is fixed: kanpde draws the boundary of the whole domain")
    return [shape.range[name] for name in variables]


def _box(shape: Any, variables: list[str]) -> Domain:
    low, high = zip(*_sides(shape, variables), strict=True)
    return Box(len(variables), low, high)


def _ellipsoid(shape: Any, variables: list[str]) -> Domain:
    sides = _sides(shape, variables)
    return Ellipsoid(tuple((high - low) / 2 for low, high in sides), tuple((low + high) / 2 for low, high in sides))


def _triangle(shape: Any, variables: list[str]) -> Domain:
    if len(variables) != 2:
        raise ConfigError(f"domain: given a simplex of {len(variables)} variables, needed are 2")
    return Polygon(tuple(map(tuple, columns(shape.vert_matrix, variables).tolist())))


def _combined(how: str) -> Any:
    def made(shape: Any, variables: list[str]) -> Domain:
        parts = [domain(part, variables) for part in shape.geometries]
        found = parts[0]
        for part in parts[1:]:
            found = getattr(found, how)(part)
        return found

    return made


DOMAINS = {
    "CartesianDomain": _box,
    "EllipsoidDomain": _ellipsoid,
    "SimplexDomain": _triangle,
    "Union": _combined("__or__"),
    "Intersection": _combined("__and__"),
    "Difference": _combined("__sub__"),
}
