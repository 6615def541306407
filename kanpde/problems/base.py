"""What a problem is: a domain, the coefficients of its operator, a residual that reads a jet, boundary values."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from kanpde.domains.base import Domain, drawn_in, importance_of, laws_of, time_of
from kanpde.ground.errors import ConfigError, suggest
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Field
from kanpde.jets.jet import Jet
from kanpde.jets.names import Coordinates, Reads
from kanpde.jets.slices import WHOLE, Slice
from kanpde.jets.system import Jets
from kanpde.problems import lifts
from kanpde.problems.conditions import Condition, by_name
from kanpde.problems.exactly import Exactly, exactly, flux_sides
from kanpde.problems.reading import Reading, equations, reading_of
from kanpde.problems.references import Reference
from kanpde.problems.unknowns import Unknown, unknowns_of


@dataclass(frozen=True)
class Problem:
    """A PDE, or a system of them: residual(jet of u, x) = 0 in a domain.

    A problem of one's own is a frozen dataclass with at least `domain` and `residual`, or instead of the latter
    `left_side` and `source`; the rest has defaults: u.lap is the Laplacian, u vanishes on the boundary, there is no
    exact solution. Derivatives of any order are read by the names of the coordinates, u.t, u.xx, u.xt; what the
    residual does not read is not computed.

    With several `fields` the residual gets their jets in order and by name, `u, v, p = w` or `w.p`, and returns one
    equation or several; `exact` is a tuple, a dictionary of the fields that are known, or a tensor (N, K).

    Example:
        >>> from kanpde.domains import Ball
        >>> @dataclass(frozen=True)
        ... class Screened(Problem):
        ...     domain = Ball(2)
        ...     dim: int = 2
        ...     coordinates = ("x", "y")
        ...     def residual(self, u, x):
        ...         return u.xx + u.yy - u.value + 1
        >>> Screened().reads.names(Screened().axes)
        ['u.xx', 'u.yy']
    """

    dim: int

    coordinates: ClassVar[tuple[str, ...] | None] = None  # names of the inputs; None: x1 ... xd, and t for time
    fields: ClassVar[tuple[str, ...]] = ("u",)  # names of what is solved for
    conditions: ClassVar[Sequence[Condition] | Mapping[str, Condition]] = ()  # none: u has the values stated below
    terms = ()  # names of the terms that extra_terms gives
    fits_rows = False  # whether u is asked to be an observation at rows, and nothing else; see `Fitting`
    default_solver: ClassVar[str | None] = None  # None: that of a PDE of this dimension
    reference: ClassVar[Reference | None] = None  # the solution as a file holds it, to be reported against
    points_of_interest: ClassVar[Mapping[str, Any]] = {}  # by name a point, or (point, published value or None)
    sliceable = False  # whether each process may have some of the inputs of every point, `input_slice`
    input_slice: ClassVar[Slice] = WHOLE  # those that this process has; `kanpde.jets.slices`
    builds_fluxes = True  # whether fluxes may be built into u; see `leaving_fluxes`
    rows_sha256: ClassVar[str | None] = None  # the fingerprint of the table that is fitted

    @property
    def domain(self) -> Domain:
        """The domain; its `dim` is the number of inputs of u."""
        raise NotImplementedError(f"{type(self).__name__} states no domain")

    @property
    def title(self) -> str:
        """A line that says what the problem is."""
        return next(iter((type(self).__doc__ or "").strip().splitlines()), "")

    @property
    def n_inputs(self) -> int:
        """The number of inputs of u, of sliced ones those of this process."""
        return self.domain.dim if self.input_slice is WHOLE else self.input_slice.width

    @cached_property
    def axes(self) -> Coordinates:
        """The inputs of u with their names.

        Raises:
            ConfigError: those stated do not fit.
        """
        count = self.n_inputs if self.input_slice is WHOLE else self.input_slice.dim
        return Coordinates(count, time_of(self.domain) is not None, self.coordinates)

    @property
    def unknowns(self) -> dict[str, Unknown]:
        """The unknowns of the equation by name: attributes that are `kanpde.Unknown`."""
        return unknowns_of(self)

    @cached_property
    def parameters(self) -> nn.Module | None:
        """What is trained beside the network: the unknowns. A problem may state a module of its own instead."""
        return nn.ModuleDict(self.unknowns) if self.unknowns else None

    @cached_property
    def reading(self) -> Reading:
        """What the residual reads and returns: found by calling it, with numbers in the place of u."""
        return reading_of(self)

    @cached_property
    def reads(self) -> Reads:
        """What the residual reads of u, or of any of several fields."""
        return Reads.all_of(self.reading.fields.values())

    def equations(self, u: Jet | Jets, x: Tensor) -> dict[str, Tensor]:
        """What the residual returns, by the names of the equations: that of the only one is interior."""
        return equations(self.residual(u, x))

    def of(self, field: str) -> "Problem":
        """The problem as one of its fields sees it."""
        return self if len(self.fields) == 1 else self._of_fields[field]

    @cached_property
    def _of_fields(self) -> dict[str, "Problem"]:
        return {name: cast("Problem", OfField(self, name)) for name in self.fields}

    @property
    def has_time(self) -> bool:
        """Whether the domain has time beside the `dim` coordinates of space."""
        return time_of(self.domain) is not None and self.domain.dim == self.dim + 1

    @property
    def row_counts(self) -> dict[str, int]:
        """How many points there are of the kinds that are counted: rows of a table."""
        return {}

    def held_out(self, name: str, number: int, n: int, generator: torch.Generator, law: str) -> Tensor:
        """n points to test on (name is test) or to validate on: block `number` of them."""
        return self.domain.interior(n, generator, law, dtype=drawn_in(self.domain))

    def inputs_of(self, points: Tensor) -> Tensor:
        """The inputs (N, d) of u at points, which may carry more: observations, say."""
        return points

    def importance_weights(self, points: Tensor) -> Tensor:
        """The weights (N,) of the squares at points that are not drawn by the law of the mean they stand for."""
        found = importance_of(self.domain, points)
        return points.new_ones(len(points)) if found is None else found

    @property
    def weighs_points(self) -> bool:
        """Whether any points of the equation have such a weight; of a fit its residual has them."""
        if self.fits_rows:
            return False
        x = self.domain.interior(1, stream(0, "weights"), laws_of(self.domain)[0])
        return self.states("importance_weights") or importance_of(self.domain, x) is not None

    def settings(self) -> dict:
        """Options that were left to the problem, for the result file."""
        return {}

    def residual(self, u: Any, x: Tensor) -> Any:
        """The PDE, zero at the solution: (N,) from the jet of u at x (N, dim).

        Of several equations a tuple of such, or a dictionary by their names; one that is complex is two.
        """
        return self.left_side(u, x) - self.source(x)

    def left_side(self, u: Jet, x: Tensor) -> Tensor:
        """F(u) of an equation F(u) = g, (N,)."""
        raise NotImplementedError(f"{type(self).__name__} states no residual")

    def source(self, x: Tensor) -> Tensor:
        """g of an equation F(u) = g, (N,)."""
        raise NotImplementedError(f"{type(self).__name__} states no source")

    @property
    def has_source(self) -> bool:
        """Whether the residual is left_side - source."""
        return type(self).residual is Problem.residual

    def coefficients(self, x: Tensor) -> Tensor | None:
        """s in u.lap = sum_i s_i d^2u/dx_i^2: (d,) or (N, d); None: the equation has no second derivatives.

        By default 1 for coordinates of space and 0 for time, the last coordinate of a domain that has it.
        """
        s = x.new_ones(x.shape[-1])
        if self.states("domain") and time_of(self.domain) is not None:
            s[-1] = 0
        return s

    def s_grad(self, x: Tensor) -> Tensor | None:
        """The weights of u.grad_sq = sum_i s_i (du/dx_i)^2 where they differ from `coefficients`; None: they do not."""
        return None

    def directions(self, x: Tensor) -> Tensor | None:
        """v_k in u.along[:, k] = v_k . grad u: (m, d) or (N, m, d)."""
        return None

    def diffusion(self, x: Tensor) -> Tensor | None:
        """Factors s_k (r, d) or (N, r, d) of A(x) = sum_k s_k s_k^T in u.diffusion = sum_ij a_ij d^2u/dx_i dx_j.

        None: there is no such matrix, or `coefficients` say all of it.
        """
        return None

    @property
    def residual_scale(self) -> float:
        """1 / (2 d): Lap u = -2 d f + O(sqrt d) where u = (1 - |x|^2) f, so the scaled residual is of order one.

        1 where the residual has derivatives by name or a matrix, and no u.lap.

        Of a domain of other size it is multiplied by `kanpde.problems.frames.equation_scale`; one of a problem's own is
        not.
        """
        reads = self.reads
        return 1.0 if (reads.derivatives or reads.sums or reads.diffusion) and not reads.lap else 1 / (2 * self.dim)

    def exact(self, x: Tensor) -> Tensor:
        """The solution (N,), where it is known."""
        raise NotImplementedError(f"{type(self).__name__} has no exact solution")

    @property
    def has_exact(self) -> bool:
        return type(self).exact is not Problem.exact

    def exact_fields(self, x: Tensor) -> Tensor | None:
        """The solution as (N,), of several fields (N, K) with NaN for those that are not known; None: nothing is.

        Raises:
            ConfigError: `exact` gives another number of fields, or names that are none.
        """
        if not self.has_exact:
            return None
        return self.exact(x) if len(self.fields) == 1 else side_by_side(self.fields, self.exact(x), x)

    def taylor(self) -> tuple | None:
        """Value, gradient, Hessian diagonal, first off-diagonal at 0 of (u* - h) / m, for the floors; None: unknown."""
        return None

    def untrained(self, x: Tensor) -> Tensor | None:
        """A guess (N,) that needs no training, for the floors; None: there is none."""
        return None

    def states(self, name: str) -> bool:
        """Whether the problem has a method or value of its own for what this class has a default for."""
        return name in vars(self) or getattr(type(self), name) is not getattr(Problem, name)

    def boundary_value(self, x: Tensor) -> Tensor:
        """u on the boundary (N,): that of the lift if one is stated, else zero."""
        return x.new_zeros(len(x)) if (h := self._stated_lift(x)) is None else h.value

    def initial_value(self, x: Tensor) -> Tensor:
        """u at t = 0 (N,), for domains with time: that of the lift if one is stated."""
        if (h := self._stated_lift(x)) is None:
            raise NotImplementedError(f"{type(self).__name__} states no initial value")
        return h.value

    def _stated_lift(self, x: Tensor) -> Field | None:
        return self.lift(x) if self.states("lift") else None

    def known_part(self, x: Tensor) -> Any:
        """k, what is known of u before any training, such as a singularity in a corner: (N,), zero by default.

        It is added by the hard constraint: u = k + h + m f, with a lift h of the values that the conditions ask for
        less those of k. f has to be what is left of u. Of several fields a tuple or a dictionary of some of them.
        """
        return x.new_zeros(len(x))

    def extra_terms(self, u: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Terms of the loss beside the residual, by the names in `terms`: for instance the misfit to observations."""
        return {}

    @cached_property
    def asked(self) -> dict[str, Condition]:
        """The conditions by name.

        Raises:
            ConfigError: they do not fit the problem or each other.
        """
        return by_name(self)

    @cached_property
    def exactly(self) -> Exactly:
        """The factor and the lift of the conditions, and which of them they meet; of several fields the latter."""
        if len(self.fields) > 1:
            shared = [name for name, condition in self.asked.items() if condition.field is None]
            return Exactly.of_all([self.of(name).exactly for name in self.fields], shared)
        return exactly(self, self.asked)

    def factor(self, x: Tensor) -> Field | None:
        """m of the hard constraint u = h + m f; None: u = f. By default that of the conditions, else of the domain."""
        if not self.conditions:
            return self.domain.factor(x)
        return None if self.exactly.factor is None else self.exactly.factor(x)

    def lift(self, x: Tensor) -> Field | None:
        """h of the hard constraint; None: zero. By default it is built of the values stated, `kanpde.problems.lifts`.

        Raises:
            ConfigError: there are such values, but no lift can be built of them.
        """
        if self.conditions:
            return None if self.exactly.lift is None else self.exactly.lift(x)
        if not (self.states("boundary_value") or self.states("initial_value")):
            return None
        return None if self._built_lift is None else self._built_lift(x)

    @cached_property
    def _built_lift(self) -> Callable[[Tensor], Field] | None:
        return lifts.built(self)


def own(problem: Problem) -> Problem:
    """The problem with unknowns and generators of its own, which a run may change, and all else shared.

    Raises:
        ConfigError: its parameters are made anew at each access, or are not an attribute of it that can be copied.
    """
    if not isinstance(problem, Problem):
        return problem
    given = _unknowns(problem)
    if _unknowns(problem) != given:
        raise ConfigError(
            f"{type(problem).__name__}.parameters: made anew at each access, so never trained; "
            "make it a functools.cached_property"
        )
    mine, memo = copy.copy(problem), {}
    for made in ("_built_lift", "_of_fields", "asked", "exactly"):  # of the other's values
        vars(mine).pop(made, None)
    of_classes = [item for cls in reversed(type(problem).__mro__) for item in vars(cls).items()]
    for name, value in {**dict(of_classes), **vars(mine)}.items():
        if _changes(value):
            object.__setattr__(mine, name, copy.deepcopy(value, memo))
    if _unknowns(mine) & given:
        raise ConfigError(
            f"{type(problem).__name__}.parameters: a run works on a copy, so make it an attribute of the problem, or a "
            "property of its attributes; given is a property that returns a module from elsewhere"
        )
    return mine


def sliced(problem: Problem, inputs: Slice) -> Problem:
    """The problem of which this process has some inputs of every point; it says itself that it may be."""
    mine = copy.copy(problem)
    made = [name for name in vars(mine) if isinstance(getattr(type(mine), name, None), cached_property)]
    for name in made:  # of all inputs
        vars(mine).pop(name)
    object.__setattr__(mine, "input_slice", inputs)
    return mine


def leaving_fluxes(problem: Problem) -> Problem:
    """The problem whose conditions on slopes are left to the loss."""
    mine = copy.copy(problem)
    for made in ("_of_fields", "exactly"):  # with fluxes that are met
        vars(mine).pop(made, None)
    object.__setattr__(mine, "builds_fluxes", False)
    return mine


def _unknowns(problem: Problem) -> set[Tensor]:
    module = getattr(problem, "parameters", None)
    return set(module.parameters()) if isinstance(module, nn.Module) else set()


def _changes(value) -> bool:
    """Whether a run may change an attribute: parameters, generators, and collections of them."""
    if isinstance(value, dict | list | tuple):
        return any(map(_changes, value.values() if isinstance(value, dict) else value))
    return isinstance(value, nn.Module | nn.Parameter | torch.Generator | np.random.Generator)


@dataclass(frozen=True, eq=False)
class OfField:
    """A problem as one of several fields sees it: its conditions, its solution, what is read of it; the rest as is."""

    problem: Problem
    field: str

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("problem", "field"):  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self.problem, name)

    @property
    def fields(self) -> tuple[str]:
        return (self.field,)

    @property
    def reads(self) -> Reads:
        return self.problem.reading.fields[self.field]

    @cached_property
    def asked(self) -> dict[str, Condition]:
        """Those of the field, and those of all fields."""
        return {name: c for name, c in self.problem.asked.items() if c.field in (None, self.field)}

    @cached_property
    def exactly(self) -> Exactly:
        asked = {name: c for name, c in self.asked.items() if c.of_all == (c.field is None)}
        each = (flux_sides(field, field.asked.values()) for field in self.problem._of_fields.values())
        return exactly(self, asked, frozenset.intersection(*each))

    def factor(self, x: Tensor) -> Field | None:
        return None if self.exactly.factor is None else self.exactly.factor(x)

    def lift(self, x: Tensor) -> Field | None:
        return None if self.exactly.lift is None else self.exactly.lift(x)

    def known_part(self, x: Tensor) -> Tensor:
        """That of the field, zero where none is stated."""
        found = self.problem.known_part(x)
        found = dict.fromkeys(self.problem.fields, 0.0) | found if isinstance(found, Mapping) else found
        return side_by_side(self.problem.fields, found, x, "known_part")[:, self.problem.fields.index(self.field)]

    def exact(self, x: Tensor) -> Tensor:
        """NaN where it is not known."""
        return self.problem.exact_fields(x)[:, self.problem.fields.index(self.field)]


def side_by_side(fields: Sequence[str], found: Any, x: Tensor, method: str = "exact") -> Tensor:
    """Values of fields, a tuple, a dictionary of some of them, or a tensor (N, K), as one tensor (N, K).

    Raises:
        ConfigError: they are not those of the fields.
    """
    if isinstance(found, Tensor):
        columns = dict(enumerate(found.unbind(1))) if found.ndim == 2 else {0: found}
        columns = dict(zip(fields, columns.values(), strict=False)) if len(columns) == len(fields) else {}
    elif isinstance(found, Mapping):
        if unknown := [name for name in found if name not in fields]:
            raise ConfigError(f"{method}: {suggest('field', unknown[0], fields)}")
        columns = found
    else:
        columns = dict(zip(fields, found, strict=False)) if len(found) == len(fields) else {}
    if not columns:
        raise ConfigError(
            f"{method}: needed are the values of {', '.join(fields)}, a tuple or a dictionary by their names"
        )
    columns = {name: torch.as_tensor(value).to(x) for name, value in columns.items()}
    if wrong := [name for name, value in columns.items() if value.shape not in ((), (len(x),))]:
        given = f"{tuple(columns[wrong[0]].shape)} at {len(x)} points"
        raise ConfigError(f"{method}: {wrong[0]} has shape {given}, needed is ({len(x)},)")
    unknown = x.new_full((len(x),), float("nan"))
    return torch.stack([columns[name].expand(len(x)) if name in columns else unknown for name in fields], 1)


def unit(dim: int, axis: int, x: Tensor) -> Tensor:
    """The unit vector of an axis as a direction field (1, dim)."""
    return torch.eye(1, dim, dtype=x.dtype, device=x.device).roll(axis, 1)
