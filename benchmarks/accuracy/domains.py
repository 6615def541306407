"""Are points of domains where they say, and what do they cost in 100 000 dimensions?

    python -m benchmarks.domains [--points 1000000] [--inside 100000] [--quick] [--out benchmarks/results/domains.md]

Measures by points against closed forms, in standard errors of the mean that is compared: the volume by the share of a
box that `contains` says is inside; the area by the flux of x, d times the volume; the centroid; and the divergence
theorem for fields of second and third degree, (x - a)_j^p (x - a)_k with a a corner of the box, the largest of them.

`contains` at points of a box, 1.4 times as wide, against VTK's enclosed points (3-D) and shapely (2-D), which the
package does not need: pip install --target FOLDER shapely, and PYTHONPATH=FOLDER; without it these lines are left out.

Costs: points by volume and `contains` of them, of each domain in a process of its own, for some points and twice as
many in turn; the least processor time of 25, and by how much the memory of another process grows meanwhile.
"""

import gc
import re
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import product
from math import nan, pi, sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.machine import machine
from benchmarks.common.study import Parser, alone, at_least, deliver, exiting, markdown
from kanpde.domains import Ball, Box, Cylinder, Domain, Ellipsoid, Gaussian, Polygon, Simplex, Surface
from kanpde.ground.samplers import stream

F64 = torch.float64
ARROW = ((0.0, 0.0), (2.0, -1.0), (1.0, 0.0), (2.0, 1.0))
SQUARE = ((0.5, -0.5), (1.5, -0.5), (1.5, 0.25), (0.5, 0.25))
WIDE, COUNTS, REPEATS = 100_000, (16, 32), 25
ALLOWED = 4  # standard errors
OF_ANY = {"Ball": Ball, "Box": Box, "Gaussian": Gaussian, "Simplex": Simplex}  # number of dimensions
FEW = 100  # points of a box inside, of which a share says nothing
ROUNDING = 1e-12  # of what has no spread, relative


def solids() -> dict[str, tuple[Domain, float, float, tuple[float, ...]]]:
    """Domains with their volume, area and centroid in closed form."""
    lens, lens_area = 2 * pi / 3 - sqrt(3) / 2, 4 * pi / 3
    two = Ball(2), Ball(2, 1.0, (1.0, 0.0))
    return {
        "Box, a range an axis": (Box(3, (0, -1, 2), (1, 1, 5)), 6.0, 22.0, (0.5, 0.0, 3.5)),
        "Ball with a centre": (Ball(3, 0.7, (1.0, -2.0, 0.5)), 4 / 3 * pi * 0.7**3, 4 * pi * 0.7**2, (1.0, -2.0, 0.5)),
        "Ball of 20 dimensions": (Ball(20), pi**10 / 3628800, 20 * pi**10 / 3628800, (0.0,) * 20),
        "Ellipsoid": (Ellipsoid((1.0, 2.0, 0.5)), 4 / 3 * pi, 15.869162163, (0.0,) * 3),
        "Simplex": (Simplex(4), 1 / 24, 1.0, (0.2,) * 4),
        "Polygon, an arrow": (Polygon(ARROW), 1.0, 2 * sqrt(5) + 2 * sqrt(2), (1.0, 0.0)),
        "Cylinder of a disc": (Cylinder(Ball(2, 0.5, (1.0, 0.0)), 3.0), 0.75 * pi, 3 * pi, (1.0, 0.0, 1.5)),
        "Box - Ball": (Box(2) - Ball(2, 0.5), 4 - pi / 4, 8 + pi, (0.0, 0.0)),
        "Ball \\| Ball": (two[0] | two[1], 2 * pi - lens, 4 * pi - lens_area, (0.5, 0.0)),
        "Ball & Ball": (two[0] & two[1], lens, lens_area, (0.5, 0.0)),
    }


def meshes() -> dict:
    """Meshes of pyvista's, of which volume, area and centroid are sums over triangles."""
    import pyvista

    torus = pyvista.ParametricTorus(u_res=40, v_res=40, w_res=40).triangulate()
    hollow = pyvista.Icosphere(radius=1.0, nsub=3).merge(pyvista.Icosphere(radius=0.6, nsub=2).flip_faces())
    made = {"Sphere": pyvista.Sphere(), "Cube": pyvista.Cube(), "Icosahedron": pyvista.Icosahedron()}
    return made | {"ParametricTorus": torus, "a hollow ball": hollow}


def of_mesh(mesh) -> tuple[Domain, float, float, tuple[float, ...]]:
    """A surface and the sums over the triangles that a mesh has."""
    mesh = mesh.triangulate()
    a, b, c = np.asarray(mesh.points, dtype=float)[mesh.regular_faces].transpose(1, 0, 2)
    cones = (a * np.cross(b, c)).sum(1) / 6
    centre = tuple(float(part) for part in cones @ (a + b + c) / 4 / cones.sum())
    return (
        Surface(mesh),
        abs(float(cones.sum())),
        float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2),
        centre,
    )


# ---------------------------------------------------------------------------------------------------------------
# Measures


def off(found: Tensor, expected: float | Tensor) -> float:
    """How many standard errors the mean of numbers (N, ...) is off, the most of its entries."""
    error = found.std(0) / len(found) ** 0.5 + ROUNDING * (found.abs().amax(0) + 1e-3)
    return ((found.mean(0) - expected).abs() / error).max().item()


def deviations(domain: Domain, volume: float, area: float, centre: Sequence[float], n: int) -> list[float]:
    """Volume, area, centroid and divergence theorem by n points, in standard errors."""
    law, d, middle = "volume", domain.dim, torch.tensor(centre, dtype=F64)
    low, high = torch.tensor(domain.input_range(law), dtype=F64).unbind(1)
    box = low + (high - low) * torch.rand(n, d, generator=stream(0, "box"), dtype=F64)
    x = domain.interior(n, stream(0, "interior"), law, dtype=F64)
    y = domain.boundary(n, stream(0, "boundary"), dtype=F64)
    normal, space = domain.normal(y), d - isinstance(domain, Cylinder)
    whole = (high - low).prod().item()
    inside = whole * domain.contains(box).double()
    flux = area * ((y - middle)[:, :space] * normal[:, :space]).sum(1)
    return [
        off(inside, volume) if volume > FEW / n * whole else nan,
        off(flux, space * volume),
        off(x, middle),
        divergence(x - low, y - low, normal, volume, area),
    ]


def divergence(x: Tensor, y: Tensor, normal: Tensor, volume: float, area: float) -> float:
    """The most standard errors by which int_V d_k F and int_A F n_k differ for F = x_j^p x_k."""
    worst, axes = 0.0, range(min(x.shape[1], 3))
    for j, k, p in product(axes, axes, (1, 2)):
        if normal[:, k].any():  # it has no component in time
            inside = volume * x[:, j] ** p * (1 + p * (k == j))
            through = area * y[:, j] ** p * y[:, k] * normal[:, k]
            worst = max(worst, off(inside - through, 0.0))
    return worst


# ---------------------------------------------------------------------------------------------------------------
# Which points are inside


def planes() -> dict[str, tuple[Domain, Callable]]:
    """Domains of the plane, and the same of shapely's."""
    arrow, square = Polygon(ARROW), Polygon(SQUARE)
    disc = Ball(2, 0.4, (1.0, 0.0))
    return {
        "Polygon, an arrow": (arrow, lambda s: s.Polygon(ARROW)),
        "arrow \\| square": (arrow | square, lambda s: s.Polygon(ARROW) | s.Polygon(SQUARE)),
        "arrow & square": (arrow & square, lambda s: s.Polygon(ARROW) & s.Polygon(SQUARE)),
        "arrow - square": (arrow - square, lambda s: s.Polygon(ARROW) - s.Polygon(SQUARE)),
        "Box - square": (Box(2, -1, 2) - square, lambda s: s.box(-1, -1, 2, 2) - s.Polygon(SQUARE)),
        "arrow - Ball": (arrow - disc, lambda s: s.Polygon(ARROW) - s.Point(1, 0).buffer(0.4, quad_segs=2**16)),
        "Simplex & Box": (
            Simplex(2, 2.0) & Box(2, 0.2, 1.0),
            lambda s: s.Polygon([(0, 0), (2, 0), (0, 2)]) & s.box(0.2, 0.2, 1, 1),
        ),
    }


def box_around(domain: Domain, n: int) -> Tensor:
    """n points of a box 1.4 times as wide as a domain."""
    low, high = torch.tensor(domain.input_range("volume"), dtype=F64).unbind(1)
    return low + (high - low) * (1.4 * torch.rand(n, domain.dim, generator=stream(1, "box"), dtype=F64) - 0.2)


def against_shapely(n: int) -> list[list]:
    """Of the domains of the plane: how many of n points are inside, and of how many shapely says something else."""
    import shapely

    rows = []
    for name, (domain, other) in planes().items():
        x = box_around(domain, n)
        inside, theirs = domain.contains(x).numpy(), shapely.contains_xy(other(shapely), *x.numpy().T)
        rows.append([name, f"shapely {shapely.__version__}", int(inside.sum()), int((inside != theirs).sum())])
    return rows


def against_vtk(n: int) -> list[list]:
    """The same of surfaces and the enclosed points of VTK, which sends rays from each point."""
    import pyvista
    import vtkmodules.vtkCommonCore as vtk
    from vtkmodules.vtkFiltersModeling import vtkSelectEnclosedPoints

    rows = []
    for name, mesh in meshes().items():
        domain = Surface(mesh)
        x, rays = box_around(domain, n), vtkSelectEnclosedPoints()
        rays.SetInputData(pyvista.PolyData(x.numpy()))
        rays.SetSurfaceData(mesh.triangulate())
        rays.SetTolerance(1e-9)
        rays.Update()
        theirs = np.asarray(pyvista.wrap(rays.GetOutput()).point_data["SelectedPoints"]).astype(bool)
        inside = domain.contains(x).numpy()
        version = vtk.vtkVersion.GetVTKVersion()
        rows.append([f"Surface, {name}", f"VTK {version}", int(inside.sum()), int((inside != theirs).sum())])
    return rows


# ---------------------------------------------------------------------------------------------------------------
# Costs


def wide(name: str, d: int) -> Domain:
    """A domain of d dimensions."""
    return Ellipsoid((1.0,) * d) if name == "Ellipsoid" else OF_ANY[name](d)


def seconds(task: tuple[str, int]) -> list[float]:
    """Of the processor, for each number of points and whether they are inside, in turn; the least of many."""
    domain, times = wide(*task), {n: [] for n in COUNTS}
    for repeat in range(REPEATS):
        for n, found in times.items():
            start = time.process_time()
            _drawn(domain, n, repeat)
            found.append(time.process_time() - start)
    return [min(found) for found in times.values()]


def _drawn(domain: Domain, n: int, seed: int) -> None:
    x = domain.interior(n, stream(seed, "cost"), domain.laws[-1])
    if not domain.contains(x).all():
        raise AssertionError(f"{type(domain).__name__}: points are not inside")


def memory(task: tuple[str, int, int]) -> float:
    """By how much the memory of this process, new, grows meanwhile, in MiB; nan where Linux does not tell."""
    name, d, n = task
    domain, reset = wide(name, d), Path("/proc/self/clear_refs")
    if not reset.exists():
        return nan
    read = lambda name: int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    _drawn(wide(name, 10), n, 0)
    gc.collect()
    before = read("VmRSS")
    reset.write_text("5")  # the peak is now what there is
    _drawn(domain, n, 0)
    return read("VmHWM") - before


def costs(d: int) -> list[list]:
    """A row for each domain."""
    rows = []
    for name in (*OF_ANY, "Ellipsoid"):
        few, many = alone(seconds, (name, d), 1)
        grown = [f"{alone(memory, (name, d, n), 1):.0f}" for n in COUNTS]
        rows.append([name, f"{1e3 * few:.0f}", f"{1e3 * many:.0f}", f"{many / few:.2f}", *grown])
        print(*rows[-1], flush=True)
    return rows


# ---------------------------------------------------------------------------------------------------------------
# The table


def measured(n: int) -> list[list]:
    """A row for each domain with measures."""
    cases = solids() | {f"Surface, {name}": of_mesh(mesh) for name, mesh in meshes().items()}
    rows = []
    for name, case in cases.items():
        rows.append([name, *(f"{value:.1f}" if value == value else "-" for value in deviations(*case, n))])
        print(*rows[-1], flush=True)
    return rows


def report(measures: list[list], insides: list[list], cost_rows: list[list], n: int, m: int, d: int) -> str:
    """Markdown."""
    worst = max(float(value) for row in measures for value in row[1:] if value != "-")
    first, second = COUNTS
    lines = [
        "# Domains",
        "",
        f"`python -m benchmarks.domains`: {machine()}; seed 0.",
        "",
        f"Measures by {n:,} points in float64 against closed forms, in standard errors; the largest is {worst:.1f}, "
        f"allowed are {ALLOWED}. 0.0: there is no spread, and they agree to rounding; "
        "-: too few points of the box are inside.",
        "",
        *markdown(["domain", "volume", "area", "centroid", "divergence theorem"], measures),
        "",
        f"Which of {m:,} points are inside, against others:",
        "",
        *markdown(["domain", "against", "inside", "said otherwise"], insides, "--r"),
        "",
        f"Points by volume (Gaussian: normal) and `contains` of them in {d:,} dimensions, float32, one thread:",
        "",
        *markdown(
            ["domain", f"{first} points, ms", f"{second} points, ms", "ratio", f"{first}: MiB", f"{second}: MiB"],
            cost_rows,
        ),
        "",
        f"{first} points are {first * d * 4 / 2**20:.1f} MiB.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = Parser("domains", __doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--inside", type=int, default=100_000)
    args = parser.common(quick="few points and dimensions, to try the script").parse_args(argv)
    at_least(args, {"points": 100, "inside": 100})
    n, m, d = (2000, 2000, 100) if args.quick else (args.points, args.inside, WIDE)
    measures = measured(n)
    insides = (against_shapely(m) if find_spec("shapely") else []) + against_vtk(m)
    text = report(measures, insides, costs(d), n, m, d)
    if args.out:
        deliver(text, args.out)
    print(text, end="")


if __name__ == "__main__":
    exiting(main, "domains")
