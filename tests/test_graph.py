"""The picture of a KAN shows every edge that is left once, in its place, and nothing lies on anything else."""

import itertools

import numpy as np
import pytest
from conftest import one_line
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle, PathPatch

from kanpde.plot.graph import EdgePictures, network_graph

DIMS = [(1, 1), (2, 1, 1), (9, 2, 1), (4, 2, 1, 1), (3, 3, 3), (4, 5, 5, 1), (2, 5, 5, 5, 5, 1)]
FORMULAS = ("sin", "x^2", "1/x^2", "exp(-x^2)", "arctanh", "x")


def layers(dims, left: float = 1.0, formulas: float = 0.0, seed: int = 0) -> list[EdgePictures]:
    """Random cubics; shares of the edges that are left, and of these that are formulas."""
    rng = np.random.default_rng(seed)
    pictures = []
    for n_in, n_out in itertools.pairwise(dims):
        x = rng.uniform(-1, 1, (n_in, 50))
        y = np.einsum("pin,pio->ino", x ** np.arange(4)[:, None, None], rng.normal(size=(4, n_in, n_out)))
        removed = rng.random((n_in, n_out)) > left
        named = np.argwhere((rng.random((n_in, n_out)) < formulas) & ~removed).tolist()
        labels = {(i, o): FORMULAS[(i + o) % len(FORMULAS)] for i, o in named}
        pictures.append(EdgePictures(x, y, rng.random((n_in, n_out)), labels, removed))
    return pictures


def insets(figure) -> dict:
    """The axes of each edge by (layer, input, output)."""
    words = {ax: ax.get_label().replace(",", "").split() for ax in figure.axes[1:]}
    found = {(int(w[1]) - 1, int(w[3]) - 1, int(w[5]) - 1): ax for ax, w in words.items()}
    assert len(found) == len(words), "an edge was drawn twice"
    return found


def left_edges(pictures) -> set:
    return {(n, i, o) for n, layer in enumerate(pictures) for i, o in np.argwhere(~layer.removed).tolist()}


def boxes(figure) -> list:
    """What takes room: functions, texts and nodes, in pixels."""
    figure.draw_without_rendering()
    canvas = figure.axes[0]
    drawn = [ax.get_window_extent() for ax in figure.axes[1:]]
    drawn += [text.get_window_extent() for text in canvas.texts if text.get_text()]
    return drawn + [p.get_window_extent() for p in canvas.patches if isinstance(p, Circle)]


@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("kind", ["whole", "pruned"])
def test_every_edge_that_is_left_has_one_picture_and_nothing_overlaps(dims, kind):
    pictures = layers(dims) if kind == "whole" else layers(dims, left=0.6, formulas=0.5, seed=1)
    figure = network_graph(pictures, title="a title")
    assert insets(figure).keys() == left_edges(pictures)
    assert figure.get_figwidth() == 7.0 or len(dims) > 4
    page, drawn = figure.bbox, boxes(figure)
    for box in drawn:
        inside = page.x0 <= box.x0 and page.y0 <= box.y0 and box.x1 <= page.x1 and box.y1 <= page.y1
        assert inside, "outside of the page"
    for a, b in itertools.combinations(drawn, 2):
        assert not a.overlaps(b), f"{a} overlaps {b}"


@pytest.mark.parametrize("dims", [(4, 2, 1, 1), (4, 5, 5, 1)], ids=str)
def test_lines_lead_from_the_input_through_the_function_to_the_output(dims):
    pictures = layers(dims, left=0.7, formulas=0.5)
    figure = network_graph(pictures)
    frames = {edge: ax.get_position() for edge, ax in insets(figure).items()}
    canvas, size = figure.axes[0], figure.get_size_inches()
    lines = [p.get_path().vertices for p in canvas.patches if isinstance(p, PathPatch)]
    assert len(lines) == 2 * len(frames)
    # in the order in which they were drawn, a line to each function and one from it
    for (edge, frame), into, out in zip(frames.items(), lines[::2], lines[1::2], strict=True):
        middle = (frame.y0 + frame.y1) / 2
        np.testing.assert_allclose(into[-1] / size, [frame.x0, middle], atol=1e-9, err_msg=str(edge))
        assert out[0][0] / size[0] >= frame.x1 - 1e-9 and out[0][1] / size[1] == pytest.approx(middle)
        assert into[0][0] < into[-1][0] and out[0][0] < out[-1][0]
    starts, ends = ({e: line[k] for e, line in zip(frames, lines[h::2], strict=True)} for h, k in ((0, 0), (1, -1)))
    for (a, place), (b, other) in itertools.combinations(starts.items(), 2):
        assert (a[:2] == b[:2]) == np.allclose(place, other), "edges start together if and only if their input is one"
    for (a, place), (b, other) in itertools.combinations(ends.items(), 2):
        assert (a[::2] == b[::2]) == np.allclose(place, other), "and end together if and only if their output is one"


def test_a_function_is_drawn_as_it_is():
    x = np.array([[0.5, -1.0, 0.0, 2.0]])
    y = np.stack([x**3, 1e-6 * x, 7.0 + 0 * x], -1)
    figure = network_graph([EdgePictures(x, y, np.ones((1, 3)))])
    for (_, _, o), ax in insets(figure).items():
        (curve,) = ax.lines
        np.testing.assert_array_equal(curve.get_xdata(), np.sort(x[0]))
        np.testing.assert_array_equal(curve.get_ydata(), y[0, np.argsort(x[0]), o])
        low, high = ax.get_ylim()
        assert low < y[0, :, o].min() and y[0, :, o].max() < high
        filled = np.ptp(y[0, :, o]) / (high - low)
        assert filled > 0.8 if o == 0 else filled < 1e-2, "what hardly varies is drawn flat"


def test_formulas_have_their_name_and_colour():
    pictures = layers((3, 2, 1), formulas=0.5)
    figure = network_graph(pictures)
    shown = {text.get_label(): text.get_text() for text in figure.axes[0].texts}
    upright = {"sin": r"$\mathrm{sin}$", "x^2": "$x^{2}$", "1/x^2": "$1/x^{2}$", "x": "$x$"}
    upright |= {"exp(-x^2)": r"$\mathrm{exp}(-x^{2})$", "arctanh": r"$\mathrm{arctanh}$"}
    assert sum(len(layer.labels) for layer in pictures) > 2
    for (number, i, o), ax in insets(figure).items():
        label = pictures[number].labels.get((i, o))
        assert shown.get(ax.get_label()) == upright.get(label)
        assert to_rgb(ax.lines[0].get_color()) == to_rgb("C0" if label is None else "C3")


def test_stronger_lines_are_more_important():
    x = np.linspace(-1, 1, 5)[None].repeat(3, 0)
    importance = np.array([[0.0], [0.3], [1.0]])
    figure = network_graph([EdgePictures(x, x[:, :, None], importance)])
    lines = [p for p in figure.axes[0].patches if isinstance(p, PathPatch)]
    for look in (PathPatch.get_alpha, PathPatch.get_linewidth):
        order = [look(line) for line in lines[::2]]
        assert 0 < order[0] < order[1] < order[2] and [look(line) for line in lines[1::2]] == order
    for scale in (0.0, 1e-30, 1e30):
        network_graph([EdgePictures(x, x[:, :, None], scale * importance)])


def test_names_and_title():
    names = ["theta", "m_1", "E_kin", "price in $", "a name that is much too long for a graph 1"]
    figure = network_graph(layers((5, 2)), names, ["F", "power"], title="I.12.5")
    wanted = [r"$\theta$", "$m_{1}$", r"$E_{\mathrm{kin}}$", r"price in \$", "a name that …r a graph 1"]
    shown = [text.get_text() for text in figure.axes[0].texts]
    assert shown == [*wanted, "$F$", "power", "I.12.5"]
    assert [t.get_text() for t in network_graph(layers((2, 1))).axes[0].texts] == ["$x_{1}$", "$x_{2}$", "$y$"]
    assert [t.get_text() for t in network_graph(layers((1, 2))).axes[0].texts] == ["$x_{1}$", "$y_{1}$", "$y_{2}$"]


def test_nodes_that_are_gone_leave_no_trace():
    pictures = layers((3, 3, 1))
    pictures[0].removed[:] = [[False, True, False], [False, True, False], [True, True, True]]
    pictures[1].removed[1] = True  # the hidden node 2 has lost its edges on both sides, the input 3 all it had
    figure = network_graph(pictures)
    assert insets(figure).keys() == left_edges(pictures)
    assert sum(isinstance(p, Circle) for p in figure.axes[0].patches) == 3 + 2 + 1
    colours = {t.get_text(): t.get_color() for t in figure.axes[0].texts}
    assert colours["$x_{1}$"] == "black" != colours["$x_{3}$"]
    pictures[0].removed[:], pictures[1].removed[:] = True, True
    assert not insets(network_graph(pictures))


def test_of_a_large_layer_the_most_important_functions_are_drawn():
    pictures = layers((100, 32, 1))
    figure = network_graph(pictures, most=20)
    drawn = insets(figure).keys()
    last = sorted(range(32), key=lambda i: -pictures[1].importance[i, 0])[:20]
    assert {i for number, i, _ in drawn if number == 1} == set(last)
    into = [(i, o) for i in range(100) for o in last]
    first = sorted(into, key=lambda edge: -pictures[0].importance[edge])[:20]
    assert {(i, o) for number, i, o in drawn if number == 0} == set(first)
    assert "20 of 3200, 20 of 32" in figure.axes[0].texts[-1].get_text()
    assert figure.get_figheight() < 11
    room = boxes(figure)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(room, 2))
    shown = {t.get_text() for t in figure.axes[0].texts}
    assert {f"$x_{{{i + 1}}}$" for i, _ in first} == {t for t in shown if t.startswith("$x")}


def test_bad_calls_are_refused_in_one_line():
    x, y, one = np.zeros((2, 4)), np.zeros((2, 4, 3)), np.ones((2, 3))
    bad = [
        lambda: EdgePictures(x.T, y, one),
        lambda: EdgePictures(x[:, :0], y[:, :0], one),
        lambda: EdgePictures(x, y[0], one),
        lambda: EdgePictures(x, y, one.T),
        lambda: EdgePictures(x, y, -one),
        lambda: EdgePictures(x, y + np.nan, one),
        lambda: EdgePictures(x, y, one, {(2, 0): "sin"}),
        lambda: EdgePictures(x, y, one, removed=one.T > 0),
        lambda: network_graph([]),
        lambda: network_graph([EdgePictures(x, y, one)] * 2),
        lambda: network_graph([EdgePictures(x, y, one)], input_names=["a"]),
        lambda: network_graph([EdgePictures(x, y, one)], output_names=["a"]),
        lambda: network_graph([EdgePictures(x, y, one)], most=0),
    ]
    for call in bad:
        with pytest.raises(ValueError) as error:
            call()
        assert one_line(error)
