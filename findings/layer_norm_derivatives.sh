#!/usr/bin/env bash
# One would guess that torch differentiates its own layers correctly to any order, or raises.
# Through nn.LayerNorm (and nn.BatchNorm1d in training) u' and u'' by torch.autograd.grad are right and every third
# derivative is wrong, in float64 and by a large factor. In forward mode, torch.func.jvp taken twice, u'' is wrong
# already. The same formulas in plain operations are right.
# It matters to users of kanpde: the gradient of u_xx by the weights of a layer before is a third derivative, so with
# such a layer the residual of a second-order PDE is right and training goes down a wrong gradient, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.func import jvp
from torch.nn.functional import batch_norm, layer_norm

F64 = torch.float64
a, weight, w = torch.randn(3, 5, 4, dtype=F64, generator=torch.Generator().manual_seed(0))


def plain(x, axis):
    c = x - x.mean(axis, keepdim=True)
    return c * (c.square().mean(axis, keepdim=True) + 1e-5).rsqrt()


def derivatives(layer):
    """Of u(x) = sum w layer(a + weight x) at 0.3: u', u'', du''/dweight by grad, u'' by nested jvp."""
    x, inner = torch.tensor(0.3, dtype=F64, requires_grad=True), weight.clone().requires_grad_()
    (first,) = torch.autograd.grad((w * layer(a + inner * x)).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first, x, create_graph=True)
    (third,) = torch.autograd.grad(second, inner)
    along = lambda function: lambda x: jvp(function, (x,), (torch.ones_like(x),))[1]
    forward = along(along(lambda x: (w * layer(a + weight * x)).sum()))(x.detach())
    return {"u'": first, "u''": second, "du''/dweight": third, "u'' by jvp": forward}


print("torch", torch.__version__)
right = []
over_batch = lambda x: batch_norm(x, None, None, training=True)
for name, layer, axis in (("LayerNorm", lambda x: layer_norm(x, (4,)), -1), ("BatchNorm1d", over_batch, 0)):
    exact = derivatives(lambda x, axis=axis: plain(x, axis))
    for label, found in derivatives(layer).items():
        error = ((found - exact[label]).norm() / exact[label].norm()).item()
        right.append(error < 1e-9)
        print(f"{name}, {label}: relative difference to plain operations {error:.1e}")
sys.exit(0 if right == 2 * [True, True, False, False] else "torch behaves differently now")
PYTHON
