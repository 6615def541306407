"""Legendre polynomials (KALN)."""

from kanpde.kan.basis.polynomial import Polynomial


class Legendre(Polynomial):
    """P_0 ... P_D with (n + 1) P_n+1 = (2 n + 1) t P_n - n P_n-1; see `Polynomial`.

    Source: KALNConv of torch-conv-kan, as in the MetaKAN code. That code scales x by the smallest and largest value of
    the whole batch, at test time too, so that an image's class depends on the others; here t = tanh(z).

    Example:
        >>> import torch
        >>> basis = Legendre(1, degree=2, base="none", squash="none")
        >>> basis.functions(torch.tensor([[0.5]]), 0)[0]  # 1, t, (3 t^2 - 1) / 2
        tensor([[[ 1.0000,  0.5000, -0.1250]]])
    """

    def __init__(
        self, in_features: int, degree: int = 7, grid_range=(-1.0, 1.0), base: str = "silu", squash: str = "tanh"
    ):
        super().__init__(in_features, degree, grid_range, base, squash)

    def recurrence(self) -> tuple:
        return tuple(((2 * n + 1) / (n + 1), n / (n + 1)) for n in range(1, self.degree))
