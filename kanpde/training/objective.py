"""What a step makes smaller: the loss at its points, and its gradient by micro-batches."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from kanpde.ground import metrics
from kanpde.ground.samplers import stream
from kanpde.ground.world import ALONE, Lost, World
from kanpde.jets.ansatz import Ansatz
from kanpde.problems import Problem
from kanpde.problems.conditions import Observations
from kanpde.training import memory
from kanpde.training.losses import Points
from kanpde.training.plan import Plan
from kanpde.training.residuals import Residuals
from kanpde.users.code import first_not_finite

TOGETHER = "observations/"  # the name, which no term can have, of those that a balance sees as one


class Objective:
    """The loss of a run as a function of points, with what weighs its terms and its points, and memory for them.

    In a world of several processes points are those of this one, and means, loss and gradient those over the points of
    all; terms without points come from each in equal parts.

    Attributes:
        counts: points a step by kind, of all processes; those of the plan, until a phase has others.
        terms, value: of the last evaluation, terms not yet weighted.
        saved_bytes: what autograd saved in the first backward pass.
        micro_batch: points of each kind at a time; None: all.
        unit: of the residuals, in which optimisers see the loss: of a good start it is far below what Adam calls zero.
    """

    def __init__(self, plan: Plan, u: Ansatz, world: World = ALONE):
        self.u, self.operator, self.loss, self.world = u, plan.operator, plan.loss, world
        self.balance, self.emphasis = plan.balance, plan.emphasis
        for part in filter(None, (self.balance, self.emphasis)):
            part.world = world
        self.counts = dict(plan.counts)
        self.micro_batch = memory.micro_batch(plan)
        self.terms: dict[str, float] | None = None
        self.value, self.saved_bytes, self.unit = float("nan"), float("nan"), 1.0
        self._shrunk = False
        self.closed: dict[str, bool] = {}  # the terms whose Jacobian has been seen to come in closed form, or not
        self.alike = _alike(u.problem)

    def weights(self, names: Sequence[str]) -> dict[str, float]:
        """w_k: the user's, times those that balance the terms."""
        found = self.balance.weights if self.balance else {}
        of = lambda name: found.get(TOGETHER if name in self.alike else name, 1.0) * self.alike.get(name, 1.0)
        return {name: self.loss.weight(name) * of(name) for name in names}

    def backward(self, points: Points, probes: torch.Generator, adapt: bool = True) -> Tensor:
        """The loss at these points in its unit, its gradient added to that of the parameters.

        Args:
            adapt: whether balance and emphasis follow what they see; else they are as they were.
        Raises:
            FloatingPointError: a term is not finite. torch.OutOfMemoryError: nor does it fit with half the points.
        """
        start = probes.get_state()
        try:
            return self._backward(points, probes, adapt)
        except torch.OutOfMemoryError:
            if self._shrunk or not World.current().alone:  # the others are on their way to the next sum
                raise
            self._shrink(points)
        except (FloatingPointError, Lost):
            raise
        except Exception as error:  # of the compiler, which has many; an error of the step itself comes again
            if not self.operator.compile:
                raise
            self._leave_uncompiled(error)
        probes.set_state(start)
        for p in self.u.parameters():
            p.grad = None
        return self.backward(points, probes, adapt)

    def _backward(self, points: Points, probes: torch.Generator, adapt: bool) -> Tensor:
        sums, seen = {}, []
        parts, start = list(self._parts(points, self.weighing(points, probes))), probes.get_state()
        if self.balance and adapt and len(parts) > 1:
            self.balance.update_by_parts(self._shares(parts, probes), self._trained(), self._own(probes))
        after = probes.get_state()
        probes.set_state(start)
        for number, (part, shares, weighed) in enumerate(parts):
            with self._measured(part, probes) as saved:
                residuals = self._residuals(part, number, probes, start)
                terms = self._terms_of_part(residuals, shares, weighed, number)
                if self.balance and adapt and len(parts) == 1:
                    self.balance.update(*self._together(terms, residuals), self._trained(), self._own(probes))
                loss = self.loss.total(terms, self.weights(list(terms)))
            if saved is not None:
                self.saved_bytes = saved()
            seen += [] if (r := self.loss.at_points(residuals)) is None else [r.detach()]
            sums |= {name: sums.get(name, 0.0) + term.item() for name, term in terms.items()}
            where = partial(self._where, residuals, part)
            if self.world.alone:
                self._note(sums, where)
            (loss / self.unit**2).backward(inputs=self._trained())
        if not self.world.alone:
            self._join(sums, where)
        if not torch.equal(after, start):  # the balance has drawn more than the residuals
            probes.set_state(after)
        if self.emphasis is not None and adapt:
            self.emphasis.update(points["interior"], torch.cat(seen))
        return torch.tensor(self.value / self.unit**2, dtype=torch.float64)

    def _join(self, sums: dict[str, float], where: Callable[[str], str]) -> None:
        """Terms and gradients become their sums over the processes, which no process leaves before that."""
        trained = [p for p in self._trained() if p.grad is not None]
        values, *gradients = self.world.sum([_numbers(sums.values()), *(p.grad for p in trained)])
        for p, gradient in zip(trained, gradients, strict=True):
            p.grad = gradient
        try:
            self._note(dict(zip(sums, values.tolist(), strict=True)), where)
        except FloatingPointError:
            for p in trained:
                p.grad = None
            raise

    @property
    def shares_probes(self) -> bool:
        """Whether all points of a step have the same probes, so that all processes draw the same."""
        return not self.operator.exact and not self.operator.per_point

    def _own(self, probes: torch.Generator) -> torch.Generator:
        """For what processes must not draw alike: the probes, or where they are shared a generator made from them."""
        if self.world.alone or not self.shares_probes:
            return probes
        seed = torch.randint(2**62, (1,), generator=probes, device=probes.device).item()
        return stream(seed, f"rank {self.world.rank}", probes.device)

    def count(self, name: str, points: Points) -> int:
        """How many points of a kind there are, in all processes together."""
        return len(points[name]) if self.world.alone else self.world.total(self.counts[name])

    def _residuals(self, part: Points, number: int, probes: torch.Generator, start: Tensor) -> Points:
        """Of a micro-batch; probes that all points share are those of the first one, drawn from the state `start`."""
        if number and not self.operator.per_point:
            probes = torch.Generator(probes.device).set_state(start)
        return self.loss.residuals(self.u, self.operator, part, probes)

    def _terms_of_part(self, residuals: Points, shares: dict[str, float], weighed: Points, number: int) -> Points:
        """What a micro-batch adds to each term; terms without points of their own come once, with the first."""
        means = self.loss.means(residuals, weighed)
        terms = {name: mean * shares[name] if shares else mean for name, mean in means.items()}
        return terms if number else terms | self._extra_terms()

    def _extra_terms(self) -> Points:
        """The part of this process in the terms without points."""
        found = self.loss.extra_terms(self.u)
        return found if self.world.alone else {name: term / self.world.size for name, term in found.items()}

    def _shares(self, parts: list, probes: torch.Generator) -> Iterator[tuple[Points, Points]]:
        """What each micro-batch adds to the terms, and its residuals."""
        start = probes.get_state()
        for number, (part, shares, weighed) in enumerate(parts):
            residuals = self._residuals(part, number, probes, start)
            yield self._together(self._terms_of_part(residuals, shares, weighed, number), residuals)

    def _together(self, terms: Points, residuals: Points) -> tuple[Points, Points]:
        """Terms and residuals as a balance sees them: observations whose noise is known are one term."""
        tied = [name for name in terms if name in self.alike]
        if not tied:
            return terms, residuals
        one = {TOGETHER: sum(self.alike[name] * terms[name] for name in tied)}
        all_of_them = {TOGETHER: torch.cat([residuals[name].flatten() for name in tied if name in residuals])}
        rest = lambda found: {name: t for name, t in found.items() if name not in tied}
        return rest(terms) | one, rest(residuals) | all_of_them

    def _trained(self) -> list[Tensor]:
        return [p for p in self.u.parameters() if p.requires_grad]

    @contextmanager
    def _measured(self, points: Points, probes: torch.Generator):
        """In the first backward pass: what autograd saves."""
        if self.saved_bytes == self.saved_bytes:
            yield None
            return
        if self.operator.compile:  # torch does not compile where saved tensors are watched
            start = probes.get_state()
            self.loss.residuals(self.u, self.operator, points, probes)
            probes.set_state(start)
        with metrics.saved_memory(self.u) as saved:
            yield saved

    def weighing(self, points: Points, probes: torch.Generator) -> dict[str, Tensor]:
        """The weights of the interior points by what was seen before; of those not seen yet, by their residuals now."""
        if self.emphasis is None:
            return {}
        x = points["interior"]
        if self.emphasis.weights(x) is None:
            start = probes.get_state()
            self.emphasis.update(x, self.residual(x, probes))
            probes.set_state(start)
        w = self.emphasis.weights(x)
        return {**dict.fromkeys(self.loss.equations, w), "gradient": w.unsqueeze(1)}

    def _parts(self, points: Points, weighing: Points) -> Iterator[tuple[Points, dict[str, float], Points]]:
        """Micro-batches, their shares of the means (of all points none), and the emphasis of their points."""
        most = max(map(len, points.values()))
        count = -(-most // (self.micro_batch or most))
        cut = {name: x.tensor_split(count) for name, x in points.items()}
        weighed = {name: w.tensor_split(count) for name, w in weighing.items()}
        for i in range(count):
            part = {name: pieces[i] for name, pieces in cut.items() if len(pieces[i])}
            whole = count == 1 and self.world.alone
            yield part, {} if whole else self._shares_of(part, points), {n: pieces[i] for n, pieces in weighed.items()}

    def _shares_of(self, part: Points, points: Points) -> dict[str, float]:
        """The shares of a part of the points in the means, by the names of the terms."""
        shares = {name: len(x) / self.count(name, points) for name, x in part.items()}
        if "interior" in shares:
            shares |= dict.fromkeys((*self.loss.equations, "gradient"), shares["interior"])
        return shares

    def _joint(self, terms: dict[str, float], points: Points) -> dict[str, float]:
        """The means over the points of all processes, of those at the points of each."""
        if self.world.alone:
            return terms
        shares = self._shares_of(points, points)
        (values,) = self.world.sum([_numbers(t * shares.get(name, 1 / self.world.size) for name, t in terms.items())])
        return dict(zip(terms, values.tolist(), strict=True))

    def _shrink(self, points: Points) -> None:
        """After running out of memory: half the points at a time, once for all."""
        most = max(map(len, points.values()))
        self._shrunk, self.micro_batch = True, -(-min(self.micro_batch or most, most) // 2)
        warnings.warn(f"out of memory: from now on {self.micro_batch} points at a time", stacklevel=2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _leave_uncompiled(self, error: Exception) -> None:
        """After the compiler has given up: the same steps without it."""
        self.operator = self.operator.uncompiled()
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        warnings.warn(f"torch.compile has failed, the steps run without it: {reason}", stacklevel=2)

    def _note(self, terms: dict[str, float], where: Callable[[str], str] = lambda name: "") -> None:
        """Remember the terms; the first one that is not finite is an error, which says `where(its name)`."""
        self.terms, self.value = terms, self.total(terms)
        bad = [name for name, value in terms.items() if not abs(value) < float("inf")]
        if bad or not abs(self.value) < float("inf"):
            first = bad[0] if bad else "the weighted sum"
            raise FloatingPointError(
                f"the loss term {first} is {terms.get(first, self.value)}, first of all terms{where(first)}"
            )

    def _where(self, residuals: dict[str, Tensor], points: Points, name: str) -> str:
        """The first point at which the residual of a term is not finite, for a message."""
        inside = name == "gradient" or name in self.loss.equations
        r, x = residuals.get(name), points.get("interior" if inside else name)
        if r is None or x is None or r.isfinite().all():
            return ""
        return f"; its residual is not finite at {first_not_finite(r if len(r) == len(x) else r.mT, x)}"

    def at(self, points: Points, probes: torch.Generator, emphasis: Points | None = None) -> float:
        """The loss at these points, without a gradient by the parameters.

        Args:
            emphasis: the weights of points, by term, as they are to stay: `weighing`.
        """
        if not emphasis:
            return self.total(self._joint(self.values(self.u, points, probes), points))
        with torch.no_grad():
            residuals = self.loss.residuals(self.u, self.operator.uncompiled(), points, probes)
            terms = self.loss.means(residuals, emphasis) | self.loss.extra_terms(self.u)
        return self.total(self._joint({name: term.item() for name, term in terms.items()}, points))

    def measure(self, points: Points, probes: torch.Generator) -> None:
        """Note the terms at these points, of which an emphasis is told."""
        self._note(self._joint(self.values(self.u, points, probes), points))
        if self.emphasis is not None:
            self.emphasis.update(points["interior"], self.residual(points["interior"], probes))

    def values(self, u: Ansatz, points: Points, probes: torch.Generator) -> dict[str, float]:
        """The terms of u at these points, not yet weighted, without the emphasis of a point and without a graph.

        Those of this process alone, whatever its world.
        """
        most, start = self.micro_batch or max(map(len, points.values())), probes.get_state()
        try:
            return self.loss.values(u, self.operator.uncompiled(), points, probes, most)
        except torch.OutOfMemoryError:
            if self._shrunk:
                raise
            self._shrink(points)
        probes.set_state(start)
        return self.values(u, points, probes)

    def total(self, terms: dict[str, float]) -> float:
        """sum_k w_k L_k with the weights as they are now."""
        return self.loss.total(terms, self.weights(list(terms)))

    def residual(self, x: Tensor, probes: torch.Generator) -> Tensor:
        """The scaled interior residual (N,), without its gradient."""
        with torch.no_grad():
            return self.loss.at_points(self.loss.residuals(self.u, self.operator, {"interior": x}, probes))

    def system(self, points: Points, probes: torch.Generator, parameters: Sequence[Tensor]) -> Residuals:
        """The residuals at these points, whose squares add up to the loss."""
        weighing = self.weighing(points, probes)
        return Residuals(self, points, probes, parameters, weighing.get(self.loss.equations[0]))

    def state_dict(self) -> dict:
        state = {"micro_batch": self.micro_batch, "saved_bytes": self.saved_bytes}
        state |= {"terms": self.terms, "value": self.value, "unit": self.unit}
        return state | self.adapted()

    def load_state_dict(self, state: dict) -> None:
        self.micro_batch, self.saved_bytes = state["micro_batch"], state["saved_bytes"]
        self.terms, self.value, self.unit = state["terms"], state["value"], state.get("unit", 1.0)
        self.load_adapted(state)

    def adapted(self) -> dict:
        """The states of what follows the residuals, balance and emphasis, for all points of all processes."""
        parts = {"balance": self.balance, "emphasis": self.emphasis}
        state = {name: None if part is None else part.state_dict() for name, part in parts.items()}
        for name in self.emphasis.by_point if self.emphasis is not None else ():
            if state["emphasis"][name] is not None:
                state["emphasis"][name] = self.world.gather(state["emphasis"][name])
        return state

    def load_adapted(self, state: dict) -> None:
        """Those of `adapted`; an emphasis takes what is of the points of this process."""
        if state["balance"] is not None:
            self.balance.load_state_dict(state["balance"])
        if state["emphasis"] is not None:
            held = {name: state["emphasis"][name] for name in self.emphasis.by_point}
            mine = {name: None if rows is None else self.world.part(rows) for name, rows in held.items()}
            self.emphasis.load_state_dict(state["emphasis"] | mine, device=next(self.u.parameters()).device)


def _numbers(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _alike(problem: Problem) -> dict[str, float]:
    """The weights of several sets of observations by which each of them counts alike in units of its noise.

    Of K sets of n_k, K n_k / sum n: 1 for sets of one size. Those of which a noise is not stated are terms like others.
    """
    sets = {
        name: condition.count(problem)
        for name, condition in problem.asked.items()
        if isinstance(condition, Observations) and condition.noise is not None
    }
    return {name: len(sets) * n / sum(sets.values()) for name, n in sets.items()} if len(sets) > 1 else {}
