"""Evaluation under no_grad on points that depend on the seed alone: errors, floors, the error field, slices.

The test points are drawn in the domain, or are those of a reference; all others are drawn.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import starmap
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kanpde.domains.base import drawn_in, time_of
from kanpde.ground import metrics
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.slices import WHOLE
from kanpde.kan import grids
from kanpde.problems import Problem
from kanpde.problems.conditions import draws
from kanpde.training import cuts, memory
from kanpde.training.losses import Points

if TYPE_CHECKING:
    from kanpde.training.plan import Plan

BLOCK = 256  # test points per generator: point i belongs to the stream (seed, "test", i // 256)
PART = 2**23  # coordinates of a block that are worked on at a time
HELD = 5  # float64 numbers that are alive at once for each of them
CACHE = 2**24  # coordinates kept in memory rather than drawn again
KEEP = 2**25  # coordinates written to the result file, and measured at every evaluation before the last
JUDGED = 2**18  # coordinates of the points at which a PDE's loss is validated: a few steps' worth of work
LEAST = 16  # but so many points
ZERO = 1e-10  # of its root mean square, what a field is where it is zero
TIMES, FEWEST = 512, 4  # at which errors are told apart, and points of each on average; else they are in intervals
INTERVALS, PER_INTERVAL = 50, 20  # at most, and of so many points at least


def bytes_of(plan: "Plan") -> int:
    """What evaluations hold at once: points that are kept, those of the result file, a block, the work on a part."""
    dim = plan.problem.domain.dim
    every, block = plan.config.points.test * dim, BLOCK * dim
    kept = every * (every <= CACHE) + 2 * every * (every <= KEEP)
    return plan.dtype.itemsize * (kept + block) + 8 * HELD * min(PART, block)


def check_memory(plan: "Plan") -> None:
    """Raises ConfigError where `max_memory` has no room for the evaluations, whose blocks are what they are."""
    left, needed = memory.left(plan), bytes_of(plan)
    if left is not None and left < needed:
        least = (memory.parse(plan.config.max_memory) + needed - left) / 10**6
        raise ConfigError(f"max_memory: given {plan.config.max_memory}, the evaluations need about {least:,.0f}MB")


class Evaluator:
    """The test and validation points of a run and what is measured on them."""

    def __init__(self, plan: "Plan", u: Ansatz):
        self.plan, self.config, self.u, self.knows = plan, plan.config, u, plan.knows
        self.tests = self.config.points.test if plan.known is None else min(self.config.points.test, len(plan.known.x))
        self.problem, self.domain = u.problem, u.problem.domain
        self._points: dict[tuple[str, int], Tensor] = {}
        self._exact: dict[tuple[str, int], Tensor | None] = {}

    # -----------------------------------------------------------------------------------------------------------
    # Points

    def blocks(self, name: str, n: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """(x, u*) of n points of a stream, block by block, those of many coordinates in parts; u* is None if unknown.

        u* is computed once. Points that are too large to keep are drawn again, which is cheap.
        """
        n = min(n, self.tests) if name == "test" and self.plan.known is not None else n
        kept = n * self.domain.dim <= CACHE
        for i in range(0, n, BLOCK):
            yield from self._of_block(name, i // BLOCK, min(BLOCK, n - i), kept)

    def _of_block(self, name: str, number: int, n: int, kept: bool) -> Iterator[tuple[Tensor, Tensor | None]]:
        x = self._block(name, number, kept)
        exact = self._exact_at(x, (name, number))
        parts = self._parts(x[:n])
        return zip(parts, [None] * len(parts) if exact is None else self._parts(exact[:n]), strict=True)

    def _parts(self, rows: Tensor) -> Sequence[Tensor]:
        return rows.split(max(1, PART // self.domain.dim))

    def _block(self, name: str, number: int, kept: bool) -> Tensor:
        if name == "test" and (known := self.plan.known) is not None:
            return known.x[BLOCK * number : BLOCK * (number + 1)].to(self.u.like)
        if (x := self._points.get((name, number))) is None:
            generator = stream(self.config.seed, f"{name}/{number}")
            x = self.problem.held_out(name, number, BLOCK, generator, self.config.points.law).to(self.u.like)
            if kept:
                self._points[name, number] = x
        return x

    def _exact_at(self, x: Tensor, key: tuple[str, int]) -> Tensor | None:
        if key[0] == "test" and (known := self.plan.known) is not None:
            return known.u[BLOCK * key[1] : BLOCK * (key[1] + 1)].to(x.device)
        if not self.knows:
            return None
        if key not in self._exact:
            found = [self.problem.exact_fields(part) for part in self._parts(x)]
            self._exact[key] = None if found[0] is None else torch.cat(found)
        return self._exact[key]

    @cached_property
    def held_out(self) -> Points:
        """Points of each kind that the training does not see: where its loss is measured to choose weights and to stop.

        Of a fit the validation rows; of a PDE so many points that their exact residuals cost no more than a few steps.
        """
        domain, law = self.domain, self.config.points.law
        most = min(self.config.points.validation, self.config.evaluation.points)
        if self.problem.fits_rows:
            return {"interior": torch.cat([x for x, _ in self.blocks("validation", most)])}
        n = min(most, max(LEAST, JUDGED // domain.dim))
        drawn, dtype = lambda kind: stream(self.config.seed, f"validation/{kind}"), drawn_in(domain)
        of = draws(self.problem, law)
        return {kind: of[kind](n, drawn(kind), dtype=dtype).to(self.u.like) for kind in self.plan.counts}

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
    def _values(self, name: str, n: int) -> tuple[Tensor, Tensor]:
        """u and u* (NaN where it is not known) at the points of a stream, in float64."""
        found = []
        for x, exact in self.batches(name, n):
            u = self.u(x).double()
            found.append((u, torch.full_like(u, float("nan")) if exact is None else exact.double()))
        u, exact = map(torch.cat, zip(*found, strict=True))
        return u, exact

    def history_points(self) -> int:
        """Test points of the evaluations before the last: fewer where they have very many coordinates."""
        affordable = max(BLOCK, KEEP // self.domain.dim // BLOCK * BLOCK)
        return min(self.tests, self.config.evaluation.points, affordable)

    def test_errors(self) -> dict[str, float]:
        """rel_l2, rel_l1, rmse, linf on the first test points; NaN where no solution is known.

        Of several fields those of each, `fields/<name>/rel_l2`, and their `metrics.together`.
        """
        return self._errors(*self._values("test", self.history_points()))

    def _errors(self, u: Tensor, exact: Tensor) -> dict[str, float]:
        if u.ndim == 1:
            return metrics.errors(u, exact)
        each = {name: metrics.errors(u[:, k], exact[:, k]) for k, name in enumerate(self.problem.fields)}
        single = {f"fields/{name}/{kind}": e for name, errors in each.items() for kind, e in errors.items()}
        return metrics.together(list(each.values())) | single

    def validation(self, terms: Callable[[Ansatz, Points, torch.Generator], dict[str, float]]) -> dict[str, float]:
        """The terms of the loss at the held-out points, with the same probes at every call."""
        return terms(self.u, self.held_out, stream(self.config.seed, "validation/operator", self.config.device))

    def off_grid(self) -> dict[str, float]:
        """The fraction of the inputs of each KAN layer off its grid, on the first validation points."""
        x = self.problem.inputs_of(self.held_out["interior"][:BLOCK])
        found = grids.off_grid(self.u.net, x)
        if (inputs := self.problem.input_slice) is not WHOLE:  # of the first layer that of these inputs
            (of_all,) = inputs.sum(torch.tensor(found[0] * inputs.width, dtype=torch.float64))
            found[0] = of_all.item() / inputs.dim
        return {f"off_grid/{i}": fraction for i, fraction in enumerate(found)}

    @torch.no_grad()
    def full_test(self) -> tuple[dict[str, float], dict[str, Tensor], str, dict[str, Tensor]]:
        """The errors on all test points, the field there, a hash of the points, and the errors by time, in one pass.

        Where the inputs are sliced the hash is of the radii, and the field has no points.
        """
        n, digest, inputs = self.tests, hashlib.sha256(), self.problem.input_slice
        keeps = n * self.domain.dim <= KEEP and inputs is WHOLE

        def measured(points: Tensor, exact: Tensor | None) -> dict[str, Tensor]:
            u, x = self.u(points).double(), self.problem.inputs_of(points)
            radius = x.norm(dim=1) if inputs is WHOLE else inputs.sum(x.square().sum(1, dtype=torch.float64))[0].sqrt()
            digest.update((x if inputs is WHOLE else radius).float().cpu().numpy().ravel())
            exact = u * float("nan") if exact is None else exact.double()
            found = {"u": u, "u_exact": exact, "radius": radius, "x": x, "t": x[:, -1]}
            return {name: t.cpu() for name, t in found.items() if name != "x" or keeps}

        rows = list(starmap(measured, self.batches("test", n)))  # which, unlike a loop, holds no points any more
        field = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
        found = self._errors(field["u"], field["u_exact"])
        u, exact, t = field.pop("u"), field.pop("u_exact"), field.pop("t")
        columns = cuts.by_field(self.problem.fields, u, exact if self.knows else None)
        return found, {**columns, **field}, digest.hexdigest(), self._by_time(t, u, exact)

    def _by_time(self, t: Tensor, u: Tensor, exact: Tensor) -> dict[str, Tensor]:
        """t, rel_l2 and fields/<name>/rel_l2 at each time of the points, or in intervals of as many points each."""
        if time_of(self.domain) is None or not self.knows:
            return {}
        times, which, count = t.unique(return_inverse=True, return_counts=True)
        if len(times) > TIMES or len(t) < FEWEST * len(times):
            parts = t.argsort(stable=True).chunk(max(1, min(INTERVALS, len(t) // PER_INTERVAL)))
        else:
            parts = which.argsort(stable=True).split(count.tolist())
        size = lambda values: values.square().mean(0).sqrt()
        least = ZERO * size(exact.nan_to_num())
        there = lambda e: torch.where(size(e) > least, e, torch.nan)  # a field that is zero then has no relative error
        rows = [{"t": t[part].double().mean().item(), **self._errors(u[part], there(exact[part]))} for part in parts]
        names = [name for name in rows[0] if name == "t" or name.endswith("rel_l2")]
        return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in names}

    @torch.no_grad()
    def at_interest(self) -> dict[str, list | Tensor]:
        """u at the points of interest beside what is published there, as columns; {}: there are none."""
        if not (points := self.plan.interest):
            return {}
        x = torch.tensor([point.x for point in points], dtype=torch.float64)
        u = self.u(x.to(self.u.like)).double().cpu().reshape(len(points), -1)
        u = u[range(len(points)), [self.problem.fields.index(point.field) for point in points]]
        published = torch.tensor([math.nan if p.published is None else p.published for p in points], dtype=x.dtype)
        named = {"name": [point.name for point in points], "field": [point.field for point in points]}
        return {**named, "x": x, "u": u, "published": published, "difference": u - published}

    @torch.no_grad()
    def floors(self) -> dict[str, float]:
        """Relative l2 errors on the test points of functions that learn next to nothing; see `metrics.Floors`."""
        if not self.knows:
            return {}
        if len(self.problem.fields) == 1:
            return self._floors(self.problem, None)
        each = {name: self._floors(self.problem.of(name), k) for k, name in enumerate(self.problem.fields)}
        return {f"{name}/{kind}": floor for name, floors in each.items() for kind, floor in floors.items()}

    @torch.no_grad()
    def floors_of_u(self) -> dict[str, float]:
        """The same of u itself where no solution is known, from which it differs by as much as it is wrong."""
        if self.knows or self.problem.fits_rows or len(self.problem.fields) > 1:
            return {}
        return self._floors(self.problem, None, of_u=True)

    def _floors(self, problem: Problem, column: int | None, of_u: bool = False) -> dict[str, float]:
        """Those of a problem with one field, which is the only one or a column of several.

        Where nothing is built in, the smaller of those of h + m p and of p.
        """
        n = min(self.tests, max(self.history_points(), 4096))
        centre = problem.units.centre if problem.fits_rows else None
        if problem.input_slice is WHOLE:
            found = metrics.Floors(self.domain.dim, n, problem.taylor(), centre)
        else:  # a fit would be one of the coordinates of all processes
            found = metrics.Floors(self.domain.dim, 0, problem.taylor_polynomials)
        plain = None if self.plan.hard or problem.fits_rows else metrics.Floors(self.domain.dim, n)
        for points, exact in self.blocks("test", n):
            exact = self.u(points) if of_u else exact
            x, exact = problem.inputs_of(points), exact if column is None else exact[:, column]
            if not exact.isfinite().any():
                return {}
            built_in = self.plan.hard or problem.states("lift")
            m, h = problem.factor(x), problem.lift(x) if built_in else None
            one, zero = torch.ones_like(exact), torch.zeros_like(exact)
            found.add(x, exact, one if m is None else m.value, zero if h is None else h.value, problem.untrained(x))
            if plain is not None:
                plain.add(x, exact, one, zero)
        try:
            floors = found.result()
            if plain is not None:
                floors |= {name: min(floor, floors[name]) for name, floor in plain.result().items()}
        except (ZeroDivisionError, OverflowError) as error:
            if column is not None or of_u:
                return {}
            zero = isinstance(error, ZeroDivisionError)
            what = "zero at all test points" if zero else "so large that its squares are no numbers"
            raise ConfigError(f"the solution that is known is {what}: relative errors are undefined") from None
        if self.problem.fits_rows:  # one that could not be fitted, and has no Taylor polynomial
            return {name: floor for name, floor in floors.items() if floor < 1 or name == "constant"}
        return floors

    # -----------------------------------------------------------------------------------------------------------
    # Slices

    def slices(self) -> dict[str, dict]:
        """A plane and a volume through the domain, see `kanpde.training.cuts`; none where the inputs are sliced."""
        if self.problem.input_slice is not WHOLE:
            return {}
        return cuts.slices(self.config, self.u, self.solution)

    def solution(self, x: Tensor) -> Tensor | None:
        """u* at points x (N, d): of a reference between its points; None: it is not known."""
        if not self.knows:
            return None
        return self.problem.exact_fields(x) if self.plan.known is None else self.plan.known.at(x)


def _joined(blocks: list) -> tuple[Tensor, Tensor | None]:
    if len(blocks) == 1:
        return blocks[0]
    xs, exacts = zip(*blocks, strict=True)
    return torch.cat(xs), None if exacts[0] is None else torch.cat(exacts)
