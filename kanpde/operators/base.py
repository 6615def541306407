"""What an operator is: u and points in, jet out."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from kanpde.jets.ansatz import Ansatz
from kanpde.jets.jet import Jet


class Operator:
    """What operators derive from, one of a user's own too: a frozen dataclass of options with `__call__`.

    Attributes:
        exact: nothing is estimated, and nothing drawn.
        needs_rules: every module of the network must have a jet rule, `kanpde.jets.rule`.
        compiles: there is the option `compile`.
        transforms: torch.func may look on, for Jacobians of single points by the weights.
        per_point: probes differ from point to point, so that micro-batches draw their own.
    """

    exact = False
    needs_rules = False
    compiles = False
    transforms = False
    compile = False
    per_point = True

    def __call__(
        self,
        u: Callable[[Tensor], Tensor],
        x: Tensor,
        s: Tensor | None = None,
        directions: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Jet:
        """The jet of u at x (N, d).

        Args:
            u: a module (N, d) -> (N, n), or an `Ansatz`, which supplies s and directions of its problem.
            s: (d,) or (N, d); default 1.
            directions: (m, d) or (N, m, d).
            generator: of what is drawn.
        """
        raise NotImplementedError(f"{type(self).__name__} states no __call__")

    def nests(self, net: nn.Module) -> bool:
        """Whether it differentiates this network again and again, which `check_nested` looks at first."""
        return False

    def uncompiled(self) -> "Operator":
        """The same for points of any number, none of which is worth a minute of compiling."""
        return replace(self, compile=False) if self.compile else self

    def check(self, dim: int) -> None:
        """Raises ValueError where it does not fit u of so many inputs."""


def coefficients_for(u, x: Tensor, s, directions):
    """(s, directions) as tensors: the problem's if u is an ansatz and none are given; s = 1 for any other function."""
    if isinstance(u, Ansatz):
        s = u.problem.coefficients(x) if s is None else s
        directions = u.problem.directions(x) if directions is None else directions
    elif s is None:
        s = x.new_ones(x.shape[-1])
    return check_coefficients(s, x), directions


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


def with_own_gradient(operator, u, x: Tensor, jet: Jet, generator=None) -> Jet:
    """Replace grad_sq where the problem weighs the gradient by other coefficients than the second derivatives."""
    s_grad = u.problem.s_grad(x) if isinstance(u, Ansatz) and u.problem.reads_grad_sq else None
    if s_grad is None:
        return jet
    other = operator._estimate(u, x, check_coefficients(s_grad, x), None, generator)
    return Jet(jet.value, jet.along, other.gram, jet.lap)
