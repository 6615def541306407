"""What a basis of edge functions offers a layer: the number of weights of an edge, and their contraction."""

from typing import NamedTuple

from torch import Tensor, nn


class Edges(NamedTuple):
    """Sums over the edges of a layer, for N points, `in` inputs, `out` outputs (what was not asked for is None)."""

    value: Tensor  # (N, out)      sum_i phi_io(x_i)
    slope: Tensor | None  # (N, in, out)  phi'_io(x_i)
    bend: Tensor | None  # (N, out)      sum_i q_i phi''_io(x_i)


class LinearBasis(nn.Module):
    """Edge functions that are linear in their weights, phi(x) = sum_c theta_c b_c(x).

    A member states `size` and writes `features`; the contraction with any weights is inherited.
    """

    size: int
    smoothness = float("inf")  # continuous derivatives: second-order operators need 2

    def features(self, x: Tensor, order: int, inputs: slice = slice(None)) -> tuple[Tensor, ...]:
        """b, b', ... up to the derivative `order` (0, 1 or 2) at x (N, in): each (N, in, size).

        `inputs` says which inputs of the layer the columns of x are.
        """
        raise NotImplementedError

    def start(self) -> Tensor:
        """Weights (size,) of a monotone activation across the basis' range, which the edges of a MetaKAN start from."""
        raise NotImplementedError

    def contract(
        self,
        x: Tensor,
        theta: Tensor,
        inputs: slice = slice(None),
        slope: bool = False,
        curvature: Tensor | None = None,
    ) -> Edges:
        """Contract the basis at x (N, in) with theta (in, size, out); `curvature` is q (1 or N, in)."""
        order = 2 if curvature is not None else int(slope)
        b = self.features(x, order, inputs)
        flat = theta.flatten(0, 1)
        return Edges(
            value=b[0].flatten(1) @ flat,
            slope=(b[1].transpose(0, 1) @ theta).transpose(0, 1) if slope else None,
            bend=None if curvature is None else (b[2] * curvature.unsqueeze(-1)).flatten(1) @ flat,
        )
