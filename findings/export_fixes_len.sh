#!/usr/bin/env bash
# One would guess that len(x) and x.shape[0] are the same to torch.export. Traced by running, the default of torch
# 2.13, len(x) makes the size that the example had a number: a free number of points is refused with "specialized it
# to be a constant", and with Dim.AUTO the program takes that one size without a word. x.shape[0] stays free; so does
# len(x) where bytecode is traced, strict=True.
# It matters to users of kanpde whose own equations say x.new_zeros(len(x)): kanpde export traces bytecode.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch

print("torch", torch.__version__)


class ByLen(torch.nn.Module):
    def forward(self, x):
        return x.sum(1) + x.new_ones(len(x))


class ByShape(torch.nn.Module):
    def forward(self, x):
        return x.sum(1) + x.new_ones(x.shape[0])


def takes(module, size, strict):
    """The numbers of points that a program takes, of 1, 5 and 9; the example has 5."""
    try:
        program = torch.export.export(module, (torch.rand(5, 2),), dynamic_shapes=({0: size},), strict=strict).module()
    except Exception as error:
        return type(error).__name__
    found = []
    for n in (1, 5, 9):
        try:
            found += [n] if len(program(torch.rand(n, 2))) == n else []
        except Exception:
            pass
    return found


free, any_size = torch.export.Dim("n", min=1), torch.export.Dim.AUTO
seen = {
    "len(x), free": takes(ByLen(), free, False),
    "len(x), Dim.AUTO": takes(ByLen(), any_size, False),
    "len(x), free, strict": takes(ByLen(), free, True),
    "x.shape[0], free": takes(ByShape(), free, False),
}
for name, found in seen.items():
    print(f"{name}: {found}")
same = list(seen.values()) == ["UserError", [5], [1, 5, 9], [1, 5, 9]]
sys.exit(0 if same else "torch behaves differently now")
PYTHON
