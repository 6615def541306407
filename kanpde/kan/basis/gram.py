"""Gram polynomials with trainable recurrence (KAGN)."""

import torch
from torch import Tensor, nn

from kanpde.jets.elementary import silu_derivatives
from kanpde.kan.basis.base import Derivatives
from kanpde.kan.basis.polynomial import Polynomial, polynomial_derivatives


class Gram(Polynomial):
    r"""p_0 ... p_D with p_n+1 = t p_n - beta_n p_n-1, the beta_n trained; see `Polynomial`.

    They start as the monic Legendre polynomials, beta_n = n^2 / (4 n^2 - 1), the limit of Gram's discrete ones.

    Args:
        outer: none, or silu: the polynomials pass through SiLU, as in KAGNConv.
        official_count: keep the two entries of beta that the released KAGNConv has and never uses, so that parameter
            counts agree; they receive no gradient.
    Source: KAGNConv of torch-conv-kan, as in the MetaKAN code, where beta_n is a weight that starts near 0 times
    n^2 ((n + 1)^2 - n^2) (4 n^2 - 1) / (n + 1)^2.

    Example:
        >>> len(Gram(3, degree=7).beta), Gram(3, degree=7).size
        (6, 9)
    """

    has_parameters = True
    resolution = None  # the recurrence of further ones is not known

    def __init__(
        self,
        in_features: int,
        degree: int = 7,
        grid_range=(-1.0, 1.0),
        base: str = "silu",
        squash: str = "tanh",
        outer: str = "none",
        official_count: bool = False,
    ):
        if outer not in ("none", "silu"):
            raise ValueError(f"outer is none or silu, given {outer!r}")
        super().__init__(in_features, degree, grid_range, base, squash)
        self.outer = outer
        n = torch.arange(1, degree, dtype=self.low.dtype)
        self.beta = nn.Parameter(n**2 / (4 * n**2 - 1))
        self.unused_beta = nn.Parameter(torch.zeros(2), requires_grad=False) if official_count else None

    def recurrence(self) -> tuple:
        return tuple((1, beta) for beta in self.beta)

    def functions(self, x: Tensor, order: int, inputs: slice | Tensor = slice(None)) -> Derivatives:
        """Orders 0 to 2 in plain operations, because beta needs a gradient."""
        p = polynomial_derivatives(self.recurrence(), self.squash, 0, order, x, *self.constants(inputs))
        if self.outer == "none":
            return tuple(p)
        s = silu_derivatives(0, order, p[0])
        composed = [s[0]]
        if order >= 1:
            composed.append(s[1] * p[1])
        if order >= 2:
            composed.append(s[2] * p[1] ** 2 + s[1] * p[2])
        return tuple(composed)

    def features(self, x: Tensor, order: int, inputs: slice | Tensor = slice(None)) -> Derivatives:
        both = self.functions(x, order, inputs), self.base_function(x, order)
        return tuple(torch.cat(pair, -1) for pair in zip(*both, strict=True))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, outer={self.outer}"
