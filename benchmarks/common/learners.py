"""The meta-learners of the paper's networks, as far as the printed parameter counts tell them."""

import re
from typing import NamedTuple

from benchmarks.common import printed

CLASSIFIERS = (3, 5, 6, 7, 9)  # tables of image classifiers
DEFAULTS = {"hidden": [32], "grid_size": 5, "centers": 8, "wavelet": "mexican_hat"}  # of a run's options
DEFAULTS |= {"layers": 4, "clusters": 1, "prompt_dim": 1}

# h of the meta-learners, which the paper does not print: the value with which the printed count comes out. 2x: of two
# meta-learners (those of Tables 3 and 9 are in printed.options); *: printed without BatchNorm; -: no h fits.
LINES = {  # what names a line of FITTED, and what its numbers stand for, in the order of the printed rows
    2: (("grid",), ("equation",)),
    3: (("model", "layers"), ("dataset",)),
    4: (("function",), ("dimension",)),
    5: ((), ()),
    6: (("dataset",), ("hidden", "centers")),
    7: (("dataset",), ("hidden", "wavelet")),
    8: ((), ()),
    9: (("model", "dim_z"), ("C",)),
}
FITTED = {
    (2, 5): 17 * "- ",
    (2, 20): "24 16 64 72 72 24 24 12 48 48 72 48 12 - - 48 -",  # in the formula alone, ours have 32
    (3, "MetaKANConv", 4): "32 128 128",  # MNIST, CIFAR-10, CIFAR-100
    (3, "MetaKANConv", 8): "32 256 32",
    (3, "MetaFastKANConv", 4): "128 128 128",
    (3, "MetaFastKANConv", 8): "128 128 128",
    (3, "MetaKALNConv", 4): "32 64 256",
    (3, "MetaKALNConv", 8): "64 64 64",
    (3, "MetaKAGNConv", 4): "64 128 128",
    (3, "MetaKAGNConv", 8): "256 128 128",
    (4, "f1"): "8 9 11 20 30 64",  # n = 10, 20, 50, 100, 500, 1000
    (4, "f2"): "10 12 16 32 80 120",
    (4, "f3"): "8 9 15 20 60 250",
    (5,): "256",  # of meta-learners without biases
    (6, "SVHN"): "128 64 128   128 128 512",  # hidden 32: 6, 8, 13 centres; hidden 32,32: the same
    (6, "FMNIST"): "128 256 512   512 128 128",
    (6, "KMNIST"): "128 256 512   128 512 512",
    (6, "MNIST"): "128 64 128   128 128 128",
    (6, "CIFAR-10"): "256 256 -   256 512 512",
    (6, "CIFAR-100"): "512 512 256   256 512 512",
    (7, "SVHN"): "256 128 256   256 64 1024*",  # hidden 32: DoG, Morlet, Mexican hat; hidden 32,32: the same
    (7, "FMNIST"): "256 128 64   256 128 256",
    (7, "KMNIST"): "256 64 64*   256 64 1024*",
    (7, "MNIST"): "256 64 1024*   2x1024* 64 2x1024*",
    (7, "CIFAR-10"): "256 128 64   256 128 128",
    (7, "CIFAR-100"): "256 128 1024*   1024* 128 256",
    (8,): "128",
    (9, "MetaKANConv", 1): "256 256 64 64",  # C = 1, 3, 5, 7
    (9, "MetaKANConv", 2): "64 32 32 32",
    (9, "MetaKANConv", 4): "64 32 32 32",
    (9, "MetaFastKANConv", 1): "32 32 32 16",
    (9, "MetaFastKANConv", 2): "32 32 32 32",
    (9, "MetaFastKANConv", 4): "32 32 32 32",
}


class Learner(NamedTuple):
    """The meta-learners of a row."""

    clusters: int
    prompt_dim: int
    hidden: int  # of ours
    fitted: int  # hidden units that the printed count tells; 0: none
    starred: bool


def learner(table: int, row: dict) -> Learner | None:
    """The meta-learners of a row, if its model has any."""
    if not row["model"].startswith("Meta"):
        return None
    fields, along = LINES[table]
    place = lambda other: [other[name] for name in along]
    places = [place(other) for other in printed.rows(table) if other["model"].startswith("Meta")]
    number = [p for i, p in enumerate(places) if p not in places[:i]].index(place(row))
    entry = FITTED[table, *(row[name] for name in fields)].split()[number]
    count, fitted, star = re.fullmatch(r"(?:(\d)x)?(\d+|-)(\*?)", entry).groups()
    options, h = printed.options(row), 0 if fitted == "-" else int(fitted)
    hidden = 32 if table == 2 else h or 256  # Table 2: of the text; Table 6: as in the cells beside the one without
    return Learner(options.get("clusters", int(count or 1)), options.get("prompt_dim", 1), hidden, h, bool(star))


def fitted_hidden(model: str, dataset: str, options: dict) -> int | None:
    """Hidden units of the meta-learner that the printed count of a network tells, None where none is printed."""
    given = DEFAULTS | {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
    for table in CLASSIFIERS:
        for row in printed.rows(table):
            named = row["model"].lower() == model and printed.DATASETS[row["dataset"]] == dataset
            if named and all(given.get(k) == v for k, v in printed.options(row).items()):
                meta = learner(table, row)
                return meta.hidden if meta else None
    return None
