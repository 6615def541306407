#!/usr/bin/env bash
# One would guess that Sobol points lie in [0, 1), like torch.rand.
# torch's SobolEngine counts in steps of 2^-30. In float32, the default, the 32 uppermost of them round to 1.0, so that
# scrambled points have a coordinate of exactly 1 once in 2^25; in float64 they never have. 2048 points in 100
# dimensions, redrawn every step, meet it about every 160 steps.
# It matters to users of kanpde who draw points themselves: the normal quantile of such a point is infinite, log(1 - x)
# too, and one point makes the loss of the whole step NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)
draw = lambda dtype: torch.quasirandom.SobolEngine(100, scramble=True, seed=174).draw(2048, dtype=dtype)
single, double = draw(torch.float32), draw(torch.float64)
ones = (single == 1).nonzero().tolist()
infinite = torch.special.ndtri(single).isinf().sum().item()
print(f"float32: coordinates that are 1 (point, axis) {ones}; infinite normal quantiles: {infinite}")
print(f"float64: largest coordinate 1 - {1 - double.max().item():.3g}")
sys.exit(0 if ones and infinite == len(ones) and double.max() < 1 else "torch behaves differently now")
PYTHON
