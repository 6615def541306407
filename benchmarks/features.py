"""The features that a trained classifier has for the test images, for the t-SNE of Figure 7.

    python -m benchmarks.features RUN.h5 ... [--data DIR] [--out runs/features]

The checkpoint of each run lies beside it (RUN.pt). Writes an .npz file a run, with arrays features (what the last layer
sees), labels and model, which `python -m benchmarks.figures tsne --runs runs/features` draws.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks import conv, images, nets
from benchmarks.recipes import Recipe, Task
from benchmarks.report import exiting
from kanpde.checkpoints import fitting, load_checkpoint
from kanpde.config import ConfigError
from kanpde.construct import call
from kanpde.record import Run

TEST_IMAGES = 2000  # t-SNE shows no more


@torch.no_grad()
def of_run(path: Path, folder: Path | None = None) -> dict[str, np.ndarray | str]:
    """Features (N, n), labels (N,) and the name of the model, with the best weights of a run.

    Raises:
        ConfigError: not the result of a classifier, or its checkpoint or the data are missing.
    """
    attrs = Run.open(path).attrs
    if attrs.get("kind") != "classification":
        raise ConfigError(f"{path}: not the result of a classifier")
    config = json.loads(attrs["config"])
    flat = config["model"] in nets.CLASSIFIERS
    recipe = call("recipe", Recipe, config["recipe"])
    task = Task(config["dataset"], config["model"], config["options"], recipe, int(attrs["seed"]), flat)
    build = (images if flat else conv).build
    spec = {"name": task.model, **task.options}
    net = build(spec, task.shape, task.info.classes, torch.Generator().manual_seed(0))
    checkpoint = path.with_suffix(".pt")
    with fitting(checkpoint):
        net.load_state_dict(load_checkpoint(checkpoint)["best"]["weights"])
    test = task.read("test", folder)
    x = [nets.features(net, task.inputs(part)) for part in test.x[:TEST_IMAGES].split(250)]
    return {"features": torch.cat(x).numpy(), "labels": test.y[:TEST_IMAGES].numpy(), "model": task.model}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the data sets; default $KANPDE_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/features"))
    args = parser.parse_args()
    found = {path.stem: of_run(path, args.data) for path in args.runs}
    args.out.mkdir(parents=True, exist_ok=True)
    for stem, arrays in found.items():
        np.savez(args.out / f"{stem}.npz", **arrays)
        print(args.out / f"{stem}.npz")


if __name__ == "__main__":
    exiting(main, "features")
