"""What is installed here, whether it computes what it should, and what is known not to go together.

Packages and their versions are those of kanpde's own metadata: nothing is listed twice.
"""

import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import monotonic
from typing import Literal

import torch
from packaging.requirements import Requirement

from kanpde.ground.metrics import available_bytes
from kanpde.operators import Forward
from kanpde.problems import PoissonPairs
from kanpde.runs.api import train
from kanpde.runs.models import Run
from kanpde.testing import check_operator
from kanpde.training.plan import compiles

DEVELOPERS = ("test", "bench", "browser", "docs")  # extras that a user does without
EXACT = 1e-12  # relative l2 error of a solution that the network of the check holds
State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Line:
    """A line of what there is to say.

    Attributes:
        about: versions, machine or checks.
        name, says: what it is of, and what of it.
        state: ok, a note, or wrong, which needs to be mended.
    """

    about: Literal["versions", "machine", "checks"]
    name: str
    says: str
    state: State = "ok"


def examined() -> list[Line]:
    """All there is to say, after some seconds.

    Example:
        >>> [line.says for line in examined() if line.state == "wrong"]
        []
    """
    return [*versions(), *machine(), *checks()]


def versions() -> list[Line]:
    """kanpde, Python and each package that kanpde asks for, or an extra of it for users."""
    asked = [Requirement(text) for text in metadata.requires("kanpde") or ()]
    extra = lambda one: str(one.marker).partition("extra == ")[2].strip("\"'") if one.marker else ""
    lines = [
        Line("versions", "kanpde", metadata.version("kanpde")),
        Line("versions", "python", platform.python_version()),
    ]
    return lines + [_version(one, extra(one)) for one in asked if extra(one) not in DEVELOPERS]


def _version(asked: Requirement, extra: str) -> Line:
    try:
        found = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        if extra:
            return Line("versions", asked.name, f"not installed: pip install 'kanpde[{extra}]'", "note")
        return Line("versions", asked.name, f"not installed, needed is {asked.specifier}", "wrong")
    if asked.specifier.contains(found, prereleases=True):
        return Line("versions", asked.name, found)
    return Line("versions", asked.name, f"{found}, needed is {asked.specifier}", "wrong")


def machine() -> list[Line]:
    """Processor, threads, memory, GPUs, and whether steps can be compiled."""
    threads, free = torch.get_num_threads(), available_bytes() / 2**30
    lines = [
        Line(
            "machine",
            "processor",
            f"{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        ),
        Line("machine", "threads of torch", str(threads)),
        Line("machine", "free memory", f"{free:.1f} GiB" if free < float("inf") else "unknown"),
    ]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines += [Line("machine", f"cuda:{i}", name) for i, name in enumerate(gpus)]
    if torch.version.cuda and not gpus:
        lines.append(
            Line("machine", "cuda", "a build of torch for GPUs, and none that it can use: runs are on the CPU", "note")
        )
    if not compiles("cuda" if gpus else "cpu"):
        lines.append(
            Line("machine", "torch.compile", "not here (torch 2.11 and a C++ compiler): steps run as they are", "note")
        )
    elif threads > 1 and not gpus:
        says = "of several threads: generated weights take their tiles, as what it makes of the table is wrong"
        lines.append(Line("machine", "torch.compile", says, "note"))
    return lines


def checks() -> list[Line]:
    """What is computed here, against what it should be."""
    return [_checked(name, check) for name, check in CHECKS.items()]


def _checked(name: str, check: Callable[[], str]) -> Line:
    began = monotonic()
    try:
        says = check()
    except Exception as error:  # whatever it is, it is what was looked for
        return Line("checks", name, f"{type(error).__name__}: {' '.join(str(error).split())}", "wrong")
    return Line("checks", name, f"{says}, {monotonic() - began:.1f} s")


def _derivatives() -> str:
    return f"within {max(gap for *_, gap in check_operator(Forward()).lines):.0e} of automatic differentiation"


def _run() -> str:
    """A solution that the network holds is found to the last digits, and its file opens again."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            PoissonPairs(4),
            solver="low_dim",
            constraint="soft",
            backbone={"name": "chebykan", "widths": [4], "degree": 2, "squash": "none"},
            points={"interior": 100, "boundary": 200, "test": 500, "validation": 50},
            phases=[{"optimizer": "levenberg_marquardt", "steps": 12}],
            out=Path(folder, "run.h5"),
        )
        again = Run.open(run.path)
        if not run.rel_l2 < EXACT or again.rel_l2 != run.rel_l2:
            raise ArithmeticError(
                f"an error of {run.rel_l2:.1e}, and {again.rel_l2:.1e} in the file; needed is {EXACT}"
            )
        return f"a Poisson equation to {run.rel_l2:.0e}"


def _picture() -> str:
    from matplotlib.figure import Figure

    with tempfile.TemporaryDirectory() as folder:
        figure = Figure()
        figure.subplots().plot([0, 1])
        figure.savefig(Path(folder, "picture.png"))
    return "drawn and written"


CHECKS: dict[str, Callable[[], str]] = {"derivatives": _derivatives, "a run": _run, "a picture": _picture}
