r"""A KAN taken apart: every edge is a module of its own, which may be exchanged for a formula, or taken out.

.. math:: z^{l+1}_o = b^l_o + \sum_i \phi^l_{io}(z^l_i), \qquad
          \phi_{io}(x) = \sum_c \theta_c b_c(x) \quad\text{or}\quad a f(b x + c)

The d of a f(b x + c) + d is part of the bias b_o: one constant for each node.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kanpde.ground.errors import ConfigError
from kanpde.interpret.edges import Activations, EdgeConv, EdgeLayer, Numeric, Symbolic
from kanpde.interpret.functions import Function
from kanpde.jets.jet import Affine
from kanpde.kan.basis import Legendre, Wavelet
from kanpde.kan.basis.base import LinearBasis
from kanpde.kan.conv import KANConv2d
from kanpde.kan.grids import refined, refit
from kanpde.kan.layers import KANLinear
from kanpde.kan.weights import materialize

Edge = tuple[int, int, int]  # layer, input, output
CHANNELWISE = (  # what may stand between the layers of a KAN of images: what mixes no channels
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.Dropout, nn.Dropout2d, nn.Identity, nn.Flatten),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(nn.ReLU, nn.PReLU, nn.SiLU, nn.GELU, nn.Tanh),
)


class Importance(NamedTuple):
    """How much of the deviation of the outputs comes from where; see `EdgeNetwork.importance`."""

    edges: list[Tensor]  # (in, out) of each layer
    nodes: list[Tensor]  # (in,) of each layer, of a convolution of its channels, then (out,) of the network


class EdgeNetwork(nn.Module):
    """A KAN taken apart, x (N, d) or images (N, channels, H, W) -> (N, out) in float64; see the module.

    Args:
        between: what stands before each of the layers and after the last, and is not trained; default nothing.

    Example:
        >>> from kanpde import backbones
        >>> network = EdgeNetwork.of(backbones.build("kan", 2, widths=[3]))
        >>> network.widths, len(list(network.edges()))
        ((2, 3, 1), 9)
    """

    def __init__(self, layers: list[EdgeLayer], before: Affine, after: Affine, between: Sequence[nn.Module] = ()):
        super().__init__()
        self.layers, self.before, self.after = nn.ModuleList(layers), before, after
        self.between = nn.ModuleList(between or [nn.Identity() for _ in range(len(layers) + 1)])
        self.between.eval().requires_grad_(False)

    @classmethod
    def of(cls, net: nn.Module) -> "EdgeNetwork":
        """The parts of a KAN, copied in float64; it may stand between two `Affine` maps.

        Args:
            net: a Sequential of KANLinear layers with any weights, or one such layer; or one with KANConv2d layers of
                one group, and Linear layers, norms of channels, pools and activations between and after them.
        Raises:
            ConfigError: a module that is not such a network, named.
        """
        if any(isinstance(part, KANConv2d) for part in net.modules()):
            layers, between = _of_images(materialize(net).double())
            return cls(layers, _unit(), _unit(), between)
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
        return (*(layer.nodes for layer in self.layers), self.layers[-1].out_features)

    @property
    def axes(self) -> int:
        """Those of the inputs: 2 of points, 4 of images."""
        return 4 if isinstance(self.layers[0], EdgeConv) else 2

    def forward(self, x: Tensor) -> Tensor:
        z = self.before(x.double())
        for step, layer in zip(self.between, self.layers, strict=False):
            z = layer(step(z))
        return self.after(self.between[-1](z))

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
        """Inputs and values of the edges of each layer at x (N, d), of a convolution at all places of all images."""
        z, found = self.before(x.double()), []
        for step, layer in zip(self.between, self.layers, strict=False):
            z = step(z)
            found.append(layer.seen(z))
            z = layer.outputs(found[-1].edges, z)
        return found

    def importance(self, x: Tensor) -> Importance:
        r"""Scores from the outputs (1 each) back to the inputs, from standard deviations over the points x.

        .. math:: E^l_{io} = A^{l+1}_o\, \frac{\sigma(\phi^l_{io})}{\sigma(\sum_j \phi^l_{jo})}, \qquad
                  A^l_i = \sum_o E^l_{io}

        Of images the deviations are over all places too, and a node is a channel: the sum is over its taps or pixels.
        An edge that does not reach an output, or does not vary, has score 0.
        Source: attribution scores of pykan 2.0 (Liu et al. 2024, arXiv 2408.10205, section 4.3).
        """
        nodes, edges = [x.new_ones(self.widths[-1], dtype=torch.float64)], []
        for layer, seen in zip(reversed(self.layers), reversed(self.activations(x)), strict=True):
            deviation, of_sum = seen.edges.std(0), seen.edges.sum(1).std(0)
            share = torch.where(of_sum > 0, deviation / of_sum, 0.0)
            edges.insert(0, share * nodes[0])
            nodes.insert(0, edges[0].sum(1).unflatten(0, (layer.nodes, -1)).sum(1))
        return Importance(edges, nodes)


def _of_images(net: nn.Module) -> tuple[list[EdgeLayer], list[nn.Module]]:
    """The layers of a KAN with convolutions, and what stands before each of them and after the last."""
    layers, between, waiting = [], [], []
    for part in _flat(net):
        if isinstance(part, CHANNELWISE):
            waiting.append(part)
            continue
        layers.append(_layer_of_images(part, layers[-1].out_features if layers else None))
        between.append(nn.Sequential(*waiting))
        waiting = []
    return layers, [*between, nn.Sequential(*waiting)]


def _flat(net: nn.Module) -> Iterator[nn.Module]:
    """The modules of Sequentials within each other."""
    if type(net) is nn.Sequential:
        for part in net:
            yield from _flat(part)
    else:
        yield net


def _layer_of_images(part: nn.Module, channels: int | None) -> EdgeLayer:
    """A layer taken apart, of which the inputs are so many channels, or the pixels of these one after the other."""
    if isinstance(part, KANConv2d) and part.groups == 1 and isinstance(part.basis, LinearBasis | Wavelet):
        return EdgeConv(part)
    if _is_known(part):
        return _taken_apart(part, channels)
    if isinstance(part, nn.Linear):
        line = Legendre(part.in_features, degree=1, base="none", squash="none").double()  # 1 and x
        slope = part.weight.detach().mT
        bias = slope.new_zeros(part.out_features) if part.bias is None else part.bias.detach().clone()
        return EdgeLayer(line, torch.stack([torch.zeros_like(slope), slope], 1), bias, nodes=channels)
    found = f"{part.groups} groups" if isinstance(part, KANConv2d) else type(part).__name__
    needed = "KANConv2d layers of one group, KANLinear and Linear layers, norms of channels, pools and activations"
    raise ConfigError(f"a KAN of images taken apart is a Sequential of {needed}, given {found}")


def _is_known(part: nn.Module) -> bool:
    return isinstance(part, KANLinear) and isinstance(part.basis, LinearBasis | Wavelet)


def _taken_apart(layer: KANLinear, nodes: int | None = None) -> EdgeLayer:
    theta = layer.weights.theta.detach()
    with torch.no_grad():
        constant = layer.shifted(theta.new_zeros(1, layer.out_features), theta.new_zeros(1, layer.in_features))[0]
    return EdgeLayer(layer.basis, theta, constant.clone(), layer.norm, nodes)


def _unit() -> Affine:
    """y = x."""
    return Affine(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
