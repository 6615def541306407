"""Readers of the image data sets that the classification benchmarks train on, and the usual transforms of a batch."""

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from math import prod
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kanpde.ground.errors import ConfigError, suggest

ENVIRONMENT = "KANPDE_DATA"
SPLITS = ("train", "test")
MNIST_LIKE = ("mnist", "fashion-mnist", "kmnist")  # three data sets with the same file names
PADDING = {32: 4, 28: 2}  # pixels around an image of this size before a random crop


@dataclass(frozen=True, eq=False)
class Images:
    """Images x (N, C, H, W) in uint8 and their classes y (N,) in int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        return Images(self.x[index], self.y[index])


@dataclass(frozen=True)
class Dataset:
    """What a data set is (statistics of the official training pixels, scaled to [0, 1]) and where its files lie."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    decode: Callable[[Sequence[Path]], tuple[Tensor, Tensor]]
    files: dict[str, tuple[str, ...]]  # of each split
    folders: tuple[str, ...]  # torchvision's (or the archive's own) first
    url: str
    channels: int = 3
    size: int = 32
    classes: int = 10
    pickles: str = ""  # torchvision's folder of the same data as pickles
    note: str = ""  # what a table of results has to say


def read(name: str, split: str, folder: str | Path | None = None) -> Images:
    """One split ("train" or "test") of a data set below `folder`, which is by default $KANPDE_DATA."""
    if name not in DATASETS:
        raise ConfigError(suggest("data set", name, list(DATASETS)))
    if split not in SPLITS:
        raise ConfigError(suggest("split", split, SPLITS))
    if name == "kmnist-test-split":
        return _kmnist_test_split(split, folder)
    root = _root(name, split, folder)
    paths = _locate(name, split, root)
    try:
        images = Images(*DATASETS[name].decode(paths))
        _check(DATASETS[name], paths[0], images)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}; get it anew from {DATASETS[name].url}") from None
    if name in MNIST_LIKE and paths[0].parent == root:
        _check_identity(name, paths[0], images.x)
    return images


def _kmnist_test_split(split: str, folder: str | Path | None) -> Images:
    """KMNIST's official 10 000 test images split 8 000 / 2 000 by seed 0: NOT the official KMNIST benchmark. It stands
    in where the 60 000 training images cannot be had, and its errors compare with no published ones."""
    images = read("kmnist", "test", folder)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    cut = len(images) * 4 // 5
    return images[order[:cut] if split == "train" else order[cut:]]


def _root(name: str, split: str, folder: str | Path | None) -> Path:
    given = folder if folder is not None else os.environ.get(ENVIRONMENT)
    if given and Path(given).expanduser().is_dir():
        return Path(given).expanduser()
    fault, dataset = f"there is no folder {given}" if given else "no folder is given", DATASETS[name]
    wanted = f"{dataset.folders[0]}/{dataset.files[split][0]}[.gz], from {dataset.url}"
    raise ConfigError(f"{name}: {fault}; set {ENVIRONMENT} to a folder that has {wanted}")


def check_present(name: str, split: str, folder: str | Path | None = None) -> None:
    """Raise the line that `read` would, if files of a split are missing; reads none of them."""
    if name in DATASETS and DATASETS[name].files.get(split):
        _locate(name, split, _root(name, split, folder))


def _locate(name: str, split: str, root: Path) -> list[Path]:
    """The files of a split, all in one folder: files of two copies of a data set need not belong together."""
    files = DATASETS[name].files[split]
    places = [root / sub for sub in DATASETS[name].folders] + [root]
    for place in places:
        paths = [_find(place / file) for file in files]
        if all(paths):
            return paths
        if any(paths):
            raise ConfigError(_missing(name, split, files[paths.index(None)], root, [place]))
    raise ConfigError(_missing(name, split, files[0], root, places))


def _find(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return path if path.is_file() else packed if packed.is_file() else None


def _missing(name: str, split: str, file: str, root: Path, places: Sequence[Path]) -> str:
    dataset = DATASETS[name]
    where = " or ".join(map(str, places))
    text = f"{name}: no {file}[.gz] in {where}; get it from {dataset.url} into {places[0]}, or set {ENVIRONMENT}"
    if dataset.pickles and (root / dataset.pickles).is_dir():
        text += f" ({root / dataset.pickles} has pickles, which are not read because unpickling executes code)"
    if name == "kmnist" and split == "train":
        text += " (kmnist-test-split is an unofficial split of the test images alone)"
    return text


def _bytes(path: Path) -> bytearray:
    """The content of a file, unpacked if it is packed, whatever its name says: some browsers unpack .gz files."""
    try:
        raw = path.read_bytes()
        return bytearray(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)  # no format here begins so
    except (EOFError, OSError, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read or is truncated ({error})") from None


def _idx(path: Path, dims: int) -> Tensor:
    """A uint8 tensor in the IDX format: magic number 0x0800 + dims, big-endian sizes, bytes."""
    raw, header, magic = _bytes(path), 4 + 4 * dims, 0x0800 + dims
    if len(raw) < header:
        raise ConfigError(f"{path} is truncated: {len(raw)} bytes, an IDX header has {header}")
    found, *shape = struct.unpack(f">{1 + dims}I", raw[:header])
    if found != magic:
        raise ConfigError(f"{path} has magic number {found}, not {magic} (IDX, uint8, {dims} dimensions)")
    values = torch.frombuffer(raw, dtype=torch.uint8)[header:]
    wanted = prod(shape)
    if len(values) != wanted:
        fault = "truncated" if len(values) < wanted else "too long"
        raise ConfigError(f"{path} is {fault}: {len(values)} bytes after the header, sizes {shape} need {wanted}")
    return values.view(shape)


def _read_idx(paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    return _idx(paths[0], 3).unsqueeze(1), _idx(paths[1], 1).long()


def _read_cifar(paths: Sequence[Path], labels: int) -> tuple[Tensor, Tensor]:
    """Rows of label bytes, of which the last is the class (CIFAR-100 has a coarse label first), and R, G, B planes."""
    width, rows = labels + 3 * 32 * 32, []
    for path in paths:
        raw = _bytes(path)
        if not raw or len(raw) % width:
            raise ConfigError(f"{path} is truncated or of another format: {len(raw)} bytes, not a multiple of {width}")
        rows.append(torch.frombuffer(raw, dtype=torch.uint8).view(-1, width))
    table = torch.cat(rows)
    return table[:, labels:].reshape(-1, 3, 32, 32), table[:, labels - 1].long()


def _read_svhn(paths: Sequence[Path]) -> tuple[Tensor, Tensor]:
    try:
        from scipy.io import loadmat  # not a dependency of kanpde
    except ImportError:
        raise ConfigError("svhn needs scipy: pip install scipy") from None
    raw = _bytes(paths[0])
    try:
        content = loadmat(BytesIO(raw), variable_names=("X", "y"))
        x = torch.from_numpy(content["X"]).permute(3, 2, 0, 1).contiguous()
        y = torch.from_numpy(content["y"]).flatten().long()
    except Exception as error:  # loadmat raises almost anything at a damaged file
        reason = " ".join(str(error).split())
        raise ConfigError(f"{paths[0]} is damaged or no .mat file with X and y ({reason})") from None
    return x, y.where(y != 10, 0)  # the digit 0 has label 10


def _check(dataset: Dataset, path: Path, images: Images) -> None:
    x, y = images.x, images.y
    wanted = [dataset.channels, dataset.size, dataset.size]
    if x.dtype != torch.uint8 or list(x.shape[1:]) != wanted or len(x) == 0:
        raise ConfigError(f"{path} has {len(x)} images of shape {list(x.shape[1:])} in {x.dtype}, not uint8 {wanted}")
    if len(x) != len(y):
        raise ConfigError(f"{path} has {len(x)} images, but there are {len(y)} labels")
    if y.min() < 0 or y.max() >= dataset.classes:
        raise ConfigError(f"the labels of {path} are {int(y.min())} to {int(y.max())}, not 0 to {dataset.classes - 1}")


def _check_identity(name: str, path: Path, x: Tensor) -> None:
    """Files directly in the folder do not say which of three data sets they are, but their brightness does."""
    mean = x[:1000].float().mean().item() / 255
    nearest = min(MNIST_LIKE, key=lambda other: abs(DATASETS[other].mean[0] - mean))
    if nearest != name:
        home = path.parent / DATASETS[nearest].folders[0]
        raise ConfigError(f"{name}: {path} is {nearest} by its mean {mean:.3f}: it belongs into {home}")


def split_validation(images: Images, part: int | float, generator: torch.Generator) -> tuple[Images, Images]:
    """(train, validation): a number or a fraction < 1 of the images drawn for validation, as many of each class."""
    n = len(images)
    count = round(part * n) if isinstance(part, float) and part < 1 else part
    if not isinstance(count, int) or not 0 < count < n:
        raise ConfigError(f"validation {part} of {n} images: wanted a number from 1 to {n - 1}, or a fraction below 1")
    order = torch.randperm(n, generator=generator, device=generator.device).to(images.y.device)
    by_class = order[images.y[order].argsort(stable=True)]
    chosen = torch.zeros(n, dtype=torch.bool, device=images.y.device)
    chosen[by_class[torch.arange(count, device=by_class.device) * n // count]] = True  # evenly through the classes
    return images[~chosen], images[chosen]


def normalise(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pixels scaled to [0, 1], minus the mean, over the standard deviation of their channel, in float32."""
    shift, scale = (torch.tensor(v, dtype=torch.float32, device=x.device).view(-1, 1, 1) for v in (mean, std))
    return (x.float() / 255 - shift) / scale


def resize28(x: Tensor) -> Tensor:
    """Images resized to 28 x 28 (bilinear, antialiased) in their own dtype; uint8 is rounded, as image tools do."""
    if x.shape[-2:] == (28, 28):
        return x
    y = F.interpolate(x.float(), size=(28, 28), mode="bilinear", antialias=True)
    return y.round().clamp(0, 255).to(x.dtype) if x.dtype == torch.uint8 else y.to(x.dtype)


def augment(x: Tensor, generator: torch.Generator, kind: str = "none") -> Tensor:
    """A batch (N, C, H, H) with each image cropped at random after zero padding ("crop"), or also flipped left to
    right half of the time ("flip-crop"). Zero is black before `normalise`, as usual, and the mean colour after it."""
    kinds = ("none", "crop", "flip-crop")
    if kind not in kinds:
        raise ConfigError(suggest("augmentation", kind, kinds))
    if kind == "none":
        return x
    n, channels, size = x.shape[:3]
    if x.shape[-1] != size or size not in PADDING:
        raise ConfigError(f"augmentation {kind}: images of {list(x.shape[-2:])} pixels, known: 32 x 32 and 28 x 28")
    pad = PADDING[size]

    pixel = torch.arange(size, device=x.device)
    shifts = torch.randint(2 * pad + 1, (2, n, 1), generator=generator, device=generator.device).to(x.device)
    rows, columns = shifts + pixel
    if kind == "flip-crop":
        flip = torch.randint(2, (n, 1), generator=generator, device=generator.device).to(x.device)
        columns = torch.where(flip == 1, columns.flip(1), columns)
    image = torch.arange(n, device=x.device).view(n, 1, 1, 1)
    channel = torch.arange(channels, device=x.device).view(channels, 1, 1)
    return F.pad(x, (pad,) * 4)[image, channel, rows.view(n, 1, size, 1), columns.view(n, 1, 1, size)]


IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def _mnist_like(mean: float, std: float, folders: tuple[str, ...], url: str) -> Dataset:
    return Dataset((mean,), (std,), _read_idx, IDX_FILES, folders, url, channels=1, size=28)


DATASETS: dict[str, Dataset] = {
    "mnist": _mnist_like(0.1307, 0.3081, ("MNIST/raw", "mnist"), "https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion-mnist": _mnist_like(
        0.2860, 0.3530, ("FashionMNIST/raw", "fashion-mnist"), "https://github.com/zalandoresearch/fashion-mnist"
    ),
    "kmnist": _mnist_like(0.1918, 0.3483, ("KMNIST/raw", "kmnist"), "http://codh.rois.ac.jp/kmnist/dataset/kmnist/"),
    "cifar10": Dataset(
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        decode=partial(_read_cifar, labels=1),
        files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
        folders=("cifar-10-batches-bin", "cifar10"),
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        pickles="cifar-10-batches-py",
    ),
    "cifar100": Dataset(
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        decode=partial(_read_cifar, labels=2),
        files={"train": ("train.bin",), "test": ("test.bin",)},
        folders=("cifar-100-binary", "cifar100"),
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        classes=100,
        pickles="cifar-100-python",
    ),
    "svhn": Dataset(
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        decode=_read_svhn,
        files={"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        folders=("SVHN", "svhn"),
        url="http://ufldl.stanford.edu/housenumbers/",
    ),
}
DATASETS["kmnist-test-split"] = replace(
    DATASETS["kmnist"],
    files=dict.fromkeys(SPLITS, IDX_FILES["test"]),
    note="KMNIST's test images split 8 000 / 2 000: not the official benchmark",
)
