"""What a step makes smaller: the loss at its points, its gradient by micro-batches, and the residuals as a system."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from kanpde.config import RunConfig
from kanpde.ground import metrics
from kanpde.ground.errors import ConfigError
from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Jet
from kanpde.kan.jacobian import covers, jacobian, weights_of
from kanpde.problems.fitting import Fitting
from kanpde.training import memory, setup
from kanpde.training.losses import Loss, Points
from kanpde.users.code import first_not_finite

BLOCK = 128  # points at least whose Jacobian exists at a time
BLOCK_NUMBERS = 2**21  # of the Jacobian of these points, where the parameters are few


class Objective:
    """The loss of a run as a function of points, with what weighs its terms and its points, and memory for them.

    Attributes:
        terms, value: of the last evaluation, terms not yet weighted.
        saved_bytes: what autograd saved in the first backward pass.
        micro_batch: points of each kind at a time; None: all.
    """

    def __init__(self, config: RunConfig, u: Ansatz):
        self.u = u
        self.operator: Callable = setup.operator(config, u.problem)
        self.loss: Loss = setup.loss(config, u.problem)
        self.balance, self.emphasis = setup.balance(config), setup.emphasis(config, u.problem)
        self.micro_batch = memory.micro_batch(config, u.problem, u.net)
        self.terms: dict[str, float] | None = None
        self.value, self.saved_bytes = float("nan"), float("nan")
        self._shrunk = False

    def weights(self, names: Sequence[str]) -> dict[str, float]:
        """w_k: the user's, times those that balance the terms."""
        found = self.balance.weights if self.balance else {}
        return {name: self.loss.weights.get(name, 1.0) * found.get(name, 1.0) for name in names}

    def backward(self, points: Points, probes: torch.Generator, adapt: bool = True) -> Tensor:
        """The loss at these points, its gradient added to that of the parameters.

        Args:
            adapt: whether balance and emphasis follow what they see; else they are as they were.
        Raises:
            FloatingPointError: a term is not finite. torch.OutOfMemoryError: nor does it fit with half the points.
        """
        start = probes.get_state()
        try:
            return self._backward(points, probes, adapt)
        except torch.OutOfMemoryError:
            if self._shrunk:
                raise
            self._shrink(points)
        except FloatingPointError:
            raise
        except Exception as error:  # of the compiler, which has many; an error of the step itself comes again
            if not getattr(self.operator, "compile", False):
                raise
            self._leave_uncompiled(error)
        probes.set_state(start)
        for p in self.u.parameters():
            p.grad = None
        return self.backward(points, probes, adapt)

    def _backward(self, points: Points, probes: torch.Generator, adapt: bool) -> Tensor:
        sums, seen = {}, []
        parts, start = list(self._parts(points, self._emphasis(points, probes))), probes.get_state()
        if self.balance and adapt and len(parts) > 1:
            self.balance.update_by_parts(self._shares(parts, probes), self._trained(), probes)
        after = probes.get_state()
        probes.set_state(start)
        for number, (part, shares, weighed) in enumerate(parts):
            with self._measured(part, probes) as saved:
                residuals = self._residuals(part, number, probes, start)
                terms = self._terms_of_part(residuals, shares, weighed, number)
                if self.balance and adapt and len(parts) == 1:
                    self.balance.update(terms, residuals, self._trained(), probes)
                loss = self.loss.total(terms, self.weights(list(terms)))
            if saved is not None:
                self.saved_bytes = saved()
            seen += [residuals["interior"].detach()] if "interior" in residuals else []
            sums |= {name: sums.get(name, 0.0) + term.item() for name, term in terms.items()}
            self._note(sums, partial(_where, residuals, part))
            loss.backward()
        if not torch.equal(after, start):  # the balance has drawn more than the residuals
            probes.set_state(after)
        if self.emphasis is not None and adapt:
            self.emphasis.update(points["interior"], torch.cat(seen))
        return torch.tensor(self.value, dtype=torch.float64)

    def _residuals(self, part: Points, number: int, probes: torch.Generator, start: Tensor) -> Points:
        """Of a micro-batch; probes that all points share are those of the first one, drawn from the state `start`."""
        if number and not getattr(self.operator, "per_point", True):
            probes = torch.Generator(probes.device).set_state(start)
        return self.loss.residuals(self.u, self.operator, part, probes)

    def _terms_of_part(self, residuals: Points, shares: dict[str, float], weighed: Points, number: int) -> Points:
        """What a micro-batch adds to each term; terms without points of their own come once, with the first."""
        means = self.loss.means(residuals, weighed)
        terms = {name: mean * shares[name] if shares else mean for name, mean in means.items()}
        return terms if number else terms | self.loss.extra_terms(self.u)

    def _shares(self, parts: list, probes: torch.Generator) -> Iterator[tuple[Points, Points]]:
        """What each micro-batch adds to the terms, and its residuals."""
        start = probes.get_state()
        for number, (part, shares, weighed) in enumerate(parts):
            residuals = self._residuals(part, number, probes, start)
            yield self._terms_of_part(residuals, shares, weighed, number), residuals

    def _trained(self) -> list[Tensor]:
        return [p for p in self.u.parameters() if p.requires_grad]

    @contextmanager
    def _measured(self, points: Points, probes: torch.Generator):
        """In the first backward pass: what autograd saves."""
        if self.saved_bytes == self.saved_bytes:
            yield None
            return
        if getattr(self.operator, "compile", False):  # torch does not compile where saved tensors are watched
            start = probes.get_state()
            self.loss.residuals(self.u, self.operator, points, probes)
            probes.set_state(start)
        with metrics.saved_memory(self.u) as saved:
            yield saved

    def _emphasis(self, points: Points, probes: torch.Generator) -> dict[str, Tensor]:
        """The weights of the interior points by what was seen before; of those not seen yet, by their residuals now."""
        if self.emphasis is None:
            return {}
        x = points["interior"]
        if self.emphasis.weights(x) is None:
            start = probes.get_state()
            self.emphasis.update(x, self.residual(x, probes))
            probes.set_state(start)
        w = self.emphasis.weights(x)
        return {"interior": w, "gradient": w.unsqueeze(1)}

    def _parts(self, points: Points, weighing: Points) -> Iterator[tuple[Points, dict[str, float], Points]]:
        """Micro-batches, their shares of the means (of the whole none), and the emphasis of their points."""
        most = max(map(len, points.values()))
        count = -(-most // (self.micro_batch or most))
        cut = {name: x.tensor_split(count) for name, x in points.items()}
        weighed = {name: w.tensor_split(count) for name, w in weighing.items()}
        for i in range(count):
            part = {name: pieces[i] for name, pieces in cut.items() if len(pieces[i])}
            shares = {name: len(x) / len(points[name]) for name, x in part.items()}
            if "interior" in shares:
                shares["gradient"] = shares["interior"]
            yield part, shares if count > 1 else {}, {name: pieces[i] for name, pieces in weighed.items()}

    def _shrink(self, points: Points) -> None:
        """After running out of memory: half the points at a time, once for all."""
        most = max(map(len, points.values()))
        self._shrunk, self.micro_batch = True, -(-min(self.micro_batch or most, most) // 2)
        warnings.warn(f"out of memory: from now on {self.micro_batch} points at a time", stacklevel=2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _leave_uncompiled(self, error: Exception) -> None:
        """After the compiler has given up: the same steps without it."""
        self.operator = uncompiled(self.operator)
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

    def at(self, points: Points, probes: torch.Generator) -> float:
        """The loss at these points, without a gradient by the parameters."""
        return self.total(self.values(self.u, points, probes))

    def measure(self, points: Points, probes: torch.Generator) -> None:
        """Note the terms at these points."""
        self._note(self.values(self.u, points, probes))

    def values(self, u: Ansatz, points: Points, probes: torch.Generator) -> dict[str, float]:
        """The terms of u at these points, not yet weighted, without the emphasis of a point and without a graph."""
        most, start = self.micro_batch or max(map(len, points.values())), probes.get_state()
        try:
            return self.loss.values(u, uncompiled(self.operator), points, probes, most)
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
            return self.loss.residuals(self.u, self.operator, {"interior": x}, probes)["interior"]

    def system(self, points: Points, probes: torch.Generator, parameters: Sequence[Tensor]) -> "Residuals":
        return Residuals(self, points, probes, parameters)

    def state_dict(self) -> dict:
        state = {"micro_batch": self.micro_batch, "saved_bytes": self.saved_bytes}
        state |= {"terms": self.terms, "value": self.value}
        for name in ("balance", "emphasis"):
            part = getattr(self, name)
            state[name] = None if part is None else part.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        self.micro_batch, self.saved_bytes = state["micro_batch"], state["saved_bytes"]
        self.terms, self.value = state["terms"], state["value"]
        for name in ("balance", "emphasis"):
            if state[name] is not None:
                device = {"device": next(self.u.parameters()).device} if name == "emphasis" else {}
                getattr(self, name).load_state_dict(state[name], **device)


def uncompiled(operator: Callable) -> Callable:
    """The same operator for points of any number, none of which is worth a minute of compiling."""
    return replace(operator, compile=False) if getattr(operator, "compile", False) else operator


def _where(residuals: dict[str, Tensor], points: Points, name: str) -> str:
    """The first point at which the residual of a term is not finite, for a message."""
    r, x = residuals.get(name), points.get("interior" if name == "gradient" else name)
    if r is None or x is None or r.isfinite().all():
        return ""
    return f"; its residual is not finite at {first_not_finite(r if len(r) == len(x) else r.mT, x)}"


class Residuals:
    """r (M,), all residuals of all terms with the roots of their weights, so that |r|^2 is the loss; and J = dr/dtheta.

    A term of the problem's own is one residual, the root of it. J comes in blocks of points, each from one vectorised
    reverse pass through the jet of single points; that of a fit by a KAN without norms from a plain one.
    """

    def __init__(self, objective: Objective, points: Points, probes: torch.Generator, parameters: Sequence[Tensor]):
        self.objective, self.points, self.probes = objective, points, probes
        self.parameters = parameters
        self.leaves = {str(i): p.detach() for i, p in enumerate(parameters)}
        self.names = self._names()

    def _names(self) -> dict[str, str]:
        """The leaf of every name: of weights that are tied each name, of a module that layers share the first."""
        leaf = {p: key for p, key in zip(self.parameters, self.leaves, strict=True)}
        modules = self.objective.u.named_modules(prefix="u")
        named = ((f"{at}.{name}", p) for at, module in modules for name, p in module.named_parameters(recurse=False))
        return {name: leaf[p] for name, p in named if p in leaf}

    def residual(self) -> Tensor:
        o = self.objective
        found = o.loss.residuals(o.u, o.operator, self.points, self.probes)
        return torch.cat([*(self._rooted(name, r) for name, r in found.items()), *self._extra()])

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(r (m,), J (m, P)) of the points, block by block, then of the problem's own terms."""
        plainly, numbers = self._fits_plainly(), sum(map(torch.numel, self.parameters))
        numbers = max(numbers, weights_of(self.objective.u.net)) if plainly else numbers
        for name, points in self.points.items():
            block = self._of_values if plainly else self._of_jets(name)
            for x in points.split(max(BLOCK, BLOCK_NUMBERS // numbers)):
                yield block(x)
        for r in self._extra():  # of which several may share a graph, and some have none
            yield r.detach(), self._slope(r)

    def _slope(self, r: Tensor) -> Tensor:
        """dr/dtheta (1, P) of one residual, whose graph stays."""
        if not r.requires_grad:
            return r.new_zeros(1, sum(map(torch.numel, self.parameters)))
        options = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
        return torch.cat([g.reshape(1, -1) for g in torch.autograd.grad(r, self.parameters, **options)], 1)

    def _fits_plainly(self) -> bool:
        u, loss = self.objective.u, self.objective.loss
        return isinstance(u.problem, Fitting) and loss.residual == "square" and covers(u.net, self.parameters)

    def _of_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        o, times = self.objective, len(self.points["interior"]) / len(x)

        def residual(y: Tensor) -> Tensor:
            at_y = lambda *_, **__: Jet(y.squeeze(1))
            found = o.loss.residuals(o.u, at_y, {"interior": x}, self.probes)
            return self._rooted("interior", found["interior"], times)

        return jacobian(o.u.net, o.u.problem.coordinates(x), self.parameters, residual)

    def _of_jets(self, name: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """x -> residuals of a term and their Jacobian."""
        at_points = vmap(jacrev(partial(self._at, _AtOnePoint(self, name)), has_aux=True), (None, 0))

        def block(x: Tensor) -> tuple[Tensor, Tensor]:
            j, r = at_points(self.leaves, x)
            return r.flatten(), torch.cat([j[key].reshape(r.numel(), -1) for key in self.leaves], 1)

        return block

    def _at(self, rows: nn.Module, leaves: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """The residuals at x, twice: to be differentiated, and to be kept."""
        r = functional_call(rows, {name: leaves[key] for name, key in self.names.items()}, (x,), tie_weights=False)
        return r, r

    def _rooted(self, name: str, r: Tensor, times: float = 1) -> Tensor:
        """r with the root of w / n for its mean over n values, `times` as many as are in r."""
        (w,) = self.objective.weights([name]).values()
        return r.flatten() * (w / (r.numel() * times)) ** 0.5

    def _extra(self) -> list[Tensor]:
        """The roots of the terms without points; ConfigError for one that has none. At 0 their slope counts as 0."""
        found = []
        for name, term in self.objective.loss.extra_terms(self.objective.u).items():
            info = torch.finfo(term.dtype)
            if term < -info.eps:
                raise ConfigError(
                    f"extra_terms: {name} is {term.item():.3g}; gauss_newton takes the root of a term, which is at "
                    "least 0; use another optimizer"
                )
            found.append(self._rooted(name, term.clamp_min(info.tiny).sqrt()))
        return found


class _AtOnePoint(nn.Module):
    """The residuals of a term at one point (d,), as a function of the parameters of u."""

    def __init__(self, system: Residuals, name: str):
        super().__init__()
        self.u, self.system, self.name = system.objective.u, system, name

    def forward(self, x: Tensor) -> Tensor:
        system, o = self.system, self.system.objective
        found = o.loss.residuals(self.u, o.operator, {self.name: x.unsqueeze(0)}, system.probes)
        n = len(system.points[self.name])
        return torch.cat([system._rooted(name, r, n) for name, r in found.items()])
