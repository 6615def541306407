#!/usr/bin/env bash
# One would guess that a time series written by meshio, read by VTK's XDMF reader as ParaView does, is the mesh with the
# values of each time. meshio keeps the mesh once, as a grid of its own that the times refer to, as XDMF allows. VTK gives
# two blocks at every time: the mesh with the values, and that grid of its own, to which it adds an array of the same name
# that is not in the file; what it holds is not of that time (those of the first here, zeros elsewhere). Joined to one
# mesh, as is usual for one array over all blocks, there are twice as many points and half of the values are wrong,
# without a word: a mean of 5 at t = 0.5 where all that the file has there lies between 6 and 9 and has the mean 7.5.
# It matters to users of kanpde whose reference is such a file: grids that have no values in the file are left out.
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

corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
triangles = [("triangle", np.array([[0, 1, 2], [1, 3, 2]]))]
u = np.arange(1.0, 5.0)
with meshio.xdmf.TimeSeriesWriter("series.xdmf") as writer:
    writer.write_points_cells(corners, triangles)
    for time in (0.0, 0.5):
        writer.write_data(time, point_data={"u": u + 10 * time})

reader = pyvista.get_reader("series.xdmf")
reader.set_active_time_value(0.5)
blocks = reader.read()
joined = blocks.combine()
print("vtk", pyvista.vtk_version_info, "meshio", meshio.__version__, "times", reader.time_values)
for name in blocks.keys():
    print(f"t = 0.5, block {name}: u {blocks[name]['u'].tolist()}")
print(f"joined: {joined.n_points} points, mean of u {joined['u'].mean()}")
series, template = (blocks[name]["u"] for name in ("TimeSeries_meshio", "mesh"))
same = (series == u + 5).all() and (template != u + 5).all() and joined.n_points == 2 * len(corners)
sys.exit(0 if same else "VTK or meshio behaves differently now")
PYTHON
