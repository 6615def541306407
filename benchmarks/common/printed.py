"""The paper's printed tables: their rows, and the names that this project has for what a row tells."""

import json
from functools import cache
from pathlib import Path

from kanpde.ground.errors import ConfigError, suggest

PATH = Path(__file__).with_name("printed.json")
DATASETS = {
    "MNIST": "mnist",
    "FMNIST": "fashion-mnist",
    "KMNIST": "kmnist",
    "SVHN": "svhn",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
}
TRAINING_IMAGES = {"mnist": 60_000, "fashion-mnist": 60_000, "kmnist": 60_000, "svhn": 73_257}
TRAINING_IMAGES |= {"cifar10": 50_000, "cifar100": 50_000, "kmnist-test-split": 8_000}
OTHER_SPLITS = {"kmnist-test-split": ("kmnist", "trained and tested on parts of the official KMNIST test images")}
WAVELETS = {"DoG": "dog", "Morlet": "morlet", "MexicanHat": "mexican_hat"}
META_LEARNERS = {  # Table 3, 8 layers: (meta-learners, prompt size) as its parameter counts tell; all others (1, 1)
    ("MetaKANConv", "MNIST"): (8, 1),
    ("MetaKANConv", "CIFAR-10"): (1, 2),
    ("MetaKANConv", "CIFAR-100"): (7, 2),
    ("MetaFastKANConv", "MNIST"): (8, 1),
    ("MetaFastKANConv", "CIFAR-10"): (1, 2),
    ("MetaFastKANConv", "CIFAR-100"): (3, 4),  # its accuracy is that of (7, 4) in Table 9
    ("MetaKAGNConv", "MNIST"): (8, 1),
}


@cache
def _tables() -> dict[str, list[dict]]:
    return json.loads(PATH.read_text(encoding="utf-8"))


def rows(table: int) -> list[dict]:
    """The rows of a table in the paper's order.

    Raises:
        ConfigError: the paper prints no such table of results.
    """
    try:
        return _tables()[f"table{table}"]
    except KeyError:
        raise ConfigError(suggest("table", str(table), [name.removeprefix("table") for name in _tables()])) from None


def options(row: dict) -> dict:
    """The options by which a run of an image classifier belongs to this row."""
    known = {name: row[name] for name in ("hidden", "centers") if name in row}
    if "grid" in row:
        known["grid_size"] = row["grid"]
    if "wavelet" in row:
        known["wavelet"] = WAVELETS[row["wavelet"]]
    if row["model"].endswith("Conv"):
        known["layers"] = row["layers"]
    if row["model"].endswith("Conv") and row["model"].startswith("Meta"):
        named = META_LEARNERS.get((row["model"], row["dataset"]), (1, 1)) if row["layers"] == 8 else (1, 1)
        known["clusters"], known["prompt_dim"] = row.get("C", named[0]), row.get("dim_z", named[1])
    return known
