#!/usr/bin/env bash
# One would guess that points on the boundary of a plate with a hole are uniform, as those of the plate are.
# DeepXDE draws as many on the boundary of either part, whatever its length: of a hole that has 7 % of the boundary half
# of all points, so that the condition there weighs 13 times as much as on the sides of the plate. Union, difference
# and intersection alike; nothing is said.
# It matters to users of kanpde who compare the two on such domains, or bring points from there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q deepxde==1.15.0 torch==2.13.0 numpy==2.4.6
HOME="$folder" DDE_BACKEND=pytorch "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import math
import sys

import deepxde as dde
import numpy as np

print("deepxde", dde.__version__)
np.random.seed(0)
plate = dde.geometry.Rectangle([0, 0], [10, 10]) - dde.geometry.Disk([5, 5], 0.5)
x = plate.random_boundary_points(4000)
share = float((np.hypot(*(x - 5).T) < 1).mean())
by_length = math.pi / (math.pi + 40)
print(f"points on the hole {share:.3f}, its share of the length {by_length:.3f}")
sys.exit(0 if 0.45 < share < 0.55 else "deepxde behaves differently now")
PYTHON
