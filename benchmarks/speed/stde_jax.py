"""An MLP trained with the published stochastic Taylor estimator (STDE), in JAX; no torch is imported here.

`benchmarks.gpu` runs this in a process of its own, which prints a line of JSON per result:

    python -m benchmarks.stde_jax check ARRAYS.npz      u, its Laplacian from all dimensions, and the source at points
    python -m benchmarks.stde_jax speed ARRAYS.npz      training steps a second and peak memory
    python -m benchmarks.stde_jax error ARRAYS.npz      seconds of training to relative l2 errors

ARRAYS.npz has the coefficients c of the exact solution, and points with what kanpde computed there. The estimator
is the sparse one of Shi et al., NeurIPS 2024 (arXiv 2412.00088), as in the `sine_gordon.py` of their code: unit vectors
e_j, sampled without replacement and the same for all points of a step, and jets of u along them. Their loss squares one
estimate, which adds its variance. Residuals divided by 2 d and Xavier-normal weights are as on kanpde's side; Adam and
the linear decay of its rate are theirs.
"""

import argparse
import json
import os
import sys
from functools import partial
from math import sqrt

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # peak memory is then what was used

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet

from benchmarks.common.timing import rates, to_targets

WIDTHS = (128, 128, 128)
BETAS, EPS = (0.9, 0.999), 1e-8


# ---------------------------------------------------------------------------------------------------------------
# The problem: Allen-Cahn, two-body solution, all at one point x (d,)


def source(c, x):
    """g = Lap v + v - v^3 for v = (1 - |x|^2) f, f = sum_i c_i sin(a + cos b + b cos a), a = x_i, b = x_i+1."""
    a, b = x[:-1], x[1:]
    s = a + jnp.cos(b) + b * jnp.cos(a)
    p, q = 1 - b * jnp.sin(a), jnp.cos(a) - jnp.sin(b)  # ds/da, ds/db
    sine, cosine = c * jnp.sin(s), c * jnp.cos(s)
    f = jnp.sum(sine)
    radial = jnp.sum(cosine * (a * p + b * q))  # x . grad f
    lap = -jnp.sum(sine * (p**2 + q**2) + cosine * (b * jnp.cos(a) + jnp.cos(b)))
    m = 1 - jnp.sum(x**2)
    v = m * f
    return m * lap - 4 * radial - 2 * len(x) * f + v - v**3


def u(params, x):
    """(1 - |x|^2) times the MLP."""
    h = x
    for w, b in params[:-1]:
        h = jnp.tanh(h @ w + b)
    w, b = params[-1]
    return (1 - jnp.sum(x**2)) * (h @ w + b)[0]


def value_and_laplacian(params, x, index):
    """u, and the estimate d / |J| sum_{j in J} d^2u/dx_j^2 of Lap u for the dimensions J in `index`."""

    def along(v):
        value, (_, second) = jet(partial(u, params), (x,), ((v, jnp.zeros_like(x)),))
        return value, second

    values, seconds = jax.vmap(along)(jax.nn.one_hot(index, len(x), dtype=x.dtype))
    return values[0], len(x) * jnp.mean(seconds)


def loss(params, c, x, index):
    """Mean square of the residual / (2 d) at points x (N, d)."""
    value, lap = jax.vmap(value_and_laplacian, (None, 0, None))(params, x, index)
    g = jax.vmap(source, (None, 0))(c, x)
    return jnp.mean(((lap + value - value**3 - g) / (2 * x.shape[1])) ** 2)


# ---------------------------------------------------------------------------------------------------------------
# Training


def initial(dim, seed=0):
    """Parameters, both averages of Adam, the number of steps, the random key."""
    sizes = (dim, *WIDTHS, 1)
    key, *keys = jax.random.split(jax.random.key(seed), len(sizes))
    params = [
        (sqrt(2 / (n_in + n_out)) * jax.random.normal(k, (n_in, n_out)), jnp.zeros(n_out))
        for k, n_in, n_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    zeros = jax.tree.map(jnp.zeros_like, params)
    return params, zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros(()), key


def interior(key, n, dim):
    """Points (n, dim) of the unit ball: uniform direction, uniform |x|."""
    of_direction, of_radius = jax.random.split(key)
    x = jax.random.normal(of_direction, (n, dim))
    return jax.random.uniform(of_radius, (n, 1)) * x / jnp.linalg.norm(x, axis=1, keepdims=True)


def step_for(dim, points, sampled, lr, steps):
    """A function (state, c) -> state: fresh points and dimensions, one update of Adam, lr falling to 0 over `steps`."""

    def step(state, c):
        params, mean, square, count, key = state
        key, of_points, of_dims = jax.random.split(key, 3)
        x = interior(of_points, points, dim)
        index = jax.random.choice(of_dims, dim, (sampled,), replace=False)
        grads = jax.grad(loss)(params, c, x, index)
        rate, count = lr * (1 - count / steps), count + 1
        mean = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, mean, grads)
        square = jax.tree.map(lambda s, g: BETAS[1] * s + (1 - BETAS[1]) * g**2, square, grads)
        unbias = 1 - BETAS[0] ** count, 1 - BETAS[1] ** count
        moved = lambda p, m, s: p - rate * (m / unbias[0]) / (jnp.sqrt(s / unbias[1]) + EPS)
        return jax.tree.map(moved, params, mean, square), mean, square, count, key

    return jax.jit(step, donate_argnums=0)


class Training:
    """A state and the compiled step that advances it."""

    def __init__(self, c, args):
        self.c, self.state = jnp.asarray(c, jnp.float32), initial(len(c) + 1)
        step = step_for(len(c) + 1, args.points, min(args.sampled, len(c) + 1), args.lr, args.steps)
        self.step = step.lower(self.state, self.c).compile()

    def run(self, n):
        for _ in range(n):
            self.state = self.step(self.state, self.c)
        jax.block_until_ready(self.state)

    def peak_bytes(self):
        """The most this process has had on the device; on a CPU what the compiled step needs beside its arguments."""
        stats = jax.devices()[0].memory_stats()
        if stats is not None:
            return stats["peak_bytes_in_use"], "peak_bytes_in_use"
        plan = self.step.memory_analysis()
        return (None, "n/a") if plan is None else (plan.temp_size_in_bytes, "temporaries of the compiled step alone")


def deviation(found, wanted):
    return float(np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max())


def check(arrays, args):
    """Largest deviations from kanpde's float64 values, relative to the largest value: in float64, then in float32."""
    jax.config.update("jax_enable_x64", True)
    every, layers = np.arange(arrays["x"].shape[1]), range(len(WIDTHS) + 1)
    for bits in ("float64", "float32"):
        x, c = (jnp.asarray(arrays[name], bits) for name in ("x", "c"))
        params = [tuple(jnp.asarray(arrays[f"{name}{i}"], bits) for name in ("weight", "bias")) for i in layers]
        with jax.default_matmul_precision("highest"):
            value, lap = jax.vmap(value_and_laplacian, (None, 0, None))(params, x, every)
        found = {"value": value, "lap": lap, "source": jax.vmap(source, (None, 0))(c, x)}
        for name, array in found.items():
            yield {"quantity": f"{name}, {bits}", "deviation": deviation(array, arrays[name])}


def speed(arrays, args):
    training = Training(arrays["c"], args)
    found = rates(training.run, args.seconds)
    peak, note = training.peak_bytes()
    parameters = sum(p.size for p in jax.tree.leaves(training.state[0]))
    yield {"rates": found, "peak_bytes": peak, "parameters": parameters, "note": note}


def error(arrays, args):
    """Seconds and steps to each target, as `timing.to_targets` has them."""
    training = Training(arrays["c"], args)
    x, exact = jnp.asarray(arrays["x"], jnp.float32), arrays["exact"]
    values = jax.jit(jax.vmap(u, (None, 0)))
    training.run(2)
    training.state = initial(x.shape[1])

    def gap():
        found = np.asarray(values(training.state[0], x), np.float64)
        return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))

    yield from to_targets(training.run, gap, args.targets, args.every, args.steps, args.seconds)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="stde_jax", description=__doc__.splitlines()[0])  # study.Parser has torch
    parser.add_argument("job", choices=("check", "speed", "error"))
    parser.add_argument("arrays")
    parser.add_argument("--points", type=int, default=100)
    parser.add_argument("--sampled", type=int, default=16, help="dimensions a step")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--every", type=int, default=50, help="steps from one evaluation to the next")
    parser.add_argument("--seconds", type=float, default=3.0, help="of timed steps, or of the whole training")
    parser.add_argument("--targets", type=float, nargs="*", default=[])
    args = parser.parse_args()
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        sys.exit(f"JAX has no device of the platform {os.environ.get('JAX_PLATFORMS')}")
    with np.load(args.arrays) as stored:
        arrays = dict(stored)
    for row in {"check": check, "speed": speed, "error": error}[args.job](arrays, args):
        print(json.dumps(row), flush=True)
    assert "torch" not in sys.modules  # two frameworks in a process would share the device's memory


if __name__ == "__main__":
    main()
