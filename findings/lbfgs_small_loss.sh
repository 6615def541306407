#!/usr/bin/env bash
# One would guess that L-BFGS minimises 1e-6 f as it minimises f: the method does not know the scale of the loss.
# torch.optim.LBFGS stops where the slope along its direction is above -1e-9 or the loss changes by less than 1e-9
# (tolerance_change), both absolute and in float64 as in float32. Its first direction is the gradient, so with a
# gradient below 3e-5 it returns after one evaluation, has changed nothing, and says nothing.
# It matters to users of kanpde: mean squared residuals of 1e-8 and less are what float64 is for, and the phase that is
# to polish them does nothing. Both tolerances have to be 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


def reached(scale, **tolerances):
    """Evaluations of scale * Rosenbrock's function in one step of at most 200 iterations, and f at the end."""
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=200, line_search_fn="strong_wolfe", **tolerances)
    f = lambda: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    count = 0

    def closure():
        nonlocal count
        count += 1
        optimizer.zero_grad()
        loss = scale * f()
        loss.backward()
        return loss

    optimizer.step(closure)
    print(f"{scale:g} f {tolerances or 'as it is'}: {count} evaluations, f from 4 to {f().item():.3g}")
    return count, f().item()


print("torch", torch.__version__)
whole, small = reached(1.0), reached(1e-6)
polished = reached(1e-6, tolerance_grad=0, tolerance_change=0)
held = whole[1] < 1e-6 and small == (1, 4.0) and polished[1] < 1e-6
sys.exit(0 if held else "torch behaves differently now")
PYTHON
