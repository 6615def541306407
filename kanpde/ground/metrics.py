"""Errors, the errors of functions that learn nothing, and memory."""

import ctypes
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager, suppress
from math import inf, sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

LARGEST = 1e100  # size of numbers whose squares can be added up


def errors(u: Tensor, exact: Tensor) -> dict[str, float]:
    """Relative l2 |u - u*| / |u*|, relative l1 likewise, root mean square and largest |u - u*|, summed in float64."""
    u, exact = u.double(), exact.double()
    gap = (u - exact).abs()
    return {
        "rel_l2": (gap.norm() / exact.norm()).item(),
        "rel_l1": (gap.sum() / exact.abs().sum()).item(),
        "rmse": gap.square().mean().sqrt().item(),
        "linf": gap.max().item(),
    }


def together(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The errors of several fields as one: root mean squares over those that are known, and the largest."""
    known = [errors for errors in each if errors["rmse"] == errors["rmse"]]
    if not known:
        return dict(each[0])
    found = {name: sqrt(sum(errors[name] ** 2 for errors in known) / len(known)) for name in known[0]}
    return found | {"linf": max(errors["linf"] for errors in known)}


# ---------------------------------------------------------------------------------------------------------------
# Floors: what a function without a network reaches on the same points


class Floors:
    """Relative l2 errors of h + m p for polynomials p of the coordinates, from points added block by block.

    `constant` is fitted; `affine`, `additive` (plus squares of coordinates, and up to fourth powers where points allow)
    and `taylor2` (plus products) are the smallest of 1, the Taylor polynomial of (u* - h) / m at 0, and a least-squares
    fit where there are at most a tenth as many unknowns as points. `no_training` is the problem's own guess.

    Args:
        dim: d, coordinates of a point.
        points: how many will be added; 0: there is no fit of more than a constant.
        taylor: value, gradient (d,), Hessian diagonal (d,) and first off-diagonal (d - 1,) of (u* - h) / m at 0, or
            what gives these polynomials by name at points; None: they are not known.
        centre: (d,) of the coordinates, which fits of polynomials are in powers of the distance from; None: 0.
    """

    def __init__(
        self, dim: int, points: int, taylor: tuple | Callable | None = None, centre: Tensor | None = None
    ) -> None:
        self.dim, self.most, self.taylor, self.centre = dim, points // 10, taylor, centre
        self.near: float | None = None  # the constant that fits the first points
        self.sums: dict[str, float] = {}
        self.kept: list[tuple[Tensor, ...]] = []  # all points, where a fit of more than a constant is possible

    def add(self, x: Tensor, exact: Tensor, m: Tensor, h: Tensor, untrained: Tensor | None = None) -> None:
        """Add points x (N, d) with u*, m, h and the untrained guess there, each (N,)."""
        x, exact, m, h = (t.double() for t in (x, exact, m, h))
        target = exact - h
        squares = {"exact": exact, "m": m}
        for name, p in self._taylor_polynomials(x).items():
            squares[name] = m * p - target
        if untrained is not None:
            squares["no_training"] = untrained.double() - exact
        found = {name: t.square().sum().item() for name, t in squares.items()}
        if self.near is None:
            self.near = ((m * target).sum() / m.square().sum().clamp_min(1e-300)).item()
        rest = target - self.near * m  # to fit: a constant is in all families, and squares of it would hide what varies
        found["rest"], found["cross"] = rest.square().sum().item(), (m * rest).sum().item()
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in found.items()}
        if self.dim + 1 <= self.most:
            self.kept.append((x if self.centre is None else x - self.centre.to(x), rest, m))

    def _taylor_polynomials(self, x: Tensor) -> dict[str, Tensor]:
        if self.taylor is None:
            return {}
        if callable(self.taylor):
            return self.taylor(x)
        value, grad, second, off = (torch.as_tensor(t, dtype=x.dtype, device=x.device) for t in self.taylor)
        affine = value + x @ grad
        additive = affine + 0.5 * x.square() @ second
        return {"affine": affine, "additive": additive, "taylor2": additive + (x[:, :-1] * x[:, 1:]) @ off}

    def result(self) -> dict[str, float]:
        """The floors by name."""
        s = self.sums
        fitted = max(s["rest"] - s["cross"] ** 2 / s["m"], 0.0)
        squares = {"constant": fitted}
        for name in ("affine", "additive", "taylor2"):
            squares[name] = min(s["exact"], s.get(name, s["exact"]), self._fitted(name))
        if "no_training" in s:
            squares["no_training"] = s["no_training"]
        return {name: sqrt(value / s["exact"]) for name, value in squares.items()}

    def _fitted(self, name: str) -> float:
        """Least sum of squares over the family, or infinity where there are too few points for it."""
        d = self.dim
        powers = min(4, (self.most - 1) // d)
        unknowns = {"affine": d + 1, "additive": 1 + max(powers, 2) * d, "taylor2": 1 + d + d * (d + 1) // 2}[name]
        if unknowns > self.most:
            return float("inf")
        i, j = torch.triu_indices(d, d)

        def rows(x: Tensor, target: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
            columns = [torch.ones_like(x[:, :1]), x]
            if name == "additive":
                columns += [x**p for p in range(2, powers + 1)]
            if name == "taylor2":
                columns.append(x[:, i] * x[:, j])
            return m.unsqueeze(1) * torch.cat(columns, 1), target

        return _least_squares(rows(*block) for block in self.kept)


def _least_squares(rows: Iterable[tuple[Tensor, Tensor]]) -> float:
    """min |A y - b|^2 for A and b given block by block: normal equations, columns scaled, with a ridge at round-off."""
    normal, right, size = 0.0, 0.0, 0.0
    for a, b in rows:
        normal, right, size = normal + a.mT @ a, right + a.mT @ b, size + b.square().sum().item()
    scale = normal.diagonal().sqrt().clamp_min(1e-300)
    normal, right = normal / scale / scale.unsqueeze(1), right / scale
    normal.diagonal().add_(1e-13)
    y = torch.cholesky_solve(right.unsqueeze(1), torch.linalg.cholesky(normal)).squeeze(1)
    return max(size - (y @ right).item(), 0.0)


# ---------------------------------------------------------------------------------------------------------------
# Memory


class PeakMemory:
    """Peak memory since construction: allocated on a GPU, resident set on a CPU."""

    def __init__(self, device: torch.device):
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")  # Linux: the kernel's high-water mark starts anew
            except OSError:
                pass  # elsewhere the mark covers the whole process

    def bytes(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            status = Path("/proc/self/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else peak * 1024


def resident_bytes() -> int:
    """What this process holds now, where the system says so, else 0."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def available_bytes() -> float:
    """What is free on this machine, caches included, where the system says so, else infinity."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return inf


def give_back() -> None:
    """Return freed memory to the system, which the C library of Linux would keep for the blocks of an evaluation."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def saved_memory(module: nn.Module):
    """Measure what autograd saves for the backward pass in the block: yields a function that returns the bytes.

    Each storage counts once; the module's parameters do not count.
    """
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}  # alive, so that no address is used twice

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        with suppress(RuntimeError):  # a tensor of torch.func is a view of one that has an address
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield lambda: sum(storage.nbytes() for storage in storages.values())
