"""Normal matrices, random sketches, and conjugate gradients for K + mu I with a Nystroem preconditioner."""

from collections.abc import Callable

import torch
from torch import Tensor

PANEL = 256  # columns of a normal matrix at a time


def add_gram(upper: Tensor, j: Tensor) -> None:
    """Add to upper (P, P) what J^T J has on and right of its diagonal, by half its products, and some of the rest."""
    for start in range(0, j.shape[1], PANEL):
        panel = slice(start, start + PANEL)
        upper[panel, start:].addmm_(j[:, panel].mT, j[:, start:])


class CountSketch:
    """S (size, n): each of n coordinates is added to one of `size`, with a random sign; E[S^T S] = I.

    Source: Charikar, Chen, Farach-Colton 2002; Clarkson & Woodruff 2013 (arXiv 1207.6365).
    """

    def __init__(self, n: int, size: int, generator: torch.Generator):
        at = generator.device
        self.bucket = torch.randint(size, (n,), generator=generator, device=at)
        self.sign = torch.randint(2, (n,), generator=generator, device=at) * 2 - 1
        self.size = size

    def __call__(self, t: Tensor, dim: int) -> Tensor:
        """S along one dimension of t."""
        shape = [1] * t.ndim
        shape[dim] = -1
        out = t.new_zeros([self.size if i == dim else n for i, n in enumerate(t.shape)])
        return out.index_add(dim, self.bucket, t * self.sign.to(t.dtype).view(shape))

    def transposed(self, t: Tensor) -> Tensor:
        """S^T t of a vector."""
        return t[self.bucket] * self.sign.to(t.dtype)


def nystrom_cg(
    product: Callable[[Tensor], Tensor],
    b: Tensor,
    mu: float,
    approximation: tuple[Tensor, Tensor],
    tolerance: float = 1e-6,
    iterations: int = 200,
) -> Tensor:
    r"""x with (K + mu I) x = b, for K >= 0 known by its products, by preconditioned conjugate gradients.

    .. math:: P^{-1} = (\lambda_l + \mu) U (\Lambda + \mu I)^{-1} U^T + I - U U^T

    with the eigenvalues and eigenvectors of the Nystroem approximation of K.

    Args:
        approximation: U (n, l) and Lambda (l,), from `nystrom`.
        tolerance: of |residual| / |b|, at which to stop; or after so many iterations.
    Source: Frangella, Tropp, Udell 2023 (arXiv 2110.02820), algorithms 2.1 and 5.1.
    """
    u, values = approximation
    weight = (values[-1] + mu) / (values + mu) - 1
    precondition = lambda r: r + u @ (weight * (u.mT @ r))
    x, r = torch.zeros_like(b), b.clone()
    z = precondition(r)
    direction, rz = z.clone(), r @ z
    for _ in range(iterations):
        if r.norm() <= tolerance * b.norm():
            break
        image = product(direction) + mu * direction
        alpha = rz / (direction @ image)
        x, r = x + alpha * direction, r - alpha * image
        z = precondition(r)
        former, rz = rz, r @ z
        direction = z + (rz / former) * direction
    return x


def nystrom(
    product: Callable[[Tensor], Tensor], like: Tensor, rank: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Eigenvectors U (n, rank) and eigenvalues of the randomised Nystroem approximation of K >= 0."""
    omega = torch.randn(len(like), rank, generator=generator, device=like.device, dtype=like.dtype)
    omega = torch.linalg.qr(omega)[0]
    y = torch.stack([product(column) for column in omega.unbind(1)], 1).double()
    omega = omega.double()
    shift = torch.finfo(like.dtype).eps * y.norm()
    y = y + shift * omega
    core = omega.mT @ y
    factor = torch.linalg.cholesky((core + core.mT) / 2)
    u, singular, _ = torch.linalg.svd(torch.linalg.solve_triangular(factor, y.mT, upper=False).mT, full_matrices=False)
    return u.to(like.dtype), (singular.square() - shift).clamp_min(0).to(like.dtype)
