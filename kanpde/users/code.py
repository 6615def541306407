"""What a user's own code gives and raises: one line that names the file, the line, and what a jet offers."""

import inspect
import keyword
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn

from kanpde.domains.base import looks_like_one, time_of
from kanpde.ground.errors import ConfigError, shown
from kanpde.jets.ansatz import Field
from kanpde.jets.jet import Jet
from kanpde.jets.system import Jets
from kanpde.problems.base import Problem
from kanpde.problems.reading import ALONE, equations
from kanpde.users.modules import PREFIX, place

TAKEN = ("names", "jets", "map", "parts", "x", "radius", "origin", "axes", "grid", "label", "axis_labels")
MISUSED = (AttributeError, TypeError, IndexError, RuntimeError, ValueError)  # what is wrong with a jet may raise
ABSENT = {  # entries of a jet that are None, and why
    "along": "the problem states no directions",
    "lap": "the problem's coefficients are None",
    "diffusion": "the problem states no diffusion",
    "gram": "the problem's coefficients are None",
}


def problem_class(found, name: str, options: Mapping) -> type[Problem]:
    """What a user's file calls by a name, which must be a class of problems whose options are its fields.

    Raises:
        ConfigError: it is not, or no @dataclass makes fields of what it annotates.
    """
    if not (isinstance(found, type) and issubclass(found, Problem)):
        raise ConfigError(f"problem {name}: {_described(found)}; needed is a class derived from kanpde.Problem")
    own = inspect.get_annotations(found)
    plain = "__dataclass_fields__" not in vars(found) and "__init__" not in vars(found)
    lost = [field for field in own if plain and (field in options or not hasattr(found, field))]
    if lost:
        raise ConfigError(f"problem {name}: {lost[0]} is no option: needed is @dataclass(frozen=True) above the class")
    return found


def check_call(problem, net=None) -> None:
    """Raises ConfigError where what is given for a problem and a network is none, or the problem's domain is none."""
    if not isinstance(problem, Problem):
        raise ConfigError(f"problem: {_described(problem)}; needed is an object of a class derived from kanpde.Problem")
    if net is not None and not isinstance(net, nn.Module):
        raise ConfigError(f"net: {_described(net)}; needed is a torch.nn.Module, (N, d) -> (N, 1)")
    with blaming(problem, ConfigError):
        domain = problem.domain
        where = f"problem {type(problem).__name__}: domain"
        if not looks_like_one(domain):
            raise ConfigError(f"{where}: {_described(domain)}; needed is one such as kanpde.domains.Ball(dim)")
        check_names(problem)
        if not isinstance(problem.terms, tuple | list) or not all(isinstance(name, str) for name in problem.terms):
            raise ConfigError(
                f"problem {type(problem).__name__}: terms: given {problem.terms!r}, needed is a tuple of names"
            )
        dim = getattr(domain, "dim", 1)  # what else a domain lacks `frames.check_domain` says
        if not isinstance(dim, Integral) or dim < 1:
            raise ConfigError(f"{where}: dim: given {dim!r}, needed is a whole number, at least 1")
        timed = time_of(domain) is not None
        if hasattr(domain, "dim") and problem.dim not in (dim, dim - timed) and not problem.fits_rows:
            raise ConfigError(
                f"problem {type(problem).__name__}: dim: given {problem.dim}, its domain has {dim - timed} coordinates "
                "of space; a class that changes dim needs @dataclass(frozen=True) above it"
            )


def check_names(problem: Problem) -> None:
    """Raises ConfigError for names of fields that are none, or mean something else."""
    fields, where = problem.fields, f"problem {type(problem).__name__}: fields"
    if isinstance(fields, str) or not all(isinstance(name, str) for name in fields) or not fields:
        raise ConfigError(f"{where}: given {fields!r}, needed is a tuple of names, such as ('u', 'v')")
    taken = {*TAKEN, *(problem.coordinates or ())} if len(fields) > 1 else set()
    for name in fields:
        if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
            raise ConfigError(f"{where}: {name!r} is no name")
        suffixed = [f"{name}{end}" for end in ("_exact", "_error") if f"{name}{end}" in fields]
        if fields.count(name) > 1 or name in taken or suffixed:
            raise ConfigError(f"{where}: {suffixed[0] if suffixed else name!r} means something else already; rename it")


def _described(value) -> str:
    if isinstance(value, type):
        return f"given is the class {value.__qualname__}"
    if inspect.isfunction(value):
        return f"given is the function {value.__qualname__}"
    if isinstance(value, Tensor):
        return f"given is a tensor of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"given is a {type(value).__name__} of shape {tuple(value.shape)}"
    return f"given is {'an instance of ' if hasattr(value, '__dict__') else ''}{type(value).__name__}" + (
        "" if value is None or hasattr(value, "__dict__") else f", {shown(value)}"
    )


def check_numbers(what: str, found, shape: tuple[int, ...], x: Tensor, **allowed: bool) -> None:
    """Raises ConfigError where `found` is no tensor of floating-point numbers of a shape, all finite, at the points x.

    Args:
        allowed: real: integers do as well; broadcast: so do numbers and arrays, of any shape that becomes this one by
            broadcasting; finite=False: numbers that are not.
    """
    loose = allowed.get("broadcast", False)
    value = _tensor(found) if loose else found
    fits = isinstance(value, Tensor) and (_becomes(value, shape) if loose else value.shape == shape)
    real = loose or allowed.get("real", False)
    if not fits or value.is_complex() or not (real or value.is_floating_point()):
        at = f"{len(x)} points of {x.shape[1]} coordinates"
        raise ConfigError(f"{what}: {_described(found)} at {at}, needed is a tensor of numbers of shape {shape}")
    if allowed.get("finite", True) and not value.isfinite().all():
        each = value.expand(shape) if loose else value
        raise ConfigError(f"{what} is not finite at {first_not_finite(each, x)}")


def _tensor(found) -> Tensor | None:
    try:
        return torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError):
        return None


def _becomes(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether it has this shape after broadcasting with another of this shape."""
    try:
        return np.broadcast_shapes(tuple(value.shape), shape) == shape  # that of torch imports sympy
    except ValueError:
        return False


def check_statements(problem: Problem, x: Tensor) -> None:
    """Raises ConfigError where what a problem states at the points x (N, d) has a shape that is not read as meant."""
    n, d = x.shape
    scale = problem.residual_scale
    if not (isinstance(scale, Real) and 0 < abs(scale) < float("inf")):
        raise ConfigError(f"residual_scale: given {scale!r}, needed is a finite number")
    weights = problem.importance_weights(x)
    check_numbers("importance_weights", weights, (n,), x, real=True)
    if (weights < 0).any():
        raise ConfigError(f"importance_weights: given {weights.min().item():.3g}, needed are numbers of at least 0")
    if problem.has_source:
        check_numbers("the source", problem.source(x), (n,), x, broadcast=True)
    for name in ("coefficients", "s_grad"):
        if (s := getattr(problem, name)(x)) is not None:
            check_numbers(name, s, (n, d), x, broadcast=True)
    for name in ("directions", "diffusion"):
        if (v := getattr(problem, name)(x)) is None:
            continue
        fits = isinstance(v, Tensor) and v.ndim in (2, 3) and v.shape[-1] == d and (v.ndim == 2 or len(v) in (1, n))
        if not fits or not v.is_floating_point():
            raise ConfigError(
                f"{name}: {_described(v)}, needed is a tensor of numbers of shape (m, {d}) or (N, m, {d})"
            )
        check_numbers(name, v, (n, v.shape[-2], d), x, broadcast=True)
    for name in ("factor", "lift"):
        if (field := getattr(problem, name)(x) if problem.states(name) else None) is None:
            continue
        check_field(name, field)
        for part, shape in {"value": (n,), "grad": (n, d), "hessian_diagonal": (n, d)}.items():
            check_numbers(f"{name}: {part}", getattr(field, part), shape, x, broadcast=True)


def check_field(name: str, field) -> None:
    """Raises ConfigError for a factor or a lift that is no field."""
    if not isinstance(field, Field):
        needed = "a kanpde.Field: value, gradient, second derivatives; Field.of(function, x) makes one"
        raise ConfigError(f"{name}: {_described(field)}, needed is {needed}")


def first_not_finite(values: Tensor, x: Tensor) -> str:
    """`x = (0.1, 0.2)` of the first point of x (N, d) where values (N,) or (N, ...) are not finite."""
    bad = ~values.detach().isfinite().reshape(len(values), -1).all(1)
    return f"x = {point(x[int(bad.nonzero()[0])])}"


def point(x: Tensor) -> str:
    """A point in a message: (0.1, 0.2, ..., 0.3)."""
    numbers = [f"{value:.6g}" for value in x.tolist()]
    return f"({', '.join(numbers if len(numbers) <= 6 else [*numbers[:4], '...', numbers[-1]])})"


# ---------------------------------------------------------------------------------------------------------------
# Errors raised in it


@contextmanager
def blaming(problem, kind: type[Exception]):
    """An error that is raised in the code of a user's problem becomes one line of this kind, the error its cause."""
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError, MemoryError, FloatingPointError, kind):
        raise
    except Exception as error:
        line = None if "can't allocate memory" in str(error) else blame(error, problem)
        if line is None:
            raise
        raise kind(line) from error


def blame(error: BaseException, problem=None) -> str | None:
    """`my_pde.py, line 12, in residual: TypeError: ... (a jet offers ...)`; None: it was not raised in a user's code.

    That is what `kanpde.users.modules` executed, and methods of `problem` with what they call in the same modules.
    """
    line = place(error, _is_users(error, problem))
    jet = _jet_at(error)
    if line is None or jet is None or not isinstance(error, MISUSED) or "a jet offers" in line:
        return line
    return f"{line} ({offered(jet)})"


def _is_users(error: BaseException, problem) -> Callable[[dict], bool]:
    kinds = {kind for kind in type(problem).__mro__ if issubclass(kind, Problem)} if problem is not None else set()
    modules = {kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] != "kanpde"}
    entered = any(_self(frame) in kinds and frame.f_globals.get("__name__") in modules for frame in _frames(error))
    return lambda names: names.get("__name__", "").startswith(PREFIX) or (entered and names.get("__name__") in modules)


def _frames(error: BaseException):
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _self(frame) -> type | None:
    """The type of the first argument of a function that is executed."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return type(frame.f_locals.get(names[0])) if names else None


def _jet_at(error: BaseException) -> Jet | None:
    """The last jet that a function of a user's was given on the way to an error."""
    frames = [
        frame for frame in _frames(error) if not frame.f_globals.get("__name__", "").startswith(("kanpde.", "torch."))
    ]
    jets = [value for frame in frames for value in frame.f_locals.values() if isinstance(value, Jet)]
    return jets[-1] if jets else None


def offered(jet: Jet) -> str:
    """What can be read of a jet, and why not the rest."""
    names = {"value": "value", "along": "along", "lap": "lap", "gram": "grad_sq"}
    parts = {name: getattr(jet, name) for name in names}
    there = [f"{names[name]} {tuple(part.shape)}" for name, part in parts.items() if part is not None]
    there += [f"{jet.coordinates.names(index)} {tuple(part.shape)}" for index, part in jet.derivatives.items()]
    there += [f"{of} {tuple(part.shape)}" for of, part in jet.sums.items()]
    absent = [f"no {names[name]}: {ABSENT[name]}" for name, part in parts.items() if part is None]
    return f"a jet offers {', '.join(there)}" + (f"; {'; '.join(absent)}" if absent else "")


class _Watched(Jet):
    """A jet of which what is None cannot be read."""

    def __getattribute__(self, name: str):
        value = super().__getattribute__(name)
        if name in ABSENT and value is None:
            raise _Absent(f"the residual reads u.{'grad_sq' if name == 'gram' else name}, but {ABSENT[name]}")
        return value


class _Absent(Exception):
    pass


def check_residual(problem: Problem, jet: Jet | Jets, x: Tensor, finite: bool, alone: bool) -> None:
    """Raises ConfigError where the residual at a jet at x, or an equation of it, is no finite number per point.

    Args:
        finite: whether it must be. alone: whether all that is learned comes from it, so that it must depend on u.
    """
    found = residual_at(problem, jet.map(lambda part: 1 * part.detach().requires_grad_()), x)
    parts = {"the residual" if name == ALONE else f"the equation {name}": r for name, r in equations(found).items()}
    for what, r in parts.items():
        check_numbers(what, r, (len(x),), x, finite=finite)
    if parts.keys() != {"the residual"} and tuple(equations(found)) != problem.reading.equations:
        given, first = ", ".join(equations(found)), ", ".join(problem.reading.equations)
        raise ConfigError(f"the residual: it returns the equations {given}, when it was first called {first}")
    if len(parts) > 1 and (blind := [what for what, r in parts.items() if not r.requires_grad]):
        raise ConfigError(f"{blind[0]} does not depend on any field (detach, no_grad or item in it?)")
    if alone and not any(r.requires_grad for r in parts.values()):
        raise ConfigError(
            "the residual does not depend on u: there is nothing to learn (detach, no_grad or item in it?)"
        )


def residual_at(problem: Problem, jet: Jet | Jets, x: Tensor):
    """The residual of a problem; what it reads of a jet that has it not is said.

    Raises:
        ConfigError: it fails, or is no tensor, for an entry of the jet that is None.
    """
    try:
        found, failed = problem.residual(jet, x), None
    except Exception as error:
        found, failed = None, error
    if failed is None and all(isinstance(r, Tensor) for r in equations(found).values()):
        return found
    watched = lambda jet: _Watched(**vars(jet))
    try:
        problem.residual(Jets(jet.names, tuple(map(watched, jet))) if isinstance(jet, Jets) else watched(jet), x)
    except _Absent as absent:
        raise ConfigError(str(absent)) from failed
    except Exception:
        pass
    if failed is not None:
        raise failed
    return found
