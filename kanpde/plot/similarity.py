"""Heat maps of how alike the edges of networks are, side by side."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 2.7  # inches of a heat map
EXACT_ORDER = 600  # rows up to which the order of the leaves is optimal, which takes cubic time
ROOM = 0.055  # of all rows: a smaller layer gets no label


def similarity_figure(
    panels: Sequence[tuple[str, np.ndarray]],
    layers: Sequence[int] | None = None,
    ordered: bool = True,
    label: str = "cosine similarity",
) -> "Figure":
    """Heat maps of similarities with one colour bar, symmetric about 0, and the effective rank in the titles.

    Rows and columns of each matrix are ordered by hierarchical clustering (average linkage of 1 - s), so that equal
    functions become blocks; where `layers` are given, they stay together, parted by lines, and each is in that order.
    The effective rank is that of the vectors whose inner products the matrix holds, with the roots of its eigenvalues
    as singular values (Roy and Vetterli, EUSIPCO 2007); for cosines it is `effective_rank_unit` of
    `kanpde.interpret.similarity.compactness`.

    Args:
        panels: (title, (E, E) symmetric matrix), such as ("KAN", ...), ("MetaKAN", ...); E may differ without `layers`.
        layers: (E,) number of the layer of each row from 0, not decreasing: column 0 of
            `kanpde.interpret.similarity.edges_of`.
        ordered: False keeps the order of the rows.
        label: of the colour bar.
    Raises:
        ValueError: no panel, a matrix that is not square, finite, symmetric and within [-1, 1], or other `layers`.
    """
    from matplotlib.figure import Figure

    matrices = [_checked(title, np.asarray(matrix, dtype=np.float64), layers) for title, matrix in panels]
    if not panels:
        raise ValueError("a figure of similarities takes at least one panel, given none")
    figure = Figure(figsize=(1.2 + (SIDE + 0.2) * len(panels), SIDE + 0.9), layout="compressed")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, _), matrix in zip(axes, panels, matrices, strict=True):
        blocks = np.zeros(len(matrix), dtype=int) if layers is None else np.asarray(layers)
        order = _order(matrix, blocks) if ordered else np.arange(len(matrix))
        image = ax.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_title(f"{plain(title)}\neffective rank {_effective_rank(matrix):.1f}", fontsize=11)
        _mark_layers(ax, blocks, named=layers is not None)
    axes[0].set_ylabel("edges by layer" if layers is not None else "edges")
    bar = figure.colorbar(image, ax=axes, ticks=[-1, -0.5, 0, 0.5, 1], label=label)
    if min(matrix.min() for matrix in matrices) >= 0:  # the colours mean the same, half of them is not needed
        bar.ax.set_ylim(0, 1)
    return figure


def _checked(title: str, matrix: np.ndarray, layers: Sequence[int] | None) -> np.ndarray:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"{title}: a matrix of similarities is square, given the shape {matrix.shape}")
    if not (abs(matrix) <= 1 + 1e-6).all() or not np.allclose(matrix, matrix.T, atol=1e-6):
        raise ValueError(f"{title}: similarities are symmetric and within [-1, 1], given others")
    if layers is not None and (len(layers) != len(matrix) or (np.diff(np.asarray(layers)) < 0).any()):
        raise ValueError(f"{title}: layers are {len(matrix)} numbers that do not decrease, given {len(layers)} others")
    return matrix


def _order(matrix: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Rows in the order of the leaves of the cluster tree, block after block."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(matrix) < 2:
        return np.arange(len(matrix))
    distance = squareform(np.clip(1 - (matrix + matrix.T) / 2, 0, None), checks=False)
    tree = linkage(distance, "average", optimal_ordering=len(matrix) <= EXACT_ORDER)
    leaves = leaves_list(tree)
    return leaves[np.argsort(blocks[leaves], kind="stable")]


def _effective_rank(matrix: np.ndarray) -> float:
    values = np.sqrt(np.clip(np.linalg.eigvalsh((matrix + matrix.T) / 2), 0, None))
    shares = values[values > 0] / max(values.sum(), np.finfo(float).tiny)
    return np.exp(-np.sum(shares * np.log(shares))) if len(shares) else 0.0


def _mark_layers(ax: "Axes", blocks: np.ndarray, named: bool) -> None:
    """Lines between the layers, and their numbers where there is room."""
    starts = np.nonzero(np.diff(blocks, prepend=-1))[0]
    ends = np.append(starts[1:], len(blocks))
    for start in starts[1:]:
        ax.axhline(start - 0.5, color="black", linewidth=0.6)
        ax.axvline(start - 0.5, color="black", linewidth=0.6)
    wide = [(s, e) for s, e in zip(starts, ends, strict=True) if named and e - s >= ROOM * len(blocks)]
    middles, names = [(s + e - 1) / 2 for s, e in wide], [str(blocks[s] + 1) for s, _ in wide]
    ax.set_xticks(middles, names)
    ax.set_yticks(middles, names)
    ax.tick_params(length=0, labelsize=9)
