"""Random numbers as points: uniform or Sobol, directions, named generators, and the pool that says when to redraw."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

SEQUENCES = ("random", "sobol")
SOBOL_MAX_DIM = 21_201  # torch.quasirandom.SobolEngine.MAXDIM


def stream(seed: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each purpose, derived from (seed, name): streams do not disturb each other."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def uniforms(n: int, dim: int, generator: torch.Generator, sequence: str = "random", dtype=None) -> Tensor:
    """n points uniform in the unit cube (n, dim), plain or Sobol (scrambled anew at each call).

    Raises:
        ValueError: an unknown sequence, or Sobol in more than 21 201 dimensions.
    """
    dtype = dtype or torch.get_default_dtype()
    if sequence == "random":
        return torch.rand(n, dim, generator=generator, device=generator.device, dtype=dtype)
    if sequence != "sobol":
        raise ValueError(f"sequence {sequence!r} is not one of {', '.join(SEQUENCES)}")
    if dim > SOBOL_MAX_DIM:
        raise ValueError(f"Sobol points have at most {SOBOL_MAX_DIM} dimensions, given {dim}: use sequence: random")
    seed = torch.randint(2**31, (1,), generator=generator, device=generator.device).item()
    engine = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed)
    return engine.draw(n, dtype=dtype).to(generator.device)


def gaussians(n: int, dim: int, generator: torch.Generator, sequence: str = "random", dtype=None) -> Tensor:
    """n points of the standard normal distribution (n, dim), plain or the quantiles of Sobol points."""
    if sequence == "random":
        return torch.randn(n, dim, generator=generator, device=generator.device, dtype=dtype)
    return _quantiles(uniforms(n, dim, generator, sequence, dtype))


def _quantiles(uniform: Tensor) -> Tensor:
    tiny = torch.finfo(uniform.dtype).eps
    return torch.special.ndtri(uniform.clamp(tiny, 1 - tiny))


def directions(n: int, dim: int, generator: torch.Generator, uniform: Tensor | None = None, dtype=None) -> Tensor:
    """n unit vectors (n, dim), uniform on the sphere: normalised Gaussians, of `uniform` points (n, dim) if given."""
    g = gaussians(n, dim, generator, dtype=dtype) if uniform is None else _quantiles(uniform)
    return g.div_(torch.linalg.vector_norm(g, dim=1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny))


class Pool:
    """Points that are drawn anew every `refresh` calls (1: every step), or once (`fixed`); none while `frozen`."""

    def __init__(self, draw: Callable[[], Tensor], refresh: int | str = 1):
        self.draw, self.refresh = draw, refresh
        self.frozen = False
        self.points: Tensor | None = None
        self.age = 0

    def __call__(self) -> Tensor:
        """The points of this step."""
        stale = self.refresh != "fixed" and self.age >= self.refresh and not self.frozen
        if self.points is None or stale:
            self.points, self.age = self.draw(), 0
        self.age += 1
        return self.points

    def forget(self) -> None:
        """Draw others at the next call."""
        self.points, self.age = None, 0

    def freeze(self) -> None:
        """Draw once more at the next call, unless they are fixed, and then keep the points."""
        self.frozen, self.points = True, self.points if self.refresh == "fixed" else None

    def thaw(self) -> None:
        self.frozen = False

    def state_dict(self) -> dict:
        passing = self.refresh == 1 and not self.frozen
        return {"points": None if passing else self.points, "age": self.age, "frozen": self.frozen}

    def load_state_dict(self, state: dict, device: torch.device | str = "cpu") -> None:
        points = state["points"]
        self.points = None if points is None else points.to(device)
        self.age, self.frozen = state["age"], state["frozen"]


def resampled(
    candidates: Tensor,
    residual: Tensor,
    n: int,
    generator: torch.Generator,
    power: float = 1.0,
    offset: float = 1.0,
) -> Tensor:
    """n of the candidates (M, d) without replacement, p_i proportional to |r_i|^power / mean |r|^power + offset.

    Residual-adaptive distribution (RAD) for residuals r (M,): power = 0 or a large offset is uniform, a large power
    takes the largest |r|.

    Raises:
        ValueError: n > M, a residual that is not (M,) or not finite, a negative power or offset.
    Source: Wu et al. 2023 (arXiv 2207.10289), with k = power and c = offset.
    """
    if n > len(candidates):
        raise ValueError(f"{n} points cannot be drawn from {len(candidates)} candidates")
    if residual.shape != candidates.shape[:1] or not residual.isfinite().all():
        raise ValueError(f"a residual is one finite number per candidate, given shape {tuple(residual.shape)}")
    if not 0 <= power < float("inf") or not 0 <= offset < float("inf"):
        raise ValueError(f"power and offset are at least 0 and finite, given {power} and {offset}")
    size, tiny = residual.detach().abs(), torch.finfo(residual.dtype).tiny
    share = (size / size.max().clamp_min(tiny)) ** power
    p = (share / share.mean().clamp_min(tiny) + offset).clamp_min(tiny)
    return candidates[torch.multinomial(p, n, generator=generator)]
