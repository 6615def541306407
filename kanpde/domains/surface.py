"""The inside of a closed surface of triangles."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kanpde.domains.base import Domain, check_law, set_fields
from kanpde.domains.shapes import accepted
from kanpde.ground import apart
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import uniforms
from kanpde.ground.session import quiet

FLAT = 1e-12  # of the cube of its size, a volume that is none
SLIVER = 1e-10  # of its longest side, the height of a triangle that is a line
TRUSTED = (".stl",)  # endings of files whose reader believes no number of triangles that they state
ROUNDING = 16  # units in the last place that a point of the boundary may be off


@dataclass(frozen=True, eq=False)
class Surface(Domain):
    """The inside of a closed surface of triangles, a file or a mesh of pyvista's.

    Inside is what is enclosed an odd number of times: a surface within another one bounds a cavity, whichever way the
    triangles of either are turned. That a surface does not cross itself is not checked. Distances are computed on the
    CPU. There is no factor: values on the boundary are left to the loss.

    Args:
        mesh: an .stl, .ply, .obj or .vtp file, or any other that pyvista.read reads (with meshio installed many more);
            or a pyvista.PolyData.
    Raises:
        ConfigError: no such file, no surface, one that is not closed, or on which no side is the inside.

    Example:
        >>> import pyvista
        >>> ball = Surface(pyvista.Icosphere(radius=1.0, nsub=4))
        >>> ball, round(ball.volume, 1), ball.contains(torch.zeros(1, 3)).item()
        (Surface(), 4.2, True)
    """

    mesh: Any = field(repr=False)
    points: Tensor = field(init=False, repr=False)  # (V, 3), each of them once
    faces: Tensor = field(init=False, repr=False)  # (F, 3), counter-clockwise seen from outside
    laws = ("volume",)
    dim = 3

    def __post_init__(self):
        points, faces = _triangles(_read(self.mesh))
        set_fields(self, points=torch.from_numpy(points), faces=torch.from_numpy(_outward(points, faces)))

    def __getstate__(self) -> dict:
        """Without what VTK has made, which is made again."""
        return {name: value for name, value in vars(self).items() if name != "_distance"}

    @cached_property
    def _distance(self) -> "_Distance":
        return _Distance(self.points.numpy(), self.faces.numpy())

    @cached_property
    def _crosses(self) -> Tensor:
        """(b - a) x (c - a) of each triangle (F, 3): along its normal, twice as long as it is large."""
        a, b, c = self.points[self.faces].unbind(1)
        return torch.linalg.cross(b - a, c - a)

    def interior(
        self, n: int, generator: torch.Generator, law: str = "volume", sequence: str = "random", **kind: Any
    ) -> Tensor:
        """n points uniform in the volume, those of the box around it that are inside."""
        check_law(law, self.laws)

        def trial(m: int) -> Tensor:
            u = uniforms(m, 3, generator, sequence, **kind)
            low, high = (u.new_tensor(t) for t in zip(*self.input_range(law), strict=True))
            x = low + (high - low) * u
            return x[self.contains(x)]

        return accepted(trial, n)

    def boundary(self, n: int, generator: torch.Generator, sequence: str = "random", **kind: Any) -> Tensor:
        """n points uniform on the surface: a triangle as often as it is large."""
        u = uniforms(n, 2, generator, sequence, **kind)
        size = self._crosses.norm(dim=1).to(u.device)
        face = torch.multinomial(size, n, replacement=True, generator=generator)
        a, b, c = self.points.to(u)[self.faces.to(u.device)[face]].unbind(1)
        r, s = u[:, :1].sqrt(), u[:, 1:]
        return (1 - r) * a + r * (1 - s) * b + r * s * c

    def contains(self, x: Tensor) -> Tensor:
        return self._level(x) >= -ROUNDING * torch.finfo(x.dtype).eps * self.points.abs().max().item()

    def factor(self, x: Tensor) -> None:
        """None: a distance to triangles is not smooth."""

    def distance(self, x: Tensor) -> Tensor:
        """To the nearest triangle, below zero outside."""
        return self.level(x)

    def level(self, x: Tensor) -> Tensor:
        """The distance to the surface, below zero outside; without a gradient."""
        return self._level(x).to(x.dtype)

    def _level(self, x: Tensor) -> Tensor:
        return _AtPoints.apply(x, self._distance)

    def normal(self, x: Tensor) -> Tensor:
        """Of the triangle to which a point is nearest."""
        face = _AtPoints.apply(x, self._distance.face)
        return torch.nn.functional.normalize(self._crosses.to(x))[face]

    @property
    def triangles(self) -> tuple[Tensor, Tensor]:
        """Corners (V, 3) and their numbers (F, 3)."""
        return self.points, self.faces

    @property
    def volume(self) -> float:
        """A third of the flux of x through the triangles."""
        return _volume(self.points.numpy(), self.faces.numpy())

    @property
    def area(self) -> float:
        """That of all triangles."""
        return self._crosses.norm(dim=1).sum().item() / 2

    def input_range(self, law: str) -> list[tuple[float, float]]:
        return list(zip(self.points.amin(0).tolist(), self.points.amax(0).tolist(), strict=True))

    def frame(self) -> tuple[list[float], list[float]]:
        """Centre and half-widths of the box around it."""
        sides = self.input_range("volume")
        return [(low + high) / 2 for low, high in sides], [(high - low) / 2 for low, high in sides]


def _pyvista():
    try:
        import pyvista
    except ImportError:
        raise ConfigError("Surface: pyvista is not installed: pip install pyvista") from None
    return pyvista


class _AtPoints(torch.autograd.Function):
    """A function (N, 3) -> (N,) of numpy's at points (..., 3), in torch.func too; it has no gradient."""

    @staticmethod
    def forward(x: Tensor, function: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        rows = x.detach().cpu().double().reshape(-1, 3).numpy()
        return torch.from_numpy(function(rows)).reshape(x.shape[:-1]).to(x.device)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info, in_dims, x: Tensor, function: Callable) -> tuple[Tensor, int]:
        return _AtPoints.apply(x.movedim(in_dims[0], 0), function), 0


class _Distance:
    """VTK's distances to triangles, moved to the origin and of size 1: far from there their signs are wrong.

    Above zero where a triangle is seen from behind; at edges and corners by the normals of all that meet there.
    """

    def __init__(self, points: np.ndarray, faces: np.ndarray):
        low, high = points.min(0), points.max(0)
        self.centre, self.size = (low + high) / 2, (high - low).max() / 2
        self.mesh = _pyvista().PolyData.from_regular_faces(self._scaled(points), faces)

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return (x - self.centre) / self.size

    @cached_property
    def _signed(self) -> Any:
        from vtkmodules.vtkFiltersCore import vtkImplicitPolyDataDistance

        made = vtkImplicitPolyDataDistance()
        made.SetInput(self.mesh)
        return made

    @cached_property
    def _locator(self) -> Any:
        from vtkmodules.vtkCommonDataModel import vtkStaticCellLocator

        made = vtkStaticCellLocator()
        made.SetDataSet(self.mesh)
        made.BuildLocator()
        return made

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """At points (N, 3), (N,)."""
        from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy
        from vtkmodules.vtkCommonCore import vtkDoubleArray

        if not len(x):
            return np.zeros(0)
        found = vtkDoubleArray()
        self._signed.FunctionValue(numpy_to_vtk(self._scaled(x), deep=True), found)
        return -self.size * vtk_to_numpy(found)

    def face(self, x: np.ndarray) -> np.ndarray:
        """The numbers of the nearest triangles (N,)."""
        from vtkmodules.vtkCommonCore import reference
        from vtkmodules.vtkCommonDataModel import vtkGenericCell

        at, cell, number, part, square = [0.0] * 3, vtkGenericCell(), reference(0), reference(0), reference(0.0)
        found = np.empty(len(x), dtype=np.int64)
        for i, point in enumerate(self._scaled(x)):
            self._locator.FindClosestPoint(point, at, cell, number, part, square)
            found[i] = number.get()
        return found


# ---------------------------------------------------------------------------------------------------------------
# From a mesh to triangles


def _read(mesh: Any) -> Any:
    """A mesh of pyvista's."""
    pyvista = _pyvista()
    if isinstance(mesh, pyvista.DataSet):
        return mesh
    if not isinstance(mesh, str | PathLike):
        raise ConfigError(f"Surface: given a {type(mesh).__name__}, needed is a file or a pyvista.PolyData")
    if not (path := Path(mesh).expanduser()).is_file():
        raise ConfigError(f"Surface: no file {mesh}")
    if path.suffix.lower() not in TRUSTED and not apart.survived(path, apart.MESH):
        raise ConfigError(f"Surface: {mesh}: a damaged file, which the library that reads it cannot be trusted with")
    said: list[str] = []
    try:
        with quiet(said):
            found = pyvista.read(path)
    except (Exception, SystemExit) as error:  # meshio ends the program where it does not know what a file is
        reason = [*said, *str(error).splitlines(), type(error).__name__][0]
        hint = "" if find_spec("meshio") else "; it reads more files with meshio: pip install meshio"
        raise ConfigError(f"Surface: {mesh} cannot be read ({reason:.100}){hint}") from None
    if not isinstance(found, pyvista.DataSet):
        raise ConfigError(f"Surface: {mesh} is a {type(found).__name__}, needed is one surface: give a part of it")
    return found


def _triangles(mesh: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points (V, 3), each once, and triangles (F, 3) of a closed surface, neighbours turned alike."""
    pyvista = _pyvista()
    if not isinstance(mesh, pyvista.PolyData):
        sizes = mesh.compute_cell_sizes(length=False, area=False, volume=True).cell_data["Volume"]
        if np.any(sizes):
            raise ConfigError("Surface: given a mesh of volumes: Surface(mesh.extract_surface()) is its boundary")
        mesh = _surface_of(mesh)
    faces = np.asarray(mesh.triangulate().faces).reshape(-1, 4)[:, 1:]
    points, number = np.unique(np.asarray(mesh.points, dtype=np.float64) + 0.0, axis=0, return_inverse=True)
    faces = number.reshape(-1)[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    if not len(faces):
        raise ConfigError("Surface: given a mesh without triangles, needed is a closed surface")
    points, faces = points[used := np.unique(faces)], np.searchsorted(used, faces)
    if not np.isfinite(points).all():
        raise ConfigError("Surface: given a mesh with points that are not finite")
    _check_closed(faces)
    return points, _without_slivers(points, _alike(points, faces))


def _surface_of(mesh: Any) -> Any:
    """The cells of a surface in a mesh of cells of any kind, as PolyData."""
    from vtkmodules.vtkFiltersGeometry import vtkGeometryFilter

    made = vtkGeometryFilter()  # pyvista's name for it has changed
    made.SetInputData(mesh)
    made.Update()
    return _pyvista().wrap(made.GetOutput())


def _check_closed(faces: np.ndarray) -> None:
    _, count = np.unique(np.sort(_edges(faces), axis=1), axis=0, return_counts=True)
    if (count == 1).any():
        raise ConfigError(
            f"Surface: given a mesh that is not closed: {(count == 1).sum()} of {len(count)} edges are open; "
            "clean(tolerance=...) of pyvista merges points, fill_holes closes"
        )
    if (count > 2).any():
        raise ConfigError(f"Surface: given a mesh that is no manifold: {(count > 2).sum()} edges have over 2 triangles")


def _edges(faces: np.ndarray) -> np.ndarray:
    """Begin and end of the sides of all triangles, (3 F, 2)."""
    return np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2)


def _alike(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The triangles turned so that two that meet have their edge in opposite directions."""
    is_alike = lambda faces: len(np.unique(_edges(faces), axis=0)) == 3 * len(faces)
    if not is_alike(faces):
        mesh = _pyvista().PolyData.from_regular_faces(points, faces)
        options = {"point_normals": False, "split_vertices": False, "auto_orient_normals": False}
        faces = mesh.compute_normals(consistent_normals=True, **options).regular_faces
    if not is_alike(faces):
        raise ConfigError("Surface: given a mesh with one side, like Klein's bottle: it has no inside")
    return faces


def _without_slivers(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Without triangles that are a line: that across their longest side is cut at their third corner instead.

    They have no normal, and VTK's distances have wrong signs near them.
    """
    if not (flat := _is_flat(points[faces])).any():
        return faces
    rows = dict(enumerate(map(tuple, faces.tolist())))
    sides = lambda face: zip(face, (*face[1:], face[0]), strict=True)
    owner = {side: number for number, face in rows.items() for side in sides(face)}
    todo = np.flatnonzero(flat).tolist()
    for new in range(len(faces), 9 * len(faces), 2):
        if not (todo := [number for number in todo if number in rows]):
            break
        face = rows.pop(todo[-1])
        a, b = max(sides(face), key=lambda side: np.linalg.norm(points[side[1]] - points[side[0]]))
        middle, beside = sum(face) - a - b, rows.pop(owner[b, a])
        top = sum(beside) - a - b
        for number, cut in enumerate(((b, middle, top), (middle, a, top)), new):
            if len(set(cut)) == 3:
                rows[number] = cut
                owner |= dict.fromkeys(sides(cut), number)
                todo += [number] if _is_flat(points[None, list(cut)])[0] else []
    faces = np.array(list(rows.values()), dtype=np.int64).reshape(-1, 3)
    _check_closed(faces)
    return faces


def _is_flat(corners: np.ndarray) -> np.ndarray:
    """Whether triangles (F, 3, 3) are a line (F,)."""
    a, b, c = corners.transpose(1, 0, 2)
    longest = np.max([np.linalg.norm(side, axis=1) for side in (b - a, c - b, a - c)], axis=0)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) <= SLIVER * longest**2


def _volume(points: np.ndarray, faces: np.ndarray) -> float:
    """What triangles enclose, above zero where their normals point outwards."""
    a, b, c = (points - points.mean(0))[faces].transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def _outward(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The triangles with their normals pointing out of what is enclosed an odd number of times."""
    part = np.asarray(_pyvista().PolyData.from_regular_faces(points, faces).connectivity().cell_data["RegionId"])
    parts = [faces[part == number] for number in range(part.max() + 1)]
    volumes = [_volume(points, each) for each in parts]
    if min(map(abs, volumes)) <= FLAT * np.ptp(points, axis=0).max() ** 3:
        raise ConfigError("Surface: given a mesh that encloses nothing")
    parts = [each if volume > 0 else each[:, ::-1] for each, volume in zip(parts, volumes, strict=True)]
    if len(parts) > 1:
        distances = [_Distance(points, each) for each in parts]
        around = [sum(float(of(points[each[:1, 0]])[0]) > 0 for of in distances) for each in parts]
        parts = [each[:, ::-1] if n % 2 else each for each, n in zip(parts, around, strict=True)]
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.int64)
