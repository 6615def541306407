#!/usr/bin/env bash
# One would guess that torch.func.functional_call puts a module's own parameters back when it returns.
# It does not where one submodule is registered under two names: the tensors that were passed stay in the module as its
# weights. A weight that two submodules share is put back as it should be, and so is all with tie_weights=False.
# It matters to users of kanpde who share a piece of a network (a meta-learner, an embedding) and call it by Jacobians
# or per-sample gradients: afterwards the model gives other values, and the optimiser trains tensors that nobody reads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch import nn
from torch.func import functional_call


class Twice(nn.Module):
    """The same linear map, two times: one module of two names, or two modules with one weight."""

    def __init__(self, shared):
        super().__init__()
        self.a = nn.Linear(2, 2, bias=False)
        self.b = self.a if shared == "module" else nn.Linear(2, 2, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


print("torch", torch.__version__)
back = []
for shared, tie in (("module", True), ("module", False), ("weight", True)):
    net, x = Twice(shared), torch.ones(1, 2)
    weight, before = net.a.weight, net(x)
    functional_call(net, {"a.weight": torch.zeros(2, 2)}, (x,), tie_weights=tie)
    back.append(net.a.weight is weight and net.b.weight is weight and torch.equal(net(x), before))
    print(f"shared {shared}, tie_weights={tie}: the weight is a {type(net.a.weight).__name__}, restored: {back[-1]}")
sys.exit(0 if back == [False, True, True] else "torch behaves differently now")
PYTHON
