"""Image data sets: each format reads back as it was written, bad files meet one line, transforms keep their word."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import close, generator, one_line
from PIL import Image
from scipy.io import savemat
from torch import Tensor
from torch.nn import functional as F

from benchmarks.images.data import DATASETS, Images, augment, normalise, read, resize28, split_validation
from kanpde.ground.errors import ConfigError

REAL = Path(os.environ.get("KANPDE_DATA") or Path(__file__).parents[2] / "shared" / "data")
GREY = ("mnist", "fashion-mnist", "kmnist")


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, generator=generator(seed), dtype=torch.uint8)


def black_and_white(name: str, n: int, seed: int = 0) -> Tensor:
    """Images (n, 28, 28) as bright as the data set's."""
    return (torch.rand(n, 28, 28, generator=generator(seed)) < DATASETS[name].mean[0]).byte() * 255


def idx(values: Tensor) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", 0x0800 + values.ndim, *values.shape) + values.numpy().tobytes()


def write(path: Path, content: bytes, packed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_grey(folder: Path, x: Tensor, y: Tensor, split: str = "train", packed: bool = False) -> None:
    for file, values in zip(DATASETS["mnist"].files[split], (x, y), strict=True):
        write(folder / file, idx(values), packed)


def write_svhn(path: Path, x: Tensor, labels: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"X": x.permute(2, 3, 1, 0).numpy(), "y": np.array(labels, np.uint8)[:, None]})


def same(images: Images, x: Tensor, y: Tensor | list[int]) -> None:
    assert images.x.dtype == torch.uint8 and images.y.dtype == torch.int64
    assert torch.equal(images.x, x) and images.y.tolist() == list(y)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [0, 1, None], ids=["torchvision", "own", "flat"])
@pytest.mark.parametrize("name", GREY)
def test_idx_files_in_each_layout(tmp_path, name, place, packed):
    x, y = black_and_white(name, 6), torch.tensor([0, 9, 3, 3, 1, 2], dtype=torch.uint8)
    folder = tmp_path if place is None else tmp_path / DATASETS[name].folders[place]
    write_grey(folder, x, y, "train", packed)
    write_grey(folder, x[:2], y[:2], "test", packed)
    same(read(name, "train", tmp_path), x.unsqueeze(1), y)
    same(read(name, "test", tmp_path), x[:2].unsqueeze(1), y[:2])


def test_gzip_is_known_by_its_content(tmp_path):
    """Browsers leave unpacked files called .gz, and packed ones without the suffix."""
    x, y = pixels(2, 28, 28), torch.tensor([4, 5], dtype=torch.uint8)
    write(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", idx(x))
    write(tmp_path / "mnist" / "train-labels-idx1-ubyte", gzip.compress(idx(y)))
    same(read("mnist", "train", tmp_path), x.unsqueeze(1), y)


def test_each_data_set_has_its_own_folder_before_the_common_one(tmp_path):
    y = torch.zeros(3, dtype=torch.uint8)
    for seed, folder in enumerate(("MNIST/raw", "KMNIST/raw", "fashion-mnist", ".")):
        write_grey(tmp_path / folder, pixels(3, 28, 28, seed=seed), y)
    for seed, name in enumerate(("mnist", "kmnist", "fashion-mnist")):
        same(read(name, "train", tmp_path), pixels(3, 28, 28, seed=seed).unsqueeze(1), y)


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_grey(tmp_path / "mnist", pixels(2, 28, 28), torch.tensor([1, 2], dtype=torch.uint8))
    monkeypatch.setenv("KANPDE_DATA", str(tmp_path))
    assert read("mnist", "train").y.tolist() == [1, 2]
    monkeypatch.delenv("KANPDE_DATA")
    with pytest.raises(ConfigError) as info:
        read("mnist", "train")
    assert "KANPDE_DATA" in one_line(info) and "MNIST/raw/train-images-idx3-ubyte" in one_line(info)


def write_cifar(path: Path, labels: list[tuple[int, ...]], x: Tensor) -> None:
    planes = [b"".join(plane.numpy().tobytes() for plane in image) for image in x]
    write(path, b"".join(bytes(label) + image for label, image in zip(labels, planes, strict=True)))


@pytest.mark.parametrize("folder", ["cifar-10-batches-bin", "cifar10", "."])
def test_cifar10_planes_and_order_of_the_batches(tmp_path, folder):
    x = pixels(10, 3, 32, 32)
    for i in range(5):
        two = slice(2 * i, 2 * i + 2)
        write_cifar(tmp_path / folder / f"data_batch_{i + 1}.bin", [(2 * i,), (2 * i + 1,)], x[two])
    same(read("cifar10", "train", tmp_path), x, range(10))
    write(tmp_path / folder / "test_batch.bin", bytes([7] + [10] * 1024 + [20] * 1024 + [30] * 1024))
    same(
        read("cifar10", "test", tmp_path), torch.tensor([10, 20, 30]).byte().view(1, 3, 1, 1).expand(1, 3, 32, 32), [7]
    )


def test_cifar100_has_the_fine_labels(tmp_path):
    x = pixels(2, 3, 32, 32)
    write_cifar(tmp_path / "cifar-100-binary" / "train.bin", [(3, 99), (19, 0)], x)
    write_cifar(tmp_path / "cifar-100-binary" / "test.bin", [(19, 0)], x[1:])
    same(read("cifar100", "train", tmp_path), x, [99, 0])
    same(read("cifar100", "test", tmp_path), x[1:], [0])


@pytest.mark.parametrize("folder", [".", "SVHN", "svhn"])
def test_svhn_calls_zero_ten(tmp_path, folder):
    x = pixels(4, 3, 32, 32)
    write_svhn(tmp_path / folder / "train_32x32.mat", x, [10, 1, 9, 10])
    same(read("svhn", "train", tmp_path), x, [0, 1, 9, 0])


def test_kmnist_test_split_is_a_fixed_partition_of_the_test_images(tmp_path):
    x, y = black_and_white("kmnist", 50), (torch.arange(50) % 10).byte()
    x[:, 0, 0] = torch.arange(50)  # the first pixel says which image it is
    write_grey(tmp_path / "kmnist", x, y, "test")
    train, test = (read("kmnist-test-split", split, tmp_path) for split in ("train", "test"))
    assert (len(train), len(test)) == (40, 10)
    order = torch.cat([train.x, test.x])[:, 0, 0, 0].long()
    assert torch.equal(order, torch.randperm(50, generator=generator(0))), "another split than yesterday"
    assert torch.equal(torch.cat([train.x, test.x]).squeeze(1), x[order])
    assert torch.cat([train.y, test.y]).tolist() == (order % 10).tolist(), "labels left their images"
    assert torch.equal(read("kmnist-test-split", "train", tmp_path).x, train.x)
    assert "not the official" in DATASETS["kmnist-test-split"].note


def error(name: str, split: str, folder: Path | None) -> str:
    with pytest.raises(ConfigError) as info:
        read(name, split, folder)
    return one_line(info)


def test_wrong_names_meet_the_nearest(tmp_path):
    assert "did you mean fashion-mnist?" in error("fashionmnist", "train", tmp_path)
    assert "did you mean cifar100?" in error("cifar-100", "train", tmp_path)
    assert "did you mean train?" in error("mnist", "training", tmp_path)


@pytest.mark.parametrize("name", [n for n in DATASETS if n != "kmnist-test-split"])
def test_missing_files_say_what_where_and_how(tmp_path, name):
    dataset = DATASETS[name]
    text = error(name, "train", tmp_path)
    for part in (
        dataset.files["train"][0],
        *(str(tmp_path / sub) for sub in dataset.folders),
        dataset.url,
        "KANPDE_DATA",
    ):
        assert part in text
    assert "has pickles" not in text
    text = error(name, "test", tmp_path / "nowhere")
    assert "no folder" in text and str(tmp_path / "nowhere") in text and dataset.files["test"][0] in text


def test_missing_files_with_a_reason(tmp_path):
    for i in (1, 2, 4, 5):
        write(tmp_path / "cifar10" / f"data_batch_{i}.bin", bytes(3073))
    assert f"no data_batch_3.bin[.gz] in {tmp_path / 'cifar10'};" in error("cifar10", "train", tmp_path)
    assert "has pickles" not in error("cifar10", "test", tmp_path)
    write(tmp_path / "cifar-10-batches-py" / "test_batch", b"")
    write(tmp_path / "cifar-100-python" / "test", b"")
    assert "cifar-10-batches-py has pickles" in error("cifar10", "test", tmp_path)
    assert "cifar-100-python has pickles" in error("cifar100", "test", tmp_path)
    write_grey(tmp_path / "kmnist", pixels(5, 28, 28), torch.zeros(5, dtype=torch.uint8), "test")
    assert "kmnist-test-split" in error("kmnist", "train", tmp_path)


@pytest.mark.parametrize("name", GREY)
def test_flat_files_of_another_data_set_are_refused(tmp_path, name):
    """Three data sets have the same file names: a table of results must not show one of them three times."""
    write_grey(tmp_path, black_and_white(name, 6), torch.zeros(6, dtype=torch.uint8))
    for other in set(GREY) - {name}:
        assert f"is {name} by its mean" in error(other, "train", tmp_path)


X, Y = pixels(3, 28, 28), torch.tensor([0, 1, 2], dtype=torch.uint8)
BAD_IDX = {
    "magic number 2049": (idx(Y.repeat(9)), idx(Y)),
    "magic number 2051": (idx(X), idx(X)),
    "magic number 3331": (b"\0\0\x0d\x03" + idx(X)[4:], idx(Y)),
    "is truncated: 2351 bytes": (idx(X)[:-1], idx(Y)),
    "is truncated: 10 bytes": (idx(X)[:10], idx(Y)),
    "is truncated: 0 bytes": (b"", idx(Y)),
    "is too long: 2353 bytes": (idx(X) + b"\0", idx(Y)),
    "cannot be read or is truncated": (gzip.compress(idx(X))[:-100], idx(Y)),
    "truncated (": (gzip.compress(idx(X)), b"\x1f\x8bnonsense"),
    "labels-idx1-ubyte cannot be read": (idx(X), gzip.compress(idx(Y))[:10] + b"\xff" * 50),
    "not uint8 [1, 28, 28]": (idx(X[:, :27]), idx(Y)),
    "0 images": (idx(X[:0]), idx(Y[:0])),
    "3 images, but there are 2 labels": (idx(X), idx(Y[:2])),
    "are 8 to 10, not 0 to 9": (idx(X), idx(Y + 8)),
}


@pytest.mark.parametrize("fault", BAD_IDX)
def test_damaged_idx_files(tmp_path, fault):
    for file, content in zip(DATASETS["mnist"].files["train"], BAD_IDX[fault], strict=True):
        write(tmp_path / "mnist" / file, content)
    text = error("mnist", "train", tmp_path)
    assert fault in text and str(tmp_path / "mnist" / "train-") in text and DATASETS["mnist"].url in text


@pytest.mark.parametrize("size", [0, 3072, 3074])
def test_damaged_cifar_files(tmp_path, size):
    write(tmp_path / "cifar10" / "test_batch.bin", bytes(size))
    assert f"{size} bytes, not a multiple of 3073" in error("cifar10", "test", tmp_path)
    write(tmp_path / "cifar10" / "test_batch.bin", b"\x0a" + bytes(3072))
    assert "10 to 10, not 0 to 9" in error("cifar10", "test", tmp_path)


def test_damaged_svhn_files(tmp_path):
    path = tmp_path / "train_32x32.mat"
    write_svhn(path, pixels(3, 3, 32, 32), [1, 2, 11])
    assert "1 to 11, not 0 to 9" in error("svhn", "train", tmp_path)
    write_svhn(path, pixels(3, 3, 32, 32), [1, 2])
    assert "3 images, but there are 2 labels" in error("svhn", "train", tmp_path)
    write_svhn(path, pixels(3, 3, 32, 31), [1, 2, 3])
    assert "not uint8 [3, 32, 32]" in error("svhn", "train", tmp_path)
    savemat(path, {"X": np.zeros((32, 32, 3, 1), np.uint8)})
    assert "no .mat file with X and y" in error("svhn", "train", tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    assert "is damaged" in error("svhn", "train", tmp_path)
    path.write_bytes(b"nothing of the kind\n" * 20)
    assert "is damaged" in error("svhn", "train", tmp_path)


def numbered(per_class: list[int]) -> Images:
    """Images of one pixel that say their position, shuffled classes."""
    y = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    y = y[torch.randperm(len(y), generator=generator(3))]
    return Images(torch.arange(len(y)).view(-1, 1, 1, 1), y)


@pytest.mark.parametrize("part", [20, 0.1])
def test_validation_is_a_stratified_part(part):
    images = numbered([100, 60, 40])
    train, validation = split_validation(images, part, generator(5))
    assert torch.equal(validation.y.bincount(), torch.tensor([10, 6, 4]))
    position = torch.cat([train.x, validation.x]).flatten()
    assert torch.equal(position.sort().values, torch.arange(200))
    assert torch.equal(torch.cat([train.y, validation.y]), images.y[position]), "labels left their images"
    again = split_validation(images, part, generator(5))[1]
    assert torch.equal(again.x, validation.x)
    assert not torch.equal(split_validation(images, part, generator(6))[1].x, validation.x)


@pytest.mark.parametrize("part", [0, 20, -1, 0.0, 0.99, 1.5, 1.0])
def test_impossible_validation_parts(part):
    with pytest.raises(ConfigError) as info:
        split_validation(numbered([10, 10]), part, generator())
    assert "from 1 to 19" in one_line(info)


def test_normalise_gives_mean_zero_and_deviation_one():
    x = pixels(500, 3, 8, 8)
    scaled = x.double() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
    y = normalise(x, mean.tolist(), std.tolist())
    assert y.dtype == torch.float32
    close(y.double(), (scaled - mean.view(3, 1, 1)) / std.view(3, 1, 1), 1e-6)


def test_resize_is_that_of_image_tools():
    x = pixels(4, 3, 32, 32)
    y = resize28(x)
    assert y.shape == (4, 3, 28, 28) and y[0].numel() == 2352 and y.dtype == torch.uint8
    for image, ours in zip(x, y, strict=True):
        tool = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).resize((28, 28), Image.Resampling.BILINEAR)
        theirs = torch.from_numpy(np.array(tool)).permute(2, 0, 1)
        assert (ours.int() - theirs.int()).abs().max() <= 1
    assert (resize28(x.float()) - y.float()).abs().max() <= 0.5
    assert torch.equal(resize28(y), y)


def windows(image: Tensor, pad: int) -> Tensor:
    """All crops of an image, (2 pad + 1, 2 pad + 1, C, H, H)."""
    size = image.shape[-1]
    return F.pad(image, (pad,) * 4).unfold(1, size, 1).unfold(2, size, 1).permute(1, 2, 0, 3, 4)


@pytest.mark.parametrize(("size", "pad"), [(32, 4), (28, 2)])
@pytest.mark.parametrize("kind", ["crop", "flip-crop"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_augmented_image_is_a_crop_of_its_own_and_half_are_flipped(size, pad, kind, dtype):
    n = 300
    x = pixels(n, 3, size, size).to(dtype) + 1
    y = augment(x, generator(1), kind)
    assert y.shape == x.shape and y.dtype == dtype
    shifts, flips = [], 0
    for image, out in zip(x, y, strict=True):
        crops = windows(image, pad)
        straight = (crops == out).flatten(2).all(-1).nonzero().tolist()
        mirrored = (crops.flip(-1) == out).flatten(2).all(-1).nonzero().tolist()
        assert len(straight) + len(mirrored) == 1, "not one crop of this image"
        shifts += straight + mirrored
        flips += len(mirrored)
    for axis in zip(*shifts, strict=True):
        assert set(axis) == set(range(2 * pad + 1)), "shifts that never occur"
    assert len(set(map(tuple, shifts))) > 2 * pad + 1, "rows and columns move together"
    assert flips == 0 if kind == "crop" else abs(flips - n / 2) < 5 * (n / 4) ** 0.5


def test_augment_takes_its_randomness_from_the_generator():
    x = pixels(64, 3, 32, 32)
    state = torch.get_rng_state()
    first = augment(x, generator(1), "flip-crop")
    assert torch.equal(augment(x, generator(1), "flip-crop"), first)
    assert not torch.equal(augment(x, generator(2), "flip-crop"), first)
    g = generator(1)
    assert not torch.equal(augment(x, g, "flip-crop"), augment(x, g, "flip-crop"))
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert torch.equal(augment(x, g, "none"), x) and torch.equal(x, pixels(64, 3, 32, 32))


def test_unknown_augmentations():
    with pytest.raises(ConfigError) as info:
        augment(pixels(1, 3, 32, 32), generator(), "flip-corp")
    assert "did you mean flip-crop?" in one_line(info)
    with pytest.raises(ConfigError) as info:
        augment(pixels(1, 3, 30, 30), generator(), "crop")
    assert "[30, 30]" in one_line(info)


def real(name: str, split: str) -> Images:
    if not any((REAL / folder).is_dir() for folder in DATASETS[name].folders):
        pytest.skip(f"no {name} in {REAL}")
    return read(name, split, REAL)


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation per channel, in parts that fit into memory."""
    parts = [(part.double() / 255) for part in x.split(2000)]
    mean = sum(part.sum((0, 2, 3)) for part in parts) / (x.numel() / x.shape[1])
    square = sum(part.square().sum((0, 2, 3)) for part in parts) / (x.numel() / x.shape[1])
    return mean, (square - mean.square()).sqrt()


COUNTS = {"mnist": 60_000, "fashion-mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "svhn": 73_257}


@pytest.mark.parametrize("name", COUNTS)
def test_real_data_have_the_published_statistics(name):
    images, dataset = real(name, "train"), DATASETS[name]
    assert len(images) == COUNTS[name] and len(real(name, "test")) == (26_032 if name == "svhn" else 10_000)
    assert torch.equal(images.y.unique(), torch.arange(dataset.classes))
    mean, std = statistics(images.x)
    assert mean.tolist() == pytest.approx(dataset.mean, abs=1e-4)
    assert std.tolist() == pytest.approx(dataset.std, abs=1e-4)


def test_real_kmnist_has_its_test_images():
    assert real("kmnist", "test").y.bincount().tolist() == [1000] * 10
    train, test = real("kmnist-test-split", "train"), real("kmnist-test-split", "test")
    assert (len(train), len(test)) == (8000, 2000)
