"""A KAN drawn as a graph: every edge shows its function, every node adds up the edges that end in it."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Edge = tuple[int, int]  # (input, output) of a layer

WIDTH, LAYER_WIDTH = 7.0, 1.7  # of a figure, and what a layer takes at least, in inches as all lengths here
HEIGHT = 5.2  # of the functions of the fullest layer, where their pitch is within the limits
PITCH = (0.24, 0.55)  # from one function to the next: limits
LARGER = 1.6  # pitch of a layer with few functions over that of the fullest one, at most
FILL, ASPECT = 0.8, 1.5  # of a picture: height over pitch, width over height
GAP, ALL_GAPS = 0.7, 4.0  # between the functions of two nodes, and of all nodes, at most, over the pitch
EMPTY = 0.85  # a node without functions takes, over the pitch
MARGIN = 0.16
NODE, DOT = 0.085, 0.04  # radius of a sum and of an input
TEXT = 0.05  # between a text and its neighbour

CURVE, FORMULA, LINE = "C0", "C3", "0.25"  # colours
NAME_SIZE, LABEL_SIZE, NOTE_SIZE = 10, 7.5, 7.5
POINTS = 200  # to a curve
FLAT = 1e-3  # a function that varies less, beside the largest of its layer, is drawn flat
LONGEST = 24  # letters of a name

GREEK = "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|phi|chi|psi|omega"


@dataclass(frozen=True)
class EdgePictures:
    """What a picture shows of a layer with the functions phi_io.

    Attributes:
        x: (in, n), points of each input, in any order, n at least 1.
        y: (in, n, out), phi_io(x_i) at these points.
        importance: (in, out), not negative; compared within the layer.
        labels: (i, o) -> name of the formula that the edge has become, such as sin or x^2.
        removed: (in, out) bool, edges that are gone; by default none.
    Raises:
        ValueError: shapes that do not belong together, numbers that are not finite, negative importance, or a label of
            an edge that does not exist.

    Example:
        >>> EdgePictures(np.zeros((2, 5)), np.zeros((2, 5, 1)), np.ones((2, 1)), {(0, 0): "sin"}).labels
        {(0, 0): 'sin'}
    """

    x: np.ndarray
    y: np.ndarray
    importance: np.ndarray
    labels: dict[Edge, str] = field(default_factory=dict)
    removed: np.ndarray | None = None

    def __post_init__(self):
        if np.ndim(self.y) != 3 or not np.size(self.y) or np.shape(self.x) != np.shape(self.y)[:2]:
            raise ValueError(f"x is (in, n) and y (in, n, out), given {np.shape(self.x)} and {np.shape(self.y)}")
        removed = np.zeros(self.shape) if self.removed is None else self.removed
        object.__setattr__(self, "removed", np.asarray(removed, dtype=bool))
        for name in ("importance", "removed"):
            if np.shape(getattr(self, name)) != self.shape:
                raise ValueError(f"{name} is {self.shape} as y says, given {np.shape(getattr(self, name))}")
        given = (self.x, self.y, self.importance)
        if not all(np.isfinite(values).all() for values in given) or (self.importance < 0).any():
            raise ValueError("x, y and importance are finite and importance is not negative, given others")
        if wrong := self.labels.keys() - set(np.ndindex(self.shape)):
            raise ValueError(f"label of the edge {min(wrong)}, but y has {self.shape} inputs and outputs")

    @property
    def shape(self) -> Edge:
        """(in, out)"""
        return self.y.shape[0], self.y.shape[2]


def network_graph(
    layers: Sequence[EdgePictures],
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    title: str | None = None,
    most: int = 30,
) -> "Figure":
    """The network from left to right: inputs, then per layer its functions, grouped by the node that adds them up.

    Every function fills its frame: its size is told by the lines through it, which are the stronger the larger its
    importance beside the largest of the layer. Functions that have become a formula have another colour and its name.
    Hidden nodes without any edge are left out, inputs without one are pale. Of a layer with more than `most` functions
    the most important ones are drawn, first those that lead to nodes that are drawn, and a note says so.

    Args:
        layers: first layer first.
        input_names, output_names: by default x_1, x_2, ... and y (or y_1, y_2, ...).
    Raises:
        ValueError: no layer, sizes of layers or numbers of names that do not fit, or `most` below 1.
    """
    from matplotlib.figure import Figure

    names = _names(layers, input_names, output_names)
    if most < 1:
        raise ValueError(f"most is the number of functions drawn of a layer, at least 1, given {most}")
    edges = _chosen(layers, most)
    shown, note = _shown_nodes(layers, edges, most), _note(layers, edges)
    plan = _Plan(layers, edges, shown, names, bool(title), bool(note))
    figure = Figure(figsize=(plan.width, plan.height))
    canvas = figure.add_axes((0, 0, 1, 1), label="lines", xlim=(0, plan.width), ylim=(0, plan.height))
    canvas.set_axis_off()
    for number, layer in enumerate(layers):
        _draw_layer(canvas, plan, number, layer)
    _draw_nodes(canvas, plan, names)
    if title:
        canvas.text(plan.width / 2, plan.height - MARGIN, title, ha="center", va="top", fontsize=12)
    if note:
        canvas.text(plan.width / 2, MARGIN, note, ha="center", va="bottom", fontsize=NOTE_SIZE, color="0.35")
    return figure


def _note(layers: Sequence[EdgePictures], edges: list[list[Edge]]) -> str:
    """What is not drawn."""
    counts = [(len(drawn), (~layer.removed).sum()) for layer, drawn in zip(layers, edges, strict=True)]
    if all(shown == n for shown, n in counts):
        return ""
    return f"functions drawn by layer, the most important ones: {', '.join(f'{shown} of {n}' for shown, n in counts)}"


def _names(layers: Sequence[EdgePictures], inputs, outputs) -> tuple[list[str], list[str]]:
    if not layers:
        raise ValueError("a network graph takes at least one layer, given none")
    for number, (one, other) in enumerate(itertools.pairwise(layers), 1):
        if one.shape[1] != other.shape[0]:
            raise ValueError(f"layer {number} has {one.shape[1]} outputs, but the next one {other.shape[0]} inputs")
    n_in, n_out = layers[0].shape[0], layers[-1].shape[1]
    inputs = [f"x_{i + 1}" for i in range(n_in)] if inputs is None else inputs
    outputs = [f"y_{o + 1}" if n_out > 1 else "y" for o in range(n_out)] if outputs is None else outputs
    for kind, given, wanted in (("input", inputs, n_in), ("output", outputs, n_out)):
        if len(given) != wanted:
            raise ValueError(f"the network has {wanted} {kind}s, given {len(given)} {kind} names")
    return [symbol(name) for name in inputs], [symbol(name) for name in outputs]


def symbol(name: str) -> str:
    """A letter, Latin or Greek, with or without an index, is set as mathematics; words stay words."""
    match = re.fullmatch(rf"([A-Za-z]|{GREEK}|Delta|Omega)(?:_?(\d+)|_([A-Za-z0-9]+))?", name)
    if not match:
        name = name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}…{name[1 - LONGEST // 2 :]}"
        return plain(name)
    letter, digits, word = match.groups()
    letter = letter if len(letter) == 1 else f"\\{letter}"
    index = digits or _upright(word or "")
    return f"${letter}_{{{index}}}$" if index else f"${letter}$"


def _formula(label: str) -> str:
    """x^2 or 1/x as mathematics with upright names of functions; what has other signs stays text."""
    if not re.fullmatch(r"([A-Za-z0-9.+\-*/() ]|\^-?[A-Za-z0-9])+", label):
        return plain(label)
    powers = re.sub(r"\^(-?[A-Za-z0-9.]+)", r"^{\1}", label)
    return f"${_upright(powers)}$"


def _upright(text: str) -> str:
    return re.sub(r"[A-Za-z]{2,}", r"\\mathrm{\g<0>}", text)


def _text_width(text: str, size: float) -> float:
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=size).get_extents().width / 72 if text.strip() else 0.0


def _chosen(layers: Sequence[EdgePictures], most: int) -> list[list[Edge]]:
    """The edges drawn of each layer, ordered by output."""
    chosen, alive = [], np.ones(layers[-1].shape[1], dtype=bool)
    for layer in reversed(layers):
        left = map(tuple, np.argwhere(~layer.removed).tolist())
        drawn = sorted(left, key=lambda edge: (not alive[edge[1]], -layer.importance[edge]))[:most]
        chosen.append(sorted(drawn, key=lambda edge: edge[::-1]))
        alive = np.isin(np.arange(layer.shape[0]), [i for i, _ in drawn])
    return chosen[::-1]


def _shown_nodes(layers: Sequence[EdgePictures], edges: list[list[Edge]], most: int) -> list[list[int]]:
    """Per column the nodes that some edge touches; of inputs and outputs all, unless they are too many."""
    sizes = [layer.shape[0] for layer in layers] + [layers[-1].shape[1]]
    starts = [{i for i, _ in drawn} for drawn in edges] + [set()]
    ends = [set()] + [{o for _, o in drawn} for drawn in edges]
    shown = [sorted(start | end) for start, end in zip(starts, ends, strict=True)]
    for column in (0, -1):
        if sizes[column] <= most:
            shown[column] = list(range(sizes[column]))
    return shown


class _Plan:
    """Where everything lies: `nodes[column][node]` are points, `frames[layer][edge]` are (left, bottom, width, height).

    A column of functions lies midway between two columns of nodes; a node is at the height of the middle of its group.
    """

    def __init__(self, layers, edges, shown, names, titled: bool, noted: bool):
        self.labels = [
            {edge: _formula(layer.labels[edge]) for edge in drawn if edge in layer.labels}
            for layer, drawn in zip(layers, edges, strict=True)
        ]
        groups = [
            {o: [edge for edge in drawn if edge[1] == o] for o in column}
            for drawn, column in zip(edges, shown[1:], strict=True)
        ]
        self.gaps = [min(GAP, ALL_GAPS / max(1, len(of) - 1)) for of in groups]
        slots = [
            sum(len(group) or EMPTY for group in of.values()) + gap * max(0, len(of) - 1) or 1.0
            for of, gap in zip(groups, self.gaps, strict=True)
        ]
        fullest = np.clip(HEIGHT / max(slots), *PITCH)
        self.body = max(fullest * max(slots), 0.2 * len(shown[0]))
        self.bottom = MARGIN + 0.06 + (0.2 if noted else 0.0)
        self.height = self.bottom + self.body + MARGIN + (0.3 if titled else 0.0)
        left, right = (max(_text_width(n, NAME_SIZE) for n in side) + MARGIN + TEXT + 2 * NODE for side in names)
        self.width = max(WIDTH, left + right + LAYER_WIDTH * len(layers))
        self.columns = np.linspace(left, self.width - right, len(layers) + 1)
        inputs = self.bottom + self.body * (1 - (np.arange(len(shown[0])) + 0.5) / max(1, len(shown[0])))
        self.nodes = [{i: (self.columns[0], y) for i, y in zip(shown[0], inputs, strict=True)}]
        self.frames = []
        for number, of in enumerate(groups):
            pitch = min(self.body / slots[number], LARGER * fullest, PITCH[1])
            self._place(number, of, pitch, self.bottom + (self.body + pitch * slots[number]) / 2)

    def _place(self, number: int, groups: dict[int, list[Edge]], pitch: float, top: float) -> None:
        """The functions of a layer and the nodes behind them, downwards from `top`."""
        start, end = self.columns[number : number + 2]
        height = FILL * pitch
        width = min(ASPECT * height, 0.3 * (end - start))
        label = max((_text_width(text, LABEL_SIZE) + TEXT for text in self.labels[number].values()), default=0.0)
        left = (start + end - width - label) / 2
        nodes, frames = {}, {}
        for node, group in groups.items():
            extent = pitch * (len(group) or EMPTY)
            nodes[node] = (end, top - extent / 2)
            for position, edge in enumerate(group):
                frames[edge] = (left, top - pitch * (position + 0.5) - height / 2, width, height)
            top -= extent + self.gaps[number] * pitch
        self.nodes.append(nodes)
        self.frames.append(frames)


def _draw_layer(canvas: "Axes", plan: _Plan, number: int, layer: EdgePictures) -> None:
    largest = max((layer.importance[edge] for edge in plan.frames[number]), default=0.0)
    flat = FLAT * np.ptp(layer.y, axis=1).max(where=~layer.removed, initial=0.0)
    start = NODE if number else DOT
    for edge, (left, bottom, width, height) in plan.frames[number].items():
        strength = np.sqrt(layer.importance[edge] / largest) if largest > 0 else 0.0
        label, name = plan.labels[number].get(edge), f"layer {number + 1}, edge {edge[0] + 1} to {edge[1] + 1}"
        colour = CURVE if label is None else FORMULA
        end = middle = (left + width, bottom + height / 2)
        if label is not None:
            text = dict(ha="left", va="center", fontsize=LABEL_SIZE, color=FORMULA, label=name)
            canvas.text(middle[0] + TEXT, middle[1], label, **text)
            end = (middle[0] + 2 * TEXT + _text_width(label, LABEL_SIZE), middle[1])
        (x_in, y_in), (x_out, y_out) = plan.nodes[number][edge[0]], plan.nodes[number + 1][edge[1]]
        _draw_line(canvas, (x_in + start, y_in), (left, middle[1]), strength)
        _draw_line(canvas, end, (x_out - NODE, y_out), strength)
        place = (left / plan.width, bottom / plan.height, width / plan.width, height / plan.height)
        inset = canvas.figure.add_axes(place, label=name)
        _draw_function(inset, layer.x[edge[0]], layer.y[edge[0], :, edge[1]], flat, colour)


def _draw_line(canvas: "Axes", start: tuple[float, float], end: tuple[float, float], strength: float) -> None:
    """A curve that leaves and arrives horizontally."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    middle = (start[0] + end[0]) / 2
    path = Path([start, (middle, start[1]), (middle, end[1]), end], [Path.MOVETO] + [Path.CURVE4] * 3)
    style = dict(color=LINE, alpha=0.12 + 0.88 * strength, linewidth=0.4 + 0.9 * strength)
    canvas.add_patch(PathPatch(path, fill=False, **style))


def _draw_function(ax: "Axes", x: np.ndarray, y: np.ndarray, flat: float, colour: str) -> None:
    """The curve alone in a frame, which it fills unless it varies by less than `flat`."""
    ax.set(xticks=[], yticks=[], facecolor="white")
    ax.spines[:].set(color="0.6", linewidth=0.5)
    order = np.argsort(x)[np.unique(np.linspace(0, len(x) - 1, POINTS).astype(int))]
    ax.plot(x[order], y[order], color=colour, linewidth=1.0, solid_joinstyle="round")
    middle, half = (y.min() + y.max()) / 2, 0.6 * max(np.ptp(y), flat) or 1.0
    ax.set_ylim(middle - half, middle + half)


def _draw_nodes(canvas: "Axes", plan: _Plan, names: tuple[list[str], list[str]]) -> None:
    from matplotlib.patches import Circle

    for node, (x, y) in plan.nodes[0].items():
        colour = "black" if node in {i for i, _ in plan.frames[0]} else "0.7"
        canvas.add_patch(Circle((x, y), DOT, color=colour, linewidth=0))
        left = x - DOT - 1.5 * TEXT
        canvas.text(left, y, names[0][node], ha="right", va="center", fontsize=NAME_SIZE, color=colour)
    for x, y in (point for column in plan.nodes[1:] for point in column.values()):
        canvas.add_patch(Circle((x, y), NODE, facecolor="white", edgecolor="black", linewidth=0.8))
        canvas.plot(x, y, color="black", marker="+", markersize=80 * NODE, markeredgewidth=0.8)
    for node, (x, y) in plan.nodes[-1].items():
        canvas.text(x + NODE + TEXT, y, names[1][node], ha="left", va="center", fontsize=NAME_SIZE)
