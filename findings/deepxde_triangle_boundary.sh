#!/usr/bin/env bash
# One would guess that a condition on the whole boundary gets all points that are drawn there.
# Of DeepXDE's Triangle it gets those of sides alone whose length is a number in single precision: of the right-angled
# triangle (0, 0), (0, 2), (1, 0) none on the slanted side, of length sqrt(5), and there the solution is free. Lengths
# are kept in single precision, and points are in double as soon as some are of the interior too, so that on_boundary
# compares with a tolerance of 1e-8. Nothing is said. A Polygon of the same shape gets all of them, and so does the
# Triangle with the default float float64.
# It matters to users of kanpde: a network of kanpde.adapters trains on such points, and a comparison with DeepXDE on a
# triangle is one with another problem.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q deepxde==1.15.0 torch==2.13.0 numpy==2.4.6
HOME="$folder" DDE_BACKEND=pytorch "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import deepxde as dde
import numpy as np

CORNERS = [0, 0], [0, 2], [1, 0]


def counted(geometry):
    """Of 300 points on the boundary: those drawn on the slanted side 2 x + y = 2, and those that a condition gets."""
    everywhere = dde.icbc.DirichletBC(geometry, lambda x: 0, lambda x, on_boundary: on_boundary)
    data = dde.data.PDE(geometry, lambda x, y: y, everywhere, num_domain=10, num_boundary=300)
    slanted = lambda x: int((np.abs(2 * x[:, 0] + x[:, 1] - 2) < 1e-5).sum())
    return slanted(data.train_x_all), slanted(data.train_x_bc), len(data.train_x_bc)


print("deepxde", dde.__version__)
found = {}
found["Triangle"] = counted(dde.geometry.Triangle(*CORNERS))
found["Polygon"] = counted(dde.geometry.Polygon([*CORNERS, [0.5, 0]]))
dde.config.set_default_float("float64")
found["Triangle, float64"] = counted(dde.geometry.Triangle(*CORNERS))
for name, (drawn, kept, every) in found.items():
    print(f"{name}: {drawn} points on the slanted side, {kept} of them with a condition; {every} with one in all")
drawn, kept, _ = found["Triangle"]
others = [found[name] for name in ("Polygon", "Triangle, float64")]
as_then = drawn > 100 and kept == 0 and all(kept >= drawn > 100 for drawn, kept, _ in others)
sys.exit(0 if as_then else "deepxde behaves differently now")
PYTHON
