"""What an operator is: u and points in, jet out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kanpde.jets.ansatz import Ansatz, System
from kanpde.jets.jet import Jet
from kanpde.jets.names import Index, Reads, Sum
from kanpde.jets.system import Jets
from kanpde.jets.taylor import Polarised

MOST_TERMS = 20_000  # of a sum of derivatives: the bilaplacian in 141 dimensions, minutes of a step


class Operator:
    """What operators derive from, one of a user's own too: a frozen dataclass of options that states `estimate`.

    Attributes:
        exact: nothing is estimated, and nothing drawn.
        needs_rules: every module of the network must have a jet rule, `kanpde.jets.rule`.
        compiles: there is the option `compile`.
        transforms: torch.func may look on, for Jacobians of single points by the weights.
        per_point: probes differ from point to point, so that micro-batches draw their own.
        draws_sums: sums of derivatives, such as u.bilap, come from `sums`; else all of their terms are computed.
        shares: of several fields on one network, one jet of it serves all; else each field is estimated by itself.

    Example:
        >>> from kanpde.operators import Autograd, Forward
        >>> Forward().exact, Forward().needs_rules, Autograd().needs_rules
        (True, True, False)
    """

    exact = False
    needs_rules = False
    compiles = False
    transforms = False
    compile = False
    per_point = True
    draws_sums = False
    shares = False

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        if "__call__" in vars(cls) and cls.estimate is Operator.estimate:
            raise TypeError(f"the operator {cls.__name__}: state estimate, which __call__ calls, and no __call__")

    def __call__(
        self,
        u: Callable[[Tensor], Tensor],
        x: Tensor,
        s: Tensor | None = None,
        directions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Any:
        """The jet of u at x (N, d), or the `Jets` of several fields.

        Args:
            u: a module (N, d) -> (N, n), or an `Ansatz`, of which the jet has what the residual of its problem reads.
            s: (d,) or (N, d), of either sign; default 1, of an ansatz the problem's coefficients.
            directions: (m, d) or (N, m, d); of an ansatz the problem's.
            generator: of what is drawn.
        """
        if isinstance(u, System):
            return self._of_system(u, x, s, directions, generator)
        if isinstance(u, Ansatz):
            return self._of_ansatz(u, x, s, directions, generator)
        s = x.new_ones(x.shape[-1]) if s is None else s
        return self.estimate(u, x, check_coefficients(s, x), directions, generator)

    def _of_system(self, u: System, x: Tensor, s, directions, generator) -> Jets:
        """The jets of all fields, at once where they are outputs of one network."""
        if self.shares and not u.separate and not self.nests(u.net):
            return Jets.of_columns(u.problem.fields, self._of_ansatz(u, x, s, directions, generator))
        return Jets(u.problem.fields, tuple(self._of_ansatz(u_k, x, s, directions, generator) for u_k in u.each))

    def _of_ansatz(self, u: Ansatz, x: Tensor, s, directions, generator) -> Jet:
        """What the residual reads: u.lap and directions by `estimate`, sums by `sums`, all else exactly."""
        problem, reads = u.problem, u.problem.reads
        s = problem.coefficients(x) if s is None and reads.second else s
        v = problem.directions(x) if directions is None and reads.along else directions
        named = reads.derivatives if self.draws(reads) else reads.every
        passes = s is not None or v is not None
        rides = passes and all(len(index) == 1 for index in named)  # first derivatives are directions beside others
        exact: dict = {"coordinates": problem.axes}
        if reads.diffusion and (factors := problem.diffusion(x)) is not None:
            exact["value"], exact["diffusion"] = self.diffusion(u, x, factors if factors.ndim == 3 else factors[None])
        if self.draws(reads):
            exact["value"], exact["sums"] = self.sums(u, x, reads.sums, generator)
        if named and not rides:
            exact["value"], exact["derivatives"] = self.derivatives(u, x, named)
        if not passes and "value" in exact:
            return Jet(**exact)
        both = _with_axes(v, [axis for (axis,) in named], problem.n_inputs, x) if named and rides else v
        jet = self.estimate(u, x, check_coefficients(s, x), both, generator)
        if reads.grad_sq and (s_grad := problem.s_grad(x)) is not None:
            jet = replace(jet, gram=self.estimate(u, x, check_coefficients(s_grad, x), None, generator).gram)
        if named and rides:
            own = 0 if v is None else v.shape[-2]
            exact["derivatives"] = {index: jet.along[:, own + k] for k, index in enumerate(named)}
            jet = replace(jet, along=jet.along[:, :own] if own else None)
        return replace(jet, **exact)

    def estimate(
        self,
        u: Callable[[Tensor], Tensor],
        x: Tensor,
        s: Tensor | None,
        directions: Tensor | None,
        generator: torch.Generator | None,
    ) -> Jet:
        """What `__call__` says, with s (1 or N, d) and directions as they are: None is for what is not asked."""
        raise NotImplementedError(f"{type(self).__name__} states no estimate")

    def derivatives(self, u: Ansatz, x: Tensor, indices: tuple[Index, ...]) -> tuple[Tensor, dict[Index, Tensor]]:
        """u (N,) and its derivatives by axes, exact whatever the operator estimates."""
        return u.derivatives(x, indices)

    def sums(
        self, u: Ansatz, x: Tensor, sums: tuple[Sum, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[Sum, Tensor]]:
        """u (N,) and estimates of sums of derivatives, of an operator that `draws_sums`."""
        raise NotImplementedError(f"{type(self).__name__} states no sums")

    def counts(self, reads: Reads) -> tuple[int, ...]:
        """Along how many directions there are derivatives of order 1, 2, ... of Taylor jets, for what is read."""
        return Polarised.of(reads.every).counts if any(len(index) > 1 for index in reads.every) else ()

    def draws(self, reads: Reads) -> bool:
        """Whether there are sums of derivatives in what is read, and it estimates them."""
        return self.draws_sums and bool(reads.sums)

    def check_sum(self, of: Sum) -> None:
        """Raises ValueError where it has no such sum: of too many terms, if all are computed."""
        if of.size > MOST_TERMS:
            most = f"at most {MOST_TERMS:,} are computed one by one"
            raise ValueError(f"u.{of} has {of.size:,} terms, {most}; hutchinson and sdgd draw some of them")

    def diffusion(self, u: Ansatz, x: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        """u (N,) and the sum of its second derivatives along the factors (1 or N, r, d), exact."""
        found = u.taylor(x, factors, (factors.shape[1],) * 2)
        one = (lambda t: t) if isinstance(u, System) else (lambda t: t.squeeze(-1))
        return one(found.value), one(found.terms[1].sum(1))

    def nests(self, net: nn.Module) -> bool:
        """Whether it differentiates this network again and again, which `check_nested` looks at first."""
        return False

    def uncompiled(self) -> "Operator":
        """The same for points of any number, none of which is worth a minute of compiling."""
        return replace(self, compile=False) if self.compile else self

    def check(self, dim: int) -> None:
        """Raises ValueError where it does not fit u of so many inputs."""


def _with_axes(directions: Tensor | None, axes: list[int], dim: int, x: Tensor) -> Tensor:
    """The directions, and after them the unit vectors of axes."""
    units = torch.zeros(len(axes), dim, dtype=x.dtype, device=x.device)
    units[range(len(axes)), axes] = 1
    if directions is None:
        return units
    return torch.cat([directions, units.expand(*directions.shape[:-2], -1, -1)], -2)


def check_coefficients(s: Tensor | None, x: Tensor) -> Tensor | None:
    """s as (1, d) or (N, d).

    Raises:
        ValueError: s has another shape; a full matrix of coefficients is not supported.
    """
    if s is None:
        return None
    s = torch.as_tensor(s, dtype=x.dtype, device=x.device)
    if s.ndim not in (1, 2) or s.shape[-1] != x.shape[-1] or (s.ndim == 2 and len(s) not in (1, len(x))):
        allowed = f"({x.shape[-1]},) or ({len(x)}, {x.shape[-1]}), a diagonal"
        raise ValueError(f"coefficients s have shape {tuple(s.shape)}, allowed is {allowed}; no full matrix")
    return s.reshape(-1, x.shape[-1])
