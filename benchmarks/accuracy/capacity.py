r"""How many units the first hidden layer needs for the interactions of a solution: the least errors of few.

    python -m benchmarks.capacity [--dims 20 50 100] [--widths 16 32 48 64] [--solution two_body] [--seed 0]
        [--starts 2] [--out benchmarks/results/capacity.md]

A network is f = G(h_1, ..., h_w), h_k = sum_i phi_ki(x_i), whatever G is and the phi are, KAN or MLP. Off the diagonal

    d^2 f / dx_i dx_j = sum_kl G_kl phi_ki'(x_i) phi_lj'(x_j),

at every x a symmetric matrix of rank w or less. So of the interactions Q, the Hessian of u / m at 0 off its
diagonal, at least R = Q - U S U^T off the diagonal stays, S a diagonal of signs, U d x w. The error is that of
m x^T R x / 2 beside u on 20 000 radial points, everything else counted as learned.

The least |R| is searched for by L-BFGS from --starts matrices U for each of some S: there may be a lesser one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.common.study import RESULTS, Parser, at_least, deliver, exiting, markdown
from kanpde.ground.samplers import stream
from kanpde.problems import Poisson
from kanpde.problems.solutions import SOLUTIONS

POINTS, BLOCK = 20_000, 2_000
POSITIVE = (1 / 2, 5 / 8, 3 / 4)  # fractions of the signs


def interactions(problem: Poisson) -> Tensor:
    """Q (d, d): the Hessian of f at 0 off its diagonal."""
    *_, beside = map(torch.as_tensor, problem.closed_form.taylor())
    return torch.diag(beside, 1) + torch.diag(beside, -1)


def left_over(q: Tensor, width: int, starts: int) -> Tensor:
    """R: what is left of Q, off the diagonal, by the best U S U^T that was found."""
    found = [_descended(q, width, round(width * part), seed) for part in POSITIVE for seed in range(starts)]
    return min(found, key=torch.linalg.norm)


def _descended(q: Tensor, width: int, positive: int, seed: int) -> Tensor:
    signs = torch.ones(width, dtype=q.dtype)
    signs[positive:] = -1
    u = 0.3 * torch.randn(len(q), width, generator=stream(seed, "U"), dtype=q.dtype)
    rest = lambda: (q - (u * signs) @ u.T).fill_diagonal_(0)
    optimizer = torch.optim.LBFGS(
        [u.requires_grad_()],
        max_iter=600,
        history_size=30,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = rest().square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return rest().detach()


def error(problem: Poisson, r: Tensor) -> float:
    """|m x^T R x / 2| / |u| on radial points."""
    generator, sums = stream(0, "capacity"), torch.zeros(2, dtype=r.dtype)
    for _ in range(POINTS // BLOCK):
        x = problem.domain.interior(BLOCK, generator, dtype=r.dtype)
        missing = problem.factor(x).value * ((x @ r) * x).sum(1) / 2
        sums += torch.stack([missing.square().sum(), problem.exact(x).square().sum()])
    return (sums[0] / sums[1]).sqrt().item()


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Parser("capacity", __doc__)
    options.add_argument("--dims", type=int, nargs="+", default=[20, 50, 100])
    options.add_argument("--widths", type=int, nargs="+", default=[16, 32, 48, 64])
    options.add_argument("--solution", choices=SOLUTIONS, default="two_body")
    options.add_argument("--seed", type=int, default=0, help="of the coefficients")
    options.add_argument("--starts", type=int, default=2)
    args = options.common(RESULTS / "capacity.md").parse_args(argv)
    at_least(args, {"dims": 3, "widths": 1, "starts": 1})
    rows = []
    for dim in args.dims:
        problem = Poisson(dim, solution=args.solution, seed=args.seed)
        q = interactions(problem)
        rows.append([dim, error(problem, q), *(error(problem, left_over(q, w, args.starts)) for w in args.widths)])
        deliver(report(args, rows), args.out)


def report(args, rows: Sequence[Sequence]) -> str:
    """Markdown: a line for each dimension."""
    heading = ["d", "without interactions", *(f"{w} units" for w in args.widths)]
    lines = [
        "# What a first hidden layer can hold",
        "",
        f"`python -m benchmarks.capacity`: {args.solution}, coefficient seed {args.seed}; relative l2 errors on radial",
        "points. Off the diagonal, second derivatives of a network are a matrix of no higher rank than it has units in",
        "the first hidden layer. The error that the best such matrix leaves, all but the interactions counted as",
        "learned; found by descent: there may be a lesser one.",
        "",
        *markdown(heading, rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    exiting(main, "capacity")
