"""Similarity of edges against closed forms, and heat maps that hold the numbers they are given."""

import itertools
from math import exp, log, sqrt

import numpy as np
import pytest
import torch
from conftest import F64, generator, one_line

from kanpde import backbones
from kanpde.ground.errors import ConfigError
from kanpde.interpret import similarity
from kanpde.kan.grids import kan_layers
from kanpde.kan.weights import materialize
from kanpde.plot.similarity import similarity_figure

WIDTHS = (3, 2)
EDGES = [(0, i, o) for i in range(4) for o in range(3)] + [(1, i, o) for i in range(3) for o in range(2)]
EDGES += [(2, i, 0) for i in range(2)]


def network(name: str = "kan", dim: int = 4, widths=WIDTHS, **options):
    return backbones.build(name, dim, widths=widths, generator=generator(), **options).double()


def theta(net) -> list:
    """The weights (in, size, out) of each layer."""
    return [layer.weights.theta.detach() for layer in kan_layers(materialize(net))]


def orthonormal(rows: int, columns: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(columns, rows, generator=generator(), dtype=F64))[0].mT


def set_vectors(net, vectors) -> None:
    """Give edge e of EDGES the coefficients vectors[e], and keep its base weight."""
    for (number, i, o), v in zip(EDGES, vectors, strict=True):
        kan_layers(net)[number].weights.theta.data[i, :-1, o] = v


# Edges and coefficients


def test_edges_are_counted_layer_by_layer():
    assert [tuple(e) for e in similarity.edges_of(network()).tolist()] == EDGES


def test_of_a_large_network_a_sample_is_compared():
    net = network(widths=(30, 20))
    sample, again = similarity.edges_of(net, 100), similarity.edges_of(net, 100)
    other = similarity.edges_of(net, 100, generator(7))
    rows = [tuple(e) for e in sample.tolist()]
    assert len(set(rows)) == 100 and rows == sorted(rows)
    assert torch.equal(sample, again) and not torch.equal(sample, other)
    assert set(rows) <= {tuple(e) for e in similarity.edges_of(net).tolist()}
    assert similarity.cosine_similarity(net, sample).shape == (100, 100)
    layer_of = lambda edges: torch.bincount(edges[:, 0]).tolist()
    assert layer_of(similarity.edges_of(net)) == [120, 600, 20]
    assert len(similarity.edges_of(network(dim=200, widths=(200,)))) == similarity.LIMIT


@pytest.mark.parametrize("name", ["kan", "metakan", "metachebykan", "fastkan", "metafourierkan"])
def test_coefficients_are_those_of_the_edges_without_the_base(name):
    net = network(name, **({"prompt_dim": 3} if name.startswith("meta") else {}))
    count = kan_layers(net)[0].basis.count
    vectors, weights = similarity.coefficient_vectors(net), theta(net)
    assert vectors.shape == (len(EDGES), count) and vectors.dtype == F64 and not vectors.requires_grad
    for row, (number, i, o) in zip(vectors, EDGES, strict=True):
        torch.testing.assert_close(row, weights[number][i, :count, o], rtol=1e-13, atol=1e-15)


def test_a_choice_of_edges_may_have_any_order():
    net, chosen = network(), torch.tensor([EDGES[17], EDGES[3], EDGES[12], EDGES[3]])
    rows = similarity.coefficient_vectors(net)[[17, 3, 12, 3]]
    assert torch.equal(similarity.coefficient_vectors(net, chosen), rows)


# Cosines


@pytest.mark.parametrize("name", ["kan", "metakan"])
def test_cosines_are_those_of_numpy(name):
    net = network(name)
    v = np.array([theta(net)[n][i, :-1, o].numpy() for n, i, o in EDGES])
    length = np.linalg.norm(v, axis=1)
    wanted = v @ v.T / np.outer(length, length)
    np.testing.assert_allclose(similarity.cosine_similarity(net).numpy(), wanted, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-20, 1e3])
def test_cosines_know_neither_the_size_of_a_function_nor_its_base_weight(scale):
    net, changed = network(), network()
    for layer in kan_layers(changed):
        layer.weights.theta.data *= scale
        layer.weights.theta.data[:, -1] = 5.0
    torch.testing.assert_close(similarity.cosine_similarity(changed), similarity.cosine_similarity(net))


def test_an_edge_without_coefficients_is_like_no_other():
    net = network()
    set_vectors(net, torch.cat([torch.zeros(1, 8, dtype=F64), torch.ones(len(EDGES) - 1, 8, dtype=F64)]))
    cosines = similarity.cosine_similarity(net)
    assert not cosines[0].any() and not cosines[:, 0].any() and cosines[1:, 1:].allclose(torch.ones(1, dtype=F64))


# Prompts


def set_prompts(net, prompts) -> None:
    """Give edge e of EDGES the prompt prompts[e], (E, p)."""
    for (number, i, o), z in zip(EDGES, prompts, strict=True):
        kan_layers(net)[number].weights.prompts.data[i, :, o] = z


@pytest.mark.parametrize("p", [1, 3])
def test_similarity_of_prompts_decays_with_their_distance(p):
    net, z = network("metakan", prompt_dim=p), torch.randn(len(EDGES), p, generator=generator(), dtype=F64)
    set_prompts(net, z)
    found = similarity.prompt_similarity(net)
    distance = (z[:, None] - z).norm(dim=-1)
    spread = (z - z.mean(0)).square().sum(1).mean()
    torch.testing.assert_close(found, torch.exp(-distance.square() / (2 * spread)))
    assert found.log().mean() == pytest.approx(-1.0, rel=1e-12), "whatever the unit and p"
    set_prompts(net, 1e4 * z + 3)
    torch.testing.assert_close(similarity.prompt_similarity(net), found, rtol=1e-9, atol=1e-12)
    order = distance[0].argsort()
    assert (found[0, order].diff() <= 0).all()


def test_prompts_of_low_rank_are_compared_as_products():
    net = network("metakan", dim=9, widths=(8,), prompt_rank=2)
    free = network("metakan", dim=9, widths=(8,))
    for a, b in zip(kan_layers(net), kan_layers(free), strict=True):
        b.weights.prompts.data = a.weights.prompts.detach()
    assert len(similarity.edges_of(net)) == 9 * 8 + 8
    assert torch.equal(similarity.edges_of(net), similarity.edges_of(free))
    torch.testing.assert_close(similarity.prompt_similarity(net), similarity.prompt_similarity(free))


def test_equal_prompts_are_alike():
    net = network("metakan")
    set_prompts(net, torch.full((len(EDGES), 1), 0.7, dtype=F64))
    assert torch.equal(similarity.prompt_similarity(net), torch.ones(len(EDGES), len(EDGES), dtype=F64))


def test_prompts_of_different_learners_do_not_compare():
    net, z = network("metakan", meta_share=(0, 1, 0)), torch.randn(len(EDGES), 1, generator=generator(), dtype=F64)
    set_prompts(net, z)
    found, second = similarity.prompt_similarity(net), torch.tensor([n == 1 for n, _, _ in EDGES])
    assert not found[second][:, ~second].any() and not found[~second][:, second].any()
    for mine in (second, ~second):
        assert found[mine][:, mine].log().mean() == pytest.approx(-1.0), "each has its own spread"


# Effective rank and compactness


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_effective_rank_of_orthonormal_rows_is_their_number(rows):
    assert similarity.effective_rank(orthonormal(rows, 6)) == pytest.approx(rows, rel=1e-12)


def test_effective_rank_in_closed_form():
    matrix = orthonormal(4, 4) @ torch.tensor([3.0, 1.0, 0.0, 0.0], dtype=F64).diag() @ orthonormal(4, 7)
    wanted = exp(-(3 / 4) * log(3 / 4) - (1 / 4) * log(1 / 4))
    for scale in (1.0, 1e-12, 1e12):
        assert similarity.effective_rank(scale * matrix) == pytest.approx(wanted, rel=1e-6)
    assert similarity.effective_rank(matrix.mT) == pytest.approx(wanted, rel=1e-6)
    assert similarity.effective_rank(torch.ones(5, 3)) == pytest.approx(1.0, rel=1e-6)
    assert similarity.effective_rank(torch.zeros(5, 3)) == 0.0


def test_compactness_of_equal_and_of_orthogonal_functions():
    net = network()
    first = torch.randn(8, generator=generator(), dtype=F64)
    set_vectors(net, first * torch.linspace(-1, 2, len(EDGES), dtype=F64)[:, None])
    wanted = {"edges": len(EDGES), "coefficients": 8, "effective_rank": 1, "effective_rank_unit": 1}
    assert similarity.compactness(net) == pytest.approx(wanted | {"mean_abs_cosine": 1}, abs=1e-6)
    few = torch.tensor(EDGES[:8])
    size = torch.tensor([10.0] + [1.0] * 7, dtype=F64)
    set_vectors(net, torch.cat([orthonormal(8, 8) * size[:, None], torch.zeros(12, 8, dtype=F64)]))
    share = size / size.sum()
    found = similarity.compactness(net, few)
    wanted = {"edges": 8, "coefficients": 8, "effective_rank_unit": 8, "mean_abs_cosine": 0}
    assert found == pytest.approx(wanted | {"effective_rank": exp(-(share * share.log()).sum())}, abs=1e-9)
    assert np.isnan(similarity.compactness(net, few[:1])["mean_abs_cosine"])


def test_the_rank_is_that_of_the_matrix_of_cosines():
    net = network()
    cosines = similarity.cosine_similarity(net)
    title = similarity_figure([("KAN", cosines)]).axes[0].get_title()
    assert title == f"KAN\neffective rank {similarity.compactness(net)['effective_rank_unit']:.1f}"


def test_bad_calls_are_refused_in_one_line():
    kan, mlp, wavelets = network(), network("mlp"), network("wavkan")
    mixed = torch.nn.Sequential(network(widths=(), grid_size=5), network(dim=1, widths=(), grid_size=7))
    half = torch.nn.Sequential(network("metakan", widths=()), network(dim=1, widths=()))
    bad = [
        (similarity.edges_of, mlp),
        (similarity.edges_of, kan, 0),
        (similarity.cosine_similarity, mlp),
        (similarity.cosine_similarity, wavelets),
        (similarity.compactness, mixed),
        (similarity.prompt_similarity, kan),
        (similarity.prompt_similarity, half),
        (similarity.effective_rank, torch.zeros(3)),
        (similarity.effective_rank, torch.full((3, 3), torch.nan)),
    ]
    for function, *given in bad:
        with pytest.raises(ConfigError) as error:
            function(*given)
        assert one_line(error)
    with pytest.raises(ConfigError, match="8 BSpline, 10 BSpline"):
        similarity.cosine_similarity(mixed)


# The figure


def clusters(labels, noise: float = 0.05) -> np.ndarray:
    """Cosines of vectors around one orthogonal direction per label."""
    rng = np.random.default_rng(0)
    v = np.eye(max(labels) + 1)[list(labels)] + noise * rng.normal(size=(len(labels), max(labels) + 1))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    return v @ v.T


def image(figure, panel: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[panel].images[0].get_array())


def test_panels_keep_their_numbers_and_share_the_colours():
    a, b = clusters([0, 1] * 10), clusters([0, 1, 2, 3] * 5)
    figure = similarity_figure([("KAN", a), ("MetaKAN", b)], ordered=False)
    figure.draw_without_rendering()
    np.testing.assert_array_equal(image(figure, 0), a)
    np.testing.assert_array_equal(image(figure, 1), b)
    assert [ax.get_ylabel() for ax in figure.axes[2:]] == ["cosine similarity"]
    for ax in figure.axes[:2]:
        assert ax.images[0].get_clim() == (-1, 1) and ax.get_title().startswith(("KAN", "MetaKAN"))


def test_like_edges_become_blocks():
    labels = [0, 1, 2] * 8
    shown = image(similarity_figure([("", clusters(labels))]))
    truth = np.kron(np.eye(3), np.ones((8, 8)))
    np.testing.assert_allclose(shown, truth, atol=0.4)
    assert np.array_equal(np.sort(shown, axis=None), np.sort(clusters(labels), axis=None))


def test_layers_stay_together_and_are_in_one_order():
    labels, layers = [0, 1] * 5 + [1, 0] * 5 + [0, 1], [0] * 10 + [1] * 10 + [2] * 2
    figure = similarity_figure([("", clusters(labels))], layers)
    shown = image(figure)
    for start, end in ((0, 10), (10, 20)):
        half = (start + end) // 2
        assert shown[start:half, start:half].min() > 0.8 and shown[half:end, half:end].min() > 0.8
        assert abs(shown[start:half, half:end]).max() < 0.4
    assert shown[:5, 10:15].min() > 0.8, "the order is the same in both layers"
    lines = sorted((*line.get_xdata(), *line.get_ydata()) for line in figure.axes[0].lines)
    assert lines == sorted([(0, 1, y, y) for y in (9.5, 19.5)] + [(x, x, 0, 1) for x in (9.5, 19.5)])
    assert figure.axes[0].get_xticks().tolist() == [4.5, 14.5, 20.5]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "2", "3"]


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_overlaps_or_leaves_the_page(count):
    kan, meta = network(), network("metakan")
    panels = [("KAN", similarity.cosine_similarity(kan)), ("MetaKAN", similarity.cosine_similarity(meta))]
    figure = similarity_figure(panels[:count], similarity.edges_of(kan)[:, 0])
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert len(boxes) == count + 1
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    heights = [ax.get_window_extent().height for ax in figure.axes]
    assert heights == pytest.approx([heights[0]] * (count + 1))
    page = figure.bbox
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_small_matrices_have_a_picture(size):
    figure = similarity_figure([("", np.eye(size))], [0] * size)
    assert f"effective rank {size}.0" in figure.axes[0].get_title()


def test_similarities_of_prompts_need_half_of_the_colours():
    net = network("metakan")
    figure = similarity_figure([("", similarity.prompt_similarity(net))], label="prompts")
    bar = figure.axes[1]
    assert bar.get_ylim() == (0, 1) and bar.get_ylabel() == "prompts"
    assert similarity_figure([("", np.array([[1, -0.1], [-0.1, 1]]))]).axes[1].get_ylim() == (-1, 1)


def test_bad_pictures_are_refused_in_one_line():
    eye, skew = np.eye(3), np.triu(np.full((3, 3), sqrt(0.5)))
    for panels, layers in (
        ([], None),
        ([("", np.ones((2, 3)))], None),
        ([("", 2 * eye)], None),
        ([("", np.nan * eye)], None),
        ([("", skew)], None),
        ([("", eye)], [0, 1]),
        ([("", eye)], [0, 1, 0]),
    ):
        with pytest.raises(ValueError) as error:
            similarity_figure(panels, layers)
        assert one_line(error)
