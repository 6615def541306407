#!/usr/bin/env bash
# One would guess that an optimiser takes a learning rate of 0: torch.optim.LBFGS accepts it when it is made, Adam steps
# with it, and schedules such as CosineAnnealingLR and PolynomialLR arrive there.
# With line_search_fn="strong_wolfe" such a step raises ZeroDivisionError, since the line search divides by the length
# of its first interval. Only the very first step of an optimiser does not, whose first try is not the rate alone.
# It matters to users of kanpde who end a training of their own with L-BFGS: a step more than the schedule has, or a
# rate that was halved until it underflowed, ends the run in a traceback instead of in a step that changes nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)
x = torch.tensor([-1.0, 1.0], dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.LBFGS([x], max_iter=5, line_search_fn="strong_wolfe")
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)


def closure():
    optimizer.zero_grad()
    loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
    loss.backward()
    return loss


raised = []
for step in range(6):
    rate = optimizer.param_groups[0]["lr"]
    try:
        print(f"step {step}, rate {rate:.3f}: loss {optimizer.step(closure).item():.4f}")
    except ZeroDivisionError as error:
        raised.append(rate)
        print(f"step {step}, rate {rate:.3f}: ZeroDivisionError, {error}")
    schedule.step()
sys.exit(0 if raised == [0.0] else "torch behaves differently now")
PYTHON
