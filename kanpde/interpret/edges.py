"""The edges of a layer, each a module of its own: of a linear layer of a KAN, and of a convolution of images."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from kanpde.interpret.functions import Function, function
from kanpde.kan.basis.base import Basis
from kanpde.kan.conv import KANConv2d


class Activations(NamedTuple):
    """What a layer sees and makes of it at M points, of a convolution at every place of N images."""

    inputs: Tensor  # (M, in)
    edges: Tensor  # (M, in, out): phi_io(x_i), 0 where there is no edge


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
        nodes: where several inputs are of one node, such as the pixels of a channel, how many of these there are; the
            inputs of a node are one after the other.
    """

    pads = False  # whether an edge from a constant may vary

    def __init__(
        self, basis: Basis, theta: Tensor, bias: Tensor, norm: nn.Module | None = None, nodes: int | None = None
    ):
        super().__init__()
        self.basis, self.norm, self.bias = basis.requires_grad_(False), norm, nn.Parameter(bias)
        if norm is not None:
            norm.eval().requires_grad_(False)
        self.in_features, _, self.out_features = theta.shape
        self.nodes = self.in_features if nodes is None else nodes
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

    def node(self, i: int) -> int:
        """The node that an input is of."""
        return i * self.nodes // self.in_features

    def name(self, i: int) -> str:
        """What an input is called in a report."""
        each = self.in_features // self.nodes
        return str(i) if each == 1 else f"{i // each} at {i % each}"

    def forward(self, z: Tensor) -> Tensor:
        return self.outputs(self.seen(z).edges, z)

    def outputs(self, edges: Tensor, z: Tensor) -> Tensor:
        """What the layer makes of z, of whose edges (M, in, out) these are the values."""
        return edges.sum(1) + self.bias

    def seen(self, z: Tensor) -> Activations:
        """What the edges see of z (N, in), and phi_io(x_i), (N, in, out)."""
        return Activations(z, self._values(z, None if self.norm is None else self.norm(z)))

    def _values(self, x: Tensor, normed: Tensor | None) -> Tensor:
        """phi_io(x_i), (M, in, out)."""
        groups: dict[str, list[tuple[int, int, nn.Module]]] = {}
        for i, o, edge in self.present():
            groups.setdefault(edge.function.name if isinstance(edge, Symbolic) else "", []).append((i, o, edge))
        out = x.new_zeros(len(x), self.in_features * self.out_features)
        for name, group in groups.items():
            inputs, outputs, edges = zip(*group, strict=True)
            own = _symbolic(function(name), x[:, inputs], edges) if name else self._numeric(x, normed, inputs, edges)
            places = torch.tensor(inputs) * self.out_features + torch.tensor(outputs)
            out = out.index_copy(1, places.to(x.device), own)
        return out.unflatten(1, (self.in_features, self.out_features))

    def _numeric(self, x: Tensor, normed: Tensor | None, inputs: tuple[int, ...], edges: tuple[Numeric, ...]) -> Tensor:
        """Values (M, E) of edges from these inputs."""
        return self.basis.each(x, _stacked([edge.theta for edge in edges], -2, len(x)), inputs, normed)


class EdgeConv(EdgeLayer):
    """The edges of a convolution, (N, in, H, W) -> (N, out, H', W'): a node is a channel, an input a tap of one.

    Where a tap falls outside the image its edge is 0.

    Args:
        conv: with weights that are free, and one group.
    """

    def __init__(self, conv: KANConv2d):
        theta, bias = conv.weights.theta.detach(), conv.bias
        bias = theta.new_zeros(conv.out_channels) if bias is None else bias.detach().clone()
        super().__init__(conv.basis, theta, bias, conv.norm, conv.in_channels)
        self.window = {name: getattr(conv, name) for name in ("kernel_size", "dilation", "padding", "stride")}
        self.pads = any(conv.padding)

    @property
    def taps(self) -> int:
        """How many there are of a channel."""
        return self.in_features // self.nodes

    def name(self, i: int) -> str:
        row, column = divmod(i % self.taps, self.window["kernel_size"][1])
        return f"{self.node(i)} at ({row}, {column})"

    def outputs(self, edges: Tensor, z: Tensor) -> Tensor:
        y = edges.sum(1).unflatten(0, (len(z), -1)) + self.bias.unsqueeze(-2)
        return y.mT.unflatten(2, self._size(z))

    def seen(self, z: Tensor) -> Activations:
        """What the taps see of images, 0 outside, and phi_io(x_i); M is the number of images times that of places."""
        x = self._patches(z)
        values = self._values(x, None if self.norm is None else self._patches(self.norm(z)))
        inside = self._patches(torch.ones_like(z[:1]))
        return Activations(x, values * inside.repeat(len(z), 1).unsqueeze(-1))

    def _patches(self, z: Tensor) -> Tensor:
        return unfold(z, **self.window).mT.flatten(0, 1)

    def _size(self, z: Tensor) -> tuple[int, int]:
        sides = zip(z.shape[2:], *self.window.values(), strict=True)
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, d, p, s in sides)
        return height, width

    def _numeric(self, x: Tensor, normed: Tensor | None, inputs: tuple[int, ...], edges: tuple[Numeric, ...]) -> Tensor:
        """Tap by tap, each of which sees every channel."""
        every, values, order = range(len(edges)), [], []
        for tap in range(self.taps):
            if mine := [k for k in every if inputs[k] % self.taps == tap]:
                at = lambda t, tap=tap: None if t is None else t[:, tap :: self.taps]
                own, channels = tuple(edges[k] for k in mine), tuple(self.node(inputs[k]) for k in mine)
                values.append(super()._numeric(at(x), at(normed), channels, own))
                order += mine
        return torch.cat(values, 1)[:, torch.tensor(order, device=x.device).argsort()]


def _stacked(each: list[Tensor], axis: int, points: int) -> Tensor:
    """Numbers of edges side by side; of those that an image has for itself, as often as it has places."""
    found, single = torch.stack(each, axis), -axis
    return found if found.ndim == single or len(found) == points else found.repeat_interleave(points // len(found), 0)


def _symbolic(f: Function, x: Tensor, edges: tuple[Symbolic, ...]) -> Tensor:
    a, b, c = (_stacked([getattr(edge, name) for edge in edges], -1, len(x)) for name in "abc")
    return a * f.torch(b * x + c)
