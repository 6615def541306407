#!/usr/bin/env bash
# One would guess that torch.broadcast_shapes, which compares a few integers, costs microseconds.
# Its first call in a process imports torch.fx.experimental.symbolic_shapes and with it sympy, some 490 modules more:
# about half as long again as `import torch` took. numpy.broadcast_shapes gives the same answer and imports nothing.
# It matters to users of kanpde who check the shapes of what a function returns at the start of a short command, where
# this was a third of the time of a dry run; nothing in the documentation of the function says so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.3.4
"$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import numpy as np
import torch

before = set(sys.modules)
assert "sympy" not in before
by_numpy = np.broadcast_shapes((3, 1), (4,))
assert set(sys.modules) == before
start = time.perf_counter()
by_torch = torch.broadcast_shapes((3, 1), (4,))
seconds = time.perf_counter() - start
new = set(sys.modules) - before
print("torch", torch.__version__)
print(tuple(by_torch), by_numpy, f"{len(new)} modules more, sympy among them: {'sympy' in new}, {seconds:.1f} s")
start = time.perf_counter()
torch.broadcast_shapes((5, 1), (4,))
print(f"the second call: {1e6 * (time.perf_counter() - start):.0f} us")
sys.exit(0 if "sympy" in new and len(new) > 100 else "torch behaves differently now")
PYTHON
