"""Evaluation under no_grad on points that depend on the seed alone: errors, floors, the error field, slices."""

import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kanpde import metrics
from kanpde.ansatz import Ansatz
from kanpde.config import ConfigError, RunConfig
from kanpde.kan import grids
from kanpde.losses import Loss
from kanpde.problems.fitting import Fitting
from kanpde.samplers import directions, stream

BLOCK = 256  # test points per generator: point i belongs to the stream (seed, "test", i // 256)
CACHE = 2**24  # coordinates kept in memory rather than drawn again
KEEP = 2**25  # coordinates written to the result file, and measured at every evaluation before the last
SLICE = 2**28  # coordinates evaluated for one slice


class Evaluator:
    """The test and validation points of a run and what is measured on them."""

    def __init__(self, config: RunConfig, u: Ansatz):
        self.config, self.u = config, u
        self.problem, self.domain = u.problem, u.problem.domain
        self._cache: dict[tuple[str, int], tuple[Tensor, Tensor | None]] = {}

    # -----------------------------------------------------------------------------------------------------------
    # Points

    def blocks(self, name: str, n: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(x, u*) of n points of a stream, block by block; u* is None where it is not known."""
        cached = n * self.domain.dim <= CACHE
        for i in range(0, n, BLOCK):
            key = name, i
            block = self._cache.get(key) or self._draw(name, i // BLOCK)
            if cached:
                self._cache[key] = block
            x, exact = block
            yield x[: n - i], None if exact is None else exact[: n - i]

    def _draw(self, name: str, number: int) -> tuple[Tensor, Tensor | None]:
        generator = stream(self.config.seed, f"{name}/{number}")
        like = next(self.u.net.parameters(), torch.empty(0))
        if hasattr(self.domain, "held_out"):  # rows with observations
            x = self.domain.held_out(name, number, BLOCK, generator, self.config.points.law).to(like)
        else:
            x = self.domain.interior(BLOCK, generator, self.config.points.law, dtype=torch.float32).to(like)
        return x, self.problem.exact(x) if self.problem.has_exact else None

    def batches(self, name: str, n: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Blocks joined to batches that keep the processor busy."""
        join = max(1, 2048 * 128 // (BLOCK * max(self.domain.dim, 128)))
        held: list = []
        for block in self.blocks(name, n):
            held.append(block)
            if len(held) == join:
                yield _joined(held)
                held = []
        if held:
            yield _joined(held)

    # -----------------------------------------------------------------------------------------------------------
    # Errors

    @torch.no_grad()
    def _values(self, name: str, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """u, u* (NaN where it is not known) and the weights of the squares at the points of a stream, in float64."""
        found = []
        for x, exact in self.batches(name, n):
            u, w = self.u(x).double(), self.problem.importance_weights(x).double()
            found.append((u, torch.full_like(u, float("nan")) if exact is None else exact.double(), w))
        u, exact, w = map(torch.cat, zip(*found, strict=True))
        return u, exact, w

    def history_points(self) -> int:
        """Test points of the evaluations before the last: fewer where they have very many coordinates."""
        affordable = max(BLOCK, KEEP // self.domain.dim // BLOCK * BLOCK)
        return min(self.config.points.test, self.config.evaluation.points, affordable)

    def test_errors(self) -> dict[str, float]:
        """rel_l2, rel_l1, rmse, linf on the first test points; NaN without an exact solution."""
        u, exact, _ = self._values("test", self.history_points())
        return metrics.errors(u, exact)

    def validation_score(self, loss: Loss, operator: Callable) -> float:
        """What selects weights and stops runs: the validation error, or the interior loss if no solution is known."""
        n = min(self.config.points.validation, self.history_points())
        if self.problem.has_exact:
            u, exact, w = self._values("validation", n)
            return metrics.errors(w.sqrt() * u, w.sqrt() * exact)["rel_l2"]
        generator = stream(self.config.seed, "validation/operator", self.config.device)
        total = 0.0
        with torch.no_grad():
            for x, _ in self.batches("validation", n):
                terms = loss.terms(self.u, operator, {"interior": x}, generator)
                total += terms["interior"].item() * len(x) / n
        return total

    def off_grid(self) -> dict[str, float]:
        """The fraction of the inputs of each KAN layer off its grid, on the first validation points."""
        x, _ = next(self.blocks("validation", BLOCK))
        return {
            f"off_grid/{i}": fraction
            for i, fraction in enumerate(grids.off_grid(self.u.net, self.problem.coordinates(x)))
        }

    @torch.no_grad()
    def full_test(self) -> tuple[dict[str, float], dict[str, Tensor], str]:
        """The errors on all test points, the field there, and a hash of the points, in one pass over them."""
        n = self.config.points.test
        digest, columns = hashlib.sha256(), {"u": [], "u_exact": [], "radius": []}
        if n * self.domain.dim <= KEEP:
            columns["x"] = []
        for x, exact in self.batches("test", n):
            u, x = self.u(x).double(), self.problem.coordinates(x)
            row = {
                "u": u,
                "u_exact": u * float("nan") if exact is None else exact.double(),
                "radius": x.norm(dim=1),
                "x": x,
            }
            for name, column in columns.items():
                column.append(row[name].cpu())
            digest.update(x.float().cpu().numpy().tobytes())
        field = {name: torch.cat(column) for name, column in columns.items()}
        found = metrics.errors(field["u"], field["u_exact"])
        if self.problem.has_exact:
            field["error"] = (field["u"] - field["u_exact"]).abs()
        else:
            del field["u_exact"]
        return found, field, digest.hexdigest()

    @torch.no_grad()
    def floors(self) -> dict[str, float]:
        """Relative l2 errors on the test points of functions that learn next to nothing; see `metrics.Floors`."""
        if not self.problem.has_exact:
            return {}
        n = min(self.config.points.test, max(self.history_points(), 4096))
        found = metrics.Floors(self.domain.dim, n, self.problem.taylor())
        for points, exact in self.blocks("test", n):
            x = self.problem.coordinates(points)
            m, h = self.problem.factor(x), self.problem.lift(x)
            one, zero = torch.ones_like(exact), torch.zeros_like(exact)
            found.add(
                x, exact, one if m is None else m.value, zero if h is None else h.value, self.problem.untrained(x)
            )
        try:
            floors = found.result()
        except ZeroDivisionError:
            raise ConfigError("the exact solution is zero at all test points: relative errors are undefined") from None
        if isinstance(self.problem, Fitting):  # one that could not be fitted, and has no Taylor polynomial
            return {name: floor for name, floor in floors.items() if floor < 1 or name == "constant"}
        return floors

    # -----------------------------------------------------------------------------------------------------------
    # Slices

    def slices(self) -> dict[str, dict]:
        """A plane and a volume through the domain, with u, u* and the error on their grids; none through a table."""
        if not hasattr(self.domain, "frame"):
            return {}
        wanted, dim = self.config.slices, self.domain.dim
        time = getattr(self.domain, "time", None)
        space = dim - (time is not None)
        k = min(2, space)
        made = {"random" if wanted.plane == "random" else "axes": self._slice(self._axes(k, space), wanted.points)}
        if space >= 3 and wanted.volume**3 * dim <= SLICE and wanted.volume > 1:
            made["volume"] = self._slice(self._axes(3, space), wanted.volume)
        return made

    def _axes(self, k: int, space: int) -> Tensor:
        """k orthonormal directions of space (k, dim): random, or the coordinate axes asked for."""
        dim, plane = self.domain.dim, self.config.slices.plane
        axes = torch.zeros(k, dim, dtype=torch.float64)
        if plane != "random" and k == 2:
            axes[torch.arange(2), list(plane)] = 1
            return axes
        if k == space <= 2:  # the whole space: no plane to choose
            axes[:, :k] = torch.eye(k, dtype=torch.float64)
            return axes
        drawn = directions(k, space, stream(self.config.seed, f"slices/{k}"), dtype=torch.float64)
        axes[:, :space] = torch.linalg.qr(drawn.mT)[0].mT
        return axes

    def _caption(self, k: int, axes: Tensor) -> str:
        """What the slice is of, for the pictures."""
        plane = self.config.slices.plane
        if axes.abs().max() < 1:
            return f"random {k}-D subspace through the centre"
        if plane != "random" and k == 2:
            return f"coordinates {list(plane)} through the centre, off the distribution of the points"
        return "the whole domain"

    @torch.no_grad()
    def _slice(self, axes: Tensor, points: int) -> dict:
        k, dim = axes.shape
        n = min(points, int((SLICE / dim) ** (1 / k)))
        origin, reach = self.domain.frame()
        if not isinstance(reach, float):  # of each coordinate its own
            axes, reach = axes * torch.as_tensor(reach, dtype=axes.dtype), 1.0
        ticks = torch.linspace(-reach, reach, max(n, 2), dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(*[ticks] * k, indexing="ij"), -1).flatten(0, -2)
        inside, u, exact = [], [], []
        like = next(self.u.net.parameters(), torch.empty(0))
        for part in grid.split(max(1, min(2048, 2**22 // dim))):
            x = (torch.as_tensor(origin, dtype=torch.float64) + part @ axes).to(like)
            inside.append(self.domain.contains(x))
            u.append(self.u(x))
            exact.append(self.problem.exact(x) if self.problem.has_exact else torch.full_like(u[-1], float("nan")))
        shape, outside = (len(ticks),) * k, ~torch.cat(inside)
        u, exact = (torch.cat(t).double().masked_fill(outside, float("nan")).reshape(shape).cpu() for t in (u, exact))
        where = self._caption(k, axes)
        if (time := getattr(self.domain, "time", None)) is not None:
            where += f", t = {time / 2:g}"
        data = {"origin": origin, "axes": axes.numpy(), "grid": ticks.numpy(), "u": u.numpy(), "label": where}
        if k == dim and isinstance(self.problem, Fitting):  # the inputs themselves
            values = torch.as_tensor(origin).unsqueeze(1) + axes.diagonal().unsqueeze(1) * ticks
            data |= {"origin": [0.0] * dim, "axes": torch.eye(dim).numpy(), "grid": values.numpy()}
            data["axis_labels"] = ",".join(self.problem.names)
        if self.problem.has_exact:
            data |= {"u_exact": exact.numpy(), "error": (u - exact).abs().numpy()}
        return data


def _joined(blocks: list) -> tuple[Tensor, Tensor | None]:
    xs, exacts = zip(*blocks, strict=True)
    return torch.cat(xs), None if exacts[0] is None else torch.cat(exacts)
