r"""A KAN taken apart: every edge is a module of its own, which may be exchanged for a formula, or taken out.

.. math:: z^{l+1}_o = b^l_o + \sum_i \phi^l_{io}(z^l_i), \qquad
          \phi_{io}(x) = \sum_c \theta_c b_c(x) \quad\text{or}\quad a f(b x + c)

The d of a f(b x + c) + d is part of the bias b_o: one constant for each node.
"""

import copy
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.interpret.functions import Function, function
from kanpde.jets.jet import Affine
from kanpde.kan.basis import Wavelet
from kanpde.kan.basis.base import Basis, LinearBasis
from kanpde.kan.grids import refined, refit
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import materialize

Edge = tuple[int, int, int]  # layer, input, output


class Activations(NamedTuple):
    """What a layer sees and makes of it at N points."""

    inputs: Tensor  # (N, in)
    edges: Tensor  # (N, in, out): phi_io(x_i), 0 where there is no edge


class Importance(NamedTuple):
    """How much of the deviation of the outputs comes from where; see `EdgeNetwork.importance`."""

    edges: list[Tensor]  # (in, out) of each layer
    nodes: list[Tensor]  # (in,) of each layer, then (out,) of the network


class Numeric(nn.Module):
    """An edge by basis functions of its layer: theta (size,).

    Example:
        >>> Numeric(torch.zeros(9)).theta.shape
        torch.Size([9])
    """

    def __init__(self, theta: Tensor):
        super().__init__()
        self.theta = nn.Parameter(theta)


class Symbolic(nn.Module):
    """An edge a f(b x + c); b and c are trained where f needs them.

    Example:
        >>> Symbolic(function("sin"), 2.0, 1.0, 0.0).extra_repr()
        '2 sin(1 x + 0)'
    """

    def __init__(self, f: Function, a: float, b: float, c: float):
        super().__init__()
        self.function = f
        for name, value in (("a", a), ("b", b), ("c", c)):
            trained = name == "a" or name in f.free
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64), requires_grad=trained))

    def extra_repr(self) -> str:
        return f"{self.a.item():.6g} {self.function.name}({self.b.item():.6g} x + {self.c.item():.6g})"


class EdgeLayer(nn.Module):
    """The edges of a layer, (N, in) -> (N, out), and a bias for each output.

    Args:
        basis: of the numeric edges; its own parameters are not trained.
        theta: (in, size, out), the weights of all edges.
        bias: (out,).
        norm: a LayerNorm before the basis functions; the base function sees x itself.
    """

    def __init__(self, basis: Basis, theta: Tensor, bias: Tensor, norm: nn.Module | None = None):
        super().__init__()
        self.basis, self.norm, self.bias = basis.requires_grad_(False), norm, nn.Parameter(bias)
        if norm is not None:
            norm.requires_grad_(False)
        self.in_features, _, self.out_features = theta.shape
        pairs = [(i, o) for i in range(self.in_features) for o in range(self.out_features)]
        self.edges = nn.ModuleDict({f"{i}_{o}": Numeric(theta[i, :, o].clone()) for i, o in pairs})

    def edge(self, i: int, o: int) -> Numeric | Symbolic | None:
        """The edge from input i to output o; None where it was taken out."""
        key = f"{i}_{o}"
        return self.edges[key] if key in self.edges else None

    def present(self) -> Iterator[tuple[int, int, nn.Module]]:
        """(i, o, edge) of the edges there are."""
        for key, edge in self.edges.items():
            i, o = key.split("_")
            yield int(i), int(o), edge

    def forward(self, x: Tensor) -> Tensor:
        return self.activations(x).sum(1) + self.bias

    def activations(self, x: Tensor) -> Tensor:
        """phi_io(x_i), (N, in, out)."""
        groups: dict[str, list[tuple[int, int, nn.Module]]] = {}
        for i, o, edge in self.present():
            groups.setdefault(edge.function.name if isinstance(edge, Symbolic) else "", []).append((i, o, edge))
        out = x.new_zeros(len(x), self.in_features * self.out_features)
        for name, group in groups.items():
            inputs, outputs, edges = zip(*group, strict=True)
            values = _symbolic(function(name), x[:, inputs], edges) if name else self._numeric(x, inputs, edges)
            places = torch.tensor(inputs) * self.out_features + torch.tensor(outputs)
            out = out.index_copy(1, places.to(x.device), values)
        return out.unflatten(1, (self.in_features, self.out_features))

    def _numeric(self, x: Tensor, inputs: tuple[int, ...], edges: tuple[Numeric, ...]) -> Tensor:
        """Values (N, E) of edges from these inputs."""
        theta = torch.stack([edge.theta for edge in edges], -2)  # (E, size), or one for each point
        return self.basis.each(x, theta, inputs, None if self.norm is None else self.norm(x))


def _symbolic(f: Function, x: Tensor, edges: tuple[Symbolic, ...]) -> Tensor:
    a, b, c = (torch.stack([getattr(edge, name) for edge in edges], -1) for name in "abc")
    return a * f.torch(b * x + c)


class EdgeNetwork(nn.Module):
    """A KAN taken apart, x (N, d) -> (N, out) in float64; see the module.

    Example:
        >>> from kanpde import backbones
        >>> network = EdgeNetwork.of(backbones.build("kan", 2, widths=[3]))
        >>> network.widths, len(list(network.edges()))
        ((2, 3, 1), 9)
    """

    def __init__(self, layers: list[EdgeLayer], before: Affine, after: Affine):
        super().__init__()
        self.layers, self.before, self.after = nn.ModuleList(layers), before, after

    @classmethod
    def of(cls, net: nn.Module) -> "EdgeNetwork":
        """The parts of a KAN, copied in float64; it may stand between two `Affine` maps.

        Args:
            net: a Sequential of KANLinear layers with any weights, or one such layer.
        Raises:
            ConfigError: a module that is not such a network, named.
        """
        parts = list(materialize(net).double()) if isinstance(net, nn.Sequential) else [materialize(net).double()]
        before = parts.pop(0) if parts and isinstance(parts[0], Affine) else None
        after = parts.pop() if parts and isinstance(parts[-1], Affine) else None
        other = [part for part in parts if not _is_known(part)]
        if other or not parts:
            found = type(other[0]).__name__ if other else "no layer"
            raise ConfigError(
                f"a KAN taken apart is a Sequential of KANLinear layers between Affine maps, given {found}"
            )
        return cls([_taken_apart(layer) for layer in parts], before or _unit(), after or _unit())

    @property
    def widths(self) -> tuple[int, ...]:
        return (*(layer.in_features for layer in self.layers), self.layers[-1].out_features)

    def forward(self, x: Tensor) -> Tensor:
        z = self.before(x.double())
        for layer in self.layers:
            z = layer(z)
        return self.after(z)

    def copy(self) -> "EdgeNetwork":
        return copy.deepcopy(self)

    def edges(self) -> Iterator[tuple[Edge, Numeric | Symbolic]]:
        """((layer, i, o), edge) of all edges there are."""
        for number, layer in enumerate(self.layers):
            for i, o, edge in layer.present():
                yield (number, i, o), edge

    def is_symbolic(self) -> bool:
        return all(isinstance(edge, Symbolic) for _, edge in self.edges())

    @torch.no_grad()
    def refine(self, grid_size: int) -> None:
        """Grids of B-splines with so many intervals for the numeric edges, which stay the functions they are."""
        for layer in self.layers:
            finer = refined(layer.basis, grid_size)
            step = refit(layer.basis, finer)[0]
            layer.basis = finer.requires_grad_(False)
            for _, _, edge in layer.present():
                if isinstance(edge, Numeric):
                    edge.theta = nn.Parameter(step @ edge.theta)

    def remove(self, edge: Edge, mean: float | Tensor = 0.0) -> None:
        """Take an edge out; `mean` of its values stays as a constant of the node it led to."""
        number, i, o = edge
        layer = self.layers[number]
        del layer.edges[f"{i}_{o}"]
        with torch.no_grad():
            layer.bias[o] += mean

    def put(self, edge: Edge, f: Function, a: float, b: float, c: float, d: float) -> None:
        """Exchange an edge, or add one, for a f(b x + c) + d, its d added to the node; f = 0 takes it out."""
        number, i, o = edge
        if self.layers[number].edge(i, o) is not None:
            self.remove(edge, d)
        if f.name != "0":
            self.layers[number].edges[f"{i}_{o}"] = Symbolic(f, a, b, c)

    @torch.no_grad()
    def activations(self, x: Tensor) -> list[Activations]:
        """Inputs and values of the edges of each layer at x (N, d)."""
        z, found = self.before(x.double()), []
        for layer in self.layers:
            found.append(Activations(z, layer.activations(z)))
            z = found[-1].edges.sum(1) + layer.bias
        return found

    def importance(self, x: Tensor) -> Importance:
        r"""Scores from the outputs (1 each) back to the inputs, from standard deviations over the points x.

        .. math:: E^l_{io} = A^{l+1}_o\, \frac{\sigma(\phi^l_{io})}{\sigma(\sum_j \phi^l_{jo})}, \qquad
                  A^l_i = \sum_o E^l_{io}

        An edge that does not reach an output, or does not vary, has score 0.
        Source: attribution scores of pykan 2.0 (Liu et al. 2024, arXiv 2408.10205, section 4.3).
        """
        nodes, edges = [x.new_ones(self.widths[-1], dtype=torch.float64)], []
        for seen in reversed(self.activations(x)):
            deviation, of_sum = seen.edges.std(0), seen.edges.sum(1).std(0)
            share = torch.where(of_sum > 0, deviation / of_sum, 0.0)
            edges.insert(0, share * nodes[0])
            nodes.insert(0, edges[0].sum(1))
        return Importance(edges, nodes)


def _is_known(part: nn.Module) -> bool:
    return isinstance(part, KANLinear) and isinstance(part.basis, LinearBasis | Wavelet)


def _taken_apart(layer: KANLinear) -> EdgeLayer:
    theta = layer.weights.theta.detach()
    with torch.no_grad():
        constant = layer.shifted(theta.new_zeros(1, layer.out_features), theta.new_zeros(1, layer.in_features))[0]
    return EdgeLayer(layer.basis, theta, constant.clone(), layer.norm)


def _unit() -> Affine:
    """y = x."""
    return Affine(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
