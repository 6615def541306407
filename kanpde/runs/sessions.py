"""Under what a run was computed: a session for its beginning and each time it was gone on with."""

import json
import os
import platform
import subprocess
from importlib.metadata import version

import h5py
import numpy as np
import torch

from kanpde.config import RunConfig
from kanpde.ground.errors import ConfigError
from kanpde.records.run import RunFile

SAME_BITS = ("torch", "threads", "device", "cpu")  # what two runs share whose numbers are the same bit for bit
FORMER = {"torch": "torch_version", "threads": "threads", "device": "device"}  # attributes of files without sessions


def session(config: RunConfig, step: int = 0) -> dict:
    """What there is now, for a run of this configuration that begins or goes on at a step.

    git is the commit of the working directory, -dirty where files differ from it; "" outside of a checkout.
    """
    return {
        "step": step,
        "steps": config.steps,
        "kanpde": version("kanpde"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "h5py": h5py.__version__,
        "threads": torch.get_num_threads(),
        "device": device_name(config.device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "compile": config.compile is True,
        "git": _git(),
    }


def sessions(run: RunFile) -> list[dict]:
    """The sessions of a result, the first one's from attributes where an older file has no others.

    Raises:
        ConfigError: what the file holds are none.
    """
    try:
        found = json.loads(run.attrs.get("sessions", "[]"))
        first = {"step": 0, **{key: run.attrs[name] for key, name in FORMER.items() if name in run.attrs}}
        return [dict(each) for each in found] or [first]
    except (TypeError, ValueError):
        raise ConfigError(f"{run.path}: a damaged kanpde result (no sessions)") from None


def differences(then: dict, now: dict) -> list[str]:
    """What numbers depend on to the last bit, and is not what it was: torch 2.13.0 (the run: 2.12.1), ..."""
    return [f"{key} {now[key]} (the run: {then[key]})" for key in SAME_BITS if key in then and then[key] != now[key]]


def device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _git() -> str:
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    options = {"capture_output": True, "text": True, "timeout": 5, "env": {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}}
    try:
        found = subprocess.run(command, check=True, **options)
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or one that takes long
        return ""
    return found.stdout.strip()
