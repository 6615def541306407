"""Pictures and VTK files of a result file; nothing here knows a model."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kanpde.plot.curves import beside_floors, by_time, convergence, epochs, quantiles, radial
from kanpde.plot.graph import EdgePictures, network_graph
from kanpde.plot.inline import Figures, Picture, picture
from kanpde.plot.panels import curves_at_times, over_time, planes, side_by_side
from kanpde.plot.parity import parity
from kanpde.plot.rotatable import rotatable
from kanpde.plot.similarity import similarity_figure
from kanpde.plot.slices import Slice, slice_2d
from kanpde.plot.sweep import learning_curves
from kanpde.plot.volumes import grid_3d, mesh_3d, render_3d, save_vtk
from kanpde.records.run import RunFile
from kanpde.records.sweep import Sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "EdgePictures",
    "Figures",
    "Picture",
    "beside_floors",
    "by_time",
    "convergence",
    "curves_at_times",
    "epochs",
    "flat_slices",
    "grid_3d",
    "learning_curves",
    "main_figures",
    "main_pictures",
    "mesh_3d",
    "network_graph",
    "other_figures",
    "over_time",
    "parity",
    "picture",
    "planes",
    "plot_run",
    "plot_sweep",
    "quantiles",
    "radial",
    "render_3d",
    "rotatable",
    "save_vtk",
    "side_by_side",
    "similarity_figure",
    "slice_2d",
    "write",
]

DPI = 200


def main_pictures(run: RunFile, folder: str | Path | None = None) -> list[Path]:
    """Write <stem>-convergence.png, of a run with a slice <stem>-error.png, of a fit <stem>-parity.png.

    Where errors are known by time, <stem>-by-time.png.

    Beside the run by default. The error is that on the slice that stands for the run, of a system in rows of its
    fields; of two coordinates of space and time at several times; of three of space on three planes. Of one coordinate
    and time <stem>-times.png has curves beside it.
    """
    return write(run, folder, main_figures(run))


def main_figures(run: RunFile) -> Figures:
    """The figures of `main_pictures` by their names; of a classifier its learning curves."""
    if "step" not in run.history:
        return Figures({"epochs": epochs(run)} if "epoch" in run.history else {})
    figures = Figures({"convergence": convergence(run), **_of_slices(run)})
    if run.attrs.get("fits") and "u_exact" in run.field:
        figures["parity"] = parity(run)
    if len(run.table("times").get("t", ())) > 1:
        figures["by-time"] = by_time(run)
    return figures


def _of_slices(run: RunFile) -> "dict[str, Figure]":
    flat, three, views = flat_slices(run), _planes(run), run.views()
    if not flat:
        return {}
    if "axes" in flat or not _at_times(run, "domain"):
        if three:
            return {f"error{_of(run, field)}": planes(view, three) for field, view in views.items()}
        made = {"error": slice_2d(run, flat[0]) if len(views) == 1 else side_by_side(run, flat[0])}
        cut = Slice.of(next(iter(views.values())), flat[0])
        return made | ({"times": curves_at_times(run, flat[0])} if cut.turned else {})
    if len(run.meshes["domain"]["axes"]) == 2:
        return {"error": over_time(run, ["domain"])}
    shown = [name for name in three if _at_times(run, name)]
    return {f"error{_of(run, field)}": over_time(view, shown) for field, view in views.items() if shown}


def plot_run(run: RunFile, folder: str | Path | None = None, vtk: bool = True, render: bool = True) -> list[Path]:
    """Write every picture the file has the data for, and return the paths written; beside the run by default.

    Args:
        vtk: also files for ParaView, see `kanpde.plot.volumes.save_vtk`.
        render: also a picture of each volume; where the machine cannot render, that is a warning.
    """
    folder = run.path.parent if folder is None else Path(folder)
    paths = main_pictures(run, folder) + write(run, folder, other_figures(run))
    if vtk:
        paths += save_vtk(run, folder)
    if render:
        paths += _render(run, folder)
    return paths


def other_figures(run: RunFile) -> Figures:
    """Slices that are in no main picture, and of each field the error against |x| and its quantiles."""
    pictures = Figures()
    others = [name for name in flat_slices(run)[1:] if name not in _planes(run)]
    for field, view in run.views().items():
        of = _of(run, field)
        pictures |= {f"slice-{name}{of}": slice_2d(view, name) for name in others}
        if np.isfinite(view.field.get("error", ())).any():
            pictures |= {f"quantiles{of}": quantiles(view)}
            if "radius" in view.field and not run.attrs.get("fits"):  # inputs of a fit have units of their own
                pictures |= {f"radial{of}": radial(view)}
    return pictures


def plot_sweep(sweep: Sweep, folder: str | Path | None = None) -> list[Path]:
    """Write the learning curves of a sweep as sweep.png, in its own folder by default, and return the path."""
    path = (sweep.folder if folder is None else Path(folder)) / "sweep.png"
    learning_curves(sweep).savefig(path, dpi=DPI)
    return [path]


def _at_times(run: RunFile, mesh: str) -> bool:
    return "times" in run.meshes.get(mesh, ())


def _planes(run: RunFile) -> list[str]:
    """The planes of three coordinates of space, which are one picture."""
    return sorted(name for name in run.slices if name.startswith("plane_"))


def _of(run: RunFile, field: str) -> str:
    """What names of pictures of a field end with."""
    return f"-{field}" if len(run.fields) > 1 else ""


def flat_slices(run: RunFile) -> list[str]:
    """Names of the lines and planes: the one that stands for the run first, a plane rather than a line."""
    axes = {name: len(data["axes"]) for name, data in run.slices.items()}
    return sorted(
        (name for name in axes if axes[name] <= 2),
        key=lambda name: (name == "estimated", name not in ("random", "plane_01"), axes[name] != 2),
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
    """The first volume is <stem>-volume.png, others carry their name too; the boundary is <stem>-surface.png."""
    written: list[Path] = []
    solids = [name for name in ("domain", "surface") if np.shape(run.meshes.get(name, {}).get("axes"))[:1] == (3,)]
    cubes = [name for name, data in run.slices.items() if len(data["axes"]) == 3 and "domain" not in solids]
    for name in (*solids, *cubes):
        kind = "volume" if name != "surface" else name
        path = folder / f"{run.path.stem}-{kind}{f'-{name}' if name in cubes[1:] else ''}.png"
        for field, view in run.views().items():
            named = path.with_stem(path.stem + _of(run, field))
            try:
                render_3d(view, name, named)
            except RuntimeError as error:
                warnings.warn(str(error), RuntimeWarning, stacklevel=3)
                return written
            written.append(named)
    return written
