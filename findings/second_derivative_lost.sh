#!/usr/bin/env bash
# One would guess that differentiating twice through a function whose backward cannot be differentiated is an error:
# torch says so of once_differentiable.
# torch.autograd.grad raises only where nothing else of the expression depends on x. Beside any other factor or term it
# returns what those give and leaves the rest out: (x x^3)'' at x = 2 is 12 where it should be 48. Only .backward()
# meets the error. A slope kept in forward as a plain tensor (or computed by numpy) is not refused even there: 24.
# It matters to users of kanpde because a PDE is made of second derivatives: with a custom activation or a wrapped
# library another equation is solved, and its loss falls.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.autograd.function import once_differentiable


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.slope = 3 * x**2
        return x**3

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return ctx.slope * grad


class Kept(Once):
    backward = staticmethod(lambda ctx, grad: ctx.slope * grad)


def second(cube):
    """(x cube(x))'' at 2 by grad, and whether backward refuses to go there."""
    x = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(x * cube(x), x, create_graph=True)
    (found,) = torch.autograd.grad(first, x, retain_graph=True)
    try:
        first.backward()
    except RuntimeError:
        return found.item(), True
    return found.item(), False


print("torch", torch.__version__)
found = second(lambda x: x**3), second(Once.apply), second(Kept.apply)
for name, (value, refused) in zip(("plain operations", "once_differentiable", "a slope kept"), found, strict=True):
    print(f"{name}: (x x^3)'' = {value:g}, backward {'raises' if refused else 'says nothing'}")
sys.exit(0 if found == ((48, False), (12, True), (24, False)) else "torch behaves differently now")
PYTHON
