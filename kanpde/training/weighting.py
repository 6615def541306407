"""Adaptive weights of a loss: balances of its terms, multiplied onto the user's weights, and emphases of its points.

A balance reads a step's terms and residuals before the backward pass and keeps `weights`, by name; a term that is not
in them weighs 1. An emphasis reads the residuals of a step's points with `update` and then weighs their squares with
`weights`, in this order within one step; points of which it knows nothing yet weigh None, that is 1.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from kanpde.ground.world import ALONE, World
from kanpde.jets.pieces import add

Parts = Iterable[tuple[dict[str, Tensor], dict[str, Tensor]]]  # what parts of the points add to the terms; residuals
Gradients = tuple[Tensor | None, ...]  # by each parameter
SMALLEST = 1e-9  # share of the sum of all terms below which the gradient of a term counts as none


class Balance:
    """What balances derive from; a member writes `update_by_parts`, and what a checkpoint holds of it.

    Attributes:
        weights: by the name of a term; one that is not in them weighs 1.
        world: the processes of the run, in which terms and residuals are parts of those of all: what is read of them
            is summed over it, so that the weights are the same in each.
    """

    weights: dict[str, float]
    world: World = ALONE

    def update(
        self,
        terms: dict[str, Tensor],
        residuals: dict[str, Tensor],
        parameters: Sequence[Tensor],
        generator: torch.Generator,
    ) -> None:
        """Read one step: unweighted terms and residuals with their graphs, which stay; .grad is not touched."""
        self.update_by_parts([(terms, residuals)], parameters, generator)

    def update_by_parts(self, parts: Parts, parameters: Sequence[Tensor], generator: torch.Generator) -> None:
        """Read one step whose terms are the sums over parts."""
        raise NotImplementedError(f"{type(self).__name__} states no update_by_parts")

    def state_dict(self) -> dict:
        return {"weights": dict(self.weights)}

    def load_state_dict(self, state: dict) -> None:
        self.weights = dict(state["weights"])


class _Shares(Balance):
    """lambda_k = sum_j g_j / g_k, averaged over updates; g is the `_size` by the norm of the gradient of what `_read`
    takes from the terms or the n residuals."""

    def __init__(self, every: int = 100, decay: float = 0.9):
        if every < 1:
            raise ValueError(f"every is a number of steps >= 1, given {every}")
        self.every, self.decay = every, _checked(decay)
        self.weights: dict[str, float] = {}
        self.steps = 0

    def update_by_parts(self, parts: Parts, parameters: Sequence[Tensor], generator: torch.Generator) -> None:
        """Steps between two updates are left alone."""
        self.steps += 1
        if (self.steps - 1) % self.every:
            return
        trained = [p for p in parameters if p.requires_grad]
        gradients: dict[str, Gradients] = {}
        numbers: dict[str, int] = {}
        for terms, residuals in parts:
            for name, y in self._read(terms, residuals, generator).items():
                before = gradients.get(name, (None,) * len(trained))
                gradients[name] = tuple(map(add, before, _gradients(y, trained)))
                numbers[name] = numbers.get(name, 0) + (residuals[name].numel() if name in residuals else 1)
        gradients, numbers = self._joint(gradients, numbers)
        sizes = {name: self._size(_norm(of_name), numbers[name]) for name, of_name in gradients.items()}
        total = sum(sizes.values())
        found = {name: total / size for name, size in sizes.items() if size > SMALLEST * total}
        moved = lambda name, new: self.decay * self.weights.get(name, 1.0) + (1 - self.decay) * new
        self.weights = self.weights | {name: moved(name, new) for name, new in found.items()}

    def _joint(
        self, gradients: dict[str, Gradients], numbers: dict[str, int]
    ) -> tuple[dict[str, Gradients], dict[str, int]]:
        """Gradients and numbers of residuals of all processes."""
        if self.world.alone:
            return gradients, numbers
        there = [g for of_name in gradients.values() for g in of_name if g is not None]
        counts, *sums = self.world.sum([torch.tensor(list(numbers.values()), dtype=torch.float64), *there])
        left = iter(sums)
        joint = {name: tuple(g if g is None else next(left) for g in each) for name, each in gradients.items()}
        return joint, dict(zip(numbers, counts.tolist(), strict=True))

    def state_dict(self) -> dict:
        return {"weights": dict(self.weights), "steps": self.steps}

    def load_state_dict(self, state: dict) -> None:
        self.weights, self.steps = dict(state["weights"]), state["steps"]


class GradNorm(_Shares):
    """lambda_k = sum_j |grad L_j| / |grad L_k| over the parameters: weighted gradients of equal norms.

    Every `every` steps, from the first on, lambda_k <- decay lambda_k + (1 - decay) times that, from 1; a term whose
    gradient is below 1e-9 of the sum keeps its weight, and all do where the sum is not finite.

    Args:
        every: steps between two updates; one costs a backward pass per term.
        decay: of the moving average; 0 forgets.
    Raises:
        ValueError: every < 1, or a decay outside [0, 1).
    Source: Wang et al. 2023 (arXiv 2308.08468), algorithm 1.
    """

    def _read(self, terms, residuals, generator) -> dict[str, Tensor]:
        return terms

    def _size(self, norm: float, n: int) -> float:
        return norm


class NTK(_Shares):
    """lambda_k = sum_j tr K_j / tr K_k, for equal rates of convergence by the neural tangent kernel.

    tr K_k is the mean of |grad r|^2 over the n residuals of term k, as in 2308.08468, not their sum; its unbiased
    estimate is |grad (v . r)|^2 / n with random signs v. Two draws of an interior are residuals alike, and include the
    variance of the operator. A term without residuals, such as a problem's own, keeps the weight 1.

    Updates, arguments and errors are those of GradNorm; 1e-9 is here of the sum of the traces.
    Source: Wang, Yu, Perdikaris 2022 (arXiv 2007.14527).
    """

    def _read(self, terms, residuals, generator) -> dict[str, Tensor]:
        return {name: _signed_sum(r, generator) for name, r in residuals.items()}

    def _size(self, norm: float, n: int) -> float:
        return norm**2 / n


def ntk_trace(r: Tensor, parameters: Sequence[Tensor], generator: torch.Generator) -> float:
    """An unbiased estimate of the mean of |grad r_i|^2 over all entries of r: |grad (v . r)|^2 / n, v of signs."""
    return _norm(_gradients(_signed_sum(r, generator), parameters)) ** 2 / r.numel()


def _signed_sum(r: Tensor, generator: torch.Generator) -> Tensor:
    """v . r of random signs v."""
    signs = torch.randint(2, r.shape, generator=generator, device=r.device, dtype=r.dtype) * 2 - 1
    return (signs * r).sum()


def _gradients(y: Tensor, parameters: Sequence[Tensor]) -> Gradients:
    """dy / d parameters, None where y does not depend on one; the graph stays."""
    if not y.requires_grad:
        return (None,) * len(parameters)
    return torch.autograd.grad(y, parameters, retain_graph=True, allow_unused=True)


def _norm(gradients: Gradients) -> float:
    """Of all of them together, 0 where there are none."""
    norms = [torch.linalg.vector_norm(g) for g in gradients if g is not None]
    return torch.linalg.vector_norm(torch.stack(norms)).item() if norms else 0.0


class ReLoBRaLo(Balance):
    r"""Relative loss balancing with random lookback: larger weights for terms that decrease more slowly.

    lambda <- decay lambda' + (1 - decay) b(last), with b_k(then) = m softmax_k(L_k / (temperature L_k(then))) over the
    m terms; lambda' is the lambda before with the probability `lookback`, otherwise b(first). The weights sum to m;
    they begin at 1, and again where the terms are others.

    Args:
        temperature: towards 0 the slowest term alone counts, towards infinity all alike.
        decay: of the moving average, alpha of the paper.
        lookback: the probability to keep the average, the mean of the paper's rho.
    Raises:
        ValueError: a temperature <= 0, a decay outside [0, 1) or a lookback outside [0, 1].
    Source: Bischof, Kraus 2021 (arXiv 2110.09813).
    """

    def __init__(self, temperature: float = 1.0, decay: float = 0.999, lookback: float = 0.999):
        if not temperature > 0:
            raise ValueError(f"temperature is positive, given {temperature}")
        if not 0 <= lookback <= 1:
            raise ValueError(f"lookback is a probability, given {lookback}")
        self.temperature, self.decay, self.lookback = temperature, _checked(decay), lookback
        self.weights: dict[str, float] = {}
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def update_by_parts(self, parts: Parts, parameters: Sequence[Tensor], generator: torch.Generator) -> None:
        """Read one step whose terms are the sums over parts."""
        sums: dict[str, float] = {}
        for terms, _ in parts:
            sums |= {name: sums.get(name, 0.0) + term.item() for name, term in terms.items()}
        (joint,) = self.world.sum([torch.tensor(list(sums.values()), dtype=torch.float64)])
        values = {name: abs(value) for name, value in zip(sums, joint.tolist(), strict=True)}
        if values.keys() != self.weights.keys():
            self.weights, self.first, self.last = dict.fromkeys(values, 1.0), values, values
            return
        drawn = self.world.of_first(torch.rand((), generator=generator, device=generator.device))
        kept = drawn.item() < self.lookback
        history = self.weights if kept else self._balanced(values, self.first)
        recent = self._balanced(values, self.last)
        self.weights = {name: self.decay * history[name] + (1 - self.decay) * recent[name] for name in values}
        self.last = values

    def _balanced(self, now: dict[str, float], then: dict[str, float]) -> dict[str, float]:
        """m softmax(L / (temperature L(then))), finite where a loss was zero."""
        tiny, huge = torch.finfo(torch.float64).tiny, torch.finfo(torch.float64).max
        ratios = [value / max(self.temperature * then[name], tiny) for name, value in now.items()]
        shares = torch.tensor(ratios, dtype=torch.float64).clamp(max=huge).softmax(0)
        return dict(zip(now, (len(now) * shares).tolist(), strict=True))

    def state_dict(self) -> dict:
        return {"weights": dict(self.weights), "first": dict(self.first), "last": dict(self.last)}

    def load_state_dict(self, state: dict) -> None:
        self.weights, self.first, self.last = dict(state["weights"]), dict(state["first"]), dict(state["last"])


class Emphasis:
    """What emphases derive from.

    Attributes:
        reads_time: it is made with the length of time, and the coordinate that is time.
        knows_points: it weighs points that stay.
        by_point: the names in its state_dict that have a row for each of these points.
        world: the processes of the run, each of which updates it with points of its own: what weighs one point beside
            others is summed over it, or is the largest of it.
    """

    reads_time = False
    knows_points = False
    by_point: tuple[str, ...] = ()
    world: World = ALONE


class RBA(Emphasis):
    r"""Residual-based attention: lambda_i <- decay lambda_i + rate |r_i| / max |r|, from 0 before the first update.

    lambda_i multiplies the residual, so `weights` are lambda_i^2, normalised by nothing: at a point whose residual
    stays the largest they grow to (rate / (1 - decay))^2. lambda_i belongs to a point by its position in x, and begins
    anew when x holds other points: a method for points that stay, which others would only rescale.

    Args:
        rate: eta of the paper.
        decay: gamma of the paper.
    Raises:
        ValueError: a rate <= 0, or a decay outside [0, 1).
    Source: Anagnostopoulos et al. 2023 (arXiv 2307.00379).
    """

    knows_points = True
    by_point = ("points", "attention")

    def __init__(self, rate: float = 0.01, decay: float = 0.999):
        if not 0 < rate < float("inf"):
            raise ValueError(f"rate is positive and finite, given {rate}")
        self.rate, self.decay = rate, _checked(decay)
        self.points: Tensor | None = None
        self.attention: Tensor | None = None

    def weights(self, x: Tensor) -> Tensor | None:
        """lambda_i^2 (N,) of the points x (N, d) of the last update; None for others."""
        return self.attention.square() if self._knows(x) else None

    def update(self, x: Tensor, r: Tensor) -> None:
        """Read the residuals r (N,) of the points x (N, d); ValueError for another shape."""
        size = _matching(x, r).abs()
        if not self._knows(x):
            self.points, self.attention = x.detach().clone(), torch.zeros_like(size)
        largest = self.world.largest(size.max()).clamp_min(torch.finfo(size.dtype).tiny)
        self.attention = self.decay * self.attention + self.rate * size / largest

    def _knows(self, x: Tensor) -> bool:
        p = self.points
        return p is not None and (p.shape, p.dtype) == (x.shape, x.dtype) and torch.equal(p, x)

    def state_dict(self) -> dict:
        return {"points": self.points, "attention": self.attention}

    def load_state_dict(self, state: dict, device: torch.device | str = "cpu") -> None:
        self.points, self.attention = _on(device, state["points"]), _on(device, state["attention"])


class Causal(Emphasis):
    r"""Causal weights: w_m = exp(-epsilon sum_{j < m} L_j) for time bin m, 1 in the first and never increasing.

    L_j is the mean square residual of the points in bin j of [0, time], a moving average over the steps that had points
    there; a bin that has had none adds 0. The sum has no time step in it: twice the bins ask for half the epsilon.

    Args:
        dim_time: the coordinate of x that is time; of a Cylinder the last.
        bins: M of the paper, of equal width.
        epsilon: of the paper; 0 weighs all alike.
        time: the end of time, domain.time of a Cylinder.
        decay: of the moving average; 0 keeps the last step alone.
    Raises:
        ValueError: bins < 1, an epsilon < 0, a time <= 0, or a decay outside [0, 1).
    Source: Wang, Sankaran, Perdikaris 2022 (arXiv 2203.07404).
    """

    reads_time = True

    def __init__(self, dim_time: int = -1, bins: int = 16, epsilon: float = 1.0, time: float = 1.0, decay: float = 0.9):
        if bins < 1:
            raise ValueError(f"bins is a number >= 1, given {bins}")
        if not 0 <= epsilon < float("inf"):
            raise ValueError(f"epsilon is at least 0 and finite, given {epsilon}")
        if not 0 < time < float("inf"):
            raise ValueError(f"time is positive and finite, given {time}")
        self.dim_time, self.bins, self.epsilon, self.time, self.decay = dim_time, bins, epsilon, time, _checked(decay)
        self.losses: Tensor | None = None  # (bins,), nan where there were no points yet

    def weights(self, x: Tensor) -> Tensor | None:
        """w (N,) at the points x (N, d); None before the first update."""
        if self.losses is None:
            return None
        before = torch.ones(self.bins, self.bins, device=x.device, dtype=x.dtype).tril(-1)
        return torch.exp(-self.epsilon * (before * self.losses.nan_to_num()).sum(1))[self._bin(x)]

    def update(self, x: Tensor, r: Tensor) -> None:
        """Read the residuals r (N,) of the points x (N, d); ValueError for another shape."""
        square = _matching(x, r).square()
        inside = self._bin(x).unsqueeze(1) == torch.arange(self.bins, device=x.device)
        count, total = self.world.sum([inside.sum(0), (inside * square.unsqueeze(1)).sum(0)])
        new = total / count
        old = torch.full_like(new, torch.nan) if self.losses is None else self.losses
        moved = torch.where(old.isnan(), new, self.decay * old + (1 - self.decay) * new)
        self.losses = torch.where(count > 0, moved, old)

    def _bin(self, x: Tensor) -> Tensor:
        """The number of the bin of each point (N,); before 0 the first, after `time` the last."""
        return (x.detach()[:, self.dim_time] * (self.bins / self.time)).long().clamp(0, self.bins - 1)

    def state_dict(self) -> dict:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict, device: torch.device | str = "cpu") -> None:
        self.losses = _on(device, state["losses"])


def _matching(x: Tensor, r: Tensor) -> Tensor:
    """r, detached, one number per point."""
    if r.shape != x.shape[:1]:
        raise ValueError(f"an emphasis reads one residual per point, given {tuple(r.shape)} for {tuple(x.shape)}")
    return r.detach()


def _checked(decay: float) -> float:
    if not 0 <= decay < 1:
        raise ValueError(f"decay is at least 0 and below 1, given {decay}")
    return decay


def _on(device: torch.device | str, t: Tensor | None) -> Tensor | None:
    return None if t is None else t.to(device)


BALANCES = {"gradnorm": GradNorm, "ntk": NTK, "relobralo": ReLoBRaLo}
EMPHASES = {"rba": RBA, "causal": Causal}
