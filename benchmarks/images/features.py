"""The features that a trained classifier has for the test images, for the t-SNE of Figure 7.

    python -m benchmarks.features RUN.h5 ... [--data DIR] [--out runs/features]

The checkpoint of each run lies beside it (RUN.pt). Writes an .npz file a run, with arrays features (what the last layer
sees), labels and model, which `python -m benchmarks.figures tsne --runs runs/features` draws.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.study import Parser, exiting
from benchmarks.images import conv, dense, nets
from benchmarks.images.series import task_of
from kanpde.runs.models import Run, fitting, load_checkpoint

TEST_IMAGES = 2000  # t-SNE shows no more


@torch.no_grad()
def of_run(path: Path, folder: Path | None = None) -> dict[str, np.ndarray | str]:
    """Features (N, n), labels (N,) and the name of the model, with the best weights of a run.

    Raises:
        ConfigError: not the result of a classifier, or its checkpoint or the data are missing.
    """
    task = task_of(Run.open(path))
    build = (dense if task.flat else conv).build
    spec = {"name": task.model, **task.options}
    net = build(spec, task.shape, task.info.classes, torch.Generator().manual_seed(0))
    checkpoint = path.with_suffix(".pt")
    with fitting(checkpoint):
        net.load_state_dict(load_checkpoint(checkpoint)["best"]["weights"])
    test = task.read("test", folder)
    x = [nets.features(net, task.inputs(part)) for part in test.x[:TEST_IMAGES].split(250)]
    return {"features": torch.cat(x).numpy(), "labels": test.y[:TEST_IMAGES].numpy(), "model": task.model}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("features", __doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, help="folder of the data sets; default $KANPDE_DATA")
    args = parser.common(Path("runs/features")).parse_args(argv)
    found = {path.stem: of_run(path, args.data) for path in args.runs}
    args.out.mkdir(parents=True, exist_ok=True)
    for stem, arrays in found.items():
        np.savez(args.out / f"{stem}.npz", **arrays)
        print(args.out / f"{stem}.npz")


if __name__ == "__main__":
    exiting(main, "features")
