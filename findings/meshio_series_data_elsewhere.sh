#!/usr/bin/env bash
# One would guess that meshio.xdmf.TimeSeriesWriter("out/series.xdmf") writes its two files side by side, as
# meshio.write("out/mesh.xdmf", ...) does: the XDMF is a text that names an HDF5 file beside it. The series' HDF5 file goes
# to the folder that the program was started in, under the name that the text expects beside itself. So the series cannot
# be read where it lies, and a second series of that name, in another folder, overwrites the numbers of the first.
# It matters to users of kanpde whose reference is such a series: that its data are missing is said before VTK is asked.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q meshio==5.3.5 h5py==3.16.0 numpy==2.3.4
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import meshio
import numpy as np

corners = np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
cells = [("triangle", np.array([[0, 1, 2]]))]
Path("out").mkdir()
meshio.write("out/mesh.xdmf", meshio.Mesh(corners, cells, point_data={"u": np.arange(3.0)}))
with meshio.xdmf.TimeSeriesWriter("out/series.xdmf") as writer:
    writer.write_points_cells(corners, cells)
    writer.write_data(0.0, point_data={"u": np.arange(3.0)})

names = sorted(str(path) for path in Path(".").rglob("*.h5") if "venv" not in path.parts)
named = "series.h5:" in Path("out/series.xdmf").read_text()
print("meshio", meshio.__version__, names, "the text names series.h5:", named)
sys.exit(0 if names == ["out/mesh.h5", "series.h5"] and named else "meshio behaves differently now")
PYTHON
