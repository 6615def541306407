r"""The frame of a run: units of length and time in which its domain has size 1, for the network and for the residual.

.. math:: \xi_i = (x_i - c_i) / h_i, \qquad \partial / \partial x_i = h_i^{-1} \, \partial / \partial\xi_i

c and h are centre and half-width of the domain, of time 0 and its length. The unit ball, [-1, 1]^d and either times
[0, 1] are in these units as they are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kanpde.domains.base import check_members, is_framed, kinds_of, laws_of, space_of, time_of
from kanpde.ground.errors import ConfigError
from kanpde.ground.samplers import stream
from kanpde.jets.ansatz import Field
from kanpde.jets.jet import Affine
from kanpde.jets.slices import WHOLE
from kanpde.problems.base import Problem

POINTS = 64  # at which coefficients, directions and factor are looked at; in high dimension fewer
NUMBERS = 2**22


@dataclass(frozen=True, eq=False)
class Frame:
    """Centre c and lengths h (d,), in float64.

    Attributes:
        equation: what the residual scale of the unit ball is multiplied by; see `equation_scale`.
    """

    centre: Tensor
    lengths: Tensor
    equation: float = 1.0

    @classmethod
    def of(cls, problem) -> "Frame | None":
        """That of a problem's domain; None where it changes nothing, the domain has none, or the problem is a fit.

        Raises:
            ConfigError: the frame is not d finite numbers and half-widths above 0.
        """
        if (
            problem.fits_rows or not is_framed(problem.domain) or problem.input_slice is not WHOLE
        ):  # those of the unit ball
            return None
        centre, lengths = centre_and_lengths(problem.domain)
        if not centre.any() and (lengths == 1).all():
            return None
        return cls(centre, lengths, equation_scale(problem, lengths))

    def scaling_inputs(self) -> Affine:
        """x to xi."""
        return Affine(1 / self.lengths, -self.centre / self.lengths)

    def ranges(self, given) -> list[tuple[float, float]]:
        """Intervals of x, one or one per coordinate, as intervals of xi; what is no intervals comes back as it is."""
        try:
            limits = torch.as_tensor(given, dtype=torch.float64).expand(len(self.centre), 2)
        except (TypeError, ValueError, RuntimeError):
            return given  # it is refused where the network is made
        return [tuple(pair) for pair in ((limits - self.centre[:, None]) / self.lengths[:, None]).tolist()]


def grid_range(given, problem, law: str, frame: Frame | None):
    """The intervals of the first grid, in the units of the run, where they are given in those of x.

    auto fits them to the points of the law, frame to the domain: [-1, 1] in its units; a fit has these units for both.
    """
    if given in ("auto", "frame") and problem.fits_rows:
        return -1.0, 1.0
    if given == "auto":
        given = problem.domain.input_range(law)
    if given == "frame":
        centre, lengths = centre_and_lengths(problem.domain)
        given = torch.stack([centre - lengths, centre + lengths], 1).tolist()
    return given if frame is None else frame.ranges(given)


def centre_and_lengths(domain) -> tuple[Tensor, Tensor]:
    """c and h of a domain, (d,) each; the last coordinate of one with time is in [0, 1] times its length."""
    given = domain.frame()
    try:
        centre, reach = (torch.as_tensor(part, dtype=torch.float64) for part in given)
        centre, lengths = centre.expand(domain.dim).clone(), reach.expand(domain.dim).clone()
    except (TypeError, ValueError, RuntimeError):
        centre = lengths = torch.zeros(1)
    if not (centre.isfinite().all() and lengths.isfinite().all() and (lengths > 0).all()):
        needed = f"a centre of {domain.dim} numbers, and a half-width above 0 or {domain.dim} of them"
        raise ConfigError(f"the domain {type(domain).__name__}: frame(): given {given!r:.80}, needed are {needed}")
    if (time := time_of(domain)) is not None:
        centre[-1], lengths[-1] = 0.0, float(time)
    return centre, lengths


def equation_scale(problem, lengths: Tensor) -> float:
    r"""How much smaller the derivatives of an equation are than on a domain of size 1, for a function of xi.

    .. math:: \frac{\sum_i s_i + \sum_{ki} |v_{ki}| + \sum_a 1}
              {\sum_i s_i / h_i^2 + \sum_{ki} |v_{ki}| / h_i + \sum_a \prod_{i \in a} 1 / h_i}

    with the coefficients s and directions v of the problem, their sizes averaged over points, and the derivatives a
    that the residual reads by name or in sums: h^2 for equations of second order, h for those of first order. 1 where
    the problem has a residual scale of its own.
    """
    if type(problem).residual_scale is not Problem.residual_scale:
        return 1.0
    x = _points(problem)
    reads = problem.reads
    s, v = problem.coefficients(x) if reads.second else None, problem.directions(x) if reads.along else None
    a = problem.diffusion(x) if reads.diffusion else None
    s = s if a is None else a.square().sum(-2) + (0 if s is None else s)  # the diagonal of the matrix
    size = float(len(reads.derivatives)) + sum(of.at(torch.ones_like(lengths)) for of in reads.sums)
    scaled = sum(1 / lengths[list(index)].prod().item() for index in reads.derivatives)
    scaled += sum(of.at(1 / lengths) for of in reads.sums)
    for derivatives, rank, h in ((s, 1, lengths.square()), (v, 2, lengths)):
        if derivatives is not None:
            each = torch.as_tensor(derivatives).detach().double().cpu().abs()
            each = each.reshape(-1, *each.shape[-rank:]).mean(0)
            size, scaled = size + each.sum().item(), scaled + (each / h).sum().item()
    return size / scaled if scaled > 0 else 1.0


def largest_factor(problem) -> float:
    """max |m| of the hard constraint u = h + m f at points of the domain, one of them its centre at the last time."""
    domain = problem.domain
    centre, lengths = centre_and_lengths(domain)
    if time_of(domain) is not None:
        centre = torch.cat([centre[:-1], lengths[-1:]])
    x = _points(problem)
    centre = centre.to(x).unsqueeze(0)
    m = problem.factor(torch.cat([centre, x]) if domain.contains(centre).all() else x)
    if m is None:
        return 1.0
    if not isinstance(m, Field):
        given = type(m).__name__
        raise ConfigError(f"factor: given a {given}, needed is a kanpde.Field; Field.of(function, x) makes one")
    sizes = m.value.detach().abs()
    largest = sizes[sizes.isfinite()].max().item() if sizes.isfinite().any() else 0.0
    return largest or 1.0


def _points(problem) -> Tensor:
    """Points of the domain in the precision of the problem's own parameters, if it has any."""
    domain, own = problem.domain, problem.parameters
    like = next(own.parameters(), torch.empty(0)) if isinstance(own, nn.Module) else torch.empty(0)
    n = max(2, min(POINTS, NUMBERS // domain.dim))
    return problem.inputs_of(domain.interior(n, stream(0, "frame"), laws_of(domain)[0], dtype=like.dtype).to(like))


def check_domain(problem, hard: bool, grid_range) -> None:
    """Raises ConfigError where the domain, or the space of one with time, lacks a member that the run reads.

    Args:
        hard: whether the boundary values are built in.
        grid_range: of the backbone, if it has one.
    """
    domain = problem.domain
    needed = ["dim", "laws", "interior"]
    if not problem.fits_rows:
        needed += ["contains"] if is_framed(domain) else []
        needed += ["factor"] if hard and type(problem).factor is Problem.factor else []
        needed += {"auto": ["input_range"], "frame": ["frame"]}.get(str(grid_range), [])
    check_members(domain, needed)
    check_members(space_of(domain), needed)
    of_domain = "factor" in needed and not problem.conditions and len(problem.fields) == 1
    if not of_domain or "boundary" not in kinds_of(domain):
        return
    if domain.factor(_points(problem)) is None:
        kind = type(space_of(domain)).__name__
        raise ConfigError(
            f"constraint: hard: a {kind} has no factor that is zero on its boundary: state conditions = (Dirichlet(),)"
            ", or say constraint: soft"
        )
