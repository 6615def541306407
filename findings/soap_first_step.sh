#!/usr/bin/env bash
# One would guess that every step of an optimiser moves the weights.
# The first step of pytorch-optimizer's SOAP moves none: it makes the preconditioners of the gradient and leaves it at
# that, without weight decay and without a word. The second step is the first that moves anything.
# It matters to users of kanpde who take SOAP from there themselves: a run of one step learns nothing, a run of few
# steps is one short, and a schedule or a warm-up spends its first rate on nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 pytorch_optimizer==4.1.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import torch
from pytorch_optimizer import SOAP

print("pytorch_optimizer", version("pytorch_optimizer"), "torch", version("torch"))
matrix = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
bias = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
optimizer = SOAP([matrix, bias], lr=0.1, weight_decay=0.1)
moves = []
for step in (1, 2):
    before = [p.detach().clone() for p in (matrix, bias)]
    optimizer.zero_grad()
    (matrix.square().sum() + bias.square().sum()).backward()
    optimizer.step()
    moves.append([(p - q).abs().max().item() for p, q in zip((matrix, bias), before, strict=True)])
    print(f"step {step}: largest change of the matrix {moves[-1][0]:.3g}, of the bias {moves[-1][1]:.3g}")
sys.exit(0 if moves[0] == [0, 0] and min(moves[1]) > 0.01 else "SOAP behaves differently now")
PYTHON
