#!/usr/bin/env bash
# One would guess that numpy's Gauss-Hermite rule gets better with more nodes, or raises where it ends. (Its page says
# that it was tested up to 100 nodes.)
# Up to 370 nodes the weights are right to the last digits, at 371 all of them are 0, from 372 on the inner ones are NaN
# and the outer ones 0: the sum by which all are divided has overflowed. There is a RuntimeWarning; nothing raises.
# It matters to users of kanpde because the Cole-Hopf reference of Burgers' equation is such a quadrature: the whole
# reference is NaN, and so is every error that is measured against it. 100 to 200 nodes are enough for it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import warnings

import numpy as np
from numpy.polynomial.hermite import hermgauss

print("numpy", np.__version__)
found = {}
for n in (100, 360, 371, 400):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _, w = hermgauss(n)
    found[n] = int(np.isnan(w).sum()), np.nansum(w)
    print(f"{n} nodes: {found[n][0]} weights are NaN, sum of the others {found[n][1]:.15f}, {len(said)} warnings")
print(f"sqrt(pi) = {np.pi**0.5:.15f}")
right = {n: nan == 0 and abs(total - np.pi**0.5) < 1e-12 for n, (nan, total) in found.items()}
sys.exit(0 if right == {100: True, 360: True, 371: False, 400: False} else "numpy behaves differently now")
PYTHON
