#!/usr/bin/env bash
# One would guess that the option spline_order of flashkan's layers is the degree of the splines, as its page says, or is
# refused where it is not 3.
# It changes how many functions there are and where they start; the functions are cubic for every order. On the grid
# they then do not sum to 1: at order 1 the sum falls to 1/6 at its left end. Nothing raises or warns. At the order 3
# the sum is right to 3.5e-5 (float32), and far to the right of the grid, where all splines are 0, what is left of
# differences of cubes is not: at x = 100 it is of the size of a spline.
# It matters to users of kanpde who hold a layer of other orders against flashkan's: it is another function.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6 flashkan==0.2.0
TORCHDYNAMO_DISABLE=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from flashkan import KANLayer, __version__


def sums(order, x):
    """Of all splines of an order at x, on the grid [-1, 1]."""
    layer = KANLayer(1, 1, spline_order=order)
    torch.nn.init.ones_(layer.spline_weight)
    torch.nn.init.zeros_(layer.base_weight)
    with torch.no_grad():
        return layer(x.unsqueeze(1)).squeeze(1)


print("flashkan", __version__, "torch", torch.__version__)
on_grid, deviation = torch.linspace(-1, 1, 201), {}
for order in (1, 2, 3):
    deviation[order] = (sums(order, on_grid) - 1).abs().max().item()
    print(f"spline_order={order}: the splines sum to 1 on the grid but for {deviation[order]:.1e}")
far = sums(3, torch.tensor([100.0])).item()
print(f"spline_order=3: at x = 100 they sum to {far:.3f}")
as_found = deviation[1] > 0.8 and deviation[2] > 0.1 and deviation[3] < 1e-4 and abs(far) > 0.1
sys.exit(0 if as_found else "flashkan behaves differently now")
PYTHON
