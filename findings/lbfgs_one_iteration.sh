#!/usr/bin/env bash
# One would guess that torch.optim.LBFGS with max_iter=1, for a line of the log per iteration, does one iteration a step.
# With line_search_fn="strong_wolfe" it does none, ever. max_eval is max_iter * 5 // 4 unless it is given, here 1; the
# gradient uses that one up, so the line search is left no try and the weights stay what they were. Two iterations a
# step, or a max_eval of one's own, work.
# It matters to users of kanpde who write the last phase of a training themselves: it costs time, changes no weight, and
# looks like a minimum.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch


def reached(**options):
    """Rosenbrock's function (4 at the start) after 100 steps."""
    x = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], line_search_fn="strong_wolfe", **options)

    def closure():
        optimizer.zero_grad()
        loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        loss.backward()
        return loss

    for _ in range(100):
        optimizer.step(closure)
    print(f"{options}: f from 4 to {closure().item():.3g}, x = {x.tolist()}")
    return closure().item()


print("torch", torch.__version__)
one, two, one_with_tries = reached(max_iter=1), reached(max_iter=2), reached(max_iter=1, max_eval=25)
sys.exit(0 if one == 4 and max(two, one_with_tries) < 1e-6 else "torch behaves differently now")
PYTHON
