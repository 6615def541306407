"""Reading checkpoints: the trained model of a run, or weights to start another one from."""

import copy
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from kanpde.training import setup
from kanpde.jets.ansatz import Ansatz
from kanpde.ground.errors import ConfigError
from kanpde.config import RunConfig
from kanpde.kan.compress import generate_like
from kanpde.kan.grids import extend_grid
from kanpde.problems.base import own
from kanpde.records.run import Run, RunFileError
from kanpde.users.modules import kept_in


def load_model(run: Run, trust: bool = False, best: bool = True, net: nn.Module | None = None, problem=None) -> Ansatz:
    """See `Run.load_model`."""
    config = setup.config_of(run)
    if problem is None:
        problem = setup.problem(config, run.attrs.get("problem_source"), trust, kept_in(run.attrs))
    problem = own(problem)
    net = setup.network(config, problem, copy.deepcopy(net), trained=True)
    u = Ansatz(problem, net, config.constraint == "hard").to(getattr(torch, config.dtype))
    saved = load_checkpoint(run.checkpoint)
    with fitting(run.checkpoint):
        refine_grids(u.net, config, saved)
        u.load_state_dict(saved["best"]["weights"] if best else last_weights(saved))
    return u.eval()


def refine_grids(net: nn.Module, config: RunConfig, saved: dict) -> None:
    """Grids as fine as in a checkpoint: as the last phase that has begun says."""
    begun = 0 if saved["optimizer"] is None else saved["phase"] + 1
    sizes = [p.grid_size for p in config.phases[:begun] if p.grid_size is not None]
    if sizes:
        extend_grid(net, sizes[-1])


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


def start_from(net: nn.Module, path: Path) -> None:
    """Give a network the best weights of another run; generated weights may start from the free ones of a KAN.

    Raises:
        ConfigError: the run has another network, or no checkpoint.
    """
    checkpoint = path.with_suffix(".pt")
    with fitting(checkpoint):
        best = load_checkpoint(checkpoint)["best"]["weights"]
        weights = {name.removeprefix("net."): value for name, value in best.items() if name.startswith("net.")}
        if weights.keys() >= net.state_dict().keys():  # older runs have several names of a shared meta-learner
            net.load_state_dict(weights)
        else:
            generate_like(net, load_model(Run.open(path)).net)
