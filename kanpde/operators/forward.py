"""The exact operator: one jet through the network, one ordinary backward pass."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from kanpde.jets.ansatz import Ansatz
from kanpde.jets.gram import Diagonal, Part
from kanpde.jets.jet import Jet, push
from kanpde.jets.tracing import compiler_settings, in_torch_func
from kanpde.operators.base import Operator

RECOMPILATIONS = 256  # at most: one for each network and number of points
COMPILE_SINCE = (2, 11)  # version of torch: older ones do not trace the layers (2.6), or were not tried
ACTIVATIONS = 0.7  # share of the activations that a compiled step saves for its backward pass; the rest comes again


def input_jet(x: Tensor, gram, directions: Tensor | None) -> Jet:
    along = None if directions is None else directions.expand(len(x), -1, -1)
    return Jet(x, along, gram)


def pushed(net: nn.Module, x: Tensor, gram, directions: Tensor | None, reads_grad_sq: bool = True) -> Jet:
    """The jet of net(x), from the Gram form of S (None: no second derivatives)."""
    if gram is None and directions is None:
        return scalar(Jet(net(x)), False, False)
    jet = push(net, input_jet(x, gram, directions), Part.FULL if reads_grad_sq else Part.NONE)
    return scalar(jet, gram is not None, reads_grad_sq)


def scalar(jet: Jet, second: bool, reads_grad_sq: bool) -> Jet:
    """Matrices instead of Gram forms, and no feature axis where there is but one feature."""
    gram = jet.gram.dense() if jet.gram is not None and reads_grad_sq else None
    lap = jet.lap
    if second:  # second derivatives were asked for: those of an affine function are zero
        lap = torch.zeros_like(jet.value) if lap is None else lap.expand(len(jet.value), -1)
    if gram is not None:
        gram = gram.expand(len(jet.value), -1, -1)
    if jet.value.shape[-1] > 1:
        return Jet(jet.value, jet.along, gram, lap)
    drop = lambda t: None if t is None else t.squeeze(-1)
    return Jet(drop(jet.value), drop(jet.along), drop(drop(gram)), drop(lap))


@dataclass(frozen=True)
class Forward(Operator):
    """Exact L u = sum_i s_i d^2 u / dx_i^2, |grad u|_S^2 and directional derivatives in one forward pass.

    Cost of a KAN [d, n, ..., 1] per point: 3 D n d + n^2 d for the first layer and O(n^3) for each other, so beyond
    the first layer nothing depends on d. Needs a jet rule for every module of the network (`kanpde.jets.jet`).

    Args:
        compile: torch.compile the pass where gradients are recorded (a training step); the first call then takes half a
            minute. Layers too wide to be held whole stay streamed.
    Raises:
        ValueError: compile with a torch older than 2.11.
    Source: second-order chain rule; forward Laplacian (Li et al. 2023, arXiv 2307.08214) with J S J^T instead of J.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
        >>> Forward()(net, torch.zeros(2, 3)).lap.shape
        torch.Size([2])
    """

    compile: bool = False
    exact = needs_rules = compiles = transforms = shares = True

    def __post_init__(self):
        if self.compile and torch.__version__ < COMPILE_SINCE:
            needed = ".".join(map(str, COMPILE_SINCE))
            raise ValueError(f"compile: given true, needed is torch {needed} or newer, here is {torch.__version__}")

    def estimate(
        self,
        u: Callable[[Tensor], Tensor],
        x: Tensor,
        s: Tensor | None,
        directions: Tensor | None,
        generator: torch.Generator | None,
    ) -> Jet:
        if isinstance(u, Ansatz):
            return u.jet(partial(self._push, reads_grad_sq=u.problem.reads.grad_sq), x, s, directions)
        return self._push(u, x, s, directions)

    def _push(self, net: nn.Module, x: Tensor, s, directions, reads_grad_sq: bool = True) -> Jet:
        training = torch.is_grad_enabled() and not in_torch_func()
        run = compiled(pushed, graphs=x.is_cuda) if self.compile and training else pushed
        return run(net, x, None if s is None else Diagonal(s), directions, reads_grad_sq)


@cache
def compiled(function: Callable, graphs: bool, whole: bool = False) -> Callable:
    """`function`, compiled for the shapes it meets; with `graphs` replayed as CUDA graphs.

    Of a function that is to be compiled `whole`, and cannot be, torch raises its TorchDynamoException.
    """
    made = torch.compile(function, dynamic=False, fullgraph=whole, mode="reduce-overhead" if graphs else None)

    def run(*args):
        with compiler_settings(RECOMPILATIONS, ACTIVATIONS):
            return made(*args)

    return run
