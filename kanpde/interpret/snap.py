"""Edges become formulas one after another, the most certain first; what makes the function worse is undone."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from kanpde.ground.errors import ConfigError
from kanpde.interpret.fitting import Step, Tolerance, error, fit, sample
from kanpde.interpret.functions import SEARCHED, function
from kanpde.interpret.network import Edge, EdgeNetwork, Numeric, Symbolic
from kanpde.interpret.symbolic import Candidate, fit_edge, score

TOLERANCE = Tolerance(relative=1.5, absolute=1e-6)
REVISIONS = 2  # passes over the formulas that were chosen while their neighbours were not yet known
TRIAL_STEPS = 10  # of a fit that tells candidates apart
EXACT = 1e-13  # an error that no other candidate need improve
BETTER = 0.9  # share of the error that another candidate has to reach while all edges are formulas


def suggest_edge(
    network: EdgeNetwork, x: Tensor, edge: Edge, functions: Sequence[str] = SEARCHED, simplicity: float = 0.8
) -> list[Candidate]:
    """What an edge could be, best first: `fit_edge` of its values at x (N, d).

    Raises:
        ConfigError: no such edge, or an unknown function.
    """
    check_edge(network, edge)
    number, i, o = edge
    seen = network.activations(x)[number]
    return fit_edge(seen.inputs[:, i], seen.edges[:, i, o], functions, simplicity)


def check_edge(network: EdgeNetwork, edge: Edge) -> None:
    """Raise ConfigError where the network has no such edge."""
    present = dict(network.edges())
    if edge not in present:
        near = min(present, key=lambda other: sum(abs(a - b) for a, b in zip(other, edge, strict=False)), default=None)
        raise ConfigError(
            f"no edge (layer, input, output) = {edge} in a network {list(network.widths)}; nearest is {near}"
        )


def check_snappable(network: EdgeNetwork) -> None:
    """Raise ConfigError where an edge sees more than its own input, or images."""
    if network.axes == 4:
        raise ConfigError("a KAN of images has no formula: its edges are pruned, not exchanged")
    for number, layer in enumerate(network.layers):
        if layer.norm is not None:
            raise ConfigError(f"layer {number} has a LayerNorm, which mixes its inputs: its edges have no formula")


def snap(
    network: EdgeNetwork,
    x: Tensor,
    y: Tensor,
    *,
    edges: Sequence[Edge] | None = None,
    choose: Mapping[Edge, str] | None = None,
    functions: Sequence[str] = SEARCHED,
    r2_at_least: float = 0.95,
    simplicity: float = 0.8,
    tries: int = 3,
    tolerance: Tolerance = TOLERANCE,
    steps: int = 30,
    together: Callable[[], bool] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[EdgeNetwork, list[Step]]:
    """A copy whose edges are formulas, as far as the function stays what it is, and the steps that led there.

    Edges of `choose` come first, then the others in the order of their best scores. Of an edge the `tries` best
    candidates are put in and everything else is fitted again; the one with the best score of the network's error stays,
    if the tolerance allows its error. At last every choice is reconsidered, now that the others are made.

    Args:
        x, y: a sample, (N, d) and (N, out) or (N,).
        edges: which to make formulas; None: all numeric ones.
        choose: the functions of some edges, by name.
        functions: names to choose from.
        r2_at_least: a candidate that explains less of its edge is not tried.
        simplicity: see `kanpde.interpret.symbolic.score`.
        tolerance: an error above it undoes a step, also a chosen one.
        steps: of the fit after each choice.
        together: try all edges at once before that, until this is True: the best candidate of each, then better ones
            edge by edge. It is quicker, and formulas that are only good beside each other are found.
        stop: asked before each edge; from True on the search ends with what it has.
    Raises:
        ConfigError: an unknown function or edge, a layer with a LayerNorm, shapes that do not fit.
    """
    x, y = sample(network, x, y)
    check_snappable(network)
    choose = dict(choose or {})
    for edge, name in choose.items():
        check_edge(network, edge)
        function(name)
    for edge in edges or ():
        check_edge(network, edge)
    wanted = [edge for edge, kind in network.edges() if isinstance(kind, Numeric) and (edges is None or edge in edges)]
    candidates = {}
    for edge in [*choose, *(edge for edge in wanted if edge not in choose)]:
        if not stop():
            names = [choose[edge]] if edge in choose else functions
            candidates[edge] = suggest_edge(network, x, edge, names, simplicity)
    order = sorted(candidates, key=lambda edge: (edge not in choose, candidates[edge][0].score))
    search = _Search(x, y, functions, r2_at_least, simplicity, tries, tolerance, steps)
    network, said = network.copy(), []
    if together and not together():
        likely = {edge: search.likely(found, choose.get(edge)) for edge, found in candidates.items()}
        network, said = search.together(network, {edge: found for edge, found in likely.items() if found}, together)
    for edge in order:
        if not stop() and isinstance(dict(network.edges()).get(edge), Numeric):
            network, step = search.snapped(network, edge, choose.get(edge))
            said.append(step)
    for edge in [edge for edge in order if edge not in choose] * REVISIONS:
        if not stop():
            network, step = search.revised(network, edge)
            said += [step] if step else []
    return network, said


@dataclass
class _Search:
    """What the choice of a formula for one edge after another has in common; see `snap`."""

    x: Tensor
    y: Tensor
    functions: Sequence[str]
    r2_at_least: float
    simplicity: float
    tries: int
    tolerance: Tolerance
    steps: int
    smallest: float = float("inf")  # error so far

    def together(
        self, network: EdgeNetwork, likely: Mapping[Edge, list[Candidate]], stop: Callable[[], bool]
    ) -> tuple[EdgeNetwork, list[Step]]:
        """The network with formulas on all these edges, where the tolerance allows it.

        The best of each or the simplest of each, then others on one edge after another while that makes it better. The
        candidates stay those of the edges as they were, which tell more than a formula in their place.
        """
        if not likely:
            return network, []
        before = self._error(network)
        best = {edge: found[0] for edge, found in likely.items()}
        simplest = {edge: min(found, key=lambda c: c.complexity) for edge, found in likely.items()}
        now = min((self._formulas(network, chosen) for chosen in (best, simplest)), key=self._rank_of_all)
        others = [
            (edge, c) for edge, found in likely.items() for c in dict.fromkeys([*found[: self.tries], simplest[edge]])
        ]
        improved = True
        while improved:
            improved = False
            for edge, c in others:
                if c is not now.chosen[edge] and now.error > EXACT and not stop():
                    trial = self._formulas(now.network, now.chosen, {edge: c})
                    if trial.error < BETTER * now.error:
                        now, improved = trial, True
        counts = Counter(c.name for c in now.chosen.values())
        names = ", ".join(f"{name} ({n})" if n > 1 else name for name, n in counts.items())
        kept = self.tolerance.allows(now.error, self.smallest)
        said = [Step(f"{len(likely)} edges at once: {names}", before, now.error, kept)]
        return now.network if kept else network, said

    def _formulas(self, network: EdgeNetwork, chosen: dict[Edge, Candidate], changed: dict | None = None) -> "_All":
        """A copy with these candidates, of which only the changed ones are put in, fitted again."""
        trial = network.copy()
        for edge, c in (chosen if changed is None else changed).items():
            _put(trial, edge, c)
        return _All(chosen | (changed or {}), trial, fit(trial, self.x, self.y, self.steps))

    def _rank_of_all(self, trial: "_All") -> tuple[bool, float]:
        complexity = sum(c.complexity for c in trial.chosen.values())
        return self._rank_by(complexity, trial.error)

    def likely(self, found: list[Candidate], name: str | None) -> list[Candidate]:
        """The candidates of an edge that are worth a try; all where a name is given."""
        return found if name else [c for c in found if c.r2 >= self.r2_at_least]

    def snapped(self, network: EdgeNetwork, edge: Edge, name: str | None) -> tuple[EdgeNetwork, Step]:
        """The network with a formula on this edge, the best or that of the name, where the tolerance allows it."""
        before = self._error(network)
        found = suggest_edge(network, self.x, edge, [name] if name else self.functions, self.simplicity)
        found = self.likely(found, name) or suggest_edge(network, self.x, edge, ["0"])  # perhaps it is not needed
        trials = self._trials(network, edge, found[: self.tries])
        best = self._finished(min(trials, key=self._rank))
        return self._decided(network, edge, best, before, self.tolerance.allows(best.error, self.smallest))

    def revised(self, network: EdgeNetwork, edge: Edge) -> tuple[EdgeNetwork, Step | None]:
        """The network with another formula on this edge, if that makes it better: now all its neighbours are known."""
        before, kind = self._error(network), dict(network.edges()).get(edge)
        if before <= EXACT or not isinstance(kind, Symbolic):
            return network, None
        now = _Trial(Candidate(kind.function.name, 1, 1, 0, 0, 1, kind.function.complexity, 0), network, before)
        others = [name for name in self.functions if name != kind.function.name]
        found = [c for c in suggest_edge(network, self.x, edge, others, self.simplicity) if c.r2 >= self.r2_at_least]
        best = min([now, *self._trials(network, edge, found[: self.tries])], key=self._rank)
        if best is now:
            return network, None
        return self._decided(network, edge, self._finished(best), before, True)

    def _trials(self, network: EdgeNetwork, edge: Edge, candidates: list[Candidate]) -> list["_Trial"]:
        """The network with each candidate on the edge, fitted again by some steps."""
        trials = []
        for c in candidates:
            trial = network.copy()
            _put(trial, edge, c)
            trials.append(_Trial(c, trial, fit(trial, self.x, self.y, TRIAL_STEPS)))
            if trials[-1].error <= EXACT:
                break
        return trials

    def _finished(self, trial: "_Trial") -> "_Trial":
        return trial._replace(error=fit(trial.network, self.x, self.y, self.steps))

    def _rank(self, trial: "_Trial") -> tuple[bool, float]:
        return self._rank_by(trial.candidate.complexity, trial.error)

    def _rank_by(self, complexity: int, error: float) -> tuple[bool, float]:
        """What the tolerance allows comes first, then the best score of the network's error."""
        simple = score(complexity, min(error, 1.0) ** 2, self.simplicity, EXACT**2)
        return not self.tolerance.allows(error, self.smallest), simple

    def _error(self, network: EdgeNetwork) -> float:
        found = error(network, self.x, self.y)
        self.smallest = min(self.smallest, found)
        return found

    def _decided(
        self, network: EdgeNetwork, edge: Edge, best: "_Trial", before: float, kept: bool
    ) -> tuple[EdgeNetwork, Step]:
        c = best.candidate
        return best.network if kept else network, Step(
            f"{_named(edge)}: {c.name} (R^2 = {c.r2:.9f})", before, best.error, kept
        )


class _Trial(NamedTuple):
    candidate: Candidate
    network: EdgeNetwork
    error: float


class _All(NamedTuple):
    """A network whose edges are formulas as chosen."""

    chosen: dict[Edge, Candidate]
    network: EdgeNetwork
    error: float


def _put(network: EdgeNetwork, edge: Edge, c: Candidate) -> None:
    network.put(edge, function(c.name), c.a, c.b, c.c, c.d)


def _named(edge: Edge) -> str:
    number, i, o = edge
    return f"layer {number}, edge {i} -> {o}"
