"""The formats by name, and the call that writes one: it compares the file with the run before it takes its place."""

import io
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kanpde.export import as_c, as_numpy, as_onnx
from kanpde.export.function import Derivatives, Value
from kanpde.export.listing import Listing
from kanpde.ground.errors import ConfigError, suggest
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.tracing import compiled_ahead, exported
from kanpde.records.run import replacing
from kanpde.runs.models import Run
from kanpde.runs.summary import unknowns
from kanpde.training.cuts import coordinate_names

POINTS = 5  # at which a file is compared with the run
OUTPUTS = "value", "gradient", "laplacian"


@dataclass(frozen=True)
class Found:
    """What is exported: the run, its u, and what is said of it."""

    run: Run
    u: Ansatz

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Names, unknowns and origin, as JSON takes them."""
        problem, names = self.u.problem, coordinate_names(self.u.problem)
        return {
            "problem": str(self.run.attrs.get("problem", "")),
            "inputs": names,
            "fields": list(problem.fields),
            "laplacian_over": [names[axis] for axis in problem.axes.space],
            "unknowns": {name: value for name, (_, value) in unknowns(self.run).items()},
            "rel_l2": self.run.rel_l2 if np.isfinite(self.run.rel_l2) else None,
            "run": self.run.path.name,
            "kanpde_version": str(self.run.attrs.get("kanpde_version", "")),
            "torch_version": torch.__version__,
        }

    @cached_property
    def points(self) -> Tensor:
        """Points (n, d) of the domain; of a fit of the box that its rows fill."""
        problem, drawn = self.u.problem, stream(0, "export")
        if problem.fits_rows:
            inwards = self.u.net[0]
            inside = 2 * torch.rand(POINTS, problem.axes.count, generator=drawn, dtype=torch.float64) - 1
            return (inside - inwards.shift) / inwards.scale
        return problem.domain.interior(POINTS, drawn).double()

    @cached_property
    def derivatives(self) -> Derivatives:
        return Derivatives(self.u)

    @cached_property
    def expected(self) -> tuple[Tensor, ...]:
        """Value, gradient and Laplacian at the points."""
        return tuple(part.detach() for part in self.derivatives(self.points))

    def program(self, of: Value | None = None) -> torch.export.ExportedProgram:
        """The program of the derivatives, or of another module."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch about itself
                return exported(of or self.derivatives, self.points)
        except Exception as error:  # torch raises any kind for what it cannot trace
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ConfigError(f"export: torch cannot trace u ({reason})") from None

    def check(self, found: Any, tolerance: float, style: str) -> None:
        """Raises ConfigError where a file gives other numbers than the run."""
        for name, expected, given in zip(OUTPUTS, self.expected, found, strict=True):
            size = expected.abs().max().clamp_min(1e-300)
            given = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
            gap = ((given - expected).abs().max() / size).item()
            if not gap <= tolerance:
                raise ConfigError(
                    f"--format {style}: its {name} is off by {gap:.1e}, more than {tolerance:.0e}: not written"
                )


def _torch(found: Found, out: Path) -> None:
    program = found.program()
    found.check(program.module()(found.points), 1e-12, "torch")
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(found.metadata)})
    out.write_bytes(file.getvalue())


def _aoti(found: Found, out: Path) -> None:
    program = found.program()
    with tempfile.TemporaryDirectory() as folder:
        library, package = compiled_ahead(program, Path(folder, "u.pt2"))
        found.check(library(found.points), 1e-12, "aoti")
        shutil.copyfile(package, out)


def _onnx(found: Found, out: Path) -> None:
    as_onnx.check_installed()
    image = as_onnx.model(found.program(), found.points, OUTPUTS, {k: json.dumps(v) for k, v in found.metadata.items()})
    found.check(as_onnx.run(image, found.points), 1e-6, "onnx")
    out.write_bytes(image)


def _listings(found: Found, at_one_point: bool) -> list[Listing]:
    programs = [found.program(of) for of in (Value(found.u), None)]
    return [Listing.of(program, found.points[:1], at_one_point) for program in programs]


def _said(metadata: dict[str, Any], points: str) -> tuple[str, str, str]:
    """What the sources say of themselves, of the value and of the derivatives."""
    plain = lambda text: re.sub(r"[^\w .,:()+-]", "_", text)  # a file that somebody made may say anything
    names, fields, problem, run = map(
        plain, (", ".join(metadata["inputs"]), ", ".join(metadata["fields"]), metadata["problem"], metadata["run"])
    )
    about = f"{fields} of {problem} as the run {run} found it, by kanpde."
    value = f"{fields} at {points} ({names}), float64."
    return about, value, f"Value, gradient by ({names}) and Laplacian over ({', '.join(metadata['laplacian_over'])})."


def _numpy(found: Found, out: Path) -> None:
    about, value, derivatives = _said(found.metadata, "points (N, d), or one point (d,), with the columns")
    text = as_numpy.source(*_listings(found, False), about, found.metadata, value, derivatives)
    space: dict[str, Any] = {}
    exec(compile(text, out.name, "exec"), space)
    found.check(space["derivatives"](found.points.numpy()), 1e-12, "numpy")
    out.write_text(text)


def _c(found: Found, out: Path) -> None:
    about, value, derivatives = _said(found.metadata, "the point x =")
    notes = "\n".join(f"   {key}: {json.dumps(value)}" for key, value in found.metadata.items()).replace("*/", "* /")
    stem = out.name.removeprefix(".").partition(".")[0]
    many = len(found.metadata["fields"])
    out.write_text(as_c.source(*_listings(found, True), stem, about, notes, value, derivatives, many))


class Format(NamedTuple):
    """A format: the ending of its file, how it is written, and what it is."""

    suffix: str
    write: Callable[[Found, Path], None]
    line: str


FORMATS = {
    "torch": Format(".pt2", _torch, "a program of torch.export, any number of points"),
    "aoti": Format(".pt2", _aoti, "a library for this machine, compiled by AOTInductor, any number of points"),
    "onnx": Format(".onnx", _onnx, "a model for onnxruntime, any number of points"),
    "numpy": Format(".py", _numpy, "a Python file that needs NumPy alone"),
    "c": Format(".c", _c, "a C99 file that needs math.h alone"),
}
VTK = "vtk"  # which has the values of the file on its mesh, and no function


def export(run: Run | str | Path, out: str | Path, format: str = "torch", trust: bool = False) -> list[Path]:
    """Write the function u that a run has found, hard constraint included, for programs that do not know kanpde.

    torch, aoti, onnx, numpy and c compute u, its gradient and its Laplacian in float64 with the weights kept; vtk has
    the values on the mesh of the result file. A file is written whole or not at all, and compared with the run before.

    Args:
        run: a finished one, or its file.
        out: a new file that ends as the format says: .pt2, .onnx, .py, .c, .vtu, with several times .pvd.
        format: torch, aoti, onnx, numpy, c or vtk.
        trust: see `Run.load_model`.
    Returns:
        The files.
    Raises:
        ConfigError: no such format, another ending, a file that is there, or a function that the format cannot hold.

    Example:
        >>> from kanpde import train
        >>> from kanpde.problems import Poisson
        >>> folder = getfixture("tmp_path")
        >>> run = train(Poisson(2), backbone="mlp", steps=2, out=folder / "run.h5")
        >>> [path.name for path in export(run, folder / "u.py", "numpy")]
        ['u.py']
    """
    run, out = run if isinstance(run, Run) else Run.open(run), Path(out)
    if format not in (*FORMATS, VTK):
        raise ConfigError(suggest("format", format, [*FORMATS, VTK]))
    suffix = _vtk_suffix(run) if format == VTK else FORMATS[format].suffix
    if out.suffix != suffix:
        raise ConfigError(f"--out {out}: needed is a file ending in {suffix}")
    if out.exists():
        raise ConfigError(f"--out {out}: the file exists; choose another name")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}")
    if format == VTK:
        return _meshes(run, out)
    found = Found(run, run.load_model(trust=trust))
    with replacing(out) as temporary:
        FORMATS[format].write(found, temporary)
    return [out]


def _vtk_suffix(run: Run) -> str:
    if "domain" not in run.meshes:
        raise ConfigError(f"--format vtk: {run.path} has no mesh, which runs of one to three coordinates have")
    return ".pvd" if len(run.meshes["domain"].get("times", ())) else ".vtu"


def _meshes(run: Run, out: Path) -> list[Path]:
    """The mesh of the file, written beside its place and then moved there; the series, if there is one, last."""
    from kanpde.plot.volumes import save_mesh

    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        written = save_mesh(run, "domain", Path(folder) / out.stem)
        targets = [out.with_name(path.name) for path in written]
        if taken := next((target for target in targets if target.exists()), None):
            raise ConfigError(f"--out {out}: {taken} exists; choose another name")
        for path, target in zip(written, targets, strict=True):
            os.replace(path, target)
    return targets
