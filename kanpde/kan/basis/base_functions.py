"""Base functions of KAN edges: smooth activations beside the basis, with derivatives of any order in closed form."""

from torch import Tensor

from kanpde.jets.elementary import Out, gelu_derivatives, identity_derivatives, silu_derivatives


def _with_axis(derivatives):
    """One function of an edge: the axis of functions has length 1."""

    def with_axis(first: int, last: int, x: Tensor, axis: int = -1, out: Out = None) -> list[Tensor]:
        given = out and [o.squeeze(axis) for o in out]
        return [d.unsqueeze(axis) for d in derivatives(first, last, x, given)]

    return with_axis


def _nothing(first: int, last: int, x: Tensor, axis: int = -1, out: Out = None) -> list[Tensor]:
    """No function of an edge: the axis of functions has length 0."""
    return [x.unsqueeze(axis).narrow(axis, 0, 0)] * (last - first + 1)


BASE_FUNCTIONS = {
    "silu": _with_axis(silu_derivatives),
    "gelu": _with_axis(gelu_derivatives),
    "identity": _with_axis(identity_derivatives),
    "none": _nothing,
}
