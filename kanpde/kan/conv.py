"""The convolution of a KAN layer: the linear layer on every patch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from kanpde.jets.pieces import recomputed
from kanpde.jets.tracing import recorded
from kanpde.kan.basis.base import Basis, LinearBasis
from kanpde.kan.layers import check_norm, check_sizes

PIECE_BYTES = 2**22  # of features at a time, of at least one image: a few MB stay in the cache


class KANConv2d(nn.Module):
    r"""y_o = sum over input channels i and kernel taps (a, b) of phi_iabo(x_i at the tap) [+ b_o], at every place.

    Padding contributes nothing: where a tap falls outside the image, its term is left out. Where it is inside, the
    result is that of `KANLinear` on the patch, with the edges ordered (channel, row, column).

    Args:
        basis: the basis of the edge functions, one range per input channel.
        weights: `Direct` or `Meta`, handing out theta (in / groups * height * width, size, out).
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as in torch.nn.Conv2d; one number
            for both directions, or a pair.
        bias: adds b (out,), zero at first.
        norm: a norm of (N, in, H, W) before the basis functions; the base function sees x itself (FastKANConv).
    Raises:
        ValueError: groups do not divide the channels, or a norm before a basis that is not linear.
    """

    def __init__(
        self,
        basis: Basis,
        weights: nn.Module,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups = {groups} must divide {in_channels} and {out_channels} channels")
        check_norm(basis, norm)
        self.basis, self.weights, self.norm = basis, weights, norm
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding, self.dilation = map(
            _pair, (kernel_size, stride, padding, dilation)
        )
        check_sizes(basis, weights, in_channels, self.edges, out_channels)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H', W')."""
        if min(self._output_size(x)) < 1:
            raise ValueError(f"an image of {tuple(x.shape[2:])} is smaller than the kernel {self.kernel_size}")
        (raw,) = self.weights.split(self.edges)
        theta = self.weights.generate(raw)
        linear = isinstance(self.basis, LinearBasis)
        y = self._by_features(x, theta) if linear else self._by_taps(x, theta)
        return y if self.bias is None else y + self.bias.view(-1, 1, 1)

    @property
    def edges(self) -> int:
        """Edges into an output channel."""
        height, width = self.kernel_size
        return self.in_channels // self.groups * height * width

    def _by_features(self, x: Tensor, theta: Tensor) -> Tensor:
        """One convolution of the features, some images at a time: those of all images never exist together."""
        per_tap = theta.unflatten(0, (-1, *self.kernel_size))  # (in, a, b, size, out)
        kernel = per_tap.permute(4, 1, 2, 0, 3).flatten(3).permute(0, 3, 1, 2)  # (out, in size, a, b), channels last
        normed = None if self.norm is None else self.norm(x)
        if recorded():  # an exported network takes any number of images
            return self._piece(x, normed, kernel)
        images = self._images_to_a_piece(x, kernel)
        pieces = x.split(images)
        norms = [None] * len(pieces) if normed is None else normed.split(images)
        return torch.cat([recomputed(self._piece, *piece, kernel) for piece in zip(pieces, norms, strict=True)])

    def _piece(self, x: Tensor, normed: Tensor | None, kernel: Tensor) -> Tensor:
        """The convolution of some images; their features are padded by zeros, and channels last, as they come."""
        n, channels, height, width = x.shape
        rows = lambda t: t.permute(0, 2, 3, 1).reshape(-1, channels)
        if normed is None:
            (b,) = self.basis.features(rows(x), 0)
        else:
            functions, base = self.basis.functions(rows(normed), 0), self.basis.base_function(rows(x), 0)
            b = torch.cat([functions[0], base[0]], -1)
        images = b.flatten(1).unflatten(0, (n, height, width)).permute(0, 3, 1, 2)  # (N, in size, H, W)
        return conv2d(images, kernel, None, self.stride, self.padding, self.dilation, self.groups)

    def _images_to_a_piece(self, x: Tensor, kernel: Tensor) -> int:
        """Their features have PIECE_BYTES, or as many as the kernel, which every piece reads."""
        of_image = x.shape[1:].numel() * self.basis.size * x.element_size()
        return max(1, max(PIECE_BYTES, kernel.nbytes) // max(1, of_image))

    def _by_taps(self, x: Tensor, theta: Tensor) -> Tensor:
        """Any basis: tap by tap, the linear layer on the pixels that the tap sees, added where it puts them."""
        out = self._output_size(x)
        per_tap = theta.unflatten(0, (-1, *self.kernel_size))
        pieces = [
            (x, per_tap[:, a, b], self._seen(a, 0, x.shape[2], out[0]), self._seen(b, 1, x.shape[3], out[1]))
            for a in range(self.kernel_size[0])
            for b in range(self.kernel_size[1])
        ]
        parts = [self._tap(*piece, out) for piece in pieces if piece[2] and piece[3]]
        return sum(parts, x.new_zeros(len(x), self.out_channels, *out))

    def _output_size(self, x: Tensor) -> list[int]:
        settings = zip(x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        return [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in settings]

    def _seen(self, tap: int, axis: int, size: int, out: int) -> tuple[int, int, int] | None:
        """The places first ... last - 1 of the output whose tap is in the image, and the pixel that the first sees."""
        s, shift = self.stride[axis], tap * self.dilation[axis] - self.padding[axis]
        first = max(0, -(shift // s))  # smallest i with i s + shift >= 0
        last = min(out, (size - 1 - shift) // s + 1)
        return (first, last, first * s + shift) if first < last else None

    def _tap(self, x: Tensor, theta: Tensor, rows: tuple, columns: tuple, out: list[int]) -> Tensor:
        (i, i_end, top), (j, j_end, left) = rows, columns
        stride = self.stride
        seen = x[:, :, top :: stride[0], left :: stride[1]][:, :, : i_end - i, : j_end - j]
        n, _, height, width = seen.shape
        values = seen.permute(0, 2, 3, 1).flatten(0, 2)
        groups = zip(
            range(0, self.in_channels, len(theta)),
            values.split(len(theta), -1),
            theta.split(self.out_channels // self.groups, -1),
            strict=True,
        )
        y = torch.cat([self.basis.contract(v, t, slice(c, c + len(theta))).value for c, v, t in groups], -1)
        y = y.unflatten(0, (n, height, width)).permute(0, 3, 1, 2)
        return pad(y, (j, out[1] - j_end, i, out[0] - i_end))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    if isinstance(value, str):
        raise ValueError(f"stride, padding and dilation are numbers or pairs, given {value!r}")
    return (value, value) if isinstance(value, int) else tuple(value)
