#!/usr/bin/env bash
# One would guess that pyvista, which has a reader for XDMF, reads a mesh that meshio has written as XDMF: a single grid
# without times is the simplest such file. pyvista asks every XDMF for its times while the reader is made, and raises
# "'NoneType' object is not iterable" where there are none; neither `read` nor `get_reader` can be used for it. VTK's own
# reader, which pyvista wraps, reads the file.
# It matters to users of kanpde whose mesh or reference is such a file: they are read by VTK's reader itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q meshio==5.3.5 h5py==3.16.0 pyvista==0.49.1 vtk==9.7.2 numpy==2.3.4
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import meshio
import numpy as np
import pyvista
from vtkmodules.vtkIOXdmf2 import vtkXdmfReader

corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
meshio.write("mesh.xdmf", meshio.Mesh(corners, [("triangle", np.array([[0, 1, 2]]))], point_data={"u": np.arange(3.0)}))

said = {}
for name in ("read", "get_reader"):
    try:
        getattr(pyvista, name)("mesh.xdmf")
        said[name] = "reads it"
    except TypeError as error:
        said[name] = f"TypeError: {error}"
plain = vtkXdmfReader()
plain.SetFileName("mesh.xdmf")
plain.Update()
mesh = pyvista.wrap(plain.GetOutputDataObject(0))
mesh = mesh.combine() if isinstance(mesh, pyvista.MultiBlock) else mesh
print("pyvista", pyvista.__version__, said)
print("VTK's reader:", mesh.n_points, "points, u", mesh["u"].tolist())
failed = all("NoneType" in line for line in said.values())
sys.exit(0 if failed and mesh["u"].tolist() == [0.0, 1.0, 2.0] else "pyvista behaves differently now")
PYTHON
