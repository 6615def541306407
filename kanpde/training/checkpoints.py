"""Checkpoints as files: read with care, and grids made as fine as theirs."""

from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from kanpde.config import RunConfig
from kanpde.ground.errors import ConfigError
from kanpde.kan.grids import refine
from kanpde.records.run import RunFile, RunFileError


def refine_grids(net: nn.Module, config: RunConfig, saved: dict) -> None:
    """Grids as fine as in a checkpoint: as the last phase that has begun says, in slabs of time of each of them."""
    if (now := saved.get("slab")) is None:
        _refine(net, config, 0 if saved["optimizer"] is None else saved["phase"] + 1)
        return
    for done in net.nets[:now]:
        _refine(done, config, len(config.phases))
    refine_grids(net.nets[now], config, saved["training"])


def _refine(net: nn.Module, config: RunConfig, begun: int) -> None:
    """Grids as so many phases leave them."""
    resolutions = [resolution for phase in config.phases[:begun] for resolution in phase.refines.values()]
    if resolutions:
        refine(net, resolutions[-1])


def last_weights(saved: dict) -> dict:
    """Those that the run's errors are of: the weights, or their average."""
    averaged = saved.get("average") or {}
    return {k.removeprefix("module."): v for k, v in averaged.items() if k.startswith("module.")} or saved["weights"]


@contextmanager
def fitting(path: Path):
    """What torch says of a checkpoint of another problem or network becomes one line."""
    try:
        yield
    except (ConfigError, RunFileError):
        raise
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        raise ConfigError(f"{path}: the checkpoint does not fit this problem and network") from None


def load_checkpoint(path: Path) -> dict:
    """The checkpoint beside a result file; tensors and plain values only.

    Raises:
        ConfigError: it is missing or broken.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such checkpoint")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # pickle, zip and torch each have their own
        raise ConfigError(f"{path}: not a readable checkpoint") from None


def checkpoint_of(run: RunFile) -> dict:
    """The checkpoint of an opened result.

    Raises:
        ConfigError: it is missing or broken, or that of another run.
    """
    saved = load_checkpoint(run.checkpoint)
    if not isinstance(saved, dict):
        raise ConfigError(f"{run.checkpoint}: not a checkpoint of kanpde")
    if saved.get("id") != run.attrs.get("id"):
        raise ConfigError(f"{run.checkpoint}: the checkpoint of another run than {run.path}")
    return saved
