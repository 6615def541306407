"""Pictures and VTK files of a result file; nothing here knows a model."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import convergence, quantiles, radial, times
from kanpde.plot.graph import EdgePictures, network_graph
from kanpde.plot.parity import parity
from kanpde.plot.similarity import similarity_figure
from kanpde.plot.slices import slice_2d
from kanpde.plot.volumes import grid_3d, render_3d, save_vtk
from kanpde.records.run import RunFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "EdgePictures",
    "convergence",
    "grid_3d",
    "main_pictures",
    "network_graph",
    "parity",
    "plot_run",
    "quantiles",
    "radial",
    "render_3d",
    "save_vtk",
    "similarity_figure",
    "slice_2d",
    "times",
    "write",
]

DPI = 200


def main_pictures(run: RunFile, folder: str | Path | None = None) -> list[Path]:
    """Write <stem>-convergence.png, of a run with a slice <stem>-error.png, of a fit <stem>-parity.png.

    Where errors are known by time, <stem>-times.png.

    Beside the run by default; of a system <stem>-error-<field>.png of each.
    """
    flat = _flat_slices(run)
    pictures = {"convergence": convergence(run)}
    for name, view in run.views().items() if flat else ():
        pictures[f"error{_of(run, name)}"] = slice_2d(view, flat[0])
    if run.attrs.get("fits") and "u_exact" in run.field:
        pictures["parity"] = parity(run)
    if len(run.table("times").get("t", ())) > 1:
        pictures["times"] = times(run)
    return write(run, folder, pictures)


def plot_run(run: RunFile, folder: str | Path | None = None, vtk: bool = True, render: bool = True) -> list[Path]:
    """Write every picture the file has the data for, and return the paths written; beside the run by default.

    Args:
        vtk: also a .vti per slice and a .vtp of the test points.
        render: also a picture of each volume; where the machine cannot render, that is a warning.
    """
    folder = run.path.parent if folder is None else Path(folder)
    paths = main_pictures(run, folder)
    pictures: dict[str, Figure] = {}
    for field, view in run.views().items():
        of = _of(run, field)
        pictures |= {f"slice-{name}{of}": slice_2d(view, name) for name in _flat_slices(run)[1:]}
        if np.isfinite(view.field.get("error", ())).any():
            pictures |= {f"quantiles{of}": quantiles(view)}
            if "radius" in view.field and not run.attrs.get("fits"):  # inputs of a fit have units of their own
                pictures |= {f"radial{of}": radial(view)}
    paths += write(run, folder, pictures)
    if vtk:
        paths += save_vtk(run, folder)
    if render:
        paths += _render(run, folder)
    return paths


def _of(run: RunFile, field: str) -> str:
    """What names of pictures of a field end with."""
    return f"-{field}" if len(run.fields) > 1 else ""


def _flat_slices(run: RunFile) -> list[str]:
    """Names of the lines and planes: the one that stands for the run first, a plane rather than a line."""
    axes = {name: len(data["axes"]) for name, data in run.slices.items()}
    return sorted(
        (name for name in axes if axes[name] <= 2),
        key=lambda name: (name == "estimated", name != "random", axes[name] != 2),
    )


def write(run: RunFile, folder: str | Path | None, pictures: "dict[str, Figure]") -> list[Path]:
    """Write figures as <stem>-<name>.png, beside the run by default, and return their paths."""
    folder = run.path.parent if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{run.path.stem}-{name}.png" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        figure.savefig(path, dpi=DPI)
    return paths


def _render(run: RunFile, folder: Path) -> list[Path]:
    """The first volume is <stem>-volume.png, others carry their name too."""
    written: list[Path] = []
    for name in (name for name, data in run.slices.items() if len(data["axes"]) == 3):
        path = folder / f"{run.path.stem}-volume{f'-{name}' if written else ''}.png"
        for field, view in run.views().items():
            named = path.with_stem(path.stem + _of(run, field))
            try:
                render_3d(view, name, named)
            except RuntimeError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=3)
                return written
            written.append(named)
    return written
