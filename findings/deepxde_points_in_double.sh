#!/usr/bin/env bash
# One would guess that DeepXDE draws points in its default float, single precision, as it makes its networks.
# Those of Polygon, Triangle and Ellipse are in double precision, and what is stacked with them is too: with the torch
# backend DeepXDE's own network does not take its own points, "mat1 and mat2 must have the same dtype", and so its
# example in the L-shape, which says that it supports torch, does not run. Those of Rectangle and Disk are as guessed.
# It matters to users of kanpde who bring a network to DeepXDE: points come in either precision.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q deepxde==1.15.0 torch==2.13.0 numpy==2.4.6
HOME="$folder" DDE_BACKEND=pytorch "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import deepxde as dde

L_SHAPE = [[0, 0], [1, 0], [1, -1], [-1, -1], [-1, 1], [0, 1]]


def outcome(geometry):
    """The dtype of the training points, and what a step of DeepXDE's network on them ends with."""
    pde = lambda x, y: -dde.grad.hessian(y, x, i=0, j=0) - dde.grad.hessian(y, x, i=1, j=1) - 1
    bc = dde.icbc.DirichletBC(geometry, lambda x: 0, lambda x, on_boundary: on_boundary)
    data = dde.data.PDE(geometry, pde, bc, num_domain=12, num_boundary=8)
    model = dde.Model(data, dde.nn.FNN([2, 5, 1], "tanh", "Glorot uniform"))
    model.compile("adam", lr=1e-3, verbose=0)
    try:
        model.train(iterations=1, verbose=0)
    except RuntimeError as error:
        return str(data.train_x.dtype), str(error)
    return str(data.train_x.dtype), "trained"


print("deepxde", dde.__version__, "default float", dde.config.default_float())
of = dde.geometry
shapes = {"Rectangle": of.Rectangle([0, 0], [1, 1]), "Disk": of.Disk([0, 0], 1), "Polygon": of.Polygon(L_SHAPE)}
shapes |= {"Triangle": of.Triangle([0, 0], [1, 0], [0, 1]), "Ellipse": of.Ellipse([0, 0], 2, 1)}
found = {name: outcome(shape) for name, shape in shapes.items()}
for name, said in found.items():
    print(f"{name}:", *said)
in_single = lambda name: found[name] == ("float32", "trained")
in_double = lambda name: found[name][0] == "float64" and "same dtype" in found[name][1]
as_then = all(map(in_single, ("Rectangle", "Disk"))) and all(map(in_double, ("Polygon", "Triangle", "Ellipse")))
sys.exit(0 if as_then else "deepxde behaves differently now")
PYTHON
