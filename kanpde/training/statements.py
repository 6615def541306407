"""What a problem and a configuration state is read by the mode that is chosen, or refused."""

import copy
import difflib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kanpde.config import RunConfig, resolve
from kanpde.domains.base import kinds_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Ansatz, Field
from kanpde.problems.base import Problem, own
from kanpde.problems.conditions import Observations, check_time
from kanpde.problems.lifts import points_at
from kanpde.problems.reading import any_jet
from kanpde.training.cuts import inside
from kanpde.training.losses import OWN, one_number
from kanpde.users.code import check_numbers

if TYPE_CHECKING:
    from kanpde.training.plan import Plan

NEAR = 0.8  # likeness of a name to one that is read
POINTS, NUMBERS = 64, 2**18  # on the boundary; in high dimension fewer, so that they hold at most
VANISHING = 1e-6  # of a factor on the boundary, relative to its size inside
AGREEING = 1e-5  # of a lift and the values stated, relative to their size


def check(plan: "Plan") -> None:
    """Raises ConfigError, in one line that says what to write, where something stated would not be read."""
    check_counts(plan.config, plan.problem)
    check_equation(plan)
    if plan.problem.conditions or len(plan.problem.fields) > 1:
        check_conditions(plan)
        check_terms(plan)
        return
    check_places(plan)
    check_values = _check_hard if plan.hard else _check_soft
    try:
        check_values(plan, torch.float64)
    except RuntimeError:  # of a problem that has tensors of a dtype
        check_values(plan, plan.dtype)
    check_terms(plan)


def check_class(problem: Problem) -> None:
    """Raises ConfigError for a name that is nearly one which is read, and for parameters that are no module."""
    if not isinstance(problem, Problem):
        return
    classes = type(problem).__mro__[:-1]
    users = [cls for cls in classes if not cls.__module__.startswith("kanpde.")]
    known = {name for cls in set(classes) - set(users) for name in vars(cls)}
    known = {name for name in known if not name.startswith("_") and len(name) > 3}
    stated = {name for cls in users for name in vars(cls)}
    read = {name for cls in users for value in vars(cls).values() for name in _names(value)}
    for name in stated - known - read:
        near = difflib.get_close_matches(name, known - stated, n=1, cutoff=NEAR)
        if near and not name.startswith("_") and abs(len(name) - len(near[0])) <= 1:
            raise ConfigError(f"{type(problem).__name__}.{name}: nothing reads it; did you mean {near[0]}?")
    parameters, unknowns = problem.parameters, problem.unknowns
    for name, unknown in unknowns.items():
        unknown.check(problem)
        if not isinstance(parameters, nn.Module) or unknown not in set(parameters.modules()):
            raise ConfigError(
                f"{type(problem).__name__}.{name}: parameters are stated as well and do not hold it, so it is not "
                "trained; leave parameters out, or make it one of its modules"
            )
    if parameters is not None and not isinstance(parameters, nn.Module):
        raise ConfigError(
            f"{type(problem).__name__}.parameters: given a {type(parameters).__name__}, needed is a torch.nn.Module, "
            "such as torch.nn.ParameterDict({'k': torch.tensor(1.0)})"
        )


def _names(value) -> set[str]:
    """The names that the code of a method, property or function reads."""
    functions = [value, *(getattr(value, at, None) for at in ("fget", "func", "__func__", "__wrapped__"))]
    codes = [f.__code__ for f in functions if hasattr(f, "__code__")]
    found: set[str] = set()
    while codes:
        code = codes.pop()
        found |= {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
        codes += [c for c in code.co_consts if hasattr(c, "co_names")]
    return found


# ---------------------------------------------------------------------------------------------------------------
# The configuration


def unread(constraint: str, loss: Mapping, problem: Problem | None = None) -> dict[str, str]:
    """Keys that say nothing, with the reason; without a problem, by the mode alone."""
    reasons: dict[str, str] = {}
    if problem is not None and problem.conditions:
        reasons["points.initial"] = "conditions are stated, whose points are points.boundary; leave it out"
    elif constraint == "hard":
        built_in = "constraint: hard has these values built in; leave it out, or say constraint: soft"
        reasons |= {f"{at}.{kind}": built_in for kind in OWN[2:4] for at in ("points", "loss.weights")}
    domain = None if problem is None else problem.domain
    for kind in OWN[2:4]:
        if domain is not None and kind not in kinds_of(domain) and not problem.conditions:
            lacks = f"the domain {type(domain).__name__} has no {kind} points; leave it out"
            reasons |= {f"points.{kind}": lacks, f"loss.weights.{kind}": lacks}
    if loss.get("gradient", "none") == "none":
        reasons["loss.weights.gradient"] = "loss.gradient is none; leave it out, or set loss.gradient"
    if loss.get("sparsity") is None:
        reasons["loss.weights.sparsity"] = "there is no loss.sparsity; leave it out, or set loss.sparsity"
    return reasons


def check_counts(config: RunConfig, problem: Problem) -> None:
    """Raises ConfigError for points and weights of terms that there are not, but for what a solver has for its mode."""
    if config._solver is None:
        return
    solver, stated = config._solver, config.model_dump()
    of_solver = unread(solver.get("constraint", "hard"), solver.get("loss") or {})
    for key, reason in unread(config.constraint, stated["loss"], problem).items():
        value, inherited = _at(stated, key), _at(solver, key)
        excused = inherited is not None and key not in of_solver and resolve(inherited, problem.dim) == value
        if value is not None and not (value == 0 and key.startswith("points")) and not excused:
            raise ConfigError(f"{key}: given {value:g}, but {reason}")


def _at(tree, key: str):
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


# ---------------------------------------------------------------------------------------------------------------
# The problem


def check_equation(plan: "Plan") -> None:
    """Raises ConfigError for a left_side or source beside a residual that does not read it."""
    problem = plan.problem
    if problem.has_source or problem.fits_rows:
        return
    overriding = _owner(problem, "residual")
    for name in ("source", "left_side"):
        stated = problem.states(name) and issubclass(_owner(problem, name), overriding)
        if stated and not _reads(problem, name, lambda problem: _residuals(plan, problem)):
            raise ConfigError(
                f"{type(problem).__name__}.{name}: residual is stated too and does not read it; "
                "state left_side and source, or residual alone"
            )


def _residuals(plan: "Plan", problem: Problem) -> list[Tensor]:
    """The residuals of a problem like that of the plan, of a jet of ones."""
    x = problem.domain.interior(2, stream(0, "check"), plan.config.points.law, dtype=plan.dtype)
    return list(problem.equations(any_jet(problem, x, x.new_ones), x).values())


def _owner(problem: Problem, name: str) -> type:
    return next(cls for cls in type(problem).__mro__ if name in vars(cls))


def _reads(problem: Problem, name: str, call: Callable[[Problem], object]) -> bool:
    """Whether a call with the problem calls its method of this name."""
    seen, cls = [], type(problem)

    def method(self, *args, **kwargs):
        seen.append(name)
        return getattr(super(spy, self), name)(*args, **kwargs)

    spy = type(cls.__name__, (cls,), {name: method, "__module__": cls.__module__})
    twin = own(problem)
    object.__setattr__(twin, "__class__", spy)
    call(twin)
    return bool(seen)


def check_conditions(plan: "Plan") -> None:
    """Raises ConfigError for conditions beside values, of the names of other terms, or that read what is not there."""
    problem, name = plan.problem, type(plan.problem).__name__
    for stated in ("boundary_value", "initial_value"):
        if problem.states(stated):
            raise ConfigError(f"{name}.{stated}: conditions are stated too; make a condition of it")
    check_time(problem)
    taken = {*plan.loss.equations, "gradient", "sparsity", *problem.terms}
    if clash := taken & problem.asked.keys():
        raise ConfigError(f"{name}.conditions: {sorted(clash)[0]} is the name of another term; choose another")
    u = _like(plan, problem)
    for key, condition in problem.asked.items():
        try:
            x = condition.points(problem, 4, stream(0, "check/conditions"), plan.config.points.law, dtype=plan.dtype)
            with torch.no_grad():
                misfit = condition.misfit(u.of(condition.field), x.to(plan.device))
        except ConfigError as error:
            raise ConfigError(f"condition {key}: {error}") from None
        if isinstance(condition, Observations):
            rows = condition.rows(problem)[:, :-1]
            if off := int((~inside(problem.domain, rows)).sum()):
                warnings.warn(
                    f"condition {key}: {off:,} of {len(rows):,} points lie outside of the domain", stacklevel=2
                )
        shape = (len(x), misfit.shape[-1]) if misfit.ndim == 2 else (len(x),)
        if not condition.by_points:
            shape = misfit.shape
        check_numbers(f"condition {key}", misfit, shape, x, finite=not plan.config.start_from)


def check_known_part(plan: "Plan") -> None:
    """Raises ConfigError for a known part that nothing adds, or that is not one number of a field at each point."""
    problem, name = plan.problem, f"{type(plan.problem).__name__}.known_part"
    if not isinstance(problem, Problem) or not problem.states("known_part"):
        return
    if not plan.hard:
        raise ConfigError(f"{name}: nothing adds it with constraint: soft; say hard, or leave it out")
    if not problem.conditions:
        raise ConfigError(f"{name}: it is added beside stated conditions; state some, such as Dirichlet(), or a lift")
    if any(problem.states(own) for own in ("factor", "lift")):
        raise ConfigError(f"{name}: given beside a factor or a lift of the problem's own; add it to the lift")
    x = _points(plan, "interior", plan.dtype)
    for field in problem.fields:
        values = problem.of(field).known_part(x)
        check_numbers(f"known_part of {field}" if len(problem.fields) > 1 else "known_part", values, (len(x),), x)
        if torch.is_tensor(values) and values.requires_grad:
            raise ConfigError(f"{name}: it is known before the training, so it has no unknowns; given one that has")


def check_places(plan: "Plan") -> None:
    """Raises ConfigError for values where the domain has no place for them."""
    problem = plan.problem
    for name, place in (("boundary_value", "boundary"), ("initial_value", "initial")):
        if not problem.states(name) or place in kinds_of(problem.domain):
            continue
        if place == "boundary" and plan.hard and not problem.fits_rows:
            continue  # a factor and a lift need no points there
        kind = "a fit has no such values" if problem.fits_rows else "it has none"
        raise ConfigError(
            f"{type(problem).__name__}.{name}: nothing reads it, as the domain {type(problem.domain).__name__} draws "
            f"no {place} points ({kind}); leave it out, or state a domain that has them, such as "
            + ("Cylinder" if place == "initial" else "Box")
        )


def _check_hard(plan: "Plan", dtype: torch.dtype) -> None:
    """Raises ConfigError where u = h + m f has not the values stated: the boundary half of `check_problem`."""
    problem, name = plan.problem, type(plan.problem).__name__
    inside = _points(plan, "interior", dtype)
    m, h = problem.factor(inside), problem.lift(inside)
    drawn = {place: _points(plan, place, dtype) for place in ("boundary", "initial")}
    places = {place: x for place, x in drawn.items() if x is not None}
    if m is None:
        if h is not None and problem.states("lift"):
            raise ConfigError(f"{name}.lift: constraint: hard is u = h + m f, and factor gives no m; state a factor")
        for place in ("boundary", "initial"):
            _check_free(plan, place, "where factor gives None")
        return
    vanishing = {}
    for place, x in places.items():
        at = problem.factor(x).value.abs()
        zero = at <= max(VANISHING, 10 * torch.finfo(dtype).eps) * m.value.abs().max()
        vanishing[place] = zero.double().mean().item()
        if not zero.any():
            _check_free(plan, place, f"where the factor does not vanish (it is up to {at.max():.2g})")
        elif problem.states(f"{place}_value"):
            _check_lift(problem, place, x[zero], h)
            if not zero.all():
                share = f"{1 - vanishing[place]:.0%} of the {place}"
                warnings.warn(f"{name}: the factor does not vanish on {share}, so u has no values there", stacklevel=2)
    if vanishing and not any(vanishing.values()):
        x = next(iter(places.values()))
        raise ConfigError(
            f"{name}: the factor of constraint: hard vanishes nowhere on the boundary (it is up to "
            f"{problem.factor(x).value.abs().max():.2g} there), so u has no values there; mend factor, let it give "
            "None, or say constraint: soft"
        )


def _check_free(plan: "Plan", place: str, where: str) -> None:
    """Raises ConfigError for values of a place where u is free, unless a term of the problem's own reads them."""
    problem, stated = plan.problem, f"{place}_value"
    if not problem.states(stated):
        return
    if problem.states("extra_terms") and _reads(
        problem, stated, lambda problem: problem.extra_terms(_like(plan, problem))
    ):
        return
    raise ConfigError(
        f"{type(problem).__name__}.{stated}: nothing reads it under constraint: hard {where}; leave factor to the "
        "domain, make a term of it in extra_terms, or say constraint: soft"
    )


def _check_lift(problem: Problem, place: str, x: Tensor, inside: Field | None) -> None:
    """Raises ConfigError where the lift is not what is stated at points of a place, where the factor is zero."""
    h, values = problem.lift(x), getattr(problem, f"{place}_value")(x)
    check_numbers(f"{place}_value", values, (len(x),), x, broadcast=True)
    values = torch.as_tensor(values).to(x).expand(len(x))
    h = torch.zeros_like(values) if h is None else h.value
    size = max(t.abs().max().item() for t in (values, h, *([] if inside is None else [inside.value])))
    gap = (h - values).abs().max().item()
    if not gap <= AGREEING * size:
        raise ConfigError(
            f"{type(problem).__name__}: lift and {place}_value differ by up to {gap:.2g} on the {place} (the largest "
            f"value is {size:.2g}): mend one of them, or leave out lift"
        )


def _check_soft(plan: "Plan", dtype: torch.dtype) -> None:
    """Raises ConfigError where a term of constraint: soft has no values, or others than the factor says."""
    problem, name, kinds = plan.problem, type(plan.problem).__name__, kinds_of(plan.problem.domain)
    if "initial" in kinds and not (problem.states("initial_value") or problem.states("lift")):
        raise ConfigError(
            f"{name} states no initial_value, which constraint: soft needs: write def initial_value(self, x): return "
            "..., (N,) at points (x, 0); x.new_zeros(len(x)) is zero"
        )
    for place in kinds[1:]:
        x = _points(plan, place, dtype)
        check_numbers(f"{place}_value", getattr(problem, f"{place}_value")(x), (len(x),), x, broadcast=True)
    stated = problem.states("boundary_value") or problem.states("lift")
    if "boundary" not in kinds or not problem.states("factor") or problem.fits_rows or stated:
        return
    x, inside = (_points(plan, place, dtype) for place in ("boundary", "interior"))
    m = problem.factor(inside)
    if m is None or not (problem.factor(x).value.abs() <= VANISHING * m.value.abs().max()).all():
        raise ConfigError(
            f"{name}.factor: constraint: soft does not read it, and would make u zero on all of the boundary; state "
            "boundary_value if that is meant (x.new_zeros(len(x)) is zero), or say constraint: hard"
        )


def _points(plan: "Plan", place: str, dtype: torch.dtype) -> Tensor | None:
    domain = plan.problem.domain
    n, drawn = max(4, min(POINTS, NUMBERS // domain.dim)), stream(0, f"check/{place}")
    if place == "interior":
        return domain.interior(n, drawn, plan.config.points.law, dtype=dtype)
    return points_at(domain, place, n, drawn, dtype=dtype)


# ---------------------------------------------------------------------------------------------------------------
# Terms of the problem's own, and its unknowns


def _like(plan: "Plan", problem: Problem) -> Ansatz:
    """A copy of the run's u, as it will be, of a problem like that of the plan."""
    u = Ansatz(own(problem), copy.deepcopy(plan.net), plan.hard)
    return u.to(plan.device, plan.dtype).eval()


def check_terms(plan: "Plan") -> None:
    """Raises ConfigError where extra_terms does not give the terms that `terms` lists, each a number."""
    problem, name, listed = plan.problem, type(plan.problem).__name__, plan.problem.terms
    if taken := set(listed) & set(OWN):
        raise ConfigError(f"{name}.terms: {sorted(taken)[0]} is the name of another term of the loss; choose another")
    if not listed and not problem.states("extra_terms"):
        return
    u = _like(plan, problem)
    found = u.problem.extra_terms(u)
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{name}.extra_terms: given a {type(found).__name__}, needed is a dictionary of terms by name"
        )
    for key, term in found.items():
        if not one_number(key, term).isfinite() and not plan.config.start_from:
            raise ConfigError(f"{name}.extra_terms: {key} is {term.item()}, needed is a finite number")
    if found.keys() != set(listed):
        raise ConfigError(
            f"{name}: extra_terms gives {', '.join(found) or 'nothing'}, terms lists {', '.join(listed) or 'nothing'}; "
            f"write terms = {tuple(found)!r}"
        )


def check_unknowns(plan: "Plan", given: Problem) -> None:
    """Raises ConfigError where the run's copy of a problem reads the unknowns of the problem that was given."""
    if not (theirs := list(given.parameters.parameters()) if isinstance(given.parameters, nn.Module) else []):
        return
    u = _like(plan, plan.problem)
    found = [*_residuals(plan, u.problem), *u.problem.extra_terms(u).values()]
    total = sum(t.sum() for t in found if t.requires_grad)
    if isinstance(total, Tensor) and any(g is not None for g in torch.autograd.grad(total, theirs, allow_unused=True)):
        raise ConfigError(
            f"{type(given).__name__}: it reads unknowns that are not those of self.parameters; a run trains its own "
            "copy of these, so read self.parameters, and no variable beside it"
        )
