"""Chebyshev polynomials of the first kind (ChebyKAN)."""

from kanpde.kan.basis.polynomial import Polynomial


class Chebyshev(Polynomial):
    """T_0 ... T_D with T_n+1 = 2 t T_n - T_n-1, that is T_n(t) = cos(n arccos t); see `Polynomial`.

    Source: SS et al. 2024 (arXiv 2405.07200); KACNConv of the MetaKAN code has no base function either.

    Example:
        >>> Chebyshev(3, degree=4).size
        5
    """

    def __init__(
        self, in_features: int, degree: int = 8, grid_range=(-1.0, 1.0), base: str = "none", squash: str = "tanh"
    ):
        super().__init__(in_features, degree, grid_range, base, squash)

    def recurrence(self) -> tuple:
        return ((2, 1),) * (self.degree - 1)
