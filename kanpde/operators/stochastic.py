"""Unbiased estimators of L u and of sums of higher derivatives: Hutchinson's random directions, SDGD's dimensions.

Both estimate the second-order part of the network f and keep the terms of the hard constraint exact; with `of="u"`
they estimate all of L u, as published, with more variance. Probes are drawn once and shared by the batch, unless
`per_point`. Through a network with jet rules they are one forward pass; any other module takes nested differentiation.

Sums of derivatives of order k, u.bilap and u.sum_of(...), are estimated of u itself, by random jets: each drawn term
D_v1^m1 ... D_vr^mr u is a sum of derivatives D^k along single directions (`kanpde.jets.taylor.mixed`), for which one
Taylor jet serves.
Source: Shi, Hu, Lin, Kawaguchi 2024 (STDE, arXiv 2412.00088).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Literal

import torch
from torch import Tensor, nn

from kanpde.jets.ansatz import Ansatz, System
from kanpde.jets.gram import Diagonal, Sampled, Tangents
from kanpde.jets.jet import Jet, has_rules
from kanpde.jets.names import Reads, Sum
from kanpde.jets.taylor import mixed
from kanpde.operators.autograd import check_nested, scalar_value
from kanpde.operators.base import Operator
from kanpde.operators.forward import pushed


@dataclass(frozen=True)
class _Estimator(Operator):
    """What the two estimators share.

    `_gram(x, s, generator)` draws an estimate of S, in one of the forms of a jet. For a sum of derivatives
    `_size(of)` gives the powers m_1 ... m_r and the number T of the terms that are drawn, `_terms(x, of, generator)`
    their directions v (1 or N, T, r, d) and weights c (1 or N, T).
    """

    draws_sums = True

    def nests(self, net: nn.Module) -> bool:
        return not has_rules(net)

    @property
    def shares(self) -> bool:
        return self.of == "f"

    def variance(
        self,
        u: Callable[[Tensor], Tensor],
        x: Tensor,
        s: Tensor | None = None,
        *,
        generator: torch.Generator,
        draws: int = 8,
    ) -> Tensor:
        """Variance of the estimates of L u and of sums at each point (N,), measured over independent draws."""
        with torch.no_grad():
            jets = [self(u, x, s, generator=generator) for _ in range(draws)]
        each = zip(*([jet.lap, *jet.sums.values()] for jet in jets), strict=True)
        return sum(torch.stack(part).var(0) for part in each if part[0] is not None)

    def estimate(
        self,
        u: Callable[[Tensor], Tensor],
        x: Tensor,
        s: Tensor | None,
        directions: Tensor | None,
        generator: torch.Generator | None,
    ) -> Jet:
        self._check_generator(generator)
        gram = None if s is None else self._gram(x, s, generator)
        if not isinstance(u, Ansatz):
            return self._of_network(u, x, s, directions, gram)
        reads_grad_sq = u.problem.reads.grad_sq
        if self.of == "u" and s is not None:
            return self._of_whole(u, x, directions, gram, reads_grad_sq)
        return u.jet(partial(self._of_network, gram=gram, reads_grad_sq=reads_grad_sq), x, s, directions)

    def sums(
        self, u: Ansatz, x: Tensor, sums: tuple[Sum, ...], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[Sum, Tensor]]:
        self._check_generator(generator)
        found, inputs = {}, u.problem.inputs_of(x)
        one = (lambda t: t) if isinstance(u, System) else (lambda t: t.squeeze(-1))
        for of in sums:
            self.check_sum(of)
            v, c = self._terms(inputs, of, generator)
            rows, weights = (v.new_tensor(part) for part in mixed(self._size(of)[0]))
            along = (rows @ v).flatten(1, 2)  # (1 or N, T P, d)
            jet = u.taylor(x, along, (along.shape[1],) * of.order)
            each = (c.unsqueeze(-1) * weights).flatten(1)
            highest = jet.value.new_zeros(()) if jet.terms[-1] is None else (each.unsqueeze(-1) * jet.terms[-1]).sum(1)
            found[of] = one(highest.expand_as(jet.value))
        return one(jet.value), found

    def counts(self, reads: Reads) -> tuple[int, ...]:
        each = [super().counts(replace(reads, sums=()))]
        for of in reads.sums:
            powers, terms = self._size(of)
            each.append((terms * len(mixed(powers)[0]),) * of.order)
        return tuple(map(sum, zip_longest(*each, fillvalue=0)))

    def _check_generator(self, generator: torch.Generator | None) -> None:
        if generator is None:
            raise ValueError(f"{type(self).__name__} draws random numbers: give it a torch.Generator")

    def _of_network(self, net, x, s, directions, gram, reads_grad_sq: bool = True) -> Jet:
        if has_rules(net):
            return pushed(net, x, gram, directions, reads_grad_sq)
        return _nested(net, x, directions, gram, reads_grad_sq)


@dataclass(frozen=True)
class SDGD(_Estimator):
    r"""Sum over a random set J of `dims` coordinates, without replacement, scaled by d / |J|.

    .. math:: \widehat{Lu} = \frac dB \sum_{i \in J} s_i \partial_i^2 u, \qquad
              \mathrm{Var} = \frac{d^2}{B} \Big(1 - \frac Bd\Big) S^2

    with S^2 the sample variance (divisor d - 1) of the d terms s_i u_ii.

    Of a sum of derivatives B terms are drawn: of the bilaplacian, u_iijj for B random i and B random j, each without
    replacement, scaled by d^2 / B; of T terms that are stated, B without replacement, scaled by T / B.

    Args:
        dims: B, coordinates a step (1 <= B <= d).
        per_point: another set for each point.
        of: "f" estimates the network's part, "u" all of L u, as published.
    Source: Hu et al. 2024, arXiv 2307.12306, eq. 12.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> SDGD(dims=2)(net, torch.zeros(5, 4), generator=torch.Generator().manual_seed(0)).lap.shape
        torch.Size([5])
    """

    dims: int = 16
    per_point: bool = False
    of: Literal["f", "u"] = "f"

    def __post_init__(self):
        if self.dims < 1:
            raise ValueError(f"SDGD needs dims >= 1, given {self.dims}")

    def check(self, dim: int) -> None:
        if self.dims > dim:
            raise ValueError(
                f"dims: {self.dims} coordinates a step, needed is at most {dim}, the inputs of the problem"
            )

    def _gram(self, x: Tensor, s: Tensor, generator: torch.Generator) -> Diagonal | Sampled:
        d = x.shape[-1]
        if self.dims > d:
            raise ValueError(f"SDGD samples {self.dims} of {d} dimensions: dims must be at most {d}")
        drawn = self._draw(x, d, generator)
        if self.per_point:
            mask = torch.zeros(len(x), d, dtype=x.dtype, device=x.device).scatter(1, drawn, d / self.dims)
            return Diagonal(s * mask)
        return Sampled(s[:, drawn[0]] * (d / self.dims), drawn[0], d)

    def _draw(self, x: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """B of so many numbers (1 or N, B), or all where they are fewer."""
        rows = len(x) if self.per_point else 1
        numbers = torch.rand(rows, count, generator=generator, device=x.device, dtype=x.dtype)
        return numbers.topk(min(self.dims, count), -1).indices

    def check_sum(self, of: Sum) -> None:
        if of.axes is None and self.dims > of.count:
            raise ValueError(f"dims: {self.dims} coordinates a step, u.{of} is of {of.count}")

    def _size(self, of: Sum) -> tuple[tuple[int, ...], int]:
        return of.powers, self.dims if of.axes is None else min(self.dims, of.size)

    def _terms(self, x: Tensor, of: Sum, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        if of.axes is None:
            drawn = torch.stack([self._draw(x, of.count, generator) for _ in of.powers], -1)
            c = x.new_ones(drawn.shape[:2])
        else:
            numbers = self._draw(x, of.size, generator)
            drawn = torch.tensor(of.axes, device=x.device)[numbers]
            c = torch.ones_like(numbers, dtype=x.dtype) if of.weights is None else x.new_tensor(of.weights)[numbers]
        v = x.new_zeros(*drawn.shape, x.shape[-1]).scatter_(-1, drawn.unsqueeze(-1), 1.0)
        return v, c * (of.size / drawn.shape[1])

    def _of_whole(self, u: Ansatz, x, directions, gram, reads_grad_sq) -> Jet:
        """All terms of the product rule are linear in S: the sampled S serves for each."""
        return u.jet(partial(self._of_network, gram=gram, reads_grad_sq=reads_grad_sq), x, gram.diagonal(), directions)


@dataclass(frozen=True)
class Hutchinson(_Estimator):
    r"""Mean of second derivatives along random directions w_k = sqrt(s) z_k.

    .. math:: \widehat{Lu} = \frac 1V \sum_k w_k^T H w_k, \qquad
              \mathrm{Var} = \frac 2V \sum_{i \ne j} s_i s_j H_{ij}^2 \ \text{(Rademacher)}, \quad
              \frac 2V \sum_{i, j} s_i s_j H_{ij}^2 \ \text{(Gaussian)}

    Of sums of squares it has the bilaplacian and its like, by V draws of independent directions v, w, ... of the signs,
    or of one Gaussian direction:

    .. math:: E[D_v^2 D_w^2 u] = \sum_{i, j} u_{iijj}, \qquad E[D_v^4 u] = 3 \sum_{i, j} u_{iijj}

    Args:
        probes: V, directions a step.
        distribution: rademacher (z = +-1) or gaussian.
        per_point: other directions for each point.
        of: "f" estimates the network's part; "u" all of L u by Hessian-vector products, as published.
    Raises:
        ValueError: s has a negative entry.
    Source: Hutchinson 1989; for PDEs Hu et al. 2024, arXiv 2312.14499.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
        >>> Hutchinson(probes=8)(net, torch.zeros(5, 4), generator=torch.Generator().manual_seed(0)).lap.shape
        torch.Size([5])
    """

    probes: int = 16
    distribution: Literal["rademacher", "gaussian"] = "rademacher"
    per_point: bool = False
    of: Literal["f", "u"] = "f"

    def __post_init__(self):
        if self.probes < 1:
            raise ValueError(f"Hutchinson needs probes >= 1, given {self.probes}")

    def _gram(self, x: Tensor, s: Tensor, generator: torch.Generator) -> Tangents:
        if (s < 0).any():
            raise ValueError("Hutchinson needs coefficients s >= 0: use Forward, or SDGD")
        return Tangents(self._draw(x, (x.shape[-1],), generator) * (s / self.probes).sqrt().unsqueeze(-2))

    def _draw(self, x: Tensor, of: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random numbers (1 or N, V, *of) of mean 0 and variance 1."""
        shape = len(x) if self.per_point else 1, self.probes, *of
        if self.distribution == "gaussian":
            return torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        return torch.randint(2, shape, generator=generator, device=x.device).to(x.dtype) * 2 - 1

    def check_sum(self, of: Sum) -> None:
        if of.axes is not None or set(of.powers) != {2}:
            raise ValueError(
                f"u.{of}: random directions give sums over squares alone, such as u.bilap; sdgd draws terms"
            )

    def _size(self, of: Sum) -> tuple[tuple[int, ...], int]:
        return (of.order,) if self.distribution == "gaussian" else of.powers, self.probes

    def _terms(self, x: Tensor, of: Sum, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        powers, _ = self._size(of)
        z = self._draw(x, (len(powers), of.count), generator)
        v = torch.nn.functional.pad(z, (0, x.shape[-1] - of.count))  # nothing along time
        moment = math.prod(range(1, of.order, 2)) if self.distribution == "gaussian" else 1  # E D_v^2r = moment Lap^r
        return v, x.new_full(v.shape[:2], 1 / (moment * self.probes))

    def _of_whole(self, u: Ansatz, x, directions, gram, reads_grad_sq) -> Jet:
        return _nested(u, x, directions, gram, reads_grad_sq)


def _nested(u, x: Tensor, directions, gram, reads_grad_sq: bool) -> Jet:
    """The same estimate for any module: Hessian-vector products of its gradient, which `check_nested` checks."""
    check_nested(u, x)
    keep = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        value = scalar_value(u, x)
        (grad,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        along = None if directions is None else (directions @ grad.unsqueeze(-1)).squeeze(-1)
        lap, grad_sq = None, None
        if gram is not None:
            rows = _rows(gram).expand(len(x), -1, -1).unbind(1)  # w_k, with sum_k sign_k w_k w_k^T the estimate of S
            slopes = [(w * grad).sum(-1) for w in rows]
            bends = [
                (w * torch.autograd.grad(p.sum(), x, create_graph=True)[0]).sum(-1)
                for w, p in zip(rows, slopes, strict=True)
            ]
            signs = _signs(gram, len(rows))
            lap = sum(sign * b for sign, b in zip(signs, bends, strict=True))
            grad_sq = sum(sign * p.square() for sign, p in zip(signs, slopes, strict=True)) if reads_grad_sq else None
    jet = Jet(value, along, grad_sq, lap)
    return jet if keep else jet.map(Tensor.detach)


def _rows(gram) -> Tensor:
    """(1 or N, V, d) with gram = sum_k sign_k w_k w_k^T."""
    if isinstance(gram, Tangents):
        return gram.rows
    if isinstance(gram, Sampled):
        rows = torch.zeros(len(gram.s), len(gram.index), gram.dim, dtype=gram.s.dtype, device=gram.s.device)
        return rows.scatter(2, gram.index.view(1, -1, 1).expand(len(gram.s), -1, 1), gram.s.abs().sqrt().unsqueeze(-1))
    return torch.diag_embed(gram.s.abs().sqrt())


def _signs(gram, rows: int) -> list:
    if isinstance(gram, Tangents):
        return [1.0] * rows
    return list(gram.s.sign().unbind(-1))
