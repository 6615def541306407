"""Solutions of the shipped problems that have no closed form, in float64, and the part of stl_diffusion.

python -m benchmarks.references NAME ... writes problems/references/NAME.npz (arrays by the names of the coordinates,
and of the fields with an axis for each coordinate; `difference` is that of two resolutions) and the README beside them.

Evolution equations: Fourier in space, ETDRK4 in time (Kassam, Trefethen 2005, SIAM J. Sci. Comput. 26, 1214-1233). The
cavity: Chebyshev collocation, velocities of degree N, pressure of degree N - 2, Newton's method, of what is left beside
the Stokes flows in the two corners where the lid meets a wall.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyvista

from benchmarks.common.study import Parser, exiting, markdown
from kanpde.config import shipped
from kanpde.records.run import replacing

Array = np.ndarray
Solution = dict[str, Array]  # coordinates, then fields

# ---------------------------------------------------------------------------------------------------------------
# Evolution on a circle


@dataclass(frozen=True)
class Evolution:
    """v_t = L v + N(v) for the Fourier coefficients v of a function on low < x < high, 0 < t < time.

    Args:
        linear: L, of the wave numbers k.
        nonlinear: N, of the values of the function and i k, as values, or with `inner` as coefficients.
        points, steps: of the finer computation; the other has half of both.
        kept: intervals of x and of t that are written.
    """

    low: float
    high: float
    time: float
    initial: Callable[[Array], Array]
    linear: Callable[[Array], Array]
    nonlinear: Callable[[Array, Array], Array]
    points: int
    steps: int
    kept: tuple[int, int]
    fields: tuple[str, ...] = ("u",)

    @property
    def resolution(self) -> str:
        return f"{self.points} Fourier modes, {self.steps} steps"

    def solve(self, share: int = 1) -> Solution:
        """With a share of points and steps."""
        n, steps, (in_x, in_t) = self.points // share, self.steps // share, self.kept
        h, each = self.time / steps, steps // in_t
        x = self.low + (self.high - self.low) * np.arange(n) / n
        ik = 2j * np.pi / (self.high - self.low) * np.fft.fftfreq(n, 1 / n)
        step = etdrk4(self.linear(ik), lambda v: self.nonlinear(np.fft.ifft(v), ik), h)
        v, found = np.fft.fft(self.initial(x).astype(complex)), []
        for k in range(steps + 1):
            if k % each == 0:
                found.append(np.fft.ifft(v)[:: n // in_x])
            v = step(v)
        values = np.stack(found, 1)
        values = np.concatenate([values, values[:1]])  # the right end is the left one
        axes = {"x": np.linspace(self.low, self.high, in_x + 1), "t": np.linspace(0, self.time, in_t + 1)}
        return axes | dict(zip(self.fields, (values.real, values.imag), strict=False))


def etdrk4(linear: Array, nonlinear: Callable[[Array], Array], h: float) -> Callable[[Array], Array]:
    """A step of length h; the coefficients are means over a circle around L h, where they have no cancellation."""
    z = h * linear[:, None] + np.exp(2j * np.pi * (np.arange(64) + 0.5) / 64)
    mean = lambda f: h * f.mean(1)
    whole, half = np.exp(h * linear), np.exp(h * linear / 2)
    q = mean((np.exp(z / 2) - 1) / z)
    first = mean((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3)
    second = mean((2 + z + np.exp(z) * (z - 2)) / z**3)
    third = mean((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3)

    def step(v: Array) -> Array:
        n_0 = nonlinear(v)
        a = half * v + q * n_0
        n_a = nonlinear(a)
        n_b = nonlinear(half * v + q * n_a)
        n_c = nonlinear(half * a + q * (2 * n_b - n_0))
        return whole * v + first * n_0 + 2 * second * (n_a + n_b) + third * n_c

    return step


def burgers_like(a: float) -> Callable[[Array, Array], Array]:
    """-a u u_x, of a real u."""
    return lambda u, ik: -a / 2 * ik * np.fft.fft(u.real**2)


EVOLUTIONS = {
    "allen_cahn_1d": Evolution(
        *(-1.0, 1.0, 1.0, lambda x: x**2 * np.cos(np.pi * x)),
        *(lambda ik: 1e-4 * ik**2 + 5, lambda u, ik: -5 * np.fft.fft(u.real**3)),
        *(8192, 4000, (512, 25)),
    ),
    "kdv": Evolution(
        *(-1.0, 1.0, 1.0, lambda x: np.cos(np.pi * x), lambda ik: -(0.022**2) * ik**3, burgers_like(1.0)),
        *(1024, 20000, (256, 50)),
    ),
    "kuramoto_sivashinsky": Evolution(
        *(0.0, 2 * np.pi, 1.0, lambda x: np.cos(x) * (1 + np.sin(x))),
        *(lambda ik: -100 / 16**2 * ik**2 - 100 / 16**4 * ik**4, burgers_like(100 / 16)),
        *(1024, 20000, (256, 50)),
    ),
    "schroedinger": Evolution(
        *(-5.0, 5.0, np.pi / 2, lambda x: 2 / np.cosh(x)),
        *(lambda ik: 0.5j * ik**2, lambda h, ik: 1j * np.fft.fft(np.abs(h) ** 2 * h)),
        *(4096, 20000, (128, 50), ("re", "im")),
    ),
}

# ---------------------------------------------------------------------------------------------------------------
# The cavity


class Corners(NamedTuple):
    """Stokes flows in the two upper corners of (0, 1)^2 below a lid of speed 4 x (1 - x); p times Re."""

    u: Array
    u_x: Array
    u_y: Array
    v: Array
    v_x: Array
    v_y: Array
    p: Array

    @classmethod
    def at(cls, x: Array, y: Array) -> "Corners":
        """Of each corner u = 4 (X - Y phi), v = 4 X theta, p = 8 log r, X and Y the distances to the wall and the lid.

        u_x + v_y = 0, and in polar coordinates grad p = Lap (u, v); in the corner itself slopes are not finite.
        """
        left, right = np.ones_like(x), -np.ones_like(x)  # the derivatives of X by x; that of Y by y is -1
        found = 0.0
        for sign, to_wall in ((left, x), (right, 1 - x)):
            to_lid = 1 - y
            with np.errstate(divide="ignore", invalid="ignore"):
                square, slope = to_wall**2 + to_lid**2, to_wall * to_lid / (to_wall**2 + to_lid**2)
                theta, phi = np.arctan2(to_lid, to_wall), np.arctan2(to_wall, to_lid)
                u, u_x, u_y = 4 * (to_wall - to_lid * phi), sign * 4 * to_wall**2 / square, 4 * phi - 4 * slope
                v, v_x, v_y = 4 * to_wall * theta, sign * (4 * theta - 4 * slope), -4 * to_wall**2 / square
                found = found + np.stack([u, u_x, u_y, sign * v, sign * v_x, sign * v_y, sign * 4 * np.log(square)])
        return cls(*found)


@dataclass(frozen=True)
class LidDriven:
    """The regularised lid-driven cavity by polynomials of degree N; the coarser computation has 2 / 3 of it.

    Written are the centres of cells, as p is not bounded in two corners. The flows of `Corners` are taken out: of what
    is left the stream function is of order r^3.74 there, so that polynomials converge.
    """

    degree: int = 60
    reynolds: float = 100.0
    cells: int = 50
    corners: bool = True

    @property
    def resolution(self) -> str:
        return f"polynomials of degree {self.degree} beside the flows in two corners"

    def solve(self, share: int = 1) -> Solution:
        """With share 2 in the coarser resolution."""
        degree = self.degree if share == 1 else 2 * self.degree // 3
        x = (1 - np.cos(np.pi * np.arange(degree + 1) / degree)) / 2
        inside = x[1:-1]
        u, v, p = self.newton(x)
        at = (np.arange(self.cells) + 0.5) / self.cells
        nodes, weights = np.polynomial.legendre.leggauss(2 * degree)
        to, to_p, to_mean = interpolation(x, at), interpolation(inside, at), interpolation(inside, (nodes + 1) / 2)
        mean = weights / 2 @ (to_mean @ p @ to_mean.T) @ weights / 2
        known = self.known(at)  # whose p is odd, of mean zero
        fields = {"u": to @ u @ to.T, "v": to @ v @ to.T, "p": to_p @ p @ to_p.T - mean}
        return {"x": at, "y": at} | {name: field + getattr(known, name) for name, field in fields.items()}

    def known(self, x: Array) -> Corners:
        """What is taken out, at a grid of nodes, p of the flow."""
        flows = Corners.at(*np.meshgrid(x, x, indexing="ij"))
        flows = Corners(*(np.where(np.isfinite(f), f, 0.0) * self.corners for f in flows))
        return flows._replace(p=flows.p / self.reynolds)

    def newton(self, x: Array) -> tuple[Array, Array, Array]:
        """What is left of u and v at all nodes, of p at those inside, axes x and y."""
        n, inner = len(x) - 2, slice(1, -1)
        d, d_p = differentiation(x), differentiation(x[inner])
        d_2, one, known = d @ d, np.eye(n), self.known(x)
        along_x, along_y = (lambda a: np.kron(a, one)), (lambda a: np.kron(one, a))
        u, v, p, multiplier = -known.u, -known.v, np.zeros((n, n)), 0.0
        u[:, -1] += 4 * x * (1 - x)  # the lid
        u[inner, inner] = v[inner, inner] = 0
        laplacian = (along_x(d_2[inner, inner]) + along_y(d_2[inner, inner])) / self.reynolds
        d_x, d_y, p_x, p_y = along_x(d[inner, inner]), along_y(d[inner, inner]), along_x(d_p), along_y(d_p)
        part = lambda f: f[inner, inner].reshape(-1)
        ones, zeros = np.ones((n * n, 1)), np.zeros((n * n, 1))
        for _ in range(20):
            whole_u, whole_v = part(u + known.u), part(v + known.v)
            u_x, u_y = part(d @ u + known.u_x), part(u @ d.T + known.u_y)
            v_x, v_y = part(d @ v + known.v_x), part(v @ d.T + known.v_y)
            lap_u, lap_v = (part(d_2 @ f + f @ d_2.T) / self.reynolds for f in (u, v))  # known: that of grad p
            x_momentum = whole_u * u_x + whole_v * u_y + p_x @ p.reshape(-1) - lap_u
            y_momentum = whole_u * v_x + whole_v * v_y + p_y @ p.reshape(-1) - lap_v
            sources = part(d @ u + v @ d.T)
            residual = np.concatenate([x_momentum, y_momentum, sources + multiplier, [p.mean()]])
            moving = whole_u[:, None] * d_x + whole_v[:, None] * d_y - laplacian
            jacobian = np.block(
                [
                    [moving + np.diag(u_x), np.diag(u_y), p_x, zeros],
                    [np.diag(v_x), moving + np.diag(v_y), p_y, zeros],
                    # one equation too many: a multiplier takes what is left
                    [d_x, d_y, np.zeros((n * n, n * n)), ones],
                    [zeros.T, zeros.T, ones.T / n**2, np.zeros((1, 1))],
                ]
            )
            step = np.linalg.solve(jacobian, -residual)
            of_u, of_v, of_p = step[:-1].reshape(3, n, n)
            u[inner, inner] += of_u
            v[inner, inner] += of_v
            p, multiplier = p + of_p, multiplier + step[-1]
            if np.abs(of_u).max() < 1e-11:
                return u, v, p
        raise FloatingPointError("Newton's method does not converge")


def weights_of(x: Array) -> Array:
    """Barycentric weights of nodes, their largest 1."""
    distances = 4 * (x[:, None] - x) + np.eye(len(x))  # 4: the products stay of order one on (0, 1)
    w = 1 / distances.prod(1)
    return w / np.abs(w).max()


def differentiation(x: Array) -> Array:
    """The matrix of the derivative of the polynomial through values at nodes, at these nodes."""
    w, gaps = weights_of(x), x[:, None] - x + np.eye(len(x))
    d = w / w[:, None] / gaps
    np.fill_diagonal(d, 0)
    np.fill_diagonal(d, -d.sum(1))
    return d


def interpolation(x: Array, at: Array) -> Array:
    """The matrix of the values of that polynomial at points that are no nodes."""
    terms = weights_of(x) / (at[:, None] - x)
    return terms / terms.sum(1, keepdims=True)


# ---------------------------------------------------------------------------------------------------------------
# Files


class Case(NamedTuple):
    """What is written, and to how many digits."""

    solution: Solution
    difference: float


SOLVERS: dict[str, Evolution | LidDriven] = {**EVOLUTIONS, "cavity": LidDriven()}


def solved(name: str) -> Case:
    """A solution, and the relative l2 difference of the coarser one, the largest of the fields."""
    fine, coarse = (SOLVERS[name].solve(share) for share in (1, 2))
    fields = [field for field in fine if fine[field].ndim > 1]
    gaps = [np.linalg.norm(fine[f] - coarse[f]) / np.linalg.norm(fine[f]) for f in fields]
    return Case(fine, float(max(gaps)))


def bracket() -> pyvista.PolyData:
    """An angle of thickness 0.3 with a hole."""
    around = 2 * np.pi * np.arange(24) / 24
    outline = np.array([[0, 0], [1, 0], [1, 0.4], [0.4, 0.4], [0.4, 1], [0, 1]])
    hole = np.array([0.7, 0.2]) + 0.12 * np.stack([np.cos(around), -np.sin(around)], 1)  # clockwise
    loops, start, lines = [outline, hole], 0, []
    for loop in loops:
        ids = np.arange(start, start + len(loop))
        lines.append([len(loop) + 1, *ids, ids[0]])
        start += len(loop)
    flat = np.concatenate(loops)
    points = np.column_stack([flat, np.zeros(len(flat))])
    edges = pyvista.PolyData(points, faces=[k for k, *ids in lines for k in (len(ids) - 1, *ids[:-1])])
    face = pyvista.PolyData(points).delaunay_2d(edge_source=edges)
    return face.extrude((0, 0, 0.3), capping=True).triangulate().clean()


def table() -> list[str]:
    """The README's lines, of the files that there are."""
    rows = []
    for name, solver in SOLVERS.items():
        if (path := shipped(f"references/{name}.npz")).is_file():
            with np.load(path) as file:
                shape = " x ".join(str(len(file[key])) for key in file.files if file[key].ndim == 1)
                rows.append([f"`{name}.npz`", shape, solver.resolution, f"{float(file['difference']):.0e}"])
    return markdown(["file", "points", "computed with", "relative l2 difference to half (2 / 3) of that"], rows, "lrlr")


def main() -> None:
    """Write the files of the names that are given, and the README."""
    parser = Parser("references", __doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(SOLVERS)}, bracket; default all")
    names = parser.parse_args().names or [*SOLVERS, "bracket"]
    for name in names:
        path = shipped(f"references/{name}")
        path.parent.mkdir(exist_ok=True)
        if name == "bracket":
            bracket().save(path.with_suffix(".stl"))
            continue
        if name not in SOLVERS:
            parser.error(f"{name} is not one of {', '.join(SOLVERS)}, bracket")
        case = solved(name)
        np.savez_compressed(path.with_suffix(".npz"), **case.solution, difference=case.difference)
        print(f"{name}: {SOLVERS[name].resolution}, difference {case.difference:.1e}")
    readme(shipped("references/README.md"))


def readme(path: Path) -> None:
    """Write it anew."""
    about = [
        "# Solutions of shipped problems that have no closed form",
        "",
        "Computed by `python -m benchmarks.references`, in float64. An array by the name of each coordinate, and one",
        "by the name of each field, with an axis for each coordinate; `difference` is the last column.",
        "",
        *table(),
        "",
        "The initial values of `allen_cahn_1d` and `schroedinger` have an edge where the circle closes, which is what",
        "limits them; in two corners of the `cavity` p is not bounded. `bracket.stl`, the part of `stl_diffusion`, is",
        "made by the same script.",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(about) + "\n", encoding="utf-8")


if __name__ == "__main__":
    exiting(main, "references")
