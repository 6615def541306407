"""What can be known to fail before the first step of a run."""

import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from torch import Tensor, nn

from kanpde import loggers
from kanpde.config import PhaseConfig, RunConfig, dump, resolve, validate
from kanpde.config.trees import rescale
from kanpde.domains.base import FEW, is_framed, numbers_across, resolution, tells_inside
from kanpde.ground.errors import ConfigError, suggest
from kanpde.ground.samplers import SOBOL_MAX_DIM, directions, stream
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.jets.jet import Jet, has_rules
from kanpde.jets.nested import gradient_of
from kanpde.jets.slices import WHOLE
from kanpde.jets.system import Jets, Separate, networks
from kanpde.kan.grids import kan_layers, refine, update_grid
from kanpde.kan.layers import KANLinear
from kanpde.kan.sparsity import sparsity
from kanpde.operators import Forward
from kanpde.operators.autograd import check_nested
from kanpde.optim.optimisers import OPTIMISERS, make_optimizer, rates
from kanpde.problems import Problem
from kanpde.problems.conditions import Dirichlet, Initial, Integral, Neumann, Periodic, Robin, Terminal
from kanpde.problems.exactly import Exactly
from kanpde.problems.frames import centre_and_lengths, largest_factor
from kanpde.problems.reading import ALONE, any_jet
from kanpde.training import evaluation, memory, statements
from kanpde.training.cuts import inside
from kanpde.training.losses import OWN
from kanpde.users.code import check_numbers, check_residual, check_statements
from kanpde.verification import DefectEquation, method_of

if TYPE_CHECKING:
    from kanpde.training.plan import Plan

STEPS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)  # of differences, in the lengths of the domain
OF_PLACES = (Dirichlet, Neumann, Robin, Periodic, Initial, Terminal, Integral)  # which leave a field open inside
OF_ONE = ("factor", "lift", "boundary_value", "initial_value", "taylor", "untrained", "left_side", "source")
CHECKED = 2**18  # coordinates of points at which the equation is differentiated, of which a hundred copies may be alive
EXACT_STEP = 1e-5  # from which round-off is a small part of a difference


def check(plan: "Plan") -> None:
    """What can be known to fail before the first step.

    Raises:
        ConfigError: in one line.
    """
    check_written(plan.config)
    loggers.made(plan.config.log)
    check_points_of_interest(plan)
    check_training(plan if plan.config.slabs is None else plan.slab(0))
    _ = plan.known  # a reference that does not fit is refused
    if plan.config.stop.to is not None:
        method_of(DefectEquation(plan.ansatz("cpu")))


def check_frequencies(config: RunConfig, problem: Problem, net: nn.Module | None) -> None:
    """Raises ConfigError for `frequencies` of what is no coordinate, or has inputs of its own."""
    if net is not None:
        raise ConfigError("frequencies: a network made in Python has its own inputs; leave them out")
    if problem.fits_rows:
        raise ConfigError("frequencies: a network that fits data has its own inputs; leave them out")
    names = [problem.axes.name(axis) for axis in range(problem.n_inputs)]
    met = Exactly.built_in(problem, config.constraint == "hard")
    for name in config.frequencies:
        if name not in names:
            raise ConfigError(suggest("key frequencies", name, names))
        if names.index(name) in (met.periodic or {}):
            raise ConfigError(f"frequencies: u is periodic in {name}; Periodic({name!r}, harmonics=K) states K waves")
        if names.index(name) in met.flat:
            raise ConfigError(f"frequencies: u is flat at ends of {name}; leave them out, or say fluxes: loss")


def check_slabs(config: RunConfig, net: nn.Module | None) -> None:
    """Raises ConfigError for what there is not of slabs of time."""
    count = config.parts
    shares = {config.steps // count, -(-config.steps // count)}
    if any(len(rescale(config.phases, share)) < len(config.phases) for share in shares):
        raise ConfigError(
            f"slabs: {count} of them with {config.steps} steps in all leave a phase of one without a step"
        )
    refused = {
        "a network made in Python": net is not None,
        "networks: separate": config.networks == "separate",
        "shard: inputs": config.shard == "inputs",
        "stages": bool(config.stages),
        "start_from": config.start_from is not None,
        "stop.to": config.stop.to is not None,
    }
    if given := next((name for name, is_so in refused.items() if is_so), None):
        raise ConfigError(f"slabs: given beside {given}, which there is not of slabs of time; leave one of them out")


def check_training(plan: "Plan") -> None:
    """Raises ConfigError where what is trained does not fit: of slabs of time it is the first."""
    config, problem, net = plan.config, plan.problem, plan.net
    check_terms(problem)
    check_device(config.device)
    statements.check_class(problem)
    check_fields(plan)
    check_operator(plan)
    statements.check_known_part(plan)
    check_points_of_phases(plan)
    for kind, n in plan.counts.items():
        if n < 1:
            extra = "" if kind == "interior" else f", constraint: soft needs {kind} points (100d are 100 per dimension)"
            raise ConfigError(f"points.{kind}: given {n}, needed is at least 1{extra}")
    of_solver = ((config._solver or {}).get("loss") or {}).get("weights") or {}  # for values that are no conditions
    for name, weight in config.loss.weights.items():
        places = tuple(problem.asked) if problem.conditions else ("boundary", "initial")
        equations = dict.fromkeys(("interior", *plan.loss.equations))  # the first stands for all
        known = (*equations, "gradient", *places, "sparsity", *problem.terms)
        inherited = name in ("boundary", "initial") and resolve(of_solver.get(name), problem.dim) == weight
        if name not in known and not inherited:
            raise ConfigError(suggest("key loss.weights", name, known))
    if config.points.sequence == "sobol" and problem.domain.dim + 1 > SOBOL_MAX_DIM:
        raise ConfigError(
            f"points.sequence: sobol has at most {SOBOL_MAX_DIM} dimensions, the problem {problem.domain.dim}"
        )
    axes = config.slices.plane
    if axes != "random" and (max(axes) >= problem.domain.dim or axes[0] == axes[1]):
        allowed = f"two different coordinates of 0 to {problem.domain.dim - 1}"
        raise ConfigError(f"slices.plane: given {list(axes)}, needed are {allowed}")
    check_start(plan)
    statements.check(plan)
    for phase in config.phases:
        rates(phase, Ansatz(problem, net))
        check_options(phase, config.device, net)
        check_phase(phase, plan)
    check_grids(plan)
    check_smoothness(config, net, problem.reads.order)
    check_shapes(plan)
    check_gradient(plan)
    check_sparsity(config, net)
    if config.average is not None and isinstance(problem.parameters, nn.Module):
        raise ConfigError("average: problems with parameters of their own have none")
    check_factor(plan)
    check_resolution(plan)
    memory.micro_batch(plan)
    evaluation.check_memory(plan)


def check_fields(plan: "Plan") -> None:
    """Raises ConfigError for fields of a system that nothing asks for, and for names and keys that do not fit them."""
    problem, config = plan.problem, plan.config
    several, name = len(problem.fields) > 1, type(problem).__name__
    if config.networks == "separate" and not several:
        raise ConfigError("networks: given separate, but the problem has one field; leave it out")
    if config.networks == "separate" and not isinstance(plan.net, Separate):
        raise ConfigError("networks: given separate, but the network was made in Python; leave it out")
    equations = plan.loss.equations
    taken = {*OWN, *problem.asked, *problem.terms} - ({ALONE} if equations == (ALONE,) else set())
    if clash := taken & {*equations}:
        raise ConfigError(f"{name}.residual: {sorted(clash)[0]} is the name of another term; rename the equation")
    if bad := [equation for equation in equations if not equation or set(equation) & set("./=")]:
        raise ConfigError(f"{name}.residual: an equation is called {bad[0]!r}; needed is a name without . / and =")
    if not several:
        return
    check_network(plan)
    if own := [part for part in OF_ONE if problem.states(part)]:
        raise ConfigError(f"{name}.{own[0]}: it is of a problem with one field; state conditions for each")
    if not problem.conditions and not problem.terms:
        raise ConfigError(
            f"{name}: a system needs conditions: write conditions = (Dirichlet('boundary', 0.0, field='u'), ...)"
        )
    inside = {c.field for c in problem.asked.values() if not isinstance(c, OF_PLACES)}  # observed, or as the user says
    for field, reads in problem.reading.fields.items():
        if not reads.anything and not {field, None} & inside and not problem.terms:
            raise ConfigError(f"{name}.fields: {field} is in no equation, and not observed; leave it out")


def check_written(config: RunConfig) -> None:
    """Raises ConfigError where a result file could not hold the configuration, or would not be opened with it."""
    try:
        text = dump(config)
    except (yaml.YAMLError, ValueError, TypeError) as error:  # the one of pydantic is a ValueError
        raise ConfigError(f"the configuration cannot be written: {' '.join(str(error).split())}") from None
    if dump(validate(yaml.safe_load(text))) != text:
        raise ConfigError("the configuration is not the same when it is read back; give numbers, texts, lists of them")


def check_points_of_interest(plan: "Plan") -> None:
    """Raises ConfigError for one that is none, or not in the domain."""
    for point in plan.interest:
        if plan.problem.fits_rows:
            raise ConfigError("points_of_interest: they are of PDEs; kanpde predict evaluates a fit")
        if not inside(plan.problem.domain, torch.tensor([point.x], dtype=torch.float64)).item():
            raise ConfigError(f"points_of_interest: {point.name}: {list(point.x)!r:.80} lies outside of the domain")


def check_terms(problem) -> None:
    """Raises ConfigError where the history cannot have a column for each term of the problem's own: a/b is one in a."""
    paths = [tuple(str(name).split("/")) for name in problem.terms]
    for name, path in zip(problem.terms, paths, strict=True):
        within = [other for other in paths if other != path and path[: len(other)] == other]
        if within or not set(path).isdisjoint(("", ".")):
            why = f"; there is a term {'/'.join(within[0])} as well" if within else ""
            raise ConfigError(f"terms: given {name!r}, needed is a name{why}")


def check_operator(plan: "Plan") -> None:
    """Raises ConfigError where the operator cannot be had of the network, or estimates what the problem has not."""
    name, operator, problem, net = plan.config.operator["name"], plan.operator, plan.problem, plan.net
    if operator.needs_rules and not all(map(has_rules, networks(net))):
        raise ConfigError(f"operator: {name} has no jet rule for a module of this network; use autograd")
    if problem.fits_rows and not operator.exact:
        raise ConfigError(f"operator: given {name}, but a fit has no derivatives to estimate; use forward")
    nests = operator.nests(net) or problem.reads.named  # then m and h are differentiated one order after the other
    if not problem.fits_rows and nests:
        x = problem.domain.interior(8, stream(0, "check"), plan.config.points.law, dtype=plan.dtype)
        for field in problem.fields:
            check_nested(Ansatz(problem, net, plan.hard).of(field), x)


def check_options(phase: PhaseConfig, device: str, net: nn.Module) -> None:
    """Raises ConfigError where two steps of an optimiser of the user's own, or with the user's own options, fail."""
    optimiser = OPTIMISERS[phase.optimizer]
    if not phase.options and ":" not in phase.optimizer:  # nothing that would not have been tried before
        return
    trial = Ansatz(None, copy.deepcopy(net))
    optimizer = make_optimizer(phase, trial)
    if not optimiser.by_gradients or device != "cpu":
        return
    for p in trial.parameters():
        p.grad = torch.ones_like(p)
    try:
        for _ in range(2):
            optimizer.step()
    except (RuntimeError, AssertionError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        message = str(error).splitlines()[0]
        raise ConfigError(f"optimizer {phase.optimizer}: with options {phase.options}: {message}") from None


def check_phase(phase: PhaseConfig, plan: "Plan") -> None:
    """Raises ConfigError where the residuals of a phase are not functions of a point, or its points do not stay.

    And where its optimiser does not take so many parameters.
    """
    config, optimiser = plan.config, OPTIMISERS[phase.optimizer]
    if optimiser.most is not None and plan.parameters > optimiser.most:
        given = f"given {plan.parameters:,}, it takes at most {optimiser.most:,}; lbfgs keeps no matrix"
        raise ConfigError(f"phases: {phase.optimizer}: parameters of the network: {given}")
    stay = config.points.refresh == "fixed" or plan.emphasis is None or not plan.emphasis.knows_points
    if optimiser.keeps_points and not stay:
        given = f"{config.loss.emphasis['name']} beside {phase.optimizer}"
        raise ConfigError(f"loss.emphasis: {given} needs points.refresh: fixed")
    if not optimiser.wants_system:
        return
    if not plan.operator.transforms:
        raise ConfigError(f"phases: {phase.optimizer} needs the operator forward, given {config.operator['name']}")
    if config.loss.directions:
        raise ConfigError(f"phases: {phase.optimizer} has no loss.directions")
    each = len(plan.loss.equations) + (plan.problem.n_inputs if config.loss.gradient != "none" else 0)
    most, rows = sum(plan.most.values()) * each, phase.options.get("rows")
    if isinstance(rows, int) and rows > most:
        given = f"given {rows:,}, a step has {most:,} residuals"
        raise ConfigError(f"optimizer {phase.optimizer}: rows: {given}, which a sketch is to make fewer")


def check_points_of_phases(plan: "Plan") -> None:
    """Raises ConfigError where a phase asks for other points, and there are none to draw, or they are known by name."""
    if all(phase.points is None for phase in plan.config.phases):
        return
    if plan.problem.fits_rows:
        raise ConfigError("phases: points: the data have the rows that they have; leave it out")
    if plan.emphasis is not None and plan.emphasis.knows_points:
        name = plan.config.loss.emphasis["name"]
        given = f"given beside loss.emphasis: {name}, which knows each point"
        raise ConfigError(f"phases: points: {given}; leave one of them out")


def check_grids(plan: "Plan") -> None:
    """Raises ConfigError where a phase changes grids that it cannot, or would make a basis coarser."""
    config, net = plan.config, plan.net
    if any(p.update_grid for p in config.phases):
        try:
            update_grid(copy.deepcopy(net).double(), torch.zeros(2, plan.problem.domain.dim, dtype=torch.float64))
        except ValueError as error:
            raise ConfigError(f"phases: update_grid: {error}") from None
    for phase in config.phases:
        if len(phase.refines) > 1:
            raise ConfigError(f"phases: given {' and '.join(phase.refines)}; a basis has one of them")
    for name in dict.fromkeys(name for phase in config.phases for name in phase.refines):
        _check_resolution(name, plan)


def _check_resolution(name: str, plan: "Plan") -> None:
    """Raises ConfigError where the phases cannot refine the basis by its option `name`, or would make it coarser."""
    config, net = plan.config, plan.net
    found = {getattr(layer.basis, "resolution", None) for layer in kan_layers(net)} - {None}
    if not found:
        raise ConfigError(f"phases: {name}: {config.backbone['name']} has no basis that can be refined")
    if name not in found:
        raise ConfigError(f"phases: {name}: {config.backbone['name']} is refined by {', '.join(sorted(found))}")
    sizes = [config.backbone.get(name), *(phase.refines.get(name) for phase in config.phases)]
    sizes = [size for size in sizes if size is not None]
    if sizes != sorted(sizes):
        raise ConfigError(f"phases: {name}: a basis becomes finer from phase to phase, given {sizes}")
    try:
        refine(copy.deepcopy(net).double(), sizes[-1])
    except ValueError as error:
        raise ConfigError(f"phases: {name}: {error}") from None


def check_smoothness(config: RunConfig, net: nn.Module, order: int) -> None:
    """Raises ConfigError where the network has fewer derivatives than an exact gradient of the residual reads.

    order: of the highest derivative in the residual.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, KANLinear)]
    needed = max(2, order) + 1
    smoothness = min((layer.basis.smoothness for layer in layers), default=needed)
    if config.loss.gradient == "exact" and smoothness < needed:
        raise ConfigError(
            f"loss.gradient: exact needs backbone.spline_order of at least {needed + 1} (more parameters), or say "
            "almost_everywhere"
        )


def check_start(plan: "Plan") -> None:
    """Raises ConfigError where there is no run, or no best constant, to start from."""
    config = plan.config
    if config.start_from and not ((run := Path(config.start_from)).name and os.path.isfile(run.with_suffix(".pt"))):
        raise ConfigError(f"start_from: {config.start_from} has no checkpoint beside it")
    if config.start != "network" and plan.operator.draws(plan.problem.reads):
        of = f"u.{plan.problem.reads.sums[0]}"
        raise ConfigError(
            f"start: {config.start} reads {of}, which {config.operator['name']} draws; say start: network"
        )
    if config.start != "constant":
        return
    if plan.problem.fits_rows:
        raise ConfigError("start: constant is for PDEs; a network that fits data has their mean and deviation")
    if config.constraint == "soft":
        raise ConfigError("start: constant needs constraint: hard; say start: network with constraint: soft")


def check_shapes(plan: "Plan") -> None:
    """Raises ConfigError where network or problem give anything but finite numbers of the shapes that are read.

    The residual is that of the network as it is; one that starts from other weights need not be finite yet.
    """
    config, problem, dtype = plan.config, plan.problem, plan.dtype
    x = check_network(plan)
    n = len(x)
    if problem.has_exact and not plan.blind and len(problem.fields) == 1:
        check_numbers("the exact solution", problem.exact(x), (n,), x, real=True)
    elif problem.has_exact and not plan.blind:
        check_numbers("the exact solution", problem.exact_fields(x), (n, len(problem.fields)), x, finite=False)
    if problem.fits_rows:
        return
    check_statements(problem, x)
    for kind in plan.counts.keys() - {"interior", *problem.asked}:
        edge = getattr(problem.domain, kind)(n, stream(0, "check"), dtype=dtype)
        check_numbers(f"{kind}_value", getattr(problem, f"{kind}_value")(edge), (n,), edge, broadcast=True)
    try:
        jet = held_jet(plan, x)
    except ValueError as error:  # coefficients, or a lift without a factor
        raise ConfigError(str(error)) from error
    finite = not config.start_from
    check_residual(problem, jet, x, finite, alone=plan.hard and not problem.terms)


def check_network(plan: "Plan") -> Tensor:
    """A few points; raises ConfigError where the network gives anything but a number for each field there."""
    problem, dtype = plan.problem, plan.dtype
    n = 3 if problem.domain.dim != 3 else 4
    x = problem.domain.interior(n, stream(0, "check"), plan.config.points.law, dtype=dtype)
    inputs, trial = problem.inputs_of(x), copy.deepcopy(plan.net).to("cpu", dtype).eval()
    if not problem.fits_rows:
        check_numbers("coordinates", inputs, (n, problem.n_inputs), x)
    try:
        with torch.no_grad():
            value = trial(inputs)
    except (RuntimeError, ValueError, IndexError) as error:
        message = str(error).splitlines()[0]
        raise ConfigError(f"the network does not take inputs (N, {inputs.shape[1]}): {message}") from None
    check_numbers("the network", value, (n, len(problem.fields)), inputs)
    return x


def held_jet(plan: "Plan", x: Tensor) -> Jet | Jets:
    """The jet of the untrained u at x, without its graph, in the precision of x."""
    problem, net = plan.problem, plan.net
    try:
        u = copy.deepcopy(Ansatz(problem, net, plan.hard))
    except Exception:  # of whatever a problem of one's own holds
        u = Ansatz(problem, copy.deepcopy(net), plan.hard)
        u.problem_parameters = None
    mine = plan.operator.uncompiled()
    ruled = all(map(has_rules, networks(net)))
    drawn = any(mine.draws(problem.of(name).reads) for name in problem.fields)
    operator = Forward() if ruled and not mine.needs_rules and not drawn else mine  # the cheapest there is
    jet = operator(u.to("cpu", x.dtype).eval(), x, generator=stream(0, "check/operator"))
    return jet.map(Tensor.detach)


@torch.enable_grad()
def check_gradient(plan: "Plan") -> None:
    """Raises ConfigError where automatic differentiation by x does not see all of the equation: a table, numpy, detach.

    The residual of the network's own jet, which is held, and all else that depends on x: against central differences
    along random directions in the lengths of the domain, of which one must agree at each point, be the source ever so
    steep or in pieces.
    """
    config, problem = plan.config, plan.problem
    reader, remedy = "loss.gradient", "set it to none"
    if plan.sliced:  # as `hides_gradient` says
        return
    if config.loss.gradient == "none":
        if plan.start() is None:
            return
        reader, remedy = f"start: {config.start}", "say start: network"
    if problem.fits_rows:
        raise ConfigError("loss.gradient: a fit has no equation whose gradient vanishes; use the solver fit, or none")
    if hidden := _hidden(problem, config.points.law, lambda x: held_jet(plan, x), plan.hard):
        of = hidden if hidden == "the residual" else f"{hidden}(x) of the problem"
        raise ConfigError(f"{reader}: {of} cannot be differentiated by x (a detached source?): {remedy}")


@torch.enable_grad()
def hides_gradient(problem: Problem, law: str, hard: bool) -> bool:
    """Whether automatic differentiation by x misses a part of the equation, of u = 0 or of any jet.

    False where it fails at such numbers, or for reasons that are said where it is called in earnest; and of sliced
    inputs, of which a process sees some of the slopes: these equations are shipped.
    """
    if problem.input_slice is not WHOLE:
        return False
    drawn = lambda shape: torch.randn(shape, generator=stream(2, "check"), dtype=torch.float64)
    nothing = lambda shape: torch.zeros(shape, dtype=torch.float64)
    try:
        return any(
            _hidden(problem, law, lambda x, fill=fill: any_jet(problem, x, fill), hard) for fill in (nothing, drawn)
        )
    except Exception:
        return False


def _hidden(problem: Problem, law: str, jet_at: Callable[[Tensor], Jet | Jets], hard: bool) -> str | None:
    """The part of the equation that automatic differentiation by x does not see; None: it sees all."""
    n = max(2, min(64, CHECKED // problem.domain.dim))
    x = problem.domain.interior(n, stream(0, "check"), law, dtype=torch.float64)
    v = _lengths(problem, x) * directions(*x.shape, stream(1, "check"), dtype=x.dtype)
    if tells_inside(problem.domain):  # a source that is interpolated is known there only
        within = problem.domain.contains(x + STEPS[0] * v) & problem.domain.contains(x - STEPS[0] * v)
        x, v = (x[within], v[within]) if within.any() else (x, v)
    jet = jet_at(x)
    parts = {
        "the residual": lambda x: torch.stack(list(problem.equations(jet, x).values()), 1),
        "coefficients": problem.coefficients,
        "directions": problem.directions,
    }
    for field in problem.fields if hard else ():
        of = problem.of(field)
        parts |= {
            "factor": lambda x, of=of: _numbers(of.factor(x)),
            "lift": lambda x, of=of: _numbers(of.lift(x)),
        }
    return next((name for name, function in parts.items() if not _is_differentiable(function, x, v)), None)


def _numbers(field: Field | None) -> Tensor | None:
    """All that a field has at a point, in a row."""
    if field is None:
        return None
    return torch.cat([field.value[:, None], field.grad, field.hessian_diagonal.expand_as(field.grad)], 1)


def _lengths(problem, x: Tensor) -> Tensor:
    """(d,): the lengths of the domain, else of where the points x are."""
    if is_framed(problem.domain):
        return centre_and_lengths(problem.domain)[1].to(x)
    reach = x.amax(0) - x.amin(0)
    return torch.where(reach > 0, reach, torch.ones_like(reach))


def _is_differentiable(function, x: Tensor, v: Tensor) -> bool:
    """Whether a function of points has the slopes along v that automatic differentiation says, where it is finite."""
    with torch.no_grad():
        value = function(x)
    if value is None or len(value) != len(x):
        return True  # it does not depend on x
    weights = torch.randn(value[0].numel(), generator=stream(2, "check"), dtype=x.dtype)
    along = lambda x: function(x).reshape(len(x), -1).to(weights) @ weights
    with torch.no_grad():
        value, again = along(x), along(x)
        differences = [(along(x + h * v) - along(x - h * v)) / (2 * h) for h in STEPS]
    if not torch.equal(value.nan_to_num(), again.nan_to_num()):
        return True  # drawn anew at each call: no difference says anything
    try:
        at = x.clone().requires_grad_()
        slope = (gradient_of(along(at), at) * v).sum(1).detach()
    except RuntimeError:  # of numpy
        return False
    known = value.isfinite() & slope.isfinite()
    if not known.any():
        return True
    size = value[known].abs().max()
    allowed = 1e-3 * torch.maximum(slope.abs(), slope[known].square().mean().sqrt())
    agrees = ~known
    for h, difference in zip(STEPS, differences, strict=True):
        noise = 64 * torch.finfo(x.dtype).eps * size / h if h >= EXACT_STEP else 0.0
        agrees |= (slope - difference).abs() <= allowed + noise
        agrees |= ~difference.isfinite()
    return bool(agrees.all())


def check_sparsity(config: RunConfig, net: nn.Module) -> None:
    """Raises ConfigError where there are no edges that a penalty could make fewer."""
    if config.loss.sparsity is not None:
        try:
            sparsity(copy.deepcopy(net).double(), 1.0, 1.0)
        except ValueError as error:
            raise ConfigError(f"loss.sparsity: {error}") from None


def check_factor(plan: "Plan") -> None:
    """A factor of the hard constraint that is as good as zero almost everywhere leaves nothing to learn."""
    problem = plan.problem
    points = max(4, min(64, 2**22 // problem.domain.dim))
    x = problem.domain.interior(points, stream(0, "check"), plan.config.points.law, dtype=torch.float64)
    for field in problem.fields if plan.hard else ():
        if (m := problem.of(field).factor(x)) is None:
            continue
        median = m.value.abs().median() / (largest_factor(problem.of(field)) if plan.frame else 1)
        if median < 1e-6:
            raise ConfigError(f"constraint: the factor of a hard one is about {median:.0e} here; use soft")


def check_resolution(plan: "Plan") -> None:
    """Warns where the dtype of a run tells hardly any points apart; rows that a network scales are in float64."""
    problem, dtype = plan.problem, plan.dtype
    if problem.fits_rows:
        units, dtype = problem.units, torch.float64 if Ansatz(problem, plan.net).scales else dtype
        centre = torch.cat([units.centre, torch.tensor([units.mean])])
        across = resolution(centre, torch.cat([(units.high - units.low) / 2, torch.tensor([units.std])]), dtype)
    else:
        across = numbers_across(problem.domain, dtype)
    if across < FEW:
        better = "; use dtype: float64" if dtype == torch.float32 else "; shift it"
        given = f"{across:.0f} numbers from the centre to the end of a range"
        warnings.warn(f"points lie so far from 0 that {str(dtype)[6:]} has {given}{better}", stacklevel=2)


def check_device(device: str) -> None:
    """Raises ConfigError where torch does not know the device, or it is not there."""
    try:
        torch.empty(0, device=torch.device(device))
        torch.Generator(device)  # there is none on meta
    except (RuntimeError, AssertionError, ValueError):
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        raise ConfigError(f"device {device!r} is not there (available: {', '.join(there)})") from None
