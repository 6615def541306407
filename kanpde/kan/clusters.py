"""Which layers share a meta-learner: Algorithm 2 of MetaKAN, 1-D k-means on the output widths, solved exactly."""

from functools import cache


def cluster_widths(widths: tuple[int, ...], clusters: int) -> tuple[int, ...]:
    """Label each layer by the cluster of its output width, clusters numbered by increasing width.

    The optimum of 1-D k-means (least sum of squared distances to the cluster means) by dynamic programming over the
    sorted widths: optimal clusters are intervals.

    Args:
        widths: output widths of the layers.
        clusters: number of clusters C, at most the number of distinct widths.
    Raises:
        ValueError: C < 1, or C exceeds the number of distinct widths (a meta-learner would stay unused).
    Source: MetaKAN, ICML 2025, Algorithm 2.

    >>> cluster_widths((16, 32, 64, 128, 256, 256, 512, 512), 3)
    (0, 0, 0, 0, 1, 1, 2, 2)
    """
    distinct = sorted(set(widths))
    if not 1 <= clusters <= len(distinct):
        raise ValueError(
            f"{clusters} clusters asked for, allowed are 1 to {len(distinct)} (the distinct output widths)"
        )
    count = [widths.count(w) for w in distinct]

    @cache
    def spread(i: int, j: int) -> float:  # squared distances to their mean of the widths i ... j - 1
        n = sum(count[i:j])
        mean = sum(c * w for c, w in zip(count[i:j], distinct[i:j], strict=True)) / n
        return sum(c * (w - mean) ** 2 for c, w in zip(count[i:j], distinct[i:j], strict=True))

    @cache
    def best(j: int, c: int) -> tuple[float, tuple[int, ...]]:  # least cost of the first j widths in c clusters
        if c == 1:
            return spread(0, j), (0,)
        return min((best(i, c - 1)[0] + spread(i, j), (*best(i, c - 1)[1], i)) for i in range(c - 1, j))

    starts = best(len(distinct), clusters)[1]
    label = {w: sum(i >= s for s in starts) - 1 for i, w in enumerate(distinct)}
    return tuple(label[w] for w in widths)
