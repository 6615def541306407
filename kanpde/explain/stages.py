"""An explanation from its first to its last stage; the run it is of stays as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kanpde import interpret, plot
from kanpde.explain import shown
from kanpde.ground.errors import ConfigError
from kanpde.ground.metrics import errors
from kanpde.ground.samplers import stream
from kanpde.interpret import EdgeNetwork, Step, Symbolic, Tolerance, similarity
from kanpde.interpret.expression import values_at
from kanpde.interpret.functions import function
from kanpde.interpret.network import Edge
from kanpde.interpret.snap import check_edge, check_snappable
from kanpde.kan.grids import kan_layers
from kanpde.problems import Problem
from kanpde.proof import Proof, Untraceable, prove, solution_of, solved_by
from kanpde.recover.recover import recover
from kanpde.runs.models import Run, opened
from kanpde.runs.predict import input_names
from kanpde.training.evaluation import Evaluator

if TYPE_CHECKING:
    import sympy
    from matplotlib.figure import Figure
    from rich.table import Table

Say = Callable[["str | Table"], None]
Rows = dict[str, tuple[Tensor, Tensor]]  # sample and test: x (N, d) and y (N, 1) in float64

DRAWN = 100_000  # edges of a network that is taken apart at all
FITTED = 500  # edges of one that is pruned and made formulas
ROOM = 2**25  # numbers that the functions of a layer may be at all rows together
FEWEST = 50  # rows
FLOATS = 40  # constants of a formula that are rounded
POOR = 0.1  # error, as a share of the deviation, from which a formula means little
EXACT = 1e-6  # relative error that is always allowed
LISTED = 12  # edges without a formula that are named


@dataclass
class Explanation:
    """What `explain` has found.

    Attributes:
        names, output: of the inputs, and of what the network computes.
        network: the KAN taken apart, pruned and made formulas as far as that went.
        importance: of each input by name, see `EdgeNetwork.importance`.
        steps: every change, with the error on the sample before and after; undone ones too.
        formula: sympy expression in the names; None where edges are left that are no formulas.
        proof: of a PDE, that the formula of u solves it, with that formula; None where there is none.
        errors: by stage (trained, pruned, snapped, formula) and rows (sample, test), as `kanpde.ground.metrics.errors`.
        compactness: by network, see `kanpde.interpret.similarity.compactness`.
        files: pictures and formulas that were written.

    Example:
        >>> from kanpde import train
        >>> from kanpde.problems import Function as Fit
        >>> given = {"solver": "fit", "backbone": {"name": "kan", "widths": [1]}, "steps": 2}
        >>> run = train(Fit(formula="a", ranges={"a": (-1, 1)}), out=getfixture("tmp_path") / "run.h5", **given)
        >>> found = explain(run, prune=False, symbolic=False, folder=getfixture("tmp_path"))
        >>> list(found.importance), found.formula
        (['a'], None)
    """

    names: Sequence[str]
    output: str
    network: EdgeNetwork
    importance: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    formula: sympy.Expr | None = None
    proof: Proof | None = None
    errors: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    compactness: dict[str, dict[str, float]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def explain(
    run: Run,
    *,
    other: Run | None = None,
    prune: bool = True,
    symbolic: bool = True,
    choose: Mapping[Edge, str] | None = None,
    r2: float = 0.95,
    tolerance: float = 1.5,
    points: int = 1000,
    seconds: float = 120.0,
    search: float = 0.0,
    folder: str | Path | None = None,
    trust: bool = False,
    problem: Problem | None = None,
    say: Say = lambda what: None,
) -> Explanation:
    """Take the network of a run apart, prune it, make its edges formulas, and write pictures and the formula.

    A fit is judged by its rows and their observations; of another problem the network f in u = h + m f is explained,
    by its own values at points of the domain, and the formula of u is put into the equation and the conditions
    (`kanpde.proof`). Nothing of the run changes.

    Args:
        other: a run whose edges are compared with those of `run`, such as its MetaKAN.
        prune, symbolic: whether to prune, and to look for formulas.
        choose: functions of some edges (layer, input, output), counted from 0.
        r2: share of the variance of an edge that a formula for it must explain.
        tolerance: a step is undone where it makes the error more than so many times the smallest so far.
        points: of the sample; of a fit, training rows.
        seconds: for the search, and for pruning at most half of them where formulas are sought; both end with what
            they have.
        search: seconds for a formula of u that the equation accepts, where the edges have none that is exact.
        folder: where the files go; default beside the run.
        trust, problem: see `Run.load_model`.
        say: is told lines and tables (of rich) as they come about.
    Raises:
        ConfigError: a network without edges or with too many, an unknown edge or function, a number out of range.
    """
    allowed, choose = Tolerance(tolerance, EXACT), dict(choose or {})
    if not 0 <= r2 <= 1 or points < FEWEST or seconds < 0 or search < 0:
        needed = f"r2 in [0, 1], points >= {FEWEST}, seconds >= 0, search >= 0"
        raise ConfigError(f"explain: needed are {needed}; given {r2:g}, {points}, {seconds:g}, {search:g}")
    if choose and not symbolic:
        raise ConfigError("explain: functions of edges are chosen, but formulas are switched off")
    if search and run.attrs["fits"]:
        raise ConfigError(f"{run.path}: search is for the solution of an equation; for rows there is kanpde recover")
    work = _Work(run, folder, points, trust, problem, say)
    nets = [(run, work.u.net)] + ([(other, other.load_model(trust=trust).net)] if other else [])
    for edge, name in choose.items():
        check_edge(work.found.network, edge)
        function(name)
    work.as_trained()
    if (prune or symbolic) and work.is_small():
        allowed, end = work.relaxed(allowed), time.perf_counter() + seconds
        if prune:
            work.prune(allowed, seconds / 2 if symbolic else seconds)
        if symbolic:
            work.snap(choose, r2, allowed, max(0.0, end - time.perf_counter()))
    if search:
        work.search(search)
    if work.found.proof:
        work.write_proof()
    if work.found.steps:
        work.draw("explained")
    say(shown.table_of_errors(work.found.errors))
    work.compare(nets)
    return work.found


class _Work:
    """The stages, which fill an `Explanation`."""

    def __init__(
        self, run: Run, folder: str | Path | None, points: int, trust: bool, problem: Problem | None, say: Say
    ):
        self.run, self.say = run, say
        if len(run.fields) > 1:
            raise ConfigError(
                f"{run.path}: a network of {len(run.fields)} fields is not explained, only one of a field"
            )
        self.plan, self.u = opened(run, trust, problem=problem)
        if self.plan.config.fluxes == "exactly" and self.plan.problem.exactly.flat:
            raise ConfigError(f"{run.path}: a network with flat inputs is not taken apart; train one with fluxes: loss")
        if self.plan.config.frequencies:
            raise ConfigError(f"{run.path}: a network that sees waves beside x is not taken apart (frequencies)")
        self.folder = Path(folder or run.path.parent)
        network, config = _taken_apart(run, self.u.net), self.plan.config
        self.fits = self.plan.problem.fits_rows
        output = config.problem.get("output") or ("y" if self.fits else "f" if config.constraint == "hard" else "u")
        self.found = Explanation(input_names(self.u.problem), output, network)
        self.rows = self._rows(network, points)

    @torch.no_grad()
    def _rows(self, network: EdgeNetwork, points: int) -> Rows:
        """Training and test rows of a fit; else points of the domain with the values of the network."""
        config, problem = self.plan.config, self.plan.problem
        largest = max(layer.in_features * layer.out_features * layer.basis.size for layer in network.layers)
        most = max(FEWEST, ROOM // largest)
        points, tested = min(points, most), min(config.points.test, most)
        n = config.points.interior if self.fits else points
        law, sequence = config.points.law, config.points.sequence
        drawn = problem.domain.interior(n, stream(config.seed, "interior"), law, sequence, dtype=torch.float64)
        test = torch.cat([x for x, _ in Evaluator(self.plan, self.u).batches("test", tested)])
        rows = {}
        for name, t in (("sample", drawn[:points]), ("test", test)):
            x = problem.inputs_of(t).double()
            rows[name] = x, problem.exact(t).double().unsqueeze(1) if self.fits else network(x)
        sample = f"{len(rows['sample'][0]):,} {'training rows' if self.fits else 'points of the domain'}"
        self.say(f"sample    {sample}; errors also at {len(test):,} for testing")
        if self.found.output == "f":
            self.say("function  u = h + m f has the boundary values built in; explained is the network f")
        return rows

    def as_trained(self) -> None:
        """The importance of the inputs, the network as it is, and whether it is good enough to mean something."""
        network, y = self.found.network, self.rows["test"][1]
        scores = network.importance(self.rows["sample"][0]).nodes[0].tolist()
        self.found.importance = dict(zip(self.found.names, scores, strict=True))
        self.say(shown.table_of_importance(self.found.importance))
        self.draw("graph")
        self.measure("trained", network)
        share = self.found.errors["trained"]["test"]["rmse"] / y.std(correction=0).clamp_min(1e-300).item()
        if share > POOR:
            self.say(f"warning   the error on test rows is {share:.2g} of the deviation of {self.found.output}:")
            self.say("          a formula of this network means little")

    def is_small(self) -> bool:
        """Whether the network has few enough edges to be fitted again and again."""
        edges = sum(1 for _ in self.found.network.edges())
        if edges > FITTED:
            self.say(f"no formula: networks of up to {FITTED} edges are pruned and snapped, this one has {edges:,}")
        return edges <= FITTED

    def relaxed(self, allowed: Tolerance) -> Tolerance:
        """A network that is its own measure has no error: it may lose as much as the run is wrong by."""
        if self.fits or not isfinite(self.run.rel_l2):
            return allowed
        self.say(f"allowed   an error as large as that of the run, {self.run.rel_l2:.2g}")
        return Tolerance(allowed.relative, max(EXACT, self.run.rel_l2))

    def prune(self, allowed: Tolerance, seconds: float) -> None:
        """The network without what hardly matters."""
        end, stopped = time.perf_counter() + seconds, []

        def stop() -> bool:
            stopped.append(time.perf_counter() > end)
            return stopped[-1]

        network, sample = self.found.network, self.rows["sample"]
        self.found.network, steps = interpret.prune(network, *sample, tolerance=allowed, stop=stop)
        self.tell("pruning", steps)
        if any(stopped):
            self.say(f"pruning   ended after {seconds:g} s; more --seconds may take out more")
        self.measure("pruned", self.found.network)

    def snap(self, choose: dict[Edge, str], r2: float, allowed: Tolerance, seconds: float) -> None:
        """The network with formulas on its edges, and the formula of all of it if none is left out."""
        try:
            check_snappable(self.found.network)
        except ConfigError as error:
            self.say(f"no formula: {error}")
            return
        present, start = dict(self.found.network.edges()), time.perf_counter()
        over = lambda share=1.0: time.perf_counter() > start + share * seconds
        for edge in choose.keys() - present.keys():
            self.say(f"formulas  {choose[edge]} for {edge}: that edge was pruned")
        self.found.network, steps = interpret.snap(
            self.found.network,
            *self.rows["sample"],
            choose={edge: name for edge, name in choose.items() if edge in present},
            r2_at_least=r2,
            tolerance=allowed,
            together=lambda: over(0.5),  # the rest is for one edge after the other
            stop=over,
        )
        self.tell("formulas", steps)
        if over():
            self.say(f"formulas  the search ended after {seconds:.0f} s with what it had")
        self.measure("snapped", self.found.network)
        left = [edge for edge, kind in self.found.network.edges() if not isinstance(kind, Symbolic)]
        if left:
            some = ", ".join(map(str, left[:LISTED])) + ", ..." * (len(left) > LISTED)
            self.say(f"no formula: {len(left)} edges (layer, input, output) stay numeric: {some}")
        else:
            self.write_formula()
            if not self.fits:
                self.prove()

    def write_formula(self) -> None:
        """The formula as sympy and as LaTeX, with its constants fitted and rounded where that does no harm."""
        import sympy

        names, (x, y) = self.found.names, self.rows["sample"]
        error = lambda expr: errors(values_at(expr, names, x), y.squeeze(1))["rel_l2"]
        formula = interpret.expression(self.found.network, names)
        few = sum(node.is_Float for node in sympy.preorder_traversal(formula)) <= FLOATS
        tidy = interpret.refine(formula, names, x, y) if few else interpret.simplify(formula, names, x)
        before, after = error(formula), error(tidy)
        kept = Tolerance(1.02, EXACT).allows(after, before)
        self.tell("formula", [Step("constants fitted and rounded, terms combined", before, after, kept)])
        self.found.formula = formula = tidy if kept else formula
        self.measure("formula", lambda x: values_at(formula, names, x).unsqueeze(1))
        self.write_text("formula.txt", interpret.text(formula))
        self.write_text("formula.tex", shown.tex(formula, names, self.found.output))

    def prove(self) -> None:
        """The formula of u in the equations and conditions of the problem."""
        import sympy

        axes = self.u.problem.axes
        named = {sympy.Symbol(name): sympy.Symbol(axes.name(k)) for k, name in enumerate(self.found.names)}
        try:
            u = solution_of(self.u, self.found.formula.xreplace(named))
            self.found.proof = prove(self.plan.problem, u, refit=True)
        except Untraceable as error:
            self.say(f"no proof: what is built into u is no formula ({error})")
        except ConfigError as error:
            self.say(f"no proof: {error}")

    def search(self, seconds: float) -> None:
        """A formula for the values of u that the equation accepts, unless that of the edges is exact."""
        if self.found.proof and self.found.proof.exact:
            return
        problem, accepted = self.plan.problem, []
        x, names = self.rows["sample"][0], [problem.axes.name(axis) for axis in range(problem.n_inputs)]

        def accept(formula: sympy.Expr) -> bool:
            accepted[:] = [solved_by(problem, formula)]
            return accepted[0] is not None

        with torch.no_grad():
            u = self.u(x.to(self.u.like)).double()
        found = recover(x, u, names, seconds, stream(self.plan.config.seed, "search"), accept=accept)
        near = "no formula" if found.formula is None else f"error {found.formula_error:.1e}"
        self.say(f"search    {near}, after {found.seconds:.0f} s")
        if accepted and accepted[0] is not None:
            self.found.proof = prove(problem, accepted[0])
        elif found.formula is not None and not self.found.proof:
            self.found.proof = prove(problem, found.formula, refit=True)

    def write_proof(self) -> None:
        """The formula of u, and what is known of it."""
        proof = self.found.proof
        lines = [f"u = {interpret.text(proof.formula)}", *map(str, proof.findings), f"verdict: {proof.verdict}"]
        self.write_text("solution.txt", "\n".join(lines))

    def compare(self, nets: Sequence[tuple[Run, nn.Module]]) -> None:
        """How alike the edges are, of each network: pictures and a table."""
        backbones = [run.attrs["backbone"] for run, _ in nets]
        distinct = len(set(backbones)) == len(nets)
        by_title = {name if distinct else str(run.path): net for name, (run, net) in zip(backbones, nets, strict=True)}
        try:
            figures = shown.similarities(by_title)
        except ConfigError as error:
            self.say(f"no similarity: {error}")
            return
        for name, figure in figures.items():
            self.write_picture(name, figure)
        self.found.compactness = {title: similarity.compactness(net) for title, net in by_title.items()}
        self.say(shown.table_of_compactness(self.found.compactness))

    # -----------------------------------------------------------------------------------------------------------
    # What stages do

    @torch.no_grad()
    def measure(self, stage: str, model: Callable[[Tensor], Tensor]) -> None:
        """The errors of a model on the sample and on the test rows."""
        self.found.errors[stage] = {name: errors(model(x), y) for name, (x, y) in self.rows.items()}

    def tell(self, what: str, steps: Sequence[Step]) -> None:
        """A line for every step."""
        self.found.steps += steps
        for line in map(str, steps) if steps else ["nothing to do"]:
            self.say(f"{what:10}{line}")

    def draw(self, name: str) -> None:
        """The network as it is by now."""
        network, x = self.found.network, self.rows["sample"][0]
        state = " and ".join(stage for stage in ("pruned", "snapped") if stage in self.found.errors)
        title = f"{self.run.attrs['backbone']} {list(network.widths)} {state}".strip()
        self.write_picture(name, shown.graph(network, x, self.found.names, self.found.output, title))

    def write_picture(self, name: str, figure: Figure) -> None:
        self.found.files += plot.write(self.run, self.folder, {name: figure})

    def write_text(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.run.path.stem}-{name}"
        path.write_text(text + "\n", encoding="utf-8")
        self.found.files.append(path)
        self.say(text)


def _taken_apart(run: Run, net: nn.Module) -> EdgeNetwork:
    edges = sum(layer.in_features * layer.out_features for layer in kan_layers(net))
    if not edges:
        raise ConfigError(f"{run.path}: an {run.attrs['backbone']} has no edges; explained are KANs such as metakan")
    if edges > DRAWN:
        raise ConfigError(f"{run.path}: explained are networks of up to {DRAWN:,} edges, this one has {edges:,}")
    return EdgeNetwork.of(net)
