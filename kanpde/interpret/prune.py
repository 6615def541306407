"""Nodes and edges that the outputs hardly depend on are taken out, their means kept, and the rest fitted again."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from kanpde.interpret.fitting import Step, Tolerance, error, fit, sample
from kanpde.interpret.network import Edge, EdgeNetwork

TOLERANCE = Tolerance(relative=1.5, absolute=1e-6)


class Part(NamedTuple):
    """What may be taken out: its name, its edges, and the score that says how little it matters."""

    name: str
    edges: tuple[Edge, ...]
    score: float


def prune(
    network: EdgeNetwork,
    x: Tensor,
    y: Tensor,
    *,
    node_threshold: float = 1e-2,
    edge_threshold: float = 3e-2,
    tolerance: Tolerance = TOLERANCE,
    steps: int = 20,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[EdgeNetwork, list[Step]]:
    """A copy without the nodes, then without the edges, whose importance is below the threshold; and the steps.

    All that is below is taken out at once, each edge leaving its mean value in the node that it led to, and the rest is
    fitted again. Where the tolerance does not allow the error, this is undone, and the halves are tried by themselves,
    down to single nodes or edges. Importance is that of the network as it is by then.

    Args:
        x, y: a sample, (N, d), or images (N, channels, H, W), and (N, out) or (N,).
        node_threshold, edge_threshold: of the scores of `EdgeNetwork.importance`, where an output has 1; 0 keeps all.
        tolerance: an error above it undoes a step.
        steps: of each fit; 0 leaves the rest as it is, for networks whose Jacobian is large.
        stop: asked before each step; nothing is taken out while it is True.
    Raises:
        ConfigError: shapes that do not fit.
    """
    x, y = sample(network, x, y)
    pruned, pruning = network.copy(), _Pruning(x, y, tolerance, steps, stop, error(network, x, y))
    for parts, threshold in ((_nodes, node_threshold), (_edges, edge_threshold)):
        tried: set[str] = set()
        while weak := [p for p in parts(pruned, x) if p.score < threshold and p.name not in tried]:
            tried.update(part.name for part in weak)
            pruned = pruning.without(pruned, sorted(weak, key=lambda p: p.score))
    return pruned, pruning.said


@dataclass
class _Pruning:
    """What the steps have in common; see `prune`."""

    x: Tensor
    y: Tensor
    tolerance: Tolerance
    steps: int
    stop: Callable[[], bool]
    smallest: float  # error so far
    said: list[Step] = field(default_factory=list)

    def without(self, network: EdgeNetwork, parts: list[Part]) -> EdgeNetwork:
        """The network without these parts, or without those of them that can be spared."""
        present = [edge for edge, _ in network.edges()]
        parts = [part for part in parts if set(present) & set(part.edges)]  # others went with what was taken out before
        if not parts or self.stop():
            return network
        trial, before = network.copy(), error(network, self.x, self.y)
        cut(trial, [edge for edge in present if any(edge in part.edges for part in parts)], self.x)
        after = fit(trial, self.x, self.y, self.steps)
        kept = self.tolerance.allows(after, self.smallest)
        self.said.append(Step("without " + ", ".join(part.name for part in parts), before, after, kept))
        self.smallest = min(self.smallest, after)
        if kept:
            return trial
        if len(parts) > 1:
            for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]):
                network = self.without(network, half)
        return network


@torch.no_grad()
def cut(network: EdgeNetwork, edges: list[Edge], x: Tensor) -> None:
    """Take edges out, their means over x (N, d) left in the nodes they led to, and what then hangs in the air.

    A hidden node that leads nowhere loses the edges into it; one that nothing leads to is a constant, and so are the
    edges from it, unless they see a border of images. Neither changes the function.
    """
    while edges:
        means = [seen.edges.mean(0) for seen in network.activations(x)]
        for number, i, o in edges:
            network.remove((number, i, o), means[number][i, o])
        edges = list(_loose(network))


def _loose(network: EdgeNetwork) -> Iterator[Edge]:
    present = [edge for edge, _ in network.edges()]
    start = lambda edge: (edge[0], network.layers[edge[0]].node(edge[1]))
    last = len(network.layers) - 1
    leads = {start(edge) for edge in present} | {(last + 1, o) for o in range(network.widths[-1])}
    led_to = {(number + 1, o) for number, _, o in present} | {(0, i) for i in range(network.widths[0])}
    for edge in present:
        number, _, o = edge
        constant = start(edge) not in led_to and not network.layers[number].pads
        if (number + 1, o) not in leads or constant:
            yield edge


def _nodes(network: EdgeNetwork, x: Tensor) -> Iterator[Part]:
    """Inputs and hidden nodes that have edges, each with the edges at it."""
    present = [edge for edge, _ in network.edges()]
    ends = lambda e: ((e[0], network.layers[e[0]].node(e[1])), (e[0] + 1, e[2]))
    for number, scores in enumerate(network.importance(x).nodes[:-1]):
        for i, value in enumerate(scores.tolist()):
            at = tuple(e for e in present if (number, i) in ends(e))
            if at:
                yield Part(f"node {i} of layer {number}", at, value)


def _edges(network: EdgeNetwork, x: Tensor) -> Iterator[Part]:
    scores = network.importance(x).edges
    for edge, _ in network.edges():
        number, i, o = edge
        name = f"edge {network.layers[number].name(i)} -> {o} of layer {number}"
        yield Part(name, (edge,), scores[number][i, o].item())
